//! The checks: each a pure function from the facts to what is to be said of them. One that finds nothing wrong says so.

use std::path::{Path, PathBuf};

use node_store::{
    checkup::Health,
    clock::Trust,
    format::{Database, FormatError},
    keys::{KeyError, Protection, Source},
    models::Standing as Seal,
    private::NotPrivate,
};
use node_types::{
    NodeId,
    config::{ApprovedAgent, NodeConfig},
    models::ModelState,
    protocol::{MESSAGE_TTL_MS, Readiness},
    verify::Validity,
};

use super::{
    Finding, Fix, Verdict,
    facts::{DatabaseSeen, Facts, LeftoverKind, Looked, NetworkSeen, Opening, RuntimeSeen, VolumeSeen},
    names,
};
use crate::{
    VERSION,
    artifacts::TARGET,
    standing::{
        self, Incident, Standing,
        advice::{FREE_BYTES_MIN, FREE_BYTES_SOON},
    },
    update::{self, Advice},
};

/// The fewest files that should still fit: 1000.
const FREE_FILES_MIN: u64 = 1000;
/// How many files a node may have open at the least without trouble: 1024, what most systems give.
const OPEN_FILES_MIN: u64 = 1024;
/// How far the wall clock may lie behind what the volume has known before it is said: 1 minute in milliseconds.
const CLOCK_BEHIND_MS: u64 = 60_000;
/// How far it may be from the network's time before that is said: 10 seconds in milliseconds. The network's answer has
/// whole seconds.
const CLOCK_OFF_MS: u64 = 10_000;
/// What was left behind younger than this may still be at work: 1 day in milliseconds.
const LEFTOVER_MS: u64 = 86_400_000;
/// How long unfinished downloads are kept where no snapshot says it: 1 day in milliseconds.
const PARTIAL_TTL_MS: u64 = 86_400_000;

/// What to do with what is not the node's.
const NOT_OURS: &str = "nothing of the node reads it: move it away, unless it is yours to keep here";

/// A check: its name and what it does.
pub type Check = (&'static str, fn(&Facts) -> Vec<Said>);

/// All checks, in the order in which they are shown: first what the others rest on.
pub const CHECKS: &[Check] = &[
    ("agent", agent),
    ("modes", modes),
    ("space", space),
    ("file-system", file_system),
    ("keys", keys),
    ("databases", databases),
    ("stamps", stamps),
    ("incidents", incidents),
    ("leftovers", leftovers),
    ("clock", clock),
    ("snapshot", snapshot),
    ("account", account),
    ("models", models),
    ("downloads", downloads),
    ("runtime", runtime),
    ("sandbox", sandbox),
    ("network", network),
    ("limits", limits),
    ("version", version),
];

/// The checks of what a node needs to run. One that was moved away runs nowhere here: there is nothing to do for it.
const TO_RUN: [&str; 9] =
    ["snapshot", "account", "models", "downloads", "runtime", "sandbox", "network", "limits", "version"];

/// What a check says, before it has its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    verdict: Verdict,
    found: String,
    cure: Option<String>,
    starts: bool,
    fix: Option<Fix>,
}

fn said(verdict: Verdict, found: impl Into<String>) -> Said {
    Said { verdict, found: found.into(), cure: None, starts: false, fix: None }
}

impl Said {
    fn cure(mut self, cure: impl Into<String>) -> Self {
        self.cure = Some(cure.into());
        self
    }

    /// What to do, which a start of the node does.
    fn start(self, cure: impl Into<String>) -> Self {
        Self { starts: true, ..self.cure(cure) }
    }

    fn fix(mut self, fix: Option<Fix>) -> Self {
        self.fix = fix;
        self
    }
}

fn ok(found: impl Into<String>) -> Vec<Said> {
    vec![said(Verdict::Ok, found)]
}

/// What was said, or that all is well.
fn or_ok(said: Vec<Said>, well: impl Into<String>) -> Vec<Said> {
    if said.is_empty() { ok(well) } else { said }
}

fn unknown(what: &str, why: &str) -> Said {
    said(Verdict::Warning, format!("{what} cannot be looked at: {why}"))
        .cure("run this as the user that the node runs as; where it is that one already, see to the disk")
}

/// Runs every check.
#[must_use]
pub fn examine(facts: &Facts) -> Vec<Finding> {
    let moved = is_moved_away(facts);
    let checked = CHECKS.iter().flat_map(|&(name, check)| {
        let all = if moved && TO_RUN.contains(&name) {
            vec![said(Verdict::Note, "not looked at, because the node was moved away")]
        } else {
            check(facts)
        };
        all.into_iter().map(move |said| named(name, said))
    });
    checked.collect()
}

fn named(name: &'static str, said: Said) -> Finding {
    let Said { verdict, found, cure, starts, fix } = said;
    Finding { name, verdict, found, cure, starts, fix }
}

fn is_moved_away(facts: &Facts) -> bool {
    matches!(facts.volume, Ok(VolumeSeen { moved: Ok(Some(_)), .. }))
}

/// Whether nothing that was found keeps a start from opening the keys.
const fn may_open(facts: &Facts) -> bool {
    let keys = &facts.keys;
    let there = matches!((&keys.node, &keys.volume), (Ok(Some(_)), Ok(Some(_))));
    there && !matches!(keys.opening, Opening::Failed(_))
}

/// Mebibytes, rounded down.
const fn mib(bytes: u64) -> u64 {
    bytes >> 20
}

fn agent(facts: &Facts) -> Vec<Said> {
    if let Ok(VolumeSeen { moved: Ok(Some((at, archive))), .. }) = &facts.volume {
        let text = format!("the node was moved away from here at {at}, into {archive}: no Agent starts here");
        return vec![said(Verdict::Error, text).cure(
            "go on where that file was taken in; only if it was never used: `resultity-node move undo --file-was-not-used`",
        )];
    }
    match &facts.holder {
        Ok(Some(pid)) => {
            let runs = format!("process {pid} runs the node");
            let says = facts.standing.as_ref().and_then(|standing| says_of_itself(&runs, standing));
            says.map_or_else(|| ok(runs), |said| vec![said])
        }
        Ok(None) => {
            let stopped = said(Verdict::Note, "no Agent runs");
            // What is said of the keys comes first.
            let starts = may_open(facts);
            vec![if starts { stopped.start("start the node: `resultity-node run`") } else { stopped }]
        }
        Err(why) => vec![unknown("the volume's lock", why)],
    }
}

/// What is wrong with a node that runs may be seen by nobody else.
fn says_of_itself(runs: &str, standing: &Standing) -> Option<Said> {
    let verdict = match standing.health {
        standing::Health::Well | standing::Health::Stopped => return None,
        // It works, and somebody may have to see to something.
        standing::Health::Attention if standing.agent.readiness == Some(Readiness::Active) => Verdict::Note,
        standing::Health::Attention => Verdict::Warning,
        standing::Health::Failing => Verdict::Error,
    };
    // It may advise to call the doctor.
    let cure = standing.next.iter().find(|text| !text.contains(" doctor"))?;
    let text = format!("{runs}, and says of itself: {}", standing.health.name());
    Some(said(verdict, text).cure(cure))
}

fn modes(facts: &Facts) -> Vec<Said> {
    let mut all: Vec<Said> =
        facts.places.iter().filter_map(|place| not_private(facts, place.looked.as_ref().err()?)).collect();
    match &facts.home {
        Ok(home) if home.uid != facts.uid && home.uid != 0 => {
            let text = format!(
                "{} belongs to user {}, who can put another volume there",
                home.path.display(),
                home.uid
            );
            all.push(said(Verdict::Warning, text).cure("choose a --home that only you or root can write to"));
        }
        // The sticky bit keeps others from renaming what is not theirs.
        Ok(home) if home.mode & 0o022 != 0 && home.mode & 0o1000 == 0 => {
            let (path, from) = (home.path.clone(), home.mode & 0o7777);
            let to = from & !0o022;
            let text = format!("{} has mode {from:04o}: others can put another volume there", path.display());
            let cure = format!("chmod {to:o} {}", path.display());
            let fix = (home.uid == facts.uid).then_some(Fix::Mode { path, from, to });
            all.push(said(Verdict::Warning, text).cure(cure).fix(fix));
        }
        Ok(_) => {}
        Err(why) => all.push(unknown("the home folder", why)),
    }
    let looked = facts.places.iter().filter(|place| matches!(place.looked, Ok(true))).count();
    or_ok(all, format!("{looked} files and folders belong to user {} and to nobody else", facts.uid))
}

