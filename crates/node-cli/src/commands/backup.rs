//! `backup`: the node's volume in one file, and a volume made of such a file.

use std::{path::PathBuf, sync::Arc};

use clap::{Args, Subcommand};
use node_store::{
    backup::{self, BackupError, Manifest, Purpose, Restored, Source, Verified},
    disk::RealDisk,
    keys::{Kek, KekSources, KeyError, Protection, Source as KeySource},
};
use serde::Serialize;
use zeroize::Zeroizing;

use super::{Verdict, init};
use crate::{
    cli,
    context::{Context, reading},
    failure::Failure,
    measure::{self, count},
    out::Report,
    page::{Page, Tone},
    passphrase::{self, Known},
    settings::Layer,
};

/// What is done with a backup.
#[derive(Debug, Subcommand)]
pub(crate) enum Backup {
    /// Write a backup of the node's volume, beside a running Agent too
    Create(Create),
    /// Read all of a backup and say whether it is sound; no volume is needed
    Verify(Verify),
    /// Make a volume of a backup where there is none
    Restore(Restore),
    /// Let the jobs of a restored volume go on without the network's word
    Unfence(Unfence),
}

/// Write a backup of the node's volume, beside a running Agent too.
///
/// In it: configuration, binding, jobs (prompts and answers stay sealed), traces and logs. Not in it: model files, which are
/// fetched again, and the keys, unless they are asked for. Without its keys a backup restores nothing: keep the keys
/// folder or an exported key apart from it, or take them in under a passphrase.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  resultity-node backup create
  resultity-node backup create /mnt/safe/node.backup --with-keys
  resultity-node backup create --with-keys --passphrase-file new.txt --json")]
pub(crate) struct Create {
    /// The file to write, readable by its owner alone; else resultity-NETWORK-MOMENT.backup in this folder
    #[arg(value_hint = clap::ValueHint::FilePath)]
    file: Option<PathBuf>,
    /// Take both keys in, sealed under a passphrase: the file and the passphrase together are the node
    #[arg(long)]
    with_keys: bool,
    /// The file with that passphrase; without it the terminal is asked twice
    #[arg(long, value_name = "FILE", requires = "with_keys", value_hint = clap::ValueHint::FilePath)]
    passphrase_file: Option<PathBuf>,
    #[command(flatten)]
    keys: cli::Keys,
}

/// Read all of a backup: hashes, every page and row of its databases, whose they are, and whether its keys open. No volume
/// is needed. It is unpacked into the folder of temporary files ($TMPDIR) meanwhile.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  resultity-node backup verify node.backup
  resultity-node backup verify node.backup --passphrase-file its.txt --json")]
pub(crate) struct Verify {
    /// The backup
    #[arg(value_hint = clap::ValueHint::FilePath)]
    file: PathBuf,
    /// The file with the passphrase of the keys in it; without it they are not opened
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    passphrase_file: Option<PathBuf>,
}

/// Make a volume of a backup. Nothing is ever restored over a volume.
///
/// The node may have gone on since the backup was made, so its jobs are fenced: when the Agent runs, it asks the network
/// about each of them first, and runs and sends those alone that are still this node's. Its keys are sealed as those of
/// a new node are.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  resultity-node backup restore node.backup
  resultity-node backup restore node.backup --passphrase-file its.txt
  resultity-node backup restore node.backup --keys /mnt/old/testnet/keys
  resultity-node backup restore node.backup --key-file node-key.json")]
pub(crate) struct Restore {
    /// The backup
    #[arg(value_hint = clap::ValueHint::FilePath)]
    file: PathBuf,
    /// The keys folder of the old volume, for a backup without keys
    #[arg(long, value_name = "FOLDER", conflicts_with = "key_file", value_hint = clap::ValueHint::DirPath)]
    keys: Option<PathBuf>,
    /// The node's key as a Web3 keystore, for a backup without keys; jobs in it cannot be opened and are reported as failed
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    key_file: Option<PathBuf>,
    /// The file with the passphrase of the keys in the backup, of the keys folder or of the keystore; without it the terminal
    /// is asked
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    passphrase_file: Option<PathBuf>,
    #[command(flatten)]
    new_keys: cli::Keys,
}

