//! The writer: one connection alone writes rows to a database, one group of requests after another.
//!
//! The requests that wait when a commit begins, up to [`GROUP_MAX`] and [`GROUP_BYTES_MAX`], share it and its sync; each caller is answered
//! after that sync, with its own answer. A request is a closure over the transaction. Where one fails, the
//! group runs again, each request in a savepoint, so that it takes nothing of the others with it.
//!
//! What holds, whatever happens:
//! - Nothing is answered before the commit that holds it is on disk.
//! - After an I/O error the writer stops: that group is answered [`WriteError::Unknown`] (the commit may
//!   or may not be on disk), everything later [`WriteError::Closed`]. A failed sync is never retried
//!   (the kernel may have dropped the pages that it could not write); opening again writes the log anew.
//! - A full disk is no I/O error: the group is rolled back, the reserve is given up, and what does not grow
//!   is run again, each request alone and the log emptied after it, so that each needs its own room only. The
//!   requests that [`Effect::Grows`] are answered [`WriteError::Full`], also later on, as long as the reserve
//!   is not back and free space is low. A request that [`Effect::Yields`] is told that there is no room and
//!   answers for itself; so it is before the disk is full, when free space is low.
//!
//! One thread a database commits; a caller that waits for its answer takes the thread's place where nothing
//! else is under way (`inbox`). Whoever it is, one at a time has the connection (`desk`).
//!
//! Checkpoints are not on the commit path. A second thread with a connection that never writes rows
//! copies pages back while commits go on, an eighth of [`WAL_BYTES_MAX`] at a time. When the log nears its
//! limit and little is left to copy, the rest is copied between two commits and the log started anew.
//!
//! Left out on purpose: retries, priorities between requests, more than one group in flight.

use std::{
    fmt,
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
    sync::{
        Arc, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rusqlite::{Connection, hooks::Wal};

use crate::meter::Distribution;

mod desk;
mod inbox;
mod ticket;

pub use ticket::Ticket;

use desk::{Broken, Desk, copy_back, panicked};
use inbox::{Asked, Call, Closing, Shared, Turn};

/// Requests that share one commit at the most: bounds how long the first of them waits.
pub const GROUP_MAX: usize = 512;
/// Bytes that the requests of one group write at the most, as far as they say, 8 MiB; one alone may write more.
pub const GROUP_BYTES_MAX: u64 = 8 << 20;
/// Bytes of the write-ahead log beyond which it is started anew before the next commit: 8 MiB, or half of a
/// smaller reserve, so that a full disk always has room to empty it. What is in it is read once after `kill -9`.
pub const WAL_BYTES_MAX: u64 = 8 << 20;
/// How long a checkpoint waits for readers that are in its way: a look that is short ends meanwhile, one that
/// is not must not hold up the commits.
pub const CHECKPOINT_WAIT_MS_MAX: u64 = 10;
/// How long the pages of deleted rows may stay in the write-ahead log while the store is open.
pub const ERASE_DELAY_MS_MAX: u64 = 1000;

/// The bounds of the buckets in which the durations of commits are counted, in seconds: a sync takes a tenth of a
/// millisecond on a good disk and ten on a turning one.
pub const COMMIT_BOUNDS: &[f64] =
    &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];

/// Why a write has no answer of its own.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WriteError {
    /// The writer stopped earlier; nothing was written.
    #[error("{database} is closed after an earlier error ({cause}): open the volume again")]
    Closed {
        /// The database.
        database: PathBuf,
        /// What stopped it.
        cause: Arc<str>,
    },
    /// The commit failed: it may or may not be on disk. Opening the volume again tells.
    #[error("it is unknown whether the commit to {database} is on disk ({cause}): open the volume again")]
    Unknown {
        /// The database.
        database: PathBuf,
        /// What SQLite said.
        cause: Arc<str>,
    },
    /// The disk is full; nothing was written.
    #[error("the disk of {database} is full: nothing was written; free some space")]
    Full {
        /// The database.
        database: PathBuf,
    },
    /// This request alone failed; nothing of it was written.
    #[error("{database} refused the request: {cause}")]
    Refused {
        /// The database.
        database: PathBuf,
        /// What SQLite said.
        cause: Arc<str>,
    },
}

/// What a request does to the space that a database needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It may need more: refused on a full disk.
    Grows,
    /// It may need more, and where it is told that there is no room it writes nothing and says so itself.
    Yields,
    /// It reads, or changes what is there in place, or adds little: works on a full disk.
    Keeps,
    /// It ends something (acknowledge, expire, delete): works on a full disk, out of the reserve.
    Shrinks,
}

