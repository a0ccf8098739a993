//! Web3 Secret Storage, version 3: how wallets write one key under a passphrase.
//!
//! Source: the definition at <https://ethereum.org/developers/docs/data-structures-and-encoding/web3-secret-storage>
//! and what geth, ethers and Parity write. `crypto` is found in any case; the cipher is
//! `aes-128-ctr`; the key derivation is `scrypt` or `pbkdf2` with `hmac-sha256`; `mac` is Keccak-256 of
//! the second half of the derived key and the ciphertext. `address` may be missing, and is checked where
//! it is there. Unknown fields are ignored, as every wallet adds its own.
//!
//! A file comes from anywhere, so its limits are checked before the work: 64 KiB of JSON, 512 MiB and
//! [`SCRYPT_WORK_BYTES_MAX`] for scrypt, [`PBKDF2_ROUNDS_MAX`] for pbkdf2.
//!
//! Written files take geth's N = 262144, r = 8, p = 1: 256 MiB and about a second.
//!
//! Left out: versions 1 and 2, the presale wallet (`encseed`, refused by name), and Unicode normalisation
//! of passphrases, on which the wallets disagree: the passphrase is taken as its UTF-8 bytes.

use std::fmt;

use aes::Aes128;
use ctr::{
    Ctr128BE,
    cipher::{KeyIvInit, StreamCipher},
};
use node_types::{
    Address,
    id::{hex_decode, hex_encode},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sha2::Sha256;
use sha3::{Digest as _, Keccak256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::secret::NodeKey;

/// The longest file in bytes.
pub const KEYSTORE_BYTES_MAX: usize = 64 << 10;
/// The most memory that scrypt may take in bytes: 128 r (N + p + 1).
pub const SCRYPT_MEMORY_BYTES_MAX: u64 = 512 << 20;
/// The most bytes that scrypt may fill and read again: 128 N r p. geth's own files take 256 MiB.
pub const SCRYPT_WORK_BYTES_MAX: u64 = 2 << 30;
/// The most lanes that scrypt may compute.
pub const SCRYPT_P_MAX: u64 = 16;
/// The most rounds that pbkdf2 may make.
pub const PBKDF2_ROUNDS_MAX: u64 = 10_000_000;
/// The longest salt in bytes.
pub const SALT_BYTES_MAX: usize = 1024;

const EXPORT_LOG_N: u8 = 18;
const EXPORT_R: u32 = 8;
const EXPORT_P: u32 = 1;

/// Why a wallet file was not imported, or none was written.
#[derive(Debug, thiserror::Error)]
pub enum KeystoreError {
    /// Longer than any wallet file.
    #[error("the file has {found} bytes, a wallet file has at most {KEYSTORE_BYTES_MAX}")]
    TooLarge {
        /// Bytes given.
        found: usize,
    },
    /// Not a JSON object.
    #[error("the file is not a JSON object: it is no Web3 Secret Storage file")]
    NotJson(#[source] Option<serde_json::Error>),
    /// The wallet of Ethereum's presale.
    #[error(
        "this is a crowdsale wallet (it has an encseed), not Web3 Secret Storage: import it into a wallet \
         program and export it from there as version 3"
    )]
    Crowdsale,
    /// Another version.
    #[error("version {found} of Web3 Secret Storage is not read, only version 3")]
    Version {
        /// What the file says.
        found: String,
    },
    /// A field is missing or does not hold what it should.
    #[error("the field {field} should hold {wanted}")]
    Field {
        /// The field.
        field: &'static str,
        /// What it should hold.
        wanted: &'static str,
    },
    /// A cipher, key derivation or hash that is not read.
    #[error("the {field} {found:?} is not read, only {wanted}")]
    Unsupported {
        /// Where it stands.
        field: &'static str,
        /// What the file asks for.
        found: String,
        /// What is read.
        wanted: &'static str,
    },
    /// A parameter beyond the limits; nothing was computed.
    #[error("the key derivation parameter {parameter} is {found}: {limit}")]
    Limit {
        /// The parameter.
        parameter: &'static str,
        /// What the file asks for.
        found: u64,
        /// What is allowed.
        limit: &'static str,
    },
    /// The memory that scrypt needs is not there.
    #[error("{bytes} bytes of memory are needed for this file: free some")]
    NoMemory {
        /// What is needed.
        bytes: u64,
    },
    /// The checksum over the ciphertext is another one. A wrong passphrase and an altered file look the
    /// same.
    #[error("the passphrase is wrong, or the file was altered")]
    WrongPassphrase,
    /// What was decrypted is no secp256k1 key.
    #[error("the file holds no secp256k1 key")]
    NotAKey,
    /// The key belongs to another address.
    #[error("the file names the address {recorded}, its key has {derived}")]
    AddressMismatch {
        /// The address in the file.
        recorded: Address,
        /// The address of the key.
        derived: Address,
    },
    /// An export without a passphrase would lay the key open.
    #[error("the passphrase is empty: choose one, it is all that protects the exported key")]
    EmptyPassphrase,
    /// The operating system gave no random bytes.
    #[error("the operating system gave no random bytes")]
    Random(#[source] getrandom::Error),
}

/// A key derivation whose parameters are within the limits.
#[derive(Clone, PartialEq, Eq)]
enum Kdf {
    Scrypt { log_n: u8, r: u32, p: u32, salt: Vec<u8> },
    Pbkdf2 { rounds: u32, salt: Vec<u8> },
}

impl fmt::Debug for Kdf {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scrypt { log_n, r, p, .. } => write!(out, "scrypt(N=2^{log_n}, r={r}, p={p})"),
            Self::Pbkdf2 { rounds, .. } => write!(out, "pbkdf2(c={rounds})"),
        }
    }
}

