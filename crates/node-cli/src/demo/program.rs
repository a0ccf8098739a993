//! The demo's own processes: started, killed, stopped, and ended with the demo.

use std::{
    fs::File,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    thread::sleep,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::failure::Failure;

/// Between two looks whether a process has ended.
const LOOK: Duration = Duration::from_millis(20);

/// A process of the demo's. It is killed when this is dropped, unless it was let go.
#[derive(Debug)]
pub(crate) struct Program {
    child: Option<Child>,
    pid: u32,
}

impl Program {
    /// Starts this very binary with these arguments; what it says goes to the end of `log`.
    ///
    /// # Errors
    /// [`Failure`].
    #[expect(clippy::disallowed_methods, reason = "the log of a process of the demo's")]
    pub(crate) fn start(
        binary: &Path,
        arguments: &[&str],
        folder: &Path,
        log: &Path,
    ) -> Result<Self, Failure> {
        let failed = |path: &Path, what, source| Failure::File { what, path: path.to_owned(), source };
        let log_file = File::options().append(true).create(true).open(log);
        let log_file = log_file.map_err(|error| failed(log, "write", error))?;
        let second = log_file.try_clone().map_err(|error| failed(log, "write", error))?;
        let child = Command::new(binary)
            .args(arguments)
            .current_dir(folder)
            .env("RUST_LOG", "info")
            .stdin(Stdio::null())
            .stdout(log_file)
            .stderr(second)
            .spawn()
            .map_err(|error| failed(binary, "start", error))?;
        Ok(Self { pid: child.id(), child: Some(child) })
    }

    /// Its process ID.
    pub(crate) const fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether it has ended by itself, and how.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut().and_then(|child| child.try_wait().ok().flatten())
    }

    /// SIGKILL: it gets no time for anything.
    pub(crate) fn kill(mut self) {
        self.end();
    }

    /// SIGTERM, and SIGKILL after `patience`. Says whether it ended in time, and well.
    pub(crate) fn stop(mut self, patience: Duration) -> bool {
        self.signal(Signal::TERM);
        let mut waited = Duration::ZERO;
        while waited < patience {
            if let Some(status) = self.ended() {
                self.child = None;
                return status.success();
            }
            sleep(LOOK);
            waited += LOOK;
        }
        false
    }

    /// Lets it run on after the demo, and gives its process ID.
    pub(crate) fn let_go(mut self) -> u32 {
        self.child = None;
        self.pid
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) {
            // It may have ended by itself.
            let _ = kill_process(pid, signal);
        }
    }

    fn end(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.end();
    }
}

/// The processes that a process started and that still run, by `/proc`.
pub(crate) fn children_of(pid: u32) -> Vec<u32> {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let lists =
        threads.flatten().filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|child| child.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// Whether a process is there, and no mere remnant of one.
pub(crate) fn runs(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = status.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().next());
    state.is_some_and(|state| state != "Z" && state != "X")
}
