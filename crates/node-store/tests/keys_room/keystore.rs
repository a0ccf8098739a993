//! Web3 Secret Storage: the public vectors, round trips, and files made to hurt.

use std::time::{Duration, Instant};

use node_store::keys::{
    KeystoreError, NodeKey, export_keystore, import_keystore,
    keystore::{KEYSTORE_BYTES_MAX, PBKDF2_ROUNDS_MAX},
};
use node_types::id::{hex_decode, hex_encode};
use proptest::prelude::*;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::stand_in::{ADDRESS, KEY, node_key};

fn vectors() -> Vec<Value> {
    serde_json::from_str(include_str!("../vectors/ethers-wallets.json")).unwrap()
}

fn text<'a>(vector: &'a Value, field: &str) -> &'a str {
    vector[field].as_str().unwrap()
}

fn secret(text: &str) -> Zeroizing<String> {
    Zeroizing::new(text.to_owned())
}

#[test]
fn the_keys_of_the_public_vectors_have_their_addresses() {
    for vector in vectors() {
        let bytes = hex_decode(text(&vector, "privateKey").strip_prefix("0x").unwrap()).unwrap();
        let key = NodeKey::from_bytes(&Zeroizing::new(bytes)).unwrap();
        assert_eq!(key.address(), text(&vector, "address").parse().unwrap(), "{}", vector["name"]);
    }
}

#[test]
fn the_public_vectors_import() {
    let vectors = vectors();
    let wallets: Vec<_> = vectors.iter().filter(|vector| vector["type"] == "secret-storage").collect();
    assert_eq!(wallets.len(), 7);
    for vector in wallets {
        let key =
            import_keystore(text(vector, "json").as_bytes(), &secret(text(vector, "password"))).unwrap();
        assert_eq!(key.address(), text(vector, "address").parse().unwrap(), "{}", vector["name"]);
    }
}

#[test]
fn the_crowdsale_vectors_are_refused_by_name() {
    let vectors = vectors();
    let wallets: Vec<_> = vectors.iter().filter(|vector| vector["type"] == "crowdsale").collect();
    assert_eq!(wallets.len(), 2);
    for vector in wallets {
        let refused = import_keystore(text(vector, "json").as_bytes(), &secret("")).unwrap_err();
        assert!(matches!(refused, KeystoreError::Crowdsale));
        assert!(refused.to_string().contains("crowdsale"));
    }
}

#[test]
fn an_exported_key_imports_again_and_shows_nothing_of_itself() {
    let passphrase = secret("über-secret \u{1f511}");
    let exported = export_keystore(&node_key(), &passphrase).unwrap();

    let imported = import_keystore(exported.as_bytes(), &passphrase).unwrap();

    assert_eq!(imported.address(), ADDRESS.parse().unwrap());
    assert!(!exported.contains(&hex_encode(&KEY)));
    let file: Value = serde_json::from_str(&exported).unwrap();
    let kdf = &file["crypto"]["kdfparams"];
    assert_eq!([&kdf["n"], &kdf["r"], &kdf["p"], &kdf["dklen"]], [262_144, 8, 1, 32]);
    assert_eq!(text(&file, "id").as_bytes()[14], b'4', "a random UUID has version 4");
    let refused = import_keystore(exported.as_bytes(), &secret("uber-secret"));
    assert!(matches!(refused, Err(KeystoreError::WrongPassphrase)));
}

#[test]
fn an_export_without_a_passphrase_is_refused() {
    assert!(matches!(export_keystore(&node_key(), &secret("")), Err(KeystoreError::EmptyPassphrase)));
}

/// The vector `life`: the cheapest one, its key is `KEY` and its passphrase `foo`.
fn cheap() -> Value {
    let vectors = vectors();
    let life = vectors.iter().find(|vector| vector["name"] == "life").unwrap();
    serde_json::from_str(text(life, "json")).unwrap()
}

fn import(file: &Value) -> Result<NodeKey, KeystoreError> {
    import_keystore(file.to_string().as_bytes(), &secret("foo"))
}

fn with_params(kdf: &str, params: Value) -> Value {
    let mut file = cheap();
    file["Crypto"]["kdf"] = json!(kdf);
    file["Crypto"]["kdfparams"] = params;
    file
}

#[test]
fn crypto_is_found_in_any_case_and_an_address_is_optional() {
    for name in ["crypto", "CRYPTO", "cRyPtO"] {
        let mut file = cheap();
        file[name] = file["Crypto"].take();
        file.as_object_mut().unwrap().remove("Crypto");
        file.as_object_mut().unwrap().remove("address");
        assert_eq!(import(&file).unwrap().address(), ADDRESS.parse().unwrap());
    }
}

#[test]
fn a_wrong_address_in_the_file_is_refused_naming_both() {
    let mut file = cheap();
    file["address"] = json!("0x00000000000000000000000000000000000000aa");
    let Err(KeystoreError::AddressMismatch { recorded, derived }) = import(&file) else { panic!() };
    assert_eq!(recorded.as_bytes()[19], 0xaa);
    assert_eq!(derived, ADDRESS.parse().unwrap());
}

