//! A home for one test, and what fills it.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use node_store::{
    clock::{self, Mark, Reading, Trust},
    jobs::{Accepted, Lease},
    store::{Options, Store},
};
use node_types::{
    JobId, Network, Timestamp,
    job::{Failure, FailureKind, Job, Mode, ModelRef, Output as Answer, Request},
    log::{Kind, Level, Record},
};
use serde_json::{Value, json};

use crate::trust::{self, HOUR_MS, Signer, keyset, signed_config, trusted, with};

/// What no output may hold: prompts, answers and passphrases do.
pub(crate) const CANARY: &str = "CANARY-not-for-any-eye";
/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_resultity-node");

/// The jobs of a filled home, by what became of them.
pub(crate) const QUEUED: u64 = 1;
pub(crate) const RUNNING: u64 = 2;
pub(crate) const FINISHED: u64 = 3;
pub(crate) const ANSWERED: u64 = 4;
pub(crate) const FAILED: u64 = 5;
pub(crate) const EXPIRED: u64 = 6;

/// What the program said.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

impl Ran {
    /// It ended well and complained of nothing.
    #[track_caller]
    pub(crate) fn well(self) -> Self {
        assert_eq!((self.code, self.err.as_str()), (Some(0), ""), "{self:?}");
        self
    }

    /// It failed with this code, said all of `words`, and nothing on its standard output.
    #[track_caller]
    pub(crate) fn failed(self, code: i32, words: &[&str]) -> Self {
        assert_eq!((self.code, self.out.as_str()), (Some(code), ""), "{self:?}");
        for word in words {
            assert!(self.err.contains(word), "{word:?} is not in: {}", self.err);
        }
        self
    }

    /// Its output as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Its output has all of `words`.
    #[track_caller]
    pub(crate) fn says(self, words: &[&str]) -> Self {
        for word in words {
            assert!(self.out.contains(word), "{word:?} is not in:\n{}", self.out);
        }
        self
    }
}

/// A home that is gone with the test.
pub(crate) struct Home(tempfile::TempDir);

impl Home {
    /// An empty one.
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// One with a node in it.
    pub(crate) fn with_node() -> Self {
        let home = Self::new();
        drop(Store::create(&home.options(), None, &reading()).unwrap());
        home
    }

    /// One with a node that has worked.
    pub(crate) fn filled() -> Self {
        let home = Self::new();
        drop(home.fill());
        home
    }

    /// Fills it and leaves the store open, as an Agent would.
    pub(crate) fn fill(&self) -> Store {
        self.works(Store::create(&self.options(), None, &reading()).unwrap())
    }

    /// Has the node of a new volume work.
    pub(crate) fn works(&self, store: Store) -> Store {
        let now = reading().wall;
        store.snapshots().pin(trusted(&keyset(1, 1, &[&network_key()]))).unwrap();
        store.apply_envelope(&envelope(1, now), now).unwrap();
        fill_jobs(&store, now);
        for (level, text) in [(Level::Info, "the model is loaded"), (Level::Error, "the runtime went away")] {
            let mut record = Record::new(now, level, Kind::Runtime, text);
            record.fields.insert("model".to_owned(), json!("gemma"));
            store.logs().append(record);
        }
        let record =
            Record { job: Some(id(RUNNING)), ..Record::new(now, Level::Debug, Kind::Inference, "it runs") };
        store.logs().append(record);
        store.logs().flush().wait().unwrap();
        store
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// The volume's folder.
    pub(crate) fn volume(&self) -> PathBuf {
        self.path().join("testnet")
    }

    pub(crate) fn options(&self) -> Options {
        Options::new(self.path(), Network::Testnet)
    }

    /// Writes a file beside the volumes, readable by its owner alone.
    pub(crate) fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    /// The program with this home and nothing else around it.
    pub(crate) fn command<I: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = I>) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(arguments).env_clear().stdin(Stdio::null());
        command.env("RESULTITY_HOME", self.path()).env("HOME", self.path());
        command.env("PATH", std::env::var_os("PATH").unwrap());
        command
    }

    /// Runs it to its end.
    pub(crate) fn run<I: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = I>) -> Ran {
        self.command(arguments).output().unwrap().into()
    }

    /// Runs it with `--json`, and reads what it says.
    #[track_caller]
    pub(crate) fn json<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Value {
        self.run(arguments.into_iter().chain(["--json"])).well().json()
    }
}

pub(crate) fn reading() -> Reading {
    clock::read().unwrap()
}

pub(crate) fn id(number: u64) -> JobId {
    let mut bytes = [0; 16];
    bytes[8..].copy_from_slice(&number.to_be_bytes());
    JobId::from_bytes(bytes)
}

/// The key that signs for the test's network.
pub(crate) fn network_key() -> Signer {
    Signer::new(1)
}

/// A snapshot document that is valid at `now`.
pub(crate) fn document(version: u64, now: Timestamp) -> Value {
    let mut document = trust::config(version);
    for (field, ms) in [
        ("/issued_at", now.ms() - HOUR_MS),
        ("/refresh_by", now.ms() + HOUR_MS),
        ("/valid_until", now.ms() + 2 * HOUR_MS),
    ] {
        document = with(document, field, ms.into());
    }
    document
}

/// The same, signed by the network.
pub(crate) fn envelope(version: u64, now: Timestamp) -> Vec<u8> {
    signed_config(&document(version, now), &[&network_key()])
}

pub(crate) fn job(number: u64, now: Timestamp) -> Job {
    let body = json!({ "messages": [{ "role": "user", "content": CANARY }] });
    Job {
        id: id(number),
        network: Network::Testnet,
        model: ModelRef { name: "gemma-3-270m".into(), version: "1.0.0".into() },
        mode: Mode::Chat,
        request: Request::parse(body.to_string().as_bytes()).unwrap(),
        priority: 0,
        max_tokens: 100,
        expires_at: now.plus_ms(HOUR_MS),
        attempts_max: 3,
    }
}

fn fill_jobs(store: &Store, now: Timestamp) {
    let jobs = store.jobs();
    let accept = |job: &Job| assert_eq!(jobs.accept(job, now).wait().unwrap(), Accepted::New);
    let lease = || assert!(matches!(jobs.lease(None, None, &[].into(), now).wait().unwrap(), Lease::Job(_)));
    let answer = || Answer { body: CANARY.to_owned(), prompt_tokens: 5, completion_tokens: 7 };
    for number in [ANSWERED, FINISHED] {
        accept(&job(number, now));
        lease();
        jobs.finish(id(number), answer(), now.plus_ms(1500)).wait().unwrap();
    }
    jobs.submitted(id(ANSWERED), now.plus_ms(1600)).wait().unwrap();
    jobs.acknowledge(id(ANSWERED), now.plus_ms(1700)).wait().unwrap();
    accept(&job(FAILED, now));
    jobs.fail(id(FAILED), Failure::new(FailureKind::Runtime, CANARY), now).wait().unwrap();
    accept(&job(RUNNING, now));
    lease();
    accept(&Job { expires_at: now.plus_ms(5000), ..job(EXPIRED, now) });
    let later = Mark { now: now.plus_ms(6000), since_boot_ms: 0, boot: String::new(), trust: Trust::Trusted };
    assert_eq!(jobs.expire(later.cutoff(0).unwrap()).wait().unwrap().len(), 1);
    accept(&job(QUEUED, now));
}
