//! The Agent of a Resultity node.
pub mod settings;
