//! The gate between bytes and trust, seen from outside the crate.

mod common;
mod envelope;
mod inventory_table;
mod known_answers;
mod node_config;
mod rotation;
mod signature;
mod snapshot_gate;
mod strict_json;
