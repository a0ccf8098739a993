//! Sealed key files.
//!
//! One JSON object and a newline, at most 16 KiB, in exactly one form: what is read must be what would
//! be written, byte for byte, so no altered file passes.
//!
//! ```text
//! {"format":"resultity-sealed-key","version":1,"kind":"node-key","network":"testnet",
//!  "address":"0x...","kek":{"source":"passphrase","kdf":"argon2id","memory_kib":65536,"passes":3,
//!  "lanes":1,"salt":"<32 hex digits>"},"nonce":"<48 hex digits>","ciphertext":"<96 hex digits>"}
//! ```
//!
//! (in one line). A volume key has `"volume":"<uuid>"` behind the address; the other sources have a
//! `kek` with a `source` alone. The cipher is XChaCha20-Poly1305
//! (draft-irtf-cfrg-xchacha-03) with a random nonce. Associated data: format, version, kind, network,
//! address, volume and the fields of `kek`, each behind its length in four bytes, big-endian.
//!
//! The key-encryption key is HKDF-SHA256 (RFC 5869) of a secret without salt, or argon2id (RFC 9106,
//! version 0x13) of a passphrase, and then HKDF as well; the info names the kind and the network, so one
//! secret never gives the same key twice for two purposes. Parameters of a file beyond
//! [`MEMORY_KIB_MAX`], [`PASSES_MAX`] and [`LANES_MAX`] are refused before anything is allocated.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use argon2::{Algorithm, Argon2, Block, Params, Version};
use chacha20poly1305::{
    KeyInit, Tag, XChaCha20Poly1305, XNonce,
    aead::{AeadInOut, inout::InOutBuf},
};
use hkdf::Hkdf;
use node_types::{
    Address, Network, VolumeId,
    id::{hex_decode, hex_encode},
};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

use super::{
    error::KeyError,
    secret::{Kek, KeyEncryptionKey, NodeKey, VolumeKey, fill_random},
    source::{KekSources, Protection, Source},
};
use crate::{
    disk::{self, Disk},
    private::{Private, check_private, private_if_there},
};

/// The file name of the node key in the keys folder.
pub const NODE_KEY: &str = "node.key";
/// The file name of the volume key in the keys folder.
pub const VOLUME_KEY: &str = "volume.key";
/// The longest sealed file in bytes.
pub const SEALED_BYTES_MAX: u64 = 16 << 10;
/// The most memory that a sealed file may ask argon2id to take, in KiB.
pub const MEMORY_KIB_MAX: u32 = 256 << 10;
/// The most passes that a sealed file may ask argon2id to make.
pub const PASSES_MAX: u32 = 10;
/// The most lanes that a sealed file may ask argon2id to use.
pub const LANES_MAX: u32 = 4;

const FORMAT: &str = "resultity-sealed-key";
const VERSION: u64 = 1;
/// What new files ask for: the second recommendation of RFC 9106, on one lane, because the
/// implementation computes lanes one after the other.
const MEMORY_KIB: u32 = 64 << 10;
const PASSES: u32 = 3;
const LANES: u32 = 1;
const TAG_BYTES: usize = 16;
const SEALED_KEY_BYTES: usize = 32 + TAG_BYTES;

/// What a sealed file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The node's secp256k1 key.
    NodeKey,
    /// The key that wraps the keys of jobs.
    VolumeKey,
}

impl Kind {
    /// Both kinds.
    pub const ALL: [Self; 2] = [Self::NodeKey, Self::VolumeKey];

    /// Its name in the file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NodeKey => "node-key",
            Self::VolumeKey => "volume-key",
        }
    }

    /// The name of its file in the keys folder.
    #[must_use]
    pub const fn file_name(self) -> &'static str {
        match self {
            Self::NodeKey => NODE_KEY,
            Self::VolumeKey => VOLUME_KEY,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::NodeKey => "node key",
            Self::VolumeKey => "volume key",
        })
    }
}

/// A key that was unsealed, and what had protected it.
#[derive(Debug)]
pub struct Opened<K> {
    /// The key.
    pub key: K,
    /// What protects its file, to be reported.
    pub protection: Protection,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "source", rename_all = "kebab-case", deny_unknown_fields)]
