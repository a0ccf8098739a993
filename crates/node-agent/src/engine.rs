//! The engine: the one runtime that is active, started as the snapshot says, and its health check.
//!
//! Dispatch sees it through [`Engine::serving`]: there is something to see only after the snapshot in force passed
//! its health check, and only while the runtime answers.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use node_store::{
    models::{ModelsView, Standing},
    reader::ReadError,
    rotation::Trigger,
};
use node_types::{
    Digest, Timestamp,
    config::{Model, ModelFile, NodeConfig, Runtime},
    inventory::{ArtifactId, ArtifactKind},
    job::ModelRef,
    log::{Kind, Level},
    models::ModelState,
    protocol::Readiness,
    verify::Verified,
};
use serde_json::json;
use tokio::{
    sync::{broadcast, oneshot, watch},
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout},
};
use zeroize::Zeroizing;

use crate::{
    backoff,
    blocking::blocking,
    inventory::{Noted, note},
    journal::causes,
    models,
    node::Node,
    runtime::{
        ContainerError, ContainerPlan, Endpoint, ImageFacts, ModelsMount, Plan, ProcessPlan, State,
        Supervisor, Tuning, container, test_inference,
    },
    time,
};

/// How long a runtime may take until it answers: 2 minutes, for a large model from a slow disk.
pub const READY_LIMIT: Duration = Duration::from_secs(120);
/// Between two looks whether a runtime has come to the end of its runs.
const LOOK: Duration = Duration::from_millis(20);
/// How often a runtime may fall over while its health check waits for it.
const FALLS_MAX: u32 = 3;
/// How often in a row an image may not be had before its snapshot counts as one that does not run here.
const IMAGE_FAILURES_MAX: u32 = 5;

/// What serves now, if the snapshot in force passed its health check on it.
pub type Serving = watch::Receiver<Option<Served>>;

/// A runtime that answers, and the snapshot that it was tried under.
#[derive(Clone, Debug)]
pub struct Served {
    /// The snapshot.
    pub config: Digest,
    /// The runtime.
    pub endpoint: Arc<Endpoint>,
    /// The files that it has loaded.
    pub files: Arc<Loaded>,
}

/// Files of models as they were at some moment, by what the file system said of each when it was verified last: one that
/// was repaired or written since is another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loaded(BTreeMap<Digest, (Timestamp, Option<Digest>)>);

impl Loaded {
    /// As they are now.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn now(models: &ModelsView) -> Result<Self, ReadError> {
        let files = models.files()?.into_iter();
        Ok(Self(files.map(|file| (file.sha256, (file.installed_at, file.stamp))).collect()))
    }

    /// One digest of all.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let texts =
            self.0.iter().map(|(file, (installed, stamp))| format!("{file} {} {stamp:?}\n", installed.ms()));
        Digest::of(texts.collect::<String>().as_bytes())
    }

    /// One of them.
    #[must_use]
    pub fn of(&self, file: Digest) -> Option<(Timestamp, Option<Digest>)> {
        self.0.get(&file).copied()
    }
}

/// Why a snapshot's runtime does not serve.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unhealthy {
    /// The operator has to set something.
    #[error("{0}")]
    Settings(String),
    /// Files of models are not all here yet: nothing is wrong.
    #[error("the models are being installed")]
    Installing,
    /// A model cannot be had.
    #[error("model {model} cannot be installed: {cause}")]
    Model {
        /// Which.
        model: String,
        /// Why.
        cause: String,
    },
    /// A file of a model was written while the runtime was loading it.
    #[error("a file of {model} has changed while it was being loaded")]
    Changed {
        /// Which.
        model: String,
    },
    /// The store.
    #[error("{0}")]
    Store(String),
    /// It does not start, or does not answer.
    #[error("the runtime does not answer: {0}")]
    NotReady(String),
    /// It answers, and not as it should.
    #[error("the test inference with {model} failed: {cause}")]
    TestFailed {
        /// The model.
        model: String,
        /// Why.
        cause: String,
    },
}

/// What a runtime was started for: another one is started where this is another.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Key {
    runtime: Runtime,
    /// Files of models: one that was repaired has to be loaded again.
    files: Arc<Loaded>,
}

struct Active {
    key: Key,
    supervisor: Supervisor,
    watching: [JoinHandle<()>; 2],
}

