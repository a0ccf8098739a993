//! The isolation, proven: a probe that is a runtime tries every way to the node key, the volume and the Agent, and must not
//! get there. The same probe without the protection must, or it proves nothing.
//!
//! The Agent of each test is this test's own program, started once more: as the superuser or as a plain user, with secrets
//! planted wherever something of an Agent's can be.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test that cannot go on must fail, and says what it saw"
)]
#![expect(clippy::disallowed_methods, reason = "tests make their own files, and tell their child what to be")]

#[expect(dead_code, reason = "each test file uses its part of it")]
mod container;
#[expect(dead_code, reason = "each test file uses its part of it")]
mod runtime;

use std::{
    collections::{BTreeMap, HashMap},
    fs::{DirBuilder, File},
    io::{BufRead, BufReader, Read, Write},
    net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket},
    os::{
        linux::net::SocketAddrExt,
        unix::{
            fs::{DirBuilderExt, FileTypeExt, PermissionsExt},
            net::{SocketAddr, UnixListener},
        },
    },
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
    thread,
};

use bollard::{
    models::{ContainerCreateBody, HostConfig},
    query_parameters::{CreateContainerOptions, InspectContainerOptions, StartContainerOptions},
};
use node_agent::runtime::{
    ContainerPlan, Endpoint, ModelsMount, Plan, ProcessPlan, Supervisor, Tuning,
    container::{SOCKET, obtain},
    sandbox,
};
use node_types::{Digest, job::Mode};
use runtime::*;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The environment variable that makes this program an Agent; it holds a [`Scene`] as JSON.
const AGENT: &str = "RESULTITY_ISOLATION_TEST";
/// The plain user: a number without a name.
const PLAIN: u32 = 54_321;
/// The environment variable that makes this program a bearer of the secret; it holds a [`Scene`] as JSON.
const BEARER: &str = "RESULTITY_ISOLATION_BEARER";
/// The environment variable that says that the kernel took keys.
const KEYS: &str = "RESULTITY_ISOLATION_KEYS";
/// Ways that are open to anybody of the Agent's user where nothing protects it, whatever the machine.
const OPEN: [&str; 31] = [
    "key_file",
    "key_write",
    "key_rename",
    "key_folder",
    "key_folder_swapped",
    "volume_folder",
    "volume_modes",
    "hard_link_found",
    "hard_link_made",
    "symlink_made",
    "agent_maps",
    "agent_environment",
    "agent_arguments",
    "agent_descriptors",
    "agent_root",
    "agent_folder",
    "agent_signal",
    "agent_limits",
    "inherited_descriptors",
    "own_environment",
    "shared_file",
    "shared_segment",
    "abstract_socket",
    "volume_socket",
    "loopback",
    "machine_service",
    "fast_open",
    "udp",
    "models_write",
    "model_swapped",
    "mounts",
];
/// Of these the ones that are closed to a container all the same: it is no child of the Agent's, and has fewer capabilities.
const CLOSED_TO_CONTAINERS: [&str; 8] = [
    "inherited_descriptors",
    "own_environment",
    "agent_maps",
    "agent_environment",
    "agent_descriptors",
    "agent_root",
    "agent_folder",
    "mounts",
];

/// What is open to a container all the same: a service of this machine that listens on all its addresses. Engines close their
/// internal networks to what lies beyond the machine, and not to the machine (`docs/threat-model.md`).
const LEFT_TO_CONTAINERS: &str = "machine_service";

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The probe, built for an image without any other file.
fn probe() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let target = exe.ancestors().nth(3).unwrap().join("isolation-probe");
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let built = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--quiet", "--locked", "--package", "isolation-probe", "--target", &triple])
        .arg("--target-dir")
        .arg(&target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    target.join(triple).join("debug/isolation-probe")
}

/// What an Agent of these tests has, and where.
#[derive(Serialize, Deserialize)]
struct Scene {
    /// Everything of it; the plain user's too.
    folder: PathBuf,
    secret: String,
    /// The number of the segment of System V memory.
    segment: u32,
    around: Around,
}

