//! `demo`: the tour of a node at work.

use std::path::PathBuf;

use clap::Args;

use super::Verdict;
use crate::{
    demo::{self, Told},
    failure::Failure,
    out::{Out, Report},
    page::{Page, Tone},
};

/// See a node at work: a small network, a node and a real model on this machine, in a folder of their own.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  make demo\n  resultity-node demo --runtimes .tools/runtime --models .tools/models\n  \
                        resultity-node demo --runtimes .tools/runtime --models .tools/models --keep --folder tour"
)]
pub(crate) struct Demo {
    /// The folder with the runtimes, as scripts/runtime makes it
    #[arg(long, value_name = "FOLDER", value_hint = clap::ValueHint::DirPath)]
    runtimes: PathBuf,
    /// The folder with the files of models, each under its SHA-256
    #[arg(long, value_name = "FOLDER", value_hint = clap::ValueHint::DirPath)]
    models: PathBuf,
    /// The folder in which scripts/image put the runtime's image; without it that step is left out
    #[arg(long, value_name = "FOLDER", value_hint = clap::ValueHint::DirPath)]
    images: Option<PathBuf>,
    /// The folder to work in, else a temporary one; nothing may be in it
    #[arg(long, value_name = "FOLDER", value_hint = clap::ValueHint::DirPath)]
    folder: Option<PathBuf>,
    /// Leave everything running, and say where to look
    #[arg(long)]
    keep: bool,
}

impl Report for Told {
    fn page(&self, page: &mut Page) {
        if self.held {
            page.line("");
            page.toned(Tone::Strong, format!("All of it held, in {:.0} s.", self.seconds));
        } else {
            page.line("");
            page.toned(Tone::Bad, "Not all of it held: see the lines that begin with NOT.");
        }
    }
}

impl Demo {
    /// # Errors
    /// [`Failure`]; [`Failure::Demo`] where the tour cannot go on.
    pub(crate) fn run(&self, out: Out) -> Result<Verdict, Failure> {
        let absolute = |path: &PathBuf| std::path::absolute(path).map_err(Failure::Start);
        let (runtimes, models) = (absolute(&self.runtimes)?, absolute(&self.models)?);
        let temporary = std::env::temp_dir().join(format!("resultity-demo-{}", std::process::id()));
        let folder = absolute(self.folder.as_ref().unwrap_or(&temporary))?;
        let images = self.images.as_ref().map(absolute).transpose()?;
        if std::fs::read_dir(&folder).is_ok_and(|mut inside| inside.next().is_some()) {
            let text =
                format!("{} is not empty: give --folder an empty folder, or a new one", folder.display());
            return Err(Failure::Usage(text));
        }
        let told = demo::play(out, &folder, &runtimes, &models, images.as_deref(), self.keep);
        if self.folder.is_none() && !self.keep && told.as_ref().is_ok_and(|told| told.held) {
            // It is a temporary folder of this process's own; the system clears it otherwise.
            let _ = std::fs::remove_dir_all(&folder);
        }
        let told = told?;
        out.show(&told)?;
        Ok(if told.held { Verdict::Done } else { Verdict::Refused })
    }
}
