//! `run`: the Agent in this process, until it is asked to stop.

use std::{io::IsTerminal as _, path::PathBuf};

use clap::{Args, ValueEnum};
use node_agent::{runtime::sandbox, settings::Settings};
use tokio::sync::watch;
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use super::Verdict;
use crate::{
    cli::{Keys, ModelFolders},
    context::Context,
    failure::Failure,
    settings::Layer,
};

/// How long files that are being read may keep the process from ending: 2 seconds.
const LAST_READS: std::time::Duration = std::time::Duration::from_secs(2);

/// Run the node until Ctrl-C or SIGTERM. Running jobs may end first; a second Ctrl-C does not wait.
///
/// What it does goes to its log (`resultity-node logs`); what a person should see goes to the standard error.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  resultity-node run --network-url https://node.example.org
  resultity-node run --runtime-url http://127.0.0.1:8080 --log debug
  RESULTITY_NETWORK_URL=https://node.example.org resultity-node run --log-format json")]
pub(crate) struct Run {
    /// The network's base URL; http on this machine alone
    #[arg(long, value_name = "URL")]
    network_url: Option<String>,
    /// SHA-256 of the network's first keyset; without it the first one that comes is trusted
    #[arg(long, value_name = "DIGEST")]
    keyset_digest: Option<String>,
    /// How long running jobs may go on after the node was asked to stop
    #[arg(long, value_name = "MS")]
    shutdown_grace_ms: Option<String>,
    /// An external runtime's base URL, without /v1
    #[arg(long, value_name = "URL")]
    runtime_url: Option<String>,
    /// The file with an external runtime's API key
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    runtime_api_key_file: Option<PathBuf>,
    /// The folder with the runtimes that the node starts itself
    #[arg(long, value_name = "FOLDER", value_hint = clap::ValueHint::DirPath)]
    runtime_folder: Option<PathBuf>,
    /// The folder for what such a runtime writes, else work in the runtime folder; emptied at every start
    #[arg(long, value_name = "FOLDER", value_hint = clap::ValueHint::DirPath)]
    runtime_work: Option<PathBuf>,
    /// More that such a runtime may read; may be given several times
    #[arg(long, value_name = "PATH", value_hint = clap::ValueHint::AnyPath)]
    runtime_readable: Vec<PathBuf>,
    /// The user that such a runtime runs as where the node runs as root
    #[arg(long, value_name = "USER")]
    runtime_user: Option<String>,
    /// The socket of the container engine, else /var/run/docker.sock
    #[arg(long, value_name = "SOCKET", value_hint = clap::ValueHint::FilePath)]
    runtime_socket: Option<PathBuf>,
    /// A folder with archives of container images, each named by the digest of its manifest; others are pulled
    #[arg(long, value_name = "FOLDER", value_hint = clap::ValueHint::DirPath)]
    runtime_images: Option<PathBuf>,
    #[command(flatten)]
    models: ModelFolders,
    /// Within which time every file of a model is read again in the background
    #[arg(long, value_name = "MS")]
    models_scrub_ms: Option<String>,
    /// Where the status page and the metrics are, else 127.0.0.1:7413; off for nowhere
    #[arg(long, value_name = "ADDRESS")]
    page_listen: Option<String>,
    /// The file with the token that whoever looks at them must have; other machines can look only with one
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    page_token_file: Option<PathBuf>,
    /// An OpenTelemetry collector that gets logs and metrics, by OTLP over HTTP, for example http://127.0.0.1:4318
    #[arg(long, value_name = "URL")]
    otlp_endpoint: Option<String>,
    /// The file with headers for it, one `Name: value` a line, that nobody else may read
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    otlp_headers_file: Option<PathBuf>,
    /// Whether log records are held until it has them, else each is offered once
    #[arg(long, value_name = "TRUTH")]
    otlp_required: Option<String>,
    /// Whether it gets log records, true unless set
    #[arg(long, value_name = "TRUTH")]
    otlp_logs: Option<String>,
    /// Whether it gets metrics, true unless set
    #[arg(long, value_name = "TRUTH")]
    otlp_metrics: Option<String>,
    /// How often it gets metrics
    #[arg(long, value_name = "MS")]
    otlp_metrics_ms: Option<String>,
    /// A folder for files with log records, one JSON object a line
    #[arg(long, value_name = "FOLDER", value_hint = clap::ValueHint::DirPath)]
    log_file_folder: Option<PathBuf>,
    /// How long such a file gets, 16 MiB unless set
    #[arg(long, value_name = "BYTES")]
    log_file_bytes_max: Option<String>,
    /// How many such files are kept, 8 unless set
    #[arg(long, value_name = "COUNT")]
    log_file_files_max: Option<String>,
    /// Whether log records are held until they are in a file, true unless set
    #[arg(long, value_name = "TRUTH")]
    log_file_required: Option<String>,
    /// What the standard error shows: a level, or a filter as in info,node_agent=debug
    #[arg(long, value_name = "FILTER", default_value = "info")]
    log: String,
    /// How the standard error shows it
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    log_format: LogFormat,
    #[command(flatten)]
    keys: Keys,
}

