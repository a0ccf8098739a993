//! The story as it is told: steps, what is checked in each, what was seen.

use std::fmt::Display;

use serde::Serialize;
use tokio::time::Instant;

use crate::{failure::Failure, out::Out};

/// A check and what it saw.
#[derive(Debug, Serialize)]
pub(crate) struct Check {
    what: String,
    held: bool,
    seen: String,
}

/// A step of the tour.
#[derive(Debug, Serialize)]
pub(crate) struct Step {
    title: &'static str,
    checks: Vec<Check>,
    seconds: f64,
}

/// The whole tour, as `--json` gives it.
#[derive(Debug, Serialize)]
pub(crate) struct Told {
    /// Everything held.
    pub(crate) held: bool,
    /// How long it took.
    pub(crate) seconds: f64,
    steps: Vec<Step>,
}

/// Tells the tour while it happens.
#[derive(Debug)]
pub(crate) struct Story {
    out: Out,
    steps: Vec<Step>,
    begun: Instant,
    step_begun: Instant,
}

impl Story {
    /// A story that begins now.
    pub(crate) fn new(out: Out) -> Self {
        let now = Instant::now();
        Self { out, steps: Vec::new(), begun: now, step_begun: now }
    }

    /// Begins a step and says what is checked in it.
    ///
    /// # Errors
    /// [`Failure::Output`].
    pub(crate) fn step(&mut self, title: &'static str, checked: &str) -> Result<(), Failure> {
        self.end_step();
        self.step_begun = Instant::now();
        let number = self.steps.len() + 1;
        self.steps.push(Step { title, checks: Vec::new(), seconds: 0.0 });
        self.say(&format!("\n{number}. {title}\n   checked: {checked}\n"))
    }

    /// Shows something that was seen.
    ///
    /// # Errors
    /// [`Failure::Output`].
    pub(crate) fn saw(&mut self, what: &str, seen: impl Display) -> Result<(), Failure> {
        let seen = seen.to_string();
        self.say(&format!("     {what:<44} {}\n", crate::escape::text(&seen)))
    }

    /// Checks something and shows what was seen.
    ///
    /// # Errors
    /// [`Failure::Output`].
    pub(crate) fn check(&mut self, what: &str, held: bool, seen: impl Display) -> Result<(), Failure> {
        let seen = seen.to_string();
        let mark = if held { "ok " } else { "NOT" };
        // What prompts, models and errors put into it is for a terminal too.
        self.say(&format!(" {mark} {what:<44} {}\n", crate::escape::text(&seen)))?;
        if let Some(step) = self.steps.last_mut() {
            step.checks.push(Check { what: what.to_owned(), held, seen });
        }
        Ok(())
    }

    /// Ends the story.
    pub(crate) fn end(mut self) -> Told {
        self.end_step();
        let held = self.steps.iter().flat_map(|step| &step.checks).all(|check| check.held);
        Told { held, seconds: self.begun.elapsed().as_secs_f64(), steps: self.steps }
    }

    fn end_step(&mut self) {
        if let Some(step) = self.steps.last_mut() {
            step.seconds = self.step_begun.elapsed().as_secs_f64();
        }
    }

    fn say(&self, text: &str) -> Result<(), Failure> {
        if self.out.is_json() { Ok(()) } else { self.out.raw(text) }
    }
}
