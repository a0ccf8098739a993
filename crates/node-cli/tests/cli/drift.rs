//! `drift`: what was changed is found, named and remembered; looking changes nothing.

use node_types::{
    Digest,
    inventory::{ArtifactId, ArtifactKind, Measured},
};
use serde_json::Value;

use crate::{
    home::{Home, Ran, reading},
    rot,
    shop::{Shop, is},
};

/// The second piece begins here.
const PIECE: u64 = 64 << 20;

fn artifact<'a>(checked: &'a Value, name: &str) -> &'a Value {
    let all = checked["artifacts"].as_array().unwrap();
    all.iter().find(|artifact| artifact["name"] == name).unwrap_or_else(|| panic!("no {name}: {checked}"))
}

/// It found drift, and said so with code 3 and on its standard output alone.
#[track_caller]
fn drifted(ran: Ran) -> Ran {
    assert_eq!(ran.code, Some(3), "{ran:?}");
    ran
}

#[test]
fn what_was_not_touched_is_known_by_its_seal_and_read_only_when_that_is_asked_for() {
    let shop = Shop::stocked();
    let checked = shop.home.json(["drift", "check"]);
    assert_eq!((&checked["drifted"], &checked["deep"]), (&0.into(), &false.into()));
    let listed = shop.home.json(["models", "list"]);
    for (model, file) in [
        ("m@1/weights.bin", &listed["models"][0]["files"][0]),
        ("n@1/words.txt", &listed["models"][1]["files"][0]),
    ] {
        let found = artifact(&checked, model);
        assert_eq!(found["state"], "ok", "{found}");
        // A file system that is not trusted keeps no seals: those files are read with --deep alone.
        let known = if file["sealed"] == true { "sealed" } else { "noted" };
        assert_eq!(found["known"], known, "{found}");
    }
    let deep = shop.home.json(["drift", "check", "--deep"]);
    for name in ["m@1/weights.bin", "m@1/tokenizer.json", "n@1/words.txt"] {
        let found = artifact(&deep, name);
        assert_eq!((&found["state"], &found["known"]), (&"ok".into(), &"read".into()), "{found}");
    }
    let ran = shop.home.run(["drift", "check", "--deep"]);
    assert_eq!(ran.code, Some(0));
    assert!(ran.err.lines().any(|line| line == "m@1/weights.bin: 64.0 MiB read"), "{}", ran.err);
    ran.says(&["ok", "model_file", "m@1/weights.bin", "read now", "none drifted"]);
}

#[test]
fn a_byte_that_was_changed_is_found_named_repaired_and_remembered() {
    let shop = Shop::stocked();
    shop.flip(shop.big, PIECE + 7);
    let checked = drifted(shop.home.run(["drift", "check", "--json"]));
    assert_eq!(checked.err, "");
    let checked = checked.json();
    assert_eq!(checked["drifted"], 1);
    let found = artifact(&checked, "m@1/weights.bin");
    assert_eq!(
        (&found["state"], &found["drift"], &found["known"]),
        (&"drifted".into(), &true.into(), &"read".into())
    );
    assert_eq!(found["damaged_pieces"], serde_json::json!([1]));
    assert_ne!(found["measured"], found["recorded"]);
    assert_eq!(artifact(&checked, "n@1/words.txt")["state"], "ok");
    let said = drifted(shop.home.run(["drift", "check"]));
    assert!(!said.out.contains('\u{1b}') && !said.err.contains('\u{1b}'));
    said.says(&[
        "drifted    model_file",
        "m@1/weights.bin",
        "piece 1, 64 MiB from 64.0 MiB on",
        "1 drifted",
        "models install",
    ]);
    // Looking changed nothing.
    let history = ["drift", "history", "--artifact", "m@1/weights.bin"];
    let became = |history: &Value| -> Vec<String> {
        let changes = history["changes"].as_array().unwrap();
        changes.iter().map(|change| change["became"].as_str().unwrap().to_owned()).collect()
    };
    let before = became(&shop.home.json(history));
    assert_eq!(before.last().unwrap(), "ok");

    shop.install(&["m", "--json"]).well();
    assert!(is(&shop.path(shop.big), shop.big));
    shop.home.run(["drift", "check", "--json"]).well();
    let after = became(&shop.home.json(history));
    assert_eq!(after, [before, vec!["drifted".to_owned(), "ok".to_owned()]].concat());
}

