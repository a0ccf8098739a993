//! The store against its aims: `make bench`. Each figure stands beside its baseline of the same run.
//!
//! `cargo bench -p store-bench --bench store -- [--dir FOLDER] [--peers] [--only PART,...]`, where the parts
//! are `one`, `many`, `logs`, `reopen` and `memory`.
#![expect(clippy::unwrap_used, reason = "a measurement that cannot be made must stop")]
#![expect(clippy::print_stdout, reason = "a child tells its parent what it measured")]
#![expect(clippy::disallowed_methods, reason = "it measures time")]

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use node_store::{jobs::Lease, store::Store};
use node_types::log::{Kind, Level, Record};
use store_bench::{
    home::{self, Folder, JOB_BYTES, NOW},
    measure::{Turns, Until, device_bytes, in_turns, median, ratio, resident_bytes},
    peers,
    report::{Aim, Report, Row},
    target::{BareSqlite, GroupedSqlite, RandomIds, RawAppend, Target},
};

const CALLERS: usize = 64;
const MANY_TURNS: u32 = 5;
const ONE_TURNS: u32 = 20;
const ONE_CALLS: u64 = 100;
const LOG_RECORDS: u64 = 200_000;
/// Records between two waits for the disk, well below what memory takes.
const LOG_STEP: u64 = 20_000;
const PENDING: [u64; 2] = [10_000, 1_000_000];
const REOPENINGS: u64 = 7;
const HELD: u64 = 100_000;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [child, verb, folder, number] = arguments.as_slice()
        && child == "child"
    {
        return child_main(verb, Path::new(folder), number.parse().unwrap());
    }
    let value = |name: &str| {
        let place = arguments.iter().position(|argument| argument == name)?;
        arguments.get(place + 1).cloned()
    };
    let target = std::env::current_exe().unwrap().ancestors().nth(3).unwrap().to_owned();
    let folder = value("--dir").map_or_else(|| target.join("bench/data"), PathBuf::from);
    std::fs::create_dir_all(&folder).unwrap();
    let folder = Folder::make(&folder.canonicalize().unwrap(), "store-bench");
    let only = value("--only");
    let wanted = |part: &str| only.as_ref().is_none_or(|only| only.split(',').any(|it| it == part));
    let peers = arguments.iter().any(|argument| argument == "--peers");
    let mut report = Report::default();
    if wanted("one") || wanted("many") {
        accepting(&folder.0, peers, &wanted, &mut report);
    }
    if wanted("logs") {
        logs(&folder.0, &mut report);
    }
    if wanted("reopen") {
        reopening(&folder.0, &mut report);
    }
    if wanted("memory") {
        memory(&folder.0, &mut report);
    }
    if only.is_none() {
        report.write(&target.join("bench/store.json"));
    }
}

