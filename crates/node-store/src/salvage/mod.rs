//! Salvage: what becomes of a database that is damaged or missing.
//!
//! A damaged file is never repaired in place and never thrown away. What can be read of it is copied into a
//! new file; the damaged one is moved aside under a name with the date; then the new one takes its place:
//!
//! ```text
//! jobs.db.suspect                            it was found damaged while it was in use: checked in full when opened
//! jobs.db.rescue                             what can be read, being copied
//! jobs.db.rescued-2026-11-24T03-48-05.000Z   the same, whole: from now on it takes the place of jobs.db
//! jobs.db.damaged-2026-11-24T03-48-05.000Z   the damaged file, with its -wal
//! ```
//!
//! A crash at any moment leaves either the damaged file in place or a whole rescued one, and opening again
//! finishes. Every incident is written into the new file, in the commit that makes it whole, and stays
//! there until the network was told.
//!
//! Reading goes table by table, row by row. Where rows of a numbered table cannot be read, the next
//! readable one is searched for in growing steps; of tables without numbers both ends are read. Rows that can
//! be read but hold nonsense are left out; what a table's only row holds is set back, as far as nothing tells
//! it: the tally is counted again, the floor comes from its other copy.
//!
//! Where there is no room for the copy, `jobs.db` and `state.db` are left as they are and the node does not
//! start. Logs stop no job: a `logs.db` that cannot be copied is moved aside whole, and an empty one begun.
//!
//! A damaged `jobs.db` holds wrapped keys of jobs that end meanwhile: it stays until its incident was reported,
//! and is removed at the next opening.
//!
//! Limits: [`DAMAGED_MAX`] damaged files of one database are kept.

use std::{
    io,
    path::{Path, PathBuf},
};

use node_types::Timestamp;
use rusqlite::Connection;

use crate::{
    disk::{self, Disk},
    format::{self, Access, Database, FormatError, Stamp},
    jobs, logs,
};

mod copy;
mod sense;

use copy::{Count, copy_table, keep_numbering, tables};

/// Damaged files of one database that are kept, the newest.
pub const DAMAGED_MAX: usize = 3;

/// Behind the name of a database: the note that it was found damaged.
pub(crate) const SUSPECT: &str = ".suspect";
/// The copy of what can be read of it.
pub(crate) const RESCUE: &str = ".rescue";
/// The same, whole; a date follows.
pub(crate) const RESCUED: &str = ".rescued-";
/// The damaged one, moved aside; a date follows.
pub(crate) const DAMAGED: &str = ".damaged-";

/// Damage or loss of a database, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incident {
    /// Its number in that database.
    pub seq: u64,
    /// The database.
    pub database: Database,
    /// When it was found.
    pub at: Timestamp,
    /// What was found.
    pub cause: String,
    /// The name of the file that was moved aside; `None` where the file was missing.
    pub moved_to: Option<String>,
    /// Jobs, log records or, of `state.db`, rows that were saved.
    pub saved: u64,
    /// How many of them are lost at the most; `None` where nobody can tell.
    pub lost: Option<u64>,
    /// The network was told.
    pub reported: bool,
}

/// The incidents of a database that the network has not been told of, or that were found at `since` or later, oldest first.
pub(crate) fn incidents(
    tx: &Connection,
    database: Database,
    since: Timestamp,
) -> rusqlite::Result<Vec<Incident>> {
    let wanted = "SELECT seq, at, cause, moved_to, saved, lost, reported <> 0 FROM incidents \
                  WHERE reported = 0 OR at >= ?1 ORDER BY seq";
    tx.prepare(wanted)?
        .query_map([since.ms()], |row| {
            Ok(Incident {
                seq: row.get(0)?,
                database,
                at: Timestamp::from_ms(row.get(1)?),
                cause: row.get(2)?,
                moved_to: row.get(3)?,
                saved: row.get(4)?,
                lost: row.get(5)?,
                reported: row.get(6)?,
            })
        })?
        .collect()
}

/// Notes that the network was told of the incidents up to `seq`.
pub(crate) fn mark_reported(tx: &Connection, seq: u64) -> rusqlite::Result<()> {
    tx.execute("UPDATE incidents SET reported = 1 WHERE seq <= ?1", [seq]).map(|_| ())
}

/// Notes that a database was not there and had to be made anew.
pub(crate) fn note_missing(tx: &Connection, now: Timestamp, moved_to: Option<&str>) -> rusqlite::Result<()> {
    let cause = if moved_to.is_some() { "the file held no database" } else { "the file was missing" };
    note(tx, now, cause, moved_to, 0, None)
}

