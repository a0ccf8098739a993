//! A runtime in a container of Podman's: a real one, of each test's own. What it says of a container, and how it makes
//! networks, is its own; everything else is tested with Docker in `runtime_container.rs`.
//!
//! Where there can be no Podman, these tests say so and pass.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

#[expect(dead_code, reason = "each test file uses its part of it")]
mod container;

use std::{collections::HashMap, net::TcpListener, time::Duration};

use bollard::{
    models::{
        ContainerCreateBody, ContainerInspectResponse, HostConfig, HostConfigLogConfig, Mount, MountType,
        NetworkConnectRequest, NetworkCreateRequest, ResourcesUlimits,
    },
    query_parameters::{CreateContainerOptionsBuilder, StartContainerOptions},
};
use container::{
    PATIENCE, Stage, ask, crash, down, foreign, id, podman_stage, podman_stage_with, ready, refused, said,
    seen, start,
};
use node_agent::runtime::{ContainerPlan, Endpoint, ImageFacts, Plan, Supervisor, Tuning};
use serde_json::{Value, json};
use zeroize::Zeroizing;

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_in_podman_answers_is_closed_and_leaves_nothing() {
    let Some(stage) = podman_stage().await else { return };
    let plan = stage.plan(&["--say", "my first words"]);
    let facts =
        ImageFacts { manifest: plan.digest, config: plan.config_digest, platform: "linux/amd64".to_owned() };
    let supervisor = start(plan);
    let mut lines = supervisor.lines();
    let endpoint = ready(&supervisor).await;
    assert_eq!(*supervisor.image().borrow(), Some(facts));
    let heard = async { while lines.recv().await.unwrap() != "my first words" {} };
    tokio::time::timeout(PATIENCE, heard).await.unwrap();
    let seen = seen(&endpoint).await;
    seen.assert_kept_apart();

    // What is mounted outside of the engine's own file systems can be read alone, but for the temporary folder.
    let mounts = seen.text("mounts");
    let mounts: Vec<Vec<&str>> = mounts.lines().map(|line| line.split(' ').collect()).collect();
    let others = mounts.iter().filter(|it| {
        !["/proc", "/dev", "/sys"].iter().any(|own| it[4] == *own || it[4].starts_with(&format!("{own}/")))
    });
    let (writable, read): (Vec<_>, Vec<_>) =
        others.partition(|it| !it[5].split(',').any(|option| option == "ro"));
    let places = |mounts: &[&Vec<&str>]| mounts.iter().map(|it| it[4].to_owned()).collect::<Vec<_>>();
    assert_eq!(places(&writable), ["/tmp"]);
    let own = ["/", "/models", "/run", "/run/.containerenv", "/var/tmp"];
    let known = |it: &String| own.contains(&it.as_str()) || it.starts_with("/etc/");
    assert!(places(&read).iter().all(known), "{read:?}");
    for option in ["noexec", "nosuid", "nodev"] {
        assert!(writable[0][5].contains(option), "{writable:?}");
    }
    assert!(writable[0].last().unwrap().contains("size=1048576k"), "{writable:?}");
    // Earlier ones name a terminal that is not there.
    let mut names = seen.variables();
    names.retain(|name| name != "TERM");
    let own = ["HOME", "HOSTNAME", "LANG", "OF_THE_IMAGE", "PATH", "RUNTIME_API_KEY", "TMPDIR", "container"];
    assert_eq!(names, own, "and what the image itself brings");

    supervisor.stop().await;
    assert!(stage.containers().await.is_empty() && stage.networks().await.is_empty());
    assert!(stage.has_image(stage.config()).await, "the image is kept for the next start");
}

/// What Podman sets itself is more than some machines let it.
fn limits() -> Vec<ResourcesUlimits> {
    let limit = |(name, most): (&str, i64)| ResourcesUlimits {
        name: Some(name.to_owned()),
        soft: Some(most),
        hard: Some(most),
    };
    [("core", 0), ("nofile", 1024), ("nproc", 16_384)].map(limit).into()
}

