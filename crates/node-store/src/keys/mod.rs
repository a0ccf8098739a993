//! The node key and the volume key: sealed files, where the key-encryption key comes from,
//! Web3 Secret Storage, and the signer.
