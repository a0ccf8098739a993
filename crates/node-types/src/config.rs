//! The configuration snapshot, `node_config`: what the network wants a node to run, and how.
//!
//! A document here is read and checked for sense, not yet trusted: only [`crate::verify`] makes a
//! [`crate::verify::Verified`] of it. Unknown fields are refused at every level: a snapshot that
//! carries balances, credits, rewards or token state is no snapshot, so none reaches the disk.
//!
//! Times are milliseconds since 1970. Limits of the document itself stand as constants below.

use std::{collections::BTreeSet, fmt};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{
    Digest, Network, Timestamp,
    id::{hex_decode, hex_encode},
    inventory::{ArtifactId, ArtifactKind},
    job::{MODEL_NAME_BYTES_MAX, Mode, ModelRef, REQUEST_BYTES_MAX},
    json::{JsonError, parse_strict},
};

/// Files are hashed in pieces of this many bytes with BLAKE3: 64 MiB.
pub const PIECE_BYTES: u64 = 64 << 20;
/// The most models of a snapshot.
pub const MODELS_MAX: usize = 1000;
/// The most files of a model.
pub const FILES_MAX: usize = 1000;
/// The most sources of a model.
pub const SOURCES_MAX: usize = 64;
/// The most subclouds, approved releases or runtime arguments.
pub const ENTRIES_MAX: usize = 1000;
/// The longest path, source, command or image in bytes.
pub const TEXT_BYTES_MAX: usize = 2048;
/// The longest runtime argument in bytes.
pub const ARGUMENT_BYTES_MAX: usize = 8192;
/// The shortest interval between two rounds of anything, in milliseconds: below it a node would spin.
pub const INTERVAL_MS_MIN: u64 = 10;
/// How long a model that is not listed any more is kept where the snapshot does not say, in milliseconds: 7 days.
pub const UNLISTED_MODEL_TTL_MS: u64 = 7 * 86_400_000;
/// The longest duration of anything, in milliseconds: ten years.
pub const DURATION_MS_MAX: u64 = 10 * 366 * 86_400_000;
/// The most jobs that may run at once.
pub const CONCURRENCY_MAX: u16 = 4096;

/// Why a `node_config` makes no sense, by field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {problem}")]
pub struct InvalidDocument {
    /// The field, as in `models[0].files[2].path`.
    pub field: String,
    /// What is wrong with it, so that `<field> <problem>` is a sentence.
    pub problem: String,
}

/// Why bytes are not a document to work with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// Not strict JSON of its shape.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// It contradicts itself or its limits.
    #[error(transparent)]
    Invalid(#[from] InvalidDocument),
}

/// A configuration snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// The network that it is for.
    pub network: Network,
    /// Counted by the network from 1, only upward.
    pub version: u64,
    /// When it was made.
    pub issued_at: Timestamp,
    /// When a node should ask for the next one.
    pub refresh_by: Timestamp,
    /// From this moment it is stale.
    pub valid_until: Timestamp,
    /// The version of the keyset that signs it.
    pub keyset_version: u64,
    /// The digest of the snapshot before it, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prev_digest: Option<Digest>,
    /// The models that a node may run; none at all is a valid wish.
    pub models: Vec<Model>,
    /// What runs them.
    pub runtime: Runtime,
    /// What a node takes at most.
    pub limits: Limits,
    /// Where the node takes part.
    pub participation: Participation,
    /// How often and how long.
    pub timings: Timings,
    /// Which releases are approved.
    pub updates: Updates,
}

/// A model that the snapshot lists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// For example `gemma-3-270m`; at most [`MODEL_NAME_BYTES_MAX`] bytes.
    pub name: String,
    /// For example `1.0.0`; at most [`MODEL_NAME_BYTES_MAX`] bytes.
    pub version: String,
    /// What it can be asked for, at least one.
    pub tasks: Vec<Mode>,
    /// The engine that loads it, for example `llama.cpp`.
    pub engine: String,
    /// The memory that it needs once loaded; 0 where it is not known.
    pub memory_bytes: u64,
    /// Its files, at least one.
    pub files: Vec<ModelFile>,
    /// Addresses (`https://`, `http://` or `file:///`) under which the files stand; none where the operator
    /// brings them. What arrives is judged by its hash, so a source need not be trusted; which of them a node
    /// may read is its own affair.
    pub sources: Vec<String>,
}

