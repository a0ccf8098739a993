//! Model files: fetched piece by piece, verified whole, kept once however many models need them, and watched.
//!
//! ```text
//! <volume>/models/               0755, so that it can be shown read-only to a runtime that is another user
//!   <hex of SHA-256>             0444, verified before it got this name
//!   partial/<hex>                0600 in a 0700 folder: being fetched, full length from the start
//!   quarantine/<hex>-<ms>        was found to be something else, moved aside at this moment
//! ```
//!
//! `state.db` says which files are here, what their pieces are, how much of each partial piece is on disk, and how
//! each model stands. Files are large, so they are no part of the disk seam ([`Disk`](crate::disk::Disk)): they are
//! the operating system's, and the folder is made with the first of them.
//!
//! Whatever a crash leaves comes together again: a file without a row is used only after it was hashed
//! ([`Models::measure`]), a row without a file says that the file is missing, a partial file without a row is begun
//! anew, and so is a row without a partial file. What nobody needs, [`Models::prune`] removes. A file without a row that
//! no model needs is not ours (`waste`), and goes only where that is asked for.
//!
//! What stands where a model file is expected must be a regular file of this user that nobody may write to;
//! otherwise it is not read. Whether there is room on the disk is for the caller to ask first.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{self, ErrorKind},
    num::NonZeroU64,
    ops::ControlFlow,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use node_types::{
    Digest, Timestamp,
    config::{ModelFile, PIECE_BYTES, PieceHash},
    job::ModelRef,
    models::ModelState,
};
use rustix::fs::{Advice, FileType, Mode, OFlags, RenameFlags, fadvise};

use crate::{
    hash,
    reader::{ReadError, Reader},
    seal::{Guard, Look, Place, Seal, Seen, Untrusted},
    writer::{Effect, Ticket, WriteError, Writer},
};

mod partial;
mod table;
mod waste;

pub use partial::{Finished, Partial};
pub(crate) use table::nonsense;
pub use waste::{Strangers, Waste, WasteKind};

use table::{FileRow, Mark, Unsealed};

const FOLDER: &str = "models";
/// Nobody writes to a file that was verified.
const HELD_MODE: u32 = 0o444;
const PARTIAL: &str = "partial";
const QUARANTINE: &str = "quarantine";

/// A model file that is here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldFile {
    /// Its identity.
    pub sha256: Digest,
    /// Its length.
    pub bytes: u64,
    /// BLAKE3 of each of its pieces, as they were when it was verified.
    pub pieces: Vec<PieceHash>,
    /// When it got its name.
    pub installed_at: Timestamp,
    /// When all of it was hashed last and found to be itself.
    pub verified_at: Timestamp,
    /// Whether it was sealed then.
    pub sealed: bool,
    /// A digest of what the file system said of it then, sealed or not: it changes whenever the file was written or
    /// replaced and then verified again. `None` while the file counts as damaged, and in old rows.
    pub stamp: Option<Digest>,
    /// How far it has been read again.
    pub scrub: Scrub,
}

/// How far a file has been read again, piece by piece.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scrub {
    /// The piece that is next.
    pub next_piece: u64,
    /// When the first piece of this round was read; `None` before the first round.
    pub began_at: Option<Timestamp>,
    /// When the last piece of the last whole round was read.
    pub completed_at: Option<Timestamp>,
}

/// A model file that is not all here yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartialFile {
    /// What it will be.
    pub sha256: Digest,
    /// How long it will be.
    pub bytes: u64,
    /// Bytes of it that are on disk.
    pub received: u64,
    /// When it was begun.
    pub started_at: Timestamp,
    /// When something of it was kept last.
    pub touched_at: Timestamp,
}

/// How a model stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelRow {
    /// Which.
    pub reference: ModelRef,
    /// Its state.
    pub state: ModelState,
    /// Since when.
    pub since: Timestamp,
    /// Why, where that is not plain.
    pub reason: Option<String>,
    /// Its files: path, identity and length of each.
    pub files: Vec<(String, Digest, u64)>,
}

