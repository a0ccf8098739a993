//! What can go wrong with the node's keys.

use std::{io, path::PathBuf};

use node_types::{Address, Network, VolumeId};

use super::{sealed::Kind, source::Source};
use crate::private::NotPrivate;

/// What can go wrong with the node's keys. No message holds a byte of a secret.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A file or folder is not ours alone.
    #[error(transparent)]
    NotPrivate(#[from] NotPrivate),
    /// A key stands there already; it was not touched.
    #[error("{path} exists already and was left as it is: a key is never overwritten")]
    AlreadyExists {
        /// The file.
        path: PathBuf,
    },
    /// A file could not be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file or folder could not be written.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A sealed file is not in the one form that it is written in.
    #[error("{path} is damaged ({what}): restore it from a backup; nothing was changed")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A sealed file was written by a later release.
    #[error("{path} has version {found}; this release reads up to {newest}: upgrade resultity-node")]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u64,
        /// The newest version read.
        newest: u64,
    },
    /// A sealed file holds the other kind of key.
    #[error("{path} holds a {found}, not a {wanted}: the files in this folder were mixed up, put them back")]
    OtherKind {
        /// The file.
        path: PathBuf,
        /// What it holds.
        found: Kind,
        /// What it should hold.
        wanted: Kind,
    },
    /// A key of the other network.
    #[error(
        "{path} belongs to {found}, this node runs on {wanted}: open it with --network {found}, or choose another --home"
    )]
    OtherNetwork {
        /// The file.
        path: PathBuf,
        /// The network recorded in it.
        found: Network,
        /// The network that the node runs on.
        wanted: Network,
    },
    /// A volume key of another node.
    #[error(
        "{path} belongs to the node {found}, this node is {wanted}: put back the file of this node, from its backup"
    )]
    OtherNode {
        /// The file.
        path: PathBuf,
        /// The address recorded in it.
        found: Address,
        /// The address of this node.
        wanted: Address,
    },
    /// A volume key of another volume.
    #[error(
        "{path} belongs to the volume {found}, this is the volume {wanted}: put back the file of this volume, from its \
         backup"
    )]
    OtherVolume {
        /// The file.
        path: PathBuf,
        /// The volume recorded in it.
        found: VolumeId,
        /// This volume.
        wanted: VolumeId,
    },
    /// The seal does not open. Nobody can tell a wrong secret from an altered file.
    #[error(
        "cannot open {path}: the {kek} is not the one that sealed it, or the file was altered: give the right one, or \
         restore the file from a backup"
    )]
    CannotOpen {
        /// The file.
        path: PathBuf,
        /// Where its key-encryption key comes from.
        kek: Source,
    },
    /// The key in a sealed file is not the key of the address beside it.
    #[error("{path} records the address {recorded}, its key has {derived}: restore it from a backup")]
    AddressMismatch {
        /// The file.
        path: PathBuf,
        /// The address recorded.
        recorded: Address,
        /// The address of the key.
        derived: Address,
    },
    /// A sealed file asks for a key derivation beyond the limits.
    #[error("{path} asks for a key derivation beyond the limits ({what}): it was not tried")]
    KdfLimits {
        /// The file.
        path: PathBuf,
        /// The parameter and its limit.
        what: String,
    },
    /// A file that was named for new keys is not there.
    #[error(
        "new keys are to be sealed under the {kek} in {path}, and there is no such file: make it first, readable by you alone"
    )]
    NoFile {
        /// What it should hold.
        kek: Source,
        /// The file.
        path: PathBuf,
    },
    /// Nothing is at the place that a key-encryption key should come from.
    #[error("a key is sealed under the {kek}, and there is none: {wanted}")]
    KekMissing {
        /// Where it should come from.
        kek: Source,
        /// What to do.
        wanted: String,
    },
    /// A secret is too short to be random.
    #[error("{path} holds {found} bytes, a key-encryption secret has at least {wanted}: write random bytes")]
    SecretTooShort {
        /// The file.
        path: PathBuf,
        /// Bytes in it.
        found: usize,
        /// The fewest bytes taken.
        wanted: usize,
    },
    /// A passphrase without a character.
    #[error("the passphrase from {origin} is empty: choose one")]
    EmptyPassphrase {
        /// Where it came from.
        origin: String,
    },
    /// A new passphrase was not typed the same way twice.
    #[error("the two passphrases differ: nothing was written, try again")]
    PassphrasesDiffer,
    /// A passphrase could not be asked for.
    #[error("cannot ask for the passphrase")]
    Prompt {
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Bytes that are no secp256k1 key.
    #[error("these 32 bytes are no secp256k1 key: they are zero or not below the order of the curve")]
    NotAKey,
    /// The operating system gave no random bytes.
    #[error("the operating system gave no random bytes")]
    Random(#[source] getrandom::Error),
    /// Not enough memory to derive a key-encryption key.
    #[error("{kib} KiB of memory are needed to derive the key-encryption key: free some")]
    NoMemory {
        /// What was asked for.
        kib: u32,
    },
    /// The cipher refused to work; 32 bytes are far below its limits.
    #[error("the cipher refused to seal a key; nothing was written")]
    Cipher,
}