/// What is on disk when a request is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// What the database promises for every commit: of `logs.db` a power cut may take the last moment.
    AsUsual,
    /// The commit, and all before it.
    Synced,
}

/// Whether the disk has room for what grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    Enough,
    Low,
}

/// When a writer does what nobody waits for: checkpoints, erasing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upkeep {
    /// As soon as it is due.
    WhenDue,
    /// Only when it is asked for, and at the end: between two requests nothing happens to the disk, so
    /// the same requests always do the same to it. For tests.
    WhenAsked,
}

/// What the writer needs of its surroundings when the disk is full.
pub(crate) trait Reserve: Send {
    /// Whether so little of the disk is free that nothing should grow that need not. `within` asks what the
    /// database itself has free.
    fn low(&self, within: &dyn Fn() -> u64) -> bool;
    /// Whether the reserved bytes were given up and are not back: nothing that grows may take their place.
    fn spent(&self) -> bool;
    /// Gives up the reserved bytes; false if there are none left to give.
    fn release(&mut self) -> bool;
    /// Takes them again if the disk has room.
    fn restore(&mut self);
    /// Bytes of the write-ahead log that the reserve has room for.
    fn log_bytes_max(&self) -> u64;
}

/// Whoever holds the volume; a writer keeps it as long as it lives.
pub(crate) trait Holder: Send + Sync + fmt::Debug {
    /// A writer stopped because of `cause`; `damaged` says that what it read is not what was written.
    fn stopped(&self, database: &Path, cause: &str, damaged: bool);
}

/// Why a writer cannot start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error("cannot start a thread")]
    Thread(#[from] std::io::Error),
    #[error("cannot set up the connection")]
    Setup(#[from] rusqlite::Error),
}

/// A database's writer. Dropping it commits what waits, then closes the connection.
///
/// It holds the volume's lock as long as it lives: a room that outlives its volume still writes.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
    checkpointer: Option<JoinHandle<()>>,
    wal_bytes_max: u64,
}

impl fmt::Debug for Writer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Writer({})", self.shared.database.display())
    }
}

impl Writer {
    /// Starts the threads. `checkpointer` is a second connection to the same database.
    pub(crate) fn start(
        database: PathBuf,
        mut connection: Connection,
        checkpointer: Connection,
        reserve: Box<dyn Reserve>,
        upkeep: Upkeep,
        holder: Arc<dyn Holder>,
    ) -> Result<Self, StartError> {
        let wal_pages = Arc::new(AtomicU32::new(0));
        let noted = Arc::clone(&wal_pages);
        // Replaces SQLite's own hook, which would checkpoint inside the commit.
        connection.wal_hook(Some(move |_: &mut Wal, pages: i32| {
            noted.store(u32::try_from(pages).unwrap_or(0), Ordering::Relaxed);
            Ok(())
        }))?;
        let shared = Arc::new(Shared::new(database.into(), holder, upkeep));
        let wal_bytes_max = reserve.log_bytes_max().min(WAL_BYTES_MAX);
        let desk = Desk::new(Arc::clone(&shared), connection, reserve, wal_pages, wal_bytes_max)?;
        *shared.desk.lock().unwrap_or_else(PoisonError::into_inner) = Some(desk);
        let (commits, copies) = (Arc::clone(&shared), Arc::clone(&shared));
        let writer = thread::Builder::new().name("store-writer".into()).spawn(move || run(&commits))?;
        // Made before the second thread: if that one cannot start, dropping this ends the first.
        let mut this = Self { shared, writer: Some(writer), checkpointer: None, wal_bytes_max };
        let copier = thread::Builder::new()
            .name("store-checkpoint".into())
            .spawn(move || copy_back(&copies, &checkpointer))?;
        this.checkpointer = Some(copier);
        // What a crash left in the log may be of rows that were deleted before it.
        this.shared.plan_erasure(Duration::from_millis(ERASE_DELAY_MS_MAX));
        Ok(this)
    }

    /// Queues `work` for the next commit. It may run more than once, each time on what the earlier
    /// requests of the group left; only the last run counts.
    pub(crate) fn submit<T: Send + 'static>(
        &self,
        effect: Effect,
        mut work: impl FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Ticket<T> {
        self.queue(effect, Durability::AsUsual, 0, move |tx: &Connection, _room| work(tx))
    }

