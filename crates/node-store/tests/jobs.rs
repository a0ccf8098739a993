//! The life of a job, step by step, on a real disk.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on must fail")]

mod common;

use std::collections::VecDeque;

use common::*;
use node_store::{
    jobs::{
        Accepted, Field, JobRules, Jobs, Lease, Leased, Moved, OUTBOX_BYTES_MAX, SETTLED_BYTES,
        SETTLED_MARGIN_MS, Tampered,
    },
    volume::Volume,
};
use node_types::{
    Timestamp,
    job::{Failure, FailureKind, Job, Mode, ModelRef, OUTPUT_BYTES_MAX},
    trace::{Outcome, ReleaseReason, Standing, Step},
};

fn fresh() -> (tempfile::TempDir, Volume, Jobs) {
    let home = tempfile::tempdir().unwrap();
    let volume = create(&volume_folder(&home));
    let jobs = jobs(&volume);
    (home, volume, jobs)
}

fn accept(jobs: &Jobs, number: u64) -> Accepted {
    jobs.accept(&job(number), NOW).wait().unwrap()
}

fn lease_at(jobs: &Jobs, now: Timestamp) -> Option<Leased> {
    match jobs.lease(None, None, &[].into(), now).wait().unwrap() {
        Lease::Job(leased) => Some(*leased),
        Lease::Empty | Lease::Full => None,
        Lease::Unreadable(tampered) => panic!("{tampered}"),
    }
}

#[test]
fn a_job_is_accepted_run_answered_and_acknowledged() {
    let (_home, _volume, jobs) = fresh();
    assert_eq!(accept(&jobs, 1), Accepted::New);
    let leased = lease_at(&jobs, NOW.plus_ms(10)).unwrap();
    assert_eq!((leased.job, leased.attempt), (job(1), 1));
    assert_eq!(jobs.finish(id(1), output("because"), NOW.plus_ms(30)).wait().unwrap(), Moved::Done);
    let sent = jobs.outbox(0, NOW).wait().unwrap();
    assert_eq!(sent[0].as_ref().unwrap().result, Ok(output("because")));
    assert_eq!(jobs.acknowledge(id(1), NOW.plus_ms(40)).wait().unwrap(), Moved::Done);

    assert!(jobs.outbox(0, NOW).wait().unwrap().is_empty());
    let tally = jobs.view().tally().unwrap();
    assert_eq!((tally.jobs, tally.bytes), (0, SETTLED_BYTES));
    let story = jobs.view().explain(id(1)).unwrap().unwrap();
    assert_eq!(story.now, Err(Outcome::Answered));
    let events = story.trace.unwrap();
    assert!(matches!(events[0].step, Step::Accepted));
    assert!(matches!(events[1].step, Step::Leased { attempt: 1, .. }));
    assert!(matches!(events[2].step, Step::Finished { duration_ms: 20, completion_tokens: 7, .. }));
    assert!(matches!(events[3].step, Step::Acknowledged));
    assert_eq!(events.len(), 4);
}

#[test]
fn a_job_is_explained_with_all_that_is_known_while_it_is_held_and_what_is_left_after() {
    let (_home, _volume, jobs) = fresh();
    let offered = Job { priority: 7, ..job(1) };
    jobs.accept(&offered, NOW).wait().unwrap();
    lease_at(&jobs, NOW).unwrap();
    let story = || jobs.view().explain(id(1)).unwrap().unwrap();
    let held = story();
    assert_eq!((held.model, held.mode), (Some(model()), Some(Mode::Chat)));
    assert_eq!((held.config, held.priority), (Some(rules().config), Some(7)));
    assert_eq!((held.attempts, held.attempts_max), (Some(1), Some(2)));
    assert_eq!((held.expires_at, held.trace_uploaded), (Some(offered.expires_at), None));

    jobs.cancel(id(1), NOW).wait().unwrap();
    jobs.acknowledge(id(1), NOW).wait().unwrap();
    let ended = story();
    assert_eq!(
        (ended.model, ended.mode, ended.config),
        (Some(model()), Some(Mode::Chat), Some(rules().config))
    );
    assert_eq!((ended.attempts, ended.expires_at), (Some(1), Some(offered.expires_at)));
    assert_eq!(ended.trace_uploaded, Some(false));
    let (trace, _) = jobs.view().traces(0).unwrap()[0];
    jobs.traces_uploaded(vec![trace]).wait().unwrap();
    assert_eq!(story().trace_uploaded, Some(true));
    jobs.keep_traces_within(0).wait().unwrap();
    let bare = story();
    assert_eq!((bare.model, bare.attempts, bare.trace_uploaded), (None, None, None));
    assert_eq!(bare.expires_at, Some(offered.expires_at));
}

