//! What can be asked about model files and models.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::Arc,
};

use node_types::{Digest, Timestamp, config::PieceHash, job::ModelRef, models::ModelState};
use rustix::fs::FileType;

use super::{
    FOLDER, ModelsError, QUARANTINE,
    error::failed,
    files::{aside, digest, names, not_held},
    table::{self, FileRow, Mark, Unsealed},
};
use crate::{
    reader::{ReadError, Reader},
    seal::{Place, Seen},
};

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

/// What can be asked about model files and models, beside a running Agent too.
#[derive(Clone, Debug)]
pub struct ModelsView {
    pub(super) reader: Arc<Reader>,
    pub(super) folder: PathBuf,
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
            let seen = Seen::at(&path)?.filter(|seen| seen.kind != FileType::Directory);
            if let (Some((sha256, at)), Some(seen)) = (aside(&name), seen) {
                found.push(Quarantined { sha256, at, bytes: seen.bytes, path });
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

    /// The files that are here, and those that were verified once and are not here any more, for example after a backup was restored.
    pub fn here_and_gone(&self) -> Result<(Vec<HeldFile>, BTreeSet<Digest>), ReadError> {
        let is_gone = |file: &HeldFile| matches!(Seen::at(&self.path(file.sha256)), Ok(None));
        let (gone, here): (Vec<_>, Vec<_>) = self.files()?.into_iter().partition(is_gone);
        Ok((here, gone.into_iter().map(|file| file.sha256).collect()))
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
    pub(super) fn place(&self) -> Result<Option<Place>, ModelsError> {
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
