//! What a seal tells and what it does not: each way of writing to a file that it must notice, and each that it cannot
//! notice, together with the slower check that does.
//!
//! Images and overlays need root and a loop device; where a machine has none, the test says so and returns.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on must fail")]
#![expect(clippy::disallowed_methods, reason = "changes files behind the store's back")]
#![expect(clippy::print_stdout, reason = "says what this machine cannot show")]

mod common;

use std::{
    fs::{self, File, OpenOptions},
    io::{BufRead, BufReader},
    ops::ControlFlow,
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use common::{NOW, create, volume_folder};
use node_store::{
    models::{Finished, Measurement, Models, Partial, Scrubbed, Standing},
    volume::Volume,
};
use node_types::{
    Digest,
    config::{ModelFile, PIECE_BYTES},
};
use rustix::fs::{Advice, AtFlags, CWD, Timespec, Timestamps, UTIME_OMIT, fadvise, utimensat};

const CONTENT: &[u8] = &[b'w'; 10_000];
/// Like [`CONTENT`], of the same length, with one byte that is another.
const CHANGED_AT: u64 = 5000;

struct Home {
    // Closed before its folder goes.
    _volume: Volume,
    models: Models,
    /// What is mounted on the folder of the models, if anything is.
    _mount: Option<Mount>,
    _folder: tempfile::TempDir,
}

/// Something mounted, until this is dropped.
struct Mount(PathBuf);

impl Mount {
    /// `None`, and a word about it, where this machine cannot mount it.
    fn new(arguments: &[&str], at: &Path) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("not shown: mounting needs root");
            return None;
        }
        let mounted = Command::new("mount").args(arguments).arg(at).output().unwrap();
        if !mounted.status.success() {
            println!("not shown: mount {arguments:?}: {}", String::from_utf8_lossy(&mounted.stderr));
            return None;
        }
        Some(Self(at.to_owned()))
    }

    /// The folder `below` through FUSE; `None`, and a word about it, where this machine has none.
    fn through_fuse(below: &Path, at: &Path) -> Option<Self> {
        let device = OpenOptions::new().read(true).write(true).open("/dev/fuse");
        if device.is_err() || !rustix::process::geteuid().is_root() {
            println!("not shown: FUSE needs root and /dev/fuse");
            return None;
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/bindfs");
        // What the kernel remembers of a file outlives its being closed.
        let mounted = Command::new(script).args(["-o", "kernel_cache"]).args([below, at]).output().unwrap();
        assert!(mounted.status.success(), "{}", String::from_utf8_lossy(&mounted.stderr));
        Some(Self(at.to_owned()))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let done = Command::new("umount").arg(&self.0).stderr(Stdio::null()).status();
        if !done.is_ok_and(|done| done.success()) {
            // A test that failed may still have files open: the mount goes when they are closed.
            let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        }
    }
}

impl Home {
    fn new() -> Self {
        Self::mounted(|_, _| Some(None)).unwrap()
    }

