//! What metrics are made of, looked at once. Nothing is decided here.

use std::{collections::BTreeMap, sync::atomic::Ordering};

use node_store::{
    clock::Trust,
    format::Database,
    jobs::{Counts, Tally as JobTally},
    logs::TargetState,
    meter::Distribution,
    reader::ReadError,
};
use node_types::{
    Timestamp,
    hardware::{Amount, Graphics, Hardware, Processor},
    inventory::ArtifactState,
    log::{Kind, Level},
    protocol::Readiness,
    verify::Validity,
};

use super::process::{self, Process};
use crate::{
    hardware,
    meters::Tally,
    node::Node,
    standing::{self, Storage},
    time,
};

/// What is known of the snapshot in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotFacts {
    /// Its version.
    pub version: u64,
    /// When the network made it.
    pub issued_at: Timestamp,
    /// When it is to be renewed.
    pub refresh_by: Timestamp,
    /// Whether it may be used.
    pub validity: Validity,
    /// Jobs that may be held under it.
    pub jobs_max: u64,
}

/// Everything that metrics are made of. `None`: it could not be read.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    /// Looks that failed.
    pub errors: Vec<&'static str>,
    /// The node's ID.
    pub node: String,
    /// The network it works for.
    pub network: String,
    /// What time it is, and whether jobs may be ended by it.
    pub time: Option<(Timestamp, Trust)>,
    /// Whether the node takes jobs.
    pub readiness: Readiness,
    /// Whether the session is open.
    pub connected: bool,
    /// What was counted in memory.
    pub tally: Option<Tally>,
    /// Jobs held.
    pub counts: Option<Counts>,
    /// Their counts and bytes.
    pub jobs: Option<JobTally>,
    /// When the job was taken that waits longest; inside `None` where none waits.
    pub oldest_queued: Option<Option<Timestamp>>,
    /// Who gets the log.
    pub log_targets: Option<Vec<TargetState>>,
    /// What each class of data takes, as the report says it.
    pub storage: Option<Vec<Storage>>,
    /// The snapshot in force, if there is one.
    pub snapshot: Option<SnapshotFacts>,
    /// Artifacts by state.
    pub artifacts: Option<BTreeMap<ArtifactState, u64>>,
    /// Damage and losses of the last days, and those that the network was not told of.
    pub incidents: Option<u64>,
    /// How long the commits to each database took.
    pub commits: Vec<(Database, Distribution)>,
    /// The machine.
    pub machine: Hardware,
    /// This process.
    pub process: Process,
}

/// Looks at a node. Blocks: it reads the store.
#[must_use]
pub fn gather(node: &Node) -> Facts {
    let (store, view) = (&node.store, node.store.view());
    let mut errors = Vec::new();
    let mark = time::mark(store).ok();
    if mark.is_none() {
        errors.push("clock");
    }
    let now = mark.as_ref().map(|mark| mark.now);
    let current = store.snapshots().current();
    let snapshot = current.as_ref().map(|current| {
        let document = current.config.document();
        let validity = now.and_then(|now| store.snapshots().look(|view| view.validity(now)));
        SnapshotFacts {
            version: document.version,
            issued_at: document.issued_at,
            refresh_by: document.refresh_by,
            validity: validity.unwrap_or(Validity::Fresh),
            jobs_max: document.limits.queue_jobs_max,
        }
    });
    let mut read = Read { node, errors };
    // Without a clock those that the network was not told of.
    let since = mark.as_ref().map_or(Timestamp::MAX, |mark| standing::incidents_from(mark.now));
    let log_targets = read.of("logs", || view.logs().targets());
    let jobs = read.of("tally", || view.jobs().tally());
    // Without the tally it is not looked for: one failure is counted once.
    let storage = jobs.and_then(|jobs| {
        let config = current.as_ref().map(|current| current.config.document());
        read.of("storage", || standing::storage(view, config, &jobs, log_targets.is_some()))
    });
    let artifacts = read.of("inventory", || {
        let mut states = BTreeMap::new();
        for artifact in view.inventory().list()? {
            *states.entry(artifact.state).or_default() += 1;
        }
        Ok(states)
    });
    Facts {
        node: store.node().to_string(),
        network: node.settings.network.to_string(),
        time: mark.map(|mark| (mark.now, mark.trust)),
        readiness: *node.readiness.borrow(),
        connected: node.connected.load(Ordering::Relaxed),
        tally: Some(node.meters.read(tokio::time::Instant::now())),
        counts: read.of("jobs", || view.jobs().counts()),
        jobs,
        oldest_queued: read.of("queue", || view.jobs().oldest_queued()),
        log_targets,
        storage,
        snapshot,
        artifacts,
        incidents: read.of("incidents", || Ok(view.incidents_since(since)?.len() as u64)),
        commits: Database::ALL.map(|database| (database, store.volume().commits(database))).to_vec(),
        machine: hardware::look(store.volume().folder()),
        process: process::look(),
        errors: read.errors,
    }
}

