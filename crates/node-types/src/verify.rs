//! The gate between bytes and a snapshot in force.
//!
//! [`Verified`] has no other maker than [`verify_config`], for what the network offers, and
//! [`reverify_stored`], for what passed it once. Both are pure: the clock and the floor are
//! arguments, and nothing is stored before they say so.
//!
//! What is deliberately not here: the transaction that applies a snapshot, and the persisted
//! floor. They are the store's.

use crate::{
    Digest, Network, Timestamp,
    config::{DocumentError, NodeConfig},
    envelope::{CONFIG_PAYLOAD_TYPE, Envelope, EnvelopeError},
    keyset::{Keyset, VerifiedKeyset},
    signature::{BadSignature, Scheme, Signature},
};

/// How far ahead of the node's clock a snapshot may be issued: 10 minutes, for clocks that
/// disagree.
pub const ISSUED_AHEAD_MS_MAX: u64 = 10 * 60 * 1000;

/// Why a document is refused. Nothing changes by a refusal: what is in force stays.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Not an envelope.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// An envelope of something else.
    #[error("the envelope holds {found:?}, {wanted} was asked for")]
    OtherType {
        /// What it holds.
        found: String,
        /// What was asked for.
        wanted: &'static str,
    },
    /// A signature under a key of the keyset that this key did not make: the envelope is damaged
    /// or forged, whatever the other signatures say.
    #[error("the signature under {keyid} is not that key's: {reason}")]
    WrongSignature {
        /// The key that is said to have signed.
        keyid: String,
        /// What was found instead.
        reason: String,
    },
    /// Too few distinct keys signed.
    #[error(
        "{signed} keys of keyset {keyset_version} signed, it takes {threshold}: \
         fetch the network's newer keyset if there is one"
    )]
    BelowThreshold {
        /// The keyset asked.
        keyset_version: u64,
        /// Distinct keys of it that signed.
        signed: u16,
        /// Distinct keys of it that must.
        threshold: u16,
    },
    /// Signed, but not a document to work with.
    #[error("the document is refused: {0}")]
    Document(#[from] DocumentError),
    /// Made for another network.
    #[error("the document is for {found}, this node runs on {wanted}")]
    OtherNetwork {
        /// The document's network.
        found: Network,
        /// The node's network.
        wanted: Network,
    },
    /// A keyset of another chain.
    #[error("the keyset is for chain {found}, this network's chain is {wanted}")]
    OtherChain {
        /// The document's chain ID.
        found: u64,
        /// The chain ID held.
        wanted: u64,
    },
    /// A keyset that does not follow the one held.
    #[error("keyset {offered} does not follow keyset {held}: only the next one does")]
    NotTheNextKeyset {
        /// The version held.
        held: u64,
        /// The version offered.
        offered: u64,
    },
    /// A snapshot that names another keyset than the one that signed it.
    #[error("the snapshot names keyset {found}, this node checks it with {held}: fetch keyset {found}")]
    OtherKeyset {
        /// The version that the snapshot names.
        found: u64,
        /// The version held; for a stored snapshot, the newest.
        held: u64,
    },
    /// A version below the floor.
    #[error("snapshot {offered} is older than snapshot {held}, which this node has seen")]
    Older {
        /// The highest version seen.
        held: u64,
        /// The version offered.
        offered: u64,
    },
    /// The same version with other bytes: the network said two different things.
    #[error("snapshot {version} is {held} here, the one offered under the same version is {offered}")]
    Equivocation {
        /// The version of both.
        version: u64,
        /// The digest held.
        held: Digest,
        /// The digest offered.
        offered: Digest,
    },
    /// `valid_until` has passed.
    #[error("the snapshot was valid until {valid_until}, it is {now}: check the clock, or ask for a new one")]
    Expired {
        /// The end of its validity.
        valid_until: Timestamp,
        /// The node's time.
        now: Timestamp,
    },
    /// Issued further ahead than [`ISSUED_AHEAD_MS_MAX`].
    #[error("the snapshot is issued at {issued_at}, it is {now}: check the clock")]
    NotYetValid {
        /// When it says it was made.
        issued_at: Timestamp,
        /// The node's time.
        now: Timestamp,
    },
    /// A stored snapshot whose bytes are not those that were stored.
    #[error("the stored snapshot is {found}, {recorded} was recorded: it has been changed or damaged")]
    OtherDigest {
        /// The digest of what is there.
        found: Digest,
        /// The digest recorded.
        recorded: Digest,
    },
}