/// A wallet file that was read and is within the limits; nothing is decrypted yet.
struct Wallet {
    kdf: Kdf,
    iv: [u8; 16],
    ciphertext: [u8; 32],
    mac: [u8; 32],
    address: Option<Address>,
}

#[derive(Deserialize)]
struct ScryptParams {
    n: u64,
    r: u64,
    p: u64,
    dklen: u64,
    salt: String,
}

#[derive(Deserialize)]
struct Pbkdf2Params {
    c: u64,
    prf: String,
    dklen: u64,
    salt: String,
}

/// Reads the node key out of a Web3 Secret Storage file.
///
/// Takes as long as the file's parameters ask for, within the limits of this module.
///
/// # Errors
/// [`KeystoreError`]; no input makes it panic or take more than [`SCRYPT_MEMORY_BYTES_MAX`] and a few
/// hundred KiB.
pub fn import_keystore(bytes: &[u8], passphrase: &Zeroizing<String>) -> Result<NodeKey, KeystoreError> {
    let wallet = parse(bytes)?;
    let derived = derive(&wallet.kdf, passphrase.as_bytes())?;
    let (cipher_key, mac_key) = halves(&derived);
    let found = mac(mac_key, &wallet.ciphertext);
    if !bool::from(found.ct_eq(&wallet.mac)) {
        return Err(KeystoreError::WrongPassphrase);
    }
    let mut key = Zeroizing::new(wallet.ciphertext);
    Ctr128BE::<Aes128>::new(cipher_key.into(), &wallet.iv.into()).apply_keystream(key.as_mut_slice());
    let key = NodeKey::from_bytes(&key).map_err(|_| KeystoreError::NotAKey)?;
    match wallet.address {
        Some(recorded) if recorded != key.address() => {
            Err(KeystoreError::AddressMismatch { recorded, derived: key.address() })
        }
        Some(_) | None => Ok(key),
    }
}

