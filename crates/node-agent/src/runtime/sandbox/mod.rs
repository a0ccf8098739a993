//! The sandbox: what stands between a runtime's program and this machine.
//!
//! The Agent starts itself twice over, because what a process may do is best taken from it by itself, before it becomes
//! the program:
//!
//! ```text
//! Agent ── keep ── enter, then the program ── whatever it starts
//! ```
//!
//! - `keep` stays beside the program as long as it runs. When the Agent ends, in whatever way, the pipe between them
//!   closes, and it kills the program and everything that the program started.
//! - `enter` ties its life to the one of `keep`; where the Agent is root it makes its own view of the files (`view`) and
//!   becomes the other user; it gives up what Landlock and a filter of system calls (`calls`) let it give up, and executes
//!   the program.
//!
//! What the program gets: its arguments, the environment that the Agent made for it, `/dev/null` and two pipes; the
//! system's programs and libraries, the model and what else its operator listed, to read; its work folder, to write;
//! one TCP port, to listen on; graphics cards.
//!
//! What it does not get: any other file, another open descriptor, privileges through any program, an outgoing
//! connection, signals to other processes, core dumps, keyrings. Landlock is as good as the kernel: what this one cannot
//! refuse is said in a line (`enter`).
//!
//! Left out: limits of memory and time (an operator's service manager has better ones); a namespace of process numbers
//! (the program would be its `init` and have to reap; Landlock keeps it out of `/proc`). Sockets that stand in the file
//! system are protected by Landlock where the kernel's is new enough; else another user's by their own permissions, but
//! for those that `view` covers, and a program of the Agent's own user has no local sockets at all.
//!
//! What remains is in `docs/threat-model.md`.

mod calls;
mod enter;
mod keep;
mod policy;
mod probe;
mod view;

use std::{ffi::OsString, io, process::ExitCode};

use rustix::process::{DumpableBehavior, Resource, Rlimit};

pub(super) use policy::{Policy, Shown};
pub use probe::{Probe, probe};

/// The word that makes the Agent's binary call [`main`] with the arguments after it.
pub const COMMAND: &str = "sandbox-exec";
/// The exit status of a sandbox that could not be made.
pub(super) const FAILED: u8 = 125;

/// Runs one of the two stages with the arguments after [`COMMAND`]; a program that was started never returns here.
///
/// Call it before any thread is started: users and Landlock belong to threads.
#[must_use]
#[expect(
    clippy::print_stderr,
    reason = "its standard error is a pipe to the Agent, which reads it line by line"
)]
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut args = args.into_iter();
    let stage = args.next();
    let outcome =
        Policy::parse(args).and_then(|policy| match stage.as_deref().and_then(|stage| stage.to_str()) {
            Some("keep") => keep::run(&policy),
            Some("enter") => enter::run(&policy),
            _ => Err("it is started by the Agent alone".to_owned()),
        });
    match outcome {
        Ok(status) => ExitCode::from(status),
        Err(problem) => {
            eprintln!("sandbox: {problem}");
            ExitCode::from(FAILED)
        }
    }
}

/// Closes this process's memory to everybody but root: nothing of it in a core dump, and no process of the same user can
/// trace it or read it through `/proc`. For the Agent, at its start; what it executes is not bound by the latter.
///
/// # Errors
/// The system's. Then nothing is known of what is closed.
pub fn harden_self() -> io::Result<()> {
    rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}

/// Closes whatever the Agent itself inherited from its parent and would pass on. Everything that Rust opens is closed on
/// `exec` anyway.
fn close_inherited() -> Result<(), String> {
    let entries =
        std::fs::read_dir("/proc/self/fd").map_err(|error| format!("cannot list /proc/self/fd: {error}"))?;
    let numbers: Vec<i32> =
        entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    for number in numbers.into_iter().filter(|number| *number > 2) {
        // One of them listed the others, and is closed already.
        let _ = nix::unistd::close(number);
    }
    Ok(())
}
