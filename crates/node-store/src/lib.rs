//! The local storage layer of a Resultity node.

pub mod disk;
pub mod format;
pub mod inventory;
pub mod jobs;
pub mod keys;
pub mod snapshot;
pub mod volume;
pub mod writer;
