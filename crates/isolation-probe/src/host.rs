//! Starts an Agent of the test's beside things that only system calls can plant.

use std::{
    ffi::{CStr, CString},
    io,
    process::{Command, ExitStatus},
};

use crate::facts::Facts;

/// The variable that tells the Agent that the kernel takes keys.
const KEYS: &str = "RESULTITY_ISOLATION_KEYS";
/// The description of the key in the session's and the user's keyring; the user has those of other tests too.
pub(crate) fn key_name(facts: &Facts) -> Result<CString, String> {
    CString::new(format!("resultity-canary-{}", facts.text("segment")?)).map_err(|error| error.to_string())
}

/// Becomes the user that it was told, plants, runs the command to its end and clears away.
///
/// # Errors
/// What could not be done, or that the command failed.
pub(crate) fn run(facts: &Facts) -> Result<(), String> {
    let failed = |what: &str| format!("{what}: {}", io::Error::last_os_error());
    if let Ok(user) = facts.number::<libc::uid_t>("user") {
        // SAFETY: no memory is passed but an empty list; this process has one thread.
        let done = unsafe {
            libc::setgroups(0, std::ptr::null()) == 0
                && libc::setresgid(user, user, user) == 0
                && libc::setresuid(user, user, user) == 0
        };
        if !done {
            return Err(failed("setresuid"));
        }
    }
    let secret = facts.secret()?;
    // A system that refuses keyrings to everybody leaves nothing to reach there.
    let keys = plant_keys(&key_name(facts)?, &secret);
    let segment =
        Segment::plant(facts.number("segment")?, &secret).map_err(|error| format!("segment: {error}"))?;
    let (program, args) = facts.command.split_first().ok_or("no command")?;
    let planted = keys.is_ok().then_some((KEYS, "planted"));
    let status = Command::new(program).args(args).envs(planted).status();
    drop((segment, keys));
    let status: ExitStatus = status.map_err(|error| format!("{program}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{program}: {status}")) }
}

/// A key in the user's keyring, which outlives this process, as long as it is held.
struct UsersKey(libc::c_long);

impl Drop for UsersKey {
    fn drop(&mut self) {
        // SAFETY: nothing is passed but numbers.
        unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_UNLINK, self.0, libc::KEY_SPEC_USER_KEYRING) };
    }
}

/// Puts the secret into a new keyring of this session, and into the user's.
fn plant_keys(name: &CStr, secret: &str) -> io::Result<UsersKey> {
    let add = |ring: libc::c_int| {
        // SAFETY: the texts end with a zero and outlive the calls; the secret is passed with its length.
        let made = unsafe {
            libc::syscall(
                libc::SYS_add_key,
                c"user".as_ptr(),
                name.as_ptr(),
                secret.as_ptr(),
                secret.len(),
                ring,
            )
        };
        if made < 0 { Err(io::Error::last_os_error()) } else { Ok(made) }
    };
    // SAFETY: no name is passed.
    unsafe {
        libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<libc::c_char>());
    }
    add(libc::KEY_SPEC_SESSION_KEYRING)?;
    add(libc::KEY_SPEC_USER_KEYRING).map(UsersKey)
}

/// A segment of System V memory with the secret in it, as long as it is held.
struct Segment(libc::c_int);

impl Segment {
    fn plant(key: libc::key_t, secret: &str) -> io::Result<Self> {
        // SAFETY: the segment is larger than the secret, is mapped for as long as it is written to, and is nobody else's.
        unsafe {
            let id = libc::shmget(key, 4096, libc::IPC_CREAT | libc::IPC_EXCL | 0o600);
            if id < 0 {
                return Err(io::Error::last_os_error());
            }
            let segment = Self(id);
            let at = libc::shmat(id, std::ptr::null(), 0);
            if at as isize == -1 {
                return Err(io::Error::last_os_error());
            }
            std::ptr::copy_nonoverlapping(secret.as_ptr(), at.cast(), secret.len().min(4096));
            libc::shmdt(at);
            Ok(segment)
        }
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        // SAFETY: nothing is passed.
        unsafe { libc::shmctl(self.0, libc::IPC_RMID, std::ptr::null_mut()) };
    }
}
