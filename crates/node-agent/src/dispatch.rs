//! Dispatch: leases jobs while the runtime serves, within the snapshot's concurrency and timeouts, and keeps what
//! comes of them before anybody is told.
//!
//! A job whose time ends while it runs is not answered: rotation ends it. A run that the runtime lost goes back to the
//! queue with its attempt counted; after the last one the store fails it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use node_store::{
    jobs::{Lease, Leased, Moved},
    models::{ModelsError, Standing},
    writer::WriteError,
};
use node_types::{
    JobId, Timestamp,
    config::{Model, ModelFile, NodeConfig},
    job::{Failure, FailureKind, Job, ModelRef, Output},
    log::{Kind, Level},
    protocol::{Chunk, Readiness},
    trace::ReleaseReason,
    verify::Validity,
};
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, watch},
    task::{JoinError, JoinSet},
    time::sleep,
};
use tracing::Instrument as _;

use crate::{
    blocking::blocking,
    engine::{Loaded, Served, Serving},
    journal::{causes, of_job},
    meters::RunEnd,
    models,
    node::{Halt, Node},
    runtime::{Endpoint, InferenceError},
    time,
};

/// How long an answer waits until it is tried again to keep it on a full disk: 1 second.
const FULL_WAIT: Duration = Duration::from_secs(1);
/// How long dispatch waits where nothing wakes it: 5 seconds.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// How often a runtime that lost a run is asked whether it is there: every quarter of a second.
const DOUBT: Duration = Duration::from_millis(250);
/// Parts of one streamed answer that wait to be signed.
const PARTS_MAX: usize = 64;

/// Runs jobs until `stop`; then those that run have the operator's grace, and the rest goes back to the queue.
pub async fn run(node: Arc<Node>, mut serving: Serving, mut stop: watch::Receiver<bool>) {
    let mut runs = JoinSet::new();
    // A run was lost or took too long: no other job pays an attempt for finding out whether the runtime is still there.
    let mut doubted = false;
    while !*stop.borrow() {
        while let Some(over) = runs.try_join_next() {
            doubted |= take_over(&node, &mut runs, over);
        }
        doubted = doubted && !answers(&serving).await;
        if !doubted && start_one(&node, &serving, &mut runs).await {
            continue;
        }
        let pause = if doubted { DOUBT } else { LOOK_AGAIN };
        tokio::select! {
            Some(over) = runs.join_next() => doubted |= take_over(&node, &mut runs, over),
            () = node.queued.notified(), if !doubted => {}
            _ = serving.changed() => {}
            _ = stop.changed() => {}
            () = sleep(pause) => {}
        }
    }
    let grace = Duration::from_millis(node.settings.shutdown_grace_ms);
    if tokio::time::timeout(grace, all_over(&node, &mut runs)).await.is_err() {
        node.halt_all(Halt::Shutdown);
        all_over(&node, &mut runs).await;
    }
}

/// Takes note of a run that is over, and says whether its runtime is to be doubted. What came of such a run is kept from
/// here on and no sooner: its job is back in the queue only once the next lease knows of the doubt.
fn take_over(node: &Arc<Node>, runs: &mut JoinSet<Over>, over: Result<Over, JoinError>) -> bool {
    match over {
        Ok(Over::Kept) => false,
        Ok(Over::Doubtful(run)) => {
            let (node, span) = (Arc::clone(node), of_job(run.job.id));
            let keeping = async move {
                run.keep(&node).await;
                Over::Kept
            };
            runs.spawn(keeping.instrument(span));
            true
        }
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => false,
    }
}

/// Waits until all runs are over, and kept.
async fn all_over(node: &Arc<Node>, runs: &mut JoinSet<Over>) {
    while let Some(over) = runs.join_next().await {
        take_over(node, runs, over);
    }
}

/// Whether the runtime that serves is really there.
async fn answers(serving: &Serving) -> bool {
    let served = serving.borrow().clone();
    match served {
        Some(served) => served.endpoint.healthy().await.is_ok(),
        None => false,
    }
}

