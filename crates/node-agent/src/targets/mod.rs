//! Targets: log records go to an OpenTelemetry collector and to files, each at its own pace, in order.
//!
//! A target's cursor moves only once it has the records: after an answer of success, or after the sync of the file. So after a
//! crash it may get some twice, and never misses one without its being counted. What it refuses for good, and what went before it
//! could take it, is lost for this target alone: counted in the store, told to it with the next records, and said in the log
//! once, not at every batch: what is said is a record too, and would be refused again.
//!
//! A target that cannot be reached, refuses or cannot be written to stops nothing: jobs go on, and it is tried again.

mod file;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use node_store::{
    logs::{Target, WaitingFor},
    reader::ReadError,
};
use node_types::{
    Timestamp,
    log::{Kind, Level},
};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

pub use file::{FileError, LogFiles};

use crate::{
    backoff,
    blocking::blocking,
    metrics,
    node::Node,
    otlp::{self, Begins, Collector, OtlpError, Sent, Source},
    settings::OtlpSettings,
    time,
};

/// The collector's name among the targets.
pub const OTLP: &str = "otlp";
/// The files' name among the targets.
pub const FILE: &str = "file";
/// Between two looks for new records: 1 second.
const EVERY: Duration = Duration::from_secs(1);
/// Bytes of records that are taken at once: 512 KiB.
const BATCH_BYTES: u64 = 512 << 10;
/// The first and the longest wait for a target that does not take records, in milliseconds.
const RETRY_MS: (u64, u64) = (1_000, 60_000);

/// Somewhere that records go.
trait Sink: Send + 'static {
    /// Its name among the targets.
    const NAME: &'static str;

    /// Takes records, and what it never got.
    fn take(&mut self, waiting: WaitingFor, now: Timestamp) -> impl Future<Output = Sent> + Send;
}

struct CollectorSink {
    collector: Arc<Collector>,
    source: Source,
}

impl Sink for CollectorSink {
    const NAME: &'static str = OTLP;

    async fn take(&mut self, waiting: WaitingFor, now: Timestamp) -> Sent {
        let request = otlp::logs(&self.source, &waiting.entries, &waiting.untold, now);
        self.collector.send_logs(&request).await
    }
}

impl Sink for LogFiles {
    const NAME: &'static str = FILE;

    async fn take(&mut self, waiting: WaitingFor, now: Timestamp) -> Sent {
        match self.append(waiting, now).await {
            Ok(()) => Sent::Taken { rejected: 0, why: String::new() },
            Err(error) => Sent::Later { why: crate::journal::causes(&error), after: None },
        }
    }
}

/// Begins with the targets of the settings; those that are not there any more hold nothing from now on. Each runs until `stop`,
/// and once more then, unless it is to be left alone.
///
/// # Errors
/// [`OtlpError`] where the settings of the collector can never be used.
pub async fn start(
    node: &Arc<Node>,
    tasks: &mut JoinSet<()>,
    stop: &watch::Receiver<bool>,
) -> Result<(), OtlpError> {
    let exports = &node.settings.exports;
    let source = Source { node: node.store.node().to_string(), network: node.settings.network.to_string() };
    let collector = exports.otlp.as_ref().map(Collector::new).transpose()?.map(Arc::new);

    let mut targets = Vec::new();
    let mut add = |name: &str, required| targets.push(Target { name: name.to_owned(), required });
    if let Some(settings) = exports.otlp.as_ref().filter(|settings| settings.logs) {
        add(OTLP, settings.required);
    }
    if let Some(settings) = &exports.log_file {
        add(FILE, settings.required);
    }
    if let Err(error) = node.written(node.store.logs().set_targets(targets.clone()).await) {
        // Logs stop no job: those who had records before go on, and a new one asks for it again.
        node.journal.failed(Level::Error, Kind::Storage, "cannot keep who gets the log", &error);
    }

    if let Some((settings, collector)) = exports.otlp.clone().zip(collector) {
        if settings.metrics {
            let (node, collector, source) = (Arc::clone(node), Arc::clone(&collector), source.clone());
            tasks.spawn(push_metrics(node, settings.clone(), collector, source, stop.clone()));
        }
        if settings.logs {
            let sink = CollectorSink { collector, source: source.clone() };
            let drive = Drive::new(node, sink, settings.required, targets.clone());
            tasks.spawn(drive.run(stop.clone()));
        }
    }
    if let Some(settings) = exports.log_file.clone() {
        let required = settings.required;
        let drive = Drive::new(node, LogFiles::new(settings, &source), required, targets);
        tasks.spawn(drive.run(stop.clone()));
    }
    Ok(())
}

