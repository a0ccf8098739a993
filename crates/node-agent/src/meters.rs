//! Meters: what happens is counted here, in memory, by whoever does it. A start of the Agent begins them anew, which every
//! reader of counters knows how to take.
//!
//! Time is an argument. Models come from the snapshot, but a node may see many in its life: those beyond [`MODELS_MAX`] are
//! counted together.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use node_store::meter::{Distribution, Histogram};
use node_types::{job::ModelRef, message::MessageKind, protocol::AcceptAnswer};
use tokio::time::Instant;

/// The bounds of the buckets for taking a job, in seconds: it is one commit.
pub const ACCEPT_BOUNDS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];
/// The bounds of the buckets for a run, in seconds: from a few tokens to a long answer of a large model.
pub const INFERENCE_BOUNDS: &[f64] =
    &[0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0];
/// Models that are counted each for itself.
pub const MODELS_MAX: usize = 32;
/// What the models beyond [`MODELS_MAX`] are counted under.
pub const OTHER_MODELS: &str = "other";

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RunEnd {
    /// With an answer.
    Answered,
    /// With an error of the runtime.
    Failed,
    /// It took too long.
    TimedOut,
    /// The runtime went away, or the Agent stopped: the job is in the queue again.
    PutBack,
    /// The job was cancelled, or its time ended.
    Elsewhere,
}

impl RunEnd {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Answered, Self::Failed, Self::TimedOut, Self::PutBack, Self::Elsewhere];

    /// Its name as a label.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::PutBack => "put_back",
            Self::Elsewhere => "elsewhere",
        }
    }
}

/// How a job ended that the network knows the end of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum JobEnd {
    /// It was answered.
    Answered,
    /// It has no answer.
    Failed,
    /// Its time ended first.
    Expired,
}

impl JobEnd {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Answered, Self::Failed, Self::Expired];

    /// Its name as a label.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Failed => "failed",
            Self::Expired => "expired",
        }
    }

    /// The end that a message told; `None` for those that tell none.
    #[must_use]
    pub const fn of(told: MessageKind) -> Option<Self> {
        match told {
            MessageKind::Result => Some(Self::Answered),
            MessageKind::Failure => Some(Self::Failed),
            MessageKind::Expired => Some(Self::Expired),
            MessageKind::Register
            | MessageKind::Hello
            | MessageKind::Heartbeat
            | MessageKind::Accept
            | MessageKind::Chunk
            | MessageKind::LogBatch
            | MessageKind::TraceBatch
            | MessageKind::ConfigReport
            | MessageKind::AccountLink
            | MessageKind::Pong
            | MessageKind::Inquiry
            | MessageKind::Leaving => None,
        }
    }
}

/// The label of an answer to an offer.
#[must_use]
pub const fn answer_name(answer: AcceptAnswer) -> &'static str {
    match answer {
        AcceptAnswer::New => "new",
        AcceptAnswer::Duplicate => "duplicate",
        AcceptAnswer::Conflict => "conflict",
        AcceptAnswer::Full => "full",
        AcceptAnswer::Expired => "expired",
        AcceptAnswer::Rejected => "rejected",
    }
}

/// All answers to offers.
pub const ANSWERS: [AcceptAnswer; 6] = [
    AcceptAnswer::New,
    AcceptAnswer::Duplicate,
    AcceptAnswer::Conflict,
    AcceptAnswer::Full,
    AcceptAnswer::Expired,
    AcceptAnswer::Rejected,
];

/// What was counted of one model.
#[derive(Debug)]
struct OfModel {
    runs: BTreeMap<RunEnd, u64>,
    inference: Histogram,
    prompt_tokens: u64,
    completion_tokens: u64,
}

/// The same, as it was at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelTally {
    /// Runs that ended, by how.
    pub runs: BTreeMap<RunEnd, u64>,
    /// How long the runs took that were answered.
    pub inference: Distribution,
    /// Tokens of prompts that were answered.
    pub prompt_tokens: u64,
    /// Tokens of answers.
    pub completion_tokens: u64,
}

#[derive(Debug, Default)]
struct Counted {
    offers: BTreeMap<&'static str, u64>,
    ends: BTreeMap<JobEnd, u64>,
    models: BTreeMap<String, OfModel>,
    attempts: u64,
    connections: u64,
    outage: Option<Instant>,
    offline: Duration,
}

/// Everything that was counted, as it was at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Tally {
    /// Offers, by answer ([`answer_name`]).
    pub offers: BTreeMap<&'static str, u64>,
    /// How long the node took to answer an offer.
    pub accept: Distribution,
    /// Jobs whose end the network has acknowledged.
    pub ends: BTreeMap<JobEnd, u64>,
    /// What was counted of each model.
    pub models: BTreeMap<String, ModelTally>,
    /// Runs that were begun.
    pub attempts: u64,
    /// How often a runtime that was there went away.
    pub runtime_falls: u64,
    /// Connections to the network that were greeted.
    pub connections: u64,
    /// How long the node has not been connected now; nothing while it is.
    pub outage: Duration,
    /// How long it was not connected since it started, all together.
    pub offline: Duration,
}

