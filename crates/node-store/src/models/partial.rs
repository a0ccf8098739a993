//! A file that is being fetched: written piece by piece, verified whole, then given its name.

use std::{
    fs::{self, File},
    io,
    ops::ControlFlow,
    os::unix::fs::{FileExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use node_types::{
    Digest, Timestamp,
    config::{ModelFile, PIECE_BYTES, PieceHash},
};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};

use super::{
    Inner, ModelsError, PartialFile, differing,
    error::failed,
    files::{HELD_MODE, not_file, open_held, sync_folder},
    table::{self, FileRow, PartialRow},
};
use crate::{
    hash,
    seal::{Guard, Look, Seen, Untrusted},
    writer::Effect,
};

/// The mode of a partial file: nobody else's business yet.
pub(super) const MODE: u32 = 0o600;
/// Bytes that are copied at once where the file system copies nothing by itself.
const COPY_BYTES: usize = 1 << 20;
/// Pieces that are copied before they are noted.
const NOTED_TOGETHER: usize = 16;

/// What became of a file that was fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finished {
    /// It is what it should be, and stands under its name.
    Installed,
    /// It is something else and was moved aside; fetching it begins anew.
    Mismatch {
        /// What it is.
        found: Digest,
        /// Its pieces that are not what they should be, where that is known.
        damaged: Vec<u64>,
        /// Where it is now.
        quarantined: PathBuf,
    },
    /// The caller broke off; nothing changed.
    Stopped,
}

/// A file that is being fetched. Only one of a file exists at a time; dropping it keeps what was noted.
#[derive(Debug)]
pub struct Partial {
    sha256: Digest,
    bytes: u64,
    expected: Vec<PieceHash>,
    path: PathBuf,
    file: File,
    /// What of each piece is noted.
    received: Mutex<Vec<u64>>,
    open: Open,
}

/// That a partial file is open: nobody else opens or removes it.
#[derive(Debug)]
struct Open {
    inner: Arc<Inner>,
    sha256: Digest,
}

impl Open {
    fn take(inner: &Arc<Inner>, sha256: Digest) -> Result<Self, ModelsError> {
        let mut open = inner.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.insert(sha256) {
            Ok(Self { inner: Arc::clone(inner), sha256 })
        } else {
            Err(ModelsError::Busy { path: inner.partial_path(sha256) })
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.inner.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.sha256);
    }
}

impl Partial {
    pub(super) fn begin(inner: &Arc<Inner>, wanted: &ModelFile, now: Timestamp) -> Result<Self, ModelsError> {
        let open = Open::take(inner, wanted.sha256)?;
        let (path, file, row) = Self::find(inner, wanted)?;
        match row {
            Some(row) => Self::resume(open, wanted, path, file, row, now),
            None => Self::anew(open, wanted, path, file, now),
        }
    }

