//! `status`: how the node stands, and what to do next. It needs no key and works beside a running Agent.

use std::{collections::BTreeMap, path::PathBuf};

use clap::Args;
use node_agent::models::brings_files;
use node_store::{
    clock::Trust, jobs::BATCH_MAX, keys::Protection, logs::Query, salvage::Incident, view::View,
};
use node_types::{config::NodeConfig, log::Level, models::ModelState};
use serde::Serialize;

use super::{
    Verdict,
    account::LinkShown,
    config::SnapshotShown,
    drift,
    jobs::CountsShown,
    models::{self, ModelShown},
};
use crate::{
    context::{self, Context},
    failure::Failure,
    identity::Identity,
    measure::{self, count},
    out::Report,
    page::{Page, Tone},
};

/// Show how the node stands and what to do next.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  resultity-node status\n  resultity-node --home /srv/second status --json | jq -r .agent.running"
)]
pub(crate) struct Status {}

#[derive(Serialize)]
struct Standing {
    #[serde(flatten)]
    identity: Option<Identity>,
    folder: PathBuf,
    agent: Agent,
    time: String,
    /// The clock jumped: nothing is ended by time until the network confirms it.
    time_held: bool,
    snapshot: Option<SnapshotShown>,
    floor_version: u64,
    keyset_version: Option<u64>,
    /// Stored snapshots and keysets that do not verify any more.
    unverifiable: u64,
    account: Option<LinkShown>,
    jobs: Jobs,
    traces: Traces,
    logs: Logs,
    models: Models,
    /// Artifacts by state.
    artifacts: BTreeMap<&'static str, u64>,
    /// The artifacts that were changed or are gone since they were installed, as the Agent noted it last.
    drifted: Vec<String>,
    incidents: Vec<IncidentShown>,
    /// The newest warning or error that the network does not have yet.
    trouble: Option<Trouble>,
    next: Vec<String>,
}

#[derive(Serialize)]
struct Trouble {
    at: String,
    level: Level,
    message: String,
}

#[derive(Serialize)]
struct Agent {
    running: bool,
    pid: Option<u32>,
}

#[derive(Serialize)]
struct Jobs {
    #[serde(flatten)]
    counts: CountsShown,
    held: u64,
    bytes: u64,
    /// Jobs that ever expired in this volume.
    expired: u64,
    /// Those that the network was not told of; one look counts up to [`BATCH_MAX`].
    expired_unreported: u64,
}

#[derive(Serialize)]
struct Models {
    listed: u64,
    active: u64,
    /// Those that are not all here, or could not be had.
    missing: u64,
    /// The one that is farthest from being active.
    worst: Option<Worst>,
}

#[derive(Serialize)]
struct Worst {
    model: String,
    state: ModelState,
    reason: Option<String>,
}

impl Models {
    fn of(models: &[ModelShown], kept_here: bool) -> Self {
        let listed = || models.iter().filter(|model| model.listed);
        let far = |model: &&ModelShown| match model.state {
            ModelState::Failed => 3,
            ModelState::Pending => 2,
            ModelState::Inactive => 1,
            ModelState::Active | ModelState::Archived => 0,
        };
        let worst = listed().filter(|model| far(model) > 0).max_by_key(far).map(|model| Worst {
            model: model.model.to_string(),
            state: model.state,
            reason: model.reason.clone(),
        });
        Self {
            listed: listed().count() as u64,
            active: listed().filter(|model| model.state == ModelState::Active).count() as u64,
            missing: listed().filter(|model| kept_here && !model.is_here()).count() as u64,
            worst,
        }
    }
}

#[derive(Serialize)]
struct Traces {
    bytes: u64,
    /// Deleted before the network had them.
    lost: u64,
}

#[derive(Serialize)]
struct Logs {
    /// Records lost, by level.
    lost: BTreeMap<Level, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unreadable: Option<String>,
}

#[derive(Serialize)]
struct IncidentShown {
    database: &'static str,
    at: String,
    cause: String,
    moved_to: Option<String>,
    saved: u64,
    lost: Option<u64>,
}

impl IncidentShown {
    fn of(incident: Incident) -> Self {
        Self {
            database: incident.database.file(),
            at: incident.at.to_string(),
            cause: incident.cause,
            moved_to: incident.moved_to,
            saved: incident.saved,
            lost: incident.lost,
        }
    }

    fn line(&self) -> String {
        let lost = match self.lost {
            Some(lost) => format!("{lost} lost at the most"),
            None => "nobody can tell how many are lost".to_owned(),
        };
        format!("{} {}: {}; {} saved, {lost}", self.at, self.database, self.cause, self.saved)
    }
}

impl Status {
    /// # Errors
    /// [`Failure`].
    pub(crate) fn run(&self, context: &Context) -> Result<Verdict, Failure> {
        let view = context.view()?;
        let mut standing = look(context, &view)?;
        standing.next = next(&standing);
        context.out.show(&standing)?;
        Ok(Verdict::Done)
    }
}