/// Makes a container as the Agent makes its own, or opened in a way, and starts it. `made` was the Agent's.
async fn make(
    stage: &Stage,
    made: &ContainerInspectResponse,
    open: impl Fn(&mut ContainerCreateBody, &mut HostConfig),
) {
    let config = made.config.clone().unwrap();
    let tmpfs = [
        ("/tmp", "rw,noexec,nosuid,nodev,U,notmpcopyup,mode=0700,size=1073741824"),
        ("/run", "ro,noexec,nosuid,nodev"),
        ("/var/tmp", "ro,noexec,nosuid,nodev"),
    ];
    let mut host = HostConfig {
        readonly_rootfs: Some(true),
        tmpfs: Some(tmpfs.map(|(folder, options)| (folder.to_owned(), options.to_owned())).into()),
        mounts: Some(vec![Mount {
            typ: Some(MountType::BIND),
            source: Some(stage.folder.path().join("models").display().to_string()),
            target: Some("/models".to_owned()),
            read_only: Some(true),
            ..Mount::default()
        }]),
        cap_drop: Some(vec!["ALL".to_owned()]),
        security_opt: Some(vec!["no-new-privileges".to_owned()]),
        dns: Some(vec!["127.0.0.1".to_owned()]),
        memory: Some(256 << 20),
        memory_swap: Some(256 << 20),
        pids_limit: Some(1024),
        ulimits: Some(limits()),
        log_config: Some(HostConfigLogConfig { typ: Some("none".to_owned()), config: None }),
        network_mode: Some(stage.owner.name()),
        ..HostConfig::default()
    };
    let mut body = ContainerCreateBody {
        image: Some(stage.config().to_string()),
        user: config.user,
        env: config.env,
        cmd: config.cmd,
        labels: config.labels,
        ..ContainerCreateBody::default()
    };
    open(&mut body, &mut host);
    body.host_config = Some(host);
    let options = CreateContainerOptionsBuilder::default().name(&stage.owner.name()).build();
    let id = stage.engine.create_container(Some(options), body).await.unwrap().id;
    stage.engine.start_container(&id, None::<StartContainerOptions>).await.unwrap();
}

