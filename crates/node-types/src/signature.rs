//! Signatures that any Ethereum tool makes and checks: 65 bytes, secp256k1, over Keccak-256.
//!
//! Every key names its scheme, so that others can stand beside the first. What is signed is
//! never a bare hash: documents are signed over the prefix of EIP-191 ([`eip191_hash`]), messages
//! over EIP-712 ([`crate::message`]). The two prefixes differ, so one never passes for the other.

use std::{fmt, str::FromStr};

use k256::ecdsa::{RecoveryId, Signature as EcdsaSignature, VerifyingKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha3::{Digest as _, Keccak256};

use crate::{
    Address,
    id::{NotAnId, hex_decode, hex_encode},
};

/// How a key signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Scheme {
    /// secp256k1 ECDSA over the personal message of EIP-191, with the signer's address recovered
    /// from the signature.
    #[serde(rename = "secp256k1-eip191")]
    Secp256k1Eip191,
}

impl Scheme {
    /// All schemes.
    pub const ALL: [Self; 1] = [Self::Secp256k1Eip191];

    /// `secp256k1-eip191`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Secp256k1Eip191 => "secp256k1-eip191",
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// A key by scheme and address, written `secp256k1-eip191:0x...` with the checksum of EIP-55.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId {
    /// How the key signs.
    pub scheme: Scheme,
    /// The address of its public key.
    pub address: Address,
}

impl fmt::Display for KeyId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.scheme, self.address)
    }
}

impl FromStr for KeyId {
    type Err = NotAnId;

    /// Reads the one way it is written: an address without its checksum is refused here, so that
    /// one key has one name.
    fn from_str(text: &str) -> Result<Self, NotAnId> {
        text.split_once(':')
            .and_then(|(name, address)| {
                let scheme = Scheme::ALL.into_iter().find(|scheme| scheme.name() == name)?;
                Some(Self { scheme, address: address.parse().ok()? })
            })
            .filter(|id| id.to_string() == text)
            .ok_or_else(|| NotAnId {
                found: text.to_owned(),
                wanted: "a key ID: write <scheme>:<EIP-55 address>",
            })
    }
}

impl Serialize for KeyId {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KeyId {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        String::deserialize(input)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Why bytes are no signature, or not one of anybody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadSignature {
    /// Not 65 bytes.
    #[error("a signature has 65 bytes (r, s, v), not {found}")]
    Length {
        /// Bytes given.
        found: usize,
    },
    /// Not `0x` and 130 hex digits.
    #[error("a signature is written as 0x and 130 hex digits")]
    NotHex,
    /// `v` names no recovery.
    #[error("the last byte of a signature is 27 or 28 (or 0 or 1), not {found}")]
    RecoveryByte {
        /// The byte given.
        found: u8,
    },
    /// `r` or `s` is zero or not below the order of the curve.
    #[error("r or s of the signature is out of range")]
    OutOfRange,
    /// `s` is in the upper half: whoever sees a signature could make the other one of it.
    #[error("s of the signature is in the upper half (EIP-2): sign with a tool that normalises it")]
    HighS,
    /// No public key made this signature over these bytes.
    #[error("the signature belongs to no key")]
    NoSigner,
    /// A message is signed by another key than the node that it names.
    #[error("the message names {claimed}, its signature is by {address}, which is {signer}")]
    OtherNode {
        /// The node that the message names.
        claimed: crate::NodeId,
        /// The node that the signing key is on the domain's network.
        signer: crate::NodeId,
        /// The signing key.
        address: Address,
    },
}

/// A recoverable secp256k1 signature, `r || s || v` with `v` 27 or 28 and `s` in the lower half
/// of the order (EIP-2), so that one signing has one form. Written `0x` and 130 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Signature([u8; 65]);

impl Signature {
    /// Takes 65 bytes; a last byte of 0 or 1 is read as 27 or 28.
    ///
    /// # Errors
    /// [`BadSignature`] for another length, an unknown `v`, `r` or `s` out of range, and high `s`.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, BadSignature> {
        let mut held: [u8; 65] = bytes.try_into().map_err(|_| BadSignature::Length { found: bytes.len() })?;
        held[64] = match held[64] {
            0 | 27 => 27,
            1 | 28 => 28,
            found => return Err(BadSignature::RecoveryByte { found }),
        };
        let ecdsa = EcdsaSignature::from_slice(&held[..64]).map_err(|_| BadSignature::OutOfRange)?;
        if ecdsa.normalize_s() != ecdsa {
            return Err(BadSignature::HighS);
        }
        Ok(Self(held))
    }

    /// The 65 bytes, the last one 27 or 28.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 65] {
        &self.0
    }

    /// The address whose key signed `bytes` as a personal message of EIP-191.
    ///
    /// # Errors
    /// [`BadSignature::NoSigner`] where there is none.
    pub fn recover_eip191(&self, bytes: &[u8]) -> Result<Address, BadSignature> {
        self.recover_hash(&eip191_hash(bytes))
    }

    /// The address whose key signed this hash. Not public: a hash alone does not say what it is of.
    pub(crate) fn recover_hash(&self, hash: &[u8; 32]) -> Result<Address, BadSignature> {
        let ecdsa = EcdsaSignature::from_slice(&self.0[..64]).map_err(|_| BadSignature::OutOfRange)?;
        let recovery = RecoveryId::new(self.0[64] == 28, false);
        let key =
            VerifyingKey::recover_from_prehash(hash, &ecdsa, recovery).map_err(|_| BadSignature::NoSigner)?;
        let point = key.to_sec1_point(false);
        let uncompressed: [u8; 64] = point
            .as_bytes()
            .get(1..)
            .and_then(|coordinates| coordinates.try_into().ok())
            .ok_or(BadSignature::NoSigner)?;
        Ok(Address::of_public_key(&uncompressed))
    }
}

/// Keccak-256 of `bytes` behind the prefix of a personal message (EIP-191, version `0x45`):
/// `"\x19Ethereum Signed Message:\n"`, the length in decimal, the bytes.
pub(crate) fn eip191_hash(bytes: &[u8]) -> [u8; 32] {
    let mut hash = Keccak256::new();
    hash.update(b"\x19Ethereum Signed Message:\n");
    hash.update(bytes.len().to_string().as_bytes());
    hash.update(bytes);
    hash.finalize().into()
}

impl fmt::Display for Signature {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "0x{}", hex_encode(&self.0))
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

impl FromStr for Signature {
    type Err = BadSignature;

    fn from_str(text: &str) -> Result<Self, BadSignature> {
        let bytes: [u8; 65] = text.strip_prefix("0x").and_then(hex_decode).ok_or(BadSignature::NotHex)?;
        Self::from_slice(&bytes)
    }
}

impl Serialize for Signature {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Signature {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        String::deserialize(input)?.parse().map_err(serde::de::Error::custom)
    }
}
