//! The artifacts that are no model's file: the Agent's own program, the runtime's program and its virtual environment, and
//! the configuration. They are looked at here, and judged by the store's inventory.

use std::{
    io,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use node_store::hash;
use node_types::{
    Digest,
    config::{NodeConfig, Runtime},
    inventory::{ArtifactId, ArtifactKind, Measured},
};

use crate::settings::RuntimeSettings;

/// The platform that this Agent was built for, as Rust names it: `x86_64-unknown-linux-gnu`.
pub const TARGET: &str = env!("AGENT_TARGET");

/// The program that this process runs, also after its file was replaced.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// Where this Agent was started from: what stands there now is what the next start runs.
#[derive(Clone, Debug)]
pub struct Place(PathBuf);

/// What runs, and what stands where it was started from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnProgram {
    /// What runs: it cannot be written to, and is kept by the system as long as it runs.
    pub running: Measured,
    /// What the next start runs.
    pub placed: Measured,
}

impl Place {
    /// Asked while this process starts: the system does not know it any more once the file was replaced.
    #[must_use]
    pub fn now() -> Self {
        Self(std::env::current_exe().unwrap_or_else(|_| OWN_PROGRAM.into()))
    }

    /// As a path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Changes whenever another file was put there.
    ///
    /// # Errors
    /// That of looking at it.
    pub fn stamp(&self) -> io::Result<Digest> {
        hash::stamp(&self.0)
    }

    /// Reads what runs and what stands there; one file is read once.
    ///
    /// # Errors
    /// That of reading one of them; what is not there is no error.
    pub fn read(&self) -> io::Result<OwnProgram> {
        let running = own_program()?;
        let same = hash::stamp(Path::new(OWN_PROGRAM)).ok() == self.stamp().ok();
        let placed = if same { running } else { file(&self.0)? };
        Ok(OwnProgram { running, placed })
    }
}

/// A file or folder of the runtime's that the snapshot names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// As an artifact.
    pub id: ArtifactId,
    /// Where it stands.
    pub path: PathBuf,
    /// What the snapshot wants it to be.
    pub expected: Digest,
    /// Whether it is a folder.
    pub folder: bool,
}

/// This Agent as an artifact: under the name of the approved release that it is, else by its version.
#[must_use]
pub fn agent(config: Option<&NodeConfig>) -> ArtifactId {
    let approved = config.into_iter().flat_map(|config| &config.updates.agents);
    let mut same = approved.filter(|it| it.version == crate::VERSION);
    let ours = same.find(|it| it.platform.as_deref().is_none_or(|platform| platform == TARGET));
    ours.map_or_else(
        || ArtifactId { kind: ArtifactKind::Agent, name: crate::VERSION.to_owned() },
        node_types::config::ApprovedAgent::artifact,
    )
}

/// Reads this Agent's own program.
///
/// # Errors
/// That of reading it.
pub fn own_program() -> io::Result<Measured> {
    file(Path::new(OWN_PROGRAM))
}

/// What the snapshot names of a runtime that the Agent starts as a program; nothing for other kinds, and nothing without the
/// folder in which it stands.
#[must_use]
pub fn named(config: &NodeConfig, settings: &RuntimeSettings) -> Vec<Named> {
    let (Runtime::Process { engine, command, digest, environment, .. }, Some(folder)) =
        (&config.runtime, &settings.folder)
    else {
        return Vec::new();
    };
    let id = |kind| ArtifactId { kind, name: engine.clone() };
    let program = Named {
        id: id(ArtifactKind::RuntimeBinary),
        path: folder.join(command),
        expected: *digest,
        folder: false,
    };
    let environment = environment.as_ref().map(|environment| Named {
        id: id(ArtifactKind::RuntimeEnvironment),
        path: folder.join(&environment.path),
        expected: environment.digest,
        folder: true,
    });
    [program].into_iter().chain(environment).collect()
}

impl Named {
    /// Reads it.
    ///
    /// # Errors
    /// That of reading it; what is not there is no error.
    pub fn measure(&self) -> io::Result<Measured> {
        if self.folder { found(hash::tree(&self.path)) } else { file(&self.path) }
    }

    /// Changes whenever something of it was written, and is had without reading it.
    ///
    /// # Errors
    /// That of looking at it.
    pub fn stamp(&self) -> io::Result<Digest> {
        hash::stamp(&self.path)
    }
}

#[expect(clippy::disallowed_methods, reason = "programs, no files of the volume")]
fn file(path: &Path) -> io::Result<Measured> {
    let read =
        std::fs::File::open(path).and_then(|file| hash::file(&file, &mut |_| ControlFlow::Continue(())));
    found(read.and_then(|hashes| {
        hashes.map(|hashes| hashes.sha256).ok_or_else(|| io::Error::other("it was not read to its end"))
    }))
}

fn found(read: io::Result<Digest>) -> io::Result<Measured> {
    match read {
        Ok(digest) => Ok(Measured::Present(digest)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Measured::Absent),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_is_its_program() {
        let Measured::Present(found) = own_program().unwrap() else { panic!() };
        #[expect(clippy::disallowed_methods, reason = "a test's own program")]
        let bytes = std::fs::read(OWN_PROGRAM).unwrap();
        assert_eq!(found, Digest::of(&bytes));
        assert!(TARGET.contains("linux"), "{TARGET}");
    }
}
