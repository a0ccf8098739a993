//! The node end to end: the real binary against a devnet, killed, cut off and lied to. The runtime is the real one where
//! what it computes matters, and a stand-in where a fault or a duration must be forced.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "a test that cannot go on must fail, has files of its own, and shows the node's log then"
)]

mod browser;
mod chatty;
mod clock;
#[path = "../../../node-agent/tests/common/collector.rs"]
#[expect(dead_code, reason = "the targets' tests use more of it")]
mod collector;
mod containers;
mod copies;
mod dispatch;
mod figures;
mod kill;
mod live;
mod models;
mod network;
mod old;
mod operator;
mod page;
#[path = "../../../node-store/tests/fixtures/private.rs"]
mod private;
#[path = "../cli/rot.rs"]
mod rot;
mod runtimes;
mod snapshots;
mod stage;
mod stand_in;
mod upgrade;
