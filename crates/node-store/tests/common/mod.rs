//! What the store's tests share: a volume in a temporary folder, jobs and rules.
#![allow(dead_code, reason = "each test file uses its own part of this")]
#![expect(clippy::unwrap_used, reason = "a test that cannot set up must fail")]

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use node_store::{
    clock::{Cutoff, Mark, Reading, Trust},
    disk::{Disk, RealDisk},
    format::Stamp,
    jobs::{JobRules, Jobs},
    volume::{RESERVE_BYTES, Volume, VolumeError},
};
use node_types::{
    Address, Digest, JobId, Network, NodeId, Timestamp, VolumeId,
    job::{Job, Mode, ModelRef, Output, Request},
};
use sim_disk::SimDisk;

/// The moment most tests happen at.
pub const NOW: Timestamp = Timestamp::from_ms(1_795_478_400_000);
/// A minute, in milliseconds.
pub const MINUTE_MS: u64 = 60_000;
/// The key that the tests' volumes are sealed under.
pub const VOLUME_KEY: [u8; 32] = [7; 32];

pub fn stamp(network: Network) -> Stamp {
    Stamp {
        network,
        node: NodeId::derive(network, &Address::from_bytes([1; 20])),
        volume: VolumeId::from_bytes([2; 16]),
    }
}

pub fn real_disk() -> Arc<dyn Disk> {
    Arc::new(RealDisk)
}

pub fn create(folder: &Path) -> Volume {
    Volume::create(&real_disk(), folder, stamp(Network::Testnet), RESERVE_BYTES, NOW).unwrap()
}

/// A simulated disk, and the same as the store takes it.
pub fn sim_disk() -> (SimDisk, Arc<dyn Disk>) {
    let disk = SimDisk::new();
    (disk.clone(), Arc::new(disk))
}

/// Where the volume of a simulated disk stands.
pub const SIM_FOLDER: &str = "/volume";

/// A volume without a reserve on a simulated disk.
pub fn create_on(disk: &Arc<dyn Disk>) -> Volume {
    Volume::create(disk, Path::new(SIM_FOLDER), stamp(Network::Testnet), 0, NOW).unwrap()
}

pub fn try_open_on(disk: &Arc<dyn Disk>) -> Result<Volume, VolumeError> {
    Volume::open(disk, Path::new(SIM_FOLDER), stamp(Network::Testnet), 0, NOW)
}

pub fn open_on(disk: &Arc<dyn Disk>) -> Volume {
    try_open_on(disk).unwrap()
}

pub fn open_as(folder: &Path, stamp: Stamp) -> Result<Volume, VolumeError> {
    Volume::open(&real_disk(), folder, stamp, RESERVE_BYTES, NOW)
}

pub fn open(folder: &Path) -> Volume {
    open_as(folder, stamp(Network::Testnet)).unwrap()
}

pub fn volume_folder(home: &tempfile::TempDir) -> PathBuf {
    node_store::volume::folder(home.path(), Network::Testnet)
}

pub fn model() -> ModelRef {
    ModelRef { name: "gemma".into(), version: "1".into() }
}

pub fn rules() -> JobRules {
    JobRules {
        config: Digest::of(b"config"),
        in_force_until: Timestamp::MAX,
        models: vec![(model(), vec![Mode::Chat, Mode::Completion])],
        jobs_max: 100_000,
        bytes_max: 1 << 30,
        request_bytes_max: 1 << 20,
        tokens_max: 1000,
        attempts_max: 3,
        ttl_ms_max: 60 * MINUTE_MS,
    }
}

pub fn jobs(volume: &Volume) -> Jobs {
    let jobs = volume.jobs(&VOLUME_KEY);
    jobs.set_rules(Some(rules()));
    jobs
}

pub fn id(number: u64) -> JobId {
    let mut bytes = [0; 16];
    bytes[8..].copy_from_slice(&number.to_be_bytes());
    JobId::from_bytes(bytes)
}

pub fn job(number: u64) -> Job {
    job_saying(number, "why is the sky blue?")
}

pub fn job_saying(number: u64, prompt: &str) -> Job {
    let body = format!(r#"{{"messages":[{{"role":"user","content":"{prompt}"}}]}}"#);
    Job {
        id: id(number),
        network: Network::Testnet,
        model: model(),
        mode: Mode::Chat,
        request: Request::parse(body.as_bytes()).unwrap(),
        priority: 0,
        max_tokens: 100,
        expires_at: NOW.plus_ms(MINUTE_MS),
        attempts_max: 2,
    }
}

pub fn output(text: &str) -> Output {
    Output { body: text.to_owned(), prompt_tokens: 5, completion_tokens: 7 }
}

/// What the clocks say at `wall`, `since_boot_ms` into the start named `boot`.
pub fn reading(boot: &str, since_boot_ms: u64, wall: Timestamp) -> Reading {
    Reading { wall, since_boot_ms, boot: boot.into() }
}

/// The clocks at `moment` of a machine whose clocks are right.
pub fn at(moment: Timestamp) -> Reading {
    reading("a", moment.ms(), moment)
}

/// Everything up to `moment` may be ended.
pub fn cutoff(moment: Timestamp) -> Cutoff {
    let mark = Mark { now: moment, since_boot_ms: 0, boot: "a".into(), trust: Trust::Trusted };
    mark.cutoff(0).unwrap()
}
