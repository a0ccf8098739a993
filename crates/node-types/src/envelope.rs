//! Signed envelopes: DSSE v1 (secure-systems-lab/dsse, `envelope.md` and `protocol.md`).
//!
//! ```json
//! {"payload":"<base64>","payloadType":"<type>","signatures":[{"keyid":"<key ID>","sig":"<base64>"}]}
//! ```
//!
//! A signature is over the payload's exact bytes and its type, never over re-encoded JSON.
//!
//! Two rules are stricter than DSSE, both because an accepted envelope is kept byte for byte:
//! unknown fields are refused instead of ignored, so that nothing unsigned reaches the disk under
//! a name that nobody reads; and `keyid` must be there.
//!
//! Limits: [`ENVELOPE_BYTES_MAX`], [`PAYLOAD_BYTES_MAX`], [`SIGNATURES_MAX`], [`KEYID_BYTES_MAX`],
//! [`SIGNATURE_BYTES_MAX`].

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose::STANDARD},
};
use serde::{Deserialize, Serialize};

use crate::{
    json::{JsonError, parse_strict},
    signature::{KeyId, Signature, eip191_hash},
};

/// The payload type of a configuration snapshot.
pub const CONFIG_PAYLOAD_TYPE: &str = "application/vnd.resultity.node-config+json";
/// The payload type of a keyset.
pub const KEYSET_PAYLOAD_TYPE: &str = "application/vnd.resultity.keyset+json";

/// The largest envelope in bytes: a largest payload in base64, and its signatures.
pub const ENVELOPE_BYTES_MAX: usize = 12 << 20;
/// The largest payload in bytes: 8 MiB, which holds the piece hashes of some 8 TB of models.
pub const PAYLOAD_BYTES_MAX: usize = 8 << 20;
/// The longest payload type in bytes.
pub const PAYLOAD_TYPE_BYTES_MAX: usize = 200;
/// The most signatures of one envelope.
pub const SIGNATURES_MAX: usize = 32;
/// The longest key ID in bytes.
pub const KEYID_BYTES_MAX: usize = 200;
/// The longest signature in bytes, of whatever scheme.
pub const SIGNATURE_BYTES_MAX: usize = 512;

/// The URL-safe alphabet, with or without padding.
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Why bytes are not an envelope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Not strict JSON of an envelope's shape.
    #[error("the envelope cannot be read: {0}")]
    Json(#[from] JsonError),
    /// A field that is not base64.
    #[error("{field} of the envelope is not base64")]
    NotBase64 {
        /// Which field.
        field: String,
    },
    /// A field that is longer than its limit.
    #[error("{field} of the envelope has {found} bytes, at most {max} are read")]
    FieldTooLarge {
        /// Which field.
        field: String,
        /// Bytes given.
        found: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// More than [`SIGNATURES_MAX`] signatures.
    #[error("the envelope carries {found} signatures, at most {SIGNATURES_MAX} are read")]
    TooManySignatures {
        /// Signatures given.
        found: usize,
    },
}

/// One signature as an envelope carries it: nothing is said yet about who made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvelopeSignature {
    /// The key that is said to have signed. A hint until the signature is checked.
    pub keyid: String,
    /// The signature's bytes, in the form of the key's scheme.
    pub sig: Vec<u8>,
}

/// A payload with its type and signatures, none of them checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// What the payload is.
    pub payload_type: String,
    /// The exact bytes that are signed.
    pub payload: Vec<u8>,
    /// In the order given.
    pub signatures: Vec<EnvelopeSignature>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    payload: String,
    #[serde(rename = "payloadType")]
    payload_type: String,
    signatures: Vec<WireSignature>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireSignature {
    keyid: String,
    sig: String,
}

impl Envelope {
    /// An envelope without signatures.
    #[must_use]
    pub fn unsigned(payload_type: &str, payload: Vec<u8>) -> Self {
        Self { payload_type: payload_type.to_owned(), payload, signatures: Vec::new() }
    }

    /// Adds a signature over [`Envelope::signing_hash`].
    pub fn add(&mut self, key: KeyId, signature: Signature) {
        let sig = signature.as_bytes().to_vec();
        self.signatures.push(EnvelopeSignature { keyid: key.to_string(), sig });
    }

    /// Reads an envelope; base64 may be standard or URL-safe, as DSSE demands of a reader.
    ///
    /// # Errors
    /// [`EnvelopeError`] for anything but strict JSON of an envelope's shape within the limits.
    pub fn parse(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        let wire: Wire = parse_strict(bytes, ENVELOPE_BYTES_MAX)?;
        within("payloadType", wire.payload_type.len(), PAYLOAD_TYPE_BYTES_MAX)?;
        if wire.signatures.len() > SIGNATURES_MAX {
            return Err(EnvelopeError::TooManySignatures { found: wire.signatures.len() });
        }
        let payload = decode("payload", &wire.payload, PAYLOAD_BYTES_MAX)?;
        let mut signatures = Vec::with_capacity(wire.signatures.len());
        for (index, signature) in wire.signatures.into_iter().enumerate() {
            within(&format!("signatures[{index}].keyid"), signature.keyid.len(), KEYID_BYTES_MAX)?;
            let sig = decode(&format!("signatures[{index}].sig"), &signature.sig, SIGNATURE_BYTES_MAX)?;
            signatures.push(EnvelopeSignature { keyid: signature.keyid, sig });
        }
        Ok(Self { payload_type: wire.payload_type, payload, signatures })
    }

    /// The envelope as JSON without white space, in standard base64.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let signatures = self
            .signatures
            .iter()
            .map(|it| WireSignature { keyid: it.keyid.clone(), sig: STANDARD.encode(&it.sig) })
            .collect();
        let wire = Wire {
            payload: STANDARD.encode(&self.payload),
            payload_type: self.payload_type.clone(),
            signatures,
        };
        // A struct of texts has no way to fail: there is no map key and no float in it.
        serde_json::to_vec(&wire).unwrap_or_default()
    }

    /// The hash that a signer of this envelope signs.
    #[must_use]
    pub fn signing_hash(&self) -> DocumentHash {
        DocumentHash(eip191_hash(&pae(&self.payload_type, &self.payload)))
    }
}

/// The hash of a document to sign: Keccak-256 over the EIP-191 prefix and the pre-authentication
/// encoding. Only [`Envelope::signing_hash`] makes one, so who signs it signs a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DocumentHash([u8; 32]);

impl DocumentHash {
    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// The pre-authentication encoding of DSSE v1: `DSSEv1`, the type's length, the type, the
/// payload's length and the payload, with one space between; lengths in decimal, in bytes.
#[must_use]
pub fn pae(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    bytes.extend_from_slice(payload);
    bytes
}

fn within(field: &str, found: usize, max: usize) -> Result<(), EnvelopeError> {
    if found <= max {
        return Ok(());
    }
    Err(EnvelopeError::FieldTooLarge { field: field.to_owned(), found, max })
}

fn decode(field: &str, text: &str, bytes_max: usize) -> Result<Vec<u8>, EnvelopeError> {
    let url_safe = text.bytes().any(|byte| byte == b'-' || byte == b'_') || !text.len().is_multiple_of(4);
    let decoded = if url_safe { URL_SAFE.decode(text) } else { STANDARD.decode(text) };
    let bytes = decoded.map_err(|_| EnvelopeError::NotBase64 { field: field.to_owned() })?;
    within(field, bytes.len(), bytes_max)?;
    Ok(bytes)
}
