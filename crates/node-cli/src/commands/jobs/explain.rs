//! `jobs show` and `jobs explain`: what is known of one job, as facts and as a story.

use node_store::{jobs::Story, logs::Query, view::View};
use node_types::{
    Digest, JobId, Timestamp,
    inventory::ArtifactKind,
    job::FailureKind,
    trace::{Event, Outcome, ReleaseReason, Standing, Step},
};
use serde::Serialize;
use serde_json::{Value, json};

use super::{Meant, Verdict, mode, standing, state};
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
    /// The version of that snapshot, where it is still here.
    config_version: Option<u64>,
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
    /// What the operator can do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    log: Vec<RecordShown>,
    #[serde(skip)]
    depth: Depth,
}

/// What the volume calls what the trace names by its digest.
#[derive(Default)]
struct Names {
    /// Runtimes by what was installed.
    runtimes: Vec<(Digest, String)>,
    /// Snapshots that are here.
    snapshots: Vec<(Digest, u64)>,
}

impl Names {
    /// What cannot be read is told by its digest.
    fn of(view: &View) -> Self {
        let mut names = Self::default();
        for artifact in view.inventory().list().unwrap_or_default() {
            match artifact.id.kind {
                ArtifactKind::RuntimeImage
                | ArtifactKind::RuntimeBinary
                | ArtifactKind::RuntimeEnvironment => {
                    let known = [artifact.facts.recorded, artifact.facts.expected];
                    names
                        .runtimes
                        .extend(known.into_iter().flatten().map(|it| (it, artifact.id.name.clone())));
                }
                ArtifactKind::ModelFile | ArtifactKind::Agent | ArtifactKind::Configuration => {}
            }
        }
        if let Ok(snapshots) = view.snapshots() {
            let both = [snapshots.current(), snapshots.previous()];
            names.snapshots = both
                .into_iter()
                .flatten()
                .map(|snapshot| (snapshot.config.digest(), snapshot.config.document().version))
                .collect();
        }
        names
    }

    fn runtime(&self, digest: Digest) -> String {
        let known = self.runtimes.iter().find(|(known, _)| *known == digest);
        known.map_or_else(|| format!("the runtime {digest}"), |(_, name)| name.clone())
    }

    fn version(&self, digest: Digest) -> Option<u64> {
        self.snapshots.iter().find(|(known, _)| *known == digest).map(|(_, version)| *version)
    }
}

/// Shows a job.
///
/// # Errors
/// [`Failure::NoSuchJob`], [`Failure::Usage`] where several jobs are meant, [`Failure::Read`].
pub(super) fn run(context: &Context, meant: &Meant, depth: Depth) -> Result<Verdict, Failure> {
    let view = context.view()?;
    let id = meant.find(&view)?;
    let story = view.jobs().explain(id)?.ok_or_else(|| Failure::NoSuchJob(id.to_string()))?;
    let now = context::now(&view)?;
    let names = Names::of(&view);
    let lines = story.trace.as_deref().map(|events| tell(events, &names));
    let (mut told, mut advised, mut log) = (None, None, Vec::new());
    if depth == Depth::Story {
        let runs = context.holder()?.is_some();
        told = Some(whole(id, &story, lines.as_deref().unwrap_or_default(), &names, now, runs));
        advised = advice(id, &story).map(|advice| context.typed.complete(&advice).into_owned());
        let query = Query { job: Some(id), limit: Some(RECORDS), ..Query::default() };
        // A log that cannot be read leaves the story to be told; `status` says that it cannot.
        log = view.logs().query(&query).unwrap_or_default().into_iter().map(RecordShown::from).collect();
    }
    context.out.show(&Job {
        job: id,
        state: state(&story),
        held: story.now.is_ok(),
        model: story.model.as_ref().map(ToString::to_string),
        mode: story.mode.map(mode),
        config_digest: story.config.map(|config| config.to_string()),
        config_version: story.config.and_then(|config| names.version(config)),
        priority: story.priority,
        expires_at: story.expires_at.map(|at| at.to_string()),
        attempts: story.attempts,
        attempts_max: story.attempts_max,
        ended_at: story.ended_at.map(|at| at.to_string()),
        reported: story.reported,
        trace_uploaded: story.trace_uploaded,
        events: lines.map(|lines| lines.iter().map(Line::json).collect()),
        story: told,
        advice: advised,
        log,
        depth,
    })?;
    Ok(Verdict::Done)
}

