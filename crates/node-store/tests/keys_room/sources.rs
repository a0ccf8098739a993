//! Where the key-encryption key comes from.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    sync::Arc,
};

use node_store::{
    disk::RealDisk,
    keys::{Available, KeyError, Protection, Source, choose, open_node_key},
    private::NotPrivate,
};
use node_types::Network;

use crate::stand_in::{Answers, Home, node_key};

fn put(path: &Path, bytes: &[u8], mode: u32) {
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn the_first_source_that_is_there_is_chosen() {
    for bits in 0..8 {
        let [systemd_credential, container_secret, passphrase] = [1, 2, 4].map(|bit| bits & bit != 0);
        let wanted = match (systemd_credential, container_secret, passphrase) {
            (true, _, _) => Source::SystemdCredential,
            (false, true, _) => Source::ContainerSecret,
            (false, false, true) => Source::Passphrase,
            (false, false, false) => Source::LocalFile,
        };
        assert_eq!(choose(Available { systemd_credential, container_secret, passphrase }), wanted);
    }
}

#[test]
fn each_source_seals_and_opens_and_is_reported() {
    for source in Source::ALL {
        let home = Home::empty();
        let mut sources = home.sources();
        let credentials = home.path("credentials");
        fs::create_dir(&credentials).unwrap();
        match source {
            Source::SystemdCredential => {
                put(&credentials.join("resultity-kek"), &[1; 32], 0o400);
                sources.credentials_dir = Some(credentials);
            }
            Source::ContainerSecret => {
                put(&home.path("secret"), &[2; 40], 0o444);
                sources.secret_file = Some(home.path("secret"));
            }
            Source::Passphrase => {
                put(&home.path("passphrase"), b"correct horse\n", 0o600);
                sources.passphrase_file = Some(home.path("passphrase"));
            }
            Source::LocalFile => sources.credentials_dir = Some(credentials),
        }

        home.create(&sources);

        let opened = open_node_key(&RealDisk, &home.keys(), Network::Testnet, &sources).unwrap().unwrap();
        assert_eq!(opened.key.address(), node_key().address());
        assert_eq!(opened.protection, source.protection());
        let only_local = source == Source::LocalFile;
        assert_eq!(opened.protection == Protection::ObfuscationOnly, only_local);
        assert_eq!(home.keys().join("local.kek").exists(), only_local);
    }
}

/// A stronger source that appears later changes nothing by itself: the header decides.
#[test]
fn a_standing_key_opens_with_what_sealed_it() {
    let home = Home::with_keys();
    put(&home.path("secret"), &[2; 40], 0o400);
    let mut sources = home.sources();
    sources.secret_file = Some(home.path("secret"));
    let opened = open_node_key(&RealDisk, &home.keys(), Network::Testnet, &sources).unwrap().unwrap();
    assert_eq!(opened.protection, Protection::ObfuscationOnly);
}

#[test]
fn a_source_that_was_given_and_is_missing_never_becomes_a_weaker_one() {
    let home = Home::empty();
    let mut sources = home.sources();
    sources.secret_file = Some(home.path("missing"));
    let refused = sources.kek_for_new(&RealDisk);
    assert!(matches!(refused, Err(KeyError::NoFile { kek: Source::ContainerSecret, .. })));
    sources.secret_file = None;
    sources.passphrase_file = Some(home.path("missing"));
    let refused = sources.kek_for_new(&RealDisk);
    assert!(matches!(refused, Err(KeyError::NoFile { kek: Source::Passphrase, .. })));
    assert!(!home.keys().exists());
}

#[test]
fn a_lost_local_file_is_an_error_and_never_a_new_one() {
    let home = Home::with_keys();
    fs::remove_file(home.keys().join("local.kek")).unwrap();
    let sources = home.sources();
    let opened = open_node_key(&RealDisk, &home.keys(), Network::Testnet, &sources);
    assert!(matches!(opened, Err(KeyError::KekMissing { kek: Source::LocalFile, .. })));
    let made = sources.kek_for_new(&RealDisk);
    assert!(matches!(made, Err(KeyError::KekMissing { kek: Source::LocalFile, .. })));
    assert!(!home.keys().join("local.kek").exists());
}

#[test]
fn a_secret_shorter_than_32_bytes_is_refused() {
    let home = Home::empty();
    let mut sources = home.sources();
    sources.secret_file = Some(home.path("secret"));
    put(&home.path("secret"), &[1; 31], 0o400);
    let short = sources.kek_for_new(&RealDisk);
    assert!(matches!(short, Err(KeyError::SecretTooShort { found: 31, wanted: 32, .. })));
    put(&home.path("secret"), &[1; 32], 0o600);
    sources.kek_for_new(&RealDisk).unwrap();
    put(&home.path("secret"), &[1; 4097], 0o600);
    assert!(matches!(sources.kek_for_new(&RealDisk), Err(KeyError::Read { .. })));
}

#[test]
fn a_mounted_secret_may_be_a_link_and_readable_but_not_writable_by_others() {
    let home = Home::empty();
    put(&home.path("data"), &[1; 32], 0o444);
    symlink(home.path("data"), home.path("secret")).unwrap();
    let mut sources = home.sources();
    sources.secret_file = Some(home.path("secret"));
    sources.kek_for_new(&RealDisk).unwrap();
    for mode in [0o664, 0o646] {
        put(&home.path("data"), &[1; 32], 0o600);
        fs::set_permissions(home.path("data"), fs::Permissions::from_mode(mode)).unwrap();
        let refused = sources.kek_for_new(&RealDisk);
        assert!(matches!(refused, Err(KeyError::NotPrivate(NotPrivate::TooOpen { .. }))), "{mode:o}");
    }
    sources.secret_file = Some(home.path("."));
    let refused = sources.kek_for_new(&RealDisk);
    assert!(matches!(refused, Err(KeyError::NotPrivate(NotPrivate::NotAFile { .. }))), "{refused:?}");
}

#[test]
fn a_passphrase_file_is_private_and_holds_a_passphrase() {
    let home = Home::empty();
    let path = home.path("passphrase");
    let mut sources = home.sources();
    sources.passphrase_file = Some(path.clone());
    for empty in ["", "\n", "\r\n"] {
        put(&path, empty.as_bytes(), 0o600);
        assert!(matches!(sources.kek_for_new(&RealDisk), Err(KeyError::EmptyPassphrase { .. })), "{empty:?}");
    }
    put(&path, b"x", 0o640);
    let refused = sources.kek_for_new(&RealDisk);
    assert!(matches!(refused, Err(KeyError::NotPrivate(NotPrivate::TooOpen { wanted: 0o600, .. }))));
}

/// An editor adds a newline, `printf` does not: both are the same passphrase.
#[test]
fn a_newline_at_the_end_of_a_passphrase_file_does_not_count() {
    let home = Home::empty();
    let path = home.path("passphrase");
    let mut sources = home.sources();
    sources.passphrase_file = Some(path.clone());
    put(&path, b"correct horse", 0o600);
    home.create(&sources);
    for same in ["correct horse\n", "correct horse\r\n"] {
        put(&path, same.as_bytes(), 0o600);
        assert!(open_node_key(&RealDisk, &home.keys(), Network::Testnet, &sources).unwrap().is_some());
    }
    put(&path, b"correct horse \n", 0o600);
    let opened = open_node_key(&RealDisk, &home.keys(), Network::Testnet, &sources);
    assert!(matches!(opened, Err(KeyError::CannotOpen { .. })));
}

#[test]
fn a_new_passphrase_is_asked_for_twice_and_must_be_the_same() {
    let home = Home::empty();
    let ask = |answers: &[&'static str]| {
        let mut sources = home.sources();
        sources.prompt = Some(Arc::new(Answers::new(answers)));
        sources.kek_for_new(&RealDisk)
    };
    assert!(matches!(ask(&["one", "two"]), Err(KeyError::PassphrasesDiffer)));
    assert!(matches!(ask(&["", ""]), Err(KeyError::EmptyPassphrase { .. })));
    assert!(matches!(ask(&[]), Err(KeyError::Prompt { .. })));
    assert_eq!(ask(&["one", "one"]).unwrap().source(), Source::Passphrase);
}

/// Does nothing unless [`the_credentials_of_systemd_are_found_without_being_told`] runs it as a child.
#[test]
fn what_a_child_with_credentials_finds() {
    if std::env::var_os("CREDENTIALS_DIRECTORY").is_some() {
        let sources = node_store::keys::KekSources::new(Path::new("/nowhere"));
        assert_eq!(choose(sources.available().unwrap()), Source::SystemdCredential);
    }
}

#[test]
fn the_credentials_of_systemd_are_found_without_being_told() {
    let home = Home::empty();
    let run = || {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "sources::what_a_child_with_credentials_finds"]);
        child.env("CREDENTIALS_DIRECTORY", home.path("")).output().unwrap().status.success()
    };
    assert!(!run(), "a folder without the credential");
    put(&home.path("resultity-kek"), &[1; 32], 0o400);
    assert!(run());
}
