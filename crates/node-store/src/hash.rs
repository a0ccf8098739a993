//! Reading and hashing files and folders: what they are, and whether anything in them was written.
//!
//! A file is read once, by two threads in turns; two others hash what they read, in its order, SHA-256 of all (with the
//! processor's instructions where it has them) and BLAKE3 of each piece. So it takes as long as the slowest of the
//! three, and some MiB of memory. It is read past the system's memory (`O_DIRECT`, open(2)) where that can be done: that costs no copy,
//! takes no memory away from the runtime, which has mapped its model, and is what the disk has. Nothing here writes, and
//! no store is needed.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, File},
    io,
    ops::ControlFlow,
    os::{
        fd::AsRawFd,
        unix::{
            ffi::OsStrExt,
            fs::{FileExt, MetadataExt},
        },
    },
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread,
};

use node_types::{
    Digest,
    config::{PIECE_BYTES, PieceHash},
};
use rustix::fs::{Advice, Mode, OFlags, fadvise};
use sha2::{Digest as _, Sha256};

/// Bytes that are read at once: pieces are whole multiples of it.
const CHUNK_BYTES: u64 = 2 << 20;
/// What memory and place of a read past the system's memory have to be a multiple of: the size of a page, more than any disk asks.
const ALIGNED_BYTES: usize = 4096;
/// What the system is asked to read ahead.
const AHEAD_BYTES: u64 = 8 << 20;
/// Threads that read a file in turns: the disk works for one while the other hands over what it has.
const READERS: usize = 2;
/// Chunks of each reader that wait for each hash.
const CHUNKS_AHEAD: usize = 2;

/// What a file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileHashes {
    /// Its length.
    pub bytes: u64,
    /// SHA-256 of all of it: its identity.
    pub sha256: Digest,
    /// BLAKE3 of each piece of [`PIECE_BYTES`], the last one shorter.
    pub pieces: Vec<PieceHash>,
}

/// Hashes all of a file. `progress` gets the bytes hashed so far; where it breaks, the answer is `None`.
///
/// # Errors
/// The operating system's, from the first byte that cannot be read.
pub fn file(file: &File, progress: &mut dyn FnMut(u64) -> ControlFlow<()>) -> io::Result<Option<FileHashes>> {
    thread::scope(|scope| {
        let (mut for_sha256, mut for_blake3) = (Vec::new(), Vec::new());
        for first in 0..READERS {
            let (to_sha256, read) = mpsc::sync_channel(CHUNKS_AHEAD);
            let (to_blake3, also_read) = mpsc::sync_channel(CHUNKS_AHEAD);
            for_sha256.push(read);
            for_blake3.push(also_read);
            let reader = thread::Builder::new().name("hash-read".into());
            reader.spawn_scoped(scope, move || read_chunks(file, first, &to_sha256, &to_blake3))?;
        }
        let pieces = thread::Builder::new().name("hash-pieces".into());
        let pieces = pieces.spawn_scoped(scope, move || hash_pieces(&for_blake3))?;
        let (mut bytes, mut sha256) = (0, Sha256::new());
        for chunk in in_turn(&for_sha256) {
            let chunk = chunk?;
            sha256.update(chunk.bytes());
            bytes += chunk.bytes().len() as u64;
            if progress(bytes).is_break() {
                return Ok(None);
            }
        }
        let pieces = pieces.join().map_err(|_| io::Error::other("the thread that hashes pieces panicked"))?;
        Ok(Some(FileHashes { bytes, sha256: Digest::from_bytes(sha256.finalize().into()), pieces }))
    })
}

/// What the readers have read, in the order of the file, until the one whose turn it is has no more.
fn in_turn<T>(readers: &[mpsc::Receiver<T>]) -> impl Iterator<Item = T> {
    readers.iter().cycle().map_while(|reader| reader.recv().ok())
}