enum KekHeader {
    SystemdCredential {},
    ContainerSecret {},
    Passphrase { kdf: Kdf, memory_kib: u32, passes: u32, lanes: u32, salt: Hex<16> },
    LocalFile {},
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Kdf {
    Argon2id,
}

impl KekHeader {
    fn new(source: Source) -> Result<Self, KeyError> {
        Ok(match source {
            Source::SystemdCredential => Self::SystemdCredential {},
            Source::ContainerSecret => Self::ContainerSecret {},
            Source::Passphrase => {
                let mut salt = Hex([0; 16]);
                fill_random(&mut salt.0)?;
                let (memory_kib, passes, lanes) = (MEMORY_KIB, PASSES, LANES);
                Self::Passphrase { kdf: Kdf::Argon2id, memory_kib, passes, lanes, salt }
            }
            Source::LocalFile => Self::LocalFile {},
        })
    }

    const fn source(&self) -> Source {
        match self {
            Self::SystemdCredential {} => Source::SystemdCredential,
            Self::ContainerSecret {} => Source::ContainerSecret,
            Self::Passphrase { .. } => Source::Passphrase,
            Self::LocalFile {} => Source::LocalFile,
        }
    }
}

/// `N` bytes, written as lower-case hex.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hex<const N: usize>([u8; N]);

impl<const N: usize> Serialize for Hex<N> {
    fn serialize<S: serde::Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(&hex_encode(&self.0))
    }
}

impl<'de, const N: usize> Deserialize<'de> for Hex<N> {
    fn deserialize<D: serde::Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let text = String::deserialize(input)?;
        hex_decode(&text).map(Self).ok_or_else(|| serde::de::Error::custom(format!("not {N} bytes of hex")))
    }
}

/// What a file says of its key, outside of the seal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct About {
    kind: Kind,
    network: Network,
    address: Address,
    volume: Option<VolumeId>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SealedFile {
    format: String,
    version: u64,
    kind: Kind,
    network: Network,
    address: Address,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    volume: Option<VolumeId>,
    kek: KekHeader,
    nonce: Hex<24>,
    ciphertext: Hex<SEALED_KEY_BYTES>,
}

/// The fields that are read before all others, so that a later format is told from damage.
#[derive(Deserialize)]
struct Probe {
    format: String,
    version: u64,
}

impl SealedFile {
    const fn about(&self) -> About {
        About { kind: self.kind, network: self.network, address: self.address, volume: self.volume }
    }

