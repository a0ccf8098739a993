//! The check of a large database after a stop that was not in good order: it reads everything in the
//! background while the node already works, since reading gigabytes would hold up the start.
//!
//! It reads in short steps, each a read of its own, so that it never keeps the write-ahead log from being
//! started anew. What it finds damaged stops that database's writer and is noted; the next opening checks
//! that file in full and saves what can be read ([`salvage`](crate::salvage)). One that did not come to its end
//! is made again at the next opening.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rusqlite::{Connection, params_from_iter, types::Value};

use crate::{
    format::{Database, is_damage},
    jobs,
    reader::{ReadError, Reader},
    salvage,
};

/// Rows that one step reads.
const STEP_ROWS: u32 = 256;
/// How long it rests between two steps, so that the node's own work comes first.
const REST: Duration = Duration::from_millis(1);

/// A check under way. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Check {
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Check {
    /// Begins to read all of a database; `damaged` is called once, with what is wrong, or `whole` when all of
    /// it was read.
    pub(crate) fn start(
        reader: Reader,
        database: Database,
        damaged: impl FnOnce(&str) + Send + 'static,
        whole: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<Self> {
        let ended = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&ended);
        let thread = thread::Builder::new().name("store-check".into()).spawn(move || {
            match walk(&reader, database, &end) {
                Ok(true) => whole(),
                Ok(false) => {}
                Err(ReadError::Look { cause, .. }) if is_damage(&cause) => damaged(&cause.to_string()),
                // Not damage: whoever needs the file will hear of it.
                Err(ReadError::Look { .. } | ReadError::Open(_)) => {}
            }
        })?;
        Ok(Self { ended, thread: Some(thread) })
    }
}

impl Drop for Check {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has nothing to say that it has not said.
            let _ = thread.join();
        }
    }
}

/// Whether it came to the end.
fn walk(reader: &Reader, database: Database, end: &AtomicBool) -> Result<bool, ReadError> {
    for (table, key) in salvage::walkable(database) {
        let mut after = Value::Null;
        loop {
            if end.load(Ordering::Relaxed) {
                return Ok(false);
            }
            let last = reader.read(|tx| step(tx, table, key, &after))?;
            let Some(last) = last else { break };
            after = last;
            thread::sleep(REST);
        }
    }
    Ok(true)
}

/// Reads every byte of the next rows; the key of the last of them.
fn step(tx: &Connection, table: &str, key: &str, after: &Value) -> rusqlite::Result<Option<Value>> {
    let beyond = if *after == Value::Null { String::new() } else { format!("WHERE {key} > ?1") };
    let sql = format!("SELECT {key}, * FROM {table} {beyond} ORDER BY {key} LIMIT {STEP_ROWS}");
    let mut statement = tx.prepare_cached(&sql)?;
    let width = statement.column_count();
    let mut rows = statement.query(params_from_iter(Some(after).filter(|after| **after != Value::Null)))?;
    let mut last = None;
    while let Some(row) = rows.next()? {
        for column in 0..width {
            row.get_ref(column)?;
        }
        last = Some(row.get(0)?);
    }
    drop(rows);
    if let (jobs::TABLE, Some(last)) = (table, &last) {
        jobs::check_indexes(tx, after, last)?;
    }
    Ok(last)
}
