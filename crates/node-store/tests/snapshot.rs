//! Snapshots and the inventory: what is applied, what is refused, what a restart finds.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

mod common;
#[path = "../../node-types/tests/trust/common.rs"]
#[expect(dead_code, reason = "the trust documents' tests use more of it")]
mod trust;

use std::sync::Barrier;

use common::{create, open, volume_folder};
use node_store::{
    inventory::Inventory,
    snapshot::{Applied, SnapshotError, Snapshots, Stored},
    volume::Volume,
};
use node_types::{
    Digest, Network,
    inventory::{ArtifactId, ArtifactKind, ArtifactState, Measured},
    keyset::VerifiedKeyset,
    verify::{Floor, Refused, verify_config},
};
use serde_json::{Value, json};
use trust::{HOUR_MS, NOW, Signer, config, keyset, signed_config, signed_keyset, trusted};

struct Node {
    home: tempfile::TempDir,
    open: Option<(Volume, Snapshots)>,
}

impl Node {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let volume = create(&volume_folder(&home));
        let snapshots = volume.snapshots().unwrap();
        snapshots.pin(trusted(&keyset(1, 1, &[&Signer::new(1)]))).unwrap();
        Self { home, open: Some((volume, snapshots)) }
    }

    fn restart(&mut self) {
        // The volume is free again when it and all of its rooms are gone.
        self.open = None;
        let volume = open(&volume_folder(&self.home));
        let snapshots = volume.snapshots().unwrap();
        self.open = Some((volume, snapshots));
    }

    fn snapshots(&self) -> &Snapshots {
        &self.open.as_ref().unwrap().1
    }

    fn inventory(&self) -> Inventory {
        self.open.as_ref().unwrap().0.inventory()
    }

    fn offer(&self, document: &Value) -> Result<Applied, SnapshotError> {
        let envelope = signed_config(document, &[&Signer::new(1)]);
        self.snapshots().apply(self.snapshots().verify(&envelope, NOW)?, NOW)
    }

    fn version(&self) -> Option<u64> {
        self.snapshots().current().map(|current| current.config.document().version)
    }

    /// Flips one bit of a stored envelope while nothing is open.
    fn rot(&mut self, slot: u8) {
        self.open = None;
        self.flip(slot, "envelope", 50);
    }

    /// Flips one bit of a stored value, so far into it, by a connection of its own.
    fn flip(&self, slot: u8, column: &str, percent: usize) {
        let raw = rusqlite::Connection::open(volume_folder(&self.home).join("state.db")).unwrap();
        let mut value: Vec<u8> = raw
            .query_row(&format!("SELECT {column} FROM snapshots WHERE slot = ?1"), [slot], |row| row.get(0))
            .unwrap();
        let at = value.len() * percent / 100;
        value[at] ^= 1;
        raw.execute(&format!("UPDATE snapshots SET {column} = ?1 WHERE slot = ?2"), (value, slot)).unwrap();
    }

    fn confirm(&self) {
        self.snapshots().confirm(self.snapshots().current().unwrap().config.digest()).unwrap();
    }
}

#[test]
fn an_applied_snapshot_is_in_force_after_a_restart_and_the_good_one_before_it_is_kept() {
    let mut node = Node::new();
    assert_eq!(node.offer(&config(1)).unwrap(), Applied::New);
    assert_eq!(node.offer(&config(1)).unwrap(), Applied::Already);
    node.confirm();
    assert_eq!(node.offer(&config(2)).unwrap(), Applied::New);
    node.restart();
    assert_eq!(node.version(), Some(2));
    assert!(!node.snapshots().current().unwrap().good);
    let previous = node.snapshots().previous().unwrap();
    assert_eq!((previous.config.document().version, previous.good), (1, true));
    assert_eq!(node.snapshots().floor().version, 2);
}

