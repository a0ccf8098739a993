//! `bundle`: it lists what is in it, and works where nothing else does.

use std::collections::BTreeMap;

use node_types::log::{Kind, Level, Record};
use serde_json::{Value, json};

use crate::home::{CANARY, Home, PROGRAM, Ran, reading};

const EMAIL: &str = "ada@example.org";

/// The files in a bundle, by name.
fn files(archive: &std::path::Path) -> BTreeMap<String, Value> {
    let tar = zstd::decode_all(std::fs::File::open(archive).unwrap()).unwrap();
    let (mut at, mut found) = (0, BTreeMap::new());
    while tar[at] != 0 {
        let name = tar[at..at + 100].split(|byte| *byte == 0).next().unwrap();
        let size = std::str::from_utf8(&tar[at + 124..at + 135]).unwrap();
        let size = usize::from_str_radix(size, 8).unwrap();
        let text = &tar[at + 512..at + 512 + size];
        found.insert(String::from_utf8(name.to_vec()).unwrap(), serde_json::from_slice(text).unwrap());
        at += 512 + size.next_multiple_of(512);
    }
    found
}

#[test]
fn a_bundle_lists_what_is_in_it_and_is_redacted() {
    let home = Home::filled();
    let proof = home.file("proof", CANARY);
    home.run(["account", "link", "--email", EMAIL, "--proof-file", proof.to_str().unwrap()]).well();
    let settings = "network_url = \"https://example.org/x\"\n[otlp]\nendpoint = \"https://collector.example.org/hunter2\"\n";
    home.file("node.toml", settings);
    let listed = home.json(["bundle", "--dry-run"]);
    assert_eq!(listed["file"], Value::Null);
    let file = home.path().join("for-support.tar.zst");
    let said = home.json(["bundle", file.to_str().unwrap()]);
    let names = |report: &Value| -> Vec<String> {
        let parts = report["parts"].as_array().unwrap().iter();
        parts.map(|part| part["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&listed), names(&said));
    let files = files(&file);
    let mut wanted = names(&said);
    wanted.sort();
    assert_eq!(files.keys().cloned().collect::<Vec<_>>(), wanted, "nothing that is not listed");
    assert!(said["parts"].as_array().unwrap().iter().all(|part| part["missing"].is_null()), "{said}");

    assert_eq!(files["databases.json"][1]["database"], "jobs.db");
    assert!(files["databases.json"].as_array().unwrap().iter().all(|database| database["damage"].is_null()));
    assert_eq!(files["jobs.json"]["held"], 4);
    assert!(files["log.json"].to_string().contains("the runtime went away"));
    assert_eq!(files["settings.json"]["network_url"], "https://example.org/x");
    assert_eq!(files["settings.json"]["otlp"]["endpoint"], "https://collector.example.org");
    assert_eq!(files["status.json"]["account"]["account"], "<e-mail>");
    assert!(!files["traces.json"].as_array().unwrap().is_empty());
    let all = serde_json::to_string(&files).unwrap();
    let whole = home.json(["status"])["address"].as_str().unwrap().to_owned();
    for secret in [CANARY, EMAIL, "hunter2", home.path().to_str().unwrap(), whole.as_str()] {
        assert!(!all.contains(secret), "{secret}");
    }
    assert!(all.contains(&format!("{}...{}", &whole[..6], &whole[38..])), "the address is shortened");
    // Nothing is said to be written that was not.
    home.run(["bundle", file.to_str().unwrap()]).failed(1, &["exists already"]);
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
}

/// An account that looks like no address of e-mail is one nevertheless.
#[test]
fn an_account_by_e_mail_is_in_no_bundle_whatever_it_looks_like() {
    let home = Home::filled();
    let proof = home.file("proof", CANARY);
    home.run(["account", "link", "--email", "ada@localhost", "--proof-file", proof.to_str().unwrap()]).well();
    let file = home.path().join("a.tar.zst");
    home.run(["bundle", file.to_str().unwrap()]).well();
    let files = files(&file);
    assert_eq!(files["status.json"]["account"]["account"], "<e-mail>");
    assert!(!files["status.json"].to_string().contains("ada@"));
}

/// What a record says of the machine and of people comes from anywhere: from a runtime, from the system, from the network.
#[test]
fn a_bundle_says_neither_who_nor_where_whatever_the_log_says() {
    const HOST: &str = "rack-7-of-ada";
    let home = Home::new();
    let store = home.fill();
    let [folder, user] = ["ada", "<user>"].map(|user| ["", "home", user, "x"].join("/"));
    let said = [
        (format!("{HOST} is full"), HOST, "<host>"),
        (format!("mail {EMAIL}"), EMAIL, "<e-mail>"),
        ("from 192.0.2.7:80".to_owned(), "192.0.2.7", "<ip>:80"),
        (format!("at {folder}"), folder.as_str(), user.as_str()),
        ("https://ada:hunter2@h.example/x".to_owned(), "hunter2", "<login>@h.example/x"),
    ];
    for (text, ..) in &said {
        let mut record = Record::new(reading().wall, Level::Info, Kind::Runtime, text.clone());
        record.fields.insert("more".to_owned(), json!({ "deeper": [text] }));
        store.logs().append(record);
    }
    store.logs().flush().wait().unwrap();
    drop(store);
    let file = home.path().join("a.tar.zst");
    let arguments = ["bundle", file.to_str().unwrap()];
    // A name of its own, as this machine's may be too short to say anything. Only root can give it one.
    let named = rustix::process::geteuid().is_root();
    if named {
        let line = format!("echo {HOST} > /proc/sys/kernel/hostname && exec \"$0\" \"$@\"");
        let mut command = std::process::Command::new("unshare");
        command.args(["--uts", "sh", "-c", &line, PROGRAM]).args(arguments);
        command.env("RESULTITY_HOME", home.path());
        Ran::from(command.output().unwrap()).well();
    } else {
        home.run(arguments).well();
    }
    let log = files(&file)["log.json"].to_string();
    for (_, says, stands) in said.into_iter().skip(usize::from(!named)) {
        assert!(!log.contains(says), "{says}: {log}");
        assert_eq!(log.matches(stands).count(), 2, "{stands}: {log}");
    }
}

#[test]
fn a_bundle_is_made_of_what_is_there() {
    let home = Home::new();
    let file = home.path().join("a.tar.zst");
    home.run(["bundle", file.to_str().unwrap()]).well().says(&["there is no node", "about.json"]);
    assert!(files(&file)["status.json"]["missing"].as_str().unwrap().contains("there is no node"));

    let home = Home::filled();
    let raw = home.volume().join("jobs.db");
    let mut bytes = std::fs::read(&raw).unwrap();
    let half = bytes.len() / 2;
    bytes[half..].fill(0xAA);
    std::fs::write(&raw, bytes).unwrap();
    let file = home.path().join("b.tar.zst");
    home.run(["bundle", file.to_str().unwrap()]).well();
    let files = files(&file);
    let jobs = &files["databases.json"][1];
    assert!(!jobs["damage"].is_null() || !jobs["unreadable"].is_null(), "{jobs}");
    assert!(files["log.json"].is_array(), "the others are there");
}
