//! Making an archive: the databases are copied and hashed beside it, then packed behind their manifest.

use std::{
    fs::File,
    io::{self, ErrorKind, Read as _, Write},
    path::{Path, PathBuf},
};

use node_types::{Address, Digest, NodeId, Timestamp};
use sha2::{Digest as _, Sha256};

use super::{
    BackupError, MEMBER_BYTES_MAX, Manifest, Member, Purpose, Workshop, create_new, failed,
    manifest::{MANIFEST, TRANSFER_BYTES, key_member},
    need_room, open, packing, placed, sweep,
    tar::{BLOCK, header, padding},
};
use crate::{
    disk::{Disk, RealDisk},
    format::{self, Access, Database, DiskFault, FormatError, Stamp},
    keys::{
        self, Kek, KekSources,
        sealed::{Kind, seal_both},
    },
    store::Options,
    volume::{KEYS, Volume},
};

/// Zstandard's level: its own default, which packs a database of sealed prompts as small as any.
const LEVEL: i32 = 3;
/// Bytes that are read at once.
const STEP: usize = 256 << 10;
/// Bytes of headers, ends and rounding, beside the members.
const FRAME_BYTES: u64 = 1 << 20;

/// Makes a backup of a volume, beside a running Agent or without one. `keys`: both keys go into it, sealed under this
/// passphrase.
///
/// Each database is as one commit left it. When this returns the archive is on disk; before that it has another name.
///
/// # Errors
/// [`BackupError`]; [`BackupError::ArchiveExists`] if something stands there.
pub fn create(
    options: &Options,
    archive: &Path,
    keys: Option<&Kek>,
    release: &str,
    now: Timestamp,
) -> Result<Manifest, BackupError> {
    let Ready { manifest, file } = Ready::make(options, archive, Purpose::Backup, keys, release, now)?;
    let published = file.publish(&*options.disk);
    if published.is_err() {
        file.discard(&*options.disk);
    }
    published.map(|()| manifest)
}

/// Writes small files into one archive of the same kind, without a manifest: for whoever is to read it. Names have at most
/// 99 bytes.
///
/// # Errors
/// [`BackupError::ArchiveExists`] if something stands there, [`BackupError::Io`].
pub fn write_files(archive: &Path, files: &[(String, Vec<u8>)]) -> Result<(), BackupError> {
    let file = Hidden::begin(&RealDisk, archive)?;
    file.pack(&RealDisk, |out| {
        for (name, bytes) in files {
            out.write_all(&header(name, bytes.len() as u64))?;
            write_padded(out, &mut bytes.as_slice(), bytes.len() as u64)?;
        }
        Ok(())
    })?;
    let published = file.publish(&RealDisk);
    if published.is_err() {
        file.discard(&RealDisk);
    }
    published
}

/// A file under a name that nobody looks for; it gets its own when it is whole.
pub(super) struct Hidden {
    pub(super) temporary: PathBuf,
    pub(super) archive: PathBuf,
    pub(super) folder: PathBuf,
}

impl Hidden {
    /// The names of an archive.
    pub(super) fn of(archive: &Path) -> Result<Self, BackupError> {
        let (archive, folder, name) = placed(archive)?;
        Ok(Self { temporary: folder.join(format!(".{name}.tmp")), archive, folder })
    }

    /// Those of one that is written now. Nothing may stand there; what a crash left under the hidden name is removed.
    fn begin(disk: &dyn Disk, archive: &Path) -> Result<Self, BackupError> {
        let file = Self::of(archive)?;
        if disk.entry(&file.archive).map_err(failed(&file.archive))?.is_some() {
            return Err(BackupError::ArchiveExists { path: file.archive });
        }
        disk.remove(&file.temporary).map_err(failed(&file.temporary))?;
        Ok(file)
    }

    /// Writes it: when this returns, it is on disk under its hidden name, or not there.
    fn pack(
        &self,
        disk: &dyn Disk,
        members: impl FnOnce(&mut zstd::Encoder<'static, File>) -> io::Result<()>,
    ) -> Result<(), BackupError> {
        let file = create_new(&self.temporary).map_err(failed(&self.temporary))?;
        let packed = (|| {
            let mut out = zstd::Encoder::new(file, LEVEL)?;
            out.include_checksum(true)?;
            members(&mut out)?;
            out.write_all(&[0; 2 * BLOCK])?;
            out.finish()?.sync_all()?;
            // Its name too: a volume that is shut because of it must find it after a power cut.
            disk.sync_dir(&self.folder)
        })();
        if packed.is_err() {
            self.discard(disk);
        }
        packed.map_err(failed(&self.temporary))
    }

    /// Gives it its name, which nothing has yet.
    pub(super) fn publish(&self, disk: &dyn Disk) -> Result<(), BackupError> {
        match disk.rename_new(&self.temporary, &self.archive) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                Err(BackupError::ArchiveExists { path: self.archive.clone() })
            }
            renamed => renamed.map_err(failed(&self.archive)),
        }?;
        disk.sync_dir(&self.folder).map_err(failed(&self.folder))
    }

    /// Removes what has no name yet.
    pub(super) fn discard(&self, disk: &dyn Disk) {
        // The first error is the one to tell; what is left is removed by the next one.
        let _ = disk.remove(&self.temporary);
    }
}

