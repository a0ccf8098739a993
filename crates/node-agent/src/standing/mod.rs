//! How the node stands: the one report. `status`, `status --json`, the page, `/v1/status` and the heartbeat are made of it.
//!
//! [`gather()`] reads it from the store's view, and from a running Agent what only that knows ([`Live`]). What follows from the
//! facts is decided by pure functions: [`advice`] (is it well, and what to do), [`changes`] (what a snapshot changed).
//!
//! Times are RFC 3339 as JSON. Fields may be added; readers pass over those that they do not know.

pub mod advice;
pub mod changes;
mod gather;

use std::{collections::BTreeMap, fmt, path::PathBuf};

use node_store::keys::Protection;
use node_types::{
    Digest, JobId, Network, Timestamp,
    hardware::Hardware,
    job::{FailureKind, Mode},
    log::Level,
    models::ModelState,
    protocol::{DRIFTED_MAX, Heartbeat, JobCounts, Readiness},
    trace::{Outcome, Step, Trace},
    verify::Validity,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::update;

pub(crate) use gather::storage;
pub use gather::{Around, StandingError, as_it_is, gather, of_agent};

/// Jobs that ended lately which a report holds, the newest.
pub const LATELY_MAX: u32 = 60;
/// Models that a report names; `models list` shows all.
pub const MODELS_MAX: usize = 100;
/// How long damage and loss is told after the network knows of it: 7 days in milliseconds.
pub const INCIDENT_MS: u64 = 7 * 86_400_000;
/// Jobs at work that a report names.
pub const AT_WORK_MAX: usize = 64;

/// A moment, as RFC 3339.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub Timestamp);

impl fmt::Display for Moment {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let text = String::deserialize(input)?;
        let at = Timestamp::from_rfc3339(&text);
        at.map(Self).ok_or_else(|| serde::de::Error::custom(format!("{text:?} is no moment of RFC 3339")))
    }
}

/// Where a report comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// From the Agent that runs.
    Agent,
    /// From what stands on the disk.
    Volume,
}

/// Whether the node is well, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// It does what it is there for.
    Well,
    /// It works, and something is to be looked at.
    Attention,
    /// It takes no jobs, or cannot go on like this.
    Failing,
    /// No Agent runs.
    Stopped,
}

impl Health {
    /// As it is written: `attention`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Well => "well",
            Self::Attention => "attention",
            Self::Failing => "failing",
            Self::Stopped => "stopped",
        }
    }
}

/// How a node stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    /// Its network.
    pub network: Network,
    /// Who it is; nothing where its key is missing.
    #[serde(flatten)]
    pub identity: Option<Identity>,
    /// Where this comes from.
    pub source: Source,
    /// Whether it is well.
    pub health: Health,
    /// What the operator should do, the most urgent first.
    pub next: Vec<String>,
    /// The volume's folder.
    pub folder: PathBuf,
    /// The Agent.
    pub agent: Agent,
    /// What time it is, by all that the volume knows.
    pub time: Moment,
    /// The clock jumped: nothing is ended by time until the network confirms it.
    pub time_held: bool,
    /// The contact with the network; known to a running Agent alone.
    pub connection: Option<Connection>,
    /// The snapshot in force.
    pub snapshot: Option<Snapshot>,
    /// The highest version that was ever in force: no lower one is taken.
    pub floor_version: u64,
    /// The version of the network's keys.
    pub keyset_version: Option<u64>,
    /// Stored snapshots and keysets that do not verify any more.
    pub unverifiable: u64,
    /// The release of the Agent that the network approves in place of this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<Release>,
    /// Since when jobs of a restored backup wait for the network's word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence: Option<Fence>,
    /// Where the node was moved to: no Agent runs on this volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moved: Option<Moved>,
    /// That the last start ended because this node runs twice; nothing where an Agent runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub twice: Option<Twice>,
    /// The files of keys that are gone, as in `node.key`: what runs has them in memory alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys_missing: Vec<String>,
    /// The account that it works for.
    pub account: Option<Account>,
    /// Its jobs.
    pub jobs: Jobs,
    /// The traces of ended jobs.
    pub traces: Traces,
    /// Its log.
    pub logs: Logs,
    /// Its models.
    pub models: Models,
    /// What runs the models.
    pub runtime: Option<Runtime>,
    /// Artifacts by state.
    pub artifacts: BTreeMap<String, u64>,
    /// The artifacts that were changed or are gone since they were installed, as the Agent noted it last; at most 64.
    pub drifted: Vec<String>,
    /// What its data take, by class.
    pub storage: Vec<Storage>,
    /// What was found damaged or missing and has not been reported to the network.
    pub incidents: Vec<Incident>,
    /// The newest warning or error that the network does not have yet.
    pub trouble: Option<Trouble>,
    /// The machine.
    pub hardware: Option<Hardware>,
}

