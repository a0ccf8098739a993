//! `manual`: the manual pages, one for each command, made from the help texts themselves.

use std::path::Path;

use clap::{Command, CommandFactory as _};
use clap_mangen::Man;

use super::Verdict;
use crate::{cli::Cli, failure::Failure, files, out::Out};

/// Writes the pages into a folder that is there: `resultity-node.1`, `resultity-node-status.1`, ...
///
/// # Errors
/// [`Failure::File`]; also where one of them stands there.
pub(crate) fn run(folder: &Path, out: Out) -> Result<Verdict, Failure> {
    let mut root = Cli::command().disable_help_subcommand(true);
    root.build();
    let mut written = 0;
    page(&root, folder, &mut written)?;
    out.hint(&format!("{written} pages are in {}", folder.display()));
    Ok(Verdict::Done)
}

fn page(command: &Command, folder: &Path, written: &mut u32) -> Result<(), Failure> {
    // As it is typed, with a dash in every gap: the usual name of a page of a command's command.
    let typed = command.get_bin_name().unwrap_or(command.get_name());
    let man = Man::new(command.clone()).title(typed.replace(' ', "-").to_uppercase());
    let file = folder.join(man.get_filename());
    let mut text = Vec::new();
    man.render(&mut text).map_err(|source| Failure::File { what: "write", path: file.clone(), source })?;
    files::write_new(&file, &text)?;
    *written += 1;
    command
        .get_subcommands()
        .filter(|command| !command.is_hide_set())
        .try_for_each(|it| page(it, folder, written))
}