/// An archive that is whole and on disk, under its hidden name.
pub(super) struct Ready {
    pub(super) manifest: Manifest,
    pub(super) file: Hidden,
}

impl Ready {
    pub(super) fn make(
        options: &Options,
        archive: &Path,
        purpose: Purpose,
        keys: Option<&Kek>,
        release: &str,
        now: Timestamp,
    ) -> Result<Self, BackupError> {
        let disk = &*options.disk;
        sweep(disk, &options.home, options.network);
        let file = Hidden::begin(disk, archive)?;
        let volume = options.folder();
        // Whose files they are and that they belong together.
        let whose = Volume::whose(disk, &volume, options.network)?;
        let bytes = Database::ALL.iter().try_fold(0_u64, |sum, database| {
            let path = volume.join(database.file());
            let found = disk.entry(&path).map_err(failed(&path))?;
            let log = volume.join(format!("{}-wal", database.file()));
            let logged = disk.entry(&log).map_err(failed(&log))?;
            let of = |entry: Option<crate::disk::Entry>| entry.map_or(0, |entry| entry.bytes);
            Ok::<_, BackupError>(sum.saturating_add(of(found)).saturating_add(of(logged)))
        })?;
        let workshop = workshop(options, &file, whose.node, bytes.saturating_add(FRAME_BYTES))?;
        let (stamp, mut members) = copy_databases(disk, &volume, &workshop.folder)?;
        if let Some(kek) = keys {
            members.extend(copy_keys(options, &stamp, &workshop.folder, kek)?);
        }
        let mut number = [0; TRANSFER_BYTES];
        getrandom::fill(&mut number)
            .map_err(|error| crate::store::StoreError::Randomness(error.to_string()))?;
        let transfer = node_types::id::hex_encode(&number);
        let manifest = Manifest::new(purpose, &stamp, release, now, transfer, members);
        need_room(disk, &file.folder, manifest.bytes().saturating_add(FRAME_BYTES))?;
        file.pack(disk, |out| {
            let text = manifest.to_bytes();
            out.write_all(&header(MANIFEST, text.len() as u64))?;
            write_padded(out, &mut text.as_slice(), text.len() as u64)?;
            for member in &manifest.members {
                out.write_all(&header(&member.path, member.bytes))?;
                write_padded(out, &mut open(&workshop.folder.join(&member.path))?, member.bytes)?;
            }
            Ok(())
        })?;
        Ok(Self { manifest, file })
    }
}

/// Where the parts of an archive stand while it is made: beside it, so that a home without room can be backed up to another disk.
/// In the home where others could put something between them there, or where that disk has room for the archive alone.
fn workshop(
    options: &Options,
    file: &Hidden,
    node: NodeId,
    parts_bytes: u64,
) -> Result<Workshop, BackupError> {
    let disk = &*options.disk;
    if is_ours_alone(disk, &file.folder)? {
        // One name for each node: what a crash leaves is found by the next backup, and nodes that share a folder do not meet.
        let beside = file.folder.join(format!(".{node}.backup"));
        if disk.entry(&beside).map_err(failed(&beside))?.is_some() {
            // Its room is counted on.
            drop(Workshop::beside(disk, beside.clone())?);
        }
        if need_room(disk, &file.folder, parts_bytes.saturating_mul(2)).is_ok() {
            return Workshop::beside(disk, beside);
        }
    }
    need_room(disk, &options.home, parts_bytes)?;
    Workshop::open(disk, packing(&options.home, options.network))
}

/// Whether only we, or root, can put something into a folder.
fn is_ours_alone(disk: &dyn Disk, folder: &Path) -> Result<bool, BackupError> {
    // What it is a link to, if it is one.
    let entry = disk.entry(&folder.join(".")).map_err(failed(folder))?;
    Ok(entry.is_some_and(|entry| entry.mode & 0o022 == 0 && (entry.uid == disk.uid() || entry.uid == 0)))
}

