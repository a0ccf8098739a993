//! The house rules, as pure functions over names and texts.

/// Crates that must not be among a package's dependencies.
pub(crate) const FORBIDDEN_DEPENDENCIES: &[(&str, &[&str])] = &[
    ("node-types", &["node-store", "rusqlite", "rustix", "tokio"]),
    ("node-store", &["tokio", "async-std", "smol", "mio", "hyper", "reqwest", "socket2", "node-agent"]),
    ("node-devnet", &["node-store", "node-agent"]),
];

/// Names the forbidden crates in the output of `cargo tree --prefix none --format {p}`.
pub(crate) fn forbidden_in(package: &str, tree: &str, forbidden: &[&str]) -> Vec<String> {
    let names = tree.lines().filter_map(|line| line.split(' ').next());
    let mut found: Vec<_> = names.filter(|name| forbidden.contains(name)).collect();
    found.sort_unstable();
    found.dedup();
    found.into_iter().map(|name| format!("{package} must not depend on {name}")).collect()
}

/// Rooms of a crate, lowest first: a room may use those before it, not those after it.
const ROOMS: &[(&str, &[&str])] = &[
    (
        "crates/node-store/src/",
        &[
            "meter",
            "disk",
            "private",
            "format",
            "reader",
            "writer",
            "clock",
            "keys",
            "nonsense",
            "hash",
            "seal",
            "models",
            "inventory",
            "jobs",
            "logs",
            "snapshot",
            "binding",
            "rotation",
            "salvage",
            "check",
            "checkup",
            "view",
            "volume",
            "store",
            "backup",
        ],
    ),
    (
        "crates/node-agent/src/",
        &[
            "address",
            "settings",
            "time",
            "blocking",
            "backoff",
            "tls",
            "meters",
            "journal",
            "author",
            "network",
            "contact",
            "node",
            "hardware",
            "artifacts",
            "update",
            "inventory",
            "own",
            "header",
            "fetch",
            "models",
            "drift",
            "standing",
            "metrics",
            "page",
            "runtime",
            "engine",
            "dispatch",
            "session",
            "enroll",
            "sync",
            "report",
            "fence",
            "rotate",
            "otlp",
            "targets",
            "agent",
            "doctor",
        ],
    ),
];

/// Says which rules a file breaks.
pub(crate) fn broken_in(file: &str, text: &str) -> Vec<String> {
    let mut broken = Vec::new();
    let mut say = |line: usize, what: &str| broken.push(format!("{file}:{}: {what}", line + 1));
    let rules_file = file.ends_with("xtask/src/rules.rs");
    for (number, line) in text.lines().enumerate() {
        if rules_file {
            break;
        }
        if ["home", "root"].iter().any(|folder| line.contains(&format!("/{folder}/"))) {
            say(number, "names a folder of one machine");
        }
        if file.ends_with(".rs") {
            if line.contains("#[ignore") {
                say(number, "switches a test off");
            }
            if file.starts_with("crates/node-store/src") && line.contains("std::net") {
                say(number, "the store opens no socket");
            }
            if file.starts_with("crates/node-agent/src") && line.contains("rusqlite") {
                say(number, "the Agent knows no SQL");
            }
        }
    }
    if let Some(room) = unplaced(file) {
        say(0, &format!("room {room} has no place in the order of rooms"));
    }
    for (number, room, used) in upward(file, text) {
        say(number, &format!("room {room} uses {used}, which is built on it"));
    }
    if file.starts_with("docs/decisions/") {
        for heading in ["## Status", "## Context", "## Decision", "## Consequences"] {
            if !text.lines().any(|line| line == heading) {
                say(0, &format!("has no heading {heading:?}"));
            }
        }
    }
    broken
}

/// The room that a file belongs to, with all rooms of its crate, where these have an order.
fn room_of(file: &str) -> Option<(&str, &'static [&'static str])> {
    let (rest, rooms) =
        ROOMS.iter().find_map(|(folder, rooms)| Some((file.strip_prefix(folder)?, *rooms)))?;
    Some((rest.split(['/', '.']).next()?, rooms))
}

/// The room of a file that nobody has given a place.
fn unplaced(file: &str) -> Option<&str> {
    let (room, rooms) = room_of(file)?;
    (room != "lib" && !rooms.contains(&room)).then_some(room)
}