#[test]
fn an_older_a_forged_and_an_equivocating_snapshot_change_nothing() {
    let node = Node::new();
    node.offer(&config(2)).unwrap();
    let mut twin = config(2);
    twin["participation"] = json!({ "subclouds": ["asia"] });
    let refusal = |document| match node.offer(&document) {
        Err(SnapshotError::Refused(why)) => why,
        other => panic!("{other:?}"),
    };
    assert!(matches!(refusal(config(1)), Refused::Older { held: 2, offered: 1 }));
    assert!(matches!(refusal(twin), Refused::Equivocation { version: 2, .. }));
    let forged = signed_config(&config(3), &[&Signer::new(9)]);
    assert!(matches!(
        node.snapshots().verify(&forged, NOW),
        Err(SnapshotError::Refused(Refused::BelowThreshold { .. }))
    ));
    assert_eq!(node.version(), Some(2));
}

/// Both were verified under the same floor; the second to be applied meets the first's floor.
#[test]
fn the_floor_is_asked_again_when_a_snapshot_is_applied() {
    let node = Node::new();
    let verified = |version| {
        let envelope = signed_config(&config(version), &[&Signer::new(1)]);
        node.snapshots().verify(&envelope, NOW).unwrap()
    };
    let (older, newer) = (verified(1), verified(2));
    node.snapshots().apply(newer, NOW).unwrap();
    assert!(matches!(
        node.snapshots().apply(older, NOW),
        Err(SnapshotError::Refused(Refused::Older { held: 2, offered: 1 }))
    ));
}

fn mainnet_keyset() -> VerifiedKeyset {
    let mut document = keyset(1, 1, &[&Signer::new(1)]);
    document["network"] = json!("mainnet");
    VerifiedKeyset::trust(&serde_json::to_vec(&document).unwrap(), Network::Mainnet).unwrap()
}

/// A verified snapshot does not say which volume it was verified for. One of mainnet raised the floor of a testnet
/// volume for good, and so did one of a keyset that this volume never held.
#[test]
fn a_snapshot_verified_for_another_volume_is_not_applied() {
    let mut node = Node::new();
    node.offer(&config(1)).unwrap();
    let refusal = |node: &Node, verified, now| match node.snapshots().apply(verified, now) {
        Err(SnapshotError::Refused(why)) => why,
        other => panic!("{other:?}"),
    };
    let mut document = config(7);
    document["network"] = json!("mainnet");
    let envelope = signed_config(&document, &[&Signer::new(1)]);
    let mainnet = verify_config(&envelope, &mainnet_keyset(), Network::Mainnet, Floor::NONE, NOW).unwrap();
    assert_eq!(
        refusal(&node, mainnet, NOW),
        Refused::OtherNetwork { found: Network::Mainnet, wanted: Network::Testnet }
    );

    let strangers = trusted(&keyset(1, 1, &[&Signer::new(9)]));
    let envelope = signed_config(&config(7), &[&Signer::new(9)]);
    let strange = verify_config(&envelope, &strangers, Network::Testnet, Floor::NONE, NOW).unwrap();
    assert!(matches!(refusal(&node, strange, NOW), Refused::BelowThreshold { keyset_version: 1, .. }));

    let envelope = signed_config(&config(7), &[&Signer::new(1)]);
    let late = node.snapshots().verify(&envelope, NOW).unwrap();
    let valid_until = late.document().valid_until;
    assert_eq!(
        refusal(&node, late.clone(), valid_until),
        Refused::Expired { valid_until, now: NOW.plus_ms(2 * HOUR_MS) }
    );

    let next = keyset(2, 1, &[&Signer::new(1)]);
    node.snapshots().rotate_keyset(&signed_keyset(&next, &[&Signer::new(1)])).unwrap();
    assert_eq!(refusal(&node, late, NOW), Refused::OtherKeyset { found: 1, held: 2 });

    assert_eq!((node.version(), node.snapshots().floor().version), (Some(1), 1));
    node.restart();
    assert_eq!((node.version(), node.snapshots().floor().version), (Some(1), 1));
}

#[test]
fn another_networks_keyset_is_not_pinned() {
    let home = tempfile::tempdir().unwrap();
    let snapshots = create(&volume_folder(&home)).snapshots().unwrap();
    assert!(matches!(
        snapshots.pin(mainnet_keyset()),
        Err(SnapshotError::Refused(Refused::OtherNetwork {
            found: Network::Mainnet,
            wanted: Network::Testnet
        }))
    ));
    assert!(snapshots.keyset().is_none());
}

