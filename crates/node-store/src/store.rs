//! The store: a volume, its keys and its rooms, opened together.
//!
//! What may fail is checked before anything is changed, in this order: lock, keys, folder, stamps,
//! formats. A missing key beside an existing database is an error, never a new identity. A creation that a
//! crash interrupted is finished by calling [`Store::create`] again.

use std::{
    fmt,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use node_types::{
    Address, Network, NodeId, Timestamp, VolumeId,
    config::NodeConfig,
    inventory::Measured,
    log::{Kind, Level, Record},
    verify::{Floor, Verified},
};

use crate::{
    binding::Binding,
    clock::{self, Mark, Reading, Trust},
    disk::{Disk, RealDisk},
    format::{Database, Stamp},
    inventory::{self, Inventory},
    jobs::{JobRules, Jobs, Retired},
    keys::{self, Kek, KekSources, KeyError, NodeKey, Protection, Signer, VolumeKey},
    logs::{self, Logs, LogsView},
    models::Models,
    reader::ReadError,
    rotation::{
        self, Class, Rules, Step, StoreStep, Trigger,
        apply::{Rooms, Views},
    },
    snapshot::{Applied, SnapshotError, Snapshots},
    view::View,
    volume::{self, Claim, HeldBy, KEYS, Keeping, RESERVE_BYTES, Volume, VolumeError},
    writer::{Upkeep, WriteError},
};

/// How long rotation may leave the time unkept where no job ends by it, in milliseconds: 10 s. A restart knows of a time that is so much
/// earlier at the most, and a node at rest syncs so seldom.
pub const KEEP_TIME_MS: u64 = 10_000;

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

    pub(crate) fn folder(&self) -> PathBuf {
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
    /// A database cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
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

impl StoreError {
    /// The failed look behind it, if that is what it is.
    const fn read(&self) -> Option<&ReadError> {
        match self {
            Self::Read(error) | Self::Snapshot(SnapshotError::Read(error)) => Some(error),
            Self::Key(_)
            | Self::MissingKey { .. }
            | Self::OtherKey { .. }
            | Self::Volume(_)
            | Self::Snapshot(_)
            | Self::Write(_)
            | Self::Randomness(_)
            | Self::Io { .. } => None,
        }
    }
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
    models: Models,
    time: Mutex<Mark>,
    /// What of it is on disk.
    kept: Mutex<Option<Mark>>,
    /// Held while what is in force changes: both copies of the floor, the snapshot and the rules that follow it.
    turn: Mutex<()>,
}

impl Store {
    /// Makes a volume and its keys and opens it. Without `node_key` a new one is drawn.
    ///
    /// # Errors
    /// [`StoreError`]; [`VolumeError::Exists`] where there is a volume.
    pub fn create(
        options: &Options,
        node_key: Option<NodeKey>,
        reading: &Reading,
    ) -> Result<Self, StoreError> {
        let (disk, folder) = (&*options.disk, options.folder());
        let keys_folder = folder.join(KEYS);
        for missing in [&options.home, &folder] {
            make_folder(disk, missing)?;
        }
        let claim = Claim::take(&options.disk, &folder)?;
        keys::prepare_folder(disk, &keys_folder)?;
        let address = match keys::open_node_key(disk, &keys_folder, options.network, &options.kek)? {
            Some(held) => {
                let held = held.key.address();
                if let Some(offered) = node_key.map(|key| key.address()).filter(|it| *it != held) {
                    let path = keys_folder.join("node.key");
                    return Err(StoreError::OtherKey { path, held, offered });
                }
                held
            }
            None => {
                refuse_orphans(disk, &folder, "node.key")?;
                let key = node_key.map_or_else(NodeKey::generate, Ok)?;
                let kek = options.kek.kek_for_new(disk)?;
                keys::create_node_key(disk, &keys_folder, options.network, &key, &kek)?;
                key.address()
            }
        };
        if keys::recorded_volume(disk, &keys_folder, options.network)?.is_none() {
            refuse_orphans(disk, &folder, "volume.key")?;
            let mut bytes = [0; 16];
            getrandom::fill(&mut bytes).map_err(|error| StoreError::Randomness(error.to_string()))?;
            let (volume, key) = (VolumeId::from_bytes(bytes), VolumeKey::generate()?);
            let kek = options.kek.kek_for_new(disk)?;
            keys::create_volume_key(disk, &keys_folder, options.network, address, volume, &key, &kek)?;
        }
        Self::start(options, reading, claim, Volume::create_claimed)
    }

    /// Opens a volume that is there: jobs that were running are queued again, the rules of the snapshot in
    /// force are put in force, and what a crash left undone is done. `reading` is judged against what this
    /// volume has known of time, so time does not go back.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open(options: &Options, reading: &Reading) -> Result<Self, StoreError> {
        let open = || Self::start(options, reading, Self::claim(options)?, Volume::open_claimed);
        match open() {
            // Damage that only the first use of a large database met: the volume checks it in full now.
            Err(error) if volume::note_damage(&*options.disk, &options.folder(), error.read()) => open(),
            other => other,
        }
    }

    /// The lock of a volume that is there. Where there is none, nothing is written.
    fn claim(options: &Options) -> Result<Claim, StoreError> {
        let (disk, folder) = (&*options.disk, options.folder());
        let keys_folder = folder.join(KEYS);
        for key in ["node.key", "volume.key"] {
            let path = keys_folder.join(key);
            if disk.entry(&path).map_err(|source| io_error(&path, source))?.is_none() {
                refuse_orphans(disk, &folder, key)?;
                return Err(VolumeError::Missing { path: folder }.into());
            }
        }
        Ok(Claim::take(&options.disk, &folder)?)
    }

    /// Seals the keys of a volume anew, under `to`; see [`keys::reseal`]. No Agent may run on it.
    ///
    /// # Errors
    /// [`StoreError::Volume`] with [`VolumeError::InUse`] or [`VolumeError::Missing`]; [`StoreError::Key`].
    pub fn reseal_keys(options: &Options, to: &Kek) -> Result<u32, StoreError> {
        let _claim = Self::claim(options)?;
        let keys_folder = options.folder().join(KEYS);
        Ok(keys::reseal(&*options.disk, &keys_folder, options.network, &options.kek, to)?)
    }

    fn start(
        options: &Options,
        reading: &Reading,
        claim: Claim,
        open: impl FnOnce(Claim, Stamp, Keeping, Timestamp) -> Result<Volume, VolumeError>,
    ) -> Result<Self, StoreError> {
        let (disk, folder, network) = (&*options.disk, options.folder(), options.network);
        let keys_folder = folder.join(KEYS);
        let absent = || StoreError::Volume(VolumeError::Missing { path: folder.clone() });
        let Some(node) = keys::open_node_key(disk, &keys_folder, network, &options.kek)? else {
            return Err(absent());
        };
        let address = node.key.address();
        let Some(volume_id) = keys::recorded_volume(disk, &keys_folder, network)? else {
            return Err(absent());
        };
        let opened = keys::open_volume_key(disk, &keys_folder, network, address, volume_id, &options.kek)?;
        let Some(volume_key) = opened else { return Err(absent()) };
        if any_database(disk, &folder)?.is_none() {
            sync_names(disk, &keys_folder)?;
        }
        let stamp = Stamp { network, node: NodeId::derive(network, &address), volume: volume_id };
        let keeping = Keeping { reserve_bytes: options.reserve_bytes, upkeep: options.upkeep };
        let volume = open(claim, stamp, keeping, reading.wall)?;
        let store = Self {
            jobs: volume.jobs(volume_key.key.secret_bytes()),
            snapshots: volume.snapshots()?,
            inventory: volume.inventory(),
            binding: volume.binding(),
            logs: volume.logs(logs::BYTES_MAX),
            models: volume.models(),
            time: Mutex::new(known_time(volume.view(), reading)?),
            kept: Mutex::default(),
            turn: Mutex::new(()),
            volume,
            signer: Signer::new(node.key),
            protection: node.protection,
        };
        let now = store.keep_time(reading)?.now;
        store.keep_what_must_not_fall_back(now)?;
        store.note_changed_snapshot(now);
        store.follow_snapshot(&[Trigger::Restart], now)?;
        Ok(store)
    }

    /// The floor lies in two files, so that the loss of one does not lower it; message numbers that a lost file
    /// had given are passed over.
    fn keep_what_must_not_fall_back(&self, now: Timestamp) -> Result<(), StoreError> {
        let jobs = self.view().jobs();
        // Where these cannot be read, the volume is checked in full now: no job may run because of it. The mark may have been
        // unreadable when the volume was judged, and be there now.
        if let Some(Retired { at, archive, transfer }) = jobs.retired()? {
            let path = self.volume.folder().to_owned();
            return Err(VolumeError::Retired { path, at, archive, transfer }.into());
        }
        jobs.fence()?;
        self.snapshots.raise_floor(jobs.floor()?)?;
        self.jobs.keep_floor(self.snapshots.floor()).wait()?;
        Ok(self.binding.skip_sequence(now.max(jobs.high_water()?)).wait()?)
    }

    /// A stored snapshot that has changed is drift, whatever comes into force in its place.
    fn note_changed_snapshot(&self, now: Timestamp) {
        let (stored, current) = self.snapshots.look(|view| (view.stored(), view.current().cloned()));
        if stored == current.map_or(Measured::Absent, |current| Measured::Present(current.config.digest())) {
            return;
        }
        let message = "the stored snapshot has changed on the disk and is not used";
        self.logs.append(Record::new(now, Level::Error, Kind::Configuration, message.to_owned()));
        // A disk that takes nothing stops no start; whoever measures next notes it.
        let _ = self.inventory.measure(inventory::configuration(), stored, now).wait();
    }

    /// Puts the rules of the snapshot in force and does what they ask of jobs, traces and hashes. Done at every
    /// open too: that repairs a crash between applying a snapshot and this. Logs wait for the next rotation,
    /// so that damage to them stops no job.
    fn follow_snapshot(&self, since: &[Trigger], now: Timestamp) -> Result<(), RotationError> {
        let current = self.snapshots.current();
        self.jobs.set_rules(current.as_ref().map(|current| JobRules::of(&current.config)));
        if let Some(current) = &current {
            self.logs.set_bytes_max(current.config.document().limits.logs_bytes_max);
        }
        // A job that was offered under the rules before is in the queue now, or was refused.
        self.jobs.settled_down().wait()?;
        let mark = self.marked().clone();
        for step in self.plan_at(since, &mark, None)? {
            match step {
                Step::Store(step) if step.class() != Class::Logs => self.apply(&step, now)?,
                Step::Store(_) | Step::Agent(_) => {}
            }
        }
        if let Some(current) = current {
            self.jobs.screened(current.config.digest()).wait()?;
        }
        Ok(())
    }

    /// Judges a snapshot that the network offers and applies it: when this returns it is in force, the queued jobs
    /// that it forbids have failed, and the traces of earlier ones that were sent once are deleted.
    ///
    /// A refused one leaves a log record that says why, and nothing else.
    ///
    /// # Errors
    /// [`SnapshotError`]; after a [`SnapshotError::Write`] opening again finishes what was begun.
    pub fn apply_envelope(&self, envelope: &[u8], now: Timestamp) -> Result<Applied, SnapshotError> {
        let judged = self.snapshots.verify(envelope, now);
        self.reported(judged.and_then(|config| self.put_in_force(config, now)), now)
    }

    /// The same for a snapshot that was verified before; it is verified again.
    ///
    /// # Errors
    /// Those of [`Store::apply_envelope`].
    pub fn apply_snapshot(
        &self,
        config: Verified<NodeConfig>,
        now: Timestamp,
    ) -> Result<Applied, SnapshotError> {
        self.reported(self.put_in_force(config, now), now)
    }

    fn put_in_force(&self, config: Verified<NodeConfig>, now: Timestamp) -> Result<Applied, SnapshotError> {
        let _turn = self.take_turn();
        // Before the floor's second copy rises: it would raise the first at the next opening.
        self.snapshots.verify_again(&config, now)?;
        self.jobs.keep_floor(Floor::at(&config)).wait()?;
        let answer = self.snapshots.apply(config, now)?;
        self.follow_snapshot(&[], now)?;
        Ok(answer)
    }

    fn take_turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reported(
        &self,
        answer: Result<Applied, SnapshotError>,
        now: Timestamp,
    ) -> Result<Applied, SnapshotError> {
        match &answer {
            Ok(Applied::New | Applied::Already) => {}
            Ok(Applied::FailedBefore) => {
                self.note_refusal(Level::Warn, "configuration", &"it failed its health check before", now);
            }
            Err(why) => self.note_refused("configuration", why, now),
        }
        answer
    }

    /// Takes the keyset that follows the one in force. A refused one leaves a log record that says why, and nothing
    /// else.
    ///
    /// # Errors
    /// Those of [`Snapshots::rotate_keyset`].
    pub fn rotate_keyset(&self, envelope: &[u8], now: Timestamp) -> Result<(), SnapshotError> {
        let answer = self.snapshots.rotate_keyset(envelope);
        if let Err(why) = &answer {
            self.note_refused("keyset", why, now);
        }
        answer
    }

    fn note_refused(&self, what: &str, why: &SnapshotError, now: Timestamp) {
        if let Some(level) = why.refusal_level() {
            self.note_refusal(level, what, why, now);
        }
    }

    fn note_refusal(&self, level: Level, what: &str, why: &dyn fmt::Display, now: Timestamp) {
        let message = format!("refused a {what}: {why}");
        self.logs.append(Record::new(now, level, Kind::Configuration, message));
    }

    /// Goes back to the last good snapshot; see [`Snapshots::roll_back`].
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn roll_back_snapshot(&self, now: Timestamp) -> Result<(), SnapshotError> {
        let _turn = self.take_turn();
        self.snapshots.roll_back(now)?;
        Ok(self.follow_snapshot(&[], now)?)
    }

    /// Lets the snapshot be tried again that failed its health check; see [`Snapshots::forget_failure`]. The log says so.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn retry_snapshot(&self, now: Timestamp) -> Result<Option<u64>, WriteError> {
        let _turn = self.take_turn();
        let version = self.snapshots.forget_failure()?;
        if let Some(version) = version {
            let message = format!(
                "snapshot {version} failed its health check before, and may be tried again: its operator says so"
            );
            self.logs.append(Record::new(now, Level::Info, Kind::Configuration, message));
        }
        Ok(version)
    }

    /// What time it is: `reading` judged against all that this volume has known. It never goes back.
    #[must_use]
    pub fn time(&self, reading: &Reading) -> Mark {
        let mut mark = self.marked();
        *mark = clock::judge(Some(&mark), reading);
        mark.clone()
    }

    /// The same, and on disk when this returns: from time to time, so that a restart knows of it.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn keep_time(&self, reading: &Reading) -> Result<Mark, WriteError> {
        let mark = self.time(reading);
        self.keep_mark(&mark)?;
        Ok(mark)
    }

    /// The same where a restart has to know of it: before jobs are ended by it, where it is to be trusted or not other than it was, and
    /// every [`KEEP_TIME_MS`].
    fn keep_time_where_due(&self, reading: &Reading, ends_jobs: bool) -> Result<Timestamp, WriteError> {
        let mark = self.time(reading);
        let trusts = |mark: &Mark| matches!(mark.trust, Trust::Trusted);
        let stands = self
            .kept()
            .as_ref()
            .is_some_and(|kept| trusts(kept) == trusts(&mark) && mark.now.since_ms(kept.now) < KEEP_TIME_MS);
        if ends_jobs || !stands {
            self.keep_mark(&mark)?;
        }
        Ok(mark.now)
    }

    fn keep_mark(&self, mark: &Mark) -> Result<(), WriteError> {
        self.binding.keep_clock_mark(mark.clone()).wait()?;
        *self.kept() = Some(mark.clone());
        Ok(())
    }

    /// Takes the network's time: expiry that was held goes on. On disk when this returns.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn confirm_time(&self, reading: &Reading, network: Timestamp) -> Result<Mark, WriteError> {
        let mark = {
            let mut mark = self.marked();
            *mark = clock::confirm(&clock::judge(Some(&mark), reading), network);
            mark.clone()
        };
        self.keep_mark(&mark)?;
        Ok(mark)
    }

    fn kept(&self) -> MutexGuard<'_, Option<Mark>> {
        // It is replaced as a whole.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn marked(&self) -> MutexGuard<'_, Mark> {
        // It is replaced as a whole.
        self.time.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What rotation would do now: printing it is the dry run. `since` names what happened since the last
    /// plan: [`Trigger::Restart`] once, before the first lease, and [`Trigger::ContainerUpdate`] once after
    /// one; the rest shows in the data.
    ///
    /// # Errors
    /// [`ReadError`] where `state.db` or `jobs.db` cannot be read.
    pub fn plan_rotation(&self, since: &[Trigger], reading: &Reading) -> Result<Vec<Step>, ReadError> {
        self.plan_at(since, &self.time(reading), Some(self.logs.view()))
    }

    fn plan_at(
        &self,
        since: &[Trigger],
        now: &Mark,
        logs: Option<&LogsView>,
    ) -> Result<Vec<Step>, ReadError> {
        let current = self.snapshots.current();
        let traces_bytes_max = self.jobs.traces_bytes_max();
        let rules = Rules { traces_bytes_max, ..Rules::of(current.as_deref()) };
        let (jobs, inventory) = (self.jobs.view(), self.inventory.view());
        let facts = rotation::apply::gather(Views { jobs, logs, inventory }, &rules, since, now)?;
        Ok(rotation::plan(&rules, &facts, now))
    }

    /// Does those of the steps that are the store's, in order, and keeps the time where that is due. The Agent's are left to it.
    ///
    /// # Errors
    /// [`WriteError`] of the first step that failed; planning again finds what is left.
    pub fn rotate(&self, steps: &[Step], reading: &Reading) -> Result<(), WriteError> {
        let of_jobs = |step: &Step| match step {
            Step::Store(step) => step.class() == Class::Jobs,
            Step::Agent(_) => false,
        };
        let now = self.keep_time_where_due(reading, steps.iter().any(of_jobs))?;
        steps.iter().try_for_each(|step| match step {
            Step::Store(step) => self.apply(step, now),
            Step::Agent(_) => Ok(()),
        })
    }

    fn apply(&self, step: &StoreStep, now: Timestamp) -> Result<(), WriteError> {
        let (jobs, logs) = (&self.jobs, &self.logs);
        let (inventory, snapshots) = (&self.inventory, &self.snapshots);
        rotation::apply::apply(Rooms { jobs, logs, inventory, snapshots }, step, now)
    }

    /// Everything that can be asked of a volume, beside a running Agent or without one: it needs no key, takes
    /// no lock and changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Volume`].
    pub fn view_only(options: &Options) -> Result<View, StoreError> {
        Ok(Volume::view_only(&options.disk, &options.folder(), options.network)?)
    }

    /// The pid of the Agent that has the volume now, if one has. Changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Volume`].
    pub fn holder(options: &Options) -> Result<Option<String>, StoreError> {
        Ok(Self::held_by(options)?.map(|held| held.pid))
    }

    /// The Agent that has the volume now, if one has, and where its page is. Changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Volume`].
    pub fn held_by(options: &Options) -> Result<Option<HeldBy>, StoreError> {
        Ok(Volume::holder(&*options.disk, &options.folder())?)
    }

    /// Says where this process has its page, for [`Self::held_by`]; `None` for nowhere.
    ///
    /// # Errors
    /// [`StoreError::Volume`].
    pub fn announce(&self, page: Option<&str>) -> Result<(), StoreError> {
        Ok(self.volume.announce(page)?)
    }

    /// Everything that can be asked, without waiting for a writer.
    #[must_use]
    pub const fn view(&self) -> &View {
        self.volume.view()
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

    /// The model files, and how each model stands.
    #[must_use]
    pub const fn models(&self) -> &Models {
        &self.models
    }

    /// The binding.
    #[must_use]
    pub const fn binding(&self) -> &Binding {
        &self.binding
    }
}

