//! Every reason for which a message does not count (`docs/protocol.md`, section 2), and their order.

use std::collections::BTreeMap;

use node_types::{
    Digest, Network, NodeId, Timestamp,
    log::BatchHeader,
    protocol::{
        Account, ErrorCode, Hello, LogBatch, MESSAGE_TTL_MS, NODE_FRAME_BYTES_MAX, NetworkFrame, Pong, path,
    },
};
use serde_json::json;

use crate::common::{Answer, Node, World, now, world};

fn account() -> Account {
    Account { account: Some("a@example.org".into()), proof: None }
}

fn assert_refused(answer: &Answer, status: u16, code: &str) {
    assert_eq!((answer.status, answer.json()["code"].as_str()), (status, Some(code)), "{answer:?}");
    assert!(!answer.json()["message"].as_str().unwrap().is_empty());
}

async fn registered(world: &World) -> Node {
    let node = Node::new(1, &world.devnet.url());
    node.register().await;
    node
}

#[tokio::test]
async fn what_is_no_message_is_malformed() {
    let world = world().await;
    let node = registered(&world).await;
    for text in ["", "{}", "{}\n{}", "x\ny"] {
        assert_refused(&node.post_text(path::ACCOUNT, text.to_owned()).await, 400, "malformed");
    }
    let other_kind = node.post(path::HEARTBEAT, &account()).await;
    assert_refused(&other_kind, 400, "malformed");
    let other_shape = node.sign_changed(&Pong { nonce: 1 }, |message| {
        message.kind = node_types::message::MessageKind::AccountLink;
    });
    let answer = node.post_text(path::HEARTBEAT, other_shape.encode()).await;
    assert_refused(&answer, 400, "malformed");
}

#[tokio::test]
async fn a_message_of_a_byte_too_many_is_too_large() {
    let world = world().await;
    let node = registered(&world).await;
    let answer = node.post_text(path::ACCOUNT, " ".repeat(NODE_FRAME_BYTES_MAX + 1)).await;
    assert_refused(&answer, 413, "too_large");
    let answer = node.post_text(path::ACCOUNT, " ".repeat(NODE_FRAME_BYTES_MAX)).await;
    assert_refused(&answer, 400, "malformed");
}

#[tokio::test]
async fn signatures_of_others_over_others_and_for_others_do_not_count() {
    let world = world().await;
    let node = registered(&world).await;
    let other = Node::new(2, &world.devnet.url());
    other.register().await;

    let claimed = node.sign_changed(&account(), |message| message.node = other.id);
    assert_refused(&node.post_text(path::ACCOUNT, claimed.encode()).await, 401, "bad_signature");

    let mut changed = node.sign(&account());
    changed.payload = changed.payload.replace("a@", "b@");
    assert_refused(&node.post_text(path::ACCOUNT, changed.encode()).await, 401, "bad_signature");

    let mut renumbered = node.sign(&account());
    renumbered.message.seq += 100;
    assert_refused(&node.post_text(path::ACCOUNT, renumbered.encode()).await, 401, "bad_signature");

    let elsewhere = NodeId::derive(Network::Mainnet, &node.address);
    let elsewhere = node.sign_changed(&account(), |message| message.node = elsewhere);
    assert_refused(&node.post_text(path::ACCOUNT, elsewhere.encode()).await, 401, "bad_signature");

    assert_eq!(node.post(path::ACCOUNT, &account()).await.status, 200);
}

#[tokio::test]
async fn a_registration_is_for_this_network_and_version_and_for_the_key_that_signs_it() {
    let world = world().await;
    let node = Node::new(1, &world.devnet.url());
    let mut elsewhere = node.registration();
    elsewhere.network = Network::Mainnet;
    assert_refused(&node.post(path::REGISTER, &elsewhere).await, 400, "other_network");
    let mut newer = node.registration();
    newer.protocol = 2;
    assert_refused(&node.post(path::REGISTER, &newer).await, 400, "unsupported");
    let mut other = node.registration();
    other.address = Node::new(2, "").address;
    assert_refused(&node.post(path::REGISTER, &other).await, 401, "bad_signature");
    assert_refused(&node.post(path::ACCOUNT, &account()).await, 403, "not_registered");
    node.register().await;
    node.register().await;
    assert_eq!(node.post(path::ACCOUNT, &account()).await.status, 200);
}

