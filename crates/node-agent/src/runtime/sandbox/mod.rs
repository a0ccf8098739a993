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
//! - `enter` ties its life to the one of `keep`, becomes the other user, gives up what Landlock lets it give up,
//!   and executes the program.
//!
//! What the program gets: its arguments, the environment that the Agent made for it, `/dev/null` and two pipes; the
//! system's programs and libraries, the model and what else its operator listed, to read; its work folder, to write;
//! one TCP port, to listen on; graphics cards.
//!
//! What it does not get: any other file, another open descriptor, privileges through any program, an outgoing
//! connection, signals to other processes, core dumps. Landlock is as good as the kernel: what this one cannot refuse
//! is said in a line (`enter`).
//!
//! Left out: limits of memory and time (an operator's service manager has better ones), a filter of system calls,
//! and sockets that stand in the file system, which their own permissions protect.

mod enter;
mod keep;
mod policy;

use std::{ffi::OsString, process::ExitCode};

pub(super) use policy::Policy;

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
