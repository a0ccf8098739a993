//! One start of a program: checked, given what it needs, put into the sandbox.
//!
//! What it gets in its environment: `PATH`, `HOME` and `TMPDIR` (its work folder), `LANG`, and `RUNTIME_API_KEY`, a key that is
//! made for this start and that it must ask for. Nothing of the Agent's environment.
//!
//! The work folder is the program's alone (0700) and stays between starts; the Agent keeps nothing there. Where the
//! program runs as another user, the models are shown in it, in its `models`.

use std::{
    fs::{DirBuilder, File, Permissions},
    io::{self, Read},
    net::{Ipv4Addr, TcpListener},
    os::unix::{
        fs::{DirBuilderExt, PermissionsExt},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::Arc,
    thread,
    time::Duration,
};

use node_types::Digest;
use sha2::{Digest as _, Sha256};
use tokio::{
    sync::{broadcast, oneshot},
    task::JoinHandle,
};
use zeroize::Zeroizing;

use super::{
    endpoint::Endpoint,
    error::RuntimeError,
    identity::{self, Identity},
    lines::Lines,
    sandbox,
};

/// How long the last lines of a program may take to arrive after it ended: half a second.
const LAST_LINES_LIMIT: Duration = Duration::from_millis(500);

/// A program that the Agent starts and watches.
#[derive(Clone, Debug)]
pub struct ProcessPlan {
    /// The program's file.
    pub program: PathBuf,
    /// What it must hash to, checked before each start.
    pub digest: Digest,
    /// Its arguments. `{host}` and `{port}` become the address to listen on, `{models}` the folder of models as it sees
    /// it, and `{model}` the first model's file there.
    pub args: Vec<String>,
    /// The models, readable for it.
    pub models: Option<ModelsMount>,
    /// Folders that it must not even see, where it runs as another user: the volumes. They may hold the models; its program
    /// and its work folder they may not.
    pub hidden: Vec<PathBuf>,
    /// Its own folder: its home, its folder for temporary files, and all that it may write.
    pub work_folder: PathBuf,
    /// Files and folders that it may read and run besides the system's, its own file and the model.
    pub readable: Vec<PathBuf>,
    /// Who runs it: a name or `uid:gid`. None: whoever runs the Agent, or `nobody` where that is the superuser.
    pub user: Option<String>,
    /// The first wait after it ended, in milliseconds.
    pub retry_ms_min: u64,
    /// The longest wait, in milliseconds.
    pub retry_ms_max: u64,
}

/// The models of a program.
///
/// A program of another user could not reach them in the volume, so they are shown to it elsewhere; one of the Agent's own
/// user reads them where they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelsMount {
    /// Their folder.
    pub folder: PathBuf,
    /// The name of the file in it that `{model}` stands for.
    pub first: Option<String>,
}

/// Where in its work folder a program of another user finds the models.
const MODELS: &str = "models";

/// A program that runs.
pub(super) struct Running {
    pub endpoint: Arc<Endpoint>,
    /// While it is held, the program may run.
    leash: Option<ChildStdin>,
    exited: oneshot::Receiver<io::Result<ExitStatus>>,
    readers: Vec<JoinHandle<io::Result<()>>>,
    lines: Lines,
}

