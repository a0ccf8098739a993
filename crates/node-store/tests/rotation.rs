//! Rotation: every cell of the table, the dry run, what a crash leaves, and clocks that jump.
#![expect(
    clippy::wildcard_enum_match_arm,
    clippy::manual_range_contains,
    clippy::cast_possible_truncation,
    reason = "a test picks the few steps that it is about, from small numbers"
)]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on must fail")]

mod common;
#[path = "../../node-types/tests/trust/common.rs"]
#[expect(dead_code, reason = "the trust documents' tests use more of it")]
mod trust;

use common::{at, id, job, job_saying, output, reading};
use node_store::{
    clock::{JUMP_MS_MAX, Reading, Trust},
    jobs::{Accepted, Lease, Moved, SETTLED_BYTES, SETTLED_MARGIN_MS, TRACE_ROW_BYTES, Tally},
    rotation::{Action, AgentStep, Class, Staleness, Step, StoreStep, Trigger, plan::MEASURE_MS, rule},
    store::{KEEP_TIME_MS, Options, Store},
};
use node_types::{
    Digest, Network, Timestamp,
    inventory::{ArtifactKind, ArtifactState, Measured},
    job::{FailureKind, Job, ModelRef},
    log::{Kind, Level, Record},
    trace::Outcome,
};
use proptest::prelude::*;
use trust::{HOUR_MS, NOW, Signer, config, keyset, signed_config, trusted};

const DAY_MS: u64 = 24 * HOUR_MS;

struct Node {
    home: tempfile::TempDir,
    store: Option<Store>,
}

impl Node {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let store = Store::create(&Options::new(home.path(), Network::Testnet), None, &at(NOW)).unwrap();
        store.snapshots().pin(trusted(&keyset(1, 1, &[&Signer::new(1)]))).unwrap();
        let this = Self { home, store: Some(store) };
        this.apply(1, "gemma-3-270m");
        this
    }

    fn options(&self) -> Options {
        Options::new(self.home.path(), Network::Testnet)
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn restart(&mut self, reading: &Reading) {
        self.store = None;
        self.store = Some(Store::open(&self.options(), reading).unwrap());
    }

    fn apply(&self, version: u64, model: &str) {
        let mut document = config(version);
        document["models"][0]["name"] = model.into();
        let envelope = signed_config(&document, &[&Signer::new(1)]);
        let verified = self.store().snapshots().verify(&envelope, NOW).unwrap();
        self.store().apply_snapshot(verified, NOW).unwrap();
    }

    /// The snapshot in force passes its health check.
    fn confirm(&self) {
        self.store().snapshots().confirm(self.digest()).unwrap();
    }

    /// As a crash right after the snapshot's own transaction leaves it.
    fn apply_and_crash(&mut self, version: u64, model: &str) {
        let mut document = config(version);
        document["models"][0]["name"] = model.into();
        let envelope = signed_config(&document, &[&Signer::new(1)]);
        let snapshots = self.store().snapshots();
        snapshots.apply(snapshots.verify(&envelope, NOW).unwrap(), NOW).unwrap();
        self.store = None;
    }

    fn digest(&self) -> Digest {
        self.store().snapshots().current().unwrap().config.digest()
    }

    fn accept(&self, number: u64) -> Accepted {
        self.store().jobs().accept(&offered(number), NOW).wait().unwrap()
    }

    fn lease(&self, now: Timestamp) -> Option<node_types::JobId> {
        match self.store().jobs().lease(None, None, &[].into(), now).wait().unwrap() {
            Lease::Job(leased) => Some(leased.job.id),
            Lease::Empty | Lease::Full => None,
            Lease::Unreadable(tampered) => panic!("{tampered}"),
        }
    }

    /// Takes a job in, answers it and has it acknowledged: its trace is left.
    fn end(&self, number: u64) {
        assert_eq!(self.accept(number), Accepted::New);
        assert_eq!(self.store().jobs().cancel(id(number), NOW).wait().unwrap(), Moved::Done);
        assert_eq!(self.store().jobs().acknowledge(id(number), NOW).wait().unwrap(), Moved::Done);
    }

    fn traces(&self) -> Vec<u64> {
        self.store().jobs().view().traces(0).unwrap().into_iter().map(|(seq, _)| seq).collect()
    }

    fn tally(&self) -> Tally {
        self.store().jobs().view().tally().unwrap()
    }

    fn plan(&self, since: &[Trigger], now: Timestamp) -> Vec<Step> {
        self.store().plan_rotation(since, &at(now)).unwrap()
    }

    /// Plans and applies; nothing is left to the store after it.
    fn rotate(&self, since: &[Trigger], now: Timestamp) -> Vec<Step> {
        let steps = self.plan(since, now);
        self.store().rotate(&steps, &at(now)).unwrap();
        let left = self.plan(since, now);
        assert!(!left.iter().any(|step| matches!(step, Step::Store(_))), "{left:?}");
        steps
    }

    fn log(&self, number: u64) {
        let level = if number.is_multiple_of(2) { Level::Error } else { Level::Debug };
        let text = format!("{number} {}", "x".repeat(1000));
        self.store().logs().append(Record::new(NOW, level, Kind::Agent, text));
        if number.is_multiple_of(100) {
            self.store().logs().flush().wait().unwrap();
        }
    }
}

