//! What waits for a commit, and whose turn it is to commit.
//!
//! One leader at a time sits at the desk ([`Leader`]). A caller that waits for its answer takes the lead
//! where nobody has it, commits one group, and hands on what came meanwhile to the writer's thread, which
//! leads as long as anything waits. So one caller alone wakes no thread and is woken by none, which takes
//! a third as long as the sync, and many callers are served by the thread.

use std::{
    collections::VecDeque,
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, atomic::AtomicU32},
    thread,
    time::{Duration, Instant},
};

use rusqlite::Connection;

use super::{
    COMMIT_BOUNDS, Durability, Effect, GROUP_BYTES_MAX, GROUP_MAX, Holder, Room, Upkeep, WriteError,
    desk::{Broken, Desk, panicked},
    ticket::{Ending, Round},
};
use crate::meter::Histogram;

/// A request as the writer sees it.
pub(super) trait Request: Send {
    fn effect(&self) -> Effect;
    fn durability(&self) -> Durability;
    /// Bytes that it writes, where they are many.
    fn bytes(&self) -> u64;
    fn run(&mut self, tx: &Connection, room: Room) -> rusqlite::Result<()>;
    fn answer(self: Box<Self>, outcome: Result<(), WriteError>);
}

pub(super) struct Call<T, F> {
    pub(super) effect: Effect,
    pub(super) durability: Durability,
    pub(super) bytes: u64,
    pub(super) work: F,
    pub(super) value: Option<T>,
    pub(super) reply: oneshot::Sender<Result<T, WriteError>>,
}

impl<T: Send, F: FnMut(&Connection, Room) -> rusqlite::Result<T> + Send> Request for Call<T, F> {
    fn effect(&self) -> Effect {
        self.effect
    }

    fn durability(&self) -> Durability {
        self.durability
    }

    fn bytes(&self) -> u64 {
        self.bytes
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

/// Requests that share a commit.
pub(super) struct Group {
    pub(super) requests: Vec<Box<dyn Request>>,
    pub(super) ending: Ending,
    bytes: u64,
}

impl Group {
    fn has_place(&self, bytes: u64) -> bool {
        self.requests.len() < GROUP_MAX && self.bytes.saturating_add(bytes) <= GROUP_BYTES_MAX
    }
}

/// Who commits. Nobody else touches the desk meanwhile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Leader {
    #[default]
    Nobody,
    Caller,
    Thread,
}

#[derive(Default)]
struct Inbox {
    waiting: VecDeque<Group>,
    leader: Leader,
    /// The thread has something to do that a caller who leads does not do: it is to be handed the lead.
    thread_wants: bool,
    /// The checkpointer ends before the writer: the last connection to close removes the log.
    closing: Option<Closing>,
    stopped: Option<Arc<str>>,
    checkpoint_due: bool,
    erase_due: Option<Instant>,
    asked: VecDeque<Asked>,
    /// How many of the two threads sleep.
    asleep: usize,
    /// How many wait until nothing is under way.
    watching: usize,
}

impl Inbox {
    /// Nothing is under way.
    fn idle(&self) -> bool {
        let wanted = !self.waiting.is_empty() || self.checkpoint_due || !self.asked.is_empty();
        let at_rest = self.asleep == 2 && self.leader == Leader::Nobody;
        self.stopped.is_some() || (at_rest && !wanted)
    }
}

/// Which of the threads are to end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Closing {
    Checkpointer,
    Both,
}

/// What is to be done now, whenever it is due.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    Checkpoint,
    Erase,
}

/// What the writer's thread does next; it leads while it does it.
pub(super) enum Turn {
    Commit(Group),
    Checkpoint,
    Erase,
    Closing,
    Stopped,
}

/// What callers, the writer's thread and the checkpointer share.
pub(super) struct Shared {
    pub(super) database: Arc<Path>,
    pub(super) holder: Arc<dyn Holder>,
    pub(super) upkeep: Upkeep,
    /// What commits: for the leader alone. `None` after the thread has ended.
    pub(super) desk: Mutex<Option<Desk>>,
    inbox: Mutex<Inbox>,
    arrived: Condvar,
    checkpoint: Condvar,
    rested: Condvar,
    /// Held while a checkpoint runs: SQLite answers busy at once where another one is under way, and the
    /// log would grow past its limit meanwhile.
    pub(super) copying: Mutex<()>,
    /// Pages of the log that are copied back.
    pub(super) copied_pages: AtomicU32,
    /// How long each commit took.
    pub(super) commits: Histogram,
}

