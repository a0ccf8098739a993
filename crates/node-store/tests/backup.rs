//! A backup is whole or not there, restores to what it was made of, and lets no job run twice. An archive may come from
//! anybody.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on must fail")]
#![expect(clippy::disallowed_methods, reason = "a test's own files")]

mod common;
#[path = "fixtures/contents.rs"]
#[expect(dead_code, reason = "the fixtures' test uses more of it")]
mod contents;
#[path = "../../node-types/tests/trust/common.rs"]
#[expect(dead_code, reason = "the trust documents' tests use more of it")]
mod trust;

use std::{
    ffi::OsString,
    fs,
    io::{self, Read as _, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use common::{at, id};
use contents::{ACKNOWLEDGED, FAILED, FINISHED, QUEUED, RUNNING, offered};
use node_store::{
    backup::{self, BackupError, Held, Manifest, Purpose, Source},
    disk::{Disk, Entry, Locked, RealDisk},
    format::Database,
    jobs::{Accepted, AfterRestore, Lease},
    keys::{Kek, KekSources, NodeKey, Source as KeySource},
    logs::{Query, Target},
    store::{Options, Store, StoreError},
    volume::VolumeError,
};
use node_types::{
    Digest, Network, Timestamp,
    job::FailureKind,
    log::{Kind, Level, Record},
    protocol::{Claim, Claimed},
    trace::Outcome,
};
use proptest::prelude::*;
use trust::NOW;
use zeroize::Zeroizing;

const RELEASE: &str = "0.1.0";
const PASSPHRASE: &str = "correct horse";
/// When backups are restored.
const LATER: Timestamp = NOW.plus_ms(1_000_000);

/// A home with a volume that has something in every table, and a folder for archives.
struct World {
    folder: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        contents::fill(&contents::options(&folder.path().join("home")));
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn options(&self, home: &str) -> Options {
        contents::options(&self.path(home))
    }

    fn open(&self, home: &str) -> Store {
        Store::open(&self.options(home), &at(LATER)).unwrap()
    }

    fn sources(&self, passphrase: &str) -> KekSources {
        let file = self.path("passphrase");
        fs::write(&file, passphrase).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let mut sources = KekSources::new(&self.path("nowhere"));
        sources.passphrase_file = Some(file);
        sources
    }

    fn kek(&self) -> Kek {
        self.sources(PASSPHRASE).load(&RealDisk, KeySource::Passphrase).unwrap()
    }

    fn create(&self, name: &str, keys: Option<&Kek>) -> Manifest {
        backup::create(&self.options("home"), &self.path(name), keys, RELEASE, NOW).unwrap()
    }

    fn restore(&self, name: &str, home: &str) -> Result<backup::Restored, BackupError> {
        let source = Source::Archive(self.sources(PASSPHRASE));
        backup::restore(&self.options(home), &self.path(name), &source, LATER)
    }

    /// The tar of an archive, as any Zstandard reads it.
    fn tar(&self, name: &str) -> Vec<u8> {
        let mut tar = Vec::new();
        zstd::Decoder::new(fs::File::open(self.path(name)).unwrap()).unwrap().read_to_end(&mut tar).unwrap();
        tar
    }

    fn pack(&self, name: &str, tar: &[u8]) {
        let mut out = zstd::Encoder::new(fs::File::create(self.path(name)).unwrap(), 1).unwrap();
        out.write_all(tar).unwrap();
        out.finish().unwrap();
    }

    /// Everything below the folder, by name.
    fn names(&self) -> Vec<PathBuf> {
        fn below(folder: &Path) -> Vec<PathBuf> {
            let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
            paths
                .flat_map(|path| {
                    if path.is_dir() { [vec![path.clone()], below(&path)].concat() } else { vec![path] }
                })
                .collect()
        }
        // Whoever looks last leaves the log of a database that is only read.
        let is_log = |path: &PathBuf| {
            path.to_string_lossy().ends_with("-wal") || path.to_string_lossy().ends_with("-shm")
        };
        let mut names = below(self.folder.path());
        names.retain(|path| !is_log(path));
        names.sort();
        names
    }
}

fn said(jobs: &[(u64, Claim)]) -> Vec<Claimed> {
    jobs.iter().map(|(number, claim)| Claimed { job: id(*number), claim: *claim }).collect()
}

#[test]
fn a_backup_is_private_names_what_is_in_it_and_is_read_by_other_programs() {
    let world = World::new();
    let before = world.names();
    let manifest = world.create("a.backup", None);
    let names: Vec<&str> = manifest.members.iter().map(|member| member.path.as_str()).collect();
    assert_eq!(names, ["state.db", "jobs.db", "logs.db"]);
    assert_eq!(
        (manifest.purpose, manifest.network, manifest.has_keys()),
        (Purpose::Backup, Network::Testnet, false)
    );
    let archive = world.path("a.backup");
    assert_eq!(fs::metadata(&archive).unwrap().permissions().mode() & 0o777, 0o600);
    let added: Vec<PathBuf> = world.names().into_iter().filter(|name| !before.contains(name)).collect();
    assert_eq!(added, std::slice::from_ref(&archive), "nothing else is left");

    let plain = world.path("plain.tar");
    fs::write(&plain, world.tar("a.backup")).unwrap();
    let listed = std::process::Command::new("tar").arg("-tf").arg(&plain).output().unwrap();
    assert_eq!(String::from_utf8(listed.stdout).unwrap(), "manifest.json\nstate.db\njobs.db\nlogs.db\n");

    let verified = backup::verify(&archive, None, world.folder.path()).unwrap();
    assert_eq!(verified.manifest, manifest);
    assert_eq!(verified.held, Held { jobs: 4, records: 2, config_version: 2 });
    assert_eq!(verified.keys_open, None);

    let again = backup::create(&world.options("home"), &archive, None, RELEASE, NOW);
    assert!(matches!(again, Err(BackupError::ArchiveExists { .. })), "{again:?}");
    assert_eq!(backup::manifest_of(&archive).unwrap(), manifest, "it was left as it was");
}

#[test]
fn a_backup_with_keys_restores_the_node_with_its_jobs_fenced() {
    let world = World::new();
    world.create("a.backup", Some(&world.kek()));
    let verified =
        backup::verify(&world.path("a.backup"), Some(&world.sources(PASSPHRASE)), world.folder.path());
    assert_eq!(verified.unwrap().keys_open, Some(true));
    let wrong = backup::verify(&world.path("a.backup"), Some(&world.sources("wrong")), world.folder.path());
    assert!(matches!(wrong, Err(BackupError::Key(_))), "{wrong:?}");

    let restored = world.restore("a.backup", "new").unwrap();
    assert_eq!((restored.jobs, restored.folder), (4, world.path("new/testnet")));
    let (old, store) = (world.open("home"), world.open("new"));
    assert_eq!(store.node(), old.node());
    let fence = store.view().jobs().fence().unwrap().unwrap();
    assert_eq!((fence.backed_up_at, fence.restored_at, fence.jobs), (NOW, LATER, 4));
    assert!(old.view().jobs().fence().unwrap().is_none());

    let jobs = store.jobs();
    assert!(matches!(jobs.lease(None, None, &[].into(), LATER).wait().unwrap(), Lease::Empty), "none is run");
    assert_eq!(jobs.outbox(0, LATER).wait().unwrap(), [], "none is sent");
    assert_eq!(jobs.view().to_ask_about(10).unwrap().len(), 4);
    assert!(!jobs.take_down_fence().wait().unwrap());

    // The network's word decides, each time for the job that it is about.
    let ended = Claim::Ended { outcome: Outcome::Answered };
    let claims = said(&[
        (QUEUED, Claim::Yours),
        (RUNNING, ended),
        (FINISHED, Claim::NotYours),
        (FAILED, Claim::Unknown),
    ]);
    let done = jobs.judge_fenced(claims.clone(), LATER).wait().unwrap();
    let wanted = [
        (id(QUEUED), AfterRestore::Keep),
        (id(RUNNING), AfterRestore::Settle(Outcome::Answered)),
        (id(FINISHED), AfterRestore::Drop),
        (id(FAILED), AfterRestore::Keep),
    ];
    assert_eq!(done, wanted);
    assert_eq!(jobs.judge_fenced(claims, LATER).wait().unwrap(), [], "once");
    assert!(jobs.take_down_fence().wait().unwrap());
    assert!(store.view().jobs().fence().unwrap().is_none());

    let leased = jobs.lease(None, None, &[].into(), LATER).wait().unwrap();
    assert!(matches!(leased, Lease::Job(leased) if leased.job == offered(QUEUED)));
    assert!(matches!(jobs.lease(None, None, &[].into(), LATER).wait().unwrap(), Lease::Empty));
    let sent: Vec<_> =
        jobs.outbox(0, LATER).wait().unwrap().into_iter().map(|sent| sent.unwrap().job).collect();
    assert_eq!(sent, [id(FAILED)]);
    let accept = |number| jobs.accept(&offered(number), LATER).wait().unwrap();
    assert_eq!(accept(RUNNING), Accepted::Duplicate, "it has ended: never run again");
    assert_eq!(accept(ACKNOWLEDGED), Accepted::Duplicate);
    assert_eq!(accept(FINISHED), Accepted::New, "others gave it back");
    let tally = jobs.view().tally().unwrap();
    assert_eq!((tally.jobs, tally.expired), (3, 1));
}

/// In any spelling that a file could have it in.
#[test]
fn the_nodes_key_stands_nowhere_in_an_archive_that_has_it_sealed() {
    let world = World::new();
    let manifest = world.create("a.backup", Some(&world.kek()));
    assert!(manifest.has_keys());
    let tar = world.tar("a.backup");
    // The key that `contents::fill` made the volume with, and the passphrase that it is sealed under.
    let spelled = [
        vec![5; 32],
        "05".repeat(32).into_bytes(),
        "BQUF".repeat(10).into_bytes(),
        "5, ".repeat(31).into_bytes(),
        "5,".repeat(31).into_bytes(),
        PASSPHRASE.as_bytes().to_vec(),
    ];
    let is_there = |bytes: &[u8]| tar.windows(bytes.len()).any(|window| window == bytes);
    assert!(is_there(b"keys/node.key"), "what is looked for would be in here");
    for bytes in spelled {
        assert!(!is_there(&bytes), "{}", String::from_utf8_lossy(&bytes));
    }
}

#[test]
fn a_job_that_the_network_does_not_know_fails_and_is_reported() {
    let world = World::new();
    world.create("a.backup", Some(&world.kek()));
    world.restore("a.backup", "new").unwrap();
    let store = world.open("new");
    let jobs = store.jobs();
    let done = jobs.judge_fenced(said(&[(QUEUED, Claim::Unknown)]), LATER).wait().unwrap();
    assert_eq!(done, [(id(QUEUED), AfterRestore::Fail)]);
    let sent = jobs.outbox(0, LATER).wait().unwrap();
    let sent: Vec<_> =
        sent.into_iter().map(|sent| sent.unwrap()).map(|it| (it.job, it.result.unwrap_err().kind)).collect();
    assert_eq!(sent, [(id(QUEUED), FailureKind::Unclaimed)]);
}

/// The network gives to others what the node does not name. A crash amid the answers once left jobs that were kept and not
/// named by the next start, and they ran twice.
#[test]
fn a_job_that_was_kept_is_named_again_while_the_fence_stands() {
    let world = World::new();
    world.create("a.backup", Some(&world.kek()));
    world.restore("a.backup", "new").unwrap();
    let store = world.open("new");
    store.jobs().judge_fenced(said(&[(QUEUED, Claim::Yours)]), LATER).wait().unwrap();
    drop(store);
    let store = world.open("new");
    let named = store.jobs().view().to_ask_about(10).unwrap();
    assert_eq!(named.len(), 4);
    assert_eq!(named.last(), Some(&id(QUEUED)), "those that wait come first");
    assert!(!store.jobs().view().to_ask_about(3).unwrap().contains(&id(QUEUED)));
}

#[test]
fn a_fence_is_taken_down_by_hand_where_somebody_says_so() {
    let world = World::new();
    world.create("a.backup", Some(&world.kek()));
    world.restore("a.backup", "new").unwrap();
    let fence = backup::unfence(&world.options("new"), &at(LATER)).unwrap();
    assert_eq!((fence.backed_up_at, fence.jobs), (NOW, 4));
    let again = backup::unfence(&world.options("new"), &at(LATER));
    assert!(matches!(again, Err(BackupError::NotFenced { .. })), "{again:?}");
    let store = world.open("new");
    let leased = store.jobs().lease(None, None, &[].into(), LATER).wait().unwrap();
    assert!(matches!(leased, Lease::Job(_)), "{leased:?}");
    assert!(!store.jobs().outbox(0, LATER).wait().unwrap().is_empty());
}

/// The fence must survive what its volume must survive: a restart, and damage to its database.
#[test]
fn the_fence_stands_after_a_restart() {
    let world = World::new();
    world.create("a.backup", Some(&world.kek()));
    world.restore("a.backup", "new").unwrap();
    for _ in 0..2 {
        let store = world.open("new");
        assert_eq!(store.view().jobs().fence().unwrap().unwrap().jobs, 4);
        assert!(matches!(store.jobs().lease(None, None, &[].into(), LATER).wait().unwrap(), Lease::Empty));
    }
}

/// The node of the backup goes on: it uses numbers, and sends log batches of its chain.
#[test]
fn a_restored_volume_repeats_no_number_and_begins_another_chain_of_logs() {
    let world = World::new();
    world.create("a.backup", Some(&world.kek()));
    let old = world.open("home");
    let used = old.binding().reserve_sequence(100_000).wait().unwrap().end;
    let chain = old.logs().seal().wait().unwrap().unwrap().header.chain;
    drop(old);

    world.restore("a.backup", "new").unwrap();
    let new = world.open("new");
    let first = new.binding().reserve_sequence(1).wait().unwrap().start;
    assert!(first > used, "{first} after {used}");
    assert!(first >= LATER.ms() * 1000, "also above those that are used until now");
    new.binding().pass_sequence(LATER.plus_ms(5_000)).wait().unwrap();
    assert!(new.binding().reserve_sequence(1).wait().unwrap().start >= LATER.plus_ms(5_000).ms() * 1000);
    new.binding().pass_sequence(NOW).wait().unwrap();
    assert!(
        new.binding().reserve_sequence(1).wait().unwrap().start >= LATER.plus_ms(5_000).ms() * 1000,
        "never back"
    );
    // One time that is wrong does not use up all numbers that a message can have.
    new.binding().pass_sequence(Timestamp::from_ms((1 << 53) - 1)).wait().unwrap();
    assert!(new.binding().reserve_sequence(1).wait().unwrap().end < 1 << 53);

    assert!(new.logs().view().batches(10).unwrap().is_empty());
    let batch = new.logs().seal().wait().unwrap().unwrap();
    assert_ne!(batch.header.chain, chain);
    assert_eq!(batch.header.seq, 1);
    let records = batch.records().unwrap();
    assert_eq!(records.len(), 2, "those of the batch that was on its way too");
    assert_eq!(batch.header.lost.values().sum::<u64>(), 1, "a loss is told twice rather than never");
}

/// What the network has may be held for another target when the backup is made.
#[test]
fn a_restored_volume_sends_nothing_that_the_network_acknowledged() {
    let world = World::new();
    let old = world.open("home");
    old.logs().set_targets(vec![Target { name: "file".to_owned(), required: true }]).wait().unwrap();
    while let Some(batch) = old.logs().seal().wait().unwrap() {
        while old.logs().acknowledge(batch.header.seq).wait().unwrap() > 0 {}
    }
    let held = old.logs().view().query(&Query::default()).unwrap().len();
    assert!(held > 0);
    old.logs().append(Record::new(NOW, Level::Info, Kind::Agent, "new"));
    old.logs().flush().wait().unwrap();
    drop(old);
    world.create("a.backup", Some(&world.kek()));

    world.restore("a.backup", "new").unwrap();
    let new = world.open("new");
    let batch = new.logs().seal().wait().unwrap().unwrap();
    assert_eq!((batch.header.seq, batch.header.prev), (1, Digest::from_bytes([0; 32])));
    assert!(batch.records().unwrap().iter().any(|record| record.message == "new"));
    let sent: usize = batch.header.records.values().map(|count| usize::try_from(*count).unwrap()).sum();
    let all = new.logs().view().query(&Query::default()).unwrap().len();
    assert_eq!(sent, all - held, "{:?}", batch.records());
}

/// What one query gives of a database in an archive.
fn asked<T: rusqlite::types::FromSql>(world: &World, archive: &str, database: &str, query: &str) -> Vec<T> {
    let (folder, tar) = (tempfile::tempdir().unwrap(), world.tar(archive));
    let plain = folder.path().join("plain.tar");
    fs::write(&plain, tar).unwrap();
    let unpacked = std::process::Command::new("tar")
        .args(["-xf", "plain.tar", database])
        .current_dir(folder.path())
        .status();
    assert!(unpacked.unwrap().success());
    let raw = rusqlite::Connection::open(folder.path().join(database)).unwrap();
    let mut statement = raw.prepare(query).unwrap();
    statement.query_map((), |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

/// Jobs come in the order of their numbers, and every other one goes: a copy that has a later one and not an earlier
/// one would be of two moments.
#[test]
fn a_backup_made_while_jobs_come_and_go_is_one_moment_of_the_jobs() {
    let world = World::new();
    let store = Arc::new(world.open("home"));
    let stop = Arc::new(AtomicBool::new(false));
    let writing = std::thread::spawn({
        let (store, stop) = (Arc::clone(&store), Arc::clone(&stop));
        move || {
            let mut number = 1000;
            while !stop.load(Ordering::Relaxed) {
                let jobs = store.jobs();
                assert_eq!(jobs.accept(&offered(number), LATER).wait().unwrap(), Accepted::New);
                // Fewer than are taken, so that there is always something.
                if number % 2 == 0 {
                    jobs.fail(id(number), node_types::job::Failure::new(FailureKind::Runtime, "x"), LATER)
                        .wait()
                        .unwrap();
                    jobs.acknowledge(id(number), LATER).wait().unwrap();
                }
                number += 1;
            }
            number
        }
    });
    let mut seen = Vec::new();
    for round in 0..5 {
        let name = format!("{round}.backup");
        world.create(&name, None);
        let held = backup::verify(&world.path(&name), None, world.folder.path()).unwrap().held.jobs;
        let ids: Vec<Vec<u8>> = asked(&world, &name, "jobs.db", "SELECT id FROM jobs ORDER BY seq");
        let kept: Vec<_> = ids.into_iter().filter(|bytes| *bytes > id(999).as_bytes().to_vec()).collect();
        let odd = (1000_u64..).filter(|number| number % 2 == 1).map(|number| id(number).as_bytes().to_vec());
        // The last one may be on its way out.
        let steady = kept.iter().filter(|bytes| bytes[15] % 2 == 1);
        assert!(steady.zip(odd).all(|(found, wanted)| *found == wanted), "a job is missing in between");
        let leaving = kept.iter().filter(|bytes| bytes[15] % 2 == 0);
        assert!(leaving.clone().count() <= 1 && leaving.clone().all(|bytes| Some(bytes) == kept.last()));
        assert_eq!(u64::try_from(kept.len()).unwrap() + 4, held);
        seen.push(held);
    }
    stop.store(true, Ordering::Relaxed);
    assert!(writing.join().unwrap() > 1000);
    assert!(seen.is_sorted(), "{seen:?}");
}

/// What came into force between the copies of two databases must not be newer than the floor beside it: a restored
/// node would take an older snapshot again.
#[test]
fn a_snapshot_that_comes_between_the_copies_of_two_databases_is_under_the_restored_floor() {
    let world = World::new();
    let store = Arc::new(world.open("home"));
    let put_in_force = {
        let (store, next) = (Arc::clone(&store), std::sync::atomic::AtomicU64::new(3));
        move || {
            let mut document = trust::config(next.fetch_add(1, Ordering::Relaxed));
            document["keyset_version"] = 2.into();
            let envelope = trust::signed_config(&document, &[&trust::Signer::new(2)]);
            store.apply_envelope(&envelope, NOW).unwrap();
        }
    };
    let mut options = world.options("home");
    options.disk = Arc::new(Faulty { copies: Some(Between(Box::new(put_in_force))), ..Faulty::default() });
    backup::create(&options, &world.path("a.backup"), Some(&world.kek()), RELEASE, NOW).unwrap();
    assert_eq!(store.snapshots().floor().version, 5, "one came before each of three copies");

    let version = |database: &str| -> u64 {
        asked::<u64>(&world, "a.backup", database, "SELECT version FROM floor")[0]
    };
    assert_eq!((version("state.db"), version("jobs.db")), (3, 4));
    world.restore("a.backup", "new").unwrap();
    let restored = world.open("new");
    let in_force = restored.snapshots().current().unwrap().config.document().version;
    assert_eq!((in_force, restored.snapshots().floor().version), (3, 4));
}

#[test]
fn a_backup_without_keys_takes_those_of_the_old_volume_or_the_nodes_own() {
    let world = World::new();
    world.create("a.backup", None);
    let none = world.restore("a.backup", "new");
    assert!(matches!(none, Err(BackupError::NoKeys { .. })), "{none:?}");
    assert!(!world.path("new").exists());

    let keys = world.path("home/testnet/keys");
    let folder = Source::Folder(keys.clone(), KekSources::new(&keys));
    backup::restore(&world.options("new"), &world.path("a.backup"), &folder, LATER).unwrap();
    let store = world.open("new");
    store.jobs().judge_fenced(said(&[(QUEUED, Claim::Yours)]), LATER).wait().unwrap();
    let leased = store.jobs().lease(None, None, &[].into(), LATER).wait().unwrap();
    assert!(matches!(leased, Lease::Job(leased) if leased.job == offered(QUEUED)), "the volume key is there");

    // The key that `contents::fill` made the volume with.
    let key = || NodeKey::from_bytes(&Zeroizing::new([5; 32])).unwrap();
    backup::restore(&world.options("third"), &world.path("a.backup"), &Source::NodeKey(key()), LATER)
        .unwrap();
    let store = world.open("third");
    assert_eq!(store.node(), world.open("home").node());
    store.jobs().judge_fenced(said(&[(QUEUED, Claim::Yours)]), LATER).wait().unwrap();
    let leased = store.jobs().lease(None, None, &[].into(), LATER).wait().unwrap();
    assert!(matches!(leased, Lease::Unreadable(_)), "and is reported so: {leased:?}");

    let other = Source::NodeKey(NodeKey::generate().unwrap());
    let refused = backup::restore(&world.options("fourth"), &world.path("a.backup"), &other, LATER);
    assert!(matches!(refused, Err(BackupError::OtherKey { .. })), "{refused:?}");
    let foreign = tempfile::tempdir().unwrap();
    contents::fill(&contents::options(foreign.path()));
    let keys = foreign.path().join("testnet/keys");
    let other = Source::Folder(keys.clone(), KekSources::new(&keys));
    let refused = backup::restore(&world.options("fourth"), &world.path("a.backup"), &other, LATER);
    assert!(matches!(refused, Err(BackupError::OtherVolumeKey { .. })), "{refused:?}");
    assert!(!world.path("fourth/testnet").exists());
}

/// The way back that the refusal names.
#[test]
fn what_a_newer_release_wrote_is_refused_and_the_backup_from_before_goes_on_in_its_place() {
    for database in Database::ALL {
        let world = World::new();
        world.create("before.backup", Some(&world.kek()));
        let node = world.open("home").node();
        let (volume, aside) = (world.path("home/testnet"), world.path("home/testnet.newer"));
        let raw = rusqlite::Connection::open(volume.join(database.file())).unwrap();
        raw.pragma_update(None, "user_version", 99).unwrap();
        drop(raw);

        let refused = Store::open(&world.options("home"), &at(LATER)).map(drop).unwrap_err().to_string();
        for words in [database.file(), "format 99", "or restore a backup that was made before"] {
            assert!(refused.contains(words), "{words:?} is not in: {refused}");
        }
        let over = world.restore("before.backup", "home");
        assert!(matches!(over, Err(BackupError::VolumeExists { .. })), "{over:?}");
        fs::rename(&volume, &aside).unwrap();
        assert_eq!(world.restore("before.backup", "home").unwrap().jobs, 4);
        let store = world.open("home");
        assert_eq!(store.node(), node);
        assert_eq!(store.view().jobs().fence().unwrap().map(|fence| fence.jobs), Some(4), "it asks first");
        let raw = rusqlite::Connection::open(aside.join(database.file())).unwrap();
        let found: u32 = raw.query_row("PRAGMA user_version", (), |row| row.get(0)).unwrap();
        assert_eq!(found, 99, "what the newer one wrote is left as it was");
    }
}

#[test]
fn nothing_is_restored_over_anything_or_on_another_network() {
    let world = World::new();
    world.create("a.backup", Some(&world.kek()));
    let before = world.names();
    let there = world.restore("a.backup", "home").unwrap_err();
    let BackupError::VolumeExists { held, offered, .. } = &there else { panic!("{there:?}") };
    assert!(held.contains(&offered.to_string()), "{there}");
    assert_eq!(world.names(), before);

    fs::create_dir_all(world.path("empty/testnet")).unwrap();
    assert!(matches!(world.restore("a.backup", "empty"), Err(BackupError::VolumeExists { .. })));
    assert_eq!(fs::read_dir(world.path("empty")).unwrap().count(), 1);

    let before = Timestamp::from_ms(NOW.ms() - 24 * 60 * 60 * 1000);
    let restore = |now| {
        let source = Source::Archive(world.sources(PASSPHRASE));
        backup::restore(&world.options("early"), &world.path("a.backup"), &source, now)
    };
    let early = restore(Timestamp::from_ms(before.ms() - 1)).unwrap_err();
    assert!(matches!(early, BackupError::FromTheFuture { .. }), "{early:?}");
    assert!(!world.path("early").exists());
    restore(before).unwrap();

    let mut mainnet = Options::new(&world.path("main"), Network::Mainnet);
    mainnet.kek.secret_file = None;
    let source = Source::Archive(world.sources(PASSPHRASE));
    let other = backup::restore(&mainnet, &world.path("a.backup"), &source, LATER).unwrap_err();
    assert!(matches!(&other, BackupError::OtherNetwork { .. }), "{other:?}");
    assert!(other.to_string().contains("testnet") && other.to_string().contains("mainnet"), "{other}");
    assert!(!world.path("main").exists());

    let source = Source::Archive(world.sources("wrong"));
    let wrong = backup::restore(&world.options("new"), &world.path("a.backup"), &source, LATER);
    assert!(matches!(wrong, Err(BackupError::Key(_))), "{wrong:?}");
    assert_eq!(fs::read_dir(world.path("new")).unwrap().count(), 0, "nothing is left of the attempt");
}

/// What a crash leaves of a restore is no volume, and does not stand in the way of the next one.
#[test]
fn a_restore_that_was_broken_off_is_begun_anew() {
    let world = World::new();
    world.create("a.backup", Some(&world.kek()));
    let left = world.path("new/.testnet.restore");
    fs::create_dir_all(left.join("keys.archived")).unwrap();
    for folder in [&left, &left.join("keys.archived")] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).unwrap();
    }
    fs::write(left.join("jobs.db"), "half").unwrap();
    fs::write(left.join("keys.archived/node.key"), "half").unwrap();
    std::os::unix::fs::symlink(world.path("home"), left.join("link")).unwrap();
    world.restore("a.backup", "new").unwrap();
    assert!(!left.exists());
    assert!(world.path("home/testnet/state.db").exists(), "a link is not followed");
    world.open("new");
}

// What is done to an archive.

/// Where the headers of an archive's members are.
fn headers(tar: &[u8]) -> Vec<usize> {
    let (mut at, mut found) = (0, Vec::new());
    while tar[at] != 0 {
        found.push(at);
        let size = std::str::from_utf8(&tar[at + 124..at + 135]).unwrap();
        at += 512 + usize::from_str_radix(size, 8).unwrap().div_ceil(512) * 512;
    }
    found
}

/// Makes a header's checksum right again.
fn sum(tar: &mut [u8], at: usize) {
    tar[at + 148..at + 156].fill(b' ');
    let total: u32 = tar[at..at + 512].iter().map(|byte| u32::from(*byte)).sum();
    tar[at + 148..at + 156].copy_from_slice(format!("{total:06o}\0 ").as_bytes());
}

fn renamed(tar: &[u8], at: usize, name: &str) -> Vec<u8> {
    let mut tar = tar.to_vec();
    tar[at..at + 100].fill(0);
    tar[at..at + name.len()].copy_from_slice(name.as_bytes());
    sum(&mut tar, at);
    tar
}

#[test]
fn a_hostile_archive_is_refused_and_nothing_of_it_is_left() {
    let world = World::new();
    world.create("a.backup", Some(&world.kek()));
    let good = world.tar("a.backup");
    let at = headers(&good);
    assert_eq!(at.len(), 6);
    let member =
        |number: usize| good[at[number]..at.get(number + 1).copied().unwrap_or(good.len() - 1024)].to_vec();
    let kind = |number: usize, kind: u8| {
        let mut tar = good.clone();
        tar[at[number] + 156] = kind;
        tar[at[number] + 157..at[number] + 157 + 11].copy_from_slice(b"/etc/passwd");
        sum(&mut tar, at[number]);
        tar
    };
    let sized = |number: usize, bytes: u64| {
        let mut tar = good.clone();
        tar[at[number] + 124..at[number] + 135].copy_from_slice(format!("{bytes:011o}").as_bytes());
        sum(&mut tar, at[number]);
        tar
    };
    let without = |number: usize| {
        let mut tar = good.clone();
        tar.drain(at[number]..at.get(number + 1).copied().unwrap_or(good.len() - 1024));
        tar
    };
    let with_end = |extra: &[u8]| [&good[..good.len() - 1024], extra, &[0; 1024]].concat();
    let mut swapped = good[..at[1]].to_vec();
    for number in [2, 1, 3, 4, 5] {
        swapped.extend(member(number));
    }
    swapped.extend([0; 1024]);
    let mut altered = good.clone();
    altered[at[2] + 512 + 5000] ^= 1;
    let mut padded = good.clone();
    padded[at[1] - 1] = 1;
    let text = |from: &str, to: &str| {
        let end = at[1];
        let manifest = String::from_utf8(good[512..end].to_vec()).unwrap();
        let manifest = manifest.trim_end_matches('\0').replacen(from, to, 1);
        let mut tar = good[..512].to_vec();
        tar[124..135].copy_from_slice(format!("{:011o}", manifest.len()).as_bytes());
        sum(&mut tar, 0);
        tar.extend(manifest.as_bytes());
        tar.resize(tar.len().next_multiple_of(512), 0);
        tar.extend(&good[end..]);
        tar
    };
    let mut cases: Vec<(String, Vec<u8>)> = vec![
        ("nothing".into(), Vec::new()),
        ("no tar".into(), b"hello".repeat(500)),
        ("zeros".into(), vec![0; 1 << 20]),
        ("a path that leads out".into(), renamed(&good, at[1], "../state.db")),
        ("an absolute path".into(), renamed(&good, at[2], "/tmp/jobs.db")),
        ("another name".into(), renamed(&good, at[3], "LOCK")),
        ("a symbolic link".into(), kind(1, b'2')),
        ("a hard link".into(), kind(2, b'1')),
        ("a folder".into(), kind(3, b'5')),
        ("a long name".into(), kind(1, b'L')),
        ("a larger member".into(), sized(2, (8 << 30) - 1)),
        ("a smaller member".into(), sized(2, 512)),
        ("members in another order".into(), swapped),
        ("a member twice".into(), with_end(&member(1))),
        ("one more member".into(), with_end(&renamed(&member(3), 0, "more.db"))),
        ("something behind the end".into(), [good.clone(), vec![0; 512]].concat()),
        ("an altered member".into(), altered),
        ("something in the padding".into(), padded),
        ("a manifest that names more".into(), text("\"jobs.db\"", "\"../../jobs.db\"")),
        ("a manifest of a later version".into(), text("\"version\": 1", "\"version\": 2")),
        ("another format".into(), text("resultity-backup", "resultity-backip")),
        ("an unknown field".into(), text("\"purpose\"", "\"surprise\": 1, \"purpose\"")),
        ("a field twice".into(), text("\"purpose\"", "\"version\": 1,\n  \"purpose\"")),
        ("a manifest of another node".into(), text("\"volume\": \"", "\"volume\": \"0")),
    ];
    for number in 0..6 {
        cases.push((format!("member {number} is missing"), without(number)));
    }
    for cut in
        [1, 511, 512, 513, at[1] + 3, at[2], at[2] + 700, at[5] + 600, good.len() - 1024, good.len() - 1]
    {
        cases.push((format!("cut at {cut}"), good[..cut].to_vec()));
    }
    let before = world.names();
    for (name, tar) in &cases {
        world.pack("bad.backup", tar);
        let verified = backup::verify(&world.path("bad.backup"), None, world.folder.path());
        assert!(verified.is_err(), "{name}: {verified:?}");
        let restored = world.restore("bad.backup", "new");
        let error = restored.expect_err(name);
        assert!(error.to_string().contains("bad.backup"), "{name}: {error}");
        fs::remove_file(world.path("bad.backup")).unwrap();
        if world.path("new").exists() {
            fs::remove_dir(world.path("new")).unwrap();
        }
        fs::remove_file(world.path("passphrase")).unwrap();
        let left: Vec<PathBuf> = world.names().into_iter().filter(|path| !before.contains(path)).collect();
        assert_eq!(left, Vec::<PathBuf>::new(), "{name}");
        world.sources(PASSPHRASE);
    }
    // The untouched one is good, packed again too: the cases fail for what was done to them.
    world.pack("bad.backup", &good);
    world.restore("bad.backup", "new").unwrap();
}

/// The manifest of an archive.
fn manifest_in(tar: &[u8]) -> Manifest {
    let text = String::from_utf8(tar[512..headers(tar)[1]].to_vec()).unwrap();
    serde_json::from_str(text.trim_end_matches('\0')).unwrap()
}

/// An archive with another manifest.
fn with_manifest(tar: &[u8], manifest: &Manifest) -> Vec<u8> {
    let text = serde_json::to_string_pretty(manifest).unwrap() + "\n";
    let mut changed = tar[..512].to_vec();
    changed[124..135].copy_from_slice(format!("{:011o}", text.len()).as_bytes());
    sum(&mut changed, 0);
    changed.extend(text.as_bytes());
    changed.resize(changed.len().next_multiple_of(512), 0);
    changed.extend(&tar[headers(tar)[1]..]);
    changed
}

/// The name of the folder that an archive is unpacked into holds the transfer that its manifest names, and what stands in that
/// folder is removed first: one that led elsewhere emptied a folder of its maker's choice.
#[test]
fn a_transfer_that_leads_elsewhere_empties_no_folder() {
    let world = World::new();
    world.create("a.backup", None);
    let precious = world.path("precious");
    for folder in [&precious, &world.path(".resultity-verify-x")] {
        fs::create_dir(folder).unwrap();
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).unwrap();
    }
    fs::write(precious.join("file"), "mine").unwrap();
    let good = world.tar("a.backup");
    let mut manifest = manifest_in(&good);
    let sound = manifest.transfer.clone();
    for transfer in ["x/../precious", "", &sound[1..], &sound.replace(char::is_alphanumeric, "A"), "\0"] {
        transfer.clone_into(&mut manifest.transfer);
        world.pack("bad.backup", &with_manifest(&good, &manifest));
        let refused = backup::verify(&world.path("bad.backup"), None, world.folder.path());
        assert!(matches!(refused, Err(BackupError::NotAnArchive { .. })), "{transfer}: {refused:?}");
        assert_eq!(fs::read(precious.join("file")).unwrap(), b"mine", "{transfer}");
        fs::remove_file(world.path("bad.backup")).unwrap();
    }
    manifest.transfer = sound;
    world.pack("good.backup", &with_manifest(&good, &manifest));
    backup::verify(&world.path("good.backup"), None, world.folder.path()).unwrap();
}

/// A hundred megabytes of zeros are a few kilobytes; what is unpacked of them is what the manifest says and no more.
#[test]
fn a_bomb_is_not_unpacked() {
    let world = World::new();
    world.create("a.backup", None);
    let good = world.tar("a.backup");
    world.pack("bomb.backup", &[good[..good.len() - 1024].to_vec(), vec![0; 100 << 20]].concat());
    let refused = backup::verify(&world.path("bomb.backup"), None, world.folder.path());
    assert!(matches!(refused, Err(BackupError::Unexpected { .. })), "{refused:?}");

    // And one that says that it is that large is not begun where there is no room.
    let mut manifest = manifest_in(&good);
    let huge = (8_u64 << 30) - 1;
    for member in &mut manifest.members {
        member.bytes = huge;
    }
    let free = rustix::fs::statvfs(world.folder.path()).unwrap();
    if free.f_bavail * free.f_frsize < 3 * huge {
        world.pack("huge.backup", &with_manifest(&good, &manifest));
        let refused = backup::verify(&world.path("huge.backup"), None, world.folder.path());
        assert!(matches!(refused, Err(BackupError::NoRoom { .. })), "{refused:?}");
    }
}

/// Hashes do not help against whoever makes the archive: a trigger in a database would act at the first write.
#[test]
fn a_database_with_other_tables_than_its_formats_is_refused() {
    let world = World::new();
    world.create("a.backup", None);
    for statement in [
        "CREATE TRIGGER evil AFTER INSERT ON jobs BEGIN DELETE FROM jobs; END",
        "PRAGMA writable_schema = ON; INSERT INTO sqlite_schema (type, name, tbl_name, rootpage, sql)
            VALUES ('trigger', 'sqlite_sequence', 'jobs', 0,
                'CREATE TRIGGER sqlite_sequence AFTER INSERT ON jobs BEGIN DELETE FROM jobs; END')",
        "PRAGMA writable_schema = ON; INSERT INTO sqlite_schema (type, name, tbl_name, rootpage, sql)
            VALUES ('table', 'sqlite_sequence', 'jobs', 0,
                'CREATE TRIGGER evil AFTER INSERT ON jobs BEGIN DELETE FROM jobs; END')",
        "CREATE TABLE more (x)",
        "CREATE VIEW seen AS SELECT 1",
        "PRAGMA user_version = 99",
        "PRAGMA application_id = 5",
        "UPDATE stamp SET node = 'rstn1x'",
        "DROP INDEX jobs_queue",
        "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = sql || ' ' WHERE name = 'tally'",
    ] {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().join("home/testnet");
        fs::create_dir_all(&home).unwrap();
        let source = world.path("home/testnet");
        // A volume whose owner is hostile.
        for entry in fs::read_dir(&source).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() {
                fs::copy(entry.path(), home.join(entry.file_name())).unwrap();
            }
        }
        let raw = rusqlite::Connection::open(home.join("jobs.db")).unwrap();
        raw.execute_batch(statement).unwrap();
        drop(raw);
        let tar = forged(&world.tar("a.backup"), &fs::read(home.join("jobs.db")).unwrap());
        world.pack("forged.backup", &tar);
        let refused = backup::verify(&world.path("forged.backup"), None, world.folder.path());
        assert!(matches!(refused, Err(BackupError::Database { .. })), "{statement}: {refused:?}");
        fs::remove_file(world.path("forged.backup")).unwrap();
    }
    let same = forged(&world.tar("a.backup"), &fs::read(world.path("home/testnet/jobs.db")).unwrap());
    world.pack("forged.backup", &same);
    backup::verify(&world.path("forged.backup"), None, world.folder.path()).unwrap();
}

