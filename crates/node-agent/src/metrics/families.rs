//! The families: which metrics there are, made of facts alone.

use node_store::{clock::Trust, format::Database, logs::NETWORK, meter::Distribution};
use node_types::{
    Timestamp, hardware::Graphics, inventory::ArtifactState, log::Level, protocol::Readiness,
    verify::Validity,
};

use super::{Facts, Family, Kind, Sample, Since, Unit, Value};
use crate::meters::{ANSWERS, JobEnd, RunEnd, answer_name};

/// Makes a family: nothing where there is nothing to say.
struct Families(Vec<Family>);

type Labels = Vec<(&'static str, String)>;

impl Families {
    fn add(
        &mut self,
        name: &'static str,
        (kind, unit): (Kind, Unit),
        help: &'static str,
        samples: impl IntoIterator<Item = (Labels, Value)>,
    ) {
        let samples: Vec<_> = samples.into_iter().map(|(labels, value)| Sample { labels, value }).collect();
        if !samples.is_empty() {
            self.0.push(Family { name, help, kind, unit, samples });
        }
    }

    /// One number without labels.
    fn one(&mut self, name: &'static str, of: (Kind, Unit), help: &'static str, value: Option<f64>) {
        self.add(name, of, help, value.map(|value| (Vec::new(), Value::Number(value))));
    }
}

/// A count as a number: beyond 2^53 it is rounded, which no node reaches.
const fn number(count: u64) -> f64 {
    count as f64
}

fn seconds(at: Timestamp) -> f64 {
    number(at.ms()) / 1000.0
}

fn label(name: &'static str, value: &str) -> Labels {
    vec![(name, value.to_owned())]
}

fn count(labels: Labels, value: u64) -> (Labels, Value) {
    (labels, Value::Number(number(value)))
}

fn flag(holds: bool) -> f64 {
    if holds { 1.0 } else { 0.0 }
}

const fn readiness_name(readiness: Readiness) -> &'static str {
    match readiness {
        Readiness::Active => "active",
        Readiness::Starting => "starting",
        Readiness::Installing => "installing",
        Readiness::NoConfiguration => "no_configuration",
        Readiness::RuntimeDown => "runtime_down",
        Readiness::StorageFailed => "storage_failed",
        Readiness::Stopping => "stopping",
    }
}

const READINESS: [Readiness; 7] = [
    Readiness::Active,
    Readiness::Starting,
    Readiness::Installing,
    Readiness::NoConfiguration,
    Readiness::RuntimeDown,
    Readiness::StorageFailed,
    Readiness::Stopping,
];

const fn database_name(database: Database) -> &'static str {
    match database {
        Database::State => "state",
        Database::Jobs => "jobs",
        Database::Logs => "logs",
    }
}

/// All families of a node, of which nothing is left out but what could not be read or is not there.
#[must_use]
pub fn families(facts: &Facts) -> Vec<Family> {
    let mut all = Families(Vec::new());
    node(&mut all, facts);
    jobs(&mut all, facts);
    work(&mut all, facts);
    connection(&mut all, facts);
    storage(&mut all, facts);
    logs(&mut all, facts);
    snapshot(&mut all, facts);
    machine(&mut all, facts);
    process(&mut all, facts);
    let errors = Some(number(facts.errors.len() as u64));
    all.one(
        "resultity_scrape_errors",
        (Kind::Gauge, Unit::None),
        "Looks that failed for this answer: what they would have told is left out.",
        errors,
    );
    all.0
}

fn node(all: &mut Families, facts: &Facts) {
    let labels = vec![
        ("version", crate::VERSION.to_owned()),
        ("node", facts.node.clone()),
        ("network", facts.network.clone()),
    ];
    all.add(
        "resultity_build_info",
        (Kind::Gauge, Unit::None),
        "1, with the release, the node's ID and its network as labels.",
        [(labels, Value::Number(1.0))],
    );
    let states = READINESS.map(|readiness| {
        let holds = flag(readiness == facts.readiness);
        (label("readiness", readiness_name(readiness)), Value::Number(holds))
    });
    all.add(
        "resultity_readiness",
        (Kind::Gauge, Unit::None),
        "1 for what the node is now: it takes jobs only where that is `active`.",
        states,
    );
}

