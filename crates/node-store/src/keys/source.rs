//! Where the key-encryption key comes from. Never from an argument or an environment variable.
//!
//! In this order, the first that is there:
//!
//! 1. the file `resultity-kek` in systemd's credentials folder (the variable that names the folder is
//!    no secret);
//! 2. a container secret, `/run/secrets/resultity-kek` unless another path is given;
//! 3. a passphrase, from a file or asked for at the terminal;
//! 4. a local file beside the keys, made when there is none: obfuscation only, and reported so.
//!
//! 1, 2 and 4 are bytes of high entropy, at least 32 of them, taken exactly as they stand: a newline at
//! the end counts. Of a passphrase file one newline at the end is dropped.
//!
//! A file of 1 to 3 lies outside of the volume and is given to the node by its surroundings. There a
//! symbolic link is followed, because Kubernetes mounts every secret as a link, and the owner may be
//! root. What is asked of it: a regular file that neither group nor others can write, and a passphrase
//! file cannot be read by them either. A secret of a container may be readable by all: that is how
//! Docker mounts it, and the container is the wall around it.
//!
//! The order decides for a new key alone. A standing key says in its header what it was sealed under,
//! and nothing else is tried: a source that is gone is an error that names it.

use std::{
    fmt,
    fs::{File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use node_types::id::hex_encode;
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{
    error::KeyError,
    sealed,
    secret::{Kek, fill_random},
};
use crate::{
    disk::{self, Disk},
    private::{NotPrivate, Private, check_private, private_if_there},
};

/// The file name of the credential and of the container secret.
pub const SECRET_NAME: &str = "resultity-kek";
/// Where containers find the secret. Missing there is no error, unlike at a path that was given.
pub const CONTAINER_SECRET: &str = "/run/secrets/resultity-kek";
/// The fewest bytes of a secret that is not a passphrase.
pub const SECRET_BYTES_MIN: usize = 32;
/// The longest secret or passphrase in bytes.
pub const SECRET_BYTES_MAX: u64 = 4 << 10;
/// The file name of the local secret in the keys folder.
pub const LOCAL_KEK: &str = "local.kek";

/// Where a key-encryption key comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// A credential of systemd, which may bind it to the machine's TPM.
    SystemdCredential,
    /// A secret mounted into the container.
    ContainerSecret,
    /// A passphrase, through argon2id.
    Passphrase,
    /// A file beside the keys.
    LocalFile,
}

impl Source {
    /// All sources, in the order in which they are tried.
    pub const ALL: [Self; 4] =
        [Self::SystemdCredential, Self::ContainerSecret, Self::Passphrase, Self::LocalFile];

    /// Its name in a sealed file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SystemdCredential => "systemd-credential",
            Self::ContainerSecret => "container-secret",
            Self::Passphrase => "passphrase",
            Self::LocalFile => "local-file",
        }
    }

    /// What a key sealed under it is protected by.
    #[must_use]
    pub const fn protection(self) -> Protection {
        match self {
            Self::SystemdCredential => Protection::Systemd,
            Self::ContainerSecret => Protection::ContainerSecret,
            Self::Passphrase => Protection::Passphrase,
            Self::LocalFile => Protection::ObfuscationOnly,
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::SystemdCredential => "systemd credential",
            Self::ContainerSecret => "container secret",
            Self::Passphrase => "passphrase",
            Self::LocalFile => "local file keys/local.kek",
        })
    }
}

/// What protects a sealed key from somebody who can read the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protection {
    /// The systemd credential.
    Systemd,
    /// The container's secret.
    ContainerSecret,
    /// The passphrase.
    Passphrase,
    /// Nothing: the secret lies beside the key.
    ObfuscationOnly,
}

impl fmt::Display for Protection {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Systemd => "sealed under a systemd credential",
            Self::ContainerSecret => "sealed under a container secret",
            Self::Passphrase => "sealed under a passphrase",
            Self::ObfuscationOnly => "obfuscation only: whoever can read keys/ can read the key",
        })
    }
}