impl Model {
    /// The model by name and version, as jobs name it.
    #[must_use]
    pub fn reference(&self) -> ModelRef {
        ModelRef { name: self.name.clone(), version: self.version.clone() }
    }

    /// The length of all files in bytes; held at `u64::MAX`.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().fold(0, |sum, file| sum.saturating_add(file.bytes))
    }
}

/// A file of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelFile {
    /// Relative, with `/` between its parts; never leaves the model's folder.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// Its identity.
    pub sha256: Digest,
    /// BLAKE3 of each piece of [`PIECE_BYTES`], the last one shorter; all of them or none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pieces_blake3: Vec<PieceHash>,
}

/// BLAKE3 of one piece of a file, written as 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PieceHash([u8; 32]);

impl PieceHash {
    /// Takes 32 bytes that are already a BLAKE3 value.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for PieceHash {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&hex_encode(&self.0))
    }
}

impl fmt::Debug for PieceHash {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

impl Serialize for PieceHash {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PieceHash {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let text = String::deserialize(input)?;
        Some(text.as_str())
            .filter(|hex| !hex.bytes().any(|byte| byte.is_ascii_uppercase()))
            .and_then(hex_decode)
            .map(Self)
            .ok_or_else(|| serde::de::Error::custom("a piece's hash is written as 64 lower-case hex digits"))
    }
}

/// What runs the models.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Runtime {
    /// A server that the operator runs. Its URL is the operator's setting and never the
    /// snapshot's: the network does not choose which host of a private network a node talks to.
    External {
        /// The engine, for example `ollama`.
        engine: String,
    },
    /// A program that the Agent starts and watches.
    Process {
        /// The engine, for example `llama.cpp`.
        engine: String,
        /// The program, a relative path in the Agent's folder of runtimes.
        command: String,
        /// The digest of the program's file.
        digest: Digest,
        /// Its arguments, in order.
        #[serde(default)]
        args: Vec<String>,
        /// The folder that it needs beside it, for example a virtual environment.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        environment: Option<Environment>,
    },
    /// A container that the Agent starts by digest.
    Container {
        /// The engine, for example `vllm`.
        engine: String,
        /// The image without tag and digest, for example `ghcr.io/ggml-org/llama.cpp`.
        image: String,
        /// The digest of the image's manifest.
        digest: Digest,
        /// The digest of the image's configuration, as the container engine reports it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        config_digest: Option<Digest>,
        /// The platform, for example `linux/amd64`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        platform: Option<String>,
        /// Whether it gets the machine's graphics cards.
        #[serde(default, skip_serializing_if = "is_false")]
        gpus: bool,
        /// Its arguments, in order.
        #[serde(default)]
        args: Vec<String>,
    },
}

/// A folder that a runtime's program needs beside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Environment {
    /// The folder, a relative path in the Agent's folder of runtimes.
    pub path: String,
    /// The digest of its tree: of every path in it and of what stands there.
    pub digest: Digest,
}

impl Runtime {
    /// The engine's name.
    #[must_use]
    pub fn engine(&self) -> &str {
        match self {
            Self::External { engine } | Self::Process { engine, .. } | Self::Container { engine, .. } => {
                engine
            }
        }
    }

    /// The digest that it is started by; none for a server that the operator runs.
    #[must_use]
    pub const fn digest(&self) -> Option<Digest> {
        match self {
            Self::External { .. } => None,
            Self::Process { digest, .. } | Self::Container { digest, .. } => Some(*digest),
        }
    }

    /// The arguments that it is started with.
    #[must_use]
    pub fn args(&self) -> &[String] {
        match self {
            Self::External { .. } => &[],
            Self::Process { args, .. } | Self::Container { args, .. } => args,
        }
    }
}

