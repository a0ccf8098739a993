//! What a volume shows after a power cut, against what had been answered before it.

use std::{collections::BTreeMap, error::Error, fmt};

use node_store::{
    clock::Mark,
    format::Database,
    jobs::{Accepted, Lease, TRACE_ROW_BYTES},
    keys::Protection,
    logs::Query,
    store::{Store, StoreError},
    volume::VolumeError,
};
use node_types::{
    Digest, Network, NodeId, Timestamp, VolumeId,
    job::FailureKind,
    trace::{Outcome, Standing, Step},
};
use sim_disk::{Image, SimDisk};

use crate::{
    model::{Job, Logs, Model},
    workload::{Node, SEQUENCE_BLOCK, id, imported_key, job, keys_folder, link, number_of, output},
};

/// What must hold at a moment.
#[derive(Clone, Debug)]
pub struct Promise {
    /// What was answered, and what it may be instead: with a call under way, what holds after it.
    pub allowed: Vec<Model>,
    /// The creation was given the key of a wallet.
    pub imported: bool,
    /// Whether records must be there; after errors they may be lost and counted, or logs.db set aside and told.
    pub records: bool,
}

/// A job that nobody has offered before the power cut.
const NEW_JOB: u64 = 10_001;

/// How a job stands or ended, and how often it was started.
type Now = (Result<Standing, Outcome>, u16);

/// What can be seen of a volume.
#[derive(Debug, PartialEq)]
struct Seen {
    jobs: BTreeMap<u64, Now>,
    outbox: Vec<(u64, Result<String, FailureKind>)>,
    unreported: Vec<u64>,
    traces: Vec<u64>,
    held: u64,
    expired: u64,
    keyset: Option<u64>,
    floor: u64,
    current: Option<(u64, bool)>,
    previous: Option<u64>,
    sequence: u64,
    account: Option<u64>,
    reason: Option<u64>,
    clock: Option<Mark>,
    high_water: Timestamp,
}

impl Seen {
    /// What the model's volume shows once it is opened at `now`.
    fn expected(model: &Model, now: Timestamp) -> Self {
        let mut model = model.clone();
        model.reopen(now);
        let stands = |(number, job): (&u64, &Job)| (*number, (job.now, job.attempt));
        let outbox = |(number, job): (&u64, &Job)| match (job.now, job.failure) {
            (Ok(Standing::Finished), _) => Some((*number, Ok(output(*number).body))),
            (Ok(Standing::Failed), Some(kind)) => Some((*number, Err(kind))),
            (Ok(_) | Err(_), _) => None,
        };
        let expired = |job: &&Job| job.now == Err(Outcome::Expired);
        let unreported = model.ended.iter().filter(|number| !model.jobs[number].reported);
        Self {
            jobs: model.jobs.iter().map(stands).collect(),
            outbox: model.jobs.iter().filter_map(outbox).collect(),
            unreported: unreported.copied().collect(),
            traces: model.ended.clone(),
            held: model.jobs.values().filter(|job| job.now.is_ok()).count() as u64,
            expired: model.jobs.values().filter(expired).count() as u64,
            keyset: model.keyset,
            floor: model.floor,
            current: model.current,
            previous: model.previous,
            sequence: model.sequence,
            account: model.account,
            reason: model.reason,
            clock: model.clock.clone(),
            high_water: model.high_water,
        }
    }

    fn of(store: &Store, offered: u64, now: Timestamp, records: bool) -> Result<Self, Box<dyn Error>> {
        let (snapshots, binding, view) = (store.snapshots(), store.binding(), store.view());
        let mut incidents = view.incidents()?;
        // Logs that could not be read are set aside and told.
        incidents.retain(|incident| records || incident.database != Database::Logs);
        if !incidents.is_empty() {
            return Err(format!("taken for damage: {incidents:?}").into());
        }
        let mut outbox = Vec::new();
        for answer in store.jobs().outbox(0, now).wait()? {
            let answer = answer?;
            let result = answer.result.map(|output| output.body).map_err(|failure| failure.kind);
            outbox.push((number_of(answer.job), result));
        }
        let jobs = view.jobs();
        let mut seen = BTreeMap::new();
        for number in 1..=offered {
            if let Some(story) = jobs.explain(id(number))? {
                let trace = story.trace.ok_or("a job without a trace")?;
                let leased = trace.iter().filter(|event| matches!(event.step, Step::Leased { .. })).count();
                seen.insert(number, (story.now, u16::try_from(leased)?));
            }
        }
        if let Some(why) = snapshots.look(|view| view.unverifiable().first().map(|it| it.why.to_string())) {
            return Err(format!("a stored snapshot does not verify: {why}").into());
        }
        let (tally, traces) = (jobs.tally()?, jobs.traces(0)?);
        let mut trace_bytes = 0;
        for (_, trace) in &traces {
            trace_bytes += serde_json::to_string(trace)?.len() as u64 + TRACE_ROW_BYTES;
        }
        if tally.trace_bytes != trace_bytes {
            return Err(format!("traces take {trace_bytes} bytes, counted are {}", tally.trace_bytes).into());
        }
        let (floor, copy) = (snapshots.floor(), jobs.floor()?);
        if floor != copy {
            return Err(format!("the floor is {floor:?}, its copy {copy:?}").into());
        }
        let account = view.binding().account()?;
        let models = view.models().models()?;
        let reason =
            models.first().and_then(|row| row.reason.as_ref()).map(|reason| reason.parse()).transpose()?;
        Ok(Self {
            jobs: seen,
            outbox,
            unreported: jobs.unreported()?.iter().map(|expired| number_of(expired.job)).collect(),
            traces: traces.iter().map(|(_, trace)| number_of(trace.job)).collect(),
            held: tally.jobs,
            expired: tally.expired,
            keyset: snapshots.keyset().map(|keyset| keyset.document().version),
            floor: floor.version,
            current: snapshots.current().map(|it| (it.config.document().version, it.good)),
            previous: snapshots.previous().map(|it| it.config.document().version),
            sequence: binding.reserve_sequence(SEQUENCE_BLOCK).wait()?.start,
            account: account.map(|found| number_in(|number| link(number) == found)).transpose()?,
            reason,
            clock: view.binding().clock_mark()?,
            high_water: jobs.high_water()?,
        })
    }
}

