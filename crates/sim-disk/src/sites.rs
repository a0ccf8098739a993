//! The places that are synced, and lies about them.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Who asked for a sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Caller {
    /// SQLite, through the VFS.
    Sqlite,
    /// The store's own files, through `Disk`.
    Files,
}

/// What was synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SyncKind {
    /// A file's bytes and length.
    File,
    /// A folder's names.
    Dir,
}

/// A place that is synced.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SyncSite {
    /// Who asked.
    pub caller: Caller,
    /// File or folder.
    pub kind: SyncKind,
    /// Its path.
    pub path: PathBuf,
}

/// A place in [`crate::SimDisk::sync_sites`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenSite {
    /// The place. In its path, numbers and long hexadecimal words are written `*`.
    pub site: SyncSite,
    /// How often it was synced.
    pub calls: u64,
    /// How often something was unsynced then. Never is a sync that nobody needs.
    pub needed: u64,
    /// How often the sync was a lie.
    pub lies: u64,
}

pub(crate) type Lie = Arc<dyn Fn(&SyncSite) -> bool + Send + Sync>;

#[derive(Default)]
pub(crate) struct Sites {
    pub(crate) lie: Option<Lie>,
    seen: BTreeMap<SyncSite, (u64, u64, u64)>,
}

impl fmt::Debug for Sites {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.seen.fmt(formatter)
    }
}

impl Sites {
    /// Counts a sync; true if it is to be a lie.
    pub(crate) fn seen(&mut self, site: SyncSite, unsynced: bool) -> bool {
        let lied = self.lie.as_ref().is_some_and(|lie| lie(&site));
        let (calls, needed, lies) = self.seen.entry(site).or_default();
        *calls += 1;
        *needed += u64::from(unsynced);
        *lies += u64::from(lied);
        lied
    }

    pub(crate) fn list(&self) -> Vec<SeenSite> {
        let mut merged: BTreeMap<SyncSite, (u64, u64, u64)> = BTreeMap::new();
        for (site, (calls, needed, lies)) in &self.seen {
            let sum = merged.entry(SyncSite { path: pattern(&site.path), ..site.clone() }).or_default();
            *sum = (sum.0 + calls, sum.1 + needed, sum.2 + lies);
        }
        merged
            .into_iter()
            .map(|(site, (calls, needed, lies))| SeenSite { site, calls, needed, lies })
            .collect()
    }
}

/// The path with every word of digits, or of eight and more hexadecimal digits, as `*`.
fn pattern(path: &Path) -> PathBuf {
    let text = path.to_string_lossy();
    let mut shown = String::new();
    for piece in text.split_inclusive(|letter: char| !letter.is_ascii_alphanumeric()) {
        let word = piece.trim_end_matches(|letter: char| !letter.is_ascii_alphanumeric());
        let number = !word.is_empty() && word.bytes().all(|letter| letter.is_ascii_digit());
        let hexadecimal = word.len() >= 8 && word.bytes().all(|letter| letter.is_ascii_hexdigit());
        if number || hexadecimal {
            shown.push('*');
            shown.push_str(&piece[word.len()..]);
        } else {
            shown.push_str(piece);
        }
    }
    PathBuf::from(shown)
}
