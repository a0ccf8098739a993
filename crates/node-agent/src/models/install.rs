//! Installs a model: every file of it is here, verified, before it returns. The Agent and the command line call the same.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    ops::ControlFlow,
    sync::Arc,
};

use node_store::{
    models::{Finished, Measurement, ModelsError, Partial, Standing},
    store::Store,
};
use node_types::{
    Digest, Timestamp,
    config::{Model, ModelFile, PIECE_BYTES},
    inventory::{ArtifactId, ArtifactKind, Measured},
    log::{Kind, Level},
};
use serde_json::json;
use tokio::sync::watch;

use crate::{
    blocking::blocking,
    fetch::{self, FetchError, Fetcher},
    hardware::{self, Memory},
    header::{self, HeaderError},
    inventory::{NoteError, Noted, note},
    journal::Journal,
    settings::ModelSettings,
    time,
};

/// What stays free on the disk beside a model: 256 MiB.
pub const SPARE_BYTES: u64 = 256 << 20;

/// Why a model is not installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// It can never be loaded here.
    #[error("it needs {needed} bytes of memory; this machine has {main}, its graphics cards {graphics}")]
    Memory {
        /// What it needs.
        needed: u64,
        /// Main memory.
        main: u64,
        /// All graphics cards together.
        graphics: u64,
    },
    /// It does not fit the disk.
    #[error(
        "it needs {needed} bytes more on the disk, and {spare} are to stay free; {free} are free: make room in {folder}"
    )]
    Disk {
        /// Bytes that are to be fetched.
        needed: u64,
        /// What stays free.
        spare: u64,
        /// What is free.
        free: u64,
        /// Where.
        folder: String,
    },
    /// No source gave a file.
    #[error(transparent)]
    Fetch(Box<FetchError>),
    /// What came is not the file that the snapshot names.
    #[error(
        "{path} has SHA-256 {found}, the snapshot wants {wanted}; it was moved to {quarantined} and is fetched again at the next attempt"
    )]
    OtherContent {
        /// Its file.
        path: String,
        /// What came.
        found: Digest,
        /// What was wanted.
        wanted: Digest,
        /// Where it is now.
        quarantined: String,
    },
    /// The file is the one that the snapshot names, and no model.
    #[error("{path} cannot be loaded")]
    Header {
        /// Its file.
        path: String,
        /// Why.
        #[source]
        source: HeaderError,
    },
    /// The store.
    #[error(transparent)]
    Models(#[from] ModelsError),
    /// The inventory, or the clock.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// The folder's file system cannot be asked.
    #[error("cannot ask how much room {folder} has")]
    Room {
        /// Where.
        folder: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The Agent ends.
    #[error("it was interrupted")]
    Stopped,
}

impl InstallError {
    /// What trying again can do.
    #[must_use]
    pub fn hope(&self) -> Hope {
        match self {
            Self::Fetch(source) if source.may_pass() => Hope::Wait,
            Self::Fetch(source) if matches!(**source, FetchError::NoSource { .. }) => Hope::None,
            Self::Fetch(_) | Self::OtherContent { .. } => Hope::Doubt,
            Self::Models(_) | Self::Note(_) | Self::Room { .. } | Self::Stopped => Hope::Wait,
            Self::Memory { .. } | Self::Disk { .. } => Hope::None,
            Self::Header { source: HeaderError::Read { .. }, .. } => Hope::Wait,
            Self::Header { .. } => Hope::Never,
        }
    }
}

/// What trying again can do about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hope {
    /// It may pass by itself: nobody answered.
    Wait,
    /// Something was wrong that somebody has to mend, if it was not for a moment only.
    Doubt,
    /// Nothing, until something is changed here.
    None,
    /// Nothing: the same hash is the same file.
    Never,
}

/// How far an installation is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub doing: Doing,
    /// The file, by its path within the model.
    pub path: String,
    /// Bytes of the file that are done.
    pub done: u64,
    /// Bytes of the file.
    pub bytes: u64,
}

/// What an installation does with a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Doing {
    /// It looks whether anything is to be done.
    #[default]
    Looking,
    /// It is fetched.
    Fetching,
    /// It is read and hashed.
    Verifying,
}

/// Installs models.
#[derive(Debug)]
pub struct Installer {
    store: Arc<Store>,
    journal: Journal,
    fetcher: Fetcher,
    memory: Memory,
}

impl Installer {
    /// An installer for a store.
    ///
    /// # Errors
    /// [`FetchError`] where no connection can be made at all.
    pub fn new(store: Arc<Store>, settings: &ModelSettings) -> Result<Self, FetchError> {
        Ok(Self {
            journal: Journal::new(Arc::clone(&store)),
            store,
            fetcher: Fetcher::new(settings.folders.clone())?,
            memory: hardware::memory(),
        })
    }