/// Let the jobs of a restored volume go on without the network's word. No Agent may be running.
///
/// This is dangerous: jobs that the old node has answered since the backup was made are answered a second time. It is for a
/// network that cannot be asked any more. This machine's clock must be right: message numbers go on above those of its time.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  resultity-node backup unfence --old-node-answered-nothing")]
pub(crate) struct Unfence {
    /// Say that the node that the backup was made of has answered no job since, and does not run
    #[arg(long)]
    old_node_answered_nothing: bool,
}

/// A member of an archive, for showing.
#[derive(Serialize)]
struct MemberShown {
    path: String,
    bytes: u64,
    sha256: String,
}

/// A backup, for showing.
#[derive(Serialize)]
pub(super) struct BackupShown {
    file: PathBuf,
    purpose: Purpose,
    network: String,
    node: String,
    volume: String,
    release: String,
    created_at: String,
    with_keys: bool,
    bytes: u64,
    members: Vec<MemberShown>,
}

impl BackupShown {
    pub(super) fn of(file: PathBuf, manifest: &Manifest) -> Self {
        let members = manifest.members.iter().map(|member| MemberShown {
            path: member.path.clone(),
            bytes: member.bytes,
            sha256: member.sha256.to_string(),
        });
        Self {
            file,
            purpose: manifest.purpose,
            network: manifest.network.to_string(),
            node: manifest.node.to_string(),
            volume: manifest.volume.to_string(),
            release: manifest.release.clone(),
            created_at: manifest.created_at.to_string(),
            with_keys: manifest.has_keys(),
            bytes: manifest.bytes(),
            members: members.collect(),
        }
    }

    pub(super) fn rows(&self, page: &mut Page) {
        page.row("file", self.file.display());
        page.row("network", &self.network);
        page.row("node", &self.node);
        page.row("made", format!("{} by release {}", self.created_at, self.release));
        page.row(
            "holds",
            format!("{}, {}", count(self.members.len() as u64, "file"), measure::bytes(self.bytes)),
        );
        page.row("keys", if self.with_keys { "in it, sealed under a passphrase" } else { "not in it" });
    }
}

#[derive(Serialize)]
struct Made {
    #[serde(flatten)]
    backup: BackupShown,
    next: String,
}

impl Report for Made {
    fn page(&self, page: &mut Page) {
        page.toned(Tone::Strong, "A backup is made.");
        self.backup.rows(page);
        page.row("next", &self.next);
    }
}

#[derive(Serialize)]
struct Sound {
    #[serde(flatten)]
    backup: BackupShown,
    sound: bool,
    jobs: u64,
    log_records: u64,
    config_version: u64,
    /// Nothing where there are none, or they were not tried.
    keys_open: Option<bool>,
}

impl Report for Sound {
    fn page(&self, page: &mut Page) {
        page.toned(Tone::Good, "The backup is sound.");
        self.backup.rows(page);
        page.row("jobs", self.jobs);
        page.row("log records", self.log_records);
        match self.config_version {
            0 => page.row("snapshot", "none"),
            version => page.row("snapshot", format!("version {version}")),
        }
        match (self.backup.with_keys, self.keys_open) {
            (true, Some(_)) => page.row("passphrase", "opens the keys"),
            (true, None) => page.toned_row("passphrase", Tone::Warning, "not tried: give --passphrase-file"),
            (false, _) => {}
        }
    }
}

/// A restored volume, for showing.
#[derive(Serialize)]
pub(super) struct RestoredShown {
    #[serde(flatten)]
    backup: BackupShown,
    folder: PathBuf,
    jobs: u64,
    fenced: bool,
    /// What its keys are sealed under here, which need not be what they were sealed under before.
    protection: Option<Protection>,
    next: String,
}

