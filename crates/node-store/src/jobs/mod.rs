//! Jobs: the whole life of a job between the network's offer and its acknowledgement.
//!
//! ```text
//! accept -> Queued -> Running -> Finished -> acknowledged: the row is deleted, its trace stays
//!             ^          |  '--> Failed ---> acknowledged: likewise
//!             '-restart--'         any --TTL--> Expired: reported, then deleted
//! ```
//!
//! Each transition checks and writes in one transaction, and its answer says what happened. The
//! prompt and the answer are sealed before they reach the writer ([`seal`]). A job that has ended
//! leaves its id and keyed digest in `settled` until [`SETTLED_MARGIN_MS`] after its deadline, so that it is
//! never run or sent again whoever offers it.
//!
//! Limits: one request, one answer and a failure's message have the sizes of [`node_types::job`]; the
//! count and bytes of all jobs come from the snapshot ([`JobRules`]), and an ended job counts with
//! [`SETTLED_BYTES`] until it is forgotten. Beyond them, and where the disk is full or nearly so, an
//! offer is answered [`Accepted::Full`]. An answer is kept whatever the limit, as it is never computed again;
//! but while jobs reach the limit and answers wait for their acknowledgement, no job is leased
//! ([`Lease::Full`]). So jobs take at most the limit and the answers of those that run at one moment. Traces
//! take [`TRACES_BYTES_MAX`] at the most.
//!
//! Time: what was taken, ended or forgotten raises a high-water mark in the same commit, and no job is judged
//! by an earlier moment: a clock that jumps back revives none. What ends jobs takes a [`Cutoff`], which a clock
//! in doubt does not give.
//!
//! Left out on purpose: running anything, and talking to anyone.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use node_types::{
    Digest, JobId, Network, NodeId, Timestamp,
    job::{Failure, FailureKind, Job, Mode, ModelRef, OUTPUT_BYTES_MAX, Output},
    protocol::Claimed,
    trace::{Outcome, ReleaseReason, Standing, Step, Trace},
    verify::Floor,
};
use rusqlite::{Connection, types::Value};

pub mod rule;
pub mod seal;
mod table;

pub use rule::{Accepted, AfterRestore, JobRules, Rejection};
pub use seal::{Field, Tampered};
pub(crate) use table::Traces;
pub use table::{Counts, Dropped, Expired, Fence, Leased, Listed, Outgoing, Queued, Retired, Story, Tally};

use crate::{
    clock::Cutoff,
    nonsense::Nonsense,
    reader::{ReadError, Reader},
    writer::{Effect, Room, Ticket, WriteError, Writer},
};
use seal::Sealer;

/// How long after its deadline an ended job is remembered: one day in milliseconds.
pub const SETTLED_MARGIN_MS: u64 = 86_400_000;
/// Bytes that an ended job takes until it is forgotten: its id, its digest and two index entries, rounded up.
pub const SETTLED_BYTES: u64 = 192;
/// Bytes that all traces of ended jobs may take, 64 MiB: some 80,000 of them.
pub const TRACES_BYTES_MAX: u64 = 64 << 20;
/// Bytes that a trace takes beside its text: its row and index entries, rounded up.
pub const TRACE_ROW_BYTES: u64 = 192;
/// Jobs that one call expires, releases or lists at the most: bounds the commit it shares.
pub const BATCH_MAX: u32 = 256;
/// Bytes of answers that one look at the outbox opens at the most, 16 MiB, the largest answer: bounds the memory it
/// takes and how long commits wait for it.
pub const OUTBOX_BYTES_MAX: usize = OUTPUT_BYTES_MAX;

/// The answer to a step of a job that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// Done, on disk.
    Done,
    /// It had been done before; nothing changed.
    Already,
    /// The job is held, but does not stand where this step begins.
    Elsewhere(Standing),
    /// Its time has ended: the step does not count.
    Expired,
    /// No such job is held.
    Unknown,
    /// What is stored of it does not open; it is failed as [`FailureKind::Unreadable`].
    Unreadable(Tampered),
}

