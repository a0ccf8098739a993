//! Who gets records, and how far each is: the rows of `targets` and `target_losses`.
//!
//! A record is held until the network and every required target has it, and until those that are not required were offered it
//! once: they lose what they could not take then. Whatever goes before a target has it is counted for that target, in the
//! commit that deletes it.

use std::collections::BTreeMap;

use node_types::{Timestamp, log::Level};
use rusqlite::{Connection, OptionalExtension, Row};

use super::{
    BATCH_RECORDS_MAX, Entry,
    plan::Which,
    table::{COLUMNS, ROW_BYTES, enough, entry, give_back, level, used_bytes},
};
use crate::nonsense::{Nonsense, bad_rows, wrong, wrong_numbers};

/// The network's name among the targets. It is always one, and always required.
pub const NETWORK: &str = "network";

/// Somebody who gets records beside the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its name, in lower-case letters; not [`NETWORK`].
    pub name: String,
    /// Whether records are held until it has them.
    pub required: bool,
}

/// How far a target is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetState {
    /// Its name.
    pub name: String,
    /// Whether records are held until it has them.
    pub required: bool,
    /// The last record that it has.
    pub cursor: u64,
    /// Records from the oldest on that it does not have and that is still there, at the most.
    pub waiting: u64,
    /// When the oldest of them was written that is still there.
    pub oldest: Option<Timestamp>,
    /// Records that it will never have, ever, by level.
    pub lost: BTreeMap<Level, u64>,
    /// Records that it took a batch without, ever.
    pub rejected: u64,
}

/// What a target is to get next.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Waiting {
    /// The oldest records that it does not have, in order.
    pub entries: Vec<Entry>,
    /// Records that it will never have and was not told of, by level.
    pub untold: BTreeMap<Level, u64>,
}