#[tokio::test]
async fn a_message_counts_in_its_time_alone() {
    let world = world().await;
    let node = registered(&world).await;
    let at = |time: Timestamp| {
        let signed = node.sign_changed(&account(), |message| message.issued_at_ms = time);
        node.post_text(path::ACCOUNT, signed.encode())
    };
    let slack = 30_000;
    let long_ago = Timestamp::from_ms(now().ms() - MESSAGE_TTL_MS - 1);
    assert_refused(&at(long_ago).await, 401, "out_of_time");
    assert_refused(&at(now().plus_ms(MESSAGE_TTL_MS + slack)).await, 401, "out_of_time");
    assert_eq!(at(Timestamp::from_ms(now().ms() - MESSAGE_TTL_MS + slack)).await.status, 200);
    assert_eq!(at(now().plus_ms(MESSAGE_TTL_MS - slack)).await.status, 200);
}

#[tokio::test]
async fn a_number_counts_once_in_any_order_and_not_far_below_the_highest() {
    let world = world().await;
    let node = registered(&world).await;
    let numbered = |seq: u64| node.sign_changed(&account(), |message| message.seq = seq).encode();
    let highest = numbered(20_000);
    assert_eq!(node.post_text(path::ACCOUNT, highest.clone()).await.status, 200);
    assert_refused(&node.post_text(path::ACCOUNT, highest).await, 409, "replayed");
    assert_eq!(node.post_text(path::ACCOUNT, numbered(10_001)).await.status, 200);
    assert_refused(&node.post_text(path::ACCOUNT, numbered(10_000)).await, 409, "replayed");
}

/// A machine that was copied with its memory: both copies are the same start and count on from the same number, so no start
/// tells them apart.
#[tokio::test]
async fn a_start_that_uses_a_number_for_two_messages_is_two_and_the_later_is_refused() {
    let world = world().await;
    let node = registered(&world).await;
    let numbered = |seq: u64, kind: &str| {
        let account = Account { account: Some(kind.to_owned()), ..account() };
        node.sign_changed(&account, |message| message.seq = seq).encode()
    };
    assert_eq!(node.post_text(path::ACCOUNT, numbered(7, "the original's")).await.status, 200);
    let refused = node.post_text(path::ACCOUNT, numbered(7, "the copy's")).await;
    assert_refused(&refused, 403, "already_running");
    let why = refused.json()["message"].as_str().unwrap().to_owned();
    assert!(why.contains("number 7") && why.contains("by the same start"), "{why}");
    assert_eq!(node.post_text(path::ACCOUNT, numbered(8, "the original's")).await.status, 200, "it goes on");
    // On a session too, and there it is the last word.
    let mut link = node.connect().await;
    link.send(numbered(8, "the copy's")).await;
    let refused = link.next().await;
    assert!(
        matches!(refused, Some(NetworkFrame::Refused { code: ErrorCode::AlreadyRunning, .. })),
        "{refused:?}"
    );
    assert_eq!(link.next().await, None);
    // Another start's number is an old copy of the volume, or a restored one: it goes on with the next.
    let older = node.restarted(9);
    let used = older.sign_changed(&account(), |message| message.seq = 8).encode();
    assert_refused(&older.post_text(path::ACCOUNT, used).await, 409, "replayed");
    assert_eq!(older.post(path::ACCOUNT, &account()).await.status, 200);
}

/// Whether the network sees the node connected.
async fn connected(world: &World) -> bool {
    world.get("/v1/devnet/state").await.json()["connected"] == 1
}

