//! Logs: records and the batches in which they go to the network.
//!
//! Writing is cheap: [`Logs::append`] puts a record in memory and returns; one group commit takes all that
//! came meanwhile. `logs.db` runs with `synchronous=NORMAL`: **a power cut may lose the last moment of
//! logs**, never the file, and never a job, which lies in another file.
//!
//! A batch has a number without gaps and the digest of the header before it. It is kept until it is
//! acknowledged, so the same bytes are sent again after a crash; its number makes that harmless. A
//! `logs.db` that had to be made anew begins another chain, and so does one whose chain the network cannot follow.
//!
//! Beside the network there may be other targets, each with a cursor of its own: a record goes when the network and every
//! required target has it, and those that are not required were offered it once. What a target does not get is counted for it.
//!
//! Whoever looks at the log on this machine is owed its newest part too, where [`Logs::keep_history`] says so: records that
//! everybody has stay while `logs.db` uses no more than [`history_bytes`], and are the first to go for what is new.
//!
//! When the limit is reached records go, the lowest level first, the oldest first; after them the payloads
//! of batches that nobody acknowledged. Every loss is counted and told in the next batch, that of records
//! which a full disk refused too. What is acknowledged or expires goes back to the disk.
//!
//! Limits: `logs.db` never outgrows its limit, not inside a commit either. The write-ahead log beside it
//! takes at most [`wal_bytes_max`]. Memory holds [`WAITING_MAX`] records and [`WAITING_BYTES_MAX`] bytes.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use node_types::{
    Digest, JobId, Timestamp,
    log::{BatchHeader, FIELDS_BYTES_MAX, Kind, Level, MESSAGE_BYTES_MAX, Record},
};
use rusqlite::Connection;

pub mod plan;
mod table;
mod targets;

use targets::Room;
pub use targets::{NETWORK, Target, TargetState, Waiting as WaitingFor};

use crate::{
    clock::Cutoff,
    format::PAGE_BYTES,
    nonsense::Nonsense,
    reader::{ReadError, Reader},
    writer::{Effect, Ticket, WAL_BYTES_MAX, WriteError, Writer},
};

/// Records that may wait in memory; more are lost, and counted.
pub const WAITING_MAX: usize = 65_536;
/// Bytes of records that may wait in memory, 8 MiB; more are lost, and counted. Also bounds one commit.
pub const WAITING_BYTES_MAX: usize = 8 << 20;
/// Bytes that `logs.db` may take until a snapshot says otherwise: 64 MiB.
pub const BYTES_MAX: u64 = 64 << 20;
/// The lowest limit of `logs.db` in bytes, 256 KiB: room for its tables and a few of the longest records.
pub const BYTES_MAX_LOWEST: u64 = 256 << 10;
/// Records in one batch at the most.
pub const BATCH_RECORDS_MAX: u32 = 10_000;
/// Bytes of a batch's records before compression at the most, 4 MiB; less where the limit of `logs.db` is low.
pub const BATCH_BYTES_MAX: u64 = 4 << 20;
/// Bytes that the write-ahead log beside `logs.db` takes at the most where `logs.db` has this limit and no
/// look keeps the log from being started anew.
///
/// The log is started anew when a commit has left it over [`WAL_BYTES_MAX`], so that it holds that and one
/// commit more. One commit writes no page twice (SQLite overwrites what an earlier part of the same commit
/// wrote), so it is never longer than the file; and the pages that it can touch are those that it fills and
/// those that it displaces: it takes what waited in memory once for all callers, and once more for what was
/// appended meanwhile.
#[must_use]
pub const fn wal_bytes_max(bytes_max: u64) -> u64 {
    let pages = bytes_max.div_ceil(PAGE_BYTES) + 1;
    WAL_BYTES_MAX + WAL_HEADER_BYTES + pages * (PAGE_BYTES + FRAME_HEADER_BYTES)
}

