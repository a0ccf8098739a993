//! Keysets and snapshots, as they were published.

use node_types::Timestamp;
use rusqlite::{OptionalExtension as _, params};

use super::{Answer, Db};

impl Db {
    /// Keeps a keyset.
    pub(crate) fn add_keyset(&self, version: u64, bytes: &[u8]) -> Answer<()> {
        self.connection.execute("INSERT INTO keysets VALUES (?1, ?2)", params![version, bytes]).map(drop)
    }

    /// All keysets, the first one first.
    pub(crate) fn keysets(&self) -> Answer<Vec<Vec<u8>>> {
        self.all("SELECT bytes FROM keysets ORDER BY version", [], |row| row.get(0))
    }

    /// Keeps a snapshot and what it was made from.
    pub(crate) fn add_snapshot(
        &self,
        version: u64,
        envelope: &[u8],
        template: &str,
        now: Timestamp,
    ) -> Answer<()> {
        let sql = "INSERT INTO snapshots VALUES (?1, ?2, ?3, ?4)";
        self.connection.execute(sql, params![version, envelope, template, now.ms()]).map(drop)
    }

    /// The newest snapshot and its template.
    pub(crate) fn newest_snapshot(&self) -> Answer<Option<(Vec<u8>, String)>> {
        let sql = "SELECT envelope, template FROM snapshots ORDER BY version DESC LIMIT 1";
        self.connection.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).optional()
    }

    /// A snapshot by version.
    pub(crate) fn snapshot(&self, version: u64) -> Answer<Option<Vec<u8>>> {
        let sql = "SELECT envelope FROM snapshots WHERE version = ?1";
        self.connection.query_row(sql, [version], |row| row.get(0)).optional()
    }
}