#[test]
fn an_altered_ciphertext_or_checksum_is_refused() {
    for field in ["ciphertext", "mac"] {
        for index in [0, 31] {
            let mut file = cheap();
            let mut bytes: [u8; 32] = hex_decode(text(&file["Crypto"], field)).unwrap();
            bytes[index] ^= 1;
            file["Crypto"][field] = json!(hex_encode(&bytes));
            assert!(matches!(import(&file), Err(KeystoreError::WrongPassphrase)), "{field}, byte {index}");
        }
    }
}

#[test]
fn other_versions_ciphers_and_functions_are_refused_by_name() {
    let change = |pointer: &str, value: Value| {
        let mut file = cheap();
        *file.pointer_mut(pointer).unwrap() = value;
        import(&file).unwrap_err().to_string()
    };
    assert!(change("/version", json!("1")).contains("version \"1\""));
    assert!(change("/version", json!(4)).contains("version 4"));
    assert!(change("/Crypto/cipher", json!("aes-256-cbc")).contains("aes-256-cbc"));
    assert!(change("/Crypto/kdf", json!("bcrypt")).contains("bcrypt"));
    assert!(change("/Crypto/ciphertext", json!("00")).contains("ciphertext"));
    assert!(change("/Crypto/cipherparams", json!({})).contains("iv"));
    assert!(change("/Crypto/kdfparams", json!(null)).contains("kdfparams"));
    assert!(change("/Crypto/kdfparams/salt", json!("0")).contains("salt"));
    assert!(change("/Crypto/kdfparams/salt", json!("é0")).contains("salt"));
    assert!(change("/address", json!("")).contains("address"));
    let sha1 = json!({ "c": 1, "prf": "hmac-sha1", "dklen": 32, "salt": "" });
    assert!(import(&with_params("pbkdf2", sha1)).unwrap_err().to_string().contains("hmac-sha1"));
}

#[test]
fn hostile_parameters_are_refused_before_the_work() {
    let began = Instant::now();
    let scrypt = |n: u64, r: u64, p: u64| {
        with_params("scrypt", json!({ "n": n, "r": r, "p": p, "dklen": 32, "salt": "" }))
    };
    let rounds =
        |c: u64| with_params("pbkdf2", json!({ "c": c, "prf": "hmac-sha256", "dklen": 32, "salt": "" }));
    let dklen = |dklen: u64| {
        with_params("pbkdf2", json!({ "c": 1, "prf": "hmac-sha256", "dklen": dklen, "salt": "" }))
    };
    for file in [
        scrypt(1 << 19, 8, 1),
        scrypt(1 << 63, 8, 1),
        scrypt(u64::MAX, u64::MAX, u64::MAX),
        scrypt(0, 8, 1),
        scrypt(1, 8, 1),
        scrypt(1000, 8, 1),
        scrypt(1024, 0, 1),
        scrypt(1024, 8, 0),
        scrypt(1024, 8, 17),
        scrypt(2, 1 << 22, 1),
        scrypt(2, 1 << 20, 16),
        // Little for N, but 128 r p alone is 512 MiB.
        scrypt(2, 1 << 19, 8),
        scrypt(2, u64::MAX, 1),
        scrypt(2, 1 << 57, 16),
        scrypt(1 << 18, 8, 9),
        rounds(0),
        rounds(PBKDF2_ROUNDS_MAX + 1),
        rounds(u64::MAX),
        dklen(31),
        dklen(65),
        dklen(u64::MAX),
    ] {
        let refused = import(&file);
        assert!(matches!(refused, Err(KeystoreError::Limit { .. })), "{file}: {refused:?}");
    }
    for number in ["1e400", "-1", "1.5", "\"1024\"", "18446744073709551616"] {
        let file = cheap().to_string().replace("1024", number);
        assert!(import_keystore(file.as_bytes(), &secret("foo")).is_err(), "{number}");
    }
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

#[test]
fn large_and_deep_files_are_refused() {
    let large = vec![b'['; KEYSTORE_BYTES_MAX + 1];
    assert!(matches!(import_keystore(&large, &secret("")), Err(KeystoreError::TooLarge { .. })));
    let deep = vec![b'['; KEYSTORE_BYTES_MAX];
    assert!(matches!(import_keystore(&deep, &secret("")), Err(KeystoreError::NotJson(_))));
    assert!(matches!(import_keystore(b"[]", &secret("")), Err(KeystoreError::NotJson(None))));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert!(import_keystore(&bytes, &secret("x")).is_err());
    }

    /// A sound file with a piece of it overwritten: nearer to what gets past the first check. The
    /// parameters of the key derivation stay small because they are checked elsewhere.
    #[test]
    fn damaged_wallets_never_panic(at in 0_usize..600, junk in "[\\x00-\\x7f]{0,6}") {
        let mut bytes = cheap().to_string().into_bytes();
        let at = at.min(bytes.len());
        let end = (at + junk.len()).min(bytes.len());
        bytes.splice(at..end, junk.bytes());
        if let Ok(key) = import_keystore(&bytes, &secret("foo")) {
            prop_assert_eq!(key.address(), ADDRESS.parse().unwrap());
        }
    }
}