/// Leases a job and starts its run. Says whether there may be another one.
async fn start_one(node: &Arc<Node>, serving: &Serving, runs: &mut JoinSet<Over>) -> bool {
    if node.is_fenced() {
        return false;
    }
    let Some(Served { config, endpoint, files }) = serving.borrow().clone() else { return false };
    let snapshots = node.store.snapshots();
    // A newer one has just been applied: its own runtime is not there yet.
    let Some(current) = snapshots.current().filter(|current| current.config.digest() == config) else {
        return false;
    };
    let limits = &current.config.document().limits;
    if runs.len() >= usize::from(limits.concurrency) {
        return false;
    }
    let now = match time::now(&node.store) {
        Ok(now) => now,
        Err(error) => {
            node.journal.failed(Level::Error, Kind::Agent, "no job is started", &error);
            return false;
        }
    };
    if snapshots.look(|view| view.validity(now)) == Some(Validity::OutOfForce) {
        node.set_readiness(Readiness::NoConfiguration);
        return false;
    }
    let Some(except) = unusable(node, current.config.document(), files).await else { return false };
    let runtime = current.config.document().runtime.digest();
    let leased = node.store.jobs().lease(runtime, None, &except, now).await;
    match node.written(leased) {
        Ok(Lease::Job(leased)) => {
            let timeout = Duration::from_millis(limits.execution_timeout_ms);
            let span = of_job(leased.job.id);
            runs.spawn(run_one(Arc::clone(node), endpoint, *leased, timeout).instrument(span));
            true
        }
        Ok(Lease::Unreadable(tampered)) => {
            node.journal.measured(Level::Error, Kind::Storage, Some(tampered.job), tampered.to_string(), []);
            node.ended.notify_one();
            true
        }
        Ok(Lease::Empty) => false,
        Ok(Lease::Full) => {
            node.ended.notify_one();
            false
        }
        Err(error) => {
            node.journal.failed(Level::Error, Kind::Storage, "cannot lease a job", &error);
            false
        }
    }
}

/// The models whose jobs wait now, because a file of theirs is not what was verified; `None` where all wait. The seals
/// are looked at once more: since the last look somebody may have written.
async fn unusable(node: &Arc<Node>, config: &NodeConfig, loaded: Arc<Loaded>) -> Option<BTreeSet<ModelRef>> {
    if !models::brings_files(config) {
        return Some(BTreeSet::new());
    }
    let asked = Arc::clone(node);
    let looked = blocking(move || {
        let models = asked.store.models().view();
        Ok::<_, ModelsError>((models.stand_all()?, Loaded::now(models)?))
    });
    let (held, now) = match looked.await {
        Ok((held, now)) => (held.into_iter().collect::<BTreeMap<_, _>>(), now),
        Err(error) => {
            node.journal.failed(Level::Error, Kind::Model, "no job is started", &error);
            return None;
        }
    };
    let ready = node.shelf.borrow().ready.clone();
    let sound = |file: &&ModelFile| {
        // What the runtime has loaded is what is here now.
        loaded.of(file.sha256) == now.of(file.sha256)
            && matches!(held.get(&file.sha256), Some(Standing::Sealed | Standing::Untrusted { .. }))
    };
    let changed = |model: &&Model| !models::distinct(model).iter().all(sound);
    let unusable = config.models.iter().filter(|model| !ready.contains(&model.reference()) || changed(model));
    let unusable: BTreeSet<_> = unusable.map(Model::reference).collect();
    if unusable.iter().any(|model| ready.contains(model)) {
        node.install.notify_one();
    }
    (unusable.len() < config.models.len()).then_some(unusable)
}

/// A run that is over.
enum Over {
    /// What came of it is kept.
    Kept,
    /// The runtime went away under it, or did not come to an end: it is still to be kept.
    Doubtful(Box<Run>),
}

/// A run that has ended, with what is kept of it.
struct Run {
    job: Job,
    attempt: u16,
    ended: Ended,
    duration_ms: u64,
}

/// How a run ended.
enum Ended {
    Answered(Output),
    Failed(Failure),
    /// Put it back.
    Released(ReleaseReason, String),
    /// Somebody else ends the job: rotation at its deadline, or whoever cancelled it.
    Elsewhere,
}

impl Ended {
    const fn meter(&self) -> RunEnd {
        match self {
            Self::Answered(_) => RunEnd::Answered,
            Self::Failed(failure) => match failure.kind {
                FailureKind::TimedOut => RunEnd::TimedOut,
                FailureKind::Runtime
                | FailureKind::Cancelled
                | FailureKind::AttemptsExhausted
                | FailureKind::Forbidden
                | FailureKind::Unreadable
                | FailureKind::Unclaimed => RunEnd::Failed,
            },
            Self::Released(..) => RunEnd::PutBack,
            Self::Elsewhere => RunEnd::Elsewhere,
        }
    }

    /// Whether the runtime may be gone.
    fn is_doubtful(&self) -> bool {
        match self {
            Self::Released(reason, _) => *reason == ReleaseReason::RuntimeLost,
            Self::Failed(failure) => failure.kind == FailureKind::TimedOut,
            Self::Answered(_) | Self::Elsewhere => false,
        }
    }

    /// Tokens of the prompt and of the answer.
    fn tokens(&self) -> Option<(u64, u64)> {
        match self {
            Self::Answered(output) => Some((output.prompt_tokens.into(), output.completion_tokens.into())),
            Self::Failed(_) | Self::Released(..) | Self::Elsewhere => None,
        }
    }
}

