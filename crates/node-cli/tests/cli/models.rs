//! `models`: what is listed, fetched, removed and pruned, without an Agent and beside one.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    process::Stdio,
    thread,
};

use node_types::{Digest, models::ModelState};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{
    home::{Home, Ran, reading},
    shop::{SHARED, Shop, bring, is},
    terminal::{terminal, watch},
    tls::{Authority, Source},
};

fn model<'a>(listed: &'a Value, name: &str) -> &'a Value {
    let models = listed["models"].as_array().unwrap();
    models.iter().find(|model| model["model"] == name).unwrap_or_else(|| panic!("no {name}: {listed}"))
}

#[test]
fn what_is_listed_and_not_here_is_pending_and_then_installed() {
    let shop = Shop::new();
    let before = shop.home.json(["models", "list"]);
    assert_eq!(before["total"]["models"], 2);
    for name in ["m@1", "n@1"] {
        let model = model(&before, name);
        assert_eq!((&model["state"], &model["files_here"]), (&"pending".into(), &0.into()), "{model}");
    }
    assert!(before["next"].as_str().unwrap().contains("models install"), "{before}");
    shop.home.run(["models", "list"]).well().says(&[
        "m@1",
        "pending",
        "0 of 2 (0%)",
        "64.0 MiB",
        "as the Agent left them; `resultity-node drift check` looks now",
    ]);

    let ran = shop.install(&[]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    for line in ["m@1/weights.bin: 64.0 MiB fetched", "m@1/weights.bin: 64.0 MiB hashed"] {
        assert!(ran.err.lines().any(|said| said == line), "{line:?} is not in {}", ran.err);
    }
    assert!(!ran.err.contains('\u{1b}') && !ran.err.contains('\r'), "{:?}", ran.err);
    let ran = ran.says(&["m@1 is installed: 2 files", "n@1 is installed: 1 file", "resultity-node run"]);
    assert!(!ran.out.contains('\u{1b}'), "{:?}", ran.out);

    let after = shop.home.json(["models", "list"]);
    let m = model(&after, "m@1");
    assert_eq!(
        (&m["state"], &m["files_here"], &m["bytes"]),
        (&"inactive".into(), &2.into(), &m["bytes_here"])
    );
    assert!(m["since"].is_string());
    // A file that two models share is kept once.
    assert_eq!(after["total"]["files"], 2);
    for sha256 in [shop.big, Shop::shared()] {
        let path = shop.path(sha256);
        assert!(is(&path, sha256));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o444);
    }
    let text = shop.home.run(["models", "list"]).well().says(&["2 of 2", "inactive", " ago", "2, 0 active"]);
    assert!(text.out.lines().last().unwrap().starts_with("next "), "{}", text.out);
}

#[test]
fn a_model_comes_over_tls_in_parts_and_only_from_whom_the_system_trusts() {
    let home = Home::new();
    let (ours, other) = (Authority::new(&home, "ours"), Authority::new(&home, "other"));
    let source = Source::start(&ours, Shop::files());
    let shop = Shop::in_home(home, &source.url);
    let install = |roots: &Authority| -> Ran {
        let mut command = shop.home.command(["models", "install", "--json"]);
        command.env("SSL_CERT_FILE", &roots.path).output().unwrap().into()
    };
    // Whoever is not known is told nothing, and is named.
    let refused = install(&other);
    assert!(refused.code.is_some_and(|code| code != 0), "{refused:?}");
    let refused = refused.says(&[&source.url, "certificate is not trusted", "UnknownIssuer"]);
    assert_eq!(refused.json()["models"][0]["installed"], false);
    assert!(source.asked().is_empty() && !shop.path(shop.big).exists());

    let installed = install(&ours);
    assert_eq!(installed.code, Some(0), "{installed:?}");
    for sha256 in [shop.big, Shop::shared()] {
        assert!(is(&shop.path(sha256), sha256));
    }
    let mut parts: Vec<_> = source.asked().into_iter().filter(|(path, _)| path == "weights.bin").collect();
    parts.sort_by_key(|(_, part)| part.as_ref().map(|part| part.start));
    let piece = usize::try_from(node_types::config::PIECE_BYTES).unwrap();
    let parts: Vec<_> = parts.into_iter().map(|(_, part)| part).collect();
    assert_eq!(parts, [Some(0..piece), Some(piece..piece + 1000)], "each piece by a range of its own");
}

