//! The files of models, fetched from where the snapshot says they are.
//!
//! ```text
//! each source in turn ─► the first missing piece ─┬─ 206 ─► the others too, some at once, each by a ranged request
//!                                                 └─ 200 ─► everything in order, what is there is passed over
//! what a source leaves missing is asked of the next one; after the last one it begins again, later, so many times
//! ```
//!
//! A source is not trusted. Never more is read or written than the snapshot announces; each piece is judged by its
//! BLAKE3 as it arrives, where that is known; the file as a whole is judged by [`node_store::models::Partial::finish`].
//! What arrives is noted as it comes, so that a fetch that is dropped, or whose process dies, goes on in the middle of a
//! piece.
//!
//! Sources are `https`, `http` on loopback, and `file` inside the folders that the operator allows. What stands in one of
//! these folders under its SHA-256 needs no source, and is tried first.
//!
//! Left out on purpose: proxies, compression, credentials, several sources at once.

mod error;
mod piece;
mod source;

pub use error::{FetchError, Problem, SourceFailure};

use std::{
    collections::VecDeque,
    error::Error,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::try_join_all;
use node_store::models::Partial;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use crate::{backoff, blocking::blocking, time};
use piece::{Clock, Landed, Piece};
use source::{Opened, Place, Stall, Stream};

/// How far a file is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that are on disk.
    pub received: u64,
    /// Bytes of the file.
    pub bytes: u64,
}

/// How a fetcher works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// How many pieces are fetched at once.
    pub parallel: usize,
    /// Within this time
    pub stall_window: Duration,
    /// so many bytes of a piece must come, or it is asked for elsewhere.
    pub stall_bytes: u64,
    /// What has arrived of a piece is noted after so many bytes,
    pub note_bytes: u64,
    /// and after so long.
    pub note_every: Duration,
    /// How often all sources may fail in a row, without any news of the file between, before the fetch fails.
    pub rounds_max: u32,
    /// The wait after all sources failed, in milliseconds,
    pub wait_ms_min: u64,
    /// doubled up to this.
    pub wait_ms_max: u64,
}

impl Default for Tuning {
    /// Four pieces at once; 1 KiB a second over 30 seconds; a note every 8 MiB and every 2 seconds; five rounds, half a
    /// second to ten seconds apart.
    fn default() -> Self {
        Self {
            parallel: 4,
            stall_window: Duration::from_secs(30),
            stall_bytes: 30 << 10,
            note_bytes: 8 << 20,
            note_every: Duration::from_secs(2),
            rounds_max: 5,
            wait_ms_min: 500,
            wait_ms_max: 10_000,
        }
    }
}

/// So much more than ever before is news: 1 MiB. A source that gives less in a round, or the same again and again, does
/// not keep a fetch going.
const NEWS_BYTES: u64 = 1 << 20;

/// Fetches files of models.
#[derive(Clone, Debug)]
pub struct Fetcher {
    client: reqwest::Client,
    folders: Vec<PathBuf>,
    tuning: Tuning,
}

/// What ends a piece.
enum Halt {
    /// The source: another one may do.
    Source(Problem),
    /// This machine's disk: no other source helps.
    Disk(Fault),
}

/// What this machine's disk says.
type Fault = Box<dyn Error + Send + Sync>;

/// A source, and whether it is still asked.
struct Candidate {
    name: String,
    /// `None` once asking it is of no use.
    place: Option<Place>,
    failed: Option<Problem>,
}

impl Candidate {
    fn new(name: String, found: Result<Place, Problem>) -> Self {
        match found {
            Ok(place) => Self { name, place: Some(place), failed: None },
            Err(problem) => Self { name, place: None, failed: Some(problem) },
        }
    }

    fn fail(&mut self, problem: Problem) {
        if problem.lasts() {
            self.place = None;
        }
        self.failed = Some(problem);
    }
}

/// One source's turn: the pieces that are left for it, and how it does.
struct Turn {
    left: VecDeque<u64>,
    /// Failures since a piece came.
    in_a_row: usize,
    failed: Option<Problem>,
}

