//! The Agent: the store is opened, its parts run, and it ends in good order.
//!
//! ```text
//! network <-> session ---> store <--- dispatch ---> runtime
//!         <-> report  ---> store <--- rotate           ^
//!         <-> sync    ---> store                       |
//!               '------------------- engine -----------'
//!             models  ---> store ---- files of models --'
//! network <-> fence   ---> store, once, where the volume is a restored copy
//! ```
//!
//! The page shows all of it to whoever looks; it starts first and ends last.
//!
//! Every part reads and writes the store and wakes the others; none waits for another. When a database stops, all end
//! and the store is opened again: that repairs what can be repaired.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use node_store::{
    disk::{Disk as _, RealDisk},
    keys::{KekSources, TerminalPrompt, source::SECRET_NAME},
    reader::ReadError,
    store::{Options, Store, StoreError},
};
use node_types::{
    log::{Kind, Level},
    protocol::Readiness,
};
use serde_json::json;
use tokio::{sync::mpsc, sync::watch, task::JoinSet, time::sleep};

use crate::{
    author::{Author, AuthorError},
    backoff,
    blocking::blocking,
    dispatch,
    engine::Engine,
    fence,
    fetch::FetchError,
    journal::{RUNS_TWICE, STARTS, causes},
    models,
    network::{HttpNetwork, Network, NetworkError},
    node::{Halt, Node},
    otlp::OtlpError,
    page::{Page, PageError},
    report, rotate, session,
    settings::Settings,
    standing::Incident,
    sync, targets,
    time::{self, NoClock},
};

/// Reports of snapshots on their way.
const REPORTS_MAX: usize = 16;
/// How long the parts that talk may take to end: 5 seconds.
const FAREWELL: Duration = Duration::from_secs(5);
/// How often in a row a store that fails is opened again.
const REOPENINGS_MAX: u32 = 5;

