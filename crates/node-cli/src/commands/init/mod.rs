//! `init`: makes a volume and its key; at a terminal it asks what it needs ([`dialogue`]).

mod dialogue;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::Args;
use node_store::{
    disk::{Disk as _, RealDisk},
    format::Database,
    keys::{self, KekSources, NodeKey, Protection, Source, import_keystore, keystore::KEYSTORE_BYTES_MAX},
    store::{Store, StoreError},
    volume::VolumeError,
};
use serde::Serialize;

use super::Verdict;
use crate::{
    ask,
    cli::{Common, Keys},
    context::{Context, reading},
    failure::Failure,
    files,
    identity::Identity,
    out::Report,
    page::{Page, Tone},
    passphrase::{self, Known},
    settings::FILE_BYTES_MAX,
    typed::{ENABLE, NETWORK_URL, quoted},
};

/// Make a node: its volume and its key. At a terminal it asks what it needs; any flag of its own, --json or
/// --no-questions keep it from asking.
///
/// The key is drawn at random, or taken from a Web3 keystore (version 3). It is sealed under the first of these that is
/// there: a systemd credential, a container secret, a passphrase, a local file. The last one is obfuscation only.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  resultity-node init
  resultity-node init --no-questions
  resultity-node init --ask-passphrase
  resultity-node --network mainnet init --key-file wallet.json
  resultity-node init --if-missing --json")]
pub(crate) struct Init {
    /// A Web3 keystore (version 3) with the key to use
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub(crate) key_file: Option<PathBuf>,
    /// The file with the keystore's passphrase; without it the terminal is asked
    #[arg(long, value_name = "FILE", requires = "key_file", value_hint = clap::ValueHint::FilePath)]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// Seal the key under a passphrase that the terminal is asked for; every start needs it
    #[arg(long, conflicts_with_all = ["keys_passphrase_file", "keys_secret_file"])]
    pub(crate) ask_passphrase: bool,
    /// Where there is a node already, show it and end well
    #[arg(long)]
    pub(crate) if_missing: bool,
    /// Ask nothing at a terminal either: what the settings do not say is as usual
    #[arg(long)]
    no_questions: bool,
    #[command(flatten)]
    pub(crate) keys: Keys,
}

#[derive(Serialize)]
struct Made {
    created: bool,
    #[serde(flatten)]
    identity: Identity,
    folder: PathBuf,
    next: String,
}

impl Report for Made {
    fn page(&self, page: &mut Page) {
        let title = if self.created { "A node is made." } else { "There is a node already." };
        page.toned(Tone::Strong, title);
        page.row("network", self.identity.network);
        page.row("node", &self.identity.node);
        page.row("address", &self.identity.address);
        page.row("key", self.identity.protection);
        page.row("folder", self.folder.display());
        page.row("next", &self.next);
    }
}

impl Init {
    /// # Errors
    /// [`Failure`]; [`Failure::Exists`] where there is a node.
    pub(crate) fn run(
        &self,
        common: &Common,
        make: &dyn Fn(&Common) -> Result<Context, Failure>,
    ) -> Result<Verdict, Failure> {
        let context = &make(common)?;
        if self.asks(context) {
            dialogue::refuse_standing(context)?;
            let (context, saved) = dialogue::run(common.clone(), make)?;
            return show(&context, true, saved.as_deref());
        }
        let created = match context.view() {
            Ok(_) if self.if_missing => {
                refuse_without_keys(context)?;
                false
            }
            Ok(_) => return Err(exists(context)?),
            // Also one that a crash left unfinished: making it goes on.
            Err(
                Failure::NoVolume { .. }
                | Failure::Store(StoreError::Volume(
                    VolumeError::Missing { .. } | VolumeError::NoDatabase { .. },
                )),
            ) => {
                let key = self.key_file.as_ref().map(|file| read_key(file, self.passphrase_file.as_deref()));
                self.create(context, key.transpose()?)?;
                true
            }
            Err(other) => return Err(refused(context, other)),
        };
        show(context, created, None)
    }

    /// Whether a person is to be asked: somebody is there, and nothing says how it is to be done.
    fn asks(&self, context: &Context) -> bool {
        let told = self.key_file.is_some() || self.ask_passphrase || self.if_missing || self.no_questions;
        let keys = self.keys.keys_passphrase_file.is_some() || self.keys.keys_secret_file.is_some();
        !told && !keys && !context.out.is_json() && ask::somebody_is_there()
    }

    fn create(&self, context: &Context, key: Option<NodeKey>) -> Result<(), Failure> {
        let mut options = context.options();
        if self.ask_passphrase {
            options.kek.prompt = Some(Arc::new(Known::ask_new("new passphrase for the keys of this node")?));
        }
        // Closed in good order: the next opening has nothing to check.
        create(context, &options, key).map(drop)
    }
}

/// Makes the volume.
///
/// # Errors
/// [`Failure`].
pub(crate) fn create(
    context: &Context,
    options: &node_store::store::Options,
    key: Option<NodeKey>,
) -> Result<Store, Failure> {
    refuse_unfit(context, &options.kek)?;
    match Store::create(options, key, &reading()?) {
        // Somebody made it since we looked.
        Err(StoreError::Volume(VolumeError::Exists { .. })) => Err(exists(context)?),
        made => made.map_err(|error| context.named(error)),
    }
}

