use node_types::{
    Digest, Network, Timestamp,
    config::{DocumentError, NodeConfig},
    envelope::{CONFIG_PAYLOAD_TYPE, Envelope, KEYSET_PAYLOAD_TYPE},
    json::JsonError,
    keyset::VerifiedKeyset,
    verify::{Floor, Refused, Term, Validity, Verified, reverify_stored, verify_config},
};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::common::{
    HOUR_MS, NOW, Signer, config, keyset, signed, signed_config, signed_keyset, trusted, with,
};

fn signers() -> (Signer, Signer) {
    (Signer::new(1), Signer::new(2))
}

/// Keyset 1: two keys, both needed.
fn held() -> VerifiedKeyset {
    let (one, two) = signers();
    trusted(&keyset(1, 2, &[&one, &two]))
}

fn offered(document: &Value) -> Vec<u8> {
    let (one, two) = signers();
    signed_config(document, &[&one, &two])
}

fn verify(envelope: &[u8], floor: Floor) -> Result<Verified<NodeConfig>, Refused> {
    verify_config(envelope, &held(), Network::Testnet, floor, NOW)
}

fn payload_digest(document: &Value) -> Digest {
    Digest::of(document.to_string().as_bytes())
}

#[test]
fn a_snapshot_in_order_passes_with_its_bytes_untouched() {
    let envelope = offered(&config(3));
    let verified = verify(&envelope, Floor { version: 2, digest: Some(Digest::of(b"2")) }).unwrap();
    assert_eq!(verified.document().version, 3);
    assert_eq!(verified.envelope(), envelope);
    assert_eq!(verified.digest(), payload_digest(&config(3)));
    assert_eq!(Floor::at(&verified), Floor { version: 3, digest: Some(verified.digest()) });
}

#[test]
fn the_digest_is_over_the_payload_and_not_over_its_envelope() {
    let (one, two) = signers();
    let other_order = signed_config(&config(3), &[&two, &one]);
    let verified = verify(&other_order, Floor::NONE).unwrap();
    // The same snapshot in another envelope is no equivocation.
    assert!(verify(&offered(&config(3)), Floor::at(&verified)).is_ok());
}

#[test]
fn a_lower_version_is_refused() {
    let floor = Floor { version: 3, digest: Some(Digest::of(b"3")) };
    assert_eq!(verify(&offered(&config(2)), floor), Err(Refused::Older { held: 3, offered: 2 }));
}

#[test]
fn the_same_version_with_other_bytes_is_equivocation_and_names_both() {
    let first = config(3);
    let second = with(config(3), "/limits/max_tokens", json!(1));
    let floor = Floor::at(&verify(&offered(&first), Floor::NONE).unwrap());
    assert!(verify(&offered(&first), floor).is_ok());
    assert_eq!(
        verify(&offered(&second), floor),
        Err(Refused::Equivocation {
            version: 3,
            held: payload_digest(&first),
            offered: payload_digest(&second)
        })
    );
}

#[test]
fn validity_ends_at_its_millisecond() {
    let until =
        |ms: u64| offered(&with(with(config(1), "/refresh_by", json!(ms)), "/valid_until", json!(ms)));
    assert!(verify(&until(NOW.ms() + 1), Floor::NONE).is_ok());
    assert_eq!(verify(&until(NOW.ms()), Floor::NONE), Err(Refused::Expired { valid_until: NOW, now: NOW }));
}

#[test]
fn a_snapshot_may_be_issued_ten_minutes_ahead_of_the_clock() {
    let issued = |ms: u64| offered(&with(config(1), "/issued_at", json!(ms)));
    let latest = NOW.ms() + 600_000;
    assert!(verify(&issued(latest), Floor::NONE).is_ok());
    assert_eq!(
        verify(&issued(latest + 1), Floor::NONE),
        Err(Refused::NotYetValid { issued_at: Timestamp::from_ms(latest + 1), now: NOW })
    );
}

