//! Damage to any file at any place: the node starts, keeps its identity, and says what was lost.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on must fail")]
#![expect(clippy::disallowed_methods, reason = "damages files behind the store's back")]

mod common;
#[path = "fixtures/contents.rs"]
#[expect(dead_code, reason = "the fixtures' test looks for what it put in")]
mod contents;
#[path = "../../node-types/tests/trust/common.rs"]
#[expect(dead_code, reason = "the trust documents' tests use more of it")]
mod trust;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use common::{at, id, job_saying, output};
use node_store::{
    binding::{Account, AccountLink},
    disk::Disk,
    format::Database,
    jobs::{Accepted, Lease, Moved},
    salvage::{DAMAGED_MAX, Incident},
    store::{Options, Store, StoreError},
    volume::{CHECK_AT_ONCE_BYTES, VolumeError},
    writer::WriteError,
};
use node_types::{
    Digest, Network,
    job::{Job, ModelRef},
    log::{Kind, Level, Record},
    models::ModelState,
};
use rusqlite::Connection;
use sim_disk::{Call, Fault, Lasts, Loss, SimDisk};
use trust::{NOW, Signer, config, keyset, signed_config, trusted};

const PAGE: usize = 4096;

struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn options(&self) -> Options {
        Options { reserve_bytes: 1 << 20, ..Options::new(self.0.path(), Network::Testnet) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join("testnet").join(name)
    }

    fn open(&self) -> Store {
        Store::open(&self.options(), &at(NOW)).unwrap()
    }

    /// As a power cut or a kill leaves it: the next opening checks.
    fn ended_badly(&self) {
        fs::write(self.path("LOCK"), "1").unwrap();
    }

    /// The names of damaged databases that were moved aside, without their logs.
    fn aside(&self, database: &str) -> Vec<String> {
        let prefix = format!("{database}.damaged-");
        let names = fs::read_dir(self.path("")).unwrap().map(|entry| entry.unwrap().file_name());
        let names = names.map(|name| name.to_string_lossy().into_owned());
        names.filter(|name| name.starts_with(&prefix) && !name.ends_with("-wal")).collect()
    }
}

fn offered(number: u64) -> Job {
    let model = ModelRef { name: "gemma-3-270m".into(), version: "1.0.0".into() };
    Job { model, ..job_saying(number, &"why? ".repeat(160)) }
}

/// Twenty models, each with a file.
fn set_models(store: &Store, reason: &str) {
    let tickets: Vec<_> = (0..20)
        .map(|number| {
            let model = ModelRef { name: "gemma-3-270m".into(), version: format!("1.0.{number}") };
            let files = vec![("model.gguf".to_owned(), Digest::of(b"weights"), 1 << 30)];
            store.models().set_state(&model, files, ModelState::Inactive, Some(reason.into()), NOW)
        })
        .collect();
    tickets.into_iter().for_each(|ticket| ticket.wait().unwrap());
}

fn fill(store: &Store, jobs: u64) {
    store.snapshots().pin(trusted(&keyset(1, 1, &[&Signer::new(1)]))).unwrap();
    for version in [1, 2] {
        let mut document = config(version);
        document["limits"]["queue_jobs_max"] = 100_000.into();
        document["limits"]["queue_bytes_max"] = (1_u64 << 30).into();
        let envelope = signed_config(&document, &[&Signer::new(1)]);
        let digest = store.snapshots().verify(&envelope, NOW).unwrap();
        store.apply_snapshot(digest.clone(), NOW).unwrap();
        store.snapshots().confirm(digest.digest()).unwrap();
    }
    let email = Account::Email("owner@example.org".into());
    store.binding().link(AccountLink::new(email, NOW, "receipt".into()).unwrap()).wait().unwrap();
    assert_eq!(store.binding().reserve_sequence(1000).wait().unwrap(), 1..1001);
    let tickets: Vec<_> = (1..=jobs).map(|number| store.jobs().accept(&offered(number), NOW)).collect();
    for ticket in tickets {
        assert_eq!(ticket.wait().unwrap(), Accepted::New);
    }
    for _ in 0..2 {
        assert!(matches!(store.jobs().lease(None, None, &[].into(), NOW).wait().unwrap(), Lease::Job(_)));
    }
    for number in [1, 2] {
        assert_eq!(store.jobs().finish(id(number), output("blue"), NOW).wait().unwrap(), Moved::Done);
    }
    assert_eq!(store.jobs().acknowledge(id(1), NOW).wait().unwrap(), Moved::Done);
    set_models(store, "installed");
    for number in 0..200 {
        store.logs().append(Record::new(NOW, Level::Info, Kind::Agent, format!("record {number}")));
    }
    store.logs().flush().wait().unwrap();
    store.logs().seal().wait().unwrap();
}

