//! The facts of a report, read from the store's view and from a running Agent. Blocks.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use node_store::{
    binding::Account as AccountName,
    clock::{Mark, Trust},
    disk::{Disk as _, RealDisk},
    format::Database,
    inventory::Artifact,
    jobs::TRACES_BYTES_MAX,
    keys,
    logs::{BYTES_MAX, BYTES_MAX_LOWEST, NETWORK, Query},
    models::ModelRow,
    reader::ReadError,
    salvage::Incident as Found,
    snapshot::{InForce, SnapshotError, SnapshotView},
    view::View,
};
use node_types::{
    Digest, JobId, Network,
    config::{NodeConfig, Runtime as RuntimeConfig},
    inventory::Measured,
    job::ModelRef,
    log::{Kind, Level},
    models::ModelState,
    protocol::DRIFTED_MAX,
    trace::last_lease,
    verify::Term as Times,
};

use super::{
    AT_WORK_MAX, Account, Agent, AtWork, Connection, Ended, Fence, Identity, Incident, Jobs, LATELY_MAX,
    Live, Logs, Model, Models, Moment, Moved, Outage, Release, Runtime, Snapshot, Source, Standing, Storage,
    Traces, Trouble, Twice, advice, changes, incidents_from,
};
use crate::{
    artifacts,
    drift::{Finding, How},
    hardware,
    journal::{RUNS_TWICE, STARTS, causes},
    models::brings_files,
    node::Node,
    time::{self, NoClock},
    update,
};

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum StandingError {
    /// A database.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The snapshots.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The clock.
    #[error(transparent)]
    Clock(#[from] NoClock),
}

/// What a report is about.
#[derive(Clone, Debug)]
pub struct Around {
    /// The network.
    pub network: Network,
    /// Who the node is, where its key is there.
    pub identity: Option<Identity>,
    /// The volume's folder.
    pub folder: PathBuf,
    /// How the command line is called for this node.
    pub command: String,
    /// The Agent that has the volume.
    pub agent: Agent,
    /// What time it is.
    pub time: Mark,
}

/// The report of an Agent that runs.
///
/// # Errors
/// [`StandingError`].
pub fn of_agent(node: &Node) -> Result<Standing, StandingError> {
    let store = &node.store;
    let live = Live {
        boot: node.author.boot().to_string(),
        started_at: node.started_at,
        network_url: node.settings.network_url.clone(),
        readiness: *node.readiness.borrow(),
        contact: node.contact(),
        runtime_restarts: node.meters.runtime_falls(),
        runtime_down: node.unhealthy(),
        at_work: node.at_work(),
    };
    let around = Around {
        network: node.settings.network,
        identity: Some(Identity {
            node: store.node().to_string(),
            address: store.signer().address().to_string(),
            protection: store.protection(),
        }),
        folder: store.volume().folder().to_owned(),
        command: node.settings.command.clone(),
        agent: Agent {
            running: true,
            pid: Some(std::process::id()),
            version: Some(crate::VERSION.to_owned()),
            boot: Some(live.boot.clone()),
            started_at: Some(Moment(live.started_at)),
            readiness: Some(live.readiness),
            page: node.page(),
        },
        time: time::mark(store)?,
    };
    store.snapshots().look(|snapshots| gather(store.view(), snapshots, around, Some(&live)))
}

/// The report of a volume, and of the Agent that has it where `live` is known.
///
/// # Errors
/// [`StandingError`]; a log that cannot be read is told in the report.
pub fn gather(
    view: &View,
    snapshots: &SnapshotView,
    around: Around,
    live: Option<&Live>,
) -> Result<Standing, StandingError> {
    let now = around.time.now;
    let config = snapshots.current().map(|current| current.config.document());
    let (tally, counts) = (view.jobs().tally()?, view.jobs().counts()?);
    let lately = view.jobs().traces_before(None, LATELY_MAX)?;
    let known = view.inventory().list()?;
    let mut artifacts = BTreeMap::new();
    for artifact in &known {
        *artifacts.entry(artifact.state.name().to_owned()).or_default() += 1;
    }
    let (lost, unreadable) = match view.logs().losses() {
        Ok(lost) => (lost, None),
        // The rest can still be shown.
        Err(error) => (BTreeMap::new(), Some(causes(&error))),
    };
    // Those of a logs.db that cannot be read are in it.
    let incidents = match (view.incidents_since(incidents_from(now)), &unreadable) {
        (Ok(incidents), _) => incidents,
        (Err(_), Some(_)) => Vec::new(),
        (Err(error), None) => return Err(error.into()),
    };
    let twice = if around.agent.running { None } else { twice(view) };
    let mut standing = Standing {
        network: around.network,
        identity: around.identity,
        source: if live.is_some() { Source::Agent } else { Source::Volume },
        health: super::Health::Well,
        next: Vec::new(),
        agent: around.agent,
        time: Moment(now),
        time_held: matches!(around.time.trust, Trust::Held { .. }),
        connection: live.map(connection),
        snapshot: snapshots.current().map(|current| snapshot(current, snapshots, now)),
        floor_version: snapshots.floor().version,
        keyset_version: snapshots.keyset().map(|keyset| keyset.document().version),
        unverifiable: snapshots.unverifiable().len() as u64,
        // What was measured last may be the program of an Agent before this one.
        release: config.and_then(|config| release(config, live.map_or(&[], |_| &known))),
        fence: view.jobs().fence()?.map(|fence| Fence {
            backed_up_at: Moment(fence.backed_up_at),
            restored_at: Moment(fence.restored_at),
            jobs: fence.jobs,
        }),
        twice,
        keys_missing: keys_missing(&around.folder),
        moved: view.jobs().retired()?.map(|moved| Moved { at: Moment(moved.at), archive: moved.archive }),
        account: view.binding().account()?.map(|link| {
            let (account, kind) = match link.account() {
                AccountName::Wallet(address) => (address.to_string(), "wallet"),
                AccountName::Email(email) => (hint(email), "email"),
            };
            let (linked_at, proof) = (Moment(link.linked_at()), link.proof().to_owned());
            Account { account, kind: kind.to_owned(), linked_at, proof }
        }),
        jobs: Jobs {
            queued: counts.queued,
            running: counts.running,
            unsent: counts.unsent,
            held: tally.jobs,
            bytes: tally.bytes,
            expired: tally.expired,
            expired_unreported: view.jobs().unreported()?.len() as u64,
            at_work: live.map_or(Ok(Vec::new()), |live| at_work(view, &live.at_work))?,
            lately: lately.iter().filter_map(|(_, trace)| Ended::of(trace)).collect(),
        },
        traces: Traces { bytes: tally.trace_bytes, lost: tally.traces_lost },
        models: Models::of(models(view, config)?, config.is_some_and(brings_files)),
        runtime: config.map(|config| runtime(config, live)),
        artifacts,
        drifted: drifted(&known).into_iter().take(DRIFTED_MAX).collect(),
        storage: storage(view, config, &tally, unreadable.is_none())?,
        logs: Logs { lost, unreadable },
        incidents: incidents.into_iter().map(Incident::from).collect(),
        trouble: trouble(view),
        hardware: Some(hardware::look(&around.folder)),
        folder: around.folder,
    };
    let advice = advice::of(&standing, &around.command);
    standing.health = advice::health(&advice);
    standing.next = advice.into_iter().map(|advice| advice.text).collect();
    Ok(standing)
}

impl From<Found> for Incident {
    fn from(it: Found) -> Self {
        Self {
            database: it.database.file().to_owned(),
            at: Moment(it.at),
            cause: it.cause,
            moved_to: it.moved_to,
            saved: it.saved,
            lost: it.lost,
            reported: it.reported,
        }
    }
}

fn connection(live: &Live) -> Connection {
    let contact = &live.contact;
    let outages = contact.outages.iter().map(|outage| Outage {
        from: Moment(outage.from),
        to: Moment(outage.to),
        why: outage.why.clone(),
    });
    Connection {
        url: Some(live.network_url.clone()).filter(|url| !url.is_empty()),
        connected: contact.connected,
        since: Moment(contact.since),
        why: contact.why.clone(),
        outages: outages.collect(),
    }
}

fn snapshot(current: &InForce, snapshots: &SnapshotView, now: node_types::Timestamp) -> Snapshot {
    let previous = snapshots.previous();
    let document = current.config.document();
    let term = Times::of(document);
    Snapshot {
        version: document.version,
        digest: current.config.digest(),
        issued_at: Moment(document.issued_at),
        applied_at: Moment(current.applied_at),
        good: current.good,
        validity: term.at(now).into(),
        refresh_by: Moment(term.refresh_by),
        valid_until: Moment(term.valid_until),
        grace_until: Moment(term.grace_until),
        previous_version: previous.map(|previous| previous.config.document().version),
        taken_back_version: snapshots.taken_back(),
        changes: previous.map(|previous| changes::between(previous.config.document(), document)),
    }
}

/// Those of the jobs with the runtime that the store has begun, too.
fn at_work(view: &View, jobs: &[JobId]) -> Result<Vec<AtWork>, ReadError> {
    let mut found = Vec::new();
    for job in jobs.iter().take(AT_WORK_MAX) {
        let Some(story) = view.jobs().explain(*job)? else { continue };
        let leased = story.trace.as_deref().and_then(last_lease);
        if let (Ok(node_types::trace::Standing::Running), Some((attempt, at)), Some(model)) =
            (story.now, leased, story.model)
        {
            let (model, since) = (model.to_string(), Moment(at));
            found.push(AtWork { job: *job, model, mode: story.mode, attempt, since });
        }
    }
    found.sort_by_key(|work| (work.since, work.job));
    Ok(found)
}

/// The models that the snapshot lists, then those that are here and not listed.
fn models(view: &View, config: Option<&NodeConfig>) -> Result<Vec<Model>, ReadError> {
    let room = view.models();
    let mut here: BTreeMap<Digest, u64> =
        room.partials()?.into_iter().map(|file| (file.sha256, file.received)).collect();
    let (held, gone) = room.here_and_gone()?;
    here.extend(held.into_iter().map(|file| (file.sha256, file.bytes)));
    let mut rows: BTreeMap<ModelRef, ModelRow> =
        room.models()?.into_iter().map(|row| (row.reference.clone(), row)).collect();
    let shown = |reference: &ModelRef, listed, row: Option<ModelRow>, files: &[(Digest, u64)]| {
        let (state, since, reason) = row.map_or((ModelState::Pending, None, None), |row| {
            let (state, reason) =
                as_it_is(row.state, row.reason, files.iter().any(|(it, _)| gone.contains(it)));
            (state, Some(row.since), reason)
        });
        Model {
            model: reference.to_string(),
            listed,
            state,
            since: since.map(Moment),
            reason,
            bytes: files.iter().map(|(_, bytes)| bytes).sum(),
            bytes_here: files.iter().filter_map(|(sha256, _)| here.get(sha256)).sum(),
        }
    };
    let mut all = Vec::new();
    for model in config.into_iter().flat_map(|config| &config.models) {
        let files: Vec<(Digest, u64)> = model.files.iter().map(|file| (file.sha256, file.bytes)).collect();
        let reference = model.reference();
        all.push(shown(&reference, true, rows.remove(&reference), &files));
    }
    for (reference, row) in rows {
        let files: Vec<(Digest, u64)> =
            row.files.iter().map(|(_, sha256, bytes)| (*sha256, *bytes)).collect();
        all.push(shown(&reference, false, Some(row), &files));
    }
    Ok(all)
}

/// The state of a model of which a file is gone or not, and why: what was noted of it may be older.
#[must_use]
pub fn as_it_is(state: ModelState, reason: Option<String>, gone: bool) -> (ModelState, Option<String>) {
    if gone && state == ModelState::Active {
        (ModelState::Pending, Some("its files are not here any more".to_owned()))
    } else {
        (state, reason)
    }
}

fn runtime(config: &NodeConfig, live: Option<&Live>) -> Runtime {
    let kind = match &config.runtime {
        RuntimeConfig::External { .. } => "external",
        RuntimeConfig::Process { .. } => "process",
        RuntimeConfig::Container { .. } => "container",
    };
    Runtime {
        kind: kind.to_owned(),
        engine: config.runtime.engine().to_owned(),
        digest: config.runtime.digest(),
        restarts: live.map(|live| live.runtime_restarts),
        down: live.and_then(|live| live.runtime_down.clone()),
    }
}

/// The release that the network wants in place of this one: by its version, and by what was measured of its program.
fn release(config: &NodeConfig, artifacts: &[Artifact]) -> Option<Release> {
    let this = artifacts::agent(Some(config));
    let found = artifacts.iter().find(|artifact| artifact.id == this).and_then(|it| it.facts.measured);
    let program = found.and_then(|measured| match measured {
        Measured::Present(digest) => Some(digest),
        Measured::Absent => None,
    });
    Release::of(update::advise(&config.updates, crate::VERSION, artifacts::TARGET, program))
}

/// The artifacts that drifted, by what was noted of them last, in words.
fn drifted(artifacts: &[Artifact]) -> Vec<String> {
    let finding = |artifact: &Artifact| Finding {
        id: artifact.id.clone(),
        facts: artifact.facts,
        state: artifact.state,
        how: How::Noted(String::new()),
        damaged: Vec::new(),
    };
    artifacts.iter().map(finding).filter(Finding::is_drift).map(|finding| finding.id.to_string()).collect()
}

pub(crate) fn storage(
    view: &View,
    config: Option<&NodeConfig>,
    tally: &node_store::jobs::Tally,
    logs: bool,
) -> Result<Vec<Storage>, ReadError> {
    let class = |class: &str, bytes, limit_bytes| Storage { class: class.to_owned(), bytes, limit_bytes };
    let limits = config.map(|config| &config.limits);
    let room = view.models();
    let partial: u64 = room.partials()?.iter().map(|file| file.received).sum();
    let whole: u64 = room.files()?.iter().map(|file| file.bytes).sum();
    // Files that were moved aside take room, too; where they cannot be listed, `models list` says why.
    let aside: u64 = room.quarantined().unwrap_or_default().iter().map(|file| file.bytes).sum();
    let mut all = vec![
        class("jobs", tally.bytes, limits.map(|limits| limits.queue_bytes_max)),
        class("traces", tally.trace_bytes, Some(TRACES_BYTES_MAX)),
    ];
    if logs {
        let limit = limits.map_or(BYTES_MAX, |limits| limits.logs_bytes_max.max(BYTES_MAX_LOWEST));
        all.push(class("logs", view.used_bytes(Database::Logs)?, Some(limit)));
    }
    all.push(class("state", view.used_bytes(Database::State)?, None));
    all.push(class("models", whole + partial + aside, None));
    Ok(all)
}

/// The newest warning that the network does not have: what it has was dealt with lately, and is only kept to be looked at.
fn trouble(view: &View) -> Option<Trouble> {
    let targets = view.logs().targets().ok()?;
    let after = targets.iter().find(|target| target.name == NETWORK).map(|network| network.cursor);
    let query = Query { level_min: Some(Level::Warn), after, limit: Some(1), ..Query::default() };
    // That the logs cannot be read is said on its own line.
    let record = view.logs().query(&query).ok()?.pop()?.record;
    Some(Trouble { at: Moment(record.at), level: record.level, message: record.message })
}

/// That the last start ended because the node runs twice, as far back as the log goes.
fn twice(view: &View) -> Option<Twice> {
    let newest = |kind, level, text: &str| {
        let (level_min, text) = (Some(level), Some(text.to_owned()));
        let query = Query { kind: Some(kind), level_min, text, limit: Some(1), ..Query::default() };
        view.logs().query(&query).ok()?.pop()
    };
    // What fails because of it says so too, at a lower level and without the network's words.
    let begins = format!("{RUNS_TWICE}: ");
    let said = newest(Kind::Network, Level::Error, &begins)?;
    let started = newest(Kind::Agent, Level::Info, STARTS).map_or(0, |started| started.seq);
    let why = said.record.message.strip_prefix(&begins)?.to_owned();
    (said.seq > started).then_some(Twice { at: Moment(said.record.at), why })
}

/// The files of keys that are not there, and the local file where a key's head says that it is sealed under it. One that
/// cannot be looked at is told by whoever needs it.
fn keys_missing(folder: &Path) -> Vec<String> {
    let folder = folder.join("keys");
    let missing = keys::missing(&RealDisk, &folder);
    let mut names: Vec<String> = missing.into_iter().map(|kind| kind.file_name().to_owned()).collect();
    let local = keys::source::LOCAL_KEK;
    let gone = matches!(RealDisk.entry(&folder.join(local)), Ok(None));
    if gone && keys::sealed::any_sealed_under(&RealDisk, &folder, keys::Source::LocalFile).unwrap_or(false) {
        names.push(local.to_owned());
    }
    names
}

/// An e-mail address by its first letter and its domain: enough for its owner to know it again.
fn hint(email: &str) -> String {
    let (name, domain) = email.rsplit_once('@').unwrap_or((email, ""));
    let first: String = name.chars().take(1).collect();
    format!("{first}...@{domain}")
}