impl RestoredShown {
    /// # Errors
    /// [`Failure::Key`].
    pub(super) fn of(
        context: &Context,
        file: PathBuf,
        restored: &Restored,
        fenced: bool,
        next: &str,
    ) -> Result<Self, Failure> {
        let protection = context.identity()?.map(|held| held.protection);
        let seal = match protection {
            Some(Protection::ObfuscationOnly) => {
                "; before that, seal its keys under a passphrase: `resultity-node key reseal --to-passphrase`"
            }
            Some(Protection::Systemd | Protection::ContainerSecret | Protection::Passphrase) | None => "",
        };
        Ok(Self {
            backup: BackupShown::of(file, &restored.manifest),
            folder: restored.folder.clone(),
            jobs: restored.jobs,
            fenced,
            protection,
            next: context.typed.complete(&format!("{next}{seal}")).into_owned(),
        })
    }
}

impl Report for RestoredShown {
    fn page(&self, page: &mut Page) {
        page.toned(Tone::Strong, if self.fenced { "The node is restored." } else { "The node is moved in." });
        self.backup.rows(page);
        page.row("folder", self.folder.display());
        if self.fenced {
            let waits = "wait until the network was asked which are still this node's";
            page.row("jobs", format!("{}; they {waits}", self.jobs));
        } else {
            page.row("jobs", self.jobs);
        }
        match self.protection {
            Some(only @ Protection::ObfuscationOnly) => page.toned_row("key here", Tone::Warning, only),
            Some(it @ (Protection::Systemd | Protection::ContainerSecret | Protection::Passphrase)) => {
                page.row("key here", it);
            }
            None => {}
        }
        page.row("next", &self.next);
    }
}

#[derive(Serialize)]
struct Unfenced {
    folder: PathBuf,
    backed_up_at: String,
    jobs: u64,
    next: String,
}

impl Report for Unfenced {
    fn page(&self, page: &mut Page) {
        page.toned(Tone::Warning, "The restored jobs go on.");
        page.row("folder", self.folder.display());
        page.row("backup of", &self.backed_up_at);
        page.row("jobs", self.jobs);
        page.row("next", &self.next);
    }
}

impl Backup {
    /// What its flags set.
    pub(crate) fn layer(&self, layer: &mut Layer) {
        match self {
            Self::Create(Create { keys, .. }) | Self::Restore(Restore { new_keys: keys, .. }) => {
                keys.layer(layer);
            }
            Self::Verify(_) | Self::Unfence(_) => {}
        }
    }

    /// # Errors
    /// [`Failure`].
    pub(crate) fn run(&self, context: &Context) -> Result<Verdict, Failure> {
        match self {
            Self::Create(create) => create.run(context),
            Self::Verify(verify) => verify.run(context),
            Self::Restore(restore) => restore.run(context),
            Self::Unfence(unfence) => unfence.run(context),
        }
    }
}

impl Create {
    fn run(&self, context: &Context) -> Result<Verdict, Failure> {
        // Said before anybody is asked for a passphrase.
        context.view()?;
        if self.with_keys {
            init::refuse_without_keys(context)?;
        }
        let now = reading()?.wall;
        let moment = now.to_string().replace(':', "-");
        let usual = || PathBuf::from(format!("resultity-{}-{moment}.backup", context.settings.network));
        let file = self.file.clone().unwrap_or_else(usual);
        let kek = self.with_keys.then(|| {
            let phrase =
                passphrase::new(self.passphrase_file.as_deref(), "passphrase for the keys in the backup")?;
            sealing(context, phrase)
        });
        let kek = kek.transpose()?;
        let options = context.options_to_open();
        let manifest = backup::create(&options, &file, kek.as_ref(), node_agent::VERSION, now)?;
        let next = if self.with_keys {
            "keep the passphrase apart from the file: whoever has both has the node; `resultity-node backup verify <FILE>` \
             reads it"
        } else {
            "keep the keys too, or it restores nothing: `resultity-node key export`, or the folder keys/; `resultity-node \
             backup verify <FILE>` reads it"
        };
        let backup = BackupShown::of(file, &manifest);
        let next = context.typed.complete(next).into_owned();
        context.out.show(&Made { backup, next })?;
        Ok(Verdict::Done)
    }
}