/// What there is to take a key-encryption key from. The local file can always be made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Available {
    /// The credential of systemd.
    pub systemd_credential: bool,
    /// The container secret.
    pub container_secret: bool,
    /// A passphrase file or somebody to ask.
    pub passphrase: bool,
}

/// The source for a new key: the first in the order of [`Source::ALL`] that is there.
#[must_use]
pub const fn choose(available: Available) -> Source {
    if available.systemd_credential {
        Source::SystemdCredential
    } else if available.container_secret {
        Source::ContainerSecret
    } else if available.passphrase {
        Source::Passphrase
    } else {
        Source::LocalFile
    }
}

/// Somebody to ask for a passphrase.
pub trait Prompt: Send + Sync {
    /// Asks for the passphrase; `purpose` says what for, as in "passphrase of the node key".
    ///
    /// # Errors
    /// Nobody is there, or the question was cancelled ([`io::ErrorKind::Interrupted`]).
    fn passphrase(&self, purpose: &str) -> io::Result<Zeroizing<String>>;
}

/// Where to look for key-encryption keys, given by the program that embeds the store.
///
/// A passphrase that was asked for is remembered, so that the files of one volume ask once, and is
/// forgotten when it opened nothing or when this is dropped.
pub struct KekSources {
    /// The folder that `$CREDENTIALS_DIRECTORY` names, if systemd started the node.
    pub credentials_dir: Option<PathBuf>,
    /// The container secret.
    pub secret_file: Option<PathBuf>,
    /// A file that holds a passphrase.
    pub passphrase_file: Option<PathBuf>,
    /// Somebody to ask, if somebody is there.
    pub prompt: Option<Arc<dyn Prompt>>,
    /// The local file, beside the keys.
    pub local_file: PathBuf,
    remembered: Mutex<Option<Zeroizing<Vec<u8>>>>,
}

impl fmt::Debug for KekSources {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("KekSources")
            .field("credentials_dir", &self.credentials_dir)
            .field("secret_file", &self.secret_file)
            .field("passphrase_file", &self.passphrase_file)
            .field("prompt", &self.prompt.is_some())
            .field("local_file", &self.local_file)
            .finish_non_exhaustive()
    }
}

