//! `key`: takes the node's key out as a Web3 keystore, brings one in, seals it anew.

use std::{path::PathBuf, sync::Arc};

use clap::{Args, Subcommand};
use node_store::{
    disk::RealDisk,
    keys::{self, KekSources, Source, TerminalPrompt, export_keystore, sealed::NODE_KEY},
    store::Store,
};
use serde::Serialize;

use super::{Verdict, init};
use crate::{
    cli, context::Context, failure::Failure, files, measure::count, out::Report, page::Page, passphrase,
    settings::Layer,
};

/// What is done with the key.
#[derive(Debug, Subcommand)]
pub(crate) enum Key {
    /// Write the key as a Web3 keystore (version 3) under a passphrase
    Export(Export),
    /// Make a node of the key in a Web3 keystore; the key of a node is never replaced
    Import(Import),
    /// Seal the keys on the disk anew, under a passphrase or a secret
    Reseal(Reseal),
}

/// Write the key as a Web3 keystore (version 3) under a passphrase.
///
/// The file opens the node's account to whoever has it and its passphrase.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  resultity-node key export --out node-key.json
  resultity-node key export --out node-key.json --passphrase-file new.txt
  resultity-node key export > node-key.json")]
pub(crate) struct Export {
    /// The file to write, readable by its owner alone; else the standard output
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    out: Option<PathBuf>,
    /// The file with the new keystore's passphrase; without it the terminal is asked twice
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    passphrase_file: Option<PathBuf>,
    #[command(flatten)]
    keys: cli::Keys,
}

/// Make a node of the key in a Web3 keystore (version 3).
///
/// Where there is a node already this is refused, whatever its key: a node's key is its identity.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  resultity-node key import node-key.json
  resultity-node --home /srv/second key import node-key.json --passphrase-file its.txt")]
pub(crate) struct Import {
    /// The Web3 keystore
    #[arg(value_hint = clap::ValueHint::FilePath)]
    file: PathBuf,
    /// The file with the keystore's passphrase; without it the terminal is asked
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    passphrase_file: Option<PathBuf>,
    #[command(flatten)]
    keys: cli::Keys,
}

/// Seal the keys on the disk anew. No Agent may be running.
///
/// Afterwards the node needs the new passphrase or secret at every start: set keys.passphrase_file or
/// keys.secret_file, or let the service have the credential.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("to").required(true))]
#[command(after_help = "Examples:
  resultity-node key reseal --to-passphrase
  resultity-node key reseal --to-passphrase-file node.pass
  resultity-node key reseal --to-secret-file /run/secrets/resultity-kek
  systemd-run -qPG --wait -p LoadCredential=resultity-kek:<file> resultity-node key reseal --to-credential")]
pub(crate) struct Reseal {
    /// Under a passphrase that the terminal is asked for twice
    #[arg(long, group = "to")]
    to_passphrase: bool,
    /// Under the passphrase in this file
    #[arg(long, group = "to", value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    to_passphrase_file: Option<PathBuf>,
    /// Under the credential resultity-kek that systemd gives this command
    #[arg(long, group = "to")]
    to_credential: bool,
    /// Under this secret: at least 32 random bytes
    #[arg(long, group = "to", value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    to_secret_file: Option<PathBuf>,
    #[command(flatten)]
    keys: cli::Keys,
}

#[derive(Serialize)]
struct Exported {
    address: String,
    file: PathBuf,
}

impl Report for Exported {
    fn page(&self, page: &mut Page) {
        page.line(format!("The key of {} is in {}.", self.address, self.file.display()));
        page.line("Whoever has this file and its passphrase has the node's account.");
    }
}

#[derive(Serialize)]
struct Resealed {
    sealed_under: Source,
    rewritten: u32,
    next: String,
}

impl Report for Resealed {
    fn page(&self, page: &mut Page) {
        let files = count(self.rewritten.into(), "file");
        page.line(format!("{files} sealed anew under the {}.", self.sealed_under));
        page.row("next", &self.next);
    }
}

