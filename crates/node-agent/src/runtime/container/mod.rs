//! A runtime in a container: made by a container engine (Docker or Podman) from the approved image,
//! kept apart, reached over a network that has nobody else in it.
//!
//! [`ContainerPlan`] says what is wanted. Before each start the image is found by its digest, loaded from an archive of the
//! operator's, or pulled (`image`). The container and its network are made as `spec` says, and the engine is asked whether it did
//! so. What it prints is read as it comes; the engine keeps none of it.
//!
//! Everything made here carries the labels of [`Owner`]. What has our name without them belongs to somebody else and is
//! never touched. What carries them is ours, whatever its name: after a crash of the Agent a container that runs and was made
//! with the same plan is taken over; any other is removed, so that at most one is there.
//!
//! What a container can still reach: the services of this machine that listen on all addresses, at any address of it. Its own environment holds the key of its start, so whoever may ask the engine (who could do anything anyway) can read it.
//!
//! Left out: rootless engines (the Agent does not reach their containers), indexes of several platforms in archives.

mod archive;
mod engine;
mod error;
mod image;
mod podman;
mod spec;

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use bollard::{
    container::{AttachContainerResults, LogOutput},
    errors::Error as EngineError,
    models::{ContainerInspectResponse, ContainerState, Network as EngineNetwork},
    query_parameters::{
        AttachContainerOptionsBuilder, CreateContainerOptionsBuilder, InspectContainerOptions,
        ListContainersOptionsBuilder, ListNetworksOptionsBuilder, RemoveContainerOptionsBuilder,
        StartContainerOptions, WaitContainerOptionsBuilder,
    },
};
use futures_util::StreamExt as _;
use node_types::{Digest, Network, NodeId, VolumeId};
use tokio::{
    io::{AsyncWriteExt as _, SimplexStream, WriteHalf},
    sync::broadcast,
    task::JoinHandle,
    time::{sleep, timeout},
};

use self::{
    engine::{Engine, Make},
    error::is_missing,
    image::Image,
};
pub use self::{error::ContainerError, image::ImageFacts};
use super::{
    endpoint::Endpoint,
    error::RuntimeError,
    launch::{ModelsMount, random_key},
    lines::Lines,
};

/// Where the engine listens unless it is set: Docker's usual socket.
pub const SOCKET: &str = "/var/run/docker.sock";
/// How many processes and threads a container may have unless it is set.
pub const PIDS_MAX: u32 = 1024;

/// The limit of a container whose models need so many bytes once they are loaded: twice that and 1 GiB, for what its program
/// needs besides.
#[must_use]
pub const fn memory_limit(needed_bytes: u64) -> u64 {
    needed_bytes.saturating_mul(2).saturating_add(1 << 30)
}

/// How long the last lines may take to arrive after a container ended: half a second.
const LAST_LINES_LIMIT: Duration = Duration::from_millis(500);
/// How long removing may take.
const REMOVE_LIMIT: Duration = Duration::from_secs(10);
/// Between two questions whether a container has ended, where the engine broke off the first.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// What is read of its output before it is cut into lines.
const OUTPUT_BYTES: usize = 4096;
/// The parts of a digest or an ID that stand in a name.
const SHORT: usize = 12;

/// A container that the Agent has made, and watches.
#[derive(Clone, Debug)]
pub struct ContainerPlan {
    /// The engine's socket.
    pub socket: PathBuf,
    /// Whose it is: its name, and its labels.
    pub owner: Owner,
    /// The image without tag and digest.
    pub image: String,
    /// The digest of its manifest.
    pub digest: Digest,
    /// What the digest of its configuration must be.
    pub config_digest: Option<Digest>,
    /// What its platform must be, as in `linux/amd64`.
    pub platform: Option<String>,
    /// A folder with archives of images, each named `<hex of the manifest's digest>.tar`.
    pub images: Option<PathBuf>,
    /// Its arguments. `{host}` and `{port}` become the address to listen on, `{models}` the folder of models, `{model}` the
    /// first one's path.
    pub args: Vec<String>,
    /// The models, mounted read-only; user 65534 must be able to read what is in the folder.
    pub models: Option<ModelsMount>,
    /// The files that it loads, as they are now: a container that loaded others is not taken over.
    pub loads: Digest,
    /// The most memory that it may use; none for three quarters of the machine's.
    pub memory_bytes: Option<u64>,
    /// The most processes and threads that it may have.
    pub pids_max: u32,
    /// Whether it gets the machine's GPUs.
    pub gpus: bool,
    /// The first wait after it ended, in milliseconds.
    pub retry_ms_min: u64,
    /// The longest wait, in milliseconds.
    pub retry_ms_max: u64,
}

