//! Balances, credits, rewards and token state never reach the disk, whatever carries them.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

mod common;
#[path = "../../node-types/tests/trust/common.rs"]
#[expect(dead_code, reason = "the trust documents' tests use more of it")]
mod trust;

use std::path::Path;

use common::{at, cutoff, id, output};
use node_store::{
    binding::AccountLink,
    jobs::{Accepted, Lease, Moved},
    store::{Options, Store},
};
use node_types::{
    Network,
    job::{Job, Output},
    message::NodeMessage,
};
use serde_json::{Value, json};
use trust::{NOW, Signer, config, keyset, signed_config, trusted};

const CANARIES: [&str; 4] = ["CANARY-BALANCE", "CANARY-CREDITS", "CANARY-REWARDS", "CANARY-TOKEN-STATE"];

fn carrying(mut document: Value) -> Value {
    for (field, canary) in ["balance", "credits", "rewards", "token_state"].into_iter().zip(CANARIES) {
        document[field] = canary.into();
    }
    document
}

/// Every byte of every file under a folder.
fn all_bytes(folder: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            bytes.extend(all_bytes(&entry.path()));
        } else {
            bytes.extend(std::process::Command::new("cat").arg(entry.path()).output().unwrap().stdout);
        }
    }
    bytes
}

fn no_canary(home: &Path, when: &str) {
    let bytes = all_bytes(home);
    let holds = |needle: &str| bytes.windows(needle.len()).any(|window| window == needle.as_bytes());
    assert!(holds("gemma-3-270m"), "the search itself must be able to find something");
    for canary in CANARIES {
        assert!(!holds(canary), "{canary} is on disk {when}");
    }
}

fn store() -> (tempfile::TempDir, Options, Store) {
    let home = tempfile::tempdir().unwrap();
    let mut options = Options::new(home.path(), Network::Testnet);
    options.reserve_bytes = 0;
    let store = Store::create(&options, None, &at(NOW)).unwrap();
    store.snapshots().pin(trusted(&keyset(1, 1, &[&Signer::new(1)]))).unwrap();
    let envelope = signed_config(&config(1), &[&Signer::new(1)]);
    store.apply_snapshot(store.snapshots().verify(&envelope, NOW).unwrap(), NOW).unwrap();
    (home, options, store)
}

fn offered(number: u64, model: &str) -> Job {
    let job = carrying(json!({
        "id": id(number),
        "network": "testnet",
        "model": { "name": model, "version": "1.0.0" },
        "mode": "chat",
        "request": carrying(json!({ "messages": [] })),
        "max_tokens": 1,
        "expires_at": NOW.plus_ms(1000),
        "attempts_max": 1,
    }));
    serde_json::from_value(job).unwrap()
}

#[test]
fn a_job_that_carries_balances_leaves_nothing_of_them_on_disk() {
    let (home, options, store) = store();
    let jobs = store.jobs();
    for number in 1..=3 {
        assert_eq!(jobs.accept(&offered(number, "gemma-3-270m"), NOW).wait().unwrap(), Accepted::New);
    }
    no_canary(home.path(), "after the jobs were accepted");
    assert!(matches!(jobs.accept(&offered(4, "CANARY-BALANCE"), NOW).wait().unwrap(), Accepted::Rejected(_)));
    no_canary(home.path(), "after a job was rejected");
    let Lease::Job(leased) = jobs.lease(None, None, &[].into(), NOW).wait().unwrap() else { panic!() };
    assert!(!leased.job.request.as_json().contains("CANARY"));
    let answer = carrying(serde_json::to_value(output("because")).unwrap());
    let answer: Output = serde_json::from_value(answer).unwrap();
    assert_eq!(jobs.finish(id(1), answer, NOW).wait().unwrap(), Moved::Done);
    no_canary(home.path(), "after the answer");
    assert_eq!(jobs.acknowledge(id(1), NOW).wait().unwrap(), Moved::Done);
    assert_eq!(jobs.cancel(id(2), NOW).wait().unwrap(), Moved::Done);
    assert_eq!(jobs.expire(cutoff(NOW.plus_ms(1000))).wait().unwrap().len(), 2);
    no_canary(home.path(), "after the jobs ended");
    drop(store);
    no_canary(home.path(), "after the volume was closed");
    drop(Store::open(&options, &at(NOW)).unwrap());
    no_canary(home.path(), "after it was opened again");
}

/// Documents whose every field is signed are refused as a whole.
#[test]
fn a_snapshot_a_message_or_a_link_that_carries_balances_is_refused_and_leaves_nothing_on_disk() {
    let (home, _options, store) = store();
    let snapshots = store.snapshots();
    for (path, document) in [("", config(2)), ("/limits", config(2)), ("/models/0", config(2))] {
        let mut document = document;
        let place = document.pointer_mut(path).unwrap();
        *place = carrying(place.take());
        let envelope = signed_config(&document, &[&Signer::new(1)]);
        assert!(snapshots.verify(&envelope, NOW).is_err(), "{path:?}");
    }
    let message = json!({
        "kind": "heartbeat", "node": store.node(), "bootId": id(1), "seq": 1, "issuedAtMs": NOW,
        "ttlMs": 1, "configDigest": node_types::Digest::of(b"a"), "payloadHash": node_types::Digest::of(b"b"),
    });
    assert!(serde_json::from_value::<NodeMessage>(message.clone()).is_ok());
    assert!(serde_json::from_value::<NodeMessage>(carrying(message)).is_err());
    let link = json!({ "account": { "email": "a@example.org" }, "linked_at": NOW, "proof": "" });
    assert!(serde_json::from_value::<AccountLink>(link.clone()).is_ok());
    assert!(serde_json::from_value::<AccountLink>(carrying(link)).is_err());
    no_canary(home.path(), "while the volume is open");
    drop(store);
    no_canary(home.path(), "after the volume was closed");
}
