//! The writer: one connection alone writes rows to a database, one group of requests after another.
//!
//! All requests that wait when a commit begins share it and its one sync; each caller is answered
//! after that sync, with its own answer. A request is a closure over the transaction. Where one fails, the
//! group runs again, each request in a savepoint, so that it takes nothing of the others with it.
//!
//! What holds, whatever happens:
//! - Nothing is answered before the commit that holds it is on disk.
//! - After an I/O error the writer stops: that group is answered [`WriteError::Unknown`] (the commit may
//!   or may not be on disk), everything later [`WriteError::Closed`]. A failed sync is never retried
//!   (the kernel may have dropped the pages that it could not write); opening again writes the log anew.
//! - A full disk is no I/O error: the group is rolled back, the reserve is given up, and it is run again
//!   without the requests that [`Effect::Grows`]; those are answered [`WriteError::Full`]. A request that
//!   [`Effect::Yields`] is told that there is no room and answers for itself; so it is before the disk is
//!   full, when free space is low.
//!
//! A thread of its own commits what was asked for. A caller that waits commits instead where that thread is
//! not at it yet: waking it, and being woken by it, would take about as long as the sync.
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
    panic::{self, AssertUnwindSafe},
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

use rusqlite::{Connection, ErrorCode, config::DbConfig, hooks::Wal};

use crate::format::{BUSY_WAIT_MAX, PAGE_BYTES, is_damage};

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
    /// It may need more, and where it is told that there is no room it writes nothing and says so itself.
    Yields,
    /// It reads, or changes what is there in place: works on a full disk.
    Keeps,
    /// It ends something (acknowledge, expire, delete): works on a full disk, out of the reserve.
    Shrinks,
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

/// An answer that comes after the sync. Wait for it with [`Ticket::wait`] or `.await` it: it needs no
/// runtime. Dropping it does not take the request back.
#[must_use = "the answer says whether it is on disk"]
pub struct Ticket<T> {
    answer: oneshot::AsyncReceiver<Result<T, WriteError>>,
    database: Arc<Path>,
    /// Who will answer; `None` where the answer is there.
    asked: Option<Arc<Shared>>,
}

impl<T> Ticket<T> {
    /// An answer that needs no commit.
    pub(crate) fn ready(database: &Path, answer: Result<T, WriteError>) -> Self {
        let (reply, ticket) = oneshot::async_channel();
        // The receiver is right here.
        let _ = reply.send(answer);
        Self { answer: ticket, database: database.into(), asked: None }
    }

    fn closed(&self) -> WriteError {
        WriteError::Closed { database: self.database.to_path_buf(), cause: "the store was dropped".into() }
    }

    /// Blocks until the answer is there.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn wait(self) -> Result<T, WriteError> {
        let closed = self.closed();
        if let Some(asked) = &self.asked {
            asked.help();
        }
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
    fn run(&mut self, tx: &Connection, room: Room) -> rusqlite::Result<()>;
    fn answer(self: Box<Self>, outcome: Result<(), WriteError>);
}

struct Call<T, F> {
    effect: Effect,
    work: F,
    value: Option<T>,
    reply: oneshot::Sender<Result<T, WriteError>>,
}

impl<T: Send, F: FnMut(&Connection, Room) -> rusqlite::Result<T> + Send> Request for Call<T, F> {
    fn effect(&self) -> Effect {
        self.effect
    }

