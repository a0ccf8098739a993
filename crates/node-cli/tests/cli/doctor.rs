//! `doctor`: every check is made to fail by a real fault, and finds it; a healthy node gives no warning; what is mended can be
//! taken back exactly.

use std::{
    fs::{File, FileTimes, Permissions},
    io::{Read as _, Write as _},
    net::TcpListener,
    os::unix::fs::{FileExt as _, PermissionsExt as _, chown, symlink},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use node_store::{
    clock::{Mark, Trust},
    store::Store,
};
use node_types::{Digest, Timestamp, config::ModelFile};
use serde_json::{Value, json};

use crate::{
    home::{Home, PROGRAM, Ran, document, envelope, network_key, reading},
    shop::{SHARED, Shop},
    terminal::{terminal, watch},
    trust::{HOUR_MS, keyset, signed_config, trusted, with},
};

/// Checks whose finding is the test machine's, whatever the node.
const OF_THE_MACHINE: [&str; 4] = ["space", "file-system", "sandbox", "limits"];
const DAY_MS: u64 = 24 * HOUR_MS;

/// What one check says: verdict, finding and cure of each finding.
struct Said(Vec<Value>);

impl Said {
    /// One finding has this verdict and all of `words` in its finding or cure.
    #[track_caller]
    fn has(&self, verdict: &str, words: &[&str]) -> &Self {
        let fits = |finding: &&Value| {
            let text = format!("{} {}", finding["found"], finding["cure"]);
            finding["verdict"] == verdict && words.iter().all(|word| text.contains(word))
        };
        assert!(self.0.iter().any(|finding| fits(&finding)), "{verdict} {words:?} is not in {:#?}", self.0);
        self
    }
}

/// All that was said. What is wrong is said with what to do.
#[track_caller]
fn findings(ran: &Ran) -> Vec<Value> {
    let all = ran.json()["findings"].as_array().unwrap().clone();
    for finding in &all {
        let wrong = matches!(finding["verdict"].as_str(), Some("warning" | "error"));
        let cured = finding["cure"].as_str().is_some_and(|cure| !cure.trim().is_empty());
        assert!(!wrong || cured, "nothing is said to be done: {finding:#}");
        assert!(finding["found"].as_str().is_some_and(|found| !found.trim().is_empty()), "{finding:#}");
    }
    all
}

/// Runs the doctor and gives what one check says. Where that is a warning or worse, the exit code says so.
#[track_caller]
fn check(home: &Home, name: &str, more: &[&str]) -> Said {
    let ran = home.run([&["doctor", "--json"], more].concat());
    let all = findings(&ran);
    let worst = all.iter().any(|finding| matches!(finding["verdict"].as_str(), Some("warning" | "error")));
    assert_eq!((ran.code, ran.err.as_str()), (Some(if worst { 7 } else { 0 }), ""));
    Said(all.into_iter().filter(|finding| finding["name"] == name).collect())
}

/// A server on this machine that says the same to everybody.
fn server(answer: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let (mut request, mut part) = (Vec::new(), [0; 4096]);
            while !request.windows(4).any(|window| window == b"\r\n\r\n") {
                match stream.read(&mut part) {
                    Ok(read @ 1..) => request.extend_from_slice(&part[..read]),
                    Ok(0) | Err(_) => break,
                }
            }
            // Whoever asked may be gone.
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    url
}

fn answer(head: &str, body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\n{head}Content-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

/// What a network of this test answers to a look at its keysets.
fn keysets(name: &str, date: &str) -> String {
    let mut document = keyset(1, 1, &[&network_key()]);
    document["network"] = name.into();
    let body = json!({ "pinned": document.to_string(), "rotations": [] }).to_string();
    answer(&format!("Date: {date}\r\n"), &body)
}

/// A moment as HTTP writes it.
fn http_date(at: SystemTime) -> String {
    httpdate::fmt_http_date(at)
}

/// An address at which nobody listens: nobody is given such a port by chance.
fn nobody() -> String {
    "http://127.0.0.1:9".to_owned()
}

/// A node with a snapshot that was given at `given`, changed by `change`.
fn node(given: Timestamp, change: impl Fn(Value) -> Value) -> Home {
    let home = Home::new();
    let mut then = reading();
    then.wall = given;
    // The machine was started since: its wall clock counts.
    then.boot = "an earlier one".into();
    let store = Store::create(&home.options(), None, &then).unwrap();
    store.snapshots().pin(trusted(&keyset(1, 1, &[&network_key()]))).unwrap();
    let document = change(with(document(1, given), "/updates/agents", json!([])));
    store.apply_envelope(&signed_config(&document, &[&network_key()]), given).unwrap();
    home
}

fn external(document: Value) -> Value {
    with(document, "/runtime", json!({ "kind": "external", "engine": "stand-in" }))
}

/// One whose runtime is a server of the operator's.
fn outpatient() -> Home {
    node(reading().wall, external)
}

fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// Every file and folder below, with its mode and the digest of its bytes: what undoing must restore.
fn everything(folder: &Path) -> Vec<(String, u32, Option<Digest>)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        // What SQLite makes beside a database while it is looked at holds nothing of it.
        if name == "doctor" || name.ends_with("-wal") || name.ends_with("-shm") {
            continue;
        }
        if path.is_dir() {
            all.extend(everything(&path));
        }
        let bytes = path.is_file().then(|| Digest::of(&std::fs::read(&path).unwrap()));
        all.push((path.display().to_string(), mode(&path), bytes));
    }
    all.sort();
    all
}

