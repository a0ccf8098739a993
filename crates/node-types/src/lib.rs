//! The words of a Resultity node: ids, digests, jobs, snapshots, envelopes, messages, limits.
//!
//! Everything here is a value. The crate reads no clock, no file and no socket, and knows no
//! async runtime: what it decides, it decides from its arguments.
//!
//! Units stand in names: `_ms` is milliseconds, `_bytes` is bytes. Times are [`Timestamp`]s.

pub mod config;
pub mod digest;
pub mod envelope;
pub mod hardware;
pub mod id;
pub mod inventory;
pub mod job;
pub mod json;
pub mod keyset;
pub mod log;
pub mod message;
pub mod models;
pub mod protocol;
pub mod signature;
pub mod time;
pub mod trace;
pub mod verify;

pub use digest::Digest;
pub use id::{Address, BootId, JobId, Network, NodeId, VolumeId};
pub use time::Timestamp;
