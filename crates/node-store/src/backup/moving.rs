//! Handing a node to another machine: the old volume is shut before the archive has its name.
//!
//! ```text
//! 1. the archive is written whole, as .NAME.tmp        a crash leaves the old volume as it was
//! 2. the old volume is marked retired, on disk         a crash leaves it shut; the same command again goes on here
//! 3. the archive gets its name
//! ```
//!
//! So there is no moment at which both can be used.

use std::path::Path;

use super::{
    BackupError, Manifest, Purpose, Restored, Source, failed,
    pack::{Ready, publish, temporary_of},
    placed,
    restore::{Kept, unpacked},
    unpack::Archive,
};
use crate::{
    clock::Reading,
    format::{self, Access, Database, FormatError},
    jobs::{self, Retired},
    keys::Kek,
    store::{Options, Store, StoreError},
    volume::{Claim, KEYS, VolumeError},
};

/// Moves a node out: its volume goes into an archive with both keys, sealed under a passphrase, and is shut. No Agent may run.
///
/// After a crash the same call goes on.
///
/// # Errors
/// [`BackupError`]; then the volume can be used as before, unless the error is [`VolumeError::Retired`].
pub fn move_out(
    options: &Options,
    archive: &Path,
    kek: &Kek,
    release: &str,
    reading: &Reading,
) -> Result<Manifest, BackupError> {
    let store = match Store::open(options, reading) {
        Err(StoreError::Volume(VolumeError::Retired { path, at, archive: written, transfer })) => {
            let retired =
                || VolumeError::Retired { path, at, archive: written.clone(), transfer: transfer.clone() };
            return finish(options, archive, &transfer, retired);
        }
        opened => opened?,
    };
    let ready = Ready::make(options, archive, Purpose::Move, Some(kek), release, reading.wall)?;
    let retired = Retired {
        at: reading.wall,
        archive: ready.archive().display().to_string(),
        transfer: ready.manifest.transfer.clone(),
    };
    if let Err(error) = store.jobs().retire(Some(retired)).wait() {
        ready.discard(&*options.disk);
        return Err(StoreError::from(error).into());
    }
    match ready.publish(&*options.disk) {
        Ok(manifest) => Ok(manifest),
        Err(error) => {
            // There is no archive: this is the node again.
            store.jobs().retire(None).wait().map_err(StoreError::from)?;
            Err(error)
        }
    }
}

/// Gives the archive of a volume that was shut its name, if it has none yet.
fn finish(
    options: &Options,
    archive: &Path,
    transfer: &str,
    retired: impl FnOnce() -> VolumeError,
) -> Result<Manifest, BackupError> {
    let disk = &*options.disk;
    let (full, folder, _) = placed(archive)?;
    let temporary = temporary_of(&full)?;
    let there = disk.entry(&temporary).map_err(failed(&temporary))?.is_some();
    let manifest = if there { Some(Archive::open(&temporary)?.manifest) } else { None };
    match manifest.filter(|manifest| manifest.transfer == transfer) {
        Some(manifest) => {
            publish(disk, &temporary, &full, &folder)?;
            Ok(manifest)
        }
        None => Err(retired().into()),
    }
}

/// Moves a node in, where there is none: it goes on where it stood still.
///
/// # Errors
/// [`BackupError`]; [`BackupError::NotAMove`] for an archive whose node may run.
pub fn move_in(options: &Options, archive: &Path, source: &Source) -> Result<Restored, BackupError> {
    unpacked(options, archive, source, Kept::AsItWas)
}

/// Makes a volume that was moved out the node again. Right only where the archive was not used and never will be: two of
/// one node must not run. Returns what the volume had noted.
///
/// # Errors
/// [`BackupError::NotRetired`], [`BackupError::Store`].
pub fn undo_move(options: &Options) -> Result<Retired, BackupError> {
    let (disk, folder) = (&*options.disk, options.folder());
    if disk.entry(&folder.join(KEYS)).map_err(failed(&folder))?.is_none() {
        return Err(VolumeError::Missing { path: folder }.into());
    }
    let claim = Claim::take(&options.disk, &folder)?;
    let path = folder.join(Database::Jobs.file());
    if disk.entry(&path).map_err(failed(&path))?.is_none() {
        return Err(VolumeError::Missing { path }.into());
    }
    let of = |error| FormatError::of(&path, error);
    let connection = format::connect(disk, &path, Database::Jobs, Access::Write)?;
    format::identify(&connection, &path, Database::Jobs)?;
    let retired = jobs::retired(&connection).map_err(of)?;
    let Some(retired) = retired else { return Err(BackupError::NotRetired { folder }) };
    // An archive that never got its name.
    let temporary = temporary_of(Path::new(&retired.archive))?;
    disk.remove(&temporary).map_err(failed(&temporary))?;
    jobs::set_retired(&connection, None).map_err(of)?;
    connection.close().map_err(|(_, error)| of(error))?;
    drop(claim);
    Ok(retired)
}
