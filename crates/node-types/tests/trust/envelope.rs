use base64::{Engine as _, engine::general_purpose};
use node_types::{
    envelope::{Envelope, EnvelopeError, EnvelopeSignature, PAYLOAD_BYTES_MAX, SIGNATURES_MAX, pae},
    json::JsonError,
};
use proptest::prelude::*;
use serde_json::json;

/// The example of the DSSE specification, `protocol.md`.
#[test]
fn the_pre_authentication_encoding_is_that_of_the_specification() {
    let encoded = pae("http://example.com/HelloWorld", b"hello world");
    assert_eq!(encoded, b"DSSEv1 29 http://example.com/HelloWorld 11 hello world");
    // Lengths count bytes, not characters.
    assert_eq!(pae("\u{e9}", "\u{e9}\u{e9}".as_bytes()), "DSSEv1 2 \u{e9} 4 \u{e9}\u{e9}".as_bytes());
}

#[test]
fn both_alphabets_of_base64_are_read_as_the_specification_demands() {
    let payload = [0xfb, 0xff, 0xfe, 0xfd];
    let read = |text: &str| {
        let wire = json!({ "payload": text, "payloadType": "t", "signatures": [] });
        Envelope::parse(wire.to_string().as_bytes()).map(|envelope| envelope.payload)
    };
    assert_eq!(read(&general_purpose::STANDARD.encode(payload)), Ok(payload.to_vec()));
    assert_eq!(read(&general_purpose::URL_SAFE.encode(payload)), Ok(payload.to_vec()));
    assert_eq!(read(&general_purpose::URL_SAFE_NO_PAD.encode(payload)), Ok(payload.to_vec()));
    // A mixture of both, white space, and bits that no byte uses.
    for text in ["+_8=", "-/8=", "AAA A", "AB==", "=", "A"] {
        let refused = EnvelopeError::NotBase64 { field: "payload".to_owned() };
        assert_eq!(read(text), Err(refused), "{text:?}");
    }
}

#[test]
fn what_is_unknown_or_missing_or_doubled_is_refused() {
    for wire in [
        r#"{"payload":"","payloadType":"t","signatures":[],"balance":1}"#,
        r#"{"payload":"","payloadType":"t","signatures":[{"keyid":"","sig":"","credits":1}]}"#,
        r#"{"payload":"","payloadType":"t"}"#,
        r#"{"payload":"","payloadType":"t","signatures":[{"sig":""}]}"#,
        r#"{"payload":"","payloadType":"t","signatures":[],"payload":""}"#,
        r#"{"payload":"","payloadType":"t","signatures":[]} "x""#,
    ] {
        assert!(matches!(Envelope::parse(wire.as_bytes()), Err(EnvelopeError::Json(_))), "{wire}");
    }
}

#[test]
fn an_envelope_has_limits() {
    let signature = EnvelopeSignature { keyid: "k".to_owned(), sig: vec![0; 65] };
    let mut envelope = Envelope::unsigned("t", b"{}".to_vec());
    envelope.signatures = vec![signature; SIGNATURES_MAX];
    assert_eq!(Envelope::parse(&envelope.to_bytes()), Ok(envelope.clone()));
    envelope.signatures.push(envelope.signatures[0].clone());
    let refused = EnvelopeError::TooManySignatures { found: SIGNATURES_MAX + 1 };
    assert_eq!(Envelope::parse(&envelope.to_bytes()), Err(refused));

    let largest = Envelope::unsigned("t", vec![b' '; PAYLOAD_BYTES_MAX]);
    assert_eq!(Envelope::parse(&largest.to_bytes()).map(|it| it.payload.len()), Ok(PAYLOAD_BYTES_MAX));
    let larger = Envelope::unsigned("t", vec![b' '; PAYLOAD_BYTES_MAX + 1]);
    assert!(matches!(Envelope::parse(&larger.to_bytes()), Err(EnvelopeError::FieldTooLarge { .. })));
    let flood = Envelope::unsigned("t", vec![b' '; 2 * PAYLOAD_BYTES_MAX]);
    let refused = Envelope::parse(&flood.to_bytes());
    assert!(matches!(refused, Err(EnvelopeError::Json(JsonError::TooLarge { .. }))));

    let long_type = Envelope::unsigned(&"t".repeat(201), Vec::new());
    assert!(matches!(Envelope::parse(&long_type.to_bytes()), Err(EnvelopeError::FieldTooLarge { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn an_envelope_survives_writing_and_reading(
        payload_type in "\\PC{0,40}",
        payload in prop::collection::vec(any::<u8>(), 0..300),
        signatures in prop::collection::vec(("\\PC{0,40}", prop::collection::vec(any::<u8>(), 0..80)), 0..4),
    ) {
        let signatures =
            signatures.into_iter().map(|(keyid, sig)| EnvelopeSignature { keyid, sig }).collect();
        let envelope = Envelope { payload_type, payload, signatures };
        let bytes = envelope.to_bytes();
        prop_assert_eq!(Envelope::parse(&bytes), Ok(envelope));
    }

    /// No two pairs of type and payload are encoded alike: a signature over one is none over another.
    #[test]
    fn type_and_payload_cannot_change_places(one in ("[a-c0-9 ]{0,9}", "[a-c0-9 ]{0,9}"), other in ("[a-c0-9 ]{0,9}", "[a-c0-9 ]{0,9}")) {
        let encode = |(kind, payload): &(String, String)| pae(kind, payload.as_bytes());
        prop_assert_eq!(one == other, encode(&one) == encode(&other));
    }
}