    /// Makes every file of a model present and verified: what is there and unchanged stays, what was damaged is
    /// repaired piece by piece, what is missing is fetched. Nothing is fetched for a model that cannot fit.
    ///
    /// Broken off by dropping it; what was fetched until then stays for the next time.
    ///
    /// # Errors
    /// [`InstallError`].
    pub async fn install(
        &self,
        model: &Model,
        progress: &watch::Sender<Progress>,
    ) -> Result<(), InstallError> {
        if !self.memory.holds(model.memory_bytes) {
            return Err(InstallError::Memory {
                needed: model.memory_bytes,
                main: self.memory.main.unwrap_or(0),
                graphics: self.memory.graphics,
            });
        }
        let mut wanted = Vec::new();
        for file in distinct(model) {
            match self.stand(model, file, progress).await? {
                Need::Nothing => {}
                need @ (Need::All | Need::Pieces(_)) => wanted.push((file, need)),
            }
        }
        self.fits(&wanted)?;
        for (file, need) in wanted {
            self.bring(model, file, need, progress).await?;
        }
        for file in distinct(model) {
            self.check_header(file).await?;
        }
        Ok(())
    }

    /// Looks whether a file is a model that can be loaded, however it came here. One that is none is moved aside.
    async fn check_header(&self, file: &ModelFile) -> Result<(), InstallError> {
        let (path, name) = (self.store.models().path(file.sha256), file.path.clone());
        let Err(source) = blocking(move || header::check(&path, &name)).await else { return Ok(()) };
        if matches!(source, HeaderError::Unsound { .. }) {
            let (store, sha256, now) = (Arc::clone(&self.store), file.sha256, self.now()?);
            blocking(move || store.models().quarantine(sha256, now)).await?;
        }
        Err(InstallError::Header { path: file.path.clone(), source })
    }

    /// Whether what is to be fetched fits the disk.
    fn fits(&self, wanted: &[(&ModelFile, Need)]) -> Result<(), InstallError> {
        let models = self.store.models();
        let partials = models.view().partials().map_err(ModelsError::from)?.into_iter();
        let partials: BTreeMap<Digest, u64> =
            partials.map(|partial| (partial.sha256, partial.received)).collect();
        let missing =
            |file: &ModelFile| file.bytes.saturating_sub(partials.get(&file.sha256).copied().unwrap_or(0));
        let needed = wanted.iter().fold(0_u64, |sum, (file, _)| sum.saturating_add(missing(file)));
        if needed == 0 {
            return Ok(());
        }
        let folder = models.folder().display().to_string();
        let free =
            models.free_bytes().map_err(|source| InstallError::Room { folder: folder.clone(), source })?;
        if needed.saturating_add(SPARE_BYTES) <= free {
            return Ok(());
        }
        Err(InstallError::Disk { needed, spare: SPARE_BYTES, free, folder })
    }

    /// What a file lacks. A file whose seal does not hold is read to find out.
    async fn stand(
        &self,
        model: &Model,
        file: &ModelFile,
        progress: &watch::Sender<Progress>,
    ) -> Result<Need, InstallError> {
        let store = Arc::clone(&self.store);
        let sha256 = file.sha256;
        match blocking(move || store.models().view().stand(sha256)).await? {
            Standing::Sealed => {
                self.note(model, file, Noted::right(sha256, false)).await?;
                return Ok(Need::Nothing);
            }
            // It was verified once, and is read again by whoever watches it.
            Standing::Untrusted { .. } => return Ok(Need::Nothing),
            Standing::Missing => {
                self.note(model, file, Noted::other(Measured::Absent)).await?;
                return Ok(Need::All);
            }
            Standing::Broken(_) | Standing::Unknown => {}
        }
        let (store, now) = (Arc::clone(&self.store), self.now()?);
        let measured = reading(progress, file, move |progress| store.models().measure(sha256, now, progress));
        let measured = match measured.await {
            Err(error @ ModelsError::NotOurs { .. }) => {
                // Another thing has taken its place. It is kept for whoever wants to know, and the file comes anew.
                let store = Arc::clone(&self.store);
                let aside = blocking(move || store.models().quarantine(sha256, now)).await?;
                let text = format!("{error}; it was moved to {}", aside.display());
                self.journal.note(Level::Error, Kind::Model, text);
                Measurement::Missing
            }
            measured => measured?,
        };
        match measured {
            Measurement::Same => {
                self.note(model, file, Noted::right(sha256, true)).await?;
                Ok(Need::Nothing)
            }
            Measurement::Differs { found, damaged } => {
                // What cannot be read is not there.
                let found = found.map_or(Measured::Absent, Measured::Present);
                self.note(model, file, Noted::other(found)).await?;
                self.say_damaged(model, file, &damaged);
                Ok(Need::Pieces(damaged))
            }
            Measurement::Missing => {
                self.note(model, file, Noted::other(Measured::Absent)).await?;
                Ok(Need::All)
            }
            Measurement::Stopped => Err(InstallError::Stopped),
        }
    }

