//! A store as an embedder uses it: created, opened, refused, resumed.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

mod common;
#[path = "../../node-types/tests/trust/common.rs"]
#[expect(dead_code, reason = "the trust documents' tests use more of it")]
mod trust;

use std::{collections::BTreeSet, path::Path};

use common::{MINUTE_MS, at, id, job, output, sim_disk};
use node_store::{
    disk::{RealDisk, write_new},
    jobs::{Accepted, Lease, Moved, Rejection},
    keys::{NodeKey, Protection, Source},
    logs::Query,
    snapshot::{Applied, SnapshotError},
    store::{Options, Store, StoreError},
    volume::VolumeError,
};
use node_types::{
    Digest, Network, Timestamp,
    job::{FailureKind, Job, ModelRef},
    log::{Kind, Level},
    message::{Domain, MessageKind, NodeMessage},
    verify::{Floor, Refused, Term, Validity},
};
use serde_json::{Value, json};
use sim_disk::Call;
use trust::{HOUR_MS, NOW, Signer, config, keyset, signed_config, trusted, with};

struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn options(&self) -> Options {
        Options::new(self.0.path(), Network::Testnet)
    }

    fn create(&self) -> Store {
        let store = Store::create(&self.options(), None, &at(NOW)).unwrap();
        store.snapshots().pin(trusted(&keyset(1, 1, &[&Signer::new(1)]))).unwrap();
        apply(&store, 1, "gemma-3-270m");
        store
    }

    fn open(&self) -> Store {
        Store::open(&self.options(), &at(NOW)).unwrap()
    }

    fn remove(&self, name: &str) {
        let path = self.0.path().join("testnet").join(name);
        assert!(std::process::Command::new("rm").arg(path).status().unwrap().success());
    }
}

fn apply(store: &Store, version: u64, model: &str) {
    let mut document = config(version);
    document["models"][0]["name"] = model.into();
    let envelope = signed_config(&document, &[&Signer::new(1)]);
    store.apply_envelope(&envelope, NOW).unwrap();
}

fn offered(number: u64) -> Job {
    let model = ModelRef { name: "gemma-3-270m".into(), version: "1.0.0".into() };
    Job { model, ..job(number) }
}

/// How often the disk is read from opening a store with so many jobs in its queue until the first of them is leased.
fn reads_until_the_first_lease(jobs: u64) -> u64 {
    let (sim, disk) = sim_disk();
    let options = Options { disk, reserve_bytes: 0, ..Options::new(Path::new("/node"), Network::Testnet) };
    // A file in the home makes the home on this disk.
    sim.put(&options.home.join("beside"), b"").unwrap();
    let store = Store::create(&options, None, &at(NOW)).unwrap();
    store.snapshots().pin(trusted(&keyset(1, 1, &[&Signer::new(1)]))).unwrap();
    let document = with(config(1), "/limits/queue_jobs_max", json!(jobs));
    store.apply_envelope(&signed_config(&document, &[&Signer::new(1)]), NOW).unwrap();
    let answers: Vec<_> = (1..=jobs).map(|number| store.jobs().accept(&offered(number), NOW)).collect();
    for answer in answers {
        assert_eq!(answer.wait().unwrap(), Accepted::New);
    }
    drop(store);
    let before = sim.calls(Call::Read);
    let store = Store::open(&options, &at(NOW)).unwrap();
    let leased = store.jobs().lease(None, None, &BTreeSet::new(), NOW).wait().unwrap();
    assert!(matches!(leased, Lease::Job(_)), "{leased:?}");
    sim.calls(Call::Read) - before
}

#[test]
fn a_store_with_many_jobs_is_opened_with_as_few_reads_as_one_with_few() {
    let (few, many) = (reads_until_the_first_lease(500), reads_until_the_first_lease(10_000));
    assert!(many < few + 10, "{few} reads with 500 jobs, {many} with 10,000");
}

