//! The sandbox, tried from the inside by a stand-in for a runtime, and the end of everything in it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]
#![expect(
    clippy::disallowed_methods,
    reason = "tests make their own files, and tell their child where to work"
)]

mod runtime;

use std::{
    fs::File,
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
};

use node_types::job::Mode;
use runtime::*;
use serde_json::{Value, json};

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_has_what_it_needs_and_nothing_else() {
    let folder = open_folder();
    // Given a volume with a key, a secret that only Landlock protects, and a descriptor that is passed on by mistake,
    let keys = folder.path().join("volume/keys");
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&keys).unwrap();
    let (key, secret) = (keys.join("node.key"), folder.path().join("secret"));
    for path in [&key, &secret] {
        std::fs::write(path, "CANARY").unwrap();
    }
    std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o666)).unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let passed_on = File::open(&secret).unwrap();
    rustix::io::fcntl_setfd(&passed_on, rustix::io::FdFlags::empty()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let other_port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let own = format!("/proc/{}", process::id());
    let wishes = json!({
        "read": [key, secret, format!("{own}/environ"), format!("{own}/maps"), "/etc/shadow", "/etc/hostname", "/dev/null"],
        "list": [folder.path(), keys, "/", "/root", "/tmp", "/home", "/proc", "/usr"],
        "write": [secret, folder.path().join("new"), "/tmp/resultity-sandbox-test", "/dev/shm/resultity-sandbox-test"],
        "connect": listener.local_addr().unwrap().port(),
        "listen": other_port,
        "signal": process::id(),
    });

    // when a runtime tries everything,
    let plan = stand_in(&["--probe", &wishes.to_string()], folder.path());
    let work_folder = plan.work_folder.clone();
    let supervisor = start(plan);
    let mut lines = supervisor.lines();
    let endpoint = ready(&supervisor).await;
    let output = ask(&endpoint, Mode::Chat, &json!({"model": "probe"})).await.unwrap();
    let answer = json(&output);
    let seen: Value =
        serde_json::from_str(answer["choices"][0]["message"]["content"].as_str().unwrap()).unwrap();

    // then it is refused, but for the devices and folders that every program needs,
    let refused = json!("PermissionError");
    for what in ["read", "list", "write"] {
        for (path, outcome) in seen[what].as_object().unwrap() {
            let allowed = matches!((what, path.as_str()), ("read", "/dev/null") | ("list", "/usr"));
            assert_eq!(*outcome, if allowed { json!("done") } else { refused.clone() }, "{what} {path}");
        }
    }
    for what in ["connect", "listen", "send", "signal", "start_own_file"] {
        assert_eq!(seen[what], refused, "{what}");
    }
    assert_eq!(seen["write_own_folder"], "done");

    // has nothing of the Agent's,
    let mut environment = seen["environment"].as_object().unwrap().clone();
    let key = environment.remove("RUNTIME_API_KEY").unwrap();
    assert_eq!(key.as_str().unwrap().len(), 64);
    // The shell that starts the interpreter adds where it is.
    environment.remove("PWD");
    let expected =
        json!({"PATH": "/usr/bin:/bin", "HOME": work_folder, "TMPDIR": work_folder, "LANG": "C.UTF-8"});
    assert_eq!(json!(environment), expected);
    // Its listener, this connection and its selector are its own.
    let descriptors: Vec<u64> =
        seen["descriptors"].as_array().unwrap().iter().map(|it| it.as_u64().unwrap()).collect();
    assert!(descriptors.starts_with(&[0, 1, 2]), "{descriptors:?}");
    let program = program_of(process::id());
    for number in &descriptors {
        let target = std::fs::read_link(format!("/proc/{program}/fd/{number}")).unwrap_or_default();
        assert_ne!(target, secret, "{number}");
    }
    assert_eq!(seen["folder"], json!(work_folder));
    assert_eq!(seen["folder_mode"], "0o700");

    // and no way to get more.
    assert_eq!((&seen["no_new_privileges"], &seen["core_bytes"]), (&json!(1), &json!(0)));
    if is_root() {
        let nobody = seen["users"].as_array().unwrap();
        assert!(nobody.iter().all(|id| id.as_u64().unwrap() > 0), "{nobody:?}");
        assert_eq!(seen["groups"], json!([]));
    }
    // What it says is heard.
    let listening = async { while lines.recv().await.unwrap() != "listening" {} };
    tokio::time::timeout(PATIENCE, listening).await.unwrap();
    supervisor.stop().await;
    drop(passed_on);
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_ends_what_the_program_started_too() {
    let folder = open_folder();
    let supervisor = start(stand_in(&["--child"], folder.path()));
    ready(&supervisor).await;
    let all = descendants(process::id());
    assert!(all.len() >= 3, "keeper, program and its orphan: {all:?}");
    supervisor.stop().await;
    assert_eq!(descendants(process::id()), [0; 0]);
    assert!(!all.iter().any(|pid| lives(*pid)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_that_is_dropped_leaves_nothing_behind() {
    let folder = open_folder();
    let supervisor = start(stand_in(&["--child"], folder.path()));
    ready(&supervisor).await;
    let all = descendants(process::id());
    drop(supervisor);
    gone(&all).await;
}

const FOLDER: &str = "RESULTITY_SANDBOX_TEST_FOLDER";

/// Not a test of its own: the Agent that is killed. Without a folder to work in it does nothing.
#[tokio::test(flavor = "multi_thread")]
async fn the_agent_that_is_killed() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let supervisor = start(stand_in(&["--child"], &PathBuf::from(folder)));
    ready(&supervisor).await;
    let mut out = std::io::stdout();
    writeln!(out, "\nSERVES").unwrap();
    out.flush().unwrap();
    std::future::pending::<()>().await;
}

fn agent(folder: &Path) -> (process::Child, Vec<u32>) {
    let mut agent = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_agent_that_is_killed", "--nocapture"])
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(agent.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line == "SERVES"));
    let all = descendants(agent.id());
    assert!(all.len() >= 3, "{all:?}");
    (agent, all)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_runtime_dies_with_an_agent_that_is_killed() {
    let folder = open_folder();
    let (mut agent, all) = agent(folder.path());
    agent.kill().unwrap();
    agent.wait().unwrap();
    gone(&all).await;
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_fallen_program_started_falls_with_it() {
    let folder = open_folder();
    let supervisor = start(unhurried(stand_in(&["--child"], folder.path())));
    ready(&supervisor).await;
    let all = descendants(process::id());
    kill(program_of(process::id()));
    let (cause, _) = down(&supervisor).await;
    assert!(cause.starts_with("it was killed by signal 9"), "{cause}");
    assert!(!all.iter().any(|pid| lives(*pid)), "its orphan is left");
    supervisor.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_dies_with_a_keeper_that_is_killed() {
    let folder = open_folder();
    let supervisor = start(unhurried(stand_in(&[], folder.path())));
    ready(&supervisor).await;
    let (keeper, program) = (descendants(process::id())[0], program_of(process::id()));
    assert_ne!(keeper, program);
    kill(keeper);
    let (cause, _) = down(&supervisor).await;
    assert!(cause.starts_with("its keeper was killed"), "{cause}");
    gone(&[keeper, program]).await;
    ready(&supervisor).await;
    supervisor.stop().await;
}
