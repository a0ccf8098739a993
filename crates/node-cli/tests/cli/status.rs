//! `status`: how the node stands, without a key and without a lock.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::Stdio,
};

use node_store::store::Store;
use node_types::{Digest, inventory::Measured};
use rustix::{
    process::{Pid, Signal, kill_process},
    termios::{Winsize, tcsetwinsize},
};

use crate::{
    home::{Home, id, reading},
    terminal::{terminal, watch},
};

#[test]
fn a_node_that_has_worked_says_what_it_holds() {
    let home = Home::filled();
    let seen = home.json(["status"]);
    assert_eq!(seen["agent"]["running"], false);
    assert_eq!((&seen["snapshot"]["version"], &seen["snapshot"]["validity"]), (&1.into(), &"fresh".into()));
    assert_eq!((&seen["floor_version"], &seen["keyset_version"]), (&1.into(), &1.into()));
    let jobs = &seen["jobs"];
    assert_eq!(
        (&jobs["queued"], &jobs["running"], &jobs["unsent"], &jobs["held"]),
        (&1.into(), &1.into(), &2.into(), &4.into())
    );
    assert_eq!((&jobs["expired"], &jobs["expired_unreported"]), (&1.into(), &1.into()));
    assert!(jobs["bytes"].as_u64().unwrap() > 0);
    assert!(seen["traces"]["bytes"].as_u64().unwrap() > 0);
    assert_eq!(seen["artifacts"]["unverified"], 5);
    let start = format!(
        "start the node: `resultity-node --home {} run --network-url <the network's address>`",
        home.path().display()
    );
    assert_eq!((&seen["next"][0], &seen["health"]), (&start.as_str().into(), &"stopped".into()));
    assert_eq!(seen["source"], "volume");
    home.run(["status"]).well().says(&[
        "testnet",
        "not running",
        "as the Agent left them; `resultity-node",
        "drift check` looks now",
        "version 1, fresh",
        "1 queued, 1 running, 2 to be",
        "1 ever, 1 to be reported",
        "none lost",
    ]);
}

/// The lines of a terminal as it opens: how the node is stands at the beginning, and what is to be done at the end.
const SCREEN_LINES: usize = 24;

#[test]
fn the_report_of_a_node_that_has_worked_fits_on_one_screen_and_no_list_makes_it_longer() {
    let home = Home::new();
    let store = home.fill();
    drop(store);
    home.run(["account", "link", "--email", "ada@example.org"]).well();
    let lines = || {
        let text = home.run(["status"]).well().out;
        (text.lines().count(), text)
    };
    let (whole, text) = lines();
    assert!(whole <= SCREEN_LINES, "{whole} lines:\n{text}");
    for part in ["health", "key", "agent", "snapshot", "account", "jobs", "expired", "logs", "models", "next"]
    {
        assert!(text.lines().any(|line| line.starts_with(&format!("{part} "))), "{part} is not in:\n{text}");
    }

    // All that it has was changed: three are named, the others counted, and one more thing is to be done.
    let store = Store::open(&home.options(), &reading()).unwrap();
    let known = store.inventory().view().list().unwrap();
    assert!(known.len() > 4, "{known:?}");
    for artifact in &known {
        let found = Measured::Present(Digest::of(b"another"));
        store.inventory().measure(artifact.id.clone(), found, reading().wall).wait().unwrap();
    }
    drop(store);
    assert_eq!(home.json(["status"])["drifted"].as_array().unwrap().len(), known.len());
    let (changed, text) = lines();
    assert!(text.contains(&format!("and {} more", known.len() - 3)), "{text}");
    assert!(text.contains("drift check` says which"), "{text}");
    assert_eq!(changed, whole + 5, "{text}");
}

#[test]
fn a_volume_that_others_can_look_into_is_refused_with_the_command_that_mends_it() {
    let home = Home::with_node();
    let mode = |mode| std::os::unix::fs::PermissionsExt::from_mode(mode);
    std::fs::set_permissions(home.volume(), mode(0o755)).unwrap();
    home.run(["status"]).failed(1, &["has mode 0755", "`resultity-node doctor --fix`", "chmod 700"]);
}

#[test]
fn where_there_is_no_node_the_way_to_one_is_said() {
    let home = Home::new();
    for command in [
        &["status"] as &[_],
        &["jobs", "list"],
        &["logs"],
        &["config", "show"],
        &["account", "show"],
        &["models", "list"],
        &["models", "install"],
        &["models", "remove", "m"],
        &["models", "prune"],
        &["drift", "check"],
        &["drift", "history"],
        &["rotate"],
        &["rotate", "--dry-run"],
        &["key", "export"],
        &["run", "--network-url", "http://127.0.0.1:9"],
    ] {
        home.run(command).failed(5, &[home.volume().to_str().unwrap(), "resultity-node init"]);
    }
    assert!(!home.volume().exists(), "looking makes nothing");
}