/// In the file of the database, beneath everything that reads it.
#[test]
fn a_byte_of_the_stored_snapshot_that_was_changed_is_drift_and_it_is_not_used() {
    let shop = Shop::stocked();
    let found = |checked: &Value| artifact(checked, "node_config").clone();
    let before = shop.home.json(["drift", "check"]);
    let whole = found(&before);
    assert_eq!((&whole["state"], &whole["known"]), (&"ok".into(), &"read".into()), "{whole}");
    rot::flip_stored_snapshot(&shop.home.volume());
    let checked = drifted(shop.home.run(["drift", "check", "--json"])).json();
    let changed = found(&checked);
    assert_eq!((&changed["state"], &changed["drift"]), (&"drifted".into(), &true.into()), "{changed}");
    assert_eq!(changed["expected"], whole["measured"]);
    assert_ne!(changed["measured"], whole["measured"]);
    drifted(shop.home.run(["drift", "check"])).says(&["configuration", "node_config", "resultity-node run"]);
    // Opening it notes that, too, and nothing that does not verify is in force.
    drop(shop.open());
    let history = shop.home.json(["drift", "history", "--kind", "configuration"]);
    let changes = history["changes"].as_array().unwrap();
    assert_eq!(changes.last().unwrap()["became"], "drifted", "{history}");
    assert!(shop.open().snapshots().current().is_none());
}

#[test]
fn a_file_that_is_gone_is_drift_and_one_that_never_came_is_not() {
    let shop = Shop::new();
    assert_eq!(shop.home.json(["drift", "check"])["drifted"], 0);
    shop.install(&["--json"]).well();
    std::fs::remove_file(shop.path(Shop::shared())).unwrap();
    let checked = drifted(shop.home.run(["drift", "check", "--json"])).json();
    assert_eq!(checked["drifted"], 2, "two models share it");
    let found = artifact(&checked, "n@1/words.txt");
    assert_eq!((&found["state"], &found["measured"]), (&"missing".into(), &"absent".into()));
}

#[test]
fn what_stands_in_the_place_of_a_file_and_is_none_is_drift_and_nobody_waits_for_it() {
    let shop = Shop::stocked();
    let place = shop.path(shop.big);
    // A link to the very file that should be here, a pipe that nobody writes to, a folder.
    let right = shop.folder.join(shop.big.hex());
    let link: &dyn Fn() = &|| std::os::unix::fs::symlink(&right, &place).unwrap();
    let pipe: &dyn Fn() = &|| {
        let fifo = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &place, fifo, 0o444.into(), 0).unwrap();
    };
    let folder: &dyn Fn() = &|| std::fs::create_dir(&place).unwrap();
    std::fs::remove_file(&place).unwrap();
    for (what, put, take) in [
        ("a link", link, std::fs::remove_file as fn(_) -> _),
        ("a pipe", pipe, std::fs::remove_file),
        ("a folder", folder, std::fs::remove_dir),
    ] {
        put();
        for deep in [&[][..], &["--deep"]] {
            let ran = shop.home.run([&["drift", "check", "--json"], deep].concat());
            assert_eq!(ran.code, Some(3), "{what}: {ran:?}");
            let checked = ran.json();
            let found = artifact(&checked, "m@1/weights.bin");
            assert_eq!((&found["drift"], &found["measured"]), (&true.into(), &"absent".into()), "{what}");
            let because = found["because"].as_str().unwrap();
            assert!(because.contains("no regular file"), "{what}: {because}");
        }
        take(&place).unwrap();
    }
}

#[test]
fn a_file_that_nobody_has_verified_is_said_to_be_one() {
    let shop = Shop::new();
    let place = shop.path(shop.big);
    std::fs::create_dir_all(place.parent().unwrap()).unwrap();
    std::fs::copy(shop.folder.join(shop.big.hex()), &place).unwrap();
    let checked = shop.home.json(["drift", "check"]);
    assert_eq!(checked["drifted"], 0);
    let found = artifact(&checked, "m@1/weights.bin");
    assert_eq!(found["known"], "noted");
    assert!(found["because"].as_str().unwrap().contains("nobody has verified it"), "{found}");
}

/// Notes what an Agent that had `runtime.folder` found where it led, after it had found there what the snapshot approves.
fn noted_of_the_runtime(shop: &Shop, found: Measured) {
    let (store, now) = (shop.open(), reading().wall);
    let id = || ArtifactId { kind: ArtifactKind::RuntimeBinary, name: "stand-in".to_owned() };
    store.inventory().record(id(), Digest::of(b"serve"), now).wait().unwrap();
    store.inventory().measure(id(), found, now).wait().unwrap();
}

/// What is to be done, where the runtime could not be looked at.
const SET: &str = "set runtime.folder in node.toml, or give --runtime-folder";