/// An image on its way.
struct Obtaining {
    /// The snapshot that wants it.
    config: Digest,
    /// How often in a row it could not be had.
    failures: u32,
    obtained: oneshot::Receiver<Result<ImageFacts, ContainerError>>,
    /// Broken off where nobody waits for it any more.
    _work: JoinSet<()>,
}

/// The one runtime.
pub struct Engine {
    node: Arc<Node>,
    obtaining: Option<Obtaining>,
    active: Option<Active>,
    serving: Arc<watch::Sender<Option<Served>>>,
    /// The test inference that failed last, of which snapshot's model and how: each attempt fails the same way, and it is said
    /// once.
    failed: Option<(Digest, ModelRef, String)>,
}

impl Engine {
    /// None yet.
    #[must_use]
    pub fn new(node: Arc<Node>) -> Self {
        let serving = Arc::new(watch::Sender::new(None));
        Self { node, obtaining: None, active: None, serving, failed: None }
    }

    /// What dispatch may use.
    #[must_use]
    pub fn serving(&self) -> Serving {
        self.serving.subscribe()
    }

    /// Makes the runtime that `config` asks for the active one and checks its health; a runtime that fits stays. Until it
    /// has passed, nothing is dispatched.
    ///
    /// # Errors
    /// [`Unhealthy`].
    pub async fn follow(&mut self, snapshot: &Verified<NodeConfig>) -> Result<(), Unhealthy> {
        let config = snapshot.document();
        self.node.approved.send_replace(None);
        self.serving.send_replace(None);
        let here = self.models_are_here(snapshot);
        let failed = self.failed.as_ref();
        if here.is_err() || failed.is_none_or(|(config, ..)| *config != snapshot.digest()) {
            self.node.set_untested(None);
        }
        here?;
        let image = self.image(snapshot).await?;
        let key = self.key(config)?;
        // Nothing new is begun; the test inference does not compete with what still runs.
        self.let_end(Duration::from_millis(config.limits.execution_timeout_ms)).await;
        if self.active.as_ref().is_none_or(|active| active.key != key) {
            self.stop().await;
            self.container_update(config).await;
            let plan = plan(&self.node, snapshot, &key.files)?;
            let tuning = Tuning { falls: self.node.meters.falls(), ..Tuning::default() };
            let supervisor = Supervisor::start(plan, tuning);
            let state = watch_state(
                Arc::clone(&self.node),
                supervisor.state(),
                self.node.approved.subscribe(),
                Arc::clone(&self.serving),
                Arc::clone(&key.files),
            );
            let watching =
                [tokio::spawn(state), tokio::spawn(pass_on(supervisor.lines(), self.serving.subscribe()))];
            self.active = Some(Active { key: key.clone(), supervisor, watching });
        }
        let Some(active) = &self.active else { return Ok(()) };
        let begun = tokio::time::Instant::now();
        let endpoint = ready(active.supervisor.state()).await?;
        let loaded_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let fields = [("engine", json!(config.runtime.engine())), ("waited_ms", json!(loaded_ms))];
        self.node.journal.measured(Level::Info, Kind::Runtime, None, "the runtime answers", fields);
        if let Some(image) = &image {
            self.note_image(config, image).await;
        }
        for model in &config.models {
            let (reference, tested) = (model.reference(), tokio::time::Instant::now());
            let Some(mode) = model.tasks.first().copied() else { continue };
            let limit = Duration::from_millis(config.limits.execution_timeout_ms).min(READY_LIMIT);
            let answer = timeout(limit, test_inference(&endpoint, mode, &reference)).await;
            let output = match answer {
                Ok(Ok(output)) => output,
                Ok(Err(error)) => {
                    return Err(self.test_failed(snapshot.digest(), model, causes(&error)).await);
                }
                Err(_) => {
                    let cause = format!("no answer after {} ms", limit.as_millis());
                    return Err(self.test_failed(snapshot.digest(), model, cause).await);
                }
            };
            let fields = [
                ("model", json!(reference.to_string())),
                ("duration_ms", json!(u64::try_from(tested.elapsed().as_millis()).unwrap_or(u64::MAX))),
                ("completion_tokens", json!(output.completion_tokens)),
            ];
            self.node.journal.measured(Level::Info, Kind::Model, None, "the test inference passed", fields);
        }
        // What was loaded is what was verified: nobody wrote or swapped a file meanwhile.
        let mended = self.key(config)? != key;
        let meanwhile = if mended { Err(Unhealthy::Installing) } else { self.unchanged(config) };
        if let Err(unhealthy) = meanwhile {
            let text = "a model's file was changed while the runtime loaded it: the runtime is started again";
            self.node.journal.note(Level::Warn, Kind::Model, text);
            // Nobody knows what it has loaded.
            self.stop().await;
            self.node.install.notify_one();
            return Err(unhealthy);
        }
        self.failed = None;
        self.node.set_untested(None);
        self.node.recheck.store(false, Ordering::Relaxed);
        self.node.approved.send_replace(Some(snapshot.digest()));
        self.node.install.notify_one();
        Ok(())
    }

