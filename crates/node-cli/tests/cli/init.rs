//! `init`: a node is made once.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    process::Command,
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};

use crate::{
    home::{Home, PROGRAM},
    pages::Pages,
    terminal::terminal,
};

/// The last thing that is said is what to type next.
#[track_caller]
fn assert_ends_with(said: &str, next: &str) {
    let last = said.trim_end().lines().last().unwrap();
    assert!(last.ends_with(next), "{next:?} is not the end of:\n{said}");
}

#[test]
fn a_node_is_made_and_said_to_be_what_it_is() {
    let home = Home::new();
    let made = home.json(["init"]);
    assert_eq!(made["created"], true);
    assert_eq!(made["network"], "testnet");
    assert_eq!(made["folder"], home.volume().to_str().unwrap());
    assert_eq!(made["protection"], "obfuscation_only");
    assert!(made["node"].as_str().unwrap().starts_with("node-"));
    let seen = home.json(["status"]);
    for field in ["node", "address", "network", "protection", "folder"] {
        assert_eq!(seen[field], made[field], "{field}");
    }
}

#[test]
fn a_second_time_is_refused_unless_it_is_asked_for() {
    let home = Home::new();
    let text = home.run(["init"]).well().says(&["A node is made.", "obfuscation only", "testnet"]).out;
    assert_ends_with(&text, "`resultity-node run --network-url <the network's address>`");
    let address = text.lines().find_map(|line| line.strip_prefix("address")).unwrap().trim().to_owned();
    home.run(["init"]).failed(1, &[home.volume().to_str().unwrap(), &address, "--if-missing", "--home"]);
    let again = home.json(["init", "--if-missing"]);
    assert_eq!((&again["created"], &again["address"]), (&false.into(), &address.into()));
}

/// A script was told that there is a node, and to start it.
#[test]
fn a_node_that_cannot_start_for_want_of_a_key_is_not_said_to_be_there() {
    let home = Home::with_node();
    let volume = home.volume();
    for (name, words) in [
        ("node.key", "is missing beside"),
        ("volume.key", "is missing beside"),
        ("local.kek", "a key is sealed under the local file keys/local.kek, and there is none"),
    ] {
        let (key, aside) = (volume.join("keys").join(name), home.path().join("aside"));
        std::fs::rename(&key, &aside).unwrap();
        let run = home.run(["run", "--network-url", "http://127.0.0.1:9"]);
        let run = run.failed(1, &[words, key.to_str().unwrap()]);
        let made = home.run(["init", "--if-missing"]).failed(1, &[words, key.to_str().unwrap()]);
        let last = |said: &str| said.trim_end().lines().last().unwrap_or_default().to_owned();
        assert_eq!(last(&made.err), last(&run.err), "a start says the same");
        assert_eq!(home.json(["status"])["keys_missing"], serde_json::json!([name]));
        std::fs::rename(&aside, &key).unwrap();
    }
    home.run(["init", "--if-missing"]).well();
    assert!(home.json(["status"])["keys_missing"].is_null());
}

#[test]
fn each_network_has_its_own_node() {
    let home = Home::new();
    let one = home.json(["init"]);
    let other = home.json(["init", "--network", "mainnet"]);
    assert_ne!(one["address"], other["address"]);
    assert_eq!(other["network"], "mainnet");
}

#[test]
fn a_node_under_a_passphrase_is_said_to_be_protected_and_opens_with_it_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let home = Home::new();
    let pass = home.file("pass", "correct horse\n");
    let pass = pass.to_str().unwrap();
    let made = home.json(["init", "--keys-passphrase-file", pass]);
    assert_eq!(made["protection"], "passphrase");
    home.run(["rotate", "--keys-passphrase-file", pass]).well();
    let mode = |mode| std::fs::set_permissions(pass, std::fs::Permissions::from_mode(mode)).unwrap();
    mode(0o644);
    let refused = home.run(["rotate", "--keys-passphrase-file", pass]);
    let refused = refused.failed(1, &[&format!("{pass} has mode 0644"), &format!("chmod 600 {pass}")]);
    assert!(!refused.err.contains("doctor"), "it mends nothing outside of the volume: {}", refused.err);
    mode(0o600);
    let wrong = home.file("wrong", "battery staple\n");
    home.run(["rotate", "--keys-passphrase-file", wrong.to_str().unwrap()])
        .failed(1, &["node.key", "passphrase"]);
}