/// What the runtime is put into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Around {
    Nothing,
    Sandbox,
    /// A container as anybody might make one.
    OpenContainer,
    Container,
    /// The same, made by Podman.
    PodmanContainer,
}

impl Around {
    const fn protects(self) -> bool {
        match self {
            Self::Sandbox | Self::Container | Self::PodmanContainer => true,
            Self::Nothing | Self::OpenContainer => false,
        }
    }
}

impl Scene {
    fn volume(&self) -> PathBuf {
        self.folder.join("home/testnet")
    }

    fn key(&self) -> PathBuf {
        self.volume().join("keys/node.key")
    }

    fn models(&self) -> PathBuf {
        self.volume().join("models")
    }

    fn bearers_folder(&self) -> PathBuf {
        self.folder.join("bearer")
    }

    fn shared_file(&self) -> PathBuf {
        Path::new("/dev/shm").join(&self.secret[..16])
    }

    /// The volume, and a hard link to the key where anybody could find it.
    fn make_volume(&self) {
        DirBuilder::new().recursive(true).mode(0o700).create(self.volume().join("keys")).unwrap();
        std::fs::set_permissions(self.folder.join("home"), PermissionsExt::from_mode(0o755)).unwrap();
        DirBuilder::new().mode(0o755).create(self.models()).unwrap();
        for (path, text, mode) in [
            (self.key(), self.secret.as_str(), 0o600),
            (self.models().join("first"), "a model", 0o444),
            (self.shared_file(), self.secret.as_str(), 0o600),
        ] {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        }
        std::fs::hard_link(self.key(), self.folder.join("link")).unwrap();
    }

    /// What tells the secret to whoever connects, and the facts about it.
    fn listen(&self) -> Vec<(&'static str, String)> {
        let local = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let everywhere = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let datagrams = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let named = UnixListener::bind(self.volume().join("socket")).unwrap();
        let name = format!("resultity-test-{}", self.segment);
        let unnamed = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let facts = vec![
            ("--loopback", local.local_addr().unwrap().to_string()),
            ("--machine-service", format!("{}:{}", own_address(), everywhere.local_addr().unwrap().port())),
            ("--udp", datagrams.local_addr().unwrap().to_string()),
            ("--volume-socket", self.volume().join("socket").display().to_string()),
            ("--abstract-socket", name),
        ];
        for listener in [local, everywhere] {
            tell(self.secret.clone(), move || Ok(listener.accept()?.0));
        }
        for listener in [named, unnamed] {
            tell(self.secret.clone(), move || Ok(listener.accept()?.0));
        }
        let secret = self.secret.clone();
        thread::spawn(move || {
            while let Ok((_, from)) = datagrams.recv_from(&mut [0; 16]) {
                let _ = datagrams.send_to(secret.as_bytes(), from);
            }
        });
        facts
    }
}

/// Says the secret to everybody who is accepted.
fn tell<S: Write>(secret: String, accept: impl Fn() -> std::io::Result<S> + Send + 'static) {
    thread::spawn(move || {
        while let Ok(mut stream) = accept() {
            let _ = stream.write_all(secret.as_bytes());
        }
    });
}

/// An address of this machine that is not loopback, if it has one.
fn own_address() -> IpAddr {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    // Nothing is sent: it only says which address would be used.
    let routed = socket.connect(("192.0.2.1", 9));
    routed.and_then(|()| socket.local_addr()).map_or(Ipv4Addr::LOCALHOST.into(), |address| address.ip())
}