/// What a turn came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// There may be more.
    More,
    /// Nothing is left.
    Idle,
    /// Not now: wait so long.
    Wait(Duration),
}

/// How far a target came, as the store is to keep it.
#[derive(Clone, Debug)]
enum Reached {
    Delivered { last: u64, told: BTreeMap<Level, u64>, rejected: u64 },
    GivenUp { last: u64 },
    Tried { last: u64 },
}

/// One target at its own pace.
struct Drive<S> {
    node: Arc<Node>,
    sink: S,
    required: bool,
    /// Everybody who is to get records, for a store that could not keep it at the start.
    targets: Vec<Target>,
    /// Takes that failed in a row.
    failures: u32,
    /// Refusals since it took records last.
    refusals: u32,
    /// Batches that it took in part, ever: its words may differ each time, and what is said of them is a record too.
    rejections: u32,
    /// Looks and commits of the store that failed in a row.
    store_failures: u32,
    /// What the store could not keep yet, and what comes after: the target is not asked again before.
    unkept: Option<(Reached, Turn)>,
}

impl<S: Sink> Drive<S> {
    fn new(node: &Arc<Node>, sink: S, required: bool, targets: Vec<Target>) -> Self {
        let node = Arc::clone(node);
        let (failures, refusals, rejections, store_failures) = (0, 0, 0, 0);
        Self { node, sink, required, targets, failures, refusals, rejections, store_failures, unkept: None }
    }

    async fn run(mut self, mut stop: watch::Receiver<bool>) {
        loop {
            let stopping = *stop.borrow();
            if stopping {
                // Where it fails, the store has stopped, and that was said.
                let _ = self.node.store.logs().flush().await;
            }
            let turn = self.turn().await;
            let pause = match turn {
                Turn::More => continue,
                Turn::Idle => EVERY,
                Turn::Wait(wait) => wait,
            };
            if stopping {
                return;
            }
            tokio::select! {
                () = sleep(pause) => {}
                // One that is to be left alone is not asked once more.
                _ = stop.changed() => if matches!(turn, Turn::Wait(_)) { return },
            }
        }
    }

    async fn turn(&mut self) -> Turn {
        let (reached, turn) = match self.unkept.take() {
            Some(unkept) => unkept,
            None => match self.offer().await {
                (Some(reached), turn) => (reached, turn),
                (None, turn) => return turn,
            },
        };
        let logs = self.node.store.logs();
        let kept = match reached.clone() {
            Reached::Delivered { last, told, rejected } => {
                logs.delivered(S::NAME, last, told, rejected).await
            }
            Reached::GivenUp { last } => logs.given_up(S::NAME, last).await,
            Reached::Tried { last } => logs.tried(S::NAME, last).await,
        };
        match self.node.written(kept) {
            Ok(_) => {
                self.store_failures = 0;
                turn
            }
            Err(error) => {
                self.unkept = Some((reached, turn));
                self.store_failed("cannot keep how far a target of the log is", &error)
            }
        }
    }