/// Who a node is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its ID on its network.
    pub node: String,
    /// The address of its key.
    pub address: String,
    /// What protects its key on disk.
    pub protection: Protection,
}

/// The Agent of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agent {
    /// It runs.
    pub running: bool,
    /// Its process.
    pub pid: Option<u32>,
    /// Its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// This start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<String>,
    /// When this start began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Moment>,
    /// Whether it takes jobs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readiness: Option<Readiness>,
    /// Where its page is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page: Option<String>,
}

/// The contact with the network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// The network's base URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The network is reached.
    pub connected: bool,
    /// Since when it is, or is not.
    pub since: Moment,
    /// Why it is not.
    pub why: Option<String>,
    /// Outages of this start that are over, oldest first.
    pub outages: Vec<Outage>,
}

/// A time without the network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outage {
    /// When it began.
    pub from: Moment,
    /// When it was over.
    pub to: Moment,
    /// Why it began.
    pub why: String,
}

/// Where a snapshot stands in its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Term {
    /// Nothing to do.
    Fresh,
    /// The next one is asked for.
    RefreshDue,
    /// Past its time, and in force until the offline grace ends.
    Stale,
    /// No job is taken under it any more.
    OutOfForce,
}

impl Term {
    /// In words.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::RefreshDue => "refresh due",
            Self::Stale => "stale",
            Self::OutOfForce => "out of force",
        }
    }
}

impl From<Validity> for Term {
    fn from(validity: Validity) -> Self {
        match validity {
            Validity::Fresh => Self::Fresh,
            Validity::RefreshDue => Self::RefreshDue,
            Validity::Stale { .. } => Self::Stale,
            Validity::OutOfForce => Self::OutOfForce,
        }
    }
}

/// A snapshot in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its version.
    pub version: u64,
    /// Its digest.
    pub digest: Digest,
    /// When the network made it.
    pub issued_at: Moment,
    /// When it was applied.
    pub applied_at: Moment,
    /// It passed its health check.
    pub good: bool,
    /// Where it stands in its time.
    pub validity: Term,
    /// When the next one is asked for.
    pub refresh_by: Moment,
    /// From when it is stale.
    pub valid_until: Moment,
    /// The end of the offline grace.
    pub grace_until: Moment,
    /// The version before it, if it is kept.
    pub previous_version: Option<u64>,
    /// The version after it, where that failed its health check and was taken back.
    pub taken_back_version: Option<u64>,
    /// What it changed, in words; nothing where the one before it is not known.
    pub changes: Option<Vec<String>>,
}

impl Snapshot {
    /// In one line.
    #[must_use]
    pub fn line(&self) -> String {
        let checked = if self.good { "" } else { ", its health check is not passed yet" };
        let taken_back = self
            .taken_back_version
            .map(|failed| format!("; version {failed} failed its health check and was taken back"))
            .unwrap_or_default();
        let (version, validity, until) = (self.version, self.validity.words(), self.valid_until);
        format!("version {version}, {validity}, valid until {until}{checked}{taken_back}")
    }
}

/// A release of the Agent that the network approves, and this one is not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// The newest that is approved.
    pub version: String,
    /// The digest of its program.
    pub digest: Digest,
    /// The one that is here is approved as well.
    pub approved: bool,
}

