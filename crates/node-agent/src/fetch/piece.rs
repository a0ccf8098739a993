//! A piece on its way to the disk: hashed as it comes, written in large parts, noted now and then.

use std::{ops::Range, sync::Arc};

use node_store::models::Partial;
use node_types::{Timestamp, config::PIECE_BYTES};
use tokio::time::Instant;

use super::{
    Fault, Halt, Tuning,
    error::Problem,
    source::{Ended, Stream},
};
use crate::blocking::blocking;

/// How much is gathered before it is written: 1 MiB.
const WRITE_BYTES: usize = 1 << 20;

/// The wall clock when a fetch began, and how long ago that is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    pub(super) began: Timestamp,
    pub(super) since: Instant,
}

impl Clock {
    fn now(self) -> Timestamp {
        self.began.plus_ms(u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX))
    }
}

/// Told how many bytes of the file are on disk now that were not before; negative where they are taken back.
pub(super) type Landed<'a> = &'a (dyn Fn(i64) + Sync);

/// A piece of which some bytes are on disk and some in memory.
pub(super) struct Piece {
    partial: Arc<Partial>,
    index: u64,
    bytes: u64,
    hasher: blake3::Hasher,
    /// What is written, from the piece's beginning.
    written: u64,
    /// What of it is noted.
    noted: u64,
    gathered: Vec<u8>,
    clock: Clock,
}

impl Piece {
    /// Goes on where the piece stands.
    pub(super) async fn open(partial: &Arc<Partial>, index: u64, clock: Clock) -> Result<Self, Fault> {
        let partial = Arc::clone(partial);
        blocking(move || {
            let (written, bytes) = (partial.received(index), partial.piece_bytes(index));
            let (hasher, gathered) = (partial.rehash(index)?, Vec::with_capacity(WRITE_BYTES));
            Ok(Self { partial, index, bytes, hasher, written, noted: written, gathered, clock })
        })
        .await
    }

    /// What of the file is still to come for it.
    pub(super) const fn missing(&self) -> Range<u64> {
        let begin = self.index * PIECE_BYTES;
        begin + self.written..begin + self.bytes
    }

    /// Takes the rest from a stream that stands where the piece does, and no byte more.
    ///
    /// Whatever ends it, what came is on disk and noted. Only a piece that is wrong as a whole is taken back.
    pub(super) async fn receive(
        mut self,
        stream: &mut Stream,
        tuning: &Tuning,
        landed: Landed<'_>,
    ) -> Result<(), Halt> {
        let mut note_at = Instant::now() + tuning.note_every;
        loop {
            let left = self.bytes - self.written - self.gathered.len() as u64;
            if left == 0 {
                return self.finish(landed).await;
            }
            let room = (WRITE_BYTES - self.gathered.len()) as u64;
            match stream.next(left.min(room), note_at).await {
                Ok(Some(bytes)) => {
                    self.gathered.extend_from_slice(&bytes);
                    if self.gathered.len() == WRITE_BYTES {
                        self = self.write(tuning.note_bytes, landed).await?;
                        // The disk's time is not the source's.
                        stream.look_anew();
                    }
                }
                Ok(None) => {
                    self = self.write(0, landed).await?;
                    note_at = Instant::now() + tuning.note_every;
                }
                Err(ended) => {
                    let this = self.write(0, landed).await?;
                    return Err(Halt::Source(this.problem(ended)));
                }
            }
        }
    }

    /// Writes what is gathered, and notes it where at least so many bytes are not noted yet. The end of a piece is noted
    /// by [`Self::finish`] alone, after it was judged.
    async fn write(mut self, note_bytes: u64, landed: Landed<'_>) -> Result<Self, Halt> {
        let before = self.written;
        let written = blocking(move || {
            self.partial.write(self.index, self.written, &self.gathered)?;
            self.hasher.update(&self.gathered);
            self.written += self.gathered.len() as u64;
            self.gathered.clear();
            let unnoted = self.written - self.noted;
            if unnoted > 0 && unnoted >= note_bytes && self.written < self.bytes {
                self.partial.note(self.index, self.written, self.clock.now())?;
                self.noted = self.written;
            }
            Ok(self)
        });
        let this = written.await.map_err(Halt::Disk)?;
        landed(signed(this.written - before));
        Ok(this)
    }

    async fn finish(self, landed: Landed<'_>) -> Result<(), Halt> {
        let this = self.write(u64::MAX, landed).await?;
        let (index, bytes) = (this.index, this.bytes);
        let judged = blocking(move || {
            let found = this.hasher.finalize();
            let expected = this.partial.expected_piece(index);
            let right = expected.is_none_or(|expected| expected.as_bytes() == found.as_bytes());
            if right {
                this.partial.note(index, bytes, this.clock.now())?;
            } else {
                this.partial.reset(index)?;
            }
            Ok(right)
        });
        if judged.await.map_err(Halt::Disk)? {
            return Ok(());
        }
        landed(-signed(bytes));
        Err(Halt::Source(Problem::Corrupt { piece: index }))
    }

    /// What a stream that ended too early is, said of this piece.
    pub(super) fn problem(&self, ended: Ended) -> Problem {
        let (piece, received, bytes) = (self.index, self.written, self.bytes);
        match ended {
            Ended::Stalled { received, ms } => Problem::Stalled { piece, received, ms },
            Ended::Cut(cause) => Problem::Cut { piece, received, bytes, cause },
        }
    }
}

/// A piece has at most 64 MiB.
fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