/// What a lease found.
#[derive(Debug)]
pub enum Lease {
    /// The job to run.
    Job(Box<Leased>),
    /// Nothing waits.
    Empty,
    /// One waits, but jobs take as many bytes as they may, and answers or failures wait for their
    /// acknowledgement: lease again when there was one.
    Full,
    /// The job in turn does not open; it is failed as [`FailureKind::Unreadable`]. Lease again.
    Unreadable(Tampered),
}

/// What can be asked about jobs, beside a running Agent too. Prompts and answers stay sealed.
#[derive(Clone, Debug)]
pub struct JobsView {
    reader: Arc<Reader>,
}

#[expect(clippy::missing_errors_doc, reason = "each fails with ReadError where the database cannot be read")]
impl JobsView {
    pub(crate) const fn new(reader: Arc<Reader>) -> Self {
        Self { reader }
    }

    /// Everything known of a job, in order; `None` if nothing is.
    pub fn explain(&self, id: JobId) -> Result<Option<Story>, ReadError> {
        self.reader.read(|tx| table::story(tx, id))
    }

    /// The jobs that anything is known of with an ID from `first` to `last`, both included, by ID, at most `limit`: what a
    /// person means by the first digits of one.
    pub fn between(&self, first: JobId, last: JobId, limit: u32) -> Result<Vec<JobId>, ReadError> {
        self.reader.read(|tx| table::between(tx, first, last, limit))
    }

    /// The jobs held in the order of acceptance, at most `limit`, after the sequence number `after` (0 for the first).
    pub fn list(&self, after: u64, limit: u32) -> Result<Vec<Listed>, ReadError> {
        self.reader.read(|tx| table::list(tx, after, limit))
    }

    /// How many jobs are held, by standing.
    pub fn counts(&self) -> Result<Counts, ReadError> {
        self.reader.read(table::counts)
    }

    /// When the job was taken that has waited longest of those in the queue; `None` where none waits. Looks at one
    /// job of each priority, however many wait.
    pub fn oldest_queued(&self) -> Result<Option<Timestamp>, ReadError> {
        self.reader.read(table::oldest_queued)
    }

    /// Counts and bytes of the jobs held.
    pub fn tally(&self) -> Result<Tally, ReadError> {
        self.reader.read(table::tally)
    }

    /// The second copy of the version floor; see [`Jobs::keep_floor`].
    pub fn floor(&self) -> Result<Floor, ReadError> {
        self.reader.read(table::floor)
    }

    /// Expired jobs that the network has not been told of, oldest first, at most [`BATCH_MAX`].
    pub fn unreported(&self) -> Result<Vec<Expired>, ReadError> {
        self.reader.read(table::unreported)
    }

    /// Traces of ended jobs with their sequence numbers, oldest first, at most [`BATCH_MAX`], after the
    /// sequence number `after` (0 for the first).
    pub fn traces(&self, after: u64) -> Result<Vec<(u64, Trace)>, ReadError> {
        self.reader.read(|tx| table::traces(tx, after))
    }

    /// The same as [`Self::traces`], newest first, before the sequence number `before` (nothing for the newest), at most
    /// `limit` and at most [`BATCH_MAX`].
    pub fn traces_before(&self, before: Option<u64>, limit: u32) -> Result<Vec<(u64, Trace)>, ReadError> {
        self.reader.read(|tx| table::traces_before(tx, before, limit))
    }

    /// The same as [`Self::traces`], of those that the network does not have.
    pub fn traces_to_upload(&self, after: u64) -> Result<Vec<(u64, Trace)>, ReadError> {
        self.reader.read(|tx| table::traces_to_upload(tx, after))
    }

    /// The latest moment that a job was taken, ended or forgotten at.
    pub fn high_water(&self) -> Result<Timestamp, ReadError> {
        self.reader.read(table::high_water)
    }

    /// Whether this volume is a restored copy whose jobs wait for the network's word.
    pub fn fence(&self) -> Result<Option<Fence>, ReadError> {
        self.reader.read(table::fence)
    }

    /// The jobs that the network is asked about while the fence stands, at most `limit`: those that wait for its word, then
    /// those that had it before. It gives whatever is not named to others, and an earlier question may have been cut off.
    pub fn to_ask_about(&self, limit: u64) -> Result<Vec<JobId>, ReadError> {
        self.reader.read(|tx| table::to_ask_about(tx, limit))
    }

