//! Questions to the person at the terminal. They go to the standard error, so that the answer of a command stays clean.
//!
//! Passphrases are not asked for here: see [`passphrase`](crate::passphrase).

use std::io::{self, IsTerminal as _, Write as _};

use crate::{escape, failure::Failure};

/// Whether somebody is there to answer.
pub(crate) fn somebody_is_there() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks for one line; nothing where the person only pressed Enter.
///
/// # Errors
/// [`Failure::NotConfirmed`] where the terminal was closed.
pub(crate) fn line(question: &str) -> Result<Option<String>, Failure> {
    let mut answer = String::new();
    let asked = write!(io::stderr().lock(), "{} ", escape::text(question))
        .and_then(|()| io::stdin().read_line(&mut answer));
    match asked {
        // Ctrl-D, or nobody any more.
        Ok(0) | Err(_) => Err(Failure::NotConfirmed),
        Ok(_) => Ok(Some(answer.trim().to_owned()).filter(|answer| !answer.is_empty())),
    }
}

/// Asks a question that is answered by yes or no; `usual` is what Enter means.
///
/// # Errors
/// Those of [`line()`].
pub(crate) fn yes(question: &str, usual: bool) -> Result<bool, Failure> {
    let choices = if usual { "[Y/n]" } else { "[y/N]" };
    loop {
        let Some(answer) = line(&format!("{question} {choices}"))? else { return Ok(usual) };
        match answer.to_ascii_lowercase().as_str() {
            "y" | "yes" => return Ok(true),
            "n" | "no" => return Ok(false),
            _ => say("Answer y or n."),
        }
    }
}

/// Asks for one of several, by number from 1; Enter means the first.
///
/// # Errors
/// Those of [`line()`].
pub(crate) fn which(question: &str, choices: &[&str]) -> Result<usize, Failure> {
    topic(question);
    for (number, choice) in (1..).zip(choices) {
        say(&format!("  {number}  {choice}"));
    }
    loop {
        let Some(answer) = line("Which? [1]")? else { return Ok(0) };
        match answer.parse::<usize>().ok().and_then(|number| number.checked_sub(1)) {
            Some(chosen) if chosen < choices.len() => return Ok(chosen),
            Some(_) | None => say(&format!("Answer with a number from 1 to {}.", choices.len())),
        }
    }
}

/// Begins something new: an empty line, and what it is about.
pub(crate) fn topic(text: &str) {
    say("");
    say(text);
}

/// Says something to the person.
pub(crate) fn say(text: &str) {
    // Whoever has closed it does not want it.
    let _ = writeln!(io::stderr().lock(), "{}", escape::text(text));
}
