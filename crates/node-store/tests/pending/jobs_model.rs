//! Any sequence of steps against a model in memory: every answer, and after every step all that can be seen.
//!
//! The model ([`Model`]) says what the store must answer and show. Beside it stands a ledger ([`Ledger`]) that
//! knows nothing of how the store works and holds only the promises. The seed is fixed, so a failure comes
//! again in every run; its shortest sequence is printed.
//!
//! The model judges offers with [`admit`], which is pure and has tests of its own.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on must fail")]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use common::*;
use node_store::{
    disk::Disk,
    jobs::{
        Accepted, Expired, JobRules, Jobs, Lease, Moved, Outgoing, SETTLED_MARGIN_MS, Story, Tally,
        rule::admit,
    },
    volume::Volume,
};
use node_types::{
    Digest, JobId, Network, Timestamp,
    job::{Failure, FailureKind, Job, Mode, ModelRef, Output},
    trace::{Event, Outcome, ReleaseReason, Standing, Step},
};
use proptest::{prelude::*, test_runner::RngSeed};

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
    Finish(u64),
    Fail(u64),
    Cancel(u64),
    Release(u64),
    Acknowledge(u64),
    Expire,
    Reported(u64),
    Forget,
    Restart,
    Reopen,
    /// A snapshot is applied: other models, other limits, or none at all.
    Apply(usize),
    Advance(u64),
    GoBack(u64),
}

fn other_model() -> ModelRef {
    ModelRef { name: "qwen".into(), version: "2".into() }
}

fn snapshots() -> Vec<Option<JobRules>> {
    let both = vec![(model(), vec![Mode::Chat]), (other_model(), vec![Mode::Chat])];
    let wide = JobRules { models: both, config: Digest::of(b"wide"), ..rules() };
    let one = |model| JobRules { models: vec![(model, vec![Mode::Chat])], ..wide.clone() };
    vec![
        Some(wide.clone()),
        Some(JobRules { config: Digest::of(b"one"), ..one(model()) }),
        Some(JobRules { config: Digest::of(b"other"), ..one(other_model()) }),
        Some(JobRules { config: Digest::of(b"few"), jobs_max: 2, ..wide.clone() }),
        Some(JobRules { config: Digest::of(b"small"), bytes_max: 3 * (ROW_BYTES + 110), ..wide.clone() }),
        Some(JobRules { config: Digest::of(b"none"), models: Vec::new(), ..wide }),
        None,
    ]
}

fn transitions() -> impl Strategy<Value = Vec<Transition>> {
    let number = 0..NUMBERS;
    let flaw = prop_oneof![
        12 => Just(Flaw::None),
        1 => Just(Flaw::UnknownModel),
        1 => Just(Flaw::OtherNetwork),
        1 => Just(Flaw::TooManyTokens),
        1 => Just(Flaw::TooLarge),
        1 => Just(Flaw::TooLong),
        1 => Just(Flaw::NoAttempt),
    ];
    let offer = (number.clone(), 0_u64..5000, flaw, any::<bool>())
        .prop_map(|(number, ttl_ms, flaw, again)| Transition::Offer { number, ttl_ms, flaw, again });
    let jump = prop_oneof![6 => 0_u64..2000, 1 => SETTLED_MARGIN_MS..2 * SETTLED_MARGIN_MS];
    let one = prop_oneof![
        8 => offer,
        8 => Just(Transition::Lease),
        5 => number.clone().prop_map(Transition::Finish),
        2 => number.clone().prop_map(Transition::Fail),
        1 => number.clone().prop_map(Transition::Cancel),
        3 => number.clone().prop_map(Transition::Release),
        5 => number.clone().prop_map(Transition::Acknowledge),
        2 => Just(Transition::Expire),
        1 => number.prop_map(Transition::Reported),
        2 => Just(Transition::Forget),
        2 => Just(Transition::Restart),
        1 => Just(Transition::Reopen),
        2 => (0..snapshots().len()).prop_map(Transition::Apply),
        4 => jump.clone().prop_map(Transition::Advance),
        1 => jump.prop_map(Transition::GoBack),
    ];
    prop::collection::vec(one, 1..60)
}

/// A job as the model holds it.
#[derive(Clone, Debug)]
struct Held {
    seq: u64,
    job: Job,
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
}

