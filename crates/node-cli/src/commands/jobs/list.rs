//! `jobs list`: the jobs that are held, or the traces of those that have ended.

use clap::{Args, builder::PossibleValuesParser};
use node_store::{
    jobs::{BATCH_MAX, Counts, JobsView, Listed},
    reader::ReadError,
};
use node_types::{
    JobId, Timestamp,
    trace::{Trace, last_lease},
};
use serde::Serialize;

use super::{Verdict, mode, outcome, standing};
use crate::{
    cli::at_least_one,
    context::{self, Context},
    failure::Failure,
    measure,
    out::Report,
    page::{Page, Tone},
};

/// Jobs shown unless told: 50; of those that are held the oldest, of those that have ended the newest.
const LIMIT: usize = 50;

/// The states of jobs that are held; one that failed may have ended, too.
const HELD: [&str; 4] = ["queued", "running", "finished", "failed"];
/// Those of jobs that have ended.
const ENDED: [&str; 3] = ["answered", "failed", "expired"];

/// The states of both.
fn states() -> PossibleValuesParser {
    PossibleValuesParser::new(HELD.into_iter().chain(ENDED.into_iter().filter(|state| !HELD.contains(state))))
}

/// List the jobs that are held, in the order in which they were taken; with --ended those that have ended, the newest
/// first.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  resultity-node jobs list
  resultity-node jobs list --state queued --limit 10
  resultity-node jobs list --ended --json | jq '.jobs[] | select(.state == \"failed\")'")]
pub(crate) struct List {
    /// Those in this state alone
    #[arg(long, value_parser = states())]
    state: Option<String>,
    /// At most so many
    #[arg(long, value_name = "COUNT", default_value_t = LIMIT, value_parser = at_least_one)]
    limit: usize,
    /// The jobs that have ended, as far as their traces are kept
    #[arg(long)]
    ended: bool,
}

#[derive(Serialize)]
struct Jobs {
    held: CountsShown,
    jobs: Vec<Row>,
    /// There are more of them.
    more: bool,
    #[serde(skip)]
    now: Timestamp,
}

/// How many jobs are held.
#[derive(Clone, Copy, Serialize)]
pub(in crate::commands) struct CountsShown {
    queued: u64,
    pub(crate) running: u64,
    unsent: u64,
}

impl CountsShown {
    pub(in crate::commands) const fn of(counts: Counts) -> Self {
        Self { queued: counts.queued, running: counts.running, unsent: counts.unsent }
    }

    pub(in crate::commands) fn text(self) -> String {
        format!("{} queued, {} running, {} to be acknowledged", self.queued, self.running, self.unsent)
    }
}

#[derive(Serialize)]
struct Row {
    seq: u64,
    job: JobId,
    state: &'static str,
    model: String,
    mode: &'static str,
    #[serde(flatten)]
    place: Place,
}

/// What is known of a job where it is.
#[derive(Serialize)]
#[serde(untagged)]
enum Place {
    Held {
        priority: u8,
        accepted_at: String,
        expires_at: String,
        attempt: u16,
        attempts_max: u16,
        bytes: u64,
        #[serde(skip)]
        expires: Timestamp,
    },
    Ended {
        /// The times that it was begun.
        attempts: u16,
        ended_at: Option<String>,
    },
}

impl Row {
    fn held(job: &Listed) -> Self {
        let place = Place::Held {
            priority: job.priority,
            accepted_at: job.accepted_at.to_string(),
            expires_at: job.expires_at.to_string(),
            attempt: job.attempt,
            attempts_max: job.attempts_max,
            bytes: job.bytes,
            expires: job.expires_at,
        };
        let (state, model) = (standing(job.standing), job.model.to_string());
        Self { seq: job.seq, job: job.job, state, model, mode: mode(job.mode), place }
    }