#[test]
fn a_healthy_node_gives_no_warning() {
    let home = outpatient();
    let (runtime, network) =
        (server(answer("", "{}")), server(keysets("testnet", &http_date(SystemTime::now()))));
    let ran = home.run(["doctor", "--json", "--runtime-url", &runtime, "--network-url", &network]);
    let all = findings(&ran);
    let mut names: Vec<&str> = all.iter().map(|finding| finding["name"].as_str().unwrap()).collect();
    names.dedup();
    let wanted: Vec<&str> = node_agent::doctor::CHECKS.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, wanted, "every check says something");
    for finding in all {
        let name = finding["name"].as_str().unwrap();
        if !OF_THE_MACHINE.contains(&name) {
            assert!(["ok", "note"].contains(&finding["verdict"].as_str().unwrap()), "{finding:#}");
            assert_eq!(finding["fixable"], false, "{finding:#}");
        }
    }
    let said = |name: &str| Said(findings(&ran).into_iter().filter(|it| it["name"] == name).collect());
    said("network").has("ok", &[&network, "answers"]);
    said("runtime").has("ok", &[&runtime]);
    said("clock").has("ok", &["the volume and the network agree"]);
    said("keys").has("note", &["obfuscation only", "key reseal --to-passphrase"]);
    said("snapshot").has("ok", &["snapshot 1"]);
}

#[test]
fn it_reads_for_a_person_too_and_its_commands_name_this_node() {
    let home = outpatient();
    let path = home.path().to_str().unwrap();
    let ran = home.run(["--home", path, "doctor"]);
    let ran = ran.says(&["agent", "no Agent runs", "do: start the node"]);
    ran.says(&[&format!("`resultity-node --home {path} run --network-url <"), "error", "warning", "note"]);
    Home::new().run(["doctor"]).failed(5, &["there is no node", "resultity-node init"]);
}

#[test]
fn it_works_beside_a_running_agent() {
    let home = outpatient();
    let store = Store::open(&home.options(), &reading()).unwrap();
    check(&home, "agent", &[]).has("ok", &[&std::process::id().to_string()]);
    check(&home, "databases", &["--deep"]).has("ok", &["state.db", "jobs.db", "logs.db"]);
    // What the Agent was given on its command line is not known here.
    check(&home, "runtime", &[]).has("note", &["its own settings", "doctor --runtime-url"]);
    drop(store);
}

#[test]
fn modes_that_are_too_open_are_found_mended_and_put_back() {
    let home = outpatient();
    let (jobs, key, folder) =
        (home.volume().join("jobs.db"), home.volume().join("keys/node.key"), home.volume().join("keys"));
    for (path, open) in [(&jobs, 0o644), (&key, 0o604), (&folder, 0o750)] {
        chmod(path, open);
    }
    let before = everything(&home.volume());
    check(&home, "modes", &[])
        .has("error", &["jobs.db", "0644", "chmod 600"])
        .has("error", &["node.key", "0604"])
        .has("error", &["keys has mode 0750", "chmod 700"]);
    // Without a terminal and without --yes it only says what it would do.
    let planned = home.run(["doctor", "--fix", "--json"]).json();
    assert_eq!(planned["fix"].as_array().unwrap().len(), 3, "{planned:#}");
    assert!(planned["fix"].as_array().unwrap().iter().all(|step| step["done"] == false));
    let next = planned["next"].as_str().unwrap();
    assert!(next.starts_with("nothing was done: ") && next.contains("doctor --fix --yes"), "{next}");
    assert_eq!(everything(&home.volume()), before);
    assert!(!home.volume().join("doctor").exists());

    let mended = home.run(["doctor", "--fix", "--yes", "--json"]).json();
    assert!(mended["fix"].as_array().unwrap().iter().all(|step| step["done"] == true), "{mended:#}");
    assert_eq!([mode(&jobs), mode(&key), mode(&folder)], [0o600, 0o600, 0o700]);
    check(&home, "modes", &[]).has("ok", &[]);
    let records: Vec<_> = std::fs::read_dir(home.volume().join("doctor")).unwrap().flatten().collect();
    assert_eq!((records.len(), mode(&records[0].path())), (1, 0o600));

    home.run(["doctor", "--undo"]).well().says(&["Taken back: set the mode of"]);
    assert_eq!(everything(&home.volume()), before);
    home.run(["doctor", "--undo"]).failed(5, &["nothing to take back"]);
}

/// It was not looked at, and one beside it was.
#[test]
fn a_folder_among_the_keys_that_others_can_write_to_is_found_and_mended() {
    let home = outpatient();
    let stray = home.volume().join("keys/strayd");
    std::fs::create_dir(&stray).unwrap();
    chmod(&stray, 0o777);
    check(&home, "modes", &[]).has("error", &["keys/strayd has mode 0777", "chmod 700"]);
    home_mends(&home, 1);
    assert_eq!(mode(&stray), 0o700);
    check(&home, "modes", &[]).has("ok", &[]);
}

#[test]
fn nothing_is_claimed_of_a_volume_that_cannot_be_looked_into() {
    let home = outpatient();
    chmod(&home.volume(), 0o755);
    for name in ["runtime", "sandbox", "version"] {
        check(&home, name, &[]).has("note", &["not looked at, because the volume cannot be"]);
    }
}

#[test]
fn a_file_with_a_passphrase_that_is_not_there_is_said_to_be_missing() {
    let home = outpatient();
    home.file("node.toml", "[keys]\npassphrase_file = \"nope\"");
    check(&home, "keys", &[])
        .has("warning", &["keys.passphrase_file is", "nope", "no such file"])
        .has("note", &["obfuscation only"]);
}

#[test]
fn what_was_changed_since_the_mending_is_left_as_it_is() {
    let home = outpatient();
    let jobs = home.volume().join("jobs.db");
    chmod(&jobs, 0o644);
    home.run(["doctor", "--fix", "--yes", "--json"]);
    chmod(&jobs, 0o400);
    let undone = home.run(["doctor", "--undo"]);
    assert_eq!(undone.code, Some(1));
    undone.says(&["Left as it is", "0400"]);
    assert_eq!(mode(&jobs), 0o400);
}

