//! `config`: the configuration snapshots that the network gives. Nothing is applied here: the Agent does that.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use node_store::{
    logs::{BYTES_MAX_LOWEST, Query},
    snapshot::{InForce, SnapshotError},
};
use node_types::{
    Digest, Timestamp,
    config::NodeConfig,
    envelope::ENVELOPE_BYTES_MAX,
    keyset::{KEYSET_BYTES_MAX, VerifiedKeyset},
    log::Kind,
    verify::{Term, Validity, verify_config},
};
use serde::Serialize;

use super::{Verdict, logs::RecordShown};
use crate::{
    cli::Keys,
    context::{self, Context, reading},
    failure::Failure,
    files,
    measure::{self, count},
    out::Report,
    page::{Page, Tone},
    settings::Layer,
};

/// Log records of configuration that the history shows, the newest.
const RECORDS: u32 = 50;

/// What is done with the configuration.
#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// Show the snapshot in force
    #[command(
        after_help = "Examples:\n  resultity-node config show\n  resultity-node config show --previous\n  \
                            resultity-node config show --json | jq .document.models"
    )]
    Show {
        /// The one before it
        #[arg(long)]
        previous: bool,
    },
    /// Judge a snapshot's envelope as the node would, and apply nothing; 1 where it is refused
    #[command(
        after_help = "Examples:\n  resultity-node config verify snapshot.json\n  curl -s $URL/node/v1/snapshot | \
                            resultity-node config verify -"
    )]
    Verify {
        /// The envelope, - for the standard input
        #[arg(value_hint = clap::ValueHint::FilePath)]
        file: PathBuf,
        /// Judge by the keyset in this file, and not by the one in the volume
        #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
        keyset: Option<PathBuf>,
    },
    /// Show the snapshots and keysets that the node has known, and what its log says of them
    #[command(after_help = "Examples:\n  resultity-node config history")]
    History,
    /// Let the snapshot be tried again that failed its health check on this machine, once what was wrong here is mended
    ///
    /// The Agent goes back to the last good snapshot where the newest one fails, and leaves that one alone from then on: most
    /// fail for good. Where the cause was this machine, mend it, stop the Agent, call this, and start it again.
    #[command(after_help = "Examples:\n  resultity-node config retry")]
    Retry {
        #[command(flatten)]
        keys: Keys,
    },
}

impl Config {
    /// What its flags set.
    pub(crate) fn layer(&self, layer: &mut Layer) {
        match self {
            Self::Show { .. } | Self::Verify { .. } | Self::History => {}
            Self::Retry { keys } => keys.layer(layer),
        }
    }

    /// # Errors
    /// [`Failure`]; [`Failure::Held`] where a running Agent would have to be told.
    pub(crate) fn run(&self, context: &Context) -> Result<Verdict, Failure> {
        match self {
            Self::Show { previous } => show(context, *previous),
            Self::Verify { file, keyset } => verify(context, file, keyset.as_deref()),
            Self::History => history(context),
            Self::Retry { .. } => retry(context),
        }
    }
}

/// A snapshot, for showing.
#[derive(Serialize)]
pub(crate) struct SnapshotShown {
    version: u64,
    digest: String,
    applied_at: String,
    /// It passed its health check.
    good: bool,
    validity: &'static str,
    refresh_by: String,
    valid_until: String,
    /// The end of the offline grace.
    grace_until: String,
    #[serde(skip)]
    pub(crate) tone: Tone,
}

impl SnapshotShown {
    /// A snapshot as it stands at `now`.
    pub(crate) fn of(snapshot: &InForce, now: Timestamp) -> Self {
        let term = Term::of(snapshot.config.document());
        let (validity, tone) = validity(term.at(now));
        Self {
            version: snapshot.config.document().version,
            digest: snapshot.config.digest().to_string(),
            applied_at: snapshot.applied_at.to_string(),
            good: snapshot.good,
            validity,
            refresh_by: term.refresh_by.to_string(),
            valid_until: term.valid_until.to_string(),
            grace_until: term.grace_until.to_string(),
            tone,
        }
    }

    /// In one line.
    pub(crate) fn line(&self) -> String {
        let checked = if self.good { "" } else { ", its health check is not passed yet" };
        format!(
            "version {}, {}, valid until {}{checked}",
            self.version,
            self.validity.replace('_', " "),
            self.valid_until
        )
    }

    /// Its digest.
    pub(crate) fn digest(&self) -> &str {
        &self.digest
    }
}

const fn validity(validity: Validity) -> (&'static str, Tone) {
    match validity {
        Validity::Fresh => ("fresh", Tone::Good),
        Validity::RefreshDue => ("refresh_due", Tone::Good),
        Validity::Stale { .. } => ("stale", Tone::Warning),
        Validity::OutOfForce => ("out_of_force", Tone::Bad),
    }
}

#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    snapshot: SnapshotShown,
    document: &'a NodeConfig,
}

