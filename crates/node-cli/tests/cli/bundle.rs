//! `bundle`: it lists what is in it, and works where nothing else does.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::home::{CANARY, Home};

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