    /// With what `mount` mounts on the folder of the models, which is empty; `None` where it mounts nothing.
    fn mounted(mount: impl FnOnce(&Path, &Path) -> Option<Option<Mount>>) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let volume = create(&volume_folder(&folder));
        let models = volume.models();
        fs::create_dir(models.folder()).unwrap();
        let mount = mount(folder.path(), models.folder())?;
        fs::set_permissions(models.folder(), fs::Permissions::from_mode(0o755)).unwrap();
        Some(Self { _volume: volume, models, _mount: mount, _folder: folder })
    }

    fn fetched(&self) -> Partial {
        let partial = self.models.begin(&wanted(CONTENT), NOW).unwrap();
        partial.write(0, 0, CONTENT).unwrap();
        partial.note(0, CONTENT.len() as u64, NOW).unwrap();
        partial
    }

    fn install(&self) -> Digest {
        assert_eq!(self.fetched().finish(NOW, &mut on).unwrap(), Finished::Installed);
        Digest::of(CONTENT)
    }

    fn sealed() -> (Self, Digest, PathBuf) {
        let home = Self::new();
        let sha256 = home.install();
        assert_eq!(home.stand(sha256), Standing::Sealed);
        let path = home.models.path(sha256);
        (home, sha256, path)
    }

    fn stand(&self, sha256: Digest) -> Standing {
        self.models.view().stand(sha256).unwrap()
    }

    fn measure(&self, sha256: Digest) -> Measurement {
        self.models.measure(sha256, NOW, &mut on).unwrap()
    }

    fn broken(&self, sha256: Digest, why: &str) {
        let Standing::Broken(said) = self.stand(sha256) else { panic!("{:?}", self.stand(sha256)) };
        assert!(said.contains(why), "{said}");
    }

    /// Whether hashing it again may seal it, is `again`.
    fn untrusted(&self, sha256: Digest, why: &str, again: bool) {
        let standing = self.stand(sha256);
        assert!(
            matches!(&standing, Standing::Untrusted { why: said, again: it } if said.contains(why) && *it == again),
            "{standing:?}"
        );
    }

    fn stamp(&self) -> Option<Digest> {
        self.models.view().files().unwrap()[0].stamp
    }

    /// The seal is fooled; reading is not.
    fn fooled(&self, sha256: Digest) {
        assert_eq!(self.stand(sha256), Standing::Sealed, "the seal cannot see it");
        assert_eq!(self.models.scrub_piece(sha256, NOW).unwrap(), Scrubbed::Damaged { piece: 0 });
        self.broken(sha256, "piece 0");
        let Measurement::Differs { damaged, .. } = self.measure(sha256) else { panic!("it passed") };
        assert_eq!(damaged, [0]);
    }
}

fn wanted(content: &[u8]) -> ModelFile {
    let (bytes, sha256) = (content.len() as u64, Digest::of(content));
    ModelFile { path: "weights.gguf".into(), bytes, sha256, pieces_blake3: Vec::new() }
}

fn on(_: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn timespec(seconds: i64, nanoseconds: i64) -> Timespec {
    Timespec { tv_sec: seconds, tv_nsec: nanoseconds }
}

fn set_modified(path: &Path, modified: Timespec) {
    let times = Timestamps { last_access: timespec(0, UTIME_OMIT), last_modification: modified };
    utimensat(CWD, path, &times, AtFlags::empty()).unwrap();
}

/// Changes one byte as a thief would: length, mode and time of modification are what they were.
fn change_a_byte(path: &Path) {
    put_a_byte(path, b"X");
}

fn put_a_byte(path: &Path, byte: &[u8; 1]) {
    let before = fs::metadata(path).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(byte, CHANGED_AT).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o444)).unwrap();
    set_modified(path, timespec(before.mtime(), before.mtime_nsec()));
    let after = fs::metadata(path).unwrap();
    let seen = |data: &fs::Metadata| (data.len(), data.mode(), data.mtime(), data.mtime_nsec(), data.ino());
    assert_eq!(seen(&before), seen(&after));
}

#[test]
fn a_change_of_one_byte_with_its_time_restored_is_seen() {
    let (home, sha256, path) = Home::sealed();
    change_a_byte(&path);
    home.broken(sha256, "time of change");
    assert!(matches!(home.measure(sha256), Measurement::Differs { damaged, .. } if damaged == [0]));
}

#[test]
fn a_file_swapped_by_rename_is_seen() {
    let (home, sha256, path) = Home::sealed();
    let (before, other) = (fs::metadata(&path).unwrap(), path.with_extension("other"));
    fs::write(&other, CONTENT).unwrap();
    fs::set_permissions(&other, fs::Permissions::from_mode(0o444)).unwrap();
    set_modified(&other, timespec(before.mtime(), before.mtime_nsec()));
    fs::rename(&other, &path).unwrap();
    home.broken(sha256, "inode");
    assert_eq!(home.measure(sha256), Measurement::Same, "the same content, as it turns out");
    assert_eq!(home.stand(sha256), Standing::Sealed);
}