fn jobs(all: &mut Families, facts: &Facts) {
    if let Some(counts) = facts.counts {
        let states = [("queued", counts.queued), ("running", counts.running), ("unsent", counts.unsent)];
        all.add(
            "resultity_jobs",
            (Kind::Gauge, Unit::None),
            "Jobs held now: waiting for the runtime, with it, or ended and not acknowledged by the network.",
            states.map(|(state, jobs)| count(label("state", state), jobs)),
        );
    }
    let limit = facts.snapshot.map(|snapshot| number(snapshot.jobs_max));
    all.one(
        "resultity_jobs_limit",
        (Kind::Gauge, Unit::None),
        "Jobs that may be held under the snapshot in force.",
        limit,
    );
    let age = facts
        .oldest_queued
        .zip(facts.time)
        .map(|(oldest, (now, _))| oldest.map_or(0.0, |taken| number(now.since_ms(taken)) / 1000.0));
    all.one(
        "resultity_queue_age_seconds",
        (Kind::Gauge, Unit::Seconds),
        "How long the job has waited that waits longest for the runtime; 0 where none waits.",
        age,
    );
    all.one(
        "resultity_jobs_expired_total",
        (Kind::Counter(Since::Volume), Unit::None),
        "Jobs whose time ended before they were acknowledged, since the volume was made.",
        facts.jobs.map(|tally| number(tally.expired)),
    );
    all.one(
        "resultity_traces_lost_total",
        (Kind::Counter(Since::Volume), Unit::None),
        "Traces deleted before the network had them, since the volume was made.",
        facts.jobs.map(|tally| number(tally.traces_lost)),
    );
    let Some(tally) = &facts.tally else { return };
    all.add(
        "resultity_job_offers_total",
        (Kind::Counter(Since::Agent), Unit::None),
        "Jobs that the network offered, by the node's answer.",
        ANSWERS.map(|answer| {
            let name = answer_name(answer);
            count(label("answer", name), tally.offers.get(name).copied().unwrap_or(0))
        }),
    );
    all.add(
        "resultity_accept_duration_seconds",
        (Kind::Histogram, Unit::Seconds),
        "From a job's offer until it is on disk or refused.",
        [(Vec::new(), Value::Distribution(tally.accept.clone()))],
    );
    all.add(
        "resultity_jobs_ended_total",
        (Kind::Counter(Since::Agent), Unit::None),
        "Jobs whose end the network has acknowledged, by how they ended.",
        JobEnd::ALL
            .map(|end| count(label("outcome", end.name()), tally.ends.get(&end).copied().unwrap_or(0))),
    );
}

fn work(all: &mut Families, facts: &Facts) {
    let Some(tally) = &facts.tally else { return };
    all.one(
        "resultity_attempts_total",
        (Kind::Counter(Since::Agent), Unit::None),
        "Runs of jobs that were begun.",
        Some(number(tally.attempts)),
    );
    let runs = tally.models.iter().flat_map(|(model, of)| {
        RunEnd::ALL.map(|end| {
            let labels = vec![("model", model.clone()), ("outcome", end.name().to_owned())];
            count(labels, of.runs.get(&end).copied().unwrap_or(0))
        })
    });
    all.add(
        "resultity_runs_total",
        (Kind::Counter(Since::Agent), Unit::None),
        "Runs of jobs that came to an end, by model and by how: one that is put back runs again.",
        runs,
    );
    let inference = tally
        .models
        .iter()
        .map(|(model, of)| (label("model", model), Value::Distribution(of.inference.clone())));
    all.add(
        "resultity_inference_duration_seconds",
        (Kind::Histogram, Unit::Seconds),
        "How long the runtime took for the runs that it answered, by model.",
        inference,
    );
    let tokens = tally.models.iter().flat_map(|(model, of)| {
        [("prompt", of.prompt_tokens), ("completion", of.completion_tokens)]
            .map(|(kind, tokens)| count(vec![("model", model.clone()), ("kind", kind.to_owned())], tokens))
    });
    all.add(
        "resultity_tokens_total",
        (Kind::Counter(Since::Agent), Unit::None),
        "Tokens of the prompts and answers of the runs that were answered, by model.",
        tokens,
    );
    all.one(
        "resultity_runtime_restarts_total",
        (Kind::Counter(Since::Agent), Unit::None),
        "How often a runtime that served went away; the node starts its own again.",
        Some(number(tally.runtime_falls)),
    );
}