    fn to_bytes(&self) -> Result<Vec<u8>, KeyError> {
        // Writing these fields cannot fail; serde_json does not know that.
        let mut bytes = serde_json::to_vec(self).map_err(|_| KeyError::Cipher)?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    fn parse(path: &Path, bytes: &[u8]) -> Result<Self, KeyError> {
        let damaged = |what: String| KeyError::Damaged { path: path.to_owned(), what };
        let probe: Probe = serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
        if probe.format != FORMAT {
            return Err(damaged(format!("its format is not {FORMAT}")));
        }
        if probe.version > VERSION {
            let path = path.to_owned();
            return Err(KeyError::TooNew { path, found: probe.version, newest: VERSION });
        }
        let file: Self = serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
        if file.version != VERSION {
            return Err(damaged(format!("there is no version {}", file.version)));
        }
        if file.to_bytes()? != bytes {
            return Err(damaged("it is not in the form that it was written in".to_owned()));
        }
        Ok(file)
    }
}

fn associated_data(about: &About, kek: &KekHeader) -> Vec<u8> {
    let version = VERSION.to_be_bytes();
    let mut parts: Vec<&[u8]> = vec![
        FORMAT.as_bytes(),
        &version,
        about.kind.name().as_bytes(),
        about.network.name().as_bytes(),
        about.address.as_bytes(),
        about.volume.as_ref().map_or(&[], |volume| volume.as_bytes()),
        kek.source().name().as_bytes(),
    ];
    let numbers;
    match kek {
        KekHeader::SystemdCredential {} | KekHeader::ContainerSecret {} | KekHeader::LocalFile {} => {}
        KekHeader::Passphrase { kdf: Kdf::Argon2id, memory_kib, passes, lanes, salt } => {
            numbers = [memory_kib, passes, lanes].map(|number| number.to_be_bytes());
            parts.push(b"argon2id");
            parts.extend(numbers.iter().map(<[u8; 4]>::as_slice));
            parts.push(&salt.0);
        }
    }
    let mut bytes = Vec::new();
    for part in parts {
        // No part is longer than a few dozen bytes.
        bytes.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
        bytes.extend_from_slice(part);
    }
    bytes
}

fn check_kdf_limits(path: &Path, header: &KekHeader) -> Result<(), KeyError> {
    let KekHeader::Passphrase { memory_kib, passes, lanes, .. } = header else { return Ok(()) };
    let limits = [
        ("lanes", *lanes, 1, LANES_MAX),
        ("passes", *passes, 1, PASSES_MAX),
        ("memory_kib", *memory_kib, 8 * LANES_MAX, MEMORY_KIB_MAX),
    ];
    match limits.into_iter().find(|(_, found, least, most)| found < least || found > most) {
        Some((name, found, least, most)) => Err(KeyError::KdfLimits {
            path: path.to_owned(),
            what: format!("{name} is {found}, the limits are {least} and {most}"),
        }),
        None => Ok(()),
    }
}

/// Derives the key that seals one file. Pure but for the memory it takes.
fn derive(
    path: &Path,
    about: &About,
    header: &KekHeader,
    secret: &[u8],
) -> Result<KeyEncryptionKey, KeyError> {
    check_kdf_limits(path, header)?;
    let mut stretched = Zeroizing::new([0; 32]);
    let material = match header {
        KekHeader::SystemdCredential {} | KekHeader::ContainerSecret {} | KekHeader::LocalFile {} => secret,
        KekHeader::Passphrase { kdf: Kdf::Argon2id, memory_kib, passes, lanes, salt } => {
            argon2id(path, secret, &salt.0, [*memory_kib, *passes, *lanes], &mut stretched)?;
            stretched.as_slice()
        }
    };
    let mut key = KeyEncryptionKey([0; 32]);
    let purpose = ["resultity/sealed-key/v1/", about.kind.name(), "/", about.network.name()].concat();
    Hkdf::<Sha256>::new(None, material)
        .expand(purpose.as_bytes(), &mut key.0)
        .map_err(|_| KeyError::Cipher)?;
    Ok(key)
}

fn argon2id(
    path: &Path,
    passphrase: &[u8],
    salt: &[u8],
    [memory_kib, passes, lanes]: [u32; 3],
    out: &mut [u8; 32],
) -> Result<(), KeyError> {
    let refused =
        |error: argon2::Error| KeyError::KdfLimits { path: path.to_owned(), what: error.to_string() };
    let params = Params::new(memory_kib, passes, lanes, Some(out.len())).map_err(refused)?;
    let mut memory = Vec::new();
    memory.try_reserve_exact(params.block_count()).map_err(|_| KeyError::NoMemory { kib: memory_kib })?;
    memory.resize(params.block_count(), Block::default());
    let done = Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into_with_memory(passphrase, salt, out, &mut memory)
        .map_err(refused);
    memory.zeroize();
    done
}

fn seal(path: &Path, about: About, key: &[u8; 32], kek: &Kek) -> Result<Vec<u8>, KeyError> {
    let header = KekHeader::new(kek.source)?;
    let sealing = derive(path, &about, &header, &kek.secret)?;
    let mut nonce = Hex([0; 24]);
    fill_random(&mut nonce.0)?;
    let mut secret = Zeroizing::new(*key);
    let tag = XChaCha20Poly1305::new(&sealing.0.into())
        .encrypt_inout_detached(
            &XNonce::from(nonce.0),
            &associated_data(&about, &header),
            InOutBuf::from(secret.as_mut_slice()),
        )
        .map_err(|_| KeyError::Cipher)?;
    let mut ciphertext = Hex([0; SEALED_KEY_BYTES]);
    ciphertext.0[..32].copy_from_slice(secret.as_slice());
    ciphertext.0[32..].copy_from_slice(&tag);
    let About { kind, network, address, volume } = about;
    let format = FORMAT.to_owned();
    SealedFile { format, version: VERSION, kind, network, address, volume, kek: header, nonce, ciphertext }
        .to_bytes()
}

fn unseal(path: &Path, file: &SealedFile, kek: &Kek) -> Result<Zeroizing<[u8; 32]>, KeyError> {
    let about = file.about();
    let closed = || KeyError::CannotOpen { path: path.to_owned(), kek: file.kek.source() };
    let sealing = derive(path, &about, &file.kek, &kek.secret)?;
    let (body, tag) = file.ciphertext.0.split_at(32);
    let mut key = Zeroizing::new([0; 32]);
    key.copy_from_slice(body);
    let tag = Tag::try_from(tag).map_err(|_| closed())?;
    XChaCha20Poly1305::new(&sealing.0.into())
        .decrypt_inout_detached(
            &XNonce::from(file.nonce.0),
            &associated_data(&about, &file.kek),
            InOutBuf::from(key.as_mut_slice()),
            &tag,
        )
        .map_err(|_| closed())?;
    Ok(key)
}

/// Makes the keys folder if there is none, and checks that it is ours alone.
///
/// # Errors
/// [`KeyError::Write`], [`KeyError::NotPrivate`].
pub fn prepare_folder(disk: &dyn Disk, folder: &Path) -> Result<(), KeyError> {
    if private_if_there(disk, folder, Private::Folder)? {
        return Ok(());
    }
    let refused = |source| KeyError::Write { path: folder.to_owned(), source };
    match disk.create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(refused(error)),
        // Another start made it just now; it is checked below.
        Ok(()) | Err(_) => {}
    }
    if let Some(parent) = folder.parent() {
        disk.sync_dir(parent).map_err(refused)?;
    }
    check_private(disk, folder, Private::Folder).map_err(KeyError::from)
}