async fn run_one(node: Arc<Node>, endpoint: Arc<Endpoint>, leased: Leased, timeout: Duration) -> Over {
    let Leased { job, attempt } = leased;
    let halted = node.begin_run(job.id);
    tracing::debug!(attempt, "it runs");
    node.meters.began();
    let begun = tokio::time::Instant::now();
    let (parts, given) = mpsc::channel(PARTS_MAX);
    let streamed = forward(Arc::clone(&node), job.id, attempt, given);
    let run = async {
        let left = time::now(&node.store)
            .map_or(timeout, |now| timeout.min(Duration::from_millis(job.expires_at.since_ms(now))));
        let ended = tokio::select! {
            answer = endpoint.infer(job.mode, &job.request, job.max_tokens, Some(&parts)) => of(answer),
            () = sleep(left) => {
                if left < timeout {
                    Ended::Elsewhere
                } else {
                    let message = format!("the run took longer than {} ms", timeout.as_millis());
                    Ended::Failed(Failure::new(FailureKind::TimedOut, &message))
                }
            }
            halt = halted => match halt {
                Ok(Halt::Shutdown) => Ended::Released(ReleaseReason::Shutdown, "the Agent stops".to_owned()),
                Ok(Halt::Cancelled) => Ended::Elsewhere,
                Err(_) => Ended::Released(ReleaseReason::Shutdown, "nobody waits for it".to_owned()),
            },
        };
        drop(parts);
        ended
    };
    let (ended, ()) = tokio::join!(run, streamed);
    let duration_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    node.meters.ran(&job.model, ended.meter(), begun.elapsed(), ended.tokens());
    // Before the job is back in the queue: its next run has a place of its own.
    node.end_run(job.id);
    let run = Run { job, attempt, ended, duration_ms };
    if run.ended.is_doubtful() {
        return Over::Doubtful(Box::new(run));
    }
    run.keep(&node).await;
    Over::Kept
}

/// What an answer of the runtime means for its job.
fn of(answer: Result<Output, InferenceError>) -> Ended {
    match answer {
        Ok(output) => Ended::Answered(output),
        Err(InferenceError::Lost { cause }) => Ended::Released(ReleaseReason::RuntimeLost, cause),
        Err(
            error @ (InferenceError::Refused { .. }
            | InferenceError::Malformed { .. }
            | InferenceError::TooLarge { .. }),
        ) => Ended::Failed(Failure::new(FailureKind::Runtime, &causes(&error))),
    }
}

async fn forward(node: Arc<Node>, job: JobId, attempt: u16, mut given: mpsc::Receiver<String>) {
    let mut index = 0;
    while let Some(data) = given.recv().await {
        node.give(Chunk { job, attempt, index, data });
        index += 1;
    }
}

impl Run {
    /// Keeps how it ended, and tells the session when there is something to send.
    async fn keep(self, node: &Node) {
        let Self { job, attempt, ended, duration_ms } = self;
        let (kind, store) = (Kind::Inference, node.store.jobs());
        let fields = |more: Value| {
            let model = job.model.to_string();
            [
                ("model", json!(model)),
                ("attempt", json!(attempt)),
                ("duration_ms", json!(duration_ms)),
                ("more", more),
            ]
        };
        let moved = match ended {
            Ended::Answered(output) => {
                let tokens = json!({
                    "prompt_tokens": output.prompt_tokens, "completion_tokens": output.completion_tokens,
                    "output_bytes": output.body.len(),
                });
                node.journal.measured(Level::Info, kind, Some(job.id), "answered", fields(tokens));
                loop {
                    let now = now_or(node, job.expires_at);
                    match node.written(store.finish(job.id, output.clone(), now).await) {
                        // It is never computed again, so it is worth waiting for.
                        Err(WriteError::Full { .. }) if now < job.expires_at && !stopping(node) => {
                            sleep(FULL_WAIT).await;
                        }
                        other => break other,
                    }
                }
            }
            Ended::Failed(failure) => {
                // Its words may quote the prompt: they go to the network alone.
                let why = json!(format!("{:?}", failure.kind));
                node.journal.measured(Level::Warn, kind, Some(job.id), "failed", fields(why));
                node.written(store.fail(job.id, failure, now_or(node, job.expires_at)).await)
            }
            Ended::Released(reason, cause) => {
                let why = json!(cause);
                node.journal.measured(Level::Warn, kind, Some(job.id), "put back in the queue", fields(why));
                node.written(store.release(job.id, reason, now_or(node, job.expires_at)).await)
            }
            Ended::Elsewhere => return,
        };
        match moved {
            Ok(Moved::Done | Moved::Already) => {}
            Ok(other @ (Moved::Elsewhere(_) | Moved::Expired | Moved::Unknown | Moved::Unreadable(_))) => {
                let why = format!("what came of the run does not count: {other:?}");
                node.journal.measured(Level::Info, kind, Some(job.id), why, []);
            }
            Err(error) => {
                node.journal.failed(Level::Error, Kind::Storage, "cannot keep what came of a run", &error);
            }
        }
        node.ended.notify_one();
    }
}

/// Whether the Agent is ending: then nothing is worth waiting for, the next start takes it up.
fn stopping(node: &Node) -> bool {
    *node.readiness.borrow() == Readiness::Stopping
}

/// Now; without a clock the moment given, which ends a wait.
fn now_or(node: &Node, otherwise: Timestamp) -> Timestamp {
    time::now(&node.store).unwrap_or(otherwise)
}
