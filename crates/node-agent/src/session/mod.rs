//! The session: the connection on which jobs come and ends go. What it decides is in [`machine`]; here is what is done.
//!
//! Offers and acknowledgements are written side by side, so that many share one commit. A connection that is lost or
//! misbehaves is opened again after a wait that doubles; what the network asked for when it closed in good order is
//! kept to.

pub mod machine;

use std::{future::Future, pin::Pin, sync::Arc, sync::atomic::Ordering, time::Duration};

use futures_util::stream::{FuturesUnordered, StreamExt};
use node_store::{
    jobs::{Accepted, Moved},
    writer::WriteError,
};
use node_types::{
    JobId, Timestamp,
    job::Job,
    log::{Kind, Level},
    protocol::{
        self, Accept, AcceptAnswer, Chunk, ErrorCode, ExpiredJob, FailedJob, Hello, Leaving, Payload, Pong,
        Readiness, ResultOfJob,
    },
};
use serde_json::json;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep},
};
use tracing::Instrument as _;

use crate::{
    author::AuthorError,
    backoff,
    journal::{causes, of_job},
    meters::{JobEnd, answer_name},
    network::{Link, Network, NetworkError},
    node::{Halt, Node},
    time,
};
use machine::{Action, End, IN_FLIGHT_MAX, Machine, Misbehaviour};

