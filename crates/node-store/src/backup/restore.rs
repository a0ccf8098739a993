//! A volume made of an archive: unpacked beside its place, checked, fenced, and put there whole.

use std::path::{Path, PathBuf};

use node_types::{
    NodeId, Timestamp,
    protocol::{Claim, Claimed},
};
use rusqlite::Connection;

use super::{
    BackupError, Manifest, Purpose, Workshop, failed, need_room,
    pack::open_keys,
    restoring, sweep,
    unpack::{self, Archive},
};
use crate::{
    binding,
    clock::Reading,
    disk::Disk,
    format::{self, Access, Database, FormatError},
    jobs::{self, BATCH_MAX, Fence},
    keys::{self, KekSources, NodeKey, VolumeKey},
    logs, salvage,
    store::{Options, Store, StoreError, make_folder, sync_names},
    volume::KEYS,
};

/// Where the keys of a restored volume come from.
#[derive(Debug)]
pub enum Source {
    /// Out of the archive; this opens them.
    Archive(KekSources),
    /// Out of the keys folder of the old volume; this opens them.
    Folder(PathBuf, KekSources),
    /// This is the node's key. The volume's own key is lost, and with it what was sealed under it: jobs that are still
    /// this node's fail as unreadable, and are reported so.
    NodeKey(NodeKey),
}

/// A volume that was restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// What it was made of.
    pub manifest: Manifest,
    /// Where it stands.
    pub folder: PathBuf,
    /// Jobs in it.
    pub jobs: u64,
}

/// Where keys of an archive are unpacked before they are sealed anew.
const ARCHIVED_KEYS: &str = "keys.archived";

/// How far ahead of this machine's clock an archive may have been made: one day. The message numbers of what is restored go on
/// above those of that moment.
const AHEAD_MS_MAX: u64 = 24 * 60 * 60 * 1000;

/// Makes a volume of an archive where there is none. Its jobs are fenced: see the head of this room. Its keys are sealed
/// as those of a new node are.
///
/// It stands there whole or not at all, whatever happens meanwhile.
///
/// # Errors
/// [`BackupError`].
pub fn restore(
    options: &Options,
    archive: &Path,
    source: &Source,
    now: Timestamp,
) -> Result<Restored, BackupError> {
    unpacked(options, archive, source, Kept::Fenced(now))
}

/// Takes down the fence of a restored volume without the network's word: all jobs behind it are taken to be this node's still.
/// Right only where the node that the backup was made of has answered none of them since. Returns what the fence was. No Agent
/// may run.
///
/// # Errors
/// [`BackupError::NotFenced`], [`BackupError::Store`].
pub fn unfence(options: &Options, reading: &Reading) -> Result<Fence, BackupError> {
    let store = Store::open(options, reading)?;
    let (jobs, now) = (store.jobs(), store.time(reading).now);
    let Some(fence) = jobs.view().fence().map_err(StoreError::from)? else {
        return Err(BackupError::NotFenced { folder: options.folder() });
    };
    loop {
        // Those that wait come first, so each turn leaves fewer of them.
        let waiting = jobs.view().to_ask_about(BATCH_MAX.into()).map_err(StoreError::from)?;
        let kept = waiting.into_iter().map(|job| Claimed { job, claim: Claim::Yours }).collect();
        jobs.judge_fenced(kept, now).wait().map_err(StoreError::from)?;
        if jobs.take_down_fence().wait().map_err(StoreError::from)? {
            return Ok(fence);
        }
    }
}

/// How a volume goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// Its node may have gone on since.
    Fenced(Timestamp),
    /// Its node has stood still since.
    AsItWas,
}

