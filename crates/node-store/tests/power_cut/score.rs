//! Would the harness notice a sync that is missing? Each is made a lie in turn, and something must break.
//!
//! The store's own files and folders are synced by several lines of code each, so every call is taken out
//! alone. SQLite's syncs of one file are a few lines that nobody outside can tell apart: they are taken
//! out together, once while the volume is made and once on a volume that stands.
//!
//! What may be missing without a loss is listed with the reason ([`HARMLESS`]); where several syncs stand
//! in for each other, taking out all of them must be noticed.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
};

use sim_disk::{Caller, SimDisk, SyncKind, SyncSite};

use crate::{
    harness::{Broken, Counts, examine, record, workers},
    workload::Workload,
};

/// Syncs that are lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    caller: Caller,
    kind: SyncKind,
    /// Below the volume's folder, which is written `.`.
    path: String,
    which: Which,
}

/// Which calls of those.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Which {
    /// One, from 1, of this workload.
    Call(&'static str, u64),
    /// All, while the volume is made.
    Made,
    /// All, on a volume that stands.
    Standing,
    /// All, in these workloads.
    Along(Vec<&'static str>),
}

const VOLUME: &str = "/var/resultity/testnet";
/// Workloads in which the store syncs what it ever syncs: each call is taken out.
const FILES: [&str; 3] = ["created", "Reseal", "Restart.Accept"];
const MADE: [&str; 1] = ["created"];
/// Workloads in which SQLite syncs what it ever syncs on a volume that stands.
const STANDING: [&str; 8] = [
    "Accept.Erase.Accept",
    "Acknowledge.Erase.Finish",
    "Reserve.Erase.Reserve",
    "Apply.Erase.Confirm",
    "Log.Erase.Log",
    "Log.Seal.Erase",
    "Restart.Accept.Restart",
    "1",
];

/// A sync whose loss alone breaks nothing.
#[derive(Debug)]
pub struct Harmless {
    pub name: &'static str,
    pub why: &'static str,
    /// The syncs that stand in for it: who makes them, and of which folder.
    pub twins: &'static [(Caller, &'static str)],
}

const SQLITE_SYNCS: &str = "SQLite syncs the folder when it first syncs a log in it";
const KEYS_FIRST: &str = "the names are synced twice before the first database is made";
const NEW_LOGS: &str =
    "opening syncs the names of the new logs twice, and SQLite does when it first syncs a log";
const NOTHING_AFTER: &str =
    "nothing is written after this opening; the same calls are judged in Restart.Accept";
const LOCKED: &str = "a bad end may look like one in good order, so a check is skipped: it finds damage, which a power \
                      cut makes none of";
const EVERY_SYNC: &[(Caller, &str)] = &[(Caller::Files, "."), (Caller::Sqlite, ".")];

pub const HARMLESS: [Harmless; 20] = [
    Harmless { name: "store, folder ., call 1 of created", why: KEYS_FIRST, twins: &[(Caller::Files, ".")] },
    Harmless { name: "store, folder ., call 2 of created", why: KEYS_FIRST, twins: &[(Caller::Files, ".")] },
    Harmless {
        name: "store, folder keys, call 3 of created",
        why: KEYS_FIRST,
        twins: &[(Caller::Files, "keys")],
    },
    Harmless {
        name: "store, folder keys, call 4 of created",
        why: KEYS_FIRST,
        twins: &[(Caller::Files, "keys")],
    },
    Harmless {
        name: "store, folder ., call 3 of created",
        why: SQLITE_SYNCS,
        twins: &[(Caller::Sqlite, ".")],
    },
    Harmless {
        name: "store, folder ., call 4 of created",
        why: SQLITE_SYNCS,
        twins: &[(Caller::Sqlite, ".")],
    },
    Harmless { name: "store, folder ., call 5 of created", why: NOTHING_AFTER, twins: &[] },
    Harmless { name: "store, folder ., call 6 of created", why: NOTHING_AFTER, twins: &[] },
    Harmless { name: "store, folder ., call 1 of Reseal", why: NEW_LOGS, twins: EVERY_SYNC },
    Harmless { name: "store, folder ., call 2 of Reseal", why: NEW_LOGS, twins: EVERY_SYNC },
    Harmless { name: "store, folder ., call 1 of Restart.Accept", why: NEW_LOGS, twins: EVERY_SYNC },
    Harmless { name: "store, folder ., call 2 of Restart.Accept", why: NEW_LOGS, twins: EVERY_SYNC },
    Harmless { name: "store, folder ., call 3 of Restart.Accept", why: NEW_LOGS, twins: EVERY_SYNC },
    Harmless { name: "store, folder ., call 4 of Restart.Accept", why: NEW_LOGS, twins: EVERY_SYNC },
    Harmless {
        name: "store, folder keys, call 1 of Reseal",
        why: "the old node key opens too, and the folder is synced again before the old secret is removed",
        twins: &[],
    },
    Harmless { name: "store, file LOCK, call 1 of created", why: LOCKED, twins: &[] },
    Harmless { name: "store, file LOCK, call 2 of created", why: LOCKED, twins: &[] },
    Harmless { name: "store, file LOCK, call 1 of Reseal", why: LOCKED, twins: &[] },
    Harmless { name: "store, file LOCK, call 1 of Restart.Accept", why: LOCKED, twins: &[] },
    Harmless { name: "store, file LOCK, call 2 of Restart.Accept", why: LOCKED, twins: &[] },
];

