//! `backup` and `move`: what the operator sees of them.

use std::{process::Stdio, time::Instant};

use node_store::store::Store;
use node_types::models::ModelState;

use crate::{
    home::{CANARY, Home, reading},
    shop::Shop,
};

#[test]
fn a_backup_is_made_read_and_restored_into_another_home() {
    let (home, second) = (Home::filled(), Home::new());
    let pass = home.file("pass", CANARY);
    let (pass, file) = (pass.to_str().unwrap(), home.path().join("node.backup"));
    let file = file.to_str().unwrap();
    let made = home.json(["backup", "create", file, "--with-keys", "--passphrase-file", pass]);
    assert_eq!((&made["with_keys"], &made["purpose"]), (&true.into(), &"backup".into()));
    assert_eq!(made["members"].as_array().unwrap().len(), 5);
    home.run(["backup", "create", file]).failed(1, &[file, "exists already"]);

    // Neither needs a volume.
    let sound = second.json(["backup", "verify", file]);
    assert_eq!((&sound["sound"], &sound["jobs"], &sound["keys_open"]), (&true.into(), &4.into(), &().into()));
    second
        .run(["backup", "verify", file, "--passphrase-file", pass])
        .well()
        .says(&["sound", "opens the keys"]);
    let wrong = home.file("wrong", "wrong");
    let (wrong, named) = (wrong.to_str().unwrap(), format!("cannot open the keys in {file}: "));
    for command in [["backup", "verify"], ["backup", "restore"]] {
        let refused = second.run([&command[..], &[file, "--passphrase-file", wrong]].concat());
        let refused =
            refused.failed(1, &[&named, "give the passphrase that it was made with (--passphrase-file)"]);
        assert!(!refused.err.contains("node.key"), "it is unpacked for a moment alone: {}", refused.err);
    }
    assert!(!second.volume().exists());

    second
        .run(["--network", "mainnet", "backup", "restore", file, "--passphrase-file", pass])
        .failed(1, &["testnet", "mainnet", "--network testnet"]);
    let restored = second.json(["backup", "restore", file, "--passphrase-file", pass]);
    assert_eq!((&restored["fenced"], &restored["jobs"]), (&true.into(), &4.into()));
    let status = |home: &Home| home.json(["status"]);
    assert_eq!(status(&second)["node"], status(&home)["node"]);
    assert_eq!(status(&second)["protection"], "obfuscation_only", "sealed as a new node's");
    second
        .run(["backup", "restore", file, "--passphrase-file", pass])
        .failed(1, &["nothing is restored over a volume", status(&home)["node"].as_str().unwrap()]);

    second.run(["backup", "unfence"]).failed(2, &["answered twice", "--old-node-answered-nothing"]);
    let unfence = ["backup", "unfence", "--old-node-answered-nothing"];
    home.run(unfence).failed(1, &["no fence"]);
    second.run(unfence).well().says(&["The restored jobs go on", "4"]);
    second.run(unfence).failed(1, &["no fence"]);
}

#[test]
fn a_backup_without_keys_says_what_it_needs() {
    let (home, second) = (Home::filled(), Home::new());
    let file = home.path().join("node.backup");
    let file = file.to_str().unwrap();
    home.run(["backup", "create", file]).well().says(&["not in it", "keep the keys too"]);
    second.run(["backup", "restore", file]).failed(1, &["holds no keys", "--keys", "--key-file"]);
    let keys = home.volume().join("keys");
    second.run(["backup", "restore", file, "--keys", keys.to_str().unwrap()]).well().says(&["restored"]);

    let (third, pass, out) = (Home::new(), home.file("pass", CANARY), home.path().join("key.json"));
    let (pass, out) = (pass.to_str().unwrap(), out.to_str().unwrap());
    home.run(["key", "export", "--out", out, "--passphrase-file", pass]).well();
    third.run(["backup", "restore", file, "--key-file", out, "--passphrase-file", pass]).well();
    assert_eq!(third.json(["status"])["node"], home.json(["status"])["node"]);
}

