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
//! count and bytes of all jobs come from the snapshot ([`JobRules`]).
//!
//! Left out on purpose: running anything, and talking to anyone.

use std::sync::{Arc, PoisonError, RwLock};

use node_types::{
    Digest, JobId, Network, NodeId, Timestamp,
    job::{Failure, FailureKind, Job, OUTPUT_BYTES_MAX, Output},
    trace::{Outcome, ReleaseReason, Standing, Step, Trace},
};
use rusqlite::Connection;

pub mod rule;
pub mod seal;
mod table;

pub use rule::{Accepted, JobRules, Rejection};
pub use seal::{Field, Tampered};
pub use table::{Expired, Leased, Outgoing, Story, Tally};

use crate::writer::{Effect, Ticket, WriteError, Writer};
use seal::Sealer;

/// How long after its deadline an ended job is remembered: one day in milliseconds.
pub const SETTLED_MARGIN_MS: u64 = 86_400_000;
/// Jobs that one call expires, releases or lists at the most: bounds the commit it shares.
pub const BATCH_MAX: u32 = 256;

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
    /// The job in turn does not open; it is failed as [`FailureKind::Unreadable`]. Lease again.
    Unreadable(Tampered),
}

/// The jobs of a volume.
#[derive(Debug)]
pub struct Jobs {
    writer: Arc<Writer>,
    sealer: Arc<Sealer>,
    network: Network,
    rules: RwLock<Option<Arc<JobRules>>>,
}

impl Jobs {
    /// The jobs behind `writer`, sealed under `volume_key`.
    pub(crate) fn new(writer: Arc<Writer>, volume_key: &[u8; 32], network: Network, node: NodeId) -> Self {
        let sealer = Arc::new(Sealer::new(volume_key, network, node));
        Self { writer, sealer, network, rules: RwLock::default() }
    }

    /// Fails the queued jobs that the rules in force forbid, at most [`BATCH_MAX`] of each model; call again
    /// while it returns more than 0. What runs already may end.
    pub fn fail_forbidden(&self, now: Timestamp) -> Ticket<u64> {
        let rules = self.rules();
        self.writer.submit(Effect::Keeps, move |tx| {
            let Some(rules) = &rules else { return Ok(0) };
            if table::screened(tx)? == Some(rules.config) {
                return Ok(0);
            }
            let forbidden = table::forbidden(tx, |model, mode| rules.allows(model, mode))?;
            for held in &forbidden {
                table::fail(tx, held, FailureKind::Forbidden, None, now)?;
            }
            if forbidden.is_empty() {
                table::set_screened(tx, rules.config)?;
            }
            Ok(forbidden.len() as u64)
        })
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

    /// Takes a job in. `New` and `Duplicate` are answered after the sync, and only they may be
    /// acknowledged as accepted.
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
        self.writer.submit(Effect::Grows, move |tx| {
            if let Some(held) = table::known(tx, row.id)? {
                return Ok(same(&held, &digest));
            }
            let Some(seq) = table::take_place(tx, &row, &rules)? else { return Ok(Accepted::Full) };
            table::insert(tx, seq, &row).map(|()| Accepted::New)
        })
    }

