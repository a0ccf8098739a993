//! The looking: everything that the checks judge by. Nothing here judges, and nothing here writes.

use std::{
    fmt::Display,
    future::Future,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use node_store::{
    backup,
    checkup::{self, Depth},
    clock,
    disk::{Disk, EntryKind, RealDisk},
    format::Database,
    keys::{self, KekSources, Source},
    models::Standing,
    private::{Private, private_if_there},
    seal::FileSystem,
    store::{Options, Store},
    view::View,
};
use node_types::{
    Digest, Timestamp,
    config::{NodeConfig, Runtime},
    inventory::Measured,
    keyset::VerifiedKeyset,
    models::ModelState,
};
use rustix::{
    fs::StatVfsMountFlags,
    process::{Resource, getrlimit},
};
use tokio::time::{Instant, timeout};

use super::{
    DATABASE_LIMIT, OUTSIDE_LIMIT,
    facts::{
        Clock, DatabaseSeen, Facts, HomeSeen, Keys, Leftover, LeftoverKind, Looked, Machine, ModelSeen,
        NetworkSeen, Opening, Place, ProgramSeen, RuntimeSeen, SnapshotSeen, Space, VolumeSeen,
    },
    names,
};
use crate::{
    agent, artifacts,
    blocking::blocking,
    drift, engine, hardware,
    journal::causes,
    models::{artifact, brings_files},
    network::HttpNetwork,
    runtime::{
        Endpoint,
        container::{self, SOCKET},
        sandbox,
    },
    settings::Settings,
    standing,
};

/// How far the doctor goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Read all of every database and every artifact, however long it takes.
    pub deep: bool,
}

fn said(error: impl Display) -> String {
    error.to_string()
}

fn caused(error: impl std::error::Error) -> String {
    causes(&error)
}

/// Looks at the node of these settings, whose Agent says `standing` of itself where it could be asked. Changes nothing; asks
/// nobody for a passphrase.
pub async fn gather(settings: &Settings, asked: Asked, standing: Option<standing::Standing>) -> Facts {
    let options = agent::options_to_open(settings);
    let folder = node_store::volume::folder(&settings.home, settings.network);
    let (local, answers) = tokio::join!(
        blocking({
            let (settings, folder) = (settings.clone(), folder.clone());
            move || local(&settings, &options, &folder, asked)
        }),
        network(settings),
    );
    let runtime = runtime(settings, local.config.as_ref()).await;
    Facts {
        network: settings.network,
        uid: RealDisk.uid(),
        holder: local.holder,
        standing,
        home: local.home,
        places: local.places,
        space: space(&folder),
        file_system: FileSystem::of(&folder).map_err(said),
        databases: local.databases,
        leftovers: local.leftovers,
        abandoned: abandoned(settings),
        keys: local.keys,
        clock: local.clock,
        volume: local.volume,
        runtime,
        answers,
        machine: Machine {
            open_files: getrlimit(Resource::Nofile).current,
            memory: hardware::memory(),
            sandbox: sandbox::probe(),
        },
        program: artifacts::own_program().map_err(said).and_then(|measured| match measured {
            Measured::Present(digest) => Ok(digest),
            Measured::Absent => Err("it is gone".to_owned()),
        }),
        folder,
    }
}

/// What is on this disk.
struct Local {
    holder: Result<Option<String>, String>,
    home: Result<HomeSeen, String>,
    places: Vec<Place>,
    databases: Vec<DatabaseSeen>,
    leftovers: Result<Vec<Leftover>, String>,
    keys: Keys,
    clock: Result<Clock, String>,
    volume: Result<VolumeSeen, String>,
    config: Option<NodeConfig>,
}

fn local(settings: &Settings, options: &Options, folder: &Path, asked: Asked) -> Local {
    let keys_folder = folder.join("keys");
    let reading = clock::read();
    let view = Store::view_only(options).map_err(caused);
    let now = reading.as_ref().map_or(Timestamp::EPOCH, |reading| reading.wall);
    let clock = reading.map_err(said).map(|reading| {
        let known = view.as_ref().ok().and_then(|view| {
            let (mark, high_water) = (view.binding().clock_mark().ok()?, view.jobs().high_water().ok()?);
            Some(clock::known(mark, high_water, &reading))
        });
        Clock { reading, known }
    });
    let known = clock.as_ref().ok().and_then(|clock| clock.known.as_ref()).map_or(now, |known| known.now);
    let volume = view.map(|view| volume(&view, settings, folder, known, asked));
    let config = volume.as_ref().ok().and_then(|volume| volume.snapshot.as_ref().ok()?.as_ref());
    Local {
        holder: Store::holder(options).map_err(caused),
        home: home(&settings.home),
        places: places(folder),
        databases: Database::ALL
            .into_iter()
            .map(|database| DatabaseSeen {
                database,
                looked: database_at(&options.disk, folder, database, asked),
                suspect: checkup::is_suspect(&*options.disk, &folder.join(database.file())).unwrap_or(false),
            })
            .collect(),
        leftovers: leftovers(folder, volume.as_ref().ok(), now).map_err(said),
        keys: keys(settings, &options.kek, &keys_folder),
        clock,
        config: config.map(|snapshot| snapshot.config.clone()),
        volume,
    }
}