/// Removes what a crashed Agent left, and says what it was.
async fn remove(stage: &Stage) -> ContainerInspectResponse {
    let made = stage.container().await;
    stage.remove(made.id.as_ref().unwrap()).await;
    made
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_crash_what_podman_still_has_is_taken_over_unless_it_is_opened() {
    let Some(stage) = podman_stage().await else { return };
    stage.assert_taken_over().await;

    crash(stage.plan(&[]));
    let made = remove(&stage).await;
    type Open = fn(&mut ContainerCreateBody, &mut HostConfig);
    let ways: [(&str, Open); 11] = [
        ("as it was", |_, _| ()),
        ("privileged", |_, host| host.privileged = Some(true)),
        ("a root that is written", |_, host| host.readonly_rootfs = Some(false)),
        ("capabilities", |_, host| host.cap_drop = None),
        ("one capability", |_, host| host.cap_add = Some(vec!["NET_RAW".to_owned()])),
        ("no seccomp", |_, host| host.security_opt.as_mut().unwrap().push("seccomp=unconfined".to_owned())),
        ("new privileges", |_, host| host.security_opt = None),
        ("the machine's processes", |_, host| host.pid_mode = Some("host".to_owned())),
        ("the machine's network", |_, host| host.network_mode = Some("host".to_owned())),
        ("root", |body, _| body.user = Some("0".to_owned())),
        ("models that are written", |_, host| host.mounts.as_mut().unwrap()[0].read_only = Some(false)),
    ];
    for (way, open) in ways {
        make(&stage, &made, open).await;
        let before = id(&stage).await;
        crash(stage.plan(&[]));
        assert_eq!(id(&stage).await == before, way == "as it was", "{way}");
        remove(&stage).await;
    }

    // One that was opened while it ran.
    crash(stage.plan(&[]));
    let first = id(&stage).await;
    let other = NetworkCreateRequest {
        name: "other".to_owned(),
        internal: Some(true),
        labels: Some(HashMap::from([("resultity.node".to_owned(), stage.owner.node.to_string())])),
        ..NetworkCreateRequest::default()
    };
    stage.engine.create_network(other).await.unwrap();
    let both = NetworkConnectRequest { container: first.clone(), endpoint_config: None };
    stage.engine.connect_network("other", both).await.unwrap();
    let supervisor = start(stage.plan(&[]));
    ready(&supervisor).await;
    assert_ne!(id(&stage).await, first);
    supervisor.stop().await;
}

/// Asks the resolver that the stage's own network would have.
async fn resolved(stage: &Stage, endpoint: &Endpoint) -> String {
    let network = stage.engine.inspect_network(&stage.owner.name(), None).await.unwrap();
    let gateway = network.ipam.unwrap().config.unwrap()[0].gateway.clone().unwrap();
    said(endpoint, "resolve", &format!("{gateway}:53 {}", stage.owner.name())).await
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_no_way_out_of_podmans_network_and_nobody_in_it_resolves_names() {
    let Some(stage) = podman_stage().await else { return };
    // Given a network of ours as Podman makes it in Docker's words: its resolver carries questions to the outside.
    crash(stage.plan(&[]));
    let (name, made) = (stage.owner.name(), remove(&stage).await);
    let network = stage.engine.inspect_network(&name, None).await.unwrap();
    stage.engine.remove_network(&name).await.unwrap();
    let loud = NetworkCreateRequest {
        name: name.clone(),
        driver: Some("bridge".to_owned()),
        internal: Some(true),
        labels: network.labels,
        ..NetworkCreateRequest::default()
    };
    stage.engine.create_network(loud).await.unwrap();
    make(&stage, &made, |_, _| ()).await;
    let found = stage.container().await;
    let environment = found.config.unwrap().env.unwrap();
    let key = environment.iter().find_map(|it| it.strip_prefix("RUNTIME_API_KEY=")).unwrap();
    let address = found.network_settings.unwrap().networks.unwrap()[&name].ip_address.clone().unwrap();
    let key = Some(Zeroizing::new(key.to_owned()));
    let endpoint = Endpoint::new(&format!("http://{address}:8080"), key).unwrap();
    while endpoint.healthy().await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(resolved(&stage, &endpoint).await, "done", "or the same question below shows nothing");

    // When the Agent starts, then it takes neither it nor what is in it.
    let supervisor = start(stage.plan(&[]));
    let endpoint = ready(&supervisor).await;
    assert_ne!(stage.container().await.id, found.id);
    assert_ne!(resolved(&stage, &endpoint).await, "done");

    let here = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = here.local_addr().unwrap().port();
    // The last is its own, which must work or the test shows nothing.
    let own = endpoint.url().strip_prefix("http://").unwrap();
    let addresses = ["192.0.2.1:80", "1.1.1.1:53", &format!("127.0.0.1:{port}"), own];
    let tried = said(&endpoint, "connect", &addresses.join(",")).await;
    assert_eq!(tried.split(' ').map(|it| it == "done").collect::<Vec<_>>(), [false, false, false, true]);
    let network = stage.engine.inspect_network(&name, None).await.unwrap();
    assert_eq!(
        (network.internal, network.containers.unwrap().len()),
        (Some(true), 1),
        "nobody else is in it"
    );
    supervisor.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_anothers_in_podman_is_left_alone() {
    let Some(stage) = podman_stage().await else { return };
    crash(stage.plan(&[]));
    let made = remove(&stage).await;
    make(&stage, &made, |body, _| {
        body.labels = Some(foreign());
    })
    .await;
    stage.assert_foreign_one_is_left_alone().await;
}

/// Podman lists how each container stands, and has words for it that Docker does not have: one of anybody's kept every Agent of the
/// machine from starting its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_stands_as_none_of_dockers_can_is_no_hindrance_whosever_it_is() {
    let Some(stage) = podman_stage().await else { return };
    crash(stage.plan(&[]));
    let made = remove(&stage).await;
    let podman = reqwest::Client::builder().unix_socket(stage.socket.clone()).build().unwrap();
    let ours = made.config.unwrap().labels.unwrap();
    for (name, labels) in [("other".to_owned(), foreign()), (stage.owner.name(), ours)] {
        let image = Some(stage.config().to_string());
        // Its usual network needs programs that not every machine has.
        let network_mode = Some("none".to_owned());
        let host_config = Some(HostConfig { network_mode, ulimits: Some(limits()), ..HostConfig::default() });
        let labels = Some(labels);
        let body = ContainerCreateBody { image, labels, host_config, ..ContainerCreateBody::default() };
        let options = CreateContainerOptionsBuilder::default().name(&name).build();
        stage.engine.create_container(Some(options), body).await.unwrap();
        let own = format!("http://podman/v4.0.0/libpod/containers/{name}");
        let answer = podman.post(format!("{own}/init")).send().await.unwrap();
        let made = answer.status().is_success();
        assert!(made, "{name}: {}", answer.text().await.unwrap());
        let told = podman.get(format!("{own}/json")).send().await.unwrap().bytes().await.unwrap();
        let told: Value = serde_json::from_slice(&told).unwrap();
        assert_eq!(told["State"]["Status"], "initialized", "{name}");
    }
    let supervisor = start(stage.plan(&[]));
    ready(&supervisor).await;
    supervisor.stop().await;
    stage.remove("other").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_podman_without_seccomp_is_not_used() {
    let Some(stage) = podman_stage_with("seccomp_profile = \"unconfined\"\n").await else { return };
    let cause = refused(stage.plan(&[])).await;
    assert!(cause.contains("seccomp_profile out of its containers.conf"), "{cause}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_wants_too_much_memory_in_podman_is_told_and_started_again() {
    let Some(stage) = podman_stage().await else { return };
    let plan = ContainerPlan { memory_bytes: Some(64 << 20), pids_max: 40, ..stage.plan(&[]) };
    let plan = ContainerPlan { retry_ms_min: 3000, retry_ms_max: 3000, ..plan };
    // Podman looks four times a second whether it has ended; its health is not to be asked before.
    let tuning = Tuning { ready_limit: PATIENCE, failures_max: 100, ..Tuning::default() };
    let supervisor = Supervisor::start(Plan::Container(plan), tuning);
    let endpoint = ready(&supervisor).await;
    ask(&endpoint, &json!({"model": "eat"})).await.unwrap_err();
    let cause = down(&supervisor).await;
    // What for, Podman does not always know.
    let told = [
        "it was killed because it wanted more than its 67108864 bytes of memory",
        "it was killed by signal 9",
    ];
    assert!(told.contains(&cause.as_str()), "{cause}");
    let endpoint = ready(&supervisor).await;
    let threads: u32 = said(&endpoint, "threads", "").await.parse().unwrap();
    assert!((10..40).contains(&threads), "{threads}");
    supervisor.stop().await;
}
