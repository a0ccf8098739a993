//! A program for tests that plays a runtime and tries to get at what is the Agent's: the node key, the volume, the Agent's
//! memory, this machine.
//!
//! `serve` listens as a runtime does. Each chat completion makes it try every way of [`ways::WAYS`] and answer with what
//! came of them, as JSON: `{"model": "...", "ways": [{"way": "...", "reached": false, "detail": "..."}]}`. A way is
//! `reached` where the secret itself was read, or where something of the Agent's was in the program's power; that a
//! call was not refused is not enough.
//!
//! `host` starts an Agent of the test's with what only system calls can plant: another user, a key in the session's
//! and the user's keyring, a segment of System V memory.
//!
//! It may use `unsafe`, because system calls that no safe crate offers are what it is for. It depends on `libc` alone, so that a
//! static build for an image without any other file takes seconds. It is no part of a node.
#![expect(
    clippy::disallowed_methods,
    reason = "it touches whatever file it can, its environment included, and that is its task"
)]

mod facts;
mod host;
mod serve;
mod ways;

use std::process::ExitCode;

use facts::Facts;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let outcome = match args.next().as_deref() {
        Some("serve") => Facts::parse(args).and_then(|facts| serve::run(&facts)),
        Some("host") => Facts::parse(args).and_then(|facts| host::run(&facts)),
        _ => Err("usage: isolation-probe serve|host --<fact> <value> ...".to_owned()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("isolation-probe: {problem}");
            ExitCode::FAILURE
        }
    }
}