fn not_private(facts: &Facts, why: &NotPrivate) -> Option<Said> {
    let shown = |path: &Path| path.display().to_string();
    Some(match why {
        // What must be there is another check's affair.
        NotPrivate::Missing { .. } => return None,
        NotPrivate::TooOpen { path, found, wanted } => {
            let (from, to) = (found & 0o7777, found & !0o777 & 0o7777 | found & wanted);
            said(Verdict::Error, format!("{} has mode {from:04o}: others have access to it", shown(path)))
                .cure(format!("chmod {to:o} {}", shown(path)))
                .fix(Some(Fix::Mode { path: path.clone(), from, to }))
        }
        NotPrivate::ForeignOwner { path, found, ours } => {
            let text = format!("{} belongs to user {found}, this is user {ours}", shown(path));
            // Given to root, the file would be lost to the node's own user.
            let cure = match ours {
                0 => format!("run this as user {found}, or set --home to the home of root's own node"),
                _ => format!("run this as user {found}, or as root: chown {ours} {}", shown(path)),
            };
            said(Verdict::Error, text).cure(cure)
        }
        NotPrivate::Link { path } => {
            let cure = match names::leftover(&facts.folder, path) {
                None | Some(LeftoverKind::Damaged | LeftoverKind::OldFormat) => {
                    "put the file itself there; to keep the whole home elsewhere set --home"
                }
                Some(LeftoverKind::Temporary | LeftoverKind::Unknown | LeftoverKind::Foreign) => {
                    "remove the link: it is nothing of the node's, and what it leads to stays"
                }
            };
            said(Verdict::Error, format!("{} is a symbolic link, which is never followed here", shown(path)))
                .cure(cure)
        }
        NotPrivate::NotAFile { path } => {
            said(Verdict::Error, format!("{} is not a regular file", shown(path))).cure("move it away")
        }
        NotPrivate::NotAFolder { path } => {
            said(Verdict::Error, format!("{} is not a folder", shown(path))).cure("move it away")
        }
        NotPrivate::Look { path, source } => {
            said(Verdict::Error, format!("{} cannot be looked at: {source}", shown(path)))
                .cure(format!("run this as the user that the node runs as, not as user {}", facts.uid))
        }
    })
}

fn space(facts: &Facts) -> Vec<Said> {
    let space = match &facts.space {
        Ok(space) => space,
        Err(why) => return vec![unknown("the room on the disk", why)],
    };
    let mut all = Vec::new();
    let (free, missing) = (space.free_bytes, missing_bytes(facts));
    let room = format!("{} MiB are free", mib(free));
    let cure = "free some room on this disk, or move the home to a larger one";
    if free < FREE_BYTES_MIN {
        let text = format!("{room}: under {} MiB no new job is taken", mib(FREE_BYTES_MIN));
        all.push(said(Verdict::Error, text).cure(cure));
    } else if free < FREE_BYTES_SOON {
        let text = format!("{room}: under {} MiB no new job is taken", mib(FREE_BYTES_MIN));
        all.push(said(Verdict::Warning, text).cure(cure));
    }
    if missing > free {
        let text = format!("{room}, and {} MiB of models are still to come", mib(missing));
        all.push(said(Verdict::Warning, text).cure(cure));
    }
    if let Some(files) = space.free_files.filter(|files| *files < FREE_FILES_MIN) {
        let verdict = if files < 10 { Verdict::Error } else { Verdict::Warning };
        let text = format!("only {files} more files fit on this file system (its inodes are used up)");
        all.push(said(verdict, text).cure("delete small files on it that nobody needs, or move the home"));
    }
    or_ok(all, room)
}

/// Bytes of the listed models that are not here.
fn missing_bytes(facts: &Facts) -> u64 {
    if is_moved_away(facts) {
        return 0;
    }
    let files = facts.volume.as_ref().ok().and_then(|volume| volume.files.as_ref().ok());
    let missing = files.into_iter().flatten().filter(|file| file.standing == Seal::Missing);
    let partials = facts.volume.as_ref().ok().and_then(|volume| volume.partials.as_ref().ok());
    // A partial file has its full length from the start, though not all of it is on the disk.
    let received = partials.into_iter().flatten().fold(0_u64, |sum, file| sum.saturating_add(file.received));
    missing.fold(0_u64, |sum, file| sum.saturating_add(file.bytes)).saturating_sub(received)
}

/// Whether the file system of the volume takes no writes at all.
fn is_read_only(facts: &Facts) -> bool {
    facts.space.as_ref().is_ok_and(|space| space.read_only)
}

fn file_system(facts: &Facts) -> Vec<Said> {
    if is_read_only(facts) {
        let text = format!("{} is on a read-only file system: no node can run there", facts.folder.display());
        return vec![said(Verdict::Error, text).cure(
            "see why: the system makes a disk with errors read-only (`dmesg`), then check that disk; else mount it for writing, \
             in a container without `:ro`",
        )];
    }
    match facts.file_system {
        Ok(kind) if kind.is_volatile() => vec![
            said(Verdict::Warning, format!("the volume is on {kind}: all of it, the key too, is gone when the machine stops"))
                .cure("move the home to a disk"),
        ],
        Ok(kind) if !kind.is_trusted() => vec![
            said(
                Verdict::Warning,
                format!(
                    "the volume is on {kind}: locks and write-ahead logs may not hold there, and models are read again at \
                     every start"
                ),
            )
            .cure("move the home to a local ext4, xfs, btrfs or f2fs; in a container mount a volume there"),
        ],
        Ok(kind) => ok(format!("the volume is on {kind}")),
        Err(ref why) => vec![unknown("the file system", why)],
    }
}

fn keys(facts: &Facts) -> Vec<Said> {
    let keys = &facts.keys;
    let mut all = Vec::new();
    let restore = "put it back from your backup; without it this volume cannot be opened, and a new one would be another node";
    match &keys.node {
        Ok(None) => all.push(said(Verdict::Error, "keys/node.key is missing").cure(restore)),
        Err(why) => all.push(key_error(facts, why)),
        Ok(Some(_)) => {}
    }
    match &keys.volume {
        Ok(None) => all.push(said(Verdict::Error, "keys/volume.key is missing").cure(restore)),
        // Both are read in the same way: what is wrong with both is said once.
        Err(_) if keys.node.is_err() => {}
        Err(why) => all.push(key_error(facts, why)),
        Ok(Some(_)) => {}
    }
    if !all.is_empty() {
        return all;
    }
    let mut all = opening(facts);
    if let (Some(file), Opening::Opened(_) | Opening::NotTried(_)) = (&keys.missing_file, &keys.opening) {
        let text = format!(
            "keys.passphrase_file is {}, and there is no such file; the keys are sealed under something else",
            file.display()
        );
        all.push(said(Verdict::Warning, text).cure("take it out of the settings, or name the right file"));
    }
    all
}

