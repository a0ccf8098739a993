//! The stage: folders, settings, the devnet and the node as processes of their own.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use node_store::{
    store::{Options, Store},
    view::View,
};
use node_types::{Digest, Network};
use serde_json::{Value, json};

use super::{
    folder,
    network::{Devnet, await_it, stuck},
    program::Program,
};
use crate::{failure::Failure, files};

/// The model that the demo runs.
pub(crate) const MODEL: &str = "gemma-3-270m";
/// SHA-256 of its file, Gemma 3 270M as GGUF, Q4_K_M.
const MODEL_SHA256: &str = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818";
/// Where a container engine listens.
pub(crate) const ENGINE: &str = "/var/run/docker.sock";
/// The largest program that is hashed, in bytes.
const PROGRAM_BYTES_MAX: usize = 64 << 20;
/// How long a process may take to end in good order.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the demo plays with.
#[derive(Debug)]
pub(crate) struct Stage {
    /// This very binary.
    pub(crate) binary: PathBuf,
    /// The demo's folder.
    pub(crate) folder: PathBuf,
    /// The network.
    pub(crate) devnet: Devnet,
    /// Files of models, which the network serves.
    models: PathBuf,
    images: Option<PathBuf>,
    network: Option<Program>,
    node: Option<Program>,
}

impl Stage {
    /// Makes the folders and starts the network. `runtime` holds the runtimes, `models` the models' files, `images` archives
    /// of container images.
    ///
    /// # Errors
    /// [`Failure`].
    pub(crate) fn set(
        place: &Path,
        runtime: &Path,
        models: &Path,
        images: Option<&Path>,
    ) -> Result<Self, Failure> {
        let binary = std::env::current_exe().map_err(Failure::Start)?;
        for made in [place, &place.join("home"), &place.join("network")] {
            folder::make(made)?;
        }
        folder::write(&place.join("template.json"), &template(runtime, models)?.to_string())?;
        let mut stage = Self {
            binary,
            folder: place.to_owned(),
            models: models.to_owned(),
            images: images.map(Path::to_owned),
            devnet: Devnet { url: String::new() },
            network: None,
            node: None,
        };
        stage.start_network()?;
        folder::write(&place.join("home/node.toml"), &stage.settings(runtime))?;
        Ok(stage)
    }

    fn settings(&self, runtime: &Path) -> String {
        // A basic string of TOML escapes what one of JSON does (toml.io, 1.0.0).
        let text = |path: &Path| json!(path.to_string_lossy());
        // Where scripts/runtime found the interpreter: outside of the system's folders it has to be named.
        let interpreter = folder::read(&runtime.join("interpreter"));
        let readable: Vec<&str> = interpreter.lines().filter(|line| !line.is_empty()).collect();
        let images = self.images.as_deref().map(|images| format!("images = {}\n", text(images)));
        format!(
            "network_url = \"{}\"\n\n[runtime]\nfolder = {}\nreadable = {}\n{}",
            self.devnet.url,
            text(runtime),
            json!(readable),
            images.unwrap_or_default()
        )
    }

    /// What scripts/image says of the image that it made; nothing where there is none, or no engine to run it.
    ///
    /// # Errors
    /// [`Failure::Demo`] where it is described in a way that cannot be read.
    pub(crate) fn image(&self) -> Result<Option<Value>, Failure> {
        let Some(images) = self.images.as_deref().filter(|_| Path::new(ENGINE).exists()) else {
            return Ok(None);
        };
        let described = folder::read(&images.join("runtime.json"));
        if described.is_empty() {
            return Ok(None);
        }
        let image = serde_json::from_str(&described);
        image.map(Some).map_err(|_| stuck(format!("{} is no JSON", images.join("runtime.json").display())))
    }

    /// Ends the network's process; what it knows stays in its folder.
    ///
    /// # Errors
    /// [`Failure::Demo`] where it does not end well.
    pub(crate) fn stop_network(&mut self) -> Result<(), Failure> {
        let ended = self.network.take().is_none_or(|network| network.stop(PATIENCE));
        if ended { Ok(()) } else { Err(stuck("the network did not end well: see network.log")) }
    }

    /// Starts the network, at the address that it had before.
    ///
    /// # Errors
    /// [`Failure`].
    pub(crate) fn start_network(&mut self) -> Result<(), Failure> {
        let log = self.folder.join("network.log");
        let address = self.devnet.url.strip_prefix("http://").unwrap_or("127.0.0.1:0").to_owned();
        let models = self.models.to_string_lossy();
        let arguments = [
            "--json",
            "devnet",
            "run",
            "--folder",
            "network",
            "--listen",
            &address,
            "--template",
            "template.json",
            "--models",
            &models,
        ];
        let mut program = Program::start(&self.binary, &arguments, &self.folder, &log)?;
        self.devnet.url = await_it("the network is up", || {
            if let Some(status) = program.ended() {
                return Err(stuck(format!("the network ended ({status}): see {}", log.display())));
            }
            let said = folder::read(&log);
            let mut lines = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            Ok(lines.find_map(|line| line["url"].as_str().map(str::to_owned)))
        })?;
        self.network = Some(program);
        Ok(())
    }

