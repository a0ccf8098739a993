//! The author of every message of the node: number, start, time, configuration, signature.
//!
//! Numbers are taken in durable blocks of [`BLOCK`] before they are used, so a crash leaves a gap and never a
//! repetition. Whatever is sent again is signed again.

use std::{ops::Range, sync::Arc};

use node_store::{keys::SignError, store::Store, writer::WriteError};
use node_types::{
    BootId, Digest,
    message::{Domain, NO_CONFIG, NodeMessage},
    protocol::{MESSAGE_TTL_MS, Payload, Signed},
};
use tokio::sync::Mutex;

use crate::time::{self, NoClock};

/// How many numbers are reserved at once: one sync for so many messages.
pub const BLOCK: u32 = 1024;

/// Why a message could not be signed.
#[derive(Debug, thiserror::Error)]
pub enum AuthorError {
    /// The keyset names the chain that signatures are for.
    #[error("no keyset is known yet: the network has to be reached once")]
    NoKeyset,
    /// No number could be reserved.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The key refused.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// The machine's clock cannot be read.
    #[error(transparent)]
    Clock(#[from] NoClock),
    /// The payload is no JSON.
    #[error("a message of kind {kind} cannot be written as JSON")]
    Payload {
        /// The kind.
        kind: node_types::message::MessageKind,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The system gave no randomness.
    #[error("the system gave no randomness: {0}")]
    Randomness(getrandom::Error),
}

/// Signs the messages of one start of the Agent.
#[derive(Debug)]
pub struct Author {
    store: Arc<Store>,
    boot: BootId,
    numbers: Mutex<Range<u64>>,
}

impl Author {
    /// The author of a start that begins now.
    ///
    /// # Errors
    /// [`AuthorError::Randomness`].
    pub fn new(store: Arc<Store>) -> Result<Self, AuthorError> {
        let mut boot = [0; 16];
        getrandom::fill(&mut boot).map_err(AuthorError::Randomness)?;
        Ok(Self { store, boot: BootId::from_bytes(boot), numbers: Mutex::new(0..0) })
    }

    /// This start.
    #[must_use]
    pub const fn boot(&self) -> BootId {
        self.boot
    }

    /// A message that says `payload`, now, under the snapshot in force.
    ///
    /// # Errors
    /// [`AuthorError`].
    pub async fn sign<P: Payload>(&self, payload: &P) -> Result<Signed, AuthorError> {
        let kind = P::KIND;
        let text = serde_json::to_string(payload).map_err(|source| AuthorError::Payload { kind, source })?;
        let snapshots = self.store.snapshots();
        let (network, chain_id) = snapshots
            .look(|view| view.keyset().map(|keyset| (keyset.document().network, keyset.document().chain_id)))
            .ok_or(AuthorError::NoKeyset)?;
        let config = snapshots.current().map_or(NO_CONFIG, |current| current.config.digest());
        loop {
            let message = NodeMessage {
                kind,
                node: self.store.node(),
                boot_id: self.boot,
                seq: self.number().await?,
                issued_at_ms: time::now(&self.store)?,
                ttl_ms: MESSAGE_TTL_MS,
                config_digest: config,
                payload_hash: Digest::of(text.as_bytes()),
            };
            match self.store.signer().sign(&message, &Domain { network, chain_id }) {
                Ok(signature) => return Ok(Signed { message, signature, payload: text }),
                // The next number makes another signature.
                Err(SignError::NotRecoverable(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn number(&self) -> Result<u64, WriteError> {
        let mut numbers = self.numbers.lock().await;
        if numbers.is_empty() {
            *numbers = self.store.binding().reserve_sequence(BLOCK).await?;
        }
        let number = numbers.start;
        numbers.start += 1;
        Ok(number)
    }
}
