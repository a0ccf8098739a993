//! The real program, in homes of its own, on volumes that were filled through the store itself.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test that cannot go on must fail, and one that says nothing here says so"
)]
#![expect(clippy::disallowed_methods, reason = "a test's own files")]

mod account;
mod backup;
mod bundle;
mod configuration;
mod demo;
mod devnet;
mod docs;
mod doctor;
mod drift;
mod home;
#[path = "../shared/host.rs"]
#[expect(dead_code, reason = "others run programs of this machine")]
mod host;
mod init;
mod jobs;
mod keys;
mod logs;
mod models;
mod output;
#[path = "../shared/pages.rs"]
mod pages;
#[path = "../../../node-store/tests/fixtures/private.rs"]
mod private;
mod rot;
mod running;
mod settings;
#[path = "../shared/shell.rs"]
mod shell;
mod shop;
mod status;
mod terminal;
mod tls;
#[path = "../../../node-types/tests/trust/common.rs"]
#[expect(dead_code, reason = "the trust documents' tests use more of it")]
mod trust;
mod update;
