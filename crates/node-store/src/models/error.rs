//! Why something cannot be done with a model file.

use std::{
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use node_types::job::ModelRef;

use crate::{reader::ReadError, writer::WriteError};

/// Why something cannot be done with a model file.
#[derive(Debug, thiserror::Error)]
pub enum ModelsError {
    /// What stands there is not ours, or not what is expected.
    #[error("{path} {found}, {wanted} is expected: move it away or put it right")]
    NotOurs {
        /// The file or folder.
        path: PathBuf,
        /// What it is, so that `<path> <found>` is half a sentence.
        found: String,
        /// What it should be.
        wanted: String,
    },
    /// There is no such file.
    #[error("there is no {path}")]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// It is being fetched already.
    #[error("{path} is being fetched already: wait until that ends")]
    Busy {
        /// The partial file.
        path: PathBuf,
    },
    /// A model has it.
    #[error("{path} is a file of {model}: it stays")]
    Needed {
        /// The file.
        path: PathBuf,
        /// The model.
        model: ModelRef,
    },
    /// More than the piece has.
    #[error("piece {piece} of {path} has {bytes} bytes, byte {end} is beyond it")]
    Outside {
        /// The partial file.
        path: PathBuf,
        /// The piece, from 0.
        piece: u64,
        /// Its length.
        bytes: u64,
        /// Where the bytes would end.
        end: u64,
    },
    /// Not all of it is there.
    #[error("{path} has {received} of {bytes} bytes: fetch the rest first")]
    Incomplete {
        /// The partial file.
        path: PathBuf,
        /// Bytes that are on disk.
        received: u64,
        /// Its length.
        bytes: u64,
    },
    /// The disk is full.
    #[error("the disk of {path} is full: free some space")]
    Full {
        /// The file.
        path: PathBuf,
    },
    /// The operating system failed.
    #[error("cannot use {path}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Its error.
        #[source]
        source: io::Error,
    },
    /// `state.db` cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// `state.db` was not written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

pub(super) fn failed(path: &Path) -> impl Fn(io::Error) -> ModelsError + Copy {
    move |source| {
        let path = path.to_owned();
        if matches!(source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) {
            ModelsError::Full { path }
        } else {
            ModelsError::Io { path, source }
        }
    }
}