/// Sixty jobs, one of them finished, one acknowledged; closed in good order.
fn filled() -> (Home, node_types::NodeId) {
    let home = Home::new();
    let store = Store::create(&home.options(), None, &at(NOW)).unwrap();
    fill(&store, 60);
    (home, store.node())
}

/// Whatever was damaged: what the node can still do, and never does.
fn still_works(home: &Home, node: node_types::NodeId, damaged: Database) -> Vec<Incident> {
    let store = home.open();
    assert_eq!(store.node(), node, "the identity stands");
    assert!(store.snapshots().floor().version >= 2, "the floor never falls");
    let next = store.binding().reserve_sequence(1).wait().unwrap();
    assert!(next.start >= 1001, "number {next:?} was given before");
    if damaged != Database::State {
        assert!(store.view().incidents().unwrap().iter().all(|incident| incident.database == damaged));
        assert!(store.view().binding().account().unwrap().is_some());
        assert_eq!(store.snapshots().current().unwrap().config.document().version, 2);
    }
    if damaged != Database::Jobs {
        assert_eq!(store.view().jobs().tally().unwrap().jobs, 59);
        assert_eq!(store.jobs().accept(&offered(1), NOW).wait().unwrap(), Accepted::Duplicate);
    }
    // The snapshot may have to come again; then the node works as before.
    if store.snapshots().keyset().is_none() {
        store.snapshots().pin(trusted(&keyset(1, 1, &[&Signer::new(1)]))).unwrap();
    }
    let envelope = signed_config(&config(1), &[&Signer::new(1)]);
    assert!(store.snapshots().verify(&envelope, NOW).is_err(), "an older one is still refused");
    let envelope = signed_config(&config(3), &[&Signer::new(1)]);
    store.apply_snapshot(store.snapshots().verify(&envelope, NOW).unwrap(), NOW).unwrap();
    assert_eq!(store.jobs().accept(&offered(1000), NOW).wait().unwrap(), Accepted::New);
    let mut leased = 0;
    loop {
        match store.jobs().lease(None, None, &[].into(), NOW).wait().unwrap() {
            Lease::Job(job) => {
                assert_ne!(job.job.id, id(2), "a result is never computed again");
                assert_eq!(job.job.request, offered(1).request);
                leased += 1;
            }
            Lease::Unreadable(_) => leased += 1,
            Lease::Empty | Lease::Full => break,
        }
    }
    let models = store.view().models();
    assert!(models.models().unwrap().len() == 20 || damaged == Database::State);
    assert!(models.models().unwrap().iter().all(|row| row.reason.as_deref() == Some("installed")));
    set_models(&store, "again");
    assert!(models.models().unwrap().iter().all(|row| row.reason.as_deref() == Some("again")));
    assert_eq!(models.models().unwrap().len(), 20);
    let tally = store.view().jobs().tally().unwrap();
    assert!(tally.jobs == leased || tally.jobs == leased + 1, "{tally:?}, leased {leased}");
    store.logs().append(Record::new(NOW, Level::Info, Kind::Agent, "after"));
    store.logs().flush().wait().unwrap();
    let incidents = store.view().incidents().unwrap();
    for incident in &incidents {
        store.volume().incidents_reported(incident.database, incident.seq).wait().unwrap();
    }
    assert!(store.view().incidents().unwrap().is_empty());
    drop(store);
    let store = home.open();
    assert!(store.view().incidents().unwrap().is_empty(), "told once");
    incidents
}

fn copy_of(original: &Home) -> Home {
    let home = Home::new();
    let folder = format!("{}/.", original.0.path().display());
    let done = std::process::Command::new("cp").args(["-a", &folder]).arg(home.0.path()).status();
    assert!(done.unwrap().success());
    home
}

fn database(name: &str) -> Database {
    Database::ALL.into_iter().find(|database| database.file() == name).unwrap()
}

/// Bytes as a broken disk gives them; the same every time.
fn noise(seed: usize) -> [u8; PAGE] {
    let mut state = seed as u64 + 1;
    std::array::from_fn(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    })
}