/// Without the setting the program was not looked at, and the answer was that what is here is what was installed, though with
/// --runtime-folder it had drifted.
#[test]
fn a_runtime_that_was_not_looked_at_is_not_said_to_be_what_was_installed() {
    let shop = Shop::stocked();
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("serve");
    std::fs::write(&program, "serve").unwrap();
    noted_of_the_runtime(&shop, Measured::Present(Digest::of(b"serve")));
    for deep in [&[][..], &["--deep"]] {
        let checked = shop.home.json([&["drift", "check"], deep].concat());
        assert_eq!((&checked["drifted"], &checked["not_looked_at"]), (&0.into(), &1.into()), "{checked}");
        let found = artifact(&checked, "stand-in");
        assert_eq!((&found["state"], &found["looked_at"]), (&"ok".into(), &false.into()), "{found}");
        assert_eq!(found["unset"], "runtime.folder");
        assert_eq!(artifact(&checked, "m@1/weights.bin")["looked_at"], true);
        assert!(checked["next"].as_str().unwrap().starts_with(SET), "{checked}");
        let ran = shop.home.run([&["drift", "check"], deep].concat());
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert!(!ran.out.contains("what was installed"), "{ran:?}");
        ran.says(&["not read now: runtime.folder is not set here", "none drifted, 1 not looked at.", SET]);
    }

    let looks = ["drift", "check", "--runtime-folder", folder.path().to_str().unwrap()];
    let whole = shop.home.json(looks);
    assert_eq!((&whole["drifted"], &whole["not_looked_at"]), (&0.into(), &0.into()), "{whole}");
    let found = artifact(&whole, "stand-in");
    assert_eq!((&found["known"], &found["looked_at"]), (&"read".into(), &true.into()), "{found}");
    assert_eq!(whole["next"], "nothing: what is here is what was installed");
    std::fs::write(&program, "another").unwrap();
    drifted(shop.home.run(looks)).says(&["drifted    runtime_binary", "1 drifted.", "install "]);
}

/// An Agent that was started once with a folder in which nothing stands had noted the runtime as missing. A check without the
/// setting, which looked nowhere, called that drift and told to install it.
#[test]
fn a_runtime_that_no_setting_leads_to_is_not_gone() {
    let shop = Shop::stocked();
    let folder = tempfile::tempdir().unwrap();
    noted_of_the_runtime(&shop, Measured::Absent);
    let checked = shop.home.json(["drift", "check"]);
    assert_eq!(
        ["drifted", "missing", "not_looked_at"].map(|number| checked[number].as_u64()),
        [Some(0), Some(0), Some(1)],
        "{checked}"
    );
    let found = artifact(&checked, "stand-in");
    assert_eq!((&found["state"], &found["drift"]), (&"missing".into(), &false.into()), "{found}");
    let next = checked["next"].as_str().unwrap();
    assert!(next.starts_with(SET) && !next.contains("install"), "{next}");

    let looks = ["drift", "check", "--runtime-folder", folder.path().to_str().unwrap()];
    drifted(shop.home.run(looks)).says(&["missing    runtime_binary", "1 drifted.", "install "]);
    // A program that the Agent found changed is drift, also where it is not looked at now.
    noted_of_the_runtime(&shop, Measured::Present(Digest::of(b"another")));
    drifted(shop.home.run(["drift", "check"])).says(&["1 drifted, 1 not looked at.", SET]);
}

#[test]
fn the_history_is_filtered_and_its_newest_are_last() {
    let shop = Shop::stocked();
    let all = shop.home.json(["drift", "history"]);
    let changes = all["changes"].as_array().unwrap();
    assert!(changes.windows(2).all(|pair| pair[0]["at"].as_str() <= pair[1]["at"].as_str()), "{all}");
    assert_eq!(all["more"], false);
    let files = shop.home.json(["drift", "history", "--kind", "model_file"]);
    let files = files["changes"].as_array().unwrap();
    assert!(!files.is_empty() && files.len() < changes.len());
    assert!(files.iter().all(|change| change["kind"] == "model_file"));
    let two = shop.home.json(["drift", "history", "--limit", "2"]);
    assert_eq!(
        (two["changes"].as_array().unwrap().as_slice(), &two["more"]),
        (&changes[changes.len() - 2..], &true.into())
    );
    let text = shop.home.run(["drift", "history", "--limit", "2"]).well();
    text.says(&["--limit shows them", " ago)", " -> ", "ok"]);
    shop.home.run(["drift", "history", "--artifact", "none"]).well().says(&["No change is known."]);
    shop.home.run(["drift", "history", "--kind", "nonsense"]).failed(2, &["model_file"]);
    Home::with_node().run(["drift", "check"]).well().says(&["no artifacts yet"]);
}

#[test]
fn status_names_what_has_drifted_and_what_to_do() {
    let shop = Shop::stocked();
    assert_eq!(shop.home.json(["status"])["drifted"], serde_json::json!([]));
    shop.flip(shop.big, 3);
    // Nothing can repair it: so that the drift stays as it was noted.
    std::fs::remove_file(shop.folder.join(shop.big.hex())).unwrap();
    let store = shop.open();
    let id = ArtifactId { kind: ArtifactKind::ModelFile, name: "m@1/weights.bin".to_owned() };
    let found = Measured::Present(Digest::of(b"something else"));
    store.inventory().measure(id, found, reading().wall).wait().unwrap();
    drop(store);
    let seen = shop.home.json(["status"]);
    assert_eq!(seen["drifted"], serde_json::json!(["model_file m@1/weights.bin"]));
    assert!(seen["next"].to_string().contains("drift check"), "{seen}");
    shop.home.run(["status"]).well().says(&["drifted", "model_file m@1/weights.bin", "1 artifact drifted"]);
}
