//! The rows of `jobs.db` that jobs and their traces are made of: reading and writing, no deciding.

use node_types::{
    Digest, JobId, Network, Timestamp,
    job::{Failure, FailureKind, Job, Mode, ModelRef, Output, Request},
    trace::{Event, Outcome, ReleaseReason, Standing, Step, Trace, last_lease},
    verify::Floor,
};
use rusqlite::{
    Connection, OptionalExtension, Row,
    types::{Type, Value},
};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    BATCH_MAX, Field, JobRules, OUTBOX_BYTES_MAX, SETTLED_BYTES, SETTLED_MARGIN_MS, TRACE_ROW_BYTES,
    Tampered, seal::Sealed, seal::Sealer,
};
use crate::nonsense::{Nonsense, bad_rows, floor as floor_nonsense, no_row, wrong, wrong_numbers};

/// Bytes that a job takes beside its payloads: its row, its index entries and its trace, rounded up.
const ROW_BYTES: u64 = 1024;

/// Counts of the jobs held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Jobs held, in any state.
    pub jobs: u64,
    /// Bytes they take, and [`SETTLED_BYTES`] for each ended one that is remembered.
    pub bytes: u64,
    /// Jobs that ever expired in this volume.
    pub expired: u64,
    /// Bytes that the traces of ended jobs take.
    pub trace_bytes: u64,
    /// Traces that were ever deleted before the network had them.
    pub traces_lost: u64,
}

/// What a deletion of traces took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Traces deleted.
    pub traces: u64,
    /// Those of them that the network does not have.
    pub lost: u64,
}

/// Which traces a look counts or a step deletes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Traces {
    /// Of jobs that ended at this moment or before.
    EndedBy(Timestamp),
    /// Of other snapshots than this one, for which an upload was tried or done.
    TriedOfOthers(Digest),
}

impl Traces {
    /// A condition on `traces` and its value.
    fn condition(self) -> (&'static str, Value) {
        match self {
            Self::EndedBy(moment) => {
                ("ended_at <= ?1", Value::Integer(i64::try_from(moment.ms()).unwrap_or(i64::MAX)))
            }
            Self::TriedOfOthers(config) => {
                ("upload > 0 AND config <> ?1", Value::Blob(config.as_bytes().to_vec()))
            }
        }
    }
}

/// `traces.upload`: an upload was tried.
const TRIED: u8 = 1;
/// `traces.upload`: the network has it.
const UPLOADED: u8 = 2;

/// A leased job: run it and answer before `expires_at`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leased {
    /// The job, as it was accepted.
    pub job: Job,
    /// Which attempt this is, counted from 1.
    pub attempt: u16,
}

/// That a volume is a restored copy, and its jobs wait for the network's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fence {
    /// When the backup was made.
    pub backed_up_at: Timestamp,
    /// When it was restored.
    pub restored_at: Timestamp,
    /// Jobs that wait for the network's word.
    pub jobs: u64,
}

/// That the node was moved away: no Agent runs on this volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retired {
    /// When.
    pub at: Timestamp,
    /// The archive that it was moved into.
    pub archive: String,
    /// The number in the archive's manifest.
    pub transfer: String,
}

/// What is to be sent for a job that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Its place in the order of acceptance.
    pub seq: u64,
    /// The job.
    pub job: JobId,
    /// Its answer, or why there is none.
    pub result: Result<Output, Failure>,
}

/// A job whose time ended before its acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expired {
    /// The job.
    pub job: JobId,
    /// Where it stood.
    pub state: Standing,
    /// When it was ended.
    pub at: Timestamp,
}

/// A job that is held, without what it asks and answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its place in the order of acceptance.
    pub seq: u64,
    /// The job.
    pub job: JobId,
    /// Where it stands.
    pub standing: Standing,
    /// The model that it asks for.
    pub model: ModelRef,
    /// And what of it.
    pub mode: Mode,
    /// 0 to 255; higher runs first.
    pub priority: u8,
    /// When it was taken.
    pub accepted_at: Timestamp,
    /// The moment from which it is worth nothing.
    pub expires_at: Timestamp,
    /// How often it was started.
    pub attempt: u16,
    /// How often it may be.
    pub attempts_max: u16,
    /// Bytes that it takes.
    pub bytes: u64,
}

/// Jobs held, by standing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Waiting for the runtime.
    pub queued: u64,
    /// With the runtime.
    pub running: u64,
    /// Answers and failures that the network has not acknowledged.
    pub unsent: u64,
}

/// Jobs without an answer that ask for the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queued {
    /// Of which model.
    pub model: ModelRef,
    /// And what of it.
    pub mode: Mode,
    /// How many wait.
    pub queued: u64,
    /// How many are with the runtime.
    pub running: u64,
}

/// Everything known of a job, in order. `None`: not known any more, as a job leaves little behind.
#[derive(Clone, Debug, PartialEq)]
pub struct Story {
    /// Where it stands, or how it ended.
    pub now: Result<Standing, Outcome>,
    /// The model that it asks for.
    pub model: Option<ModelRef>,
    /// And what of it.
    pub mode: Option<Mode>,
    /// The snapshot that it was taken under.
    pub config: Option<Digest>,
    /// Its priority; of jobs that have not ended.
    pub priority: Option<u8>,
    /// The moment from which it is worth nothing.
    pub expires_at: Option<Timestamp>,
    /// How often it was started.
    pub attempts: Option<u16>,
    /// How often it may be; of jobs that have not ended.
    pub attempts_max: Option<u16>,
    /// Its trace so far; `None` where it was deleted with its snapshot.
    pub trace: Option<Vec<Event>>,
    /// Whether the network has its trace; of jobs that have ended.
    pub trace_uploaded: Option<bool>,
    /// When it ended, if it did.
    pub ended_at: Option<Timestamp>,
    /// Whether the network has been told how it ended.
    pub reported: bool,
}

impl Story {
    fn of_held(job: Held) -> rusqlite::Result<Self> {
        Ok(Self {
            now: Ok(job.standing),
            trace: Some(events(19, &job.events)?),
            model: Some(job.model),
            mode: Some(job.mode),
            config: Some(job.config),
            priority: Some(job.priority),
            expires_at: Some(job.expires_at),
            attempts: Some(job.attempt),
            attempts_max: Some(job.attempts_max),
            trace_uploaded: None,
            ended_at: None,
            reported: false,
        })
    }