impl Key {
    /// What its flags set.
    pub(crate) fn layer(&self, layer: &mut Layer) {
        match self {
            Self::Export(Export { keys, .. })
            | Self::Import(Import { keys, .. })
            | Self::Reseal(Reseal { keys, .. }) => keys.layer(layer),
        }
    }

    /// # Errors
    /// [`Failure`].
    pub(crate) fn run(&self, context: &Context) -> Result<Verdict, Failure> {
        match self {
            Self::Export(export) => export.run(context),
            Self::Import(import) => import.run(context),
            Self::Reseal(reseal) => reseal.run(context),
        }
    }
}

impl Export {
    fn run(&self, context: &Context) -> Result<Verdict, Failure> {
        // Before anybody is asked for anything.
        self.out.as_deref().map_or(Ok(()), files::is_free)?;
        let (options, folder) = (context.options_to_open(), context.keys_folder());
        let opened = keys::open_node_key(&RealDisk, &folder, context.settings.network, &options.kek)?;
        let Some(opened) = opened else {
            // No volume at all is the likelier mistake.
            context.view()?;
            return Err(Failure::NoKey { path: folder.join(NODE_KEY) });
        };
        let passphrase = passphrase::new(self.passphrase_file.as_deref(), "passphrase for the exported key")?;
        let keystore = export_keystore(&opened.key, &passphrase).map_err(Failure::Export)?;
        let Some(file) = &self.out else {
            context.out.raw(&format!("{keystore}\n"))?;
            return Ok(Verdict::Done);
        };
        files::write_new(file, keystore.as_bytes())?;
        let address = opened.key.address().to_string();
        context.out.show(&Exported { address, file: file.clone() })?;
        Ok(Verdict::Done)
    }
}

impl Import {
    fn run(&self, context: &Context) -> Result<Verdict, Failure> {
        if let Some(held) = context.identity()? {
            let (folder, file) = (context.folder(), self.file.clone());
            return Err(Failure::KeyStands { folder, held: held.address, file });
        }
        let key = init::read_key(&self.file, self.passphrase_file.as_deref())?;
        drop(init::create(context, &context.options(), Some(key))?);
        init::show(context, true, None)
    }
}

impl Reseal {
    fn run(&self, context: &Context) -> Result<Verdict, Failure> {
        context.refuse_held()?;
        // Only what was asked for, whatever else stands around.
        let mut to = KekSources::new(&context.keys_folder());
        if !self.to_credential {
            to.credentials_dir = None;
        }
        to.secret_file.clone_from(&self.to_secret_file);
        to.passphrase_file.clone_from(&self.to_passphrase_file);
        if self.to_passphrase {
            to.prompt = Some(Arc::new(TerminalPrompt::new()));
        }
        let kek = if self.to_credential {
            to.load(&RealDisk, Source::SystemdCredential)?
        } else {
            to.kek_for_new(&RealDisk)?
        };
        let rewritten =
            Store::reseal_keys(&context.options_to_open(), &kek).map_err(|error| context.named(error))?;
        // A path in a settings file begins at that file's folder.
        let full = |file: &PathBuf| std::path::absolute(file).unwrap_or_else(|_| file.clone());
        let next = match (&self.to_passphrase_file, &self.to_secret_file) {
            (Some(file), _) => format!("set keys.passphrase_file to {}", full(file).display()),
            (None, Some(file)) => format!("set keys.secret_file to {}", full(file).display()),
            (None, None) if self.to_credential => {
                "let every start have it: LoadCredential= or LoadCredentialEncrypted= in the service"
                    .to_owned()
            }
            (None, None) => "the passphrase is asked for at every start".to_owned(),
        };
        context.out.show(&Resealed { sealed_under: kek.source(), rewritten, next })?;
        Ok(Verdict::Done)
    }
}