/// Damages each page in turn, in one of several ways, and sees what becomes of the volume.
fn every_page(name: &str, spoil: impl Fn(&mut [u8], usize)) -> Vec<Incident> {
    let (original, node) = filled();
    let pages = fs::read(original.path(name)).unwrap().len() / PAGE;
    assert!(pages > 10);
    let mut all = Vec::new();
    for page in 0..pages {
        let home = copy_of(&original);
        let mut bytes = fs::read(home.path(name)).unwrap();
        spoil(&mut bytes[page * PAGE..(page + 1) * PAGE], page);
        fs::write(home.path(name), bytes).unwrap();
        home.ended_badly();
        let incidents = still_works(&home, node, database(name));
        assert!(incidents.len() <= 1, "{incidents:?}");
        for incident in &incidents {
            assert_eq!(incident.at, NOW);
            // It holds wrapped keys, and the incident was reported.
            let kept = if name == "jobs.db" { None } else { incident.moved_to.clone() };
            assert_eq!(home.aside(name), Vec::from_iter(kept));
        }
        all.extend(incidents);
    }
    all
}

fn noisy(bytes: &mut [u8], page: usize) {
    bytes.copy_from_slice(&noise(page));
}

#[test]
fn a_page_of_jobs_turned_to_noise_costs_no_more_than_is_counted() {
    let incidents = every_page("jobs.db", noisy);
    assert!(incidents.len() > 20, "{}", incidents.len());
    for incident in &incidents {
        // Whatever cannot be counted is said to be unknown.
        assert!(incident.lost.is_none_or(|lost| incident.saved + lost >= 59), "{incident:?}");
    }
    let whole = incidents.iter().filter(|incident| incident.saved == 59).count();
    assert!(whole > incidents.len() / 2, "most pages hold no job: {whole} of {}", incidents.len());
    let most = incidents.iter().filter(|incident| incident.saved >= 45).count();
    assert!(most > incidents.len() * 9 / 10, "one page holds a few: {most} of {}", incidents.len());
}

#[test]
fn a_page_of_jobs_that_reads_as_zeros_costs_no_more_than_is_counted() {
    for incident in every_page("jobs.db", |bytes, _| bytes.fill(0)) {
        assert!(incident.lost.is_none_or(|lost| incident.saved + lost >= 59), "{incident:?}");
    }
}

#[test]
fn damage_to_any_page_of_the_state_leaves_identity_floor_numbers_and_jobs() {
    assert!(!every_page("state.db", noisy).is_empty());
}

#[test]
fn damage_to_any_page_of_the_logs_stops_no_job() {
    assert!(!every_page("logs.db", noisy).is_empty());
}

#[test]
fn a_file_cut_short_anywhere_or_gone_is_a_loss_that_is_told() {
    let (original, node) = filled();
    for name in ["jobs.db", "state.db", "logs.db"] {
        let bytes = fs::read(original.path(name)).unwrap();
        for length in [0, 1, 100, 4095, 4096, 5000, 8192, bytes.len() / 2, bytes.len() - PAGE] {
            let home = copy_of(&original);
            fs::write(home.path(name), &bytes[..length]).unwrap();
            home.ended_badly();
            let incidents = still_works(&home, node, database(name));
            assert_eq!(incidents.len(), 1, "{name} of {length} bytes");
            assert_eq!(incidents[0].moved_to.is_some(), length > 0);
        }
        let home = copy_of(&original);
        fs::remove_file(home.path(name)).unwrap();
        let incidents = still_works(&home, node, database(name));
        assert_eq!(incidents[0].cause, "the file was missing");
        assert_eq!((incidents[0].moved_to.as_ref(), incidents[0].lost), (None, None));
    }
}

/// A file system that was cut off empties all that was open. That looked like a volume that was never finished once, and nobody
/// was told.
#[test]
fn databases_that_are_emptied_together_are_a_loss_that_is_told() {
    let (original, node) = filled();
    let both = ["state.db", "jobs.db"];
    for (emptied, gone) in [
        (&both[..], None),
        (&["state.db", "jobs.db", "logs.db"][..], None),
        (&["state.db", "logs.db"][..], None),
        (&["jobs.db"][..], Some("state.db")),
    ] {
        let home = copy_of(&original);
        for name in emptied {
            fs::write(home.path(name), "").unwrap();
        }
        if let Some(name) = gone {
            fs::remove_file(home.path(name)).unwrap();
        }
        let store = home.open();
        assert_eq!(store.node(), node, "the identity stands");
        let incidents = store.view().incidents().unwrap();
        for name in emptied.iter().copied().chain(gone) {
            let of: Vec<_> = incidents.iter().filter(|it| it.database == database(name)).collect();
            assert_eq!(of.len(), 1, "{name} of {emptied:?} and {gone:?}: {incidents:?}");
        }
    }
}