/// The keys that are not in a folder. What cannot be looked at is not said to be missing.
#[must_use]
pub fn missing(disk: &dyn Disk, folder: &Path) -> Vec<Kind> {
    let gone = |kind: &Kind| matches!(disk.entry(&folder.join(kind.file_name())), Ok(None));
    Kind::ALL.into_iter().filter(gone).collect()
}

/// Whether a key in the folder says that it is sealed under `source`.
///
/// # Errors
/// [`KeyError`] where one cannot be read.
pub fn any_sealed_under(disk: &dyn Disk, folder: &Path, source: Source) -> Result<bool, KeyError> {
    for kind in Kind::ALL {
        if let Some((_, file)) = read(disk, folder, kind)?
            && file.kek.source() == source
        {
            return Ok(true);
        }
    }
    Ok(false)
}

fn read(disk: &dyn Disk, folder: &Path, kind: Kind) -> Result<Option<(PathBuf, SealedFile)>, KeyError> {
    if !private_if_there(disk, folder, Private::Folder)? {
        return Ok(None);
    }
    let path = folder.join(kind.file_name());
    if !private_if_there(disk, &path, Private::File)? {
        return Ok(None);
    }
    let bytes = match disk.read(&path, SEALED_BYTES_MAX) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
            return Err(KeyError::Damaged { path, what: error.to_string() });
        }
        Err(source) => return Err(KeyError::Read { path, source }),
    };
    let file = SealedFile::parse(&path, &bytes)?;
    if file.kind != kind {
        return Err(KeyError::OtherKind { path, found: file.kind, wanted: kind });
    }
    if file.volume.is_some() != (kind == Kind::VolumeKey) {
        return Err(KeyError::Damaged { path, what: "its volume and its kind contradict".to_owned() });
    }
    Ok(Some((path, file)))
}

/// Lets one thread at a time write into a keys folder: threads that write the same file share the name of
/// its temporary file. Two processes cannot, because the volume's lock is held by one.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static WRITING: Mutex<()> = Mutex::new(());
    WRITING.lock().unwrap_or_else(PoisonError::into_inner)
}

fn create(disk: &dyn Disk, folder: &Path, about: About, key: &[u8; 32], kek: &Kek) -> Result<(), KeyError> {
    let _alone = alone();
    prepare_folder(disk, folder)?;
    let path = folder.join(about.kind.file_name());
    let refused = |source| KeyError::Write { path: path.clone(), source };
    // Asked first, so that a standing key costs no passphrase derivation; the write asks again.
    if disk.entry(&path).map_err(refused)?.is_some() {
        return Err(KeyError::AlreadyExists { path });
    }
    let bytes = seal(&path, about, key, kek)?;
    match disk::write_new(disk, &path, &bytes) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(KeyError::AlreadyExists { path }),
        Err(error) => Err(refused(error)),
    }
}

