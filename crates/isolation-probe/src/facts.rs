//! What the probe is told: where everything is. It need not guess, so a way that fails does not fail for want of a name.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    str::FromStr,
};

/// Facts by name, and the command after `--`.
pub(crate) struct Facts {
    named: BTreeMap<String, String>,
    /// What `host` starts.
    pub(crate) command: Vec<String>,
}

impl Facts {
    /// Reads `--name value ... -- command ...`.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(crate) fn parse(mut args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut named = BTreeMap::new();
        while let Some(name) = args.next() {
            if name == "--" {
                break;
            }
            let name = name.strip_prefix("--").ok_or_else(|| format!("{name} is no fact"))?.to_owned();
            let value = args.next().ok_or_else(|| format!("{name} has no value"))?;
            named.insert(name, value);
        }
        Ok(Self { named, command: args.collect() })
    }

    /// A fact as text.
    ///
    /// # Errors
    /// It was not told.
    pub(crate) fn text(&self, name: &str) -> Result<&str, String> {
        self.named.get(name).map(String::as_str).ok_or_else(|| format!("--{name} was not told"))
    }

    /// A fact as a path.
    ///
    /// # Errors
    /// It was not told.
    pub(crate) fn path(&self, name: &str) -> Result<&Path, String> {
        self.text(name).map(Path::new)
    }

    /// A fact as a number.
    ///
    /// # Errors
    /// It was not told, or is none.
    pub(crate) fn number<T: FromStr>(&self, name: &str) -> Result<T, String> {
        self.text(name)?.parse().map_err(|_| format!("--{name} is no such number"))
    }

    /// The secret. It is told backwards, so that finding it in the arguments means that the Agent leaked it.
    ///
    /// # Errors
    /// It was not told.
    pub(crate) fn secret(&self) -> Result<String, String> {
        Ok(self.text("secret-backwards")?.chars().rev().collect())
    }

    /// The folder that is the probe's own.
    pub(crate) fn own_folder() -> PathBuf {
        std::env::var_os("HOME").map_or_else(|| PathBuf::from("."), PathBuf::from)
    }
}