/// Turns pages that hold prompts to noise: opening the volume does not meet them.
fn spoil_prompts(home: &Home, pages: usize) {
    let mut bytes = fs::read(home.path("jobs.db")).unwrap();
    let holds_prompts = |page: &&mut [u8]| page[0] == 13 && !page.windows(5).any(|text| text == b"gemma");
    let prompts = bytes.chunks_mut(PAGE).filter(holds_prompts).skip(8).take(pages);
    let spoiled = prompts.enumerate().map(|(number, page)| page.copy_from_slice(&noise(number))).count();
    assert_eq!(spoiled, pages);
    fs::write(home.path("jobs.db"), bytes).unwrap();
}

#[test]
fn damage_found_while_the_node_works_stops_that_writer_and_the_next_opening_saves() {
    let (home, node) = filled();
    spoil_prompts(&home, 8);
    // Ended in good order: nothing is checked at this opening.
    let store = home.open();
    let stopped = (0..60).find_map(|_| store.jobs().lease(None, None, &[].into(), NOW).wait().err());
    assert!(matches!(stopped, Some(WriteError::Unknown { .. })), "{stopped:?}");
    let later = store.jobs().lease(None, None, &[].into(), NOW).wait();
    assert!(matches!(later, Err(WriteError::Closed { .. })));
    assert!(store.volume().stopped(Database::Jobs).is_some());
    store.logs().append(Record::new(NOW, Level::Info, Kind::Agent, "goes on"));
    store.logs().flush().wait().unwrap();
    drop(store);
    assert!(home.path("jobs.db.suspect").exists());
    let incidents = still_works(&home, node, Database::Jobs);
    assert_eq!((incidents.len(), incidents[0].saved), (1, 59));
    assert!(!home.path("jobs.db.suspect").exists());
}

/// More than is checked at once.
#[test]
fn a_large_database_is_checked_in_the_background_and_saved_at_the_next_opening() {
    let home = Home::new();
    let store = Store::create(&home.options(), None, &at(NOW)).unwrap();
    fill(&store, 2500);
    drop(store);
    assert!(fs::metadata(home.path("jobs.db")).unwrap().len() > CHECK_AT_ONCE_BYTES);
    spoil_prompts(&home, 20);
    home.ended_badly();
    let store = home.open();
    let found = (0..2000).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        store.volume().stopped(Database::Jobs).is_some()
    });
    assert!(found, "the check found nothing");
    assert!(store.view().incidents().unwrap().is_empty(), "nothing is moved while it works");
    drop(store);
    let incidents = home.open().view().incidents().unwrap();
    assert_eq!((incidents.len(), incidents[0].saved, incidents[0].lost), (1, 2499, Some(0)));
    assert!(incidents[0].cause.contains("payloads"), "{incidents:?}");
    assert_eq!(home.open().view().incidents().unwrap(), incidents, "told until it is reported");
}

/// Opening meets the damage in a file that is too large to be checked at once: it is checked then.
#[test]
fn damage_that_opening_meets_is_saved_in_the_same_opening() {
    let home = Home::new();
    let store = Store::create(&home.options(), None, &at(NOW)).unwrap();
    fill(&store, 2500);
    drop(store);
    let mut bytes = fs::read(home.path("jobs.db")).unwrap();
    let is_index = |page: &&mut [u8]| page[0] == 10;
    bytes.chunks_mut(PAGE).filter(is_index).for_each(|page| page.copy_from_slice(&noise(1)));
    fs::write(home.path("jobs.db"), bytes).unwrap();
    let incidents = home.open().view().incidents().unwrap();
    assert_eq!((incidents.len(), incidents[0].saved, incidents[0].lost), (1, 2499, Some(0)));
}

#[test]
fn after_an_end_in_good_order_nothing_is_checked_and_after_any_other_it_is() {
    let (home, _) = filled();
    assert_eq!(fs::read(home.path("LOCK")).unwrap(), b"\n");
    let store = home.open();
    assert_eq!(fs::read_to_string(home.path("LOCK")).unwrap(), std::process::id().to_string());
    drop(store);
    assert_eq!(fs::read(home.path("LOCK")).unwrap(), b"\n");
}

