//! Writes the fixture volume of the newest formats: `cargo run -p node-store --example fixture`.
//!
//! It stands in `tests/fixtures/<state>-<jobs>-<logs>`, named by the formats of its databases: vacuumed databases and
//! keys. A fixture of formats that were released is never written again.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a generator that cannot go on must stop")]
#![expect(clippy::print_stdout, reason = "a command for a terminal")]

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "../tests/fixtures/contents.rs"]
#[expect(dead_code, reason = "the test looks for what is put in here")]
mod contents;
#[path = "../../node-types/tests/trust/common.rs"]
#[expect(dead_code, reason = "the trust documents' tests use more of it")]
mod trust;

use std::{fs, path::Path};

use node_store::format::Database;

fn main() {
    let [state, jobs, logs] = Database::ALL.map(Database::newest);
    let name = format!("tests/fixtures/{state}-{jobs}-{logs}");
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    let home = tempfile::tempdir().unwrap();
    contents::fill(&contents::options(home.path()));
    let volume = home.path().join("testnet");
    fs::create_dir_all(target.join("keys")).unwrap();
    for database in Database::ALL {
        let raw = rusqlite::Connection::open(volume.join(database.file())).unwrap();
        raw.execute_batch("VACUUM; PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        drop(raw);
        fs::copy(volume.join(database.file()), target.join(database.file())).unwrap();
    }
    for key in fs::read_dir(volume.join("keys")).unwrap() {
        let key = key.unwrap();
        fs::copy(key.path(), target.join("keys").join(key.file_name())).unwrap();
    }
    println!("{}", target.display());
}
