//! `models`: the models that the node keeps. What is fetched and from where is the snapshot's to say.

mod install;
mod list;
mod prune;
mod remove;

use std::collections::{BTreeMap, BTreeSet};

use clap::Subcommand;
use node_agent::standing::as_it_is;
use node_store::{models::ModelRow, view::View};
use node_types::{
    Digest, Timestamp,
    config::{NodeConfig, Timings, UNLISTED_MODEL_TTL_MS},
    job::ModelRef,
    models::ModelState,
};
use serde::Serialize;

use super::Verdict;
use crate::{ask, context::Context, failure::Failure, measure, settings::Layer};

/// What is done with models.
#[derive(Debug, Subcommand)]
pub(crate) enum Models {
    /// List the models, how much of each is here, and what else takes room
    #[command(
        after_help = "Examples:\n  resultity-node models list\n  resultity-node models list --json | jq \
                            '.models[] | select(.state != \"active\")'"
    )]
    List,
    /// Fetch and verify the models that the snapshot lists, or those of them that are named
    Install(install::Install),
    /// Remove a model that the snapshot lists no longer
    Remove(remove::Remove),
    /// Remove unfinished downloads, quarantined files, and files that nothing knows
    Prune(prune::Prune),
}

impl Models {
    /// What its flags set.
    pub(crate) fn layer(&self, layer: &mut Layer) {
        match self {
            Self::List => {}
            Self::Install(install) => install.layer(layer),
            Self::Remove(remove) => remove.keys.layer(layer),
            Self::Prune(prune) => prune.keys.layer(layer),
        }
    }

    /// # Errors
    /// [`Failure`].
    pub(crate) fn run(&self, context: &Context) -> Result<Verdict, Failure> {
        match self {
            Self::List => list::run(context),
            Self::Install(install) => install.run(context),
            Self::Remove(remove) => remove.run(context),
            Self::Prune(prune) => prune.run(context),
        }
    }
}

/// The snapshot in force, if there is one.
fn in_force(view: &View) -> Result<Option<NodeConfig>, Failure> {
    let snapshots = view.snapshots()?;
    Ok(snapshots.current().map(|current| current.config.document().clone()))
}

/// A model, for showing.
#[derive(Serialize)]
pub(super) struct ModelShown {
    #[serde(serialize_with = "in_words")]
    pub(super) model: ModelRef,
    /// The snapshot in force lists it.
    pub(super) listed: bool,
    pub(super) state: ModelState,
    /// Nothing while the Agent has not looked at it.
    since: Option<String>,
    pub(super) reason: Option<String>,
    bytes: u64,
    bytes_here: u64,
    files_here: u64,
    files: Vec<FileShown>,
    #[serde(skip)]
    since_at: Option<Timestamp>,
}

/// A file of a model, for showing.
#[derive(Serialize)]
struct FileShown {
    path: String,
    sha256: Digest,
    bytes: u64,
    /// Of a file that is being fetched, what is here.
    bytes_here: u64,
    /// It is all here.
    here: bool,
    /// It was sealed when it was verified last.
    sealed: bool,
    verified_at: Option<String>,
}

fn in_words<S: serde::Serializer>(model: &ModelRef, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(model)
}

/// The models that the snapshot lists, then those that are here and not listed.
///
/// # Errors
/// [`Failure::Read`].
pub(super) fn look(view: &View, config: Option<&NodeConfig>) -> Result<Vec<ModelShown>, Failure> {
    let models = view.models();
    let (held, gone) = models.here_and_gone()?;
    let here = Here {
        held: held.into_iter().map(|file| (file.sha256, file)).collect(),
        gone,
        partials: models.partials()?.into_iter().map(|file| (file.sha256, file.received)).collect(),
    };
    let mut rows: BTreeMap<ModelRef, ModelRow> =
        models.models()?.into_iter().map(|row| (row.reference.clone(), row)).collect();
    let mut shown = Vec::new();
    for model in config.into_iter().flat_map(|config| &config.models) {
        let files = model.files.iter().map(|file| here.file(&file.path, file.sha256, file.bytes)).collect();
        shown.push(ModelShown::of(
            model.reference(),
            true,
            rows.remove(&model.reference()),
            files,
            &here.gone,
        ));
    }
    for (reference, row) in rows {
        let files = row.files.iter().map(|(path, sha256, bytes)| here.file(path, *sha256, *bytes)).collect();
        shown.push(ModelShown::of(reference, false, Some(row), files, &here.gone));
    }
    Ok(shown)
}

