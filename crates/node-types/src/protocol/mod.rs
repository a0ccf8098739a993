//! What a node and its network say to each other: `docs/protocol.md` is the specification, this is its words.
//!
//! Every message of a node is [`Signed`]; what the network says comes over a connection that the node opened and is
//! judged by what it is: snapshots and keysets carry signatures of their own, jobs are checked against the snapshot.
//!
//! Unknown fields are ignored in what the network answers, so that it can say more to newer nodes, and kept out of
//! everything that is stored. Unknown kinds of frames are an error: both sides name the version they speak.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    Digest, Timestamp,
    job::{OUTPUT_BYTES_MAX, REQUEST_BYTES_MAX},
    message::{Domain, MessageKind, NodeMessage},
    signature::{BadSignature, Signature},
};

mod network;
mod node;

pub use network::{
    Acknowledged, Claim, Claimed, Claims, ErrorAnswer, ErrorCode, Keysets, NetworkFrame, NetworkTime,
    Registered, SnapshotRef,
};
pub use node::{
    Accept, AcceptAnswer, Account, Chunk, ConfigOutcome, ConfigReport, DRIFTED_MAX, ExpiredJob, FailedJob,
    Heartbeat, Hello, INQUIRY_JOBS_MAX, Inquiry, JobCounts, Leaving, LogBatch, Pong, Readiness, Register,
    ResultOfJob, TraceBatch,
};

/// The version of the protocol, in [`Register`], [`Hello`] and [`NetworkFrame::Welcome`].
pub const VERSION: u32 = 1;
/// How long a message counts after it was signed, unless it says otherwise: 2 minutes in milliseconds.
pub const MESSAGE_TTL_MS: u64 = 120_000;
/// The largest message of a node: an answer doubles at the most where it is quoted in JSON.
pub const NODE_FRAME_BYTES_MAX: usize = 2 * OUTPUT_BYTES_MAX + (64 << 10);
/// The largest frame of the network: a job.
pub const NETWORK_FRAME_BYTES_MAX: usize = REQUEST_BYTES_MAX + (64 << 10);
/// The longest header of a message in bytes.
pub const HEADER_BYTES_MAX: usize = 4 << 10;
/// The media type of a signed message in a request's body.
pub const MEDIA_TYPE: &str = "application/vnd.resultity.node-message";

/// Paths below the network's base URL.
pub mod path {
    /// GET: [`Keysets`](super::Keysets).
    pub const KEYSETS: &str = "/node/v1/keysets";
    /// POST [`Register`](super::Register): [`Registered`](super::Registered).
    pub const REGISTER: &str = "/node/v1/register";
    /// GET: the newest snapshot's envelope; 304 with `If-None-Match: "<config digest>"`, 404 where there is none.
    pub const SNAPSHOT: &str = "/node/v1/snapshot";
    /// POST [`Heartbeat`](super::Heartbeat): [`NetworkTime`](super::NetworkTime).
    pub const HEARTBEAT: &str = "/node/v1/heartbeat";
    /// POST [`LogBatch`](super::LogBatch): [`Acknowledged`](super::Acknowledged).
    pub const LOGS: &str = "/node/v1/logs";
    /// POST [`TraceBatch`](super::TraceBatch): [`Acknowledged`](super::Acknowledged).
    pub const TRACES: &str = "/node/v1/traces";
    /// POST [`ConfigReport`](super::ConfigReport): [`Acknowledged`](super::Acknowledged).
    pub const CONFIG_REPORT: &str = "/node/v1/config-report";
    /// POST [`Account`](super::Account): [`Acknowledged`](super::Acknowledged).
    pub const ACCOUNT: &str = "/node/v1/account";
    /// POST [`Inquiry`](super::Inquiry): [`Claims`](super::Claims).
    pub const INQUIRY: &str = "/node/v1/inquiry";
    /// WebSocket: [`NetworkFrame`](super::NetworkFrame)s against [`Signed`](super::Signed) messages.
    pub const SESSION: &str = "/node/v1/session";
}

/// A message of a node as it goes over the wire, the same in a request's body and in a frame:
///
/// ```text
/// {"message":{...},"signature":"0x..."}\n<payload>
/// ```
///
/// The payload follows byte for byte, because its hash is what is signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// What is signed.
    pub message: NodeMessage,
    /// Over [`NodeMessage::signing_hash`].
    pub signature: Signature,
    /// JSON, of the shape that `message.kind` says.
    pub payload: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    message: NodeMessage,
    signature: Signature,
}

/// Why bytes are not a message that counts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadMessage {
    /// Too large, or without its two parts.
    #[error("not a signed message: {0}")]
    Malformed(String),
    /// Signed by another key, or not at all.
    #[error(transparent)]
    Signature(#[from] BadSignature),
    /// The payload is not the one that was signed.
    #[error("the payload is {found}, {signed} was signed")]
    OtherPayload {
        /// Its digest.
        found: Digest,
        /// The digest in the message.
        signed: Digest,
    },
    /// Another kind than asked for here.
    #[error("a message of kind {found} where {wanted} was expected")]
    OtherKind {
        /// Its kind.
        found: MessageKind,
        /// The kind that belongs here.
        wanted: MessageKind,
    },
    /// Its time has ended, or has not begun.
    #[error("issued at {issued_at} for {ttl_ms} ms, it is {now}: check the clock")]
    OutOfTime {
        /// When it was signed.
        issued_at: Timestamp,
        /// How long it counts.
        ttl_ms: u64,
        /// The reader's time.
        now: Timestamp,
    },
}

