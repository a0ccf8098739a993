//! `doctor`: every check of the node that an expert would make, and the mending of what is safe to mend.

use std::path::PathBuf;

use clap::Args;
use node_agent::doctor::{
    self, Asked, Finding,
    Verdict::{self as Found, Error, Note, Ok as Well, Warning},
    mend::{self, Outcome},
};
use serde::Serialize;

use super::{Verdict, status};
use crate::{
    ask,
    cli::Keys,
    context::{Context, reading},
    failure::Failure,
    measure::{self, count},
    out::{Out, Report},
    page::{Page, Tone},
    settings::Layer,
    typed::Typed,
};

/// Columns of a check's name.
const NAME_WIDTH: usize = 12;

/// Check the node as an expert would: each check says what was found and what to do.
///
/// It works beside a running Agent, and on a volume that does not open; it changes nothing without --fix. It asks nobody
/// for a passphrase, and every question to the outside ends after 5 seconds. It ends with 7 where something is wrong.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  resultity-node doctor
  resultity-node doctor --deep
  resultity-node doctor --fix
  resultity-node doctor --json | jq '.findings[] | select(.verdict == \"error\")'")]
pub(crate) struct Doctor {
    /// Mend what is safe to mend: shows it first, then asks; --undo takes it back
    #[arg(long)]
    fix: bool,
    /// Do not ask
    #[arg(long, requires = "fix")]
    yes: bool,
    /// Take back what the last --fix did
    #[arg(long, conflicts_with_all = ["fix", "deep"])]
    undo: bool,
    /// Delete the files that --fix moved aside: nothing can be taken back then
    #[arg(long, conflicts_with_all = ["fix", "deep", "undo"])]
    forget: bool,
    /// Read all of every database and of every model, however long it takes
    #[arg(long)]
    deep: bool,
    /// The network's base URL
    #[arg(long, value_name = "URL")]
    network_url: Option<String>,
    /// An external runtime's base URL, without /v1
    #[arg(long, value_name = "URL")]
    runtime_url: Option<String>,
    /// The folder with the runtimes that the node starts itself
    #[arg(long, value_name = "FOLDER", value_hint = clap::ValueHint::DirPath)]
    runtime_folder: Option<PathBuf>,
    /// The socket of the container engine, else /var/run/docker.sock
    #[arg(long, value_name = "SOCKET", value_hint = clap::ValueHint::FilePath)]
    runtime_socket: Option<PathBuf>,
    #[command(flatten)]
    keys: Keys,
}

#[derive(Serialize)]
struct Shown {
    /// The worst of all: `ok`, `note`, `warning` or `error`.
    verdict: Found,
    folder: Option<PathBuf>,
    findings: Vec<FindingShown>,
    /// What `--fix` did, or would do.
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<Vec<StepShown>>,
    next: String,
}

#[derive(Serialize)]
struct FindingShown {
    name: &'static str,
    verdict: Found,
    found: String,
    cure: Option<String>,
    /// Whether `--fix` mends it.
    fixable: bool,
}

#[derive(Serialize)]
struct StepShown {
    what: String,
    done: bool,
    /// Why it was not done.
    #[serde(skip_serializing_if = "Option::is_none")]
    left: Option<String>,
}

impl FindingShown {
    fn of(finding: Finding, typed: &Typed) -> Self {
        Self {
            name: finding.name,
            verdict: finding.verdict,
            found: finding.found,
            cure: finding.cure.map(|cure| typed.complete(&cure).into_owned()),
            fixable: finding.fix.is_some(),
        }
    }
}

const fn tone(found: Found) -> Tone {
    match found {
        Well => Tone::Good,
        Note => Tone::Plain,
        Warning => Tone::Warning,
        Error => Tone::Bad,
    }
}

impl Report for Shown {
    fn page(&self, page: &mut Page) {
        for finding in &self.findings {
            let verdict = format!("{:8}", finding.verdict.name());
            let name = format!("{:NAME_WIDTH$} ", finding.name);
            page.parts(&[
                (tone(finding.verdict), &verdict),
                (Tone::Faint, &name),
                (Tone::Plain, &finding.found),
            ]);
            if let Some(cure) = &finding.cure {
                page.parts(&[(Tone::Faint, &format!("{:21}do: ", "")), (Tone::Strong, cure)]);
            }
        }
        if let Some(steps) = &self.fix {
            page.heading(if steps.iter().any(|step| step.done || step.left.is_some()) {
                "Mended:"
            } else if steps.is_empty() {
                "Nothing here can be mended by --fix."
            } else {
                "--fix would:"
            });
            for step in steps {
                let left = step.left.as_ref().map(|why| format!(" (left: {why})")).unwrap_or_default();
                page.line(format!("  {}{left}", step.what));
            }
        }
        let of = |wanted| self.findings.iter().filter(|finding| finding.verdict == wanted).count() as u64;
        page.heading(format!(
            "{}, {}, {}.",
            count(of(Error), "error"),
            count(of(Warning), "warning"),
            count(of(Note), "note")
        ));
        page.row("next", &self.next);
    }
}

