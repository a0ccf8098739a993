//! Beside an Agent that holds the volume: looking works, changing is refused with its pid.

use std::{
    path::Path,
    process::{Child, Stdio},
    thread::sleep,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::{
    home::{Home, QUEUED, Ran, id},
    private::copy,
};

#[test]
fn looking_works_beside_the_holder_and_changing_is_refused() {
    let home = Home::new();
    let store = home.fill();
    let pid = std::process::id().to_string();
    let seen = home.json(["status"]);
    assert_eq!(
        (&seen["agent"]["running"], &seen["agent"]["pid"]),
        (&true.into(), &std::process::id().into())
    );
    home.run(["status"]).well().says(&[&format!("running, process {pid}")]);
    let job = id(QUEUED).to_string();
    for command in [
        &["jobs", "list"] as &[_],
        &["jobs", "explain", &job],
        &["logs"],
        &["config", "show"],
        &["config", "history"],
        &["account", "show"],
        &["models", "list"],
        &["models", "prune", "--dry-run"],
        &["drift", "history"],
        &["rotate", "--dry-run"],
        &["bundle", "--dry-run"],
        &["backup", "create", home.path().join("beside.backup").to_str().unwrap()],
    ] {
        home.run(command).well();
    }
    let pass = home.file("pass", "x");
    let pass = pass.to_str().unwrap();
    home.run(["key", "export", "--passphrase-file", pass]).well();
    let changing = [
        &["account", "link", "--email", "a@b"] as &[_],
        &["account", "unlink"],
        &["rotate"],
        &["run", "--network-url", "http://127.0.0.1:9"],
        &["key", "reseal", "--to-passphrase-file", pass],
        &["move", "out", "node.move", "--passphrase-file", pass],
        &["move", "undo", "--file-was-not-used"],
    ];
    for command in changing {
        home.run(command).failed(4, &[&pid, home.volume().to_str().unwrap(), "stop that Agent"]);
    }
    drop(store);
    assert_eq!(home.json(["status"])["agent"]["running"], false);
    home.run(["rotate"]).well();
}

#[test]
fn rotation_is_planned_and_then_done() {
    let home = Home::filled();
    let by = |report: &Value, who: &str| -> Vec<String> {
        let steps = report["steps"].as_array().unwrap().iter().filter(|step| step["by"] == who);
        steps.map(|step| step["what"].as_str().unwrap().to_owned()).collect()
    };
    let planned = home.json(["rotate", "--dry-run"]);
    assert_eq!(planned["dry_run"], true);
    assert!(by(&planned, "agent").iter().any(|step| step.contains("report 1 expired")), "{planned}");
    home.run(["rotate", "--dry-run"]).well().says(&["For the Agent, when it runs:", "report 1 expired jobs"]);
    let done = home.json(["rotate"]);
    assert_eq!(done["dry_run"], false);
    assert_eq!(by(&home.json(["rotate", "--dry-run"]), "store"), Vec::<String>::new());
}

/// Looks until there is something.
#[track_caller]
fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    for _ in 0..2400 {
        if let Some(found) = look() {
            return found;
        }
        sleep(Duration::from_millis(50));
    }
    panic!("{what}: not after two minutes");
}

fn wait(child: &mut Child) -> Option<i32> {
    eventually("it stops", || child.try_wait().unwrap()).code()
}

#[test]
fn an_agent_without_its_network_runs_is_seen_and_stops_when_asked() {
    let home = Home::with_node();
    // Nothing listens there, and nobody is given such a port by chance.
    let url = "http://127.0.0.1:9";
    let mut command = home.command(["run", "--network-url", url, "--log-format", "json", "--log", "debug"]);
    command.env("RESULTITY_PAGE_LISTEN", "127.0.0.1:0");
    let mut child = command.stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let pid = child.id().to_string();
    // It has the volume before it has its page.
    let seen = eventually("it has its page", || {
        Some(home.json(["status"])).filter(|seen| seen["source"] == "agent")
    });
    assert_eq!(seen["agent"]["pid"], child.id(), "{seen}");
    assert!(seen["agent"]["page"].as_str().unwrap().starts_with("http://127.0.0.1:"), "{seen}");
    assert_eq!(seen["connection"]["connected"], false, "only the Agent knows that");
    // A page that does not answer at once leaves the disk to be looked at.
    eventually("it waits for its snapshot", || {
        let said = home.run(["status"]).well().out;
        ["http://127.0.0.1:", "wait for the first snapshot"].iter().all(|it| said.contains(it)).then_some(())
    });
    // Which network it does not reach is said.
    eventually("the status names the network", || {
        home.run(["status"]).well().out.contains("none to http://127.0.0.1:9 for").then_some(())
    });
    // A key that is gone beneath it is a fault, with the one thing to do.
    let key = home.volume().join("keys/node.key");
    std::fs::rename(&key, home.path().join("aside")).unwrap();
    let seen = home.json(["status"]);
    assert_eq!((&seen["health"], &seen["keys_missing"]), (&"failing".into(), &json!(["node.key"])), "{seen}");
    assert!(seen["next"][0].as_str().unwrap().contains("put keys/node.key back from its backup"), "{seen}");
    std::fs::rename(home.path().join("aside"), &key).unwrap();
    assert_ne!(home.json(["status"])["health"], "failing");
    // It runs, and has nothing to run under yet.
    eventually("the check says so", || (home.run(["status", "--check"]).code == Some(10)).then_some(()));
    home.run(["rotate"]).failed(4, &[&pid]);
    let child_pid = Pid::from_child(&child);
    kill_process(child_pid, Signal::TERM).unwrap();
    assert_eq!(wait(&mut child), Some(0));
    let said: Ran = child.wait_with_output().unwrap().into();
    assert_eq!(said.out, "");
    for line in said.err.lines() {
        serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    }
    assert!(said.err.contains("stopping"), "{}", said.err);
    let ends = home.run(["logs", "--grep", "the Agent ends", "--json"]).well();
    assert_eq!(ends.out.lines().count(), 1, "{}", ends.out);
    assert_eq!(home.run(["status", "--check"]).code, Some(12), "no Agent runs");
}

