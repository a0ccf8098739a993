//! Canaries on every path through the real program, at its most talkative: a key, a key-encryption key, passphrases, prompts
//! and answers, an e-mail address and a balance. None may be found afterwards in what it said, showed and sent, in its files,
//! its arguments and environment, its runtime's, or what it left of a crash.
//!
//! One exception, and it is asserted to be the only one: the e-mail address of the account link stands in `state.db` and in a
//! backup of it, because the link is kept there, and is shown by `account`.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "a test that cannot go on must fail, has files of its own, and shows the node's log then"
)]

#[path = "node/chatty.rs"]
mod chatty;
#[path = "node/stage.rs"]
#[expect(dead_code, reason = "each test program uses its part of it")]
mod stage;
#[path = "node/stand_in.rs"]
#[expect(dead_code, reason = "each test program uses its part of it")]
mod stand_in;
#[path = "../../node-types/tests/trust/common.rs"]
#[expect(dead_code, reason = "the trust documents' tests use more of it")]
mod trust;

use std::{
    collections::{BTreeSet, HashSet},
    fs::File,
    os::unix::{fs::PermissionsExt, process::ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
};

use axum::{Router, body::Bytes, extract::State};
use node_store::keys::{NodeKey, export_keystore};
use node_types::{Digest, id::hex_encode};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit, setrlimit};
use serde_json::json;
use tokio::{net::TcpListener, task::JoinHandle};
use zeroize::Zeroizing;

use crate::{
    stage::{Stage, children, eventually, external, with},
    stand_in::StandIn,
};

const KEK: &str = "CANARY-KEK-that-is-longer-than-32-bytes";
const PASSPHRASE: &str = "CANARY-PASSPHRASE";
const PROMPT: &str = "CANARY-PROMPT";
const BALANCE: &str = "CANARY-BALANCE-271828";
const EMAIL: &str = "canary-email@example.org";

/// The node's key; its hash is as good as drawn.
fn key() -> [u8; 32] {
    *Digest::of(b"CANARY-KEY").as_bytes()
}

/// What may be found nowhere, by name.
fn canaries() -> Vec<(&'static str, Vec<u8>)> {
    let bytes = |text: &str| text.as_bytes().to_vec();
    vec![
        ("the key's bytes", key().to_vec()),
        ("the key in hex", bytes(&hex_encode(&key()))),
        ("the key in upper hex", bytes(&hex_encode(&key()).to_uppercase())),
        ("the key as a list of numbers", bytes(&format!("{:?}", &key()[..8]).replace(['[', ']'], ""))),
        ("the key-encryption key", bytes(KEK)),
        ("the key-encryption key in hex", bytes(&hex_encode(KEK.as_bytes()))),
        ("a passphrase", bytes(PASSPHRASE)),
        ("a prompt or an answer", bytes(PROMPT)),
        ("a balance", bytes(BALANCE)),
    ]
}

fn holds(bytes: &[u8], canary: &[u8]) -> bool {
    bytes.windows(canary.len()).any(|window| window == canary)
}

/// Every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Everything that was said or left somewhere, each with where.
#[derive(Default)]
struct Heard(Vec<(String, Vec<u8>)>);

impl Heard {
    fn hear(&mut self, from: impl Into<String>, said: impl Into<Vec<u8>>) {
        self.0.push((from.into(), said.into()));
    }

    fn files(&mut self, folder: &Path) {
        for path in files(folder) {
            self.hear(path.display().to_string(), std::fs::read(&path).unwrap());
        }
    }

    /// Where a canary is.
    fn places(&self, canary: &[u8]) -> Vec<&str> {
        self.0.iter().filter(|(_, said)| holds(said, canary)).map(|(from, _)| from.as_str()).collect()
    }
}

/// The place in a backup where everything stands in the clear that is in it.
const BACKUP: &str = "the backup, unpacked";

fn unpacked(archive: &str) -> Vec<u8> {
    zstd::decode_all(File::open(archive).unwrap()).unwrap()
}

/// A collector, which keeps what it is sent.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<u8>>>);

