//! Operations on a store, one at a time, and lists of them.
//!
//! An [`Op`] says what kind of thing is done; what it is done to follows from the model ([`Call`]), so a
//! list of operations is all that a workload is. Each answer is waited for and checkpoints are made between
//! two calls, so the same workload always does the same to the disk.

use std::{
    collections::HashMap,
    fmt,
    ops::Range,
    path::{Path, PathBuf},
    str::FromStr,
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use node_store::{
    binding::{Account, AccountLink},
    clock::{Mark, Reading, Trust},
    jobs::{Accepted, Lease, Moved},
    keys::{self, KekSources, NodeKey, Source},
    snapshot::{Applied, SnapshotError},
    store::{Options, Store, StoreError},
    writer::{Ticket, Upkeep, WriteError},
};
use node_types::{
    JobId, Network, Timestamp,
    job::{Failure, FailureKind, Job, Mode, ModelRef, Output, Request},
    log::{Kind, Level, Record},
    models::ModelState,
};
use sim_disk::SimDisk;
use zeroize::Zeroizing;

pub(crate) use crate::trust::NOW;
use crate::{
    model::{ATTEMPTS_MAX, Model, deadline},
    trust::{Signer, config, keyset, signed_config, signed_keyset, trusted},
};

/// Where the home folder stands on the simulated disk.
pub const HOME: &str = "/var/resultity";
/// Message numbers that are reserved at once.
pub const SEQUENCE_BLOCK: u32 = 10;
/// The deadline of job 0; each later job has its deadline [`DEADLINE_STEP_MS`] later.
pub const FIRST_DEADLINE: Timestamp = NOW.plus_ms(10_000);
pub const DEADLINE_STEP_MS: u64 = 1000;
/// The reserve of short workloads: the write-ahead logs stay below their limit.
pub const ROOMY: u64 = 4 << 20;
/// The reserve of long ones: a log is copied back from 16 KiB on and started anew at 64 KiB.
pub const TIGHT: u64 = 256 << 10;

/// The kinds of things that are done to a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Accept,
    Lease,
    Finish,
    Fail,
    Cancel,
    Acknowledge,
    Expire,
    Report,
    Apply,
    Confirm,
    RollBack,
    RotateKeyset,
    Reserve,
    Link,
    KeepMark,
    SetState,
    Log,
    Seal,
    AcknowledgeLogs,
    Erase,
    Restart,
    Reseal,
}

impl Op {
    pub const ALL: [Self; 22] = [
        Self::Accept,
        Self::Lease,
        Self::Finish,
        Self::Fail,
        Self::Cancel,
        Self::Acknowledge,
        Self::Expire,
        Self::Report,
        Self::Apply,
        Self::Confirm,
        Self::RollBack,
        Self::RotateKeyset,
        Self::Reserve,
        Self::Link,
        Self::KeepMark,
        Self::SetState,
        Self::Log,
        Self::Seal,
        Self::AcknowledgeLogs,
        Self::Erase,
        Self::Restart,
        Self::Reseal,
    ];
}

/// One call of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    Create {
        imported: bool,
    },
    Pin,
    Accept(u64),
    Lease,
    Finish(u64),
    Fail(u64),
    Cancel(u64),
    Acknowledge(u64),
    /// At the deadline of this job.
    Expire(u64),
    Report(u64),
    Apply(u64),
    Confirm,
    RollBack,
    RotateKeyset(u64),
    Reserve,
    Link(u64),
    KeepMark(u64),
    /// Of a model, with this reason.
    SetState(u64),
    Log(u64),
    Seal,
    AcknowledgeLogs(u64),
    Erase,
    /// Closes the store if it is open, and opens it.
    Restart,
    Reseal,
}

/// What the store said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Created,
    Done,
    Accepted(Accepted),
    Leased(Option<u64>),
    Moved(Moved),
    Expired(Vec<u64>),
    Applied(Applied),
    Reserved(Range<u64>),
    Sealed(u64),
}

