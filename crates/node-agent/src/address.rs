//! Addresses on the network, as settings and snapshots name them: whether one may be asked, and how it is printed. A login in
//! one is never printed, and no address with one is used: it would stand in settings, logs and errors of other programs.

use std::net::IpAddr;

use reqwest::Url;

/// Whose address it is: what may stand in it depends on that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// The network's.
    Network,
    /// That of a collector of logs and metrics.
    Collector,
    /// That of a runtime of the operator's: it may be another machine of theirs, without TLS.
    Runtime,
    /// That of a source of models: it may have a query.
    Source,
}

/// An address that may be asked.
///
/// # Errors
/// What is wrong with it, in words that do not repeat it.
pub fn parse(address: &str, whose: Whose) -> Result<Url, &'static str> {
    let url = Url::parse(address).map_err(|_| match whose {
        Whose::Collector => "it is no URL; it should be like http://127.0.0.1:4318",
        Whose::Network | Whose::Runtime | Whose::Source => "it is no URL",
    })?;
    judge(&url, whose)?;
    Ok(url)
}

/// Whether an address may be asked.
///
/// # Errors
/// What is wrong with it, in words that do not repeat it.
pub fn judge(url: &Url, whose: Whose) -> Result<(), &'static str> {
    let host = url.host_str().ok_or("it names no host")?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(match whose {
            Whose::Network | Whose::Source => "it carries a user name or a password",
            Whose::Collector => "it carries a user name or a password: put them into otlp.headers_file",
            Whose::Runtime => "it carries a user name or a password: put a key into runtime.api_key_file",
        });
    }
    let (may_query, plain_everywhere) = match whose {
        Whose::Network | Whose::Collector => (false, false),
        Whose::Runtime => (false, true),
        Whose::Source => (true, false),
    };
    if !may_query && (url.query().is_some() || url.fragment().is_some()) {
        return Err("it ends with a query: give the address alone");
    }
    match url.scheme() {
        "https" => Ok(()),
        "http" if plain_everywhere || is_loopback(host) => Ok(()),
        "http" => Err("http is for this machine alone: use https"),
        _ if whose == Whose::Source => Err("it begins with neither https nor http nor file"),
        _ => Err("it begins with neither https nor http"),
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.trim_matches(['[', ']']).parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

/// An address as it may be printed: without login and query. Whatever stands before the last `@` is taken for a login, however
/// the address is mistyped.
#[must_use]
pub fn shown(address: &str) -> String {
    let Some((login, behind)) = address.rsplit_once('@') else { return without_queries(address) };
    let scheme = login.split_once("://").map_or_else(String::new, |(scheme, _)| format!("{scheme}://"));
    let place = behind.find(['?', '#']).map_or(behind, |end| &behind[..end]);
    format!("{scheme}<login>@{place}")
}

/// Lines of settings as they may be printed: of a value with an `@` in it what stands before that may be a login.
#[must_use]
pub fn shown_in_settings(lines: &str) -> String {
    let line = |line: &str| match line.rsplit_once('@') {
        Some((login, behind)) => {
            let name = login.find('=').map_or("", |end| &login[..=end]);
            format!("{name} <login>@{behind}\n")
        }
        None => format!("{line}\n"),
    };
    lines.lines().map(line).collect()
}

/// A text as it may be printed: every address in it without login and query.
#[must_use]
pub fn shown_in(text: &str) -> String {
    without_logins(&without_queries(text))
}

/// `scheme://host/path?query` without its query: tokens and keys are given in it. What follows a `#` is taken for a part of it.
fn without_queries(text: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(found) = rest.find("://") {
        let (before, after) = rest.split_at(found + 3);
        out.push_str(before);
        let end = after.find(ends_url).unwrap_or(after.len());
        let (url, behind) = after.split_at(end);
        let path = url.find(['?', '#']).unwrap_or(url.len());
        out.push_str(&url[..path]);
        out.push_str(if path < url.len() { "?<query>" } else { "" });
        rest = behind;
    }
    out + rest
}

fn ends_url(letter: char) -> bool {
    letter.is_whitespace() || "\"'<>".contains(letter)
}

/// `scheme://user:password@host` without its user.
fn without_logins(text: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(found) = rest.find("://") {
        let (before, after) = rest.split_at(found + 3);
        out.push_str(before);
        let end = after.find(|letter: char| letter == '/' || ends_url(letter));
        let authority = &after[..end.unwrap_or(after.len())];
        rest = match authority.rfind('@') {
            Some(at) => {
                out.push_str("<login>");
                &after[at..]
            }
            None => after,
        };
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_address_may_have_what_it_needs_and_no_login() {
        let all = [Whose::Network, Whose::Collector, Whose::Runtime, Whose::Source];
        for (address, wanted) in [
            ("https://example.org/x", [true; 4]),
            ("http://127.0.0.1:1", [true; 4]),
            ("http://[::1]:1", [true; 4]),
            ("http://localhost", [true; 4]),
            ("http://10.0.0.1", [false, false, true, false]),
            ("http://localhost.example.org", [false, false, true, false]),
            ("https://example.org/?key=1", [false, false, false, true]),
            ("https://example.org/#a", [false, false, false, true]),
            ("https://ada@example.org", [false; 4]),
            ("https://:s3cret@example.org", [false; 4]),
            ("ftp://localhost", [false; 4]),
            ("file:///srv/models", [false; 4]),
            ("127.0.0.1:8080", [false; 4]),
            ("", [false; 4]),
        ] {
            assert_eq!(all.map(|whose| parse(address, whose).is_ok()), wanted, "{address}");
        }
        for whose in all {
            let problem = parse("https://ada:s3cret@example.org", whose).unwrap_err();
            assert!(problem.contains("a user name or a password"), "{problem}");
        }
    }

    #[test]
    fn what_is_printed_of_an_address_is_where_it_leads() {
        for (address, wanted) in [
            ("https://example.org:1/x", "https://example.org:1/x"),
            ("https://ada:s3cret@example.org/x?key=1", "https://<login>@example.org/x"),
            ("http:/ada:s3cret@example.org", "<login>@example.org"),
            ("https://ada:s3@cret@example.org", "https://<login>@example.org"),
            ("https://example.org/x?key=s3cret", "https://example.org/x?<query>"),
            ("s3cret", "s3cret"),
        ] {
            assert_eq!(shown(address), wanted);
        }
        assert_eq!(
            shown_in("see https://ada:s3cret@h/?k=s3cret and http://h"),
            "see https://<login>@h/?<query> and http://h"
        );
        assert_eq!(shown_in_settings("a = \"http://ada:s3cret@h\"\nb = 1"), "a = <login>@h\"\nb = 1\n");
    }
}
