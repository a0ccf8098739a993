//! The network's keys: one file for each keyset, 64 hex digits, readable by its owner alone.
//!
//! They sign documents and nothing else. A devnet's keys protect nothing of worth; a real network's belong elsewhere.

use std::{fmt, path::Path};

use k256::ecdsa::SigningKey;
use node_types::{
    Address,
    envelope::{DocumentHash, Envelope},
    id::{hex_decode, hex_encode},
    keyset::Key,
    signature::{KeyId, Signature},
};

use crate::{DevnetError, files};

/// A key that signs documents.
pub(crate) struct Signer {
    key: SigningKey,
    address: Address,
}

impl fmt::Debug for Signer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Signer({})", self.address)
    }
}

impl Signer {
    /// A new key, not stored anywhere.
    pub(crate) fn random() -> Result<(Self, [u8; 32]), getrandom::Error> {
        loop {
            let mut secret = [0; 32];
            getrandom::fill(&mut secret)?;
            // One in 2^128 draws is not below the order of the curve.
            if let Some(signer) = Self::from_secret(&secret) {
                return Ok((signer, secret));
            }
        }
    }

    fn from_secret(secret: &[u8; 32]) -> Option<Self> {
        let key = SigningKey::from_slice(secret).ok()?;
        let point = key.verifying_key().to_sec1_point(false);
        let coordinates: &[u8; 64] = point.as_bytes().get(1..)?.try_into().ok()?;
        let address = Address::of_public_key(coordinates);
        Some(Self { key, address })
    }

    /// The key in a file, or nothing where there is no such file.
    pub(crate) fn load(path: &Path, version: u64) -> Result<Option<Self>, DevnetError> {
        let failed = |source| DevnetError::File { path: path.to_owned(), source };
        let Some(text) = files::read(path).map_err(failed)? else { return Ok(None) };
        let signer = hex_decode(text.trim()).and_then(|secret| Self::from_secret(&secret));
        signer.map(Some).ok_or_else(|| DevnetError::WrongKey { path: path.to_owned(), version })
    }

    /// Makes a key and its file. One that a crash left there without its keyset is used.
    pub(crate) fn load_or_make(path: &Path, version: u64) -> Result<Self, DevnetError> {
        if let Some(found) = Self::load(path, version)? {
            return Ok(found);
        }
        let (signer, secret) = Self::random()?;
        files::create(path, &hex_encode(&secret))
            .map_err(|source| DevnetError::File { path: path.to_owned(), source })?;
        Ok(signer)
    }

    /// Its address.
    pub(crate) const fn address(&self) -> Address {
        self.address
    }

    /// As keysets list it.
    pub(crate) const fn public(&self) -> Key {
        Key::new(self.address)
    }

    /// Adds its signature to an envelope under its own name.
    pub(crate) fn sign(&self, envelope: &mut Envelope) {
        self.sign_as(self.public().id, envelope);
    }

    /// Adds its signature under any name: a forger does so.
    pub(crate) fn sign_as(&self, id: KeyId, envelope: &mut Envelope) {
        if let Some(signature) = self.signature(envelope.signing_hash()) {
            envelope.add(id, signature);
        }
    }

    fn signature(&self, hash: DocumentHash) -> Option<Signature> {
        let (signature, recovery) = self.key.sign_prehash_recoverable(hash.as_bytes());
        let mut bytes = signature.to_bytes().to_vec();
        bytes.push(recovery.to_byte());
        // It is of the right length and normalised: this always is a signature.
        Signature::from_slice(&bytes).ok()
    }
}
