//! The volume: a folder that belongs to one network and one node, its lock and its three databases.
//!
//! ```text
//! <home>/<network>/   0700
//!   LOCK              flock(2); first line the holder's pid, second the URL of its page where it has one; empty after
//!                     an end in good order
//!   state.db jobs.db logs.db    0600, each with -wal and -shm while open
//!   RESERVE.*         bytes kept back so that ending jobs works on a full disk
//!   *.damaged-<date>  damaged databases, moved aside: see [`salvage`]
//!   *.format-<n>      databases as they were before a migration: see [`format`](crate::format)
//! ```
//!
//! `state.db` is made last: where it is, the others were, and one that is missing is a loss, not a beginning.
//! After an end that was not in good order each database is checked: all of it at once up to
//! [`CHECK_AT_ONCE_BYTES`], a larger one in the background (the `check` room); until that is done, `LOCK` says
//! that it is to be done. What is damaged is
//! saved as far as it can be read, the node starts, and the loss is kept until it is reported.
//!
//! What is not ours, or is not as private as it must be, is refused with both sides named; nothing is
//! changed then. Everything is checked before SQLite opens a file: closing a file that SQLite has open
//! would drop its POSIX locks (sqlite.org, "How To Corrupt An SQLite Database File", 2.2).

use std::{
    ffi::OsStr,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use node_types::{Network, Timestamp};
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::{
    check::Check,
    disk::{Disk, Lock, Locked},
    format::{self, Access, Database, DiskFault, FormatError, Stamp},
    jobs, logs,
    meter::Distribution,
    private::{NotPrivate, Private, private_if_there},
    reader::{ReadError, Reader},
    salvage,
    view::View,
    writer::{Effect, Holder, Reserve, Ticket, Upkeep, WAL_BYTES_MAX, Writer},
};

/// Bytes kept back for ending jobs on a full disk, unless the embedder sets another number: 64 MiB, half
/// of it for `jobs.db` and half for `state.db`, each twice the largest write-ahead log. Where less than
/// one half is free beside it, no new job is taken: the disk may still fill up with other things, but not
/// with jobs.
pub const RESERVE_BYTES: u64 = 64 << 20;

/// Bytes of `jobs.db` or `logs.db` that are checked before the volume opens, 2 MiB: a few milliseconds. A larger one
/// is checked in the background. `state.db` is small by its own limits and always checked.
pub const CHECK_AT_ONCE_BYTES: u64 = 2 << 20;

/// What saving a database takes at the most beside twice its own bytes: 1 MiB.
const SAVE_BYTES: u64 = 1 << 20;

const LOCK: &str = "LOCK";
/// Says that the node was moved away where `jobs.db`, which says so first, cannot: JSON, as [`jobs::Retired`].
const MOVED: &str = "MOVED";
/// Of which no more is read.
const MOVED_BYTES_MAX: u64 = 64 << 10;
/// More than an opening writes before its writers see to the room: SQLite's shared memory and logs of three databases.
const OPENING_BYTES: u64 = 1 << 20;
pub(crate) const KEYS: &str = "keys";
/// Bytes kept back at the most so that logs can be deleted on a full disk, 4 MiB: they go in small steps.
const LOGS_RESERVE_BYTES_MAX: u64 = 4 << 20;
/// Bytes of the write-ahead log of `state.db` beyond which it is started anew: 1 MiB, and an eighth of it as a rule.
const STATE_LOG_BYTES_MAX: u64 = 1 << 20;
const RESERVE: &str = "RESERVE";
/// Behind the name of a database: as it was before its migration from the format that follows.
const OLD_FORMAT: &str = ".format-";
/// The same while it is copied.
const BACKUP: &str = ".backup";

/// How a volume is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keeping {
    /// Bytes kept back for ending jobs on a full disk.
    pub reserve_bytes: u64,
    /// When checkpoints are made.
    pub upkeep: Upkeep,
}

impl From<u64> for Keeping {
    /// With this reserve and otherwise as usual.
    fn from(reserve_bytes: u64) -> Self {
        Self { reserve_bytes, upkeep: Upkeep::WhenDue }
    }
}

/// Who has a volume now, by its lock file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldBy {
    /// The pid of the Agent; `?` where it has not written it yet.
    pub pid: String,
    /// The URL of its page, if it has announced one.
    pub page: Option<String>,
}

impl HeldBy {
    /// What a lock file says: a line with the pid, and a line with the URL or none.
    fn of(text: &str) -> Self {
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        // Whoever has the lock and has not written its number yet is somebody all the same.
        let pid = lines.next().unwrap_or("?").to_owned();
        Self { pid, page: lines.next().map(str::to_owned) }
    }
}

/// Why a volume cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// Another Agent runs on it.
    #[error("{path} is in use by process {holder}: stop that Agent first")]
    InUse {
        /// The folder.
        path: PathBuf,
        /// What the lock file says: a pid.
        holder: String,
    },
    /// There is no volume.
    #[error("there is no {path}: create a volume, or choose the right --home and network")]
    Missing {
        /// The folder.
        path: PathBuf,
    },
    /// A volume without one of its databases: [`Volume::open`] makes a new one and notes the loss.
    #[error(
        "{path} is missing or empty: restore a backup of the whole node if you have one (`backup restore <FILE>`); else start the node, \
         which makes a new one and reports the loss"
    )]
    NoDatabase {
        /// The database.
        path: PathBuf,
    },
    /// There is one already.
    #[error("there is a volume at {path} already: open it")]
    Exists {
        /// The folder.
        path: PathBuf,
    },
    /// The node was moved away from here.
    #[error(
        "the node of {path} was moved away on {at}, into {archive}: it runs where that archive was taken in, and two of \
         it must never run; only if that archive was not used and never will be, `resultity-node move undo` makes this \
         the node again"
    )]
    Retired {
        /// The folder.
        path: PathBuf,
        /// When.
        at: Timestamp,
        /// The archive, where it was written.
        archive: String,
        /// The number in its manifest.
        transfer: String,
    },
    /// Others could reach it, or it is not what it should be.
    #[error(transparent)]
    NotPrivate(#[from] NotPrivate),
    /// A damaged database cannot be saved: its disk is full.
    #[error(
        "{path} is damaged, and what can be read of it has no room on its disk: free {bytes} bytes there and \
         start again; nothing was changed"
    )]
    NoRoom {
        /// The database.
        path: PathBuf,
        /// What is certainly enough.
        bytes: u64,
    },
    /// A database cannot be opened.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The operating system failed.
    #[error("cannot use {path}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Its error.
        #[source]
        source: io::Error,
    },
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> VolumeError {
    |source| VolumeError::Io { path: path.to_owned(), source }
}

