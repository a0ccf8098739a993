//! The signer: the one user of the node key.
//!
//! It takes typed messages, never a hash: whoever signs bare hashes signs anything, a transfer of money
//! included. A [`MessageHash`](node_types::message::MessageHash) is made here, from the message, and not
//! taken from a caller.
//!
//! Signatures are deterministic (RFC 6979), 65 bytes `r || s || v`, with `s` in the lower half (EIP-2).

use std::fmt;

use node_types::{
    Address, Network, NodeId,
    message::{Domain, NodeMessage},
    signature::{BadSignature, Signature},
};
use zeroize::ZeroizeOnDrop;

use super::secret::NodeKey;

/// Why a message was not signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The message names another node than the one of this key on the domain's network.
    #[error("the message names {named}, this key is {own} on {network}: it was not signed")]
    OtherNode {
        /// The node that the message names.
        named: NodeId,
        /// The node of this key.
        own: NodeId,
        /// The network of the domain.
        network: Network,
    },
    /// The signature cannot be written in 65 bytes. Of 2^127 messages one does this.
    #[error("the signature of this message has no form that can be recovered: sign it with another seq")]
    NotRecoverable(#[source] Option<BadSignature>),
}

/// Signs the messages of one node.
#[derive(ZeroizeOnDrop)]
pub struct Signer {
    key: NodeKey,
}

impl Signer {
    /// Takes the node key; it never comes out again.
    #[must_use]
    pub const fn new(key: NodeKey) -> Self {
        Self { key }
    }

    /// The address that every signature recovers to.
    #[must_use]
    pub const fn address(&self) -> Address {
        self.key.address()
    }

    /// The node that this key is on a network.
    #[must_use]
    pub fn node_id(&self, network: Network) -> NodeId {
        NodeId::derive(network, &self.address())
    }

    /// Signs a message of this node for one domain.
    ///
    /// # Errors
    /// [`SignError::OtherNode`] for a message that nobody could accept; [`SignError::NotRecoverable`].
    pub fn sign(&self, message: &NodeMessage, domain: &Domain) -> Result<Signature, SignError> {
        let own = self.node_id(domain.network);
        if message.node != own {
            return Err(SignError::OtherNode { named: message.node, own, network: domain.network });
        }
        let hash = message.signing_hash(domain);
        let (signature, recovery) = self.key.signing().sign_prehash_recoverable(hash.as_bytes());
        if recovery.is_x_reduced() {
            return Err(SignError::NotRecoverable(None));
        }
        let mut bytes = [0; 65];
        bytes[..64].copy_from_slice(&signature.to_bytes());
        bytes[64] = if recovery.is_y_odd() { 28 } else { 27 };
        Signature::from_slice(&bytes).map_err(|error| SignError::NotRecoverable(Some(error)))
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Signer(of {})", self.address())
    }
}
