//! The mounted disk: what is live, the log, faults, and [`Disk`] over it.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ffi::OsString,
    fmt, io, iter,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use node_store::disk::{Disk, Entry, EntryKind, Lock, Locked};

use crate::{
    faults::{Call, Fault, Faults, Lasts},
    log::{Cursor, Draw, Image, Loss, Op, Recording},
    sites::{Caller, SeenSite, Sites, SyncKind, SyncSite},
    tree::{Body, Errno, Inode, Node, OWNER, PAGE, Tree},
    vfs::{FileLocks, Shm, Slot},
};

/// How much a disk holds unless told otherwise: 1 TiB.
const CAPACITY_BYTES: u64 = 1 << 40;
/// How much of a lock file is read to tell who holds it, as on a real disk.
const HOLDER_BYTES_MAX: usize = 256;

/// Everything about a mounted disk.
pub(crate) struct State {
    base: Tree,
    pub(crate) live: Tree,
    log: Vec<Op>,
    cursor: Option<Cursor>,
    next_inode: Inode,
    /// How many open SQLite files each inode has.
    open: HashMap<Inode, usize>,
    /// Inodes without a name, kept because they are open.
    unnamed: HashSet<Inode>,
    /// Inodes that never had a name: temporary files, which no power cut leaves.
    anonymous: HashSet<Inode>,
    pub(crate) locks: HashMap<Inode, FileLocks>,
    pub(crate) shm: HashMap<Inode, Shm>,
    held: HashSet<Inode>,
    capacity: u64,
    pages_taken: u64,
    shm_pages: u64,
    faults: Faults,
    sites: Sites,
    unsynced: HashSet<Inode>,
    random: Draw,
}

impl State {
    fn mount(tree: Tree) -> Self {
        Self {
            next_inode: tree.newest() + 1,
            pages_taken: tree.taken(),
            base: tree.clone(),
            live: tree,
            log: Vec::new(),
            cursor: None,
            open: HashMap::new(),
            unnamed: HashSet::new(),
            anonymous: HashSet::new(),
            locks: HashMap::new(),
            shm: HashMap::new(),
            held: HashSet::new(),
            capacity: CAPACITY_BYTES,
            shm_pages: 0,
            faults: Faults::default(),
            sites: Sites::default(),
            unsynced: HashSet::new(),
            random: Draw::seeded(0),
        }
    }

    pub(crate) fn random(&mut self) -> u64 {
        self.random.next()
    }

    /// Counts a call and fails it if a fault says so.
    pub(crate) fn gate(&mut self, call: Call, path: &Path) -> Result<(), Errno> {
        self.faults.gate(call, path)
    }

    /// Does an operation and writes it down.
    fn record(&mut self, op: Op) {
        op.apply(&mut self.live);
        self.log.push(op);
    }

    fn record_bytes(&mut self, file: Inode, op: Op) {
        let before = self.live.file(file).map_or(0, |data| data.taken());
        op.apply(&mut self.live);
        let after = self.live.file(file).map_or(0, |data| data.taken());
        self.pages_taken = self.pages_taken + after - before;
        if !self.anonymous.contains(&file) {
            self.unsynced.insert(file);
            self.log.push(op);
        }
    }

    fn new_inode(&mut self) -> Inode {
        self.next_inode += 1;
        self.next_inode - 1
    }

    fn free_pages(&self) -> u64 {
        (self.capacity / PAGE as u64).saturating_sub(self.pages_taken + self.shm_pages)
    }

    /// Takes space for a region of shared memory, which on a real disk is a file as well.
    pub(crate) fn take_shm(&mut self, bytes: usize) -> Result<(), Errno> {
        let pages = bytes.div_ceil(PAGE) as u64;
        if pages > self.free_pages() {
            return Err(Errno::NO_SPACE);
        }
        self.shm_pages += pages;
        Ok(())
    }

    pub(crate) fn give_shm(&mut self, bytes: usize) {
        self.shm_pages -= bytes.div_ceil(PAGE) as u64;
    }

    /// What stands at a path.
    pub(crate) fn found(&self, path: &Path) -> Result<Option<(Inode, &Node)>, Errno> {
        let Some(inode) = self.live.find(path)? else { return Ok(None) };
        Ok(self.live.node(inode).map(|node| (inode, node)))
    }

