//! The store: a volume, its keys and its rooms, opened together.
//!
//! What may fail is checked before anything is changed, in this order: keys, folder, lock, stamps,
//! formats. A missing key beside an existing database is an error, never a new identity. A creation that a
//! crash interrupted is finished by calling [`Store::create`] again.

use std::{
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::Arc,
};

use node_types::{Address, Network, NodeId, Timestamp, VolumeId, config::NodeConfig, verify::Verified};

use crate::{
    binding::Binding,
    disk::{Disk, RealDisk},
    format::{Database, Stamp},
    inventory::Inventory,
    jobs::{JobRules, Jobs},
    keys::{self, KekSources, KeyError, NodeKey, Protection, Signer, VolumeKey},
    logs::Logs,
    snapshot::{Applied, SnapshotError, Snapshots},
    volume::{self, KEYS, Keeping, RESERVE_BYTES, Volume, VolumeError},
    writer::{Upkeep, WriteError},
};

/// Bytes that `logs.db` may take until a snapshot says otherwise: 64 MiB.
pub const LOGS_BYTES: u64 = 64 << 20;

/// Where a store is and how it is opened.
#[derive(Debug)]
pub struct Options {
    /// The disk; [`RealDisk`] but in tests.
    pub disk: Arc<dyn Disk>,
    /// The folder that holds the volumes of both networks.
    pub home: PathBuf,
    /// Which of the two.
    pub network: Network,
    /// Where the key-encryption key comes from.
    pub kek: KekSources,
    /// Bytes kept back for ending jobs on a full disk.
    pub reserve_bytes: u64,
    /// When checkpoints are made; [`Upkeep::WhenDue`] but in tests.
    pub upkeep: Upkeep,
}

impl Options {
    /// The volume of `network` under `home`, with the key-encryption key that is found there.
    #[must_use]
    pub fn new(home: &Path, network: Network) -> Self {
        Self {
            disk: Arc::new(RealDisk),
            home: home.to_owned(),
            network,
            kek: KekSources::new(&volume::folder(home, network).join(KEYS)),
            reserve_bytes: RESERVE_BYTES,
            upkeep: Upkeep::WhenDue,
        }
    }

    fn folder(&self) -> PathBuf {
        volume::folder(&self.home, self.network)
    }
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The keys.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A key is gone while what it protects is there.
    #[error("{key} is missing beside {database}: restore it from a backup; a new one would be another node")]
    MissingKey {
        /// The key's file.
        key: PathBuf,
        /// A database that is there.
        database: PathBuf,
    },
    /// Another key is there already.
    #[error("{path} holds the key of {held}, not of {offered}: choose another --home for another node")]
    OtherKey {
        /// The key's file.
        path: PathBuf,
        /// The address of the key that is there.
        held: Address,
        /// The address of the one given.
        offered: Address,
    },
    /// The volume.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// What is stored of snapshots.
    #[error("cannot read the stored snapshots")]
    Snapshot(#[from] SnapshotError),
    /// A database stopped while it was being opened.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The system gave no randomness.
    #[error("the system gave no randomness: {0}")]
    Randomness(String),
    /// The operating system failed.
    #[error("cannot use {path}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Its error.
        #[source]
        source: io::Error,
    },
}

/// An open store: everything a node keeps.
#[derive(Debug)]
pub struct Store {
    volume: Volume,
    signer: Signer,
    protection: Protection,
    jobs: Jobs,
    snapshots: Snapshots,
    inventory: Inventory,
    binding: Binding,
    logs: Logs,
}

