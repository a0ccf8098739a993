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
    /// Who gets logs and metrics beside the network.
    pub exports: ExportSettings,
    /// How long running jobs may go on after the Agent was asked to stop, in milliseconds.
    pub shutdown_grace_ms: u64,
    /// How the command line is called for this node, for what the operator is told to type.
    pub command: String,
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

/// Where the status page and the metrics are, unless set: this machine alone can reach them there. A devnet of
/// this machine has 7411.
pub const PAGE_LISTEN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 7413);

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

/// Who gets logs and metrics beside the network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExportSettings {
    /// An OpenTelemetry collector.
    pub otlp: Option<OtlpSettings>,
    /// Files.
    pub log_file: Option<LogFileSettings>,
}

/// How often metrics go to a collector, unless set: every minute, in milliseconds, as OpenTelemetry's own exporters do.
pub const OTLP_METRICS_MS: u64 = 60_000;

/// An OpenTelemetry collector that is reached by OTLP over HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtlpSettings {
    /// Its base URL, for example `http://127.0.0.1:4318`; `http` on loopback alone.
    pub endpoint: String,
    /// A file with headers, one `Name: value` a line, that nobody else may read.
    pub headers_file: Option<PathBuf>,
    /// Whether log records are held until it has them; else each is offered once.
    pub required: bool,
    /// Whether it gets log records.
    pub logs: bool,
    /// Whether it gets metrics.
    pub metrics: bool,
    /// How often it gets metrics, in milliseconds.
    pub metrics_ms: u64,
}

impl OtlpSettings {
    /// All there is for the collector at `endpoint`, and nothing is held for it.
    #[must_use]
    pub const fn at(endpoint: String) -> Self {
        Self {
            endpoint,
            headers_file: None,
            required: false,
            logs: true,
            metrics: true,
            metrics_ms: OTLP_METRICS_MS,
        }
    }
}

/// How long a file of log records gets, unless set: 16 MiB.
pub const LOG_FILE_BYTES_MAX: u64 = 16 << 20;
/// How many files of log records are kept, unless set.
pub const LOG_FILE_FILES_MAX: u32 = 8;

/// Files with log records, one JSON object a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFileSettings {
    /// Their folder; made where it is missing.
    pub folder: PathBuf,
    /// How long a file gets before the next one is begun, in bytes.
    pub bytes_max: u64,
    /// How many files are kept, the one that is written included.
    pub files_max: u32,
    /// Whether log records are held until they are in a file.
    pub required: bool,
}

impl LogFileSettings {
    /// As many files of such a length as there are unless set, and records are held until they are in one.
    #[must_use]
    pub const fn in_folder(folder: PathBuf) -> Self {
        Self { folder, bytes_max: LOG_FILE_BYTES_MAX, files_max: LOG_FILE_FILES_MAX, required: true }
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
    /// For the kind `process`: the folder in which each network's runtime has a work folder, emptied at every start; `work`
    /// in [`Self::folder`] unless set.
    pub work: Option<PathBuf>,
    /// For the kind `process`: more that it may read (never write), for example a virtual environment.
    pub readable: Vec<PathBuf>,
    /// For the kind `container`: the socket of the container engine; `/var/run/docker.sock` unless set.
    pub socket: Option<PathBuf>,
    /// For the kind `container`: a folder with archives of images, each an OCI image layout named
    /// `<hex of the manifest's digest>.tar`; what is not there is pulled.
    pub images: Option<PathBuf>,
    /// For the kind `process`: the user it runs as where the Agent runs as root; `nobody` unless set.
    pub user: Option<String>,
}
