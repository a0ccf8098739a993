//! What in the models' folder is of no use, whose it is, and how it goes.
//!
//! Ours is what a row tells of, whatever a crash left: a file has its name before its download is forgotten, and is deleted
//! before it is forgotten itself. Among the partial files a digest as the name, with the mode that we give them, tells too;
//! in quarantine the name alone does.
//! All else somebody put there: a stranger stays until somebody says that it may go.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use node_types::{Digest, Timestamp, job::ModelRef};
use rustix::fs::FileType;

use super::{
    Inner, Models, ModelsError, ModelsView, PARTIAL, QUARANTINE,
    error::failed,
    files::{aside, delete, digest, names, not_file, sync_folder},
    partial, table,
};
use crate::{seal::Seen, writer::Effect};

/// Something in the folder that is of no use any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waste {
    /// What it is.
    pub kind: WasteKind,
    /// Where it is.
    pub path: PathBuf,
    /// Bytes of the disk that it takes: a partial file has its full length from the start.
    pub bytes: u64,
}

/// What is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WasteKind {
    /// A partial file whose time has ended.
    Unfinished(Digest),
    /// A file in quarantine whose time has ended.
    Quarantined,
    /// A file of ours that no model needs any more.
    Unneeded(Digest),
    /// A file that nothing knows and no model needs, by its name where that is a digest: it is not ours.
    Stranger(Option<Digest>),
}

/// Whether what is not ours goes too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strangers {
    /// It stays.
    Stay,
    /// It goes: somebody asked for it.
    Go,
}

impl ModelsView {
    /// What is of no use any more at `now`: partial files of which nothing was kept for `ttl_ms`, quarantined ones that were moved as
    /// long ago, files that no model has and that were verified as long ago, and [strangers](Self::strangers). Archived models
    /// count.
    ///
    /// # Errors
    /// [`ModelsError`] where the database or the folder cannot be read.
    pub fn waste(&self, ttl_ms: u64, now: Timestamp) -> Result<Vec<Waste>, ModelsError> {
        let there = There::look(self)?;
        let is_old = |at: Timestamp| at.plus_ms(ttl_ms) <= now;
        // A file goes before the row of its download, which tells that it is ours.
        let mut waste = there.unneeded(is_old);
        waste.extend(there.unfinished(is_old));
        for file in self.quarantined().map_err(failed(&self.folder.join(QUARANTINE)))? {
            let Some(seen) = Seen::at(&file.path).map_err(failed(&file.path))? else { continue };
            if is_old(file.at) {
                waste.push(Waste { kind: WasteKind::Quarantined, path: file.path, bytes: seen.taken });
            }
        }
        waste.extend(there.strangers());
        Ok(waste)
    }

    /// The files that are not ours, and that no model needs.
    ///
    /// # Errors
    /// [`ModelsError`] where the database or the folder cannot be read.
    pub fn strangers(&self) -> Result<Vec<Waste>, ModelsError> {
        Ok(There::look(self)?.strangers())
    }

    /// [Those files](Self::strangers), and the folders that are not ours. Nothing removes a folder: what stands in it nobody has
    /// looked at.
    ///
    /// # Errors
    /// [`ModelsError`] where the database or the folder cannot be read.
    pub fn not_ours(&self) -> Result<(Vec<Waste>, Vec<PathBuf>), ModelsError> {
        let there = There::look(self)?;
        let ours = |path: &PathBuf| [PARTIAL, QUARANTINE].iter().any(|name| *path == self.folder.join(name));
        let all = [&there.here, &there.begun, &there.aside].into_iter().flat_map(Listed::folders);
        Ok((there.strangers(), all.filter(|path| !ours(path)).collect()))
    }
}

impl Models {
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

    /// Removes what is [waste](ModelsView::waste) and not open. Returns what went.
    ///
    /// # Errors
    /// [`ModelsError`]; what was removed before stays removed.
    pub fn prune(
        &self,
        ttl_ms: u64,
        now: Timestamp,
        strangers: Strangers,
    ) -> Result<Vec<Waste>, ModelsError> {
        let inner = &self.inner;
        let _turn = inner.take_turn();
        let mut gone = Vec::new();
        for waste in inner.view.waste(ttl_ms, now)? {
            let bytes = match waste.kind {
                WasteKind::Unfinished(sha256) | WasteKind::Unneeded(sha256) if inner.is_open(sha256) => {
                    continue;
                }
                WasteKind::Unfinished(sha256) => inner.discard(sha256)?,
                WasteKind::Unneeded(sha256) => match inner.take_away(sha256, None)? {
                    Ok(bytes) => bytes,
                    // A model has come to need it since.
                    Err(_) => continue,
                },
                WasteKind::Stranger(_) if strangers == Strangers::Stay => continue,
                WasteKind::Stranger(Some(sha256)) if inner.is_needed(sha256)? => continue,
                WasteKind::Quarantined | WasteKind::Stranger(_) => delete(&waste.path)?,
            };
            gone.push(Waste { bytes, ..waste });
        }
        Ok(gone)
    }
}