/// Writes to the store that one connection may wait for: beyond them nothing more is read from it.
const WRITES_MAX: usize = 256;
/// The longest wait between two attempts where no snapshot says: 30 seconds, and the first: half a second.
const RETRY_MS: (u64, u64) = (500, 30_000);
/// The longest wait that the network can ask for: an hour in milliseconds.
const RETRY_AFTER_MS_MAX: u64 = 3_600_000;
/// How often a node that is not enrolled yet looks whether it is: 50 milliseconds.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How long the network may take to greet: 10 seconds.
const GREETING: Duration = Duration::from_secs(10);

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Closed {
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error("the network misbehaves: {0}")]
    Misbehaved(#[from] Misbehaviour),
    #[error(transparent)]
    Author(#[from] AuthorError),
    #[error(transparent)]
    Storage(#[from] WriteError),
    #[error("the network closed the connection")]
    ByNetwork,
    #[error("the network did not greet in time")]
    NoGreeting,
    #[error("the network closes: {reason}")]
    Asked { reason: String, retry_after_ms: u64 },
    #[error("the Agent stops")]
    Stopped,
}

/// What a write to the store was for.
enum Written {
    Offer { job: JobId, offered: Instant, answer: Result<Accepted, WriteError> },
    Settled(JobId, Result<(), WriteError>),
}

type Write = Pin<Box<dyn Future<Output = Written> + Send>>;

/// Keeps a connection open until `stop`.
pub async fn run<N: Network>(
    node: Arc<Node>,
    network: Arc<N>,
    mut chunks: mpsc::Receiver<Chunk>,
    mut stop: watch::Receiver<bool>,
) {
    let mut failures = 0;
    while !*stop.borrow() {
        if !node.is_known() || node.is_fenced() {
            // Enrolment wakes nobody in particular: it is quick, and happens once in a node's life. So is the fence of a
            // restored copy: nothing is said of a job before that is down.
            tokio::select! {
                () = sleep(LOOK_AGAIN) => {}
                _ = stop.changed() => {}
            }
            continue;
        }
        let (mut greeted, begun) = (false, Instant::now());
        let closed = match network.connect().await {
            Ok(link) => talk(&node, link, &mut chunks, &mut stop, &mut greeted).await,
            Err(error) => error.into(),
        };
        node.connected.store(false, Ordering::Relaxed);
        node.lost(causes(&closed));
        // What nobody can watch any more.
        while chunks.try_recv().is_ok() {}
        let (min, max) = retry_ms(&node);
        // One that greets and then fails at once is no better than one that does not answer.
        failures = if greeted && begun.elapsed() > Duration::from_millis(max) { 1 } else { failures + 1 };
        let mut wait = backoff::wait(failures, min, max, backoff::random());
        match closed {
            Closed::Stopped => return,
            Closed::Asked { reason, retry_after_ms } => {
                node.journal.note(Level::Info, Kind::Network, format!("the network closed: {reason}"));
                wait = wait.max(Duration::from_millis(retry_after_ms.min(RETRY_AFTER_MS_MAX)));
            }
            Closed::Misbehaved(why) => node.journal.failed(Level::Warn, Kind::Network, "disconnected", &why),
            other @ (Closed::Network(_)
            | Closed::Author(_)
            | Closed::Storage(_)
            | Closed::ByNetwork
            | Closed::NoGreeting) => {
                // A long outage is said once when it begins, and then now and then.
                if failures.is_power_of_two() {
                    node.journal.note(
                        Level::Warn,
                        Kind::Network,
                        format!("not connected ({failures} attempts): {}", causes(&other)),
                    );
                }
            }
        }
        tokio::select! {
            () = sleep(wait) => {}
            _ = stop.changed() => {}
        }
    }
}

fn retry_ms(node: &Node) -> (u64, u64) {
    node.store.snapshots().current().map_or(RETRY_MS, |current| {
        let timings = &current.config.document().timings;
        (timings.retry_ms_min, timings.retry_ms_max)
    })
}

async fn talk<L: Link>(
    node: &Node,
    mut link: L,
    chunks: &mut mpsc::Receiver<Chunk>,
    stop: &mut watch::Receiver<bool>,
    greeted: &mut bool,
) -> Closed {
    let answer = talk_until_closed(node, &mut link, chunks, stop, greeted).await;
    let closed = match answer {
        Ok(never) => match never {},
        Err(closed) => closed,
    };
    if matches!(closed, Closed::Stopped) {
        // Politeness: the network finds out without it too.
        let _ = say(node, &mut link, &Leaving { reason: "the Agent stops".to_owned() }).await;
    }
    closed
}

async fn talk_until_closed<L: Link>(
    node: &Node,
    link: &mut L,
    chunks: &mut mpsc::Receiver<Chunk>,
    stop: &mut watch::Receiver<bool>,
    greeted: &mut bool,
) -> Result<std::convert::Infallible, Closed> {
    let mut readiness = node.readiness.subscribe();
    let mut shelf = node.shelf.subscribe();
    say(node, link, &hello(node)).await?;
    let resend_ms = retry_ms(node).1;
    let mut machine = Machine::new(resend_ms);
    let mut resend = tokio::time::interval(Duration::from_millis((resend_ms / 2).max(100)));
    let mut writes: FuturesUnordered<Write> = FuturesUnordered::new();
    let greeting = sleep(GREETING);
    tokio::pin!(greeting);
    loop {
        tokio::select! {
            frame = link.receive(), if writes.len() < WRITES_MAX => {
                let frame = frame.ok_or(Closed::ByNetwork)??;
                let action = machine.received(frame)?;
                *greeted = machine.is_greeted();
                writes.extend(act(node, link, action).await?);
                if *greeted && !node.connected.swap(true, Ordering::Relaxed) {
                    node.reached();
                    node.journal.note(Level::Info, Kind::Network, "connected");
                    send_ends(node, link, &mut machine).await?;
                }
            }
            Some(written) = writes.next() => match written {
                Written::Offer { job, offered, answer } => {
                    let accept = answer_to(job, node.written(answer)?);
                    node.meters.offered(accept.answer, offered.elapsed());
                    let telling = async {
                        tracing::debug!(answer = answer_name(accept.answer), "its offer is answered");
                        say(node, link, &accept).await
                    };
                    telling.instrument(of_job(job)).await?;
                    node.queued.notify_one();
                }
                Written::Settled(job, answer) => {
                    node.written(answer)?;
                    if let Some(end) = machine.settled(job).and_then(JobEnd::of) {
                        node.meters.ended(end);
                    }
                    node.queued.notify_one();
                    // There is room for others; a look at the outbox gives many.
                    if machine.in_flight() <= IN_FLIGHT_MAX / 2 {
                        node.ended.notify_one();
                    }
                }
            },
            Some(chunk) = chunks.recv(), if *greeted => say(node, link, &chunk).await?,
            () = node.ended.notified(), if *greeted => send_ends(node, link, &mut machine).await?,
            _ = resend.tick(), if *greeted => send_ends(node, link, &mut machine).await?,
            () = &mut greeting, if !*greeted => return Err(Closed::NoGreeting),
            _ = readiness.changed(), if *greeted => say(node, link, &hello(node)).await?,
            _ = shelf.changed(), if *greeted => say(node, link, &hello(node)).await?,
            _ = stop.changed() => {
                // What ended in the same moment goes before the farewell.
                if *greeted {
                    send_ends(node, link, &mut machine).await?;
                }
                return Err(Closed::Stopped);
            }
        }
    }
}

async fn say<L: Link, P: Payload>(node: &Node, link: &mut L, payload: &P) -> Result<(), Closed> {
    let signed = node.author.sign(payload).await?;
    Ok(link.send(&signed).await?)
}

/// What the node can do now. It is said again when that changes.
fn hello(node: &Node) -> Hello {
    let current = node.store.snapshots().current();
    let active = *node.readiness.borrow() == Readiness::Active;
    let (concurrency, models) = current.filter(|_| active).map_or((0, Vec::new()), |current| {
        let document = current.config.document();
        let ready = node.shelf.borrow().ready.clone();
        let models = document.models.iter().map(node_types::config::Model::reference);
        (document.limits.concurrency, models.filter(|model| ready.contains(model)).collect())
    });
    Hello { protocol: protocol::VERSION, agent: crate::VERSION.to_owned(), concurrency, models }
}

/// Does what a frame asks for. A write to the store goes on beside the rest.
async fn act<L: Link>(node: &Node, link: &mut L, action: Action) -> Result<Option<Write>, Closed> {
    match action {
        Action::Greeted { now, snapshot } => {
            node.heard_time(now).await?;
            if snapshot.is_some() {
                node.fetch.notify_one();
            }
        }
        Action::Accept(job) => return offer(node, *job).map(Some),
        Action::Settle(job) => return settle(node, job).map(Some),
        Action::Cancel(job) => {
            let now = time::now(&node.store).map_err(AuthorError::from)?;
            let moved = node.written(node.store.jobs().cancel(job, now).await)?;
            if moved == Moved::Done {
                node.halt(job, Halt::Cancelled);
                node.journal.measured(
                    Level::Info,
                    Kind::Inference,
                    Some(job),
                    "cancelled by the network",
                    [],
                );
                node.ended.notify_one();
            }
        }
        Action::Fetch(_) => node.fetch.notify_one(),
        Action::Pong(nonce) => say(node, link, &Pong { nonce }).await?,
        Action::Note { seq, code, message, now } => {
            let fields = [("seq", json!(seq)), ("code", json!(code))];
            let text = format!("the network refuses a message: {message}");
            node.journal.measured(Level::Warn, Kind::Network, None, text, fields);
            if let Some(now) = now.filter(|_| code == ErrorCode::OutOfTime) {
                node.heard_time(now).await?;
                // The hello is said again, on a new connection.
                return Err(Closed::Asked { reason: message, retry_after_ms: 0 });
            }
            match code {
                ErrorCode::NotRegistered => {
                    node.set_registered(false);
                    node.fetch.notify_one();
                    return Err(Closed::Asked { reason: message, retry_after_ms: 0 });
                }
                ErrorCode::Superseded | ErrorCode::AlreadyRunning => {
                    node.displace(&message);
                    return Err(Closed::Asked { reason: message, retry_after_ms: 0 });
                }
                // What waits is sent again, signed anew.
                ErrorCode::Malformed
                | ErrorCode::TooLarge
                | ErrorCode::BadSignature
                | ErrorCode::Replayed
                | ErrorCode::OutOfTime
                | ErrorCode::OtherNetwork
                | ErrorCode::Unsupported
                | ErrorCode::BrokenChain
                | ErrorCode::Unavailable => {}
            }
        }
        Action::Leave { reason, retry_after_ms } => return Err(Closed::Asked { reason, retry_after_ms }),
    }
    Ok(None)
}

fn offer(node: &Node, job: Job) -> Result<Write, Closed> {
    let now = time::now(&node.store).map_err(AuthorError::from)?;
    let (store, offered, span) = (Arc::clone(&node.store), Instant::now(), of_job(job.id));
    let accepting = async move {
        tracing::debug!("offered");
        Written::Offer { job: job.id, offered, answer: store.jobs().accept(&job, now).await }
    };
    Ok(Box::pin(accepting.instrument(span)))
}

/// Whatever the network has of a job, it is done with it: the answer may have arrived, and its acknowledgement got lost,
/// before its time ended here.
fn settle(node: &Node, job: JobId) -> Result<Write, Closed> {
    let now = time::now(&node.store).map_err(AuthorError::from)?;
    let store = Arc::clone(&node.store);
    let settling = async move {
        // Begun together, they share a commit.
        let (mut acknowledged, mut reported) =
            (store.jobs().acknowledge(job, now), store.jobs().reported(vec![job]));
        acknowledged.begin();
        reported.begin();
        let (acknowledged, reported) = (acknowledged.await, reported.await);
        tracing::debug!("the network has its end");
        Written::Settled(job, acknowledged.and(reported))
    };
    Ok(Box::pin(settling.instrument(of_job(job))))
}

fn answer_to(job: JobId, accepted: Accepted) -> Accept {
    let (answer, reason) = match accepted {
        Accepted::New => (AcceptAnswer::New, None),
        Accepted::Duplicate => (AcceptAnswer::Duplicate, None),
        Accepted::Conflict => (AcceptAnswer::Conflict, None),
        Accepted::Full => (AcceptAnswer::Full, None),
        Accepted::Expired => (AcceptAnswer::Expired, None),
        Accepted::Rejected(reason) => (AcceptAnswer::Rejected, Some(reason.to_string())),
    };
    Accept { job, answer, reason }
}

/// Sends the ends that wait in the store and are not on the way.
async fn send_ends<L: Link>(node: &Node, link: &mut L, machine: &mut Machine) -> Result<(), Closed> {
    let now = time::now(&node.store).map_err(AuthorError::from)?;
    let outgoing = node.written(node.store.jobs().outbox(0, now).await)?;
    // One that does not open is failed by the look itself; the next look gives that.
    let mut waiting: Vec<End> = outgoing.into_iter().filter_map(Result::ok).map(End::Run).collect();
    match node.store.view().jobs().unreported() {
        Ok(expired) => waiting.extend(expired.into_iter().map(End::Expired)),
        Err(error) => node.journal.failed(Level::Error, Kind::Storage, "cannot tell what expired", &error),
    }
    for end in machine.to_send(waiting, now) {
        let span = of_job(end.job());
        say_end(node, link, end, now).instrument(span).await?;
    }
    Ok(())
}

async fn say_end<L: Link>(node: &Node, link: &mut L, end: End, now: Timestamp) -> Result<(), Closed> {
    let job = end.job();
    tracing::debug!(kind = end.kind().name(), "its end is sent");
    match end {
        End::Run(outgoing) => {
            match outgoing.result {
                Ok(output) => say(node, link, &ResultOfJob { job, output }).await?,
                Err(failure) => say(node, link, &FailedJob { job, failure }).await?,
            }
            node.written(node.store.jobs().submitted(job, now).await)?;
        }
        End::Expired(expired) => {
            say(node, link, &ExpiredJob { job, standing: expired.state, at: expired.at }).await?;
        }
    }
    Ok(())
}