#[tokio::test]
async fn a_start_that_was_followed_by_another_one_is_superseded() {
    let world = world().await;
    let (node, link) = world.node(1).await;
    drop(link);
    let later = node.restarted(9);
    assert_eq!(
        later.post(path::ACCOUNT, &account()).await.status,
        200,
        "the one before is gone, and not waited for"
    );
    let stray = node.sign_changed(&account(), |message| message.seq = 5000);
    assert_refused(&node.post_text(path::ACCOUNT, stray.encode()).await, 403, "superseded");
    assert_eq!(later.post(path::ACCOUNT, &account()).await.status, 200);
    let shown = world.get("/v1/devnet/state").await.json();
    let boots = shown["nodes"][0]["boots"].as_array().unwrap().clone();
    assert_eq!(boots.len(), 2);
    assert_eq!(
        (&shown["nodes"][0]["bootId"], &shown["refused"]["superseded"]),
        (&json!(later.boot), &json!(1))
    );
}

#[tokio::test]
async fn of_two_starts_the_one_that_is_connected_and_answers_stays() {
    let world = world().await;
    let (node, mut link) = world.node(1).await;
    let node = std::sync::Arc::new(node);
    let copy = node.restarted(9);
    let (asked, mut pings) = tokio::sync::watch::channel(0_u32);
    let original = std::sync::Arc::clone(&node);
    let answering = tokio::spawn(async move {
        while let Some(frame) = link.next_ever().await {
            let NetworkFrame::Ping { nonce } = frame else { panic!("{frame:?}") };
            asked.send_modify(|count| *count += 1);
            link.say(&original, &Pong { nonce }).await;
        }
    });
    let refused = copy.post(path::ACCOUNT, &account()).await;
    assert_refused(&refused, 403, "already_running");
    let message = refused.json()["message"].as_str().unwrap().to_owned();
    assert!(message.contains(&node.boot.to_string()) && message.contains("since 20"), "{message}");
    let mut second = copy.dial().await;
    second.say(&copy, &copy.hello()).await;
    let frame = second.next().await;
    assert!(
        matches!(frame, Some(NetworkFrame::Refused { code: ErrorCode::AlreadyRunning, .. })),
        "{frame:?}"
    );
    assert_eq!(second.next().await, None);
    assert_eq!(*pings.borrow_and_update(), 2, "it is asked each time");
    assert_eq!(node.post(path::ACCOUNT, &account()).await.status, 200, "the first goes on");
    // Who cannot sign as the node asks nobody.
    let forged = Node::new(2, &world.devnet.url()).sign_changed(&account(), |message| message.node = node.id);
    assert_refused(&node.post_text(path::ACCOUNT, forged.encode()).await, 401, "bad_signature");
    assert_eq!(*pings.borrow(), 2);
    assert!(connected(&world).await);

    answering.abort();
    assert!(answering.await.unwrap_err().is_cancelled());
    assert_eq!(copy.post(path::ACCOUNT, &account()).await.status, 200, "the first is gone");
    assert_refused(&node.post(path::ACCOUNT, &account()).await, 403, "superseded");
}

/// A machine that lost its power leaves a connection that looks open.
#[tokio::test]
async fn a_start_that_is_connected_and_says_nothing_is_let_go() {
    let world = world().await;
    let (node, mut link) = world.node(1).await;
    let later = node.restarted(9);
    assert_eq!(later.post(path::ACCOUNT, &account()).await.status, 200);
    let ping = link.next().await;
    assert!(matches!(ping, Some(NetworkFrame::Ping { .. })), "{ping:?}");
    assert_eq!(link.next().await, None);
    assert!(!connected(&world).await);
}

