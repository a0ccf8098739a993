//! The tour of `make demo`, on the real runtime and model: every check of every step holds.

use std::{path::Path, process::Command};

use serde_json::Value;

#[test]
fn everything_that_the_demo_checks_holds_on_the_real_runtime() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    let made = Command::new(root.join("scripts/runtime")).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let folder = tempfile::Builder::new().prefix("resultity-tour").tempdir().unwrap();

    let output = Command::new(env!("CARGO_BIN_EXE_resultity-node"))
        .args(["--json", "demo", "--runtimes"])
        .arg(root.join(".tools/runtime"))
        .arg("--models")
        .arg(root.join(".tools/models"))
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
    assert_eq!(steps.len(), 9);
    assert!(checks.len() >= 25, "{} checks", checks.len());
    assert_eq!((output.status.code(), &told["held"]), (Some(0), &Value::Bool(true)));
}
