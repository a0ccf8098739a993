//! The rows of model files, of partial ones, and of models.

use std::collections::BTreeSet;

use node_types::{
    Digest, Timestamp,
    config::{PIECE_BYTES, PieceHash},
    job::ModelRef,
    models::ModelState,
};
use rusqlite::{Connection, OptionalExtension, Row, types::Type};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{HeldFile, ModelRow, PartialFile, Scrub};
use crate::{
    nonsense::{Nonsense, bad_rows},
    seal::{Look, Seal},
};

/// The seal of a file, or why there is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Mark {
    /// It was sealed.
    Sealed(Seal),
    /// It was good when it was read last, but could not be sealed.
    Unsealed(Unsealed),
    /// It was not good when it was read last.
    Damaged(String),
}

impl Mark {
    /// A digest of what the file looked like when it was verified last.
    pub(super) fn stamp(&self) -> Option<Digest> {
        match self {
            Self::Sealed(seal) => Some(seal.look().stamp()),
            Self::Unsealed(unsealed) => unsealed.look.as_ref().map(Look::stamp),
            Self::Damaged(_) => None,
        }
    }
}

/// Why a file could not be sealed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Written")]
pub(super) struct Unsealed {
    pub(super) why: String,
    /// Whether hashing it again may seal it.
    pub(super) again: bool,
    /// What it looked like; old rows do not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) look: Option<Look>,
}

/// How that stands in a row: once it was the reason alone.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Reason(String),
    Whole { why: String, again: bool, look: Option<Look> },
}

impl From<Written> for Unsealed {
    fn from(written: Written) -> Self {
        match written {
            Written::Reason(why) => Self { why, again: true, look: None },
            Written::Whole { why, again, look } => Self { why, again, look },
        }
    }
}

/// A file's row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FileRow {
    pub(super) held: HeldFile,
    pub(super) mark: Mark,
}

/// A partial file's row, and how much of each piece is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PartialRow {
    pub(super) partial: PartialFile,
    pub(super) pieces: Vec<PieceHash>,
}

const FILE: &str = "sha256, bytes, pieces, installed_at, verified_at, mark, scrub_next, scrub_began_at,
    scrub_completed_at";
const PARTIAL: &str = "sha256, bytes, pieces, started_at, touched_at,
    (SELECT ifnull(sum(received), 0) FROM progress WHERE progress.sha256 = partials.sha256)";
const MODEL: &str = "name, version, state, since, reason, files";

pub(super) fn files(tx: &Connection) -> rusqlite::Result<Vec<FileRow>> {
    tx.prepare_cached(&format!("SELECT {FILE} FROM files"))?.query_map((), file_row)?.collect()
}

pub(super) fn file(tx: &Connection, sha256: Digest) -> rusqlite::Result<Option<FileRow>> {
    tx.prepare_cached(&format!("SELECT {FILE} FROM files WHERE sha256 = ?1"))?
        .query_row([sha256.as_bytes()], file_row)
        .optional()
}

/// Keeps a file that was found good at `verified_at`; one that is known keeps the moment of its installation and how
/// far it was scrubbed, unless it is `new`.
pub(super) fn keep_file(tx: &Connection, row: &FileRow, new: bool) -> rusqlite::Result<()> {
    if new {
        drop_file(tx, row.held.sha256)?;
    }
    tx.prepare_cached(
        "INSERT INTO files (sha256, bytes, pieces, installed_at, verified_at, mark) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT DO UPDATE SET bytes = ?2, pieces = ?3, verified_at = ?5, mark = ?6",
    )?
    .execute((
        row.held.sha256.as_bytes(),
        row.held.bytes,
        blob(&row.held.pieces),
        row.held.installed_at.ms(),
        row.held.verified_at.ms(),
        json(&row.mark)?,
    ))
    .map(|_| ())
}

pub(super) fn set_mark(tx: &Connection, sha256: Digest, mark: &Mark) -> rusqlite::Result<()> {
    tx.prepare_cached("UPDATE files SET mark = ?2 WHERE sha256 = ?1")?
        .execute((sha256.as_bytes(), json(mark)?))
        .map(|_| ())
}

pub(super) fn set_scrub(tx: &Connection, sha256: Digest, scrub: &Scrub) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "UPDATE files SET scrub_next = ?2, scrub_began_at = ?3, scrub_completed_at = ?4 WHERE sha256 = ?1",
    )?
    .execute((
        sha256.as_bytes(),
        scrub.next_piece,
        scrub.began_at.map(Timestamp::ms),
        scrub.completed_at.map(Timestamp::ms),
    ))
    .map(|_| ())
}