fn connection(all: &mut Families, facts: &Facts) {
    all.one(
        "resultity_connected",
        (Kind::Gauge, Unit::None),
        "1 while the session with the network is open.",
        Some(flag(facts.connected)),
    );
    if let Some(tally) = &facts.tally {
        all.one(
            "resultity_connections_total",
            (Kind::Counter(Since::Agent), Unit::None),
            "Sessions with the network that were opened.",
            Some(number(tally.connections)),
        );
        all.one(
            "resultity_outage_seconds",
            (Kind::Gauge, Unit::Seconds),
            "How long there has been no session now; 0 while there is one.",
            Some(tally.outage.as_secs_f64()),
        );
        all.one(
            "resultity_offline_seconds_total",
            (Kind::Counter(Since::Agent), Unit::Seconds),
            "How long there was no session since the Agent started, all together.",
            Some(tally.offline.as_secs_f64()),
        );
    }
    let Some((_, trust)) = facts.time else { return };
    let ahead = match trust {
        Trust::Trusted => 0.0,
        Trust::Held { ahead_ms } => number(ahead_ms) / 1000.0,
    };
    all.one(
        "resultity_clock_trusted",
        (Kind::Gauge, Unit::None),
        "1 while jobs may be ended by the machine's clock; 0 after a jump, until the network's time confirms it.",
        Some(flag(trust == Trust::Trusted)),
    );
    all.one(
        "resultity_clock_ahead_seconds",
        (Kind::Gauge, Unit::Seconds),
        "How far a clock in doubt is ahead of the time the node knew; 0 for one that is trusted.",
        Some(ahead),
    );
}

fn storage(all: &mut Families, facts: &Facts) {
    let classes = facts.storage.iter().flatten();
    all.add(
        "resultity_storage_bytes",
        (Kind::Gauge, Unit::Bytes),
        "Bytes that a class of data takes on the volume.",
        classes.clone().map(|of| count(label("class", &of.class), of.bytes)),
    );
    all.add(
        "resultity_storage_limit_bytes",
        (Kind::Gauge, Unit::Bytes),
        "Bytes that it may take; what has no limit but the disk is left out.",
        classes.filter_map(|of| Some(count(label("class", &of.class), of.limit_bytes?))),
    );
    let commits = |of: &(Database, Distribution)| {
        (label("database", database_name(of.0)), Value::Distribution(of.1.clone()))
    };
    all.add(
        "resultity_commit_duration_seconds",
        (Kind::Histogram, Unit::Seconds),
        "How long commits took, the sync of the disk included (`logs` is not synced at every commit).",
        facts.commits.iter().map(commits),
    );
    all.one(
        "resultity_incidents",
        (Kind::Gauge, Unit::None),
        "Databases found damaged or missing in the last 7 days, or of which the network was not told yet.",
        facts.incidents.map(number),
    );
}

fn logs(all: &mut Families, facts: &Facts) {
    let Some(targets) = &facts.log_targets else { return };
    let lost = targets.iter().flat_map(|target| {
        Level::ALL.map(|level| {
            let labels = vec![("target", target.name.clone()), ("level", level.name().to_owned())];
            count(labels, target.lost.get(&level).copied().unwrap_or(0))
        })
    });
    all.add(
        "resultity_log_records_lost_total",
        (Kind::Counter(Since::Volume), Unit::None),
        "Log records that a target will never have, since the volume was made: over the limit, past their time, refused, or gone before it took them.",
        lost,
    );
    let others = targets.iter().filter(|target| target.name != NETWORK);
    all.add(
        "resultity_log_records_rejected_total",
        (Kind::Counter(Since::Volume), Unit::None),
        "Log records that a target took a batch without, of which it does not say which, since the volume was made.",
        others.map(|target| count(label("target", &target.name), target.rejected)),
    );
    all.add(
        "resultity_log_waiting_records",
        (Kind::Gauge, Unit::None),
        "Log records that a target does not have yet, at the most.",
        targets.iter().map(|target| count(label("target", &target.name), target.waiting)),
    );
    let Some((now, _)) = facts.time else { return };
    let lag = targets.iter().map(|target| {
        let lag = target.oldest.map_or(0.0, |oldest| number(now.since_ms(oldest)) / 1000.0);
        (label("target", &target.name), Value::Number(lag))
    });
    all.add(
        "resultity_log_lag_seconds",
        (Kind::Gauge, Unit::Seconds),
        "How old the oldest log record is that a target does not have; 0 where it has all.",
        lag,
    );
}

fn snapshot(all: &mut Families, facts: &Facts) {
    let version = facts.snapshot.map_or(0, |snapshot| snapshot.version);
    all.one(
        "resultity_snapshot_version",
        (Kind::Gauge, Unit::None),
        "The version of the snapshot in force; 0 without one.",
        Some(number(version)),
    );
    if let Some((snapshot, (now, _))) = facts.snapshot.zip(facts.time) {
        all.one(
            "resultity_snapshot_age_seconds",
            (Kind::Gauge, Unit::Seconds),
            "How long ago the network made the snapshot in force.",
            Some(number(now.since_ms(snapshot.issued_at)) / 1000.0),
        );
        all.one(
            "resultity_snapshot_refresh_timestamp_seconds",
            (Kind::Gauge, Unit::Seconds),
            "When the snapshot in force is to be renewed, in seconds since 1970 UTC.",
            Some(seconds(snapshot.refresh_by)),
        );
        let usable = match snapshot.validity {
            Validity::Fresh | Validity::RefreshDue => 0.0,
            Validity::Stale { .. } => 1.0,
            Validity::OutOfForce => 2.0,
        };
        all.one(
            "resultity_snapshot_staleness",
            (Kind::Gauge, Unit::None),
            "0 while the snapshot is valid, 1 when it is stale, 2 when the offline grace has ended and no jobs are run.",
            Some(usable),
        );
    }
    let Some(artifacts) = &facts.artifacts else { return };
    all.add(
        "resultity_artifacts",
        (Kind::Gauge, Unit::None),
        "Models' files, runtimes, the Agent and the configuration, by what was found when their hashes were measured.",
        ArtifactState::ALL
            .map(|state| count(label("state", state.name()), artifacts.get(&state).copied().unwrap_or(0))),
    );
}

