//! The network itself: what it knows and decides, behind one lock.
//!
//! Everything that a message changes is one transaction, and nothing is said to anybody before it is on disk: frames
//! and news wait in `outbox` until the commit. The lock is held over a commit, which is short; a devnet has few nodes.

mod faults;
mod jobs;
mod nodes;
mod open;
mod publish;
mod rivals;
mod show;

pub(crate) use jobs::Order;
pub(crate) use nodes::{Flow, Greeted};

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use node_types::{
    BootId, JobId, Network, NodeId, Timestamp,
    message::Domain,
    protocol::{Chunk, ErrorCode, NetworkFrame},
};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::Instant,
};

use crate::{
    Settings,
    assign::{Open, Peers, Rules},
    clock,
    db::{Db, End},
    documents::Published,
    faults::Faults,
    gate::Refusal,
    keys::Signer,
    settings::ConfigTemplate,
    shelf::Shelf,
    window::Window,
};

/// Why something could not be done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    /// A message does not count, or the network is closed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The database said no: nothing of it was kept.
    #[error("devnet.db cannot be used: {0}")]
    Database(#[from] rusqlite::Error),
    /// It is asked for what cannot be.
    #[error("{0}")]
    Impossible(String),
}

impl Trouble {
    /// As the node is told whose message this number had.
    pub(crate) fn refusal(self, seq: u64) -> Refusal {
        match self {
            Self::Refused(refusal) => refusal,
            Self::Database(_) | Self::Impossible(_) => {
                Refusal::new(ErrorCode::Unavailable, seq, self.to_string())
            }
        }
    }
}

/// What goes out on a session.
#[derive(Debug)]
pub(crate) enum Out {
    /// A frame, and when it was meant to go.
    Frame(String, Instant),
    /// As it is, past all faults of frames.
    Raw(String),
    /// The last frame.
    Close(String),
}

/// News of a job for who waits for it.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// A node has it.
    Taken(NodeId),
    /// A part of the answer.
    Chunk(NodeId, Chunk),
    /// It has ended. Which node said so, or none.
    Ended(End, Option<NodeId>),
}

/// What the server that listens is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Control {
    /// Listen no more for so many milliseconds.
    Away(u64),
    /// Listen again.
    Back,
    /// End.
    Stop,
}

#[derive(Debug)]
pub(crate) struct Session {
    number: u64,
    boot: BootId,
    out: mpsc::UnboundedSender<Out>,
    /// Ends the connection without a word, past all that waits to be sent.
    cut: Arc<Notify>,
}

#[derive(Debug)]
enum Effect {
    Say(NodeId, NetworkFrame),
    Tell(JobId, Event),
}

/// The network, shared by all that serve it.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    /// The files of models.
    pub(crate) shelf: Arc<Shelf>,
    core: Mutex<Option<Core>>,
    /// Somebody may have to be offered something.
    pub(crate) wake: Notify,
    /// Every session holds a receiver, so it is closed when the last one has ended.
    pub(crate) sessions: watch::Sender<()>,
    control: mpsc::UnboundedSender<Control>,
}

#[derive(Debug)]
pub(crate) struct Core {
    db: Db,
    keys: PathBuf,
    shelf: Arc<Shelf>,
    network: Network,
    chain_id: u64,
    rules: Rules,
    signer: Signer,
    template: ConfigTemplate,
    published: Published,
    bad: Option<Published>,
    windows: HashMap<NodeId, Window>,
    peers: Peers,
    sessions: BTreeMap<NodeId, Session>,
    sessions_opened: u64,
    challenges: BTreeMap<NodeId, rivals::Challenge>,
    open: BTreeMap<JobId, Open>,
    watchers: HashMap<JobId, Vec<mpsc::UnboundedSender<Event>>>,
    pongs: BTreeMap<NodeId, (u64, Timestamp)>,
    faults: Faults,
    outbox: Vec<Effect>,
}

impl Shared {
    pub(crate) fn new(settings: Settings, core: Core, control: mpsc::UnboundedSender<Control>) -> Self {
        let (sessions, shelf) = (watch::Sender::new(()), Arc::clone(&core.shelf));
        Self { settings, shelf, core: Mutex::new(Some(core)), wake: Notify::new(), sessions, control }
    }

    /// Does something in one transaction, then says what it leads to.
    pub(crate) fn with<T>(
        &self,
        act: impl FnOnce(&mut Core, Timestamp) -> Result<T, Trouble>,
    ) -> Result<T, Trouble> {
        let mut held = self.lock();
        let Some(core) = held.as_mut() else {
            return Err(Refusal::new(ErrorCode::Unavailable, 0, "the network is closed").into());
        };
        let now = clock::now();
        core.db.begin()?;
        let mut answer = act(core, now);
        if let Err(Trouble::Refused(refusal)) = &answer {
            // What was seen of a refused message stays seen.
            core.db.count("refused", &code_name(refusal.code))?;
        }
        let committed = match &answer {
            Ok(_) | Err(Trouble::Refused(_)) => core.db.commit(),
            Err(Trouble::Database(_) | Trouble::Impossible(_)) => {
                core.db.roll_back();
                Ok(())
            }
        };
        if let Err(error) = committed {
            core.db.roll_back();
            answer = Err(error.into());
        }
        match &answer {
            Ok(_) | Err(Trouble::Refused(_)) => {
                core.flush(now);
                self.wake.notify_one();
            }
            // Nothing has changed, so nothing is due that was not before.
            Err(Trouble::Impossible(_)) => core.outbox.clear(),
            Err(Trouble::Database(_)) => {
                core.outbox.clear();
                core.recall(now);
            }
        }
        drop(held);
        answer
    }

