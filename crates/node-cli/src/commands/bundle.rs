//! `bundle`: what somebody needs who is to help, and nothing else.
//!
//! What goes in stands in one list, [`PARTS`]; each part takes what it names and no more, and every text in it is redacted.
//! Prompts, answers, keys and passphrases are in none of them: no part reads a payload, a key, or a file that a setting
//! names. A part that cannot be had says why: a bundle is wanted most where something is broken.

use std::path::PathBuf;

use clap::Args;
use node_agent::{
    address::{self, Whose},
    hardware,
    settings::{ExportSettings, Settings},
};
use node_store::{backup, inventory::Change, jobs::Listed, logs::Query, view::View};
use node_types::config::NodeConfig;
use serde::Serialize;
use serde_json::{Value, json};

use super::{Verdict, logs::RecordShown, models, status};
use crate::{
    context::{Context, reading},
    failure::Failure,
    files, measure,
    out::Report,
    page::Page,
    redact::Redactor,
};

/// Records of the log that go in, the newest.
const RECORDS_MAX: u32 = 2000;
/// Jobs, traces and changes of artifacts that go in.
const ROWS_MAX: usize = 200;
/// The longest file of the system's that is read: 1 MiB.
const SYSTEM_FILE_BYTES_MAX: usize = 1 << 20;

/// Write a support archive: what the node is and how it stands, redacted.
///
/// What is in it is listed first. Never in it: prompts, answers, keys, passphrases, and the files that settings name.
/// E-mail addresses, this machine's name, IP addresses, users' folders, and logins and queries in URLs are taken out; addresses
/// of accounts are shortened. Look at it before you give it away: `tar --zstd -xOf FILE` shows it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  resultity-node bundle --dry-run
  resultity-node bundle
  resultity-node bundle for-support.tar.zst --json")]
pub(crate) struct Bundle {
    /// The file to write, readable by its owner alone; else resultity-bundle-MOMENT.tar.zst in this folder
    #[arg(value_hint = clap::ValueHint::FilePath)]
    file: Option<PathBuf>,
    /// Only list what would be in it
    #[arg(long)]
    dry_run: bool,
}

/// Takes one part of the bundle.
type Take = fn(&Around<'_>) -> Result<Value, Failure>;

/// All that goes in: its name, what it holds, and how it is taken.
const PARTS: &[(&str, &str, Take)] = &[
    ("about.json", "release, system, kernel, file system", about),
    ("hardware.json", "processors, memory, graphics memory", of_hardware),
    ("settings.json", "what is set, without logins", of_settings),
    ("status.json", "what `status` says", of_status),
    ("databases.json", "format, bytes and integrity of each", of_databases),
    ("models.json", "the models and how they stand", of_models),
    ("artifacts.json", "hashes expected and found, and what changed", of_artifacts),
    ("jobs.json", "how many, how they stand; never what they ask or answer", of_jobs),
    ("traces.json", "what happened to the last jobs, step by step", of_traces),
    ("log.json", "the newest records of the log", of_log),
];

struct Around<'a> {
    context: &'a Context,
    /// Why there is none, if there is none.
    view: Result<View, String>,
}

impl Around<'_> {
    fn view(&self) -> Result<&View, Failure> {
        self.view.as_ref().map_err(|why| Failure::Usage(why.clone()))
    }
}

#[derive(Serialize)]
struct PartShown {
    name: &'static str,
    holds: &'static str,
    bytes: u64,
    /// Why it could not be had.
    #[serde(skip_serializing_if = "Option::is_none")]
    missing: Option<String>,
}

#[derive(Serialize)]
struct Listing {
    /// Nothing in a dry run.
    file: Option<PathBuf>,
    parts: Vec<PartShown>,
}

impl Report for Listing {
    fn page(&self, page: &mut Page) {
        page.line("In the bundle, redacted; never in it: prompts, answers, keys, passphrases.");
        let row = |part: &PartShown| {
            let holds =
                part.missing.as_ref().map_or(part.holds.to_owned(), |why| format!("not to be had: {why}"));
            vec![part.name.to_owned(), measure::bytes(part.bytes), holds]
        };
        page.table(&["file", "size", "holds"], &self.parts.iter().map(row).collect::<Vec<_>>());
        if let Some(file) = &self.file {
            page.row("written to", file.display());
        }
    }
}