fn offered(number: u64) -> Job {
    Job { model: ModelRef { name: "gemma-3-270m".into(), version: "1.0.0".into() }, ..job(number) }
}

fn deadline() -> Timestamp {
    job(0).expires_at
}

/// The store's steps and the Agent's.
fn split(steps: Vec<Step>) -> (Vec<StoreStep>, Vec<AgentStep>) {
    let (mut store, mut agent) = (Vec::new(), Vec::new());
    for step in steps {
        match step {
            Step::Store(step) => store.push(step),
            Step::Agent(step) => agent.push(step),
        }
    }
    (store, agent)
}

/// Everything in it has something to keep; no cell but that of the trigger changes it.
fn full_node() -> Node {
    let node = Node::new();
    node.end(1);
    node.accept(2);
    node.log(0);
    node
}

/// Shows what a cell's action does. Every action has its arm: one added to the table does not compile here.
fn show(class: Class, trigger: Trigger) {
    match rule(class, trigger) {
        Action::Keep => {
            let node = full_node();
            let steps = node.rotate(&[trigger], NOW);
            assert!(!steps.iter().any(|step| matches!(step, Step::Store(_))), "{steps:?}");
            assert_eq!((node.tally().jobs, node.traces().len()), (1, 1));
            assert!(!node.store().logs().view().query(&Default::default()).unwrap().is_empty());
        }
        Action::NotApplicable => assert_eq!(trigger, Trigger::LimitReached),
        Action::ExpireReportDelete => {
            let node = full_node();
            let (store, _) = split(node.rotate(&[], deadline()));
            assert!(matches!(store[..], [StoreStep::ExpireJobs { jobs: 1, .. }]), "{store:?}");
            assert_eq!(node.tally().jobs, 0);
            let (_, agent) = split(node.plan(&[], deadline()));
            assert!(agent.contains(&AgentStep::ReportExpired { jobs: 1 }), "{agent:?}");
            // What was reported is forgotten when its remembrance ends; its bytes come back.
            node.store().jobs().reported(vec![id(2)]).wait().unwrap();
            let (store, _) = split(node.rotate(&[], deadline().plus_ms(SETTLED_MARGIN_MS)));
            assert!(store.iter().any(|it| matches!(it, StoreStep::ForgetEnded { jobs: 2, .. })), "{store:?}");
            assert_eq!(node.tally().bytes, 0);
        }
        Action::FailForbidden => {
            let node = full_node();
            node.apply(2, "another");
            let sent = node.store().jobs().outbox(0, NOW).wait().unwrap();
            let failure = sent[0].as_ref().unwrap().result.clone().unwrap_err();
            assert_eq!(failure.kind, FailureKind::Forbidden);
        }
        Action::ReleaseAndResend => {
            let node = full_node();
            node.accept(3);
            node.lease(NOW).unwrap();
            node.store().jobs().finish(id(2), output("x"), NOW).wait().unwrap();
            assert_eq!(node.lease(NOW), Some(id(3)));
            let (store, agent) = split(node.rotate(&[trigger], NOW));
            assert!(matches!(store[..], [StoreStep::ReleaseRunning { jobs: 1, .. }]), "{store:?}");
            assert!(agent.contains(&AgentStep::SendAnswers { jobs: 1 }), "{agent:?}");
            assert_eq!(node.lease(NOW), Some(id(3)), "queued again");
        }
        Action::RefuseNew => {
            let node = full_node();
            let mut rules =
                node_store::jobs::JobRules::of(&node.store().snapshots().current().unwrap().config);
            rules.jobs_max = 1;
            node.store().jobs().set_rules(Some(rules));
            assert_eq!(node.accept(3), Accepted::Full);
        }
        Action::Delete => {
            let node = full_node();
            let end = NOW.plus_ms(7 * DAY_MS);
            let (before, _) = split(node.plan(&[], Timestamp::from_ms(end.ms() - 1)));
            assert!(!before.iter().any(|it| it.class() == Class::Traces), "{before:?}");
            let (store, _) = split(node.rotate(&[], end));
            let found = store.iter().find(|it| it.class() == Class::Traces).unwrap();
            assert!(
                matches!(found, StoreStep::DeleteTraces { traces, .. } if (traces.traces, traces.lost) == (1, 1))
            );
            assert_eq!((node.tally().traces_lost, node.traces().len()), (1, 1), "job 2 has just expired");
        }
        Action::UploadOnceThenDeleteEarlier => {
            let node = full_node();
            node.apply(2, "gemma-3-270m");
            let (store, agent) = split(node.rotate(&[], NOW));
            assert!(store.is_empty() && agent.contains(&AgentStep::UploadTraces { traces: 1 }));
            assert_eq!(node.traces().len(), 1, "not before it was tried");
            node.end(9);
            let tried: Vec<u64> = node.traces();
            node.store().jobs().traces_tried(tried).wait().unwrap();
            node.rotate(&[], NOW);
            assert_eq!(node.traces().len(), 2, "not while it may be taken back");
            node.confirm();
            node.rotate(&[], NOW);
            let left = node.store().jobs().view().traces_to_upload(0).unwrap();
            assert_eq!(left.len(), 1);
            assert_eq!((left[0].1.job, left[0].1.config), (id(9), node.digest()));
            assert_eq!(node.tally().traces_lost, 1);
        }
        Action::DeleteOldestUploadedFirst => {
            let node = full_node();
            for number in 11..=13 {
                node.end(number);
            }
            let all = node.traces();
            node.store().jobs().traces_uploaded(vec![all[2]]).wait().unwrap();
            let each = node.tally().trace_bytes / 4;
            node.store().jobs().set_traces_bytes_max(each * 2 + each / 2);
            let (store, _) = split(node.rotate(&[], NOW));
            assert!(matches!(store[..], [StoreStep::DropTraces { .. }]), "{store:?}");
            assert_eq!(node.traces(), [all[1], all[3]], "the uploaded one, then the oldest");
            assert_eq!(node.tally().traces_lost, 1);
            // And when one is written.
            node.end(14);
            assert_eq!(node.traces().len(), 2);
            assert!(node.tally().trace_bytes <= each * 2 + each / 2);
        }
        Action::MarkStale => {
            let node = Node::new();
            let said = |now| {
                let (_, agent) = split(node.plan(&[], now));
                agent.into_iter().find_map(|step| match step {
                    AgentStep::SayStale { staleness, since } => Some((staleness, since)),
                    _ => None,
                })
            };
            let hours = |count| NOW.plus_ms(count * HOUR_MS);
            assert_eq!(said(NOW), None);
            assert_eq!(said(hours(1)), Some((Staleness::Refresh, hours(1))));
            assert_eq!(said(hours(2)), Some((Staleness::Stale, hours(2))));
            assert_eq!(said(hours(26)), Some((Staleness::GraceEnded, hours(26))));
        }
        Action::SwapKeepPrevious => {
            let node = full_node();
            node.confirm();
            let first = node.digest();
            node.apply(2, "gemma-3-270m");
            assert_eq!(node.store().snapshots().previous().unwrap().config.digest(), first);
            assert_ne!(node.digest(), first);
        }
        Action::VerifyAgain => {
            let node = full_node();
            let (_, agent) = split(node.rotate(&[trigger], NOW));
            assert!(agent.contains(&AgentStep::VerifySnapshot { config: node.digest() }), "{agent:?}");
        }
        Action::Measure => {
            let node = Node::new();
            let inventory = node.store().inventory();
            let due = |now| {
                let (_, agent) = split(node.plan(&[], now));
                agent.iter().filter(|step| matches!(step, AgentStep::Measure { .. })).count()
            };
            assert_eq!(due(NOW), 5, "never measured");
            for artifact in inventory.view().list().unwrap() {
                inventory.measure(artifact.id, Measured::Absent, NOW).wait().unwrap();
            }
            assert_eq!(due(NOW), 0);
            assert_eq!(due(NOW.plus_ms(MEASURE_MS)), 5);
        }
        Action::DropUnlistedExpectNew => {
            let node = Node::new();
            node.apply(2, "another");
            let models: Vec<_> = node
                .store()
                .inventory()
                .view()
                .list()
                .unwrap()
                .into_iter()
                .filter(|it| it.id.kind == ArtifactKind::ModelFile)
                .collect();
            assert!(models.iter().all(|it| it.id.name.starts_with("another")), "{models:?}");
            assert!(models.iter().all(|it| it.state == ArtifactState::Unverified) && models.len() == 2);
        }
        Action::CheckSeals => {
            let (_, agent) = split(Node::new().plan(&[trigger], NOW));
            assert!(agent.contains(&AgentStep::CheckSeals { artifacts: 5 }), "{agent:?}");
        }
        Action::MeasureContainer => {
            let node = Node::new();
            for artifact in node.store().inventory().view().list().unwrap() {
                node.store().inventory().measure(artifact.id, Measured::Absent, NOW).wait().unwrap();
            }
            let (_, agent) = split(node.plan(&[trigger], NOW));
            let measured: Vec<_> = agent
                .iter()
                .filter_map(|step| match step {
                    AgentStep::Measure { artifact } => Some(artifact.kind),
                    _ => None,
                })
                .collect();
            assert_eq!(measured, [ArtifactKind::RuntimeImage]);
        }
        Action::DeleteCountUnsent => {
            let node = full_node();
            let end = NOW.plus_ms(7 * DAY_MS + 1);
            let (store, _) = split(node.rotate(&[], end));
            let found = store.iter().find(|it| it.class() == Class::Logs).unwrap();
            assert!(matches!(found, StoreStep::DeleteLogs { records: 1, unsent: 1, .. }), "{found:?}");
            assert_eq!(node.store().logs().view().losses().unwrap(), [(Level::Error, 1)].into());
        }
        Action::FlushSoon => {
            let (_, agent) = split(full_node().plan(&[trigger], NOW));
            assert!(agent.contains(&AgentStep::FlushLogs { records: 1, batches: 0 }), "{agent:?}");
        }
        Action::DropLowestOldestCounted => {
            let node = Node::new();
            for number in 0..=400 {
                node.log(number);
            }
            let mut lower = config(2);
            lower["limits"]["logs_bytes_max"] = (256 << 10).into();
            let envelope = signed_config(&lower, &[&Signer::new(1)]);
            let verified = node.store().snapshots().verify(&envelope, NOW).unwrap();
            node.store().apply_snapshot(verified, NOW).unwrap();
            let (store, _) = split(node.rotate(&[], NOW));
            assert!(matches!(store[..], [StoreStep::DropLogs { bytes_max: 0x40000, .. }]), "{store:?}");
            let left = node.store().logs().view().query(&Default::default()).unwrap();
            let lost = node.store().logs().view().losses().unwrap();
            assert_eq!(left.len() as u64 + lost.values().sum::<u64>(), 401);
            assert_eq!(lost[&Level::Debug], 200, "every lower one first");
            assert_eq!(left.last().unwrap().seq, 401, "the newest stay");
        }
    }
}

