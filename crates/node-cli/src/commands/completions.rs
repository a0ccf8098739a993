//! `completions`: what a shell needs to complete this command line.

use clap::{Command, CommandFactory as _};
use clap_complete::Shell;

use super::Verdict;
use crate::{cli::Cli, failure::Failure, out::Out};

/// Writes the completions for `shell`.
///
/// # Errors
/// [`Failure::Output`].
pub(crate) fn run(shell: Shell, out: Out) -> Result<Verdict, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut shown(&Cli::command()), "resultity-node", &mut script);
    out.raw(&String::from_utf8_lossy(&script))?;
    Ok(Verdict::Done)
}

/// The command line without what is hidden: some shells would offer it all the same.
fn shown(whole: &Command) -> Command {
    let commands = whole.get_subcommands().filter(|command| !command.is_hide_set());
    Command::new("resultity-node")
        .version(env!("CARGO_PKG_VERSION"))
        .args(whole.get_arguments().cloned())
        .subcommands(commands.cloned())
}
