//! Reading an archive, whoever made it: strictly, in bounded memory, and never beyond what its manifest says.

use std::{
    fs::File,
    io::{self, BufReader, ErrorKind, Read, Write as _},
    path::{Path, PathBuf},
};

use node_types::Digest;
use rusqlite::{Connection, limits::Limit};
use sha2::{Digest as _, Sha256};

use super::{
    BackupError, MANIFEST_BYTES_MAX, Manifest, Workshop, create_new, failed,
    manifest::MANIFEST,
    need_room, open,
    pack::open_keys,
    tar::{self, BLOCK, padding},
};
use crate::{
    disk::{Disk, RealDisk},
    format::{self, Access, Database, FormatError},
    jobs,
    keys::{KekSources, sealed::Kind},
    salvage,
    volume::KEYS,
};

/// The widest window that is unpacked, as a power of two: 8 MiB, four times what packing uses. It bounds the memory.
const WINDOW_LOG_MAX: u32 = 23;
/// Bytes that are written at once.
const STEP: usize = 256 << 10;
/// The longest value or row of an unpacked database: 64 MiB. Ours are below 16 MiB.
const VALUE_BYTES_MAX: i32 = 64 << 20;
/// Room for the logs and indexes that checking the databases makes: 8 MiB.
const WORK_BYTES: u64 = 8 << 20;

/// What an archive holds, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Jobs without an acknowledged end.
    pub jobs: u64,
    /// Log records.
    pub records: u64,
    /// The version of the snapshot in force; 0 where there is none.
    pub config_version: u64,
}

/// A backup that was read to its end and found sound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Its manifest.
    pub manifest: Manifest,
    /// What is in it.
    pub held: Held,
    /// Whether its keys were opened; `None` where there are none, or no passphrase was given.
    pub keys_open: Option<bool>,
}

/// Reads the manifest of an archive, and nothing more.
///
/// # Errors
/// [`BackupError`].
pub fn manifest_of(archive: &Path) -> Result<Manifest, BackupError> {
    Ok(Archive::open(archive)?.manifest)
}

/// Reads all of an archive: hashes, each database's pages and rows, whose they are, and, where `keys` is given, whether
/// the keys open. `work` is a folder with room for what is in it; nothing stays there. No volume is needed.
///
/// # Errors
/// [`BackupError`]: the first thing that is wrong with it.
pub fn verify(archive: &Path, keys: Option<&KekSources>, work: &Path) -> Result<Verified, BackupError> {
    let opened = Archive::open(archive)?;
    let disk = RealDisk;
    let name = format!(".resultity-verify-{}", opened.manifest.transfer);
    let workshop = Workshop::open(&disk, work.join(name))?;
    need_room(&disk, work, room_for(opened.manifest.bytes()))?;
    let manifest = opened.unpack(&workshop.folder, &workshop.folder.join(KEYS))?;
    let mut held = Held::default();
    for database in Database::ALL {
        check(&disk, archive, &workshop.folder, database, &manifest)?;
        let counted = count(&disk, &workshop.folder, database, &mut held);
        counted.map_err(|source| database_error(archive, database, source))?;
    }
    let keys_open = match keys.filter(|_| manifest.has_keys()) {
        Some(sources) => {
            open_keys(&disk, &workshop.folder.join(KEYS), &manifest.stamp(), sources)?;
            Some(true)
        }
        None => None,
    };
    Ok(Verified { manifest, held, keys_open })
}

/// Bytes that the members of an archive take where they are unpacked, and a little for what is made of them.
pub(super) const fn room_for(bytes: u64) -> u64 {
    bytes.saturating_add(WORK_BYTES)
}

pub(super) fn database_error(archive: &Path, database: Database, source: FormatError) -> BackupError {
    let (path, member) = (archive.to_owned(), database.file().to_owned());
    BackupError::Database { path, member, source: Box::new(source) }
}