    /// Of a job that ended as `outcome`, and what its trace tells.
    fn of_ended(outcome: Outcome, trace: Option<(Trace, bool)>) -> Self {
        let (trace, trace_uploaded) = trace.unzip();
        let attempts = |trace: &Trace| last_lease(&trace.events).map_or(0, |(attempt, _)| attempt);
        Self {
            now: Err(outcome),
            model: trace.as_ref().map(|trace| trace.model.clone()),
            mode: trace.as_ref().map(|trace| trace.mode),
            config: trace.as_ref().map(|trace| trace.config),
            priority: None,
            expires_at: None,
            attempts: trace.as_ref().map(attempts),
            attempts_max: None,
            ended_at: trace.as_ref().and_then(ended_at),
            trace: trace.map(|trace| trace.events),
            trace_uploaded,
            reported: true,
        }
    }
}

fn ended_at(trace: &Trace) -> Option<Timestamp> {
    trace.events.last().map(|event| event.at)
}

/// A value that serde cannot read or write where SQLite would say so.
pub(super) fn foreign(error: impl std::error::Error + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(Box::new(error))
}

fn word<T: Serialize>(value: &T) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(foreign)
}

fn unword<T: DeserializeOwned>(column: usize, text: &str) -> rusqlite::Result<T> {
    serde_json::from_str(text)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error)))
}

fn time(row: &Row<'_>, column: usize) -> rusqlite::Result<Timestamp> {
    row.get::<_, u64>(column).map(Timestamp::from_ms)
}

const fn code(standing: Standing) -> u8 {
    match standing {
        Standing::Queued => 0,
        Standing::Running => 1,
        Standing::Finished => 2,
        Standing::Failed => 3,
    }
}

fn standing(row: &Row<'_>, column: usize) -> rusqlite::Result<Standing> {
    let found: u8 = row.get(column)?;
    [Standing::Queued, Standing::Running, Standing::Finished, Standing::Failed]
        .into_iter()
        .find(|standing| code(*standing) == found)
        .ok_or(rusqlite::Error::IntegralValueOutOfRange(column, found.into()))
}

fn field_key(seq: u64, field: Field) -> u64 {
    seq * 2 + u64::from(field.code())
}

fn event(at: Timestamp, step: Step) -> rusqlite::Result<String> {
    word(&Event { at, step }).map(|line| line + "\n")
}

fn events(column: usize, lines: &str) -> rusqlite::Result<Vec<Event>> {
    lines.lines().map(|line| unword(column, line)).collect()
}

/// A job about to be written.
pub(super) struct NewJob {
    pub(super) id: JobId,
    pub(super) bytes: u64,
    pub(super) expires_at: Timestamp,
    digest: [u8; 32],
    sealed: Sealed,
    config: Digest,
    accepted_at: Timestamp,
    priority: u8,
    attempts_max: u16,
    max_tokens: u32,
    mode: Mode,
    model: ModelRef,
}

impl NewJob {
    pub(super) fn of(
        job: &Job,
        digest: [u8; 32],
        sealed: Sealed,
        config: Digest,
        accepted_at: Timestamp,
    ) -> Self {
        Self {
            id: job.id,
            bytes: sealed.ciphertext.len() as u64 + ROW_BYTES,
            digest,
            sealed,
            config,
            accepted_at,
            expires_at: job.expires_at,
            priority: job.priority,
            attempts_max: job.attempts_max,
            max_tokens: job.max_tokens,
            mode: job.mode,
            model: job.model.clone(),
        }
    }
}

/// What an offered job is judged by beside the rules.
pub(super) struct Counted {
    /// The digest of the job that is held, or has ended, under its id.
    pub(super) known: Option<[u8; 32]>,
    pub(super) high_water: Timestamp,
    jobs: u64,
    bytes: u64,
    seq: u64,
    screened: Option<Digest>,
}

/// Looks all of it up in one statement.
pub(super) fn counted(tx: &Connection, id: JobId) -> rusqlite::Result<Counted> {
    tx.prepare_cached(
        "SELECT high_water_ms, jobs, bytes, seq, screened,
             ifnull((SELECT digest FROM jobs WHERE id = ?1), (SELECT digest FROM settled WHERE id = ?1))
         FROM tally",
    )?
    .query_row([id.as_bytes()], |row| {
        Ok(Counted {
            high_water: time(row, 0)?,
            jobs: row.get(1)?,
            bytes: row.get(2)?,
            seq: row.get(3)?,
            screened: row.get::<_, Option<[u8; 32]>>(4)?.map(Digest::from_bytes),
            known: row.get(5)?,
        })
    })
}

/// Whether there is room for one more job.
pub(super) fn has_place(counted: &Counted, job: &NewJob, rules: &JobRules) -> bool {
    counted.jobs < rules.jobs_max && counted.bytes.saturating_add(job.bytes) <= rules.bytes_max
}

/// Whether jobs take `bytes_max` and acknowledgements can change that.
pub(super) fn answers_fill(tx: &Connection, bytes_max: u64) -> rusqlite::Result<bool> {
    let bytes: u64 = tx.prepare_cached("SELECT bytes FROM tally")?.query_row((), |row| row.get(0))?;
    if bytes < bytes_max {
        return Ok(false);
    }
    tx.prepare_cached("SELECT EXISTS (SELECT 1 FROM jobs WHERE state IN (2, 3))")?
        .query_row((), |row| row.get(0))
}

/// Writes a job under the next sequence number, which no other job had or will have, and counts it.
pub(super) fn insert(tx: &Connection, counted: &Counted, job: &NewJob) -> rusqlite::Result<()> {
    let seq = counted.seq + 1;
    // One of another snapshot than the queue was screened for: not by RETURNING, which makes a table of its own
    // for each job.
    let screened = counted.screened.filter(|screened| *screened == job.config);
    tx.prepare_cached("UPDATE tally SET jobs = ?1, bytes = ?2, seq = ?3, high_water_ms = ?4, screened = ?5")?
        .execute((
            counted.jobs + 1,
            counted.bytes + job.bytes,
            seq,
            counted.high_water.max(job.accepted_at).ms(),
            screened.as_ref().map(Digest::as_bytes),
        ))?;
    insert_row(tx, seq, job)
}

fn insert_row(tx: &Connection, seq: u64, job: &NewJob) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "INSERT INTO jobs (id, state, priority, expires_at, accepted_at, attempts_max, max_tokens, mode,
             model_name, model_version, config, digest, wrapped_key, bytes, events, seq)
         VALUES (?1, 0, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)",
    )?
    .execute(rusqlite::params![
        job.id.as_bytes(),
        job.priority,
        job.expires_at.ms(),
        job.accepted_at.ms(),
        job.attempts_max,
        job.max_tokens,
        word(&job.mode)?,
        job.model.name,
        job.model.version,
        job.config.as_bytes(),
        job.digest,
        job.sealed.wrapped_key,
        job.bytes,
        event(job.accepted_at, Step::Accepted)?,
        seq,
    ])?;
    put_payload(tx, seq, Field::Request, &job.sealed.ciphertext)
}

