//! What the tests of containers share: images made from nothing, and an engine that is left as it was found.
#![expect(clippy::print_stderr, reason = "says why nothing is tested")]
#![expect(clippy::disallowed_methods, reason = "tests make their own files, no volume's")]
#![expect(clippy::panic, reason = "a test that cannot go on must fail")]

mod compiled;
mod podman;
mod seen;

use std::{
    collections::HashMap,
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bollard::{
    API_DEFAULT_VERSION, Docker,
    models::{ContainerCreateBody, ContainerInspectResponse, ContainerSummary},
    query_parameters::{
        CreateContainerOptionsBuilder, InspectContainerOptions, ListContainersOptionsBuilder,
        ListImagesOptionsBuilder, ListNetworksOptionsBuilder, RemoveContainerOptionsBuilder,
        RemoveImageOptionsBuilder, StartContainerOptions,
    },
};
use compiled::stand_in;
use node_agent::runtime::{
    ContainerPlan, Endpoint, InferenceError, ModelsMount, Plan, State, Supervisor, Tuning,
    container::{Owner, PIDS_MAX, SOCKET},
};
use node_types::{
    Digest, Network, VolumeId,
    job::{Mode, Output, Request},
};
pub use podman::Podman;
pub use seen::seen;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::broadcast::error::RecvError;

/// How long a test waits for anything; a machine with little to spare needs it.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// An engine, and all that a test makes in it; taken away when it is dropped.
pub struct Stage {
    pub engine: Docker,
    pub folder: TempDir,
    pub owner: Owner,
    pub socket: PathBuf,
    config: Digest,
    /// Where the engine is a Podman of the stage's own.
    pub podman: Option<Podman>,
}

/// The engine and an image of the stand-in, made but not loaded. None where no engine is.
pub async fn stage() -> Option<Stage> {
    if !Path::new(SOCKET).exists() {
        eprintln!("not tested: there is no container engine at {SOCKET}");
        return None;
    }
    Some(set(SOCKET.into(), None).await)
}

/// The same in a Podman of its own. None where there can be none.
pub async fn podman_stage() -> Option<Stage> {
    podman_stage_with("").await
}

/// The same with more of the section `containers` of Podman's settings.
pub async fn podman_stage_with(more: &str) -> Option<Stage> {
    let podman = Podman::start(more)?;
    Some(set(podman.socket(), Some(podman)).await)
}

async fn connect(socket: &Path) -> Docker {
    let engine = Docker::connect_with_unix(socket.to_str().unwrap(), 60, API_DEFAULT_VERSION).unwrap();
    engine.negotiate_version().await.unwrap()
}

async fn set(socket: PathBuf, podman: Option<Podman>) -> Stage {
    let engine = connect(&socket).await;
    let folder = tempfile::tempdir().unwrap();
    // The container's user is another one.
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let random = Digest::of(folder.path().as_os_str().as_encoded_bytes()).hex();
    let owner = Owner {
        network: Network::Testnet,
        node: format!("node-{}", &random[..40]).parse().unwrap(),
        volume: VolumeId::from_bytes([7; 16]),
        snapshot: Digest::of(b"a snapshot"),
    };
    let models = folder.path().join("models");
    std::fs::create_dir(&models).unwrap();
    std::fs::write(models.join("model"), "the model").unwrap();
    let mut stage = Stage { engine, folder, owner, socket, config: Digest::of(b""), podman };
    stage.config = stage.image("linux", "amd64").1;
    stage
}

impl Stage {
    pub fn images(&self) -> PathBuf {
        self.folder.path().join("images")
    }

    /// Makes an OCI archive with the stand-in; no two stages have the same. Gives the digests of manifest and configuration.
    pub fn image(&self, os: &str, architecture: &str) -> (Digest, Digest) {
        let layer = layer();
        let config = json!({
            "architecture": architecture, "os": os,
            "config": { "Entrypoint": ["/stand_in"], "Env": ["OF_THE_IMAGE=1"], "Labels": { "resultity.test": self.owner.node } },
            "rootfs": { "type": "layers", "diff_ids": [Digest::of(&layer)] },
        });
        self.archive(&config, &layer)
    }

    /// Writes the archive, as a tool that knows nothing of docker's own format would.
    pub fn archive(&self, config: &Value, layer: &[u8]) -> (Digest, Digest) {
        let config = config.to_string().into_bytes();
        let described = |media: &str, blob: &[u8]| json!({ "mediaType": format!("application/vnd.oci.image.{media}"), "digest": Digest::of(blob), "size": blob.len() });
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": described("config.v1+json", &config), "layers": [described("layer.v1.tar", layer)],
        });
        let manifest = manifest.to_string().into_bytes();
        let index = json!({ "schemaVersion": 2, "manifests": [described("manifest.v1+json", &manifest)] })
            .to_string();
        let mut archive = tar::Builder::new(Vec::new());
        entry(&mut archive, "oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#);
        entry(&mut archive, "index.json", 0o644, index.as_bytes());
        for blob in [&manifest[..], &config, layer] {
            entry(&mut archive, &format!("blobs/sha256/{}", Digest::of(blob).hex()), 0o644, blob);
        }
        let (digest, config) = (Digest::of(&manifest), Digest::of(&config));
        std::fs::create_dir_all(self.images()).unwrap();
        std::fs::write(self.archive_path(digest), archive.into_inner().unwrap()).unwrap();
        (digest, config)
    }

    pub fn archive_path(&self, digest: Digest) -> PathBuf {
        self.images().join(format!("{}.tar", digest.hex()))
    }

    /// The stage's own configuration digest.
    pub fn config(&self) -> Digest {
        self.config
    }

    /// A plan for the stand-in.
    pub fn plan(&self, args: &[&str]) -> ContainerPlan {
        let (digest, config) = self.image("linux", "amd64");
        assert_eq!(config, self.config, "an image is made from nothing but what it says");
        ContainerPlan {
            socket: self.socket.clone(),
            owner: self.owner,
            image: "127.0.0.1:9/stand-in".to_owned(),
            digest,
            config_digest: Some(config),
            platform: Some("linux/amd64".to_owned()),
            images: Some(self.images()),
            args: ["--port", "{port}"].iter().chain(args).map(|it| (*it).to_owned()).collect(),
            models: Some(ModelsMount {
                folder: self.folder.path().join("models"),
                first: Some("model".to_owned()),
            }),
            loads: Digest::of(b"files"),
            memory_bytes: Some(256 << 20),
            pids_max: PIDS_MAX,
            gpus: false,
            retry_ms_min: 10,
            retry_ms_max: 200,
        }
    }

    /// What this stage's node has in the engine, running or not.
    pub async fn containers(&self) -> Vec<ContainerSummary> {
        let options = ListContainersOptionsBuilder::default().all(true).filters(&self.filter()).build();
        self.engine.list_containers(Some(options)).await.unwrap()
    }

    /// The one container of this stage's.
    pub async fn container(&self) -> ContainerInspectResponse {
        let all = self.containers().await;
        let [one] = all.as_slice() else { unreachable!("{all:?}") };
        let id = one.id.as_deref().unwrap();
        self.engine.inspect_container(id, None::<InspectContainerOptions>).await.unwrap()
    }

    /// Starts a container of the stage's image in the engine's usual network, and gives its address once it listens.
    pub async fn neighbour(&self) -> String {
        let body = ContainerCreateBody {
            image: Some(self.config.to_string()),
            cmd: Some(vec!["--port".to_owned(), "80".to_owned()]),
            labels: Some(HashMap::from([("resultity.node".to_owned(), self.owner.node.to_string())])),
            ..ContainerCreateBody::default()
        };
        let name = format!("neighbour-of-{}", self.owner.name());
        let options = CreateContainerOptionsBuilder::default().name(&name).build();
        let made = self.engine.create_container(Some(options), body).await.unwrap();
        self.engine.start_container(&made.id, None::<StartContainerOptions>).await.unwrap();
        let found = self.engine.inspect_container(&made.id, None::<InspectContainerOptions>).await.unwrap();
        let networks = found.network_settings.unwrap().networks.unwrap();
        let address = format!("{}:80", networks["bridge"].ip_address.as_ref().unwrap());
        while TcpStream::connect(&address).is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        address
    }

    /// Takes a container away, whatever it does; there must be one.
    pub async fn remove(&self, container: &str) {
        let force = RemoveContainerOptionsBuilder::default().force(true).build();
        self.engine.remove_container(container, Some(force)).await.unwrap();
    }

    /// An Agent that starts after a crash refuses to, because somebody of a compose project has the container's name. That one is
    /// left as it is, and removed here.
    pub async fn assert_foreign_one_is_left_alone(&self) {
        let (cause, name) = (refused(self.plan(&[])).await, self.owner.name());
        self.remove(&name).await;
        let told = [format!("a container {name}"), "compose project shop".to_owned()];
        assert!(told.iter().all(|told| cause.contains(told)), "{cause}");
    }

    /// What a crashed Agent left running is taken over, and ends with the one that took it.
    pub async fn assert_taken_over(&self) {
        crash(self.plan(&[]));
        let first = id(self).await;
        let supervisor = start(self.plan(&[]));
        let endpoint = ready(&supervisor).await;
        assert_eq!(id(self).await, first, "no second one was started");
        assert_eq!(seen(&endpoint).await.text("model"), "the model", "its key still opens it");
        // It is watched as if it had been made here.
        let mut lines = supervisor.lines();
        said(&endpoint, "print", "").await;
        // Hearing that some were missed is hearing too.
        let heard = tokio::time::timeout(PATIENCE, lines.recv()).await.unwrap();
        assert!(!matches!(heard, Err(RecvError::Closed)));
        supervisor.stop().await;
        assert!(self.containers().await.is_empty());
    }

    pub async fn networks(&self) -> Vec<String> {
        let options = ListNetworksOptionsBuilder::default().filters(&self.filter()).build();
        let found = self.engine.list_networks(Some(options)).await.unwrap();
        found.into_iter().map(|it| it.name.unwrap()).collect()
    }

    /// Whether the engine has the image.
    pub async fn has_image(&self, config: Digest) -> bool {
        self.engine.inspect_image(&config.to_string()).await.is_ok()
    }

    pub async fn remove_image(&self, id: &str) {
        let force = RemoveImageOptionsBuilder::default().force(true).build();
        let _ = self.engine.remove_image(id, Some(force), None).await;
    }

    fn filter(&self) -> HashMap<String, Vec<String>> {
        HashMap::from([("label".to_owned(), vec![format!("resultity.node={}", self.owner.node)])])
    }

    async fn clear(&self) {
        let remove = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        for found in self.containers().await {
            let _ = self.engine.remove_container(&found.id.unwrap(), Some(remove.clone())).await;
        }
        for name in self.networks().await {
            let _ = self.engine.remove_network(&name).await;
        }
        let label = format!("resultity.test={}", self.owner.node);
        let filter = HashMap::from([("label".to_owned(), vec![label])]);
        let options = ListImagesOptionsBuilder::default().filters(&filter).build();
        for found in self.engine.list_images(Some(options)).await.unwrap() {
            self.remove_image(&found.id).await;
        }
    }
}