    /// Whether the runtime that is active is the one for `config`, with the files that are there now.
    #[must_use]
    pub fn fits(&self, snapshot: &Verified<NodeConfig>) -> bool {
        let shelf = self.node.shelf.borrow().clone();
        let Some(active) = &self.active else { return false };
        shelf.runtime.is_none() && self.key(snapshot.document()).is_ok_and(|key| key == active.key)
    }

    /// Says that the node takes jobs again, where models were all that it waited for.
    pub fn say_ready(&self) {
        let waited = *self.node.readiness.borrow() == Readiness::Installing;
        if waited && !self.node.shelf.borrow().ready.is_empty() {
            let serves = self.serving.borrow().is_some();
            self.node.set_readiness(if serves { Readiness::Active } else { Readiness::RuntimeDown });
        }
    }

    /// The image of a container, looked for anew each time that the snapshot is followed; nothing for other kinds. Getting
    /// one may take long, and goes on beside the rest.
    async fn image(&mut self, snapshot: &Verified<NodeConfig>) -> Result<Option<ImageFacts>, Unhealthy> {
        let Plan::Container(wanted) = plan(&self.node, snapshot, &Loaded::default())? else {
            self.obtaining = None;
            return Ok(None);
        };
        let (digest, timings) = (snapshot.digest(), &snapshot.document().timings);
        let (mut failures, ours) = (0, self.obtaining.take().filter(|obtaining| obtaining.config == digest));
        if let Some(mut obtaining) = ours {
            let (may_pass, cause) = match obtaining.obtained.try_recv() {
                Ok(Ok(facts)) => return Ok(Some(facts)),
                Ok(Err(error)) => (error.may_pass(), causes(&error)),
                Err(oneshot::error::TryRecvError::Empty) => {
                    self.obtaining = Some(obtaining);
                    return Err(Unhealthy::Installing);
                }
                Err(oneshot::error::TryRecvError::Closed) => (true, "looking for it ended early".to_owned()),
            };
            failures = obtaining.failures + 1;
            if !may_pass && failures >= IMAGE_FAILURES_MAX {
                return Err(Unhealthy::NotReady(cause));
            }
            if failures.is_power_of_two() {
                let text = format!("the container's image cannot be had yet: {cause}");
                self.node.journal.note(Level::Warn, Kind::Runtime, text);
            }
        }
        let wait = backoff::wait(failures, timings.retry_ms_min, timings.retry_ms_max, backoff::random());
        let (node, wait) = (Arc::clone(&self.node), if failures > 0 { wait } else { Duration::ZERO });
        let (sender, obtained) = oneshot::channel();
        let mut work = JoinSet::new();
        work.spawn(async move {
            sleep(wait).await;
            // Nobody waits for one that is not wanted any more.
            let _ = sender.send(container::obtain(&wanted).await);
            node.follow.notify_one();
        });
        self.obtaining = Some(Obtaining { config: digest, failures, obtained, _work: work });
        Err(Unhealthy::Installing)
    }

    /// Another image than the one before is the rotation table's trigger. The old container is gone and nothing runs.
    async fn container_update(&self, config: &NodeConfig) {
        let Runtime::Container { digest, .. } = &config.runtime else { return };
        let held = self.node.store.inventory().view().list().unwrap_or_default();
        let before = held.into_iter().filter(|it| it.id.kind == ArtifactKind::RuntimeImage);
        let mut before = before.filter_map(|it| it.facts.recorded);
        if before.all(|before| before == *digest) {
            return;
        }
        let node = Arc::clone(&self.node);
        match blocking(move || node.rotate(&[Trigger::ContainerUpdate])).await {
            Ok(_) => {
                let text = "the snapshot brings another image than before: what the rotation table says of that is done";
                self.node.journal.note(Level::Info, Kind::Runtime, text);
                self.node.ended.notify_one();
            }
            Err(why) => {
                let text = format!("rotation for the new container failed: {why}");
                self.node.journal.note(Level::Error, Kind::Storage, text);
            }
        }
    }

