//! Other ways to keep a job on disk, where they are installed: each is started on a socket of its own with
//! its data in the given folder, told to sync before it answers, and stopped again.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::{fs::chown, net::UnixStream, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, geteuid, kill_process};

use crate::{
    home,
    target::{Put, Target},
};

/// How long a server may take to answer for the first time.
const START_MAX: Duration = Duration::from_secs(20);

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}
type Wire = BufReader<Box<dyn Stream>>;

/// A server that runs.
#[derive(Debug)]
pub struct Peer {
    kind: Kind,
    server: Child,
    stop: Signal,
    address: Address,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Redis,
    Beanstalkd,
    Postgres,
}

#[derive(Debug)]
enum Address {
    Socket(PathBuf),
    Port(u16),
}

/// Starts every peer that is installed, with its data under `folder`; says of each other one why not.
#[must_use]
pub fn start_all(folder: &Path) -> Vec<Result<Peer, String>> {
    [Kind::Redis, Kind::Beanstalkd, Kind::Postgres].into_iter().map(|kind| start(kind, folder)).collect()
}

fn start(kind: Kind, folder: &Path) -> Result<Peer, String> {
    let program = kind.program();
    let Some(program) = find(program) else { return Err(format!("{program}: not installed")) };
    let data = folder.join(kind.name());
    std::fs::create_dir_all(&data).unwrap();
    let (mut command, address, stop) = match kind {
        Kind::Redis => {
            let mut command = Command::new(program);
            command.args(["--port", "0", "--unixsocket", "socket", "--save", "", "--appendonly", "yes"]);
            command.args(["--appendfsync", "always", "--daemonize", "no"]);
            (command, Address::Socket(data.join("socket")), Signal::TERM)
        }
        Kind::Beanstalkd => {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let mut command = Command::new(program);
            command.args(["-l", "127.0.0.1", "-p", &port.to_string(), "-f", "0", "-b", "."]);
            (command, Address::Port(port), Signal::TERM)
        }
        Kind::Postgres => {
            let mut init = as_postgres(&program.with_file_name("initdb"), &data)?;
            init.args(["-D", ".", "-A", "trust", "-U", "postgres", "--locale=C", "-E", "UTF8"]);
            let made = init.output().map_err(|error| format!("initdb: {error}"))?;
            if !made.status.success() {
                return Err(format!("initdb: {}", String::from_utf8_lossy(&made.stderr)));
            }
            let mut command = as_postgres(&program, &data)?;
            command.args(["-D", ".", "-k", ".", "-c", "listen_addresses=", "-c", "synchronous_commit=on"]);
            (command, Address::Socket(data.join(".s.PGSQL.5432")), Signal::INT)
        }
    };
    command.current_dir(&data).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let server = command.spawn().map_err(|error| format!("{}: {error}", kind.name()))?;
    let peer = Peer { kind, server, stop, address };
    let give_up = Instant::now() + START_MAX;
    while let Err(error) = peer.connect() {
        if Instant::now() > give_up {
            return Err(format!("{}: {error}", kind.name()));
        }
        thread::sleep(Duration::from_millis(20));
    }
    if matches!(kind, Kind::Postgres) {
        let mut wire = peer.connect().map_err(|error| error.to_string())?;
        query(&mut wire, "CREATE TABLE jobs (id bigint PRIMARY KEY, body text NOT NULL)");
    }
    Ok(peer)
}

/// A command as the user `postgres` where this is root, whom the server refuses.
fn as_postgres(program: &Path, data: &Path) -> Result<Command, String> {
    let mut command = Command::new(program);
    command.current_dir(data);
    if geteuid().is_root() {
        let id = |flag| -> Option<u32> {
            let output = Command::new("id").args([flag, "postgres"]).output().ok()?;
            String::from_utf8(output.stdout).ok()?.trim().parse().ok()
        };
        let (Some(user), Some(group)) = (id("-u"), id("-g")) else {
            return Err("postgres: there is no user postgres".to_owned());
        };
        chown(data, Some(user), Some(group)).unwrap();
        command.uid(user).gid(group);
    }
    Ok(command)
}