#[test]
fn every_cell_of_the_table_does_what_it_says() {
    for class in Class::ALL {
        for trigger in Trigger::ALL {
            show(class, trigger);
        }
    }
}

#[test]
fn a_plan_is_the_dry_run_and_a_view_makes_the_same_one() {
    let node = full_node();
    let steps = node.plan(&[], deadline());
    let view = Store::view_only(&node.options()).unwrap();
    assert_eq!(view.plan_rotation(&[], &at(deadline())).unwrap(), steps);
    let text: Vec<_> = steps.iter().map(ToString::to_string).collect();
    assert!(text.contains(&format!("expire 1 jobs with a deadline up to {}", deadline())), "{text:?}");
    assert_eq!(node.tally().jobs, 1, "looking changes nothing");
}

#[test]
fn a_crash_between_applying_a_snapshot_and_what_it_ends_is_repaired_at_open() {
    let mut node = full_node();
    let seqs = node.traces();
    node.store().jobs().traces_tried(seqs).wait().unwrap();
    node.apply_and_crash(2, "another");
    node.restart(&at(NOW));
    assert_eq!(node.store().jobs().outbox(0, NOW).wait().unwrap().len(), 1, "job 2 is forbidden");
    assert_eq!(node.traces().len(), 1, "it may be taken back");
    node.confirm();
    node.restart(&at(NOW));
    assert!(node.traces().is_empty());
    assert!(split(node.plan(&[], NOW)).0.is_empty());
}