impl Fetcher {
    /// A fetcher that may take files from these folders.
    ///
    /// # Errors
    /// [`FetchError::Client`].
    pub fn new(allowed_folders: Vec<PathBuf>) -> Result<Self, FetchError> {
        let client = source::client().map_err(FetchError::Client)?;
        Ok(Self { client, folders: allowed_folders, tuning: Tuning::default() })
    }

    /// The same, working otherwise.
    #[must_use]
    pub fn tuned(self, tuning: Tuning) -> Self {
        Self { tuning, ..self }
    }

    /// Fetches what is missing of a file, which stands at `<source>/<path>`. Nothing is judged but pieces; the whole is
    /// for [`Partial::finish`].
    ///
    /// Cancelled by dropping it: what was noted stays.
    ///
    /// # Errors
    /// [`FetchError`].
    pub async fn fetch(
        &self,
        partial: &Arc<Partial>,
        sources: &[String],
        path: &str,
        progress: &watch::Sender<Progress>,
    ) -> Result<(), FetchError> {
        progress.send_replace(Progress { received: partial.received_all(), bytes: partial.bytes() });
        if partial.is_complete() {
            return Ok(());
        }
        let clock = Clock { began: time::reading()?.wall, since: Instant::now() };
        let mut candidates = self.candidates(partial, sources, path).await?;
        let (mut best, mut failures) = (partial.received_all(), 0);
        loop {
            for candidate in &mut candidates {
                let Some(place) = candidate.place.clone() else { continue };
                match self.turn(partial, &place, clock, progress).await {
                    Ok(None) => {}
                    Ok(Some(problem)) => candidate.fail(problem),
                    Err(source) => return Err(FetchError::Store { path: path.to_owned(), source }),
                }
                if partial.is_complete() {
                    return Ok(());
                }
            }
            let received = partial.received_all();
            failures = if received >= best.saturating_add(NEWS_BYTES) { 1 } else { failures + 1 };
            best = best.max(received);
            let all_out = candidates.iter().all(|candidate| candidate.place.is_none());
            if all_out || failures >= self.tuning.rounds_max {
                let failed = candidates.into_iter().filter_map(|it| Some((it.name, it.failed?)));
                let failures = failed.map(|(source, problem)| SourceFailure { source, problem }).collect();
                return Err(FetchError::Sources { path: path.to_owned(), failures });
            }
            let Tuning { wait_ms_min, wait_ms_max, .. } = self.tuning;
            sleep(backoff::wait(failures, wait_ms_min, wait_ms_max, backoff::random())).await;
        }
    }

    /// What the operator brought, then the sources in their order.
    async fn candidates(
        &self,
        partial: &Partial,
        sources: &[String],
        path: &str,
    ) -> Result<Vec<Candidate>, FetchError> {
        let (folders, sources, sha256) = (self.folders.clone(), sources.to_vec(), partial.sha256());
        let file = path.to_owned();
        let found = blocking(move || {
            let brought = folders.iter().map(|folder| folder.join(sha256.hex()));
            let brought = brought.filter(|path| path.symlink_metadata().is_ok());
            let brought = brought.map(|path| {
                Candidate::new(path.display().to_string(), source::open(&path, &folders).map(Place::File))
            });
            let named = sources.into_iter().map(|source| {
                let found = source::find(&source, &file, &folders);
                Candidate::new(source, found)
            });
            Ok(brought.chain(named).collect::<Vec<_>>())
        });
        let found = found.await.map_err(|source| FetchError::Store { path: path.to_owned(), source })?;
        if found.is_empty() {
            return Err(FetchError::NoSource { path: path.to_owned(), sha256 });
        }
        Ok(found)
    }