#[test]
fn a_view_beside_a_running_agent_sees_what_was_answered_and_can_change_nothing() {
    let home = Home::new();
    let store = home.create();
    let view = Store::view_only(&home.options()).unwrap();
    for number in 1..=3 {
        assert_eq!(store.jobs().accept(&offered(number), NOW).wait().unwrap(), Accepted::New);
        assert_eq!(view.jobs().tally().unwrap().jobs, number);
    }
    assert_eq!(view.snapshots().unwrap().current().unwrap().config.document().version, 1);
    assert_eq!(view.inventory().list().unwrap(), store.view().inventory().list().unwrap());
    assert!(matches!(
        Store::open(&home.options(), &at(NOW)),
        Err(StoreError::Volume(VolumeError::InUse { .. }))
    ));
    drop(store);
    assert_eq!(view.jobs().tally().unwrap().jobs, 3, "and after the Agent has gone");
    assert_eq!(Store::view_only(&home.options()).unwrap().jobs().tally().unwrap().jobs, 3);
    let mainnet = Options::new(home.0.path(), Network::Mainnet);
    assert!(matches!(Store::view_only(&mainnet), Err(StoreError::Volume(VolumeError::Missing { .. }))));
    home.remove("logs.db");
    let without_logs = Store::view_only(&home.options()).unwrap();
    assert_eq!(without_logs.jobs().tally().unwrap().jobs, 3);
    assert!(without_logs.logs().losses().is_err());
    home.remove("jobs.db");
    assert!(matches!(
        Store::view_only(&home.options()),
        Err(StoreError::Volume(VolumeError::NoDatabase { path })) if path.ends_with("jobs.db")
    ));
}

#[test]
fn a_store_keeps_its_identity_its_snapshot_and_its_jobs_over_a_restart() {
    let home = Home::new();
    let store = home.create();
    let node = store.node();
    for number in 1..=3 {
        assert_eq!(store.jobs().accept(&offered(number), NOW).wait().unwrap(), Accepted::New);
    }
    for _ in 0..2 {
        assert!(matches!(store.jobs().lease(None, None, &[].into(), NOW).wait().unwrap(), Lease::Job(_)));
    }
    assert_eq!(store.jobs().finish(id(1), output("x"), NOW).wait().unwrap(), Moved::Done);
    drop(store);
    let store = home.open();
    assert_eq!(store.node(), node);
    assert_eq!(store.jobs().accept(&offered(1), NOW).wait().unwrap(), Accepted::Duplicate);
    assert_eq!(store.jobs().outbox(0, NOW).wait().unwrap().len(), 1);
    let Lease::Job(again) = store.jobs().lease(None, None, &[].into(), NOW).wait().unwrap() else { panic!() };
    assert_eq!((again.job.id, again.attempt), (id(2), 2));
}

#[test]
fn a_new_snapshot_fails_the_queued_jobs_that_it_forbids_and_a_restart_too() {
    let home = Home::new();
    let store = home.create();
    store.jobs().accept(&offered(1), NOW).wait().unwrap();
    apply(&store, 2, "another-model");
    let sent = store.jobs().outbox(0, NOW).wait().unwrap();
    assert!(matches!(&sent[0].as_ref().unwrap().result, Err(why) if why.kind == FailureKind::Forbidden));
    assert!(matches!(store.jobs().lease(None, None, &[].into(), NOW).wait().unwrap(), Lease::Empty));

    // A crash between applying and failing: the volume alone applies, opening the store repairs.
    apply(&store, 3, "gemma-3-270m");
    store.jobs().accept(&offered(2), NOW).wait().unwrap();
    let mut document = config(4);
    document["models"][0]["name"] = "another-model".into();
    let envelope = signed_config(&document, &[&Signer::new(1)]);
    let verified = store.snapshots().verify(&envelope, NOW).unwrap();
    store.snapshots().apply(verified, NOW).unwrap();
    drop(store);
    assert_eq!(home.open().jobs().outbox(0, NOW).wait().unwrap().len(), 2);
}

