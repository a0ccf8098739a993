//! The machine that a node runs on, as it is now: in heartbeats, reports and metrics. What cannot be read is left out.

use serde::{Deserialize, Serialize};

/// The most graphics cards that are told of.
pub const GRAPHICS_MAX: usize = 64;

/// What a machine has, and how much of it is in use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hardware {
    /// The processor.
    #[serde(default)]
    pub processor: Processor,
    /// Main memory.
    #[serde(default)]
    pub memory: Amount,
    /// The disk that the node's volume is on.
    #[serde(default)]
    pub disk: Amount,
    /// Graphics cards, at most [`GRAPHICS_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub graphics: Vec<Graphics>,
}

/// A processor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Processor {
    /// As it calls itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Threads that can run at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<u32>,
    /// Processes that ran or waited to run, the average of the last minute, times 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_1m_milli: Option<u64>,
}

/// How much there is of something, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    /// In all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_bytes: Option<u64>,
    /// What could still be taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free_bytes: Option<u64>,
}

/// A graphics card.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Graphics {
    /// As it calls itself.
    pub name: String,
    /// Its memory.
    #[serde(default)]
    pub memory: Amount,
    /// How much of the last second it worked, in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub busy_percent: Option<u32>,
    /// Its temperature in degrees Celsius.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub celsius: Option<u32>,
    /// The power that it takes, in milliwatts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub milliwatts: Option<u32>,
}
