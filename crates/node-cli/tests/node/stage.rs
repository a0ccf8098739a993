//! A devnet in this process, and the node as a process of its own: the real binary, killed with the real SIGKILL.

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use node_devnet::{ConfigTemplate, Devnet, DevnetError, Fault, Settings};
use node_store::{
    store::{Options, Store},
    view::View,
};
use node_types::{Digest, Network};
use rustix::process::Pid;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::stand_in::StandIn;

/// The longest that anything is waited for, on a machine with other things to do too.
pub const PATIENCE: Duration = Duration::from_secs(120);

pub struct Stage {
    pub folder: tempfile::TempDir,
    pub devnet: Option<Devnet>,
    pub url: String,
    /// What the node's environment has more.
    pub environment: Vec<(&'static str, PathBuf)>,
    /// What is run as the node, and as its commands.
    pub program: PathBuf,
    settings: Settings,
    node: Option<Child>,
}

/// A template for a runtime of the operator's.
pub fn external() -> Value {
    json!({
        "models": [{
            "name": "m", "version": "1", "tasks": ["completion"], "engine": "stand-in", "memory_bytes": 0,
            "files": [{ "path": "m.bin", "bytes": 1, "sha256": Digest::of(b"m") }], "sources": [],
        }],
        "runtime": { "kind": "external", "engine": "stand-in" },
        "limits": {
            "queue_jobs_max": 1000, "queue_bytes_max": 67_108_864, "request_bytes_max": 1_048_576,
            "max_tokens": 1024, "execution_timeout_ms": 60_000, "ttl_ms_max": 3_600_000, "attempts_max": 3,
            "concurrency": 2, "logs_bytes_max": 16_777_216,
        },
        "timings": {
            "heartbeat_ms": 500, "sync_ms": 60_000, "flush_ms": 500, "retry_ms_min": 50, "retry_ms_max": 500,
            "trace_ttl_ms": 86_400_000, "log_ttl_ms": 86_400_000, "offline_grace_ms": 3_600_000,
            "partial_file_ttl_ms": 3_600_000,
        },
        "refresh_after_ms": 3_600_000, "valid_for_ms": 7_200_000,
    })
}

/// `document` with the value at the JSON pointer replaced.
pub fn with(mut document: Value, pointer: &str, value: impl Into<Value>) -> Value {
    *document.pointer_mut(pointer).unwrap() = value.into();
    document
}

/// A node that runs and takes jobs, and the stand-in that runs them.
pub async fn running(template: Value) -> (Stage, StandIn) {
    let runtime = StandIn::start().await;
    let mut stage = Stage::set(template, &format!("[runtime]\nurl = \"{}\"", runtime.url)).await;
    stage.start_node();
    stage.active().await;
    (stage, runtime)
}

impl Stage {
    /// A devnet whose snapshots say `template`, and a node that was made and does not run.
    pub async fn set(template: Value, runtime: &str) -> Self {
        Self::set_with(template, runtime, None).await
    }

    /// Likewise, and the devnet serves the files of models that stand in a folder.
    pub async fn set_with(template: Value, runtime: &str, models: Option<PathBuf>) -> Self {
        // Whoever came first has installed it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let config: ConfigTemplate = serde_json::from_value(template).unwrap();
        let settings = Settings {
            folder: folder.path().join("network"),
            network: Network::Testnet,
            listen: "127.0.0.1:0".parse().unwrap(),
            chain_id: 84_532,
            config,
            models,
            job_ttl_ms: 600_000,
            offer_retry_ms: 200,
            reassign_after_ms: 600_000,
            images: None,
        };
        let devnet = Devnet::start(settings.clone()).await.unwrap();
        let url = devnet.url();
        let home = folder.path().join("home");
        std::fs::create_dir(&home).unwrap();
        std::fs::write(home.join("node.toml"), format!("network_url = \"{url}\"\n{runtime}")).unwrap();
        // The same address if it is started again.
        let settings = Settings { listen: devnet.address(), ..settings };
        let program = PathBuf::from(env!("CARGO_BIN_EXE_resultity-node"));
        let environment = Vec::new();
        let stage = Self { folder, devnet: Some(devnet), url, environment, program, settings, node: None };
        assert_eq!(stage.command(&["init"]).0, Some(0));
        stage
    }

    pub fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    /// A library made of a C file beside this one, for the node's environment.
    pub fn library(&self, source: &str, name: &str) -> PathBuf {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/node").join(source);
        let library = self.folder.path().join(name);
        let made = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).output();
        let made = made.unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        library
    }

