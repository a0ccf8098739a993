//! `models prune`: takes away what no model needs.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    io,
    path::{Path, PathBuf},
};

use clap::Args;
use node_agent::time;
use node_store::view::View;
use node_types::{
    Digest, Timestamp,
    config::{NodeConfig, Timings},
    models::ModelState,
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
            plan(&view, &context.models_folder(), ttl_ms, context::now(&view)?)?
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
fn plan(view: &View, folder: &Path, ttl_ms: u64, now: Timestamp) -> Result<Pruned, Failure> {
    let unreadable = |source| Failure::File { what: "read", path: folder.to_owned(), source };
    let models = view.models();
    let mut files = Vec::new();
    let partials = models.partials()?;
    for file in partials.iter().filter(|file| file.touched_at.plus_ms(ttl_ms) <= now) {
        let path = folder.join("partial").join(file.sha256.hex());
        let bytes = taken(&path).map_err(unreadable)?;
        files.push(Going { kind: "unfinished", path, bytes });
    }
    for file in models.quarantined().map_err(unreadable)? {
        if file.at.plus_ms(ttl_ms) <= now {
            let bytes = taken(&file.path).map_err(unreadable)?;
            files.push(Going { kind: "quarantined", path: file.path, bytes });
        }
    }
    let needed = models.models()?.into_iter().filter(|row| row.state != ModelState::Archived);
    let needed = needed.flat_map(|row| row.files.into_iter().map(|(_, sha256, _)| sha256));
    let known = models.files()?.into_iter().map(|file| file.sha256).chain(needed);
    files.extend(unknown(folder, known).map_err(unreadable)?);
    let begun = partials.into_iter().map(|file| file.sha256);
    files.extend(unknown(&folder.join("partial"), begun).map_err(unreadable)?);
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

/// The files in a folder that are none of the known ones.
fn unknown(folder: &Path, known: impl Iterator<Item = Digest>) -> io::Result<Vec<Going>> {
    let known: BTreeSet<OsString> = known.map(|sha256| sha256.hex().into()).collect();
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if !known.contains(&entry.file_name()) && !entry.file_type()?.is_dir() {
            let path = entry.path();
            found.push(Going { kind: "unknown", bytes: taken(&path)?, path });
        }
    }
    found.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(found)
}

/// Bytes of the disk that a file takes: unfinished ones have their full length from the start.
fn taken(path: &Path) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        // Blocks are counted in 512 bytes, whatever the file system's own are (inode(7)).
        found => Ok(found?.blocks() * 512),
    }
}
