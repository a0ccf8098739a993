//! The writer: one thread owns the only connection that writes rows to a database and commits groups.
//!
//! All requests that wait when a commit begins share it and its one sync; each caller is answered
//! after that sync, with its own answer. A request is a closure over the transaction. It runs in a
//! savepoint, so that one that fails takes nothing of the others with it.
//!
//! What holds, whatever happens:
//! - Nothing is answered before the commit that holds it is on disk.
//! - After an I/O error the writer stops: that group is answered [`WriteError::Unknown`] (the commit may
//!   or may not be on disk), everything later [`WriteError::Closed`]. A failed sync is never retried
//!   (the kernel may have dropped the pages that it could not write); opening again verifies.
//! - A full disk is no I/O error: the group is rolled back, the reserve is given up, and it is run again
//!   without the requests that [`Effect::Grows`]; those are answered [`WriteError::Full`].
//!
//! Checkpoints are not on the commit path. A second thread with a connection that never writes rows
//! copies pages back while the writer goes on; only when the log of a busy
//! database has outgrown [`WAL_BYTES_MAX`] does the writer finish the copy itself, which is short by
//! then, and start the log anew.
//!
//! Left out on purpose: retries, priorities between requests, more than one group in flight.

use std::{
    collections::VecDeque,
    fmt,
    future::Future,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rusqlite::{Connection, ErrorCode, hooks::Wal};

use crate::{
    disk::Lock,
    format::{BUSY_WAIT_MAX, PAGE_BYTES},
};

/// Requests that share one commit at the most: bounds how long the first of them waits.
pub const GROUP_MAX: usize = 512;
/// Bytes of the write-ahead log from which the writer starts it anew: 16 MiB, or half of a smaller
/// reserve, so that a full disk always has room to empty it. The checkpointer begins at a quarter of it.
pub const WAL_BYTES_MAX: u64 = 16 << 20;
/// How long a checkpoint waits for readers that are in its way: a look that is short ends meanwhile, one that
/// is not must not hold up the commits.
pub const CHECKPOINT_WAIT_MS_MAX: u64 = 10;
/// How long the pages of deleted rows may stay in the write-ahead log while the store is open.
pub const ERASE_DELAY_MS_MAX: u64 = 1000;

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
    /// It reads, or changes what is there in place: works on a full disk.
    Keeps,
    /// It ends something (acknowledge, expire, delete): works on a full disk, out of the reserve.
    Shrinks,
}

/// An answer that comes after the sync. Wait for it with [`Ticket::wait`] or `.await` it: it needs no
/// runtime. Dropping it does not take the request back.
#[must_use = "the answer says whether it is on disk"]
pub struct Ticket<T> {
    answer: oneshot::AsyncReceiver<Result<T, WriteError>>,
    database: PathBuf,
}

impl<T> Ticket<T> {
    /// An answer that needs no commit.
    pub(crate) fn ready(database: &Path, answer: Result<T, WriteError>) -> Self {
        let (reply, ticket) = oneshot::async_channel();
        // The receiver is right here.
        let _ = reply.send(answer);
        Self { answer: ticket, database: database.to_owned() }
    }

    fn closed(&self) -> WriteError {
        WriteError::Closed { database: self.database.clone(), cause: "the store was dropped".into() }
    }

    /// Blocks until the answer is there.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn wait(self) -> Result<T, WriteError> {
        let closed = self.closed();
        struct Unpark(thread::Thread);
        impl std::task::Wake for Unpark {
            fn wake(self: Arc<Self>) {
                self.0.unpark();
            }
        }
        let waker = Arc::new(Unpark(thread::current())).into();
        let mut context = Context::from_waker(&waker);
        let mut answer = self.answer;
        loop {
            match Pin::new(&mut answer).poll(&mut context) {
                Poll::Ready(answer) => return answer.unwrap_or(Err(closed)),
                Poll::Pending => thread::park(),
            }
        }
    }
}

impl<T> Future for Ticket<T> {
    type Output = Result<T, WriteError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = std::task::ready!(Pin::new(&mut self.answer).poll(context));
        Poll::Ready(answer.unwrap_or_else(|_| Err(self.closed())))
    }
}

impl<T> fmt::Debug for Ticket<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Ticket")
    }
}

trait Request: Send {
    fn effect(&self) -> Effect;
    fn run(&mut self, tx: &Connection) -> rusqlite::Result<()>;
    fn answer(self: Box<Self>, outcome: Result<(), WriteError>);
}

struct Call<T, F> {
    effect: Effect,
    work: F,
    value: Option<T>,
    reply: oneshot::Sender<Result<T, WriteError>>,
}

