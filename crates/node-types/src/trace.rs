//! What happened to a job, step by step. Never the prompt or the answer.

use serde::{Deserialize, Serialize};

use crate::{Digest, JobId, Network, Timestamp, job::FailureKind, job::Mode, job::ModelRef};

/// One thing that happened to a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum Step {
    /// Taken in, on disk.
    Accepted,
    /// Handed to the runtime.
    Leased {
        /// Counted from 1.
        attempt: u16,
        /// The digest of what runs it (image, binary or environment), where it is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        runtime: Option<Digest>,
        /// The digest of the model that answers, where it is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        model: Option<Digest>,
    },
    /// Put back in the queue without an answer.
    Released {
        /// Why.
        reason: ReleaseReason,
    },
    /// The answer is on disk.
    Finished {
        /// From the lease to the answer, in milliseconds.
        duration_ms: u64,
        /// Tokens read.
        prompt_tokens: u32,
        /// Tokens generated.
        completion_tokens: u32,
        /// Length of the answer.
        output_bytes: u64,
    },
    /// There will be no answer.
    Failed {
        /// Why.
        kind: FailureKind,
        /// From the lease to the failure, in milliseconds; 0 where it never ran.
        duration_ms: u64,
    },
    /// Sent to the network; of many times the first and the last are noted.
    Submitted,
    /// The network has it.
    Acknowledged,
    /// Its time ended first.
    Expired {
        /// Where it stood.
        state: Standing,
    },
}

/// Why a run was given up without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReleaseReason {
    /// The Agent started again.
    Restart,
    /// The Agent stopped in good order.
    Shutdown,
    /// The runtime went away under it.
    RuntimeLost,
}

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Waiting for the runtime.
    Queued,
    /// With the runtime.
    Running,
    /// Answered, not yet acknowledged.
    Finished,
    /// Failed, not yet acknowledged.
    Failed,
}

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The network has its answer.
    Answered,
    /// The network has its failure.
    Failed,
    /// Its time ended first.
    Expired,
}

/// A step and its moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When.
    pub at: Timestamp,
    /// What.
    #[serde(flatten)]
    pub step: Step,
}

/// The last start that these events tell of: which attempt it was, from 1, and when.
#[must_use]
pub fn last_lease(events: &[Event]) -> Option<(u16, Timestamp)> {
    events.iter().rev().find_map(|event| match event.step {
        Step::Leased { attempt, .. } => Some((attempt, event.at)),
        Step::Accepted
        | Step::Released { .. }
        | Step::Finished { .. }
        | Step::Failed { .. }
        | Step::Submitted
        | Step::Acknowledged
        | Step::Expired { .. } => None,
    })
}

/// The trace of one job that has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// The job.
    pub job: JobId,
    /// Its network.
    pub network: Network,
    /// What it asked for.
    pub model: ModelRef,
    /// How it asked.
    pub mode: Mode,
    /// The snapshot in force when it was accepted.
    pub config: Digest,
    /// How it ended.
    pub outcome: Outcome,
    /// What happened, in order.
    pub events: Vec<Event>,
}