    /// The file at a path, if it may be opened so.
    pub(crate) fn file_for(&self, path: &Path, write: bool) -> Result<Option<Inode>, Errno> {
        let Some((inode, node)) = self.found(path)? else { return Ok(None) };
        match node.body {
            Body::File(_) => {}
            Body::Folder(_) => return Err(Errno::IS_FOLDER),
            Body::Link => return Err(Errno::LOOP),
        }
        let wanted = if write { 0o600 } else { 0o400 };
        if node.uid != OWNER || node.mode & wanted != wanted {
            return Err(Errno::ACCESS);
        }
        Ok(Some(inode))
    }

    fn place<'a>(&self, path: &'a Path) -> Result<(Inode, &'a std::ffi::OsStr), Errno> {
        let (folder, name) = self.live.place(path)?;
        if self.live.node(folder).is_none_or(|node| node.uid != OWNER || node.mode & 0o300 != 0o300) {
            return Err(Errno::ACCESS);
        }
        Ok((folder, name))
    }

    /// A new file; it is an error if something stands there.
    pub(crate) fn create(&mut self, path: &Path, mode: u32) -> Result<Inode, Errno> {
        let (folder, name) = self.place(path)?;
        if self.live.names(folder)?.contains_key(name) {
            return Err(Errno::EXISTS);
        }
        let inode = self.new_inode();
        self.unsynced.insert(folder);
        self.record(Op::Create { folder, name: name.to_owned(), inode, mode });
        Ok(inode)
    }

    /// A file without a name, which goes when it is closed.
    pub(crate) fn create_anonymous(&mut self) -> Inode {
        let inode = self.new_inode();
        self.live.insert(inode, Node { body: Body::file(), mode: 0o600, uid: OWNER });
        self.anonymous.insert(inode);
        self.unnamed.insert(inode);
        inode
    }

    fn mkdir(&mut self, path: &Path) -> Result<(), Errno> {
        let (folder, name) = self.place(path)?;
        if self.live.names(folder)?.contains_key(name) {
            return Err(Errno::EXISTS);
        }
        let inode = self.new_inode();
        self.unsynced.insert(folder);
        self.record(Op::Mkdir { folder, name: name.to_owned(), inode });
        Ok(())
    }

    /// Writes as much as fits; "no space" if that is not all.
    pub(crate) fn write(&mut self, file: Inode, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        if bytes.is_empty() {
            return Ok(());
        }
        let Some(data) = self.live.file(file) else { return Err(Errno::INVALID) };
        let end = offset + bytes.len() as u64;
        let (first, last) = (offset / PAGE as u64, (end - 1) / PAGE as u64);
        let beyond = (first..=last).filter(|page| !data.has_page(*page)).nth(self.free_pages() as usize);
        let fits = match beyond {
            Some(page) => (page * PAGE as u64).saturating_sub(offset) as usize,
            None => bytes.len(),
        };
        if fits > 0 {
            self.record_bytes(file, Op::Write { file, offset, bytes: Arc::from(&bytes[..fits]) });
        }
        if fits < bytes.len() { Err(Errno::NO_SPACE) } else { Ok(()) }
    }

    pub(crate) fn truncate(&mut self, file: Inode, length: u64) {
        if self.live.file(file).is_some_and(|data| data.length() != length) {
            self.record_bytes(file, Op::Truncate { file, length });
        }
    }

    fn reserve(&mut self, file: Inode, length: u64) -> Result<(), Errno> {
        let Some(data) = self.live.file(file) else { return Err(Errno::INVALID) };
        let holes = (0..length.div_ceil(PAGE as u64)).filter(|page| !data.has_page(*page)).count() as u64;
        if holes > self.free_pages() {
            // As fallocate after ftruncate: the length is there, the space is not.
            self.truncate(file, length);
            return Err(Errno::NO_SPACE);
        }
        self.record_bytes(file, Op::Reserve { file, length });
        Ok(())
    }

    pub(crate) fn sync_file(&mut self, caller: Caller, file: Inode, path: &Path) -> Result<(), Errno> {
        let dirty = self.unsynced.contains(&file);
        let site = SyncSite { caller, kind: SyncKind::File, path: path.to_owned() };
        let lied = self.sites.seen(site, dirty);
        if let Err(error) = self.gate(Call::Sync, path) {
            if !self.anonymous.contains(&file) {
                self.record(Op::SyncFailed { file });
            }
            return Err(error);
        }
        if !lied && !self.anonymous.contains(&file) {
            self.unsynced.remove(&file);
            self.record(Op::SyncFile { file });
        }
        Ok(())
    }

    pub(crate) fn sync_dir(&mut self, caller: Caller, path: &Path) -> Result<(), Errno> {
        let folder = self.live.find(path)?.ok_or(Errno::NOT_FOUND)?;
        self.live.names(folder)?;
        let dirty = self.unsynced.contains(&folder);
        let lied = self.sites.seen(SyncSite { caller, kind: SyncKind::Dir, path: path.to_owned() }, dirty);
        self.gate(Call::Sync, path)?;
        if !lied {
            self.unsynced.remove(&folder);
            self.record(Op::SyncDir { folder });
        }
        Ok(())
    }

    /// Removes the name of a file or link; false if there is none.
    pub(crate) fn remove(&mut self, path: &Path) -> Result<bool, Errno> {
        let Some((inode, node)) = self.found(path)? else { return Ok(false) };
        if matches!(node.body, Body::Folder(_)) {
            return Err(Errno::IS_FOLDER);
        }
        let (folder, name) = self.place(path)?;
        let name = name.to_owned();
        self.unsynced.insert(folder);
        self.record(Op::Remove { folder, name, inode });
        self.lost_name(inode);
        Ok(true)
    }

    /// Renames; the checks come in the kernel's order, which decides what a call that is wrong in
    /// two ways answers.
    fn rename(&mut self, from: &Path, to: &Path, replace: bool) -> Result<(), Errno> {
        let ((from_folder, from_name), (to_folder, to_name)) = (self.place(from)?, self.place(to)?);
        let inode = *self.live.names(from_folder)?.get(from_name).ok_or(Errno::NOT_FOUND)?;
        let replaced = self.live.names(to_folder)?.get(to_name).copied();
        if replaced.is_some() && !replace {
            return Err(Errno::EXISTS);
        }
        if replaced == Some(inode) {
            return Ok(());
        }
        if to.starts_with(from) {
            return Err(Errno::INVALID);
        }
        if from.starts_with(to) {
            return Err(Errno::NOT_EMPTY);
        }
        if let Some(replaced) = replaced {
            let is_folder = |inode| self.live.names(inode).is_ok();
            match (is_folder(inode), is_folder(replaced)) {
                (false, false) => {}
                (true, false) => return Err(Errno::NOT_FOLDER),
                (false, true) => return Err(Errno::IS_FOLDER),
                (true, true) if self.live.names(replaced)?.is_empty() => {}
                (true, true) => return Err(Errno::NOT_EMPTY),
            }
        }
        let op = Op::Rename {
            from: (from_folder, from_name.to_owned()),
            to: (to_folder, to_name.to_owned()),
            inode,
        };
        self.unsynced.extend([from_folder, to_folder]);
        self.record(op);
        if let Some(replaced) = replaced {
            self.lost_name(replaced);
        }
        Ok(())
    }

    /// An inode has no name any more: it goes, now or when it is closed.
    fn lost_name(&mut self, inode: Inode) {
        if self.open.contains_key(&inode) || self.held.contains(&inode) {
            self.unnamed.insert(inode);
        } else {
            self.drop_inode(inode);
        }
    }

    fn drop_inode(&mut self, inode: Inode) {
        if let Some(Node { body: Body::File(data), .. }) = self.live.forget(inode) {
            self.pages_taken -= data.taken();
        }
        self.unsynced.remove(&inode);
    }

    pub(crate) fn opened(&mut self, inode: Inode) {
        *self.open.entry(inode).or_default() += 1;
    }

    pub(crate) fn closed(&mut self, inode: Inode) {
        let last = self.open.get_mut(&inode).is_none_or(|count| {
            *count -= 1;
            *count == 0
        });
        if last {
            self.open.remove(&inode);
            if self.unnamed.remove(&inode) {
                self.drop_inode(inode);
            }
        }
    }
}

