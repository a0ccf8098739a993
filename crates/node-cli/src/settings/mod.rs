//! Settings: what the operator says in a file, in the environment and in flags. A flag wins over a variable, a variable
//! over the file.
//!
//! There is one list, [`KEYS`]. The name of a key in the file gives its variable and its flag: `keys.passphrase_file` is
//! `RESULTITY_KEYS_PASSPHRASE_FILE` and `--keys-passphrase-file`. Whatever is not on the list is an error that names what
//! may have been meant. None of them is a secret; files with secrets are named, never quoted.
//!
//! [`layer`] reads the three sources, [`values`] puts one upon the other and makes the Agent's settings of them.

mod layer;
mod values;

use std::{io, net::SocketAddr, path::PathBuf};

use node_agent::page::TOKEN_CHARS_MIN;

pub(crate) use layer::Layer;
pub(crate) use values::Values;

/// How a value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// One text.
    Text,
    /// A path; in a file a relative one starts at that file's folder.
    Path,
    /// Several paths: a list in the file, separated by colons in a variable.
    Paths,
}

/// Everything that can be set, by its name in the file.
pub(crate) const KEYS: &[(&str, Form)] = &[
    ("home", Form::Path),
    ("network", Form::Text),
    ("network_url", Form::Text),
    ("keyset_digest", Form::Text),
    ("shutdown_grace_ms", Form::Text),
    ("keys.secret_file", Form::Path),
    ("keys.passphrase_file", Form::Path),
    ("runtime.url", Form::Text),
    ("runtime.api_key_file", Form::Path),
    ("runtime.folder", Form::Path),
    ("runtime.readable", Form::Paths),
    ("runtime.user", Form::Text),
    ("runtime.socket", Form::Path),
    ("runtime.images", Form::Path),
    ("runtime.work", Form::Path),
    ("models.folders", Form::Paths),
    ("models.scrub_ms", Form::Text),
    ("page.listen", Form::Text),
    ("page.token_file", Form::Path),
    ("otlp.endpoint", Form::Text),
    ("otlp.headers_file", Form::Path),
    ("otlp.required", Form::Text),
    ("otlp.logs", Form::Text),
    ("otlp.metrics", Form::Text),
    ("otlp.metrics_ms", Form::Text),
    ("log_file.folder", Form::Path),
    ("log_file.bytes_max", Form::Text),
    ("log_file.files_max", Form::Text),
    ("log_file.required", Form::Text),
];

/// What was a setting of an earlier release, and what it is now.
const MOVED: &[(&str, &str)] = &[("runtime.models", "models.folders")];

/// What every variable begins with.
pub(crate) const PREFIX: &str = "RESULTITY_";
/// The variable that names the file.
pub(crate) const CONFIG: &str = "RESULTITY_CONFIG";
/// The name of the file in a home.
pub(crate) const FILE: &str = "node.toml";
/// The home of the machine's own node, and where its settings stand if a package has put them there.
pub(crate) const SYSTEM: (&str, &str) = (node_agent::agent::SERVICE_HOME, "/etc/resultity/node.toml");
/// The longest file in bytes.
pub(crate) const FILE_BYTES_MAX: usize = 1 << 20;

/// The variable of a key.
pub(crate) fn variable(name: &str) -> String {
    format!("{PREFIX}{}", name.replace('.', "_").to_ascii_uppercase())
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettingsError {
    /// A key that does not exist.
    #[error("{path}: there is no setting {name:?}{hint}")]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// What stands there.
        name: String,
        /// What may have been meant.
        hint: String,
    },
    /// A variable that does not exist.
    #[error("the variable {name} is set, and there is no such setting{hint}")]
    UnknownVariable {
        /// The variable.
        name: String,
        /// What may have been meant.
        hint: String,
    },
    /// A key or variable of an earlier release.
    #[error("{origin} is no setting any more: it is {now}, a list of folders")]
    Moved {
        /// Where it stands.
        origin: String,
        /// What it is called now.
        now: String,
    },
    /// The file is no TOML.
    #[error("{path} is not TOML: {problem}")]
    NotToml {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and where, drawn without logins.
        problem: String,
    },
    /// The file cannot be read.
    #[error("cannot read the settings in {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Other machines could look without being asked who they are.
    #[error(
        "{origin} is {listen}, which other machines reach: give --page-token-file (page.token_file) a file with a token of \
         {TOKEN_CHARS_MIN} characters or more that they must have, or listen on 127.0.0.1"
    )]
    OpenPage {
        /// Where the address stands.
        origin: String,
        /// The address.
        listen: SocketAddr,
    },
    /// A value that is not what it should be.
    #[error("{origin} is {found:?}: it should be {wanted}")]
    Value {
        /// Where it stands.
        origin: String,
        /// What stands there.
        found: String,
        /// What should.
        wanted: String,
    },
    /// The home in the file of that home.
    #[error(
        "{path} holds the settings of one home and cannot move it: take `home` out of it, or name the file with --config"
    )]
    HomeInHome {
        /// The file.
        path: PathBuf,
    },
    /// A setting that means nothing without another one.
    #[error("{origin} is set, and {needs} is not: set that too, or neither")]
    Alone {
        /// Where it stands.
        origin: String,
        /// What it belongs to.
        needs: &'static str,
    },
    /// Nowhere to put anything.
    #[error("where should the node live? Neither --home nor RESULTITY_HOME, XDG_DATA_HOME or HOME says it")]
    NoHome,
    /// Something that this command needs.
    #[error("{name} is not set: give --{flag}, set {variable}, or write {name} = \"...\" into {file}")]
    Missing {
        /// The key.
        name: &'static str,
        /// Its flag.
        flag: String,
        /// Its variable.
        variable: String,
        /// The file of the home.
        file: PathBuf,
    },
}

/// What may have been meant by `wrong`, as the end of a sentence.
fn hint<'a>(wrong: &str, right: impl Iterator<Item = &'a str>) -> String {
    let near = right.map(|name| (strsim::damerau_levenshtein(wrong, name), name)).min();
    match near {
        // One letter in three may be wrong: beyond that nobody meant it.
        Some((distance, name)) if distance <= wrong.len() / 3 + 1 => format!(": did you mean {name}?"),
        Some(_) | None => String::new(),
    }
}
