//! Backups: a volume in one file, and a volume made of it again.
//!
//! An archive is a tar (POSIX ustar) compressed with Zstandard. Its first member is the manifest; the others follow in the
//! order that the manifest names, and in exactly the form that this room writes:
//!
//! ```text
//! manifest.json   format, purpose, network, node, volume, release, when, and bytes and SHA-256 of each member
//! state.db        copied by VACUUM INTO: consistent, compact, and without what was deleted
//! jobs.db         prompts and answers in it stay sealed under the volume key
//! logs.db
//! keys/node.key   only where asked for, sealed under a passphrase: see `keys::sealed`
//! keys/volume.key
//! ```
//!
//! Not in it: model files, which are fetched again by their hashes; the lock; the reserve; damaged files that were
//! moved aside.
//!
//! A restored volume is **fenced**: its jobs may have been answered since, so none is run or sent before the network was
//! asked ([`Jobs::judge_fenced`](crate::jobs::Jobs::judge_fenced)); its message numbers go on far above all that may have been used, and its logs
//! begin another chain. A volume that is **moved** goes on as it was, because the old one is marked retired before the
//! archive gets its name.
//!
//! An archive may come from anybody: whatever is in it, nothing is written outside of the new folder, no more is
//! unpacked than the manifest says, unpacking takes some 10 MiB of memory, and no value of a database in it more than 64 MiB. Its hashes find damage; they prove no origin.
//!
//! Limits: a member has [`MEMBER_BYTES_MAX`] bytes at the most, a manifest [`MANIFEST_BYTES_MAX`].

