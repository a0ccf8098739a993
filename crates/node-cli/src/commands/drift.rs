//! `drift`: what is here against what was installed and approved. Looking changes nothing; the Agent mends.
use clap::{
    Args, Subcommand,
    builder::{PossibleValuesParser, TypedValueParser},
};
use node_agent::{
    artifacts,
    drift::{self, FOLDER, Finding, How},
    runtime::container,
};
use node_store::{inventory::Change, view::View};
use node_types::{
    Digest, Timestamp,
    config::{PIECE_BYTES, Runtime},
    inventory::{ArtifactId, ArtifactKind, ArtifactState, Facts, Measured},
};
use serde::Serialize;

use super::Verdict;
use crate::{
    cli::at_least_one,
    context::{self, Context},
    failure::Failure,
    measure::{self, count},
    out::Report,
    page::{Page, Tone},
    progress::Meter,
    settings::Layer,
};

/// Changes that the history shows unless told: 50, the newest.
const LIMIT: usize = 50;

/// Whose word the states of a stopped node are, and what looks itself.
pub(super) fn as_left(context: &Context) -> String {
    context.typed.complete("as the Agent left them; `resultity-node drift check` looks now").into_owned()
}

/// What is asked of drift.
#[derive(Debug, Subcommand)]
pub(crate) enum Drift {
    /// Look at every artifact now; 3 where one was changed or is gone since it was installed
    Check(Check),
    /// Show every change of an artifact's state, the newest last
    History(History),
}

/// Look at every artifact now; 3 where one was changed or is gone since it was installed.
///
/// A file of a model whose seal holds is not read: it was not written since it was hashed. --deep reads it all the same. It
/// works beside a running Agent. What cannot be looked at is shown as the Agent noted it last, and is counted.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  resultity-node drift check
  resultity-node drift check --deep
  resultity-node drift check --json | jq '.artifacts[] | select(.drift)'

Exit code 3: something was changed or is gone since it was installed.
Exit code 0: nothing was found so. What was not looked at is counted, and changes no exit code.")]
pub(crate) struct Check {
    /// Read all of every file
    #[arg(long)]
    deep: bool,
    /// The folder with the runtimes that the node starts itself
    #[arg(long, value_name = "FOLDER", value_hint = clap::ValueHint::DirPath)]
    runtime_folder: Option<std::path::PathBuf>,
}

/// Show every change of an artifact's state, the newest last.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  resultity-node drift history
  resultity-node drift history --kind model_file --limit 10
  resultity-node drift history --artifact gemma-3-270m@1.0.0/model.gguf --json")]
pub(crate) struct History {
    /// Of the artifact with this name alone
    #[arg(long, value_name = "NAME")]
    artifact: Option<String>,
    /// Of this kind alone
    #[arg(long, value_parser = kinds())]
    kind: Option<ArtifactKind>,
    /// At most so many, the newest of them
    #[arg(long, value_name = "COUNT", default_value_t = LIMIT, value_parser = at_least_one)]
    limit: usize,
}

fn kinds() -> impl TypedValueParser<Value = ArtifactKind> {
    PossibleValuesParser::new(ArtifactKind::ALL.map(ArtifactKind::name))
        .try_map(|text| text.parse::<ArtifactKind>())
}

impl Drift {
    /// What its flags set.
    pub(crate) fn layer(&self, layer: &mut Layer) {
        match self {
            Self::Check(check) => layer.flag("runtime.folder", check.runtime_folder.clone()),
            Self::History(_) => {}
        }
    }

    /// # Errors
    /// [`Failure`].
    pub(crate) fn run(&self, context: &Context) -> Result<Verdict, Failure> {
        match self {
            Self::Check(check) => check.run(context),
            Self::History(history) => history.run(context),
        }
    }
}

#[derive(Serialize)]
struct Checked {
    deep: bool,
    /// Artifacts that drifted.
    drifted: u64,
    /// Artifacts that are wanted and were not here yet.
    missing: u64,
    /// Artifacts that were not looked at: their states are what the Agent noted last.
    not_looked_at: u64,
    artifacts: Vec<FindingShown>,
    next: String,
}

/// How an artifact stands, for showing.
#[derive(Serialize)]
struct FindingShown {
    kind: ArtifactKind,
    name: String,
    state: ArtifactState,
    /// It was changed or is gone since it was installed.
    drift: bool,
    #[serde(flatten)]
    values: ValuesShown,
    /// `sealed`, `read`, `asked` of the container engine, or `noted` by the Agent when it looked last.
    known: &'static str,
    /// Whether it was looked at now; where not, its state is what the Agent noted last.
    looked_at: bool,
    /// Why it was not read now.
    #[serde(skip_serializing_if = "Option::is_none")]
    because: Option<String>,
    /// The setting without which it cannot be looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    unset: Option<&'static str>,
    /// Its pieces of 64 MiB that are not what they were, from 0.
    damaged_pieces: Vec<u64>,
}

