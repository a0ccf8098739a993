//! Sealed files: they open for who they were sealed for, and for nobody else.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    sync::{Arc, Barrier},
    thread,
    time::{Duration, Instant},
};

use node_store::{
    disk::{Disk, RealDisk},
    keys::{KeyError, NodeKey, Opened, Protection, create_node_key, open_node_key, open_volume_key},
    private::NotPrivate,
};
use node_types::{Address, Network, VolumeId};

use crate::stand_in::{ADDRESS, Answers, Home, StandIn, VOLUME, node_key};

fn open(home: &Home) -> Result<Option<Opened<NodeKey>>, KeyError> {
    open_node_key(&RealDisk, &home.keys(), Network::Testnet, &home.sources())
}

fn address() -> Address {
    ADDRESS.parse().unwrap()
}

#[test]
fn both_keys_come_back_and_say_what_protects_them() {
    let home = Home::with_keys();

    let node = open(&home).unwrap().unwrap();
    let volume =
        open_volume_key(&RealDisk, &home.keys(), Network::Testnet, address(), VOLUME, &home.sources())
            .unwrap()
            .unwrap();

    assert_eq!(node.key.address(), address());
    assert_eq!(node.protection, Protection::ObfuscationOnly);
    assert_eq!(volume.protection, Protection::ObfuscationOnly);
    assert!(node.protection.to_string().starts_with("obfuscation only"));
    for name in ["node.key", "volume.key", "local.kek"] {
        let mode = fs::metadata(home.keys().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600, "{name}");
    }
    assert_eq!(fs::metadata(home.keys()).unwrap().permissions().mode() & 0o7777, 0o700);
    let names = RealDisk.list(&home.keys()).unwrap();
    assert_eq!(names, ["local.kek", "node.key", "volume.key"], "no temporary file is left");
}

#[test]
fn a_missing_key_is_an_answer_and_makes_nothing() {
    let home = Home::empty();
    assert!(open(&home).unwrap().is_none());
    assert!(!home.keys().exists());
}

#[test]
fn every_flipped_bit_of_a_sealed_file_is_refused() {
    let home = Home::with_keys();
    for (name, node) in [("node.key", true), ("volume.key", false)] {
        let path = home.keys().join(name);
        let sound = fs::read(&path).unwrap();
        for bit in 0..sound.len() * 8 {
            let mut altered = sound.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &altered).unwrap();
            let refused = if node {
                open(&home).err()
            } else {
                open_volume_key(&RealDisk, &home.keys(), Network::Testnet, address(), VOLUME, &home.sources())
                    .err()
            };
            assert!(refused.is_some(), "{name}, bit {bit}: {}", String::from_utf8_lossy(&altered));
        }
        fs::write(&path, &sound).unwrap();
    }
    assert!(open(&home).unwrap().is_some(), "the sound file opens after all that");
}

#[test]
fn every_shortened_or_lengthened_file_is_refused() {
    let home = Home::with_keys();
    let sound = fs::read(home.node_key_file()).unwrap();
    for length in 0..sound.len() {
        fs::write(home.node_key_file(), &sound[..length]).unwrap();
        assert!(matches!(open(&home), Err(KeyError::Damaged { .. })), "{length} bytes");
    }
    for tail in ["\n", " ", "{}", "\0"] {
        fs::write(home.node_key_file(), [sound.as_slice(), tail.as_bytes()].concat()).unwrap();
        assert!(matches!(open(&home), Err(KeyError::Damaged { .. })), "{tail:?}");
    }
    fs::write(home.node_key_file(), vec![b' '; (16 << 10) + 1]).unwrap();
    assert!(matches!(open(&home), Err(KeyError::Damaged { .. })));
}

/// Replaces a text in the node key's file, once.
fn edit(home: &Home, from: &str, to: &str) {
    let text = fs::read_to_string(home.node_key_file()).unwrap();
    assert_eq!(text.matches(from).count(), 1, "{text}");
    fs::write(home.node_key_file(), text.replace(from, to)).unwrap();
}

#[test]
fn a_testnet_key_is_refused_on_mainnet_naming_both() {
    let home = Home::with_keys();
    let refused =
        open_node_key(&RealDisk, &home.keys(), Network::Mainnet, &home.sources()).unwrap_err().to_string();
    assert!(refused.contains("belongs to testnet") && refused.contains("runs on mainnet"), "{refused}");
}

#[test]
fn a_key_renamed_to_the_other_network_does_not_open() {
    let home = Home::with_keys();
    edit(&home, "testnet", "mainnet");
    let opened = open_node_key(&RealDisk, &home.keys(), Network::Mainnet, &home.sources());
    assert!(matches!(opened, Err(KeyError::CannotOpen { .. })), "{opened:?}");
}

#[test]
fn a_changed_address_is_refused() {
    let home = Home::with_keys();
    let other = NodeKey::generate().unwrap().address();
    edit(&home, &address().to_string(), &other.to_string());
    assert!(matches!(open(&home), Err(KeyError::CannotOpen { .. })));
}