fn put_payload(tx: &Connection, seq: u64, field: Field, ciphertext: &[u8]) -> rusqlite::Result<()> {
    tx.prepare_cached("INSERT INTO payloads (field, ciphertext) VALUES (?1, ?2)")?
        .execute((field_key(seq, field), ciphertext))
        .map(|_| ())
}

/// A job's row.
pub(super) struct Held {
    seq: u64,
    pub(super) id: JobId,
    pub(super) standing: Standing,
    pub(super) expires_at: Timestamp,
    pub(super) attempt: u16,
    pub(super) attempts_max: u16,
    pub(super) wrapped_key: Vec<u8>,
    priority: u8,
    leased_at: Option<Timestamp>,
    max_tokens: u32,
    mode: Mode,
    model: ModelRef,
    config: Digest,
    digest: [u8; 32],
    pub(super) bytes: u64,
    failure: Option<FailureKind>,
    prompt_tokens: u32,
    completion_tokens: u32,
    events: String,
}

const COLUMNS: &str = "seq, id, state, expires_at, attempt, attempts_max, wrapped_key, priority, leased_at,
    max_tokens, mode, model_name, model_version, config, digest, bytes, failure,
    ifnull(prompt_tokens, 0), ifnull(completion_tokens, 0), events";

impl Held {
    fn listed(self, tx: &Connection) -> rusqlite::Result<Listed> {
        let accepted_at = tx
            .prepare_cached("SELECT accepted_at FROM jobs WHERE seq = ?1")?
            .query_row([self.seq], |row| row.get(0).map(Timestamp::from_ms))?;
        Ok(Listed {
            seq: self.seq,
            job: self.id,
            standing: self.standing,
            model: self.model,
            mode: self.mode,
            priority: self.priority,
            accepted_at,
            expires_at: self.expires_at,
            attempt: self.attempt,
            attempts_max: self.attempts_max,
            bytes: self.bytes,
        })
    }

    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let failure: Option<String> = row.get(16)?;
        Ok(Self {
            seq: row.get(0)?,
            id: JobId::from_bytes(row.get(1)?),
            standing: standing(row, 2)?,
            expires_at: time(row, 3)?,
            attempt: row.get(4)?,
            attempts_max: row.get(5)?,
            wrapped_key: row.get(6)?,
            priority: row.get(7)?,
            leased_at: row.get::<_, Option<u64>>(8)?.map(Timestamp::from_ms),
            max_tokens: row.get(9)?,
            mode: unword(10, &row.get::<_, String>(10)?)?,
            model: ModelRef { name: row.get(11)?, version: row.get(12)? },
            config: Digest::from_bytes(row.get(13)?),
            digest: row.get(14)?,
            bytes: row.get(15)?,
            failure: failure.map(|text| unword(16, &text)).transpose()?,
            prompt_tokens: row.get(17)?,
            completion_tokens: row.get(18)?,
            events: row.get(19)?,
        })
    }

    pub(super) fn leased(self, network: Network, request: Request, attempt: u16) -> Leased {
        let job = Job {
            id: self.id,
            network,
            model: self.model,
            mode: self.mode,
            request,
            priority: self.priority,
            max_tokens: self.max_tokens,
            expires_at: self.expires_at,
            attempts_max: self.attempts_max,
        };
        Leased { job, attempt }
    }

    fn ran_ms(&self, now: Timestamp) -> u64 {
        self.leased_at.map_or(0, |leased| now.since_ms(leased))
    }
}

fn select(tx: &Connection, rest: &str, values: impl rusqlite::Params) -> rusqlite::Result<Vec<Held>> {
    tx.prepare_cached(&format!("SELECT {COLUMNS} FROM jobs {rest}"))?.query_map(values, Held::read)?.collect()
}

pub(super) fn held(tx: &Connection, id: JobId) -> rusqlite::Result<Option<Held>> {
    select(tx, "WHERE id = ?1", [id.as_bytes()]).map(|mut rows| rows.pop())
}

/// The next job to run, of any model but those in `except`: names and versions.
pub(super) fn next_queued(
    tx: &Connection,
    except: &[[String; 2]],
    now: Timestamp,
) -> rusqlite::Result<Option<Held>> {
    let rest = "WHERE state = 0 AND fenced = 0 AND expires_at > ?1
        AND (model_name, model_version) NOT IN (SELECT value ->> 0, value ->> 1 FROM json_each(?2))
        ORDER BY priority DESC, seq LIMIT 1";
    let except = serde_json::to_string(except).map_err(foreign)?;
    select(tx, rest, (now.ms(), except)).map(|mut rows| rows.pop())
}

pub(super) fn in_standing(tx: &Connection, standing: Standing) -> rusqlite::Result<Vec<Held>> {
    select(tx, "WHERE state = ?1 ORDER BY seq", [code(standing)])
}

/// The snapshot whose rules all queued jobs keep, if that is known: finding out reads the whole queue.
pub(super) fn screened(tx: &Connection) -> rusqlite::Result<Option<Digest>> {
    tx.prepare_cached("SELECT screened FROM tally")?
        .query_row((), |row| Ok(row.get::<_, Option<[u8; 32]>>(0)?.map(Digest::from_bytes)))
}

pub(super) fn set_screened(tx: &Connection, config: Digest) -> rusqlite::Result<()> {
    tx.prepare_cached("UPDATE tally SET screened = ?1")?.execute([config.as_bytes()]).map(|_| ())
}

pub(super) fn past_deadline(tx: &Connection, now: Timestamp) -> rusqlite::Result<Vec<Held>> {
    select(tx, "WHERE expires_at <= ?1 ORDER BY expires_at LIMIT ?2", (now.ms(), BATCH_MAX))
}

/// Jobs that stand at one of these, by model and mode.
pub(super) fn kinds_in(tx: &Connection, standings: &[Standing]) -> rusqlite::Result<Vec<Queued>> {
    let codes: Vec<_> = standings.iter().map(|standing| code(*standing).to_string()).collect();
    tx.prepare_cached(&format!(
        "SELECT model_name, model_version, mode, sum(state = 0), sum(state = 1) FROM jobs
         WHERE state IN ({}) GROUP BY 1, 2, 3",
        codes.join(", ")
    ))?
    .query_map((), |row| {
        Ok(Queued {
            model: ModelRef { name: row.get(0)?, version: row.get(1)? },
            mode: unword(2, &row.get::<_, String>(2)?)?,
            queued: row.get(3)?,
            running: row.get(4)?,
        })
    })?
    .collect()
}