pub(super) fn drop_file(tx: &Connection, sha256: Digest) -> rusqlite::Result<()> {
    tx.prepare_cached("DELETE FROM files WHERE sha256 = ?1")?.execute([sha256.as_bytes()]).map(|_| ())
}

pub(super) fn partials(tx: &Connection) -> rusqlite::Result<Vec<PartialRow>> {
    tx.prepare_cached(&format!("SELECT {PARTIAL} FROM partials"))?.query_map((), partial_row)?.collect()
}

pub(super) fn partial(tx: &Connection, sha256: Digest) -> rusqlite::Result<Option<PartialRow>> {
    tx.prepare_cached(&format!("SELECT {PARTIAL} FROM partials WHERE sha256 = ?1"))?
        .query_row([sha256.as_bytes()], partial_row)
        .optional()
}

/// Begins a partial file of which nothing is there.
pub(super) fn begin_partial(tx: &Connection, row: &PartialRow) -> rusqlite::Result<()> {
    let PartialFile { sha256, bytes, started_at, touched_at, .. } = row.partial;
    drop_partial(tx, sha256)?;
    tx.prepare_cached(
        "INSERT INTO partials (sha256, bytes, pieces, started_at, touched_at) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .execute((sha256.as_bytes(), bytes, blob(&row.pieces), started_at.ms(), touched_at.ms()))
    .map(|_| ())
}

pub(super) fn touch_partial(tx: &Connection, sha256: Digest, now: Timestamp) -> rusqlite::Result<()> {
    tx.prepare_cached("UPDATE partials SET touched_at = max(touched_at, ?2) WHERE sha256 = ?1")?
        .execute((sha256.as_bytes(), now.ms()))
        .map(|_| ())
}

pub(super) fn drop_partial(tx: &Connection, sha256: Digest) -> rusqlite::Result<()> {
    tx.prepare_cached("DELETE FROM progress WHERE sha256 = ?1")?.execute([sha256.as_bytes()])?;
    tx.prepare_cached("DELETE FROM partials WHERE sha256 = ?1")?.execute([sha256.as_bytes()]).map(|_| ())
}

/// How much of each piece is there, by the piece's number.
pub(super) fn received(tx: &Connection, sha256: Digest) -> rusqlite::Result<Vec<(u64, u64)>> {
    tx.prepare_cached("SELECT piece, received FROM progress WHERE sha256 = ?1")?
        .query_map([sha256.as_bytes()], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect()
}

pub(super) fn set_received(
    tx: &Connection,
    sha256: Digest,
    piece: u64,
    received: u64,
) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "INSERT INTO progress (sha256, piece, received) VALUES (?1, ?2, ?3)
         ON CONFLICT DO UPDATE SET received = ?3",
    )?
    .execute((sha256.as_bytes(), piece, received))
    .map(|_| ())
}

pub(super) fn models(tx: &Connection) -> rusqlite::Result<Vec<ModelRow>> {
    tx.prepare_cached(&format!("SELECT {MODEL} FROM models ORDER BY name, version"))?
        .query_map((), model_row)?
        .collect()
}

/// A model that has a file, archived or not; `but` does not count once it is archived.
pub(super) fn needed_by(
    tx: &Connection,
    sha256: Digest,
    but: Option<&ModelRef>,
) -> rusqlite::Result<Option<ModelRef>> {
    let counts = |row: &ModelRow| row.state != ModelState::Archived || Some(&row.reference) != but;
    let needs = |row: &ModelRow| counts(row) && row.files.iter().any(|(_, file, _)| *file == sha256);
    Ok(models(tx)?.into_iter().find(needs).map(|row| row.reference))
}

/// The files of all models, archived ones too.
pub(super) fn needed(tx: &Connection) -> rusqlite::Result<BTreeSet<Digest>> {
    Ok(models(tx)?.into_iter().flat_map(|row| row.files).map(|(_, sha256, _)| sha256).collect())
}

/// Keeps how a model stands; since when, changes with the state alone.
pub(super) fn set_model(tx: &Connection, row: &ModelRow) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "INSERT INTO models (name, version, state, since, reason, files) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT DO UPDATE SET state = ?3, since = iif(state = ?3, since, ?4), reason = ?5, files = ?6",
    )?
    .execute((
        &row.reference.name,
        &row.reference.version,
        row.state.name(),
        row.since.ms(),
        &row.reason,
        json(&row.files)?,
    ))
    .map(|_| ())
}

pub(super) fn drop_model(tx: &Connection, reference: &ModelRef) -> rusqlite::Result<()> {
    tx.prepare_cached("DELETE FROM models WHERE name = ?1 AND version = ?2")?
        .execute((&reference.name, &reference.version))
        .map(|_| ())
}

