//! `status`: how the node stands, and what to do next. It needs no key and works beside a running Agent.
//!
//! A running Agent is asked through its page, whose address stands in the volume's lock file: it knows more than the disk.
//! Where it cannot be asked, the disk is looked at, and the answer says so. The report is `node_agent::standing`; here it is
//! put on a screen.

use std::time::Duration;

use clap::Args;
use node_agent::standing::{
    self, Agent, Around, Connection, Fence, Health, Identity, Jobs, Moved, Release, Source, Standing,
    StandingError, Term, Twice, Worst,
};
use node_store::{keys::Protection, volume::HeldBy};
use node_types::{models::ModelState, protocol::Readiness};
use serde::Serialize;

use super::{Verdict, drift};
use crate::{
    context::{self, Context},
    failure::Failure,
    files, http,
    measure::{self, count, span},
    out::Report,
    page::{Page, Tone},
};

/// How long the running Agent may take to answer: 2 seconds for each step.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two looks while watching: 2 seconds.
const EVERY: Duration = Duration::from_secs(2);
/// The longest token file that is read, in bytes.
const TOKEN_BYTES_MAX: usize = 4096;
/// Names of artifacts that drifted that are shown; `drift check` has them all.
const DRIFTED_ROWS: usize = 3;
/// Expired jobs that one look counts.
const UNREPORTED_MAX: u64 = 256;

/// Show how the node stands and what to do next.
///
/// A running Agent is asked through its page; where there is none, the disk is looked at, and the answer says so.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  resultity-node status
  resultity-node status --watch
  resultity-node status --check > /dev/null || echo 'look at the node'
  resultity-node --home /srv/second status --json | jq -r .health

Exit codes with --check: 0 well, 10 attention, 11 failing, 12 not running, 1 it could not be looked at. For Nagios and its kin \
10 is a warning, 11 and 12 are critical, everything else but 0 is unknown.")]
pub(crate) struct Status {
    /// Look again every 2 seconds, until Ctrl-C
    #[arg(long)]
    watch: bool,
    /// Say by the exit code whether the node is well, for monitoring
    #[arg(long, conflicts_with = "watch")]
    check: bool,
}

impl From<StandingError> for Failure {
    fn from(error: StandingError) -> Self {
        match error {
            StandingError::Read(error) => error.into(),
            StandingError::Snapshot(error) => error.into(),
            StandingError::Clock(error) => error.into(),
        }
    }
}

impl Status {
    /// # Errors
    /// [`Failure`].
    pub(crate) fn run(&self, context: &Context) -> Result<Verdict, Failure> {
        if self.watch {
            return watch(context);
        }
        let shown = look(context)?;
        context.out.show(&shown)?;
        Ok(if self.check { Verdict::Health(shown.standing.health) } else { Verdict::Done })
    }
}

/// The same as a value, for a support archive.
///
/// # Errors
/// [`Failure`].
pub(super) fn shown(context: &Context) -> Result<serde_json::Value, Failure> {
    serde_json::to_value(look(context)?).map_err(|error| Failure::Output(error.into()))
}

/// Shows it again and again: in place on a terminal, one below the other elsewhere.
fn watch(context: &Context) -> Result<Verdict, Failure> {
    let threads =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::Start)?;
    threads.block_on(async {
        let interrupted = tokio::signal::ctrl_c();
        tokio::pin!(interrupted);
        // Registered before the first look, so that no Ctrl-C is an unexpected one.
        tokio::select! {
            biased;
            _ = &mut interrupted => return Ok(Verdict::Done),
            () = std::future::ready(()) => {}
        }
        let mut first = true;
        loop {
            context.out.show_again(&look(context)?, first)?;
            first = false;
            tokio::select! {
                _ = &mut interrupted => break,
                () = tokio::time::sleep(EVERY) => {}
            }
        }
        context.out.leave()?;
        Ok(Verdict::Done)
    })
}

/// How the node stands by the Agent that runs; nothing where none does, or it cannot be asked.
///
/// # Errors
/// [`Failure`].
pub(super) fn of_the_agent(context: &Context) -> Result<Option<Standing>, Failure> {
    Ok(context.held_by()?.and_then(|held| ask(context, &held)))
}

/// The report, and what is said of it on a screen alone.
#[derive(Serialize)]
#[serde(transparent)]
struct Shown {
    standing: Standing,
    /// Where no Agent runs: whose word the states are.
    #[serde(skip)]
    as_left: Option<String>,
}

/// How the node stands, by the Agent that runs or by the disk.
fn look(context: &Context) -> Result<Shown, Failure> {
    // What is wrong with the volume is said before anybody is asked.
    let view = context.view()?;
    let held = context.held_by()?;
    if let Some(standing) = held.as_ref().and_then(|held| ask(context, held)) {
        return Ok(Shown { standing, as_left: None });
    }
    let snapshots = view.snapshots()?;
    let identity = context.identity()?.map(|held| Identity {
        node: held.node.to_string(),
        address: held.address,
        protection: held.protection,
    });
    let agent = Agent {
        running: held.is_some(),
        pid: held.as_ref().and_then(|held| held.pid.parse().ok()),
        page: held.and_then(|held| held.page),
        ..Agent::default()
    };
    let around = Around {
        network: context.settings.network,
        identity,
        folder: context.folder(),
        command: context.settings.command.clone(),
        agent,
        time: context::time(&view)?,
    };
    let mut standing = standing::gather(&view, &snapshots, around, None)?;
    for text in &mut standing.next {
        *text = context.typed.start(text, &context.settings.command).into_owned();
    }
    let as_left = (!standing.agent.running).then(|| drift::as_left(context));
    Ok(Shown { standing, as_left })
}