/// Writes the node key as a Web3 Secret Storage file under a passphrase, with the parameters of geth.
///
/// The file opens the node's account to whoever has it and the passphrase.
///
/// # Errors
/// [`KeystoreError::EmptyPassphrase`], [`KeystoreError::Random`], [`KeystoreError::NoMemory`].
pub fn export_keystore(key: &NodeKey, passphrase: &Zeroizing<String>) -> Result<String, KeystoreError> {
    if passphrase.is_empty() {
        return Err(KeystoreError::EmptyPassphrase);
    }
    let random = |bytes: &mut [u8]| getrandom::fill(bytes).map_err(KeystoreError::Random);
    let (mut salt, mut iv, mut id) = ([0; 32], [0; 16], [0; 16]);
    random(&mut salt)?;
    random(&mut iv)?;
    random(&mut id)?;
    let kdf = Kdf::Scrypt { log_n: EXPORT_LOG_N, r: EXPORT_R, p: EXPORT_P, salt: salt.to_vec() };
    let derived = derive(&kdf, passphrase.as_bytes())?;
    let (cipher_key, mac_key) = halves(&derived);
    let mut ciphertext = key.secret_bytes();
    Ctr128BE::<Aes128>::new(cipher_key.into(), &iv.into()).apply_keystream(ciphertext.as_mut_slice());
    let file = json!({
        "version": 3,
        "id": uuid::Builder::from_random_bytes(id).into_uuid(),
        "address": hex_encode(key.address().as_bytes()),
        "crypto": {
            "cipher": "aes-128-ctr",
            "cipherparams": { "iv": hex_encode(&iv) },
            "ciphertext": hex_encode(ciphertext.as_slice()),
            "kdf": "scrypt",
            "kdfparams": {
                "n": 1_u64 << EXPORT_LOG_N, "r": EXPORT_R, "p": EXPORT_P, "dklen": 32,
                "salt": hex_encode(&salt),
            },
            "mac": hex_encode(&mac(mac_key, &ciphertext)),
        },
    });
    Ok(file.to_string())
}

fn parse(bytes: &[u8]) -> Result<Wallet, KeystoreError> {
    if bytes.len() > KEYSTORE_BYTES_MAX {
        return Err(KeystoreError::TooLarge { found: bytes.len() });
    }
    let file: Value = serde_json::from_slice(bytes).map_err(|error| KeystoreError::NotJson(Some(error)))?;
    let Value::Object(file) = file else { return Err(KeystoreError::NotJson(None)) };
    if any_case(&file, "encseed").is_some() {
        return Err(KeystoreError::Crowdsale);
    }
    match file.get("version") {
        Some(version) if version.as_u64() == Some(3) => {}
        Some(other) => {
            // A version is short; what is longer is none, and is not repeated in full.
            return Err(KeystoreError::Version { found: other.to_string().chars().take(32).collect() });
        }
        None => return Err(KeystoreError::Field { field: "version", wanted: "3" }),
    }
    let crypto = any_case(&file, "crypto").and_then(Value::as_object);
    let crypto = crypto.ok_or(KeystoreError::Field { field: "crypto", wanted: "an object" })?;
    only("cipher", text(crypto, "cipher")?, "aes-128-ctr")?;
    let iv = crypto.get("cipherparams").and_then(|params| params.get("iv")).and_then(Value::as_str);
    let iv = iv.and_then(fixed).ok_or(KeystoreError::Field { field: "iv", wanted: "16 bytes of hex" })?;
    let bytes_32 = |field| {
        let wanted = "32 bytes of hex";
        fixed(text(crypto, field)?).ok_or(KeystoreError::Field { field, wanted })
    };
    let (ciphertext, mac) = (bytes_32("ciphertext")?, bytes_32("mac")?);
    let params = crypto.get("kdfparams").cloned().unwrap_or_default();
    let kdf = match text(crypto, "kdf")? {
        "scrypt" => scrypt_within_limits(&params)?,
        "pbkdf2" => pbkdf2_within_limits(&params)?,
        other => return Err(unsupported("kdf", other, "scrypt and pbkdf2")),
    };
    let address = match file.get("address") {
        None | Some(Value::Null) => None,
        Some(address) => {
            let bytes = address.as_str().and_then(fixed).map(Address::from_bytes);
            Some(bytes.ok_or(KeystoreError::Field { field: "address", wanted: "20 bytes of hex" })?)
        }
    };
    Ok(Wallet { kdf, iv, ciphertext, mac, address })
}

fn any_case<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    object.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

fn text<'a>(object: &'a Map<String, Value>, field: &'static str) -> Result<&'a str, KeystoreError> {
    object.get(field).and_then(Value::as_str).ok_or(KeystoreError::Field { field, wanted: "a text" })
}

