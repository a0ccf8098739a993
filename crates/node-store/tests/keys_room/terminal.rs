//! The question at a terminal, asked of a pseudo-terminal.

use std::{
    ffi::OsStr,
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::unix::ffi::OsStrExt,
    path::PathBuf,
    thread::{self, JoinHandle},
};

use node_store::keys::{Prompt, TerminalPrompt};
use rustix::{
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, tcgetattr},
};
use zeroize::Zeroizing;

struct Terminal {
    person: File,
    program: File,
    answer: JoinHandle<io::Result<Zeroizing<String>>>,
}

/// Asks, and waits until the question stands on the screen.
fn ask() -> Terminal {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let path = PathBuf::from(OsStr::from_bytes(ptsname(&master, Vec::new()).unwrap().as_bytes()));
    let mut person = File::from(master);
    let program = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    assert!(echoes(&program));
    let answer = thread::spawn(move || TerminalPrompt::at(path).passphrase("the passphrase"));
    let mut question = [0; 16];
    person.read_exact(&mut question).unwrap();
    assert_eq!(&question, b"the passphrase: ");
    Terminal { person, program, answer }
}

fn echoes(terminal: &File) -> bool {
    tcgetattr(terminal).unwrap().local_modes.contains(LocalModes::ECHO)
}

#[test]
fn a_passphrase_is_read_without_echo_and_the_echo_comes_back() {
    let mut terminal = ask();
    assert!(!echoes(&terminal.program));
    terminal.person.write_all("pässword 1\n".as_bytes()).unwrap();
    assert_eq!(terminal.answer.join().unwrap().unwrap().as_str(), "pässword 1");
    assert!(echoes(&terminal.program));
    let mut shown = [0; 2];
    terminal.person.read_exact(&mut shown).unwrap();
    assert_eq!(&shown, b"\r\n", "a new line is all that was shown");
}

#[test]
fn ctrl_c_cancels_the_question_and_the_echo_comes_back() {
    let mut terminal = ask();
    terminal.person.write_all(b"half a pass\x03").unwrap();
    assert_eq!(terminal.answer.join().unwrap().unwrap_err().kind(), io::ErrorKind::Interrupted);
    assert!(echoes(&terminal.program));
}

#[test]
fn bytes_that_are_no_text_are_refused_and_the_echo_comes_back() {
    let mut terminal = ask();
    terminal.person.write_all(b"\xff\xfe\n").unwrap();
    assert_eq!(terminal.answer.join().unwrap().unwrap_err().kind(), io::ErrorKind::InvalidData);
    assert!(echoes(&terminal.program));
}

#[test]
fn no_terminal_is_an_error() {
    assert!(TerminalPrompt::at("/dev/null").passphrase("x").is_err());
}