/// The three values of an artifact, for showing.
#[derive(Serialize)]
struct ValuesShown {
    expected: Option<Digest>,
    recorded: Option<Digest>,
    /// A digest, `absent`, or nothing where nobody has looked.
    measured: Option<String>,
}

impl ValuesShown {
    fn of(facts: &Facts) -> Self {
        let measured = facts.measured.map(|found| match found {
            Measured::Present(digest) => digest.to_string(),
            Measured::Absent => "absent".to_owned(),
        });
        Self { expected: facts.expected, recorded: facts.recorded, measured }
    }
}

impl FindingShown {
    fn of(finding: Finding) -> Self {
        let (drift, values) = (finding.is_drift(), ValuesShown::of(&finding.facts));
        let looked_at = finding.how.is_looked_at();
        let (known, because, unset) = match finding.how {
            How::Sealed => ("sealed", None, None),
            How::Read => ("read", None, None),
            How::Asked => ("asked", None, None),
            How::Unread(why) | How::Noted(why) => ("noted", Some(why), None),
            How::Unset => {
                let why = format!("{FOLDER} is not set here: set it in node.toml, or give --runtime-folder");
                ("noted", Some(why), Some(FOLDER))
            }
        };
        let ArtifactId { kind, name } = finding.id;
        Self {
            kind,
            name,
            state: finding.state,
            drift,
            values,
            known,
            looked_at,
            because,
            unset,
            damaged_pieces: finding.damaged,
        }
    }

    /// Whether something is to be done: it drifted, or was not here yet. What no setting leads to is to be looked at first.
    fn wants(&self) -> bool {
        self.unset.is_none() && (self.drift || self.state == ArtifactState::Missing)
    }

    /// How that is known, in words.
    fn how(&self) -> String {
        let why = self.because.as_deref().unwrap_or_default();
        match self.known {
            "sealed" => "its seal holds".to_owned(),
            "read" => "read now".to_owned(),
            "asked" => "the container engine was asked now".to_owned(),
            _ => format!("not read now: {why}"),
        }
    }
}

const fn tone(state: ArtifactState) -> Tone {
    match state {
        ArtifactState::Ok => Tone::Good,
        ArtifactState::Drifted | ArtifactState::Missing => Tone::Bad,
        ArtifactState::Outdated | ArtifactState::Unlisted | ArtifactState::Unverified => Tone::Warning,
    }
}

impl Report for Checked {
    fn page(&self, page: &mut Page) {
        for artifact in &self.artifacts {
            let (state, kind) =
                (format!("{:10} ", artifact.state.name()), format!("{:19} ", artifact.kind.name()));
            let how = format!("  {}", artifact.how());
            page.parts(&[
                (tone(artifact.state), &state),
                (Tone::Plain, &kind),
                (Tone::Plain, &artifact.name),
                (Tone::Faint, &how),
            ]);
            for piece in &artifact.damaged_pieces {
                let from = measure::bytes(piece * PIECE_BYTES);
                page.toned(
                    Tone::Bad,
                    format!("           piece {piece}, 64 MiB from {from} on, was changed"),
                );
            }
        }
        let text = match (self.artifacts.len(), self.drifted) {
            (0, _) => "There are no artifacts yet".to_owned(),
            (all, 0) => format!("{}: none drifted", count(all as u64, "artifact")),
            (all, drifted) => format!("{}: {drifted} drifted", count(all as u64, "artifact")),
        };
        let some = |number: u64, what| if number > 0 { format!(", {number} {what}") } else { String::new() };
        let (missing, unseen) = (some(self.missing, "missing"), some(self.not_looked_at, "not looked at"));
        page.line(format!("{text}{missing}{unseen}."));
        page.toned_row("next", Tone::Strong, &self.next);
    }
}

/// Whether the container engine has the image of the snapshot, or why it cannot be asked; nothing for other kinds of runtime.
fn engine_has_image(context: &Context, view: &View) -> Result<Option<Result<bool, String>>, Failure> {
    let snapshots = view.snapshots()?;
    let runtime = snapshots.current().map(|current| &current.config.document().runtime);
    let Some(Runtime::Container { image, digest, config_digest, .. }) = runtime else { return Ok(None) };
    let socket = context.settings.runtime.socket.clone().unwrap_or_else(|| container::SOCKET.into());
    let thread =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::Start)?;
    let asked = thread.block_on(container::is_here(&socket, image, *digest, *config_digest));
    Ok(Some(asked.map_err(|error| error.to_string())))
}

const fn is_program(kind: ArtifactKind) -> bool {
    match kind {
        ArtifactKind::Agent | ArtifactKind::RuntimeBinary | ArtifactKind::RuntimeEnvironment => true,
        ArtifactKind::ModelFile | ArtifactKind::RuntimeImage | ArtifactKind::Configuration => false,
    }
}