pub(crate) fn note(
    tx: &Connection,
    now: Timestamp,
    cause: &str,
    moved_to: Option<&str>,
    saved: u64,
    lost: Option<u64>,
) -> rusqlite::Result<()> {
    tx.execute(
        "INSERT INTO incidents (at, cause, moved_to, saved, lost) VALUES (?1, ?2, ?3, ?4, ?5)",
        (now.ms(), cause, moved_to, saved, lost),
    )
    .map(|_| ())
}

/// Where it is noted that a database was found damaged while it was in use.
pub(crate) fn suspect_file(database: &Path) -> PathBuf {
    beside(database, SUSPECT)
}

/// The path with more behind its name.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Reads all of a database: pages, indexes, constraints, and every row by its types. Says what is wrong.
pub(crate) fn examine(connection: &Connection, database: Database) -> rusqlite::Result<Option<String>> {
    if let Some(said) = examine_pages(connection)? {
        return Ok(Some(said));
    }
    let nonsense: u64 = sense::nonsense(connection, database)?.iter().map(|found| found.rows).sum();
    Ok((nonsense > 0).then(|| format!("{nonsense} rows hold nonsense")))
}

/// Reads all of a database of any format, without knowing what its rows mean. Says what is wrong.
pub(crate) fn examine_pages(connection: &Connection) -> rusqlite::Result<Option<String>> {
    let said: String = connection.query_row("PRAGMA integrity_check(1)", (), |row| row.get(0))?;
    Ok((said != "ok").then_some(said))
}

/// Removes the damaged files of `jobs.db` whose incidents the network was told of: they hold wrapped keys of
/// jobs that end meanwhile.
pub(crate) fn forget_reported(disk: &dyn Disk, path: &Path, connection: &Connection) -> io::Result<()> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
    let told = connection
        .prepare("SELECT moved_to FROM incidents WHERE reported <> 0 AND moved_to NOT NULL")
        .and_then(|mut select| select.query_map((), |row| row.get::<_, String>(0))?.collect());
    // What cannot be read here is damage for the next check; the files stay.
    let Ok(told): rusqlite::Result<Vec<String>> = told else { return Ok(()) };
    let prefix = format!("{}{DAMAGED}", name.to_string_lossy());
    for aside in told.iter().filter(|aside| aside.starts_with(&prefix) && !aside.contains('/')) {
        for suffix in ["-wal", ""] {
            disk.remove(&folder.join(format!("{aside}{suffix}")))?;
        }
    }
    Ok(())
}

/// The tables that a database of any size has, each with the one column that orders it.
pub(crate) fn walkable(database: Database) -> impl Iterator<Item = (&'static str, &'static str)> {
    tables(database).iter().filter(|table| !table.key.contains(',')).map(|table| (table.name, table.key))
}

/// Saves what can be read of a damaged database and moves it aside. Opening it finds the rescued one.
pub(crate) fn rescue(
    disk: &dyn Disk,
    path: &Path,
    database: Database,
    stamp: &Stamp,
    cause: &str,
    now: Timestamp,
) -> Result<(), FormatError> {
    let io_failed = |source| FormatError::Io { path: path.to_owned(), source };
    let copy = beside(path, RESCUE);
    forget_copy(disk, path).map_err(io_failed)?;
    disk.create_file(&copy, &[]).map_err(io_failed)?;
    {
        let mut to = format::connect(disk, &copy, database, Access::Write)?;
        format::prepare(&mut to, &copy, database, stamp, |_| Ok(()))?;
        // Of a file whose first page is gone nothing can be read.
        let from = format::connect(disk, path, database, Access::Read).ok();
        let moved_to = damaged_file(path, now);
        let moved_to = moved_to.file_name().map(|name| name.to_string_lossy().into_owned());
        copy_all(from.as_ref(), &mut to, database, cause, moved_to.as_deref(), now)
            .map_err(|error| FormatError::of(&copy, error))?;
    }
    disk.sync_file(&copy).map_err(io_failed)?;
    disk.rename(&copy, &beside(path, &format!("{RESCUED}{}", date(now)))).map_err(io_failed)?;
    path.parent().map_or(Ok(()), |folder| disk.sync_dir(folder)).map_err(io_failed)?;
    finish(disk, path).map_err(io_failed)
}

/// Removes what an attempt to save left of its copy.
pub(crate) fn forget_copy(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    let copy = beside(path, RESCUE);
    ["", "-wal", "-shm"].iter().try_for_each(|suffix| disk.remove(&beside(&copy, suffix)))
}

