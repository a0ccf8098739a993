//! Drift, looked at from outside: every artifact against what was installed and approved, beside a running Agent or without
//! one. It reads and changes nothing; what the Agent does about drift is the affair of [`crate::models`].

use std::{
    fs::File,
    io,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use node_store::{
    hash,
    models::{ModelsError, Standing, differing},
    reader::ReadError,
    snapshot::{SnapshotError, SnapshotView},
    view::View,
};
use node_types::{
    config::{Model, ModelFile, NodeConfig, Runtime},
    inventory::{ArtifactId, ArtifactKind, ArtifactState, Facts, Measured, judge},
};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};

use crate::{artifacts, models, settings::RuntimeSettings};

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
pub enum DriftError {
    /// The inventory.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The snapshot.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The models.
    #[error(transparent)]
    Models(#[from] ModelsError),
    /// A file cannot be read.
    #[error("cannot read {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The setting without which nobody knows where the runtime stands.
pub const FOLDER: &str = "runtime.folder";

/// How it is known how an artifact stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum How {
    /// Its seal holds: it was not written since it was hashed.
    Sealed,
    /// It was read and hashed just now.
    Read,
    /// Whoever keeps it, the container engine, was asked just now.
    Asked,
    /// It was looked at and not read, for this reason.
    Unread(String),
    /// It was not looked at, for this reason: the Agent noted it when it looked last.
    Noted(String),
    /// It cannot be looked at, since [`FOLDER`], which says where it stands, is not set here: the Agent noted it when it looked
    /// last, where its own settings led it.
    Unset,
}

impl How {
    /// Whether it was looked at now.
    #[must_use]
    pub const fn is_looked_at(&self) -> bool {
        match self {
            Self::Sealed | Self::Read | Self::Asked | Self::Unread(_) => true,
            Self::Noted(_) | Self::Unset => false,
        }
    }
}

/// How an artifact stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which.
    pub id: ArtifactId,
    /// The three values; `measured` is what was found now, and where it was not looked at what the Agent found last.
    pub facts: Facts,
    /// What they say.
    pub state: ArtifactState,
    /// How that is known.
    pub how: How,
    /// The pieces of 64 MiB that are not what they were, from 0, where that can be told.
    pub damaged: Vec<u64>,
}

impl Finding {
    /// Whether it is not what was installed here: changed, or gone.
    ///
    /// What the Agent did not find where its settings led it is not gone where no setting leads to it; what it found changed is.
    #[must_use]
    pub fn is_drift(&self) -> bool {
        match self.state {
            ArtifactState::Drifted => true,
            ArtifactState::Missing => self.how != How::Unset && self.facts.recorded.is_some(),
            ArtifactState::Ok
            | ArtifactState::Outdated
            | ArtifactState::Unlisted
            | ArtifactState::Unverified => false,
        }
    }
}

/// How far a check is: the artifact, its bytes that were read, and its bytes.
pub type Progress<'a> = &'a mut dyn FnMut(&ArtifactId, u64, u64);

/// Looks at every artifact: by its seal where one holds, by reading it otherwise, and by reading all of it where `deep`. Of a
/// container's image it knows what the engine said: whether it has the one that the snapshot wants, or why it cannot be asked.
///
/// # Errors
/// [`DriftError`]; a file that is missing is a finding, not an error.
pub fn check(
    view: &View,
    runtime: &RuntimeSettings,
    image: Option<&Result<bool, String>>,
    deep: bool,
    progress: Progress<'_>,
) -> Result<Vec<Finding>, DriftError> {
    let snapshots = view.snapshots()?;
    let mut findings = Vec::new();
    for artifact in view.inventory().list()? {
        let (id, mut facts) = (artifact.id, artifact.facts);
        let said = image.filter(|_| id.kind == ArtifactKind::RuntimeImage);
        let asked = said.and_then(|said| engine_has(&snapshots, &id, said));
        let Looked { found, how, damaged } = match asked {
            Some(looked) => looked,
            None => look(view, runtime, &snapshots, &id, deep, progress)?,
        };
        facts.measured = found.or(facts.measured);
        findings.push(Finding { state: judge(&facts), id, facts, how, damaged });
    }
    Ok(findings)
}

struct Looked {
    /// Nothing where it was not looked at.
    found: Option<Measured>,
    how: How,
    damaged: Vec<u64>,
}

impl Looked {
    const fn at(found: Measured, how: How) -> Self {
        Self { found: Some(found), how, damaged: Vec::new() }
    }

