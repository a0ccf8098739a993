//! The account link, the sequence and the clock's mark survive what they must survive.

mod common;

use common::{NOW, create, open, open_as, stamp, volume_folder};
use node_store::{
    binding::{Account, AccountLink, BadLink, EMAIL_BYTES_MAX, PROOF_BYTES_MAX},
    clock::{Mark, Trust},
    format::Stamp,
};
use node_types::{Address, Network, NodeId};

fn link(email: &str) -> Result<AccountLink, BadLink> {
    AccountLink::new(Account::Email(email.into()), NOW, "receipt".into())
}

/// `jobs.db` and `logs.db` are deleted by hand: the node keeps its ID, its account, its sequence and its clock.
#[test]
fn the_binding_and_the_node_survive_the_loss_of_jobs_and_logs() {
    let wallet = AccountLink::new(Account::Wallet(Address::from_bytes([3; 20])), NOW, "signature".into());
    for linked in [link("owner@example.org").unwrap(), wallet.unwrap()] {
        let home = tempfile::tempdir().unwrap();
        let folder = volume_folder(&home);
        let volume = create(&folder);
        let binding = volume.binding();
        let node = volume.stamp().node;
        let mark = Mark { now: NOW, since_boot_ms: 5, boot: "a".into(), trust: Trust::Trusted };
        binding.link(linked.clone()).wait().unwrap();
        binding.keep_clock_mark(mark.clone()).wait().unwrap();
        assert_eq!(binding.reserve_sequence(10).wait().unwrap(), 1..11);
        drop((volume, binding));
        for name in ["jobs.db", "logs.db"] {
            let left = std::process::Command::new("rm").arg(folder.join(name)).status().unwrap();
            assert!(left.success());
        }
        let other = NodeId::derive(Network::Testnet, &Address::from_bytes([9; 20]));
        let refused = open_as(&folder, Stamp { node: other, ..stamp(Network::Testnet) });
        assert!(refused.is_err(), "what is left knows whose it is");
        let volume = open(&folder);
        let binding = volume.binding();
        assert_eq!(binding.view().account().unwrap(), Some(linked));
        assert_eq!(binding.view().clock_mark().unwrap(), Some(mark));
        assert_eq!(binding.reserve_sequence(1).wait().unwrap(), 11..12);
        for name in ["state.db", "jobs.db", "logs.db"] {
            let raw = rusqlite::Connection::open(folder.join(name)).unwrap();
            let stamped: String = raw.query_row("SELECT node FROM stamp", (), |row| row.get(0)).unwrap();
            assert_eq!(stamped, node.to_string(), "{name}");
        }
    }
}

/// Once, a link that was read was not checked at all.
#[test]
fn a_link_that_is_read_is_checked_as_one_that_is_made() {
    let longest = "p".repeat(PROOF_BYTES_MAX);
    let email = format!("{}@example.org", "a".repeat(EMAIL_BYTES_MAX - 12));
    let good = AccountLink::new(Account::Email(email.clone()), NOW, longest.clone()).unwrap();
    let text = serde_json::to_string(&good).unwrap();
    let read = |text: &str| serde_json::from_str::<AccountLink>(text).map_err(|error| error.to_string());
    assert_eq!(read(&text), Ok(good));
    let proof = read(&text.replace(&longest, &(longest.clone() + "p"))).unwrap_err();
    assert!(proof.contains("the proof has 4097 bytes"), "{proof}");
    for bad in [format!("a{email}"), "nobody".into()] {
        let error = read(&text.replace(&email, &bad)).unwrap_err();
        assert!(error.contains("is not an e-mail address"), "{error}");
    }
    assert!(read(&text.replace("\"proof\"", "\"balance\":1,\"proof\"")).is_err());
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