#[tokio::test]
async fn the_first_check_that_fails_is_the_one_that_is_named() {
    let world = world().await;
    let node = Node::new(1, &world.devnet.url());
    let old = Timestamp::from_ms(1);
    let unknown = node.sign_changed(&account(), |message| message.issued_at_ms = old);
    assert_refused(&node.post_text(path::ACCOUNT, unknown.encode()).await, 403, "not_registered");
    node.register().await;
    let replayed = node.sign_changed(&account(), |message| {
        (message.issued_at_ms, message.seq) = (old, 2);
    });
    assert_refused(&node.post_text(path::ACCOUNT, replayed.encode()).await, 401, "out_of_time");
    let once = node.sign(&account()).encode();
    assert_eq!(node.post_text(path::ACCOUNT, once.clone()).await.status, 200);
    let later = node.restarted(9);
    assert_eq!(later.post(path::ACCOUNT, &account()).await.status, 200);
    assert_refused(&node.post_text(path::ACCOUNT, once).await, 409, "replayed");
}

#[tokio::test]
async fn a_log_batch_follows_the_last_one_and_may_come_twice() {
    let world = world().await;
    let node = registered(&world).await;
    let batch = |seq: u64, prev: Digest| {
        let (records, lost) = (BTreeMap::new(), BTreeMap::new());
        let payload = Digest::of(b"");
        let header = BatchHeader { chain: "c".repeat(32), seq, prev, records, lost, payload };
        LogBatch { header: serde_json::to_string(&header).unwrap(), records: None }
    };
    let first = batch(1, Digest::from_bytes([0; 32]));
    let second = batch(2, Digest::of(first.header.as_bytes()));
    assert_refused(&node.post(path::LOGS, &second).await, 409, "broken_chain");
    for again in [&first, &first, &second, &first] {
        let answer = node.post(path::LOGS, again).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let forged = batch(3, Digest::of(b"another one"));
    assert_refused(&node.post(path::LOGS, &forged).await, 409, "broken_chain");
    let logs = world.get("/v1/devnet/logs").await.json();
    assert_eq!(logs["batches"].as_array().unwrap().len(), 2);
    assert_eq!(logs["batches"][1]["times"], 3);
}

#[tokio::test]
async fn a_session_begins_with_a_hello_that_counts() {
    let world = world().await;
    let node = Node::new(1, &world.devnet.url());
    let mut unknown = node.dial().await;
    let hello = node.sign(&node.hello());
    let seq = hello.message.seq;
    unknown.send(hello.encode()).await;
    match unknown.next().await {
        Some(NetworkFrame::Refused { seq: found, code: ErrorCode::NotRegistered, .. }) if found == seq => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(unknown.next().await, None);

    node.register().await;
    let mut early = node.dial().await;
    early.say(&node, &Pong { nonce: 1 }).await;
    let refused = early.next().await;
    assert!(matches!(refused, Some(NetworkFrame::Refused { code: ErrorCode::Malformed, .. })), "{refused:?}");
    assert_eq!(early.next().await, None);

    let mut newer = node.dial().await;
    newer.say(&node, &Hello { protocol: 2, ..node.hello() }).await;
    let refused = newer.next().await;
    assert!(
        matches!(refused, Some(NetworkFrame::Refused { code: ErrorCode::Unsupported, .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn on_a_session_misbehaviour_ends_it_and_other_refusals_do_not() {
    let world = world().await;
    let (node, mut link) = world.node(1).await;
    let twice = node.sign(&Pong { nonce: 1 });
    for _ in 0..2 {
        link.send(twice.encode()).await;
    }
    match link.next().await {
        Some(NetworkFrame::Refused { seq, code: ErrorCode::Replayed, .. }) if seq == twice.message.seq => {}
        other => panic!("{other:?}"),
    }
    link.say(&node, &account()).await;
    let refused = link.next().await;
    assert!(matches!(refused, Some(NetworkFrame::Refused { code: ErrorCode::Malformed, .. })), "{refused:?}");
    assert_eq!(link.next().await, None);

    let mut link = node.connect().await;
    link.send("nonsense".into()).await;
    let refused = link.next().await;
    assert!(matches!(refused, Some(NetworkFrame::Refused { code: ErrorCode::Malformed, .. })), "{refused:?}");

    let messages = world.get("/v1/devnet/messages").await.json();
    assert_eq!(messages["refused"], json!({ "malformed": 2, "replayed": 1 }));
    assert_eq!(messages["received"]["hello"], 2);
}