    /// Notes which image the container was made of.
    async fn note_image(&self, config: &NodeConfig, image: &ImageFacts) {
        let node = &self.node;
        let id = ArtifactId { kind: ArtifactKind::RuntimeImage, name: config.runtime.engine().to_owned() };
        let fields = [
            ("manifest", json!(image.manifest.to_string())),
            ("configuration", json!(image.config.map(|digest| digest.to_string()))),
            ("platform", json!(image.platform)),
        ];
        let text = "the container is made of the approved image";
        node.journal.measured(Level::Info, Kind::Runtime, None, text, fields);
        let noted = note(&node.store, &node.journal, id, Noted::right(image.manifest, true)).await;
        if let Err(error) = noted {
            node.journal.failed(Level::Error, Kind::Storage, "cannot note the container's image", &error);
        }
    }

    /// Keeps that a model failed its test, for the operator and for whoever judges the snapshot.
    async fn test_failed(&mut self, config: Digest, model: &Model, cause: String) -> Unhealthy {
        let reference = model.reference();
        let reason = format!("its test inference failed: {}", cause.lines().next().unwrap_or_default());
        let fields = [("model", json!(reference.to_string())), ("state", json!(ModelState::Failed.name()))];
        let text = format!("model {reference} is failed: {reason}");
        let failed = Some((config, reference.clone(), reason.clone()));
        let level = if self.failed == failed { Level::Debug } else { Level::Error };
        self.node.journal.measured(level, Kind::Model, None, text, fields);
        self.failed = failed;
        self.node.set_untested(Some((reference.clone(), reason.clone())));
        match time::now(&self.node.store) {
            Ok(now) => {
                let failed = ModelState::Failed;
                let kept = self.node.store.models();
                let kept =
                    kept.set_state(&reference, models::files_of(model), failed, Some(reason), now).await;
                if let Err(error) = self.node.written(kept) {
                    let what = "cannot keep that a model failed its test";
                    self.node.journal.failed(Level::Error, Kind::Model, what, &error);
                }
            }
            Err(error) => self.node.journal.failed(Level::Error, Kind::Agent, "no time", &error),
        }
        Unhealthy::TestFailed { model: reference.to_string(), cause }
    }

    /// Whether the keeper has every model of the snapshot.
    fn models_are_here(&self, snapshot: &Verified<NodeConfig>) -> Result<(), Unhealthy> {
        let config = snapshot.document();
        if !models::brings_files(config) {
            return Ok(());
        }
        let shelf = self.node.shelf.borrow().clone();
        if shelf.config != Some(snapshot.digest()) {
            self.node.install.notify_one();
            return Err(Unhealthy::Installing);
        }
        if let Some((model, cause)) = shelf.failed.first_key_value() {
            return Err(Unhealthy::Model { model: model.to_string(), cause: cause.clone() });
        }
        if let Some(cause) = shelf.runtime {
            return Err(Unhealthy::NotReady(cause));
        }
        let all = config.models.iter().all(|model| shelf.ready.contains(&model.reference()));
        if all { Ok(()) } else { Err(Unhealthy::Installing) }
    }

    fn key(&self, config: &NodeConfig) -> Result<Key, Unhealthy> {
        let mut files = Loaded::default();
        if models::brings_files(config) {
            let held = Loaded::now(self.node.store.models().view());
            files = held.map_err(|error| Unhealthy::Store(causes(&error)))?;
            let wanted: BTreeSet<Digest> =
                config.models.iter().flat_map(|model| &model.files).map(|file| file.sha256).collect();
            files.0.retain(|file, _| wanted.contains(file));
        }
        Ok(Key { runtime: config.runtime.clone(), files: Arc::new(files) })
    }

    /// Whether every file's seal still holds, where it has one.
    fn unchanged(&self, config: &NodeConfig) -> Result<(), Unhealthy> {
        if !models::brings_files(config) {
            return Ok(());
        }
        let held = self.node.store.models().view().stand_all();
        let held: BTreeMap<_, _> =
            held.map_err(|error| Unhealthy::Store(causes(&error)))?.into_iter().collect();
        for model in &config.models {
            let sound = |file: &&ModelFile| {
                matches!(held.get(&file.sha256), Some(Standing::Sealed | Standing::Untrusted { .. }))
            };
            if !models::distinct(model).iter().all(sound) {
                self.node.install.notify_one();
                return Err(Unhealthy::Changed { model: model.reference().to_string() });
            }
        }
        Ok(())
    }