/// What `--undo` and `--forget` did.
#[derive(Serialize)]
struct Undone {
    steps: Vec<StepShown>,
    next: String,
}

impl Report for Undone {
    fn page(&self, page: &mut Page) {
        for step in &self.steps {
            let said = step.left.as_ref().map_or_else(
                || format!("Taken back: {}.", step.what),
                |why| format!("Left as it is: {} ({why}).", step.what),
            );
            page.line(said);
        }
        page.row("next", &self.next);
    }
}

#[derive(Serialize)]
struct Forgotten {
    files: u64,
    bytes: u64,
}

impl Report for Forgotten {
    fn page(&self, page: &mut Page) {
        let (files, bytes) = (count(self.files, "file"), measure::bytes(self.bytes));
        page.line(format!("{files} ({bytes}) deleted; nothing can be taken back any more."));
    }
}

impl Doctor {
    /// What its flags set.
    pub(crate) fn layer(&self, layer: &mut Layer) {
        self.keys.layer(layer);
        layer.flag("network_url", self.network_url.clone());
        layer.flag("runtime.url", self.runtime_url.clone());
        layer.flag("runtime.folder", self.runtime_folder.clone());
        layer.flag("runtime.socket", self.runtime_socket.clone());
    }

    /// # Errors
    /// [`Failure`]; [`Failure::NoVolume`] where there is no node at all. Settings that cannot be used are a finding.
    pub(crate) fn run(&self, context: Result<Context, Failure>, out: Out) -> Result<Verdict, Failure> {
        let context = match context {
            Err(Failure::Settings(why)) => {
                let finding = FindingShown {
                    name: "settings",
                    verdict: Error,
                    // On one line; where it stands in the file is part of it.
                    found: Failure::from(why).story().split_whitespace().collect::<Vec<_>>().join(" "),
                    cure: Some("put it right: docs/cli.md lists all settings".to_owned()),
                    fixable: false,
                };
                let next =
                    "put the settings right, then call this again: nothing else was looked at".to_owned();
                out.show(&Shown { verdict: Error, folder: None, findings: vec![finding], fix: None, next })?;
                return Ok(Verdict::Unwell);
            }
            other => other?,
        };
        let folder = context.folder();
        if self.undo {
            return undo(&context);
        }
        if self.forget {
            let (files, bytes) = mend::forget(&folder)?;
            context.out.show(&Forgotten { files, bytes })?;
            return Ok(Verdict::Done);
        }
        // A volume that is not there at all has nothing to be looked at.
        if let Err(none @ Failure::NoVolume { .. }) = context.view() {
            // But for what a restore left that was killed.
            let folders = doctor::abandoned(&context.settings).unwrap_or_default();
            return if folders.is_empty() { Err(none) } else { without_node(&context, &folders) };
        }
        let asked = Asked { deep: self.deep };
        let mut findings = look(&context, asked)?;
        let mut fix = None;
        if self.fix {
            let now = reading()?.wall;
            let steps = mend::plan(&folder, &findings, now);
            let planned = steps.iter().map(|step| StepShown { what: step.words(), done: false, left: None });
            let planned: Vec<StepShown> = planned.collect();
            if !steps.is_empty() && (self.yes || agreed(&context, &planned)?) {
                let done = mend::apply(&folder, steps, now)?;
                fix = Some(done.into_iter().map(|outcome| step(outcome, true)).collect());
                findings = look(&context, asked)?;
            } else {
                fix = Some(planned);
            }
        }
        show(&context, findings, fix)
    }
}

