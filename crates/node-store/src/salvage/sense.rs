//! What makes no sense in a whole database, asked of the rooms that know its rows.

use rusqlite::{Connection, Row};

use super::copy::tables;
use crate::{
    binding,
    format::Database,
    inventory, jobs, logs, models,
    nonsense::{Nonsense, bad_rows, negative},
    snapshot,
};

pub(super) fn nonsense(tx: &Connection, database: Database) -> rusqlite::Result<Vec<Nonsense>> {
    let mut found = match database {
        Database::State => {
            let mut found = snapshot::nonsense(tx)?;
            found.extend(inventory::nonsense(tx)?);
            found.extend(binding::nonsense(tx)?);
            found.extend(models::nonsense(tx)?);
            found
        }
        Database::Jobs => jobs::nonsense(tx)?,
        Database::Logs => logs::nonsense(tx)?,
    };
    let incident = |row: &Row<'_>| {
        row.get::<_, String>(1)?;
        row.get::<_, Option<String>>(2).map(|_| ())
    };
    let select = "SELECT seq, cause, moved_to FROM incidents";
    found.extend(bad_rows(tx, select, "DELETE FROM incidents WHERE seq = ?1", incident)?);
    for table in tables(database).iter().filter(|table| !table.mended) {
        found.extend(negative(tx, table.name)?);
    }
    Ok(found)
}