/// The archive with another `jobs.db`, and a manifest that says so.
fn forged(tar: &[u8], jobs: &[u8]) -> Vec<u8> {
    let mut manifest = manifest_in(tar);
    manifest.members[1].bytes = jobs.len() as u64;
    manifest.members[1].sha256 = Digest::of(jobs);
    let tar = with_manifest(tar, &manifest);
    let at = headers(&tar);
    let mut forged = tar[..at[2] + 512].to_vec();
    forged[at[2] + 124..at[2] + 135].copy_from_slice(format!("{:011o}", jobs.len()).as_bytes());
    sum(&mut forged, at[2]);
    forged.extend(jobs);
    forged.resize(forged.len().next_multiple_of(512), 0);
    forged.extend(&tar[at[3]..]);
    forged
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Given an archive with any byte of its tar changed; then it is refused, unless the manifest says another thing
    /// that it may say (a time, a release): nothing proves who made it.
    #[test]
    fn no_byte_of_an_archive_can_be_changed(place in any::<prop::sample::Index>(), change in 1..=255_u8) {
        thread_local! {
            static GOOD: (World, Vec<u8>, usize) = {
                let world = World::new();
                world.create("a.backup", None);
                let tar = world.tar("a.backup");
                let manifest = headers(&tar)[1];
                (world, tar, manifest)
            };
        }
        GOOD.with(|(world, good, manifest)| {
            let mut tar = good.clone();
            let place = place.index(tar.len());
            tar[place] ^= change;
            world.pack("changed.backup", &tar);
            let verified = backup::verify(&world.path("changed.backup"), None, world.folder.path());
            prop_assert!(verified.is_err() || (512..*manifest).contains(&place), "{place}: {verified:?}");
            Ok(())
        })?;
    }
}