/// Bytes in use of `logs.db` up to which records stay that everybody has, where its history is kept: an eighth of its limit, and
/// 8 MiB at the most, as every look at what has timed out reads them.
#[must_use]
pub const fn history_bytes(bytes_max: u64) -> u64 {
    if bytes_max / 8 < HISTORY_BYTES_MAX { bytes_max / 8 } else { HISTORY_BYTES_MAX }
}

const HISTORY_BYTES_MAX: u64 = 8 << 20;

/// Bytes before the first frame and before each page of a write-ahead log (sqlite.org, "WAL-mode File Format").
const WAL_HEADER_BYTES: u64 = 32;
const FRAME_HEADER_BYTES: u64 = 24;

/// Records that one query returns at the most.
pub const QUERY_MAX: u32 = 10_000;
/// Compression level of a batch's payload (Zstandard, RFC 8878): fast.
const ZSTD_LEVEL: i32 = 3;
/// Bytes that a record takes beside its message and fields: its row and index entries, rounded up.
const RECORD_BYTES: usize = 64;
/// Bytes that a batch takes beside its payload, rounded up.
const HEADER_BYTES: u64 = 512;

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

/// A batch to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// What it says of itself.
    pub header: BatchHeader,
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

type Losses = BTreeMap<Level, u64>;

fn add(losses: &mut Losses, more: Losses) {
    for (level, count) in more {
        *losses.entry(level).or_default() += count;
    }
}

#[derive(Debug, Default)]
struct Waiting {
    records: Vec<Record>,
    bytes: usize,
    lost: Losses,
    /// A drain that will take them is on its way.
    scheduled: bool,
    /// Drains that took them and are not answered yet: there are any only within one commit.
    uncommitted: u32,
    /// Drains whose outcome is not known here: their number, and what is lost if it was not committed.
    doubtful: Vec<(u64, Losses)>,
}

/// What one request takes from memory to the database. It is dropped when the request has been answered,
/// whether it was committed, refused, or never run.
struct Drain {
    waiting: Arc<Mutex<Waiting>>,
    records: Vec<Record>,
    lost: Losses,
    /// 0 before it runs.
    number: u64,
    scheduled: bool,
}

impl Drain {
    fn run(&mut self, tx: &Connection, bytes_max: u64) -> rusqlite::Result<()> {
        let committed = table::drained(tx)?;
        let doubtful = {
            let mut waiting = lock(&self.waiting);
            if waiting.uncommitted > 0 && !self.scheduled {
                // What this was asked for an earlier drain of this commit has taken. Taking more would make
                // the commit as long as the callers are fast.
                return Ok(());
            }
            waiting.uncommitted += 1;
            self.records.append(&mut waiting.records);
            waiting.bytes = 0;
            if std::mem::take(&mut self.scheduled) {
                waiting.scheduled = false;
            }
            add(&mut self.lost, std::mem::take(&mut waiting.lost));
            std::mem::take(&mut waiting.doubtful)
        };
        for (number, losses) in doubtful {
            if number > committed {
                add(&mut self.lost, losses);
            }
        }
        self.number = committed + 1;
        table::set_drained(tx, self.number)?;
        for (level, count) in &self.lost {
            table::lose_for_all(tx, *level, *count)?;
        }
        table::keep_limit(tx, bytes_max)?;
        let mut room = step_bytes(bytes_max);
        for record in &self.records {
            // In steps: a commit may hold many times the limit.
            let bytes = record_bytes(record) as u64;
            if bytes > room {
                table::keep_limit(tx, bytes_max)?;
                room = step_bytes(bytes_max);
            }
            room = room.saturating_sub(bytes);
            table::insert(tx, record)?;
        }
        table::keep_limit(tx, bytes_max)
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        let mut waiting = lock(&self.waiting);
        if self.number > 0 {
            waiting.uncommitted -= 1;
        }
        if self.scheduled {
            // It never ran: the next record sends another.
            waiting.scheduled = false;
        }
        for record in &self.records {
            *self.lost.entry(record.level).or_default() += 1;
        }
        if !self.lost.is_empty() {
            waiting.doubtful.push((self.number, std::mem::take(&mut self.lost)));
        }
    }
}