impl fmt::Display for Removed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let who = match self.caller {
            Caller::Sqlite => "SQLite",
            Caller::Files => "store",
        };
        let what = match self.kind {
            SyncKind::File => "file",
            SyncKind::Dir => "folder",
        };
        write!(out, "{who}, {what} {}, ", self.path)?;
        match self.which {
            Which::Call(workload, nth) => write!(out, "call {nth} of {workload}"),
            Which::Made => out.write_str("as the volume is made"),
            Which::Standing => out.write_str("on a volume that stands"),
            Which::Along(_) => out.write_str("too"),
        }
    }
}

impl Removed {
    fn at(site: &SyncSite, which: Which) -> Self {
        Self { caller: site.caller, kind: site.kind, path: below(site), which }
    }

    /// One that stands in for it, in the same workloads.
    pub fn twin(&self, (caller, folder): (Caller, &str)) -> Self {
        let which = Which::Along(self.workloads().to_vec());
        Self { caller, kind: SyncKind::Dir, path: folder.to_owned(), which }
    }

    fn workloads(&self) -> &[&'static str] {
        match &self.which {
            Which::Call(workload, _) => std::slice::from_ref(workload),
            Which::Made => &MADE,
            Which::Standing => &STANDING,
            Which::Along(workloads) => workloads,
        }
    }

    /// Whether this call of this site is one of those.
    fn is(&self, site: &SyncSite, calls: &AtomicU64) -> bool {
        if (site.caller, site.kind) != (self.caller, self.kind) || below(site) != self.path {
            return false;
        }
        let nth = calls.fetch_add(1, Ordering::Relaxed) + 1;
        match self.which {
            Which::Call(_, only) => nth == only,
            Which::Made | Which::Standing | Which::Along(_) => true,
        }
    }
}

fn below(site: &SyncSite) -> String {
    let path = site.path.to_string_lossy().into_owned();
    match path.strip_prefix(VOLUME) {
        Some("") => ".".to_owned(),
        Some(rest) => rest.trim_start_matches('/').to_owned(),
        None => path,
    }
}

fn parsed(name: &str) -> Workload {
    name.parse().unwrap()
}

/// Every sync that these workloads make while something is unsynced.
pub fn all() -> Vec<Removed> {
    let needed = |workload: &str, caller: Caller| {
        let sites = record(&parsed(workload), |_| ()).disk.sync_sites();
        sites.into_iter().filter(move |seen| seen.needed > 0 && seen.site.caller == caller)
    };
    let mut all = Vec::new();
    for workload in FILES {
        for seen in needed(workload, Caller::Files) {
            all.extend((1..=seen.calls).map(|nth| Removed::at(&seen.site, Which::Call(workload, nth))));
        }
    }
    for (workloads, which) in [(MADE.as_slice(), Which::Made), (STANDING.as_slice(), Which::Standing)] {
        for seen in workloads.iter().flat_map(|workload| needed(workload, Caller::Sqlite)) {
            let removed = Removed::at(&seen.site, which.clone());
            if !all.contains(&removed) {
                all.push(removed);
            }
        }
    }
    all
}

/// Does the workloads again without these syncs; the first promise that was broken, if any.
fn without(removed: &[Removed]) -> (Option<Box<Broken>>, Counts) {
    let mut counts = Counts::default();
    for name in removed.first().map_or(&[][..], Removed::workloads) {
        let lies: Vec<_> = removed.iter().map(|it| (it.clone(), Arc::<AtomicU64>::default())).collect();
        let mut recorded = record(&parsed(name), |disk: &SimDisk| {
            let lies = lies.clone();
            disk.lie_about(move |site| lies.iter().any(|(removed, calls)| removed.is(site, calls)));
        });
        let points = recorded.all_points();
        // Few moments tell, and only few losses show it; what is noticed is noticed soon.
        let drawn = match removed {
            [one] if HARMLESS.iter().any(|harmless| harmless.name == one.to_string()) => 4,
            _ => 64,
        };
        if let Err(broken) = examine(&mut recorded, points, drawn, &mut counts) {
            return (Some(broken), counts);
        }
    }
    (None, counts)
}

/// What came of taking out one group of syncs.
pub struct Outcome {
    pub names: Vec<String>,
    pub broken: Option<Box<Broken>>,
    pub counts: Counts,
}

/// Takes out each group in turn.
pub fn outcomes(groups: &[Vec<Removed>]) -> Vec<Outcome> {
    let (next, outcomes) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..workers() {
            scope.spawn(|| {
                while let Some(group) = groups.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let names = group.iter().map(ToString::to_string).collect();
                    let (broken, counts) = without(group);
                    let mut outcomes = outcomes.lock().unwrap_or_else(PoisonError::into_inner);
                    outcomes.push(Outcome { names, broken, counts });
                }
            });
        }
    });
    let mut outcomes = outcomes.into_inner().unwrap_or_else(PoisonError::into_inner);
    outcomes.sort_by(|one, other| one.names.cmp(&other.names));
    outcomes
}