/// A disk and the VFS name that leads to it; both last until the last clone and the last open
/// database file are gone.
pub(crate) struct Inner {
    state: Mutex<State>,
    slot: &'static Slot,
}

impl Inner {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        // A test that panicked elsewhere with the lock in hand has already failed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.slot.release();
    }
}

/// A disk in memory.
///
/// A clone is the same disk. Each has its own SQLite VFS, whose name [`Disk::vfs`] gives.
#[derive(Clone)]
pub struct SimDisk {
    inner: Arc<Inner>,
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.inner.state();
        formatter
            .debug_struct("SimDisk")
            .field("vfs", &self.inner.slot.name())
            .field("ops", &state.log.len())
            .finish_non_exhaustive()
    }
}

impl Default for SimDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl SimDisk {
    /// An empty disk: `/` alone.
    #[must_use]
    pub fn new() -> Self {
        Self::mount(Tree::default())
    }

    /// Mounts what a power cut left. Locks and shared memory are gone, everything on it is durable,
    /// and the log is empty.
    #[must_use]
    pub fn from_image(image: Image) -> Self {
        Self::mount(image.tree)
    }

    fn mount(tree: Tree) -> Self {
        let slot = Slot::acquire();
        let inner = Arc::new(Inner { state: Mutex::new(State::mount(tree)), slot });
        slot.point_to(&inner);
        Self { inner }
    }

