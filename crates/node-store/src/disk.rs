//! The disk: the one seam between the store and the operating system's files.
//!
//! Everything the store does to a file that is not a database goes through [`Disk`], and its
//! databases are opened through the SQLite VFS that the disk names. The store runs on
//! [`RealDisk`]; the tests run the same store on a disk in memory that rebuilds what a power cut
//! could leave and that fails on command.
//!
//! Paths are absolute. Files are created 0600, folders 0700, and a symbolic link is never followed
//! in the last part of a path.

use std::{
    ffi::OsString,
    fmt,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt},
    path::Path,
    time::Duration,
};

use rustix::fs::{FallocateFlags, OFlags, RenameFlags};

/// What stands at a path, the last part not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// File, folder, link or something else.
    pub kind: EntryKind,
    /// Permission bits, `mode & 0o7777`.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// Length in bytes.
    pub bytes: u64,
}

/// The sort of thing at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link.
    Link,
    /// A device, a socket, a pipe.
    Other,
}

/// A lock that ends when this is dropped, or with the process.
pub trait Lock: Send + Sync + fmt::Debug {
    /// Leaves the lock file blank: says to the next holder that this one ended in good order. A byte stays, so that the file
    /// keeps its room: the next holder must be able to write on a disk that is full.
    ///
    /// # Errors
    /// The operating system's.
    fn clear(&self) -> io::Result<()>;

    /// Replaces what the lock file says with `holder`, which is never empty: nobody may read in between that this one
    /// ended in good order.
    ///
    /// # Errors
    /// The operating system's.
    fn tell(&self, holder: &str) -> io::Result<()>;
}

/// What [`Disk::lock`] found.
#[derive(Debug)]
pub enum Locked {
    /// The lock is ours.
    Ours {
        /// It.
        lock: Box<dyn Lock>,
        /// What the file said: the last holder, where that one did not end in good order; else nothing.
        last: String,
    },
    /// Another process holds it; what the file says (its pid).
    Theirs(String),
}

/// The files of a volume.
///
/// Nothing here is durable until [`Disk::sync_file`] for a file's bytes and [`Disk::sync_dir`] for
/// names that were made, renamed or removed in a folder.
///
/// # Errors
/// Every call gives the operating system's error. "Not found" is an answer, not an error, where a
/// call returns an `Option`.
#[expect(clippy::missing_errors_doc, reason = "said once, above")]
pub trait Disk: Send + Sync + fmt::Debug {
    /// The name of the SQLite VFS that opens this disk's databases; `None` is SQLite's own.
    fn vfs(&self) -> Option<&str>;

    /// The user whose files these should be.
    fn uid(&self) -> u32;

    /// What stands at `path`, or nothing.
    fn entry(&self, path: &Path) -> io::Result<Option<Entry>>;

    /// The names in a folder, sorted.
    fn list(&self, folder: &Path) -> io::Result<Vec<OsString>>;

    /// Makes a folder, 0700. It is an error if something stands there.
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// Makes a new file, 0600, holding `bytes`, not yet synced. It is an error if something stands
    /// there (`O_EXCL`), a link too (`O_NOFOLLOW`).
    fn create_file(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;

    /// Syncs a file's bytes and length.
    fn sync_file(&self, path: &Path) -> io::Result<()>;

    /// Writes a file's bytes over themselves and syncs it: then what can be read is on the disk. After a
    /// failed sync another sync alone does not do that, for the system may have dropped what it could not
    /// write and still show it.
    fn rewrite(&self, path: &Path) -> io::Result<()>;

    /// Syncs a folder: the names in it.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// The whole of a file, or `None` if there is none. A file over `bytes_max` is an error of kind
    /// [`io::ErrorKind::FileTooLarge`]; a link is refused.
    fn read(&self, path: &Path, bytes_max: u64) -> io::Result<Option<Vec<u8>>>;

    /// Renames, replacing what stands at `to`.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Renames; it is an error of kind [`io::ErrorKind::AlreadyExists`] if something stands at `to`.
    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file; none being there is no error.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes or resizes a file so that `bytes` of the disk are really taken by it.
    fn reserve(&self, path: &Path, bytes: u64) -> io::Result<()>;

    /// Bytes that this user could still write in the folder's file system.
    fn free_bytes(&self, folder: &Path) -> io::Result<u64>;

    /// Takes the lock file at `path`, making it if there is none, and writes `holder` into it.
    fn lock(&self, path: &Path, holder: &str) -> io::Result<Locked>;

    /// Who holds the lock file at `path` now, if anybody does: what it says. Changes nothing.
    fn holder(&self, path: &Path) -> io::Result<Option<String>>;
}

/// Writes a new file so that after a crash it is either whole or not there: temporary file, sync,
/// rename that replaces nothing, sync of the folder.
///
/// # Errors
/// The operating system's; `AlreadyExists` if something stands at `path`.
pub fn write_new(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_then(disk, path, bytes, |temporary| disk.rename_new(temporary, path))
}

/// Replaces a file so that after a crash it is either the old one or the new one.
///
/// # Errors
/// The operating system's.
pub fn replace(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_then(disk, path, bytes, |temporary| disk.rename(temporary, path))
}

fn write_then(
    disk: &dyn Disk,
    path: &Path,
    bytes: &[u8],
    publish: impl Fn(&Path) -> io::Result<()>,
) -> io::Result<()> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a file needs a folder and a name"));
    };
    let temporary = folder.join(format!(".{}.tmp", name.to_string_lossy()));
    // One left by a crash was never published, and the volume's lock says that nobody else writes it.
    disk.remove(&temporary)?;
    let written = disk
        .create_file(&temporary, bytes)
        .and_then(|()| disk.sync_file(&temporary))
        .and_then(|()| publish(&temporary));
    if written.is_err() {
        // The first error is the one to tell; a left-over is removed by the next write.
        let _ = disk.remove(&temporary);
    }
    written?;
    disk.sync_dir(folder)
}