#[test]
fn a_strangers_file_is_refused_even_beside_a_damaged_one_and_nothing_is_moved() {
    let (home, _) = filled();
    let (stranger, _) = filled();
    fs::copy(stranger.path("logs.db"), home.path("logs.db")).unwrap();
    fs::write(home.path("jobs.db"), noise(1)).unwrap();
    home.ended_badly();
    let refused = Store::open(&home.options(), &at(NOW));
    assert!(matches!(refused, Err(StoreError::Volume(_))), "{refused:?}");
    assert_eq!(home.aside("jobs.db"), Vec::<String>::new());
    assert_eq!(fs::read(home.path("jobs.db")).unwrap(), noise(1));
}

#[test]
fn damaged_files_do_not_pile_up() {
    let (home, _) = filled();
    for day in 0..2 * DAMAGED_MAX as u64 {
        fs::write(home.path("logs.db"), noise(1)).unwrap();
        home.ended_badly();
        let store = Store::open(&home.options(), &at(NOW.plus_ms(day * 86_400_000))).unwrap();
        assert_eq!(
            store.view().incidents().unwrap().len(),
            1,
            "those before were in the file that is damaged"
        );
    }
    let mut aside = home.aside("logs.db");
    aside.sort();
    assert_eq!(aside.len(), DAMAGED_MAX);
    assert!(aside[0].contains(&NOW.plus_ms(DAMAGED_MAX as u64 * 86_400_000).to_string()[..10]), "{aside:?}");
}

/// The log of a damaged file must not be replayed into the saved one, and a crash while saving loses nothing
/// that was saved: the power goes after every single step of it.
#[test]
fn a_power_cut_while_saving_ends_with_the_same_jobs() {
    let (original, node) = filled();
    let disk = SimDisk::new();
    for entry in ["state.db", "jobs.db", "logs.db", "keys/node.key", "keys/volume.key", "keys/local.kek"] {
        let from = original.path(entry);
        disk.put(&Path::new("/volumes/testnet").join(entry), &fs::read(from).unwrap()).unwrap();
    }
    let mut spoiled = fs::read(original.path("jobs.db")).unwrap();
    let middle = spoiled.len() / PAGE / 2 * PAGE;
    spoiled[middle..middle + PAGE].copy_from_slice(&noise(3));
    disk.put(Path::new("/volumes/testnet/jobs.db"), &spoiled).unwrap();
    disk.put(Path::new("/volumes/testnet/LOCK"), b"1").unwrap();
    let options = |disk: &SimDisk| {
        let disk: Arc<dyn Disk> = Arc::new(disk.clone());
        Options { disk, reserve_bytes: 0, ..Options::new(Path::new("/volumes"), Network::Testnet) }
    };
    let start = disk.ops();
    let jobs_of = |store: &Store| {
        let tally = store.view().jobs().tally().unwrap();
        (1..=60).filter(|number| store.view().jobs().explain(id(*number)).unwrap().is_some()).count() as u64
            + tally.jobs
    };
    let store = Store::open(&options(&disk), &at(NOW)).unwrap();
    let (saved, incident) = (jobs_of(&store), store.view().incidents().unwrap().remove(0));
    let end = disk.ops();
    drop(store);
    let mut recording = disk.recording();
    for point in start..end {
        let subsets = (0..4).map(|seed| Loss::Subset { seed });
        for loss in [Loss::Nothing, Loss::Unsynced].into_iter().chain(subsets) {
            let disk = SimDisk::from_image(recording.image(point, &loss));
            let store = Store::open(&options(&disk), &at(NOW.plus_ms(1))).unwrap();
            assert_eq!((store.node(), jobs_of(&store)), (node, saved), "at {point} with {loss:?}");
            let again = store.view().incidents().unwrap();
            assert_eq!((again.len(), again[0].saved), (1, incident.saved), "at {point} with {loss:?}");
        }
    }
}

