//! `models prune`: takes away what no model needs.

use std::path::PathBuf;

use clap::Args;
use node_agent::time;
use node_store::{models::WasteKind, view::View};
use node_types::{
    Timestamp,
    config::{NodeConfig, Timings},
};
use serde::Serialize;

use super::{Verdict, in_force, refuse_held};
use crate::{
    cli::Keys,
    context::{self, Context, reading},
    failure::Failure,
    measure::{self, count},
    out::Report,
    page::Page,
};

/// How long unfinished downloads and quarantined files are kept where no snapshot says it: 1 day in milliseconds.
const TTL_MS: u64 = 86_400_000;

/// Remove unfinished downloads and quarantined files that nothing touched for as long as the snapshot says
/// (`partial_file_ttl_ms`), and files in the models' folder that nothing knows.
///
/// The Agent does this by itself.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  resultity-node models prune --dry-run
  resultity-node models prune --all")]
pub(crate) struct Prune {
    /// However young they are
    #[arg(long)]
    all: bool,
    /// Show what would go, and remove nothing; works beside a running Agent
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    pub(crate) keys: Keys,
}

#[derive(Default, Serialize)]
struct Pruned {
    dry_run: bool,
    /// Unfinished downloads.
    partials: u64,
    /// Files that were moved aside.
    quarantined: u64,
    /// Files that nothing knows.
    unknown: u64,
    /// Bytes of the disk that came back, or would.
    bytes: u64,
    /// What would go.
    #[serde(skip_serializing_if = "Option::is_none")]
    files: Option<Vec<Going>>,
}

/// A file that would go.
#[derive(Serialize)]
struct Going {
    kind: &'static str,
    path: PathBuf,
    bytes: u64,
}

impl Report for Pruned {
    fn page(&self, page: &mut Page) {
        if let Some(files) = &self.files
            && !files.is_empty()
        {
            let row =
                |it: &Going| vec![it.kind.into(), measure::bytes(it.bytes), it.path.display().to_string()];
            let rows: Vec<Vec<String>> = files.iter().map(row).collect();
            page.table(&["what", "on disk", "file"], &rows);
        }
        if self.partials + self.quarantined + self.unknown == 0 {
            page.line("There is nothing to remove.");
            return;
        }
        let (did, came) = if self.dry_run { ("Would go", "would come") } else { ("Removed", "came") };
        page.line(format!(
            "{did}: {}, {} in quarantine, {}; {} {came} back.",
            count(self.partials, "unfinished download"),
            count(self.quarantined, "file"),
            count(self.unknown, "unknown file"),
            measure::bytes(self.bytes)
        ));
    }
}

impl Prune {
    pub(super) fn run(&self, context: &Context) -> Result<Verdict, Failure> {
        let view = context.view()?;
        let config = in_force(&view)?;
        let ttl = |timings: &Timings| timings.partial_file_ttl_ms;
        let ttl_ms = if self.all { 0 } else { config.as_ref().map_or(TTL_MS, |config| ttl(&config.timings)) };
        let pruned = if self.dry_run {
            plan(&view, ttl_ms, context::now(&view)?)?
        } else {
            prune(context, config.as_ref(), ttl_ms)?
        };
        context.out.show(&pruned)?;
        Ok(Verdict::Done)
    }
}

fn prune(context: &Context, config: Option<&NodeConfig>, ttl_ms: u64) -> Result<Pruned, Failure> {
    refuse_held(context, config)?;
    let store = context.store(&reading()?)?;
    let done = store.models().prune(ttl_ms, time::now(&store)?)?;
    Ok(Pruned {
        partials: done.partials,
        quarantined: done.quarantined,
        unknown: done.orphans,
        bytes: done.bytes,
        ..Pruned::default()
    })
}

/// What the store would remove.
fn plan(view: &View, ttl_ms: u64, now: Timestamp) -> Result<Pruned, Failure> {
    let going = view.models().waste(ttl_ms, now)?.into_iter().map(|waste| Going {
        kind: match waste.kind {
            WasteKind::Unfinished(_) => "unfinished",
            WasteKind::Quarantined => "quarantined",
            WasteKind::Unknown(_) => "unknown",
        },
        path: waste.path,
        bytes: waste.bytes,
    });
    let files: Vec<Going> = going.collect();
    let of = |kind| files.iter().filter(|file| file.kind == kind).count() as u64;
    Ok(Pruned {
        dry_run: true,
        partials: of("unfinished"),
        quarantined: of("quarantined"),
        unknown: of("unknown"),
        bytes: files.iter().map(|file| file.bytes).sum(),
        files: Some(files),
    })
}