impl<T: Send, F: FnMut(&Connection) -> rusqlite::Result<T> + Send> Request for Call<T, F> {
    fn effect(&self) -> Effect {
        self.effect
    }

    fn run(&mut self, tx: &Connection) -> rusqlite::Result<()> {
        self.value = Some((self.work)(tx)?);
        Ok(())
    }

    fn answer(self: Box<Self>, outcome: Result<(), WriteError>) {
        let Self { value, reply, .. } = *self;
        let Some(answer) = outcome.map(|()| value).transpose() else { return };
        // The caller may have dropped its ticket: what was asked is done all the same.
        let _ = reply.send(answer);
    }
}

/// What the writer needs of its surroundings when the disk is full.
pub(crate) trait Reserve: Send {
    /// Gives up the reserved bytes; false if there are none left to give.
    fn release(&mut self) -> bool;
    /// Takes them again if the disk has room.
    fn restore(&mut self);
    /// Bytes of the write-ahead log that the reserve has room for; `None` where there is no reserve.
    fn log_bytes_max(&self) -> Option<u64>;
}

#[derive(Default)]
struct Inbox {
    waiting: VecDeque<Box<dyn Request>>,
    closing: bool,
    stopped: Option<Arc<str>>,
    checkpoint_due: bool,
}

struct Shared {
    database: PathBuf,
    inbox: Mutex<Inbox>,
    arrived: Condvar,
    checkpoint: Condvar,
    /// Held while a checkpoint runs: SQLite answers busy at once where another one is under way, and the
    /// log would grow past its limit meanwhile.
    copying: Mutex<()>,
}

impl Shared {
    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        // A panic in a request's closure poisons nothing: the queue is whole at every unlock.
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn closed(&self, cause: &Arc<str>) -> WriteError {
        WriteError::Closed { database: self.database.clone(), cause: Arc::clone(cause) }
    }
}

/// Why a writer cannot start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error("cannot start a thread")]
    Thread(#[from] std::io::Error),
    #[error("cannot watch the write-ahead log")]
    Hook(#[from] rusqlite::Error),
}

/// A database's writer. Dropping it commits what waits, then closes the connection.
///
/// It holds the volume's lock as long as it lives: a room that outlives its volume still writes.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    wal_bytes_max: u64,
    _lock: Arc<dyn Lock>,
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
        lock: Arc<dyn Lock>,
    ) -> Result<Self, StartError> {
        let wal_pages = Arc::new(AtomicU32::new(0));
        let noted = Arc::clone(&wal_pages);
        // Replaces SQLite's own hook, which would checkpoint inside the commit.
        connection.wal_hook(Some(move |_: &mut Wal, pages: i32| {
            noted.store(u32::try_from(pages).unwrap_or(0), Ordering::Relaxed);
            Ok(())
        }))?;
        let shared = Arc::new(Shared {
            database,
            inbox: Mutex::default(),
            arrived: Condvar::new(),
            checkpoint: Condvar::new(),
            copying: Mutex::default(),
        });
        let wal_bytes_max = reserve.log_bytes_max().unwrap_or(WAL_BYTES_MAX).min(WAL_BYTES_MAX);
        let (commits, copies) = (Arc::clone(&shared), Arc::clone(&shared));
        let writer = thread::Builder::new().name("store-writer".into()).spawn(move || {
            Loop { shared: commits, connection, reserve, erase_due: None, wal_pages, wal_bytes_max }.run();
        })?;
        // Made before the second thread: if that one cannot start, dropping this ends the first.
        let mut this = Self { shared, threads: vec![writer], wal_bytes_max, _lock: lock };
        let copier = thread::Builder::new()
            .name("store-checkpoint".into())
            .spawn(move || copy_back(&copies, &checkpointer))?;
        this.threads.push(copier);
        Ok(this)
    }

    /// Queues `work` for the next commit. It may run more than once, each time on what the earlier
    /// requests of the group left; only the last run counts.
    pub(crate) fn submit<T: Send + 'static>(
        &self,
        effect: Effect,
        work: impl FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Ticket<T> {
        let (reply, answer) = oneshot::async_channel();
        let call: Box<dyn Request> = Box::new(Call { effect, work, value: None, reply });
        let mut inbox = self.shared.inbox();
        if let Some(cause) = &inbox.stopped {
            let refused = self.shared.closed(cause);
            drop(inbox);
            call.answer(Err(refused));
        } else {
            inbox.waiting.push_back(call);
            let first = inbox.waiting.len() == 1;
            drop(inbox);
            if first {
                self.shared.arrived.notify_one();
            }
        }
        Ticket { answer, database: self.shared.database.clone() }
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

    /// What stopped the writer, if anything did.
    pub(crate) fn stopped(&self) -> Option<Arc<str>> {
        self.shared.inbox().stopped.clone()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.inbox().closing = true;
        self.shared.arrived.notify_all();
        self.shared.checkpoint.notify_all();
        for thread in self.threads.drain(..) {
            // A panicked thread has already answered with dropped tickets.
            let _ = thread.join();
        }
    }
}