/// A file that was moved aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantined {
    /// What it should have been.
    pub sha256: Digest,
    /// When it was moved.
    pub at: Timestamp,
    /// Its length.
    pub bytes: u64,
    /// Where it is.
    pub path: PathBuf,
}

/// What can be said of a file without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has not been written since it was verified.
    Sealed,
    /// It was written or replaced since, or was found damaged: this says what differs.
    Broken(String),
    /// It looks as it did when it was verified, but could not be sealed: it is to be hashed.
    Untrusted {
        /// Why not.
        why: String,
        /// Whether hashing it again may seal it: the reason is passing. Where it is not, its file system is the
        /// reason, as a rule.
        again: bool,
    },
    /// It is not here.
    Missing,
    /// It is here, but nobody verified it.
    Unknown,
}

/// What hashing a file found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Measurement {
    /// It is what it should be; sealed again where that means something.
    Same,
    /// It is something else.
    Differs {
        /// What it is; `None` where some of it cannot be read.
        found: Option<Digest>,
        /// Its pieces that are not as they were when it was verified; none where nobody ever verified it.
        damaged: Vec<u64>,
    },
    /// It is not here.
    Missing,
    /// The caller broke off.
    Stopped,
}

/// What reading one piece again found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scrubbed {
    /// It is as it was.
    Good {
        /// It was the last one of this round.
        done: bool,
    },
    /// It is something else, or cannot be read. The next call reads it again.
    Damaged {
        /// Which.
        piece: u64,
    },
    /// The file is not here, or nobody verified it.
    Missing,
}

/// Why something cannot be done with a model file.
#[derive(Debug, thiserror::Error)]
pub enum ModelsError {
    /// What stands there is not ours, or not what is expected.
    #[error("{path} {found}, {wanted} is expected: move it away or put it right")]
    NotOurs {
        /// The file or folder.
        path: PathBuf,
        /// What it is, so that `<path> <found>` is half a sentence.
        found: String,
        /// What it should be.
        wanted: String,
    },
    /// There is no such file.
    #[error("there is no {path}")]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// It is being fetched already.
    #[error("{path} is being fetched already: wait until that ends")]
    Busy {
        /// The partial file.
        path: PathBuf,
    },
    /// A model has it.
    #[error("{path} is a file of {model}: it stays")]
    Needed {
        /// The file.
        path: PathBuf,
        /// The model.
        model: ModelRef,
    },
    /// More than the piece has.
    #[error("piece {piece} of {path} has {bytes} bytes, byte {end} is beyond it")]
    Outside {
        /// The partial file.
        path: PathBuf,
        /// The piece, from 0.
        piece: u64,
        /// Its length.
        bytes: u64,
        /// Where the bytes would end.
        end: u64,
    },
    /// Not all of it is there.
    #[error("{path} has {received} of {bytes} bytes: fetch the rest first")]
    Incomplete {
        /// The partial file.
        path: PathBuf,
        /// Bytes that are on disk.
        received: u64,
        /// Its length.
        bytes: u64,
    },
    /// The disk is full.
    #[error("the disk of {path} is full: free some space")]
    Full {
        /// The file.
        path: PathBuf,
    },
    /// The operating system failed.
    #[error("cannot use {path}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Its error.
        #[source]
        source: io::Error,
    },
    /// `state.db` cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// `state.db` was not written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

fn failed(path: &Path) -> impl Fn(io::Error) -> ModelsError + Copy {
    move |source| {
        let path = path.to_owned();
        if matches!(source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) {
            ModelsError::Full { path }
        } else {
            ModelsError::Io { path, source }
        }
    }
}

/// What can be asked about model files and models, beside a running Agent too.
#[derive(Clone, Debug)]
pub struct ModelsView {
    reader: Arc<Reader>,
    folder: PathBuf,
}

#[expect(clippy::missing_errors_doc, reason = "each fails where the database or the folder cannot be read")]
impl ModelsView {
    pub(crate) fn new(reader: Arc<Reader>, volume: &Path) -> Self {
        Self { reader, folder: volume.join(FOLDER) }
    }

