//! Seals: whether a file has been written since it was hashed, told without reading it.
//!
//! A seal is what the file system says of a file (file system, inode, length, times), taken while nobody could write
//! to it: under a read lease that was held from before the first byte was hashed until the file's time of change
//! lay in the past. Whoever writes later moves the time of change, which no program can set. `docs/decisions/0011`
//! says why that is sound, and against whom it is not: root, raw writes below the file system, edits while the
//! machine is off. For those a file is hashed again from time to time.
//!
//! Only file systems that are known to be local and to keep such times are trusted; on others there is no seal.

use std::{fs::File, io, path::Path, thread, time::Duration};

use file_lease::ReadLease;
use node_types::{Digest, Timestamp};
use rustix::{
    fs::{AtFlags, CWD, FileType, StatxFlags, StatxTimestamp},
    io::Errno,
};
use serde::{Deserialize, Serialize};

use crate::clock;

/// The coarsest that trusted file systems stamp, twice over: the kernel's tick, 10 ms at the most.
const GRANULARITY: Duration = Duration::from_millis(20);
/// The same where the times have no part of a second: some keep none (ext4 with small inodes).
const GRANULARITY_SECONDS: Duration = Duration::from_secs(2);
/// How long is waited between two tries of something.
const WAIT: Duration = Duration::from_millis(5);
/// How often a lease that is refused is asked for: a program that is just being started has copies of all
/// descriptors for a moment.
const LEASE_TRIES: u32 = 4;
/// How often is waited for the times of a file to lie in the past, a tenth of a second in all: the clock that stamps
/// lags by a tick, and a stamp may be ahead of it by another.
const SETTLE_TRIES: u32 = 20;

/// Why there is no seal. None of it is damage: the file is to be hashed again instead.
#[derive(Debug, thiserror::Error)]
pub enum Untrusted {
    /// The file system is not one that is trusted.
    #[error("{0} may be written without this machine's seeing it")]
    FileSystem(FileSystem),
    /// Somebody could write to it.
    #[error("it is open for writing, or a writable map of it exists")]
    Writer,
    /// Somebody began to write to it, or cut it.
    #[error("it was opened for writing while it was hashed")]
    Broken,
    /// What the file system says of it changed meanwhile.
    #[error("its {0} changed while it was hashed")]
    Changed(&'static str),
    /// It was changed so shortly ago that the next change could bear the same time.
    #[error("it was changed just now, or bears a time that lies ahead")]
    TooRecent,
    /// No lease for this user.
    #[error("it belongs to another user, who alone may take a lease on it")]
    NotOwner,
    /// No leases here.
    #[error("its file system has no leases")]
    NoLeases,
    /// All but the file system's number is as it was sealed: some make theirs of the device's, which may be called
    /// otherwise after a restart.
    #[error("its file system has another number than when it was sealed")]
    Renumbered,
    /// The operating system failed.
    #[error("it cannot be looked at: {0}")]
    Io(#[from] io::Error),
}

impl Untrusted {
    /// Whether there may be a seal once the file is hashed again, as it stands and where it stands.
    pub(crate) const fn again(&self) -> bool {
        match self {
            Self::Writer | Self::Broken | Self::Changed(_) | Self::TooRecent | Self::Renumbered => true,
            Self::FileSystem(_) | Self::NotOwner | Self::NoLeases | Self::Io(_) => false,
        }
    }
}

impl From<Errno> for Untrusted {
    fn from(error: Errno) -> Self {
        Self::Io(error.into())
    }
}

/// A file system, by the number that statfs(2) gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileSystem(u32);

impl FileSystem {
    /// Those whose word is taken: local, and every write moves the time of change.
    const TRUSTED: &[(u32, &str)] = &[
        (0xEF53, "ext4"),
        (0x5846_5342, "xfs"),
        (0x9123_683E, "btrfs"),
        (0xF2F5_2010, "f2fs"),
        (0x0102_1994, "tmpfs"),
    ];
    /// Others that one meets, to call them by name.
    const KNOWN: &[(u32, &str)] = &[
        (0x6969, "nfs"),
        (0xFF53_4D42, "cifs"),
        (0xFE53_4D42, "smb2"),
        (0x6573_5546, "fuse"),
        (0x0102_1997, "9p"),
        (0x794C_7630, "overlayfs"),
        (0x00C3_6400, "ceph"),
        (0x2FC1_2FC1, "zfs"),
        (0x8584_58F6, "ramfs"),
    ];

    /// The one with this number.
    #[must_use]
    pub const fn of_magic(magic: u32) -> Self {
        Self(magic)
    }

    /// The one that holds this file or folder.
    ///
    /// # Errors
    /// The operating system's.
    pub fn of(path: &Path) -> io::Result<Self> {
        let low = rustix::fs::statfs(path)?.f_type & 0xFFFF_FFFF;
        Ok(Self(u32::try_from(low).unwrap_or(0)))
    }

    /// Whether what is on it is gone with the next start of the machine.
    #[must_use]
    pub const fn is_volatile(self) -> bool {
        matches!(self.0, 0x0102_1994 | 0x8584_58F6)
    }

    /// Whether a seal means anything on it.
    #[must_use]
    pub fn is_trusted(self) -> bool {
        Self::TRUSTED.iter().any(|(magic, _)| *magic == self.0)
    }
}

impl std::fmt::Display for FileSystem {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match Self::TRUSTED.iter().chain(Self::KNOWN).find(|(magic, _)| *magic == self.0) {
            Some((_, name)) => write!(out, "a file system of type {name}"),
            None => write!(out, "a file system of unknown type {:#x}", self.0),
        }
    }
}

/// Seconds since 1970, and nanoseconds.
type Stamp = (i64, u32);

fn stamp(time: StatxTimestamp) -> Stamp {
    (time.tv_sec, time.tv_nsec)
}

/// What the file system says of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) kind: FileType,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) bytes: u64,
    /// Bytes that it takes on the disk.
    pub(crate) taken: u64,
    device: (u32, u32),
    inode: u64,
    modified: Stamp,
    changed: Stamp,
    born: Option<Stamp>,
}