impl Store {
    /// Makes a volume and its keys and opens it. Without `node_key` a new one is drawn.
    ///
    /// # Errors
    /// [`StoreError`]; [`VolumeError::Exists`] where there is a volume.
    pub fn create(options: &Options, node_key: Option<NodeKey>, now: Timestamp) -> Result<Self, StoreError> {
        let (disk, folder) = (&*options.disk, options.folder());
        let keys_folder = folder.join(KEYS);
        for missing in [&options.home, &folder] {
            make_folder(disk, missing)?;
        }
        keys::prepare_folder(disk, &keys_folder)?;
        let held = match keys::open_node_key(disk, &keys_folder, options.network, &options.kek)? {
            Some(held) => held.key,
            None => {
                refuse_orphans(disk, &folder, "node.key")?;
                let key = node_key.map_or_else(NodeKey::generate, Ok)?;
                let kek = options.kek.kek_for_new(disk)?;
                keys::create_node_key(disk, &keys_folder, options.network, &key, &kek)?;
                return Self::create(options, Some(key), now);
            }
        };
        if let Some(offered) = node_key.map(|key| key.address()).filter(|it| *it != held.address()) {
            let path = keys_folder.join("node.key");
            return Err(StoreError::OtherKey { path, held: held.address(), offered });
        }
        if keys::recorded_volume(disk, &keys_folder, options.network)?.is_none() {
            refuse_orphans(disk, &folder, "volume.key")?;
            let mut bytes = [0; 16];
            getrandom::fill(&mut bytes).map_err(|error| StoreError::Randomness(error.to_string()))?;
            let (volume, key) = (VolumeId::from_bytes(bytes), VolumeKey::generate()?);
            let kek = options.kek.kek_for_new(disk)?;
            let address = held.address();
            keys::create_volume_key(disk, &keys_folder, options.network, address, volume, &key, &kek)?;
        }
        Self::start(options, now, Volume::create)
    }

    /// Opens a volume that is there: jobs that were running are queued again, the rules of the snapshot in
    /// force are put in force.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open(options: &Options, now: Timestamp) -> Result<Self, StoreError> {
        Self::start(options, now, Volume::open)
    }

    fn start(
        options: &Options,
        now: Timestamp,
        open: impl FnOnce(&Arc<dyn Disk>, &Path, Stamp, Keeping) -> Result<Volume, VolumeError>,
    ) -> Result<Self, StoreError> {
        let (disk, folder, network) = (&*options.disk, options.folder(), options.network);
        let keys_folder = folder.join(KEYS);
        let absent = || StoreError::Volume(VolumeError::Missing { path: folder.clone() });
        if disk.entry(&folder).map_err(|source| io_error(&folder, source))?.is_none() {
            return Err(absent());
        }
        let Some(node) = keys::open_node_key(disk, &keys_folder, network, &options.kek)? else {
            refuse_orphans(disk, &folder, "node.key")?;
            return Err(absent());
        };
        let address = node.key.address();
        let Some(volume_id) = keys::recorded_volume(disk, &keys_folder, network)? else {
            refuse_orphans(disk, &folder, "volume.key")?;
            return Err(absent());
        };
        let opened = keys::open_volume_key(disk, &keys_folder, network, address, volume_id, &options.kek)?;
        let Some(volume_key) = opened else { return Err(absent()) };
        if any_database(disk, &folder)?.is_none() {
            sync_names(disk, &keys_folder)?;
        }
        let stamp = Stamp { network, node: NodeId::derive(network, &address), volume: volume_id };
        let keeping = Keeping { reserve_bytes: options.reserve_bytes, upkeep: options.upkeep };
        let volume = open(&options.disk, &folder, stamp, keeping)?;
        let store = Self {
            jobs: volume.jobs(volume_key.key.secret_bytes()),
            snapshots: volume.snapshots()?,
            inventory: volume.inventory(),
            binding: volume.binding(),
            logs: volume.logs(LOGS_BYTES),
            volume,
            signer: Signer::new(node.key),
            protection: node.protection,
        };
        store.jobs.restart(now).wait()?;
        store.follow_snapshot(now)?;
        Ok(store)
    }

    /// Puts the rules of the snapshot in force. Done at every open too: that repairs a crash between
    /// applying a snapshot and this.
    fn follow_snapshot(&self, now: Timestamp) -> Result<(), WriteError> {
        let current = self.snapshots.current();
        self.jobs.set_rules(current.as_ref().map(|current| JobRules::of(&current.config)));
        if let Some(current) = current {
            self.logs.set_bytes_max(current.config.document().limits.logs_bytes_max);
        }
        while self.jobs.fail_forbidden(now).wait()? > 0 {}
        Ok(())
    }

    /// Applies a verified snapshot: it is in force, and the queued jobs that it forbids have failed, when
    /// this returns.
    ///
    /// # Errors
    /// [`SnapshotError`]; after a [`SnapshotError::Write`] opening again finishes what was begun.
    pub fn apply_snapshot(
        &self,
        config: Verified<NodeConfig>,
        now: Timestamp,
    ) -> Result<Applied, SnapshotError> {
        let answer = self.snapshots.apply(config, now)?;
        self.follow_snapshot(now)?;
        Ok(answer)
    }

    /// Goes back to the last good snapshot; see [`Snapshots::roll_back`].
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn roll_back_snapshot(&self, now: Timestamp) -> Result<(), SnapshotError> {
        self.snapshots.roll_back(now)?;
        Ok(self.follow_snapshot(now)?)
    }

    /// The node's ID.
    #[must_use]
    pub const fn node(&self) -> NodeId {
        self.volume.stamp().node
    }

    /// The volume.
    #[must_use]
    pub const fn volume(&self) -> &Volume {
        &self.volume
    }

    /// What signs for the node. The key itself cannot be had.
    #[must_use]
    pub const fn signer(&self) -> &Signer {
        &self.signer
    }

    /// What protects the node's key on disk, to be reported.
    #[must_use]
    pub const fn protection(&self) -> Protection {
        self.protection
    }

    /// The jobs.
    #[must_use]
    pub const fn jobs(&self) -> &Jobs {
        &self.jobs
    }

    /// The snapshots, for reading, verifying, pinning and confirming.
    #[must_use]
    pub const fn snapshots(&self) -> &Snapshots {
        &self.snapshots
    }

    /// The inventory.
    #[must_use]
    pub const fn inventory(&self) -> &Inventory {
        &self.inventory
    }

    /// The logs.
    #[must_use]
    pub const fn logs(&self) -> &Logs {
        &self.logs
    }

    /// The binding.
    #[must_use]
    pub const fn binding(&self) -> &Binding {
        &self.binding
    }
}

