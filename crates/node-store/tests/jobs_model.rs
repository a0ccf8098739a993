//! Any sequence of steps against a model in memory: every answer, and after every step all that can be seen.
//!
//! The model ([`Model`]) says what the store must answer and show. Beside it stands a ledger ([`Ledger`]) that
//! knows nothing of how the store works and holds only the promises. The seed is fixed, so a failure comes
//! again in every run; its shortest sequence is printed.
//!
//! The model judges offers with [`admit`], and what a snapshot forbids with [`plan`]; both are pure and have
//! tests of their own. A crash comes between two steps here; `power_cut` has it within them.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on must fail")]

mod common;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use common::*;
use node_store::{
    clock::judge,
    disk::Disk,
    jobs::{
        Accepted, Dropped, Expired, JobFacts, JobRules, Jobs, Lease, Moved, Outgoing, Queued, SETTLED_BYTES,
        SETTLED_MARGIN_MS, Story, TRACE_ROW_BYTES, TRACES_BYTES_MAX, Tally, rule::admit,
    },
    rotation::{self, Facts, Rules, StoreStep, plan},
    volume::Volume,
};
use node_types::{
    Digest, JobId, Network, Timestamp,
    job::{Failure, FailureKind, Job, Mode, ModelRef, Output},
    trace::{Event, Outcome, ReleaseReason, Standing, Step, Trace},
};
use proptest::{prelude::*, test_runner::RngSeed};
use sim_disk::{Loss, SimDisk};

/// Bytes that a job takes beside its payloads, and that sealing adds to each payload.
const ROW_BYTES: u64 = 1024;
const SEAL_BYTES: u64 = 24 + 16;
/// Numbers of jobs: few, so that the same one is offered, run and ended again and again.
const NUMBERS: u64 = 8;

/// What is wrong with an offered job.
#[derive(Clone, Copy, Debug)]
enum Flaw {
    None,
    UnknownModel,
    OtherNetwork,
    TooManyTokens,
    TooLarge,
    TooLong,
    NoAttempt,
}

/// Which job a step is asked of.
#[derive(Clone, Copy, Debug)]
enum Target {
    Number(u64),
    /// The oldest that stands where the step begins, so that many come to their end.
    Fitting,
}

#[derive(Clone, Debug)]
enum Transition {
    /// `again`: the very job that had this number last, if one had.
    Offer {
        number: u64,
        ttl_ms: u64,
        flaw: Flaw,
        again: bool,
    },
    Lease,
    Finish(Target),
    Fail(Target),
    Cancel(Target),
    Release(Target),
    Submitted(Target),
    Acknowledge(Target),
    /// By a clock that is so many milliseconds ahead, for this step alone.
    Expire(u64),
    Reported(u64),
    /// Likewise.
    Forget(u64),
    Restart,
    Reopen,
    /// The power goes: nothing that was answered may be lost.
    Crash(Loss),
    /// A snapshot is applied: other models, other limits, or none at all.
    Apply(usize),
    /// The upload of one of the traces ended, counted from the oldest.
    Sent {
        trace: usize,
        arrived: bool,
    },
    DropTracesOfOthers,
    /// Traces of jobs that ended so long ago.
    ExpireTraces(u64),
    /// How many bytes all traces may take, from now on.
    LimitTraces(u64),
    Advance(u64),
    GoBack(u64),
}

fn other_model() -> ModelRef {
    ModelRef { name: "qwen".into(), version: "2".into() }
}

fn snapshots() -> Vec<Option<JobRules>> {
    let both = vec![(model(), vec![Mode::Chat, Mode::Completion]), (other_model(), vec![Mode::Chat])];
    let wide = JobRules { models: both, config: Digest::of(b"wide"), ..rules() };
    let one = |model| JobRules { models: vec![(model, vec![Mode::Chat])], ..wide.clone() };
    vec![
        Some(wide.clone()),
        Some(JobRules { config: Digest::of(b"one"), ..one(model()) }),
        Some(JobRules { config: Digest::of(b"other"), ..one(other_model()) }),
        Some(JobRules { config: Digest::of(b"few"), jobs_max: 2, ..wide.clone() }),
        Some(JobRules { config: Digest::of(b"small"), bytes_max: 4 * (ROW_BYTES + 110), ..wide.clone() }),
        Some(JobRules { config: Digest::of(b"none"), models: Vec::new(), ..wide }),
        None,
    ]
}

