//! Reading files again: whole, and piece by piece.

use std::{
    fs::File,
    io::{self, ErrorKind},
    num::NonZeroU64,
    ops::ControlFlow,
};

use node_types::{
    Digest, Timestamp,
    config::{PIECE_BYTES, PieceHash},
};
use rustix::fs::{Advice, fadvise};

use super::{
    HeldFile, Inner, Models, ModelsError, Scrub,
    error::failed,
    files::open_held,
    table::{self, FileRow, Mark, Unsealed},
};
use crate::{
    hash,
    seal::{Guard, Look, Seal, Seen, Untrusted},
    writer::Effect,
};

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

impl Models {
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
        if let Some(wanted) = usize::try_from(piece).ok().and_then(|piece| held.pieces.get(piece))
            && is_damaged(&file, piece, wanted)
        {
            let mark = Mark::Damaged(format!("its piece {piece} was found damaged at {now}"));
            inner.writer.submit(Effect::Keeps, move |tx| table::set_mark(tx, sha256, &mark)).wait()?;
            return Ok(Scrubbed::Damaged { piece });
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
}

/// Whether a piece is not what it was on the disk. What the disk cannot read is damaged too.
fn is_damaged(file: &File, piece: u64, wanted: &PieceHash) -> bool {
    // Advice alone. What is remembered may be good where the disk is not.
    let length = NonZeroU64::new(PIECE_BYTES);
    let _ = fadvise(file, piece.saturating_mul(PIECE_BYTES), length, Advice::DontNeed);
    hash::piece(file, piece).ok().as_ref() != Some(wanted)
}

impl Inner {
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
            if is_damaged(file, piece, wanted) {
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
}

impl FileRow {
    /// A file that was hashed and is what it should be.
    pub(super) fn verified(
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
