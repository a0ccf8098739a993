//! The plan: what is to be done now, a pure function of rules, facts and time.

use std::fmt;

use node_types::{
    Digest, Timestamp,
    inventory::ArtifactId,
    job::{Mode, ModelRef},
    trace::ReleaseReason,
    verify::{Term, Validity},
};

use super::rule::{Action, Class, Trigger, rule};
use crate::{
    clock::{Cutoff, Mark, Trust},
    inventory::HashFacts,
    jobs::{Dropped, JobFacts, JobRules, TRACES_BYTES_MAX},
    logs::{self, LogFacts},
    snapshot::InForce,
};

/// How long traces and log records are kept where no snapshot is in force: 7 days, in milliseconds.
pub const TTL_MS: u64 = 7 * 86_400_000;
/// After how long an artifact is measured again though nothing happened: 7 days, in milliseconds.
pub const MEASURE_MS: u64 = 7 * 86_400_000;

/// What rotation goes by: the snapshot in force, or the defaults where there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// What it says about jobs; none without a snapshot: then nothing is forbidden, as nothing is taken.
    pub jobs: Option<JobRules>,
    /// It passed its health check. Until then it may be taken back, and what was done under the one before it stays.
    pub confirmed: bool,
    /// How long it is in force.
    pub term: Option<Term>,
    /// How long a trace is kept, in milliseconds; [`TTL_MS`] without a snapshot.
    pub trace_ttl_ms: u64,
    /// Bytes of all traces; [`TRACES_BYTES_MAX`] unless the embedder sets another number.
    pub traces_bytes_max: u64,
    /// How long a log record is kept, in milliseconds; [`TTL_MS`] without a snapshot.
    pub log_ttl_ms: u64,
    /// Bytes of `logs.db`; [`logs::BYTES_MAX`] without a snapshot.
    pub logs_bytes_max: u64,
    /// After how long an artifact is measured again, in milliseconds: [`MEASURE_MS`].
    pub measure_ms: u64,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            jobs: None,
            confirmed: false,
            term: None,
            trace_ttl_ms: TTL_MS,
            traces_bytes_max: TRACES_BYTES_MAX,
            log_ttl_ms: TTL_MS,
            logs_bytes_max: logs::BYTES_MAX,
            measure_ms: MEASURE_MS,
        }
    }
}

impl Rules {
    /// The rules of the snapshot in force.
    #[must_use]
    pub fn of(current: Option<&InForce>) -> Self {
        let Some(current) = current else { return Self::default() };
        let document = current.config.document();
        let timings = &document.timings;
        Self {
            jobs: Some(JobRules::of(&current.config)),
            confirmed: current.good,
            term: Some(Term::of(document)),
            trace_ttl_ms: timings.trace_ttl_ms,
            log_ttl_ms: timings.log_ttl_ms,
            logs_bytes_max: document.limits.logs_bytes_max.max(logs::BYTES_MAX_LOWEST),
            ..Self::default()
        }
    }

    /// The digest of the snapshot in force.
    #[must_use]
    pub fn config(&self) -> Option<Digest> {
        self.jobs.as_ref().map(|jobs| jobs.config)
    }
}

/// What the plan decides by, as one look at each database found it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// What happened since the last plan; restarts and container updates, the rest shows in the data.
    pub since: Vec<Trigger>,
    /// Jobs and traces.
    pub jobs: JobFacts,
    /// Hashes.
    pub hashes: HashFacts,
    /// Logs; `None` where `logs.db` cannot be read.
    pub logs: Option<LogFacts>,
}

/// How far a snapshot is past its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Staleness {
    /// The next one should be asked for.
    Refresh,
    /// It is no longer valid, and stays in force until the grace ends.
    Stale,
    /// The grace has ended: no new jobs under it.
    GraceEnded,
}

