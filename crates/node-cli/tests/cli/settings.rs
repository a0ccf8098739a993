//! Settings: flags over variables over the file, and nothing that is not known.

use crate::home::{Home, Ran};

fn network(ran: Ran) -> String {
    ran.well().json()["network"].as_str().unwrap().to_owned()
}

#[test]
fn a_flag_wins_over_a_variable_and_a_variable_over_the_file() {
    let home = Home::new();
    home.run(["init"]).well();
    home.run(["init", "--network", "mainnet"]).well();
    let status = ["status", "--json"];
    assert_eq!(network(home.run(status)), "testnet");
    home.file("node.toml", "network = \"mainnet\"");
    assert_eq!(network(home.run(status)), "mainnet", "the file in the home");
    let with_variable = |arguments: &[&str]| -> Ran {
        home.command(arguments).env("RESULTITY_NETWORK", "testnet").output().unwrap().into()
    };
    assert_eq!(network(with_variable(&status)), "testnet");
    assert_eq!(network(with_variable(&["status", "--json", "--network", "mainnet"])), "mainnet");
}

#[test]
fn the_file_is_named_by_flag_or_variable_and_may_name_the_home() {
    let (home, other) = (Home::new(), Home::with_node());
    let text = format!("home = {:?}", other.path());
    let file = home.file("elsewhere.toml", text);
    let mut command = home.command(["status", "--json"]);
    command.env_remove("RESULTITY_HOME").env("RESULTITY_CONFIG", &file);
    let by_variable: Ran = command.output().unwrap().into();
    assert_eq!(by_variable.well().json()["folder"], other.volume().to_str().unwrap());
    let mut command = home.command(["status", "--json", "--config", file.to_str().unwrap()]);
    let by_flag: Ran = command.env_remove("RESULTITY_HOME").output().unwrap().into();
    assert_eq!(by_flag.well().json()["folder"], other.volume().to_str().unwrap());
    home.run(["status", "--config", "none.toml"])
        .failed(2, &["none.toml", "No such file or directory (os error 2)"]);
}

#[test]
fn what_is_not_known_is_named_with_what_may_have_been_meant() {
    let home = Home::with_node();
    home.file("node.toml", "[keys]\npasphrase_file = \"x\"");
    home.run(["status"])
        .failed(2, &["node.toml", "keys.pasphrase_file", "did you mean keys.passphrase_file?"]);
    home.file("node.toml", "network == 1");
    // The place is drawn, line by line.
    home.run(["status"]).failed(2, &["node.toml is not TOML", "line 1, column 10\n", "1 | network == 1\n"]);
    home.file("node.toml", "network_url = http://user:s3cretpw@127.0.0.1");
    let drawn = ["node.toml is not TOML", "line 1, column", "network_url = <login>@127.0.0.1"];
    assert!(!home.run(["status"]).failed(2, &drawn).err.contains("s3cret"));
    home.file("node.toml", "home = \"/elsewhere\"");
    home.run(["status"]).failed(2, &["node.toml", "--config"]);
    home.file("node.toml", "network = \"moonnet\"");
    home.run(["status"]).failed(2, &["network in", "node.toml", "moonnet", "testnet or mainnet"]);
    std::fs::remove_file(home.path().join("node.toml")).unwrap();
    let ran: Ran = home.command(["status"]).env("RESULTITY_RUNTIME_URI", "x").output().unwrap().into();
    ran.failed(2, &["RESULTITY_RUNTIME_URI", "did you mean RESULTITY_RUNTIME_URL?"]);
    home.run(["status", "--netwrok", "testnet"]).failed(2, &["--network"]);
    home.run(["stauts"]).failed(2, &["status"]);
}

