//! Group commit as callers see it: shared syncs, answers of their own, and what a failure takes with it.
//!
//! A gate stands in front of the simulated disk's syncs: while it is closed, whatever is submitted becomes one
//! group, and nothing may be answered.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

mod common;

use std::{
    future::Future,
    path::Path,
    pin::{Pin, pin},
    sync::{Arc, Barrier, Condvar, Mutex},
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::Duration,
};

use common::*;
use node_store::{
    binding::{Account, AccountLink},
    clock::{Mark, Trust},
    format::Database,
    jobs::Accepted,
    volume::Volume,
    writer::{Ticket, WriteError},
};
use node_types::{
    Network,
    log::{Kind, Level, Record},
};
use sim_disk::{Call, Fault, Lasts, Loss, SimDisk};

/// Holds up every sync of a disk while it is closed. The disk is locked meanwhile: a test must not use it.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<GateState>, Condvar)>);

#[derive(Default)]
struct GateState {
    closed: bool,
    waiting: bool,
}

impl Gate {
    fn before_syncs_of(disk: &SimDisk) -> Self {
        let gate = Self::default();
        let keeper = gate.clone();
        disk.lie_about(move |_| {
            let (state, changed) = &*keeper.0;
            let mut state = state.lock().unwrap();
            state.waiting = state.closed;
            changed.notify_all();
            drop(changed.wait_while(state, |state| state.closed).unwrap());
            false
        });
        gate
    }

    fn close(&self) {
        self.0.0.lock().unwrap().closed = true;
    }

    /// Returns when a writer stands before the gate with a commit of its own.
    fn wait_for_a_writer(&self) {
        let (state, changed) = &*self.0;
        drop(changed.wait_while(state.lock().unwrap(), |state| !state.waiting).unwrap());
    }

    fn open(&self) {
        let (state, changed) = &*self.0;
        *state.lock().unwrap() = GateState::default();
        changed.notify_all();
    }
}

/// How often a file was synced.
fn syncs(disk: &SimDisk, file: &str) -> u64 {
    disk.sync_sites().iter().filter(|seen| seen.site.path.ends_with(file)).map(|seen| seen.calls).sum()
}

fn poll_once<T>(ticket: &mut Ticket<T>) -> Poll<Result<T, WriteError>> {
    Pin::new(ticket).poll(&mut Context::from_waker(Waker::noop()))
}

/// The smallest executor there is.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(thread::current())).into();
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park(),
        }
    }
}

#[test]
fn sixty_four_callers_share_syncs_and_each_gets_its_own_answer() {
    const CALLERS: u64 = 64;
    const JOBS_EACH: u64 = 10;
    let (sim, disk) = sim_disk();
    let volume = create_on(&disk);
    let jobs = jobs(&volume);
    // A disk's sync takes time, and that time is what the callers share.
    sim.lie_about(|_| {
        thread::sleep(Duration::from_millis(1));
        false
    });
    let before = syncs(&sim, "jobs.db-wal");
    let start = Barrier::new(usize::try_from(CALLERS).unwrap());
    let shared = 1_000_000;
    let answers: Vec<_> = thread::scope(|scope| {
        let call = |caller: u64| {
            let (jobs, start) = (&jobs, &start);
            scope.spawn(move || {
                start.wait();
                for number in 0..JOBS_EACH {
                    let own = job(caller * JOBS_EACH + number);
                    assert_eq!(jobs.accept(&own, NOW).wait().unwrap(), Accepted::New);
                }
                let same = jobs.accept(&job(shared), NOW).wait().unwrap();
                let other = job_saying(caller * JOBS_EACH, "another prompt");
                assert_eq!(jobs.accept(&other, NOW).wait().unwrap(), Accepted::Conflict);
                same
            })
        };
        let callers: Vec<_> = (0..CALLERS).map(call).collect();
        callers.into_iter().map(|caller| caller.join().unwrap()).collect()
    });
    let new = answers.iter().filter(|answer| **answer == Accepted::New).count();
    assert_eq!(new, 1, "one of them was the first with the job that all offered");
    assert_eq!(jobs.view().tally().unwrap().jobs, CALLERS * JOBS_EACH + 1);
    let (offers, syncs) = (CALLERS * (JOBS_EACH + 2), syncs(&sim, "jobs.db-wal") - before);
    assert!(syncs * 8 < offers, "{syncs} syncs for {offers} offers");
}

