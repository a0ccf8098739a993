//! A volume of every format that there ever was opens, and all that was put into it is there.
//!
//! The volumes in `fixtures/` are named by the formats of their databases: `<state>-<jobs>-<logs>`. They are written by
//! `cargo run -p node-store --example fixture`, once for each set of formats, with the release that has it as its newest.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on must fail")]

mod common;
#[path = "fixtures/contents.rs"]
#[expect(dead_code, reason = "the generator fills the volumes")]
mod contents;
#[path = "fixtures/private.rs"]
mod private;
#[path = "../../node-types/tests/trust/common.rs"]
#[expect(dead_code, reason = "the trust documents' tests use more of it")]
mod trust;

use std::path::{Path, PathBuf};

use node_store::{format::Database, store::Store};
use private::copy;

/// The formats of state.db, jobs.db and logs.db, and what their fixture must hold.
type Fixture = ([u32; 3], fn(&Store));

/// One for each set of formats that a release had.
const FIXTURES: &[Fixture] = &[
    ([1, 1, 1], contents::check),
    ([2, 1, 1], contents::check_models),
    ([2, 2, 2], contents::check_targets),
];
/// All fixtures together; they are cloned with every copy of the project.
const FIXTURE_BYTES_MAX: u64 = 1 << 20;

fn fixture([state, jobs, logs]: [u32; 3]) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/{state}-{jobs}-{logs}"))
}

#[test]
fn every_format_has_a_fixture() {
    let formats: Vec<[u32; 3]> = FIXTURES.iter().map(|(formats, _)| *formats).collect();
    assert_eq!(formats.last(), Some(&Database::ALL.map(Database::newest)), "run the generator");
    for (place, database) in Database::ALL.into_iter().enumerate() {
        let newest = database.newest();
        let has = |wanted| formats.iter().any(|formats| formats[place] == wanted);
        assert!((1..=newest).all(has), "{database} has format {newest}");
    }
    for formats in formats {
        let of = |database: Database| -> u32 {
            let home = tempfile::tempdir().unwrap();
            copy(&fixture(formats), &home.path().join("testnet"));
            let raw = rusqlite::Connection::open(home.path().join("testnet").join(database.file())).unwrap();
            raw.query_row("PRAGMA user_version", (), |row| row.get(0)).unwrap()
        };
        assert_eq!(Database::ALL.map(of), formats);
    }
}

#[test]
fn a_volume_of_every_format_opens_with_all_that_was_put_into_it() {
    let mut bytes = 0;
    for (formats, check) in FIXTURES {
        let home = tempfile::tempdir().unwrap();
        bytes += copy(&fixture(*formats), &home.path().join("testnet"));
        let options = contents::options(home.path());
        let store = Store::open(&options, &common::at(contents::OPENED_AT)).unwrap();
        check(&store);
    }
    assert!(bytes <= FIXTURE_BYTES_MAX, "the fixtures have {bytes} bytes");
}

#[test]
fn a_fixture_has_something_in_every_table() {
    let (newest, _) = FIXTURES.last().unwrap();
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("testnet");
    copy(&fixture(*newest), &folder);
    // Filled by damage, by a restore and by a move, which no fixture has.
    let empty = ["incidents", "fence", "retired"];
    for database in Database::ALL {
        let raw = rusqlite::Connection::open(folder.join(database.file())).unwrap();
        let list = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%'";
        let names: Vec<String> =
            raw.prepare(list).unwrap().query_map((), |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        for name in names.iter().filter(|name| !empty.contains(&name.as_str())) {
            let rows: u64 =
                raw.query_row(&format!("SELECT count(*) FROM {name}"), (), |row| row.get(0)).unwrap();
            assert!(rows > 0, "{database}: {name} is empty");
        }
    }
}