    fn run(&mut self, tx: &Connection, room: Room) -> rusqlite::Result<()> {
        self.value = Some((self.work)(tx, room)?);
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
    /// Whether so little of the disk is free that nothing should grow that need not. `within` is what the
    /// database itself has free.
    fn low(&self, within: u64) -> bool;
    /// Gives up the reserved bytes; false if there are none left to give.
    fn release(&mut self) -> bool;
    /// Takes them again if the disk has room.
    fn restore(&mut self);
    /// Bytes of the write-ahead log that the reserve has room for; `None` where there is no reserve.
    fn log_bytes_max(&self) -> Option<u64>;
}

/// Whoever holds the volume; a writer keeps it as long as it lives.
pub(crate) trait Holder: Send + Sync + fmt::Debug {
    /// A writer stopped because of `cause`; `damaged` says that what it read is not what was written.
    fn stopped(&self, database: &Path, cause: &str, damaged: bool);
}

#[derive(Default)]
struct Inbox {
    waiting: VecDeque<Box<dyn Request>>,
    /// The checkpointer ends before the writer: the last connection to close removes the log.
    closing: Option<Closing>,
    stopped: Option<Arc<str>>,
    checkpoint_due: bool,
    erase_due: Option<Instant>,
    asked: Option<Asked>,
    /// How many of the two threads sleep.
    asleep: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Closing {
    Checkpointer,
    Both,
}

/// What is to be done now, whenever it is due.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    Checkpoint,
    Erase,
}

impl Inbox {
    /// Nothing is under way.
    fn idle(&self) -> bool {
        let wanted = !self.waiting.is_empty() || self.checkpoint_due || self.asked.is_some();
        self.stopped.is_some() || (self.asleep == 2 && !wanted)
    }
}

struct Shared {
    database: Arc<Path>,
    holder: Arc<dyn Holder>,
    upkeep: Upkeep,
    /// What commits: whoever holds it writes. `None` before the thread starts and after it ends.
    desk: Mutex<Option<Desk>>,
    inbox: Mutex<Inbox>,
    arrived: Condvar,
    checkpoint: Condvar,
    rested: Condvar,
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
        WriteError::Closed { database: self.database.to_path_buf(), cause: Arc::clone(cause) }
    }

    /// Commits what waits in the thread of the caller, unless another one is at it.
    fn help(&self) {
        // A panic in a request's closure closes the desk: the writer's thread sees to it.
        let Ok(mut desk) = self.desk.try_lock() else { return };
        // What stops the writer has been told to everyone.
        let _ = desk.as_mut().map(Desk::commit_waiting);
    }

    /// Nothing is written any more.
    fn stop(&self, broken: &Broken) {
        self.inbox().stopped.get_or_insert_with(|| Arc::clone(&broken.cause));
        self.holder.stopped(&self.database, &broken.cause, broken.damaged);
        self.arrived.notify_all();
        self.checkpoint.notify_all();
        self.rested.notify_all();
    }

    /// One of the threads sleeps until it is woken or the time is over.
    fn sleep<'a>(
        &self,
        mut inbox: MutexGuard<'a, Inbox>,
        until: &Condvar,
        at_most: Option<Duration>,
    ) -> MutexGuard<'a, Inbox> {
        inbox.asleep += 1;
        self.rested.notify_all();
        let mut inbox = match at_most {
            Some(left) => until.wait_timeout(inbox, left).unwrap_or_else(PoisonError::into_inner).0,
            None => until.wait(inbox).unwrap_or_else(PoisonError::into_inner),
        };
        inbox.asleep -= 1;
        inbox
    }
}

