//! The tour of `make demo`, on the real runtime and model: every check of every step holds.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::{path::Path, process::Command};

use serde_json::Value;

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
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    let made = Command::new(root.join("scripts/runtime")).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let made = Command::new(root.join("scripts/image")).arg("runtime").output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let image: Value = serde_json::from_slice(&made.stdout).unwrap();
    let _image = Image::new(&image);
    let folder = tempfile::Builder::new().prefix("resultity-tour").tempdir().unwrap();

    let output = Command::new(env!("CARGO_BIN_EXE_resultity-node"))
        .args(["--json", "demo", "--runtimes"])
        .arg(root.join(".tools/runtime"))
        .arg("--models")
        .arg(root.join(".tools/models"))
        .arg("--images")
        .arg(root.join(".tools/images"))
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
}
