//! `logs`: the node's log, as it stands on the disk; with `--follow` as it comes.

use std::time::Duration;

use clap::{
    Args,
    builder::{PossibleValuesParser, TypedValueParser},
};
pub(crate) use node_agent::page::records::Shown as RecordShown;
use node_store::logs::{LogsView, QUERY_MAX, Query};
use node_types::log::{Kind, Level};

use super::{Verdict, jobs::Meant};
use crate::{
    context::{self, Context},
    failure::Failure,
    out::Report,
    page::{Page, Tone},
    when::When,
};

/// Records shown unless told: 200, the newest.
const LIMIT: u32 = 200;
/// Between two looks while following: half a second.
const POLL: Duration = Duration::from_millis(500);

/// Show the node's log. It works beside a running Agent and without one.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  resultity-node logs --level warn --since 2h
  resultity-node logs --job 0192f0c1-2b3c-7def-8a00-000000000001
  resultity-node logs --kind configuration --grep refused
  resultity-node logs --follow --json | jq -r .message")]
pub(crate) struct Logs {
    /// This level and higher
    #[arg(long, value_parser = levels())]
    level: Option<Level>,
    /// This kind alone
    #[arg(long, value_parser = kinds())]
    kind: Option<Kind>,
    /// About this job alone: its ID, or so many of its first digits that no other has them
    #[arg(long, value_name = "ID")]
    job: Option<Meant>,
    /// With this text in message or fields; ASCII letters in either case
    #[arg(long, value_name = "TEXT")]
    grep: Option<String>,
    /// From then on: 30s, 45m, 2h, 7d ago, or RFC 3339
    #[arg(long, value_name = "WHEN")]
    since: Option<When>,
    /// Before then
    #[arg(long, value_name = "WHEN", conflicts_with = "follow")]
    until: Option<When>,
    /// At most so many, the newest of them
    #[arg(long, value_name = "COUNT", default_value_t = LIMIT, value_parser = clap::value_parser!(u32).range(0..=i64::from(QUERY_MAX)))]
    limit: u32,
    /// Go on with what comes, until Ctrl-C
    #[arg(long, short)]
    follow: bool,
}

fn levels() -> impl TypedValueParser<Value = Level> {
    PossibleValuesParser::new(Level::ALL.map(Level::name)).try_map(|text| text.parse::<Level>())
}

fn kinds() -> impl TypedValueParser<Value = Kind> {
    PossibleValuesParser::new(Kind::ALL.map(Kind::name)).try_map(|text| text.parse::<Kind>())
}

impl Report for RecordShown {
    fn page(&self, page: &mut Page) {
        let tone = match self.level {
            Level::Error => Tone::Bad,
            Level::Warn => Tone::Warning,
            Level::Info => Tone::Good,
            Level::Debug | Level::Trace => Tone::Faint,
        };
        let (level, kind) = (format!(" {:5} ", self.level.name()), format!("{:13} ", self.kind.name()));
        let mut about = String::new();
        for (name, value) in &self.fields {
            // A text without its quotes; everything else as JSON.
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            about += &format!(" {name}={value}");
        }
        if let Some(job) = self.job {
            about += &format!(" job={job}");
        }
        page.parts(&[
            (Tone::Faint, &self.at),
            (tone, &level),
            (Tone::Plain, &kind),
            (Tone::Plain, &self.message),
            (Tone::Faint, &about),
        ]);
    }
}

impl Logs {
    /// # Errors
    /// [`Failure`]; [`Failure::Usage`] where no moment lies between the two that were given.
    pub(crate) fn run(&self, context: &Context) -> Result<Verdict, Failure> {
        let view = context.view()?;
        let now = context::now(&view)?;
        let job =
            self.job.as_ref().map(|meant| meant.whole().map_or_else(|| meant.find(&view), Ok)).transpose()?;
        let (since, until) = (self.since.map(|it| it.seen_from(now)), self.until.map(|it| it.seen_from(now)));
        if let (Some(since), Some(until)) = (since, until)
            && since >= until
        {
            let text = format!("nothing is both from {since} on (--since) and before {until} (--until)");
            return Err(Failure::Usage(text));
        }
        let mut query = Query {
            since,
            until,
            level_min: self.level,
            kind: self.kind,
            job,
            text: self.grep.clone(),
            after: None,
            limit: Some(self.limit),
        };
        if !self.follow {
            if show(context, view.logs(), &query)?.is_none() {
                context.out.hint("nothing is found; of what the network has the newest part is kept here");
            }
            return Ok(Verdict::Done);
        }
        if context.holder()?.is_none() {
            context.out.hint("no Agent runs on this volume: nothing comes before one does");
        }
        // Asked first: what comes between the two looks is shown by the second.
        let newest = newest(view.logs())?;
        let shown = show(context, view.logs(), &query)?;
        // From here on by number: what comes is shown whatever its time.
        query = Query { since: None, limit: None, ..query };
        query.after = Some(shown.unwrap_or(newest));
        loop {
            std::thread::sleep(POLL);
            if let Some(last) = show(context, view.logs(), &query)? {
                query.after = Some(last);
            }
        }
    }
}

/// Shows what the query finds. Gives the number of the last.
fn show(context: &Context, logs: &LogsView, query: &Query) -> Result<Option<u64>, Failure> {
    let mut last = None;
    for entry in logs.query(query)? {
        last = Some(entry.seq);
        context.out.show_line(&RecordShown::from(entry))?;
    }
    Ok(last)
}

/// The number of the newest record of all, or 0.
fn newest(logs: &LogsView) -> Result<u64, Failure> {
    let newest = logs.query(&Query { limit: Some(1), ..Query::default() })?;
    Ok(newest.last().map_or(0, |entry| entry.seq))
}
