//! Files, folders and names in memory.
//!
//! Everything is shared until it is written: a file is a list of pages behind [`Arc`]s, a folder is
//! a map behind an [`Arc`]. So a copy of the whole tree costs a handful of counters, and a hundred
//! thousand crash images of one volume share nearly all of their bytes.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    path::{Component, Path, PathBuf},
    sync::{Arc, LazyLock, OnceLock},
};

/// Bytes of a page: the unit of sharing and of the space that a file takes.
pub(crate) const PAGE: usize = 4096;
/// Bytes of a sector: a power cut tears a write between two sectors, never inside one.
pub(crate) const SECTOR: u64 = 512;
/// The user that owns what is made on the disk.
pub(crate) const OWNER: u32 = 1000;
/// The inode of `/`.
pub(crate) const ROOT: Inode = 1;

pub(crate) type Inode = u64;

/// An error number of Linux, without a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Errno(i32);

impl Errno {
    pub(crate) const NOT_FOUND: Self = Self(2);
    pub(crate) const IO: Self = Self(5);
    pub(crate) const ACCESS: Self = Self(13);
    pub(crate) const EXISTS: Self = Self(17);
    pub(crate) const NOT_FOLDER: Self = Self(20);
    pub(crate) const IS_FOLDER: Self = Self(21);
    pub(crate) const INVALID: Self = Self(22);
    pub(crate) const NO_SPACE: Self = Self(28);
    pub(crate) const NOT_EMPTY: Self = Self(39);
    pub(crate) const LOOP: Self = Self(40);
}

impl From<Errno> for io::Error {
    fn from(errno: Errno) -> Self {
        Self::from_raw_os_error(errno.0)
    }
}

/// 4096 bytes and their hash, computed when first asked for.
pub(crate) struct Page {
    bytes: [u8; PAGE],
    hash: OnceLock<u64>,
}

impl Page {
    fn zero() -> Arc<Self> {
        static ZERO: LazyLock<Arc<Page>> =
            LazyLock::new(|| Arc::new(Page { bytes: [0; PAGE], hash: OnceLock::new() }));
        Arc::clone(&ZERO)
    }

    fn hash(&self) -> u64 {
        *self.hash.get_or_init(|| {
            let mut hasher = DefaultHasher::new();
            hasher.write(&self.bytes);
            hasher.finish()
        })
    }
}

impl Clone for Page {
    /// A copy is made to be written to, so it does not take the hash along.
    fn clone(&self) -> Self {
        Self { bytes: self.bytes, hash: OnceLock::new() }
    }
}

/// The bytes of a file.
///
/// There are exactly as many pages as the length needs, and what a page holds beyond the length is
/// zero. A page that is `None` is a hole: zeros that take no space.
#[derive(Clone, Default)]
pub(crate) struct FileData {
    length: u64,
    pages: Vec<Option<Arc<Page>>>,
    taken: u64,
}

impl FileData {
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Pages that take space.
    pub(crate) fn taken(&self) -> u64 {
        self.taken
    }

    /// Whether the page with this number takes space.
    pub(crate) fn has_page(&self, page: u64) -> bool {
        self.pages.get(page as usize).is_some_and(Option::is_some)
    }

    /// Reads up to `into.len()` bytes; gives how many there were.
    pub(crate) fn read(&self, offset: u64, into: &mut [u8]) -> usize {
        let end = (offset.saturating_add(into.len() as u64)).min(self.length);
        let mut at = offset;
        while at < end {
            let (page, start) = ((at / PAGE as u64) as usize, (at % PAGE as u64) as usize);
            let count = (PAGE - start).min((end - at) as usize);
            let target = &mut into[(at - offset) as usize..][..count];
            match &self.pages[page] {
                Some(page) => target.copy_from_slice(&page.bytes[start..start + count]),
                None => target.fill(0),
            }
            at += count as u64;
        }
        end.saturating_sub(offset) as usize
    }