/// A program on the path, or where Debian puts PostgreSQL's: the newest.
fn find(program: &str) -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> = versions.map(|version| version.path().join("bin")).collect();
    folders.sort();
    folders.reverse();
    folders.extend(std::env::split_paths(&std::env::var_os("PATH")?));
    folders.into_iter().map(|folder| folder.join(program)).find(|path| path.is_file())
}

impl Kind {
    const fn program(self) -> &'static str {
        match self {
            Self::Redis => "redis-server",
            Self::Beanstalkd => "beanstalkd",
            Self::Postgres => "postgres",
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Redis => "Redis (appendfsync always)",
            Self::Beanstalkd => "beanstalkd (-f 0)",
            Self::Postgres => "PostgreSQL",
        }
    }
}

impl Peer {
    fn connect(&self) -> std::io::Result<Wire> {
        let stream: Box<dyn Stream> = match &self.address {
            Address::Socket(path) => Box::new(UnixStream::connect(path)?),
            Address::Port(port) => {
                let stream = TcpStream::connect(("127.0.0.1", *port))?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
        };
        let mut wire = BufReader::new(stream);
        if matches!(self.kind, Kind::Postgres) {
            let parameters = b"user\0postgres\0database\0postgres\0\0";
            let bytes = u32::try_from(8 + parameters.len()).unwrap_or(u32::MAX).to_be_bytes();
            let protocol = (3_u32 << 16).to_be_bytes();
            wire.get_mut().write_all(&[&bytes, &protocol, parameters.as_slice()].concat())?;
            until_ready(&mut wire)?;
        }
        Ok(wire)
    }
}

/// Reads PostgreSQL's answers until it is ready for the next query.
fn until_ready(wire: &mut Wire) -> std::io::Result<()> {
    loop {
        let mut head = [0; 5];
        wire.read_exact(&mut head)?;
        let [kind, bytes @ ..] = head;
        let mut rest = vec![0; u32::from_be_bytes(bytes).saturating_sub(4) as usize];
        wire.read_exact(&mut rest)?;
        match kind {
            b'Z' => return Ok(()),
            b'E' => return Err(std::io::Error::other(String::from_utf8_lossy(&rest))),
            _ => {}
        }
    }
}

fn query(wire: &mut Wire, sql: &str) {
    let bytes = u32::try_from(5 + sql.len()).unwrap_or(u32::MAX).to_be_bytes();
    wire.get_mut().write_all(&[b"Q", bytes.as_slice(), sql.as_bytes(), b"\0"].concat()).unwrap();
    until_ready(wire).unwrap();
}

/// Sends a request and compares the start of the line that answers.
fn ask(wire: &mut Wire, request: &str, wanted: &str) {
    wire.get_mut().write_all(request.as_bytes()).unwrap();
    let mut line = String::new();
    wire.read_line(&mut line).unwrap();
    assert!(line.starts_with(wanted), "{line}");
}

impl Target for Peer {
    fn name(&self) -> &str {
        self.kind.name()
    }

    fn caller(&self) -> Put<'_> {
        let mut wire = self.connect().unwrap();
        let (body, bytes) = (home::body(), home::JOB_BYTES);
        match self.kind {
            Kind::Redis => Box::new(move |number| {
                let key = format!("job:{number}");
                let length = key.len();
                let set = format!("*3\r\n$3\r\nSET\r\n${length}\r\n{key}\r\n${bytes}\r\n{body}\r\n");
                ask(&mut wire, &set, "+OK");
            }),
            Kind::Beanstalkd => {
                let put = format!("put 0 0 600 {bytes}\r\n{body}\r\n");
                Box::new(move |_| ask(&mut wire, &put, "INSERTED"))
            }
            Kind::Postgres => {
                query(&mut wire, "PREPARE put (bigint, text) AS INSERT INTO jobs VALUES ($1, $2)");
                Box::new(move |number| query(&mut wire, &format!("EXECUTE put ({number}, '{body}')")))
            }
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.server.id()).ok().and_then(Pid::from_raw) {
            // It may be gone already.
            let _ = kill_process(pid, self.stop);
        }
        let _ = self.server.wait();
    }
}