/// What time it is by what a volume knows: the mark in `state.db`, and the moment of the last job in `jobs.db`.
fn known_time(view: &View, reading: &Reading) -> Result<Mark, ReadError> {
    Ok(clock::known(view.binding().clock_mark()?, view.jobs().high_water()?, reading))
}

/// Why what a snapshot asks for was not done.
enum RotationError {
    Read(ReadError),
    Write(WriteError),
}

impl From<ReadError> for RotationError {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

impl From<WriteError> for RotationError {
    fn from(error: WriteError) -> Self {
        Self::Write(error)
    }
}

impl From<RotationError> for SnapshotError {
    fn from(error: RotationError) -> Self {
        match error {
            RotationError::Read(error) => error.into(),
            RotationError::Write(error) => error.into(),
        }
    }
}

impl From<RotationError> for StoreError {
    fn from(error: RotationError) -> Self {
        match error {
            RotationError::Read(error) => error.into(),
            RotationError::Write(error) => error.into(),
        }
    }
}

fn io_error(path: &Path, source: io::Error) -> StoreError {
    StoreError::Io { path: path.to_owned(), source }
}

/// Makes a folder and those above it that are missing, each 0700. [`sync_names`] makes their names durable.
pub(crate) fn make_folder(disk: &dyn Disk, folder: &Path) -> Result<(), StoreError> {
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
pub(crate) fn sync_names(disk: &dyn Disk, keys_folder: &Path) -> Result<(), StoreError> {
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
