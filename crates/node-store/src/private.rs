//! Files and folders that are nobody else's: the check before a secret or a database is read.
//!
//! A file is 0600 or tighter, a folder 0700 or tighter, a link is neither, and the owner is the user
//! that the disk names. The set-group-ID and sticky bits of a folder are ignored: they give nobody
//! access, and `chmod 700` does not take them away.
//!
//! The check and a later read are two steps. Nobody else can step between them: the folder above is
//! checked first and is ours alone, and [`Disk::read`] follows no link.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::disk::{Disk, EntryKind};

/// What a private thing should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Private {
    /// A regular file, 0600 or tighter.
    File,
    /// A folder, 0700 or tighter.
    Folder,
}

impl Private {
    /// The loosest permission bits that are still private.
    #[must_use]
    pub const fn mode_max(self) -> u32 {
        match self {
            Self::File => 0o600,
            Self::Folder => 0o700,
        }
    }
}

/// Why something is not ours alone.
#[derive(Debug, thiserror::Error)]
pub enum NotPrivate {
    /// Others have access.
    #[error("{path} has mode {found:04o}, others have access to it: run chmod {wanted:o} {path}")]
    TooOpen {
        /// What was looked at.
        path: PathBuf,
        /// Its permission bits.
        found: u32,
        /// The loosest bits that are private.
        wanted: u32,
    },
    /// It belongs to another user.
    #[error("{path} belongs to user {found}, this runs as user {ours}: {}", cure(path, *found, *ours))]
    ForeignOwner {
        /// What was looked at.
        path: PathBuf,
        /// Its owner.
        found: u32,
        /// The user that it should belong to.
        ours: u32,
    },
    /// A symbolic link stands there.
    #[error("{path} is a symbolic link, which is never followed here: put the file itself there")]
    Link {
        /// What was looked at.
        path: PathBuf,
    },
    /// Something else stands where a regular file should.
    #[error("{path} is not a regular file: move it away")]
    NotAFile {
        /// What was looked at.
        path: PathBuf,
    },
    /// Something else stands where a folder should.
    #[error("{path} is not a folder: move it away")]
    NotAFolder {
        /// What was looked at.
        path: PathBuf,
    },
    /// Nothing stands there.
    #[error("{path} does not exist")]
    Missing {
        /// What was looked at.
        path: PathBuf,
    },
    /// The operating system did not say.
    #[error("cannot look at {path}")]
    Look {
        /// What was looked at.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl NotPrivate {
    /// What was looked at.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::TooOpen { path, .. }
            | Self::ForeignOwner { path, .. }
            | Self::Link { path }
            | Self::NotAFile { path }
            | Self::NotAFolder { path }
            | Self::Missing { path }
            | Self::Look { path, .. } => path,
        }
    }
}

/// What to do with a file of another user. It is never given to root: the node of its user would lose it.
fn cure(path: &Path, found: u32, ours: u32) -> String {
    if ours == 0 {
        format!("run this as that user (sudo -u '#{found}' ...)")
    } else {
        format!("run this as that user, or chown {ours} {} as root", path.display())
    }
}

/// Checks that `path` is a private file or folder.
///
/// # Errors
/// [`NotPrivate`], [`NotPrivate::Missing`] too.
pub fn check_private(disk: &dyn Disk, path: &Path, wanted: Private) -> Result<(), NotPrivate> {
    if private_if_there(disk, path, wanted)? {
        Ok(())
    } else {
        Err(NotPrivate::Missing { path: path.to_owned() })
    }
}

/// Whether something stands at `path`; if so it is a private file or folder.
///
/// # Errors
/// [`NotPrivate`] but for [`NotPrivate::Missing`]: missing is an answer.
pub fn private_if_there(disk: &dyn Disk, path: &Path, wanted: Private) -> Result<bool, NotPrivate> {
    let path = || path.to_owned();
    let entry = disk.entry(&path()).map_err(|source| NotPrivate::Look { path: path(), source })?;
    let Some(entry) = entry else { return Ok(false) };
    match (entry.kind, wanted) {
        (EntryKind::File, Private::File) | (EntryKind::Folder, Private::Folder) => {}
        (EntryKind::Link, Private::File | Private::Folder) => return Err(NotPrivate::Link { path: path() }),
        (EntryKind::Folder | EntryKind::Other, Private::File) => {
            return Err(NotPrivate::NotAFile { path: path() });
        }
        (EntryKind::File | EntryKind::Other, Private::Folder) => {
            return Err(NotPrivate::NotAFolder { path: path() });
        }
    }
    if entry.uid != disk.uid() {
        return Err(NotPrivate::ForeignOwner { path: path(), found: entry.uid, ours: disk.uid() });
    }
    let loose = entry.mode & 0o777 & !wanted.mode_max();
    if loose == 0 {
        Ok(true)
    } else {
        Err(NotPrivate::TooOpen { path: path(), found: entry.mode, wanted: wanted.mode_max() })
    }
}
