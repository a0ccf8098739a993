//! The tour of `make demo`, on the real runtime and model: every check of every step holds.

#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test that cannot go on must fail")]

#[path = "shared/host.rs"]
mod host;
#[path = "shared/pages.rs"]
#[expect(dead_code, reason = "who runs what is looked at elsewhere")]
mod pages;
#[path = "shared/shell.rs"]
mod shell;

use std::{os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use host::{root, told};
use pages::{Line, Pages};
use serde_json::Value;
use shell::Shell;

/// Takes the image away again that the demo leaves in the container engine, unless it was there before.
struct Image(Option<String>);

impl Image {
    fn new(described: &Value) -> Self {
        let id = described["config_digest"].as_str().unwrap().to_owned();
        let there = Command::new("docker").args(["images", "--all", "--no-trunc", "--quiet"]).output();
        let there = there.is_ok_and(|there| String::from_utf8_lossy(&there.stdout).contains(&id));
        Self((!there).then_some(id))
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        if let Some(id) = &self.0 {
            let _ = Command::new("docker").args(["rmi", "--force", id]).output();
        }
    }
}

#[test]
fn everything_that_the_demo_checks_holds_on_the_real_runtime() {
    told(&mut Command::new(root().join("scripts/runtime")));
    let mut pages = Pages::of("tour");
    let [make, load] = pages.take("deploy/README.md");
    let image: Value = serde_json::from_str(&typed(root(), &make)).unwrap();
    let _image = Image::new(&image);
    let folder = tempfile::Builder::new().prefix("resultity-tour").tempdir().unwrap();

    let output = Command::new(env!("CARGO_BIN_EXE_resultity-node"))
        .args(["--json", "demo", "--runtimes"])
        .arg(root().join(".tools/runtime"))
        .arg("--models")
        .arg(root().join(".tools/models"))
        .arg("--images")
        .arg(root().join(".tools/images"))
        .arg("--folder")
        .arg(folder.path().join("tour"))
        .output()
        .unwrap();

    let said = String::from_utf8_lossy(&output.stderr);
    let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{said}"));
    let steps = told["steps"].as_array().unwrap();
    let checks: Vec<_> = steps.iter().flat_map(|step| step["checks"].as_array().unwrap()).collect();
    let broken: Vec<_> = checks.iter().filter(|check| check["held"] != true).collect();
    assert!(broken.is_empty(), "{broken:#?}");
    assert_eq!(steps.len(), 10);
    let engine = Path::new("/var/run/docker.sock").exists();
    let contained = steps[8]["checks"].as_array().unwrap().len();
    assert_eq!(contained > 0, engine, "where an engine answers, that step runs");
    assert!(checks.len() >= 30, "{} checks", checks.len());
    assert_eq!((output.status.code(), &told["held"]), (Some(0), &Value::Bool(true)));
    if engine {
        let said = typed(root(), &load);
        assert!(said.contains("Loaded image"), "{said}");
    }
    pages.end();
}

/// Runs a command of a page in a folder, and gives its standard output.
fn typed(folder: &Path, line: &Line) -> String {
    told(Command::new("sh").args(["-c", &line.0]).current_dir(folder))
}

#[test]
fn a_network_of_ones_own_answers_as_the_first_page_says() {
    let folder = tempfile::Builder::new().prefix("resultity-own").tempdir().unwrap();
    // The runtime is another user, where the Agent is root.
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    for name in [".tools", "runtimes", "scripts"] {
        std::os::unix::fs::symlink(root().join(name), folder.path().join(name)).unwrap();
    }
    let mut shell = Shell::new(folder.path());
    // It takes the address of a page, where another devnet may run.
    let devnet = format!("127.0.0.1:{}", shell.port(7411));
    let program = env!("CARGO_BIN_EXE_resultity-node");
    shell.program(
        "resultity-node",
        &format!(
            "case \"$1 $2\" in 'devnet run') set -- \"$@\" --listen {devnet} ;; 'devnet fault') set -- \"$@\" --url http://{devnet} ;; esac\n\
             exec {program} \"$@\""
        ),
    );
    let mut pages = Pages::of("network");
    let [runtime, template, network, init, node, question, fault] = pages.take("README.md");
    for line in [runtime, template, network, init, node] {
        shell.types(&line);
    }
    let answer = shell.types(&question);
    assert!(answer.contains("\"content\":") && answer.contains("Paris"), "{answer}");
    shell.types(&fault);
    pages.end();
    shell.ends();
}
