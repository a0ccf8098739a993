//! The operators' pages: every command is run as it stands there, and what the code can say has an entry.
//!
//! Here are run the `console` blocks that name nobody else (`shared/pages.rs` says who runs what), each page's in one folder.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::fs::PermissionsExt as _,
    process::Command,
};

use node_store::{format::Database, store::Store};

use crate::{
    home::{Home, job, reading},
    host::root,
    pages::{self, ELSEWHERE, Line, RUNNERS},
    shell::Shell,
    shop::Shop,
};

fn page(name: &str) -> String {
    std::fs::read_to_string(root().join("docs").join(name)).unwrap()
}

/// Gives a node that has worked a job of the ID that the pages name.
fn with_the_job(store: &Store) {
    let now = reading().wall;
    let mut told = job(9, now);
    told.id = "0192f0c1-2b3c-7def-8a00-000000000001".parse().unwrap();
    store.jobs().accept(&told, now).wait().unwrap();
}

/// A home with a node that has worked.
fn worked() -> Home {
    let home = Home::new();
    with_the_job(&home.fill());
    home
}

/// The pages whose commands are run here.
const PAGES: &[&str] = &[
    "README.md",
    "docs/backup-and-move.md",
    "docs/everyday.md",
    "docs/install.md",
    "docs/monitoring.md",
    "docs/security.md",
    "docs/status-page.md",
    "docs/troubleshooting.md",
];

/// Runs what stands in the blocks of a page, and before each block what is to happen before it.
fn run_all(name: &str, home: &Home, before: impl Fn(usize, &mut Shell)) {
    assert!(PAGES.contains(&name));
    home.file("node.pass", "correct horse");
    home.file("backup.pass", "staple battery");
    // Nothing listens there: what is shown is a node without its network.
    home.file("node.toml", "network_url = \"http://127.0.0.1:9\"\n");
    let mut shell = Shell::new(home.path());
    // Which would else take this one for the machine's.
    let (path, tools) = (std::env::var("PATH").unwrap(), root().join("scripts/promtool"));
    shell.program("promtool", &format!("PATH='{path}' exec '{}' \"$@\"", tools.display()));
    let blocks = pages::all().into_iter().filter(|block| block.page == name && block.runner.is_empty());
    let mut commands = 0;
    for (number, block) in blocks.enumerate() {
        before(number, &mut shell);
        for line in block.lines {
            shell.types(&line);
            commands += 1;
        }
    }
    assert!(commands > 0, "{name} shows no command");
    shell.ends();
}

fn nothing(_: usize, _: &mut Shell) {}

#[test]
fn the_way_to_a_node_can_be_gone_as_it_is_written() {
    run_all("docs/install.md", &Home::new(), nothing);
}

#[test]
fn every_days_commands_do_what_they_say() {
    run_all("docs/everyday.md", &worked(), nothing);
}

#[test]
fn the_first_page_does_what_it_says() {
    let home = Home::new();
    run_all("README.md", &home, |number, _| {
        // What it shows of a node is shown of one that has worked.
        if number == 1 {
            with_the_job(&home.works(Store::open(&home.options(), &reading()).unwrap()));
        }
    });
}

#[test]
fn the_commands_for_trouble_and_for_the_key_can_be_run() {
    for name in ["docs/troubleshooting.md", "docs/security.md", "docs/backup-and-move.md"] {
        run_all(name, &worked(), nothing);
    }
}

#[test]
fn a_running_node_is_looked_at_as_the_pages_say() {
    let home = worked();
    home.file("alerts.yml", std::fs::read(root().join("deploy/prometheus/alerts.yml")).unwrap());
    let page = "docs/monitoring.md";
    run_all(page, &home, |_, shell| drop(shell.types(&Line("resultity-node run # until Ctrl-C".to_owned()))));
    run_all("docs/status-page.md", &Home::with_node(), nothing);
}

#[test]
fn every_command_of_every_page_is_run_by_somebody() {
    let blocks = pages::all();
    for block in &blocks {
        let place = format!("{}, {}", block.page, block.heading);
        let runner = RUNNERS.iter().find(|(word, _)| *word == block.runner);
        let (word, file) = runner.unwrap_or_else(|| panic!("{place}: nobody is {:?}", block.runner));
        if word.is_empty() {
            assert_eq!(block.language, "console", "{place}: a block of sh names who runs it");
            assert!(PAGES.contains(&&*block.page), "{place}: nobody runs this page");
        } else {
            let source = std::fs::read_to_string(root().join("crates/node-cli/tests").join(file)).unwrap();
            assert!(source.contains(&format!("Pages::of(\"{word}\")")), "{place}: {file} does not run it");
        }
    }
    assert!(blocks.len() > 30, "{} blocks", blocks.len());
    // What is left out still stands somewhere.
    let whole: String = ["README.md", "docs/install.md", "docs/status-page.md"]
        .map(|page| std::fs::read_to_string(root().join(page)).unwrap())
        .concat();
    for (command, _) in ELSEWHERE {
        assert!(whole.contains(command), "no page has {command} any more");
    }
}

