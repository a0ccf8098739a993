//! The node key and the volume key: sealed files, where the key-encryption key comes from,
//! Web3 Secret Storage, and the signer.
//!
//! The node key is the node's identity on the network and the key of its account; the volume key wraps
//! the keys of single jobs. Both lie in `keys/` of the volume, a folder that is ours alone:
//!
//! ```text
//! node.key     sealed, 0600: see [`sealed`]
//! volume.key   sealed, 0600
//! local.kek    0600, only where nothing better is given: see [`source`]
//! ```
//!
//! A key is never overwritten by a new one, a missing source never replaced by a weaker one, and what
//! was unsealed must give the address that was recorded. Everything read has a limit: 16 KiB for a sealed
//! file, 4 KiB for a secret, 64 KiB for a Web3 Secret Storage file, 256 MiB for argon2id and 512 MiB for
//! scrypt.
//!
//! Left out on purpose: more than one node key, hierarchical wallets and mnemonics, hardware wallets, and
//! any way to read a key's bytes, to print it or to sign a bare hash. Memory is zeroed on drop, as far as
//! the ciphers let it; it is not locked against swapping, which takes a privilege that a node should
//! not have.

use std::ffi::OsStr;

pub mod error;
pub mod keystore;
pub mod sealed;
pub mod secret;
pub mod signer;
pub mod source;
pub mod terminal;

pub use error::KeyError;
pub use keystore::{KeystoreError, export_keystore, import_keystore};
pub use sealed::{
    Kind, Opened, create_node_key, create_volume_key, missing, open_node_key, open_volume_key,
    prepare_folder, recorded_node, recorded_volume, reseal,
};
pub use secret::{Kek, NodeKey, VolumeKey};
pub use signer::{SignError, Signer};
pub use source::{Available, KekSources, Prompt, Protection, Source, choose};
pub use terminal::TerminalPrompt;

/// Whether a name in the keys folder is one that this room gives. A file that is being written, `.<name>.tmp`, has no name yet.
#[must_use]
pub fn is_own_name(name: &OsStr) -> bool {
    [sealed::NODE_KEY, sealed::VOLUME_KEY, source::LOCAL_KEK].iter().any(|own| name == *own)
}