impl Seen {
    /// Looks at what stands at a path, the last part not followed; `None` where nothing does.
    pub(crate) fn at(path: &Path) -> io::Result<Option<Self>> {
        match rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, Self::WANTED) {
            Ok(found) => Ok(Some(Self::new(&found))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Looks at an open file.
    pub(crate) fn of(file: &File) -> io::Result<Self> {
        Ok(Self::new(&rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, Self::WANTED)?))
    }

    const WANTED: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME);

    fn new(found: &rustix::fs::Statx) -> Self {
        let mode = u32::from(found.stx_mode);
        let has_birth = found.stx_mask & StatxFlags::BTIME.bits() != 0;
        Self {
            kind: FileType::from_raw_mode(mode),
            mode: mode & 0o7777,
            uid: found.stx_uid,
            bytes: found.stx_size,
            taken: found.stx_blocks.saturating_mul(512),
            device: (found.stx_dev_major, found.stx_dev_minor),
            inode: found.stx_ino,
            modified: stamp(found.stx_mtime),
            changed: stamp(found.stx_ctime),
            born: has_birth.then(|| stamp(found.stx_btime)),
        }
    }

    /// Whether both are the same inode.
    pub(crate) fn is_the_file_of(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }

    /// What differs that only writing or replacing the file can change.
    fn differs(&self, other: &Self) -> Option<&'static str> {
        [
            ("device", self.device != other.device),
            ("inode", self.inode != other.inode),
            ("length", self.bytes != other.bytes),
            ("time of modification", self.modified != other.modified),
        ]
        .into_iter()
        .find_map(|(what, differs)| differs.then_some(what))
    }
}

/// The folder that sealed files stand in: which file system it is on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// The file system's own number, which stays the same when its device is called otherwise.
    id: u64,
    device: (u32, u32),
    kind: FileSystem,
}

impl Place {
    pub(crate) fn of(folder: &Path) -> io::Result<Self> {
        let Some(seen) = Seen::at(folder)? else { return Err(io::ErrorKind::NotFound.into()) };
        let device = (u64::from(seen.device.0) << 32) | u64::from(seen.device.1);
        let id = match rustix::fs::statvfs(folder)?.f_fsid {
            0 => device,
            id => id,
        };
        Ok(Self { id, device: seen.device, kind: FileSystem::of(folder)? })
    }
}

