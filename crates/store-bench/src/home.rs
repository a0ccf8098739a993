//! A store to measure: its folder, its snapshot, and jobs of 1 KiB.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
};

use node_store::{
    jobs::Accepted,
    store::{Options, Store},
};
use node_types::{
    JobId, Network, Timestamp,
    job::{Job, Mode, ModelRef, Request},
};

use crate::trust::{HOUR_MS, Signer, config, keyset, signed_config, trusted, with};

/// When everything happens: time is an argument of the store.
pub const NOW: Timestamp = crate::trust::NOW;
/// Bytes of a job's request.
pub const JOB_BYTES: usize = 1024;
/// Tickets in flight while a store is filled: several groups, so that the writer never waits.
const IN_FLIGHT: usize = 4096;

/// A folder that is removed when this is dropped.
#[derive(Debug)]
pub struct Folder(pub PathBuf);

impl Folder {
    /// Makes `name` in `parent` anew.
    #[must_use]
    pub fn make(parent: &Path, name: &str) -> Self {
        let path = parent.join(name);
        if path.exists() {
            std::fs::remove_dir_all(&path).unwrap();
        }
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left is removed by the next run.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn now() -> node_store::clock::Reading {
    node_store::clock::Reading { wall: NOW, since_boot_ms: 0, boot: "bench".to_owned() }
}

fn options(home: &Path) -> Options {
    Options::new(home, Network::Testnet)
}

/// Makes a store whose snapshot has room for every job of a run.
#[must_use]
pub fn create(home: &Path) -> Store {
    let store = Store::create(&options(home), None, &now()).unwrap();
    let signer = Signer::new(1);
    store.snapshots().pin(trusted(&keyset(1, 1, &[&signer]))).unwrap();
    let document = with(config(1), "/limits/queue_jobs_max", (1_u64 << 40).into());
    let document = with(document, "/limits/queue_bytes_max", (1_u64 << 50).into());
    let envelope = signed_config(&document, &[&signer]);
    store.apply_snapshot(store.snapshots().verify(&envelope, NOW).unwrap(), NOW).unwrap();
    store
}

/// Opens a store that was made before.
#[must_use]
pub fn open(home: &Path) -> Store {
    Store::open(&options(home), &now()).unwrap()
}

/// A request body of [`JOB_BYTES`].
#[must_use]
pub fn body() -> String {
    let (head, tail) = (r#"{"messages":[{"content":""#, r#"","role":"user"}]}"#);
    let prompt = "why is the sky blue? ".repeat(JOB_BYTES);
    format!("{head}{}{tail}", &prompt[..JOB_BYTES - head.len() - tail.len()])
}

/// The job that is offered again and again, each time under another [`id`].
#[must_use]
pub fn job() -> Job {
    Job {
        id: id(0),
        network: Network::Testnet,
        model: ModelRef { name: "gemma-3-270m".into(), version: "1.0.0".into() },
        mode: Mode::Chat,
        request: Request::parse(body().as_bytes()).unwrap(),
        priority: 0,
        max_tokens: 100,
        expires_at: NOW.plus_ms(HOUR_MS),
        attempts_max: 3,
    }
}

/// The id of a number as UUID version 7 would be: ordered by time, 64 in each millisecond, random within it.
#[must_use]
pub fn id(number: u64) -> JobId {
    let time_ms = (NOW.ms() + number / 64) << 16;
    JobId::from_bytes((u128::from(time_ms) << 64 | u128::from(mixed(number))).to_be_bytes())
}

/// The id of a number as UUID version 4 would be: spread out over all there are.
#[must_use]
pub fn random_id(number: u64) -> JobId {
    JobId::from_bytes((u128::from(mixed(number)) << 64 | u128::from(number)).to_be_bytes())
}

/// SplitMix64: a bijection, so that no id comes twice.
const fn mixed(number: u64) -> u64 {
    let mixed = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Accepts `count` jobs with ids from `first` on, many tickets in flight.
pub fn fill(store: &Store, first: u64, count: u64) {
    let mut job = job();
    let mut tickets = VecDeque::with_capacity(IN_FLIGHT);
    for number in first..first + count {
        job.id = id(number);
        tickets.push_back(store.jobs().accept(&job, NOW));
        if tickets.len() == IN_FLIGHT {
            let oldest: node_store::writer::Ticket<_> = tickets.pop_front().unwrap();
            assert_eq!(oldest.wait().unwrap(), Accepted::New);
        }
    }
    for ticket in tickets {
        assert_eq!(ticket.wait().unwrap(), Accepted::New);
    }
}
