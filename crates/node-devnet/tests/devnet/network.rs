//! Documents that nodes can trust, and what nodes report.

use std::collections::BTreeMap;

use node_types::{
    Digest, Network, Timestamp,
    hardware::{Amount, Hardware},
    keyset::VerifiedKeyset,
    log::{BatchHeader, Kind, Level, Record},
    protocol::{
        Account, ConfigOutcome, ConfigReport, Heartbeat, JobCounts, Keysets, LogBatch, NetworkFrame, Pong,
        Readiness, TraceBatch, path,
    },
    verify::{Floor, Verified, verify_config},
};
use serde_json::{Value, json};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::common::{World, http, now, world};

/// The newest keyset, reached from the first one.
pub(crate) async fn keyset(world: &World) -> VerifiedKeyset {
    let keysets: Keysets = serde_json::from_slice(&world.get(path::KEYSETS).await.body).unwrap();
    let pinned = VerifiedKeyset::trust(keysets.pinned.as_bytes(), Network::Testnet).unwrap();
    let rotations = keysets.rotations.iter().map(String::as_bytes);
    VerifiedKeyset::replay(pinned, rotations).unwrap().pop().unwrap()
}

/// The snapshot as a node judges it.
pub(crate) async fn snapshot(
    world: &World,
    floor: Floor,
) -> Result<Verified<node_types::config::NodeConfig>, node_types::verify::Refused> {
    let envelope = world.get(path::SNAPSHOT).await.body;
    verify_config(&envelope, &keyset(world).await, Network::Testnet, floor, now())
}

#[tokio::test]
async fn the_first_snapshot_is_one_that_a_node_trusts() {
    let world = world().await;
    let first = snapshot(&world, Floor::NONE).await.unwrap();
    assert_eq!(first.document().version, 1);
    assert_eq!(first.document().models[0].name, "m");
    let known = http()
        .get(format!("{}{}", world.devnet.url(), path::SNAPSHOT))
        .header("if-none-match", format!("\"{}\"", first.digest()))
        .send()
        .await
        .unwrap();
    assert_eq!(known.status(), 304);
}

#[tokio::test]
async fn the_next_snapshot_is_pushed_and_follows_the_first() {
    let world = world().await;
    let first = snapshot(&world, Floor::NONE).await.unwrap();
    let (_, mut link) = world.node(1).await;
    let patch = json!({ "limits": { "max_tokens": 9 }, "participation": { "subclouds": ["europe"] } });
    assert_eq!(world.post("/v1/devnet/snapshots", &patch).await.json()["snapshot"]["version"], 2);
    let second = snapshot(&world, Floor::at(&first)).await.unwrap();
    assert_eq!(second.document().prev_digest, Some(first.digest()));
    assert_eq!((second.document().limits.max_tokens, second.document().limits.attempts_max), (9, 3));
    match link.next().await {
        Some(NetworkFrame::Snapshot(it)) if it.version == 2 && it.digest == second.digest() => {}
        other => panic!("{other:?}"),
    }
    let refused = world.post("/v1/devnet/snapshots", &json!({ "limits": { "max_tokens": 0 } })).await;
    assert_eq!(refused.status, 409, "{refused:?}");
    let refused = world.post("/v1/devnet/snapshots", &json!({ "balance": 1 })).await;
    assert_eq!(refused.status, 409, "{refused:?}");
    assert_eq!(world.get("/v1/devnet/state").await.json()["snapshot"]["version"], 2);
}

#[tokio::test]
async fn a_rotated_keyset_follows_the_first_and_signs_the_next_snapshot() {
    let world = world().await;
    let first = snapshot(&world, Floor::NONE).await.unwrap();
    assert_eq!(world.post("/v1/devnet/keysets/rotate", &json!({})).await.json()["keyset"], 2);
    assert_eq!(world.post("/v1/devnet/keysets/rotate", &json!({})).await.json()["keyset"], 3);
    let keyset = keyset(&world).await;
    assert_eq!(keyset.document().version, 3);
    let next = snapshot(&world, Floor::at(&first)).await.unwrap();
    assert_eq!((next.document().version, next.document().keyset_version), (3, 3));
}

#[tokio::test]
async fn a_snapshot_is_renewed_before_its_time_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = crate::common::settings(folder.path());
    (settings.config.refresh_after_ms, settings.config.valid_for_ms) = (8_000, 60_000);
    let devnet = node_devnet::Devnet::start(settings).await.unwrap();
    let world = World { devnet, folder };
    let version = async || world.get("/v1/devnet/state").await.json()["snapshot"]["version"].clone();
    assert_eq!(version().await, 1);
    let mut renewed = version().await;
    while renewed == 1 {
        crate::common::pause(50).await;
        renewed = version().await;
    }
    assert_eq!(renewed, 2);
}