/// What the file system said of a file when it was verified: whoever writes to it or replaces it changes some of it,
/// as far as the file system is to be trusted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Look {
    inode: u64,
    bytes: u64,
    modified: Stamp,
    changed: Stamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    born: Option<Stamp>,
}

impl Look {
    pub(crate) const fn of(seen: &Seen) -> Self {
        let Seen { inode, bytes, modified, changed, born, .. } = *seen;
        Self { inode, bytes, modified, changed, born }
    }

    /// One digest for all of it.
    pub(crate) fn stamp(&self) -> Digest {
        let Self { inode, bytes, modified, changed, born } = self;
        Digest::of(format!("{inode} {bytes} {modified:?} {changed:?} {born:?}").as_bytes())
    }

    /// What of a file is not as it looked, in words; `None` where all is.
    pub(crate) fn differs(&self, seen: &Seen) -> Option<String> {
        let word = |(seconds, nanoseconds): Stamp| {
            let second =
                Timestamp::from_ms(u64::try_from(seconds).unwrap_or(0).saturating_mul(1000)).to_string();
            format!("{}.{nanoseconds:09}Z", second.trim_end_matches(".000Z"))
        };
        let born = |born: Option<Stamp>| born.map_or_else(|| "unknown".to_owned(), word);
        [
            ("length", self.bytes.to_string(), seen.bytes.to_string()),
            ("inode", self.inode.to_string(), seen.inode.to_string()),
            ("time of birth", born(self.born), born(seen.born)),
            ("time of modification", word(self.modified), word(seen.modified)),
            ("time of change", word(self.changed), word(seen.changed)),
        ]
        .into_iter()
        .find(|(_, verified, found)| verified != found)
        .map(|(what, verified, found)| format!("its {what} is {found}, it was verified with {verified}"))
    }
}

/// What a sealed file looked like, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seal {
    file_system: u64,
    #[serde(flatten)]
    look: Look,
}

impl Seal {
    /// What the file looked like.
    pub(crate) const fn look(&self) -> &Look {
        &self.look
    }

    /// What of a file in `place` is not as it was sealed, in words; `None` where all is.
    ///
    /// # Errors
    /// [`Untrusted::FileSystem`] where it looks the same but that means nothing; [`Untrusted::Renumbered`].
    pub(crate) fn broken(&self, seen: &Seen, place: &Place) -> Result<Option<String>, Untrusted> {
        if let Some(why) = self.look.differs(seen) {
            return Ok(Some(why));
        }
        if !place.kind.is_trusted() {
            return Err(Untrusted::FileSystem(place.kind));
        }
        // A single file may be mounted over.
        if seen.device != place.device {
            return Ok(Some("it is on another file system than its folder".to_owned()));
        }
        if self.file_system != place.id {
            return Err(Untrusted::Renumbered);
        }
        Ok(None)
    }
}

/// Keeps watch over a file while it is hashed: nobody writes to it unnoticed.
#[derive(Debug)]
pub(crate) struct Guard {
    lease: ReadLease,
    seen: Seen,
    place: Place,
}

impl Guard {
    /// Begins to watch a file in `place` that is open for reading alone. Hash it after this.
    pub(crate) fn take(file: &File, place: Place) -> Result<Self, Untrusted> {
        if !place.kind.is_trusted() {
            return Err(Untrusted::FileSystem(place.kind));
        }
        let lease = lease(file)?;
        let seen = Seen::of(lease.file())?;
        if seen.device != place.device {
            return Err(Untrusted::Changed("device"));
        }
        Ok(Self { lease, seen, place })
    }

    /// Whether nobody has opened the file for writing so far.
    pub(crate) fn holds(&self) -> bool {
        self.lease.is_held()
    }

    /// Notes that we ourselves gave the file another name or mode, which moves its time of change.
    pub(crate) fn renamed(mut self) -> Result<Self, Untrusted> {
        let seen = Seen::of(self.lease.file())?;
        match self.seen.differs(&seen) {
            Some(what) => Err(Untrusted::Changed(what)),
            None => {
                self.seen = seen;
                Ok(self)
            }
        }
    }