/// Each column of each table of a database but the stamp: its table, its name, its type.
fn columns(raw: &Connection) -> Vec<(String, String, String)> {
    raw.prepare(
        "SELECT t.name, c.name, c.type FROM pragma_table_list AS t, pragma_table_info(t.name) AS c
         WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite_%' AND t.name <> 'stamp'",
    )
    .unwrap()
    .query_map((), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
    .unwrap()
    .collect::<Result<_, _>>()
    .unwrap()
}

/// Text and bytes that mean nothing to the store itself, or that signatures or ciphers judge.
const ANYTHING: [(&str, &str); 5] = [
    ("keysets", "document"),
    ("snapshots", "envelope"),
    ("jobs", "wrapped_key"),
    ("payloads", "ciphertext"),
    ("batches", "payload"),
];

/// One flipped bit within the value `clock.mark` once stopped a node for ever: no page was damaged, so the check
/// found nothing, and every opening failed the same way.
#[test]
fn a_wrong_value_in_any_column_stops_no_node() {
    let original = Home::new();
    contents::fill(&contents::options(original.0.path()));
    let node = Store::open(&contents::options(original.0.path()), &at(NOW)).unwrap().node();
    for database in Database::ALL {
        let raw = Connection::open(original.path(database.file())).unwrap();
        let seen = "INSERT INTO incidents (at, cause, saved, reported) VALUES (1, 'seen', 0, 1)";
        raw.execute(seen, ()).unwrap();
        if database == Database::Jobs {
            raw.execute("INSERT INTO fence (backed_up_at, restored_at) VALUES (1, 1)", ()).unwrap();
        }
        let mut listed = columns(&raw);
        // With a row there no volume opens, whatever is in it: `backup.rs`.
        listed.retain(|(table, ..)| table != "retired");
        drop(raw);
        assert!(listed.len() > 20, "{listed:?}");
        for (table, column, kind) in listed {
            for in_order in [true, false] {
                let home = copy_of(&original);
                let raw = Connection::open(home.path(database.file())).unwrap();
                raw.pragma_update(None, "ignore_check_constraints", true).unwrap();
                let value = match kind.as_str() {
                    "INTEGER" => "-1",
                    "TEXT" => "CAST(x'7b226f6f77ff' AS TEXT)",
                    _ => "x'00'",
                };
                let key: String = raw
                    .query_row(
                        "SELECT group_concat(name) FROM pragma_table_info(?1) WHERE pk",
                        [&table],
                        |row| row.get(0),
                    )
                    .unwrap();
                let sql = format!(
                    "UPDATE {table} SET {column} = {value} WHERE ({key}) = (SELECT {key} FROM {table} LIMIT 1)"
                );
                assert_eq!(raw.execute(&sql, ()).unwrap(), 1, "{sql}");
                drop(raw);
                if !in_order {
                    home.ended_badly();
                }
                let options = contents::options(home.0.path());
                let store =
                    Store::open(&options, &at(NOW)).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
                assert_eq!(store.node(), node, "{sql}");
                assert_eq!(store.snapshots().floor().version, 2, "{sql}");
                let number = store.binding().reserve_sequence(1).wait().unwrap();
                assert!(number.start >= 11, "{sql}: {number:?}");
                let incidents = store.view().incidents().unwrap();
                if !in_order && !ANYTHING.contains(&(&table, &column)) {
                    assert_eq!(incidents.len(), 1, "{sql}");
                    assert_eq!(home.aside(database.file()).len(), 1, "{sql}");
                }
                drop(store);
                let store = Store::open(&options, &at(NOW)).unwrap();
                assert_eq!(store.view().incidents().unwrap(), incidents, "{sql}: told once, and kept");
            }
        }
    }
}

#[test]
fn a_wrong_mark_of_the_clock_costs_the_mark_alone() {
    let (home, node) = filled();
    let raw = Connection::open(home.path("state.db")).unwrap();
    assert_eq!(raw.execute("UPDATE clock SET mark = replace(mark, '\"now\"', '\"oow\"')", ()).unwrap(), 1);
    drop(raw);
    let incidents = still_works(&home, node, Database::State);
    assert_eq!((incidents.len(), incidents[0].lost), (1, Some(1)));
    assert!(incidents[0].cause.contains("nonsense"), "{incidents:?}");
    assert!(home.open().view().binding().account().unwrap().is_some());
}

#[test]
fn what_has_ended_is_never_run_again_whatever_its_row_says() {
    for set in
        ["digest = x'00'", "outcome = 'oops'", "standing = 'oops'", "forget_at = -1", "settled_at = -1"]
    {
        let (home, node) = filled();
        let raw = Connection::open(home.path("jobs.db")).unwrap();
        assert_eq!(raw.execute(&format!("UPDATE settled SET {set}"), ()).unwrap(), 1);
        drop(raw);
        home.ended_badly();
        let store = home.open();
        assert_eq!(store.node(), node);
        let again = store.jobs().accept(&offered(1), NOW).wait().unwrap();
        assert!(matches!(again, Accepted::Duplicate | Accepted::Conflict), "{set}: {again:?}");
    }
}

const ON_SIM: &str = "/volumes/testnet";

fn on_sim(disk: &SimDisk) -> Options {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    Options { disk, reserve_bytes: 128 << 10, ..Options::new(Path::new("/volumes"), Network::Testnet) }
}

/// A volume on a simulated disk, with one database damaged and the end not in good order.
fn damaged_on_sim(name: &str) -> (SimDisk, Options, node_types::NodeId) {
    let home = Home::new();
    let store = Store::create(&home.options(), None, &at(NOW)).unwrap();
    fill(&store, 600);
    for number in 0..3000 {
        store.logs().append(Record::new(NOW, Level::Info, Kind::Agent, format!("another record {number}")));
    }
    store.logs().flush().wait().unwrap();
    let node = store.node();
    drop(store);
    let disk = SimDisk::new();
    for entry in ["state.db", "jobs.db", "logs.db", "keys/node.key", "keys/volume.key", "keys/local.kek"] {
        let mut bytes = fs::read(home.path(entry)).unwrap();
        if entry == name {
            let middle = bytes.len() / PAGE / 2 * PAGE;
            bytes[middle..middle + PAGE].copy_from_slice(&noise(3));
        }
        disk.put(&Path::new(ON_SIM).join(entry), &bytes).unwrap();
    }
    disk.put(&Path::new(ON_SIM).join("LOCK"), b"1").unwrap();
    let options = on_sim(&disk);
    (disk, options, node)
}

#[test]
fn damaged_logs_on_a_full_disk_stop_no_job() {
    let (disk, options, node) = damaged_on_sim("logs.db");
    let before = disk.contents(&Path::new(ON_SIM).join("logs.db")).unwrap();
    disk.set_capacity(disk.used_bytes() + (300 << 10));
    let store = Store::open(&options, &at(NOW)).unwrap();
    assert_eq!(store.node(), node);
    let incident = store.view().incidents().unwrap().remove(0);
    assert_eq!((incident.database, incident.saved, incident.lost), (Database::Logs, 0, None));
    assert!(incident.cause.contains("nothing could be saved"), "{incident:?}");
    let aside = Path::new(ON_SIM).join(incident.moved_to.unwrap());
    assert!(disk.contents(&aside).unwrap() == before, "nothing is thrown away");
    assert!(matches!(store.jobs().lease(None, None, &[].into(), NOW).wait().unwrap(), Lease::Job(_)));
    store.logs().append(Record::new(NOW, Level::Info, Kind::Agent, "goes on"));
    store.logs().flush().wait().unwrap();
}

#[test]
fn damaged_jobs_on_a_full_disk_are_left_as_they_are_until_there_is_room() {
    let (disk, options, _) = damaged_on_sim("jobs.db");
    let folder = Path::new(ON_SIM);
    let reserve = folder.join("RESERVE.jobs.db");
    disk.put(&reserve, &[0; 64 << 10]).unwrap();
    let before = disk.contents(&folder.join("jobs.db")).unwrap();
    disk.set_capacity(disk.used_bytes() + (300 << 10));
    for _ in 0..2 {
        let error = Store::open(&options, &at(NOW)).unwrap_err();
        assert!(matches!(error, StoreError::Volume(VolumeError::NoRoom { .. })), "{error:?}");
        assert!(error.to_string().contains("jobs.db") && error.to_string().contains("free"), "{error}");
        assert!(disk.contents(&folder.join("jobs.db")).unwrap() == before);
        assert!(disk.contents(&reserve).is_some());
        let names = options.disk.list(folder).unwrap();
        assert!(names.iter().all(|name| !name.to_string_lossy().contains("rescue")), "{names:?}");
        assert!(names.iter().all(|name| !name.to_string_lossy().contains("damaged")), "{names:?}");
    }
    let StoreError::Volume(VolumeError::NoRoom { bytes, .. }) = Store::open(&options, &at(NOW)).unwrap_err()
    else {
        unreachable!()
    };
    disk.set_capacity(disk.used_bytes() + bytes);
    let incidents = Store::open(&options, &at(NOW)).unwrap().view().incidents().unwrap();
    assert_eq!(incidents.len(), 1);
    assert!(incidents[0].saved > 500, "{incidents:?}");
}

#[test]
fn a_bad_sector_under_the_logs_stops_no_job() {
    let (original, _, node) = damaged_on_sim("none");
    let mut mended = 0;
    for nth in 1..40 {
        let disk = SimDisk::from_image(original.image(original.ops(), &Loss::Nothing));
        let options = on_sim(&disk);
        disk.fail_at("logs.db", nth, Call::Read, Fault::IoErr, Lasts::Once);
        match Store::open(&options, &at(NOW)) {
            Ok(store) => {
                assert_eq!((store.node(), store.view().jobs().tally().unwrap().jobs), (node, 599));
                mended += usize::from(!store.view().incidents().unwrap().is_empty());
            }
            // Not even whether it is there could be said.
            Err(StoreError::Volume(VolumeError::NotPrivate(_) | VolumeError::Io { .. })) => {}
            Err(StoreError::Io { .. }) => {}
            Err(error) => panic!("read {nth}: {error:?}"),
        }
    }
    assert!(mended > 0);
}

/// A check that the end in good order interrupted was never made again: the next opening trusted the file.
#[test]
fn a_check_that_did_not_come_to_its_end_is_made_at_the_next_opening() {
    let home = Home::new();
    let store = Store::create(&home.options(), None, &at(NOW)).unwrap();
    fill(&store, 2500);
    drop(store);
    home.ended_badly();
    drop(home.open());
    assert_ne!(fs::read(home.path("LOCK")).unwrap(), b"\n", "it took less than a moment");
    let store = home.open();
    let checked = (0..2000).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        let names = fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path().join("comm"));
        !names.into_iter().any(|name| fs::read_to_string(name).is_ok_and(|name| name.trim() == "store-check"))
    });
    assert!(checked);
    drop(store);
    assert_eq!(fs::read(home.path("LOCK")).unwrap(), b"\n");
}

