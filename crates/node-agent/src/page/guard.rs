//! Who may look at the page: judged by the head of a request alone.
//!
//! A page in a browser must not reach this one through a name of its own that leads here (DNS rebinding), so the name in
//! `Host` is one of this machine's loopback names, or the address that the connection came in at. Nor may one ask for anything
//! here though it cannot read the answer: it would take the places away. Browsers say who asks (Fetch Metadata, W3C); others
//! may be led here by a link, and no further. Where there is a token, it is asked for on every way in.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use axum::http::{HeaderMap, Method, Uri, header};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

/// The fewest characters of a token.
pub const TOKEN_CHARS_MIN: usize = 16;

/// The cookie that stands for the token in a browser.
const COOKIE: &str = "resultity_page";

/// A token that whoever looks must have.
pub struct Token {
    /// Its digest: what is compared has one length, whatever was sent.
    digest: [u8; 32],
    cookie: Zeroizing<String>,
}

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Token")
    }
}

fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

impl Token {
    /// A token; `None` for one that is shorter than [`TOKEN_CHARS_MIN`] or cannot stand in a header.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let fits = text.len() >= TOKEN_CHARS_MIN && text.bytes().all(|byte| byte.is_ascii_graphic());
        let cookie = digest(&format!("{COOKIE} {text}")).iter().map(|byte| format!("{byte:02x}")).collect();
        fits.then(|| Self { digest: digest(text), cookie: Zeroizing::new(cookie) })
    }

    fn is(&self, text: &str) -> bool {
        self.digest.ct_eq(&digest(text)).into()
    }

    fn is_cookie(&self, text: &str) -> bool {
        digest(text).ct_eq(&digest(&self.cookie)).into()
    }

    /// The value of `Set-Cookie` for a browser that gave the token: it does not hold the token itself.
    fn set_cookie(&self) -> String {
        format!("{COOKIE}={}; Path=/; HttpOnly; SameSite=Strict", *self.cookie)
    }
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// It is answered.
    Pass,
    /// The token came in the URL: the browser gets a cookie for it, the value of `Set-Cookie`, and goes on to the page.
    Remember(String),
    /// Another method than GET or HEAD.
    Method,
    /// Another host's name.
    Host,
    /// Another site's page asks.
    Site,
    /// No token, or another one.
    Token,
}

/// Judges a request. `local` is the address that the connection came in at.
#[must_use]
pub fn judge(
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    local: SocketAddr,
    token: Option<&Token>,
) -> Judgement {
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next().and_then(|host| host.to_str().ok()).unwrap_or_default();
    // Two names, or one in the request line: nobody honest asks so.
    if hosts.next().is_some() || uri.authority().is_some() || !is_ours(host, local.ip()) {
        return Judgement::Host;
    }
    if method != Method::GET && method != Method::HEAD {
        return Judgement::Method;
    }
    if is_foreign(uri, headers) {
        return Judgement::Site;
    }
    let Some(token) = token else { return Judgement::Pass };
    // First, so that a token does not stay in the address bar of a browser that has the cookie already.
    if given_token(uri).is_some_and(|given| token.is(given)) {
        return Judgement::Remember(token.set_cookie());
    }
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(bearer);
    if bearer.is_some_and(|given| token.is(given)) || cookies(headers).any(|given| token.is_cookie(given)) {
        return Judgement::Pass;
    }
    Judgement::Token
}

/// Whether a page of another origin asks, for more than to be left for `/`. Who is no browser does not say.
fn is_foreign(uri: &Uri, headers: &HeaderMap) -> bool {
    let Some(site) = headers.get("sec-fetch-site") else { return false };
    let led_here = headers.get("sec-fetch-mode").is_some_and(|mode| mode == "navigate") && uri.path() == "/";
    site != "same-origin" && site != "none" && !led_here
}

/// Whether a `Host` is a loopback name or the address the connection came in at.
fn is_ours(host: &str, local: IpAddr) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        Some(_) | None => host,
    };
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    // A socket for IPv6 shows those that came by IPv4 as mapped addresses.
    let same = |address: IpAddr| address.is_loopback() || address.to_canonical() == local.to_canonical();
    name.eq_ignore_ascii_case("localhost") || bare.parse().is_ok_and(same)
}

/// What stands after `Bearer`, in either case (RFC 9110, 11.1).
fn bearer(value: &str) -> Option<&str> {
    let (scheme, given) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| given.trim())
}

fn cookies(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let all = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    all.flat_map(|value| value.split(';')).filter_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        (name == COOKIE).then_some(value)
    })
}