#[derive(Default)]
struct Model {
    rules: Option<JobRules>,
    held: BTreeMap<JobId, Held>,
    settled: BTreeMap<JobId, Settled>,
    /// The last trace of each job that ended.
    traces: BTreeMap<JobId, (Outcome, Vec<Event>)>,
    seq: u64,
    expired: u64,
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
        self.held.values().map(|held| held.bytes).sum()
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
        let rules = self.rules.as_ref().unwrap();
        let bytes = ROW_BYTES + text_bytes(job.request.as_json());
        if self.held.len() as u64 >= rules.jobs_max || self.bytes() + bytes > rules.bytes_max {
            return Accepted::Full;
        }
        self.seq += 1;
        let mut held = Held {
            seq: self.seq,
            job: job.clone(),
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

    fn lease(&mut self, now: Timestamp) -> Option<(Job, u16)> {
        let next = self
            .held
            .values_mut()
            .filter(|held| held.standing == Standing::Queued && held.job.expires_at > now)
            .min_by_key(|held| (u8::MAX - held.job.priority, held.seq))?;
        next.standing = Standing::Running;
        next.attempt += 1;
        next.leased_at = Some(now);
        next.note(Step::Leased { attempt: next.attempt, runtime: None, model: None }, now);
        Some((next.job.clone(), next.attempt))
    }

    fn gone(&self, id: JobId) -> Moved {
        if self.settled.contains_key(&id) { Moved::Already } else { Moved::Unknown }
    }

    /// A step that only a running job takes.
    fn running(&mut self, id: JobId, now: Timestamp, step: impl FnOnce(&mut Held)) -> Moved {
        let gone = self.gone(id);
        let Some(held) = self.held.get_mut(&id) else { return gone };
        match held.standing {
            Standing::Running if held.job.expires_at <= now => Moved::Expired,
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

    fn settle(&mut self, id: JobId, outcome: Outcome, last: Step, now: Timestamp) {
        let mut held = self.held.remove(&id).unwrap();
        held.note(last, now);
        let reported = outcome != Outcome::Expired;
        let (job, standing) = (held.job, held.standing);
        self.settled.insert(id, Settled { job, outcome, standing, reported, at: now });
        self.traces.insert(id, (outcome, held.events));
    }

    fn acknowledge(&mut self, id: JobId, now: Timestamp) -> Moved {
        let Some(held) = self.held.get(&id) else { return self.gone(id) };
        let outcome = match held.standing {
            Standing::Finished => Outcome::Answered,
            Standing::Failed => Outcome::Failed,
            other @ (Standing::Queued | Standing::Running) => return Moved::Elsewhere(other),
        };
        self.settle(id, outcome, Step::Acknowledged, now);
        Moved::Done
    }

    fn expire(&mut self, now: Timestamp) -> BTreeSet<JobId> {
        let over: Vec<_> = self.held.values().filter(|held| held.job.expires_at <= now).cloned().collect();
        for held in &over {
            self.settle(held.job.id, Outcome::Expired, Step::Expired { state: held.standing }, now);
            self.expired += 1;
        }
        over.into_iter().map(|held| held.job.id).collect()
    }

    fn forget(&mut self, now: Timestamp) -> u64 {
        let before = self.settled.len();
        self.settled.retain(|_, settled| {
            !settled.reported || settled.job.expires_at.plus_ms(SETTLED_MARGIN_MS) > now
        });
        (before - self.settled.len()) as u64
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

    fn tally(&self) -> Tally {
        Tally { jobs: self.held.len() as u64, bytes: self.bytes(), expired: self.expired }
    }

    fn story(&self, id: JobId) -> Option<Story> {
        if let Some(held) = self.held.get(&id) {
            let trace = Some(held.events.clone());
            return Some(Story { now: Ok(held.standing), trace, ended_at: None, reported: false });
        }
        let (outcome, events) = self.traces.get(&id)?;
        let settled = self.settled.get(&id);
        Some(Story {
            now: Err(*outcome),
            trace: Some(events.clone()),
            ended_at: Some(settled.map_or(events.last().unwrap().at, |settled| settled.at)),
            reported: settled.is_none_or(|settled| settled.reported),
        })
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

/// The promises, apart from how they are kept. A job leaves it when it may be forgotten.
#[derive(Default)]
struct Ledger {
    /// Accepted, and neither acknowledged nor expired since.
    open: BTreeSet<JobId>,
    /// Its answer or failure is persisted.
    answered: BTreeSet<JobId>,
    /// Ended for good.
    ended: BTreeMap<JobId, Timestamp>,
    attempts: BTreeMap<JobId, u16>,
}

impl Ledger {
    fn accepted(&mut self, id: JobId) {
        assert!(!self.ended.contains_key(&id), "{id} has ended and was taken as a new job");
        assert!(self.open.insert(id), "{id} was accepted twice");
        self.attempts.insert(id, 0);
    }

    fn leased(&mut self, job: &Job, attempt: u16, now: Timestamp) {
        let id = job.id;
        assert!(self.open.contains(&id), "{id} was leased and is not open");
        assert!(!self.answered.contains(&id), "{id} has an answer and was leased again");
        assert!(job.expires_at > now, "{id} was leased after its time");
        let attempts = self.attempts.get_mut(&id).unwrap();
        *attempts += 1;
        assert_eq!(attempt, *attempts, "{id}: every start counts");
        assert!(attempt <= job.attempts_max, "{id} was started {attempt} times");
    }

    fn ended(&mut self, id: JobId, expires_at: Timestamp) {
        assert!(self.open.remove(&id), "{id} ended twice");
        self.answered.remove(&id);
        self.ended.insert(id, expires_at);
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
    disk: Arc<dyn Disk>,
    open: Option<(Volume, Jobs)>,
    model: Model,
    ledger: Ledger,
    /// What each number was offered as last.
    offered: BTreeMap<u64, Job>,
    now: Timestamp,
}

impl World {
    fn new() -> Self {
        let (_, disk) = sim_disk();
        let volume = create_on(&disk);
        let jobs = volume.jobs(&VOLUME_KEY);
        let (model, ledger, offered) = (Model::default(), Ledger::default(), BTreeMap::new());
        let mut this = Self { disk, open: Some((volume, jobs)), model, ledger, offered, now: NOW };
        this.apply(0);
        this
    }

    fn jobs(&self) -> &Jobs {
        &self.open.as_ref().unwrap().1
    }

    fn apply(&mut self, snapshot: usize) {
        self.model.rules = snapshots().swap_remove(snapshot);
        self.jobs().set_rules(self.model.rules.clone());
        let failed = self.jobs().fail_forbidden(self.now).wait().unwrap();
        assert_eq!(failed, self.model.fail_forbidden(self.now));
        assert_eq!(self.jobs().fail_forbidden(self.now).wait().unwrap(), 0);
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
            self.ledger.accepted(job.id);
        }
        if self.ledger.ended.contains_key(&job.id) {
            assert!(matches!(answer, Accepted::Duplicate | Accepted::Conflict), "{answer:?}: {job:?}");
        }
        self.offered.insert(number, job);
    }

    fn lease(&mut self) {
        let leased = match self.jobs().lease(None, None, self.now).wait().unwrap() {
            Lease::Job(leased) => Some((leased.job, leased.attempt)),
            Lease::Empty => None,
            Lease::Unreadable(tampered) => panic!("{tampered}"),
        };
        assert_eq!(leased, self.model.lease(self.now));
        if let Some((job, attempt)) = leased {
            self.ledger.leased(&job, attempt, self.now);
        }
    }

    fn reopen(&mut self) {
        // The volume is free when it and the rooms made from it are gone.
        self.open = None;
        let volume = open_on(&self.disk);
        let jobs = volume.jobs(&VOLUME_KEY);
        jobs.set_rules(self.model.rules.clone());
        self.open = Some((volume, jobs));
    }

    fn step(&mut self, transition: &Transition) {
        let now = self.now;
        match *transition {
            Transition::Offer { number, ttl_ms, flaw, again } => self.offer(number, ttl_ms, flaw, again),
            Transition::Lease => self.lease(),
            Transition::Finish(number) => {
                let output = output(&format!("answer {number} at {now}"));
                let moved = self.jobs().finish(id(number), output.clone(), now).wait().unwrap();
                assert_eq!(moved, self.model.finish(id(number), &output, now));
            }
            Transition::Fail(number) => {
                let failure = Failure::new(FailureKind::Runtime, "out of memory");
                let moved = self.jobs().fail(id(number), failure.clone(), now).wait().unwrap();
                assert_eq!(moved, self.model.fail(id(number), &failure, now));
            }
            Transition::Cancel(number) => {
                let failure = Failure::new(FailureKind::Cancelled, "cancelled");
                let moved = self.jobs().cancel(id(number), now).wait().unwrap();
                assert_eq!(moved, self.model.fail(id(number), &failure, now));
            }
            Transition::Release(number) => {
                let reason = ReleaseReason::RuntimeLost;
                let moved = self.jobs().release(id(number), reason, now).wait().unwrap();
                let wanted = self.model.running(id(number), now, |held| held.release(reason, now));
                assert_eq!(moved, wanted);
            }
            Transition::Acknowledge(number) => {
                let moved = self.jobs().acknowledge(id(number), now).wait().unwrap();
                assert_eq!(moved, self.model.acknowledge(id(number), now));
                if moved == Moved::Done {
                    self.ledger.ended(id(number), self.model.settled[&id(number)].job.expires_at);
                }
            }
            Transition::Expire => {
                let ended = self.jobs().expire(now).wait().unwrap();
                let ended: BTreeSet<_> = ended.into_iter().map(|expired| expired.job).collect();
                assert_eq!(ended, self.model.expire(now));
                for id in ended {
                    self.ledger.ended(id, self.model.settled[&id].job.expires_at);
                }
            }
            Transition::Reported(number) => {
                self.jobs().reported(vec![id(number)]).wait().unwrap();
                if let Some(settled) = self.model.settled.get_mut(&id(number)) {
                    settled.reported = true;
                }
            }
            Transition::Forget => {
                assert_eq!(self.jobs().forget(now).wait().unwrap(), self.model.forget(now));
                self.ledger.may_be_forgotten(now);
            }
            Transition::Restart => {
                assert_eq!(self.jobs().restart(now).wait().unwrap(), self.model.restart(now));
            }
            Transition::Reopen => self.reopen(),
            Transition::Apply(snapshot) => self.apply(snapshot),
            Transition::Advance(ms) => self.now = now.plus_ms(ms),
            Transition::GoBack(ms) => self.now = Timestamp::from_ms(now.ms() - ms),
        }
    }

    /// All that can be seen, with the model's and the ledger's eyes.
    fn check(&mut self) {
        let (jobs, model) = (&self.open.as_ref().unwrap().1, &self.model);
        let view = jobs.view();
        assert_eq!(view.tally().unwrap(), model.tally());
        assert_eq!(view.unreported().unwrap(), model.unreported());
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
        cases: 96,
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
