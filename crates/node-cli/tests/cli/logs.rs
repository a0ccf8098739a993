//! `logs`: records by level, kind, job, text and time.

use std::{
    io::{BufRead as _, BufReader},
    os::unix::process::ExitStatusExt as _,
    process::Stdio,
};

use node_store::logs::Query;
use node_types::{
    Timestamp,
    log::{Kind, Level, Record},
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::{
    home::{FAILED, Home, RUNNING, id, reading},
    trust::HOUR_MS,
};

fn messages(home: &Home, arguments: &[&str]) -> Vec<String> {
    let ran = home.run(["logs", "--json"].iter().chain(arguments)).well();
    let line =
        |line: &str| serde_json::from_str::<Value>(line).unwrap()["message"].as_str().unwrap().to_owned();
    ran.out.lines().map(line).collect()
}

const LOADED: &str = "the model is loaded";
const AWAY: &str = "the runtime went away";
const RUNS: &str = "it runs";

#[test]
fn records_are_one_json_object_a_line() {
    let home = Home::filled();
    let ran = home.run(["logs", "--json", "--grep", LOADED]).well();
    let record: Value = serde_json::from_str(ran.out.trim()).unwrap();
    assert_eq!((&record["level"], &record["kind"]), (&"info".into(), &"runtime".into()));
    assert_eq!(record["fields"], json!({ "model": "gemma" }));
    assert!(record["at"].as_str().unwrap().ends_with('Z'));
    home.run(["logs", "--grep", LOADED]).well().says(&["info", "runtime", LOADED, "model=gemma"]);
}

#[test]
fn records_are_found_by_level_kind_job_and_text() {
    let home = Home::filled();
    assert_eq!(messages(&home, &[]), [LOADED, AWAY, RUNS]);
    assert_eq!(messages(&home, &["--level", "warn"]), [AWAY]);
    assert_eq!(messages(&home, &["--kind", "inference"]), [RUNS]);
    assert_eq!(messages(&home, &["--job", &id(RUNNING).to_string()]), [RUNS]);
    assert_eq!(messages(&home, &["--grep", "RUNTIME"]), [AWAY]);
    assert_eq!(messages(&home, &["--limit", "1"]), [RUNS], "the newest");
    home.run(["logs", "--level", "loud"]).failed(2, &["warn"]);
}

#[test]
fn records_are_found_by_time() {
    let home = Home::filled();
    assert_eq!(messages(&home, &["--since", "2h"]).len(), 3);
    assert_eq!(messages(&home, &["--until", "2h"]).len(), 0);
    assert_eq!(messages(&home, &["--since", "2100-01-01"]).len(), 0);
    assert_eq!(messages(&home, &["--since", "2020-01-01T00:00:00+01:00", "--until", "2100-01-01"]).len(), 3);
    home.run(["logs", "--since", "yesterday"]).failed(2, &["yesterday", "2h"]);
}

/// Silence looked like a log without such records.
#[test]
fn times_between_which_nothing_can_lie_are_refused_with_both_named() {
    let home = Home::filled();
    let noon = "2026-11-24T12:00:00.000Z";
    for (since, until) in [(noon, "2026-11-24T11:59:59Z"), (noon, noon), ("2100-01-01", "2h"), ("1h", "2h")] {
        home.run(["logs", "--since", since, "--until", until])
            .failed(2, &["nothing is both from ", " on (--since) and before ", " (--until)"]);
    }
    home.run(["logs", "--since", noon, "--until", "2026-11-24T11:00:00Z"])
        .failed(2, &["from 2026-11-24T12:00:00.000Z on", "before 2026-11-24T11:00:00.000Z"]);
    assert_eq!(messages(&home, &["--since", noon, "--until", "2026-11-24T12:00:00.001Z"]).len(), 0);
    assert_eq!(messages(&home, &["--since", "2h", "--until", "1h"]).len(), 0);
}

#[test]
fn followed_logs_show_what_comes() {
    let home = Home::new();
    let store = home.fill();
    let mut child = home
        .command(["logs", "--follow", "--json", "--kind", "network"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for text in ["connected", "disconnected"] {
        // Another kind in between is not shown.
        for (kind, text) in [(Kind::Agent, "no"), (Kind::Network, text)] {
            store.logs().append(Record::new(reading().wall, Level::Info, kind, text));
        }
        store.logs().flush().wait().unwrap();
        let line: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(line["message"], text);
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

/// All filters hold at once, for what is there and for what comes; the time alone is asked only of what is there.
#[test]
fn followed_logs_keep_to_level_job_and_text_together() {
    let home = Home::new();
    let store = home.fill();
    let append = |before_ms: u64, level, job: u64, text: &str| {
        let at = Timestamp::from_ms(reading().wall.ms() - before_ms);
        store.logs().append(Record { job: Some(id(job)), ..Record::new(at, level, Kind::Inference, text) });
    };
    // In each round all but the last differ from what is asked for in one thing.
    let others = || {
        append(0, Level::Info, RUNNING, "the engine hums");
        append(0, Level::Warn, FAILED, "the engine stalls for another");
        append(0, Level::Warn, RUNNING, "the wheels stall");
    };
    others();
    append(2 * HOUR_MS, Level::Warn, RUNNING, "the engine stalled long ago");
    append(0, Level::Warn, RUNNING, "the engine stalls");
    store.logs().flush().wait().unwrap();
    let running = id(RUNNING).to_string();
    let asked = [
        "logs", "--follow", "--json", "--since", "1h", "--level", "warn", "--job", &running, "--grep",
        "ENGINE",
    ];
    let mut child = home.command(asked).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || {
        let record: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(record["job"], running.as_str(), "{record}");
        (record["level"].as_str().unwrap().to_owned(), record["message"].as_str().unwrap().to_owned())
    };
    let said = |level: &str, text: &str| (level.to_owned(), text.to_owned());
    assert_eq!(next(), said("warn", "the engine stalls"));
    for round in ["first", "second"] {
        others();
        append(0, Level::Error, RUNNING, &format!("the engine falls, {round}"));
        store.logs().flush().wait().unwrap();
        assert_eq!(next(), said("error", &format!("the engine falls, {round}")));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn who_follows_the_log_of_a_node_that_does_not_run_is_told_so() {
    let home = Home::new();
    drop(home.fill());
    let mut child = home.command(["logs", "--follow"]).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(said.next().unwrap().unwrap().contains("no Agent runs on this volume"));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_follower_sees_what_comes_after_the_network_has_the_rest_and_leaves_at_ctrl_c() {
    let home = Home::new();
    let store = home.fill();
    let append = |text: &str| {
        store.logs().append(Record::new(reading().wall, Level::Info, Kind::Network, text));
        store.logs().flush().wait().unwrap();
    };
    append("before");
    let mut child = home.command(["logs", "--follow", "--json"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap();
    while next()["message"] != "before" {}
    // All of it goes: the network has it.
    while let Some(batch) = store.logs().seal().wait().unwrap() {
        while store.logs().acknowledge(batch.header.seq).wait().unwrap() > 0 {}
    }
    assert!(store.view().logs().query(&Query::default()).unwrap().is_empty());
    append("after");
    assert_eq!(next()["message"], "after");
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(lines.next().map(Result::unwrap), None, "nothing is said of it");
    assert_eq!(
        child.wait().unwrap().signal(),
        Some(Signal::INT.as_raw()),
        "as of any program that is interrupted"
    );
}
