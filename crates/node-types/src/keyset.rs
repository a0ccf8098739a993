//! The keys that sign for a network, and how they change.
//!
//! An embedder pins the first keyset: [`VerifiedKeyset::trust`] takes its word, and is the only
//! place that takes anybody's. From there on keyset N is followed by N+1 alone, in an envelope
//! signed by the thresholds of both: the old keys say who comes next, the new ones that they
//! exist and agree.
//!
//! Limits: [`KEYS_MAX`] keys, [`KEYSET_BYTES_MAX`] bytes.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{
    Address, Digest, Network, Timestamp,
    config::{DocumentError, InvalidDocument, at_least_one, holds},
    envelope::{Envelope, KEYSET_PAYLOAD_TYPE, SIGNATURES_MAX},
    json::parse_strict,
    signature::{KeyId, Scheme},
    verify::{Refused, require_threshold, require_type},
};

/// The most keys of a keyset: the signatures of two keysets fit into one envelope.
pub const KEYS_MAX: usize = SIGNATURES_MAX / 2;
/// The largest keyset document in bytes.
pub const KEYSET_BYTES_MAX: usize = 64 << 10;

/// A key that signs for the network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// `<scheme>:<address>`, as envelopes name it.
    pub id: KeyId,
    /// How it signs; the same as in `id`.
    pub scheme: Scheme,
    /// Its address; the same as in `id`.
    pub address: Address,
}

impl Key {
    /// A key of the first scheme.
    #[must_use]
    pub const fn new(address: Address) -> Self {
        let scheme = Scheme::Secp256k1Eip191;
        Self { id: KeyId { scheme, address }, scheme, address }
    }
}

/// The document that lists the keys. Read and checked for sense, not trusted by that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keyset {
    /// The network that the keys sign for.
    pub network: Network,
    /// Counted from 1, without gaps.
    pub version: u64,
    /// The network's chain ID (EIP-155), which nodes sign into every message; at least 1, and the
    /// same in every version.
    pub chain_id: u64,
    /// When it was made.
    pub issued_at: Timestamp,
    /// The keys, each once.
    pub keys: Vec<Key>,
    /// How many distinct keys must sign a document: 1 to the number of keys.
    pub threshold: u16,
}

impl Keyset {
    /// Reads a document strictly and checks it for sense.
    ///
    /// # Errors
    /// [`DocumentError`] for anything but strict JSON of this shape within its limits.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        let keyset: Self = parse_strict(bytes, KEYSET_BYTES_MAX)?;
        keyset.validate()?;
        Ok(keyset)
    }

    /// Checks ranges and consistency.
    ///
    /// # Errors
    /// [`InvalidDocument`] naming the first field that is wrong.
    pub fn validate(&self) -> Result<(), InvalidDocument> {
        at_least_one("version", self.version)?;
        at_least_one("chain_id", self.chain_id)?;
        let keys = self.keys.len();
        holds(keys <= KEYS_MAX, "keys", &format!("has {keys} entries, at most {KEYS_MAX} are read"))?;
        let mut addresses = BTreeSet::new();
        for (index, key) in self.keys.iter().enumerate() {
            let stated = KeyId { scheme: key.scheme, address: key.address };
            holds(key.id == stated, &format!("keys[{index}].id"), "is not <scheme>:<address> of this key")?;
            holds(addresses.insert(key.address), &format!("keys[{index}].address"), "stands twice")?;
        }
        holds(
            (1..=keys).contains(&usize::from(self.threshold)),
            "threshold",
            &format!("is {}, it must be from 1 to the number of keys, {keys}", self.threshold),
        )
    }
}

/// A keyset that is trusted: pinned, or reached from a pinned one by rotations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedKeyset {
    keyset: Keyset,
    digest: Digest,
    payload: Vec<u8>,
}

impl VerifiedKeyset {
    /// Trusts the keyset document `payload` (the JSON itself, no envelope) because the caller does.
    ///
    /// For the keyset that an embedder pins. Never for bytes from the network: those go
    /// through [`VerifiedKeyset::rotate`].
    ///
    /// # Errors
    /// [`Refused::Document`] for what is no keyset, [`Refused::OtherNetwork`] for another network's.
    pub fn trust(payload: &[u8], network: Network) -> Result<Self, Refused> {
        let keyset = Keyset::parse(payload)?;
        if keyset.network != network {
            return Err(Refused::OtherNetwork { found: keyset.network, wanted: network });
        }
        Ok(Self { keyset, digest: Digest::of(payload), payload: payload.to_vec() })
    }

    /// The keyset that follows this one.
    ///
    /// # Errors
    /// [`Refused`] unless the envelope holds version + 1 of the same network and chain, signed by
    /// the threshold of this keyset and by the threshold of the new one.
    pub fn rotate(&self, envelope_bytes: &[u8]) -> Result<Self, Refused> {
        let envelope = Envelope::parse(envelope_bytes)?;
        require_type(&envelope, KEYSET_PAYLOAD_TYPE)?;
        require_threshold(&envelope, &self.keyset)?;
        let next = Keyset::parse(&envelope.payload)?;
        if next.network != self.keyset.network {
            return Err(Refused::OtherNetwork { found: next.network, wanted: self.keyset.network });
        }
        if next.chain_id != self.keyset.chain_id {
            return Err(Refused::OtherChain { found: next.chain_id, wanted: self.keyset.chain_id });
        }
        if self.keyset.version.checked_add(1) != Some(next.version) {
            return Err(Refused::NotTheNextKeyset { held: self.keyset.version, offered: next.version });
        }
        require_threshold(&envelope, &next)?;
        Ok(Self { keyset: next, digest: Digest::of(&envelope.payload), payload: envelope.payload })
    }

    /// Every keyset from the pinned one to the last of `rotations`, oldest first: what a store
    /// that kept the envelopes reads them with after a restart.
    ///
    /// # Errors
    /// [`Refused`] of the first step that does not follow from the one before.
    pub fn replay<'a>(
        pinned: Self,
        rotations: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Vec<Self>, Refused> {
        let mut held = vec![pinned.clone()];
        let mut current = pinned;
        for envelope in rotations {
            current = current.rotate(envelope)?;
            held.push(current.clone());
        }
        Ok(held)
    }

    /// The document.
    #[must_use]
    pub const fn document(&self) -> &Keyset {
        &self.keyset
    }

    /// SHA-256 of the document's exact bytes.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// The document's exact bytes.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }
}