impl Report for Shown<'_> {
    fn page(&self, page: &mut Page) {
        let (snapshot, document) = (&self.snapshot, self.document);
        page.row("version", document.version);
        page.row("network", document.network);
        page.row("digest", snapshot.digest());
        page.toned_row("validity", snapshot.tone, snapshot.validity.replace('_', " "));
        page.row("issued", document.issued_at);
        page.row("applied", &snapshot.applied_at);
        page.row("refresh by", &snapshot.refresh_by);
        page.row("valid until", &snapshot.valid_until);
        page.row("grace until", &snapshot.grace_until);
        page.row("checked", if snapshot.good { "its health check is passed" } else { "not yet" });
        page.row("keyset", document.keyset_version);
        let subclouds = document.participation.subclouds.join(", ");
        page.row("subclouds", if subclouds.is_empty() { "none" } else { &subclouds });
        let runtime = &document.runtime;
        page.row(
            "runtime",
            runtime.digest().map_or_else(
                || format!("{}, run by the operator", runtime.engine()),
                |digest| format!("{}, {digest}", runtime.engine()),
            ),
        );
        page.heading(count(document.models.len() as u64, "model"));
        let models: Vec<Vec<String>> = document
            .models
            .iter()
            .map(|model| {
                let tasks: Vec<String> =
                    model.tasks.iter().map(|task| format!("{task:?}").to_lowercase()).collect();
                let (files, bytes) = (model.files.len().to_string(), measure::bytes(model.bytes()));
                let memory = measure::bytes(model.memory_bytes);
                vec![model.reference().to_string(), tasks.join(", "), files, bytes, memory]
            })
            .collect();
        if !models.is_empty() {
            page.table(&["model", "tasks", "files", "on disk", "memory"], &models);
        }
        let limits = &document.limits;
        page.heading("Limits");
        page.row(
            "queue",
            format!("{} jobs, {}", limits.queue_jobs_max, measure::bytes(limits.queue_bytes_max)),
        );
        page.row("request", measure::bytes(limits.request_bytes_max));
        page.row("tokens", limits.max_tokens);
        page.row(
            "run",
            format!(
                "{} at a time, {} at the most, {}",
                limits.concurrency,
                measure::span(limits.execution_timeout_ms),
                count(limits.attempts_max.into(), "attempt")
            ),
        );
        page.row("time to live", measure::span(limits.ttl_ms_max));
        let (logs, least) = (measure::bytes(limits.logs_bytes_max), measure::bytes(BYTES_MAX_LOWEST));
        if limits.logs_bytes_max < BYTES_MAX_LOWEST {
            page.row("logs", format!("{logs}; the node takes {least}, as its log needs so many"));
        } else {
            page.row("logs", logs);
        }
    }
}

fn show(context: &Context, previous: bool) -> Result<Verdict, Failure> {
    let view = context.view()?;
    let (now, snapshots) = (context::now(&view)?, view.snapshots()?);
    let (found, which) =
        if previous { (snapshots.previous(), "earlier") } else { (snapshots.current(), "current") };
    let found = found.ok_or(Failure::NoSnapshot(which))?;
    let snapshot = SnapshotShown::of(found, now);
    context.out.show(&Shown { snapshot, document: found.config.document() })?;
    Ok(Verdict::Done)
}

#[derive(Serialize)]
struct Judged {
    file: PathBuf,
    /// `accepted`, `in_force` or `refused`.
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<Digest>,
    judged_at: String,
    keyset_version: u64,
    floor_version: u64,
}

impl Report for Judged {
    fn page(&self, page: &mut Page) {
        let (tone, text) = match self.verdict {
            "refused" => (Tone::Bad, "refused: the node would change nothing"),
            "in_force" => (Tone::Good, "accepted: it is the snapshot in force"),
            _ => (Tone::Good, "accepted: the node would apply it"),
        };
        page.toned_row("verdict", tone, text);
        if let Some(reason) = &self.reason {
            page.row("reason", reason);
        }
        if let (Some(version), Some(digest)) = (self.version, self.digest) {
            page.row("version", version);
            page.row("digest", digest);
        }
        page.row("file", self.file.display());
        page.row(
            "judged by",
            format!(
                "keyset {}, versions from {} on, at {}",
                self.keyset_version, self.floor_version, self.judged_at
            ),
        );
    }
}

fn verify(context: &Context, file: &Path, keyset: Option<&Path>) -> Result<Verdict, Failure> {
    let (view, network) = (context.view()?, context.settings.network);
    let (now, snapshots) = (context::now(&view)?, view.snapshots()?);
    let keyset = match keyset {
        Some(file) => VerifiedKeyset::trust(&files::read(file, KEYSET_BYTES_MAX)?, network)
            .map_err(SnapshotError::Refused)?,
        None => snapshots.keyset().cloned().ok_or(SnapshotError::NoKeyset)?,
    };
    let floor = snapshots.floor();
    // One byte more: what is too long is for the gate to say.
    let envelope = files::read(file, ENVELOPE_BYTES_MAX + 1)?;
    let judged = verify_config(&envelope, &keyset, network, floor, now);
    let current = snapshots.current().map(|current| current.config.digest());
    let (verdict, reason, found) = match &judged {
        Ok(config) if current == Some(config.digest()) => ("in_force", None, Some(config)),
        Ok(config) => ("accepted", None, Some(config)),
        Err(refused) => ("refused", Some(refused.to_string()), None),
    };
    context.out.show(&Judged {
        file: file.to_owned(),
        verdict,
        reason,
        version: found.map(|config| config.document().version),
        digest: found.map(|config| config.digest()),
        judged_at: now.to_string(),
        keyset_version: keyset.document().version,
        floor_version: floor.version,
    })?;
    Ok(if judged.is_ok() { Verdict::Done } else { Verdict::Refused })
}