/// What the probe is told. `model` is where it should see the model, `bearer` the process that may fall.
fn facts(
    scene: &Scene,
    listening: Vec<(&'static str, String)>,
    address: usize,
    bearer: u32,
    model: &str,
) -> Vec<String> {
    let backwards: String = scene.secret.chars().rev().collect();
    let told = [
        ("--host", "{host}".to_owned()),
        ("--port", "{port}".to_owned()),
        ("--secret-backwards", backwards),
        ("--agent", process::id().to_string()),
        ("--address", address.to_string()),
        ("--key", scene.key().display().to_string()),
        ("--volume", scene.volume().display().to_string()),
        ("--link", scene.folder.join("link").display().to_string()),
        ("--shared-file", scene.shared_file().display().to_string()),
        ("--segment", scene.segment.to_string()),
        ("--bearer", bearer.to_string()),
        ("--bearers-folder", scene.bearers_folder().display().to_string()),
        ("--model", model.to_owned()),
    ];
    let told = told.into_iter().chain(listening);
    ["serve".to_owned()].into_iter().chain(told.flat_map(|(name, value)| [name.to_owned(), value])).collect()
}

/// Not a test of its own: a process with the secret in its memory, as an Agent has it, which may fall. Without a scene it does
/// nothing.
#[test]
fn the_bearer() {
    let Ok(scene) = std::env::var(BEARER) else { return };
    let scene: Scene = serde_json::from_str(&scene).unwrap();
    if scene.around.protects() {
        sandbox::harden_self().unwrap();
    }
    let in_memory = scene.secret.into_boxed_str();
    // Until whoever started it has ended, or it is ended itself.
    writeln!(std::io::stdout(), "\nBEARING").unwrap();
    let _ = std::io::stdin().read(&mut [0]);
    drop(in_memory);
}

/// Starts the bearer, and waits until it has the secret.
fn bearer(scene: &Scene) -> u32 {
    DirBuilder::new().mode(0o700).create(scene.bearers_folder()).unwrap();
    let mut child = Command::new(scene.folder.join("agent"))
        .args(["--exact", "the_bearer", "--nocapture"])
        .env_remove(AGENT)
        .env(BEARER, json!(scene).to_string())
        .current_dir(scene.bearers_folder())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let told = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(told.into_iter().any(|line| line == "BEARING"));
    let pid = child.id();
    // Whoever looks for it after its end finds nothing.
    let stdin = child.stdin.take();
    thread::spawn(move || {
        let _ = child.wait();
        drop(stdin);
    });
    pid
}

/// Not a test of its own: the Agent. Without a scene it does nothing.
#[tokio::test(flavor = "multi_thread")]
async fn the_agent() {
    let Ok(scene) = std::env::var(AGENT) else { return };
    let scene: Scene = serde_json::from_str(&scene).unwrap();
    scene.make_volume();
    let listening = scene.listen();
    // Given secrets in its memory, its folder and its descriptors, one of which is passed on by mistake,
    let in_memory = scene.secret.clone().into_boxed_str();
    let passed_on = File::open(scene.key()).unwrap();
    rustix::io::fcntl_setfd(&passed_on, rustix::io::FdFlags::empty()).unwrap();
    std::env::set_current_dir(scene.volume().join("keys")).unwrap();
    let work_folder = scene.folder.join("work");

    // when the runtime tries everything,
    let address = in_memory.as_ptr().addr();
    let model = match scene.around {
        Around::Nothing | Around::OpenContainer => scene.models().join("first").display().to_string(),
        Around::Sandbox | Around::Container | Around::PodmanContainer => "{model}".to_owned(),
    };
    let args = facts(&scene, listening, address, bearer(&scene), &model);
    let report = match scene.around {
        Around::Nothing => unprotected(&scene, &work_folder, args).await,
        Around::Sandbox => sandboxed(&scene, work_folder, args).await,
        Around::OpenContainer => loosely_contained(&scene, &work_folder, args).await,
        Around::Container => contained(&scene, container::stage().await.unwrap(), args).await,
        Around::PodmanContainer => contained(&scene, container::podman_stage().await.unwrap(), args).await,
    };

    // then it says what it reached.
    drop((in_memory, passed_on));
    let mut out = std::io::stdout();
    if std::env::var_os(KEYS).is_some() {
        writeln!(out, "\nKEYS").unwrap();
    }
    writeln!(out, "\nREPORT {report}").unwrap();
}

async fn tried(endpoint: &Endpoint) -> Value {
    let output = ask(endpoint, Mode::Chat, &json!({"model": "probe"})).await.unwrap();
    serde_json::from_str(json(&output)["choices"][0]["message"]["content"].as_str().unwrap()).unwrap()
}

fn probe_plan(scene: &Scene, work_folder: PathBuf, args: Vec<String>) -> ProcessPlan {
    let program = scene.folder.join("probe");
    ProcessPlan {
        digest: Digest::of(&std::fs::read(&program).unwrap()),
        program,
        args,
        models: Some(ModelsMount { folder: scene.models(), first: Some("first".to_owned()) }),
        hidden: vec![scene.volume()],
        work_folder,
        readable: Vec::new(),
        user: None,
        retry_ms_min: 3000,
        retry_ms_max: 3000,
    }
}

async fn sandboxed(scene: &Scene, work_folder: PathBuf, args: Vec<String>) -> Value {
    sandbox::harden_self().unwrap();
    let tuning = Tuning { ready_limit: PATIENCE, helper: scene.folder.join("helper"), ..Tuning::default() };
    let plan = probe_plan(scene, work_folder, args);
    let supervisor = Supervisor::start(Plan::Process(plan), tuning);
    let report = tried(&*ready(&supervisor).await).await;
    supervisor.stop().await;
    report
}

/// In an image with nothing else in it.
async fn contained(scene: &Scene, stage: container::Stage, args: Vec<String>) -> Value {
    sandbox::harden_self().unwrap();
    let supervisor = container::start(contained_plan(scene, &stage, args));
    let report = tried(&*container::ready(&supervisor).await).await;
    supervisor.stop().await;
    report
}

fn contained_plan(scene: &Scene, stage: &container::Stage, args: Vec<String>) -> ContainerPlan {
    let config = json!({
        "architecture": "amd64", "os": "linux",
        "config": { "Entrypoint": ["/probe"], "Labels": { "resultity.test": stage.owner.node } },
        "rootfs": { "type": "layers", "diff_ids": [Digest::of(&layer(&scene.folder))] },
    });
    let (digest, config) = stage.archive(&config, &layer(&scene.folder));
    ContainerPlan {
        digest,
        config_digest: Some(config),
        args,
        models: Some(ModelsMount { folder: scene.models(), first: Some("first".to_owned()) }),
        ..stage.plan(&[])
    }
}

/// In the same image, as somebody might run it who wants no trouble: as root, in this machine's namespaces, with its folders.
async fn loosely_contained(scene: &Scene, work_folder: &Path, args: Vec<String>) -> Value {
    DirBuilder::new().mode(0o755).create(work_folder).unwrap();
    let stage = container::stage().await.unwrap();
    let plan = contained_plan(scene, &stage, Vec::new());
    // As the engine has it once it was run; that it serves is of no account here.
    obtain(&plan).await.unwrap();
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let fill = |arg: String| arg.replace("{host}", "127.0.0.1").replace("{port}", &port.to_string());
    let folders = [scene.folder.clone(), "/run".into(), "/dev/shm".into()];
    let host = HostConfig {
        security_opt: Some(["seccomp=unconfined", "apparmor=unconfined"].map(str::to_owned).to_vec()),
        network_mode: Some("host".to_owned()),
        pid_mode: Some("host".to_owned()),
        ipc_mode: Some("host".to_owned()),
        binds: Some(folders.map(|folder| format!("{0}:{0}", folder.display())).to_vec()),
        ..HostConfig::default()
    };
    let body = ContainerCreateBody {
        image: Some(plan.config_digest.unwrap().to_string()),
        cmd: Some(args.into_iter().map(fill).collect()),
        env: Some(vec![format!("HOME={}", work_folder.display())]),
        labels: Some(HashMap::from([("resultity.node".to_owned(), stage.owner.node.to_string())])),
        host_config: Some(host),
        ..ContainerCreateBody::default()
    };
    let made = stage.engine.create_container(None::<CreateContainerOptions>, body).await.unwrap();
    stage.engine.start_container(&made.id, None::<StartContainerOptions>).await.unwrap();
    let endpoint = Endpoint::new(&format!("http://127.0.0.1:{port}"), None).unwrap();
    while endpoint.healthy().await.is_err() {
        let found = stage.engine.inspect_container(&made.id, None::<InspectContainerOptions>).await.unwrap();
        assert_eq!(found.state.unwrap().running, Some(true), "the probe ended");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    // The stage takes the container away.
    tried(&endpoint).await
}

fn layer(folder: &Path) -> Vec<u8> {
    let mut layer = tar::Builder::new(Vec::new());
    layer.mode(tar::HeaderMode::Deterministic);
    for name in ["tmp", "models"] {
        layer.append_dir(name, folder).unwrap();
    }
    layer.append_path_with_name(folder.join("probe"), "probe").unwrap();
    layer.into_inner().unwrap()
}

/// As a child of the Agent that nobody thought about.
async fn unprotected(scene: &Scene, work_folder: &Path, args: Vec<String>) -> Value {
    DirBuilder::new().mode(0o755).create(work_folder).unwrap();
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let fill = |arg: String| arg.replace("{host}", "127.0.0.1").replace("{port}", &port.to_string());
    let mut child = Command::new(scene.folder.join("probe"))
        .args(args.into_iter().map(fill))
        .current_dir(work_folder)
        .env("HOME", work_folder)
        .spawn()
        .unwrap();
    let endpoint = Endpoint::new(&format!("http://127.0.0.1:{port}"), None).unwrap();
    while endpoint.healthy().await.is_err() {
        assert!(child.try_wait().unwrap().is_none(), "the probe ended");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let report = tried(&endpoint).await;
    child.kill().unwrap();
    child.wait().unwrap();
    report
}

/// Sets a scene and runs an Agent in it, as `user` where that is another one. Gives what its runtime reached of all that
/// it tried, each with the detail, and whether the kernel took keys.
fn run(user: Option<u32>, around: Around) -> (BTreeMap<String, (bool, String)>, bool) {
    let folder = open_folder();
    for (name, file) in
        [("probe", probe()), ("helper", tuning().helper), ("agent", std::env::current_exe().unwrap())]
    {
        std::fs::copy(file, folder.path().join(name)).unwrap();
    }
    if let Some(user) = user {
        std::os::unix::fs::chown(folder.path(), Some(user), Some(user)).unwrap();
    }
    let scene = Scene {
        secret: format!("{:08}{}", process::id(), folder.path().display()).replace(['/', '.'], "S"),
        segment: process::id() & 0x7fff_ffff,
        folder: folder.path().to_owned(),
        around,
    };
    let user = user.map(|user| ["--user".to_owned(), user.to_string()]);
    let output = Command::new(folder.path().join("probe"))
        .arg("host")
        .args(["--secret-backwards", &scene.secret.chars().rev().collect::<String>()])
        .args(["--segment", &scene.segment.to_string()])
        .args(user.into_iter().flatten())
        .arg("--")
        .arg(folder.path().join("agent"))
        // The last one names no test: it is a secret in the Agent's arguments.
        .args(["--exact", "the_agent", "--nocapture", &scene.secret])
        .env(AGENT, json!(scene).to_string())
        .output()
        .unwrap();
    // It is outside of the folder, also where the Agent failed.
    let _ = std::fs::remove_file(scene.shared_file());
    let said = String::from_utf8_lossy(&output.stdout);
    let report = said.lines().find_map(|line| line.strip_prefix("REPORT "));
    let report = report.unwrap_or_else(|| panic!("{said}{}", String::from_utf8_lossy(&output.stderr)));
    let report: Value = serde_json::from_str(report).unwrap();
    // What it is there for it can read, however little else.
    assert_eq!(report["model"], "a model", "{report}");
    let ways = report["ways"].as_array().unwrap().iter().map(|way| {
        let (name, detail) = (way["way"].as_str().unwrap(), way["detail"].as_str().unwrap());
        (name.to_owned(), (way["reached"].as_bool().unwrap(), detail.to_owned()))
    });
    (ways.collect(), said.lines().any(|line| line == "KEYS"))
}

/// Asserts that nothing was reached, but for what is `left`, of at least 12 ways.
fn assert_closed((ways, _): &(BTreeMap<String, (bool, String)>, bool), left: Option<&str>) {
    for (name, (reached, detail)) in ways {
        eprintln!("{name}: {}: {detail}", if *reached { "REACHED" } else { "closed" });
    }
    assert!(ways.len() >= 12, "{ways:?}");
    let reached = ways.iter().filter(|(name, (reached, _))| *reached && Some(name.as_str()) != left);
    let reached: Vec<_> = reached.collect();
    assert!(reached.is_empty(), "{reached:#?}");
}

/// Asserts that every way is open that can be on this machine.
fn assert_open((ways, keys): &(BTreeMap<String, (bool, String)>, bool), user: Option<u32>, around: Around) {
    let reached: Vec<&str> =
        ways.iter().filter(|(_, (reached, _))| *reached).map(|(name, _)| name.as_str()).collect();
    eprintln!("{} of {}: {reached:?}", reached.len(), ways.len());
    let root = user.is_none() && is_root();
    let contained = around == Around::OpenContainer;
    let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    // A program that takes core dumps may do anything with them.
    let dumps = !text("/proc/sys/kernel/core_pattern").contains(['|', '/'])
        && (root || rustix::process::getrlimit(rustix::process::Resource::Core).maximum != Some(0));
    // A child may not trace its parent there.
    let traces =
        !contained && (root || matches!(text("/proc/sys/kernel/yama/ptrace_scope").trim(), "" | "0"));
    let some = |names: &[&'static str], wanted: bool| if wanted { names.to_vec() } else { Vec::new() };
    let wanted: Vec<&str> = [
        OPEN.into_iter().filter(|name| !contained || !CLOSED_TO_CONTAINERS.contains(name)).collect(),
        some(&["agent_core_dump"], dumps),
        some(&["agent_memory", "agent_trace", "agent_read_memory", "agent_take_descriptor"], traces),
        some(&["session_keyring", "requested_key"], *keys && !contained),
        some(&["user_keyring"], *keys && !contained),
        some(&["engine_socket", "engine_socket_linked"], root && Path::new(SOCKET).exists()),
        some(&["engine_socket_of_others"], root && !contained && Path::new(SOCKET).exists()),
    ]
    .concat();
    let closed: Vec<_> =
        wanted.iter().filter(|name| !reached.contains(*name)).map(|name| (name, &ways[*name])).collect();
    assert!(closed.is_empty(), "{closed:#?}");
}

/// The plain user to become; whoever runs the tests is one, unless that is the superuser.
fn plain() -> Option<u32> {
    is_root().then_some(PLAIN)
}

#[test]
fn the_runtime_of_an_agent_that_is_root_reaches_nothing() {
    // Where the tests do not run as root this is the next one once more.
    assert_closed(&run(None, Around::Sandbox), None);
}

#[test]
fn the_runtime_of_an_agent_that_is_a_plain_user_reaches_nothing() {
    assert_closed(&run(plain(), Around::Sandbox), None);
}

#[test]
fn a_runtime_in_a_container_reaches_nothing() {
    if !Path::new(SOCKET).exists() {
        eprintln!("not tested: there is no container engine at {SOCKET}");
        return;
    }
    assert_closed(&run(None, Around::Container), Some(LEFT_TO_CONTAINERS));
}

#[test]
fn a_runtime_in_a_container_of_podmans_reaches_nothing() {
    // Set up here, where there is time for it.
    if !container::Podman::is_there() {
        return;
    }
    assert_closed(&run(None, Around::PodmanContainer), Some(LEFT_TO_CONTAINERS));
}

#[test]
fn without_the_protection_the_same_probe_reaches_the_key() {
    for user in [plain(), None] {
        assert_open(&run(user, Around::Nothing), user, Around::Nothing);
    }
}

#[test]
fn in_a_container_without_the_protection_the_same_probe_reaches_the_key() {
    if !Path::new(SOCKET).exists() {
        eprintln!("not tested: there is no container engine at {SOCKET}");
        return;
    }
    assert_open(&run(None, Around::OpenContainer), None, Around::OpenContainer);
}

/// A scene without an Agent beside it.
fn scene(folder: &Path) -> Scene {
    let secret = format!("{:08}{}", process::id(), folder.display()).replace(['/', '.'], "S");
    std::fs::copy(probe(), folder.join("probe")).unwrap();
    let scene = Scene { folder: folder.to_owned(), secret, segment: process::id(), around: Around::Sandbox };
    scene.make_volume();
    std::fs::remove_file(scene.shared_file()).unwrap();
    scene
}

#[tokio::test(flavor = "multi_thread")]
async fn another_user_sees_the_models_read_only_and_no_volume() {
    if !is_root() {
        eprintln!("not tested: only root can start a runtime as another user");
        return;
    }
    let folder = open_folder();
    let scene = scene(folder.path());
    let args = ["serve", "--host", "{host}", "--port", "{port}"].map(str::to_owned).to_vec();
    let plan = probe_plan(&scene, folder.path().join("work"), args);
    let supervisor = start(plan);
    ready(&supervisor).await;

    // Root enters its view through `/proc`, and Landlock does not bind root there: this is the view alone.
    let program = *descendants(process::id()).last().unwrap();
    let seen = |path: &Path| PathBuf::from(format!("/proc/{program}/root{}", path.display()));
    assert_eq!(std::fs::read_dir(seen(&scene.volume())).unwrap().count(), 0);
    let model = seen(&folder.path().join("work/models/first"));
    assert_eq!(std::fs::read_to_string(&model).unwrap(), "a model");
    let refused = File::options().append(true).open(&model).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    for socket in
        ["/run/docker.sock", "/run/podman/podman.sock"].map(Path::new).iter().filter(|it| it.exists())
    {
        assert!(
            std::fs::metadata(seen(socket)).unwrap().file_type().is_char_device(),
            "{}",
            socket.display()
        );
    }
    // Nothing of it is seen outside.
    assert!(scene.key().exists());
    assert_eq!(std::fs::read_dir(folder.path().join("work/models")).unwrap().count(), 0);
    supervisor.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_in_the_place_of_a_folder_leads_nowhere() {
    let folder = open_folder();
    let scene = scene(folder.path());
    let keys = scene.volume().join("keys");
    let mode = || {
        std::fs::metadata(&keys)
            .map(|it| (it.permissions(), std::os::unix::fs::MetadataExt::uid(&it)))
            .unwrap()
    };
    let before = mode();
    let work = folder.path().join("work");
    let args = ["serve", "--host", "{host}", "--port", "{port}"].map(str::to_owned).to_vec();
    let cause = async || {
        let supervisor = start(probe_plan(&scene, work.clone(), args.clone()));
        let (cause, _) = down(&supervisor).await;
        supervisor.stop().await;
        cause
    };

    std::os::unix::fs::symlink(&keys, &work).unwrap();
    let refused = cause().await;
    assert!(refused.contains("it is no folder"), "{refused}");
    std::fs::remove_file(&work).unwrap();

    if is_root() {
        std::fs::create_dir(&work).unwrap();
        std::os::unix::fs::symlink(&keys, work.join("models")).unwrap();
        let refused = cause().await;
        assert!(refused.contains("cannot show the models in"), "{refused}");
    }
    assert_eq!(mode(), before);
}
