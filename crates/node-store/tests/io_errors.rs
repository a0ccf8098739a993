//! Every call to the disk fails in turn, once or from then on: nothing panics, nothing hangs, and each
//! answer is true when the volume is opened on the healed disk, even if the power went at the error.
//!
//! "Not done" is never said of something that is there, and after an I/O error in a writer everything else
//! that is asked of its database is answered "closed". What a volume has shown when it was opened again is
//! an answer too: a power cut right behind the opening does not take it back.
//!
//! Left out: records of the log, which may be lost and counted.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

#[path = "power_cut/check.rs"]
mod check;
#[path = "power_cut/harness.rs"]
#[expect(dead_code, reason = "power cuts use more of it")]
mod harness;
#[path = "power_cut/model.rs"]
mod model;
#[path = "../../node-types/tests/trust/common.rs"]
#[expect(dead_code, reason = "the trust documents' tests use more of it")]
mod trust;
#[path = "power_cut/workload.rs"]
#[expect(dead_code, reason = "power cuts use more of it")]
mod workload;

use std::{
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use check::{Promise, check, shown};
use model::{Job, Model};
use node_store::{
    format::Database,
    jobs::{Accepted, Retired},
    store::{Store, StoreError},
    volume::VolumeError,
    writer::WriteError,
};
use node_types::Timestamp;
use sim_disk::{Call as DiskCall, Fault, Lasts, Loss, SimDisk};
use workload::{Answer, Call, NoAnswer, Node, Op, TIGHT, Workload, mark};

const WORK: [Op; 24] = {
    use Op::*;
    [
        Accept,
        Finish,
        Acknowledge,
        Lease,
        Log,
        Seal,
        Apply,
        Confirm,
        Apply,
        RollBack,
        RotateKeyset,
        Reserve,
        Link,
        KeepMark,
        Accept,
        Erase,
        Fail,
        Expire,
        Report,
        AcknowledgeLogs,
        Reseal,
        Restart,
        Accept,
        Lease,
    ]
};

/// The fault that a run meets.
#[derive(Clone, Copy, Debug)]
struct Meets {
    nth: u64,
    fault: Fault,
    lasts: Lasts,
}

/// What the answers of a run were.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    runs: u64,
    done: u64,
    unknown: u64,
    not_done: u64,
    /// Runs after which a writer was closed.
    closed: u64,
}

/// Works through the calls on a disk that meets a fault, and keeps what the answers leave possible.
fn run(workload: &Workload, disk: &SimDisk, counts: &mut Counts) -> Vec<Model> {
    let mut possible = vec![harness::begin(workload)];
    let mut node = Node::on(disk, TIGHT);
    let mut closed = false;
    let first = workload.first().into_iter().map(Ok);
    for next in first.chain(workload.ops().into_iter().map(Err)) {
        let Some(call) = next.map_or_else(|op| possible[0].choose(op), Some) else { continue };
        let now = possible[0].now;
        let answer = node.run(&call, now, || ());
        match answer {
            Ok(answer) => {
                counts.done += 1;
                let mut after: Vec<_> =
                    possible.iter().filter_map(|model| after(model, &call, &answer, now)).collect();
                assert!(!after.is_empty(), "{call:?} answered {answer:?}");
                if let (Answer::Created, Some(store)) = (&answer, &node.store) {
                    after[0].identity = Some((store.node(), store.volume().stamp().volume));
                }
                possible = after;
            }
            Err(NoAnswer::Unknown(_)) => {
                counts.unknown += 1;
                for before in possible.clone() {
                    let mut whole = before.clone();
                    whole.step_at(&call, now);
                    for model in before.partly(&call).into_iter().chain([whole]) {
                        if !possible.contains(&model) {
                            possible.push(model);
                        }
                    }
                }
            }
            Err(NoAnswer::NotDone(_)) => counts.not_done += 1,
        }
        if let Some(store) = &node.store {
            closed |= stays_closed(store);
        }
    }
    counts.closed += u64::from(closed);
    possible
}

/// What a model is after an answer, if it is one that the answer allows.
fn after(model: &Model, call: &Call, answer: &Answer, now: Timestamp) -> Option<Model> {
    let mut next = model.clone();
    let wanted = next.step_at(call, now);
    match (call, answer) {
        _ if wanted == *answer => Some(next),
        // Jobs are judged by the snapshot that is in force in memory. If it is unknown whether the next one
        // is on disk, opening the volume tells.
        (Call::Accept(number), Answer::Accepted(Accepted::New)) => {
            next.jobs.insert(*number, Job::QUEUED);
            next.high_water = next.high_water.max(now);
            Some(next)
        }
        // On a full disk a job is turned away and nothing is written.
        (Call::Accept(number), Answer::Accepted(Accepted::Full | Accepted::Rejected(_))) => {
            next.jobs.remove(number);
            next.high_water = model.high_water;
            Some(next)
        }
        (_, _) => None,
    }
}

/// Whether a writer has stopped; one that has answers nothing but "closed".
fn stays_closed(store: &Store) -> bool {
    let stopped = |database| store.volume().stopped(database).is_some();
    let mut any = false;
    for database in Database::ALL.into_iter().filter(|database| stopped(*database)) {
        any = true;
        let error = match database {
            Database::State => store.binding().keep_clock_mark(mark(1)).wait(),
            Database::Jobs => store.jobs().reported(Vec::new()).wait(),
            Database::Logs => store.logs().flush().wait(),
        };
        assert!(matches!(error, Err(WriteError::Closed { .. })), "{database}: {error:?}");
    }
    any
}