/// What a node takes at most. Every limit is at least 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Jobs held at once.
    pub queue_jobs_max: u64,
    /// Bytes of all jobs held at once.
    pub queue_bytes_max: u64,
    /// Bytes of one request, at most [`REQUEST_BYTES_MAX`].
    pub request_bytes_max: u64,
    /// Tokens that one job may generate.
    pub max_tokens: u32,
    /// Milliseconds that one run may take.
    pub execution_timeout_ms: u64,
    /// The longest time to live of a job, in milliseconds.
    pub ttl_ms_max: u64,
    /// Starts of one job.
    pub attempts_max: u16,
    /// Jobs run at once, at most [`CONCURRENCY_MAX`].
    pub concurrency: u16,
    /// Bytes of all logs held. A node takes 256 KiB where less stands here: its log needs room for its tables.
    pub logs_bytes_max: u64,
}

/// Where the node takes part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Participation {
    /// The subclouds by name; none means the open network alone.
    pub subclouds: Vec<String>,
}

/// How often and how long, in milliseconds: intervals are at least [`INTERVAL_MS_MIN`], durations
/// at most [`DURATION_MS_MAX`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timings {
    /// Between two heartbeats.
    pub heartbeat_ms: u64,
    /// Between two looks for a new snapshot.
    pub sync_ms: u64,
    /// Between two uploads of logs.
    pub flush_ms: u64,
    /// The first wait after a failed attempt.
    pub retry_ms_min: u64,
    /// The longest wait between attempts, at least `retry_ms_min`.
    pub retry_ms_max: u64,
    /// How long a trace is kept.
    pub trace_ttl_ms: u64,
    /// How long a log record is kept.
    pub log_ttl_ms: u64,
    /// How long after `valid_until` the snapshot stays in force; may be 0.
    pub offline_grace_ms: u64,
    /// How long an unfinished download is kept.
    pub partial_file_ttl_ms: u64,
    /// How long a model that is not listed any more is kept; 0 where it goes at once. 7 days
    /// ([`UNLISTED_MODEL_TTL_MS`]) where it is not said.
    #[serde(default = "unlisted_model_ttl_ms")]
    pub unlisted_model_ttl_ms: u64,
}

const fn unlisted_model_ttl_ms() -> u64 {
    UNLISTED_MODEL_TTL_MS
}

/// Which releases the network approves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Updates {
    /// Releases of the Agent.
    pub agents: Vec<ApprovedAgent>,
    /// Runtimes: images and programs.
    pub runtimes: Vec<ApprovedRuntime>,
}

/// An approved release of the Agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApprovedAgent {
    /// For example `0.2.0`.
    pub version: String,
    /// For example `x86_64-unknown-linux-musl`; none where one file serves all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// The digest of the program's file.
    pub digest: Digest,
}

impl ApprovedAgent {
    /// The artifact that it is where it is installed. A release has one digest for each platform, so both name it.
    #[must_use]
    pub fn artifact(&self) -> ArtifactId {
        let name = match &self.platform {
            Some(platform) => format!("{}/{platform}", self.version),
            None => self.version.clone(),
        };
        ArtifactId { kind: ArtifactKind::Agent, name }
    }
}

/// An approved runtime.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApprovedRuntime {
    /// The engine, for example `llama.cpp`.
    pub engine: String,
    /// For example `b6200`.
    pub version: String,
    /// The digest of the image's manifest or of the program's file.
    pub digest: Digest,
}