/// Bytes that [`RealDisk::rewrite`] takes into memory at once.
const REWRITE_BYTES: usize = 256 << 10;

/// The operating system's files.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

#[derive(Debug)]
struct FileLock {
    held: File,
}

impl Lock for FileLock {
    fn clear(&self) -> io::Result<()> {
        self.held.write_all_at(b"\n", 0)?;
        self.held.set_len(1)
    }

    fn tell(&self, holder: &str) -> io::Result<()> {
        self.held.write_all_at(holder.as_bytes(), 0)?;
        self.held.set_len(holder.len() as u64)
    }
}

/// The longest text of a lock file that is read, in bytes: a pid and a URL on this machine take a third of it.
const HOLDER_BYTES_MAX: u64 = 256;

/// How often a lock that is held is tried again, and how long each time is waited: a fifth of a second in all.
const LOCK_TRIES: u32 = 20;
const LOCK_WAIT: Duration = Duration::from_millis(10);

/// What a lock file says.
fn holder_in(file: &mut File) -> io::Result<String> {
    let mut text = String::new();
    file.take(HOLDER_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text.trim().to_owned())
}

fn no_follow() -> i32 {
    i32::try_from((OFlags::NOFOLLOW | OFlags::CLOEXEC).bits()).unwrap_or(0)
}

fn found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the file room")]
impl Disk for RealDisk {
    fn vfs(&self) -> Option<&str> {
        None
    }

    fn uid(&self) -> u32 {
        rustix::process::geteuid().as_raw()
    }

    fn entry(&self, path: &Path) -> io::Result<Option<Entry>> {
        let Some(data) = found(fs::symlink_metadata(path))? else { return Ok(None) };
        let kind = match data.file_type() {
            file if file.is_file() => EntryKind::File,
            folder if folder.is_dir() => EntryKind::Folder,
            link if link.is_symlink() => EntryKind::Link,
            _ => EntryKind::Other,
        };
        Ok(Some(Entry { kind, mode: data.mode() & 0o7777, uid: data.uid(), bytes: data.len() }))
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<OsString>> {
        let mut names =
            fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?;
        names.sort();
        Ok(names)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::DirBuilder::new().mode(0o700).create(path)
    }

    fn create_file(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(no_follow())
            .open(path)?;
        file.write_all(bytes)
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        OpenOptions::new().write(true).custom_flags(no_follow()).open(path)?.sync_all()
    }

    fn rewrite(&self, path: &Path) -> io::Result<()> {
        let file = OpenOptions::new().read(true).write(true).custom_flags(no_follow()).open(path)?;
        let mut piece = vec![0; REWRITE_BYTES];
        let mut offset = 0;
        loop {
            let read = file.read_at(&mut piece, offset)?;
            if read == 0 {
                return file.sync_all();
            }
            file.write_all_at(&piece[..read], offset)?;
            offset += read as u64;
        }
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn read(&self, path: &Path, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
        let opened = OpenOptions::new().read(true).custom_flags(no_follow()).open(path);
        let Some(file) = found(opened)? else { return Ok(None) };
        let mut bytes = Vec::new();
        file.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes)?;
        if u64::try_from(bytes.len()).is_ok_and(|length| length > bytes_max) {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("{} is larger than {bytes_max} bytes", path.display()),
            ));
        }
        Ok(Some(bytes))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        match rustix::fs::renameat_with(rustix::fs::CWD, from, rustix::fs::CWD, to, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(()),
            // File systems without RENAME_NOREPLACE: a hard link refuses to replace as well.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
                fs::hard_link(from, to)?;
                fs::remove_file(from)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        found(fs::remove_file(path)).map(|_| ())
    }

    fn reserve(&self, path: &Path, bytes: u64) -> io::Result<()> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(no_follow())
            .open(path)?;
        file.set_len(bytes)?;
        if bytes > 0 {
            rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes)?;
        }
        Ok(())
    }

    fn free_bytes(&self, folder: &Path) -> io::Result<u64> {
        let data = rustix::fs::statvfs(folder)?;
        Ok(data.f_bavail.saturating_mul(data.f_frsize))
    }

    fn lock(&self, path: &Path, holder: &str) -> io::Result<Locked> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(no_follow())
            .open(path)?;
        // Somebody may look who holds it at this moment, or start a program that has not closed it yet.
        let mut tried = file.try_lock();
        for _ in 0..LOCK_TRIES {
            if !matches!(tried, Err(TryLockError::WouldBlock)) {
                break;
            }
            std::thread::sleep(LOCK_WAIT);
            tried = file.try_lock();
        }
        match tried {
            Ok(()) => {
                // Whatever is in it that is not text, somebody did not end in good order.
                let last = holder_in(&mut file).unwrap_or_else(|_| "?".to_owned());
                // Never empty in between: a power cut must not make a bad end look like one in good order.
                file.rewind()?;
                file.write_all(holder.as_bytes())?;
                file.set_len(holder.len() as u64)?;
                Ok(Locked::Ours { lock: Box::new(FileLock { held: file }), last })
            }
            Err(TryLockError::WouldBlock) => Ok(Locked::Theirs(holder_in(&mut file)?)),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn holder(&self, path: &Path) -> io::Result<Option<String>> {
        let opened = OpenOptions::new().read(true).custom_flags(no_follow()).open(path);
        let mut file = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(None),
            Err(TryLockError::WouldBlock) => holder_in(&mut file).map(Some),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}
