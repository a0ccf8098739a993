//! The rows of `logs.db`.

use std::collections::BTreeMap;

use node_types::{
    Digest, JobId, Timestamp,
    id::{hex_decode, hex_encode},
    log::{BatchHeader, Level, Record},
};
use rusqlite::{Connection, OptionalExtension, Row, types::Type};

use super::{
    BATCH_RECORDS_MAX, Batch, Entry, QUERY_MAX, Query, RECORD_BYTES,
    plan::{self, Drop, Held, Which},
    targets::{self, NETWORK, Room},
};
use crate::{
    format::PAGE_BYTES,
    nonsense::{Nonsense, bad_rows, no_row, wrong, wrong_numbers},
};

pub(super) fn foreign(error: impl std::error::Error + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(Box::new(error))
}

fn unreadable(column: usize, error: impl std::error::Error + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error))
}

pub(super) fn level(row: &Row<'_>, column: usize) -> rusqlite::Result<Level> {
    let found: u8 = row.get(column)?;
    let wanted = Level::ALL.into_iter().find(|level| level.rank() == found);
    wanted.ok_or(rusqlite::Error::IntegralValueOutOfRange(column, found.into()))
}

pub(super) fn insert(tx: &Connection, record: &Record) -> rusqlite::Result<()> {
    let fields = if record.fields.is_empty() {
        String::new()
    } else {
        serde_json::to_string(&record.fields).map_err(foreign)?
    };
    tx.prepare_cached(
        "INSERT INTO records (at, level, kind, job, message, fields) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute((
        record.at.ms(),
        record.level.rank(),
        record.kind.name(),
        record.job.as_ref().map(JobId::as_bytes),
        &record.message,
        fields,
    ))
    .map(|_| ())
}

/// The network will never have so many records; what the other targets lose is counted for each.
pub(super) fn lose(tx: &Connection, level: Level, count: u64) -> rusqlite::Result<()> {
    tx.prepare_cached("UPDATE losses SET ever = ever + ?2, untold = untold + ?2 WHERE level = ?1")?
        .execute((level.rank(), count))
        .map(|_| ())
}

/// Nobody will ever have so many records: they never came into the table.
pub(super) fn lose_for_all(tx: &Connection, level: Level, count: u64) -> rusqlite::Result<()> {
    lose(tx, level, count)?;
    tx.prepare_cached("UPDATE target_losses SET ever = ever + ?2, untold = untold + ?2 WHERE level = ?1")?
        .execute((level.rank(), count))
        .map(|_| ())
}

#[derive(Clone, Copy)]
pub(super) enum Count {
    Ever,
    Untold,
}

/// The losses by level; levels without any are left out.
pub(super) fn losses(tx: &Connection, count: Count) -> rusqlite::Result<BTreeMap<Level, u64>> {
    let column = match count {
        Count::Ever => "ever",
        Count::Untold => "untold",
    };
    tx.prepare_cached(&format!("SELECT level, {column} FROM losses WHERE {column} > 0"))?
        .query_map((), |row| Ok((level(row, 0)?, row.get(1)?)))?
        .collect()
}

pub(super) const COLUMNS: &str = "seq, at, level, kind, job, message, fields";

pub(super) fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    let kind: String = row.get(3)?;
    let fields: String = row.get(6)?;
    let record = Record {
        at: Timestamp::from_ms(row.get(1)?),
        level: level(row, 2)?,
        kind: kind.parse().map_err(|error| unreadable(3, error))?,
        job: row.get::<_, Option<[u8; 16]>>(4)?.map(JobId::from_bytes),
        message: row.get(5)?,
        fields: if fields.is_empty() {
            BTreeMap::new()
        } else {
            serde_json::from_str(&fields).map_err(|error| unreadable(6, error))?
        },
    };
    Ok(Entry { seq: row.get(0)?, record })
}

