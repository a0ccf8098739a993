//! Asking for a passphrase at the terminal, with the echo off.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use rustix::{
    fs::OFlags,
    termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr},
};
use zeroize::Zeroizing;

use super::source::Prompt;

/// The longest passphrase that a terminal can give, in bytes.
const PASSPHRASE_BYTES_MAX: usize = 1024;
/// What Ctrl-C types.
const CTRL_C: u8 = 3;

/// Asks at `/dev/tty`: the terminal of the session, whatever the standard streams are.
///
/// The echo is off while it waits and is on again afterwards, also after an error and after Ctrl-C,
/// which cancels the question instead of ending the process with the echo off.
#[derive(Clone, Debug)]
pub struct TerminalPrompt {
    terminal: PathBuf,
}

impl TerminalPrompt {
    /// The session's terminal.
    #[must_use]
    pub fn new() -> Self {
        Self::at("/dev/tty")
    }

    /// Another terminal.
    #[must_use]
    pub fn at(terminal: impl Into<PathBuf>) -> Self {
        Self { terminal: terminal.into() }
    }
}

impl Default for TerminalPrompt {
    fn default() -> Self {
        Self::new()
    }
}

impl Prompt for TerminalPrompt {
    fn passphrase(&self, purpose: &str) -> io::Result<Zeroizing<String>> {
        let terminal = open(&self.terminal)?;
        let mut shared = &terminal;
        let quiet = Quiet::start(&terminal)?;
        write!(shared, "{purpose}: ")?;
        let line = read_line(shared);
        // The newline that was typed was not shown either.
        let ended = writeln!(shared);
        drop(quiet);
        let line = line?;
        ended?;
        let text =
            std::str::from_utf8(&line).map_err(|_| invalid("the passphrase that was typed is not UTF-8"))?;
        Ok(Zeroizing::new(text.to_owned()))
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[expect(clippy::disallowed_methods, reason = "a terminal is no file of the volume's disk")]
fn open(path: &Path) -> io::Result<File> {
    // A process without a terminal must not get this one as its own.
    let flags = i32::try_from((OFlags::CLOEXEC | OFlags::NOCTTY).bits()).unwrap_or(0);
    OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)
}

fn read_line(mut terminal: &File) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut line = Zeroizing::new(Vec::with_capacity(PASSPHRASE_BYTES_MAX));
    let mut byte = Zeroizing::new([0_u8; 1]);
    loop {
        match terminal.read(byte.as_mut_slice()) {
            Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the terminal was closed")),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
        match byte[0] {
            b'\n' | b'\r' => return Ok(line),
            CTRL_C => {
                return Err(io::Error::new(io::ErrorKind::Interrupted, "the question was cancelled"));
            }
            _ if line.len() == PASSPHRASE_BYTES_MAX => return Err(invalid("the passphrase is too long")),
            typed => line.push(typed),
        }
    }
}

/// The terminal without echo, until it is dropped.
struct Quiet<'a> {
    terminal: &'a File,
    before: Termios,
}

impl<'a> Quiet<'a> {
    fn start(terminal: &'a File) -> io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO | LocalModes::ECHONL | LocalModes::ISIG);
        quiet.local_modes.insert(LocalModes::ICANON);
        // Ctrl-C ends the line at once and is read as a byte.
        quiet.special_codes[SpecialCodeIndex::VEOL] = CTRL_C;
        // What was typed before the question was shown with echo: it is thrown away.
        tcsetattr(terminal, OptionalActions::Flush, &quiet)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        // There is nothing else to try if the terminal is gone.
        let _ = tcsetattr(self.terminal, OptionalActions::Flush, &self.before);
    }
}
