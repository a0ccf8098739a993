//! The devnet against a small node of its own: it signs, registers, opens a session and does what each test needs.
//! It shares no code with the Agent.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure of a helper is a failure of the test"
)]

mod common;
mod faults;
mod jobs;
mod models;
mod network;
mod openai_client;
#[path = "../../../node-agent/tests/common/python.rs"]
mod python;
mod refusals;
mod restart;
mod streaming;