#[test]
fn an_address_that_cannot_be_used_is_refused_by_every_command_and_no_password_is_repeated() {
    let home = Home::with_node();
    home.file("node.toml", "network_url = \"http://user:s3cretpw@127.0.0.1:7411\"");
    for command in [&["status"] as &[&str], &["run"], &["doctor"]] {
        let ran = home.run(command.iter().copied());
        let said = format!("{}{}", ran.out, ran.err);
        assert!(said.contains("a user name or a password") && !said.contains("s3cretpw"), "{said}");
        assert_eq!(ran.code, Some(if command[0] == "doctor" { 7 } else { 2 }), "{said}");
    }
    home.file("node.toml", "network_url = 5");
    home.run(["status"]).failed(2, &["network_url in", "it is no URL"]);
    home.file("node.toml", "");
    home.run(["run", "--network-url", "http://127.0.0.1:9", "--runtime-url", "nope"])
        .failed(2, &["--runtime-url is \"nope\"", "it is no URL"]);
}

#[test]
fn what_a_setting_should_be_is_said_of_it() {
    let home = Home::new();
    home.file("node.toml", "[keys]\npassphrase_file = \"\"");
    home.run(["status"]).failed(2, &["keys.passphrase_file in", "something, or not be set"]);
    home.file("node.toml", "[keys]\npassphrase_file = 1");
    home.run(["status"]).failed(2, &["is \"1\": it should be a path in quotes"]);
    home.file("node.toml", "[runtime]\nreadable = \"/usr\"");
    home.run(["status"]).failed(2, &["a list of paths in quotes"]);
}

#[test]
fn a_token_that_cannot_be_used_is_a_setting_that_is_wrong() {
    let home = Home::with_node();
    let token = home.path().join("no-token");
    let (url, token) =
        (["--network-url", "http://127.0.0.1:9"], ["--page-token-file", token.to_str().unwrap()]);
    home.run(["run"].into_iter().chain(url).chain(token)).failed(2, &["no-token", "No such file"]);
}

#[test]
fn an_empty_flag_is_refused_and_a_relative_home_is_made_absolute() {
    let home = Home::new();
    home.run(["init", "--home", ""]).failed(2, &["--home"]);
    home.run(["init", "--network", ""]).failed(2, &["--network is \"\"", "something"]);
    let mut command = home.command(["init", "--home", "here", "--json"]);
    let made: Ran = command.current_dir(home.path()).output().unwrap().into();
    let folder = home.path().join("here/testnet");
    assert_eq!(made.well().json()["folder"], folder.to_str().unwrap());
    assert!(folder.join("state.db").exists());
}

#[test]
fn a_wrong_command_line_is_json_too_where_json_is_asked_for() {
    let home = Home::new();
    let said = home.run(["logs", "--level", "loud", "--json"]).failed(2, &[]);
    let error: serde_json::Value = serde_json::from_str(&said.err).unwrap();
    assert_eq!(error["error"]["code"], 2);
    let message = error["error"]["message"].as_str().unwrap();
    assert!(message.starts_with("invalid value 'loud'"), "{message}");
    home.run(["--version", "--json"]).well().says(&[env!("CARGO_PKG_VERSION")]);
}

#[test]
fn what_run_needs_is_asked_for() {
    let home = Home::with_node();
    home.run(["run"]).failed(2, &["--network-url", "RESULTITY_NETWORK_URL", "node.toml"]);
    for (log, slip) in
        [("==", ""), ("loud", "\"loud\" is no level"), ("info,node_store", "\"node_store\" is no level")]
    {
        home.run(["run", "--network-url", "http://127.0.0.1:9", "--log", log]).failed(2, &["--log", slip]);
    }
    home.run(["run", "--network-url", "http://127.0.0.1:9", "--keyset-digest", "sha256:1"])
        .failed(2, &["--keyset-digest"]);
}

#[test]
fn an_address_that_cannot_be_used_is_a_wrong_setting() {
    let home = Home::with_node();
    home.run(["run", "--network-url", "http://192.0.2.1"]).failed(2, &["http://192.0.2.1", "use https"]);
}
