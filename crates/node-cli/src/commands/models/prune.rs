//! `models prune`: takes away what no model needs.

use clap::Args;
use node_agent::time;
use node_store::models::{Strangers, Waste, WasteKind};
use node_types::config::{NodeConfig, Timings};
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
/// (`partial_file_ttl_ms`), files that no model has any more, and files in the models' folder that nothing knows.
///
/// The Agent does this by itself, but for what nothing knows: it did not put that there, so it only tells of it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  resultity-node models prune --dry-run
  resultity-node models prune --all")]
pub(crate) struct Prune {
    /// Downloads, quarantined files and those that no model has, however young they are
    #[arg(long)]
    all: bool,
    /// Show what would go, and remove nothing; works beside a running Agent
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    pub(crate) keys: Keys,
}

#[derive(Serialize)]
struct Pruned {
    dry_run: bool,
    /// Unfinished downloads.
    partials: u64,
    /// Files that were moved aside.
    quarantined: u64,
    /// Files that no model has any more.
    unneeded: u64,
    /// Files that nothing knows.
    unknown: u64,
    /// Bytes of the disk that came back, or would.
    bytes: u64,
    /// What went, or would.
    files: Vec<Going>,
}

/// A file that went, or would.
#[derive(Serialize)]
struct Going {
    kind: &'static str,
    path: String,
    bytes: u64,
}

impl Pruned {
    fn new(dry_run: bool, waste: Vec<Waste>) -> Self {
        let going = waste.into_iter().map(|waste| Going {
            kind: match waste.kind {
                WasteKind::Unfinished(_) => "unfinished",
                WasteKind::Quarantined => "quarantined",
                WasteKind::Unneeded(_) => "unneeded",
                WasteKind::Stranger(_) => "unknown",
            },
            path: waste.path.display().to_string(),
            bytes: waste.bytes,
        });
        let files: Vec<Going> = going.collect();
        let of = |kind| files.iter().filter(|file| file.kind == kind).count() as u64;
        Self {
            dry_run,
            partials: of("unfinished"),
            quarantined: of("quarantined"),
            unneeded: of("unneeded"),
            unknown: of("unknown"),
            bytes: files.iter().map(|file| file.bytes).sum(),
            files,
        }
    }
}

impl Report for Pruned {
    fn page(&self, page: &mut Page) {
        if self.files.is_empty() {
            page.line("There is nothing to remove.");
            return;
        }
        let row = |it: &Going| vec![it.kind.into(), measure::bytes(it.bytes), it.path.clone()];
        let rows: Vec<Vec<String>> = self.files.iter().map(row).collect();
        page.table(&["what", "on disk", "file"], &rows);
        let (did, came) = if self.dry_run { ("Would go", "would come") } else { ("Removed", "came") };
        page.line(format!(
            "{did}: {}, {} in quarantine, {}, {} that no model has; {} {came} back.",
            count(self.partials, "unfinished download"),
            count(self.quarantined, "file"),
            count(self.unknown, "unknown file"),
            count(self.unneeded, "file"),
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
        let waste = if self.dry_run {
            view.models().waste(ttl_ms, context::now(&view)?)?
        } else {
            prune(context, config.as_ref(), ttl_ms)?
        };
        context.out.show(&Pruned::new(self.dry_run, waste))?;
        Ok(Verdict::Done)
    }
}

fn prune(context: &Context, config: Option<&NodeConfig>, ttl_ms: u64) -> Result<Vec<Waste>, Failure> {
    refuse_held(context, config)?;
    let store = context.store(&reading()?)?;
    Ok(store.models().prune(ttl_ms, time::now(&store)?, Strangers::Go)?)
}
