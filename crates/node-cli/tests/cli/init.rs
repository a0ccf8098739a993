//! `init`: a node is made once.

use crate::home::Home;

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
    let address = text.lines().find_map(|line| line.strip_prefix("address")).unwrap().trim().to_owned();
    home.run(["init"]).failed(1, &[home.volume().to_str().unwrap(), &address, "--if-missing", "--home"]);
    let again = home.json(["init", "--if-missing"]);
    assert_eq!((&again["created"], &again["address"]), (&false.into(), &address.into()));
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
    let home = Home::new();
    let pass = home.file("pass", "correct horse\n");
    let pass = pass.to_str().unwrap();
    let made = home.json(["init", "--keys-passphrase-file", pass]);
    assert_eq!(made["protection"], "passphrase");
    home.run(["rotate", "--keys-passphrase-file", pass]).well();
    let wrong = home.file("wrong", "battery staple\n");
    home.run(["rotate", "--keys-passphrase-file", wrong.to_str().unwrap()])
        .failed(1, &["node.key", "passphrase"]);
}

#[test]
fn a_folder_that_others_can_read_is_refused_with_the_command_that_mends_it() {
    use std::os::unix::fs::PermissionsExt as _;
    let home = Home::with_node();
    std::fs::set_permissions(home.volume(), std::fs::Permissions::from_mode(0o755)).unwrap();
    home.run(["status"]).failed(1, &[home.volume().to_str().unwrap(), "chmod 700"]);
    home.run(["init"]).failed(1, &["chmod 700"]);
}
