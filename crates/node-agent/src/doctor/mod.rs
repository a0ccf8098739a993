//! The doctor: every check of a node that an expert would make, with what was found and what to do.
//!
//! [`gather()`] looks and judges nothing; each check of [`CHECKS`] is a pure function from [`Facts`] to findings; [`mend`]
//! does what is safe, writes down what it did, and takes it back. It works beside a running Agent and on a volume that does
//! not open: each fact is gathered by itself, and one that cannot be had is a finding.
//!
//! Nothing hangs: a question to the outside has [`OUTSIDE_LIMIT`], and a database [`DATABASE_LIMIT`] unless all of it is
//! asked for. Nothing is changed but by [`mend`], and no mending touches a database or what is in a key.
//!
//! Left out: what the service manager says (it is its own doctor), and the advice which graphics driver to install.

mod facts;
mod gather;
pub mod mend;
mod names;
mod rule;

use std::{path::PathBuf, time::Duration};

pub use facts::{
    Clock, DatabaseSeen, Facts, HomeSeen, Keys, Leftover, LeftoverKind, Looked, Machine, ModelSeen,
    NetworkSeen, Opening, Place, ProgramSeen, RuntimeSeen, SnapshotSeen, Space, VolumeSeen,
};
pub use gather::{Asked, abandoned, gather};
pub use rule::{CHECKS, examine, of_abandoned};

/// How long a question to the outside may take: 5 seconds.
pub const OUTSIDE_LIMIT: Duration = Duration::from_secs(5);
/// How long one database may be read where not all of it is asked for: 5 seconds.
pub const DATABASE_LIMIT: Duration = Duration::from_secs(5);

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// All is well.
    Ok,
    /// Nothing is wrong; it is good to know.
    Note,
    /// It works now, and will not always.
    Warning,
    /// Something does not work.
    Error,
}

impl Verdict {
    /// As it is printed: `warning`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The check, one of [`CHECKS`].
    pub name: &'static str,
    /// How bad it is.
    pub verdict: Verdict,
    /// What was found, naming the file or setting.
    pub found: String,
    /// What to do; nothing where nothing is to be done.
    pub cure: Option<String>,
    /// A start of the node does it.
    pub starts: bool,
    /// What `--fix` would do.
    pub fix: Option<Fix>,
}

/// A mending that is safe and can be taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fix {
    /// Set the permission bits.
    Mode {
        /// The file or folder.
        path: PathBuf,
        /// The bits that it has.
        from: u32,
        /// The bits that it should have.
        to: u32,
    },
    /// Move a file aside, within the volume. No Agent may be running.
    Aside {
        /// The file.
        path: PathBuf,
        /// Its length in bytes.
        bytes: u64,
    },
    /// Have the next start read all of a database, and save what can be read.
    Suspect {
        /// The database.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
}