/// Queued jobs of one model and mode, at most [`BATCH_MAX`].
pub(super) fn queued_of(tx: &Connection, model: &ModelRef, mode: Mode) -> rusqlite::Result<Vec<Held>> {
    let rest = "WHERE state = 0 AND model_name = ?1 AND model_version = ?2 AND mode = ?3 LIMIT ?4";
    select(tx, rest, (&model.name, &model.version, word(&mode)?, BATCH_MAX))
}

fn count(tx: &Connection, sql: &str, values: impl rusqlite::Params) -> rusqlite::Result<u64> {
    tx.prepare_cached(sql)?.query_row(values, |row| row.get(0))
}

pub(super) fn count_standing(tx: &Connection, standing: Standing) -> rusqlite::Result<u64> {
    count(tx, "SELECT count(*) FROM jobs WHERE state = ?1", [code(standing)])
}

pub(super) fn counts(tx: &Connection) -> rusqlite::Result<Counts> {
    Ok(Counts {
        queued: count_standing(tx, Standing::Queued)?,
        running: count_standing(tx, Standing::Running)?,
        unsent: count_unsent(tx)?,
    })
}

/// Answers and failures that the network has not acknowledged.
pub(super) fn count_unsent(tx: &Connection) -> rusqlite::Result<u64> {
    Ok(count_standing(tx, Standing::Finished)? + count_standing(tx, Standing::Failed)?)
}

/// Of each priority the first in the queue, by the index alone: the queue may be long.
pub(super) fn oldest_queued(tx: &Connection) -> rusqlite::Result<Option<Timestamp>> {
    let first = "WITH RECURSIVE used (priority) AS (
             SELECT max(priority) FROM jobs WHERE state = 0
             UNION ALL
             SELECT (SELECT max(priority) FROM jobs WHERE state = 0 AND priority < used.priority)
             FROM used WHERE used.priority IS NOT NULL
         )
         SELECT min((SELECT accepted_at FROM jobs
                     WHERE state = 0 AND priority = used.priority ORDER BY seq LIMIT 1))
         FROM used WHERE used.priority IS NOT NULL";
    let found: Option<u64> = tx.prepare_cached(first)?.query_row((), |row| row.get(0))?;
    Ok(found.map(Timestamp::from_ms))
}

pub(super) fn list(tx: &Connection, after: u64, limit: u32) -> rusqlite::Result<Vec<Listed>> {
    let held = select(tx, "WHERE seq > ?1 ORDER BY seq LIMIT ?2", (after, limit))?;
    held.into_iter().map(|held| held.listed(tx)).collect()
}

pub(super) fn count_past_deadline(tx: &Connection, now: Timestamp) -> rusqlite::Result<u64> {
    count(tx, "SELECT count(*) FROM jobs WHERE expires_at <= ?1", [now.ms()])
}

pub(super) fn count_unreported(tx: &Connection) -> rusqlite::Result<u64> {
    count(tx, "SELECT count(*) FROM settled WHERE reported = 0", ())
}

pub(super) fn count_forgettable(tx: &Connection, now: Timestamp) -> rusqlite::Result<u64> {
    count(tx, "SELECT count(*) FROM settled WHERE forget_at <= ?1 AND reported = 1", [now.ms()])
}

pub(super) fn count_untried_of_others(tx: &Connection, config: Digest) -> rusqlite::Result<u64> {
    count(tx, "SELECT count(*) FROM traces WHERE upload = 0 AND config <> ?1", [config.as_bytes()])
}

pub(super) fn count_traces(tx: &Connection, which: Traces) -> rusqlite::Result<Dropped> {
    let (condition, value) = which.condition();
    tx.prepare_cached(&format!(
        "SELECT count(*), ifnull(sum(upload < {UPLOADED}), 0) FROM traces WHERE {condition}"
    ))?
    .query_row([value], |row| Ok(Dropped { traces: row.get(0)?, lost: row.get(1)? }))
}

/// Deletes traces that `select` names (`seq`, `octet_length(trace)`, `upload`) while `more` says so of the
/// bytes that went.
fn delete_traces(
    tx: &Connection,
    select: &str,
    values: impl rusqlite::Params,
    more: impl Fn(u64) -> bool,
) -> rusqlite::Result<Dropped> {
    let (mut doomed, mut bytes) = (Vec::new(), 0);
    let mut dropped = Dropped::default();
    let mut select = tx.prepare_cached(select)?;
    let mut rows = select.query(values)?;
    while more(bytes) {
        let Some(row) = rows.next()? else { break };
        doomed.push(row.get::<_, u64>(0)?);
        bytes += row.get::<_, u64>(1)? + TRACE_ROW_BYTES;
        dropped.lost += u64::from(row.get::<_, u8>(2)? < UPLOADED);
        dropped.traces += 1;
    }
    drop(rows);
    let mut remove = tx.prepare_cached("DELETE FROM traces WHERE seq = ?1")?;
    doomed.iter().try_for_each(|seq| remove.execute([seq]).map(|_| ()))?;
    if dropped.traces > 0 {
        tx.prepare_cached("UPDATE tally SET trace_bytes = trace_bytes - ?1, traces_lost = traces_lost + ?2")?
            .execute((bytes, dropped.lost))?;
    }
    Ok(dropped)
}

/// Deletes traces of a sort, at most [`BATCH_MAX`] and about `bytes_max` bytes, one at least.
pub(super) fn drop_traces(tx: &Connection, which: Traces, bytes_max: u64) -> rusqlite::Result<Dropped> {
    let (condition, value) = which.condition();
    let select = format!(
        "SELECT seq, octet_length(trace), upload FROM traces WHERE {condition} ORDER BY seq LIMIT ?2"
    );
    delete_traces(tx, &select, (value, BATCH_MAX), |bytes| bytes < bytes_max)
}

/// Deletes the oldest traces, those that the network has first, until all take at most `bytes_max`; no more
/// than about `step_bytes` in one go.
pub(super) fn keep_traces_within(
    tx: &Connection,
    bytes_max: u64,
    step_bytes: u64,
) -> rusqlite::Result<Dropped> {
    let held = tally(tx)?.trace_bytes;
    let over = held.saturating_sub(bytes_max).min(step_bytes);
    let select = "SELECT seq, octet_length(trace), upload FROM traces ORDER BY upload DESC, seq";
    delete_traces(tx, select, (), |bytes| bytes < over)
}

/// Notes how far the upload of traces has come. What the network has it keeps.
pub(super) fn mark_traces(tx: &Connection, traces: &[u64], uploaded: bool) -> rusqlite::Result<()> {
    let reached = if uploaded { UPLOADED } else { TRIED };
    let mut mark = tx.prepare_cached("UPDATE traces SET upload = max(upload, ?2) WHERE seq = ?1")?;
    traces.iter().try_for_each(|seq| mark.execute((seq, reached)).map(|_| ()))
}

