//! What a node says: the payloads of its messages, one for each [`MessageKind`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Payload;
use crate::{
    Address, Digest, JobId, Network, Timestamp,
    job::{Failure, ModelRef, Output},
    log::Level,
    message::MessageKind,
    trace::{Standing, Trace},
};

macro_rules! payloads {
    ($($payload:ty: $kind:ident;)*) => {$(
        impl Payload for $payload {
            const KIND: MessageKind = MessageKind::$kind;
        }
    )*};
}

payloads! {
    Register: Register;
    Hello: Hello;
    Heartbeat: Heartbeat;
    Accept: Accept;
    Chunk: Chunk;
    ResultOfJob: Result;
    FailedJob: Failure;
    ExpiredJob: Expired;
    LogBatch: LogBatch;
    TraceBatch: TraceBatch;
    ConfigReport: ConfigReport;
    Account: AccountLink;
    Pong: Pong;
    Leaving: Leaving;
    Inquiry: Inquiry;
}

/// The node makes itself known. Again and again is harmless: the node ID comes from the key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Register {
    /// [`super::VERSION`].
    pub protocol: u32,
    /// The network it wants to work for.
    pub network: Network,
    /// Its address.
    pub address: Address,
    /// The Agent's version, for example `0.1.0`.
    pub agent: String,
}

/// The first message on a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`super::VERSION`].
    pub protocol: u32,
    /// The Agent's version.
    pub agent: String,
    /// Jobs that it runs at once; 0 while it cannot run any.
    pub concurrency: u16,
    /// The models that it can run now.
    pub models: Vec<ModelRef>,
}

/// Whether a node takes jobs, and if not, why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Readiness {
    /// It takes jobs.
    Active,
    /// The runtime is starting, or its test inference runs.
    Starting,
    /// Files of models are being fetched, verified or repaired.
    Installing,
    /// There is no snapshot, or its time has ended.
    NoConfiguration,
    /// The runtime does not answer.
    RuntimeDown,
    /// The store takes no writes.
    StorageFailed,
    /// The Agent is ending.
    Stopping,
}

/// Jobs held, by standing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobCounts {
    /// Waiting for the runtime.
    pub queued: u64,
    /// With the runtime.
    pub running: u64,
    /// Answers and failures that wait for their acknowledgement.
    pub unsent: u64,
    /// Expired since the volume was made.
    pub expired: u64,
}

/// The most artifacts that a heartbeat names as drifted.
pub const DRIFTED_MAX: usize = 64;

/// The node is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Whether it takes jobs.
    pub readiness: Readiness,
    /// Since the Agent started, in milliseconds.
    pub uptime_ms: u64,
    /// What protects its key, for example `local file`.
    pub protection: String,
    /// The version of the snapshot in force; 0 where there is none.
    pub config_version: u64,
    /// Jobs held.
    pub jobs: JobCounts,
    /// Log records lost to the limit, by level.
    pub logs_lost: BTreeMap<Level, u64>,
    /// Traces lost to the limit.
    pub traces_lost: u64,
    /// What was damaged or lost of the store since the last report, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub incidents: Vec<String>,
    /// Artifacts that are not what was installed or approved, in words, at most [`DRIFTED_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drifted: Vec<String>,
}

/// What became of an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AcceptAnswer {
    /// It is on the node's disk.
    New,
    /// It was there, or has ended here.
    Duplicate,
    /// Another job is there under this ID.
    Conflict,
    /// No more are taken now: offer it to another node, or later.
    Full,
    /// Its time has ended.
    Expired,
    /// It is none for this node: see the reason.
    Rejected,
}

impl AcceptAnswer {
    /// Whether the node has it: the network must not offer it elsewhere before it is lost.
    #[must_use]
    pub const fn is_taken(self) -> bool {
        match self {
            Self::New | Self::Duplicate => true,
            Self::Conflict | Self::Full | Self::Expired | Self::Rejected => false,
        }
    }
}

/// The answer to an offer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accept {
    /// The job.
    pub job: JobId,
    /// What became of it.
    pub answer: AcceptAnswer,
    /// Why, where it was rejected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A part of a streamed answer, for whoever watches. It is sent once and kept nowhere: the result carries all.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// The job.
    pub job: JobId,
    /// The start that it belongs to, from 1: a later one begins anew.
    pub attempt: u16,
    /// Its place in that start, from 0.
    pub index: u32,
    /// One event's data as the runtime sent it, an OpenAI-style JSON object.
    pub data: String,
}

impl std::fmt::Debug for Chunk {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { job, attempt, index, data } = self;
        write!(out, "Chunk({job}, attempt {attempt}, {index}, {} bytes)", data.len())
    }
}

/// A job's answer, sent until it is acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResultOfJob {
    /// The job.
    pub job: JobId,
    /// The answer.
    pub output: Output,
}

/// A job has no answer; sent until it is acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedJob {
    /// The job.
    pub job: JobId,
    /// Why.
    pub failure: Failure,
}

/// A job's time ended first; sent until it is acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpiredJob {
    /// The job.
    pub job: JobId,
    /// Where it stood.
    pub standing: Standing,
    /// When it ended.
    pub at: Timestamp,
}

/// A batch of log records; sent until it is acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogBatch {
    /// The header's exact bytes, of [`crate::log::BatchHeader`]: the next one names their hash.
    pub header: String,
    /// Its records, one JSON object a line, compressed with Zstandard, in base64; none where the limit took them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub records: Option<String>,
}

/// Traces of jobs that have ended; sent until they are acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceBatch {
    /// Each carries its job's ID: the same one again is the same trace.
    pub traces: Vec<Trace>,
}

/// What became of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConfigOutcome {
    /// In force, and its health check passed.
    Applied,
    /// Not stored.
    Refused,
    /// Its health check failed: the last good one is in force again.
    RolledBack,
}

/// What became of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigReport {
    /// Its digest; none where it is no snapshot at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Digest>,
    /// What became of it.
    pub outcome: ConfigOutcome,
    /// Why, where it was not applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The version in force now; 0 where there is none.
    pub in_force: u64,
}

/// The account that a node works for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// As the store writes it: an address or an e-mail address; none to unlink.
    pub account: Option<String>,
    /// What the account's owner gave as proof.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<String>,
}

/// The answer to [`super::NetworkFrame::Ping`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pong {
    /// The ping's.
    pub nonce: u64,
}

/// The node ends the connection in good order; what it holds it keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaving {
    /// Why, in words.
    pub reason: String,
}

/// The most jobs that one [`Inquiry`] names: its answer stays far below the largest that a node reads.
pub const INQUIRY_JOBS_MAX: usize = 50_000;

/// The node was restored from a backup: what has become of the jobs that it held then?
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inquiry {
    /// Jobs that it holds, at most [`INQUIRY_JOBS_MAX`].
    pub jobs: Vec<JobId>,
    /// These are all: whatever else the network has given to this node was lost here, and may be given out again.
    pub all: bool,
}