    /// The name of the SQLite VFS of this disk.
    #[must_use]
    pub fn vfs_name(&self) -> &'static str {
        self.inner.slot.name()
    }

    /// How many operations were logged since the mount. Taken right after a call, it marks in the
    /// log the moment at which the caller was told "done".
    #[must_use]
    pub fn ops(&self) -> usize {
        self.inner.state().log.len()
    }

    /// Where the power can go: point `k` is the moment when operations `0..k` were issued.
    #[must_use]
    pub fn crash_points(&self) -> RangeInclusive<usize> {
        0..=self.ops()
    }

    /// What a power cut leaves at a crash point. For many images take a [`SimDisk::recording`] of
    /// the disk when it is done: it does not hold the disk's lock.
    #[must_use]
    pub fn image(&self, at: usize, loss: &Loss) -> Image {
        let mut state = self.inner.state();
        let mut cursor = state.cursor.take().unwrap_or_else(|| Cursor::new(&state.base));
        cursor.seek(&state.base, &state.log, at);
        let image = cursor.image(&state.log, loss);
        state.cursor = Some(cursor);
        image
    }

    /// The log so far, to make images from.
    #[must_use]
    pub fn recording(&self) -> Recording {
        let state = self.inner.state();
        Recording::new(state.base.clone(), state.log.iter().cloned().collect())
    }

    /// The operations in a range in words, for the message of a failed test.
    #[must_use]
    pub fn describe(&self, range: std::ops::Range<usize>) -> Vec<String> {
        let state = self.inner.state();
        // A file that is gone is called by the last name it had.
        let mut paths: BTreeMap<_, _> =
            state.base.paths().into_iter().map(|(path, inode)| (inode, path)).collect();
        for op in &state.log {
            if let Some((folder, name, inode)) = op.names() {
                let path = paths.get(&folder).map_or_else(|| PathBuf::from(name), |path| path.join(name));
                paths.insert(inode, path);
            }
        }
        let range = range.start.min(state.log.len())..range.end.min(state.log.len());
        iter::zip(range.clone(), &state.log[range])
            .map(|(index, op)| format!("{index}: {}", op.describe(&paths)))
            .collect()
    }

    /// From now on a sync for which `lie` holds says "done" and does nothing. `lie` is called with
    /// the disk locked: it must not use it.
    pub fn lie_about(&self, lie: impl Fn(&SyncSite) -> bool + Send + Sync + 'static) {
        self.inner.state().sites.lie = Some(Arc::new(lie));
    }

    /// The places that were synced since the mount, equal paths (but for numbers in them) as one.
    #[must_use]
    pub fn sync_sites(&self) -> Vec<SeenSite> {
        self.inner.state().sites.list()
    }

    /// Lets the `nth` call (from 1) of this kind fail, counted from now; `Persistent` means all
    /// after it too. It replaces a fault set before.
    pub fn fail(&self, nth: u64, call: Call, fault: Fault, lasts: Lasts) {
        self.inner.state().faults.set(nth, call, fault, lasts, None);
    }

    /// As [`SimDisk::fail`], counting only calls on paths that contain `part`.
    pub fn fail_at(&self, part: &str, nth: u64, call: Call, fault: Fault, lasts: Lasts) {
        self.inner.state().faults.set(nth, call, fault, lasts, Some(part.to_owned()));
    }

    /// No call fails any more.
    pub fn heal(&self) {
        self.inner.state().faults.clear();
    }

    /// How many calls of a kind there were since the mount.
    #[must_use]
    pub fn calls(&self, call: Call) -> u64 {
        self.inner.state().faults.calls(call)
    }

    /// How many calls a fault has failed since the mount.
    #[must_use]
    pub fn failed_calls(&self) -> u64 {
        self.inner.state().faults.failed()
    }

    /// How many bytes the disk holds, in whole pages of 4096; what is over it stays.
    pub fn set_capacity(&self, bytes: u64) {
        self.inner.state().capacity = bytes;
    }

    /// Bytes that files and SQLite's shared memory take.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        let state = self.inner.state();
        (state.pages_taken + state.shm_pages) * PAGE as u64
    }

    /// Test set-up: puts a durable file at `path`, with its folders, replacing what was there.
    ///
    /// # Errors
    /// As the calls of [`Disk`] that it is made of.
    pub fn put(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.inner.state();
        let parents: Vec<_> = path.ancestors().skip(1).collect();
        for folder in parents.iter().rev() {
            if state.live.find(folder)?.is_none() {
                state.mkdir(folder)?;
            }
        }
        let file = match state.live.find(path)? {
            Some(file) => file,
            None => state.create(path, 0o600)?,
        };
        state.truncate(file, 0);
        state.write(file, 0, bytes)?;
        state.unsynced.remove(&file);
        state.record(Op::SyncFile { file });
        for folder in parents {
            if let Some(folder) = state.live.find(folder)? {
                state.unsynced.remove(&folder);
                state.record(Op::SyncDir { folder });
            }
        }
        Ok(())
    }

    /// Test set-up: a durable symbolic link, which leads nowhere.
    ///
    /// # Errors
    /// As for making a file.
    pub fn put_link(&self, path: &Path) -> io::Result<()> {
        let mut state = self.inner.state();
        let (folder, name) = state.place(path)?;
        if state.live.names(folder)?.contains_key(name) {
            return Err(Errno::EXISTS.into());
        }
        let inode = state.new_inode();
        state.record(Op::Symlink { folder, name: name.to_owned(), inode });
        state.record(Op::SyncDir { folder });
        Ok(())
    }

    /// Test set-up: durably gives what stands at `path` other permission bits and another owner.
    ///
    /// # Errors
    /// Not found.
    pub fn chmod(&self, path: &Path, mode: u32, uid: u32) -> io::Result<()> {
        let mut state = self.inner.state();
        let inode = state.live.find(path)?.ok_or(Errno::NOT_FOUND)?;
        state.record(Op::Chmod { inode, mode, uid });
        Ok(())
    }

    /// The whole of a file as it is now, faults or not.
    #[must_use]
    pub fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.inner.state();
        let inode = state.live.find(path).ok()??;
        Some(state.live.file(inode)?.all())
    }
}

