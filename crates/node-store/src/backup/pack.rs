//! Making an archive: the databases are copied and hashed beside it, then packed behind their manifest.

use std::{
    fs::{File, OpenOptions},
    io::{self, ErrorKind, Read as _, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use node_types::{Address, Digest, NodeId, Timestamp};
use sha2::{Digest as _, Sha256};

use super::{
    BackupError, MEMBER_BYTES_MAX, Manifest, Member, Purpose, Workshop, failed,
    manifest::{MANIFEST, TRANSFER_BYTES, key_member},
    need_room, placed,
    tar::{BLOCK, header, padding},
};
use crate::{
    disk::{Disk, RealDisk},
    format::{self, Access, Database, FormatError, Stamp},
    keys::{self, Kek, KekSources, sealed::Kind},
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
    let ready = Ready::make(options, archive, Purpose::Backup, keys, release, now)?;
    ready.publish(&*options.disk)
}

/// An archive that is whole and on disk, under a name that nobody looks for.
pub(super) struct Ready {
    pub(super) manifest: Manifest,
    temporary: PathBuf,
    archive: PathBuf,
    folder: PathBuf,
}

/// Writes small files into one archive of the same kind, without a manifest: for whoever is to read it. Names have at most
/// 99 bytes.
///
/// # Errors
/// [`BackupError::ArchiveExists`] if something stands there, [`BackupError::Io`].
pub fn write_files(archive: &Path, files: &[(String, Vec<u8>)]) -> Result<(), BackupError> {
    let disk = RealDisk;
    let (archive, folder, _) = placed(archive)?;
    if disk.entry(&archive).map_err(failed(&archive))?.is_some() {
        return Err(BackupError::ArchiveExists { path: archive });
    }
    let temporary = temporary_of(&archive)?;
    disk.remove(&temporary).map_err(failed(&temporary))?;
    let file = create_new(&temporary).map_err(failed(&archive))?;
    let packed = (|| {
        let mut out = zstd::Encoder::new(file, LEVEL)?;
        for (name, bytes) in files {
            out.write_all(&header(name, bytes.len() as u64))?;
            write_padded(&mut out, &mut bytes.as_slice(), bytes.len() as u64)?;
        }
        out.write_all(&[0; 2 * BLOCK])?;
        out.finish()?.sync_all()
    })();
    let written = packed
        .map_err(|error: io::Error| failed(&archive)(error))
        .and_then(|()| publish(&disk, &temporary, &archive, &folder));
    if written.is_err() {
        // The first error is the one to tell; what is left is removed by the next one.
        let _ = disk.remove(&temporary);
    }
    written
}

/// The name of an archive before it is published.
pub(super) fn temporary_of(archive: &Path) -> Result<PathBuf, BackupError> {
    let (_, folder, name) = placed(archive)?;
    Ok(folder.join(format!(".{name}.tmp")))
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
        let (archive, folder, name) = placed(archive)?;
        let exists = || BackupError::ArchiveExists { path: archive.clone() };
        if disk.entry(&archive).map_err(failed(&archive))?.is_some() {
            return Err(exists());
        }
        let volume = options.folder();
        // Whose files they are and that they belong together.
        drop(Volume::view_only(&options.disk, &volume, options.network)?);
        let workshop = Workshop::open(disk, folder.join(format!(".{name}.parts")))?;
        let bytes = Database::ALL.iter().try_fold(0_u64, |sum, database| {
            let path = volume.join(database.file());
            let found = disk.entry(&path).map_err(failed(&path))?;
            let log = volume.join(format!("{}-wal", database.file()));
            let logged = disk.entry(&log).map_err(failed(&log))?;
            let of = |entry: Option<crate::disk::Entry>| entry.map_or(0, |entry| entry.bytes);
            Ok::<_, BackupError>(sum.saturating_add(of(found)).saturating_add(of(logged)))
        })?;
        // Once as copies, once packed.
        need_room(disk, &folder, bytes.saturating_mul(2).saturating_add(FRAME_BYTES))?;
        let (stamp, mut members) = copy_databases(disk, &volume, &workshop.folder)?;
        if let Some(kek) = keys {
            members.extend(copy_keys(options, &stamp, &workshop.folder, kek)?);
        }
        let mut number = [0; TRANSFER_BYTES];
        getrandom::fill(&mut number)
            .map_err(|error| crate::store::StoreError::Randomness(error.to_string()))?;
        let transfer = node_types::id::hex_encode(&number);
        let manifest = Manifest::new(purpose, &stamp, release, now, transfer, members);
        let temporary = temporary_of(&archive)?;
        // One left by a crash was never published.
        disk.remove(&temporary).map_err(failed(&temporary))?;
        let ready = Self { manifest, temporary, archive, folder };
        let packed = pack(&ready.manifest, &workshop.folder, &ready.temporary);
        if let Err(error) = packed {
            ready.discard(disk);
            return Err(error);
        }
        Ok(ready)
    }

    /// Gives it its name, which nothing has yet.
    pub(super) fn publish(self, disk: &dyn Disk) -> Result<Manifest, BackupError> {
        match publish(disk, &self.temporary, &self.archive, &self.folder) {
            Ok(()) => Ok(self.manifest),
            Err(error) => {
                self.discard(disk);
                Err(error)
            }
        }
    }

    pub(super) fn discard(&self, disk: &dyn Disk) {
        // The first error is the one to tell; what is left is removed by the next one.
        let _ = disk.remove(&self.temporary);
    }

    /// Where it will be.
    pub(super) fn archive(&self) -> &Path {
        &self.archive
    }
}

pub(super) fn publish(
    disk: &dyn Disk,
    temporary: &Path,
    archive: &Path,
    folder: &Path,
) -> Result<(), BackupError> {
    match disk.rename_new(temporary, archive) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            Err(BackupError::ArchiveExists { path: archive.to_owned() })
        }
        renamed => renamed.map_err(failed(archive)),
    }?;
    disk.sync_dir(folder).map_err(failed(folder))
}

