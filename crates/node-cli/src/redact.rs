//! Taking out of a text what says who and where: for what is given to strangers.
//!
//! Whatever else it may be, it is replaced: addresses of e-mail, what stands before the `@` of a URL and behind its `?`, IP
//! addresses other than loopback's, long hexadecimal numbers that are no digest (a key is one), this machine's name, and the
//! folders and media of its users. Addresses of
//! accounts keep their first and last digits, so that two of them can still be told apart.
//!
//! It works on texts, not on meanings: what a text says in other words stays. So only what is on the bundle's list goes
//! through it at all.

use std::net::IpAddr;

use node_agent::address;
use node_types::Network;
use serde_json::Value;

/// The most hexadecimal digits in a row that stay: those of a UUID without its hyphens.
const HEX_MAX: usize = 32;
/// The digits of an account's address.
const ADDRESS_DIGITS: usize = 40;

/// What is known of this machine.
#[derive(Clone, Debug, Default)]
pub(crate) struct Redactor {
    /// Texts and what stands for them, the longest first.
    known: Vec<(String, &'static str)>,
}

impl Redactor {
    /// Knows the user's folder and this machine's name.
    pub(crate) fn new(home: Option<&str>, host: Option<&str>) -> Self {
        let mut known = Vec::new();
        let mut know = |text: Option<&str>, stands: &'static str| {
            let text = text.map(|text| text.trim_end_matches('/')).filter(|text| text.len() > 2);
            // Of this word there is one everywhere, and it says nothing.
            known.extend(text.filter(|text| *text != "localhost").map(|text| (text.to_owned(), stands)));
        };
        know(home, "~");
        know(host, "<host>");
        known.sort_by_key(|(text, _): &(String, _)| std::cmp::Reverse(text.len()));
        Self { known }
    }

    /// Every text in a value, names of fields too.
    pub(crate) fn value(&self, value: Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.text(&text)),
            Value::Array(all) => Value::Array(all.into_iter().map(|value| self.value(value)).collect()),
            Value::Object(fields) => Value::Object(
                fields.into_iter().map(|(name, value)| (self.text(&name), self.value(value))).collect(),
            ),
            other @ (Value::Null | Value::Bool(_) | Value::Number(_)) => other,
        }
    }

    /// A text.
    pub(crate) fn text(&self, text: &str) -> String {
        let mut text = address::shown_in(text);
        for (known, stands) in &self.known {
            text = text.replace(known.as_str(), stands);
        }
        words(&users(&text))
    }
}

/// The name behind the folder of users, or of what they plug in (`/media`, `/run/media`): of others than this one too.
fn users(text: &str) -> String {
    let folders = ["home", "Users", "media"].map(|folder| format!("/{folder}/"));
    let mut text = text.to_owned();
    for folder in folders {
        let (mut out, mut rest) = (String::new(), text.as_str());
        while let Some(found) = rest.find(&folder) {
            let (before, after) = rest.split_at(found + folder.len());
            let end = after.find(|letter: char| !is_of_word(letter)).unwrap_or(after.len());
            out.push_str(before);
            // A node's home may be called as the folder of users is; what stands in it is no user.
            let name = &after[..end];
            out.push_str(if end == 0 || is_of_a_home(name) { name } else { "<user>" });
            rest = &after[end..];
        }
        text = out + rest;
    }
    text
}

/// Whether something in a node's home is called so.
fn is_of_a_home(name: &str) -> bool {
    let of_network = |network: &Network| {
        let rest = name.trim_start_matches('.').strip_prefix(network.name());
        rest.is_some_and(|rest| ["", ".", ".backup", ".restore"].contains(&rest))
    };
    name == "node.toml" || Network::ALL.iter().any(of_network)
}

const fn is_of_word(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || matches!(letter, '.' | '_' | '-' | '+' | '%') || !letter.is_ascii()
}

/// E-mail addresses, IP addresses and long numbers.
fn words(text: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    let is_part = |letter: char| is_of_word(letter) || letter == '@' || letter == ':';
    while !rest.is_empty() {
        let start = rest.find(is_part).unwrap_or(rest.len());
        out.push_str(&rest[..start]);
        rest = &rest[start..];
        let end = rest.find(|letter: char| !is_part(letter)).unwrap_or(rest.len());
        if is_elsewhere(&rest[..end]) {
            out.push_str("<ip>");
            rest = &rest[end..];
            continue;
        }
        for part in rest[..end].split_inclusive(':') {
            let (word, colon) = part.strip_suffix(':').map_or((part, ""), |word| (word, ":"));
            let digest = out.ends_with("sha256:") || out.ends_with("blake3:");
            out.push_str(&word_of(word, digest));
            out.push_str(colon);
        }
        rest = &rest[end..];
    }
    out
}

/// Whether it is an IP address that others could tell this machine or its network by.
fn is_elsewhere(word: &str) -> bool {
    let word = word.split('%').next().unwrap_or(word).trim_end_matches('.');
    word.parse::<IpAddr>().is_ok_and(|address| !address.is_loopback() && !address.is_unspecified())
}

