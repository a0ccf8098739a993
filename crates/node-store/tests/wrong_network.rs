//! What is not this node's, or not private, is refused: both sides are named and nothing is changed.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

mod common;

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use common::{create, open, open_as, stamp, volume_folder};
use node_store::{format::Stamp, volume::Volume};
use node_types::{Address, Network, NodeId, VolumeId};

const DATABASES: [&str; 3] = ["state.db", "jobs.db", "logs.db"];

/// A closed testnet volume.
fn closed() -> (tempfile::TempDir, PathBuf) {
    let home = tempfile::tempdir().unwrap();
    let folder = volume_folder(&home);
    drop(create(&folder));
    (home, folder)
}

fn databases(folder: &Path) -> Vec<Vec<u8>> {
    let bytes = |name: &&str| Command::new("cat").arg(folder.join(name)).output().unwrap().stdout;
    DATABASES.iter().map(bytes).collect()
}

/// Opens, expects a refusal that holds all of `words`, and that nothing was changed.
fn refused(folder: &Path, ours: Stamp, words: &[&str]) {
    let before = databases(folder);
    let text = open_as(folder, ours).map(|_: Volume| ()).unwrap_err().to_string();
    for word in words {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
    assert!(databases(folder) == before, "a refused volume was changed: {text}");
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_volume_of_one_network_does_not_open_as_the_other() {
    for (made, asked) in [(Network::Testnet, Network::Mainnet), (Network::Mainnet, Network::Testnet)] {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("volume");
        let reserve = node_store::volume::RESERVE_BYTES;
        drop(Volume::create(&common::real_disk(), &folder, stamp(made), reserve, common::NOW).unwrap());
        refused(&folder, stamp(asked), &["state.db", made.name(), asked.name(), "--network"]);
    }
}

#[test]
fn a_database_of_another_node_or_volume_is_refused_whichever_it_is() {
    let ours = stamp(Network::Testnet);
    let other_node = Stamp { node: NodeId::derive(Network::Testnet, &Address::from_bytes([9; 20])), ..ours };
    let other_volume = Stamp { volume: VolumeId::from_bytes([9; 16]), ..ours };
    for name in DATABASES {
        for (theirs, sides) in [
            (stamp(Network::Mainnet), ["mainnet".to_owned(), "testnet".to_owned()]),
            (other_node, [other_node.node.to_string(), ours.node.to_string()]),
            (other_volume, [other_volume.volume.to_string(), ours.volume.to_string()]),
        ] {
            let (_home, folder) = closed();
            let (_other_home, other) = {
                let home = tempfile::tempdir().unwrap();
                let folder = home.path().join("volume");
                drop(Volume::create(&common::real_disk(), &folder, theirs, 1 << 20, common::NOW).unwrap());
                (home, folder)
            };
            fs::copy(other.join(name), folder.join(name)).unwrap();
            refused(&folder, ours, &[name, &sides[0], &sides[1]]);
        }
    }
}

#[test]
fn one_database_in_the_place_of_another_is_refused() {
    let (_home, folder) = closed();
    fs::copy(folder.join("logs.db"), folder.join("jobs.db")).unwrap();
    refused(&folder, stamp(Network::Testnet), &["jobs.db", "not a jobs.db"]);
}

#[test]
fn a_newer_format_is_refused_by_name() {
    for name in DATABASES {
        let (_home, folder) = closed();
        let raw = rusqlite::Connection::open(folder.join(name)).unwrap();
        raw.pragma_update(None, "user_version", 99).unwrap();
        drop(raw);
        let way_back = "upgrade resultity-node, or restore a backup that was made before";
        refused(&folder, stamp(Network::Testnet), &[name, "format 99", way_back]);
    }
}

/// One file was migrated before the next was looked at: a refusal came after a change.
#[test]
fn nothing_is_migrated_beside_a_strangers_file() {
    let (_home, folder) = closed();
    let (_other_home, other) = closed();
    let raw = rusqlite::Connection::open(other.join("logs.db")).unwrap();
    raw.execute("UPDATE stamp SET volume = 'another'", ()).unwrap();
    drop(raw);
    fs::copy(other.join("logs.db"), folder.join("logs.db")).unwrap();
    let raw = rusqlite::Connection::open(folder.join("jobs.db")).unwrap();
    raw.pragma_update(None, "user_version", 0).unwrap();
    drop(raw);
    refused(&folder, stamp(Network::Testnet), &["logs.db", "another"]);
    assert!(!folder.join("jobs.db.format-0").exists());
}

#[test]
fn what_others_could_reach_is_refused_with_the_command_that_mends_it() {
    let (_home, folder) = closed();
    set_mode(&folder, 0o755);
    refused(&folder, stamp(Network::Testnet), &["0755", "chmod 700"]);
    set_mode(&folder, 0o700);
    for name in ["state.db", "jobs.db", "logs.db", "LOCK"] {
        set_mode(&folder.join(name), 0o640);
        refused(&folder, stamp(Network::Testnet), &[name, "0640", "chmod 600"]);
        set_mode(&folder.join(name), 0o600);
    }
    drop(open(&folder));
}

#[test]
fn a_link_or_a_folder_in_the_place_of_a_file_is_refused() {
    for name in ["state.db", "jobs.db-wal", "RESERVE.jobs.db", "LOCK"] {
        let (home, folder) = closed();
        let path = folder.join(name);
        let aside = home.path().join("aside");
        if path.exists() {
            assert!(Command::new("mv").args([&path, &aside]).status().unwrap().success());
        }
        symlink(&aside, &path).unwrap();
        let text = open_as(&folder, stamp(Network::Testnet)).unwrap_err().to_string();
        assert!(text.contains(name) && text.contains("symbolic link"), "{text}");
        assert!(Command::new("rm").arg(&path).status().unwrap().success());
        fs::create_dir(&path).unwrap();
        let text = open_as(&folder, stamp(Network::Testnet)).unwrap_err().to_string();
        assert!(text.contains(name) && text.contains("not a regular file"), "{text}");
    }
}

#[test]
fn a_second_agent_is_refused_and_told_who_holds_the_volume() {
    let home = tempfile::tempdir().unwrap();
    let folder = volume_folder(&home);
    let held = create(&folder);
    let jobs = held.jobs(&common::VOLUME_KEY);
    let text = || open_as(&folder, stamp(Network::Testnet)).unwrap_err().to_string();
    assert!(text().contains(&std::process::id().to_string()), "{}", text());
    // A room that outlives its volume still writes: the lock is held until it is gone too.
    drop(held);
    assert!(text().contains("in use"), "{}", text());
    drop(jobs);
    drop(open(&folder));
}