/// The same as a value, for a support archive.
///
/// # Errors
/// [`Failure`].
pub(super) fn shown(context: &Context, view: &View) -> Result<serde_json::Value, Failure> {
    let mut standing = look(context, view)?;
    standing.next = next(&standing);
    serde_json::to_value(&standing).map_err(|error| Failure::Output(error.into()))
}

fn look(context: &Context, view: &View) -> Result<Standing, Failure> {
    let pid = context.holder()?;
    let (time, snapshots) = (context::time(view)?, view.snapshots()?);
    let (tally, counts) = (view.jobs().tally()?, view.jobs().counts()?);
    let known = view.inventory().list()?;
    let mut artifacts = BTreeMap::new();
    for artifact in &known {
        *artifacts.entry(artifact.state.name()).or_default() += 1;
    }
    let config: Option<&NodeConfig> = snapshots.current().map(|current| current.config.document());
    let (lost, unreadable) = match view.logs().losses() {
        Ok(lost) => (lost, None),
        // The rest can still be shown.
        Err(error) => (BTreeMap::new(), Some(Failure::from(error).story())),
    };
    // Those of a logs.db that cannot be read are in it.
    let incidents = match (view.incidents(), &unreadable) {
        (Ok(incidents), _) => incidents,
        (Err(_), Some(_)) => Vec::new(),
        (Err(error), None) => return Err(error.into()),
    };
    Ok(Standing {
        identity: context.identity()?,
        folder: context.folder(),
        agent: Agent { running: pid.is_some(), pid: pid.and_then(|pid| pid.parse().ok()) },
        time: time.now.to_string(),
        time_held: matches!(time.trust, Trust::Held { .. }),
        snapshot: snapshots.current().map(|current| SnapshotShown::of(current, time.now)),
        floor_version: snapshots.floor().version,
        keyset_version: snapshots.keyset().map(|keyset| keyset.document().version),
        unverifiable: snapshots.unverifiable().len() as u64,
        account: view.binding().account()?.as_ref().map(LinkShown::of),
        jobs: Jobs {
            counts: CountsShown::of(counts),
            held: tally.jobs,
            bytes: tally.bytes,
            expired: tally.expired,
            expired_unreported: view.jobs().unreported()?.len() as u64,
        },
        traces: Traces { bytes: tally.trace_bytes, lost: tally.traces_lost },
        logs: Logs { lost, unreadable },
        models: Models::of(&models::look(view, config)?, config.is_some_and(brings_files)),
        artifacts,
        drifted: drift::noted(&known),
        incidents: incidents.into_iter().map(IncidentShown::of).collect(),
        trouble: trouble(view),
        next: Vec::new(),
    })
}

/// What the network has is no longer kept here, so what is left is what happened lately, or since it was reached last.
fn trouble(view: &View) -> Option<Trouble> {
    let query = Query { level_min: Some(Level::Warn), limit: Some(1), ..Query::default() };
    // That the logs cannot be read is said on its own line.
    let record = view.logs().query(&query).ok()?.pop()?.record;
    Some(Trouble { at: record.at.to_string(), level: record.level, message: record.message })
}

/// What the operator should do, the most urgent first.
fn next(standing: &Standing) -> Vec<String> {
    let mut next = Vec::new();
    let mut say = |text: String| next.push(text);
    if standing.identity.is_none() {
        say("put keys/node.key back from its backup: without it this volume cannot be opened".to_owned());
    }
    if standing.unverifiable > 0 {
        let stored = count(standing.unverifiable, "stored document");
        say(format!(
            "{stored} of the network cannot be verified any more: run the node, it fetches them again"
        ));
    }
    if !standing.incidents.is_empty() || standing.logs.unreadable.is_some() {
        say("a database was damaged: check the disk; the node saves what can be read and reports the loss when it runs".to_owned());
    }
    if standing.time_held {
        say("the clock jumped: set it right; nothing is ended by time until the network confirms it"
            .to_owned());
    }
    if !standing.drifted.is_empty() {
        let drifted = count(standing.drifted.len() as u64, "artifact");
        say(format!(
            "{drifted} drifted from what was installed: `resultity-node drift check` says which pieces; the Agent repairs models"
        ));
    }
    let models = &standing.models;
    if models.worst.as_ref().is_some_and(|worst| worst.state == ModelState::Failed) {
        say("a model cannot be used: `resultity-node models list` says why".to_owned());
    }
    match (&standing.snapshot, standing.agent.running) {
        (_, false) => say("start the node: `resultity-node run`".to_owned()),
        (None, true) => {
            say("wait for the first snapshot; `resultity-node logs --kind configuration` tells what came of it".to_owned());
        }
        (Some(snapshot), true) if snapshot.tone == Tone::Bad => {
            say("no job is taken under this snapshot any more: see that the node reaches its network (`resultity-node logs --kind network`)".to_owned());
        }
        (Some(snapshot), true) if snapshot.tone == Tone::Warning => {
            say("the snapshot is past its time: see that the node reaches its network (`resultity-node logs --kind network`)".to_owned());
        }
        (Some(_), true) if standing.trouble.is_some() => {
            say("see what troubles the node: `resultity-node logs --level warn`".to_owned());
        }
        (Some(_), true) => {}
    }
    if models.missing > 0 && !standing.agent.running {
        say("fetch the models: `resultity-node models install`; the Agent does it too".to_owned());
    }
    let stopped = if standing.agent.running { " (stop the Agent first)" } else { "" };
    let unprotected =
        standing.identity.as_ref().is_some_and(|held| held.protection == Protection::ObfuscationOnly);
    if unprotected {
        say(format!("seal the key under a passphrase or a secret: `resultity-node key reseal`{stopped}"));
    }
    if standing.account.is_none() {
        say(format!("link the node to an account: `resultity-node account link`{stopped}"));
    }
    next
}