pub(super) fn unpacked(
    options: &Options,
    path: &Path,
    source: &Source,
    kept: Kept,
) -> Result<Restored, BackupError> {
    let (disk, folder) = (&*options.disk, options.folder());
    // Whatever comes of this call, keys that a killed one left do not lie about.
    sweep(disk, &options.home, options.network);
    let archive = Archive::open(path)?;
    let manifest = archive.manifest.clone();
    if manifest.network != options.network {
        let (path, found) = (path.to_owned(), manifest.network);
        return Err(BackupError::OtherNetwork { path, found, wanted: options.network });
    }
    if kept == Kept::AsItWas && manifest.purpose != Purpose::Move {
        return Err(BackupError::NotAMove { path: path.to_owned() });
    }
    if let Kept::Fenced(now) = kept
        && manifest.created_at > now.plus_ms(AHEAD_MS_MAX)
    {
        let (path, created_at) = (path.to_owned(), manifest.created_at);
        return Err(BackupError::FromTheFuture { path, created_at, now });
    }
    refuse_standing(disk, options, &folder, path, &manifest)?;
    if matches!(source, Source::Archive(_)) && !manifest.has_keys() {
        return Err(BackupError::NoKeys { path: path.to_owned() });
    }
    make_folder(disk, &options.home)?;
    let workshop = Workshop::open(disk, restoring(&options.home, options.network))?;
    need_room(disk, &options.home, unpack::room_for(manifest.bytes()))?;
    let work = &workshop.folder;
    let archived = work.join(ARCHIVED_KEYS);
    archive.unpack(work, &archived)?;
    for database in Database::ALL {
        unpack::check(disk, path, work, database, &manifest)?;
    }
    let opened = keys_of(options, path, &manifest, source, &archived)?;
    seal_keys(options, &manifest, &work.join(KEYS), opened)?;
    if manifest.has_keys() {
        std::fs::remove_dir_all(&archived).map_err(failed(&archived))?;
    }
    let mut jobs = 0;
    for database in Database::ALL {
        let count = settle(disk, work, database, &manifest, kept)
            .map_err(|source| unpack::database_error(path, database, source))?;
        jobs += count;
        disk.sync_file(&work.join(database.file())).map_err(failed(work))?;
    }
    disk.sync_dir(work).map_err(failed(work))?;
    // Nobody may have made one meanwhile: the name says whose turn it was.
    match disk.rename_new(work, &folder) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            refuse_standing(disk, options, &folder, path, &manifest)?;
            return Err(failed(&folder)(error));
        }
        renamed => renamed.map_err(failed(&folder))?,
    }
    workshop.keep();
    // The home may have been made just now, and so may folders above it.
    sync_names(disk, &options.home)?;
    Ok(Restored { manifest, folder, jobs })
}

/// Nothing is restored over anything, not even over an empty folder.
fn refuse_standing(
    disk: &dyn Disk,
    options: &Options,
    folder: &Path,
    archive: &Path,
    manifest: &Manifest,
) -> Result<(), BackupError> {
    if disk.entry(folder).map_err(failed(folder))?.is_none() {
        return Ok(());
    }
    let state = folder.join(Database::State.file());
    let held = format::connect(disk, &state, Database::State, Access::Read)
        .and_then(|connection| format::identify(&connection, &state, Database::State));
    let held = match held {
        Ok(stamp) => format!("the volume of {}", stamp.node),
        Err(_) => match keys::recorded_volume(disk, &options.folder().join(KEYS), options.network) {
            Ok(Some(_)) => "the keys of a node".to_owned(),
            Ok(None) | Err(_) => "something else".to_owned(),
        },
    };
    let (folder, path, offered) = (folder.to_owned(), archive.to_owned(), manifest.node);
    Err(BackupError::VolumeExists { folder, held, path, offered })
}

struct Keys {
    node: NodeKey,
    volume: VolumeKey,
}

