//! What the operating system says of files and folders, and what of that is as it should be.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{self, ErrorKind},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use node_types::{Digest, Timestamp};
use rustix::fs::{FileType, Mode, OFlags};

use super::{ModelsError, error::failed};
use crate::seal::Seen;

/// Nobody writes to a file that was verified.
pub(super) const HELD_MODE: u32 = 0o444;

/// What a thing is instead of a model file, and what it should be.
pub(super) fn not_held(seen: &Seen) -> Option<(String, String)> {
    not_file(seen, HELD_MODE)
}

/// What a thing is instead of a regular file of ours with exactly this mode, and what it should be.
pub(super) fn not_file(seen: &Seen, mode: u32) -> Option<(String, String)> {
    if seen.kind != FileType::RegularFile {
        return Some((kind_of(seen).to_owned(), "a regular file".to_owned()));
    }
    not_owned(seen).or_else(|| {
        (seen.mode != mode).then(|| (format!("has mode {:04o}", seen.mode), format!("mode {mode:04o}")))
    })
}

/// What a thing is instead of a folder of ours that nobody writes to who should not.
pub(super) fn not_folder(seen: &Seen, mode: u32) -> Option<(String, String)> {
    if seen.kind != FileType::Directory {
        return Some((kind_of(seen).to_owned(), "a folder".to_owned()));
    }
    not_owned(seen).or_else(|| {
        let loose = seen.mode & 0o777 & !mode;
        (loose != 0).then(|| (format!("has mode {:04o}", seen.mode), format!("mode {mode:04o}")))
    })
}

fn not_owned(seen: &Seen) -> Option<(String, String)> {
    let ours = rustix::process::geteuid().as_raw();
    (seen.uid != ours).then(|| (format!("belongs to user {}", seen.uid), format!("user {ours}")))
}

const fn kind_of(seen: &Seen) -> &'static str {
    match seen.kind {
        FileType::RegularFile => "is a regular file",
        FileType::Directory => "is a folder",
        FileType::Symlink => "is a symbolic link",
        FileType::Fifo
        | FileType::Socket
        | FileType::CharacterDevice
        | FileType::BlockDevice
        | FileType::Unknown => "is a device, a socket or a pipe",
    }
}

/// Opens a model file for reading, and puts its mode right; `None` where nothing stands there.
pub(super) fn open_held(path: &Path) -> Result<Option<File>, ModelsError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(rustix::io::Errno::LOOP) => {
            let (found, wanted) = ("is a symbolic link".to_owned(), "a regular file".to_owned());
            return Err(ModelsError::NotOurs { path: path.to_owned(), found, wanted });
        }
        Err(error) => return Err(failed(path)(error.into())),
    };
    let seen = Seen::of(&file).map_err(failed(path))?;
    if seen.kind == FileType::RegularFile && not_owned(&seen).is_none() && seen.mode != HELD_MODE {
        // Its mode is ours to put back. What it holds is read, whoever may have written to it.
        file.set_permissions(fs::Permissions::from_mode(HELD_MODE)).map_err(failed(path))?;
    }
    match not_held(&Seen::of(&file).map_err(failed(path))?) {
        Some((found, wanted)) => Err(ModelsError::NotOurs { path: path.to_owned(), found, wanted }),
        None => Ok(Some(file)),
    }
}

/// Removes a file; none being there is no error. Returns the bytes of the disk that it took.
#[expect(clippy::disallowed_methods, reason = "model files are no part of the disk seam")]
pub(super) fn delete(path: &Path) -> Result<u64, ModelsError> {
    let Some(seen) = Seen::at(path).map_err(failed(path))? else { return Ok(0) };
    fs::remove_file(path).map_err(failed(path))?;
    Ok(seen.taken)
}

/// The names in a folder; none where it is not there.
pub(super) fn names(folder: &Path) -> io::Result<Vec<OsString>> {
    match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        found => found?.map(|entry| entry.map(|entry| entry.file_name())).collect(),
    }
}

/// The digest that a file of ours has as its name.
pub(super) fn digest(name: &OsStr) -> Option<Digest> {
    format!("sha256:{}", name.to_str()?).parse().ok()
}

/// The digest and the moment that a file in quarantine has as its name.
pub(super) fn aside(name: &OsStr) -> Option<(Digest, Timestamp)> {
    let (hex, ms) = name.to_str()?.split_once('-')?;
    Some((digest(hex.as_ref())?, Timestamp::from_ms(ms.parse().ok()?)))
}

/// Syncs the names in a folder.
#[expect(clippy::disallowed_methods, reason = "model files are no part of the disk seam")]
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
