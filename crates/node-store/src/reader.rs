//! Readers: read-only connections of their own, so that a long look never delays a commit.
//!
//! Every look is one read transaction: it sees the database as one commit left it. A look sees every
//! write that was answered before it began. Looks are short and bounded by the rooms; one that stays open
//! keeps the write-ahead log from being started anew.
//!
//! Limits: [`IDLE_MAX`] connections are kept open between looks.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use rusqlite::Connection;

use crate::{
    disk::Disk,
    format::{Access, Database, FormatError, connect},
};

/// Connections kept open between looks.
pub const IDLE_MAX: usize = 2;

/// Why a database cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It cannot be opened.
    #[error(transparent)]
    Open(#[from] FormatError),
    /// A look failed.
    #[error("cannot read {database}: {cause}")]
    Look {
        /// The database.
        database: PathBuf,
        /// What SQLite said.
        cause: rusqlite::Error,
    },
}

/// Reads one database.
pub(crate) struct Reader {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    database: Database,
    idle: Mutex<Vec<Connection>>,
}

impl fmt::Debug for Reader {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Reader({})", self.path.display())
    }
}

impl Reader {
    /// Opens nothing yet.
    pub(crate) fn new(disk: Arc<dyn Disk>, folder: &Path, database: Database) -> Self {
        Self { disk, path: folder.join(database.file()), database, idle: Mutex::default() }
    }

    /// The same database with no connection yet: what was read before is not remembered, so the disk is asked.
    pub(crate) fn anew(&self) -> Self {
        Self {
            disk: Arc::clone(&self.disk),
            path: self.path.clone(),
            database: self.database,
            idle: Mutex::default(),
        }
    }

    /// Looks at the database.
    pub(crate) fn read<T>(
        &self,
        look: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, ReadError> {
        // A panic in a look leaves the list as it is.
        let kept = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut connection = match kept {
            Some(connection) => connection,
            None => connect(&*self.disk, &self.path, self.database, Access::Read)?,
        };
        let looked = connection.transaction().and_then(|tx| look(&tx));
        let found = looked.map_err(|cause| ReadError::Look { database: self.path.clone(), cause })?;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MAX {
            idle.push(connection);
        }
        Ok(found)
    }
}
