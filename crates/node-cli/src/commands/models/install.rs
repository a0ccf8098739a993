//! `models install`: fetches and verifies models. Beside a running Agent, which does that by itself, it shows how far
//! that is.

use std::{sync::Arc, time::Duration};

use clap::Args;
use node_agent::{
    journal::causes,
    models::{Doing, Hope, InstallError, Installer, Progress, brings_files, files_of},
    settings::ModelSettings,
    time,
};
use node_store::{store::Store, view::View};
use node_types::{
    config::{Model, NodeConfig},
    job::ModelRef,
    models::ModelState,
};
use serde::Serialize;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};

use super::{ModelShown, Verdict, find, in_force, look};
use crate::{
    cli::{Keys, ModelFolders},
    context::{Context, reading},
    failure::Failure,
    measure::{self, count},
    out::Report,
    page::{Page, Tone},
    progress::Meter,
    settings::Layer,
};

/// Between two looks at what the Agent has fetched: half a second.
const POLL: Duration = Duration::from_millis(500);

/// Fetch and verify the models that the snapshot lists, or those of them that are named.
///
/// What is here and unchanged stays, what was damaged is repaired piece by piece, and what was fetched in part goes on
/// where it was. A running Agent does this by itself; beside one, this shows how far it is.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  resultity-node models install
  resultity-node models install gemma-3-270m@1.0.0
  resultity-node models install --models-folders /mnt/usb/models --json | jq '.models[] | select(.installed | not)'")]
pub(crate) struct Install {
    /// A model, as NAME@VERSION or by a name that only one has; all of them where none is named
    models: Vec<String>,
    #[command(flatten)]
    folders: ModelFolders,
    #[command(flatten)]
    keys: Keys,
}

#[derive(Serialize)]
struct Installed {
    /// The Agent that did it, if one runs.
    agent: Option<String>,
    models: Vec<Outcome>,
    next: String,
}

/// What came of a model.
#[derive(Serialize)]
struct Outcome {
    model: String,
    installed: bool,
    files: u64,
    bytes: u64,
    /// Why it is not installed.
    reason: Option<String>,
}

impl Outcome {
    fn of(model: &Model, reason: Option<String>) -> Self {
        let (files, bytes) = (model.files.len() as u64, model.bytes());
        Self { model: model.reference().to_string(), installed: reason.is_none(), files, bytes, reason }
    }
}

impl Report for Installed {
    fn page(&self, page: &mut Page) {
        for model in &self.models {
            match &model.reason {
                None => page.toned(
                    Tone::Good,
                    format!(
                        "{} is installed: {}, {}",
                        model.model,
                        count(model.files, "file"),
                        measure::bytes(model.bytes)
                    ),
                ),
                Some(reason) => page.toned(Tone::Bad, format!("{} is not installed: {reason}", model.model)),
            }
        }
        page.toned_row("next", Tone::Strong, &self.next);
    }
}

impl Install {
    pub(super) fn layer(&self, layer: &mut Layer) {
        self.folders.layer(layer);
        self.keys.layer(layer);
    }

    pub(super) fn run(&self, context: &Context) -> Result<Verdict, Failure> {
        let view = context.view()?;
        let config = in_force(&view)?.ok_or(Failure::NoSnapshot("current"))?;
        if !brings_files(&config) {
            return Err(Failure::KeepsNoModels { engine: config.runtime.engine().to_owned() });
        }
        let wanted = self.wanted(&config)?;
        let agent = context.holder()?;
        let meter = Meter::new(context.out);
        let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let threads = threads.map_err(Failure::Start)?;
        let models = match &agent {
            Some(pid) => threads.block_on(follow(context, &view, &config, pid, wanted, meter)),
            None => {
                let store = Arc::new(context.store(&reading()?)?);
                threads.block_on(install(&store, &context.settings.models, wanted, meter))
            }
        }?;
        let all = models.iter().all(|model| model.installed);
        let next = context.typed.complete(next(all, agent.is_some())).into_owned();
        context.out.show(&Installed { agent, models, next })?;
        Ok(if all { Verdict::Done } else { Verdict::Refused })
    }

    /// Each model once, in the order of the snapshot.
    fn wanted<'a>(&self, config: &'a NodeConfig) -> Result<Vec<&'a Model>, Failure> {
        let listed: Vec<ModelRef> = config.models.iter().map(Model::reference).collect();
        let named: Vec<&ModelRef> =
            self.models.iter().map(|asked| find(asked, listed.iter())).collect::<Result<_, _>>()?;
        let is_wanted = |model: &&Model| named.is_empty() || named.contains(&&model.reference());
        Ok(config.models.iter().filter(is_wanted).collect())
    }
}

const fn next(all: bool, running: bool) -> &'static str {
    match (all, running) {
        (true, true) => "nothing: the Agent tests them and takes jobs",
        (true, false) => "start the node: `resultity-node run`; it tests them and takes jobs",
        (false, true) => {
            "put right what is said above; the Agent tries again by itself, and what was fetched stays"
        }
        (false, false) => "put right what is said above and call this again: what was fetched stays",
    }
}