/// Reads the chunks of a file whose turn a reader has, counted from `first`, to its end or the first that cannot be read.
fn read_chunks(
    file: &File,
    first: usize,
    to_sha256: &mpsc::SyncSender<io::Result<Arc<Chunk>>>,
    to_blake3: &mpsc::SyncSender<Arc<Chunk>>,
) {
    // Used in turn: fresh memory for each would cost as much as reading it. When one comes round again, both have
    // let go of it; otherwise it is left to them.
    let mut ring: Vec<Arc<Chunk>> = (0..CHUNKS_AHEAD + 3).map(|_| Arc::default()).collect();
    let mut reading = Reading::of(file);
    for index in (first as u64..).step_by(READERS) {
        ring.rotate_left(1);
        let Some(held) = ring.first_mut() else { return };
        if Arc::get_mut(held).is_none() {
            *held = Arc::default();
        }
        let Some(free) = Arc::get_mut(held) else { return };
        match reading.fill(free, index.saturating_mul(CHUNK_BYTES)) {
            Ok(()) if free.bytes().is_empty() => return,
            Ok(()) => {}
            Err(error) => {
                // Where nobody listens any more, nobody wants to know.
                let _ = to_sha256.send(Err(error));
                return;
            }
        }
        let chunk = Arc::clone(held);
        if to_blake3.send(Arc::clone(&chunk)).is_err() || to_sha256.send(Ok(chunk)).is_err() {
            return;
        }
    }
}

/// Part of a file, in memory that a disk can write to.
#[derive(Default)]
struct Chunk {
    memory: Vec<u8>,
    begin: usize,
    filled: usize,
}

impl Chunk {
    fn bytes(&self) -> &[u8] {
        &self.memory[self.begin..self.begin + self.filled]
    }

    /// All of it, to be filled.
    fn room(&mut self) -> &mut [u8] {
        if self.memory.is_empty() {
            self.memory = vec![0; to_usize(CHUNK_BYTES) + ALIGNED_BYTES];
            self.begin = self.memory.as_ptr().align_offset(ALIGNED_BYTES).min(ALIGNED_BYTES);
        }
        &mut self.memory[self.begin..][..to_usize(CHUNK_BYTES)]
    }
}

/// Reads a file from its begin to its end.
struct Reading<'a> {
    file: &'a File,
    /// The same file past the system's memory; nothing where that cannot be done.
    direct: Option<File>,
}

impl<'a> Reading<'a> {
    fn of(file: &'a File) -> Self {
        let flags = OFlags::RDONLY | OFlags::DIRECT | OFlags::CLOEXEC;
        // The same inode, whatever its name is by now (proc_pid_fd(5)).
        let opened = rustix::fs::open(format!("/proc/self/fd/{}", file.as_raw_fd()), flags, Mode::empty());
        let direct = opened.ok().map(File::from);
        if direct.is_none() {
            // Advice alone.
            let _ = fadvise(file, 0, None, Advice::Sequential);
        }
        Self { file, direct }
    }

    /// Reads what the file has from `offset` on, a whole multiple of a chunk.
    fn fill(&mut self, chunk: &mut Chunk, offset: u64) -> io::Result<()> {
        let room = chunk.room();
        let mut filled = 0;
        if let Some(direct) = &self.direct {
            match direct.read_at(room, offset) {
                Ok(read) => filled = read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_refusal(&error) => self.direct = None,
                // What the disk cannot read, the system may still remember: that is not what the disk has.
                Err(error) => return Err(error),
            }
        }
        if self.direct.is_none() && offset.is_multiple_of(AHEAD_BYTES) {
            // The disk works while this is hashed. Advice alone.
            let next = std::num::NonZeroU64::new(AHEAD_BYTES);
            let _ = fadvise(self.file, offset + AHEAD_BYTES, next, Advice::WillNeed);
        }
        // The end of the file, which is no multiple of anything.
        chunk.filled = filled + read_fully(self.file, &mut room[filled..], offset + filled as u64)?;
        Ok(())
    }
}

