//! The volume: a folder that belongs to one network and one node, its lock and its three databases.
//!
//! ```text
//! <home>/<network>/   0700
//!   LOCK              flock(2), names the holder's pid
//!   state.db jobs.db logs.db    0600, each with -wal and -shm while open
//!   RESERVE           bytes kept back so that ending jobs works on a full disk
//! ```
//!
//! What is not ours, or is not as private as it must be, is refused with both sides named; nothing is
//! changed then. Everything is checked before SQLite opens a file: closing a file that SQLite has open
//! would drop its POSIX locks (sqlite.org, "How To Corrupt An SQLite Database File", 2.2).

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    disk::{Disk, Lock, Locked},
    format::{self, Access, Database, FormatError, Stamp},
    private::{NotPrivate, Private, private_if_there},
    writer::{Reserve, Upkeep, Writer},
};

/// Bytes kept back for ending jobs on a full disk, unless the embedder sets another number: 64 MiB, half
/// of it for `jobs.db` and half for `state.db`, each twice the largest write-ahead log.
pub const RESERVE_BYTES: u64 = 64 << 20;

const LOCK: &str = "LOCK";
pub(crate) const KEYS: &str = "keys";
const RESERVE: &str = "RESERVE";

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
    #[error("there is no volume at {path}: create one, or choose the right --home and network")]
    Missing {
        /// The folder.
        path: PathBuf,
    },
    /// There is one already.
    #[error("there is a volume at {path} already: open it")]
    Exists {
        /// The folder.
        path: PathBuf,
    },
    /// Others could reach it, or it is not what it should be.
    #[error(transparent)]
    NotPrivate(#[from] NotPrivate),
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
}

impl Volume {
    /// Makes the folder and its databases for `stamp`, and opens them. One that an earlier call left
    /// unfinished is finished.
    ///
    /// # Errors
    /// [`VolumeError`]; [`VolumeError::Exists`] where all databases are there.
    pub fn create(
        disk: &Arc<dyn Disk>,
        folder: &Path,
        stamp: Stamp,
        keeping: impl Into<Keeping>,
    ) -> Result<Self, VolumeError> {
        if private_if_there(&**disk, folder, Private::Folder)? {
            let made = Database::ALL.iter().map(|database| disk.entry(&folder.join(database.file())));
            let made = made.collect::<io::Result<Vec<_>>>().map_err(failed(folder))?;
            if made.iter().all(Option::is_some) {
                return Err(VolumeError::Exists { path: folder.to_owned() });
            }
        } else {
            disk.create_dir(folder).map_err(failed(folder))?;
            if let Some(parent) = folder.parent() {
                disk.sync_dir(parent).map_err(failed(parent))?;
            }
        }
        Self::start(disk, folder, stamp, keeping.into())
    }

    /// Opens a volume that is there.
    ///
    /// # Errors
    /// [`VolumeError`]; [`VolumeError::Missing`] where there is no folder.
    pub fn open(
        disk: &Arc<dyn Disk>,
        folder: &Path,
        stamp: Stamp,
        keeping: impl Into<Keeping>,
    ) -> Result<Self, VolumeError> {
        if !private_if_there(&**disk, folder, Private::Folder)? {
            return Err(VolumeError::Missing { path: folder.to_owned() });
        }
        Self::start(disk, folder, stamp, keeping.into())
    }