/// The sequence stands at the end of what SQLite counts: reserving more breaks the table's rule.
#[test]
fn a_request_that_fails_takes_nothing_of_its_group_with_it() {
    let (sim, disk) = sim_disk();
    let binding = create_on(&disk).binding();
    binding.reserve_sequence(1).wait().unwrap();
    drop(binding);
    let path = Path::new(SIM_FOLDER).join("state.db");
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE;
    let raw = rusqlite::Connection::open_with_flags_and_vfs(path, flags, sim.vfs_name()).unwrap();
    assert_eq!(raw.execute("UPDATE counters SET value = 0x7fffffffffffffff", ()).unwrap(), 1);
    drop(raw);

    let volume = open_on(&disk);
    let binding = volume.binding();
    let gate = Gate::before_syncs_of(&sim);
    let link = |name: &str| {
        let account = Account::Email(format!("{name}@example.org"));
        AccountLink::new(account, NOW, String::new()).unwrap()
    };
    let mark = Mark { now: NOW, since_boot_ms: 1, boot: "a".into(), trust: Trust::Trusted };
    // A log's first commit syncs its header too.
    binding.unlink().wait().unwrap();
    let before = syncs(&sim, "state.db-wal");
    gate.close();
    let mut first = binding.link(link("first"));
    first.begin();
    gate.wait_for_a_writer();
    let linked = binding.link(link("second"));
    let refused = binding.reserve_sequence(1);
    let marked = binding.keep_clock_mark(mark.clone());
    gate.open();
    first.wait().unwrap();
    linked.wait().unwrap();
    let error = refused.wait().unwrap_err();
    assert!(
        matches!(&error, WriteError::Refused { database, .. } if database.ends_with("state.db")),
        "{error}"
    );
    marked.wait().unwrap();
    assert_eq!(syncs(&sim, "state.db-wal") - before, 2, "the three behind the first were one group");
    assert!(volume.stopped(Database::State).is_none());
    drop((binding, volume));
    let view = open_on(&disk).view().clone();
    assert_eq!(view.binding().account().unwrap(), Some(link("second")));
    assert_eq!(view.binding().clock_mark().unwrap(), Some(mark));
}

#[test]
fn nothing_is_answered_before_the_sync_and_a_dropped_ticket_takes_nothing_back() {
    let (sim, disk) = sim_disk();
    let volume = create_on(&disk);
    let jobs = jobs(&volume);
    let gate = Gate::before_syncs_of(&sim);
    gate.close();
    let mut first = jobs.accept(&job(1), NOW);
    first.begin();
    gate.wait_for_a_writer();
    let mut second = jobs.accept(&job(2), NOW);
    drop(jobs.accept(&job(3), NOW));
    for _ in 0..100 {
        assert!(poll_once(&mut first).is_pending() && poll_once(&mut second).is_pending());
        thread::yield_now();
    }
    gate.open();
    assert_eq!([first.wait().unwrap(), second.wait().unwrap()], [Accepted::New, Accepted::New]);
    assert_eq!(jobs.accept(&job(3), NOW).wait().unwrap(), Accepted::Duplicate);
    assert_eq!(jobs.view().tally().unwrap().jobs, 3);
}

#[test]
fn a_ticket_is_a_future_that_needs_no_runtime() {
    let (sim, disk) = sim_disk();
    let volume = create_on(&disk);
    let jobs = jobs(&volume);
    let gate = Gate::before_syncs_of(&sim);
    gate.close();
    let mut by_hand = jobs.accept(&job(1), NOW);
    let elsewhere = jobs.accept(&job(2), NOW);
    assert!(poll_once(&mut by_hand).is_pending());
    let awaiting = thread::spawn(move || block_on(async { elsewhere.await.unwrap() }));
    gate.open();
    let answer = loop {
        if let Poll::Ready(answer) = poll_once(&mut by_hand) {
            break answer.unwrap();
        }
        thread::yield_now();
    };
    assert_eq!(answer, Accepted::New);
    assert_eq!(awaiting.join().unwrap(), Accepted::New);
}

