//! `devnet.db`: everything that the network must still know after a restart. SQLite, WAL, one connection.
//!
//! The file is locked while it is open: a second devnet in the same folder is refused. Prompts and answers are in it
//! in the clear, and nothing is deleted but old message numbers: it is for trying things out.

mod documents;
mod jobs;
mod nodes;
mod reports;

pub(crate) use jobs::{End, JobRow};
pub(crate) use nodes::{Boot, NodeRow};
pub(crate) use reports::{BatchRow, Link};

use std::path::Path;

use node_types::{Network, Timestamp};
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::DevnetError;

/// The newest format.
const FORMAT: u32 = 1;

/// Times are milliseconds since 1970; documents are JSON.
const SCHEMA: &str = "
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
-- bytes: of keyset 1 the document itself, else the envelope. template: what a snapshot was made from.
CREATE TABLE keysets (version INTEGER PRIMARY KEY, bytes BLOB NOT NULL) STRICT;
CREATE TABLE snapshots (
    version INTEGER PRIMARY KEY, envelope BLOB NOT NULL, template TEXT NOT NULL, at INTEGER NOT NULL
) STRICT;
CREATE TABLE nodes (
    id TEXT PRIMARY KEY, address TEXT NOT NULL, agent TEXT NOT NULL, registered_at INTEGER NOT NULL,
    registrations INTEGER NOT NULL DEFAULT 1, boot TEXT, heartbeat TEXT, heartbeat_at INTEGER,
    account TEXT, account_at INTEGER
) STRICT;
CREATE TABLE boots (
    node TEXT NOT NULL, boot TEXT NOT NULL, since INTEGER NOT NULL, PRIMARY KEY (node, boot)
) STRICT, WITHOUT ROWID;
-- The last numbers of each node's messages; see window.rs. Text would sort wrongly: i64 holds what u64 is, bit by bit.
CREATE TABLE seqs (node TEXT NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY (node, seq)) STRICT, WITHOUT ROWID;
-- place: waiting, offered, held or ended. end_kind: result, failure, expired. end_node: NULL where the network ended it.
CREATE TABLE jobs (
    id TEXT PRIMARY KEY, job TEXT NOT NULL, place TEXT NOT NULL, node TEXT, cancelled INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL, taken_at INTEGER, ended_at INTEGER, end_kind TEXT, end_node TEXT, end TEXT
) STRICT;
CREATE INDEX jobs_open ON jobs (id) WHERE place <> 'ended';
-- answer: the node's last one.
CREATE TABLE offers (
    job TEXT NOT NULL, node TEXT NOT NULL, times INTEGER NOT NULL, first_at INTEGER NOT NULL,
    last_at INTEGER NOT NULL, answer TEXT, reason TEXT, PRIMARY KEY (job, node)
) STRICT, WITHOUT ROWID;
-- Messages about jobs that counted, without what they carried.
CREATE TABLE messages (
    number INTEGER PRIMARY KEY, job TEXT NOT NULL, node TEXT NOT NULL, kind TEXT NOT NULL, boot TEXT NOT NULL,
    seq INTEGER NOT NULL, at INTEGER NOT NULL
) STRICT;
CREATE INDEX messages_job ON messages (job, number);
-- of: message for a kind that counted, refused for a code.
CREATE TABLE counts (of TEXT NOT NULL, name TEXT NOT NULL, count INTEGER NOT NULL, PRIMARY KEY (of, name))
    STRICT, WITHOUT ROWID;
CREATE TABLE batches (
    node TEXT NOT NULL, chain TEXT NOT NULL, seq INTEGER NOT NULL, header TEXT NOT NULL, records TEXT,
    at INTEGER NOT NULL, times INTEGER NOT NULL DEFAULT 1, PRIMARY KEY (node, chain, seq)
) STRICT;
CREATE TABLE traces (
    node TEXT NOT NULL, job TEXT NOT NULL, trace TEXT NOT NULL, at INTEGER NOT NULL, PRIMARY KEY (node, job)
) STRICT;
CREATE TABLE reports (
    number INTEGER PRIMARY KEY, node TEXT NOT NULL, report TEXT NOT NULL, at INTEGER NOT NULL
) STRICT;
";

/// The result of a question to the database.
pub(crate) type Answer<T> = Result<T, rusqlite::Error>;

/// The database.
#[derive(Debug)]
pub(crate) struct Db {
    connection: Connection,
}