/// A lock and an empty folder for keys were left of it.
#[test]
fn a_passphrase_file_that_is_refused_leaves_nothing_behind() {
    use std::os::unix::fs::PermissionsExt as _;
    let home = Home::new();
    let (pass, short) = (home.file("pass", "correct horse\n"), home.file("short", "1"));
    std::fs::set_permissions(&pass, std::fs::Permissions::from_mode(0o644)).unwrap();
    let (pass, short) = (pass.to_str().unwrap(), short.to_str().unwrap());
    for (flag, file, words) in [
        ("--keys-passphrase-file", pass, "has mode 0644"),
        ("--keys-passphrase-file", "/nowhere/pass", "which is not there"),
        ("--keys-secret-file", short, "holds 1 bytes"),
    ] {
        home.run(["init", flag, file]).failed(1, &[file, words]);
        assert!(!home.volume().exists(), "{flag} {file}");
    }
    std::fs::set_permissions(pass, std::fs::Permissions::from_mode(0o600)).unwrap();
    home.run(["init", "--keys-passphrase-file", pass]).well();
}

#[test]
fn a_folder_that_others_can_read_is_refused_with_the_command_that_mends_it() {
    use std::os::unix::fs::PermissionsExt as _;
    let home = Home::with_node();
    std::fs::set_permissions(home.volume(), std::fs::Permissions::from_mode(0o755)).unwrap();
    home.run(["status"]).failed(1, &[home.volume().to_str().unwrap(), "chmod 700"]);
    home.run(["init"]).failed(1, &["chmod 700"]);
}

/// It was sent to a doctor that told of a lost node.
#[test]
fn an_empty_folder_that_others_can_read_holds_nothing_that_a_doctor_could_mend() {
    use std::os::unix::fs::PermissionsExt as _;
    let home = Home::new();
    std::fs::create_dir(home.volume()).unwrap();
    let mode = |mode| std::fs::set_permissions(home.volume(), std::fs::Permissions::from_mode(mode)).unwrap();
    mode(0o755);
    let folder = home.volume();
    let cure = format!("(mode 0755): chmod 700 {}, or remove the empty folder", folder.display());
    let refused = home.run(["init"]).failed(1, &[&cure]);
    assert!(!refused.err.contains("doctor"), "{}", refused.err);
    mode(0o700);
    home.run(["init"]).well();
}

/// The words were about a key that is sealed under it; there is none yet.
#[test]
fn a_passphrase_file_that_is_not_there_is_named_with_the_command_that_makes_it() {
    let home = Home::new();
    let file = home.path().join("nowhere.pass");
    let file = file.to_str().unwrap();
    for (flag, to, what, make) in [
        (
            "--keys-passphrase-file",
            "--to-passphrase-file",
            "passphrase file",
            "head -c 24 /dev/urandom | base64",
        ),
        ("--keys-secret-file", "--to-secret-file", "secret file", "head -c 48 /dev/urandom"),
    ] {
        let named = format!("new keys are to be sealed under the {what} {file}, which is not there");
        let made = format!("`(umask 077; {make} > {file})`");
        home.run(["init", flag, file]).failed(1, &[&named, &made]);
        let other = Home::new();
        other.run(["init"]).well();
        other.run(["key", "reseal", to, file]).failed(1, &[&named, &made]);
        let line = format!("(umask 077; {make} > {file})");
        assert!(Command::new("sh").args(["-c", &line]).status().unwrap().success());
        home.run(["init", "--if-missing", flag, file]).well();
        std::fs::remove_dir_all(home.volume()).unwrap();
        std::fs::remove_file(file).unwrap();
    }
}

#[test]
fn the_next_command_names_this_node_and_how_its_keys_open() {
    let home = Home::new();
    let pass = home.file("pass", "correct horse");
    let (path, pass) = (home.path().to_str().unwrap(), pass.to_str().unwrap());
    let made = home.json(["--home", path, "--network", "mainnet", "init", "--keys-passphrase-file", pass]);
    let next = made["next"].as_str().unwrap();
    let start = format!(
        "`resultity-node --home {path} --network mainnet run --network-url <the network's address> --keys-passphrase-file {pass}`"
    );
    assert!(next.ends_with(&start), "{next}");
    assert!(next.contains(&format!("`resultity-node --home {path} --network mainnet key export`")), "{next}");
}

/// A person at a terminal of their own: reads until a question is there, then answers it.
struct Person {
    terminal: File,
    seen: Arc<(Mutex<(String, bool)>, Condvar)>,
    read: usize,
}

impl Person {
    /// Starts the program at a terminal that is its session's own: passphrases are asked for there.
    fn starts(home: &Home, arguments: &[&str]) -> (Self, std::process::Child) {
        Self::starts_with(home, arguments, &[])
    }

