//! A network for tests: keys made of one repeated byte, documents that pass, and the signing that
//! the crate itself does not do.
#![expect(clippy::unwrap_used, reason = "helpers of tests: a failure here is a failure of the test")]

use k256::ecdsa::SigningKey;
use node_types::{
    Address, Digest, Network, Timestamp,
    envelope::{CONFIG_PAYLOAD_TYPE, DocumentHash, Envelope, KEYSET_PAYLOAD_TYPE},
    keyset::{Key, VerifiedKeyset},
    message::MessageHash,
    signature::Signature,
};
use serde_json::{Value, json};

pub(crate) const NOW: Timestamp = Timestamp::from_ms(1_795_478_400_000);
pub(crate) const HOUR_MS: u64 = 3_600_000;
pub(crate) const CHAIN_ID: u64 = 84_532;

/// A secp256k1 key whose secret is 32 times the same byte. Signing is deterministic (RFC 6979).
pub(crate) struct Signer(SigningKey);

impl Signer {
    pub(crate) fn new(byte: u8) -> Self {
        Self(SigningKey::from_slice(&[byte; 32]).unwrap())
    }

    pub(crate) fn address(&self) -> Address {
        let point = self.0.verifying_key().to_sec1_point(false);
        Address::of_public_key(point.as_bytes()[1..].try_into().unwrap())
    }

    pub(crate) fn key(&self) -> Key {
        Key::new(self.address())
    }

    pub(crate) fn sign_document(&self, hash: DocumentHash) -> Signature {
        self.sign(hash.as_bytes())
    }

    pub(crate) fn sign_message(&self, hash: MessageHash) -> Signature {
        self.sign(hash.as_bytes())
    }

    fn sign(&self, hash: &[u8; 32]) -> Signature {
        let (signature, recovery) = self.0.sign_prehash_recoverable(hash);
        let mut bytes = signature.to_bytes().to_vec();
        bytes.push(recovery.to_byte());
        Signature::from_slice(&bytes).unwrap()
    }
}

/// An envelope of `payload`, signed by each of `signers` in turn.
pub(crate) fn signed(payload_type: &str, payload: &Value, signers: &[&Signer]) -> Envelope {
    let mut envelope = Envelope::unsigned(payload_type, serde_json::to_vec(payload).unwrap());
    for signer in signers {
        envelope.add(signer.key().id, signer.sign_document(envelope.signing_hash()));
    }
    envelope
}

pub(crate) fn signed_config(payload: &Value, signers: &[&Signer]) -> Vec<u8> {
    signed(CONFIG_PAYLOAD_TYPE, payload, signers).to_bytes()
}

pub(crate) fn signed_keyset(payload: &Value, signers: &[&Signer]) -> Vec<u8> {
    signed(KEYSET_PAYLOAD_TYPE, payload, signers).to_bytes()
}

/// A keyset document of these keys.
pub(crate) fn keyset(version: u64, threshold: u16, signers: &[&Signer]) -> Value {
    let keys: Vec<Key> = signers.iter().map(|signer| signer.key()).collect();
    json!({
        "network": "testnet",
        "version": version,
        "chain_id": CHAIN_ID,
        "issued_at": NOW,
        "keys": keys,
        "threshold": threshold,
    })
}

pub(crate) fn trusted(document: &Value) -> VerifiedKeyset {
    VerifiedKeyset::trust(&serde_json::to_vec(document).unwrap(), Network::Testnet).unwrap()
}

/// A snapshot that passes: issued an hour ago, to refresh in an hour, valid for two.
pub(crate) fn config(version: u64) -> Value {
    json!({
        "network": "testnet",
        "version": version,
        "issued_at": NOW.ms() - HOUR_MS,
        "refresh_by": NOW.ms() + HOUR_MS,
        "valid_until": NOW.ms() + 2 * HOUR_MS,
        "keyset_version": 1,
        "models": [{
            "name": "gemma-3-270m",
            "version": "1.0.0",
            "tasks": ["chat", "completion"],
            "engine": "llama.cpp",
            "memory_bytes": 536_870_912,
            "files": [
                {
                    "path": "weights/model.gguf",
                    "bytes": (64 << 20) + 1,
                    "sha256": Digest::of(b"weights"),
                    "pieces_blake3": ["00".repeat(32), "11".repeat(32)],
                },
                { "path": "tokenizer.json", "bytes": 12, "sha256": Digest::of(b"tokenizer") },
            ],
            "sources": ["https://models.example/gemma-3-270m/"],
        }],
        "runtime": {
            "kind": "container",
            "engine": "llama.cpp",
            "image": "registry.example:5000/llama.cpp",
            "digest": Digest::of(b"manifest"),
            "config_digest": Digest::of(b"configuration"),
            "platform": "linux/amd64",
            "args": ["--threads", "4"],
        },
        "limits": {
            "queue_jobs_max": 1000,
            "queue_bytes_max": 67_108_864,
            "request_bytes_max": 1_048_576,
            "max_tokens": 4096,
            "execution_timeout_ms": 600_000,
            "ttl_ms_max": 86_400_000,
            "attempts_max": 3,
            "concurrency": 2,
            "logs_bytes_max": 67_108_864,
        },
        "participation": { "subclouds": ["europe"] },
        "timings": {
            "heartbeat_ms": 30_000,
            "sync_ms": 300_000,
            "flush_ms": 60_000,
            "retry_ms_min": 1000,
            "retry_ms_max": 60_000,
            "trace_ttl_ms": 604_800_000,
            "log_ttl_ms": 604_800_000,
            "offline_grace_ms": 86_400_000,
            "partial_file_ttl_ms": 86_400_000,
        },
        "updates": {
            "agents": [{ "version": "0.1.0", "digest": Digest::of(b"agent") }],
            "runtimes": [{ "engine": "llama.cpp", "version": "b6200", "digest": Digest::of(b"manifest") }],
        },
    })
}

/// `document` with the value at the JSON pointer replaced; the last key may be new.
pub(crate) fn with(mut document: Value, pointer: &str, value: Value) -> Value {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let parent = document.pointer_mut(parent).unwrap();
    match parent.as_array_mut() {
        Some(items) => items[key.parse::<usize>().unwrap()] = value,
        None => parent[key] = value,
    }
    document
}