    /// Looks at something without changing it.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&Core) -> Result<T, Trouble>) -> Result<T, Trouble> {
        match self.lock().as_ref() {
            Some(core) => look(core),
            None => Err(Refusal::new(ErrorCode::Unavailable, 0, "the network is closed").into()),
        }
    }

    /// Offers, cancels, expires and renews what is due. `false` once the network is closed.
    pub(crate) fn tick(&self) -> bool {
        let now = clock::now();
        let due = match self.lock().as_ref() {
            Some(core) => core.is_due(now),
            None => return false,
        };
        if due && let Err(error) = self.with(Core::tick) {
            // Nothing was changed, so the next tick tries the same again.
            tracing::warn!(%error, "the devnet cannot do what is due");
        }
        true
    }

    /// Tells the server.
    pub(crate) fn control(&self, control: Control) {
        // Nobody listens any more after the end, and then nothing is to be told.
        let _ = self.control.send(control);
    }

    /// Ends the network: sessions in good order, and what waits for a job is told that it waits no more.
    pub(crate) fn close(&self) {
        let core = self.lock().take();
        if let Some(core) = core {
            core.say_goodbye();
        }
        self.control(Control::Stop);
    }

    fn lock(&self) -> MutexGuard<'_, Option<Core>> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Core {
    /// Where signatures of this network's nodes count.
    pub(crate) const fn domain(&self) -> Domain {
        Domain { network: self.network, chain_id: self.chain_id }
    }

    /// What goes wrong on command.
    pub(crate) const fn faults(&self) -> &Faults {
        &self.faults
    }

    /// The snapshot that is offered: the newest, or a bad one on command.
    pub(crate) fn offered(&self) -> &Published {
        self.bad.as_ref().unwrap_or(&self.published)
    }

    /// The newest good snapshot.
    pub(crate) const fn published(&self) -> &Published {
        &self.published
    }

    /// After a write that failed memory may know more than the disk: it is read again.
    fn recall(&mut self, now: Timestamp) {
        self.windows.clear();
        match self.db.open_jobs() {
            Ok(rows) => self.open = open::reopened(rows, now),
            Err(error) => tracing::warn!(%error, "the devnet cannot read its jobs again"),
        }
    }

    fn say(&mut self, node: NodeId, frame: NetworkFrame) {
        self.outbox.push(Effect::Say(node, frame));
    }

    fn tell(&mut self, job: JobId, event: Event) {
        self.outbox.push(Effect::Tell(job, event));
    }

    fn flush(&mut self, now: Timestamp) {
        for effect in std::mem::take(&mut self.outbox) {
            match effect {
                Effect::Say(node, frame) => {
                    let is_ack = matches!(frame, NetworkFrame::Acknowledged { .. });
                    let Some(session) = self.sessions.get(&node) else { continue };
                    if is_ack && self.faults.lose_acks.takes(now) {
                        continue;
                    }
                    // A session that has just ended needs nothing more; its end is noted by who serves it.
                    let _ = session.out.send(Out::Frame(encode(&frame), Instant::now()));
                }
                Effect::Tell(job, event) => self.tell_now(job, &event),
            }
        }
    }

    fn tell_now(&mut self, job: JobId, event: &Event) {
        let Some(watchers) = self.watchers.get_mut(&job) else { return };
        watchers.retain(|watcher| watcher.send(event.clone()).is_ok());
        if watchers.is_empty() || matches!(event, Event::Ended(..)) {
            self.watchers.remove(&job);
        }
    }

    fn closing(&self, reason: &str) -> String {
        let retry_after_ms = self.published.config.timings.retry_ms_min;
        encode(&NetworkFrame::Closing { reason: reason.to_owned(), retry_after_ms })
    }

    fn say_goodbye(&self) {
        for session in self.sessions.values() {
            let _ = session.out.send(Out::Close(self.closing("the network stops")));
        }
    }
}

/// A frame as it goes over the wire.
pub(crate) fn encode(frame: &NetworkFrame) -> String {
    // A frame has texts, numbers and a job: it always can be written.
    serde_json::to_string(frame).unwrap_or_default()
}

/// A code as it is written in JSON.
pub(crate) fn code_name(code: ErrorCode) -> String {
    serde_json::to_value(code).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default()
}