#[test]
fn a_person_is_shown_the_plan_and_asked() {
    let home = outpatient();
    let jobs = home.volume().join("jobs.db");
    for (said, wanted) in [("n\n", 0o644), ("\n", 0o644), ("y\n", 0o600)] {
        chmod(&jobs, 0o644);
        let (mut person, program) = terminal();
        person.write_all(said.as_bytes()).unwrap();
        let seen = watch(person);
        let mut command = home.command(["doctor", "--fix"]);
        let ran: Ran = command.stdin(program.try_clone().unwrap()).stderr(program).output().unwrap().into();
        drop(command);
        let seen = seen.join().unwrap();
        assert!(seen.contains("from 0644 to 0600") && seen.contains("Do it? [y/N]"), "{seen}");
        assert_eq!(mode(&jobs), wanted, "{said:?} {}", ran.out);
    }
}

#[test]
fn a_home_that_others_can_write_to_is_found() {
    let home = outpatient();
    chmod(home.path(), 0o777);
    check(&home, "modes", &[]).has("warning", &["0777", "another volume", "chmod 755"]);
    chmod(home.path(), 0o1777);
    check(&home, "modes", &[]).has("ok", &[]);
    // A home that is a link: what it leads to is named and mended.
    chmod(home.path(), 0o777);
    let elsewhere = tempfile::tempdir().unwrap();
    let link = elsewhere.path().join("home");
    symlink(home.path(), &link).unwrap();
    let linked = ["--home", link.to_str().unwrap(), "doctor", "--json", "--fix", "--yes"];
    let fixed = home.run(linked).json();
    let steps = fixed["fix"].as_array().unwrap();
    assert!(steps.len() == 1 && steps[0]["done"] == true, "{fixed:#}");
    assert_eq!(mode(home.path()), 0o755);
    chmod(home.path(), 0o700);
}

#[test]
fn a_link_in_place_of_a_file_is_found() {
    let home = outpatient();
    let (key, elsewhere) = (home.volume().join("keys/node.key"), home.path().join("node.key"));
    std::fs::rename(&key, &elsewhere).unwrap();
    symlink(&elsewhere, &key).unwrap();
    check(&home, "modes", &[]).has("error", &["node.key", "symbolic link"]);
}

#[test]
fn a_damaged_page_of_any_database_is_found_where_the_volume_opens_no_more_too() {
    for name in ["state.db", "jobs.db", "logs.db"] {
        let home = Home::filled();
        let database = File::options().write(true).open(home.volume().join(name)).unwrap();
        let length = database.metadata().unwrap().len();
        let whole = check(&home, "databases", &[]).0;
        assert!(whole.len() == 1 && whole[0]["verdict"] == "ok", "{whole:#?}");
        database.write_all_at(&[0xAA; 4096], length - 4096).unwrap();
        check(&home, "databases", &[])
            .has("error", &[name, "is damaged", "check the disk", "delete nothing"]);
        database.write_all_at(&[0xAA; 4096], 0).unwrap();
        let said = check(&home, "databases", &[]);
        said.has("error", &[name, "is damaged"]);
        assert_eq!(said.0.len(), 1, "nothing is said against the others: {:#?}", said.0);
        if name != "logs.db" {
            check(&home, "snapshot", &[]).has("note", &["not looked at"]);
        }
        // The others are looked at all the same.
        check(&home, "stamps", &[]).has("ok", &["2 databases"]);
    }
}

/// What every command says of it, and the way back with it.
#[test]
fn a_database_of_a_newer_release_is_found_with_both_ways_out() {
    for name in ["state.db", "jobs.db", "logs.db"] {
        let home = Home::filled();
        let raw = rusqlite::Connection::open(home.volume().join(name)).unwrap();
        raw.pragma_update(None, "user_version", 99).unwrap();
        drop(raw);
        let said = check(&home, "databases", &[]);
        said.has(
            "error",
            &[
                &format!("{name} has format 99; this release reads up to"),
                "or restore a backup that was made before",
                "install the newer release again",
                "docs/troubleshooting.md",
            ],
        );
        assert_eq!(said.0.len(), 1, "nothing is said against the others: {:#?}", said.0);
        let refused = home.run(["rotate"]);
        refused.failed(1, &[name, "has format 99", "upgrade resultity-node, or restore a backup"]);
    }
}

/// The doctor's view of a node on a small file system of its own, in a process with few files.
fn cramped(options: &str, files: u64) -> Vec<Value> {
    let home = Home::new();
    let mut command = Command::new("unshare");
    // Root of a user namespace of its own, where this is not root.
    command.args(if rustix::process::geteuid().is_root() { &["--mount"][..] } else { &["-rm"] });
    let line = r#"mount -t tmpfs -o "$1" tmpfs "$RESULTITY_HOME" && "$0" init >&2 && ulimit -n "$2" &&
        exec "$0" doctor --json"#;
    command.args(["sh", "-c", line, PROGRAM, options, &files.to_string()]);
    command.env("RESULTITY_HOME", home.path()).env("HOME", home.path());
    let ran = Ran::from(command.output().unwrap());
    assert_eq!(ran.code, Some(7), "{ran:?}");
    findings(&ran)
}

/// The first number of what is said.
fn first_number(finding: &Value) -> u64 {
    let found = finding["found"].as_str().unwrap();
    let digits = found.split(|letter: char| !letter.is_ascii_digit()).find(|part| !part.is_empty());
    digits.unwrap_or_else(|| panic!("{found}")).parse().unwrap()
}

