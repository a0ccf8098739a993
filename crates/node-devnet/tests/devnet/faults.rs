//! Each fault does what it says, and ends.

use node_devnet::Fault;
use node_types::{
    Network,
    protocol::{Account, NETWORK_FRAME_BYTES_MAX, NetworkFrame, path},
    verify::{Floor, Refused},
};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::{
    common::{OFFER_RETRY_MS, World, chat, get, now, pause, world},
    network::snapshot,
};

async fn switch(world: &World, fault: Value) -> Value {
    let answer = world.post("/v1/devnet/faults", &fault).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

/// Waits until nobody can connect.
async fn is_away(world: &World) {
    while TcpStream::connect(world.devnet.address()).await.is_ok() {
        pause(10).await;
    }
}

#[tokio::test]
async fn faults_show_and_end() {
    let world = world().await;
    switch(&world, json!({ "fault": "delay", "ms": 5 })).await;
    switch(&world, json!({ "fault": "duplicate" })).await;
    let on = world.get("/v1/devnet/faults").await.json();
    assert_eq!((&on["faults"]["delay_ms"], &on["faults"]["duplicate"]), (&json!(5), &json!(true)));
    world.devnet.fault(Fault::None).unwrap();
    let off = world.get("/v1/devnet/faults").await.json();
    assert_eq!((&off["faults"]["delay_ms"], &off["faults"]["duplicate"]), (&json!(0), &json!(false)));
    assert_eq!(world.post("/v1/devnet/faults", &json!({ "fault": "explode" })).await.status, 422);
}

#[tokio::test]
async fn dropping_ends_a_connection_without_a_word() {
    let world = world().await;
    let (node, mut link) = world.node(1).await;
    switch(&world, json!({ "fault": "delay", "ms": 60_000 })).await;
    world.submit(json!({})).await;
    switch(&world, json!({ "fault": "drop" })).await;
    assert_eq!(link.next_text().await, None);
    switch(&world, json!({ "fault": "none" })).await;
    let mut link = node.connect().await;
    link.offer().await;
}

#[tokio::test]
async fn delayed_frames_come_later() {
    let world = world().await;
    let (_, mut link) = world.node(1).await;
    switch(&world, json!({ "fault": "delay", "ms": 300 })).await;
    let before = now();
    world.post("/v1/devnet/ping", &json!({})).await;
    assert!(matches!(link.next().await, Some(NetworkFrame::Ping { .. })));
    assert!(now().since_ms(before) >= 290, "{}", now().since_ms(before));
}

#[tokio::test]
async fn duplicated_frames_come_twice() {
    let world = world().await;
    let (_, mut link) = world.node(1).await;
    switch(&world, json!({ "fault": "duplicate" })).await;
    world.post("/v1/devnet/ping", &json!({})).await;
    let first = link.next().await;
    assert_eq!(link.next().await, first);
}

#[tokio::test]
async fn reordered_frames_overtake_one_another() {
    let world = world().await;
    let (_, mut link) = world.node(1).await;
    switch(&world, json!({ "fault": "reorder" })).await;
    // The first waits long enough for the second to be there.
    switch(&world, json!({ "fault": "delay", "ms": 6_000 })).await;
    let ping = async || world.post("/v1/devnet/ping", &json!({})).await.json()["nonce"].as_u64().unwrap();
    let (first, second) = (ping().await, ping().await);
    assert_eq!(link.next().await, Some(NetworkFrame::Ping { nonce: second }));
    assert_eq!(link.next().await, Some(NetworkFrame::Ping { nonce: first }));
    switch(&world, json!({ "fault": "delay", "ms": 0 })).await;
    let alone = ping().await;
    assert_eq!(link.next().await, Some(NetworkFrame::Ping { nonce: alone }));
}

#[tokio::test]
async fn lost_acknowledgements_do_not_come_and_the_end_is_stored_all_the_same() {
    let world = world().await;
    let (node, mut link) = world.node(1).await;
    let asked = world.ask(chat(), &[]);
    let job = link.take(&node).await.id;
    switch(&world, json!({ "fault": "lose_acks", "count": 1 })).await;
    link.finish(&node, job, "Paris").await;
    assert_eq!(asked.await.unwrap().status, 200);
    assert!(link.is_silent(200).await);
    link.finish(&node, job, "Paris").await;
    link.acknowledged(job).await;
    assert_eq!(world.job(job).await["resultsReceived"], 2);
}

#[tokio::test]
async fn a_lost_answer_to_an_offer_brings_the_offer_again() {
    let world = world().await;
    let (node, mut link) = world.node(1).await;
    switch(&world, json!({ "fault": "lose_answers", "count": 1 })).await;
    let id = world.submit(json!({})).await;
    link.take(&node).await;
    assert_eq!(link.take(&node).await.id, id);
    world.until(id, "held").await;
}

#[tokio::test]
async fn so_many_requests_are_refused() {
    let world = world().await;
    let (node, _link) = world.node(1).await;
    switch(&world, json!({ "fault": "refuse", "count": 2 })).await;
    let account = Account { account: None, proof: None };
    for expected in [503, 503, 200] {
        let answer = node.post(path::ACCOUNT, &account).await;
        assert_eq!(answer.status, expected);
        if expected == 503 {
            assert_eq!(answer.json()["code"], "unavailable");
        }
    }
}

#[tokio::test]
async fn while_it_is_away_nobody_connects_and_who_waits_gets_the_answer() {
    let world = world().await;
    let (node, mut link) = world.node(1).await;
    let asked = world.ask(chat(), &[]);
    let job = link.take(&node).await.id;
    world.until(job, "held").await;
    let away_ms = 10_000;
    let since = now();
    switch(&world, json!({ "fault": "away", "ms": away_ms })).await;
    assert_eq!(link.next_text().await, None);
    is_away(&world).await;
    while TcpStream::connect(world.devnet.address()).await.is_err() {
        pause(10).await;
    }
    assert!(now().since_ms(since) >= away_ms);
    let mut link = node.connect().await;
    link.finish(&node, job, "Paris").await;
    link.acknowledged(job).await;
    assert_eq!(asked.await.unwrap().json()["choices"][0]["message"]["content"], "Paris");
    assert_eq!(world.get("/v1/devnet/faults").await.json()["faults"]["away_until"], Value::Null);
}

#[tokio::test]
async fn it_comes_back_earlier_when_told_so() {
    let world = world().await;
    world.devnet.fault(Fault::Away { ms: 600_000 }).unwrap();
    is_away(&world).await;
    world.devnet.fault(Fault::None).unwrap();
    while TcpStream::connect(world.devnet.address()).await.is_err() {
        pause(10).await;
    }
    assert_eq!(get(&format!("{}/v1/devnet/state", world.devnet.url())).await.status, 200);
}

#[tokio::test]
async fn bad_snapshots_are_refused_by_a_node_each_for_its_reason() {
    let world = world().await;
    let early = json!({ "fault": "bad_snapshot", "kind": "lower_version" });
    assert_eq!(world.post("/v1/devnet/faults", &early).await.status, 409, "there is no lower one yet");
    world.post("/v1/devnet/snapshots", &json!({})).await;
    let good = snapshot(&world, Floor::NONE).await.unwrap();
    let floor = Floor::at(&good);
    let (_, mut link) = world.node(1).await;
    for kind in ["wrong_key", "lower_version", "other_network", "equivocation", "expired"] {
        switch(&world, json!({ "fault": "bad_snapshot", "kind": kind })).await;
        let refused = snapshot(&world, floor).await.unwrap_err();
        let as_wanted = match kind {
            "wrong_key" => matches!(refused, Refused::WrongSignature { .. }),
            "lower_version" => matches!(refused, Refused::Older { held: 2, offered: 1 }),
            "other_network" => matches!(refused, Refused::OtherNetwork { found: Network::Mainnet, .. }),
            "equivocation" => matches!(refused, Refused::Equivocation { version: 2, .. }),
            _ => matches!(refused, Refused::Expired { .. }),
        };
        assert!(as_wanted, "{kind}: {refused}");
        match link.next().await {
            Some(NetworkFrame::Snapshot(pushed)) => assert_ne!(pushed.digest, good.digest(), "{kind}"),
            other => panic!("{other:?}"),
        }
    }
    switch(&world, json!({ "fault": "none" })).await;
    assert_eq!(snapshot(&world, floor).await.unwrap().digest(), good.digest());
}

#[tokio::test]
async fn frames_that_are_none_are_sent_on_command() {
    let world = world().await;
    let (_, mut link) = world.node(1).await;
    switch(&world, json!({ "fault": "malformed" })).await;
    let text = link.next_text().await.unwrap();
    assert!(serde_json::from_str::<NetworkFrame>(&text).is_err());
    switch(&world, json!({ "fault": "oversized" })).await;
    assert_eq!(link.next_text().await.unwrap().len(), NETWORK_FRAME_BYTES_MAX + 1);
}

#[tokio::test]
async fn a_job_of_the_other_network_is_offered_on_command() {
    let world = world().await;
    let (_, mut link) = world.node(1).await;
    let id = switch(&world, json!({ "fault": "other_network_job" })).await["job"].clone();
    let job = link.offer().await;
    assert_eq!((job.network, json!(job.id)), (Network::Mainnet, id));
    assert!(link.is_silent(2 * OFFER_RETRY_MS).await);
}
