//! `key`: the key goes out and comes back, and is never replaced or printed.

use std::os::unix::fs::PermissionsExt as _;

use crate::home::{CANARY, Home, id};

#[test]
fn an_exported_key_makes_the_same_node_in_another_home() {
    let (first, second) = (Home::with_node(), Home::new());
    let pass = first.file("pass", format!("{CANARY}\n"));
    let (pass, out) = (pass.to_str().unwrap(), first.path().join("out.json"));
    let out = out.to_str().unwrap();
    let said = first.run(["key", "export", "--out", out, "--passphrase-file", pass]).well();
    assert!(!said.out.contains(CANARY), "{}", said.out);
    let mode = std::fs::metadata(out).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let keystore: serde_json::Value = serde_json::from_slice(&std::fs::read(out).unwrap()).unwrap();
    assert_eq!(keystore["version"], 3);
    assert!(!keystore.to_string().contains(CANARY));

    let made = second.json(["key", "import", out, "--passphrase-file", pass]);
    let held = first.json(["status"]);
    assert_eq!((&made["address"], &made["node"]), (&held["address"], &held["node"]));

    // The way of `init` is the same.
    let third = Home::new();
    let made = third.json(["init", "--key-file", out, "--passphrase-file", pass]);
    assert_eq!(made["address"], held["address"]);
}

#[test]
fn an_export_overwrites_nothing_and_goes_to_the_standard_output_unless_told() {
    let home = Home::with_node();
    let pass = home.file("pass", CANARY);
    let there = home.file("there.json", "mine");
    let (pass, out) = (pass.to_str().unwrap(), there.to_str().unwrap());
    home.run(["key", "export", "--out", out, "--passphrase-file", pass])
        .failed(1, &["cannot write", out, "exists already"]);
    // Before the passphrase is looked for.
    home.run(["key", "export", "--out", out, "--passphrase-file", "none"]).failed(1, &["left as it is"]);
    assert_eq!(std::fs::read(&there).unwrap(), b"mine");
    let printed = home.run(["key", "export", "--passphrase-file", pass]).well().json();
    assert_eq!(printed["crypto"]["kdf"], "scrypt");
}

#[test]
fn a_key_is_never_replaced() {
    let home = Home::with_node();
    let address = home.json(["status"])["address"].as_str().unwrap().to_owned();
    let file = home.file("other.json", "{}");
    home.run(["key", "import", file.to_str().unwrap()])
        .failed(1, &[&address, "never replaced", "--home", "--key-file"]);
}

/// The message ended in the system's own word for it.
#[test]
fn without_a_terminal_a_passphrase_is_asked_for_with_the_flag_alone() {
    let home = Home::with_node();
    let mut command = std::process::Command::new("setsid");
    command.arg("-w").arg(crate::home::PROGRAM).args(["key", "export"]).env_clear();
    let output =
        command.env("RESULTITY_HOME", home.path()).stdin(std::process::Stdio::null()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.trim_end().ends_with("or give --passphrase-file"), "{said}");
}

#[test]
fn a_wrong_passphrase_makes_no_node_and_is_not_quoted() {
    let (first, second) = (Home::with_node(), Home::new());
    let (right, wrong) = (first.file("right", "right"), first.file("wrong", CANARY));
    let out = first.path().join("out.json");
    let out = out.to_str().unwrap();
    first.run(["key", "export", "--out", out, "--passphrase-file", right.to_str().unwrap()]).well();
    let said = second
        .run(["key", "import", out, "--passphrase-file", wrong.to_str().unwrap()])
        .failed(1, &[out, "passphrase is wrong"]);
    assert!(!said.err.contains(CANARY), "{}", said.err);
    second.run(["status"]).failed(5, &["init"]);
    let garbage = first.file("garbage.json", "[1]");
    second
        .run(["key", "import", garbage.to_str().unwrap(), "--passphrase-file", right.to_str().unwrap()])
        .failed(1, &["garbage.json", "Web3"]);
}