fn number_in(is: impl Fn(u64) -> bool) -> Result<u64, String> {
    (1..1000).find(|number| is(*number)).ok_or_else(|| "a value that nobody gave".to_owned())
}

/// Those of the models that a volume opened at `now` shows; at least one.
///
/// `records`: whether the logs must be whole; see [`Promise::records`].
pub fn shown(
    store: &Store,
    allowed: &[Model],
    now: Timestamp,
    records: bool,
) -> Result<Vec<Model>, Box<dyn Error>> {
    let offered = allowed.iter().map(|model| model.offered).max().unwrap_or(0);
    let seen = Seen::of(store, offered, now, records)?;
    let fits = |model: &&Model| Seen::expected(model, now) == seen;
    let shown: Vec<_> = allowed.iter().filter(fits).cloned().collect();
    if shown.is_empty() {
        let expected: Vec<_> = allowed.iter().map(|model| Seen::expected(model, now)).collect();
        return Err(differs(&seen, &expected).into());
    }
    Ok(shown)
}

/// Mounts an image, opens the volume on it, or goes on with the creation that the cut ended, and
/// compares; then works with it and, if `twice`, opens it once more.
pub fn check(image: &Image, promise: &Promise, twice: bool) -> Result<(), String> {
    match checked(image, promise, twice) {
        Ok(()) => Ok(()),
        Err(error) => {
            let mut text = error.to_string();
            let mut cause = error.source();
            while let Some(error) = cause {
                text = format!("{text}: {error}");
                cause = error.source();
            }
            Err(text)
        }
    }
}

fn checked(image: &Image, promise: &Promise, twice: bool) -> Result<(), Box<dyn Error>> {
    let Promise { allowed, imported, records } = promise;
    let Some(answered) = allowed.first() else { return Err("nothing is allowed".into()) };
    let disk = SimDisk::from_image(image.clone());
    let mut node = Node::on(&disk, 0);
    match answered.identity {
        Some(_) => node.open(answered.now)?,
        None => match node.create(*imported) {
            Err(StoreError::Volume(VolumeError::Exists { .. })) => node.open(answered.now)?,
            other => other?,
        },
    }
    let Some(store) = &node.store else { return Err("nothing was opened".into()) };

    same_identity(image, store, promise)?;
    let shown = shown(store, allowed, answered.now, *records)?;
    let logs = logs_of(store)?;
    let mut may_be = allowed.iter().flat_map(|model| &model.logs_since);
    if *records && !may_be.any(|allowed| *allowed == logs) {
        let last: Vec<_> = allowed.iter().map(|model| &model.logs).collect();
        return Err(format!("the logs are {logs:?}, not {last:?} or a moment before").into());
    }
    let mut protections = allowed.iter().map(|model| match model.resealed {
        true => Protection::ContainerSecret,
        false => Protection::ObfuscationOnly,
    });
    if !protections.any(|protection| protection == store.protection()) {
        return Err(format!("the node key is {}", store.protection()).into());
    }
    if answered.resealed && image.read(&keys_folder().join("local.kek")).is_some() {
        return Err("the local secret came back".into());
    }

    let now = &shown[0];
    works(store, now, answered.now)?;
    if !twice {
        return Ok(());
    }
    node.open(answered.now)?;
    let Some(store) = &node.store else { return Err("nothing was opened".into()) };
    same_identity(image, store, promise)?;
    let kept = store.view().jobs().explain(id(NEW_JOB))?.map(|story| story.now);
    if answered.current.is_some() && kept != Some(Ok(Standing::Queued)) {
        return Err(format!("the job accepted after the power cut is {kept:?}").into());
    }
    let start = store.binding().reserve_sequence(1).wait()?.start;
    if start != now.sequence + u64::from(SEQUENCE_BLOCK) || store.snapshots().floor().version != now.floor {
        return Err(format!("at the second opening message numbers go on at {start}").into());
    }
    Ok(())
}