fn disk_for(workload: &Workload) -> SimDisk {
    match workload {
        Workload::Creation { .. } => SimDisk::new(),
        Workload::Short(_) | Workload::Long { .. } => SimDisk::from_image(harness::volume().0.clone()),
    }
}

/// One run with one fault; then the volume is opened on the healed disk: by a new process, after a power
/// cut at the moment of the fault, and after a power cut behind the opening by a new process.
fn meet(workload: &Workload, meets: Meets, counts: &mut Counts) {
    let disk = disk_for(workload);
    disk.fail(meets.nth, DiskCall::Any, meets.fault, meets.lasts);
    counts.runs += 1;
    let allowed = run(workload, &disk, counts);
    disk.heal();
    let imported = *workload == Workload::Creation { imported: true };
    let mut promise = Promise { allowed, imported, records: false };
    let at = disk.ops();
    let holds = |at: usize, loss: Loss, promise: &Promise| {
        let checked = check(&disk.image(at, &loss), promise, true);
        let story = || disk.describe(at.saturating_sub(40)..at).join("\n");
        assert_eq!(checked, Ok(()), "{}\n{workload} with {meets:?}, then {loss:?} at {at}", story());
    };
    holds(at, Loss::Nothing, &promise);
    holds(at, Loss::Unsynced, &promise);

    // What a volume has shown is an answer too: it stands even if nothing was written since.
    let mut node = Node::on(&disk, TIGHT);
    let answered = &promise.allowed[0];
    match answered.identity {
        Some(_) => node.open(answered.now).unwrap(),
        None => match node.create(imported) {
            Err(StoreError::Volume(VolumeError::Exists { .. })) => node.open(answered.now).unwrap(),
            other => other.unwrap(),
        },
    }
    let opened = disk.ops();
    let store = node.store.as_ref().unwrap();
    let now = answered.now;
    promise.allowed = shown(store, &promise.allowed, now, promise.records).unwrap();
    for model in &mut promise.allowed {
        model.reopen(now);
        model.now = now;
    }
    promise.allowed[0].identity = Some((store.node(), store.volume().stamp().volume));
    holds(opened, Loss::Unsynced, &promise);
}

/// Each call of the workload fails in turn, in four ways.
#[expect(clippy::print_stdout, reason = "the numbers are what the test is run for")]
fn every_call_fails(workload: &Workload) {
    let disk = disk_for(workload);
    run(workload, &disk, &mut Counts::default());
    let calls = disk.calls(DiskCall::Any);
    for fault in [Fault::IoErr, Fault::NoSpace] {
        for lasts in [Lasts::Once, Lasts::Persistent] {
            let (next, total) = (AtomicU64::new(1), Mutex::new(Counts::default()));
            thread::scope(|scope| {
                for _ in 0..harness::workers() {
                    scope.spawn(|| {
                        let mut counts = Counts::default();
                        loop {
                            let nth = next.fetch_add(1, Ordering::Relaxed);
                            if nth > calls {
                                break;
                            }
                            meet(workload, Meets { nth, fault, lasts }, &mut counts);
                        }
                        let mut total = total.lock().unwrap();
                        total.runs += counts.runs;
                        total.done += counts.done;
                        total.unknown += counts.unknown;
                        total.not_done += counts.not_done;
                        total.closed += counts.closed;
                    });
                }
            });
            let Counts { runs, done, unknown, not_done, closed } = total.into_inner().unwrap();
            println!(
                "{fault:?} {lasts:?}: {runs} runs, {done} answers, {unknown} unknown, {not_done} not done; \
                 {closed} runs ended with a closed writer"
            );
            assert_eq!(runs, calls);
        }
    }
}

#[test]
fn every_failing_call_of_a_working_store_leaves_true_answers() {
    every_call_fails(&Workload::Short(WORK.to_vec()));
}

#[test]
fn every_failing_call_of_a_creation_leaves_one_identity() {
    for imported in [false, true] {
        every_call_fails(&Workload::Creation { imported });
    }
}

/// Given a volume whose node was moved away, and any one call to the disk failing while it is opened; then it is not opened:
/// the mark could not be read in one place, was read in another, and that was not heeded.
#[test]
fn a_retired_volume_is_opened_by_no_error() {
    let workload = Workload::Short(Vec::new());
    let disk = disk_for(&workload);
    let now = harness::begin(&workload).now;
    let mut node = Node::on(&disk, TIGHT);
    node.open(now).unwrap();
    let retired = Retired { at: now, archive: "a.move".to_owned(), transfer: "1".to_owned() };
    node.store.as_ref().unwrap().jobs().retire(Some(retired)).wait().unwrap();
    drop(node);
    let image = disk.image(disk.ops(), &Loss::Nothing);
    let opening = SimDisk::from_image(image.clone());
    let refused = Node::on(&opening, TIGHT).open(now);
    assert!(matches!(refused, Err(StoreError::Volume(VolumeError::Retired { .. }))), "{refused:?}");
    for nth in 1..=opening.calls(DiskCall::Any) {
        for lasts in [Lasts::Once, Lasts::Persistent] {
            let disk = SimDisk::from_image(image.clone());
            disk.fail(nth, DiskCall::Any, Fault::IoErr, lasts);
            assert!(Node::on(&disk, TIGHT).open(now).is_err(), "call {nth} fails: {lasts:?}");
        }
    }
}
