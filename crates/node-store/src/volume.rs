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

use node_types::Network;

use crate::{
    disk::{Disk, Lock, Locked},
    format::{self, Access, Database, FormatError, Stamp},
    private::{NotPrivate, Private, private_if_there},
    view::View,
    writer::{Reserve, Writer},
};

/// Bytes kept back for ending jobs on a full disk, unless the embedder sets another number: 64 MiB, half
/// of it for `jobs.db` and half for `state.db`, each twice the largest write-ahead log.
pub const RESERVE_BYTES: u64 = 64 << 20;

const LOCK: &str = "LOCK";
pub(crate) const KEYS: &str = "keys";
const RESERVE: &str = "RESERVE";

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
    /// There is no volume, or not all of it.
    #[error("there is no {path}: create a volume, or choose the right --home and network")]
    Missing {
        /// The folder or database.
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
    view: View,
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
        reserve_bytes: u64,
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
        Self::start(disk, folder, stamp, reserve_bytes)
    }

    /// Opens a volume that is there.
    ///
    /// # Errors
    /// [`VolumeError`]; [`VolumeError::Missing`] where there is no folder.
    pub fn open(
        disk: &Arc<dyn Disk>,
        folder: &Path,
        stamp: Stamp,
        reserve_bytes: u64,
    ) -> Result<Self, VolumeError> {
        if !private_if_there(&**disk, folder, Private::Folder)? {
            return Err(VolumeError::Missing { path: folder.to_owned() });
        }
        Self::start(disk, folder, stamp, reserve_bytes)
    }

    /// Opens a volume for reading alone, beside a running Agent or without one. It needs no key, takes no
    /// lock and changes nothing.
    ///
    /// # Errors
    /// [`VolumeError`]; [`VolumeError::Missing`] where there is no folder or a database is not there.
    pub fn view_only(disk: &Arc<dyn Disk>, folder: &Path, network: Network) -> Result<View, VolumeError> {
        if !private_if_there(&**disk, folder, Private::Folder)? {
            return Err(VolumeError::Missing { path: folder.to_owned() });
        }
        check_private(&**disk, folder)?;
        let mut first: Option<Stamp> = None;
        for database in Database::ALL {
            let path = folder.join(database.file());
            if disk.entry(&path).map_err(failed(&path))?.is_none() {
                return Err(VolumeError::Missing { path });
            }
            let connection = format::connect(&**disk, &path, database, Access::Read)?;
            let found = format::identify(&connection, &path, database)?;
            // Without a key nobody can say whose volume it is; that its files belong together can be said.
            let wanted = *first.get_or_insert(Stamp { network, ..found });
            format::check_stamp(&connection, &path, &wanted)?;
        }
        Ok(View::new(disk, folder, network))
    }

    fn start(
        disk: &Arc<dyn Disk>,
        folder: &Path,
        stamp: Stamp,
        reserve_bytes: u64,
    ) -> Result<Self, VolumeError> {
        let lock: Arc<dyn Lock> = Arc::from(take_lock(&**disk, folder)?);
        check_private(&**disk, folder)?;
        // All are judged before any writer starts: one stranger leaves the others untouched.
        let mut open = Vec::with_capacity(Database::ALL.len());
        for database in Database::ALL {
            open.push(open_database(&**disk, folder, database, &stamp)?);
        }
        disk.sync_dir(folder).map_err(failed(folder))?;
        let mut writers = Vec::with_capacity(open.len());
        for (database, (connection, checkpointer)) in Database::ALL.into_iter().zip(open) {
            let path = folder.join(database.file());
            let reserve = KeptBack::new(Arc::clone(disk), folder, database, reserve_bytes);
            let writer =
                Writer::start(path.clone(), connection, checkpointer, Box::new(reserve), Arc::clone(&lock))
                    .map_err(|error| VolumeError::Io { path, source: io::Error::other(error) })?;
            writers.push(Arc::new(writer));
        }
        let Ok([state, jobs, logs]) = <[_; 3]>::try_from(writers) else {
            return Err(VolumeError::Missing { path: folder.to_owned() });
        };
        let view = View::new(disk, folder, stamp.network);
        Ok(Self { folder: folder.to_owned(), stamp, jobs, logs, state, view })
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
        let (writer, view) = (Arc::clone(&self.jobs), self.view.jobs().clone());
        crate::jobs::Jobs::new(writer, view, volume_key, self.stamp.network, self.stamp.node)
    }

    /// The snapshots kept here; digest and signatures are verified again.
    ///
    /// # Errors
    /// [`SnapshotError`](crate::snapshot::SnapshotError) where what is stored cannot be read, or the keysets do
    /// not follow from the pinned one.
    pub fn snapshots(&self) -> Result<crate::snapshot::Snapshots, crate::snapshot::SnapshotError> {
        let view = self.view.snapshots()?;
        Ok(crate::snapshot::Snapshots::new(Arc::clone(&self.state), self.stamp.network, view))
    }

    /// The inventory kept here.
    #[must_use]
    pub fn inventory(&self) -> crate::inventory::Inventory {
        crate::inventory::Inventory::new(Arc::clone(&self.state), self.view.inventory().clone())
    }

    /// The account link, the message sequence and the clock's mark kept here.
    #[must_use]
    pub fn binding(&self) -> crate::binding::Binding {
        crate::binding::Binding::new(Arc::clone(&self.state), self.view.binding().clone())
    }

    /// The logs kept here, in at most `bytes_max` bytes.
    #[must_use]
    pub fn logs(&self, bytes_max: u64) -> crate::logs::Logs {
        crate::logs::Logs::new(Arc::clone(&self.logs), self.view.logs().clone(), bytes_max)
    }

    /// Everything that can be asked, without waiting for a writer.
    #[must_use]
    pub const fn view(&self) -> &View {
        &self.view
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
    }
    Ok(())
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
pub fn folder(home: &Path, network: Network) -> PathBuf {
    home.join(network.name())
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
