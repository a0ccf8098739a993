//! Each log batch is sent once where the network takes it, however much goes with its acknowledgement.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

#[path = "common/network.rs"]
mod network;
#[path = "common/settings.rs"]
mod settings;
#[path = "../../node-types/tests/trust/common.rs"]
#[expect(dead_code, reason = "the trust documents' tests use more of it")]
mod trust;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use network::{NoLink, unavailable};
use node_agent::{
    author::Author,
    network::{Network, NetworkError, Offered, Posted},
    node::Node,
    report, time,
};
use node_store::{
    logs::Target,
    store::{Options, Store},
};
use node_types::{
    Digest, Network as Which,
    log::{BatchHeader, Kind, Level, Record},
    message::MessageKind,
    protocol::{Keysets, LogBatch, Signed},
};
use serde_json::json;
use settings::settings;
use tokio::sync::{mpsc, watch};
use trust::{Signer, keyset, trusted};

/// A network that takes log batches and nothing else, and how often it got each.
#[derive(Default)]
struct Batches(Mutex<BTreeMap<u64, u32>>);

impl Network for Batches {
    type Link = NoLink;

    async fn keysets(&self) -> Result<Keysets, NetworkError> {
        Err(unavailable())
    }

    async fn snapshot(&self, _: Option<Digest>) -> Result<Offered, NetworkError> {
        Err(unavailable())
    }

    async fn post<P: Posted>(&self, message: &Signed) -> Result<P::Answer, NetworkError> {
        if message.message.kind != MessageKind::LogBatch {
            return Err(unavailable());
        }
        let header: BatchHeader = serde_json::from_str(&message.read::<LogBatch>().unwrap().header).unwrap();
        *self.0.lock().unwrap().entry(header.seq).or_default() += 1;
        Ok(serde_json::from_value(json!({ "count": header.seq })).unwrap())
    }

    async fn connect(&self) -> Result<NoLink, NetworkError> {
        Err(unavailable())
    }
}

/// A target that is taken away leaves what was held for it alone. Once, the acknowledgement of the next batch was spent on that,
/// a commit's worth at a time, and the batch was sent again for each.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_removed_target_held_makes_no_batch_go_twice() {
    let home = tempfile::tempdir().unwrap();
    let options = Options { reserve_bytes: 1 << 20, ..Options::new(home.path(), Which::Testnet) };
    let store = Store::create(&options, None, &time::reading().unwrap()).unwrap();
    store.snapshots().pin(trusted(&keyset(1, 1, &[&Signer::new(1)]))).unwrap();
    let held = Target { name: "file".to_owned(), required: true };
    store.logs().set_targets(vec![held]).wait().unwrap();
    for _ in 0..4000 {
        let now = time::now(&store).unwrap();
        store.logs().append(Record::new(now, Level::Info, Kind::Agent, "x".repeat(1000)));
    }
    store.logs().flush().wait().unwrap();
    while let Some(batch) = store.logs().seal().wait().unwrap() {
        while store.logs().acknowledge(batch.header.seq).wait().unwrap() > 0 {}
    }
    store.logs().set_targets(Vec::new()).wait().unwrap();
    assert!(store.logs().view().batches(1).unwrap().is_empty(), "the network has everything");

    let store = Arc::new(store);
    let author = Author::new(Arc::clone(&store)).unwrap();
    let (node, _chunks) = Node::new(store, author, settings(home.path())).unwrap();
    node.set_registered(true);
    node.journal.note(Level::Info, Kind::Agent, "one more");
    let network = Arc::new(Batches::default());
    let (_configs, configs) = mpsc::channel(1);
    let (_stop, stopped) = watch::channel(true);
    report::run(Arc::clone(&node), Arc::clone(&network), configs, stopped).await;
    let sent = network.0.lock().unwrap().clone();
    assert!(!sent.is_empty() && sent.values().all(|times| *times == 1), "{sent:?}");
    assert!(node.store.view().logs().batches(1).unwrap().is_empty());
}
