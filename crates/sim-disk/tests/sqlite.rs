//! SQLite on the disk in memory: as on its own VFS, through faults, and through power cuts.

use std::{path::Path, sync::Barrier, thread, time::Duration};

use node_store::disk::Disk;
use rusqlite::{Connection, OpenFlags, ffi};
use sim_disk::{Call, Caller, Fault, Image, Lasts, Loss, SimDisk, SyncKind};

const DATABASE: &str = "/rows.db";

/// Opens a database on a VFS; `None` is SQLite's own.
fn open(vfs: Option<&str>, path: &Path) -> rusqlite::Result<Connection> {
    match vfs {
        Some(vfs) => Connection::open_with_flags_and_vfs(path, OpenFlags::default(), vfs),
        None => Connection::open(path),
    }
}

fn open_on(disk: &SimDisk) -> Connection {
    open(disk.vfs(), Path::new(DATABASE)).unwrap()
}

/// A database in WAL mode, every commit synced, with an empty table.
fn wal_on(disk: &SimDisk) -> Connection {
    let database = open_on(disk);
    database.execute_batch("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; CREATE TABLE t(a)").unwrap();
    database
}

/// Every row that a statement gives, or the error's extended code.
fn run(database: &Connection, sql: &str) -> String {
    let rows = || -> rusqlite::Result<Vec<String>> {
        let mut statement = database.prepare(sql)?;
        let columns = statement.column_count();
        let row = |row: &rusqlite::Row<'_>| {
            let values = (0..columns).map(|column| row.get_ref(column).map(|value| format!("{value:?}")));
            values.collect::<rusqlite::Result<Vec<_>>>().map(|values| values.join(" "))
        };
        statement.query_map([], row)?.collect()
    };
    rows().map_or_else(|error| format!("error {}", code(&error)), |rows| rows.join(", "))
}

fn code(error: &rusqlite::Error) -> i32 {
    error.sqlite_error().unwrap_or_else(|| unreachable!("{error:?}")).extended_code
}

fn integrity(database: &Connection) -> String {
    run(database, "PRAGMA integrity_check")
}

const SOUND: &str = r#"Text([111, 107])"#;

fn count(database: &Connection) -> i64 {
    database.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap()
}

/// What a script of statements of two connections answers, with 1 and 2 the connections; "close"
/// and "open" are theirs too, "files" tells which stand beside the database.
fn transcript(script: &[(usize, &str)], disk: &dyn Disk, folder: &Path) -> Vec<String> {
    let path = folder.join("rows.db");
    let mut connections = [None, None, None];
    let mut answers = Vec::new();
    for (who, sql) in script {
        let connection = &mut connections[*who];
        let answer = match *sql {
            "close" => {
                *connection = None;
                String::new()
            }
            "files" => {
                let names = disk.list(folder).unwrap();
                // SQLite's own VFS keeps the shared memory in a file.
                let names = names.iter().filter(|name| !name.to_string_lossy().ends_with("-shm"));
                let modes = names.map(|name| (name, disk.entry(&folder.join(name)).unwrap().unwrap()));
                format!(
                    "{:?}",
                    modes.map(|(name, entry)| (name, entry.mode, entry.bytes)).collect::<Vec<_>>()
                )
            }
            sql => {
                let opened = connection.get_or_insert_with(|| {
                    let opened = open(disk.vfs(), &path).unwrap();
                    opened.busy_timeout(Duration::ZERO).unwrap();
                    opened
                });
                run(opened, sql)
            }
        };
        answers.push(format!("{who} {sql}: {answer}"));
    }
    answers
}

/// Runs a script on SQLite's own VFS and on the disk in memory.
fn on_both(script: &[(usize, &str)]) -> Vec<String> {
    let home = tempfile::tempdir().unwrap();
    let real = transcript(script, &node_store::disk::RealDisk, home.path());
    let disk = SimDisk::new();
    assert_eq!(transcript(script, &disk, Path::new("/")), real);
    real
}