impl Release {
    /// What follows from the snapshot; nothing where this release will do.
    #[must_use]
    pub fn of(advice: update::Advice) -> Option<Self> {
        let (release, approved) = match advice {
            update::Advice::Silent | update::Advice::Current => return None,
            update::Advice::Newer { release, approved } => (release, approved),
            update::Advice::Withdrawn { release } => (release, false),
        };
        Some(Self { version: release.version, digest: release.digest, approved })
    }
}

/// The fence of a restored backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    /// When the backup was made.
    pub backed_up_at: Moment,
    /// When it was restored.
    pub restored_at: Moment,
    /// Jobs that wait for the network's word.
    pub jobs: u64,
}

/// That a node was moved away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// When.
    pub at: Moment,
    /// The archive that it was moved into.
    pub archive: String,
}

/// That the network ended a start, because another one of this node runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Twice {
    /// When.
    pub at: Moment,
    /// What the network said of it.
    pub why: String,
}

/// The account that a node works for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// A wallet's address, or of an e-mail address the first letter and the domain: every user of the machine may look at the
    /// page, and `account show` has it whole.
    pub account: String,
    /// `wallet` or `email`.
    pub kind: String,
    /// When it was linked.
    pub linked_at: Moment,
    /// What its owner gave as proof.
    pub proof: String,
}

/// The jobs of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jobs {
    /// Waiting for the runtime.
    pub queued: u64,
    /// With the runtime.
    pub running: u64,
    /// Answers and failures that the network has not acknowledged.
    pub unsent: u64,
    /// All that are held.
    pub held: u64,
    /// Bytes that they take.
    pub bytes: u64,
    /// Jobs that ever expired in this volume.
    pub expired: u64,
    /// Those that the network was not told of; one look counts up to 256.
    pub expired_unreported: u64,
    /// Those that are with the runtime now, at most [`AT_WORK_MAX`], the longest first.
    #[serde(default)]
    pub at_work: Vec<AtWork>,
    /// Those that ended lately, the newest first, at most [`LATELY_MAX`].
    #[serde(default)]
    pub lately: Vec<Ended>,
}

/// A job that is with the runtime.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AtWork {
    /// The job.
    pub job: JobId,
    /// The model that it asks for.
    pub model: String,
    /// How it asks.
    pub mode: Option<Mode>,
    /// Which attempt this is, from 1.
    pub attempt: u16,
    /// When this attempt began.
    pub since: Moment,
}

/// A job that has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// The job.
    pub job: JobId,
    /// The model that it asked for.
    pub model: String,
    /// How it asked.
    pub mode: Mode,
    /// How it ended.
    pub outcome: Outcome,
    /// Why it failed, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<FailureKind>,
    /// When it ended.
    pub ended_at: Moment,
    /// From its acceptance to its first start, in milliseconds.
    pub waited_ms: Option<u64>,
    /// How long its last run took, in milliseconds.
    pub duration_ms: Option<u64>,
    /// Tokens read.
    pub prompt_tokens: Option<u32>,
    /// Tokens generated.
    pub completion_tokens: Option<u32>,
    /// How often it was started.
    pub attempts: u16,
}

impl Ended {
    /// What a trace says; nothing of one without events.
    #[must_use]
    pub fn of(trace: &Trace) -> Option<Self> {
        let mut ended = Self {
            job: trace.job,
            model: trace.model.to_string(),
            mode: trace.mode,
            outcome: trace.outcome,
            failure: None,
            ended_at: Moment(trace.events.last()?.at),
            waited_ms: None,
            duration_ms: None,
            prompt_tokens: None,
            completion_tokens: None,
            attempts: 0,
        };
        let mut accepted_at = None;
        for event in &trace.events {
            match &event.step {
                Step::Accepted => accepted_at = Some(event.at),
                Step::Leased { attempt, .. } => {
                    ended.attempts = *attempt;
                    if ended.waited_ms.is_none() {
                        ended.waited_ms = accepted_at.map(|at| event.at.since_ms(at));
                    }
                }
                Step::Finished { duration_ms, prompt_tokens, completion_tokens, .. } => {
                    ended.duration_ms = Some(*duration_ms);
                    ended.prompt_tokens = Some(*prompt_tokens);
                    ended.completion_tokens = Some(*completion_tokens);
                }
                Step::Failed { kind, duration_ms } => {
                    ended.failure = Some(*kind);
                    // 0 where it never ran.
                    ended.duration_ms = Some(*duration_ms).filter(|ms| *ms > 0);
                }
                Step::Released { .. } | Step::Submitted | Step::Acknowledged | Step::Expired { .. } => {}
            }
        }
        Some(ended)
    }
}

