//! Formats on disk: one list of migrations a database, run at open.
//!
//! `PRAGMA application_id` says that a file is one of ours and which, `PRAGMA user_version` is its
//! format. Version 0 is an empty file. A migration is one SQL text, run in a transaction together with
//! the raise of `user_version`; the file is copied beside itself first (0600: it holds wrapped keys), and the
//! copy is removed at the first opening that needs no migration and follows an end in good order: by then the
//! migrated database was opened, used and closed once. A newer format is refused by name.
//!
//! `docs/format.md` describes what is on disk, per version.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    time::Duration,
};

use node_types::{Network, NodeId, VolumeId};
use rusqlite::{Connection, OpenFlags, OptionalExtension, config::DbConfig};

use crate::disk::Disk;

mod jobs;
mod logs;
mod state;
#[cfg(test)]
mod tests;

/// Size of a page in bytes: SQLite's default, and the block of the usual file systems.
pub const PAGE_BYTES: u64 = 4096;
/// The oldest SQLite that may open a volume, as `sqlite3_libversion_number` counts: 3.51.3, which fixes
/// a race between a checkpoint and a commit that could leave a damaged database.
pub const SQLITE_VERSION_MIN: i32 = 3_051_003;

/// How long a statement waits for another connection's lock.
pub(crate) const BUSY_WAIT_MAX: Duration = Duration::from_secs(5);

/// A database of the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Database {
    /// `state.db`: identity, snapshot, inventory, binding, counters.
    State,
    /// `jobs.db`: jobs and traces.
    Jobs,
    /// `logs.db`: records and batches.
    Logs,
}

impl Database {
    /// All three, in the order in which they are made.
    pub const ALL: [Self; 3] = [Self::State, Self::Jobs, Self::Logs];

    /// Its file's name.
    #[must_use]
    pub const fn file(self) -> &'static str {
        match self {
            Self::State => "state.db",
            Self::Jobs => "jobs.db",
            Self::Logs => "logs.db",
        }
    }

    /// `PRAGMA application_id`: `Rst`, `Rjb`, `Rlg` and a zero byte.
    const fn application_id(self) -> i32 {
        match self {
            Self::State => i32::from_be_bytes(*b"Rst\0"),
            Self::Jobs => i32::from_be_bytes(*b"Rjb\0"),
            Self::Logs => i32::from_be_bytes(*b"Rlg\0"),
        }
    }

    /// The SQL that leads from each format to the next, from 0 on.
    pub(crate) const fn migrations(self) -> &'static [&'static str] {
        match self {
            Self::State => state::MIGRATIONS,
            Self::Jobs => jobs::MIGRATIONS,
            Self::Logs => logs::MIGRATIONS,
        }
    }

    /// The newest format that this release reads and the one it writes.
    #[must_use]
    pub fn newest(self) -> u32 {
        u32::try_from(self.migrations().len()).unwrap_or(u32::MAX)
    }

    /// `FULL` syncs every commit. Logs take `NORMAL`: a power cut may lose the last moment of logs, it
    /// never damages them.
    const fn synchronous(self) -> (&'static str, i64) {
        match self {
            Self::State | Self::Jobs => ("FULL", 2),
            Self::Logs => ("NORMAL", 1),
        }
    }
}

/// The page of the documentation that shows every format's tables: the migrations themselves.
#[must_use]
pub fn document() -> String {
    let mut text = String::from(
        "# Tables\n\nMade from `node_store::format` by `make docs`; edit the code, not this page. What stands around \
         them is in [format.md](format.md).\n",
    );
    for database in Database::ALL {
        for (format, sql) in database.migrations().iter().enumerate() {
            text += &format!("\n## `{database}`, from format {format} to {}\n\n```sql{sql}```\n", format + 1);
        }
    }
    text
}

impl fmt::Display for Database {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.file())
    }
}

/// Whose volume a database belongs to; stamped in each of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The network.
    pub network: Network,
    /// The node.
    pub node: NodeId,
    /// The volume.
    pub volume: VolumeId,
}