    fn ended((seq, trace): (u64, Trace)) -> Self {
        let ended_at = trace.events.last().map(|event| event.at.to_string());
        let (state, model) = (outcome(trace.outcome), trace.model.to_string());
        let attempts = last_lease(&trace.events).map_or(0, |(attempt, _)| attempt);
        let place = Place::Ended { attempts, ended_at };
        Self { seq, job: trace.job, state, model, mode: mode(trace.mode), place }
    }

    const fn seq(&self) -> u64 {
        self.seq
    }
}

impl Report for Jobs {
    fn page(&self, page: &mut Page) {
        if !self.jobs.is_empty() {
            let row = |row: &Row| {
                let (when, tries) = match &row.place {
                    Place::Held { expires, attempt, attempts_max, .. } => {
                        let left = if *expires > self.now {
                            format!("in {}", measure::span(expires.since_ms(self.now)))
                        } else {
                            "now".to_owned()
                        };
                        (left, format!("{attempt}/{attempts_max}"))
                    }
                    Place::Ended { attempts, ended_at } => {
                        (ended_at.clone().unwrap_or_default(), attempts.to_string())
                    }
                };
                vec![row.job.to_string(), row.state.into(), row.mode.into(), row.model.clone(), tries, when]
            };
            let ended = matches!(self.jobs.first(), Some(Row { place: Place::Ended { .. }, .. }));
            let when = if ended { "ended" } else { "its time ends" };
            let rows: Vec<Vec<String>> = self.jobs.iter().map(row).collect();
            page.table(&["job", "state", "mode", "model", "tries", when], &rows);
        }
        if self.more {
            page.toned(Tone::Faint, "There are more: --limit shows them.");
        }
        page.line(format!("Held now: {}.", self.held.text()));
    }
}

impl List {
    /// Refuses a state that no job of those that are listed can have.
    fn refuse_contradiction(&self) -> Result<(), Failure> {
        let Some(state) = self.state.as_deref() else { return Ok(()) };
        if self.ended && !ENDED.contains(&state) {
            let text =
                format!("no job that has ended is {state}: --state {state} and --ended exclude each other");
            Err(Failure::Usage(text))
        } else if !self.ended && !HELD.contains(&state) {
            let text = format!("no job that is held is {state}: give --ended with --state {state}");
            Err(Failure::Usage(text))
        } else {
            Ok(())
        }
    }

    pub(super) fn run(&self, context: &Context) -> Result<Verdict, Failure> {
        self.refuse_contradiction()?;
        let view = context.view()?;
        let jobs = view.jobs();
        let wanted = |row: &Row| self.state.as_deref().is_none_or(|state| state == row.state);
        let (rows, more) = if self.ended {
            collect(self.limit, wanted, |last| {
                Ok(jobs.traces_before(last, BATCH_MAX)?.into_iter().map(Row::ended).collect())
            })?
        } else {
            collect(self.limit, wanted, |last| held(jobs, last.unwrap_or(0)))?
        };
        let held = CountsShown::of(jobs.counts()?);
        context.out.show(&Jobs { held, jobs: rows, more, now: context::now(&view)? })?;
        Ok(Verdict::Done)
    }
}

fn held(jobs: &JobsView, after: u64) -> Result<Vec<Row>, ReadError> {
    Ok(jobs.list(after, BATCH_MAX)?.iter().map(Row::held).collect())
}

/// The first `limit` of the wanted rows, page by page, and whether there are more of them.
fn collect(
    limit: usize,
    wanted: impl Fn(&Row) -> bool,
    page: impl Fn(Option<u64>) -> Result<Vec<Row>, ReadError>,
) -> Result<(Vec<Row>, bool), Failure> {
    let (mut rows, mut shown) = (Vec::new(), None);
    loop {
        let found = page(shown)?;
        let Some(last) = found.last() else { return Ok((rows, false)) };
        shown = Some(last.seq());
        for row in found.into_iter().filter(|row| wanted(row)) {
            if rows.len() == limit {
                return Ok((rows, true));
            }
            rows.push(row);
        }
    }
}
