//! What the node signs is what any Ethereum tool verifies: `eth-account` recovers the node's address from the messages
//! that the author signs, and not from altered ones.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

#[path = "common/python.rs"]
mod python;
#[path = "../../node-types/tests/trust/common.rs"]
#[expect(dead_code, reason = "the trust documents' tests use more of it")]
mod trust;

use std::{io::Write, process::Stdio, sync::Arc};

use node_agent::{author::Author, time};
use node_store::store::{Options, Store};
use node_types::{
    Network,
    message::Domain,
    protocol::{Hello, Leaving, Pong, Signed},
};
use serde_json::{Value, json};
use trust::{CHAIN_ID, Signer, keyset, trusted};

const SCRIPT: &str = r#"
import json, sys
from eth_account import Account
from eth_account.messages import encode_typed_data
for line in sys.stdin:
    given = json.loads(line)
    message = encode_typed_data(full_message=given["typed_data"])
    print(Account.recover_message(message, signature=given["signature"]))
"#;

fn given(message: &Signed, domain: &Domain) -> Value {
    json!({ "typed_data": message.message.typed_data(domain), "signature": message.signature })
}

#[tokio::test]
async fn eth_account_recovers_the_nodes_address_from_what_it_signs_and_from_nothing_else() {
    let home = tempfile::tempdir().unwrap();
    let reading = time::reading().unwrap();
    let store = Store::create(&Options::new(home.path(), Network::Testnet), None, &reading).unwrap();
    store.snapshots().pin(trusted(&keyset(1, 1, &[&Signer::new(1)]))).unwrap();
    let author = Author::new(Arc::new(store)).unwrap();
    let store_address = {
        let signed = author.sign(&Pong { nonce: 1 }).await.unwrap();
        let domain = Domain { network: Network::Testnet, chain_id: CHAIN_ID };
        signed.message.recover(&domain, &signed.signature).unwrap().to_string()
    };
    let domain = Domain { network: Network::Testnet, chain_id: CHAIN_ID };
    let mut lines = Vec::new();
    for nonce in 0..20 {
        lines.push(given(&author.sign(&Pong { nonce }).await.unwrap(), &domain));
    }
    let hello = Hello { protocol: 1, agent: "0.1.0".to_owned(), concurrency: 2, models: Vec::new() };
    lines.push(given(&author.sign(&hello).await.unwrap(), &domain));
    let leaving = author.sign(&Leaving { reason: "é \"quoted\"".to_owned() }).await.unwrap();
    lines.push(given(&leaving, &domain));
    let sound = lines.len();
    // Another number, another chain.
    let mut altered = leaving.clone();
    altered.message.seq += 1;
    lines.push(given(&altered, &domain));
    lines.push(given(&leaving, &Domain { chain_id: CHAIN_ID + 1, ..domain }));

    let python = python::with_packages("eth-account", &["eth-account==0.14.0"]);
    let mut child = std::process::Command::new(python)
        .args(["-c", SCRIPT])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    for line in &lines {
        writeln!(input, "{line}").unwrap();
    }
    drop(input);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let recovered: Vec<_> = std::str::from_utf8(&output.stdout).unwrap().lines().collect();

    assert_eq!(recovered.len(), lines.len());
    assert!(recovered[..sound].iter().all(|address| *address == store_address), "{recovered:?}");
    assert!(recovered[sound..].iter().all(|address| *address != store_address), "{recovered:?}");
}