    /// Leases the oldest queued job of the highest priority whose time has not ended, if any.
    ///
    /// At most one lease exists per job: two would bill the network twice. `runtime` and `model` are
    /// the digests of what will run it, for its trace.
    pub fn lease(&self, runtime: Option<Digest>, model: Option<Digest>, now: Timestamp) -> Ticket<Lease> {
        let (sealer, network) = (Arc::clone(&self.sealer), self.network);
        self.writer.submit(Effect::Keeps, move |tx| {
            let Some(held) = table::next_queued(tx, now)? else { return Ok(Lease::Empty) };
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
    pub fn finish(&self, id: JobId, output: Output, now: Timestamp) -> Ticket<Moved> {
        if output.body.len() > OUTPUT_BYTES_MAX {
            let message =
                format!("the answer has {} bytes, at most {OUTPUT_BYTES_MAX} are kept", output.body.len());
            return self.fail(id, Failure::new(FailureKind::Runtime, &message), now);
        }
        let sealer = Arc::clone(&self.sealer);
        self.writer.submit(Effect::Keeps, move |tx| {
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

    /// After a restart: puts back every job that was running. Returns how many there were.
    pub fn restart(&self, now: Timestamp) -> Ticket<u64> {
        self.writer.submit(Effect::Keeps, move |tx| {
            let mut count = 0;
            for held in table::in_standing(tx, Standing::Running)? {
                release(tx, &held, ReleaseReason::Restart, now)?;
                count += 1;
            }
            Ok(count)
        })
    }

    /// Answers and failures that the network has not acknowledged, oldest first, at most
    /// [`BATCH_MAX`], after the sequence number `after` (0 for the first).
    ///
    /// One that does not open is failed as [`FailureKind::Unreadable`]; the next call gives that.
    pub fn outbox(&self, after: u64, now: Timestamp) -> Ticket<Vec<Result<Outgoing, Tampered>>> {
        let sealer = Arc::clone(&self.sealer);
        self.writer.submit(Effect::Keeps, move |tx| {
            let answers = table::outbox(tx, &sealer, after, now)?;
            for tampered in answers.iter().filter_map(|answer| answer.as_ref().err()) {
                if let Some(held) = table::held(tx, tampered.job)? {
                    fail_unreadable(tx, &held, now)?;
                }
            }
            Ok(answers)
        })
    }

    /// Forgets a job that the network has: its row and key are deleted, its trace stays.
    ///
    /// "Already have it" from the network counts as an acknowledgement.
    pub fn acknowledge(&self, id: JobId, now: Timestamp) -> Ticket<Moved> {
        let network = self.network;
        self.writer.submit(Effect::Shrinks, move |tx| {
            let Some(held) = table::held(tx, id)? else { return gone(tx, id) };
            let outcome = match held.standing {
                Standing::Finished => Outcome::Answered,
                Standing::Failed => Outcome::Failed,
                standing @ (Standing::Queued | Standing::Running) => return Ok(Moved::Elsewhere(standing)),
            };
            table::settle(tx, network, &held, outcome, Step::Acknowledged, now).map(|()| Moved::Done)
        })
    }

    /// Ends jobs whose time has come, at most [`BATCH_MAX`], fewer where they are large; call again until it
    /// returns none.
    /// A run of one that was running must be ended by the caller.
    pub fn expire(&self, now: Timestamp) -> Ticket<Vec<Expired>> {
        let (network, bytes_max) = (self.network, self.writer.delete_bytes_max());
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
            Ok(ended)
        })
    }

    /// Expired jobs that the network has not been told of, oldest first, at most [`BATCH_MAX`].
    pub fn unreported(&self) -> Ticket<Vec<Expired>> {
        self.writer.submit(Effect::Keeps, table::unreported)
    }

    /// Notes that the network has been told that these jobs expired.
    pub fn reported(&self, jobs: Vec<JobId>) -> Ticket<()> {
        self.writer.submit(Effect::Keeps, move |tx| table::mark_reported(tx, &jobs))
    }

    /// Forgets ended jobs whose remembrance is over and that were reported. Returns how many.
    pub fn forget(&self, now: Timestamp) -> Ticket<u64> {
        self.writer.submit(Effect::Shrinks, move |tx| table::forget(tx, now))
    }

    /// Everything known of a job, in order; `None` if nothing is.
    pub fn explain(&self, id: JobId) -> Ticket<Option<Story>> {
        self.writer.submit(Effect::Keeps, move |tx| table::story(tx, id))
    }

    /// Counts and bytes of the jobs held.
    pub fn tally(&self) -> Ticket<Tally> {
        self.writer.submit(Effect::Keeps, table::tally)
    }

    /// Traces of ended jobs with their sequence numbers, oldest first, at most [`BATCH_MAX`], after the
    /// sequence number `after` (0 for the first).
    pub fn traces(&self, after: u64) -> Ticket<Vec<(u64, Trace)>> {
        self.writer.submit(Effect::Keeps, move |tx| table::traces(tx, after))
    }
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
    table::fail(tx, held, FailureKind::Unreadable, None, now)
}
