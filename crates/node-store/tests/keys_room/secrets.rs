//! Secrets cannot be printed and are zeroed on drop.

use std::fmt::Debug;

use node_store::{
    disk::RealDisk,
    keys::{Kek, NodeKey, Signer, VolumeKey, open_node_key},
};
use node_types::{Network, id::hex_encode};
use zeroize::{ZeroizeOnDrop, Zeroizing};

use crate::stand_in::{Home, KEY, node_key, volume_key};

/// Memory cannot be looked at after a drop without unsafe code; the bound is derived from the fields.
#[test]
fn secrets_are_zeroed_on_drop() {
    fn zeroes<T: ZeroizeOnDrop>() {}
    zeroes::<NodeKey>();
    zeroes::<VolumeKey>();
    zeroes::<Kek>();
    zeroes::<Signer>();
}

#[test]
fn nothing_that_is_printed_shows_a_byte_of_a_key() {
    let home = Home::with_keys();
    let sources = home.sources();
    let kek = sources.kek_for_new(&RealDisk).unwrap();
    let local = std::fs::read_to_string(home.keys().join("local.kek")).unwrap();
    let opened = open_node_key(&RealDisk, &home.keys(), Network::Testnet, &sources).unwrap().unwrap();
    let (node, volume, signer) = (node_key(), volume_key(), Signer::new(node_key()));
    let shown: [&dyn Debug; 6] = [&node, &volume, &signer, &kek, &sources, &opened];
    for value in shown {
        for text in [format!("{value:?}"), format!("{value:#?}")] {
            for secret in
                [hex_encode(&KEY[..4]), "66, 66".to_owned(), "23, 23".to_owned(), local[..8].to_owned()]
            {
                assert!(!text.contains(&secret), "{text}");
            }
        }
    }
    let sealed = std::fs::read_to_string(home.node_key_file()).unwrap();
    assert!(!sealed.contains(&hex_encode(&KEY[..8])));
}

#[test]
fn bytes_that_are_no_key_are_refused() {
    let order: [u8; 32] =
        node_types::id::hex_decode("fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141")
            .unwrap();
    let mut last = order;
    last[31] -= 1;
    assert!(NodeKey::from_bytes(&Zeroizing::new([0; 32])).is_err());
    assert!(NodeKey::from_bytes(&Zeroizing::new(order)).is_err());
    assert!(NodeKey::from_bytes(&Zeroizing::new(last)).is_ok());
}

#[test]
fn two_drawn_keys_differ() {
    assert_ne!(NodeKey::generate().unwrap().address(), NodeKey::generate().unwrap().address());
}
