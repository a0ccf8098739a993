//! Logs: records and the batches in which they go to the network.
//!
//! Writing is cheap: [`Logs::append`] puts a record in memory and returns; one group commit takes all that
//! came meanwhile. `logs.db` runs with `synchronous=NORMAL`: **a power cut may lose the last moment of
//! logs**, never the file, and never a job, which lies in another file.
//!
//! A batch has a number without gaps and the digest of the header before it. It is kept until it is
//! acknowledged, so the same bytes are sent again after a crash; its number makes that harmless. A
//! `logs.db` that had to be made anew begins another chain.
//!
//! When the limit is reached records go, the lowest level first, the oldest first; after them the payloads
//! of batches that nobody acknowledged. Every loss is counted and told in the next batch. The space
//! goes back to the disk.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use node_types::{
    Digest, JobId, Timestamp,
    log::{FIELDS_BYTES_MAX, Kind, Level, MESSAGE_BYTES_MAX, Record},
};
use rusqlite::Connection;
use serde::{Deserialize, Serialize};

mod table;

use crate::writer::{Effect, Ticket, WriteError, Writer};

/// Records that may wait in memory; more are lost, and counted.
pub const WAITING_MAX: usize = 65_536;
/// Records in one batch at the most.
pub const BATCH_RECORDS_MAX: u32 = 10_000;
/// Records that one query returns at the most.
pub const QUERY_MAX: u32 = 10_000;
/// Compression level of a batch's payload (Zstandard, RFC 8878): fast.
const ZSTD_LEVEL: i32 = 3;

/// Which records to show. The default shows the newest [`QUERY_MAX`].
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// From this moment on.
    pub since: Option<Timestamp>,
    /// Before this moment.
    pub until: Option<Timestamp>,
    /// Of this level or higher.
    pub level_min: Option<Level>,
    /// Of this kind.
    pub kind: Option<Kind>,
    /// About this job.
    pub job: Option<JobId>,
    /// Whose message or fields hold this text; ASCII letters match in either case.
    pub text: Option<String>,
    /// After this sequence number: for following.
    pub after: Option<u64>,
    /// At most so many, the newest of them; [`QUERY_MAX`] at the most.
    pub limit: Option<u32>,
}

/// A record and its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Its sequence number.
    pub seq: u64,
    /// The record.
    pub record: Record,
}

/// What a batch says of itself; its bytes as JSON are what is hashed and signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// The chain, drawn when `logs.db` was made: 32 hex digits.
    pub chain: String,
    /// Its number in the chain, from 1, without gaps.
    pub seq: u64,
    /// SHA-256 of the header before it; 64 zeros in the first.
    pub prev: Digest,
    /// Records in it, by level.
    pub records: BTreeMap<Level, u64>,
    /// Records lost since the batch before it, by level.
    pub lost: BTreeMap<Level, u64>,
    /// SHA-256 of the payload.
    pub payload: Digest,
}

/// A batch to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// What it says of itself.
    pub header: Header,
    /// The header's exact bytes.
    pub header_json: String,
    /// Its records, one JSON object a line, compressed with Zstandard; `None` where the limit took them.
    pub payload: Option<Vec<u8>>,
}

impl Batch {
    /// The records.
    ///
    /// # Errors
    /// [`io::Error`] for a payload that is not Zstandard or holds no records.
    pub fn records(&self) -> io::Result<Vec<Record>> {
        let Some(payload) = &self.payload else { return Ok(Vec::new()) };
        let lines = zstd::decode_all(payload.as_slice())?;
        let lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_slice(line).map_err(io::Error::from)).collect()
    }
}

#[derive(Debug, Default)]
struct Waiting {
    records: Vec<Record>,
    overflow: BTreeMap<Level, u64>,
}

