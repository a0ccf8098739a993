//! `models remove`: takes away a model that the snapshot lists no longer, before its time.

use std::sync::Arc;

use clap::Args;
use node_agent::{models, time};
use node_store::view::View;
use serde::Serialize;

use super::{Verdict, confirm, find, in_force, refuse_held};
use crate::{
    cli::Keys,
    context::{Context, reading},
    failure::Failure,
    measure::{self, count},
    out::Report,
    page::Page,
};

/// Remove a model that the snapshot lists no longer, and those of its files that no other model needs.
///
/// The Agent does this by itself some time after the network stopped listing the model. At a terminal it asks first, with
/// --force too; where there is none, it removes nothing without --yes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  resultity-node models remove gemma-3-270m@0.9.0
  resultity-node models remove gemma-3-270m --yes --json")]
pub(crate) struct Remove {
    /// The model, as NAME@VERSION or by a name that only one has
    model: String,
    /// Also one that the snapshot lists; the Agent fetches it again when it runs
    #[arg(long)]
    force: bool,
    /// Ask nobody, and do it: needed where there is no terminal
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    pub(crate) keys: Keys,
}

#[derive(Serialize)]
struct Removed {
    model: String,
    /// Files that went; those that another model needs stay.
    files: u64,
    bytes: u64,
    next: Option<&'static str>,
}

impl Report for Removed {
    fn page(&self, page: &mut Page) {
        let (files, bytes) = (count(self.files, "file"), measure::bytes(self.bytes));
        page.line(format!("{} is removed: {files}, {bytes} came back.", self.model));
        if let Some(next) = self.next {
            page.row("next", next);
        }
    }
}

impl Remove {
    pub(super) fn run(&self, context: &Context) -> Result<Verdict, Failure> {
        let view = context.view()?;
        let config = in_force(&view)?;
        let rows = view.models().models()?;
        let reference = find(&self.model, rows.iter().map(|row| &row.reference))?.clone();
        let listed = config.as_ref().is_some_and(|config| config.model(&reference).is_some());
        if listed && !self.force {
            return Err(Failure::Listed(reference));
        }
        refuse_held(context, config.as_ref())?;
        if !self.yes {
            confirm(&format!("Remove {reference} and its files?"))?;
        }
        let store = Arc::new(context.store(&reading()?)?);
        let before = here(&view)?;
        // As it is now: nobody else writes any more.
        let rows = store.models().view().models()?;
        let row = rows.iter().find(|row| row.reference == reference);
        let row = row.ok_or_else(|| Failure::NoSuchModel(self.model.clone()))?;
        let thread = tokio::runtime::Builder::new_current_thread().build().map_err(Failure::Start)?;
        thread.block_on(models::remove(&store, row, time::now(&store)?))?;
        let after = here(&view)?;
        context.out.show(&Removed {
            model: reference.to_string(),
            files: before.0.saturating_sub(after.0),
            bytes: before.1.saturating_sub(after.1),
            next: listed.then_some("the snapshot lists it: the Agent fetches it again when it runs"),
        })?;
        Ok(Verdict::Done)
    }
}

/// How many files are here, and how many bytes they have.
fn here(view: &View) -> Result<(u64, u64), Failure> {
    let files = view.models().files()?;
    Ok((files.len() as u64, files.iter().map(|file| file.bytes).sum()))
}