fn database_at(disk: &Arc<dyn Disk>, folder: &Path, database: Database, asked: Asked) -> Looked {
    let ours = ["", "-wal", "-shm"].map(|suffix| {
        let file = folder.join(format!("{}{suffix}", database.file()));
        private_if_there(&**disk, &file, Private::File)
    });
    if ours.iter().any(Result::is_err) {
        return Looked::NotOurs;
    }
    let until = Instant::now() + DATABASE_LIMIT;
    let depth = if asked.deep { Depth::Full } else { Depth::Quick };
    let go_on = move || asked.deep || Instant::now() < until;
    match checkup::check(disk, folder, database, depth, go_on) {
        Ok(Some(checkup)) => Looked::Seen(checkup),
        Ok(None) => Looked::Missing,
        Err(error) => Looked::Unknown(error),
    }
}

fn home(path: &Path) -> Result<HomeSeen, String> {
    let entry = RealDisk.entry(path).map_err(said)?.ok_or("it is not there")?;
    match entry.kind {
        // A home that is a link is the operator's choice; what it leads to counts, and is named.
        EntryKind::Link => {
            let (path, found) =
                (std::fs::canonicalize(path).map_err(said)?, std::fs::metadata(path).map_err(said)?);
            Ok(HomeSeen { path, mode: found.mode() & 0o7777, uid: found.uid() })
        }
        EntryKind::Folder | EntryKind::File | EntryKind::Other => {
            Ok(HomeSeen { path: path.to_owned(), mode: entry.mode, uid: entry.uid })
        }
    }
}

/// Everything in the volume that must be ours alone, but for the files of models: those are public.
fn places(folder: &Path) -> Vec<Place> {
    let mut all = vec![(folder.to_owned(), Private::Folder)];
    let names = |folder: &Path| {
        let names = RealDisk.list(folder).unwrap_or_default();
        names.into_iter().map(|name| folder.join(name)).collect::<Vec<_>>()
    };
    let is_folder = |path: &Path| {
        RealDisk.entry(path).ok().flatten().is_some_and(|entry| entry.kind == EntryKind::Folder)
    };
    for path in names(folder) {
        if path.file_name().is_some_and(|name| name == "models") {
            // Open for others to read: a runtime of another user does. What is not a model yet is not.
            all.extend(["partial", "quarantine"].map(|name| (path.join(name), Private::Folder)));
        } else if is_folder(&path) {
            let inner = |it: PathBuf| {
                let wanted = if is_folder(&it) { Private::Folder } else { Private::File };
                (it, wanted)
            };
            all.extend(names(&path).into_iter().map(inner));
            all.push((path, Private::Folder));
        } else if path.extension().is_none_or(|extension| extension != "sock") {
            all.push((path, Private::File));
        }
    }
    all.sort();
    let look = |(path, wanted): (PathBuf, Private)| {
        let looked = private_if_there(&RealDisk, &path, wanted);
        Place { path, wanted, looked }
    };
    all.into_iter().map(look).collect()
}

fn space(folder: &Path) -> Result<Space, String> {
    let found = rustix::fs::statvfs(folder).map_err(said)?;
    // btrfs and others count no files.
    let free_files = (found.f_files > 0).then_some(found.f_favail);
    let read_only = found.f_flag.contains(StatVfsMountFlags::RDONLY);
    Ok(Space { free_bytes: found.f_bavail.saturating_mul(found.f_frsize), free_files, read_only })
}

