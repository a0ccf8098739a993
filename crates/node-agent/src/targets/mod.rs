//! Targets: log records go to an OpenTelemetry collector and to files, each at its own pace, in order.
//!
//! A target's cursor moves only once it has the records: after an answer of success, or after the sync of the file. So after a
//! crash it may get some twice, and never misses one without its being counted. What it refuses for good, and what went before it
//! could take it, is lost for this target alone: counted in the store, told to it with the next records, and said in the log
//! once, not at every batch: what is said is a record too, and would be refused again.

mod file;

use std::{sync::Arc, time::Duration};

use node_store::logs::{Target, WaitingFor};
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
    backoff, metrics,
    node::Node,
    otlp::{self, Collector, OtlpError, Sent, Source},
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

/// Why a target cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The collector.
    #[error(transparent)]
    Otlp(#[from] OtlpError),
    /// The files.
    #[error(transparent)]
    File(#[from] FileError),
}

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
/// and once more then.
///
/// # Errors
/// [`TargetError`] where one can never be used.
pub async fn start(
    node: &Arc<Node>,
    tasks: &mut JoinSet<()>,
    stop: &watch::Receiver<bool>,
) -> Result<(), TargetError> {
    let exports = &node.settings.exports;
    let source = Source { node: node.store.node().to_string(), network: node.settings.network.to_string() };
    let collector = exports.otlp.as_ref().map(Collector::new).transpose()?.map(Arc::new);
    let files = exports.log_file.clone().map(|settings| LogFiles::open(settings, &source)).transpose()?;

    let mut targets = Vec::new();
    let mut add = |name: &str, required| targets.push(Target { name: name.to_owned(), required });
    if let Some(settings) = exports.otlp.as_ref().filter(|settings| settings.logs) {
        add(OTLP, settings.required);
    }
    if let Some(settings) = &exports.log_file {
        add(FILE, settings.required);
    }
    if let Err(error) = node.written(node.store.logs().set_targets(targets).await) {
        // Logs stop no job: those who had records before go on, a new one begins with the next start.
        node.journal.failed(Level::Error, Kind::Storage, "cannot keep who gets the log", &error);
    }

    if let Some((settings, collector)) = exports.otlp.clone().zip(collector) {
        if settings.metrics {
            let (node, collector, source) = (Arc::clone(node), Arc::clone(&collector), source.clone());
            tasks.spawn(push_metrics(node, settings.clone(), collector, source, stop.clone()));
        }
        if settings.logs {
            let sink = CollectorSink { collector, source };
            tasks.spawn(drive(Arc::clone(node), sink, settings.required, stop.clone()));
        }
    }
    if let (Some(files), Some(settings)) = (files, &exports.log_file) {
        tasks.spawn(drive(Arc::clone(node), files, settings.required, stop.clone()));
    }
    Ok(())
}

/// What is said of a target, so that it is not said at every batch.
#[derive(Debug, Default)]
struct Said {
    failures: u32,
    refused: bool,
    rejected: Option<String>,
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

async fn drive<S: Sink>(node: Arc<Node>, mut sink: S, required: bool, mut stop: watch::Receiver<bool>) {
    let mut said = Said::default();
    loop {
        let stopping = *stop.borrow();
        if stopping {
            // Where it fails, the store has stopped, and that was said.
            let _ = node.store.logs().flush().await;
        }
        let pause = match turn(&node, &mut sink, required, &mut said).await {
            Turn::More => continue,
            Turn::Idle => EVERY,
            Turn::Wait(wait) => wait,
        };
        if stopping {
            return;
        }
        tokio::select! {
            () = sleep(pause) => {}
            _ = stop.changed() => {}
        }
    }
}

async fn turn<S: Sink>(node: &Node, sink: &mut S, required: bool, said: &mut Said) -> Turn {
    let logs = node.store.logs();
    let note = |level, text: String| node.journal.note(level, Kind::Agent, text);
    let waiting = match logs.view().waiting(S::NAME, BATCH_BYTES) {
        Ok(Some(waiting)) => waiting,
        Ok(None) => return Turn::Idle,
        Err(error) => {
            said.failures += 1;
            if said.failures.is_power_of_two() {
                node.journal.failed(Level::Error, Kind::Storage, "cannot read the log", &error);
            }
            return Turn::Wait(wait(said.failures));
        }
    };
    let Some(last) = waiting.entries.last().map(|entry| entry.seq) else { return Turn::Idle };
    let (count, untold) = (waiting.entries.len(), waiting.untold.clone());
    let now = time::now(&node.store).unwrap_or(Timestamp::EPOCH);
    let (kept, turn) = match sink.take(waiting, now).await {
        Sent::Taken { rejected, why } => {
            if rejected > 0 && said.rejected.as_ref() != Some(&why) {
                note(Level::Warn, format!("{} took {count} log records but for {rejected}: {why}", S::NAME));
                said.rejected = Some(why);
            }
            if said.failures > 0 || said.refused {
                note(Level::Info, format!("{} takes log records again", S::NAME));
            }
            (said.failures, said.refused) = (0, false);
            (logs.delivered(S::NAME, last, untold, rejected).await, Turn::More)
        }
        Sent::Refused { why } => {
            if !std::mem::replace(&mut said.refused, true) {
                note(Level::Error, format!("{} refuses log records, which are lost for it: {why}", S::NAME));
            }
            said.failures = 0;
            (logs.given_up(S::NAME, last).await, Turn::More)
        }
        Sent::Later { why, after } => {
            said.failures += 1;
            if said.failures.is_power_of_two() {
                let held = if required { "they are held" } else { "each is offered once" };
                note(Level::Warn, format!("{} takes no log records now ({held}): {why}", S::NAME));
            }
            // Everybody came at the same moment: not everybody comes back at one.
            let turn = Turn::Wait(wait(said.failures).max(after.unwrap_or_default()));
            (if required { Ok(0) } else { logs.tried(S::NAME, last).await }, turn)
        }
    };
    match node.written(kept) {
        Ok(_) => turn,
        Err(error) => {
            // What it has already it gets again: nothing is lost.
            node.journal.failed(
                Level::Error,
                Kind::Storage,
                "cannot keep how far a target of the log is",
                &error,
            );
            Turn::Wait(wait(said.failures.max(1)))
        }
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
    let since = time::now(&node.store).unwrap_or(Timestamp::EPOCH);
    let every = Duration::from_millis(settings.metrics_ms);
    let (mut failures, mut rejected_before) = (0_u32, None);
    let mut next = Instant::now() + every;
    loop {
        let stopping = *stop.borrow();
        if stopping || Instant::now() >= next {
            let asked = Arc::clone(&node);
            let families = tokio::task::spawn_blocking(move || metrics::families(&metrics::gather(&asked)));
            let families = match families.await {
                Ok(families) => families,
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            };
            let now = time::now(&node.store).unwrap_or(since);
            let mut after = Duration::ZERO;
            match collector.send_metrics(&otlp::metrics(&source, &families, since, now)).await {
                Sent::Taken { rejected, why } => {
                    failures = 0;
                    if rejected > 0 && rejected_before.as_ref() != Some(&why) {
                        let text = format!("the collector took the metrics but for {rejected} points: {why}");
                        node.journal.note(Level::Warn, Kind::Metric, text);
                        rejected_before = Some(why);
                    }
                }
                Sent::Refused { why } | Sent::Later { why, after: None } => {
                    failures += 1;
                    say_unsent(&node, failures, &why);
                }
                Sent::Later { why, after: Some(asked) } => {
                    failures += 1;
                    after = asked;
                    say_unsent(&node, failures, &why);
                }
            }
            next = Instant::now() + every.max(after);
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
