//! Log records: what the node says of itself.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Digest, JobId, Timestamp, id::NotAnId};

/// The longest message of a record in bytes; longer ones are cut at a character.
pub const MESSAGE_BYTES_MAX: usize = 8 << 10;
/// The largest set of fields of a record, as JSON, in bytes; larger ones are dropped and the
/// record says so.
pub const FIELDS_BYTES_MAX: usize = 16 << 10;

/// How much a record matters, lowest first. Full disks lose the lowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Step by step.
    Trace,
    /// For who looks for a fault.
    Debug,
    /// What a node does.
    Info,
    /// Something to look at.
    Warn,
    /// Something went wrong.
    Error,
}

impl Level {
    /// All levels, lowest first.
    pub const ALL: [Self; 5] = [Self::Trace, Self::Debug, Self::Info, Self::Warn, Self::Error];

    /// 0 for trace to 4 for error.
    #[must_use]
    pub const fn rank(self) -> u8 {
        match self {
            Self::Trace => 0,
            Self::Debug => 1,
            Self::Info => 2,
            Self::Warn => 3,
            Self::Error => 4,
        }
    }

    /// `trace`, `debug`, `info`, `warn` or `error`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The Agent itself: starts, stops, its own errors.
    Agent,
    /// Inference: durations, tokens.
    Inference,
    /// Models: loading, installing, drift.
    Model,
    /// The runtime: starts, stops, errors.
    Runtime,
    /// Configuration: applied, refused, stale, rolled back.
    Configuration,
    /// The connection to the network.
    Network,
    /// The store: damage, limits, losses.
    Storage,
    /// Metrics.
    Metric,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 8] = [
        Self::Agent,
        Self::Inference,
        Self::Model,
        Self::Runtime,
        Self::Configuration,
        Self::Network,
        Self::Storage,
        Self::Metric,
    ];

    /// Its name in queries and on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Inference => "inference",
            Self::Model => "model",
            Self::Runtime => "runtime",
            Self::Configuration => "configuration",
            Self::Network => "network",
            Self::Storage => "storage",
            Self::Metric => "metric",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

macro_rules! named {
    ($($name:ident, $wanted:literal;)*) => {$(
        impl FromStr for $name {
            type Err = NotAnId;

            fn from_str(text: &str) -> Result<Self, NotAnId> {
                Self::ALL
                    .into_iter()
                    .find(|one| one.name() == text)
                    .ok_or_else(|| NotAnId { found: text.to_owned(), wanted: $wanted })
            }
        }
    )*};
}

named! {
    Level, "a level: write trace, debug, info, warn or error";
    Kind, "a kind: write agent, inference, model, runtime, configuration, network, storage or metric";
}

/// One log record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// When.
    pub at: Timestamp,
    /// How much it matters.
    pub level: Level,
    /// What it is about.
    pub kind: Kind,
    /// The job it is about, if one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
    /// What happened, for a person.
    pub message: String,
    /// The same for a machine.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fields: BTreeMap<String, Value>,
}

impl Record {
    /// A record without job or fields.
    #[must_use]
    pub fn new(at: Timestamp, level: Level, kind: Kind, message: impl Into<String>) -> Self {
        Self { at, level, kind, job: None, message: message.into(), fields: BTreeMap::new() }
    }
}

/// What a batch says of itself; its bytes as JSON are what is hashed and signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchHeader {
    /// The chain, drawn when `logs.db` was made: 32 hex digits.
    pub chain: String,
    /// Its number in the chain, from 1, without gaps.
    pub seq: u64,
    /// SHA-256 of the header before it; 64 zeros in the first.
    pub prev: Digest,
    /// Records in it, by level.
    pub records: BTreeMap<Level, u64>,
    /// Records lost since the batch before it, by level.
    pub lost: BTreeMap<Level, u64>,
    /// SHA-256 of the payload.
    pub payload: Digest,
}