/// Where a file of a room uses a room that is built on it: line from 0, its room, the other one.
fn upward<'a>(file: &'a str, text: &'a str) -> Vec<(usize, &'a str, &'a str)> {
    let Some((room, rooms)) = room_of(file) else { return Vec::new() };
    let place = |name: &str| rooms.iter().position(|room| *room == name);
    let Some(own) = place(room) else { return Vec::new() };
    // What tests need to set up is their own affair.
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    let above =
        |(at, used): &(usize, &str)| place(used).is_some_and(|used| used > own) && !in_comment(text, *at);
    let line = |(at, used)| (text[..at].matches('\n').count(), room, used);
    used_rooms(text).into_iter().filter(above).map(line).collect()
}

fn in_comment(text: &str, at: usize) -> bool {
    text[..at].rsplit('\n').next().is_some_and(|line| line.trim_start().starts_with("//"))
}

/// What follows `crate::`, and the first names in the braces of `crate::{...}`, each with its place.
fn used_rooms(text: &str) -> Vec<(usize, &str)> {
    let mut used = Vec::new();
    let name_at = |at: usize| {
        let rest = &text[at..];
        let end = rest.find(|letter: char| !letter.is_ascii_lowercase()).unwrap_or(rest.len());
        (at, &rest[..end])
    };
    for (found, prefix) in text.match_indices("crate::") {
        let after = found + prefix.len();
        if !text[after..].starts_with('{') {
            used.push(name_at(after));
            continue;
        }
        let (mut depth, mut first) = (0_usize, true);
        for (offset, letter) in text[after..].char_indices() {
            match letter {
                '{' => depth += 1,
                '}' if depth == 1 => break,
                '}' => depth -= 1,
                ',' if depth == 1 => first = true,
                letter if depth == 1 && first && !letter.is_whitespace() => {
                    used.push(name_at(after + offset));
                    first = false;
                }
                _ => {}
            }
        }
    }
    used
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forbidden_dependency_is_named() {
        let tree = "node-store v0.1.0\nmio v1.0.0\nmio v1.0.0 (*)\nserde v1.0.0";
        let found = forbidden_in("node-store", tree, &["mio", "tokio"]);
        assert_eq!(found, ["node-store must not depend on mio"]);
    }

    #[test]
    fn every_room_has_one_place() {
        let found = broken_in("crates/node-agent/src/cellar.rs", "");
        assert_eq!(
            found,
            ["crates/node-agent/src/cellar.rs:1: room cellar has no place in the order of rooms"]
        );
        assert!(broken_in("crates/node-agent/src/lib.rs", "").is_empty());
        for (folder, rooms) in ROOMS {
            let once: std::collections::BTreeSet<_> = rooms.iter().collect();
            assert_eq!(once.len(), rooms.len(), "{folder}");
        }
    }

    #[test]
    fn a_room_that_imports_upward_is_named() {
        let found = broken_in("crates/node-store/src/jobs/mod.rs", "use crate::store::Store;");
        assert_eq!(found.len(), 1, "{found:?}");
        let found = broken_in("crates/node-agent/src/session/mod.rs", "use crate::agent::run;");
        assert_eq!(found.len(), 1, "{found:?}");
        let several =
            "use crate::{\n    disk::{self, Disk},\n    format,\n    volume::{Keeping, Volume},\n};";
        let found = broken_in("crates/node-store/src/jobs/mod.rs", several);
        assert_eq!(
            found,
            ["crates/node-store/src/jobs/mod.rs:4: room jobs uses volume, which is built on it"]
        );
        assert!(broken_in("crates/node-store/src/store.rs", several).is_empty());
        assert!(broken_in("crates/node-store/src/jobs/mod.rs", "use crate::writer::Writer;").is_empty());
    }

    #[test]
    fn switched_off_tests_sockets_and_machine_paths_are_named() {
        for (file, text) in [
            ("crates/x/tests/a.rs", "#[ignore]"),
            ("crates/node-store/src/jobs/mod.rs", "use std::net::TcpStream;"),
            ("README.md", "cd /home/somebody/project"),
            ("docs/decisions/0001-x.md", "## Status\n## Context\n## Decision"),
        ] {
            assert_eq!(broken_in(file, text).len(), 1, "{file}");
        }
    }
}
