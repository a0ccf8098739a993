//! Hashes and signatures made by another implementation, eth-account 0.14.0 from PyPI, with the
//! secret key 0x4646...46. To make them again, with `pip install eth-account`:
//!
//! ```python
//! import hashlib
//! from eth_account import Account
//! from eth_account.messages import encode_defunct, encode_typed_data
//! account = Account.from_key(bytes([0x46]) * 32)
//! # The message: `data` is what NodeMessage::typed_data prints.
//! print(account.sign_message(encode_typed_data(full_message=data)).message_hash.hex())
//! print(account.sign_message(encode_typed_data(full_message=data)).signature.hex())
//! # The document.
//! kind, payload = b"application/vnd.resultity.node-config+json", b'{"version":1}'
//! encoded = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
//! print(account.sign_message(encode_defunct(encoded)).message_hash.hex())
//! print(account.sign_message(encode_defunct(encoded)).signature.hex())
//! ```

use node_types::{
    BootId, Digest, Network, NodeId, Timestamp,
    envelope::{CONFIG_PAYLOAD_TYPE, Envelope, pae},
    id::hex_encode,
    message::{Domain, MessageKind, NodeMessage},
    signature::{BadSignature, Signature},
};
use proptest::prelude::*;
use serde_json::json;

use crate::common::Signer;

const ADDRESS: &str = "0x9d8A62f656a8d1615C1294fd71e9CFb3E4855A4F";
const NODE: &str = "node-8f4e4c5c5bc732d72827cb55186ec3c2e04983b8";
const DOMAIN: Domain = Domain { network: Network::Testnet, chain_id: 84_532 };
const MESSAGE_HASH: &str = "bd13703ec342e020bfb4e7eeabd626efb5e0eb064e761bd53c7f725edab9bcfd";
const MESSAGE_SIGNATURE: &str = "0x0c4dc0bb39a18c2fa77b8820137daed581879e83891ab4c89fd71c701d90feef\
     36ee85a00aafec8f790cb4362fef520a407a18d1f3214d9e7d838117d0aaf0fd1b";
const DOCUMENT_HASH: &str = "22aab5e4b4c58cd23d05c46e46291e668a42b377c16df0440de84afe7648be28";
const DOCUMENT_SIGNATURE: &str = "0xb62d02fe7658eb82bbe6b5557349e68bc2b81dd22648698879006e882b36d0bb\
     277202e00ce44e20bae1195af13e4b91a6c695cee55db17b937f87b7ab2c96fa1b";

#[expect(clippy::unwrap_used, reason = "a constant of the tests")]
fn message() -> NodeMessage {
    NodeMessage {
        kind: MessageKind::LogBatch,
        node: NODE.parse().unwrap(),
        boot_id: BootId::from_bytes([11; 16]),
        seq: 4097,
        issued_at_ms: Timestamp::from_ms(1_795_478_400_000),
        ttl_ms: 60_000,
        config_digest: Digest::of(b"config"),
        payload_hash: Digest::of(b"payload"),
    }
}

#[test]
fn a_message_has_the_hash_and_the_signer_that_ethereum_tools_find() {
    let signature: Signature = MESSAGE_SIGNATURE.parse().unwrap();
    let hash = message().signing_hash(&DOMAIN);
    assert_eq!(hex_encode(hash.as_bytes()), MESSAGE_HASH);
    assert_eq!(message().recover(&DOMAIN, &signature).unwrap().to_string(), ADDRESS);
    // RFC 6979 makes both signers give the same signature.
    assert_eq!(Signer::new(0x46).sign_message(hash), signature);
}

#[test]
fn a_document_has_the_hash_and_the_signer_that_ethereum_tools_find() {
    let envelope = Envelope::unsigned(CONFIG_PAYLOAD_TYPE, br#"{"version":1}"#.to_vec());
    let signature: Signature = DOCUMENT_SIGNATURE.parse().unwrap();
    assert_eq!(hex_encode(envelope.signing_hash().as_bytes()), DOCUMENT_HASH);
    let encoded = pae(&envelope.payload_type, &envelope.payload);
    assert_eq!(signature.recover_eip191(&encoded).unwrap().to_string(), ADDRESS);
    assert_eq!(Signer::new(0x46).sign_document(envelope.signing_hash()), signature);
}

/// The struct that other tools are given is the struct that is signed.
#[test]
fn typed_data_is_what_ethereum_tools_take() {
    let data = message().typed_data(&DOMAIN);
    assert_eq!(
        data["types"]["EIP712Domain"],
        json!([
            { "name": "name", "type": "string" },
            { "name": "version", "type": "string" },
            { "name": "chainId", "type": "uint256" },
        ])
    );
    let fields = data["types"]["NodeMessage"].as_array().unwrap();
    let written: Vec<String> = fields
        .iter()
        .map(|field| format!("{} {}", field["type"].as_str().unwrap(), field["name"].as_str().unwrap()))
        .collect();
    assert_eq!(
        format!("NodeMessage({})", written.join(",")),
        "NodeMessage(string kind,string node,string bootId,uint64 seq,uint64 issuedAtMs,uint64 ttlMs,\
         bytes32 configDigest,bytes32 payloadHash)"
    );
    assert_eq!(data["message"].as_object().unwrap().len(), fields.len());
    assert!(fields.iter().all(|field| !data["message"][field["name"].as_str().unwrap()].is_null()));
    assert_eq!(data["domain"], json!({ "name": "Resultity Node", "version": "1", "chainId": 84_532 }));
}

#[test]
fn a_message_of_one_network_or_chain_is_none_of_another() {
    let signature: Signature = MESSAGE_SIGNATURE.parse().unwrap();
    for domain in [Domain { network: Network::Mainnet, ..DOMAIN }, Domain { chain_id: 1, ..DOMAIN }] {
        let refused = message().recover(&domain, &signature);
        assert!(matches!(refused, Err(BadSignature::OtherNode { .. })), "{refused:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a message says is signed: no field can be exchanged under a signature.
    #[test]
    fn every_field_of_a_message_is_signed(
        field in 0..8,
        kind in prop::sample::select(&MessageKind::ALL[..]),
        number in any::<u64>(),
        bytes in any::<[u8; 32]>(),
    ) {
        let signature: Signature = MESSAGE_SIGNATURE.parse().unwrap();
        let mut changed = message();
        match field {
            0 => changed.kind = kind,
            1 => changed.node = NodeId::derive(Network::Testnet, &Signer::new(2).address()),
            2 => changed.boot_id = BootId::from_bytes(bytes[..16].try_into().unwrap()),
            3 => changed.seq = number,
            4 => changed.issued_at_ms = Timestamp::from_ms(number),
            5 => changed.ttl_ms = number,
            6 => changed.config_digest = Digest::from_bytes(bytes),
            _ => changed.payload_hash = Digest::from_bytes(bytes),
        }
        prop_assert_eq!(changed == message(), changed.recover(&DOMAIN, &signature).is_ok());
    }

    #[test]
    fn a_message_survives_json(kind in prop::sample::select(&MessageKind::ALL[..]), seq in 0..1_u64 << 53) {
        let sent = NodeMessage { kind, seq, ..message() };
        let text = serde_json::to_string(&sent).unwrap();
        let kind_text = format!(r#""kind":"{}""#, kind.name());
        prop_assert!(text.contains(&kind_text) && text.contains("issuedAtMs"));
        prop_assert_eq!(serde_json::from_str::<NodeMessage>(&text).unwrap(), sent);
        prop_assert_eq!(kind.name().parse(), Ok(kind));
    }
}