enum Fault {
    DiskFull,
    Broken(Arc<str>),
}

/// What an SQLite error means for the writer: `None` is the request's own fault.
fn fault(error: &rusqlite::Error) -> Option<Fault> {
    let code = error.sqlite_error_code()?;
    let broken = [
        ErrorCode::SystemIoFailure,
        ErrorCode::DatabaseCorrupt,
        ErrorCode::NotADatabase,
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
        broken.contains(&code).then(|| Fault::Broken(error.to_string().into()))
    }
}

/// `None` for a request that ran; else its own error.
type Outcomes = Vec<Option<Arc<str>>>;

struct Loop {
    shared: Arc<Shared>,
    connection: Connection,
    reserve: Box<dyn Reserve>,
    erase_due: Option<Instant>,
    /// Pages in the write-ahead log after the last commit.
    wal_pages: Arc<AtomicU32>,
    wal_bytes_max: u64,
}

enum Woken {
    Group(Vec<Box<dyn Request>>),
    Erase,
    Closing,
}

impl Loop {
    fn run(mut self) {
        let ended = loop {
            let step = match self.wait() {
                Woken::Group(group) => self.commit(group).and_then(|()| self.keep_wal_small()),
                Woken::Erase => self.erase(),
                Woken::Closing => break self.erase(),
            };
            if step.is_err() {
                break step;
            }
        };
        let mut inbox = self.shared.inbox();
        let cause = ended.err().unwrap_or_else(|| "it was closed".into());
        inbox.stopped.get_or_insert_with(|| Arc::clone(&cause));
        let late: Vec<_> = inbox.waiting.drain(..).collect();
        drop(inbox);
        for request in late {
            request.answer(Err(self.shared.closed(&cause)));
        }
    }