/// Installs one after another; one that cannot be had does not keep the others from it.
async fn install(
    store: &Arc<Store>,
    settings: &ModelSettings,
    wanted: Vec<&Model>,
    mut meter: Meter,
) -> Result<Vec<Outcome>, Failure> {
    let mut signals = Signals::catch()?;
    let installer = Installer::new(Arc::clone(store), settings)?;
    let mut outcomes = Vec::new();
    for model in wanted {
        let installed = tokio::select! {
            installed = shown(&installer, model, &mut meter) => installed,
            () = signals.next() => {
                return Err(Failure::Interrupted("what was fetched stays, and the next time goes on from there"));
            }
        };
        match &installed {
            Ok(()) => meter.ended(),
            Err(_) => meter.broken_off(),
        }
        keep_state(store, model, installed.as_ref().err())?;
        outcomes.push(Outcome::of(model, installed.err().map(|error| causes(&error))));
    }
    Ok(outcomes)
}

/// Installs a model and shows how far that is.
async fn shown(installer: &Installer, model: &Model, meter: &mut Meter) -> Result<(), InstallError> {
    let (progress, mut step) = watch::channel(Progress::default());
    let installing = installer.install(model, &progress);
    tokio::pin!(installing);
    loop {
        tokio::select! {
            installed = &mut installing => return installed,
            Ok(()) = step.changed() => {
                let Progress { doing, path, done, bytes } = step.borrow_and_update().clone();
                let doing = match doing {
                    Doing::Looking => continue,
                    Doing::Fetching => "fetched",
                    Doing::Verifying => "hashed",
                };
                meter.show(doing, &format!("{}/{path}", model.reference()), done, bytes);
            }
        }
    }
}

/// Keeps what the Agent would: installed is not yet tested, and one that was tested stays so.
fn keep_state(store: &Store, model: &Model, error: Option<&InstallError>) -> Result<(), Failure> {
    let models = store.models();
    let held = models.view().models()?.into_iter().find(|row| row.reference == model.reference());
    let (state, reason) = match error {
        None if held.is_some_and(|row| row.state == ModelState::Active) => (ModelState::Active, None),
        None => (ModelState::Inactive, None),
        Some(error) if error.hope() != Hope::None => (ModelState::Pending, Some(causes(error))),
        Some(error) => (ModelState::Failed, Some(causes(error))),
    };
    models.set_state(&model.reference(), files_of(model), state, reason, time::now(store)?).wait()?;
    Ok(())
}

/// Shows how far the Agent is, until each of the models is installed or has failed.
async fn follow(
    context: &Context,
    view: &View,
    config: &NodeConfig,
    pid: &str,
    wanted: Vec<&Model>,
    mut meter: Meter,
) -> Result<Vec<Outcome>, Failure> {
    let mut signals = Signals::catch()?;
    let text = format!(
        "Process {pid} is the Agent of this node and installs its models itself. This shows how far it is; Ctrl-C ends the \
         looking alone."
    );
    meter.say(&text);
    let mut going_on: Option<ModelRef> = None;
    loop {
        let models = look(view, Some(config))?;
        // One that has failed is not told as done.
        if models.iter().any(|it| going_on.as_ref() == Some(&it.model) && why_not(it).is_some()) {
            meter.broken_off();
        }
        let of = |model: &Model| models.iter().find(|shown| shown.model == model.reference());
        let seen: Vec<(&Model, Option<&ModelShown>)> =
            wanted.iter().map(|model| (*model, of(model))).collect();
        let Some((_, Some(going))) = seen.iter().find(|(_, shown)| shown.is_some_and(|it| !has_ended(it)))
        else {
            meter.ended();
            return Ok(seen
                .into_iter()
                .map(|(model, shown)| Outcome::of(model, shown.and_then(why_not)))
                .collect());
        };
        going_on = Some(going.model.clone());
        meter.show("here", &going.model.to_string(), going.bytes_here, going.bytes);
        if context.holder()?.is_none() {
            meter.broken_off();
            return Err(Failure::AgentEnded { pid: pid.to_owned() });
        }
        tokio::select! {
            () = tokio::time::sleep(POLL) => {}
            () = signals.next() => return Err(Failure::Interrupted("the Agent goes on")),
        }
    }
}

/// Whether the Agent is done with a model, one way or the other.
fn has_ended(model: &ModelShown) -> bool {
    match model.state {
        ModelState::Active => model.is_here(),
        // With a reason it is being repaired.
        ModelState::Inactive => model.is_here() && model.reason.is_none(),
        ModelState::Failed | ModelState::Archived => true,
        ModelState::Pending => false,
    }
}

/// Why a model that the Agent is done with is not installed.
fn why_not(model: &ModelShown) -> Option<String> {
    match model.state {
        ModelState::Active | ModelState::Inactive | ModelState::Pending => None,
        ModelState::Failed => Some(model.reason.clone().unwrap_or_else(|| "it failed".to_owned())),
        ModelState::Archived => Some("a newer snapshot does not list it any more".to_owned()),
    }
}

/// Ctrl-C and SIGTERM, caught from the first word on.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn catch() -> Result<Self, Failure> {
        let caught = |kind| signal(kind).map_err(Failure::Start);
        Ok(Self { interrupt: caught(SignalKind::interrupt())?, terminate: caught(SignalKind::terminate())? })
    }

    /// Waits for the next of them.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
