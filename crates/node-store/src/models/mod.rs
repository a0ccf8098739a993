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
    collections::BTreeSet,
    fs, io,
    ops::ControlFlow,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use node_types::{Digest, Timestamp, config::ModelFile, job::ModelRef, models::ModelState};
use rustix::fs::RenameFlags;

use crate::{
    seal::Seen,
    writer::{Effect, Ticket, Writer},
};

mod error;
mod files;
mod measure;
mod partial;
mod table;
mod view;
mod waste;

pub use error::ModelsError;
pub use measure::{Measurement, Scrubbed, differing};
pub use partial::{Finished, Partial};
pub(crate) use table::nonsense;
pub use view::{HeldFile, ModelRow, ModelsView, PartialFile, Quarantined, Scrub, Standing};
pub use waste::{Strangers, Waste, WasteKind};

use error::failed;
use files::{delete, not_folder, sync_folder};

pub(crate) const FOLDER: &str = "models";
const PARTIAL: &str = "partial";
const QUARANTINE: &str = "quarantine";

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
}
