//! `update`: the releases of the Agent that the network approves, and a file that is one of them put in place.
//!
//! Nothing is fetched here, and nothing is started: a file is compared with the digest that the network signed.

use std::{
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use clap::Subcommand;
use node_agent::{
    artifacts::TARGET,
    update::{self, Advice},
};
use node_types::{
    Digest,
    config::{ApprovedAgent, Updates},
    verify::Validity,
};
use rustix::thread::{Gid, Uid, set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use serde::Serialize;

use super::Verdict;
use crate::{
    context::{self, Context},
    failure::Failure,
    files,
    out::Report,
    page::{Page, Tone},
};

/// The longest program that is taken from the standard input, 1 GiB.
const PROGRAM_BYTES_MAX: usize = 1 << 30;

/// What is done with releases.
#[derive(Debug, Subcommand)]
pub(crate) enum Update {
    /// Show which releases the snapshot in force approves, and whether this one is
    #[command(
        after_help = "Examples:\n  resultity-node update check\n  resultity-node update check --json | jq -r .advice"
    )]
    Check,
    /// Compare a file with the releases that are approved; 1 where it is none of them
    #[command(after_help = "Examples:\n  resultity-node update verify ./resultity-node\n  \
                            dpkg-deb --fsys-tarfile ./resultity-node_*.deb | tar -xO ./usr/bin/resultity-node | resultity-node update verify -")]
    Verify {
        /// The program's file, or - for the standard input; it is read, not started
        #[arg(value_hint = clap::ValueHint::FilePath)]
        file: PathBuf,
    },
    /// Put a file that is an approved release in the place of the program, and keep the old one beside it
    #[command(
        after_help = "Examples:\n  resultity-node update apply ./resultity-node && systemctl restart resultity-node\n  \
                            resultity-node update apply ./resultity-node --to /usr/local/bin/resultity-node"
    )]
    Apply {
        /// The new program's file
        #[arg(value_hint = clap::ValueHint::FilePath)]
        file: PathBuf,
        /// The file to put it in the place of, else this program's own
        #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
        to: Option<PathBuf>,
    },
    /// Put the program back that `apply` kept
    #[command(after_help = "Examples:\n  resultity-node update undo && systemctl restart resultity-node")]
    Undo {
        /// The file to put it in the place of, else this program's own
        #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
        to: Option<PathBuf>,
    },
}

impl Update {
    /// # Errors
    /// [`Failure`].
    pub(crate) fn run(&self, context: &Context) -> Result<Verdict, Failure> {
        match self {
            Self::Check => check(context),
            Self::Verify { file } => verify(context, file),
            Self::Apply { file, to } => apply(context, file, to.as_deref()),
            Self::Undo { to } => undo(context, to.as_deref()),
        }
    }
}

#[derive(Serialize)]
struct Release {
    version: String,
    platform: Option<String>,
    digest: Digest,
}

impl Release {
    fn of(approved: &ApprovedAgent) -> Self {
        let ApprovedAgent { version, platform, digest } = approved;
        Self { version: version.clone(), platform: platform.clone(), digest: *digest }
    }
}

#[derive(Serialize)]
struct Checked {
    /// This program.
    version: &'static str,
    platform: &'static str,
    digest: Digest,
    /// `silent`, `current`, `newer` or `withdrawn`.
    advice: &'static str,
    /// Whether this program is one of them; nothing where the network approves none.
    is_approved: Option<bool>,
    /// Those that are approved for this platform, the newest first.
    approved: Vec<Release>,
    next: Option<String>,
}

impl Report for Checked {
    fn page(&self, page: &mut Page) {
        page.row("this one", format!("{} for {}", self.version, self.platform));
        page.row("", self.digest);
        let (tone, said) = match (self.advice, self.is_approved) {
            ("silent", _) => (Tone::Plain, "the network approves no release for this platform: any will do"),
            ("current", _) => (Tone::Good, "approved, and the newest that is"),
            ("newer", Some(true)) => (Tone::Warning, "approved, and not the newest that is"),
            ("newer", _) => (Tone::Bad, "not approved, and older than the newest that is"),
            _ => (Tone::Bad, "not approved"),
        };
        page.toned_row("it is", tone, said);
        for release in &self.approved {
            page.row("approved", format!("{} {}", release.version, release.digest));
        }
        if let Some(next) = &self.next {
            page.row("next", next);
        }
    }
}

fn check(context: &Context) -> Result<Verdict, Failure> {
    let (updates, own) = (updates(context)?, files::digest(&own_program()?)?);
    let version = node_agent::VERSION;
    let advice = update::advise(&updates, version, TARGET, Some(own));
    let (named, is_approved, next) = match &advice {
        Advice::Silent => ("silent", None, None),
        Advice::Current => ("current", Some(true), None),
        Advice::Newer { release, approved } => ("newer", Some(*approved), Some(release)),
        Advice::Withdrawn { release } => ("withdrawn", Some(false), Some(release)),
    };
    let next = next.map(|release| {
        format!(
            "get release {} where you got this one, then `resultity-node update apply <FILE>`",
            release.version
        )
    });
    let approved = update::approved(&updates, TARGET).into_iter().map(Release::of).collect();
    let checked =
        Checked { version, platform: TARGET, digest: own, advice: named, is_approved, approved, next };
    context.out.show(&checked)?;
    Ok(Verdict::Done)
}

