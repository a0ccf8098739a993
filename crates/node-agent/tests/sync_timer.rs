//! A new snapshot is found by the timer alone, where no push ever comes and no heartbeat arrives.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

#[path = "common/network.rs"]
mod network;
#[path = "common/settings.rs"]
mod settings;
#[path = "../../node-types/tests/trust/common.rs"]
#[expect(dead_code, reason = "the trust documents' tests use more of it")]
mod trust;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use network::{NoLink, unavailable};
use node_agent::{
    agent,
    network::{Network, NetworkError, Offered, Posted},
    settings::Settings,
    time,
};
use node_store::store::{Options, Store};
use node_types::{
    Digest, Network as Which, NodeId,
    message::MessageKind,
    protocol::{Keysets, Signed},
};
use serde_json::{Value, json};
use settings::settings;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use trust::{HOUR_MS, Signer, config, keyset, signed_config, with};

/// The longest that anything is waited for.
const PATIENCE: Duration = Duration::from_secs(120);

/// A network that answers requests for keysets, registration and snapshots, and nothing else.
struct Quiet {
    offered: Mutex<Vec<u8>>,
    looks: Mutex<u32>,
    node: NodeId,
}

impl Network for Quiet {
    type Link = NoLink;

    async fn keysets(&self) -> Result<Keysets, NetworkError> {
        Ok(Keysets { pinned: keyset(1, 1, &[&Signer::new(1)]).to_string(), rotations: Vec::new() })
    }

    async fn snapshot(&self, held: Option<Digest>) -> Result<Offered, NetworkError> {
        *self.looks.lock().unwrap() += 1;
        let offered = self.offered.lock().unwrap().clone();
        let envelope = node_types::envelope::Envelope::parse(&offered).unwrap();
        Ok(if Some(Digest::of(&envelope.payload)) == held {
            Offered::Held
        } else {
            Offered::Envelope(offered)
        })
    }

    async fn post<P: Posted>(&self, message: &Signed) -> Result<P::Answer, NetworkError> {
        if message.message.kind != MessageKind::Register {
            return Err(unavailable());
        }
        let answer = json!({ "node": self.node, "now_ms": time::reading().unwrap().wall });
        Ok(serde_json::from_value(answer).unwrap())
    }

    async fn connect(&self) -> Result<NoLink, NetworkError> {
        Err(unavailable())
    }
}

fn snapshot(version: u64) -> Vec<u8> {
    let now = time::reading().unwrap().wall.ms();
    let mut document: Value = config(version);
    for (field, at) in [("issued_at", now - 1), ("refresh_by", now + HOUR_MS), ("valid_until", now + HOUR_MS)]
    {
        document[field] = json!(at);
    }
    let document = with(document, "/timings/sync_ms", json!(100));
    let document = with(document, "/runtime", json!({ "kind": "external", "engine": "none" }));
    signed_config(&document, &[&Signer::new(1)])
}

#[tokio::test(flavor = "multi_thread")]
async fn the_timer_finds_a_new_snapshot_and_asks_no_more_often_than_it_says() {
    let home = tempfile::tempdir().unwrap();
    let options = Options::new(home.path(), Which::Testnet);
    let node = Store::create(&options, None, &time::reading().unwrap()).unwrap().node();
    let network = Arc::new(Quiet { offered: Mutex::new(snapshot(1)), looks: Mutex::new(0), node });
    let settings = Settings { shutdown_grace_ms: 100, ..settings(home.path()) };
    let (stop, stopped) = watch::channel(false);
    let running = tokio::spawn(agent::run_on(settings, Arc::clone(&network), stopped));
    let in_force = || {
        let view = Store::view_only(&options).unwrap().snapshots().unwrap();
        view.current().map_or(0, |current| current.config.document().version)
    };
    let is_in_force = async |version| {
        while in_force() != version {
            sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, is_in_force(1)).await.unwrap();

    *network.offered.lock().unwrap() = snapshot(2);
    tokio::time::timeout(PATIENCE, is_in_force(2)).await.unwrap();
    let begun = Instant::now();
    *network.looks.lock().unwrap() = 0;
    let looked = async {
        while *network.looks.lock().unwrap() < 10 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, looked).await.unwrap();
    let looks = *network.looks.lock().unwrap();
    let most = begun.elapsed().as_millis() / 100 + 4;
    assert!(u128::from(looks) <= most, "{looks} looks, one is due every 100 ms: no more than {most}");

    stop.send_replace(true);
    running.await.unwrap().unwrap();
}