#[test]
fn a_small_disk_one_that_forgets_and_a_process_with_few_files_are_found_as_they_are() {
    // The node takes some of it itself, for its reserve.
    for (mib, verdict) in [(24, "error"), (160, "warning")] {
        let all = cramped(&format!("size={mib}m,nr_inodes=600"), 512);
        let of = |name: &str| Said(all.iter().filter(|it| it["name"] == name).cloned().collect());
        let space = of("space");
        space.has(
            verdict,
            &["MiB are free: under 32 MiB no new job is taken", "move the home to a larger one"],
        );
        let free = first_number(&space.0[0]);
        assert!(free < mib && free >= mib / 3, "{free} of {mib} MiB");
        space.has("warning", &["more files fit", "its inodes are used up"]);
        let files = first_number(&space.0[1]);
        assert!((400..600).contains(&files), "{files} of 600 files");
        of("file-system")
            .has("warning", &["tmpfs", "gone when the machine stops", "move the home to a disk"]);
        of("limits").has("warning", &["may have only 512 files open", "ulimit -n 1024", "LimitNOFILE="]);
    }
    let all = cramped("size=600m", 1024);
    let of = |name: &str| Said(all.iter().filter(|it| it["name"] == name).cloned().collect());
    let space = of("space");
    space.has("ok", &["MiB are free"]);
    assert!((400..600).contains(&first_number(&space.0[0])), "{:?}", space.0);
    of("limits").has("ok", &["MiB of memory, 1024 open files"]);
}

#[test]
fn a_missing_database_is_found_and_so_is_another_programs() {
    let home = Home::filled();
    std::fs::remove_file(home.volume().join("logs.db")).unwrap();
    check(&home, "databases", &[]).has("warning", &["logs.db is missing or empty"]);
    std::fs::remove_file(home.volume().join("jobs.db")).unwrap();
    check(&home, "databases", &[]).has("error", &["jobs.db is missing or empty"]);
    let strange = home.volume().join("jobs.db");
    rusqlite::Connection::open(&strange)
        .unwrap()
        .execute_batch("CREATE TABLE a (b); PRAGMA user_version = 1")
        .unwrap();
    chmod(&strange, 0o600);
    check(&home, "databases", &[]).has("error", &["jobs.db", "is not a jobs.db of resultity-node"]);
}

#[test]
fn files_of_another_node_network_or_volume_are_found() {
    let (home, other) = (outpatient(), outpatient());
    let stranger = other.volume().join("state.db");
    std::fs::copy(&stranger, home.volume().join("state.db")).unwrap();
    let who = other.json(["status"])["node"].as_str().unwrap().to_owned();
    check(&home, "stamps", &[]).has("error", &["state.db", &who, "the key here"]);

    let home = outpatient();
    let stamp = |sql: &str| {
        rusqlite::Connection::open(home.volume().join("jobs.db")).unwrap().execute(sql, ()).unwrap();
    };
    stamp("UPDATE stamp SET volume = '11111111-1111-4111-8111-111111111111'");
    check(&home, "stamps", &[]).has("error", &["jobs.db", "volume 11111111"]);
    stamp("UPDATE stamp SET network = 'mainnet'");
    check(&home, "stamps", &[]).has("error", &["jobs.db", "mainnet", "testnet"]);
}

#[test]
fn a_key_that_is_missing_or_does_not_open_is_found() {
    let home = Home::new();
    let (pass, wrong) = (home.file("pass", "correct horse\n"), home.file("wrong", "battery staple\n"));
    let under = |file: &Path| ["--keys-passphrase-file".to_owned(), file.to_str().unwrap().to_owned()];
    let keys = |more: &[String]| check(&home, "keys", &more.iter().map(String::as_str).collect::<Vec<_>>());
    home.run([&["init".to_owned()][..], &under(&pass)].concat()).well();
    keys(&under(&pass)).has("ok", &["sealed under a passphrase"]);
    keys(&under(&wrong)).has("error", &["node.key", "keys.passphrase_file"]);
    keys(&[]).has("note", &["not opened", "keys.passphrase_file"]);
    let key = home.volume().join("keys/volume.key");
    std::fs::rename(&key, home.path().join("away")).unwrap();
    keys(&under(&pass)).has("error", &["volume.key is missing", "backup"]);
    std::fs::write(&key, "{").unwrap();
    chmod(&key, 0o600);
    keys(&under(&pass)).has("error", &["volume.key is damaged"]);
    std::fs::remove_file(home.volume().join("keys/node.key")).unwrap();
    keys(&under(&pass)).has("error", &["node.key is missing", "another node"]);
}

/// A passphrase file was to be given, under which nothing is sealed, and the node to be started, which cannot start.
#[test]
fn a_local_file_of_the_keys_that_is_gone_is_to_be_put_back_before_a_start() {
    let home = outpatient();
    check(&home, "agent", &[]).has("note", &["no Agent runs", "start the node"]);
    for name in ["local.kek", "volume.key", "node.key"] {
        let (key, aside) = (home.volume().join("keys").join(name), home.path().join("aside"));
        std::fs::rename(&key, &aside).unwrap();
        let said = check(&home, "keys", &[]);
        said.has("error", &[name, "from your backup"]);
        assert_eq!(said.0.len(), 1, "{:#?}", said.0);
        let cure = said.0[0]["cure"].as_str().unwrap();
        assert!(!cure.contains("passphrase"), "{cure}");
        if name == "local.kek" {
            assert!(cure.starts_with("put keys/local.kek back from your backup"), "{cure}");
        }
        let agent = check(&home, "agent", &[]);
        agent.has("note", &["no Agent runs"]);
        assert!(agent.0[0]["cure"].is_null(), "a start cannot work: {:#?}", agent.0);
        std::fs::rename(&aside, &key).unwrap();
    }
}

#[test]
fn a_clock_that_disagrees_with_what_the_volume_has_known_is_found() {
    let home = outpatient();
    let now = reading().wall.plus_ms(HOUR_MS);
    let mark = Mark { now, since_boot_ms: 0, boot: "an earlier one".into(), trust: Trust::Trusted };
    let state = rusqlite::Connection::open(home.volume().join("state.db")).unwrap();
    let mark = serde_json::to_string(&mark).unwrap();
    assert_eq!(state.execute("UPDATE clock SET mark = ?1", [mark]).unwrap(), 1);
    check(&home, "clock", &[]).has("error", &["has known", "already", "timedatectl"]);
    // Ten days ahead of what it has known, after a start of the machine.
    let home = node(Timestamp::from_ms(reading().wall.ms() - 10 * DAY_MS), external);
    check(&home, "clock", &[]).has("warning", &["jumped 240 h ahead", "asks the network"]);
}