fn opening(facts: &Facts) -> Vec<Said> {
    match &facts.keys.opening {
        Opening::Failed(why) => vec![key_error(facts, why)],
        Opening::NotTried(why) => vec![said(Verdict::Note, format!("the keys were not opened: {why}"))],
        Opening::Opened(Protection::ObfuscationOnly) => vec![
            said(
                Verdict::Note,
                "the keys open; they are sealed under a file beside them, which is obfuscation only: whoever copies the \
                 folder has the key",
            )
            .cure("seal them under a passphrase: `resultity-node key reseal --to-passphrase`"),
        ],
        Opening::Opened(how @ (Protection::Systemd | Protection::ContainerSecret | Protection::Passphrase)) => {
            ok(format!("the keys open ({how}), and belong to the address that they name"))
        }
    }
}

fn key_error(facts: &Facts, why: &KeyError) -> Said {
    if let KeyError::NotPrivate(refused) = why
        && !refused.path().starts_with(&facts.folder)
        && let Some(told) = not_private(facts, refused)
    {
        // A mending touches nothing outside of the volume.
        return told.fix(None);
    }
    let cure = match why {
        KeyError::NoFile { .. } => "make that file, or take it out of the settings",
        KeyError::KekMissing { kek: Source::LocalFile, .. } => {
            "put keys/local.kek back from your backup; without it what is sealed under it cannot be opened"
        }
        KeyError::CannotOpen { kek: Source::LocalFile, .. } => {
            "put keys/local.kek and the keys back, all from the same backup"
        }
        KeyError::SecretTooShort { path, .. } if path.starts_with(&facts.folder) => {
            "put the file back from your backup"
        }
        KeyError::KekMissing {
            kek: Source::SystemdCredential | Source::ContainerSecret | Source::Passphrase,
            ..
        }
        | KeyError::CannotOpen {
            kek: Source::SystemdCredential | Source::ContainerSecret | Source::Passphrase,
            ..
        }
        | KeyError::SecretTooShort { .. }
        | KeyError::EmptyPassphrase { .. }
        | KeyError::PassphrasesDiffer
        | KeyError::Prompt { .. } => {
            "give what the key is sealed under: keys.passphrase_file or keys.secret_file, by flag, variable or file"
        }
        KeyError::NotPrivate { .. } => "`resultity-node doctor --fix` sets modes; an owner is set by chown",
        KeyError::TooNew { .. } => "install the newer release again",
        KeyError::OtherNetwork { .. } => "give the right --network, or put back the file of this one",
        KeyError::Read { .. }
        | KeyError::Write { .. }
        | KeyError::AlreadyExists { .. }
        | KeyError::Damaged { .. }
        | KeyError::OtherKind { .. }
        | KeyError::OtherNode { .. }
        | KeyError::OtherVolume { .. }
        | KeyError::AddressMismatch { .. }
        | KeyError::KdfLimits { .. }
        | KeyError::NotAKey => "put the file back from your backup",
        KeyError::Random(_) | KeyError::NoMemory { .. } | KeyError::Cipher => {
            "free some memory on this machine and try again"
        }
    };
    said(Verdict::Error, crate::journal::causes(why)).cure(cure)
}

fn databases(facts: &Facts) -> Vec<Said> {
    let mut all = Vec::new();
    let mut whole = Vec::new();
    for seen in &facts.databases {
        let name = seen.database.file();
        match &seen.looked {
            Looked::Missing => {
                let (verdict, cure) = match seen.database {
                    Database::State | Database::Jobs => (
                        Verdict::Error,
                        "restore a backup of the whole node if you have one (`resultity-node backup restore <FILE>`); else start the node: it makes a new one and reports the loss",
                    ),
                    Database::Logs => {
                        (Verdict::Warning, "start the node: it makes a new one and reports the loss")
                    }
                };
                all.push(said(verdict, format!("{name} is missing or empty")).start(cure));
            }
            Looked::Seen(checkup) => match &checkup.health {
                Health::Whole => whole.push(format!("{name} {} KiB", checkup.bytes >> 10)),
                Health::Damaged(what) => all.push(damaged(facts, seen, what)),
                Health::Unfinished => all.push(
                    said(
                        Verdict::Note,
                        format!("{name} has {} MiB: not all of it was read", mib(checkup.bytes)),
                    )
                    .cure("read all of it: `resultity-node doctor --deep`"),
                ),
            },
            Looked::NotOurs => {
                let cure = "set the modes right first: `resultity-node doctor --fix`";
                all.push(
                    said(Verdict::Note, format!("{name} was not opened: it is not this user's alone"))
                        .cure(cure),
                );
            }
            Looked::Unknown(FormatError::Damaged { cause, .. }) => {
                all.push(damaged(facts, seen, cause));
            }
            Looked::Unknown(why @ FormatError::TooOld { .. }) => {
                all.push(said(Verdict::Note, why.to_string()).start("start the node: `resultity-node run`"));
            }
            Looked::Unknown(why @ FormatError::TooNew { .. }) => {
                let cure = "install the newer release again; docs/troubleshooting.md has the way back";
                all.push(said(Verdict::Error, why.to_string()).cure(cure));
            }
            // What SQLite makes beside a database to read it cannot be made: that says nothing of the database.
            Looked::Unknown(_) if is_read_only(facts) => {
                all.push(said(
                    Verdict::Note,
                    format!("{name} was not opened: nothing can be written beside it"),
                ));
            }
            Looked::Unknown(why) => {
                let cure = "see that the disk works and that this is the file of this node";
                all.push(said(Verdict::Error, crate::journal::causes(why)).cure(cure));
            }
        }
    }
    or_ok(all, format!("all are whole: {}", whole.join(", ")))
}

/// A start reads all of a database only where the last end was a bad one, or where it was told to.
fn damaged(facts: &Facts, seen: &DatabaseSeen, what: &str) -> Said {
    let name = seen.database.file();
    let damaged = said(Verdict::Error, format!("{name} is damaged: {what}"));
    if seen.suspect {
        return damaged.start(
            "check the disk, then start the node: it moves the file aside, saves what can be read and reports the loss; \
             delete nothing",
        );
    }
    let fix = Fix::Suspect { path: facts.folder.join(name), cause: what.to_owned() };
    damaged
        .cure(
            "check the disk, then `resultity-node doctor --fix` and start the node: it moves the file aside, saves what can be \
             read and reports the loss; delete nothing",
        )
        .fix(Some(fix))
}

fn stamps(facts: &Facts) -> Vec<Said> {
    let mut all = Vec::new();
    let back = "put back the files of one node, all from the same backup";
    let stamps: Vec<_> = facts
        .databases
        .iter()
        .filter_map(|seen| Some((seen.database.file(), seen.checkup()?.stamp)))
        .collect();
    let node = match &facts.keys.node {
        Ok(Some((address, _))) => Some(NodeId::derive(facts.network, address)),
        Ok(None) | Err(_) => None,
    };
    let volume = facts.keys.volume.as_ref().ok().copied().flatten();
    for (name, stamp) in &stamps {
        if stamp.network != facts.network {
            let text = format!("{name} belongs to {}, this node runs on {}", stamp.network, facts.network);
            all.push(
                said(Verdict::Error, text)
                    .cure(format!("open it with --network {}, or {back}", stamp.network)),
            );
        } else if let Some(node) = node.filter(|node| *node != stamp.node) {
            let text = format!("{name} belongs to {}, the key here is that of {node}", stamp.node);
            all.push(said(Verdict::Error, text).cure(back));
        } else if let Some(volume) = volume.filter(|volume| *volume != stamp.volume) {
            let text = format!("{name} belongs to volume {}, the key here is that of {volume}", stamp.volume);
            all.push(said(Verdict::Error, text).cure(back));
        }
    }
    // Without a key the files can still be compared with each other.
    if let Some(((first, wanted), others)) = stamps.split_first()
        && all.is_empty()
    {
        for (name, stamp) in others.iter().filter(|(_, stamp)| stamp != wanted) {
            let text = format!(
                "{name} and {first} belong to different volumes: {} and {}",
                stamp.volume, wanted.volume
            );
            all.push(said(Verdict::Error, text).cure(back));
        }
    }
    if stamps.is_empty() && all.is_empty() {
        return vec![said(Verdict::Note, "no database says whose it is")];
    }
    let who = node.map_or_else(String::new, |node| format!(", as the key: {node}"));
    or_ok(all, format!("{} databases belong to one node on {}{who}", stamps.len(), facts.network))
}

