//! `sandbox-exec`: the Agent starts this program again under this name to put a runtime into its sandbox. It is not for
//! people, so it is not in the help, and it is not parsed like the others: the rest belongs to the Agent.

use std::process::ExitCode;

use node_agent::runtime::sandbox;

/// Does the sandbox's work, where this process was started for it.
pub(crate) fn taken_over() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    (arguments.next()? == sandbox::COMMAND).then(|| sandbox::main(arguments))
}