impl NodeConfig {
    /// Reads a document strictly and checks it for sense. It is not trusted by that.
    ///
    /// # Errors
    /// [`DocumentError`] for anything but strict JSON of this shape within its limits.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        let config: Self = parse_strict(bytes, crate::envelope::PAYLOAD_BYTES_MAX)?;
        config.validate()?;
        Ok(config)
    }

    /// Checks ranges and consistency.
    ///
    /// # Errors
    /// [`InvalidDocument`] naming the first field that is wrong.
    pub fn validate(&self) -> Result<(), InvalidDocument> {
        at_least_one("version", self.version)?;
        at_least_one("keyset_version", self.keyset_version)?;
        holds(self.issued_at <= self.refresh_by, "refresh_by", "is before issued_at")?;
        holds(self.refresh_by <= self.valid_until, "valid_until", "is before refresh_by")?;
        holds(
            self.prev_digest.is_none() || self.version > 1,
            "prev_digest",
            "names a snapshot before the first one",
        )?;
        self.validate_models()?;
        self.runtime.validate()?;
        self.limits.validate()?;
        count("participation.subclouds", self.participation.subclouds.len(), ENTRIES_MAX)?;
        let mut subclouds = BTreeSet::new();
        for (index, subcloud) in self.participation.subclouds.iter().enumerate() {
            let field = format!("participation.subclouds[{index}]");
            name(&field, subcloud)?;
            holds(subclouds.insert(subcloud), &field, "stands twice")?;
        }
        self.timings.validate()?;
        self.updates.validate()
    }

    fn validate_models(&self) -> Result<(), InvalidDocument> {
        count("models", self.models.len(), MODELS_MAX)?;
        let mut seen = BTreeSet::new();
        for (index, model) in self.models.iter().enumerate() {
            model.validate(&format!("models[{index}]"))?;
            let repeated = format!("repeats the model {}@{}", model.name, model.version);
            holds(seen.insert((&model.name, &model.version)), &format!("models[{index}].name"), &repeated)?;
        }
        Ok(())
    }

    /// The model that a job names, if the snapshot lists it.
    #[must_use]
    pub fn model(&self, wanted: &ModelRef) -> Option<&Model> {
        self.models.iter().find(|model| model.name == wanted.name && model.version == wanted.version)
    }
}

impl Model {
    fn validate(&self, at: &str) -> Result<(), InvalidDocument> {
        name(&format!("{at}.name"), &self.name)?;
        name(&format!("{at}.version"), &self.version)?;
        name(&format!("{at}.engine"), &self.engine)?;
        let field = format!("{at}.tasks");
        holds(!self.tasks.is_empty(), &field, "is empty: name at least one task")?;
        let distinct: BTreeSet<_> = self.tasks.iter().collect();
        holds(distinct.len() == self.tasks.len(), &field, "names a task twice")?;

        let field = format!("{at}.files");
        holds(!self.files.is_empty(), &field, "is empty: a model has at least one file")?;
        count(&field, self.files.len(), FILES_MAX)?;
        let mut files = BTreeSet::new();
        for (index, file) in self.files.iter().enumerate() {
            let field = format!("{at}.files[{index}]");
            file.validate(&field)?;
            holds(files.insert(file.path.as_str()), &format!("{field}.path"), "stands twice")?;
        }
        for path in &files {
            // `a` and `a/b` cannot both be files.
            let folder = path.match_indices('/').find(|(end, _)| files.contains(&path[..*end]));
            holds(folder.is_none(), &field, &format!("uses a file as the folder of {path:?}"))?;
        }

        let field = format!("{at}.sources");
        count(&field, self.sources.len(), SOURCES_MAX)?;
        self.sources.iter().enumerate().try_for_each(|(index, it)| source(&format!("{field}[{index}]"), it))
    }
}

impl ModelFile {
    fn validate(&self, at: &str) -> Result<(), InvalidDocument> {
        relative_path(&format!("{at}.path"), &self.path)?;
        let pieces = self.bytes.div_ceil(PIECE_BYTES);
        let given = self.pieces_blake3.len() as u64;
        holds(
            given == 0 || given == pieces,
            &format!("{at}.pieces_blake3"),
            &format!("has {given} hashes, a file of {} bytes has {pieces} pieces", self.bytes),
        )
    }
}