/// The transactions followed one another, what memory held was set in any order after them.
#[test]
fn snapshots_applied_at_the_same_time_leave_the_newest_in_force_in_memory_too() {
    const AT_ONCE: u64 = 8;
    let mut node = Node::new();
    for round in 0..20 {
        let snapshots = node.snapshots();
        let start = Barrier::new(usize::try_from(AT_ONCE).unwrap());
        let applied: Vec<u64> = std::thread::scope(|scope| {
            let apply = |version| {
                let envelope = signed_config(&config(version), &[&Signer::new(1)]);
                let verified = snapshots.verify(&envelope, NOW).unwrap();
                let start = &start;
                scope.spawn(move || {
                    start.wait();
                    snapshots.apply(verified, NOW).is_ok().then_some(version)
                })
            };
            let threads: Vec<_> = (1..=AT_ONCE).map(|it| apply(round * AT_ONCE + it)).collect();
            threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
        });
        let newest = applied.into_iter().max();
        assert_eq!(node.version(), newest);
        assert_eq!(Some(snapshots.floor().version), newest);
    }
    let newest = node.version();
    node.restart();
    assert_eq!(node.version(), newest);
}

#[test]
fn going_back_to_the_last_good_one_does_not_lower_the_floor() {
    let mut node = Node::new();
    node.offer(&config(1)).unwrap();
    assert!(matches!(node.snapshots().roll_back(NOW), Err(SnapshotError::NoPrevious)));
    node.confirm();
    node.offer(&config(2)).unwrap();
    // Never confirmed: the third is not to come back to the second.
    node.offer(&config(3)).unwrap();
    assert_eq!(node.snapshots().roll_back(NOW).unwrap().config.document().version, 1);
    node.restart();
    assert_eq!(node.version(), Some(1));
    assert!(node.snapshots().current().unwrap().good);
    let failed = Digest::of(&serde_json::to_vec(&config(3)).unwrap());
    assert_eq!(node.snapshots().floor(), Floor { version: 3, digest: Some(failed) });
    assert_eq!(node.offer(&config(3)).unwrap(), Applied::FailedBefore);
    assert!(node.offer(&config(2)).is_err());
    assert_eq!(node.offer(&config(4)).unwrap(), Applied::New);
}

#[test]
fn one_that_failed_is_tried_again_once_it_is_allowed_and_nothing_older_is() {
    let mut node = Node::new();
    node.offer(&config(1)).unwrap();
    assert_eq!(node.snapshots().forget_failure().unwrap(), None);
    node.confirm();
    node.offer(&config(2)).unwrap();
    node.offer(&config(3)).unwrap();
    node.snapshots().roll_back(NOW).unwrap();
    node.restart();
    assert_eq!(node.offer(&config(3)).unwrap(), Applied::FailedBefore);

    assert_eq!(node.snapshots().forget_failure().unwrap(), Some(3));
    assert_eq!(node.snapshots().forget_failure().unwrap(), None);
    node.restart();
    assert_eq!((node.version(), node.snapshots().floor().version), (Some(1), 3), "the floor stays");
    assert!(node.offer(&config(2)).is_err());
    assert_eq!(node.offer(&config(3)).unwrap(), Applied::New);
    assert_eq!(node.snapshots().roll_back(NOW).unwrap().config.document().version, 1);
    assert_eq!(node.offer(&config(3)).unwrap(), Applied::FailedBefore, "it failed once more");
}

