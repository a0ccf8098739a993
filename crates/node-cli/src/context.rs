//! What most commands need: where to show things, the settings, and the volume that they name.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use node_agent::settings::Settings;
use node_store::{
    clock::{self, Mark, Reading},
    disk::{Disk as _, RealDisk},
    format::{Database, FormatError},
    keys::TerminalPrompt,
    store::{Options, Store, StoreError},
    view::View,
    volume::{self, HeldBy, VolumeError},
};
use node_types::Timestamp;

use crate::{
    failure::Failure,
    identity::{self, Identity},
    out::Out,
    settings::Values,
    typed::Typed,
};

/// What a command works with.
#[derive(Debug)]
pub(crate) struct Context {
    /// Where it shows what it found.
    pub(crate) out: Out,
    /// What was set, and where.
    pub(crate) values: Values,
    /// The same, as the Agent takes it.
    pub(crate) settings: Settings,
    /// Commands that the operator is told to type: `context.typed.complete(text)`.
    pub(crate) typed: Typed,
}

impl Context {
    /// The volume's folder.
    pub(crate) fn folder(&self) -> PathBuf {
        volume::folder(&self.settings.home, self.settings.network)
    }

    /// The folder of its keys.
    pub(crate) fn keys_folder(&self) -> PathBuf {
        self.folder().join("keys")
    }

    /// The folder of its models.
    pub(crate) fn models_folder(&self) -> PathBuf {
        self.folder().join("models")
    }

    /// How the store is opened. A sealed key whose passphrase is in no file is asked for at the terminal.
    pub(crate) fn options(&self) -> Options {
        node_agent::agent::options(&self.settings)
    }

    /// The same for a volume that is there.
    pub(crate) fn options_to_open(&self) -> Options {
        let mut options = node_agent::agent::options_to_open(&self.settings);
        options.kek.prompt = Some(Arc::new(TerminalPrompt::new()));
        options
    }

    /// Looks at the volume: needs no key and no lock.
    ///
    /// # Errors
    /// [`Failure::NoVolume`], [`Failure::Store`].
    pub(crate) fn view(&self) -> Result<View, Failure> {
        Store::view_only(&self.options()).map_err(|error| self.named(error))
    }

    /// Whether there is a volume that an Agent can start on: also one of an older format, which its start brings up to date, and
    /// one of which a database is missing or damaged, which it mends.
    ///
    /// # Errors
    /// [`Failure`], as the start would say it.
    pub(crate) fn startable(&self) -> Result<(), Failure> {
        let Err(error) = Store::view_only(&self.options()) else { return Ok(()) };
        let mends = matches!(
            error,
            StoreError::Volume(VolumeError::Format(FormatError::TooOld { .. } | FormatError::Damaged { .. }))
        );
        let makes = matches!(error, StoreError::Volume(VolumeError::NoDatabase { .. }));
        let starts = mends || makes && !is_new(&self.folder());
        if starts { Ok(()) } else { Err(self.named(error)) }
    }

    /// Opens the volume for writing.
    ///
    /// # Errors
    /// [`Failure::Held`] where an Agent runs, [`Failure::NoVolume`], [`Failure::Store`].
    pub(crate) fn store(&self, reading: &Reading) -> Result<Store, Failure> {
        self.refuse_held()?;
        Store::open(&self.options_to_open(), reading).map_err(|error| self.named(error))
    }

    /// Refuses where an Agent has the volume, before anything is asked of the operator.
    ///
    /// # Errors
    /// [`Failure::Held`].
    pub(crate) fn refuse_held(&self) -> Result<(), Failure> {
        match self.holder()? {
            Some(pid) => Err(Failure::Held { pid, folder: self.folder() }),
            None => Ok(()),
        }
    }

    /// The pid of the Agent that runs on the volume, if one does.
    ///
    /// # Errors
    /// [`Failure::Store`].
    pub(crate) fn holder(&self) -> Result<Option<String>, Failure> {
        Ok(Store::holder(&self.options())?)
    }

    /// The Agent that runs on the volume, if one does, and where its page is.
    ///
    /// # Errors
    /// [`Failure::Store`].
    pub(crate) fn held_by(&self) -> Result<Option<HeldBy>, Failure> {
        Ok(Store::held_by(&self.options())?)
    }

    /// Whose volume it is, by the header of its key.
    ///
    /// # Errors
    /// [`Failure::Key`].
    pub(crate) fn identity(&self) -> Result<Option<Identity>, Failure> {
        Ok(identity::read(&self.keys_folder())?)
    }

    /// An error of the store in this command line's words.
    pub(crate) fn named(&self, error: StoreError) -> Failure {
        let folder = self.folder();
        if let StoreError::Volume(VolumeError::InUse { path, holder }) = error {
            return Failure::Held { pid: holder, folder: path };
        }
        let missing =
            matches!(error, StoreError::Volume(VolumeError::Missing { .. } | VolumeError::NoDatabase { .. }));
        if missing && is_new(&folder) { Failure::NoVolume { folder } } else { error.into() }
    }
}

/// Whether there is nothing of a node in this folder; a node that lost one of its databases is another matter.
fn is_new(folder: &Path) -> bool {
    [Database::State, Database::Jobs]
        .into_iter()
        .all(|database| matches!(RealDisk.entry(&folder.join(database.file())), Ok(None)))
}

/// What the machine's clocks say.
///
/// # Errors
/// [`Failure::Clock`].
pub(crate) fn reading() -> Result<Reading, Failure> {
    clock::read().map_err(Failure::Clock)
}

/// What time it is by all that the volume knows, as the store itself would judge it.
///
/// # Errors
/// [`Failure::Clock`], [`Failure::Read`].
pub(crate) fn time(view: &View) -> Result<Mark, Failure> {
    let reading = reading()?;
    Ok(clock::known(view.binding().clock_mark()?, view.jobs().high_water()?, &reading))
}

/// The moment of [`time`].
///
/// # Errors
/// Those of [`time`].
pub(crate) fn now(view: &View) -> Result<Timestamp, Failure> {
    Ok(time(view)?.now)
}