impl Shared {
    pub(super) fn new(database: Arc<Path>, holder: Arc<dyn Holder>, upkeep: Upkeep) -> Self {
        Self {
            database,
            holder,
            upkeep,
            desk: Mutex::default(),
            inbox: Mutex::default(),
            arrived: Condvar::new(),
            checkpoint: Condvar::new(),
            rested: Condvar::new(),
            copying: Mutex::default(),
            copied_pages: AtomicU32::new(0),
            commits: Histogram::new(COMMIT_BOUNDS),
        }
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        // A panic in a request's closure poisons nothing: the queue is whole at every unlock.
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn closed(&self, cause: &Arc<str>) -> WriteError {
        WriteError::Closed { database: self.database.to_path_buf(), cause: Arc::clone(cause) }
    }

    /// Queues a request; nothing where the writer has stopped, which the request is told.
    pub(super) fn queue(&self, request: Box<dyn Request>) -> Option<Arc<Round>> {
        let mut inbox = self.inbox();
        if let Some(cause) = inbox.stopped.clone() {
            drop(inbox);
            request.answer(Err(self.closed(&cause)));
            return None;
        }
        let bytes = request.bytes();
        if let Some(group) = inbox.waiting.back_mut().filter(|group| group.has_place(bytes)) {
            group.bytes += bytes;
            group.requests.push(request);
            return Some(Arc::clone(&group.ending.0));
        }
        let round = Arc::<Round>::default();
        let ending = Ending(Arc::clone(&round));
        inbox.waiting.push_back(Group { requests: vec![request], ending, bytes });
        Some(round)
    }

    /// How many requests each group that waits has.
    #[cfg(test)]
    pub(super) fn sizes(&self) -> Vec<usize> {
        self.inbox().waiting.iter().map(|group| group.requests.len()).collect()
    }

    /// Lets the thread commit what waits, unless somebody is at it: whoever leads hands it on.
    pub(super) fn begin(&self) {
        let mut inbox = self.inbox();
        if inbox.leader == Leader::Nobody && !inbox.waiting.is_empty() {
            inbox.leader = Leader::Thread;
            self.arrived.notify_one();
        }
    }

    /// Commits the first group that waits in the thread of the caller; false where somebody else leads.
    pub(super) fn lead(&self) -> bool {
        let mut inbox = self.inbox();
        if inbox.leader != Leader::Nobody || inbox.stopped.is_some() {
            return false;
        }
        let Some(group) = inbox.waiting.pop_front() else { return false };
        inbox.leader = Leader::Caller;
        drop(inbox);
        let _lead = Lead(self);
        // After a panic the lead is not given again.
        let mut desk = self.desk.lock().unwrap_or_else(PoisonError::into_inner);
        // What stops the writer has been told to everyone.
        let _ = desk.as_mut().map(|desk| desk.commit(group));
        true
    }

    /// Waits for the thread's next turn.
    #[expect(clippy::disallowed_methods, reason = "measures a delay; no job is judged by it")]
    pub(super) fn next_turn(&self) -> Turn {
        let mut inbox = self.inbox();
        loop {
            if inbox.stopped.is_some() {
                return Turn::Stopped;
            }
            let due = inbox.erase_due.filter(|_| self.upkeep == Upkeep::WhenDue);
            let left = due.map(|due| due.saturating_duration_since(Instant::now()));
            let overdue = left == Some(Duration::ZERO);
            let closing = inbox.closing == Some(Closing::Both);
            if inbox.leader == Leader::Caller {
                inbox.thread_wants = overdue || closing || !inbox.asked.is_empty();
                let wake_at = left.filter(|_| !overdue);
                inbox = self.sleep(inbox, &self.arrived, wake_at);
                continue;
            }
            inbox.thread_wants = false;
            let begun = inbox.leader == Leader::Thread || closing || !inbox.asked.is_empty();
            inbox.leader = Leader::Thread;
            if overdue {
                return Turn::Erase;
            }
            if let Some(group) = begun.then(|| inbox.waiting.pop_front()).flatten() {
                return Turn::Commit(group);
            }
            match inbox.asked.pop_front() {
                Some(Asked::Checkpoint) => return Turn::Checkpoint,
                Some(Asked::Erase) => return Turn::Erase,
                None if closing => return Turn::Closing,
                None => {}
            }
            inbox.leader = Leader::Nobody;
            inbox = self.sleep(inbox, &self.arrived, left);
        }
    }

    /// Waits until a checkpoint is due; false when there is nothing more to copy.
    pub(super) fn next_checkpoint(&self) -> bool {
        let mut inbox = self.inbox();
        while !inbox.checkpoint_due && inbox.closing.is_none() && inbox.stopped.is_none() {
            inbox = self.sleep(inbox, &self.checkpoint, None);
        }
        inbox.checkpoint_due = false;
        inbox.closing.is_none() && inbox.stopped.is_none()
    }

    /// One of the threads sleeps until it is woken or the time is over.
    fn sleep<'a>(
        &self,
        mut inbox: MutexGuard<'a, Inbox>,
        until: &Condvar,
        at_most: Option<Duration>,
    ) -> MutexGuard<'a, Inbox> {
        inbox.asleep += 1;
        self.tell_watchers(&inbox);
        let mut inbox = match at_most {
            Some(left) => until.wait_timeout(inbox, left).unwrap_or_else(PoisonError::into_inner).0,
            None => until.wait(inbox).unwrap_or_else(PoisonError::into_inner),
        };
        inbox.asleep -= 1;
        inbox
    }

    fn tell_watchers(&self, inbox: &Inbox) {
        if inbox.watching > 0 {
            self.rested.notify_all();
        }
    }

    /// Asks the checkpointer for a pass.
    pub(super) fn ask_for_checkpoint(&self) {
        self.inbox().checkpoint_due = true;
        self.checkpoint.notify_one();
    }

    /// Rows were deleted: their pages are to leave the log after this time, if that is not planned yet.
    #[expect(clippy::disallowed_methods, reason = "measures a delay; no job is judged by it")]
    pub(super) fn plan_erasure(&self, after: Duration) {
        let mut inbox = self.inbox();
        if inbox.erase_due.is_none() {
            inbox.erase_due = Some(Instant::now() + after);
            // The thread waits for the moment, also where a caller leads.
            self.arrived.notify_one();
        }
    }

    /// They have left it; or not, and it is tried again after this time.
    #[expect(clippy::disallowed_methods, reason = "measures a delay; no job is judged by it")]
    pub(super) fn erased(&self, again_after: Option<Duration>) {
        self.inbox().erase_due = again_after.map(|after| Instant::now() + after);
    }

    /// Has this done, and returns when it is and nothing is under way; what waited before is committed first.
    pub(super) fn ask(&self, asked: Asked) {
        let mut inbox = self.inbox();
        inbox.asked.push_back(asked);
        inbox.watching += 1;
        self.arrived.notify_one();
        while !inbox.idle() {
            inbox = self.rested.wait(inbox).unwrap_or_else(PoisonError::into_inner);
        }
        inbox.watching -= 1;
    }

    pub(super) fn close(&self, closing: Closing) {
        self.inbox().closing = Some(closing);
        self.checkpoint.notify_all();
        self.arrived.notify_all();
    }

    /// What stopped the writer, if anything did.
    pub(super) fn stopped(&self) -> Option<Arc<str>> {
        self.inbox().stopped.clone()
    }

    /// Nothing is written any more.
    pub(super) fn stop(&self, broken: &Broken) {
        self.inbox().stopped.get_or_insert_with(|| Arc::clone(&broken.cause));
        self.holder.stopped(&self.database, &broken.cause, broken.damaged);
        self.arrived.notify_all();
        self.checkpoint.notify_all();
        self.rested.notify_all();
    }

    /// The thread ends: what still waits is answered.
    pub(super) fn end(&self, cause: Arc<str>) {
        let mut inbox = self.inbox();
        let cause = Arc::clone(inbox.stopped.get_or_insert(cause));
        let late: Vec<_> = inbox.waiting.drain(..).collect();
        drop(inbox);
        self.rested.notify_all();
        for Group { requests, ending: _ending, .. } in late {
            for request in requests {
                request.answer(Err(self.closed(&cause)));
            }
        }
    }
}

/// A caller's lead; dropping it hands on what there is to do.
struct Lead<'a>(&'a Shared);

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            return self.0.stop(&panicked());
        }
        let mut inbox = self.0.inbox();
        if inbox.thread_wants || !inbox.waiting.is_empty() {
            inbox.leader = Leader::Thread;
            self.0.arrived.notify_one();
        } else {
            inbox.leader = Leader::Nobody;
            self.0.tell_watchers(&inbox);
        }
    }
}