    /// Whether the node was moved away from this volume.
    pub fn retired(&self) -> Result<Option<Retired>, ReadError> {
        self.reader.read(table::retired)
    }

    /// What rotation decides by, in one look.
    pub(crate) fn rotation_facts(&self, asked: Asked) -> Result<JobFacts, ReadError> {
        self.reader.read(|tx| {
            let tally = table::tally(tx)?;
            let past = |moment: Option<Cutoff>,
                        count: fn(&Connection, Timestamp) -> rusqlite::Result<u64>| {
                moment.map_or(Ok(0), |moment| count(tx, moment.at()))
            };
            let traces = |which: Option<Traces>| {
                which.map_or(Ok(Dropped::default()), |which| table::count_traces(tx, which))
            };
            Ok(JobFacts {
                tally,
                past_deadline: past(asked.deadlines, table::count_past_deadline)?,
                forgettable: past(asked.deadlines, table::count_forgettable)?,
                unreported: table::count_unreported(tx)?,
                running: table::count_standing(tx, Standing::Running)?,
                unsent: table::count_unsent(tx)?,
                unanswered: if asked.config.is_some() && asked.config == table::screened(tx)? {
                    // A job that runs may be one of an earlier snapshot.
                    table::kinds_in(tx, &[Standing::Running])?
                } else {
                    table::kinds_in(tx, &[Standing::Queued, Standing::Running])?
                },
                traces_past_ttl: traces(asked.traces.map(|moment| Traces::EndedBy(moment.at())))?,
                traces_of_others: traces(asked.config.map(Traces::TriedOfOthers))?,
                traces_untried_of_others: asked
                    .config
                    .map_or(Ok(0), |config| table::count_untried_of_others(tx, config))?,
            })
        })
    }
}

/// What rotation asks about jobs and traces.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    /// Which deadlines have passed; `None` while time is held.
    pub(crate) deadlines: Option<Cutoff>,
    /// Which traces are too old; `None` while time is held.
    pub(crate) traces: Option<Cutoff>,
    /// The snapshot in force, if there is one.
    pub(crate) config: Option<Digest>,
}

/// What rotation decides by: counts of jobs and traces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobFacts {
    /// Counts and bytes of all.
    pub tally: Tally,
    /// Jobs past their deadline; 0 while time is held.
    pub past_deadline: u64,
    /// Ended jobs whose remembrance is over; 0 while time is held.
    pub forgettable: u64,
    /// Expired jobs that the network has not been told of.
    pub unreported: u64,
    /// Jobs with the runtime.
    pub running: u64,
    /// Answers and failures that the network has not acknowledged.
    pub unsent: u64,
    /// Jobs that wait or run, by what they ask for; only those that run where all that wait are known to keep
    /// the rules in force.
    pub unanswered: Vec<Queued>,
    /// Traces whose time to live has ended; none while time is held.
    pub traces_past_ttl: Dropped,
    /// Traces of other snapshots than the one in force that had their attempt to upload.
    pub traces_of_others: Dropped,
    /// Traces of other snapshots that had none.
    pub traces_untried_of_others: u64,
}

/// The jobs of a volume.
#[derive(Debug)]
pub struct Jobs {
    writer: Arc<Writer>,
    view: JobsView,
    sealer: Arc<Sealer>,
    network: Network,
    rules: RwLock<Option<Arc<JobRules>>>,
    traces_bytes_max: Arc<AtomicU64>,
}

impl Jobs {
    /// The jobs behind `writer`, sealed under `volume_key`.
    pub(crate) fn new(
        writer: Arc<Writer>,
        view: JobsView,
        volume_key: &[u8; 32],
        network: Network,
        node: NodeId,
    ) -> Self {
        let sealer = Arc::new(Sealer::new(volume_key, network, node));
        let traces_bytes_max = Arc::new(AtomicU64::new(TRACES_BYTES_MAX));
        Self { writer, view, sealer, network, rules: RwLock::default(), traces_bytes_max }
    }

    /// What can be asked about them.
    #[must_use]
    pub const fn view(&self) -> &JobsView {
        &self.view
    }