    /// Offers the target what it does not have, if there is anything.
    async fn offer(&mut self) -> (Option<Reached>, Turn) {
        let waiting = match self.waiting().await {
            Ok(Some(waiting)) => waiting,
            Ok(None) => {
                let set = self.node.store.logs().set_targets(self.targets.clone()).await;
                return match self.node.written(set) {
                    Ok(()) => (None, Turn::Idle),
                    Err(error) => (None, self.store_failed("cannot keep who gets the log", &error)),
                };
            }
            Err(error) => return (None, self.store_failed("cannot read the log", &error)),
        };
        let Some(last) = waiting.entries.last().map(|entry| entry.seq) else { return (None, Turn::Idle) };
        let (count, told) = (waiting.entries.len(), waiting.untold.clone());
        let now = time::now(&self.node.store).unwrap_or(Timestamp::EPOCH);
        match self.sink.take(waiting, now).await {
            Sent::Taken { rejected, why } => {
                // It cannot have rejected more than there were, whatever it says.
                let rejected = rejected.min(count as u64);
                if rejected > 0 {
                    self.rejections = self.rejections.saturating_add(1);
                    if self.rejections.is_power_of_two() {
                        let text = format!("{} took {count} log records but for {rejected}: {why}", S::NAME);
                        self.note(Level::Warn, text);
                    }
                }
                if self.failures > 0 || self.refusals > 0 {
                    self.note(Level::Info, format!("{} takes log records again", S::NAME));
                }
                (self.failures, self.refusals) = (0, 0);
                (Some(Reached::Delivered { last, told, rejected }), Turn::More)
            }
            Sent::Refused { why } => {
                (self.failures, self.refusals) = (0, self.refusals.saturating_add(1));
                if self.refusals == 1 {
                    let text = format!("{} refuses log records, which are lost for it: {why}", S::NAME);
                    self.note(Level::Error, text);
                }
                // Whoever mends it in time keeps what was not offered yet.
                (Some(Reached::GivenUp { last }), Turn::Wait(wait(self.refusals)))
            }
            Sent::Later { why, after } => {
                self.failures = self.failures.saturating_add(1);
                if self.failures.is_power_of_two() {
                    let held = if self.required { "they are held" } else { "each is offered once" };
                    self.note(Level::Warn, format!("{} takes no log records now ({held}): {why}", S::NAME));
                }
                let reached = (!self.required).then_some(Reached::Tried { last });
                // Everybody came at the same moment: not everybody comes back at one.
                (reached, Turn::Wait(wait(self.failures).max(after.unwrap_or_default())))
            }
        }
    }

    async fn waiting(&self) -> Result<Option<WaitingFor>, ReadError> {
        let logs = self.node.store.logs().view().clone();
        blocking(move || logs.waiting(S::NAME, BATCH_BYTES)).await
    }

    fn note(&self, level: Level, text: String) {
        self.node.journal.note(level, Kind::Agent, text);
    }

    fn store_failed(&mut self, what: &str, error: &(dyn std::error::Error + 'static)) -> Turn {
        self.store_failures = self.store_failures.saturating_add(1);
        if self.store_failures.is_power_of_two() {
            self.node.journal.failed(Level::Error, Kind::Storage, what, error);
        }
        Turn::Wait(wait(self.store_failures))
    }
}

fn wait(failures: u32) -> Duration {
    backoff::wait(failures, RETRY_MS.0, RETRY_MS.1, backoff::random())
}

/// Sends metrics every so often. They are cumulative: what does not arrive comes with the next ones.
async fn push_metrics(
    node: Arc<Node>,
    settings: OtlpSettings,
    collector: Arc<Collector>,
    source: Source,
    mut stop: watch::Receiver<bool>,
) {
    let every = Duration::from_millis(settings.metrics_ms);
    let (mut failures, mut rejections) = (0_u32, 0_u32);
    let mut left_alone_until = Instant::now();
    let mut next = left_alone_until + every;
    loop {
        let stopping = *stop.borrow();
        let begun = Instant::now();
        if begun >= next || (stopping && begun >= left_alone_until) {
            let asked = Arc::clone(&node);
            let facts = blocking(move || metrics::gather(&asked)).await;
            let begins = Begins { agent: node.started_at, process: facts.process.started };
            let now = time::now(&node.store).unwrap_or(node.started_at);
            let request = otlp::metrics(&source, &metrics::families(&facts), begins, now);
            match collector.send_metrics(&request).await {
                Sent::Taken { rejected, why } => {
                    failures = 0;
                    rejections += u32::from(rejected > 0);
                    if rejected > 0 && rejections.is_power_of_two() {
                        let text = format!("the collector took the metrics but for {rejected} points: {why}");
                        node.journal.note(Level::Warn, Kind::Metric, text);
                    }
                }
                Sent::Refused { why } => {
                    failures += 1;
                    say_unsent(&node, failures, &why);
                }
                Sent::Later { why, after } => {
                    failures += 1;
                    say_unsent(&node, failures, &why);
                    left_alone_until = Instant::now() + after.unwrap_or_default();
                }
            }
            next = left_alone_until.max(Instant::now() + every);
        }
        if stopping {
            return;
        }
        tokio::select! {
            () = sleep_until(next) => {}
            _ = stop.changed() => {}
        }
    }
}

fn say_unsent(node: &Node, failures: u32, why: &str) {
    if failures.is_power_of_two() {
        node.journal.note(
            Level::Warn,
            Kind::Metric,
            format!("the collector does not take the metrics: {why}"),
        );
    }
}
