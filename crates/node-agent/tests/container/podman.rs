//! A Podman of a test's own: its images, containers and networks in a folder that goes with it.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use node_agent::runtime::container::SOCKET;
use tempfile::TempDir;

/// A service of Podman's; ended when it is dropped.
pub struct Podman {
    folder: TempDir,
    service: Child,
    /// One at a time: two that do not know of each other may choose one bridge.
    _alone: File,
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/podman")
}

/// Runs what follows where Podman sees nothing of another Podman's on this machine, and leaves nothing.
const APART: &str =
    "mount -t tmpfs podman /run/containers && mount -t tmpfs podman /var/lib/containers && exec \"$@\"";

impl Podman {
    /// Whether Podman is set up; says why where it cannot be. A machine that has all that it needs must have it.
    pub fn is_there() -> bool {
        let root = rustix::process::geteuid().is_root();
        if !root || !Path::new(SOCKET).exists() {
            eprintln!("not tested: Podman is, as root, where there is a container engine at {SOCKET}");
            return false;
        }
        let made = Command::new(script()).output().unwrap();
        let said = String::from_utf8_lossy(&made.stderr);
        let apt = Command::new("apt-get").arg("--version").output().is_ok();
        assert!(made.status.success() || !apt, "scripts/podman: {said}");
        if !made.status.success() {
            eprintln!("not tested: {said}");
        }
        made.status.success()
    }

    /// Starts it, with more of the section `containers` of its settings.
    pub fn start(more: &str) -> Option<Self> {
        if !Self::is_there() {
            return None;
        }
        let alone = File::create(Path::new(env!("CARGO_TARGET_TMPDIR")).join("podman")).unwrap();
        alone.lock().unwrap();
        for folder in ["/run/containers", "/var/lib/containers"] {
            std::fs::create_dir_all(folder).unwrap();
        }
        let folder = tempfile::tempdir().unwrap();
        let settings = folder.path().join("containers.conf");
        let usual =
            std::fs::read_to_string(script().with_file_name("../.tools/podman/containers.conf")).unwrap();
        std::fs::write(&settings, usual + more).unwrap();
        let service = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", APART, "podman"])
            .arg(script())
            .args(options(folder.path()))
            .args(["system", "service", "--time=0"])
            .arg(format!("unix://{}", socket(folder.path()).display()))
            .env("CONTAINERS_CONF", settings)
            // Where its monitor leaves a file once a container is killed for its memory.
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(File::create(folder.path().join("log")).unwrap())
            .stderr(File::options().append(true).open(folder.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let mut podman = Self { folder, service, _alone: alone };
        let begun = Instant::now();
        while std::os::unix::net::UnixStream::connect(podman.socket()).is_err() {
            let log = || std::fs::read_to_string(podman.folder.path().join("log")).unwrap();
            assert!(podman.service.try_wait().unwrap().is_none(), "Podman ended: {}", log());
            assert!(begun.elapsed() < super::PATIENCE, "Podman does not listen: {}", log());
            sleep(Duration::from_millis(20));
        }
        Some(podman)
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        socket(self.folder.path())
    }
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("socket")
}

fn options(folder: &Path) -> impl Iterator<Item = String> {
    let folders =
        [("root", "storage"), ("runroot", "run"), ("tmpdir", "tmp"), ("network-config-dir", "networks")];
    let folders = folders.map(|(name, place)| format!("--{name}={}", folder.join(place).display()));
    folders.into_iter().chain(["--storage-driver=vfs".to_owned()])
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = self.service.kill();
        let _ = self.service.wait();
        // They stay where another Podman has something in them.
        for folder in ["/run/containers", "/var/lib/containers"] {
            let _ = std::fs::remove_dir(folder);
        }
    }
}
