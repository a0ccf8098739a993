//! The desk: the connection that writes rows, and what its leader does with it.

use std::{
    sync::{
        Arc, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use rusqlite::{Connection, ErrorCode, config::DbConfig};

use super::{
    CHECKPOINT_WAIT_MS_MAX, Durability, ERASE_DELAY_MS_MAX, Effect, Reserve, Room, Upkeep, WriteError,
    inbox::{Group, Request, Shared},
};
use crate::format::{BUSY_WAIT_MAX, PAGE_BYTES, is_damage};

/// What stops a writer.
#[derive(Clone, Debug)]
pub(super) struct Broken {
    pub(super) cause: Arc<str>,
    /// What was read is not what was written.
    pub(super) damaged: bool,
}

/// What stops the writer where a request's closure panicked: its transaction may be half done.
pub(super) fn panicked() -> Broken {
    Broken { cause: "a request panicked".into(), damaged: false }
}

enum Fault {
    DiskFull,
    Broken(Broken),
}

/// What an SQLite error means for the writer: `None` is the request's own fault.
fn fault(error: &rusqlite::Error) -> Option<Fault> {
    if is_damage(error) {
        return Some(Fault::Broken(Broken { cause: error.to_string().into(), damaged: true }));
    }
    let code = error.sqlite_error_code()?;
    let broken = [
        ErrorCode::SystemIoFailure,
        ErrorCode::CannotOpen,
        ErrorCode::OutOfMemory,
        ErrorCode::FileLockingProtocolFailed,
        ErrorCode::ReadOnly,
        ErrorCode::PermissionDenied,
        ErrorCode::InternalMalfunction,
    ];
    if code == ErrorCode::DiskFull {
        Some(Fault::DiskFull)
    } else {
        let cause = || Broken { cause: error.to_string().into(), damaged: false };
        broken.contains(&code).then(|| Fault::Broken(cause()))
    }
}

/// `PRAGMA synchronous` of a database whose every commit is synced.
const SYNCHRONOUS_FULL: i64 = 2;

/// `None` for a request that ran; else its own error.
type Outcomes = Vec<Option<Arc<str>>>;

pub(super) struct Desk {
    shared: Arc<Shared>,
    connection: Connection,
    reserve: Box<dyn Reserve>,
    /// Pages in the write-ahead log after the last commit.
    wal_pages: Arc<AtomicU32>,
    wal_bytes_max: u64,
    /// Pages in the log after the commit before the last.
    wal_pages_before: u32,
    /// Where commits are not synced unless somebody asks for it: whether the next one is.
    eased: Option<bool>,
}

/// What a write-ahead log needs after a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LogCare {
    Nothing,
    /// A pass of the checkpointer, beside the commits.
    CopyBack,
    /// The rest of the copy between two commits, and a log that begins anew.
    StartAnew,
}

/// Decides by the bytes in the log, and those of them that are not copied back. Above three quarters of its limit
/// the log is started anew as soon as hardly anything is left to copy, so that the commit behind it waits for little;
/// at the limit in any case.
const fn log_care(bytes: u64, uncopied: u64, bytes_max: u64) -> LogCare {
    let due = bytes > bytes_max / 4 * 3;
    if bytes > bytes_max || (due && uncopied <= bytes_max / 32) {
        LogCare::StartAnew
    } else if due || uncopied >= bytes_max / 8 {
        LogCare::CopyBack
    } else {
        LogCare::Nothing
    }
}

impl Desk {
    pub(super) fn new(
        shared: Arc<Shared>,
        connection: Connection,
        reserve: Box<dyn Reserve>,
        wal_pages: Arc<AtomicU32>,
        wal_bytes_max: u64,
    ) -> rusqlite::Result<Self> {
        let synchronous: i64 = connection.query_row("PRAGMA synchronous", (), |row| row.get(0))?;
        let eased = (synchronous < SYNCHRONOUS_FULL).then_some(false);
        Ok(Self { shared, connection, reserve, wal_pages, wal_bytes_max, wal_pages_before: 0, eased })
    }

    /// Commits a group, and keeps the log small.
    pub(super) fn commit(&mut self, group: Group) -> Result<(), Broken> {
        self.commit_all(group)?;
        match self.shared.upkeep {
            Upkeep::WhenDue => self.keep_log_small(),
            Upkeep::WhenAsked => Ok(()),
        }
    }

    fn commit_all(&mut self, group: Group) -> Result<(), Broken> {
        let Group { requests: mut group, ending: _ending, .. } = group;
        let grows = group.iter().any(|request| request.effect() == Effect::Grows);
        if grows && self.reserve.spent() && self.reserve.low(&|| self.free_within()) {
            // What the reserve gave up is for what ends something.
            group = self.refuse_growing(group);
        }
        if group.is_empty() {
            return Ok(());
        }
        match self.attempt(&mut group, None) {
            Err(Fault::DiskFull) => self.commit_on_a_full_disk(group),
            attempt => self.answer(group, attempt),
        }
    }

    /// Commits what does not grow, each request alone: together they would need room in the log for all that they
    /// delete, alone the room of the largest.
    fn commit_on_a_full_disk(&mut self, group: Vec<Box<dyn Request>>) -> Result<(), Broken> {
        let writes = |request: &dyn Request| matches!(request.effect(), Effect::Keeps | Effect::Shrinks);
        let group = self.refuse_growing(group);
        // What only looks now needs no reserve.
        let mut ready = Ok(());
        if group.iter().any(|request| writes(&**request)) {
            // The reserve has room for every page that waits in the log, so the log can be emptied, and
            // its own space serves the requests that follow.
            self.reserve.release();
            ready = self.empty_log();
        }
        let mut waiting = group.into_iter();
        while ready.is_ok() {
            let Some(request) = waiting.next() else { return Ok(()) };
            let fills_log = writes(&*request);
            let mut alone = vec![request];
            let attempt = self.attempt(&mut alone, Some(Room::Low));
            ready = self.answer(alone, attempt);
            if ready.is_ok() && fills_log {
                ready = self.empty_log();
            }
        }
        if let Err(broken) = &ready {
            for request in waiting {
                request.answer(Err(self.shared.closed(&broken.cause)));
            }
        }
        ready
    }

    /// Answers what grows that the disk is full. Returns the others.
    fn refuse_growing(&self, group: Vec<Box<dyn Request>>) -> Vec<Box<dyn Request>> {
        let (growing, others) =
            group.into_iter().partition::<Vec<_>, _>(|request| request.effect() == Effect::Grows);
        for request in growing {
            request.answer(Err(WriteError::Full { database: self.shared.database.to_path_buf() }));
        }
        others
    }

    fn answer(&self, group: Vec<Box<dyn Request>>, attempt: Result<Outcomes, Fault>) -> Result<(), Broken> {
        let database = || self.shared.database.to_path_buf();
        match attempt {
            Ok(outcomes) => {
                if group.iter().any(|request| request.effect() == Effect::Shrinks) {
                    self.shared.plan_erasure(Duration::from_millis(ERASE_DELAY_MS_MAX));
                }
                for (request, outcome) in group.into_iter().zip(outcomes) {
                    request
                        .answer(outcome.map_or(Ok(()), |cause| {
                            Err(WriteError::Refused { database: database(), cause })
                        }));
                }
                Ok(())
            }
            Err(Fault::DiskFull) => {
                for request in group {
                    request.answer(Err(WriteError::Full { database: database() }));
                }
                Ok(())
            }
            Err(Fault::Broken(broken)) => {
                // Stop before answering: whoever hears of it must find the writer closed.
                self.shared.stop(&broken);
                for request in group {
                    let cause = Arc::clone(&broken.cause);
                    request.answer(Err(WriteError::Unknown { database: database(), cause }));
                }
                Err(broken)
            }
        }
    }

    fn empty_log(&self) -> Result<(), Broken> {
        self.checkpoint("PRAGMA wal_checkpoint(TRUNCATE)").map(|_| ())
    }

    fn attempt(&mut self, group: &mut [Box<dyn Request>], room: Option<Room>) -> Result<Outcomes, Fault> {
        let done = self.transaction(group, room);
        if done.is_err() && !self.connection.is_autocommit() {
            // Its error adds nothing: the transaction is not committed either way.
            let _ = self.execute("ROLLBACK");
        }
        match done {
            Ok(outcomes) => Ok(outcomes),
            Err(error) => match fault(&error) {
                Some(fault) => Err(fault),
                None => Ok(vec![Some(error.to_string().into()); group.len()]),
            },
        }
    }

    /// Bytes of pages that the database has and does not use; 0 where it does not say.
    fn free_within(&self) -> u64 {
        let asked = self.connection.prepare_cached("PRAGMA freelist_count");
        asked.and_then(|mut pragma| pragma.query_row((), |row| row.get(0))).unwrap_or(0_u64) * PAGE_BYTES
    }

    fn execute(&self, sql: &str) -> rusqlite::Result<()> {
        self.connection.prepare_cached(sql)?.execute(()).map(|_| ())
    }

    /// Savepoints cost a copy of every page that a request changes, and hardly any request fails: the group
    /// runs without them first, and again with them where one does.
    fn transaction(
        &mut self,
        group: &mut [Box<dyn Request>],
        room: Option<Room>,
    ) -> rusqlite::Result<Outcomes> {
        self.sync_next(group.iter().any(|request| request.durability() == Durability::Synced))?;
        self.execute("BEGIN IMMEDIATE")?;
        let room = room.unwrap_or_else(|| self.room_for(group));
        let mut outcomes = vec![None; group.len()];
        match group.iter_mut().try_for_each(|request| request.run(&self.connection, room)) {
            Err(error) if fault(&error).is_none() && group.len() > 1 => {
                self.execute("ROLLBACK")?;
                self.execute("BEGIN IMMEDIATE")?;
                outcomes = self.each_in_a_savepoint(group, room)?;
            }
            done => done?,
        }
        self.measured("COMMIT")?;
        Ok(outcomes)
    }

    #[expect(clippy::disallowed_methods, reason = "measures a duration; no job is judged by it")]
    fn measured(&self, sql: &str) -> rusqlite::Result<()> {
        let begun = Instant::now();
        self.execute(sql)?;
        self.shared.commits.observe(begun.elapsed());
        Ok(())
    }

    /// Whether the next commit is synced, where the database is one whose commits are not.
    fn sync_next(&mut self, synced: bool) -> rusqlite::Result<()> {
        if let Some(now) = self.eased.filter(|now| *now != synced) {
            // SQLite does it while it reads the statement: a prepared one would do it once.
            self.connection.pragma_update(None, "synchronous", if synced { "FULL" } else { "NORMAL" })?;
            self.eased = Some(!now);
        }
        Ok(())
    }

    /// Asked only where somebody needs to know, and once for all.
    fn room_for(&self, group: &[Box<dyn Request>]) -> Room {
        let asked = group.iter().any(|request| request.effect() == Effect::Yields);
        if asked && self.reserve.low(&|| self.free_within()) { Room::Low } else { Room::Enough }
    }

    fn each_in_a_savepoint(&self, group: &mut [Box<dyn Request>], room: Room) -> rusqlite::Result<Outcomes> {
        let mut outcomes = Vec::with_capacity(group.len());
        for request in group {
            self.execute("SAVEPOINT request")?;
            let outcome = match request.run(&self.connection, room) {
                Ok(()) => None,
                Err(error) if fault(&error).is_some() => return Err(error),
                Err(error) => {
                    self.execute("ROLLBACK TO request")?;
                    Some(error.to_string().into())
                }
            };
            self.execute("RELEASE request")?;
            outcomes.push(outcome);
        }
        Ok(outcomes)
    }

    /// Asks the checkpointer for a pass where one is due; starts the log anew where it has outgrown its limit.
    pub(super) fn keep_log_small(&mut self) -> Result<(), Broken> {
        let pages = self.wal_pages.load(Ordering::Relaxed);
        if pages < self.wal_pages_before {
            // SQLite has started it anew itself.
            self.shared.copied_pages.store(0, Ordering::Relaxed);
        }
        self.wal_pages_before = pages;
        let uncopied = pages.saturating_sub(self.shared.copied_pages.load(Ordering::Relaxed));
        let bytes = |pages| u64::from(pages) * PAGE_BYTES;
        match log_care(bytes(pages), bytes(uncopied), self.wal_bytes_max) {
            LogCare::Nothing => Ok(()),
            LogCare::CopyBack => {
                self.shared.ask_for_checkpoint();
                Ok(())
            }
            LogCare::StartAnew => self.checkpoint("PRAGMA wal_checkpoint(RESTART)").map(|_| ()),
        }
    }

    /// Takes the pages of deleted rows out of the write-ahead log, and what they held with them.
    pub(super) fn erase(&mut self) -> Result<(), Broken> {
        let done = self.checkpoint("PRAGMA wal_checkpoint(TRUNCATE)")?;
        // A reader that holds an old snapshot, or a full disk, delays it: again in a moment.
        self.shared.erased((!done).then_some(Duration::from_millis(ERASE_DELAY_MS_MAX)));
        if done {
            self.reserve.restore();
        }
        Ok(())
    }

    /// Closing the last connection would copy the log back, and so try again the sync that failed.
    pub(super) fn leave_the_log(&self) {
        leave_the_log(&self.connection);
    }

    fn checkpoint(&self, pragma: &str) -> Result<bool, Broken> {
        let _alone = self.shared.copying.lock().unwrap_or_else(PoisonError::into_inner);
        checkpoint(&self.shared, &self.connection, pragma)
    }
}

/// Runs a checkpoint; false if a reader, another checkpoint or a full disk was in its way. One that fails
/// stops the writer.
fn checkpoint(shared: &Shared, connection: &Connection, pragma: &str) -> Result<bool, Broken> {
    let waiting = |wait| connection.busy_timeout(wait);
    let told = waiting(Duration::from_millis(CHECKPOINT_WAIT_MS_MAX)).and_then(|()| {
        connection.query_row(pragma, (), |row| Ok((row.get::<_, i64>(0)? == 0, row.get::<_, i64>(2)?)))
    });
    match waiting(BUSY_WAIT_MAX).and(told) {
        Ok((done, copied)) => {
            shared.copied_pages.store(u32::try_from(copied).unwrap_or(0), Ordering::Relaxed);
            Ok(done)
        }
        Err(error) => match fault(&error) {
            Some(Fault::Broken(broken)) => {
                shared.stop(&broken);
                Err(broken)
            }
            // Everything is in the log still; the next one tries again.
            Some(Fault::DiskFull) | None => Ok(false),
        },
    }
}

/// The checkpointer: copies pages back beside the leader, who only waits for it at the limit.
pub(super) fn copy_back(shared: &Shared, connection: &Connection) {
    while shared.next_checkpoint() {
        let _alone = shared.copying.lock().unwrap_or_else(PoisonError::into_inner);
        // It has stopped the writer where it fails.
        let _ = checkpoint(shared, connection, "PRAGMA wal_checkpoint(PASSIVE)");
    }
    if shared.stopped().is_some() {
        leave_the_log(connection);
    }
}

fn leave_the_log(connection: &Connection) {
    // It fails on no open connection.
    let _ = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: u64 = 8 << 20;

    #[test]
    fn a_log_is_copied_back_by_eighths_and_started_anew_when_little_is_left_or_at_its_limit() {
        let eighth = MAX / 8;
        assert_eq!(log_care(eighth - 1, eighth - 1, MAX), LogCare::Nothing);
        assert_eq!(log_care(eighth, eighth, MAX), LogCare::CopyBack);
        assert_eq!(log_care(6 * eighth, MAX / 32, MAX), LogCare::Nothing);
        assert_eq!(log_care(6 * eighth + 1, MAX / 32, MAX), LogCare::StartAnew);
        assert_eq!(log_care(6 * eighth + 1, MAX / 32 + 1, MAX), LogCare::CopyBack);
        assert_eq!(log_care(MAX, MAX, MAX), LogCare::CopyBack);
        assert_eq!(log_care(MAX + 1, MAX, MAX), LogCare::StartAnew);
    }
}