/// What the Agent says; nothing where it cannot be asked, or says it in words of another release.
fn ask(context: &Context, held: &HeldBy) -> Option<Standing> {
    let page = held.page.as_ref()?;
    let token = context.settings.page.token_file.as_deref().and_then(|file| {
        let bytes = files::read(file, TOKEN_BYTES_MAX).ok()?;
        Some(std::str::from_utf8(&bytes).ok()?.trim().to_owned())
    });
    let (status, body) = http::page(page, "/v1/status", token.as_deref(), PATIENCE).ok()?;
    let standing: Standing = (status == 200).then(|| serde_json::from_slice(&body).ok())??;
    // A page that another program has meanwhile, or another node's.
    (standing.folder == context.folder()).then_some(standing)
}

const fn health_tone(health: Health) -> Tone {
    match health {
        Health::Well => Tone::Good,
        Health::Attention | Health::Stopped => Tone::Warning,
        Health::Failing => Tone::Bad,
    }
}

const fn term_tone(term: Term) -> Tone {
    match term {
        Term::Fresh | Term::RefreshDue => Tone::Good,
        Term::Stale => Tone::Warning,
        Term::OutOfForce => Tone::Bad,
    }
}

const fn readiness_words(readiness: Readiness) -> &'static str {
    match readiness {
        Readiness::Active => "takes jobs",
        Readiness::Starting => "the runtime starts",
        Readiness::Installing => "models are being installed",
        Readiness::NoConfiguration => "no snapshot in force",
        Readiness::RuntimeDown => "the runtime is down",
        Readiness::StorageFailed => "the store takes no writes",
        Readiness::Stopping => "stopping",
    }
}

fn agent_rows(standing: &Standing, page: &mut Page) {
    let agent = &standing.agent;
    match (agent.running, agent.pid) {
        (true, pid) => {
            let process = pid.map(|pid| format!(", process {pid}")).unwrap_or_default();
            let ready = agent.readiness.map(|it| format!(", {}", readiness_words(it))).unwrap_or_default();
            let since = agent.started_at.map(|at| format!(", for {}", span(standing.time.0.since_ms(at.0))));
            let text = format!("running{process}{}{ready}", since.unwrap_or_default());
            page.toned_row("agent", Tone::Good, text);
        }
        (false, _) => match &standing.twice {
            Some(Twice { at, why }) => {
                let text = format!("not running: ended at {at}, because this node runs twice: {why}");
                page.toned_row("agent", Tone::Bad, text);
            }
            None => page.toned_row("agent", Tone::Warning, "not running"),
        },
    }
    match (&agent.page, standing.source) {
        (Some(url), Source::Agent) => page.row("page", url),
        (Some(url), Source::Volume) => {
            page.toned_row("page", Tone::Warning, format!("{url} does not answer: this is from the disk"));
        }
        (None, _) if agent.running => page.row("page", "none: this is from the disk"),
        (None, _) => {}
    }
    if let Some(Connection { url, connected, since, why, outages }) = &standing.connection {
        let for_ = span(standing.time.0.since_ms(since.0));
        let before = if outages.is_empty() {
            String::new()
        } else {
            format!("; {} before", count(outages.len() as u64, "outage"))
        };
        if *connected {
            page.toned_row("connection", Tone::Good, format!("connected for {for_}{before}"));
        } else {
            let why = why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
            let to = url.as_ref().map(|url| format!(" to {url}")).unwrap_or_default();
            page.toned_row("connection", Tone::Warning, format!("none{to} for {for_}{before}{why}"));
        }
    }
}