/// Whose a container is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The network that the node works for.
    pub network: Network,
    /// The node.
    pub node: NodeId,
    /// Its volume.
    pub volume: VolumeId,
    /// The snapshot that the container was made under.
    pub snapshot: Digest,
}

impl Owner {
    /// The name of its container, and of its network.
    #[must_use]
    pub fn name(&self) -> String {
        let node = self.node.to_string();
        let node = node.strip_prefix("node-").unwrap_or(&node);
        let snapshot = self.snapshot.hex();
        let short = |text: &str| text[..text.floor_char_boundary(SHORT)].to_owned();
        format!("resultity-{}-{}-{}", self.network, short(node), short(&snapshot))
    }

    fn labels(&self) -> HashMap<String, String> {
        let snapshot = ("resultity.snapshot".to_owned(), self.snapshot.to_string());
        self.identity().into_iter().chain([snapshot]).collect()
    }

    /// The labels that make something this node's, whatever the snapshot.
    fn identity(&self) -> BTreeMap<String, String> {
        BTreeMap::from([
            ("resultity.network".to_owned(), self.network.to_string()),
            ("resultity.node".to_owned(), self.node.to_string()),
            ("resultity.volume".to_owned(), self.volume.to_string()),
        ])
    }

    fn owns(&self, labels: Option<&HashMap<String, String>>) -> bool {
        labels
            .is_some_and(|labels| self.identity().iter().all(|(name, value)| labels.get(name) == Some(value)))
    }

    fn filter(&self) -> HashMap<String, Vec<String>> {
        let labels = self.identity().into_iter().map(|(name, value)| format!("{name}={value}"));
        HashMap::from([("label".to_owned(), labels.collect())])
    }
}

/// Finds or gets the image of a plan, without starting anything; what an installation does before the runtime is exchanged.
/// May take long; dropping the future breaks it off.
///
/// # Errors
/// [`ContainerError`].
pub async fn obtain(plan: &ContainerPlan) -> Result<ImageFacts, ContainerError> {
    let engine = Engine::connect(&plan.socket).await?;
    Ok(image::obtain(&engine, plan).await?.facts)
}

/// Whether the image with this digest, or of this configuration, is in the engine behind `socket`. Gets nothing.
///
/// # Errors
/// [`ContainerError`] where no engine answers, or one that cannot be used.
pub async fn is_here(
    socket: &std::path::Path,
    image: &str,
    digest: Digest,
    config_digest: Option<Digest>,
) -> Result<bool, ContainerError> {
    let engine = Engine::connect(socket).await?;
    image::is_here(&engine, image, digest, config_digest).await
}

/// An engine that was found fit, and the approved image in it.
#[derive(Debug)]
pub(super) struct Prepared {
    engine: Engine,
    image: Image,
}

impl Prepared {
    /// Finds or gets the image. May take long; dropping the future breaks it off and leaves no container.
    ///
    /// # Errors
    /// [`ContainerError`].
    pub(super) async fn new(plan: &ContainerPlan) -> Result<Self, ContainerError> {
        let engine = Engine::connect(&plan.socket).await?;
        let image = image::obtain(&engine, plan).await?;
        Ok(Self { engine, image })
    }

    pub(super) fn facts(&self) -> &ImageFacts {
        &self.image.facts
    }
}

/// A container that runs.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) endpoint: Arc<Endpoint>,
    engine: Engine,
    owner: Owner,
    id: String,
    memory_bytes: u64,
    reader: JoinHandle<()>,
    lines: Lines,
}

