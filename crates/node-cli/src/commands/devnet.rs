//! `devnet`: a small network on this machine, and steering one that runs.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Subcommand};
use node_devnet::{ConfigTemplate, Settings};
use node_types::Network;
use serde::Serialize;
use serde_json::{Map, Value};

use super::Verdict;
use crate::{
    demo,
    failure::Failure,
    files, http,
    out::{Out, Report},
    page::{Page, Tone},
};

/// Where a devnet listens unless told.
const LISTEN: &str = "127.0.0.1:7411";
/// How long a job is worth something where its sender does not say: 10 minutes in milliseconds.
const JOB_TTL_MS: u64 = 600_000;
/// After how long an offer without an answer comes again: 1 second in milliseconds.
const OFFER_RETRY_MS: u64 = 1_000;
/// After how long a job goes to another node: 30 seconds in milliseconds.
const REASSIGN_AFTER_MS: u64 = 30_000;
/// The longest patch in bytes: 8 MiB, a whole snapshot.
const PATCH_BYTES_MAX: usize = 8 << 20;

/// What is done with a devnet.
#[derive(Debug, Subcommand)]
pub(crate) enum Devnet {
    /// Run a devnet until Ctrl-C
    Run(Run),
    /// Write a template for `devnet run`: what its snapshots say
    Template(Template),
    /// Make a running devnet misbehave, for tests
    Fault(Fault),
    /// Have a running devnet publish its next snapshot
    Snapshot(Snapshot),
    /// Show what a running devnet knows
    State(State),
}

/// Run a devnet until Ctrl-C: it signs snapshots, hands out jobs, checks every signature, and serves an OpenAI-compatible API.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  resultity-node devnet run --folder net --template snapshot.json\n  \
                        resultity-node devnet run --folder net --template snapshot.json --models .tools/models\n  \
                        resultity-node devnet run --folder net --template snapshot.json --listen 127.0.0.1:0")]
pub(crate) struct Run {
    /// The folder with its keys and its database
    #[arg(long, value_name = "FOLDER", value_hint = clap::ValueHint::DirPath)]
    folder: PathBuf,
    /// Where it listens; on this machine alone, port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = LISTEN)]
    listen: SocketAddr,
    /// What its snapshots say, as JSON: a snapshot without network, version, times and keyset
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    template: PathBuf,
    /// A folder with files of models, each under its SHA-256: the devnet serves them
    #[arg(long, value_name = "FOLDER", value_hint = clap::ValueHint::DirPath)]
    models: Option<PathBuf>,
    /// The chain ID that nodes sign for
    #[arg(long, value_name = "ID", default_value_t = 84_532)]
    chain_id: u64,
}

/// Write a template for `devnet run`: the runtime and the model that scripts/runtime sets up. Change it as you like.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  resultity-node devnet template --runtimes .tools/runtime --models .tools/models > snapshot.json"
)]
pub(crate) struct Template {
    /// The folder with the runtimes, as scripts/runtime makes it
    #[arg(long, value_name = "FOLDER", value_hint = clap::ValueHint::DirPath)]
    runtimes: PathBuf,
    /// The folder with the files of models, each under its SHA-256
    #[arg(long, value_name = "FOLDER", value_hint = clap::ValueHint::DirPath)]
    models: PathBuf,
}

/// Where a running devnet is.
#[derive(Debug, Args)]
pub(crate) struct Url {
    /// The devnet's URL
    #[arg(long, value_name = "URL", default_value_t = format!("http://{LISTEN}"))]
    url: String,
}

/// Make a running devnet misbehave, for tests.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  resultity-node devnet fault drop\n  resultity-node devnet fault delay ms=200\n  \
                        resultity-node devnet fault corrupt_piece piece=2 count=1\n  \
                        resultity-node devnet fault none"
)]
pub(crate) struct Fault {
    /// The fault; none ends all of them, and without one those that are on are listed
    name: Option<String>,
    /// What else the fault takes, as name=value; a value is JSON or else a text
    #[arg(value_name = "NAME=VALUE")]
    values: Vec<String>,
    #[command(flatten)]
    url: Url,
}

/// Have a running devnet publish its next snapshot.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  resultity-node devnet snapshot '{\"limits\":{\"concurrency\":2}}'\n  \
                        resultity-node devnet snapshot patch.json")]
pub(crate) struct Snapshot {
    /// What is different in it: a JSON merge patch (RFC 7396), or the file with one, - for the standard input
    patch: String,
    #[command(flatten)]
    url: Url,
}

/// Show what a running devnet knows.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  resultity-node devnet state\n  resultity-node devnet state jobs/0192f0c1-2b3c-7def-8a00-000000000001"
)]
pub(crate) struct State {
    /// What: state, jobs, jobs/ID, messages, logs, traces, reports
    #[arg(default_value = "state")]
    what: String,
    #[command(flatten)]
    url: Url,
}

/// What a devnet answers is JSON, for people too.
#[derive(Serialize)]
#[serde(transparent)]
struct Answer(Value);

impl Report for Answer {
    fn page(&self, page: &mut Page) {
        let text = serde_json::to_string_pretty(&self.0).unwrap_or_default();
        for line in text.lines() {
            page.line(line);
        }
    }
}