/// The traces of ended jobs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traces {
    /// Bytes that they take.
    pub bytes: u64,
    /// Deleted before the network had them.
    pub lost: u64,
}

/// The log of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logs {
    /// Records lost, by level.
    pub lost: BTreeMap<Level, u64>,
    /// Why it cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreadable: Option<String>,
}

/// The models of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Models {
    /// Those that the snapshot lists.
    pub listed: u64,
    /// Those of them that take jobs.
    pub active: u64,
    /// Those that are not all here, or could not be had.
    pub missing: u64,
    /// The one that is farthest from being active.
    pub worst: Option<Worst>,
    /// The listed ones first, at most [`MODELS_MAX`]; of more, those that are farthest from being active.
    #[serde(default)]
    pub list: Vec<Model>,
}

/// The model that is farthest from being active.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worst {
    /// Its name and version.
    pub model: String,
    /// Its state.
    pub state: ModelState,
    /// Why.
    pub reason: Option<String>,
}

/// A model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Model {
    /// Its name and version.
    pub model: String,
    /// The snapshot in force lists it.
    pub listed: bool,
    /// Its state.
    pub state: ModelState,
    /// Since when; nothing while the Agent has not looked at it.
    pub since: Option<Moment>,
    /// Why it is not active.
    pub reason: Option<String>,
    /// The length of its files.
    pub bytes: u64,
    /// What of them is here.
    pub bytes_here: u64,
}

impl Models {
    /// Of these, where the node keeps the files itself or does not.
    #[must_use]
    pub fn of(mut list: Vec<Model>, kept_here: bool) -> Self {
        const fn far(model: &Model) -> u8 {
            match model.state {
                ModelState::Failed => 3,
                ModelState::Pending => 2,
                ModelState::Inactive => 1,
                ModelState::Active | ModelState::Archived => 0,
            }
        }
        let listed = || list.iter().filter(|model| model.listed);
        let worst = listed().filter(|model| far(model) > 0).max_by_key(|model| far(model));
        let mut models = Self {
            listed: listed().count() as u64,
            active: listed().filter(|model| model.state == ModelState::Active).count() as u64,
            missing: listed().filter(|model| kept_here && model.bytes_here < model.bytes).count() as u64,
            worst: worst.map(|model| Worst {
                model: model.model.clone(),
                state: model.state,
                reason: model.reason.clone(),
            }),
            list: Vec::new(),
        };
        if list.len() > MODELS_MAX {
            // Those that need somebody first.
            list.sort_by_key(|model| std::cmp::Reverse(far(model)));
            list.truncate(MODELS_MAX);
        }
        models.list = list;
        models
    }
}

/// What runs the models.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runtime {
    /// `external`, `process` or `container`.
    pub kind: String,
    /// For example `llama.cpp`.
    pub engine: String,
    /// What it is started by; nothing for a server of the operator's.
    pub digest: Option<Digest>,
    /// How often it fell in this start; known to a running Agent alone.
    pub restarts: Option<u64>,
    /// Why it does not serve, by the last health check of the snapshot in force; known to a running Agent alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down: Option<String>,
}

/// What data of one class take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Storage {
    /// `jobs`, `traces`, `logs`, `models` or `state`.
    pub class: String,
    /// Bytes in use.
    pub bytes: u64,
    /// The most that it may take; nothing where the disk is the limit.
    pub limit_bytes: Option<u64>,
}

/// What was found damaged or missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incident {
    /// The database's file.
    pub database: String,
    /// When it was found.
    pub at: Moment,
    /// What was found.
    pub cause: String,
    /// The name of the file that was moved aside.
    pub moved_to: Option<String>,
    /// Rows that were saved.
    pub saved: u64,
    /// Rows that are lost at the most; nothing where nobody can tell.
    pub lost: Option<u64>,
    /// The network was told.
    #[serde(default)]
    pub reported: bool,
}