/// Why a database cannot be opened. Only [`FormatError::Damaged`] is damage.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// Written by a newer release.
    #[error(
        "{path} has format {found}; this release reads up to {newest}: upgrade resultity-node, or restore a backup that was made before"
    )]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest that can be read.
        newest: u32,
    },
    /// Written by an older release; reading alone cannot bring it up to date.
    #[error(
        "{path} has format {found}, this release reads {newest}: start the Agent once, it migrates the file"
    )]
    TooOld {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The one that is read.
        newest: u32,
    },
    /// Another program's database, or another of ours.
    #[error("{path} is not a {wanted} of resultity-node: put the right file back, or restore a backup")]
    NotOurs {
        /// The file.
        path: PathBuf,
        /// What it should be.
        wanted: Database,
    },
    /// It belongs to another network.
    #[error("{path} belongs to {found}, this node runs on {wanted}: open it with --network {found}")]
    OtherNetwork {
        /// The file.
        path: PathBuf,
        /// Its network.
        found: String,
        /// The network asked for.
        wanted: Network,
    },
    /// It belongs to another node.
    #[error("{path} belongs to {found}, the key here is that of {wanted}: put back the files of one node")]
    OtherNode {
        /// The file.
        path: PathBuf,
        /// Its node.
        found: String,
        /// The node of the key.
        wanted: NodeId,
    },
    /// It was copied in from another volume.
    #[error("{path} belongs to volume {found}, this is volume {wanted}: put back the files of one volume")]
    OtherVolume {
        /// The file.
        path: PathBuf,
        /// Its volume.
        found: String,
        /// This volume.
        wanted: VolumeId,
    },
    /// SQLite is too old to be trusted with a write-ahead log.
    #[error("SQLite {found} is too old: 3.51.3 or newer is needed")]
    OldSqlite {
        /// Its version.
        found: &'static str,
    },
    /// A setting did not take.
    #[error(
        "{path} cannot be used: {setting} is {found}, {wanted} is needed; is it on a network file system?"
    )]
    Setting {
        /// The file.
        path: PathBuf,
        /// The pragma.
        setting: &'static str,
        /// What it is.
        found: String,
        /// What it must be.
        wanted: String,
    },
    /// What it holds is not what was written.
    #[error("{path} is damaged: {cause}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        cause: String,
    },
    /// SQLite failed.
    #[error("cannot open {path}")]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// Its error.
        #[source]
        source: rusqlite::Error,
    },
    /// The operating system failed.
    #[error("cannot open {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Its error.
        #[source]
        source: io::Error,
    },
}

impl FormatError {
    pub(crate) fn of(path: &Path, source: rusqlite::Error) -> Self {
        let path = path.to_owned();
        if is_damage(&source) {
            Self::Damaged { path, cause: source.to_string() }
        } else {
            Self::Sqlite { path, source }
        }
    }
}

/// What the disk has against a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DiskFault {
    /// It cannot be read or written there.
    Bad,
    /// There is no room.
    Full,
}

impl FormatError {
    /// What of it is the disk's fault.
    pub(crate) fn disk_fault(&self) -> Option<DiskFault> {
        match self {
            Self::Sqlite { source, .. } => {
                let code = source.sqlite_error_code()?;
                let faults = [
                    (rusqlite::ErrorCode::SystemIoFailure, DiskFault::Bad),
                    (rusqlite::ErrorCode::DiskFull, DiskFault::Full),
                ];
                faults.into_iter().find(|(of, _)| *of == code).map(|(_, fault)| fault)
            }
            Self::Io { source, .. }
                if source.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) =>
            {
                Some(DiskFault::Bad)
            }
            Self::Io { source, .. } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
                    .then_some(DiskFault::Full)
            }
            Self::TooNew { .. }
            | Self::TooOld { .. }
            | Self::NotOurs { .. }
            | Self::OtherNetwork { .. }
            | Self::OtherNode { .. }
            | Self::OtherVolume { .. }
            | Self::OldSqlite { .. }
            | Self::Setting { .. }
            | Self::Damaged { .. } => None,
        }
    }
}

/// Whether what was read is not what was written: pages that do not fit together, or a value that no row of
/// ours holds.
pub(crate) fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::{
        Error::{FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType, Utf8Error},
        ErrorCode::{DatabaseCorrupt, NotADatabase},
    };
    matches!(error.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase))
        || matches!(
            error,
            FromSqlConversionFailure(..)
                | IntegralValueOutOfRange(..)
                | InvalidColumnType(..)
                | Utf8Error(..)
        )
}

/// How a connection is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// The writer's: makes the file if there is none.
    Write,
    /// A reader's.
    Read,
}

/// Opens one connection and sets and reads back what every connection needs.
pub(crate) fn connect(
    disk: &dyn Disk,
    path: &Path,
    database: Database,
    access: Access,
) -> Result<Connection, FormatError> {
    new_enough(rusqlite::version_number(), rusqlite::version())?;
    let rights = match access {
        Access::Write => OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE,
        Access::Read => OpenFlags::SQLITE_OPEN_READ_ONLY,
    };
    let flags = rights | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let opened = match disk.vfs() {
        Some(vfs) => Connection::open_with_flags_and_vfs(path, flags, vfs),
        None => Connection::open_with_flags(path, flags),
    };
    let connection = opened.map_err(|error| FormatError::of(path, error))?;
    settle(&connection, path, database, access)?;
    Ok(connection)
}

