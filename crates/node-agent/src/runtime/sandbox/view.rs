//! What a program of another user sees: the models, read-only, and no volume.
//!
//! The volume is 0700 and the Agent's, so the models in it must be shown elsewhere, and only a superuser can do that. It
//! happens in namespaces of the program's own, so nothing of it is seen outside and nothing of it is left behind.

use std::{os::fd::AsRawFd, path::Path};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use rustix::{
    fs::{CWD, Mode, OFlags, mkdirat, openat},
    io::Errno,
};

use super::{Policy, policy::Shown};

/// Sockets through which one becomes another user or the superuser, whoever may open them.
const SOCKETS: [&str; 5] = [
    "/run/docker.sock",
    "/run/podman/podman.sock",
    "/run/containerd/containerd.sock",
    "/run/dbus/system_bus_socket",
    "/run/systemd/private",
];
const NOTHING_RUNS: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);

/// Makes the view, in mounts and System V memory of this process alone.
///
/// # Errors
/// What could not be done.
pub(super) fn make(policy: &Policy) -> Result<(), String> {
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC).map_err(|error| {
        format!(
            "cannot have a view of the files of its own: {error}; give the Agent CAP_SYS_ADMIN, or run it as a user who \
             is not root: the runtime is that user then, and runtime.user is left out"
        )
    })?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    put(None, Path::new("/"), None, private, None)?;
    if let Some(shown) = &policy.shown {
        show(shown)?;
    }
    for folder in policy.hidden.iter().filter(|folder| folder.is_dir()) {
        let empty = NOTHING_RUNS | MsFlags::MS_RDONLY;
        put(Some("tmpfs".as_ref()), folder, Some("tmpfs"), empty, Some("size=4k,mode=0555"))?;
    }
    for socket in SOCKETS.iter().map(Path::new).filter(|socket| socket.exists()) {
        put(Some("/dev/null".as_ref()), socket, None, MsFlags::MS_BIND, None)?;
    }
    Ok(())
}

/// Shows a folder in another one, which the program of an earlier start may have prepared as it liked: no link in it
/// is followed.
fn show(shown: &Shown) -> Result<(), String> {
    let failed = |error: Errno| {
        format!("cannot show the models in {}: {error}; remove what stands there", shown.at.display())
    };
    let (Some(parent), Some(name)) = (shown.at.parent(), shown.at.file_name()) else {
        return Err(failed(Errno::INVAL));
    };
    let folder = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let parent = openat(CWD, parent, folder, Mode::empty()).map_err(failed)?;
    match mkdirat(&parent, name, Mode::RWXU) {
        Err(Errno::EXIST) => {}
        other => other.map_err(failed)?,
    }
    let below = openat(&parent, name, folder, Mode::empty()).map_err(failed)?;
    put(Some(&shown.folder), &number(&below), None, MsFlags::MS_BIND, None)?;
    // A bind takes its flags only once it is there.
    let mounted = openat(&parent, name, folder, Mode::empty()).map_err(failed)?;
    let read_only = NOTHING_RUNS | MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    put(None, &number(&mounted), None, read_only, None)
}

fn number(descriptor: &impl AsRawFd) -> std::path::PathBuf {
    format!("/proc/self/fd/{}", descriptor.as_raw_fd()).into()
}

fn put(
    source: Option<&Path>,
    target: &Path,
    kind: Option<&str>,
    flags: MsFlags,
    data: Option<&str>,
) -> Result<(), String> {
    mount(source, target, kind, flags, data)
        .map_err(|error| format!("cannot mount on {}: {error}", target.display()))
}