/// A network that is away is sent the same result again and again.
#[test]
fn of_many_times_that_a_result_is_sent_the_first_and_the_last_are_noted() {
    let (_home, _volume, jobs) = fresh();
    accept(&jobs, 1);
    assert_eq!(jobs.submitted(id(1), NOW).wait().unwrap(), Moved::Elsewhere(Standing::Queued));
    assert_eq!(jobs.submitted(id(2), NOW).wait().unwrap(), Moved::Unknown);
    lease_at(&jobs, NOW).unwrap();
    jobs.finish(id(1), output("x"), NOW).wait().unwrap();
    let sent_at = || {
        let events = jobs.view().explain(id(1)).unwrap().unwrap().trace.unwrap();
        let sent = events.into_iter().filter(|event| event.step == Step::Submitted);
        sent.map(|event| event.at.since_ms(NOW)).collect::<Vec<_>>()
    };
    let mut found = Vec::new();
    for number in 1..=4 {
        assert_eq!(jobs.submitted(id(1), NOW.plus_ms(number)).wait().unwrap(), Moved::Done);
        found.push(sent_at());
    }
    assert_eq!(found, [vec![1], vec![1, 2], vec![1, 3], vec![1, 4]]);
    jobs.acknowledge(id(1), NOW).wait().unwrap();
    assert_eq!(sent_at(), [1, 4], "the trace tells it too");
    assert_eq!(jobs.submitted(id(1), NOW).wait().unwrap(), Moved::Already);
}

#[test]
fn an_offer_is_answered_by_what_is_held_already() {
    let (_home, _volume, jobs) = fresh();
    let mut other = job(1);
    other.max_tokens += 1;
    assert_eq!(accept(&jobs, 1), Accepted::New);
    assert_eq!(accept(&jobs, 1), Accepted::Duplicate);
    assert_eq!(jobs.accept(&other, NOW).wait().unwrap(), Accepted::Conflict);
    // The snapshot may have changed since: a job that is held stays a duplicate.
    jobs.set_rules(None);
    assert_eq!(accept(&jobs, 1), Accepted::Duplicate);
    assert_eq!(jobs.view().tally().unwrap().jobs, 1);
}

#[test]
fn an_acknowledged_job_is_never_run_or_sent_again() {
    let (home, volume, first) = fresh();
    accept(&first, 1);
    lease_at(&first, NOW).unwrap();
    first.finish(id(1), output("x"), NOW).wait().unwrap();
    first.acknowledge(id(1), NOW).wait().unwrap();
    drop((first, volume));
    let volume = open(&volume_folder(&home));
    let jobs = jobs(&volume);
    assert_eq!(accept(&jobs, 1), Accepted::Duplicate);
    assert!(lease_at(&jobs, NOW).is_none());
    assert_eq!(jobs.acknowledge(id(1), NOW).wait().unwrap(), Moved::Already);
    assert_eq!(jobs.finish(id(1), output("y"), NOW).wait().unwrap(), Moved::Already);
    // Its remembrance ends a day after its deadline, when an offer of it is answered Expired.
    let end = job(1).expires_at.plus_ms(SETTLED_MARGIN_MS);
    assert_eq!(jobs.forget(cutoff(Timestamp::from_ms(end.ms() - 1))).wait().unwrap(), 0);
    assert_eq!(jobs.forget(cutoff(end)).wait().unwrap(), 1);
    assert_eq!(jobs.accept(&job(1), end).wait().unwrap(), Accepted::Expired);
    // Nor is it taken by a clock that has gone back since.
    assert_eq!(accept(&jobs, 1), Accepted::Expired);
}