/// "entity not found" was all that was said of it.
#[test]
fn a_key_that_is_gone_is_named_as_a_start_names_it() {
    let (home, second) = (Home::with_node(), Home::new());
    let (pass, file, plain) =
        (home.file("pass", CANARY), home.path().join("node.backup"), home.path().join("plain.backup"));
    let (pass, file, plain) = (pass.to_str().unwrap(), file.to_str().unwrap(), plain.to_str().unwrap());
    home.run(["backup", "create", plain]).well();
    let keys = home.volume().join("keys");
    for name in ["node.key", "volume.key"] {
        let (key, aside) = (keys.join(name), home.path().join("aside"));
        std::fs::rename(&key, &aside).unwrap();
        let named = format!("{} is missing beside ", key.display());
        let cure = "restore it from a backup";
        home.run(["backup", "create", file, "--with-keys", "--passphrase-file", pass])
            .failed(1, &[&named, cure]);
        // Before the passphrase is looked for.
        home.run(["backup", "create", file, "--with-keys", "--passphrase-file", "none"])
            .failed(1, &[&named, cure]);
        second
            .run(["backup", "restore", plain, "--keys", keys.to_str().unwrap()])
            .failed(1, &[&format!("{named}{plain}")]);
        assert!(!std::path::Path::new(file).exists() && !second.volume().exists());
        std::fs::rename(&aside, &key).unwrap();
    }
    let (key, aside) = (keys.join("local.kek"), home.path().join("aside"));
    std::fs::rename(&key, &aside).unwrap();
    home.run(["backup", "create", file, "--with-keys", "--passphrase-file", pass])
        .failed(1, &["there is none", &format!("put {} back", key.display())]);
    std::fs::rename(&aside, &key).unwrap();
    home.run(["backup", "create", file, "--with-keys", "--passphrase-file", pass]).well();
}

/// No model is in a backup. A restored node said that all of its models are active.
#[test]
fn a_restored_node_says_that_its_models_are_not_here() {
    let shop = Shop::stocked();
    let store = shop.open();
    for model in shop.config().models {
        let (files, active) = (node_agent::models::files_of(&model), ModelState::Active);
        store.models().set_state(&model.reference(), files, active, None, reading().wall).wait().unwrap();
    }
    drop(store);
    assert_eq!(shop.home.json(["status"])["models"]["active"], 2);
    let (home, pass) = (Home::new(), shop.home.file("pass", "correct horse"));
    let (pass, file) = (pass.to_str().unwrap(), shop.home.path().join("node.backup"));
    let file = file.to_str().unwrap();
    shop.home.run(["backup", "create", file, "--with-keys", "--passphrase-file", pass]).well();
    home.run(["backup", "restore", file, "--passphrase-file", pass]).well();
    let seen = home.json(["status"]);
    let models = &seen["models"];
    assert_eq!((&models["listed"], &models["active"], &models["missing"]), (&2.into(), &0.into(), &2.into()));
    assert_eq!(models["list"][0]["bytes_here"], 0, "{models}");
    home.run(["status"]).well().says(&["0 of 2 active", "not here any more", "models install"]);
    let total = home.json(["models", "list"])["total"].clone();
    assert_eq!((&total["active"], &total["files"]), (&0.into(), &0.into()), "{total}");
}

#[test]
fn what_is_no_backup_or_no_node_is_said() {
    let home = Home::new();
    let file = home.file("note.txt", "hello");
    let file = file.to_str().unwrap();
    home.run(["backup", "verify", file]).failed(1, &[file, "no backup of resultity-node"]);
    home.run(["backup", "restore", file]).failed(1, &[file, "no backup of resultity-node"]);
    home.run(["backup", "verify", "/nowhere/x"]).failed(1, &["/nowhere/x"]);
    home.run(["backup", "create", "x.backup"]).failed(5, &["init"]);
    home.run(["move", "out", "x.move", "--passphrase-file", file]).failed(5, &["init"]);
    home.run(["backup", "create", "x", "--passphrase-file", file]).failed(2, &["--with-keys"]);
    home.run(["move", "undo"]).failed(2, &["--file-was-not-used"]);
}