    /// Lets what runs on the runtime before come to its end: nothing new is begun on it.
    async fn let_end(&self, limit: Duration) {
        let Some(State::Ready(endpoint)) =
            self.active.as_ref().map(|active| active.supervisor.state().borrow().clone())
        else {
            return;
        };
        let idle = async {
            while endpoint.runs() > 0 {
                sleep(LOOK).await;
            }
        };
        // What does not end goes back to the queue.
        let _ = timeout(limit, idle).await;
    }

    /// Ends the runtime, if there is one.
    pub async fn stop(&mut self) {
        self.serving.send_replace(None);
        if let Some(active) = self.active.take() {
            for watching in &active.watching {
                watching.abort();
            }
            active.supervisor.stop().await;
        }
    }
}

/// Waits until the runtime answers.
async fn ready(mut state: watch::Receiver<State>) -> Result<Arc<Endpoint>, Unhealthy> {
    let mut falls = 0;
    let mut last = "it is still starting".to_owned();
    let wait = async {
        loop {
            let seen = state.borrow_and_update().clone();
            match seen {
                State::Ready(endpoint) => return Ok(endpoint),
                State::Starting => {}
                State::Down { cause, .. } => {
                    falls += 1;
                    last.clone_from(&cause);
                    if falls >= FALLS_MAX {
                        return Err(Unhealthy::NotReady(cause));
                    }
                }
            }
            if state.changed().await.is_err() {
                return Err(Unhealthy::NotReady("its supervisor ended".to_owned()));
            }
        }
    };
    match timeout(READY_LIMIT, wait).await {
        Ok(answer) => answer,
        Err(_) => Err(Unhealthy::NotReady(format!("{} s passed: {last}", READY_LIMIT.as_secs()))),
    }
}

