//! The log of operations, and what a power cut leaves of it.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::tree::{Body, FileData, Inode, Node, OWNER, SECTOR, Tree};

/// One thing that happened to the disk.
///
/// Files and folders are inodes; names are what leads to them.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    /// Bytes of a file.
    Write { file: Inode, offset: u64, bytes: Arc<[u8]> },
    /// The length of a file.
    Truncate { file: Inode, length: u64 },
    /// The length of a file, its space taken.
    Reserve { file: Inode, length: u64 },
    /// Everything about the file so far is durable.
    SyncFile { file: Inode },
    /// The sync failed: what was pending may be lost for good, whatever a later sync says.
    SyncFailed { file: Inode },
    /// Every name in the folder so far is durable.
    SyncDir { folder: Inode },
    /// A new file.
    Create { folder: Inode, name: OsString, inode: Inode, mode: u32 },
    /// A new folder.
    Mkdir { folder: Inode, name: OsString, inode: Inode },
    /// A new symbolic link.
    Symlink { folder: Inode, name: OsString, inode: Inode },
    /// A name moves, replacing what stood there.
    Rename { from: (Inode, OsString), to: (Inode, OsString), inode: Inode },
    /// A name goes.
    Remove { folder: Inode, name: OsString, inode: Inode },
    /// Permission bits and owner; durable at once, only test set-ups do this.
    Chmod { inode: Inode, mode: u32, uid: u32 },
}

impl Op {
    /// Does to the tree what the operation says.
    ///
    /// Names are guarded by their inode: when an earlier operation was lost, a rename or a removal
    /// must not hit a file that it was never about.
    pub(crate) fn apply(&self, tree: &mut Tree) {
        match self {
            Self::Write { file, offset, bytes } => {
                if let Some(data) = tree.file_mut(*file) {
                    data.write(*offset, bytes);
                }
            }
            Self::Truncate { file, length } => {
                if let Some(data) = tree.file_mut(*file) {
                    data.set_length(*length);
                }
            }
            Self::Reserve { file, length } => {
                if let Some(data) = tree.file_mut(*file) {
                    data.reserve(*length);
                }
            }
            Self::SyncFile { .. } | Self::SyncFailed { .. } | Self::SyncDir { .. } => {}
            Self::Create { folder, name, inode, .. }
            | Self::Mkdir { folder, name, inode }
            | Self::Symlink { folder, name, inode } => {
                self.prepare(tree);
                if let Some(names) = tree.names_mut(*folder) {
                    names.insert(name.clone(), *inode);
                }
            }
            Self::Rename { from, to, inode } => {
                let place = if tree.names(from.0).is_ok_and(|names| names.get(&from.1) == Some(inode)) {
                    Some(from.clone())
                } else {
                    // The operation that brought it to that name was lost: it moves from where it is,
                    // for a file never has two names.
                    tree.place_of(*inode)
                };
                if let Some((folder, name)) = place
                    && let Some(names) = tree.names_mut(folder)
                {
                    names.remove(&name);
                }
                if let Some(names) = tree.names_mut(to.0) {
                    names.insert(to.1.clone(), *inode);
                }
            }
            Self::Remove { folder, name, inode } => {
                if let Some(names) = tree.names_mut(*folder)
                    && names.get(name) == Some(inode)
                {
                    names.remove(name);
                }
            }
            Self::Chmod { inode, mode, uid } => {
                if let Some(node) = tree.node_mut(*inode) {
                    (node.mode, node.uid) = (*mode, *uid);
                }
            }
        }
    }

    /// Makes the inode that the operation is about, without a name.
    fn prepare(&self, tree: &mut Tree) {
        let (inode, body, mode) = match self {
            Self::Create { inode, mode, .. } => (*inode, Body::file(), *mode),
            Self::Mkdir { inode, .. } => (*inode, Body::folder(), 0o700),
            Self::Symlink { inode, .. } => (*inode, Body::Link, 0o777),
            Self::Write { .. }
            | Self::Truncate { .. }
            | Self::Reserve { .. }
            | Self::SyncFile { .. }
            | Self::SyncFailed { .. }
            | Self::SyncDir { .. }
            | Self::Rename { .. }
            | Self::Remove { .. }
            | Self::Chmod { .. } => return,
        };
        if tree.node(inode).is_none() {
            tree.insert(inode, Node { body, mode, uid: OWNER });
        }
    }

