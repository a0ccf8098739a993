//! What is noted in the store's inventory of an artifact that was looked at, and said where that is news.

use std::sync::Arc;

use node_store::{reader::ReadError, store::Store, writer::WriteError};
use node_types::{
    Digest,
    inventory::{ArtifactId, ArtifactKind, ArtifactState, Facts, Measured},
    log::{Kind, Level},
};
use serde_json::json;

use crate::{
    journal::Journal,
    time::{self, NoClock},
};

/// Why it is not noted.
#[derive(Debug, thiserror::Error)]
pub enum NoteError {
    /// The inventory cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The inventory cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The clock.
    #[error(transparent)]
    Clock(#[from] NoClock),
}

/// What is noted of an artifact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noted {
    /// What was installed, where that is known.
    pub installed: Option<Digest>,
    /// What is there.
    pub found: Measured,
    /// It was read just now; otherwise its seal says so, and it is noted only where that is news.
    pub read: bool,
}

impl Noted {
    /// What was installed is there, by its seal or because it was `read`.
    #[must_use]
    pub const fn right(digest: Digest, read: bool) -> Self {
        Self { installed: Some(digest), found: Measured::Present(digest), read }
    }

    /// Something else was found, or nothing.
    #[must_use]
    pub const fn other(found: Measured) -> Self {
        Self { installed: None, found, read: true }
    }
}

/// Notes in the inventory what was installed and what is there, and says where that is news.
///
/// # Errors
/// [`NoteError`].
pub async fn note(
    store: &Arc<Store>,
    journal: &Journal,
    id: ArtifactId,
    noted: Noted,
) -> Result<(), NoteError> {
    let Noted { installed, found, read } = noted;
    let held = store.inventory().view().list()?.into_iter().find(|artifact| artifact.id == id);
    let facts = held.map_or(Facts::default(), |artifact| artifact.facts);
    let now = time::now(store)?;
    if let Some(installed) = installed
        && facts.recorded != Some(installed)
    {
        store.inventory().record(id.clone(), installed, now).await?;
    }
    if !read && facts.measured == Some(found) {
        return Ok(());
    }
    let (state, was) = store.inventory().measure(id.clone(), found, now).await?;
    if was.is_some_and(|was| was != state) {
        let level = if state == ArtifactState::Drifted { Level::Error } else { Level::Info };
        let was = was.map_or("new", ArtifactState::name);
        let fields = [("artifact", json!(id.to_string())), ("was", json!(was)), ("is", json!(state.name()))];
        let kind = match id.kind {
            ArtifactKind::ModelFile => Kind::Model,
            ArtifactKind::RuntimeImage | ArtifactKind::RuntimeBinary | ArtifactKind::RuntimeEnvironment => {
                Kind::Runtime
            }
            ArtifactKind::Agent => Kind::Agent,
            ArtifactKind::Configuration => Kind::Configuration,
        };
        journal.measured(level, kind, None, format!("{id} is {state}"), fields);
    }
    Ok(())
}