    pub(crate) fn all(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.length as usize];
        self.read(0, &mut bytes);
        bytes
    }

    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) {
        let end = offset + bytes.len() as u64;
        if end > self.length {
            self.set_length(end);
        }
        let mut at = offset;
        while at < end {
            let (page, start) = ((at / PAGE as u64) as usize, (at % PAGE as u64) as usize);
            let count = (PAGE - start).min((end - at) as usize);
            let slot = &mut self.pages[page];
            if slot.is_none() {
                self.taken += 1;
            }
            let page = Arc::make_mut(slot.get_or_insert_with(Page::zero));
            page.hash = OnceLock::new();
            page.bytes[start..start + count].copy_from_slice(&bytes[(at - offset) as usize..][..count]);
            at += count as u64;
        }
    }

    pub(crate) fn set_length(&mut self, length: u64) {
        let pages = length.div_ceil(PAGE as u64) as usize;
        if length < self.length {
            let gone = self.pages.drain(pages.min(self.pages.len())..).flatten().count();
            self.taken -= gone as u64;
            let used = (length % PAGE as u64) as usize;
            if used > 0
                && let Some(Some(last)) = self.pages.last_mut()
            {
                let last = Arc::make_mut(last);
                last.hash = OnceLock::new();
                last.bytes[used..].fill(0);
            }
        } else {
            self.pages.resize(pages, None);
        }
        self.length = length;
    }

    /// Sets the length and takes the space of every page.
    pub(crate) fn reserve(&mut self, length: u64) {
        self.set_length(length);
        for page in self.pages.iter_mut().filter(|page| page.is_none()) {
            *page = Some(Page::zero());
            self.taken += 1;
        }
    }

    fn hash_into(&self, hasher: &mut impl Hasher) {
        self.length.hash(hasher);
        let zero = Page::zero().hash();
        for page in &self.pages {
            hasher.write_u64(page.as_ref().map_or(zero, |page| page.hash()));
        }
    }
}

impl fmt::Debug for FileData {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} bytes", self.length)
    }
}

/// What an inode is.
#[derive(Clone, Debug)]
pub(crate) enum Body {
    File(Arc<FileData>),
    Folder(Arc<BTreeMap<OsString, Inode>>),
    Link,
}

impl Body {
    pub(crate) fn file() -> Self {
        Self::File(Arc::default())
    }

    pub(crate) fn folder() -> Self {
        Self::Folder(Arc::default())
    }
}

/// An inode.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) body: Body,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
}

/// All inodes of a disk.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    nodes: BTreeMap<Inode, Node>,
}

impl Default for Tree {
    fn default() -> Self {
        let root = Node { body: Body::folder(), mode: 0o700, uid: OWNER };
        Self { nodes: BTreeMap::from([(ROOT, root)]) }
    }
}

impl Tree {
    pub(crate) fn node(&self, inode: Inode) -> Option<&Node> {
        self.nodes.get(&inode)
    }

    pub(crate) fn node_mut(&mut self, inode: Inode) -> Option<&mut Node> {
        self.nodes.get_mut(&inode)
    }

    pub(crate) fn insert(&mut self, inode: Inode, node: Node) {
        self.nodes.insert(inode, node);
    }

    pub(crate) fn forget(&mut self, inode: Inode) -> Option<Node> {
        self.nodes.remove(&inode)
    }

    pub(crate) fn newest(&self) -> Inode {
        self.nodes.last_key_value().map_or(ROOT, |(inode, _)| *inode)
    }

    pub(crate) fn file(&self, inode: Inode) -> Option<&Arc<FileData>> {
        match &self.nodes.get(&inode)?.body {
            Body::File(data) => Some(data),
            Body::Folder(_) | Body::Link => None,
        }
    }

    /// The bytes of a file, made ours alone so that they can be changed.
    pub(crate) fn file_mut(&mut self, inode: Inode) -> Option<&mut FileData> {
        match &mut self.nodes.get_mut(&inode)?.body {
            Body::File(data) => Some(Arc::make_mut(data)),
            Body::Folder(_) | Body::Link => None,
        }
    }

    pub(crate) fn set_file(&mut self, inode: Inode, bytes: Arc<FileData>) {
        if let Some(Node { body: Body::File(data), .. }) = self.nodes.get_mut(&inode) {
            *data = bytes;
        }
    }

