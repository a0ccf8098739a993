//! The operator's files: envelopes, keystores, settings, passphrases. The volume's own files are the store's.
//!
//! Limits: a file is read up to the bytes that its reader allows; nothing is ever overwritten, but a program by another
//! release of it, and then the one before is kept.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _},
    ops::ControlFlow,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use node_store::{
    disk::{self, RealDisk},
    hash,
};
use node_types::Digest;
use rustix::fs::{CWD, RenameFlags};
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
    is_free(path)?;
    let refused = |source| Failure::File { what: "write", path: path.to_owned(), source };
    // A bare name has an empty folder, which cannot be synced.
    let full = std::path::absolute(path).map_err(refused)?;
    disk::write_new(&RealDisk, &full, bytes).map_err(refused)
}

/// Refuses a name that something has already.
///
/// # Errors
/// [`Failure::File`].
pub(crate) fn is_free(path: &Path) -> Result<(), Failure> {
    // Whatever hinders the look hinders the writing, which says it.
    if fs::symlink_metadata(path).is_err() {
        return Ok(());
    }
    let why = "it exists already and was left as it is: choose another name";
    let source = io::Error::new(io::ErrorKind::AlreadyExists, why);
    Err(Failure::File { what: "write", path: path.to_owned(), source })
}

/// SHA-256 of a whole file.
///
/// # Errors
/// [`Failure::File`].
pub(crate) fn digest(path: &Path) -> Result<Digest, Failure> {
    let refused = |source| Failure::File { what: "read", path: path.to_owned(), source };
    let file = open(path).map_err(refused)?;
    digest_of(&file).map_err(refused)
}

fn digest_of(file: &File) -> io::Result<Digest> {
    let hashes = hash::file(file, &mut |_| ControlFlow::Continue(()))?;
    hashes.map(|hashes| hashes.sha256).ok_or_else(|| io::Error::other("it was not read to its end"))
}

/// The file behind all links; where nothing stands under this name, the name in the folder behind all links.
///
/// # Errors
/// [`Failure::File`]; also for a link that leads nowhere.
pub(crate) fn resolved(path: &Path) -> Result<PathBuf, Failure> {
    let refused = |source| Failure::File { what: "find", path: path.to_owned(), source };
    let full = std::path::absolute(path).map_err(refused)?;
    match (fs::canonicalize(&full), full.parent(), full.file_name()) {
        (Err(error), Some(folder), Some(name))
            if error.kind() == io::ErrorKind::NotFound && !full.is_symlink() =>
        {
            Ok(fs::canonicalize(folder).map_err(refused)?.join(name))
        }
        (resolved, ..) => resolved.map_err(refused),
    }
}

/// Puts a copy of `from` in the place of a program, 0755, and keeps the program under `<name>.previous`; gives that name where
/// there is one to go back to. Where it is the program already nothing changes: the one that is kept is still the one before.
/// Where no program stands there, none is kept.
///
/// The copy itself is what is compared with `expected`, so that whoever writes to `from` meanwhile gains nothing. At every
/// moment a whole program stands in the place.
///
/// # Errors
/// [`Failure::File`]; then the program is as it was.
pub(crate) fn put_in_place(
    from: &Path,
    program: &Path,
    expected: &Digest,
) -> Result<Option<PathBuf>, Failure> {
    let held = match digest(program) {
        Err(Failure::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => None,
        held => Some(held?),
    };
    if held == Some(*expected) {
        return Ok(Some(beside(program, "previous")).filter(|kept| kept.exists()));
    }
    let new = beside(program, "new");
    let refused = |path: &Path, source| Failure::File { what: "write", path: path.to_owned(), source };
    let mut source =
        open(from).map_err(|source| Failure::File { what: "read", path: from.to_owned(), source })?;
    let copied = copy_new(&mut source, &new, expected);
    let kept = copied.and_then(|()| held.map(|_| keep(program)).transpose());
    let placed = kept.and_then(|kept| swap(&new, program).map(|()| kept));
    placed.map_err(|error| {
        // It holds nothing that is not in `from`.
        let _ = remove(&new);
        refused(program, error)
    })
}

/// Puts the program back that [`put_in_place`] kept: the two change places in one step. Gives the name of the one that is kept
/// now.
///
/// # Errors
/// [`Failure::NothingKept`], [`Failure::File`].
pub(crate) fn put_back(program: &Path) -> Result<PathBuf, Failure> {
    let kept = beside(program, "previous");
    match rustix::fs::renameat_with(CWD, program, CWD, &kept, RenameFlags::EXCHANGE) {
        Err(rustix::io::Errno::NOENT) if !kept.exists() => Err(Failure::NothingKept { kept }),
        exchanged => match exchanged.map_err(io::Error::from).and_then(|()| sync_folder(program)) {
            Ok(()) => Ok(kept),
            Err(source) => Err(Failure::File { what: "write", path: program.to_owned(), source }),
        },
    }
}

/// A name in the same folder.
fn beside(program: &Path, what: &str) -> PathBuf {
    let mut name = program.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{what}"));
    program.with_file_name(name)
}

#[expect(clippy::disallowed_methods, reason = "a program is no file of the volume's disk")]
fn copy_new(from: &mut File, new: &Path, expected: &Digest) -> io::Result<()> {
    // What an attempt before this one left.
    remove(new)?;
    let mut copy = OpenOptions::new().read(true).write(true).create_new(true).open(new)?;
    io::copy(from, &mut copy)?;
    // Whatever the umask is: a program of root's that others cannot run is none for them.
    copy.set_permissions(fs::Permissions::from_mode(0o755))?;
    copy.sync_all()?;
    if digest_of(&copy)? == *expected {
        Ok(())
    } else {
        Err(io::Error::other("the file changed while it was copied"))
    }
}

/// Keeps a program under another name too.
fn keep(program: &Path) -> io::Result<PathBuf> {
    let (kept, half) = (beside(program, "previous"), beside(program, "keeping"));
    // What an attempt before this one left.
    remove(&half)?;
    fs::hard_link(program, &half)?;
    rename(&half, &kept)?;
    // Where that attempt had kept this program already, both names were one file, and renaming did nothing (rename(2)).
    remove(&half)?;
    Ok(kept)
}

fn swap(new: &Path, program: &Path) -> io::Result<()> {
    rename(new, program)?;
    sync_folder(program)
}

fn sync_folder(program: &Path) -> io::Result<()> {
    open(program.parent().unwrap_or(Path::new("/")))?.sync_all()
}

#[expect(clippy::disallowed_methods, reason = "a program is no file of the volume's disk")]
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)
}

#[expect(clippy::disallowed_methods, reason = "a program is no file of the volume's disk")]
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// The package of dpkg's that a file belongs to: the lists under `/var/lib/dpkg/info` name them.
pub(crate) fn package_of(file: &Path) -> Option<String> {
    let list = fs::read_to_string("/var/lib/dpkg/info/resultity-node.list").ok()?;
    list.lines().any(|line| Path::new(line) == file).then(|| "resultity-node".to_owned())
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
