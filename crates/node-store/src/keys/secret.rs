//! The secrets themselves. They are zeroed on drop, cannot be printed and cannot be serialised.
//!
//! A node key cannot be written out:
//! ```compile_fail,E0277
//! fn written<T: serde::Serialize>() {}
//! written::<node_store::keys::NodeKey>();
//! ```
//! nor shown:
//! ```compile_fail,E0277
//! fn shown<T: std::fmt::Display>() {}
//! shown::<node_store::keys::NodeKey>();
//! ```
//! nor copied:
//! ```compile_fail,E0277
//! fn copied<T: Clone>() {}
//! copied::<node_store::keys::NodeKey>();
//! ```
//! The same three hold for the volume key and for what a key-encryption key is made from:
//! ```compile_fail,E0277
//! fn written<T: serde::Serialize>() {}
//! written::<node_store::keys::VolumeKey>();
//! ```
//! ```compile_fail,E0277
//! fn shown<T: std::fmt::Display>() {}
//! shown::<node_store::keys::Kek>();
//! ```

use std::fmt;

use k256::ecdsa::SigningKey;
use node_types::Address;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::{error::KeyError, source::Source};

/// Draws before [`NodeKey::generate`] gives up: one in 2^128 fails, a second in a row never happens.
const DRAWS_MAX: usize = 8;

/// Fills `bytes` from the operating system.
pub(crate) fn fill_random(bytes: &mut [u8]) -> Result<(), KeyError> {
    getrandom::fill(bytes).map_err(KeyError::Random)
}

/// 32 random bytes.
fn random_32() -> Result<Zeroizing<[u8; 32]>, KeyError> {
    let mut bytes = Zeroizing::new([0; 32]);
    fill_random(bytes.as_mut_slice())?;
    Ok(bytes)
}

/// The node's secp256k1 key: its identity on the network.
///
/// It leaves this crate in two ways only: sealed, and as a Web3 Secret Storage file under a passphrase.
#[derive(ZeroizeOnDrop)]
pub struct NodeKey {
    signing: SigningKey,
    #[zeroize(skip)]
    address: Address,
}

impl NodeKey {
    /// Draws a new key from the operating system's random numbers.
    ///
    /// # Errors
    /// [`KeyError::Random`] if there are none.
    pub fn generate() -> Result<Self, KeyError> {
        for _ in 0..DRAWS_MAX {
            match Self::from_bytes(&random_32()?) {
                Err(KeyError::NotAKey) => {}
                drawn => return drawn,
            }
        }
        Err(KeyError::NotAKey)
    }

    /// Takes the 32 bytes of a key, big-endian.
    ///
    /// # Errors
    /// [`KeyError::NotAKey`] if they are zero or not below the order of the curve.
    pub fn from_bytes(bytes: &Zeroizing<[u8; 32]>) -> Result<Self, KeyError> {
        let signing = SigningKey::from_slice(bytes.as_slice()).map_err(|_| KeyError::NotAKey)?;
        let point = signing.verifying_key().to_sec1_point(false);
        let uncompressed: &[u8; 64] = point
            .as_bytes()
            .get(1..)
            .and_then(|coordinates| coordinates.try_into().ok())
            .ok_or(KeyError::NotAKey)?;
        let address = Address::of_public_key(uncompressed);
        Ok(Self { signing, address })
    }

    /// The address of the key.
    #[must_use]
    pub const fn address(&self) -> Address {
        self.address
    }

    /// The 32 bytes, for sealing and exporting.
    pub(crate) fn secret_bytes(&self) -> Zeroizing<[u8; 32]> {
        let field = Zeroizing::new(self.signing.to_bytes());
        let mut bytes = Zeroizing::new([0; 32]);
        bytes.copy_from_slice(field.as_slice());
        bytes
    }

    pub(crate) const fn signing(&self) -> &SigningKey {
        &self.signing
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "NodeKey(of {})", self.address)
    }
}

/// The key that wraps the keys of single jobs. Drawn for one volume, independent of the node key, so
/// that neither tells anything about the other.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct VolumeKey([u8; 32]);

impl VolumeKey {
    /// Draws a new key from the operating system's random numbers.
    ///
    /// # Errors
    /// [`KeyError::Random`] if there are none.
    pub fn generate() -> Result<Self, KeyError> {
        random_32().map(|bytes| Self::from_bytes(&bytes))
    }

    /// Takes the 32 bytes of a key.
    #[must_use]
    pub fn from_bytes(bytes: &Zeroizing<[u8; 32]>) -> Self {
        Self(**bytes)
    }

    /// The 32 bytes, for the rooms that encrypt under them.
    pub(crate) const fn secret_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for VolumeKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("VolumeKey")
    }
}

/// What a key-encryption key is made from: the bytes of a secret or a passphrase, and where they came
/// from.
#[derive(ZeroizeOnDrop)]
pub struct Kek {
    #[zeroize(skip)]
    pub(crate) source: Source,
    pub(crate) secret: Zeroizing<Vec<u8>>,
}

impl Kek {
    /// Where it came from.
    #[must_use]
    pub const fn source(&self) -> Source {
        self.source
    }
}

impl fmt::Debug for Kek {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Kek(from the {})", self.source)
    }
}

/// The 32 bytes that seal one file; derived, used and dropped.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(crate) struct KeyEncryptionKey(pub(crate) [u8; 32]);

impl fmt::Debug for KeyEncryptionKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("KeyEncryptionKey")
    }
}