/// A document that passed the gate, with the envelope it came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified<T> {
    document: T,
    digest: Digest,
    envelope: Vec<u8>,
}

impl<T> Verified<T> {
    /// The document.
    #[must_use]
    pub const fn document(&self) -> &T {
        &self.document
    }

    /// SHA-256 of the payload's exact bytes: `config_digest`.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// The envelope, byte for byte as it was given.
    #[must_use]
    pub fn envelope(&self) -> &[u8] {
        &self.envelope
    }
}

/// The highest snapshot that this node has ever applied. It only rises, also when the node goes
/// back to the last good one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Floor {
    /// Its version; 0 before the first.
    pub version: u64,
    /// Its digest. Without it another document of the same version cannot be told apart, so it is
    /// `None` only before the first.
    pub digest: Option<Digest>,
}

impl Floor {
    /// Before the first snapshot.
    pub const NONE: Self = Self { version: 0, digest: None };

    /// The floor that this snapshot sets.
    #[must_use]
    pub const fn at(snapshot: &Verified<NodeConfig>) -> Self {
        Self { version: snapshot.document.version, digest: Some(snapshot.digest) }
    }
}

/// Judges a snapshot that the network offers.
///
/// The same bytes as those of the floor pass again, so a repeated offer does no harm. One that
/// has expired never passes, also if its bytes are the floor's: compare digests first to know
/// that nothing is new.
///
/// # Errors
/// [`Refused`] for what is not an envelope of a snapshot signed by the threshold of `keyset`, for
/// `network`, under that keyset's version, not below `floor`, and valid at `now`.
pub fn verify_config(
    envelope_bytes: &[u8],
    keyset: &VerifiedKeyset,
    network: Network,
    floor: Floor,
    now: Timestamp,
) -> Result<Verified<NodeConfig>, Refused> {
    let envelope = Envelope::parse(envelope_bytes)?;
    require_type(&envelope, CONFIG_PAYLOAD_TYPE)?;
    require_threshold(&envelope, keyset.document())?;
    let config = NodeConfig::parse(&envelope.payload)?;
    require_network(&config, network)?;
    require_keyset(&config, keyset)?;
    let digest = Digest::of(&envelope.payload);
    require_floor(&config, digest, floor)?;
    if config.valid_until <= now {
        return Err(Refused::Expired { valid_until: config.valid_until, now });
    }
    if config.issued_at.since_ms(now) > ISSUED_AHEAD_MS_MAX {
        return Err(Refused::NotYetValid { issued_at: config.issued_at, now });
    }
    Ok(Verified { document: config, digest, envelope: envelope_bytes.to_vec() })
}

/// Judges a snapshot that this node applied before: after a restart, before it is used again.
///
/// Neither the floor nor the validity is asked: one already applied stays in force until
/// [`Term::at`] says otherwise. `keysets` are those that the node has held, in any order, since
/// the snapshot may be older than the last rotation.
///
/// # Errors
/// [`Refused`] for other bytes than those recorded, for a signature that no longer holds, for
/// another network, and for a keyset that is not among `keysets`.
pub fn reverify_stored(
    envelope_bytes: &[u8],
    digest: Digest,
    keysets: &[VerifiedKeyset],
    network: Network,
) -> Result<Verified<NodeConfig>, Refused> {
    let envelope = Envelope::parse(envelope_bytes)?;
    require_type(&envelope, CONFIG_PAYLOAD_TYPE)?;
    let found = Digest::of(&envelope.payload);
    if found != digest {
        return Err(Refused::OtherDigest { found, recorded: digest });
    }
    let config = NodeConfig::parse(&envelope.payload)?;
    require_network(&config, network)?;
    let held = keysets.iter().map(|it| it.document().version).max().unwrap_or_default();
    let keyset = keysets
        .iter()
        .find(|it| it.document().version == config.keyset_version)
        .ok_or(Refused::OtherKeyset { found: config.keyset_version, held })?;
    require_keyset(&config, keyset)?;
    require_threshold(&envelope, keyset.document())?;
    Ok(Verified { document: config, digest, envelope: envelope_bytes.to_vec() })
}

fn require_network(config: &NodeConfig, wanted: Network) -> Result<(), Refused> {
    if config.network == wanted {
        return Ok(());
    }
    Err(Refused::OtherNetwork { found: config.network, wanted })
}