    /// The files that are here, by their digests.
    pub fn files(&self) -> Result<Vec<HeldFile>, ReadError> {
        let rows = self.reader.read(table::files)?;
        Ok(rows.into_iter().map(|row| row.held).collect())
    }

    /// The files that are not all here yet, by their digests.
    pub fn partials(&self) -> Result<Vec<PartialFile>, ReadError> {
        let rows = self.reader.read(table::partials)?;
        Ok(rows.into_iter().map(|row| row.partial).collect())
    }

    /// The models, by name and version.
    pub fn models(&self) -> Result<Vec<ModelRow>, ReadError> {
        self.reader.read(table::models)
    }

    /// The files that were moved aside, oldest first.
    pub fn quarantined(&self) -> io::Result<Vec<Quarantined>> {
        let folder = self.folder.join(QUARANTINE);
        let mut found = Vec::new();
        for name in names(&folder)? {
            let path = folder.join(&name);
            let parsed = name.to_str().and_then(|name| name.split_once('-'));
            let parsed = parsed.and_then(|(hex, ms)| Some((digest(hex.as_ref())?, ms.parse().ok()?)));
            let seen = Seen::at(&path)?.filter(|seen| seen.kind != FileType::Directory);
            if let (Some((sha256, ms)), Some(seen)) = (parsed, seen) {
                found.push(Quarantined { sha256, at: Timestamp::from_ms(ms), bytes: seen.bytes, path });
            }
        }
        found.sort_by_key(|file| (file.at, file.sha256));
        Ok(found)
    }

    /// Where a file stands once it is here.
    #[must_use]
    pub fn path(&self, sha256: Digest) -> PathBuf {
        self.folder.join(sha256.hex())
    }

    /// How a file stands, without reading it: its row and one look at its inode.
    pub fn stand(&self, sha256: Digest) -> Result<Standing, ModelsError> {
        let row = self.reader.read(|tx| table::file(tx, sha256))?;
        self.judge(sha256, row.as_ref(), self.place()?.as_ref())
    }

    /// The files that were verified once and are not here any more, for example after a backup was restored.
    pub fn gone(&self) -> Result<BTreeSet<Digest>, ReadError> {
        let files = self.files()?.into_iter().map(|file| file.sha256);
        Ok(files.filter(|sha256| matches!(Seen::at(&self.path(*sha256)), Ok(None))).collect())
    }

    /// How every file stands that is here or should be, by digest.
    pub fn stand_all(&self) -> Result<Vec<(Digest, Standing)>, ModelsError> {
        let rows = self.reader.read(table::files)?;
        let rows: BTreeMap<Digest, FileRow> = rows.into_iter().map(|row| (row.held.sha256, row)).collect();
        let mut all: BTreeSet<Digest> = rows.keys().copied().collect();
        all.extend(names(&self.folder).map_err(failed(&self.folder))?.iter().filter_map(|name| digest(name)));
        let place = self.place()?;
        all.into_iter().map(|it| Ok((it, self.judge(it, rows.get(&it), place.as_ref())?))).collect()
    }

    /// The file system of the folder; `None` where there is no folder yet.
    fn place(&self) -> Result<Option<Place>, ModelsError> {
        match Place::of(&self.folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            other => other.map(Some).map_err(failed(&self.folder)),
        }
    }

    fn judge(
        &self,
        sha256: Digest,
        row: Option<&FileRow>,
        place: Option<&Place>,
    ) -> Result<Standing, ModelsError> {
        let path = self.path(sha256);
        let (seen, place) = match (Seen::at(&path).map_err(failed(&path))?, place) {
            (Some(seen), Some(place)) => (seen, place),
            (Some(_) | None, Some(_) | None) => return Ok(Standing::Missing),
        };
        let Some(row) = row else { return Ok(Standing::Unknown) };
        if let Some((found, wanted)) = not_held(&seen) {
            return Ok(Standing::Broken(format!("it {found}, {wanted} is expected")));
        }
        if seen.bytes != row.held.bytes {
            return Ok(Standing::Broken(format!(
                "its length is {}, {} bytes were verified",
                seen.bytes, row.held.bytes
            )));
        }
        Ok(match &row.mark {
            Mark::Damaged(why) => Standing::Broken(why.clone()),
            Mark::Unsealed(Unsealed { why, again, look }) => {
                match look.as_ref().and_then(|look| look.differs(&seen)) {
                    Some(why) => Standing::Broken(why),
                    None => Standing::Untrusted { why: why.clone(), again: *again },
                }
            }
            Mark::Sealed(seal) => match seal.broken(&seen, place) {
                Ok(None) => Standing::Sealed,
                Ok(Some(why)) => Standing::Broken(why),
                Err(why) => Standing::Untrusted { why: why.to_string(), again: why.again() },
            },
        })
    }
}

