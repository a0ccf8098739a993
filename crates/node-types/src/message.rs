//! What a node signs: one flat EIP-712 struct for every message, so that any Ethereum tool can
//! check it.
//!
//! ```text
//! EIP712Domain(string name,string version,uint256 chainId)
//! NodeMessage(string kind,string node,string bootId,uint64 seq,uint64 issuedAtMs,uint64 ttlMs,bytes32 configDigest,bytes32 payloadHash)
//! ```
//!
//! `kind` is [`MessageKind::name`]; `node` and `bootId` are the texts that [`NodeId`] and
//! [`BootId`] print; the digests are their 32 bytes. The domain's name is [`DOMAIN_NAME`], its
//! version [`DOMAIN_VERSION`]. The network is signed through `node`, which is derived from network
//! and address: also where two networks share a chain ID, a message of one is none of the other.
//!
//! A signer takes a [`NodeMessage`], never a hash: whoever signs bare hashes signs anything,
//! a transfer of money included.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha3::{Digest as _, Keccak256};

use crate::{
    Address, BootId, Digest, Network, NodeId, Timestamp,
    id::{NotAnId, hex_encode},
    signature::{BadSignature, Signature},
};

/// `name` of the EIP-712 domain.
pub const DOMAIN_NAME: &str = "Resultity Node";
/// `version` of the EIP-712 domain; it changes when the struct does.
pub const DOMAIN_VERSION: &str = "1";
/// The type of the domain as EIP-712 encodes it.
pub const DOMAIN_TYPE: &str = "EIP712Domain(string name,string version,uint256 chainId)";
/// The type of a message as EIP-712 encodes it.
pub const MESSAGE_TYPE: &str = "NodeMessage(string kind,string node,string bootId,uint64 seq,\
     uint64 issuedAtMs,uint64 ttlMs,bytes32 configDigest,bytes32 payloadHash)";
/// `configDigest` of a node that has no snapshot yet: 32 zero bytes.
pub const NO_CONFIG: Digest = Digest::from_bytes([0; 32]);

/// What a message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageKind {
    /// The node makes itself known.
    Register,
    /// The first on a connection.
    Hello,
    /// The node is there.
    Heartbeat,
    /// A job is on the node's disk.
    Accept,
    /// A part of a streamed answer.
    Chunk,
    /// A job's answer.
    Result,
    /// A job has no answer.
    Failure,
    /// A job's time ended first.
    Expired,
    /// A batch of log records.
    LogBatch,
    /// A batch of traces.
    TraceBatch,
    /// A snapshot was applied, refused or taken back.
    ConfigReport,
    /// The node is linked to an account.
    AccountLink,
    /// The answer to an administrative ping.
    Pong,
    /// The node ends the connection.
    Leaving,
    /// The node was restored from a backup and asks what became of its jobs.
    Inquiry,
}

impl MessageKind {
    /// All kinds.
    pub const ALL: [Self; 15] = [
        Self::Register,
        Self::Hello,
        Self::Heartbeat,
        Self::Accept,
        Self::Chunk,
        Self::Result,
        Self::Failure,
        Self::Expired,
        Self::LogBatch,
        Self::TraceBatch,
        Self::ConfigReport,
        Self::AccountLink,
        Self::Pong,
        Self::Leaving,
        Self::Inquiry,
    ];

    /// As it is written in JSON and signed: `log_batch`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Register => "register",
            Self::Hello => "hello",
            Self::Heartbeat => "heartbeat",
            Self::Accept => "accept",
            Self::Chunk => "chunk",
            Self::Result => "result",
            Self::Failure => "failure",
            Self::Expired => "expired",
            Self::LogBatch => "log_batch",
            Self::TraceBatch => "trace_batch",
            Self::ConfigReport => "config_report",
            Self::AccountLink => "account_link",
            Self::Pong => "pong",
            Self::Leaving => "leaving",
            Self::Inquiry => "inquiry",
        }
    }
}

impl fmt::Display for MessageKind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

impl FromStr for MessageKind {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        Self::ALL.into_iter().find(|kind| kind.name() == text).ok_or_else(|| NotAnId {
            found: text.to_owned(),
            wanted: "a kind of message: write for example heartbeat",
        })
    }
}

/// Where a signature counts: one network on one chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Domain {
    /// The network, from which node IDs are derived.
    pub network: Network,
    /// The network's chain ID (EIP-155), from the keyset.
    pub chain_id: u64,
}

impl Domain {
    fn separator(&self) -> [u8; 32] {
        hash_struct(
            DOMAIN_TYPE,
            &[keccak(DOMAIN_NAME.as_bytes()), keccak(DOMAIN_VERSION.as_bytes()), word(self.chain_id)],
        )
    }
}