fn only(field: &'static str, found: &str, wanted: &'static str) -> Result<(), KeystoreError> {
    if found == wanted { Ok(()) } else { Err(unsupported(field, found, wanted)) }
}

fn unsupported(field: &'static str, found: &str, wanted: &'static str) -> KeystoreError {
    KeystoreError::Unsupported { field, found: found.chars().take(32).collect(), wanted }
}

/// `N` bytes of hex, with or without `0x`.
fn fixed<const N: usize>(text: &str) -> Option<[u8; N]> {
    hex_decode(text.strip_prefix("0x").unwrap_or(text))
}

fn salt_of(text: &str) -> Result<Vec<u8>, KeystoreError> {
    let refused = KeystoreError::Field { field: "salt", wanted: "at most 1024 bytes of hex" };
    let hex = text.strip_prefix("0x").unwrap_or(text).as_bytes();
    if !hex.len().is_multiple_of(2) || hex.len() / 2 > SALT_BYTES_MAX {
        return Err(refused);
    }
    let byte = |pair| std::str::from_utf8(pair).ok().and_then(hex_decode).map(|[byte]: [u8; 1]| byte);
    hex.chunks_exact(2).map(byte).collect::<Option<Vec<u8>>>().ok_or(refused)
}

fn limit<T>(parameter: &'static str, found: u64, limit: &'static str) -> Result<T, KeystoreError> {
    Err(KeystoreError::Limit { parameter, found, limit })
}

fn check_dklen(dklen: u64) -> Result<(), KeystoreError> {
    // Of a longer key the first 32 bytes are used, and they are the same for every length.
    if (32..=64).contains(&dklen) { Ok(()) } else { limit("dklen", dklen, "it is from 32 to 64") }
}

fn scrypt_within_limits(params: &Value) -> Result<Kdf, KeystoreError> {
    let wanted = "n, r, p, dklen and salt";
    let ScryptParams { n, r, p, dklen, salt } =
        ScryptParams::deserialize(params).map_err(|_| KeystoreError::Field { field: "kdfparams", wanted })?;
    check_dklen(dklen)?;
    if n < 2 || !n.is_power_of_two() {
        return limit("n", n, "it is a power of two, at least 2");
    }
    if r == 0 {
        return limit("r", r, "it is at least 1");
    }
    if p == 0 || p > SCRYPT_P_MAX {
        return limit("p", p, "it is from 1 to 16");
    }
    let bytes = |blocks: u64| r.checked_mul(128).and_then(|block| block.checked_mul(blocks));
    if n.checked_add(p + 1).and_then(bytes).is_none_or(|memory| memory > SCRYPT_MEMORY_BYTES_MAX) {
        return limit("n", n, "with these r and p, 128 r (n + p + 1) is more than 512 MiB");
    }
    if n.checked_mul(p).and_then(bytes).is_none_or(|work| work > SCRYPT_WORK_BYTES_MAX) {
        return limit("p", p, "with these n and r, 128 n r p is more than 2 GiB");
    }
    let out_of_range = |parameter, found| KeystoreError::Limit { parameter, found, limit: "it is too large" };
    Ok(Kdf::Scrypt {
        log_n: u8::try_from(n.trailing_zeros()).map_err(|_| out_of_range("n", n))?,
        r: u32::try_from(r).map_err(|_| out_of_range("r", r))?,
        p: u32::try_from(p).map_err(|_| out_of_range("p", p))?,
        salt: salt_of(&salt)?,
    })
}

fn pbkdf2_within_limits(params: &Value) -> Result<Kdf, KeystoreError> {
    let wanted = "c, prf, dklen and salt";
    let Pbkdf2Params { c, prf, dklen, salt } =
        Pbkdf2Params::deserialize(params).map_err(|_| KeystoreError::Field { field: "kdfparams", wanted })?;
    only("prf", &prf, "hmac-sha256")?;
    check_dklen(dklen)?;
    match u32::try_from(c) {
        Ok(rounds) if (1..=PBKDF2_ROUNDS_MAX).contains(&c) => {
            Ok(Kdf::Pbkdf2 { rounds, salt: salt_of(&salt)? })
        }
        Ok(_) | Err(_) => limit("c", c, "it is from 1 to 10,000,000"),
    }
}