#[test]
fn readers_a_writer_and_checkpoints_in_wal_mode_answer_alike() {
    let answers = on_both(&[
        (1, "PRAGMA journal_mode=WAL"),
        (1, "PRAGMA synchronous=FULL"),
        (1, "CREATE TABLE t(a)"),
        (
            1,
            "INSERT INTO t SELECT value FROM (WITH RECURSIVE n(value) AS (SELECT 1 UNION ALL SELECT value+1 FROM n LIMIT 2000) SELECT * FROM n)",
        ),
        (0, "files"),
        (2, "BEGIN"),
        (2, "SELECT count(*), sum(a) FROM t"),
        (1, "DELETE FROM t WHERE a > 1000"),
        (2, "SELECT count(*), sum(a) FROM t"),
        (1, "PRAGMA wal_checkpoint(PASSIVE)"),
        (1, "PRAGMA wal_checkpoint(FULL)"),
        (1, "PRAGMA wal_checkpoint(RESTART)"),
        (1, "PRAGMA wal_checkpoint(TRUNCATE)"),
        (2, "COMMIT"),
        (2, "SELECT count(*), sum(a) FROM t"),
        (1, "PRAGMA wal_checkpoint(RESTART)"),
        (1, "INSERT INTO t VALUES (5)"),
        (0, "files"),
        (1, "PRAGMA wal_checkpoint(TRUNCATE)"),
        (0, "files"),
        (1, "BEGIN IMMEDIATE"),
        (2, "BEGIN IMMEDIATE"),
        (2, "INSERT INTO t VALUES (6)"),
        (2, "PRAGMA wal_checkpoint(TRUNCATE)"),
        (1, "INSERT INTO t VALUES (7)"),
        (1, "COMMIT"),
        (2, "BEGIN"),
        (2, "SELECT count(*) FROM t"),
        (1, "INSERT INTO t VALUES (8)"),
        (2, "INSERT INTO t VALUES (9)"),
        (2, "ROLLBACK"),
        (1, "PRAGMA journal_mode=DELETE"),
        (2, "PRAGMA integrity_check"),
        (1, "close"),
        (0, "files"),
        (2, "SELECT count(*), sum(a) FROM t"),
        (2, "close"),
        (0, "files"),
        (1, "SELECT count(*), sum(a) FROM t"),
        (1, "PRAGMA journal_mode"),
        (1, "PRAGMA journal_mode=DELETE"),
        (0, "files"),
    ]);
    assert!(answers.iter().any(|answer| answer.ends_with("error 5")), "somebody was busy");
    assert!(answers.iter().any(|answer| answer.ends_with("error 517")), "a snapshot was too old");
}

#[test]
fn the_locks_of_a_rollback_journal_answer_alike() {
    let answers = on_both(&[
        (1, "CREATE TABLE t(a)"),
        (1, "INSERT INTO t VALUES (1)"),
        (2, "BEGIN"),
        (2, "SELECT * FROM t"),
        (1, "BEGIN IMMEDIATE"),
        (1, "INSERT INTO t VALUES (2)"),
        (0, "files"),
        (2, "SELECT * FROM t"),
        (2, "INSERT INTO t VALUES (3)"),
        // A reader is there: the writer waits, and keeps new readers out.
        (1, "COMMIT"),
        (2, "COMMIT"),
        (2, "SELECT * FROM t"),
        (1, "COMMIT"),
        (2, "SELECT * FROM t"),
        (1, "BEGIN EXCLUSIVE"),
        (2, "SELECT * FROM t"),
        (1, "ROLLBACK"),
        (2, "BEGIN EXCLUSIVE"),
        (1, "SELECT * FROM t"),
        (2, "INSERT INTO t VALUES (4)"),
        (2, "close"),
        (1, "SELECT * FROM t"),
        (0, "files"),
        (1, "PRAGMA journal_mode=TRUNCATE"),
        (1, "INSERT INTO t VALUES (5)"),
        (0, "files"),
        (1, "PRAGMA journal_mode=PERSIST"),
        (1, "INSERT INTO t VALUES (6)"),
        (0, "files"),
        (1, "VACUUM"),
        (2, "PRAGMA integrity_check"),
    ]);
    assert!(answers.iter().filter(|answer| answer.ends_with("error 5")).count() >= 4, "{answers:#?}");
}

