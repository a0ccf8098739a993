//! What the doctor judges by: plain facts, each gathered by itself. An `Err` says why a fact could not be had.

use std::path::PathBuf;

use node_store::{
    checkup::Checkup,
    clock::{Mark, Reading},
    format::{Database, FormatError},
    keys::{KeyError, Protection, Source},
    models::{self, PartialFile, Quarantined},
    private::{NotPrivate, Private},
    salvage::Incident,
    seal::FileSystem,
};
use node_types::{
    Address, Digest, Network, Timestamp, VolumeId, config::NodeConfig, models::ModelState, verify::Validity,
};

use crate::{drift, hardware::Memory, runtime::sandbox::Probe, standing::Standing};

/// Everything that was looked at.
#[derive(Debug)]
pub struct Facts {
    /// The volume's folder.
    pub folder: PathBuf,
    /// The network that the node is to work for.
    pub network: Network,
    /// The user that looks.
    pub uid: u32,
    /// The pid of the Agent that has the volume.
    pub holder: Result<Option<String>, String>,
    /// What that Agent says of itself; nothing where it cannot be asked.
    pub standing: Option<Standing>,
    /// The folder above the volumes.
    pub home: Result<HomeSeen, String>,
    /// What should be nobody else's.
    pub places: Vec<Place>,
    /// Room on the volume's disk.
    pub space: Result<Space, String>,
    /// The volume's file system.
    pub file_system: Result<FileSystem, String>,
    /// The databases, each by itself.
    pub databases: Vec<DatabaseSeen>,
    /// What lies about.
    pub leftovers: Result<Vec<Leftover>, String>,
    /// The folders in the home that a backup or restore left that was killed.
    pub abandoned: Result<Vec<PathBuf>, String>,
    /// The keys.
    pub keys: Keys,
    /// What the machine's clocks and the volume say of time.
    pub clock: Result<Clock, String>,
    /// What stands in the databases; why not, where the volume cannot be looked at as a whole.
    pub volume: Result<VolumeSeen, String>,
    /// The runtime.
    pub runtime: RuntimeSeen,
    /// The network.
    pub answers: NetworkSeen,
    /// The machine.
    pub machine: Machine,
    /// The digest of this program.
    pub program: Result<Digest, String>,
}

/// The folder above the volumes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HomeSeen {
    /// Where.
    pub path: PathBuf,
    /// Its permission bits.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
}

/// Something that should be nobody else's.
#[derive(Debug)]
pub struct Place {
    /// Where.
    pub path: PathBuf,
    /// What it should be.
    pub wanted: Private,
    /// Whether it is there, and private.
    pub looked: Result<bool, NotPrivate>,
}

/// Room on a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes that this user could still write.
    pub free_bytes: u64,
    /// Files that this user could still make; `None` where the file system makes them as it needs them.
    pub free_files: Option<u64>,
    /// Nothing can be written on it, whatever is free.
    pub read_only: bool,
}

/// One database.
#[derive(Debug)]
pub struct DatabaseSeen {
    /// Which.
    pub database: Database,
    /// What was found.
    pub looked: Looked,
    /// It stands noted that the next start reads all of it.
    pub suspect: bool,
}

/// What came of looking at a database.
#[derive(Debug)]
pub enum Looked {
    /// It is not there.
    Missing,
    /// It was not opened, because it is not ours alone: what SQLite makes beside it would be as open as it is.
    NotOurs,
    /// It was opened.
    Seen(Checkup),
    /// It cannot be told whose it is.
    Unknown(FormatError),
}

impl DatabaseSeen {
    /// What was found in it, if it could be opened.
    #[must_use]
    pub const fn checkup(&self) -> Option<&Checkup> {
        match &self.looked {
            Looked::Seen(checkup) => Some(checkup),
            Looked::Missing | Looked::NotOurs | Looked::Unknown(_) => None,
        }
    }
}

/// Something that nothing needs any more, or that is not the node's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// Where.
    pub path: PathBuf,
    /// What it is.
    pub kind: LeftoverKind,
    /// Its length in bytes; nothing of a folder.
    pub bytes: Option<u64>,
    /// How long ago it was written, in milliseconds.
    pub age_ms: u64,
}

/// What a leftover is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeftoverKind {
    /// A damaged database that was moved aside.
    Damaged,
    /// A database as it was before a migration.
    OldFormat,
    /// A file that was never finished: `.<name>.tmp`.
    Temporary,
    /// A file in the models' folders that the volume does not know.
    Unknown,
    /// Something beside the databases or the keys whose name nothing of the node gives, or a folder among the models.
    Foreign,
}