/// The targets beside the network, and the last record that each has.
pub(super) fn others(tx: &Connection) -> rusqlite::Result<Vec<(String, u64)>> {
    tx.prepare_cached("SELECT name, cursor FROM targets WHERE name <> ?1")?
        .query_map([NETWORK], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect()
}

/// The last record that a target has; `None` for one that is none.
pub(super) fn cursor(tx: &Connection, target: &str) -> rusqlite::Result<Option<u64>> {
    tx.prepare_cached("SELECT cursor FROM targets WHERE name = ?1")?
        .query_row([target], |row| row.get(0))
        .optional()
}

pub(super) fn set(tx: &Connection, wanted: &[Target]) -> rusqlite::Result<()> {
    let wanted: Vec<_> = wanted.iter().filter(|target| target.name != NETWORK).collect();
    // What nobody was owed is kept for whoever looks here, not for one that is new.
    let owed_after = owed_after(tx)?;
    for (name, _) in others(tx)? {
        if wanted.iter().all(|target| target.name != name) {
            tx.prepare_cached("DELETE FROM targets WHERE name = ?1")?.execute([&name])?;
            tx.prepare_cached("DELETE FROM target_losses WHERE target = ?1")?.execute([&name])?;
        }
    }
    mend(tx)?;
    for Target { name, required } in wanted {
        tx.prepare_cached(
            "INSERT INTO targets (name, required, cursor, tried) VALUES (?1, ?2, ?3, ?3)
             ON CONFLICT (name) DO UPDATE SET required = excluded.required",
        )?
        .execute((name, required, owed_after))?;
        for level in Level::ALL {
            tx.prepare_cached("INSERT OR IGNORE INTO target_losses (target, level) VALUES (?1, ?2)")?
                .execute((name, level.rank()))?;
        }
    }
    Ok(())
}

/// The target has everything up to `last`. A cursor never goes back.
pub(super) fn reach(tx: &Connection, target: &str, last: u64) -> rusqlite::Result<()> {
    tx.prepare_cached("UPDATE targets SET cursor = max(cursor, ?2), tried = max(tried, ?2) WHERE name = ?1")?
        .execute((target, last))
        .map(|_| ())
}

pub(super) fn try_up_to(tx: &Connection, target: &str, last: u64) -> rusqlite::Result<()> {
    tx.prepare_cached("UPDATE targets SET tried = max(tried, ?2) WHERE name = ?1")?
        .execute((target, last))
        .map(|_| ())
}

pub(super) fn told(
    tx: &Connection,
    target: &str,
    told: &BTreeMap<Level, u64>,
    rejected: u64,
) -> rusqlite::Result<()> {
    for (level, count) in told {
        tx.prepare_cached(
            "UPDATE target_losses SET untold = max(untold - ?3, 0) WHERE target = ?1 AND level = ?2",
        )?
        .execute((target, level.rank(), count))?;
    }
    tx.prepare_cached("UPDATE targets SET rejected = rejected + ?2 WHERE name = ?1")?
        .execute((target, rejected))
        .map(|_| ())
}

pub(super) fn lose(tx: &Connection, target: &str, lost: &BTreeMap<Level, u64>) -> rusqlite::Result<()> {
    for (level, count) in lost {
        tx.prepare_cached(
            "INSERT INTO target_losses (target, level, ever, untold) VALUES (?1, ?2, ?3, ?3)
             ON CONFLICT (target, level) DO UPDATE SET ever = ever + ?3, untold = untold + ?3",
        )?
        .execute((target, level.rank(), count))?;
    }
    Ok(())
}

/// Records after `after` up to `last`, by level: what a target that has those up to `after` is missing.
pub(super) fn missing(
    tx: &Connection,
    (after, last): (u64, u64),
    only: Option<Level>,
) -> rusqlite::Result<BTreeMap<Level, u64>> {
    tx.prepare_cached(
        "SELECT level, count(*) FROM records
         WHERE seq > ?1 AND seq <= ?2 AND (?3 IS NULL OR level = ?3) GROUP BY level",
    )?
    .query_map((after, last, only.map(Level::rank)), |row| Ok((level(row, 0)?, row.get(1)?)))?
    .collect()
}

/// The records after `after` up to `last` (of one level, where it is given) are about to go: what a target does not have of
/// them is lost for it. The network's loss is counted by whoever deletes.
pub(super) fn lose_range(
    tx: &Connection,
    after: u64,
    last: u64,
    only: Option<Level>,
) -> rusqlite::Result<()> {
    for (name, cursor) in others(tx)? {
        if cursor < last {
            lose(tx, &name, &missing(tx, (after.max(cursor), last), only)?)?;
        }
    }
    Ok(())
}

pub(super) fn give_up(tx: &Connection, target: &str, last: u64) -> rusqlite::Result<()> {
    if let Some(cursor) = cursor(tx, target)? {
        lose(tx, target, &missing(tx, (cursor, last), None)?)?;
        reach(tx, target, last)?;
    }
    Ok(())
}

/// The last record that nobody is owed any more. Without a row of the network nothing tells what it has.
fn owed_after(tx: &Connection) -> rusqlite::Result<u64> {
    tx.prepare_cached(
        "SELECT CASE WHEN EXISTS (SELECT 1 FROM targets WHERE name = ?1)
             THEN (SELECT min(iif(required, cursor, tried)) FROM targets) ELSE 0 END",
    )?
    .query_row([NETWORK], |row| row.get(0))
}

/// How much a release may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// Bytes that one commit deletes at the most.
    pub(super) bytes_max: u64,
    /// Bytes of `logs.db` in use up to which nothing goes.
    pub(super) history: u64,
}

/// Deletes the records that nobody is owed any more, oldest first, until there is no more than the history of them or a commit's
/// worth of bytes went. Says how many records and bytes that were.
pub(super) fn release(tx: &Connection, room: Room) -> rusqlite::Result<(u64, u64)> {
    let wanted = used_bytes(tx)?.saturating_sub(room.history).min(room.bytes_max);
    let (last, bytes) = enough(tx, Which::InBatch, [owed_after(tx)?], wanted)?;
    if last == 0 {
        return Ok((0, 0));
    }
    lose_range(tx, 0, last, None)?;
    let rows = tx.prepare_cached("DELETE FROM records WHERE seq <= ?1")?.execute([last])?;
    give_back(tx)?;
    Ok((rows as u64, bytes))
}

fn losses(tx: &Connection, target: &str, column: &str) -> rusqlite::Result<BTreeMap<Level, u64>> {
    let sql = format!("SELECT level, {column} FROM target_losses WHERE target = ?1 AND {column} > 0");
    tx.prepare_cached(&sql)?.query_map([target], |row| Ok((level(row, 0)?, row.get(1)?)))?.collect()
}

