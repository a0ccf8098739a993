//! Models: the files of the snapshot's models are fetched, verified, watched and mended, and what dispatch and the engine
//! may use is published as the node's [`Shelf`].
//!
//! ```text
//! every second: seals ─► shelf ─► states
//!                 │
//!                 └─ not as it should be ─► install (measure, fetch, repair) ─► the runtime follows again
//! in between:   scrub, one piece at a time
//! ```
//!
//! A file whose seal is broken counts as not there until it was read: nothing new runs on it meanwhile. One whose seal
//! says nothing (a network file system) is used while it is read again in the background. For an external runtime
//! nothing is fetched: its operator brings what it runs.

mod install;
mod plan;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
    path::PathBuf,
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use node_store::{
    models::{HeldFile, Measurement, ModelRow, ModelsError, Scrubbed, Standing, Strangers},
    store::Store,
};
use node_types::{
    Digest,
    config::{Model, NodeConfig, Runtime},
    inventory::{ArtifactId, ArtifactKind, Measured},
    job::ModelRef,
    log::{Kind, Level},
    models::ModelState,
    protocol::Readiness,
};
use serde_json::json;
use tokio::{
    sync::watch,
    task::{JoinError, JoinSet},
    time::{Instant, sleep, sleep_until},
};

pub use install::{Doing, Hope, InstallError, Installer, Progress, SPARE_BYTES, artifact, distinct};

use crate::{
    artifacts, backoff,
    blocking::blocking,
    fetch::FetchError,
    inventory::{NoteError, Noted, note},
    journal::causes,
    node::{Node, Shelf},
    own::{self, Own, OwnError, RuntimeFiles, RuntimeRead},
    time,
};

/// Between two looks at all seals: 1 second.
pub const EVERY: Duration = Duration::from_secs(1);
/// Between two lines in the log about an installation that goes on: 10 seconds.
const SAY_EVERY: Duration = Duration::from_secs(10);
/// How long a file that could not be scrubbed is left alone: 1 minute.
const SCRUB_AGAIN: Duration = Duration::from_secs(60);
/// The first and the longest wait before a file that could not be sealed is read again, in milliseconds.
const SEAL_MS: (u64, u64) = (1000, 60_000);
/// How often in a row a source may give what is wrong before the model counts as one that cannot be had.
const DOUBTS_MAX: u32 = 3;
/// Something that takes longer than a look.
enum Work {
    /// Under this snapshot.
    Installed(Digest, ModelRef, Result<(), InstallError>),
    Scrubbed(Digest, Result<Scrubbed, ModelsError>),
    Measured(Digest, Result<Measurement, ModelsError>),
    Own(Result<(), OwnError>),
    /// Under this snapshot.
    Runtime(Digest, RuntimeRead),
}

/// How an installation that failed is tried again.
struct Failed {
    why: String,
    times: u32,
    /// How often in a row a source gave what is wrong.
    doubts: u32,
    /// `None`: not under this snapshot.
    again: Option<Instant>,
    /// Nothing but a change will help.
    for_good: bool,
}

/// Keeps the models of the snapshot in force here.
pub struct Keeper {
    node: Arc<Node>,
    installer: Arc<Installer>,
    work: JoinSet<Work>,
    config: Option<Digest>,
    /// Models that an installation has not passed since the snapshot came into force or a file of them changed.
    unpassed: BTreeSet<ModelRef>,
    installing: Option<ModelRef>,
    failed: BTreeMap<ModelRef, Failed>,
    /// What each model was said to be last.
    states: BTreeMap<ModelRef, (ModelState, Option<String>)>,
    /// Files that could not be scrubbed, and until when they are left alone.
    unscrubbed: BTreeMap<Digest, Instant>,
    /// Files without a seal: when they are read again, and how often they were.
    unsealed: BTreeMap<Digest, (Instant, u32)>,
    untidy: u32,
    /// Files that are not the node's, and were told of.
    strangers: BTreeSet<PathBuf>,
    runtime: RuntimeFiles,
    own: Own,
    /// Artifacts to be read again.
    due: BTreeSet<ArtifactId>,
    progress: watch::Sender<Progress>,
}

