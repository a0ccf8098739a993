//! What takes jobs: our store, and the baselines beside it.

use std::{
    fs::File,
    io::Write,
    path::Path,
    sync::{
        Mutex,
        mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
    },
    thread::{self, JoinHandle},
};

use node_store::{jobs::Accepted, store::Store};
use node_types::JobId;
use rusqlite::Connection;

use crate::home::{self, NOW};

/// Puts the job of a number on disk; returns when it is there.
pub type Put<'a> = Box<dyn FnMut(u64) + 'a>;

/// Something that takes jobs from many callers at once.
pub trait Target: Sync {
    /// Its name in the table.
    fn name(&self) -> &str;

    /// One caller, made in the thread that uses it.
    fn caller(&self) -> Put<'_>;
}

impl Target for Store {
    fn name(&self) -> &str {
        "node-store"
    }

    fn caller(&self) -> Put<'_> {
        accepting(self, home::id)
    }
}

/// A store that is offered jobs whose ids are spread out: each writes a page of the index of ids alone.
#[derive(Debug)]
pub struct RandomIds<'a>(pub &'a Store);

impl Target for RandomIds<'_> {
    fn name(&self) -> &str {
        "node-store, random ids"
    }

    fn caller(&self) -> Put<'_> {
        accepting(self.0, home::random_id)
    }
}

fn accepting(store: &Store, id: fn(u64) -> JobId) -> Put<'_> {
    let mut job = home::job();
    Box::new(move |number| {
        job.id = id(number);
        assert_eq!(store.jobs().accept(&job, NOW).wait().unwrap(), Accepted::New);
    })
}

/// `write(2)` at the end of a file, then `fdatasync(2)`: the least that a durable job can cost.
#[derive(Debug)]
pub struct RawAppend(Mutex<File>);

impl RawAppend {
    /// Makes the file.
    #[must_use]
    pub fn create(folder: &Path) -> Self {
        Self(Mutex::new(File::create(folder.join("raw")).unwrap()))
    }
}

impl Target for RawAppend {
    fn name(&self) -> &str {
        "raw append + fdatasync"
    }

    fn caller(&self) -> Put<'_> {
        let body = home::body();
        Box::new(move |_| {
            let mut file = self.0.lock().unwrap();
            file.write_all(body.as_bytes()).unwrap();
            file.sync_data().unwrap();
        })
    }
}

const INSERT: &str = "INSERT INTO jobs (id, body) VALUES (?1, ?2)";

fn bare(path: &Path) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection.pragma_update(None, "journal_mode", "WAL").unwrap();
    connection.pragma_update(None, "synchronous", "FULL").unwrap();
    connection.execute_batch("CREATE TABLE jobs (id INTEGER PRIMARY KEY, body BLOB NOT NULL)").unwrap();
    connection
}

/// SQLite alone (WAL, `synchronous=FULL`), one commit a job: no encryption, no second index.
#[derive(Debug)]
pub struct BareSqlite(Mutex<Connection>);

impl BareSqlite {
    /// Makes the database.
    #[must_use]
    pub fn create(folder: &Path) -> Self {
        Self(Mutex::new(bare(&folder.join("bare.db"))))
    }
}

impl Target for BareSqlite {
    fn name(&self) -> &str {
        "SQLite, one commit a job"
    }

    fn caller(&self) -> Put<'_> {
        let body = home::body();
        Box::new(move |number| {
            let connection = self.0.lock().unwrap();
            connection.prepare_cached(INSERT).unwrap().execute((number, body.as_bytes())).unwrap();
        })
    }
}

/// A job and whom to tell when it is on disk.
type Asked = (u64, SyncSender<()>);

/// SQLite alone, all jobs that wait in one commit: what a group commit can reach that does nothing else.
#[derive(Debug)]
pub struct GroupedSqlite {
    asked: Option<Sender<Asked>>,
    writer: Option<JoinHandle<()>>,
}

impl GroupedSqlite {
    /// Makes the database and starts its writer.
    #[must_use]
    pub fn create(folder: &Path) -> Self {
        let connection = bare(&folder.join("grouped.db"));
        let (asked, waiting) = channel();
        let writer = thread::spawn(move || commit_groups(&connection, &waiting));
        Self { asked: Some(asked), writer: Some(writer) }
    }
}

fn commit_groups(connection: &Connection, waiting: &Receiver<Asked>) {
    let body = home::body();
    while let Ok(first) = waiting.recv() {
        let group: Vec<Asked> = std::iter::once(first).chain(waiting.try_iter()).collect();
        connection.prepare_cached("BEGIN IMMEDIATE").unwrap().execute(()).unwrap();
        for (number, _) in &group {
            connection.prepare_cached(INSERT).unwrap().execute((number, body.as_bytes())).unwrap();
        }
        connection.prepare_cached("COMMIT").unwrap().execute(()).unwrap();
        for (_, done) in group {
            done.send(()).unwrap();
        }
    }
}

impl Drop for GroupedSqlite {
    fn drop(&mut self) {
        drop(self.asked.take());
        if let Some(writer) = self.writer.take() {
            writer.join().unwrap();
        }
    }
}

impl Target for GroupedSqlite {
    fn name(&self) -> &str {
        "SQLite, groups"
    }

    fn caller(&self) -> Put<'_> {
        let asked = self.asked.clone().unwrap();
        let (done, told) = sync_channel(1);
        Box::new(move |number| {
            asked.send((number, done.clone())).unwrap();
            told.recv().unwrap();
        })
    }
}