#[test]
fn a_source_relabelled_in_the_header_does_not_open() {
    let home = Home::with_keys();
    edit(&home, "local-file", "container-secret");
    let mut sources = home.sources();
    sources.secret_file = Some(home.keys().join("local.kek"));
    let opened = open_node_key(&RealDisk, &home.keys(), Network::Testnet, &sources);
    assert!(matches!(opened, Err(KeyError::CannotOpen { .. })), "{opened:?}");
}

#[test]
fn a_later_version_is_told_from_damage() {
    let home = Home::with_keys();
    edit(&home, "\"version\":1", "\"version\":2,\"new_field\":true");
    assert!(matches!(open(&home), Err(KeyError::TooNew { found: 2, newest: 1, .. })));
}

#[test]
fn a_volume_key_opens_for_its_node_and_its_volume_alone() {
    let home = Home::with_keys();
    let open = |node, volume| {
        open_volume_key(&RealDisk, &home.keys(), Network::Testnet, node, volume, &home.sources())
    };
    let other = VolumeId::from_bytes([6; 16]);
    assert!(matches!(
        open(address(), other),
        Err(KeyError::OtherVolume { found: VOLUME, wanted, .. }) if wanted == other
    ));
    let stranger = NodeKey::generate().unwrap().address();
    assert!(matches!(open(stranger, VOLUME), Err(KeyError::OtherNode { wanted, .. }) if wanted == stranger));
}

#[test]
fn files_that_were_mixed_up_are_refused() {
    let home = Home::with_keys();
    fs::copy(home.keys().join("volume.key"), home.node_key_file()).unwrap();
    assert!(matches!(open(&home), Err(KeyError::OtherKind { .. })));
}

#[test]
fn another_local_file_does_not_open_the_key() {
    let home = Home::with_keys();
    fs::write(home.keys().join("local.kek"), [9; 64]).unwrap();
    let refused = open(&home).unwrap_err();
    assert!(matches!(refused, KeyError::CannotOpen { .. }), "{refused}");
}

