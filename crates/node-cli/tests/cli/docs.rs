//! The operators' pages: every command in a `console` block is run as it stands there, and what the code can say has an entry.
//!
//! A line of such a block begins with `$ ` and is run by a shell, one after the other, in one folder for the page. It must end
//! with 0, unless it ends with a comment `# ends with 0 or 7`. What cannot be run here (a service manager, Docker, an Agent that
//! runs for ever) stands in blocks of another language.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use node_store::store::Store;

use crate::home::{Home, PROGRAM, job, reading};

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn page(name: &str) -> String {
    std::fs::read_to_string(project().join("docs").join(name)).unwrap()
}

/// The commands of a page, and the exit codes that each may end with.
fn commands(page: &str) -> Vec<(String, Vec<i32>)> {
    let mut found = Vec::new();
    let mut inside = false;
    for line in page.lines() {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            inside = !inside && language == "console";
        } else if let Some(command) = line.strip_prefix("$ ").filter(|_| inside) {
            let codes = command.split_once("# ends with ").map_or(vec![0], |(_, codes)| {
                codes.split(" or ").map(|code| code.trim().parse().unwrap()).collect()
            });
            found.push((command.to_owned(), codes));
        } else if inside {
            assert!(line.is_empty(), "only commands stand in console blocks: {line:?}");
        }
    }
    found
}

/// A node that has worked, with a job of the ID that the pages name.
fn worked(home: &Home) {
    let store = home.fill();
    let now = reading().wall;
    let mut told = job(9, now);
    told.id = "0192f0c1-2b3c-7def-8a00-000000000001".parse().unwrap();
    store.jobs().accept(&told, now).wait().unwrap();
    drop::<Store>(store);
}

fn run_all(name: &str, home: &Home) {
    home.file("node.pass", "correct horse");
    home.file("backup.pass", "staple battery");
    // The program under the name that the pages use, without touching the machine's folders.
    let programs = home.path().join("bin");
    std::fs::create_dir(&programs).unwrap();
    std::os::unix::fs::symlink(PROGRAM, programs.join("resultity-node")).unwrap();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let commands = commands(&page(name));
    assert!(!commands.is_empty(), "{name} shows no command");
    for (command, codes) in commands {
        let ran = Command::new("sh")
            .args(["-c", &command])
            .env_clear()
            .envs([("PATH", path.as_str()), ("HOME", home.path().to_str().unwrap())])
            .env("RESULTITY_HOME", home.path())
            .current_dir(home.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let code = ran.status.code().unwrap();
        let said = String::from_utf8_lossy(&[ran.stdout, ran.stderr].concat()).into_owned();
        assert!(codes.contains(&code), "{name}: `{command}` ended with {code}:\n{said}");
    }
}

#[test]
fn the_way_to_a_node_can_be_gone_as_it_is_written() {
    run_all("install.md", &Home::new());
}

#[test]
fn every_days_commands_do_what_they_say() {
    let home = Home::new();
    worked(&home);
    run_all("everyday.md", &home);
}

#[test]
fn the_commands_for_trouble_and_for_the_key_can_be_run() {
    for name in ["troubleshooting.md", "security.md", "backup-and-move.md"] {
        let home = Home::new();
        worked(&home);
        run_all(name, &home);
    }
}

#[test]
fn every_page_that_shows_commands_is_run() {
    let run = ["install.md", "everyday.md", "troubleshooting.md", "security.md", "backup-and-move.md"];
    for entry in std::fs::read_dir(project().join("docs")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".md") && !commands(&page(&name)).is_empty() {
            assert!(run.contains(&name.as_str()), "nobody runs the commands of {name}");
        }
    }
}

/// The words in backquotes of a page.
fn quoted(page: &str) -> BTreeSet<&str> {
    page.split('`').skip(1).step_by(2).collect()
}

fn source(path: &str) -> String {
    std::fs::read_to_string(project().join("crates").join(path)).unwrap()
}

/// The variants of an enum by its source, in the words that serde makes of them.
fn words_of(source: &str, declaration: &str) -> Vec<String> {
    let body = source.split(declaration).nth(1).unwrap().split("\n}").next().unwrap();
    let variants = body.lines().filter_map(|line| line.strip_prefix("    "));
    let variants = variants.filter(|line| line.starts_with(|letter: char| letter.is_ascii_uppercase()));
    let snake = |name: &str| {
        let mut word = String::new();
        for letter in name.chars().take_while(char::is_ascii_alphanumeric) {
            if letter.is_ascii_uppercase() && !word.is_empty() {
                word.push('_');
            }
            word.push(letter.to_ascii_lowercase());
        }
        word
    };
    variants.map(snake).collect()
}

#[test]
fn every_error_and_every_finding_has_its_entry() {
    let (trouble, everyday) = (page("troubleshooting.md"), page("everyday.md"));
    let entries = quoted(&trouble);
    let code = source("node-cli/src/failure.rs");
    let kinds = code.split("fn kind(").nth(1).unwrap().split("\n    }").next().unwrap();
    let kinds: Vec<&str> = kinds.split('"').skip(1).step_by(2).collect();
    assert!(kinds.len() > 30, "{kinds:?}");
    for kind in kinds {
        assert!(entries.contains(kind), "no entry for the error {kind}");
    }
    let network = words_of(&source("node-types/src/protocol/network.rs"), "pub enum ErrorCode {");
    let job = words_of(&source("node-types/src/job.rs"), "pub enum FailureKind {");
    assert!(network.len() > 8 && job.len() > 4, "{network:?} {job:?}");
    for word in network.iter().chain(&job) {
        assert!(entries.contains(word.as_str()), "no entry for {word}");
    }
    let checks = quoted(&everyday);
    for (name, _) in node_agent::doctor::CHECKS {
        assert!(checks.contains(name), "no entry for the check {name}");
    }
    let cli = page("cli.md");
    let codes = cli.split("Exit codes:").nth(1).unwrap().split("\n\n").next().unwrap();
    let codes = codes.lines().filter_map(|line| line.split_whitespace().next()?.parse::<u8>().ok());
    for code in codes {
        assert!(trouble.contains(&format!("\n| {code} |")), "no entry for exit code {code}");
    }
}