impl Runtime {
    fn validate(&self) -> Result<(), InvalidDocument> {
        name("runtime.engine", self.engine())?;
        match self {
            Self::External { .. } => {}
            Self::Process { command, environment, .. } => {
                relative_path("runtime.command", command)?;
                if let Some(environment) = environment {
                    relative_path("runtime.environment.path", &environment.path)?;
                }
            }
            Self::Container { image, platform, .. } => {
                plain("runtime.image", image, TEXT_BYTES_MAX)?;
                let by_digest_alone = !image.contains(['@', ' ']) && !image.starts_with(['-', '/', '.']);
                holds(by_digest_alone, "runtime.image", "is not an image's name without its digest")?;
                // A colon after the last slash is a tag; one before it is a registry's port.
                let tagged = image.rsplit('/').next().is_some_and(|last| last.contains(':'));
                holds(!tagged, "runtime.image", "carries a tag: the digest alone says which image runs")?;
                if let Some(platform) = platform {
                    name("runtime.platform", platform)?;
                }
            }
        }
        count("runtime.args", self.args().len(), ENTRIES_MAX)?;
        for (index, argument) in self.args().iter().enumerate() {
            let field = format!("runtime.args[{index}]");
            holds(argument.len() <= ARGUMENT_BYTES_MAX, &field, "is longer than 8192 bytes")?;
            holds(!argument.contains('\0'), &field, "contains a zero byte")?;
        }
        Ok(())
    }
}

impl Limits {
    fn validate(&self) -> Result<(), InvalidDocument> {
        at_least_one("limits.queue_jobs_max", self.queue_jobs_max)?;
        at_least_one("limits.queue_bytes_max", self.queue_bytes_max)?;
        at_least_one("limits.request_bytes_max", self.request_bytes_max)?;
        at_least_one("limits.max_tokens", u64::from(self.max_tokens))?;
        at_least_one("limits.attempts_max", u64::from(self.attempts_max))?;
        at_least_one("limits.concurrency", u64::from(self.concurrency))?;
        at_least_one("limits.logs_bytes_max", self.logs_bytes_max)?;
        duration("limits.execution_timeout_ms", self.execution_timeout_ms, 1)?;
        duration("limits.ttl_ms_max", self.ttl_ms_max, 1)?;
        holds(
            self.request_bytes_max <= REQUEST_BYTES_MAX as u64,
            "limits.request_bytes_max",
            &format!("is {}, at most {REQUEST_BYTES_MAX} are ever taken", self.request_bytes_max),
        )?;
        holds(
            self.request_bytes_max <= self.queue_bytes_max,
            "limits.queue_bytes_max",
            "is below request_bytes_max: no queue would hold one job",
        )?;
        holds(
            self.concurrency <= CONCURRENCY_MAX,
            "limits.concurrency",
            &format!("is {}, at most {CONCURRENCY_MAX} jobs run at once", self.concurrency),
        )
    }
}

impl Timings {
    fn validate(&self) -> Result<(), InvalidDocument> {
        duration("timings.heartbeat_ms", self.heartbeat_ms, INTERVAL_MS_MIN)?;
        duration("timings.sync_ms", self.sync_ms, INTERVAL_MS_MIN)?;
        duration("timings.flush_ms", self.flush_ms, INTERVAL_MS_MIN)?;
        duration("timings.retry_ms_min", self.retry_ms_min, INTERVAL_MS_MIN)?;
        duration("timings.retry_ms_max", self.retry_ms_max, INTERVAL_MS_MIN)?;
        holds(self.retry_ms_min <= self.retry_ms_max, "timings.retry_ms_max", "is below retry_ms_min")?;
        duration("timings.trace_ttl_ms", self.trace_ttl_ms, 1)?;
        duration("timings.log_ttl_ms", self.log_ttl_ms, 1)?;
        duration("timings.offline_grace_ms", self.offline_grace_ms, 0)?;
        duration("timings.partial_file_ttl_ms", self.partial_file_ttl_ms, 1)?;
        duration("timings.unlisted_model_ttl_ms", self.unlisted_model_ttl_ms, 0)
    }
}

