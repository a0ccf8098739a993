//! What a network of a test's own does not do.

use node_agent::network::{Link, NetworkError};
use node_types::protocol::{NetworkFrame, Signed};

/// A session that there never is.
pub struct NoLink;

pub fn unavailable() -> NetworkError {
    NetworkError::Misbehaves("this network does not do that".to_owned())
}

impl Link for NoLink {
    async fn send(&mut self, _: &Signed) -> Result<(), NetworkError> {
        Err(unavailable())
    }

    async fn receive(&mut self) -> Option<Result<NetworkFrame, NetworkError>> {
        None
    }
}