#[test]
fn an_id_that_is_used_again_after_a_job_was_forgotten_is_not_explained_by_that_job() {
    let (_home, _volume, jobs) = fresh();
    accept(&jobs, 1);
    jobs.cancel(id(1), NOW).wait().unwrap();
    jobs.acknowledge(id(1), NOW).wait().unwrap();
    let later = job(1).expires_at.plus_ms(SETTLED_MARGIN_MS);
    assert_eq!(jobs.forget(cutoff(later)).wait().unwrap(), 1);
    let again = Job { expires_at: later.plus_ms(MINUTE_MS), ..job(1) };
    assert_eq!(jobs.accept(&again, later).wait().unwrap(), Accepted::New);
    jobs.cancel(id(1), later).wait().unwrap();
    jobs.acknowledge(id(1), later).wait().unwrap();
    let (last, _) = *jobs.view().traces(0).unwrap().last().unwrap();
    jobs.traces_uploaded(vec![last]).wait().unwrap();
    let bytes_max = jobs.view().tally().unwrap().trace_bytes - 1;
    jobs.keep_traces_within(bytes_max).wait().unwrap();
    let story = jobs.view().explain(id(1)).unwrap().unwrap();
    assert_eq!((story.trace, story.ended_at), (None, Some(later)));
}

#[test]
fn limits_of_count_and_bytes_answer_full_at_the_first_job_too_many() {
    let (_home, _volume, jobs) = fresh();
    let mut few = rules();
    few.jobs_max = 2;
    jobs.set_rules(Some(few));
    assert_eq!([accept(&jobs, 1), accept(&jobs, 2)], [Accepted::New, Accepted::New]);
    assert_eq!(accept(&jobs, 3), Accepted::Full);
    let mut small = rules();
    small.bytes_max = jobs.view().tally().unwrap().bytes;
    jobs.set_rules(Some(small));
    assert_eq!(accept(&jobs, 3), Accepted::Full);
}

/// Offline, small jobs may be answered at length: once, the limit was looked at where jobs are taken only.
#[test]
fn answers_that_reach_the_limit_stop_leasing_until_one_is_acknowledged_and_none_is_refused() {
    let (_home, _volume, jobs) = fresh();
    let (count, answer) = (20, "y".repeat(100 << 10));
    let bytes_max = 5 * answer.len() as u64;
    jobs.set_rules(Some(JobRules { bytes_max, ..rules() }));
    for number in 0..count {
        assert_eq!(accept(&jobs, number), Accepted::New);
    }
    let bytes = || jobs.view().tally().unwrap().bytes;
    let (mut unsent, mut answered, mut stopped) = (VecDeque::new(), 0, 0);
    while answered < count {
        match jobs.lease(None, None, &[].into(), NOW).wait().unwrap() {
            Lease::Job(leased) => {
                assert!(bytes() < bytes_max, "{}", bytes());
                let id = leased.job.id;
                assert_eq!(jobs.finish(id, output(&answer), NOW).wait().unwrap(), Moved::Done);
                unsent.push_back(id);
                answered += 1;
            }
            Lease::Full => {
                assert!(
                    bytes() >= bytes_max && bytes() < bytes_max + answer.len() as u64 + 100,
                    "{}",
                    bytes()
                );
                stopped += 1;
                jobs.acknowledge(unsent.pop_front().unwrap(), NOW).wait().unwrap();
            }
            Lease::Empty | Lease::Unreadable(_) => unreachable!("{answered} of {count} were answered"),
        }
    }
    assert_eq!(stopped, count - 5);
}