/// What is seen in the volume, or nothing where that is another check's error.
fn seen(facts: &Facts) -> Result<&VolumeSeen, Vec<Said>> {
    facts.volume.as_ref().map_err(|why| {
        if is_read_only(facts) {
            return vec![said(Verdict::Note, "not looked at, because the file system is read-only")];
        }
        let text = format!("not looked at, because the volume cannot be: {why}");
        vec![said(Verdict::Note, text)]
    })
}

fn incidents(facts: &Facts) -> Vec<Said> {
    let volume = match seen(facts) {
        Ok(volume) => volume,
        Err(said) => return said,
    };
    let incidents = match &volume.incidents {
        Ok(incidents) => incidents,
        Err(_) if is_read_only(facts) => {
            return vec![said(Verdict::Note, "not looked at, because the file system is read-only")];
        }
        Err(why) => return vec![unknown("what was lost", why)],
    };
    let told = incidents.iter().map(|incident| {
        let text = Incident::from(incident.clone()).to_string();
        if incident.reported {
            return said(Verdict::Note, text).cure("look at the disk's health, and make a backup");
        }
        said(Verdict::Warning, text)
            .cure("check the disk; the node reports this to the network when it runs, and then it is done")
    });
    or_ok(told.collect(), "no database was damaged or missing lately")
}

fn leftovers(facts: &Facts) -> Vec<Said> {
    let leftovers = match &facts.leftovers {
        Ok(leftovers) => leftovers,
        Err(why) => return vec![unknown("what lies about", why)],
    };
    let told = leftovers.iter().filter_map(|leftover| {
        let path = leftover.path.display();
        let Some(bytes) = leftover.bytes else {
            return Some(said(Verdict::Note, format!("{path} is no folder of the node's")).cure(NOT_OURS));
        };
        let size = format!("{} KiB", bytes >> 10);
        let aside = || Some(Fix::Aside { path: leftover.path.clone(), bytes });
        Some(match leftover.kind {
            // It holds keys of jobs.
            LeftoverKind::Damaged if is_of_jobs(&leftover.path) => said(
                Verdict::Note,
                format!("{path} ({size}) is a damaged database that was moved aside"),
            )
            .cure("copy it if you want to keep it: the start after the network was told removes it, since it holds keys of jobs"),
            LeftoverKind::Damaged => said(
                Verdict::Note,
                format!("{path} ({size}) is a damaged database that was moved aside"),
            )
            .cure("keep it until you know that nothing of it is missed; it is no part of the node any more"),
            LeftoverKind::OldFormat => {
                said(Verdict::Note, format!("{path} ({size}) is a database as it was before an upgrade"))
                    .cure("leave it: the node removes it once the new release has run in good order")
            }
            // What is younger may be at work.
            LeftoverKind::Temporary if leftover.age_ms < LEFTOVER_MS => return None,
            LeftoverKind::Temporary => said(Verdict::Note, format!("{path} ({size}) was never finished"))
                .cure("`resultity-node doctor --fix` moves it aside")
                .fix(aside()),
            LeftoverKind::Unknown if leftover.age_ms >= LEFTOVER_MS => {
                said(Verdict::Note, format!("{path} ({size}) is no file of the node's"))
                    .cure("`resultity-node doctor --fix` moves it aside")
                    .fix(aside())
            }
            // It may be the operator's, and not all here yet.
            LeftoverKind::Unknown | LeftoverKind::Foreign => {
                said(Verdict::Note, format!("{path} ({size}) is no file of the node's")).cure(NOT_OURS)
            }
        })
    });
    let mut all: Vec<Said> = told.collect();
    match &facts.abandoned {
        Ok(folders) => all.extend(folders.iter().map(|folder| left_by_a_copy(folder))),
        Err(why) => all.push(unknown("what lies about in the home", why)),
    }
    or_ok(all, "nothing lies about")
}

/// Whether it is what was the database of the jobs.
fn is_of_jobs(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(Database::Jobs.file().as_bytes()))
}

fn left_by_a_copy(folder: &Path) -> Said {
    let text = format!(
        "{} was left by a backup or restore that was killed: databases and sealed keys may stand in it",
        folder.display()
    );
    said(Verdict::Warning, text).cure(
        "the next `resultity-node backup restore <FILE>` or `resultity-node backup create` removes it, whatever else comes \
         of it",
    )
}

/// What is to be said of such folders in a home without a node.
#[must_use]
pub fn of_abandoned(folders: &[PathBuf]) -> Vec<Finding> {
    folders.iter().map(|folder| named("leftovers", left_by_a_copy(folder))).collect()
}

fn clock(facts: &Facts) -> Vec<Said> {
    let clock = match &facts.clock {
        Ok(clock) => clock,
        Err(why) => return vec![unknown("the clock", why)],
    };
    let mut all = Vec::new();
    let right = "set the clock right and keep it so (timedatectl set-ntp true)";
    let wall = clock.reading.wall;
    if let Some(known) = &clock.known {
        if let Trust::Held { ahead_ms } = known.trust {
            let text = format!(
                "the clock jumped {} h ahead: nothing is ended by time until the network confirms it",
                ahead_ms / 3_600_000
            );
            all.push(
                said(Verdict::Warning, text).cure(format!("{right}, then run the node: it asks the network")),
            );
        }
        if known.now.since_ms(wall) > CLOCK_BEHIND_MS {
            let text = format!("the clock says {wall}, and the node has known {} already", known.now);
            all.push(said(Verdict::Error, text).cure(right));
        }
    }
    if let NetworkSeen::Answers { time: Some((network, ours)), .. } = &facts.answers {
        let off_ms = network.since_ms(*ours).max(ours.since_ms(*network));
        if off_ms > CLOCK_OFF_MS {
            let verdict = if off_ms >= MESSAGE_TTL_MS { Verdict::Error } else { Verdict::Warning };
            let text = format!(
                "the clock is {} s off the network's: from {} s on, messages are refused",
                off_ms / 1000,
                MESSAGE_TTL_MS / 1000
            );
            all.push(said(verdict, text).cure(right));
        }
    }
    let by = match &facts.answers {
        NetworkSeen::Answers { time: Some(_), .. } => "the volume and the network agree",
        NetworkSeen::Answers { time: None, .. } | NetworkSeen::NotSet | NetworkSeen::Silent { .. } => {
            "the volume agrees; the network was not asked"
        }
    };
    or_ok(all, format!("{wall}; {by}"))
}

fn snapshot(facts: &Facts) -> Vec<Said> {
    let volume = match seen(facts) {
        Ok(volume) => volume,
        Err(said) => return said,
    };
    let mut all: Vec<Said> = volume
        .unverifiable
        .iter()
        .map(|(digest, why)| {
            said(Verdict::Warning, format!("the stored document {digest} cannot be verified any more: {why}"))
                .cure("run the node: it does not use it, and fetches it again")
        })
        .collect();
    let reach = "see that the node runs and reaches its network: `resultity-node logs --kind network`";
    let well = match &volume.snapshot {
        Err(why) => {
            all.push(said(Verdict::Error, format!("the stored snapshots cannot be read: {why}")).cure(reach));
            String::new()
        }
        Ok(None) => {
            let pinned = if volume.pinned { "" } else { ", and no keyset is pinned" };
            all.push(
                said(Verdict::Note, format!("there is no snapshot yet{pinned}"))
                    .cure("it comes from the network when the node runs: `resultity-node run`"),
            );
            String::new()
        }
        Ok(Some(snapshot)) => {
            let version = snapshot.config.version;
            match snapshot.validity {
                Validity::Fresh | Validity::RefreshDue => {}
                Validity::Stale { until } => {
                    let text =
                        format!("snapshot {version} is past its time; it stays in force until {until}");
                    all.push(said(Verdict::Warning, text).cure(reach));
                }
                Validity::OutOfForce => {
                    let text = format!("snapshot {version} is out of force: no job is taken under it");
                    all.push(said(Verdict::Error, text).cure(reach));
                }
            }
            format!("snapshot {version} and its keyset verify; {}", snapshot.digest)
        }
    };
    or_ok(all, well)
}

