//! The second stage: gives up what the program must not have, and becomes it.

use std::{
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
};

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, LandlockStatus, NetPort, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreatedAttr, Scope,
};
use rustix::{
    fs::Mode,
    process::{Pid, Resource, Rlimit, Signal},
    thread::{Gid, Uid},
};

use super::{Policy, calls, close_inherited, view};

/// The newest Landlock that is asked for; older kernels do what they can.
const NEWEST: ABI = ABI::V10;
/// What every program needs to start, and what says how many processors and how much memory there is. Those that a
/// system does not have are passed over.
const SYSTEM: [&str; 14] = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/driver",
    "/sys/devices",
];
/// Devices to read and write: those that hold nothing, and graphics cards.
const DEVICES: [&str; 6] = ["/dev/null", "/dev/zero", "/dev/random", "/dev/urandom", "/dev/dri", "/dev/kfd"];

/// Becomes the program.
///
/// # Errors
/// What could not be done; then there is no program.
pub(super) fn run(policy: &Policy) -> Result<u8, String> {
    close_inherited()?;
    die_with(policy.parent)?;
    if let Some((uid, gid, groups)) = &policy.user {
        view::make(policy)?;
        become_user(*uid, *gid, groups)?;
        // Changing the user forgot it.
        die_with(policy.parent)?;
    }
    rustix::process::setsid().map_err(|error| format!("cannot leave the session: {error}"))?;
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    // Its memory holds prompts.
    rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })
        .map_err(|error| format!("cannot forbid core dumps: {error}"))?;
    rustix::thread::set_no_new_privs(true).map_err(|error| format!("cannot give up privileges: {error}"))?;
    let landlock = restrict(policy)?;
    calls::give_up(may_have_local_sockets(policy, landlock))
        .map_err(|error| format!("cannot give up system calls: {error}"))?;
    let error = Command::new(&policy.program).args(&policy.args).exec();
    Err(format!("cannot start {}: {error}", policy.program.display()))
}

/// Has the kernel kill this process when `parent` ends.
fn die_with(parent: Pid) -> Result<(), String> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| format!("cannot be tied to the Agent: {error}"))?;
    // It may have ended before this was asked for.
    if rustix::process::getppid() == Some(parent) { Ok(()) } else { Err("the Agent ended".to_owned()) }
}

/// These are the calls for one thread, and this process has one.
fn become_user(uid: u32, gid: u32, groups: &[u32]) -> Result<(), String> {
    let groups: Vec<Gid> = groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    rustix::thread::set_thread_groups(&groups)
        .and_then(|()| rustix::thread::set_thread_res_gid(gid, gid, gid))
        .and_then(|()| rustix::thread::set_thread_res_uid(uid, uid, uid))
        .map_err(|error| format!("cannot become user {} of group {}: {error}", uid.as_raw(), gid.as_raw()))
}

#[expect(
    clippy::print_stderr,
    reason = "its standard error is a pipe to the Agent, which reads it line by line"
)]
fn restrict(policy: &Policy) -> Result<ABI, String> {
    let status = landlock(policy).map_err(|error| format!("cannot restrict it: {error}"))?;
    let abi = match status {
        LandlockStatus::NotEnabled | LandlockStatus::NotImplemented => ABI::Unsupported,
        LandlockStatus::Available { effective_abi, .. } => effective_abi,
    };
    let open = left_open(abi);
    if !open.is_empty() {
        eprintln!("sandbox: this kernel's Landlock cannot refuse: {}", open.join(", "));
    }
    Ok(abi)
}

/// Whether sockets in the file system are kept from it otherwise: by Landlock, or because it is another user.
#[expect(
    clippy::print_stderr,
    reason = "its standard error is a pipe to the Agent, which reads it line by line"
)]
fn may_have_local_sockets(policy: &Policy, landlock: ABI) -> bool {
    let kept_apart = policy.user.is_some() || landlock >= ABI::V9;
    if !kept_apart {
        eprintln!(
            "sandbox: this kernel's Landlock cannot refuse the local sockets of the Agent's user: the program gets none"
        );
    }
    kept_apart
}

fn landlock(policy: &Policy) -> Result<LandlockStatus, Box<dyn std::error::Error>> {
    let read = AccessFs::from_read(NEWEST);
    // What it writes it cannot start.
    let write = AccessFs::from_all(NEWEST) & !AccessFs::Execute;
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?
        .add_rule(NetPort::new(policy.port, AccessNet::BindTcp))?;
    let system =
        SYSTEM.iter().map(Path::new).filter(|path| path.exists()).map(|path| (path.to_owned(), read));
    let devices = devices().into_iter().map(|path| (path, write));
    let given = policy.read.iter().map(|path| (path.clone(), read));
    let written = policy.write.iter().map(|path| (path.clone(), write));
    for (path, access) in system.chain(devices).chain(given).chain(written) {
        let access = if path.is_dir() { access } else { access & AccessFs::from_file(NEWEST) };
        rules = rules.add_rule(PathBeneath::new(PathFd::new(path)?, access))?;
    }
    Ok(rules.restrict_self()?.landlock)
}

/// The devices that this machine has. NVIDIA's are numbered.
fn devices() -> Vec<PathBuf> {
    let entries = std::fs::read_dir("/dev").into_iter().flatten().flatten().map(|entry| entry.path());
    let nvidia = entries
        .filter(|path| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"nvidia")));
    DEVICES.iter().map(PathBuf::from).filter(|path| path.exists()).chain(nvidia).collect()
}

/// What a kernel with this Landlock cannot refuse and `calls` does not, by the versions of its interface (`landlock(7)`).
pub(super) fn left_open(abi: ABI) -> Vec<&'static str> {
    let since = [
        (ABI::V1, "files"),
        (ABI::V3, "truncating files"),
        (ABI::V4, "TCP connections"),
        (ABI::V5, "device control"),
        (ABI::V6, "signals and abstract sockets"),
    ];
    since.into_iter().filter(|(since, _)| abi < *since).map(|(_, what)| what).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_open_is_named() {
        assert_eq!(left_open(ABI::V10), [""; 0]);
        assert_eq!(left_open(ABI::V5), ["signals and abstract sockets"]);
        assert_eq!(left_open(ABI::V3), ["TCP connections", "device control", "signals and abstract sockets"]);
        assert_eq!(left_open(ABI::Unsupported).len(), 5);
    }
}