    fn start(
        disk: &Arc<dyn Disk>,
        folder: &Path,
        stamp: Stamp,
        keeping: Keeping,
    ) -> Result<Self, VolumeError> {
        let lock: Arc<dyn Lock> = Arc::from(take_lock(&**disk, folder)?);
        for database in Database::ALL {
            for suffix in ["", "-wal", "-shm"] {
                let file = folder.join(format!("{}{suffix}", database.file()));
                let there = private_if_there(&**disk, &file, Private::File)?;
                if there && suffix == "-wal" {
                    // Commits can be read from a log that are not on disk: a process was killed before its
                    // sync, or the sync failed. What will be shown must be there.
                    disk.rewrite(&file).map_err(failed(&file))?;
                }
            }
        }
        // All are judged before any writer starts: one stranger leaves the others untouched.
        let mut open = Vec::with_capacity(Database::ALL.len());
        for database in Database::ALL {
            open.push(open_database(&**disk, folder, database, &stamp)?);
        }
        disk.sync_dir(folder).map_err(failed(folder))?;
        let mut writers = Vec::with_capacity(open.len());
        for (database, (connection, checkpointer)) in Database::ALL.into_iter().zip(open) {
            let path = folder.join(database.file());
            let reserve = KeptBack::new(Arc::clone(disk), folder, database, keeping.reserve_bytes);
            let (reserve, lock) = (Box::new(reserve), Arc::clone(&lock));
            let writer = Writer::start(path.clone(), connection, checkpointer, reserve, keeping.upkeep, lock)
                .map_err(|error| VolumeError::Io { path, source: io::Error::other(error) })?;
            writers.push(Arc::new(writer));
        }
        let Ok([state, jobs, logs]) = <[_; 3]>::try_from(writers) else {
            return Err(VolumeError::Missing { path: folder.to_owned() });
        };
        Ok(Self { folder: folder.to_owned(), stamp, jobs, logs, state })
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
    pub fn jobs(&self, volume_key: &[u8; 32]) -> crate::jobs::Jobs {
        crate::jobs::Jobs::new(Arc::clone(&self.jobs), volume_key, self.stamp.network, self.stamp.node)
    }

    /// The snapshots kept here; digest and signatures are verified again.
    ///
    /// # Errors
    /// [`SnapshotError`](crate::snapshot::SnapshotError) where what is stored cannot be read, or the keysets do
    /// not follow from the pinned one.
    pub fn snapshots(&self) -> Result<crate::snapshot::Snapshots, crate::snapshot::SnapshotError> {
        crate::snapshot::Snapshots::load(Arc::clone(&self.state), self.stamp.network)
    }

    /// The inventory kept here.
    #[must_use]
    pub fn inventory(&self) -> crate::inventory::Inventory {
        crate::inventory::Inventory::new(Arc::clone(&self.state))
    }

    /// The account link, the message sequence and the clock's mark kept here.
    #[must_use]
    pub fn binding(&self) -> crate::binding::Binding {
        crate::binding::Binding::new(Arc::clone(&self.state))
    }

    /// The logs kept here, in at most `bytes_max` bytes.
    #[must_use]
    pub fn logs(&self, bytes_max: u64) -> crate::logs::Logs {
        crate::logs::Logs::new(Arc::clone(&self.logs), bytes_max)
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

fn take_lock(disk: &dyn Disk, folder: &Path) -> Result<Box<dyn Lock>, VolumeError> {
    let path = folder.join(LOCK);
    private_if_there(disk, &path, Private::File)?;
    match disk.lock(&path, &std::process::id().to_string()).map_err(failed(&path))? {
        Locked::Ours(lock) => Ok(lock),
        Locked::Theirs(holder) => Err(VolumeError::InUse { path: folder.to_owned(), holder }),
    }
}

fn open_database(
    disk: &dyn Disk,
    folder: &Path,
    database: Database,
    stamp: &Stamp,
) -> Result<(rusqlite::Connection, rusqlite::Connection), VolumeError> {
    let path = folder.join(database.file());
    if disk.entry(&path).map_err(failed(&path))?.is_none() {
        // Made here and not by SQLite, whose files take the mode of the process's umask.
        disk.create_file(&path, &[]).map_err(failed(&path))?;
    }
    let mut connection = format::connect(disk, &path, database, Access::Write)?;
    format::prepare(&mut connection, &path, database, stamp, |found| back_up(disk, &path, found))?;
    let checkpointer = format::connect(disk, &path, database, Access::Write)?;
    Ok((connection, checkpointer))
}

/// Copies a database beside itself before its first migration: `jobs.db.format-1`.
fn back_up(disk: &dyn Disk, path: &Path, found: u32) -> io::Result<()> {
    let copy = path.with_extension(format!("db.format-{found}"));
    if disk.entry(&copy)?.is_some() {
        // An earlier attempt's, made before anything was changed: better than one made now.
        return Ok(());
    }
    let temporary = path.with_extension("db.backup");
    disk.remove(&temporary)?;
    let source = format::connect(disk, path, database_of(path)?, Access::Read).map_err(io::Error::other)?;
    source.execute("VACUUM INTO ?1", [temporary.to_string_lossy()]).map_err(io::Error::other)?;
    disk.sync_file(&temporary)?;
    disk.rename_new(&temporary, &copy)?;
    path.parent().map_or(Ok(()), |folder| disk.sync_dir(folder))
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
    held: bool,
}

impl KeptBack {
    fn new(disk: Arc<dyn Disk>, folder: &Path, database: Database, bytes: u64) -> Self {
        let path = folder.join(format!("{RESERVE}.{}", database.file()));
        // Logs are dropped when the disk is full; only jobs and state must go on.
        let bytes = if database == Database::Logs { 0 } else { bytes / 2 };
        let mut this = Self { disk, path, bytes, held: false };
        this.restore();
        this
    }
}

impl Reserve for KeptBack {
    fn release(&mut self) -> bool {
        let released = self.held && self.disk.remove(&self.path).is_ok();
        self.held &= !released;
        released
    }

    fn log_bytes_max(&self) -> Option<u64> {
        (self.bytes > 0).then_some(self.bytes / 2)
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
pub fn folder(home: &Path, network: node_types::Network) -> PathBuf {
    home.join(network.name())
}