fn account(facts: &Facts) -> Vec<Said> {
    match seen(facts).map(|volume| &volume.account) {
        Ok(Ok(true)) => ok("the node is linked to an account"),
        Ok(Ok(false)) => vec![
            said(Verdict::Note, "the node is linked to no account")
                .cure("link it if you want to: `resultity-node account link --wallet <ADDRESS>`"),
        ],
        Ok(Err(why)) => vec![unknown("the account", why)],
        Err(said) => said,
    }
}

fn models(facts: &Facts) -> Vec<Said> {
    let volume = match seen(facts) {
        Ok(volume) => volume,
        Err(said) => return said,
    };
    let mut all = Vec::new();
    let fetch = "the Agent fetches it when it runs; to do it now: `resultity-node models install`";
    let files = match &volume.files {
        Ok(files) => files,
        Err(why) => return vec![unknown("the models", why)],
    };
    for file in files {
        match &file.standing {
            Seal::Sealed => {}
            Seal::Missing => {
                all.push(said(Verdict::Warning, format!("{} is not here", file.name)).cure(fetch));
            }
            Seal::Unknown => {
                let text = format!("{} is here, and nobody has verified it", file.name);
                all.push(said(Verdict::Warning, text).cure(fetch));
            }
            Seal::Broken(why) => {
                let text = format!("{} was changed since it was verified: {why}", file.name);
                let cure = "the Agent repairs it when it runs; `resultity-node drift check` says which pieces differ";
                all.push(said(Verdict::Error, text).cure(cure));
            }
            Seal::Untrusted { why, .. } => {
                let text = format!("{} cannot be trusted without reading it: {why}", file.name);
                all.push(said(Verdict::Note, text).cure("read it now: `resultity-node doctor --deep`"));
            }
        }
    }
    match &volume.models {
        Ok(unwell) => {
            for (name, state, reason) in unwell.iter().filter(|(_, state, _)| *state == ModelState::Failed) {
                let because = reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
                let text = format!("{name} is {state}{because}");
                all.push(
                    said(Verdict::Error, text)
                        .cure("see `resultity-node logs --kind model`; the Agent tries again"),
                );
            }
        }
        Err(why) => all.push(unknown("the models", why)),
    }
    let read = match &volume.deep {
        None => "by their seals",
        Some(Err(why)) => {
            let cure =
                "run this as the user that the node runs as; `resultity-node logs --kind model` says more";
            all.push(said(Verdict::Warning, format!("not all could be read: {why}")).cure(cure));
            ""
        }
        Some(Ok(findings)) => {
            for finding in findings.iter().filter(|finding| finding.is_drift()) {
                let text = format!("{} is {}: it was read", finding.id, finding.state);
                all.push(
                    said(Verdict::Error, text).cure(
                        "`resultity-node drift check --deep` says which pieces; the Agent repairs models",
                    ),
                );
            }
            "all of them were read"
        }
    };
    let count = files.len();
    or_ok(
        all,
        match count {
            0 => "the node keeps no models".to_owned(),
            1 => format!("1 file is whole, {read}"),
            count => format!("{count} files are whole, {read}"),
        },
    )
}

fn downloads(facts: &Facts) -> Vec<Said> {
    let volume = match seen(facts) {
        Ok(volume) => volume,
        Err(said) => return said,
    };
    let now = match &facts.clock {
        Ok(clock) => clock.known.as_ref().map_or(clock.reading.wall, |known| known.now),
        Err(why) => return vec![unknown("the clock", why)],
    };
    let config = volume.snapshot.as_ref().ok().and_then(Option::as_ref).map(|snapshot| &snapshot.config);
    let ttl_ms = config.map_or(PARTIAL_TTL_MS, |config| config.timings.partial_file_ttl_ms);
    let mut all = Vec::new();
    let move_aside = "`resultity-node doctor --fix` moves it aside; a running Agent removes it by itself";
    match &volume.partials {
        Ok(partials) => {
            for partial in partials {
                let path = volume.partial_folder.join(partial.sha256.hex());
                let text =
                    format!("{}: {} of {} MiB", path.display(), mib(partial.received), mib(partial.bytes));
                if partial.touched_at.plus_ms(ttl_ms) <= now {
                    let fix = Fix::Aside { path, bytes: partial.bytes };
                    let text = format!("{text}, nothing of it came since {}", partial.touched_at);
                    all.push(said(Verdict::Note, text).cure(move_aside).fix(Some(fix)));
                } else {
                    all.push(said(Verdict::Note, text).cure("let the Agent go on with it"));
                }
            }
        }
        Err(why) => all.push(unknown("unfinished downloads", why)),
    }
    match &volume.quarantined {
        Ok(quarantined) => {
            for file in quarantined {
                let text = format!(
                    "{} ({} MiB) was found damaged at {}",
                    file.path.display(),
                    mib(file.bytes),
                    file.at
                );
                let fix = (file.at.plus_ms(ttl_ms) <= now)
                    .then(|| Fix::Aside { path: file.path.clone(), bytes: file.bytes });
                all.push(said(Verdict::Note, text).cure(move_aside).fix(fix));
            }
        }
        Err(why) => all.push(unknown("quarantined files", why)),
    }
    or_ok(all, "no unfinished or quarantined file")
}

fn runtime(facts: &Facts) -> Vec<Said> {
    let runs = matches!(facts.holder, Ok(Some(_)));
    match &facts.runtime {
        RuntimeSeen::Unknown => match in_force(facts) {
            Ok(_) => vec![said(Verdict::Note, "no snapshot says yet what runs the models")],
            Err(said) => said,
        },
        RuntimeSeen::External { url: None, .. } if runs => {
            vec![set_for_the_agent("the server that runs the models", "runtime.url", "--runtime-url")]
        }
        RuntimeSeen::External { url: None, .. } => vec![
            said(Verdict::Error, "the snapshot wants a server of yours, and runtime.url is not set")
                .cure("set runtime.url to its address, as in http://127.0.0.1:8080"),
        ],
        RuntimeSeen::External { url: Some(url), health: Ok(()) } => ok(format!("{url} answers")),
        RuntimeSeen::External { url: Some(_), health: Err(why) } => vec![
            said(Verdict::Error, why.clone())
                .cure("start that server, or set runtime.url and runtime.api_key_file right"),
        ],
        RuntimeSeen::Process { program: None } if runs => {
            vec![set_for_the_agent("the program that runs the models", "runtime.folder", "--runtime-folder")]
        }
        RuntimeSeen::Process { program: None } => vec![
            said(
                Verdict::Error,
                "the snapshot wants a program that the Agent starts, and runtime.folder is not set",
            )
            .cure("set runtime.folder to the folder in which it stands"),
        ],
        RuntimeSeen::Process { program: Some(program) } => {
            let path = program.path.display();
            let install = "install the approved one there; docs/install.md says how";
            match &program.found {
                Err(why) => vec![said(Verdict::Error, format!("{path} cannot be read: {why}")).cure(install)],
                Ok(None) => vec![said(Verdict::Error, format!("there is no {path}")).cure(install)],
                Ok(Some(_)) if !program.executable => {
                    vec![
                        said(Verdict::Error, format!("{path} is not executable"))
                            .cure(format!("chmod +x {path}")),
                    ]
                }
                Ok(Some(found)) if *found != program.expected => {
                    let text =
                        format!("{path} is {found}, approved is {}: it is not started", program.expected);
                    vec![said(Verdict::Error, text).cure(install)]
                }
                Ok(Some(_)) => ok(format!("{path} is the approved program")),
            }
        }
        RuntimeSeen::Container { image, here: Ok(true), .. } => {
            ok(format!("the container engine answers and has {image}"))
        }
        RuntimeSeen::Container { image, here: Ok(false), archive: Some(archive), .. } => vec![said(
            Verdict::Note,
            format!("{image} is not in the engine; the Agent loads it from {}", archive.display()),
        )],
        RuntimeSeen::Container { image, here: Ok(false), archive: None, .. } => vec![
            said(Verdict::Note, format!("{image} is not in the engine: the Agent pulls it"))
                .cure("where it cannot be pulled put its archive into a folder and set runtime.images"),
        ],
        RuntimeSeen::Container { socket, here: Err(why), .. } => {
            vec![
                said(Verdict::Error, why.clone()).cure(format!(
                    "start Docker, let this user use {}, or set runtime.socket",
                    socket.display()
                )),
            ]
        }
    }
}

