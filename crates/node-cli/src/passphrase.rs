//! Passphrases of wallet files: from a file, or asked for at the terminal. Never from an argument or the environment.

use std::path::Path;

use node_store::keys::{KeyError, Prompt, TerminalPrompt};
use zeroize::Zeroizing;

use crate::{failure::Failure, files};

/// The longest passphrase in bytes.
const BYTES_MAX: usize = 4 << 10;

/// The passphrase that opens a wallet file.
///
/// # Errors
/// [`Failure::File`], [`Failure::Passphrase`].
pub(crate) fn existing(file: Option<&Path>, purpose: &'static str) -> Result<Zeroizing<String>, Failure> {
    match file {
        Some(file) => read(file),
        None => ask(purpose, purpose),
    }
}

/// A passphrase for a new wallet file: asked for twice.
///
/// # Errors
/// Those of [`existing`]; of the terminal's [`KeyError::EmptyPassphrase`], [`KeyError::PassphrasesDiffer`].
pub(crate) fn new(file: Option<&Path>, purpose: &'static str) -> Result<Zeroizing<String>, Failure> {
    if let Some(file) = file {
        return read(file);
    }
    let first = ask(purpose, purpose)?;
    if first.is_empty() {
        return Err(KeyError::EmptyPassphrase { origin: "the terminal".to_owned() }.into());
    }
    if first == ask(purpose, "the same passphrase again")? {
        Ok(first)
    } else {
        Err(KeyError::PassphrasesDiffer.into())
    }
}

/// A passphrase that was asked for already: a new node has two keys, and its owner is asked once for both.
pub(crate) struct Known(Zeroizing<String>);

impl Known {
    /// One that was read or asked for.
    pub(crate) const fn of(phrase: Zeroizing<String>) -> Self {
        Self(phrase)
    }

    /// Asks twice at the terminal for a new passphrase.
    ///
    /// # Errors
    /// Those of [`new`].
    pub(crate) fn ask_new(purpose: &'static str) -> Result<Self, Failure> {
        new(None, purpose).map(Self)
    }
}

impl Prompt for Known {
    fn passphrase(&self, _purpose: &str) -> std::io::Result<Zeroizing<String>> {
        Ok(self.0.clone())
    }
}

fn ask(purpose: &'static str, question: &str) -> Result<Zeroizing<String>, Failure> {
    TerminalPrompt::new().passphrase(question).map_err(|source| {
        // What the system calls a terminal that is not there says nothing more.
        let source = Some(source).filter(|source| source.raw_os_error().is_none());
        Failure::Passphrase { purpose, source }
    })
}

/// One newline at the end is dropped: editors add it.
fn read(file: &Path) -> Result<Zeroizing<String>, Failure> {
    let bytes = files::read(file, BYTES_MAX)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| Failure::File {
        what: "read",
        path: file.to_owned(),
        source: std::io::Error::new(std::io::ErrorKind::InvalidData, "the passphrase is not UTF-8"),
    })?;
    let text = text.strip_suffix('\n').map_or(text, |text| text.strip_suffix('\r').unwrap_or(text));
    Ok(Zeroizing::new(text.to_owned()))
}
