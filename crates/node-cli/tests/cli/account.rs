//! `account`: linked, shown, taken away.

use std::{io::Write as _, process::Stdio};

use crate::home::Home;

const WALLET: &str = "0xAb5801a7D398351b8bE11C439e05C5B3259aeC9B";

#[test]
fn an_account_is_linked_shown_and_taken_away() {
    let home = Home::with_node();
    assert!(home.json(["account", "show"])["link"].is_null());
    home.run(["account", "show"]).well().says(&["none", "account link --wallet"]);
    let linked = home.json(["account", "link", "--wallet", WALLET]);
    assert_eq!((&linked["link"]["account"], &linked["link"]["kind"]), (&WALLET.into(), &"wallet".into()));
    assert_eq!(home.json(["account", "show"])["link"], linked["link"]);
    assert_eq!(home.json(["status"])["account"]["account"], WALLET);

    let proof = home.file("receipt", "a receipt\n");
    let email = ["account", "link", "--email", "ops@example.org", "--proof-file", proof.to_str().unwrap()];
    assert_eq!(home.json(email)["link"]["proof"], "a receipt");
    home.run(["account", "show"]).well().says(&["ops@example.org", "a receipt"]);
    assert_eq!(home.json(["status"])["account"]["account"], "o...@example.org", "anybody may look at that");
    home.run(["account", "unlink"]).well().says(&["taken away"]);
    home.run(["account", "unlink"]).well().says(&["There was no link."]);
    assert!(home.json(["account", "show"])["link"].is_null());
}

/// Arguments can be seen by every user of the machine.
#[test]
fn an_e_mail_address_need_not_stand_in_the_arguments() {
    let home = Home::with_node();
    let file = home.file("address", "ops@example.org\n");
    let linked = home.json(["account", "link", "--email-file", file.to_str().unwrap()]);
    assert_eq!(linked["link"]["account"], "ops@example.org");
    let mut typed = home.command(["account", "link", "--email-file", "-", "--json"]);
    let mut child = typed.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"ada@example.org\n").unwrap();
    assert!(child.wait_with_output().unwrap().status.success());
    assert_eq!(home.json(["account", "show"])["link"]["account"], "ada@example.org");
}

#[test]
fn what_is_no_account_is_refused_before_anything_is_opened() {
    let home = Home::with_node();
    home.run(["account", "link", "--wallet", "0xAb5801a7D398351b8bE11C439e05C5B3259aeC9C"])
        .failed(2, &["checksum"]);
    home.run(["account", "link", "--email", "nobody"]).failed(2, &["nobody", "name@domain"]);
    home.run(["account", "link", "--email-file", home.file("a", "nobody").to_str().unwrap()])
        .failed(2, &["nobody", "name@domain"]);
    home.run(["account", "link"]).failed(2, &["--wallet", "--email", "--email-file"]);
    home.run(["account", "link", "--wallet", WALLET, "--email", "a@b"]).failed(2, &["cannot be used with"]);
}
