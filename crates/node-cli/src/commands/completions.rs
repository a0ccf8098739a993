//! `completions`: what a shell needs to complete this command line.

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::Verdict;
use crate::{cli::Cli, failure::Failure, out::Out};

/// Writes the completions for `shell`.
///
/// # Errors
/// [`Failure::Output`].
pub(crate) fn run(shell: Shell, out: Out) -> Result<Verdict, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "resultity-node", &mut script);
    out.raw(&String::from_utf8_lossy(&script))?;
    Ok(Verdict::Done)
}