    /// The same with more variables.
    fn starts_with(
        home: &Home,
        arguments: &[&str],
        variables: &[(&str, &std::path::Path)],
    ) -> (Self, std::process::Child) {
        let (person, program) = terminal();
        let mut command = Command::new("setsid");
        command.args(["--ctty", "--wait", PROGRAM]).args(arguments).env_clear().current_dir(home.path());
        command.env("HOME", home.path()).env("PATH", std::env::var_os("PATH").unwrap());
        command.envs(variables.iter().copied());
        command.stdin(program.try_clone().unwrap()).stdout(program.try_clone().unwrap()).stderr(program);
        let child = command.spawn().unwrap();
        drop(command);
        let seen = Arc::new((Mutex::new((String::new(), false)), Condvar::new()));
        let (mut eyes, noted) = (person.try_clone().unwrap(), Arc::clone(&seen));
        std::thread::spawn(move || {
            let mut some = [0; 4096];
            // A terminal that nobody has open any more gives an error.
            while let Ok(length @ 1..) = eyes.read(&mut some) {
                noted.0.lock().unwrap().0 += &String::from_utf8_lossy(&some[..length]);
                noted.1.notify_all();
            }
            noted.0.lock().unwrap().1 = true;
            noted.1.notify_all();
        });
        (Self { terminal: person, seen, read: 0 }, child)
    }

    /// Waits for a question after the last one that was answered, and types the answer.
    #[track_caller]
    fn answers(&mut self, question: &str, answer: &str) {
        self.hears(question);
        self.terminal.write_all(answer.as_bytes()).unwrap();
        self.terminal.write_all(b"\n").unwrap();
    }

    /// Waits for something that is said, and says nothing.
    #[track_caller]
    fn hears(&mut self, said: &str) {
        let (state, changed) = &*self.seen;
        let there = |state: &mut (String, bool)| !state.1 && !state.0[self.read..].contains(said);
        let waited =
            changed.wait_timeout_while(state.lock().unwrap(), Duration::from_secs(120), there).unwrap();
        let text = waited.0.0.clone();
        drop(waited);
        let at = text[self.read..].find(said).unwrap_or_else(|| panic!("{said:?} did not come:\n{text}"));
        self.read += at + said.len();
    }

    /// All that was said, once the program has ended.
    fn hears_it_end(self, mut child: std::process::Child) -> (Option<i32>, String) {
        let code = child.wait().unwrap().code();
        let (state, changed) = &*self.seen;
        let ended =
            changed.wait_timeout_while(state.lock().unwrap(), Duration::from_secs(120), |state| !state.1);
        (code, ended.unwrap().0.0.clone())
    }
}

#[test]
fn a_beginner_is_asked_what_is_needed_and_ends_with_a_backup_and_the_next_command() {
    let home = Home::new();
    let folder = home.path().join("my node");
    let mut pages = Pages::of("terminal");
    let [typed] = pages.take("docs/install.md");
    pages.end();
    let arguments: Vec<_> = typed.bare().split(' ').skip(1).collect();
    let (mut person, child) = Person::starts(&home, &arguments);
    person.answers("Which? [1]", "3");
    person.answers("a number from 1 to 2", "1");
    person.answers("Folder? [", folder.to_str().unwrap());
    person.answers("Which? [1]", "");
    person.answers("new passphrase for the keys of this node:", "");
    person.hears("is empty: choose one");
    person.answers("new passphrase for the keys of this node:", "correct horse");
    person.answers("the same passphrase again:", "battery staple");
    person.hears("the two passphrases differ");
    person.answers("new passphrase for the keys of this node:", "correct horse");
    person.answers("the same passphrase again:", "correct horse");
    person.answers("set it later", "http://192.0.2.1");
    person.answers("use https", "");
    person.answers("[none]", "nobody");
    person.answers("[none]", "ops@example.org");
    person.answers("Go on? [Y/n]", "y");
    person.answers("Write a backup of the key now", "");
    person.answers("File? [resultity-testnet-key.json]", "");
    person.answers("passphrase for the backup of the key:", "staple horse");
    person.answers("the same passphrase again:", "staple horse");
    let (code, seen) = person.hears_it_end(child);
    assert_eq!(code, Some(0), "{seen}");
    assert!(!seen.contains("horse"), "no passphrase is shown: {seen}");
    for part in
        ["obfuscation", "sealed under your passphrase", "ops@example.org", "A node is made.", "key.json away"]
    {
        assert_eq!(seen.contains(part), part != "obfuscation", "{part}: {seen}");
    }
    let next =
        format!("`resultity-node --home '{}' run --network-url <the network's address>`", folder.display());
    assert_ends_with(&seen, &next);

    let path = folder.to_str().unwrap();
    let at = |arguments: &[&str]| home.run([&["--home", path], arguments].concat());
    let shown = at(&["account", "show", "--json"]).well().json();
    assert_eq!(shown["link"]["account"], "ops@example.org");
    // The backup opens with its own passphrase, and is this node's key.
    let (backup, pass) = (home.path().join("resultity-testnet-key.json"), home.file("pass", "staple horse"));
    let other = Home::new();
    let made =
        other.json(["key", "import", backup.to_str().unwrap(), "--passphrase-file", pass.to_str().unwrap()]);
    assert_eq!(made["address"], shown["address"]);
    let keys = home.file("keys", "correct horse");
    at(&["rotate", "--keys-passphrase-file", keys.to_str().unwrap()]).well();
}

