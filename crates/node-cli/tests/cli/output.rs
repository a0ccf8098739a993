//! What goes to a terminal, to a pipe and into the documentation.

use std::process::Command;

use node_types::log::{Kind, Level, Record};

use crate::home::{Home, PROGRAM, Ran, reading};

const HOSTILE: &str = "gone\u{1b}[2J\u{9b}31m\r\nforged\u{202e}\u{7f}";

fn steers(text: &str) -> bool {
    text.chars().any(|letter| (letter.is_control() && letter != '\n') || letter == '\u{202e}')
}

#[test]
fn what_the_store_holds_does_not_steer_the_terminal() {
    let home = Home::new();
    let store = home.fill();
    let mut record = Record::new(reading().wall, Level::Warn, Kind::Network, HOSTILE);
    record.fields.insert(HOSTILE.to_owned(), HOSTILE.into());
    store.logs().append(record);
    store.logs().flush().wait().unwrap();
    let text = home.run(["logs", "--kind", "network"]).well();
    assert!(!steers(&text.out), "{:?}", text.out);
    assert_eq!(text.out.lines().count(), 1, "a record is one line: {}", text.out);
    text.says(&["gone\\u{1b}[2J"]);
    let json = home.run(["logs", "--kind", "network", "--json"]).well();
    assert!(!steers(&json.out), "{:?}", json.out);
    assert_eq!(json.json()["message"], HOSTILE);
    // What was typed comes back in an error.
    let said = home.run(["config", "verify", HOSTILE]).failed(1, &["gone"]);
    assert!(!steers(said.err.trim_end()), "{:?}", said.err);
}

#[test]
fn there_are_no_colours_but_on_a_terminal() {
    let home = Home::filled();
    for command in [&["status"] as &[_], &["logs"], &["config", "show"], &["--help"]] {
        assert!(!home.run(command).well().out.contains('\u{1b}'), "{command:?}");
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let home = Home::new();
    let store = home.fill();
    for number in 0..5000 {
        let text = format!("record {number} of many, long enough that they do not all fit into a pipe");
        store.logs().append(Record::new(reading().wall, Level::Info, Kind::Metric, text));
    }
    store.logs().flush().wait().unwrap();
    for json in ["", "--json"] {
        let script = format!("{PROGRAM} logs --limit 10000 {json} | head -n 1; exit ${{PIPESTATUS[0]}}");
        let mut bash = Command::new("bash");
        bash.args(["-c", &script]).env("RESULTITY_HOME", home.path());
        let ran = Ran::from(bash.output().unwrap()).well();
        assert_eq!(ran.out.lines().count(), 1);
    }
}

#[test]
fn a_full_disk_behind_the_output_is_an_error() {
    let home = Home::filled();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let ran: Ran = home.command(["status"]).stdout(full).output().unwrap().into();
    ran.failed(1, &["standard output"]);
}

#[test]
fn completions_are_scripts_that_the_shells_can_read() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = home.run(["completions", shell]).well().says(&["explain", "keys-passphrase-file"]).out;
        assert!(!script.contains("help-document"), "what is hidden is not offered");
        let file = home.file(shell, script);
        // A shell that is not installed here cannot read it.
        if let Ok(status) = Command::new(shell).arg("-n").arg(&file).status() {
            assert!(status.success(), "{shell}");
        } else {
            assert_ne!(shell, "bash", "bash runs these tests elsewhere too");
        }
    }
    home.run(["completions", "cmd"]).failed(2, &["bash"]);
}

/// `cargo run -q -p node-cli -- help-document > docs/cli.md` writes it again.
#[test]
fn the_documentation_is_what_the_help_says() {
    let document = Home::new().run(["help-document"]).well().out;
    let kept = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/cli.md")).unwrap();
    assert!(document == kept, "docs/cli.md is not what the help texts say: write it again");
    for part in
        ["## resultity-node jobs explain", "Exit codes:", "RESULTITY_RUNTIME_API_KEY_FILE", "Examples:"]
    {
        assert!(document.contains(part), "{part}");
    }
}

#[test]
fn every_command_has_an_example() {
    let document = Home::new().run(["help-document"]).well().out;
    let mut commands = 0;
    for section in document.split("\n## ").filter(|section| section.starts_with("resultity-node ")) {
        let (name, help) = section.split_once('\n').unwrap();
        // What only leads to other commands is never typed.
        if help.contains("\nCommands:\n") {
            continue;
        }
        let examples = help.split_once("\nExamples:\n").unwrap_or_else(|| panic!("{name} has no example")).1;
        assert!(examples.contains(name) || examples.contains("resultity-node --"), "{name}: {examples}");
        commands += 1;
    }
    assert!(commands > 35, "{commands} commands");
}