/// A token is not decoded: one with other characters than those that stand for themselves comes in a header.
fn given_token(uri: &Uri) -> Option<&str> {
    uri.query()?.split('&').find_map(|pair| pair.strip_prefix("token="))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "correct-horse-battery";

    fn judged(method: &str, uri: &str, headers: &[(&str, &str)], token: Option<&Token>) -> Judgement {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name = axum::http::HeaderName::from_bytes(name.as_bytes()).unwrap();
            map.append(name, value.parse().unwrap());
        }
        let (method, local) = (method.parse().unwrap(), "192.0.2.7:7413".parse().unwrap());
        judge(&method, &uri.parse().unwrap(), &map, local, token)
    }

    #[test]
    fn only_names_of_this_machine_are_answered() {
        for host in ["localhost", "LOCALHOST:1", "127.0.0.1:7413", "127.1.2.3", "[::1]:9", "192.0.2.7:7413"] {
            assert_eq!(judged("GET", "/", &[("host", host)], None), Judgement::Pass, "{host}");
        }
        for host in [
            "",
            "example.org",
            "127.0.0.1.example.org",
            "localhost.evil:1",
            "192.0.2.8:7413",
            "[::1",
            "0.0.0.0:7413",
        ] {
            assert_eq!(judged("GET", "/", &[("host", host)], None), Judgement::Host, "{host}");
        }
        assert_eq!(judged("GET", "/", &[], None), Judgement::Host, "no name at all");
        let two = [("host", "localhost"), ("host", "example.org")];
        assert_eq!(judged("GET", "/", &two, None), Judgement::Host);
        let absolute = judged("GET", "http://localhost/", &[("host", "localhost")], None);
        assert_eq!(absolute, Judgement::Host, "a name in the request line is not looked at");
    }

    #[test]
    fn nothing_can_be_asked_but_to_look() {
        for method in ["GET", "HEAD"] {
            assert_eq!(judged(method, "/", &[("host", "localhost")], None), Judgement::Pass);
        }
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "GETS"] {
            assert_eq!(judged(method, "/", &[("host", "localhost")], None), Judgement::Method, "{method}");
        }
    }

    #[test]
    fn a_page_of_another_site_can_lead_here_and_ask_for_nothing() {
        let from = |uri: &str, site: &str, mode: &str| {
            let headers = [("host", "localhost"), ("sec-fetch-site", site), ("sec-fetch-mode", mode)];
            judged("GET", uri, &headers, None)
        };
        for site in ["cross-site", "same-site"] {
            assert_eq!(from("/v1/events", site, "no-cors"), Judgement::Site, "{site}");
            assert_eq!(from("/", site, "no-cors"), Judgement::Site, "{site}");
            assert_eq!(from("/metrics", site, "navigate"), Judgement::Site, "{site}");
            assert_eq!(from("/", site, "navigate"), Judgement::Pass, "{site}");
        }
        assert_eq!(from("/v1/events", "same-origin", "cors"), Judgement::Pass);
        assert_eq!(from("/v1/status", "none", "navigate"), Judgement::Pass, "typed by a person");
    }

    #[test]
    fn a_token_is_asked_for_on_every_way_in() {
        let token = Token::new(SECRET).unwrap();
        let with = |uri: &str, headers: &[(&str, &str)]| {
            let headers: Vec<_> = [("host", "localhost")].iter().chain(headers).copied().collect();
            judged("GET", uri, &headers, Some(&token))
        };
        assert_eq!(with("/", &[]), Judgement::Token);
        assert_eq!(with("/", &[("authorization", "Bearer correct-horse-battery")]), Judgement::Pass);
        assert_eq!(with("/", &[("authorization", "bearer correct-horse-battery")]), Judgement::Pass);
        for wrong in ["Bearer correct-horse-batter", "Basic correct-horse-battery", "Bearer", "Bearer "] {
            assert_eq!(with("/", &[("authorization", wrong)]), Judgement::Token, "{wrong}");
        }
        let Judgement::Remember(cookie) = with("/?a=b&token=correct-horse-battery", &[]) else {
            panic!("the token in the URL was not taken");
        };
        assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
        assert!(!cookie.contains(SECRET), "{cookie}");
        let pair = cookie.split(';').next().unwrap();
        assert_eq!(with("/", &[("cookie", &format!("other=1; {pair}"))]), Judgement::Pass);
        let again = with("/?token=correct-horse-battery", &[("cookie", pair)]);
        assert!(matches!(again, Judgement::Remember(_)), "the token would stay in the address bar");
        assert_eq!(with("/", &[("cookie", &format!("{COOKIE}={SECRET}"))]), Judgement::Token);
        assert_eq!(with("/?token=wrong", &[]), Judgement::Token);
    }

    #[test]
    fn a_token_that_can_be_guessed_is_none() {
        assert!(Token::new("fifteen-letters").is_none());
        assert!(Token::new("sixteen-letters!").is_some());
        assert!(Token::new("sixteen letters, blanks").is_none());
        assert_eq!(format!("{:?}", Token::new(SECRET)), "Some(Token)");
    }
}