/// The programs that drifted, by their places where these are known here.
fn programs(context: &Context, view: &View, artifacts: &[FindingShown]) -> Result<Vec<String>, Failure> {
    let snapshots = view.snapshots()?;
    let config = snapshots.current().map(|current| current.config.document());
    let named = config.map_or_else(Vec::new, |config| artifacts::named(config, &context.settings.runtime));
    let own = std::env::current_exe().ok();
    let place = |it: &FindingShown| match it.kind {
        ArtifactKind::Agent => own.clone(),
        ArtifactKind::RuntimeBinary
        | ArtifactKind::RuntimeEnvironment
        | ArtifactKind::RuntimeImage
        | ArtifactKind::ModelFile
        | ArtifactKind::Configuration => named
            .iter()
            .find(|named| named.id.kind == it.kind && named.id.name == it.name)
            .map(|it| it.path.clone()),
    };
    let wanted = artifacts.iter().filter(|it| it.wants() && is_program(it.kind));
    Ok(wanted
        .map(|it| place(it).map_or_else(|| it.name.clone(), |path| path.display().to_string()))
        .collect())
}

/// What was not looked at, by what can be done about that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unseen {
    Nothing,
    /// The runtime, since the setting is not set that says where it stands.
    Runtime,
    /// Others alone, each for its own reason.
    Others,
}

impl Unseen {
    fn of(artifacts: &[FindingShown]) -> Self {
        if artifacts.iter().any(|artifact| artifact.unset.is_some()) {
            Self::Runtime
        } else if artifacts.iter().all(|artifact| artifact.looked_at) {
            Self::Nothing
        } else {
            Self::Others
        }
    }
}

/// What the operator should do: install what he alone can, for the rest what `repair` says, and say where the runtime stands that
/// was not looked at.
fn next(programs: &[String], repair: Option<&str>, unseen: Unseen) -> String {
    let install = format!("install {}: neither the Agent nor `models install` can", programs.join(" and "));
    let todo = match (programs, repair) {
        ([], None) => None,
        ([], Some(repair)) => Some(repair.to_owned()),
        (_, None) => Some(install),
        (_, Some(repair)) => Some(format!("{install}; of the rest: {repair}")),
    };
    let set = format!("set {FOLDER} in node.toml, or give --runtime-folder: the runtime was not looked at");
    match (todo, unseen) {
        (None, Unseen::Nothing) => "nothing: what is here is what was installed".to_owned(),
        (None, Unseen::Others) => "nothing: what was looked at is what was installed".to_owned(),
        (None, Unseen::Runtime) => set,
        (Some(todo), Unseen::Nothing | Unseen::Others) => todo,
        (Some(todo), Unseen::Runtime) => format!("{todo}; {set}"),
    }
}

impl Check {
    fn run(&self, context: &Context) -> Result<Verdict, Failure> {
        let view = context.view()?;
        let mut meter = Meter::new(context.out);
        let (own, image) = (&context.settings.runtime, engine_has_image(context, &view)?);
        let found = drift::check(&view, own, image.as_ref(), self.deep, &mut |id, done, bytes| {
            meter.show("read", &id.name, done, bytes);
        });
        match &found {
            Ok(_) => meter.ended(),
            Err(_) => meter.broken_off(),
        }
        let artifacts: Vec<FindingShown> = found?.into_iter().map(FindingShown::of).collect();
        let drifted = artifacts.iter().filter(|artifact| artifact.drift).count() as u64;
        let missing = artifacts.iter().filter(|it| it.wants() && !it.drift).count() as u64;
        let not_looked_at = artifacts.iter().filter(|artifact| !artifact.looked_at).count() as u64;
        let files = artifacts.iter().any(|it| it.wants() && it.kind == ArtifactKind::ModelFile);
        let rest = artifacts.iter().any(|it| it.wants() && !is_program(it.kind));
        let repair = match (context.holder()?, files) {
            _ if !rest => None,
            (Some(_), _) => Some("wait: the Agent gets it; `resultity-node models list` shows how far it is"),
            (None, false) => Some("start the node, which gets it again: `resultity-node run`"),
            (None, true) => {
                Some("get it: `resultity-node models install`, or start the node: `resultity-node run`")
            }
        };
        let programs = programs(context, &view, &artifacts)?;
        let next = next(&programs, repair, Unseen::of(&artifacts));
        context.out.show(&Checked {
            deep: self.deep,
            drifted,
            missing,
            not_looked_at,
            artifacts,
            next: context.typed.complete(&next).into(),
        })?;
        Ok(if drifted == 0 { Verdict::Done } else { Verdict::Drifted })
    }
}

#[derive(Serialize)]
struct Changes {
    changes: Vec<ChangeShown>,
    /// There are older ones.
    more: bool,
}

