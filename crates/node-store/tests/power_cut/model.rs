//! What a volume must hold: a plain model that takes the same steps as the store.
//!
//! A step is all or nothing, so after a power cut the store must stand where the model stood before the
//! step in flight or after it. Only logs may be behind ([`Logs::may_be`]).

use std::collections::BTreeMap;

use node_store::{
    clock::{self, Mark},
    jobs::{Accepted, Moved, Rejection},
    snapshot::Applied,
};
use node_types::{
    NodeId, Timestamp, VolumeId,
    job::FailureKind,
    trace::{Outcome, Standing},
};

use crate::workload::{
    Answer, Call, DEADLINE_STEP_MS, FIRST_DEADLINE, NOW, Op, SEQUENCE_BLOCK, mark, model_of, reading,
};

/// How often a job may be started.
pub const ATTEMPTS_MAX: u16 = 2;

/// A job that was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    pub now: Result<Standing, Outcome>,
    pub failure: Option<FailureKind>,
    pub attempt: u16,
    pub reported: bool,
}

impl Job {
    /// As it is when it was accepted.
    pub const QUEUED: Self = Self { now: Ok(Standing::Queued), failure: None, attempt: 0, reported: false };

    fn held(&self) -> bool {
        self.now.is_ok()
    }

    fn fail(&mut self, kind: FailureKind) {
        (self.now, self.failure) = (Ok(Standing::Failed), Some(kind));
    }
}

/// What `logs.db` holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Logs {
    /// Records by number, oldest first.
    pub records: Vec<u64>,
    /// Batches by number, each with the last record in it.
    pub batches: Vec<(u64, u64)>,
}

/// Everything that was answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// Not known before the creation was answered.
    pub identity: Option<(NodeId, VolumeId)>,
    pub resealed: bool,
    pub now: Timestamp,
    pub offered: u64,
    pub jobs: BTreeMap<u64, Job>,
    /// Jobs in the order in which they ended.
    pub ended: Vec<u64>,
    pub keyset: Option<u64>,
    pub floor: u64,
    /// Version, and whether it passed its health check.
    pub current: Option<(u64, bool)>,
    pub previous: Option<u64>,
    pub sequence: u64,
    pub account: Option<u64>,
    /// Why a model failed.
    pub reason: Option<u64>,
    pub clock: Option<Mark>,
    /// The latest moment at which a job was taken or ended.
    pub high_water: Timestamp,
    pub records_written: u64,
    pub batches_sealed: u64,
    /// The last record that is in a batch.
    pub sealed: u64,
    pub logs: Logs,
    /// What the logs were since the last moment at which they were surely on disk: a power cut may take
    /// the last moment of logs.
    pub logs_since: Vec<Logs>,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            identity: None,
            resealed: false,
            now: NOW,
            offered: 0,
            jobs: BTreeMap::new(),
            ended: Vec::new(),
            keyset: None,
            floor: 0,
            current: None,
            previous: None,
            sequence: 1,
            account: None,
            reason: None,
            clock: None,
            high_water: Timestamp::EPOCH,
            records_written: 0,
            batches_sealed: 0,
            sealed: 0,
            logs: Logs::default(),
            logs_since: vec![Logs::default()],
        }
    }
}

impl Model {
    fn first(&self, standings: &[Standing]) -> Option<u64> {
        let mut found = self.jobs.iter().filter(|(_, job)| job.now.is_ok_and(|it| standings.contains(&it)));
        found.next().map(|(number, _)| *number)
    }