fn transitions() -> impl Strategy<Value = Vec<Transition>> {
    let number = 0..NUMBERS;
    let target = prop_oneof![number.clone().prop_map(Target::Number), Just(Target::Fitting)];
    let flaw = prop_oneof![
        30 => Just(Flaw::None),
        1 => Just(Flaw::UnknownModel),
        1 => Just(Flaw::OtherNetwork),
        1 => Just(Flaw::TooManyTokens),
        1 => Just(Flaw::TooLarge),
        1 => Just(Flaw::TooLong),
        1 => Just(Flaw::NoAttempt),
    ];
    let offer = (number.clone(), 0_u64..5000, flaw, prop::bool::weighted(0.25))
        .prop_map(|(number, ttl_ms, flaw, again)| Transition::Offer { number, ttl_ms, flaw, again });
    // So little more than a day that jumping ahead and back leads to the time of jobs that were forgotten.
    let (little, a_day) = (0_u64..2000, SETTLED_MARGIN_MS..SETTLED_MARGIN_MS + 6000);
    // After a jump by a day most jobs are over.
    let jump = |days| prop_oneof![12 => little.clone(), days => a_day.clone()];
    let loss = prop_oneof![
        Just(Loss::Nothing),
        Just(Loss::Unsynced),
        any::<u64>().prop_map(|seed| Loss::Subset { seed }),
    ];
    // Some four traces, or all.
    let traces_bytes_max = prop_oneof![0_u64..4000, Just(TRACES_BYTES_MAX)];
    let one = prop_oneof![
        12 => offer,
        8 => Just(Transition::Lease),
        5 => target.clone().prop_map(Transition::Finish),
        2 => target.clone().prop_map(Transition::Fail),
        1 => target.clone().prop_map(Transition::Cancel),
        3 => target.clone().prop_map(Transition::Release),
        3 => target.clone().prop_map(Transition::Submitted),
        5 => target.prop_map(Transition::Acknowledge),
        2 => prop_oneof![3 => Just(0), 1 => little.clone()].prop_map(Transition::Expire),
        2 => number.prop_map(Transition::Reported),
        2 => prop_oneof![3 => Just(0), 1 => a_day.clone()].prop_map(Transition::Forget),
        2 => Just(Transition::Restart),
        1 => Just(Transition::Reopen),
        2 => loss.prop_map(Transition::Crash),
        2 => prop_oneof![1 => Just(0), 1 => 0..snapshots().len()].prop_map(Transition::Apply),
        2 => (0_usize..4, any::<bool>()).prop_map(|(trace, arrived)| Transition::Sent { trace, arrived }),
        1 => Just(Transition::DropTracesOfOthers),
        1 => (0_u64..4000).prop_map(Transition::ExpireTraces),
        1 => traces_bytes_max.prop_map(Transition::LimitTraces),
        4 => jump(2).prop_map(Transition::Advance),
        1 => jump(1).prop_map(Transition::GoBack),
    ];
    prop::collection::vec(one, 1..200)
}

/// A job as the model holds it.
#[derive(Clone, Debug)]
struct Held {
    seq: u64,
    job: Job,
    /// The snapshot it was taken under.
    config: Digest,
    standing: Standing,
    attempt: u16,
    leased_at: Option<Timestamp>,
    result: Option<Result<Output, Failure>>,
    bytes: u64,
    events: Vec<Event>,
}

#[derive(Clone, Debug)]
struct Settled {
    job: Job,
    outcome: Outcome,
    standing: Standing,
    reported: bool,
    at: Timestamp,
    trace: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Upload {
    Untried,
    Tried,
    Arrived,
}

/// A trace of a job that ended.
#[derive(Clone, Debug)]
struct Kept {
    trace: Trace,
    upload: Upload,
}

impl Kept {
    fn bytes(&self) -> u64 {
        serde_json::to_string(&self.trace).unwrap().len() as u64 + TRACE_ROW_BYTES
    }

    fn ended_at(&self) -> Timestamp {
        self.trace.events.last().unwrap().at
    }
}

/// What a lease found.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Leased {
    Job(Job, u16),
    Nothing,
    Full,
}

struct Model {
    rules: Option<JobRules>,
    held: BTreeMap<JobId, Held>,
    settled: BTreeMap<JobId, Settled>,
    /// By their sequence numbers.
    traces: BTreeMap<u64, Kept>,
    traces_bytes_max: u64,
    traces_ever: u64,
    traces_lost: u64,
    seq: u64,
    expired: u64,
    /// The latest moment at which a job was taken, ended or forgotten: none is judged by an earlier one.
    high_water: Timestamp,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            rules: None,
            held: BTreeMap::new(),
            settled: BTreeMap::new(),
            traces: BTreeMap::new(),
            traces_bytes_max: TRACES_BYTES_MAX,
            traces_ever: 0,
            traces_lost: 0,
            seq: 0,
            expired: 0,
            high_water: Timestamp::EPOCH,
        }
    }
}

fn text_bytes(text: &str) -> u64 {
    text.len() as u64 + SEAL_BYTES
}

impl Held {
    fn note(&mut self, step: Step, now: Timestamp) {
        self.events.push(Event { at: now, step });
    }

    fn ran_ms(&self, now: Timestamp) -> u64 {
        self.leased_at.map_or(0, |leased| now.since_ms(leased))
    }