/// From when on damage and loss is told of which the network knows.
#[must_use]
pub const fn incidents_from(now: Timestamp) -> Timestamp {
    Timestamp::from_ms(now.ms().saturating_sub(INCIDENT_MS))
}

impl fmt::Display for Incident {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, database, cause, moved_to, saved, lost, reported } = self;
        write!(out, "{at} {database}: {cause}; {saved} saved, ")?;
        match lost {
            Some(lost) => write!(out, "{lost} lost at the most")?,
            None => out.write_str("nobody can tell how many are lost")?,
        }
        if let Some(moved_to) = moved_to {
            write!(out, "; moved to {moved_to}")?;
        }
        if *reported { out.write_str("; the network was told") } else { Ok(()) }
    }
}

/// A warning or an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// When.
    pub at: Moment,
    /// How bad.
    pub level: Level,
    /// What.
    pub message: String,
}

/// What only a running Agent knows.
#[derive(Clone, Debug)]
pub struct Live {
    /// This start.
    pub boot: String,
    /// When it began.
    pub started_at: Timestamp,
    /// The network's base URL.
    pub network_url: String,
    /// Whether it takes jobs.
    pub readiness: Readiness,
    /// The contact with the network.
    pub contact: crate::contact::Contact,
    /// How often the runtime fell.
    pub runtime_restarts: u64,
    /// Why it does not serve, where the health check said so.
    pub runtime_down: Option<String>,
    /// The jobs that are with the runtime.
    pub at_work: Vec<JobId>,
}

impl Standing {
    /// Damage and loss that the network was not told of.
    pub fn untold(&self) -> impl Iterator<Item = &Incident> {
        self.incidents.iter().filter(|incident| !incident.reported)
    }

