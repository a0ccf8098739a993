//! What stops a devnet from starting.

use std::{io, net::SocketAddr, path::PathBuf};

use node_types::{Network, config::InvalidDocument, verify::Refused};

/// Why a devnet cannot start.
#[derive(Debug, thiserror::Error)]
pub enum DevnetError {
    /// It is for one machine: anybody may send it work, and its faults are open to all.
    #[error("{address} is not a loopback address: let the devnet listen on 127.0.0.1 or [::1]")]
    NotLoopback {
        /// The address asked for.
        address: SocketAddr,
    },
    /// A setting makes no sense.
    #[error("the devnet's setting {setting} {problem}")]
    Setting {
        /// Its name.
        setting: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The template makes no snapshot that a node would take.
    #[error("no snapshot can be made from the template: {0}")]
    Template(#[from] InvalidDocument),
    /// The folder or a key cannot be read or written.
    #[error("cannot use {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The template does not describe the file that would be served.
    #[error("the template says that {name} has {said} bytes, {path} has {found}: correct one of the two")]
    ModelBytes {
        /// The model and the file in it.
        name: String,
        /// What the template says.
        said: u64,
        /// The file that would be served.
        path: PathBuf,
        /// What it has.
        found: u64,
    },
    /// The database cannot be used.
    #[error("cannot use the database {path}: is another devnet running in this folder?")]
    Database {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// The database was made by a newer release.
    #[error(
        "{path} has format {found}, this release reads {newest}: use the newer release or another folder"
    )]
    TooNew {
        /// Which.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest that is known here.
        newest: u32,
    },
    /// The folder belongs to another network.
    #[error(
        "{path} belongs to {found} on chain {found_chain}, the settings say {wanted} on chain {wanted_chain}: use another folder"
    )]
    OtherNetwork {
        /// The folder.
        path: PathBuf,
        /// Its network.
        found: Network,
        /// Its chain ID.
        found_chain: u64,
        /// The network of the settings.
        wanted: Network,
        /// The chain ID of the settings.
        wanted_chain: u64,
    },
    /// The key of a keyset is gone; a new one would not be the network that nodes know.
    #[error("the key {path} is missing beside its database: put it back, or begin with an empty folder")]
    MissingKey {
        /// Where it should be.
        path: PathBuf,
    },
    /// A key's file holds no key, or another one.
    #[error("{path} does not hold the key of keyset {version}: put the right one back")]
    WrongKey {
        /// Which.
        path: PathBuf,
        /// The keyset.
        version: u64,
    },
    /// What is stored cannot be read.
    #[error("{what} in {path} cannot be read: begin with an empty folder")]
    Damaged {
        /// What.
        what: &'static str,
        /// The database.
        path: PathBuf,
    },
    /// A stored keyset does not follow from the one before it.
    #[error("the stored keysets do not follow one another: begin with an empty folder")]
    Keysets(#[from] Refused),
    /// The operating system gave no random bytes.
    #[error("the operating system gives no random numbers")]
    Random(#[from] getrandom::Error),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: choose another port, or 0 for any")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
}