fn word_of(word: &str, digest: bool) -> String {
    if is_elsewhere(word) {
        return "<ip>".to_owned();
    }
    if let Some((name, domain)) = word.rsplit_once('@')
        && !name.is_empty()
        && domain.contains(|letter: char| letter.is_alphabetic())
        // A model is named `name@version`.
        && (domain.contains('.') && domain.split('.').next_back().is_some_and(|last| last.chars().all(char::is_alphabetic)))
    {
        return "<e-mail>".to_owned();
    }
    if digest {
        return word.to_owned();
    }
    let (mut out, mut run) = (String::new(), String::new());
    for letter in word.chars().chain([' ']) {
        if letter.is_ascii_hexdigit() {
            run.push(letter);
            continue;
        }
        if run.len() == ADDRESS_DIGITS && (out.ends_with("0x") || out.ends_with("0X")) {
            out.push_str(&format!("{}...{}", &run[..4], &run[ADDRESS_DIGITS - 4..]));
        } else if run.len() > HEX_MAX {
            out.push_str(&format!("<{} hex digits>", run.len()));
        } else {
            out.push_str(&run);
        }
        run.clear();
        out.push(letter);
    }
    out.pop();
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn redacted(text: &str) -> String {
        let home = ["", "home", "ada"].join("/");
        Redactor::new(Some(&home), Some("rack-7")).text(text)
    }

    #[test]
    fn what_says_who_and_where_is_taken_out() {
        let user = |name: &str, rest: &str| ["", "home", name, rest].join("/");
        let key = "ab".repeat(32);
        let address = format!("0x{}", "12".repeat(20));
        for (text, wanted) in [
            ("mail ada@example.org now".to_owned(), "mail <e-mail> now".to_owned()),
            ("<ada.l+x@mail.example.co.uk>".to_owned(), "<<e-mail>>".to_owned()),
            (format!("at {}", user("ada", "node/x")), "at ~/node/x".to_owned()),
            (format!("at {}.", user("bob", "x")), format!("at {}.", user("<user>", "x"))),
            ("on rack-7: full".to_owned(), "on <host>: full".to_owned()),
            ("https://ada:secret@example.org/x".to_owned(), "https://<login>@example.org/x".to_owned()),
            ("see \"https://ada@h:1/\"".to_owned(), "see \"https://<login>@h:1/\"".to_owned()),
            (
                "https://h.example/x?sig=s3cr3t&a=b now".to_owned(),
                "https://h.example/x?<query> now".to_owned(),
            ),
            ("https://h.example?next=https://ada:pw@h/".to_owned(), "https://h.example?<query>".to_owned()),
            ("a://h,b://ada:pw@h/#token".to_owned(), "a://h,b://<login>@h/?<query>".to_owned()),
            (["", "run", "media", "ada", "stick"].join("/"), "/run/media/<user>/stick".to_owned()),
            (["", "media", "bob", "stick"].join("/"), "/media/<user>/stick".to_owned()),
            ("listens on 192.168.7.5:8080.".to_owned(), "listens on <ip>:8080.".to_owned()),
            ("from 203.0.113.9.".to_owned(), "from <ip>".to_owned()),
            ("http://[2001:db8::7]:9/ fe80::1%eth0".to_owned(), "http://[<ip>]:9/ <ip>".to_owned()),
            (address.clone(), "0x1212...1212".to_owned()),
            (format!("key {key}"), "key <64 hex digits>".to_owned()),
            (format!("0x{key}!"), "0x<64 hex digits>!".to_owned()),
            (key.to_uppercase(), "<64 hex digits>".to_owned()),
        ] {
            assert_eq!(redacted(&text), wanted);
        }
    }

    #[test]
    fn what_says_neither_stays() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        for text in [
            digest.as_str(),
            "gemma-3-270m@1.0.0",
            "0193a1b2-89ab-7fff-bfff-ffffffffffff",
            "http://127.0.0.1:8080/v1",
            "[::1]:8080 and 0.0.0.0:80 and [::]:80, release 6.8.0.31-generic",
            "12:00:01 it runs; 5 % of 10",
            "rstn1qqq: a@b",
            "",
            "Größe, 東京: ok",
        ] {
            assert_eq!(redacted(text), text);
        }
    }

    /// A node's home may be called as the folder of users is.
    #[test]
    fn what_stands_in_a_nodes_home_is_no_user() {
        for name in ["testnet/state.db", ".mainnet.restore", "node.toml"] {
            let text = format!("at {}, full", ["/srv", "home", name].join("/"));
            assert_eq!(redacted(&text), text);
        }
        let user = ["/srv", "home", "testnet2", "x"].join("/");
        assert!(!redacted(&user).contains("testnet2"));
    }

    #[test]
    fn names_of_fields_and_texts_however_deep_are_looked_at() {
        let value = json!({ "a@b.org": ["x", { "y": "c@d.org" }], "n": 5 });
        let wanted = json!({ "<e-mail>": ["x", { "y": "<e-mail>" }], "n": 5 });
        assert_eq!(Redactor::default().value(value), wanted);
    }
}
