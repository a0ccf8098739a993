//! The devnet's own files: its folder and its keys, and the files of models that it serves. A key's file is written once
//! and never changed; a model's is only read.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
};

/// Makes the folder, readable by its owner alone, if it is not there.
pub(crate) fn make_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// The file's text, or nothing where there is no such file.
#[expect(clippy::disallowed_methods, reason = "the devnet's own files are read here and nowhere else")]
pub(crate) fn read(path: &Path) -> io::Result<Option<String>> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => {
            let text = String::from_utf8(other?);
            text.map(Some).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))
        }
    }
}

/// Writes a new file that its owner alone can read, and makes it durable. One that is there is left alone.
#[expect(clippy::disallowed_methods, reason = "the devnet's own files are written here and nowhere else")]
pub(crate) fn create(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    let folder = path.parent().unwrap_or(Path::new("."));
    OpenOptions::new().read(true).open(folder)?.sync_all()
}

/// How long a regular file is, or nothing where there is none.
pub(crate) fn length(path: &Path) -> io::Result<Option<u64>> {
    match fs::metadata(path) {
        Ok(found) if found.is_file() => Ok(Some(found.len())),
        Ok(_) => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// A model's file, to be read.
#[expect(clippy::disallowed_methods, reason = "the files of models are opened here and nowhere else")]
pub(crate) fn open(path: &Path) -> io::Result<File> {
    File::open(path)
}