    fn fail(&mut self, kind: FailureKind, message: Option<&str>, now: Timestamp) {
        self.standing = Standing::Failed;
        self.bytes += message.map_or(0, text_bytes);
        self.result = Some(Err(Failure::new(kind, message.unwrap_or_default())));
        self.note(Step::Failed { kind, duration_ms: self.ran_ms(now) }, now);
    }

    fn release(&mut self, reason: ReleaseReason, now: Timestamp) {
        if self.attempt >= self.job.attempts_max {
            return self.fail(FailureKind::AttemptsExhausted, None, now);
        }
        self.standing = Standing::Queued;
        self.leased_at = None;
        self.note(Step::Released { reason }, now);
    }
}

impl Model {
    fn bytes(&self) -> u64 {
        let held: u64 = self.held.values().map(|held| held.bytes).sum();
        held + self.settled.len() as u64 * SETTLED_BYTES
    }

    fn known_by(&mut self, now: Timestamp) {
        self.high_water = self.high_water.max(now);
    }

    fn known(&self, id: JobId) -> Option<&Job> {
        let held = self.held.get(&id).map(|held| &held.job);
        held.or_else(|| self.settled.get(&id).map(|settled| &settled.job))
    }

    fn offer(&mut self, job: &Job, now: Timestamp) -> Accepted {
        if let Some(known) = self.known(job.id) {
            return if known == job { Accepted::Duplicate } else { Accepted::Conflict };
        }
        if let Err(answer) = admit(job, Network::Testnet, self.rules.as_ref(), now) {
            return answer;
        }
        if job.expires_at <= self.high_water {
            return Accepted::Expired;
        }
        let rules = self.rules.as_ref().unwrap();
        let bytes = ROW_BYTES + text_bytes(job.request.as_json());
        if self.held.len() as u64 >= rules.jobs_max || self.bytes() + bytes > rules.bytes_max {
            return Accepted::Full;
        }
        let config = rules.config;
        self.known_by(now);
        self.seq += 1;
        let mut held = Held {
            seq: self.seq,
            job: job.clone(),
            config,
            standing: Standing::Queued,
            attempt: 0,
            leased_at: None,
            result: None,
            bytes,
            events: Vec::new(),
        };
        held.note(Step::Accepted, now);
        self.held.insert(job.id, held);
        Accepted::New
    }

    fn lease(&mut self, now: Timestamp) -> Leased {
        let now = now.max(self.high_water);
        let full = self.rules.as_ref().is_some_and(|rules| self.bytes() >= rules.bytes_max)
            && self.held.values().any(|held| held.result.is_some());
        let next = self
            .held
            .values_mut()
            .filter(|held| held.standing == Standing::Queued && held.job.expires_at > now)
            .min_by_key(|held| (u8::MAX - held.job.priority, held.seq));
        let Some(next) = next else { return Leased::Nothing };
        if full {
            return Leased::Full;
        }
        next.standing = Standing::Running;
        next.attempt += 1;
        next.leased_at = Some(now);
        next.note(Step::Leased { attempt: next.attempt, runtime: None, model: None }, now);
        Leased::Job(next.job.clone(), next.attempt)
    }

    fn gone(&self, id: JobId) -> Moved {
        if self.settled.contains_key(&id) { Moved::Already } else { Moved::Unknown }
    }

    /// A step that only a running job takes.
    fn running(&mut self, id: JobId, now: Timestamp, step: impl FnOnce(&mut Held)) -> Moved {
        let (gone, judged_at) = (self.gone(id), now.max(self.high_water));
        let Some(held) = self.held.get_mut(&id) else { return gone };
        match held.standing {
            Standing::Running if held.job.expires_at <= judged_at => Moved::Expired,
            Standing::Running => {
                step(held);
                Moved::Done
            }
            other @ (Standing::Queued | Standing::Finished | Standing::Failed) => Moved::Elsewhere(other),
        }
    }

    fn finish(&mut self, id: JobId, output: &Output, now: Timestamp) -> Moved {
        let moved = self.running(id, now, |held| {
            held.standing = Standing::Finished;
            held.bytes += text_bytes(&output.body);
            held.result = Some(Ok(output.clone()));
            let step = Step::Finished {
                duration_ms: held.ran_ms(now),
                prompt_tokens: output.prompt_tokens,
                completion_tokens: output.completion_tokens,
                output_bytes: output.body.len() as u64,
            };
            held.note(step, now);
        });
        if moved == Moved::Elsewhere(Standing::Finished) { Moved::Already } else { moved }
    }

    fn fail(&mut self, id: JobId, failure: &Failure, now: Timestamp) -> Moved {
        let gone = self.gone(id);
        let Some(held) = self.held.get_mut(&id) else { return gone };
        match held.standing {
            Standing::Queued | Standing::Running => {
                held.fail(failure.kind, Some(&failure.message), now);
                Moved::Done
            }
            Standing::Failed => Moved::Already,
            Standing::Finished => Moved::Elsewhere(Standing::Finished),
        }
    }

