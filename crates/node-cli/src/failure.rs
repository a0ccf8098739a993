//! What can go wrong with a command, and the exit code that says so.

use std::{error::Error as _, io, path::PathBuf};

use node_agent::{
    agent::AgentError, doctor::mend::MendError, drift::DriftError, fetch::FetchError, models::InstallError,
    network::NetworkError, time::NoClock, update::NotApproved,
};
use node_store::{
    backup::BackupError,
    binding::BadLink,
    format::FormatError,
    keys::{self, KeyError, KeystoreError, Source},
    models::ModelsError,
    private::NotPrivate,
    reader::ReadError,
    snapshot::SnapshotError,
    store::StoreError,
    volume::VolumeError,
    writer::WriteError,
};
use node_types::{Timestamp, job::ModelRef};

use crate::{http::HttpError, settings::SettingsError, typed::quoted};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Flags, environment or file.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// A flag's value that clap cannot judge.
    #[error("{0}")]
    Usage(String),
    /// There is no volume.
    #[error(
        "there is no node at {folder}: make one with `resultity-node init`, or choose the right --home and --network"
    )]
    NoVolume {
        /// The folder.
        folder: PathBuf,
    },
    /// There is a volume already.
    #[error(
        "there is a node at {folder} already{who}: use it, or choose another --home for another node (with --if-missing \
         this is no error)"
    )]
    Exists {
        /// The folder.
        folder: PathBuf,
        /// Whose it is, as in " (0x...)".
        who: String,
    },
    /// A key is there already.
    #[error(
        "{folder} holds the key of {held}; a node's key is never replaced: make another node with `resultity-node --home \
         <another folder> init --key-file {file}`"
    )]
    KeyStands {
        /// The volume's folder.
        folder: PathBuf,
        /// The address of the key that is there.
        held: String,
        /// The file with the other key.
        file: PathBuf,
    },
    /// An Agent has the volume.
    #[error(
        "process {pid} has {folder}: stop that Agent first; reading commands (status, jobs, logs, rotate --dry-run) work \
         beside it"
    )]
    Held {
        /// What the lock says.
        pid: String,
        /// The folder.
        folder: PathBuf,
    },
    /// No such job.
    #[error(
        "nothing is known of job {0}: it was never taken here, or it ended long ago; `resultity-node jobs list` lists what is held, `resultity-node jobs list --ended` what has ended"
    )]
    NoSuchJob(String),
    /// No such model.
    #[error("there is no model {0:?} here: `resultity-node models list` lists those that are")]
    NoSuchModel(String),
    /// The snapshot wants it.
    #[error(
        "the snapshot in force lists {0}: the Agent would fetch it again; models go by themselves some time after the \
         network lists them no longer (--force removes it all the same)"
    )]
    Listed(ModelRef),
    /// An Agent has the volume, and looks after its models.
    #[error(
        "process {pid} has {folder}: that Agent removes models by itself {ttl} after the network lists them no longer, \
         and unfinished downloads in time; stop it first to do it now"
    )]
    HeldModels {
        /// What the lock says.
        pid: String,
        /// The folder.
        folder: PathBuf,
        /// What the snapshot says, in words.
        ttl: String,
    },
    /// Nothing is to be kept here.
    #[error("{engine} is run by the operator, who brings its models: the node keeps none")]
    KeepsNoModels {
        /// The engine.
        engine: String,
    },
    /// It was said no.
    #[error("nothing was done: it was not agreed to")]
    NotConfirmed,
    /// Nobody is there to say yes.
    #[error("nothing was done: there is no terminal to ask at; with --yes it is done unasked")]
    NobodyAgrees,
    /// Ctrl-C.
    #[error("it was broken off; {0}")]
    Interrupted(&'static str),
    /// The Agent that was followed is gone.
    #[error("process {pid} has ended: `resultity-node models install` goes on without it")]
    AgentEnded {
        /// The Agent.
        pid: String,
    },
    /// Models.
    #[error(transparent)]
    Models(#[from] ModelsError),
    /// An installation cannot begin.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// A model.
    #[error(transparent)]
    Install(Box<InstallError>),
    /// What is here cannot be compared.
    #[error(transparent)]
    Drift(#[from] DriftError),
    /// Nothing was mended.
    #[error(transparent)]
    Mend(#[from] MendError),
    /// The store's time.
    #[error(transparent)]
    NoClock(#[from] NoClock),
    /// No snapshot.
    #[error(
        "there is no {0} snapshot in this volume: it comes from the network when the Agent runs; `resultity-node status` \
         says how to start it"
    )]
    NoSnapshot(&'static str),
    /// No key.
    #[error("there is no {path}: restore it from a backup; without it this volume cannot be opened")]
    NoKey {
        /// The key's file.
        path: PathBuf,
    },
    /// The store.
    #[error(transparent)]
    Store(StoreError),
    /// The node was moved away from here.
    #[error(
        "the node of {path} was moved away on {at}, into {archive}: it runs where that archive was taken in, and two of it \
         must never run; only if that archive was not used and never will be, `resultity-node move undo \
         --file-was-not-used` makes this the node again"
    )]
    Retired {
        /// The folder.
        path: PathBuf,
        /// When.
        at: Timestamp,
        /// The archive, where it was written.
        archive: String,
    },
    /// A file or folder that others have access to.
    #[error(
        "{path} has mode {found:04o}, others have access to it: `resultity-node doctor --fix`, or chmod {wanted:o} {path}"
    )]
    TooOpen {
        /// What was looked at.
        path: PathBuf,
        /// Its permission bits.
        found: u32,
        /// The loosest bits that are private.
        wanted: u32,
    },
    /// An empty folder where a node is to be made.
    #[error(
        "{folder} is there and empty, and others have access to it (mode {found:04o}): chmod 700 {}, or remove the empty \
         folder",
        quoted(&folder.to_string_lossy())
    )]
    OpenFolder {
        /// The volume's folder.
        folder: PathBuf,
        /// Its permission bits.
        found: u32,
    },
    /// A key.
    #[error(transparent)]
    Key(KeyError),
    /// A file that new keys are to be sealed under.
    #[error(
        "new keys are to be sealed under the {what} {path}, which is not there: make it first, as in `(umask 077; {make} > {})`, and \
         keep a copy of it",
        quoted(&path.to_string_lossy())
    )]
    NoKekFile {
        /// What it should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What draws one.
        make: &'static str,
    },
    /// A passphrase that opens nothing in an archive.
    #[error(
        "cannot open the keys in {archive}: give the passphrase that it was made with (--passphrase-file); if this is that \
         one, the file was altered"
    )]
    ArchiveShut {
        /// The archive.
        archive: PathBuf,
    },
    /// The keys' passphrase stands in no file, and there is no terminal.
    #[error(
        "the keys are sealed under a passphrase, and there is no terminal to ask for it at: give --keys-passphrase-file, or \
         set keys.passphrase_file"
    )]
    NobodyToAsk,
    /// A wallet file.
    #[error("cannot use the key in {path}: {source}")]
    Keystore {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: KeystoreError,
    },
    /// An export.
    #[error("cannot export the key: {0}")]
    Export(KeystoreError),
    /// A database cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Snapshots.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// A database did not take it.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// An account link.
    #[error(transparent)]
    Link(#[from] BadLink),
    /// The clocks.
    #[error("cannot read the machine's clocks")]
    Clock(#[source] io::Error),
    /// A file of the operator's.
    #[error("cannot {what} {path}")]
    File {
        /// `read` or `write`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A passphrase could not be had.
    #[error("cannot ask for the {purpose}: start this at a terminal, or give --passphrase-file")]
    Passphrase {
        /// What for.
        purpose: &'static str,
        /// Why not, where there is a terminal.
        #[source]
        source: Option<io::Error>,
    },
    /// A program that nobody approved.
    #[error("{file} is not put in place: {reason}")]
    NotApproved {
        /// The file.
        file: PathBuf,
        /// Why not.
        reason: NotApproved,
    },
    /// A program that a package manager looks after.
    #[error(
        "{program} belongs to the package {package}: compare what the new package would bring, `dpkg-deb --fsys-tarfile ./<file>.deb | tar -xO .{program} | resultity-node update verify -`, then `apt install ./<file>.deb`"
    )]
    Packaged {
        /// The program.
        program: PathBuf,
        /// The package.
        package: String,
    },
    /// There is nothing to go back to.
    #[error(
        "there is no {kept}: `resultity-node update apply <FILE>` keeps the program there that it replaces"
    )]
    NothingKept {
        /// Where it would be.
        kept: PathBuf,
    },
    /// This release was put in place, and no Agent of it has brought the volume up to date.
    #[error(
        "{path} has format {found}, this release reads {newest}: start the Agent, it migrates the file; if it does not start, \
         `resultity-node update undo` brings back the release before, which reads it"
    )]
    NotStarted {
        /// The database.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// This release's.
        newest: u32,
    },
    /// A backup.
    #[error(transparent)]
    Backup(BackupError),
    /// A backup where the file of `move out` is wanted.
    #[error(
        "{path} is a backup, and the node that it was made of may run: restore it with `resultity-node backup restore \
         <FILE>`, which asks the network first"
    )]
    NotAMove {
        /// The archive.
        path: PathBuf,
    },
    /// The Agent.
    #[error(transparent)]
    Agent(AgentError),
    /// The devnet.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The runtime of the program itself.
    #[error("cannot start")]
    Start(#[source] io::Error),
    /// The devnet itself.
    #[error(transparent)]
    Devnet(#[from] node_devnet::DevnetError),
    /// The demo cannot go on.
    #[error("the demo cannot go on: {0}")]
    Demo(String),
    /// The standard output.
    #[error("cannot write to the standard output")]
    Output(#[source] io::Error),
}

impl From<InstallError> for Failure {
    fn from(error: InstallError) -> Self {
        Self::Install(Box::new(error))
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        if let StoreError::Key(error) = error {
            error.into()
        } else if let StoreError::Volume(VolumeError::Retired { path, at, archive, .. }) = error {
            Self::Retired { path, at, archive }
        } else if let StoreError::Volume(VolumeError::NotPrivate(NotPrivate::TooOpen {
            path,
            found,
            wanted,
        })) = error
        {
            Self::TooOpen { path, found: found & 0o7777, wanted }
        } else {
            Self::Store(error)
        }
    }
}

impl From<KeyError> for Failure {
    fn from(error: KeyError) -> Self {
        if let KeyError::Prompt { source } = error {
            // What the system calls a terminal that is not there says nothing more; what went on at one does.
            if source.raw_os_error().is_some() {
                Self::NobodyToAsk
            } else {
                Self::Key(KeyError::Prompt { source })
            }
        } else if let KeyError::NotPrivate(NotPrivate::TooOpen { path, found, wanted }) = error {
            let found = found & 0o7777;
            // A passphrase file of the operator's is no doctor's to mend.
            if path.ends_with("keys") || path.file_name().is_some_and(keys::is_own_name) {
                Self::TooOpen { path, found, wanted }
            } else {
                Self::Key(NotPrivate::TooOpen { path, found, wanted }.into())
            }
        } else if let KeyError::NoFile { kek, path } = error {
            let (what, make) = match kek {
                Source::Passphrase => ("passphrase file", "head -c 24 /dev/urandom | base64"),
                Source::SystemdCredential | Source::ContainerSecret | Source::LocalFile => {
                    ("secret file", "head -c 48 /dev/urandom")
                }
            };
            Self::NoKekFile { what, path, make }
        } else {
            Self::Key(error)
        }
    }
}

impl From<BackupError> for Failure {
    fn from(error: BackupError) -> Self {
        // So that its exit code is that of the store's error.
        if let BackupError::Store(StoreError::Volume(VolumeError::InUse { path, holder })) = error {
            Self::Held { pid: holder, folder: path }
        } else if let BackupError::Store(error) = error {
            error.into()
        } else if let BackupError::Key(error) = error {
            error.into()
        } else if let BackupError::NotAMove { path } = error {
            Self::NotAMove { path }
        } else {
            Self::Backup(error)
        }
    }
}

impl From<AgentError> for Failure {
    fn from(error: AgentError) -> Self {
        match error {
            // So that its exit code is that of the store's error.
            AgentError::Store(error) => error.into(),
            other @ (AgentError::Network(_)
            | AgentError::Clock(_)
            | AgentError::Author(_)
            | AgentError::Page(_)
            | AgentError::Target(_)
            | AgentError::Fetch(_)
            | AgentError::Read(_)
            | AgentError::RunsTwice { .. }
            | AgentError::Storage { .. }) => Self::Agent(other),
        }
    }
}

impl Failure {
    /// Why a volume cannot be looked at, to somebody who handles releases: a start is one way out, and not the only one.
    pub(crate) fn before_its_first_start(self) -> Self {
        if let Self::Store(StoreError::Volume(VolumeError::Format(FormatError::TooOld {
            path,
            found,
            newest,
        }))) = self
        {
            Self::NotStarted { path, found, newest }
        } else {
            self
        }
    }

    /// The exit code: the table is in the help text ([`crate::cli::EXIT_CODES`]).
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::Settings(_)
            | Self::Usage(_)
            | Self::Link(_)
            | Self::Agent(
                AgentError::Network(NetworkError::Url { .. }) | AgentError::Page(_) | AgentError::Target(_),
            )
            | Self::Http(HttpError::Url(_)) => 2,
            Self::Held { .. }
            | Self::HeldModels { .. }
            | Self::Store(StoreError::Volume(VolumeError::InUse { .. })) => 4,
            Self::NoVolume { .. }
            | Self::NoSuchJob(_)
            | Self::NoSuchModel(_)
            | Self::NoSnapshot(_)
            | Self::Mend(MendError::Nothing { .. })
            | Self::Store(StoreError::Volume(VolumeError::Missing { .. })) => 5,
            Self::Retired { .. } | Self::Agent(AgentError::RunsTwice { .. }) => 6,
            Self::Interrupted(_) => 130,
            Self::Output(_) if self.is_broken_pipe() => 0,
            Self::Exists { .. }
            | Self::KeyStands { .. }
            | Self::NoKey { .. }
            | Self::Store(_)
            | Self::TooOpen { .. }
            | Self::OpenFolder { .. }
            | Self::Key(_)
            | Self::NoKekFile { .. }
            | Self::ArchiveShut { .. }
            | Self::NobodyToAsk
            | Self::NotAMove { .. }
            | Self::Keystore { .. }
            | Self::Export(_)
            | Self::Read(_)
            | Self::Snapshot(_)
            | Self::Write(_)
            | Self::Clock(_)
            | Self::File { .. }
            | Self::Passphrase { .. }
            | Self::Listed(_)
            | Self::KeepsNoModels { .. }
            | Self::NotConfirmed
            | Self::NobodyAgrees
            | Self::AgentEnded { .. }
            | Self::Models(_)
            | Self::Fetch(_)
            | Self::Install(_)
            | Self::Drift(_)
            | Self::Mend(_)
            | Self::NoClock(_)
            | Self::NotApproved { .. }
            | Self::Packaged { .. }
            | Self::NothingKept { .. }
            | Self::NotStarted { .. }
            | Self::Backup(_)
            | Self::Agent(_)
            | Self::Http(_)
            | Self::Start(_)
            | Self::Devnet(_)
            | Self::Demo(_)
            | Self::Output(_) => 1,
        }
    }

    /// What sort of failure it is, for programs and for docs/troubleshooting.md, which has an entry for each.
    pub(crate) const fn kind(&self) -> &'static str {
        match self {
            Self::Settings(_) => "settings",
            Self::Usage(_) => "usage",
            Self::NoVolume { .. } => "no_volume",
            Self::Exists { .. } => "exists",
            Self::KeyStands { .. } => "key_stands",
            Self::Held { .. } => "held",
            Self::NoSuchJob(_) => "no_such_job",
            Self::NoSuchModel(_) => "no_such_model",
            Self::Listed(_) => "listed",
            Self::HeldModels { .. } => "held_models",
            Self::KeepsNoModels { .. } => "keeps_no_models",
            Self::NotConfirmed | Self::NobodyAgrees => "not_confirmed",
            Self::Interrupted(_) => "interrupted",
            Self::AgentEnded { .. } => "agent_ended",
            Self::Models(_) => "models",
            Self::Fetch(_) => "fetch",
            Self::Install(_) => "install",
            Self::Drift(_) => "drift",
            Self::Mend(_) => "mend",
            Self::Backup(_) | Self::NotAMove { .. } => "backup",
            Self::NoClock(_) | Self::Clock(_) => "clock",
            Self::NoSnapshot(_) => "no_snapshot",
            Self::NoKey { .. } => "no_key",
            Self::Store(_) | Self::Retired { .. } | Self::TooOpen { .. } | Self::OpenFolder { .. } => "store",
            Self::Key(_) | Self::NoKekFile { .. } | Self::ArchiveShut { .. } | Self::NobodyToAsk => "key",
            Self::Keystore { .. } => "keystore",
            Self::Export(_) => "export",
            Self::Read(_) => "read",
            Self::Snapshot(_) => "snapshot",
            Self::Write(_) => "write",
            Self::Link(_) => "link",
            Self::File { .. } => "file",
            Self::Passphrase { .. } => "passphrase",
            Self::NotApproved { .. } => "not_approved",
            Self::Packaged { .. } => "packaged",
            Self::NothingKept { .. } => "nothing_kept",
            Self::NotStarted { .. } => "not_started",
            Self::Agent(AgentError::RunsTwice { .. }) => "runs_twice",
            Self::Agent(_) => "agent",
            Self::Http(_) => "devnet_request",
            Self::Start(_) => "start",
            Self::Devnet(_) => "devnet",
            Self::Demo(_) => "demo",
            Self::Output(_) => "output",
        }
    }

    /// Whether nobody reads the output any more.
    pub(crate) fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    /// Whether its message has several lines that are ours: the place in a settings file, under which the fault is marked.
    pub(crate) const fn is_drawn(&self) -> bool {
        matches!(self, Self::Settings(SettingsError::NotToml { .. }))
    }

    /// What happened and why, down to the cause.
    pub(crate) fn story(&self) -> String {
        let mut story = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            let text = error.to_string();
            // Some messages end with their cause already.
            if !story.ends_with(&text) {
                story += &format!(": {text}");
            }
            cause = error.source();
        }
        story
    }
}