impl KekSources {
    /// What the surroundings of this process give: the credentials that systemd started it with, else the container
    /// secret at its usual place, else the local file in `keys_folder`.
    #[must_use]
    pub fn new(keys_folder: &Path) -> Self {
        Self {
            // It names a folder, and no secret.
            credentials_dir: std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from),
            secret_file: Some(PathBuf::from(CONTAINER_SECRET)),
            passphrase_file: None,
            prompt: None,
            local_file: keys_folder.join(LOCAL_KEK),
            remembered: Mutex::new(None),
        }
    }

    /// What is there now.
    ///
    /// # Errors
    /// [`KeyError::NoFile`] if a container secret or a passphrase file was given and is not there:
    /// a key must not silently get a weaker protection than was asked for. [`KeyError::Read`] if the
    /// operating system does not say.
    pub fn available(&self) -> Result<Available, KeyError> {
        let systemd_credential = match self.credential() {
            Some(path) => stands(&path)?,
            None => false,
        };
        let container_secret = match &self.secret_file {
            Some(path) => stands(path)?,
            None => false,
        };
        if let Some(path) = &self.secret_file
            && !container_secret
            && path != Path::new(CONTAINER_SECRET)
        {
            return Err(KeyError::NoFile { kek: Source::ContainerSecret, path: path.clone() });
        }
        if let Some(path) = &self.passphrase_file
            && !stands(path)?
        {
            return Err(KeyError::NoFile { kek: Source::Passphrase, path: path.clone() });
        }
        let passphrase = self.passphrase_file.is_some() || self.prompt.is_some();
        Ok(Available { systemd_credential, container_secret, passphrase })
    }

    /// The key-encryption key for new keys: from the first source that is there. A passphrase is asked
    /// for twice; the local file is made if there is none.
    ///
    /// # Errors
    /// As [`Self::available`] and [`Self::load`]; [`KeyError::PassphrasesDiffer`];
    /// [`KeyError::KekMissing`] if the local file is gone while a key stands that was sealed under it.
    pub fn kek_for_new(&self, disk: &dyn Disk) -> Result<Kek, KeyError> {
        let source = choose(self.available()?);
        match source {
            Source::SystemdCredential | Source::ContainerSecret => self.load(disk, source),
            Source::Passphrase => {
                if self.passphrase_file.is_none()
                    && let Some(prompt) = &self.prompt
                {
                    let first = asked(prompt.as_ref(), "new passphrase for the keys of this node")?;
                    let second = asked(prompt.as_ref(), "the same passphrase again")?;
                    if first != second {
                        return Err(KeyError::PassphrasesDiffer);
                    }
                    self.remember(Some(first));
                }
                self.load(disk, source)
            }
            Source::LocalFile => {
                self.make_local_file(disk)?;
                self.load(disk, source)
            }
        }
    }

    /// The key-encryption key from one source.
    ///
    /// # Errors
    /// [`KeyError::KekMissing`] if it is not there, [`KeyError::NotPrivate`],
    /// [`KeyError::SecretTooShort`], [`KeyError::EmptyPassphrase`], [`KeyError::Prompt`],
    /// [`KeyError::Read`].
    pub fn load(&self, disk: &dyn Disk, source: Source) -> Result<Kek, KeyError> {
        let secret = match source {
            Source::SystemdCredential => {
                let Some(path) = self.credential() else {
                    let wanted = format!(
                        "let systemd start this with the credential {SECRET_NAME}: LoadCredential= in the unit, `systemd-run -p \
                         LoadCredential=...` for a command (docs/security.md)"
                    );
                    return Err(KeyError::KekMissing { kek: source, wanted });
                };
                long_enough(&path, read_given(source, &path, 0o755)?)?
            }
            Source::ContainerSecret => {
                let path = self.secret_file.as_deref().unwrap_or(Path::new(CONTAINER_SECRET));
                long_enough(path, read_given(source, path, 0o755)?)?
            }
            Source::Passphrase => self.passphrase()?,
            Source::LocalFile => self.read_local_file(disk)?,
        };
        Ok(Kek { source, secret })
    }

    /// Forgets the passphrase that was asked for.
    pub fn forget(&self) {
        self.remember(None);
    }

    fn remember(&self, passphrase: Option<Zeroizing<Vec<u8>>>) {
        *self.remembered.lock().unwrap_or_else(PoisonError::into_inner) = passphrase;
    }

    fn credential(&self) -> Option<PathBuf> {
        self.credentials_dir.as_ref().map(|folder| folder.join(SECRET_NAME))
    }

    fn passphrase(&self) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        if let Some(path) = &self.passphrase_file {
            let mut bytes = read_given(Source::Passphrase, path, 0o700)?;
            if bytes.last() == Some(&b'\n') {
                bytes.pop();
                if bytes.last() == Some(&b'\r') {
                    bytes.pop();
                }
            }
            return not_empty(path.display().to_string(), bytes);
        }
        let held = self.remembered.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(passphrase) = held {
            return Ok(passphrase);
        }
        let Some(prompt) = &self.prompt else {
            let wanted = "start the node at a terminal or give it a passphrase file".to_owned();
            return Err(KeyError::KekMissing { kek: Source::Passphrase, wanted });
        };
        let passphrase = asked(prompt.as_ref(), "passphrase for the keys of this node")?;
        self.remember(Some(passphrase.clone()));
        Ok(passphrase)
    }

    fn read_local_file(&self, disk: &dyn Disk) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let path = &self.local_file;
        if let Some(folder) = path.parent() {
            check_private(disk, folder, Private::Folder)?;
        }
        if !private_if_there(disk, path, Private::File)? {
            return Err(missing(Source::LocalFile, path));
        }
        match disk.read(path, SECRET_BYTES_MAX) {
            Ok(Some(bytes)) => long_enough(path, Zeroizing::new(bytes)),
            Ok(None) => Err(missing(Source::LocalFile, path)),
            Err(source) => Err(KeyError::Read { path: path.clone(), source }),
        }
    }

    fn make_local_file(&self, disk: &dyn Disk) -> Result<(), KeyError> {
        let _alone = sealed::alone();
        let path = &self.local_file;
        if let Some(folder) = path.parent() {
            sealed::prepare_folder(disk, folder)?;
            if private_if_there(disk, path, Private::File)? {
                return Ok(());
            }
            // A new one beside a key that was sealed under a lost one would only hide the loss.
            if sealed::any_sealed_under(disk, folder, Source::LocalFile)? {
                return Err(missing(Source::LocalFile, path));
            }
        }
        let mut secret = Zeroizing::new([0; 32]);
        fill_random(secret.as_mut_slice())?;
        let text = Zeroizing::new(hex_encode(secret.as_slice()));
        match disk::write_new(disk, path, text.as_bytes()) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(KeyError::Write { path: path.clone(), source: error })
            }
            // Another start made it just now; what stands is what will be read.
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

