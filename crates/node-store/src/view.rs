//! The view: everything that can be asked of a volume, read-only, beside a running Agent too.

use std::{path::Path, sync::Arc};

use node_types::Network;

use crate::{
    binding::BindingView,
    disk::Disk,
    format::Database,
    inventory::InventoryView,
    jobs::JobsView,
    logs::LogsView,
    reader::{ReadError, Reader},
    salvage::{self, Incident},
    snapshot::{SnapshotError, SnapshotView},
};

/// Reads the databases of one volume; nothing in it can write.
#[derive(Clone, Debug)]
pub struct View {
    network: Network,
    readers: [(Database, Arc<Reader>); 3],
    jobs: JobsView,
    logs: LogsView,
    inventory: InventoryView,
    binding: BindingView,
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

    /// What was found damaged or missing and has not been reported to the network.
    ///
    /// # Errors
    /// [`ReadError`] where a database cannot be read.
    pub fn incidents(&self) -> Result<Vec<Incident>, ReadError> {
        let mut all = Vec::new();
        for (database, reader) in &self.readers {
            all.extend(reader.read(|tx| salvage::unreported(tx, *database))?);
        }
        Ok(all)
    }

    /// The snapshots, each verified again.
    ///
    /// # Errors
    /// [`SnapshotError`] where what is stored cannot be read, or the keysets do not follow from the pinned one.
    pub fn snapshots(&self) -> Result<SnapshotView, SnapshotError> {
        SnapshotView::load(&self.snapshots, self.network)
    }
}