#[test]
fn a_limit_below_what_waits_does_not_keep_it_from_running() {
    let (_home, _volume, jobs) = fresh();
    accept(&jobs, 1);
    accept(&jobs, 2);
    jobs.set_rules(Some(JobRules { bytes_max: 1, ..rules() }));
    assert_eq!(lease_at(&jobs, NOW).unwrap().job.id, id(1));
    jobs.finish(id(1), output("x"), NOW).wait().unwrap();
    assert!(matches!(jobs.lease(None, None, &[].into(), NOW).wait().unwrap(), Lease::Full));
    jobs.acknowledge(id(1), NOW).wait().unwrap();
    assert_eq!(lease_at(&jobs, NOW).unwrap().job.id, id(2));
}

/// A model that drifted is repaired while its jobs wait; those of the others go on.
#[test]
fn jobs_of_excepted_models_stay_queued_and_stand_in_nobodys_way() {
    let (_home, _volume, jobs) = fresh();
    let version = |version: &str| ModelRef { version: version.into(), ..model() };
    let named = ModelRef { name: "gemma\"2".into(), ..model() };
    let known = [model(), version("2"), named.clone()];
    let models = known.iter().map(|known| (known.clone(), vec![Mode::Chat])).collect();
    jobs.set_rules(Some(JobRules { models, ..rules() }));
    for (number, model, priority) in [(1, model(), 9), (2, version("2"), 5), (3, named.clone(), 0)] {
        assert_eq!(jobs.accept(&Job { model, priority, ..job(number) }, NOW).wait().unwrap(), Accepted::New);
    }
    let lease = |except: &[ModelRef]| {
        let except = except.iter().cloned().collect();
        match jobs.lease(None, None, &except, NOW).wait().unwrap() {
            Lease::Job(leased) => Some(leased.job.id),
            Lease::Empty => None,
            other @ (Lease::Full | Lease::Unreadable(_)) => panic!("{other:?}"),
        }
    };
    assert_eq!(lease(&known), None);
    assert_eq!(lease(&[model(), named]), Some(id(2)), "another version of the same name is another model");
    assert_eq!(lease(&[model()]), Some(id(3)));
    assert_eq!(lease(&[model()]), None);
    assert_eq!(jobs.view().tally().unwrap().jobs, 3);
    assert_eq!(lease(&[]), Some(id(1)));
}

#[test]
fn the_oldest_of_the_highest_priority_is_leased_first_and_once() {
    let (_home, _volume, jobs) = fresh();
    for (number, priority) in [(1, 0), (2, 9), (3, 9), (4, 5)] {
        let mut offered = job(number);
        offered.priority = priority;
        assert_eq!(jobs.accept(&offered, NOW).wait().unwrap(), Accepted::New);
    }
    let order: Vec<_> = std::iter::from_fn(|| lease_at(&jobs, NOW)).map(|leased| leased.job.id).collect();
    assert_eq!(order, [2, 3, 4, 1].map(id));
}

#[test]
fn a_restart_queues_running_jobs_again_until_their_last_attempt() {
    let (home, volume, first) = fresh();
    accept(&first, 1);
    lease_at(&first, NOW).unwrap();
    drop((first, volume));
    let volume = open(&volume_folder(&home));
    let jobs = jobs(&volume);
    assert_eq!(jobs.release_all(ReleaseReason::Restart, NOW).wait().unwrap(), 1);
    assert_eq!(lease_at(&jobs, NOW).unwrap().attempt, 2);
    assert_eq!(jobs.release(id(1), ReleaseReason::RuntimeLost, NOW).wait().unwrap(), Moved::Done);
    assert!(lease_at(&jobs, NOW).is_none());
    let sent = jobs.outbox(0, NOW).wait().unwrap();
    let failure = sent[0].as_ref().unwrap().result.clone().unwrap_err();
    assert_eq!(failure.kind, FailureKind::AttemptsExhausted);
}