pub(super) fn query(tx: &Connection, query: &Query) -> rusqlite::Result<Vec<Entry>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM records
         WHERE (?1 IS NULL OR at >= ?1) AND (?2 IS NULL OR at < ?2) AND level >= ?3
             AND (?4 IS NULL OR kind = ?4) AND (?5 IS NULL OR job = ?5) AND seq > ?6
             AND (?7 IS NULL OR instr(lower(message), ?7) OR instr(lower(fields), ?7))
         ORDER BY seq DESC LIMIT ?8"
    );
    let mut entries: Vec<Entry> = tx
        .prepare_cached(&sql)?
        .query_map(
            (
                query.since.map(Timestamp::ms),
                query.until.map(Timestamp::ms),
                query.level_min.map_or(0, Level::rank),
                query.kind.map(node_types::log::Kind::name),
                query.job.as_ref().map(JobId::as_bytes),
                query.after.unwrap_or(0),
                query.text.as_ref().map(|text| text.to_ascii_lowercase()),
                query.limit.unwrap_or(QUERY_MAX).min(QUERY_MAX),
            ),
            entry,
        )?
        .collect::<rusqlite::Result<_>>()?;
    entries.reverse();
    Ok(entries)
}

pub(super) struct Chain {
    pub(super) id: String,
    pub(super) next: u64,
    pub(super) prev: Digest,
    pub(super) sealed: u64,
}

pub(super) fn chain(tx: &Connection) -> rusqlite::Result<Chain> {
    tx.query_row("SELECT id, next, prev, sealed FROM chain", (), |row| {
        Ok(Chain {
            id: hex_encode(&row.get::<_, Vec<u8>>(0)?),
            next: row.get(1)?,
            prev: Digest::from_bytes(row.get(2)?),
            sealed: row.get(3)?,
        })
    })
}

/// The oldest records after `after`, at most [`BATCH_RECORDS_MAX`], each with its line of JSON; at least one,
/// if there is one, and no more than `bytes_max` bytes of lines else.
pub(super) fn unsealed(
    tx: &Connection,
    after: u64,
    bytes_max: u64,
) -> rusqlite::Result<Vec<(Entry, Vec<u8>)>> {
    let sql = format!("SELECT {COLUMNS} FROM records WHERE seq > ?1 ORDER BY seq LIMIT ?2");
    let mut select = tx.prepare_cached(&sql)?;
    let mut rows = select.query((after, BATCH_RECORDS_MAX))?;
    let (mut entries, mut bytes) = (Vec::new(), 0);
    while let Some(row) = rows.next()? {
        let entry = entry(row)?;
        let mut line = serde_json::to_vec(&entry.record).map_err(foreign)?;
        line.push(b'\n');
        bytes += line.len() as u64;
        if bytes > bytes_max && !entries.is_empty() {
            break;
        }
        entries.push((entry, line));
    }
    Ok(entries)
}

/// How many batches are not acknowledged.
pub(super) fn batch_count(tx: &Connection) -> rusqlite::Result<u64> {
    tx.prepare_cached("SELECT count(*) FROM batches")?.query_row((), |row| row.get(0))
}

/// How often what waited in memory was committed.
pub(super) fn drained(tx: &Connection) -> rusqlite::Result<u64> {
    tx.prepare_cached("SELECT drained FROM chain")?.query_row((), |row| row.get(0))
}

pub(super) fn set_drained(tx: &Connection, drained: u64) -> rusqlite::Result<()> {
    tx.prepare_cached("UPDATE chain SET drained = ?1")?.execute([drained]).map(|_| ())
}

/// Keeps a batch and moves the chain on: `last` is the last record that is in a batch now.
pub(super) fn keep_batch(
    tx: &Connection,
    header: &str,
    seq: u64,
    payload: &[u8],
    last: u64,
) -> rusqlite::Result<()> {
    tx.prepare_cached("INSERT INTO batches (seq, header, payload, last) VALUES (?1, ?2, ?3, ?4)")?
        .execute((seq, header, payload, last))?;
    let digest = Digest::of(header.as_bytes());
    tx.prepare_cached("UPDATE chain SET next = next + 1, prev = ?1, sealed = ?2")?
        .execute((digest.as_bytes(), last))?;
    tx.prepare_cached("UPDATE losses SET untold = 0")?.execute(()).map(|_| ())
}