/// What the store itself does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreStep {
    /// End jobs past their deadline; they are reported and counted.
    ExpireJobs {
        /// Deadlines up to here.
        deadlines: Cutoff,
        /// How many there are.
        jobs: u64,
    },
    /// Forget ended jobs whose remembrance is over.
    ForgetEnded {
        /// Remembered until here.
        until: Cutoff,
        /// How many there are.
        jobs: u64,
    },
    /// Fail waiting jobs that the snapshot in force does not allow.
    FailForbidden {
        /// Of this model.
        model: ModelRef,
        /// Asked for this.
        mode: Mode,
        /// How many there are; fewer where one that is released has had its last attempt.
        jobs: u64,
    },
    /// Put running jobs back in the queue, or fail them after their last attempt.
    ReleaseRunning {
        /// Why.
        reason: ReleaseReason,
        /// How many there are.
        jobs: u64,
    },
    /// Delete traces whose time to live has ended.
    DeleteTraces {
        /// Ended up to here.
        ended: Cutoff,
        /// How many there are, and how many of them are lost.
        traces: Dropped,
    },
    /// Delete traces of other snapshots that had their attempt to upload.
    DeleteTracesOfOthers {
        /// The snapshot in force.
        than: Digest,
        /// How many there are, and how many of them are lost.
        traces: Dropped,
    },
    /// Delete the oldest traces, those that the network has first.
    DropTraces {
        /// Until all take at most so many bytes.
        bytes_max: u64,
        /// Bytes that are over it.
        over: u64,
    },
    /// Expect the artifacts of the snapshot in force, and drop what it does not list.
    Expect {
        /// The snapshot in force.
        config: Digest,
    },
    /// Delete log records whose time to live has ended.
    DeleteLogs {
        /// Older than this.
        before: Cutoff,
        /// How many there are.
        records: u64,
        /// Those of them that are in no batch: counted as lost.
        unsent: u64,
    },
    /// Drop log records, lowest level and oldest first, and count them.
    DropLogs {
        /// The limit of `logs.db` in bytes.
        bytes_max: u64,
        /// Bytes that go.
        over: u64,
    },
}

/// What the Agent does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentStep {
    /// Ask the network for its time: until it confirms, nothing is ended by time.
    ConfirmTime {
        /// How far the clock jumped, in milliseconds.
        ahead_ms: u64,
    },
    /// Tell the network which jobs expired ([`JobsView::unreported`](crate::jobs::JobsView::unreported)).
    ReportExpired {
        /// How many.
        jobs: u64,
    },
    /// Send answers and failures again ([`Jobs::outbox`](crate::jobs::Jobs::outbox)).
    SendAnswers {
        /// How many.
        jobs: u64,
    },
    /// Tell the network that no jobs are taken: the store refuses them.
    SayFull {
        /// Jobs held.
        jobs: u64,
        /// Bytes held.
        bytes: u64,
    },
    /// Send the traces of other snapshots once
    /// ([`JobsView::traces_to_upload`](crate::jobs::JobsView::traces_to_upload)), then note it: they are deleted after that.
    UploadTraces {
        /// How many.
        traces: u64,
    },
    /// Say that the snapshot is past its time, and ask for the next one.
    SayStale {
        /// How far.
        staleness: Staleness,
        /// Since when.
        since: Timestamp,
    },
    /// Verify digest and signatures of the snapshot in force again.
    VerifySnapshot {
        /// Its digest.
        config: Digest,
    },
    /// Measure an artifact again.
    Measure {
        /// Which.
        artifact: ArtifactId,
    },
    /// Check the seals of all expected artifacts; measure where one does not hold.
    CheckSeals {
        /// How many artifacts.
        artifacts: u64,
    },
    /// Send logs soon.
    FlushLogs {
        /// Records in no batch.
        records: u64,
        /// Batches that are not acknowledged.
        batches: u64,
    },
    /// Say that `logs.db` cannot be read: it is not rotated.
    SayLogsUnreadable,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// By the store, when it rotates.
    Store(StoreStep),
    /// By the Agent.
    Agent(AgentStep),
}

