//! Rows that can be read but hold what no row of ours could: found by the rooms, which know their rows, and
//! mended in the copy that takes the damaged file's place.

use rusqlite::{Connection, Row, params_from_iter, types::Value};

/// Rows that make no sense, and the statement that leaves them out or gives them what can be derived.
#[derive(Debug)]
pub(crate) struct Nonsense {
    pub(crate) mend: String,
    key: Vec<Value>,
    pub(crate) rows: u64,
}

impl Nonsense {
    pub(crate) fn mend(&self, tx: &Connection) -> rusqlite::Result<()> {
        tx.execute(&self.mend, params_from_iter(&self.key)).map(|_| ())
    }
}

/// The rows of `select` that `judge` cannot read. Its first columns are the values that `mend` takes.
pub(crate) fn bad_rows(
    tx: &Connection,
    select: &str,
    mend: &str,
    judge: impl Fn(&Row<'_>) -> rusqlite::Result<()>,
) -> rusqlite::Result<Vec<Nonsense>> {
    let width = mend.matches('?').count();
    let mut statement = tx.prepare(select)?;
    let mut rows = statement.query(())?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        if judge(row).is_err() {
            // A key that is no text of ours cannot be named; copying leaves such a row out by itself.
            let key = (0..width).map(|column| row.get(column).unwrap_or(Value::Null)).collect();
            found.push(Nonsense { mend: mend.to_owned(), key, rows: 1 });
        }
    }
    Ok(found)
}

/// The rows of a table that meet `condition` get other values.
pub(crate) fn wrong(
    tx: &Connection,
    table: &str,
    condition: &str,
    set: &str,
) -> rusqlite::Result<Vec<Nonsense>> {
    met(tx, table, condition, format!("UPDATE {table} SET {set} WHERE {condition}"))
}

/// The row of a table that has one, where it is not there.
pub(crate) fn no_row(tx: &Connection, table: &str) -> rusqlite::Result<Vec<Nonsense>> {
    let gone: bool =
        tx.query_row(&format!("SELECT NOT EXISTS (SELECT 1 FROM {table})"), (), |row| row.get(0))?;
    let mend = format!("INSERT OR IGNORE INTO {table} DEFAULT VALUES");
    Ok(gone.then(|| Nonsense { mend, key: Vec::new(), rows: 1 }).into_iter().collect())
}

/// Each wrong number of a table's one row goes back to its default, which is 0.
pub(crate) fn wrong_numbers(
    tx: &Connection,
    table: &str,
    columns: &[&str],
) -> rusqlite::Result<Vec<Nonsense>> {
    let mut found = Vec::new();
    for column in columns {
        found.extend(wrong(tx, table, &format!("{column} < 0"), &format!("{column} = 0"))?);
    }
    Ok(found)
}

/// A floor that lies in two databases. One that cannot be read is left to its other copy; a version whose
/// digest is lost falls by one, so that the other copy, which has the digest, is higher.
pub(crate) fn floor(tx: &Connection) -> rusqlite::Result<Vec<Nonsense>> {
    let mut found = no_row(tx, "floor")?;
    found.extend(wrong(tx, "floor", "version < 0", "version = 0, digest = NULL")?);
    let set = "version = max(version - 1, 0), digest = NULL";
    found.extend(wrong(tx, "floor", "length(digest) <> 32", set)?);
    Ok(found)
}

fn met(tx: &Connection, table: &str, condition: &str, mend: String) -> rusqlite::Result<Vec<Nonsense>> {
    let rows: u64 =
        tx.query_row(&format!("SELECT count(*) FROM {table} WHERE {condition}"), (), |row| row.get(0))?;
    Ok((rows > 0).then(|| Nonsense { mend, key: Vec::new(), rows }).into_iter().collect())
}

/// Rows with a number below 0: no number that we keep is.
pub(crate) fn negative(tx: &Connection, table: &str) -> rusqlite::Result<Vec<Nonsense>> {
    let columns: Vec<(String, String)> = tx
        .prepare(&format!("PRAGMA table_info({table})"))?
        .query_map((), |row| Ok((row.get(1)?, row.get(2)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let numbers: Vec<_> = columns
        .iter()
        .filter(|(_, kind)| kind == "INTEGER")
        .map(|(name, _)| format!("ifnull({name} < 0, 0)"))
        .collect();
    if numbers.is_empty() {
        return Ok(Vec::new());
    }
    let condition = numbers.join(" OR ");
    met(tx, table, &condition, format!("DELETE FROM {table} WHERE {condition}"))
}