    fn submitted(&mut self, id: JobId, now: Timestamp) -> Moved {
        let gone = self.gone(id);
        let Some(held) = self.held.get_mut(&id) else { return gone };
        if held.result.is_none() {
            return Moved::Elsewhere(held.standing);
        }
        if held.events.iter().filter(|event| event.step == Step::Submitted).count() == 2 {
            held.events.pop();
        }
        held.note(Step::Submitted, now);
        Moved::Done
    }

    fn settle(&mut self, id: JobId, outcome: Outcome, last: Step, now: Timestamp) {
        let mut held = self.held.remove(&id).unwrap();
        held.note(last, now);
        let reported = outcome != Outcome::Expired;
        let trace = Trace {
            job: id,
            network: held.job.network,
            model: held.job.model.clone(),
            mode: held.job.mode,
            config: held.config,
            outcome,
            events: held.events,
        };
        self.traces_ever += 1;
        self.traces.insert(self.traces_ever, Kept { trace, upload: Upload::Untried });
        let (job, standing, trace) = (held.job, held.standing, self.traces_ever);
        self.settled.insert(id, Settled { job, outcome, standing, reported, at: now, trace });
        self.known_by(now);
    }

    fn acknowledge(&mut self, id: JobId, now: Timestamp) -> Moved {
        let Some(held) = self.held.get(&id) else { return self.gone(id) };
        let outcome = match held.standing {
            Standing::Finished => Outcome::Answered,
            Standing::Failed => Outcome::Failed,
            other @ (Standing::Queued | Standing::Running) => return Moved::Elsewhere(other),
        };
        self.settle(id, outcome, Step::Acknowledged, now);
        self.keep_traces_within(self.traces_bytes_max);
        Moved::Done
    }

    fn expire(&mut self, now: Timestamp) -> Vec<Expired> {
        let mut over: Vec<_> =
            self.held.values().filter(|held| held.job.expires_at <= now).cloned().collect();
        over.sort_by_key(|held| (held.job.expires_at, held.seq));
        for held in &over {
            self.settle(held.job.id, Outcome::Expired, Step::Expired { state: held.standing }, now);
            self.expired += 1;
        }
        self.keep_traces_within(self.traces_bytes_max);
        over.iter().map(|held| Expired { job: held.job.id, state: held.standing, at: now }).collect()
    }

    fn forget(&mut self, now: Timestamp) -> u64 {
        let before = self.settled.len();
        self.settled.retain(|_, settled| {
            !settled.reported || settled.job.expires_at.plus_ms(SETTLED_MARGIN_MS) > now
        });
        let forgotten = before - self.settled.len();
        if forgotten > 0 {
            self.known_by(now);
        }
        forgotten as u64
    }

    fn drop_traces(&mut self, which: impl Fn(&Kept) -> bool) -> Dropped {
        let doomed: Vec<_> =
            self.traces.iter().filter(|(_, kept)| which(kept)).map(|(seq, _)| *seq).collect();
        self.remove_traces(&doomed)
    }

    fn keep_traces_within(&mut self, bytes_max: u64) -> Dropped {
        let mut bytes: u64 = self.traces.values().map(Kept::bytes).sum();
        let mut in_turn: Vec<_> = self.traces.iter().collect();
        in_turn.sort_by_key(|(seq, kept)| (Reverse(kept.upload), **seq));
        let mut doomed = Vec::new();
        for (seq, kept) in in_turn {
            if bytes <= bytes_max {
                break;
            }
            bytes -= kept.bytes();
            doomed.push(*seq);
        }
        self.remove_traces(&doomed)
    }

    fn remove_traces(&mut self, doomed: &[u64]) -> Dropped {
        let mut dropped = Dropped::default();
        for kept in doomed.iter().filter_map(|seq| self.traces.remove(seq)) {
            dropped.traces += 1;
            dropped.lost += u64::from(kept.upload < Upload::Arrived);
        }
        self.traces_lost += dropped.lost;
        dropped
    }

    fn restart(&mut self, now: Timestamp) -> u64 {
        let running = self.held.values_mut().filter(|held| held.standing == Standing::Running);
        running.map(|held| held.release(ReleaseReason::Restart, now)).count() as u64
    }

    fn fail_forbidden(&mut self, now: Timestamp) -> u64 {
        let Some(rules) = &self.rules else { return 0 };
        let queued = self.held.values_mut().filter(|held| held.standing == Standing::Queued);
        let forbidden = queued.filter(|held| !rules.allows(&held.job.model, held.job.mode));
        forbidden.map(|held| held.fail(FailureKind::Forbidden, None, now)).count() as u64
    }