#[test]
fn resealed_keys_open_under_the_new_secret_alone() {
    let home = Home::with_node();
    let pass = home.file("pass", CANARY);
    let pass = pass.to_str().unwrap();
    let mut command = home.command(["key", "reseal", "--to-passphrase-file", "pass", "--json"]);
    let done = crate::home::Ran::from(command.current_dir(home.path()).output().unwrap()).well().json();
    let full = std::fs::canonicalize(pass).unwrap();
    assert_eq!(done["next"], format!("set keys.passphrase_file to {}", full.display()));
    assert_eq!((&done["sealed_under"], &done["rewritten"]), (&"passphrase".into(), &2.into()));
    assert_eq!(home.json(["status"])["protection"], "passphrase");
    home.run(["rotate", "--keys-passphrase-file", pass]).well();
    // Without a passphrase file the terminal is asked; a process of its own session has none.
    let mut command = std::process::Command::new("setsid");
    command.arg("-w").arg(crate::home::PROGRAM).arg("rotate").env_clear().env("RESULTITY_HOME", home.path());
    let output = command.stdin(std::process::Stdio::null()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("no terminal") && !said.contains(CANARY), "{said}");
    assert!(said.contains("--keys-passphrase-file") && said.contains("keys.passphrase_file"), "{said}");
    // What the system calls a terminal that is not there says nothing more.
    assert!(!said.contains("os error"), "{said}");

    let secret = home.file("secret", [7; 32]);
    let secret = secret.to_str().unwrap();
    home.run(["key", "reseal", "--to-secret-file", secret, "--keys-passphrase-file", pass]).well();
    assert_eq!(home.json(["status"])["protection"], "container_secret");
    home.run(["rotate", "--keys-secret-file", secret]).well();
    home.run(["key", "reseal"]).failed(2, &["--to-passphrase"]);
}

/// A node that was made before its service had a credential could not be sealed under it afterwards.
#[test]
fn a_node_is_sealed_under_a_credential_afterwards_and_opens_with_it_alone() {
    let home = Home::with_node();
    home.run(["key", "reseal", "--to-credential"]).failed(1, &["systemd credential", "systemd-run"]);
    assert_eq!(home.json(["status"])["protection"], "obfuscation_only", "nothing was done");
    let credentials = tempfile::tempdir().unwrap();
    std::fs::write(credentials.path().join("resultity-kek"), [7; 48]).unwrap();
    let given = |arguments: &[&str]| {
        let ran = home.command(arguments).env("CREDENTIALS_DIRECTORY", credentials.path()).output();
        crate::home::Ran::from(ran.unwrap())
    };
    let done = given(&["key", "reseal", "--to-credential", "--json"]).well().json();
    assert_eq!((&done["sealed_under"], &done["rewritten"]), (&"systemd-credential".into(), &2.into()));
    assert_eq!(home.json(["status"])["protection"], "systemd");
    given(&["rotate"]).well();
    home.run(["rotate"]).failed(1, &["systemd credential", "resultity-kek"]);
}

/// Prompts, answers and passphrases reach no output, whatever is asked for.
#[test]
fn no_secret_is_in_any_output() {
    let home = Home::filled();
    let pass = home.file("pass", CANARY);
    let pass = pass.to_str().unwrap();
    let jobs: Vec<String> = (1..=6).map(|number| id(number).to_string()).collect();
    let mut commands: Vec<Vec<&str>> = vec![
        vec!["status"],
        vec!["jobs", "list"],
        vec!["jobs", "list", "--ended"],
        vec!["logs", "--level", "trace"],
        vec!["config", "show"],
        vec!["config", "history"],
        vec!["account", "show"],
        vec!["rotate", "--dry-run"],
        vec!["key", "export", "--passphrase-file", pass],
        vec!["key", "reseal", "--to-passphrase-file", pass],
        vec!["rotate", "--keys-passphrase-file", pass],
    ];
    for job in &jobs {
        commands.push(vec!["jobs", "show", job]);
        commands.push(vec!["jobs", "explain", job]);
    }
    for command in commands {
        for json in [false, true] {
            let ran = home.run(command.iter().copied().chain(json.then_some("--json")));
            assert!(!ran.out.is_empty() || !ran.err.is_empty(), "{command:?} said nothing");
            assert!(!ran.out.contains(CANARY) && !ran.err.contains(CANARY), "{command:?}: {ran:?}");
        }
    }
}
