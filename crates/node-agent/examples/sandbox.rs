//! The sandbox's stages without the rest of the Agent: what the tests of the runtime room start instead of
//! `resultity-node`.

use std::process::ExitCode;

use node_agent::runtime::sandbox;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|word| word == sandbox::COMMAND) {
        sandbox::main(args)
    } else {
        ExitCode::FAILURE
    }
}
