use node_types::{
    Network,
    config::DocumentError,
    envelope::CONFIG_PAYLOAD_TYPE,
    keyset::{KEYS_MAX, Keyset, VerifiedKeyset},
    verify::Refused,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::common::{Signer, keyset, signed, signed_keyset, trusted, with};

struct Party {
    old: [Signer; 2],
    new: [Signer; 2],
}

/// Two old keys, both needed; two new ones, both needed.
fn party() -> (Party, VerifiedKeyset, Value) {
    let party = Party { old: [Signer::new(1), Signer::new(2)], new: [Signer::new(3), Signer::new(4)] };
    let held = trusted(&keyset(1, 2, &[&party.old[0], &party.old[1]]));
    let next = keyset(2, 2, &[&party.new[0], &party.new[1]]);
    (party, held, next)
}

impl Party {
    fn all(&self) -> Vec<&Signer> {
        self.old.iter().chain(&self.new).collect()
    }
}

#[test]
fn thresholds_of_both_keysets_make_the_next_one() {
    let (party, held, next) = party();
    let rotated = held.rotate(&signed_keyset(&next, &party.all())).unwrap();
    assert_eq!(rotated.document().version, 2);
    assert_eq!(rotated.payload(), serde_json::to_vec(&next).unwrap());
    assert_eq!(rotated.digest(), node_types::Digest::of(rotated.payload()));
    // And the one after it is signed by the new keys: the old ones have no say any more.
    let third = keyset(3, 1, &[&party.old[0]]);
    let by_old = signed_keyset(&third, &[&party.old[0], &party.old[1]]);
    assert!(matches!(rotated.rotate(&by_old), Err(Refused::BelowThreshold { keyset_version: 2, .. })));
    let by_both = signed_keyset(&third, &party.all());
    assert_eq!(rotated.rotate(&by_both).unwrap().document().version, 3);
}

#[test]
fn one_keyset_alone_makes_no_next_one() {
    let (party, held, next) = party();
    let short = |signers: &[&Signer]| match held.rotate(&signed_keyset(&next, signers)) {
        Err(Refused::BelowThreshold { keyset_version, signed, threshold: 2 }) => (keyset_version, signed),
        other => panic!("{other:?}"),
    };
    let [old_1, old_2] = &party.old;
    let [new_1, new_2] = &party.new;
    assert_eq!(short(&[]), (1, 0));
    assert_eq!(short(&[new_1, new_2]), (1, 0));
    assert_eq!(short(&[old_1, new_1, new_2]), (1, 1));
    assert_eq!(short(&[old_1, old_2]), (2, 0));
    assert_eq!(short(&[old_1, old_2, new_2]), (2, 1));
    // One key that signs twice is one key.
    assert_eq!(short(&[old_1, old_1, new_1, new_2]), (1, 1));
    assert_eq!(short(&[old_1, old_2, new_1, new_1]), (2, 1));
}

#[test]
fn a_keyset_stays_on_its_network_and_chain() {
    let (party, held, next) = party();
    let rotate = |document: Value| held.rotate(&signed_keyset(&document, &party.all()));
    assert_eq!(
        rotate(with(next.clone(), "/network", json!("mainnet"))),
        Err(Refused::OtherNetwork { found: Network::Mainnet, wanted: Network::Testnet })
    );
    assert_eq!(
        rotate(with(next.clone(), "/chain_id", json!(1))),
        Err(Refused::OtherChain { found: 1, wanted: 84_532 })
    );
    let pinned = serde_json::to_vec(&next).unwrap();
    assert!(matches!(
        VerifiedKeyset::trust(&pinned, Network::Mainnet),
        Err(Refused::OtherNetwork { found: Network::Testnet, wanted: Network::Mainnet })
    ));
    // A keyset under the payload type of a snapshot is no keyset.
    let disguised = signed(CONFIG_PAYLOAD_TYPE, &next, &party.all()).to_bytes();
    assert!(matches!(held.rotate(&disguised), Err(Refused::OtherType { .. })));
}

#[test]
fn rotations_are_replayed_in_their_order_alone() {
    let (party, held, next) = party();
    let second = signed_keyset(&next, &party.all());
    let third = signed_keyset(&keyset(3, 1, &[&party.new[0]]), &[&party.new[0], &party.new[1]]);
    let replayed = VerifiedKeyset::replay(held.clone(), [second.as_slice(), &third]).unwrap();
    let versions: Vec<u64> = replayed.iter().map(|it| it.document().version).collect();
    assert_eq!(versions, [1, 2, 3]);
    assert!(VerifiedKeyset::replay(held.clone(), [third.as_slice(), &second]).is_err());
    assert!(VerifiedKeyset::replay(held, [second.as_slice(), &second]).is_err());
}

#[test]
fn a_keyset_that_makes_no_sense_is_refused_by_field() {
    let signers: Vec<Signer> = (1..=40).map(Signer::new).collect();
    let many: Vec<&Signer> = signers.iter().collect();
    let good = keyset(1, 2, &many[..2]);
    let key = |index: usize| serde_json::to_value(many[index].key()).unwrap();
    for (document, field) in [
        (with(good.clone(), "/version", json!(0)), "version"),
        (with(good.clone(), "/chain_id", json!(0)), "chain_id"),
        (with(good.clone(), "/threshold", json!(0)), "threshold"),
        (with(good.clone(), "/threshold", json!(3)), "threshold"),
        (with(good.clone(), "/keys", json!([])), "threshold"),
        (with(good.clone(), "/keys/1", key(0)), "keys[1].address"),
        (with(good.clone(), "/keys/1/id", key(0)["id"].clone()), "keys[1].id"),
        (keyset(1, 1, &many[..=KEYS_MAX]), "keys"),
    ] {
        match Keyset::parse(&serde_json::to_vec(&document).unwrap()) {
            Err(DocumentError::Invalid(invalid)) => assert_eq!(invalid.field, field, "{invalid}"),
            other => panic!("{field}: {other:?}"),
        }
    }
    for document in [
        with(good.clone(), "/balance", json!(1)),
        with(good.clone(), "/keys/0/stake", json!(1)),
        with(good.clone(), "/keys/0/scheme", json!("ed25519")),
    ] {
        let refused = Keyset::parse(&serde_json::to_vec(&document).unwrap());
        assert!(matches!(refused, Err(DocumentError::Json(_))), "{refused:?}");
    }
    assert!(Keyset::parse(&serde_json::to_vec(&keyset(1, 1, &many[..KEYS_MAX])).unwrap()).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However well signed, no keyset skips a version, repeats one or goes back.
    #[test]
    fn only_the_next_version_follows(held in 1_u64..9, offered in 1_u64..12) {
        let signer = Signer::new(7);
        let current = trusted(&keyset(held, 1, &[&signer]));
        let rotated = current.rotate(&signed_keyset(&keyset(offered, 1, &[&signer]), &[&signer]));
        if offered == held + 1 {
            prop_assert!(rotated.is_ok());
        } else {
            prop_assert_eq!(rotated, Err(Refused::NotTheNextKeyset { held, offered }));
        }
    }
}