#[test]
fn a_file_that_was_only_touched_is_hashed_and_sealed_again() {
    let (home, sha256, path) = Home::sealed();
    let stamp = home.stamp();
    assert!(stamp.is_some());
    assert_eq!(home.measure(sha256), Measurement::Same);
    assert_eq!(home.stamp(), stamp, "nobody touched it");
    set_modified(&path, timespec(1_700_000_000, 5));
    home.broken(sha256, "time of modification");
    assert_eq!(home.measure(sha256), Measurement::Same);
    assert_eq!(home.stand(sha256), Standing::Sealed);
    assert_ne!(home.stamp(), stamp);
}

/// Opens a file for writing that nobody may write to, as somebody would who had it open before.
fn writer_of(path: &Path) -> File {
    let mode = fs::metadata(path).unwrap().mode();
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    let writer = OpenOptions::new().write(true).open(path).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    writer
}

/// Writes what is there already, once the kernel's clock went on.
fn write_the_same(writer: &File) {
    std::thread::sleep(std::time::Duration::from_millis(20));
    writer.write_all_at(b"w", CHANGED_AT).unwrap();
}

#[test]
fn a_file_without_a_seal_that_was_written_since_is_seen() {
    let (home, sha256, path) = Home::sealed();
    let writer = writer_of(&path);
    assert_eq!(home.measure(sha256), Measurement::Same);
    home.untrusted(sha256, "open for writing", true);
    let stamp = home.stamp();
    assert!(stamp.is_some());
    assert_eq!(home.measure(sha256), Measurement::Same);
    assert_eq!(home.stamp(), stamp, "nobody wrote");
    write_the_same(&writer);
    home.broken(sha256, "time of modification");
    assert_eq!(home.measure(sha256), Measurement::Same);
    home.untrusted(sha256, "open for writing", true);
    assert_ne!(home.stamp(), stamp);
}

#[test]
fn what_is_written_to_a_file_without_a_seal_while_it_is_hashed_is_seen() {
    let (home, sha256, path) = Home::sealed();
    let writer = writer_of(&path);
    let mut progress = |_| {
        write_the_same(&writer);
        ControlFlow::Continue(())
    };
    assert_eq!(home.models.measure(sha256, NOW, &mut progress).unwrap(), Measurement::Same);
    home.broken(sha256, "time of modification");

    let home = Home::new();
    let partial = home.fetched();
    let writer = writer_of(partial.path());
    let mut progress = |_| {
        write_the_same(&writer);
        ControlFlow::Continue(())
    };
    assert_eq!(partial.finish(NOW, &mut progress).unwrap(), Finished::Installed);
    home.broken(sha256, "time of modification");
}