#[test]
fn keysets_follow_one_another_and_another_pin_is_refused() {
    let mut node = Node::new();
    let (first, second) = (Signer::new(1), Signer::new(2));
    let next = keyset(2, 1, &[&second]);
    assert!(node.snapshots().rotate_keyset(&signed_keyset(&next, &[&second])).is_err());
    node.snapshots().rotate_keyset(&signed_keyset(&next, &[&first, &second])).unwrap();
    node.restart();
    assert_eq!(node.snapshots().keyset().unwrap().document().version, 2);
    let mut document = config(1);
    document["keyset_version"] = json!(2);
    let envelope = signed_config(&document, &[&second]);
    node.snapshots().apply(node.snapshots().verify(&envelope, NOW).unwrap(), NOW).unwrap();
    let pinned = trusted(&keyset(1, 1, &[&first]));
    node.snapshots().pin(pinned).unwrap();
    let other = trusted(&keyset(1, 1, &[&second]));
    assert!(matches!(node.snapshots().pin(other), Err(SnapshotError::OtherPin { .. })));
}

/// One flipped byte in the stored envelope: the last good one is in force, the floor stands, the
/// damage is told.
#[test]
fn a_snapshot_changed_on_disk_is_not_used_after_a_restart() {
    let mut node = Node::new();
    node.offer(&config(1)).unwrap();
    node.confirm();
    node.offer(&config(2)).unwrap();
    node.rot(0);
    node.restart();
    assert_eq!(node.version(), Some(1));
    assert_eq!(node.snapshots().look(|view| view.unverifiable().len()), 1);
    assert_eq!(node.snapshots().floor().version, 2);
}

/// Whatever part of it changes beneath an open store, what was verified stays in force, and is what is written there again.
#[test]
fn a_snapshot_changed_on_disk_while_it_is_in_force_is_told_and_written_anew() {
    let mut node = Node::new();
    assert_eq!(node.snapshots().measure().unwrap(), None);
    for version in 1..=2 {
        node.offer(&config(version)).unwrap();
        node.confirm();
    }
    let in_force = node.snapshots().current().unwrap().config.digest();
    let whole = Some(Stored { in_force, found: Measured::Present(in_force) });
    assert_eq!(node.snapshots().measure().unwrap(), whole);
    // The payload, a signature, and what is recorded of both.
    for (column, percent) in [("envelope", 30), ("envelope", 97), ("digest", 50)] {
        node.flip(0, column, percent);
        let stored = node.snapshots().measure().unwrap().unwrap();
        assert_eq!(stored.in_force, in_force);
        assert!(matches!(stored.found, Measured::Present(found) if found != in_force), "{column} {percent}");
        assert_eq!(node.version(), Some(2));
        node.snapshots().mend().unwrap();
        assert_eq!(node.snapshots().measure().unwrap(), whole);
    }
    node.restart();
    assert_eq!(node.version(), Some(2));
    let previous = node.snapshots().previous().unwrap();
    assert_eq!((previous.config.document().version, previous.good), (1, true));
}

/// The good first one was deleted for a second that its row still called good, though it no longer verified.
#[test]
fn a_snapshot_changed_on_disk_does_not_take_the_place_of_the_last_good_one() {
    let mut node = Node::new();
    for version in 1..=2 {
        node.offer(&config(version)).unwrap();
        node.confirm();
    }
    node.rot(0);
    node.restart();
    assert_eq!(node.version(), Some(1));
    node.offer(&config(3)).unwrap();
    node.restart();
    assert_eq!(node.version(), Some(3));
    assert_eq!(node.snapshots().roll_back(NOW).unwrap().config.document().version, 1);
    node.restart();
    assert_eq!(node.version(), Some(1));
    assert_eq!(node.snapshots().look(|view| view.unverifiable().len()), 0);
    assert_eq!(node.offer(&config(3)).unwrap(), Applied::FailedBefore);
}

/// A row of the same digest stood there, so it was taken to be in force.
#[test]
fn a_snapshot_changed_on_disk_is_put_in_force_again_when_it_is_offered_again() {
    let mut node = Node::new();
    for version in 1..=2 {
        node.offer(&config(version)).unwrap();
        node.confirm();
    }
    node.rot(0);
    node.restart();
    assert_eq!(node.offer(&config(2)).unwrap(), Applied::New);
    node.restart();
    assert_eq!(node.version(), Some(2));
    assert_eq!(node.snapshots().previous().unwrap().config.document().version, 1);
}