#[test]
fn applying_again_or_going_back_keeps_the_traces_of_the_snapshot_in_force() {
    let node = full_node();
    node.confirm();
    let seqs = node.traces();
    node.store().jobs().traces_uploaded(seqs.clone()).wait().unwrap();
    node.apply(1, "gemma-3-270m");
    assert_eq!(node.traces(), seqs, "applied again");
    node.store().jobs().traces_tried(seqs).wait().unwrap();
    // Uploaded stays uploaded; another snapshot comes and fails: its traces go, those of the one that comes back stay.
    node.apply(2, "gemma-3-270m");
    node.end(5);
    let of_the_second = *node.traces().last().unwrap();
    node.store().roll_back_snapshot(NOW).unwrap();
    node.end(6);
    node.store().jobs().traces_tried(node.traces()).wait().unwrap();
    let mut stay = node.traces();
    stay.retain(|seq| *seq != of_the_second);
    node.rotate(&[], NOW);
    assert_eq!(node.traces(), stay);
    // One that passes ends them all.
    node.apply(3, "gemma-3-270m");
    node.confirm();
    node.rotate(&[], NOW);
    assert_eq!(node.traces(), Vec::<u64>::new());
}

/// The snapshot in force does not verify any more, so the one before it is: the inventory must follow.
#[test]
fn what_a_damaged_snapshot_expected_is_not_expected_after_the_last_good_one_came_back() {
    let mut node = Node::new();
    node.confirm();
    node.apply(2, "another");
    node.store = None;
    let raw = rusqlite::Connection::open(node.home.path().join("testnet/state.db")).unwrap();
    raw.execute("UPDATE snapshots SET envelope = zeroblob(length(envelope)) WHERE slot = 0", ()).unwrap();
    drop(raw);
    node.restart(&at(NOW));
    let list = node.store().inventory().view().list().unwrap();
    let listed = |name: &str| list.iter().any(|it| it.facts.expected.is_some() && it.id.name.contains(name));
    assert!(listed("gemma-3-270m") && !listed("another"), "{list:?}");
}