/// Deletes batches up to `seq`, oldest first, with those of their records that nobody is owed, until there was no more room for
/// it in a commit: batch by batch, so that no more than one is left in part.
pub(super) fn acknowledge(tx: &Connection, seq: u64, room: Room) -> rusqlite::Result<u64> {
    let mut oldest = tx.prepare_cached(
        "SELECT seq, last, octet_length(header) + ifnull(octet_length(payload), 0) FROM batches
         WHERE seq <= ?1 ORDER BY seq LIMIT 1",
    )?;
    let mut delete_batch = tx.prepare_cached("DELETE FROM batches WHERE seq = ?1")?;
    let (mut rows, mut left) = (0, room.bytes_max);
    while left > 0 {
        let batch: Option<(u64, u64, u64)> =
            oldest.query_row([seq], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).optional()?;
        let Some((batch, last, batch_bytes)) = batch else { break };
        targets::reach(tx, NETWORK, last)?;
        let (gone, bytes) = targets::release(tx, Room { bytes_max: left, ..room })?;
        rows += gone;
        left = left.saturating_sub(bytes);
        if left > 0 {
            rows += delete_batch.execute([batch])? as u64;
            left = left.saturating_sub(batch_bytes);
        }
    }
    if rows > 0 {
        give_back(tx)?;
    }
    Ok(rows)
}

/// Deletes records older than `before`, oldest first, until `bytes_max` bytes went.
pub(super) fn expire(tx: &Connection, before: Timestamp, bytes_max: u64) -> rusqlite::Result<u64> {
    let sealed = chain(tx)?.sealed;
    // Times need not rise with the numbers: every record is looked at.
    let sql = format!("SELECT seq, level, {ROW_BYTES} FROM records WHERE at < ?1 ORDER BY seq");
    let (mut doomed, mut bytes) = (Vec::new(), 0);
    let mut old = tx.prepare_cached(&sql)?;
    let mut rows = old.query([before.ms()])?;
    while bytes < bytes_max {
        let Some(row) = rows.next()? else { break };
        doomed.push((row.get(0)?, level(row, 1)?));
        bytes += row.get::<_, u64>(2)?;
    }
    drop(rows);
    let mut remove = tx.prepare_cached("DELETE FROM records WHERE seq = ?1")?;
    let mut lost = BTreeMap::<Level, u64>::new();
    let others = targets::others(tx)?;
    let mut lost_for = vec![BTreeMap::<Level, u64>::new(); others.len()];
    for (seq, level) in &doomed {
        let seq: u64 = *seq;
        remove.execute([seq])?;
        if seq > sealed {
            *lost.entry(*level).or_default() += 1;
        }
        for ((_, cursor), lost) in others.iter().zip(&mut lost_for) {
            if seq > *cursor {
                *lost.entry(*level).or_default() += 1;
            }
        }
    }
    lost.into_iter().try_for_each(|(level, count)| lose(tx, level, count))?;
    for ((name, _), lost) in others.iter().zip(lost_for) {
        targets::lose(tx, name, &lost)?;
    }
    if !doomed.is_empty() {
        give_back(tx)?;
    }
    Ok(doomed.len() as u64)
}

