//! The local storage layer of a Resultity node: everything a node keeps, safe through anything short of a
//! broken disk.
//!
//! [`store::Store`] opens a volume with its keys and hands out its rooms. There is no socket and no
//! async runtime in here: every write answers with a [`writer::Ticket`], to be waited for or awaited.
//! Time is an argument; [`clock`] is the one room that reads it.

pub mod backup;
pub mod binding;
mod check;
pub mod checkup;
pub mod clock;
pub mod disk;
pub mod format;
pub mod hash;
pub mod inventory;
pub mod jobs;
pub mod keys;
pub mod logs;
pub mod models;
mod nonsense;
pub mod private;
pub mod reader;
pub mod rotation;
pub mod salvage;
pub mod seal;
pub mod snapshot;
pub mod store;
pub mod view;
pub mod volume;
pub mod writer;

/// The README's example compiles.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
