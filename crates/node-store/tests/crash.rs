//! `kill -9` of a real process, again and again: what it was answered is there when the volume opens.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

mod common;

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    os::unix::fs::DirBuilderExt,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use common::*;
use node_store::jobs::{Accepted, Lease, Moved};
use node_types::trace::{Outcome, ReleaseReason, Standing};

const FOLDER: &str = "RESULTITY_CRASH_TEST_FOLDER";
const FIRST: &str = "RESULTITY_CRASH_TEST_FIRST";
/// Jobs that one round of the child may reach.
const JOBS_A_ROUND: u64 = 100_000;

fn told(what: &str, number: u64) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\nTOLD {what} {number}").unwrap();
    out.flush().unwrap();
}

/// Not a test of its own: the process that is killed. Without a folder to work in it does nothing.
#[test]
#[expect(clippy::disallowed_methods, reason = "how a test tells its child where to work")]
fn the_child_that_works_until_it_is_killed() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let first: u64 = std::env::var(FIRST).unwrap().parse().unwrap();
    let volume = open(&PathBuf::from(folder));
    let jobs = jobs(&volume);
    for number in first..first + JOBS_A_ROUND {
        assert_eq!(jobs.accept(&job(number), NOW).wait().unwrap(), Accepted::New);
        told("accepted", number);
        if number % 4 == 0 {
            continue;
        }
        let Lease::Job(leased) = jobs.lease(None, None, &[].into(), NOW).wait().unwrap() else { continue };
        let leased = u64::from_be_bytes(leased.job.id.as_bytes()[8..].try_into().unwrap());
        if number % 4 == 1 {
            continue;
        }
        assert_eq!(jobs.finish(id(leased), output("x"), NOW).wait().unwrap(), Moved::Done);
        told("finished", leased);
        if number % 4 == 2 {
            assert_eq!(jobs.acknowledge(id(leased), NOW).wait().unwrap(), Moved::Done);
            told("acknowledged", leased);
        }
    }
}

/// The order in which a job's answers can come; a later one takes the place of an earlier one.
fn rank(word: &str) -> u8 {
    match word {
        "accepted" => 0,
        "finished" => 1,
        "acknowledged" => 2,
        other => unreachable!("{other}"),
    }
}

#[test]
fn what_was_answered_before_kill_9_is_there_after_it() {
    let home = tempfile::tempdir().unwrap();
    let folder = volume_folder(&home);
    drop(create(&folder));
    let mut answered: BTreeMap<u64, u8> = BTreeMap::new();
    let mut acknowledged = 0;
    for round in 0..12_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "the_child_that_works_until_it_is_killed", "--nocapture"])
            .env(FOLDER, &folder)
            .env(FIRST, (round * JOBS_A_ROUND).to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let pid = child.id();
        // Times that fall on every part of the work, the same in every run.
        let delay = Duration::from_millis(40 + round * 37 % 200);
        let killer = std::thread::spawn(move || {
            std::thread::sleep(delay);
            child.kill().unwrap();
            child.wait().unwrap();
            pid
        });
        for line in lines.map_while(Result::ok) {
            let mut words = line.split(' ');
            if words.next() != Some("TOLD") {
                continue;
            }
            let (Some(word), Some(number)) = (words.next(), words.next()) else { continue };
            // The last line may have been cut; a cut number would be another job's.
            let Ok(number) = number.parse::<u64>() else { continue };
            let held = answered.entry(number).or_default();
            *held = rank(word).max(*held);
        }
        killer.join().unwrap();

        let volume = open(&folder);
        let jobs = jobs(&volume);
        jobs.release_all(ReleaseReason::Restart, NOW).wait().unwrap();
        for (number, rank) in answered.range(round * JOBS_A_ROUND..) {
            let story = jobs.view().explain(id(*number)).unwrap();
            let now = story.unwrap_or_else(|| panic!("job {number} was answered and is lost")).now;
            let ended = matches!(now, Err(Outcome::Answered));
            let stands = match rank {
                0 => now != Ok(Standing::Running),
                1 => ended || now == Ok(Standing::Finished),
                _ => ended,
            };
            assert!(stands, "round {round}: job {number}, answered up to {rank}, is {now:?}");
            if *rank == 2 {
                acknowledged += 1;
                let again = jobs.accept(&job(*number), NOW).wait().unwrap();
                assert_eq!(again, Accepted::Duplicate, "job {number} came back");
            }
        }
        // The next round starts with an empty queue, so that it works on jobs of its own.
        // By ending what waits, not by its deadline: time that has passed for one job has for all.
        while let Lease::Job(leased) = jobs.lease(None, None, &[].into(), NOW).wait().unwrap() {
            assert_eq!(jobs.cancel(leased.job.id, NOW).wait().unwrap(), Moved::Done);
        }
        loop {
            let sent = jobs.outbox(0, NOW).wait().unwrap();
            if sent.is_empty() {
                break;
            }
            let ended = sent.into_iter().map(|sent| jobs.acknowledge(sent.unwrap().job, NOW));
            for ended in ended.collect::<Vec<_>>() {
                assert_eq!(ended.wait().unwrap(), Moved::Done);
            }
        }
    }
    assert!(answered.len() > 100 && acknowledged > 20, "{} jobs, {acknowledged} ended", answered.len());
}

/// The files are copied at the moment after the acknowledgement: what `kill -9` leaves.
#[test]
fn the_key_of_an_acknowledged_job_goes_after_a_crash_too() {
    let home = tempfile::tempdir().unwrap();
    let folder = volume_folder(&home);
    let volume = create(&folder);
    let jobs = jobs(&volume);
    jobs.accept(&job(1), NOW).wait().unwrap();
    let raw = rusqlite::Connection::open(folder.join("jobs.db")).unwrap();
    let key: Vec<u8> = raw.query_row("SELECT wrapped_key FROM jobs", (), |row| row.get(0)).unwrap();
    drop(raw);
    assert!(matches!(jobs.lease(None, None, &[].into(), NOW).wait().unwrap(), Lease::Job(_)));
    jobs.finish(id(1), output("x"), NOW).wait().unwrap();
    jobs.acknowledge(id(1), NOW).wait().unwrap();

    let killed = tempfile::tempdir().unwrap();
    let copies = volume_folder(&killed);
    std::fs::DirBuilder::new().mode(0o700).create(&copies).unwrap();
    for entry in std::fs::read_dir(&folder).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_file() && !entry.file_name().to_string_lossy().ends_with("-shm") {
            std::fs::copy(entry.path(), copies.join(entry.file_name())).unwrap();
        }
    }
    let somewhere = || {
        let files = std::fs::read_dir(&copies).unwrap().map(|entry| entry.unwrap().path());
        let bytes = |path: PathBuf| Command::new("cat").arg(path).output().unwrap().stdout;
        files.filter(|path| path.is_file()).any(|path| bytes(path).windows(key.len()).any(|it| it == key))
    };
    assert!(somewhere(), "the crash came too late to show anything");
    let reopened = open(&copies);
    let gone = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        !somewhere()
    });
    assert!(gone, "the key is on disk still");
    drop(reopened);
}