#[test]
fn a_program_gets_json_and_nothing_else() {
    let shop = Shop::new();
    let done = shop.install(&["--json"]).well().json();
    assert_eq!((&done["agent"], &done["models"][1]["installed"]), (&Value::Null, &true.into()));
    for command in [&["models", "list"] as &[_], &["models", "prune"], &["models", "prune", "--dry-run"]] {
        shop.home.json(command.iter().copied());
    }
}

#[test]
fn one_that_is_named_is_installed_and_the_others_are_not() {
    let shop = Shop::new();
    shop.install(&["n", "--json"]).well();
    let listed = shop.home.json(["models", "list"]);
    assert_eq!(model(&listed, "n@1")["state"], "inactive");
    assert_eq!(
        (&model(&listed, "m@1")["state"], &model(&listed, "m@1")["files_here"]),
        (&"pending".into(), &1.into())
    );
    shop.install(&["o"]).failed(5, &["\"o\"", "models list"]);
    shop.install(&["n@2"]).failed(5, &["\"n@2\""]);
}

#[test]
fn one_that_cannot_be_had_says_why_and_does_not_hinder_the_others() {
    // A folder that the operator does not allow.
    let shop = Shop::with_source("file:///srv/models-of-nobody");
    std::fs::remove_file(shop.folder.join(shop.big.hex())).unwrap();
    let ran = shop.install(&["--json"]);
    assert_eq!((ran.code, ran.err.as_str()), (Some(1), ""), "{ran:?}");
    let done = ran.json();
    assert_eq!(
        (&done["models"][0]["model"], &done["models"][0]["installed"]),
        (&"m@1".into(), &false.into())
    );
    let reason = done["models"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("weights.bin") && reason.contains("models-of-nobody"), "{reason}");
    assert_eq!(done["models"][1]["installed"], true);
    let ran = shop.install(&["m"]);
    assert_eq!(ran.code, Some(1));
    ran.says(&["m@1 is not installed", "weights.bin", "what was fetched stays"]);
    let listed = shop.home.json(["models", "list"]);
    assert!(model(&listed, "m@1")["reason"].as_str().unwrap().contains("weights.bin"), "{listed}");
    shop.home.run(["models", "list"]).well().says(&["m@1: "]);
}

#[test]
fn nothing_is_installed_without_a_snapshot() {
    Home::with_node().run(["models", "install"]).failed(5, &["snapshot", "resultity-node status"]);
    Home::with_node().run(["models", "list"]).well().says(&["There are no models.", "resultity-node run"]);
}