/// Opens a database that a stranger may have made. SQLite would take a gigabyte for one value of it.
pub(super) fn connect_strange(
    disk: &dyn Disk,
    path: &Path,
    database: Database,
    access: Access,
) -> Result<Connection, FormatError> {
    let connection = format::connect(disk, path, database, access)?;
    connection
        .set_limit(Limit::SQLITE_LIMIT_LENGTH, VALUE_BYTES_MAX)
        .map_err(|error| FormatError::of(path, error))?;
    Ok(connection)
}

/// Checks one unpacked database: ours, of a format that is read, with that format's tables and no others, whole, and of
/// the node that the manifest names. Changes nothing of it.
pub(super) fn check(
    disk: &dyn Disk,
    archive: &Path,
    folder: &Path,
    database: Database,
    manifest: &Manifest,
) -> Result<(), BackupError> {
    let path = folder.join(database.file());
    let checked = || {
        let connection = connect_strange(disk, &path, database, Access::Read)?;
        let found = format::version(&connection, &path, database)?;
        format::check_schema(&connection, &path, database)?;
        format::check_stamp(&connection, &path, &manifest.stamp())?;
        // What the rows of an old format mean is known when it is migrated.
        let examined = if found == Some(database.newest()) {
            salvage::examine(&connection, database)
        } else {
            salvage::examine_pages(&connection)
        };
        match examined.map_err(|error| FormatError::of(&path, error))? {
            Some(cause) => Err(FormatError::Damaged { path: path.clone(), cause }),
            None => Ok(()),
        }
    };
    checked().map_err(|source| database_error(archive, database, source))
}

fn count(disk: &dyn Disk, folder: &Path, database: Database, held: &mut Held) -> Result<(), FormatError> {
    let path = folder.join(database.file());
    let connection = connect_strange(disk, &path, database, Access::Read)?;
    let counted = match database {
        Database::State => connection
            .query_row("SELECT ifnull(max(version), 0) FROM snapshots WHERE slot = 0", (), |row| row.get(0))
            .map(|version| held.config_version = version),
        Database::Jobs => jobs::count(&connection).map(|count| held.jobs = count),
        Database::Logs => connection
            .query_row("SELECT count(*) FROM records", (), |row| row.get(0))
            .map(|records| held.records = records),
    };
    counted.map_err(|error| FormatError::of(&path, error))
}

/// An archive whose manifest was read.
pub(super) struct Archive {
    path: PathBuf,
    pub(super) manifest: Manifest,
    input: zstd::Decoder<'static, BufReader<File>>,
}

impl Archive {
    pub(super) fn open(path: &Path) -> Result<Self, BackupError> {
        let file = open(path).map_err(failed(path))?;
        let refused = |why: &str| BackupError::NotAnArchive { path: path.to_owned(), why: why.to_owned() };
        let mut input = zstd::Decoder::new(file).map_err(failed(path))?;
        input.window_log_max(WINDOW_LOG_MAX).map_err(failed(path))?;
        let mut block = [0; BLOCK];
        input.read_exact(&mut block).map_err(|error| {
            if error.kind() == ErrorKind::UnexpectedEof {
                refused("it is too short")
            } else {
                refused(&format!("it cannot be unpacked ({error})"))
            }
        })?;
        let bytes = tar::size(&block).unwrap_or(0);
        if tar::header(MANIFEST, bytes) != block {
            let found = tar::described(&block);
            return Err(refused(&format!("it does not begin with {MANIFEST} but with {found}")));
        }
        if bytes > MANIFEST_BYTES_MAX {
            let (path, what) = (path.to_owned(), MANIFEST.to_owned());
            return Err(BackupError::TooLarge { path, what, bytes, max: MANIFEST_BYTES_MAX });
        }
        let mut reading = Reading { path, input: &mut input, member: MANIFEST };
        let mut text = Vec::new();
        reading.copy(bytes, |step| {
            text.extend_from_slice(step);
            Ok(())
        })?;
        let manifest = Manifest::parse(path, &text)?;
        Ok(Self { path: path.to_owned(), manifest, input })
    }