#[derive(Serialize)]
struct ChangeShown {
    at: String,
    kind: ArtifactKind,
    name: String,
    /// Nothing where it was new.
    was: Option<ArtifactState>,
    became: ArtifactState,
    #[serde(flatten)]
    values: ValuesShown,
    #[serde(skip)]
    moment: Timestamp,
    #[serde(skip)]
    now: Timestamp,
}

impl ChangeShown {
    fn of(change: Change, now: Timestamp) -> Self {
        let Change { at, id: ArtifactId { kind, name }, was, became, facts } = change;
        let values = ValuesShown::of(&facts);
        Self { at: at.to_string(), kind, name, was, became, values, moment: at, now }
    }
}

impl Report for Changes {
    fn page(&self, page: &mut Page) {
        if self.more {
            page.toned(Tone::Faint, "There are older ones: --limit shows them.");
        }
        for change in &self.changes {
            let at = format!("{}  ", measure::moment(change.moment, change.now));
            let was = change.was.map_or("new", ArtifactState::name);
            let what = format!("  {} {}", change.kind, change.name);
            page.parts(&[
                (Tone::Faint, &at),
                (Tone::Plain, &was),
                (Tone::Plain, &" -> "),
                (tone(change.became), &change.became),
                (Tone::Plain, &what),
            ]);
        }
        if self.changes.is_empty() {
            page.line("No change is known.");
        }
    }
}

impl History {
    fn run(&self, context: &Context) -> Result<Verdict, Failure> {
        let view = context.view()?;
        let now = context::now(&view)?;
        let mut changes = view.inventory().history(None)?;
        changes.retain(|change| {
            self.kind.is_none_or(|kind| kind == change.id.kind)
                && self.artifact.as_ref().is_none_or(|name| *name == change.id.name)
        });
        let older = changes.len().saturating_sub(self.limit);
        let changes = changes.into_iter().skip(older).map(|change| ChangeShown::of(change, now)).collect();
        context.out.show(&Changes { changes, more: older > 0 })?;
        Ok(Verdict::Done)
    }
}

#[cfg(test)]
mod tests {
    use node_types::inventory::judge;

    use super::*;

    #[test]
    fn what_the_operator_does_and_what_the_agent_does_are_both_said() {
        let program = ["/rt/serve".to_owned()];
        let next = |programs: &[String], repair| next(programs, repair, Unseen::Nothing);
        assert!(next(&[], None).starts_with("nothing: "));
        assert_eq!(next(&[], Some("wait")), "wait");
        assert!(next(&program, None).starts_with("install /rt/serve: "));
        let both = next(&program, Some("wait"));
        assert!(both.starts_with("install /rt/serve: ") && both.ends_with(": wait"), "{both}");
    }

    #[test]
    fn of_what_was_not_looked_at_it_is_never_said_that_it_is_as_installed() {
        let whole = "what is here is what was installed";
        assert!(next(&[], None, Unseen::Nothing).ends_with(whole));
        let others = next(&[], None, Unseen::Others);
        assert!(others.starts_with("nothing: ") && !others.ends_with(whole), "{others}");
        let runtime = next(&[], None, Unseen::Runtime);
        assert!(
            runtime.starts_with("set runtime.folder in node.toml, or give --runtime-folder: "),
            "{runtime}"
        );
        let both = next(&[], Some("wait"), Unseen::Runtime);
        assert!(both.starts_with("wait; set runtime.folder "), "{both}");
    }

    fn shown(how: How, measured: Measured) -> FindingShown {
        let id = ArtifactId { kind: ArtifactKind::RuntimeBinary, name: "e".to_owned() };
        let installed = Some(Digest::of(b"installed"));
        let facts = Facts { expected: installed, recorded: installed, measured: Some(measured) };
        FindingShown::of(Finding { id, facts, state: judge(&facts), how, damaged: Vec::new() })
    }

    #[test]
    fn what_no_setting_leads_to_is_shown_as_it_was_noted_and_nothing_is_to_be_installed_for_it() {
        for measured in [Measured::Absent, Measured::Present(Digest::of(b"other"))] {
            assert!(shown(How::Read, measured).wants());
            let unset = shown(How::Unset, measured);
            assert!(!unset.wants() && !unset.looked_at && unset.how().contains("runtime.folder is not set"));
            assert_eq!(Unseen::of(&[shown(How::Read, measured), unset]), Unseen::Runtime);
        }
        let (read, noted) = (How::Read, How::Noted("w".to_owned()));
        let [read, noted] = [read, noted].map(|how| shown(how, Measured::Absent));
        assert_eq!(Unseen::of(std::slice::from_ref(&read)), Unseen::Nothing);
        assert_eq!(Unseen::of(&[read, noted]), Unseen::Others);
    }
}