/// Rows that can be read but make no sense. Where the chain cannot be read, another one is begun.
pub(super) fn nonsense(tx: &Connection) -> rusqlite::Result<Vec<Nonsense>> {
    let mut found = no_row(tx, "chain")?;
    let unchained = "length(id) <> 16 OR length(prev) <> 32 OR next < 1 OR sealed < 0";
    let anew = "id = randomblob(16), next = 1, prev = zeroblob(32), sealed = 0, drained = 0";
    found.extend(wrong(tx, "chain", unchained, anew)?);
    found.extend(wrong_numbers(tx, "chain", &["drained"])?);
    found.extend(wrong_numbers(tx, "losses", &["ever", "untold"])?);
    found.extend(targets::nonsense(tx)?);
    let select = format!("SELECT {COLUMNS} FROM records");
    let judge = |row: &Row<'_>| entry(row).map(|_| ());
    found.extend(bad_rows(tx, &select, "DELETE FROM records WHERE seq = ?1", judge)?);
    let header = |row: &Row<'_>| {
        let header: BatchHeader =
            serde_json::from_str(&row.get::<_, String>(1)?).map_err(|error| unreadable(1, error))?;
        hex_decode::<16>(&header.chain).map(|_| ()).ok_or(rusqlite::Error::InvalidQuery)
    };
    let select = "SELECT seq, header FROM batches";
    found.extend(bad_rows(tx, select, "DELETE FROM batches WHERE seq = ?1", header)?);
    Ok(found)
}

/// Makes what was saved of a damaged database agree with itself: the chain goes on after the last batch.
pub(super) fn mend(tx: &Connection) -> rusqlite::Result<()> {
    targets::mend(tx)?;
    // What the network has was in a batch, whatever became of the chain.
    let acknowledged = targets::cursor(tx, NETWORK)?.unwrap_or(0);
    tx.execute("UPDATE chain SET sealed = max(sealed, ?1)", [acknowledged])?;
    let last: Option<(String, u64, u64)> = tx
        .query_row("SELECT header, seq, last FROM batches ORDER BY seq DESC LIMIT 1", (), |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .optional()?;
    let Some((header, seq, sealed)) = last else { return Ok(()) };
    if chain(tx)?.next <= seq {
        let id = serde_json::from_str::<BatchHeader>(&header).map_err(foreign)?.chain;
        let id = hex_decode::<16>(&id).ok_or(rusqlite::Error::InvalidQuery)?;
        tx.execute(
            "UPDATE chain SET id = ?1, next = ?2, prev = ?3, sealed = max(sealed, ?4)",
            (id, seq + 1, Digest::of(header.as_bytes()).as_bytes(), sealed),
        )?;
    }
    Ok(())
}

/// Takes the batches apart, the newest first, until `bytes_max` bytes went, and says how many; where none is left, begins another
/// chain. This file is a copy, and whoever has the other one goes on with the chain that is in it. What the network has is put
/// into no batch again; records that stood in a batch alone are lost, and what the batches told of losses is told again.
pub(super) fn begin_chain_anew(tx: &Connection, bytes_max: u64) -> rusqlite::Result<u64> {
    let acknowledged = targets::cursor(tx, NETWORK)?.unwrap_or(0);
    let mut newest = tx.prepare_cached(
        "SELECT seq, header, payload NOT NULL, last, octet_length(header) + ifnull(octet_length(payload), 0)
         FROM batches ORDER BY seq DESC LIMIT 1",
    )?;
    let (mut gone, mut left) = (0, bytes_max);
    while left > 0 {
        let batch: Option<(u64, String, bool, u64, u64)> = newest
            .query_row((), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)))
            .optional()?;
        let Some((seq, header, whole, last, bytes)) = batch else { break };
        let header: BatchHeader = serde_json::from_str(&header).map_err(foreign)?;
        for (level, lost) in header.lost {
            tx.prepare_cached("UPDATE losses SET untold = untold + ?2 WHERE level = ?1")?
                .execute((level.rank(), lost))?;
        }
        let before: u64 = tx
            .prepare_cached("SELECT ifnull(max(last), 0) FROM batches WHERE seq < ?1")?
            .query_row([seq], |row| row.get(0))?;
        let before = before.max(acknowledged);
        if whole && last > before {
            let still_here = targets::missing(tx, (before, last), None)?;
            for (level, count) in header.records {
                lose(tx, level, count.saturating_sub(still_here.get(&level).copied().unwrap_or(0)))?;
            }
        }
        tx.prepare_cached("DELETE FROM batches WHERE seq = ?1")?.execute([seq])?;
        gone += 1;
        left = left.saturating_sub(bytes);
    }
    if gone == 0 {
        tx.execute(
            "UPDATE chain SET id = randomblob(16), next = 1, prev = zeroblob(32), sealed = ?1",
            [acknowledged],
        )?;
    } else {
        give_back(tx)?;
    }
    Ok(gone)
}