/// The identity is the one that was answered, and the one of the key files that the image has.
fn same_identity(image: &Image, store: &Store, promise: &Promise) -> Result<(), Box<dyn Error>> {
    let found = (store.node(), store.volume().stamp().volume);
    if let Some(held) = promise.allowed.first().and_then(|model| model.identity)
        && held != found
    {
        return Err(format!("the identity was {held:?}, it is {found:?}").into());
    }
    if promise.imported && found.0 != NodeId::derive(Network::Testnet, &imported_key().address()) {
        return Err(format!("the imported key became {}", found.0).into());
    }
    for name in ["node.key", "volume.key"] {
        let Some(bytes) = image.read(&keys_folder().join(name)) else { continue };
        let file: serde_json::Value = serde_json::from_slice(&bytes)?;
        let node = NodeId::derive(Network::Testnet, &serde_json::from_value(file["address"].clone())?);
        let volume: Option<VolumeId> = serde_json::from_value(file["volume"].clone())?;
        if node != found.0 || volume.is_some_and(|volume| volume != found.1) {
            return Err(format!("{name} was of {node}, the node is {}", found.0).into());
        }
    }
    Ok(())
}

/// Every job that was accepted is a duplicate, the queued ones are given out as they were offered, each
/// once, and a new one is taken.
fn works(store: &Store, model: &Model, now: Timestamp) -> Result<(), Box<dyn Error>> {
    let jobs = store.jobs();
    let offers: Vec<_> = model.jobs.keys().map(|number| (*number, jobs.accept(&job(*number), now))).collect();
    for (number, offer) in offers {
        let answer = offer.wait()?;
        if answer != Accepted::Duplicate {
            return Err(format!("job {number}, offered again, is {answer:?}").into());
        }
    }
    if model.current.is_none() {
        return Ok(());
    }
    let answer = jobs.accept(&job(NEW_JOB), now).wait()?;
    if answer != Accepted::New {
        return Err(format!("a new job is {answer:?}").into());
    }
    let mut model = model.clone();
    model.reopen(now);
    let queued = model.jobs.iter().filter(|(_, job)| job.now == Ok(Standing::Queued));
    let mut wanted: Vec<_> = queued.map(|(number, job)| (*number, job.attempt + 1)).collect();
    wanted.push((NEW_JOB, 1));
    let leases: Vec<_> = (0..=wanted.len()).map(|_| jobs.lease(None, None, &[].into(), now)).collect();
    let mut given = Vec::new();
    for lease in leases {
        match lease.wait()? {
            Lease::Empty | Lease::Full => {}
            Lease::Unreadable(why) => return Err(why.into()),
            Lease::Job(leased) => {
                let number = number_of(leased.job.id);
                if leased.job != job(number) {
                    return Err(format!("job {number} has changed").into());
                }
                given.push((number, leased.attempt));
            }
        }
    }
    if given != wanted {
        return Err(format!("leased {given:?}, not {wanted:?}").into());
    }
    Ok(())
}

/// The records and the batches, whose chain must have no gap.
fn logs_of(store: &Store) -> Result<Logs, Box<dyn Error>> {
    let mut logs = Logs::default();
    let view = store.view().logs();
    for entry in view.query(&Query::default())? {
        logs.records.push(entry.record.message.parse()?);
    }
    let mut before: Option<(u64, Digest)> = None;
    for batch in view.batches(u32::MAX)? {
        if before.is_some_and(|before| (before.0 + 1, before.1) != (batch.header.seq, batch.header.prev)) {
            return Err(format!("batch {} does not follow the one before it", batch.header.seq).into());
        }
        before = Some((batch.header.seq, Digest::of(batch.header_json.as_bytes())));
        let last = batch.records()?.last().map(|record| record.message.parse()).transpose()?;
        logs.batches.push((batch.header.seq, last.unwrap_or(0)));
    }
    Ok(logs)
}

fn differs(seen: &Seen, expected: &[Seen]) -> String {
    let lines = |seen: &dyn fmt::Debug| format!("{seen:#?}").lines().map(str::to_owned).collect::<Vec<_>>();
    let found = lines(seen);
    let mut text = String::new();
    for expected in expected {
        let wanted = lines(expected);
        let only = |these: &[String], others: &[String]| {
            let differing = these.iter().filter(|line| !others.contains(line)).map(|line| line.trim());
            differing.collect::<Vec<_>>().join(" ")
        };
        text += &format!("found {{{}}}, not {{{}}}; ", only(&found, &wanted), only(&wanted, &found));
    }
    text
}
