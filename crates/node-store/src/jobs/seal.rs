//! Prompts and answers at rest: each job has a key of its own, wrapped by the volume key.
//!
//! XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03) with random 24-byte nonces, written before the
//! ciphertext. The associated data binds every ciphertext to its network, node, job and field, so that
//! one that was moved does not open. Destroying the wrapped key destroys the data.

use std::fmt;

use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};
use hmac::{Hmac, Mac};
use node_types::{JobId, Network, NodeId, job::Job};
use sha2::Sha256;
use zeroize::Zeroizing;

const NONCE_BYTES: usize = 24;
const KEY_BYTES: usize = 32;

/// What a ciphertext holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// The request body.
    Request,
    /// The answer, or the message of a failure.
    Answer,
}

impl Field {
    pub(super) const fn code(self) -> u8 {
        match self {
            Self::Request => 0,
            Self::Answer => 1,
        }
    }
}

/// What was stored of a job cannot be opened: it was changed, moved, or its key is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("what is stored of job {job} ({field:?}) does not open: it was changed on disk, and the job is lost")]
pub struct Tampered {
    /// The job.
    pub job: JobId,
    /// What of it.
    pub field: Field,
}

/// The system's source of randomness failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the system gave no randomness: {0}")]
pub struct NoRandomness(pub String);

/// Seals and opens the payloads of one volume. Its keys are zeroed on drop and never printed.
pub(crate) struct Sealer {
    wrap: XChaCha20Poly1305,
    digest: Hmac<Sha256>,
    binding: Vec<u8>,
}

impl fmt::Debug for Sealer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Sealer")
    }
}

/// A job's key and what it sealed.
pub(crate) struct Sealed {
    pub(crate) wrapped_key: Vec<u8>,
    pub(crate) ciphertext: Vec<u8>,
}

fn random<const N: usize>() -> Result<[u8; N], NoRandomness> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| NoRandomness(error.to_string()))?;
    Ok(bytes)
}

impl Sealer {
    /// A sealer under `volume_key`, for one node of one network.
    pub(crate) fn new(volume_key: &[u8; KEY_BYTES], network: Network, node: NodeId) -> Self {
        let mut derive = hmac_of(volume_key);
        derive.update(b"resultity/job-digest/v1");
        let digest = hmac_of(&derive.finalize().into_bytes().into());
        let mut binding = network.name().as_bytes().to_vec();
        binding.push(0);
        binding.extend(node.as_bytes());
        Self { wrap: XChaCha20Poly1305::new(volume_key.into()), digest, binding }
    }

    fn associated(&self, purpose: &[u8], job: JobId, field: u8) -> Vec<u8> {
        [purpose, &self.binding, job.as_bytes(), &[field]].concat()
    }

    fn wrap_data(&self, job: JobId) -> Vec<u8> {
        self.associated(b"resultity/job-key/v1\0", job, 0)
    }

    fn field_data(&self, job: JobId, field: Field) -> Vec<u8> {
        self.associated(b"resultity/job-field/v1\0", job, field.code())
    }

    /// Draws a key for `job` and seals its first field with it.
    pub(crate) fn seal_new(&self, job: JobId, field: Field, plain: &[u8]) -> Result<Sealed, NoRandomness> {
        // Drawn at once: each draw is a call of the system.
        let drawn = Zeroizing::new(random::<{ KEY_BYTES + 2 * NONCE_BYTES }>()?);
        let (key, nonces) = drawn.split_at(KEY_BYTES);
        let (wrap_nonce, field_nonce) = nonces.split_at(NONCE_BYTES);
        let wrapped_key = encrypt_with(&self.wrap, wrap_nonce, &self.wrap_data(job), key)?;
        let cipher = XChaCha20Poly1305::new_from_slice(key).map_err(|_| refused())?;
        let ciphertext = encrypt_with(&cipher, field_nonce, &self.field_data(job, field), plain)?;
        Ok(Sealed { wrapped_key, ciphertext })
    }

    /// Seals another field with the key that the job already has.
    pub(crate) fn seal_with(
        &self,
        wrapped_key: &[u8],
        job: JobId,
        field: Field,
        plain: &[u8],
    ) -> Result<Result<Vec<u8>, Tampered>, NoRandomness> {
        match self.unwrap(wrapped_key, job, field) {
            Ok(cipher) => encrypt(&cipher, &self.field_data(job, field), plain).map(Ok),
            Err(tampered) => Ok(Err(tampered)),
        }
    }