#[test]
fn a_secret_file_and_an_address_are_kept_for_the_next_start() {
    let home = Home::new();
    let secret = home.file("kek", [7; 32]);
    let folder = home.path().join("home");
    let (mut person, child) = Person::starts(&home, &["init"]);
    person.answers("Which? [1]", "2");
    person.answers("Folder? [", "home");
    person.answers("Which? [1]", "2");
    person.answers("Which file?", "nowhere");
    person.answers("Which file?", "kek");
    person.answers("set it later", "https://node.example.org");
    person.answers("[none]", "");
    person.answers("Go on? [Y/n]", "");
    person.answers("Write a backup of the key now", "n");
    let (code, seen) = person.hears_it_end(child);
    assert_eq!(code, Some(0), "{seen}");
    let node = format!("resultity-node --home {} --network mainnet", folder.display());
    assert!(seen.contains(&format!("make a backup of its key (`{node} key export`)")), "{seen}");
    assert_ends_with(&seen, &format!("then start it: `{node} run`"));
    let settings = std::fs::read_to_string(folder.join("node.toml")).unwrap();
    let wanted = format!(
        "network = \"mainnet\"\nnetwork_url = \"https://node.example.org\"\n\n[keys]\nsecret_file = \"{}\"\n",
        secret.display()
    );
    assert_eq!(settings, wanted);
}

/// Where a package had put a settings file, the address that was typed was lost without a word; where systemd gave a
/// credential, a passphrase was asked for that nothing was sealed under.
#[test]
fn nothing_is_asked_that_would_not_count_and_what_is_not_kept_is_said() {
    let home = Home::new();
    let credentials = tempfile::tempdir().unwrap();
    std::fs::write(credentials.path().join("resultity-kek"), [7; 48]).unwrap();
    let folder = home.path().join("home");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("node.toml"), "# somebody's\n").unwrap();
    let (mut person, child) = Person::starts_with(
        &home,
        &["init", "--network", "testnet", "--home", folder.to_str().unwrap()],
        &[("CREDENTIALS_DIRECTORY", credentials.path())],
    );
    person.answers("set it later", "https://node.example.org");
    person.answers("[none]", "");
    person.hears("write into it:");
    person.hears("network_url = \"https://node.example.org\"");
    person.answers("Go on? [Y/n]", "");
    person.answers("Write a backup of the key now", "n");
    let (code, seen) = person.hears_it_end(child);
    assert_eq!(code, Some(0), "{seen}");
    assert!(seen.contains("its key: sealed under the systemd credential"), "{seen}");
    assert_ends_with(&seen, " run --network-url <the network's address>`");
    assert_eq!(std::fs::read_to_string(folder.join("node.toml")).unwrap(), "# somebody's\n");
}

#[test]
fn who_says_no_finds_everything_as_it_was() {
    let home = Home::new();
    let folder = home.path().join("home");
    let (mut person, child) =
        Person::starts(&home, &["init", "--network", "testnet", "--home", folder.to_str().unwrap()]);
    person.answers("Which? [1]", "3");
    person.answers("set it later", "");
    person.answers("[none]", "");
    person.answers("Go on? [Y/n]", "n");
    let (code, seen) = person.hears_it_end(child);
    assert_eq!(code, Some(1), "{seen}");
    assert!(seen.contains("nothing was done"), "{seen}");
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0, "{seen}");
}

#[test]
fn flags_keep_it_from_asking_at_a_terminal_too() {
    for arguments in [&["init", "--no-questions"][..], &["init", "--if-missing"]] {
        let home = Home::new();
        let folder = home.path().join("home");
        let place = ["--home", folder.to_str().unwrap()];
        let (person, child) = Person::starts(&home, &[&place[..], arguments].concat());
        let (code, seen) = person.hears_it_end(child);
        assert_eq!(code, Some(0), "{seen}");
        assert!(seen.contains("A node is made.") && !seen.contains("?"), "{seen}");
    }
}
