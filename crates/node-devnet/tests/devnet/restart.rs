//! What a devnet keeps over a restart, and which folders it refuses.

use std::{fs, os::unix::fs::PermissionsExt as _};

use node_devnet::{Devnet, DevnetError};
use node_types::{
    Network,
    protocol::{Account, NetworkFrame, path},
    verify::Floor,
};
use serde_json::json;

use crate::{
    common::{Node, World, chat, settings, world},
    network::{keyset, snapshot},
};

/// The same devnet after its next start, at another address.
async fn restarted(world: World) -> World {
    let World { devnet, folder } = world;
    devnet.stop().await;
    let devnet = Devnet::start(settings(folder.path())).await.unwrap();
    World { devnet, folder }
}

#[tokio::test]
async fn keys_snapshots_jobs_and_ends_are_there_after_a_restart() {
    let world = world().await;
    let (node, mut link) = world.node(1).await;
    let ended = world.submit(json!({})).await;
    link.take(&node).await;
    link.finish(&node, ended, "Paris").await;
    link.acknowledged(ended).await;
    let held = world.submit(json!({})).await;
    link.take(&node).await;
    world.until(held, "held").await;
    drop(link);
    let waiting =
        world.submit(json!({ "request": { "model": "e", "input": "x" }, "mode": "embedding" })).await;
    world.post("/v1/devnet/keysets/rotate", &json!({})).await;
    let (keys, config) = (keyset(&world).await, snapshot(&world, Floor::NONE).await.unwrap());

    let world = restarted(world).await;
    assert_eq!(keyset(&world).await, keys);
    assert_eq!(snapshot(&world, Floor::NONE).await.unwrap().digest(), config.digest());
    assert_eq!(world.job(ended).await["end"], "result");
    assert_eq!(world.job(held).await["place"], "held");
    assert_eq!(world.job(waiting).await["place"], "waiting");

    // The node needs no registration, its old numbers are still used up, and its end is taken.
    let again = Node::new(1, &world.devnet.url());
    let replayed = again.post(path::ACCOUNT, &Account { account: None, proof: None }).await;
    assert_eq!(replayed.json()["code"], "replayed");
    let node = again.restarted(1);
    let mut link = node.connect().await;
    assert_eq!(link.take(&node).await.id, waiting);
    link.finish(&node, held, "Rome").await;
    link.acknowledged(held).await;
    assert_eq!(world.job(held).await["end"], "result");
}

#[tokio::test]
async fn who_is_connected_or_waits_is_told_when_it_stops() {
    let world = world().await;
    let (node, mut link) = world.node(1).await;
    let asked = world.ask(chat(), &[]);
    let job = link.take(&node).await.id;
    world.until(job, "held").await;
    let World { devnet, folder: _folder } = world;
    devnet.stop().await;
    let closing = link.next().await;
    assert!(matches!(closing, Some(NetworkFrame::Closing { retry_after_ms: 50, .. })), "{closing:?}");
    assert_eq!(link.next().await, None);
    assert_eq!(asked.await.unwrap().status, 503);
}

#[tokio::test]
async fn a_changed_template_makes_the_next_snapshot_and_the_same_one_does_not() {
    let world = restarted(world().await).await;
    assert_eq!(snapshot(&world, Floor::NONE).await.unwrap().document().version, 1);
    let World { devnet, folder } = world;
    devnet.stop().await;
    let mut changed = settings(folder.path());
    changed.config.limits.max_tokens = 9;
    let devnet = Devnet::start(changed).await.unwrap();
    let config = snapshot(&World { devnet, folder }, Floor::NONE).await.unwrap();
    assert_eq!((config.document().version, config.document().limits.max_tokens), (2, 9));
}

#[tokio::test]
async fn keys_and_the_database_are_readable_by_their_owner_alone() {
    let world = world().await;
    let mode =
        |path: &str| fs::metadata(world.folder.path().join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("keys"), mode("keys/keyset-1.key")), (0o700, 0o600));
    assert_eq!((mode("devnet.db"), mode("devnet.db-wal")), (0o600, 0o600));
}

#[tokio::test]
async fn a_folder_is_one_network_and_one_devnet() {
    let world = world().await;
    let second = Devnet::start(settings(world.folder.path())).await.unwrap_err();
    assert!(matches!(second, DevnetError::Database { .. }), "{second}");
    let World { devnet, folder } = world;
    devnet.stop().await;

    let mut mainnet = settings(folder.path());
    mainnet.network = Network::Mainnet;
    let refused = Devnet::start(mainnet).await.unwrap_err();
    assert!(matches!(refused, DevnetError::OtherNetwork { .. }), "{refused}");
    let mut other_chain = settings(folder.path());
    other_chain.chain_id += 1;
    let refused = Devnet::start(other_chain).await.unwrap_err();
    assert!(matches!(refused, DevnetError::OtherNetwork { .. }), "{refused}");
}

#[tokio::test]
async fn a_missing_or_a_changed_key_is_an_error_and_never_a_new_one() {
    let World { devnet, folder } = world().await;
    devnet.stop().await;
    let key = folder.path().join("keys/keyset-1.key");
    let moved = folder.path().join("aside");
    fs::copy(&key, &moved).unwrap();
    let start = || Devnet::start(settings(folder.path()));

    remove(&key);
    assert!(matches!(start().await.unwrap_err(), DevnetError::MissingKey { .. }));
    assert!(!key.exists());
    put(&key, &"11".repeat(32));
    assert!(matches!(start().await.unwrap_err(), DevnetError::WrongKey { .. }));
    put(&key, "no key");
    assert!(matches!(start().await.unwrap_err(), DevnetError::WrongKey { .. }));
    remove(&key);
    fs::copy(&moved, &key).unwrap();
    start().await.unwrap();
}

#[tokio::test]
async fn settings_that_make_no_sense_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let mut open = settings(folder.path());
    open.listen = "0.0.0.0:0".parse().unwrap();
    assert!(matches!(Devnet::start(open).await.unwrap_err(), DevnetError::NotLoopback { .. }));
    let mut hasty = settings(folder.path());
    hasty.offer_retry_ms = 0;
    let refused = Devnet::start(hasty).await.unwrap_err();
    assert_eq!(refused.to_string(), "the devnet's setting offer_retry_ms is 0, it must be at least 1");
    let mut empty = settings(folder.path());
    empty.config.limits.max_tokens = 0;
    assert!(matches!(Devnet::start(empty).await.unwrap_err(), DevnetError::Template(_)));
}

#[expect(clippy::disallowed_methods, reason = "the test damages a folder on purpose")]
fn remove(path: &std::path::Path) {
    fs::remove_file(path).unwrap();
}

#[expect(clippy::disallowed_methods, reason = "the test damages a folder on purpose")]
fn put(path: &std::path::Path, text: &str) {
    fs::write(path, text).unwrap();
}