/// Puts a rescued database in its place, if there is one: also what a crash interrupted.
pub(crate) fn finish(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
    let prefix = format!("{}{RESCUED}", name.to_string_lossy());
    for rescued in disk.list(folder)? {
        let Some(date) = rescued.to_string_lossy().strip_prefix(&prefix).map(str::to_owned) else { continue };
        let aside = beside(path, &format!("{DAMAGED}{date}"));
        // The log goes too: SQLite would replay it into the rescued file.
        for suffix in ["", "-wal"] {
            if disk.entry(&beside(path, suffix))?.is_some() {
                disk.rename(&beside(path, suffix), &beside(&aside, suffix))?;
            }
        }
        disk.remove(&beside(path, "-shm"))?;
        disk.sync_dir(folder)?;
        disk.rename_new(&folder.join(&rescued), path)?;
        disk.remove(&suspect_file(path))?;
        disk.sync_dir(folder)?;
    }
    drop_oldest_damaged(disk, folder, &name.to_string_lossy())
}

fn drop_oldest_damaged(disk: &dyn Disk, folder: &Path, name: &str) -> io::Result<()> {
    let prefix = format!("{name}{DAMAGED}");
    let names = disk.list(folder)?;
    let mut damaged: Vec<_> = names
        .iter()
        .map(|name| name.to_string_lossy())
        .filter(|name| name.starts_with(&prefix) && !name.ends_with("-wal"))
        .collect();
    // The date in the name sorts by time.
    damaged.sort();
    let over = damaged.len().saturating_sub(DAMAGED_MAX);
    for name in &damaged[..over] {
        disk.remove(&folder.join(format!("{name}-wal")))?;
        disk.remove(&folder.join(&**name))?;
    }
    Ok(())
}

/// Moves away what stands where a database is missing: a file that holds none, a log that nothing can be made
/// of without it. Returns the file's new name.
pub(crate) fn move_aside(disk: &dyn Disk, path: &Path, now: Timestamp) -> io::Result<Option<String>> {
    let aside = damaged_file(path, now);
    let mut moved_to = None;
    for suffix in ["-wal", ""] {
        if disk.entry(&beside(path, suffix))?.is_some_and(|file| file.bytes > 0) {
            disk.rename(&beside(path, suffix), &beside(&aside, suffix))?;
            moved_to = aside.file_name().map(|name| name.to_string_lossy().into_owned());
        }
    }
    disk.remove(&beside(path, "-shm"))?;
    Ok(moved_to)
}

fn date(now: Timestamp) -> String {
    now.to_string().replace(':', "-")
}

fn damaged_file(path: &Path, now: Timestamp) -> PathBuf {
    beside(path, &format!("{DAMAGED}{}", date(now)))
}

fn copy_all(
    from: Option<&Connection>,
    to: &mut Connection,
    database: Database,
    cause: &str,
    moved_to: Option<&str>,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let mut count = Count { saved: 0, lost: from.map(|_| 0) };
    let mut unreadable = Vec::new();
    for table in tables(database) {
        let Some(from) = from else { break };
        let copied = copy_table(from, to, table)?;
        if copied.lost != Some(0) {
            unreadable.push(table.name);
        }
        if table.counted {
            count.saved += copied.saved;
            count.lost = count.lost.zip(copied.lost).map(|(sum, more)| sum + more);
        }
    }
    if let Some(from) = from {
        keep_numbering(from, to)?;
    }
    let tx = to.transaction()?;
    let nonsense = sense::nonsense(&tx, database)?;
    nonsense.iter().try_for_each(|found| found.mend(&tx))?;
    let before = count.saved;
    match database {
        Database::State => {
            let left_out = nonsense.iter().map(|found| found.rows).sum();
            count.saved = count.saved.saturating_sub(left_out);
            count.lost = count.lost.map(|lost| lost + left_out);
        }
        Database::Jobs => {
            let expected = tx.query_row("SELECT jobs FROM tally", (), |row| row.get::<_, u64>(0))?;
            jobs::mend(&tx)?;
            count.saved = tx.query_row("SELECT jobs FROM tally", (), |row| row.get(0))?;
            // The tally was committed with the jobs: where it can be read, it tells exactly.
            count.lost = (expected > 0)
                .then(|| expected.saturating_sub(count.saved))
                .or_else(|| count.lost.map(|lost| lost + before.saturating_sub(count.saved)));
        }
        Database::Logs => {
            logs::mend(&tx)?;
            count.saved = tx.query_row("SELECT count(*) FROM records", (), |row| row.get(0))?;
            count.lost = count.lost.map(|lost| lost + before.saturating_sub(count.saved));
        }
    }
    let mut found = cause.to_owned();
    if !unreadable.is_empty() {
        found += &format!("; not all could be read of: {}", unreadable.join(", "));
    }
    note(&tx, now, &found, moved_to, count.saved, count.lost)?;
    tx.commit()?;
    to.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(()))
}

/// Notes that a database was found damaged while it was in use.
pub(crate) fn suspect(disk: &dyn Disk, database: &Path, cause: &str) -> io::Result<()> {
    disk::replace(disk, &suspect_file(database), cause.as_bytes())
}
