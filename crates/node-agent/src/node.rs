//! The node: what the parts of the Agent share.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use node_store::{
    reader::ReadError,
    rotation::{Step, Trigger},
    store::Store,
    writer::WriteError,
};
use node_types::{
    Digest, JobId, Timestamp,
    inventory::ArtifactId,
    job::ModelRef,
    log::{Kind, Level},
    protocol::{Chunk, ErrorCode, Readiness},
};
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    time::Instant,
};

use crate::{
    author::{Author, AuthorError},
    blocking::blocking,
    contact::Contact,
    journal::{Journal, causes},
    meters::Meters,
    network::NetworkError,
    settings::Settings,
    time,
};

/// Parts of streamed answers that may wait for the connection; further ones are dropped, the result carries all.
const CHUNKS_MAX: usize = 256;

/// Why a run is ended from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Halt {
    /// The job is not wanted any more; it has failed already.
    Cancelled,
    /// The Agent stops: the job goes back to the queue.
    Shutdown,
}

/// Which models may be used now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shelf {
    /// The snapshot that it is about.
    pub config: Option<Digest>,
    /// Those whose files are all here.
    pub ready: BTreeSet<ModelRef>,
    /// Those that cannot be had, and why.
    pub failed: BTreeMap<ModelRef, String>,
    /// Why the runtime on the disk is not the one that the snapshot approves.
    pub runtime: Option<String>,
}

/// What the parts of the Agent share.
#[derive(Debug)]
pub struct Node {
    /// The store.
    pub store: Arc<Store>,
    /// Signs what the node says.
    pub author: Author,
    /// Writes the node's log.
    pub journal: Journal,
    /// Counts what happens.
    pub meters: Meters,
    /// What the operator sets.
    pub settings: Settings,
    /// Jobs ended: the session sends what waits.
    pub ended: Notify,
    /// Jobs came, or room for them: dispatch looks again.
    pub queued: Notify,
    /// There may be a newer snapshot.
    pub fetch: Notify,
    /// Logs and traces should go soon.
    pub flush: Notify,
    /// Models may have to be installed.
    pub install: Notify,
    /// The runtime may have to follow: models are here, or are others.
    pub follow: Notify,
    /// Which models may be used now.
    pub shelf: watch::Sender<Shelf>,
    /// The snapshot that passed its health check.
    pub approved: watch::Sender<Option<Digest>>,
    /// The model whose test inference failed under the snapshot in force, and why.
    untested: Mutex<Option<(ModelRef, String)>>,
    /// Why the snapshot in force did not pass its last health check.
    unhealthy: Mutex<Option<String>>,
    /// The container that runs is to be looked at again.
    pub recheck: AtomicBool,
    /// Artifacts that are to be measured again.
    pub due: Mutex<BTreeSet<ArtifactId>>,
    /// Whether the node takes jobs.
    pub readiness: watch::Sender<Readiness>,
    /// The session is open.
    pub connected: AtomicBool,
    /// When this start began.
    pub started_at: Timestamp,
    /// When the network was reached in this start, and when not.
    contact: Mutex<Contact>,
    /// Where the page is.
    page: Mutex<Option<String>>,
    /// The network has said in this start that it knows the node.
    registered: AtomicBool,
    /// The snapshot that the network offers and this node does not take, so that it is not fetched at every heartbeat.
    pub unwanted: Mutex<Option<Digest>>,
    chunks: mpsc::Sender<Chunk>,
    running: Mutex<HashMap<JobId, oneshot::Sender<Halt>>>,
    /// What stopped a database, once one has.
    failed: watch::Sender<Option<Arc<str>>>,
    /// Why this start must not go on, once the network has said so.
    displaced: watch::Sender<Option<Arc<str>>>,
    /// This volume is a restored copy: no job is run or sent before the network was asked about it.
    fenced: AtomicBool,
}

