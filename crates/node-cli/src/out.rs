//! The standard output: a report as text or as JSON.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use rustix::termios::tcgetwinsize;
use serde::Serialize;

use crate::{escape, failure::Failure, page::Page, screen, surroundings::Surroundings, typed::Typed};

/// Something that a command found or did.
pub(crate) trait Report: Serialize {
    /// Writes it for a person.
    fn page(&self, page: &mut Page);
}

/// Where and how reports are shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Out {
    json: bool,
    colours: bool,
    bars: bool,
    draws: bool,
}

impl Out {
    pub(crate) fn new(json: bool, surroundings: &Surroundings) -> Self {
        let (colours, bars, draws) = (surroundings.colours(), surroundings.bars(), surroundings.draws());
        Self { json, colours, bars, draws }
    }

    /// Whether a program reads it.
    pub(crate) const fn is_json(self) -> bool {
        self.json
    }

    /// Whether colours may be used.
    pub(crate) const fn is_coloured(self) -> bool {
        self.colours
    }

    /// Whether the standard error can show a bar that moves.
    pub(crate) const fn draws_bars(self) -> bool {
        self.bars
    }

    /// Shows a report.
    ///
    /// # Errors
    /// [`Failure::Output`].
    pub(crate) fn show(self, report: &impl Report) -> Result<(), Failure> {
        if self.json { self.json(report, true) } else { self.text(report) }
    }

    /// Shows a report as one line of JSON, or as text: for reports of which there are many.
    ///
    /// # Errors
    /// [`Failure::Output`].
    pub(crate) fn show_line(self, report: &impl Report) -> Result<(), Failure> {
        if self.json { self.json(report, false) } else { self.text(report) }
    }

    /// Shows a report that has changed: on a terminal in the place of the one before, elsewhere below it.
    ///
    /// # Errors
    /// [`Failure::Output`].
    pub(crate) fn show_again(self, report: &impl Report, first: bool) -> Result<(), Failure> {
        if self.json {
            return self.json(report, false);
        }
        let text = self.page(report);
        if !self.draws {
            return self.raw(&if first { text } else { format!("\n{text}") });
        }
        // A terminal without a size, as a serial line is: the usual one.
        let size = tcgetwinsize(io::stdout()).ok().filter(|size| size.ws_col > 0 && size.ws_row > 0);
        let (columns, rows) = size.map_or((80, 24), |size| (size.ws_col.into(), size.ws_row.into()));
        self.raw(&screen::frame(&text, columns, rows))
    }

    /// What follows the last report that was shown in one place: the prompt belongs below it.
    ///
    /// # Errors
    /// [`Failure::Output`].
    pub(crate) fn leave(self) -> Result<(), Failure> {
        if self.draws && !self.json { self.raw("\n") } else { Ok(()) }
    }

    fn text(self, report: &impl Report) -> Result<(), Failure> {
        self.raw(&self.page(report))
    }

    fn page(self, report: &impl Report) -> String {
        let mut page = Page::new(self.colours);
        report.page(&mut page);
        page.into_text()
    }

    fn json(self, report: &impl Serialize, spread: bool) -> Result<(), Failure> {
        let text = if spread { serde_json::to_string_pretty(report) } else { serde_json::to_string(report) };
        let text = text.map_err(|error| Failure::Output(error.into()))?;
        self.raw(&format!("{}\n", escape::json(&text)))
    }

    /// Shows a text that is known to be safe.
    ///
    /// # Errors
    /// [`Failure::Output`].
    pub(crate) fn raw(self, text: &str) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(Failure::Output)
    }

    /// Says something on the standard error that is not part of the answer; nothing where a program reads it.
    pub(crate) fn hint(self, text: &str) {
        if !self.json {
            // Whoever has closed it does not want it.
            let _ = writeln!(io::stderr().lock(), "{text}");
        }
    }

    /// Says what failed on the standard error, and gives the exit code for it. Commands that it tells to type get the
    /// flags of this command line.
    pub(crate) fn fail(self, failure: &Failure, typed: &Typed) -> ExitCode {
        let mut stderr = io::stderr().lock();
        let (code, story) = (failure.code(), failure.story());
        let story = typed.complete(&story);
        let said = if failure.is_broken_pipe() {
            // Whoever read the output has seen enough: `| head`.
            Ok(())
        } else if self.json {
            let error =
                serde_json::json!({ "error": { "code": code, "kind": failure.kind(), "message": story } });
            writeln!(stderr, "{}", escape::json(&error.to_string()))
        } else {
            let lines: Vec<&str> = if failure.is_drawn() { story.lines().collect() } else { vec![&story] };
            let lines: Vec<_> = lines.into_iter().map(escape::text).collect();
            writeln!(stderr, "error: {}", lines.join("\n"))
        };
        // There is nowhere left to say that it could not be said.
        drop(said);
        ExitCode::from(code)
    }
}
