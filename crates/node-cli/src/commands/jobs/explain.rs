//! `jobs show` and `jobs explain`: what is known of one job, as facts and as a story.

use node_store::{jobs::Story, logs::Query};
use node_types::{
    JobId, Timestamp,
    job::FailureKind,
    trace::{Event, Outcome, ReleaseReason, Standing, Step},
};
use serde::Serialize;
use serde_json::Value;

use super::{Verdict, mode, standing, state};
use crate::{
    commands::logs::RecordShown,
    context::{self, Context},
    failure::Failure,
    measure::{self, count},
    out::Report,
    page::{Page, Tone},
};

/// Log records about the job that its story shows, the newest.
const RECORDS: u32 = 20;

/// How much is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    /// The facts.
    Facts,
    /// What happened, in words.
    Story,
}

#[derive(Serialize)]
struct Job {
    job: JobId,
    state: &'static str,
    held: bool,
    model: Option<String>,
    mode: Option<&'static str>,
    config_digest: Option<String>,
    priority: Option<u8>,
    expires_at: Option<String>,
    attempts: Option<u16>,
    attempts_max: Option<u16>,
    ended_at: Option<String>,
    reported: bool,
    trace_uploaded: Option<bool>,
    /// What happened; absent where the trace was deleted.
    events: Option<Vec<Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    story: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    log: Vec<RecordShown>,
    #[serde(skip)]
    depth: Depth,
}

/// Shows a job.
///
/// # Errors
/// [`Failure::NoSuchJob`], [`Failure::Read`].
pub(super) fn run(context: &Context, id: JobId, depth: Depth) -> Result<Verdict, Failure> {
    let view = context.view()?;
    let story = view.jobs().explain(id)?.ok_or(Failure::NoSuchJob(id))?;
    let now = context::now(&view)?;
    let (mut told, mut log) = (None, Vec::new());
    if depth == Depth::Story {
        told = Some(tell(id, &story, now));
        let query = Query { job: Some(id), limit: Some(RECORDS), ..Query::default() };
        // A log that cannot be read leaves the story to be told; `status` says that it cannot.
        log = view.logs().query(&query).unwrap_or_default().into_iter().map(RecordShown::of).collect();
    }
    context.out.show(&Job {
        job: id,
        state: state(&story),
        held: story.now.is_ok(),
        model: story.model.as_ref().map(ToString::to_string),
        mode: story.mode.map(mode),
        config_digest: story.config.map(|config| config.to_string()),
        priority: story.priority,
        expires_at: story.expires_at.map(|at| at.to_string()),
        attempts: story.attempts,
        attempts_max: story.attempts_max,
        ended_at: story.ended_at.map(|at| at.to_string()),
        reported: story.reported,
        trace_uploaded: story.trace_uploaded,
        events: story.trace.as_ref().map(|events| events.iter().map(event).collect()),
        story: told,
        log,
        depth,
    })?;
    Ok(Verdict::Done)
}

/// An event as JSON, its time as RFC 3339.
fn event(event: &Event) -> Value {
    let mut value = serde_json::to_value(event).unwrap_or_default();
    if let Some(at) = value.get_mut("at") {
        *at = event.at.to_string().into();
    }
    value
}

impl Report for Job {
    fn page(&self, page: &mut Page) {
        if let Some(story) = &self.story {
            for line in story {
                page.line(line);
            }
        } else {
            self.facts(page);
        }
        if self.depth == Depth::Story && !self.log.is_empty() {
            page.heading("In the log:");
            for record in &self.log {
                record.page(page);
            }
        }
    }
}

impl Job {
    fn facts(&self, page: &mut Page) {
        page.row("job", self.job);
        page.toned_row("state", Tone::Strong, self.state);
        let mut row = |label: &str, value: Option<String>| {
            if let Some(value) = value {
                page.row(label, value);
            }
        };
        row("model", self.model.clone());
        row("mode", self.mode.map(str::to_owned));
        row("priority", self.priority.map(|priority| priority.to_string()));
        row("snapshot", self.config_digest.clone());
        row("time ends", self.expires_at.clone());
        row(
            "tries",
            self.attempts.map(|tries| match self.attempts_max {
                Some(most) => format!("{tries} of {most}"),
                None => tries.to_string(),
            }),
        );
        row("ended", self.ended_at.clone());
        let events =
            self.events.as_ref().map(|events| format!("{} steps: `jobs explain` tells them", events.len()));
        row("trace", Some(events.unwrap_or_else(|| "deleted".to_owned())));
        row("uploaded", self.trace_uploaded.map(|done| if done { "yes" } else { "not yet" }.to_owned()));
    }
}