fn machine(all: &mut Families, facts: &Facts) {
    let machine = &facts.machine;
    let gauge = |unit| (Kind::Gauge, unit);
    all.one(
        "resultity_host_load1",
        gauge(Unit::None),
        "Processes of the machine that ran or wanted to, on average over a minute.",
        machine.processor.load_1m_milli.map(|load| number(load) / 1000.0),
    );
    all.one(
        "resultity_host_processors",
        gauge(Unit::None),
        "Processors that the Agent may use.",
        machine.processor.threads.map(f64::from),
    );
    all.one(
        "resultity_host_memory_bytes",
        gauge(Unit::Bytes),
        "Main memory of the machine.",
        machine.memory.total_bytes.map(number),
    );
    all.one(
        "resultity_host_memory_available_bytes",
        gauge(Unit::Bytes),
        "Main memory that new work could have.",
        machine.memory.free_bytes.map(number),
    );
    all.one(
        "resultity_disk_bytes",
        gauge(Unit::Bytes),
        "Size of the file system that holds the volume.",
        machine.disk.total_bytes.map(number),
    );
    all.one(
        "resultity_disk_free_bytes",
        gauge(Unit::Bytes),
        "Bytes of it that the node could still use.",
        machine.disk.free_bytes.map(number),
    );
    let cards = |value: fn(&Graphics) -> Option<f64>| -> Vec<_> {
        let sample = |(index, card): (usize, &Graphics)| {
            let labels = vec![("gpu", index.to_string()), ("name", card.name.clone())];
            Some((labels, Value::Number(value(card)?)))
        };
        machine.graphics.iter().enumerate().filter_map(sample).collect()
    };
    all.add(
        "resultity_gpu_utilization_ratio",
        gauge(Unit::Ratio),
        "How much of the last moment a graphics card worked.",
        cards(|card| card.busy_percent.map(|percent| f64::from(percent) / 100.0)),
    );
    all.add(
        "resultity_gpu_memory_bytes",
        gauge(Unit::Bytes),
        "Memory of a graphics card.",
        cards(|card| card.memory.total_bytes.map(number)),
    );
    all.add(
        "resultity_gpu_memory_used_bytes",
        gauge(Unit::Bytes),
        "Memory of a graphics card that is in use.",
        cards(|card| {
            card.memory
                .total_bytes
                .zip(card.memory.free_bytes)
                .map(|(all, free)| number(all.saturating_sub(free)))
        }),
    );
    all.add(
        "resultity_gpu_temperature_celsius",
        gauge(Unit::Celsius),
        "How warm a graphics card is.",
        cards(|card| card.celsius.map(f64::from)),
    );
    all.add(
        "resultity_gpu_power_watts",
        gauge(Unit::Watts),
        "What a graphics card takes.",
        cards(|card| card.milliwatts.map(|milliwatts| f64::from(milliwatts) / 1000.0)),
    );
}

/// Named as all programs name them (prometheus.io/docs/instrumenting/writing_clientlibs, "Process metrics").
fn process(all: &mut Families, facts: &Facts) {
    let process = facts.process;
    all.one(
        "process_resident_memory_bytes",
        (Kind::Gauge, Unit::Bytes),
        "Main memory that the Agent has.",
        process.resident.map(number),
    );
    all.one(
        "process_open_fds",
        (Kind::Gauge, Unit::None),
        "Files that the Agent has open.",
        process.open_files.map(number),
    );
    all.one(
        "process_max_fds",
        (Kind::Gauge, Unit::None),
        "Files that it may have open.",
        process.open_files_max.map(number),
    );
    all.one(
        "process_start_time_seconds",
        (Kind::Gauge, Unit::Seconds),
        "When the Agent was started, in seconds since 1970 UTC.",
        process.started,
    );
    all.one(
        "process_cpu_seconds_total",
        (Kind::Counter(Since::Process), Unit::Seconds),
        "How long the Agent worked, in seconds of one processor.",
        process.processor,
    );
}