    fn unanswered(&self) -> Vec<Queued> {
        let mut kinds = BTreeMap::<_, (u64, u64)>::new();
        for held in self.held.values() {
            let (queued, running) = kinds.entry((held.job.model.clone(), held.job.mode)).or_default();
            *queued += u64::from(held.standing == Standing::Queued);
            *running += u64::from(held.standing == Standing::Running);
        }
        kinds
            .into_iter()
            .map(|((model, mode), (queued, running))| Queued { model, mode, queued, running })
            .collect()
    }

    fn tally(&self) -> Tally {
        Tally {
            jobs: self.held.len() as u64,
            bytes: self.bytes(),
            expired: self.expired,
            trace_bytes: self.traces.values().map(Kept::bytes).sum(),
            traces_lost: self.traces_lost,
        }
    }

    fn story(&self, id: JobId) -> Option<Story> {
        if let Some(held) = self.held.get(&id) {
            return Some(Story {
                now: Ok(held.standing),
                model: Some(held.job.model.clone()),
                mode: Some(held.job.mode),
                config: Some(held.config),
                priority: Some(held.job.priority),
                expires_at: Some(held.job.expires_at),
                attempts: Some(held.attempt),
                attempts_max: Some(held.job.attempts_max),
                trace: Some(held.events.clone()),
                trace_uploaded: None,
                ended_at: None,
                reported: false,
            });
        }
        let settled = self.settled.get(&id);
        let kept = match settled {
            Some(settled) => self.traces.get(&settled.trace),
            None => self.traces.values().rfind(|kept| kept.trace.job == id),
        };
        let started = |kept: &Kept| {
            let leased = |event: &&Event| matches!(event.step, Step::Leased { .. });
            u16::try_from(kept.trace.events.iter().filter(leased).count()).unwrap()
        };
        Some(Story {
            now: Err(settled.map(|settled| settled.outcome).or(kept.map(|kept| kept.trace.outcome))?),
            model: kept.map(|kept| kept.trace.model.clone()),
            mode: kept.map(|kept| kept.trace.mode),
            config: kept.map(|kept| kept.trace.config),
            priority: None,
            expires_at: settled.map(|settled| settled.job.expires_at),
            attempts: kept.map(started),
            attempts_max: None,
            trace: kept.map(|kept| kept.trace.events.clone()),
            trace_uploaded: kept.map(|kept| kept.upload == Upload::Arrived),
            ended_at: settled.map(|settled| settled.at).or(kept.map(Kept::ended_at)),
            reported: settled.is_none_or(|settled| settled.reported),
        })
    }

    fn traces(&self, which: impl Fn(&Kept) -> bool) -> Vec<(u64, Trace)> {
        let found = self.traces.iter().filter(|(_, kept)| which(kept));
        found.map(|(seq, kept)| (*seq, kept.trace.clone())).collect()
    }

    fn unreported(&self) -> Vec<Expired> {
        let open = self.settled.iter().filter(|(_, settled)| !settled.reported);
        let mut found: Vec<_> = open
            .map(|(id, settled)| {
                assert_eq!(settled.outcome, Outcome::Expired);
                Expired { job: *id, state: settled.standing, at: settled.at }
            })
            .collect();
        found.sort_by_key(|expired| (expired.at, expired.job));
        found
    }

    fn outbox(&self, after: u64, now: Timestamp) -> Vec<Outgoing> {
        let now = now.max(self.high_water);
        let live = self.held.values().filter(|held| held.seq > after && held.job.expires_at > now);
        let mut sent: Vec<_> = live
            .filter_map(|held| {
                held.result.clone().map(|result| Outgoing { seq: held.seq, job: held.job.id, result })
            })
            .collect();
        sent.sort_by_key(|outgoing| outgoing.seq);
        sent
    }
}

/// The promises, apart from how they are kept.
struct Ledger {
    /// Accepted, and neither acknowledged nor expired since.
    open: BTreeSet<JobId>,
    /// Its answer or failure is persisted.
    answered: BTreeSet<JobId>,
    /// Ended for good, with their deadlines. A job leaves it when it may be forgotten.
    ended: BTreeMap<JobId, Timestamp>,
    /// The same, forgotten or not.
    ever_ended: BTreeSet<(JobId, Timestamp)>,
    attempts: BTreeMap<JobId, u16>,
    /// The latest moment that the jobs taken and ended prove: whatever the clock says, it is not earlier.
    proven: Timestamp,
}

impl Ledger {
    fn new() -> Self {
        Self {
            open: BTreeSet::new(),
            answered: BTreeSet::new(),
            ended: BTreeMap::new(),
            ever_ended: BTreeSet::new(),
            attempts: BTreeMap::new(),
            proven: Timestamp::EPOCH,
        }
    }

