//! A small network for one machine, for trying nodes out. One process plays all of it:
//!
//! - it signs keysets and snapshots with keys of its own, and speaks `docs/protocol.md` to nodes;
//! - it takes work over an OpenAI-compatible API, offers it to nodes until one takes it, and gives it to another one
//!   when that node is gone;
//! - it serves the files of models that stand in a folder, each under its SHA-256 (`/models/...`);
//! - it keeps jobs, their ends, log batches, traces and reports in `devnet.db`, and shows them (`/v1/devnet/...`);
//! - it misbehaves on command: [`Fault`].
//!
//! Limits: loopback only, no TLS, any API key counts, prompts and answers lie in the clear in `devnet.db`, and nothing
//! there is ever deleted but old message numbers. It shares no code with the store: what a node promises is checked
//! against an independent reading of the protocol.
//!
//! Left out on purpose: payment, validation of answers, more than one key in a keyset.
//!
//! Rooms, lowest first: `clock`, `files`, `keys`, `shelf` (files of models); the pure ones, `window` (replays), [`assign`] (who gets which job
//! when), [`resume`] (streams after a crash), `gate` (checks of a message), `documents`; `db`; `core` (what it knows
//! and decides); `session`, `node_api`, `models`, `openai`, `admin`, `server`.

mod admin;
pub mod assign;
mod clock;
mod core;
mod db;
mod devnet;
mod documents;
mod error;
mod faults;
mod files;
mod gate;
mod keys;
mod models;
mod node_api;
mod openai;
mod registry;
pub mod resume;
mod server;
mod session;
mod settings;
mod shelf;
pub mod window;

pub use devnet::{CommandError, Devnet};
pub use error::DevnetError;
pub use faults::{BadSnapshot, Fault, Faults, FileFaults, Spell};
pub use settings::{ConfigTemplate, REFRESH_MS_MIN, Settings};