#[test]
fn a_job_whose_time_ended_is_not_run_not_sent_and_is_reported_until_told() {
    let (_home, _volume, jobs) = fresh();
    let deadline = job(1).expires_at;
    for number in 1..=3 {
        accept(&jobs, number);
    }
    let before = Timestamp::from_ms(deadline.ms() - 1);
    lease_at(&jobs, before).unwrap();
    lease_at(&jobs, before).unwrap();
    jobs.finish(id(1), output("x"), before).wait().unwrap();
    assert!(jobs.expire(cutoff(before)).wait().unwrap().is_empty());

    assert!(lease_at(&jobs, deadline).is_none());
    assert_eq!(jobs.finish(id(2), output("x"), deadline).wait().unwrap(), Moved::Expired);
    assert!(jobs.outbox(0, deadline).wait().unwrap().is_empty());
    let ended = jobs.expire(cutoff(deadline)).wait().unwrap();
    assert_eq!(
        ended.iter().map(|end| end.state).collect::<Vec<_>>(),
        [Standing::Finished, Standing::Running, Standing::Queued]
    );
    assert_eq!(jobs.view().unreported().unwrap().len(), 3);
    jobs.reported(vec![id(1), id(2)]).wait().unwrap();
    let left = jobs.view().unreported().unwrap();
    assert_eq!((left.len(), left[0].job), (1, id(3)));
    // What was not reported is not forgotten.
    assert_eq!(jobs.forget(cutoff(Timestamp::MAX)).wait().unwrap(), 2);
    assert_eq!(jobs.view().tally().unwrap().expired, 3);
}

#[test]
fn cancelling_and_failing_are_answers_to_send() {
    let (_home, _volume, jobs) = fresh();
    accept(&jobs, 1);
    accept(&jobs, 2);
    assert_eq!(jobs.cancel(id(1), NOW).wait().unwrap(), Moved::Done);
    assert_eq!(jobs.cancel(id(1), NOW).wait().unwrap(), Moved::Already);
    assert_eq!(jobs.finish(id(2), output("x"), NOW).wait().unwrap(), Moved::Elsewhere(Standing::Queued));
    assert_eq!(jobs.acknowledge(id(2), NOW).wait().unwrap(), Moved::Elsewhere(Standing::Queued));
    assert_eq!(lease_at(&jobs, NOW).unwrap().job.id, id(2));
    let failure = Failure::new(FailureKind::Runtime, "out of memory");
    assert_eq!(jobs.fail(id(2), failure.clone(), NOW).wait().unwrap(), Moved::Done);
    let kinds: Vec<_> =
        jobs.outbox(0, NOW).wait().unwrap().into_iter().map(|sent| sent.unwrap().result).collect();
    assert_eq!(kinds[1], Err(failure));
    assert!(matches!(&kinds[0], Err(failure) if failure.kind == FailureKind::Cancelled));
    assert_eq!(jobs.fail(id(9), Failure::new(FailureKind::Runtime, ""), NOW).wait().unwrap(), Moved::Unknown);
}

/// Once, one look opened 256 answers of any size, 4 GiB, while commits waited.
#[test]
fn the_outbox_gives_large_answers_in_parts_and_all_of_them() {
    let (_home, _volume, jobs) = fresh();
    // The second and the third fit together to the byte, and the fourth is an answer of the largest size.
    let sizes = [1000, OUTBOX_BYTES_MAX - 500, 500, OUTPUT_BYTES_MAX, 0];
    for (number, bytes) in (1..).zip(sizes) {
        accept(&jobs, number);
        lease_at(&jobs, NOW).unwrap();
        let answer = output(&"y".repeat(bytes));
        assert_eq!(jobs.finish(id(number), answer, NOW).wait().unwrap(), Moved::Done);
    }
    let (mut after, mut parts) = (0, Vec::new());
    loop {
        let sent = jobs.outbox(after, NOW).wait().unwrap();
        let Some(last) = sent.last() else { break };
        after = last.as_ref().unwrap().seq;
        parts.push(sent.into_iter().map(|sent| sent.unwrap().result.unwrap().body.len()).collect::<Vec<_>>());
    }
    let [first, second, third, fourth, fifth] = sizes;
    assert_eq!(parts, [vec![first], vec![second, third], vec![fourth, fifth]]);
}