#[derive(Serialize)]
struct History {
    current: Option<SnapshotShown>,
    previous: Option<SnapshotShown>,
    /// The version after the current one, where it failed its health check and was taken back.
    taken_back_version: Option<u64>,
    floor: FloorShown,
    keyset: Option<KeysetShown>,
    /// What is stored and does not verify any more.
    unverifiable: Vec<UnverifiableShown>,
    log: Vec<RecordShown>,
    #[serde(skip_serializing_if = "Option::is_none")]
    log_unreadable: Option<String>,
}

#[derive(Serialize)]
struct FloorShown {
    version: u64,
    digest: Option<Digest>,
}

#[derive(Serialize)]
struct KeysetShown {
    version: u64,
    digest: Digest,
    chain_id: u64,
    threshold: u16,
    keys: Vec<String>,
}

#[derive(Serialize)]
struct UnverifiableShown {
    digest: Digest,
    why: String,
}

impl Report for History {
    fn page(&self, page: &mut Page) {
        let none = "none".to_owned();
        let snapshot = |shown: &Option<SnapshotShown>| {
            shown
                .as_ref()
                .map_or(none.clone(), |shown| format!("{}, applied {}", shown.line(), shown.applied_at))
        };
        page.row("current", snapshot(&self.current));
        page.row("previous", snapshot(&self.previous));
        if let Some(version) = self.taken_back_version {
            page.toned_row("taken back", Tone::Warning, format!("version {version} failed its health check"));
        }
        page.row("floor", format!("version {}: no older one is ever applied", self.floor.version));
        page.row(
            "keyset",
            self.keyset.as_ref().map_or(none.clone(), |keyset| {
                format!(
                    "version {}, {} of {} keys sign, chain {}",
                    keyset.version,
                    keyset.threshold,
                    keyset.keys.len(),
                    keyset.chain_id
                )
            }),
        );
        for bad in &self.unverifiable {
            page.toned_row("unverifiable", Tone::Bad, format!("{}: {}", bad.digest, bad.why));
        }
        if let Some(why) = &self.log_unreadable {
            page.toned_row("log", Tone::Bad, why);
        }
        if !self.log.is_empty() {
            page.heading("In the log:");
        }
        for record in &self.log {
            record.page(page);
        }
    }
}

fn history(context: &Context) -> Result<Verdict, Failure> {
    let view = context.view()?;
    let (now, snapshots) = (context::now(&view)?, view.snapshots()?);
    let query = Query { kind: Some(Kind::Configuration), limit: Some(RECORDS), ..Query::default() };
    let (log, log_unreadable) = match view.logs().query(&query) {
        Ok(log) => (log.into_iter().map(RecordShown::from).collect(), None),
        // The snapshots are in another file, and can still be shown.
        Err(error) => (Vec::new(), Some(Failure::from(error).story())),
    };
    let floor = snapshots.floor();
    context.out.show(&History {
        current: snapshots.current().map(|current| SnapshotShown::of(current, now)),
        previous: snapshots.previous().map(|previous| SnapshotShown::of(previous, now)),
        taken_back_version: snapshots.taken_back(),
        floor: FloorShown { version: floor.version, digest: floor.digest },
        keyset: snapshots.keyset().map(|keyset| KeysetShown {
            version: keyset.document().version,
            digest: keyset.digest(),
            chain_id: keyset.document().chain_id,
            threshold: keyset.document().threshold,
            keys: keyset.document().keys.iter().map(|key| key.id.to_string()).collect(),
        }),
        unverifiable: snapshots
            .unverifiable()
            .iter()
            .map(|bad| UnverifiableShown { digest: bad.digest, why: bad.why.to_string() })
            .collect(),
        log,
        log_unreadable,
    })?;
    Ok(Verdict::Done)
}

/// What may be tried again.
#[derive(Serialize)]
struct Retried {
    /// The version; none where no snapshot was taken back.
    version: Option<u64>,
    next: String,
}

impl Report for Retried {
    fn page(&self, page: &mut Page) {
        page.line(self.version.map_or_else(
            || "No snapshot was taken back: there is nothing to try again.".to_owned(),
            |version| {
                format!(
                    "Version {version} is tried again when the node runs, if the network still offers it."
                )
            },
        ));
        page.row("next", &self.next);
    }
}

fn retry(context: &Context) -> Result<Verdict, Failure> {
    let reading = reading()?;
    let store = context.store(&reading)?;
    let version = store.retry_snapshot(store.time(&reading).now)?;
    let next = context.typed.complete("start the node: `resultity-node run`").into_owned();
    context.out.show(&Retried { version, next })?;
    Ok(Verdict::Done)
}
