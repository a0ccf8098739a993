use super::*;
use crate::disk::RealDisk;

#[test]
fn a_sqlite_before_3_51_3_is_refused_and_the_bundled_one_is_not() {
    new_enough(SQLITE_VERSION_MIN, "3.51.3").unwrap();
    let error = new_enough(SQLITE_VERSION_MIN - 1, "3.51.2").unwrap_err();
    assert!(error.to_string().contains("3.51.2") && error.to_string().contains("3.51.3"), "{error}");
    new_enough(rusqlite::version_number(), rusqlite::version()).unwrap();
}

#[test]
fn every_writer_has_the_settings_that_its_database_needs() {
    let folder = tempfile::tempdir().unwrap();
    for database in Database::ALL {
        let path = folder.path().join(database.file());
        let connection = connect(&RealDisk, &path, database, Access::Write).unwrap();
        let number = |pragma: &str| -> i64 {
            connection.query_row(&format!("PRAGMA {pragma}"), (), |row| row.get(0)).unwrap()
        };
        let journal: String = connection.query_row("PRAGMA journal_mode", (), |row| row.get(0)).unwrap();
        let synchronous = if database == Database::Logs { 1 } else { 2 };
        let found = ["synchronous", "foreign_keys", "secure_delete", "wal_autocheckpoint", "trusted_schema"]
            .map(number);
        assert_eq!((journal.as_str(), found), ("wal", [synchronous, 1, 1, 0, 0]), "{database}");
    }
}

/// A database in memory cannot have a write-ahead log: what a file system does that cannot share memory.
#[test]
fn a_setting_that_does_not_take_is_refused_by_name() {
    let connection = Connection::open_in_memory().unwrap();
    let error = settle(&connection, Path::new("jobs.db"), Database::Jobs, Access::Write).unwrap_err();
    assert!(
        matches!(&error, FormatError::Setting { setting: "journal_mode", found, .. } if found == "memory"),
        "{error}"
    );
}