impl Running {
    /// Takes over the container that runs already, or makes one and starts it.
    ///
    /// # Errors
    /// [`RuntimeError`]; then no container of this node's is there, as far as the engine could be asked.
    pub(super) async fn start(
        plan: &ContainerPlan,
        prepared: Prepared,
        listeners: broadcast::Sender<String>,
    ) -> Result<Self, RuntimeError> {
        let Prepared { engine, image } = prepared;
        let memory_bytes = plan.memory_bytes.unwrap_or(engine.memory_bytes / 4 * 3);
        let asked = spec::asked(plan, &image.id, memory_bytes, &engine.make);
        let digest = spec::plan_digest(&asked)?;
        let network = find_network(&engine, &plan.owner).await?;
        let mut starting = Starting {
            engine: &engine,
            plan,
            memory_bytes,
            asked,
            digest,
            network: network.unwrap_or_default(),
        };
        let (id, made, reader, lines) = match starting.take_over(&listeners).await? {
            Some(taken) => taken,
            None => {
                starting.network = make_network(&engine, plan, starting.network).await?;
                starting.make(&listeners).await?
            }
        };
        let address = spec::address(&made, &starting.network, &engine.make);
        let endpoint =
            address.map_err(RuntimeError::from).and_then(|it| Endpoint::new(&it, spec::key(&made)));
        let owner = plan.owner;
        match endpoint {
            Ok(endpoint) => {
                Ok(Self { endpoint: Arc::new(endpoint), engine, owner, id, memory_bytes, reader, lines })
            }
            Err(error) => {
                reader.abort();
                // What is left is removed before the next start.
                let _ = clear(&engine, &owner).await;
                Err(error)
            }
        }
    }

    /// Waits until it has ended, and says how. Dropping the future changes nothing.
    pub(super) async fn ended(&mut self) -> String {
        let state = loop {
            let options = WaitContainerOptionsBuilder::default().condition("not-running").build();
            let ended = self.engine.patient.wait_container(&self.id, Some(options)).next().await;
            match inspect(&self.engine, &self.id).await {
                Ok(found) => {
                    let state = found.state.unwrap_or_default();
                    if state.running != Some(true) {
                        break state;
                    }
                }
                Err(error) if is_missing(&error) => return "somebody removed it".to_owned(),
                Err(error) => return format!("the container engine does not answer: {error}"),
            }
            tracing::debug!(?ended, "the engine broke off waiting for a container that runs");
            sleep(ASK_AGAIN).await;
        };
        // A line that comes later is heard all the same, only not told as the last one.
        let _ = timeout(LAST_LINES_LIMIT, &mut self.reader).await;
        told(&state, self.memory_bytes)
    }

    /// A cause, and what it said last.
    pub(super) fn with_last_lines(&self, cause: String) -> String {
        with_last_lines(cause, &self.lines)
    }

    /// Removes it and its network; what the engine does not do is done before the next start.
    pub(super) async fn remove(&mut self) {
        if let Ok(Err(error)) = timeout(REMOVE_LIMIT, clear(&self.engine, &self.owner)).await {
            tracing::warn!(target: "runtime", "{}", crate::journal::causes(&error));
        }
        self.reader.abort();
    }
}

fn with_last_lines(cause: String, lines: &Lines) -> String {
    let last = lines.last();
    if last.is_empty() { cause } else { format!("{cause}; it said: {last}") }
}

/// What the end of a container says of its program.
fn told(state: &ContainerState, memory_bytes: u64) -> String {
    let error = state.error.as_deref().filter(|error| !error.is_empty());
    match (state.oom_killed, state.exit_code, error) {
        (Some(true), _, _) => {
            format!("it was killed because it wanted more than its {memory_bytes} bytes of memory")
        }
        (_, _, Some(error)) => format!("it could not go on: {error}"),
        (_, Some(code @ 129..=192), None) => format!("it was killed by signal {}", code - 128),
        (_, Some(code), None) => format!("it ended with status {code}"),
        (_, None, None) => "it ended".to_owned(),
    }
}

/// A container with what the engine says of it, and what it prints.
type Started = (String, ContainerInspectResponse, JoinHandle<()>, Lines);

/// One start.
struct Starting<'a> {
    engine: &'a Engine,
    plan: &'a ContainerPlan,
    memory_bytes: u64,
    asked: bollard::models::ContainerCreateBody,
    digest: Digest,
    /// The network as [`called`]; empty while there is none.
    network: String,
}