/// Bytes that may be written between two looks at the limit: half of the eighth that
/// [`table::keep_limit`] leaves free, as pages are not filled to the last byte.
fn step_bytes(bytes_max: u64) -> u64 {
    bytes_max / 16
}

fn record_bytes(record: &Record) -> usize {
    RECORD_BYTES + record.message.len() + fields_bytes(record)
}

fn fields_bytes(record: &Record) -> usize {
    if record.fields.is_empty() {
        return 0;
    }
    serde_json::to_vec(&record.fields).map_or(usize::MAX, |json| json.len())
}

/// What can be asked about logs, beside a running Agent too: what is committed. What still waits in memory
/// comes with [`Logs::flush`].
#[derive(Clone, Debug)]
pub struct LogsView {
    reader: Arc<Reader>,
}

#[expect(clippy::missing_errors_doc, reason = "each fails with ReadError where the database cannot be read")]
impl LogsView {
    pub(crate) const fn new(reader: Arc<Reader>) -> Self {
        Self { reader }
    }

    /// Records, oldest first.
    pub fn query(&self, query: &Query) -> Result<Vec<Entry>, ReadError> {
        self.reader.read(|tx| table::query(tx, query))
    }

    /// Batches that are not acknowledged, oldest first, at most `limit`.
    pub fn batches(&self, limit: u32) -> Result<Vec<Batch>, ReadError> {
        self.reader.read(|tx| table::batches(tx, limit))
    }

    /// What rotation decides by, in one pass: records older than `before` are counted; none while time is held.
    pub(crate) fn rotation_facts(&self, before: Option<Cutoff>) -> Result<LogFacts, ReadError> {
        self.reader.read(|tx| {
            let count = before.map(|before| table::count_expired(tx, before.at())).transpose()?;
            let (past_ttl, unsent) = count.unwrap_or_default();
            let (used_bytes, unsealed) = (table::used_bytes(tx)?, table::count_unsealed(tx)?);
            Ok(LogFacts { used_bytes, past_ttl, unsent, unsealed, batches: table::batch_count(tx)? })
        })
    }

    /// Everybody who gets records, the network too, and how far each is.
    pub fn targets(&self) -> Result<Vec<TargetState>, ReadError> {
        self.reader.read(targets::states)
    }

    /// The oldest records that a target does not have, about `bytes_max` bytes of them and [`BATCH_RECORDS_MAX`] at the most,
    /// and the losses that it was not told of; `None` for one that is no target.
    pub fn waiting(&self, target: &str, bytes_max: u64) -> Result<Option<WaitingFor>, ReadError> {
        self.reader.read(|tx| targets::waiting(tx, target, bytes_max))
    }

    /// Records that the network will never have, ever, by level.
    pub fn losses(&self) -> Result<BTreeMap<Level, u64>, ReadError> {
        self.reader.read(|tx| table::losses(tx, table::Count::Ever))
    }
}

/// What rotation decides by: counts of records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogFacts {
    /// Bytes of `logs.db` in use.
    pub used_bytes: u64,
    /// Records whose time to live has ended; none while time is held.
    pub past_ttl: u64,
    /// Those of them that are in no batch.
    pub unsent: u64,
    /// Records in no batch.
    pub unsealed: u64,
    /// Batches that are not acknowledged.
    pub batches: u64,
}