#[test]
fn the_folder_beside_a_runtime_is_an_artifact() {
    let node = Node::new();
    let (program, tree) = (Digest::of(b"program"), Digest::of(b"tree"));
    let mut document = config(1);
    document["runtime"] = serde_json::json!({
        "kind": "process", "engine": "vllm", "command": "vllm/bin/vllm", "digest": program,
        "environment": { "path": "vllm", "digest": tree },
    });
    node.offer(&document).unwrap();
    let expected = |kind| {
        let id = ArtifactId { kind, name: "vllm".into() };
        let list = node.inventory().view().list().unwrap();
        list.into_iter().find(|artifact| artifact.id == id).and_then(|artifact| artifact.facts.expected)
    };
    assert_eq!(expected(ArtifactKind::RuntimeBinary), Some(program));
    assert_eq!(expected(ArtifactKind::RuntimeEnvironment), Some(tree));
}

#[test]
fn the_inventory_follows_the_snapshot_and_keeps_every_change_of_state() {
    let node = Node::new();
    node.offer(&config(1)).unwrap();
    let inventory = node.inventory();
    let name = "gemma-3-270m@1.0.0/tokenizer.json".to_owned();
    let file = ArtifactId { kind: ArtifactKind::ModelFile, name };
    let wanted = Digest::of(b"tokenizer");
    let state = |inventory: &Inventory| {
        let list = inventory.view().list().unwrap();
        list.into_iter().find(|artifact| artifact.id == file).map(|artifact| artifact.state)
    };
    assert_eq!(inventory.view().list().unwrap().len(), 5);
    assert_eq!(state(&inventory), Some(ArtifactState::Unverified));
    inventory.record(file.clone(), wanted, NOW).wait().unwrap();
    let measure = |digest| {
        let found = Measured::Present(digest);
        inventory.measure(file.clone(), found, NOW).wait().unwrap().0
    };
    assert_eq!(measure(wanted), ArtifactState::Ok);
    assert_eq!(measure(wanted), ArtifactState::Ok);
    assert_eq!(measure(Digest::of(b"changed")), ArtifactState::Drifted);
    assert_eq!(measure(wanted), ArtifactState::Ok);

    let mut without = config(2);
    without["models"][0]["files"].as_array_mut().unwrap().pop();
    node.offer(&without).unwrap();
    assert_eq!(state(&inventory), Some(ArtifactState::Unlisted));
    inventory.remove(file.clone(), NOW).wait().unwrap();
    assert_eq!(state(&inventory), None);
    let history: Vec<_> = inventory
        .view()
        .history(Some(&file))
        .unwrap()
        .into_iter()
        .map(|change| change.became.name())
        .collect();
    assert_eq!(history, ["unverified", "ok", "drifted", "ok", "unlisted", "ok"]);
}

/// The Agents that a snapshot approves were not expected: an approved one was Unlisted like any other.
#[test]
fn an_approved_agent_is_ok_and_one_that_is_approved_no_longer_is_unlisted() {
    let node = Node::new();
    let mut document = config(1);
    let platform =
        |name, digest: &[u8]| json!({ "version": "0.2.0", "platform": name, "digest": Digest::of(digest) });
    let both = [platform("linux/amd64", b"amd64"), platform("linux/arm64", b"arm64")];
    document["updates"]["agents"].as_array_mut().unwrap().extend(both);
    node.offer(&document).unwrap();
    let agents = node.snapshots().current().unwrap().config.document().updates.agents.clone();
    let measure = |index: usize, found: &[u8]| {
        let measured = Measured::Present(Digest::of(found));
        node.inventory().measure(agents[index].artifact(), measured, NOW).wait().unwrap().0
    };
    assert_eq!(measure(0, b"agent"), ArtifactState::Ok);
    assert_eq!(measure(1, b"amd64"), ArtifactState::Ok);
    assert_eq!(measure(2, b"amd64"), ArtifactState::Drifted, "another platform's program");

    node.offer(&config(2)).unwrap();
    assert_eq!(measure(0, b"agent"), ArtifactState::Ok);
    assert_eq!(measure(1, b"amd64"), ArtifactState::Unlisted);
}