use std::{
    fs::{File, OpenOptions},
    io::{self, ErrorKind},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use node_types::{Digest, Network, NodeId, Timestamp, VolumeId};

mod manifest;
mod moving;
mod pack;
mod restore;
mod tar;
mod unpack;

pub use manifest::{MANIFEST_BYTES_MAX, Manifest, Member, Purpose};
pub use moving::{Undone, finish_move, move_in, move_out, undo_move};
pub use pack::{create, write_files};
pub use restore::{Restored, Source, restore, unfence};
pub use tar::MEMBER_BYTES_MAX;
pub use unpack::{Held, Verified, manifest_of, verify};

use crate::{
    disk::{Disk, EntryKind, Lock, Locked},
    format::FormatError,
    keys::KeyError,
    private::{NotPrivate, Private, private_if_there},
    store::StoreError,
    volume::VolumeError,
};

/// Why a backup was not made, is not sound, or is not restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// Something stands where the archive should be written.
    #[error("{path} exists already and was left as it is: choose another name")]
    ArchiveExists {
        /// The file.
        path: PathBuf,
    },
    /// It is no archive of ours.
    #[error("{path} is no backup of resultity-node: {why}")]
    NotAnArchive {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A later release wrote it.
    #[error("{path} has version {found}; this release reads up to {newest}: upgrade resultity-node")]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u64,
        /// The newest that is read.
        newest: u64,
    },
    /// Another member than the one that the manifest names stands there, or it has another form.
    #[error(
        "{path} is not as it was written: where {wanted} should be there is {found}; nothing of it is used"
    )]
    Unexpected {
        /// The file.
        path: PathBuf,
        /// What should be there.
        wanted: String,
        /// What is there.
        found: String,
    },
    /// It ends too soon.
    #[error("{path} ends in the middle of {member}: it was not copied to its end, take another copy")]
    Truncated {
        /// The file.
        path: PathBuf,
        /// What was being read.
        member: String,
    },
    /// A member is not what was packed.
    #[error("{path} is damaged: {member} has SHA-256 {found}, {wanted} was packed; take another copy")]
    Altered {
        /// The file.
        path: PathBuf,
        /// The member.
        member: String,
        /// Its digest.
        found: Digest,
        /// The manifest's.
        wanted: Digest,
    },
    /// It says more than it may.
    #[error("{path}: {what} has {bytes} bytes, at most {max} are taken")]
    TooLarge {
        /// The archive.
        path: PathBuf,
        /// What of it.
        what: String,
        /// Its bytes.
        bytes: u64,
        /// The most.
        max: u64,
    },
    /// There is no room.
    #[error("{folder} has {free} bytes free, {needed} are needed: free some, or choose another folder")]
    NoRoom {
        /// The folder.
        folder: PathBuf,
        /// Bytes needed.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
    /// A database in it cannot be used.
    #[error("{member} in {path} cannot be used")]
    Database {
        /// The archive.
        path: PathBuf,
        /// The member.
        member: String,
        /// Why not.
        #[source]
        source: Box<FormatError>,
    },
    /// It is another network's.
    #[error("{path} is a backup of a node of {found}, this is {wanted}: restore it with --network {found}")]
    OtherNetwork {
        /// The archive.
        path: PathBuf,
        /// Its network.
        found: Network,
        /// The network asked for.
        wanted: Network,
    },
    /// It says that it was made later than now.
    #[error(
        "{path} says that it was made on {created_at}, and this machine's clock says {now}: set the clock; if it is right, take \
         another copy"
    )]
    FromTheFuture {
        /// The archive.
        path: PathBuf,
        /// When it says that it was made.
        created_at: Timestamp,
        /// When it is.
        now: Timestamp,
    },
    /// Something is there already.
    #[error(
        "{folder} holds {held}, {path} is a backup of {offered}: nothing is restored over a volume; choose another --home, \
         or move that folder away yourself if you are sure that it is not needed"
    )]
    VolumeExists {
        /// The folder.
        folder: PathBuf,
        /// What is in it.
        held: String,
        /// The archive.
        path: PathBuf,
        /// The node in it.
        offered: NodeId,
    },
    /// It has no keys, and none were given.
    #[error(
        "{path} holds no keys (it was made without --with-keys): give the old node's keys folder with --keys, or its \
         exported key with --key-file"
    )]
    NoKeys {
        /// The archive.
        path: PathBuf,
    },
    /// A key is another node's or another volume's.
    #[error("the key is that of {found}, {path} is a backup of {wanted}: give the key of that node")]
    OtherKey {
        /// The archive.
        path: PathBuf,
        /// Whose key it is.
        found: NodeId,
        /// Whose backup it is.
        wanted: NodeId,
    },
    /// A volume key is another volume's.
    #[error(
        "the volume key is that of volume {found}, {path} is a backup of volume {wanted}: give the keys of that volume"
    )]
    OtherVolumeKey {
        /// The archive.
        path: PathBuf,
        /// The key's volume.
        found: VolumeId,
        /// The archive's.
        wanted: VolumeId,
    },
    /// A node is moved in from an archive that was made for that alone.
    #[error(
        "{path} is a backup, and the node that it was made of may run: restore it with `resultity-node backup restore`, \
         which asks the network first"
    )]
    NotAMove {
        /// The archive.
        path: PathBuf,
    },
    /// The volume was not moved away.
    #[error("the node of {folder} was not moved away: there is nothing to undo")]
    NotRetired {
        /// The folder.
        folder: PathBuf,
    },
    /// No job waits for the network's word.
    #[error("the jobs of {folder} wait for nothing: there is no fence to take down")]
    NotFenced {
        /// The folder.
        folder: PathBuf,
    },
    /// Somebody else does the same now.
    #[error("process {holder} works on {folder}: wait for it")]
    InUse {
        /// The working folder.
        folder: PathBuf,
        /// Its pid.
        holder: String,
    },
    /// The keys.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The volume.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The operating system failed.
    #[error("cannot use {path}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Its error.
        #[source]
        source: io::Error,
    },
}

impl From<VolumeError> for BackupError {
    fn from(error: VolumeError) -> Self {
        StoreError::from(error).into()
    }
}

impl From<FormatError> for BackupError {
    fn from(error: FormatError) -> Self {
        VolumeError::from(error).into()
    }
}

impl From<NotPrivate> for BackupError {
    fn from(error: NotPrivate) -> Self {
        VolumeError::from(error).into()
    }
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> BackupError {
    |source| BackupError::Io { path: path.to_owned(), source }
}

/// A folder that is worked in and gone afterwards. Its lock keeps others out; what a crash left in it is removed.
struct Workshop {
    folder: PathBuf,
    kept: bool,
    lock: Box<dyn Lock>,
}

impl Workshop {
    fn open(disk: &dyn Disk, folder: PathBuf) -> Result<Self, BackupError> {
        if !private_if_there(disk, &folder, Private::Folder)? {
            match disk.create_dir(&folder) {
                // Another process made it just now; the lock tells.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    private_if_there(disk, &folder, Private::Folder)?;
                }
                made => made.map_err(failed(&folder))?,
            }
        }
        Self::enter(disk, folder)
    }