    fn not(why: &str) -> Self {
        Self::unseen(How::Noted(why.to_owned()))
    }

    const fn unseen(how: How) -> Self {
        Self { found: None, how, damaged: Vec::new() }
    }
}

/// What the engine's answer says of the image that the snapshot wants; nothing of another one.
fn engine_has(snapshots: &SnapshotView, id: &ArtifactId, said: &Result<bool, String>) -> Option<Looked> {
    let runtime = snapshots.current().map(|current| &current.config.document().runtime);
    let digest = runtime.filter(|runtime| runtime.engine() == id.name)?.digest()?;
    Some(match said {
        Ok(true) => Looked::at(Measured::Present(digest), How::Asked),
        Ok(false) => Looked::at(Measured::Absent, How::Asked),
        Err(why) => Looked::not(why),
    })
}

/// Looks at one artifact.
fn look(
    view: &View,
    runtime: &RuntimeSettings,
    snapshots: &SnapshotView,
    id: &ArtifactId,
    deep: bool,
    progress: Progress<'_>,
) -> Result<Looked, DriftError> {
    let config = snapshots.current().map(|current| current.config.document());
    match id.kind {
        ArtifactKind::ModelFile => match config.and_then(|config| file_of(config, id)) {
            Some((_, file)) => model_file(view, id, file, deep, progress),
            None => Ok(Looked::not("the node does not keep this file")),
        },
        ArtifactKind::RuntimeBinary | ArtifactKind::RuntimeEnvironment => {
            let named = config.map_or_else(Vec::new, |config| artifacts::named(config, runtime));
            let Some(named) = named.into_iter().find(|named| named.id == *id) else {
                return Ok(Looked::unseen(out_of_reach(config.map(|config| &config.runtime), runtime, id)));
            };
            let found = named.measure().map_err(|source| DriftError::File { path: named.path, source })?;
            Ok(Looked::at(found, How::Read))
        }
        ArtifactKind::Agent if *id == artifacts::agent(config) => {
            let path = PathBuf::from("/proc/self/exe");
            let found = artifacts::own_program().map_err(|source| DriftError::File { path, source })?;
            Ok(Looked::at(found, How::Read))
        }
        ArtifactKind::Agent => Ok(Looked::not("it is another release than this one")),
        ArtifactKind::RuntimeImage => {
            Ok(Looked::not("the container engine was asked when the container was started"))
        }
        ArtifactKind::Configuration => Ok(Looked::at(snapshots.stored(), How::Read)),
    }
}

/// Why no setting leads to a file of a runtime's: the one that would is not set, or the snapshot in force names no such file.
fn out_of_reach(wanted: Option<&Runtime>, settings: &RuntimeSettings, id: &ArtifactId) -> How {
    let is_named = wanted.is_some_and(|wanted| match wanted {
        Runtime::Process { engine, environment, .. } => {
            *engine == id.name && (id.kind == ArtifactKind::RuntimeBinary || environment.is_some())
        }
        Runtime::External { .. } | Runtime::Container { .. } => false,
    });
    if is_named && settings.folder.is_none() {
        How::Unset
    } else {
        How::Noted("no snapshot in force says where it stands".to_owned())
    }
}

/// The file of a model that an artifact is.
fn file_of<'a>(config: &'a NodeConfig, id: &ArtifactId) -> Option<(&'a Model, &'a ModelFile)> {
    let files = config.models.iter().flat_map(|model| model.files.iter().map(move |file| (model, file)));
    files.into_iter().find(|(model, file)| models::artifact(model, file) == *id)
}

fn model_file(
    view: &View,
    id: &ArtifactId,
    file: &ModelFile,
    deep: bool,
    progress: Progress<'_>,
) -> Result<Looked, DriftError> {
    let right = Measured::Present(file.sha256);
    match view.models().stand(file.sha256)? {
        Standing::Sealed if !deep => Ok(Looked::at(right, How::Sealed)),
        Standing::Untrusted { why, .. } if !deep => {
            Ok(Looked::at(right, How::Unread(format!("{why}; --deep reads it"))))
        }
        Standing::Missing => Ok(Looked::at(Measured::Absent, How::Read)),
        Standing::Unknown => Ok(Looked::not("it is here, and nobody has verified it")),
        Standing::Sealed | Standing::Untrusted { .. } | Standing::Broken(_) => {
            let path = view.models().path(file.sha256);
            let failed = |source| DriftError::File { path: path.clone(), source };
            let opened = match open(&path).map_err(failed)? {
                Opened::File(opened) => opened,
                Opened::Nothing => return Ok(Looked::at(Measured::Absent, How::Read)),
                Opened::Other => {
                    let why = "what stands in its place is no regular file".to_owned();
                    return Ok(Looked::at(Measured::Absent, How::Unread(why)));
                }
            };
            let read = hash::file(&opened, &mut |done| {
                progress(id, done, file.bytes);
                ControlFlow::Continue(())
            });
            let Some(hashes) = read.map_err(failed)? else {
                return Ok(Looked::not("it was not read to its end"));
            };
            let held = view.models().files()?.into_iter().find(|held| held.sha256 == file.sha256);
            let expected = held.map(|held| held.pieces).unwrap_or_default();
            let damaged = differing(&expected, &hashes.pieces);
            let damaged = if hashes.sha256 == file.sha256 { Vec::new() } else { damaged };
            Ok(Looked { damaged, ..Looked::at(Measured::Present(hashes.sha256), How::Read) })
        }
    }
}