/// Copies the databases. `state.db` comes first: the copy of the floor in `jobs.db` is then the younger one, which raises
/// the other.
fn copy_databases(disk: &dyn Disk, volume: &Path, into: &Path) -> Result<(Stamp, Vec<Member>), BackupError> {
    let (mut stamp, mut members) = (None, Vec::new());
    for database in Database::ALL {
        let (from, to) = (volume.join(database.file()), into.join(database.file()));
        // Made here and not by SQLite, whose files take the mode of the process's umask.
        disk.create_file(&to, &[]).map_err(failed(&to))?;
        let connection = format::connect(disk, &from, database, Access::Read)?;
        let found = format::identify(&connection, &from, database)?;
        stamp.get_or_insert(found);
        connection
            .execute("VACUUM INTO ?1", [to.to_string_lossy()])
            .map_err(|error| FormatError::of(&from, error))?;
        members.push(member(database.file(), &to)?);
    }
    match stamp {
        Some(stamp) => Ok((stamp, members)),
        None => Err(crate::volume::VolumeError::Missing { path: volume.to_owned() }.into()),
    }
}

/// Seals both keys of a volume under a passphrase.
fn copy_keys(options: &Options, stamp: &Stamp, into: &Path, kek: &Kek) -> Result<Vec<Member>, BackupError> {
    let (disk, network, folder) = (&*options.disk, stamp.network, options.folder().join(KEYS));
    let (address, node, volume_key) = open_keys(disk, &folder, stamp, &options.kek)?;
    let to = into.join(KEYS);
    keys::create_node_key(disk, &to, network, &node, kek)?;
    keys::create_volume_key(disk, &to, network, address, stamp.volume, &volume_key, kek)?;
    Kind::ALL.into_iter().map(|kind| member(&key_member(kind), &to.join(kind.file_name()))).collect()
}

/// Opens both keys in a folder.
pub(super) fn open_keys(
    disk: &dyn Disk,
    folder: &Path,
    stamp: &Stamp,
    sources: &KekSources,
) -> Result<(Address, keys::NodeKey, keys::VolumeKey), BackupError> {
    let missing = |kind: Kind| crate::store::StoreError::Io {
        path: folder.join(kind.file_name()),
        source: ErrorKind::NotFound.into(),
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

/// Packs what stands in `parts` as the manifest names it, and syncs it.
fn pack(manifest: &Manifest, parts: &Path, to: &Path) -> Result<(), BackupError> {
    let refused = |error| failed(to)(error);
    let file = create_new(to).map_err(refused)?;
    let packed = (|| {
        let mut out = zstd::Encoder::new(file, LEVEL)?;
        out.include_checksum(true)?;
        let text = manifest.to_bytes();
        out.write_all(&header(MANIFEST, text.len() as u64))?;
        write_padded(&mut out, &mut text.as_slice(), text.len() as u64)?;
        for member in &manifest.members {
            out.write_all(&header(&member.path, member.bytes))?;
            write_padded(&mut out, &mut open(&parts.join(&member.path))?, member.bytes)?;
        }
        out.write_all(&[0; 2 * BLOCK])?;
        out.finish()?.sync_all()
    })();
    packed.map_err(|error| failed(to)(error))
}

fn write_padded(out: &mut impl Write, from: &mut impl io::Read, bytes: u64) -> io::Result<()> {
    if io::copy(&mut from.take(bytes), out)? != bytes {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    out.write_all(&[0; BLOCK][..padding(bytes)])
}

#[expect(clippy::disallowed_methods, reason = "an archive is streamed, and stands outside of the volume")]
fn open(path: &Path) -> io::Result<File> {
    File::open(path)
}

#[expect(clippy::disallowed_methods, reason = "an archive is streamed, and stands outside of the volume")]
fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}