    /// The same on a disk that may keep no modes, in a folder into which nobody else can put anything.
    fn beside(disk: &dyn Disk, folder: PathBuf) -> Result<Self, BackupError> {
        match private_if_there(disk, &folder, Private::Folder) {
            Ok(true) | Err(NotPrivate::TooOpen { .. }) => Self::enter(disk, folder),
            Ok(false) => Self::open(disk, folder),
            Err(error) => Err(error.into()),
        }
    }

    fn enter(disk: &dyn Disk, folder: PathBuf) -> Result<Self, BackupError> {
        let lock = folder.join(LOCK);
        match disk.lock(&lock, &std::process::id().to_string()).map_err(failed(&lock))? {
            Locked::Theirs(holder) => Err(BackupError::InUse { folder, holder }),
            Locked::Ours { lock, .. } => {
                for name in disk.list(&folder).map_err(failed(&folder))? {
                    if name != LOCK {
                        remove_all(&folder.join(name))?;
                    }
                }
                Ok(Self { folder, kept: false, lock })
            }
        }
    }

    /// It has become a volume, every page of which was just checked.
    fn keep(mut self) {
        self.kept = true;
        // Where it fails, the next opening checks what it need not.
        let _ = self.lock.clear();
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        if !self.kept {
            // What cannot be removed now is removed the next time.
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

/// Where a volume of a network is made of an archive.
fn restoring(home: &Path, network: Network) -> PathBuf {
    home.join(format!(".{network}.restore"))
}

/// Where the parts of an archive stand that cannot stand beside it.
fn packing(home: &Path, network: Network) -> PathBuf {
    home.join(format!(".{network}.backup"))
}

/// The folders in a home that a killed [`create`], [`move_out`], [`restore`] or [`move_in`] left. Databases and sealed keys may
/// stand in them. One in which somebody works is none. Changes nothing.
///
/// # Errors
/// [`BackupError::Io`].
pub fn abandoned(disk: &dyn Disk, home: &Path, network: Network) -> Result<Vec<PathBuf>, BackupError> {
    let mut found = Vec::new();
    for folder in [restoring(home, network), packing(home, network)] {
        let entry = disk.entry(&folder).map_err(failed(&folder))?;
        if entry.is_some_and(|entry| entry.kind == EntryKind::Folder) {
            let lock = folder.join(LOCK);
            if disk.holder(&lock).map_err(failed(&lock))?.is_none() {
                found.push(folder);
            }
        }
    }
    Ok(found)
}

/// Removes what is [`abandoned`] and nobody else's.
fn sweep(disk: &dyn Disk, home: &Path, network: Network) {
    for folder in abandoned(disk, home, network).unwrap_or_default() {
        // What cannot be removed stands in nobody's way here; the doctor names it.
        drop(Workshop::open(disk, folder));
    }
}

/// The lock's file: in a restored volume it is the volume's own.
const LOCK: &str = "LOCK";

/// Removes a file or folder of a workshop; a link is removed, never followed.
fn remove_all(path: &Path) -> Result<(), BackupError> {
    let about = std::fs::symlink_metadata(path).map_err(failed(path))?;
    let removed =
        if about.is_dir() { std::fs::remove_dir_all(path) } else { crate::disk::RealDisk.remove(path) };
    removed.map_err(failed(path))
}

/// A file's path in full, its folder and its name.
fn placed(path: &Path) -> Result<(PathBuf, PathBuf, String), BackupError> {
    let full = std::path::absolute(path).map_err(failed(path))?;
    match (full.parent(), full.file_name().and_then(|name| name.to_str())) {
        (Some(folder), Some(name)) => {
            let (folder, name) = (folder.to_owned(), name.to_owned());
            Ok((full, folder, name))
        }
        _ => Err(failed(path)(io::Error::new(ErrorKind::InvalidInput, "it is no name of a file"))),
    }
}

#[expect(clippy::disallowed_methods, reason = "an archive is streamed, and stands outside of the volume")]
fn open(path: &Path) -> io::Result<File> {
    File::open(path)
}

/// Makes a file that its owner alone can read. It is an error if something stands there.
#[expect(clippy::disallowed_methods, reason = "archives and their members are streamed")]
fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Says so where a folder has not so many bytes free.
fn need_room(disk: &dyn Disk, folder: &Path, needed: u64) -> Result<(), BackupError> {
    let free = disk.free_bytes(folder).map_err(failed(folder))?;
    if free < needed {
        return Err(BackupError::NoRoom { folder: folder.to_owned(), needed, free });
    }
    Ok(())
}
