//! The local storage layer of a Resultity node.

pub mod disk;
pub mod format;
pub mod jobs;
pub mod keys;
pub mod volume;
pub mod writer;