#[test]
fn ctrl_c_breaks_off_and_says_that_what_was_fetched_stays() {
    // It takes a connection and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let shop = Shop::with_source(&format!("http://{}/", silent.local_addr().unwrap()));
    std::fs::remove_file(shop.folder.join(shop.big.hex())).unwrap();
    let folder = shop.folder.to_str().unwrap();
    let mut command = shop.home.command(["models", "install", "m", "--models-folders", folder]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let _connection = silent.accept().unwrap();
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let ran: Ran = child.wait_with_output().unwrap().into();
    assert_eq!((ran.code, ran.out.as_str()), (Some(130), ""), "{ran:?}");
    assert!(ran.err.contains("what was fetched stays"), "{}", ran.err);
    // The store was closed in good order: nobody has it.
    let listed = shop.home.json(["models", "list"]);
    assert_eq!(
        (&listed["agent_running"], &listed["partials"][0]["of"][0]),
        (&false.into(), &"m@1/weights.bin".into())
    );
}

#[test]
fn a_terminal_shows_a_bar_and_the_answer_stays_clean() {
    let shop = Shop::new();
    let (person, program) = terminal();
    let seen = watch(person);
    let folder = shop.folder.to_str().unwrap();
    let mut command = shop.home.command(["models", "install", "--models-folders", folder]);
    let ran: Ran = command.stderr(program).env("TERM", "xterm").output().unwrap().into();
    drop(command);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(!ran.out.contains('\u{1b}'), "{:?}", ran.out);
    let seen = seen.join().unwrap();
    for part in ["m@1/weights.bin", "[=", "MiB of 64.00 MiB", "/s", "left"] {
        assert!(seen.contains(part), "{part:?} is not in {seen:?}");
    }
    // A bar is drawn over itself, and is gone at the end.
    assert!(seen.contains("\r") && seen.trim_end().ends_with("\u{1b}[2K"), "{seen:?}");

    let (person, program) = terminal();
    let seen = watch(person);
    let mut command = shop.home.command(["drift", "check", "--deep"]);
    let ran: Ran = command.stderr(program).env("TERM", "dumb").output().unwrap().into();
    drop(command);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let seen = seen.join().unwrap();
    assert!(seen.contains("m@1/weights.bin: 64.0 MiB read") && !seen.contains('\u{1b}'), "{seen:?}");
}

#[test]
fn one_that_the_snapshot_lists_is_removed_by_force_alone() {
    let shop = Shop::stocked();
    shop.home.run(["models", "remove", "m"]).failed(1, &["m@1", "lists", "fetch it again", "--force"]);
    shop.home.run(["models", "remove", "x"]).failed(5, &["\"x\""]);
    assert!(shop.path(shop.big).exists());
    // Nobody is there to be asked.
    shop.home
        .run(["models", "remove", "m", "--force"])
        .failed(1, &["nothing was done: there is no terminal to ask at; with --yes it is done unasked"]);
    assert!(shop.path(shop.big).exists());
    let removed = shop.home.json(["models", "remove", "m", "--force", "--yes"]);
    assert_eq!((&removed["model"], &removed["files"]), (&"m@1".into(), &1.into()), "n needs the other one");
    assert_eq!(removed["bytes"], (64 << 20) + 1000);
    assert!(removed["next"].as_str().unwrap().contains("again"));
    assert!(!shop.path(shop.big).exists() && shop.path(Shop::shared()).exists());
    assert_eq!(model(&shop.home.json(["models", "list"]), "m@1")["state"], "pending");
    // Gone on purpose is no drift.
    shop.home.run(["drift", "check"]).well();
}

#[test]
fn one_that_is_not_listed_goes_with_the_files_that_nobody_else_needs() {
    let shop = Shop::stocked();
    shop.drop_n();
    let listed = shop.home.json(["models", "list"]);
    assert_eq!(model(&listed, "n@1")["listed"], false);
    shop.home.run(["models", "list"]).well().says(&["n@1: not listed any more"]);
    shop.home.run(["models", "remove", "n"]).failed(1, &["--yes"]);
    let removed = shop.home.json(["models", "remove", "n", "--yes"]);
    assert_eq!(
        (&removed["files"], &removed["bytes"], &removed["next"]),
        (&0.into(), &0.into(), &Value::Null)
    );
    assert!(shop.path(Shop::shared()).exists(), "m needs it");
    assert_eq!(shop.home.json(["models", "list"])["total"]["models"], 1);
    shop.home.run(["models", "remove", "n"]).failed(5, &["\"n\""]);
}

#[test]
fn a_person_is_asked_before_a_model_goes() {
    let shop = Shop::stocked();
    let ask = |arguments: &[&str], answer: &str| {
        let (mut person, program) = terminal();
        person.write_all(answer.as_bytes()).unwrap();
        let seen = watch(person);
        let mut command = shop.home.command(arguments);
        let ran: Ran = command.stdin(program.try_clone().unwrap()).stderr(program).output().unwrap().into();
        drop(command);
        (ran, seen.join().unwrap())
    };
    let remove = ["models", "remove", "m", "--force"];
    for answer in ["n\n", "\n"] {
        let (ran, seen) = ask(&remove, answer);
        assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""));
        assert!(
            seen.contains("Remove m@1 and its files? [y/N]") && seen.contains("nothing was done"),
            "{seen}"
        );
        assert!(shop.path(shop.big).exists());
    }
    let (ran, seen) = ask(&remove, "y\n");
    assert_eq!(ran.code, Some(0), "{ran:?} {seen}");
    assert!(!shop.path(shop.big).exists());
    shop.install(&["--json"]).well();
    let (ran, seen) = ask(&[&remove[..], &["--yes"]].concat(), "");
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(!seen.contains("[y/N]"), "{seen}");
}

