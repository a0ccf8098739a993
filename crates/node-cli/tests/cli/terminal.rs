//! A pseudo-terminal: the person's side of it, and one for a program.

use std::{
    ffi::OsStr,
    fs::{File, OpenOptions},
    io::Read as _,
    os::unix::ffi::OsStrExt as _,
    thread::{self, JoinHandle},
};

use rustix::{
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};

/// Makes one of 100 columns: what the person sees and types, and what the program has.
pub(crate) fn terminal() -> (File, File) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let program = OpenOptions::new().read(true).write(true).open(OsStr::from_bytes(name.as_bytes())).unwrap();
    tcsetwinsize(&program, Winsize { ws_row: 24, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    (File::from(master), program)
}

/// Everything that is shown until every program has closed it.
pub(crate) fn watch(mut person: File) -> JoinHandle<String> {
    thread::spawn(move || {
        let (mut seen, mut some) = (Vec::new(), [0; 4096]);
        // A terminal that nobody has open any more gives an error.
        while let Ok(length @ 1..) = person.read(&mut some) {
            seen.extend_from_slice(&some[..length]);
        }
        String::from_utf8_lossy(&seen).into_owned()
    })
}
