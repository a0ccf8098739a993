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
