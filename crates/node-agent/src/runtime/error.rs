//! What can go wrong with a runtime.

use std::{io, path::PathBuf};

use node_types::{
    Digest,
    job::{FAILURE_MESSAGE_BYTES_MAX, OUTPUT_BYTES_MAX},
};

use super::container::ContainerError;

/// Why a runtime cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The address is no base URL.
    #[error("{url} cannot be the runtime's address: {problem}")]
    Address {
        /// What was given.
        url: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The API key cannot stand in a header. Says nothing of it.
    #[error("the runtime's API key has characters that HTTP cannot carry: use visible ASCII ones")]
    ApiKey,
    /// No HTTP client.
    #[error("cannot make an HTTP client")]
    Client(#[source] reqwest::Error),
    /// Nobody answers at its address, or not in time.
    #[error("the runtime at {url} does not answer")]
    Unreachable {
        /// Its address.
        url: String,
        /// The reason.
        #[source]
        source: reqwest::Error,
    },
    /// It answers, and says that it is not well.
    #[error("the runtime at {url} answers its health check with status {status}")]
    Unhealthy {
        /// What was asked.
        url: String,
        /// What it answered.
        status: u16,
    },
    /// The program's file is missing or cannot be read.
    #[error("cannot read the runtime's program {path}")]
    Program {
        /// The program.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The program's file is another one than the snapshot approves.
    #[error("{path} is {found}, approved is {expected}: it is not started; install the approved one")]
    OtherProgram {
        /// The program.
        path: PathBuf,
        /// What the snapshot says.
        expected: Digest,
        /// What was measured.
        found: Digest,
    },
    /// The user to run it as.
    #[error("the runtime cannot run as {user}: {problem}")]
    User {
        /// Who.
        user: String,
        /// Why not, and what to do.
        problem: &'static str,
    },
    /// A file or folder that the program should be able to read is not there.
    #[error("{path} is to be readable for the runtime and cannot be found")]
    Readable {
        /// Which.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The work folder cannot be made ready.
    #[error("cannot prepare the runtime's work folder {path}")]
    WorkFolder {
        /// The folder.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The container.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// No free port, no random key, or no thread or process.
    #[error("cannot start the runtime: no {what}")]
    Start {
        /// What was missing.
        what: &'static str,
        /// The reason.
        #[source]
        source: io::Error,
    },
}

/// Why a run has no answer.
///
/// Messages may quote the runtime, which may quote the prompt: they go to whoever asked, never to a log.
#[derive(Debug, thiserror::Error)]
pub enum InferenceError {
    /// The runtime answered with an error, or the request asks for more than the job allows.
    #[error("refused with status {status}: {message}")]
    Refused {
        /// The HTTP status; 400 where the request was not even sent.
        status: u16,
        /// What it said.
        message: String,
    },
    /// The answer is not one of the API.
    #[error("the runtime's answer cannot be used: {what}")]
    Malformed {
        /// What is wrong with it; quotes nothing of it.
        what: String,
    },
    /// The answer is larger than may be kept.
    #[error("the runtime's answer has more than {OUTPUT_BYTES_MAX} bytes")]
    TooLarge {},
    /// The runtime was lost, or is not ready yet: the job is as it was before. Quotes nothing.
    #[error("the runtime was lost: {cause}")]
    Lost {
        /// How.
        cause: String,
    },
}

impl InferenceError {
    pub(super) fn malformed(what: impl Into<String>) -> Self {
        Self::Malformed { what: what.into() }
    }

    pub(super) fn refused(status: u16, message: &str) -> Self {
        let end = message.floor_char_boundary(FAILURE_MESSAGE_BYTES_MAX);
        Self::Refused { status, message: message[..end].to_owned() }
    }
}