/// The latest moment that jobs were taken, ended or forgotten at: nothing is judged by an earlier one.
pub(super) fn high_water(tx: &Connection) -> rusqlite::Result<Timestamp> {
    tx.prepare_cached("SELECT high_water_ms FROM tally")?.query_row((), |row| time(row, 0))
}

/// The digest of a job that is held or has ended.
pub(super) fn known(tx: &Connection, id: JobId) -> rusqlite::Result<Option<[u8; 32]>> {
    tx.prepare_cached(
        "SELECT digest FROM jobs WHERE id = ?1 UNION ALL SELECT digest FROM settled WHERE id = ?1 LIMIT 1",
    )?
    .query_row([id.as_bytes()], |row| row.get(0))
    .optional()
}

pub(super) fn tally(tx: &Connection) -> rusqlite::Result<Tally> {
    tx.prepare_cached("SELECT jobs, bytes, expired, trace_bytes, traces_lost FROM tally")?.query_row(
        (),
        |row| {
            Ok(Tally {
                jobs: row.get(0)?,
                bytes: row.get(1)?,
                expired: row.get(2)?,
                trace_bytes: row.get(3)?,
                traces_lost: row.get(4)?,
            })
        },
    )
}

pub(super) fn floor(tx: &Connection) -> rusqlite::Result<Floor> {
    tx.query_row("SELECT version, digest FROM floor", (), |row| {
        let digest = row.get::<_, Option<[u8; 32]>>(1)?.map(Digest::from_bytes);
        Ok(Floor { version: row.get(0)?, digest })
    })
}

pub(super) fn raise_floor(tx: &Connection, floor: Floor) -> rusqlite::Result<()> {
    let digest = floor.digest.map(|digest| digest.as_bytes().to_vec());
    tx.prepare_cached("UPDATE floor SET version = ?1, digest = ?2 WHERE version < ?1")?
        .execute((floor.version, digest))
        .map(|_| ())
}

pub(super) fn check_indexes(tx: &Connection, after: &Value, last: &Value) -> rusqlite::Result<()> {
    let unlisted: u64 = tx
        .prepare_cached(
            "SELECT count(*) FROM jobs AS job WHERE seq > ifnull(?1, 0) AND seq <= ?2 AND NOT (
                 EXISTS (SELECT 1 FROM jobs INDEXED BY jobs_queue
                         WHERE state = job.state AND priority = job.priority AND seq = job.seq)
                 AND EXISTS (SELECT 1 FROM jobs INDEXED BY jobs_deadline
                             WHERE expires_at = job.expires_at AND seq = job.seq)
                 AND EXISTS (SELECT 1 FROM jobs INDEXED BY sqlite_autoindex_jobs_1
                             WHERE id = job.id AND seq = job.seq))",
        )?
        .query_row((after, last), |row| row.get(0))?;
    if unlisted == 0 {
        return Ok(());
    }
    let why = format!("{unlisted} jobs are missing in an index").into();
    Err(rusqlite::Error::FromSqlConversionFailure(0, Type::Null, why))
}

/// Rows that can be read but make no sense.
///
/// One in `settled` stays whatever is wrong beside its id: the id alone keeps the job from running again.
pub(super) fn nonsense(tx: &Connection) -> rusqlite::Result<Vec<Nonsense>> {
    let job = |row: &Row<'_>| Held::read(row).and_then(|held| events(19, &held.events)).map(|_| ());
    let trace = |row: &Row<'_>| unword::<Trace>(1, &row.get::<_, String>(1)?).map(|_| ());
    let outcome = |row: &Row<'_>| unword::<Outcome>(1, &row.get::<_, String>(1)?).map(|_| ());
    let standing = |row: &Row<'_>| unword::<Standing>(1, &row.get::<_, String>(1)?).map(|_| ());
    let mut found = no_row(tx, "tally")?;
    let numbers = ["seq", "jobs", "bytes", "expired", "high_water_ms", "trace_bytes", "traces_lost"];
    found.extend(wrong_numbers(tx, "tally", &numbers)?);
    found.extend(wrong(tx, "tally", "length(screened) <> 32", "screened = NULL")?);
    found.extend(floor_nonsense(tx)?);
    found.extend(wrong_numbers(tx, "fence", &["backed_up_at", "restored_at"])?);
    found.extend(wrong_numbers(tx, "retired", &["at"])?);
    found.extend(bad_rows(
        tx,
        &format!("SELECT {COLUMNS} FROM jobs"),
        "DELETE FROM jobs WHERE seq = ?1",
        job,
    )?);
    found.extend(bad_rows(tx, "SELECT seq, trace FROM traces", "DELETE FROM traces WHERE seq = ?1", trace)?);
    let lengths = "length(id) <> 16 OR length(config) <> 32";
    found.extend(bad_rows(
        tx,
        &format!("SELECT seq FROM traces WHERE {lengths}"),
        "DELETE FROM traces WHERE seq = ?1",
        |_| Err(rusqlite::Error::InvalidQuery),
    )?);
    found.extend(wrong(tx, "settled", "length(digest) <> 32", "digest = zeroblob(32)")?);
    found.extend(bad_rows(
        tx,
        "SELECT id, outcome FROM settled",
        "UPDATE settled SET outcome = '\"failed\"' WHERE id = ?1",
        outcome,
    )?);
    found.extend(bad_rows(
        tx,
        "SELECT id, standing FROM settled",
        "UPDATE settled SET standing = '\"queued\"' WHERE id = ?1",
        standing,
    )?);
    found.extend(wrong(tx, "settled", "reported < 0", "reported = 1")?);
    found.extend(wrong(tx, "settled", "settled_at < 0", "settled_at = 0")?);
    // As long as any other: sooner forgotten it could run again.
    let latest = format!(
        "forget_at = max((SELECT max(forget_at) FROM settled),
                         (SELECT max(high_water_ms, 0) FROM tally) + {SETTLED_MARGIN_MS})"
    );
    found.extend(wrong(tx, "settled", "forget_at < 0", &latest)?);
    Ok(found)
}

/// Makes what was saved of a damaged database agree with itself.
pub(super) fn mend(tx: &Connection) -> rusqlite::Result<()> {
    // What has ended is never run again.
    tx.execute("DELETE FROM jobs WHERE id IN (SELECT id FROM settled)", ())?;
    // Fenced jobs whose fence was lost would wait for ever.
    tx.execute(
        "INSERT OR IGNORE INTO fence (one, backed_up_at, restored_at)
         SELECT 1, 0, 0 FROM jobs WHERE fenced = 1 LIMIT 1",
        (),
    )?;
    tx.execute("DELETE FROM payloads WHERE field / 2 NOT IN (SELECT seq FROM jobs)", ())?;
    tx.execute(
        "UPDATE tally SET
             jobs = (SELECT count(*) FROM jobs),
             seq = max(seq, (SELECT ifnull(max(seq), 0) FROM jobs)),
             high_water_ms = max(high_water_ms, (SELECT ifnull(max(accepted_at), 0) FROM jobs),
                 (SELECT ifnull(max(settled_at), 0) FROM settled)),
             screened = NULL,
             bytes = (SELECT ifnull(sum(bytes), 0) FROM jobs) + ?1 * (SELECT count(*) FROM settled),
             trace_bytes = (SELECT ifnull(sum(octet_length(trace) + ?2), 0) FROM traces)",
        (SETTLED_BYTES, TRACE_ROW_BYTES),
    )
    .map(|_| ())
}