/// A message of a node, apart from its payload, which it names by hash.
///
/// In JSON its fields carry the names of the signed struct (`bootId`, `issuedAtMs`, ...).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeMessage {
    /// What it says.
    pub kind: MessageKind,
    /// Who says it: the node ID of the signing key.
    pub node: NodeId,
    /// The start of the Agent that says it.
    pub boot_id: BootId,
    /// Never used twice by one node, also across starts.
    pub seq: u64,
    /// When it was signed.
    pub issued_at_ms: Timestamp,
    /// How long after that it counts, in milliseconds.
    pub ttl_ms: u64,
    /// The snapshot in force, [`NO_CONFIG`] before the first.
    pub config_digest: Digest,
    /// SHA-256 of the payload's exact bytes.
    pub payload_hash: Digest,
}

/// The EIP-712 hash of a message: what is signed. Only [`NodeMessage::signing_hash`] makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageHash([u8; 32]);

impl MessageHash {
    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl NodeMessage {
    /// Keccak-256 over `0x19 0x01`, the domain's hash and the struct's hash (EIP-712).
    #[must_use]
    pub fn signing_hash(&self, domain: &Domain) -> MessageHash {
        let message = hash_struct(
            MESSAGE_TYPE,
            &[
                keccak(self.kind.name().as_bytes()),
                keccak(self.node.to_string().as_bytes()),
                keccak(self.boot_id.to_string().as_bytes()),
                word(self.seq),
                word(self.issued_at_ms.ms()),
                word(self.ttl_ms),
                *self.config_digest.as_bytes(),
                *self.payload_hash.as_bytes(),
            ],
        );
        let mut hash = Keccak256::new();
        hash.update([0x19, 0x01]);
        hash.update(domain.separator());
        hash.update(message);
        MessageHash(hash.finalize().into())
    }

    /// The address that signed this message, which is the address of the node that it names.
    ///
    /// # Errors
    /// [`BadSignature::NoSigner`] where no key made the signature, [`BadSignature::OtherNode`]
    /// where the key is another node's: of another key, of another network, or of another message.
    pub fn recover(&self, domain: &Domain, signature: &Signature) -> Result<Address, BadSignature> {
        let address = signature.recover_hash(self.signing_hash(domain).as_bytes())?;
        let signer = NodeId::derive(domain.network, &address);
        if signer != self.node {
            return Err(BadSignature::OtherNode { claimed: self.node, signer, address });
        }
        Ok(address)
    }

    /// The first moment at which it no longer counts.
    #[must_use]
    pub const fn expires_at(&self) -> Timestamp {
        self.issued_at_ms.plus_ms(self.ttl_ms)
    }

    /// The message as `eth_signTypedData_v4` takes it, for tools that check it.
    #[must_use]
    pub fn typed_data(&self, domain: &Domain) -> Value {
        let bytes32 = |digest: &Digest| format!("0x{}", hex_encode(digest.as_bytes()));
        json!({
            "types": {
                "EIP712Domain": fields_of(DOMAIN_TYPE),
                "NodeMessage": fields_of(MESSAGE_TYPE),
            },
            "primaryType": "NodeMessage",
            "domain": { "name": DOMAIN_NAME, "version": DOMAIN_VERSION, "chainId": domain.chain_id },
            "message": {
                "kind": self.kind.name(),
                "node": self.node.to_string(),
                "bootId": self.boot_id.to_string(),
                "seq": self.seq,
                "issuedAtMs": self.issued_at_ms.ms(),
                "ttlMs": self.ttl_ms,
                "configDigest": bytes32(&self.config_digest),
                "payloadHash": bytes32(&self.payload_hash),
            },
        })
    }
}

/// `{"name", "type"}` of each field of an encoded type, so that both stand in one place.
fn fields_of(encoded: &str) -> Vec<Value> {
    let fields = encoded.split_once('(').map_or("", |(_, fields)| fields.trim_end_matches(')'));
    fields
        .split(',')
        .filter_map(|field| field.split_once(' '))
        .map(|(kind, name)| json!({ "name": name, "type": kind }))
        .collect()
}

fn keccak(bytes: &[u8]) -> [u8; 32] {
    Keccak256::digest(bytes).into()
}

/// An unsigned integer as EIP-712 encodes it: 32 bytes, big-endian.
fn word(value: u64) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[24..].copy_from_slice(&value.to_be_bytes());
    bytes
}

fn hash_struct(encoded_type: &str, words: &[[u8; 32]]) -> [u8; 32] {
    let mut hash = Keccak256::new();
    hash.update(keccak(encoded_type.as_bytes()));
    for word in words {
        hash.update(word);
    }
    hash.finalize().into()
}
