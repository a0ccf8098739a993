//! A stand-in for a runtime that the Agent starts as a program: it prints what it is asked, and dies where it is asked to.

use std::{os::unix::fs::PermissionsExt, path::Path, process::Command};

use node_types::Digest;
use serde_json::{Value, json};

use crate::stage::{external, with};

/// A template and settings for the chatty stand-in, started by the Agent from `folder`.
pub fn chatty(folder: &Path) -> (Value, String) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    assert!(Command::new(root.join("scripts/runtime")).status().unwrap().success());
    let program = include_bytes!("chatty.py");
    std::fs::write(folder.join("chatty.py"), program).unwrap();
    for (path, mode) in [(folder.to_owned(), 0o755), (folder.join("chatty.py"), 0o755)] {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }
    std::os::unix::fs::symlink(root.join(".tools/runtime/venv"), folder.join("venv")).unwrap();
    let models = folder.join("models");
    std::fs::create_dir(&models).unwrap();
    std::fs::write(models.join(Digest::of(b"m").hex()), "m").unwrap();
    let interpreter = std::fs::read_to_string(root.join(".tools/runtime/interpreter")).unwrap();
    let readable = json!([root.join(".tools/runtime"), interpreter.trim()]);
    let runtime = json!({
        "kind": "process", "engine": "stand-in", "command": "chatty.py",
        "digest": Digest::of(program), "args": ["{port}"],
    });
    let settings = format!(
        "[runtime]\nfolder = {}\nreadable = {readable}\n[models]\nfolders = [{}]",
        json!(folder),
        json!(models)
    );
    (with(external(), "/runtime", runtime), settings)
}
