//! How a network begins, or goes on after a restart.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use node_types::{Address, JobId, NodeId, Timestamp, keyset::VerifiedKeyset};

use super::Core;
use crate::{
    DevnetError, Settings,
    assign::{Open, Peers, Place, Rules},
    db::{self, Db, JobRow},
    documents::{self, Published},
    faults::Faults,
    files,
    keys::Signer,
    settings::{ConfigTemplate, Stamp},
    shelf::Shelf,
};

impl Core {
    /// Opens the network in the settings' folder; makes its keys and documents where there are none.
    pub(crate) fn open(settings: &Settings, shelf: Arc<Shelf>, now: Timestamp) -> Result<Self, DevnetError> {
        let folder = &settings.folder;
        let keys = folder.join("keys");
        files::make_folder(&keys).map_err(|source| DevnetError::File { path: keys.clone(), source })?;
        let path = folder.join("devnet.db");
        let database = |source| DevnetError::Database { path: path.clone(), source };
        // Prompts and answers lie in it: its owner alone reads it, and what SQLite puts beside it likewise.
        match files::create(&path, "") {
            Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
                return Err(DevnetError::File { path, source });
            }
            Ok(()) | Err(_) => {}
        }
        let db = Db::open(&path)?;
        check_stamp(&db, settings, &path)?;
        let signer = match newest_keyset(&db, settings, &path)? {
            Some((version, address)) => {
                let key = key_path(&keys, version);
                let signer = Signer::load(&key, version)?
                    .ok_or_else(|| DevnetError::MissingKey { path: key.clone() })?;
                if signer.address() != address {
                    return Err(DevnetError::WrongKey { path: key, version });
                }
                signer
            }
            None => {
                let signer = Signer::load_or_make(&key_path(&keys, 1), 1)?;
                let document = documents::keyset(settings.network, 1, settings.chain_id, now, &signer);
                db.add_keyset(1, &document).map_err(database)?;
                signer
            }
        };
        let (template, published) = newest_snapshot(&db, settings, &shelf, &signer, &path, now)?;
        let open = reopened(db.open_jobs().map_err(database)?, now);
        let gone: BTreeMap<NodeId, Timestamp> =
            db.nodes().map_err(database)?.into_iter().map(|node| (node.id, now)).collect();
        Ok(Self {
            db,
            keys,
            shelf,
            network: settings.network,
            chain_id: settings.chain_id,
            rules: Rules {
                offer_retry_ms: settings.offer_retry_ms,
                reassign_after_ms: settings.reassign_after_ms,
            },
            signer,
            template,
            published,
            bad: None,
            windows: HashMap::new(),
            peers: Peers { connected: BTreeMap::new(), gone },
            sessions: BTreeMap::new(),
            sessions_opened: 0,
            challenges: BTreeMap::new(),
            open,
            watchers: HashMap::new(),
            pongs: BTreeMap::new(),
            faults: Faults::default(),
            outbox: Vec::new(),
        })
    }
}

/// The file of a keyset's key.
pub(super) fn key_path(keys: &Path, version: u64) -> PathBuf {
    keys.join(format!("keyset-{version}.key"))
}

fn check_stamp(db: &Db, settings: &Settings, path: &Path) -> Result<(), DevnetError> {
    let database = |source| DevnetError::Database { path: path.to_owned(), source };
    let wanted = (settings.network, settings.chain_id);
    let Some(stamp) = db.meta("network").map_err(database)? else {
        return db.set_meta("network", &db::stamp(wanted.0, wanted.1)).map_err(database);
    };
    let damaged = || DevnetError::Damaged { what: "the network's stamp", path: path.to_owned() };
    let found = db::read_stamp(&stamp).ok_or_else(damaged)?;
    if found == wanted {
        return Ok(());
    }
    Err(DevnetError::OtherNetwork {
        path: settings.folder.clone(),
        found: found.0,
        found_chain: found.1,
        wanted: wanted.0,
        wanted_chain: wanted.1,
    })
}

/// The version and the address of the newest keyset, after all of them were checked.
fn newest_keyset(db: &Db, settings: &Settings, path: &Path) -> Result<Option<(u64, Address)>, DevnetError> {
    let stored = db.keysets().map_err(|source| DevnetError::Database { path: path.to_owned(), source })?;
    let Some((first, rotations)) = stored.split_first() else { return Ok(None) };
    let pinned = VerifiedKeyset::trust(first, settings.network)?;
    let all = VerifiedKeyset::replay(pinned, rotations.iter().map(Vec::as_slice))?;
    let newest = all.last().and_then(|it| Some((it.document().version, it.document().keys.first()?.address)));
    Ok(newest)
}

/// The newest snapshot, or the next one if the settings' template or what is filled into it changed since the last start,
/// or its time is over.
fn newest_snapshot(
    db: &Db,
    settings: &Settings,
    shelf: &Shelf,
    signer: &Signer,
    path: &Path,
    now: Timestamp,
) -> Result<(ConfigTemplate, Published), DevnetError> {
    let database = |source| DevnetError::Database { path: path.to_owned(), source };
    let damaged = || DevnetError::Damaged { what: "the newest snapshot", path: path.to_owned() };
    let wanted = template_text(&settings.config);
    let changed = db.meta("template").map_err(database)?.as_ref() != Some(&wanted);
    let newest = match db.newest_snapshot().map_err(database)? {
        Some((envelope, template)) => {
            let published = Published::read(envelope).ok_or_else(damaged)?;
            Some((serde_json::from_str(&template).map_err(|_| damaged())?, published))
        }
        None => None,
    };
    let (template, before) = match newest {
        Some((template, published)) if !changed => (template, Some(published)),
        Some((_, published)) => (settings.config.clone(), Some(published)),
        None => (settings.config.clone(), None),
    };
    shelf.learn(&template)?;
    let filled: ConfigTemplate = shelf.fill(&template);
    if !changed
        && let Some(published) = &before
        && now < published.config.refresh_by
        && published.config.models == filled.models
    {
        return Ok((template, published.clone()));
    }
    let keyset_version = db.keysets().map_err(database)?.len();
    let stamp = Stamp {
        network: settings.network,
        version: before.as_ref().map_or(1, |it| it.version + 1),
        keyset_version: u64::try_from(keyset_version).unwrap_or(u64::MAX),
        previous: before.map(|it| it.digest),
        now,
    };
    let published = documents::snapshot(&filled, stamp, signer)?;
    db.begin().map_err(database)?;
    db.add_snapshot(published.version, &published.envelope, &template_text(&template), now)
        .and_then(|()| db.set_meta("template", &wanted))
        .and_then(|()| db.commit())
        .map_err(database)?;
    Ok((template, published))
}

pub(super) fn template_text(template: &ConfigTemplate) -> String {
    // A template has texts, numbers and lists: it always can be written.
    serde_json::to_string(template).unwrap_or_default()
}

/// Jobs as they were left. An offer that was on its way is repeated at once; who had declined may be asked again.
pub(super) fn reopened(rows: Vec<JobRow>, now: Timestamp) -> BTreeMap<JobId, Open> {
    let reopen = |row: JobRow| {
        let place = match (row.place.as_str(), row.node) {
            ("held", Some(node)) => Place::Held { node },
            ("offered", Some(node)) => Place::Offered { node, since: now, last: Timestamp::EPOCH },
            _ => Place::Waiting,
        };
        let cancelled = row.cancelled.then_some(Timestamp::EPOCH);
        (row.job.id, Open { job: row.job, place, declined: BTreeMap::new(), cancelled })
    };
    rows.into_iter().map(reopen).collect()
}
