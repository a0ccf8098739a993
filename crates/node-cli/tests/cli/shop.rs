//! A node whose snapshot lists models, and a folder of the operator's with their files.

use std::{
    collections::BTreeMap,
    fs::{File, FileTimes, OpenOptions},
    os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _},
    path::PathBuf,
};

use node_store::{models::Models, store::Store};
use node_types::{
    Digest, Timestamp,
    config::{ModelFile, NodeConfig, PIECE_BYTES},
};
use serde_json::{Value, json};

use crate::{
    home::{Home, Ran, document, network_key, reading},
    trust::{keyset, signed_config, trusted, with},
};

/// A file of one piece, which two models share.
pub(crate) const SHARED: &[u8] = b"a tokenizer";

/// A home with a snapshot that lists `m@1`, of two files, one of them of two pieces, and `n@1`, of one that they share.
pub(crate) struct Shop {
    pub(crate) home: Home,
    /// What the operator brings.
    pub(crate) folder: PathBuf,
    /// The file of two pieces.
    pub(crate) big: Digest,
}

fn big() -> Vec<u8> {
    (0..PIECE_BYTES + 1000).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

fn listed(name: &str, files: &Value, source: &str) -> Value {
    json!({
        "name": name, "version": "1", "tasks": ["completion"], "engine": "stand-in", "memory_bytes": 1000,
        "files": files, "sources": [source],
    })
}

impl Shop {
    /// With every file in the folder.
    pub(crate) fn new() -> Self {
        Self::with_source("https://models.invalid/")
    }

    /// The same, where the network names this source.
    pub(crate) fn with_source(source: &str) -> Self {
        Self::in_home(Home::new(), source)
    }

    /// The files of both models, by their paths.
    pub(crate) fn files() -> BTreeMap<String, Vec<u8>> {
        let shared = ["tokenizer.json", "words.txt"].map(|path| (path.to_owned(), SHARED.to_vec()));
        shared.into_iter().chain([("weights.bin".to_owned(), big())]).collect()
    }

    /// The same in an empty home.
    pub(crate) fn in_home(home: Home, source: &str) -> Self {
        let big = big();
        let folder = home.path().join("brought");
        std::fs::create_dir(&folder).unwrap();
        for content in [&big[..], SHARED] {
            std::fs::write(folder.join(Digest::of(content).hex()), content).unwrap();
        }
        let shop = Self { folder, big: Digest::of(&big), home };
        let reading = reading();
        let store = Store::create(&shop.home.options(), None, &reading).unwrap();
        store.snapshots().pin(trusted(&keyset(1, 1, &[&network_key()]))).unwrap();
        shop.apply(&store, 1, &shop.both(source));
        shop
    }

    pub(crate) fn shared() -> Digest {
        Digest::of(SHARED)
    }

    fn big_file(&self) -> Value {
        json!({ "path": "weights.bin", "bytes": PIECE_BYTES + 1000, "sha256": self.big })
    }

    fn shared_file(path: &str) -> Value {
        json!({ "path": path, "bytes": SHARED.len(), "sha256": Self::shared() })
    }

    fn both(&self, source: &str) -> Value {
        let m = listed("m", &json!([self.big_file(), Self::shared_file("tokenizer.json")]), source);
        json!([m, listed("n", &json!([Self::shared_file("words.txt")]), source)])
    }

    /// Applies a snapshot that lists these models.
    pub(crate) fn apply(&self, store: &Store, version: u64, models: &Value) {
        let now = reading().wall;
        let runtime = json!({
            "kind": "process", "engine": "stand-in", "command": "serve", "digest": Digest::of(b"serve"),
        });
        let document = with(with(document(version, now), "/runtime", runtime), "/models", models.clone());
        // The program under test is no release.
        let document = with(document, "/updates/agents", json!([]));
        store.apply_envelope(&signed_config(&document, &[&network_key()]), now).unwrap();
    }

    /// Applies a snapshot that lists `m@1` alone.
    pub(crate) fn drop_n(&self) {
        let models = self.both("https://models.invalid/");
        self.apply(&self.open(), 2, &json!([models[0]]));
    }

    /// The store, as an Agent holds it.
    pub(crate) fn open(&self) -> Store {
        Store::open(&self.home.options(), &reading()).unwrap()
    }

    /// The snapshot in force.
    pub(crate) fn config(&self) -> NodeConfig {
        let view = Store::view_only(&self.home.options()).unwrap();
        view.snapshots().unwrap().current().unwrap().config.document().clone()
    }

    /// `models install` with the operator's folder.
    pub(crate) fn install(&self, more: &[&str]) -> Ran {
        let folder = self.folder.to_str().unwrap();
        self.home.run([&["models", "install", "--models-folders", folder], more].concat())
    }

    /// One where all is installed.
    pub(crate) fn stocked() -> Self {
        let shop = Self::new();
        assert_eq!(shop.install(&["--json"]).code, Some(0));
        shop
    }

    /// Where a file stands in the volume.
    pub(crate) fn path(&self, sha256: Digest) -> PathBuf {
        self.home.volume().join("models").join(sha256.hex())
    }

    /// Changes one byte of an installed file, and sets its mode and its times as they were.
    pub(crate) fn flip(&self, sha256: Digest, at: u64) {
        let path = self.path(sha256);
        let before = std::fs::metadata(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
        let times = FileTimes::new()
            .set_accessed(before.accessed().unwrap())
            .set_modified(before.modified().unwrap());
        file.set_times(times).unwrap();
        std::fs::set_permissions(&path, before.permissions()).unwrap();
        let after = std::fs::metadata(&path).unwrap();
        assert_eq!((before.len(), before.mtime_nsec()), (after.len(), after.mtime_nsec()));
    }
}

/// Brings a small file into the volume, as an Agent would.
pub(crate) fn bring(models: &Models, file: &ModelFile, content: &[u8], now: Timestamp) {
    let partial = models.begin(file, now).unwrap();
    partial.write(0, 0, content).unwrap();
    partial.note(0, content.len() as u64, now).unwrap();
    partial.finish(now, &mut |_| std::ops::ControlFlow::Continue(())).unwrap();
}

/// Whether a file can be read to its end and is this.
pub(crate) fn is(path: &std::path::Path, sha256: Digest) -> bool {
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut File::open(path).unwrap(), &mut bytes).unwrap();
    Digest::of(&bytes) == sha256
}