/// One step of the story.
struct Line<'a> {
    event: &'a Event,
    /// Since the step before, in milliseconds; nothing for the first.
    after_ms: Option<u64>,
    text: String,
}

impl Line<'_> {
    /// The event with its time as RFC 3339, how long after the one before it came, and what it says.
    fn json(&self) -> Value {
        let mut value = serde_json::to_value(self.event).unwrap_or_default();
        value["at"] = self.event.at.to_string().into();
        value["after_ms"] = json!(self.after_ms);
        value["text"] = self.text.clone().into();
        value
    }

    fn words(&self) -> String {
        let gap = self.after_ms.map_or(String::new(), |ms| format!("+{}", measure::span(ms)));
        format!("  {}  {gap:>13}  {}", self.event.at, self.text)
    }
}

impl Report for Job {
    fn page(&self, page: &mut Page) {
        if let Some(story) = &self.story {
            for line in story {
                page.line(line);
            }
            if let Some(advice) = &self.advice {
                page.row("next", advice);
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
        let version = self.config_version.map(|version| format!("{version}, ")).unwrap_or_default();
        row("snapshot", self.config_digest.as_ref().map(|digest| format!("{version}{digest}")));
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

/// The whole story: what was asked, what happened, how it stands.
fn whole(
    id: JobId,
    story: &Story,
    lines: &[Line<'_>],
    names: &Names,
    now: Timestamp,
    runs: bool,
) -> Vec<String> {
    let mut told = Vec::new();
    told.push(match (&story.model, story.mode) {
        (Some(model), Some(asked)) => format!("Job {id} asks {model} for {}.", mode(asked)),
        _ => format!("Job {id}: its trace was deleted, so little is known of it."),
    });
    if let Some(config) = story.config {
        let name = names
            .version(config)
            .map_or_else(|| format!("snapshot {config}"), |version| format!("snapshot {version} ({config})"));
        told.push(format!("It was taken under {name}."));
    }
    match story.expires_at {
        Some(at) if story.now.is_ok() => told.push(format!("Its time ends {}.", measure::moment(at, now))),
        Some(at) => told.push(format!("Its time was to end {at}.")),
        None => {}
    }
    told.extend(lines.iter().map(Line::words));
    told.push(stands(story, runs));
    told
}

/// What happened, step by step.
fn tell<'a>(events: &'a [Event], names: &Names) -> Vec<Line<'a>> {
    let mut lines: Vec<Line<'a>> = Vec::with_capacity(events.len());
    let (mut waiting, mut attempt) = (None, 0);
    for event in events {
        let before = lines.last().map(|line| &line.event.step);
        let after_ms = lines.last().map(|line| event.at.since_ms(line.event.at));
        let text = match &event.step {
            Step::Accepted => {
                waiting = Some(event.at);
                "it came from the network, and was on the disk before that was acknowledged".to_owned()
            }
            Step::Leased { attempt: number, runtime, model } => {
                attempt = *number;
                let waited = waiting.take().map_or(0, |since| event.at.since_ms(since));
                let on = runtime.map_or(String::new(), |digest| format!(" on {}", names.runtime(digest)));
                let with = model.map_or(String::new(), |digest| format!(" with the model {digest}"));
                format!("it had waited {}; run {number} began{on}{with}", measure::span(waited))
            }
            Step::Released { reason } => {
                waiting = Some(event.at);
                let why = match reason {
                    ReleaseReason::Restart => "the Agent had ended under it and started again",
                    ReleaseReason::Shutdown => "the Agent was stopped",
                    ReleaseReason::RuntimeLost => "the runtime went away",
                };
                format!("run {attempt} ended without an answer, {why}; it waits again")
            }
            Step::Finished { duration_ms, prompt_tokens, completion_tokens, output_bytes } => {
                let (prompt, written) = (count((*prompt_tokens).into(), "prompt token"), completion_tokens);
                let speed = speed(*completion_tokens, *duration_ms);
                format!(
                    "run {attempt} took {}: {prompt} read, {written} written{speed}; the answer of {} is on the disk",
                    measure::span(*duration_ms),
                    measure::bytes(*output_bytes)
                )
            }
            Step::Failed { kind, duration_ms } if *duration_ms > 0 => {
                format!("run {attempt} failed after {}: {}", measure::span(*duration_ms), why(*kind))
            }
            Step::Failed { kind, .. } => format!("it failed: {}", why(*kind)),
            Step::Submitted => match before {
                Some(Step::Submitted) => "it was sent again: no acknowledgement had come".to_owned(),
                Some(Step::Failed { .. }) => "its failure was sent to the network".to_owned(),
                _ => "its answer was sent to the network".to_owned(),
            },
            Step::Acknowledged => {
                let after = after_ms.map_or(String::new(), |ms| format!(" {} later", measure::span(ms)));
                format!("the network acknowledged it{after}; its prompt and answer were deleted here")
            }
            Step::Expired { state } => {
                format!("its time ended while it was {}; its prompt was deleted here", standing(*state))
            }
        };
        lines.push(Line { event, after_ms, text });
    }
    lines
}

/// Tokens a second with one decimal, where both numbers are known.
fn speed(tokens: u32, ms: u64) -> String {
    let tenths = u64::from(tokens).saturating_mul(10_000).checked_div(ms);
    match tenths {
        Some(tenths) if tokens > 0 => format!(" ({}.{} tokens/s)", tenths / 10, tenths % 10),
        Some(_) | None => String::new(),
    }
}

const fn why(kind: FailureKind) -> &'static str {
    match kind {
        FailureKind::Runtime => "the runtime answered with an error",
        FailureKind::TimedOut => "it took longer than the snapshot allows",
        FailureKind::Cancelled => "it was cancelled",
        FailureKind::AttemptsExhausted => "it was started as often as it may be, and never ended",
        FailureKind::Forbidden => "the snapshot now in force does not allow it",
        FailureKind::Unreadable => "what was stored of it cannot be read",
        FailureKind::Unclaimed => {
            "the node was restored from a backup, and the network did not know it as its job any more"
        }
    }
}

/// Where it stands now, and what comes next. `runs`: there is an Agent.
fn stands(story: &Story, runs: bool) -> String {
    let left = match (story.attempts, story.attempts_max) {
        (Some(tries), Some(most)) => count(most.saturating_sub(tries).into(), "attempt"),
        _ => "no attempt".to_owned(),
    };
    match story.now {
        Ok(Standing::Queued) => format!("Now it waits for the runtime; {left} left."),
        Ok(Standing::Running) if !runs => {
            format!("Now no Agent runs: at the next start it begins anew, and {left} left after that one.")
        }
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

/// What the operator can do, where a job did not end as it should.
fn advice(id: JobId, story: &Story) -> Option<String> {
    advice_on(id, story.trace.as_deref()?)
}

fn advice_on(id: JobId, trace: &[Event]) -> Option<String> {
    let last = trace.iter().rev().find_map(|event| match event.step {
        Step::Failed { kind, .. } => Some(Ok(kind)),
        Step::Expired { state } => Some(Err(state)),
        Step::Accepted
        | Step::Leased { .. }
        | Step::Released { .. }
        | Step::Finished { .. }
        | Step::Submitted
        | Step::Acknowledged => None,
    });
    Some(match last? {
        Ok(FailureKind::Runtime) => format!(
            "nothing, if it is the only one: the runtime refused what it asks. See what it said with \
             `resultity-node logs --job {id}`; where many fail so, `resultity-node doctor`"
        ),
        Ok(FailureKind::TimedOut) => {
            "nothing, if it is the only one. Where many take too long, see what else uses the processor or the graphics \
             card; the network can give this node fewer jobs at once or a smaller model"
                .to_owned()
        }
        Ok(FailureKind::AttemptsExhausted) if fell(trace) => {
            "see why the runtime ends: `resultity-node logs --kind runtime --level warn`; too little memory is the usual \
             reason"
                .to_owned()
        }
        // Its runtime never went away: each time it was the node that did.
        Ok(FailureKind::AttemptsExhausted) => {
            "nothing, if you stopped the node so often while it ran: each stop cuts a job off. Else see why the node ends: \
             `resultity-node logs --kind agent`"
                .to_owned()
        }
        Ok(FailureKind::Unreadable) => {
            "check the disk and the volume: `resultity-node doctor --deep`".to_owned()
        }
        Ok(FailureKind::Cancelled | FailureKind::Forbidden | FailureKind::Unclaimed) => {
            "nothing: the network wanted it so".to_owned()
        }
        Err(Standing::Queued | Standing::Running) => {
            "see whether the runtime was away or had too much to do: `resultity-node logs --kind runtime`".to_owned()
        }
        Err(Standing::Finished | Standing::Failed) => {
            "see why the network was not reached in time: `resultity-node logs --kind network`".to_owned()
        }
    })
}

/// Whether the runtime ever went away under it.
fn fell(trace: &[Event]) -> bool {
    let lost = Step::Released { reason: ReleaseReason::RuntimeLost };
    trace.iter().any(|event| event.step == lost)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64, step: Step) -> Event {
        Event { at: Timestamp::from_ms(ms), step }
    }

    fn told(events: &[Event]) -> Vec<String> {
        tell(events, &Names::default()).into_iter().map(|line| line.text).collect()
    }

    #[test]
    fn a_wait_is_counted_from_when_it_began_to_wait_last() {
        let leased = |attempt| Step::Leased { attempt, runtime: None, model: None };
        let told = told(&[
            at(1000, Step::Accepted),
            at(2200, leased(1)),
            at(3000, Step::Released { reason: ReleaseReason::RuntimeLost }),
            at(3500, leased(2)),
        ]);
        assert!(told[1].contains("waited 1.2 s; run 1 began"), "{told:?}");
        assert!(told[2].contains("run 1 ended without an answer, the runtime went away"), "{told:?}");
        assert!(told[3].contains("waited 500 ms; run 2 began"), "{told:?}");
    }

    #[test]
    fn what_is_sent_is_called_by_its_name_and_a_second_time_says_so() {
        let failed = Step::Failed { kind: FailureKind::TimedOut, duration_ms: 0 };
        let told = told(&[
            at(1, failed),
            at(2, Step::Submitted),
            at(3, Step::Submitted),
            at(15, Step::Acknowledged),
        ]);
        assert_eq!(told[1], "its failure was sent to the network");
        assert!(told[2].starts_with("it was sent again"), "{told:?}");
        assert!(told[3].contains("acknowledged it 12 ms later"), "{told:?}");
    }

    /// Memory was blamed for jobs that stops of the node had cut off.
    #[test]
    fn a_job_that_was_started_too_often_is_explained_by_what_ended_it() {
        let explained = |reasons: &[ReleaseReason]| {
            let mut trace: Vec<Event> =
                reasons.iter().map(|reason| at(1, Step::Released { reason: *reason })).collect();
            trace.push(at(2, Step::Failed { kind: FailureKind::AttemptsExhausted, duration_ms: 0 }));
            advice_on(JobId::from_bytes([1; 16]), &trace).unwrap()
        };
        let stops = explained(&[ReleaseReason::Shutdown, ReleaseReason::Restart]);
        assert!(stops.contains("if you stopped the node") && !stops.contains("memory"), "{stops}");
        let falls = explained(&[ReleaseReason::Restart, ReleaseReason::RuntimeLost]);
        assert!(falls.contains("too little memory"), "{falls}");
    }

    #[test]
    fn speed_is_told_where_it_can_be() {
        assert_eq!(speed(16, 3100), " (5.1 tokens/s)");
        assert_eq!(speed(0, 3100), "");
        assert_eq!(speed(16, 0), "");
    }

    #[test]
    fn what_is_known_by_name_is_named() {
        let (runtime, snapshot) = (Digest::of(b"r"), Digest::of(b"s"));
        let names = Names { runtimes: vec![(runtime, "llama.cpp".into())], snapshots: vec![(snapshot, 7)] };
        assert_eq!((names.runtime(runtime).as_str(), names.version(snapshot)), ("llama.cpp", Some(7)));
        assert!(names.runtime(snapshot).contains(&snapshot.to_string()));
    }
}