    /// Runs a command of the node's to its end: its exit code and what it wrote.
    ///
    /// # Errors
    /// [`Failure`].
    pub(crate) fn command(&self, arguments: &[&str]) -> Result<(i32, String, String), Failure> {
        let output = std::process::Command::new(&self.binary)
            .args(["--home", "home"])
            .args(arguments)
            .current_dir(&self.folder)
            .output()
            .map_err(Failure::Start)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        Ok((output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr)))
    }

    /// Runs a command that answers in JSON.
    ///
    /// # Errors
    /// [`Failure`].
    pub(crate) fn ask(&self, arguments: &[&str]) -> Result<Value, Failure> {
        let (code, answer, error) = self.command(&[&["--json"], arguments].concat())?;
        if code != 0 {
            return Err(stuck(format!("{arguments:?} ended with {code}: {error}")));
        }
        Ok(serde_json::from_str(&answer).unwrap_or(Value::Null))
    }

    /// Starts the Agent.
    ///
    /// # Errors
    /// [`Failure`].
    pub(crate) fn start_node(&mut self) -> Result<u32, Failure> {
        let log = self.folder.join("node.log");
        // Where there is room: a node of this machine may have the usual place.
        let arguments = ["--home", "home", "run", "--page-listen", "127.0.0.1:0"];
        let program = Program::start(&self.binary, &arguments, &self.folder, &log)?;
        let pid = program.pid();
        self.node = Some(program);
        Ok(pid)
    }

    /// SIGKILL for the Agent.
    pub(crate) fn kill_node(&mut self) {
        if let Some(node) = self.node.take() {
            node.kill();
        }
    }

    /// SIGTERM for the Agent. Says whether it ended in time and well.
    pub(crate) fn stop_node(&mut self) -> bool {
        self.node.take().is_none_or(|node| node.stop(PATIENCE))
    }

    /// Waits until the network sees the node ready for jobs.
    ///
    /// # Errors
    /// [`Failure`].
    pub(crate) fn await_active(&mut self) -> Result<(), Failure> {
        let (devnet, log) = (self.devnet.clone(), self.folder.join("node.log"));
        let node = &mut self.node;
        await_it("the node takes jobs", || {
            if let Some(status) = node.as_mut().and_then(Program::ended) {
                return Err(stuck(format!("the node ended ({status}): see {}", log.display())));
            }
            let state = devnet.get("/v1/devnet/state")?;
            let ready = state["nodes"].as_array().is_some_and(|nodes| {
                nodes.iter().any(|node| node["connected"] == true && node["concurrency"].as_u64() > Some(0))
            });
            Ok(ready.then_some(()))
        })
    }

    /// Looks at the node's store, beside the Agent.
    ///
    /// # Errors
    /// [`Failure`].
    pub(crate) fn view(&self) -> Result<View, Failure> {
        Ok(Store::view_only(&Options::new(&self.folder.join("home"), Network::Testnet))?)
    }

    /// Lets node and network run on, and gives their process IDs.
    pub(crate) fn let_go(mut self) -> Vec<u32> {
        [self.node.take(), self.network.take()].into_iter().flatten().map(Program::let_go).collect()
    }
}

/// What the network's snapshots say: the real model on the real runtime.
///
/// # Errors
/// [`Failure::Demo`] where one of them is missing.
pub(crate) fn template(runtime: &Path, models: &Path) -> Result<Value, Failure> {
    let program = runtime.join("llama/serve.py");
    let unreadable = |path: &Path| stuck(format!("{} is missing: run scripts/runtime first", path.display()));
    let bytes = files::read_if_there(&program, PROGRAM_BYTES_MAX).ok().flatten();
    let digest = Digest::of(&bytes.ok_or_else(|| unreadable(&program))?);
    let model = models.join(MODEL_SHA256);
    let model_bytes = std::fs::metadata(&model).map_err(|_| unreadable(&model))?.len();
    Ok(json!({
        "models": [{
            "name": MODEL, "version": "1.0.0", "tasks": ["chat", "completion"], "engine": "llama.cpp",
            "memory_bytes": 536_870_912,
            "files": [{ "path": "model.gguf", "bytes": model_bytes, "sha256": format!("sha256:{MODEL_SHA256}") }],
            "sources": [],
        }],
        "runtime": {
            "kind": "process", "engine": "llama.cpp", "command": "llama/serve.py", "digest": digest,
            "args": ["--host", "{host}", "--port", "{port}", "--model", "{model}"],
        },
        "limits": {
            "queue_jobs_max": 1000, "queue_bytes_max": 67_108_864, "request_bytes_max": 1_048_576,
            "max_tokens": 1024, "execution_timeout_ms": 60_000, "ttl_ms_max": 3_600_000, "attempts_max": 3,
            "concurrency": 2, "logs_bytes_max": 16_777_216,
        },
        "timings": {
            "heartbeat_ms": 1000, "sync_ms": 5000, "flush_ms": 1000, "retry_ms_min": 100, "retry_ms_max": 1000,
            "trace_ttl_ms": 86_400_000, "log_ttl_ms": 86_400_000, "offline_grace_ms": 3_600_000,
            "partial_file_ttl_ms": 3_600_000,
        },
        "refresh_after_ms": 3_600_000, "valid_for_ms": 7_200_000,
    }))
}
