//! The documents that the network signs: keysets and snapshots, good ones and, on command, bad ones.

use node_types::{
    Digest, Network, Timestamp,
    config::{InvalidDocument, NodeConfig},
    envelope::{CONFIG_PAYLOAD_TYPE, Envelope, KEYSET_PAYLOAD_TYPE},
    keyset::Keyset,
    protocol::SnapshotRef,
};

use crate::{
    faults::BadSnapshot,
    keys::Signer,
    settings::{ConfigTemplate, Stamp},
};

/// A snapshot as it is served.
#[derive(Clone, Debug)]
pub(crate) struct Published {
    pub(crate) version: u64,
    pub(crate) digest: Digest,
    pub(crate) envelope: Vec<u8>,
    pub(crate) config: NodeConfig,
}

impl Published {
    pub(crate) const fn reference(&self) -> SnapshotRef {
        SnapshotRef { version: self.version, digest: self.digest }
    }

    /// Reads one that was stored.
    pub(crate) fn read(envelope: Vec<u8>) -> Option<Self> {
        let payload = Envelope::parse(&envelope).ok()?.payload;
        let config = NodeConfig::parse(&payload).ok()?;
        Some(Self { version: config.version, digest: Digest::of(&payload), envelope, config })
    }
}

/// A keyset of one key.
pub(crate) fn keyset(
    network: Network,
    version: u64,
    chain_id: u64,
    now: Timestamp,
    signer: &Signer,
) -> Vec<u8> {
    let document =
        Keyset { network, version, chain_id, issued_at: now, keys: vec![signer.public()], threshold: 1 };
    // A struct of numbers and texts always can be written.
    serde_json::to_vec(&document).unwrap_or_default()
}

/// The envelope of the next keyset, signed by the key before and by its own.
pub(crate) fn rotation(document: Vec<u8>, before: &Signer, after: &Signer) -> Vec<u8> {
    let mut envelope = Envelope::unsigned(KEYSET_PAYLOAD_TYPE, document);
    before.sign(&mut envelope);
    after.sign(&mut envelope);
    envelope.to_bytes()
}

/// A snapshot of the template, signed.
pub(crate) fn snapshot(
    template: &ConfigTemplate,
    stamp: Stamp,
    signer: &Signer,
) -> Result<Published, InvalidDocument> {
    let config = template.stamped(stamp);
    config.validate()?;
    Ok(signed(config, |envelope| signer.sign(envelope)))
}

/// A snapshot that a node must refuse. `None` for a lower version where there was none.
pub(crate) fn bad(
    kind: BadSnapshot,
    newest: &Published,
    before: Option<Published>,
    template: &ConfigTemplate,
    signer: &Signer,
    forger: &Signer,
    now: Timestamp,
) -> Option<Published> {
    let stamp = Stamp {
        network: newest.config.network,
        version: newest.version + 1,
        keyset_version: newest.config.keyset_version,
        previous: Some(newest.digest),
        now,
    };
    let mut config = template.stamped(stamp);
    match kind {
        BadSnapshot::WrongKey => {
            let name = signer.public().id;
            return Some(signed(config, |envelope| forger.sign_as(name, envelope)));
        }
        BadSnapshot::LowerVersion => return before,
        BadSnapshot::OtherNetwork => config.network = other(config.network),
        BadSnapshot::Equivocation => {
            config = newest.config.clone();
            config.valid_until = config.valid_until.plus_ms(1);
        }
        BadSnapshot::Expired => {
            let span = template.valid_for_ms;
            let issued = now.ms().saturating_sub(span.saturating_add(1_000));
            config = template.stamped(Stamp { now: Timestamp::from_ms(issued), ..stamp });
            config.valid_until = config.valid_until.min(Timestamp::from_ms(now.ms().saturating_sub(1)));
        }
    }
    Some(signed(config, |envelope| signer.sign(envelope)))
}

/// The network that this one is not.
pub(crate) const fn other(network: Network) -> Network {
    match network {
        Network::Testnet => Network::Mainnet,
        Network::Mainnet => Network::Testnet,
    }
}

fn signed(config: NodeConfig, sign: impl FnOnce(&mut Envelope)) -> Published {
    // A configuration has texts, numbers and lists: it always can be written.
    let payload = serde_json::to_vec(&config).unwrap_or_default();
    let digest = Digest::of(&payload);
    let mut envelope = Envelope::unsigned(CONFIG_PAYLOAD_TYPE, payload);
    sign(&mut envelope);
    Published { version: config.version, digest, envelope: envelope.to_bytes(), config }
}