#[test]
fn a_suspicious_jump_forward_holds_expiry_until_the_network_confirms_it() {
    let mut node = full_node();
    let wall = NOW.plus_ms(JUMP_MS_MAX + 1);
    let ahead = reading("b", 10, wall);
    node.restart(&ahead);
    let steps = node.store().plan_rotation(&[], &ahead).unwrap();
    assert_eq!(steps[0], Step::Agent(AgentStep::ConfirmTime { ahead_ms: JUMP_MS_MAX + 1 }));
    assert!(split(steps).0.is_empty(), "nothing is ended");
    assert_eq!((node.tally().jobs, node.traces().len()), (1, 1));
    // A restart is no second opinion.
    let again = reading("c", 10, wall);
    node.restart(&again);
    assert!(matches!(node.store().time(&again).trust, Trust::Held { .. }));
    // The job may still run meanwhile.
    assert_eq!(node.lease(node.store().time(&again).now), Some(id(2)));
    let confirmed = node.store().confirm_time(&again, wall).unwrap();
    assert_eq!((confirmed.now, confirmed.trust), (wall, Trust::Trusted));
    let steps = node.store().plan_rotation(&[], &again).unwrap();
    node.store().rotate(&steps, &again).unwrap();
    assert_eq!(node.tally().expired, 1);
    let story = node.store().jobs().view().explain(id(2)).unwrap().unwrap();
    assert_eq!(story.now, Err(Outcome::Expired));
    node.restart(&reading("d", 1, wall));
    assert_eq!(node.store().time(&reading("d", 1, wall)).trust, Trust::Trusted);
}