impl Running {
    /// Starts it.
    ///
    /// # Errors
    /// [`RuntimeError`]; then nothing runs.
    pub(super) async fn start(
        plan: &ProcessPlan,
        helper: &Path,
        listeners: broadcast::Sender<String>,
    ) -> Result<Self, RuntimeError> {
        check(&plan.program, plan.digest).await?;
        let user = identity::choose_here(plan.user.as_deref())?;
        let mut read = readable(plan)?;
        let models = plan.models.as_ref().map(|models| find(&models.folder)).transpose()?;
        let shown = user
            .is_some()
            .then_some(models.as_ref())
            .flatten()
            .map(|folder| sandbox::Shown { folder: folder.clone(), at: plan.work_folder.join(MODELS) });
        let visible = shown.as_ref().map(|shown| shown.at.clone()).or(models);
        read.extend(visible.clone());
        let first = plan.models.as_ref().and_then(|models| models.first.as_deref());
        prepare_folder(&plan.work_folder, user.as_ref())
            .map_err(|source| RuntimeError::WorkFolder { path: plan.work_folder.clone(), source })?;
        let port = free_port().map_err(|source| RuntimeError::Start { what: "free port", source })?;
        let key = random_key().map_err(|source| RuntimeError::Start { what: "random key", source })?;
        let policy = sandbox::Policy {
            parent: rustix::process::getpid(),
            hidden: if user.is_some() { plan.hidden.clone() } else { Vec::new() },
            user: user.map(|user| (user.uid, user.gid, user.groups)),
            shown,
            read,
            write: vec![plan.work_folder.clone()],
            port,
            program: plan.program.clone(),
            args: plan.args.iter().map(|arg| fill(arg, port, visible.as_deref(), first).into()).collect(),
        };
        let mut command = Command::new(helper);
        command
            .args([sandbox::COMMAND, "keep"])
            .args(policy.to_args())
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", &plan.work_folder)
            .env("TMPDIR", &plan.work_folder)
            .env("LANG", "C.UTF-8")
            .env("RUNTIME_API_KEY", key.as_str())
            .current_dir(&plan.work_folder)
            // A terminal's signals are for the Agent, which then stops it in good order.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let endpoint = Arc::new(Endpoint::new(&format!("http://{}:{port}", Ipv4Addr::LOCALHOST), Some(key))?);
        let (mut child, exited) = spawn(command).await?;
        let lines = Lines::to(listeners);
        let mut readers = Vec::new();
        let pipes = (child.stdout.take(), child.stderr.take());
        let unread = |source| RuntimeError::Start { what: "pipe", source };
        if let (Some(out), Some(err)) = pipes {
            let out = tokio::process::ChildStdout::from_std(out).map_err(unread)?;
            let err = tokio::process::ChildStderr::from_std(err).map_err(unread)?;
            readers.push(tokio::spawn(lines.clone().read(out)));
            readers.push(tokio::spawn(lines.clone().read(err)));
        }
        Ok(Self { endpoint, leash: child.stdin.take(), exited, readers, lines })
    }

    /// Waits until it has ended, and says how. Dropping the future changes nothing.
    pub(super) async fn ended(&mut self) -> String {
        let status = (&mut self.exited).await;
        for reader in &mut self.readers {
            // A line that comes later is heard all the same, only not told as the last one.
            let _ = tokio::time::timeout(LAST_LINES_LIMIT, reader).await;
        }
        match status {
            Ok(Ok(status)) => told(status),
            Ok(Err(error)) => format!("it cannot be waited for: {error}"),
            Err(_) => "nobody waited for it".to_owned(),
        }
    }

    /// A cause, and what the program said last.
    pub(super) fn with_last_lines(&self, cause: String) -> String {
        let last = self.lines.last();
        if last.is_empty() { cause } else { format!("{cause}; it said: {last}") }
    }

    /// Has it and everything that it started killed.
    pub(super) fn kill(&mut self) {
        self.leash = None;
    }
}

/// What the end of `keep` says of the program, by the convention of shells.
fn told(status: ExitStatus) -> String {
    match status.code() {
        Some(code @ 129..=192) => format!("it was killed by signal {}", code - 128),
        Some(code) => format!("it ended with status {code}"),
        None => "its keeper was killed".to_owned(),
    }
}

/// What a [`spawn`] gives: the child with its pipes, and word of its end.
type Spawned = (Pipes, oneshot::Receiver<io::Result<ExitStatus>>);

/// The Agent's ends.
struct Pipes {
    stdin: Option<ChildStdin>,
    stdout: Option<std::process::ChildStdout>,
    stderr: Option<std::process::ChildStderr>,
}

/// Starts the process from a thread of its own, which then waits for it: waiting blocks.
async fn spawn(mut command: Command) -> Result<Spawned, RuntimeError> {
    let failed = |what| move |source| RuntimeError::Start { what, source };
    let (started, starts) = oneshot::channel::<io::Result<Pipes>>();
    let (ended, ends) = oneshot::channel();
    let body = move || match command.spawn() {
        Ok(mut child) => {
            let pipes =
                Pipes { stdin: child.stdin.take(), stdout: child.stdout.take(), stderr: child.stderr.take() };
            // Whoever is gone has dropped the pipes, which ends the process.
            let _ = started.send(Ok(pipes));
            let _ = ended.send(wait(child));
        }
        Err(error) => {
            let _ = started.send(Err(error));
        }
    };
    thread::Builder::new().name("runtime".to_owned()).spawn(body).map_err(failed("thread"))?;
    match starts.await {
        Ok(Ok(pipes)) => Ok((pipes, ends)),
        Ok(Err(error)) => Err(failed("process")(error)),
        Err(_) => Err(failed("process")(io::Error::other("its thread ended"))),
    }
}