/// Counts.
#[derive(Debug)]
pub struct Meters {
    accept: Histogram,
    runtime_falls: Arc<AtomicU64>,
    counted: Mutex<Counted>,
}

impl Meters {
    /// Nothing was counted yet, and the node is not connected.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        let counted = Counted { outage: Some(now), ..Counted::default() };
        Self {
            accept: Histogram::new(ACCEPT_BOUNDS),
            runtime_falls: Arc::default(),
            counted: Mutex::new(counted),
        }
    }

    fn counted(&self) -> MutexGuard<'_, Counted> {
        // Every change is whole when it is let go.
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An offer was answered after so long.
    pub fn offered(&self, answer: AcceptAnswer, took: Duration) {
        self.accept.observe(took);
        *self.counted().offers.entry(answer_name(answer)).or_default() += 1;
    }

    /// The network has the end of a job.
    pub fn ended(&self, end: JobEnd) {
        *self.counted().ends.entry(end).or_default() += 1;
    }

    /// A run was begun.
    pub fn began(&self) {
        self.counted().attempts += 1;
    }

    /// A run ended after so long; `tokens` of prompt and answer, where it was answered.
    pub fn ran(&self, model: &ModelRef, end: RunEnd, took: Duration, tokens: Option<(u64, u64)>) {
        let mut counted = self.counted();
        let name = model.to_string();
        let known = counted.models.contains_key(&name) || counted.models.len() < MODELS_MAX;
        let name = if known { name } else { OTHER_MODELS.to_owned() };
        let of = counted.models.entry(name).or_insert_with(|| OfModel {
            runs: BTreeMap::new(),
            inference: Histogram::new(INFERENCE_BOUNDS),
            prompt_tokens: 0,
            completion_tokens: 0,
        });
        *of.runs.entry(end).or_default() += 1;
        if let Some((prompt, completion)) = tokens {
            of.inference.observe(took);
            of.prompt_tokens += prompt;
            of.completion_tokens += completion;
        }
    }

    /// Where it is counted that a runtime that was there went away.
    #[must_use]
    pub fn falls(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.runtime_falls)
    }

    /// How often that was.
    #[must_use]
    pub fn runtime_falls(&self) -> u64 {
        self.runtime_falls.load(Ordering::Relaxed)
    }

    /// The network has greeted.
    pub fn connected(&self, now: Instant) {
        let mut counted = self.counted();
        counted.connections += 1;
        if let Some(since) = counted.outage.take() {
            counted.offline += now.saturating_duration_since(since);
        }
    }

    /// There is no connection any more, or still none.
    pub fn disconnected(&self, now: Instant) {
        self.counted().outage.get_or_insert(now);
    }

    /// What was counted so far.
    #[must_use]
    pub fn read(&self, now: Instant) -> Tally {
        let counted = self.counted();
        let outage = counted.outage.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let models = counted.models.iter().map(|(name, of)| {
            let tally = ModelTally {
                runs: of.runs.clone(),
                inference: of.inference.read(),
                prompt_tokens: of.prompt_tokens,
                completion_tokens: of.completion_tokens,
            };
            (name.clone(), tally)
        });
        Tally {
            offers: counted.offers.clone(),
            accept: self.accept.read(),
            ends: counted.ends.clone(),
            models: models.collect(),
            attempts: counted.attempts,
            runtime_falls: self.runtime_falls(),
            connections: counted.connections,
            outage,
            offline: counted.offline + outage,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(name: &str) -> ModelRef {
        ModelRef { name: name.to_owned(), version: "1".to_owned() }
    }

    #[test]
    fn an_outage_counts_while_it_lasts_and_the_time_offline_keeps_it() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let meters = Meters::new(begun);
        assert_eq!(meters.read(at(3)).outage, Duration::from_secs(3));
        meters.connected(at(5));
        assert_eq!(
            (meters.read(at(9)).outage, meters.read(at(9)).offline),
            (Duration::ZERO, Duration::from_secs(5))
        );
        meters.disconnected(at(10));
        meters.disconnected(at(11));
        let read = meters.read(at(12));
        assert_eq!((read.outage, read.offline), (Duration::from_secs(2), Duration::from_secs(7)));
        assert_eq!(read.connections, 1);
    }

    #[test]
    fn models_beyond_the_most_are_counted_together() {
        let now = Instant::now();
        let meters = Meters::new(now);
        for number in 0..MODELS_MAX + 3 {
            meters.ran(&model(&format!("m{number}")), RunEnd::Answered, Duration::from_secs(1), Some((2, 3)));
        }
        meters.ran(&model("m0"), RunEnd::Failed, Duration::from_secs(1), None);
        let read = meters.read(now);
        assert_eq!(read.models.len(), MODELS_MAX + 1);
        let other = &read.models[OTHER_MODELS];
        assert_eq!((other.inference.count(), other.prompt_tokens, other.completion_tokens), (3, 6, 9));
        let first = read.models.values().find(|of| of.runs.contains_key(&RunEnd::Failed)).unwrap();
        assert_eq!(first.inference.count(), 1, "what failed says nothing of how long an answer takes");
    }
}