    /// Runs a command of the node's to its end.
    pub fn command(&self, arguments: &[&str]) -> (Option<i32>, String) {
        self.command_in(&self.home(), arguments)
    }

    /// The same in another home.
    pub fn command_in(&self, home: &Path, arguments: &[&str]) -> (Option<i32>, String) {
        let output = self.binary(home).args(arguments).output().unwrap();
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (output.status.code(), text)
    }

    /// Begins a command that goes on until it is interrupted, its standard output in a pipe; whoever does so ends it.
    pub fn begin(&self, arguments: &[&str]) -> Child {
        self.binary(&self.home()).args(arguments).stdout(Stdio::piped()).spawn().unwrap()
    }

    fn binary(&self, home: &Path) -> Command {
        let mut command = Command::new(&self.program);
        // Nodes of other tests run at the same time.
        command.arg("--home").arg(home).env("RESULTITY_PAGE_LISTEN", "127.0.0.1:0");
        command
    }

    pub fn start_node(&mut self) {
        self.start_node_with(&[]);
    }

    /// Starts it with more flags.
    pub fn start_node_with(&mut self, flags: &[&str]) {
        self.node = Some(self.start_in(&self.home(), flags));
    }

    /// Starts a node in another home; whoever does so ends it.
    pub fn start_in(&self, home: &Path, flags: &[&str]) -> Child {
        let log =
            File::options().append(true).create(true).open(self.folder.path().join("node.log")).unwrap();
        self.binary(home)
            .args(["run", "--log", "debug,hyper_util=info,tungstenite=info"])
            .args(flags)
            .envs(self.environment.clone())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    /// The node's process.
    pub fn node(&mut self) -> &mut Child {
        self.node.as_mut().unwrap()
    }

    /// The node is another process from now on.
    pub fn adopt(&mut self, node: Child) {
        self.node = Some(node);
    }

    pub fn kill_node(&mut self) {
        if let Some(mut node) = self.node.take() {
            node.kill().unwrap();
            node.wait().unwrap();
        }
    }

    /// Asks the node to stop, and gives its exit code.
    pub async fn stop_node(&mut self) -> Option<i32> {
        self.ask_to_stop();
        self.node_ends().await
    }

    /// Asks the node to stop.
    pub fn ask_to_stop(&self) {
        let pid = Pid::from_child(self.node.as_ref().unwrap());
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    /// Waits until the node has ended, and gives its exit code.
    pub async fn node_ends(&mut self) -> Option<i32> {
        let mut node = self.node.take().unwrap();
        let code = eventually("the node ends", || std::future::ready(node.try_wait().unwrap())).await.code();
        if self.devnet.is_some() {
            // Or whoever waits for the next start would see this one.
            eventually("the network sees that it ended", || async {
                let state = self.get("state").await;
                (state["nodes"][0]["connected"] != true).then_some(())
            })
            .await;
        }
        code
    }

    /// Ends the network, and what it has on disk stays.
    pub async fn stop_network(&mut self) {
        self.devnet.take().unwrap().stop().await;
    }

    pub async fn start_network(&mut self) {
        // Somebody may have its port just now as their own end of a connection.
        let started = eventually("its address is free", || async {
            let started = Devnet::start(self.settings.clone()).await;
            (!matches!(started, Err(DevnetError::Listen { .. }))).then_some(started)
        });
        let started = started.await;
        self.devnet = Some(started.unwrap());
    }

    pub fn fault(&self, fault: Fault) {
        self.devnet.as_ref().unwrap().fault(fault).unwrap();
    }

    /// The node's store, beside the Agent.
    pub fn view(&self) -> View {
        Store::view_only(&Options::new(&self.home(), Network::Testnet)).unwrap()
    }

    /// Makes a file's seal hold as it is now, whatever is in it: the fault of a disk, or of whoever writes below the file
    /// system, forced from above. No Agent may run.
    pub fn seal_as_it_is(&self, sha256: Digest) {
        use std::os::unix::fs::MetadataExt;
        let volume = self.home().join("testnet");
        let found = volume.join("models").join(sha256.hex()).metadata().unwrap();
        let state = rusqlite::Connection::open(volume.join("state.db")).unwrap();
        let key = sha256.as_bytes();
        let held: String =
            state.query_row("SELECT mark FROM files WHERE sha256 = ?1", [key], |row| row.get(0)).unwrap();
        let mut mark: Value = serde_json::from_str(&held).unwrap();
        mark["sealed"]["changed"] = json!([found.ctime(), found.ctime_nsec()]);
        let changed =
            state.execute("UPDATE files SET mark = ?2 WHERE sha256 = ?1", (key, mark.to_string())).unwrap();
        assert_eq!(changed, 1);
        let standing = self.view().models().stand(sha256).unwrap();
        assert_eq!(standing, node_store::models::Standing::Sealed, "{held}");
    }

    /// How much processor time the node has taken, in milliseconds: proc(5), in ticks of 10 ms.
    pub fn cpu_ms(&self) -> u64 {
        let stat =
            std::fs::read_to_string(format!("/proc/{}/stat", self.node.as_ref().unwrap().id())).unwrap();
        let (_, fields) = stat.rsplit_once(')').unwrap();
        let ticks = fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().unwrap());
        ticks.sum::<u64>() * 10
    }

    pub async fn get(&self, path: &str) -> Value {
        let answer = reqwest::get(format!("{}/v1/devnet/{path}", self.url)).await.unwrap();
        serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap()
    }

    pub async fn post(&self, path: &str, body: &Value) -> Value {
        let request = reqwest::Client::new()
            .post(format!("{}{path}", self.url))
            .header("content-type", "application/json")
            .body(body.to_string());
        let answer = request.send().await.unwrap();
        let status = answer.status();
        let body = answer.bytes().await.unwrap();
        assert!(status.is_success(), "{path}: {status} {}", String::from_utf8_lossy(&body));
        serde_json::from_slice(&body).unwrap()
    }

    /// Hands in a job and gives its ID.
    pub async fn submit(&self, prompt: &str) -> String {
        self.submit_with(prompt, 600_000).await
    }

    pub async fn submit_with(&self, prompt: &str, ttl_ms: u64) -> String {
        let request = json!({ "model": "m", "prompt": prompt, "max_tokens": 8 });
        let body = json!({ "mode": "completion", "request": request, "ttl_ms": ttl_ms });
        self.post("/v1/devnet/jobs", &body).await["id"].as_str().unwrap().to_owned()
    }

    pub async fn job(&self, id: &str) -> Value {
        self.get(&format!("jobs/{id}")).await
    }

    /// The job once it has ended.
    pub async fn ended(&self, id: &str) -> Value {
        eventually(&format!("job {id} ends"), || async {
            Some(self.job(id).await).filter(|job| !job["end"].is_null())
        })
        .await
    }

    /// Waits until the network sees the node ready.
    pub async fn active(&self) {
        eventually("the node takes jobs", || async {
            let state = self.get("state").await;
            let node = &state["nodes"][0];
            (node["connected"] == true && node["concurrency"].as_u64() > Some(0)).then_some(())
        })
        .await;
    }

    /// Where the node's page is, as the command line finds it.
    pub async fn page(&self) -> String {
        let page = eventually("the node has a page", || async {
            let (code, said) = self.command(&["status", "--json"]);
            assert_eq!(code, Some(0), "{said}");
            let standing: Value = serde_json::from_str(&said).unwrap();
            (standing["source"] == "agent").then(|| standing["agent"]["page"].as_str().unwrap().to_owned())
        });
        page.await
    }

    /// What the Agent said so far.
    pub fn said(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("node.log")).unwrap_or_default()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(node) = &mut self.node {
            let _ = node.kill();
            let _ = node.wait();
        }
        if std::thread::panicking() {
            eprintln!("{}", self.said());
        }
    }
}

/// A node's figures as Prometheus reads them from its page: each series, its labels as they are written, and its value.
pub async fn figures(page: &str) -> BTreeMap<String, f64> {
    let text = reqwest::get(format!("{page}/metrics")).await.unwrap().text().await.unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let series = lines.map(|line| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        (name.to_owned(), value.parse().unwrap())
    });
    series.collect()
}

/// Looks until there is something.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "{what}: not after {} s", PATIENCE.as_secs());
        sleep(Duration::from_millis(20)).await;
    }
}

/// The processes below one, as proc(5) has them.
pub fn children(parent: u32) -> Vec<Pid> {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{parent}/task")) else { return Vec::new() };
    let lists = tasks.flatten().filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .filter_map(|pid| Pid::from_raw(pid.parse().ok()?))
        .collect()
}