impl Keeper {
    /// A keeper that has not looked yet.
    ///
    /// # Errors
    /// [`FetchError`] where no connection can be made at all.
    pub fn new(node: Arc<Node>) -> Result<Self, FetchError> {
        let installer = Installer::new(Arc::clone(&node.store), &node.settings.models)?;
        Ok(Self {
            installer: Arc::new(installer),
            work: JoinSet::new(),
            config: None,
            unpassed: BTreeSet::new(),
            installing: None,
            failed: BTreeMap::new(),
            states: BTreeMap::new(),
            unscrubbed: BTreeMap::new(),
            unsealed: BTreeMap::new(),
            untidy: 1,
            strangers: BTreeSet::new(),
            runtime: RuntimeFiles::default(),
            own: Own::default(),
            due: BTreeSet::new(),
            progress: watch::Sender::new(Progress::default()),
            node,
        })
    }

    /// Looks every second, and does what is to be done, until `stop`.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut progress = self.progress.subscribe();
        let (mut say, mut said) = (Instant::now() + SAY_EVERY, (Instant::now(), 0));
        while !*stop.borrow() {
            if self.installing.is_none() {
                // What is installed next is told from its beginning on.
                (say, said) = (Instant::now() + SAY_EVERY, (Instant::now(), 0));
            }
            self.look().await;
            tokio::select! {
                Some(done) = self.work.join_next() => self.done(done).await,
                () = self.node.install.notified() => {}
                () = sleep(EVERY) => {}
                () = sleep_until(say), if self.installing.is_some() => {
                    let now = progress.borrow_and_update().clone();
                    self.say(&now, &mut said);
                    say = Instant::now() + SAY_EVERY;
                }
                _ = stop.changed() => {}
            }
        }
        // What it fetched until now stays; what it reads ends at its next step.
        self.work.shutdown().await;
    }

    /// One look: judge, publish, and start what is to be done.
    async fn look(&mut self) {
        let Some(current) = self.node.store.snapshots().current() else { return };
        let digest = current.config.digest();
        let config = current.config.document();
        if self.config != Some(digest) {
            self.config = Some(digest);
            self.failed.clear();
            self.unpassed = config.models.iter().map(Model::reference).collect();
            self.work.abort_all();
            self.installing = None;
            self.runtime = RuntimeFiles::default();
            self.due.insert(artifacts::agent(Some(config)));
        }
        if self.own.look(&self.node, digest).await {
            self.due.insert(artifacts::agent(Some(config)));
        }
        self.due.append(&mut *self.node.due.lock().unwrap_or_else(PoisonError::into_inner));
        let held = match self.standings().await {
            Ok(held) => held,
            Err(error) => {
                self.node.journal.failed(Level::Error, Kind::Model, "cannot look at the models", &error);
                return;
            }
        };
        let shelf = self.shelf(digest, config, &held);
        self.publish(&shelf);
        self.keep_states(config, &held).await;
        self.begin(digest, config, &held);
        self.tidy(&current.config).await;
    }

    /// How each file that is installed stands.
    async fn standings(&self) -> Result<BTreeMap<Digest, Standing>, ModelsError> {
        let store = Arc::clone(&self.node.store);
        blocking(move || Ok(store.models().view().stand_all()?.into_iter().collect())).await
    }

    /// What may be used now. A model that may not be is to be installed.
    fn shelf(&mut self, digest: Digest, config: &NodeConfig, held: &BTreeMap<Digest, Standing>) -> Shelf {
        let runtime = self.runtime.wrong().map(str::to_owned);
        // Nothing is started before the runtime's own files were read.
        let known =
            self.runtime.are_known() || artifacts::named(config, &self.node.settings.runtime).is_empty();
        let mut shelf = Shelf { config: known.then_some(digest), runtime, ..Shelf::default() };
        for model in &config.models {
            let reference = model.reference();
            if !brings_files(config) {
                self.unpassed.remove(&reference);
                shelf.ready.insert(reference);
                continue;
            }
            let standing = plan::stands(distinct(model).into_iter().map(|file| held.get(&file.sha256)));
            if standing == plan::Stands::Not {
                self.unpassed.insert(reference.clone());
            }
            // An installation has to pass once under each snapshot: it asks more than whether the files are here.
            let usable = !self.unpassed.contains(&reference)
                && match standing {
                    plan::Stands::Sealed => true,
                    // Whoever was verified once is used while it is read again.
                    plan::Stands::Unsealed => true,
                    plan::Stands::Not => false,
                };
            if let Some(failed) = self.failed.get(&reference).filter(|failed| failed.for_good) {
                shelf.failed.insert(reference, failed.why.clone());
            } else if usable {
                shelf.ready.insert(reference);
            }
        }
        shelf
    }

    /// Tells the others where something changed.
    fn publish(&self, shelf: &Shelf) {
        let node = &self.node;
        let mut emptied = false;
        let changed = node.shelf.send_if_modified(|held| {
            let changes = held != shelf;
            if changes {
                emptied = shelf.ready.is_empty() && !held.ready.is_empty() && held.config == shelf.config;
                held.clone_from(shelf);
            }
            changes
        });
        if !changed {
            return;
        }
        if emptied {
            node.set_readiness(Readiness::Installing);
        }
        node.queued.notify_one();
        node.follow.notify_one();
    }

    async fn keep_states(&mut self, config: &NodeConfig, held: &BTreeMap<Digest, Standing>) {
        let shelf = self.node.shelf.borrow().clone();
        let tested = *self.node.approved.borrow() == self.config;
        for model in &config.models {
            let reference = model.reference();
            let untested = self.node.untested().filter(|(model, _)| *model == reference);
            let failed = self.failed.get(&reference);
            let files = if brings_files(config) { distinct(model) } else { Vec::new() };
            let broken = files.into_iter().find_map(|file| match held.get(&file.sha256)? {
                Standing::Broken(why) => Some(format!("{}: {why}", file.path)),
                Standing::Sealed | Standing::Untrusted { .. } | Standing::Missing | Standing::Unknown => None,
            });
            let standing = if untested.is_some() || failed.is_some_and(|failed| failed.for_good) {
                plan::Condition::Failed
            } else if shelf.ready.contains(&reference) {
                if tested { plan::Condition::Tested } else { plan::Condition::Untested }
            } else if broken.is_some() {
                plan::Condition::Broken
            } else if brings_files(config)
                && plan::stands(distinct(model).into_iter().map(|file| held.get(&file.sha256)))
                    != plan::Stands::Not
            {
                plan::Condition::Untested
            } else {
                plan::Condition::Incomplete
            };
            // Whoever tried it has said so.
            let told = untested.is_some();
            let reason = untested.map(|(_, why)| why).or_else(|| failed.map(|failed| failed.why.clone()));
            let reason = reason.or(broken);
            self.keep_state(model, plan::state(standing), reason, told).await;
        }
    }

    /// `told`: it stands in the log already.
    async fn keep_state(&mut self, model: &Model, state: ModelState, reason: Option<String>, told: bool) {
        let reference = model.reference();
        let said = (state, reason.clone());
        if self.states.get(&reference) == Some(&said) {
            return;
        }
        let Ok(now) = time::now(&self.node.store) else { return };
        let kept =
            self.node.store.models().set_state(&reference, files_of(model), state, reason.clone(), now).await;
        if let Err(error) = self.node.written(kept) {
            self.node.journal.failed(Level::Error, Kind::Model, "cannot keep a model's state", &error);
            return;
        }
        let was = self.states.insert(reference.clone(), said);
        if !told && was.is_none_or(|(was, _)| was != state) {
            let level = if state == ModelState::Failed { Level::Error } else { Level::Info };
            let because = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
            let fields = [("model", json!(reference.to_string())), ("state", json!(state.name()))];
            let text = format!("model {reference} is {state}{because}");
            self.node.journal.measured(level, Kind::Model, None, text, fields);
        }
    }

    /// Starts what is to be done next, one thing at a time: what is needed first, then what is due, then the scrub.
    fn begin(&mut self, digest: Digest, config: &NodeConfig, held: &BTreeMap<Digest, Standing>) {
        let now = Instant::now();
        if self.work.is_empty() && self.runtime.are_due(now) {
            let read = self.runtime.read(artifacts::named(config, &self.node.settings.runtime));
            self.work.spawn(async move { Work::Runtime(digest, read.await) });
        }
        if self.work.is_empty() {
            self.install(digest, config, now);
        }
        if self.work.is_empty() {
            self.seal(config, held, now);
        }
        if self.work.is_empty() {
            self.look_after_unlisted(config, held, now);
        }
        while self.work.is_empty()
            && let Some(id) = self.due.pop_first()
        {
            self.measure(id, config, held);
        }
        if self.work.is_empty() {
            self.scrub(held, now);
        }
    }

    fn install(&mut self, digest: Digest, config: &NodeConfig, now: Instant) {
        let due = |reference: &ModelRef| {
            self.failed.get(reference).is_none_or(|failed| failed.again.is_some_and(|again| again <= now))
        };
        let next = config.models.iter().find(|model| {
            let reference = model.reference();
            self.unpassed.contains(&reference) && due(&reference)
        });
        let Some(model) = next.cloned() else { return };
        let (installer, progress) = (Arc::clone(&self.installer), self.progress.clone());
        self.installing = Some(model.reference());
        self.work.spawn(async move {
            let installed = installer.install(&model, &progress).await;
            Work::Installed(digest, model.reference(), installed)
        });
    }

    /// Reads a file again that has no seal: once a start where its file system has none, and else until it has one.
    fn seal(&mut self, config: &NodeConfig, held: &BTreeMap<Digest, Standing>, now: Instant) {
        self.unsealed.retain(|file, _| held.contains_key(file));
        for file in listed(config) {
            let Some(Standing::Untrusted { again, .. }) = held.get(&file) else { continue };
            let (next, times) = self.unsealed.entry(file).or_insert((now, 0));
            // What was read once on a file system that seals nothing is left to the scrub.
            if *next > now || (*times > 0 && !again) {
                continue;
            }
            *times = times.saturating_add(1);
            *next = now + backoff::wait(*times, SEAL_MS.0, SEAL_MS.1, backoff::random());
            self.read_again(file);
            return;
        }
    }

    /// Reads a file again that no listed model has, where it was written since: a snapshot may list its model again.
    fn look_after_unlisted(&mut self, config: &NodeConfig, held: &BTreeMap<Digest, Standing>, now: Instant) {
        let listed: BTreeSet<Digest> = listed(config).collect();
        let waits = |file: &Digest| self.unscrubbed.get(file).is_some_and(|until| *until > now);
        let broken = held.iter().find(|(file, standing)| {
            matches!(standing, Standing::Broken(_)) && !listed.contains(file) && !waits(file)
        });
        if let Some((file, _)) = broken {
            self.read_again(*file);
        }
    }

    /// Puts a file aside that is not what was verified and that no listed model has: nobody says where it could be fetched. One
    /// that is listed is being repaired.
    async fn put_aside(&mut self, sha256: Digest, found: Option<Digest>) -> Result<(), InstallError> {
        let node = Arc::clone(&self.node);
        let current = node.store.snapshots().current();
        if current.is_some_and(|current| listed(current.config.document()).any(|file| file == sha256)) {
            return Ok(());
        }
        let now = time::now(&node.store).map_err(NoteError::from)?;
        let rows = node.store.models().view().models().map_err(ModelsError::from)?;
        let files = rows.iter().flat_map(|row| row.files.iter().map(move |file| (&row.reference, file)));
        let same = files.filter(|(_, (_, file, _))| *file == sha256);
        let ids: Vec<_> = same
            .map(|(model, (path, ..))| ArtifactId {
                kind: ArtifactKind::ModelFile,
                name: format!("{model}/{path}"),
            })
            .collect();
        for id in &ids {
            let noted = Noted::other(found.map_or(Measured::Absent, Measured::Present));
            note(&node.store, &node.journal, id.clone(), noted).await?;
        }
        let store = Arc::clone(&node.store);
        let aside = blocking(move || store.models().quarantine(sha256, now)).await?;
        for id in ids {
            node.store.inventory().remove(id, now).await.map_err(NoteError::from)?;
        }
        let text = format!("a file of a model that is not listed has changed: it is in {}", aside.display());
        node.journal.note(Level::Warn, Kind::Model, text);
        Ok(())
    }

    /// Reads an artifact again that is due.
    fn measure(&mut self, id: ArtifactId, config: &NodeConfig, held: &BTreeMap<Digest, Standing>) {
        match id.kind {
            ArtifactKind::ModelFile => {
                let files =
                    config.models.iter().flat_map(|model| model.files.iter().map(move |file| (model, file)));
                let mut named = files.filter(|(model, file)| artifact(model, file) == id);
                let Some((_, file)) = named.next().filter(|_| brings_files(config)) else { return };
                match held.get(&file.sha256) {
                    // The scrub reads it within its period, and notes that.
                    Some(Standing::Sealed) => {}
                    Some(Standing::Untrusted { .. }) => self.read_again(file.sha256),
                    // It is being installed.
                    Some(Standing::Broken(_) | Standing::Missing | Standing::Unknown) | None => {}
                }
            }
            // A release for another platform is not here.
            ArtifactKind::Agent if id != artifacts::agent(Some(config)) => {}
            ArtifactKind::Agent => {
                let (store, journal) = (Arc::clone(&self.node.store), self.node.journal.clone());
                let place = self.own.place().clone();
                self.work.spawn(async move { Work::Own(own::program(&store, &journal, id, place).await) });
            }
            // Read again at the next look.
            ArtifactKind::RuntimeBinary | ArtifactKind::RuntimeEnvironment => {
                self.runtime.read_again(&id);
            }
            ArtifactKind::Configuration => self.own.read_again(),
            // The engine asks whoever keeps containers, once it has one.
            ArtifactKind::RuntimeImage if *self.node.approved.borrow() != self.config => {}
            ArtifactKind::RuntimeImage => {
                self.node.recheck.store(true, Ordering::Relaxed);
                self.node.follow.notify_one();
            }
        }
    }

    /// Reads a file again, from its first byte to its last.
    fn read_again(&mut self, sha256: Digest) {
        let store = Arc::clone(&self.node.store);
        let Ok(now) = time::now(&store) else { return };
        self.work.spawn(async move {
            let (_waiting, gone) = waiting();
            let read = move || store.models().measure(sha256, now, &mut |_| gone());
            Work::Measured(sha256, blocking(read).await)
        });
    }

    /// Reads the next piece again, if it is time and nobody is disturbed by it.
    fn scrub(&mut self, held: &BTreeMap<Digest, Standing>, now: Instant) {
        self.unscrubbed.retain(|_, until| *until > now);
        let (Ok(files), Ok(at)) = (self.node.store.models().view().files(), time::now(&self.node.store))
        else {
            return;
        };
        let sound = |file: &&HeldFile| {
            let stands =
                matches!(held.get(&file.sha256), Some(Standing::Sealed | Standing::Untrusted { .. }));
            stands && !self.unscrubbed.contains_key(&file.sha256)
        };
        let (period_ms, busy) = (self.node.settings.models.scrub_ms, self.node.is_running());
        let Some(sha256) = plan::next_scrub(files.iter().filter(sound), period_ms, busy, at) else { return };
        let store = Arc::clone(&self.node.store);
        self.work.spawn(async move {
            Work::Scrubbed(sha256, blocking(move || store.models().scrub_piece(sha256, at)).await)
        });
    }

    /// Takes note of what was done.
    async fn done(&mut self, done: Result<Work, JoinError>) {
        let work = match done {
            Ok(work) => work,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // Another snapshot came.
            Err(_) => return,
        };
        match work {
            // Of an earlier snapshot: whatever it says is not about this one.
            Work::Installed(config, ..) | Work::Runtime(config, ..) if Some(config) != self.config => {}
            Work::Runtime(_, read) => self.runtime.note(&self.node, read).await,
            Work::Installed(_, reference, Ok(())) => {
                self.installing = None;
                self.failed.remove(&reference);
                self.unpassed.remove(&reference);
                // A file may be another one now, also where the shelf looks the same.
                self.node.follow.notify_one();
            }
            Work::Installed(_, reference, Err(error)) => {
                self.installing = None;
                self.node.flush.notify_one();
                self.install_failed(reference, &error);
            }
            Work::Scrubbed(sha256, Ok(Scrubbed::Damaged { piece })) => {
                let fields = [("file", json!(sha256.hex())), ("piece", json!(piece))];
                let text = "a piece of a model's file has changed on the disk though its seal holds";
                self.node.journal.measured(Level::Error, Kind::Model, None, text, fields);
            }
            Work::Measured(sha256, Ok(Measurement::Same)) => {
                self.note_read(sha256).await;
                // It may have another stamp now, also where the shelf looks the same.
                self.node.follow.notify_one();
            }
            Work::Measured(sha256, Ok(Measurement::Differs { found, .. })) => {
                if let Err(error) = self.put_aside(sha256, found).await {
                    self.unscrubbed.insert(sha256, Instant::now() + SCRUB_AGAIN);
                    let text = "cannot put a changed file of a model aside";
                    self.node.journal.failed(Level::Error, Kind::Model, text, &error);
                }
            }
            // The next look sees how it stands now.
            Work::Measured(_, Ok(Measurement::Missing | Measurement::Stopped)) | Work::Own(Ok(())) => {}
            Work::Measured(sha256, Err(error)) => {
                self.unscrubbed.insert(sha256, Instant::now() + SCRUB_AGAIN);
                self.node.journal.failed(
                    Level::Error,
                    Kind::Model,
                    "cannot read a model's file again",
                    &error,
                );
            }
            Work::Own(Err(error)) => {
                self.node.journal.failed(
                    Level::Error,
                    Kind::Agent,
                    "cannot read the Agent's own program",
                    &error,
                );
            }
            Work::Scrubbed(sha256, Ok(Scrubbed::Good { done: true })) => self.note_read(sha256).await,
            Work::Scrubbed(_, Ok(Scrubbed::Good { done: false })) => {}
            Work::Scrubbed(sha256, Ok(Scrubbed::Missing)) => {
                self.unscrubbed.insert(sha256, Instant::now() + SCRUB_AGAIN);
            }
            Work::Scrubbed(sha256, Err(error)) => {
                self.unscrubbed.insert(sha256, Instant::now() + SCRUB_AGAIN);
                self.node.journal.failed(
                    Level::Error,
                    Kind::Model,
                    "cannot read a model's file again",
                    &error,
                );
            }
        }
    }

    /// Notes that all of a file was read and is what it should be, for each artifact that it is.
    async fn note_read(&self, sha256: Digest) {
        let Some(current) = self.node.store.snapshots().current() else { return };
        let mut ids = Vec::new();
        for model in &current.config.document().models {
            let same = model.files.iter().filter(|file| file.sha256 == sha256);
            ids.extend(same.map(|file| artifact(model, file)));
        }
        let node = &self.node;
        for id in ids {
            if let Err(error) = note(&node.store, &node.journal, id, Noted::right(sha256, true)).await {
                node.journal.failed(Level::Error, Kind::Model, "cannot note what was read", &error);
            }
        }
    }

    fn install_failed(&mut self, reference: ModelRef, error: &InstallError) {
        let why = causes(error);
        let timings =
            self.node.store.snapshots().current().map(|current| current.config.document().timings.clone());
        let (min, max, sync) =
            timings.map_or((500, 30_000, 30_000), |it| (it.retry_ms_min, it.retry_ms_max, it.sync_ms));
        let (times, doubts) =
            self.failed.get(&reference).map_or((0, 0), |failed| (failed.times, failed.doubts));
        let times = times.saturating_add(1);
        let (doubts, for_good) = match error.hope() {
            Hope::Wait => (0, false),
            Hope::Doubt => (doubts + 1, doubts + 1 >= DOUBTS_MAX),
            Hope::None | Hope::Never => (doubts, true),
        };
        let wait = match error.hope() {
            Hope::Wait => Some(backoff::wait(times, min, max, backoff::random())),
            // What nobody here can mend is tried again when the network is looked at again: it may have mended it.
            Hope::Doubt | Hope::None => Some(Duration::from_millis(sync)),
            Hope::Never => None,
        };
        if times.is_power_of_two() {
            self.node.journal.note(
                Level::Warn,
                Kind::Model,
                format!("model {reference} is not installed: {why}"),
            );
        }
        self.failed.insert(
            reference,
            Failed { why, times, doubts, again: wait.map(|wait| Instant::now() + wait), for_good },
        );
    }

    /// Puts away what no snapshot lists any more, and what was never finished.
    async fn tidy(&mut self, current: &node_types::verify::Verified<NodeConfig>) {
        // While the runtime has not followed, the last good snapshot may come back, and runs may still be on its models.
        if *self.node.approved.borrow() != Some(current.digest()) {
            return;
        }
        let config = current.document();
        let (Ok(rows), Ok(now)) = (self.node.store.models().view().models(), time::now(&self.node.store))
        else {
            return;
        };
        let mut failed = false;
        for row in rows {
            if config.model(&row.reference).is_some() {
                continue;
            }
            let steps = plan::unlisted(&row, config, now);
            if let Err(error) = self.put_away(&row, steps, now).await {
                failed = true;
                if self.untidy.is_power_of_two() {
                    let text = format!("cannot put model {} away", row.reference);
                    self.node.journal.failed(Level::Warn, Kind::Model, &text, &error);
                }
            }
        }
        let (store, ttl_ms) = (Arc::clone(&self.node.store), config.timings.partial_file_ttl_ms);
        if self.work.is_empty() {
            let pruned = blocking(move || {
                store.models().prune(ttl_ms, now, Strangers::Stay)?;
                store.models().view().strangers()
            });
            match pruned.await {
                Ok(strangers) => self.tell(strangers.into_iter().map(|stranger| stranger.path).collect()),
                Err(error) => {
                    failed = true;
                    if self.untidy.is_power_of_two() {
                        let what = "cannot remove unfinished downloads";
                        self.node.journal.failed(Level::Warn, Kind::Model, what, &error);
                    }
                }
            }
        }
        self.untidy = if failed { self.untidy.saturating_add(1) } else { 1 };
    }

    /// Tells once of files that are not the node's: they stay.
    fn tell(&mut self, strangers: BTreeSet<PathBuf>) {
        if let Some(text) = plan::told_of(strangers.difference(&self.strangers)) {
            self.node.journal.note(Level::Warn, Kind::Model, text);
        }
        self.strangers = strangers;
    }

    async fn put_away(
        &mut self,
        row: &ModelRow,
        step: plan::Unlisted,
        now: node_types::Timestamp,
    ) -> Result<(), ModelsError> {
        match step {
            plan::Unlisted::Keep => Ok(()),
            plan::Unlisted::Archive => {
                self.states.remove(&row.reference);
                let (files, archived) = (row.files.clone(), ModelState::Archived);
                let models = self.node.store.models();
                models.set_state(&row.reference, files, archived, row.reason.clone(), now).await?;
                let text =
                    format!("model {} is archived: the snapshot does not list it any more", row.reference);
                self.node.journal.note(Level::Info, Kind::Model, text);
                Ok(())
            }
            plan::Unlisted::Remove => {
                self.states.remove(&row.reference);
                remove(&self.node.store, row, now).await?;
                let text = format!("model {} is removed: no snapshot lists it", row.reference);
                self.node.journal.note(Level::Info, Kind::Model, text);
                Ok(())
            }
        }
    }

    /// Says how far an installation is.
    fn say(&self, now: &Progress, said: &mut (Instant, u64)) {
        let Some(model) = &self.installing else { return };
        let doing = match now.doing {
            Doing::Looking => return,
            Doing::Fetching => "fetched",
            Doing::Verifying => "hashed",
        };
        let seconds = said.0.elapsed().as_secs().max(1);
        let rate = now.done.saturating_sub(said.1) / seconds;
        *said = (Instant::now(), now.done);
        let fields = [
            ("model", json!(model.to_string())),
            ("done_bytes", json!(now.done)),
            ("bytes", json!(now.bytes)),
            ("bytes_per_second", json!(rate)),
        ];
        let text = format!("{}: {} of {} bytes {doing}", now.path, now.done, now.bytes);
        self.node.journal.measured(Level::Info, Kind::Model, None, text, fields);
    }
}

