//! `resultity-node`: the command line of a Resultity node.
//!
//! It reads flags, environment and the settings file, calls the store and the Agent, and says what came of it, as text
//! for a person or as JSON for a program. Each command is one file under `commands`. It decides nothing about jobs,
//! snapshots or keys: the crates below do.
//!
//! What the store gives to a terminal is escaped in one place, [`page`]. Secrets are never printed, and never taken from
//! an argument or an environment variable.

mod ask;
mod cli;
mod commands;
mod context;
mod demo;
mod escape;
mod failure;
mod files;
mod http;
mod identity;
mod measure;
mod out;
mod page;
mod passphrase;
mod progress;
mod redact;
mod screen;
mod settings;
mod surroundings;
mod typed;
mod when;

use std::process::ExitCode;

use clap::Parser as _;

use crate::{cli::Cli, out::Out, surroundings::Surroundings, typed::Typed};

fn main() -> ExitCode {
    // Before anything else: the helper must stay single-threaded and small.
    if let Some(code) = commands::sandbox::taken_over() {
        return code;
    }
    let surroundings = Surroundings::of_this_process();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return cli::explain(&error, &surroundings),
    };
    let out = Out::new(cli.common.json, &surroundings);
    let typed = Typed::of(&cli.common);
    match commands::dispatch(cli, &surroundings, out) {
        Ok(verdict) => verdict.exit_code(),
        Err(failure) => out.fail(&failure, &typed),
    }
}