impl Bundle {
    /// # Errors
    /// [`Failure`].
    pub(crate) fn run(&self, context: &Context) -> Result<Verdict, Failure> {
        let around = Around { context, view: context.view().map_err(|error| error.story()) };
        let (home, host) = (std::env::home_dir(), system("/proc/sys/kernel/hostname"));
        let redactor = Redactor::new(home.as_deref().and_then(|home| home.to_str()), host.as_deref());
        let (mut parts, mut files) = (Vec::new(), Vec::new());
        for (name, holds, take) in PARTS {
            let (value, missing) = match take(&around) {
                Ok(value) => (redactor.value(value), None),
                Err(error) => {
                    let why = redactor.text(&error.story());
                    (json!({ "missing": why }), Some(why))
                }
            };
            // A value made here always can be written.
            let text = serde_json::to_string_pretty(&value).unwrap_or_default() + "\n";
            parts.push(PartShown { name, holds, bytes: text.len() as u64, missing });
            files.push(((*name).to_owned(), text.into_bytes()));
        }
        let moment = reading()?.wall.to_string().replace(':', "-");
        let usual = || PathBuf::from(format!("resultity-bundle-{moment}.tar.zst"));
        let file = (!self.dry_run).then(|| self.file.clone().unwrap_or_else(usual));
        if let Some(file) = &file {
            backup::write_files(file, &files)?;
        }
        context.out.show(&Listing { file, parts })?;
        Ok(Verdict::Done)
    }
}

/// A file of the system's, without the newline at its end; nothing where it cannot be read.
fn system(path: &str) -> Option<String> {
    let bytes = files::read_if_there(path.as_ref(), SYSTEM_FILE_BYTES_MAX).ok()??;
    Some(String::from_utf8_lossy(&bytes).trim_end().to_owned())
}

fn about(around: &Around<'_>) -> Result<Value, Failure> {
    let release = system("/etc/os-release").unwrap_or_default();
    let pretty = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    let folder = around.context.folder();
    let on = [folder.as_path(), around.context.settings.home.as_path()]
        .into_iter()
        .find_map(|folder| rustix::fs::statfs(folder).ok());
    let free = on.as_ref().map(|on| on.f_bavail.saturating_mul(u64::try_from(on.f_bsize).unwrap_or(0)));
    Ok(json!({
        "made_at": reading()?.wall.to_string(),
        "release": node_agent::VERSION,
        "architecture": std::env::consts::ARCH,
        "system": pretty.map(|name| name.trim_matches('"')),
        "kernel": system("/proc/sys/kernel/osrelease"),
        "container": std::path::Path::new("/.dockerenv").exists() || std::path::Path::new("/run/.containerenv").exists(),
        "root": rustix::process::geteuid().is_root(),
        "file_system": on.as_ref().map(|on| file_system(u64::try_from(on.f_type).unwrap_or(0))),
        "free_bytes": free,
    }))
}

/// The name of a file system by its number (statfs(2)).
fn file_system(number: u64) -> String {
    let known = match number {
        0xEF53 => "ext4",
        0x5846_5342 => "xfs",
        0x9123_683E => "btrfs",
        0x0102_1994 => "tmpfs",
        0x794C_7630 => "overlay",
        0x6969 => "nfs",
        0x2FC1_2FC1 => "zfs",
        0xF2F5_2010 => "f2fs",
        0x6573_5546 => "fuse",
        0xFE53_4D42 => "smb",
        0x0102_1997 => "9p",
        other => return format!("{other:#x}"),
    };
    known.to_owned()
}

fn of_hardware(_: &Around<'_>) -> Result<Value, Failure> {
    let processors = system("/proc/cpuinfo").unwrap_or_default();
    let model = processors.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let memory = hardware::memory();
    Ok(json!({
        "processor": model.map(|(_, name)| name),
        "processors": std::thread::available_parallelism().map_or(0, std::num::NonZeroUsize::get),
        "memory_bytes": memory.main,
        "graphics_memory_bytes": memory.graphics,
    }))
}

fn of_settings(around: &Around<'_>) -> Result<Value, Failure> {
    // Taken apart, so that a new setting does not get in by itself.
    let Settings {
        home,
        network,
        network_url,
        keyset_digest,
        keys,
        runtime,
        models,
        page,
        exports: ExportSettings { otlp, log_file },
        shutdown_grace_ms,
        command: _,
    } = &around.context.settings;
    Ok(json!({
        "home": home,
        "network": network,
        "network_url": network_url,
        "keyset_digest": keyset_digest.map(|digest| digest.to_string()),
        "keys": { "secret_file": keys.secret_file.is_some(), "passphrase_file": keys.passphrase_file.is_some() },
        "runtime": {
            "url": runtime.url, "api_key_file": runtime.api_key_file.is_some(), "folder": runtime.folder,
            "readable": runtime.readable, "user": runtime.user.is_some(), "socket": runtime.socket,
            "images": runtime.images, "work": runtime.work,
        },
        "page": { "listen": page.listen, "token_file": page.token_file.is_some() },
        "otlp": otlp.as_ref().map(|otlp| json!({
            // Its path may say whose account it is.
            "endpoint": address::parse(&otlp.endpoint, Whose::Collector).ok().map(|url| url.origin().ascii_serialization()),
            "headers_file": otlp.headers_file.is_some(), "required": otlp.required,
            "logs": otlp.logs, "metrics": otlp.metrics, "metrics_ms": otlp.metrics_ms,
        })),
        "log_file": log_file.as_ref().map(|it| json!({
            "folder": it.folder, "bytes_max": it.bytes_max, "files_max": it.files_max, "required": it.required,
        })),
        "models": { "folders": models.folders, "scrub_ms": models.scrub_ms },
        "shutdown_grace_ms": shutdown_grace_ms,
    }))
}