#[test]
fn another_networks_snapshot_is_refused() {
    let foreign = offered(&with(config(1), "/network", json!("mainnet")));
    assert_eq!(
        verify(&foreign, Floor::NONE),
        Err(Refused::OtherNetwork { found: Network::Mainnet, wanted: Network::Testnet })
    );
    // Nor does a keyset of one network vouch for a snapshot of the other.
    assert!(matches!(
        verify_config(&foreign, &held(), Network::Mainnet, Floor::NONE, NOW),
        Err(Refused::OtherNetwork { found: Network::Testnet, wanted: Network::Mainnet })
    ));
}

#[test]
fn too_few_distinct_keys_are_refused() {
    let (one, two) = signers();
    let stranger = Signer::new(9);
    let signed_by = |signers: &[&Signer]| match verify(&signed_config(&config(1), signers), Floor::NONE) {
        Ok(_) => 2,
        Err(Refused::BelowThreshold { keyset_version: 1, signed, threshold: 2 }) => signed,
        Err(other) => panic!("{other}"),
    };
    assert_eq!(signed_by(&[]), 0);
    assert_eq!(signed_by(&[&one]), 1);
    assert_eq!(signed_by(&[&one, &one, &one]), 1);
    assert_eq!(signed_by(&[&one, &stranger]), 1);
    assert_eq!(signed_by(&[&stranger, &one, &two]), 2);
}

#[test]
fn a_signature_under_anothers_name_is_refused_whatever_else_is_signed() {
    let (one, two) = signers();
    let lone = trusted(&keyset(1, 1, &[&one, &two]));
    let mut envelope = signed(CONFIG_PAYLOAD_TYPE, &config(1), &[&one]);
    let by_one = one.sign_document(envelope.signing_hash());
    envelope.add(two.key().id, by_one);
    let refused = verify_config(&envelope.to_bytes(), &lone, Network::Testnet, Floor::NONE, NOW);
    let two_id = two.key().id.to_string();
    assert!(matches!(refused, Err(Refused::WrongSignature { keyid, .. }) if keyid == two_id));
}

#[test]
fn the_signature_is_over_the_type_too() {
    let (one, two) = signers();
    let mut disguised = signed(KEYSET_PAYLOAD_TYPE, &config(1), &[&one, &two]);
    assert!(matches!(verify(&disguised.to_bytes(), Floor::NONE), Err(Refused::OtherType { .. })));
    disguised.payload_type = CONFIG_PAYLOAD_TYPE.to_owned();
    assert!(matches!(verify(&disguised.to_bytes(), Floor::NONE), Err(Refused::WrongSignature { .. })));
}

#[test]
fn a_snapshot_names_the_keyset_that_signs_it() {
    let later = offered(&with(config(1), "/keyset_version", json!(2)));
    assert_eq!(verify(&later, Floor::NONE), Err(Refused::OtherKeyset { found: 2, held: 1 }));
}

