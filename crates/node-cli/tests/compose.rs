//! The Agent as a container, as `deploy/` has it: what the node is outlives `down` and `up`, and another image.
//!
//! The image is built from the binary of this tree, the secrets and `.env` are made, and the node is started, by the commands of
//! deploy/README.md. The runtime is a stand-in: what is tested is the Agent's state. The network is
//! a devnet in a container of the same image, which shares the Agent's addresses because it listens on loopback alone; a relay
//! beside it lets the test in.
//!
//! Where there is no container engine the test says so and passes. Where there is one, compose and root (the Agent would not take
//! somebody else's secrets) have to be there too.
#![expect(clippy::print_stderr, reason = "says why nothing is tested")]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test that cannot go on must fail"
)]

#[path = "../../node-agent/tests/container/compiled.rs"]
mod compiled;
#[path = "shared/host.rs"]
mod host;
#[path = "shared/pages.rs"]
#[expect(dead_code, reason = "no command of these runs beside others")]
mod pages;

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use host::{root, told};
use node_types::Digest;
use pages::{Line, Pages};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Where the engine listens.
const SOCKET: &str = "/var/run/docker.sock";
/// The longest that anything is waited for.
const PATIENCE: Duration = Duration::from_secs(240);
/// Where the devnet listens, for those who share its addresses.
const DEVNET: &str = "127.0.0.1:7411";

/// A composition, and all that it makes in the engine; taken away when it is dropped.
struct Composition {
    folder: TempDir,
    project: String,
    /// `docker compose` or `docker-compose`.
    compose: Vec<&'static str>,
    /// What the page's image is called, and whether it is to go with the composition.
    built: (String, bool),
    /// Whether the runtime answers nothing that says HOLD.
    holds: bool,
}

impl Composition {
    /// None where no engine is.
    fn new() -> Option<Self> {
        if !Path::new(SOCKET).exists() {
            eprintln!("not tested: there is no container engine at {SOCKET}");
            return None;
        }
        let compose = [vec!["docker", "compose"], vec!["docker-compose"]];
        let works = |it: &Vec<&str>| run(Command::new(it[0]).args(&it[1..]).arg("version")).is_some();
        let compose = compose.into_iter().find(works);
        let compose = compose.expect("there is an engine: install docker-compose, or its plugin for docker");
        assert!(rustix::process::geteuid().is_root(), "there is an engine: run this test as root");
        told(Command::new("docker").arg("info"));
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let project = format!(
            "resultity-test-{}",
            &Digest::of(folder.path().as_os_str().as_encoded_bytes()).hex()[..12]
        );
        let built = (format!("resultity-node:{}", env!("CARGO_PKG_VERSION")), false);
        let mut composition = Self { folder, project, compose, built, holds: true };
        composition.prepare();
        Some(composition)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, content: &[u8]) {
        std::fs::write(self.path(name), content).unwrap();
    }

    /// Images, models, the devnet's template, what the test adds to the composition, and what the page's commands need.
    fn prepare(&mut self) {
        std::fs::create_dir(self.path("stand-in")).unwrap();
        std::fs::copy(compiled::stand_in(), self.path("stand-in/stand_in")).unwrap();
        self.write(
            "stand-in/Dockerfile",
            b"FROM scratch\nCOPY stand_in /stand_in\nENTRYPOINT [\"/stand_in\"]\n",
        );
        self.build(&self.stand_in(), "stand-in");
        for folder in ["models", "deploy", "bin"] {
            std::fs::create_dir(self.path(folder)).unwrap();
        }
        std::fs::copy(root().join("deploy/compose.yaml"), self.path("deploy/compose.yaml")).unwrap();
        // Root needs no leave, and may have the plugin alone.
        self.script("sudo", "exec \"$@\"");
        self.script("docker-compose", &format!("exec {} \"$@\"", self.compose_path()));
        self.write("template.json", template().to_string().as_bytes());
        let image = format!("${{RESULTITY_IMAGE:-{}}}", self.built.0);
        let beside = |image: &str, command: &[&str]| json!({ "image": image, "command": command, "network_mode": "service:node", "depends_on": ["node"] });
        let mut devnet = beside(
            &image,
            &["devnet", "run", "--folder", "/var/lib/resultity/net", "--template", "/template.json"],
        );
        devnet["volumes"] = json!([
            "devnet:/var/lib/resultity",
            format!("{}:/template.json:ro", self.path("template.json").display())
        ]);
        let mut relay = beside(&self.stand_in(), &["--port", "7412", "--relay", DEVNET]);
        // So that it is made anew when the node is: compose does not see that it stands in the old one's network.
        relay["environment"] = json!({ "BESIDE": image });
        let override_file = json!({
            "services": {
                "node": { "environment": { "RESULTITY_SHUTDOWN_GRACE_MS": "200" } },
                "runtime": { "command": ["--port", "8080", "${HOLD}"] },
                "devnet": devnet, "relay": relay,
            },
            "volumes": { "devnet": {} },
        });
        self.write("deploy/override.json", override_file.to_string().as_bytes());
    }

