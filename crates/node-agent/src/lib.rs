//! The Agent of a Resultity node: it talks to the network, keeps the node's state in the store, and has the runtime
//! run what the network asks for. `ARCHITECTURE.md` shows its rooms and their arrows.
//!
//! It knows no SQL and no layout of files: those are the store's.

pub mod address;
pub mod agent;
pub mod artifacts;
pub mod author;
pub mod backoff;
mod blocking;
pub mod contact;
pub mod dispatch;
pub mod doctor;
pub mod drift;
pub mod engine;
pub mod enroll;
pub mod fence;
pub mod fetch;
pub mod hardware;
pub mod header;
pub mod inventory;
pub mod journal;
pub mod meters;
pub mod metrics;
pub mod models;
pub mod network;
pub mod node;
pub mod otlp;
pub mod own;
pub mod page;
pub mod report;
pub mod rotate;
pub mod runtime;
pub mod session;
pub mod settings;
pub mod standing;
pub mod sync;
pub mod targets;
pub mod time;
mod tls;
pub mod update;

/// The Agent's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