    /// What the network is told of it, by an Agent that is in this state and runs for so long.
    #[must_use]
    pub fn heartbeat(&self, readiness: Readiness, uptime_ms: u64) -> Heartbeat {
        let protection = self.identity.as_ref().map(|held| held.protection.to_string());
        Heartbeat {
            readiness,
            uptime_ms,
            protection: protection.unwrap_or_default(),
            config_version: self.snapshot.as_ref().map_or(0, |snapshot| snapshot.version),
            jobs: JobCounts {
                queued: self.jobs.queued,
                running: self.jobs.running,
                unsent: self.jobs.unsent,
                expired: self.jobs.expired,
            },
            logs_lost: self.logs.lost.clone(),
            traces_lost: self.traces.lost,
            incidents: self.untold().map(|it| format!("{}: {}", it.database, it.cause)).collect(),
            drifted: self.drifted.iter().take(DRIFTED_MAX).cloned().collect(),
            hardware: self.hardware.clone(),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use node_types::{job::ModelRef, trace::Event};

    use super::*;

    /// A node that runs, is connected and has nothing to be said of.
    pub(crate) fn well() -> Standing {
        let at = |ms| Moment(Timestamp::from_ms(ms));
        Standing {
            network: Network::Testnet,
            identity: Some(Identity {
                node: "n".to_owned(),
                address: "0x0".to_owned(),
                protection: Protection::Passphrase,
            }),
            source: Source::Agent,
            health: Health::Well,
            next: Vec::new(),
            folder: "/volumes/testnet".into(),
            agent: Agent {
                running: true,
                pid: Some(7),
                readiness: Some(Readiness::Active),
                ..Agent::default()
            },
            time: at(100_000),
            time_held: false,
            connection: Some(Connection {
                url: Some("https://net.example.org".to_owned()),
                connected: true,
                since: at(0),
                why: None,
                outages: Vec::new(),
            }),
            snapshot: Some(Snapshot {
                version: 3,
                digest: Digest::of(b"snapshot"),
                issued_at: at(0),
                applied_at: at(0),
                good: true,
                validity: Term::Fresh,
                refresh_by: at(0),
                valid_until: at(0),
                grace_until: at(0),
                previous_version: None,
                taken_back_version: None,
                changes: None,
            }),
            floor_version: 3,
            keyset_version: Some(1),
            unverifiable: 0,
            release: None,
            fence: None,
            moved: None,
            twice: None,
            keys_missing: Vec::new(),
            account: Some(Account {
                account: "a@example.org".to_owned(),
                kind: "email".to_owned(),
                linked_at: at(0),
                proof: String::new(),
            }),
            jobs: Jobs::default(),
            traces: Traces::default(),
            logs: Logs::default(),
            models: Models::default(),
            runtime: None,
            artifacts: BTreeMap::new(),
            drifted: Vec::new(),
            storage: Vec::new(),
            incidents: Vec::new(),
            trouble: None,
            hardware: None,
        }
    }

    #[test]
    fn a_report_is_read_as_it_was_written() {
        let mut standing = well();
        let json = serde_json::to_string(&standing).unwrap();
        assert!(json.contains(r#""time":"1970-01-01T00:01:40.000Z""#), "{json}");
        assert_eq!(serde_json::from_str::<Standing>(&json).unwrap(), standing);
        standing.identity = None;
        let json = serde_json::to_string(&standing).unwrap();
        assert_eq!(serde_json::from_str::<Standing>(&json).unwrap(), standing);
    }

    #[test]
    fn a_trace_says_how_long_a_job_waited_and_ran() {
        let event = |ms, step| Event { at: Timestamp::from_ms(ms), step };
        let mut trace = Trace {
            job: JobId::from_bytes([1; 16]),
            network: Network::Testnet,
            model: ModelRef { name: "m".to_owned(), version: "1".to_owned() },
            mode: Mode::Chat,
            config: Digest::of(b"c"),
            outcome: Outcome::Answered,
            events: vec![
                event(10, Step::Accepted),
                event(15, Step::Leased { attempt: 1, runtime: None, model: None }),
                event(20, Step::Released { reason: node_types::trace::ReleaseReason::Restart }),
                event(30, Step::Leased { attempt: 2, runtime: None, model: None }),
                event(
                    90,
                    Step::Finished {
                        duration_ms: 60,
                        prompt_tokens: 3,
                        completion_tokens: 4,
                        output_bytes: 5,
                    },
                ),
                event(95, Step::Acknowledged),
            ],
        };
        let ended = Ended::of(&trace).unwrap();
        assert_eq!((ended.waited_ms, ended.duration_ms, ended.attempts), (Some(5), Some(60), 2));
        assert_eq!((ended.prompt_tokens, ended.completion_tokens), (Some(3), Some(4)));
        assert_eq!(ended.ended_at, Moment(Timestamp::from_ms(95)));
        trace.events = vec![
            event(10, Step::Accepted),
            event(11, Step::Failed { kind: FailureKind::Forbidden, duration_ms: 0 }),
        ];
        let ended = Ended::of(&trace).unwrap();
        assert_eq!((ended.waited_ms, ended.duration_ms, ended.attempts), (None, None, 0), "it never ran");
        assert_eq!(ended.failure, Some(FailureKind::Forbidden));
        trace.events.clear();
        assert_eq!(Ended::of(&trace), None);
    }

    #[test]
    fn the_heartbeat_says_what_the_report_says() {
        let mut standing = well();
        standing.jobs = Jobs { queued: 1, running: 2, unsent: 3, expired: 4, ..Jobs::default() };
        standing.drifted = (0..=DRIFTED_MAX).map(|number| number.to_string()).collect();
        standing.hardware = Some(Hardware::default());
        let heartbeat = standing.heartbeat(Readiness::Installing, 9);
        assert_eq!((heartbeat.readiness, heartbeat.uptime_ms), (Readiness::Installing, 9));
        assert_eq!(heartbeat.jobs, JobCounts { queued: 1, running: 2, unsent: 3, expired: 4 });
        assert_eq!((heartbeat.config_version, heartbeat.drifted.len()), (3, DRIFTED_MAX));
        assert_eq!(heartbeat.protection, Protection::Passphrase.to_string());
        assert_eq!(heartbeat.hardware, standing.hardware);
    }
}