    /// Fetches what is missing from one source, as far as it goes. Gives the last problem, if there was one.
    async fn turn(
        &self,
        partial: &Arc<Partial>,
        place: &Place,
        clock: Clock,
        progress: &watch::Sender<Progress>,
    ) -> Result<Option<Problem>, Fault> {
        let landed =
            |bytes: i64| progress.send_modify(|it| it.received = it.received.saturating_add_signed(bytes));
        let missing =
            (0..partial.pieces()).filter(|index| partial.received(*index) < partial.piece_bytes(*index));
        let mut left: VecDeque<u64> = missing.collect();
        let Some(first) = left.pop_front() else { return Ok(None) };
        let piece = Piece::open(partial, first, clock).await?;
        match self.ask(partial, place, &piece).await {
            Err(problem) => Ok(Some(problem)),
            Ok(Opened::Whole(stream)) => self.in_order(partial, stream, piece, left, clock, &landed).await,
            Ok(Opened::Part(stream)) => {
                let turn = Mutex::new(Turn { left, in_a_row: 0, failed: None });
                let begun = std::iter::once(Some((piece, stream)));
                let begun = begun.chain(std::iter::repeat_with(|| None)).take(self.tuning.parallel.max(1));
                let workers = begun.map(|begun| self.work(partial, place, &turn, begun, clock, &landed));
                try_join_all(workers).await?;
                Ok(turn.into_inner().unwrap_or_else(PoisonError::into_inner).failed)
            }
        }
    }

    async fn ask(&self, partial: &Partial, place: &Place, piece: &Piece) -> Result<Opened, Problem> {
        let stall = Stall { window: self.tuning.stall_window, bytes_min: self.tuning.stall_bytes };
        place.ask(&self.client, piece.missing(), partial.bytes(), stall).await
    }

    /// Fetches piece after piece of what is left, beginning with the one whose stream is open.
    async fn work(
        &self,
        partial: &Arc<Partial>,
        place: &Place,
        turn: &Mutex<Turn>,
        mut begun: Option<(Piece, Stream)>,
        clock: Clock,
        landed: Landed<'_>,
    ) -> Result<(), Fault> {
        loop {
            let came = match begun.take() {
                Some((piece, mut stream)) => piece.receive(&mut stream, &self.tuning, landed).await,
                None => {
                    let next = lock(turn).left.pop_front();
                    let Some(index) = next else { return Ok(()) };
                    let piece = Piece::open(partial, index, clock).await?;
                    match self.ask(partial, place, &piece).await {
                        Ok(Opened::Part(mut stream)) => {
                            piece.receive(&mut stream, &self.tuning, landed).await
                        }
                        // It knew parts a moment ago. At its next turn it is asked anew.
                        Ok(Opened::Whole(_)) => Err(Halt::Source(Problem::OtherPart)),
                        Err(problem) => Err(Halt::Source(problem)),
                    }
                }
            };
            let mut turn = lock(turn);
            match came {
                Ok(()) => turn.in_a_row = 0,
                Err(Halt::Disk(fault)) => return Err(fault),
                Err(Halt::Source(problem)) => turn.fail(problem, self.tuning.parallel),
            }
        }
    }

    /// Takes what is missing from a stream of the whole file. A piece that arrives damaged does not end it.
    async fn in_order(
        &self,
        partial: &Arc<Partial>,
        mut stream: Stream,
        mut piece: Piece,
        mut left: VecDeque<u64>,
        clock: Clock,
        landed: Landed<'_>,
    ) -> Result<Option<Problem>, Fault> {
        let (mut at, mut failed) = (0, None);
        loop {
            let missing = piece.missing();
            if let Err(ended) = stream.skip(missing.start - at).await {
                return Ok(Some(piece.problem(ended)));
            }
            at = missing.end;
            match piece.receive(&mut stream, &self.tuning, landed).await {
                Ok(()) => {}
                Err(Halt::Disk(fault)) => return Err(fault),
                Err(Halt::Source(problem @ Problem::Corrupt { .. })) => failed = Some(problem),
                Err(Halt::Source(problem)) => return Ok(Some(problem)),
            }
            let Some(index) = left.pop_front() else { return Ok(failed) };
            piece = Piece::open(partial, index, clock).await?;
        }
    }
}

impl Turn {
    /// Notes a failure. The turn ends where asking again is of no use, or nothing but failures comes.
    fn fail(&mut self, problem: Problem, in_a_row_max: usize) {
        self.in_a_row += 1;
        if problem.lasts() || self.in_a_row >= in_a_row_max {
            self.left.clear();
        }
        // What ends the source for good is what has to be said of it.
        if !self.failed.as_ref().is_some_and(Problem::lasts) {
            self.failed = Some(problem);
        }
    }
}

fn lock(turn: &Mutex<Turn>) -> MutexGuard<'_, Turn> {
    turn.lock().unwrap_or_else(PoisonError::into_inner)
}