    /// The concrete call that an operation is here, or nothing where it has nothing to act on.
    pub fn choose(&self, op: Op) -> Option<Call> {
        use Standing::{Failed, Finished, Queued, Running};
        Some(match op {
            Op::Accept => Call::Accept(self.offered + 1),
            Op::Lease => self.first(&[Queued]).map(|_| Call::Lease)?,
            Op::Finish => Call::Finish(self.first(&[Running])?),
            Op::Fail => Call::Fail(self.first(&[Running])?),
            Op::Cancel => Call::Cancel(self.first(&[Queued])?),
            Op::Acknowledge => Call::Acknowledge(self.first(&[Finished, Failed])?),
            Op::Expire => Call::Expire(self.first(&[Queued, Running, Finished, Failed])?),
            Op::Report => {
                let unreported = self.jobs.iter().find(|(_, job)| !job.held() && !job.reported);
                Call::Report(*unreported?.0)
            }
            Op::Apply => Call::Apply(self.floor + 1),
            Op::Confirm => self.current.filter(|(_, good)| !good).map(|_| Call::Confirm)?,
            Op::RollBack => self.previous.map(|_| Call::RollBack)?,
            Op::RotateKeyset => Call::RotateKeyset(self.keyset? + 1),
            Op::Reserve => Call::Reserve,
            Op::Link => Call::Link(self.account.map_or(1, |link| link + 1)),
            Op::KeepMark => Call::KeepMark(self.clock.as_ref().map_or(0, |mark| mark.now.since_ms(NOW)) + 1),
            Op::SetState => Call::SetState(self.reason.map_or(1, |reason| reason + 1)),
            Op::Log => Call::Log(self.records_written + 1),
            Op::Seal => {
                let unsealed = self.logs.records.iter().any(|record| *record > self.sealed);
                unsealed.then_some(Call::Seal)?
            }
            Op::AcknowledgeLogs => Call::AcknowledgeLogs(self.logs.batches.last()?.0),
            Op::Erase => Call::Erase,
            Op::Restart => Call::Restart,
            Op::Reseal => (!self.resealed).then_some(Call::Reseal)?,
        })
    }

    /// What a call may leave that is not done to its end, beside nothing and all of it: the version floor has
    /// a second copy that is raised first, and opening the volume raises the other one.
    pub fn partly(&self, call: &Call) -> Option<Self> {
        let Call::Apply(version) = call else { return None };
        Some(Self { floor: self.floor.max(*version), ..self.clone() })
    }

    /// Takes a step; says what the store must answer.
    pub fn step(&mut self, call: &Call) -> Answer {
        self.step_at(call, self.now)
    }

    /// The same, where the caller's time is not this model's.
    pub fn step_at(&mut self, call: &Call, now: Timestamp) -> Answer {
        match call {
            Call::Create { .. } => {
                self.judge_time(now);
                Answer::Created
            }
            Call::Pin => {
                self.keyset = Some(1);
                Answer::Done
            }
            Call::Accept(number) => self.accept(*number, now),
            Call::Lease => {
                let found = self.first(&[Standing::Queued]);
                if let Some(job) = found.and_then(|number| self.jobs.get_mut(&number)) {
                    (job.now, job.attempt) = (Ok(Standing::Running), job.attempt + 1);
                }
                Answer::Leased(found)
            }
            Call::Finish(number) => self.moved(*number, |job| job.now = Ok(Standing::Finished)),
            Call::Fail(number) => self.moved(*number, |job| job.fail(FailureKind::Runtime)),
            Call::Cancel(number) => self.moved(*number, |job| job.fail(FailureKind::Cancelled)),
            Call::Acknowledge(number) => {
                self.ended.push(*number);
                self.high_water = self.high_water.max(now);
                self.moved(*number, |job| {
                    let finished = job.now == Ok(Standing::Finished);
                    job.now = Err(if finished { Outcome::Answered } else { Outcome::Failed });
                    job.reported = true;
                })
            }
            Call::Expire(number) => {
                self.now = deadline(*number);
                let mut expired = Vec::new();
                for (number, job) in self.jobs.iter_mut().filter(|(_, job)| job.held()) {
                    if deadline(*number) <= self.now {
                        job.now = Err(Outcome::Expired);
                        expired.push(*number);
                    }
                }
                if !expired.is_empty() {
                    self.high_water = self.high_water.max(self.now);
                }
                self.ended.extend(&expired);
                Answer::Expired(expired)
            }
            Call::Report(number) => {
                self.moved(*number, |job| job.reported = true);
                Answer::Done
            }
            Call::Apply(version) => {
                if self.current.is_some_and(|(current, _)| current == *version) {
                    self.fail_forbidden();
                    return Answer::Applied(Applied::Already);
                }
                if let Some((current, true)) = self.current {
                    self.previous = Some(current);
                }
                (self.current, self.floor) = (Some((*version, false)), *version);
                self.fail_forbidden();
                Answer::Applied(Applied::New)
            }
            Call::Confirm => {
                self.current = self.current.map(|(version, _)| (version, true));
                Answer::Done
            }
            Call::RollBack => {
                self.current = self.previous.take().map(|version| (version, true));
                self.fail_forbidden();
                Answer::Done
            }
            Call::RotateKeyset(version) => {
                self.keyset = Some(*version);
                Answer::Done
            }
            Call::Reserve => {
                let start = self.sequence;
                self.sequence += u64::from(SEQUENCE_BLOCK);
                Answer::Reserved(start..self.sequence)
            }
            Call::Link(number) => {
                self.account = Some(*number);
                Answer::Done
            }
            Call::KeepMark(number) => {
                let mark = mark(*number);
                if self.clock.as_ref().is_none_or(|held| held.now <= mark.now) {
                    self.clock = Some(mark);
                }
                Answer::Done
            }
            Call::SetState(number) => {
                self.reason = Some(*number);
                Answer::Done
            }
            Call::Log(number) => {
                self.records_written = *number;
                self.change_logs(|logs| logs.records.push(*number));
                Answer::Done
            }
            Call::Seal => {
                self.sealed = self.logs.records.last().copied().unwrap_or(self.sealed);
                self.batches_sealed += 1;
                let batch = (self.batches_sealed, self.sealed);
                self.change_logs(|logs| logs.batches.push(batch));
                // A batch that was handed out is on disk: another one must never have its number.
                self.logs_since = vec![self.logs.clone()];
                Answer::Sealed(self.batches_sealed)
            }
            Call::AcknowledgeLogs(seq) => {
                self.change_logs(|logs| {
                    let last = logs.batches.iter().filter(|(it, _)| it <= seq).map(|(_, last)| *last).max();
                    logs.batches.retain(|(it, _)| it > seq);
                    logs.records.retain(|record| Some(*record) > last);
                });
                Answer::Done
            }
            Call::Erase => {
                self.logs_since = vec![self.logs.clone()];
                Answer::Done
            }
            Call::Restart => {
                self.reopen(now);
                self.logs_since = vec![self.logs.clone()];
                Answer::Done
            }
            Call::Reseal => {
                self.resealed = true;
                Answer::Done
            }
        }
    }

