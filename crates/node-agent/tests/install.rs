//! Models installed from a devnet into a real store: what cannot fit is refused before a byte is fetched, what is not what the
//! snapshot names is put aside.
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a test that cannot go on must fail or say so, and its files are no part of the product"
)]

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use node_agent::{
    hardware,
    models::{Hope, InstallError, Installer, Progress, SPARE_BYTES},
    settings::ModelSettings,
    time,
};
use node_devnet::{ConfigTemplate, Devnet, Fault, Settings};
use node_store::store::{Options, Store};
use node_types::{Digest, Network, config::Model};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::watch;

const MIB: usize = 1 << 20;

/// A store, an installer for it, and a devnet that serves one file.
struct Stage {
    store: Arc<Store>,
    installer: Installer,
    devnet: Devnet,
    content: Vec<u8>,
    folder: TempDir,
}

impl Stage {
    /// With its home in `home`, or in a folder of its own.
    async fn new(bytes: usize, home: Option<&Path>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let home = home.map_or_else(|| folder.path().join("home"), Path::to_owned);
        std::fs::create_dir_all(&home).unwrap();
        let options = Options { reserve_bytes: 1 << 20, ..Options::new(&home, Network::Testnet) };
        let store = Arc::new(Store::create(&options, None, &time::reading().unwrap()).unwrap());
        let mut content = vec![0; bytes];
        blake3::Hasher::new().finalize_xof().fill(&mut content);
        let models = folder.path().join("models");
        std::fs::create_dir(&models).unwrap();
        std::fs::write(models.join(Digest::of(&content).hex()), &content).unwrap();
        let settings = Settings {
            folder: folder.path().join("net"),
            network: Network::Testnet,
            listen: "127.0.0.1:0".parse().unwrap(),
            chain_id: 1,
            config: template(&listed(&content)),
            models: Some(models),
            images: None,
            job_ttl_ms: 60_000,
            offer_retry_ms: 1_000,
            reassign_after_ms: 60_000,
        };
        let devnet = Devnet::start(settings).await.unwrap();
        let installer = Installer::new(Arc::clone(&store), &ModelSettings::default()).unwrap();
        Self { store, installer, devnet, content, folder }
    }

    /// The model, whose pieces nobody has announced.
    fn model(&self) -> Model {
        let mut model = listed(&self.content);
        model["sources"] = json!([format!("{}/models/m@1", self.devnet.url())]);
        serde_json::from_value(model).unwrap()
    }

    async fn install(&self, model: &Model) -> Result<(), InstallError> {
        self.installer.install(model, &watch::Sender::new(Progress::default())).await
    }

    /// Where the file is once it is installed.
    fn path(&self) -> PathBuf {
        self.store.models().path(Digest::of(&self.content))
    }

    /// Requests that the devnet has answered with the file.
    fn requests(&self) -> u64 {
        let state: Value = self.devnet.state().unwrap();
        state["files"][0]["requests"].as_u64().unwrap_or(0)
    }

    fn is_installed(&self) -> bool {
        std::fs::read(self.path()).is_ok_and(|found| found == self.content)
    }

    /// Nothing was asked for, and nothing was begun.
    fn assert_untouched(&self) {
        assert_eq!(self.requests(), 0);
        assert!(self.store.models().view().partials().unwrap().is_empty());
        assert!(!self.path().exists());
    }
}

fn listed(content: &[u8]) -> Value {
    json!({
        "name": "m", "version": "1", "tasks": ["chat"], "engine": "llama.cpp", "memory_bytes": 0,
        "files": [{ "path": "weights.bin", "bytes": content.len(), "sha256": Digest::of(content) }],
        "sources": [],
    })
}

fn template(model: &Value) -> ConfigTemplate {
    serde_json::from_value(json!({
        "models": [model],
        "runtime": { "kind": "external", "engine": "llama.cpp" },
        "limits": {
            "queue_jobs_max": 1, "queue_bytes_max": 1_000_000, "request_bytes_max": 100_000, "max_tokens": 64,
            "execution_timeout_ms": 60_000, "ttl_ms_max": 600_000, "attempts_max": 3, "concurrency": 1,
            "logs_bytes_max": 1_000_000,
        },
        "timings": {
            "heartbeat_ms": 1000, "sync_ms": 1000, "flush_ms": 1000, "retry_ms_min": 50, "retry_ms_max": 1000,
            "trace_ttl_ms": 60_000, "log_ttl_ms": 60_000, "offline_grace_ms": 60_000,
            "partial_file_ttl_ms": 60_000,
        },
        "refresh_after_ms": 3_600_000, "valid_for_ms": 7_200_000,
    }))
    .unwrap()
}