/// The keys.
#[derive(Debug)]
pub struct Keys {
    /// What the head of the node's key says: its address, and what it is sealed under; nothing where there is no key.
    pub node: Result<Option<(Address, Source)>, KeyError>,
    /// The volume that the head of the volume's key names.
    pub volume: Result<Option<VolumeId>, KeyError>,
    /// The file that `keys.passphrase_file` names where it is not there.
    pub missing_file: Option<PathBuf>,
    /// Whether both open with what is configured.
    pub opening: Opening,
}

/// What came of opening the keys.
#[derive(Debug)]
pub enum Opening {
    /// It was not tried, because of this.
    NotTried(&'static str),
    /// Both open, and the address is that of the key.
    Opened(Protection),
    /// One does not.
    Failed(KeyError),
}

/// What is said of time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clock {
    /// By the machine's clocks.
    pub reading: Reading,
    /// By all that the volume knows, as the store would judge it; nothing where it cannot be asked.
    pub known: Option<Mark>,
}

/// What stands in the databases.
#[derive(Debug)]
pub struct VolumeSeen {
    /// The snapshot in force, if there is one.
    pub snapshot: Result<Option<SnapshotSeen>, String>,
    /// Whether a keyset is pinned.
    pub pinned: bool,
    /// Stored documents of the network that do not verify any more, and why.
    pub unverifiable: Vec<(Digest, String)>,
    /// Damage and loss that the network has not been told of.
    pub incidents: Result<Vec<Incident>, String>,
    /// The models' files that the snapshot lists, and how each stands.
    pub files: Result<Vec<ModelSeen>, String>,
    /// The models that are not well: name, state and reason.
    pub models: Result<Vec<(String, ModelState, Option<String>)>, String>,
    /// The files among the models that are not the node's; none where that cannot be told.
    pub strangers: Vec<PathBuf>,
    /// The folders there that are not; none where that cannot be told.
    pub foreign_folders: Vec<PathBuf>,
    /// Downloads that are not all here.
    pub partials: Result<Vec<PartialFile>, String>,
    /// Files that were moved aside.
    pub quarantined: Result<Vec<Quarantined>, String>,
    /// Where the partial files stand.
    pub partial_folder: PathBuf,
    /// What reading every artifact found; nothing where that was not asked for.
    pub deep: Option<Result<Vec<drift::Finding>, String>>,
    /// When the node was moved away from here, and into which archive, if it was.
    pub moved: Result<Option<(Timestamp, String)>, String>,
    /// Whether an account is linked.
    pub account: Result<bool, String>,
}

/// The snapshot in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotSeen {
    /// The document.
    pub config: NodeConfig,
    /// Its digest.
    pub digest: Digest,
    /// Where it stands now.
    pub validity: Validity,
}

/// A model's file that the snapshot lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelSeen {
    /// As in `gemma-3-270m@1.0.0/model.gguf`.
    pub name: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// How it stands, without reading it.
    pub standing: models::Standing,
}

/// The runtime, by the kind that the snapshot in force wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuntimeSeen {
    /// No snapshot says which.
    Unknown,
    /// A server of the operator's.
    External {
        /// Where it should be; nothing where it is not set.
        url: Option<String>,
        /// What came of asking it.
        health: Result<(), String>,
    },
    /// A program.
    Process {
        /// Where it should be; nothing where `runtime.folder` is not set.
        program: Option<ProgramSeen>,
    },
    /// A container.
    Container {
        /// The engine's socket.
        socket: PathBuf,
        /// The image with its digest.
        image: String,
        /// Whether the engine has the image, or why nobody can tell.
        here: Result<bool, String>,
        /// Where its archive stands, if it does.
        archive: Option<PathBuf>,
    },
}

/// The program of a runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramSeen {
    /// Where.
    pub path: PathBuf,
    /// What the snapshot wants it to be.
    pub expected: Digest,
    /// What it is; nothing where it is not there.
    pub found: Result<Option<Digest>, String>,
    /// Whether it can be started.
    pub executable: bool,
}

/// The network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkSeen {
    /// `network_url` is not set.
    NotSet,
    /// It does not answer, or not as it should.
    Silent {
        /// Its URL.
        url: String,
        /// Why, down to the cause.
        why: String,
    },
    /// It answers.
    Answers {
        /// Its URL.
        url: String,
        /// Why its keyset is not this network's, if it is not.
        stranger: Option<String>,
        /// What it says of time, and what this machine said then.
        time: Option<(Timestamp, Timestamp)>,
    },
}

/// The machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// How many files this process may have open; nothing for any number.
    pub open_files: Option<u64>,
    /// Its memory.
    pub memory: Memory,
    /// What the sandbox can use here.
    pub sandbox: Probe,
}