/// The logs of a volume.
#[derive(Debug)]
pub struct Logs {
    writer: Arc<Writer>,
    view: LogsView,
    waiting: Arc<Mutex<Waiting>>,
    bytes_max: Arc<Mutex<u64>>,
    keeps_history: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing in here panics while it holds the lock half-changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Logs {
    pub(crate) fn new(writer: Arc<Writer>, view: LogsView, bytes_max: u64) -> Self {
        let keeps_history = AtomicBool::new(false);
        let this = Self { writer, view, waiting: Arc::default(), bytes_max: Arc::default(), keeps_history };
        this.set_bytes_max(bytes_max);
        this
    }

    /// What can be asked about them.
    #[must_use]
    pub const fn view(&self) -> &LogsView {
        &self.view
    }

    /// Sets the limit in bytes of `logs.db`, at least [`BYTES_MAX_LOWEST`]. It is enforced with the next
    /// write.
    pub fn set_bytes_max(&self, bytes_max: u64) {
        *lock(&self.bytes_max) = bytes_max.max(BYTES_MAX_LOWEST);
    }

    /// The limit in bytes of `logs.db`.
    #[must_use]
    pub fn bytes_max(&self) -> u64 {
        *lock(&self.bytes_max)
    }

    /// Says whether records that everybody has stay for those who look: up to [`history_bytes`]. As it begins they go at once. It is
    /// heeded with the next that could go.
    pub fn keep_history(&self, keep: bool) {
        self.keeps_history.store(keep, Relaxed);
    }

    /// Takes a record. Never blocks on the disk and never fails: what cannot be kept is counted.
    ///
    /// A message over [`MESSAGE_BYTES_MAX`] is cut; fields over [`FIELDS_BYTES_MAX`] are replaced by a note.
    pub fn append(&self, record: Record) {
        let record = trimmed(record);
        let bytes = record_bytes(&record);
        let mut waiting = lock(&self.waiting);
        if waiting.records.len() >= WAITING_MAX || waiting.bytes.saturating_add(bytes) > WAITING_BYTES_MAX {
            *waiting.lost.entry(record.level).or_default() += 1;
        } else {
            waiting.records.push(record);
            waiting.bytes += bytes;
        }
        if !std::mem::replace(&mut waiting.scheduled, true) {
            drop(waiting);
            // The answer is of no use here: the next drain counts what this one did not commit.
            drop(self.drain(true));
        }
    }

    /// Answers when all that was appended before is committed.
    pub fn flush(&self) -> Ticket<()> {
        self.drain(false)
    }

    fn drain(&self, scheduled: bool) -> Ticket<()> {
        let bytes_max = Arc::clone(&self.bytes_max);
        let waiting = Arc::clone(&self.waiting);
        // Kept in the request: it runs again if the group has to.
        let mut drain = Drain { waiting, records: Vec::new(), lost: Losses::new(), number: 0, scheduled };
        self.writer.submit(Effect::Grows, move |tx| {
            let bytes_max = *lock(&bytes_max);
            drain.run(tx, bytes_max)
        })
    }

    /// Seals the oldest records that are in no batch yet, and the losses not told of, into a batch; `None`
    /// if there are neither, or if the headers of batches that wait for their acknowledgement take an eighth
    /// of the limit.
    ///
    /// Unlike records a batch is on disk when this answers: it may have been sent when the power goes, and no other
    /// one must ever have its number.
    pub fn seal(&self) -> Ticket<Option<Batch>> {
        let bytes_max = Arc::clone(&self.bytes_max);
        self.writer.submit_synced(Effect::Grows, move |tx| {
            let bytes_max = *lock(&bytes_max);
            seal(tx, bytes_max)
        })
    }

    /// The network has all batches up to `seq`: they and those of their records that nobody is owed any more are deleted, a
    /// commit's worth of them; call again until it returns 0. Returns how many batches and records went.
    ///
    /// In steps, as on a full disk all at once would need as much room in the write-ahead log as it frees.
    pub fn acknowledge(&self, seq: u64) -> Ticket<u64> {
        let room = self.release_room();
        self.writer.submit(Effect::Shrinks, move |tx| table::acknowledge(tx, seq, room))
    }

    /// The network cannot follow the chain, as where this volume is an older copy of one that went on: what it does not have goes
    /// into batches of another chain. What cannot be told again, because the limit or the time to live took it after it was put into
    /// a batch, is counted as lost. In steps, as [`Logs::acknowledge`]: call again until it returns 0, the other chain is begun then.
    /// Returns how many batches were taken apart.
    pub fn begin_chain_anew(&self) -> Ticket<u64> {
        let bytes_max = self.writer.delete_bytes_max();
        self.writer.submit_synced(Effect::Shrinks, move |tx| table::begin_chain_anew(tx, bytes_max))
    }

    fn release_room(&self) -> Room {
        let history = if self.keeps_history.load(Relaxed) { history_bytes(self.bytes_max()) } else { 0 };
        Room { bytes_max: self.writer.delete_bytes_max(), history }
    }

    /// Says who gets records beside the network: whoever is not named any more is forgotten, and a new one begins with what is
    /// there.
    pub fn set_targets(&self, wanted: Vec<Target>) -> Ticket<()> {
        let room = self.release_room();
        self.writer.submit(Effect::Keeps, move |tx| {
            targets::set(tx, &wanted)?;
            targets::release(tx, room).map(|_| ())
        })
    }

    /// A target has all records up to the number `last` but `rejected` of them, and was told of the losses `told`. Records that
    /// nobody is owed any more go, a commit's worth of them. Returns how many went.
    pub fn delivered(
        &self,
        target: &str,
        last: u64,
        told: BTreeMap<Level, u64>,
        rejected: u64,
    ) -> Ticket<u64> {
        let target = target.to_owned();
        self.release_after(move |tx| {
            targets::reach(tx, &target, last)?;
            targets::told(tx, &target, &told, rejected)
        })
    }

    /// A target will never take the records up to the number `last`: those it does not have are lost for it, and counted.
    /// Returns how many records went, as [`Logs::delivered`] does.
    pub fn given_up(&self, target: &str, last: u64) -> Ticket<u64> {
        let target = target.to_owned();
        self.release_after(move |tx| targets::give_up(tx, &target, last))
    }

    /// A target was offered the records up to the number `last` and could not take them now: one that is not required holds
    /// them no longer. Returns how many records went, as [`Logs::delivered`] does.
    pub fn tried(&self, target: &str, last: u64) -> Ticket<u64> {
        let target = target.to_owned();
        self.release_after(move |tx| targets::try_up_to(tx, &target, last))
    }

    fn release_after(
        &self,
        step: impl Fn(&Connection) -> rusqlite::Result<()> + Send + 'static,
    ) -> Ticket<u64> {
        let room = self.release_room();
        self.writer.submit(Effect::Shrinks, move |tx| {
            step(tx)?;
            targets::release(tx, room).map(|(rows, _)| rows)
        })
    }

    /// Deletes records older than `before`, a commit's worth of them; call again until it returns 0. Those that
    /// are in no batch yet are counted as lost. Returns how many were deleted.
    pub fn expire(&self, before: Cutoff) -> Ticket<u64> {
        let bytes_max = self.writer.delete_bytes_max();
        self.writer.submit(Effect::Shrinks, move |tx| table::expire(tx, before.at(), bytes_max))
    }

    /// Drops what is over `bytes_max` as [`plan`] says: for a limit that was lowered while nothing is written.
    pub fn keep_limit(&self, bytes_max: u64) -> Ticket<()> {
        let bytes_max = bytes_max.max(BYTES_MAX_LOWEST);
        self.writer.submit(Effect::Shrinks, move |tx| table::keep_limit(tx, bytes_max))
    }

    /// Writes what waits and says whether it is written: for a stop in good order.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn close(self) -> Result<(), WriteError> {
        self.flush().wait()
    }
}

