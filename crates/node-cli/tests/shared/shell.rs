//! Somebody who types the commands of a page, one after the other, in a folder of their own.
//!
//! What runs until Ctrl-C is begun and left to run until the end, when it gets its Ctrl-C. Beside it a command is given again
//! until it ends as it should: what was begun may take its time. Nothing that is typed sees this machine's settings, and the ports of
//! the pages are taken for others, which nobody else has.

use std::{
    fs::File,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _, process::ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::pages::Line;

/// The longest that anything is waited for.
const PATIENCE: Duration = Duration::from_secs(120);
/// Below it no port is given to whoever asks for any.
const PORTS: u32 = 32_768;

/// A shell, and what runs beside it.
pub struct Shell {
    folder: PathBuf,
    /// Comes first in its PATH.
    programs: PathBuf,
    variables: Vec<(String, String)>,
    running: Vec<Running>,
}

struct Running {
    line: String,
    child: Child,
    said: PathBuf,
}

impl Shell {
    /// One in `folder`, in which `resultity-node` is the program under test, its home is that folder, and what a machine
    /// without a screen or a second user lacks has a stand-in: a browser fetches the page, `sudo` is for those who are not root.
    pub fn new(folder: &Path) -> Self {
        let programs = folder.join("bin");
        std::fs::create_dir(&programs).unwrap();
        let mut shell =
            Self { folder: folder.to_owned(), programs, variables: Vec::new(), running: Vec::new() };
        std::os::unix::fs::symlink(
            env!("CARGO_BIN_EXE_resultity-node"),
            shell.programs.join("resultity-node"),
        )
        .unwrap();
        shell.program("xdg-open", "exec curl -fsS -o /dev/null \"$1\"");
        let home = folder.to_str().unwrap().to_owned();
        shell.sees("RESULTITY_PAGE_LISTEN", &format!("127.0.0.1:{}", shell.port(7413)));
        shell.sees("RESULTITY_HOME", &home);
        shell.sees("HOME", &home);
        shell
    }

    /// A variable of its environment.
    pub fn sees(&mut self, name: &str, value: &str) {
        self.variables.push((name.to_owned(), value.to_owned()));
    }

    /// A program of its own, before those of the machine.
    pub fn program(&self, name: &str, script: &str) {
        let path = self.programs.join(name);
        // Where a link stands, what it leads to would be written.
        let _ = std::fs::remove_file(&path);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// The port that stands for one of a page's: another one for each process.
    pub fn port(&self, of_page: u32) -> u32 {
        let own = std::process::id() % 5_000;
        PORTS / 2 + own * 3 + of_page % 3
    }

    /// The command with what this machine has in the place of what the page names.
    fn here(&self, line: &str) -> String {
        let mut line = line.replace("192.0.2.7", "127.0.0.1");
        for port in [7411, 7413] {
            line = line.replace(&format!(":{port}"), &format!(":{}", self.port(port)));
        }
        line
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", &self.here(line)]).env_clear().current_dir(&self.folder).stdin(Stdio::null());
        let path = format!("{}:{}", self.programs.display(), std::env::var("PATH").unwrap());
        command.env("PATH", path).envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs a command as it stands on its page, and gives what it said.
    #[track_caller]
    pub fn types(&mut self, line: &Line) -> String {
        if line.stays() {
            self.begins(&line.0);
            return String::new();
        }
        let until = Instant::now() + PATIENCE;
        loop {
            let ran = self.command(&line.0).output().unwrap();
            let said = String::from_utf8_lossy(&[ran.stdout, ran.stderr].concat()).into_owned();
            if ran.status.code().is_some_and(|code| line.codes().contains(&code)) {
                return said;
            }
            let others: Vec<_> = self.running.iter().map(Running::story).collect();
            assert!(
                !self.running.is_empty() && Instant::now() < until,
                "`{}` ended with {}:\n{said}\n{}",
                line.0,
                ran.status,
                others.concat()
            );
            sleep(Duration::from_millis(200));
        }
    }

    /// Begins what runs until Ctrl-C, and waits until it says something.
    #[track_caller]
    fn begins(&mut self, line: &str) {
        let said = self.programs.join(format!("said.{}", self.running.len()));
        let output = File::create(&said).unwrap();
        let mut command = self.command(&format!("exec {line}"));
        command.process_group(0).stdout(output.try_clone().unwrap()).stderr(output);
        self.running.push(Running { line: line.to_owned(), child: command.spawn().unwrap(), said });
        let until = Instant::now() + PATIENCE;
        let running = self.running.last_mut().unwrap();
        while std::fs::metadata(&running.said).unwrap().len() == 0 {
            assert!(running.child.try_wait().unwrap().is_none(), "{}", running.story());
            assert!(Instant::now() < until, "`{line}` says nothing");
            sleep(Duration::from_millis(50));
        }
    }

    /// Ctrl-C for what runs, the newest first: each must have stayed until now, and end well or as of any interrupted program.
    #[track_caller]
    pub fn ends(mut self) {
        for running in self.running.iter_mut().rev() {
            assert!(running.child.try_wait().unwrap().is_none(), "it did not stay: {}", running.story());
            kill_process_group(Pid::from_child(&running.child), Signal::INT).unwrap();
            let until = Instant::now() + PATIENCE;
            let ended = loop {
                if let Some(ended) = running.child.try_wait().unwrap() {
                    break ended;
                }
                assert!(Instant::now() < until, "it does not end: {}", running.story());
                sleep(Duration::from_millis(50));
            };
            let well = ended.success() || ended.signal() == Some(Signal::INT.as_raw());
            assert!(well, "it ended with {ended}: {}", running.story());
        }
        self.running.clear();
    }
}

impl Running {
    fn story(&self) -> String {
        format!("`{}` said:\n{}\n", self.line, std::fs::read_to_string(&self.said).unwrap_or_default())
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        for running in &mut self.running {
            let _ = kill_process_group(Pid::from_child(&running.child), Signal::KILL);
            let _ = running.child.wait();
        }
    }
}