/// A tmpfs that is unmounted when this is dropped.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn mount(bytes: u64) -> Self {
        let at = tempfile::tempdir().unwrap();
        let size = format!("size={bytes}");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(at.path()).status();
        assert!(mount.unwrap().success(), "cannot mount a tmpfs");
        Self(at)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A test that failed may still have files open: the mount goes when they are closed.
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_does_not_fit_the_disk_is_refused_before_a_byte_is_fetched() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not tested: only root can mount a small disk");
        return;
    }
    // Given a disk with room for what stays free and 64 MiB more,
    let disk = SmallDisk::mount(SPARE_BYTES + (64 << 20));
    let large = Stage::new(65 * MIB, Some(&disk.0.path().join("home"))).await;
    // when a model needs more, then nothing of it is asked for,
    let error = large.install(&large.model()).await.unwrap_err();
    let InstallError::Disk { needed, spare, free, folder } = &error else { panic!("{error}") };
    assert_eq!((*needed, *spare), (65 << 20, SPARE_BYTES));
    assert!(*free < needed + spare && *folder == large.store.models().folder().display().to_string());
    let text = error.to_string();
    assert!([needed, spare, free].iter().all(|it| text.contains(&it.to_string())), "{text}");
    assert!(text.contains(folder) && error.hope() == Hope::None, "{text}");
    large.assert_untouched();
    drop(large);
    // and one that needs less is installed.
    let small = Stage::new(MIB, Some(&disk.0.path().join("other"))).await;
    small.install(&small.model()).await.unwrap();
    assert!(small.is_installed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_fits_no_memory_is_refused_with_what_there_is() {
    let stage = Stage::new(1000, None).await;
    let memory = hardware::memory();
    let error = stage.install(&Model { memory_bytes: 1 << 52, ..stage.model() }).await.unwrap_err();
    let InstallError::Memory { needed, main, graphics } = error else { panic!("{error}") };
    assert_eq!((needed, Some(main), graphics), (1 << 52, memory.main, memory.graphics));
    let text = error.to_string();
    assert!([needed, main, graphics].iter().all(|it| text.contains(&it.to_string())), "{text}");
    assert_eq!(error.hope(), Hope::None);
    stage.assert_untouched();
    // What main memory just holds is no reason.
    stage.install(&Model { memory_bytes: main, ..stage.model() }).await.unwrap();
    assert!(stage.is_installed());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_arrives_with_another_content_is_put_aside_and_comes_anew() {
    let stage = Stage::new(300_000, None).await;
    let model = stage.model();
    // Given a byte that is wrong, and no announced piece that would say so,
    assert!(model.files[0].pieces_blake3.is_empty());
    stage.devnet.fault(Fault::CorruptPiece { piece: 0, count: 1, ms: 0 }).unwrap();
    // when all is here, then the file as a whole is judged: both digests are named, and what came is kept aside,
    let error = stage.install(&model).await.unwrap_err();
    let InstallError::OtherContent { path, found, wanted, quarantined } = &error else { panic!("{error}") };
    let came = std::fs::read(quarantined).unwrap();
    assert_eq!(*found, Digest::of(&came));
    assert_eq!((path.as_str(), *wanted), ("weights.bin", Digest::of(&stage.content)));
    assert_eq!(came.iter().zip(&stage.content).filter(|(came, right)| came != right).count(), 1);
    let text = error.to_string();
    assert!(text.contains(&found.to_string()) && text.contains(&wanted.to_string()), "{text}");
    assert!(text.contains(quarantined) && quarantined.contains(stage.folder.path().to_str().unwrap()));
    assert!(!stage.path().exists() && error.hope() == Hope::Doubt);
    // and the next call installs what is right, from the beginning.
    stage.install(&model).await.unwrap();
    assert!(stage.is_installed());
    assert_eq!(stage.requests(), 2);
    assert!(stage.store.models().view().partials().unwrap().is_empty());
    // A third finds nothing to do.
    stage.install(&model).await.unwrap();
    assert_eq!(stage.requests(), 2);
}
