//! `models list`: the models, how much of each is here, and what else takes room.

use std::{collections::BTreeMap, path::Path};

use node_agent::models::brings_files;
use node_store::{models::PartialFile, view::View};
use node_types::{Digest, Timestamp, config::NodeConfig, models::ModelState};
use serde::Serialize;

use super::{ModelShown, Verdict, in_force, look};
use crate::{
    commands::drift,
    context::{self, Context},
    failure::Failure,
    measure::{self, count},
    out::Report,
    page::{Page, Tone},
};

#[derive(Serialize)]
struct Models {
    agent_running: bool,
    /// The node keeps the files; it does not where the operator runs the runtime.
    kept_here: bool,
    models: Vec<ModelShown>,
    partials: Vec<PartialShown>,
    quarantined: Vec<QuarantinedShown>,
    /// What is not the node's: files, and folders, whose bytes nobody counts.
    unknown: Vec<UnknownShown>,
    total: Total,
    next: String,
    /// Where no Agent runs: whose word the states are, and what looks itself.
    #[serde(skip)]
    as_left: Option<String>,
    #[serde(skip)]
    now: Timestamp,
    #[serde(skip)]
    unlisted_ttl_ms: u64,
}

/// A file that is not all here.
#[derive(Serialize)]
struct PartialShown {
    sha256: Digest,
    /// The models and paths that it is for.
    of: Vec<String>,
    bytes: u64,
    received: u64,
    started_at: String,
    touched_at: String,
    #[serde(skip)]
    touched: Timestamp,
}

/// A file that was moved aside.
#[derive(Serialize)]
struct QuarantinedShown {
    sha256: Digest,
    bytes: u64,
    at: String,
    path: String,
    #[serde(skip)]
    moved: Timestamp,
}

/// Something that somebody else put there.
#[derive(Serialize)]
struct UnknownShown {
    path: String,
    /// Nothing of a folder.
    bytes: Option<u64>,
}

/// What all of it takes; a file that several models share counts once.
#[derive(Serialize)]
struct Total {
    models: u64,
    active: u64,
    files: u64,
    bytes: u64,
    partial_bytes: u64,
    quarantined_bytes: u64,
    unknown_bytes: u64,
}

pub(super) fn run(context: &Context) -> Result<Verdict, Failure> {
    let view = context.view()?;
    let (now, config) = (context::now(&view)?, in_force(&view)?);
    let as_left = context.holder()?.is_none().then(|| drift::as_left(context));
    let mut shown = gather(&view, &context.models_folder(), config.as_ref(), now, as_left)?;
    shown.next = context.typed.complete(&next(&shown, config.is_some())).into_owned();
    context.out.show(&shown)?;
    Ok(Verdict::Done)
}

fn gather(
    view: &View,
    folder: &Path,
    config: Option<&NodeConfig>,
    now: Timestamp,
    as_left: Option<String>,
) -> Result<Models, Failure> {
    let models = look(view, config)?;
    let mut of: BTreeMap<Digest, Vec<String>> = BTreeMap::new();
    for model in &models {
        for file in &model.files {
            of.entry(file.sha256).or_default().push(format!("{}/{}", model.model, file.path));
        }
    }
    let of = |sha256| of.get(&sha256).cloned().unwrap_or_default();
    let partials: Vec<PartialShown> = view
        .models()
        .partials()?
        .into_iter()
        .map(|PartialFile { sha256, bytes, received, started_at, touched_at }| PartialShown {
            of: of(sha256),
            sha256,
            bytes,
            received,
            started_at: started_at.to_string(),
            touched_at: touched_at.to_string(),
            touched: touched_at,
        })
        .collect();
    let unreadable = |source| Failure::File { what: "read", path: folder.to_owned(), source };
    let quarantined: Vec<QuarantinedShown> = view
        .models()
        .quarantined()
        .map_err(unreadable)?
        .into_iter()
        .map(|file| QuarantinedShown {
            sha256: file.sha256,
            bytes: file.bytes,
            at: file.at.to_string(),
            path: file.path.display().to_string(),
            moved: file.at,
        })
        .collect();
    let (files, folders) = view.models().not_ours()?;
    let files = files.into_iter().map(|file| (file.path, Some(file.bytes)));
    let unknown = files.chain(folders.into_iter().map(|folder| (folder, None)));
    let unknown: Vec<UnknownShown> =
        unknown.map(|(path, bytes)| UnknownShown { path: path.display().to_string(), bytes }).collect();
    let (held, _) = view.models().here_and_gone()?;
    let (agent_running, as_left) = (as_left.is_none(), as_left.filter(|_| !models.is_empty()));
    Ok(Models {
        agent_running,
        kept_here: config.is_none_or(brings_files),
        total: Total {
            models: models.len() as u64,
            active: models.iter().filter(|model| model.state == ModelState::Active).count() as u64,
            files: held.len() as u64,
            bytes: held.iter().map(|file| file.bytes).sum(),
            partial_bytes: partials.iter().map(|file| file.received).sum(),
            quarantined_bytes: quarantined.iter().map(|file| file.bytes).sum(),
            unknown_bytes: unknown.iter().filter_map(|found| found.bytes).sum(),
        },
        models,
        partials,
        quarantined,
        unknown,
        next: String::new(),
        as_left,
        now,
        unlisted_ttl_ms: config.map_or(0, |config| config.timings.unlisted_model_ttl_ms),
    })
}