impl Report for Standing {
    fn page(&self, page: &mut Page) {
        match &self.identity {
            Some(held) => {
                page.row("network", held.network);
                page.row("node", &held.node);
                page.row("address", &held.address);
                let tone = match held.protection {
                    Protection::ObfuscationOnly => Tone::Warning,
                    Protection::Systemd | Protection::ContainerSecret | Protection::Passphrase => Tone::Plain,
                };
                page.toned_row("key", tone, held.protection);
            }
            None => page.toned_row("key", Tone::Bad, "missing"),
        }
        page.row("folder", self.folder.display());
        match (self.agent.running, self.agent.pid) {
            (true, Some(pid)) => page.toned_row("agent", Tone::Good, format!("running, process {pid}")),
            (true, None) => page.toned_row("agent", Tone::Good, "running"),
            (false, _) => page.toned_row("agent", Tone::Warning, "not running"),
        }
        match &self.snapshot {
            Some(snapshot) => {
                page.toned_row("snapshot", snapshot.tone, snapshot.line());
                page.row("", snapshot.digest());
            }
            None => page.toned_row("snapshot", Tone::Warning, "none yet"),
        }
        page.row("account", self.account.as_ref().map_or("none", LinkShown::account));
        let jobs = &self.jobs;
        let begun_anew = if self.agent.running || jobs.counts.running == 0 {
            ""
        } else {
            "; those that ran begin anew at the next start"
        };
        page.row("jobs", format!("{}; {}{begun_anew}", jobs.counts.text(), measure::bytes(jobs.bytes)));
        if jobs.expired > 0 {
            let more = if jobs.expired_unreported == u64::from(BATCH_MAX) { " or more" } else { "" };
            page.row(
                "expired",
                format!("{} ever, {}{} to be reported", jobs.expired, jobs.expired_unreported, more),
            );
        }
        let lost = if self.traces.lost > 0 { format!("; {} lost", self.traces.lost) } else { String::new() };
        page.row("traces", format!("{}{lost}", measure::bytes(self.traces.bytes)));
        match &self.logs.unreadable {
            Some(why) => page.toned_row("logs", Tone::Bad, why),
            None if self.logs.lost.is_empty() => page.row("logs", "none lost"),
            None => {
                let lost: Vec<String> =
                    self.logs.lost.iter().map(|(level, lost)| format!("{lost} {level}")).collect();
                page.toned_row("logs", Tone::Warning, format!("lost: {}", lost.join(", ")));
            }
        }
        let models = &self.models;
        if models.listed > 0 {
            let tone = models.worst.as_ref().map_or(Tone::Plain, |worst| match worst.state {
                ModelState::Failed => Tone::Bad,
                ModelState::Pending | ModelState::Inactive | ModelState::Active | ModelState::Archived => {
                    Tone::Warning
                }
            });
            page.toned_row("models", tone, format!("{} of {} active", models.active, models.listed));
            if let Some(Worst { model, state, reason }) = &models.worst {
                let because = reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
                page.toned_row("", tone, format!("{model} is {state}{because}"));
            }
        }
        for name in &self.drifted {
            page.toned_row("drifted", Tone::Bad, name);
        }
        if !self.artifacts.is_empty() {
            let states: Vec<String> =
                self.artifacts.iter().map(|(state, number)| format!("{number} {state}")).collect();
            page.row("artifacts", states.join(", "));
        }
        if self.time_held {
            page.toned_row("time", Tone::Bad, format!("{}, in doubt", self.time));
        }
        for incident in &self.incidents {
            page.toned_row("incident", Tone::Bad, incident.line());
        }
        if let Some(trouble) = &self.trouble {
            page.toned_row("lately", Tone::Warning, format!("{} {}", trouble.at, trouble.message));
        }
        let mut label = "next";
        for step in &self.next {
            page.toned_row(label, Tone::Strong, step);
            label = "";
        }
        if self.next.is_empty() {
            page.toned_row(label, Tone::Good, "nothing: all is well");
        }
    }
}
