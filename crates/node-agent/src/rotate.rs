//! Rotation: the store's plan is made and done every second; what the plan leaves to the Agent wakes those who do it.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use node_store::{
    inventory,
    rotation::{AgentStep, Staleness, Step, StoreStep, Trigger},
};
use node_types::{
    inventory::ArtifactId,
    log::{Kind, Level},
};
use tokio::{sync::watch, time::sleep};

use crate::{blocking::blocking, node::Node};

/// Between two plans: 1 second, so that a job ends at most so long after its time.
pub const EVERY: Duration = Duration::from_secs(1);

/// What was said already, so that it is not said every second.
#[derive(Debug, Default)]
struct Said {
    staleness: Option<Staleness>,
    full: bool,
    clock: bool,
    logs: bool,
    failures: u32,
}

/// Rotates until `stop`.
pub async fn run(node: Arc<Node>, mut stop: watch::Receiver<bool>) {
    let mut since = vec![Trigger::Restart];
    let mut said = Said::default();
    while !*stop.borrow() {
        let planning = Arc::clone(&node);
        let triggers = std::mem::take(&mut since);
        match blocking(move || planning.rotate(&triggers)).await {
            Ok(steps) => {
                said.failures = 0;
                act(&node, &mut said, &steps);
            }
            Err(text) => {
                said.failures += 1;
                if said.failures.is_power_of_two() {
                    node.journal.note(Level::Error, Kind::Storage, format!("rotation failed: {text}"));
                }
            }
        }
        tokio::select! {
            () = sleep(EVERY) => {}
            _ = stop.changed() => {}
        }
    }
}

/// Has the keeper look at an artifact again.
fn measure(node: &Node, artifact: ArtifactId) {
    let mut due = node.due.lock().unwrap_or_else(PoisonError::into_inner);
    if due.insert(artifact) {
        node.install.notify_one();
    }
}

fn act(node: &Node, said: &mut Said, steps: &[Step]) {
    let (mut staleness_now, mut full, mut clock, mut logs) = (None, false, false, false);
    for step in steps {
        match step {
            // What is said of it is a record, which would be deleted when its own time ends, and said again.
            Step::Store(StoreStep::DeleteLogs { unsent: 0, .. }) => {}
            Step::Store(step) => node.journal.note(Level::Debug, Kind::Storage, step.to_string()),
            Step::Agent(step) => match step {
                AgentStep::ReportExpired { .. } | AgentStep::SendAnswers { .. } => node.ended.notify_one(),
                AgentStep::UploadTraces { .. } | AgentStep::FlushLogs { .. } => node.flush.notify_one(),
                AgentStep::SayStale { staleness, .. } => {
                    staleness_now = Some(*staleness);
                    if said.staleness != staleness_now {
                        node.journal.note(Level::Warn, Kind::Configuration, step.to_string());
                        node.fetch.notify_one();
                    }
                }
                AgentStep::SayFull { .. } => {
                    full = true;
                    if !said.full {
                        node.journal.note(Level::Warn, Kind::Storage, step.to_string());
                    }
                }
                AgentStep::ConfirmTime { .. } => {
                    clock = true;
                    if !said.clock {
                        node.journal.note(Level::Warn, Kind::Agent, step.to_string());
                    }
                }
                AgentStep::SayLogsUnreadable => {
                    logs = true;
                    if !said.logs {
                        node.journal.note(Level::Error, Kind::Storage, step.to_string());
                    }
                }
                AgentStep::Measure { artifact } => measure(node, artifact.clone()),
                AgentStep::CheckSeals { .. } => node.install.notify_one(),
                AgentStep::VerifySnapshot { .. } => measure(node, inventory::configuration()),
            },
        }
    }
    (said.staleness, said.full, said.clock, said.logs) = (staleness_now, full, clock, logs);
}