    fn accepted(&mut self, job: &Job, now: Timestamp) {
        let id = job.id;
        assert!(job.expires_at > self.proven, "{id} was taken after its time");
        assert!(!self.ended.contains_key(&id), "{id} has ended and was taken as a new job");
        assert!(!self.ever_ended.contains(&(id, job.expires_at)), "{id} was forgotten and taken again");
        assert!(self.open.insert(id), "{id} was accepted twice");
        self.attempts.insert(id, 0);
        self.proven = self.proven.max(now);
    }

    fn leased(&mut self, job: &Job, attempt: u16, now: Timestamp) {
        let id = job.id;
        assert!(self.open.contains(&id), "{id} was leased and is not open");
        assert!(!self.answered.contains(&id), "{id} has an answer and was leased again");
        assert!(job.expires_at > now.max(self.proven), "{id} was leased after its time");
        let attempts = self.attempts.get_mut(&id).unwrap();
        *attempts += 1;
        assert_eq!(attempt, *attempts, "{id}: every start counts");
        assert!(attempt <= job.attempts_max, "{id} was started {attempt} times");
    }

    fn ended(&mut self, id: JobId, expires_at: Timestamp, now: Timestamp) {
        assert!(self.open.remove(&id), "{id} ended twice");
        self.answered.remove(&id);
        self.ended.insert(id, expires_at);
        self.ever_ended.insert((id, expires_at));
        self.proven = self.proven.max(now);
    }

    fn may_be_forgotten(&mut self, now: Timestamp) {
        self.ended.retain(|_, expires_at| expires_at.plus_ms(SETTLED_MARGIN_MS) > now);
    }

    /// Looks at the store alone.
    fn check(&self, jobs: &Jobs, now: Timestamp) {
        for id in &self.open {
            let story = jobs.view().explain(*id).unwrap().unwrap_or_else(|| panic!("{id} is lost"));
            assert!(story.now.is_ok(), "{id} did not end, and stands as {:?}", story.now);
        }
        for id in self.ended.keys() {
            let story = jobs.view().explain(*id).unwrap().unwrap();
            assert!(story.now.is_err(), "{id} has ended, and stands as {:?}", story.now);
        }
        for sent in jobs.outbox(0, now).wait().unwrap() {
            let id = sent.unwrap().job;
            assert!(!self.ended.contains_key(&id), "{id} has ended and would be sent again");
        }
    }
}

struct World {
    disk: SimDisk,
    open: Option<(Volume, Jobs)>,
    model: Model,
    ledger: Ledger,
    /// What each number was offered as last.
    offered: BTreeMap<u64, Job>,
    now: Timestamp,
}

impl World {
    fn new() -> Self {
        let (disk, as_taken) = sim_disk();
        let volume = create_on(&as_taken);
        let jobs = volume.jobs(&VOLUME_KEY);
        let (model, ledger, offered) = (Model::default(), Ledger::new(), BTreeMap::new());
        let mut this = Self { disk, open: Some((volume, jobs)), model, ledger, offered, now: NOW };
        this.apply(0);
        this
    }

    fn jobs(&self) -> &Jobs {
        &self.open.as_ref().unwrap().1
    }

    fn apply(&mut self, snapshot: usize) {
        let now = self.now;
        self.model.rules = snapshots().swap_remove(snapshot);
        self.jobs().set_rules(self.model.rules.clone());
        let rules = Rules { jobs: self.model.rules.clone(), ..Rules::default() };
        let jobs = JobFacts { unanswered: self.model.unanswered(), ..JobFacts::default() };
        let mut failed = 0;
        for step in plan(&rules, &Facts { jobs, ..Facts::default() }, &judge(None, &at(now))) {
            if let rotation::Step::Store(StoreStep::FailForbidden { model, mode, jobs }) = step {
                assert_eq!(self.jobs().forbid(model.clone(), mode, now).wait().unwrap(), jobs);
                assert_eq!(self.jobs().forbid(model, mode, now).wait().unwrap(), 0);
                failed += jobs;
            }
        }
        assert_eq!(failed, self.model.fail_forbidden(now));
    }

    fn offered(&self, number: u64, ttl_ms: u64, flaw: Flaw) -> Job {
        let long = "x".repeat(usize::try_from(number).unwrap() * 9);
        let mut job = job_saying(number, &long);
        job.priority = u8::try_from(number % 3).unwrap();
        job.attempts_max = 1 + u16::try_from(number % 3).unwrap();
        job.expires_at = self.now.plus_ms(ttl_ms);
        if number % 4 == 3 {
            job.model = other_model();
        }
        if number % 4 == 2 {
            job.mode = Mode::Completion;
        }
        match flaw {
            Flaw::None => {}
            Flaw::UnknownModel => job.model.version = "none".into(),
            Flaw::OtherNetwork => job.network = Network::Mainnet,
            Flaw::TooManyTokens => job.max_tokens = rules().tokens_max + 1,
            Flaw::TooLarge => {
                let bytes = usize::try_from(rules().request_bytes_max).unwrap();
                job.request = job_saying(number, &"x".repeat(bytes)).request;
            }
            Flaw::TooLong => job.expires_at = self.now.plus_ms(rules().ttl_ms_max + 1),
            Flaw::NoAttempt => job.attempts_max = 0,
        }
        job
    }

