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
    reader::Reader,
    snapshot::{SnapshotError, SnapshotView},
};

/// Reads the databases of one volume; nothing in it can write.
#[derive(Clone, Debug)]
pub struct View {
    network: Network,
    state: Arc<Reader>,
    jobs: JobsView,
    logs: LogsView,
    inventory: InventoryView,
    binding: BindingView,
}

impl View {
    /// Connections are opened with the first look.
    pub(crate) fn new(disk: &Arc<dyn Disk>, folder: &Path, network: Network) -> Self {
        let reader = |database| Arc::new(Reader::new(Arc::clone(disk), folder, database));
        let state = reader(Database::State);
        Self {
            network,
            jobs: JobsView::new(reader(Database::Jobs)),
            logs: LogsView::new(reader(Database::Logs)),
            inventory: InventoryView::new(Arc::clone(&state)),
            binding: BindingView::new(Arc::clone(&state)),
            state,
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

    /// The snapshots, each verified again.
    ///
    /// # Errors
    /// [`SnapshotError`] where what is stored cannot be read, or the keysets do not follow from the pinned one.
    pub fn snapshots(&self) -> Result<SnapshotView, SnapshotError> {
        SnapshotView::load(&self.state, self.network)
    }
}