/// What is said of a home without a node in which something was left.
fn without_node(context: &Context, folders: &[PathBuf]) -> Result<Verdict, Failure> {
    let findings = doctor::of_abandoned(folders).into_iter();
    let mut findings: Vec<_> = findings.map(|finding| FindingShown::of(finding, &context.typed)).collect();
    let next = "restore the backup again: `resultity-node backup restore <FILE>`";
    let cure =
        format!("{next}; or make a node: `resultity-node init`, or choose the right --home and --network");
    findings.push(FindingShown {
        name: "agent",
        verdict: Error,
        found: format!("there is no node at {}", context.folder().display()),
        cure: Some(context.typed.complete(&cure).into_owned()),
        fixable: false,
    });
    let next = context.typed.complete(next).into_owned();
    let folder = Some(context.folder());
    context.out.show(&Shown { verdict: Error, folder, findings, fix: None, next })?;
    Ok(Verdict::Unwell)
}

fn step(outcome: Outcome, done: bool) -> StepShown {
    StepShown { what: outcome.step.words(), done: done && outcome.left.is_none(), left: outcome.left }
}

/// Shows what would be done and asks, where somebody is there; else nothing is done.
fn agreed(context: &Context, planned: &[StepShown]) -> Result<bool, Failure> {
    if context.out.is_json() || !ask::somebody_is_there() {
        return Ok(false);
    }
    ask::say("This is safe to mend, and `doctor --undo` takes it back:");
    for step in planned {
        ask::say(&format!("  {}", step.what));
    }
    ask::yes("Do it?", false)
}

fn look(context: &Context, asked: Asked) -> Result<Vec<Finding>, Failure> {
    let thread =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::Start)?;
    let standing = status::of_the_agent(context)?;
    let facts = thread.block_on(doctor::gather(&context.settings, asked, standing));
    Ok(doctor::examine(&facts))
}

fn show(context: &Context, findings: Vec<Finding>, fix: Option<Vec<StepShown>>) -> Result<Verdict, Failure> {
    let verdict = findings.iter().map(|finding| finding.verdict).max().unwrap_or(Well);
    let fixable = findings.iter().any(|finding| finding.fix.is_some());
    let mended = fix.as_ref().is_some_and(|steps| steps.iter().any(|step| step.done));
    let declined = fix
        .as_ref()
        .is_some_and(|steps| !steps.is_empty() && steps.iter().all(|step| !step.done && step.left.is_none()));
    let left = fix.as_ref().is_some_and(|steps| steps.iter().any(|step| step.left.is_some())) && !mended;
    let agent = findings.iter().find(|finding| finding.name == "agent" && finding.verdict == Note);
    let stopped = agent.is_some_and(|finding| finding.starts);
    // The errors may be what a start mends.
    let start_helps = stopped && findings.iter().filter(|it| it.verdict == Error).all(|it| it.starts);
    let next = match (verdict, fixable, mended) {
        _ if declined => "nothing was done: `resultity-node doctor --fix --yes` mends it and asks nobody",
        _ if left => "nothing was done: each step says why; then `resultity-node doctor --fix` again",
        (Warning | Error, _, true) if !start_helps => {
            "do what is still said above, the errors first; `resultity-node doctor --undo` takes back what was mended"
        }
        (_, _, true) if stopped => {
            "start the node: `resultity-node run`; `resultity-node doctor --undo` takes back what was mended"
        }
        (_, _, true) => "`resultity-node doctor --undo` takes back what was mended",
        (_, true, false) => {
            "mend what is safe to mend: `resultity-node doctor --fix`; on a terminal it asks, --yes does not"
        }
        (Warning | Error, false, false) => "do what is said above, the errors first",
        (Well | Note, false, false) if stopped => "nothing is wrong; start the node: `resultity-node run`",
        (Well | Note, false, false) if agent.is_some() => {
            "nothing is wrong here; the node says of itself what is to be done"
        }
        (Well | Note, false, false) => "nothing: the node is well",
    };
    let findings = findings.into_iter().map(|finding| FindingShown::of(finding, &context.typed)).collect();
    let next = context.typed.complete(next).into_owned();
    context.out.show(&Shown { verdict, folder: Some(context.folder()), findings, fix, next })?;
    Ok(match verdict {
        Well | Note => Verdict::Done,
        Warning | Error => Verdict::Unwell,
    })
}

fn undo(context: &Context) -> Result<Verdict, Failure> {
    let steps: Vec<StepShown> =
        mend::undo(&context.folder())?.into_iter().map(|outcome| step(outcome, true)).collect();
    let all = steps.iter().all(|step| step.done);
    let next = context.typed.complete("see how it stands: `resultity-node doctor`").into_owned();
    context.out.show(&Undone { steps, next })?;
    Ok(if all { Verdict::Done } else { Verdict::Refused })
}