/// Rows that can be read but make no sense.
pub(crate) fn nonsense(tx: &Connection) -> rusqlite::Result<Vec<Nonsense>> {
    table::nonsense(tx)
}

/// Whether a record was ever written here.
pub(crate) fn was_used(tx: &Connection) -> rusqlite::Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'records')";
    tx.query_row(sql, (), |row| row.get(0))
}

/// Begins another chain of batches in a copy that was restored.
pub(crate) fn begin_chain_anew(tx: &Connection) -> rusqlite::Result<()> {
    while table::begin_chain_anew(tx, u64::MAX)? > 0 {}
    Ok(())
}

/// Makes what was saved of a damaged database agree with itself.
pub(crate) fn mend(tx: &Connection) -> rusqlite::Result<()> {
    table::mend(tx)
}

fn trimmed(mut record: Record) -> Record {
    record.message.truncate(record.message.floor_char_boundary(MESSAGE_BYTES_MAX));
    let bytes = fields_bytes(&record);
    if bytes > FIELDS_BYTES_MAX {
        let note = format!("{bytes} bytes, at most {FIELDS_BYTES_MAX} are kept");
        record.fields = BTreeMap::from([("fields_dropped".to_owned(), note.into())]);
    }
    record
}

fn seal(tx: &Connection, bytes_max: u64) -> rusqlite::Result<Option<Batch>> {
    if table::batch_count(tx)? >= bytes_max / 8 / HEADER_BYTES {
        return Ok(None);
    }
    table::keep_limit(tx, bytes_max)?;
    let chain = table::chain(tx)?;
    let entries = table::unsealed(tx, chain.sealed, BATCH_BYTES_MAX.min(step_bytes(bytes_max)))?;
    let lost = table::losses(tx, table::Count::Untold)?;
    if entries.is_empty() && lost.is_empty() {
        return Ok(None);
    }
    let last = entries.last().map_or(chain.sealed, |(entry, _)| entry.seq);
    let (mut lines, mut records) = (Vec::new(), BTreeMap::new());
    for (entry, line) in entries {
        lines.extend(line);
        *records.entry(entry.record.level).or_default() += 1;
    }
    let payload = zstd::encode_all(lines.as_slice(), ZSTD_LEVEL).map_err(table::foreign)?;
    let header = BatchHeader {
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

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::mpsc};

    use node_types::{Address, Network, NodeId, VolumeId};
    use rusqlite::ffi;

    use super::*;
    use crate::{disk::RealDisk, format::Stamp, volume::Volume, writer::Room};

    fn logs(folder: &Path) -> Logs {
        let network = Network::Testnet;
        let node = NodeId::derive(network, &Address::from_bytes([1; 20]));
        let stamp = Stamp { network, node, volume: VolumeId::from_bytes([2; 16]) };
        let disk: Arc<dyn crate::disk::Disk> = Arc::new(RealDisk);
        Volume::create(&disk, &folder.join("testnet"), stamp, 0, Timestamp::EPOCH).unwrap().logs(1 << 20)
    }

    fn record() -> Record {
        Record::new(Timestamp::EPOCH, Level::Warn, Kind::Agent, "something")
    }

    /// What is committed when everything queued so far has run.
    fn shown(logs: &Logs) -> Result<Vec<Entry>, ReadError> {
        logs.writer.submit(Effect::Keeps, |_| Ok(())).wait().unwrap();
        logs.view().query(&Query::default())
    }

    fn disk_full() -> rusqlite::Result<()> {
        Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_FULL), None))
    }

    /// Runs `queue` while the writer is held up, so that all it submits is one group.
    fn one_group(logs: &Logs, queue: impl FnOnce()) {
        let (go, held) = mpsc::channel::<()>();
        let (started, running) = mpsc::channel();
        let mut holding = logs.writer.submit(Effect::Keeps, move |_| {
            started.send(()).unwrap();
            held.recv().unwrap();
            Ok(())
        });
        holding.begin();
        running.recv().unwrap();
        queue();
        go.send(()).unwrap();
        holding.wait().unwrap();
    }

    #[test]
    fn records_that_a_full_disk_refuses_are_counted() {
        let home = tempfile::tempdir().unwrap();
        let logs = logs(home.path());
        let mut refused = None;
        one_group(&logs, || {
            logs.append(record());
            logs.append(record());
            refused = Some(logs.writer.submit(Effect::Grows, |_| disk_full()));
        });
        assert!(matches!(refused.unwrap().wait(), Err(WriteError::Full { .. })));
        logs.append(record());
        logs.flush().wait().unwrap();
        assert_eq!(shown(&logs).unwrap().len(), 1);
        assert_eq!(logs.view().losses().unwrap(), BTreeMap::from([(Level::Warn, 2)]));
        logs.flush().wait().unwrap();
        assert_eq!(logs.view().losses().unwrap(), BTreeMap::from([(Level::Warn, 2)]), "counted once");
    }

    /// The disk fills up inside a commit: what yields is asked again, and answers for itself.
    #[test]
    fn what_yields_hears_of_a_disk_that_fills_up_and_answers_itself() {
        let home = tempfile::tempdir().unwrap();
        let logs = logs(home.path());
        let (mut refused, mut yielded) = (None, None);
        one_group(&logs, || {
            yielded = Some(logs.writer.submit_yielding(0, |_, room| Ok(room)));
            refused = Some(logs.writer.submit(Effect::Grows, |_| disk_full()));
        });
        assert!(matches!(refused.unwrap().wait(), Err(WriteError::Full { .. })));
        assert_eq!(yielded.unwrap().wait().unwrap(), Room::Low);
        assert_eq!(logs.writer.submit_yielding(0, |_, room| Ok(room)).wait().unwrap(), Room::Enough);
    }

    /// A drain that is refused before it runs leaves its records in memory. The one that the next record
    /// sends must take them: once, none was ever sent again.
    #[test]
    fn after_a_full_disk_the_next_record_is_written_unasked() {
        let home = tempfile::tempdir().unwrap();
        let logs = logs(home.path());
        let mut refused = None;
        one_group(&logs, || {
            refused = Some(logs.writer.submit(Effect::Grows, |_| disk_full()));
            logs.append(record());
        });
        assert!(matches!(refused.unwrap().wait(), Err(WriteError::Full { .. })));
        // Behind the refused group: its drain has been dropped when this is answered.
        assert!(shown(&logs).unwrap().is_empty());
        logs.append(record());
        assert_eq!(shown(&logs).unwrap().len(), 2);
        assert!(logs.view().losses().unwrap().is_empty());
    }

    #[test]
    fn what_does_not_fit_memory_is_counted() {
        let home = tempfile::tempdir().unwrap();
        let logs = logs(home.path());
        let beyond = 3;
        one_group(&logs, || {
            for _ in 0..WAITING_MAX + beyond {
                logs.append(Record { message: String::new(), ..record() });
            }
        });
        logs.flush().wait().unwrap();
        let last = shown(&logs).unwrap().last().unwrap().seq;
        assert_eq!(last, WAITING_MAX as u64);
        let lost: u64 = logs.view().losses().unwrap().values().sum();
        let left = logs.writer.submit(Effect::Keeps, |tx| {
            tx.query_row("SELECT count(*) FROM records", (), |row| row.get::<_, u64>(0))
        });
        assert_eq!(left.wait().unwrap() + lost, (WAITING_MAX + beyond) as u64);
    }

    #[test]
    fn long_records_fill_memory_by_their_bytes() {
        let home = tempfile::tempdir().unwrap();
        let logs = logs(home.path());
        let long = Record { message: "x".repeat(MESSAGE_BYTES_MAX), ..record() };
        one_group(&logs, || {
            for _ in 0..2 * WAITING_BYTES_MAX / MESSAGE_BYTES_MAX {
                logs.append(long.clone());
            }
            assert!(lock(&logs.waiting).bytes <= WAITING_BYTES_MAX);
            assert!(lock(&logs.waiting).lost[&Level::Warn] >= 1024);
        });
    }
}