impl Verify {
    fn run(&self, context: &Context) -> Result<Verdict, Failure> {
        let sources = match &self.passphrase_file {
            Some(file) => {
                let phrase = passphrase::existing(Some(file), "passphrase of the backup")?;
                Some(opening(context, phrase))
            }
            None => None,
        };
        let Verified { manifest, held, keys_open } =
            backup::verify(&self.file, sources.as_ref(), &std::env::temp_dir())
                .map_err(|error| shut(&self.file, error))?;
        context.out.show(&Sound {
            backup: BackupShown::of(self.file.clone(), &manifest),
            sound: true,
            jobs: held.jobs,
            log_records: held.records,
            config_version: held.config_version,
            keys_open,
        })?;
        Ok(Verdict::Done)
    }
}

impl Restore {
    fn run(&self, context: &Context) -> Result<Verdict, Failure> {
        let source = self.source(context)?;
        let restored = backup::restore(&context.options(), &self.file, &source, reading()?.wall);
        let restored = match source {
            Source::Archive(_) => restored.map_err(|error| shut(&self.file, error))?,
            Source::Folder(..) | Source::NodeKey(_) => restored?,
        };
        let next =
            "start it: `resultity-node run`; the node that the backup was made of must not run any more";
        context.out.show(&RestoredShown::of(context, self.file.clone(), &restored, true, next)?)?;
        Ok(Verdict::Done)
    }

    fn source(&self, context: &Context) -> Result<Source, Failure> {
        if let Some(file) = &self.key_file {
            return Ok(Source::NodeKey(init::read_key(file, self.passphrase_file.as_deref())?));
        }
        let Some(folder) = &self.keys else {
            return from_archive(context, &self.file, self.passphrase_file.as_deref());
        };
        let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.clone());
        let mut sources = KekSources::new(&folder);
        sources.passphrase_file.clone_from(&self.passphrase_file);
        sources.secret_file.clone_from(&context.settings.keys.secret_file);
        sources.prompt = Some(Arc::new(node_store::keys::TerminalPrompt::new()));
        Ok(Source::Folder(folder, sources))
    }
}

impl Unfence {
    fn run(&self, context: &Context) -> Result<Verdict, Failure> {
        if !self.old_node_answered_nothing {
            let why = "jobs that the old node has answered since would be answered twice: say --old-node-answered-nothing if it \
                       has answered none, and does not run";
            return Err(Failure::Usage(why.to_owned()));
        }
        context.view()?;
        context.refuse_held()?;
        let fence = backup::unfence(&context.options_to_open(), &reading()?)?;
        let next = context.typed.complete("start it: `resultity-node run`").into_owned();
        let (folder, backed_up_at) = (context.folder(), fence.backed_up_at.to_string());
        context.out.show(&Unfenced { folder, backed_up_at, jobs: fence.jobs, next })?;
        Ok(Verdict::Done)
    }
}

/// The keys in an archive, and what opens them. Nobody is asked for a passphrase where there are none.
pub(super) fn from_archive(
    context: &Context,
    archive: &std::path::Path,
    file: Option<&std::path::Path>,
) -> Result<Source, Failure> {
    let phrase = if backup::manifest_of(archive)?.has_keys() {
        passphrase::existing(file, "passphrase of the keys in the backup")?
    } else {
        Zeroizing::default()
    };
    Ok(Source::Archive(opening(context, phrase)))
}

/// An error of keys that are in an archive: it names the archive, and not where that was unpacked for a moment.
pub(super) fn shut(archive: &std::path::Path, error: BackupError) -> Failure {
    if let BackupError::Key(KeyError::CannotOpen { .. }) = error {
        Failure::ArchiveShut { archive: archive.to_owned() }
    } else {
        error.into()
    }
}

/// What opens keys that are sealed under a passphrase, and nothing else that stands around.
fn opening(context: &Context, phrase: Zeroizing<String>) -> KekSources {
    let mut sources = KekSources::new(&context.keys_folder());
    (sources.credentials_dir, sources.secret_file) = (None, None);
    sources.prompt = Some(Arc::new(Known::of(phrase)));
    sources
}

/// What seals keys under a passphrase.
pub(super) fn sealing(context: &Context, phrase: Zeroizing<String>) -> Result<Kek, Failure> {
    Ok(opening(context, phrase).load(&RealDisk, KeySource::Passphrase)?)
}