fn leftovers(folder: &Path, volume: Option<&VolumeSeen>, now: Timestamp) -> std::io::Result<Vec<Leftover>> {
    let mut found = Vec::new();
    let mut look = |path: PathBuf, kind: LeftoverKind| {
        let Ok(about) = std::fs::symlink_metadata(&path) else { return };
        let written_ms = u64::try_from(about.mtime()).unwrap_or(0).saturating_mul(1000);
        // A folder under a name of the node's is no leftover, whatever else is wrong with it.
        if !about.is_dir() || kind == LeftoverKind::Foreign {
            let (bytes, age_ms) =
                ((!about.is_dir()).then_some(about.len()), now.ms().saturating_sub(written_ms));
            found.push(Leftover { path, kind, bytes, age_ms });
        }
    };
    let keys_folder = folder.join("keys");
    let ours = RealDisk.list(folder)?.into_iter().map(|name| folder.join(name));
    let keys = RealDisk.list(&keys_folder).unwrap_or_default().into_iter().map(|name| keys_folder.join(name));
    for path in ours.chain(keys) {
        if let Some(kind) = names::leftover(folder, &path) {
            look(path, kind);
        }
    }
    for stranger in volume.into_iter().flat_map(|volume| &volume.strangers) {
        look(stranger.clone(), LeftoverKind::Unknown);
    }
    for stranger in volume.into_iter().flat_map(|volume| &volume.foreign_folders) {
        look(stranger.clone(), LeftoverKind::Foreign);
    }
    Ok(found)
}

/// The folders in the home that a backup or restore left that was killed; a home need not hold a node for that.
///
/// # Errors
/// Why the home cannot be looked at.
pub fn abandoned(settings: &Settings) -> Result<Vec<PathBuf>, String> {
    backup::abandoned(&RealDisk, &settings.home, settings.network).map_err(caused)
}

fn keys(settings: &Settings, kek: &KekSources, folder: &Path) -> Keys {
    let network = settings.network;
    let node = keys::recorded_node(&RealDisk, folder, network);
    let volume = keys::recorded_volume(&RealDisk, folder, network);
    let opening = match (&node, &volume) {
        (Ok(Some((address, source))), Ok(Some(id))) => {
            if *source == Source::Passphrase && kek.passphrase_file.is_none() {
                Opening::NotTried(
                    "they are sealed under a passphrase that stands in no file (keys.passphrase_file)",
                )
            } else if *source == Source::SystemdCredential && kek.credentials_dir.is_none() {
                Opening::NotTried(
                    "they are sealed under systemd's credential, which is there while the service runs",
                )
            } else {
                let opened = keys::open_node_key(&RealDisk, folder, network, kek).and_then(|opened| {
                    keys::open_volume_key(&RealDisk, folder, network, *address, *id, kek)?;
                    Ok(opened)
                });
                match opened {
                    Ok(Some(opened)) => Opening::Opened(opened.protection),
                    Ok(None) => Opening::NotTried("the key went away while it was looked at"),
                    Err(why) => Opening::Failed(why),
                }
            }
        }
        _ => Opening::NotTried("what is said of them above comes first"),
    };
    let missing_file = kek.passphrase_file.clone().filter(|file| !file.exists());
    Keys { node, volume, missing_file, opening }
}

fn volume(view: &View, settings: &Settings, folder: &Path, now: Timestamp, asked: Asked) -> VolumeSeen {
    let snapshots = view.snapshots();
    let (mut pinned, mut unverifiable) = (false, Vec::new());
    let snapshot = match &snapshots {
        Ok(snapshots) => {
            pinned = snapshots.keyset().is_some();
            unverifiable =
                snapshots.unverifiable().iter().map(|it| (it.digest, it.why.to_string())).collect();
            let current = snapshots.current().zip(snapshots.validity(now));
            Ok(current.map(|(current, validity)| SnapshotSeen {
                config: current.config.document().clone(),
                digest: current.config.digest(),
                validity,
            }))
        }
        Err(error) => Err(causes(error)),
    };
    let config =
        snapshot.as_ref().ok().and_then(Option::as_ref).map(|snapshot: &SnapshotSeen| &snapshot.config);
    let (models, partial_folder) = (view.models(), folder.join("models").join("partial"));
    let unwell = models.models().map_err(caused).map(|rows| {
        let rows = rows.into_iter().filter(|row| row.state != ModelState::Active);
        rows.map(|row| (row.reference.to_string(), row.state, row.reason)).collect()
    });
    let (strangers, foreign_folders) = models.not_ours().unwrap_or_default();
    VolumeSeen {
        files: files(view, config),
        models: unwell,
        strangers: strangers.into_iter().map(|stranger| stranger.path).collect(),
        foreign_folders,
        // A row whose file is gone, for example moved aside, is nothing to look at.
        partials: models.partials().map_err(caused).map(|rows| {
            let there = |sha256: &Digest| partial_folder.join(sha256.hex()).exists();
            rows.into_iter().filter(|row| there(&row.sha256)).collect()
        }),
        quarantined: models.quarantined().map_err(said),
        partial_folder,
        deep: asked
            .deep
            .then(|| drift::check(view, &settings.runtime, None, true, &mut |_, _, _| {}).map_err(caused)),
        account: view.binding().account().map(|account| account.is_some()).map_err(caused),
        moved: view.jobs().retired().map(|moved| moved.map(|it| (it.at, it.archive))).map_err(caused),
        incidents: view.incidents_since(standing::incidents_from(now)).map_err(caused),
        snapshot,
        pinned,
        unverifiable,
    }
}