impl Node {
    /// A node that is starting, and the parts of streamed answers that it will give.
    ///
    /// # Errors
    /// [`ReadError`] where it cannot be told whether the volume is a restored copy.
    pub fn new(
        store: Arc<Store>,
        author: Author,
        settings: Settings,
    ) -> Result<(Arc<Self>, mpsc::Receiver<Chunk>), ReadError> {
        let fenced = store.view().jobs().fence()?.is_some();
        let (chunks, given) = mpsc::channel(CHUNKS_MAX);
        // Without a clock no part of the Agent gets far; that is said where it is read.
        let started_at = time::now(&store).unwrap_or(Timestamp::EPOCH);
        let node = Self {
            started_at,
            contact: Mutex::new(Contact::new(started_at)),
            page: Mutex::default(),
            journal: Journal::new(Arc::clone(&store)),
            store,
            author,
            meters: Meters::new(Instant::now()),
            settings,
            ended: Notify::new(),
            queued: Notify::new(),
            fetch: Notify::new(),
            flush: Notify::new(),
            install: Notify::new(),
            follow: Notify::new(),
            shelf: watch::Sender::new(Shelf::default()),
            approved: watch::Sender::new(None),
            untested: Mutex::default(),
            unhealthy: Mutex::default(),
            recheck: AtomicBool::new(false),
            due: Mutex::default(),
            readiness: watch::Sender::new(Readiness::Starting),
            connected: AtomicBool::new(false),
            registered: AtomicBool::new(false),
            unwanted: Mutex::default(),
            chunks,
            running: Mutex::default(),
            failed: watch::Sender::new(None),
            displaced: watch::Sender::new(None),
            fenced: AtomicBool::new(fenced),
        };
        Ok((Arc::new(node), given))
    }

    /// Takes the network's time: for the store, which ends jobs by it, and for what is signed from now on.
    ///
    /// # Errors
    /// [`AuthorError`] without a clock, or where the store cannot keep it.
    pub async fn heard_time(&self, network: Timestamp) -> Result<(), AuthorError> {
        self.author.network_time(network)?;
        let (store, reading) = (Arc::clone(&self.store), time::reading()?);
        let kept = blocking(move || store.confirm_time(&reading, network)).await;
        Ok(self.written(kept).map(drop)?)
    }

    /// Takes the network's time from a refusal that says it: without that a node whose clock is wrong would never be
    /// heard again.
    ///
    /// One that says that this node runs twice ends this start.
    pub async fn heed(&self, error: &NetworkError) {
        if let NetworkError::Refused {
            code: ErrorCode::AlreadyRunning | ErrorCode::Superseded,
            message,
            ..
        } = error
        {
            self.displace(message);
        }
        if let NetworkError::Refused { code: ErrorCode::OutOfTime, now: Some(now), .. } = error
            && let Err(error) = self.heard_time(*now).await
        {
            self.journal.failed(Level::Error, Kind::Agent, "cannot take the network's time", &error);
        }
    }

    /// Whether the network knows the node: asked once a start, and again when it says that it does not.
    #[must_use]
    pub fn is_registered(&self) -> bool {
        self.registered.load(Ordering::Relaxed)
    }

    /// Whether there is any use in talking: the network knows the node, or knew it before, and has keys.
    #[must_use]
    pub fn is_known(&self) -> bool {
        let snapshots = self.store.snapshots();
        snapshots.keyset().is_some() && (self.is_registered() || snapshots.current().is_some())
    }

    /// The network knows the node, or has said that it does not.
    pub fn set_registered(&self, known: bool) {
        self.registered.store(known, Ordering::Relaxed);
    }

    /// Notes the model whose test inference failed.
    pub fn set_untested(&self, model: Option<(ModelRef, String)>) {
        *self.untested.lock().unwrap_or_else(PoisonError::into_inner) = model;
    }