    fn offer(&mut self, number: u64, ttl_ms: u64, flaw: Flaw, again: bool) {
        let last = self.offered.get(&number).filter(|_| again).cloned();
        let job = last.unwrap_or_else(|| self.offered(number, ttl_ms, flaw));
        let answer = self.jobs().accept(&job, self.now).wait().unwrap();
        assert_eq!(answer, self.model.offer(&job, self.now), "{job:?}");
        if answer == Accepted::New {
            assert!(matches!(flaw, Flaw::None) || again, "{job:?} was accepted");
            self.ledger.accepted(&job, self.now);
        }
        if self.ledger.ended.contains_key(&job.id) {
            assert!(matches!(answer, Accepted::Duplicate | Accepted::Conflict), "{answer:?}: {job:?}");
        }
        self.offered.insert(number, job);
    }

    fn lease(&mut self) {
        let leased = match self.jobs().lease(None, None, &[].into(), self.now).wait().unwrap() {
            Lease::Job(leased) => Leased::Job(leased.job, leased.attempt),
            Lease::Empty => Leased::Nothing,
            Lease::Full => Leased::Full,
            Lease::Unreadable(tampered) => panic!("{tampered}"),
        };
        assert_eq!(leased, self.model.lease(self.now));
        if let Leased::Job(job, attempt) = leased {
            self.ledger.leased(&job, attempt, self.now);
        }
    }

    fn crash(&mut self, loss: &Loss) {
        // An end in good order writes what the power takes.
        let image = self.disk.image(self.disk.ops(), loss);
        self.open = None;
        self.disk = SimDisk::from_image(image);
        self.reopen();
    }

    fn reopen(&mut self) {
        // The volume is free when it and the rooms made from it are gone.
        self.open = None;
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let volume = open_on(&disk);
        assert_eq!(volume.view().incidents().unwrap(), []);
        let jobs = volume.jobs(&VOLUME_KEY);
        jobs.set_rules(self.model.rules.clone());
        jobs.set_traces_bytes_max(self.model.traces_bytes_max);
        self.open = Some((volume, jobs));
    }

    fn sent(&mut self, trace: usize, arrived: bool) {
        let Some(seq) = self.model.traces.keys().nth(trace).copied() else { return };
        let ticket = if arrived {
            self.jobs().traces_uploaded(vec![seq])
        } else {
            self.jobs().traces_tried(vec![seq])
        };
        ticket.wait().unwrap();
        let reached = if arrived { Upload::Arrived } else { Upload::Tried };
        let kept = self.model.traces.get_mut(&seq).unwrap();
        kept.upload = kept.upload.max(reached);
    }

    fn drop_traces_of_others(&mut self) {
        let Some(config) = self.model.rules.as_ref().map(|rules| rules.config) else { return };
        let dropped = self.jobs().drop_traces_of_others(config).wait().unwrap();
        let wanted =
            self.model.drop_traces(|kept| kept.upload > Upload::Untried && kept.trace.config != config);
        assert_eq!(dropped, wanted);
    }

    fn expire_traces(&mut self, age_ms: u64) {
        let before = Timestamp::from_ms(self.now.ms() - age_ms);
        let dropped = self.jobs().expire_traces(cutoff(before)).wait().unwrap();
        assert_eq!(dropped, self.model.drop_traces(|kept| kept.ended_at() <= before));
    }

    fn limit_traces(&mut self, bytes_max: u64) {
        self.model.traces_bytes_max = bytes_max;
        self.jobs().set_traces_bytes_max(bytes_max);
        let dropped = self.jobs().keep_traces_within(bytes_max).wait().unwrap();
        assert_eq!(dropped, self.model.keep_traces_within(bytes_max));
    }

    fn target(&self, target: Target, standings: &[Standing]) -> JobId {
        let fitting = self.model.held.values().filter(|held| standings.contains(&held.standing));
        match target {
            Target::Number(number) => id(number),
            Target::Fitting => fitting.min_by_key(|held| held.seq).map_or(id(0), |held| held.job.id),
        }
    }