/// An Agent that runs may have had on its command line what is set nowhere else.
fn set_for_the_agent(what: &str, name: &str, flag: &str) -> Said {
    let text = format!(
        "{what} was not looked at: the Agent that runs has its own settings, and {name} is not set here"
    );
    said(Verdict::Note, text)
        .cure(format!("set {name} in node.toml, or give doctor {flag} as the Agent has it"))
}

fn sandbox(facts: &Facts) -> Vec<Said> {
    let wanted = match (&facts.runtime, in_force(facts)) {
        (RuntimeSeen::Unknown, Err(said)) => return said,
        (RuntimeSeen::Process { .. }, _) => true,
        (RuntimeSeen::Unknown | RuntimeSeen::External { .. } | RuntimeSeen::Container { .. }, _) => false,
    };
    if !wanted {
        return ok("no program of the node's own needs it");
    }
    let probe = &facts.machine.sandbox;
    let mut all = Vec::new();
    if !probe.seccomp {
        all.push(
            said(Verdict::Error, "this kernel filters no system calls (seccomp): no runtime is started")
                .cure("use a kernel with CONFIG_SECCOMP_FILTER"),
        );
    }
    if !probe.namespaces {
        all.push(
            said(Verdict::Error, "root may make no namespaces here (CAP_SYS_ADMIN): no runtime is started")
                .cure("run the node as a user of its own, or give the container this capability"),
        );
    }
    // Below version 4 a runtime can connect anywhere.
    let open = &probe.left_open;
    if !open.is_empty() {
        let all_open = open.contains(&"files");
        let verdict =
            if all_open || open.contains(&"TCP connections") { Verdict::Warning } else { Verdict::Note };
        let cure = if all_open {
            "use a kernel with Landlock (5.13 or newer, with landlock in lsm=), or run the runtime in a container"
        } else {
            "use a newer kernel; with 6.12 nothing is left open"
        };
        let text = format!("this kernel's Landlock cannot refuse the runtime: {}", open.join(", "));
        all.push(said(verdict, text).cure(cure));
    }
    or_ok(all, "Landlock and seccomp keep the runtime apart")
}

fn network(facts: &Facts) -> Vec<Said> {
    match &facts.answers {
        NetworkSeen::NotSet => vec![
            said(Verdict::Note, "network_url is not set, so the network was not asked").cure(
                "set it once in node.toml (network_url = \"https://...\"), or give doctor --network-url",
            ),
        ],
        NetworkSeen::Silent { why, .. } => vec![
            said(Verdict::Error, why.clone())
                .cure("see that the URL is right and that this machine gets there (DNS, firewall, certificate); the node goes on with what it holds meanwhile"),
        ],
        NetworkSeen::Answers { url, stranger: Some(why), .. } => vec![
            said(Verdict::Error, format!("{url} answers with a keyset that is not for {}: {why}", facts.network))
                .cure("set network_url to the address of this network, or choose the right --network"),
        ],
        NetworkSeen::Answers { url, stranger: None, .. } => ok(format!("{url} answers")),
    }
}

fn limits(facts: &Facts) -> Vec<Said> {
    let mut all = Vec::new();
    let machine = &facts.machine;
    if let Some(files) = machine.open_files.filter(|files| *files < OPEN_FILES_MIN) {
        let text = format!("this process may have only {files} files open");
        all.push(
            said(Verdict::Warning, text)
                .cure(format!("raise it: ulimit -n {OPEN_FILES_MIN}, or LimitNOFILE= in its unit")),
        );
    }
    for model in config(facts).into_iter().flat_map(|config| &config.models) {
        if !machine.memory.holds(model.memory_bytes) {
            let text = format!(
                "{} needs {} MiB of memory, more than this machine has",
                model.reference(),
                mib(model.memory_bytes)
            );
            all.push(said(Verdict::Warning, text).cure("use a larger machine for it; the others are served"));
        }
    }
    let memory =
        machine.memory.main.map_or_else(String::new, |bytes| format!("{} MiB of memory, ", mib(bytes)));
    let files = machine.open_files.map_or("any number of".to_owned(), |files| files.to_string());
    or_ok(all, format!("{memory}{files} open files"))
}

fn config(facts: &Facts) -> Option<&NodeConfig> {
    in_force(facts).ok().flatten()
}

/// The configuration in force, or that it could not be looked at.
fn in_force(facts: &Facts) -> Result<Option<&NodeConfig>, Vec<Said>> {
    match &seen(facts)?.snapshot {
        Ok(snapshot) => Ok(snapshot.as_ref().map(|snapshot| &snapshot.config)),
        Err(_) => {
            Err(vec![said(Verdict::Note, "not looked at, because the stored snapshots cannot be read")])
        }
    }
}