/// Removes a model that no snapshot lists: its row, and those of its files that no other model uses.
///
/// # Errors
/// [`ModelsError`].
pub async fn remove(
    store: &Arc<Store>,
    row: &ModelRow,
    now: node_types::Timestamp,
) -> Result<(), ModelsError> {
    if row.state != ModelState::Archived {
        let (models, archived) = (store.models(), ModelState::Archived);
        models.set_state(&row.reference, row.files.clone(), archived, row.reason.clone(), now).await?;
    }
    for (path, sha256, _) in &row.files {
        let (asked, sha256, but) = (Arc::clone(store), *sha256, row.reference.clone());
        match blocking(move || asked.models().remove(sha256, Some(&but))).await {
            // Another model uses it too.
            Ok(()) | Err(ModelsError::Needed { .. }) => {}
            Err(error) => return Err(error),
        }
        let id = ArtifactId { kind: ArtifactKind::ModelFile, name: format!("{}/{path}", row.reference) };
        store.inventory().remove(id, now).await?;
    }
    // Last: as long as it is known, what is left of it is removed at the next attempt.
    store.models().forget(&row.reference).await?;
    Ok(())
}

/// The files of a model, as they are kept with its state.
#[must_use]
pub fn files_of(model: &Model) -> Vec<(String, Digest, u64)> {
    model.files.iter().map(|file| (file.path.clone(), file.sha256, file.bytes)).collect()
}

/// Whether the snapshot's runtime runs models that the node keeps.
#[must_use]
pub fn brings_files(config: &NodeConfig) -> bool {
    match &config.runtime {
        Runtime::External { .. } => false,
        Runtime::Process { .. } | Runtime::Container { .. } => true,
    }
}

/// Says whether somebody still waits: for as long as the first of the two is kept.
fn waiting() -> (watch::Sender<()>, impl Fn() -> ControlFlow<()> + Send + 'static) {
    let (waiting, seen) = watch::channel(());
    (
        waiting,
        move || if seen.has_changed().is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) },
    )
}

/// The files that a snapshot lists, for models that the node keeps.
fn listed(config: &NodeConfig) -> impl Iterator<Item = Digest> {
    let models = config.models.iter().filter(|_| brings_files(config));
    models.flat_map(|model| model.files.iter().map(|file| file.sha256))
}
