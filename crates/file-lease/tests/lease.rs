//! Who may write to a file, breaks a lease on it or keeps one from being taken.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]
#![expect(clippy::disallowed_methods, reason = "these files are the tests' own")]

use std::{
    fs::{File, OpenOptions},
    io::{ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
};

use file_lease::ReadLease;
use memmap2::MmapMut;

fn content() -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&[b'a'; 8192]).unwrap();
    file
}

/// A file that nobody has open any more.
fn closed() -> tempfile::TempPath {
    content().into_temp_path()
}

fn refused(lease: std::io::Result<ReadLease>) -> bool {
    lease.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

#[test]
fn a_lease_is_held_until_somebody_opens_the_file_for_writing() {
    let path = closed();
    let lease = ReadLease::take(File::open(&path).unwrap()).unwrap();
    assert!(lease.is_held());
    let _reader = File::open(&path).unwrap();
    assert!(lease.is_held(), "readers are welcome");
    let writing = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(&path);
    assert_eq!(writing.unwrap_err().kind(), ErrorKind::WouldBlock, "it would have to wait");
    assert!(!lease.is_held());
    drop(lease);
    OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(&path).unwrap();
}

#[test]
fn no_lease_is_given_while_the_file_is_open_for_writing() {
    let path = closed();
    let writer = OpenOptions::new().write(true).open(&path).unwrap();
    assert!(refused(ReadLease::take(File::open(&path).unwrap())));
    drop(writer);
    assert!(ReadLease::take(File::open(&path).unwrap()).unwrap().is_held());
}

/// Stores through a map that was dirtied before move no time of the file: only the refusal shows them.
#[test]
fn no_lease_is_given_while_a_writable_map_exists_though_its_file_is_closed() {
    let path = closed();
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    // SAFETY: the file is this test's alone and is not cut while it is mapped.
    let mut map = unsafe { MmapMut::map_mut(&file) }.unwrap();
    map[0] = b'b';
    drop(file);
    assert!(refused(ReadLease::take(File::open(&path).unwrap())));
    map[0] = b'c';
    drop(map);
    assert!(ReadLease::take(File::open(&path).unwrap()).unwrap().is_held());
    assert_eq!(std::fs::read(&path).unwrap()[0], b'c');
}

#[test]
fn a_file_that_was_opened_for_writing_takes_no_read_lease() {
    let path = closed();
    assert!(refused(ReadLease::take(OpenOptions::new().read(true).write(true).open(&path).unwrap())));
}

/// The kernel's own signal for it, SIGIO, would end the process; that this test goes on is what it shows.
#[test]
fn the_holder_of_a_broken_lease_lives_on() {
    let path = closed();
    let lease = ReadLease::take(File::open(&path).unwrap()).unwrap();
    for _ in 0..2 {
        let writing = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(&path);
        assert!(writing.is_err());
    }
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert!(!lease.is_held());
}