fn wait(mut child: Child) -> io::Result<ExitStatus> {
    child.wait()
}

/// Puts the values in, from left to right: what stands in a value stays as it is.
fn fill(arg: &str, port: u16, models: Option<&Path>, first: Option<&str>) -> String {
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    let model = models.zip(first).map(|(folder, first)| text(folder.join(first))).unwrap_or_default();
    let values = [
        ("{host}", Ipv4Addr::LOCALHOST.to_string()),
        ("{port}", port.to_string()),
        ("{models}", models.map(|folder| text(folder.to_owned())).unwrap_or_default()),
        ("{model}", model),
    ];
    let (mut filled, mut rest) = (String::new(), arg);
    while let Some((before, from)) = rest.find('{').map(|at| rest.split_at(at)) {
        let known = values.iter().find_map(|(name, value)| Some((value.as_str(), from.strip_prefix(name)?)));
        let (value, after) = known.unwrap_or_else(|| from.split_at(1));
        filled.extend([before, value]);
        rest = after;
    }
    filled + rest
}

/// A port that nobody listens on now. Until the program does, somebody else on this machine could; then the program fails and
/// the next start takes another port.
fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// A key that only this start of a runtime has: 64 hex digits.
pub(super) fn random_key() -> io::Result<Zeroizing<String>> {
    let mut bytes = Zeroizing::new([0; 32]);
    getrandom::fill(&mut bytes[..]).map_err(io::Error::other)?;
    Ok(Zeroizing::new(Digest::of(&bytes[..]).hex()))
}

/// What it may read besides the models.
fn readable(plan: &ProcessPlan) -> Result<Vec<PathBuf>, RuntimeError> {
    plan.readable.iter().chain([&plan.program]).map(|path| find(path)).collect()
}

/// Where a path leads: a link is followed here, because the kernel judges where it leads.
fn find(path: &Path) -> Result<PathBuf, RuntimeError> {
    std::fs::canonicalize(path).map_err(|source| RuntimeError::Readable { path: path.to_owned(), source })
}

fn prepare_folder(path: &Path, user: Option<&Identity>) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        other => other?,
    }
    if !std::fs::symlink_metadata(path)?.is_dir() {
        return Err(io::Error::new(io::ErrorKind::NotADirectory, "it is no folder"));
    }
    std::fs::set_permissions(path, Permissions::from_mode(0o700))?;
    match user {
        Some(user) => std::os::unix::fs::lchown(path, Some(user.uid), Some(user.gid)),
        None => Ok(()),
    }
}

/// Hashes the program's file.
async fn check(path: &Path, expected: Digest) -> Result<(), RuntimeError> {
    let program = path.to_owned();
    let hashed = tokio::task::spawn_blocking(move || hash(&program)).await.map_err(io::Error::other);
    let found = hashed.flatten().map_err(|source| RuntimeError::Program { path: path.to_owned(), source })?;
    if found == expected {
        Ok(())
    } else {
        Err(RuntimeError::OtherProgram { path: path.to_owned(), expected, found })
    }
}

#[expect(clippy::disallowed_methods, reason = "the runtime's program, no file of the volume")]
fn hash(path: &Path) -> io::Result<Digest> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(Digest::from_bytes(hasher.finalize().into())),
            Ok(count) => hasher.update(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_filled_and_a_model_is_not_filled_again() {
        let models = Some(Path::new("/m/{port}"));
        let filled = |arg, models| fill(arg, 80, models, Some("{host}"));
        assert_eq!(filled("--at={host}:{port}", None), "--at=127.0.0.1:80");
        assert_eq!(filled("{model}", models), "/m/{port}/{host}");
        assert_eq!(filled("a{models}b{model}", models), "a/m/{port}b/m/{port}/{host}");
        assert_eq!(filled("{else}{{port}", None), "{else}{80");
        assert_eq!(filled("[{model}{models}]", None), "[]");
        assert_eq!(fill("[{model}]", 80, models, None), "[]");
    }

    #[test]
    fn every_start_has_another_key() {
        let (one, other) = (random_key().unwrap(), random_key().unwrap());
        assert_ne!(one, other);
        assert_eq!(one.len(), 64);
    }
}
