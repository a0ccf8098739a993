//! What an operator sets. Where it comes from (flags, environment, file) is the command line's affair.

use std::path::PathBuf;

use node_types::{Digest, Network};

/// How long running jobs may go on after the Agent was asked to stop, unless set: 20 seconds in milliseconds.
pub const SHUTDOWN_GRACE_MS: u64 = 20_000;

/// How an Agent is to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The folder that holds the volumes.
    pub home: PathBuf,
    /// The network to work for.
    pub network: Network,
    /// Its base URL, for example `https://node.example.org`; `http` on loopback alone.
    pub network_url: String,
    /// SHA-256 of the first keyset; without it the first one that comes is trusted.
    pub keyset_digest: Option<Digest>,
    /// Where the key-encryption key may come from, beside what the surroundings give.
    pub keys: KeySettings,
    /// What runs the models.
    pub runtime: RuntimeSettings,
    /// How long running jobs may go on after the Agent was asked to stop, in milliseconds.
    pub shutdown_grace_ms: u64,
}

/// Where the key-encryption key may come from. Never the environment, never an argument.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeySettings {
    /// A container's secret, else at its usual place.
    pub secret_file: Option<PathBuf>,
    /// A file with a passphrase.
    pub passphrase_file: Option<PathBuf>,
}

/// What the operator decides of the runtime; the rest is the snapshot's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeSettings {
    /// For the kind `external`: the server's base URL without `/v1`.
    pub url: Option<String>,
    /// For the kind `external`: a file with its API key, if it wants one.
    pub api_key_file: Option<PathBuf>,
    /// For the kind `process`: the folder in which the snapshot's `command` stands.
    pub folder: Option<PathBuf>,
    /// For the kind `process`: the folder in which the files of models stand, each under its SHA-256 in hex; `models`
    /// in [`RuntimeSettings::folder`] unless set.
    pub models: Option<PathBuf>,
    /// For the kind `process`: more that it may read (never write), for example a virtual environment.
    pub readable: Vec<PathBuf>,
    /// For the kind `process`: the user it runs as where the Agent runs as root; `nobody` unless set.
    pub user: Option<String>,
}
