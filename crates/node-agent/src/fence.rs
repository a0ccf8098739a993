//! The fence of a restored copy: the network is asked what became of its jobs before any is run or sent.
//!
//! The node that the backup was made of may have gone on: jobs of the copy may have been answered, given to others, or
//! forgotten. Only the network knows. Until it has answered, dispatch leases nothing and no session is opened; what it
//! says is kept in the store before the fence comes down, so a crash in between asks again.
//!
//! Two more things may have moved on. Message numbers: the copy passed over all until it was restored, and passes over
//! all until now by the network's clock. The snapshot: the newest that the network has is judged first, which raises the
//! floor to where it was.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError},
    time::Duration,
};

use node_store::{
    jobs::{AfterRestore, BATCH_MAX},
    reader::ReadError,
    writer::WriteError,
};
use node_types::{
    log::{Kind, Level},
    protocol::{Claims, INQUIRY_JOBS_MAX, Inquiry, SnapshotRef},
    trace::Outcome,
};
use serde_json::json;
use tokio::{sync::watch, time::sleep};

use crate::{
    author::AuthorError,
    backoff,
    network::{Network, NetworkError},
    node::Node,
    time::{self, NoClock},
};

/// Between two looks at whether the node is registered, which has to come first.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Between two questions, in milliseconds: the first and the longest wait.
const RETRY_MS: (u64, u64) = (500, 30_000);

/// Why the fence stays up for now.
#[derive(Debug, thiserror::Error)]
enum Still {
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Author(#[from] AuthorError),
    #[error(transparent)]
    Clock(#[from] NoClock),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// What became of the jobs of the backup.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    kept: u64,
    answered: u64,
    failed: u64,
    expired: u64,
    elsewhere: u64,
    unknown: u64,
}

impl Tally {
    fn count(&mut self, done: AfterRestore) {
        let counted = match done {
            AfterRestore::Keep => &mut self.kept,
            AfterRestore::Settle(Outcome::Answered) => &mut self.answered,
            AfterRestore::Settle(Outcome::Failed) => &mut self.failed,
            AfterRestore::Settle(Outcome::Expired) => &mut self.expired,
            AfterRestore::Drop => &mut self.elsewhere,
            AfterRestore::Fail => &mut self.unknown,
        };
        *counted += 1;
    }
}

/// Asks until the fence is down, or `stop`.
pub async fn run<N: Network>(node: Arc<Node>, network: Arc<N>, mut stop: watch::Receiver<bool>) {
    let text = "this volume was restored from a backup: its jobs wait until the network says which are still this node's";
    node.journal.note(Level::Warn, Kind::Agent, text);
    // Questions in a row that failed, and answers that told of a snapshot which was not judged yet.
    let (mut failures, mut early, mut tally) = (0_u32, 0_u32, Tally::default());
    let wait = |times| backoff::wait(times, RETRY_MS.0, RETRY_MS.1, backoff::random());
    while !*stop.borrow() {
        let wait = if node.is_known() {
            tokio::select! {
                tried = ask(&node, &*network, &mut tally) => match tried {
                    Ok(Asked::Down) => return say_down(&node, tally),
                    Ok(Asked::More) => {
                        (failures, early) = (0, 0);
                        continue;
                    }
                    Ok(Asked::SnapshotFirst(version)) => {
                        (failures, early) = (0, early.saturating_add(1));
                        // The first look at it is on its way.
                        if early > 1 && early.is_power_of_two() {
                            let text = format!(
                                "the restored jobs wait: the network's newest snapshot, version {version}, was neither \
                                 applied nor refused here yet"
                            );
                            node.journal.note(Level::Warn, Kind::Configuration, text);
                        }
                        wait(early)
                    }
                    Err(still) => {
                        if let Still::Network(error) = &still {
                            node.heed(error).await;
                        }
                        failures = failures.saturating_add(1);
                        if failures.is_power_of_two() {
                            let text = "the network could not be asked about the restored jobs";
                            node.journal.failed(Level::Warn, Kind::Network, text, &still);
                        }
                        wait(failures)
                    }
                },
                _ = stop.changed() => return,
            }
        } else {
            LOOK_AGAIN
        };
        tokio::select! {
            () = sleep(wait) => {}
            _ = stop.changed() => {}
        }
    }
}

/// What came of asking.
enum Asked {
    /// The fence is down.
    Down,
    /// There are more jobs than one question names.
    More,
    /// The newest snapshot, of this version, has not been judged yet.
    SnapshotFirst(u64),
}

async fn ask<N: Network>(node: &Node, network: &N, tally: &mut Tally) -> Result<Asked, Still> {
    let most = INQUIRY_JOBS_MAX as u64;
    let mut jobs = node.store.view().jobs().to_ask_about(most + 1)?;
    let all = jobs.len() <= INQUIRY_JOBS_MAX;
    jobs.truncate(INQUIRY_JOBS_MAX);
    let signed = node.author.sign(&Inquiry { jobs: jobs.clone(), all }).await?;
    let Claims { now_ms, snapshot, jobs: said } = network.post::<Inquiry>(&signed).await?;
    node.heard_time(now_ms).await?;
    node.written(node.store.binding().pass_sequence(now_ms).await)?;
    node.author.renew().await;
    if let Some(newest) = snapshot.filter(|newest| !is_judged(node, *newest)) {
        node.fetch.notify_one();
        return Ok(Asked::SnapshotFirst(newest.version));
    }
    let said: BTreeMap<_, _> = said.into_iter().map(|claimed| (claimed.job, claimed)).collect();
    if let Some(missed) = jobs.iter().find(|job| !said.contains_key(job)) {
        let text = format!("it was asked about job {missed} and says nothing of it");
        return Err(NetworkError::Misbehaves(text).into());
    }
    let asked: Vec<_> = jobs.iter().filter_map(|job| said.get(job).copied()).collect();
    let now = time::now(&node.store)?;
    for some in asked.chunks(BATCH_MAX as usize) {
        for (job, done) in node.written(node.store.jobs().judge_fenced(some.to_vec(), now).await)? {
            tally.count(done);
            if done != AfterRestore::Keep {
                let fields = [("became", json!(format!("{done:?}")))];
                let text = "a job of the backup is not run here any more";
                node.journal.measured(Level::Info, Kind::Inference, Some(job), text, fields);
            }
        }
    }
    let down = node.written(node.store.jobs().take_down_fence().await)?;
    Ok(if down { Asked::Down } else { Asked::More })
}

/// Whether the network's newest snapshot was applied here once, or refused.
fn is_judged(node: &Node, newest: SnapshotRef) -> bool {
    let unwanted = *node.unwanted.lock().unwrap_or_else(PoisonError::into_inner);
    node.store.snapshots().floor().version >= newest.version || unwanted == Some(newest.digest)
}

fn say_down(node: &Node, tally: Tally) {
    node.set_unfenced();
    let Tally { kept, answered, failed, expired, elsewhere, unknown } = tally;
    let fields = [
        ("kept", json!(kept)),
        ("answered_since", json!(answered)),
        ("failed_since", json!(failed)),
        ("expired_since", json!(expired)),
        ("given_to_others", json!(elsewhere)),
        ("unknown_to_the_network", json!(unknown)),
    ];
    let text = format!(
        "the network was asked about the restored jobs: {kept} go on, {} have ended since, {elsewhere} are others' now, \
         {unknown} it does not know",
        answered + failed + expired
    );
    node.journal.measured(Level::Warn, Kind::Agent, None, text, fields);
}