fn tamper(home: &tempfile::TempDir, changed: &str) {
    let raw = rusqlite::Connection::open(volume_folder(home).join("jobs.db")).unwrap();
    assert_eq!(raw.execute(changed, ()).unwrap(), 1);
}

/// Job 1 waits, job 2 is answered, job 3 has failed with a message and job 4 without one; then `changed` is done
/// to the file.
fn tampered_with(changed: &str) -> (tempfile::TempDir, Volume, Jobs) {
    let (home, volume, first) = fresh();
    for number in [2, 3, 4, 1] {
        assert_eq!(accept(&first, number), Accepted::New);
    }
    lease_at(&first, NOW).unwrap();
    first.finish(id(2), output("because"), NOW).wait().unwrap();
    first.fail(id(3), Failure::new(FailureKind::Runtime, "out of memory"), NOW).wait().unwrap();
    for _ in 0..2 {
        assert_eq!(lease_at(&first, NOW).unwrap().job.id, id(4));
        first.release(id(4), ReleaseReason::RuntimeLost, NOW).wait().unwrap();
    }
    drop((first, volume));
    tamper(&home, changed);
    let volume = open(&volume_folder(&home));
    let jobs = jobs(&volume);
    (home, volume, jobs)
}

/// Looks at the outbox twice: once it says which job does not open, then that it has failed.
fn unreadable_once(jobs: &Jobs, number: u64) {
    let found = jobs.outbox(0, NOW).wait().unwrap();
    let tampered: Vec<_> = found.iter().filter_map(|sent| sent.as_ref().err()).collect();
    assert_eq!(tampered, [&Tampered { job: id(number), field: Field::Answer }]);
    for _ in 0..2 {
        let sent = jobs.outbox(0, NOW).wait().unwrap();
        let sent: Vec<_> = sent.into_iter().map(Result::unwrap).collect();
        assert_eq!(sent.len(), 3);
        for sent in sent {
            let wanted = match sent.job {
                job if job == id(number) => Err(Failure::new(FailureKind::Unreadable, "")),
                job if job == id(2) => Ok(output("because")),
                job if job == id(3) => Err(Failure::new(FailureKind::Runtime, "out of memory")),
                _ => Err(Failure::new(FailureKind::AttemptsExhausted, "")),
            };
            assert_eq!(sent.result, wanted, "{}", sent.job);
        }
    }
    // What is counted stays right.
    for number in 2..=4 {
        assert_eq!(jobs.acknowledge(id(number), NOW).wait().unwrap(), Moved::Done);
    }
    jobs.cancel(id(1), NOW).wait().unwrap();
    jobs.acknowledge(id(1), NOW).wait().unwrap();
    assert_eq!(jobs.view().tally().unwrap().bytes, 4 * SETTLED_BYTES);
}

const FLIP: &str = "UPDATE payloads SET ciphertext = zeroblob(length(ciphertext))";

#[test]
fn an_answer_changed_on_disk_is_an_error_naming_the_job_and_then_its_failure() {
    let (_home, _volume, jobs) = tampered_with(&format!("{FLIP} WHERE field = 3"));
    unreadable_once(&jobs, 2);
}

/// Once, it was sent as an empty message.
#[test]
fn a_failure_message_changed_on_disk_is_an_error_naming_the_job() {
    let (_home, _volume, jobs) = tampered_with(&format!("{FLIP} WHERE field = 5"));
    unreadable_once(&jobs, 3);
}

