//! `config`: snapshots are shown and judged, never applied.

use node_store::store::Store;
use node_types::{Timestamp, log::Level};
use serde_json::json;

use crate::{
    home::{Home, document, envelope, network_key, reading},
    trust::{Signer, keyset, signed_config, trusted, with},
};

fn judged(home: &Home, name: &str, bytes: &[u8], code: i32) -> serde_json::Value {
    let file = home.file(name, bytes);
    let ran = home.run(["config", "verify", file.to_str().unwrap(), "--json"]);
    assert_eq!((ran.code, ran.err.as_str()), (Some(code), ""), "{ran:?}");
    ran.json()
}

fn now() -> Timestamp {
    reading().wall
}

#[test]
fn the_snapshot_in_force_is_shown() {
    let home = Home::filled();
    let shown = home.json(["config", "show"]);
    assert_eq!(
        (&shown["version"], &shown["validity"], &shown["good"]),
        (&1.into(), &"fresh".into(), &false.into())
    );
    assert_eq!(shown["document"]["models"][0]["name"], "gemma-3-270m");
    let digest = shown["digest"].as_str().unwrap();
    home.run(["config", "show"]).well().says(&[
        digest,
        "gemma-3-270m@1.0.0",
        "fresh",
        "llama.cpp",
        "64.0 MiB",
    ]);
    home.run(["config", "show", "--previous"]).failed(5, &["earlier"]);
    Home::with_node().run(["config", "show"]).failed(5, &["run"]);
}

/// The store keeps its least whatever the snapshot says; only the snapshot's number was shown.
#[test]
fn a_limit_of_logs_that_no_log_can_keep_is_shown_with_the_one_that_is_kept() {
    let home = Home::with_node();
    let store = Store::open(&home.options(), &reading()).unwrap();
    store.snapshots().pin(trusted(&keyset(1, 1, &[&network_key()]))).unwrap();
    for (version, bytes, row) in [
        (1, 1000_u64, "1000 bytes; the node takes 256.0 KiB, as its log needs so many"),
        (2, 256 << 10, "256.0 KiB"),
    ] {
        let document = with(document(version, now()), "/limits/logs_bytes_max", bytes.into());
        store.apply_envelope(&signed_config(&document, &[&network_key()]), now()).unwrap();
        let shown = home.run(["config", "show"]).well();
        let of_logs = shown.out.lines().find_map(|line| line.strip_prefix("logs "));
        assert_eq!(of_logs.map(str::trim), Some(row), "{}", shown.out);
    }
}

#[test]
fn what_the_node_would_apply_is_accepted_and_not_applied() {
    let home = Home::filled();
    let newer = judged(&home, "newer", &envelope(2, now()), 0);
    assert_eq!((&newer["verdict"], &newer["version"]), (&"accepted".into(), &2.into()));
    assert_eq!(home.json(["config", "show"])["version"], 1);
    let file = home.path().join("newer");
    home.run(["config", "verify", file.to_str().unwrap()]).well().says(&["accepted", "would apply it"]);
    let mut piped = home.command(["config", "verify", "-", "--json"]);
    let piped: crate::home::Ran = piped.stdin(std::fs::File::open(&file).unwrap()).output().unwrap().into();
    assert_eq!(piped.well().json()["digest"], newer["digest"]);
}

#[test]
fn the_snapshot_in_force_is_known_again() {
    let home = Home::filled();
    let view = Store::view_only(&home.options()).unwrap();
    let bytes = view.snapshots().unwrap().current().unwrap().config.envelope().to_vec();
    assert_eq!(judged(&home, "same", &bytes, 0)["verdict"], "in_force");
}

#[test]
fn what_the_node_would_refuse_is_refused_with_the_reason() {
    let home = Home::filled();
    let now = now();
    let expired = with(document(2, now), "/valid_until", (now.ms() - 1).into());
    let expired = with(expired, "/refresh_by", (now.ms() - 2).into());
    let of_mainnet = with(document(2, now), "/network", json!("mainnet"));
    for (name, bytes, reason) in [
        ("forged", signed_config(&document(2, now), &[&Signer::new(9)]), "0 keys"),
        ("expired", signed_config(&expired, &[&network_key()]), "valid until"),
        ("other", signed_config(&of_mainnet, &[&network_key()]), "mainnet"),
        (
            "equivocation",
            signed_config(&with(document(1, now), "/limits/concurrency", 7.into()), &[&network_key()]),
            "under the same version",
        ),
        ("garbage", b"{}".to_vec(), ""),
    ] {
        let refused = judged(&home, name, &bytes, 1);
        assert_eq!(refused["verdict"], "refused", "{name}");
        assert!(refused["reason"].as_str().unwrap().contains(reason), "{name}: {refused}");
    }
    let file = home.path().join("forged");
    let ran = home.run(["config", "verify", file.to_str().unwrap()]);
    assert_eq!(ran.code, Some(1));
    ran.says(&["refused", "reason"]);
    home.run(["config", "verify", "no-such-file"]).failed(1, &["no-such-file"]);
}

#[test]
fn a_node_without_keysets_judges_by_the_one_that_is_given() {
    let home = Home::with_node();
    let file = home.file("snapshot", envelope(1, now()));
    let file = file.to_str().unwrap();
    home.run(["config", "verify", file]).failed(1, &["no keyset is pinned"]);
    let keys = home.file("keyset", serde_json::to_vec(&keyset(1, 1, &[&network_key()])).unwrap());
    let judged = home.json(["config", "verify", file, "--keyset", keys.to_str().unwrap()]);
    assert_eq!(judged["verdict"], "accepted");
}

#[test]
fn the_history_holds_snapshots_keyset_floor_and_refusals() {
    let home = Home::new();
    let store = home.fill();
    let now = now();
    let first = store.snapshots().current().unwrap().config.digest();
    store.snapshots().confirm(first).unwrap();
    store.apply_envelope(&envelope(2, now), now).unwrap();
    store.apply_envelope(&envelope(1, now), now).unwrap_err();
    store.logs().flush().wait().unwrap();
    drop(store);
    let history = home.json(["config", "history"]);
    assert_eq!((&history["current"]["version"], &history["previous"]["version"]), (&2.into(), &1.into()));
    assert_eq!(history["previous"]["good"], true);
    assert_eq!(history["floor"]["version"], 2);
    assert_eq!((&history["keyset"]["version"], &history["keyset"]["threshold"]), (&1.into(), &1.into()));
    let log = history["log"].as_array().unwrap();
    assert_eq!((log.len(), &log[0]["level"]), (1, &Level::Warn.name().into()));
    assert!(log[0]["message"].as_str().unwrap().contains("older"), "{log:?}");
    home.run(["config", "history"]).well().says(&[
        "version 2",
        "version 1",
        "no older one",
        "refused a configuration",
    ]);
    assert_eq!(home.json(["config", "show", "--previous"])["version"], 1);
}