#[test]
fn loose_modes_are_refused_and_the_cure_is_named() {
    for (name, loosest, private) in [("keys", 0o710, 0o700), ("keys/node.key", 0o640, 0o600)] {
        let home = Home::with_keys();
        let path = home.path(name);
        for mode in [loosest, private | 0o004, private | 0o020, 0o777] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let Err(KeyError::NotPrivate(refused @ NotPrivate::TooOpen { .. })) = open(&home) else {
                panic!("{name} opened with mode {mode:o}");
            };
            let cure = format!("run chmod {private:o} {}", path.display());
            assert!(refused.to_string().ends_with(&cure), "{refused}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(private)).unwrap();
        assert!(open(&home).unwrap().is_some());
    }
    let home = Home::with_keys();
    fs::set_permissions(home.node_key_file(), fs::Permissions::from_mode(0o400)).unwrap();
    assert!(open(&home).unwrap().is_some(), "tighter is fine");
    // A folder under a set-group-ID folder inherits the bit, and chmod 700 keeps it.
    fs::set_permissions(home.keys(), fs::Permissions::from_mode(0o2700)).unwrap();
    assert!(open(&home).unwrap().is_some());
}

#[test]
fn a_link_is_refused_in_place_of_the_file_and_of_the_folder() {
    let home = Home::with_keys();
    let moved = home.keys().join("elsewhere");
    fs::rename(home.node_key_file(), &moved).unwrap();
    symlink(&moved, home.node_key_file()).unwrap();
    assert!(matches!(open(&home), Err(KeyError::NotPrivate(NotPrivate::Link { .. }))));

    let home = Home::with_keys();
    fs::rename(home.keys(), home.path("elsewhere")).unwrap();
    symlink(home.path("elsewhere"), home.keys()).unwrap();
    assert!(matches!(open(&home), Err(KeyError::NotPrivate(NotPrivate::Link { .. }))));
}

#[test]
fn a_folder_in_place_of_the_file_is_refused() {
    let home = Home::with_keys();
    fs::remove_file(home.node_key_file()).unwrap();
    fs::create_dir(home.node_key_file()).unwrap();
    assert!(matches!(open(&home), Err(KeyError::NotPrivate(NotPrivate::NotAFile { .. }))));
}

#[test]
fn files_of_another_user_are_refused_naming_both() {
    let home = Home::with_keys();
    let us = RealDisk.uid();
    let disk = StandIn::of_user(us + 1);
    let opened = open_node_key(&disk, &home.keys(), Network::Testnet, &home.sources());
    let Err(KeyError::NotPrivate(NotPrivate::ForeignOwner { found, ours, .. })) = opened else {
        panic!("{opened:?}");
    };
    assert_eq!((found, ours), (us, us + 1));
}

#[test]
fn a_second_key_is_refused_and_the_first_stands() {
    let home = Home::with_keys();
    let kek = home.sources().kek_for_new(&RealDisk).unwrap();
    let second = NodeKey::generate().unwrap();
    let refused = create_node_key(&RealDisk, &home.keys(), Network::Testnet, &second, &kek);
    assert!(matches!(refused, Err(KeyError::AlreadyExists { .. })));
    assert_eq!(open(&home).unwrap().unwrap().key.address(), address());
}

#[test]
fn of_concurrent_creations_one_wins_and_its_key_stands() {
    for _ in 0..20 {
        let home = Arc::new(Home::empty());
        let start = Arc::new(Barrier::new(6));
        let threads: Vec<_> = (0..6)
            .map(|_| {
                let (home, start) = (home.clone(), start.clone());
                thread::spawn(move || {
                    let key = NodeKey::generate().unwrap();
                    start.wait();
                    let kek = home.sources().kek_for_new(&RealDisk).unwrap();
                    match create_node_key(&RealDisk, &home.keys(), Network::Testnet, &key, &kek) {
                        Ok(()) => Some(key.address()),
                        Err(KeyError::AlreadyExists { .. }) => None,
                        Err(other) => panic!("{other}"),
                    }
                })
            })
            .collect();
        let winners: Vec<_> = threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect();
        assert_eq!(winners.len(), 1);
        assert_eq!(open(&home).unwrap().unwrap().key.address(), winners[0]);
    }
}

#[test]
fn a_passphrase_opens_its_key_and_a_wrong_one_does_not() {
    let home = Home::empty();
    let mut sources = home.sources();
    let right = Arc::new(Answers::new(&["correct horse", "correct horse"]));
    sources.prompt = Some(right.clone());
    home.create(&sources);
    assert_eq!(right.questions.lock().unwrap().len(), 2, "asked twice for two files, not four times");
    assert!(!home.keys().join("local.kek").exists());

    let mut sources = home.sources();
    let typo = Arc::new(Answers::new(&["correct hrose", "correct horse"]));
    sources.prompt = Some(typo.clone());
    let open = || open_node_key(&RealDisk, &home.keys(), Network::Testnet, &sources);
    assert!(matches!(open(), Err(KeyError::CannotOpen { .. })));
    let opened = open().unwrap().unwrap();
    assert_eq!(opened.key.address(), node_key().address());
    assert_eq!(opened.protection, Protection::Passphrase);
    open_volume_key(&RealDisk, &home.keys(), Network::Testnet, address(), VOLUME, &sources).unwrap().unwrap();
    assert_eq!(
        typo.questions.lock().unwrap().len(),
        2,
        "a wrong one is asked for again, a right one is kept"
    );
}

/// One bit of each third byte, because what still parses costs a derivation.
#[test]
fn flipped_bits_in_the_derivation_of_a_passphrase_are_refused() {
    let home = Home::empty();
    let mut sources = home.sources();
    sources.prompt = Some(Arc::new(Answers::new(&["x", "x"])));
    home.create(&sources);
    let sound = fs::read(home.node_key_file()).unwrap();
    let text = String::from_utf8(sound.clone()).unwrap();
    let (from, to) = (text.find("\"kek\"").unwrap(), text.find("\"nonce\"").unwrap());
    for byte in (from..to).step_by(3) {
        let mut altered = sound.clone();
        altered[byte] ^= 1;
        fs::write(home.node_key_file(), &altered).unwrap();
        sources.forget();
        sources.prompt = Some(Arc::new(Answers::new(&["x"])));
        let opened = open_node_key(&RealDisk, &home.keys(), Network::Testnet, &sources);
        assert!(opened.is_err(), "byte {byte}: {}", String::from_utf8_lossy(&altered));
    }
}

#[test]
fn hostile_parameters_of_argon2id_are_refused_before_the_work_and_before_the_question() {
    let home = Home::empty();
    let mut sources = home.sources();
    sources.prompt = Some(Arc::new(Answers::new(&["x", "x"])));
    home.create(&sources);
    let sound = fs::read(home.node_key_file()).unwrap();
    let asked = Arc::new(Answers::new(&[]));
    let mut sources = home.sources();
    sources.prompt = Some(asked.clone());
    let began = Instant::now();
    for (from, to) in [
        ("\"memory_kib\":65536", "\"memory_kib\":262145"),
        ("\"memory_kib\":65536", "\"memory_kib\":4294967295"),
        ("\"memory_kib\":65536", "\"memory_kib\":0"),
        ("\"passes\":3", "\"passes\":11"),
        ("\"passes\":3", "\"passes\":0"),
        ("\"passes\":3", "\"passes\":4294967295"),
        ("\"lanes\":1", "\"lanes\":5"),
        ("\"lanes\":1", "\"lanes\":0"),
    ] {
        fs::write(home.node_key_file(), &sound).unwrap();
        edit(&home, from, to);
        let opened = open_node_key(&RealDisk, &home.keys(), Network::Testnet, &sources);
        assert!(matches!(opened, Err(KeyError::KdfLimits { .. })), "{to}: {opened:?}");
    }
    assert!(began.elapsed() < Duration::from_secs(1));
    assert!(asked.questions.lock().unwrap().is_empty());
}