#[test]
fn a_writer_and_readers_in_threads_see_whole_transactions() {
    const ROUNDS: usize = 300;
    let disk = SimDisk::new();
    let writer = wal_on(&disk);
    writer.execute_batch("CREATE TABLE two(a, b); INSERT INTO two VALUES (0, 0)").unwrap();
    let start = Barrier::new(3);
    thread::scope(|scope| {
        for mode in ["PASSIVE", "RESTART"] {
            let (disk, start) = (&disk, &start);
            scope.spawn(move || {
                let reader = open_on(disk);
                reader.busy_timeout(Duration::from_secs(20)).unwrap();
                start.wait();
                let mut last = 0;
                while last < ROUNDS as i64 {
                    let (a, b, rows) = reader
                        .query_row("SELECT a, b, (SELECT count(*) FROM t) FROM two", [], |row| {
                            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?))
                        })
                        .unwrap();
                    assert_eq!((a, rows), (-b, a), "half a transaction");
                    assert!(a >= last, "back in time");
                    last = a;
                    run(&reader, &format!("PRAGMA wal_checkpoint({mode})"));
                }
            });
        }
        writer.busy_timeout(Duration::from_secs(20)).unwrap();
        start.wait();
        for _ in 0..ROUNDS {
            let batch = "BEGIN IMMEDIATE; UPDATE two SET a=a+1; INSERT INTO t VALUES (1);
                         UPDATE two SET b=b-1; COMMIT";
            writer.execute_batch(batch).unwrap();
        }
    });
    assert_eq!(run(&writer, "PRAGMA wal_checkpoint(TRUNCATE)"), "Integer(0) Integer(0) Integer(0)");
    assert_eq!(integrity(&writer), SOUND);
    drop(writer);
    assert_eq!(disk.image(disk.ops(), &Loss::Nothing).paths(), [Path::new("/"), Path::new(DATABASE)]);
    assert_eq!(count(&open_on(&disk)), ROUNDS as i64);
}

#[test]
fn a_full_disk_is_told_and_loses_nothing() {
    let disk = SimDisk::new();
    let database = wal_on(&disk);
    disk.set_capacity(disk.used_bytes() + 20 * 4096);
    let mut rows = 0;
    let error = loop {
        match database.execute("INSERT INTO t VALUES (zeroblob(3000))", []) {
            Ok(_) => rows += 1,
            Err(error) => break error,
        }
        assert!(rows < 100, "the disk is full long before");
    };
    assert_eq!(code(&error), ffi::SQLITE_FULL);
    assert!(rows > 3);
    assert_eq!((count(&database), integrity(&database).as_str()), (rows, SOUND));

    disk.set_capacity(1 << 30);
    database.execute("INSERT INTO t VALUES (1)", []).unwrap();
    drop(database);
    let again = open_on(&disk);
    assert_eq!((count(&again), integrity(&again).as_str()), (rows + 1, SOUND));
    drop(again);
    assert_eq!(disk.used_bytes(), disk.contents(Path::new(DATABASE)).unwrap().len() as u64);
}

#[test]
fn faults_have_the_codes_of_sqlite() {
    let insert = "INSERT INTO t VALUES (1)";
    let truncate = "PRAGMA wal_checkpoint(TRUNCATE)";
    for (part, call, fault, sql, expected) in [
        ("-wal", Call::Write, Fault::IoErr, insert, ffi::SQLITE_IOERR_WRITE),
        ("-wal", Call::Write, Fault::NoSpace, insert, ffi::SQLITE_FULL),
        ("-wal", Call::Sync, Fault::IoErr, insert, ffi::SQLITE_IOERR_FSYNC),
        ("rows.db", Call::Write, Fault::IoErr, truncate, ffi::SQLITE_IOERR_WRITE),
        ("-wal", Call::Truncate, Fault::IoErr, truncate, ffi::SQLITE_IOERR_TRUNCATE),
    ] {
        let disk = SimDisk::new();
        let database = wal_on(&disk);
        database.execute(insert, []).unwrap();
        disk.fail_at(part, 1, call, fault, Lasts::Persistent);
        assert_eq!(run(&database, sql), format!("error {expected}"), "{call:?} of {part}");
        disk.heal();
        assert!(disk.failed_calls() > 0);
        assert_eq!(run(&database, insert), "");
        assert_eq!((count(&database), integrity(&database).as_str()), (2, SOUND), "{call:?} of {part}");
    }

    let disk = SimDisk::new();
    drop(wal_on(&disk));
    let database = open_on(&disk);
    disk.fail(1, Call::Read, Fault::IoErr, Lasts::Persistent);
    assert_eq!(run(&database, "SELECT * FROM t"), format!("error {}", ffi::SQLITE_IOERR_READ));
    disk.fail(1, Call::Open, Fault::IoErr, Lasts::Once);
    assert_eq!(code(&open(disk.vfs(), Path::new(DATABASE)).unwrap_err()), ffi::SQLITE_CANTOPEN);
    disk.heal();
    database.execute_batch("PRAGMA journal_mode=DELETE").unwrap();
    disk.fail(1, Call::Delete, Fault::IoErr, Lasts::Once);
    assert_eq!(run(&database, insert), format!("error {}", ffi::SQLITE_IOERR_DELETE));
}