fn missing(kek: Source, path: &Path) -> KeyError {
    KeyError::KekMissing { kek, wanted: format!("put {} back", path.display()) }
}

fn asked(prompt: &dyn Prompt, purpose: &str) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let text = prompt.passphrase(purpose).map_err(|source| KeyError::Prompt { source })?;
    not_empty("the terminal".to_owned(), Zeroizing::new(text.as_bytes().to_vec()))
}

fn not_empty(origin: String, bytes: Zeroizing<Vec<u8>>) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    if bytes.is_empty() { Err(KeyError::EmptyPassphrase { origin }) } else { Ok(bytes) }
}

fn long_enough(path: &Path, bytes: Zeroizing<Vec<u8>>) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    if bytes.len() < SECRET_BYTES_MIN {
        let found = bytes.len();
        return Err(KeyError::SecretTooShort { path: path.to_owned(), found, wanted: SECRET_BYTES_MIN });
    }
    Ok(bytes)
}

/// Whether something stands at a path outside of the volume, links followed.
fn stands(path: &Path) -> Result<bool, KeyError> {
    path.try_exists().map_err(|source| KeyError::Read { path: path.to_owned(), source })
}

/// Reads a secret that the node's surroundings gave it: see the head of this module.
fn read_given(kek: Source, path: &Path, mode_max: u32) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let refused = |source| KeyError::Read { path: path.to_owned(), source };
    let file = match open_given(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(missing(kek, path)),
        opened => opened.map_err(refused)?,
    };
    // Asked of the open file, so that nobody can put another one there in between.
    let data = file.metadata().map_err(refused)?;
    if !data.is_file() {
        return Err(NotPrivate::NotAFile { path: path.to_owned() }.into());
    }
    let ours = rustix::process::geteuid().as_raw();
    if data.uid() != ours && data.uid() != 0 {
        return Err(NotPrivate::ForeignOwner { path: path.to_owned(), found: data.uid(), ours }.into());
    }
    let found = data.mode() & 0o7777;
    if found & 0o777 & !mode_max != 0 {
        let wanted = mode_max & 0o666;
        return Err(NotPrivate::TooOpen { path: path.to_owned(), found, wanted }.into());
    }
    // One allocation that is never outgrown, so that no copy is left behind unzeroed.
    let most = usize::try_from(SECRET_BYTES_MAX).unwrap_or(usize::MAX);
    let mut bytes = Zeroizing::new(Vec::with_capacity(most.saturating_add(1)));
    file.take(SECRET_BYTES_MAX.saturating_add(1)).read_to_end(&mut bytes).map_err(refused)?;
    if bytes.len() > most {
        return Err(refused(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("a secret has at most {SECRET_BYTES_MAX} bytes"),
        )));
    }
    Ok(bytes)
}

#[expect(clippy::disallowed_methods, reason = "a secret given from outside is no file of the volume's disk")]
fn open_given(path: &Path) -> io::Result<File> {
    // Not blocking: a pipe without a writer would stop the start for ever.
    let flags = i32::try_from((OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY).bits()).unwrap_or(0);
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}