/// Copies the databases. `state.db` comes first: the copy of the floor in `jobs.db` is then the younger one, which raises
/// the other.
fn copy_databases(disk: &dyn Disk, volume: &Path, into: &Path) -> Result<(Stamp, Vec<Member>), BackupError> {
    let (mut stamp, mut members) = (None, Vec::new());
    for database in Database::ALL {
        let (from, to) = (volume.join(database.file()), into.join(database.file()));
        // Made here and not by SQLite, whose files take the mode of the process's umask.
        disk.create_file(&to, &[]).map_err(failed(&to))?;
        match (copy_database(disk, &from, &to, database), stamp) {
            // As the volume itself goes on without its logs: the node that is there tells of their loss.
            (Err(error), Some(stamp))
                if database == Database::Logs && error.disk_fault() != Some(DiskFault::Full) =>
            {
                disk.remove(&to).map_err(failed(&to))?;
                disk.create_file(&to, &[]).map_err(failed(&to))?;
                make_empty(disk, &to, database, &stamp)?;
            }
            (copied, _) => {
                stamp.get_or_insert(copied?);
            }
        }
        members.push(member(database.file(), &to)?);
    }
    match stamp {
        Some(stamp) => Ok((stamp, members)),
        None => Err(crate::volume::VolumeError::Missing { path: volume.to_owned() }.into()),
    }
}

fn copy_database(disk: &dyn Disk, from: &Path, to: &Path, database: Database) -> Result<Stamp, FormatError> {
    let connection = format::connect(disk, from, database, Access::Read)?;
    let found = format::identify(&connection, from, database)?;
    connection
        .execute("VACUUM INTO ?1", [to.to_string_lossy()])
        .map_err(|error| FormatError::of(from, error))?;
    Ok(found)
}

/// Makes a database with nothing in it of an empty file.
fn make_empty(disk: &dyn Disk, to: &Path, database: Database, stamp: &Stamp) -> Result<(), FormatError> {
    let mut connection = format::connect(disk, to, database, Access::Write)?;
    format::prepare(&mut connection, to, database, stamp, |_| Ok(()))?;
    // Then all of it is in the one file.
    connection.close().map_err(|(_, error)| FormatError::of(to, error))
}

/// Seals both keys of a volume under a passphrase.
fn copy_keys(options: &Options, stamp: &Stamp, into: &Path, kek: &Kek) -> Result<Vec<Member>, BackupError> {
    let (disk, network, folder) = (&*options.disk, stamp.network, options.folder().join(KEYS));
    let (_, node, volume_key) = open_keys(disk, &folder, stamp, &options.kek)?;
    let to = into.join(KEYS);
    disk.create_dir(&to).map_err(failed(&to))?;
    let sealed = seal_both(&to, network, &node, (stamp.volume, &volume_key), kek)?;
    // The disk may keep no modes; the archive is on it too, and what is sealed is sealed.
    let written = sealed.into_iter().map(|(kind, bytes)| {
        let path = to.join(kind.file_name());
        disk.create_file(&path, &bytes).map_err(failed(&path))?;
        member(&key_member(kind), &path)
    });
    written.collect()
}

/// Opens both keys in a folder. One that is gone is told as the opening of a volume tells it.
pub(super) fn open_keys(
    disk: &dyn Disk,
    folder: &Path,
    stamp: &Stamp,
    sources: &KekSources,
) -> Result<(Address, keys::NodeKey, keys::VolumeKey), BackupError> {
    let missing = |kind: Kind| crate::store::StoreError::MissingKey {
        key: folder.join(kind.file_name()),
        database: folder.with_file_name(Database::State.file()),
    };
    let node =
        keys::open_node_key(disk, folder, stamp.network, sources)?.ok_or_else(|| missing(Kind::NodeKey))?;
    let address = node.key.address();
    let found = NodeId::derive(stamp.network, &address);
    if found != stamp.node {
        return Err(BackupError::OtherKey { path: folder.to_owned(), found, wanted: stamp.node });
    }
    let volume = keys::open_volume_key(disk, folder, stamp.network, address, stamp.volume, sources)?
        .ok_or_else(|| missing(Kind::VolumeKey))?;
    Ok((address, node.key, volume.key))
}

fn member(name: &str, path: &Path) -> Result<Member, BackupError> {
    let mut file = open(path).map_err(failed(path))?;
    let (mut hash, mut bytes) = (Sha256::new(), 0_u64);
    let mut step = vec![0; STEP];
    loop {
        let read = file.read(&mut step).map_err(failed(path))?;
        if read == 0 {
            break;
        }
        hash.update(&step[..read]);
        bytes += read as u64;
    }
    if bytes > MEMBER_BYTES_MAX {
        let (path, what) = (path.to_owned(), name.to_owned());
        return Err(BackupError::TooLarge { path, what, bytes, max: MEMBER_BYTES_MAX });
    }
    Ok(Member { path: name.to_owned(), bytes, sha256: Digest::from_bytes(hash.finalize().into()) })
}

fn write_padded(out: &mut impl Write, from: &mut impl io::Read, bytes: u64) -> io::Result<()> {
    if io::copy(&mut from.take(bytes), out)? != bytes {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    out.write_all(&[0; BLOCK][..padding(bytes)])
}