/// Each time that is kept is a sync of a disk that may be at rest otherwise.
#[test]
fn the_time_is_kept_now_and_then_and_before_a_job_ends_by_it() {
    let node = full_node();
    let kept = || node.store().view().binding().clock_mark().unwrap().unwrap().now;
    let last = Timestamp::from_ms(deadline().ms() - 1);
    for (now, wanted) in [
        (NOW.plus_ms(1), NOW),
        (NOW.plus_ms(KEEP_TIME_MS - 1), NOW),
        (NOW.plus_ms(KEEP_TIME_MS), NOW.plus_ms(KEEP_TIME_MS)),
        (last, last),
        (deadline(), deadline()),
        (deadline().plus_ms(1), deadline()),
    ] {
        node.rotate(&[], now);
        assert_eq!(kept(), wanted, "at {now}");
    }
}

#[test]
fn a_clock_that_jumps_back_revives_no_job() {
    for lose_state in [false, true] {
        let mut node = full_node();
        node.accept(3);
        node.lease(NOW).unwrap();
        // Time passes to the deadline: a job that ends is what jobs.db remembers of it.
        let mut later = offered(4);
        later.expires_at = deadline().plus_ms(HOUR_MS);
        node.store().jobs().accept(&later, deadline()).wait().unwrap();
        if !lose_state {
            node.store().keep_time(&at(deadline())).unwrap();
        }
        let back = reading("b", 5, NOW);
        node.restart(&back);
        assert_eq!(node.store().time(&back).now, deadline());
        // Not even where the caller's own clock is used: only the one with time left is run.
        assert_eq!(node.accept(5), Accepted::Expired);
        assert_eq!(node.lease(NOW), Some(id(4)));
        assert_eq!(node.lease(NOW), None);
        let steps = node.store().plan_rotation(&[], &back).unwrap();
        node.store().rotate(&steps, &back).unwrap();
        assert_eq!((node.tally().expired, node.tally().jobs), (2, 1));
    }
}