impl Starting<'_> {
    /// The container that an earlier Agent left running, if it is as it would be made now. Any other of this node's is removed.
    async fn take_over(
        &self,
        listeners: &broadcast::Sender<String>,
    ) -> Result<Option<Started>, ContainerError> {
        let mut taken = None;
        for id in containers(self.engine, &self.plan.owner).await? {
            if taken.is_none()
                && let Some(made) = self.fits(&id).await?
            {
                taken = Some((id, made));
                continue;
            }
            remove(self.engine, &id).await?;
        }
        let Some((id, made)) = taken else { return Ok(None) };
        let (reader, lines) = self.attach(&id, listeners).await?;
        Ok(Some((id, made, reader, lines)))
    }

    async fn fits(&self, id: &str) -> Result<Option<ContainerInspectResponse>, ContainerError> {
        let made = look(self.engine, id).await?;
        let labels = made.config.as_ref().and_then(|it| it.labels.as_ref());
        let alike = labels.and_then(|it| it.get(spec::PLAN)) == Some(&self.digest.to_string())
            && made.name.as_deref().map(|name| name.trim_start_matches('/')) == Some(&self.plan.owner.name())
            && made
                .state
                .as_ref()
                .is_some_and(|state| state.running == Some(true) && state.paused != Some(true))
            && spec::key(&made).is_some()
            && spec::address(&made, &self.network, &self.engine.make).is_ok();
        if !alike {
            return Ok(None);
        }
        match self.verify(id, &self.completed(""), &made).await {
            Ok(()) => Ok(Some(made)),
            // It may be a good one: nothing is removed because the engine did not answer.
            Err(error @ ContainerError::Engine { .. }) => Err(error),
            Err(_) => Ok(None),
        }
    }

    /// Compares what the engine made with what it was asked for.
    async fn verify(
        &self,
        id: &str,
        asked: &bollard::models::ContainerCreateBody,
        made: &ContainerInspectResponse,
    ) -> Result<(), ContainerError> {
        let told = match &self.engine.make {
            Make::Docker => None,
            Make::Podman(podman) => Some(podman.container(id).await?),
        };
        spec::verify(asked, made, told.as_ref())
    }

    fn completed(&self, key: &str) -> bollard::models::ContainerCreateBody {
        spec::completed(self.asked.clone(), self.plan, self.digest, &self.network, key)
    }

    async fn make(&self, listeners: &broadcast::Sender<String>) -> Result<Started, RuntimeError> {
        let (name, engine) = (self.plan.owner.name(), self.engine);
        if let Some(models) = &self.plan.models {
            let there = tokio::fs::metadata(&models.folder).await;
            there.map_err(|source| ContainerError::Models { path: models.folder.clone(), source })?;
        }
        let key = random_key().map_err(|source| RuntimeError::Start { what: "random key", source })?;
        let asked = self.completed(&key);
        let options = CreateContainerOptionsBuilder::default().name(&name).build();
        let made = match engine.quick.create_container(Some(options), asked.clone()).await {
            Ok(made) => made,
            Err(error) if is_taken(&error) => {
                return Err(foreign_container(engine, name).await?.into());
            }
            Err(error) => {
                return Err(ContainerError::engine(format!("make the container {name}"))(error).into());
            }
        };
        let started = self.begin(&made.id, &asked, listeners).await;
        if started.is_err() {
            // What is left is removed before the next start.
            let _ = remove(engine, &made.id).await;
        }
        Ok(started?)
    }

    /// Looks whether it is as it should be, and starts it.
    async fn begin(
        &self,
        id: &str,
        asked: &bollard::models::ContainerCreateBody,
        listeners: &broadcast::Sender<String>,
    ) -> Result<Started, ContainerError> {
        self.verify(id, asked, &look(self.engine, id).await?).await?;
        // Before it starts, so that its first words are heard.
        let (mut reader, lines) = self.attach(id, listeners).await?;
        let started = self.engine.quick.start_container(id, None::<StartContainerOptions>).await;
        started.map_err(ContainerError::engine("start the container"))?;
        let made = look(self.engine, id).await?;
        match &made.state {
            Some(state) if state.running != Some(true) => {
                // What comes later is heard all the same, only not told as the last.
                let _ = timeout(LAST_LINES_LIMIT, &mut reader).await;
                let how = with_last_lines(told(state, self.memory_bytes), &lines);
                Err(ContainerError::Ended { how })
            }
            Some(_) | None => Ok((id.to_owned(), made, reader, lines)),
        }
    }

    async fn attach(
        &self,
        id: &str,
        listeners: &broadcast::Sender<String>,
    ) -> Result<(JoinHandle<()>, Lines), ContainerError> {
        let options = AttachContainerOptionsBuilder::default().stream(true).stdout(true).stderr(true).build();
        let attached = self.engine.quick.attach_container(id, Some(options)).await;
        let attached = attached.map_err(ContainerError::engine("hand out what the container prints"))?;
        let lines = Lines::to(listeners.clone());
        Ok((tokio::spawn(read(attached, lines.clone())), lines))
    }
}

