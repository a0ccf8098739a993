//! A runtime in a container, by the real engine. The program in it is a stand-in: what is tested is the container.
//!
//! Where there is no engine, these tests say so and pass.
#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test that cannot go on must fail")]

#[expect(dead_code, reason = "each test file uses its part of it")]
mod container;

use std::{
    collections::HashMap,
    net::{TcpListener, TcpStream},
    path::Path,
    time::{Duration, SystemTime},
};

use bollard::{
    models::{ContainerCreateBody, ContainerUpdateBody, NetworkConnectRequest, NetworkCreateRequest},
    query_parameters::{
        CreateContainerOptionsBuilder, EventsOptionsBuilder, LogsOptionsBuilder, TagImageOptionsBuilder,
    },
};
use container::{
    PATIENCE, Stage, ask, crash, down, foreign, id, layer, ready, refused, said, seen, stage, start,
};
use futures_util::StreamExt as _;
use node_agent::runtime::{ContainerPlan, Endpoint, ImageFacts, Plan, State, Supervisor, Tuning};
use node_devnet::{Devnet, Settings};
use node_types::{Digest, Network};
use serde_json::json;
use tokio::sync::mpsc;

#[tokio::test(flavor = "multi_thread")]
async fn an_image_from_an_archive_runs_and_leaves_nothing() {
    let Some(stage) = stage().await else { return };
    let plan = stage.plan(&["--say", "my first words"]);
    let (digest, config) = (plan.digest, plan.config_digest);
    let supervisor = start(plan);
    let mut lines = supervisor.lines();
    let endpoint = ready(&supervisor).await;
    let facts = ImageFacts { manifest: digest, config, platform: "linux/amd64".to_owned() };
    assert_eq!(*supervisor.image().borrow(), Some(facts));
    assert_eq!(said(&endpoint, "unheard of", "").await, "no such trick: unheard of");

    let made = stage.container().await;
    assert_eq!(made.name.unwrap(), format!("/{}", stage.owner.name()));
    assert_eq!(made.image.unwrap(), stage.config().to_string(), "made from the image's own digest");
    assert_eq!(stage.networks().await, [stage.owner.name()]);
    let mut heard = Vec::new();
    for _ in 0..3 {
        heard.push(tokio::time::timeout(PATIENCE, lines.recv()).await.unwrap().unwrap());
    }
    assert!(
        heard.contains(&"my first words".to_owned()) && heard.contains(&"and an error".to_owned()),
        "{heard:?}"
    );

    // Without its key it answers nothing but its health.
    let stranger = Endpoint::new(endpoint.url(), None).unwrap();
    stranger.healthy().await.unwrap();
    ask(&stranger, &json!({"model": "probe"})).await.unwrap_err();

    supervisor.stop().await;
    assert!(stage.containers().await.is_empty() && stage.networks().await.is_empty());
    assert!(stage.has_image(stage.config()).await, "the image is kept for the next start");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_it_sees_nothing_but_the_models_and_writes_nowhere_but_in_its_temporary_folder() {
    let Some(stage) = stage().await else { return };
    let supervisor = start(stage.plan(&["{model}", "{models}", "{host}"]));
    let endpoint = ready(&supervisor).await;
    let seen = seen(&endpoint).await;
    let text = |name: &str| seen.text(name);
    assert_eq!(text("arguments"), "--port\n8080\n/models/model\n/models\n0.0.0.0");
    seen.assert_kept_apart();

    // What is mounted: the engine's own files and file systems, the temporary folder, the models.
    let mounts = text("mounts");
    let places: Vec<&str> = mounts.lines().map(|line| line.split(' ').nth(4).unwrap()).collect();
    let own = ["/proc", "/dev", "/sys", "/etc/resolv.conf", "/etc/hostname", "/etc/hosts"];
    let others: Vec<_> = places
        .iter()
        .filter(|it| **it != "/" && !own.iter().any(|own| *it == own || it.starts_with(&format!("{own}/"))))
        .collect();
    assert_eq!(others.len(), 2, "{others:?}");
    let tmp = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/tmp")).unwrap();
    for option in ["noexec", "nosuid", "nodev", "size=1048576k"] {
        assert!(tmp.contains(option), "{tmp}");
    }

    let own = ["HOME", "HOSTNAME", "LANG", "OF_THE_IMAGE", "PATH", "RUNTIME_API_KEY", "TMPDIR"];
    assert_eq!(seen.variables(), own, "and what the image itself brings");
    let devices = text("devices");
    let devices: Vec<_> =
        devices.lines().skip(2).map(|line| line.split(':').next().unwrap().trim()).collect();
    assert!(devices.contains(&"lo") && devices.contains(&"eth0"), "{devices:?}");

    let made = stage.container().await.host_config.unwrap();
    assert_eq!(made.readonly_rootfs, Some(true));
    assert_eq!(
        (made.privileged, made.cap_drop, made.ipc_mode),
        (Some(false), Some(vec!["ALL".into()]), Some("private".into()))
    );
    assert_eq!(
        (made.memory, made.memory_swap, made.pids_limit),
        (Some(256 << 20), Some(256 << 20), Some(1024))
    );
    assert_eq!((made.binds, made.devices.unwrap_or_default().len()), (None, 0));
    supervisor.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_no_way_out() {
    let Some(stage) = stage().await else { return };
    let supervisor = start(stage.plan(&[]));
    let endpoint = ready(&supervisor).await;
    let here = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = here.local_addr().unwrap().port();
    // A neighbour in the network that containers usually have, which this machine does reach.
    let neighbour = stage.neighbour().await;
    TcpStream::connect(&neighbour).unwrap();
    // Addresses outside, the neighbour, this machine's loopback, and its own, which must work or the test shows nothing.
    let own = endpoint.url().strip_prefix("http://").unwrap();
    let addresses = ["192.0.2.1:80", "1.1.1.1:53", &neighbour, &format!("127.0.0.1:{port}"), own];
    let tried = said(&endpoint, "connect", &addresses.join(",")).await;
    let tried: Vec<_> = tried.split(' ').map(|it| it == "done").collect();
    assert_eq!(tried, [false, false, false, false, true]);
    let network = stage.engine.inspect_network(&stage.owner.name(), None).await.unwrap();
    assert_eq!(network.internal, Some(true));
    assert_eq!(network.containers.unwrap().len(), 1, "nobody else is in it");
    supervisor.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_prints_is_handed_out_and_kept_nowhere() {
    let Some(stage) = stage().await else { return };
    let supervisor = start(stage.plan(&[]));
    let mut lines = supervisor.lines();
    let endpoint = ready(&supervisor).await;
    assert_eq!(said(&endpoint, "print", "").await, "printed");
    let canary = async { while !lines.recv().await.is_ok_and(|line| line.starts_with("CANARY")) {} };
    tokio::time::timeout(PATIENCE, canary).await.unwrap();
    let made = stage.container().await;
    assert_eq!(made.log_path.unwrap_or_default(), "");
    let options = LogsOptionsBuilder::default().stdout(true).stderr(true).build();
    let kept = stage.engine.logs(&made.id.unwrap(), Some(options)).next().await;
    assert!(!matches!(kept, Some(Ok(_))), "{kept:?}");
    supervisor.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_not_the_approved_one_is_never_loaded_or_started() {
    let Some(stage) = stage().await else { return };
    let plan = stage.plan(&[]);
    let other = Digest::of(b"another image");

    // An archive with another image in it.
    std::fs::copy(stage.archive_path(plan.digest), stage.archive_path(other)).unwrap();
    let cause = refused(ContainerPlan { digest: other, config_digest: None, ..plan.clone() }).await;
    assert!(
        cause.contains("it does not hold this manifest") && cause.contains(&other.to_string()),
        "{cause}"
    );

    // The right name around another content: of the manifest, the configuration, the layer.
    let whole = std::fs::read(stage.archive_path(plan.digest)).unwrap();
    let layer = format!("its blob {} is sha256:", Digest::of(&layer()));
    let config = format!("its blob {} is sha256:", stage.config());
    for (part, told) in
        [("\"layers\"", "its manifest is sha256:"), ("OF_THE_IMAGE", &config), ("no such trick", &layer)]
    {
        let mut changed = whole.clone();
        let at = whole.windows(part.len()).position(|it| it == part.as_bytes()).unwrap();
        changed[at + 1] = b'X';
        std::fs::write(stage.archive_path(plan.digest), changed).unwrap();
        let cause = refused(ContainerPlan { config_digest: None, ..plan.clone() }).await;
        assert!(cause.contains("is no archive of the image") && cause.contains(told), "{part}: {cause}");
        assert!(!stage.has_image(stage.config()).await, "{part}");
    }
    std::fs::write(stage.archive_path(plan.digest), &whole).unwrap();

    // Another configuration than the snapshot's.
    let cause = refused(ContainerPlan { config_digest: Some(other), ..plan.clone() }).await;
    assert!(cause.contains(&other.to_string()) && cause.contains(&stage.config().to_string()), "{cause}");
    // Likewise where the engine has it already.
    let supervisor = start(plan.clone());
    ready(&supervisor).await;
    supervisor.stop().await;
    std::fs::remove_file(stage.archive_path(plan.digest)).unwrap();
    let cause = refused(ContainerPlan { config_digest: Some(other), ..plan.clone() }).await;
    assert!(
        cause.contains("cannot be pulled") && cause.contains(&format!("{}.tar", plan.digest.hex())),
        "{cause}"
    );
    // And by the configuration that the snapshot names it is found again without its archive.
    let supervisor = start(plan);
    ready(&supervisor).await;
    supervisor.stop().await;
}

/// A devnet with a registry of what is in a folder.
async fn registry(stage: &Stage, images: &Path) -> Devnet {
    let template = json!({
        "models": [],
        "runtime": { "kind": "external", "engine": "stand-in" },
        "limits": {
            "queue_jobs_max": 10, "queue_bytes_max": 67_108_864, "request_bytes_max": 1_048_576, "max_tokens": 1024,
            "execution_timeout_ms": 60_000, "ttl_ms_max": 3_600_000, "attempts_max": 3, "concurrency": 2,
            "logs_bytes_max": 16_777_216,
        },
        "timings": {
            "heartbeat_ms": 500, "sync_ms": 60_000, "flush_ms": 500, "retry_ms_min": 50, "retry_ms_max": 500,
            "trace_ttl_ms": 86_400_000, "log_ttl_ms": 86_400_000, "offline_grace_ms": 3_600_000,
            "partial_file_ttl_ms": 3_600_000,
        },
        "refresh_after_ms": 3_600_000, "valid_for_ms": 7_200_000,
    });
    let settings = Settings {
        folder: stage.folder.path().join("network"),
        network: Network::Testnet,
        listen: "127.0.0.1:0".parse().unwrap(),
        chain_id: 84_532,
        config: serde_json::from_value(template).unwrap(),
        models: None,
        images: Some(images.to_owned()),
        job_ttl_ms: 600_000,
        offer_retry_ms: 200,
        reassign_after_ms: 600_000,
    };
    Devnet::start(settings).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pulled_by_its_digest() {
    let Some(stage) = stage().await else { return };
    let plan = stage.plan(&[]);
    let layout = stage.folder.path().join("layout");
    let archive = stage.archive_path(plan.digest);
    tar::Archive::new(std::fs::File::open(&archive).unwrap()).unpack(&layout).unwrap();
    std::fs::remove_file(archive).unwrap();
    let devnet = registry(&stage, &layout).await;
    let image = format!("{}/runtimes/stand-in", devnet.address());
    let plan = ContainerPlan { image, images: None, config_digest: None, ..plan };

    let unknown = Digest::of(b"unknown");
    let cause = refused(ContainerPlan { digest: unknown, ..plan.clone() }).await;
    assert!(
        cause.contains(&format!("{}@{unknown}", plan.image)) && cause.contains("cannot be pulled"),
        "{cause}"
    );
    // A registry that gives something else under the digest.
    let blob = layout.join("blobs/sha256").join(plan.digest.hex());
    let manifest = std::fs::read(&blob).unwrap();
    std::fs::write(&blob, [&manifest[..], b" "].concat()).unwrap();
    let cause = refused(plan.clone()).await;
    assert!(cause.contains("cannot be pulled"), "{cause}");
    std::fs::write(&blob, manifest).unwrap();
    // The right image, and another configuration than the snapshot's.
    let cause = refused(ContainerPlan { config_digest: Some(unknown), ..plan.clone() }).await;
    assert!(cause.contains(&unknown.to_string()) && cause.contains(&stage.config().to_string()), "{cause}");

    let supervisor = start(plan.clone());
    ready(&supervisor).await;
    let facts = ImageFacts {
        manifest: plan.digest,
        config: Some(stage.config()),
        platform: "linux/amd64".to_owned(),
    };
    assert_eq!(*supervisor.image().borrow(), Some(facts));
    supervisor.stop().await;
    // It is there now, without the registry.
    devnet.stop().await;
    let supervisor = start(plan);
    ready(&supervisor).await;
    supervisor.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_for_another_platform_is_not_started() {
    let Some(stage) = stage().await else { return };
    let (digest, config) = stage.image("linux", "riscv64");
    let plan = ContainerPlan { digest, config_digest: Some(config), ..stage.plan(&[]) };
    let cause = refused(plan).await;
    assert!(cause.contains("is for linux/riscv64, approved is linux/amd64"), "{cause}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_with_volumes_of_its_own_is_not_started() {
    let Some(stage) = stage().await else { return };
    let config = json!({
        "architecture": "amd64", "os": "linux", "rootfs": { "type": "layers", "diff_ids": [Digest::of(&[0; 1024])] },
        "config": { "Entrypoint": ["/x"], "Volumes": { "/data": {} }, "Labels": { "resultity.test": stage.owner.node } },
    });
    let (digest, config) = stage.archive(&config, &[0; 1024]);
    let cause = refused(ContainerPlan { digest, config_digest: Some(config), ..stage.plan(&[]) }).await;
    assert!(cause.contains("did not apply the mounts") && cause.contains("/data"), "{cause}");
    assert!(stage.containers().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_else_made_is_never_touched() {
    let Some(stage) = stage().await else { return };
    let supervisor = start(stage.plan(&[]));
    ready(&supervisor).await;
    supervisor.stop().await;
    let name = stage.owner.name();

    let network = NetworkCreateRequest { name: name.clone(), ..NetworkCreateRequest::default() };
    let network = stage.engine.create_network(network).await.unwrap().id;
    let cause = refused(stage.plan(&[])).await;
    let found = stage.engine.inspect_network(&network, None).await;
    stage.engine.remove_network(&network).await.unwrap();
    assert!(cause.contains("there is a network") && cause.contains("it carries no label"), "{cause}");
    found.unwrap();

    let image = Some(stage.config().to_string());
    let body = ContainerCreateBody { image, labels: Some(foreign()), ..ContainerCreateBody::default() };
    let options = CreateContainerOptionsBuilder::default().name(&name).build();
    stage.engine.create_container(Some(options), body).await.unwrap();
    stage.assert_foreign_one_is_left_alone().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_crash_the_container_is_taken_over() {
    let Some(stage) = stage().await else { return };
    stage.assert_taken_over().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_crash_a_container_of_another_plan_is_replaced() {
    let Some(stage) = stage().await else { return };
    crash(stage.plan(&[]));
    let first = id(&stage).await;
    // The same snapshot with other arguments, then another snapshot.
    let supervisor = start(stage.plan(&["--other"]));
    ready(&supervisor).await;
    let second = id(&stage).await;
    assert_ne!(second, first);
    supervisor.stop().await;

    crash(stage.plan(&[]));
    let mut plan = stage.plan(&[]);
    plan.owner.snapshot = Digest::of(b"the next snapshot");
    let name = plan.owner.name();
    let supervisor = start(plan);
    ready(&supervisor).await;
    assert_eq!(stage.container().await.name.unwrap(), format!("/{name}"), "one alone");
    assert_eq!(stage.networks().await, [name]);
    supervisor.stop().await;
    assert!(stage.networks().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_crash_a_container_that_was_opened_meanwhile_is_replaced() {
    let Some(stage) = stage().await else { return };
    for way in ["more processes", "another network"] {
        crash(stage.plan(&[]));
        let first = id(&stage).await;
        if way == "more processes" {
            let more = ContainerUpdateBody { pids_limit: Some(1 << 20), ..ContainerUpdateBody::default() };
            stage.engine.update_container(&first, more).await.unwrap();
        } else {
            let both = NetworkConnectRequest { container: first.clone(), endpoint_config: None };
            stage.engine.connect_network("bridge", both).await.unwrap();
        }
        let supervisor = start(stage.plan(&[]));
        ready(&supervisor).await;
        assert_ne!(id(&stage).await, first, "{way}");
        supervisor.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_is_moved_changes_nothing() {
    let Some(stage) = stage().await else { return };
    let plan = stage.plan(&[]);
    // Another image, which the engine has, gets the names that the approved one could be taken for.
    let config = json!({
        "architecture": "amd64", "os": "linux",
        "config": { "Entrypoint": ["/stand_in"], "Env": ["ANOTHER=1"], "Labels": { "resultity.test": stage.owner.node } },
        "rootfs": { "type": "layers", "diff_ids": [Digest::of(&layer())] },
    });
    let (digest, other) = stage.archive(&config, &layer());
    let supervisor = start(ContainerPlan { digest, config_digest: Some(other), ..plan.clone() });
    ready(&supervisor).await;
    supervisor.stop().await;
    let tag = async |name: &str| {
        let options = TagImageOptionsBuilder::default().repo(&plan.image).tag(name).build();
        stage.engine.tag_image(&other.to_string(), Some(options)).await.unwrap();
    };
    tag("latest").await;
    tag(&plan.digest.hex()).await;
    let supervisor = start(plan.clone());
    ready(&supervisor).await;
    let made = stage.container().await;
    assert_eq!(made.image, Some(stage.config().to_string()));
    supervisor.stop().await;
    assert!(stage.has_image(stage.config()).await && stage.has_image(other).await, "both are there");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_died_is_started_again() {
    let Some(stage) = stage().await else { return };
    // It stays down long enough to be seen there.
    let plan = ContainerPlan { retry_ms_min: 12_000, retry_ms_max: 12_000, ..stage.plan(&[]) };
    let supervisor = start(plan);
    let endpoint = ready(&supervisor).await;
    let (first, key_of) =
        (id(&stage).await, |env: &[String]| env.iter().find(|it| it.starts_with("RUNTIME_API_KEY")).cloned());
    let first_key = key_of(&stage.container().await.config.unwrap().env.unwrap());
    ask(&endpoint, &json!({"model": "exit"})).await.unwrap_err();
    let cause = down(&supervisor).await;
    assert_eq!(cause, "it ended with status 3");
    ready(&supervisor).await;
    let made = stage.container().await;
    assert_ne!(made.id.as_ref(), Some(&first));
    assert_ne!(key_of(&made.config.unwrap().env.unwrap()), first_key, "a key for each start");

    // Somebody takes it away.
    stage.remove(&stage.owner.name()).await;
    down(&supervisor).await;
    ready(&supervisor).await;
    supervisor.stop().await;
}

/// What the engine says from now on of the containers of a stage's node: that one is made, started or removed, each with
/// which.
fn lives(stage: &Stage) -> mpsc::UnboundedReceiver<(String, String)> {
    let filters = HashMap::from([
        ("type".to_owned(), vec!["container".to_owned()]),
        ("event".to_owned(), ["create", "start", "destroy"].map(str::to_owned).to_vec()),
        ("label".to_owned(), vec![format!("resultity.node={}", stage.owner.node)]),
    ]);
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs().to_string();
    let options = EventsOptionsBuilder::default().since(&since).filters(&filters).build();
    let mut events = stage.engine.clone().with_timeout(2 * PATIENCE).events(Some(options));
    let (sender, told) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(event)) = events.next().await {
            let (what, which) = (event.action.unwrap(), event.actor.unwrap().id.unwrap());
            if sender.send((what, which)).is_err() {
                return;
            }
        }
    });
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_hangs_is_replaced_each_time_later_and_never_by_two() {
    let Some(stage) = stage().await else { return };
    let mut lives = lives(&stage);
    // It is well once, and hangs from then on. It never serves for ten minutes, after which its falls would not count.
    let plan = ContainerPlan { retry_ms_min: 400, retry_ms_max: 600_000, ..stage.plan(&["--answers", "1"]) };
    let tuning = Tuning {
        ready_limit: PATIENCE,
        health_every: Duration::from_millis(100),
        failures_max: 1,
        ..Tuning::default()
    };
    let supervisor = Supervisor::start(Plan::Container(plan), tuning);
    let mut state = supervisor.state();
    // A fall that comes and goes while this test has not its turn is not seen.
    let mut waits = Vec::new();
    while waits.len() < 3 {
        tokio::time::timeout(PATIENCE, state.changed()).await.unwrap().unwrap();
        let shown = state.borrow_and_update().clone();
        if let State::Down { cause, retry_in_ms, falls } = shown {
            assert!(cause.contains("does not answer"), "{cause}");
            // Between half and all of 400 ms, doubled for each.
            let longest = 400_u64 << (falls - 1);
            waits.push((falls, retry_in_ms));
            assert!((longest / 2..=longest).contains(&retry_in_ms), "{waits:?}");
        }
    }
    supervisor.stop().await;

    // The engine has never had two of them.
    let (mut told, mut last) = (Vec::new(), String::new());
    while told.len() < 9 || last != "destroy" {
        let (what, which) = tokio::time::timeout(PATIENCE, lives.recv()).await.unwrap().unwrap();
        last.clone_from(&what);
        told.push((what, which));
    }
    for life in told.chunks(3) {
        let what: Vec<_> = life.iter().map(|(what, _)| what.as_str()).collect();
        assert_eq!(what, ["create", "start", "destroy"], "{told:?}");
        assert!(life.iter().all(|(_, which)| *which == life[0].1), "{told:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_falls_at_once_says_its_last_words() {
    let Some(stage) = stage().await else { return };
    let cause = refused(stage.plan(&["--exit", "4"])).await;
    assert!(
        cause.starts_with("it ended with status 4; it said: ") && cause.contains("these are my last words"),
        "{cause}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_graphics_that_a_snapshot_asks_for_are_asked_of_the_engine() {
    let Some(stage) = stage().await else { return };
    // A machine that has some would start it.
    if Path::new("/dev/nvidiactl").exists() {
        return;
    }
    // An engine without a driver for them starts nothing in their place.
    let cause = refused(ContainerPlan { gpus: true, ..stage.plan(&[]) }).await;
    assert!(cause.contains("gpu"), "{cause}");
}

#[tokio::test(flavor = "multi_thread")]
async fn its_memory_and_its_processes_are_limited() {
    let Some(stage) = stage().await else { return };
    let plan = ContainerPlan { memory_bytes: Some(64 << 20), pids_max: 40, ..stage.plan(&[]) };
    let supervisor = start(ContainerPlan { retry_ms_min: 12_000, retry_ms_max: 12_000, ..plan });
    let endpoint = ready(&supervisor).await;
    ask(&endpoint, &json!({"model": "eat"})).await.unwrap_err();
    let cause = down(&supervisor).await;
    assert_eq!(cause, "it was killed because it wanted more than its 67108864 bytes of memory");
    let endpoint = ready(&supervisor).await;
    let threads: u32 = said(&endpoint, "threads", "").await.parse().unwrap();
    assert!((10..40).contains(&threads), "{threads}");
    supervisor.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_is_not_there_is_told_and_looked_for_again() {
    let Some(stage) = stage().await else { return };
    let socket = stage.folder.path().join("docker.sock");
    let supervisor = start(ContainerPlan { socket: socket.clone(), ..stage.plan(&[]) });
    let cause = down(&supervisor).await;
    assert!(cause.contains(&socket.display().to_string()) && cause.contains("runtime.socket"), "{cause}");
    std::os::unix::fs::symlink(node_agent::runtime::container::SOCKET, socket).unwrap();
    ready(&supervisor).await;
    let mut state = supervisor.state();
    assert!(matches!(*state.borrow_and_update(), State::Ready(_)));
    supervisor.stop().await;
}