impl Drop for Stage {
    /// Also where a test failed: on a thread of its own, because the test's runtime may be waiting for this one.
    fn drop(&mut self) {
        let stage = &*self;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let threads = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                threads.block_on(async {
                    // The connections of the test belong to its own runtime.
                    let (engine, socket) = (connect(&stage.socket).await, stage.socket.clone());
                    let folder = tempfile::tempdir().unwrap();
                    let own = Stage {
                        engine,
                        folder,
                        owner: stage.owner,
                        socket,
                        config: stage.config,
                        podman: None,
                    };
                    // A supervisor of a test that failed may be making something just now.
                    for _ in 0..20 {
                        own.clear().await;
                        tokio::time::sleep(Duration::from_millis(250)).await;
                        if own.containers().await.is_empty() && own.networks().await.is_empty() {
                            break;
                        }
                    }
                    std::mem::forget(own);
                });
            });
        });
    }
}

/// A watcher that looks often.
pub fn start(plan: ContainerPlan) -> Supervisor {
    let tuning = Tuning {
        ready_limit: PATIENCE,
        health_every: Duration::from_millis(100),
        failures_max: 2,
        ..Tuning::default()
    };
    Supervisor::start(Plan::Container(plan), tuning)
}

/// The labels of a container that a compose project made.
pub fn foreign() -> HashMap<String, String> {
    HashMap::from([("com.docker.compose.project".to_owned(), "shop".to_owned())])
}

