//! Copying what can be read: table by table, row by row.

use rusqlite::{Connection, OptionalExtension, params_from_iter, types::Value};

use crate::format::Database;

/// Rows that are copied between two commits.
const COPY_STEP: u64 = 4096;

#[derive(Clone, Copy)]
pub(super) struct Table {
    pub(super) name: &'static str,
    /// What rows are ordered by; a number unless `numbered` is false.
    pub(super) key: &'static str,
    numbered: bool,
    /// Its rows are what an incident counts.
    pub(super) counted: bool,
    /// What is wrong in its rows is given what can be derived; other tables' rows are left out.
    pub(super) mended: bool,
}

const fn numbered(name: &'static str, key: &'static str) -> Table {
    Table { name, key, numbered: true, counted: false, mended: false }
}

const fn unnumbered(name: &'static str, key: &'static str) -> Table {
    Table { name, key, numbered: false, counted: false, mended: false }
}

const fn counted(table: Table) -> Table {
    Table { counted: true, ..table }
}

const fn mended(table: Table) -> Table {
    Table { mended: true, ..table }
}

pub(super) const fn tables(database: Database) -> &'static [Table] {
    const STATE: &[Table] = &[
        counted(numbered("keysets", "version")),
        counted(numbered("snapshots", "slot")),
        mended(counted(numbered("floor", "one"))),
        counted(unnumbered("artifacts", "kind, name")),
        counted(numbered("artifact_history", "seq")),
        counted(numbered("account", "one")),
        counted(unnumbered("counters", "name")),
        counted(numbered("clock", "one")),
        counted(unnumbered("files", "sha256")),
        counted(unnumbered("partials", "sha256")),
        counted(unnumbered("progress", "sha256, piece")),
        counted(unnumbered("models", "name, version")),
        numbered("incidents", "seq"),
    ];
    const JOBS: &[Table] = &[
        mended(numbered("tally", "one")),
        mended(numbered("floor", "one")),
        mended(numbered("fence", "one")),
        mended(numbered("retired", "one")),
        counted(numbered("jobs", "seq")),
        numbered("payloads", "field"),
        mended(unnumbered("settled", "id")),
        numbered("traces", "seq"),
        numbered("incidents", "seq"),
    ];
    const LOGS: &[Table] = &[
        mended(numbered("chain", "one")),
        mended(numbered("losses", "level")),
        counted(numbered("records", "seq")),
        numbered("batches", "seq"),
        numbered("incidents", "seq"),
    ];
    match database {
        Database::State => STATE,
        Database::Jobs => JOBS,
        Database::Logs => LOGS,
    }
}

#[derive(Default)]
pub(super) struct Count {
    pub(super) saved: u64,
    /// `None`: nobody can tell.
    pub(super) lost: Option<u64>,
}

/// Copies the rows that can be read. `lost` is how many numbers were skipped.
pub(super) fn copy_table(from: &Connection, to: &mut Connection, table: &Table) -> rusqlite::Result<Count> {
    let unreadable = Count { saved: 0, lost: None };
    let Ok(theirs) = columns(from, table.name) else { return Ok(unreadable) };
    let ours = columns(to, table.name)?;
    let shared: Vec<_> = ours.iter().filter(|column| theirs.contains(column)).cloned().collect();
    if shared.is_empty() {
        return Ok(unreadable);
    }
    let copier = Copier { from, table, columns: shared.join(", "), width: shared.len() };
    if table.numbered { copier.by_number(to) } else { copier.both_ends(to) }
}

fn columns(connection: &Connection, table: &str) -> rusqlite::Result<Vec<String>> {
    connection.prepare(&format!("PRAGMA table_info({table})"))?.query_map((), |row| row.get(1))?.collect()
}

struct Copier<'a> {
    from: &'a Connection,
    table: &'a Table,
    columns: String,
    width: usize,
}

/// Why a stretch of reading ended.
enum Stretch {
    /// There are no more rows.
    End,
    /// As many as were asked for.
    Step,
    /// The next one cannot be read.
    Broken,
}