/// Whether a file system or disk wants to be read otherwise; it may say so at the first read alone (open(2)).
fn is_refusal(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported)
}

fn hash_pieces(readers: &[mpsc::Receiver<Arc<Chunk>>]) -> Vec<PieceHash> {
    let (mut pieces, mut hasher, mut bytes) = (Vec::new(), blake3::Hasher::new(), 0);
    for chunk in in_turn(readers) {
        hasher.update(chunk.bytes());
        bytes += chunk.bytes().len() as u64;
        if bytes == PIECE_BYTES {
            pieces.push(PieceHash::from_bytes(hasher.finalize().into()));
            hasher.reset();
            bytes = 0;
        }
    }
    if bytes > 0 {
        pieces.push(PieceHash::from_bytes(hasher.finalize().into()));
    }
    pieces
}

/// BLAKE3 of one piece of a file, counted from 0; of what is there, where the file ends within it.
///
/// # Errors
/// The operating system's.
pub fn piece(file: &File, index: u64) -> io::Result<PieceHash> {
    let at = index.saturating_mul(PIECE_BYTES);
    prefix(file, at, PIECE_BYTES).map(|hasher| PieceHash::from_bytes(hasher.finalize().into()))
}

/// BLAKE3 under way over `bytes` from `at` on, or what is there of them.
pub(crate) fn prefix(file: &File, at: u64, bytes: u64) -> io::Result<blake3::Hasher> {
    let (mut hasher, mut done) = (blake3::Hasher::new(), 0);
    while done < bytes {
        let chunk = chunk_at(file, at.saturating_add(done), CHUNK_BYTES.min(bytes - done))?;
        if chunk.is_empty() {
            break;
        }
        hasher.update(&chunk);
        done += chunk.len() as u64;
    }
    Ok(hasher)
}

/// As much of `bytes` from `offset` on as the file has.
fn chunk_at(file: &File, offset: u64, bytes: u64) -> io::Result<Vec<u8>> {
    let mut chunk = vec![0; to_usize(bytes)];
    let filled = read_fully(file, &mut chunk, offset)?;
    chunk.truncate(filled);
    Ok(chunk)
}

