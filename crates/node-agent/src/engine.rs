//! The engine: the one runtime that is active, started as the snapshot says, and its health check.
//!
//! Dispatch sees it through [`Engine::serving`]: there is something to see only after the snapshot in force passed
//! its health check, and only while the runtime answers.

use std::{path::PathBuf, sync::Arc, time::Duration};

use node_types::{
    Digest,
    config::{NodeConfig, Runtime},
    log::{Kind, Level},
    verify::Verified,
};
use serde_json::json;
use tokio::{
    sync::{broadcast, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};
use zeroize::Zeroizing;

use crate::{
    journal::causes,
    node::Node,
    runtime::{Endpoint, Plan, ProcessPlan, State, Supervisor, test_inference},
};

/// How long a runtime may take until it answers: 2 minutes, for a large model from a slow disk.
pub const READY_LIMIT: Duration = Duration::from_secs(120);
/// Between two looks whether a runtime has come to the end of its runs.
const LOOK: Duration = Duration::from_millis(20);
/// How often a runtime may fall over while its health check waits for it.
const FALLS_MAX: u32 = 3;

/// What serves now, if the snapshot in force passed its health check on it.
pub type Serving = watch::Receiver<Option<Served>>;

/// A runtime that answers, and the snapshot that it was tried under.
#[derive(Clone, Debug)]
pub struct Served {
    /// The snapshot.
    pub config: Digest,
    /// The runtime.
    pub endpoint: Arc<Endpoint>,
}

/// Why a snapshot's runtime does not serve.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unhealthy {
    /// The operator has to set something.
    #[error("{0}")]
    Settings(String),
    /// A kind that this release cannot start.
    #[error("runtimes of kind container are not started by this release")]
    Container,
    /// A file of the model is not there.
    #[error("{path} is missing: it is {bytes} bytes with SHA-256 {sha256}")]
    ModelMissing {
        /// Where it should be.
        path: PathBuf,
        /// Its length.
        bytes: u64,
        /// Its identity.
        sha256: Digest,
    },
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

struct Active {
    key: (Runtime, Vec<Digest>),
    supervisor: Supervisor,
    watching: [JoinHandle<()>; 2],
}

/// The one runtime.
pub struct Engine {
    node: Arc<Node>,
    active: Option<Active>,
    serving: Arc<watch::Sender<Option<Served>>>,
    /// The snapshot that passed its health check.
    approved: Arc<watch::Sender<Option<Digest>>>,
}

impl Engine {
    /// None yet.
    #[must_use]
    pub fn new(node: Arc<Node>) -> Self {
        let serving = Arc::new(watch::Sender::new(None));
        Self { node, active: None, serving, approved: Arc::new(watch::Sender::new(None)) }
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
        self.approved.send_replace(None);
        self.serving.send_replace(None);
        let key = (
            config.runtime.clone(),
            config.models.iter().flat_map(|it| &it.files).map(|it| it.sha256).collect(),
        );
        if self.active.as_ref().is_none_or(|active| active.key != key) {
            self.let_end(Duration::from_millis(config.limits.execution_timeout_ms)).await;
            self.stop().await;
            let plan = plan(&self.node, config)?;
            let supervisor = Supervisor::start(plan);
            let state = watch_state(
                Arc::clone(&self.node),
                supervisor.state(),
                self.approved.subscribe(),
                Arc::clone(&self.serving),
            );
            let watching = [tokio::spawn(state), tokio::spawn(pass_on(supervisor.lines()))];
            self.active = Some(Active { key, supervisor, watching });
        }
        let Some(active) = &self.active else { return Ok(()) };
        let begun = tokio::time::Instant::now();
        let endpoint = ready(active.supervisor.state()).await?;
        let loaded_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let fields = [("engine", json!(config.runtime.engine())), ("waited_ms", json!(loaded_ms))];
        self.node.journal.measured(Level::Info, Kind::Runtime, None, "the runtime answers", fields);
        for model in &config.models {
            let (reference, tested) = (model.reference(), tokio::time::Instant::now());
            let Some(mode) = model.tasks.first().copied() else { continue };
            let failed = |cause: String| Unhealthy::TestFailed { model: reference.to_string(), cause };
            let limit = Duration::from_millis(config.limits.execution_timeout_ms).min(READY_LIMIT);
            let output = timeout(limit, test_inference(&endpoint, mode, &reference))
                .await
                .map_err(|_| failed(format!("no answer after {} ms", limit.as_millis())))?
                .map_err(|error| failed(causes(&error)))?;
            let fields = [
                ("model", json!(reference.to_string())),
                ("duration_ms", json!(u64::try_from(tested.elapsed().as_millis()).unwrap_or(u64::MAX))),
                ("completion_tokens", json!(output.completion_tokens)),
            ];
            self.node.journal.measured(Level::Info, Kind::Model, None, "the test inference passed", fields);
        }
        self.approved.send_replace(Some(snapshot.digest()));
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

/// What the runtime prints is for whoever watches the Agent, and is not kept: it may quote a prompt. Of one that fell over
/// before it ever served, the last lines are kept, as the cause.
async fn pass_on(mut lines: broadcast::Receiver<String>) {
    loop {
        match lines.recv().await {
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
) {
    let mut was_ready = false;
    loop {
        let seen = state.borrow_and_update().clone();
        let approved_now = *approved.borrow_and_update();
        match seen {
            State::Ready(endpoint) => {
                was_ready = true;
                if let Some(config) = approved_now {
                    serving.send_replace(Some(Served { config, endpoint }));
                    node.set_readiness(node_types::protocol::Readiness::Active);
                }
            }
            State::Starting => {
                serving.send_replace(None);
            }
            State::Down { cause, retry_in_ms } => {
                serving.send_replace(None);
                if was_ready {
                    node.set_readiness(node_types::protocol::Readiness::RuntimeDown);
                }
                let fields = [("retry_in_ms", json!(retry_in_ms))];
                let text = format!("the runtime is down: {cause}");
                node.journal.measured(Level::Error, Kind::Runtime, None, text, fields);
            }
        }
        tokio::select! {
            changed = state.changed() => if changed.is_err() { return },
            changed = approved.changed() => if changed.is_err() { return },
        }
    }
}

/// How the runtime of a snapshot is started here.
fn plan(node: &Node, config: &NodeConfig) -> Result<Plan, Unhealthy> {
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
            let file = config.models.first().and_then(|model| model.files.first());
            let models = settings.models.clone().unwrap_or_else(|| folder.join("models"));
            let model = file.map(|file| (models.join(file.sha256.hex()), file));
            if let Some((path, file)) = &model
                && !path.is_file()
            {
                let (path, bytes, sha256) = (path.clone(), file.bytes, file.sha256);
                return Err(Unhealthy::ModelMissing { path, bytes, sha256 });
            }
            let timings = &config.timings;
            let mut readable = settings.readable.clone();
            readable.push(folder.clone());
            readable.push(models);
            Ok(Plan::Process(ProcessPlan {
                program: folder.join(command),
                digest: *digest,
                args: args.clone(),
                model: model.map(|(path, _)| path),
                work_folder: folder.join("work").join(config.network.name()),
                readable,
                user: settings.user.clone(),
                retry_ms_min: timings.retry_ms_min,
                retry_ms_max: timings.retry_ms_max,
            }))
        }
        Runtime::Container { .. } => Err(Unhealthy::Container),
    }
}

#[expect(clippy::disallowed_methods, reason = "a file of the operator's, not of the volume's")]
fn read_key(path: &std::path::Path) -> Result<Zeroizing<String>, Unhealthy> {
    let bytes = std::fs::read(path).map(Zeroizing::new);
    let text =
        bytes.ok().and_then(|bytes| std::str::from_utf8(&bytes).ok().map(|text| text.trim().to_owned()));
    text.map(Zeroizing::new).ok_or_else(|| {
        Unhealthy::Settings(format!("{} cannot be read as the runtime's API key", path.display()))
    })
}