impl Signed {
    /// As it goes over the wire.
    #[must_use]
    pub fn encode(&self) -> String {
        let header = Header { message: self.message.clone(), signature: self.signature };
        // Its fields are numbers, names and hex: they always can be written.
        let header = serde_json::to_string(&header).unwrap_or_default();
        format!("{header}\n{}", self.payload)
    }

    /// Reads a message. It is not trusted by that: see [`Signed::open`].
    ///
    /// # Errors
    /// [`BadMessage::Malformed`] for what is larger than [`NODE_FRAME_BYTES_MAX`] or has not its two parts.
    pub fn decode(text: &str) -> Result<Self, BadMessage> {
        let malformed = |why: &str| BadMessage::Malformed(why.to_owned());
        if text.len() > NODE_FRAME_BYTES_MAX {
            return Err(malformed("it is too large"));
        }
        let Some((header, payload)) = text.split_once('\n').filter(|it| it.0.len() <= HEADER_BYTES_MAX)
        else {
            return Err(malformed("its first line is no header"));
        };
        let Header { message, signature } =
            serde_json::from_str(header).map_err(|error| malformed(&error.to_string()))?;
        Ok(Self { message, signature, payload: payload.to_owned() })
    }

    /// Checks signature, payload and time, and reads the payload. Whether the number was seen before is the
    /// reader's to know.
    ///
    /// # Errors
    /// [`BadMessage`].
    pub fn open<T: Payload>(&self, domain: &Domain, now: Timestamp) -> Result<T, BadMessage> {
        self.check(domain, now)?;
        self.read()
    }

    /// Checks signature, payload and time.
    ///
    /// # Errors
    /// [`BadMessage`].
    pub fn check(&self, domain: &Domain, now: Timestamp) -> Result<(), BadMessage> {
        self.message.recover(domain, &self.signature)?;
        let (found, signed) = (Digest::of(self.payload.as_bytes()), self.message.payload_hash);
        if found != signed {
            return Err(BadMessage::OtherPayload { found, signed });
        }
        let (issued_at, ttl_ms) = (self.message.issued_at_ms, self.message.ttl_ms);
        // The same span to both sides: a clock that is ahead by less than a message's life does no harm.
        if now >= self.message.expires_at() || issued_at >= now.plus_ms(ttl_ms.max(1)) {
            return Err(BadMessage::OutOfTime { issued_at, ttl_ms, now });
        }
        Ok(())
    }

    /// Reads the payload of a message that was checked.
    ///
    /// # Errors
    /// [`BadMessage::OtherKind`], [`BadMessage::Malformed`].
    pub fn read<T: Payload>(&self) -> Result<T, BadMessage> {
        if self.message.kind != T::KIND {
            return Err(BadMessage::OtherKind { found: self.message.kind, wanted: T::KIND });
        }
        // Says where, and never what stands there: it may be somebody's answer.
        serde_json::from_str(&self.payload).map_err(|error| {
            BadMessage::Malformed(format!(
                "the payload of kind {} does not have its shape (line {}, column {})",
                T::KIND,
                error.line(),
                error.column()
            ))
        })
    }
}

/// What a message of one kind carries.
pub trait Payload: Serialize + DeserializeOwned {
    /// The kind of message that carries it.
    const KIND: MessageKind;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Address, BootId, Network, NodeId, message::NO_CONFIG};

    fn unsigned(payload: &str) -> Signed {
        let address = Address::from_bytes([7; 20]);
        let message = NodeMessage {
            kind: MessageKind::Pong,
            node: NodeId::derive(Network::Testnet, &address),
            boot_id: BootId::from_bytes([1; 16]),
            seq: 3,
            issued_at_ms: Timestamp::from_ms(1_000),
            ttl_ms: 10,
            config_digest: NO_CONFIG,
            payload_hash: Digest::of(payload.as_bytes()),
        };
        let mut signature = [1; 65];
        signature[64] = 27;
        Signed { message, signature: Signature::from_slice(&signature).unwrap(), payload: payload.to_owned() }
    }

    #[test]
    fn a_message_is_read_as_it_was_written_with_its_payload_byte_for_byte() {
        for payload in ["{\"nonce\":1}", "{ \"nonce\" :\n1}\n", ""] {
            let signed = unsigned(payload);
            assert_eq!(Signed::decode(&signed.encode()), Ok(signed));
        }
    }

    #[test]
    fn what_is_no_message_is_refused_without_its_text() {
        for text in ["", "\n", "{}\n{}", "CANARY", "{\"message\":\"CANARY\"}\n"] {
            let error = Signed::decode(text).unwrap_err();
            assert!(matches!(error, BadMessage::Malformed(_)), "{error}");
        }
        let long = format!("{}\n", " ".repeat(HEADER_BYTES_MAX + 1));
        assert!(Signed::decode(&long).is_err());
        let error = unsigned("{\"nonce\":\"CANARY\"}").read::<Pong>().unwrap_err();
        assert!(!error.to_string().contains("CANARY"), "{error}");
    }

    #[test]
    fn a_payload_is_read_as_its_own_kind_alone() {
        let signed = unsigned("{\"nonce\":1}");
        assert_eq!(signed.read::<Pong>(), Ok(Pong { nonce: 1 }));
        let wanted = MessageKind::Leaving;
        assert_eq!(signed.read::<Leaving>(), Err(BadMessage::OtherKind { found: MessageKind::Pong, wanted }));
    }
}