fn of_status(around: &Around<'_>) -> Result<Value, Failure> {
    let mut shown = status::shown(around.context)?;
    // What the account's owner signed or was sent is theirs.
    if let Some(account) = shown.get_mut("account").and_then(Value::as_object_mut) {
        account.remove("proof");
        // Whatever form it has: not each one looks like an address.
        if account.get("kind").is_some_and(|kind| kind == "email") {
            account.insert("account".to_owned(), json!("<e-mail>"));
        }
    }
    Ok(shown)
}

fn of_databases(around: &Around<'_>) -> Result<Value, Failure> {
    let health = around.view()?.health().into_iter().map(|(database, health)| match health {
        Ok(health) => json!({
            "database": database.file(), "format": health.format, "newest_format": database.newest(),
            "bytes": health.bytes, "damage": health.damage,
        }),
        Err(error) => json!({ "database": database.file(), "unreadable": Failure::from(error).story() }),
    });
    Ok(Value::Array(health.collect()))
}

fn of_models(around: &Around<'_>) -> Result<Value, Failure> {
    let view = around.view()?;
    let snapshots = view.snapshots()?;
    let config: Option<&NodeConfig> = snapshots.current().map(|current| current.config.document());
    Ok(json!(models::look(view, config)?))
}

fn of_artifacts(around: &Around<'_>) -> Result<Value, Failure> {
    let inventory = around.view()?.inventory();
    let artifacts = inventory.list()?.into_iter().take(ROWS_MAX).map(|artifact| {
        json!({
            "artifact": artifact.id.to_string(), "state": artifact.state.name(),
            "measured_at": artifact.measured_at.map(|at| at.to_string()),
        })
    });
    let artifacts: Vec<Value> = artifacts.collect();
    let history = inventory.history(None)?;
    let newest = history.len().saturating_sub(ROWS_MAX);
    let change = |change: &Change| {
        json!({
            "at": change.at.to_string(), "artifact": change.id.to_string(),
            "was": change.was.map(|state| state.name()), "became": change.became.name(),
        })
    };
    let history: Vec<Value> = history[newest..].iter().map(change).collect();
    Ok(json!({ "artifacts": artifacts, "history": history }))
}

fn of_jobs(around: &Around<'_>) -> Result<Value, Failure> {
    let jobs = around.view()?.jobs();
    let (tally, counts, fence) = (jobs.tally()?, jobs.counts()?, jobs.fence()?);
    let row = |job: Listed| {
        json!({
            "job": job.job, "standing": job.standing, "model": job.model.to_string(), "mode": job.mode,
            "priority": job.priority, "accepted_at": job.accepted_at.to_string(),
            "expires_at": job.expires_at.to_string(), "attempt": job.attempt, "attempts_max": job.attempts_max,
            "bytes": job.bytes,
        })
    };
    let limit = u32::try_from(ROWS_MAX).unwrap_or(u32::MAX);
    let held: Vec<Value> = jobs.list(0, limit)?.into_iter().map(row).collect();
    Ok(json!({
        "queued": counts.queued, "running": counts.running, "unsent": counts.unsent, "held": tally.jobs,
        "bytes": tally.bytes, "expired": tally.expired, "trace_bytes": tally.trace_bytes,
        "traces_lost": tally.traces_lost,
        "fence": fence.map(|fence| json!({
            "backed_up_at": fence.backed_up_at.to_string(), "restored_at": fence.restored_at.to_string(),
            "jobs": fence.jobs,
        })),
        "oldest": held,
    }))
}

fn of_traces(around: &Around<'_>) -> Result<Value, Failure> {
    let newest = around.view()?.jobs().traces_before(None, u32::try_from(ROWS_MAX).unwrap_or(u32::MAX))?;
    Ok(Value::Array(newest.into_iter().rev().map(|(_, trace)| json!(trace)).collect()))
}

fn of_log(around: &Around<'_>) -> Result<Value, Failure> {
    let query = Query { limit: Some(RECORDS_MAX), ..Query::default() };
    let records = around.view()?.logs().query(&query)?;
    Ok(Value::Array(records.into_iter().map(|entry| json!(RecordShown::from(entry))).collect()))
}