/// Seals a new node key into `folder`, which is made if there is none. When this returns the key is on
/// the disk.
///
/// # Errors
/// [`KeyError::AlreadyExists`] if a key stands there, which is left as it is; [`KeyError::NotPrivate`],
/// [`KeyError::Write`], [`KeyError::Random`], [`KeyError::NoMemory`].
pub fn create_node_key(
    disk: &dyn Disk,
    folder: &Path,
    network: Network,
    key: &NodeKey,
    kek: &Kek,
) -> Result<(), KeyError> {
    let about = About { kind: Kind::NodeKey, network, address: key.address(), volume: None };
    create(disk, folder, about, &key.secret_bytes(), kek)
}

/// Opens the node key in `folder`, or says that there is none.
///
/// # Errors
/// [`KeyError::OtherNetwork`] before anything is decrypted, [`KeyError::CannotOpen`],
/// [`KeyError::AddressMismatch`], [`KeyError::KekMissing`], [`KeyError::Damaged`],
/// [`KeyError::TooNew`], [`KeyError::KdfLimits`], [`KeyError::NotPrivate`], and those of
/// [`KekSources::load`].
pub fn open_node_key(
    disk: &dyn Disk,
    folder: &Path,
    network: Network,
    sources: &KekSources,
) -> Result<Option<Opened<NodeKey>>, KeyError> {
    let Some((path, file)) = read(disk, folder, Kind::NodeKey)? else { return Ok(None) };
    check_network(&path, &file, network)?;
    let bytes = unseal_from(disk, &path, &file, sources)?;
    let key = checked_node_key(&path, &file, &bytes)?;
    Ok(Some(Opened { key, protection: file.kek.source().protection() }))
}

/// Seals a new volume key of the node `node` into `folder`.
///
/// # Errors
/// As [`create_node_key`].
pub fn create_volume_key(
    disk: &dyn Disk,
    folder: &Path,
    network: Network,
    node: Address,
    volume: VolumeId,
    key: &VolumeKey,
    kek: &Kek,
) -> Result<(), KeyError> {
    let about = About { kind: Kind::VolumeKey, network, address: node, volume: Some(volume) };
    create(disk, folder, about, key.secret_bytes(), kek)
}

/// Both keys of a volume sealed under `kek`, each as the file that would hold it in `folder`.
///
/// # Errors
/// [`KeyError::Random`], [`KeyError::NoMemory`].
pub(crate) fn seal_both(
    folder: &Path,
    network: Network,
    node: &NodeKey,
    volume: (VolumeId, &VolumeKey),
    kek: &Kek,
) -> Result<[(Kind, Vec<u8>); 2], KeyError> {
    let address = node.address();
    let sealed = |kind: Kind, volume, key: &[u8; 32]| {
        let about = About { kind, network, address, volume };
        Ok::<_, KeyError>((kind, seal(&folder.join(kind.file_name()), about, key, kek)?))
    };
    let (id, volume_key) = volume;
    let node = sealed(Kind::NodeKey, None, &node.secret_bytes())?;
    Ok([node, sealed(Kind::VolumeKey, Some(id), volume_key.secret_bytes())?])
}

/// Opens the volume key in `folder`, or says that there is none.
///
/// # Errors
/// As [`open_node_key`]; [`KeyError::OtherNode`] and [`KeyError::OtherVolume`] before anything is
/// decrypted.
pub fn open_volume_key(
    disk: &dyn Disk,
    folder: &Path,
    network: Network,
    node: Address,
    volume: VolumeId,
    sources: &KekSources,
) -> Result<Option<Opened<VolumeKey>>, KeyError> {
    let Some((path, file)) = read(disk, folder, Kind::VolumeKey)? else { return Ok(None) };
    check_network(&path, &file, network)?;
    if file.address != node {
        return Err(KeyError::OtherNode { path, found: file.address, wanted: node });
    }
    if let Some(found) = file.volume.filter(|found| *found != volume) {
        return Err(KeyError::OtherVolume { path, found, wanted: volume });
    }
    let bytes = unseal_from(disk, &path, &file, sources)?;
    let key = VolumeKey::from_bytes(&bytes);
    Ok(Some(Opened { key, protection: file.kek.source().protection() }))
}