/// An old format is a number here: what a release that has a second one would find.
fn make_old(home: &Home, name: &str) {
    Connection::open(home.path(name)).unwrap().pragma_update(None, "user_version", 0).unwrap();
}

#[test]
fn a_damaged_database_of_an_old_format_is_saved_too() {
    let (home, node) = filled();
    make_old(&home, "jobs.db");
    let mut bytes = fs::read(home.path("jobs.db")).unwrap();
    let middle = bytes.len() / PAGE / 2 * PAGE;
    bytes[middle..middle + PAGE].copy_from_slice(&noise(3));
    fs::write(home.path("jobs.db"), bytes).unwrap();
    home.ended_badly();
    let incidents = still_works(&home, node, Database::Jobs);
    assert_eq!(incidents.len(), 1);
    assert!(incidents[0].saved >= 45, "{incidents:?}");
}

#[test]
fn a_copy_made_before_a_migration_goes_when_the_migrated_database_was_closed_in_good_order() {
    let (home, _) = filled();
    fs::write(home.path("jobs.db.format-0"), "wrapped keys").unwrap();
    home.ended_badly();
    drop(home.open());
    assert!(home.path("jobs.db.format-0").exists());
    drop(home.open());
    assert!(!home.path("jobs.db.format-0").exists());
}