struct Read<'a> {
    node: &'a Node,
    errors: Vec<&'static str>,
}

impl Read<'_> {
    fn of<T>(&mut self, what: &'static str, look: impl FnOnce() -> Result<T, ReadError>) -> Option<T> {
        match look() {
            Ok(found) => Some(found),
            Err(error) => {
                // Every scrape would say it: whoever wants to know finds it here.
                self.node.journal.failed(Level::Debug, Kind::Metric, "a metric cannot be read", &error);
                self.errors.push(what);
                None
            }
        }
    }
}

impl Facts {
    /// A node of which everything is known: what the documentation and tests are made from.
    #[must_use]
    pub fn example() -> Self {
        use std::time::Duration;

        use node_types::{job::ModelRef, protocol::AcceptAnswer};
        use tokio::time::Instant;

        use crate::meters::{JobEnd, Meters, RunEnd};

        let (now, at) = (Instant::now(), Timestamp::from_ms(1_800_000_000_000));
        let meters = Meters::new(now);
        let model = ModelRef { name: "model".to_owned(), version: "1".to_owned() };
        meters.offered(AcceptAnswer::New, Duration::from_millis(2));
        meters.began();
        meters.ran(&model, RunEnd::Answered, Duration::from_secs(1), Some((10, 20)));
        meters.ended(JobEnd::Answered);
        let target = |name: &str| TargetState {
            name: name.to_owned(),
            required: true,
            cursor: 1,
            waiting: 1,
            oldest: Some(at),
            lost: BTreeMap::from([(Level::Debug, 1)]),
            rejected: 0,
        };
        let amount = Amount { total_bytes: Some(1 << 30), free_bytes: Some(1 << 20) };
        let card = Graphics {
            name: "card".to_owned(),
            memory: amount,
            busy_percent: Some(50),
            celsius: Some(60),
            milliwatts: Some(250_000),
        };
        let commit = node_store::meter::Histogram::new(node_store::writer::COMMIT_BOUNDS);
        Self {
            errors: Vec::new(),
            node: "node".to_owned(),
            network: "testnet".to_owned(),
            time: Some((at.plus_ms(60_000), Trust::Trusted)),
            readiness: Readiness::Active,
            connected: true,
            tally: Some(meters.read(now)),
            counts: Some(Counts { queued: 1, running: 1, unsent: 1 }),
            jobs: Some(JobTally { jobs: 3, bytes: 4096, expired: 1, trace_bytes: 4096, traces_lost: 1 }),
            oldest_queued: Some(Some(at)),
            log_targets: Some(["file", "network", "otlp"].map(target).to_vec()),
            storage: Some(vec![
                Storage { class: "jobs".to_owned(), bytes: 4096, limit_bytes: Some(1 << 26) },
                Storage { class: "traces".to_owned(), bytes: 4096, limit_bytes: Some(1 << 26) },
                Storage { class: "models".to_owned(), bytes: 1 << 30, limit_bytes: None },
            ]),
            snapshot: Some(SnapshotFacts {
                version: 7,
                issued_at: at,
                refresh_by: at.plus_ms(3_600_000),
                validity: Validity::Fresh,
                jobs_max: 1000,
            }),
            artifacts: Some(BTreeMap::from([(ArtifactState::Ok, 3)])),
            incidents: Some(0),
            commits: Database::ALL.map(|database| (database, commit.read())).to_vec(),
            machine: Hardware {
                processor: Processor { name: None, threads: Some(8), load_1m_milli: Some(500) },
                memory: amount,
                disk: amount,
                graphics: vec![card],
            },
            process: Process {
                resident: Some(1 << 25),
                open_files: Some(32),
                open_files_max: Some(1024),
                started: Some(1_800_000_000.0),
                processor: Some(1.5),
            },
        }
    }
}