/// The story of a job, line by line.
fn tell(id: JobId, story: &Story, now: Timestamp) -> Vec<String> {
    let mut lines = Vec::new();
    let asked = match (&story.model, story.mode) {
        (Some(model), Some(asked)) => format!("Job {id} asks {model} for {}.", mode(asked)),
        _ => format!("Job {id}: its trace was deleted, so little is known of it."),
    };
    lines.push(asked);
    if let Some(config) = story.config {
        lines.push(format!("It was taken under snapshot {config}."));
    }
    if let Some(expires_at) = story.expires_at {
        lines.push(format!("Its time ends {}.", measure::moment(expires_at, now)));
    }
    let events = story.trace.as_deref().unwrap_or_default();
    let mut before: Option<Timestamp> = None;
    for event in events {
        let gap =
            before.map_or(String::new(), |before| format!("+{}", measure::span(event.at.since_ms(before))));
        lines.push(format!("  {}  {gap:>13}  {}", event.at, happened(&event.step)));
        before = Some(event.at);
    }
    lines.push(stands(story));
    lines
}

fn happened(step: &Step) -> String {
    match step {
        Step::Accepted => "taken in, and on the disk".to_owned(),
        Step::Leased { attempt, runtime, model } => {
            let mut text = format!("handed to the runtime, attempt {attempt}");
            if let Some(runtime) = runtime {
                text += &format!(", runtime {runtime}");
            }
            if let Some(model) = model {
                text += &format!(", model {model}");
            }
            text
        }
        Step::Released { reason } => format!(
            "put back in the queue: {}",
            match reason {
                ReleaseReason::Restart => "the Agent started again",
                ReleaseReason::Shutdown => "the Agent stopped",
                ReleaseReason::RuntimeLost => "the runtime went away",
            }
        ),
        Step::Finished { duration_ms, prompt_tokens, completion_tokens, output_bytes } => format!(
            "answered after {}: {prompt_tokens} tokens read, {completion_tokens} generated, {}; the answer is on the disk",
            measure::span(*duration_ms),
            measure::bytes(*output_bytes)
        ),
        Step::Failed { kind, duration_ms } => {
            let after = if *duration_ms > 0 {
                format!(" after {}", measure::span(*duration_ms))
            } else {
                String::new()
            };
            format!("failed{after}: {}", why(*kind))
        }
        Step::Submitted => "sent to the network".to_owned(),
        Step::Acknowledged => "the network has it: the job is deleted here, its trace stays".to_owned(),
        Step::Expired { state } => format!("its time ended while it was {}", standing(*state)),
    }
}

const fn why(kind: FailureKind) -> &'static str {
    match kind {
        FailureKind::Runtime => "the runtime answered with an error",
        FailureKind::TimedOut => "the run took longer than the snapshot allows",
        FailureKind::Cancelled => "it was cancelled",
        FailureKind::AttemptsExhausted => "it was started as often as it may be, and never ended",
        FailureKind::Forbidden => "the snapshot now in force does not allow it",
        FailureKind::Unreadable => "what was stored of it cannot be read",
        FailureKind::Unclaimed => {
            "the node was restored from a backup, and the network did not know it as its job any more"
        }
    }
}

/// Where it stands now, and what comes next.
fn stands(story: &Story) -> String {
    let left = match (story.attempts, story.attempts_max) {
        (Some(tries), Some(most)) => count(most.saturating_sub(tries).into(), "attempt"),
        _ => "no attempt".to_owned(),
    };
    match story.now {
        Ok(Standing::Queued) => format!("Now it waits for the runtime; {left} left."),
        Ok(Standing::Running) => format!("Now the runtime has it; {left} left after this one."),
        Ok(Standing::Finished) => {
            "Now its answer waits for the network's acknowledgement; it is sent again until that comes."
                .to_owned()
        }
        Ok(Standing::Failed) => {
            "Now its failure waits for the network's acknowledgement; it is sent again until that comes."
                .to_owned()
        }
        Err(outcome) => {
            let end = match outcome {
                Outcome::Answered => "It has ended: the network has its answer.",
                Outcome::Failed => "It has ended: the network has its failure.",
                Outcome::Expired if story.reported => {
                    "It has ended without an answer, and the network knows."
                }
                Outcome::Expired => "It has ended without an answer; the network is still to be told.",
            };
            let trace = match story.trace_uploaded {
                Some(true) => " The network has its trace.",
                Some(false) => " Its trace goes to the network with the next upload.",
                None => "",
            };
            format!("{end}{trace}")
        }
    }
}
