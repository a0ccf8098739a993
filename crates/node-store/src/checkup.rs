//! The checkup of one database: whose it is and whether it is whole, looked at from outside and read-only.
//!
//! It works beside a running Agent, and on a volume that does not open: each database is looked at by itself, without
//! key and lock. Nothing is changed, repaired or moved; that is the affair of [`salvage`] at the next
//! opening, which reads all of a database only where it has to: [`suspect`] says so.
//!
//! How long it takes is the caller's to say: a database of gigabytes takes minutes to read.

use std::{io, path::Path, sync::Arc};

use rusqlite::ErrorCode;

use crate::{
    disk::Disk,
    format::{self, Database, FormatError, Stamp},
    salvage,
};

/// Instructions of SQLite's machine between two questions whether to go on: a few milliseconds of reading.
const STEPS: i32 = 10_000;

/// How much is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Every page and row (`PRAGMA quick_check`).
    Quick,
    /// That indexes and tables agree, too (`PRAGMA integrity_check`).
    Full,
}

/// What was found in a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// All of it is as it was written.
    Whole,
    /// It is damaged; this is the first thing that SQLite said.
    Damaged(String),
    /// The caller broke off before the end; nothing was found up to there.
    Unfinished,
}

/// A database that could be looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkup {
    /// Whose it is.
    pub stamp: Stamp,
    /// Its length in bytes.
    pub bytes: u64,
    /// Whether it is whole.
    pub health: Health,
}

/// Looks at a database of the volume in `folder`; nothing where it is not there or holds nothing. `go_on` is asked every few milliseconds.
///
/// # Errors
/// [`FormatError`] where it cannot be told whose it is: another format, another program's file, damage to its head.
pub fn check(
    disk: &Arc<dyn Disk>,
    folder: &Path,
    database: Database,
    depth: Depth,
    mut go_on: impl FnMut() -> bool + Send + 'static,
) -> Result<Option<Checkup>, FormatError> {
    let path = folder.join(database.file());
    let entry = disk.entry(&path).map_err(|source| FormatError::Io { path: path.clone(), source })?;
    let Some(entry) = entry else { return Ok(None) };
    let Some((mut connection, stamp)) = format::find(&**disk, &path, database)? else { return Ok(None) };
    let failed = |error| FormatError::of(&path, error);
    connection.progress_handler(STEPS, Some(move || !go_on())).map_err(failed)?;
    let pragma = match depth {
        Depth::Quick => "PRAGMA quick_check(1)",
        Depth::Full => "PRAGMA integrity_check(1)",
    };
    let health = match connection.query_row(pragma, (), |row| row.get::<_, String>(0)) {
        Ok(said) if said == "ok" => Health::Whole,
        Ok(said) => Health::Damaged(said),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) => {
            Health::Unfinished
        }
        Err(error) if format::is_damage(&error) => Health::Damaged(error.to_string()),
        Err(error) => return Err(failed(error)),
    };
    Ok(Some(Checkup { stamp, bytes: entry.bytes, health }))
}

/// Has the next opening of a database read all of it, move it aside if it is damaged, and save what can be read. For whoever holds
/// the volume's lock.
///
/// # Errors
/// The operating system's.
pub fn suspect(disk: &dyn Disk, database: &Path, cause: &str) -> io::Result<()> {
    salvage::suspect(disk, database, cause)
}

/// Whether the next opening of a database reads all of it already.
///
/// # Errors
/// The operating system's.
pub fn is_suspect(disk: &dyn Disk, database: &Path) -> io::Result<bool> {
    Ok(disk.entry(&salvage::suspect_file(database))?.is_some())
}

/// Takes [`suspect`] back: the next opening reads what it needs, as ever. False where it was read since, or is suspected for
/// another cause.
///
/// # Errors
/// The operating system's.
pub fn trust(disk: &dyn Disk, database: &Path, cause: &str) -> io::Result<bool> {
    let path = salvage::suspect_file(database);
    if disk.read(&path, 2 * cause.len() as u64 + 1)?.as_deref() != Some(cause.as_bytes()) {
        return Ok(false);
    }
    disk.remove(&path).map(|()| true)
}