#[test]
fn a_clock_that_disagrees_with_the_network_is_found() {
    let home = outpatient();
    let off = SystemTime::now() - Duration::from_secs(3600);
    let url = server(keysets("testnet", &http_date(off)));
    check(&home, "clock", &["--network-url", &url]).has("error", &["off the network's", "refused"]);
    let off = SystemTime::now() + Duration::from_secs(60);
    let url = server(keysets("testnet", &http_date(off)));
    check(&home, "clock", &["--network-url", &url]).has("warning", &["off the network's"]);
}

#[test]
fn a_network_that_does_not_answer_or_is_another_one_is_found() {
    let home = outpatient();
    let network = |url: &str| check(&home, "network", &["--network-url", url]);
    check(&home, "network", &[]).has("note", &["network_url is not set"]);
    let silent = nobody();
    network(&silent).has("error", &[&silent, "refused"]);
    check(&home, "settings", &["--network-url", "http://192.0.2.1"])
        .has("error", &["http://192.0.2.1", "use https"]);
    let stranger = server(keysets("mainnet", &http_date(SystemTime::now())));
    network(&stranger).has("error", &[&stranger, "not for testnet"]);
    let page = server(answer("", "<html>"));
    network(&page).has("error", &[&page, "does not keep to the protocol"]);
    // Plain HTTP where TLS is asked for.
    let plain = page.replace("http://", "https://");
    network(&plain).has("error", &[&plain]);
}

#[test]
fn a_network_that_accepts_and_says_nothing_holds_nobody_up() {
    let home = outpatient();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    check(&home, "network", &["--network-url", &url]).has("error", &[&url, "no answer within 5 seconds"]);
    drop(listener);
}

#[test]
fn a_snapshot_past_its_time_is_found_and_so_is_one_that_does_not_verify() {
    let now = reading().wall.ms();
    let home = node(Timestamp::from_ms(now - 10 * HOUR_MS), external);
    check(&home, "snapshot", &[]).has("warning", &["past its time", "logs --kind network"]);
    let home = node(Timestamp::from_ms(now - 40 * HOUR_MS), external);
    check(&home, "snapshot", &[]).has("error", &["out of force"]);
    let state = rusqlite::Connection::open(home.volume().join("state.db")).unwrap();
    let other = envelope(2, reading().wall);
    assert_eq!(state.execute("UPDATE snapshots SET envelope = ?1", [other]).unwrap(), 1);
    check(&home, "snapshot", &[])
        .has("warning", &["cannot be verified any more"])
        .has("note", &["no snapshot yet"]);
}

#[test]
fn a_loss_that_waits_to_be_reported_is_found_with_what_was_moved_aside() {
    let home = Home::filled();
    let jobs = File::options().write(true).open(home.volume().join("jobs.db")).unwrap();
    jobs.write_all_at(&[0xAA; 4096], 4096).unwrap();
    File::options().append(true).open(home.volume().join("LOCK")).unwrap().write_all(b"1").unwrap();
    drop(Store::open(&home.options(), &reading()).unwrap());
    check(&home, "incidents", &[]).has("warning", &["jobs.db", "lost"]);
    check(&home, "leftovers", &[]).has("note", &["jobs.db.damaged-", "moved aside"]);
}

/// Makes a file look as if it was written so long ago.
fn age(path: &Path, ms: u64) {
    let then = SystemTime::now() - Duration::from_millis(ms);
    File::options().write(true).open(path).unwrap().set_times(FileTimes::new().set_modified(then)).unwrap();
}

/// A node in whose keys something was never finished, two days ago; where that is.
fn unfinished() -> (Home, PathBuf) {
    let home = outpatient();
    let path = home.volume().join("keys/.node.key.tmp");
    std::fs::write(&path, "half").unwrap();
    chmod(&path, 0o600);
    age(&path, 2 * DAY_MS);
    (home, path)
}

#[test]
fn what_could_not_be_taken_back_yet_is_taken_back_later() {
    let (home, path) = unfinished();
    home_mends(&home, 1);
    std::fs::write(&path, "another").unwrap();
    let undone = home.run(["doctor", "--undo"]);
    assert_eq!(undone.code, Some(1));
    undone.says(&["Left as it is"]);
    assert_eq!(std::fs::read(&path).unwrap(), b"another");
    std::fs::remove_file(&path).unwrap();
    home.run(["doctor", "--undo"]).well();
    assert_eq!(std::fs::read(&path).unwrap(), b"half");
    home.run(["doctor", "--undo"]).failed(5, &["nothing to take back"]);
}

#[test]
fn root_mends_nothing_in_another_users_volume() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let (home, path) = unfinished();
    for path in [&home.volume(), &home.volume().join("keys"), &path] {
        chown(path, Some(12_345), None).unwrap();
    }
    home.run(["doctor", "--fix", "--yes"]).failed(1, &["belongs to user 12345"]);
    home.run(["doctor", "--undo"]).failed(1, &["belongs to user 12345"]);
    assert!(!home.volume().join("doctor").exists(), "a folder of root's would keep the node from its own");
    assert!(path.exists());
}