impl Collector {
    /// Listens, and gives where.
    async fn start(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let keep = async |State(Self(held)): State<Self>, body: Bytes| {
            held.lock().unwrap().extend_from_slice(&body);
        };
        let routes = Router::new().fallback(keep).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        url
    }
}

/// Everything that the page's stream of events says until the Agent ends.
fn listen(page: &str) -> JoinHandle<Vec<u8>> {
    let url = format!("{page}/v1/events?level=trace");
    tokio::spawn(async move {
        let (mut stream, mut said) = (reqwest::get(url).await.unwrap(), Vec::new());
        while let Ok(Some(part)) = stream.chunk().await {
            said.extend_from_slice(&part);
        }
        said
    })
}

/// How a life of the Agent ends.
enum End {
    Signal(Signal),
    /// The system gives it no more memory.
    NoMemory,
}

/// The processes below one, and those below these.
fn descendants(parent: u32) -> Vec<u32> {
    let below = children(parent).into_iter().map(|pid| pid.as_raw_nonzero().get().unsigned_abs());
    below.flat_map(|pid| [vec![pid], descendants(pid)].concat()).collect()
}

/// The Agent, ended with the test if the test did not end it.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The program with a home and its most talkative log, in a folder of its own, where a core dump would be left.
fn start(stage: &Stage, folder: &Path, log: &Path) -> Agent {
    let said = File::options().append(true).create(true).open(log).unwrap();
    let agent = Command::new(env!("CARGO_BIN_EXE_resultity-node"))
        .arg("--home")
        .arg(stage.home())
        .args(["run", "--log", "trace", "--page-listen", "127.0.0.1:0"])
        .current_dir(folder)
        .env("RUST_BACKTRACE", "full")
        .stdout(said.try_clone().unwrap())
        .stderr(said)
        .stdin(Stdio::null())
        .spawn();
    Agent(agent.unwrap())
}

fn end(mut node: Agent, signal: Signal) {
    kill_process(Pid::from_child(&node.0), signal).unwrap();
    let status = node.0.wait().unwrap();
    assert!(status.success() || status.signal() == Some(signal.as_raw()), "{status} after {signal:?}");
    assert!(!status.core_dumped(), "its memory was written to a file");
}

/// Waits until it has fallen for want of memory.
async fn starves(mut node: Agent) {
    let status = eventually("it falls", || std::future::ready(node.0.try_wait().unwrap())).await;
    assert_eq!(status.signal(), Some(Signal::ABORT.as_raw()), "{status}");
    assert!(!status.core_dumped(), "its memory was written to a file");
}