/// The files of the models that the node keeps, each once.
fn files(view: &View, config: Option<&NodeConfig>) -> Result<Vec<ModelSeen>, String> {
    let mut seen: Vec<(Digest, ModelSeen)> = Vec::new();
    for model in config.into_iter().filter(|config| brings_files(config)).flat_map(|config| &config.models) {
        for file in &model.files {
            if seen.iter().any(|(sha256, _)| *sha256 == file.sha256) {
                continue;
            }
            let standing: Standing = view.models().stand(file.sha256).map_err(caused)?;
            let name = artifact(model, file).name;
            seen.push((file.sha256, ModelSeen { name, bytes: file.bytes, standing }));
        }
    }
    Ok(seen.into_iter().map(|(_, seen)| seen).collect())
}

/// An answer within the limit, or that there was none.
async fn within<T>(asking: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    match timeout(OUTSIDE_LIMIT, asking).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("no answer within {} seconds", OUTSIDE_LIMIT.as_secs())),
    }
}

async fn network(settings: &Settings) -> NetworkSeen {
    let url = settings.network_url.clone();
    if url.is_empty() {
        return NetworkSeen::NotSet;
    }
    let asked = async { HttpNetwork::new(&url).map_err(caused)?.look().await.map_err(caused) };
    match within(asked).await {
        Ok((keysets, date)) => {
            let stranger = VerifiedKeyset::trust(keysets.pinned.as_bytes(), settings.network).err();
            let time = date.zip(clock::read().ok()).map(|(date, reading)| (date, reading.wall));
            NetworkSeen::Answers { url, stranger: stranger.map(said), time }
        }
        Err(why) if why.contains(&url) => NetworkSeen::Silent { url, why },
        Err(why) => {
            let why = format!("{url}: {why}");
            NetworkSeen::Silent { url, why }
        }
    }
}

async fn runtime(settings: &Settings, config: Option<&NodeConfig>) -> RuntimeSeen {
    let Some(config) = config else { return RuntimeSeen::Unknown };
    let own = &settings.runtime;
    match &config.runtime {
        Runtime::External { .. } => {
            let health = match &own.url {
                Some(url) => external(url, own.api_key_file.as_deref()).await,
                None => Ok(()),
            };
            RuntimeSeen::External { url: own.url.clone(), health }
        }
        Runtime::Process { .. } => {
            let config = config.clone();
            let own = own.clone();
            RuntimeSeen::Process { program: blocking(move || program(&config, &own)).await }
        }
        Runtime::Container { image, digest, config_digest, .. } => {
            let socket = own.socket.clone().unwrap_or_else(|| SOCKET.into());
            let asked =
                async { container::is_here(&socket, image, *digest, *config_digest).await.map_err(caused) };
            let here = within(asked).await;
            let archive = own.images.as_ref().map(|folder| folder.join(format!("{}.tar", digest.hex())));
            let archive = archive.filter(|path| path.is_file());
            RuntimeSeen::Container { socket, image: format!("{image}@{digest}"), here, archive }
        }
    }
}

async fn external(url: &str, api_key_file: Option<&Path>) -> Result<(), String> {
    let key = api_key_file.map(engine::read_key).transpose().map_err(said)?;
    let endpoint = Endpoint::new(url, key).map_err(caused)?;
    within(async { endpoint.healthy().await.map_err(caused) }).await
}

fn program(config: &NodeConfig, own: &crate::settings::RuntimeSettings) -> Option<ProgramSeen> {
    // The program comes first; its environment may have gigabytes, and `drift check` reads it.
    let named = artifacts::named(config, own).into_iter().find(|named| !named.folder)?;
    let found = named.measure().map_err(said).map(|measured| match measured {
        Measured::Present(digest) => Some(digest),
        Measured::Absent => None,
    });
    let executable = std::fs::metadata(&named.path).is_ok_and(|about| about.mode() & 0o111 != 0);
    Some(ProgramSeen { path: named.path, expected: named.expected, found, executable })
}
