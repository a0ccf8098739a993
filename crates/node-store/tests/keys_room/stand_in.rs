//! Stand-ins, and a folder with keys in it.

use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use node_store::{
    disk::{Disk, Entry, Locked, RealDisk},
    keys::{KekSources, NodeKey, Prompt, VolumeKey, create_node_key, create_volume_key},
};
use node_types::{Network, VolumeId};
use tempfile::TempDir;
use zeroize::Zeroizing;

pub(crate) const VOLUME: VolumeId = VolumeId::from_bytes([5; 16]);
pub(crate) const KEY: [u8; 32] = [0x42; 32];
/// The address of [`KEY`], from the vectors.
pub(crate) const ADDRESS: &str = "0x17c5185167401ed00cf5f5b2fc97d9bbfdb7d025";

/// Stands in for the operating system's disk: another user's, or one that fails at a step that changes
/// something.
#[derive(Debug)]
pub(crate) struct StandIn {
    uid: u32,
    steps_left: AtomicUsize,
}

impl StandIn {
    pub(crate) fn of_user(uid: u32) -> Self {
        Self { uid, steps_left: AtomicUsize::new(usize::MAX) }
    }

    /// Fails every change after the first `steps`, as a machine does whose power is cut.
    pub(crate) fn failing_after(steps: usize) -> Self {
        Self { uid: RealDisk.uid(), steps_left: AtomicUsize::new(steps) }
    }

    fn step(&self) -> io::Result<()> {
        self.steps_left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
            .map(|_| ())
            .map_err(|_| io::Error::other("the power is cut"))
    }
}

impl Disk for StandIn {
    fn vfs(&self) -> Option<&str> {
        None
    }
    fn uid(&self) -> u32 {
        self.uid
    }
    fn entry(&self, path: &Path) -> io::Result<Option<Entry>> {
        RealDisk.entry(path)
    }
    fn list(&self, folder: &Path) -> io::Result<Vec<OsString>> {
        RealDisk.list(folder)
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        RealDisk.create_dir(path)
    }
    fn create_file(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.step()?;
        RealDisk.create_file(path, bytes)
    }
    fn sync_file(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        RealDisk.sync_file(path)
    }
    fn rewrite(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        RealDisk.rewrite(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        RealDisk.sync_dir(path)
    }
    fn read(&self, path: &Path, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
        RealDisk.read(path, bytes_max)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step()?;
        RealDisk.rename(from, to)
    }
    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step()?;
        RealDisk.rename_new(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        RealDisk.remove(path)
    }
    fn reserve(&self, path: &Path, bytes: u64) -> io::Result<()> {
        self.step()?;
        RealDisk.reserve(path, bytes)
    }
    fn free_bytes(&self, folder: &Path) -> io::Result<u64> {
        RealDisk.free_bytes(folder)
    }
    fn holder(&self, path: &Path) -> io::Result<Option<String>> {
        RealDisk.holder(path)
    }
    fn lock(&self, path: &Path, holder: &str) -> io::Result<Locked> {
        RealDisk.lock(path, holder)
    }
}

/// Stands in for somebody at the terminal: gives these answers in this order and keeps the questions.
#[derive(Default)]
pub(crate) struct Answers {
    answers: Mutex<Vec<&'static str>>,
    pub(crate) questions: Mutex<Vec<String>>,
}

impl Answers {
    pub(crate) fn new(answers: &[&'static str]) -> Self {
        Self { answers: Mutex::new(answers.to_vec()), questions: Mutex::default() }
    }
}

impl Prompt for Answers {
    fn passphrase(&self, purpose: &str) -> io::Result<Zeroizing<String>> {
        self.questions.lock().unwrap().push(purpose.to_owned());
        let mut answers = self.answers.lock().unwrap();
        if answers.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Zeroizing::new(answers.remove(0).to_owned()))
    }
}

/// A home without keys, and one with both keys of testnet under the local file.
pub(crate) struct Home {
    folder: TempDir,
}

impl Home {
    pub(crate) fn empty() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn with_keys() -> Self {
        let home = Self::empty();
        home.create(&home.sources());
        home
    }

    pub(crate) fn create(&self, sources: &KekSources) {
        let kek = sources.kek_for_new(&RealDisk).unwrap();
        let key = node_key();
        create_node_key(&RealDisk, &self.keys(), Network::Testnet, &key, &kek).unwrap();
        create_volume_key(
            &RealDisk,
            &self.keys(),
            Network::Testnet,
            key.address(),
            VOLUME,
            &volume_key(),
            &kek,
        )
        .unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn keys(&self) -> PathBuf {
        self.path("keys")
    }

    pub(crate) fn node_key_file(&self) -> PathBuf {
        self.keys().join("node.key")
    }

    pub(crate) fn sources(&self) -> KekSources {
        let mut sources = KekSources::new(&self.keys());
        sources.secret_file = None;
        sources
    }
}

pub(crate) fn node_key() -> NodeKey {
    NodeKey::from_bytes(&Zeroizing::new(KEY)).unwrap()
}

pub(crate) fn volume_key() -> VolumeKey {
    VolumeKey::from_bytes(&Zeroizing::new([0x17; 32]))
}