/// Why there is no answer.
#[derive(Debug)]
pub enum NoAnswer {
    /// It may be done or not.
    Unknown(String),
    /// It is not done.
    NotDone(String),
}

impl NoAnswer {
    pub fn text(self) -> String {
        match self {
            Self::Unknown(text) | Self::NotDone(text) => text,
        }
    }
}

impl From<WriteError> for NoAnswer {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Unknown { .. } => Self::Unknown(error.to_string()),
            WriteError::Closed { .. } | WriteError::Full { .. } | WriteError::Refused { .. } => {
                Self::NotDone(error.to_string())
            }
        }
    }
}

impl From<SnapshotError> for NoAnswer {
    fn from(error: SnapshotError) -> Self {
        match error {
            SnapshotError::Write(error) => error.into(),
            SnapshotError::Refused(_)
            | SnapshotError::NoKeyset
            | SnapshotError::OtherPin { .. }
            | SnapshotError::NoPrevious
            | SnapshotError::Read(_) => Self::NotDone(error.to_string()),
        }
    }
}

/// An error of something that is done in several steps.
fn in_steps(error: &(dyn std::error::Error + 'static)) -> NoAnswer {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    NoAnswer::Unknown(text)
}

/// A node on a simulated disk.
#[derive(Debug)]
pub struct Node {
    disk: SimDisk,
    reserve_bytes: u64,
    pub store: Option<Store>,
}

impl Node {
    pub fn on(disk: &SimDisk, reserve_bytes: u64) -> Self {
        Self { disk: disk.clone(), reserve_bytes, store: None }
    }

    /// Creates the store, or goes on with a creation that was cut off.
    pub fn create(&mut self, imported: bool) -> Result<(), StoreError> {
        let key = imported.then(imported_key);
        let mut options = options(&self.disk, self.reserve_bytes);
        options.kek.secret_file = None;
        self.store = Some(Store::create(&options, key, &reading(NOW))?);
        Ok(())
    }

    pub fn open(&mut self, now: Timestamp) -> Result<(), StoreError> {
        self.store = None;
        self.store = Some(Store::open(&options(&self.disk, self.reserve_bytes), &reading(now))?);
        Ok(())
    }

    /// Makes a call, waits for its answer, and calls `answered` at that moment; then lets the store make
    /// the checkpoints that are due.
    pub fn run(&mut self, call: &Call, now: Timestamp, answered: impl FnOnce()) -> Result<Answer, NoAnswer> {
        let answer = self.call(call, now);
        answered();
        if let Some(store) = &self.store {
            store.volume().checkpoint();
        }
        answer
    }

    fn call(&mut self, call: &Call, now: Timestamp) -> Result<Answer, NoAnswer> {
        if let Call::Create { imported } = call {
            return self.create(*imported).map(|()| Answer::Created).map_err(|error| in_steps(&error));
        }
        if *call == Call::Restart {
            return self.open(now).map(|()| Answer::Done).map_err(|error| in_steps(&error));
        }
        let Some(store) = &self.store else { return Err(NoAnswer::NotDone("no store is open".into())) };
        let jobs = store.jobs();
        let done = |ticket: Ticket<()>| -> Result<Answer, NoAnswer> {
            ticket.wait()?;
            Ok(Answer::Done)
        };
        let moved = |ticket: Ticket<Moved>| -> Result<Answer, NoAnswer> { Ok(Answer::Moved(ticket.wait()?)) };
        match call {
            Call::Create { .. } | Call::Restart => unreachable!("they need no open store"),
            Call::Pin => {
                store.snapshots().pin(trusted(&keyset(1, 1, &[&Signer::new(1)])))?;
                Ok(Answer::Done)
            }
            Call::Accept(number) => Ok(Answer::Accepted(jobs.accept(&job(*number), now).wait()?)),
            Call::Lease => Ok(Answer::Leased(match jobs.lease(None, None, &[].into(), now).wait()? {
                Lease::Job(leased) => Some(number_of(leased.job.id)),
                Lease::Empty | Lease::Full => None,
                Lease::Unreadable(why) => return Err(NoAnswer::NotDone(why.to_string())),
            })),
            Call::Finish(number) => moved(jobs.finish(id(*number), output(*number), now)),
            Call::Fail(number) => {
                moved(jobs.fail(id(*number), Failure::new(FailureKind::Runtime, "it broke"), now))
            }
            Call::Cancel(number) => moved(jobs.cancel(id(*number), now)),
            Call::Acknowledge(number) => moved(jobs.acknowledge(id(*number), now)),
            Call::Expire(number) => {
                let Some(deadlines) = trusted_mark(deadline(*number)).cutoff(0) else {
                    return Err(NoAnswer::NotDone("time is held".into()));
                };
                let expired = jobs.expire(deadlines).wait()?;
                Ok(Answer::Expired(expired.iter().map(|expired| number_of(expired.job)).collect()))
            }
            Call::Report(number) => done(jobs.reported(vec![id(*number)])),
            Call::Apply(version) => {
                let keyset = store.snapshots().keyset().ok_or(SnapshotError::NoKeyset)?;
                let envelope = snapshot(*version, keyset.document().version);
                let config = store.snapshots().verify(&envelope, NOW)?;
                // Two commits: an error between them leaves the rest to the next opening.
                let applied = store.apply_snapshot(config, now).map_err(|error| in_steps(&error))?;
                Ok(Answer::Applied(applied))
            }
            Call::Confirm => {
                let current = store.snapshots().current();
                let current = current.ok_or_else(|| NoAnswer::NotDone("none is in force".into()))?;
                store.snapshots().confirm(current.config.digest())?;
                Ok(Answer::Done)
            }
            Call::RollBack => {
                store.roll_back_snapshot(now).map_err(|error| in_steps(&error))?;
                Ok(Answer::Done)
            }
            Call::RotateKeyset(version) => {
                let signer = Signer::new(1);
                let next = signed_keyset(&keyset(*version, 1, &[&signer]), &[&signer]);
                store.snapshots().rotate_keyset(&next)?;
                Ok(Answer::Done)
            }
            Call::Reserve => Ok(Answer::Reserved(store.binding().reserve_sequence(SEQUENCE_BLOCK).wait()?)),
            Call::Link(number) => done(store.binding().link(link(*number))),
            Call::KeepMark(number) => done(store.binding().keep_clock_mark(mark(*number))),
            Call::SetState(number) => {
                let (model, reason) = (model_of(1), Some(number.to_string()));
                done(store.models().set_state(&model, Vec::new(), ModelState::Failed, reason, now))
            }
            Call::Log(number) => {
                store.logs().append(record(*number));
                // What it set off comes first, so that the flush is a commit of its own.
                store.volume().checkpoint();
                done(store.logs().flush())
            }
            Call::Seal => Ok(match store.logs().seal().wait()? {
                Some(batch) => Answer::Sealed(batch.header.seq),
                None => Answer::Done,
            }),
            Call::AcknowledgeLogs(seq) => {
                store.logs().acknowledge(*seq).wait()?;
                Ok(Answer::Done)
            }
            Call::Erase => {
                store.volume().erase();
                Ok(Answer::Done)
            }
            Call::Reseal => {
                let from = options(&self.disk, 0).kek;
                let to = from.load(&self.disk, Source::ContainerSecret);
                let folder = keys_folder();
                to.and_then(|to| keys::reseal(&self.disk, &folder, Network::Testnet, &from, &to))
                    .map_err(|error| in_steps(&error))?;
                Ok(Answer::Done)
            }
        }
    }
}

/// How a store on this disk is opened.
fn options(disk: &SimDisk, reserve_bytes: u64) -> Options {
    let mut kek = KekSources::new(&keys_folder());
    kek.secret_file = Some(container_secret());
    let disk = Arc::new(disk.clone());
    let (home, network) = (PathBuf::from(HOME), Network::Testnet);
    Options { disk, home, network, kek, reserve_bytes, upkeep: Upkeep::WhenAsked }
}

pub fn keys_folder() -> PathBuf {
    Path::new(HOME).join("testnet/keys")
}

/// A container's secret lies outside of the volume, on the real disk.
fn container_secret() -> PathBuf {
    static FILE: LazyLock<tempfile::NamedTempFile> = LazyLock::new(|| {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file.as_file(), &[b's'; 32]).unwrap();
        file
    });
    FILE.path().to_owned()
}

