//! `account`: linked, shown, taken away.

use crate::home::Home;

const WALLET: &str = "0xAb5801a7D398351b8bE11C439e05C5B3259aeC9B";

#[test]
fn an_account_is_linked_shown_and_taken_away() {
    let home = Home::with_node();
    assert!(home.json(["account", "show"])["link"].is_null());
    home.run(["account", "show"]).well().says(&["none", "account link"]);
    let linked = home.json(["account", "link", "--wallet", WALLET]);
    assert_eq!((&linked["link"]["account"], &linked["link"]["kind"]), (&WALLET.into(), &"wallet".into()));
    assert_eq!(home.json(["account", "show"])["link"], linked["link"]);
    assert_eq!(home.json(["status"])["account"]["account"], WALLET);

    let proof = home.file("receipt", "a receipt\n");
    let email = ["account", "link", "--email", "ops@example.org", "--proof-file", proof.to_str().unwrap()];
    assert_eq!(home.json(email)["link"]["proof"], "a receipt");
    home.run(["account", "show"]).well().says(&["ops@example.org", "a receipt"]);
    home.run(["account", "unlink"]).well().says(&["taken away"]);
    home.run(["account", "unlink"]).well().says(&["There was no link."]);
    assert!(home.json(["account", "show"])["link"].is_null());
}

#[test]
fn what_is_no_account_is_refused_before_anything_is_opened() {
    let home = Home::with_node();
    home.run(["account", "link", "--wallet", "0xAb5801a7D398351b8bE11C439e05C5B3259aeC9C"])
        .failed(2, &["checksum"]);
    home.run(["account", "link", "--email", "nobody"]).failed(2, &["nobody", "name@domain"]);
    home.run(["account", "link"]).failed(2, &["--wallet", "--email"]);
    home.run(["account", "link", "--wallet", WALLET, "--email", "a@b"]).failed(2, &["cannot be used with"]);
}
