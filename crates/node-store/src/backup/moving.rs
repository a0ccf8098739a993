//! Handing a node to another machine: the old volume is shut before the archive has its name.
//!
//! ```text
//! 1. the archive is written whole, as .NAME.tmp        a crash leaves the old volume as it was
//! 2. the old volume is marked retired, on disk, twice  a crash leaves it shut; the same command again goes on here
//! 3. the archive gets its name
//! ```
//!
//! So there is no moment at which both can be used.

use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::{
    BackupError, Manifest, Purpose, Restored, Source, failed,
    pack::{Hidden, Ready},
    restore::{Kept, unpacked},
    unpack::Archive,
};
use crate::{
    clock::Reading,
    disk::{Disk, EntryKind},
    format::{self, Access, Database, FormatError},
    jobs::{self, Retired},
    keys::Kek,
    store::{Options, Store, StoreError},
    volume::{self, Claim, KEYS, VolumeError},
};

/// Moves a node out: its volume goes into an archive with both keys, sealed under a passphrase, and is shut. No Agent may run.
///
/// Where that was broken off after the volume was shut, this does what [`finish_move`] does.
///
/// # Errors
/// [`BackupError`]; then the volume can be used as before, or the next call says [`VolumeError::Retired`] or goes on.
pub fn move_out(
    options: &Options,
    archive: &Path,
    kek: &Kek,
    release: &str,
    reading: &Reading,
) -> Result<Manifest, BackupError> {
    let disk = &*options.disk;
    let store = match Store::open(options, reading) {
        Err(StoreError::Volume(VolumeError::Retired { .. })) => return finish_move(options, archive),
        opened => opened?,
    };
    let Ready { manifest, file } =
        Ready::make(options, archive, Purpose::Move, Some(kek), release, reading.wall)?;
    let retired = Retired {
        at: reading.wall,
        archive: file.archive.display().to_string(),
        transfer: manifest.transfer.clone(),
    };
    if let Err(error) = volume::note_moved(disk, &options.folder(), &retired) {
        file.discard(disk);
        return Err(failed(&options.folder())(error));
    }
    if let Err(error) = store.jobs().retire(Some(retired)).wait() {
        // It may be on disk nevertheless. Then the archive is wanted, and the same call goes on with it.
        return Err(StoreError::from(error).into());
    }
    match file.publish(disk) {
        Ok(()) => Ok(manifest),
        Err(error) => {
            // Where an archive stands, or nobody can say, the volume stays shut: two of one node must not run.
            let unnamed = matches!(error, BackupError::ArchiveExists { .. })
                || matches!(disk.entry(&file.archive), Ok(None));
            if unnamed {
                store.jobs().retire(None).wait().map_err(StoreError::from)?;
                file.discard(disk);
            }
            Err(error)
        }
    }
}

/// Gives the archive of a volume that was shut its name, if it has none yet, and makes sure that it is on disk. Needs no key.
///
/// # Errors
/// [`BackupError`]; [`VolumeError::Retired`] where the archive stands elsewhere.
pub fn finish_move(options: &Options, archive: &Path) -> Result<Manifest, BackupError> {
    let (disk, mark) = (&*options.disk, Mark::find(options)?);
    let file = Hidden::of(archive)?;
    if let Some(manifest) = transferred(disk, &file.archive, &mark.retired.transfer)? {
        // Where a file has to be linked to rename it, it may have both names.
        file.discard(disk);
        disk.sync_dir(&file.folder).map_err(failed(&file.folder))?;
        return Ok(manifest);
    }
    match transferred(disk, &file.temporary, &mark.retired.transfer)? {
        Some(manifest) => {
            file.publish(disk)?;
            Ok(manifest)
        }
        None => {
            let Retired { at, archive, transfer } = mark.retired;
            Err(VolumeError::Retired { path: options.folder(), at, archive, transfer }.into())
        }
    }
}

/// The manifest of the archive at `path`, if one of this transfer stands there.
fn transferred(disk: &dyn Disk, path: &Path, transfer: &str) -> Result<Option<Manifest>, BackupError> {
    let found = disk.entry(path).map_err(failed(path))?;
    if found.is_none_or(|entry| entry.kind != EntryKind::File) {
        return Ok(None);
    }
    match Archive::open(path) {
        Ok(opened) => Ok(Some(opened.manifest).filter(|manifest| manifest.transfer == transfer)),
        Err(error @ BackupError::Io { .. }) => Err(error),
        // Something else that has the name.
        Err(_) => Ok(None),
    }
}

/// The mark of a volume that was moved away, and the lock that keeps others from it.
struct Mark {
    retired: Retired,
    path: PathBuf,
    connection: Connection,
    _claim: Claim,
}

impl Mark {
    fn find(options: &Options) -> Result<Self, BackupError> {
        let (disk, folder) = (&*options.disk, options.folder());
        if disk.entry(&folder.join(KEYS)).map_err(failed(&folder))?.is_none() {
            return Err(VolumeError::Missing { path: folder }.into());
        }
        let claim = Claim::take(&options.disk, &folder)?;
        let path = folder.join(Database::Jobs.file());
        if disk.entry(&path).map_err(failed(&path))?.is_none() {
            return Err(VolumeError::NoDatabase { path }.into());
        }
        let connection = format::connect(disk, &path, Database::Jobs, Access::Write)?;
        format::identify(&connection, &path, Database::Jobs)?;
        match jobs::retired(&connection).map_err(|error| FormatError::of(&path, error))? {
            Some(retired) => Ok(Self { retired, path, connection, _claim: claim }),
            None => Err(BackupError::NotRetired { folder }),
        }
    }
}

/// Moves a node in, where there is none: it goes on where it stood still.
///
/// # Errors
/// [`BackupError`]; [`BackupError::NotAMove`] for an archive whose node may run.
pub fn move_in(options: &Options, archive: &Path, source: &Source) -> Result<Restored, BackupError> {
    unpacked(options, archive, source, Kept::AsItWas)
}

/// A move that was undone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undone {
    /// What the volume had noted.
    pub retired: Retired,
    /// The archive without a name that could not be removed: whoever has it and its passphrase has the node.
    pub left: Option<PathBuf>,
}

/// Makes a volume that was moved out the node again. Right only where the archive was not used and never will be: two of
/// one node must not run.
///
/// # Errors
/// [`BackupError::NotRetired`], [`BackupError::Store`].
pub fn undo_move(options: &Options) -> Result<Undone, BackupError> {
    let (disk, Mark { retired, path, connection, _claim }) = (&*options.disk, Mark::find(options)?);
    let of = |error| FormatError::of(&path, error);
    jobs::set_retired(&connection, None).map_err(of)?;
    connection.close().map_err(|(_, error)| of(error))?;
    let folder = options.folder();
    volume::forget_moved(disk, &folder).map_err(failed(&folder))?;
    // One that never got its name. What stands in the mark is no reason to remove anything else, or to fail: the file
    // may be on a stick that is not there.
    let temporary = Hidden::of(Path::new(&retired.archive)).map(|file| file.temporary);
    let left = temporary
        .ok()
        .filter(|path| matches!(transferred(disk, path, &retired.transfer), Ok(Some(_))))
        .filter(|path| disk.remove(path).is_err());
    Ok(Undone { retired, left })
}