impl Updates {
    fn validate(&self) -> Result<(), InvalidDocument> {
        count("updates.agents", self.agents.len(), ENTRIES_MAX)?;
        let mut agents = BTreeSet::new();
        for (index, agent) in self.agents.iter().enumerate() {
            let field = format!("updates.agents[{index}]");
            name(&format!("{field}.version"), &agent.version)?;
            if let Some(platform) = &agent.platform {
                name(&format!("{field}.platform"), platform)?;
            }
            // The same release may not have two digests: one of them would be somebody else's.
            holds(agents.insert((&agent.version, &agent.platform)), &field, "repeats a release")?;
        }
        count("updates.runtimes", self.runtimes.len(), ENTRIES_MAX)?;
        let mut runtimes = BTreeSet::new();
        for (index, runtime) in self.runtimes.iter().enumerate() {
            let field = format!("updates.runtimes[{index}]");
            name(&format!("{field}.engine"), &runtime.engine)?;
            name(&format!("{field}.version"), &runtime.version)?;
            // One version has an image and a program, hence several digests; each stands once.
            holds(
                runtimes.insert((&runtime.engine, &runtime.version, runtime.digest)),
                &field,
                "repeats a runtime",
            )?;
        }
        Ok(())
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_false(value: &bool) -> bool {
    !value
}

/// `Err` with this field and problem unless `condition` holds.
pub(crate) fn holds(condition: bool, field: &str, problem: &str) -> Result<(), InvalidDocument> {
    if condition {
        return Ok(());
    }
    Err(InvalidDocument { field: field.to_owned(), problem: problem.to_owned() })
}

pub(crate) fn at_least_one(field: &str, value: u64) -> Result<(), InvalidDocument> {
    holds(value >= 1, field, "is 0, it must be at least 1")
}

fn count(field: &str, found: usize, max: usize) -> Result<(), InvalidDocument> {
    holds(found <= max, field, &format!("has {found} entries, at most {max} are read"))
}

fn duration(field: &str, ms: u64, min_ms: u64) -> Result<(), InvalidDocument> {
    holds(
        (min_ms..=DURATION_MS_MAX).contains(&ms),
        field,
        &format!("is {ms} ms, it must be from {min_ms} to {DURATION_MS_MAX} ms"),
    )
}

/// Printable, not empty, within `bytes_max`.
fn plain(field: &str, text: &str, bytes_max: usize) -> Result<(), InvalidDocument> {
    holds(!text.is_empty(), field, "is empty")?;
    holds(text.len() <= bytes_max, field, &format!("is longer than {bytes_max} bytes"))?;
    holds(!text.chars().any(char::is_control), field, "contains a control character")
}

fn name(field: &str, text: &str) -> Result<(), InvalidDocument> {
    plain(field, text, MODEL_NAME_BYTES_MAX)?;
    holds(text.trim() == text, field, "begins or ends with white space")
}

/// A path that stays inside the folder it is joined to, on every platform: no root, no drive, no
/// backslash, no empty part, no `.` and no `..`.
fn relative_path(field: &str, path: &str) -> Result<(), InvalidDocument> {
    plain(field, path, TEXT_BYTES_MAX)?;
    holds(!path.contains(['\\', ':']), field, "contains a backslash or a colon")?;
    let inside = path.split('/').all(|part| !matches!(part, "" | "." | ".."));
    holds(inside, field, "is not a relative path without empty parts, \".\" and \"..\"")?;
    let short = path.split('/').all(|part| part.len() <= 255);
    holds(short, field, "has a part longer than 255 bytes")
}

/// An address to fetch from, without a password, which would be stored with the snapshot. Whether a file's may be
/// read is for the node to say: it may name a disk of the node's own.
fn source(field: &str, url: &str) -> Result<(), InvalidDocument> {
    plain(field, url, TEXT_BYTES_MAX)?;
    holds(!url.contains(' '), field, "contains a space")?;
    if let Some(path) = url.strip_prefix("file://") {
        let inside = path
            .strip_prefix('/')
            .is_some_and(|path| !path.is_empty() && !path.split('/').any(|part| matches!(part, "." | "..")));
        return holds(inside, field, "is not file:/// and an absolute path without \".\" and \"..\"");
    }
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let host = rest.and_then(|rest| rest.split(['/', '?', '#']).next()).unwrap_or_default();
    holds(!host.is_empty(), field, "is not an https://, http:// or file:/// address")?;
    holds(!host.contains(['@', '\\']), field, "carries a user name or a password")
}
