//! The stand-in for a runtime in a container, as a program.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use node_types::Digest;

/// The stand-in as a static program, compiled by whoever comes first.
#[expect(clippy::disallowed_methods, reason = "a file of the tests' own")]
pub fn stand_in() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("stand-in");
    std::fs::create_dir_all(&folder).unwrap();
    let lock = std::fs::File::create(folder.join("lock")).unwrap();
    lock.lock().unwrap();
    let source = include_bytes!("stand_in.rs");
    let program = folder.join(Digest::of(source).hex());
    if !program.exists() {
        let (text, made) = (folder.join("stand_in.rs"), folder.join("made"));
        std::fs::write(&text, source).unwrap();
        let compiler = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let compiled = Command::new(compiler)
            .args([
                "--edition",
                "2024",
                "-O",
                "-C",
                "target-feature=+crt-static",
                "-C",
                "strip=symbols",
                "-o",
            ])
            .args([&made, &text])
            .output()
            .unwrap();
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        std::fs::rename(made, &program).unwrap();
    }
    program
}
