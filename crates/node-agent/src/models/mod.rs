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
    io,
    ops::ControlFlow,
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use node_store::{
    models::{Measurement, ModelRow, ModelsError, Scrubbed, Standing},
    store::Store,
};
use node_types::{
    Digest,
    config::{Model, NodeConfig, PIECE_BYTES, Runtime},
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

pub use install::{
    Doing, Hope, InstallError, Installer, Noted, Progress, SPARE_BYTES, artifact, distinct, note,
};

use crate::{
    artifacts, backoff,
    fetch::FetchError,
    journal::{Journal, causes},
    node::{Node, Shelf},
    time,
};

/// Between two looks at all seals: 1 second.
pub const EVERY: Duration = Duration::from_secs(1);
/// Between two lines in the log about an installation that goes on: 10 seconds.
const SAY_EVERY: Duration = Duration::from_secs(10);
/// A scrub that waits for the node to be idle waits at most so many times its pace.
const SCRUB_PATIENCE: u32 = 10;
/// How often in a row a source may give what is wrong before the model counts as one that cannot be had.
const DOUBTS_MAX: u32 = 3;
/// Between two looks at the stamps of the runtime's program and environment: 1 minute.
const STAMPS_EVERY: Duration = Duration::from_secs(60);

/// Something that takes longer than a look.
enum Work {
    Installed(ModelRef, Result<(), InstallError>),
    Scrubbed(Digest, Result<Scrubbed, ModelsError>),
    Measured(Digest, Result<Measurement, ModelsError>),
    Own(Result<(), InstallError>),
}

/// How an installation that failed is tried again.
struct Failed {
    why: String,
    times: u32,
    again: Instant,
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
    next_scrub: Instant,
    /// What the runtime's files looked like when they were read last.
    stamps: BTreeMap<ArtifactId, Digest>,
    next_stamps: Instant,
    /// Which of them is not what the snapshot approves.
    runtime: BTreeMap<ArtifactId, String>,
    /// The configuration that was noted.
    renoted: Option<Digest>,
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
            next_scrub: Instant::now(),
            stamps: BTreeMap::new(),
            next_stamps: Instant::now(),
            runtime: BTreeMap::new(),
            renoted: None,
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
            self.stamps.clear();
            self.runtime.clear();
            self.next_stamps = Instant::now();
            self.due.insert(artifacts::agent(Some(config)));
        }
        if self.renoted != Some(digest) {
            self.renoted = Some(digest);
            self.configuration(digest).await;
        }
        self.due.append(&mut *self.node.due.lock().unwrap_or_else(PoisonError::into_inner));
        self.look_at_runtime(config).await;
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
        self.begin(config);
        self.tidy(&current.config).await;
    }

    /// How each file that is installed stands.
    async fn standings(&self) -> Result<BTreeMap<Digest, Standing>, ModelsError> {
        let store = Arc::clone(&self.node.store);
        blocking(move || Ok(store.models().view().stand_all()?.into_iter().collect())).await
    }

    /// What may be used now. A model that may not be is to be installed.
    fn shelf(&mut self, digest: Digest, config: &NodeConfig, held: &BTreeMap<Digest, Standing>) -> Shelf {
        let runtime = self.runtime.values().next().cloned();
        let mut shelf = Shelf { config: Some(digest), runtime, ..Shelf::default() };
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
            let usable = match standing {
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
        let before = node.shelf.send_replace(shelf.clone());
        if before == *shelf {
            return;
        }
        if shelf.ready.is_empty() && !before.ready.is_empty() && before.config == shelf.config {
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
                Standing::Sealed | Standing::Untrusted(_) | Standing::Missing | Standing::Unknown => None,
            });
            let standing = if untested.is_some() || failed.is_some_and(|failed| failed.for_good) {
                plan::Condition::Failed
            } else if shelf.ready.contains(&reference) {
                if tested { plan::Condition::Tested } else { plan::Condition::Untested }
            } else if broken.is_some() {
                plan::Condition::Broken
            } else {
                plan::Condition::Incomplete
            };
            let reason = untested.map(|(_, why)| why).or_else(|| failed.map(|failed| failed.why.clone()));
            let reason = reason.or(broken);
            self.keep_state(model, plan::state(standing), reason).await;
        }
    }

    async fn keep_state(&mut self, model: &Model, state: ModelState, reason: Option<String>) {
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
        if was.is_none_or(|(was, _)| was != state) {
            let level = if state == ModelState::Failed { Level::Error } else { Level::Info };
            let because = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
            let fields = [("model", json!(reference.to_string())), ("state", json!(state.name()))];
            let text = format!("model {reference} is {state}{because}");
            self.node.journal.measured(level, Kind::Model, None, text, fields);
        }
    }

    /// Starts what is to be done next, one thing at a time: what is needed first, then the scrub.
    fn begin(&mut self, config: &NodeConfig) {
        if !self.work.is_empty() {
            return;
        }
        let now = Instant::now();
        let due = |reference: &ModelRef| self.failed.get(reference).is_none_or(|failed| failed.again <= now);
        let next = config.models.iter().find(|model| {
            let reference = model.reference();
            self.unpassed.contains(&reference) && due(&reference)
        });
        if let Some(model) = next {
            let (model, installer, progress) =
                (model.clone(), Arc::clone(&self.installer), self.progress.clone());
            self.installing = Some(model.reference());
            self.work.spawn(async move {
                let installed = installer.install(&model, &progress).await;
                Work::Installed(model.reference(), installed)
            });
            return;
        }
        if let Some(id) = self.due.pop_first() {
            self.measure(id, config);
            return;
        }
        self.scrub(config, now);
    }

    /// Reads an artifact again that is due.
    fn measure(&mut self, id: ArtifactId, config: &NodeConfig) {
        match id.kind {
            ArtifactKind::ModelFile => {
                let files =
                    config.models.iter().flat_map(|model| model.files.iter().map(move |file| (model, file)));
                let mut named = files.filter(|(model, file)| artifact(model, file) == id);
                let Some((_, file)) = named.next().filter(|_| brings_files(config)) else { return };
                let (sha256, store) = (file.sha256, Arc::clone(&self.node.store));
                let Ok(now) = time::now(&store) else { return };
                self.work.spawn(async move {
                    let read =
                        move || store.models().measure(sha256, now, &mut |_| ControlFlow::Continue(()));
                    Work::Measured(sha256, blocking(read).await)
                });
            }
            // A release for another platform is not here.
            ArtifactKind::Agent if id != artifacts::agent(Some(config)) => {}
            ArtifactKind::Agent => {
                let (store, journal) = (Arc::clone(&self.node.store), self.node.journal.clone());
                self.work.spawn(async move { Work::Own(own_program(&store, &journal, id).await) });
            }
            // Read again at the next look.
            ArtifactKind::RuntimeBinary | ArtifactKind::RuntimeEnvironment => {
                self.stamps.remove(&id);
                self.next_stamps = Instant::now();
            }
            ArtifactKind::Configuration => self.renoted = None,
            // The engine asks whoever keeps containers.
            ArtifactKind::RuntimeImage => {
                self.node.recheck.store(true, Ordering::Relaxed);
                self.node.follow.notify_one();
            }
        }
    }

    /// The configuration that is in force was verified when the store was opened or when it was applied.
    async fn configuration(&self, digest: Digest) {
        let id = ArtifactId { kind: ArtifactKind::Configuration, name: "node_config".to_owned() };
        let (node, noted) = (&self.node, Noted::right(digest, true));
        if let Err(error) = note(&node.store, &node.journal, id, noted).await {
            node.journal.failed(Level::Error, Kind::Configuration, "cannot note the configuration", &error);
        }
    }

    /// Reads the runtime's program and environment where they may have changed: their stamps are looked at once a minute.
    async fn look_at_runtime(&mut self, config: &NodeConfig) {
        if Instant::now() < self.next_stamps {
            return;
        }
        self.next_stamps = Instant::now() + STAMPS_EVERY;
        for named in artifacts::named(config, &self.node.settings.runtime) {
            let (id, asked) = (named.id.clone(), named.clone());
            // What is not there has no stamp; reading it says so.
            let stamp = reading(move || asked.stamp()).await.ok();
            if stamp.is_some() && self.stamps.get(&id).copied() == stamp {
                continue;
            }
            let asked = named.clone();
            let found = match reading(move || asked.measure()).await {
                Ok(found) => found,
                Err(error) => {
                    let what = format!("cannot read {}", named.path.display());
                    self.node.journal.failed(Level::Error, Kind::Runtime, &what, &error);
                    continue;
                }
            };
            match stamp {
                Some(stamp) => self.stamps.insert(id.clone(), stamp),
                None => self.stamps.remove(&id),
            };
            let right = found == Measured::Present(named.expected);
            if right {
                self.runtime.remove(&id);
            } else {
                let is = match found {
                    Measured::Present(digest) => format!("is {digest}"),
                    Measured::Absent => "is missing".to_owned(),
                };
                let path = named.path.display();
                self.runtime
                    .insert(id.clone(), format!("{path} {is}, the snapshot approves {}", named.expected));
            }
            let noted = if right { Noted::right(named.expected, true) } else { Noted::other(found) };
            if let Err(error) = note(&self.node.store, &self.node.journal, id, noted).await {
                self.node.journal.failed(Level::Error, Kind::Runtime, "cannot note what was read", &error);
            }
        }
    }

    /// Reads the next piece again, if it is time and nobody is disturbed by it.
    fn scrub(&mut self, config: &NodeConfig, now: Instant) {
        if now < self.next_scrub || !brings_files(config) {
            return;
        }
        let period = Duration::from_millis(self.node.settings.models.scrub_ms);
        let (Ok(files), Ok(at)) = (self.node.store.models().view().files(), time::now(&self.node.store))
        else {
            return;
        };
        let pieces: u64 = files.iter().map(|file| file.bytes.div_ceil(PIECE_BYTES)).sum();
        let pace = plan::pace(period, pieces);
        let late = now >= self.next_scrub + pace * SCRUB_PATIENCE;
        if self.node.is_running() && !late {
            return;
        }
        let Some(sha256) = plan::next_scrub(&files, period, at) else {
            self.next_scrub = now + pace;
            return;
        };
        self.next_scrub = now + pace;
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
            Work::Installed(reference, Ok(())) => {
                self.installing = None;
                self.failed.remove(&reference);
                self.unpassed.remove(&reference);
                // A file may be another one now, also where the shelf looks the same.
                self.node.follow.notify_one();
            }
            Work::Installed(reference, Err(error)) => {
                self.installing = None;
                self.node.flush.notify_one();
                self.install_failed(reference, &error);
            }
            Work::Scrubbed(sha256, Ok(Scrubbed::Damaged { piece })) => {
                let fields = [("file", json!(sha256.hex())), ("piece", json!(piece))];
                let text = "a piece of a model's file has changed on the disk though its seal holds";
                self.node.journal.measured(Level::Error, Kind::Model, None, text, fields);
            }
            Work::Measured(sha256, Ok(Measurement::Same)) => self.note_read(sha256).await,
            // The next look sees how it stands now.
            Work::Measured(
                _,
                Ok(Measurement::Differs { .. } | Measurement::Missing | Measurement::Stopped),
            )
            | Work::Own(Ok(())) => {}
            Work::Measured(_, Err(error)) => {
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
            Work::Scrubbed(_, Ok(Scrubbed::Good { done: false } | Scrubbed::Missing)) => {}
            Work::Scrubbed(_, Err(error)) => {
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
        let times = self.failed.get(&reference).map_or(1, |failed| failed.times.saturating_add(1));
        let for_good = match error.hope() {
            Hope::Wait => false,
            Hope::Doubt => times >= DOUBTS_MAX,
            Hope::None => true,
        };
        // What nobody here can mend is tried again when the network is looked at again: it may have mended it.
        let wait = if for_good || matches!(error, InstallError::OtherContent { .. }) {
            Duration::from_millis(sync)
        } else {
            backoff::wait(times, min, max, backoff::random())
        };
        if times.is_power_of_two() {
            self.node.journal.note(
                Level::Warn,
                Kind::Model,
                format!("model {reference} is not installed: {why}"),
            );
        }
        self.failed.insert(reference, Failed { why, times, again: Instant::now() + wait, for_good });
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
        for row in rows {
            if config.model(&row.reference).is_some() {
                continue;
            }
            let steps = plan::unlisted(&row, config, now);
            if let Err(error) = self.put_away(&row, steps, now).await {
                let text = format!("cannot put model {} away", row.reference);
                self.node.journal.failed(Level::Warn, Kind::Model, &text, &error);
            }
        }
        let (store, ttl_ms) = (Arc::clone(&self.node.store), config.timings.partial_file_ttl_ms);
        if self.work.is_empty()
            && let Err(error) = blocking(move || store.models().prune(ttl_ms, now)).await
        {
            self.node.journal.failed(Level::Warn, Kind::Model, "cannot remove unfinished downloads", &error);
        }
    }

    async fn put_away(
        &mut self,
        row: &ModelRow,
        step: plan::Unlisted,
        now: node_types::Timestamp,
    ) -> Result<(), InstallError> {
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
            Doing::Verifying => "verified",
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
/// [`InstallError`].
pub async fn remove(
    store: &Arc<Store>,
    row: &ModelRow,
    now: node_types::Timestamp,
) -> Result<(), InstallError> {
    store.models().forget(&row.reference).await?;
    for (path, sha256, _) in &row.files {
        let (asked, sha256) = (Arc::clone(store), *sha256);
        match blocking(move || asked.models().remove(sha256)).await {
            // Another model uses it too.
            Ok(()) | Err(ModelsError::Needed { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let id = ArtifactId { kind: ArtifactKind::ModelFile, name: format!("{}/{path}", row.reference) };
        store.inventory().remove(id, now).await?;
    }
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

/// Reads the Agent's own program; the first one of a version is the one that was installed.
async fn own_program(store: &Arc<Store>, journal: &Journal, id: ArtifactId) -> Result<(), InstallError> {
    let found = reading(artifacts::own_program).await;
    let found = found.map_err(|source| InstallError::Room { folder: "/proc/self/exe".to_owned(), source })?;
    let known = store.inventory().view().list()?.iter().any(|it| it.id == id && it.facts.recorded.is_some());
    let installed = match found {
        Measured::Present(digest) => (!known).then_some(digest),
        Measured::Absent => None,
    };
    note(store, journal, id, Noted { installed, found, read: true }).await
}

/// Reads what is no model's beside the others.
async fn reading<T: Send + 'static>(call: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    match tokio::task::spawn_blocking(call).await {
        Ok(answer) => answer,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Runs what waits for the disk beside the others.
async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, ModelsError> + Send + 'static,
) -> Result<T, ModelsError> {
    match tokio::task::spawn_blocking(call).await {
        Ok(answer) => answer,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
