//! What can go wrong with a container.

use std::{io, path::PathBuf};

use bollard::errors::Error as EngineError;
use node_types::Digest;

/// Why a container does not run.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    /// Nobody answers at the socket.
    #[error(
        "no container engine answers at {socket}: start Docker, let this user use the socket (\
         the group docker), or set runtime.socket"
    )]
    NoEngine {
        /// The socket.
        socket: PathBuf,
        /// The reason.
        #[source]
        source: EngineError,
    },
    /// An engine of an earlier time.
    #[error(
        "the container engine at {socket} speaks API {found}, {wanted} is needed: upgrade to Docker 20.10 or Podman 4.3"
    )]
    OldEngine {
        /// The socket.
        socket: PathBuf,
        /// What it speaks.
        found: String,
        /// The earliest that is enough.
        wanted: String,
    },
    /// An engine that cannot keep a container apart, or not within reach.
    #[error("the container engine at {socket} cannot be used: {problem}")]
    UnfitEngine {
        /// The socket.
        socket: PathBuf,
        /// What is wrong with it, and what to do.
        problem: &'static str,
    },
    /// The engine refused, or broke off.
    #[error("the container engine did not {what}")]
    Engine {
        /// What it was asked to do.
        what: String,
        /// What it said.
        #[source]
        source: EngineError,
    },
    /// The engine answered without something that it must say.
    #[error("the container engine does not say {what}")]
    Silent {
        /// What is missing.
        what: &'static str,
    },
    /// A container or network of somebody else has the name.
    #[error(
        "there is a {kind} {name} that is not this node's ({owner}): it is left alone; remove or rename it"
    )]
    Foreign {
        /// `container` or `network`.
        kind: &'static str,
        /// The name.
        name: String,
        /// Whose it is, as far as it says so.
        owner: String,
    },
    /// No archive, and no registry that gives the image.
    #[error("there is no image {name} here: it cannot be pulled, and {} does not exist", archive.display())]
    NoImage {
        /// The image, with its digest.
        name: String,
        /// Where its archive would stand.
        archive: PathBuf,
        /// Why it cannot be pulled.
        #[source]
        source: EngineError,
    },
    /// No folder of archives is set, and no registry gives the image.
    #[error(
        "there is no image {name} here, and it cannot be pulled: put its archive into a folder and set runtime.images"
    )]
    NotPulled {
        /// The image, with its digest.
        name: String,
        /// Why it cannot be pulled.
        #[source]
        source: EngineError,
    },
    /// The archive is not what its name says.
    #[error("{} is no archive of the image {digest}: {problem}", path.display())]
    Archive {
        /// The archive.
        path: PathBuf,
        /// The manifest that it should hold.
        digest: Digest,
        /// What is wrong with it.
        problem: String,
    },
    /// The archive cannot be read.
    #[error("cannot read the archive {}", path.display())]
    Read {
        /// The archive.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The engine has something else under the image's digest.
    #[error("the image {digest} has the configuration {found}, approved is {expected}: it is not started")]
    OtherConfig {
        /// The image's manifest.
        digest: Digest,
        /// What the snapshot or the manifest says.
        expected: Digest,
        /// What the engine says.
        found: String,
    },
    /// The image is for other machines.
    #[error("the image {digest} is for {found}, approved is {expected}: it is not started")]
    OtherPlatform {
        /// The image's manifest.
        digest: Digest,
        /// What the snapshot says.
        expected: String,
        /// What the engine says.
        found: String,
    },
    /// The models that should be mounted.
    #[error("cannot mount the models in {}", path.display())]
    Models {
        /// The folder.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// It ended before anything could be asked of it.
    #[error("{how}")]
    Ended {
        /// How, and what it said last.
        how: String,
    },
    /// The engine made a container that is less closed than asked for.
    #[error(
        "the container engine did not apply {what}: asked for {asked}, found {found}; the container was removed"
    )]
    NotApplied {
        /// What it is about.
        what: &'static str,
        /// What was asked for.
        asked: String,
        /// What there is.
        found: String,
    },
}

impl ContainerError {
    /// Whether trying again later can help without anything being changed here or at the network: an engine that does
    /// not answer, a registry that is away.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::NoEngine { .. } | Self::Engine { .. } | Self::Silent { .. } | Self::Ended { .. } => true,
            Self::NoImage { source, .. } | Self::NotPulled { source, .. } => !is_missing(source),
            Self::OldEngine { .. }
            | Self::UnfitEngine { .. }
            | Self::Foreign { .. }
            | Self::Archive { .. }
            | Self::Read { .. }
            | Self::OtherConfig { .. }
            | Self::OtherPlatform { .. }
            | Self::Models { .. }
            | Self::NotApplied { .. } => false,
        }
    }

    /// Says of an engine's error what the engine was asked for.
    pub(super) fn engine(what: impl Into<String>) -> impl FnOnce(EngineError) -> Self {
        let what = what.into();
        move |source| Self::Engine { what, source }
    }
}

/// Whether the engine said that there is no such thing.
pub(super) fn is_missing(error: &EngineError) -> bool {
    matches!(error, EngineError::DockerResponseServerError { status_code: 404, .. })
}