#[test]
fn what_was_damaged_is_said_and_the_rest_is_shown() {
    let home = Home::filled();
    let logs = home.volume().join("logs.db");
    std::fs::write(&logs, vec![0x55; 8192]).unwrap();
    let seen = home.json(["status"]);
    assert!(seen["logs"]["unreadable"].as_str().unwrap().contains("logs.db"), "{seen}");
    assert_eq!(seen["jobs"]["held"], 4);
    assert!(seen["next"][0].as_str().unwrap().contains("damaged"));
    home.run(["logs"]).failed(1, &["logs.db"]);
    home.run(["jobs", "explain", &id(1).to_string()]).well().says(&["waits for the runtime"]);
    // The opening saves what can be saved, and keeps the incident to be reported.
    home.run(["rotate"]).well();
    let seen = home.json(["status"]);
    assert_eq!(seen["incidents"][0]["database"], "logs.db");
    home.run(["status"]).well().says(&["incident", "logs.db"]);
}

#[test]
fn a_node_without_its_key_says_so_and_makes_no_other() {
    let home = Home::filled();
    std::fs::remove_file(home.volume().join("keys/node.key")).unwrap();
    let seen = home.json(["status"]);
    assert!(seen.get("address").is_none());
    assert!(seen["next"][0].as_str().unwrap().contains("backup"));
    assert_eq!(home.run(["status", "--check"]).code, Some(12), "no Agent can run, and none does");
    home.run(["rotate"]).failed(1, &["node.key", "backup"]);
    home.run(["key", "export"]).failed(1, &["node.key", "backup"]);
}

#[test]
fn watching_shows_it_again_and_again_until_ctrl_c() {
    let home = Home::filled();
    let mut child = home.command(["status", "--watch"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for _ in 0..2 {
        let block = lines.by_ref().map(Result::unwrap).find(|line| line.starts_with("health"));
        assert!(block.unwrap().contains("stopped"));
    }
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let rest: Vec<String> = lines.map(Result::unwrap).collect();
    assert!(
        rest.iter().all(|line| !line.contains('\u{1b}')),
        "what is no terminal gets no controls: {rest:?}"
    );
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn on_a_terminal_it_is_shown_in_one_place_and_never_higher_than_the_window() {
    let home = Home::filled();
    let (mut person, program) = terminal();
    let rows = 12;
    tcsetwinsize(&program, Winsize { ws_row: rows, ws_col: 200, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    let mut command = home.command(["status", "--watch"]);
    let mut child = command.stdout(program).env("TERM", "xterm").spawn().unwrap();
    drop(command);
    let (mut seen, mut some) = (String::new(), [0; 4096]);
    while seen.matches("\u{1b}[H").count() < 3 {
        let length = person.read(&mut some).unwrap();
        seen += &String::from_utf8_lossy(&some[..length]);
    }
    let rest = watch(person);
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    seen += &rest.join().unwrap();
    assert!(seen.ends_with("\u{1b}[J\r\n"), "the prompt comes below: {seen:?}");
    let frames: Vec<&str> = seen.split("\u{1b}[H").collect();
    assert_eq!(frames[0], "", "nothing is shown outside the place");
    for frame in &frames[1..] {
        let lines: Vec<&str> = frame.trim_end().split("\r\n").collect();
        assert_eq!(lines.len(), usize::from(rows), "{frame:?}");
        assert!(lines[0].contains("health") && lines[0].contains("\u{1b}[33m"), "{frame:?}");
        assert!(lines[usize::from(rows) - 1].contains("more; a higher window"), "{frame:?}");
    }
}

#[test]
fn a_page_that_does_not_answer_leaves_the_disk_to_be_looked_at() {
    let home = Home::new();
    let store = home.fill();
    // Nobody is given such a port by chance.
    store.announce(Some("http://127.0.0.1:9")).unwrap();
    let seen = home.json(["status"]);
    assert_eq!((&seen["source"], &seen["agent"]["running"]), (&"volume".into(), &true.into()));
    assert_eq!(seen["jobs"]["held"], 4);
    let todo = seen["next"].as_array().unwrap();
    assert!(todo.iter().any(|it| it.as_str().unwrap().contains("does not answer")), "{todo:?}");
    assert_ne!(home.run(["status", "--check"]).code, Some(0), "nobody can tell whether it is well");
    home.run(["status"]).well().says(&["does not answer: this is from the disk"]);
}