/// A limit for ids too: ended jobs that must be remembered fill the queue like others, until forgotten.
#[test]
fn ended_jobs_count_until_they_are_forgotten() {
    let node = Node::new();
    let mut rules = node_store::jobs::JobRules::of(&node.store().snapshots().current().unwrap().config);
    rules.bytes_max = 4000;
    node.store().jobs().set_rules(Some(rules));
    let taken = (0..).take_while(|number| {
        let answer = node.accept(*number);
        if answer == Accepted::New {
            node.store().jobs().cancel(id(*number), NOW).wait().unwrap();
            node.store().jobs().acknowledge(id(*number), NOW).wait().unwrap();
        }
        answer == Accepted::New
    });
    let taken = taken.count() as u64;
    assert_eq!(node.tally().bytes, taken * SETTLED_BYTES);
    assert!(taken >= (4000 - 2048) / SETTLED_BYTES && taken <= 4000 / SETTLED_BYTES, "{taken}");
    let end = deadline().plus_ms(SETTLED_MARGIN_MS);
    node.rotate(&[], end);
    assert_eq!(node.tally().bytes, 0);
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Accept(u64),
    Lease,
    Finish(u64),
    Fail(u64),
    Acknowledge(u64),
    Restart,
    Traces(bool),
    Snapshot,
    Rotate(u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (0..30_u64).prop_map(Op::Accept),
        (0..30_u64).prop_map(Op::Accept),
        Just(Op::Lease),
        (0..30_u64).prop_map(Op::Finish),
        (0..30_u64).prop_map(Op::Fail),
        (0..30_u64).prop_map(Op::Acknowledge),
        Just(Op::Restart),
        any::<bool>().prop_map(Op::Traces),
        Just(Op::Snapshot),
        (0..40_000_000_u64).prop_map(Op::Rotate),
    ]
}

fn recount(node: &Node) -> (u64, u64, u64) {
    let path = node.home.path().join("testnet/jobs.db");
    let raw = rusqlite::Connection::open(path).unwrap();
    let sql = format!(
        "SELECT (SELECT count(*) FROM jobs),
            (SELECT ifnull(sum(bytes), 0) FROM jobs) + {SETTLED_BYTES} * (SELECT count(*) FROM settled),
            (SELECT ifnull(sum({TRACE_ROW_BYTES} + octet_length(trace)), 0) FROM traces)"
    );
    raw.query_row(&sql, (), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happened: what is counted is what is there, and a plan that was applied leaves nothing to
    /// the store, touches no binding, and says the same twice.
    #[test]
    fn counts_are_what_is_there_and_plans_converge(ops in prop::collection::vec(op(), 1..60)) {
        let node = Node::new();
        node.store().jobs().set_traces_bytes_max(4000);
        let jobs = node.store().jobs();
        let (mut now, mut version) = (NOW, 1);
        for op in ops {
            match op {
                Op::Accept(number) => {
                    let mut offered = offered(number);
                    offered.request = job_saying(number, &"y".repeat(number as usize)).request;
                    offered.expires_at = now.plus_ms(HOUR_MS);
                    jobs.accept(&offered, now).wait().unwrap();
                }
                Op::Lease => { jobs.lease(None, None, &[].into(), now).wait().unwrap(); }
                Op::Finish(number) => { jobs.finish(id(number), output("xx"), now).wait().unwrap(); }
                Op::Fail(number) => { jobs.cancel(id(number), now).wait().unwrap(); }
                Op::Acknowledge(number) => { jobs.acknowledge(id(number), now).wait().unwrap(); }
                Op::Restart => {
                    node.rotate(&[Trigger::Restart], now);
                }
                Op::Traces(uploaded) => {
                    let seqs = node.traces();
                    if uploaded { jobs.traces_uploaded(seqs).wait().unwrap() } else { jobs.traces_tried(seqs).wait().unwrap() }
                }
                Op::Snapshot => {
                    version += 1;
                    node.apply(version, if version % 2 == 0 { "another" } else { "gemma-3-270m" });
                }
                Op::Rotate(ms) => {
                    now = now.plus_ms(ms);
                    let expired: Vec<_> = jobs.view().unreported().unwrap().iter().map(|it| it.job).collect();
                    jobs.reported(expired).wait().unwrap();
                    let steps = node.plan(&[], now);
                    prop_assert_eq!(&steps, &node.plan(&[], now));
                    node.rotate(&[], now);
                }
            }
            let tally = node.tally();
            prop_assert_eq!((tally.jobs, tally.bytes, tally.trace_bytes), recount(&node));
            prop_assert!(tally.trace_bytes <= 4000);
        }
    }
}
