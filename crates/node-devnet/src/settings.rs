//! What a devnet is started with, and the template of its snapshots.

use std::{net::SocketAddr, path::PathBuf};

use node_types::{
    Digest, Network, Timestamp,
    config::{Limits, Model, NodeConfig, Participation, Runtime, Timings, Updates},
};
use serde::{Deserialize, Serialize};

use crate::DevnetError;

/// The shortest time after which a snapshot is renewed: 1 second. Below it the devnet would do nothing else.
pub const REFRESH_MS_MIN: u64 = 1_000;

/// What a devnet is started with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its folder, for its keys and `devnet.db`; made if it is not there.
    pub folder: PathBuf,
    /// The network that it plays.
    pub network: Network,
    /// Where it listens: loopback alone; port 0 for any that is free.
    pub listen: SocketAddr,
    /// The chain ID that nodes sign for, at least 1.
    pub chain_id: u64,
    /// What its snapshots say. The sources of a model that has none, and the hashes of pieces of a file that has none,
    /// are filled in where the files stand in `models`.
    pub config: ConfigTemplate,
    /// A folder with files of models, each named by its SHA-256 in hex; these are served.
    pub models: Option<PathBuf>,
    /// An OCI image layout, unpacked; its blobs are served to container engines that pull by digest.
    pub images: Option<PathBuf>,
    /// How long a job is worth something where its sender does not say, in milliseconds.
    pub job_ttl_ms: u64,
    /// After how long an offer without an answer comes again, in milliseconds.
    pub offer_retry_ms: u64,
    /// After how long a job goes to another node, because the first did not accept it or is gone, in milliseconds.
    pub reassign_after_ms: u64,
}

impl Settings {
    pub(crate) fn check(&self) -> Result<(), DevnetError> {
        if !self.listen.ip().is_loopback() {
            return Err(DevnetError::NotLoopback { address: self.listen });
        }
        let positive = [
            ("chain_id", self.chain_id),
            ("job_ttl_ms", self.job_ttl_ms),
            ("offer_retry_ms", self.offer_retry_ms),
            ("reassign_after_ms", self.reassign_after_ms),
        ];
        for (setting, value) in positive {
            if value == 0 {
                return Err(DevnetError::Setting { setting, problem: "is 0, it must be at least 1" });
            }
        }
        if self.config.refresh_after_ms < REFRESH_MS_MIN {
            let problem = "is too short, it must be at least 1000";
            return Err(DevnetError::Setting { setting: "config.refresh_after_ms", problem });
        }
        Ok(())
    }
}

/// A snapshot without what the network adds to each: network, version, times, keyset, the one before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigTemplate {
    /// The models.
    pub models: Vec<Model>,
    /// What runs them.
    pub runtime: Runtime,
    /// What a node takes at most.
    pub limits: Limits,
    /// Where a node takes part.
    #[serde(default)]
    pub participation: Participation,
    /// How often and how long.
    pub timings: Timings,
    /// Which releases are approved.
    #[serde(default)]
    pub updates: Updates,
    /// How long after it was issued a node should ask for the next one, in milliseconds; the devnet then issues it.
    pub refresh_after_ms: u64,
    /// How long a snapshot is valid, in milliseconds; at least `refresh_after_ms`.
    pub valid_for_ms: u64,
}

/// What the network adds to a template.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamp {
    pub(crate) network: Network,
    pub(crate) version: u64,
    pub(crate) keyset_version: u64,
    pub(crate) previous: Option<Digest>,
    pub(crate) now: Timestamp,
}

impl ConfigTemplate {
    pub(crate) fn stamped(&self, stamp: Stamp) -> NodeConfig {
        NodeConfig {
            network: stamp.network,
            version: stamp.version,
            issued_at: stamp.now,
            refresh_by: stamp.now.plus_ms(self.refresh_after_ms),
            valid_until: stamp.now.plus_ms(self.valid_for_ms),
            keyset_version: stamp.keyset_version,
            prev_digest: stamp.previous,
            models: self.models.clone(),
            runtime: self.runtime.clone(),
            limits: self.limits.clone(),
            participation: self.participation.clone(),
            timings: self.timings.clone(),
            updates: self.updates.clone(),
        }
    }
}