const fn new_enough(number: i32, found: &'static str) -> Result<(), FormatError> {
    if number < SQLITE_VERSION_MIN { Err(FormatError::OldSqlite { found }) } else { Ok(()) }
}

fn settle(
    connection: &Connection,
    path: &Path,
    database: Database,
    access: Access,
) -> Result<(), FormatError> {
    let failed = |error| FormatError::of(path, error);
    connection.busy_timeout(BUSY_WAIT_MAX).map_err(failed)?;
    // No format has one: a trigger would be a stranger's.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false).map_err(failed)?;
    connection.set_prepared_statement_cache_capacity(64);
    let (synchronous, synchronous_read) = database.synchronous();
    let mut wanted = vec![("trusted_schema", "OFF", "0".to_owned())];
    if access == Access::Write {
        // Takes effect only while the file is empty, and would write to one that is not.
        let pages: i64 = connection.query_row("PRAGMA page_count", (), |row| row.get(0)).map_err(failed)?;
        if database == Database::Logs && pages == 0 {
            connection.pragma_update(None, "auto_vacuum", "INCREMENTAL").map_err(failed)?;
        }
        wanted.extend([
            ("journal_mode", "WAL", "wal".to_owned()),
            ("synchronous", synchronous, synchronous_read.to_string()),
            ("foreign_keys", "ON", "1".to_owned()),
            ("secure_delete", "ON", "1".to_owned()),
            ("wal_autocheckpoint", "0", "0".to_owned()),
        ]);
    }
    for (setting, value, wanted) in wanted {
        // Some pragmas answer the new value, some nothing: set first, then read.
        connection
            .query_row(&format!("PRAGMA {setting} = {value}"), (), |_| Ok(()))
            .optional()
            .map_err(failed)?;
        let found = connection
            .query_row(&format!("PRAGMA {setting}"), (), |row| row.get::<_, rusqlite::types::Value>(0))
            .map_err(failed)?;
        let found = match found {
            rusqlite::types::Value::Integer(number) => number.to_string(),
            rusqlite::types::Value::Text(text) => text,
            rusqlite::types::Value::Null
            | rusqlite::types::Value::Real(_)
            | rusqlite::types::Value::Blob(_) => String::new(),
        };
        if found != wanted {
            return Err(FormatError::Setting { path: path.to_owned(), setting, found, wanted });
        }
    }
    Ok(())
}

/// Brings an open database to the newest format and checks whose it is; an empty one is made and stamped.
///
/// `before_migration` is called once, before the first change to a database that holds something.
pub(crate) fn prepare(
    connection: &mut Connection,
    path: &Path,
    database: Database,
    stamp: &Stamp,
    before_migration: impl FnOnce(u32) -> Result<(), FormatError>,
) -> Result<(), FormatError> {
    migrate(connection, path, database, database.migrations(), stamp, before_migration)
}

/// [`prepare`] by a list of migrations, of which there is one for each format.
pub(crate) fn migrate(
    connection: &mut Connection,
    path: &Path,
    database: Database,
    migrations: &[&str],
    stamp: &Stamp,
    before_migration: impl FnOnce(u32) -> Result<(), FormatError>,
) -> Result<(), FormatError> {
    let failed = |error| FormatError::of(path, error);
    let newest = u32::try_from(migrations.len()).unwrap_or(u32::MAX);
    let version = version_up_to(connection, path, database, newest)?;
    let (found, empty) = (version.unwrap_or(0), version.is_none());
    if !empty {
        // Before anything is changed: a stranger's database is left as it is.
        check_stamp(connection, path, stamp)?;
    }
    if found < newest {
        if !empty {
            before_migration(found)?;
        }
        let tx = connection.transaction().map_err(failed)?;
        let from = usize::try_from(found).unwrap_or(usize::MAX);
        for migration in migrations.iter().skip(from) {
            tx.execute_batch(migration).map_err(failed)?;
        }
        if empty {
            tx.execute(
                "INSERT INTO stamp (network, node, volume) VALUES (?1, ?2, ?3)",
                (stamp.network.name(), stamp.node.to_string(), stamp.volume.to_string()),
            )
            .map_err(failed)?;
        }
        tx.pragma_update(None, "application_id", database.application_id()).map_err(failed)?;
        tx.pragma_update(None, "user_version", newest).map_err(failed)?;
        tx.commit().map_err(failed)?;
    }
    check_stamp(connection, path, stamp)
}

