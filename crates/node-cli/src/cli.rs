//! The words of the command line. What a command takes stands in its own file.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::{
    commands::{
        account, backup, bundle, config, demo, devnet, doctor, drift, init, jobs, key, logs, models, moving,
        rotate, run, status, update,
    },
    failure::Failure,
    out::Out,
    settings::Layer,
    surroundings::Surroundings,
    typed::Typed,
};

/// What every exit code means; programs may rely on it.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  it failed, a snapshot was refused, or a model was not installed; the message says what happened and what to do
  2  the command line or the settings are wrong
  3  `drift check`: something was changed or is gone since it was installed
  4  an Agent is running on this volume
  5  there is no such thing: no volume, no such job or model, no snapshot
  6  this copy of the node must not run: the node runs elsewhere, or was moved away
  7  `doctor`: a check found a warning or an error
  10 `status --check`: the node works, and something is to be looked at
  11 `status --check`: the node takes no jobs, or cannot go on like this
  12 `status --check`: no Agent runs
  130  it was broken off with Ctrl-C: `models install` (what was fetched stays), `logs --follow`

Settings come from flags, then from variables (RESULTITY_HOME, RESULTITY_NETWORK, RESULTITY_NETWORK_URL, \
RESULTITY_KEYS_PASSPHRASE_FILE, ...), then from a TOML file: --config, else $RESULTITY_CONFIG, else node.toml in the \
home; for the home /var/lib/resultity it is /etc/resultity/node.toml where that is there. The names are the same everywhere: network_url in the file is RESULTITY_NETWORK_URL and --network-url. \
docs/cli.md lists them.

The home is --home, else $RESULTITY_HOME, else /var/lib/resultity for root, else resultity in the user's data folder. \
Each network has its own volume in it.";

const EXAMPLES: &str = "\
Examples:
  resultity-node init                            make a node
  resultity-node run --network-url https://...   run it
  resultity-node status                          how it stands, and what to do next
  resultity-node jobs explain <id>               what happened to a job
  resultity-node logs --level warn --since 2h    what went wrong lately";

/// A Resultity node: runs language-model inference for the Resultity network.
#[derive(Debug, Parser)]
#[command(name = "resultity-node", version, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"))]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Says what is wrong with a command line, or shows the help or the version that were asked for.
pub(crate) fn explain(error: &clap::Error, surroundings: &Surroundings) -> ExitCode {
    let asked_for = !error.use_stderr();
    let json = std::env::args_os().any(|argument| argument == "--json");
    if asked_for || !json {
        // There is nowhere left to say that it could not be said.
        drop(error.print());
        return if asked_for { ExitCode::SUCCESS } else { ExitCode::from(2) };
    }
    let text = error.to_string();
    let message = text.trim_start_matches("error: ").trim_end();
    Out::new(true, surroundings).fail(&Failure::Usage(message.to_owned()), &Typed::default())
}

/// How many of something are to be shown.
///
/// # Errors
/// What it should be, in words.
pub(crate) fn at_least_one(text: &str) -> Result<usize, &'static str> {
    text.parse().ok().filter(|count| *count > 0).ok_or("it should be a number, 1 or more")
}

/// What every command takes.
#[derive(Clone, Debug, Args)]
pub(crate) struct Common {
    /// The folder that holds the volumes
    #[arg(long, global = true, value_name = "FOLDER", value_hint = clap::ValueHint::DirPath)]
    pub(crate) home: Option<PathBuf>,
    /// The network: testnet (the default) or mainnet
    #[arg(long, global = true, value_name = "NETWORK")]
    pub(crate) network: Option<String>,
    /// The settings file
    #[arg(long, global = true, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub(crate) config: Option<PathBuf>,
    /// Answer in JSON; times are RFC 3339, failures are JSON on the standard error
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

impl Common {
    pub(crate) fn layer(&self, layer: &mut Layer) {
        layer.flag("home", self.home.clone());
        layer.flag("network", self.network.clone());
    }
}

/// What commands take that open the node's keys. Secrets stand in files, never in flags.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Keys {
    /// The file with the passphrase that the node's keys are sealed under
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub(crate) keys_passphrase_file: Option<PathBuf>,
    /// The secret that the node's keys are sealed under, else /run/secrets/resultity-kek
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub(crate) keys_secret_file: Option<PathBuf>,
}

impl Keys {
    pub(crate) fn layer(&self, layer: &mut Layer) {
        layer.flag("keys.passphrase_file", self.keys_passphrase_file.clone());
        layer.flag("keys.secret_file", self.keys_secret_file.clone());
    }
}

/// Where files of models may come from beside the network.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ModelFolders {
    /// A folder from which files of models may be taken, by their names there or by their SHA-256 in hex; may be given
    /// several times
    #[arg(long, alias = "models-folder", value_name = "FOLDER", value_hint = clap::ValueHint::DirPath)]
    pub(crate) models_folders: Vec<PathBuf>,
}

impl ModelFolders {
    pub(crate) fn layer(&self, layer: &mut Layer) {
        layer.flags("models.folders", self.models_folders.iter().map(Into::into).collect());
    }
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a node: its volume and its key
    Init(init::Init),
    /// Run the node
    Run(Box<run::Run>),
    /// Show how the node stands and what to do next
    Status(status::Status),
    /// Check the node as an expert would, and mend what is safe to mend
    Doctor(doctor::Doctor),
    /// Show the jobs that the node holds
    #[command(subcommand)]
    Jobs(jobs::Jobs),
    /// Show and judge the configuration that the network gives
    #[command(subcommand)]
    Config(config::Config),
    /// Show, fetch and remove the models that the node keeps
    #[command(subcommand)]
    Models(models::Models),
    /// Compare what is here with what was installed and approved
    #[command(subcommand)]
    Drift(drift::Drift),
    /// Show and change the account that the node works for
    #[command(subcommand)]
    Account(account::Account),
    /// Take the node's key out, bring one in, seal it anew
    #[command(subcommand)]
    Key(key::Key),
    /// Keep the node's volume in a file, and make a volume of it again
    #[command(subcommand)]
    Backup(backup::Backup),
    /// Hand the node to another machine
    #[command(subcommand)]
    Move(moving::Move),
    /// Delete what has had its time, as the table in docs/rotation.md says
    Rotate(rotate::Rotate),
    /// Show the node's log
    Logs(logs::Logs),
    /// Write a support archive, redacted
    Bundle(bundle::Bundle),
    /// Run a small network on this machine, and steer it
    #[command(subcommand)]
    Devnet(devnet::Devnet),
    /// See a node at work: a tour with a real model
    Demo(demo::Demo),
    /// Write completions for a shell
    #[command(
        after_help = "Examples:\n  resultity-node completions bash > /etc/bash_completion.d/resultity-node\n  \
                            resultity-node completions fish > ~/.config/fish/completions/resultity-node.fish"
    )]
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write the manual pages
    #[command(
        after_help = "Examples:\n  mkdir pages && resultity-node manual pages && man -l pages/resultity-node-status.1"
    )]
    Manual {
        /// A folder without such pages
        #[arg(value_hint = clap::ValueHint::DirPath)]
        folder: PathBuf,
    },
    /// See which releases of the Agent the network approves, and put one in place
    #[command(subcommand)]
    Update(update::Update),
    /// Write docs/cli.md
    #[command(hide = true)]
    HelpDocument,
}