/// The kernel may have dropped the pages that it could not write, and would call a second sync a success: so
/// there is none. The commit in doubt is there or not when the volume opens again, whatever the power does.
#[test]
fn after_a_failed_sync_the_group_is_in_doubt_the_writer_is_closed_and_the_others_go_on() {
    let (sim, disk) = sim_disk();
    let volume = create_on(&disk);
    let (jobs, logs) = (jobs(&volume), volume.logs(1 << 20));
    assert_eq!(jobs.accept(&job(1), NOW).wait().unwrap(), Accepted::New);
    let gate = Gate::before_syncs_of(&sim);
    sim.fail_at("jobs.db-wal", 2, Call::Sync, Fault::IoErr, Lasts::Once);
    let before = syncs(&sim, "jobs.db-wal");
    gate.close();
    let mut first = jobs.accept(&job(2), NOW);
    first.begin();
    gate.wait_for_a_writer();
    let group = [jobs.accept(&job(3), NOW), jobs.accept(&job(4), NOW)];
    gate.open();
    assert_eq!(first.wait().unwrap(), Accepted::New);
    for ticket in group {
        let error = ticket.wait().unwrap_err();
        assert!(matches!(error, WriteError::Unknown { .. }), "{error}");
    }
    let error = jobs.accept(&job(5), NOW).wait().unwrap_err();
    assert!(matches!(error, WriteError::Closed { .. }), "{error}");
    assert!(volume.stopped(Database::Jobs).is_some());
    assert_eq!(sim.failed_calls(), 1);
    assert_eq!(syncs(&sim, "jobs.db-wal") - before, 2, "nothing tried the failed sync again");

    volume.binding().reserve_sequence(1).wait().unwrap();
    logs.append(Record::new(NOW, Level::Error, Kind::Storage, "jobs.db has stopped"));
    logs.flush().wait().unwrap();
    drop((jobs, logs, volume));

    let cut = SimDisk::from_image(sim.image(sim.ops(), &Loss::Unsynced));
    for disk in [disk, Arc::new(cut)] {
        let volume = open_on(&disk);
        let jobs = common::jobs(&volume);
        let offer = |number| jobs.accept(&job(number), NOW).wait().unwrap();
        assert_eq!([offer(1), offer(2)], [Accepted::Duplicate, Accepted::Duplicate]);
        let doubtful = [offer(3), offer(4)];
        assert_eq!(doubtful[0], doubtful[1], "a group is there as a whole or not at all");
        assert_eq!(offer(5), Accepted::New);
    }
}

fn bytes(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |data| data.len())
}

/// What is guaranteed: no reader makes a commit fail, or delays it by more than the moment that a checkpoint
/// waits (once it was five seconds for each commit). While one holds an old snapshot the log
/// cannot be started anew and grows by what is committed; once it lets go, the log stays where it is, and is
/// emptied after the next job that ends.
#[test]
fn the_log_keeps_its_limit_and_a_reader_that_holds_an_old_snapshot_delays_no_commit() {
    let home = tempfile::tempdir().unwrap();
    let folder = volume_folder(&home);
    let reserve_bytes = 4 << 20;
    let limit = reserve_bytes / 4;
    let volume = Volume::create(&real_disk(), &folder, stamp(Network::Testnet), reserve_bytes, NOW).unwrap();
    let jobs = jobs(&volume);
    let log = folder.join("jobs.db-wal");
    let prompt = "x".repeat(64 << 10);
    let load = |numbers: std::ops::Range<u64>| {
        for number in numbers {
            assert_eq!(jobs.accept(&job_saying(number, &prompt), NOW).wait().unwrap(), Accepted::New);
        }
    };
    // What one accepted job of 64 KiB writes at the most.
    let one_commit = 160 << 10;
    load(0..40);
    assert!(bytes(&log) <= limit + one_commit, "{} bytes", bytes(&log));

    let reader = rusqlite::Connection::open(folder.join("jobs.db")).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM jobs").unwrap();
    #[expect(clippy::disallowed_methods, reason = "measures how long the commits take")]
    let started = std::time::Instant::now();
    load(40..80);
    let took = started.elapsed();
    let grown = bytes(&log);
    assert!(grown > limit, "the reader held nothing: {grown} bytes");
    assert!(took < Duration::from_secs(30), "40 commits beside a reader took {took:?}");
    let seen: u64 = reader.query_row("SELECT count(*) FROM jobs", (), |row| row.get(0)).unwrap();
    assert_eq!(seen, 40, "the reader sees what it saw");
    drop(reader);

    load(80..120);
    assert!(bytes(&log) <= grown + one_commit, "{} bytes, {grown} with the reader", bytes(&log));
    jobs.cancel(id(0), NOW).wait().unwrap();
    let emptied = (0..100).any(|_| {
        thread::sleep(Duration::from_millis(50));
        bytes(&log) <= limit
    });
    assert!(emptied, "{} bytes are left in the log", bytes(&log));
    assert_eq!(jobs.view().tally().unwrap().jobs, 120);
}

/// Records need not be on disk when they are committed; a batch must, each time: it may be sent at once.
#[test]
fn every_batch_is_synced_before_its_answer_and_records_are_not() {
    let (sim, disk) = sim_disk();
    let volume = create_on(&disk);
    let logs = volume.logs(1 << 20);
    let synced = |work: &dyn Fn()| {
        let before = syncs(&sim, "logs.db-wal");
        work();
        syncs(&sim, "logs.db-wal") - before
    };
    let write = || {
        logs.append(Record::new(NOW, Level::Info, Kind::Agent, "something"));
        logs.flush().wait().unwrap();
    };
    let seal = || assert!(logs.seal().wait().unwrap().is_some());
    // A log's first commit syncs its header.
    write();
    for round in 0..3 {
        assert_eq!((synced(&write), synced(&seal)), (0, 1), "round {round}");
    }
}
