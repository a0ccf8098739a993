//! Read leases on files (fcntl(2), "Leases"): as long as one is held, nobody has the file open for writing.
//!
//! The kernel refuses a read lease while the file is open for writing anywhere, or a writable shared map of it
//! exists, and takes it away when somebody opens it for writing or cuts it. So what was read under a lease that
//! is still held was not written meanwhile, by whoever goes through this file system of this kernel.
//!
//! `unsafe` is here and nowhere else of the store because neither the standard library nor rustix has leases, and
//! libc's `fcntl` takes any argument for any command. The three commands used here take an integer or nothing.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, RawFd},
};

/// Which signal tells of a lease that is being broken; `asm-generic/fcntl.h`, which libc leaves out.
const F_SETSIG: i32 = 10;

/// A read lease, held until this is dropped or the kernel takes it away.
#[derive(Debug)]
pub struct ReadLease {
    file: File,
}

impl ReadLease {
    /// Takes a read lease on a file that was opened for reading alone.
    ///
    /// Whoever then opens it for writing waits until the lease is let go, for at most
    /// `/proc/sys/fs/lease-break-time` seconds. This process is told so by SIGURG, which is ignored where nobody
    /// handles it; the kernel's own choice, SIGIO, would end it.
    ///
    /// # Errors
    /// `EAGAIN` ([`io::ErrorKind::WouldBlock`]) while the file is open for writing or has a writable shared map,
    /// `EACCES` where it belongs to another user, `EINVAL` where its file system has no leases.
    pub fn take(file: File) -> io::Result<Self> {
        fcntl(file.as_raw_fd(), F_SETSIG, libc::SIGURG)?;
        fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK)?;
        Ok(Self { file })
    }

    /// Whether it is still held: nobody opened the file for writing or cut it since it was taken.
    #[must_use]
    pub fn is_held(&self) -> bool {
        // While it is being broken the kernel already answers what it will become.
        fcntl(self.file.as_raw_fd(), libc::F_GETLEASE, 0).is_ok_and(|kind| kind == libc::F_RDLCK)
    }

    /// The file.
    #[must_use]
    pub const fn file(&self) -> &File {
        &self.file
    }
}

impl Drop for ReadLease {
    fn drop(&mut self) {
        // Where it fails the lease is gone already; closing the file ends it too.
        let _ = fcntl(self.file.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK);
    }
}

fn fcntl(file: RawFd, command: i32, argument: i32) -> io::Result<i32> {
    // SAFETY: the commands of this crate read `argument` as an integer and touch no memory of ours.
    let answer = unsafe { libc::fcntl(file, command, argument) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}