impl Copier<'_> {
    /// Rows from a number on, each handed to `take`.
    fn stretch(
        &self,
        rest: &str,
        start: Option<i64>,
        mut take: impl FnMut(Vec<Value>) -> rusqlite::Result<bool>,
    ) -> rusqlite::Result<Stretch> {
        let sql = format!("SELECT {} FROM {} {rest}", self.columns, self.table.name);
        let Ok(mut statement) = self.from.prepare_cached(&sql) else { return Ok(Stretch::Broken) };
        let Ok(mut rows) = statement.query(params_from_iter(start)) else { return Ok(Stretch::Broken) };
        loop {
            let row = match rows.next() {
                Ok(Some(row)) => row,
                Ok(None) => return Ok(Stretch::End),
                Err(_) => return Ok(Stretch::Broken),
            };
            let Ok(values) = (0..self.width).map(|column| row.get(column)).collect() else {
                return Ok(Stretch::Broken);
            };
            if !take(values)? {
                return Ok(Stretch::Step);
            }
        }
    }

    fn insert(&self, to: &Connection, values: Vec<Value>) -> rusqlite::Result<()> {
        let marks = vec!["?"; self.width].join(", ");
        let (table, columns) = (self.table.name, &self.columns);
        let sql = format!("INSERT OR REPLACE INTO {table} ({columns}) VALUES ({marks})");
        match to.prepare_cached(&sql)?.execute(params_from_iter(values)) {
            Ok(_) => Ok(()),
            // What no row of ours could be is left out.
            Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation) => {
                Ok(())
            }
            Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::TypeMismatch) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn by_number(&self, to: &mut Connection) -> rusqlite::Result<Count> {
        let key = self.table.key;
        let place = self.columns.split(", ").position(|column| column == key);
        let rest = format!("WHERE {key} >= ?1 ORDER BY {key}");
        let (mut next, mut lost) = (i64::MIN, 0_u64);
        let mut last = None::<i64>;
        loop {
            let tx = to.transaction()?;
            let mut step = 0;
            let ended = self.stretch(&rest, Some(next), |values| {
                if let Some(Value::Integer(number)) = place.and_then(|place| values.get(place)) {
                    last = Some(*number);
                }
                self.insert(&tx, values)?;
                step += 1;
                Ok(step < COPY_STEP)
            })?;
            tx.commit()?;
            to.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(()))?;
            match ended {
                Stretch::End => break,
                Stretch::Step => next = last.map_or(i64::MAX, |last| last.saturating_add(1)),
                Stretch::Broken => {
                    let broken = last.map_or(next.max(0), |last| last.saturating_add(1));
                    match self.next_readable(&rest, broken)? {
                        Some(readable) => {
                            lost = lost.saturating_add(readable.abs_diff(broken));
                            // Begins there again, whatever was read of the stretch before.
                            next = readable;
                            last = None;
                        }
                        None => {
                            lost = lost.saturating_add(self.beyond(broken));
                            break;
                        }
                    }
                }
            }
        }
        let saved =
            to.query_row(&format!("SELECT count(*) FROM {}", self.table.name), (), |row| row.get(0))?;
        Ok(Count { saved, lost: Some(lost) })
    }

    /// The lowest number from `broken` on at which reading works, as far as growing and then halving steps
    /// find it.
    fn next_readable(&self, rest: &str, broken: i64) -> rusqlite::Result<Option<i64>> {
        let rest = format!("{rest} LIMIT 1");
        let place = self.columns.split(", ").position(|column| column == self.table.key);
        // The number of the row that is found there.
        let probe = |number: i64| -> rusqlite::Result<Option<i64>> {
            let mut found = None;
            self.stretch(&rest, Some(number), |values| {
                found = match place.and_then(|place| values.get(place)) {
                    Some(Value::Integer(number)) => Some(*number),
                    _ => None,
                };
                Ok(false)
            })?;
            Ok(found)
        };
        let (mut failed, mut step) = (broken, 1_i64);
        let mut good = loop {
            let Some(number) = broken.checked_add(step) else { return Ok(None) };
            match probe(number)? {
                Some(found) => break found,
                None => failed = number,
            }
            let Some(wider) = step.checked_mul(2) else { return Ok(None) };
            step = wider;
        };
        let mut works = good;
        while works.saturating_sub(failed) > 1 {
            let middle = failed + (works - failed) / 2;
            match probe(middle)? {
                Some(found) => (works, good) = (middle, good.min(found)),
                None => failed = middle,
            }
        }
        Ok(Some(good))
    }

    /// How many numbers were given from `broken` on, as far as SQLite's own count can be read; else 1.
    fn beyond(&self, broken: i64) -> u64 {
        let given = self
            .from
            .query_row("SELECT seq FROM sqlite_sequence WHERE name = ?1", [self.table.name], |row| {
                row.get::<_, i64>(0)
            })
            .unwrap_or(broken);
        given.saturating_sub(broken).saturating_add(1).max(1).unsigned_abs()
    }

    fn both_ends(&self, to: &mut Connection) -> rusqlite::Result<Count> {
        let keys: Vec<_> = self.table.key.split(", ").collect();
        let (up, down) = (keys.join(", "), keys.join(" DESC, ") + " DESC");
        let tx = to.transaction()?;
        let mut ended = Stretch::Broken;
        for order in [up, down] {
            ended = self.stretch(&format!("ORDER BY {order}"), None, |values| {
                self.insert(&tx, values).map(|()| true)
            })?;
            if matches!(ended, Stretch::End) {
                break;
            }
        }
        tx.commit()?;
        let saved =
            to.query_row(&format!("SELECT count(*) FROM {}", self.table.name), (), |row| row.get(0))?;
        let lost = matches!(ended, Stretch::End).then_some(0);
        Ok(Count { saved, lost })
    }
}

/// Numbers once given are not given again.
pub(super) fn keep_numbering(from: &Connection, to: &Connection) -> rusqlite::Result<()> {
    let Ok(mut statement) = from.prepare("SELECT name, seq FROM sqlite_sequence") else { return Ok(()) };
    let Ok(rows) = statement.query_map((), |row| Ok((row.get(0)?, row.get(1)?))) else { return Ok(()) };
    for (name, seq) in rows.flatten().collect::<Vec<(String, i64)>>() {
        let changed =
            to.execute("UPDATE sqlite_sequence SET seq = max(seq, ?2) WHERE name = ?1", (&name, seq))?;
        let known = to
            .query_row("SELECT 1 FROM sqlite_schema WHERE name = ?1", [&name], |_| Ok(()))
            .optional()?
            .is_some();
        if changed == 0 && known {
            to.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?1, ?2)", (&name, seq))?;
        }
    }
    Ok(())
}
