//! A power cut at every step of what is written leaves a key that opens, or none.

use std::{fs, sync::Arc};

use node_store::{
    disk::RealDisk,
    keys::{KeyError, Protection, Source, create_node_key, open_node_key, open_volume_key, reseal},
};
use node_types::Network;

use crate::stand_in::{Answers, Home, StandIn, VOLUME, node_key};

#[test]
fn an_interrupted_creation_leaves_the_whole_key_or_none_and_can_be_repeated() {
    let mut finished = false;
    for steps in 0..20 {
        let home = Home::empty();
        let sources = home.sources();
        let disk = StandIn::failing_after(steps);
        let created = sources
            .kek_for_new(&disk)
            .and_then(|kek| create_node_key(&disk, &home.keys(), Network::Testnet, &node_key(), &kek));
        finished = created.is_ok();

        let standing = open_node_key(&RealDisk, &home.keys(), Network::Testnet, &sources).unwrap();
        assert!(!finished || standing.is_some(), "created after {steps} steps, and gone");
        let kek = sources.kek_for_new(&RealDisk).unwrap();
        match create_node_key(&RealDisk, &home.keys(), Network::Testnet, &node_key(), &kek) {
            Ok(()) => assert!(standing.is_none()),
            Err(KeyError::AlreadyExists { .. }) => assert!(standing.is_some()),
            Err(other) => panic!("{other}"),
        }
        assert!(open_node_key(&RealDisk, &home.keys(), Network::Testnet, &sources).unwrap().is_some());
    }
    assert!(finished, "more steps than were tried");
}

#[test]
fn an_interrupted_reseal_leaves_both_keys_readable_and_is_finished_by_the_next() {
    let mut finished = false;
    for steps in 0..20 {
        let home = Home::with_keys();
        let secret = home.path("secret");
        fs::write(&secret, [3; 32]).unwrap();
        fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o444)).unwrap();
        let mut sources = home.sources();
        sources.secret_file = Some(secret);
        let to = sources.load(&RealDisk, Source::ContainerSecret).unwrap();

        let disk = StandIn::failing_after(steps);
        finished = reseal(&disk, &home.keys(), Network::Testnet, &sources, &to).is_ok();
        assert_both_open(&home, &sources);

        reseal(&RealDisk, &home.keys(), Network::Testnet, &sources, &to).unwrap();
        let protection = assert_both_open(&home, &sources);
        assert_eq!(protection, [Protection::ContainerSecret; 2]);
        assert!(!home.keys().join("local.kek").exists(), "what opened the old files is gone");
        let again = reseal(&RealDisk, &home.keys(), Network::Testnet, &sources, &to).unwrap();
        assert_eq!(again, 0, "nothing is left to do");
    }
    assert!(finished, "more steps than were tried");
}

/// Both files take the passphrase, so what was sealed under the old one must still ask for the old one.
#[test]
fn a_passphrase_is_changed() {
    let home = Home::empty();
    let mut old = home.sources();
    old.prompt = Some(Arc::new(Answers::new(&["old", "old"])));
    home.create(&old);
    let mut new = home.sources();
    new.prompt = Some(Arc::new(Answers::new(&["new", "new"])));
    let to = new.kek_for_new(&RealDisk).unwrap();

    assert_eq!(reseal(&RealDisk, &home.keys(), Network::Testnet, &old, &to).unwrap(), 2);

    assert_both_open(&home, &new);
    let opened = open_node_key(&RealDisk, &home.keys(), Network::Testnet, &old);
    assert!(matches!(opened, Err(KeyError::CannotOpen { .. })));
}

fn assert_both_open(home: &Home, sources: &node_store::keys::KekSources) -> [Protection; 2] {
    let node = open_node_key(&RealDisk, &home.keys(), Network::Testnet, sources).unwrap().unwrap();
    let address = node.key.address();
    assert_eq!(address, node_key().address());
    let volume = open_volume_key(&RealDisk, &home.keys(), Network::Testnet, address, VOLUME, sources);
    [node.protection, volume.unwrap().unwrap().protection]
}