#[test]
fn an_agent_starts_on_what_every_release_before_it_has_left() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../node-store/tests/fixtures");
    let mut formats = 0;
    for fixture in std::fs::read_dir(fixtures).unwrap().map(Result::unwrap) {
        if !fixture.file_type().unwrap().is_dir() {
            continue;
        }
        let home = Home::new();
        copy(&fixture.path(), &home.volume());
        let name = fixture.file_name();
        let mut command = home.command(["run", "--network-url", "http://127.0.0.1:9"]);
        command.env("RESULTITY_PAGE_LISTEN", "127.0.0.1:0");
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let seen = eventually("it runs", || {
            assert_eq!(child.try_wait().unwrap(), None, "{name:?}: it does not stay");
            let seen = home.run(["status", "--json"]);
            let seen: Value = serde_json::from_str(&seen.out).ok()?;
            (seen["source"] == "agent").then_some(seen)
        });
        assert!(seen["node"].as_str().unwrap().starts_with("node-"), "{name:?}: {seen}");
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        assert_eq!(wait(&mut child), Some(0), "{name:?}");
        home.run(["status"]).well();
        formats += 1;
    }
    assert!(formats >= 3, "{formats} formats were tried");
}

/// Ways in which a database is lost or damaged while nobody looks; the last is one that no start would notice by itself.
const LOST: [&str; 4] = ["missing", "empty", "overwritten", "damaged at its end"];

#[test]
fn an_agent_starts_on_a_volume_that_lost_a_database_and_reports_it() {
    let databases = ["state.db", "jobs.db", "logs.db"];
    for database in &databases {
        for way in LOST {
            starts_and_reports(std::slice::from_ref(database), way);
        }
    }
    // What a file system that was cut off leaves. It was made anew once, and nobody was told.
    starts_and_reports(&databases[..2], "empty");
    starts_and_reports(&databases, "empty");
}

fn starts_and_reports(databases: &[&str], way: &str) {
    let home = Home::new();
    drop(home.fill());
    let node = home.json(["status"])["node"].clone();
    for database in databases {
        let file = home.volume().join(database);
        match way {
            "missing" => std::fs::remove_file(&file).unwrap(),
            "empty" => drop(std::fs::File::create(&file).unwrap()),
            _ => {
                let mut bytes = std::fs::read(&file).unwrap();
                let page = if way == "overwritten" { 0 } else { bytes.len() - 4096 };
                bytes[page..page + 4096].fill(0xAA);
                std::fs::write(&file, bytes).unwrap();
            }
        }
    }
    // What looks says so, and what to do.
    let said = home.run(["doctor", "--json"]);
    let said: Value = serde_json::from_str(&said.out).unwrap();
    let findings = said["findings"].as_array().unwrap();
    let gone = ["missing", "empty"].contains(&way);
    let bad = findings.iter().filter(|it| it["name"] == "databases" && it["verdict"] != "ok");
    assert_eq!(bad.clone().count(), databases.len(), "{said:#}");
    for (database, found) in databases.iter().zip(bad) {
        let wanted = if *database == "logs.db" && gone { "warning" } else { "error" };
        assert_eq!(found["verdict"], wanted, "{found}");
        assert!(found["found"].as_str().unwrap().contains(database), "{found}");
        assert!(found["cure"].as_str().unwrap().contains("start the node"), "{found}");
    }
    if !gone {
        let mended = home.run(["doctor", "--fix", "--yes", "--json"]).json();
        assert!(mended["next"].as_str().unwrap().starts_with("start the node"), "{mended:#}");
        // What stands noted is not to be noted again.
        let again = home.run(["doctor", "--fix", "--yes", "--json"]).json();
        assert_eq!(again["fix"], json!([]), "{databases:?} {way}: {again:#}");
    }
    // That works.
    let mut command = home.command(["run", "--network-url", "http://127.0.0.1:9"]);
    command.env("RESULTITY_PAGE_LISTEN", "127.0.0.1:0");
    let mut child = command.stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let seen = eventually("it runs", || {
        assert_eq!(child.try_wait().unwrap(), None, "{databases:?} {way}: it does not stay");
        let seen: Value = serde_json::from_str(&home.run(["status", "--json"]).out).ok()?;
        (seen["source"] == "agent").then_some(seen)
    });
    assert_eq!(seen["node"], node, "{databases:?} {way}");
    let checked = home.run(["doctor", "--json"]).json();
    let told = checked["findings"].as_array().unwrap().iter().filter(|it| it["name"] == "incidents");
    let told: Vec<String> = told.map(|it| it["found"].as_str().unwrap().to_owned()).collect();
    for database in databases {
        assert!(told.iter().any(|it| it.contains(database)), "{databases:?} {way}: {told:?}");
    }
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(wait(&mut child), Some(0));
}