    /// The name that the operation gives to an inode, if it gives one.
    pub(crate) fn names(&self) -> Option<(Inode, &OsString, Inode)> {
        match self {
            Self::Create { folder, name, inode, .. }
            | Self::Mkdir { folder, name, inode }
            | Self::Symlink { folder, name, inode } => Some((*folder, name, *inode)),
            Self::Rename { to, inode, .. } => Some((to.0, &to.1, *inode)),
            Self::Write { .. }
            | Self::Truncate { .. }
            | Self::Reserve { .. }
            | Self::SyncFile { .. }
            | Self::SyncFailed { .. }
            | Self::SyncDir { .. }
            | Self::Remove { .. }
            | Self::Chmod { .. } => None,
        }
    }

    /// The operation in words, with the path an inode has or had last.
    pub(crate) fn describe(&self, paths: &BTreeMap<Inode, PathBuf>) -> String {
        let path = |inode: &Inode| {
            paths.get(inode).map_or_else(|| format!("inode {inode}"), |path| path.display().to_string())
        };
        let entry =
            |folder: &Inode, name: &OsString| Path::new(&path(folder)).join(name).display().to_string();
        match self {
            Self::Write { file, offset, bytes } => {
                format!("write {} {offset}+{}", path(file), bytes.len())
            }
            Self::Truncate { file, length } => format!("truncate {} to {length}", path(file)),
            Self::Reserve { file, length } => format!("reserve {} to {length}", path(file)),
            Self::SyncFile { file } => format!("sync file {}", path(file)),
            Self::SyncFailed { file } => format!("failed sync of {}", path(file)),
            Self::SyncDir { folder } => format!("sync folder {}", path(folder)),
            Self::Create { folder, name, .. } => format!("create {}", entry(folder, name)),
            Self::Mkdir { folder, name, .. } => format!("mkdir {}", entry(folder, name)),
            Self::Symlink { folder, name, .. } => format!("symlink {}", entry(folder, name)),
            Self::Rename { from, to, .. } => {
                format!("rename {} to {}", entry(&from.0, &from.1), entry(&to.0, &to.1))
            }
            Self::Remove { folder, name, .. } => format!("remove {}", entry(folder, name)),
            Self::Chmod { inode, mode, .. } => format!("chmod {} {mode:o}", path(inode)),
        }
    }
}

/// What a power cut takes of the operations that no sync had made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Nothing: every operation issued before the cut arrived.
    Nothing,
    /// Everything unsynced.
    Unsynced,
    /// A random part of it: each operation is kept or lost on its own, writes are torn between
    /// sectors of 512 bytes, a length may arrive without the bytes. The same seed gives the same image.
    Subset {
        /// Any number.
        seed: u64,
    },
    /// All but the operations whose bit is set: bit `i` is the `i`-th of [`Recording::pending`]
    /// (those beyond the 64th are kept). For trying every subset where there are few.
    Without {
        /// The operations that are lost.
        lost: u64,
    },
}

/// What a power cut left: files, folders and names, ready to be mounted.
///
/// A copy costs next to nothing; the bytes are shared.
#[derive(Clone)]
pub struct Image {
    pub(crate) tree: Tree,
}

impl Image {
    /// A number that is the same for images with the same names, modes and bytes, and differs
    /// for others as far as 64 bits can tell. Stable within one process run.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.tree.hash()
    }

    /// The paths of everything on it, sorted.
    #[must_use]
    pub fn paths(&self) -> Vec<PathBuf> {
        let mut paths: Vec<_> = self.tree.paths().into_iter().map(|(path, _)| path).collect();
        paths.sort();
        paths
    }

    /// The bytes of a file, or nothing if no file stands there.
    #[must_use]
    pub fn read(&self, path: &Path) -> Option<Vec<u8>> {
        let inode = self.tree.find(path).ok()??;
        Some(self.tree.file(inode)?.all())
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut list = formatter.debug_list();
        let mut paths = self.tree.paths();
        paths.sort();
        for (path, inode) in paths {
            list.entry(&(path, self.tree.file(inode).map(|data| data.length())));
        }
        list.finish()
    }
}