impl Devnet {
    /// # Errors
    /// [`Failure`]; [`Failure::Http`] where no devnet answers.
    pub(crate) fn run(&self, out: Out) -> Result<Verdict, Failure> {
        let answer = match self {
            Self::Run(run) => return serve(run, out),
            Self::Template(template) => {
                out.show(&Answer(demo::template(&template.runtimes, &template.models)?))?;
                return Ok(Verdict::Done);
            }
            Self::Fault(fault) => match &fault.name {
                None => http::request(&fault.url.url, "GET", "/v1/devnet/faults", None)?,
                Some(name) => {
                    let body = fault_body(name, &fault.values)?;
                    // Which names the faults there are.
                    serde_json::from_value::<node_devnet::Fault>(body.clone())
                        .map_err(|error| Failure::Usage(format!("this is no fault of a devnet: {error}")))?;
                    http::request(
                        &fault.url.url,
                        "POST",
                        "/v1/devnet/faults",
                        Some(body.to_string().as_bytes()),
                    )?
                }
            },
            Self::Snapshot(snapshot) => {
                let patch = patch(&snapshot.patch)?;
                http::request(
                    &snapshot.url.url,
                    "POST",
                    "/v1/devnet/snapshots",
                    Some(patch.to_string().as_bytes()),
                )?
            }
            Self::State(state) => http::request(&state.url.url, "GET", &path(&state.what)?, None)?,
        };
        let text = String::from_utf8_lossy(&answer).into_owned();
        // A devnet that says nothing in JSON says it as a text.
        let answer = serde_json::from_str(&text).unwrap_or(Value::String(text));
        out.show(&Answer(answer))?;
        Ok(Verdict::Done)
    }
}

fn path(what: &str) -> Result<String, Failure> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_/.".contains(&byte);
    if what.bytes().all(plain) {
        return Ok(format!("/v1/devnet/{}", what.trim_start_matches('/')));
    }
    Err(Failure::Usage(format!("{what:?} is nothing that a devnet knows: write for example jobs")))
}

fn fault_body(name: &str, values: &[String]) -> Result<Value, Failure> {
    let mut body = Map::from_iter([("fault".to_owned(), Value::from(name))]);
    for given in values {
        let Some((name, value)) = given.split_once('=') else {
            return Err(Failure::Usage(format!("{given:?} is no name=value: write for example ms=200")));
        };
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
        body.insert(name.to_owned(), value);
    }
    Ok(body.into())
}

fn patch(given: &str) -> Result<Value, Failure> {
    let text = if given.trim_start().starts_with('{') {
        given.to_owned()
    } else {
        let bytes = files::read(given.as_ref(), PATCH_BYTES_MAX)?;
        String::from_utf8_lossy(&bytes).into_owned()
    };
    serde_json::from_str(&text).map_err(|error| {
        Failure::Usage(format!("the patch is no JSON ({error}): write for example {{\"limits\":{{}}}}"))
    })
}

/// Where a devnet can be found.
#[derive(Serialize)]
struct Up {
    url: String,
    folder: PathBuf,
}

impl Report for Up {
    fn page(&self, page: &mut Page) {
        page.toned(Tone::Strong, "The devnet is up.");
        page.row("nodes", format!("resultity-node run --network-url {}", self.url));
        page.row("OpenAI clients", format!("base URL {}/v1, any key", self.url));
        page.row("what it knows", format!("resultity-node devnet state --url {}", self.url));
        page.row("folder", self.folder.display());
    }
}

fn serve(run: &Run, out: Out) -> Result<Verdict, Failure> {
    let bytes = files::read(&run.template, PATCH_BYTES_MAX)?;
    let config: ConfigTemplate = serde_json::from_slice(&bytes)
        .map_err(|error| Failure::Usage(format!("{} is no template: {error}", run.template.display())))?;
    let settings = Settings {
        folder: run.folder.clone(),
        network: Network::Testnet,
        listen: run.listen,
        chain_id: run.chain_id,
        config,
        models: run.models.clone(),
        job_ttl_ms: JOB_TTL_MS,
        offer_retry_ms: OFFER_RETRY_MS,
        reassign_after_ms: REASSIGN_AFTER_MS,
        images: None,
    };
    let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    threads.map_err(Failure::Start)?.block_on(async {
        let devnet = node_devnet::Devnet::start(settings).await?;
        out.show_line(&Up { url: devnet.url(), folder: run.folder.clone() })?;
        stopped().await.map_err(Failure::Start)?;
        devnet.stop().await;
        Ok(Verdict::Done)
    })
}

/// Waits for SIGINT or SIGTERM.
async fn stopped() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_faults_values_are_json_where_they_can_be() {
        let values = ["ms=200".to_owned(), "kind=wrong_key".to_owned(), "on=true".to_owned()];
        let body = fault_body("delay", &values).unwrap();
        assert_eq!(body, serde_json::json!({"fault": "delay", "ms": 200, "kind": "wrong_key", "on": true}));
        assert!(matches!(fault_body("delay", &["200".to_owned()]), Err(Failure::Usage(_))));
    }

    #[test]
    fn a_path_cannot_leave_its_place_in_the_request() {
        assert_eq!(path("jobs").unwrap(), "/v1/devnet/jobs");
        for wrong in ["a b", "a\r\nHost: x", "a?b"] {
            assert!(matches!(path(wrong), Err(Failure::Usage(_))), "{wrong:?}");
        }
    }
}