/// Checks that a database that came from outside has the tables of its format and nothing else: a trigger in it would
/// act at the first write.
pub(crate) fn check_schema(
    connection: &Connection,
    path: &Path,
    database: Database,
) -> Result<(), FormatError> {
    let failed = |error| FormatError::of(path, error);
    let found = version(connection, path, database)?.unwrap_or(0);
    let made = Connection::open_in_memory().map_err(failed)?;
    let formats = usize::try_from(found).unwrap_or(usize::MAX);
    for migration in database.migrations().iter().take(formats) {
        made.execute_batch(migration).map_err(failed)?;
    }
    let schema = |of: &Connection| -> rusqlite::Result<Vec<(String, String, Option<String>)>> {
        // SQLite makes this table itself, and a copy has none if no table needs it any more. Whatever else has its name counts.
        let sql = "SELECT type, name, sql FROM sqlite_schema
            WHERE (type, name, sql) IS NOT ('table', 'sqlite_sequence', 'CREATE TABLE sqlite_sequence(name,seq)')
            ORDER BY type, name";
        of.prepare(sql)?.query_map((), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.collect()
    };
    if schema(connection).map_err(failed)? == schema(&made).map_err(failed)? {
        return Ok(());
    }
    let cause = format!("its tables are not those of format {found}");
    Err(FormatError::Damaged { path: path.to_owned(), cause })
}

/// A database's format; `None` for a file that holds nothing.
pub(crate) fn version(
    connection: &Connection,
    path: &Path,
    database: Database,
) -> Result<Option<u32>, FormatError> {
    version_up_to(connection, path, database, database.newest())
}

/// A database's format, `newest` at the most; `None` for a file that holds nothing.
fn version_up_to(
    connection: &Connection,
    path: &Path,
    database: Database,
    newest: u32,
) -> Result<Option<u32>, FormatError> {
    let pragma = |name: &str| {
        connection
            .query_row(&format!("PRAGMA {name}"), (), |row| row.get::<_, i64>(0))
            .map_err(|error| FormatError::of(path, error))
    };
    let found = u32::try_from(pragma("user_version")?).unwrap_or(u32::MAX);
    if found == 0 && pragma("schema_version")? == 0 {
        return Ok(None);
    }
    if pragma("application_id")? != i64::from(database.application_id()) {
        return Err(FormatError::NotOurs { path: path.to_owned(), wanted: database });
    }
    if found > newest {
        return Err(FormatError::TooNew { path: path.to_owned(), found, newest });
    }
    Ok(Some(found))
}

/// Opens a database to look at it and says whose it is; `None` for a file that is not there or holds nothing.
pub(crate) fn find(
    disk: &dyn Disk,
    path: &Path,
    database: Database,
) -> Result<Option<(Connection, Stamp)>, FormatError> {
    let entry = disk.entry(path).map_err(|source| FormatError::Io { path: path.to_owned(), source })?;
    if entry.is_none() {
        return Ok(None);
    }
    let connection = connect(disk, path, database, Access::Read)?;
    if version(&connection, path, database)?.is_none() {
        return Ok(None);
    }
    let stamp = identify(&connection, path, database)?;
    Ok(Some((connection, stamp)))
}

/// Whose a database is that is only read: it has the newest format, and a stamp.
pub(crate) fn identify(
    connection: &Connection,
    path: &Path,
    database: Database,
) -> Result<Stamp, FormatError> {
    let newest = database.newest();
    let found = version(connection, path, database)?.unwrap_or(0);
    if found < newest {
        return Err(FormatError::TooOld { path: path.to_owned(), found, newest });
    }
    let (network, node, volume) = read_stamp(connection, path)?;
    let damaged = |cause: &dyn fmt::Display| FormatError::Damaged {
        path: path.to_owned(),
        cause: format!("its stamp cannot be read: {cause}"),
    };
    Ok(Stamp {
        network: network.parse().map_err(|error| damaged(&error))?,
        node: node.parse().map_err(|error| damaged(&error))?,
        volume: volume.parse().map_err(|error| damaged(&error))?,
    })
}

fn read_stamp(connection: &Connection, path: &Path) -> Result<(String, String, String), FormatError> {
    connection
        .query_row("SELECT network, node, volume FROM stamp", (), |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .optional()
        .map_err(|error| FormatError::of(path, error))?
        .ok_or_else(|| FormatError::Damaged { path: path.to_owned(), cause: "it has no stamp".to_owned() })
}

/// Refuses a database of another network, node or volume, naming both sides.
pub(crate) fn check_stamp(connection: &Connection, path: &Path, ours: &Stamp) -> Result<(), FormatError> {
    let (network, node, volume) = read_stamp(connection, path)?;
    let path = path.to_owned();
    if network != ours.network.name() {
        return Err(FormatError::OtherNetwork { path, found: network, wanted: ours.network });
    }
    if node != ours.node.to_string() {
        return Err(FormatError::OtherNode { path, found: node, wanted: ours.node });
    }
    if volume != ours.volume.to_string() {
        return Err(FormatError::OtherVolume { path, found: volume, wanted: ours.volume });
    }
    Ok(())
}