#[derive(Serialize)]
struct Judged<'a> {
    file: &'a Path,
    digest: Digest,
    approved: bool,
    version: Option<&'a str>,
    reason: Option<String>,
}

impl Report for Judged<'_> {
    fn page(&self, page: &mut Page) {
        page.row("file", self.file.display());
        page.row("", self.digest);
        match (self.version, &self.reason) {
            (Some(version), _) => page.toned_row("it is", Tone::Good, format!("release {version}, approved")),
            (None, Some(reason)) => page.toned_row("refused", Tone::Bad, reason),
            (None, None) => {}
        }
    }
}

fn verify(context: &Context, file: &Path) -> Result<Verdict, Failure> {
    let updates = updates(context)?;
    let digest = if file == Path::new("-") {
        Digest::of(&files::read(file, PROGRAM_BYTES_MAX)?)
    } else {
        files::digest(file)?
    };
    let known = update::recognise(&updates, TARGET, &digest);
    let version = known.as_ref().ok().map(|release| release.version.as_str());
    let reason = known.as_ref().err().map(ToString::to_string);
    let approved = reason.is_none();
    context.out.show(&Judged { file, digest, approved, version, reason })?;
    Ok(if approved { Verdict::Done } else { Verdict::Refused })
}

#[derive(Serialize)]
struct Placed {
    program: PathBuf,
    /// The one before, where there is one.
    kept: Option<PathBuf>,
    version: Option<String>,
    next: String,
}

impl Report for Placed {
    fn page(&self, page: &mut Page) {
        let what =
            self.version.as_ref().map_or_else(|| "the one before".to_owned(), |it| format!("release {it}"));
        page.toned_row("in place", Tone::Good, format!("{what} is {}", self.program.display()));
        if let Some(kept) = &self.kept {
            page.row("kept", kept.display());
        }
        page.row("next", &self.next);
    }
}

fn apply(context: &Context, file: &Path, to: Option<&Path>) -> Result<Verdict, Failure> {
    let updates = updates(context)?;
    let refused = |reason| Failure::NotApproved { file: file.to_owned(), reason };
    let digest = files::digest(file)?;
    let version = update::recognise(&updates, TARGET, &digest).map_err(refused)?.version.clone();
    let program = place(to)?;
    let kept = files::put_in_place(file, &program, &digest)?;
    show_placed(context, program, kept, Some(version))
}

fn undo(context: &Context, to: Option<&Path>) -> Result<Verdict, Failure> {
    let program = place(to)?;
    let kept = files::put_back(&program)?;
    show_placed(context, program, Some(kept), None)
}

fn show_placed(
    context: &Context,
    program: PathBuf,
    kept: Option<PathBuf>,
    version: Option<String>,
) -> Result<Verdict, Failure> {
    let next = match as_owner(context, Context::holder)? {
        Some(pid) => format!(
            "start the Agent anew, it is process {pid}: `systemctl restart resultity-node`, or as you started it"
        ),
        None => "start the Agent: `systemctl start resultity-node`, or as you do".to_owned(),
    };
    context.out.show(&Placed { program, kept, version, next })?;
    Ok(Verdict::Done)
}

/// What the snapshot in force approves.
fn updates(context: &Context) -> Result<Updates, Failure> {
    let (updates, validity) = as_owner(context, |context| {
        let view = context.view().map_err(Failure::before_its_first_start)?;
        let snapshots = view.snapshots()?;
        let current = snapshots.current().ok_or(Failure::NoSnapshot("applied"))?;
        Ok((current.config.document().updates.clone(), snapshots.validity(context::now(&view)?)))
    })?;
    // The way out of it may be a newer program: it is said, and not refused.
    if validity == Some(Validity::OutOfForce) {
        context.out.hint(
            "the snapshot is out of force: the network may have withdrawn by now what it approves; see that the node reaches it",
        );
    }
    Ok(updates)
}

/// Looks at the volume as the user that it belongs to, where root asks: only root can place its own program, and a database that
/// root opened would have files of root's beside it. One thread becomes that user, and ends.
fn as_owner<T: Send>(
    context: &Context,
    look: impl FnOnce(&Context) -> Result<T, Failure> + Send,
) -> Result<T, Failure> {
    let owner = std::fs::symlink_metadata(context.folder()).ok().map(|about| (about.uid(), about.gid()));
    let Some((uid, gid)) = owner.filter(|(uid, _)| *uid != 0 && rustix::process::geteuid().is_root()) else {
        return look(context);
    };
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    let looking = || {
        set_thread_groups(&[])
            .and_then(|()| set_thread_res_gid(gid, gid, gid))
            .and_then(|()| set_thread_res_uid(uid, uid, uid))
            .map_err(|error| Failure::Start(error.into()))?;
        look(context)
    };
    match std::thread::scope(|scope| scope.spawn(looking).join()) {
        Ok(looked) => looked,
        Err(panicked) => std::panic::resume_unwind(panicked),
    }
}

/// The file whose place is meant, which may be empty: the one behind a link, so that the link stays.
fn place(to: Option<&Path>) -> Result<PathBuf, Failure> {
    let program = match to {
        Some(path) => files::resolved(path)?,
        None => own_program()?,
    };
    match files::package_of(&program) {
        Some(package) => Err(Failure::Packaged { program, package }),
        None => Ok(program),
    }
}

fn own_program() -> Result<PathBuf, Failure> {
    std::env::current_exe().map_err(Failure::Start)
}
