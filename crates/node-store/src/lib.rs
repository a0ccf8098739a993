//! The local storage layer of a Resultity node.

pub mod binding;
pub mod clock;
pub mod disk;
pub mod format;
pub mod inventory;
pub mod jobs;
pub mod keys;
pub mod private;
pub mod rotation;
pub mod snapshot;
pub mod store;
pub mod volume;
pub mod writer;
