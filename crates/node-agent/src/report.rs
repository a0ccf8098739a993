//! Reports: heartbeats, log batches, traces, and what became of snapshots.
//!
//! Logs and traces are deleted, or may be, only when the network has them. What fails is tried at the next turn: nothing
//! here is urgent, and everything waits in the store.

use std::{
    collections::VecDeque,
    sync::{Arc, PoisonError},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use node_store::{binding::Account as AccountName, logs::Batch, reader::ReadError, writer::WriteError};
use node_types::{
    log::{BatchHeader, Kind, Level},
    protocol::{Account, ConfigReport, ErrorCode, Heartbeat, LogBatch, Readiness, TraceBatch},
};
use serde_json::json;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use crate::{
    author::AuthorError,
    backoff,
    blocking::blocking,
    network::{Network, NetworkError},
    node::Node,
    standing::{self, StandingError},
};

/// Between two heartbeats and two flushes where no snapshot says, in milliseconds.
const BEAT_MS: (u64, u64) = (10_000, 10_000);
/// Between two looks whether the network knows the node by now.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// Batches that are read at once.
const BATCHES: u32 = 16;
/// Reports of snapshots that wait for the network; the oldest goes first.
const REPORTS_MAX: usize = 16;

/// Why a report did not arrive.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The network.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// Signing.
    #[error(transparent)]
    Author(#[from] AuthorError),
    /// Reading what is to be sent.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// How the node stands.
    #[error(transparent)]
    Standing(#[from] StandingError),
    /// Noting that it was sent.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Sends what there is to report until `stop`, and once more then.
pub async fn run<N: Network>(
    node: Arc<Node>,
    network: Arc<N>,
    mut configs: mpsc::Receiver<ConfigReport>,
    mut stop: watch::Receiver<bool>,
) {
    let mut waiting = VecDeque::new();
    let begun = Instant::now();
    let (mut next_beat, mut next_flush) = (begun, begun + Duration::from_millis(BEAT_MS.1));
    let mut failures = 0_u32;
    let mut account_told = false;
    let mut broken = false;
    loop {
        let stopping = *stop.borrow();
        let (beat_ms, flush_ms) = timings(&node);
        if node.is_known() {
            let now = Instant::now();
            let mut answers = Vec::new();
            answers.push(send_configs(&node, &*network, &mut waiting).await);
            if !account_told && !stopping {
                let told = tell_account(&node, &*network).await;
                account_told = told.is_ok();
                answers.push(told);
            }
            if now >= next_beat || stopping {
                next_beat = now + Duration::from_millis(beat_ms);
                answers.push(beat(&node, &*network, begun).await);
            }
            if now >= next_flush || stopping {
                next_flush = now + Duration::from_millis(flush_ms);
                answers.push(flush(&node, &*network, &mut broken).await);
                answers.push(send_traces(&node, &*network).await);
            }
            match answers.into_iter().find_map(Result::err) {
                None => failures = 0,
                Some(error) => {
                    if let ReportError::Network(error) = &error {
                        node.heed(error).await;
                    }
                    failures += 1;
                    let level = if failures.is_power_of_two() { Level::Warn } else { Level::Debug };
                    node.journal.failed(level, Kind::Network, "a report did not arrive", &error);
                }
            }
        }
        if stopping {
            return;
        }
        let retry = (failures > 0 && !waiting.is_empty())
            .then(|| Instant::now() + backoff::wait(failures, beat_ms.min(1000), beat_ms, backoff::random()));
        // Nothing is due for a network that does not know the node.
        let next = if node.is_known() { next_beat.min(next_flush) } else { Instant::now() + LOOK_AGAIN };
        tokio::select! {
            () = sleep_until(retry.map_or(next, |retry| retry.min(next))) => {}
            () = node.flush.notified() => next_flush = Instant::now(),
            Some(config) = configs.recv() => {
                if waiting.len() == REPORTS_MAX {
                    waiting.pop_front();
                }
                waiting.push_back(config);
            }
            _ = stop.changed() => {}
        }
    }
}

fn timings(node: &Node) -> (u64, u64) {
    node.store.snapshots().current().map_or(BEAT_MS, |current| {
        let timings = &current.config.document().timings;
        (timings.heartbeat_ms, timings.flush_ms)
    })
}

/// Says once a start which account the node works for: it can only be changed while no Agent runs.
async fn tell_account<N: Network>(node: &Node, network: &N) -> Result<(), ReportError> {
    let link = node.store.view().binding().account()?;
    let account = link.as_ref().map(|link| match link.account() {
        AccountName::Wallet(address) => address.to_string(),
        AccountName::Email(email) => email.clone(),
    });
    let proof = link.map(|link| link.proof().to_owned());
    let signed = node.author.sign(&Account { account, proof }).await?;
    network.post::<Account>(&signed).await?;
    Ok(())
}

async fn send_configs<N: Network>(
    node: &Node,
    network: &N,
    waiting: &mut VecDeque<ConfigReport>,
) -> Result<(), ReportError> {
    while let Some(report) = waiting.front() {
        let signed = node.author.sign(report).await?;
        network.post::<ConfigReport>(&signed).await?;
        waiting.pop_front();
    }
    Ok(())
}

async fn beat<N: Network>(node: &Arc<Node>, network: &N, begun: Instant) -> Result<(), ReportError> {
    let asked = Arc::clone(node);
    let (standing, incidents) = blocking(move || {
        // Where they cannot be read now, they are told with a later one.
        let incidents = asked.store.view().incidents().unwrap_or_default();
        (standing::of_agent(&asked), incidents)
    })
    .await;
    let standing = standing?;
    let readiness = *node.readiness.borrow();
    let uptime_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    let heartbeat = standing.heartbeat(readiness, uptime_ms);
    let signed = node.author.sign(&heartbeat).await?;
    let answer = network.post::<Heartbeat>(&signed).await?;
    for incident in incidents {
        node.written(node.store.volume().incidents_reported(incident.database, incident.seq).await)?;
    }
    node.heard_time(answer.now_ms).await?;
    let held = node.store.snapshots().current().map(|current| current.config.digest());
    let unwanted = *node.unwanted.lock().unwrap_or_else(PoisonError::into_inner);
    let offered =
        answer.snapshot.map(|offered| offered.digest).filter(|it| Some(*it) != held && Some(*it) != unwanted);
    if offered.is_some() && readiness != Readiness::Stopping {
        node.fetch.notify_one();
    }
    Ok(())
}

/// Puts the records into batches and sends those that the network does not have.
///
/// Where the network misses a batch before one, or has another in its place (a copy of the volume went on with the chain, or the
/// network lost a part of it), another chain is begun. `broken` is whether that was said since all of it arrived last.
async fn flush<N: Network>(node: &Node, network: &N, broken: &mut bool) -> Result<(), ReportError> {
    let logs = node.store.logs();
    let mut anew = false;
    'sealed: loop {
        // On a full disk what is sealed already still goes: that gives the space back.
        match seal_all(node).await {
            Ok(()) | Err(WriteError::Full { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        loop {
            let batches = logs.view().batches(BATCHES)?;
            if batches.is_empty() {
                *broken = false;
                return Ok(());
            }
            for batch in batches {
                let header = batch.header.clone();
                match send_batch(node, network, batch).await {
                    Err(ReportError::Network(error)) if error.code() == Some(ErrorCode::BrokenChain) => {
                        say_broken(node, &header, broken);
                        // Once: a network that cannot follow the other one either is asked again at the next turn.
                        if std::mem::replace(&mut anew, true) {
                            return Err(error.into());
                        }
                        while node.written(logs.begin_chain_anew().await)? > 0 {}
                        continue 'sealed;
                    }
                    sent => sent?,
                }
            }
        }
    }
}

/// Says it once: where one chain after the other is refused, the first says enough.
fn say_broken(node: &Node, header: &BatchHeader, broken: &mut bool) {
    if !std::mem::replace(broken, true) {
        let fields = [("batch", json!(header.seq)), ("chain", json!(header.chain))];
        let text = "the network cannot follow this log batch: what it does not have goes into another chain";
        node.journal.measured(Level::Error, Kind::Network, None, text, fields);
    }
}

async fn seal_all(node: &Node) -> Result<(), WriteError> {
    let logs = node.store.logs();
    node.written(logs.flush().await)?;
    while node.written(logs.seal().await)?.is_some() {}
    Ok(())
}

async fn send_batch<N: Network>(node: &Node, network: &N, batch: Batch) -> Result<(), ReportError> {
    let records = batch.payload.as_deref().map(|payload| STANDARD.encode(payload));
    let signed = node.author.sign(&LogBatch { header: batch.header_json, records }).await?;
    let (acknowledged, seq) = (network.post::<LogBatch>(&signed).await?.count, batch.header.seq);
    if acknowledged != seq {
        let text = format!("it acknowledges log batch {acknowledged} where {seq} was sent");
        return Err(NetworkError::Misbehaves(text).into());
    }
    // To the end: what is left of it would be sent again.
    while node.written(node.store.logs().acknowledge(seq).await)? > 0 {}
    Ok(())
}

/// Sends the traces that the network does not have.
async fn send_traces<N: Network>(node: &Node, network: &N) -> Result<(), ReportError> {
    let jobs = node.store.jobs();
    let mut after = 0;
    loop {
        let traces = jobs.view().traces_to_upload(after)?;
        let Some((last, _)) = traces.last() else { return Ok(()) };
        after = *last;
        let (numbers, traces): (Vec<_>, Vec<_>) = traces.into_iter().unzip();
        let signed = node.author.sign(&TraceBatch { traces }).await?;
        match network.post::<TraceBatch>(&signed).await {
            Ok(_) => node.written(jobs.traces_uploaded(numbers).await)?,
            Err(error) => {
                // One attempt is what those of an earlier snapshot get.
                node.written(jobs.traces_tried(numbers).await)?;
                return Err(error.into());
            }
        }
    }
}