/// The logs of a volume.
#[derive(Debug)]
pub struct Logs {
    writer: Arc<Writer>,
    waiting: Arc<Mutex<Waiting>>,
    bytes_max: Arc<Mutex<u64>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing in here panics while it holds the lock half-changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Logs {
    pub(crate) fn new(writer: Arc<Writer>, bytes_max: u64) -> Self {
        Self { writer, waiting: Arc::default(), bytes_max: Arc::new(Mutex::new(bytes_max)) }
    }

    /// Sets the limit in bytes of `logs.db`. It is enforced with the next write. The write-ahead log beside
    /// it is bounded by [`WAL_BYTES_MAX`](crate::writer::WAL_BYTES_MAX).
    pub fn set_bytes_max(&self, bytes_max: u64) {
        *lock(&self.bytes_max) = bytes_max;
    }

    /// Takes a record. Never blocks on the disk and never fails: what cannot be kept is counted.
    ///
    /// A message over [`MESSAGE_BYTES_MAX`] is cut; fields over [`FIELDS_BYTES_MAX`] are replaced by a note.
    pub fn append(&self, record: Record) {
        let record = trimmed(record);
        let mut waiting = lock(&self.waiting);
        if waiting.records.len() >= WAITING_MAX {
            *waiting.overflow.entry(record.level).or_default() += 1;
            return;
        }
        waiting.records.push(record);
        if waiting.records.len() == 1 {
            drop(waiting);
            // Nobody waits for the answer. A writer that has stopped leaves the records here, and past
            // WAITING_MAX they are counted.
            drop(self.drain());
        }
    }

    /// Answers when all that was appended before is committed.
    pub fn flush(&self) -> Ticket<()> {
        self.drain()
    }

    fn drain(&self) -> Ticket<()> {
        let (waiting, bytes_max) = (Arc::clone(&self.waiting), Arc::clone(&self.bytes_max));
        let mut taken = Waiting::default();
        self.writer.submit(Effect::Grows, move |tx| {
            // Kept in the request: it runs again if the group has to.
            let mut more = std::mem::take(&mut *lock(&waiting));
            taken.records.append(&mut more.records);
            for (level, count) in more.overflow {
                *taken.overflow.entry(level).or_default() += count;
            }
            for record in &taken.records {
                table::insert(tx, record)?;
            }
            for (level, count) in &taken.overflow {
                table::lose(tx, *level, *count)?;
            }
            table::keep_limit(tx, *lock(&bytes_max))
        })
    }

    /// Shows records, oldest first.
    pub fn query(&self, query: Query) -> Ticket<Vec<Entry>> {
        self.writer.submit(Effect::Keeps, move |tx| table::query(tx, &query))
    }

    /// Seals the oldest records that are in no batch yet, and the losses not told of, into a batch; `None`
    /// if there are neither.
    pub fn seal(&self) -> Ticket<Option<Batch>> {
        self.writer.submit(Effect::Grows, seal)
    }

    /// Batches that are not acknowledged, oldest first, at most `limit`.
    pub fn batches(&self, limit: u32) -> Ticket<Vec<Batch>> {
        self.writer.submit(Effect::Keeps, move |tx| table::batches(tx, limit))
    }

    /// The network has all batches up to `seq`: they and their records are deleted. Returns how many records.
    pub fn acknowledge(&self, seq: u64) -> Ticket<u64> {
        self.writer.submit(Effect::Shrinks, move |tx| table::acknowledge(tx, seq))
    }

    /// Deletes records older than `before`; those that are in no batch yet are counted as lost. Returns how
    /// many were deleted.
    pub fn expire(&self, before: Timestamp) -> Ticket<u64> {
        self.writer.submit(Effect::Shrinks, move |tx| table::expire(tx, before))
    }

    /// Records ever lost in this file, by level.
    pub fn losses(&self) -> Ticket<BTreeMap<Level, u64>> {
        self.writer.submit(Effect::Keeps, |tx| table::losses(tx, table::Count::Ever))
    }

    /// Writes what waits and says whether it is written: for a stop in good order.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn close(self) -> Result<(), WriteError> {
        self.flush().wait()
    }
}

fn trimmed(mut record: Record) -> Record {
    record.message.truncate(record.message.floor_char_boundary(MESSAGE_BYTES_MAX));
    let bytes = serde_json::to_vec(&record.fields).map_or(usize::MAX, |json| json.len());
    if bytes > FIELDS_BYTES_MAX {
        let note = format!("{bytes} bytes, at most {FIELDS_BYTES_MAX} are kept");
        record.fields = BTreeMap::from([("fields_dropped".to_owned(), note.into())]);
    }
    record
}

fn seal(tx: &Connection) -> rusqlite::Result<Option<Batch>> {
    let chain = table::chain(tx)?;
    let entries = table::unsealed(tx, chain.sealed)?;
    let lost = table::losses(tx, table::Count::Untold)?;
    if entries.is_empty() && lost.is_empty() {
        return Ok(None);
    }
    let last = entries.last().map_or(chain.sealed, |entry| entry.seq);
    let mut lines = Vec::new();
    for entry in &entries {
        serde_json::to_writer(&mut lines, &entry.record).map_err(table::foreign)?;
        lines.push(b'\n');
    }
    let mut records = BTreeMap::new();
    for entry in &entries {
        *records.entry(entry.record.level).or_default() += 1;
    }
    let payload = zstd::encode_all(lines.as_slice(), ZSTD_LEVEL).map_err(table::foreign)?;
    let header = Header {
        chain: chain.id,
        seq: chain.next,
        prev: chain.prev,
        records,
        lost,
        payload: Digest::of(&payload),
    };
    let header_json = serde_json::to_string(&header).map_err(table::foreign)?;
    table::keep_batch(tx, &header_json, chain.next, &payload, last)?;
    Ok(Some(Batch { header, header_json, payload: Some(payload) }))
}