impl Db {
    /// Opens the database, made anew where there is none, and locks it.
    pub(crate) fn open(path: &Path) -> Result<Self, DevnetError> {
        let failed = |source| DevnetError::Database { path: path.to_owned(), source };
        let found = Connection::open(path).and_then(Self::prepare).map_err(failed)?;
        match found {
            (connection, FORMAT) => Ok(Self { connection }),
            (_, found) => Err(DevnetError::TooNew { path: path.to_owned(), found, newest: FORMAT }),
        }
    }

    fn prepare(connection: Connection) -> Answer<(Connection, u32)> {
        connection.execute_batch(
            "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;",
        )?;
        // The lock is taken by the first write.
        connection.execute_batch("BEGIN IMMEDIATE")?;
        let format: u32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        if format == 0 {
            connection.execute_batch(SCHEMA)?;
            connection.pragma_update(None, "user_version", FORMAT)?;
        }
        connection.execute_batch("COMMIT")?;
        Ok((connection, if format == 0 { FORMAT } else { format }))
    }

    /// Begins a transaction: what follows is on disk together, or not at all.
    pub(crate) fn begin(&self) -> Answer<()> {
        self.connection.execute_batch("BEGIN IMMEDIATE")
    }

    /// What follows `begin` is on disk when this returns.
    pub(crate) fn commit(&self) -> Answer<()> {
        self.connection.execute_batch("COMMIT")
    }

    /// Forgets what follows `begin`.
    pub(crate) fn roll_back(&self) {
        // It fails only where there is no transaction any more, and then there is nothing to forget.
        let _ = self.connection.execute_batch("ROLLBACK");
    }

    /// A note of the network about itself.
    pub(crate) fn meta(&self, name: &str) -> Answer<Option<String>> {
        let sql = "SELECT value FROM meta WHERE name = ?1";
        self.connection.query_row(sql, [name], |row| row.get(0)).optional()
    }

    /// Keeps a note.
    pub(crate) fn set_meta(&self, name: &str, value: &str) -> Answer<()> {
        let sql = "INSERT INTO meta VALUES (?1, ?2) ON CONFLICT DO UPDATE SET value = excluded.value";
        self.connection.execute(sql, [name, value]).map(drop)
    }

    /// Counts one of these.
    pub(crate) fn count(&self, of: &str, name: &str) -> Answer<()> {
        let sql = "INSERT INTO counts VALUES (?1, ?2, 1) ON CONFLICT DO UPDATE SET count = count + 1";
        self.connection.execute(sql, [of, name]).map(drop)
    }

    /// What was counted.
    pub(crate) fn counts(&self, of: &str) -> Answer<Vec<(String, u64)>> {
        self.all("SELECT name, count FROM counts WHERE of = ?1 ORDER BY name", params![of], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
    }

    fn all<T>(
        &self,
        sql: &str,
        arguments: impl rusqlite::Params,
        read: impl FnMut(&rusqlite::Row<'_>) -> Answer<T>,
    ) -> Answer<Vec<T>> {
        self.connection.prepare_cached(sql)?.query_map(arguments, read)?.collect()
    }
}

/// The network and chain that a database belongs to.
pub(crate) fn stamp(network: Network, chain_id: u64) -> String {
    format!("{network} {chain_id}")
}

/// Reads what [`stamp`] wrote.
pub(crate) fn read_stamp(text: &str) -> Option<(Network, u64)> {
    let (network, chain_id) = text.split_once(' ')?;
    Some((network.parse().ok()?, chain_id.parse().ok()?))
}

/// A column that holds a text of another type.
fn parsed<T: std::str::FromStr>(row: &rusqlite::Row<'_>, column: usize) -> Answer<T>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    row.get::<_, String>(column)?.parse().map_err(|error| foreign(column, error))
}

/// A column that holds JSON.
fn json<T: serde::de::DeserializeOwned>(row: &rusqlite::Row<'_>, column: usize) -> Answer<T> {
    serde_json::from_str(&row.get::<_, String>(column)?).map_err(|error| foreign(column, error))
}

fn time(row: &rusqlite::Row<'_>, column: usize) -> Answer<Timestamp> {
    row.get(column).map(Timestamp::from_ms)
}

fn optional_time(row: &rusqlite::Row<'_>, column: usize) -> Answer<Option<Timestamp>> {
    Ok(row.get::<_, Option<u64>>(column)?.map(Timestamp::from_ms))
}

fn foreign(column: usize, error: impl std::error::Error + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(error))
}
