//! The ways, one function each. `Ok` says how it reached what it was after, `Err` why not.

use std::{
    ffi::CString,
    fs::{self, OpenOptions},
    io::{self, Read, Write},
    mem,
    net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            fs::{FileExt, FileTypeExt, OpenOptionsExt, PermissionsExt},
            net::UnixStream,
        },
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::{facts::Facts, host};

type Outcome = Result<String, String>;
/// One way.
pub(crate) type Way = fn(&Facts) -> Outcome;

/// Every way, by name.
pub(crate) const WAYS: [(&str, Way); 47] = [
    ("key_file", |facts| holds(facts, &read(facts.path("key")?)?)),
    ("key_write", key_write),
    ("key_rename", key_rename),
    ("key_folder", |facts| lists(&parent(facts.path("key")?))),
    ("key_folder_swapped", |facts| swapped(&parent(facts.path("key")?), &Facts::own_folder())),
    ("volume_folder", |facts| lists(facts.path("volume")?)),
    ("volume_modes", volume_modes),
    ("hard_link_found", |facts| holds(facts, &read(facts.path("link")?)?)),
    ("hard_link_made", |facts| linked(facts, "hard-link", |key, own| fs::hard_link(key, own))),
    ("symlink_made", |facts| linked(facts, "symlink", |key, own| std::os::unix::fs::symlink(key, own))),
    ("agent_memory", agent_memory),
    ("agent_maps", |facts| agent(facts, "maps").and_then(|path| read(&path)).and_then(|maps| some(&maps))),
    ("agent_environment", |facts| holds(facts, &read(&agent(facts, "environ")?)?)),
    ("agent_arguments", |facts| holds(facts, &read(&agent(facts, "cmdline")?)?)),
    ("agent_descriptors", agent_descriptors),
    ("agent_root", |facts| {
        let key = facts.path("key")?;
        holds(facts, &read(&agent(facts, "root")?.join(key.strip_prefix("/").unwrap_or(key)))?)
    }),
    ("agent_folder", |facts| {
        let name = facts.path("key")?.file_name().unwrap_or_default().to_owned();
        holds(facts, &read(&agent(facts, "cwd")?.join(name))?)
    }),
    ("agent_trace", agent_trace),
    ("agent_read_memory", agent_read_memory),
    ("agent_take_descriptor", agent_take_descriptor),
    ("agent_signal", agent_signal),
    ("agent_limits", agent_limits),
    ("inherited_descriptors", inherited_descriptors),
    ("own_environment", |facts| {
        let all: Vec<u8> = std::env::vars_os()
            .flat_map(|(name, value)| [name, value])
            .flat_map(|it| it.into_encoded_bytes())
            .collect();
        holds(facts, &all)
    }),
    ("own_arguments", |facts| holds(facts, std::env::args().collect::<String>().as_bytes())),
    ("engine_socket", |_| engines(Path::new("/"))),
    ("engine_socket_linked", engine_linked),
    ("engine_socket_of_others", |facts| {
        engines(&agent(facts, "root")?).or_else(|_| engines(Path::new("/proc/1/root")))
    }),
    ("session_keyring", |facts| keyring(facts, libc::KEY_SPEC_SESSION_KEYRING)),
    ("user_keyring", |facts| keyring(facts, libc::KEY_SPEC_USER_KEYRING)),
    ("requested_key", requested_key),
    ("core_dump", core_dump),
    ("agent_core_dump", agent_core_dump),
    ("shared_file", |facts| holds(facts, &read(facts.path("shared-file")?)?)),
    ("shared_segment", shared_segment),
    ("abstract_socket", abstract_socket),
    ("volume_socket", |facts| {
        let stream = UnixStream::connect(facts.path("volume-socket")?).map_err(said)?;
        stream.set_read_timeout(Some(LIMIT)).map_err(said)?;
        holds(facts, &heard(stream)?)
    }),
    ("loopback", |facts| tcp(facts, "loopback")),
    ("machine_service", |facts| tcp(facts, "machine-service")),
    ("fast_open", fast_open),
    ("multipath", multipath),
    ("udp", udp),
    ("mounts", mounts),
    ("disks", disks),
    ("kernel_memory", kernel_memory),
    ("models_write", models_write),
    ("model_swapped", |facts| swapped(facts.path("model")?, facts.path("key")?)),
];