#[tokio::test]
async fn what_a_node_reports_is_kept_and_shown() {
    let world = world().await;
    let (node, _link) = world.node(1).await;
    let heartbeat = Heartbeat {
        readiness: Readiness::Active,
        uptime_ms: 5,
        protection: "local file".into(),
        config_version: 1,
        jobs: JobCounts::default(),
        logs_lost: BTreeMap::new(),
        traces_lost: 0,
        incidents: vec![],
        drifted: Vec::new(),
        hardware: Some(Hardware {
            memory: Amount { total_bytes: Some(7), free_bytes: None },
            ..Hardware::default()
        }),
    };
    let time = node.post(path::HEARTBEAT, &heartbeat).await.json();
    assert_eq!(time["snapshot"]["version"], 1);
    assert!(now().since_ms(Timestamp::from_ms(time["now_ms"].as_u64().unwrap())) < 10_000);

    let report = ConfigReport {
        config: None,
        outcome: ConfigOutcome::Refused,
        reason: Some("why".into()),
        in_force: 1,
    };
    assert_eq!(node.post(path::CONFIG_REPORT, &report).await.json()["count"], 1);
    let account = Account { account: Some("a@example.org".into()), proof: None };
    assert_eq!(node.post(path::ACCOUNT, &account).await.status, 200);

    let record = Record::new(now(), Level::Warn, Kind::Runtime, "it coughs");
    let lines = serde_json::to_string(&record).unwrap() + "\n";
    let packed = zstd::encode_all(lines.as_bytes(), 1).unwrap();
    let header = BatchHeader {
        chain: "c".repeat(32),
        seq: 1,
        prev: Digest::from_bytes([0; 32]),
        records: BTreeMap::from([(Level::Warn, 1)]),
        lost: BTreeMap::new(),
        payload: Digest::of(&packed),
    };
    let header = serde_json::to_string(&header).unwrap();
    let batch = LogBatch { header: header.clone(), records: Some(STANDARD.encode(&packed)) };
    assert_eq!(node.post(path::LOGS, &batch).await.json()["count"], 1);
    let forged = LogBatch { header, records: Some(STANDARD.encode(b"other")) };
    assert_eq!(node.post(path::LOGS, &forged).await.json()["code"], "malformed");

    let trace = json!({
        "job": "00000000-0000-7000-8000-000000000001", "network": "testnet",
        "model": { "name": "m", "version": "1.0.0" }, "mode": "chat", "config": Digest::of(b"c"),
        "outcome": "answered", "events": [],
    });
    let traces = TraceBatch { traces: vec![serde_json::from_value(trace.clone()).unwrap()] };
    for _ in 0..2 {
        assert_eq!(node.post(path::TRACES, &traces).await.json()["count"], 1);
    }

    let shown = async |what: &str| world.get(&format!("/v1/devnet/{what}")).await.json();
    let state = shown("state").await;
    assert_eq!(state["nodes"][0]["heartbeat"]["readiness"], "active");
    assert_eq!(state["nodes"][0]["heartbeat"]["hardware"]["memory"]["total_bytes"], 7);
    assert_eq!(state["nodes"][0]["account"], "a@example.org");
    assert_eq!(state["nodes"][0]["agent"], "test");
    assert_eq!(shown("logs").await["batches"][0]["records"][0]["message"], "it coughs");
    assert_eq!(shown("traces").await["traces"].as_array().map(Vec::len), Some(1));
    assert_eq!(shown("traces").await["traces"][0]["trace"], trace);
    assert_eq!(shown("reports").await["reports"][0]["report"]["outcome"], "refused");
    let counts: Value = shown("messages").await["received"].clone();
    assert_eq!((&counts["heartbeat"], &counts["trace_batch"]), (&json!(1), &json!(2)));
}

#[tokio::test]
async fn a_ping_is_answered_and_the_answer_shows() {
    let world = world().await;
    let (node, mut link) = world.node(1).await;
    let nonce = world.post("/v1/devnet/ping", &json!({})).await.json()["nonce"].as_u64().unwrap();
    assert_eq!(link.next().await, Some(NetworkFrame::Ping { nonce }));
    link.say(&node, &Pong { nonce }).await;
    while world.get("/v1/devnet/state").await.json()["nodes"][0]["pong"]["nonce"] != nonce {}
}

#[tokio::test]
async fn a_second_connection_of_a_node_replaces_the_first() {
    let world = world().await;
    let (node, mut first) = world.node(1).await;
    let mut second = node.connect().await;
    let closing = first.next().await;
    assert!(matches!(closing, Some(NetworkFrame::Closing { .. })), "{closing:?}");
    assert_eq!(first.next().await, None);
    let id = world.submit(json!({})).await;
    assert_eq!(second.offer().await.id, id);
}

#[tokio::test]
async fn a_node_that_asks_whether_the_connection_stands_is_answered() {
    let world = world().await;
    let (_, mut link) = world.node(1).await;
    link.ping().await;
}

#[tokio::test]
async fn another_host_and_a_page_of_a_browser_are_refused() {
    let world = world().await;
    let url = format!("{}/v1/devnet/state", world.devnet.url());
    let other = http().get(url).header("host", "devnet.example.org").send().await.unwrap();
    assert_eq!(other.status(), 403);
    let url = format!("{}/v1/devnet/faults", world.devnet.url());
    let form = http().post(url).header("content-type", "text/plain").body(r#"{"fault":"drop"}"#);
    assert_eq!(form.send().await.unwrap().status(), 415);
}