    fn step(&mut self, transition: &Transition) {
        let now = self.now;
        match *transition {
            Transition::Offer { number, ttl_ms, flaw, again } => self.offer(number, ttl_ms, flaw, again),
            Transition::Lease => self.lease(),
            Transition::Finish(target) => {
                let id = self.target(target, &[Standing::Running]);
                let output = output(&format!("answer of {id} at {now}"));
                let moved = self.jobs().finish(id, output.clone(), now).wait().unwrap();
                assert_eq!(moved, self.model.finish(id, &output, now));
            }
            Transition::Fail(target) => {
                let id = self.target(target, &[Standing::Running]);
                let failure = Failure::new(FailureKind::Runtime, "out of memory");
                let moved = self.jobs().fail(id, failure.clone(), now).wait().unwrap();
                assert_eq!(moved, self.model.fail(id, &failure, now));
            }
            Transition::Cancel(target) => {
                let id = self.target(target, &[Standing::Queued]);
                let failure = Failure::new(FailureKind::Cancelled, "cancelled");
                let moved = self.jobs().cancel(id, now).wait().unwrap();
                assert_eq!(moved, self.model.fail(id, &failure, now));
            }
            Transition::Release(target) => {
                let (id, reason) = (self.target(target, &[Standing::Running]), ReleaseReason::RuntimeLost);
                let moved = self.jobs().release(id, reason, now).wait().unwrap();
                let wanted = self.model.running(id, now, |held| held.release(reason, now));
                assert_eq!(moved, wanted);
            }
            Transition::Submitted(target) => {
                let id = self.target(target, &[Standing::Finished, Standing::Failed]);
                let moved = self.jobs().submitted(id, now).wait().unwrap();
                assert_eq!(moved, self.model.submitted(id, now));
            }
            Transition::Acknowledge(target) => {
                let id = self.target(target, &[Standing::Finished, Standing::Failed]);
                let moved = self.jobs().acknowledge(id, now).wait().unwrap();
                assert_eq!(moved, self.model.acknowledge(id, now));
                if moved == Moved::Done {
                    self.ledger.ended(id, self.model.settled[&id].job.expires_at, now);
                }
            }
            Transition::Expire(ahead_ms) => {
                let now = now.plus_ms(ahead_ms);
                let ended = self.jobs().expire(cutoff(now)).wait().unwrap();
                assert_eq!(ended, self.model.expire(now));
                for id in ended.into_iter().map(|expired| expired.job) {
                    self.ledger.ended(id, self.model.settled[&id].job.expires_at, now);
                }
            }
            Transition::Reported(number) => {
                self.jobs().reported(vec![id(number)]).wait().unwrap();
                if let Some(settled) = self.model.settled.get_mut(&id(number)) {
                    settled.reported = true;
                }
            }
            Transition::Forget(ahead_ms) => {
                let now = now.plus_ms(ahead_ms);
                assert_eq!(self.jobs().forget(cutoff(now)).wait().unwrap(), self.model.forget(now));
                self.ledger.may_be_forgotten(now);
            }
            Transition::Restart => {
                let released = self.jobs().release_all(ReleaseReason::Restart, now).wait().unwrap();
                assert_eq!(released, self.model.restart(now));
            }
            Transition::Reopen => self.reopen(),
            Transition::Crash(ref loss) => self.crash(loss),
            Transition::Apply(snapshot) => self.apply(snapshot),
            Transition::Sent { trace, arrived } => self.sent(trace, arrived),
            Transition::DropTracesOfOthers => self.drop_traces_of_others(),
            Transition::ExpireTraces(age_ms) => self.expire_traces(age_ms),
            Transition::LimitTraces(bytes_max) => self.limit_traces(bytes_max),
            Transition::Advance(ms) => self.now = now.plus_ms(ms),
            Transition::GoBack(ms) => self.now = Timestamp::from_ms(now.ms() - ms),
        }
    }

    /// All that can be seen, with the model's and the ledger's eyes.
    fn check(&mut self) {
        let (jobs, model) = (&self.open.as_ref().unwrap().1, &self.model);
        let view = jobs.view();
        assert_eq!(view.tally().unwrap(), model.tally());
        assert_eq!(view.high_water().unwrap(), model.high_water);
        assert_eq!(view.unreported().unwrap(), model.unreported());
        assert_eq!(view.traces(0).unwrap(), model.traces(|_| true));
        let to_upload = model.traces(|kept| kept.upload < Upload::Arrived);
        assert_eq!(view.traces_to_upload(0).unwrap(), to_upload);
        for after in [0, model.seq / 2] {
            let sent = jobs.outbox(after, self.now).wait().unwrap();
            let sent: Vec<_> = sent.into_iter().map(Result::unwrap).collect();
            assert_eq!(sent, model.outbox(after, self.now));
        }
        for number in 0..NUMBERS {
            assert_eq!(view.explain(id(number)).unwrap(), model.story(id(number)), "{number}");
        }
        let answered = model.held.values().filter(|held| held.result.is_some());
        self.ledger.answered.extend(answered.map(|held| held.job.id));
        self.ledger.check(jobs, self.now);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 256,
        rng_seed: RngSeed::Fixed(1),
        failure_persistence: None,
        max_shrink_iters: 2000,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_store_answers_and_shows_what_the_model_says_whatever_the_steps(steps in transitions()) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
            world.check();
        }
    }
}