#[test]
fn keys_under_a_credential_that_only_the_service_sees_are_not_tried() {
    let (home, credentials) = (Home::new(), tempfile::tempdir().unwrap());
    let kek = credentials.path().join("resultity-kek");
    std::fs::write(&kek, "0123456789".repeat(5)).unwrap();
    chmod(&kek, 0o600);
    let mut options = home.options();
    options.kek.credentials_dir = Some(credentials.path().to_owned());
    drop(Store::create(&options, None, &reading()).unwrap());
    check(&home, "keys", &[]).has("note", &["while the service runs"]);
    let seen = home.command(["doctor", "--json"]).env("CREDENTIALS_DIRECTORY", credentials.path()).output();
    let seen = findings(&seen.unwrap().into());
    Said(seen.into_iter().filter(|it| it["name"] == "keys").collect()).has("ok", &["the keys open"]);
}

#[test]
fn what_was_left_behind_is_moved_aside_and_put_back() {
    let shop = Shop::stocked();
    let (home, volume) = (&shop.home, shop.home.volume());
    let (unfinished, unknown) = (volume.join("keys/.node.key.tmp"), volume.join("models/notes.txt"));
    for path in [&unfinished, &unknown] {
        std::fs::write(path, "what is this").unwrap();
        chmod(path, 0o600);
    }
    // What is young may be at work, and what is not the node's may not be all here.
    let young = check(home, "leftovers", &[]);
    assert_eq!(young.0.len(), 1, "{:#?}", young.0);
    young.has("note", &["notes.txt", "nothing of the node reads it"]);
    assert_eq!(young.0[0]["fixable"], false);
    for path in [&unfinished, &unknown] {
        age(path, 2 * DAY_MS);
    }
    check(home, "leftovers", &[]).has("note", &[".node.key.tmp"]).has("note", &["notes.txt", "doctor --fix"]);
    let store = shop.open();
    let refused = home.run(["doctor", "--fix", "--yes", "--json"]).json();
    let left = |step: &Value| step["left"].as_str().unwrap().contains("stop that Agent");
    assert!(refused["fix"].as_array().unwrap().iter().all(left), "{refused:#}");
    assert!(unknown.exists());
    drop(store);
    let before = everything(&volume);

    let mended = home.run(["doctor", "--fix", "--yes", "--json"]).json();
    assert!(mended["fix"].as_array().unwrap().iter().all(|step| step["done"] == true), "{mended:#}");
    assert!(!unknown.exists() && !unfinished.exists());
    check(home, "leftovers", &[]).has("ok", &[]);
    home.run(["doctor", "--undo"]).well().says(&["Taken back: move"]);
    assert_eq!(everything(&volume), before);

    home.run(["doctor", "--fix", "--yes", "--json"]);
    home.run(["doctor", "--forget"]).well().says(&["2 files", "deleted"]);
    home.run(["doctor", "--undo"]).failed(5, &["nothing to take back"]);
    assert!(!unknown.exists());
}

/// It was silent of them.
#[test]
fn what_is_not_the_nodes_is_named_wherever_it_stands_in_the_volume() {
    let shop = Shop::stocked();
    let (home, volume) = (&shop.home, shop.home.volume());
    check(home, "leftovers", &[]).has("ok", &["nothing lies about"]);
    let names = ["photos", "models/photos", "models/partial/photos", "models/quarantine/photos"];
    let folders = names.map(|name| volume.join(name));
    for folder in folders.iter().chain(&[volume.join("models/quarantine"), volume.join("models/partial")]) {
        std::fs::create_dir_all(folder).unwrap();
        chmod(folder, 0o700);
    }
    let names = ["jobs.db.bak", "keys/node.key.old", "models/partial/x.part", "models/quarantine/x"];
    let strangers = names.map(|name| volume.join(name));
    for path in &strangers {
        std::fs::write(path, [0; 3 << 10]).unwrap();
        chmod(path, 0o600);
    }
    let found = check(home, "leftovers", &[]);
    assert_eq!(found.0.len(), strangers.len() + folders.len(), "{:#?}", found.0);
    let cure = "nothing of the node reads it: move it away, unless it is yours to keep here";
    for path in &folders {
        found.has("note", &[&format!("{} is no folder of the node's", path.display()), cure]);
    }
    for path in &strangers {
        found.has("note", &[&format!("{} (3 KiB) is no file of the node's", path.display()), cure]);
    }
    assert!(found.0.iter().all(|finding| finding["fixable"] == false), "{:#?}", found.0);
    for path in &strangers {
        age(path, 2 * DAY_MS);
    }
    // What lies beside the databases and the keys is moved by its owner alone.
    let old = check(home, "leftovers", &[]);
    for finding in &old.0 {
        let text = finding["found"].as_str().unwrap();
        let file_of_models = text.contains("/models/") && text.contains("no file");
        assert_eq!(finding["fixable"], file_of_models, "{finding:#}");
    }
}

#[test]
fn a_link_that_is_nothing_of_the_nodes_is_to_be_removed() {
    let home = outpatient();
    let link = home.volume().join("elsewhere");
    symlink(home.path(), &link).unwrap();
    let cure = "remove the link: it is nothing of the node's, and what it leads to stays";
    check(&home, "modes", &[]).has("error", &["symbolic link", cure]);
}

/// `doctor --fix` was named, which touches nothing outside of the volume.
#[test]
fn a_passphrase_file_that_others_can_read_is_cured_by_chmod() {
    let home = Home::new();
    let pass = home.file("pass", "correct horse\n");
    let under = ["--keys-passphrase-file", pass.to_str().unwrap()];
    home.run([&["init"][..], &under].concat()).well();
    chmod(&pass, 0o644);
    let said = check(&home, "keys", &under);
    said.has(
        "error",
        &[&format!("{} has mode 0644", pass.display()), &format!("chmod 600 {}", pass.display())],
    );
    assert!(!said.0[0]["cure"].as_str().unwrap().contains("doctor"), "{:#?}", said.0);
    assert_eq!(said.0[0]["fixable"], false);
}