/// Whose the node key in `folder` is and what it is sealed under, as its header says; nothing is decrypted, so nothing of
/// it is proved.
///
/// # Errors
/// Those of [`recorded_volume`].
pub fn recorded_node(
    disk: &dyn Disk,
    folder: &Path,
    network: Network,
) -> Result<Option<(Address, Source)>, KeyError> {
    let Some((path, file)) = read(disk, folder, Kind::NodeKey)? else { return Ok(None) };
    check_network(&path, &file, network)?;
    Ok(Some((file.address, file.kek.source())))
}

/// The volume that the volume key in `folder` was made for, as its header says; nothing is decrypted.
///
/// # Errors
/// [`KeyError::OtherNetwork`], [`KeyError::Damaged`], [`KeyError::NotPrivate`], [`KeyError::Read`].
pub fn recorded_volume(
    disk: &dyn Disk,
    folder: &Path,
    network: Network,
) -> Result<Option<VolumeId>, KeyError> {
    let Some((path, file)) = read(disk, folder, Kind::VolumeKey)? else { return Ok(None) };
    check_network(&path, &file, network)?;
    Ok(file.volume)
}

/// Seals the keys in `folder` anew, under `to`. Says how many files were rewritten.
///
/// Each file is replaced whole, one after the other. A crash in between leaves both readable, each under
/// what its own header names; calling this again with the same arguments finishes the work. When no key
/// needs the local file any more, it is removed, because it could open what an old copy of the disk
/// still holds. The keys of a volume are sealed anew by
/// [`Store::reseal_keys`](crate::store::Store::reseal_keys), which keeps every other process away meanwhile.
///
/// # Errors
/// As [`open_node_key`] and [`KeyError::Write`].
pub fn reseal(
    disk: &dyn Disk,
    folder: &Path,
    network: Network,
    from: &KekSources,
    to: &Kek,
) -> Result<u32, KeyError> {
    let mut rewritten = 0;
    for kind in Kind::ALL {
        let Some((path, file)) = read(disk, folder, kind)? else { continue };
        check_network(&path, &file, network)?;
        if file.kek.source() == to.source && unseal(&path, &file, to).is_ok() {
            continue;
        }
        let key = unseal_from(disk, &path, &file, from)?;
        match kind {
            Kind::NodeKey => drop(checked_node_key(&path, &file, &key)?),
            Kind::VolumeKey => {}
        }
        let bytes = seal(&path, file.about(), &key, to)?;
        let _alone = alone();
        disk::replace(disk, &path, &bytes)
            .map_err(|source| KeyError::Write { path: path.clone(), source })?;
        rewritten += 1;
    }
    if to.source != Source::LocalFile {
        let path = &from.local_file;
        let refused = |source| KeyError::Write { path: path.clone(), source };
        if disk.entry(path).map_err(refused)?.is_some() {
            disk.remove(path).map_err(refused)?;
            disk.sync_dir(folder).map_err(refused)?;
        }
    }
    Ok(rewritten)
}

fn check_network(path: &Path, file: &SealedFile, wanted: Network) -> Result<(), KeyError> {
    if file.network == wanted {
        Ok(())
    } else {
        Err(KeyError::OtherNetwork { path: path.to_owned(), found: file.network, wanted })
    }
}

fn unseal_from(
    disk: &dyn Disk,
    path: &Path,
    file: &SealedFile,
    sources: &KekSources,
) -> Result<Zeroizing<[u8; 32]>, KeyError> {
    // Before anybody is asked for a passphrase.
    check_kdf_limits(path, &file.kek)?;
    let kek = sources.load(disk, file.kek.source())?;
    let opened = unseal(path, file, &kek);
    if opened.is_err() {
        // So that the next attempt asks again.
        sources.forget();
    }
    opened
}

