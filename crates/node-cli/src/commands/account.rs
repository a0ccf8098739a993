//! `account`: the account that the node works for.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use node_store::binding::{Account as Of, AccountLink, EMAIL_BYTES_MAX, PROOF_BYTES_MAX};
use node_types::Address;
use serde::Serialize;

use super::Verdict;
use crate::{
    cli::Keys,
    context::{Context, reading},
    failure::Failure,
    files,
    out::Report,
    page::Page,
    settings::Layer,
    typed::Typed,
};

/// What is done with the account.
#[derive(Debug, Subcommand)]
pub(crate) enum Account {
    /// Show the account that the node works for
    #[command(
        after_help = "Examples:\n  resultity-node account show\n  resultity-node account show --json | jq -r .link.account"
    )]
    Show,
    /// Link the node to an account, in place of any earlier one; the network hears of it when the Agent runs
    Link(Link),
    /// Take the link away
    #[command(after_help = "Examples:\n  resultity-node account unlink")]
    Unlink {
        #[command(flatten)]
        keys: Keys,
    },
}

/// Link the node to an account.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("account").required(true))]
#[command(after_help = "Examples:
  resultity-node account link --wallet 0xAb5801a7D398351b8bE11C439e05C5B3259aeC9B
  resultity-node account link --email-file address.txt --proof-file receipt.txt
  echo ops@example.org | resultity-node account link --email-file -")]
pub(crate) struct Link {
    /// A wallet, by its EVM address
    #[arg(long, group = "account", value_name = "ADDRESS")]
    wallet: Option<Address>,
    /// A person or company, by e-mail address; every user of the machine may see it while the command runs
    #[arg(long, group = "account", value_name = "NAME@DOMAIN")]
    email: Option<String>,
    /// The file with the e-mail address, - for the standard input: nobody else sees it
    #[arg(long, group = "account", value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    email_file: Option<PathBuf>,
    /// The file with what proves it: the network's receipt, or the account's signature
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    proof_file: Option<PathBuf>,
    #[command(flatten)]
    keys: Keys,
}

#[derive(Serialize)]
struct Shown {
    node: Option<String>,
    address: Option<String>,
    link: Option<LinkShown>,
    /// What this command changed; nothing where it only looks.
    #[serde(skip_serializing_if = "Option::is_none")]
    did: Option<&'static str>,
    #[serde(skip)]
    typed: Typed,
}

/// A link, for showing.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct LinkShown {
    account: String,
    kind: &'static str,
    linked_at: String,
    proof: String,
}

impl LinkShown {
    /// A link, for showing.
    pub(crate) fn of(link: &AccountLink) -> Self {
        let (account, kind) = match link.account() {
            Of::Wallet(address) => (address.to_string(), "wallet"),
            Of::Email(email) => (email.clone(), "email"),
        };
        Self { account, kind, linked_at: link.linked_at().to_string(), proof: link.proof().to_owned() }
    }
}

impl Report for Shown {
    fn page(&self, page: &mut Page) {
        if let Some(did) = self.did {
            page.line(did);
        }
        page.row("node", self.node.as_deref().unwrap_or("unknown: its key is missing"));
        page.row("address", self.address.as_deref().unwrap_or("unknown"));
        match &self.link {
            Some(link) => {
                page.row("account", &link.account);
                page.row("linked", &link.linked_at);
                page.row("proof", if link.proof.is_empty() { "none" } else { &link.proof });
            }
            None => page.row(
                "account",
                self.typed.complete("none: `resultity-node account link --wallet <ADDRESS>` links one"),
            ),
        }
    }
}

impl Account {
    /// What its flags set.
    pub(crate) fn layer(&self, layer: &mut Layer) {
        match self {
            Self::Show => {}
            Self::Link(Link { keys, .. }) | Self::Unlink { keys } => keys.layer(layer),
        }
    }

    /// # Errors
    /// [`Failure`].
    pub(crate) fn run(&self, context: &Context) -> Result<Verdict, Failure> {
        let (link, did) = match self {
            Self::Show => (context.view()?.binding().account()?, None),
            Self::Link(link) => (Some(link.run(context)?), Some("The account is linked.")),
            Self::Unlink { .. } => {
                let held = context.store(&reading()?)?.binding().unlink().wait()?;
                let did = if held.is_some() { "The link is taken away." } else { "There was no link." };
                (None, Some(did))
            }
        };
        let (node, address) = context.identity()?.map(|held| (held.node.to_string(), held.address)).unzip();
        context.out.show(&Shown {
            node,
            address,
            link: link.as_ref().map(LinkShown::of),
            did,
            typed: context.typed.clone(),
        })?;
        Ok(Verdict::Done)
    }
}

impl Link {
    fn run(&self, context: &Context) -> Result<AccountLink, Failure> {
        // More than may be in it, so that the store says what is too long.
        let text = |file: &PathBuf, bytes_max: usize| -> Result<String, Failure> {
            Ok(String::from_utf8_lossy(&files::read(file, 4 * bytes_max)?).trim().to_owned())
        };
        let account = match (&self.wallet, &self.email, &self.email_file) {
            (Some(address), _, _) => Of::Wallet(*address),
            (None, Some(email), _) => Of::Email(email.clone()),
            (None, None, Some(file)) => Of::Email(text(file, EMAIL_BYTES_MAX)?),
            (None, None, None) => {
                return Err(Failure::Usage("give --wallet, --email or --email-file".to_owned()));
            }
        };
        let proof = self.proof_file.as_ref().map_or(Ok(String::new()), |file| text(file, PROOF_BYTES_MAX))?;
        let reading = reading()?;
        // Judged before the volume is opened: a typing error should cost nothing.
        AccountLink::new(account.clone(), reading.wall, proof.clone())?;
        let store = context.store(&reading)?;
        let link = AccountLink::new(account, store.time(&reading).now, proof)?;
        store.binding().link(link.clone()).wait()?;
        Ok(link)
    }
}
