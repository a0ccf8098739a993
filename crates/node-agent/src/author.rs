//! The author of every message of the node: number, start, time, configuration, signature.
//!
//! The time of a message is the wall clock's, corrected by what the network last said where that is far off: it is for the
//! network to judge, and ends no job. The store's own time may stand still for good reasons, and would not be believed.
//!
//! Numbers are taken in durable blocks of [`BLOCK`] before they are used, so a crash leaves a gap and never a
//! repetition. Whatever is sent again is signed again.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
};

use node_store::{keys::SignError, store::Store, writer::WriteError};
use node_types::{
    BootId, Digest, Timestamp,
    message::{Domain, NO_CONFIG, NodeMessage},
    protocol::{MESSAGE_TTL_MS, Payload, Signed},
};
use tokio::sync::Mutex;

use crate::time::{self, NoClock};

/// How many numbers are reserved at once: one sync for so many messages.
pub const BLOCK: u32 = 1024;

/// How far the wall clock may be from the network's time before messages are signed by that: a quarter of a message's life,
/// in milliseconds.
pub const CLOCK_TOLERANCE_MS: u64 = MESSAGE_TTL_MS / 4;

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
    /// Another process is this node: a number that is used here would be missing there.
    #[error("nothing is signed any more: this node runs twice")]
    Silenced,
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
    /// The network's time less the wall clock's, in milliseconds; 0 while they agree.
    network_ahead_ms: AtomicI64,
    silenced: AtomicBool,
}

impl Author {
    /// The author of a start that begins now.
    ///
    /// # Errors
    /// [`AuthorError::Randomness`].
    pub fn new(store: Arc<Store>) -> Result<Self, AuthorError> {
        let mut boot = [0; 16];
        getrandom::fill(&mut boot).map_err(AuthorError::Randomness)?;
        Ok(Self {
            store,
            boot: BootId::from_bytes(boot),
            numbers: Mutex::new(0..0),
            network_ahead_ms: AtomicI64::new(0),
            silenced: AtomicBool::new(false),
        })
    }

    /// This start.
    #[must_use]
    pub const fn boot(&self) -> BootId {
        self.boot
    }

    /// Takes the network's time for the messages to come, where the wall clock is further off than
    /// [`CLOCK_TOLERANCE_MS`].
    ///
    /// # Errors
    /// [`NoClock`].
    pub fn network_time(&self, network: Timestamp) -> Result<(), NoClock> {
        let wall = time::reading()?.wall;
        let signed = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
        let ahead_ms = signed(network.ms()).saturating_sub(signed(wall.ms()));
        let off = ahead_ms.unsigned_abs() > CLOCK_TOLERANCE_MS;
        self.network_ahead_ms.store(if off { ahead_ms } else { 0 }, Ordering::Relaxed);
        Ok(())
    }

    /// Lets the numbers go that were reserved and not used: the next message takes one of those that come after them.
    pub async fn renew(&self) {
        *self.numbers.lock().await = 0..0;
    }

    /// Signs nothing from now on: another process is this node, and may count on from the same number.
    pub fn silence(&self) {
        self.silenced.store(true, Ordering::Relaxed);
    }

    fn issued_at(&self) -> Result<Timestamp, NoClock> {
        let wall = time::reading()?.wall.ms();
        let ahead_ms = self.network_ahead_ms.load(Ordering::Relaxed);
        Ok(Timestamp::from_ms(wall.saturating_add_signed(ahead_ms)))
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
            if self.silenced.load(Ordering::Relaxed) {
                return Err(AuthorError::Silenced);
            }
            let message = NodeMessage {
                kind,
                node: self.store.node(),
                boot_id: self.boot,
                seq: self.number().await?,
                issued_at_ms: self.issued_at()?,
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