    /// Fails the queued jobs of a model and mode as [`FailureKind::Forbidden`], at most [`BATCH_MAX`]; call
    /// again while it returns more than 0. What runs already may end.
    pub fn forbid(&self, model: ModelRef, mode: Mode, now: Timestamp) -> Ticket<u64> {
        self.writer.submit(Effect::Keeps, move |tx| {
            let forbidden = table::queued_of(tx, &model, mode)?;
            for held in &forbidden {
                table::fail(tx, held, FailureKind::Forbidden, None, now)?;
            }
            Ok(forbidden.len() as u64)
        })
    }

    /// Notes that no queued job is forbidden by a snapshot, so that the queue, which may be long, need not be
    /// read again to know.
    pub(crate) fn screened(&self, config: Digest) -> Ticket<()> {
        self.writer.submit(Effect::Keeps, move |tx| table::set_screened(tx, config))
    }

    /// Answers when everything asked before is committed, for a look that must see it.
    pub(crate) fn settled_down(&self) -> Ticket<()> {
        self.writer.submit(Effect::Keeps, |_| Ok(()))
    }

    /// Sets the bytes that all traces may take, [`TRACES_BYTES_MAX`] unless set. It is enforced when the
    /// next job ends, and by rotation.
    pub fn set_traces_bytes_max(&self, bytes_max: u64) {
        self.traces_bytes_max.store(bytes_max, Ordering::Relaxed);
    }

    /// The bytes that all traces may take.
    #[must_use]
    pub fn traces_bytes_max(&self) -> u64 {
        self.traces_bytes_max.load(Ordering::Relaxed)
    }

    /// Puts the rules of a snapshot in force for the jobs accepted from now on.
    pub fn set_rules(&self, rules: Option<JobRules>) {
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = rules.map(Arc::new);
    }