pub(super) fn waiting(tx: &Connection, target: &str, bytes_max: u64) -> rusqlite::Result<Option<Waiting>> {
    let Some(cursor) = cursor(tx, target)? else { return Ok(None) };
    let sql = format!("SELECT {COLUMNS}, {ROW_BYTES} FROM records WHERE seq > ?1 ORDER BY seq LIMIT ?2");
    let mut select = tx.prepare_cached(&sql)?;
    let mut rows = select.query((cursor, BATCH_RECORDS_MAX))?;
    let (mut entries, mut bytes) = (Vec::new(), 0_u64);
    while let Some(row) = rows.next()? {
        bytes += row.get::<_, u64>(7)?;
        if bytes > bytes_max && !entries.is_empty() {
            break;
        }
        entries.push(entry(row)?);
    }
    Ok(Some(Waiting { entries, untold: losses(tx, target, "untold")? }))
}

pub(super) fn states(tx: &Connection) -> rusqlite::Result<Vec<TargetState>> {
    let newest: u64 = tx
        .prepare_cached("SELECT ifnull((SELECT seq FROM sqlite_sequence WHERE name = 'records'), 0)")?
        .query_row((), |row| row.get(0))?;
    let mut states: Vec<TargetState> = tx
        .prepare_cached(
            "SELECT name, required, cursor, rejected, seq, at FROM targets
             LEFT JOIN records ON seq = (SELECT min(seq) FROM records WHERE seq > cursor)
             ORDER BY name",
        )?
        .query_map((), |row| {
            let oldest: Option<u64> = row.get(4)?;
            Ok(TargetState {
                name: row.get(0)?,
                required: row.get(1)?,
                cursor: row.get(2)?,
                waiting: oldest.map_or(0, |oldest| newest.saturating_sub(oldest) + 1),
                oldest: row.get::<_, Option<u64>>(5)?.map(Timestamp::from_ms),
                lost: BTreeMap::new(),
                rejected: row.get(3)?,
            })
        })?
        .collect::<rusqlite::Result<_>>()?;
    for state in &mut states {
        state.lost = if state.name == NETWORK {
            super::table::losses(tx, super::table::Count::Ever)?
        } else {
            losses(tx, &state.name, "ever")?
        };
    }
    Ok(states)
}

/// Cursors beyond the last record there ever was would pass over what comes: those targets begin again.
pub(super) fn nonsense(tx: &Connection) -> rusqlite::Result<Vec<Nonsense>> {
    let newest = "ifnull((SELECT seq FROM sqlite_sequence WHERE name = 'records'), 0)";
    let beyond = format!("cursor < 0 OR tried < 0 OR cursor > {newest} OR tried > {newest}");
    let mut found = wrong(tx, "targets", &beyond, "cursor = 0, tried = 0")?;
    found.extend(wrong(tx, "targets", "required NOT IN (0, 1)", "required = 1")?);
    let named = |row: &Row<'_>| {
        let name: String = row.get(0)?;
        let whole = !name.is_empty() && name.bytes().all(|letter| letter.is_ascii_lowercase());
        if whole { Ok(()) } else { Err(rusqlite::Error::InvalidQuery) }
    };
    let unnamed = "DELETE FROM targets WHERE name = ?1";
    found.extend(bad_rows(tx, "SELECT name FROM targets", unnamed, named)?);
    let lost = |row: &Row<'_>| named(row).and_then(|()| level(row, 1).map(|_| ()));
    let select = "SELECT target, level FROM target_losses";
    let remove = "DELETE FROM target_losses WHERE target = ?1 AND level = ?2";
    found.extend(bad_rows(tx, select, remove, lost)?);
    found.extend(wrong_numbers(tx, "targets", &["rejected"])?);
    found.extend(wrong_numbers(tx, "target_losses", &["ever", "untold"])?);
    Ok(found)
}

/// The network is always a target.
pub(super) fn mend(tx: &Connection) -> rusqlite::Result<()> {
    tx.execute("INSERT OR IGNORE INTO targets (name, required) VALUES (?1, 1)", [NETWORK]).map(|_| ())
}