/// Opens what is stored of a job under `field`; `None` if nothing is.
fn open_field(
    tx: &Connection,
    sealer: &Sealer,
    job: &Held,
    field: Field,
) -> rusqlite::Result<Option<Result<String, Tampered>>> {
    let ciphertext: Option<Vec<u8>> = tx
        .prepare_cached("SELECT ciphertext FROM payloads WHERE field = ?1")?
        .query_row([field_key(job.seq, field)], |row| row.get(0))
        .optional()?;
    Ok(ciphertext.map(|ciphertext| {
        let opened = sealer.open(&job.wrapped_key, job.id, field, &ciphertext);
        let tampered = Tampered { job: job.id, field };
        opened.and_then(|plain| String::from_utf8(plain.to_vec()).map_err(|_| tampered))
    }))
}

pub(super) fn open_request(
    tx: &Connection,
    sealer: &Sealer,
    job: &Held,
) -> rusqlite::Result<Result<Request, Tampered>> {
    let missing = Err(Tampered { job: job.id, field: Field::Request });
    Ok(open_field(tx, sealer, job, Field::Request)?.unwrap_or(missing).map(Request::from_stored))
}

fn note(tx: &Connection, job: &Held, step: Step, now: Timestamp) -> rusqlite::Result<()> {
    tx.prepare_cached("UPDATE jobs SET events = events || ?2 WHERE seq = ?1")?
        .execute((job.seq, event(now, step)?))
        .map(|_| ())
}

/// Notes that a result was sent: the first time and the last, so that sending again does not grow the row.
pub(super) fn note_submitted(tx: &Connection, job: &Held, now: Timestamp) -> rusqlite::Result<()> {
    let mut steps = events(19, &job.events)?;
    if let [.., Event { step: Step::Submitted, .. }, last @ Event { step: Step::Submitted, .. }] = &mut *steps
    {
        last.at = now;
    } else {
        return note(tx, job, Step::Submitted, now);
    }
    let lines: String =
        steps.into_iter().map(|Event { at, step }| event(at, step)).collect::<rusqlite::Result<_>>()?;
    tx.prepare_cached("UPDATE jobs SET events = ?2 WHERE seq = ?1")?.execute((job.seq, lines)).map(|_| ())
}

pub(super) fn start(
    tx: &Connection,
    job: &Held,
    attempt: u16,
    step: Step,
    now: Timestamp,
) -> rusqlite::Result<()> {
    tx.prepare_cached("UPDATE jobs SET state = 1, attempt = ?2, leased_at = ?3 WHERE seq = ?1")?
        .execute((job.seq, attempt, now.ms()))?;
    note(tx, job, step, now)
}

pub(super) fn queue_again(
    tx: &Connection,
    job: &Held,
    reason: ReleaseReason,
    now: Timestamp,
) -> rusqlite::Result<()> {
    tx.prepare_cached("UPDATE jobs SET state = 0, leased_at = NULL WHERE seq = ?1")?.execute([job.seq])?;
    // One of an earlier snapshot was not looked at while it ran.
    tx.prepare_cached("UPDATE tally SET screened = NULL WHERE screened <> ?1")?
        .execute([job.config.as_bytes()])?;
    note(tx, job, Step::Released { reason }, now)
}

pub(super) fn finish(
    tx: &Connection,
    job: &Held,
    output: &Output,
    answer: &[u8],
    now: Timestamp,
) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "UPDATE jobs SET state = 2, prompt_tokens = ?2, completion_tokens = ?3, bytes = bytes + ?4
         WHERE seq = ?1",
    )?
    .execute((job.seq, output.prompt_tokens, output.completion_tokens, answer.len() as u64))?;
    put_answer(tx, job, answer)?;
    let step = Step::Finished {
        duration_ms: job.ran_ms(now),
        prompt_tokens: output.prompt_tokens,
        completion_tokens: output.completion_tokens,
        output_bytes: output.body.len() as u64,
    };
    note(tx, job, step, now)
}

pub(super) fn fail(
    tx: &Connection,
    job: &Held,
    kind: FailureKind,
    message: Option<&[u8]>,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let bytes = message.map_or(0, <[u8]>::len) as u64;
    tx.prepare_cached("UPDATE jobs SET state = 3, failure = ?2, bytes = bytes + ?3 WHERE seq = ?1")?
        .execute((job.seq, word(&kind)?, bytes))?;
    if let Some(message) = message {
        put_answer(tx, job, message)?;
    }
    note(tx, job, Step::Failed { kind, duration_ms: job.ran_ms(now) }, now)
}

/// Deletes an answer or message that does not open: it would be found again at every look.
pub(super) fn drop_answer(tx: &Connection, job: &Held) -> rusqlite::Result<()> {
    let key = field_key(job.seq, Field::Answer);
    let bytes: Option<u64> = tx
        .prepare_cached("SELECT octet_length(ciphertext) FROM payloads WHERE field = ?1")?
        .query_row([key], |row| row.get(0))
        .optional()?;
    let Some(bytes) = bytes else { return Ok(()) };
    // The length may have been tampered with too.
    let bytes = bytes.min(job.bytes);
    tx.prepare_cached("DELETE FROM payloads WHERE field = ?1")?.execute([key])?;
    tx.prepare_cached("UPDATE jobs SET bytes = bytes - ?2 WHERE seq = ?1")?.execute((job.seq, bytes))?;
    tx.prepare_cached("UPDATE tally SET bytes = max(bytes - ?1, 0)")?.execute([bytes]).map(|_| ())
}

fn put_answer(tx: &Connection, job: &Held, ciphertext: &[u8]) -> rusqlite::Result<()> {
    put_payload(tx, job.seq, Field::Answer, ciphertext)?;
    tx.prepare_cached("UPDATE tally SET bytes = bytes + ?1")?.execute([ciphertext.len() as u64]).map(|_| ())
}

