//! The demo's own files and folders.
#![expect(clippy::disallowed_methods, reason = "files of the demo's, none of a volume's disk")]

use std::{
    fs,
    os::unix::fs::{DirBuilderExt, FileExt, PermissionsExt},
    path::Path,
};

use crate::failure::Failure;

fn failed(path: &Path) -> impl FnOnce(std::io::Error) -> Failure {
    |source| Failure::File { what: "write", path: path.to_owned(), source }
}

/// Makes a folder that others may pass, for the runtime's user; those above it too.
///
/// # Errors
/// [`Failure::File`].
pub(crate) fn make(path: &Path) -> Result<(), Failure> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(failed(path))
}

/// Writes a file.
///
/// # Errors
/// [`Failure::File`].
pub(crate) fn write(path: &Path, text: &str) -> Result<(), Failure> {
    fs::write(path, text).map_err(failed(path))
}

/// What a file says so far; nothing where it is not there yet.
pub(crate) fn read(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Flips a bit of a file as somebody would who does not want to be noticed: its length and times stay as they were.
///
/// # Errors
/// [`Failure::File`].
pub(crate) fn flip(path: &Path, at: u64) -> Result<(), Failure> {
    let mut byte = [0];
    let mut flipped = || {
        let before = fs::metadata(path)?;
        // Whoever may write to every file may do it to one that is read-only.
        fs::set_permissions(path, fs::Permissions::from_mode(0o644))?;
        let file = fs::File::options().read(true).write(true).open(path)?;
        file.read_exact_at(&mut byte, at)?;
        file.write_all_at(&[byte[0] ^ 1], at)?;
        file.set_times(
            fs::FileTimes::new().set_accessed(before.accessed()?).set_modified(before.modified()?),
        )?;
        fs::set_permissions(path, before.permissions())
    };
    flipped().map_err(failed(path))
}

/// Copies a folder with its modes, as somebody would who moves a node by hand.
///
/// # Errors
/// [`Failure::File`].
pub(crate) fn copy(from: &Path, to: &Path) -> Result<(), Failure> {
    fs::create_dir(to).map_err(failed(to))?;
    let modes = fs::metadata(from).map_err(failed(from))?.permissions();
    fs::set_permissions(to, modes).map_err(failed(to))?;
    for entry in fs::read_dir(from).map_err(failed(from))? {
        let entry = entry.map_err(failed(from))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            copy(&source, &target)?;
        } else {
            fs::copy(&source, &target).map_err(failed(&target))?;
        }
    }
    Ok(())
}