/// Two readers could read two things of such a payload; however well it is signed, it is refused.
#[test]
fn a_signed_payload_is_read_strictly() {
    let (one, two) = signers();
    let text = config(1).to_string();
    let doubled = text.replacen('{', r#"{"version":9,"#, 1);
    let mut envelope = Envelope::unsigned(CONFIG_PAYLOAD_TYPE, doubled.into_bytes());
    for signer in [one, two] {
        envelope.add(signer.key().id, signer.sign_document(envelope.signing_hash()));
    }
    let path = "version".to_owned();
    assert_eq!(
        verify(&envelope.to_bytes(), Floor::NONE),
        Err(Refused::Document(DocumentError::Json(JsonError::DuplicateKey { path })))
    );
    let greedy = offered(&with(config(1), "/balance", json!(1)));
    assert!(matches!(verify(&greedy, Floor::NONE), Err(Refused::Document(DocumentError::Json(_)))));
    let senseless = offered(&with(config(1), "/limits/concurrency", json!(0)));
    assert!(matches!(verify(&senseless, Floor::NONE), Err(Refused::Document(DocumentError::Invalid(_)))));
}

/// Every bit of what stands around the payload, and every seventh bit of the payload.
#[test]
fn an_envelope_with_one_bit_flipped_is_refused() {
    let envelope = offered(&config(1));
    assert!(verify(&envelope, Floor::NONE).is_ok());
    let text = std::str::from_utf8(&envelope).unwrap();
    let payload = text.find("eyJ").unwrap()..text.find("\",\"payloadType").unwrap();
    for bit in 0..envelope.len() * 8 {
        if payload.contains(&(bit / 8)) && bit % 7 != 0 {
            continue;
        }
        let mut flipped = envelope.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(verify(&flipped, Floor::NONE).is_err(), "bit {} of byte {}", bit % 8, bit / 8);
    }
}

#[test]
fn a_stored_snapshot_outlives_floor_validity_and_rotation() {
    let (one, two) = signers();
    let next = Signer::new(3);
    let rotated = held().rotate(&signed_keyset(&keyset(2, 1, &[&next]), &[&one, &two, &next])).unwrap();
    let expired = with(with(config(1), "/refresh_by", json!(NOW.ms())), "/valid_until", json!(NOW.ms()));
    let envelope = offered(&expired);
    let digest = payload_digest(&expired);
    let verified = reverify_stored(&envelope, digest, &[rotated.clone(), held()], Network::Testnet).unwrap();
    assert_eq!((verified.digest(), verified.envelope()), (digest, envelope.as_slice()));
    // Without the keyset that signed it, it cannot be checked.
    assert_eq!(
        reverify_stored(&envelope, digest, &[rotated], Network::Testnet),
        Err(Refused::OtherKeyset { found: 1, held: 2 })
    );
    assert_eq!(
        reverify_stored(&envelope, digest, &[], Network::Testnet),
        Err(Refused::OtherKeyset { found: 1, held: 0 })
    );
}

#[test]
fn a_stored_snapshot_that_was_changed_is_refused() {
    let (one, _) = signers();
    let envelope = offered(&config(1));
    let digest = payload_digest(&config(1));
    let keysets = [held()];
    let stored = |envelope: &[u8], network| reverify_stored(envelope, digest, &keysets, network).map(|_| ());
    assert_eq!(stored(&envelope, Network::Testnet), Ok(()));
    assert!(matches!(stored(&envelope, Network::Mainnet), Err(Refused::OtherNetwork { .. })));
    let found = payload_digest(&config(2));
    let recorded = digest;
    let other = offered(&config(2));
    assert_eq!(stored(&other, Network::Testnet), Err(Refused::OtherDigest { found, recorded }));
    let stripped = signed_config(&config(1), &[&one]);
    assert!(matches!(stored(&stripped, Network::Testnet), Err(Refused::BelowThreshold { .. })));
}

#[test]
fn a_snapshot_goes_from_fresh_to_out_of_force() {
    let document = with(config(1), "/timings/offline_grace_ms", json!(HOUR_MS));
    let config = NodeConfig::parse(document.to_string().as_bytes()).unwrap();
    let (refresh_by, valid_until) = (NOW.plus_ms(HOUR_MS), NOW.plus_ms(2 * HOUR_MS));
    let until = NOW.plus_ms(3 * HOUR_MS);
    let before = |moment: Timestamp| Timestamp::from_ms(moment.ms() - 1);
    for (now, stands) in [
        (Timestamp::EPOCH, Validity::Fresh),
        (before(refresh_by), Validity::Fresh),
        (refresh_by, Validity::RefreshDue),
        (before(valid_until), Validity::RefreshDue),
        (valid_until, Validity::Stale { until }),
        (before(until), Validity::Stale { until }),
        (until, Validity::OutOfForce),
        (Timestamp::MAX, Validity::OutOfForce),
    ] {
        assert_eq!(Term::of(&config).at(now), stands, "{now}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn the_floor_lets_nothing_lower_and_nothing_different_through(
        floor in 0_u64..6,
        version in 1_u64..6,
        same_bytes in any::<bool>(),
    ) {
        let document = config(version);
        let digest = if same_bytes { payload_digest(&document) } else { Digest::of(b"other") };
        let found = verify(&offered(&document), Floor { version: floor, digest: Some(digest) });
        match found {
            Ok(_) => prop_assert!(version > floor || (version == floor && same_bytes)),
            Err(Refused::Older { .. }) => prop_assert!(version < floor),
            Err(Refused::Equivocation { .. }) => prop_assert!(version == floor && !same_bytes),
            Err(other) => prop_assert!(false, "{}", other),
        }
    }
}
