//! Artifacts (models, containers, the Agent, the configuration), their hashes, and the pure
//! function that judges them.
//!
//! Three values are known of an artifact: **expected** by the snapshot in force, **recorded** when
//! it was installed, **measured** now. [`judge`] makes one state of them. What is done about a
//! state is not decided here.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{Digest, id::NotAnId};

/// What an artifact is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ArtifactKind {
    /// A file of a model.
    ModelFile,
    /// A container image, by the digest of its manifest.
    RuntimeImage,
    /// The program of a runtime.
    RuntimeBinary,
    /// The folder that a runtime's program needs beside it, by the digest of its tree.
    RuntimeEnvironment,
    /// The program of the Agent.
    Agent,
    /// The configuration snapshot.
    Configuration,
}

impl ArtifactKind {
    /// All kinds.
    pub const ALL: [Self; 6] = [
        Self::ModelFile,
        Self::RuntimeImage,
        Self::RuntimeBinary,
        Self::RuntimeEnvironment,
        Self::Agent,
        Self::Configuration,
    ];

    /// As it is stored and printed: `model_file`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ModelFile => "model_file",
            Self::RuntimeImage => "runtime_image",
            Self::RuntimeBinary => "runtime_binary",
            Self::RuntimeEnvironment => "runtime_environment",
            Self::Agent => "agent",
            Self::Configuration => "configuration",
        }
    }
}

impl fmt::Display for ArtifactKind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

impl FromStr for ArtifactKind {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        Self::ALL.into_iter().find(|kind| kind.name() == text).ok_or_else(|| NotAnId {
            found: text.to_owned(),
            wanted: "a kind of artifact: write for example model_file",
        })
    }
}

/// An artifact by kind and name; the name is unique within its kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArtifactId {
    /// What it is.
    pub kind: ArtifactKind,
    /// For a model's file `<name>@<version>/<path>`, for an image its name, for a runtime and its environment the engine's, for an Agent `<version>` or
    /// `<version>/<platform>`, else the file's name.
    pub name: String,
}

impl fmt::Display for ArtifactId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}", self.kind, self.name)
    }
}

/// What a look at an artifact found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measured {
    /// It is there, with this digest.
    Present(Digest),
    /// It is not there.
    Absent,
}

/// What is known of an artifact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Facts {
    /// What the snapshot in force wants; `None` where it lists no such artifact.
    pub expected: Option<Digest>,
    /// What was installed; `None` where nothing was.
    pub recorded: Option<Digest>,
    /// What is there now; `None` where nobody has looked yet.
    pub measured: Option<Measured>,
}

/// How an artifact stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ArtifactState {
    /// What is here is what the snapshot wants.
    Ok,
    /// What is here is neither what was installed nor what is wanted: it was changed here.
    Drifted,
    /// What is here is what was installed; the snapshot has moved on.
    Outdated,
    /// Wanted or installed, but not here.
    Missing,
    /// Here, but the snapshot does not list it.
    Unlisted,
    /// Nobody has looked yet.
    Unverified,
}

impl ArtifactState {
    /// All states.
    pub const ALL: [Self; 6] =
        [Self::Ok, Self::Drifted, Self::Outdated, Self::Missing, Self::Unlisted, Self::Unverified];

    /// As it is stored and printed: `outdated`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Drifted => "drifted",
            Self::Outdated => "outdated",
            Self::Missing => "missing",
            Self::Unlisted => "unlisted",
            Self::Unverified => "unverified",
        }
    }
}

impl fmt::Display for ArtifactState {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// Judges an artifact. Every case has one row; letters are digests, `-` is unknown.
///
/// | expected | recorded | measured | state | why |
/// |---|---|---|---|---|
/// | any | any | - | Unverified | nobody has looked: nothing is claimed |
/// | A | any | absent | Missing | wanted, not here |
/// | - | A | absent | Missing | installed once, gone by itself |
/// | - | - | absent | Ok | nothing is wanted and nothing is here |
/// | A | any | A | Ok | what is wanted is here; a record that lags is written again |
/// | A | B | B | Outdated | unchanged since it was installed, the snapshot moved on |
/// | A | - | B | Drifted | of unknown origin, and not what is wanted |
/// | A | B | C | Drifted | changed since it was installed |
/// | A | A | B | Drifted | changed since it was installed |
/// | - | - | A | Unlisted | here, and nobody asked for it |
/// | - | A | A | Unlisted | installed for an earlier snapshot |
/// | - | A | B | Drifted | changed since it was installed; that it is unlisted matters less |
#[must_use]
pub fn judge(facts: &Facts) -> ArtifactState {
    let Some(measured) = facts.measured else { return ArtifactState::Unverified };
    match (facts.expected, facts.recorded, measured) {
        (None, None, Measured::Absent) => ArtifactState::Ok,
        (Some(_), _, Measured::Absent) | (None, Some(_), Measured::Absent) => ArtifactState::Missing,
        (Some(expected), _, Measured::Present(found)) if found == expected => ArtifactState::Ok,
        (Some(_), Some(recorded), Measured::Present(found)) if found == recorded => ArtifactState::Outdated,
        (Some(_), _, Measured::Present(_)) => ArtifactState::Drifted,
        (None, Some(recorded), Measured::Present(found)) if found != recorded => ArtifactState::Drifted,
        (None, _, Measured::Present(_)) => ArtifactState::Unlisted,
    }
}