/// The floor's second copy lies in the jobs' database and is written first: a snapshot refused after that would
/// raise the floor at the next opening.
#[test]
fn a_snapshot_that_expired_before_it_was_applied_raises_neither_copy_of_the_floor() {
    let home = Home::new();
    let store = home.create();
    let envelope = signed_config(&config(7), &[&Signer::new(1)]);
    let late = store.snapshots().verify(&envelope, NOW).unwrap();
    let valid_until = late.document().valid_until;
    assert!(matches!(
        store.apply_snapshot(late, valid_until),
        Err(SnapshotError::Refused(Refused::Expired { .. }))
    ));
    assert_eq!(store.jobs().view().floor().unwrap().version, 1);
    drop(store);
    assert_eq!(home.open().snapshots().floor().version, 1);
}

/// Every row of every table, but for the log.
fn rows(home: &Home) -> Vec<String> {
    let mut rows = Vec::new();
    for database in ["state.db", "jobs.db"] {
        let path = home.0.path().join("testnet").join(database);
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
        let raw = rusqlite::Connection::open_with_flags(path, flags).unwrap();
        let mut tables =
            raw.prepare("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name").unwrap();
        let tables: Vec<String> =
            tables.query_map((), |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap();
        for table in tables {
            let mut all = raw.prepare(&format!("SELECT * FROM {table}")).unwrap();
            let columns = all.column_count();
            let text = |row: &rusqlite::Row<'_>| {
                let values: Result<Vec<rusqlite::types::Value>, _> =
                    (0..columns).map(|column| row.get(column)).collect();
                values.map(|values| format!("{table} {values:?}"))
            };
            rows.extend(all.query_map((), text).unwrap().map(Result::unwrap));
        }
    }
    rows
}

#[test]
fn a_refused_snapshot_leaves_one_log_record_that_says_why_and_nothing_else() {
    let home = Home::new();
    let store = home.create();
    apply(&store, 2, "gemma-3-270m");
    let before = rows(&home);
    assert!(before.iter().any(|row| row.starts_with("snapshots")), "{before:?}");
    let signed = |document: &Value| signed_config(document, &[&Signer::new(1)]);
    let changed = |version, pointer, value| signed(&with(config(version), pointer, value));
    let expired = with(with(config(3), "/refresh_by", json!(NOW)), "/valid_until", json!(NOW));
    let mut damaged = signed(&config(3));
    damaged.truncate(damaged.len() - 1);
    let refused = [
        ("lower version", signed(&config(1)), Level::Warn, "older than snapshot 2"),
        ("other bytes", changed(2, "/participation/subclouds", json!([])), Level::Error, "same version"),
        ("expired", signed(&expired), Level::Warn, "was valid until"),
        ("wrong network", changed(3, "/network", json!("mainnet")), Level::Warn, "mainnet"),
        ("wrong keyset", changed(3, "/keyset_version", json!(2)), Level::Warn, "keyset 2"),
        ("bad signature", signed_config(&config(3), &[&Signer::new(9)]), Level::Warn, "it takes 1"),
        ("no envelope", damaged, Level::Warn, "refused a configuration"),
    ];
    for (count, (name, envelope, level, why)) in (1..).zip(refused) {
        assert!(
            matches!(store.apply_envelope(&envelope, NOW), Err(SnapshotError::Refused(_))),
            "{name} is refused"
        );
        assert_eq!(rows(&home), before, "{name}");
        store.logs().flush().wait().unwrap();
        let told = store.logs().view().query(&Query::default()).unwrap();
        let last = &told.last().unwrap().record;
        assert_eq!((told.len(), last.level, last.kind), (count, level, Kind::Configuration), "{name}");
        assert!(last.message.contains(why), "{name}: {}", last.message);
    }
    let records = || {
        store.logs().flush().wait().unwrap();
        store.logs().view().query(&Query::default()).unwrap().len()
    };
    let late = store.snapshots().verify(&signed(&config(3)), NOW).unwrap();
    assert!(store.apply_snapshot(late.clone(), late.document().valid_until).is_err());
    assert_eq!((records(), rows(&home)), (8, before), "also when it expires between the two");

    assert_eq!(store.apply_envelope(&signed(&config(3)), NOW).unwrap(), Applied::New);
    store.snapshots().confirm(late.digest()).unwrap();
    assert_eq!(store.apply_envelope(&signed(&config(4)), NOW).unwrap(), Applied::New);
    store.roll_back_snapshot(NOW).unwrap();
    assert_eq!(records(), 8, "what is taken is not told of as refused");
    assert_eq!(store.apply_envelope(&signed(&config(4)), NOW).unwrap(), Applied::FailedBefore);
    assert_eq!(records(), 9);
}