    /// Queues `work` as [`submit`](Self::submit) does, where it writes so much that it should not share a commit
    /// with many: `bytes` count towards [`GROUP_BYTES_MAX`].
    pub(crate) fn submit_sized<T: Send + 'static>(
        &self,
        effect: Effect,
        bytes: u64,
        mut work: impl FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Ticket<T> {
        self.queue(effect, Durability::AsUsual, bytes, move |tx: &Connection, _room| work(tx))
    }

    /// Queues `work` as [`submit`](Self::submit) does, for an answer after a sync whatever the database promises.
    pub(crate) fn submit_synced<T: Send + 'static>(
        &self,
        effect: Effect,
        mut work: impl FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Ticket<T> {
        self.queue(effect, Durability::Synced, 0, move |tx: &Connection, _room| work(tx))
    }

    /// Queues `work` for the next commit as [`submit_sized`](Self::submit_sized) does. In [`Room::Low`] it must write
    /// nothing: it only looks, and answers that there is no room.
    pub(crate) fn submit_yielding<T: Send + 'static>(
        &self,
        bytes: u64,
        work: impl FnMut(&Connection, Room) -> rusqlite::Result<T> + Send + 'static,
    ) -> Ticket<T> {
        self.queue(Effect::Yields, Durability::AsUsual, bytes, work)
    }

    fn queue<T: Send + 'static>(
        &self,
        effect: Effect,
        durability: Durability,
        bytes: u64,
        work: impl FnMut(&Connection, Room) -> rusqlite::Result<T> + Send + 'static,
    ) -> Ticket<T> {
        let (reply, answer) = oneshot::async_channel();
        let round = self.shared.queue(Box::new(Call { effect, durability, bytes, work, value: None, reply }));
        Ticket::new(answer, &self.shared, round)
    }

    /// Bytes of rows that one request should delete at the most, so that a full disk has room for it: what
    /// is deleted is overwritten, and passes through the write-ahead log.
    pub(crate) const fn delete_bytes_max(&self) -> u64 {
        self.wal_bytes_max / 4
    }

    /// The database's file.
    pub(crate) fn database(&self) -> &Path {
        &self.shared.database
    }

    /// Stops the writer because damage was found beside it.
    pub(crate) fn found_damaged(&self, cause: &str) {
        self.shared.stop(&Broken { cause: cause.into(), damaged: true });
    }

    /// Makes the checkpoint that is due, if one is; all that was asked for before is answered when this
    /// returns, and nothing is under way.
    pub(crate) fn checkpoint(&self) {
        self.shared.ask(Asked::Checkpoint);
    }

    /// Takes the pages of deleted rows out of the write-ahead log now, and empties it.
    pub(crate) fn erase(&self) {
        self.shared.ask(Asked::Erase);
    }

    /// How long its commits took since it was started, syncs included.
    pub(crate) fn commits(&self) -> Distribution {
        self.shared.commits.read()
    }

    /// What stopped the writer, if anything did.
    pub(crate) fn stopped(&self) -> Option<Arc<str>> {
        self.shared.stopped()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let threads =
            [(Closing::Checkpointer, self.checkpointer.take()), (Closing::Both, self.writer.take())];
        for (closing, thread) in threads {
            self.shared.close(closing);
            // A panicked thread has already answered with dropped tickets.
            let _ = thread.map(JoinHandle::join);
        }
    }
}

/// The writer's thread.
fn run(shared: &Shared) {
    let ended = panic::catch_unwind(AssertUnwindSafe(|| commit_until_closed(shared)));
    let ended = ended.unwrap_or_else(|_| Err(panicked()));
    let broken = ended.is_err() || shared.stopped().is_some();
    let cause = match ended {
        Ok(()) => "it was closed".into(),
        Err(broken) => {
            shared.stop(&broken);
            broken.cause
        }
    };
    shared.end(cause);
    let mut desk = shared.desk.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(desk) = desk.as_ref().filter(|_| broken) {
        desk.leave_the_log();
    }
    // Closed here, so that it is closed when the writer has been dropped, whoever holds a ticket still.
    drop(desk.take());
}

