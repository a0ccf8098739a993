//! The signer signs this node's messages and nothing else.

use node_store::keys::{NodeKey, SignError, Signer};
use node_types::{
    BootId, Digest, Network, Timestamp,
    message::{Domain, MessageKind, NO_CONFIG, NodeMessage},
};

use crate::stand_in::node_key;

const TESTNET: Domain = Domain { network: Network::Testnet, chain_id: 31337 };

fn message(signer: &Signer, seq: u64) -> NodeMessage {
    NodeMessage {
        kind: MessageKind::Heartbeat,
        node: signer.node_id(Network::Testnet),
        boot_id: BootId::from_bytes([1; 16]),
        seq,
        issued_at_ms: Timestamp::from_ms(1_795_478_400_000),
        ttl_ms: 60_000,
        config_digest: NO_CONFIG,
        payload_hash: Digest::of(b"{}"),
    }
}

/// [`node_types::signature::Signature`] cannot hold a high `s`, so every signature that comes out is low.
#[test]
fn signatures_recover_to_the_node_and_are_the_same_each_time() {
    let signer = Signer::new(node_key());
    let mut last_bytes = Vec::new();
    for seq in 0..64 {
        let message = message(&signer, seq);
        let signature = signer.sign(&message, &TESTNET).unwrap();
        assert_eq!(message.recover(&TESTNET, &signature), Ok(signer.address()));
        assert_eq!(signer.sign(&message, &TESTNET).unwrap(), signature);
        last_bytes.push(signature.as_bytes()[64]);
    }
    assert!(last_bytes.contains(&27) && last_bytes.contains(&28), "both forms of v occur");
}

#[test]
fn a_message_of_another_node_or_network_is_not_signed() {
    let signer = Signer::new(node_key());
    let other = Signer::new(NodeKey::generate().unwrap());
    let refused = signer.sign(&message(&other, 1), &TESTNET);
    assert!(matches!(refused, Err(SignError::OtherNode { .. })));
    let mainnet = Domain { network: Network::Mainnet, ..TESTNET };
    let refused = signer.sign(&message(&signer, 1), &mainnet);
    assert!(matches!(refused, Err(SignError::OtherNode { network: Network::Mainnet, .. })));
}