fn checked_node_key(
    path: &Path,
    file: &SealedFile,
    bytes: &Zeroizing<[u8; 32]>,
) -> Result<NodeKey, KeyError> {
    let key = NodeKey::from_bytes(bytes)?;
    if key.address() == file.address {
        Ok(key)
    } else {
        let (recorded, derived) = (file.address, key.address());
        Err(KeyError::AddressMismatch { path: path.to_owned(), recorded, derived })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::disk::RealDisk;

    fn kek() -> Kek {
        Kek { source: Source::LocalFile, secret: Zeroizing::new(vec![7; 32]) }
    }

    /// Nobody but this room can make such a file: the seal is sound, the address is another key's.
    #[test]
    fn a_sound_seal_around_the_key_of_another_address_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("keys");
        prepare_folder(&RealDisk, &folder).unwrap();
        disk::write_new(&RealDisk, &folder.join("local.kek"), &[7; 32]).unwrap();
        let (held, named) = (NodeKey::generate().unwrap(), NodeKey::generate().unwrap());
        let about =
            About { kind: Kind::NodeKey, network: Network::Testnet, address: named.address(), volume: None };

        create(&RealDisk, &folder, about, &held.secret_bytes(), &kek()).unwrap();

        let opened = open_node_key(&RealDisk, &folder, Network::Testnet, &KekSources::new(&folder));
        let Err(KeyError::AddressMismatch { recorded, derived, .. }) = opened else {
            panic!("{opened:?}");
        };
        assert_eq!((recorded, derived), (named.address(), held.address()));
    }

    /// The network and the kind also stand in the derivation; that must not be all that holds them.
    #[test]
    fn every_field_beside_the_key_is_associated_data() {
        let about = |kind, network, address, volume| About {
            kind,
            network,
            address: Address::from_bytes([address; 20]),
            volume,
        };
        let passphrase = |memory_kib, passes, lanes, salt| KekHeader::Passphrase {
            kdf: Kdf::Argon2id,
            memory_kib,
            passes,
            lanes,
            salt: Hex([salt; 16]),
        };
        let local = KekHeader::LocalFile {};
        let (node, testnet) = (Kind::NodeKey, Network::Testnet);
        let volume = |byte| Some(VolumeId::from_bytes([byte; 16]));
        let all = [
            associated_data(&about(node, testnet, 0, None), &local),
            associated_data(&about(Kind::VolumeKey, testnet, 0, None), &local),
            associated_data(&about(node, Network::Mainnet, 0, None), &local),
            associated_data(&about(node, testnet, 1, None), &local),
            associated_data(&about(node, testnet, 0, volume(0)), &local),
            associated_data(&about(node, testnet, 0, volume(1)), &local),
            associated_data(&about(node, testnet, 0, None), &KekHeader::ContainerSecret {}),
            associated_data(&about(node, testnet, 0, None), &KekHeader::SystemdCredential {}),
            associated_data(&about(node, testnet, 0, None), &passphrase(64, 1, 2, 0)),
            associated_data(&about(node, testnet, 0, None), &passphrase(65, 1, 2, 0)),
            associated_data(&about(node, testnet, 0, None), &passphrase(64, 2, 2, 0)),
            associated_data(&about(node, testnet, 0, None), &passphrase(64, 1, 1, 0)),
            associated_data(&about(node, testnet, 0, None), &passphrase(64, 1, 2, 1)),
        ];
        for (index, one) in all.iter().enumerate() {
            assert!(!all[..index].contains(one), "{index}");
        }
    }

    /// One secret, four purposes, four keys.
    #[test]
    fn one_secret_gives_each_kind_and_network_its_own_key() {
        let mut keys = Vec::new();
        for kind in Kind::ALL {
            for network in Network::ALL {
                let about = About { kind, network, address: Address::from_bytes([0; 20]), volume: None };
                let key = derive(Path::new("x"), &about, &KekHeader::LocalFile {}, &[7; 32]).unwrap();
                assert!(!keys.contains(&key.0));
                keys.push(key.0);
            }
        }
    }

    proptest! {
        #[test]
        fn no_parameters_of_argon2id_beyond_the_limits_are_tried(
            memory_kib in any::<u32>(), passes in any::<u32>(), lanes in any::<u32>(),
            shift in [0_u32..32, 0..32, 0..32],
        ) {
            let (memory_kib, passes, lanes) = (memory_kib >> shift[0], passes >> shift[1], lanes >> shift[2]);
            let header =
                KekHeader::Passphrase { kdf: Kdf::Argon2id, memory_kib, passes, lanes, salt: Hex([0; 16]) };
            let within = (32..=MEMORY_KIB_MAX).contains(&memory_kib)
                && (1..=PASSES_MAX).contains(&passes)
                && (1..=LANES_MAX).contains(&lanes);
            prop_assert_eq!(check_kdf_limits(Path::new("x"), &header).is_ok(), within);
        }

        #[test]
        fn arbitrary_bytes_are_never_a_sealed_file(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            prop_assert!(SealedFile::parse(Path::new("x"), &bytes).is_err());
        }
    }
}