    /// Seals the file as it was hashed.
    ///
    /// Waits until its times lie in the past, some ten milliseconds as a rule and 100 at the most: as long as the lease is held nothing
    /// is written, and what is written after it bears a later time.
    pub(crate) fn seal(self) -> Result<Seal, Untrusted> {
        let newest = self.seen.changed.max(self.seen.modified);
        let mut waited = 0;
        while !lies_behind(newest, clock::stamps()) {
            if waited == SETTLE_TRIES {
                return Err(Untrusted::TooRecent);
            }
            waited += 1;
            thread::sleep(WAIT);
        }
        let seen = Seen::of(self.lease.file())?;
        if let Some(what) = self.seen.differs(&seen) {
            return Err(Untrusted::Changed(what));
        }
        if seen.changed != self.seen.changed {
            return Err(Untrusted::Changed("time of change"));
        }
        // Asked last: what was found before was found under it.
        if !self.holds() {
            return Err(Untrusted::Broken);
        }
        Ok(Seal { file_system: self.place.id, look: Look::of(&seen) })
    }
}

fn lease(file: &File) -> Result<ReadLease, Untrusted> {
    for tried in 1.. {
        match ReadLease::take(file.try_clone()?) {
            Ok(lease) => return Ok(lease),
            Err(error) => match error.raw_os_error().map(Errno::from_raw_os_error) {
                Some(Errno::AGAIN) if tried < LEASE_TRIES => thread::sleep(WAIT),
                Some(Errno::AGAIN) => break,
                Some(Errno::ACCESS | Errno::PERM) => return Err(Untrusted::NotOwner),
                Some(Errno::INVAL | Errno::NOTSUP | Errno::NOLCK) => return Err(Untrusted::NoLeases),
                _ => return Err(error.into()),
            },
        }
    }
    Err(Untrusted::Writer)
}

/// Whether a file that is changed at `now` could not bear `time`: git's rule for racy timestamps.
fn lies_behind(time: Stamp, now: Stamp) -> bool {
    let granularity = if time.1 == 0 { GRANULARITY_SECONDS } else { GRANULARITY };
    let nanoseconds =
        |(seconds, nanoseconds): Stamp| i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
    nanoseconds(now) - nanoseconds(time) > i128::try_from(granularity.as_nanos()).unwrap_or(i128::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_lies_behind_once_no_later_change_could_bear_it() {
        for (time, now, wanted) in [
            ((10, 1), (10, 1), false),
            ((10, 1), (10, 20_000_001), false),
            ((10, 1), (10, 20_000_002), true),
            ((10, 999_999_999), (11, 19_999_999), false),
            ((10, 999_999_999), (11, 20_000_000), true),
            // Whole seconds: the file system may keep no more.
            ((10, 0), (11, 999_999_999), false),
            ((10, 0), (12, 0), false),
            ((10, 0), (12, 1), true),
            // Ahead of the clock.
            ((20, 1), (10, 1), false),
            ((i64::MAX, 1), (i64::MIN, 1), false),
        ] {
            assert_eq!(lies_behind(time, now), wanted, "{time:?} at {now:?}");
        }
    }

    #[test]
    fn network_stacked_and_unknown_file_systems_are_not_trusted() {
        for magic in [0x6969, 0xFF53_4D42, 0xFE53_4D42, 0x6573_5546, 0x0102_1997, 0x794C_7630, 0x1234, 0] {
            assert!(!FileSystem::of_magic(magic).is_trusted(), "{}", FileSystem::of_magic(magic));
        }
        for magic in [0xEF53, 0x5846_5342, 0x9123_683E, 0xF2F5_2010, 0x0102_1994] {
            assert!(FileSystem::of_magic(magic).is_trusted(), "{}", FileSystem::of_magic(magic));
        }
        assert_eq!(FileSystem::of_magic(0x6573_5546).to_string(), "a file system of type fuse");
        assert_eq!(FileSystem::of_magic(0x1234).to_string(), "a file system of unknown type 0x1234");
    }
}
