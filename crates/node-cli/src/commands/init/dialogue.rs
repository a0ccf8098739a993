//! The questions of `init` at a terminal, for whoever knows nothing yet. What was given by flag, variable or file is not
//! asked. Nothing is written before the last question is answered by yes.

use std::path::{Path, PathBuf};

use node_store::{
    binding::{Account, AccountLink},
    disk::{Disk as _, RealDisk},
    keys::{self, Source, export_keystore, open_node_key},
    store::StoreError,
    volume::VolumeError,
};
use node_types::{Address, Network, Timestamp};
use serde_json::json;

use super::{create, exists, refused};
use crate::{
    ask,
    cli::Common,
    context::{Context, reading},
    failure::Failure,
    files,
    passphrase::{self, Known},
};

/// How the key is to be kept.
enum Protection {
    Passphrase(Known),
    Secret(PathBuf),
    /// What this process was given comes before anything that could be chosen.
    Given(Source),
    ThisMachine,
}

impl Protection {
    fn words(&self) -> String {
        match self {
            Self::Passphrase(_) => "sealed under your passphrase, which every start asks for".to_owned(),
            Self::Secret(path) => format!("sealed under {}", path.display()),
            Self::Given(source) => format!("sealed under the {source}"),
            Self::ThisMachine => {
                "on this machine only, unprotected against whoever copies the folder".to_owned()
            }
        }
    }
}

/// Asks, makes the node, and gives its context; the flags of `common` that were answered are set in it.
///
/// # Errors
/// [`Failure`]; [`Failure::NotConfirmed`] where the answer is no: then nothing was written.
pub(super) fn run(
    mut common: Common,
    make: &dyn Fn(&Common) -> Result<Context, Failure>,
) -> Result<(Context, Option<String>), Failure> {
    ask::say(
        "This makes a node on this machine. Enter takes what stands in brackets; Ctrl-C leaves everything as it is.",
    );
    let mut context = make(&common)?;
    if !context.values.is_set("network") {
        let choices = ["testnet: to try things, nothing is at stake", "mainnet: the real network"];
        if ask::which("Which network should it work for?", &choices)? == 1 {
            common.network = Some(Network::Mainnet.to_string());
        }
    }
    if !context.values.is_set("home") {
        let usual = context.settings.home.display().to_string();
        ask::topic("Where should it live? It needs room for models there, on a disk of this machine.");
        common.home =
            ask::line(&format!("Folder? [{usual}]"))?.filter(|home| *home != usual).map(PathBuf::from);
    }
    // The chosen home may have settings of its own.
    context = make(&common)?;
    refuse_standing(&context)?;
    let protection = protection(&mut context)?;
    let url = network_url(&context)?;
    let link = account(reading()?.wall)?;
    let settings = settings_file(&context, url.as_deref(), &protection);

    ask::topic("This is what will be done:");
    ask::say(&format!("  make a node for {} in {}", context.settings.network, context.folder().display()));
    ask::say(&format!("  its key: {}", protection.words()));
    if let Some(Settings { path, text, stands }) = &settings {
        if *stands {
            ask::say(&format!("  left to you, as {} is there already; write into it:", path.display()));
            text.lines().for_each(|line| ask::say(&format!("    {line}")));
        } else {
            ask::say(&format!("  keep these settings in {}", path.display()));
        }
    }
    if let Some(link) = &link {
        ask::say(&format!("  link it to {}", link_words(link)));
    }
    if !ask::yes("Go on?", true)? {
        return Err(Failure::NotConfirmed);
    }
    let mut options = context.options();
    let key_opens_by = match protection {
        Protection::Passphrase(known) => Some(std::sync::Arc::new(known)),
        Protection::Secret(_) | Protection::Given(_) | Protection::ThisMachine => None,
    };
    options.kek.prompt = key_opens_by.clone().map(|known| known as _);
    let store = create(&context, &options, None)?;
    if let Some(link) = link {
        store.binding().link(link).wait()?;
    }
    drop(store);
    if let Some(Settings { path, text, stands: false }) = settings {
        files::write_new(&path, text.as_bytes())?;
    }
    let mut to_open = context.options();
    to_open.kek.prompt = key_opens_by.map(|known| known as _);
    let saved = back_up(&context, &to_open.kek)?;
    Ok((context, saved))
}

/// Refuses where something of a node is there, unless it is what an interrupted `init` left.
///
/// # Errors
/// [`Failure::Exists`]; why what is there cannot be looked at.
pub(super) fn refuse_standing(context: &Context) -> Result<(), Failure> {
    match context.view() {
        Ok(_) => Err(exists(context)?),
        Err(
            Failure::NoVolume { .. }
            | Failure::Store(StoreError::Volume(VolumeError::Missing { .. } | VolumeError::NoDatabase { .. })),
        ) => Ok(()),
        Err(other) => Err(refused(context, other)),
    }
}