/// Waits until it serves.
pub async fn ready(supervisor: &Supervisor) -> Arc<Endpoint> {
    let mut state = supervisor.state();
    let ready = state.wait_for(|state| matches!(state, State::Ready(_)));
    let seen = tokio::time::timeout(PATIENCE, ready).await;
    let Ok(Ok(State::Ready(endpoint))) = seen.map(|seen| seen.map(|state| state.clone())) else {
        panic!("it never served: {:?}", *supervisor.state().borrow());
    };
    endpoint
}

/// Waits until it is down, and says why.
pub async fn down(supervisor: &Supervisor) -> String {
    let mut state = supervisor.state();
    let down = state.wait_for(|state| matches!(state, State::Down { .. }));
    let seen = tokio::time::timeout(PATIENCE, down).await.unwrap().unwrap().clone();
    let State::Down { cause, .. } = seen else { unreachable!() };
    cause
}

/// Asks the runtime of an endpoint.
pub async fn ask(endpoint: &Endpoint, body: &Value) -> Result<Output, InferenceError> {
    endpoint.infer(Mode::Chat, &Request::parse(body.to_string().as_bytes()).unwrap(), 32, None).await
}

/// What the stand-in says to a trick.
pub async fn said(endpoint: &Endpoint, trick: &str, user: &str) -> String {
    let body = json!({"model": trick, "messages": [{"role": "user", "content": user}]});
    let answer = serde_json::from_str::<Value>(&ask(endpoint, &body).await.unwrap().body).unwrap();
    answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
}