/// The first 32 bytes of the derived key.
fn derive(kdf: &Kdf, passphrase: &[u8]) -> Result<Zeroizing<[u8; 32]>, KeystoreError> {
    let mut derived = Zeroizing::new([0; 32]);
    match kdf {
        Kdf::Scrypt { log_n, r, p, salt } => {
            let refused = || KeystoreError::Limit {
                parameter: "n",
                found: 1 << log_n,
                limit: "with these r and p it is no set of parameters of scrypt",
            };
            // Within the limits, so nothing here reaches 64 bits.
            let bytes = ((1 << log_n) + u64::from(*p) + 1) * u64::from(*r) * 128;
            probe_memory(bytes)?;
            let params = scrypt::Params::new(*log_n, *r, *p).map_err(|_| refused())?;
            scrypt::scrypt(passphrase, salt, &params, derived.as_mut_slice()).map_err(|_| refused())?;
        }
        Kdf::Pbkdf2 { rounds, salt } => {
            pbkdf2::pbkdf2_hmac::<Sha256>(passphrase, salt, *rounds, derived.as_mut_slice());
        }
    }
    Ok(derived)
}

/// scrypt aborts the process where its memory is not there; this asks first and gives it back.
fn probe_memory(bytes: u64) -> Result<(), KeystoreError> {
    let refused = || KeystoreError::NoMemory { bytes };
    let wanted = usize::try_from(bytes).map_err(|_| refused())?;
    Vec::<u8>::new().try_reserve_exact(wanted).map_err(|_| refused())
}

/// The AES key and the key of the checksum.
fn halves(derived: &[u8; 32]) -> (&[u8; 16], &[u8; 16]) {
    let (halves, _) = derived.as_chunks::<16>();
    (&halves[0], &halves[1])
}

fn mac(key: &[u8; 16], ciphertext: &[u8; 32]) -> [u8; 32] {
    Keccak256::new().chain_update(key).chain_update(ciphertext).finalize().into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Numbers of every size: all bits random would nearly always be far beyond every limit.
    fn any_size() -> impl Strategy<Value = u64> {
        (any::<u64>(), 0_u32..64).prop_map(|(bits, shift)| bits >> shift)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn accepted_scrypt_parameters_are_within_the_limits(
            n in prop_oneof![any_size(), (0_u32..64).prop_map(|log| 1 << log), (1_u32..8).prop_map(|log| 1 << log)],
            r in prop_oneof![any_size(), (0_u32..24).prop_map(|log| 1 << log)],
            p in prop_oneof![any_size(), 0_u64..20],
            dklen in prop_oneof![any_size(), Just(32)],
        ) {
            let params = json!({ "n": n, "r": r, "p": p, "dklen": dklen, "salt": "00" });
            match scrypt_within_limits(&params) {
                Ok(Kdf::Scrypt { log_n, .. }) => {
                    let (n_wide, r, p) = (u128::from(n), u128::from(r), u128::from(p));
                    prop_assert_eq!(1 << log_n, n);
                    prop_assert!(128 * r * (n_wide + p + 1) <= u128::from(SCRYPT_MEMORY_BYTES_MAX));
                    prop_assert!(128 * n_wide * r * p <= u128::from(SCRYPT_WORK_BYTES_MAX));
                    prop_assert!(p <= 16 && (32..=64).contains(&dklen));
                }
                Ok(other) => prop_assert!(false, "{:?}", other),
                Err(error) => {
                    let limit = matches!(error, KeystoreError::Limit { .. });
                    prop_assert!(limit, "{}", error);
                }
            }
        }

        #[test]
        fn accepted_pbkdf2_rounds_are_within_the_limits(c in any_size()) {
            let params = json!({ "c": c, "prf": "hmac-sha256", "dklen": 32, "salt": "" });
            let accepted = pbkdf2_within_limits(&params).is_ok();
            prop_assert_eq!(accepted, (1..=PBKDF2_ROUNDS_MAX).contains(&c));
        }
    }
}