    /// A program that the page's commands find first.
    fn script(&self, name: &str, script: &str) {
        let path = self.path("bin").join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    }

    /// Where compose is, whatever comes first in the PATH.
    fn compose_path(&self) -> String {
        let found = told(Command::new("sh").args(["-c", "command -v \"$0\"", self.compose[0]]));
        [&[found.trim()], &self.compose[1..]].concat().join(" ")
    }

    /// Runs a block of the page in a folder; gives what it said.
    fn types(&self, folder: &Path, block: &[Line]) -> String {
        told(&mut self.script_of(folder, block))
    }

    /// A block of the page, with what stands here for what a reader fills in.
    fn script_of(&self, folder: &Path, block: &[Line]) -> Command {
        let mut script = "set -e\n".to_owned();
        for line in block {
            script += &line.0;
            script.push('\n');
        }
        let models = self.path("models");
        for (reader, here) in [
            ("https://node.example.org", &*format!("http://{DEVNET}")),
            ("sha256:...", &self.stand_in()),
            ("/srv/models", models.to_str().unwrap()),
            ("<the name of the model's file there>", "none"),
            ("resultity-node:<next>", &self.next()),
        ] {
            script = script.replace(reader, here);
        }
        let mut command = Command::new("sh");
        let path = format!("{}:{}", self.path("bin").display(), std::env::var("PATH").unwrap());
        self.surround(&mut command);
        command.args(["-c", &script]).current_dir(folder).env("PATH", path);
        command
    }

    /// The page's way from nothing to a node that runs; gives what `init` and `status` said.
    fn begin(&mut self, pages: &mut Pages) -> String {
        let [image] = pages.take("deploy/README.md");
        let images = told(Command::new("docker").args(["images", "--quiet", &self.built.0]));
        self.built.1 = images.is_empty();
        assert_eq!(self.types(root(), &[image]).trim(), self.built.0);
        let secrets: [Line; 5] = pages.take("deploy/README.md");
        self.types(self.folder.path(), &secrets);
        let node: [Line; 5] = pages.take("deploy/README.md");
        self.types(&self.path("deploy"), &node)
    }

    fn stand_in(&self) -> String {
        format!("{}:stand-in", self.project)
    }

    /// The image that takes the place of the page's.
    fn next(&self) -> String {
        format!("{}:2", self.project)
    }

    fn build(&self, tag: &str, folder: &str) {
        let mut command = Command::new("docker");
        told(command.env("DOCKER_BUILDKIT", "0").args(["build", "-q", "-t", tag]).arg(self.path(folder)));
    }

    /// What compose reads from its environment: whose composition it is, and what differs from `.env`.
    fn surround(&self, command: &mut Command) {
        command
            .env("COMPOSE_FILE", "compose.yaml:override.json")
            .env("COMPOSE_PROJECT_NAME", &self.project)
            .env("HOLD", if self.holds { "--hold" } else { "--answer" });
    }