impl Inner {
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

/// A folder, and what stands in it by its name.
struct Listed {
    folder: PathBuf,
    files: BTreeMap<OsString, Seen>,
}

impl Listed {
    fn look(folder: PathBuf) -> Result<Self, ModelsError> {
        let mut files = BTreeMap::new();
        for name in names(&folder).map_err(failed(&folder))? {
            let path = folder.join(&name);
            // One that went meanwhile is not there.
            files.extend(Seen::at(&path).map_err(failed(&path))?.map(|seen| (name, seen)));
        }
        Ok(Self { folder, files })
    }

    /// Those that have a digest as their name, and how they look.
    fn digests(&self) -> impl Iterator<Item = (Digest, &Seen)> {
        self.files.iter().filter_map(|(name, seen)| Some((digest(name)?, seen)))
    }

    /// The folders in it.
    fn folders(&self) -> impl Iterator<Item = PathBuf> {
        let folders = self.files.iter().filter(|(_, seen)| seen.kind == FileType::Directory);
        folders.map(|(name, _)| self.folder.join(name))
    }

    /// What has this name as waste, whether it is there or not; a folder is none.
    fn waste(&self, kind: WasteKind, name: impl AsRef<Path>) -> Option<Waste> {
        let seen = self.files.get(name.as_ref().as_os_str());
        let bytes = seen.map_or(0, |seen| seen.taken);
        let is_folder = seen.is_some_and(|seen| seen.kind == FileType::Directory);
        (!is_folder).then(|| Waste { kind, path: self.folder.join(name), bytes })
    }
}

/// What is there, and what is known of it.
struct There {
    /// When each file that has a row was verified.
    verified: BTreeMap<Digest, Timestamp>,
    /// When something of each partial file that has a row was kept last.
    touched: BTreeMap<Digest, Timestamp>,
    /// What a model has.
    needed: BTreeSet<Digest>,
    here: Listed,
    begun: Listed,
    aside: Listed,
}

impl There {
    fn look(view: &ModelsView) -> Result<Self, ModelsError> {
        let (files, partials, needed) =
            view.reader.read(|tx| Ok((table::files(tx)?, table::partials(tx)?, table::needed(tx)?)))?;
        Ok(Self {
            verified: files.into_iter().map(|row| (row.held.sha256, row.held.verified_at)).collect(),
            touched: partials.into_iter().map(|row| (row.partial.sha256, row.partial.touched_at)).collect(),
            needed,
            here: Listed::look(view.folder.clone())?,
            begun: Listed::look(view.folder.join(PARTIAL))?,
            aside: Listed::look(view.folder.join(QUARANTINE))?,
        })
    }

    fn unneeded(&self, is_old: impl Fn(Timestamp) -> bool) -> Vec<Waste> {
        // What is fetched anew is being repaired.
        let verified = self.verified.iter().filter(|(it, at)| is_old(**at) && !self.touched.contains_key(it));
        // A crash came between the name of a file and its row.
        let named = self.here.digests().map(|(it, _)| it).filter(|it| {
            !self.verified.contains_key(it) && self.touched.get(it).is_some_and(|at| is_old(*at))
        });
        let all = verified.map(|(it, _)| *it).chain(named).filter(|it| !self.needed.contains(it));
        all.filter_map(|it| self.here.waste(WasteKind::Unneeded(it), it.hex())).collect()
    }

    fn unfinished(&self, is_old: impl Fn(Timestamp) -> bool) -> Vec<Waste> {
        let old = self.touched.iter().filter(|(_, at)| is_old(**at)).map(|(it, _)| *it);
        // What has no row is begun anew, and so is no use.
        let lost = self.begun.digests().filter(|(it, seen)| !self.touched.contains_key(it) && is_begun(seen));
        let all = old.chain(lost.map(|(it, _)| it));
        all.filter_map(|it| self.begun.waste(WasteKind::Unfinished(it), it.hex())).collect()
    }

    fn strangers(&self) -> Vec<Waste> {
        let knows = |it: &Digest| {
            self.verified.contains_key(it) || self.touched.contains_key(it) || self.needed.contains(it)
        };
        let here = self.here.files.keys().map(|name| (name, digest(name)));
        let here = here.filter(|(_, named)| named.as_ref().is_none_or(|it| !knows(it)));
        let here = here.filter_map(|(name, named)| self.here.waste(WasteKind::Stranger(named), name));
        let begun = self.begun.files.iter().filter(|(name, seen)| {
            digest(name).is_none_or(|it| !self.touched.contains_key(&it) && !is_begun(seen))
        });
        let begun = begun.filter_map(|(name, _)| self.begun.waste(WasteKind::Stranger(None), name));
        let aside = self.aside.files.keys().filter(|name| aside(name).is_none());
        let aside = aside.filter_map(|name| self.aside.waste(WasteKind::Stranger(None), name));
        here.chain(begun).chain(aside).collect()
    }
}

/// Whether a partial file looks as those do that we begin.
fn is_begun(seen: &Seen) -> bool {
    not_file(seen, partial::MODE).is_none()
}