/// Refuses what new keys cannot be sealed under before anything is made, so that nothing is left of it.
fn refuse_unfit(context: &Context, sources: &KekSources) -> Result<(), Failure> {
    if keys::missing(&RealDisk, &context.keys_folder()).is_empty() {
        return Ok(());
    }
    match keys::choose(sources.available()?) {
        // It was asked for already.
        Source::Passphrase if sources.passphrase_file.is_none() => {}
        source @ (Source::SystemdCredential | Source::ContainerSecret | Source::Passphrase) => {
            sources.load(&RealDisk, source)?;
        }
        // It is made.
        Source::LocalFile => {}
    }
    Ok(())
}

/// Refuses where a file is gone without which no start opens the keys.
///
/// # Errors
/// What a start says of it.
pub(crate) fn refuse_without_keys(context: &Context) -> Result<(), Failure> {
    let folder = context.keys_folder();
    if let Some(kind) = keys::missing(&RealDisk, &folder).first() {
        let (key, database) = (folder.join(kind.file_name()), context.folder().join(Database::State.file()));
        return Err(StoreError::MissingKey { key, database }.into());
    }
    if keys::sealed::any_sealed_under(&RealDisk, &folder, Source::LocalFile)? {
        context.options().kek.load(&RealDisk, Source::LocalFile)?;
    }
    Ok(())
}

/// Shows the node that is there now; `saved` is the file with its key's backup.
///
/// # Errors
/// [`Failure`].
pub(crate) fn show(context: &Context, created: bool, saved: Option<&str>) -> Result<Verdict, Failure> {
    let path = context.keys_folder().join("node.key");
    let identity = context.identity()?.ok_or(Failure::NoKey { path })?;
    let start = start(context);
    let next = match (saved, identity.protection) {
        (Some(file), _) => {
            format!("keep {file} away from this machine, with its passphrase; then start the node: {start}")
        }
        (None, Protection::ObfuscationOnly) => format!(
            "keep its key well: `resultity-node key reseal --to-passphrase` seals it under a passphrase, `resultity-node key \
             export` makes a backup; then start it: {start}"
        ),
        (None, Protection::Systemd) if context.typed.is_service() => format!(
            "start it: {start}; then make a backup of its key, for which root finds the credential while the service runs: \
             `resultity-node key export`"
        ),
        (None, Protection::Systemd | Protection::ContainerSecret | Protection::Passphrase) => {
            format!("make a backup of its key (`resultity-node key export`), then start it: {start}")
        }
    };
    // What a start needs is said by then.
    let next = context.typed.clone().needing_url(false).complete(&next).into_owned();
    let folder = context.folder();
    context.out.show(&Made { created, identity, folder, next })?;
    Ok(Verdict::Done)
}

/// How the node is started, as it is typed; of a service everything that a flag said must stand in its settings.
fn start(context: &Context) -> String {
    let no_url = !context.values.is_set("network_url") && !saved_url(context);
    let mut flags = Vec::new();
    if no_url {
        flags.push(("network_url", "--network-url", NETWORK_URL.to_owned()));
    }
    for (name, flag) in
        [("keys.passphrase_file", "--keys-passphrase-file"), ("keys.secret_file", "--keys-secret-file")]
    {
        if let Some(path) = context.values.path_by_flag(name) {
            flags.push((name, flag, quoted(&path.to_string_lossy())));
        }
    }
    if context.typed.is_service() {
        let names: Vec<_> = flags.iter().map(|(name, ..)| *name).collect();
        let file = context.values.file();
        let first = format!("with {} set in {}, ", names.join(" and "), file.display());
        format!("{}`{ENABLE}`", if names.is_empty() { "" } else { &first })
    } else {
        let flags: String = flags.iter().map(|(_, flag, value)| format!(" {flag} {value}")).collect();
        format!("`resultity-node run{flags}`")
    }
}

/// Whether the home's settings file has the network's URL by now: the questions may have written it.
fn saved_url(context: &Context) -> bool {
    let text = files::read(&context.values.file(), FILE_BYTES_MAX).unwrap_or_default();
    std::str::from_utf8(&text).is_ok_and(|text| text.lines().any(|line| line.starts_with("network_url")))
}

/// Reads a key from a Web3 keystore.
///
/// # Errors
/// [`Failure::File`], [`Failure::Keystore`], [`Failure::Passphrase`].
pub(crate) fn read_key(file: &Path, passphrase: Option<&Path>) -> Result<NodeKey, Failure> {
    let bytes = files::read(file, KEYSTORE_BYTES_MAX)?;
    let passphrase = passphrase::existing(passphrase, "passphrase of the keystore")?;
    import_keystore(&bytes, &passphrase).map_err(|source| Failure::Keystore { path: file.to_owned(), source })
}

/// Why there can be no node: an empty folder has lost nothing, and needs no doctor.
fn refused(context: &Context, error: Failure) -> Failure {
    if let Failure::TooOpen { path, found, .. } = &error
        && *path == context.folder()
        && RealDisk.list(path).is_ok_and(|names| names.is_empty())
    {
        return Failure::OpenFolder { folder: path.clone(), found: *found };
    }
    error
}

fn exists(context: &Context) -> Result<Failure, Failure> {
    let who = context.identity()?.map_or(String::new(), |held| format!(" ({}, {})", held.node, held.address));
    Ok(Failure::Exists { folder: context.folder(), who })
}