#[test]
fn without_a_name_a_backup_gets_one_with_network_and_moment() {
    let home = Home::with_node();
    let mut command = home.command(["backup", "create", "--json"]);
    let output = command.current_dir(home.path()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let made: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let name = made["file"].as_str().unwrap();
    assert!(name.starts_with("resultity-testnet-20") && name.ends_with(".backup"), "{name}");
    assert!(home.path().join(name).exists());
}

#[test]
fn a_node_that_was_moved_out_is_shut_until_the_move_is_undone() {
    let (home, second) = (Home::filled(), Home::new());
    let pass = home.file("pass", CANARY);
    let (pass, file) = (pass.to_str().unwrap(), home.path().join("node.move"));
    let file = file.to_str().unwrap();
    home.run(["move", "undo", "--file-was-not-used"]).failed(1, &["was not moved away"]);
    home.run(["move", "out", file, "--passphrase-file", pass]).well().says(&["moved out", "move in"]);
    for command in
        [&["rotate"] as &[_], &["run", "--network-url", "http://127.0.0.1:9"], &["account", "unlink"]]
    {
        home.run(command).failed(6, &["moved away", file, "move undo --file-was-not-used"]);
    }
    home.run(["status"]).well();
    home.run(["move", "out", "again.move", "--passphrase-file", pass]).failed(6, &["moved away", file]);
    // The same command again has nothing left to do, and asks for no passphrase.
    home.run(["move", "out", file]).well().says(&["moved out", "when this move was begun"]);

    let backup = home.path().join("node.backup");
    let backup = backup.to_str().unwrap();
    home.run(["backup", "create", backup, "--with-keys", "--passphrase-file", pass]).well();
    second
        .run(["move", "in", backup, "--passphrase-file", pass])
        .failed(1, &["is a backup", "backup restore"]);
    let moved = second.json(["move", "in", file, "--passphrase-file", pass]);
    assert_eq!((&moved["fenced"], &moved["jobs"]), (&false.into(), &4.into()));
    second.run(["rotate"]).well();

    let undone = home.json(["move", "undo", "--file-was-not-used"]);
    assert_eq!(undone["file"], file);
    home.run(["rotate"]).well();
}

/// SIGKILL all over a move, half of them in its last tenth, where the volume is shut and the archive gets its name.
#[test]
fn a_move_that_is_killed_at_any_moment_leaves_one_that_lives_and_never_two() {
    let home = Home::filled();
    let (pass, file) = (home.file("pass", CANARY), home.path().join("node.move"));
    let (pass, name) = (pass.to_str().unwrap(), file.to_str().unwrap());
    let out = ["move", "out", name, "--passphrase-file", pass];
    let undo = || {
        home.run(["move", "undo", "--file-was-not-used"]).well();
        std::fs::remove_file(&file).unwrap();
    };
    let begun = Instant::now();
    home.run(out).well();
    let whole = begun.elapsed();
    undo();
    for kill in 0..24_u32 {
        let part = if kill % 2 == 0 { whole * kill / 24 } else { whole * (216 + kill) / 240 };
        let mut moving = home.command(out);
        let mut moving = moving.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(part);
        // It may have ended already.
        let _ = moving.kill();
        moving.wait().unwrap();
        let retired = Store::view_only(&home.options()).unwrap().jobs().retired().unwrap();
        if retired.is_none() {
            assert!(
                !file.exists(),
                "killed after {part:?} of {whole:?}: the volume lives, and an archive of it"
            );
            home.run(["rotate"]).well();
        } else {
            home.run(["rotate"]).failed(6, &["moved away"]);
            home.run(["move", "out", name]).well();
            home.run(["backup", "verify", name, "--passphrase-file", pass]).well();
            undo();
        }
    }
}