    /// Unpacks the members into `folder`, keys into `keys`, each checked against the manifest.
    pub(super) fn unpack(mut self, folder: &Path, keys: &Path) -> Result<Manifest, BackupError> {
        let disk = RealDisk;
        if self.manifest.has_keys() {
            disk.create_dir(keys).map_err(failed(keys))?;
        }
        for member in &self.manifest.members {
            let mut reading = Reading { path: &self.path, input: &mut self.input, member: &member.path };
            let block = reading.block()?;
            if tar::header(&member.path, member.bytes) != block {
                let wanted = format!("the file {:?} of {} bytes", member.path, member.bytes);
                let (path, found) = (self.path.clone(), tar::described(&block));
                return Err(BackupError::Unexpected { path, wanted, found });
            }
            // The manifest was checked: its names are those of a backup, and no others.
            let to =
                match Kind::ALL.into_iter().find(|kind| super::manifest::key_member(*kind) == member.path) {
                    Some(kind) => keys.join(kind.file_name()),
                    None => folder.join(&member.path),
                };
            let (mut file, mut hash) = (create_new(&to).map_err(failed(&to))?, Sha256::new());
            reading.copy(member.bytes, |step| {
                hash.update(step);
                file.write_all(step).map_err(failed(&to))
            })?;
            file.sync_all().map_err(failed(&to))?;
            let found = Digest::from_bytes(hash.finalize().into());
            if found != member.sha256 {
                let (path, member, wanted) = (self.path, member.path.clone(), member.sha256);
                return Err(BackupError::Altered { path, member, found, wanted });
            }
        }
        let mut reading = Reading { path: &self.path, input: &mut self.input, member: "its end" };
        for _ in 0..2 {
            let block = reading.block()?;
            if block != [0; BLOCK] {
                let (path, found) = (self.path.clone(), tar::described(&block));
                return Err(BackupError::Unexpected { path, wanted: "the end".to_owned(), found });
            }
        }
        let mut beyond = [0; 1];
        match self.input.read(&mut beyond) {
            Ok(0) => Ok(self.manifest),
            Ok(_) => {
                let (path, found) = (self.path, "more".to_owned());
                Err(BackupError::Unexpected { path, wanted: "the end of the file".to_owned(), found })
            }
            Err(error) => Err(unreadable(&self.path, "its end", &error)),
        }
    }
}

struct Reading<'a> {
    path: &'a Path,
    input: &'a mut zstd::Decoder<'static, BufReader<File>>,
    member: &'a str,
}

impl Reading<'_> {
    fn exact(&mut self, bytes: &mut [u8]) -> Result<(), BackupError> {
        self.input.read_exact(bytes).map_err(|error| unreadable(self.path, self.member, &error))
    }

    fn block(&mut self) -> Result<[u8; BLOCK], BackupError> {
        let mut block = [0; BLOCK];
        self.exact(&mut block)?;
        Ok(block)
    }

    /// Hands a member's bytes on, and passes over the zeros behind it.
    fn copy(
        &mut self,
        bytes: u64,
        mut take: impl FnMut(&[u8]) -> Result<(), BackupError>,
    ) -> Result<(), BackupError> {
        let mut step = vec![0; STEP];
        let mut left = bytes;
        while left > 0 {
            let now = usize::try_from(left).unwrap_or(STEP).min(STEP);
            self.exact(&mut step[..now])?;
            take(&step[..now])?;
            left -= now as u64;
        }
        let behind = padding(bytes);
        self.exact(&mut step[..behind])?;
        if step[..behind].iter().any(|byte| *byte != 0) {
            let (path, wanted) = (self.path.to_owned(), format!("zeros behind {}", self.member));
            return Err(BackupError::Unexpected { path, wanted, found: "something else".to_owned() });
        }
        Ok(())
    }
}

/// What it means that an archive cannot be read on.
fn unreadable(path: &Path, member: &str, error: &io::Error) -> BackupError {
    if error.kind() == ErrorKind::UnexpectedEof {
        return BackupError::Truncated { path: path.to_owned(), member: member.to_owned() };
    }
    let why = format!("{member} cannot be unpacked ({error})");
    BackupError::NotAnArchive { path: path.to_owned(), why }
}
