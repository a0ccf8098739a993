//! Releases of the Agent: what the network approves is put in place, nothing else is, and the way back stands.

use std::{
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::Command,
};

use node_store::store::Store;
use node_types::Digest;
use serde_json::{Value, json};

use crate::{
    home::{Home, PROGRAM, Ran, document, network_key, reading},
    private::copy,
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
    let said = |agents: Value| approving(agents).run(["update", "check"]).well();
    assert_eq!(newer["is_approved"], true);
    said(json!([release(version, &own()), release("99.0.0", NEXT)])).says(&["approved, and not the newest"]);
    said(json!([release("99.0.0", NEXT)])).says(&["not approved, and older than the newest that is"]);
}

#[test]
fn an_approved_file_takes_the_programs_place_and_the_old_one_comes_back() {
    let home = approving(json!([release("99.0.0", NEXT)]));
    let (program, next) = installed(&home);
    let link = home.path().join("link");
    std::os::unix::fs::symlink(&program, &link).unwrap();
    home.run(["update", "verify", text(&next)]).well().says(&["99.0.0", "approved"]);
    let piped = |file: &Path| -> Ran {
        let mut command = home.command(["update", "verify", "-"]);
        command.stdin(std::fs::File::open(file).unwrap()).output().unwrap().into()
    };
    piped(&next).well().says(&["99.0.0", "approved"]);
    assert_eq!(piped(&program).code, Some(1));

    home.run(["update", "apply", text(&next), "--to", text(&link)]).well().says(&["99.0.0", "systemctl"]);
    assert_eq!(std::fs::read(&program).unwrap(), NEXT);
    assert_eq!(program.metadata().unwrap().mode() & 0o777, 0o755);
    assert!(link.is_symlink(), "a link stays one");
    let kept = home.path().join("resultity-node.previous");
    assert_eq!(std::fs::read(&kept).unwrap(), b"the old release");
    home.run(["update", "apply", text(&next), "--to", text(&program)]).well();
    assert_eq!(std::fs::read(&kept).unwrap(), b"the old release", "it was in place already");

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
fn a_place_in_which_no_program_stands_is_filled_and_nothing_is_kept_or_said_to_be() {
    let home = approving(json!([release("99.0.0", NEXT)]));
    let (next, program) = (home.file("downloaded", NEXT), home.path().join("resultity-node"));
    // The second time it is there already, and still nothing was replaced.
    for _ in 0..2 {
        let placed = home.json(["update", "apply", text(&next), "--to", text(&program)]);
        assert_eq!((&placed["program"], &placed["kept"]), (&json!(program), &Value::Null), "{placed}");
        assert_eq!(std::fs::read(&program).unwrap(), NEXT);
        assert_eq!(program.metadata().unwrap().mode() & 0o777, 0o755);
    }
    let said = home.run(["update", "apply", text(&next), "--to", text(&program)]).well();
    assert!(!said.out.contains("previous"), "{}", said.out);
    home.run(["update", "undo", "--to", text(&program)]).failed(1, &["resultity-node.previous"]);
    let nowhere = home.path().join("nowhere/resultity-node");
    home.run(["update", "apply", text(&next), "--to", text(&nowhere)]).failed(1, &["nowhere"]);
    let link = home.path().join("link");
    std::os::unix::fs::symlink(home.path().join("gone"), &link).unwrap();
    home.run(["update", "apply", text(&next), "--to", text(&link)]).failed(1, &["link"]);
    assert!(link.is_symlink());
}

/// A new release was put in place and does not start: what `update` says must not lead to a start alone, and the way back works.
#[test]
fn before_the_first_start_on_an_old_volume_the_way_back_is_said_and_can_be_gone() {
    let home = Home::new();
    let old = Path::new(env!("CARGO_MANIFEST_DIR")).join("../node-store/tests/fixtures/1-1-1");
    copy(&old, &home.volume());
    let (program, next) = installed(&home);
    home.file("resultity-node.previous", b"the release before");
    for command in
        [&["update", "check"][..], &["update", "verify", text(&next)], &["update", "apply", text(&next)]]
    {
        let refused = home.run(command).failed(1, &["start the Agent", "`resultity-node update undo`"]);
        assert!(!refused.err.contains("Agent once"), "{}", refused.err);
    }
    home.run(["update", "undo", "--to", text(&program)]).well().says(&["the one before"]);
    assert_eq!(std::fs::read(&program).unwrap(), b"the release before");
}

/// An update that was cut off had kept the program and not yet replaced it: both names were one file, and renaming one to the
/// other does nothing.
#[test]
fn what_an_interrupted_update_left_is_cleared_and_the_way_back_stands() {
    let home = approving(json!([release("99.0.0", NEXT)]));
    let (program, next) = installed(&home);
    let beside = |what: &str| home.path().join(format!("resultity-node.{what}"));
    std::fs::hard_link(&program, beside("previous")).unwrap();
    home.file("resultity-node.new", b"half");
    home.run(["update", "apply", text(&next), "--to", text(&program)]).well();
    assert_eq!(std::fs::read(&program).unwrap(), NEXT);
    assert_eq!(std::fs::read(beside("previous")).unwrap(), b"the old release");
    for half in ["new", "keeping"] {
        assert!(!beside(half).exists(), "{half}");
    }
}

#[test]
fn a_program_can_be_run_by_all_whatever_the_umask_of_whoever_placed_it() {
    let home = approving(json!([release("99.0.0", NEXT)]));
    let (program, next) = installed(&home);
    let line = "umask 077 && exec \"$0\" update apply \"$1\" --to \"$2\"";
    let mut command = Command::new("sh");
    command.args(["-c", line, PROGRAM, text(&next), text(&program)]).env("RESULTITY_HOME", home.path());
    let ran: Ran = command.output().unwrap().into();
    ran.well();
    assert_eq!(program.metadata().unwrap().mode() & 0o777, 0o755);
}

/// Every file and folder of a volume.
fn everything(folder: &Path) -> Vec<PathBuf> {
    let inner = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut all: Vec<PathBuf> =
        inner.flat_map(|path| if path.is_dir() { everything(&path) } else { vec![path] }).collect();
    all.push(folder.to_owned());
    all
}

/// The program is root's and the volume the node's own user's: only root can place the one, and must leave nothing of its own in
/// the other.
#[test]
fn root_places_the_program_of_another_users_node() {
    const OWNER: u32 = 12_345;
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let home = approving(json!([release("99.0.0", NEXT)]));
    let (program, next) = installed(&home);
    std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    for path in everything(&home.volume()) {
        chown(path, Some(OWNER), Some(OWNER)).unwrap();
    }
    home.run(["update", "verify", text(&next)]).well().says(&["99.0.0"]);
    home.run(["update", "apply", text(&next), "--to", text(&program)]).well();
    home.run(["update", "undo", "--to", text(&program)]).well();
    for path in everything(&home.volume()) {
        assert_eq!(path.metadata().unwrap().uid(), OWNER, "{}", path.display());
    }
    assert_eq!(program.metadata().unwrap().uid(), 0);
    // What is not made for it still refuses, and does not tell root to take the files over.
    let refused = home.run(["jobs", "list"]).failed(1, &["belongs to user 12345"]);
    assert!(!refused.err.contains("chown"), "{}", refused.err);
}

#[test]
fn what_a_snapshot_out_of_force_approves_is_said_to_be_old() {
    let (home, reading) = (Home::new(), reading());
    let store = Store::create(&home.options(), None, &reading).unwrap();
    store.snapshots().pin(trusted(&keyset(1, 1, &[&network_key()]))).unwrap();
    let then = reading.wall.ms() - 40 * 24 * crate::trust::HOUR_MS;
    let then = node_types::Timestamp::from_ms(then);
    let document = with(document(1, then), "/updates/agents", json!([release("99.0.0", NEXT)]));
    store.apply_envelope(&signed_config(&document, &[&network_key()]), then).unwrap();
    drop(store);
    let next = home.file("downloaded", NEXT);
    let judged = home.run(["update", "verify", text(&next)]);
    assert_eq!(judged.code, Some(0), "{judged:?}");
    assert!(judged.err.contains("out of force"), "{judged:?}");
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