pub(super) fn outbox(
    tx: &Connection,
    sealer: &Sealer,
    after: u64,
    now: Timestamp,
) -> rusqlite::Result<Vec<Result<Outgoing, Tampered>>> {
    let rest = "WHERE state IN (2, 3) AND fenced = 0 AND seq > ?1 AND expires_at > ?2 ORDER BY seq LIMIT ?3";
    let (mut answers, mut bytes) = (Vec::new(), 0);
    for job in select(tx, rest, (after, now.ms(), BATCH_MAX))? {
        let found = open_field(tx, sealer, &job, Field::Answer)?;
        let body = match (found, job.failure) {
            (Some(body), _) => body,
            // A failure that the store itself noted has no message.
            (None, Some(_)) => Ok(String::new()),
            (None, None) => Err(Tampered { job: job.id, field: Field::Answer }),
        };
        bytes += body.as_ref().map_or(0, String::len);
        if bytes > OUTBOX_BYTES_MAX && !answers.is_empty() {
            break;
        }
        answers.push(body.map(|body| Outgoing {
            seq: job.seq,
            job: job.id,
            result: match job.failure {
                Some(kind) => Err(Failure::new(kind, &body)),
                None => Ok(Output {
                    body,
                    prompt_tokens: job.prompt_tokens,
                    completion_tokens: job.completion_tokens,
                }),
            },
        }));
    }
    Ok(answers)
}

/// Ends a job: its row, payloads and key are deleted; its id stays in `settled`, its trace in `traces`.
pub(super) fn settle(
    tx: &Connection,
    network: Network,
    job: &Held,
    outcome: Outcome,
    last: Step,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let expired = outcome == Outcome::Expired;
    end(tx, network, job, outcome, last, now)?;
    remember(tx, job, outcome, !expired, now)?;
    tx.prepare_cached("UPDATE tally SET expired = expired + ?1")?.execute([expired]).map(|_| ())
}

/// Ends a job that the network has an end of already: it is told nothing.
pub(super) fn settle_elsewhere(
    tx: &Connection,
    network: Network,
    job: &Held,
    outcome: Outcome,
    now: Timestamp,
) -> rusqlite::Result<()> {
    end(tx, network, job, outcome, Step::Acknowledged, now)?;
    remember(tx, job, outcome, true, now)
}

/// Forgets a job that others have now: it may be offered anew.
pub(super) fn drop_unclaimed(
    tx: &Connection,
    network: Network,
    job: &Held,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let step = Step::Failed { kind: FailureKind::Unclaimed, duration_ms: 0 };
    end(tx, network, job, Outcome::Failed, step, now)
}

/// Takes a job's row, payloads and key away; its trace stays.
fn end(
    tx: &Connection,
    network: Network,
    job: &Held,
    outcome: Outcome,
    last: Step,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let mut steps = events(19, &job.events)?;
    steps.push(Event { at: now, step: last });
    let trace = Trace {
        job: job.id,
        network,
        model: job.model.clone(),
        mode: job.mode,
        config: job.config,
        outcome,
        events: steps,
    };
    let trace = word(&trace)?;
    tx.prepare_cached("INSERT INTO traces (id, config, ended_at, trace) VALUES (?1, ?2, ?3, ?4)")?
        .execute((job.id.as_bytes(), job.config.as_bytes(), now.ms(), &trace))?;
    let (request, answer) = (field_key(job.seq, Field::Request), field_key(job.seq, Field::Answer));
    tx.prepare_cached("DELETE FROM payloads WHERE field IN (?1, ?2)")?.execute((request, answer))?;
    tx.prepare_cached("DELETE FROM jobs WHERE seq = ?1")?.execute([job.seq])?;
    tx.prepare_cached(
        "UPDATE tally SET jobs = jobs - 1, bytes = bytes - ?1, trace_bytes = trace_bytes + ?2,
             high_water_ms = max(high_water_ms, ?3)",
    )?
    .execute((job.bytes, trace.len() as u64 + TRACE_ROW_BYTES, now.ms()))
    .map(|_| ())
}

/// Keeps the id of a job that has ended, so that it never runs again.
fn remember(
    tx: &Connection,
    job: &Held,
    outcome: Outcome,
    reported: bool,
    now: Timestamp,
) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "INSERT INTO settled (id, digest, outcome, standing, reported, settled_at, forget_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute((
        job.id.as_bytes(),
        job.digest,
        word(&outcome)?,
        word(&job.standing)?,
        reported,
        now.ms(),
        job.expires_at.plus_ms(SETTLED_MARGIN_MS).ms(),
    ))?;
    tx.prepare_cached("UPDATE tally SET bytes = bytes + ?1")?.execute([SETTLED_BYTES]).map(|_| ())
}

/// Fences all jobs of a copy that was restored.
pub(super) fn put_up_fence(
    tx: &Connection,
    backed_up_at: Timestamp,
    restored_at: Timestamp,
) -> rusqlite::Result<()> {
    tx.execute("UPDATE jobs SET fenced = 1", ())?;
    let sql = "INSERT OR REPLACE INTO fence (one, backed_up_at, restored_at) VALUES (1, ?1, ?2)";
    tx.execute(sql, (backed_up_at.ms(), restored_at.ms())).map(|_| ())
}

pub(super) fn fence(tx: &Connection) -> rusqlite::Result<Option<Fence>> {
    let sql = "SELECT backed_up_at, restored_at, (SELECT count(*) FROM jobs WHERE fenced = 1) FROM fence";
    tx.query_row(sql, (), |row| {
        Ok(Fence { backed_up_at: time(row, 0)?, restored_at: time(row, 1)?, jobs: row.get(2)? })
    })
    .optional()
}

/// All jobs, those that wait for the network's word first, at most `limit`.
pub(super) fn to_ask_about(tx: &Connection, limit: u64) -> rusqlite::Result<Vec<JobId>> {
    let mut select = tx.prepare("SELECT id FROM jobs ORDER BY fenced DESC, seq LIMIT ?1")?;
    select.query_map([limit], |row| row.get(0).map(JobId::from_bytes))?.collect()
}

pub(super) fn is_fenced(tx: &Connection, job: &Held) -> rusqlite::Result<bool> {
    tx.prepare_cached("SELECT fenced FROM jobs WHERE seq = ?1")?.query_row([job.seq], |row| row.get(0))
}

pub(super) fn unfence(tx: &Connection, job: &Held) -> rusqlite::Result<()> {
    tx.prepare_cached("UPDATE jobs SET fenced = 0 WHERE seq = ?1")?.execute([job.seq]).map(|_| ())
}

/// Takes the fence down, if no job waits behind it any more.
pub(super) fn take_down_fence(tx: &Connection) -> rusqlite::Result<bool> {
    let waiting: bool =
        tx.query_row("SELECT EXISTS (SELECT 1 FROM jobs WHERE fenced = 1)", (), |row| row.get(0))?;
    if !waiting {
        tx.execute("DELETE FROM fence", ())?;
    }
    Ok(!waiting)
}

