//! `rotate`: does what rotation would do now, or shows it.

use clap::Args;
use node_store::rotation::Step;
use serde::Serialize;

use super::Verdict;
use crate::{
    cli::Keys,
    context::{Context, reading},
    failure::Failure,
    measure::count,
    out::Report,
    page::{Page, Tone},
};

/// Delete what has had its time, as the table in docs/rotation.md says.
///
/// An Agent does this every second. By hand it is for a node that stands still; with --dry-run it is for looking, also
/// beside a running Agent.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  resultity-node rotate --dry-run\n  resultity-node rotate")]
pub(crate) struct Rotate {
    /// Show what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    pub(crate) keys: Keys,
}

#[derive(Serialize)]
struct Planned {
    dry_run: bool,
    steps: Vec<StepShown>,
}

#[derive(Serialize)]
struct StepShown {
    /// `store` or `agent`.
    by: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    class: Option<&'static str>,
    what: String,
}

impl StepShown {
    fn of(step: &Step) -> Self {
        match step {
            Step::Store(step) => {
                Self { by: "store", class: Some(step.class().title()), what: step.to_string() }
            }
            Step::Agent(step) => Self { by: "agent", class: None, what: step.to_string() },
        }
    }
}

impl Report for Planned {
    fn page(&self, page: &mut Page) {
        if self.steps.is_empty() {
            page.line("There is nothing to do.");
            return;
        }
        let own: Vec<&StepShown> = self.steps.iter().filter(|step| step.by == "store").collect();
        let steps = count(own.len() as u64, "step");
        page.toned(
            Tone::Strong,
            if self.dry_run { format!("{steps} to do now:") } else { format!("{steps} done:") },
        );
        for step in own {
            page.line(format!("  {:9} {}", step.class.unwrap_or_default(), step.what));
        }
        let mut agents = self.steps.iter().filter(|step| step.by == "agent").peekable();
        if agents.peek().is_some() {
            page.heading("For the Agent, when it runs:");
        }
        for step in agents {
            page.line(format!("  {}", step.what));
        }
    }
}

impl Rotate {
    /// # Errors
    /// [`Failure`]; [`Failure::Held`] beside a running Agent, but for a dry run.
    pub(crate) fn run(&self, context: &Context) -> Result<Verdict, Failure> {
        let reading = reading()?;
        let steps = if self.dry_run {
            context.view()?.plan_rotation(&[], &reading)?
        } else {
            let store = context.store(&reading)?;
            let steps = store.plan_rotation(&[], &reading)?;
            store.rotate(&steps, &reading)?;
            steps
        };
        let steps = steps.iter().map(StepShown::of).collect();
        context.out.show(&Planned { dry_run: self.dry_run, steps })?;
        Ok(Verdict::Done)
    }
}