#[test]
fn a_file_that_somebody_has_open_for_writing_is_not_sealed() {
    let (home, sha256, path) = Home::sealed();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let writer = OpenOptions::new().write(true).open(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
    assert_eq!(home.measure(sha256), Measurement::Same);
    home.untrusted(sha256, "open for writing", true);
    drop(writer);
    assert_eq!(home.measure(sha256), Measurement::Same);
    assert_eq!(home.stand(sha256), Standing::Sealed);
}

/// A map that was dirtied before the seal can be written to without any time moving: git, rsync and make are fooled by
/// it. The lease is refused as long as it exists.
#[test]
fn a_file_with_a_writable_map_that_was_dirtied_before_is_not_sealed() {
    let (home, sha256, path) = Home::sealed();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let program = "import mmap, sys
file = open(sys.argv[1], 'r+b')
view = mmap.mmap(file.fileno(), 0)
file.close()
view[0:1] = b'w'
print('dirty', flush=True)
for line in sys.stdin:
    view[5000:5001] = b'X'
    print('written', flush=True)
view.close()
";
    let mut mapper = Command::new("python3")
        .args(["-c", program])
        .arg(&path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(mapper.stdout.take().unwrap()).lines();
    assert_eq!(said.next().unwrap().unwrap(), "dirty");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
    assert_eq!(home.measure(sha256), Measurement::Same);
    home.untrusted(sha256, "writable map", true);
    let changed = |path: &Path| fs::metadata(path).map(|data| (data.ctime(), data.ctime_nsec())).unwrap();
    let before = changed(&path);
    let mut ask = mapper.stdin.take().unwrap();
    std::io::Write::write_all(&mut ask, b"go\n").unwrap();
    assert_eq!(said.next().unwrap().unwrap(), "written");
    if changed(&path) != before {
        println!("the map's page was written back in between");
    }
    assert!(matches!(home.measure(sha256), Measurement::Differs { .. }));
    drop(ask);
    assert!(mapper.wait().unwrap().success());
    home.broken(sha256, "its content is");
}

#[test]
fn a_file_that_somebody_began_to_write_to_while_it_was_hashed_is_not_sealed() {
    if !rustix::process::geteuid().is_root() {
        println!("not shown: opening a file that nobody may write to needs root");
        return;
    }
    let (home, sha256, path) = Home::sealed();
    let mut refused = None;
    let mut progress = |_| {
        // Without waiting for the lease to end; that it is asked for breaks it.
        let flags = rustix::fs::OFlags::NONBLOCK.bits().try_into().unwrap();
        refused = OpenOptions::new().write(true).custom_flags(flags).open(&path).err();
        ControlFlow::Continue(())
    };
    assert_eq!(home.models.measure(sha256, NOW, &mut progress).unwrap(), Measurement::Same);
    assert_eq!(refused.unwrap().kind(), std::io::ErrorKind::WouldBlock);
    home.untrusted(sha256, "opened for writing while", true);
}

#[test]
fn a_file_whose_time_does_not_lie_in_the_past_is_not_sealed() {
    let (home, sha256, path) = Home::sealed();
    let ahead = fs::metadata(&path).unwrap().ctime() + 3600;
    set_modified(&path, timespec(ahead, 1));
    assert_eq!(home.measure(sha256), Measurement::Same);
    home.untrusted(sha256, "lies ahead", true);
    set_modified(&path, timespec(ahead - 7200, 1));
    assert_eq!(home.measure(sha256), Measurement::Same);
    assert_eq!(home.stand(sha256), Standing::Sealed);
}

/// A file system in a file.
struct Image(PathBuf);

impl Image {
    fn new(folder: &Path, bytes: u64) -> Self {
        let path = folder.join("image");
        File::create(&path).unwrap().set_len(bytes).unwrap();
        // No journal: nothing of what is written to the image by hand is written over at the next mount.
        let made = Command::new("mkfs.ext4")
            .args(["-q", "-F", "-b", "4096", "-I", "256", "-O", "^has_journal"])
            .arg(&path)
            .status();
        assert!(made.unwrap().success());
        Self(path)
    }

    fn mount(&self, at: &Path) -> Option<Mount> {
        Mount::new(&["-t", "ext4", "-o", "loop", self.0.to_str().unwrap()], at)
    }

    fn debugfs(&self, request: &str) -> String {
        let output = Command::new("debugfs").args(["-w", "-R", request]).arg(&self.0).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The blocks of the image that a file takes, in the order of the file.
    fn blocks(&self, name: &str) -> Vec<u64> {
        let blocks = self.debugfs(&format!("blocks /{name}"));
        blocks.split_whitespace().map(|block| block.parse().unwrap()).collect()
    }

    /// Writes one byte of a file where it lies in the image.
    fn write_raw(&self, name: &str) {
        let at = self.blocks(name)[usize::try_from(CHANGED_AT / 4096).unwrap()];
        let image = OpenOptions::new().read(true).write(true).open(&self.0).unwrap();
        let mut found = [0];
        image.read_exact_at(&mut found, at * 4096 + CHANGED_AT % 4096).unwrap();
        assert_eq!(&found, b"w", "not where the file lies");
        image.write_all_at(b"X", at * 4096 + CHANGED_AT % 4096).unwrap();
        image.sync_all().unwrap();
    }
}

/// A sealed file in an image that is mounted on the folder of the models.
fn in_image() -> Option<(Home, Image, Digest)> {
    let (home, image) = empty_image(32 << 20)?;
    let sha256 = home.install();
    rustix::fs::syncfs(File::open(home.models.folder()).unwrap()).unwrap();
    assert_eq!(home.stand(sha256), Standing::Sealed);
    Some((home, image, sha256))
}

fn empty_image(bytes: u64) -> Option<(Home, Image)> {
    let mut image = None;
    let home = Home::mounted(|folder, models| {
        let made = Image::new(folder, bytes);
        let mount = made.mount(models)?;
        image = Some(made);
        Some(Some(mount))
    })?;
    Some((home, image?))
}

#[test]
fn what_the_disk_cannot_read_is_damaged_and_fetched_again() {
    let Some((home, image)) = empty_image(256 << 20) else { return };
    let tail = b"the last bytes of the weights";
    let mut content = vec![b'w'; usize::try_from(PIECE_BYTES).unwrap()];
    content.extend_from_slice(tail);
    let wanted = wanted(&content);
    let partial = home.models.begin(&wanted, NOW).unwrap();
    partial.write(0, 0, &content[..content.len() - tail.len()]).unwrap();
    partial.write(1, 0, tail).unwrap();
    partial.note(0, PIECE_BYTES, NOW).unwrap();
    partial.note(1, tail.len() as u64, NOW).unwrap();
    assert_eq!(partial.finish(NOW, &mut on).unwrap(), Finished::Installed);
    let (sha256, path) = (wanted.sha256, home.models.path(wanted.sha256));
    rustix::fs::syncfs(File::open(home.models.folder()).unwrap()).unwrap();
    // The disk ends before one of the file's blocks; the last piece has one, all others are the first one's.
    let blocks = image.blocks(&sha256.hex());
    let lost = *blocks.iter().max().unwrap();
    let piece = u64::from(blocks.last() == Some(&lost));
    OpenOptions::new().write(true).open(&image.0).unwrap().set_len(lost * 4096).unwrap();
    let file = File::open(&path).unwrap();
    fadvise(&file, 0, None, Advice::DontNeed).unwrap();
    let mut rest = Vec::new();
    if std::io::Read::read_to_end(&mut &file, &mut rest).is_ok() {
        println!("not shown: this kernel reads zeros beyond the end of a loop device's file");
        return;
    }
    assert_eq!(home.measure(sha256), Measurement::Differs { found: None, damaged: vec![piece] });
    home.broken(sha256, &format!("pieces [{piece}]"));
    // As if another piece had been found first: the one that cannot be copied is left to be fetched.
    let repair = home.models.begin_repair(&wanted, &[1 - piece], NOW, &mut on).unwrap().unwrap();
    assert_eq!((repair.received(0), repair.received(1)), (0, 0));
}

impl Home {
    /// The machine is off while `edit` is at work.
    fn unmounted(&mut self, image: &Image, edit: impl FnOnce()) {
        self._mount = None;
        edit();
        self._mount = Some(image.mount(self.models.folder()).unwrap());
    }
}

#[test]
fn limit_raw_writes_below_the_file_system() {
    let Some((home, image, sha256)) = in_image() else { return };
    image.write_raw(&sha256.hex());
    // What the kernel remembers is still good; the scrub makes it forget.
    home.fooled(sha256);
}

#[test]
fn limit_edits_while_the_machine_is_off() {
    let Some((mut home, image, sha256)) = in_image() else { return };
    home.unmounted(&image, || {});
    assert_eq!(home.stand(sha256), Standing::Sealed, "a seal outlives a restart");
    home.unmounted(&image, || image.write_raw(&sha256.hex()));
    home.fooled(sha256);
}

#[test]
fn limit_root_sets_the_time_of_change_back() {
    let Some((mut home, image, sha256)) = in_image() else { return };
    let path = home.models.path(sha256);
    let before = fs::metadata(&path).unwrap();
    change_a_byte(&path);
    home.broken(sha256, "time of change");
    home.unmounted(&image, || {
        let name = sha256.hex();
        image.debugfs(&format!("set_inode_field /{name} ctime @{}", before.ctime()));
        let extra = before.ctime_nsec() << 2;
        image.debugfs(&format!("set_inode_field /{name} ctime_extra {extra}"));
    });
    home.fooled(sha256);
}

#[test]
fn limit_stacked_and_unknown_file_systems_have_no_seals() {
    let overlay = Home::mounted(|folder, models| {
        let under = folder.join("under");
        fs::create_dir(&under).unwrap();
        // Where the temporary folder itself is an overlay, another one cannot stand on it.
        let tmpfs = Mount::new(&["-t", "tmpfs", "tmpfs"], &under)?;
        for name in ["lower", "upper", "work"] {
            fs::create_dir(under.join(name)).unwrap();
        }
        let at = |name: &str| under.join(name).display().to_string();
        let options = format!("lowerdir={},upperdir={},workdir={}", at("lower"), at("upper"), at("work"));
        let overlay = Mount::new(&["-t", "overlay", "-o", &options, "overlay"], models)?;
        // It goes with the mount that stands on it.
        drop(Command::new("umount").arg("-l").arg(&under).status());
        std::mem::forget(tmpfs);
        Some(Some(overlay))
    });
    let ramfs = Home::mounted(|_, models| Mount::new(&["-t", "ramfs", "ramfs"], models).map(Some));
    for (home, name) in [(overlay, "overlayfs"), (ramfs, "ramfs")] {
        let Some(home) = home else { continue };
        let sha256 = home.install();
        home.untrusted(sha256, name, false);
        let path = home.models.path(sha256);
        std::thread::sleep(std::time::Duration::from_millis(20));
        set_modified(&path, timespec(1_700_000_000, 5));
        home.broken(sha256, "time of modification");
        assert_eq!(home.measure(sha256), Measurement::Same);
        home.untrusted(sha256, name, false);
        std::thread::sleep(std::time::Duration::from_millis(20));
        change_a_byte(&path);
        home.broken(sha256, "time of change");
        assert_eq!(home.models.scrub_piece(sha256, NOW).unwrap(), Scrubbed::Damaged { piece: 0 });
        assert!(matches!(home.measure(sha256), Measurement::Differs { .. }), "hashing finds it");
    }
}

/// What lies below is written without the kernel's knowing that what it shows has changed.
#[test]
fn limit_a_file_system_of_fuse_has_no_seals() {
    let below = tempfile::tempdir().unwrap();
    let Some(home) = Home::mounted(|_, models| Mount::through_fuse(below.path(), models).map(Some)) else {
        return;
    };
    let sha256 = home.install();
    home.untrusted(sha256, "fuse", false);
    assert_eq!(home.measure(sha256), Measurement::Same);
    home.untrusted(sha256, "fuse", false);
    assert_eq!(fs::read(home.models.path(sha256)).unwrap(), CONTENT, "the kernel remembers it");
    let path = below.path().join(sha256.hex());
    change_a_byte(&path);
    assert!(matches!(home.measure(sha256), Measurement::Differs { damaged, .. } if damaged == [0]));

    put_a_byte(&path, b"w");
    assert_eq!(home.measure(sha256), Measurement::Same);
    change_a_byte(&path);
    assert_eq!(home.models.scrub_piece(sha256, NOW).unwrap(), Scrubbed::Damaged { piece: 0 });
}