/// Why an Agent cannot run, or ended.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The network's URL.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The clock.
    #[error(transparent)]
    Clock(#[from] NoClock),
    /// Messages cannot be signed.
    #[error(transparent)]
    Author(#[from] AuthorError),
    /// The status page cannot be guarded.
    #[error(transparent)]
    Page(#[from] PageError),
    /// The settings of the collector cannot be used.
    #[error(transparent)]
    Target(#[from] OtlpError),
    /// Nothing can be fetched.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// Whether jobs are fenced cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The same node runs elsewhere.
    #[error(
        "this node runs twice, and this start is the one that must not go on: {why}; stop it here for good, or stop the \
         other one and start this again (a copied volume goes on in one place alone; `resultity-node move out <FILE>` is the \
         way to another machine)"
    )]
    RunsTwice {
        /// What the network said.
        why: Arc<str>,
    },
    /// A database stopped again and again.
    #[error("the store stopped {times} times: {cause}")]
    Storage {
        /// How often in a row.
        times: u32,
        /// Why the last time.
        cause: Arc<str>,
    },
}

/// The home of the machine's own node: the one that the unit `resultity-node.service` runs.
pub const SERVICE_HOME: &str = "/var/lib/resultity";
/// Where systemd keeps that unit's credentials while it runs (systemd.exec(5), CREDENTIALS); only root sees into it.
const SERVICE_CREDENTIALS: &str = "/run/credentials/resultity-node.service";

/// How the store is opened under these settings.
#[must_use]
pub fn options(settings: &Settings) -> Options {
    let mut options = Options::new(&settings.home, settings.network);
    set_keys(&mut options.kek, settings);
    options
}

/// How a volume that is there is opened by a command beside the Agent: as [`options`], and root finds the credential of the
/// machine's own service where systemd keeps it. A new key is never sealed under what only another process was given.
#[must_use]
pub fn options_to_open(settings: &Settings) -> Options {
    let mut options = options(settings);
    if options.kek.credentials_dir.is_none() {
        options.kek.credentials_dir = credentials_of_service(&settings.home, Path::new(SERVICE_CREDENTIALS));
    }
    options
}

fn credentials_of_service(home: &Path, folder: &Path) -> Option<PathBuf> {
    let there = || matches!(RealDisk.entry(&folder.join(SECRET_NAME)), Ok(Some(_)));
    (home == Path::new(SERVICE_HOME) && there()).then(|| folder.to_owned())
}

fn set_keys(kek: &mut KekSources, settings: &Settings) {
    if let Some(file) = &settings.keys.secret_file {
        kek.secret_file = Some(file.clone());
    }
    kek.passphrase_file.clone_from(&settings.keys.passphrase_file);
}

/// Runs the Agent against the network of its settings until `stop` says so.
///
/// # Errors
/// [`AgentError`].
pub async fn run(settings: Settings, stop: watch::Receiver<bool>) -> Result<(), AgentError> {
    let network = Arc::new(HttpNetwork::new(&settings.network_url)?);
    run_on(settings, network, stop).await
}

/// Runs the Agent against `network` until `stop` says so.
///
/// # Errors
/// [`AgentError`].
pub async fn run_on<N: Network>(
    settings: Settings,
    network: Arc<N>,
    stop: watch::Receiver<bool>,
) -> Result<(), AgentError> {
    let mut failures = 0;
    let mut options = options(&settings);
    // Asked only for keys that are sealed under a passphrase that stands in no file; without a terminal it says so.
    options.kek.prompt = Some(Arc::new(TerminalPrompt::new()));
    // Kept, so that whoever typed a passphrase is not asked again.
    let options = Arc::new(options);
    loop {
        let begun = tokio::time::Instant::now();
        let store = match open(Arc::clone(&options)).await {
            // What stopped the store may stop its opening too, and somebody may still be letting go of it.
            Err(error) if (1..=REOPENINGS_MAX).contains(&failures) => {
                failures += 1;
                tracing::error!("the store cannot be opened again yet: {}", causes(&error));
                sleep(backoff::wait(failures, 200, 10_000, backoff::random())).await;
                continue;
            }
            opened => opened?,
        };
        let Some(cause) = run_store(store, &settings, Arc::clone(&network), stop.clone()).await? else {
            return Ok(());
        };
        // One that worked for an hour is not the one that fails at once.
        failures = if begun.elapsed() > Duration::from_secs(3600) { 1 } else { failures + 1 };
        tracing::error!("the store stopped, opening it again: {cause}");
        if failures > REOPENINGS_MAX {
            return Err(AgentError::Storage { times: failures, cause });
        }
        sleep(backoff::wait(failures, 200, 10_000, backoff::random())).await;
    }
}

async fn open(options: Arc<Options>) -> Result<Store, AgentError> {
    let reading = time::reading()?;
    Ok(blocking(move || Store::open(&options, &reading)).await?)
}

/// Runs all parts on an open store. Says why where a database stopped.
async fn run_store<N: Network>(
    store: Store,
    settings: &Settings,
    network: Arc<N>,
    mut stop: watch::Receiver<bool>,
) -> Result<Option<Arc<str>>, AgentError> {
    let store = Arc::new(store);
    let author = Author::new(Arc::clone(&store))?;
    let (node, chunks) = Node::new(store, author, settings.clone())?;
    let fields = [
        ("version", json!(crate::VERSION)),
        ("node", json!(node.store.node().to_string())),
        ("boot", json!(node.author.boot().to_string())),
        ("network", json!(settings.network.to_string())),
    ];
    node.journal.measured(Level::Info, Kind::Agent, None, STARTS, fields);
    // Where it cannot be read, the report of how the node stands says so.
    for incident in node.store.view().incidents().unwrap_or_default() {
        let text = format!("a database was damaged or missing: {}", Incident::from(incident));
        node.journal.note(Level::Error, Kind::Storage, text);
    }

    // Whoever looks here is told of what the network has too.
    node.store.logs().keep_history(true);
    let (talk_stop, talking) = watch::channel(false);
    let mut talk = JoinSet::new();
    targets::start(&node, &mut talk, &talking).await?;
    // Before anything is asked of the network: whoever wonders why it does not answer can look.
    let mut page = Page::start(&node).await?;
    let (work_stop, working) = watch::channel(false);
    let engine = Engine::new(Arc::clone(&node));
    let serving = engine.serving();
    let (reports, reported) = mpsc::channel(REPORTS_MAX);
    let keeper = models::Keeper::new(Arc::clone(&node))?;
    let (mut work, mut runtime) = (JoinSet::new(), JoinSet::new());
    let (runtime_stop, runtime_running) = watch::channel(false);
    work.spawn(dispatch::run(Arc::clone(&node), serving, working));
    runtime.spawn(keeper.run(runtime_running.clone()));
    runtime.spawn(sync::run(Arc::clone(&node), Arc::clone(&network), engine, reports, runtime_running));
    talk.spawn(session::run(Arc::clone(&node), Arc::clone(&network), chunks, talking.clone()));
    talk.spawn(report::run(Arc::clone(&node), Arc::clone(&network), reported, talking.clone()));
    if node.is_fenced() {
        talk.spawn(fence::run(Arc::clone(&node), Arc::clone(&network), talking.clone()));
    }
    talk.spawn(rotate::run(Arc::clone(&node), talking));

    let (mut displaced, mut pageless) = (None, JoinSet::new());
    let shown = page.as_mut().map_or(&mut pageless, Page::serving);
    let failed = tokio::select! {
        _ = stop.wait_for(|stop| *stop) => None,
        cause = node.storage_failed() => Some(cause),
        why = node.displaced() => {
            node.journal.note(Level::Error, Kind::Network, format!("{RUNS_TWICE}: {why}"));
            // What they computed could not be sent: the other one has these jobs too.
            node.halt_all(Halt::Shutdown);
            displaced = Some(why);
            None
        }
        panicked = first_panic([&mut work, &mut talk, &mut runtime, shown]) => std::panic::resume_unwind(panicked),
    };
    // First no new work, then the runtime, and last what talks: the results of the last runs are still sent.
    node.set_readiness(Readiness::Stopping);
    work_stop.send_replace(true);
    while work.join_next().await.is_some() {}
    runtime_stop.send_replace(true);
    while runtime.join_next().await.is_some() {}
    node.journal.note(Level::Info, Kind::Agent, "the Agent ends");
    talk_stop.send_replace(true);
    let farewell = async { while talk.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(FAREWELL, farewell).await;
    talk.shutdown().await;
    let store = Arc::clone(&node.store);
    // The last records; where it fails, the store has stopped, and that was said.
    let _ = store.logs().flush().await;
    if let Some(page) = page {
        page.stop().await;
    }
    match displaced {
        Some(why) => Err(AgentError::RunsTwice { why }),
        None => Ok(failed),
    }
}

/// A part that panicked takes the Agent with it: running on with a part missing would look well.
async fn first_panic([work, talk, runtime, page]: [&mut JoinSet<()>; 4]) -> Box<dyn std::any::Any + Send> {
    loop {
        let ended = tokio::select! {
            Some(ended) = work.join_next() => ended,
            Some(ended) = talk.join_next() => ended,
            Some(ended) = runtime.join_next() => ended,
            Some(ended) = page.join_next() => ended,
            else => std::future::pending().await,
        };
        if let Err(error) = ended
            && error.is_panic()
        {
            return error.into_panic();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_credential_of_the_service_is_found_for_its_home_alone() {
        let folder = tempfile::tempdir().unwrap();
        let home = Path::new(SERVICE_HOME);
        assert_eq!(credentials_of_service(home, folder.path()), None, "it does not run, or has none");
        node_store::disk::write_new(&RealDisk, &folder.path().join(SECRET_NAME), &[7; 48]).unwrap();
        assert_eq!(credentials_of_service(home, folder.path()).as_deref(), Some(folder.path()));
        assert_eq!(credentials_of_service(Path::new("/srv/second"), folder.path()), None);
    }
}
