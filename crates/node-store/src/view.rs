//! The view: everything that can be asked of a volume, read-only, beside a running Agent too.

use std::{path::Path, sync::Arc};

use node_types::{Network, Timestamp};
use rusqlite::Connection;

use crate::{
    binding::BindingView,
    clock::{self, Reading},
    disk::Disk,
    format::Database,
    inventory::InventoryView,
    jobs::JobsView,
    logs::LogsView,
    models::ModelsView,
    reader::{ReadError, Reader},
    rotation::{self, Rules, Step, Trigger, apply::Views},
    salvage::{self, Incident},
    snapshot::{SnapshotError, SnapshotView},
};

/// How a database is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Its format.
    pub format: u32,
    /// Its bytes, without its log.
    pub bytes: u64,
    /// What is wrong with it, if anything is.
    pub damage: Option<String>,
}

/// Reads the databases of one volume; nothing in it can write.
#[derive(Clone, Debug)]
pub struct View {
    network: Network,
    readers: [(Database, Arc<Reader>); 3],
    jobs: JobsView,
    logs: LogsView,
    inventory: InventoryView,
    binding: BindingView,
    models: ModelsView,
    snapshots: Arc<Reader>,
}

impl View {
    /// Connections are opened with the first look.
    pub(crate) fn new(disk: &Arc<dyn Disk>, folder: &Path, network: Network) -> Self {
        let readers = Database::ALL
            .map(|database| (database, Arc::new(Reader::new(Arc::clone(disk), folder, database))));
        let [state, jobs, logs] = readers.each_ref().map(|(_, reader)| Arc::clone(reader));
        Self {
            network,
            jobs: JobsView::new(jobs),
            logs: LogsView::new(logs),
            inventory: InventoryView::new(Arc::clone(&state)),
            binding: BindingView::new(Arc::clone(&state)),
            models: ModelsView::new(Arc::clone(&state), folder),
            snapshots: state,
            readers,
        }
    }

    /// The jobs and traces.
    #[must_use]
    pub const fn jobs(&self) -> &JobsView {
        &self.jobs
    }

    /// The logs.
    #[must_use]
    pub const fn logs(&self) -> &LogsView {
        &self.logs
    }

    /// The inventory.
    #[must_use]
    pub const fn inventory(&self) -> &InventoryView {
        &self.inventory
    }

    /// The binding.
    #[must_use]
    pub const fn binding(&self) -> &BindingView {
        &self.binding
    }

    /// The model files, and how each model stands.
    #[must_use]
    pub const fn models(&self) -> &ModelsView {
        &self.models
    }

    /// Bytes of a database in use, without what was deleted and not given back yet.
    ///
    /// # Errors
    /// [`ReadError`] where it cannot be read.
    pub fn used_bytes(&self, database: Database) -> Result<u64, ReadError> {
        let reader = self.readers.iter().find(|(it, _)| *it == database).map(|(_, reader)| reader);
        let Some(reader) = reader else { return Ok(0) };
        reader.read(|tx| {
            let number = |pragma: &str| tx.query_row(pragma, (), |row| row.get::<_, u64>(0));
            let pages = number("PRAGMA page_count")?.saturating_sub(number("PRAGMA freelist_count")?);
            Ok(pages * number("PRAGMA page_size")?)
        })
    }

    /// What was found damaged or missing and has not been reported to the network.
    ///
    /// # Errors
    /// [`ReadError`] where a database cannot be read.
    pub fn incidents(&self) -> Result<Vec<Incident>, ReadError> {
        self.incidents_since(Timestamp::MAX)
    }

    /// The same, and with it what was found at `since` or later and has been reported.
    ///
    /// # Errors
    /// [`ReadError`] where a database cannot be read.
    pub fn incidents_since(&self, since: Timestamp) -> Result<Vec<Incident>, ReadError> {
        let mut all = Vec::new();
        for (database, reader) in &self.readers {
            all.extend(reader.read(|tx| salvage::incidents(tx, *database, since))?);
        }
        Ok(all)
    }

    /// How each database is: all of it is read.
    #[must_use]
    pub fn health(&self) -> Vec<(Database, Result<Health, ReadError>)> {
        let look = |database: Database, tx: &Connection| {
            let number =
                |pragma: &str| tx.query_row(&format!("PRAGMA {pragma}"), (), |row| row.get::<_, u64>(0));
            Ok(Health {
                format: u32::try_from(number("user_version")?).unwrap_or(u32::MAX),
                bytes: number("page_count")?.saturating_mul(number("page_size")?),
                damage: salvage::examine(tx, database)?,
            })
        };
        self.readers
            .iter()
            .map(|(database, reader)| (*database, reader.read(|tx| look(*database, tx))))
            .collect()
    }

    /// What rotation would do now, as the store itself would plan it, beside a
    /// running Agent too. Traces are judged by the default limit.
    ///
    /// # Errors
    /// [`SnapshotError`] where a database cannot be read or the snapshots cannot be verified.
    pub fn plan_rotation(&self, since: &[Trigger], reading: &Reading) -> Result<Vec<Step>, SnapshotError> {
        let now = clock::known(self.binding.clock_mark()?, self.jobs.high_water()?, reading);
        let rules = Rules::of(self.snapshots()?.current().map(AsRef::as_ref));
        let views = Views { jobs: &self.jobs, logs: Some(&self.logs), inventory: &self.inventory };
        let facts = rotation::apply::gather(views, &rules, since, &now)?;
        Ok(rotation::plan(&rules, &facts, &now))
    }

    /// What the stored snapshots are read with.
    pub(crate) const fn snapshot_reader(&self) -> &Arc<Reader> {
        &self.snapshots
    }

    /// The snapshots, each verified again.
    ///
    /// # Errors
    /// [`SnapshotError`] where what is stored cannot be read, or the keysets do not follow from the pinned one.
    pub fn snapshots(&self) -> Result<SnapshotView, SnapshotError> {
        SnapshotView::load(&self.snapshots, self.network)
    }
}
