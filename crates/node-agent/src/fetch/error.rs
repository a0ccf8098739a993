//! Why a file of a model does not come.

use std::{error::Error, fmt, io, path::PathBuf};

use node_types::Digest;
use reqwest::StatusCode;

use super::Fault;
use crate::time::NoClock;

/// Why a file could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No connection can be made at all.
    #[error("TLS cannot be set up")]
    Client(#[source] reqwest::Error),
    /// Nobody says where it is.
    #[error(
        "the snapshot names no source for {path}: put the file into a folder of models under the name {}", sha256.hex()
    )]
    NoSource {
        /// The file, as its model names it.
        path: String,
        /// Its hash.
        sha256: Digest,
    },
    /// Every source failed.
    #[error("{path} comes from none of its sources. {}", Listed(failures))]
    Sources {
        /// The file, as its model names it.
        path: String,
        /// What happened last at each source, in the order in which they were tried.
        failures: Vec<SourceFailure>,
    },
    /// What arrives cannot be kept.
    #[error("what arrives of {path} cannot be kept")]
    Store {
        /// The file, as its model names it.
        path: String,
        /// Why.
        #[source]
        source: Fault,
    },
    /// The clock cannot be read.
    #[error(transparent)]
    Clock(#[from] NoClock),
}

impl FetchError {
    /// Whether trying again later can help without anything being changed at the network or in the settings.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Client(_) | Self::NoSource { .. } => false,
            // A piece that is wrong comes wrong again, until somebody mends the source.
            Self::Sources { failures, .. } => failures.iter().any(|failure| {
                !failure.problem.lasts() && !matches!(failure.problem, Problem::Corrupt { .. })
            }),
            Self::Store { .. } | Self::Clock(_) => true,
        }
    }
}

/// What happened at one source.
#[derive(Debug)]
pub struct SourceFailure {
    /// The source, as the snapshot names it, or the file that the operator brought.
    pub source: String,
    /// What happened.
    pub problem: Problem,
}

struct Listed<'a>(&'a [SourceFailure]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, SourceFailure { source, problem }) in self.0.iter().enumerate() {
            let space = if number == 0 { "" } else { " " };
            write!(out, "{space}{source}: {problem}.")?;
        }
        Ok(())
    }
}

/// What can happen at a source.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// It is nothing that can be asked.
    #[error("it cannot be used, because {0}: the network has to list another one")]
    Address(&'static str),
    /// A file that the operator does not allow.
    #[error("it leads to {}, which is in no folder of models: name its folder in the settings, or move the file", .0.display())]
    Folder(PathBuf),
    /// A folder, a device, a pipe.
    #[error("it is no regular file")]
    NotRegular,
    /// A file that cannot be read.
    #[error("it cannot be read ({0})")]
    Io(io::Error),
    /// Nobody answers.
    #[error("it cannot be reached ({0})")]
    Unreachable(String),
    /// Nobody that this machine knows says that it is who it claims to be.
    #[error(
        "its certificate is not trusted here ({0}): the network has to list another source, or the system's roots lack an authority"
    )]
    Untrusted(String),
    /// It leads somewhere else, where nobody may be sent.
    #[error("it leads elsewhere ({0}): the network has to list where the file really is")]
    Redirect(String),
    /// It says no.
    #[error("it answers {0}")]
    Status(StatusCode),
    /// It has another file.
    #[error("it says that the file has {said} bytes, the snapshot says {listed}: one of the two is wrong")]
    Size {
        /// What the source says.
        said: u64,
        /// What the snapshot says.
        listed: u64,
    },
    /// It sends something else than the file's bytes.
    #[error("it sends the file in the encoding {0:?}, which was not asked for")]
    Encoded(String),
    /// It sends another part than was asked for.
    #[error("it sends another part than the one that was asked for")]
    OtherPart,
    /// It ended too early.
    #[error("it broke off in piece {piece}, after {received} of {bytes} bytes ({cause})")]
    Cut {
        /// The piece, from 0.
        piece: u64,
        /// Bytes of it that are here.
        received: u64,
        /// Its length.
        bytes: u64,
        /// Why, or that the answer ended.
        cause: String,
    },
    /// It is too slow.
    #[error("it sends piece {piece} too slowly: {received} bytes in {ms} ms")]
    Stalled {
        /// The piece, from 0.
        piece: u64,
        /// How much came
        received: u64,
        /// in so many milliseconds.
        ms: u64,
    },
    /// It sent something else.
    #[error("piece {piece} arrived damaged: its BLAKE3 is not the one that is expected")]
    Corrupt {
        /// The piece, from 0.
        piece: u64,
    },
}

impl Problem {
    /// Whether asking again soon is of no use.
    pub(super) fn lasts(&self) -> bool {
        match self {
            Self::Address(_)
            | Self::Folder(_)
            | Self::NotRegular
            | Self::Io(_)
            | Self::Untrusted(_)
            | Self::Redirect(_)
            | Self::Size { .. }
            | Self::Encoded(_) => true,
            Self::Status(status) => {
                let later = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS];
                !status.is_server_error() && !later.contains(status)
            }
            Self::Unreachable(_)
            | Self::OtherPart
            | Self::Cut { .. }
            | Self::Stalled { .. }
            | Self::Corrupt { .. } => false,
        }
    }

    /// What a request that was not answered says.
    pub(super) fn of(error: &reqwest::Error) -> Self {
        if error.is_redirect() {
            Self::Redirect(chain(error))
        } else if is_untrusted(error) {
            Self::Untrusted(chain(error))
        } else {
            Self::Unreachable(chain(error))
        }
    }
}

/// Whether a certificate was refused. What an I/O error wraps is not its source, but stands in its place.
fn is_untrusted(error: &(dyn Error + 'static)) -> bool {
    if let Some(tls) = error.downcast_ref::<rustls::Error>() {
        return matches!(tls, rustls::Error::InvalidCertificate(_));
    }
    let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    wrapped
        .map(|wrapped| wrapped as &(dyn Error + 'static))
        .or_else(|| error.source())
        .is_some_and(is_untrusted)
}

/// An error with all of its causes. The URL stands beside it already.
pub(super) fn chain(error: &reqwest::Error) -> String {
    let mut text = String::new();
    let mut next = error.source();
    while let Some(error) = next {
        let colon = if text.is_empty() { "" } else { ": " };
        text.push_str(&format!("{colon}{error}"));
        next = error.source();
    }
    if text.is_empty() { "no cause was given".to_owned() } else { text }
}
