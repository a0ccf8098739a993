//! The local storage layer of a Resultity node.

pub mod disk;
pub mod keys;
pub mod private;