#[test]
fn a_damaged_jobs_db_is_kept_until_its_incident_was_reported() {
    let (home, _) = filled();
    fs::write(home.path("jobs.db"), noise(1)).unwrap();
    home.ended_badly();
    drop(home.open());
    let store = home.open();
    assert_eq!(home.aside("jobs.db").len(), 1);
    let incident = store.view().incidents().unwrap().remove(0);
    store.volume().incidents_reported(incident.database, incident.seq).wait().unwrap();
    drop(store);
    drop(home.open());
    assert_eq!(home.aside("jobs.db"), Vec::<String>::new());
}

#[test]
fn without_its_logs_a_volume_can_still_be_looked_at() {
    for damaged in [false, true] {
        let (home, _) = filled();
        fs::remove_file(home.path("logs.db")).unwrap();
        if damaged {
            fs::write(home.path("logs.db"), noise(1)).unwrap();
            fs::set_permissions(home.path("logs.db"), PermissionsExt::from_mode(0o600)).unwrap();
        }
        let view = Store::view_only(&home.options()).unwrap();
        assert_eq!(view.jobs().tally().unwrap().jobs, 59);
        assert!(view.binding().account().unwrap().is_some());
        view.logs().losses().unwrap_err();
        assert_eq!(home.path("logs.db").exists(), damaged, "looking changes nothing");
    }
}
