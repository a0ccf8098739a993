//! The keys room: what an operator, a crash and somebody hostile can do to the node's keys.
#![expect(clippy::unwrap_used, reason = "helpers of tests stop the test")]
#![expect(clippy::disallowed_methods, reason = "tests lay files beside the store, as an operator would")]

mod crash;
mod keystore;
mod sealed;
mod secrets;
mod signer;
mod sources;
mod stand_in;
mod terminal;