/// The keys of the jobs that the node holds, as they are wrapped, and what is sealed with them.
fn sealed(home: &Path) -> BTreeSet<Vec<u8>> {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let raw = rusqlite::Connection::open_with_flags(home.join("testnet/jobs.db"), flags).unwrap();
    let column = |query: &str| -> Vec<Vec<u8>> {
        let mut statement = raw.prepare(query).unwrap();
        statement.query_map((), |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    [column("SELECT wrapped_key FROM jobs"), column("SELECT ciphertext FROM payloads")]
        .concat()
        .into_iter()
        .collect()
}

/// How many parts of 24 bytes are left: less of a wrapped key does not open, and less of a ciphertext is no prompt.
fn parts_left(home: &Path, sealed: &BTreeSet<Vec<u8>>) -> usize {
    let parts: HashSet<&[u8]> = sealed.iter().flat_map(|it| it.chunks_exact(24)).collect();
    // One that goes meanwhile holds nothing.
    let left = files(home).into_iter().map(|path| std::fs::read(path).unwrap_or_default());
    left.map(|bytes| bytes.windows(24).filter(|window| parts.contains(window)).count()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_canary_is_found_anywhere() {
    // A core dump must be forbidden by the node, not by whoever runs the tests.
    let most = getrlimit(Resource::Core).maximum;
    setrlimit(Resource::Core, Rlimit { current: most, maximum: most }).unwrap();
    let secrets = tempfile::tempdir().unwrap();
    let secret = |name: &str, text: &str| {
        let path = secrets.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        path.display().to_string()
    };
    let (kek, pass) = (secret("kek", KEK), secret("pass", PASSPHRASE));
    let node_key = NodeKey::from_bytes(&Zeroizing::new(key())).unwrap();
    let keystore =
        secret("key.json", &export_keystore(&node_key, &Zeroizing::new(PASSPHRASE.to_owned())).unwrap());

    // Given a node with a key that is known, linked to an account, which logs to a collector and to files,
    let (runtime, collector) = (StandIn::start().await, Collector::default());
    let (program, records) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (printing, settings) = chatty::chatty(program.path());
    // The operator's server at first, a program of the Agent's later.
    let settings = settings.replace("[runtime]", &format!("[runtime]\nurl = \"{}\"", runtime.url));
    let settings = format!(
        "{settings}\n[keys]\nsecret_file = \"{kek}\"\n[otlp]\nendpoint = \"{}\"\nmetrics_ms = 500\n\
         [log_file]\nfolder = {}\nbytes_max = 4096\nfiles_max = 1000",
        collector.start().await,
        json!(records.path()),
    );
    let stage = Stage::set(with(external(), "/limits/execution_timeout_ms", 20_000), &settings).await;
    std::fs::remove_dir_all(stage.home().join("testnet")).unwrap();
    let mut heard = Heard::default();
    let mut command = |arguments: &[&str], code: i32| {
        let (ended, said) = stage.command(arguments);
        assert_eq!(ended, Some(code), "{arguments:?}: {said}");
        heard.hear("arguments", arguments.join(" "));
        heard.hear(arguments.join(" "), said.clone());
        said
    };
    command(&["init", "--key-file", &keystore, "--passphrase-file", &pass], 0);
    command(&["account", "link", "--email-file", &secret("address", EMAIL)], 0);

    // when it has run jobs that end in every way, was aborted and killed amid them, and ended in good order,
    let (folder, logs) = (stage.folder.path().join("cwd"), stage.folder.path().join("said"));
    for folder in [&folder, &logs] {
        std::fs::create_dir(folder).unwrap();
    }
    let log = logs.join("log");
    let mut node = start(&stage, &folder, &log);
    stage.active().await;
    let submit = async |first: &str, ttl_ms: u64| {
        let request =
            json!({"model": "m", "prompt": format!("{first} {PROMPT}"), "max_tokens": 8, "balance": BALANCE});
        let body = json!({"mode": "completion", "request": request, "ttl_ms": ttl_ms});
        stage.post("/v1/devnet/jobs", &body).await["id"].as_str().unwrap().to_owned()
    };
    let runs = async || {
        eventually("a job runs", || async {
            (stage.view().jobs().counts().unwrap().running > 0).then_some(())
        })
        .await;
    };
    let mut jobs = Vec::new();
    for first in ["wait 1", "fail", "wait 60000"] {
        let job = submit(first, 600_000).await;
        stage.ended(&job).await;
        jobs.push(job);
    }
    let late = submit("wait 60001", 10_000).await;
    assert_eq!(stage.ended(&late).await["end"], "expired");
    let cancelled = submit("wait 60002", 600_000).await;
    runs().await;
    stage.post(&format!("/v1/devnet/jobs/{cancelled}/cancel"), &json!({})).await;
    stage.ended(&cancelled).await;
    jobs.extend([late, cancelled]);
    // The next ones run until they are let go, however long a backup takes.
    stage.post("/v1/devnet/snapshots", &json!({ "limits": { "execution_timeout_ms": 600_000 } })).await;
    eventually("they have the time", || async {
        let view = stage.view().snapshots().unwrap();
        (view.current().unwrap().config.document().version == 2).then_some(())
    })
    .await;
    runtime.hold(true);
    let mut held = BTreeSet::new();
    for (end_by, first) in [
        (End::Signal(Signal::ABORT), "held-1"),
        (End::Signal(Signal::KILL), "held-2"),
        (End::NoMemory, "held-3"),
    ] {
        let page = stage.page().await;
        let events = listen(&page);
        jobs.push(submit(first, 600_000).await);
        let with_this_one = eventually("its key and its request are kept", || async {
            let all = sealed(&stage.home());
            (all.difference(&held).count() >= 2).then_some(all)
        });
        held.extend(with_this_one.await);
        runs().await;
        // A backup without keys, and a bundle for strangers, amid its jobs.
        let archive = |name: &str| secrets.path().join(format!("{name}.{first}")).display().to_string();
        let (backup, bundle) = (archive("backup"), archive("bundle"));
        for arguments in
            [["backup", "create", &backup].as_slice(), &["bundle", &bundle], &["doctor", "--json"]]
        {
            let (ended, said) = stage.command(arguments);
            // The doctor may find something in this machine.
            assert!(
                ended == Some(0) || arguments[0] == "doctor" && ended == Some(7),
                "{arguments:?}: {said}"
            );
            heard.hear(arguments[0], said);
        }
        for path in ["/", "/v1/status", "/v1/logs?level=trace", "/metrics"] {
            let answer = reqwest::get(format!("{page}{path}")).await.unwrap().error_for_status().unwrap();
            heard.hear(format!("the page, {path}"), answer.bytes().await.unwrap());
        }
        let (backup, bundle) = (unpacked(&backup), unpacked(&bundle));
        assert!(held.iter().any(|part| holds(&backup, part)), "the jobs are in the backup, sealed");
        assert!(holds(&bundle, b"logs.db"), "the databases are in the bundle");
        heard.hear(BACKUP, backup);
        heard.hear("the bundle, unpacked", bundle);
        let process = format!("/proc/{}", node.0.id());
        for what in ["cmdline", "environ"] {
            heard.hear(
                format!("{what} of the process"),
                std::fs::read(Path::new(&process).join(what)).unwrap(),
            );
        }
        match end_by {
            End::Signal(signal) => end(node, signal),
            End::NoMemory => {
                let none = Rlimit { current: Some(0), maximum: Some(0) };
                prlimit(Some(Pid::from_child(&node.0)), Resource::As, none).unwrap();
                // More than it can have lying about.
                jobs.push(submit(&format!("large {}", PROMPT.repeat(70_000)), 600_000).await);
                starves(node).await;
            }
        }
        heard.hear("the page's events", events.await.unwrap());
        assert!(parts_left(&stage.home(), &held) > 0, "what was held is looked for where it is not");
        heard.files(&stage.home());
        node = start(&stage, &folder, &log);
    }
    assert!(held.len() >= 6, "three jobs were held, each with a key and a request");
    runtime.hold(false);
    for job in &jobs {
        stage.ended(job).await;
    }
    eventually("nothing is left", || async {
        (stage.view().jobs().tally().unwrap().jobs == 0).then_some(())
    })
    .await;

    // then with all that is left on the disk, whatever keys still open, no prompt can be had,
    eventually("the keys of ended jobs and what they sealed are gone", || async {
        (parts_left(&stage.home(), &held) == 0).then_some(())
    })
    .await;
    heard.files(&stage.home());

    // nor does a runtime of its own have or say what it should not, which prints what it is asked and dies of it,
    let events = listen(&stage.page().await);
    stage.post("/v1/devnet/snapshots", &json!({ "runtime": printing["runtime"] })).await;
    eventually("its runtime is a program of its own", || async {
        let view = stage.view().snapshots().unwrap();
        (view.current().unwrap().config.document().version == 3).then_some(())
    })
    .await;
    stage.active().await;
    let said = submit("say", 600_000).await;
    assert_eq!(stage.ended(&said).await["end"], "result");
    let of_program: Vec<u32> = descendants(node.0.id());
    for pid in &of_program {
        for what in ["cmdline", "environ"] {
            let name = format!("{what} of the runtime's process");
            heard.hear(name, std::fs::read(format!("/proc/{pid}/{what}")).unwrap());
        }
    }
    assert!(!heard.places(b"chatty.py\0").is_empty(), "{of_program:?}");
    let died = submit("die", 600_000).await;
    assert_eq!(stage.ended(&died).await["failure"]["kind"], "attempts_exhausted");
    jobs.extend([said, died]);
    eventually("nothing of them is left", || async {
        (stage.view().jobs().tally().unwrap().jobs == 0).then_some(())
    })
    .await;
    end(node, Signal::TERM);
    heard.hear("the page's events", events.await.unwrap());
    heard.files(&stage.home());

    // nor does any command say what it should not,
    let mut command = |arguments: &[&str], code: i32| {
        let (ended, said) = stage.command(arguments);
        assert_eq!(ended, Some(code), "{arguments:?}: {said}");
        heard.hear("arguments", arguments.join(" "));
        heard.hear(arguments.join(" "), said.clone());
        said
    };
    let network = trust::Signer::new(1);
    let with_balance = trust::with(trust::config(1), "/balance", BALANCE.into());
    let snapshot = secret("snapshot", "");
    std::fs::write(&snapshot, trust::signed_config(&with_balance, &[&network])).unwrap();
    let keyset = secret("keyset", &trust::keyset(1, 1, &[&network]).to_string());
    let refused = command(&["config", "verify", &snapshot, "--keyset", &keyset], 1);
    assert!(refused.contains("balance"), "{refused}");
    let exported = secrets.path().join("exported.json").display().to_string();
    command(&["key", "export", "--out", &exported, "--passphrase-file", &pass], 0);
    command(&["key", "reseal", "--to-secret-file", &kek], 0);
    let keyed = secrets.path().join("keyed.backup").display().to_string();
    command(&["backup", "create", &keyed, "--with-keys", "--passphrase-file", &pass], 0);
    for json in [&[][..], &["--json"]] {
        for words in [
            &["status"][..],
            &["logs", "--level", "trace"],
            &["jobs", "list", "--ended"],
            &["config", "show"],
            &["config", "history"],
            &["account", "show"],
            &["rotate", "--dry-run"],
        ] {
            command(&[words, json].concat(), 0);
        }
        for job in &jobs {
            command(&[&["jobs", "explain", job.as_str()][..], json].concat(), 0);
        }
    }

    let keyed = unpacked(&keyed);
    assert!(
        holds(&keyed, b"keys/node.key") && holds(&keyed, b"keys/volume.key"),
        "the keys are in it, sealed"
    );
    heard.hear(format!("{BACKUP}, with keys"), keyed);

    // and no canary is anywhere.
    let network_has = stage.get("logs").await.to_string();
    assert!(network_has.contains("answered"), "{network_has}");
    heard.hear("the logs that the network got", network_has);
    heard.hear("what the collector got", collector.0.lock().unwrap().clone());
    heard.files(&logs);
    heard.files(records.path());
    assert!(files(records.path()).len() > 1, "the files of the log did not change");
    for (place, what) in [
        ("the page, /", "<html"),
        ("the page, /metrics", "# TYPE"),
        ("the page's events", "event: log"),
        ("what the collector got", "answered"),
        ("doctor", "findings"),
    ] {
        assert!(heard.places(what.as_bytes()).iter().any(|from| from.ends_with(place)), "{place}: {what}");
    }
    // Whatever wants memory first.
    let fell = ["memory allocation of", "panicked at"].map(|said| heard.places(said.as_bytes()));
    assert!(fell.concat().iter().any(|from| from.ends_with("said/log")), "its fall made it say nothing");
    assert_eq!(files(&folder), Vec::<PathBuf>::new(), "a crash left something");
    assert!(
        heard.places(b"TRACE").iter().any(|from| from.ends_with("said/log")),
        "it was not at its most talkative"
    );
    for (name, canary) in canaries() {
        assert_eq!(heard.places(&canary), Vec::<&str>::new(), "{name}");
    }
    // The account link's address is where the link is kept and shown, and nowhere else.
    let expected =
        ["account link --email-file", "account show", "testnet/state.db", "testnet/state.db-wal", BACKUP];
    for place in ["state.db", BACKUP] {
        assert!(heard.places(EMAIL.as_bytes()).iter().any(|from| from.ends_with(place)), "{place}");
    }
    let elsewhere: Vec<&str> = heard
        .places(EMAIL.as_bytes())
        .into_iter()
        .filter(|from| !expected.iter().any(|it| from.ends_with(it) || from.starts_with(it)))
        .collect();
    assert_eq!(elsewhere, Vec::<&str>::new());
}
