//! `help-document`: docs/cli.md, made from the help texts themselves. A test compares the two.

use std::fmt::Write as _;

use clap::{Command, CommandFactory as _};

use super::Verdict;
use crate::{
    cli::Cli,
    failure::Failure,
    out::Out,
    settings::{Form, KEYS, variable},
};

/// Columns of the help texts, whatever the terminal.
const WIDTH: usize = 100;

/// Writes the document.
///
/// # Errors
/// [`Failure::Output`].
pub(crate) fn run(out: Out) -> Result<Verdict, Failure> {
    out.raw(&document())?;
    Ok(Verdict::Done)
}

fn document() -> String {
    let mut text = String::from(
        "# The command line\n\nMade from the help texts by `cargo run -q -p node-cli -- help-document > docs/cli.md`; edit \
         those, not this page.\n",
    );
    let mut root = Cli::command().term_width(WIDTH);
    root.build();
    describe(&mut root, &mut text);
    text += "\n## Settings\n\n| in the file | variable | flag | value |\n|---|---|---|---|\n";
    for (name, form) in KEYS {
        let flag = name.replace(['.', '_'], "-");
        let value = match form {
            Form::Text => "text",
            Form::Path => "a path; a relative one in the file starts at the file's folder",
            Form::Paths => "a list of paths; in the variable separated by colons",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "| `{name}` | `{}` | `--{flag}` | {value} |", variable(name));
    }
    text += "\nA name with a dot is a key of a table: `runtime.url` is `url` under `[runtime]`. No setting is a secret: \
             files with secrets are named.\n";
    text
}

fn describe(command: &mut Command, text: &mut String) {
    let name = command.get_bin_name().unwrap_or(command.get_name()).to_owned();
    let help = command.render_long_help().to_string();
    let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
    let _ = write!(text, "\n## {name}\n\n```text\n{}\n```\n", lines.join("\n").trim_end());
    let visible = |command: &&mut Command| !command.is_hide_set() && command.get_name() != "help";
    for command in command.get_subcommands_mut().filter(visible) {
        describe(command, text);
    }
}