/// The longest that an answer is waited for.
const LIMIT: Duration = Duration::from_secs(3);
/// The most that is read of a file: 1 MiB.
const BYTES_MAX: u64 = 1 << 20;

fn said(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn last() -> String {
    io::Error::last_os_error().to_string()
}

/// Whether these bytes hold the secret.
fn holds(facts: &Facts, bytes: &[u8]) -> Outcome {
    let secret = facts.secret()?;
    if bytes.windows(secret.len()).any(|part| part == secret.as_bytes()) {
        Ok(format!("the secret is among {} bytes", bytes.len()))
    } else {
        Err(format!("{} bytes without the secret", bytes.len()))
    }
}

/// Reads the beginning of a file, and never waits for it.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, String> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let mut bytes = Vec::new();
    file.and_then(|file| file.take(BYTES_MAX).read_to_end(&mut bytes)).map_err(said)?;
    Ok(bytes)
}

fn some(bytes: &[u8]) -> Outcome {
    if bytes.is_empty() { Err("nothing in it".to_owned()) } else { Ok(format!("{} bytes", bytes.len())) }
}

fn lists(folder: &Path) -> Outcome {
    let names: Vec<String> = fs::read_dir(folder)
        .map_err(said)?
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .collect();
    if names.is_empty() { Err("it is empty".to_owned()) } else { Ok(names.join(" ")) }
}

fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or(path).to_owned()
}

/// A file of the Agent's in `/proc`.
fn agent(facts: &Facts, name: &str) -> Result<PathBuf, String> {
    Ok(format!("/proc/{}/{name}", facts.text("agent")?).into())
}

fn pid(facts: &Facts) -> Result<libc::pid_t, String> {
    facts.number("agent")
}

fn key_write(facts: &Facts) -> Outcome {
    OpenOptions::new().append(true).open(facts.path("key")?).map_err(said)?;
    Ok("it is open for writing".to_owned())
}

fn key_rename(facts: &Facts) -> Outcome {
    let key = facts.path("key")?;
    let away = key.with_extension("away");
    fs::rename(key, &away).map_err(said)?;
    fs::rename(&away, key).map_err(said)?;
    Ok("it was away for a moment".to_owned())
}

fn volume_modes(facts: &Facts) -> Outcome {
    let volume = facts.path("volume")?;
    let mode = |path: &Path| fs::metadata(path).map(|it| it.permissions().mode() & 0o777).map_err(said);
    let before = mode(volume)?;
    fs::set_permissions(volume, PermissionsExt::from_mode(0o777)).map_err(said)?;
    let opened = mode(volume)?;
    fs::set_permissions(volume, PermissionsExt::from_mode(before)).map_err(said)?;
    if opened == before {
        Err("it stayed as it was".to_owned())
    } else {
        Ok(format!("{before:o} became {opened:o}"))
    }
}

/// Makes a link to the key in the probe's own folder and reads through it.
fn linked(facts: &Facts, name: &str, link: fn(&Path, &Path) -> io::Result<()>) -> Outcome {
    let own = Facts::own_folder().join(name);
    let _ = fs::remove_file(&own);
    link(facts.path("key")?, &own).map_err(said)?;
    let bytes = read(&own);
    let _ = fs::remove_file(&own);
    holds(facts, &bytes?)
}

fn agent_memory(facts: &Facts) -> Outcome {
    let memory = fs::File::open(agent(facts, "mem")?).map_err(said)?;
    let mut bytes = vec![0; facts.secret()?.len()];
    memory.read_exact_at(&mut bytes, facts.number("address")?).map_err(said)?;
    holds(facts, &bytes)
}

fn agent_read_memory(facts: &Facts) -> Outcome {
    let mut bytes = vec![0_u8; facts.secret()?.len()];
    let local = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let remote = libc::iovec {
        iov_base: facts.number::<usize>("address")? as *mut libc::c_void,
        iov_len: bytes.len(),
    };
    // SAFETY: the local vector is of this length and outlives the call; the remote one is another process's affair.
    let count = unsafe { libc::process_vm_readv(pid(facts)?, &raw const local, 1, &raw const remote, 1, 0) };
    if count < 0 { Err(last()) } else { holds(facts, &bytes) }
}