#[test]
fn an_answer_missing_on_disk_is_an_error_naming_the_job() {
    let (_home, _volume, jobs) = tampered_with("DELETE FROM payloads WHERE field = 3");
    let found = jobs.outbox(0, NOW).wait().unwrap();
    assert_eq!(found[0], Err(Tampered { job: id(2), field: Field::Answer }));
}

#[test]
fn a_key_changed_on_disk_opens_neither_a_prompt_nor_an_answer() {
    let changed = "UPDATE jobs SET wrapped_key = zeroblob(length(wrapped_key)) WHERE seq = ";
    let (_home, _volume, jobs) = tampered_with(&format!("{changed} 1"));
    unreadable_once(&jobs, 2);
    let (_home, _volume, jobs) = tampered_with(&format!("{changed} 4"));
    let Lease::Unreadable(tampered) = jobs.lease(None, None, &[].into(), NOW).wait().unwrap() else {
        panic!()
    };
    assert_eq!(tampered, Tampered { job: id(1), field: Field::Request });
    // Its answer could not be sealed either.
    let (home, volume, first) = fresh();
    accept(&first, 1);
    lease_at(&first, NOW).unwrap();
    drop((first, volume));
    tamper(&home, &format!("{changed} 1"));
    let volume = open(&volume_folder(&home));
    let moved = common::jobs(&volume).finish(id(1), output("x"), NOW).wait().unwrap();
    assert_eq!(moved, Moved::Unreadable(Tampered { job: id(1), field: Field::Answer }));
}

#[test]
fn a_prompt_changed_on_disk_is_an_error_naming_the_job_and_the_next_job_runs() {
    let (home, volume, first) = fresh();
    accept(&first, 1);
    accept(&first, 2);
    drop((first, volume));
    tamper(&home, "UPDATE payloads SET ciphertext = zeroblob(length(ciphertext)) WHERE field = 2");

    let volume = open(&volume_folder(&home));
    let jobs = jobs(&volume);
    let Lease::Unreadable(tampered) = jobs.lease(None, None, &[].into(), NOW).wait().unwrap() else {
        panic!()
    };
    assert_eq!(tampered.job, id(1));
    assert_eq!(lease_at(&jobs, NOW).unwrap().job, job(2));
    let sent = jobs.outbox(0, NOW).wait().unwrap();
    assert!(matches!(&sent[0].as_ref().unwrap().result, Err(why) if why.kind == FailureKind::Unreadable));
}

/// The prompt, the answer and the failure message are on disk only as ciphertext; and after the
/// acknowledgement not even that: the log is emptied and the pages are overwritten within the delay.
#[test]
fn no_prompt_is_readable_on_disk_and_no_ciphertext_is_left_after_the_acknowledgement() {
    let (home, volume, jobs) = fresh();
    let folder = volume_folder(&home);
    jobs.accept(&job_saying(1, "CANARY-PROMPT"), NOW).wait().unwrap();
    let ciphertext = {
        let raw = rusqlite::Connection::open(folder.join("jobs.db")).unwrap();
        raw.query_row("SELECT ciphertext FROM payloads", (), |row| row.get::<_, Vec<u8>>(0)).unwrap()
    };
    lease_at(&jobs, NOW).unwrap();
    jobs.finish(id(1), output("CANARY-ANSWER"), NOW).wait().unwrap();
    let holds = |needle: &[u8]| {
        std::process::Command::new("cat")
            .args(["jobs.db", "jobs.db-wal"].map(|name| folder.join(name)))
            .output()
            .unwrap()
            .stdout
            .windows(needle.len())
            .any(|window| window == needle)
    };
    assert!(!holds(b"CANARY"));
    assert!(holds(&ciphertext[..32]), "the search itself must be able to find something");
    jobs.acknowledge(id(1), NOW).wait().unwrap();
    let tries = 100;
    let gone = (0..tries).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        !holds(&ciphertext[..32])
    });
    assert!(gone, "the ciphertext is still on disk after 5 s");
    drop(volume);
}