fn job_rows(standing: &Standing, page: &mut Page) {
    let jobs = &standing.jobs;
    let begun_anew = if standing.agent.running || jobs.running == 0 {
        ""
    } else {
        "; those that ran begin anew at the next start"
    };
    let Jobs { queued, running, unsent, bytes, .. } = jobs;
    let counts = format!("{queued} queued, {running} running, {unsent} to be acknowledged");
    page.row("jobs", format!("{counts}; {}{begun_anew}", measure::bytes(*bytes)));
    if let Some(longest) = jobs.at_work.first() {
        let for_ = span(standing.time.0.since_ms(longest.since.0));
        page.row("", format!("the longest runs for {for_}: {} of {}", longest.job, longest.model));
    }
    if let Some(last) = jobs.lately.first() {
        let outcome = match last.outcome {
            node_types::trace::Outcome::Answered => "answered",
            node_types::trace::Outcome::Failed => "failed",
            node_types::trace::Outcome::Expired => "expired",
        };
        let took = last.duration_ms.map(|ms| format!(" in {}", span(ms))).unwrap_or_default();
        let ago = span(standing.time.0.since_ms(last.ended_at.0));
        page.row("", format!("the last one {outcome}{took}, {ago} ago"));
    }
    if jobs.expired > 0 {
        let more = if jobs.expired_unreported == UNREPORTED_MAX { " or more" } else { "" };
        page.row(
            "expired",
            format!("{} ever, {}{} to be reported", jobs.expired, jobs.expired_unreported, more),
        );
    }
    let lost =
        if standing.traces.lost > 0 { format!("; {} lost", standing.traces.lost) } else { String::new() };
    page.row("traces", format!("{}{lost}", measure::bytes(standing.traces.bytes)));
    match &standing.logs.unreadable {
        Some(why) => page.toned_row("logs", Tone::Bad, why),
        None if standing.logs.lost.is_empty() => page.row("logs", "none lost"),
        None => {
            let lost: Vec<String> =
                standing.logs.lost.iter().map(|(level, lost)| format!("{lost} {level}")).collect();
            page.toned_row("logs", Tone::Warning, format!("lost: {}", lost.join(", ")));
        }
    }
}

fn model_rows(standing: &Standing, as_left: Option<&str>, page: &mut Page) {
    let models = &standing.models;
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
    if let Some(restarts) =
        standing.runtime.as_ref().and_then(|runtime| runtime.restarts).filter(|it| *it > 0)
    {
        page.toned_row("runtime", Tone::Warning, format!("fell {} in this start", count(restarts, "time")));
    }
    // All of them would push what is to be done off the screen.
    let (shown, more) = standing.drifted.split_at(standing.drifted.len().min(DRIFTED_ROWS));
    for name in shown {
        page.toned_row("drifted", Tone::Bad, name);
    }
    if !more.is_empty() {
        page.toned_row("", Tone::Bad, format!("and {} more", more.len()));
    }
    if !standing.artifacts.is_empty() {
        let states: Vec<String> =
            standing.artifacts.iter().map(|(state, number)| format!("{number} {state}")).collect();
        page.row("artifacts", states.join(", "));
        if let Some(text) = as_left {
            page.toned_row("", Tone::Faint, text);
        }
    }
}

impl Report for Shown {
    fn page(&self, page: &mut Page) {
        let Self { standing, as_left } = self;
        page.toned_row("health", health_tone(standing.health), standing.health.name());
        page.row("network", standing.network);
        match &standing.identity {
            Some(held) => {
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
        if standing.identity.is_some() && !standing.keys_missing.is_empty() {
            page.toned_row("", Tone::Bad, format!("missing: {}", standing.keys_missing.join(", ")));
        }
        page.row("folder", standing.folder.display());
        agent_rows(standing, page);
        if let Some(Moved { at, archive }) = &standing.moved {
            page.toned_row("moved", Tone::Warning, format!("away at {at}, into {archive}"));
        }
        if let Some(Fence { backed_up_at, restored_at, jobs }) = &standing.fence {
            let wait = count(*jobs, "job");
            let text = format!("the backup of {backed_up_at} at {restored_at}; {wait} to be asked about");
            page.toned_row("restored", Tone::Warning, text);
        }
        if let Some(Release { version, digest, approved }) = &standing.release {
            let tone = if *approved { Tone::Plain } else { Tone::Warning };
            let so = if *approved { "" } else { "; this one is not" };
            page.toned_row("release", tone, format!("{version} is approved{so}"));
            page.row("", digest);
        }
        match &standing.snapshot {
            Some(snapshot) => {
                page.toned_row("snapshot", term_tone(snapshot.validity), snapshot.line());
                page.row("", snapshot.digest);
                if let (Some(previous), Some(changes)) = (snapshot.previous_version, &snapshot.changes) {
                    let what = match changes.as_slice() {
                        [] => "nothing that the node does".to_owned(),
                        [one] => one.clone(),
                        [first, rest @ ..] => format!("{first}, and {} more", rest.len()),
                    };
                    page.row("", format!("since version {previous} it changed: {what}"));
                }
            }
            None => page.toned_row("snapshot", Tone::Warning, "none yet"),
        }
        page.row("account", standing.account.as_ref().map_or("none", |account| &account.account));
        job_rows(standing, page);
        model_rows(standing, as_left.as_deref(), page);
        if standing.time_held {
            page.toned_row("time", Tone::Bad, format!("{}, in doubt", standing.time));
        }
        for incident in &standing.incidents {
            page.toned_row("incident", Tone::Bad, incident.to_string());
        }
        if let Some(trouble) = &standing.trouble {
            page.toned_row("lately", Tone::Warning, format!("{} {}", trouble.at, trouble.message));
        }
        let mut label = "next";
        for step in &standing.next {
            page.toned_row(label, Tone::Strong, step);
            label = "";
        }
        if standing.next.is_empty() {
            page.toned_row(label, Tone::Good, "nothing: all is well");
        }
    }
}