    fn change_logs(&mut self, change: impl FnOnce(&mut Logs)) {
        change(&mut self.logs);
        self.logs_since.push(self.logs.clone());
    }

    fn moved(&mut self, number: u64, change: impl FnOnce(&mut Job)) -> Answer {
        match self.jobs.get_mut(&number) {
            Some(job) => {
                change(job);
                Answer::Moved(Moved::Done)
            }
            None => Answer::Moved(Moved::Unknown),
        }
    }

    fn accept(&mut self, number: u64, now: Timestamp) -> Answer {
        self.offered = self.offered.max(number);
        if self.jobs.contains_key(&number) {
            return Answer::Accepted(Accepted::Duplicate);
        }
        if self.current.is_none() {
            return Answer::Accepted(Accepted::Rejected(Rejection::NoConfiguration));
        }
        if !self.allowed(number) {
            return Answer::Accepted(Accepted::Rejected(Rejection::UnknownModel(model_of(number))));
        }
        self.jobs.insert(number, Job::QUEUED);
        self.high_water = self.high_water.max(now);
        Answer::Accepted(Accepted::New)
    }

    /// Snapshots of even versions list the model of odd jobs alone.
    fn allowed(&self, number: u64) -> bool {
        number % 2 == 1 || self.current.is_some_and(|(version, _)| version % 2 == 1)
    }

    fn fail_forbidden(&mut self) {
        let Self { jobs, current, .. } = self;
        if current.is_some_and(|(version, _)| version % 2 == 0) {
            let queued = |job: &Job| job.now == Ok(Standing::Queued);
            for (_, job) in jobs.iter_mut().filter(|(number, job)| **number % 2 == 0 && queued(job)) {
                job.fail(FailureKind::Forbidden);
            }
        }
    }

    fn judge_time(&mut self, now: Timestamp) {
        self.clock = Some(clock::known(self.clock.take(), self.high_water, &reading(now)));
    }

    /// What opening the volume does.
    pub fn reopen(&mut self, now: Timestamp) {
        self.judge_time(now);
        for job in self.jobs.values_mut().filter(|job| job.now == Ok(Standing::Running)) {
            if job.attempt < ATTEMPTS_MAX {
                job.now = Ok(Standing::Queued);
            } else {
                job.fail(FailureKind::AttemptsExhausted);
            }
        }
        self.fail_forbidden();
    }
}

/// When a job's time ends: later for each.
pub fn deadline(number: u64) -> Timestamp {
    FIRST_DEADLINE.plus_ms(number * DEADLINE_STEP_MS)
}
