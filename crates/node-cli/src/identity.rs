//! Whose volume it is, without opening its keys: the header of `keys/node.key` says it in the clear (`docs/format.md`).
//!
//! What a header says is proved only where the key is opened; this is for showing.

use std::path::Path;

use node_store::{
    disk::{Disk as _, RealDisk},
    keys::{
        KeyError, Protection, Source,
        sealed::{NODE_KEY, SEALED_BYTES_MAX},
    },
};
use node_types::{Address, Network, NodeId};
use serde::{Deserialize, Serialize};

/// Who a node is, and how its key is kept.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Identity {
    /// Its network.
    pub(crate) network: Network,
    /// Its ID there.
    pub(crate) node: NodeIdText,
    /// The address of its key.
    pub(crate) address: String,
    /// What protects its key on disk.
    pub(crate) protection: Protection,
}

/// A node ID as text.
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct NodeIdText(String);

impl std::fmt::Display for NodeIdText {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.0)
    }
}

#[derive(Deserialize)]
struct Header {
    network: Network,
    address: Address,
    kek: Kek,
}

#[derive(Deserialize)]
struct Kek {
    source: Source,
}

/// Reads the header of the node's key in `keys_folder`; nothing where there is no key.
///
/// # Errors
/// [`KeyError::Read`], [`KeyError::Damaged`].
pub(crate) fn read(keys_folder: &Path) -> Result<Option<Identity>, KeyError> {
    let path = keys_folder.join(NODE_KEY);
    let bytes = match RealDisk.read(&path, SEALED_BYTES_MAX) {
        Ok(None) => return Ok(None),
        Ok(Some(bytes)) => bytes,
        Err(source) => return Err(KeyError::Read { path, source }),
    };
    let header: Header = serde_json::from_slice(&bytes)
        .map_err(|error| KeyError::Damaged { path, what: error.to_string() })?;
    let Header { network, address, kek } = header;
    let node = NodeIdText(NodeId::derive(network, &address).to_string());
    Ok(Some(Identity { network, node, address: address.to_string(), protection: kek.source.protection() }))
}
