//! Whether a message of a node counts: the checks of `docs/protocol.md`, section 2, in their order.
//!
//! Those that the message itself answers (1 to 4) are here and pure. Those that take a memory (5 and 6) are in
//! `core::nodes`.

use node_types::{
    Address, Digest, NodeId, Timestamp,
    message::{Domain, MessageKind},
    protocol::{BadMessage, ErrorAnswer, ErrorCode, NODE_FRAME_BYTES_MAX, Signed},
};

/// Why a message does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} ({code:?})")]
pub(crate) struct Refusal {
    /// For a machine.
    pub(crate) code: ErrorCode,
    /// For a person.
    pub(crate) message: String,
    /// The message's number, where it could be read.
    pub(crate) seq: u64,
}

impl Refusal {
    pub(crate) fn new(code: ErrorCode, seq: u64, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), seq }
    }

    pub(crate) fn answer(&self) -> ErrorAnswer {
        ErrorAnswer { code: self.code, message: self.message.clone(), now_ms: Some(crate::clock::now()) }
    }
}

/// Checks 1: size and shape.
pub(crate) fn read(bytes: &[u8]) -> Result<Signed, Refusal> {
    if bytes.len() > NODE_FRAME_BYTES_MAX {
        return Err(too_large());
    }
    let text = std::str::from_utf8(bytes)
        .map_err(|_| Refusal::new(ErrorCode::Malformed, 0, "the message is not UTF-8"))?;
    Signed::decode(text).map_err(|error| Refusal::new(ErrorCode::Malformed, 0, error.to_string()))
}

pub(crate) fn too_large() -> Refusal {
    let message = format!("a message has at most {NODE_FRAME_BYTES_MAX} bytes");
    Refusal::new(ErrorCode::TooLarge, 0, message)
}

/// Checks 2 to 4: signature and payload, registration, time. Gives the address that signed.
pub(crate) fn check(
    signed: &Signed,
    domain: &Domain,
    is_registered: impl FnOnce(&NodeId) -> bool,
    now: Timestamp,
) -> Result<Address, Refusal> {
    let (message, seq) = (&signed.message, signed.message.seq);
    let refused = |code, error: &BadMessage| Refusal::new(code, seq, error.to_string());
    let address = message
        .recover(domain, &signed.signature)
        .map_err(|error| refused(ErrorCode::BadSignature, &error.into()))?;
    let found = Digest::of(signed.payload.as_bytes());
    if found != message.payload_hash {
        let error = BadMessage::OtherPayload { found, signed: message.payload_hash };
        return Err(refused(ErrorCode::BadSignature, &error));
    }
    if message.kind != MessageKind::Register && !is_registered(&message.node) {
        let text = format!("{} is not registered: register first", message.node);
        return Err(Refusal::new(ErrorCode::NotRegistered, seq, text));
    }
    signed.check(domain, now).map_err(|error| match error {
        BadMessage::OutOfTime { .. } => refused(ErrorCode::OutOfTime, &error),
        BadMessage::Malformed(_) | BadMessage::OtherKind { .. } => refused(ErrorCode::Malformed, &error),
        BadMessage::Signature(_) | BadMessage::OtherPayload { .. } => {
            refused(ErrorCode::BadSignature, &error)
        }
    })?;
    Ok(address)
}