fn agent_descriptors(facts: &Facts) -> Outcome {
    for entry in fs::read_dir(agent(facts, "fd")?).map_err(said)?.flatten() {
        // Reading a pipe or a terminal would take what is the Agent's.
        let is_file = fs::metadata(entry.path()).is_ok_and(|it| it.is_file());
        if is_file && let Ok(found) = read(&entry.path()).and_then(|bytes| holds(facts, &bytes)) {
            return Ok(found);
        }
    }
    Err("none of them holds the secret".to_owned())
}

fn agent_trace(facts: &Facts) -> Outcome {
    let pid = pid(facts)?;
    // A thread of its own: when it ends, the kernel lets go of what it traces.
    let seized = std::thread::spawn(move || {
        // SAFETY: nothing is passed but numbers.
        let seized = unsafe {
            libc::ptrace(libc::PTRACE_SEIZE, pid, std::ptr::null_mut::<u8>(), std::ptr::null_mut::<u8>())
        };
        if seized < 0 { Err(last()) } else { Ok("it is traced".to_owned()) }
    });
    seized.join().unwrap_or_else(|_| Err("its thread ended".to_owned()))
}

fn agent_take_descriptor(facts: &Facts) -> Outcome {
    let own = |number: libc::c_long| {
        let number = libc::c_int::try_from(number).unwrap_or(-1);
        if number < 0 {
            return Err(last());
        }
        // SAFETY: it came back from a system call that makes descriptors, so nobody else owns it.
        Ok(unsafe { OwnedFd::from_raw_fd(number) })
    };
    // SAFETY: nothing is passed but numbers.
    let process = own(unsafe { libc::syscall(libc::SYS_pidfd_open, pid(facts)?, 0) })?;
    let mut why = String::new();
    for number in 0..64 {
        // SAFETY: nothing is passed but numbers.
        match own(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0) }) {
            Ok(taken) => {
                let mut bytes = vec![0; 4096];
                let count = fs::File::from(taken).read_at(&mut bytes, 0).unwrap_or(0);
                if let Ok(found) = holds(facts, &bytes[..count]) {
                    return Ok(found);
                }
            }
            Err(error) => why = error,
        }
    }
    Err(why)
}

fn agent_signal(facts: &Facts) -> Outcome {
    // SAFETY: nothing is passed but numbers. Whoever does not expect this signal does not notice it.
    if unsafe { libc::kill(pid(facts)?, libc::SIGURG) } < 0 {
        Err(last())
    } else {
        Ok("it was signalled".to_owned())
    }
}

fn agent_limits(facts: &Facts) -> Outcome {
    // SAFETY: the old limit is written to memory that is ours; a new one is not passed.
    let done = unsafe {
        let mut old: libc::rlimit = mem::zeroed();
        libc::prlimit(pid(facts)?, libc::RLIMIT_CPU, std::ptr::null(), &raw mut old)
    };
    // Whoever may read them may set them, and end it so.
    if done < 0 { Err(last()) } else { Ok("its limits are in reach".to_owned()) }
}

fn inherited_descriptors(facts: &Facts) -> Outcome {
    for number in 3..256 {
        let mut bytes = [0_u8; 4096];
        // SAFETY: the buffer is of this length; a number that is no descriptor is refused.
        let count = unsafe { libc::pread(number, bytes.as_mut_ptr().cast(), bytes.len(), 0) };
        if let Ok(count) = usize::try_from(count)
            && let Ok(found) = holds(facts, &bytes[..count])
        {
            return Ok(found);
        }
    }
    Err("none of them holds the secret".to_owned())
}

/// Asks the container engines whose sockets stand below a root.
fn engines(root: &Path) -> Outcome {
    let mut why = String::new();
    for name in ["run/docker.sock", "var/run/docker.sock", "run/podman/podman.sock"] {
        match engine(&root.join(name)) {
            Ok(found) => return Ok(found),
            Err(error) => why = error,
        }
    }
    Err(why)
}