/// The rows of the database that a power cut left, which is sound.
fn rows_in(image: Image) -> i64 {
    let disk = SimDisk::from_image(image);
    let database = open_on(&disk);
    assert_eq!(integrity(&database), SOUND);
    let there = "SELECT count(*) FROM sqlite_schema WHERE name = 't'";
    if run(&database, there) == "Integer(0)" { 0 } else { count(&database) }
}

/// Commits with checkpoints; for each commit, the operations that were logged when it was told.
fn commits(disk: &SimDisk, journal: &str) -> Vec<usize> {
    let database = open_on(disk);
    let settings = format!("PRAGMA journal_mode={journal}; PRAGMA synchronous=EXTRA; CREATE TABLE t(a)");
    database.execute_batch(&settings).unwrap();
    let mut told = vec![disk.ops()];
    for round in 0..6 {
        database.execute("INSERT INTO t VALUES (zeroblob(2000))", []).unwrap();
        told.push(disk.ops());
        if round == 2 {
            database.execute_batch("PRAGMA wal_checkpoint(RESTART)").unwrap();
        }
    }
    told
}

#[test]
fn a_commit_that_was_told_is_in_every_image() {
    for journal in ["WAL", "DELETE", "TRUNCATE"] {
        let disk = SimDisk::new();
        let told = commits(&disk, journal);
        let mut recording = disk.recording();
        for point in told[0]..=disk.ops() {
            let at_least = told.iter().filter(|ops| **ops <= point).count() as i64 - 1;
            for loss in
                [Loss::Nothing, Loss::Unsynced].into_iter().chain((0..6).map(|seed| Loss::Subset { seed }))
            {
                let rows = rows_in(recording.image(point, &loss));
                let span = at_least..=at_least + 1;
                assert!(span.contains(&rows), "{journal} {point} {loss:?}: {rows} of {at_least}");
            }
        }
    }
}

#[test]
fn a_lie_about_the_sync_of_the_wal_loses_a_commit() {
    let lost = |lie: bool| {
        let disk = SimDisk::new();
        let database = wal_on(&disk);
        database.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        let wal = |path: &Path| path.to_string_lossy().ends_with("-wal");
        disk.lie_about(move |site| {
            lie && site.caller == Caller::Sqlite && site.kind == SyncKind::File && wal(&site.path)
        });
        database.execute("INSERT INTO t VALUES (1)", []).unwrap();
        let lies: u64 = disk.sync_sites().iter().map(|seen| seen.lies).sum();
        assert_eq!(lies > 0, lie);
        let (mut recording, end) = (disk.recording(), disk.ops());
        (0..60).filter(|seed| rows_in(recording.image(end, &Loss::Subset { seed: *seed })) == 0).count()
    };
    assert_eq!(lost(false), 0);
    assert!(lost(true) > 0);
}

#[test]
fn an_overwritten_page_tears_between_sectors() {
    let disk = SimDisk::new();
    let sql = "PRAGMA journal_mode=OFF; CREATE TABLE t(a); INSERT INTO t VALUES (zeroblob(3900))";
    open_on(&disk).execute_batch(sql).unwrap();
    let disk = SimDisk::from_image(disk.image(disk.ops(), &Loss::Nothing));
    let old = disk.contents(Path::new(DATABASE)).unwrap();
    let sql = "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;
               UPDATE t SET a = CAST(replace(hex(zeroblob(1950)), '0', 'x') AS BLOB)";
    open_on(&disk).execute_batch(sql).unwrap();
    let new = disk.contents(Path::new(DATABASE)).unwrap();
    assert_eq!((old.len(), new.len()), (8192, 8192));
    let (mut recording, point) = (disk.recording(), disk.ops());
    let mut mixed = 0;
    for seed in 0..100 {
        let image = recording.image(point, &Loss::Subset { seed }).read(Path::new(DATABASE)).unwrap();
        let sectors = image.chunks(512).zip(old.chunks(512).zip(new.chunks(512)));
        assert!(sectors.clone().all(|(seen, (old, new))| seen == old || seen == new));
        let page = || sectors.clone().skip(8);
        mixed += u32::from(
            page().any(|(seen, (old, _))| seen != old) && page().any(|(seen, (_, new))| seen != new),
        );
    }
    assert!(mixed > 0, "no write was torn");
}

#[test]
fn a_disk_stays_while_a_database_on_it_is_open() {
    let disk = SimDisk::new();
    let database = wal_on(&disk);
    drop(disk);
    assert_ne!(SimDisk::new().vfs_name(), SimDisk::default().vfs_name());
    database.execute("INSERT INTO t VALUES (1)", []).unwrap();
    assert_eq!(count(&database), 1);
}