struct SimLock {
    inner: Arc<Inner>,
    inode: Inode,
}

impl fmt::Debug for SimLock {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SimLock(inode {})", self.inode)
    }
}

impl Lock for SimLock {
    fn clear(&self) -> io::Result<()> {
        let mut state = self.inner.state();
        state.write(self.inode, 0, b"\n")?;
        state.truncate(self.inode, 1);
        Ok(())
    }

    fn tell(&self, holder: &str) -> io::Result<()> {
        let mut state = self.inner.state();
        state.write(self.inode, 0, holder.as_bytes())?;
        state.truncate(self.inode, holder.len() as u64);
        Ok(())
    }
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.inner.state();
        state.held.remove(&self.inode);
        if !state.open.contains_key(&self.inode) && state.unnamed.remove(&self.inode) {
            state.drop_inode(self.inode);
        }
    }
}

impl Disk for SimDisk {
    fn vfs(&self) -> Option<&str> {
        Some(self.vfs_name())
    }

    fn uid(&self) -> u32 {
        OWNER
    }

    fn entry(&self, path: &Path) -> io::Result<Option<Entry>> {
        let mut state = self.inner.state();
        state.gate(Call::Read, path)?;
        Ok(state.found(path)?.map(|(_, node)| {
            let (kind, bytes) = match &node.body {
                Body::File(data) => (EntryKind::File, data.length()),
                Body::Folder(_) => (EntryKind::Folder, PAGE as u64),
                Body::Link => (EntryKind::Link, 0),
            };
            Entry { kind, mode: node.mode, uid: node.uid, bytes }
        }))
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<OsString>> {
        let mut state = self.inner.state();
        state.gate(Call::Read, folder)?;
        let inode = state.live.find(folder)?.ok_or(Errno::NOT_FOUND)?;
        Ok(state.live.names(inode)?.keys().cloned().collect())
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.inner.state();
        state.gate(Call::Open, path)?;
        Ok(state.mkdir(path)?)
    }

    fn create_file(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.inner.state();
        state.gate(Call::Open, path)?;
        let file = state.create(path, 0o600)?;
        state.gate(Call::Write, path)?;
        Ok(state.write(file, 0, bytes)?)
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.inner.state();
        let file = state.file_for(path, true)?.ok_or(Errno::NOT_FOUND)?;
        Ok(state.sync_file(Caller::Files, file, path)?)
    }

    fn rewrite(&self, path: &Path) -> io::Result<()> {
        let mut state = self.inner.state();
        state.gate(Call::Read, path)?;
        let file = state.file_for(path, true)?.ok_or(Errno::NOT_FOUND)?;
        let bytes = state.live.file(file).map(|data| data.all()).unwrap_or_default();
        state.gate(Call::Write, path)?;
        state.write(file, 0, &bytes)?;
        Ok(state.sync_file(Caller::Files, file, path)?)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        Ok(self.inner.state().sync_dir(Caller::Files, path)?)
    }

    fn read(&self, path: &Path, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
        let mut state = self.inner.state();
        state.gate(Call::Read, path)?;
        let Some(file) = state.file_for(path, false)? else { return Ok(None) };
        let Some(data) = state.live.file(file) else { return Ok(None) };
        if data.length() > bytes_max {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("{} is larger than {bytes_max} bytes", path.display()),
            ));
        }
        Ok(Some(data.all()))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.inner.state();
        state.gate(Call::Write, from)?;
        Ok(state.rename(from, to, true)?)
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.inner.state();
        state.gate(Call::Write, from)?;
        Ok(state.rename(from, to, false)?)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.inner.state();
        state.gate(Call::Delete, path)?;
        state.remove(path)?;
        Ok(())
    }

    fn reserve(&self, path: &Path, bytes: u64) -> io::Result<()> {
        let mut state = self.inner.state();
        state.gate(Call::Truncate, path)?;
        let file = match state.file_for(path, true)? {
            Some(file) => file,
            None => state.create(path, 0o600)?,
        };
        Ok(state.reserve(file, bytes)?)
    }

    fn free_bytes(&self, folder: &Path) -> io::Result<u64> {
        let mut state = self.inner.state();
        state.gate(Call::Read, folder)?;
        state.live.find(folder)?.ok_or(Errno::NOT_FOUND)?;
        Ok(state.free_pages() * PAGE as u64)
    }

    fn lock(&self, path: &Path, holder: &str) -> io::Result<Locked> {
        let mut state = self.inner.state();
        state.gate(Call::Open, path)?;
        let file = match state.file_for(path, true)? {
            Some(file) => file,
            None => state.create(path, 0o600)?,
        };
        let mut text = state.live.file(file).map(|data| data.all()).unwrap_or_default();
        text.truncate(HOLDER_BYTES_MAX);
        let text = String::from_utf8(text).map(|text| text.trim().to_owned());
        if state.held.contains(&file) {
            let holder = text.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            return Ok(Locked::Theirs(holder));
        }
        state.gate(Call::Write, path)?;
        let last = text.unwrap_or_else(|_| "?".to_owned());
        state.write(file, 0, holder.as_bytes())?;
        state.truncate(file, holder.len() as u64);
        state.held.insert(file);
        Ok(Locked::Ours { lock: Box::new(SimLock { inner: Arc::clone(&self.inner), inode: file }), last })
    }

    fn holder(&self, path: &Path) -> io::Result<Option<String>> {
        let mut state = self.inner.state();
        state.gate(Call::Open, path)?;
        let held = state.file_for(path, false)?.filter(|file| state.held.contains(file));
        Ok(held
            .and_then(|file| state.live.file(file))
            .map(|data| String::from_utf8_lossy(&data.all()).into_owned()))
    }
}

/// The folder of a path, as the path of the folder itself.
pub(crate) fn folder_of(path: &Path) -> PathBuf {
    path.parent().map_or_else(|| PathBuf::from("/"), Path::to_path_buf)
}