fn engine(path: &Path) -> Outcome {
    let mut stream = UnixStream::connect(path).map_err(said)?;
    stream.set_read_timeout(Some(LIMIT)).map_err(said)?;
    stream.write_all(b"GET /_ping HTTP/1.0\r\n\r\n").map_err(said)?;
    let answer = heard(stream)?;
    if answer.windows(3).any(|part| part == b"200") {
        Ok(path.display().to_string())
    } else {
        Err("no answer".to_owned())
    }
}

/// By a name of the probe's own, where names are what is refused.
fn engine_linked(_: &Facts) -> Outcome {
    let own = Facts::own_folder().join("engine");
    let _ = fs::remove_file(&own);
    std::os::unix::fs::symlink("/run/docker.sock", &own).map_err(said)?;
    let asked = engine(&own);
    let _ = fs::remove_file(&own);
    asked
}

/// Puts a link in the place of something of the Agent's, and takes it back: whatever opens it meanwhile opens what the link names.
fn swapped(path: &Path, target: &Path) -> Outcome {
    let away = path.with_extension("away");
    fs::rename(path, &away).map_err(said)?;
    let linked = std::os::unix::fs::symlink(target, path);
    let found = fs::read_link(path);
    if linked.is_ok() {
        let _ = fs::remove_file(path);
    }
    fs::rename(&away, path).map_err(said)?;
    linked.and(found).map(|found| format!("it led to {}", found.display())).map_err(said)
}

fn keyring(facts: &Facts, ring: libc::c_int) -> Outcome {
    let name = host::key_name(facts)?;
    // What is found is linked into a keyring of this process's: a key can be read by whoever has it in one.
    let own = libc::KEY_SPEC_PROCESS_KEYRING;
    // SAFETY: the texts end with a zero and outlive the call.
    let key = unsafe {
        libc::syscall(libc::SYS_keyctl, libc::KEYCTL_SEARCH, ring, c"user".as_ptr(), name.as_ptr(), own)
    };
    read_key(facts, key)
}

fn requested_key(facts: &Facts) -> Outcome {
    let name = host::key_name(facts)?;
    // SAFETY: the texts end with a zero and outlive the call.
    let key = unsafe {
        libc::syscall(libc::SYS_request_key, c"user".as_ptr(), name.as_ptr(), std::ptr::null::<u8>(), 0)
    };
    read_key(facts, key)
}

fn read_key(facts: &Facts, key: libc::c_long) -> Outcome {
    if key < 0 {
        return Err(last());
    }
    let mut bytes = vec![0_u8; 4096];
    // SAFETY: the buffer is of this length.
    let count =
        unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_READ, key, bytes.as_mut_ptr(), bytes.len()) };
    let count = usize::try_from(count).map_err(|_| last())?;
    holds(facts, &bytes[..count.min(4096)])
}

/// Runs something in a child of this process, and says whether it gave true. The child may allocate: this process's
/// other threads wait for connections meanwhile.
fn in_a_child(body: impl FnOnce() -> bool) -> Result<libc::c_int, String> {
    // SAFETY: the child does nothing but the body, and ends.
    unsafe {
        match libc::fork() {
            -1 => Err(last()),
            0 => libc::_exit(i32::from(!body())),
            child => {
                let mut status = 0;
                if libc::waitpid(child, &raw mut status, 0) < 0 { Err(last()) } else { Ok(status) }
            }
        }
    }
}

fn core_dump(_: &Facts) -> Outcome {
    let status = in_a_child(|| {
        let all = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
        // SAFETY: the limit outlives the call.
        unsafe {
            libc::setrlimit(libc::RLIMIT_CORE, &raw const all);
            libc::abort()
        }
    })?;
    if libc::WCOREDUMP(status) {
        Ok("its memory was written to a file".to_owned())
    } else {
        Err("no core dump".to_owned())
    }
}