    pub(crate) fn names(&self, folder: Inode) -> Result<&BTreeMap<OsString, Inode>, Errno> {
        match &self.nodes.get(&folder).ok_or(Errno::NOT_FOUND)?.body {
            Body::Folder(names) => Ok(names),
            Body::File(_) => Err(Errno::NOT_FOLDER),
            // Links lead nowhere.
            Body::Link => Err(Errno::NOT_FOUND),
        }
    }

    pub(crate) fn names_mut(&mut self, folder: Inode) -> Option<&mut BTreeMap<OsString, Inode>> {
        match &mut self.nodes.get_mut(&folder)?.body {
            Body::Folder(names) => Some(Arc::make_mut(names)),
            Body::File(_) | Body::Link => None,
        }
    }

    /// The inode at a path; nothing if a name on the way is missing.
    pub(crate) fn find(&self, path: &Path) -> Result<Option<Inode>, Errno> {
        match self.walk(path) {
            Err(Errno::NOT_FOUND) => Ok(None),
            other => other.map(Some),
        }
    }

    fn walk(&self, path: &Path) -> Result<Inode, Errno> {
        let mut inode = ROOT;
        for part in path.components() {
            match part {
                Component::RootDir | Component::CurDir => {}
                Component::Normal(name) => {
                    inode = *self.names(inode)?.get(name).ok_or(Errno::NOT_FOUND)?;
                }
                Component::ParentDir | Component::Prefix(_) => return Err(Errno::INVALID),
            }
        }
        Ok(inode)
    }

    /// The folder that holds the last name of a path, and that name.
    pub(crate) fn place<'a>(&self, path: &'a Path) -> Result<(Inode, &'a OsStr), Errno> {
        let name = path.file_name().ok_or(Errno::INVALID)?;
        let folder = self.find(path.parent().ok_or(Errno::INVALID)?)?.ok_or(Errno::NOT_FOUND)?;
        self.names(folder)?;
        Ok((folder, name))
    }

    /// The folder and the name that lead to an inode.
    pub(crate) fn place_of(&self, inode: Inode) -> Option<(Inode, OsString)> {
        self.nodes.keys().find_map(|folder| {
            let (name, _) = self.names(*folder).ok()?.iter().find(|(_, held)| **held == inode)?;
            Some((*folder, name.clone()))
        })
    }

    /// Every path that leads somewhere, folders before what is in them.
    pub(crate) fn paths(&self) -> Vec<(PathBuf, Inode)> {
        let mut found = Vec::new();
        let mut open = vec![(PathBuf::from("/"), ROOT)];
        while let Some((path, inode)) = open.pop() {
            if let Ok(names) = self.names(inode) {
                open.extend(names.iter().map(|(name, inode)| (path.join(name), *inode)));
            }
            found.push((path, inode));
        }
        found
    }

    pub(crate) fn reachable(&self) -> BTreeSet<Inode> {
        let mut found = BTreeSet::new();
        let mut open = vec![ROOT];
        while let Some(inode) = open.pop() {
            if found.insert(inode)
                && let Ok(names) = self.names(inode)
            {
                open.extend(names.values());
            }
        }
        found
    }

    /// Drops every other inode.
    pub(crate) fn keep_only(&mut self, reachable: &BTreeSet<Inode>) {
        self.nodes.retain(|inode, _| reachable.contains(inode));
    }

    pub(crate) fn taken(&self) -> u64 {
        self.nodes.keys().filter_map(|inode| self.file(*inode)).map(|data| data.taken()).sum()
    }

    pub(crate) fn hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash_folder(ROOT, &mut hasher);
        hasher.finish()
    }

    fn hash_folder(&self, folder: Inode, hasher: &mut DefaultHasher) {
        let Ok(names) = self.names(folder) else { return };
        hasher.write_usize(names.len());
        for (name, inode) in names {
            name.hash(hasher);
            let Some(node) = self.nodes.get(inode) else { continue };
            (node.mode, node.uid).hash(hasher);
            match &node.body {
                Body::File(data) => {
                    hasher.write_u8(0);
                    data.hash_into(hasher);
                }
                Body::Folder(_) => {
                    hasher.write_u8(1);
                    self.hash_folder(*inode, hasher);
                }
                Body::Link => hasher.write_u8(2),
            }
        }
    }
}
