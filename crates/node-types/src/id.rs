//! Names of things: networks, nodes, volumes, jobs, boots, EVM addresses.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};
use sha3::Keccak256;
use uuid::Uuid;

/// The network a node belongs to. A volume belongs to exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// For trying things out.
    Testnet,
    /// For work that counts.
    Mainnet,
}

impl Network {
    /// Both networks.
    pub const ALL: [Self; 2] = [Self::Testnet, Self::Mainnet];

    /// `testnet` or `mainnet`; also the name of the volume's folder.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Testnet => "testnet",
            Self::Mainnet => "mainnet",
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// A text that names nothing of the kind asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is not {wanted}")]
pub struct NotAnId {
    /// What was given.
    pub found: String,
    /// What was asked for, and how it is written.
    pub wanted: &'static str,
}

impl FromStr for Network {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        Self::ALL
            .into_iter()
            .find(|network| network.name() == text)
            .ok_or_else(|| NotAnId { found: text.to_owned(), wanted: "a network: write testnet or mainnet" })
    }
}

/// An EVM account address, 20 bytes, printed with the checksum of EIP-55.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address([u8; 20]);

impl Address {
    /// Takes the 20 bytes of an address.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 20]) -> Self {
        Self(bytes)
    }

    /// The 20 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 20] {
        &self.0
    }

    /// The address of an uncompressed secp256k1 public key without its leading `04`: the last 20
    /// bytes of its Keccak-256 (Ethereum Yellow Paper, appendix F).
    #[must_use]
    pub fn of_public_key(uncompressed: &[u8; 64]) -> Self {
        let hash: [u8; 32] = Keccak256::digest(uncompressed).into();
        let mut bytes = [0; 20];
        bytes.copy_from_slice(&hash[12..]);
        Self(bytes)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = hex_encode(&self.0);
        let hash: [u8; 32] = Keccak256::digest(hex.as_bytes()).into();
        out.write_str("0x")?;
        for (index, digit) in hex.chars().enumerate() {
            let nibble = if index % 2 == 0 { hash[index / 2] >> 4 } else { hash[index / 2] & 15 };
            write!(out, "{}", if nibble >= 8 { digit.to_ascii_uppercase() } else { digit })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

impl FromStr for Address {
    type Err = NotAnId;

    /// Reads `0x` and 40 hex digits; mixed case must carry the checksum of EIP-55.
    fn from_str(text: &str) -> Result<Self, NotAnId> {
        let wanted = "an EVM address: write 0x and 40 hex digits with a correct checksum";
        let refused = || NotAnId { found: text.to_owned(), wanted };
        let hex = text.strip_prefix("0x").ok_or_else(refused)?;
        let address = Self(hex_decode(&hex.to_ascii_lowercase()).ok_or_else(refused)?);
        let one_case = !hex.bytes().any(|byte| byte.is_ascii_uppercase())
            || !hex.bytes().any(|byte| byte.is_ascii_lowercase());
        if one_case || address.to_string() == text { Ok(address) } else { Err(refused()) }
    }
}

/// A node on one network, derived from its address: a key used on both networks is two nodes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId([u8; 20]);

impl NodeId {
    /// The first 20 bytes of SHA-256 over `resultity/node-id/v1`, the network's name and the
    /// address, each followed by a zero byte.
    #[must_use]
    pub fn derive(network: Network, address: &Address) -> Self {
        let mut hash = Sha256::new();
        for part in [b"resultity/node-id/v1".as_slice(), network.name().as_bytes(), address.as_bytes()] {
            hash.update(part);
            hash.update([0]);
        }
        let hash: [u8; 32] = hash.finalize().into();
        let mut bytes = [0; 20];
        bytes.copy_from_slice(&hash[..20]);
        Self(bytes)
    }

    /// The 20 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 20] {
        &self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "node-{}", hex_encode(&self.0))
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

impl FromStr for NodeId {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        text.strip_prefix("node-").and_then(hex_decode).map(Self).ok_or_else(|| NotAnId {
            found: text.to_owned(),
            wanted: "a node ID: write node- and 40 lower-case hex digits",
        })
    }
}

macro_rules! uuid_id {
    ($name:ident, $doc:literal, $wanted:literal) => {
        #[doc = $doc]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// Takes the 16 bytes of a UUID (RFC 9562).
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }

            /// The 16 bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, out)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, out)
            }
        }

        impl FromStr for $name {
            type Err = NotAnId;

            fn from_str(text: &str) -> Result<Self, NotAnId> {
                text.parse().map(Self).map_err(|_| NotAnId { found: text.to_owned(), wanted: $wanted })
            }
        }
    };
}

uuid_id!(JobId, "A job, named by the network.", "a job ID: write a UUID");
uuid_id!(VolumeId, "A volume, drawn at random when it is created.", "a volume ID: write a UUID");
uuid_id!(
    BootId,
    "One start of the Agent, drawn at random: two at once expose a clone.",
    "a boot ID: write a UUID"
);

macro_rules! serde_as_text {
    ($($name:ident),*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
                out.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
                String::deserialize(input)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

serde_as_text!(Address, NodeId);

/// Lower-case hex of `bytes`.
#[must_use]
pub fn hex_encode(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]])
        .map(char::from)
        .collect()
}

/// Exactly `N` bytes from lower- or upper-case hex, or nothing.
#[must_use]
pub fn hex_decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if text.len() != 2 * N || !text.is_ascii() {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of EIP-55.
    #[test]
    fn addresses_carry_the_checksum_of_eip_55() {
        for text in [
            "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
            "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
            "0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB",
            "0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb",
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
            assert_eq!(text.to_lowercase().parse(), Ok(address));
        }
        assert!("0x5aAeb6053F3E94C9b9A09f33669435E7Ef1Beaed".parse::<Address>().is_err());
    }

    #[test]
    fn one_key_on_two_networks_is_two_nodes() {
        let address = Address::from_bytes([7; 20]);
        assert_ne!(NodeId::derive(Network::Testnet, &address), NodeId::derive(Network::Mainnet, &address));
    }

    #[test]
    fn ids_survive_printing_and_reading() {
        let node = NodeId::derive(Network::Testnet, &Address::from_bytes([1; 20]));
        assert_eq!(node.to_string().parse(), Ok(node));
        let job = JobId::from_bytes([9; 16]);
        assert_eq!(job.to_string().parse(), Ok(job));
        assert!("node-xyz".parse::<NodeId>().is_err());
        assert!("devnet".parse::<Network>().is_err());
    }
}