/// SQLite's and the system's own words for it said nothing to an operator.
#[test]
fn a_read_only_file_system_is_called_by_its_name() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let home = outpatient();
    let mount = |options: &[&str]| {
        let done = Command::new("mount").args(options).arg(home.path()).status().unwrap();
        assert!(done.success(), "{options:?}");
    };
    mount(&["--bind", home.path().to_str().unwrap()]);
    mount(&["-o", "remount,bind,ro"]);
    let said = home.run(["doctor", "--json"]);
    let mended = home.run(["doctor", "--fix", "--yes"]);
    let _ = Command::new("umount").arg("-l").arg(home.path()).status();
    let errors: Vec<Value> = findings(&said)
        .into_iter()
        .filter(|it| it["verdict"] == "error" || it["verdict"] == "warning")
        .collect();
    let of_home = errors.iter().filter(|it| !OF_THE_MACHINE[2..].contains(&it["name"].as_str().unwrap()));
    let of_home: Vec<_> = of_home.filter(|it| it["name"] != "network" && it["name"] != "runtime").collect();
    assert_eq!(of_home.len(), 1, "{errors:#?}");
    assert!(of_home[0]["found"].as_str().unwrap().contains("on a read-only file system"), "{errors:#?}");
    assert_eq!((said.code, mended.code), (Some(7), Some(7)), "{mended:?}");
}

/// Sealed keys lay in the home, and nobody said so.
#[test]
fn what_a_killed_restore_left_is_named_and_removed_by_the_next_one() {
    let (from, pass) = (outpatient(), Home::new());
    let (archive, phrase) = (from.path().join("a.backup"), pass.file("pass", "correct horse"));
    let (archive, phrase) = (archive.to_str().unwrap(), phrase.to_str().unwrap());
    from.run(["backup", "create", archive, "--with-keys", "--passphrase-file", phrase]).well();
    let leave = |home: &Home| {
        let left = home.path().join(".testnet.restore");
        for folder in [&left, &left.join("keys")] {
            std::fs::create_dir(folder).unwrap();
            chmod(folder, 0o700);
        }
        std::fs::write(left.join("LOCK"), "1").unwrap();
        std::fs::write(left.join("keys/node.key"), "sealed").unwrap();
        left
    };
    let words = [".testnet.restore", "sealed keys", "backup restore"];
    // Beside a node, and where none came of it.
    let other = outpatient();
    let left = leave(&other);
    check(&other, "leftovers", &[]).has("warning", &words);
    let ended = other.run(["backup", "restore", archive, "--passphrase-file", phrase]);
    ended.failed(1, &["nothing is restored over a volume"]);
    assert!(!left.exists());
    check(&other, "leftovers", &[]).has("ok", &[]);

    let empty = Home::new();
    let left = leave(&empty);
    check(&empty, "leftovers", &[]).has("warning", &words);
    check(&empty, "agent", &[]).has("error", &["there is no node", "backup restore <FILE>", "init`"]);
    // One that is at work is none of the doctor's business.
    let lock = File::options().read(true).write(true).open(left.join("LOCK")).unwrap();
    lock.lock().unwrap();
    empty.run(["doctor"]).failed(5, &["there is no node"]);
    empty.run(["backup", "create", "x.backup"]).failed(5, &["there is no node"]);
    assert!(left.exists());
    drop(lock);
    empty.run(["backup", "restore", archive, "--passphrase-file", phrase]).well();
    assert!(!left.exists());
}

#[test]
fn a_download_that_nobody_goes_on_with_is_moved_aside_and_put_back() {
    let shop = Shop::new();
    let file = ModelFile {
        path: "x".into(),
        bytes: SHARED.len() as u64,
        sha256: Shop::shared(),
        pieces_blake3: Vec::new(),
    };
    let begin = |at: Timestamp| {
        let store = shop.open();
        let partial = store.models().begin(&file, at).unwrap();
        partial.write(0, 0, &SHARED[..4]).unwrap();
        partial.note(0, 4, at).unwrap();
    };
    begin(reading().wall);
    check(&shop.home, "downloads", &[]).has("note", &["let the Agent go on"]);
    shop.open().models().discard_partial(Shop::shared()).unwrap();
    begin(Timestamp::from_ms(reading().wall.ms() - 2 * DAY_MS));
    check(&shop.home, "downloads", &[]).has("note", &["nothing of it came since", "doctor --fix"]);
    let path = shop.home.volume().join("models/partial").join(Shop::shared().hex());
    let before = std::fs::read(&path).unwrap();
    home_mends(&shop.home, 1);
    assert!(!path.exists());
    shop.home.run(["doctor", "--undo"]).well();
    assert_eq!(std::fs::read(&path).unwrap(), before);
    // Moved aside, the rest of the node does not miss it: it begins anew.
    home_mends(&shop.home, 1);
    check(&shop.home, "downloads", &[]).has("ok", &["no unfinished"]);
    shop.install(&["--json"]).well();
    assert!(shop.path(Shop::shared()).exists());
}

#[track_caller]
fn home_mends(home: &Home, steps: usize) {
    let mended = home.run(["doctor", "--fix", "--yes", "--json"]).json();
    let done = mended["fix"].as_array().unwrap();
    assert!(done.len() == steps && done.iter().all(|step| step["done"] == true), "{mended:#}");
}

#[test]
fn a_model_that_is_missing_or_was_changed_is_found() {
    let shop = Shop::new();
    check(&shop.home, "models", &[]).has("warning", &["m@1/weights.bin is not here", "models install"]);
    let shop = Shop::stocked();
    check(&shop.home, "models", &[]).has("ok", &["by their seals"]);
    check(&shop.home, "models", &["--deep"]).has("ok", &["all of them were read"]);
    shop.flip(shop.big, 5);
    check(&shop.home, "models", &[]).has("error", &["m@1/weights.bin was changed", "drift check"]);
    check(&shop.home, "models", &["--deep"]).has("error", &["it was read"]);
}