impl StoreStep {
    /// The class of data that it changes.
    #[must_use]
    pub const fn class(&self) -> Class {
        match self {
            Self::ExpireJobs { .. }
            | Self::ForgetEnded { .. }
            | Self::FailForbidden { .. }
            | Self::ReleaseRunning { .. } => Class::Jobs,
            Self::DeleteTraces { .. } | Self::DeleteTracesOfOthers { .. } | Self::DropTraces { .. } => {
                Class::Traces
            }
            Self::Expect { .. } => Class::Hashes,
            Self::DeleteLogs { .. } | Self::DropLogs { .. } => Class::Logs,
        }
    }
}

impl fmt::Display for StoreStep {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ExpireJobs { deadlines, jobs } => {
                write!(out, "expire {jobs} jobs with a deadline up to {}", deadlines.at())
            }
            Self::ForgetEnded { until, jobs } => {
                write!(out, "forget {jobs} ended jobs that were to be remembered until {}", until.at())
            }
            Self::FailForbidden { model, mode, jobs } => {
                write!(out, "fail {jobs} jobs for {mode:?} of {model}, which the snapshot forbids")
            }
            Self::ReleaseRunning { reason, jobs } => {
                write!(out, "put {jobs} running jobs back in the queue ({reason:?})")
            }
            Self::DeleteTraces { ended, traces: Dropped { traces, lost } } => {
                write!(
                    out,
                    "delete {traces} traces of jobs that ended by {}; {lost} were not sent",
                    ended.at()
                )
            }
            Self::DeleteTracesOfOthers { than, traces: Dropped { traces, lost } } => {
                write!(out, "delete {traces} traces of other snapshots than {than}; {lost} did not arrive")
            }
            Self::DropTraces { bytes_max, over } => {
                write!(out, "delete the oldest traces: {over} bytes are over the limit of {bytes_max}")
            }
            Self::Expect { config } => write!(out, "expect the artifacts of snapshot {config}"),
            Self::DeleteLogs { before, records, unsent } => {
                write!(out, "delete {records} log records older than {}; {unsent} were not sent", before.at())
            }
            Self::DropLogs { bytes_max, over } => {
                write!(
                    out,
                    "drop {over} bytes of log records for the limit of {bytes_max}, lowest and oldest first"
                )
            }
        }
    }
}

impl fmt::Display for AgentStep {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ConfirmTime { ahead_ms } => write!(
                out,
                "ask the network for its time: the clock jumped ahead by {ahead_ms} ms, so nothing is ended by time"
            ),
            Self::ReportExpired { jobs } => write!(out, "report {jobs} expired jobs"),
            Self::SendAnswers { jobs } => write!(out, "send {jobs} answers again"),
            Self::SayFull { jobs, bytes } => {
                write!(out, "say that no jobs are taken: {jobs} jobs and {bytes} bytes are held")
            }
            Self::UploadTraces { traces } => write!(out, "send {traces} traces of other snapshots once"),
            Self::SayStale { staleness, since } => match staleness {
                Staleness::Refresh => write!(out, "ask for the next snapshot, due since {since}"),
                Staleness::Stale => write!(out, "say that the snapshot is stale since {since}"),
                Staleness::GraceEnded => write!(out, "end the snapshot, whose grace ended at {since}"),
            },
            Self::VerifySnapshot { config } => write!(out, "verify snapshot {config} again"),
            Self::Measure { artifact } => write!(out, "measure {artifact} again"),
            Self::CheckSeals { artifacts } => write!(out, "check the seals of {artifacts} artifacts"),
            Self::FlushLogs { records, batches } => {
                write!(out, "send {records} log records and {batches} batches soon")
            }
            Self::SayLogsUnreadable => write!(out, "say that the logs cannot be read and are not rotated"),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(step) => step.fmt(out),
            Self::Agent(step) => step.fmt(out),
        }
    }
}