    #[expect(clippy::disallowed_methods, reason = "measures a delay; no job is judged by it")]
    fn wait(&self) -> Woken {
        let mut inbox = self.shared.inbox();
        loop {
            if inbox.stopped.is_some() {
                return Woken::Closing;
            }
            let left = self.erase_due.map(|due| due.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Woken::Erase;
            }
            if !inbox.waiting.is_empty() {
                let size = inbox.waiting.len().min(GROUP_MAX);
                return Woken::Group(inbox.waiting.drain(..size).collect());
            }
            if inbox.closing {
                return Woken::Closing;
            }
            let arrived = &self.shared.arrived;
            inbox = match left {
                Some(left) => arrived.wait_timeout(inbox, left).unwrap_or_else(PoisonError::into_inner).0,
                None => arrived.wait(inbox).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    fn commit(&mut self, mut group: Vec<Box<dyn Request>>) -> Result<(), Arc<str>> {
        let database = self.shared.database.clone();
        let mut attempt = self.attempt(&mut group);
        if let Err(Fault::DiskFull) = attempt {
            let (growing, shrinking): (Vec<_>, Vec<_>) =
                group.into_iter().partition(|request| request.effect() == Effect::Grows);
            for request in growing {
                request.answer(Err(WriteError::Full { database: database.clone() }));
            }
            group = shrinking;
            if group.is_empty() {
                return Ok(());
            }
            // The reserve has room for every page that waits in the log, so the log can be emptied, and its
            // own space serves the requests that follow.
            self.reserve.release();
            let emptied = self.checkpoint("PRAGMA wal_checkpoint(TRUNCATE)");
            if let Err(cause) = emptied {
                self.shared.inbox().stopped = Some(Arc::clone(&cause));
                for request in group {
                    request.answer(Err(self.shared.closed(&cause)));
                }
                return Err(cause);
            }
            attempt = self.attempt(&mut group);
        }
        match attempt {
            Ok(outcomes) => {
                self.note_erasure(&group);
                for (request, outcome) in group.into_iter().zip(outcomes) {
                    request.answer(outcome.map_or(Ok(()), |cause| {
                        Err(WriteError::Refused { database: database.clone(), cause })
                    }));
                }
                Ok(())
            }
            Err(Fault::DiskFull) => {
                for request in group {
                    request.answer(Err(WriteError::Full { database: database.clone() }));
                }
                Ok(())
            }
            Err(Fault::Broken(cause)) => {
                // Stop before answering: whoever hears of it must find the writer closed.
                self.shared.inbox().stopped = Some(Arc::clone(&cause));
                for request in group {
                    request.answer(Err(WriteError::Unknown {
                        database: database.clone(),
                        cause: Arc::clone(&cause),
                    }));
                }
                Err(cause)
            }
        }
    }

    #[expect(clippy::disallowed_methods, reason = "measures a delay; no job is judged by it")]
    fn note_erasure(&mut self, group: &[Box<dyn Request>]) {
        if self.erase_due.is_none() && group.iter().any(|request| request.effect() == Effect::Shrinks) {
            self.erase_due = Some(Instant::now() + Duration::from_millis(ERASE_DELAY_MS_MAX));
        }
    }

    fn attempt(&self, group: &mut [Box<dyn Request>]) -> Result<Outcomes, Fault> {
        let done = self.transaction(group);
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

    fn execute(&self, sql: &str) -> rusqlite::Result<()> {
        self.connection.prepare_cached(sql)?.execute(()).map(|_| ())
    }

    fn transaction(&self, group: &mut [Box<dyn Request>]) -> rusqlite::Result<Outcomes> {
        self.execute("BEGIN IMMEDIATE")?;
        let mut outcomes = Vec::with_capacity(group.len());
        for request in group {
            self.execute("SAVEPOINT request")?;
            let outcome = match request.run(&self.connection) {
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
        self.execute("COMMIT")?;
        Ok(outcomes)
    }

    fn keep_wal_small(&mut self) -> Result<(), Arc<str>> {
        let pages = self.wal_pages.load(Ordering::Relaxed);
        if u64::from(pages) * PAGE_BYTES > self.wal_bytes_max {
            return self.checkpoint("PRAGMA wal_checkpoint(RESTART)").map(|_| ());
        }
        if u64::from(pages) * PAGE_BYTES >= self.wal_bytes_max / 4 {
            self.shared.inbox().checkpoint_due = true;
            self.shared.checkpoint.notify_one();
        }
        Ok(())
    }

    /// Takes the pages of deleted rows out of the write-ahead log, and what they held with them.
    #[expect(clippy::disallowed_methods, reason = "measures a delay; no job is judged by it")]
    fn erase(&mut self) -> Result<(), Arc<str>> {
        let done = self.checkpoint("PRAGMA wal_checkpoint(TRUNCATE)")?;
        // A reader that holds an old snapshot, or a full disk, delays it: again in a moment.
        self.erase_due = (!done).then(|| Instant::now() + Duration::from_millis(ERASE_DELAY_MS_MAX));
        if done {
            self.reserve.restore();
        }
        Ok(())
    }

    fn checkpoint(&self, pragma: &str) -> Result<bool, Arc<str>> {
        let _alone = self.shared.copying.lock().unwrap_or_else(PoisonError::into_inner);
        checkpoint(&self.connection, pragma)
    }
}

/// Runs a checkpoint; false if a reader, another checkpoint or a full disk was in its way.
fn checkpoint(connection: &Connection, pragma: &str) -> Result<bool, Arc<str>> {
    let waiting = |wait| connection.busy_timeout(wait);
    let copied = waiting(Duration::from_millis(CHECKPOINT_WAIT_MS_MAX))
        .and_then(|()| connection.query_row(pragma, (), |row| row.get::<_, i64>(0)));
    let copied = waiting(BUSY_WAIT_MAX).and(copied);
    match copied {
        Ok(busy) => Ok(busy == 0),
        Err(error) => match fault(&error) {
            Some(Fault::Broken(cause)) => Err(cause),
            // Everything is in the log still; the next one tries again.
            Some(Fault::DiskFull) | None => Ok(false),
        },
    }
}

/// The checkpointer: copies pages back beside the writer, which only waits for it at [`WAL_BYTES_MAX`].
fn copy_back(shared: &Shared, connection: &Connection) {
    loop {
        let mut inbox = shared.inbox();
        while !inbox.checkpoint_due && !inbox.closing && inbox.stopped.is_none() {
            inbox = shared.checkpoint.wait(inbox).unwrap_or_else(PoisonError::into_inner);
        }
        if inbox.closing || inbox.stopped.is_some() {
            return;
        }
        inbox.checkpoint_due = false;
        drop(inbox);
        let _alone = shared.copying.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(cause) = checkpoint(connection, "PRAGMA wal_checkpoint(PASSIVE)") {
            shared.inbox().stopped.get_or_insert(cause);
            shared.arrived.notify_all();
            return;
        }
    }
}
