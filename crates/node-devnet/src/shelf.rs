//! The files of models that the devnet serves: a folder in which each stands under its SHA-256 in hex.
//!
//! What a template leaves out is filled in from here: the sources of a model whose files all stand here, and the BLAKE3
//! of each piece of a file. A file is read once for its pieces; a folder whose files change under their names would lie,
//! and the nodes would find out.

use std::{
    collections::BTreeMap,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use node_types::{
    Digest,
    config::{Model, PIECE_BYTES, PieceHash},
};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use crate::{DevnetError, files, settings::ConfigTemplate};

/// How much of a file is read at once while it is hashed: 1 MiB.
const READ_BYTES: usize = 1 << 20;

/// The folder, what is known of its files, and what was served of them.
#[derive(Debug)]
pub(crate) struct Shelf {
    folder: Option<PathBuf>,
    /// The devnet's own base URL.
    base: String,
    pieces: Mutex<BTreeMap<Digest, Vec<PieceHash>>>,
    served: Mutex<BTreeMap<Digest, Arc<Served>>>,
}

/// What was served of one file.
#[derive(Debug, Default)]
pub(crate) struct Served {
    /// Requests that found it.
    pub(crate) requests: AtomicU64,
    /// Bytes handed to connections.
    pub(crate) bytes: AtomicU64,
}

impl Shelf {
    pub(crate) const fn new(folder: Option<PathBuf>, base: String) -> Self {
        Self { folder, base, pieces: Mutex::new(BTreeMap::new()), served: Mutex::new(BTreeMap::new()) }
    }

    /// Where the file with this hash stands, if there is a folder.
    pub(crate) fn path(&self, sha256: Digest) -> Option<PathBuf> {
        self.folder.as_ref().map(|folder| folder.join(sha256.hex()))
    }

    /// The counters of a file.
    pub(crate) fn served(&self, sha256: Digest) -> Arc<Served> {
        Arc::clone(lock(&self.served).entry(sha256).or_default())
    }

    /// Reads those files of a template that stand here and were not read before. Blocks.
    pub(crate) fn learn(&self, template: &ConfigTemplate) -> Result<(), DevnetError> {
        for model in &template.models {
            for file in &model.files {
                let Some(path) = self.path(file.sha256) else { return Ok(()) };
                let unreadable = |source| DevnetError::File { path: path.clone(), source };
                let Some(found) = files::length(&path).map_err(unreadable)? else { continue };
                if found != file.bytes {
                    let name = format!("{} of {}", file.path, model.reference());
                    return Err(DevnetError::ModelBytes { name, said: file.bytes, path, found });
                }
                // Not locked while it is read: snapshots of other models can be made meanwhile.
                let known = lock(&self.pieces).contains_key(&file.sha256);
                if !known {
                    let pieces = pieces_of(&path).map_err(unreadable)?;
                    lock(&self.pieces).insert(file.sha256, pieces);
                }
            }
        }
        Ok(())
    }

    /// A template with the sources and the pieces that it leaves out, as far as they are known.
    pub(crate) fn fill(&self, template: &ConfigTemplate) -> ConfigTemplate {
        let pieces = lock(&self.pieces);
        let mut filled = template.clone();
        for model in &mut filled.models {
            if model.sources.is_empty() && model.files.iter().all(|file| pieces.contains_key(&file.sha256)) {
                model.sources.push(self.source(model));
            }
            for file in model.files.iter_mut().filter(|file| file.pieces_blake3.is_empty()) {
                file.pieces_blake3 = pieces.get(&file.sha256).cloned().unwrap_or_default();
            }
        }
        filled
    }

    fn source(&self, model: &Model) -> String {
        let (name, version) = (encoded(&model.name), encoded(&model.version));
        format!("{}/models/{name}@{version}", self.base)
    }

    /// What was served, file by file.
    pub(crate) fn show(&self) -> Value {
        let served = lock(&self.served);
        let shown = served.iter().map(|(sha256, served)| {
            let (requests, bytes) = (&served.requests, &served.bytes);
            let (requests, bytes) = (requests.load(Ordering::Relaxed), bytes.load(Ordering::Relaxed));
            json!({ "sha256": sha256, "requests": requests, "bytes": bytes })
        });
        shown.collect()
    }
}

/// As a part of a URL's path; what is unreserved (RFC 3986, 2.3) stays as it is.
fn encoded(text: &str) -> String {
    const RESERVED: &percent_encoding::AsciiSet =
        &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    utf8_percent_encode(text, RESERVED).to_string()
}

fn pieces_of(path: &Path) -> io::Result<Vec<PieceHash>> {
    let mut file = files::open(path)?;
    let mut buffer = vec![0; READ_BYTES];
    let mut pieces = Vec::new();
    loop {
        let mut hasher = blake3::Hasher::new();
        let mut piece = (&mut file).take(PIECE_BYTES);
        loop {
            match piece.read(&mut buffer)? {
                0 => break,
                read => hasher.update(buffer.get(..read).unwrap_or_default()),
            };
        }
        if hasher.count() == 0 {
            return Ok(pieces);
        }
        pieces.push(PieceHash::from_bytes(*hasher.finalize().as_bytes()));
    }
}

fn lock<T>(held: &Mutex<T>) -> MutexGuard<'_, T> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}
