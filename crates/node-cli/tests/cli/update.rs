//! Releases of the Agent: what the network approves is put in place, nothing else is, and the way back stands.

use std::{
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use node_store::store::Store;
use node_types::Digest;
use serde_json::{Value, json};

use crate::{
    home::{Home, PROGRAM, document, network_key, reading},
    trust::{keyset, signed_config, trusted, with},
};

/// The next release, as far as anybody here can tell: it is never started.
const NEXT: &[u8] = b"\x7fELF the next release";

/// A home whose snapshot approves these releases.
fn approving(agents: Value) -> Home {
    let (home, reading) = (Home::new(), reading());
    let store = Store::create(&home.options(), None, &reading).unwrap();
    store.snapshots().pin(trusted(&keyset(1, 1, &[&network_key()]))).unwrap();
    let document = with(document(1, reading.wall), "/updates/agents", agents);
    store.apply_envelope(&signed_config(&document, &[&network_key()]), reading.wall).unwrap();
    home
}

fn release(version: &str, bytes: &[u8]) -> Value {
    json!({ "version": version, "digest": Digest::of(bytes) })
}

fn own() -> Vec<u8> {
    std::fs::read(PROGRAM).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A program that is installed, and the next one beside it.
fn installed(home: &Home) -> (PathBuf, PathBuf) {
    let program = home.file("resultity-node", b"the old release");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    (program, home.file("downloaded", NEXT))
}

#[test]
fn check_says_whether_this_release_is_approved_and_which_is_newer() {
    let advice = |agents: Value| approving(agents).json(["update", "check"]);
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(advice(json!([]))["advice"], "silent");
    assert_eq!(advice(json!([release(version, &own())]))["advice"], "current");
    assert_eq!(advice(json!([release(version, b"other bytes")]))["advice"], "withdrawn");
    let newer = advice(json!([release(version, &own()), release("99.0.0", NEXT)]));
    assert_eq!(newer["advice"], "newer");
    assert_eq!(newer["approved"][0]["version"], "99.0.0");
    assert!(newer["next"].as_str().unwrap().contains("update apply"), "{newer}");
}

#[test]
fn an_approved_file_takes_the_programs_place_and_the_old_one_comes_back() {
    let home = approving(json!([release("99.0.0", NEXT)]));
    let (program, next) = installed(&home);
    let link = home.path().join("link");
    std::os::unix::fs::symlink(&program, &link).unwrap();
    home.run(["update", "verify", text(&next)]).well().says(&["99.0.0", "approved"]);

    home.run(["update", "apply", text(&next), "--to", text(&link)]).well().says(&["99.0.0", "systemctl"]);
    assert_eq!(std::fs::read(&program).unwrap(), NEXT);
    assert_eq!(program.metadata().unwrap().mode() & 0o777, 0o755);
    assert!(link.is_symlink(), "a link stays one");
    let kept = home.path().join("resultity-node.previous");
    assert_eq!(std::fs::read(&kept).unwrap(), b"the old release");

    home.run(["update", "undo", "--to", text(&program)]).well();
    assert_eq!(std::fs::read(&program).unwrap(), b"the old release");
    assert_eq!(std::fs::read(&kept).unwrap(), NEXT, "and forward again");
    home.run(["update", "undo", "--to", text(&program)]).well();
    assert_eq!(std::fs::read(&program).unwrap(), NEXT);
    for half in ["resultity-node.new", "resultity-node.keeping"] {
        assert!(!home.path().join(half).exists(), "{half}");
    }
}

#[test]
fn what_is_not_approved_stays_out_and_the_program_stays_as_it_is() {
    let elsewhere = json!({
        "version": "99.0.0", "platform": "riscv64gc-unknown-linux-gnu", "digest": Digest::of(b"for others"),
    });
    let home = approving(json!([release("99.0.0", NEXT), elsewhere]));
    let (program, _) = installed(&home);
    for (name, bytes, why) in [
        ("changed", [NEXT, b"!"].concat(), "does not approve it"),
        ("foreign", b"for others".to_vec(), "riscv64gc"),
    ] {
        let file = home.file(name, bytes);
        let judged = home.run(["update", "verify", text(&file)]).says(&[why]);
        assert_eq!(judged.code, Some(1), "{judged:?}");
        home.run(["update", "apply", text(&file), "--to", text(&program)]).failed(1, &[why, name]);
        assert_eq!(std::fs::read(&program).unwrap(), b"the old release");
        assert!(!home.path().join("resultity-node.previous").exists());
    }
    home.run(["update", "undo", "--to", text(&program)]).failed(1, &["resultity-node.previous"]);
}