/// What is on the disk.
struct Here {
    held: BTreeMap<Digest, node_store::models::HeldFile>,
    /// Files that were here.
    gone: BTreeSet<Digest>,
    partials: BTreeMap<Digest, u64>,
}

impl Here {
    fn file(&self, path: &str, sha256: Digest, bytes: u64) -> FileShown {
        let held = self.held.get(&sha256);
        let partial = self.partials.get(&sha256).copied().unwrap_or(0);
        FileShown {
            path: path.to_owned(),
            sha256,
            bytes,
            bytes_here: held.map_or(partial, |held| held.bytes),
            here: held.is_some(),
            sealed: held.is_some_and(|held| held.sealed),
            verified_at: held.map(|held| held.verified_at.to_string()),
        }
    }
}

impl ModelShown {
    fn of(
        model: ModelRef,
        listed: bool,
        row: Option<ModelRow>,
        files: Vec<FileShown>,
        gone: &BTreeSet<Digest>,
    ) -> Self {
        let (state, since_at, reason) = row.map_or((ModelState::Pending, None, None), |row| {
            let gone = files.iter().any(|file| gone.contains(&file.sha256));
            let (state, reason) = as_it_is(row.state, row.reason, gone);
            (state, Some(row.since), reason)
        });
        Self {
            model,
            listed,
            state,
            since: since_at.map(|at| at.to_string()),
            reason,
            bytes: files.iter().map(|file| file.bytes).sum(),
            bytes_here: files.iter().map(|file| file.bytes_here).sum(),
            files_here: files.iter().filter(|file| file.here).count() as u64,
            files,
            since_at,
        }
    }

    /// Whether every file of it is here.
    pub(super) fn is_here(&self) -> bool {
        self.files.iter().all(|file| file.here)
    }
}

/// The model that is meant by `<name>@<version>`, or by a name that only one has.
fn find<'a>(asked: &str, known: impl Iterator<Item = &'a ModelRef>) -> Result<&'a ModelRef, Failure> {
    let named: Vec<&ModelRef> =
        known.filter(|model| model.name == asked || model.to_string() == asked).collect();
    match named.as_slice() {
        [] => Err(Failure::NoSuchModel(asked.to_owned())),
        [one] => Ok(one),
        [.., _] => {
            let versions: Vec<String> = named.iter().map(ToString::to_string).collect();
            Err(Failure::Usage(format!("{asked} has several versions: write one of {}", versions.join(", "))))
        }
    }
}

/// Refuses where an Agent has the volume: it looks after its models itself.
fn refuse_held(context: &Context, config: Option<&NodeConfig>) -> Result<(), Failure> {
    let Some(pid) = context.holder()? else { return Ok(()) };
    let timings = config.map(|config| &config.timings);
    let ttl = timings.map_or(UNLISTED_MODEL_TTL_MS, |timings: &Timings| timings.unlisted_model_ttl_ms);
    Err(Failure::HeldModels { pid, folder: context.folder(), ttl: measure::span(ttl) })
}

/// Asks whether to go on.
///
/// # Errors
/// [`Failure::NobodyAgrees`] where nobody sits at a terminal, [`Failure::NotConfirmed`] where the answer is no.
fn confirm(question: &str) -> Result<(), Failure> {
    if !ask::somebody_is_there() {
        return Err(Failure::NobodyAgrees);
    }
    if ask::yes(question, false)? { Ok(()) } else { Err(Failure::NotConfirmed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_meant_by_its_name_where_only_one_has_it() {
        let model = |name: &str, version: &str| ModelRef { name: name.into(), version: version.into() };
        let known = [model("a", "1"), model("a", "2"), model("b", "1")];
        assert_eq!(find("b", known.iter()).unwrap(), &known[2]);
        assert_eq!(find("a@2", known.iter()).unwrap(), &known[1]);
        let several = find("a", known.iter()).unwrap_err();
        assert_eq!(several.code(), 2);
        assert!(several.to_string().contains("a@1, a@2"), "{several}");
        assert_eq!(find("c", known.iter()).unwrap_err().code(), 5);
    }
}
