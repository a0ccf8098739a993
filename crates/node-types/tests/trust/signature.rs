use k256::ecdsa::Signature as EcdsaSignature;
use node_types::signature::{BadSignature, KeyId, Scheme, Signature};
use proptest::prelude::*;

use crate::common::Signer;

fn example() -> (Vec<u8>, Signer) {
    let signer = Signer::new(3);
    let envelope = node_types::envelope::Envelope::unsigned("t", b"p".to_vec());
    (signer.sign_document(envelope.signing_hash()).as_bytes().to_vec(), signer)
}

fn recovered(bytes: &[u8]) -> Result<node_types::Address, BadSignature> {
    Signature::from_slice(bytes)?.recover_eip191(&node_types::envelope::pae("t", b"p"))
}

#[test]
fn v_is_27_or_28_and_0_or_1_mean_the_same() {
    let (mut bytes, signer) = example();
    let written = bytes.clone();
    bytes[64] -= 27;
    assert_eq!(recovered(&bytes), Ok(signer.address()));
    assert_eq!(Signature::from_slice(&bytes).unwrap().as_bytes().as_slice(), written);
    bytes[64] ^= 1;
    assert_ne!(recovered(&bytes), Ok(signer.address()));
    for v in [2, 3, 26, 29, 35, 255] {
        bytes[64] = v;
        assert_eq!(recovered(&bytes), Err(BadSignature::RecoveryByte { found: v }));
    }
}

/// Negating `s` and flipping `v` gives a second signature that recovers to the same key.
#[test]
fn the_high_twin_of_a_signature_is_refused() {
    let (mut bytes, _) = example();
    let ecdsa = EcdsaSignature::from_slice(&bytes[..64]).unwrap();
    let high = EcdsaSignature::from_scalars(ecdsa.r().to_bytes(), (-ecdsa.s()).to_bytes()).unwrap();
    bytes[..64].copy_from_slice(&high.to_bytes());
    bytes[64] = 55 - bytes[64];
    assert_eq!(Signature::from_slice(&bytes), Err(BadSignature::HighS));
}

#[test]
fn numbers_out_of_range_and_other_lengths_are_refused() {
    let (bytes, _) = example();
    for range in [0..32, 32..64] {
        for fill in [0, 0xff] {
            let mut broken = bytes.clone();
            broken[range.clone()].fill(fill);
            assert_eq!(Signature::from_slice(&broken), Err(BadSignature::OutOfRange));
        }
    }
    assert_eq!(Signature::from_slice(&bytes[..64]), Err(BadSignature::Length { found: 64 }));
    assert_eq!(Signature::from_slice(&[]), Err(BadSignature::Length { found: 0 }));
}

#[test]
fn a_key_has_one_name() {
    let id = KeyId { scheme: Scheme::Secp256k1Eip191, address: Signer::new(3).address() };
    let text = id.to_string();
    assert_eq!(text, format!("secp256k1-eip191:{}", Signer::new(3).address()));
    assert_eq!(text.parse(), Ok(id));
    assert!(text.to_lowercase().parse::<KeyId>().is_err());
    assert!(text.replace("eip191", "eip712").parse::<KeyId>().is_err());
    assert!(text.replace(':', "").parse::<KeyId>().is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn arbitrary_bytes_are_no_signature_or_somebody_elses(bytes in prop::collection::vec(any::<u8>(), 65), v in 0_u8..2) {
        let mut bytes = bytes;
        bytes[64] = v;
        let (_, signer) = example();
        prop_assert_ne!(recovered(&bytes), Ok(signer.address()));
    }
}