/// Jobs that one caller, and that many, put on disk; in turns with the baselines and the peers.
fn accepting(folder: &Path, with_peers: bool, wanted: &dyn Fn(&str) -> bool, report: &mut Report) {
    let folder = Folder::make(folder, "accept");
    let store = home::create(&folder.0.join("home"));
    let other = home::create(&folder.0.join("random"));
    let random = RandomIds(&other);
    let raw = RawAppend::create(&folder.0);
    let bare = BareSqlite::create(&folder.0);
    let grouped = GroupedSqlite::create(&folder.0);
    let mut running = Vec::new();
    if with_peers {
        for peer in peers::start_all(&folder.0) {
            match peer {
                Ok(peer) => running.push(peer),
                Err(why) => report.note(why),
            }
        }
    }
    let peers = running.iter().map(|peer| peer as &dyn Target);
    if wanted("one") {
        let targets: Vec<&dyn Target> =
            [&raw as &dyn Target, &store, &bare].into_iter().chain(peers.clone()).collect();
        let mut turns = in_turns(&targets, ONE_TURNS, 1, Until::Calls(ONE_CALLS));
        Report::head("one caller, 1 KiB jobs");
        let names: Vec<&str> = targets.iter().map(|target| target.name()).collect();
        let [raw, ours, rest @ ..] = turns.as_mut_slice() else { return };
        let times = ratio(&ours.p50_ms, &raw.p50_ms);
        let row = Row::new("accept, p50", ours.percentile_ms(50), "ms").times(times, names[0]);
        report.row(row.aim(Aim::RatioAtMost(1.2)));
        report.row(
            Row::new("accept, p99", ours.percentile_ms(99), "ms")
                .times(ours.percentile_ms(99) / raw.percentile_ms(99), names[0]),
        );
        report.row(bytes_row("bytes to the device of each job", ours, raw, names[0]));
        report.row(Row::new(format!("{}, p50", names[0]), raw.percentile_ms(50), "ms"));
        for (theirs, name) in rest.iter_mut().zip(&names[2..]) {
            let times = ratio(&theirs.p50_ms, &ours.p50_ms);
            let row = Row::new(format!("{name}, p50"), theirs.percentile_ms(50), "ms");
            report.row(row.times(times, "node-store"));
        }
    }
    if wanted("many") {
        let targets: Vec<&dyn Target> =
            [&bare as &dyn Target, &store, &random, &grouped].into_iter().chain(peers).collect();
        let mut turns = in_turns(&targets, MANY_TURNS, CALLERS, Until::Elapsed(Duration::from_secs(1)));
        Report::head("64 callers, 1 KiB jobs");
        let names: Vec<&str> = targets.iter().map(|target| target.name()).collect();
        let [bare, ours, rest @ ..] = turns.as_mut_slice() else { return };
        let times = ratio(&ours.per_second, &bare.per_second);
        let row = Row::new("accepts", median(ours.per_second.clone()), "jobs/s").times(times, names[0]);
        report.row(row.aim(Aim::RatioAtLeast(12.0)));
        report.row(Row::new("accept, p50", ours.percentile_ms(50), "ms"));
        report.row(Row::new("accept, p99", ours.percentile_ms(99), "ms").aim(Aim::AtMost(4.0)));
        report.row(bytes_row("bytes to the device of each job", ours, bare, names[0]));
        report.row(Row::new(names[0], median(bare.per_second.clone()), "jobs/s"));
        for (theirs, name) in rest.iter_mut().zip(&names[2..]) {
            let times = ratio(&theirs.per_second, &ours.per_second);
            let row = Row::new(*name, median(theirs.per_second.clone()), "jobs/s");
            report.row(row.times(times, "node-store"));
            report.row(Row::new(format!("{name}, p99"), theirs.percentile_ms(99), "ms"));
        }
    }
}

fn bytes_row(what: &str, ours: &Turns, theirs: &Turns, name: &str) -> Row {
    let times = ratio(&ours.device_bytes, &theirs.device_bytes);
    Row::new(what, median(ours.device_bytes.clone()), "bytes").times(times, name)
}

/// Records written, from the first `append` to the answer of the last `flush`.
fn logs(folder: &Path, report: &mut Report) {
    let folder = Folder::make(folder, "logs");
    let store = home::create(&folder.0);
    Report::head("logs");
    // Until the limit no record goes; from then on each that comes drops another.
    let fresh = (0..1).map(|_| log_rate(&store)).collect();
    report.row(Row::new("records, file growing", median(fresh), "records/s").aim(Aim::AtLeast(200_000.0)));
    while store.logs().view().losses().unwrap().is_empty() {
        log_rate(&store);
    }
    let before = device_bytes();
    let rates = (0..MANY_TURNS).map(|_| log_rate(&store)).collect();
    let bytes = (device_bytes() - before) as f64 / (LOG_RECORDS * u64::from(MANY_TURNS)) as f64;
    report
        .row(Row::new("records, file at its limit", median(rates), "records/s").aim(Aim::AtLeast(200_000.0)));
    report.row(Row::new("bytes to the device of each record", bytes, "bytes"));
}

fn log_rate(store: &Store) -> f64 {
    let mut record =
        Record::new(NOW, Level::Info, Kind::Inference, "answered in 1234 ms, 56 tokens a second");
    record.job = Some(home::id(1));
    record.fields =
        BTreeMap::from([("duration_ms".to_owned(), 1234.into()), ("tokens".to_owned(), 56.into())]);
    let records: Vec<Record> = (0..LOG_STEP).map(|_| record.clone()).collect();
    let (mut spent, mut flush) = (Duration::ZERO, None::<node_store::writer::Ticket<()>>);
    for _ in 0..LOG_RECORDS / LOG_STEP {
        let batch = records.clone();
        let started = Instant::now();
        for record in batch {
            store.logs().append(record);
        }
        if let Some(earlier) = flush.replace(store.logs().flush()) {
            earlier.wait().unwrap();
        }
        spent += started.elapsed();
    }
    let started = Instant::now();
    flush.unwrap().wait().unwrap();
    spent += started.elapsed();
    LOG_RECORDS as f64 / spent.as_secs_f64()
}

