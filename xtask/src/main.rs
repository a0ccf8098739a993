//! Checks and generated documents of the project.
//!
//! `xtask generate` writes the documents that are made from code; `xtask check` fails where one is stale,
//! where a crate depends on what it must not know, or where a house rule is broken.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command for a terminal")]
#![expect(clippy::disallowed_methods, reason = "it reads and writes the project's own files")]

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

mod rules;

/// A document's path and what makes it.
type Generated = (&'static str, fn() -> String);

/// Documents that are made from code: where they stand and what makes them.
const GENERATED: &[Generated] =
    &[("docs/rotation.md", node_store::rotation::document), ("docs/tables.md", node_store::format::document)];

fn main() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(PathBuf::new, Path::to_owned);
    let problems = match env::args().nth(1).as_deref() {
        Some("generate") => generate(&root),
        Some("check") => check(&root),
        Some(_) | None => vec!["usage: xtask generate | xtask check".to_owned()],
    };
    for problem in &problems {
        eprintln!("{problem}");
    }
    if problems.is_empty() {
        println!("xtask: all is well");
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn generate(root: &Path) -> Vec<String> {
    let write = |(path, make): &Generated| {
        fs::write(root.join(path), make()).err().map(|error| format!("{path}: {error}"))
    };
    GENERATED.iter().filter_map(write).collect()
}

fn check(root: &Path) -> Vec<String> {
    let mut problems = Vec::new();
    for (path, make) in GENERATED {
        if fs::read_to_string(root.join(path)).ok() != Some(make()) {
            problems.push(format!("{path} is stale: run make docs"));
        }
    }
    for (package, forbidden) in rules::FORBIDDEN_DEPENDENCIES {
        match dependencies(root, package) {
            Ok(tree) => problems.extend(rules::forbidden_in(package, &tree, forbidden)),
            Err(error) => problems.push(format!("cargo tree -p {package}: {error}")),
        }
    }
    match tracked(root) {
        Ok(files) => {
            for file in files {
                // What is not text is data and has no rules.
                let Ok(text) = fs::read_to_string(root.join(&file)) else { continue };
                problems.extend(rules::broken_in(&file, &text));
            }
        }
        Err(error) => problems.push(format!("git ls-files: {error}")),
    }
    problems
}

fn dependencies(root: &Path, package: &str) -> std::io::Result<String> {
    let args =
        ["tree", "--offline", "--edges", "normal", "--prefix", "none", "--format", "{p}", "-p", package];
    output(Command::new("cargo").args(args).current_dir(root))
}

fn tracked(root: &Path) -> std::io::Result<Vec<String>> {
    let listing = output(Command::new("git").arg("ls-files").current_dir(root))?;
    Ok(listing.lines().map(str::to_owned).collect())
}

fn output(command: &mut Command) -> std::io::Result<String> {
    let output = command.output()?;
    if !output.status.success() {
        return Err(std::io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
