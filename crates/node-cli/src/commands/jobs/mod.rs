//! `jobs`: the jobs that the node holds, and what became of others. Prompts and answers stay sealed.

mod explain;
mod list;

use clap::Subcommand;
use node_store::jobs::Story;
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
        /// The job
        id: JobId,
    },
    /// Tell what happened to a job, step by step
    #[command(after_help = "Examples:\n  resultity-node jobs explain 0192f0c1-2b3c-7def-8a00-000000000001")]
    Explain {
        /// The job
        id: JobId,
    },
}

impl Jobs {
    /// # Errors
    /// [`Failure`]; [`Failure::NoSuchJob`].
    pub(crate) fn run(&self, context: &Context) -> Result<Verdict, Failure> {
        match self {
            Self::List(list) => list.run(context),
            Self::Show { id } => explain::run(context, *id, explain::Depth::Facts),
            Self::Explain { id } => explain::run(context, *id, explain::Depth::Story),
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
