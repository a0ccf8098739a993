//! `jobs`: the jobs that the node holds, and what became of others. Prompts and answers stay sealed.

mod explain;
mod list;

use std::str::FromStr;

use clap::Subcommand;
use node_store::{jobs::Story, view::View};
use node_types::{
    JobId,
    job::Mode,
    trace::{Outcome, Standing},
};

use super::Verdict;
use crate::{context::Context, failure::Failure};

/// What is shown of jobs.
#[derive(Debug, Subcommand)]
pub(crate) enum Jobs {
    /// List the jobs that are held, or with --ended the traces of those that have ended
    List(list::List),
    /// Show the facts of a job
    #[command(
        after_help = "Examples:\n  resultity-node jobs show 0192f0c1-2b3c-7def-8a00-000000000001 --json"
    )]
    Show {
        /// The job: its ID, or so many of its first digits that no other has them
        #[arg(value_name = "ID")]
        id: Meant,
    },
    /// Tell what happened to a job, step by step
    #[command(
        after_help = "Examples:\n  resultity-node jobs explain 0192f0c1-2b3c-7def-8a00-000000000001\n  \
                            resultity-node jobs explain 0192f0c1 --json | jq .events"
    )]
    Explain {
        /// The job: its ID, or so many of its first digits that no other has them
        #[arg(value_name = "ID")]
        id: Meant,
    },
}

impl Jobs {
    /// # Errors
    /// [`Failure`]; [`Failure::NoSuchJob`].
    pub(crate) fn run(&self, context: &Context) -> Result<Verdict, Failure> {
        match self {
            Self::List(list) => list.run(context),
            Self::Show { id } => explain::run(context, id, explain::Depth::Facts),
            Self::Explain { id } => explain::run(context, id, explain::Depth::Story),
        }
    }
}

/// Jobs that are named where more than one is meant.
const NAMED: u32 = 3;

/// A job as a person names it: all or the first digits of its ID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Meant {
    text: String,
    first: JobId,
    last: JobId,
}

/// Text that no ID begins with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no job's ID: write a UUID as `jobs list` shows it, or its first digits, 4 or more")]
pub(crate) struct NoId(String);

impl FromStr for Meant {
    type Err = NoId;

    fn from_str(text: &str) -> Result<Self, NoId> {
        let digits: String = text.chars().filter(|letter| *letter != '-').collect();
        let padded = |with: &str| {
            let hex = format!("{digits}{}", with.repeat(32_usize.saturating_sub(digits.len())));
            let bytes = u128::from_str_radix(&hex, 16).ok().filter(|_| hex.len() == 32)?.to_be_bytes();
            Some(JobId::from_bytes(bytes))
        };
        let few = digits.len() < 4 || !digits.chars().all(|letter| letter.is_ascii_hexdigit());
        match (padded("0"), padded("f")) {
            (Some(first), Some(last)) if !few => Ok(Self { text: text.to_owned(), first, last }),
            _ => Err(NoId(text.to_owned())),
        }
    }
}

impl Meant {
    /// The job whose whole ID it is: that may be one that is not held any more.
    pub(crate) fn whole(&self) -> Option<JobId> {
        (self.first == self.last).then_some(self.first)
    }

    /// The one job that is meant.
    ///
    /// # Errors
    /// [`Failure::NoSuchJob`]; [`Failure::Usage`] where several are.
    pub(crate) fn find(&self, view: &View) -> Result<JobId, Failure> {
        let found = view.jobs().between(self.first, self.last, NAMED + 1)?;
        match found.as_slice() {
            [] => Err(Failure::NoSuchJob(self.text.clone())),
            [one] => Ok(*one),
            [..] => {
                let some: Vec<String> = found.iter().take(NAMED as usize).map(ToString::to_string).collect();
                let more = if found.len() > NAMED as usize { ", ..." } else { "" };
                let text = format!(
                    "several jobs begin with {}: {}{more}: write more of the ID",
                    self.text,
                    some.join(", ")
                );
                Err(Failure::Usage(text))
            }
        }
    }
}

/// Where a job stands, in one word.
const fn standing(standing: Standing) -> &'static str {
    match standing {
        Standing::Queued => "queued",
        Standing::Running => "running",
        Standing::Finished => "finished",
        Standing::Failed => "failed",
    }
}

/// How a job ended, in one word.
const fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Answered => "answered",
        Outcome::Failed => "failed",
        Outcome::Expired => "expired",
    }
}

/// What a job asks a model for, in one word.
const fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Chat => "chat",
        Mode::Completion => "completion",
        Mode::Embedding => "embedding",
    }
}

/// Where a job stands or how it ended, in one word.
const fn state(story: &Story) -> &'static str {
    match story.now {
        Ok(held) => standing(held),
        Err(ended) => outcome(ended),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_digits_mean_every_job_that_begins_with_them() {
        let meant: Meant = "0192f0C1-2b".parse().unwrap();
        assert_eq!(meant.first.to_string(), "0192f0c1-2b00-0000-0000-000000000000");
        assert_eq!(meant.last.to_string(), "0192f0c1-2bff-ffff-ffff-ffffffffffff");
        let whole: Meant = "0192f0c1-2b3c-7def-8a00-000000000001".parse().unwrap();
        assert_eq!(whole.first, whole.last);
        for wrong in ["", "019", "not-an-id", "0192g", "0192f0c1-2b3c-7def-8a00-0000000000011", "+192f0c1"] {
            assert!(wrong.parse::<Meant>().is_err(), "{wrong}");
        }
    }
}