/// Reads what a container prints, until it ends.
async fn read(mut attached: AttachContainerResults, lines: Lines) {
    let ((out, to_out), (err, to_err)) = (tokio::io::simplex(OUTPUT_BYTES), tokio::io::simplex(OUTPUT_BYTES));
    let sorting = async move {
        let mut pipes = [to_out, to_err];
        while let Some(Ok(output)) = attached.output.next().await {
            let (pipe, message): (&mut WriteHalf<SimplexStream>, _) = match output {
                LogOutput::StdErr { message } => (&mut pipes[1], message),
                LogOutput::StdOut { message }
                | LogOutput::StdIn { message }
                | LogOutput::Console { message } => (&mut pipes[0], message),
            };
            if pipe.write_all(&message).await.is_err() {
                return;
            }
        }
        for mut pipe in pipes {
            // Whoever reads it is told that it has ended; nobody else is left to be told of an error.
            let _ = pipe.shutdown().await;
        }
    };
    let _ = tokio::join!(sorting, lines.clone().read(out), lines.read(err));
}

async fn look(engine: &Engine, id: &str) -> Result<ContainerInspectResponse, ContainerError> {
    inspect(engine, id).await.map_err(ContainerError::engine("describe the container"))
}

async fn inspect(engine: &Engine, id: &str) -> Result<ContainerInspectResponse, EngineError> {
    match &engine.make {
        Make::Docker => engine.quick.inspect_container(id, None::<InspectContainerOptions>).await,
        Make::Podman(podman) => podman.described(id).await,
    }
}

/// The IDs of all containers of this node's, whether they run or not.
async fn containers(engine: &Engine, owner: &Owner) -> Result<Vec<String>, ContainerError> {
    let filters = owner.filter();
    let found = match &engine.make {
        Make::Docker => {
            let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
            let found = engine.quick.list_containers(Some(options)).await;
            found.map(|found| found.into_iter().map(|it| (it.id, it.labels)).collect::<Vec<_>>())
        }
        Make::Podman(podman) => {
            let found = podman.containers(&filters).await;
            found.map(|found| found.into_iter().map(|it| (it.id, it.labels)).collect())
        }
    };
    let found = found.map_err(ContainerError::engine("list the containers"))?.into_iter();
    Ok(found.filter(|(_, labels)| owner.owns(labels.as_ref())).filter_map(|(id, _)| id).collect())
}