/// The keyset is this network's too: one pinned for the other network signs nothing here.
fn require_keyset(config: &NodeConfig, keyset: &VerifiedKeyset) -> Result<(), Refused> {
    let keyset = keyset.document();
    if keyset.network != config.network {
        return Err(Refused::OtherNetwork { found: keyset.network, wanted: config.network });
    }
    if keyset.version != config.keyset_version {
        return Err(Refused::OtherKeyset { found: config.keyset_version, held: keyset.version });
    }
    Ok(())
}

fn require_floor(config: &NodeConfig, offered: Digest, floor: Floor) -> Result<(), Refused> {
    let version = config.version;
    if version < floor.version {
        return Err(Refused::Older { held: floor.version, offered: version });
    }
    match floor.digest {
        Some(held) if version == floor.version && held != offered => {
            Err(Refused::Equivocation { version, held, offered })
        }
        Some(_) | None => Ok(()),
    }
}

pub(crate) fn require_type(envelope: &Envelope, wanted: &'static str) -> Result<(), Refused> {
    if envelope.payload_type == wanted {
        return Ok(());
    }
    Err(Refused::OtherType { found: envelope.payload_type.clone(), wanted })
}

/// Counts the distinct keys of `keyset` that signed; a key that signs twice counts once.
///
/// Signatures under keys of no concern here are passed over: a rotation carries those of two
/// keysets. One under a key of this keyset that does not hold is never passed over.
pub(crate) fn require_threshold(envelope: &Envelope, keyset: &Keyset) -> Result<(), Refused> {
    let hash = envelope.signing_hash();
    let mut signed = std::collections::BTreeSet::new();
    for signature in &envelope.signatures {
        let Some(key) = keyset.keys.iter().find(|key| key.id.to_string() == signature.keyid) else {
            continue;
        };
        let wrong = |reason: String| Refused::WrongSignature { keyid: signature.keyid.clone(), reason };
        let signer = match key.scheme {
            Scheme::Secp256k1Eip191 => Signature::from_slice(&signature.sig)
                .and_then(|it| it.recover_hash(hash.as_bytes()))
                .map_err(|error: BadSignature| wrong(error.to_string()))?,
        };
        if signer != key.address {
            return Err(wrong(format!("it was made by {signer}, or over other bytes")));
        }
        signed.insert(key.id);
    }
    // At most KEYS_MAX keys can have signed.
    let signed = u16::try_from(signed.len()).unwrap_or(u16::MAX);
    if signed < keyset.threshold {
        return Err(Refused::BelowThreshold {
            keyset_version: keyset.version,
            signed,
            threshold: keyset.threshold,
        });
    }
    Ok(())
}

/// How a snapshot that was applied stands in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    /// Nothing to do.
    Fresh,
    /// `refresh_by` has come: ask for the next one.
    RefreshDue,
    /// `valid_until` has passed; it stays in force, marked stale.
    Stale {
        /// The end of the offline grace: from then on it is out of force.
        until: Timestamp,
    },
    /// The offline grace has ended: take no more jobs under it.
    OutOfForce,
}

/// Until when an applied snapshot is what.
///
/// The grace counts from `valid_until` and not from the moment the connection was lost: a node
/// cannot lengthen it by connecting for a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    /// When the next one should be asked for.
    pub refresh_by: Timestamp,
    /// When it becomes stale.
    pub valid_until: Timestamp,
    /// When a stale one goes out of force.
    pub grace_until: Timestamp,
}

impl Term {
    /// The term of this snapshot.
    #[must_use]
    pub const fn of(config: &NodeConfig) -> Self {
        let valid_until = config.valid_until;
        let grace_until = valid_until.plus_ms(config.timings.offline_grace_ms);
        Self { refresh_by: config.refresh_by, valid_until, grace_until }
    }

    /// Where the snapshot stands at `now`.
    #[must_use]
    pub const fn at(&self, now: Timestamp) -> Validity {
        if now.ms() >= self.grace_until.ms() {
            Validity::OutOfForce
        } else if now.ms() >= self.valid_until.ms() {
            Validity::Stale { until: self.grace_until }
        } else if now.ms() >= self.refresh_by.ms() {
            Validity::RefreshDue
        } else {
            Validity::Fresh
        }
    }
}
