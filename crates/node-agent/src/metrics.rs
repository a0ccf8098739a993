//! Metrics in the Prometheus text format, version 0.0.4.

use crate::node::Node;

/// The content type of [`text`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Everything that is measured. Blocks: the store is read.
#[must_use]
pub fn text(node: &Node) -> String {
    let network = node.settings.network;
    format!(
        "# HELP resultity_build_info What runs here.\n# TYPE resultity_build_info gauge\n\
         resultity_build_info{{version=\"{}\",network=\"{network}\"}} 1\n",
        crate::VERSION
    )
}
