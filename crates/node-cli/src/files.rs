//! The operator's files: envelopes, keystores, settings, passphrases. The volume's own files are the store's.
//!
//! Limits: a file is read up to the bytes that its reader allows; nothing is ever overwritten.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use node_store::disk::{self, RealDisk};
use zeroize::Zeroizing;

use crate::failure::Failure;

/// Reads a file, or the standard input for `-`, of at most `bytes_max` bytes.
///
/// # Errors
/// [`Failure::File`].
pub(crate) fn read(path: &Path, bytes_max: usize) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let read = if path == Path::new("-") {
        whole(io::stdin().lock(), bytes_max)
    } else {
        open(path).and_then(|file| whole(file, bytes_max))
    };
    read.map_err(|source| Failure::File { what: "read", path: path.to_owned(), source })
}

/// Reads a file, or nothing where there is none.
///
/// # Errors
/// The operating system's.
pub(crate) fn read_if_there(path: &Path, bytes_max: usize) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    match open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => whole(opened?, bytes_max).map(Some),
    }
}

/// Writes a new file, 0600, so that after a crash it is whole or not there.
///
/// # Errors
/// [`Failure::File`]; also where something stands there.
pub(crate) fn write_new(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let refused = |source| Failure::File { what: "write", path: path.to_owned(), source };
    // A bare name has an empty folder, which cannot be synced.
    let full = std::path::absolute(path).map_err(refused)?;
    disk::write_new(&RealDisk, &full, bytes).map_err(refused)
}

#[expect(clippy::disallowed_methods, reason = "an operator's file is no file of the volume's disk")]
fn open(path: &Path) -> io::Result<File> {
    File::open(path)
}

fn whole(source: impl io::Read, bytes_max: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    // A secret is small: one allocation that is never outgrown leaves no copy behind unzeroed.
    let mut bytes = Zeroizing::new(Vec::with_capacity(bytes_max.min(64 << 10) + 1));
    source.take(bytes_max as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > bytes_max {
        let text = format!("it has more than {bytes_max} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
    }
    Ok(bytes)
}