/// Has a process that holds the secret as the Agent does write its memory to a file, and looks for the secret there.
fn agent_core_dump(facts: &Facts) -> Outcome {
    let bearer: libc::pid_t = facts.number("bearer")?;
    let all = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the limit outlives the call.
    let limit = unsafe { libc::prlimit(bearer, libc::RLIMIT_CORE, &raw const all, std::ptr::null_mut()) };
    let limit = if limit < 0 { last() } else { "its limit was raised".to_owned() };
    // SAFETY: nothing is passed but numbers.
    if unsafe { libc::kill(bearer, libc::SIGABRT) } < 0 {
        return Err(last());
    }
    // The kernel writes first and ends it then.
    let deadline = Instant::now() + 10 * LIMIT;
    // SAFETY: nothing is passed but numbers.
    while unsafe { libc::kill(bearer, 0) } == 0 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    let secret = facts.secret()?;
    for entry in fs::read_dir(facts.path("bearers-folder")?).map_err(said)?.flatten() {
        let bytes = fs::read(entry.path()).map_err(said)?;
        if bytes.windows(secret.len()).any(|part| part == secret.as_bytes()) {
            return Ok(format!("the secret is in {}", entry.path().display()));
        }
    }
    Err(format!("no core dump: {limit}"))
}

fn shared_segment(facts: &Facts) -> Outcome {
    let secret = facts.secret()?;
    // SAFETY: the segment is a page, which is larger than the secret.
    let bytes = unsafe {
        let id = libc::shmget(facts.number("segment")?, 0, 0);
        if id < 0 {
            return Err(last());
        }
        let at = libc::shmat(id, std::ptr::null(), libc::SHM_RDONLY);
        if at as isize == -1 {
            return Err(last());
        }
        let bytes = std::slice::from_raw_parts(at.cast::<u8>(), secret.len()).to_vec();
        libc::shmdt(at);
        bytes
    };
    holds(facts, &bytes)
}

fn abstract_socket(facts: &Facts) -> Outcome {
    let address =
        std::os::unix::net::SocketAddr::from_abstract_name(facts.text("abstract-socket")?).map_err(said)?;
    let stream = UnixStream::connect_addr(&address).map_err(said)?;
    stream.set_read_timeout(Some(LIMIT)).map_err(said)?;
    holds(facts, &heard(stream)?)
}

/// All that the other side says until it closes.
fn heard(mut stream: impl Read) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Err(error) if bytes.is_empty() => Err(said(error)),
        _ => Ok(bytes),
    }
}

fn tcp(facts: &Facts, name: &str) -> Outcome {
    let address: SocketAddr = facts.number(name)?;
    let stream = TcpStream::connect_timeout(&address, LIMIT).map_err(said)?;
    stream.set_read_timeout(Some(LIMIT)).map_err(said)?;
    holds(facts, &heard(stream)?)
}

/// A TCP socket and the address to connect it to, as the system calls want them.
fn raw_tcp(facts: &Facts, protocol: libc::c_int) -> Result<(TcpStream, libc::sockaddr_in), String> {
    let SocketAddr::V4(address) = facts.number("loopback")? else { return Err("no IPv4".to_owned()) };
    // SAFETY: nothing is passed but numbers, and a descriptor that came back is new.
    let stream = unsafe {
        let socket = libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, protocol);
        if socket < 0 {
            return Err(last());
        }
        TcpStream::from_raw_fd(socket)
    };
    stream.set_read_timeout(Some(LIMIT)).map_err(said)?;
    let address = libc::sockaddr_in {
        sin_family: libc::sa_family_t::try_from(libc::AF_INET).map_err(said)?,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(*address.ip()).to_be() },
        sin_zero: [0; 8],
    };
    Ok((stream, address))
}

fn size_of_address() -> Result<libc::socklen_t, String> {
    libc::socklen_t::try_from(size_of::<libc::sockaddr_in>()).map_err(said)
}

/// Sends with the first packet instead of connecting.
fn fast_open(facts: &Facts) -> Outcome {
    let (stream, address) = raw_tcp(facts, 0)?;
    // SAFETY: the buffer and the address outlive the call and are passed with their lengths.
    let sent = unsafe {
        let (to, size) = ((&raw const address).cast(), size_of_address()?);
        libc::sendto(
            stream.as_raw_fd(),
            b"x".as_ptr().cast(),
            1,
            libc::MSG_FASTOPEN | libc::MSG_NOSIGNAL,
            to,
            size,
        )
    };
    if sent < 0 { Err(last()) } else { holds(facts, &heard(stream)?) }
}