/// What is to be done now, class by class in the table's order.
///
/// Nothing is in it that has nothing to do, and while time is held nothing that ends anything by time.
#[must_use]
pub fn plan(rules: &Rules, facts: &Facts, now: &Mark) -> Vec<Step> {
    let mut steps = Vec::new();
    if let Trust::Held { ahead_ms } = now.trust {
        steps.push(Step::Agent(AgentStep::ConfirmTime { ahead_ms }));
    }
    for class in Class::ALL {
        // What was interrupted is put back first, so that the rest judges it too.
        for trigger in [
            Trigger::Restart,
            Trigger::ContainerUpdate,
            Trigger::TtlEnds,
            Trigger::NewSnapshot,
            Trigger::LimitReached,
        ] {
            let happened = match trigger {
                // What is left of these shows in the facts.
                Trigger::TtlEnds | Trigger::NewSnapshot | Trigger::LimitReached => true,
                Trigger::Restart | Trigger::ContainerUpdate => facts.since.contains(&trigger),
            };
            if happened {
                steps.extend(cell(rule(class, trigger), trigger, rules, facts, now));
            }
        }
    }
    steps
}

fn counted(count: u64, step: impl FnOnce(u64) -> Step) -> Vec<Step> {
    if count == 0 { Vec::new() } else { vec![step(count)] }
}