/// The model files of a volume. Calls block, some of them for as long as a file takes to be read.
#[derive(Clone, Debug)]
pub struct Models {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    writer: Arc<Writer>,
    view: ModelsView,
    /// Partial files that somebody has open.
    open: Mutex<BTreeSet<Digest>>,
    /// Held while files and rows change together.
    turn: Mutex<()>,
}

impl Models {
    pub(crate) fn new(writer: Arc<Writer>, view: ModelsView) -> Self {
        Self { inner: Arc::new(Inner { writer, view, open: Mutex::default(), turn: Mutex::default() }) }
    }

    /// What can be asked about them.
    #[must_use]
    pub fn view(&self) -> &ModelsView {
        &self.inner.view
    }

    /// The folder that they stand in, to be shown read-only to a runtime. It is made with the first file.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.inner.view.folder
    }

    /// Where a file stands once it is here.
    #[must_use]
    pub fn path(&self, sha256: Digest) -> PathBuf {
        self.inner.path(sha256)
    }

    /// Begins to fetch a file, or goes on where that was left.
    ///
    /// # Errors
    /// [`ModelsError::Busy`] while it is open already; [`ModelsError`].
    pub fn begin(&self, wanted: &ModelFile, now: Timestamp) -> Result<Partial, ModelsError> {
        Partial::begin(&self.inner, wanted, now)
    }

    /// Begins to fetch the damaged pieces of a file again: a copy of it in which they alone are missing. Where no
    /// piece is named, all are missing; where a copy was begun before, that one goes on. The file itself is left
    /// as it is until [`Partial::finish`] replaces it.
    ///
    /// `progress` gets the bytes copied so far. Where it breaks, after a piece, the answer is `None`; what was copied
    /// stays, and the next call copies the rest.
    ///
    /// # Errors
    /// [`ModelsError::Missing`] where the file is not here; those of [`Models::begin`].
    pub fn begin_repair(
        &self,
        wanted: &ModelFile,
        damaged: &[u64],
        now: Timestamp,
        progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<Option<Partial>, ModelsError> {
        Partial::begin_repair(&self.inner, wanted, damaged, now, progress)
    }

    /// Hashes a file that is here. One that is what it should be is sealed again, and taken over where nobody
    /// verified it before. `progress` gets the bytes read so far and may break off.
    ///
    /// Where some of a file that was verified cannot be read, its pieces are read one by one: `progress` begins
    /// again, and those that cannot be read are damaged.
    ///
    /// # Errors
    /// [`ModelsError::NotOurs`] where something else stands in its place; [`ModelsError::Io`] where nobody verified
    /// what cannot be read, or every piece can be read after all; [`ModelsError`].
    pub fn measure(
        &self,
        sha256: Digest,
        now: Timestamp,
        progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<Measurement, ModelsError> {
        let inner = &self.inner;
        let path = inner.path(sha256);
        let Some(file) = open_held(&path)? else { return Ok(Measurement::Missing) };
        let Some(place) = inner.view.place()? else { return Ok(Measurement::Missing) };
        // Before the first byte: what is written while the rest is read shows against it.
        let look = Look::of(&Seen::of(&file).map_err(failed(&path))?);
        let mut guard = Guard::take(&file, place);
        let hashed = hash::file(&file, &mut |bytes| {
            // Whoever wants to write waits as long as we have the lease, and there is no seal any more.
            if guard.as_ref().is_ok_and(|guard| !guard.holds()) {
                guard = Err(Untrusted::Broken);
            }
            progress(bytes)
        });
        let held = inner.view.reader.read(|tx| table::file(tx, sha256))?.map(|row| row.held);
        let found = match (hashed, held.as_ref()) {
            (Ok(Some(found)), _) => found,
            (Ok(None), _) => return Ok(Measurement::Stopped),
            (Err(error), Some(held)) if error.kind() != ErrorKind::NotFound => {
                drop(guard);
                return inner.measure_pieces(held, &file, &error, now, progress);
            }
            (Err(error), _) => return Err(failed(&path)(error)),
        };
        let _turn = inner.take_turn();
        if found.sha256 == sha256 {
            let row = FileRow::verified(sha256, found, guard.and_then(Guard::seal), look, now);
            inner.writer.submit(Effect::Keeps, move |tx| table::keep_file(tx, &row, false)).wait()?;
            return Ok(Measurement::Same);
        }
        let damaged = held.map_or_else(Vec::new, |held| differing(&held.pieces, &found.pieces));
        let mark = Mark::Damaged(format!("its content is {} since it was read at {now}", found.sha256));
        inner.writer.submit(Effect::Keeps, move |tx| table::set_mark(tx, sha256, &mark)).wait()?;
        Ok(Measurement::Differs { found: Some(found.sha256), damaged })
    }

    /// Reads the next piece of a file again and compares it with what it was when the file was verified. It is read
    /// from the disk, not from what the kernel remembers of it, unless somebody has it mapped.
    ///
    /// # Errors
    /// [`ModelsError`].
    pub fn scrub_piece(&self, sha256: Digest, now: Timestamp) -> Result<Scrubbed, ModelsError> {
        let inner = &self.inner;
        let row = inner.view.reader.read(|tx| table::file(tx, sha256))?;
        let (Some(FileRow { held, .. }), Some(file)) = (row, open_held(&inner.path(sha256))?) else {
            return Ok(Scrubbed::Missing);
        };
        let piece = held.scrub.next_piece;
        let pieces = held.pieces.len() as u64;
        let mut scrub = held.scrub;
        if piece == 0 {
            scrub.began_at = Some(now);
        }
        if let Some(wanted) = usize::try_from(piece).ok().and_then(|piece| held.pieces.get(piece)) {
            // Advice alone. What is remembered may be good where the disk is not.
            let length = NonZeroU64::new(PIECE_BYTES);
            let _ = fadvise(&file, piece.saturating_mul(PIECE_BYTES), length, Advice::DontNeed);
            // What the disk cannot read is damaged too.
            if hash::piece(&file, piece).ok().as_ref() != Some(wanted) {
                let mark = Mark::Damaged(format!("its piece {piece} was found damaged at {now}"));
                inner.writer.submit(Effect::Keeps, move |tx| table::set_mark(tx, sha256, &mark)).wait()?;
                return Ok(Scrubbed::Damaged { piece });
            }
        }
        let done = piece.saturating_add(1) >= pieces;
        if done {
            scrub = Scrub { next_piece: 0, completed_at: Some(now), ..scrub };
        } else {
            scrub.next_piece = piece + 1;
        }
        inner.writer.submit(Effect::Keeps, move |tx| table::set_scrub(tx, sha256, &scrub)).wait()?;
        Ok(Scrubbed::Good { done })
    }

    /// Moves a file aside, in place of what was moved aside of it before, and forgets it. Returns where it is now.
    ///
    /// # Errors
    /// [`ModelsError::Missing`] where it is not here, and then it is forgotten too; [`ModelsError`].
    pub fn quarantine(&self, sha256: Digest, now: Timestamp) -> Result<PathBuf, ModelsError> {
        let _turn = self.inner.take_turn();
        let moved = self.inner.move_aside(&self.inner.path(sha256), sha256, now);
        if matches!(moved, Ok(_) | Err(ModelsError::Missing { .. })) {
            self.inner.writer.submit(Effect::Shrinks, move |tx| table::drop_file(tx, sha256)).wait()?;
        }
        moved
    }

    /// Removes a file that no model has, archived ones included: they may be rolled back to. The model `but` does
    /// not count once it is archived, so that its files can go before [it is forgotten](Self::forget).
    ///
    /// # Errors
    /// [`ModelsError::Needed`] where another has it; [`ModelsError`].
    pub fn remove(&self, sha256: Digest, but: Option<&ModelRef>) -> Result<(), ModelsError> {
        let _turn = self.inner.take_turn();
        match self.inner.take_away(sha256, but)? {
            Ok(_) => Ok(()),
            Err(model) => Err(ModelsError::Needed { path: self.inner.path(sha256), model }),
        }
    }

    /// Gives up what was fetched of a file.
    ///
    /// # Errors
    /// [`ModelsError::Busy`] while it is open; [`ModelsError`].
    pub fn discard_partial(&self, sha256: Digest) -> Result<(), ModelsError> {
        let _turn = self.inner.take_turn();
        self.inner.discard(sha256).map(|_| ())
    }

    /// Keeps how a model stands, and which files it needs.
    pub fn set_state(
        &self,
        reference: &ModelRef,
        files: Vec<(String, Digest, u64)>,
        state: ModelState,
        reason: Option<String>,
        now: Timestamp,
    ) -> Ticket<()> {
        let row = ModelRow { reference: reference.clone(), state, since: now, reason, files };
        self.inner.writer.submit(Effect::Keeps, move |tx| table::set_model(tx, &row))
    }

    /// Forgets a model. Its files stay.
    pub fn forget(&self, reference: &ModelRef) -> Ticket<()> {
        let reference = reference.clone();
        self.inner.writer.submit(Effect::Shrinks, move |tx| table::drop_model(tx, &reference))
    }

    /// Bytes that this user could still write where the files stand.
    ///
    /// # Errors
    /// The operating system's.
    pub fn free_bytes(&self) -> io::Result<u64> {
        let there = self.folder().ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
        let found = rustix::fs::statvfs(there)?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }
}

impl Inner {
    fn path(&self, sha256: Digest) -> PathBuf {
        self.view.path(sha256)
    }

    fn partial_path(&self, sha256: Digest) -> PathBuf {
        self.view.folder.join(PARTIAL).join(sha256.hex())
    }

    fn take_turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_open(&self, sha256: Digest) -> bool {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).contains(&sha256)
    }

    /// Makes the folders that are missing, and checks that they are ours.
    fn prepare(&self) -> Result<(), ModelsError> {
        let folder = &self.view.folder;
        for (path, mode) in
            [(folder.clone(), 0o755), (folder.join(PARTIAL), 0o700), (folder.join(QUARANTINE), 0o700)]
        {
            let failed = failed(&path);
            if Seen::at(&path).map_err(failed)?.is_none() {
                fs::DirBuilder::new().mode(0o700).create(&path).map_err(failed)?;
                path.parent().map_or(Ok(()), sync_folder).map_err(failed)?;
            }
            let Some(seen) = Seen::at(&path).map_err(failed)? else { continue };
            if let Some((found, wanted)) = not_folder(&seen, mode) {
                return Err(ModelsError::NotOurs { path, found, wanted });
            }
            if seen.mode & 0o777 != mode {
                // The umask took bits, or somebody did.
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Moves a file into quarantine, where one of a kind is enough: older ones go. Returns where it is now.
    fn move_aside(&self, path: &Path, sha256: Digest, now: Timestamp) -> Result<PathBuf, ModelsError> {
        if Seen::at(path).map_err(failed(path))?.is_none() {
            return Err(ModelsError::Missing { path: path.to_owned() });
        }
        self.prepare()?;
        let folder = self.view.folder.join(QUARANTINE);
        // Several may be moved within one moment.
        for ms in now.ms().. {
            let aside = folder.join(format!("{}-{ms}", sha256.hex()));
            let (from, to) = (rustix::fs::CWD, rustix::fs::CWD);
            match rustix::fs::renameat_with(from, path, to, &aside, RenameFlags::NOREPLACE) {
                Ok(()) => {
                    sync_folder(&folder).map_err(failed(&folder))?;
                    path.parent().map_or(Ok(()), sync_folder).map_err(failed(path))?;
                    let all = self.view.quarantined().map_err(failed(&folder))?;
                    for older in all.iter().filter(|file| file.sha256 == sha256 && file.path != aside) {
                        delete(&older.path)?;
                    }
                    return Ok(aside);
                }
                Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(failed(path)(error.into())),
            }
        }
        Err(ModelsError::Missing { path: path.to_owned() })
    }

    /// What of a file that was verified and cannot be hashed, because of `error`, is not as it was.
    fn measure_pieces(
        &self,
        held: &HeldFile,
        file: &File,
        error: &io::Error,
        now: Timestamp,
        progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<Measurement, ModelsError> {
        let (sha256, mut damaged) = (held.sha256, Vec::new());
        for (piece, wanted) in (0_u64..).zip(&held.pieces) {
            if hash::piece(file, piece).ok().as_ref() != Some(wanted) {
                damaged.push(piece);
            }
            if progress((piece + 1).saturating_mul(PIECE_BYTES).min(held.bytes)).is_break() {
                return Ok(Measurement::Stopped);
            }
        }
        if damaged.is_empty() {
            return Err(failed(&self.path(sha256))(io::Error::new(error.kind(), error.to_string())));
        }
        let mark = Mark::Damaged(format!("its pieces {damaged:?} were found damaged at {now}: {error}"));
        let _turn = self.take_turn();
        self.writer.submit(Effect::Keeps, move |tx| table::set_mark(tx, sha256, &mark)).wait()?;
        Ok(Measurement::Differs { found: None, damaged })
    }

    /// Deletes a file that no model has, and then forgets it. Returns the bytes that it took, or the model that has it.
    ///
    /// In this order, so that a crash leaves a row without a file: a file without a row is not one of ours.
    fn take_away(
        &self,
        sha256: Digest,
        but: Option<&ModelRef>,
    ) -> Result<Result<u64, ModelRef>, ModelsError> {
        if let Some(model) = self.view.reader.read(|tx| table::needed_by(tx, sha256, but))? {
            return Ok(Err(model));
        }
        let bytes = delete(&self.path(sha256))?;
        let folder = &self.view.folder;
        match sync_folder(folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            synced => synced.map_err(failed(folder))?,
        }
        self.writer.submit(Effect::Shrinks, move |tx| table::drop_file(tx, sha256)).wait()?;
        Ok(Ok(bytes))
    }

    fn is_needed(&self, sha256: Digest) -> Result<bool, ModelsError> {
        Ok(self.view.reader.read(|tx| table::needed_by(tx, sha256, None))?.is_some())
    }

    /// Removes a partial file and its rows. Returns the bytes that it took.
    fn discard(&self, sha256: Digest) -> Result<u64, ModelsError> {
        let path = self.partial_path(sha256);
        if self.is_open(sha256) {
            return Err(ModelsError::Busy { path });
        }
        self.writer.submit(Effect::Shrinks, move |tx| table::drop_partial(tx, sha256)).wait()?;
        delete(&path)
    }
}

impl FileRow {
    /// A file that was hashed and is what it should be.
    fn verified(
        sha256: Digest,
        found: hash::FileHashes,
        sealed: Result<Seal, Untrusted>,
        look: Look,
        now: Timestamp,
    ) -> Self {
        let mark = match sealed {
            Ok(seal) => Mark::Sealed(seal),
            Err(why) => {
                Mark::Unsealed(Unsealed { why: why.to_string(), again: why.again(), look: Some(look) })
            }
        };
        let held = HeldFile {
            sha256,
            bytes: found.bytes,
            pieces: found.pieces,
            installed_at: now,
            verified_at: now,
            sealed: matches!(mark, Mark::Sealed(_)),
            stamp: mark.stamp(),
            scrub: Scrub::default(),
        };
        Self { held, mark }
    }
}

/// The numbers of pieces that are not the same, or that one of the two does not have.
pub fn differing(wanted: &[PieceHash], found: &[PieceHash]) -> Vec<u64> {
    let most = wanted.len().max(found.len());
    (0..most).filter(|piece| wanted.get(*piece) != found.get(*piece)).map(|piece| piece as u64).collect()
}

/// What a thing is instead of a model file, and what it should be.
fn not_held(seen: &Seen) -> Option<(String, String)> {
    not_file(seen, HELD_MODE)
}

/// What a thing is instead of a regular file of ours with exactly this mode, and what it should be.
fn not_file(seen: &Seen, mode: u32) -> Option<(String, String)> {
    if seen.kind != FileType::RegularFile {
        return Some((kind_of(seen).to_owned(), "a regular file".to_owned()));
    }
    not_owned(seen).or_else(|| {
        (seen.mode != mode).then(|| (format!("has mode {:04o}", seen.mode), format!("mode {mode:04o}")))
    })
}

/// What a thing is instead of a folder of ours that nobody writes to who should not.
fn not_folder(seen: &Seen, mode: u32) -> Option<(String, String)> {
    if seen.kind != FileType::Directory {
        return Some((kind_of(seen).to_owned(), "a folder".to_owned()));
    }
    not_owned(seen).or_else(|| {
        let loose = seen.mode & 0o777 & !mode;
        (loose != 0).then(|| (format!("has mode {:04o}", seen.mode), format!("mode {mode:04o}")))
    })
}

fn not_owned(seen: &Seen) -> Option<(String, String)> {
    let ours = rustix::process::geteuid().as_raw();
    (seen.uid != ours).then(|| (format!("belongs to user {}", seen.uid), format!("user {ours}")))
}

const fn kind_of(seen: &Seen) -> &'static str {
    match seen.kind {
        FileType::RegularFile => "is a regular file",
        FileType::Directory => "is a folder",
        FileType::Symlink => "is a symbolic link",
        FileType::Fifo
        | FileType::Socket
        | FileType::CharacterDevice
        | FileType::BlockDevice
        | FileType::Unknown => "is a device, a socket or a pipe",
    }
}

/// Opens a model file for reading, and puts its mode right; `None` where nothing stands there.
fn open_held(path: &Path) -> Result<Option<File>, ModelsError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(rustix::io::Errno::LOOP) => {
            let (found, wanted) = ("is a symbolic link".to_owned(), "a regular file".to_owned());
            return Err(ModelsError::NotOurs { path: path.to_owned(), found, wanted });
        }
        Err(error) => return Err(failed(path)(error.into())),
    };
    let seen = Seen::of(&file).map_err(failed(path))?;
    if seen.kind == FileType::RegularFile && not_owned(&seen).is_none() && seen.mode != HELD_MODE {
        // Its mode is ours to put back. What it holds is read, whoever may have written to it.
        file.set_permissions(fs::Permissions::from_mode(HELD_MODE)).map_err(failed(path))?;
    }
    match not_held(&Seen::of(&file).map_err(failed(path))?) {
        Some((found, wanted)) => Err(ModelsError::NotOurs { path: path.to_owned(), found, wanted }),
        None => Ok(Some(file)),
    }
}

/// Removes a file; none being there is no error. Returns the bytes of the disk that it took.
#[expect(clippy::disallowed_methods, reason = "model files are no part of the disk seam")]
fn delete(path: &Path) -> Result<u64, ModelsError> {
    let Some(seen) = Seen::at(path).map_err(failed(path))? else { return Ok(0) };
    fs::remove_file(path).map_err(failed(path))?;
    Ok(seen.taken)
}

/// The names in a folder; none where it is not there.
fn names(folder: &Path) -> io::Result<Vec<OsString>> {
    match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        found => found?.map(|entry| entry.map(|entry| entry.file_name())).collect(),
    }
}

/// The digest that a file of ours has as its name.
fn digest(name: &OsStr) -> Option<Digest> {
    format!("sha256:{}", name.to_str()?).parse().ok()
}

/// Syncs the names in a folder.
#[expect(clippy::disallowed_methods, reason = "model files are no part of the disk seam")]
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