    /// Says which pieces of a file are not what they should be, and so are fetched again; the others are copied.
    fn say_damaged(&self, model: &Model, file: &ModelFile, damaged: &[u64]) {
        let pieces = file.bytes.div_ceil(PIECE_BYTES);
        let which = match damaged {
            // Where its pieces are not known, or it has another length.
            [] => "all of it is fetched again".to_owned(),
            [one] => format!("piece {one} of {pieces} is damaged and is fetched again"),
            several => format!("{} of its {pieces} pieces are damaged and are fetched again", several.len()),
        };
        let fields = [("model", json!(model.reference().to_string())), ("damaged_pieces", json!(damaged))];
        self.journal.measured(Level::Warn, Kind::Model, None, format!("{}: {which}", file.path), fields);
    }

    async fn bring(
        &self,
        model: &Model,
        file: &ModelFile,
        need: Need,
        progress: &watch::Sender<Progress>,
    ) -> Result<(), InstallError> {
        let (store, now, wanted) = (Arc::clone(&self.store), self.now()?, file.clone());
        let partial = match need {
            Need::Nothing => return Ok(()),
            Need::All => blocking(move || store.models().begin(&wanted, now)).await?,
            Need::Pieces(damaged) => {
                let repair = move |progress: &mut dyn FnMut(u64) -> ControlFlow<()>| {
                    store.models().begin_repair(&wanted, &damaged, now, progress)
                };
                reading(progress, file, repair).await?.ok_or(InstallError::Stopped)?
            }
        };
        let partial = Arc::new(partial);
        self.fetch(model, file, &partial, progress).await?;
        let Some(partial) = Arc::into_inner(partial) else { return Err(InstallError::Stopped) };
        let now = self.now()?;
        match reading(progress, file, move |progress| partial.finish(now, progress)).await? {
            Finished::Installed => {}
            Finished::Mismatch { found, quarantined, .. } => {
                return Err(InstallError::OtherContent {
                    path: file.path.clone(),
                    found,
                    wanted: file.sha256,
                    quarantined: quarantined.display().to_string(),
                });
            }
            Finished::Stopped => return Err(InstallError::Stopped),
        }
        self.note(model, file, Noted::right(file.sha256, true)).await?;
        let fields = [("model", json!(model.reference().to_string())), ("bytes", json!(file.bytes))];
        let text = format!("{} is installed and verified", file.path);
        self.journal.measured(Level::Info, Kind::Model, None, text, fields);
        Ok(())
    }

    async fn fetch(
        &self,
        model: &Model,
        file: &ModelFile,
        partial: &Arc<Partial>,
        progress: &watch::Sender<Progress>,
    ) -> Result<(), InstallError> {
        let (bytes, path) = (file.bytes, file.path.clone());
        let (steps, mut step) = watch::channel(fetch::Progress { received: partial.received_all(), bytes });
        let told = async {
            loop {
                let done = step.borrow_and_update().received;
                progress.send_replace(Progress { doing: Doing::Fetching, path: path.clone(), done, bytes });
                if step.changed().await.is_err() {
                    return std::future::pending::<()>().await;
                }
            }
        };
        let fetched = tokio::select! {
            fetched = self.fetcher.fetch(partial, &model.sources, &file.path, &steps) => fetched,
            () = told => Ok(()),
        };
        fetched.map_err(|source| InstallError::Fetch(Box::new(source)))
    }

    async fn note(&self, model: &Model, file: &ModelFile, noted: Noted) -> Result<(), InstallError> {
        Ok(note(&self.store, &self.journal, artifact(model, file), noted).await?)
    }

    fn now(&self) -> Result<Timestamp, NoteError> {
        Ok(time::now(&self.store)?)
    }
}

/// What a file lacks.
#[derive(Debug)]
enum Need {
    Nothing,
    All,
    Pieces(Vec<u64>),
}

/// The files of a model, each content once.
pub fn distinct(model: &Model) -> Vec<&ModelFile> {
    let mut seen = BTreeSet::new();
    model.files.iter().filter(|file| seen.insert(file.sha256)).collect()
}

/// The artifact that a file of a model is.
#[must_use]
pub fn artifact(model: &Model, file: &ModelFile) -> ArtifactId {
    ArtifactId { kind: ArtifactKind::ModelFile, name: format!("{}/{}", model.reference(), file.path) }
}

/// Reads a file beside the other work and tells how far it is; ends early where nobody waits any more.
async fn reading<T: Send + 'static>(
    progress: &watch::Sender<Progress>,
    file: &ModelFile,
    read: impl FnOnce(&mut dyn FnMut(u64) -> ControlFlow<()>) -> Result<T, ModelsError> + Send + 'static,
) -> Result<T, ModelsError> {
    let (path, bytes) = (file.path.clone(), file.bytes);
    let (steps, mut step) = watch::channel(0_u64);
    let work = blocking(move || {
        read(&mut |done| match steps.send(done) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        })
    });
    let told = async {
        loop {
            let done = *step.borrow_and_update();
            progress.send_replace(Progress { doing: Doing::Verifying, path: path.clone(), done, bytes });
            if step.changed().await.is_err() {
                return;
            }
        }
    };
    tokio::join!(work, told).0
}