fn keys_of(
    options: &Options,
    path: &Path,
    manifest: &Manifest,
    source: &Source,
    archived: &Path,
) -> Result<Keys, BackupError> {
    let (disk, stamp) = (&*options.disk, manifest.stamp());
    let (folder, sources) = match source {
        Source::Archive(sources) => (archived, sources),
        Source::Folder(folder, sources) => {
            // Said by what they are of, before anybody is asked for a passphrase.
            if let Some(found) = keys::recorded_volume(disk, folder, manifest.network)?
                && found != manifest.volume
            {
                return Err(BackupError::OtherVolumeKey {
                    path: path.to_owned(),
                    found,
                    wanted: manifest.volume,
                });
            }
            (folder.as_path(), sources)
        }
        Source::NodeKey(key) => {
            let found = NodeId::derive(manifest.network, &key.address());
            if found != manifest.node {
                return Err(BackupError::OtherKey { path: path.to_owned(), found, wanted: manifest.node });
            }
            let node = NodeKey::from_bytes(&key.secret_bytes())?;
            return Ok(Keys { node, volume: VolumeKey::generate()? });
        }
    };
    match open_keys(disk, folder, &stamp, sources) {
        Ok((_, node, volume)) => Ok(Keys { node, volume }),
        Err(BackupError::OtherKey { found, wanted, .. }) => {
            Err(BackupError::OtherKey { path: path.to_owned(), found, wanted })
        }
        // Where they lie there need be no database: the archive is what they belong to.
        Err(BackupError::Store(StoreError::MissingKey { key, .. })) => {
            Err(StoreError::MissingKey { key, database: path.to_owned() }.into())
        }
        Err(error) => Err(error),
    }
}

/// Seals the keys as those of a new node are: under what its surroundings give.
fn seal_keys(options: &Options, manifest: &Manifest, folder: &Path, opened: Keys) -> Result<(), BackupError> {
    let disk = &*options.disk;
    // Beside the keys where they are now, not where they will be.
    let mut sources = KekSources::new(folder);
    sources.credentials_dir.clone_from(&options.kek.credentials_dir);
    sources.secret_file.clone_from(&options.kek.secret_file);
    sources.passphrase_file.clone_from(&options.kek.passphrase_file);
    sources.prompt.clone_from(&options.kek.prompt);
    keys::prepare_folder(disk, folder)?;
    let kek = sources.kek_for_new(disk)?;
    let Keys { node, volume } = opened;
    keys::create_node_key(disk, folder, manifest.network, &node, &kek)?;
    let address = node.address();
    keys::create_volume_key(disk, folder, manifest.network, address, manifest.volume, &volume, &kek)?;
    Ok(())
}

/// Brings a database to the newest format and puts up the fence. Says how many jobs are in it.
fn settle(
    disk: &dyn Disk,
    folder: &Path,
    database: Database,
    manifest: &Manifest,
    kept: Kept,
) -> Result<u64, FormatError> {
    let path = folder.join(database.file());
    let mut connection = unpack::connect_strange(disk, &path, database, Access::Write)?;
    let of = |error| FormatError::of(&path, error);
    let old = format::version(&connection, &path, database)? != Some(database.newest());
    format::prepare(&mut connection, &path, database, &manifest.stamp(), |_| Ok(()))?;
    // What the rows of an old format mean is known only now; those of the newest were looked at when they were unpacked.
    if old && let Some(cause) = salvage::examine(&connection, database).map_err(of)? {
        return Err(FormatError::Damaged { path, cause });
    }
    let tx = connection.transaction().map_err(of)?;
    if let Kept::Fenced(now) = kept {
        put_up_fence(&tx, database, manifest, now).map_err(of)?;
    }
    let count = if database == Database::Jobs { jobs::count(&tx).map_err(of)? } else { 0 };
    tx.commit().map_err(of)?;
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(())).map_err(of)?;
    connection.close().map_err(|(_, error)| of(error))?;
    Ok(count)
}

fn put_up_fence(
    tx: &Connection,
    database: Database,
    manifest: &Manifest,
    now: Timestamp,
) -> rusqlite::Result<()> {
    match database {
        Database::State => {
            // Numbers may have been used until now, and where this machine's clock is behind, until later: those are
            // passed over once the network has said what time it is.
            let known = binding::clock_mark(tx)?.map_or(Timestamp::EPOCH, |mark| mark.now);
            binding::pass_sequence(tx, now.max(manifest.created_at).max(known))
        }
        Database::Jobs => jobs::put_up_fence(tx, manifest.created_at, now),
        Database::Logs => logs::begin_chain_anew(tx),
    }
}