#[test]
fn an_agent_looks_after_its_models_itself() {
    let shop = Shop::stocked();
    shop.drop_n();
    let store = shop.open();
    let pid = std::process::id().to_string();
    let said = shop.home.run(["models", "remove", "n"]);
    // 7 days, as the snapshot says nothing else.
    said.failed(4, &[&pid, shop.home.volume().to_str().unwrap(), "by itself 7 d 0 h after"]);
    shop.home.run(["models", "remove", "m", "--force", "--yes"]).failed(4, &[&pid]);
    shop.home.run(["models", "prune", "--all"]).failed(4, &[&pid]);
    let listed = shop.home.json(["models", "list"]);
    assert_eq!(listed["agent_running"], true);
    let shown = shop.home.run(["models", "list"]).well();
    assert!(!shown.out.contains("as the Agent left them"), "{}", shown.out);
    let next = listed["next"].as_str().unwrap();
    assert!(next.contains("tries m@1, which is inactive") && next.contains("logs --kind model"), "{next}");
    drop(store);
    shop.home.run(["models", "prune", "--all"]).well();
}

#[test]
fn what_no_model_needs_is_pruned_when_its_time_has_ended_or_all_of_it() {
    let shop = Shop::stocked();
    shop.drop_n();
    let store = shop.open();
    let (models, now) = (store.models(), reading().wall);
    let day = 86_400_000;
    let file = |content: &[u8]| node_types::config::ModelFile {
        path: "x".to_owned(),
        bytes: content.len() as u64,
        sha256: Digest::of(content),
        pieces_blake3: Vec::new(),
    };
    let ago = |ms| node_types::Timestamp::from_ms(now.ms() - ms);
    drop(models.begin(&file(b"old one"), ago(2 * day)).unwrap());
    drop(models.begin(&file(b"young"), now).unwrap());
    models.quarantine(Shop::shared(), now).unwrap();
    let stray = shop.home.volume().join("models/stray");
    std::fs::write(&stray, b"?").unwrap();
    std::fs::create_dir(shop.home.volume().join("models/photos")).unwrap();
    drop(store);

    let listed = shop.home.json(["models", "list"]);
    assert_eq!(listed["partials"].as_array().unwrap().len(), 2);
    assert_eq!(listed["quarantined"][0]["bytes"], SHARED.len());
    shop.home.run(["models", "list"]).well().says(&[
        "Unfinished downloads",
        "In quarantine",
        "0 bytes of 5 bytes",
        "Not the node's: `models prune` removes the files",
        stray.to_str().unwrap(),
        "models/photos",
        "a folder",
    ]);
    let of_others = &listed["unknown"];
    assert_eq!(of_others[0]["path"], stray.to_str().unwrap(), "{of_others}");
    assert!(of_others[0]["bytes"].is_u64() && of_others[1]["bytes"].is_null(), "{of_others}");
    let counts = |report: &Value| {
        ["partials", "quarantined", "unknown", "unneeded"].map(|name| report[name].as_u64().unwrap())
    };
    let planned = shop.home.json(["models", "prune", "--dry-run"]);
    assert_eq!((counts(&planned), planned["dry_run"].as_bool()), ([1, 0, 1, 0], Some(true)), "{planned}");
    shop.home.run(["models", "prune", "--dry-run"]).well().says(&[
        "unfinished",
        "unknown",
        "stray",
        "Would go",
    ]);
    assert!(stray.exists(), "looking removes nothing");
    let done = shop.home.json(["models", "prune"]);
    assert_eq!((counts(&done), &done["bytes"]), ([1, 0, 1, 0], &planned["bytes"]));
    assert_eq!(done["files"], planned["files"], "what goes is named");
    assert!(!stray.exists());
    std::fs::write(&stray, b"?").unwrap();
    shop.home.run(["models", "prune"]).well().says(&["unknown", stray.to_str().unwrap(), "1 unknown file,"]);
    assert!(!stray.exists());
    let planned = shop.home.json(["models", "prune", "--dry-run", "--all"]);
    assert_eq!(counts(&planned), [1, 1, 0, 0]);
    let said = shop.home.run(["models", "prune", "--all"]).well();
    said.says(&["Removed: 1 unfinished download, 1 file in quarantine, 0 unknown files", "came back"]);
    shop.home.run(["models", "prune", "--all"]).well().says(&["nothing to remove"]);
    assert!(is(&shop.path(shop.big), shop.big), "what is needed stays");
}