// Moving.

fn out(world: &World, name: &str) -> Result<Manifest, BackupError> {
    backup::move_out(&world.options("home"), &world.path(name), &world.kek(), RELEASE, &at(NOW))
}

fn refused(world: &World) -> VolumeError {
    match Store::open(&world.options("home"), &at(LATER)) {
        Err(StoreError::Volume(error @ VolumeError::Retired { .. })) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_moved_node_goes_on_as_it_was_and_the_old_volume_stays_shut() {
    let world = World::new();
    let manifest = out(&world, "a.move").unwrap();
    assert_eq!((manifest.purpose, manifest.has_keys()), (Purpose::Move, true));
    let error = refused(&world).to_string();
    assert!(error.contains("a.move") && error.contains("move undo"), "{error}");
    let view = Store::view_only(&world.options("home")).unwrap();
    assert_eq!(view.jobs().retired().unwrap().unwrap().transfer, manifest.transfer, "looking still works");

    let source = Source::Archive(world.sources(PASSPHRASE));
    backup::move_in(&world.options("new"), &world.path("a.move"), &source).unwrap();
    let store = Store::open(&world.options("new"), &at(NOW)).unwrap();
    assert!(store.view().jobs().fence().unwrap().is_none());
    contents::check_models(&store);
}

/// That there is a mark is what counts: a flipped bit in it must not wake a second one of the node.
#[test]
fn a_retired_volume_stays_shut_whatever_is_in_its_mark() {
    let world = World::new();
    out(&world, "a.move").unwrap();
    for wrong in ["at = -1", "archive = CAST(x'ff' AS TEXT)", "transfer = ''"] {
        let raw = rusqlite::Connection::open(world.path("home/testnet/jobs.db")).unwrap();
        raw.execute(&format!("UPDATE retired SET {wrong}"), ()).unwrap();
        drop(raw);
        refused(&world);
    }
    fs::write(world.path("home/testnet/LOCK"), "1").unwrap();
    refused(&world);
}

#[test]
fn a_retired_volume_stays_shut_where_its_jobs_are_lost_too_and_a_move_that_was_undone_is_forgotten() {
    for lose in [
        |jobs: &Path| fs::remove_file(jobs).unwrap(),
        |jobs: &Path| fs::write(jobs, "").unwrap(),
        |jobs: &Path| {
            let mut bytes = fs::read(jobs).unwrap();
            bytes[..4096].fill(0xAA);
            fs::write(jobs, bytes).unwrap();
        },
    ] {
        let world = World::new();
        out(&world, "a.move").unwrap();
        let jobs = world.path("home/testnet/jobs.db");
        let before = fs::read(&jobs).unwrap();
        lose(&jobs);
        let error = refused(&world).to_string();
        assert!(error.contains("a.move") && error.contains("move undo"), "{error}");
        assert!(refused(&world).to_string().contains("a.move"), "nothing was moved aside or made");
        fs::write(&jobs, before).unwrap();
        fs::set_permissions(&jobs, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        backup::undo_move(&world.options("home")).unwrap();
        drop(Store::open(&world.options("home"), &at(NOW)).unwrap());
        lose(&jobs);
        let incidents = Store::open(&world.options("home"), &at(NOW)).unwrap().view().incidents().unwrap();
        assert_eq!(incidents.len(), 1, "it is the node again, and mended as ever");
    }
}

#[test]
fn a_node_is_not_moved_in_from_a_backup_and_a_move_that_is_restored_is_fenced() {
    let world = World::new();
    world.create("a.backup", Some(&world.kek()));
    let source = Source::Archive(world.sources(PASSPHRASE));
    let refused = backup::move_in(&world.options("new"), &world.path("a.backup"), &source);
    assert!(matches!(refused, Err(BackupError::NotAMove { .. })), "{refused:?}");
    out(&world, "a.move").unwrap();
    world.restore("a.move", "new").unwrap();
    assert!(world.open("new").view().jobs().fence().unwrap().is_some());
}

#[test]
fn a_move_that_was_broken_off_leaves_one_of_both_and_goes_on() {
    // Before the volume was shut: only a file that nobody looks for.
    let world = World::new();
    fs::write(world.path(".a.move.tmp"), "half").unwrap();
    drop(world.open("home"));
    let manifest = out(&world, "a.move").unwrap();
    assert_eq!(backup::manifest_of(&world.path("a.move")).unwrap(), manifest);

    // After it was shut, before the archive had its name.
    fs::rename(world.path("a.move"), world.path(".a.move.tmp")).unwrap();
    refused(&world);
    let elsewhere = out(&world, "b.move");
    assert!(
        matches!(elsewhere, Err(BackupError::Store(StoreError::Volume(VolumeError::Retired { .. })))),
        "{elsewhere:?}"
    );
    assert_eq!(out(&world, "a.move").unwrap(), manifest, "the same command goes on");
    assert_eq!(backup::manifest_of(&world.path("a.move")).unwrap(), manifest);
    refused(&world);
    // After it had its name: the command that was killed then has done all of it.
    assert_eq!(out(&world, "a.move").unwrap(), manifest);
    fs::hard_link(world.path("a.move"), world.path(".a.move.tmp")).unwrap();
    assert_eq!(backup::finish_move(&world.options("home"), &world.path("a.move")).unwrap(), manifest);
    assert!(!world.path(".a.move.tmp").exists(), "nor has it two names");
    fs::write(world.path("b.move"), "another file").unwrap();
    assert!(out(&world, "b.move").is_err());
    assert_eq!(fs::read(world.path("b.move")).unwrap(), b"another file");
}

/// What happens before each database is copied into an archive.
struct Between(Box<dyn Fn() + Send + Sync>);

impl std::fmt::Debug for Between {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Between")
    }
}

/// Real files, but for the calls that are to fail; and which folders were synced.
#[derive(Debug, Default)]
struct Faulty {
    copies: Option<Between>,
    synced: Mutex<Vec<PathBuf>>,
    /// Syncs of this folder fail once it was synced so often.
    fails: Option<(PathBuf, usize)>,
}

impl Faulty {
    fn syncs(&self, folder: &Path) -> usize {
        self.synced.lock().unwrap().iter().filter(|synced| *synced == folder).count()
    }
}

impl Disk for Faulty {
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        if let Some((folder, after)) = &self.fails
            && folder == path
            && self.syncs(folder) >= *after
        {
            return Err(io::Error::other("the sync fails"));
        }
        self.synced.lock().unwrap().push(path.to_owned());
        RealDisk.sync_dir(path)
    }

    fn vfs(&self) -> Option<&str> {
        None
    }
    fn uid(&self) -> u32 {
        RealDisk.uid()
    }
    fn entry(&self, path: &Path) -> io::Result<Option<Entry>> {
        RealDisk.entry(path)
    }
    fn list(&self, folder: &Path) -> io::Result<Vec<OsString>> {
        RealDisk.list(folder)
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        RealDisk.create_dir(path)
    }
    fn create_file(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        if let Some(between) = self.copies.as_ref().filter(|_| path.extension().is_some_and(|it| it == "db"))
        {
            (between.0)();
        }
        RealDisk.create_file(path, bytes)
    }
    fn sync_file(&self, path: &Path) -> io::Result<()> {
        RealDisk.sync_file(path)
    }
    fn rewrite(&self, path: &Path) -> io::Result<()> {
        RealDisk.rewrite(path)
    }
    fn read(&self, path: &Path, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
        RealDisk.read(path, bytes_max)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }
    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename_new(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }
    fn reserve(&self, path: &Path, bytes: u64) -> io::Result<()> {
        RealDisk.reserve(path, bytes)
    }
    fn free_bytes(&self, folder: &Path) -> io::Result<u64> {
        RealDisk.free_bytes(folder)
    }
    fn lock(&self, path: &Path, holder: &str) -> io::Result<Locked> {
        RealDisk.lock(path, holder)
    }
    fn holder(&self, path: &Path) -> io::Result<Option<String>> {
        RealDisk.holder(path)
    }
}

/// The archive had its name, then the sync of that name failed, and the volume was opened again: two of one node.
#[test]
fn a_move_whose_last_sync_fails_leaves_the_volume_shut_and_goes_on() {
    let world = World::new();
    let folder = world.path("stick");
    fs::create_dir(&folder).unwrap();
    let move_out = |disk: Arc<Faulty>| {
        let mut options = world.options("home");
        options.disk = disk;
        backup::move_out(&options, &folder.join("a.move"), &world.kek(), RELEASE, &at(NOW))
    };
    // The sync of the hidden name fails: the volume was not shut.
    let failed = move_out(Arc::new(Faulty { fails: Some((folder.clone(), 0)), ..Faulty::default() }));
    assert!(matches!(failed, Err(BackupError::Io { .. })), "{failed:?}");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    drop(world.open("home"));

    // That of its own name fails: the archive is there.
    let failed = move_out(Arc::new(Faulty { fails: Some((folder.clone(), 1)), ..Faulty::default() }));
    assert!(matches!(failed, Err(BackupError::Io { .. })), "{failed:?}");
    let manifest = backup::manifest_of(&folder.join("a.move")).unwrap();
    refused(&world);
    let healed = Arc::new(Faulty::default());
    assert_eq!(move_out(Arc::clone(&healed)).unwrap(), manifest, "the same command goes on");
    assert_eq!(healed.syncs(&folder), 1);
}

/// The name of a home that was made for the volume must be on disk too, or a power cut takes both.
#[test]
fn the_names_above_a_restored_volume_are_synced() {
    let world = World::new();
    world.create("a.backup", Some(&world.kek()));
    let mut options = world.options("far/new");
    let disk = Arc::new(Faulty::default());
    options.disk = Arc::clone(&disk) as Arc<dyn Disk>;
    let source = Source::Archive(world.sources(PASSPHRASE));
    backup::restore(&options, &world.path("a.backup"), &source, LATER).unwrap();
    for folder in ["far/new", "far", ""] {
        let folder = world.folder.path().join(folder);
        assert!(
            disk.syncs(Path::new(folder.to_str().unwrap().trim_end_matches('/'))) > 0,
            "{}",
            folder.display()
        );
    }
}

/// What a crash leaves stands in the home, whatever the archive is called, and the next backup removes it. The folder that an
/// archive is written to may be anybody's: a stick keeps no modes.
#[test]
fn what_is_left_of_a_backup_is_removed_by_the_next_one() {
    let world = World::new();
    let left = world.path("home/.testnet.backup");
    fs::create_dir(&left).unwrap();
    fs::set_permissions(&left, fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(left.join("jobs.db"), "half").unwrap();
    let stick = world.path("stick");
    fs::create_dir(&stick).unwrap();
    fs::set_permissions(&stick, fs::Permissions::from_mode(0o777)).unwrap();
    world.create("stick/a.backup", Some(&world.kek()));
    assert!(!left.exists());
    assert_eq!(fs::read_dir(&stick).unwrap().count(), 1);
    world.restore("stick/a.backup", "new").unwrap();
}

/// A volume goes on without its logs, so it can be backed up without them.
#[test]
fn a_backup_is_made_without_logs_that_cannot_be_read() {
    let world = World::new();
    let logs = world.path("home/testnet/logs.db");
    let good = fs::read(&logs).unwrap();
    let mut half = good.clone();
    half[100..].fill(0xAA);
    for (name, bytes) in [("missing", None), ("damaged", Some(half)), ("no database", Some(vec![7; 5000]))] {
        fs::remove_file(&logs).unwrap();
        if let Some(bytes) = bytes {
            fs::write(&logs, bytes).unwrap();
            fs::set_permissions(&logs, fs::Permissions::from_mode(0o600)).unwrap();
        }
        let file = format!("{name}.backup");
        world.create(&file, Some(&world.kek()));
        let held = backup::verify(&world.path(&file), None, world.folder.path()).unwrap().held;
        assert_eq!((held.jobs, held.records), (4, 0), "{name}");
        world.restore(&file, name).unwrap();
        assert_eq!(world.open(name).view().jobs().fence().unwrap().unwrap().jobs, 4, "{name}");
        fs::write(&logs, &good).unwrap();
        fs::set_permissions(&logs, fs::Permissions::from_mode(0o600)).unwrap();
    }
}

#[test]
fn a_move_that_cannot_be_written_leaves_the_node_where_it_was() {
    let world = World::new();
    fs::write(world.path("a.move"), "mine").unwrap();
    assert!(matches!(out(&world, "a.move"), Err(BackupError::ArchiveExists { .. })));
    assert!(out(&world, "no/such/folder/a.move").is_err());
    assert_eq!(fs::read(world.path("a.move")).unwrap(), b"mine");
    drop(world.open("home"));
    let held = world.open("home");
    assert!(matches!(
        out(&world, "b.move"),
        Err(BackupError::Store(StoreError::Volume(VolumeError::InUse { .. })))
    ));
    drop(held);
}

#[test]
fn a_move_is_undone_when_somebody_says_so() {
    let world = World::new();
    let nothing = backup::undo_move(&world.options("home"));
    assert!(matches!(nothing, Err(BackupError::NotRetired { .. })), "{nothing:?}");
    let manifest = out(&world, "a.move").unwrap();
    let undone = backup::undo_move(&world.options("home")).unwrap();
    assert_eq!((undone.retired.transfer, undone.left), (manifest.transfer, None));
    assert!(world.path("a.move").exists(), "it may be anywhere: that is for the operator");
    let store = Store::open(&world.options("home"), &at(NOW)).unwrap();
    let jobs = store.jobs();
    assert_eq!(jobs.view().tally().unwrap().jobs, 4);
    assert!(matches!(jobs.lease(None, None, &[].into(), NOW).wait().unwrap(), Lease::Job(_)));
}

/// Undoing depends on nothing but the volume, and of what its mark names nothing is removed that is not the archive.
#[test]
fn undoing_a_move_removes_its_unnamed_archive_and_nothing_else() {
    for named in ["a.move", "b.move", "", "/nowhere/a.move"] {
        let world = World::new();
        let manifest = out(&world, "a.move").unwrap();
        fs::rename(world.path("a.move"), world.path(".a.move.tmp")).unwrap();
        fs::write(world.path(".b.move.tmp"), "mine").unwrap();
        let raw = rusqlite::Connection::open(world.path("home/testnet/jobs.db")).unwrap();
        let path =
            if named.contains(".move") { world.path(named).display().to_string() } else { named.to_owned() };
        raw.execute("UPDATE retired SET archive = ?1", [path]).unwrap();
        drop(raw);
        let undone = backup::undo_move(&world.options("home")).unwrap();
        assert_eq!((undone.retired.transfer, undone.left), (manifest.transfer, None), "{named}");
        assert_eq!(world.path(".a.move.tmp").exists(), named != "a.move", "{named}");
        assert_eq!(fs::read(world.path(".b.move.tmp")).unwrap(), b"mine");
        world.open("home");
    }
}