async fn remove(engine: &Engine, id: &str) -> Result<(), ContainerError> {
    let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
    match engine.quick.remove_container(id, Some(options)).await {
        // 409: it is being removed already.
        Err(error) if !is_missing(&error) && !is_conflict(&error) => {
            Err(ContainerError::engine("remove the container")(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Whether another container has the name: Podman says so in words alone.
fn is_taken(error: &EngineError) -> bool {
    is_conflict(error)
        || matches!(error, EngineError::DockerResponseServerError { message, .. } if message.contains("name is already in use"))
}

fn is_conflict(error: &EngineError) -> bool {
    matches!(error, EngineError::DockerResponseServerError { status_code: 409, .. })
}

/// Removes everything of this node's.
async fn clear(engine: &Engine, owner: &Owner) -> Result<(), ContainerError> {
    for id in containers(engine, owner).await? {
        remove(engine, &id).await?;
    }
    for found in networks(engine, &owner.filter()).await? {
        if owner.owns(found.labels.as_ref()) {
            remove_network(engine, &found.id.unwrap_or_default()).await?;
        }
    }
    Ok(())
}

async fn networks(
    engine: &Engine,
    filter: &HashMap<String, Vec<String>>,
) -> Result<Vec<EngineNetwork>, ContainerError> {
    let options = ListNetworksOptionsBuilder::default().filters(filter).build();
    engine.quick.list_networks(Some(options)).await.map_err(ContainerError::engine("list the networks"))
}

async fn remove_network(engine: &Engine, id: &str) -> Result<(), ContainerError> {
    match engine.quick.remove_network(id).await {
        Err(error) if !is_missing(&error) => Err(ContainerError::engine("remove the network")(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// What the engine calls a network in a container's description: Docker by its ID, Podman, where no name is there twice, by its
/// name.
fn called(engine: &Engine, network: &EngineNetwork) -> Option<String> {
    match engine.make {
        Make::Docker => network.id.clone(),
        Make::Podman(_) => network.name.clone(),
    }
}

/// The network as [`called`], if there is one as it would be made now.
async fn find_network(engine: &Engine, owner: &Owner) -> Result<Option<String>, ContainerError> {
    let name = owner.name();
    // The engine's filter by name takes parts of names too, and it allows a name twice.
    let filter = HashMap::from([("name".to_owned(), vec![name.clone()])]);
    let same_name = networks(engine, &filter).await?;
    let same_name: Vec<_> = same_name.iter().filter(|it| it.name.as_deref() == Some(&name)).collect();
    if let Some(foreign) = same_name.iter().find(|it| !owner.owns(it.labels.as_ref())) {
        let owner = whose(foreign.labels.as_ref(), None);
        return Err(ContainerError::Foreign { kind: "network", name, owner });
    }
    let fits =
        same_name.iter().find(|it| it.internal == Some(true) && it.driver.as_deref() == Some("bridge"));
    match &engine.make {
        Make::Podman(podman) if fits.is_some() && podman.resolves(&name).await? => Ok(None),
        Make::Docker | Make::Podman(_) => Ok(fits.and_then(|it| called(engine, it))),
    }
}

/// Removes every network of this node's but `found`, and makes one where that is empty. Nobody is in them any more.
async fn make_network(
    engine: &Engine,
    plan: &ContainerPlan,
    found: String,
) -> Result<String, ContainerError> {
    for other in networks(engine, &plan.owner.filter()).await? {
        if called(engine, &other).as_ref() != Some(&found) && plan.owner.owns(other.labels.as_ref()) {
            remove_network(engine, &other.id.unwrap_or_default()).await?;
        }
    }
    if !found.is_empty() {
        return Ok(found);
    }
    let name = plan.owner.name();
    match &engine.make {
        Make::Docker => {
            let made = engine.quick.create_network(spec::network(plan)).await;
            Ok(made.map_err(ContainerError::engine(format!("make the network {name}")))?.id)
        }
        Make::Podman(podman) => {
            podman.make_network(&name, &plan.owner.labels()).await?;
            Ok(name)
        }
    }
}

/// Says whose the container is that has our name.
async fn foreign_container(engine: &Engine, name: String) -> Result<ContainerError, ContainerError> {
    let found = look(engine, &name).await?;
    let config = found.config.unwrap_or_default();
    let owner = whose(config.labels.as_ref(), config.image.as_deref());
    Ok(ContainerError::Foreign { kind: "container", name, owner })
}

/// Whose something is, as far as its labels say so.
fn whose(labels: Option<&HashMap<String, String>>, image: Option<&str>) -> String {
    let label = |name: &str| labels.and_then(|labels| labels.get(name));
    match (label("resultity.node"), label("com.docker.compose.project"), image) {
        (Some(node), _, _) => format!("it is {node}'s"),
        (None, Some(project), _) => format!("it is of the compose project {project}"),
        (None, None, Some(image)) => format!("its image is {image}"),
        (None, None, None) => "it carries no label".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_node_and_snapshot() {
        let owner = Owner {
            network: Network::Testnet,
            node: format!("node-{}", "ab".repeat(20)).parse().unwrap(),
            volume: VolumeId::from_bytes([1; 16]),
            snapshot: Digest::from_bytes([0xcd; 32]),
        };
        assert_eq!(owner.name(), "resultity-testnet-abababababab-cdcdcdcdcdcd");
        assert!(owner.owns(Some(&owner.labels())));
        let other = Owner { node: format!("node-{}", "ac".repeat(20)).parse().unwrap(), ..owner };
        assert!(!owner.owns(Some(&other.labels())) && !owner.owns(None));
    }
}
