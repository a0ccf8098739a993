//! `move`: hands the node to another machine, so that the old copy stops itself.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use node_store::backup;
use serde::Serialize;

use super::{
    Verdict,
    backup::{BackupShown, RestoredShown, from_archive, sealing, shut},
};
use crate::{
    cli,
    context::{Context, reading},
    failure::Failure,
    out::Report,
    page::{Page, Tone},
    passphrase,
    settings::Layer,
};

/// Handing the node over.
#[derive(Debug, Subcommand)]
pub(crate) enum Move {
    /// Put the node with its keys into a file, and shut it here
    Out(Out),
    /// Make the node of such a file go on here
    In(In),
    /// Make a node that was moved out go on where it was: only if its file was never used
    Undo(Undo),
}

/// Put the node with its keys into a file, and shut it here: no Agent starts on the old volume any more.
///
/// No Agent may be running. Everything but the models goes along: jobs, message numbers, configuration, logs. If it is broken
/// off, the same command goes on.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  resultity-node move out node.move
  resultity-node move out /mnt/stick/node.move --passphrase-file new.txt")]
pub(crate) struct Out {
    /// The file to write, readable by its owner alone
    #[arg(value_hint = clap::ValueHint::FilePath)]
    file: PathBuf,
    /// The file with the passphrase that the keys in it are sealed under; without it the terminal is asked twice
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    passphrase_file: Option<PathBuf>,
    #[command(flatten)]
    keys: cli::Keys,
}

/// Make the node in a file of `move out` go on here. There must be no node yet.
///
/// Use such a file once: two of one node must not run, and the network refuses the one that comes later.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  resultity-node move in node.move
  resultity-node move in node.move --passphrase-file its.txt")]
pub(crate) struct In {
    /// The file
    #[arg(value_hint = clap::ValueHint::FilePath)]
    file: PathBuf,
    /// The file with its passphrase; without it the terminal is asked
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    passphrase_file: Option<PathBuf>,
    #[command(flatten)]
    keys: cli::Keys,
}

/// Make a node that was moved out go on where it was.
///
/// This is dangerous: if the file of `move out` was used, or ever will be, two of one node exist. Delete the file first.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  resultity-node move undo --file-was-not-used")]
pub(crate) struct Undo {
    /// Say that the file of `move out` was not used and never will be
    #[arg(long, required = true)]
    file_was_not_used: bool,
}

#[derive(Serialize)]
struct Moved {
    #[serde(flatten)]
    backup: BackupShown,
    /// The volume was shut by an earlier call.
    begun_before: bool,
    next: String,
}

impl Report for Moved {
    fn page(&self, page: &mut Page) {
        page.toned(Tone::Strong, "The node is moved out: it does not start here any more.");
        self.backup.rows(page);
        if self.begun_before {
            page.row("passphrase", "the one that was given when this move was begun");
        }
        page.row("next", &self.next);
    }
}

#[derive(Serialize)]
struct Undone {
    folder: PathBuf,
    moved_at: String,
    file: String,
    next: String,
}

impl Report for Undone {
    fn page(&self, page: &mut Page) {
        page.toned(Tone::Warning, "The node goes on where it was.");
        page.row("folder", self.folder.display());
        page.row("was moved", format!("{} into {}", self.moved_at, self.file));
        page.row("next", &self.next);
    }
}

impl Move {
    /// What its flags set.
    pub(crate) fn layer(&self, layer: &mut Layer) {
        match self {
            Self::Out(Out { keys, .. }) | Self::In(In { keys, .. }) => keys.layer(layer),
            Self::Undo(_) => {}
        }
    }

    /// # Errors
    /// [`Failure`].
    pub(crate) fn run(&self, context: &Context) -> Result<Verdict, Failure> {
        match self {
            Self::Out(out) => out.run(context),
            Self::In(moved) => moved.run(context),
            Self::Undo(undo) => undo.run(context),
        }
    }
}

impl Out {
    fn run(&self, context: &Context) -> Result<Verdict, Failure> {
        let view = context.view()?;
        context.refuse_held()?;
        let options = context.options_to_open();
        // Broken off once: the keys in the file are sealed already, so nothing is asked.
        let begun = view.jobs().retired()?.is_some();
        let manifest = if begun {
            backup::finish_move(&options, &self.file)?
        } else {
            let phrase =
                passphrase::new(self.passphrase_file.as_deref(), "passphrase for the keys in the file")?;
            let kek = sealing(context, phrase)?;
            backup::move_out(&options, &self.file, &kek, node_agent::VERSION, &reading()?)?
        };
        let next = "carry the file to the other machine and there: `resultity-node move in <FILE>`; then delete it, and this \
                    folder when the node runs there";
        let backup = BackupShown::of(self.file.clone(), &manifest);
        context.out.show(&Moved { backup, begun_before: begun, next: next.to_owned() })?;
        Ok(Verdict::Done)
    }
}

impl In {
    fn run(&self, context: &Context) -> Result<Verdict, Failure> {
        let source = from_archive(context, &self.file, self.passphrase_file.as_deref())?;
        let restored = backup::move_in(&context.options(), &self.file, &source)
            .map_err(|error| shut(&self.file, error))?;
        let next = "start it: `resultity-node run`; delete the file, it must not be used again";
        context.out.show(&RestoredShown::of(context, self.file.clone(), &restored, false, next)?)?;
        Ok(Verdict::Done)
    }
}

impl Undo {
    fn run(&self, context: &Context) -> Result<Verdict, Failure> {
        context.view()?;
        context.refuse_held()?;
        let backup::Undone { retired, left } = backup::undo_move(&context.options_to_open())?;
        let also = left.map_or_else(String::new, |left| format!(", {},", left.display()));
        let start = context.typed.complete("start the node: `resultity-node run`");
        let next = format!("delete {}{also} and every copy of it, then {start}", retired.archive);
        let (folder, moved_at) = (context.folder(), retired.at.to_string());
        context.out.show(&Undone { folder, moved_at, file: retired.archive, next })?;
        Ok(Verdict::Done)
    }
}
