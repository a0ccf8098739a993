//! The account link, the sequence and the clock's mark survive what they must survive.

mod common;

use common::{NOW, create, open, volume_folder};
use node_store::{
    binding::{Account, AccountLink, BadLink, EMAIL_BYTES_MAX, PROOF_BYTES_MAX},
    clock::{Mark, Trust},
};

fn link(email: &str) -> Result<AccountLink, BadLink> {
    AccountLink::new(Account::Email(email.into()), NOW, "receipt".into())
}

/// `jobs.db` and `logs.db` are deleted by hand: the node keeps its account, its sequence and its clock.
#[test]
fn the_binding_survives_the_loss_of_jobs_and_logs() {
    let home = tempfile::tempdir().unwrap();
    let folder = volume_folder(&home);
    let volume = create(&folder);
    let binding = volume.binding();
    let mark = Mark { now: NOW, since_boot_ms: 5, boot: "a".into(), trust: Trust::Trusted };
    binding.link(link("owner@example.org").unwrap()).wait().unwrap();
    binding.keep_clock_mark(mark.clone()).wait().unwrap();
    assert_eq!(binding.reserve_sequence(10).wait().unwrap(), 1..11);
    drop((volume, binding));
    for name in ["jobs.db", "logs.db"] {
        let left = std::process::Command::new("rm").arg(folder.join(name)).status().unwrap();
        assert!(left.success());
    }
    let binding = open(&folder).binding();
    assert_eq!(binding.view().account().unwrap(), Some(link("owner@example.org").unwrap()));
    assert_eq!(binding.view().clock_mark().unwrap(), Some(mark));
    assert_eq!(binding.reserve_sequence(1).wait().unwrap(), 11..12);
}

#[test]
fn an_account_is_linked_in_place_of_the_earlier_one_and_unlinked() {
    let home = tempfile::tempdir().unwrap();
    let binding = create(&volume_folder(&home)).binding();
    assert_eq!(binding.view().account().unwrap(), None);
    binding.link(link("a@example.org").unwrap()).wait().unwrap();
    binding.link(link("b@example.org").unwrap()).wait().unwrap();
    assert_eq!(binding.unlink().wait().unwrap(), Some(link("b@example.org").unwrap()));
    assert_eq!(binding.view().account().unwrap(), None);
}

#[test]
fn what_is_no_address_is_refused() {
    let longest = format!("{}@example.org", "a".repeat(EMAIL_BYTES_MAX - 12));
    assert!(link(&longest).is_ok());
    let refused = [&*format!("a{longest}"), "a", "@example.org", "a@", "a b@example.org", "a@b\n"];
    for text in refused {
        assert_eq!(link(text), Err(BadLink::Email(text.into())), "{text}");
    }
    let proof = "p".repeat(PROOF_BYTES_MAX + 1);
    let email = Account::Email("a@example.org".into());
    assert_eq!(AccountLink::new(email, NOW, proof), Err(BadLink::Proof(PROOF_BYTES_MAX + 1)));
}

#[test]
fn the_clocks_mark_never_goes_back() {
    let home = tempfile::tempdir().unwrap();
    let binding = create(&volume_folder(&home)).binding();
    let mark = |now| Mark { now, since_boot_ms: 5, boot: "a".into(), trust: Trust::Trusted };
    binding.keep_clock_mark(mark(NOW.plus_ms(1))).wait().unwrap();
    binding.keep_clock_mark(mark(NOW)).wait().unwrap();
    assert_eq!(binding.view().clock_mark().unwrap(), Some(mark(NOW.plus_ms(1))));
}
