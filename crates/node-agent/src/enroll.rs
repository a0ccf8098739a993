//! Enrolment: the first keyset is pinned, those that follow it are followed, the node makes itself known.

use node_store::snapshot::SnapshotError;
use node_types::{
    Digest, Network as Which,
    keyset::VerifiedKeyset,
    log::{Kind, Level},
    protocol::{self, Register},
    verify::Refused,
};

use crate::{
    author::AuthorError,
    network::{Network, NetworkError},
    node::Node,
    time,
};

/// Why a node could not enrol.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// The network.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// Signing.
    #[error(transparent)]
    Author(#[from] AuthorError),
    /// The keysets.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The first keyset is not the one that the operator set.
    #[error(
        "the network's first keyset is {found}, keyset_digest is {wanted}: this is another network, or a forged one"
    )]
    OtherKeyset {
        /// Its digest.
        found: Digest,
        /// The one set.
        wanted: Digest,
    },
    /// The network computes another node ID.
    #[error("the network calls this node {found}, it is {own}: it is another network than {network}")]
    OtherNode {
        /// The network's name for it.
        found: node_types::NodeId,
        /// Its own.
        own: node_types::NodeId,
        /// Its network.
        network: Which,
    },
}

impl From<Refused> for EnrolError {
    fn from(refused: Refused) -> Self {
        SnapshotError::from(refused).into()
    }
}

/// Fetches the keysets: pins the first where none is pinned, and follows the rotations.
///
/// # Errors
/// [`EnrolError`].
pub async fn follow_keysets<N: Network>(node: &Node, network: &N) -> Result<(), EnrolError> {
    let keysets = network.keysets().await?;
    let snapshots = node.store.snapshots();
    let first = VerifiedKeyset::trust(keysets.pinned.as_bytes(), node.settings.network)?;
    let first_version = first.document().version;
    if snapshots.keyset().is_none() {
        let found = first.digest();
        match node.settings.keyset_digest {
            Some(wanted) if wanted != found => return Err(EnrolError::OtherKeyset { found, wanted }),
            Some(_) => {}
            None => node.journal.note(
                Level::Warn,
                Kind::Configuration,
                format!("trusting the network's first keyset {found} as it came: set keyset_digest to be sure of it"),
            ),
        }
        snapshots.pin(first)?;
    }
    let now = time::now(&node.store).map_err(AuthorError::from)?;
    let held = snapshots.keyset().map_or(0, |keyset| keyset.document().version);
    for (version, envelope) in (first_version + 1..).zip(keysets.rotations) {
        // What the network says of their order only spares asking; what does not follow is refused.
        if version > held {
            node.store.rotate_keyset(envelope.as_bytes(), now)?;
            node.journal.note(Level::Info, Kind::Configuration, format!("keyset {version} is in force"));
        }
    }
    Ok(())
}

/// Makes the node known.
///
/// # Errors
/// [`EnrolError`].
pub async fn register<N: Network>(node: &Node, network: &N) -> Result<(), EnrolError> {
    let register = Register {
        protocol: protocol::VERSION,
        network: node.settings.network,
        address: node.store.signer().address(),
        agent: crate::VERSION.to_owned(),
    };
    let signed = node.author.sign(&register).await?;
    let answer = network.post::<Register>(&signed).await?;
    node.heard_time(answer.now_ms).await?;
    let (found, own) = (answer.node, node.store.node());
    if found != own {
        return Err(EnrolError::OtherNode { found, own, network: node.settings.network });
    }
    node.journal.note(Level::Info, Kind::Network, format!("registered as {own}"));
    Ok(())
}
