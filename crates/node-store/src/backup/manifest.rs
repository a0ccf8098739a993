//! The manifest: whose backup it is, and what is in it.

use std::path::Path;

use node_types::{Digest, Network, NodeId, Timestamp, VolumeId};
use serde::{Deserialize, Serialize};

use super::{BackupError, tar::MEMBER_BYTES_MAX};
use crate::{
    format::{Database, Stamp},
    keys::sealed::{Kind, SEALED_BYTES_MAX},
};

/// The longest manifest in bytes.
pub const MANIFEST_BYTES_MAX: u64 = 16 << 10;
/// Its name in the archive.
pub(super) const MANIFEST: &str = "manifest.json";
/// Bytes of the number of a transfer.
pub(super) const TRANSFER_BYTES: usize = 16;
const FORMAT: &str = "resultity-backup";
const VERSION: u64 = 1;

/// What an archive was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// To be restored if the volume is lost; the node goes on.
    Backup,
    /// To go on elsewhere; the node has stopped.
    Move,
}

/// A file in an archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Its name.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// Its hash.
    pub sha256: Digest,
}

/// The first member of an archive, one JSON object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    format: String,
    version: u64,
    /// What it was made for.
    pub purpose: Purpose,
    /// The node's network.
    pub network: Network,
    /// The node.
    pub node: NodeId,
    /// Its volume.
    pub volume: VolumeId,
    /// The release that made it.
    pub release: String,
    /// When its databases were copied.
    pub created_at: Timestamp,
    /// A number of its own: the volume that was moved away names it.
    pub transfer: String,
    /// What follows, in this order.
    pub members: Vec<Member>,
}

/// The fields that are read before all others, so that a later format is told from damage.
#[derive(Deserialize)]
struct Probe {
    format: String,
    version: u64,
}

/// The name of a key in an archive.
pub(super) fn key_member(kind: Kind) -> String {
    format!("keys/{}", kind.file_name())
}

impl Manifest {
    pub(super) fn new(
        purpose: Purpose,
        stamp: &Stamp,
        release: &str,
        created_at: Timestamp,
        transfer: String,
        members: Vec<Member>,
    ) -> Self {
        Self {
            format: FORMAT.to_owned(),
            version: VERSION,
            purpose,
            network: stamp.network,
            node: stamp.node,
            volume: stamp.volume,
            release: release.to_owned(),
            created_at,
            transfer,
            members,
        }
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        // Its fields are names, numbers and hex: they always can be written.
        let mut bytes = serde_json::to_vec_pretty(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    /// Reads a manifest and checks that what it names is what an archive may hold: three databases, and both keys or
    /// none.
    pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Self, BackupError> {
        let refused = |why: String| BackupError::NotAnArchive { path: path.to_owned(), why };
        let probe: Probe =
            serde_json::from_slice(bytes).map_err(|error| refused(format!("its manifest: {error}")))?;
        if probe.format != FORMAT {
            return Err(refused(format!("its manifest's format is not {FORMAT}")));
        }
        if probe.version > VERSION {
            let path = path.to_owned();
            return Err(BackupError::TooNew { path, found: probe.version, newest: VERSION });
        }
        let manifest: Self =
            serde_json::from_slice(bytes).map_err(|error| refused(format!("its manifest: {error}")))?;
        let databases = Database::ALL.map(|database| database.file().to_owned());
        let keys = Kind::ALL.map(key_member);
        let names: Vec<&String> = manifest.members.iter().map(|member| &member.path).collect();
        let without: Vec<&String> = databases.iter().collect();
        let with: Vec<&String> = databases.iter().chain(&keys).collect();
        if names != without && names != with {
            return Err(refused(format!("its manifest names other members than a backup has: {names:?}")));
        }
        for member in &manifest.members {
            let max = if member.path.starts_with("keys/") { SEALED_BYTES_MAX } else { MEMBER_BYTES_MAX };
            if member.bytes > max {
                let (path, what) = (path.to_owned(), member.path.clone());
                return Err(BackupError::TooLarge { path, what, bytes: member.bytes, max });
            }
        }
        // It becomes a part of file names.
        let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if manifest.transfer.len() != 2 * TRANSFER_BYTES || !manifest.transfer.bytes().all(is_hex) {
            return Err(refused("its transfer is not 32 hexadecimal digits".to_owned()));
        }
        if manifest.to_bytes() != bytes {
            return Err(refused("its manifest is not in the form that it was written in".to_owned()));
        }
        Ok(manifest)
    }

    /// Whether the keys are in it.
    #[must_use]
    pub fn has_keys(&self) -> bool {
        self.members.iter().any(|member| member.path.starts_with("keys/"))
    }

    /// Whose databases are in it.
    #[must_use]
    pub const fn stamp(&self) -> Stamp {
        Stamp { network: self.network, node: self.node, volume: self.volume }
    }

    /// Bytes of all members, unpacked.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.members.iter().map(|member| member.bytes).fold(0, u64::saturating_add)
    }
}