/// `models install` beside an Agent, and its standard error line by line.
fn following(shop: &Shop) -> (std::process::Child, BufReader<std::process::ChildStderr>) {
    let mut command = shop.home.command(["models", "install", "n"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert!(line.contains(&std::process::id().to_string()) && line.contains("itself"), "{line}");
    (child, said)
}

#[test]
fn beside_an_agent_its_own_installation_is_followed_to_its_end() {
    let shop = Shop::new();
    let (store, config, now) = (shop.open(), shop.config(), reading().wall);
    let n = &config.models[1];
    let files = || node_agent::models::files_of(n);
    let set = |state, reason: Option<&str>| {
        let reason = reason.map(str::to_owned);
        store.models().set_state(&n.reference(), files(), state, reason, now).wait().unwrap();
    };
    let (child, said) = following(&shop);
    let rest = thread::spawn(move || said.lines().map(Result::unwrap).collect::<Vec<_>>());
    bring(store.models(), &n.files[0], SHARED, now);
    set(ModelState::Active, None);
    let ran: Ran = child.wait_with_output().unwrap().into();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    ran.says(&["n@1 is installed", "the Agent tests them"]);
    assert!(rest.join().unwrap().iter().all(|line| !line.contains('\u{1b}')));

    set(ModelState::Failed, Some("its test said nothing"));
    let (child, _said) = following(&shop);
    let ran: Ran = child.wait_with_output().unwrap().into();
    assert_eq!(ran.code, Some(1), "{ran:?}");
    ran.says(&["n@1 is not installed: its test said nothing", "tries again by itself"]);

    set(ModelState::Pending, None);
    let (child, said) = following(&shop);
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let last = said.lines().map(Result::unwrap).last().unwrap();
    assert!(last.contains("the Agent goes on"), "{last}");
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(130));

    let (child, said) = following(&shop);
    drop(store);
    let last = said.lines().map(Result::unwrap).last().unwrap();
    assert!(last.contains("has ended"), "{last}");
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(1));
}

#[test]
fn status_says_how_the_models_stand() {
    let shop = Shop::new();
    let seen = shop.home.json(["status"]);
    let models = &seen["models"];
    assert_eq!((&models["listed"], &models["active"], &models["missing"]), (&2.into(), &0.into(), &2.into()));
    assert_eq!(models["worst"]["state"], "pending");
    assert!(seen["next"].to_string().contains("models install"), "{seen}");
    shop.install(&["--json"]).well();
    let store = shop.open();
    let config = shop.config();
    let files = node_agent::models::files_of;
    for (model, state, reason) in [
        (&config.models[0], ModelState::Active, None),
        (&config.models[1], ModelState::Failed, Some("its test said nothing".to_owned())),
    ] {
        let now = reading().wall;
        store.models().set_state(&model.reference(), files(model), state, reason, now).wait().unwrap();
    }
    let seen = shop.home.json(["status"]);
    let worst = &seen["models"]["worst"];
    assert_eq!((&seen["models"]["active"], &worst["model"]), (&1.into(), &"n@1".into()));
    assert_eq!((&worst["state"], &worst["reason"]), (&"failed".into(), &"its test said nothing".into()));
    shop.home.run(["status"]).well().says(&[
        "1 of 2 active",
        "n@1 is failed: its test said nothing",
        "models list",
    ]);
}
