//! Virtual environments for tests that need a Python package: made once, by whoever comes first.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

/// The interpreter of a virtual environment that has these packages (`name==version`).
#[expect(clippy::disallowed_methods, reason = "files of the tests' own")]
pub fn with_packages(name: &str, packages: &[&str]) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python").join(name);
    fs::create_dir_all(&folder).unwrap();
    let lock = File::create(folder.join("lock")).unwrap();
    lock.lock().unwrap();
    let (made, python) = (folder.join("made"), folder.join("venv/bin/python"));
    let wanted = packages.join("\n");
    if fs::read_to_string(&made).is_ok_and(|made| made == wanted) {
        return python;
    }
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(folder.join("venv")));
    run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "--no-input"]).args(packages));
    fs::write(&made, wanted).unwrap();
    python
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