/// What became of an operation on a file's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Pending,
    /// A sync failed after it: later syncs say nothing about it.
    Doubtful,
    /// A sync after a failed one covers it.
    Durable,
}

/// A name operation and the folders whose sync it waits for; none, and it is durable.
#[derive(Clone, Debug)]
struct Waiting {
    index: usize,
    folders: Vec<Inode>,
}

/// A place in the log: what is live and what is durable there.
#[derive(Clone, Debug)]
pub(crate) struct Cursor {
    at: usize,
    live: Tree,
    durable: Tree,
    bytes: BTreeMap<Inode, Vec<(usize, Fate)>>,
    /// The first of them is not durable. Those that are, behind it, are kept as well: what they do
    /// to the tree depends on the operations before them.
    names: Vec<Waiting>,
}

impl Cursor {
    pub(crate) fn new(base: &Tree) -> Self {
        Self { at: 0, live: base.clone(), durable: base.clone(), bytes: BTreeMap::new(), names: Vec::new() }
    }

    /// Goes to `at`: the operations before it are issued.
    pub(crate) fn seek(&mut self, base: &Tree, log: &[Op], at: usize) {
        let at = at.min(log.len());
        if at < self.at {
            *self = Self::new(base);
        }
        while self.at < at {
            self.step(log);
        }
    }

    fn step(&mut self, log: &[Op]) {
        let (index, op) = (self.at, &log[self.at]);
        op.apply(&mut self.live);
        match op {
            Op::Write { file, .. } | Op::Truncate { file, .. } | Op::Reserve { file, .. } => {
                self.bytes.entry(*file).or_default().push((index, Fate::Pending));
            }
            Op::SyncFile { file } => self.sync_file(*file),
            Op::SyncFailed { file } => {
                for (_, fate) in self.bytes.get_mut(file).into_iter().flatten() {
                    if *fate == Fate::Pending {
                        *fate = Fate::Doubtful;
                    }
                }
            }
            Op::SyncDir { folder } => {
                for waiting in &mut self.names {
                    waiting.folders.retain(|waits| waits != folder);
                }
                let durable = self.names.iter().take_while(|waiting| waiting.folders.is_empty()).count();
                for waiting in self.names.drain(..durable) {
                    log[waiting.index].apply(&mut self.durable);
                }
            }
            Op::Create { folder, .. } | Op::Mkdir { folder, .. } | Op::Symlink { folder, .. } => {
                // The inode is there from now on; whether its name is, the folder's sync says.
                op.prepare(&mut self.durable);
                self.names.push(Waiting { index, folders: vec![*folder] });
            }
            Op::Remove { folder, .. } => self.names.push(Waiting { index, folders: vec![*folder] }),
            Op::Rename { from, to, .. } => {
                let mut folders = vec![from.0];
                if to.0 != from.0 {
                    folders.push(to.0);
                }
                self.names.push(Waiting { index, folders });
            }
            Op::Chmod { .. } => op.apply(&mut self.durable),
        }
        self.at += 1;
    }

    fn sync_file(&mut self, file: Inode) {
        let Some(ops) = self.bytes.get_mut(&file) else { return };
        if ops.iter().any(|(_, fate)| *fate == Fate::Doubtful) {
            for (_, fate) in ops.iter_mut().filter(|(_, fate)| *fate == Fate::Pending) {
                *fate = Fate::Durable;
            }
        } else {
            self.bytes.remove(&file);
            if let Some(data) = self.live.file(file) {
                self.durable.set_file(file, Arc::clone(data));
            }
        }
    }

    /// The operations that a power cut here may take, names first.
    pub(crate) fn pending(&self) -> Vec<usize> {
        let names = self.names.iter().filter(|waiting| !waiting.folders.is_empty());
        let bytes = self.bytes.values().flatten().filter(|(_, fate)| *fate != Fate::Durable);
        names.map(|waiting| waiting.index).chain(bytes.map(|(index, _)| *index)).collect()
    }