    fn rules(&self) -> Option<Arc<JobRules>> {
        self.rules.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn ready<T>(&self, answer: T) -> Ticket<T> {
        Ticket::ready(self.writer.database(), Ok(answer))
    }

    fn refused<T>(&self, cause: &impl ToString) -> Ticket<T> {
        let database = self.writer.database();
        let error = WriteError::Refused { database: database.to_owned(), cause: cause.to_string().into() };
        Ticket::ready(database, Err(error))
    }

    /// Keeps a second copy of the version floor, against the loss of `state.db`. A lower one changes nothing.
    pub fn keep_floor(&self, floor: Floor) -> Ticket<()> {
        self.writer.submit(Effect::Keeps, move |tx| table::raise_floor(tx, floor))
    }

    /// Takes a job in. `New` and `Duplicate` are answered after the sync, and only they may be
    /// acknowledged as accepted. `Full` is the answer beyond the limits of the snapshot, where less of the
    /// disk is free than is kept back for `jobs.db`, and on a full disk.
    pub fn accept(&self, job: &Job, now: Timestamp) -> Ticket<Accepted> {
        let rules = self.rules();
        if let Err(answer) = rule::admit(job, self.network, rules.as_deref(), now) {
            // A job that is held is a duplicate even when the rules have changed since.
            let (id, digest) = (job.id, self.sealer.digest(job));
            return self.writer.submit(Effect::Keeps, move |tx| {
                Ok(table::known(tx, id)?.map_or_else(|| answer.clone(), |held| same(&held, &digest)))
            });
        }
        let Some(rules) = rules else { return self.ready(Accepted::Rejected(Rejection::NoConfiguration)) };
        let digest = self.sealer.digest(job);
        let body = job.request.as_json().as_bytes();
        let sealed = match self.sealer.seal_new(job.id, Field::Request, body) {
            Ok(sealed) => sealed,
            Err(error) => return self.refused(&error),
        };
        let row = table::NewJob::of(job, digest, sealed, rules.config, now);
        let bytes = row.bytes;
        self.writer.submit_yielding(bytes, move |tx, room| {
            let counted = table::counted(tx, row.id)?;
            if let Some(held) = counted.known {
                return Ok(same(&held, &digest));
            }
            if row.expires_at <= counted.high_water {
                return Ok(Accepted::Expired);
            }
            if room == Room::Low || !table::has_place(&counted, &row, &rules) {
                return Ok(Accepted::Full);
            }
            table::insert(tx, &counted, &row).map(|()| Accepted::New)
        })
    }

    /// Leases the oldest queued job of the highest priority whose time has not ended, if any.
    ///
    /// At most one lease exists per job: two would bill the network twice. `runtime` and `model` are
    /// the digests of what will run it, for its trace. Jobs of the models in `except` stay queued. Where jobs take the bytes of the snapshot's limit it is
    /// [`Lease::Full`], unless no acknowledgement could free any: a limit may be lowered below what waits, and
    /// what was accepted is run.
    pub fn lease(
        &self,
        runtime: Option<Digest>,
        model: Option<Digest>,
        except: &BTreeSet<ModelRef>,
        now: Timestamp,
    ) -> Ticket<Lease> {
        let (sealer, network) = (Arc::clone(&self.sealer), self.network);
        let except: Vec<_> = except.iter().map(|model| [model.name.clone(), model.version.clone()]).collect();
        let bytes_max = self.rules().map_or(u64::MAX, |rules| rules.bytes_max);
        self.writer.submit(Effect::Keeps, move |tx| {
            let now = now.max(table::high_water(tx)?);
            let Some(held) = table::next_queued(tx, &except, now)? else { return Ok(Lease::Empty) };
            if table::answers_fill(tx, bytes_max)? {
                return Ok(Lease::Full);
            }
            match table::open_request(tx, &sealer, &held)? {
                Ok(request) => {
                    let attempt = held.attempt.saturating_add(1);
                    let step = Step::Leased { attempt, runtime, model };
                    table::start(tx, &held, attempt, step, now)?;
                    Ok(Lease::Job(Box::new(held.leased(network, request, attempt))))
                }
                Err(tampered) => {
                    fail_unreadable(tx, &held, now)?;
                    Ok(Lease::Unreadable(tampered))
                }
            }
        })
    }

    /// Keeps the answer of a running job. Send it only after this says [`Moved::Done`].
    ///
    /// On a full disk it is [`WriteError::Full`] and the job runs on: an answer may be large, and what is kept
    /// back is for the acknowledgements that free space. Keep the answer and call again.
    pub fn finish(&self, id: JobId, output: Output, now: Timestamp) -> Ticket<Moved> {
        if output.body.len() > OUTPUT_BYTES_MAX {
            let message =
                format!("the answer has {} bytes, at most {OUTPUT_BYTES_MAX} are kept", output.body.len());
            return self.fail(id, Failure::new(FailureKind::Runtime, &message), now);
        }
        let sealer = Arc::clone(&self.sealer);
        self.writer.submit_sized(Effect::Grows, output.body.len() as u64, move |tx| {
            let held = match running(tx, id, now)? {
                Ok(held) => held,
                Err(Moved::Elsewhere(Standing::Finished)) => return Ok(Moved::Already),
                Err(other) => return Ok(other),
            };
            let sealed = sealer.seal_with(&held.wrapped_key, id, Field::Answer, output.body.as_bytes());
            match sealed.map_err(table::foreign)? {
                Ok(answer) => table::finish(tx, &held, &output, &answer, now).map(|()| Moved::Done),
                Err(tampered) => fail_unreadable(tx, &held, now).map(|()| Moved::Unreadable(tampered)),
            }
        })
    }

    /// Keeps the failure of a queued or running job, to be reported.
    pub fn fail(&self, id: JobId, failure: Failure, now: Timestamp) -> Ticket<Moved> {
        let sealer = Arc::clone(&self.sealer);
        self.writer.submit(Effect::Shrinks, move |tx| {
            let Some(held) = table::held(tx, id)? else { return gone(tx, id) };
            match held.standing {
                Standing::Queued | Standing::Running => {}
                Standing::Failed => return Ok(Moved::Already),
                Standing::Finished => return Ok(Moved::Elsewhere(Standing::Finished)),
            }
            let message = failure.message.as_bytes();
            let sealed = sealer.seal_with(&held.wrapped_key, id, Field::Answer, message);
            match sealed.map_err(table::foreign)? {
                Ok(answer) => table::fail(tx, &held, failure.kind, Some(&answer), now).map(|()| Moved::Done),
                Err(tampered) => fail_unreadable(tx, &held, now).map(|()| Moved::Unreadable(tampered)),
            }
        })
    }

    /// Cancels a job: one that has no answer yet fails as [`FailureKind::Cancelled`], and the caller ends
    /// its run.
    pub fn cancel(&self, id: JobId, now: Timestamp) -> Ticket<Moved> {
        self.fail(id, Failure::new(FailureKind::Cancelled, "cancelled"), now)
    }

    /// Puts a running job back in the queue, its attempt counted; after the last attempt it fails.
    pub fn release(&self, id: JobId, reason: ReleaseReason, now: Timestamp) -> Ticket<Moved> {
        self.writer.submit(Effect::Keeps, move |tx| match running(tx, id, now)? {
            Ok(held) => release(tx, &held, reason, now).map(|()| Moved::Done),
            Err(other) => Ok(other),
        })
    }

    /// Puts back every job that was running when the Agent or the runtime went away. Returns how many there
    /// were.
    pub fn release_all(&self, reason: ReleaseReason, now: Timestamp) -> Ticket<u64> {
        self.writer.submit(Effect::Keeps, move |tx| {
            let mut count = 0;
            for held in table::in_standing(tx, Standing::Running)? {
                release(tx, &held, reason, now)?;
                count += 1;
            }
            Ok(count)
        })
    }

    /// Answers and failures that the network has not acknowledged, oldest first, at most
    /// [`BATCH_MAX`] and [`OUTBOX_BYTES_MAX`], after the sequence number `after` (0 for the first). Call again after
    /// the last one's number until it returns none.
    ///
    /// One that does not open is failed as [`FailureKind::Unreadable`]; the next call gives that.
    pub fn outbox(&self, after: u64, now: Timestamp) -> Ticket<Vec<Result<Outgoing, Tampered>>> {
        let sealer = Arc::clone(&self.sealer);
        self.writer.submit(Effect::Keeps, move |tx| {
            let now = now.max(table::high_water(tx)?);
            let answers = table::outbox(tx, &sealer, after, now)?;
            for tampered in answers.iter().filter_map(|answer| answer.as_ref().err()) {
                if let Some(held) = table::held(tx, tampered.job)? {
                    fail_unreadable(tx, &held, now)?;
                }
            }
            Ok(answers)
        })
    }

    /// Notes for the trace that the result of a finished or failed job was sent.
    pub fn submitted(&self, id: JobId, now: Timestamp) -> Ticket<Moved> {
        self.writer.submit(Effect::Keeps, move |tx| {
            let Some(held) = table::held(tx, id)? else { return gone(tx, id) };
            match held.standing {
                Standing::Finished | Standing::Failed => {
                    table::note_submitted(tx, &held, now).map(|()| Moved::Done)
                }
                standing @ (Standing::Queued | Standing::Running) => Ok(Moved::Elsewhere(standing)),
            }
        })
    }

    /// Forgets a job that the network has: its row and key are deleted, its trace stays.
    ///
    /// "Already have it" from the network counts as an acknowledgement.
    pub fn acknowledge(&self, id: JobId, now: Timestamp) -> Ticket<Moved> {
        let (network, traces_max, step) = (self.network, self.traces_bytes_max(), self.delete_bytes_max());
        self.writer.submit(Effect::Shrinks, move |tx| {
            let Some(held) = table::held(tx, id)? else { return gone(tx, id) };
            let outcome = match held.standing {
                Standing::Finished => Outcome::Answered,
                Standing::Failed => Outcome::Failed,
                standing @ (Standing::Queued | Standing::Running) => return Ok(Moved::Elsewhere(standing)),
            };
            table::settle(tx, network, &held, outcome, Step::Acknowledged, now)?;
            table::keep_traces_within(tx, traces_max, step).map(|_| Moved::Done)
        })
    }

    fn delete_bytes_max(&self) -> u64 {
        self.writer.delete_bytes_max()
    }

    /// Ends jobs whose time has come, at most [`BATCH_MAX`], fewer where they are large; call again until it
    /// returns none.
    /// A run of one that was running must be ended by the caller.
    pub fn expire(&self, deadlines: Cutoff) -> Ticket<Vec<Expired>> {
        let (network, traces_max, bytes_max) =
            (self.network, self.traces_bytes_max(), self.delete_bytes_max());
        let now = deadlines.at();
        self.writer.submit(Effect::Shrinks, move |tx| {
            let (mut ended, mut bytes) = (Vec::new(), 0);
            for held in table::past_deadline(tx, now)? {
                bytes += held.bytes;
                if bytes > bytes_max && !ended.is_empty() {
                    break;
                }
                let state = held.standing;
                table::settle(tx, network, &held, Outcome::Expired, Step::Expired { state }, now)?;
                ended.push(Expired { job: held.id, state, at: now });
            }
            table::keep_traces_within(tx, traces_max, bytes_max)?;
            Ok(ended)
        })
    }

    /// Does with jobs behind the fence what the network's word asks for, all in one commit: give at most [`BATCH_MAX`]. Returns what was
    /// done with each that waited there.
    pub fn judge_fenced(&self, said: Vec<Claimed>, now: Timestamp) -> Ticket<Vec<(JobId, AfterRestore)>> {
        let network = self.network;
        self.writer.submit(Effect::Keeps, move |tx| {
            let mut done = Vec::new();
            for Claimed { job, claim } in &said {
                let Some(held) = table::held(tx, *job)? else { continue };
                if !table::is_fenced(tx, &held)? {
                    continue;
                }
                let decided = rule::after_restore(held.standing, *claim);
                match decided {
                    AfterRestore::Keep => table::unfence(tx, &held)?,
                    AfterRestore::Settle(outcome) => {
                        table::settle_elsewhere(tx, network, &held, outcome, now)?;
                    }
                    AfterRestore::Fail => {
                        table::fail(tx, &held, FailureKind::Unclaimed, None, now)?;
                        table::unfence(tx, &held)?;
                    }
                    AfterRestore::Drop => table::drop_unclaimed(tx, network, &held, now)?,
                }
                done.push((*job, decided));
            }
            Ok(done)
        })
    }

    /// Notes that the node was moved away: no Agent opens this volume any more. `None` takes it back.
    pub fn retire(&self, retired: Option<Retired>) -> Ticket<()> {
        self.writer.submit(Effect::Keeps, move |tx| table::set_retired(tx, retired.as_ref()))
    }

    /// Takes the fence down, if no job waits behind it any more. Says whether it is down.
    pub fn take_down_fence(&self) -> Ticket<bool> {
        self.writer.submit(Effect::Keeps, table::take_down_fence)
    }

    /// Notes that the network has been told that these jobs expired.
    pub fn reported(&self, jobs: Vec<JobId>) -> Ticket<()> {
        self.writer.submit(Effect::Keeps, move |tx| table::mark_reported(tx, &jobs))
    }

    /// Forgets ended jobs whose remembrance is over and that were reported, a commit's worth of them; call
    /// again until it returns 0. Returns how many.
    pub fn forget(&self, remembered_until: Cutoff) -> Ticket<u64> {
        let rows_max = (self.delete_bytes_max() / SETTLED_BYTES).max(1);
        self.writer.submit(Effect::Shrinks, move |tx| table::forget(tx, remembered_until.at(), rows_max))
    }

    /// Notes that these traces, by their sequence numbers, were sent once; whether they arrived is not known.
    /// Call it when the attempt has ended: a trace of an earlier snapshot is deleted after it.
    pub fn traces_tried(&self, traces: Vec<u64>) -> Ticket<()> {
        self.writer.submit(Effect::Keeps, move |tx| table::mark_traces(tx, &traces, false))
    }

    /// Notes that the network has these traces, by their sequence numbers.
    pub fn traces_uploaded(&self, traces: Vec<u64>) -> Ticket<()> {
        self.writer.submit(Effect::Keeps, move |tx| table::mark_traces(tx, &traces, true))
    }

    /// Deletes traces of jobs that ended at `ended` or before, a commit's worth of them; call again until it
    /// deletes none.
    pub fn expire_traces(&self, ended: Cutoff) -> Ticket<Dropped> {
        self.drop_traces(Traces::EndedBy(ended.at()))
    }

    /// Deletes traces of other snapshots than `config` that had their attempt to upload, a commit's worth of
    /// them; call again until it deletes none.
    pub fn drop_traces_of_others(&self, config: Digest) -> Ticket<Dropped> {
        self.drop_traces(Traces::TriedOfOthers(config))
    }

    fn drop_traces(&self, which: Traces) -> Ticket<Dropped> {
        let bytes_max = self.delete_bytes_max();
        self.writer.submit(Effect::Shrinks, move |tx| table::drop_traces(tx, which, bytes_max))
    }

    /// Deletes the oldest traces, those that the network has first, until they take at most `bytes_max`
    /// bytes, a commit's worth of them; call again until it deletes none.
    pub fn keep_traces_within(&self, bytes_max: u64) -> Ticket<Dropped> {
        let step = self.delete_bytes_max();
        self.writer.submit(Effect::Shrinks, move |tx| table::keep_traces_within(tx, bytes_max, step))
    }
}

/// Whether a job was ever taken or a snapshot ever applied here.
pub(crate) fn was_used(tx: &Connection) -> rusqlite::Result<bool> {
    tx.query_row("SELECT seq > 0 OR version > 0 FROM tally, floor", (), |row| row.get(0))
}

/// The name of the table of jobs.
pub(crate) const TABLE: &str = "jobs";

/// Looks whether the jobs after `after` up to `last` are in every index: one that is not would never be
/// leased, or never expire.
pub(crate) fn check_indexes(tx: &Connection, after: &Value, last: &Value) -> rusqlite::Result<()> {
    table::check_indexes(tx, after, last)
}

/// Rows that can be read but make no sense.
pub(crate) fn nonsense(tx: &Connection) -> rusqlite::Result<Vec<Nonsense>> {
    table::nonsense(tx)
}

/// Fences all jobs of a copy that was restored: they are neither run nor sent before [`Jobs::judge_fenced`].
pub(crate) fn put_up_fence(
    tx: &Connection,
    backed_up_at: Timestamp,
    restored_at: Timestamp,
) -> rusqlite::Result<()> {
    table::put_up_fence(tx, backed_up_at, restored_at)
}

/// How many jobs are held.
pub(crate) fn count(tx: &Connection) -> rusqlite::Result<u64> {
    table::counts(tx).map(|counts| counts.queued + counts.running + counts.unsent)
}

/// Whether the node was moved away from this volume.
pub(crate) fn retired(tx: &Connection) -> rusqlite::Result<Option<Retired>> {
    table::retired(tx)
}

/// Notes that the node was moved away, or that it was not.
pub(crate) fn set_retired(tx: &Connection, retired: Option<&Retired>) -> rusqlite::Result<()> {
    table::set_retired(tx, retired)
}

/// Makes what was saved of a damaged database agree with itself.
pub(crate) fn mend(tx: &Connection) -> rusqlite::Result<()> {
    table::mend(tx)
}

fn same(held: &[u8; 32], offered: &[u8; 32]) -> Accepted {
    if held == offered { Accepted::Duplicate } else { Accepted::Conflict }
}

/// The answer for a job that is not held: one that ended has had its step already.
fn gone(tx: &Connection, id: JobId) -> rusqlite::Result<Moved> {
    Ok(if table::known(tx, id)?.is_some() { Moved::Already } else { Moved::Unknown })
}

fn running(tx: &Connection, id: JobId, now: Timestamp) -> rusqlite::Result<Result<table::Held, Moved>> {
    let Some(held) = table::held(tx, id)? else { return gone(tx, id).map(Err) };
    let now = now.max(table::high_water(tx)?);
    Ok(match held.standing {
        Standing::Running if held.expires_at <= now => Err(Moved::Expired),
        Standing::Running => Ok(held),
        other @ (Standing::Queued | Standing::Finished | Standing::Failed) => Err(Moved::Elsewhere(other)),
    })
}

fn release(
    tx: &Connection,
    held: &table::Held,
    reason: ReleaseReason,
    now: Timestamp,
) -> rusqlite::Result<()> {
    match rule::after_restart(held.attempt, held.attempts_max) {
        rule::AfterRestart::Queue => table::queue_again(tx, held, reason, now),
        rule::AfterRestart::GiveUp => table::fail(tx, held, FailureKind::AttemptsExhausted, None, now),
    }
}

fn fail_unreadable(tx: &Connection, held: &table::Held, now: Timestamp) -> rusqlite::Result<()> {
    table::drop_answer(tx, held)?;
    table::fail(tx, held, FailureKind::Unreadable, None, now)
}