/// A volume that this process holds: its databases are open for writing. It is let go when this and
/// all rooms made from it are dropped.
#[derive(Debug)]
pub struct Volume {
    folder: PathBuf,
    stamp: Stamp,
    jobs: Arc<Writer>,
    logs: Arc<Writer>,
    state: Arc<Writer>,
    view: View,
    _checks: Vec<Check>,
    /// Last: it is let go after the rest.
    held: Arc<Held>,
}

impl Volume {
    /// Makes the folder and its databases for `stamp`, and opens them. One that an earlier call left
    /// unfinished is finished.
    ///
    /// # Errors
    /// [`VolumeError`]; [`VolumeError::Exists`] where the last of the databases is there.
    pub fn create(
        disk: &Arc<dyn Disk>,
        folder: &Path,
        stamp: Stamp,
        keeping: impl Into<Keeping>,
        now: Timestamp,
    ) -> Result<Self, VolumeError> {
        if !private_if_there(&**disk, folder, Private::Folder)? {
            disk.create_dir(folder).map_err(failed(folder))?;
            if let Some(parent) = folder.parent() {
                disk.sync_dir(parent).map_err(failed(parent))?;
            }
        }
        Self::create_claimed(Claim::take(disk, folder)?, stamp, keeping.into(), now)
    }

    /// The same in a folder that is there and ours.
    pub(crate) fn create_claimed(
        claim: Claim,
        stamp: Stamp,
        keeping: Keeping,
        now: Timestamp,
    ) -> Result<Self, VolumeError> {
        let last = claim.folder.join(Database::State.file());
        if claim.held.disk.entry(&last).map_err(failed(&last))?.is_some_and(|file| file.bytes > 0) {
            return Err(VolumeError::Exists { path: claim.folder });
        }
        Self::open_claimed(claim, stamp, keeping, now)
    }

    /// Opens a volume that is there. What is damaged is moved aside and saved as far as it can be read, what is
    /// missing is made anew; [`View::incidents`] tells.
    ///
    /// # Errors
    /// [`VolumeError`]; [`VolumeError::Missing`] where there is no folder.
    pub fn open(
        disk: &Arc<dyn Disk>,
        folder: &Path,
        stamp: Stamp,
        keeping: impl Into<Keeping>,
        now: Timestamp,
    ) -> Result<Self, VolumeError> {
        if !private_if_there(&**disk, folder, Private::Folder)? {
            return Err(VolumeError::Missing { path: folder.to_owned() });
        }
        Self::open_claimed(Claim::take(disk, folder)?, stamp, keeping.into(), now)
    }

    /// Who has the volume in `folder` now, if anybody does. Changes nothing.
    ///
    /// # Errors
    /// [`VolumeError::Io`].
    pub fn holder(disk: &dyn Disk, folder: &Path) -> Result<Option<HeldBy>, VolumeError> {
        let path = folder.join(LOCK);
        Ok(disk.holder(&path).map_err(failed(&path))?.map(|text| HeldBy::of(&text)))
    }

    /// Says in the lock file where the page of this process is, for [`Self::holder`]; `None` for nowhere. It is gone
    /// with the end of the process, so nothing is synced.
    ///
    /// # Errors
    /// [`VolumeError::Io`].
    pub fn announce(&self, page: Option<&str>) -> Result<(), VolumeError> {
        let pid = std::process::id();
        let text = page.map_or_else(|| pid.to_string(), |page| format!("{pid}\n{page}"));
        self.held.lock.tell(&text).map_err(failed(&self.folder.join(LOCK)))
    }

    /// Opens a volume for reading alone, beside a running Agent or without one. It needs no key, takes no
    /// lock and changes nothing. A `logs.db` that is missing or damaged leaves the others to be looked at.
    ///
    /// # Errors
    /// [`VolumeError`]; [`VolumeError::Missing`] where there is no folder, [`VolumeError::NoDatabase`] where `state.db` or
    /// `jobs.db` is missing or empty.
    pub fn view_only(disk: &Arc<dyn Disk>, folder: &Path, network: Network) -> Result<View, VolumeError> {
        Self::whose(&**disk, folder, network)?;
        Ok(View::new(disk, folder, network))
    }