/// Each of several documents of one version raised the floor's second copy before one of them was applied: the two
/// copies named different documents, and after the loss of one file the applied one was an equivocation.
#[test]
fn both_copies_of_the_floor_and_the_jobs_rules_are_of_the_one_snapshot_applied_of_several_at_once() {
    let store = Home::new().create();
    for version in 2..12 {
        let start = std::sync::Barrier::new(4);
        std::thread::scope(|scope| {
            for twin in 0..4 {
                let named = with(config(version), "/models/0/name", json!(format!("{version}-{twin}")));
                let envelope = signed_config(&named, &[&Signer::new(1)]);
                let (store, start) = (&store, &start);
                scope.spawn(move || {
                    start.wait();
                    // All but one are refused.
                    drop(store.apply_envelope(&envelope, NOW));
                });
            }
        });
        let current = store.snapshots().current().unwrap();
        let floor = store.snapshots().floor();
        assert_eq!(floor, Floor::at(&current.config));
        assert_eq!(store.jobs().view().floor().unwrap(), floor);
        let model = current.config.document().models[0].reference();
        let offered = Job { model, ..job(version) };
        assert_eq!(store.jobs().accept(&offered, NOW).wait().unwrap(), Accepted::New);
    }
}

/// An offer after the offline grace was answered New: only rotation knew that the snapshot was out of force.
#[test]
fn a_stale_snapshot_takes_jobs_until_its_offline_grace_ends() {
    let store = Home::new().create();
    let term = Term::of(store.snapshots().current().unwrap().config.document());
    let (valid_until, grace_until) = (term.valid_until, term.grace_until);
    assert_eq!(grace_until, NOW.plus_ms(26 * HOUR_MS), "two hours of validity and a day of grace");
    let last = Timestamp::from_ms(grace_until.ms() - 1);
    let stands = |now| store.snapshots().look(|view| view.validity(now)).unwrap();
    let offer = |number, now: Timestamp| {
        let offered = Job { expires_at: now.plus_ms(MINUTE_MS), ..offered(number) };
        store.jobs().accept(&offered, now).wait().unwrap()
    };
    assert_eq!((stands(NOW), offer(1, NOW)), (Validity::Fresh, Accepted::New));
    let stale = Validity::Stale { until: grace_until };
    assert_eq!((stands(valid_until), offer(2, valid_until)), (stale, Accepted::New));
    assert_eq!((stands(last), offer(3, last)), (stale, Accepted::New));
    let rejected = Rejection::ConfigurationExpired { until: grace_until, now: grace_until };
    assert_eq!(
        (stands(grace_until), offer(4, grace_until)),
        (Validity::OutOfForce, Accepted::Rejected(rejected))
    );
    assert_eq!(store.view().snapshots().unwrap().validity(grace_until), Some(Validity::OutOfForce));
}