pub(super) fn retired(tx: &Connection) -> rusqlite::Result<Option<Retired>> {
    // That there is a row is what counts, whatever is in it: two of one node must not run.
    let sql = "SELECT max(at, 0), CAST(archive AS BLOB), CAST(transfer AS BLOB) FROM retired";
    let text = |row: &Row<'_>, column| {
        Ok::<_, rusqlite::Error>(String::from_utf8_lossy(&row.get::<_, Vec<u8>>(column)?).into_owned())
    };
    tx.query_row(sql, (), |row| {
        Ok(Retired { at: time(row, 0)?, archive: text(row, 1)?, transfer: text(row, 2)? })
    })
    .optional()
}

pub(super) fn set_retired(tx: &Connection, retired: Option<&Retired>) -> rusqlite::Result<()> {
    tx.execute("DELETE FROM retired", ())?;
    let Some(Retired { at, archive, transfer }) = retired else { return Ok(()) };
    let sql = "INSERT INTO retired (at, archive, transfer) VALUES (?1, ?2, ?3)";
    tx.execute(sql, (at.ms(), archive, transfer)).map(|_| ())
}

pub(super) fn unreported(tx: &Connection) -> rusqlite::Result<Vec<Expired>> {
    tx.prepare_cached(
        "SELECT id, standing, settled_at FROM settled WHERE reported = 0 ORDER BY settled_at LIMIT ?1",
    )?
    .query_map([BATCH_MAX], |row| {
        Ok(Expired {
            job: JobId::from_bytes(row.get(0)?),
            state: unword(1, &row.get::<_, String>(1)?)?,
            at: time(row, 2)?,
        })
    })?
    .collect()
}

pub(super) fn mark_reported(tx: &Connection, jobs: &[JobId]) -> rusqlite::Result<()> {
    let mut mark = tx.prepare_cached("UPDATE settled SET reported = 1 WHERE id = ?1")?;
    jobs.iter().try_for_each(|id| mark.execute([id.as_bytes()]).map(|_| ()))
}

/// Forgets at most `rows_max` ended jobs. The moment is kept: by an earlier one they would be taken again.
pub(super) fn forget(tx: &Connection, now: Timestamp, rows_max: u64) -> rusqlite::Result<u64> {
    let rows = tx
        .prepare_cached(
            "DELETE FROM settled WHERE id IN
                 (SELECT id FROM settled WHERE forget_at <= ?1 AND reported = 1 LIMIT ?2)",
        )?
        .execute((now.ms(), rows_max))? as u64;
    if rows > 0 {
        tx.prepare_cached("UPDATE tally SET bytes = bytes - ?1, high_water_ms = max(high_water_ms, ?2)")?
            .execute((rows * SETTLED_BYTES, now.ms()))?;
    }
    Ok(rows)
}

/// The last trace of a job that is left, and whether the network has it.
fn trace_of(tx: &Connection, id: JobId) -> rusqlite::Result<Option<(Trace, bool)>> {
    tx.prepare_cached("SELECT trace, upload FROM traces WHERE id = ?1 ORDER BY seq DESC LIMIT 1")?
        .query_row([id.as_bytes()], |row| {
            Ok((unword(0, &row.get::<_, String>(0)?)?, row.get::<_, u8>(1)? == UPLOADED))
        })
        .optional()
}

pub(super) fn traces(tx: &Connection, after: u64) -> rusqlite::Result<Vec<(u64, Trace)>> {
    numbered_traces(
        tx,
        "SELECT seq, trace FROM traces WHERE seq > ?1 ORDER BY seq LIMIT ?2",
        after,
        BATCH_MAX,
    )
}

pub(super) fn traces_before(
    tx: &Connection,
    before: Option<u64>,
    limit: u32,
) -> rusqlite::Result<Vec<(u64, Trace)>> {
    let sql = "SELECT seq, trace FROM traces WHERE seq < ?1 ORDER BY seq DESC LIMIT ?2";
    numbered_traces(tx, sql, before.unwrap_or(i64::MAX.unsigned_abs()), limit)
}

pub(super) fn between(
    tx: &Connection,
    first: JobId,
    last: JobId,
    limit: u32,
) -> rusqlite::Result<Vec<JobId>> {
    // UNION leaves each ID once.
    let tables = ["jobs", "settled", "traces"];
    let parts = tables.map(|table| format!("SELECT id FROM {table} WHERE id BETWEEN ?1 AND ?2"));
    tx.prepare_cached(&format!("{} ORDER BY id LIMIT ?3", parts.join(" UNION ")))?
        .query_map((first.as_bytes(), last.as_bytes(), limit), |row| Ok(JobId::from_bytes(row.get(0)?)))?
        .collect()
}

pub(super) fn traces_to_upload(tx: &Connection, after: u64) -> rusqlite::Result<Vec<(u64, Trace)>> {
    let sql =
        format!("SELECT seq, trace FROM traces WHERE seq > ?1 AND upload < {UPLOADED} ORDER BY seq LIMIT ?2");
    numbered_traces(tx, &sql, after, BATCH_MAX)
}

fn numbered_traces(tx: &Connection, sql: &str, from: u64, limit: u32) -> rusqlite::Result<Vec<(u64, Trace)>> {
    tx.prepare_cached(sql)?
        .query_map((from, limit.min(BATCH_MAX)), |row| {
            Ok((row.get(0)?, unword(1, &row.get::<_, String>(1)?)?))
        })?
        .collect()
}

pub(super) fn story(tx: &Connection, id: JobId) -> rusqlite::Result<Option<Story>> {
    if let Some(job) = held(tx, id)? {
        return Story::of_held(job).map(Some);
    }
    let trace = trace_of(tx, id)?;
    let settled = tx
        .prepare_cached("SELECT outcome, settled_at, reported, forget_at FROM settled WHERE id = ?1")?
        .query_row([id.as_bytes()], |row| {
            Ok((unword(0, &row.get::<_, String>(0)?)?, time(row, 1)?, row.get(2)?, row.get::<_, u64>(3)?))
        })
        .optional()?;
    let Some((outcome, at, reported, forget_at)) = settled else {
        return Ok(trace.map(|trace| Story::of_ended(trace.0.outcome, Some(trace))));
    };
    // The last that is left may be of an earlier job with this id, which was forgotten.
    let trace = trace.filter(|(trace, _)| ended_at(trace) == Some(at));
    Ok(Some(Story {
        expires_at: Some(Timestamp::from_ms(forget_at.saturating_sub(SETTLED_MARGIN_MS))),
        ended_at: Some(at),
        reported,
        ..Story::of_ended(outcome, trace)
    }))
}