/// The key of a wallet that was imported.
pub fn imported_key() -> NodeKey {
    NodeKey::from_bytes(&Zeroizing::new([9; 32])).unwrap()
}

pub fn id(number: u64) -> JobId {
    let mut bytes = [0; 16];
    bytes[8..].copy_from_slice(&number.to_be_bytes());
    JobId::from_bytes(bytes)
}

pub fn number_of(id: JobId) -> u64 {
    id.as_bytes()[8..].iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Odd jobs ask for a model that every snapshot lists, even ones for one that odd versions list.
pub fn model_of(number: u64) -> ModelRef {
    let name = if number % 2 == 1 { "gemma-3-270m" } else { "qwen-3-600m" };
    ModelRef { name: name.into(), version: "1.0.0".into() }
}

pub fn job(number: u64) -> Job {
    // One request in three takes pages of its own.
    let words = if number.is_multiple_of(3) { 600 } else { 3 };
    let body = format!(r#"{{"messages":[{{"role":"user","content":"{}"}}]}}"#, "blue sky ".repeat(words));
    Job {
        id: id(number),
        network: Network::Testnet,
        model: model_of(number),
        mode: Mode::Chat,
        request: Request::parse(body.as_bytes()).unwrap(),
        priority: 0,
        max_tokens: 100,
        expires_at: deadline(number),
        attempts_max: ATTEMPTS_MAX,
    }
}

pub fn output(number: u64) -> Output {
    Output { body: format!("answer {number}"), prompt_tokens: 5, completion_tokens: 7 }
}

pub fn link(number: u64) -> AccountLink {
    AccountLink::new(Account::Email(format!("owner{number}@example.org")), NOW, "proof".into()).unwrap()
}

/// What the clocks say at `now`, always in the same start of the machine.
pub fn reading(now: Timestamp) -> Reading {
    Reading { wall: now, since_boot_ms: now.ms(), boot: "a".into() }
}

/// A mark of another start of the machine than that of [`reading`].
fn trusted_mark(now: Timestamp) -> Mark {
    Mark { now, since_boot_ms: 1, boot: "b".into(), trust: Trust::Trusted }
}

/// The mark of so many milliseconds after the beginning.
pub fn mark(number: u64) -> Mark {
    trusted_mark(NOW.plus_ms(number))
}

fn record(number: u64) -> Record {
    Record::new(NOW, Level::Info, Kind::Agent, number.to_string())
}

/// A signed snapshot; signing takes longer than all else, so each is signed once.
fn snapshot(version: u64, keyset: u64) -> Vec<u8> {
    type Envelopes = Mutex<HashMap<(u64, u64), Vec<u8>>>;
    static SIGNED: LazyLock<Envelopes> = LazyLock::new(Mutex::default);
    let mut signed = SIGNED.lock().unwrap_or_else(PoisonError::into_inner);
    let envelope = signed.entry((version, keyset)).or_insert_with(|| {
        let mut document = config(version);
        document["keyset_version"] = keyset.into();
        if version % 2 == 1 {
            let mut other = document["models"][0].clone();
            other["name"] = model_of(2).name.into();
            document["models"].as_array_mut().unwrap().push(other);
        }
        signed_config(&document, &[&Signer::new(1)])
    });
    envelope.clone()
}

/// A list of operations and what they begin on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Workload {
    /// On an empty disk, with a key that is drawn or imported.
    Creation { imported: bool },
    /// On a volume with a few jobs (see [`PROLOGUE`]).
    Short(Vec<Op>),
    /// Operations drawn by this seed, with little room in the write-ahead logs.
    Long { seed: u64 },
}

/// What has been done to the volume before the other workloads begin.
pub const PROLOGUE: [Call; 12] = [
    Call::Create { imported: false },
    Call::Pin,
    Call::Apply(1),
    Call::Confirm,
    Call::Accept(1),
    Call::Accept(2),
    Call::Accept(3),
    Call::Lease,
    Call::Finish(1),
    Call::Log(1),
    Call::Reserve,
    Call::Restart,
];
/// How each of them begins.
pub const FIRST: [Call; 2] = [Call::Restart, Call::Lease];
/// Operations of a long workload.
pub const LONG_OPS: usize = 40;

impl Workload {
    /// Every list of one to three operations.
    pub fn all_short() -> impl Iterator<Item = Self> {
        let one = || Op::ALL.into_iter();
        let ones = one().map(|a| vec![a]);
        let twos = one().flat_map(move |a| one().map(move |b| vec![a, b]));
        let threes = one().flat_map(move |a| one().flat_map(move |b| one().map(move |c| vec![a, b, c])));
        ones.chain(twos).chain(threes).map(Self::Short)
    }

    pub fn reserve_bytes(&self) -> u64 {
        match self {
            Self::Creation { .. } | Self::Short(_) => ROOMY,
            Self::Long { .. } => TIGHT,
        }
    }

    /// The calls before the operations.
    pub fn first(&self) -> Vec<Call> {
        match self {
            Self::Creation { imported } => {
                vec![Call::Create { imported: *imported }, Call::Pin, Call::Apply(1), Call::Confirm]
            }
            Self::Short(_) | Self::Long { .. } => FIRST.to_vec(),
        }
    }

    pub fn ops(&self) -> Vec<Op> {
        match self {
            Self::Creation { .. } => vec![Op::Accept, Op::Restart],
            Self::Short(ops) => ops.clone(),
            Self::Long { seed } => {
                let mut draw = *seed;
                let one = |_| Op::ALL[usize::try_from(next(&mut draw) % Op::ALL.len() as u64).unwrap()];
                (0..LONG_OPS).map(one).collect()
            }
        }
    }

    /// Whether the operations can all be done, one after the other. Where one cannot, the list without it
    /// is a workload of its own.
    pub fn possible(&self, begin: &Model) -> bool {
        let mut model = begin.clone();
        for call in self.first() {
            model.step(&call);
        }
        self.ops().into_iter().all(|op| model.choose(op).map(|call| model.step(&call)).is_some())
    }
}

/// SplitMix64: the same numbers on every machine.
pub fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut word = *state;
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

impl fmt::Display for Workload {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Creation { imported: false } => out.write_str("created"),
            Self::Creation { imported: true } => out.write_str("imported"),
            Self::Short(ops) => {
                let names: Vec<_> = ops.iter().map(|op| format!("{op:?}")).collect();
                out.write_str(&names.join("."))
            }
            Self::Long { seed } => write!(out, "{seed}"),
        }
    }
}

impl FromStr for Workload {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(seed) = text.parse() {
            return Ok(Self::Long { seed });
        }
        match text {
            "created" => Ok(Self::Creation { imported: false }),
            "imported" => Ok(Self::Creation { imported: true }),
            list => {
                let named = |name| Op::ALL.into_iter().find(|op| format!("{op:?}") == name);
                let ops = list.split('.').map(|name| named(name).ok_or(format!("no operation {name}")));
                ops.collect::<Result<_, _>>().map(Self::Short)
            }
        }
    }
}