/// From `Store::open` to the first lease, in a process of its own, few and many jobs in turns.
fn reopening(folder: &Path, report: &mut Report) {
    let homes: Vec<Folder> =
        PENDING.iter().map(|pending| Folder::make(folder, &format!("pending-{pending}"))).collect();
    for (home, pending) in homes.iter().zip(PENDING) {
        let store = home::create(&home.0);
        let started = Instant::now();
        home::fill(&store, 0, pending);
        report.note(format!("{pending} jobs in {:.1} s", started.elapsed().as_secs_f64()));
    }
    Report::head("Store::open to the first lease");
    for killed in [false, true] {
        let mut times = [Vec::new(), Vec::new()];
        for turn in 0..REOPENINGS {
            for (home, times) in homes.iter().zip(&mut times) {
                if killed {
                    work_and_kill(&home.0, turn);
                }
                times.push(tell("open", &home.0, 0)[0]);
            }
        }
        let [few, many] = times;
        let after = if killed { " after kill -9" } else { "" };
        report.row(
            Row::new(format!("{} pending{after}", PENDING[0]), median(few.clone()), "ms")
                .aim(Aim::AtMost(20.0)),
        );
        let row = Row::new(format!("{} pending{after}", PENDING[1]), median(many.clone()), "ms");
        let row = row.times(ratio(&many, &few), "10000 pending");
        report.row(row.aim(Aim::AtMost(20.0)));
        let worst = many.iter().copied().fold(0.0, f64::max);
        report.row(Row::new(format!("{} pending{after}, slowest", PENDING[1]), worst, "ms"));
    }
}

/// Lets a child accept jobs one by one and kills it in the midst of it, so that a log is left to recover.
fn work_and_kill(home: &Path, turn: u64) {
    let number = 1_000_000_000 * (turn + 1);
    let mut child = child("work", home, number).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for _ in 0..200 + turn * 97 {
        lines.next().unwrap().unwrap();
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

/// What a process takes that holds a store.
fn memory(folder: &Path, report: &mut Report) {
    let folder = Folder::make(folder, "memory");
    let store = home::create(&folder.0);
    home::fill(&store, 0, HELD);
    drop(store);
    Report::head("resident memory, 100,000 jobs held");
    let told = tell("hold", &folder.0, HELD);
    report.row(Row::new("after opening", told[0], "MiB").aim(Aim::AtMost(30.0)));
    report.row(
        Row::new("after 10,000 jobs more, all leased and finished", told[1], "MiB").aim(Aim::AtMost(30.0)),
    );
    report.row(Row::new("the same process before opening", told[2], "MiB"));
}

fn child(verb: &str, folder: &Path, number: u64) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["child", verb]).arg(folder).arg(number.to_string());
    command
}

/// Runs a child to its end and reads the numbers that it tells.
fn tell(verb: &str, folder: &Path, number: u64) -> Vec<f64> {
    let output = child(verb, folder, number).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_whitespace().map(|word| word.parse().unwrap()).collect()
}

fn child_main(verb: &str, folder: &Path, number: u64) {
    match verb {
        "open" => {
            let started = Instant::now();
            let store = home::open(folder);
            let lease = store.jobs().lease(None, None, &[].into(), NOW).wait().unwrap();
            println!("{}", started.elapsed().as_secs_f64() * 1e3);
            let Lease::Job(leased) = lease else { unreachable!("nothing waits") };
            assert_eq!(leased.job.request.bytes(), JOB_BYTES);
        }
        "work" => {
            let store = home::open(folder);
            for number in number.. {
                home::fill(&store, number, 1);
                println!("{number}");
            }
        }
        "hold" => {
            let mebibytes = || resident_bytes() as f64 / f64::from(1 << 20);
            let before = mebibytes();
            let store = home::open(folder);
            let _ = store.jobs().lease(None, None, &[].into(), NOW).wait().unwrap();
            let opened = mebibytes();
            for first in (number..number + 10_000).step_by(100) {
                home::fill(&store, first, 100);
                for _ in 0..100 {
                    let Lease::Job(leased) = store.jobs().lease(None, None, &[].into(), NOW).wait().unwrap()
                    else {
                        continue;
                    };
                    let output = node_types::job::Output {
                        body: home::body(),
                        prompt_tokens: 10,
                        completion_tokens: 10,
                    };
                    let _ = store.jobs().finish(leased.job.id, output, NOW).wait().unwrap();
                }
            }
            println!("{opened} {} {before}", mebibytes());
        }
        other => unreachable!("{other}"),
    }
}