/// What stops a writer.
#[derive(Clone, Debug)]
struct Broken {
    cause: Arc<str>,
    /// What was read is not what was written.
    damaged: bool,
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
        let shared = Arc::new(Shared {
            database: database.into(),
            holder,
            upkeep,
            desk: Mutex::default(),
            inbox: Mutex::default(),
            arrived: Condvar::new(),
            checkpoint: Condvar::new(),
            rested: Condvar::new(),
            copying: Mutex::default(),
        });
        let wal_bytes_max = reserve.log_bytes_max().unwrap_or(WAL_BYTES_MAX).min(WAL_BYTES_MAX);
        let (commits, copies) = (Arc::clone(&shared), Arc::clone(&shared));
        let writer = thread::Builder::new().name("store-writer".into()).spawn(move || {
            let desk = Desk { shared: Arc::clone(&commits), connection, reserve, wal_pages, wal_bytes_max };
            run(&commits, desk);
        })?;
        // Made before the second thread: if that one cannot start, dropping this ends the first.
        let mut this = Self { shared, writer: Some(writer), checkpointer: None, wal_bytes_max };
        let copier = thread::Builder::new()
            .name("store-checkpoint".into())
            .spawn(move || copy_back(&copies, &checkpointer))?;
        this.checkpointer = Some(copier);
        Ok(this)
    }

    /// Queues `work` for the next commit. It may run more than once, each time on what the earlier
    /// requests of the group left; only the last run counts.
    pub(crate) fn submit<T: Send + 'static>(
        &self,
        effect: Effect,
        mut work: impl FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Ticket<T> {
        self.queue(effect, move |tx: &Connection, _room| work(tx))
    }

    /// Queues `work` for the next commit as [`submit`](Self::submit) does. In [`Room::Low`] it must write
    /// nothing: it only looks, and answers that there is no room.
    pub(crate) fn submit_yielding<T: Send + 'static>(
        &self,
        work: impl FnMut(&Connection, Room) -> rusqlite::Result<T> + Send + 'static,
    ) -> Ticket<T> {
        self.queue(Effect::Yields, work)
    }

    fn queue<T: Send + 'static>(
        &self,
        effect: Effect,
        work: impl FnMut(&Connection, Room) -> rusqlite::Result<T> + Send + 'static,
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
        Ticket { answer, database: Arc::clone(&self.shared.database), asked: Some(Arc::clone(&self.shared)) }
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
        self.ask(Asked::Checkpoint);
    }

    /// Takes the pages of deleted rows out of the write-ahead log now, and empties it.
    pub(crate) fn erase(&self) {
        self.ask(Asked::Erase);
    }

    fn ask(&self, asked: Asked) {
        let mut inbox = self.shared.inbox();
        inbox.asked = Some(asked);
        self.shared.arrived.notify_one();
        while !inbox.idle() {
            inbox = self.shared.rested.wait(inbox).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// What stopped the writer, if anything did.
    pub(crate) fn stopped(&self) -> Option<Arc<str>> {
        self.shared.inbox().stopped.clone()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let threads =
            [(Closing::Checkpointer, self.checkpointer.take()), (Closing::Both, self.writer.take())];
        for (closing, thread) in threads {
            self.shared.inbox().closing = Some(closing);
            self.shared.checkpoint.notify_all();
            self.shared.arrived.notify_all();
            // A panicked thread has already answered with dropped tickets.
            let _ = thread.map(JoinHandle::join);
        }
    }
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

/// `None` for a request that ran; else its own error.
type Outcomes = Vec<Option<Arc<str>>>;

struct Desk {
    shared: Arc<Shared>,
    connection: Connection,
    reserve: Box<dyn Reserve>,
    /// Pages in the write-ahead log after the last commit.
    wal_pages: Arc<AtomicU32>,
    wal_bytes_max: u64,
}

enum Woken {
    Waiting,
    Checkpoint,
    Erase,
    Closing,
    Stopped,
}

/// What stops the writer where a request's closure panicked: its transaction may be half done.
const PANICKED: &str = "a request panicked";

fn panicked() -> Broken {
    Broken { cause: PANICKED.into(), damaged: false }
}

/// The writer's thread.
fn run(shared: &Shared, desk: Desk) {
    let mut held = shared.desk.lock().unwrap_or_else(PoisonError::into_inner);
    *held = Some(desk);
    drop(held);
    let ended = panic::catch_unwind(AssertUnwindSafe(|| commit_until_closed(shared)));
    let ended = ended.unwrap_or_else(|_| Err(panicked()));
    let broken = ended.is_err() || shared.inbox().stopped.is_some();
    let cause = match ended {
        Ok(()) => "it was closed".into(),
        Err(broken) => {
            shared.stop(&broken);
            broken.cause
        }
    };
    let mut inbox = shared.inbox();
    let cause = Arc::clone(inbox.stopped.get_or_insert(cause));
    let late: Vec<_> = inbox.waiting.drain(..).collect();
    drop(inbox);
    shared.rested.notify_all();
    shared.checkpoint.notify_all();
    for request in late {
        request.answer(Err(shared.closed(&cause)));
    }
    let mut desk = shared.desk.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(desk) = desk.as_ref().filter(|_| broken) {
        leave_the_log(&desk.connection);
    }
    // Closed here, so that it is closed when the writer has been dropped, whoever holds a ticket still.
    drop(desk.take());
}

/// Closing the last connection would copy the log back, and so try again the sync that failed.
fn leave_the_log(connection: &Connection) {
    // It fails on no open connection.
    let _ = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
}

fn commit_until_closed(shared: &Shared) -> Result<(), Broken> {
    loop {
        let woken = wait(shared);
        let mut desk = shared.desk.lock().map_err(|_| panicked())?;
        let Some(desk) = desk.as_mut() else { return Ok(()) };
        match woken {
            Woken::Waiting => desk.commit_waiting()?,
            Woken::Checkpoint => desk.keep_wal_small()?,
            Woken::Erase => desk.erase()?,
            Woken::Closing => return desk.erase(),
            Woken::Stopped => return Ok(()),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "measures a delay; no job is judged by it")]
fn wait(shared: &Shared) -> Woken {
    let mut inbox = shared.inbox();
    loop {
        if inbox.stopped.is_some() {
            return Woken::Stopped;
        }
        let due = inbox.erase_due.filter(|_| shared.upkeep == Upkeep::WhenDue);
        let left = due.map(|due| due.saturating_duration_since(Instant::now()));
        if left == Some(Duration::ZERO) {
            return Woken::Erase;
        }
        if !inbox.waiting.is_empty() {
            return Woken::Waiting;
        }
        match inbox.asked.take() {
            Some(Asked::Checkpoint) => return Woken::Checkpoint,
            Some(Asked::Erase) => return Woken::Erase,
            None => {}
        }
        if inbox.closing == Some(Closing::Both) {
            return Woken::Closing;
        }
        inbox = shared.sleep(inbox, &shared.arrived, left);
    }
}

impl Desk {
    /// Commits the next group, if any waits.
    fn commit_waiting(&mut self) -> Result<(), Broken> {
        let mut inbox = self.shared.inbox();
        if inbox.waiting.is_empty() || inbox.stopped.is_some() {
            return Ok(());
        }
        let size = inbox.waiting.len().min(GROUP_MAX);
        let group = inbox.waiting.drain(..size).collect();
        drop(inbox);
        self.commit(group)?;
        match self.shared.upkeep {
            Upkeep::WhenDue => self.keep_wal_small(),
            Upkeep::WhenAsked => Ok(()),
        }
    }

    fn commit(&mut self, mut group: Vec<Box<dyn Request>>) -> Result<(), Broken> {
        let database = self.shared.database.to_path_buf();
        let any = |group: &[Box<dyn Request>], wanted| group.iter().any(|it| it.effect() == wanted);
        // Free space is asked for only where somebody needs to know, and once.
        let low = any(&group, Effect::Yields) && self.reserve.low(self.free_within());
        let mut attempt = self.attempt(&mut group, if low { Room::Low } else { Room::Enough });
        if let Err(Fault::DiskFull) = attempt {
            let (growing, others): (Vec<_>, Vec<_>) =
                group.into_iter().partition(|request| request.effect() == Effect::Grows);
            for request in growing {
                request.answer(Err(WriteError::Full { database: database.clone() }));
            }
            group = others;
            if group.is_empty() {
                return Ok(());
            }
            // What only looks now needs no reserve.
            if any(&group, Effect::Keeps) || any(&group, Effect::Shrinks) {
                // The reserve has room for every page that waits in the log, so the log can be emptied, and
                // its own space serves the requests that follow.
                self.reserve.release();
                let emptied = self.checkpoint("PRAGMA wal_checkpoint(TRUNCATE)");
                if let Err(broken) = emptied {
                    for request in group {
                        request.answer(Err(self.shared.closed(&broken.cause)));
                    }
                    return Err(broken);
                }
            }
            attempt = self.attempt(&mut group, Room::Low);
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
            Err(Fault::Broken(broken)) => {
                // Stop before answering: whoever hears of it must find the writer closed.
                self.shared.stop(&broken);
                for request in group {
                    request.answer(Err(WriteError::Unknown {
                        database: database.clone(),
                        cause: Arc::clone(&broken.cause),
                    }));
                }
                Err(broken)
            }
        }
    }

    #[expect(clippy::disallowed_methods, reason = "measures a delay; no job is judged by it")]
    fn note_erasure(&self, group: &[Box<dyn Request>]) {
        if group.iter().all(|request| request.effect() != Effect::Shrinks) {
            return;
        }
        let mut inbox = self.shared.inbox();
        if inbox.erase_due.is_none() {
            inbox.erase_due = Some(Instant::now() + Duration::from_millis(ERASE_DELAY_MS_MAX));
            // The thread waits for the moment, also where another one commits.
            self.shared.arrived.notify_one();
        }
    }

    fn attempt(&self, group: &mut [Box<dyn Request>], room: Room) -> Result<Outcomes, Fault> {
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
    fn transaction(&self, group: &mut [Box<dyn Request>], room: Room) -> rusqlite::Result<Outcomes> {
        self.execute("BEGIN IMMEDIATE")?;
        let mut outcomes = vec![None; group.len()];
        match group.iter_mut().try_for_each(|request| request.run(&self.connection, room)) {
            Err(error) if fault(&error).is_none() && group.len() > 1 => {
                self.execute("ROLLBACK")?;
                self.execute("BEGIN IMMEDIATE")?;
                outcomes = self.each_in_a_savepoint(group, room)?;
            }
            done => done?,
        }
        self.execute("COMMIT")?;
        Ok(outcomes)
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

    fn keep_wal_small(&mut self) -> Result<(), Broken> {
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
    fn erase(&mut self) -> Result<(), Broken> {
        let done = self.checkpoint("PRAGMA wal_checkpoint(TRUNCATE)")?;
        // A reader that holds an old snapshot, or a full disk, delays it: again in a moment.
        self.shared.inbox().erase_due =
            (!done).then(|| Instant::now() + Duration::from_millis(ERASE_DELAY_MS_MAX));
        if done {
            self.reserve.restore();
        }
        Ok(())
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
    let copied = waiting(Duration::from_millis(CHECKPOINT_WAIT_MS_MAX))
        .and_then(|()| connection.query_row(pragma, (), |row| row.get::<_, i64>(0)));
    let copied = waiting(BUSY_WAIT_MAX).and(copied);
    match copied {
        Ok(busy) => Ok(busy == 0),
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

/// The checkpointer: copies pages back beside the writer, which only waits for it at [`WAL_BYTES_MAX`].
fn copy_back(shared: &Shared, connection: &Connection) {
    loop {
        let mut inbox = shared.inbox();
        while !inbox.checkpoint_due && inbox.closing.is_none() && inbox.stopped.is_none() {
            inbox = shared.sleep(inbox, &shared.checkpoint, None);
        }
        if inbox.closing.is_some() || inbox.stopped.is_some() {
            if inbox.stopped.is_some() {
                leave_the_log(connection);
            }
            return;
        }
        inbox.checkpoint_due = false;
        drop(inbox);
        let _alone = shared.copying.lock().unwrap_or_else(PoisonError::into_inner);
        if checkpoint(shared, connection, "PRAGMA wal_checkpoint(PASSIVE)").is_err() {
            leave_the_log(connection);
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct NoReserve;

    impl Reserve for NoReserve {
        fn low(&self, _: u64) -> bool {
            false
        }
        fn release(&mut self) -> bool {
            false
        }
        fn restore(&mut self) {}
        fn log_bytes_max(&self) -> Option<u64> {
            None
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
