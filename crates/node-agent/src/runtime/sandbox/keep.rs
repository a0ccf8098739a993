//! The first stage: stays beside the program, and leaves nothing behind.
//!
//! It is the reaper of everything that the program starts: what loses its parent becomes its child. So killing its
//! children until there are none kills them all, whatever process group or session they made for themselves.

use std::{
    io::Read,
    os::unix::process::CommandExt,
    process::{Command, Stdio},
    thread,
};

use rustix::{
    io::Errno,
    process::{Pid, Signal, WaitOptions, WaitStatus},
};

use super::{COMMAND, FAILED, Policy, close_inherited};

/// Runs the program until it ends or the Agent does. Gives its exit status, 128 and the signal where one ended it.
///
/// # Errors
/// What could not be done.
pub(super) fn run(policy: &Policy) -> Result<u8, String> {
    close_inherited()?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|error| format!("cannot become the reaper: {error}"))?;
    let inner = Policy { parent: rustix::process::getpid(), ..policy.clone() };
    // The same binary, also where its file has been replaced since.
    let child = Command::new("/proc/self/exe")
        .arg0(COMMAND)
        .args([COMMAND, "enter"])
        .args(inner.to_args())
        .stdin(Stdio::null())
        .spawn()
        .map_err(|error| format!("cannot start the second stage: {error}"))?;
    let program =
        i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or("the second stage has no process ID")?;
    // It ends with the process.
    thread::Builder::new()
        .spawn(kill_when_the_agent_ends)
        .map_err(|error| format!("cannot watch the Agent: {error}"))?;
    reap(program)
}

/// The Agent holds the other end of standard input and never writes to it.
fn kill_when_the_agent_ends() {
    let mut byte = [0];
    while std::io::stdin().read(&mut byte).is_ok_and(|count| count > 0) {}
    kill_children();
}

/// Waits for every child; from the moment that the program has ended, kills those that are left.
fn reap(program: Pid) -> Result<u8, String> {
    let mut status = None;
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, ended))) if pid == program => status = Some(code(ended)),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::CHILD) => return Ok(status.unwrap_or(FAILED)),
            Err(error) => return Err(format!("cannot wait for the program: {error}")),
        }
        if status.is_some() {
            kill_children();
        }
    }
}

fn kill_children() {
    for pid in children() {
        // One that ended meanwhile is a zombie until it is waited for, so no number names another process.
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
}

/// The processes whose parent this is. The kernel has a shorter list of them, but not every kernel.
#[expect(clippy::disallowed_methods, reason = "the kernel's lists, no files")]
fn children() -> Vec<Pid> {
    let own = rustix::process::getpid().as_raw_nonzero().to_string();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?));
    let is_child = |pid: &Pid| {
        let stat = std::fs::read(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
        let stat = String::from_utf8_lossy(&stat).into_owned();
        // The name stands in brackets and may hold anything; state and parent follow it.
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1));
        parent == Some(own.as_str())
    };
    pids.filter(is_child).collect()
}

fn code(status: WaitStatus) -> u8 {
    let code = status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(FAILED)
}
