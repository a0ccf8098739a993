//! Mending: what is safe is done, written down first, and can be taken back.
//!
//! ```text
//! <volume>/doctor/               0700
//!   <time>.json                  0600: what one mending set out to do; written before it begins
//!   <time>.undone                the same, after it was taken back
//!   <time>/<number>-<name>       files that it moved aside
//! ```
//!
//! The record is JSON: `version` (1), `at` (RFC 3339), `steps`, each a [`Step`]. Taking back looks at what is there now: a step
//! that was never done, or was changed since, is left as it is. Nothing is deleted but by [`forget`], which ends the
//! taking back.
//!
//! Limits: a record has at most [`RECORD_BYTES_MAX`] bytes.

use std::{
    io,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
};

use node_store::{
    checkup,
    disk::{self, Disk, EntryKind, Locked, RealDisk},
    private::{NotPrivate, Private, private_if_there},
};
use node_types::Timestamp;
use rustix::fs::{FileType, Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::{Finding, Fix};

/// The folder in a volume.
pub const FOLDER: &str = "doctor";
/// The longest record: 1 MiB.
pub const RECORD_BYTES_MAX: u64 = 1 << 20;
const VERSION: u32 = 1;
const RECORD: &str = "json";
const UNDONE: &str = "undone";

/// Why nothing was mended.
#[derive(Debug, thiserror::Error)]
pub enum MendError {
    /// Where the record should be is not ours.
    #[error(transparent)]
    NotPrivate(#[from] NotPrivate),
    /// A file or folder cannot be used.
    #[error("cannot use {path}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A record is not one.
    #[error("{path} is no record of a mending ({why}): move it away")]
    Record {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// There is nothing to take back.
    #[error("there is nothing to take back: no mending is recorded in {folder}")]
    Nothing {
        /// The folder of the records.
        folder: PathBuf,
    },
}

fn failed(path: &Path) -> impl Fn(io::Error) -> MendError + Copy {
    move |source| MendError::Io { path: path.to_owned(), source }
}

/// One step of a mending, as it is written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case", deny_unknown_fields)]
pub enum Step {
    /// Permission bits.
    Mode {
        /// The file or folder.
        path: PathBuf,
        /// Before.
        from: u32,
        /// After.
        to: u32,
    },
    /// A file moved aside.
    Aside {
        /// Where it was.
        path: PathBuf,
        /// Where it is.
        aside: PathBuf,
        /// Its length in bytes.
        bytes: u64,
    },
    /// A database that the next start reads in full.
    Suspect {
        /// The database.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
}

impl Step {
    /// What it does, in words.
    #[must_use]
    pub fn words(&self) -> String {
        match self {
            Self::Mode { path, from, to } => {
                format!("set the mode of {} from {from:04o} to {to:04o}", path.display())
            }
            Self::Aside { path, aside, bytes } => {
                format!("move {} ({} KiB) to {}", path.display(), bytes >> 10, aside.display())
            }
            Self::Suspect { path, .. } => {
                let path = path.display();
                format!(
                    "have the next start read all of {path}, move it aside and save what can be read of it"
                )
            }
        }
    }
}

/// What came of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The step.
    pub step: Step,
    /// Why it was not done, if it was not.
    pub left: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    version: u32,
    at: String,
    steps: Vec<Step>,
}

/// What a mending of these findings would do at `now`, in a volume's folder. Changes nothing.
#[must_use]
pub fn plan(folder: &Path, findings: &[Finding], now: Timestamp) -> Vec<Step> {
    let aside = folder.join(FOLDER).join(stamp(now));
    let fixes = findings.iter().filter_map(|finding| finding.fix.as_ref()).enumerate();
    let step = |(number, fix): (usize, &Fix)| match fix.clone() {
        Fix::Mode { path, from, to } => Step::Mode { path, from, to },
        Fix::Aside { path, bytes } => {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            Step::Aside { aside: aside.join(format!("{number}-{name}")), path, bytes }
        }
        Fix::Suspect { path, cause } => Step::Suspect { path, cause },
    };
    fixes.map(step).collect()
}

/// Does the steps of a plan that was made for `now`. They are on the disk in a record before the first is done. What needs
/// the Agent to be stopped is left while one runs.
///
/// # Errors
/// [`MendError::NotPrivate`] where the volume is another user's, also for root: what it left there would keep the node from
/// its own folder. [`MendError`] where no record can be written. Then nothing was done.
pub fn apply(folder: &Path, steps: Vec<Step>, now: Timestamp) -> Result<Vec<Outcome>, MendError> {
    refuse_foreign(folder)?;
    let own = folder.join(FOLDER);
    make_folder(&own)?;
    let path = own.join(format!("{}.{RECORD}", stamp(now)));
    let record = Record { version: VERSION, at: now.to_string(), steps };
    let text = serde_json::to_vec_pretty(&record)
        .map_err(|error| MendError::Record { path: path.clone(), why: error.to_string() })?;
    disk::write_new(&RealDisk, &path, &text).map_err(failed(&path))?;
    let alone = Alone::take(folder, &record.steps);
    let done = record.steps.into_iter().map(|step| {
        let left = match &step {
            Step::Mode { path, from, to } => set_mode(path, *from, *to).err(),
            Step::Aside { path, aside, .. } => {
                alone.as_ref().map_err(Clone::clone).and_then(|_| move_to(path, aside)).err()
            }
            Step::Suspect { path, cause } => alone
                .as_ref()
                .map_err(Clone::clone)
                .and_then(|_| checkup::suspect(&RealDisk, path, cause).map_err(|error| error.to_string()))
                .err(),
        };
        Outcome { step, left }
    });
    Ok(done.collect())
}

/// Takes the last mending back that was not yet, its last step first. Its record stays for another call as long as something
/// is left that can still be taken back.
///
/// # Errors
/// [`MendError::Nothing`], [`MendError::NotPrivate`] as [`apply`]; [`MendError`] where its record cannot be read.
pub fn undo(folder: &Path) -> Result<Vec<Outcome>, MendError> {
    refuse_foreign(folder)?;
    let own = folder.join(FOLDER);
    let Some(path) = records(&own)?.pop() else { return Err(MendError::Nothing { folder: own }) };
    let steps = read(&path)?.steps;
    let alone = Alone::take(folder, &steps);
    let mut done = Vec::new();
    for step in steps.into_iter().rev() {
        let left = match &step {
            Step::Mode { path, from, to } => set_mode(path, *to, *from).err(),
            Step::Aside { path, aside, .. } => {
                alone.as_ref().map_err(Clone::clone).and_then(|_| move_to(aside, path)).err()
            }
            Step::Suspect { path, cause } => {
                alone.as_ref().map_err(Clone::clone).and_then(|_| trust(path, cause)).err()
            }
        };
        done.push(Outcome { step, left });
    }
    // Where an Agent runs or something stands in the place, files stay aside: the same call later brings them back.
    let stays = |step: &Step| match step {
        // One that was changed since is the operator's.
        Step::Mode { .. } | Step::Suspect { .. } => false,
        Step::Aside { aside, .. } => !matches!(RealDisk.entry(aside), Ok(None)),
    };
    if !done.iter().any(|outcome| outcome.left.is_some() && stays(&outcome.step)) {
        let undone = path.with_extension(UNDONE);
        RealDisk.rename_new(&path, &undone).map_err(failed(&path))?;
        RealDisk.sync_dir(&own).map_err(failed(&own))?;
    }
    Ok(done)
}

/// Deletes what was moved aside, and the records: nothing can be taken back afterwards. Gives how many files, and their bytes.
///
/// # Errors
/// [`MendError`]; what was deleted before is deleted.
pub fn forget(folder: &Path) -> Result<(u64, u64), MendError> {
    let own = folder.join(FOLDER);
    let (mut files, mut bytes) = (0, 0);
    if !private_if_there(&RealDisk, &own, Private::Folder)? {
        return Ok((0, 0));
    }
    for name in RealDisk.list(&own).map_err(failed(&own))? {
        let path = own.join(&name);
        let entry = RealDisk.entry(&path).map_err(failed(&path))?;
        if entry.is_some_and(|entry| entry.kind == EntryKind::Folder) {
            for name in RealDisk.list(&path).map_err(failed(&path))? {
                let aside = path.join(name);
                let entry = RealDisk.entry(&aside).map_err(failed(&aside))?;
                RealDisk.remove(&aside).map_err(failed(&aside))?;
                (files, bytes) = (files + 1, bytes + entry.map_or(0, |entry| entry.bytes));
            }
            std::fs::remove_dir(&path).map_err(failed(&path))?;
        } else {
            RealDisk.remove(&path).map_err(failed(&path))?;
        }
    }
    RealDisk.sync_dir(&own).map_err(failed(&own))?;
    Ok((files, bytes))
}

/// A moment as a name: sorted by it, and without colons, which some file systems do not take.
fn stamp(now: Timestamp) -> String {
    now.to_string().replace(':', "-")
}

/// Refuses a volume of another user. That it is too open is no reason: that is mended.
fn refuse_foreign(folder: &Path) -> Result<(), MendError> {
    match private_if_there(&RealDisk, folder, Private::Folder) {
        Err(why @ NotPrivate::ForeignOwner { .. }) => Err(why.into()),
        Ok(_) | Err(_) => Ok(()),
    }
}

fn make_folder(path: &Path) -> Result<(), MendError> {
    if private_if_there(&RealDisk, path, Private::Folder)? {
        return Ok(());
    }
    RealDisk.create_dir(path).map_err(failed(path))?;
    let parent = path.parent().unwrap_or(path);
    RealDisk.sync_dir(parent).map_err(failed(parent))
}

/// The records of mendings that were not taken back, oldest first.
fn records(own: &Path) -> Result<Vec<PathBuf>, MendError> {
    if !private_if_there(&RealDisk, own, Private::Folder)? {
        return Ok(Vec::new());
    }
    let names = RealDisk.list(own).map_err(failed(own))?;
    let paths = names.into_iter().map(|name| own.join(name));
    Ok(paths.filter(|path| path.extension().is_some_and(|extension| extension == RECORD)).collect())
}

fn read(path: &Path) -> Result<Record, MendError> {
    private_if_there(&RealDisk, path, Private::File)?;
    let bytes = RealDisk.read(path, RECORD_BYTES_MAX).map_err(failed(path))?.unwrap_or_default();
    let refused = |why| MendError::Record { path: path.to_owned(), why };
    let record: Record = serde_json::from_slice(&bytes).map_err(|error| refused(error.to_string()))?;
    if record.version == VERSION {
        Ok(record)
    } else {
        Err(refused(format!("its version is {}, this release reads {VERSION}", record.version)))
    }
}

/// Holds the volume's lock while files are moved: no Agent starts meanwhile. Taken where a step needs it.
struct Alone {
    lock: Option<Box<dyn disk::Lock>>,
    /// What was left in the lock says that the last Agent did not end in good order: the next one must learn of it.
    in_order: bool,
}

impl Alone {
    fn take(folder: &Path, steps: &[Step]) -> Result<Self, String> {
        if steps.iter().all(|step| matches!(step, Step::Mode { .. })) {
            return Ok(Self { lock: None, in_order: true });
        }
        match RealDisk.lock(&folder.join("LOCK"), &std::process::id().to_string()) {
            Ok(Locked::Ours { lock, last }) => Ok(Self { lock: Some(lock), in_order: last.is_empty() }),
            Ok(Locked::Theirs(pid)) => Err(format!("process {pid} has the volume: stop that Agent first")),
            Err(error) => Err(format!("the volume's lock cannot be taken: {error}")),
        }
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        if let Some(lock) = self.lock.as_ref().filter(|_| self.in_order) {
            // Where our number stays in it, the next opening only looks more closely.
            let _ = lock.clear();
        }
    }
}

/// Sets permission bits, if they are `from` now. Follows no link.
fn set_mode(path: &Path, from: u32, to: u32) -> Result<(), String> {
    let said = |error: rustix::io::Errno| error.to_string();
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(said)?;
    let about = rustix::fs::fstat(&file).map_err(said)?;
    let kind = FileType::from_raw_mode(about.st_mode);
    if kind != FileType::RegularFile && kind != FileType::Directory {
        return Err("it is neither a file nor a folder".to_owned());
    }
    let found = about.st_mode & 0o7777;
    if found != from {
        return Err(format!("its mode is {found:04o} by now, not {from:04o}"));
    }
    // A descriptor that names a file only cannot be changed itself; its entry in /proc leads to the same file (open(2)).
    let entry = format!("/proc/self/fd/{}", file.as_raw_fd());
    rustix::fs::chmod(entry, Mode::from_raw_mode(to)).map_err(said)
}

/// Takes back that a database is read in full, if that was not done yet.
fn trust(database: &Path, cause: &str) -> Result<(), String> {
    match checkup::trust(&RealDisk, database, cause) {
        Ok(true) => Ok(()),
        Ok(false) => Err("a start has read it since".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Moves a file; nothing is replaced.
fn move_to(from: &Path, to: &Path) -> Result<(), String> {
    let said = |error: io::Error| error.to_string();
    match RealDisk.entry(from).map_err(said)? {
        None => return Err(format!("{} is not there any more", from.display())),
        Some(entry) if entry.kind == EntryKind::Folder => return Err("it is a folder".to_owned()),
        Some(_) => {}
    }
    let folder = to.parent().ok_or("it has no folder")?;
    if RealDisk.entry(folder).map_err(said)?.is_none() {
        RealDisk.create_dir(folder).map_err(said)?;
    }
    RealDisk.rename_new(from, to).map_err(said)?;
    RealDisk.sync_dir(folder).map_err(said)?;
    from.parent().map_or(Ok(()), |folder| RealDisk.sync_dir(folder)).map_err(said)
}
