//! What the tests of the runtime room share: the real runtimes, set up once, and the stand-in.
#![expect(clippy::disallowed_methods, reason = "tests make their own files, no volume's")]
#![expect(clippy::panic, clippy::expect_used, reason = "a test that cannot go on must fail")]

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use node_agent::runtime::{Endpoint, InferenceError, Plan, ProcessPlan, State, Supervisor, Tuning};
use node_types::{
    Digest,
    job::{Mode, Output, Request},
};
use serde_json::Value;
use tempfile::TempDir;

/// How long a test waits for anything; a machine with little to spare needs it.
pub const PATIENCE: Duration = Duration::from_secs(120);

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// `.tools`, with the real runtimes in it.
pub fn tools() -> PathBuf {
    let set_up = Command::new(repository().join("scripts/runtime")).output().unwrap();
    assert!(set_up.status.success(), "scripts/runtime: {}", String::from_utf8_lossy(&set_up.stderr));
    repository().join(".tools")
}

/// A watcher that looks often, with the example binary as the sandbox's helper.
pub fn tuning() -> Tuning {
    let helper = std::env::current_exe().unwrap().parent().unwrap().join("../examples/sandbox");
    assert!(helper.is_file(), "{} is missing: build the examples too", helper.display());
    Tuning {
        ready_limit: PATIENCE,
        health_every: Duration::from_millis(100),
        failures_max: 2,
        helper,
        ..Tuning::default()
    }
}

/// A folder that other users can look into: the runtime is one.
pub fn open_folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    folder
}

/// A plan for a program of `.tools`, which works in `folder`.
pub fn plan(program: PathBuf, args: &[&str], folder: &Path) -> ProcessPlan {
    let digest = Digest::of(&std::fs::read(&program).unwrap());
    let tools = repository().join(".tools");
    let interpreter = std::fs::read_to_string(tools.join("runtime/interpreter")).unwrap();
    ProcessPlan {
        program,
        digest,
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        models: None,
        hidden: Vec::new(),
        work_folder: folder.join("work/testnet"),
        readable: vec![tools.join("runtime"), interpreter.trim().into()],
        user: None,
        retry_ms_min: 10,
        retry_ms_max: 200,
    }
}

/// A plan for the stand-in.
pub fn stand_in(args: &[&str], folder: &Path) -> ProcessPlan {
    let venv = tools().join("runtime/venv");
    let program = folder.join("stand_in.py");
    std::fs::write(&program, include_bytes!("stand_in.py")).unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    std::os::unix::fs::symlink(venv, folder.join("venv")).unwrap();
    let mut plan = plan(program, &["--port", "{port}"], folder);
    plan.args.extend(args.iter().map(|arg| (*arg).to_owned()));
    plan.readable.push(folder.join("venv"));
    plan
}

/// A plan whose program stays down long enough to be seen there.
pub fn unhurried(plan: ProcessPlan) -> ProcessPlan {
    ProcessPlan { retry_ms_min: 12_000, retry_ms_max: 12_000, ..plan }
}

pub fn start(plan: ProcessPlan) -> Supervisor {
    Supervisor::start(Plan::Process(plan), tuning())
}

/// Waits until it serves.
pub async fn ready(supervisor: &Supervisor) -> Arc<Endpoint> {
    let mut state = supervisor.state();
    let ready = state.wait_for(|state| matches!(state, State::Ready(_)));
    let seen = tokio::time::timeout(PATIENCE, ready).await;
    let Ok(Ok(State::Ready(endpoint))) = seen.map(|seen| seen.map(|state| state.clone())) else {
        panic!("it never served: {:?}", *supervisor.state().borrow());
    };
    endpoint
}

/// Waits until it is down, and says why and for how long.
pub async fn down(supervisor: &Supervisor) -> (String, u64) {
    let mut state = supervisor.state();
    let down = state.wait_for(|state| matches!(state, State::Down { .. }));
    let seen = tokio::time::timeout(PATIENCE, down).await.unwrap().unwrap().clone();
    let State::Down { cause, retry_in_ms, .. } = seen else { unreachable!() };
    (cause, retry_in_ms)
}

pub fn request(body: &Value) -> Request {
    Request::parse(body.to_string().as_bytes()).unwrap()
}

/// A run with 32 tokens that nobody listens to.
pub async fn ask(endpoint: &Endpoint, mode: Mode, body: &Value) -> Result<Output, InferenceError> {
    endpoint.infer(mode, &request(body), 32, None).await
}

pub fn json(output: &Output) -> Value {
    serde_json::from_str(&output.body).unwrap()
}

/// Every process that `pid` started, and what those started.
pub fn descendants(pid: u32) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let pid: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let parent: u32 = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
        Some((pid, parent))
    });
    let processes: Vec<(u32, u32)> = processes.collect();
    let mut found = vec![pid];
    let mut next = 0;
    while next < found.len() {
        let parent = found[next];
        found.extend(processes.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    found.split_off(1)
}

/// The interpreter that runs a `serve.py` or the stand-in (`python3 -I <path>`): neither stage of the sandbox is one.
pub fn program_of(pid: u32) -> u32 {
    let is_program = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.windows(5).any(|part| part == b"\0-I\0/")
    };
    descendants(pid).into_iter().find(is_program).expect("no program runs")
}

pub fn lives(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// Waits until none of them lives.
pub async fn gone(pids: &[u32]) {
    for _ in 0..12_000 {
        if !pids.iter().any(|pid| lives(*pid)) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("still there: {:?}", pids.iter().filter(|pid| lives(**pid)).collect::<Vec<_>>());
}