/// What stands at the path of a model's file.
enum Opened {
    File(File),
    /// A link, a pipe, a folder.
    Other,
    Nothing,
}

/// Follows no link and waits for no writer: whoever can put something else here must not be able to hang a look at it.
fn open(path: &Path) -> io::Result<Opened> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Ok(Opened::Nothing),
        // A link; a socket.
        Err(Errno::LOOP | Errno::NXIO) => return Ok(Opened::Other),
        Err(error) => return Err(error.into()),
    };
    Ok(if file.metadata()?.is_file() { Opened::File(file) } else { Opened::Other })
}

#[cfg(test)]
mod tests {
    use node_types::Digest;

    use super::*;

    fn finding(measured: Measured, how: How) -> Finding {
        let id = ArtifactId { kind: ArtifactKind::RuntimeBinary, name: "e".to_owned() };
        let installed = Some(Digest::of(b"installed"));
        let facts = Facts { expected: installed, recorded: installed, measured: Some(measured) };
        Finding { state: judge(&facts), id, facts, how, damaged: Vec::new() }
    }

    /// An Agent that was started with another folder had noted its runtime as missing. A check without the setting called that
    /// drift, though it had looked nowhere.
    #[test]
    fn what_no_setting_leads_to_is_not_gone_and_what_was_found_changed_is_drift_all_the_same() {
        let noted = || How::Noted("w".to_owned());
        for how in [How::Read, How::Asked, How::Unread("w".to_owned()), noted()] {
            assert!(finding(Measured::Absent, how.clone()).is_drift(), "{how:?}");
        }
        assert!(!finding(Measured::Absent, How::Unset).is_drift());
        for how in [How::Read, noted(), How::Unset] {
            assert!(finding(Measured::Present(Digest::of(b"other")), how.clone()).is_drift(), "{how:?}");
            assert!(!finding(Measured::Present(Digest::of(b"installed")), how).is_drift());
        }
    }

    #[test]
    fn what_was_not_looked_at_is_told_from_what_was_not_read() {
        let why = || "w".to_owned();
        let looked_at = [How::Sealed, How::Read, How::Asked, How::Unread(why())];
        assert!(looked_at.iter().all(How::is_looked_at));
        assert!(![How::Noted(why()), How::Unset].iter().any(How::is_looked_at));
    }

    #[test]
    fn the_folder_is_asked_for_only_where_it_would_help() {
        let process = Runtime::Process {
            engine: "e".to_owned(),
            command: "serve".to_owned(),
            digest: Digest::of(b"serve"),
            args: Vec::new(),
            environment: None,
        };
        let external = Runtime::External { engine: "e".to_owned() };
        let (bare, set) = (
            RuntimeSettings::default(),
            RuntimeSettings { folder: Some("/rt".into()), ..Default::default() },
        );
        let why = |wanted, settings, kind, name: &str| {
            out_of_reach(wanted, settings, &ArtifactId { kind, name: name.to_owned() })
        };
        let program = ArtifactKind::RuntimeBinary;
        assert_eq!(why(Some(&process), &bare, program, "e"), How::Unset);
        for (wanted, settings, kind, name) in [
            (Some(&process), &set, program, "e"),
            (Some(&process), &bare, program, "of an earlier snapshot"),
            (Some(&process), &bare, ArtifactKind::RuntimeEnvironment, "e"),
            (Some(&external), &bare, program, "e"),
            (None, &bare, program, "e"),
        ] {
            assert!(matches!(why(wanted, settings, kind, name), How::Noted(_)), "{kind} {name}");
        }
    }
}