/// Fills the room with what the file has from `offset` on, and says how much that is.
fn read_fully(file: &File, room: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < room.len() {
        match file.read_at(&mut room[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// No more than a chunk.
fn to_usize(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// One digest for a folder and all that is in it, wherever it stands.
///
/// SHA-256 over one line for each path, in the order of the paths' bytes: what stands there (`folder`, `file`,
/// `program` for a file that its owner may execute, `link`), the SHA-256 of a file's content or of a link's target,
/// the length of the path, and the path. Times, owners and other permissions do not count, and no link is followed.
///
/// # Errors
/// The operating system's, naming the path; [`io::ErrorKind::Unsupported`] for a device, a socket or a pipe.
pub fn tree(folder: &Path) -> io::Result<Digest> {
    let mut all = Sha256::new();
    for (path, found) in entries(folder)? {
        let place = folder.join(&path);
        let named = |error: io::Error| naming(&place, &error);
        let kind = found.file_type();
        let (word, content) = if kind.is_dir() {
            ("folder", String::from("-"))
        } else if kind.is_symlink() {
            ("link", Digest::of(fs::read_link(&place).map_err(named)?.as_os_str().as_bytes()).hex())
        } else if kind.is_file() {
            let word = if found.mode() & 0o100 == 0 { "file" } else { "program" };
            (word, content_of(&place).map_err(named)?.hex())
        } else {
            let problem = "is neither a file, a folder nor a link: take it out of this folder";
            return Err(naming(&place, &io::Error::new(io::ErrorKind::Unsupported, problem)));
        };
        let path = path.as_bytes();
        all.update(format!("{word} {content} {} ", path.len()));
        all.update(path);
        all.update("\n");
    }
    Ok(Digest::from_bytes(all.finalize().into()))
}

/// Changes whenever a file, or anything in a folder, was written, made, removed or renamed; reads no content.
///
/// A digest over path, inode, size and times of everything in it and of itself, of use on the machine that it was
/// taken on alone. A link is followed where `path` itself is one. It is as sound as a [seal](crate::seal) without its lease:
/// use it to find out when [`tree`] or [`file()`] is to be asked again.
///
/// # Errors
/// The operating system's, naming the path.
pub fn stamp(path: &Path) -> io::Result<Digest> {
    let itself = fs::metadata(path).map_err(|error| naming(path, &error))?;
    let mut all = if itself.is_dir() { entries(path)? } else { BTreeMap::new() };
    all.insert(OsString::new(), itself);
    let mut stamp = Sha256::new();
    for (path, found) in all {
        let times = [found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec()];
        let path = path.as_bytes();
        stamp.update(format!("{} {} {} {times:?} ", path.len(), found.ino(), found.len()));
        stamp.update(path);
    }
    Ok(Digest::from_bytes(stamp.finalize().into()))
}

/// Everything in a folder by its path in there, in the order of the paths' bytes.
fn entries(folder: &Path) -> io::Result<BTreeMap<OsString, fs::Metadata>> {
    // Not by `Path`, whose order goes part by part.
    let (mut all, mut folders) = (BTreeMap::new(), vec![PathBuf::new()]);
    while let Some(within) = folders.pop() {
        let place = folder.join(&within);
        let named = |error: io::Error| naming(&place, &error);
        for entry in fs::read_dir(&place).map_err(named)? {
            let entry = entry.map_err(named)?;
            let found = entry.metadata().map_err(|error| naming(&entry.path(), &error))?;
            let path = within.join(entry.file_name());
            if found.is_dir() {
                folders.push(path.clone());
            }
            all.insert(path.into_os_string(), found);
        }
    }
    Ok(all)
}

fn content_of(path: &Path) -> io::Result<Digest> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let (mut sha256, mut offset) = (Sha256::new(), 0);
    loop {
        let chunk = chunk_at(&file, offset, CHUNK_BYTES)?;
        if chunk.is_empty() {
            return Ok(Digest::from_bytes(sha256.finalize().into()));
        }
        sha256.update(&chunk);
        offset += chunk.len() as u64;
    }
}

fn naming(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "makes the files that are hashed")]
mod tests {
    use std::{
        io::Write,
        os::unix::fs::{PermissionsExt, symlink},
    };

    use super::*;

    const MIB: usize = 1 << 20;

    fn on(_: u64) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn piece_hash(bytes: &[u8]) -> PieceHash {
        PieceHash::from_bytes(blake3::hash(bytes).into())
    }

    /// Bytes that differ from place to place.
    fn bytes(length: usize) -> Vec<u8> {
        (0..length).map(|at| u8::try_from(at / 7 % 251).unwrap()).collect()
    }

    fn holding(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn a_file_has_the_hashes_of_its_bytes_at_every_boundary() {
        let piece_bytes = to_usize(PIECE_BYTES);
        let chunk = to_usize(CHUNK_BYTES);
        for length in [
            0,
            1,
            MIB,
            chunk - 1,
            chunk,
            chunk + 1,
            5 * chunk + 4097,
            piece_bytes - 1,
            piece_bytes,
            piece_bytes + 1,
        ] {
            let content = bytes(length);
            let held = holding(&content);
            let found = file(&held, &mut on).unwrap().unwrap();
            assert_eq!((found.bytes, found.sha256), (length as u64, Digest::of(&content)), "{length}");
            let pieces: Vec<_> = content.chunks(piece_bytes).map(piece_hash).collect();
            assert_eq!(found.pieces, pieces, "{length}");
            for (index, wanted) in (0..).zip(&pieces) {
                assert_eq!(piece(&held, index).unwrap(), *wanted, "piece {index} of {length}");
            }
            assert_eq!(piece(&held, pieces.len() as u64).unwrap(), piece_hash(b""), "beyond {length}");
        }
    }

    #[test]
    fn a_file_is_read_alike_past_the_memory_and_through_it() {
        // Nothing of it is on the disk yet.
        let (content, chunk) = (bytes(2 * to_usize(CHUNK_BYTES) + 777), CHUNK_BYTES);
        let named = tempfile::NamedTempFile::new().unwrap();
        named.as_file().write_all(&content).unwrap();
        let held = named.as_file();
        let can = rustix::fs::open(named.path(), OFlags::RDONLY | OFlags::DIRECT, Mode::empty()).is_ok();
        for past in [can, false] {
            let direct = Reading::of(held).direct.filter(|_| past);
            let mut reading = Reading { file: held, direct };
            let mut read = Vec::new();
            for offset in [0, chunk, 2 * chunk, 3 * chunk] {
                let mut part = Chunk::default();
                reading.fill(&mut part, offset).unwrap();
                assert_eq!(part.bytes().as_ptr().align_offset(ALIGNED_BYTES), 0);
                read.extend_from_slice(part.bytes());
            }
            assert!(read == content, "past the memory: {past}");
            assert_eq!(reading.direct.is_some(), past, "it was read another way");
        }
    }

    #[test]
    fn what_the_disk_cannot_read_is_said_although_the_system_remembers_it() {
        let held = holding(b"weights");
        // It answers every read with an error that says nothing of how one may read.
        let broken = File::options().write(true).open("/dev/null").unwrap();
        let mut reading = Reading { file: &held, direct: Some(broken) };
        reading.fill(&mut Chunk::default(), 0).unwrap_err();
        let of = |errno: rustix::io::Errno| is_refusal(&errno.into());
        assert_eq!(
            [of(rustix::io::Errno::INVAL), of(rustix::io::Errno::OPNOTSUPP), of(rustix::io::Errno::IO)],
            [true, true, false]
        );
    }

    #[test]
    fn the_cursor_of_the_file_does_not_matter() {
        // It stands at the end after writing.
        let held = holding(b"weights");
        for _ in 0..2 {
            assert_eq!(file(&held, &mut on).unwrap().unwrap().sha256, Digest::of(b"weights"));
        }
    }

    #[test]
    fn progress_counts_up_to_the_end_and_may_break_off() {
        let held = holding(&bytes(20 * MIB + 5));
        let mut seen = Vec::new();
        let counting = &mut |bytes| {
            seen.push(bytes);
            ControlFlow::Continue(())
        };
        file(&held, counting).unwrap().unwrap();
        assert!(seen.is_sorted(), "{seen:?}");
        assert_eq!(seen.last(), Some(&(20 * MIB as u64 + 5)));
        let mut calls = 0;
        let stopping = &mut |_| {
            calls += 1;
            if calls == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        assert_eq!(file(&held, stopping).unwrap(), None);
        assert_eq!(calls, 3, "nothing is said after that");
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let not_a_file = File::open(folder.path()).unwrap();
        assert_eq!(file(&not_a_file, &mut on).unwrap_err().kind(), io::ErrorKind::IsADirectory);
        assert!(piece(&not_a_file, 0).is_err());
    }

    struct Tree(tempfile::TempDir);

    impl Tree {
        fn new() -> Self {
            let this = Self(tempfile::tempdir().unwrap());
            for folder in ["bin", "lib", "lib/empty"] {
                fs::create_dir(this.0.path().join(folder)).unwrap();
            }
            this.write("bin/python", "a program");
            this.mode("bin/python", 0o755);
            this.write("lib/code.py", "print()");
            this.write("lib-dynload", "sorts between lib and lib/");
            symlink("python", this.0.path().join("bin/python3")).unwrap();
            this
        }

        fn write(&self, path: &str, content: &str) {
            fs::write(self.0.path().join(path), content).unwrap();
        }

        fn mode(&self, path: &str, mode: u32) {
            fs::set_permissions(self.0.path().join(path), fs::Permissions::from_mode(mode)).unwrap();
        }

        fn digest(&self) -> Digest {
            tree(self.0.path()).unwrap()
        }
    }

    /// A snapshot that was signed years ago names such a digest: how it is made can never change.
    #[test]
    fn the_digest_of_a_tree_is_one_that_stands_for_ever() {
        let lines = [
            "folder - 3 bin\n".to_owned(),
            format!("program {} 10 bin/python\n", Digest::of(b"a program").hex()),
            format!("link {} 11 bin/python3\n", Digest::of(b"python").hex()),
            "folder - 3 lib\n".to_owned(),
            format!("file {} 11 lib-dynload\n", Digest::of(b"sorts between lib and lib/").hex()),
            format!("file {} 11 lib/code.py\n", Digest::of(b"print()").hex()),
            "folder - 9 lib/empty\n".to_owned(),
        ];
        assert_eq!(Tree::new().digest(), Digest::of(lines.concat().as_bytes()));
    }

    #[test]
    fn a_tree_is_the_same_wherever_it_stands_and_whatever_its_times_are() {
        let (one, other) = (Tree::new(), Tree::new());
        other.mode("lib/code.py", 0o600);
        other.write("lib/code.py", "print()");
        assert_eq!(one.digest(), other.digest());
    }

    #[test]
    fn any_change_in_a_tree_changes_its_digest_and_its_stamp() {
        type Change = (&'static str, fn(&Tree));
        let changes: [Change; 8] = [
            ("content", |tree| tree.write("lib/code.py", "Print()")),
            ("executable", |tree| tree.mode("lib/code.py", 0o755)),
            ("not executable", |tree| tree.mode("bin/python", 0o644)),
            ("another file", |tree| tree.write("lib/empty/new", "")),
            ("a file gone", |tree| fs::remove_file(tree.0.path().join("lib/code.py")).unwrap()),
            ("an empty folder gone", |tree| fs::remove_dir(tree.0.path().join("lib/empty")).unwrap()),
            ("a link to something else", |tree| {
                fs::remove_file(tree.0.path().join("bin/python3")).unwrap();
                symlink("/bin/sh", tree.0.path().join("bin/python3")).unwrap();
            }),
            ("renamed", |tree| {
                fs::rename(tree.0.path().join("lib/code.py"), tree.0.path().join("lib/kode.py")).unwrap();
            }),
        ];
        let original = Tree::new().digest();
        for (what, change) in changes {
            let tree = Tree::new();
            let before = stamp(tree.0.path()).unwrap();
            assert_eq!(stamp(tree.0.path()).unwrap(), before);
            // The kernel's tick is what it stamps by.
            thread::sleep(std::time::Duration::from_millis(20));
            change(&tree);
            assert_ne!(tree.digest(), original, "{what}");
            assert_ne!(stamp(tree.0.path()).unwrap(), before, "{what}");
        }
    }

    #[test]
    fn the_stamp_of_a_file_is_that_of_what_a_link_to_it_leads_to() {
        let tree = Tree::new();
        let (file, link) = (tree.0.path().join("lib/code.py"), tree.0.path().join("link"));
        symlink(&file, &link).unwrap();
        let before = stamp(&link).unwrap();
        assert_eq!(stamp(&file).unwrap(), before);
        thread::sleep(std::time::Duration::from_millis(20));
        tree.write("lib/code.py", "Print()");
        assert_ne!(stamp(&link).unwrap(), before);
    }

    #[test]
    fn what_is_no_file_folder_or_link_is_named() {
        let tree = Tree::new();
        let _socket = std::os::unix::net::UnixListener::bind(tree.0.path().join("lib/socket")).unwrap();
        let error = super::tree(tree.0.path()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
        assert!(error.to_string().contains("lib/socket"), "{error}");
        let missing = super::tree(&tree.0.path().join("nothing")).unwrap_err();
        assert!(missing.to_string().contains("nothing"), "{missing}");
    }
}