fn io_error(path: &Path, source: io::Error) -> StoreError {
    StoreError::Io { path: path.to_owned(), source }
}

/// Makes a folder and those above it that are missing, each 0700. [`sync_names`] makes their names durable.
fn make_folder(disk: &dyn Disk, folder: &Path) -> Result<(), StoreError> {
    if disk.entry(folder).map_err(|source| io_error(folder, source))?.is_some() {
        return Ok(());
    }
    let Some(parent) = folder.parent() else { return Ok(()) };
    make_folder(disk, parent)?;
    let made = match disk.create_dir(folder) {
        // Another process made it just now; what it is is checked when it is used.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        other => other,
    };
    made.map_err(|source| io_error(folder, source))
}

/// Makes the names durable that lead to the keys, before the first database is made beside them: a power
/// cut must not take the keys and leave a database. An earlier process may have made them and been killed
/// before its syncs.
fn sync_names(disk: &dyn Disk, keys_folder: &Path) -> Result<(), StoreError> {
    for folder in keys_folder.ancestors() {
        match disk.sync_dir(folder) {
            // A folder that we may not read, or that cannot be synced, is none that we made a name in.
            Err(error) if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::InvalidInput) => {}
            synced => synced.map_err(|source| io_error(folder, source))?,
        }
    }
    Ok(())
}

/// A key is missing: that is a fresh start only where no database is there.
fn refuse_orphans(disk: &dyn Disk, folder: &Path, key: &str) -> Result<(), StoreError> {
    match any_database(disk, folder)? {
        Some(database) => Err(StoreError::MissingKey { key: folder.join(KEYS).join(key), database }),
        None => Ok(()),
    }
}

/// The first database that is there.
fn any_database(disk: &dyn Disk, folder: &Path) -> Result<Option<PathBuf>, StoreError> {
    for path in Database::ALL.map(|database| folder.join(database.file())) {
        if disk.entry(&path).map_err(|source| io_error(&path, source))?.is_some() {
            return Ok(Some(path));
        }
    }
    Ok(None)
}
