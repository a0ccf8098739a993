//! What the network says.

use serde::{Deserialize, Serialize};

use crate::{Digest, JobId, NodeId, Timestamp, job::Job, message::MessageKind, trace::Outcome};

/// The keysets, so that a node can judge what the network signs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keysets {
    /// The first keyset, the document itself. A node pins it once: by the digest that its owner gave, else as it
    /// came.
    pub pinned: String,
    /// The envelopes of those that follow, in order.
    pub rotations: Vec<String>,
}

/// The answer to a registration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    /// The node's ID, as it must have computed it itself.
    pub node: NodeId,
    /// The network's time.
    pub now_ms: Timestamp,
}

/// The network's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkTime {
    /// Now.
    pub now_ms: Timestamp,
    /// The newest snapshot, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotRef>,
}

/// A snapshot by version and digest. It says only that there is one: it is fetched and judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRef {
    /// Its version.
    pub version: u64,
    /// Its digest.
    pub digest: Digest,
}

/// The network has what a request carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledged {
    /// The number of the batch in its chain, for log batches; else of things that it carried.
    pub count: u64,
}

/// What the network says of a job that a restored node holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "claim", rename_all = "snake_case")]
pub enum Claim {
    /// It is this node's, and has no end yet.
    Yours,
    /// It has an end, whoever said it.
    Ended {
        /// How it ended.
        outcome: Outcome,
    },
    /// It has no end, and is another node's or to be offered anew.
    NotYours,
    /// The network does not know it.
    Unknown,
}

/// A job and what the network says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claimed {
    /// The job.
    pub job: JobId,
    /// What the network says of it.
    #[serde(flatten)]
    pub claim: Claim,
}

/// The answer to an [`Inquiry`](super::Inquiry).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The network's time.
    pub now_ms: Timestamp,
    /// The newest snapshot, if there is one: a restored node takes it before it runs a job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotRef>,
    /// One for each job that was asked about.
    pub jobs: Vec<Claimed>,
}

/// Why the network takes no notice of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// Not a message, or not of the shape of its kind.
    Malformed,
    /// Over the limit.
    TooLarge,
    /// Signed by another key, over another payload, or not at all.
    BadSignature,
    /// Its number was used before.
    Replayed,
    /// Its time has ended, or has not begun: the node's clock is wrong.
    OutOfTime,
    /// A later start of the same node was seen: this one is a copy.
    Superseded,
    /// Another start of the same node is connected and answers: this one came later, and is the copy.
    AlreadyRunning,
    /// It is for another network.
    OtherNetwork,
    /// The node is not registered.
    NotRegistered,
    /// A version of the protocol that the network does not speak.
    Unsupported,
    /// A log batch that does not follow the last one that arrived.
    BrokenChain,
    /// Not now.
    Unavailable,
}

/// The body of an HTTP answer that is no success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorAnswer {
    /// For a machine.
    pub code: ErrorCode,
    /// For a person.
    pub message: String,
    /// The network's time, for a node whose clock is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub now_ms: Option<Timestamp>,
}

/// A frame of the network on a session: one JSON object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum NetworkFrame {
    /// The answer to the hello. Before it nothing else is said.
    Welcome {
        /// [`super::VERSION`].
        protocol: u32,
        /// The network's time.
        now_ms: Timestamp,
        /// The newest snapshot, if there is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        snapshot: Option<SnapshotRef>,
    },
    /// An offer. The node answers with [`Accept`](super::Accept); until then it may come again.
    Job {
        /// The job.
        job: Box<Job>,
    },
    /// The network has a job's end, now or since before: nothing more of it need be sent.
    Acknowledged {
        /// The job.
        job: JobId,
        /// The kind of message that is acknowledged: result, failure or expired.
        of: MessageKind,
    },
    /// The job is not wanted any more.
    Cancel {
        /// The job.
        job: JobId,
    },
    /// There is a new snapshot: fetch it.
    Snapshot(SnapshotRef),
    /// An administrative ping, answered with [`Pong`](super::Pong).
    Ping {
        /// Anything.
        nonce: u64,
    },
    /// A message was not taken notice of.
    Refused {
        /// Its number.
        seq: u64,
        /// Why, for a machine.
        code: ErrorCode,
        /// Why, for a person.
        message: String,
        /// The network's time, for a node whose clock is wrong.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        now_ms: Option<Timestamp>,
    },
    /// The network closes the connection in good order.
    Closing {
        /// Why, in words.
        reason: String,
        /// Come again not before this many milliseconds.
        retry_after_ms: u64,
    },
}