#[test]
fn a_job_that_ran_when_a_snapshot_forbade_it_is_failed_and_not_queued_by_a_restart() {
    let home = Home::new();
    let store = home.create();
    store.jobs().accept(&offered(1), NOW).wait().unwrap();
    assert!(matches!(store.jobs().lease(None, None, &[].into(), NOW).wait().unwrap(), Lease::Job(_)));
    apply(&store, 2, "another-model");
    assert!(store.jobs().outbox(0, NOW).wait().unwrap().is_empty(), "what runs already may end");
    drop(store);
    let store = home.open();
    assert!(matches!(store.jobs().lease(None, None, &[].into(), NOW).wait().unwrap(), Lease::Empty));
    let sent = store.jobs().outbox(0, NOW).wait().unwrap();
    assert!(matches!(&sent[0].as_ref().unwrap().result, Err(why) if why.kind == FailureKind::Forbidden));
}

#[test]
fn a_missing_key_beside_databases_is_an_error_and_no_new_identity() {
    for key in ["keys/node.key", "keys/volume.key"] {
        let home = Home::new();
        drop(home.create());
        home.remove(key);
        for result in [Store::open(&home.options(), &at(NOW)), Store::create(&home.options(), None, &at(NOW))]
        {
            let error = result.unwrap_err();
            assert!(matches!(error, StoreError::MissingKey { .. }), "{key}: {error}");
            let text = error.to_string();
            assert!(text.contains(key) && text.contains("state.db"), "{text}");
        }
    }
}

/// Creating goes key by key and file by file; a crash after any of them is mended by creating again.
#[test]
fn an_interrupted_creation_is_finished_with_the_same_key() {
    let home = Home::new();
    let node = Store::create(&home.options(), None, &at(NOW)).unwrap().node();
    for name in ["state.db", "jobs.db", "logs.db", "keys/volume.key"] {
        home.remove(name);
    }
    assert_eq!(Store::create(&home.options(), None, &at(NOW)).unwrap().node(), node);
    let again = Store::create(&home.options(), None, &at(NOW)).unwrap_err();
    assert!(matches!(again, StoreError::Volume(VolumeError::Exists { .. })), "{again}");
    let other = Store::create(&home.options(), Some(NodeKey::generate().unwrap()), &at(NOW)).unwrap_err();
    assert!(matches!(other, StoreError::OtherKey { .. }), "{other}");
}

#[test]
fn of_several_that_create_one_volume_at_once_one_does_and_the_others_are_told_so() {
    let home = Home::new();
    let answers: Vec<_> = std::thread::scope(|scope| {
        let creators: Vec<_> =
            (0..8).map(|_| scope.spawn(|| Store::create(&home.options(), None, &at(NOW)))).collect();
        creators.into_iter().map(|creator| creator.join().unwrap()).collect()
    });

    let mut made = Vec::new();
    for answer in answers {
        match answer {
            Ok(store) => made.push(store.node()),
            Err(StoreError::Volume(VolumeError::InUse { .. } | VolumeError::Exists { .. })) => {}
            Err(other) => panic!("{other:?}"),
        }
    }
    assert_eq!(made, [home.open().node()]);
}

#[test]
fn keys_are_sealed_anew_while_no_agent_runs_and_open_the_same_store() {
    let home = Home::new();
    let store = home.create();
    let node = store.node();
    let secret = home.0.path().join("secret");
    write_new(&RealDisk, &secret, &[3; 32]).unwrap();
    let mut options = home.options();
    options.kek.secret_file = Some(secret);
    let to = options.kek.load(&*options.disk, Source::ContainerSecret).unwrap();

    let refused = Store::reseal_keys(&options, &to);
    let Err(StoreError::Volume(VolumeError::InUse { .. })) = refused else { panic!("{refused:?}") };

    drop(store);
    assert_eq!(Store::reseal_keys(&options, &to).unwrap(), 2);
    let store = Store::open(&options, &at(NOW)).unwrap();
    assert_eq!((store.node(), store.protection()), (node, Protection::ContainerSecret));
}