/// What one cell of the table comes to.
fn cell(action: Action, trigger: Trigger, rules: &Rules, facts: &Facts, now: &Mark) -> Vec<Step> {
    use AgentStep as Agent;
    use StoreStep as Store;
    let jobs = &facts.jobs;
    match action {
        // The swap itself is the transaction that applies a snapshot.
        Action::Keep | Action::SwapKeepPrevious | Action::NotApplicable => Vec::new(),
        Action::ExpireReportDelete => {
            let mut steps = Vec::new();
            if let Some(moment) = now.cutoff(0) {
                steps.extend(counted(jobs.past_deadline, |jobs| {
                    Step::Store(Store::ExpireJobs { deadlines: moment, jobs })
                }));
                steps.extend(counted(jobs.forgettable, |jobs| {
                    Step::Store(Store::ForgetEnded { until: moment, jobs })
                }));
            }
            steps.extend(counted(jobs.unreported, |jobs| Step::Agent(Agent::ReportExpired { jobs })));
            steps
        }
        Action::FailForbidden => match &rules.jobs {
            Some(allowed) => {
                let released =
                    facts.since.iter().any(|it| rule(Class::Jobs, *it) == Action::ReleaseAndResend);
                let forbidden = jobs.unanswered.iter().filter(|it| !allowed.allows(&it.model, it.mode));
                let steps = forbidden.flat_map(|it| {
                    counted(it.queued + if released { it.running } else { 0 }, |jobs| {
                        Step::Store(Store::FailForbidden { model: it.model.clone(), mode: it.mode, jobs })
                    })
                });
                steps.collect()
            }
            None => Vec::new(),
        },
        Action::ReleaseAndResend => {
            let reason = match trigger {
                Trigger::ContainerUpdate => ReleaseReason::RuntimeLost,
                Trigger::Restart | Trigger::TtlEnds | Trigger::NewSnapshot | Trigger::LimitReached => {
                    ReleaseReason::Restart
                }
            };
            let mut steps = counted(jobs.running, |jobs| Step::Store(Store::ReleaseRunning { reason, jobs }));
            steps.extend(counted(jobs.unsent, |jobs| Step::Agent(Agent::SendAnswers { jobs })));
            steps
        }
        Action::RefuseNew => match &rules.jobs {
            Some(limits) if jobs.tally.jobs >= limits.jobs_max || jobs.tally.bytes >= limits.bytes_max => {
                vec![Step::Agent(Agent::SayFull { jobs: jobs.tally.jobs, bytes: jobs.tally.bytes })]
            }
            Some(_) | None => Vec::new(),
        },
        Action::Delete => match now.cutoff(rules.trace_ttl_ms) {
            Some(ended) => counted(jobs.traces_past_ttl.traces, |_| {
                Step::Store(Store::DeleteTraces { ended, traces: jobs.traces_past_ttl })
            }),
            None => Vec::new(),
        },
        Action::UploadOnceThenDeleteEarlier => {
            let Some(than) = rules.config() else { return Vec::new() };
            let mut steps =
                counted(jobs.traces_untried_of_others, |traces| Step::Agent(Agent::UploadTraces { traces }));
            if rules.confirmed {
                steps.extend(counted(jobs.traces_of_others.traces, |_| {
                    Step::Store(Store::DeleteTracesOfOthers { than, traces: jobs.traces_of_others })
                }));
            }
            steps
        }
        Action::DeleteOldestUploadedFirst => {
            let bytes_max = rules.traces_bytes_max;
            counted(jobs.tally.trace_bytes.saturating_sub(bytes_max), |over| {
                Step::Store(Store::DropTraces { bytes_max, over })
            })
        }
        Action::MarkStale => match (rules.term, now.trust) {
            (Some(term), Trust::Trusted) => staleness(term, now.now)
                .map(|(staleness, since)| Step::Agent(Agent::SayStale { staleness, since }))
                .into_iter()
                .collect(),
            (Some(_), Trust::Held { .. }) | (None, _) => Vec::new(),
        },
        Action::VerifyAgain => {
            let verify = |config| Step::Agent(Agent::VerifySnapshot { config });
            rules.config().map(verify).into_iter().collect()
        }
        Action::Measure => match now.trust {
            Trust::Trusted => measure(&facts.hashes.due),
            Trust::Held { .. } => Vec::new(),
        },
        Action::MeasureContainer => measure(&facts.hashes.containers),
        Action::DropUnlistedExpectNew => match rules.config() {
            Some(config) if facts.hashes.expected_by != Some(config) => {
                vec![Step::Store(Store::Expect { config })]
            }
            Some(_) | None => Vec::new(),
        },
        Action::CheckSeals => {
            counted(facts.hashes.expected, |artifacts| Step::Agent(Agent::CheckSeals { artifacts }))
        }
        Action::DeleteCountUnsent => match (facts.logs, now.cutoff(rules.log_ttl_ms)) {
            (None, _) => vec![Step::Agent(Agent::SayLogsUnreadable)],
            (Some(logs), Some(before)) => counted(logs.past_ttl, |records| {
                Step::Store(Store::DeleteLogs { before, records, unsent: logs.unsent })
            }),
            (Some(_), None) => Vec::new(),
        },
        Action::FlushSoon => match facts.logs {
            Some(LogFacts { unsealed: records, batches, .. }) => {
                counted(records + batches, |_| Step::Agent(Agent::FlushLogs { records, batches }))
            }
            None => Vec::new(),
        },
        Action::DropLowestOldestCounted => {
            let bytes_max = rules.logs_bytes_max;
            let over = facts.logs.map_or(0, |logs| logs::plan::over(logs.used_bytes, bytes_max));
            counted(over, |over| Step::Store(Store::DropLogs { bytes_max, over }))
        }
    }
}

fn measure(artifacts: &[ArtifactId]) -> Vec<Step> {
    let measure = |artifact: &ArtifactId| Step::Agent(AgentStep::Measure { artifact: artifact.clone() });
    artifacts.iter().map(measure).collect()
}

fn staleness(term: Term, now: Timestamp) -> Option<(Staleness, Timestamp)> {
    match term.at(now) {
        Validity::Fresh => None,
        Validity::RefreshDue => Some((Staleness::Refresh, term.refresh_by)),
        Validity::Stale { .. } => Some((Staleness::Stale, term.valid_until)),
        Validity::OutOfForce => Some((Staleness::GraceEnded, term.grace_until)),
    }
}