/// The ID of the one container of a stage's.
pub async fn id(stage: &Stage) -> String {
    stage.container().await.id.unwrap()
}

/// Why a plan does not run.
pub async fn refused(plan: ContainerPlan) -> String {
    let supervisor = start(ContainerPlan { retry_ms_min: 60_000, retry_ms_max: 60_000, ..plan });
    let cause = down(&supervisor).await;
    supervisor.stop().await;
    cause
}

/// Starts a plan with an Agent that dies without a word.
pub fn crash(plan: ContainerPlan) {
    let body = move || {
        let threads = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let supervisor: Supervisor = threads.block_on(async {
            let supervisor = start(plan);
            ready(&supervisor).await;
            supervisor
        });
        // Told to nobody: the tasks end where they are.
        std::mem::forget(supervisor);
        threads.shutdown_timeout(Duration::from_secs(10));
    };
    std::thread::spawn(body).join().unwrap();
}

/// What is in an image of the stand-in.
pub fn layer() -> Vec<u8> {
    let mut layer = tar::Builder::new(Vec::new());
    for folder in ["tmp/", "models/"] {
        entry(&mut layer, folder, 0o755, &[]);
    }
    entry(&mut layer, "stand_in", 0o755, &std::fs::read(stand_in()).unwrap());
    layer.into_inner().unwrap()
}

fn entry(archive: &mut tar::Builder<Vec<u8>>, path: &str, mode: u32, content: &[u8]) {
    let mut header = tar::Header::new_ustar();
    header.set_path(path).unwrap();
    header.set_mode(mode);
    header.set_size(content.len() as u64);
    if path.ends_with('/') {
        header.set_entry_type(tar::EntryType::Directory);
    }
    header.set_cksum();
    archive.append(&header, content).unwrap();
}
