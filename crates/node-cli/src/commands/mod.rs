//! The commands, one file each. A command reads, calls the crates below, and shows a report.

pub(crate) mod account;
pub(crate) mod backup;
pub(crate) mod bundle;
mod completions;
pub(crate) mod config;
pub(crate) mod demo;
pub(crate) mod devnet;
pub(crate) mod doctor;
pub(crate) mod drift;
mod help_document;
pub(crate) mod init;
pub(crate) mod jobs;
pub(crate) mod key;
pub(crate) mod logs;
mod manual;
pub(crate) mod models;
pub(crate) mod moving;
pub(crate) mod rotate;
pub(crate) mod run;
pub(crate) mod sandbox;
pub(crate) mod status;
pub(crate) mod update;

use std::{path::Path, process::ExitCode};

use node_agent::{agent::SERVICE_HOME, standing::Health};

use crate::{
    cli::{Cli, Command, Common},
    context::Context,
    failure::Failure,
    out::Out,
    settings::{Layer, Values},
    surroundings::Surroundings,
    typed::Typed,
};

/// How a command ended that did what it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// All is well.
    Done,
    /// What was to be judged is refused, or not all could be done; the report said why.
    Refused,
    /// The report says how the node is, and the exit code too.
    Health(Health),
    /// Something is not what it was when it was installed; the report said what.
    Drifted,
    /// The doctor found something wrong; the report said what.
    Unwell,
}

impl Verdict {
    pub(crate) fn exit_code(self) -> ExitCode {
        match self {
            Self::Done => ExitCode::SUCCESS,
            Self::Refused => ExitCode::FAILURE,
            Self::Drifted => ExitCode::from(3),
            Self::Health(Health::Well) => ExitCode::SUCCESS,
            Self::Health(Health::Attention) => ExitCode::from(10),
            Self::Health(Health::Failing) => ExitCode::from(11),
            Self::Health(Health::Stopped) => ExitCode::from(12),
            Self::Unwell => ExitCode::from(7),
        }
    }
}

/// Does what the command line says.
///
/// # Errors
/// [`Failure`].
pub(crate) fn dispatch(cli: Cli, surroundings: &Surroundings, out: Out) -> Result<Verdict, Failure> {
    let common = cli.common;
    let with = |own: &dyn Fn(&mut Layer)| context(&common, own, surroundings, out);
    let none = |_: &mut Layer| {};
    match cli.command {
        Command::Init(init) => {
            let keys = |layer: &mut Layer| init.keys.layer(layer);
            init.run(&common, &|common| context(common, &keys, surroundings, out))
        }
        Command::Run(run) => run.run(&with(&|layer| run.layer(layer))?),
        Command::Status(status) => status.run(&with(&none)?),
        Command::Jobs(jobs) => jobs.run(&with(&none)?),
        Command::Config(config) => config.run(&with(&|layer| config.layer(layer))?),
        Command::Account(account) => account.run(&with(&|layer| account.layer(layer))?),
        Command::Key(key) => key.run(&with(&|layer| key.layer(layer))?),
        Command::Backup(backup) => backup.run(&with(&|layer| backup.layer(layer))?),
        Command::Move(moving) => moving.run(&with(&|layer| moving.layer(layer))?),
        Command::Bundle(bundle) => bundle.run(&with(&none)?),
        Command::Models(models) => models.run(&with(&|layer| models.layer(layer))?),
        Command::Doctor(doctor) => doctor.run(with(&|layer| doctor.layer(layer)), out),
        Command::Drift(drift) => drift.run(&with(&|layer| drift.layer(layer))?),
        Command::Rotate(rotate) => rotate.run(&with(&|layer| rotate.keys.layer(layer))?),
        Command::Logs(logs) => logs.run(&with(&none)?),
        Command::Devnet(devnet) => devnet.run(out),
        Command::Demo(demo) => demo.run(out),
        Command::Completions { shell } => completions::run(shell, out),
        Command::Manual { folder } => manual::run(&folder, out),
        Command::Update(update) => update.run(&with(&none)?),
        Command::HelpDocument => help_document::run(out),
    }
}

fn context(
    common: &Common,
    own: &dyn Fn(&mut Layer),
    surroundings: &Surroundings,
    out: Out,
) -> Result<Context, Failure> {
    let mut flags = Layer::default();
    common.layer(&mut flags);
    own(&mut flags);
    let values = Values::read(flags, common.config.as_deref(), surroundings)?;
    let settings = values.settings()?;
    let typed = Typed::of(common)
        .beside(surroundings.root && is_service(&settings.home))
        .needing_url(settings.network_url.is_empty());
    Ok(Context { out, values, settings, typed })
}

/// Whether this machine runs systemd (sd_booted(3)) and has the unit that runs the node of this home.
fn is_service(home: &Path) -> bool {
    let there = |path: &str| Path::new(path).exists();
    home == Path::new(SERVICE_HOME)
        && there("/run/systemd/system")
        && ["/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"]
            .iter()
            .any(|folder| there(&format!("{folder}/resultity-node.service")))
}