/// Counts the records older than `before`, and those of them that are in no batch.
pub(super) fn count_expired(tx: &Connection, before: Timestamp) -> rusqlite::Result<(u64, u64)> {
    let sql = "SELECT count(*), ifnull(sum(seq > (SELECT sealed FROM chain)), 0) FROM records WHERE at < ?1";
    tx.prepare_cached(sql)?.query_row([before.ms()], |row| Ok((row.get(0)?, row.get(1)?)))
}

/// Records that are in no batch.
pub(super) fn count_unsealed(tx: &Connection) -> rusqlite::Result<u64> {
    let sql = "SELECT count(*) FROM records WHERE seq > (SELECT sealed FROM chain)";
    tx.prepare_cached(sql)?.query_row((), |row| row.get(0))
}

pub(super) fn give_back(tx: &Connection) -> rusqlite::Result<()> {
    // Answers a row for each page that it frees.
    let mut vacuum = tx.prepare_cached("PRAGMA incremental_vacuum")?;
    let mut rows = vacuum.query(())?;
    while rows.next()?.is_some() {}
    Ok(())
}

fn pages(tx: &Connection, pragma: &str) -> rusqlite::Result<u64> {
    tx.prepare_cached(pragma)?.query_row((), |row| row.get(0))
}

/// Bytes of `logs.db` that are in use.
pub(super) fn used_bytes(tx: &Connection) -> rusqlite::Result<u64> {
    Ok((pages(tx, "PRAGMA page_count")? - pages(tx, "PRAGMA freelist_count")?) * PAGE_BYTES)
}

/// A record's bytes in SQL, as `record_bytes` counts them.
pub(super) const ROW_BYTES: &str = "(64 + octet_length(message) + octet_length(fields))";
const _: () = assert!(RECORD_BYTES == 64, "ROW_BYTES says so too");

/// What there is to drop, oldest first: of each sort no more is counted than is still wanted, so that the records
/// that stay are not read.
fn droppable(tx: &Connection, sealed: u64, wanted: u64) -> rusqlite::Result<Held> {
    let in_batch = enough(tx, Which::InBatch, [sealed], wanted)?.1;
    let (mut held, mut found) = (Held { in_batch, ..Held::default() }, in_batch);
    for level in Level::ALL {
        let left = wanted.saturating_sub(found);
        let of_level = enough(tx, Which::Level(level), (sealed, level.rank()), left)?.1;
        held.by_level.insert(level, of_level);
        found += of_level;
    }
    held.payloads = enough(tx, Which::Payloads, (), wanted.saturating_sub(found))?.1;
    Ok(held)
}

/// Records of a batch, and of a level that are in none.
const IN_BATCH: &str = "seq <= ?1";
const OF_LEVEL: &str = "seq > ?1 AND level = ?2";

/// Selects a key and the bytes of what there is of a sort, oldest first.
fn oldest(which: Which) -> String {
    let records = |which| format!("SELECT seq, {ROW_BYTES} FROM records WHERE {which} ORDER BY seq");
    match which {
        Which::InBatch => records(IN_BATCH),
        Which::Level(_) => records(OF_LEVEL),
        Which::Payloads => {
            "SELECT seq, octet_length(payload) FROM batches WHERE payload NOT NULL ORDER BY seq".into()
        }
    }
}