/// What the runtime prints until it serves is for whoever watches the Agent, and is not kept. From then on it may quote a
/// prompt, and is shown to nobody. Of one that fell over before it ever served, the last lines are kept, as the cause.
async fn pass_on(mut lines: broadcast::Receiver<String>, serving: watch::Receiver<Option<Served>>) {
    let mut served = false;
    loop {
        match lines.recv().await {
            Ok(_) if served => {}
            // Asked after the line was there: a job comes only after it serves.
            Ok(_) if serving.borrow().is_some() => {
                served = true;
                let text = "it serves: what it prints from now on may quote a prompt, and is not shown";
                tracing::debug!(target: "runtime", "{text}");
            }
            Ok(line) => tracing::debug!(target: "runtime", "{line}"),
            Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}

/// Passes the runtime's state on to dispatch and to the log.
async fn watch_state(
    node: Arc<Node>,
    mut state: watch::Receiver<State>,
    mut approved: watch::Receiver<Option<Digest>>,
    serving: Arc<watch::Sender<Option<Served>>>,
    files: Arc<Loaded>,
) {
    let (mut was_ready, mut fell) = (false, false);
    let (mut last, mut downs) = (None, 0_u32);
    // Whether the state is a new one, or only the approval is: taking that back wakes this, too.
    let mut is_news = true;
    loop {
        is_news |= state.has_changed().unwrap_or(true);
        let seen = state.borrow_and_update().clone();
        let approved_now = *approved.borrow_and_update();
        match seen {
            State::Ready(endpoint) => {
                was_ready = true;
                last = None;
                match approved_now {
                    Some(config) => {
                        serving.send_replace(Some(Served { config, endpoint, files: Arc::clone(&files) }));
                        node.set_readiness(Readiness::Active);
                    }
                    None => {
                        serving.send_replace(None);
                        // It has loaded its files anew: it is tried, and they are looked at, before it serves.
                        if std::mem::take(&mut fell) {
                            node.recheck.store(true, Ordering::Relaxed);
                            node.follow.notify_one();
                        }
                    }
                }
            }
            State::Starting => {
                serving.send_replace(None);
            }
            State::Down { cause, retry_in_ms, .. } => {
                serving.send_replace(None);
                if was_ready {
                    fell = true;
                    node.approved.send_if_modified(|approved| approved.take().is_some());
                    node.set_readiness(Readiness::RuntimeDown);
                }
                if is_news {
                    let fields = [("retry_in_ms", json!(retry_in_ms))];
                    let text = format!("the runtime is down: {cause}");
                    downs = if last.as_ref() == Some(&text) { downs + 1 } else { 1 };
                    // One that never comes up would fill the log with the same line.
                    let level = if downs.is_power_of_two() { Level::Error } else { Level::Debug };
                    node.journal.measured(level, Kind::Runtime, None, text.clone(), fields);
                    last = Some(text);
                }
            }
        }
        let (changed, by_state) = tokio::select! {
            changed = state.changed() => (changed, true),
            changed = approved.changed() => (changed, false),
        };
        if changed.is_err() {
            return;
        }
        is_news = by_state;
    }
}

/// How the runtime of a snapshot is started here.
fn plan(node: &Node, snapshot: &Verified<NodeConfig>, files: &Loaded) -> Result<Plan, Unhealthy> {
    let config = snapshot.document();
    let settings = &node.settings.runtime;
    match &config.runtime {
        Runtime::External { .. } => {
            let url = settings.url.clone().ok_or_else(|| {
                Unhealthy::Settings(
                    "the snapshot wants an external runtime: set runtime.url to its address".to_owned(),
                )
            })?;
            let api_key = settings.api_key_file.as_deref().map(read_key).transpose()?;
            Ok(Plan::External { url, api_key })
        }
        Runtime::Process { command, digest, args, .. } => {
            let folder = settings.folder.clone().ok_or_else(|| {
                Unhealthy::Settings(
                    "the snapshot wants a runtime that the Agent starts: set runtime.folder to where it stands".to_owned(),
                )
            })?;
            let timings = &config.timings;
            let mut readable = settings.readable.clone();
            readable.push(folder.clone());
            Ok(Plan::Process(ProcessPlan {
                program: folder.join(command),
                digest: *digest,
                args: args.clone(),
                models: Some(mount(node, config)),
                // The volumes are nobody else's.
                hidden: node_types::Network::ALL
                    .map(|network| node.settings.home.join(network.name()))
                    .into(),
                work_folder: settings
                    .work
                    .clone()
                    .unwrap_or_else(|| folder.join("work"))
                    .join(config.network.name()),
                readable,
                user: settings.user.clone(),
                retry_ms_min: timings.retry_ms_min,
                retry_ms_max: timings.retry_ms_max,
            }))
        }
        Runtime::Container { image, digest, config_digest, platform, gpus, args, .. } => {
            let (timings, stamp) = (&config.timings, node.store.volume().stamp());
            let needed: u64 = config.models.iter().map(|model| model.memory_bytes).sum();
            Ok(Plan::Container(ContainerPlan {
                socket: settings.socket.clone().unwrap_or_else(|| container::SOCKET.into()),
                owner: container::Owner {
                    network: stamp.network,
                    node: stamp.node,
                    volume: stamp.volume,
                    snapshot: snapshot.digest(),
                },
                image: image.clone(),
                digest: *digest,
                config_digest: *config_digest,
                platform: platform.clone(),
                images: settings.images.clone(),
                args: args.clone(),
                models: Some(mount(node, config)),
                loads: files.digest(),
                memory_bytes: (needed > 0).then(|| container::memory_limit(needed)),
                pids_max: container::PIDS_MAX,
                gpus: *gpus,
                retry_ms_min: timings.retry_ms_min,
                retry_ms_max: timings.retry_ms_max,
            }))
        }
    }
}

/// The folder of models, and the file that a runtime of one model loads: the first one's first.
fn mount(node: &Node, config: &NodeConfig) -> ModelsMount {
    let first = config.models.first().and_then(|model| model.files.first());
    ModelsMount {
        folder: node.store.models().folder().to_owned(),
        first: first.map(|file| file.sha256.hex()),
    }
}

#[expect(clippy::disallowed_methods, reason = "a file of the operator's, not of the volume's")]
pub(crate) fn read_key(path: &std::path::Path) -> Result<Zeroizing<String>, Unhealthy> {
    let bytes = std::fs::read(path).map(Zeroizing::new);
    let text =
        bytes.ok().and_then(|bytes| std::str::from_utf8(&bytes).ok().map(|text| text.trim().to_owned()));
    text.map(Zeroizing::new).ok_or_else(|| {
        Unhealthy::Settings(format!("{} cannot be read as the runtime's API key", path.display()))
    })
}