    /// Opens a field.
    pub(crate) fn open(
        &self,
        wrapped_key: &[u8],
        job: JobId,
        field: Field,
        ciphertext: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, Tampered> {
        let cipher = self.unwrap(wrapped_key, job, field)?;
        decrypt(&cipher, &self.field_data(job, field), ciphertext)
            .map(Zeroizing::new)
            .ok_or(Tampered { job, field })
    }

    fn unwrap(&self, wrapped_key: &[u8], job: JobId, field: Field) -> Result<XChaCha20Poly1305, Tampered> {
        decrypt(&self.wrap, &self.wrap_data(job), wrapped_key)
            .map(Zeroizing::new)
            .and_then(|key| XChaCha20Poly1305::new_from_slice(&key).ok())
            .ok_or(Tampered { job, field })
    }

    /// A keyed digest of all that makes the job what it is: the same id with another digest is another
    /// job. Keyed, because a plain hash on disk would let anyone test guesses of the prompt.
    pub(crate) fn digest(&self, job: &Job) -> [u8; 32] {
        let mut mac = self.digest.clone();
        let numbers = [
            u64::from(job.priority),
            u64::from(job.max_tokens),
            job.expires_at.ms(),
            u64::from(job.attempts_max),
        ];
        let numbers: Vec<u8> = numbers.into_iter().flat_map(u64::to_le_bytes).collect();
        for part in [
            job.id.as_bytes().as_slice(),
            job.network.name().as_bytes(),
            job.model.name.as_bytes(),
            job.model.version.as_bytes(),
            format!("{:?}", job.mode).as_bytes(),
            &numbers,
            job.request.as_json().as_bytes(),
        ] {
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }
}

/// HMAC under a 32-byte key, which is shorter than a block and so padded with zeros (RFC 2104).
fn hmac_of(key: &[u8; KEY_BYTES]) -> Hmac<Sha256> {
    let mut block = Zeroizing::new([0; 64]);
    block[..KEY_BYTES].copy_from_slice(key);
    <Hmac<Sha256> as KeyInit>::new((&*block).into())
}

fn encrypt(cipher: &XChaCha20Poly1305, aad: &[u8], msg: &[u8]) -> Result<Vec<u8>, NoRandomness> {
    encrypt_with(cipher, &random::<NONCE_BYTES>()?, aad, msg)
}

fn encrypt_with(
    cipher: &XChaCha20Poly1305,
    nonce: &[u8],
    aad: &[u8],
    msg: &[u8],
) -> Result<Vec<u8>, NoRandomness> {
    let nonce_of = XNonce::try_from(nonce).map_err(|_| refused())?;
    let sealed = cipher.encrypt(&nonce_of, Payload { msg, aad }).map_err(|_| refused())?;
    Ok([nonce, &sealed].concat())
}

/// Only a text over 256 GiB is refused, and sizes are checked long before.
fn refused() -> NoRandomness {
    NoRandomness("the text is too long".to_owned())
}

fn decrypt(cipher: &XChaCha20Poly1305, aad: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let (nonce, msg) = sealed.split_first_chunk::<NONCE_BYTES>()?;
    cipher.decrypt(&XNonce::from(*nonce), Payload { msg, aad }).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use node_types::Address;

    fn sealer(network: Network) -> Sealer {
        Sealer::new(&[7; 32], network, NodeId::derive(network, &Address::from_bytes([1; 20])))
    }

    const JOB: JobId = JobId::from_bytes([1; 16]);
    const OTHER_JOB: JobId = JobId::from_bytes([2; 16]);

    #[test]
    fn what_was_sealed_opens_and_nothing_else_does() {
        let ours = sealer(Network::Testnet);
        let sealed = ours.seal_new(JOB, Field::Request, b"prompt").unwrap();
        let open = |sealer: &Sealer, job, field, ciphertext: &[u8]| {
            sealer.open(&sealed.wrapped_key, job, field, ciphertext).map(|plain| plain.to_vec())
        };
        assert_eq!(open(&ours, JOB, Field::Request, &sealed.ciphertext), Ok(b"prompt".to_vec()));
        let tampered = Err(Tampered { job: JOB, field: Field::Answer });
        assert_eq!(open(&ours, JOB, Field::Answer, &sealed.ciphertext), tampered);
        assert!(open(&ours, OTHER_JOB, Field::Request, &sealed.ciphertext).is_err());
        assert!(open(&sealer(Network::Mainnet), JOB, Field::Request, &sealed.ciphertext).is_err());
        assert!(open(&ours, JOB, Field::Request, &[]).is_err());
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let ours = sealer(Network::Testnet);
        let sealed = ours.seal_new(JOB, Field::Request, b"prompt").unwrap();
        for bit in 0..sealed.ciphertext.len() * 8 {
            let mut changed = sealed.ciphertext.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(ours.open(&sealed.wrapped_key, JOB, Field::Request, &changed).is_err(), "bit {bit}");
        }
        for bit in 0..sealed.wrapped_key.len() * 8 {
            let mut changed = sealed.wrapped_key.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(ours.open(&changed, JOB, Field::Request, &sealed.ciphertext).is_err(), "bit {bit}");
        }
    }
}