#[test]
fn a_runtime_that_is_not_there_is_found() {
    let home = outpatient();
    check(&home, "runtime", &[]).has("error", &["runtime.url is not set"]);
    let silent = nobody();
    check(&home, "runtime", &["--runtime-url", &silent]).has("error", &[&silent, "does not answer"]);
    let ill = server("HTTP/1.1 503 Loading\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_owned());
    check(&home, "runtime", &["--runtime-url", &ill]).has("error", &["503"]);

    let home = Home::filled();
    let socket = home.path().join("no.sock");
    check(&home, "runtime", &["--runtime-socket", socket.to_str().unwrap()])
        .has("error", &["no.sock", "start Docker"]);

    let shop = Shop::new();
    check(&shop.home, "runtime", &[]).has("error", &["runtime.folder is not set"]);
    let program = shop.home.path().join("serve");
    let folder = ["--runtime-folder", shop.home.path().to_str().unwrap()];
    check(&shop.home, "runtime", &folder).has("error", &["there is no", "serve"]);
    std::fs::write(&program, "serve").unwrap();
    chmod(&program, 0o644);
    check(&shop.home, "runtime", &folder).has("error", &["not executable", "chmod +x"]);
    chmod(&program, 0o755);
    check(&shop.home, "runtime", &folder).has("ok", &["the approved program"]);
    std::fs::write(&program, "another").unwrap();
    check(&shop.home, "runtime", &folder)
        .has("error", &[&Digest::of(b"serve").to_string(), &Digest::of(b"another").to_string()]);
}

/// An image in the real container engine, with nothing in it; gone with the test.
struct Image(String);

impl Image {
    /// Its ID is drawn: the engine's clock stands in it, and so does its file's name.
    fn import() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (file, tar) = (folder.path().file_name().unwrap(), folder.path().join("image.tar"));
        std::fs::write(folder.path().join(file), "nothing runs here").unwrap();
        let packed = Command::new("tar").arg("-cf").arg(&tar).arg("-C").arg(folder.path()).arg(file).status();
        assert!(packed.unwrap().success());
        let made = Command::new("docker").arg("import").arg(&tar).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Self(String::from_utf8(made.stdout).unwrap().trim().to_owned())
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["rmi", "--force", &self.0]).output();
    }
}

#[test]
fn an_image_that_is_not_in_the_container_engine_is_found() {
    if !Path::new("/var/run/docker.sock").exists() {
        eprintln!("no container engine on this machine: this test says nothing here");
        return;
    }
    let wants =
        |digest: &str| node(reading().wall, |document| with(document, "/runtime/digest", digest.into()));
    let image = Image::import();
    check(&wants(&image.0), "runtime", &[]).has("ok", &["the container engine answers and has", &image.0]);

    let absent = Digest::of(image.0.as_bytes());
    let home = wants(&absent.to_string());
    check(&home, "runtime", &[]).has("note", &[&absent.to_string(), "the Agent pulls it", "runtime.images"]);
    let archive = home.file(&format!("{}.tar", absent.hex()), "an archive");
    home.file("node.toml", format!("[runtime]\nimages = {}", json!(home.path())));
    check(&home, "runtime", &[]).has("note", &["the Agent loads it from", archive.to_str().unwrap()]);
}

#[test]
fn an_account_that_is_linked_is_seen_and_so_is_one_that_cannot_be_read() {
    let home = outpatient();
    check(&home, "account", &[]).has("note", &["linked to no account", "account link --wallet"]);
    home.run(["account", "link", "--email", "ada@example.org"]).well();
    check(&home, "account", &[]).has("ok", &["linked to an account"]);
    let state = rusqlite::Connection::open(home.volume().join("state.db")).unwrap();
    assert_eq!(state.execute("UPDATE account SET link = 'ada'", ()).unwrap(), 1);
    check(&home, "account", &[]).has("warning", &["the account cannot be looked at", "see to the disk"]);
}

#[test]
fn a_program_that_the_network_does_not_approve_is_found() {
    let approving = |version: &str| {
        let agents = json!([{ "version": version, "digest": Digest::of(b"an agent") }]);
        node(reading().wall, move |document| external(with(document, "/updates/agents", agents.clone())))
    };
    let home = approving(env!("CARGO_PKG_VERSION"));
    check(&home, "version", &[]).has("warning", &["not an approved program"]);
    check(&approving("99.0.0"), "version", &[]).has("warning", &["approves 99.0.0"]);
    check(&outpatient(), "version", &[]).has("ok", &["names no approved release"]);
}

#[test]
fn settings_that_cannot_be_used_are_a_finding() {
    let home = outpatient();
    for (text, word) in [("network_url =", "line 1"), ("netwrok = \"testnet\"", "did you mean network?")] {
        home.file("node.toml", text);
        check(&home, "settings", &[]).has("error", &["node.toml", word]);
    }
}

#[test]
fn a_node_that_was_moved_away_is_not_well() {
    let home = outpatient();
    let (pass, file) = (home.file("pass", "staple"), home.path().join("node.move"));
    let (pass, file) = (pass.to_str().unwrap(), file.to_str().unwrap());
    check(&home, "agent", &[]).has("note", &["no Agent runs"]);
    home.run(["move", "out", file, "--passphrase-file", pass]).well();
    check(&home, "agent", &[]).has("error", &["moved away", file, "move undo --file-was-not-used"]);
    // What it would need to run is no fault of it any more, and nothing to be done.
    let found = findings(&home.run(["doctor", "--json"]));
    for finding in &found {
        let (name, verdict) = (finding["name"].as_str().unwrap(), finding["verdict"].as_str().unwrap());
        if ["account", "models", "runtime", "network"].contains(&name) {
            assert_eq!(verdict, "note", "{finding:#}");
            assert_eq!(finding["found"], "not looked at, because the node was moved away");
            assert!(finding["cure"].is_null(), "{finding:#}");
        } else if name != "agent" && !OF_THE_MACHINE.contains(&name) {
            assert!(["ok", "note"].contains(&verdict), "{finding:#}");
        }
    }
}