/// What the operator should do.
fn next(shown: &Models, in_force: bool) -> String {
    let listed = || shown.models.iter().filter(|model| model.listed);
    let run = "start the node: `resultity-node run`";
    if !in_force {
        let wait = "wait for the first snapshot, which lists the models";
        return if shown.agent_running { wait } else { run }.to_owned();
    }
    if !shown.kept_here {
        return "nothing: the operator of the runtime brings its models".to_owned();
    }
    if let Some(failed) = listed().find(|model| model.state == ModelState::Failed) {
        return format!(
            "see what hinders {}: `resultity-node logs --kind model`; the Agent tries again",
            failed.model
        );
    }
    let waits = listed().find(|model| model.is_here() && model.state != ModelState::Active);
    if let Some(waits) = waits.filter(|_| shown.agent_running) {
        return format!(
            "wait: the Agent tries {}, which is {}; `resultity-node logs --kind model` shows how far it is",
            waits.model, waits.state
        );
    }
    match (listed().any(|model| !model.is_here()), shown.agent_running) {
        (true, true) => {
            "wait: the Agent fetches what is missing; `resultity-node models install` shows how far it is"
                .to_owned()
        }
        (true, false) => format!("fetch what is missing: `resultity-node models install`, or {run}"),
        (false, false) if shown.total.partial_bytes + shown.total.quarantined_bytes > 0 => {
            "make room: `resultity-node models prune --dry-run` shows what would go".to_owned()
        }
        (false, false) => run.to_owned(),
        (false, true) => "nothing: all is well".to_owned(),
    }
}

const fn tone(state: ModelState) -> Tone {
    match state {
        ModelState::Active => Tone::Good,
        ModelState::Pending | ModelState::Inactive => Tone::Warning,
        ModelState::Failed => Tone::Bad,
        ModelState::Archived => Tone::Faint,
    }
}

impl Report for Models {
    fn page(&self, page: &mut Page) {
        let ago = |at: Timestamp| format!("{} ago", measure::span(self.now.since_ms(at)));
        let row = |model: &ModelShown| {
            let percent = model.bytes_here.saturating_mul(100).checked_div(model.bytes).unwrap_or(100);
            let going = if model.is_here() { String::new() } else { format!(" ({percent}%)") };
            vec![
                model.model.to_string(),
                model.state.to_string(),
                model.since_at.map_or_else(|| "not yet looked at".to_owned(), ago),
                measure::bytes(model.bytes),
                format!("{} of {}{going}", model.files_here, model.files.len()),
            ]
        };
        let rows: Vec<Vec<String>> = self.models.iter().map(row).collect();
        if rows.is_empty() {
            page.line("There are no models.");
        } else {
            page.table(&["model", "state", "since", "size", "files here"], &rows);
        }
        if let Some(text) = &self.as_left {
            page.toned(Tone::Faint, text);
        }
        for model in &self.models {
            if let Some(reason) = &model.reason {
                page.parts(&[(tone(model.state), &model.model), (Tone::Plain, &": "), (Tone::Plain, reason)]);
            }
            if let (false, Some(since)) = (model.listed, model.since_at) {
                let goes = since.plus_ms(self.unlisted_ttl_ms);
                let text = if model.state == ModelState::Archived && goes > self.now {
                    format!(
                        "{}: not listed any more; the Agent removes it in {}",
                        model.model,
                        measure::span(goes.since_ms(self.now))
                    )
                } else {
                    format!("{}: not listed any more", model.model)
                };
                page.toned(Tone::Faint, text);
            }
        }
        if !self.partials.is_empty() {
            page.heading("Unfinished downloads");
            let row = |file: &PartialShown| {
                let what = if file.of.is_empty() { file.sha256.to_string() } else { file.of.join(", ") };
                let received = format!("{} of {}", measure::bytes(file.received), measure::bytes(file.bytes));
                vec![what, received, ago(file.touched)]
            };
            let rows: Vec<Vec<String>> = self.partials.iter().map(row).collect();
            page.table(&["file", "received", "last touched"], &rows);
        }
        if !self.quarantined.is_empty() {
            page.heading("In quarantine: moved aside because they were not what they should be");
            let row = |file: &QuarantinedShown| {
                vec![file.path.clone(), measure::bytes(file.bytes), ago(file.moved)]
            };
            let rows: Vec<Vec<String>> = self.quarantined.iter().map(row).collect();
            page.table(&["file", "size", "moved"], &rows);
        }
        if !self.unknown.is_empty() {
            page.heading("Not the node's: `models prune` removes the files, and leaves the folders");
            let row = |found: &UnknownShown| {
                vec![found.path.clone(), found.bytes.map_or_else(|| "a folder".to_owned(), measure::bytes)]
            };
            let rows: Vec<Vec<String>> = self.unknown.iter().map(row).collect();
            page.table(&["what", "size"], &rows);
        }
        page.heading("Together");
        let total = &self.total;
        page.row("models", format!("{}, {} active", total.models, total.active));
        if self.kept_here {
            page.row("files", format!("{}, {}", count(total.files, "file"), measure::bytes(total.bytes)));
        }
        if total.partial_bytes > 0 {
            page.row("unfinished", measure::bytes(total.partial_bytes));
        }
        if total.quarantined_bytes > 0 {
            page.row("quarantine", measure::bytes(total.quarantined_bytes));
        }
        if total.unknown_bytes > 0 {
            page.row("not the node's", measure::bytes(total.unknown_bytes));
        }
        page.toned_row("next", Tone::Strong, &self.next);
    }
}