    /// The model whose test inference failed, and why.
    #[must_use]
    pub fn untested(&self) -> Option<(ModelRef, String)> {
        self.untested.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes why the snapshot in force did not pass its health check; nothing where it did.
    pub fn set_unhealthy(&self, why: Option<String>) {
        *self.unhealthy.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// Why the snapshot in force did not pass its last health check.
    #[must_use]
    pub fn unhealthy(&self) -> Option<String> {
        self.unhealthy.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The session is open.
    pub fn reached(&self) {
        self.meters.connected(Instant::now());
        let now = time::now(&self.store).unwrap_or(Timestamp::EPOCH);
        self.contact.lock().unwrap_or_else(PoisonError::into_inner).reached(now);
    }

    /// The session is not open, for this reason.
    pub fn lost(&self, why: String) {
        self.meters.disconnected(Instant::now());
        let now = time::now(&self.store).unwrap_or(Timestamp::EPOCH);
        self.contact.lock().unwrap_or_else(PoisonError::into_inner).lost(now, why);
    }

    /// When the network was reached in this start, and when not.
    #[must_use]
    pub fn contact(&self) -> Contact {
        self.contact.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where the page is, if it is there.
    #[must_use]
    pub fn page(&self) -> Option<String> {
        self.page.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says where the page is.
    pub fn set_page(&self, url: Option<String>) {
        *self.page.lock().unwrap_or_else(PoisonError::into_inner) = url;
    }

    /// A part of a streamed answer. Nobody may watch, and then it is dropped.
    pub fn give(&self, chunk: Chunk) {
        if self.connected.load(Ordering::Relaxed) {
            let _ = self.chunks.try_send(chunk);
        }
    }

    /// Registers a run; the answer says when it is to end.
    pub fn begin_run(&self, job: JobId) -> oneshot::Receiver<Halt> {
        let (halt, halted) = oneshot::channel();
        self.runs().insert(job, halt);
        halted
    }

    /// Whether a run goes on.
    #[must_use]
    pub fn is_running(&self) -> bool {
        !self.runs().is_empty()
    }

    /// The jobs that are with the runtime.
    #[must_use]
    pub fn at_work(&self) -> Vec<JobId> {
        self.runs().keys().copied().collect()
    }

    /// The run has ended.
    pub fn end_run(&self, job: JobId) {
        self.runs().remove(&job);
    }

    /// Ends a run, if there is one.
    pub fn halt(&self, job: JobId, why: Halt) {
        if let Some(halt) = self.runs().remove(&job) {
            // It ends by itself just now.
            let _ = halt.send(why);
        }
    }

    /// Ends all runs.
    pub fn halt_all(&self, why: Halt) {
        for (_, halt) in self.runs().drain() {
            let _ = halt.send(why);
        }
    }

    fn runs(&self) -> std::sync::MutexGuard<'_, HashMap<JobId, oneshot::Sender<Halt>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes a write's answer on; where its database has stopped, the Agent has to open the store again.
    ///
    /// # Errors
    /// The one given.
    pub fn written<T>(&self, answer: Result<T, WriteError>) -> Result<T, WriteError> {
        if let Err(WriteError::Closed { .. } | WriteError::Unknown { .. }) = &answer {
            let cause = answer.as_ref().err().map(ToString::to_string).unwrap_or_default();
            self.failed.send_replace(Some(cause.into()));
        }
        answer
    }

    /// Plans what is due and does the store's part of it; what is left for the Agent is in the plan. Blocks.
    ///
    /// # Errors
    /// Why it was not done, in words.
    pub fn rotate(&self, since: &[Trigger]) -> Result<Vec<Step>, String> {
        let reading = time::reading().map_err(|error| causes(&error))?;
        let steps = self.store.plan_rotation(since, &reading).map_err(|error| causes(&error))?;
        self.written(self.store.rotate(&steps, &reading)).map_err(|error| causes(&error))?;
        Ok(steps)
    }

    /// Waits until a database has stopped, and says why.
    pub async fn storage_failed(&self) -> Arc<str> {
        told(&self.failed).await
    }

    /// The network has said that another process is this node. Nothing is said to it any more.
    pub fn displace(&self, why: &str) {
        self.author.silence();
        self.displaced.send_if_modified(|held| {
            let first = held.is_none();
            if first {
                *held = Some(why.into());
            }
            first
        });
    }

    /// Waits until this start must not go on, and says why.
    pub async fn displaced(&self) -> Arc<str> {
        told(&self.displaced).await
    }

    /// Whether jobs wait for the network's word, because this volume is a restored copy.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        self.fenced.load(Ordering::Relaxed)
    }

    /// The network was asked: jobs are run and sent again.
    pub fn set_unfenced(&self) {
        self.fenced.store(false, Ordering::Relaxed);
        self.queued.notify_one();
        self.ended.notify_one();
    }

    /// Sets whether the node takes jobs.
    pub fn set_readiness(&self, readiness: Readiness) {
        let changed = self.readiness.send_if_modified(|held| {
            // Whoever stops does not begin again.
            let changes = *held != readiness && *held != Readiness::Stopping;
            if changes {
                *held = readiness;
            }
            changes
        });
        if changed {
            self.queued.notify_one();
        }
    }
}

/// Waits until something is said.
async fn told(said: &watch::Sender<Option<Arc<str>>>) -> Arc<str> {
    let mut said = said.subscribe();
    loop {
        if let Some(what) = said.borrow_and_update().clone() {
            return what;
        }
        if said.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