    pub(super) fn begin_repair(
        inner: &Arc<Inner>,
        wanted: &ModelFile,
        damaged: &[u64],
        now: Timestamp,
        progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<Option<Self>, ModelsError> {
        let open = Open::take(inner, wanted.sha256)?;
        let held = inner.path(wanted.sha256);
        let Some(source) = open_held(&held)? else { return Err(ModelsError::Missing { path: held }) };
        let (path, file, row) = Self::find(inner, wanted)?;
        let partial = match row {
            Some(row) => Self::resume(open, wanted, path, file, row, now)?,
            None => Self::anew(open, wanted, path, file, now)?,
        };
        let whole = damaged.is_empty() || partial.copy_from(&source, damaged, now, progress)?;
        Ok(whole.then_some(partial))
    }

    /// Opens the partial file, and its row where the two belong together.
    fn find(inner: &Inner, wanted: &ModelFile) -> Result<(PathBuf, File, Option<PartialRow>), ModelsError> {
        inner.prepare()?;
        let path = inner.partial_path(wanted.sha256);
        let failed = failed(&path);
        let mut seen = Seen::at(&path).map_err(failed)?;
        if seen.as_ref().is_some_and(|seen| not_file(seen, HELD_MODE).is_none()) {
            // A crash came between its last mode and its name.
            fs::set_permissions(&path, fs::Permissions::from_mode(MODE)).map_err(failed)?;
            seen = Seen::at(&path).map_err(failed)?;
        }
        if let Some((found, wanted)) = seen.as_ref().and_then(|seen| not_file(seen, MODE)) {
            return Err(ModelsError::NotOurs { path, found, wanted });
        }
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::open(&path, flags, Mode::from_raw_mode(MODE));
        let file = File::from(file.map_err(io::Error::from).map_err(failed)?);
        let row = inner.view.reader.read(|tx| table::partial(tx, wanted.sha256))?;
        let whole = seen.is_some_and(|seen| seen.bytes == wanted.bytes);
        Ok((path, file, row.filter(|row| whole && row.partial.bytes == wanted.bytes)))
    }

    fn resume(
        open: Open,
        wanted: &ModelFile,
        path: PathBuf,
        file: File,
        row: PartialRow,
        now: Timestamp,
    ) -> Result<Self, ModelsError> {
        let sha256 = wanted.sha256;
        let noted = open.inner.view.reader.read(|tx| table::received(tx, sha256))?;
        let touched =
            open.inner.writer.submit(Effect::Keeps, move |tx| table::touch_partial(tx, sha256, now));
        touched.wait()?;
        let expected =
            if wanted.pieces_blake3.is_empty() { row.pieces } else { wanted.pieces_blake3.clone() };
        Ok(Self::new(open, wanted, expected, path, file, noted))
    }

    /// Begins with nothing.
    fn anew(
        open: Open,
        wanted: &ModelFile,
        path: PathBuf,
        file: File,
        now: Timestamp,
    ) -> Result<Self, ModelsError> {
        let failed = failed(&path);
        // Before the file has the length that would make the two belong together: a row of before must not count
        // zeros as received.
        let sha256 = wanted.sha256;
        open.inner.writer.submit(Effect::Shrinks, move |tx| table::drop_partial(tx, sha256)).wait()?;
        // Cut first, so that nothing of before is left in it.
        file.set_len(0).and_then(|()| file.set_len(wanted.bytes)).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        path.parent().map_or(Ok(()), sync_folder).map_err(failed)?;
        let mut expected = wanted.pieces_blake3.clone();
        if expected.is_empty() {
            // Where the file was verified once, its pieces are known.
            let held = open.inner.view.reader.read(|tx| table::file(tx, wanted.sha256))?;
            let known = held.filter(|row| row.held.bytes == wanted.bytes);
            expected = known.map_or_else(Vec::new, |row| row.held.pieces);
        }
        let partial = PartialFile {
            sha256: wanted.sha256,
            bytes: wanted.bytes,
            received: 0,
            started_at: now,
            touched_at: now,
        };
        let row = PartialRow { partial, pieces: expected.clone() };
        open.inner.writer.submit(Effect::Grows, move |tx| table::begin_partial(tx, &row)).wait()?;
        Ok(Self::new(open, wanted, expected, path, file, Vec::new()))
    }

    /// Copies the pieces of which nothing is here from another file, but for the damaged ones and those that it does
    /// not have whole or that cannot be read. Whether that went on to the end.
    fn copy_from(
        &self,
        source: &File,
        damaged: &[u64],
        now: Timestamp,
        progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<bool, ModelsError> {
        let failed = failed(&self.path);
        let there = Seen::of(source).map_err(failed)?.bytes;
        let (mut copied, mut bytes) = (Vec::new(), 0);
        for piece in 0..self.pieces() {
            let (at, length) = place_of(self.bytes, piece);
            if damaged.contains(&piece) || at + length > there || self.received(piece) > 0 {
                continue;
            }
            match copy(source, &self.file, at, length) {
                // What the disk cannot read is to be fetched.
                Err(error) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => continue,
                done => done.map_err(failed)?,
            }
            copied.push((piece, length));
            bytes += length;
            let stopped = progress(bytes).is_break();
            if stopped || copied.len() == NOTED_TOGETHER {
                self.file.sync_data().map_err(failed)?;
                self.keep(std::mem::take(&mut copied), Some(now))?;
            }
            if stopped {
                return Ok(false);
            }
        }
        self.file.sync_data().map_err(failed)?;
        self.keep(copied, Some(now))?;
        Ok(true)
    }

    fn new(
        open: Open,
        wanted: &ModelFile,
        expected: Vec<PieceHash>,
        path: PathBuf,
        file: File,
        noted: Vec<(u64, u64)>,
    ) -> Self {
        let pieces = usize::try_from(wanted.bytes.div_ceil(PIECE_BYTES)).unwrap_or(usize::MAX);
        let mut received = vec![0; pieces];
        for (piece, bytes) in noted {
            if let Some(place) = usize::try_from(piece).ok().and_then(|piece| received.get_mut(piece)) {
                *place = bytes.min(place_of(wanted.bytes, piece).1);
            }
        }
        let (sha256, bytes, received) = (wanted.sha256, wanted.bytes, Mutex::new(received));
        Self { sha256, bytes, expected, path, file, received, open }
    }

    /// What it will be.
    #[must_use]
    pub const fn sha256(&self) -> Digest {
        self.sha256
    }

    /// How long it will be.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Where it is until it is finished.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many pieces it has; they are counted from 0.
    #[must_use]
    pub const fn pieces(&self) -> u64 {
        self.bytes.div_ceil(PIECE_BYTES)
    }

    /// How long a piece is; 0 beyond the last one.
    #[must_use]
    pub fn piece_bytes(&self, index: u64) -> u64 {
        place_of(self.bytes, index).1
    }

    /// What a piece must be, where that is known.
    #[must_use]
    pub fn expected_piece(&self, index: u64) -> Option<PieceHash> {
        self.expected.get(usize::try_from(index).ok()?).copied()
    }

    /// How much of a piece, from its beginning, is on disk and noted.
    #[must_use]
    pub fn received(&self, index: u64) -> u64 {
        let noted = self.noted();
        usize::try_from(index).ok().and_then(|index| noted.get(index).copied()).unwrap_or(0)
    }

    /// How much of all pieces is on disk and noted.
    #[must_use]
    pub fn received_all(&self) -> u64 {
        self.noted().iter().sum()
    }

    /// Whether all of it is on disk and noted.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.received_all() == self.bytes
    }

    /// BLAKE3 under way over what is noted of a piece, to go on from.
    ///
    /// # Errors
    /// The operating system's.
    pub fn rehash(&self, index: u64) -> io::Result<blake3::Hasher> {
        hash::prefix(&self.file, place_of(self.bytes, index).0, self.received(index))
    }

    /// Writes bytes of a piece, `at` bytes into it. They count once they are [noted](Self::note).
    ///
    /// # Errors
    /// [`ModelsError::Outside`] where they do not fit the piece: nothing is written then; [`ModelsError::Full`];
    /// [`ModelsError::Io`].
    pub fn write(&self, index: u64, at: u64, bytes: &[u8]) -> Result<(), ModelsError> {
        self.within(index, at.saturating_add(bytes.len() as u64))?;
        let (start, _) = place_of(self.bytes, index);
        self.file.write_all_at(bytes, start + at).map_err(failed(&self.path))
    }

    /// Notes that the first `received` bytes of a piece are written. When this returns, both are on disk.
    ///
    /// # Errors
    /// Those of [`Self::write`]; [`ModelsError::Write`].
    pub fn note(&self, index: u64, received: u64, now: Timestamp) -> Result<(), ModelsError> {
        self.within(index, received)?;
        self.file.sync_data().map_err(failed(&self.path))?;
        self.keep(vec![(index, received)], Some(now))
    }

    /// Takes back what was noted of a piece: it arrived wrong.
    ///
    /// # Errors
    /// [`ModelsError::Write`].
    pub fn reset(&self, index: u64) -> Result<(), ModelsError> {
        self.keep(vec![(index, 0)], None)
    }

    /// Notes how much there is of some pieces.
    fn keep(&self, pieces: Vec<(u64, u64)>, now: Option<Timestamp>) -> Result<(), ModelsError> {
        let (sha256, kept) = (self.sha256, pieces.clone());
        let effect = if now.is_some() { Effect::Grows } else { Effect::Keeps };
        let kept = self.open.inner.writer.submit(effect, move |tx| {
            now.map_or(Ok(()), |now| table::touch_partial(tx, sha256, now))?;
            kept.iter().try_for_each(|(index, received)| table::set_received(tx, sha256, *index, *received))
        });
        kept.wait()?;
        let mut noted = self.noted();
        for (index, received) in pieces {
            if let Some(place) = usize::try_from(index).ok().and_then(|index| noted.get_mut(index)) {
                *place = received;
            }
        }
        Ok(())
    }

    fn within(&self, index: u64, end: u64) -> Result<(), ModelsError> {
        let bytes = self.piece_bytes(index);
        if end <= bytes && index < self.pieces() {
            return Ok(());
        }
        Err(ModelsError::Outside { path: self.path.clone(), piece: index, bytes, end })
    }

    fn noted(&self) -> MutexGuard<'_, Vec<u64>> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads all of it anew and hashes it. If it is what it should be, it gets its name, in place of what stood
    /// there, and is sealed; if not, it is moved aside. `progress` gets the bytes read so far and may break off.
    ///
    /// Whatever the pieces were while they arrived does not count here.
    ///
    /// # Errors
    /// [`ModelsError::Incomplete`] where not all of it is noted; [`ModelsError`].
    pub fn finish(
        self,
        now: Timestamp,
        progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<Finished, ModelsError> {
        let (received, bytes) = (self.received_all(), self.bytes);
        let Self { sha256, expected, path, file, open, .. } = self;
        let (inner, failed) = (&open.inner, failed(&path));
        if received != bytes {
            return Err(ModelsError::Incomplete { path, received, bytes });
        }
        file.sync_all().map_err(failed)?;
        // A lease is refused while anybody may write, and that includes us.
        drop(file);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::open(&path, flags, Mode::empty()).map_err(io::Error::from).map_err(failed)?;
        let file = File::from(file);
        let place = inner.view.place()?.ok_or_else(|| ModelsError::Missing { path: path.clone() })?;
        let before = Look::of(&Seen::of(&file).map_err(failed)?);
        let guard = Guard::take(&file, place);
        let Some(found) = hash::file(&file, progress).map_err(failed)? else { return Ok(Finished::Stopped) };
        let _turn = inner.take_turn();
        if found.sha256 != sha256 || found.bytes != bytes {
            let damaged = if expected.is_empty() { Vec::new() } else { differing(&expected, &found.pieces) };
            let quarantined = inner.move_aside(&path, sha256, now)?;
            inner.writer.submit(Effect::Shrinks, move |tx| table::drop_partial(tx, sha256)).wait()?;
            return Ok(Finished::Mismatch { found: found.sha256, damaged, quarantined });
        }
        let hashed = Look::of(&Seen::of(&file).map_err(failed)?);
        // What was verified is the open file; that the name leads to it is seen by the seal.
        let held = inner.path(sha256);
        file.set_permissions(fs::Permissions::from_mode(HELD_MODE))
            .and_then(|()| file.sync_all())
            .and_then(|()| rename(&path, &held))
            .map_err(failed)?;
        for folder in [held.parent(), path.parent()].into_iter().flatten() {
            sync_folder(folder).map_err(failed)?;
        }
        let sealed = guard.and_then(Guard::renamed).and_then(Guard::seal);
        // Its new name and mode are ours; what somebody wrote while it was hashed is to show.
        let look = if before == hashed { Look::of(&Seen::of(&file).map_err(failed)?) } else { before };
        let row = FileRow::verified(sha256, found, named(&file, &held).and(sealed), look, now);
        let kept = inner.writer.submit(Effect::Keeps, move |tx| {
            table::drop_partial(tx, sha256)?;
            table::keep_file(tx, &row, true)
        });
        kept.wait()?;
        Ok(Finished::Installed)
    }
}

/// Where a piece begins and how long it is.
fn place_of(bytes: u64, index: u64) -> (u64, u64) {
    let at = index.saturating_mul(PIECE_BYTES);
    (at, bytes.saturating_sub(at).min(PIECE_BYTES))
}

/// Copies a part of one file to the same place in another; where the file system can, without taking room for it.
fn copy(from: &File, to: &File, at: u64, bytes: u64) -> io::Result<()> {
    let mut done = 0;
    while done < bytes {
        let (mut read, mut written) = (at + done, at + done);
        let rest = usize::try_from(bytes - done).unwrap_or(usize::MAX);
        match rustix::fs::copy_file_range(from, Some(&mut read), to, Some(&mut written), rest) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(copied) => done += copied as u64,
            Err(Errno::INTR) => {}
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::XDEV) => {
                let mut chunk = vec![0; rest.min(COPY_BYTES)];
                from.read_exact_at(&mut chunk, at + done)?;
                to.write_all_at(&chunk, at + done)?;
                done += chunk.len() as u64;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "model files are no part of the disk seam")]
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)
}

/// Whether a name leads to this file.
fn named(file: &File, path: &Path) -> Result<(), Untrusted> {
    match Seen::at(path)? {
        Some(seen) if seen.is_the_file_of(&Seen::of(file)?) => Ok(()),
        Some(_) | None => Err(Untrusted::Changed("name")),
    }
}