fn commit_until_closed(shared: &Shared) -> Result<(), Broken> {
    loop {
        let turn = shared.next_turn();
        let mut desk = shared.desk.lock().map_err(|_| panicked())?;
        let Some(desk) = desk.as_mut() else { return Ok(()) };
        match turn {
            Turn::Commit(group) => desk.commit(group)?,
            Turn::Checkpoint => desk.keep_log_small()?,
            Turn::Erase => desk.erase()?,
            Turn::Closing => return desk.erase(),
            Turn::Stopped => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct NoReserve;

    impl Reserve for NoReserve {
        fn low(&self, _: &dyn Fn() -> u64) -> bool {
            false
        }
        fn spent(&self) -> bool {
            false
        }
        fn release(&mut self) -> bool {
            false
        }
        fn restore(&mut self) {}
        fn log_bytes_max(&self) -> u64 {
            WAL_BYTES_MAX
        }
    }

    #[derive(Debug)]
    struct Nobody;

    impl Holder for Nobody {
        fn stopped(&self, _: &Path, _: &str, _: bool) {}
    }

    fn writer(folder: &Path) -> Writer {
        let path = folder.join("a.db");
        let open = || Connection::open(&path).unwrap();
        let connection = open();
        connection.pragma_update(None, "journal_mode", "WAL").unwrap();
        connection.execute_batch("CREATE TABLE rows (number INTEGER PRIMARY KEY)").unwrap();
        Writer::start(
            path.clone(),
            connection,
            open(),
            Box::new(NoReserve),
            Upkeep::WhenDue,
            Arc::new(Nobody),
        )
        .unwrap()
    }

    fn insert(writer: &Writer, numbers: &'static [u32]) -> Ticket<()> {
        writer.submit(Effect::Grows, |tx| {
            numbers
                .iter()
                .try_for_each(|number| tx.execute("INSERT INTO rows VALUES (?1)", [number]).map(|_| ()))
        })
    }

    fn numbers(writer: &Writer) -> Vec<u32> {
        let ticket = writer.submit(Effect::Keeps, |tx| {
            tx.prepare("SELECT number FROM rows")?.query_map((), |row| row.get(0))?.collect()
        });
        ticket.wait().unwrap()
    }

    #[test]
    fn a_request_that_fails_takes_nothing_of_its_group_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let writer = writer(folder.path());
        let held = writer.shared.desk.lock().unwrap();
        let group = [&[1, 2], &[3, 1], &[4, 5]].map(|numbers| insert(&writer, numbers));
        drop(held);
        let [first, second, third] = group.map(Ticket::wait);
        assert!(first.is_ok() && third.is_ok(), "{first:?} {third:?}");
        assert!(matches!(second, Err(WriteError::Refused { .. })), "{second:?}");
        assert_eq!(numbers(&writer), [1, 2, 4, 5]);
    }

    /// What large requests write waits in memory and in the log until the commit: 512 of the largest answers are
    /// 8 GiB.
    #[test]
    fn large_requests_do_not_all_share_a_commit() {
        let folder = tempfile::tempdir().unwrap();
        let writer = writer(folder.path());
        let held = writer.shared.desk.lock().unwrap();
        let sizes = [GROUP_BYTES_MAX - 1, 1, 0, 1, 3 * GROUP_BYTES_MAX, 0];
        let tickets = sizes.map(|bytes| writer.submit_sized(Effect::Keeps, bytes, |_| Ok(())));
        assert_eq!(writer.shared.sizes(), [3, 1, 1, 1]);
        drop(held);
        for ticket in tickets {
            ticket.wait().unwrap();
        }
    }

    #[test]
    fn a_dropped_writer_has_committed_what_waited_and_closed_its_connection() {
        let folder = tempfile::tempdir().unwrap();
        let writer = writer(folder.path());
        let ticket = insert(&writer, &[1]);
        let shared = Arc::clone(&writer.shared);
        drop(writer);
        assert!(shared.desk.lock().unwrap().is_none());
        ticket.wait().unwrap();
    }

    #[test]
    fn a_request_that_panics_stops_the_writer_whoever_ran_it() {
        for waits in [true, false] {
            let folder = tempfile::tempdir().unwrap();
            let writer = writer(folder.path());
            let ticket = writer.submit(Effect::Keeps, |_| -> rusqlite::Result<()> { panic!("on purpose") });
            if waits {
                // Ends in a panic where this thread ran it, in an error where the writer's did.
                let _ = panic::catch_unwind(AssertUnwindSafe(|| ticket.wait()));
            } else {
                drop(ticket);
            }
            let later = insert(&writer, &[1]).wait();
            assert!(matches!(later, Err(WriteError::Closed { .. })), "{later:?}");
        }
    }
}
