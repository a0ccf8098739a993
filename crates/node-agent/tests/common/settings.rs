//! Settings of an Agent that a test makes in its own process.

use std::path::Path;

use node_agent::settings::{
    ExportSettings, KeySettings, ModelSettings, PageSettings, RuntimeSettings, Settings,
};
use node_types::Network;

/// Without a page, a target, or time to end; the network is wherever the test says.
pub fn settings(home: &Path) -> Settings {
    Settings {
        home: home.to_owned(),
        network: Network::Testnet,
        network_url: "https://network.example".to_owned(),
        keyset_digest: None,
        keys: KeySettings::default(),
        runtime: RuntimeSettings::default(),
        models: ModelSettings::default(),
        page: PageSettings::off(),
        exports: ExportSettings::default(),
        shutdown_grace_ms: 0,
        command: "resultity-node".to_owned(),
    }
}
