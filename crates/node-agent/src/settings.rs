//! What an operator sets. Where it comes from (flags, environment, file) is the command line's affair.

use std::{net::SocketAddr, path::PathBuf};

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
    /// Where models come from, and how they are watched.
    pub models: ModelSettings,
    /// Where the status page is.
    pub page: PageSettings,
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

/// Within which time every file of a model is read again, unless set: 7 days in milliseconds.
pub const SCRUB_MS: u64 = 7 * 86_400_000;

/// What the operator decides of models.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelSettings {
    /// Folders from which files may be taken: those that a snapshot's `file:` source names inside one of them, and those that
    /// stand there under their SHA-256 in hex.
    pub folders: Vec<PathBuf>,
    /// Within which time every file is read again in the background, in milliseconds.
    pub scrub_ms: u64,
}

impl Default for ModelSettings {
    fn default() -> Self {
        Self { folders: Vec::new(), scrub_ms: SCRUB_MS }
    }
}

/// Where the status page and the metrics are, unless set: this machine alone can reach them there.
pub const PAGE_LISTEN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 7411);

/// Where the status page is, and who may see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageSettings {
    /// Where it listens; `None` for nowhere.
    pub listen: Option<SocketAddr>,
    /// A file with the token that whoever looks must have. An address that other machines reach needs one.
    pub token_file: Option<PathBuf>,
}

impl Default for PageSettings {
    fn default() -> Self {
        Self { listen: Some(PAGE_LISTEN), token_file: None }
    }
}

impl PageSettings {
    /// No page.
    #[must_use]
    pub const fn off() -> Self {
        Self { listen: None, token_file: None }
    }
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
    /// For the kind `process`: more that it may read (never write), for example a virtual environment.
    pub readable: Vec<PathBuf>,
    /// For the kind `container`: the socket of the container engine, Docker's or Podman's; `/var/run/docker.sock` unless set.
    pub socket: Option<PathBuf>,
    /// For the kind `container`: a folder with archives of images, each an OCI image layout named
    /// `<hex of the manifest's digest>.tar`; what is not there is pulled.
    pub images: Option<PathBuf>,
    /// For the kind `process`: the user it runs as where the Agent runs as root; `nobody` unless set.
    pub user: Option<String>,
}