    pub(crate) fn image(&self, log: &[Op], loss: &Loss) -> Image {
        let mut draw = match loss {
            Loss::Nothing => return finish(self.live.clone()),
            Loss::Unsynced | Loss::Without { .. } => Draw(0),
            Loss::Subset { seed } => Draw::new(*seed, self.at),
        };
        let mut tree = self.durable.clone();
        let mut nth = 0_u32;
        let mut kept = |draw: &mut Draw, rate: u64| {
            let kept = match loss {
                Loss::Nothing => true,
                Loss::Unsynced => false,
                Loss::Subset { .. } => draw.below(8) < rate,
                Loss::Without { lost } => nth >= 64 || lost >> nth & 1 == 0,
            };
            nth += 1;
            kept
        };
        let rate = draw.rate();
        for waiting in &self.names {
            if waiting.folders.is_empty() || kept(&mut draw, rate) {
                log[waiting.index].apply(&mut tree);
            }
        }
        for (file, ops) in &self.bytes {
            let rate = draw.rate();
            for (index, fate) in ops {
                let op = &log[*index];
                if *fate == Fate::Durable {
                    op.apply(&mut tree);
                } else if kept(&mut draw, rate) {
                    match (loss, op) {
                        (Loss::Subset { .. }, Op::Write { offset, bytes, .. }) if draw.below(4) == 0 => {
                            if let Some(data) = tree.file_mut(*file) {
                                torn(data, *offset, bytes, &mut draw);
                            }
                        }
                        _ => op.apply(&mut tree),
                    }
                } else if let (Loss::Subset { .. }, Op::Write { offset, bytes, .. }) = (loss, op)
                    && draw.below(8) == 0
                {
                    // The length is metadata: it may arrive before the bytes it is for.
                    if let Some(data) = tree.file_mut(*file)
                        && data.length() < offset + bytes.len() as u64
                    {
                        data.set_length(offset + bytes.len() as u64);
                    }
                }
            }
        }
        finish(tree)
    }
}

/// Drops what no name leads to.
fn finish(mut tree: Tree) -> Image {
    let reachable = tree.reachable();
    tree.keep_only(&reachable);
    Image { tree }
}

/// Writes a part of `bytes`: the first sectors, or any.
fn torn(data: &mut FileData, offset: u64, bytes: &[u8], draw: &mut Draw) {
    let end = offset + bytes.len() as u64;
    let sectors = (end.saturating_sub(1)) / SECTOR - offset / SECTOR + 1;
    let prefix = draw.below(2) == 0;
    let arrived = draw.below(sectors + 1);
    let mut start = offset;
    let mut sector = 0;
    while start < end {
        let stop = ((start / SECTOR + 1) * SECTOR).min(end);
        if if prefix { sector < arrived } else { draw.below(2) == 0 } {
            data.write(start, &bytes[(start - offset) as usize..(stop - offset) as usize]);
        }
        (start, sector) = (stop, sector + 1);
    }
    if draw.below(2) == 0 && data.length() < end {
        data.set_length(end);
    }
}

/// SplitMix64: small, seedable, and the same on every machine.
pub(crate) struct Draw(u64);

impl Draw {
    pub(crate) fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    fn new(seed: u64, at: usize) -> Self {
        let mut draw = Self(seed ^ (at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        draw.next();
        draw
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// How many of eight operations are kept: all, none, or a few, half, most. With one rate for
    /// all files, "everything of this file arrived and nothing of that one" would hardly ever come up.
    fn rate(&mut self) -> u64 {
        [0, 1, 4, 4, 7, 8][self.below(6) as usize]
    }
}

/// The operations of a disk up to a moment, from which the images of power cuts are made.
///
/// Going through crash points in ascending order is cheap; each thread takes a clone of its own.
#[derive(Clone, Debug)]
pub struct Recording {
    base: Tree,
    log: Arc<[Op]>,
    cursor: Cursor,
}

impl Recording {
    pub(crate) fn new(base: Tree, log: Arc<[Op]>) -> Self {
        let cursor = Cursor::new(&base);
        Self { base, log, cursor }
    }

    /// How many operations there are; crash points are `0..=ops()`.
    #[must_use]
    pub fn ops(&self) -> usize {
        self.log.len()
    }

    /// The indices of the operations that a power cut at `at` may take.
    pub fn pending(&mut self, at: usize) -> Vec<usize> {
        self.cursor.seek(&self.base, &self.log, at);
        self.cursor.pending()
    }

    /// What a power cut leaves when the operations before index `at` were issued.
    pub fn image(&mut self, at: usize, loss: &Loss) -> Image {
        self.cursor.seek(&self.base, &self.log, at);
        self.cursor.image(&self.log, loss)
    }
}