fn version(facts: &Facts) -> Vec<Said> {
    let updates = match in_force(facts) {
        Ok(Some(config)) => &config.updates,
        Ok(None) => return ok(format!("{VERSION}; there is no snapshot that approves a release")),
        Err(said) => return said,
    };
    let program = match &facts.program {
        Ok(found) => *found,
        Err(why) => return vec![unknown("this program", why)],
    };
    let text = match update::advise(updates, VERSION, TARGET, Some(program)) {
        Advice::Silent => {
            return ok(format!("{VERSION}; the network names no approved release for {TARGET}"));
        }
        Advice::Current => return ok(format!("{VERSION}, an approved release")),
        Advice::Newer { release, approved: true } => {
            return ok(format!("{VERSION}, an approved release; {} is newer", release.version));
        }
        Advice::Newer { release, approved: false } | Advice::Withdrawn { release } => {
            let ApprovedAgent { version, digest, .. } = release;
            format!(
                "this is {VERSION}, but not an approved program: {program}; the network approves {version}, {digest}"
            )
        }
    };
    let cure = "get the approved release where you got this one, then `resultity-node update apply <FILE>`";
    vec![said(Verdict::Warning, text).cure(cure)]
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use node_store::{clock::Reading, private::Private, seal::FileSystem};
    use node_types::{Address, Digest, Network, Timestamp, VolumeId};
    use serde_json::json;

    use super::*;
    use crate::{
        doctor::facts::{Clock, HomeSeen, Keys, Leftover, Machine, Place, SnapshotSeen, Space},
        hardware::Memory,
        runtime::sandbox::Probe,
    };

    const NOW: Timestamp = Timestamp::from_ms(1_795_478_400_000);

    /// A well node without a snapshot on a machine that has all.
    fn well() -> Facts {
        Facts {
            folder: "/v".into(),
            network: Network::Testnet,
            uid: 7,
            standing: None,
            holder: Ok(Some("1".into())),
            home: Ok(HomeSeen { path: "/h".into(), mode: 0o755, uid: 7 }),
            places: Vec::new(),
            space: Ok(Space {
                free_bytes: FREE_BYTES_SOON,
                free_files: Some(FREE_FILES_MIN),
                read_only: false,
            }),
            file_system: Ok(FileSystem::of_magic(0xEF53)),
            databases: Vec::new(),
            leftovers: Ok(Vec::new()),
            abandoned: Ok(Vec::new()),
            keys: Keys {
                node: Ok(None),
                volume: Ok(None),
                missing_file: None,
                opening: Opening::Opened(Protection::Systemd),
            },
            clock: Ok(Clock {
                reading: Reading { wall: NOW, since_boot_ms: 0, boot: String::new() },
                known: None,
            }),
            volume: Err("it is another test's".into()),
            runtime: RuntimeSeen::Process { program: None },
            answers: NetworkSeen::NotSet,
            machine: Machine {
                open_files: Some(OPEN_FILES_MIN),
                memory: Memory { main: Some(1 << 30), graphics: 0 },
                sandbox: Probe { left_open: Vec::new(), seccomp: true, namespaces: true },
            },
            program: Ok(Digest::of(b"p")),
        }
    }

    fn worst(check: fn(&Facts) -> Vec<Said>, change: impl FnOnce(&mut Facts)) -> (Verdict, String) {
        let mut facts = well();
        change(&mut facts);
        let said = check(&facts).into_iter().max_by_key(|said| said.verdict).unwrap();
        assert!(said.verdict <= Verdict::Note || said.cure.is_some(), "{said:?} has no cure");
        (said.verdict, said.found)
    }

    #[test]
    fn room_is_judged_at_its_limits() {
        let room = |free_bytes, free_files| {
            worst(space, |facts| facts.space = Ok(Space { free_bytes, free_files, read_only: false })).0
        };
        assert_eq!(room(FREE_BYTES_SOON, Some(FREE_FILES_MIN)), Verdict::Ok);
        assert_eq!(room(FREE_BYTES_SOON - 1, None), Verdict::Warning);
        assert_eq!(room(FREE_BYTES_MIN, None), Verdict::Warning);
        assert_eq!(room(FREE_BYTES_MIN - 1, None), Verdict::Error);
        assert_eq!(room(u64::MAX, Some(FREE_FILES_MIN - 1)), Verdict::Warning);
        assert_eq!(room(u64::MAX, Some(0)), Verdict::Error);
    }

    #[test]
    fn file_systems_that_forget_or_do_not_lock_are_warned_of() {
        for (magic, wanted, word) in [
            (0xEF53, Verdict::Ok, "ext4"),
            (0x0102_1994, Verdict::Warning, "gone when the machine stops"),
            (0x794C_7630, Verdict::Warning, "overlayfs"),
            (0x6969, Verdict::Warning, "nfs"),
        ] {
            let (verdict, found) =
                worst(file_system, |facts| facts.file_system = Ok(FileSystem::of_magic(magic)));
            assert_eq!(verdict, wanted);
            assert!(found.contains(word), "{found}");
        }
    }

    #[test]
    fn a_link_where_the_node_puts_nothing_is_to_go() {
        let cure = |path: &str| {
            let said = not_private(&well(), &NotPrivate::Link { path: path.into() }).unwrap();
            said.cure.unwrap()
        };
        for own in ["/v", "/v/state.db", "/v/keys", "/v/keys/node.key", "/v/models/partial", "/v/doctor"] {
            assert!(cure(own).starts_with("put the file itself there"), "{own}");
        }
        for stray in ["/v/notes", "/v/keys/notes", "/v/keys/state.db", "/v/stray/node.key"] {
            assert!(cure(stray).starts_with("remove the link: "), "{stray}");
        }
    }

    /// It was told of `doctor --fix`, which leaves everything outside of the volume alone.
    #[test]
    fn a_passphrase_file_that_others_can_read_is_cured_where_it_stands() {
        let said = |path: &str| {
            let why = NotPrivate::TooOpen { path: path.into(), found: 0o644, wanted: 0o600 };
            let keys = Keys { opening: Opening::Failed(KeyError::NotPrivate(why)), ..well().keys };
            opening(&Facts { keys, ..well() }).remove(0)
        };
        let outside = said("/etc/node.pass");
        assert_eq!(
            (outside.verdict, outside.found.as_str(), outside.cure.as_deref(), &outside.fix),
            (
                Verdict::Error,
                "/etc/node.pass has mode 0644: others have access to it",
                Some("chmod 600 /etc/node.pass"),
                &None
            )
        );
        assert!(said("/v/keys/node.key").cure.unwrap().contains("doctor --fix"));
    }

    /// A passphrase file was asked for, under which nothing is sealed.
    #[test]
    fn a_local_file_that_is_gone_or_another_one_is_to_be_put_back() {
        let missing = |kek| KeyError::KekMissing { kek, wanted: "it".to_owned() };
        let shut = |kek| KeyError::CannotOpen { path: "/v/keys/node.key".into(), kek };
        let short = |path: &str| KeyError::SecretTooShort { path: path.into(), found: 1, wanted: 32 };
        let cure = |why: &KeyError| key_error(&well(), why).cure.unwrap();
        assert!(cure(&missing(Source::LocalFile)).starts_with("put keys/local.kek back from your backup"));
        assert!(cure(&shut(Source::LocalFile)).starts_with("put keys/local.kek and the keys back"));
        assert!(cure(&short("/v/keys/local.kek")).starts_with("put the file back"));
        for given in [Source::SystemdCredential, Source::ContainerSecret, Source::Passphrase] {
            for why in [missing(given), shut(given), short("/run/secrets/resultity-kek")] {
                assert!(cure(&why).starts_with("give what the key is sealed under"), "{why:?}");
            }
        }
    }

    #[test]
    fn a_start_is_advised_only_where_nothing_keeps_the_keys_from_opening() {
        let held = |opening| Keys {
            node: Ok(Some((Address::from_bytes([7; 20]), Source::LocalFile))),
            volume: Ok(Some(VolumeId::from_bytes([7; 16]))),
            missing_file: None,
            opening,
        };
        let opens = || held(Opening::Opened(Protection::ObfuscationOnly));
        let cure = |keys| agent(&Facts { holder: Ok(None), keys, ..well() }).remove(0).cure;
        assert!(cure(opens()).is_some());
        assert!(cure(held(Opening::NotTried("a passphrase"))).is_some(), "a start asks for it");
        let gone = KeyError::KekMissing { kek: Source::LocalFile, wanted: "it".to_owned() };
        assert_eq!(cure(held(Opening::Failed(gone))), None);
        assert_eq!(cure(Keys { node: Ok(None), ..opens() }), None);
        assert_eq!(cure(Keys { volume: Ok(None), ..opens() }), None);
    }

    /// Models, a runtime and an account were asked for where nothing runs any more.
    #[test]
    fn of_a_node_that_was_moved_away_nothing_is_asked_that_it_needs_to_run() {
        let moved = VolumeSeen { moved: Ok(Some((NOW, "a.move".to_owned()))), ..volume(u64::MAX) };
        let found = examine(&Facts { volume: Ok(moved), ..well() });
        for name in TO_RUN {
            let of: Vec<_> = found.iter().filter(|finding| finding.name == name).collect();
            assert_eq!(of.len(), 1, "{name}");
            assert_eq!((of[0].verdict, &of[0].cure), (Verdict::Note, &None), "{name}");
            assert!(of[0].found.contains("moved away"), "{name}");
        }
    }

    #[test]
    fn what_is_not_the_nodes_is_told_at_once_and_only_moved_from_the_models_when_it_is_old() {
        let told = |kind, bytes, age_ms| {
            let left = Leftover { path: "/v/x".into(), kind, bytes, age_ms };
            leftovers(&Facts { leftovers: Ok(vec![left]), ..well() }).remove(0)
        };
        for age_ms in [0, LEFTOVER_MS] {
            let foreign = told(LeftoverKind::Foreign, Some(3 << 10), age_ms);
            assert_eq!((foreign.verdict, &foreign.fix), (Verdict::Note, &None));
            assert_eq!(foreign.found, "/v/x (3 KiB) is no file of the node's");
            assert_eq!(foreign.cure.as_deref(), Some(NOT_OURS));
        }
        assert_eq!(told(LeftoverKind::Foreign, None, 0).found, "/v/x is no folder of the node's");
        let young = told(LeftoverKind::Unknown, Some(0), LEFTOVER_MS - 1);
        assert_eq!((young.cure.as_deref(), &young.fix), (Some(NOT_OURS), &None));
        assert!(told(LeftoverKind::Unknown, Some(0), LEFTOVER_MS).fix.is_some());
        let begun = told(LeftoverKind::Temporary, Some(0), LEFTOVER_MS - 1);
        assert_eq!((begun.verdict, begun.found.as_str()), (Verdict::Ok, "nothing lies about"));
    }

    #[test]
    fn a_file_of_another_user_is_an_error_that_no_mending_touches() {
        let mut facts = well();
        let path = PathBuf::from("/v/state.db");
        let looked = Err(NotPrivate::ForeignOwner { path: path.clone(), found: 0, ours: 7 });
        facts.places = vec![Place { path, wanted: Private::File, looked }];
        let said = modes(&facts);
        assert_eq!((said.len(), said[0].verdict, &said[0].fix), (1, Verdict::Error, &None));
        assert!(said[0].found.contains("user 0"), "{said:?}");
        let (verdict, found) = worst(modes, |facts| facts.home.as_mut().unwrap().uid = 8);
        assert!(verdict == Verdict::Warning && found.contains("user 8"), "{found}");
    }

    #[test]
    fn a_mode_is_mended_to_the_bits_that_are_private_and_no_others() {
        for (wanted, found, to) in [(0o600, 0o644, 0o600), (0o600, 0o444, 0o400), (0o700, 0o2755, 0o2700)] {
            let why = NotPrivate::TooOpen { path: "/v/x".into(), found, wanted };
            let fix = not_private(&well(), &why).unwrap().fix;
            assert_eq!(fix, Some(Fix::Mode { path: "/v/x".into(), from: found, to }));
        }
    }

    #[test]
    fn what_the_kernel_lacks_is_said_where_the_sandbox_needs_it() {
        let probed = |probe: Probe| worst(sandbox, |facts| facts.machine.sandbox = probe);
        let probe = |left_open: &[&'static str]| Probe {
            left_open: left_open.to_vec(),
            seccomp: true,
            namespaces: true,
        };
        assert_eq!(probed(probe(&[])).0, Verdict::Ok);
        assert_eq!(probed(probe(&["device control"])).0, Verdict::Note);
        assert_eq!(probed(probe(&["TCP connections"])).0, Verdict::Warning);
        assert_eq!(probed(probe(&["files", "TCP connections"])).0, Verdict::Warning);
        assert_eq!(probed(Probe { seccomp: false, ..probe(&[]) }).0, Verdict::Error);
        assert_eq!(probed(Probe { namespaces: false, ..probe(&[]) }).0, Verdict::Error);
        let bare = Probe { seccomp: false, ..probe(&["files"]) };
        let external = |facts: &mut Facts| {
            facts.machine.sandbox = bare;
            facts.runtime = RuntimeSeen::External { url: None, health: Ok(()) };
        };
        assert_eq!(worst(sandbox, external).0, Verdict::Ok);
    }

    #[test]
    fn of_what_could_not_be_looked_at_nothing_is_claimed() {
        for check in [runtime, sandbox, version] {
            let (verdict, found) = worst(check, |facts| facts.runtime = RuntimeSeen::Unknown);
            assert_eq!(verdict, Verdict::Note);
            assert!(found.starts_with("not looked at, because the volume cannot be"), "{found}");
        }
    }

    #[test]
    fn what_is_set_for_the_agent_that_runs_alone_is_no_error() {
        for unset in
            [RuntimeSeen::Process { program: None }, RuntimeSeen::External { url: None, health: Ok(()) }]
        {
            let mut facts = Facts { runtime: unset, ..well() };
            let said = runtime(&facts);
            assert_eq!((said.len(), said[0].verdict), (1, Verdict::Note), "{said:?}");
            assert!(said[0].cure.as_ref().unwrap().contains("doctor --runtime-"), "{said:?}");
            facts.holder = Ok(None);
            assert_eq!(runtime(&facts)[0].verdict, Verdict::Error);
        }
    }

    #[test]
    fn limits_of_the_machine_are_held_against_what_is_needed() {
        assert_eq!(worst(limits, |_| ()).0, Verdict::Ok);
        let (verdict, found) = worst(limits, |facts| facts.machine.open_files = Some(OPEN_FILES_MIN - 1));
        assert!(verdict == Verdict::Warning && found.contains("1023"), "{found}");
        assert_eq!(worst(limits, |facts| facts.machine.open_files = None).0, Verdict::Ok);
        let needs = |memory_bytes: u64| worst(limits, |facts| facts.volume = Ok(volume(memory_bytes)));
        assert_eq!(needs(1 << 30).0, Verdict::Ok);
        let (verdict, found) = needs((1 << 30) + 1);
        assert!(verdict == Verdict::Warning && found.contains("m@1"), "{found}");
    }

    /// With a snapshot that lists a model of so much memory.
    fn volume(memory_bytes: u64) -> VolumeSeen {
        let config = serde_json::from_value(json!({
            "network": "testnet", "version": 1, "issued_at": NOW, "refresh_by": NOW, "valid_until": NOW,
            "keyset_version": 1,
            "models": [{
                "name": "m", "version": "1", "tasks": ["chat"], "engine": "e", "memory_bytes": memory_bytes,
                "files": [], "sources": [],
            }],
            "runtime": { "kind": "external", "engine": "e" },
            "limits": {
                "queue_jobs_max": 1, "queue_bytes_max": 1, "request_bytes_max": 1, "max_tokens": 1,
                "execution_timeout_ms": 1, "ttl_ms_max": 1, "attempts_max": 1, "concurrency": 1, "logs_bytes_max": 1,
            },
            "participation": { "subclouds": [] },
            "timings": {
                "heartbeat_ms": 1, "sync_ms": 1, "flush_ms": 1, "retry_ms_min": 1, "retry_ms_max": 1,
                "trace_ttl_ms": 1, "log_ttl_ms": 1, "offline_grace_ms": 1, "partial_file_ttl_ms": 1,
            },
            "updates": { "agents": [], "runtimes": [] },
        }));
        let snapshot =
            SnapshotSeen { config: config.unwrap(), digest: Digest::of(b"s"), validity: Validity::Fresh };
        VolumeSeen {
            snapshot: Ok(Some(snapshot)),
            pinned: true,
            unverifiable: Vec::new(),
            incidents: Ok(Vec::new()),
            files: Ok(Vec::new()),
            models: Ok(Vec::new()),
            strangers: Vec::new(),
            foreign_folders: Vec::new(),
            partials: Ok(Vec::new()),
            quarantined: Ok(Vec::new()),
            partial_folder: PathBuf::new(),
            deep: None,
            moved: Ok(None),
            account: Ok(true),
        }
    }

    #[test]
    fn a_clock_off_the_networks_is_judged_by_how_long_a_message_counts() {
        let off = |ms: u64| {
            worst(clock, |facts| {
                let time = Some((NOW.plus_ms(ms), NOW));
                facts.answers = NetworkSeen::Answers { url: "u".into(), stranger: None, time };
            })
            .0
        };
        assert_eq!([off(CLOCK_OFF_MS), off(CLOCK_OFF_MS + 1)], [Verdict::Ok, Verdict::Warning]);
        assert_eq!([off(MESSAGE_TTL_MS - 1), off(MESSAGE_TTL_MS)], [Verdict::Warning, Verdict::Error]);
    }
}
