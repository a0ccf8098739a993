//! How far something is, on the standard error: a bar on a terminal, a line now and then elsewhere, and nothing where a
//! program reads the answer. The standard output holds the answer alone.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle};
use tokio::time::Instant;

use crate::{escape, measure, out::Out};

/// Between two lines about one step: 3 seconds.
const EVERY: Duration = Duration::from_secs(3);
/// What, how much of it, how fast, and how long it will take.
const TEMPLATE: &str =
    "{msg} [{wide_bar}] {binary_bytes} of {binary_total_bytes} {binary_bytes_per_sec} {eta} left";

/// Shows one step after another.
#[derive(Debug)]
pub(crate) struct Meter {
    out: Out,
    bar: Option<ProgressBar>,
    step: Option<Step>,
}

/// What is being done.
#[derive(Debug)]
struct Step {
    /// With what, for example `fetched`.
    doing: &'static str,
    name: String,
    begun: Instant,
    /// How much of it was done when it was begun.
    from: u64,
    said: Instant,
    done: u64,
    bytes: u64,
}

impl Meter {
    /// One that shows nothing yet.
    pub(crate) fn new(out: Out) -> Self {
        Self { out, bar: None, step: None }
    }

    /// Shows that `done` of so many bytes of `name` are, for example, `fetched`. Where it is about something else than
    /// before, what was before has ended well.
    pub(crate) fn show(&mut self, doing: &'static str, name: &str, done: u64, bytes: u64) {
        if self.out.is_json() {
            return;
        }
        let now = Instant::now();
        if self.step.as_ref().is_none_or(|step| (step.doing, step.name.as_str()) != (doing, name)) {
            self.ended();
            self.bar = self.out.draws_bars().then(|| bar(&format!("{name} {doing}"), done, bytes));
            self.step =
                Some(Step { doing, name: name.to_owned(), begun: now, from: done, said: now, done, bytes });
        }
        let Some(step) = &mut self.step else { return };
        (step.done, step.bytes) = (done, bytes);
        if let Some(bar) = &self.bar {
            bar.set_length(bytes);
            bar.set_position(done);
        } else if now.duration_since(step.said) >= EVERY {
            step.said = now;
            let text = step.line(now);
            self.say(&text);
        }
    }

    /// What is shown has ended well: all of it is done, whatever was heard of it last.
    pub(crate) fn ended(&mut self) {
        let Some(step) = self.step.take() else { return };
        match &self.bar {
            Some(bar) => {
                bar.set_position(step.bytes);
                bar.force_draw();
            }
            None => self.say(&format!("{}: {} {}", step.name, measure::bytes(step.bytes), step.doing)),
        }
        self.clear();
    }

    /// What is shown has ended otherwise: what came of it is said elsewhere.
    pub(crate) fn broken_off(&mut self) {
        self.clear();
        self.step = None;
    }

    /// Says something beside it.
    pub(crate) fn say(&self, text: &str) {
        let text = escape::text(text);
        match &self.bar {
            Some(bar) => bar.suspend(|| self.out.hint(&text)),
            None => self.out.hint(&text),
        }
    }

    /// Takes the bar away.
    fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Step {
    fn line(&self, now: Instant) -> String {
        let ms = u64::try_from(now.duration_since(self.begun).as_millis()).unwrap_or(u64::MAX).max(1);
        let rate = self.done.saturating_sub(self.from).saturating_mul(1000) / ms;
        let left = self.bytes.saturating_sub(self.done).saturating_mul(1000).checked_div(rate);
        let left = left.map_or(String::new(), |ms| format!(", {} left", measure::span(ms)));
        let (done, of, rate) = (measure::bytes(self.done), measure::bytes(self.bytes), measure::bytes(rate));
        format!("{}: {done} of {of} {}, {rate}/s{left}", self.name, self.doing)
    }
}

fn bar(what: &str, done: u64, bytes: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::stderr())
        .with_position(done)
        .with_finish(ProgressFinish::AndClear)
        .with_message(escape::text(what).into_owned());
    // What was there before this began was not fetched within this time.
    bar.reset_eta();
    // A wrong template is a mistake of ours, and leaves the usual look.
    match ProgressStyle::with_template(TEMPLATE) {
        Ok(style) => bar.with_style(style.progress_chars("=> ")),
        Err(_) => bar,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_is_one() {
        ProgressStyle::with_template(TEMPLATE).unwrap();
    }

    #[test]
    fn a_line_says_how_much_how_fast_and_how_long() {
        let begun = Instant::now();
        let (doing, name) = ("fetched", "m@1/x".to_owned());
        let step = Step { doing, name, begun, from: 1024, said: begun, done: 3072, bytes: 13_312 };
        let later = begun + Duration::from_secs(2);
        assert_eq!(step.line(later), "m@1/x: 3.0 KiB of 13.0 KiB fetched, 1.0 KiB/s, 10 s left");
        let still = Step { done: 1024, ..step };
        assert_eq!(still.line(later), "m@1/x: 1.0 KiB of 13.0 KiB fetched, 0 bytes/s");
    }
}
