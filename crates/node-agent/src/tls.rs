//! TLS: one provider of ciphers for everything that the Agent connects to.

use std::sync::Once;

/// A client that verifies servers by the system's roots and uses no proxy.
pub(crate) fn client() -> reqwest::ClientBuilder {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        // An embedder that installed another one before keeps it.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
    reqwest::Client::builder().no_proxy()
}

/// The address as it may be printed.
pub(crate) fn without_password(url: &str) -> String {
    match url.rsplit_once('@') {
        Some((_, host)) => format!("...@{host}"),
        None => url.to_owned(),
    }
}