/// The last key, and the sum of the bytes, of as many rows of [`oldest`] as are enough.
pub(super) fn enough(
    tx: &Connection,
    which: Which,
    values: impl rusqlite::Params,
    wanted: u64,
) -> rusqlite::Result<(u64, u64)> {
    let (mut last, mut bytes) = (0, 0);
    let mut select = tx.prepare_cached(&oldest(which))?;
    let mut rows = select.query(values)?;
    while bytes < wanted {
        let Some(row) = rows.next()? else { break };
        last = row.get(0)?;
        bytes += row.get::<_, u64>(1)?;
    }
    Ok((last, bytes))
}

fn drop_oldest(tx: &Connection, drop: Drop, sealed: u64) -> rusqlite::Result<()> {
    match drop.which {
        Which::InBatch => {
            let (last, _) = enough(tx, drop.which, [sealed], drop.bytes)?;
            targets::lose_range(tx, 0, last, None)?;
            let sql = format!("DELETE FROM records WHERE {IN_BATCH} AND seq <= ?2");
            tx.prepare_cached(&sql)?.execute((sealed, last)).map(|_| ())
        }
        Which::Level(level) => {
            let (last, _) = enough(tx, drop.which, (sealed, level.rank()), drop.bytes)?;
            targets::lose_range(tx, sealed, last, Some(level))?;
            let sql = format!("DELETE FROM records WHERE {OF_LEVEL} AND seq <= ?3");
            let gone = tx.prepare_cached(&sql)?.execute((sealed, level.rank(), last))?;
            lose(tx, level, gone as u64)
        }
        Which::Payloads => drop_payloads(tx, drop.bytes),
    }
}

/// Makes room for [`step_bytes`](super::step_bytes) more, as [`plan`] says.
///
/// Rows are estimated in bytes and free whole pages only, so it looks again until it is enough. SQLite
/// itself refuses a page beyond the limit, should it not be.
pub(super) fn keep_limit(tx: &Connection, bytes_max: u64) -> rusqlite::Result<()> {
    if plan::over(used_bytes(tx)?, bytes_max) > 0 {
        let sealed = chain(tx)?.sealed;
        loop {
            let excess = plan::excess(used_bytes(tx)?, bytes_max);
            if excess == 0 {
                break;
            }
            let drops = plan::plan(&droppable(tx, sealed, excess)?, excess);
            if drops.is_empty() {
                break;
            }
            drops.into_iter().try_for_each(|drop| drop_oldest(tx, drop, sealed))?;
        }
    }
    if pages(tx, "PRAGMA page_count")? * PAGE_BYTES > bytes_max {
        // The limit was lowered. Else free pages are left for what comes next.
        give_back(tx)?;
    }
    pages(tx, &format!("PRAGMA max_page_count = {}", bytes_max / PAGE_BYTES)).map(|_| ())
}

fn drop_payloads(tx: &Connection, bytes: u64) -> rusqlite::Result<()> {
    let mut gone = 0;
    while gone < bytes {
        let oldest: Option<(u64, String, u64)> = tx
            .prepare_cached(
                "SELECT seq, header, octet_length(payload) FROM batches WHERE payload NOT NULL
                 ORDER BY seq LIMIT 1",
            )?
            .query_row((), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .optional()?;
        let Some((seq, header, length)) = oldest else { break };
        let header: BatchHeader = serde_json::from_str(&header).map_err(|error| unreadable(1, error))?;
        for (level, count) in header.records {
            lose(tx, level, count)?;
        }
        tx.prepare_cached("UPDATE batches SET payload = NULL WHERE seq = ?1")?.execute([seq])?;
        gone += length;
    }
    Ok(())
}

pub(super) fn batches(tx: &Connection, limit: u32) -> rusqlite::Result<Vec<Batch>> {
    tx.prepare_cached("SELECT header, payload FROM batches ORDER BY seq LIMIT ?1")?
        .query_map([limit], |row| {
            let header_json: String = row.get(0)?;
            let header = serde_json::from_str(&header_json).map_err(|error| unreadable(0, error))?;
            Ok(Batch { header, header_json, payload: row.get(1)? })
        })?
        .collect()
}