fn multipath(facts: &Facts) -> Outcome {
    let (stream, address) = raw_tcp(facts, libc::IPPROTO_MPTCP)?;
    // SAFETY: the address outlives the call and is passed with its length.
    let connected =
        unsafe { libc::connect(stream.as_raw_fd(), (&raw const address).cast(), size_of_address()?) };
    if connected < 0 { Err(last()) } else { holds(facts, &heard(stream)?) }
}

fn udp(facts: &Facts) -> Outcome {
    let address: SocketAddr = facts.number("udp")?;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(said)?;
    socket.set_read_timeout(Some(LIMIT)).map_err(said)?;
    socket.send_to(b"x", address).map_err(said)?;
    let mut bytes = [0; 4096];
    let count = socket.recv(&mut bytes).map_err(said)?;
    holds(facts, &bytes[..count])
}

/// Takes away what is mounted over the volume, as itself and as the superuser of a namespace of its own.
fn mounts(facts: &Facts) -> Outcome {
    let text = |path: &Path| CString::new(path.as_os_str().as_bytes()).map_err(said);
    let (volume, own) = (text(facts.path("volume")?)?, text(&Facts::own_folder())?);
    let key = facts.path("key")?;
    let below = Facts::own_folder().join(key.strip_prefix(facts.path("volume")?).map_err(said)?);
    let status = in_a_child(|| {
        let found = |path: &Path| read(path).is_ok_and(|bytes| holds(facts, &bytes).is_ok());
        // SAFETY: the paths end with a zero and outlive the calls.
        unsafe {
            let apart = libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS) == 0;
            libc::umount2(volume.as_ptr(), libc::MNT_DETACH);
            let uncovered = found(key);
            if !apart {
                // It would be seen by the whole machine.
                return uncovered;
            }
            libc::mount(volume.as_ptr(), own.as_ptr(), std::ptr::null(), libc::MS_BIND, std::ptr::null());
            uncovered || found(&below)
        }
    })?;
    if status == 0 { Ok("the secret was read".to_owned()) } else { Err("the secret is not there".to_owned()) }
}

/// Reads the beginning of a disk, or of one for which it makes a device.
fn disks(_: &Facts) -> Outcome {
    let mut found: Vec<PathBuf> =
        fs::read_dir("/dev").into_iter().flatten().flatten().map(|it| it.path()).collect();
    found.retain(|path| fs::metadata(path).is_ok_and(|it| it.file_type().is_block_device()));
    let own = Facts::own_folder().join("disk");
    let device = CString::new(own.as_os_str().as_bytes()).map_err(said)?;
    // The numbers of the first virtual, SCSI and NVMe disks.
    for (major, minor) in [(254, 0), (8, 0), (259, 0)] {
        let _ = fs::remove_file(&own);
        // SAFETY: the path ends with a zero and outlives the call.
        if unsafe { libc::mknod(device.as_ptr(), libc::S_IFBLK | 0o600, libc::makedev(major, minor)) } == 0 {
            found.push(own.clone());
        }
    }
    let mut why = "there is none".to_owned();
    for path in found {
        let mut bytes = [0; 512];
        match fs::File::open(&path).and_then(|mut file| file.read_exact(&mut bytes)) {
            Ok(()) => return Ok(path.display().to_string()),
            Err(error) => why = said(error),
        }
    }
    let _ = fs::remove_file(&own);
    Err(why)
}

fn kernel_memory(_: &Facts) -> Outcome {
    let mut why = String::new();
    for path in ["/proc/kcore", "/dev/mem", "/dev/kmem", "/dev/port"] {
        let mut byte = [0];
        match fs::File::open(path).and_then(|mut file| file.read_exact(&mut byte)) {
            Ok(()) => return Ok(path.to_owned()),
            Err(error) => why = said(error),
        }
    }
    Err(why)
}

fn models_write(facts: &Facts) -> Outcome {
    let path = parent(facts.path("model")?).join("planted");
    fs::write(&path, "x").map_err(said)?;
    let _ = fs::remove_file(&path);
    Ok(path.display().to_string())
}