/// The form of what `run` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// For a person.
    Human,
    /// One JSON object a line.
    Json,
}

impl Run {
    /// What its flags set.
    pub(crate) fn layer(&self, layer: &mut Layer) {
        self.keys.layer(layer);
        layer.flag("network_url", self.network_url.clone());
        layer.flag("keyset_digest", self.keyset_digest.clone());
        layer.flag("shutdown_grace_ms", self.shutdown_grace_ms.clone());
        layer.flag("runtime.url", self.runtime_url.clone());
        layer.flag("runtime.api_key_file", self.runtime_api_key_file.clone());
        layer.flag("runtime.folder", self.runtime_folder.clone());
        layer.flag("runtime.work", self.runtime_work.clone());
        layer.flags("runtime.readable", self.runtime_readable.iter().map(Into::into).collect());
        layer.flag("runtime.user", self.runtime_user.clone());
        layer.flag("runtime.socket", self.runtime_socket.clone());
        layer.flag("runtime.images", self.runtime_images.clone());
        self.models.layer(layer);
        layer.flag("models.scrub_ms", self.models_scrub_ms.clone());
        layer.flag("page.listen", self.page_listen.clone());
        layer.flag("page.token_file", self.page_token_file.clone());
        layer.flag("otlp.endpoint", self.otlp_endpoint.clone());
        layer.flag("otlp.headers_file", self.otlp_headers_file.clone());
        layer.flag("otlp.required", self.otlp_required.clone());
        layer.flag("otlp.logs", self.otlp_logs.clone());
        layer.flag("otlp.metrics", self.otlp_metrics.clone());
        layer.flag("otlp.metrics_ms", self.otlp_metrics_ms.clone());
        layer.flag("log_file.folder", self.log_file_folder.clone());
        layer.flag("log_file.bytes_max", self.log_file_bytes_max.clone());
        layer.flag("log_file.files_max", self.log_file_files_max.clone());
        layer.flag("log_file.required", self.log_file_required.clone());
    }

    /// # Errors
    /// [`Failure`]; [`Failure::Held`] where another Agent runs.
    pub(crate) fn run(&self, context: &Context) -> Result<Verdict, Failure> {
        // Before there are threads. Where the allocator has no such settings there is nothing to lose.
        lean_malloc::set();
        context.values.require("network_url")?;
        let filter = filter(&self.log)?;
        // Said now, not after the runtime of the program was started.
        context.startable()?;
        context.refuse_held()?;
        // Before any key is read.
        sandbox::harden_self().map_err(Failure::Start)?;
        // The standard error may be a file while the standard output is a terminal.
        self.speak(filter, context.out.is_coloured() && std::io::stderr().is_terminal());
        let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let threads = threads.map_err(Failure::Start)?;
        let ended = threads.block_on(until_stopped(context.settings.clone()));
        // What still reads a file ends with the process.
        threads.shutdown_timeout(LAST_READS);
        ended.map(|()| Verdict::Done)
    }

    fn speak(&self, filter: EnvFilter, colours: bool) {
        let subscriber =
            tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours);
        match self.log_format {
            LogFormat::Human => subscriber.init(),
            LogFormat::Json => subscriber.json().init(),
        }
    }
}

/// What is said: a level, and levels of parts by their names as in `info,node_store=debug`. A part without a level would be a
/// level with a slip in it, and have everything else be silent.
fn filter(text: &str) -> Result<EnvFilter, Failure> {
    let wrong = |why: &str| Failure::Usage(format!("--log is {text:?}: {why}"));
    let is_level = |word: &str| word.parse::<LevelFilter>().is_ok();
    if let Some(word) = text.split(',').map(str::trim).find(|it| !it.contains(['=', '[']) && !is_level(it)) {
        return Err(wrong(&format!(
            "{word:?} is no level: off, error, warn, info, debug or trace, or <part>=<level>"
        )));
    }
    EnvFilter::try_new(text).map_err(|error| wrong(&error.to_string()))
}

async fn until_stopped(settings: Settings) -> Result<(), Failure> {
    let (stop, stopped) = watch::channel(false);
    let signals = tokio::spawn(watch_signals(stop));
    let ended = serve(settings, stopped).await;
    signals.abort();
    ended
}

/// Asks to stop at the first SIGINT or SIGTERM, and ends the process at the second.
async fn watch_signals(stop: watch::Sender<bool>) {
    use tokio::signal::unix::{SignalKind, signal};
    // Without a handler the signal ends the process, which is safe: nothing accepted is lost.
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return;
    };
    loop {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        if stop.send_replace(true) {
            tracing::warn!(
                "asked to stop again: not waiting for running jobs; they are taken up at the next start"
            );
            std::process::exit(130);
        }
        tracing::info!("stopping: running jobs may end first; once more stops at once");
    }
}

/// The Agent itself.
async fn serve(settings: Settings, stopped: watch::Receiver<bool>) -> Result<(), Failure> {
    Ok(node_agent::agent::run(settings, stopped).await?)
}