    fn compose(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.compose[0]);
        self.surround(&mut command);
        command.args(&self.compose[1..]).args(arguments).current_dir(self.path("deploy"));
        command
    }

    fn up(&self) {
        told(&mut self.compose(&["up", "-d", "-t", "3"]));
    }

    fn down(&self) {
        told(&mut self.compose(&["down", "-t", "3"]));
    }

    /// The service's container, as the engine describes it.
    fn container(&self, service: &str) -> Value {
        let id = told(&mut self.compose(&["ps", "-q", service]));
        let told = told(Command::new("docker").args(["inspect", id.trim()]));
        serde_json::from_str::<Value>(&told).unwrap()[0].take()
    }

    /// The program that the Agent runs.
    fn program(&self) -> Vec<u8> {
        let pid = self.container("node")["State"]["Pid"].clone();
        std::fs::read(format!("/proc/{pid}/exe")).unwrap()
    }

    /// Asks the devnet.
    async fn ask(&self, path: &str, body: Option<&Value>) -> Option<Value> {
        let node = self.container("node");
        let networks = node["NetworkSettings"]["Networks"].as_object()?.values();
        let address =
            networks.filter_map(|it| it["IPAddress"].as_str()).find(|it| !it.is_empty())?.to_owned();
        let client = reqwest::Client::new();
        let url = format!("http://{address}:7412{path}");
        let request = match body {
            Some(body) => client.post(url).header("content-type", "application/json").body(body.to_string()),
            None => client.get(url),
        };
        let answer = request.header("host", DEVNET).send().await.ok()?;
        serde_json::from_slice(&answer.error_for_status().ok()?.bytes().await.ok()?).ok()
    }

    /// Waits until the network sees the node ready, and gives its ID.
    async fn active(&self) -> String {
        let seen = self.eventually("the node takes jobs", async || {
            let state = self.ask("/v1/devnet/state", None).await?;
            let ready =
                state["nodes"][0]["connected"] == true && state["nodes"][0]["concurrency"].as_u64() > Some(0);
            (ready && state["nodes"].as_array()?.len() == 1).then_some(state)
        });
        seen.await["nodes"][0]["id"].as_str().unwrap().to_owned()
    }

    async fn submit(&self, prompt: &str) -> String {
        let request = json!({ "model": "m", "prompt": prompt, "max_tokens": 8 });
        let body = json!({ "mode": "completion", "request": request, "ttl_ms": 3_000_000 });
        self.ask("/v1/devnet/jobs", Some(&body)).await.unwrap()["id"].as_str().unwrap().to_owned()
    }

    /// Waits until the node holds the jobs.
    async fn held(&self, jobs: &[String]) {
        self.eventually("the node holds the jobs", async || {
            let list = self
                .compose(&["exec", "-T", "node", "/resultity-node", "jobs", "list", "--json"])
                .output()
                .ok()?;
            let list = String::from_utf8_lossy(&list.stdout).into_owned();
            jobs.iter().all(|job| list.contains(job)).then_some(())
        })
        .await;
    }

    /// Waits until the jobs have ended well.
    async fn ended(&self, jobs: &[String]) {
        for job in jobs {
            let ended = self.eventually("the job ends", async || {
                let seen = self.ask(&format!("/v1/devnet/jobs/{job}"), None).await?;
                (!seen["end"].is_null()).then_some(seen)
            });
            let ended = ended.await;
            assert!(ended["end"] == "result", "{ended}");
        }
    }

    async fn eventually<T>(&self, what: &str, look: impl AsyncFn() -> Option<T>) -> T {
        let found = async {
            loop {
                if let Some(found) = look().await {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        let found = tokio::time::timeout(PATIENCE, found).await;
        found.unwrap_or_else(|_| {
            let logs = self.compose(&["logs", "--no-color", "node", "devnet"]).output().unwrap();
            unreachable!("{what}: {}", String::from_utf8_lossy(&logs.stdout))
        })
    }
}

impl Drop for Composition {
    fn drop(&mut self) {
        let _ = self.compose(&["down", "--volumes", "--remove-orphans", "-t", "0"]).output();
        let mut images = vec![self.stand_in(), self.next()];
        if self.built.1 {
            images.push(self.built.0.clone());
        }
        let _ = Command::new("docker").args(["rmi", "-f"]).args(images).output();
    }
}

fn run(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// One model, and one job at a time, so that what comes after a job that is held waits.
fn template() -> Value {
    json!({
        "models": [{
            "name": "m", "version": "1", "tasks": ["completion"], "engine": "stand-in", "memory_bytes": 0,
            "files": [{ "path": "m.bin", "bytes": 1, "sha256": Digest::of(b"m") }], "sources": [],
        }],
        "runtime": { "kind": "external", "engine": "stand-in" },
        "limits": {
            "queue_jobs_max": 1000, "queue_bytes_max": 67_108_864, "request_bytes_max": 1_048_576,
            "max_tokens": 1024, "execution_timeout_ms": 1_800_000, "ttl_ms_max": 3_600_000, "attempts_max": 9,
            "concurrency": 1, "logs_bytes_max": 16_777_216,
        },
        "timings": {
            "heartbeat_ms": 500, "sync_ms": 60_000, "flush_ms": 500, "retry_ms_min": 50, "retry_ms_max": 500,
            "trace_ttl_ms": 86_400_000, "log_ttl_ms": 86_400_000, "offline_grace_ms": 3_600_000,
            "partial_file_ttl_ms": 3_600_000,
        },
        "refresh_after_ms": 3_600_000, "valid_for_ms": 7_200_000,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_outlives_its_containers_and_their_image() {
    let Some(mut composition) = Composition::new() else { return };
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut pages = Pages::of("compose");
    let said = composition.begin(&mut pages);
    let node = composition.active().await;
    for part in ["A node is made.", "container secret", &node] {
        assert!(said.contains(part), "{part}: {said}");
    }

    // The Agent has its volume and two secrets, the runtime has the models; both are closed, and the engine keeps little or
    // nothing of what they say.
    let little = json!({ "Type": "json-file", "Config": { "max-size": "10m", "max-file": "3" } });
    let nothing = json!({ "Type": "none", "Config": {} });
    for (service, user, writable, log) in [
        ("node", "65532:65532", vec!["/var/lib/resultity"], little),
        ("runtime", "65534:65534", vec![], nothing),
    ] {
        let container = composition.container(service);
        let (host, mounts) = (&container["HostConfig"], container["Mounts"].as_array().unwrap());
        assert_eq!(
            (&host["ReadonlyRootfs"], &host["CapDrop"], &container["Config"]["User"]),
            (&json!(true), &json!(["ALL"]), &json!(user))
        );
        assert!(
            host["SecurityOpt"].to_string().contains("no-new-privileges")
                && host["PidsLimit"].as_u64() > Some(0)
        );
        assert_eq!(host["LogConfig"], log);
        let found = mounts
            .iter()
            .filter(|it| it["RW"] == true && it["Type"] == "volume")
            .map(|it| it["Destination"].as_str().unwrap());
        assert_eq!(found.collect::<Vec<_>>(), writable, "{mounts:?}");
        let binds =
            mounts.iter().filter(|it| it["Type"] == "bind").map(|it| it["Destination"].as_str().unwrap());
        let wanted = if service == "node" {
            vec!["/run/secrets/resultity-kek", "/run/secrets/runtime-key"]
        } else {
            vec!["/models"]
        };
        let mut binds: Vec<_> = binds.collect();
        binds.sort_unstable();
        assert_eq!(binds, wanted);
    }
    let runtime = composition.container("runtime");
    let networks = runtime["NetworkSettings"]["Networks"].as_object().unwrap();
    assert_eq!(networks.keys().collect::<Vec<_>>(), [&format!("{}_inside", composition.project)]);

    let first = composition.submit("an answer").await;
    composition.ended(&[first]).await;

    // Down and up.
    let mut jobs = Vec::new();
    for prompt in ["HOLD", "after it", "and after that"] {
        jobs.push(composition.submit(prompt).await);
    }
    composition.held(&jobs).await;
    composition.down();
    let list =
        told(&mut composition.compose(&["run", "--rm", "-T", "--no-deps", "node", "jobs", "list", "--json"]));
    assert!(jobs.iter().all(|job| list.contains(job)), "{list}");
    composition.holds = false;
    composition.up();
    assert_eq!(composition.active().await, node);
    composition.ended(&jobs).await;

    // Another image with another program in it, which the network approves, without going down before.
    composition.holds = true;
    composition.up();
    composition.active().await;
    let before = (composition.container("node")["Image"].clone(), composition.program());
    // What stands behind the end of a program changes nothing of what it does.
    let update = [&before.1[..], b"another build"].concat();
    let agents = json!([{ "version": "99.0.0", "digest": Digest::of(&update) }]);
    let approval = json!({ "updates": { "agents": agents, "runtimes": [] } });
    composition.ask("/v1/devnet/snapshots", Some(&approval)).await.unwrap();
    composition
        .eventually("the node knows what is approved", async || {
            let mut check =
                composition.compose(&["exec", "-T", "node", "/resultity-node", "update", "check"]);
            run(&mut check).filter(|said| said.contains("99.0.0"))
        })
        .await;
    composition.active().await;
    let mut jobs = Vec::new();
    for prompt in ["HOLD", "after it", "and after that"] {
        jobs.push(composition.submit(prompt).await);
    }
    composition.held(&jobs).await;
    std::fs::create_dir(composition.path("update")).unwrap();
    let dockerfile = format!("FROM {}\nCOPY resultity-node /resultity-node\n", composition.built.0);
    composition.write("update/Dockerfile", dockerfile.as_bytes());
    let handover: [Line; 6] = pages.take("docs/upgrade.md");
    pages.end();
    // Up to where the page compares: what it shows of an image is what would run.
    let compare = &handover[..2];
    for (program, approved) in [(&b"something else"[..], false), (&update, true)] {
        composition.write("update/resultity-node", program);
        let file = composition.path("update/resultity-node");
        std::fs::set_permissions(file, PermissionsExt::from_mode(0o755)).unwrap();
        composition.build(&composition.next(), "update");
        let ended = composition.script_of(&composition.path("deploy"), compare).output().unwrap();
        let said = String::from_utf8_lossy(&ended.stdout).into_owned();
        assert_eq!(ended.status.success(), approved, "{said}");
        assert!(said.contains(&Digest::of(program).to_string()), "{said}");
        // The page's next line does it, with the name that the shell has.
        let of_next = format!("ancestor={}", composition.next());
        let made = told(Command::new("docker").args(["ps", "-aq", "--filter", &of_next]));
        assert_eq!(made.lines().count(), 1, "{made}");
        told(Command::new("docker").args(["rm", made.trim()]));
        if !approved {
            told(Command::new("docker").args(["rmi", &composition.next()]));
        }
    }
    composition.holds = false;
    composition.types(&composition.path("deploy"), &handover);
    assert_eq!(composition.active().await, node);
    assert_ne!(composition.container("node")["Image"], before.0);
    assert!(composition.program() == update, "the Agent that runs is the other one");
    composition.ended(&jobs).await;
}
