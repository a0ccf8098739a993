//! What is the node's own and no model's: the stored configuration, the Agent's program, and the runtime's. Each is an artifact,
//! read again where it may have changed, and noted. Whoever keeps the models asks for it, so that one thing is read at a time.

mod runtime;

use std::{io, sync::Arc, time::Duration};

use node_store::{inventory::configuration, store::Store};
use node_types::{
    Digest,
    inventory::{ArtifactId, ArtifactKind, Measured},
    log::{Kind, Level},
};
use tokio::time::Instant;

pub use runtime::{RuntimeFiles, RuntimeRead};

use crate::{
    artifacts::{self, Place},
    blocking::blocking,
    inventory::{NoteError, Noted, note},
    journal::Journal,
    node::Node,
    time,
    update::{self, NextStart},
};

/// Between two looks at the stored configuration and at where the Agent was started from: 10 seconds.
const EVERY: Duration = Duration::from_secs(10);

/// Why the Agent's own program is not noted.
#[derive(Debug, thiserror::Error)]
pub enum OwnError {
    /// It cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// Where it was started from.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The inventory.
    #[error(transparent)]
    Note(#[from] NoteError),
}

/// Looks at the stored configuration and at where the Agent was started from.
pub struct Own {
    /// The configuration that was read back and noted.
    read_back: Option<Digest>,
    /// Where the Agent was started from, and what that looked like when it was looked at last.
    place: Place,
    placed: Option<Digest>,
    /// When the two are looked at again.
    next: Instant,
}

impl Default for Own {
    /// It has not looked yet.
    fn default() -> Self {
        Self { read_back: None, place: Place::now(), placed: None, next: Instant::now() }
    }
}

impl Own {
    /// Where the Agent was started from.
    #[must_use]
    pub const fn place(&self) -> &Place {
        &self.place
    }

    /// The configuration is read back at the next look.
    pub const fn read_again(&mut self) {
        self.read_back = None;
    }

    /// Reads the configuration `digest` back where it is time. Says whether another program may stand where this one was started
    /// from: [`program`] reads it.
    pub async fn look(&mut self, node: &Node, digest: Digest) -> bool {
        let now = Instant::now();
        let unread = self.read_back != Some(digest);
        if self.next > now && !unread {
            return false;
        }
        self.next = now + EVERY;
        self.read_back = Some(digest);
        read_back(node, digest, unread).await;
        let place = self.place.clone();
        // What is not there has no stamp.
        let placed = blocking(move || place.stamp()).await.ok();
        let changed = placed != self.placed;
        self.placed = placed;
        changed
    }
}

/// Reads the stored configuration back. One that has changed is drift, and is written anew from what was verified; what is in
/// force is that, whatever the disk says.
async fn read_back(node: &Node, digest: Digest, unread: bool) {
    for mended in [false, true] {
        let store = Arc::clone(&node.store);
        let stored = match blocking(move || store.snapshots().measure()).await {
            Ok(Some(stored)) if stored.in_force == digest => stored,
            // Another one came into force: the next look is about that.
            Ok(_) => return,
            Err(error) => {
                let text = "cannot read the stored configuration back";
                node.journal.failed(Level::Error, Kind::Configuration, text, &error);
                return;
            }
        };
        let right = stored.found == Measured::Present(digest);
        let noted = if right { Noted::right(digest, unread) } else { Noted::other(stored.found) };
        let id = configuration();
        if let Err(error) = note(&node.store, &node.journal, id, noted).await {
            let text = "cannot note the configuration";
            node.journal.failed(Level::Error, Kind::Configuration, text, &error);
        }
        if right || mended {
            return;
        }
        let store = Arc::clone(&node.store);
        match node.written(blocking(move || store.snapshots().mend()).await) {
            Ok(()) => {
                let text = "the stored configuration has changed on the disk: it is written anew";
                node.journal.note(Level::Warn, Kind::Configuration, text);
            }
            Err(error) => {
                let text = "cannot write the stored configuration anew";
                node.journal.failed(Level::Error, Kind::Configuration, text, &error);
            }
        }
    }
}

/// Forgets the releases that ran here before, and are not here any more. Says whether the Agent's own is known.
async fn forget_others(store: &Store, own: &ArtifactId) -> Result<bool, NoteError> {
    let mut known = false;
    for held in store.inventory().view().list()? {
        if held.id == *own {
            known = held.facts.recorded.is_some();
        } else if held.id.kind == ArtifactKind::Agent && held.facts.recorded.is_some() {
            store.inventory().remove(held.id, time::now(store)?).await?;
        }
    }
    Ok(known)
}

/// Reads the Agent's own program; the first one of a version is the one that was installed.
///
/// What runs cannot be changed; what stands in its place is what the next start runs. Where that is another approved release, it
/// is an update on its way; where it is anything else, it is drift, and jobs go on with what runs.
///
/// # Errors
/// [`OwnError`].
pub async fn program(
    store: &Arc<Store>,
    journal: &Journal,
    id: ArtifactId,
    place: Place,
) -> Result<(), OwnError> {
    let path = place.path().display().to_string();
    let read = blocking(move || place.read()).await;
    let program = read.map_err(|source| OwnError::Read { path: path.clone(), source })?;
    let known = forget_others(store, &id).await?;
    let installed = match program.running {
        Measured::Present(digest) => (!known).then_some(digest),
        Measured::Absent => None,
    };
    let current = store.snapshots().current();
    let updates = current.as_ref().map(|current| &current.config.document().updates);
    let next = update::next_start(updates, artifacts::TARGET, program);
    let found = match next {
        NextStart::Same | NextStart::Approved(_) => program.running,
        NextStart::Other => program.placed,
    };
    note(store, journal, id, Noted { installed, found, read: true }).await?;
    match next {
        NextStart::Same => {}
        NextStart::Approved(release) => {
            let version = &release.version;
            let text =
                format!("release {version} of the Agent stands in {path}: it runs with the next start");
            journal.note(Level::Info, Kind::Agent, text);
        }
        NextStart::Other => {
            let text = format!(
                "{path} is not what was started from it: what was started goes on, and the next start runs what stands \
                 there now; put an approved release there"
            );
            journal.note(Level::Error, Kind::Agent, text);
        }
    }
    if let (Some(updates), Measured::Present(running)) = (updates, program.running) {
        let advice = update::advise(updates, crate::VERSION, artifacts::TARGET, Some(running));
        if let Some((level, text)) = update::announcement(&advice) {
            journal.note(level, Kind::Agent, text);
        }
    }
    Ok(())
}