/// Rows that can be read but make no sense. What is lost with them is found again: a file without a row is hashed,
/// a partial one begun anew, a model's state set again.
pub(crate) fn nonsense(tx: &Connection) -> rusqlite::Result<Vec<Nonsense>> {
    let select = |columns: &str, table: &str| format!("SELECT {columns} FROM {table}");
    let by_hash = |table: &str| format!("DELETE FROM {table} WHERE sha256 = ?1");
    let mut found = bad_rows(tx, &select(FILE, "files"), &by_hash("files"), |row| file_row(row).map(|_| ()))?;
    found.extend(bad_rows(tx, &select(PARTIAL, "partials"), &by_hash("partials"), |row| {
        partial_row(row).map(|_| ())
    })?);
    let progress = |row: &Row<'_>| {
        digest(row, 0)?;
        let within = row.get::<_, u64>(2)? <= PIECE_BYTES;
        row.get::<_, u64>(1).and_then(|_| if within { Ok(()) } else { Err(rusqlite::Error::InvalidQuery) })
    };
    let (columns, delete) =
        ("sha256, piece, received", "DELETE FROM progress WHERE sha256 = ?1 AND piece = ?2");
    found.extend(bad_rows(tx, &select(columns, "progress"), delete, progress)?);
    let delete = "DELETE FROM models WHERE name = ?1 AND version = ?2";
    found.extend(bad_rows(tx, &select(MODEL, "models"), delete, |row| model_row(row).map(|_| ()))?);
    Ok(found)
}

fn file_row(row: &Row<'_>) -> rusqlite::Result<FileRow> {
    let (bytes, pieces) = (row.get(1)?, pieces(row, 2)?);
    if pieces.len() as u64 != u64::div_ceil(bytes, PIECE_BYTES) {
        return Err(unreadable(2, std::io::Error::other("not one hash for each piece")));
    }
    let mark: Mark = parsed(row, 5)?;
    Ok(FileRow {
        held: HeldFile {
            sha256: digest(row, 0)?,
            bytes,
            pieces,
            installed_at: Timestamp::from_ms(row.get(3)?),
            verified_at: Timestamp::from_ms(row.get(4)?),
            sealed: matches!(mark, Mark::Sealed(_)),
            stamp: mark.stamp(),
            scrub: Scrub {
                next_piece: row.get(6)?,
                began_at: row.get::<_, Option<u64>>(7)?.map(Timestamp::from_ms),
                completed_at: row.get::<_, Option<u64>>(8)?.map(Timestamp::from_ms),
            },
        },
        mark,
    })
}

fn partial_row(row: &Row<'_>) -> rusqlite::Result<PartialRow> {
    let bytes: u64 = row.get(1)?;
    Ok(PartialRow {
        partial: PartialFile {
            sha256: digest(row, 0)?,
            bytes,
            received: row.get::<_, u64>(5)?.min(bytes),
            started_at: Timestamp::from_ms(row.get(3)?),
            touched_at: Timestamp::from_ms(row.get(4)?),
        },
        pieces: pieces(row, 2)?,
    })
}

fn model_row(row: &Row<'_>) -> rusqlite::Result<ModelRow> {
    let state: String = row.get(2)?;
    let known = ModelState::ALL.into_iter().find(|known| known.name() == state);
    Ok(ModelRow {
        reference: ModelRef { name: row.get(0)?, version: row.get(1)? },
        state: known.ok_or_else(|| {
            unreadable(2, std::io::Error::other(format!("{state:?} is no state of a model")))
        })?,
        since: Timestamp::from_ms(row.get(3)?),
        reason: row.get(4)?,
        files: parsed(row, 5)?,
    })
}

fn unreadable(column: usize, error: impl std::error::Error + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error))
}

fn digest(row: &Row<'_>, column: usize) -> rusqlite::Result<Digest> {
    row.get(column).map(Digest::from_bytes)
}

fn blob(pieces: &[PieceHash]) -> Vec<u8> {
    pieces.iter().flat_map(|piece| *piece.as_bytes()).collect()
}

fn pieces(row: &Row<'_>, column: usize) -> rusqlite::Result<Vec<PieceHash>> {
    let blob: Vec<u8> = row.get(column)?;
    let (whole, rest) = blob.as_chunks::<32>();
    if !rest.is_empty() {
        return Err(unreadable(column, std::io::Error::other("a hash has 32 bytes")));
    }
    Ok(whole.iter().map(|hash| PieceHash::from_bytes(*hash)).collect())
}

fn parsed<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    serde_json::from_str(&text).map_err(|error| unreadable(column, error))
}

fn json<T: Serialize>(value: &T) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}
