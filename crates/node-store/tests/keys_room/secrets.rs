//! Secrets cannot be printed and are zeroed on drop.

use std::{error::Error, fmt::Debug, fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

use node_store::{
    disk::RealDisk,
    keys::{Kek, KekSources, KeyError, NodeKey, Signer, VolumeKey, open_node_key, open_volume_key},
};
use node_types::{Network, id::hex_encode};
use zeroize::{ZeroizeOnDrop, Zeroizing};

use crate::stand_in::{Home, KEY, VOLUME, node_key, volume_key};

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
    let local = fs::read_to_string(home.keys().join("local.kek")).unwrap();
    let opened = open_node_key(&RealDisk, &home.keys(), Network::Testnet, &sources).unwrap().unwrap();
    let (node, volume, signer) = (node_key(), volume_key(), Signer::new(node_key()));
    let shown: [&dyn Debug; 6] = [&node, &volume, &signer, &kek, &sources, &opened];
    for value in shown {
        for text in [format!("{value:?}"), format!("{value:#?}")] {
            let secrets = [
                hex_encode(&KEY[..4]),
                "66, 66".to_owned(),
                "23, 23".to_owned(),
                local[..8].to_owned(),
                // A key-encryption key may be printed as the bytes that its text is.
                hex_encode(&local.as_bytes()[..4]),
                format!("{:?}", &local.as_bytes()[..4]).replace(['[', ']'], ""),
            ];
            for secret in secrets {
                assert!(!text.contains(&secret), "{text}");
            }
        }
    }
    let sealed = fs::read_to_string(home.node_key_file()).unwrap();
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

/// What an error says goes to logs, terminals and whoever helps.
#[test]
fn no_error_says_a_byte_of_the_secret_that_did_not_open_a_key() {
    const SECRET: &str = "CANARY-of-a-secret-with-more-than-32-bytes";
    type Choose = fn(&mut KekSources, PathBuf);
    let ways: [(&str, Choose); 4] = [
        ("a credential", |sources, file| sources.credentials_dir = file.parent().map(PathBuf::from)),
        ("a container's secret", |sources, file| sources.secret_file = Some(file)),
        ("a passphrase", |sources, file| sources.passphrase_file = Some(file)),
        ("the local file", |_, _| {}),
    ];
    for (way, choose) in ways {
        let home = Home::empty();
        let mut sources = home.sources();
        let given = home.path("resultity-kek");
        let put = |text: &str| {
            for file in [given.clone(), home.keys().join("local.kek")] {
                if file == given || file.exists() {
                    fs::write(&file, text).unwrap();
                    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
                }
            }
        };
        put("another one, which has more than 32 bytes too");
        choose(&mut sources, given.clone());
        home.create(&sources);
        put(SECRET);
        let node = open_node_key(&RealDisk, &home.keys(), Network::Testnet, &sources).unwrap_err();
        let address = node_key().address();
        let volume = open_volume_key(&RealDisk, &home.keys(), Network::Testnet, address, VOLUME, &sources)
            .unwrap_err();
        for error in [node, volume] {
            assert!(matches!(error, KeyError::CannotOpen { .. }), "{way}: {error}");
            let (mut said, mut cause) = (String::new(), Some(&error as &dyn Error));
            while let Some(error) = cause {
                said += &format!("{error} {error:?} {error:#?}");
                cause = error.source();
            }
            let numbers = format!("{:?}", &SECRET.as_bytes()[..4]).replace(['[', ']'], "");
            let hex = hex_encode(&SECRET.as_bytes()[..8]);
            for secret in [&SECRET[..6], &hex, &hex.to_uppercase(), &numbers] {
                assert!(!said.contains(secret), "{way}: {said}");
            }
        }
    }
}