fn protection(context: &mut Context) -> Result<Protection, Failure> {
    if let source @ (Source::SystemdCredential | Source::ContainerSecret) =
        keys::choose(context.options().kek.available()?)
        && context.settings.keys.secret_file.is_none()
    {
        return Ok(Protection::Given(source));
    }
    let keys = &context.settings.keys;
    // Said by flag, variable or file already.
    if let Some(file) = &keys.secret_file {
        return Ok(Protection::Secret(file.clone()));
    }
    if let Some(file) = &keys.passphrase_file {
        return Ok(Protection::Secret(file.clone()));
    }
    let choices = [
        "a passphrase: whoever copies the disk has nothing; somebody types it at every start, which no service can",
        "a secret file of yours, 32 random bytes or more (systemd, Docker, a USB stick): starts by itself",
        "this machine only: starts by itself; whoever copies the folder has the key",
    ];
    match ask::which(
        "How should its key be protected? The key is the node: whoever has it can act for it.",
        &choices,
    )? {
        0 => loop {
            match Known::ask_new("new passphrase for the keys of this node") {
                Ok(known) => return Ok(Protection::Passphrase(known)),
                Err(Failure::Key(why)) => ask::say(&why.to_string()),
                Err(other) => return Err(other),
            }
        },
        1 => loop {
            let Some(path) = ask::line("Which file?")? else { continue };
            let path = std::path::absolute(&path).unwrap_or_else(|_| path.into());
            let mut options = context.options();
            options.kek.secret_file = Some(path.clone());
            match options.kek.load(&RealDisk, Source::ContainerSecret) {
                Ok(_) => {
                    context.settings.keys.secret_file = Some(path.clone());
                    return Ok(Protection::Secret(path));
                }
                Err(why) => ask::say(&format!("{}.", Failure::from(why).story())),
            }
        },
        _ => Ok(Protection::ThisMachine),
    }
}

fn network_url(context: &Context) -> Result<Option<String>, Failure> {
    if context.values.is_set("network_url") {
        return Ok(None);
    }
    ask::topic("What is the network's address? Whoever invited you to it has told you.");
    loop {
        let Some(url) = ask::line("Address, as in https://node.example.org? [set it later]")? else {
            return Ok(None);
        };
        match node_agent::network::HttpNetwork::new(&url) {
            Ok(_) => return Ok(Some(url)),
            Err(why) => ask::say(&format!("{why}.")),
        }
    }
}

fn account(now: Timestamp) -> Result<Option<AccountLink>, Failure> {
    ask::topic("Should it be linked to an account of yours? It can be done later, too.");
    loop {
        let Some(text) = ask::line("Wallet address (0x...) or e-mail address? [none]")? else {
            return Ok(None);
        };
        let account = match text.parse::<Address>() {
            Ok(address) => Account::Wallet(address),
            Err(why) if text.starts_with("0x") => {
                ask::say(&format!("{why}."));
                continue;
            }
            Err(_) => Account::Email(text),
        };
        match AccountLink::new(account, now, String::new()) {
            Ok(link) => return Ok(Some(link)),
            Err(why) => ask::say(&format!("{why}.")),
        }
    }
}

fn link_words(link: &AccountLink) -> String {
    match link.account() {
        Account::Wallet(address) => address.to_string(),
        Account::Email(email) => email.clone(),
    }
}

/// Settings that the next start needs.
struct Settings {
    path: PathBuf,
    text: String,
    /// There is such a file already: it is somebody's, and is not touched.
    stands: bool,
}

/// The settings that were answered, and where they belong.
fn settings_file(context: &Context, url: Option<&str>, protection: &Protection) -> Option<Settings> {
    let path = context.values.file();
    let stands = !matches!(RealDisk.entry(&path), Ok(None));
    // A basic string of TOML escapes what one of JSON does (toml.io, 1.0.0).
    let mut text = String::new();
    if context.settings.network != Network::Testnet && url.is_some() {
        text += &format!("network = {}\n", json!(context.settings.network));
    }
    if let Some(url) = url {
        text += &format!("network_url = {}\n", json!(url));
    }
    if let Protection::Secret(file) = protection
        && context.settings.keys.secret_file.as_ref() == Some(file)
        && !context.values.is_set("keys.secret_file")
    {
        text += &format!("\n[keys]\nsecret_file = {}\n", json!(file.to_string_lossy()));
    }
    (!text.is_empty()).then_some(Settings { path, text, stands })
}

/// Offers to write the key's backup; gives where it is.
fn back_up(context: &Context, kek: &keys::KekSources) -> Result<Option<String>, Failure> {
    ask::topic(
        "The node is made. Its key cannot be had again: without a backup a broken disk ends the node.",
    );
    if !ask::yes("Write a backup of the key now, an encrypted file to be kept away from this machine?", true)?
    {
        return Ok(None);
    }
    let usual = format!("resultity-{}-key.json", context.settings.network);
    loop {
        let path = ask::line(&format!("File? [{usual}]"))?.unwrap_or_else(|| usual.clone());
        match write_backup(context, kek, Path::new(&path)) {
            Ok(()) => return Ok(Some(path)),
            // The node is there whatever becomes of its backup.
            Err(why) => {
                ask::say(&format!("{}.", why.story()));
                if !ask::yes("Try again?", true)? {
                    return Ok(None);
                }
            }
        }
    }
}

fn write_backup(context: &Context, kek: &keys::KekSources, path: &Path) -> Result<(), Failure> {
    let folder = context.keys_folder();
    let opened = open_node_key(&RealDisk, &folder, context.settings.network, kek)?;
    let opened = opened.ok_or(Failure::NoKey { path: folder })?;
    let passphrase = passphrase::new(None, "passphrase for the backup of the key")?;
    let keystore = export_keystore(&opened.key, &passphrase).map_err(Failure::Export)?;
    files::write_new(path, keystore.as_bytes())
}