#[test]
fn the_two_networks_share_nothing_and_a_testnet_volume_does_not_open_as_mainnet() {
    let home = Home::new();
    let testnet = home.create();
    let options = Options::new(home.0.path(), Network::Mainnet);
    assert!(matches!(
        Store::open(&options, &at(NOW)).unwrap_err(),
        StoreError::Volume(VolumeError::Missing { .. })
    ));
    let mainnet = Store::create(&options, None, &at(NOW)).unwrap();
    assert_ne!(testnet.node(), mainnet.node());
    drop((testnet, mainnet));

    let moved = Home::new();
    home.create_copy_as(&moved, "mainnet");
    let error = Store::open(&Options::new(moved.0.path(), Network::Mainnet), &at(NOW)).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("testnet") && text.contains("mainnet"), "{text}");
}

impl Home {
    fn create_copy_as(&self, other: &Self, network: &str) {
        let (from, to) = (self.0.path().join("testnet"), other.0.path().join(network));
        assert!(std::process::Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
    }
}

#[test]
fn the_signer_signs_messages_that_anyone_can_check() {
    let store = Home::new().create();
    let domain = Domain { network: Network::Testnet, chain_id: trust::CHAIN_ID };
    let message = NodeMessage {
        kind: MessageKind::Heartbeat,
        node: store.node(),
        boot_id: node_types::BootId::from_bytes([3; 16]),
        seq: store.binding().reserve_sequence(1).wait().unwrap().start,
        issued_at_ms: NOW,
        ttl_ms: 1000,
        config_digest: Digest::of(b"config"),
        payload_hash: Digest::of(b"payload"),
    };
    let signature = store.signer().sign(&message, &domain).unwrap();
    assert_eq!(message.recover(&domain, &signature).unwrap(), store.signer().address());
}

#[test]
fn a_keyset_that_the_one_in_force_did_not_sign_leaves_a_log_record_and_nothing_else() {
    let home = Home::new();
    let store = home.create();
    let version = || store.snapshots().keyset().unwrap().document().version;
    let refusals = || {
        store.logs().flush().wait().unwrap();
        let mut found = store.view().logs().query(&Query::default()).unwrap();
        found.retain(|entry| entry.record.message.starts_with("refused a keyset: "));
        found.len()
    };
    let (first, second) = (Signer::new(1), Signer::new(2));
    let usurped = trust::signed_keyset(&keyset(2, 1, &[&second]), &[&second]);
    store.rotate_keyset(&usurped, NOW).unwrap_err();
    assert_eq!((version(), refusals()), (1, 1));
    let next = trust::signed_keyset(&keyset(2, 1, &[&second]), &[&first, &second]);
    store.rotate_keyset(&next, NOW).unwrap();
    assert_eq!((version(), refusals()), (2, 1));
}

#[test]
fn the_lock_says_who_has_the_volume_and_where_its_page_is() {
    let home = Home::new();
    let options = home.options();
    let lock = home.0.path().join("testnet/LOCK");
    let pid = std::process::id().to_string();
    let seen = || Store::held_by(&options).unwrap().map(|held| (held.pid, held.page));
    let store = home.create();
    assert_eq!(seen(), Some((pid.clone(), None)), "one line, as it was before there were pages");
    store.announce(Some("http://127.0.0.1:7413")).unwrap();
    assert_eq!(seen(), Some((pid.clone(), Some("http://127.0.0.1:7413".to_owned()))));
    assert_eq!(Store::holder(&options).unwrap(), Some(pid.clone()), "the pid alone");
    let in_use = Store::open(&options, &at(NOW)).unwrap_err();
    assert!(in_use.to_string().contains(&format!("process {pid}:")), "{in_use}");
    store.announce(None).unwrap();
    assert_eq!(seen(), Some((pid, None)));
    store.announce(Some("http://127.0.0.1:7413")).unwrap();
    drop(store);
    assert_eq!(seen(), None);
    assert_eq!(std::fs::read_to_string(lock).unwrap(), "\n", "the end was in good order");
}