    /// Whose databases stand in a folder, and that they belong together.
    pub(crate) fn whose(disk: &dyn Disk, folder: &Path, network: Network) -> Result<Stamp, VolumeError> {
        if !private_if_there(disk, folder, Private::Folder)? {
            return Err(VolumeError::Missing { path: folder.to_owned() });
        }
        check_private(disk, folder)?;
        let mut first: Option<Stamp> = None;
        for database in Database::ALL {
            let path = folder.join(database.file());
            // Without its logs a volume can be looked at too; whoever asks for them is told why there are none.
            let optional = database == Database::Logs;
            let (connection, found) = match format::find(disk, &path, database) {
                Ok(Some(found)) => found,
                Ok(None) if optional => continue,
                Ok(None) => return Err(VolumeError::NoDatabase { path }),
                Err(FormatError::Damaged { .. } | FormatError::Sqlite { .. } | FormatError::Io { .. })
                    if optional =>
                {
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            // Without a key nobody can say whose volume it is; that its files belong together can be said.
            let wanted = *first.get_or_insert(Stamp { network, ..found });
            format::check_stamp(&connection, &path, &wanted)?;
        }
        first.ok_or_else(|| VolumeError::Missing { path: folder.to_owned() })
    }

    /// The same in a folder that is ours.
    pub(crate) fn open_claimed(
        claim: Claim,
        stamp: Stamp,
        keeping: Keeping,
        now: Timestamp,
    ) -> Result<Self, VolumeError> {
        let Claim { held, ref folder, in_order } = claim;
        let disk = &held.disk;
        check_private(&**disk, folder)?;
        make_room(&**disk, folder)?;
        let mut files = Vec::with_capacity(Database::ALL.len());
        for database in Database::ALL {
            files.push(DatabaseFile::find(&**disk, folder, database, in_order)?);
        }
        // All are judged before anything is migrated, saved or made: one stranger leaves the others untouched.
        let mut damage = Vec::new();
        for file in files.iter_mut().filter(|file| file.bytes > 0) {
            let judged = file.judge(&**disk, &stamp);
            // Two of one node must never run: what was moved away stays shut, damaged or not.
            if let Some(jobs::Retired { at, archive, transfer }) = file.retired.take() {
                return Err(VolumeError::Retired { path: folder.clone(), at, archive, transfer });
            }
            damage.extend(file.found_damaged(judged)?.map(|cause| (file.database, cause)));
        }
        for file in files.iter_mut().filter(|file| file.judged.is_some()) {
            let migrated = file.migrate(&**disk, &stamp);
            damage.extend(file.found_damaged(migrated)?.map(|cause| (file.database, cause)));
        }
        refuse_moved(&**disk, folder, &files, &damage)?;
        let damaged = damage.len();
        held.unchecked.fetch_add(damaged, Ordering::Relaxed);
        for (database, cause) in damage {
            for file in files.iter_mut().filter(|file| file.database == database) {
                file.save(&**disk, folder, &stamp, &cause, now)?;
            }
        }
        let missed_at = was_complete(&files).map_err(failed(folder))?.then_some(now);
        let mut open = Vec::with_capacity(files.len());
        for file in files.iter_mut().rev() {
            if file.database == Database::State {
                // It says that the others were there: its name is synced after theirs.
                disk.sync_dir(folder).map_err(failed(folder))?;
            }
            open.push(file.open(disk, &stamp, missed_at)?);
        }
        for (file, (connection, _)) in files.iter().zip(open.iter().rev()) {
            if in_order && !file.old {
                file.drop_backups(&**disk).map_err(failed(&file.path))?;
            }
            if file.database == Database::Jobs {
                salvage::forget_reported(&**disk, &file.path, connection).map_err(failed(&file.path))?;
            }
        }
        disk.sync_dir(folder).map_err(failed(folder))?;
        let mut writers = Vec::with_capacity(open.len());
        let mut checks = Vec::new();
        for (file, (connection, checkpointer)) in files.iter().zip(open.into_iter().rev()) {
            let reserve = KeptBack::new(Arc::clone(disk), folder, file.database, keeping.reserve_bytes);
            let (path, holder) = (file.path.clone(), Arc::clone(&held) as Arc<dyn Holder>);
            let writer =
                Writer::start(path, connection, checkpointer, Box::new(reserve), keeping.upkeep, holder)
                    .map_err(|error| failed(&file.path)(io::Error::other(error)))?;
            let writer = Arc::new(writer);
            if file.depth == Depth::Background {
                let (reader, checked) =
                    (Reader::new(Arc::clone(disk), folder, file.database), Arc::downgrade(&writer));
                held.unchecked.fetch_add(1, Ordering::Relaxed);
                let holder = Arc::clone(&held);
                let whole = move || {
                    holder.unchecked.fetch_sub(1, Ordering::Relaxed);
                };
                let stop = move |cause: &str| {
                    if let Some(writer) = checked.upgrade() {
                        writer.found_damaged(cause);
                    }
                };
                checks.push(Check::start(reader, file.database, stop, whole).map_err(failed(&file.path))?);
            }
            writers.push(writer);
        }
        let Ok([state, jobs, logs]) = <[_; 3]>::try_from(writers) else {
            return Err(VolumeError::Missing { path: folder.to_owned() });
        };
        let view = View::new(disk, folder, stamp.network);
        held.unchecked.fetch_sub(damaged + usize::from(!in_order), Ordering::Relaxed);
        Ok(Self { folder: folder.to_owned(), stamp, jobs, logs, state, view, _checks: checks, held })
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whose it is.
    #[must_use]
    pub const fn stamp(&self) -> &Stamp {
        &self.stamp
    }

    /// The jobs kept here, sealed under `volume_key`. Without [`JobRules`](crate::jobs::JobRules) none is
    /// accepted.
    #[must_use]
    pub fn jobs(&self, volume_key: &[u8; 32]) -> jobs::Jobs {
        let (writer, view) = (Arc::clone(&self.jobs), self.view.jobs().clone());
        jobs::Jobs::new(writer, view, volume_key, self.stamp.network, self.stamp.node)
    }

    /// The snapshots kept here; digest and signatures are verified again.
    ///
    /// # Errors
    /// [`SnapshotError`](crate::snapshot::SnapshotError) where what is stored cannot be read, or the keysets do
    /// not follow from the pinned one.
    pub fn snapshots(&self) -> Result<crate::snapshot::Snapshots, crate::snapshot::SnapshotError> {
        let view = self.view.snapshots()?;
        let (writer, reader) = (Arc::clone(&self.state), Arc::clone(self.view.snapshot_reader()));
        Ok(crate::snapshot::Snapshots::new(writer, reader, self.stamp.network, view))
    }

    /// The inventory kept here.
    #[must_use]
    pub fn inventory(&self) -> crate::inventory::Inventory {
        crate::inventory::Inventory::new(Arc::clone(&self.state), self.view.inventory().clone())
    }

    /// The model files kept here, and how each model stands. All that is opened through one of these knows of each
    /// other: make one, and clone it.
    #[must_use]
    pub fn models(&self) -> crate::models::Models {
        crate::models::Models::new(Arc::clone(&self.state), self.view.models().clone())
    }

    /// The account link, the message sequence and the clock's mark kept here.
    #[must_use]
    pub fn binding(&self) -> crate::binding::Binding {
        crate::binding::Binding::new(Arc::clone(&self.state), self.view.binding().clone())
    }

    /// The logs kept here, in at most `bytes_max` bytes.
    #[must_use]
    pub fn logs(&self, bytes_max: u64) -> logs::Logs {
        logs::Logs::new(Arc::clone(&self.logs), self.view.logs().clone(), bytes_max)
    }

    /// Everything that can be asked, without waiting for a writer.
    #[must_use]
    pub const fn view(&self) -> &View {
        &self.view
    }

    /// Notes that the network was told of a database's incidents up to the number `seq`
    /// ([`View::incidents`]).
    pub fn incidents_reported(&self, database: Database, seq: u64) -> Ticket<()> {
        let writer = match database {
            Database::State => &self.state,
            Database::Jobs => &self.jobs,
            Database::Logs => &self.logs,
        };
        writer.submit(Effect::Keeps, move |tx| salvage::mark_reported(tx, seq))
    }

    /// Makes the checkpoints that are due. When this returns, all that was asked for before is answered and
    /// no thread of the volume touches the disk.
    pub fn checkpoint(&self) {
        for writer in [&self.state, &self.jobs, &self.logs] {
            writer.checkpoint();
        }
    }

    /// Takes what was deleted out of the write-ahead logs now, not only within
    /// [`ERASE_DELAY_MS_MAX`](crate::writer::ERASE_DELAY_MS_MAX), and empties them: before a copy of the
    /// files is made.
    pub fn erase(&self) {
        for writer in [&self.state, &self.jobs, &self.logs] {
            writer.erase();
        }
    }

    /// How long the commits to a database took since it was opened, syncs included.
    #[must_use]
    pub fn commits(&self, database: Database) -> Distribution {
        match database {
            Database::State => self.state.commits(),
            Database::Jobs => self.jobs.commits(),
            Database::Logs => self.logs.commits(),
        }
    }

    /// What stopped a database's writer, if anything did; the others go on.
    #[must_use]
    pub fn stopped(&self, database: Database) -> Option<Arc<str>> {
        match database {
            Database::State => self.state.stopped(),
            Database::Jobs => self.jobs.stopped(),
            Database::Logs => self.logs.stopped(),
        }
    }
}

fn check_private(disk: &dyn Disk, folder: &Path) -> Result<(), VolumeError> {
    for database in Database::ALL {
        for suffix in ["", "-wal", "-shm"] {
            let file = folder.join(format!("{}{suffix}", database.file()));
            private_if_there(disk, &file, Private::File)?;
        }
        private_if_there(disk, &KeptBack::file(folder, database), Private::File)?;
    }
    Ok(())
}

/// Whether an opening failed because of damage, found by a look or by a writer; it is noted for the next one
/// to check.
pub(crate) fn note_damage(disk: &dyn Disk, folder: &Path, look: Option<&ReadError>) -> bool {
    if let Some(ReadError::Look { database, cause }) = look
        && format::is_damage(cause)
    {
        return salvage::suspect(disk, database, &cause.to_string()).is_ok();
    }
    let noted = |database: Database| disk.entry(&salvage::suspect_file(&folder.join(database.file())));
    Database::ALL.into_iter().any(|database| matches!(noted(database), Ok(Some(_))))
}

/// A volume's folder with its lock taken: nobody else opens it, and nobody else writes its keys.
pub(crate) struct Claim {
    held: Arc<Held>,
    folder: PathBuf,
    /// The last holder ended in good order.
    in_order: bool,
}

impl Claim {
    /// Takes the lock of a folder that is there.
    pub(crate) fn take(disk: &Arc<dyn Disk>, folder: &Path) -> Result<Self, VolumeError> {
        private_if_there(&**disk, folder, Private::Folder)?;
        let path = folder.join(LOCK);
        private_if_there(&**disk, &path, Private::File)?;
        let pid = std::process::id().to_string();
        let locked = match disk.lock(&path, &pid) {
            // An earlier release left it without a byte: it has no room of its own.
            Err(error) if is_full(&error) && disk.holder(&path).map_err(failed(&path))?.is_none() => {
                make_room(&**disk, folder)?;
                disk.lock(&path, &pid)
            }
            other => other,
        };
        match locked.map_err(failed(&path))? {
            Locked::Ours { lock, last } => {
                // On disk before anything is changed: a power cut is no end in good order.
                disk.sync_file(&path).map_err(failed(&path))?;
                let in_order = last.is_empty();
                let unchecked = AtomicUsize::new(usize::from(!in_order));
                let (disk, badly) = (Arc::clone(disk), AtomicBool::new(false));
                let held = Arc::new(Held { disk, lock, badly, unchecked });
                Ok(Self { held, folder: folder.to_owned(), in_order })
            }
            Locked::Theirs(holder) => {
                let holder = HeldBy::of(&holder).pid;
                Err(VolumeError::InUse { path: folder.to_owned(), holder })
            }
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Notes beside the databases that the node is moved away. `jobs.db` says it; where that is lost, this does.
pub(crate) fn note_moved(disk: &dyn Disk, folder: &Path, retired: &jobs::Retired) -> io::Result<()> {
    let jobs::Retired { at, archive, transfer } = retired;
    let text = json!({ "at": at.ms(), "archive": archive, "transfer": transfer }).to_string();
    crate::disk::replace(disk, &folder.join(MOVED), text.as_bytes())
}

/// Takes that back.
pub(crate) fn forget_moved(disk: &dyn Disk, folder: &Path) -> io::Result<()> {
    disk.remove(&folder.join(MOVED))
}

/// Refuses a volume that was moved away and lost the `jobs.db` that says so; one that is there and does not say so was taken back.
fn refuse_moved(
    disk: &dyn Disk,
    folder: &Path,
    files: &[DatabaseFile],
    damage: &[(Database, String)],
) -> Result<(), VolumeError> {
    let path = folder.join(MOVED);
    if disk.entry(&path).map_err(failed(&path))?.is_none() {
        return Ok(());
    }
    let missing = files.iter().any(|file| file.database == Database::Jobs && file.bytes == 0);
    if !missing && damage.iter().all(|(database, _)| *database != Database::Jobs) {
        return forget_moved(disk, folder).map_err(failed(&path));
    }
    // It stays shut, whatever is in it.
    let text = disk.read(&path, MOVED_BYTES_MAX).map_err(failed(&path))?.unwrap_or_default();
    let said: Value = serde_json::from_slice(&text).unwrap_or_default();
    let word = |name: &str| said[name].as_str().unwrap_or("?").to_owned();
    let at = Timestamp::from_ms(said["at"].as_u64().unwrap_or_default());
    Err(VolumeError::Retired {
        path: folder.to_owned(),
        at,
        archive: word("archive"),
        transfer: word("transfer"),
    })
}

/// Sees that an opening has the room it needs, also on a disk that is full: out of what is kept back, but for what jobs need to
/// end. It is kept back again when there is room.
fn make_room(disk: &dyn Disk, folder: &Path) -> Result<(), VolumeError> {
    for database in [Database::Logs, Database::State] {
        // A disk that does not say is asked by writing.
        if disk.free_bytes(folder).is_ok_and(|free| free < OPENING_BYTES) {
            let reserve = KeptBack::file(folder, database);
            disk.remove(&reserve).map_err(failed(&reserve))?;
        }
    }
    Ok(())
}

/// The volume's lock, held by its writers.
#[derive(Debug)]
struct Held {
    disk: Arc<dyn Disk>,
    lock: Box<dyn Lock>,
    /// A writer stopped.
    badly: AtomicBool,
    /// Checks that were not made to their end: the next opening makes them.
    unchecked: AtomicUsize,
}

impl Holder for Held {
    fn stopped(&self, database: &Path, cause: &str, damaged: bool) {
        self.badly.store(true, Ordering::Relaxed);
        if damaged {
            // Where it cannot be noted, the next opening checks what it can: the end was not in good order.
            let _ = salvage::suspect(&*self.disk, database, cause);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if !self.badly.load(Ordering::Relaxed) && self.unchecked.load(Ordering::Relaxed) == 0 {
            // Where it fails, the next opening checks what it need not.
            let _ = self.lock.clear();
        }
    }
}

/// How much of a database is checked when it is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Depth {
    /// What opening it reads.
    Opening,
    /// What opening it reads; the rest while the node works.
    Background,
    /// All of it.
    Full,
}

/// A database's file, as it was found.
struct DatabaseFile {
    database: Database,
    path: PathBuf,
    /// Something is there, were it empty.
    stands: bool,
    /// 0 if it is not there.
    bytes: u64,
    depth: Depth,
    /// Open, once it was found to be ours and whole.
    judged: Option<Connection>,
    /// It had an older format than the newest when it was opened.
    old: bool,
    /// The node was moved away.
    retired: Option<jobs::Retired>,
    set_aside: Option<SetAside>,
}

fn damage_in(path: &Path, examined: rusqlite::Result<Option<String>>) -> Result<(), FormatError> {
    match examined.map_err(|error| FormatError::of(path, error))? {
        Some(cause) => Err(FormatError::Damaged { path: path.to_owned(), cause }),
        None => Ok(()),
    }
}

/// A damaged database of which nothing could be saved.
struct SetAside {
    at: Timestamp,
    cause: String,
    moved_to: Option<String>,
}

/// An error and what caused it, in one line.
fn said(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |said, cause| format!("{said}: {cause}"))
}

/// Whether all databases were there once: `state.db`, which is made last, is there, or a job was ever taken, or a record written.
fn was_complete(files: &[DatabaseFile]) -> io::Result<bool> {
    let of = |wanted| files.iter().find(|file| file.database == wanted);
    let blank = |database| of(database).is_none_or(|file| file.bytes == 0);
    // A crash leaves an empty `state.db` while it is made; by then the others were whole.
    let unfinished = !blank(Database::Jobs) && !blank(Database::Logs);
    if of(Database::State).is_some_and(|state| state.bytes > 0 || state.stands && !unfinished) {
        return Ok(true);
    }
    let judged = |database| of(database).and_then(|file| file.judged.as_ref());
    // What cannot be read of the logs is told by whoever reads them.
    if judged(Database::Logs).is_some_and(|logs| logs::was_used(logs).unwrap_or(false)) {
        return Ok(true);
    }
    judged(Database::Jobs).map_or(Ok(false), |jobs| jobs::was_used(jobs).map_err(io::Error::other))
}

impl DatabaseFile {
    fn find(disk: &dyn Disk, folder: &Path, database: Database, in_order: bool) -> Result<Self, VolumeError> {
        let path = folder.join(database.file());
        salvage::finish(disk, &path).map_err(failed(&path))?;
        let log = folder.join(format!("{}-wal", database.file()));
        if disk.entry(&log).map_err(failed(&log))?.is_some() {
            // Commits can be read from a log that are not on disk: a process was killed before its sync, or
            // the sync failed. What will be shown must be there.
            match disk.rewrite(&log) {
                // What of it cannot be read is found out when the file is judged.
                Err(_) if database == Database::Logs => {}
                done => done.map_err(failed(&log))?,
            }
        }
        let entry = disk.entry(&path).map_err(failed(&path))?;
        let (stands, bytes) = (entry.is_some(), entry.map_or(0, |entry| entry.bytes));
        let suspect = salvage::suspect_file(&path);
        let depth = if disk.entry(&suspect).map_err(failed(&suspect))?.is_some() {
            Depth::Full
        } else if in_order {
            Depth::Opening
        } else if database == Database::State || bytes <= CHECK_AT_ONCE_BYTES {
            Depth::Full
        } else {
            Depth::Background
        };
        Ok(Self {
            database,
            path,
            stands,
            bytes,
            depth,
            judged: None,
            old: false,
            retired: None,
            set_aside: None,
        })
    }

    /// Whose it is, and whether it can be used; changes nothing. A blank one, to which nothing was ever
    /// committed, is none.
    fn judge(&mut self, disk: &dyn Disk, stamp: &Stamp) -> Result<(), FormatError> {
        let path = &self.path;
        let connection = format::connect(disk, path, self.database, Access::Write)?;
        let Some(found) = format::version(&connection, path, self.database)? else {
            self.bytes = 0;
            return Ok(());
        };
        format::check_stamp(&connection, path, stamp)?;
        self.old = found < self.database.newest();
        if self.database == Database::Jobs && !self.old {
            // What of it cannot be read is found by the check, or by the store's own look, which brings one about.
            self.retired = jobs::retired(&connection).unwrap_or_default();
        }
        if self.depth == Depth::Full {
            // What the rows of an old format mean is known when it is migrated.
            let examined = if self.old {
                salvage::examine_pages(&connection)
            } else {
                salvage::examine(&connection, self.database)
            };
            damage_in(path, examined)?;
        }
        self.judged = Some(connection);
        Ok(())
    }

    /// Brings it to the newest format.
    fn migrate(&mut self, disk: &dyn Disk, stamp: &Stamp) -> Result<(), FormatError> {
        let (path, database) = (&self.path, self.database);
        let Some(connection) = &mut self.judged else { return Ok(()) };
        format::prepare(connection, path, database, stamp, |found| back_up(disk, path, found))?;
        if self.depth == Depth::Full {
            if self.old {
                damage_in(path, salvage::examine(connection, database))?;
            }
            disk.remove(&salvage::suspect_file(path))
                .map_err(|source| FormatError::Io { path: path.clone(), source })?;
        }
        Ok(())
    }

    /// What is wrong with it, if that can be mended; a file that is whole but not to be used is an error.
    fn found_damaged(&mut self, looked: Result<(), FormatError>) -> Result<Option<String>, FormatError> {
        let Err(error) = looked else { return Ok(None) };
        // Whatever comes of it, a file that is moved must not be open.
        self.judged = None;
        if let FormatError::Damaged { cause, .. } = error {
            Ok(Some(cause))
        } else if self.database == Database::Logs && error.disk_fault() == Some(DiskFault::Bad) {
            Ok(Some(said(&error)))
        } else {
            Err(error)
        }
    }

    /// Removes the copies that were made before its migrations.
    fn drop_backups(&self, disk: &dyn Disk) -> io::Result<()> {
        let Some(folder) = self.path.parent() else { return Ok(()) };
        let prefix = format!("{}{OLD_FORMAT}", self.database.file());
        for name in disk.list(folder)?.iter().filter(|name| name.to_string_lossy().starts_with(&prefix)) {
            disk.remove(&folder.join(name))?;
        }
        Ok(())
    }

    /// Saves what can be read of it, damaged as it is.
    fn save(
        &mut self,
        disk: &dyn Disk,
        folder: &Path,
        stamp: &Stamp,
        cause: &str,
        now: Timestamp,
    ) -> Result<(), VolumeError> {
        let path = &self.path;
        let reserve = KeptBack::file(folder, self.database);
        let kept_back = disk.entry(&reserve).map_err(failed(&reserve))?.map(|file| file.bytes);
        disk.remove(&reserve).map_err(failed(&reserve))?;
        let Err(error) = salvage::rescue(disk, path, self.database, stamp, cause, now) else { return Ok(()) };
        let full = error.disk_fault() == Some(DiskFault::Full);
        salvage::forget_copy(disk, path).map_err(failed(path))?;
        match self.database {
            Database::State | Database::Jobs if full => {
                if let Some(bytes) = kept_back {
                    // Where it cannot be had again, it is made when there is room.
                    let _ = disk.reserve(&reserve, bytes);
                }
                let log = folder.join(format!("{}-wal", self.database.file()));
                let log = disk.entry(&log).map_err(failed(&log))?.map_or(0, |log| log.bytes);
                let bytes = 2 * (self.bytes + log) + SAVE_BYTES;
                Err(VolumeError::NoRoom { path: path.clone(), bytes })
            }
            Database::State | Database::Jobs => Err(error.into()),
            Database::Logs => {
                if full {
                    // Room for an empty one. The reserve comes back by itself.
                    let reserve = KeptBack::file(folder, Database::State);
                    disk.remove(&reserve).map_err(failed(&reserve))?;
                }
                let moved_to = salvage::move_aside(disk, path, now).map_err(failed(path))?;
                disk.sync_dir(folder).map_err(failed(folder))?;
                self.bytes = 0;
                let cause = format!("{cause}; nothing could be saved: {}", said(&error));
                self.set_aside = Some(SetAside { at: now, cause, moved_to });
                Ok(())
            }
        }
    }

    /// Opens it for its writer and its checkpointer; makes it if it is not there. `missed_at`: that is a loss,
    /// found at this moment.
    fn open(
        &mut self,
        disk: &Arc<dyn Disk>,
        stamp: &Stamp,
        missed_at: Option<Timestamp>,
    ) -> Result<(Connection, Connection), VolumeError> {
        let path = &self.path;
        let checkpointer = || format::connect(&**disk, path, self.database, Access::Write);
        if let Some(connection) = self.judged.take() {
            return Ok((connection, checkpointer()?));
        }
        let mut moved_to = None;
        if let Some(now) = missed_at.filter(|_| self.bytes == 0) {
            moved_to = salvage::move_aside(&**disk, path, now).map_err(failed(path))?;
        }
        if disk.entry(path).map_err(failed(path))?.is_none() {
            // Made here and not by SQLite, whose files take the mode of the process's umask.
            disk.create_file(path, &[]).map_err(failed(path))?;
        }
        let mut connection = format::connect(&**disk, path, self.database, Access::Write)?;
        format::prepare(&mut connection, path, self.database, stamp, |_| Ok(()))?;
        if self.bytes == 0 {
            let made = match (&self.set_aside, missed_at) {
                (Some(SetAside { at, cause, moved_to }), _) => {
                    salvage::note(&connection, *at, cause, moved_to.as_deref(), 0, None)
                }
                (None, Some(now)) => salvage::note_missing(&connection, now, moved_to.as_deref()),
                (None, None) => Ok(()),
            };
            // Whatever a commit of this database syncs, that it was made is on disk before it is used.
            made.and_then(|()| connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(())))
                .map_err(|error| FormatError::of(path, error))?;
        }
        Ok((connection, checkpointer()?))
    }
}

/// Copies a database beside itself before its first migration: `jobs.db.format-1`.
fn back_up(disk: &dyn Disk, path: &Path, found: u32) -> Result<(), FormatError> {
    let io_failed = |source| FormatError::Io { path: path.to_owned(), source };
    let copy = salvage::beside(path, &format!("{OLD_FORMAT}{found}"));
    if disk.entry(&copy).map_err(io_failed)?.is_some() {
        // An earlier attempt's, made before anything was changed: better than one made now.
        return Ok(());
    }
    let temporary = salvage::beside(path, BACKUP);
    disk.remove(&temporary).map_err(io_failed)?;
    // Made here and not by SQLite, whose files take the mode of the process's umask: it holds wrapped keys.
    disk.create_file(&temporary, &[]).map_err(io_failed)?;
    let source = format::connect(disk, path, database_of(path).map_err(io_failed)?, Access::Read)?;
    source
        .execute("VACUUM INTO ?1", [temporary.to_string_lossy()])
        .map_err(|error| FormatError::of(path, error))?;
    disk.sync_file(&temporary).map_err(io_failed)?;
    disk.rename_new(&temporary, &copy).map_err(io_failed)?;
    path.parent().map_or(Ok(()), |folder| disk.sync_dir(folder)).map_err(io_failed)
}

fn database_of(path: &Path) -> io::Result<Database> {
    Database::ALL
        .into_iter()
        .find(|database| path.ends_with(database.file()))
        .ok_or_else(|| io::Error::other("not a database of a volume"))
}

/// The bytes kept back for one database.
#[derive(Debug)]
struct KeptBack {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    bytes: u64,
    /// Bytes of the write-ahead log at the most.
    log_bytes_max: u64,
    held: bool,
}

impl KeptBack {
    fn file(folder: &Path, database: Database) -> PathBuf {
        folder.join(format!("{RESERVE}.{}", database.file()))
    }

    fn new(disk: Arc<dyn Disk>, folder: &Path, database: Database, bytes: u64) -> Self {
        let path = Self::file(folder, database);
        // Logs are lost when the disk is full; what was sent or is too old must go, to give its space back.
        let bytes =
            if database == Database::Logs { (bytes / 8).min(LOGS_RESERVE_BYTES_MAX) } else { bytes / 2 };
        // Nobody waits for many commits to `state.db`: its log need not be long to be emptied seldom.
        let most = match database {
            Database::State => STATE_LOG_BYTES_MAX,
            Database::Jobs | Database::Logs => WAL_BYTES_MAX,
        };
        let log_bytes_max = if bytes > 0 { most.min(bytes / 2) } else { most };
        let mut this = Self { disk, path, bytes, log_bytes_max, held: false };
        this.restore();
        this
    }
}

impl Reserve for KeptBack {
    fn low(&self, within: &dyn Fn() -> u64) -> bool {
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        // Where the reserve was given up, what it needs to come back is kept free too. Pages that the
        // database has free count, but the write-ahead log needs room of its own.
        let wanted = if self.held { self.bytes } else { self.bytes.saturating_mul(2) };
        let low =
            |free: u64| free < wanted && (free < self.bytes / 2 || free.saturating_add(within()) < wanted);
        // A disk that does not say is asked by writing.
        self.disk.free_bytes(folder).is_ok_and(low)
    }

    fn spent(&self) -> bool {
        self.bytes > 0 && !self.held
    }

    fn release(&mut self) -> bool {
        let released = self.held && self.disk.remove(&self.path).is_ok();
        self.held &= !released;
        released
    }

    fn log_bytes_max(&self) -> u64 {
        self.log_bytes_max
    }

    fn restore(&mut self) {
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        let room = self.disk.free_bytes(folder).is_ok_and(|free| free > self.bytes.saturating_mul(2));
        if !self.held && self.bytes > 0 && room {
            self.held = self.disk.reserve(&self.path, self.bytes).is_ok();
        }
    }
}

/// Where the volume of a network stands under a home folder.
#[must_use]
pub fn folder(home: &Path, network: Network) -> PathBuf {
    home.join(network.name())
}

/// What the store means by a name in a volume's folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// A part of the volume, or something that the next opening deals with.
    Part,
    /// A damaged database that was moved aside, or its write-ahead log.
    Damaged,
    /// A database as it was before a migration.
    OldFormat,
}

/// What the store means by a name in a volume's folder; docs/format.md lists them. `None` for one that it never gives. A
/// file that is being written, `.<name>.tmp`, has no name yet.
#[must_use]
pub fn named(name: &OsStr) -> Option<Named> {
    let name = name.to_str()?;
    if [LOCK, MOVED, KEYS, crate::models::FOLDER].contains(&name) {
        return Some(Named::Part);
    }
    Database::ALL.into_iter().find_map(|database| {
        if KeptBack::file(Path::new(""), database) == Path::new(name) {
            return Some(Named::Part);
        }
        let rest = name.strip_prefix(database.file())?;
        if rest.starts_with(salvage::DAMAGED) {
            return Some(Named::Damaged);
        }
        // SQLite keeps files of its own beside each that it has open.
        let rest = ["-wal", "-shm", "-journal"].iter().find_map(|own| rest.strip_suffix(own)).unwrap_or(rest);
        if rest.starts_with(OLD_FORMAT) {
            return Some(Named::OldFormat);
        }
        let known = ["", BACKUP, salvage::SUSPECT, salvage::RESCUE].contains(&rest);
        (known || rest.starts_with(salvage::RESCUED)).then_some(Named::Part)
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use node_types::{Address, NodeId, VolumeId};
    use rusqlite::Connection;

    use super::*;
    use crate::disk::RealDisk;

    const NEXT: &str = "ALTER TABLE tally ADD COLUMN added INTEGER NOT NULL DEFAULT 7;";
    /// Its first half works.
    const BROKEN: &str = "ALTER TABLE tally ADD COLUMN added INTEGER; DROP TABLE jobs; DROP TABLE nothing;";

    struct Old {
        home: tempfile::TempDir,
        path: PathBuf,
    }

    fn stamp() -> Stamp {
        let network = Network::Testnet;
        let node = NodeId::derive(network, &Address::from_bytes([1; 20]));
        Stamp { network, node, volume: VolumeId::from_bytes([2; 16]) }
    }

    fn marked(path: &Path) -> i64 {
        let raw = Connection::open(path).unwrap();
        let whole: String = raw.query_row("PRAGMA integrity_check", (), |row| row.get(0)).unwrap();
        assert_eq!(whole, "ok");
        raw.query_row("SELECT expired FROM tally", (), |row| row.get(0)).unwrap()
    }

    fn format_of(path: &Path) -> u32 {
        let raw = Connection::open(path).unwrap();
        raw.query_row("PRAGMA user_version", (), |row| row.get(0)).unwrap()
    }

    impl Old {
        /// A `jobs.db` of format 1 that holds something: 41 expired jobs.
        fn new() -> Self {
            let home = tempfile::tempdir().unwrap();
            let this = Self { path: home.path().join("jobs.db"), home };
            let first = &Database::Jobs.migrations()[..1];
            let connection = this.open(first).unwrap();
            connection.execute("UPDATE tally SET expired = 41", ()).unwrap();
            this
        }

        fn open(&self, migrations: &[&str]) -> Result<Connection, FormatError> {
            let path = &self.path;
            let mut connection = format::connect(&RealDisk, path, Database::Jobs, Access::Write)?;
            let back_up = |found| back_up(&RealDisk, path, found);
            format::migrate(&mut connection, path, Database::Jobs, migrations, &stamp(), back_up)?;
            Ok(connection)
        }

        fn with(&self, next: &str) -> Result<i64, FormatError> {
            let connection = self.open(&[Database::Jobs.migrations()[0], next])?;
            Ok(connection.query_row("SELECT added + expired FROM tally", (), |row| row.get(0)).unwrap())
        }

        fn backup(&self) -> PathBuf {
            self.home.path().join("jobs.db.format-1")
        }

        /// The folder as it is at this moment: what a killed process leaves.
        fn copy(&self) -> Self {
            let home = tempfile::tempdir().unwrap();
            for entry in fs::read_dir(self.home.path()).unwrap() {
                let entry = entry.unwrap();
                fs::copy(entry.path(), home.path().join(entry.file_name())).unwrap();
            }
            Self { path: home.path().join("jobs.db"), home }
        }
    }

    #[test]
    fn a_database_is_migrated_once_after_a_backup_that_is_a_database() {
        let old = Old::new();
        assert_eq!(old.with(NEXT).unwrap(), 48);
        assert_eq!((marked(&old.backup()), format_of(&old.backup())), (41, 1));
        assert_eq!((marked(&old.path), format_of(&old.path)), (41, 2));
        let raw = Connection::open(&old.path).unwrap();
        raw.execute("UPDATE tally SET expired = 42", ()).unwrap();
        drop(raw);
        assert_eq!(old.with(NEXT).unwrap(), 49, "opened again, not migrated again");
        assert_eq!(marked(&old.backup()), 41, "the backup is of before");
    }

    #[test]
    fn a_migration_that_fails_leaves_the_old_format_and_its_rows() {
        let old = Old::new();
        for _ in 0..2 {
            old.with(BROKEN).unwrap_err();
            assert_eq!((marked(&old.path), format_of(&old.path)), (41, 1));
            drop(old.open(&Database::Jobs.migrations()[..1]).unwrap());
        }
        assert_eq!(old.with(NEXT).unwrap(), 48, "mended in the next release");
    }

    #[test]
    fn a_newer_format_is_refused_by_name_and_not_copied() {
        let old = Old::new();
        old.with(NEXT).unwrap();
        RealDisk.rename(&old.backup(), &old.home.path().join("aside")).unwrap();
        let error = old.open(&Database::Jobs.migrations()[..1]).unwrap_err();
        assert!(matches!(error, FormatError::TooNew { found: 2, newest: 1, .. }), "{error}");
        assert!(error.to_string().contains("jobs.db"), "{error}");
        assert!(!old.backup().exists());
    }

    /// SQLite's own files take the umask's mode: a copy that others could read held every wrapped key.
    #[test]
    fn a_backup_is_private() {
        let old = Old::new();
        old.with(NEXT).unwrap();
        let entry = RealDisk.entry(&old.backup()).unwrap().unwrap();
        assert_eq!(entry.mode, 0o600);
    }

    /// It was an error of the operating system once, for which nobody saves anything.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "damages a file behind the store's back")]
    fn damage_that_the_backup_meets_is_damage() {
        let old = Old::new();
        let mut bytes = fs::read(&old.path).unwrap();
        let raw = Connection::open(&old.path).unwrap();
        let sql = "SELECT rootpage FROM sqlite_schema WHERE name = 'tally'";
        let page: usize = raw.query_row(sql, (), |row| row.get(0)).unwrap();
        drop(raw);
        bytes[(page - 1) * 4096..page * 4096].fill(0xAA);
        fs::write(&old.path, bytes).unwrap();
        let error = old.with(NEXT).unwrap_err();
        assert!(matches!(error, FormatError::Damaged { .. }), "{error:?}");
    }

    #[test]
    fn a_name_in_the_folder_is_the_stores_or_nobodys() {
        let is = |name: &str| named(OsStr::new(name));
        for part in ["LOCK", "MOVED", "keys", "models", "RESERVE.jobs.db", "RESERVE.logs.db", "state.db"] {
            assert_eq!(is(part), Some(Named::Part), "{part}");
        }
        for behind in
            ["", "-wal", "-shm", "-journal", ".suspect", ".backup", ".rescue", ".rescue-wal", ".rescued-2026"]
        {
            assert_eq!(is(&format!("logs.db{behind}")), Some(Named::Part), "{behind}");
        }
        for aside in [".damaged-2026-11-24T03-48-05.000Z", ".damaged-2026-11-24T03-48-05.000Z-wal"] {
            assert_eq!(is(&format!("jobs.db{aside}")), Some(Named::Damaged), "{aside}");
        }
        assert_eq!(is("state.db.format-1"), Some(Named::OldFormat));
        for nobodys in
            ["notes.txt", "jobs.db.bak", "jobs.dbx", "old.db", "RESERVE", "RESERVE.", "lock", "key"]
        {
            assert_eq!(is(nobodys), None, "{nobodys}");
        }
    }

    /// What a killed process leaves: before the backup, within it, after it, at the commit, after it.
    #[test]
    fn a_migration_that_was_killed_anywhere_is_finished_at_the_next_opening() {
        let mut left = Vec::new();
        let before = Old::new();
        left.push((before.copy(), 1));
        let within = Old::new();
        RealDisk.create_file(&within.path.with_extension("db.backup"), b"half a copy").unwrap();
        left.push((within, 1));

        let at_commit = Old::new();
        let path = &at_commit.path;
        let mut connection = format::connect(&RealDisk, path, Database::Jobs, Access::Write).unwrap();
        let (image, folder) = (tempfile::tempdir().unwrap(), at_commit.home.path().to_owned());
        let copy_to = image.path().to_owned();
        let at_the_commit = move || {
            for entry in fs::read_dir(&folder).unwrap() {
                let entry = entry.unwrap();
                fs::copy(entry.path(), copy_to.join(entry.file_name())).unwrap();
            }
            false
        };
        connection.commit_hook(Some(at_the_commit)).unwrap();
        let list = [Database::Jobs.migrations()[0], NEXT];
        let copied = |found| back_up(&RealDisk, path, found);
        format::migrate(&mut connection, path, Database::Jobs, &list, &stamp(), copied).unwrap();
        left.push((Old { path: image.path().join("jobs.db"), home: image }, 1));
        left.push((at_commit.copy(), 2));
        drop(connection);
        left.push((at_commit, 2));

        for (number, (image, wanted)) in left.iter().enumerate() {
            assert_eq!(format_of(&image.copy().path), *wanted, "image {number}");
            assert_eq!(image.with(NEXT).unwrap(), 48, "image {number}");
            assert_eq!((marked(&image.backup()), format_of(&image.backup())), (41, 1), "image {number}");
            assert!(!image.path.with_extension("db.backup").exists());
        }
    }
}