/// The doctor sends whoever has to install it to that page.
#[test]
fn a_runtime_that_the_agent_starts_is_installed_as_the_page_says() {
    let install = page("install.md");
    let part = install.split("\n### A program that the Agent starts\n").nth(1).unwrap();
    let part = part.split("\n#").next().unwrap();
    for command in ["resultity-node config show --json", "sha256sum", "resultity-node doctor"] {
        assert!(part.contains(command), "{command} is not in: {part}");
    }
    let shop = Shop::new();
    let folder = shop.home.path().join("rt");
    std::fs::create_dir(&folder).unwrap();
    shop.home.file("node.toml", format!("[runtime]\nfolder = {}\n", serde_json::json!(folder)));
    let doctor = || shop.home.run(["doctor", "--json"]).out;
    assert!(doctor().contains("docs/install.md says how"), "{}", doctor());

    let runtime = shop.home.json(["config", "show"])["document"]["runtime"].clone();
    let program = folder.join(runtime["command"].as_str().unwrap());
    std::fs::write(&program, "serve").unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let sum = Command::new("sha256sum").arg(&program).output().unwrap();
    let sum = String::from_utf8(sum.stdout).unwrap();
    let wanted = runtime["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
    assert!(sum.starts_with(wanted), "{sum} is not {wanted}");
    let said = doctor();
    assert!(said.contains(&format!("{} is the approved program", program.display())), "{said}");
}

#[test]
fn what_an_older_release_says_of_a_newer_volume_is_what_the_page_shows() {
    let upgrade = page("upgrade.md");
    let shown = upgrade.lines().find(|line| line.contains("/state.db has format")).unwrap();
    let home = Home::with_node();
    let raw = rusqlite::Connection::open(home.volume().join("state.db")).unwrap();
    raw.pragma_update(None, "user_version", Database::State.newest() + 1).unwrap();
    drop(raw);
    let said = home.run(["status"]).failed(1, &[]).err;
    assert_eq!(said.trim_end(), shown.replace("...", home.volume().to_str().unwrap()));
}

/// The words in backquotes of a page.
fn quoted(page: &str) -> BTreeSet<&str> {
    page.split('`').skip(1).step_by(2).collect()
}

/// The rows of the tables under a heading by the words in their first cell, each with its other two.
fn rows<'a>(page: &'a str, heading: &str) -> BTreeMap<&'a str, [&'a str; 2]> {
    let part = page.split(&format!("\n{heading}\n")).nth(1).unwrap().split("\n#").next().unwrap();
    let cells =
        part.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |")?.split_once(" | "));
    let mut rows = BTreeMap::new();
    for (words, rest) in cells {
        let (cause, cure) = rest.split_once(" | ").unwrap_or((rest, ""));
        for word in quoted(words) {
            assert!(rows.insert(word, [cause.trim(), cure.trim()]).is_none(), "{word} has two rows");
        }
    }
    rows
}

fn source(path: &str) -> String {
    std::fs::read_to_string(root().join("crates").join(path)).unwrap()
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
    let code = source("node-cli/src/failure.rs");
    let kinds = code.split("fn kind(").nth(1).unwrap().split("\n    }").next().unwrap();
    let kinds: Vec<String> = kinds.split('"').skip(1).step_by(2).map(str::to_owned).collect();
    let network = words_of(&source("node-types/src/protocol/network.rs"), "pub enum ErrorCode {");
    let job = words_of(&source("node-types/src/job.rs"), "pub enum FailureKind {");
    assert!(kinds.len() > 30 && network.len() > 8 && job.len() > 4, "{kinds:?} {network:?} {job:?}");
    for (words, heading) in [
        (kinds, "## Errors of the command line"),
        (network, "## What the network refuses"),
        (job, "## A job that failed"),
    ] {
        let rows = rows(&trouble, heading);
        for word in words {
            let [cause, cure] = rows.get(&*word).unwrap_or_else(|| panic!("{heading}: no row for {word}"));
            // Of what needs no cure it is said that there is none.
            assert!(cause.len() >= 6 && cure.len() >= 4, "{word}: {cause:?} needs {cure:?}");
        }
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
