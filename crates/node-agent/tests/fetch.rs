//! Files of models fetched from a devnet that misbehaves, from folders, and from where nobody may be sent.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test that cannot go on must fail, and its files are no part of the product"
)]

use std::{
    fs,
    ops::ControlFlow,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use node_agent::{
    fetch::{FetchError, Fetcher, Problem, Progress, SourceFailure, Tuning},
    time,
};
use node_devnet::{ConfigTemplate, Devnet, Fault, Settings};
use node_store::{
    models::{Finished, ModelsError, Partial},
    store::{Options, Store},
};
use node_types::{
    Digest, Network,
    config::{ModelFile, PIECE_BYTES, PieceHash},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::watch,
    time::timeout,
};

const MIB: u64 = 1 << 20;
/// A piece and a shorter one.
const TWO_PIECES: u64 = PIECE_BYTES + 3 * MIB;
/// One piece.
const SMALL: u64 = 300_000;
/// Longer than anything takes here; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(120);
/// Where the file stands in its model: both parts need encoding in a URL.
const PATH: &str = "a folder/weights#1.gguf";
/// What a socket and its reader hold of what nobody wants.
const IN_FLIGHT: u64 = 24 * MIB;

/// A store, a file that it wants, and a folder in which it stands under its SHA-256.
struct Stage {
    folder: TempDir,
    store: Store,
    file: ModelFile,
    content: Vec<u8>,
}

impl Stage {
    fn new(bytes: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().join("home");
        fs::create_dir(&home).unwrap();
        let store =
            Store::create(&Options::new(&home, Network::Testnet), None, &time::reading().unwrap()).unwrap();
        let mut content = vec![0; usize::try_from(bytes).unwrap()];
        blake3::Hasher::new().finalize_xof().fill(&mut content);
        let piece = |piece: &[u8]| PieceHash::from_bytes(*blake3::hash(piece).as_bytes());
        let file = ModelFile {
            path: PATH.to_owned(),
            bytes,
            sha256: Digest::of(&content),
            pieces_blake3: content.chunks(usize::try_from(PIECE_BYTES).unwrap()).map(piece).collect(),
        };
        let stage = Self { folder, store, file, content };
        fs::create_dir(stage.folder()).unwrap();
        fs::write(stage.folder().join(stage.file.sha256.hex()), &stage.content).unwrap();
        stage
    }

    /// The folder with the file.
    fn folder(&self) -> PathBuf {
        self.folder.path().join("models")
    }

    /// A devnet that serves the file.
    async fn devnet(&self, name: &str) -> Source {
        let settings = Settings {
            folder: self.folder.path().join(name),
            network: Network::Testnet,
            listen: "127.0.0.1:0".parse().unwrap(),
            chain_id: 1,
            config: template(&self.file),
            models: Some(self.folder()),
            images: None,
            job_ttl_ms: 60_000,
            offer_retry_ms: 1_000,
            reassign_after_ms: 60_000,
        };
        Source { devnet: Devnet::start(settings).await.unwrap() }
    }

    async fn partial(&self) -> Arc<Partial> {
        self.again(|stage| stage.store.models().begin(&stage.file, time::reading().unwrap().wall)).await
    }

    /// What a dropped fetch was writing holds the file open for a moment.
    async fn again(&self, begin: impl Fn(&Self) -> Result<Partial, ModelsError>) -> Arc<Partial> {
        let begun = async {
            loop {
                match begin(self) {
                    Err(ModelsError::Busy { .. }) => tokio::time::sleep(Duration::from_millis(10)).await,
                    begun => return Arc::new(begun.unwrap()),
                }
            }
        };
        timeout(PATIENCE, begun).await.unwrap()
    }

    /// Verifies the file as a whole; it is what it should be.
    fn installs(&self, partial: Arc<Partial>) {
        let partial = Arc::into_inner(partial).expect("nobody else holds it");
        let finished = partial.finish(time::reading().unwrap().wall, &mut |_| ControlFlow::Continue(()));
        assert_eq!(finished.unwrap(), Finished::Installed);
        assert!(fs::read(self.store.models().path(self.file.sha256)).unwrap() == self.content);
    }

    /// Fetches and installs.
    async fn fetches(&self, fetcher: &Fetcher, sources: &[String]) {
        let partial = self.partial().await;
        fetch(fetcher, &partial, sources).await.unwrap();
        self.installs(partial);
    }

    /// Fetches in vain.
    async fn fails(&self, fetcher: &Fetcher, sources: &[String]) -> FetchError {
        let partial = self.partial().await;
        fetch(fetcher, &partial, sources).await.unwrap_err()
    }
}

fn template(file: &ModelFile) -> ConfigTemplate {
    serde_json::from_value(json!({
        "models": [{
            "name": "m", "version": "1.0.0", "tasks": ["chat"], "engine": "llama.cpp", "memory_bytes": 0,
            "files": [file], "sources": [],
        }],
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

/// A devnet as a source.
struct Source {
    devnet: Devnet,
}

impl Source {
    fn url(&self) -> String {
        format!("{}/models/m@1.0.0", self.devnet.url())
    }

    fn fault(&self, fault: Fault) {
        self.devnet.fault(fault).unwrap();
    }

    /// Requests and bytes that it has served.
    fn served(&self) -> (u64, u64) {
        let state: Value = self.devnet.state().unwrap();
        let file = &state["files"][0];
        (file["requests"].as_u64().unwrap_or(0), file["bytes"].as_u64().unwrap_or(0))
    }
}

/// Notes often and waits briefly.
fn tuning() -> Tuning {
    Tuning {
        note_every: Duration::from_millis(50),
        rounds_max: 3,
        wait_ms_min: 10,
        wait_ms_max: 50,
        ..Tuning::default()
    }
}

fn fetcher(folders: &[&Path]) -> Fetcher {
    let folders = folders.iter().map(|folder| (*folder).to_owned()).collect();
    Fetcher::new(folders).unwrap().tuned(tuning())
}

async fn fetch(fetcher: &Fetcher, partial: &Arc<Partial>, sources: &[String]) -> Result<(), FetchError> {
    let progress = watch::Sender::new(Progress::default());
    let fetched = timeout(PATIENCE, fetcher.fetch(partial, sources, PATH, &progress)).await.unwrap();
    assert_eq!(*progress.borrow(), Progress { received: partial.received_all(), bytes: partial.bytes() });
    fetched
}

/// What happened at each source.
fn failures(error: &FetchError) -> &[SourceFailure] {
    let FetchError::Sources { failures, .. } = error else { panic!("{error}") };
    failures
}

fn last_problem(error: &FetchError) -> &Problem {
    &failures(error).last().unwrap().problem
}

#[tokio::test(flavor = "multi_thread")]
async fn each_piece_is_asked_for_once() {
    let stage = Stage::new(2 * PIECE_BYTES + 3 * MIB);
    let source = stage.devnet("net").await;
    stage.fetches(&fetcher(&[]), &[source.url()]).await;
    assert_eq!(source.served(), (3, stage.file.bytes));
}

#[tokio::test(flavor = "multi_thread")]
async fn while_one_piece_is_slow_the_others_come() {
    let stage = Stage::new(2 * PIECE_BYTES + 3 * MIB);
    let source = stage.devnet("net").await;
    // Given an answer that drips for longer than any test lasts, and is not left for that,
    source.fault(Fault::SlowDrip { count: 1, ms: 0 });
    let patient = fetcher(&[]).tuned(Tuning { stall_window: 10 * PATIENCE, ..tuning() });
    let (partial, sources) = (stage.partial().await, [source.url()]);
    let progress = watch::Sender::new(Progress::default());
    let is_whole = |index: &u64| partial.received(*index) == partial.piece_bytes(*index);
    let others = async {
        while (0..3).filter(is_whole).count() < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    // when the other pieces are here, then that one is still on its way,
    tokio::select! {
        fetched = patient.fetch(&partial, &sources, PATH, &progress) => panic!("it ended: {fetched:?}"),
        waited = timeout(PATIENCE, others) => waited.expect("the others wait for the first"),
    }
    let slow = (0..3).find(|index| !is_whole(index)).unwrap();
    assert!(partial.received(slow) < MIB, "{}", partial.received(slow));
    assert_eq!(source.served().0, 3, "each was asked for once");
    drop(partial);
    // and is all that is asked for later.
    stage.fetches(&patient, &sources).await;
    assert_eq!(source.served().0, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_cut_it_goes_on_in_the_middle_of_the_piece() {
    let stage = Stage::new(TWO_PIECES);
    let source = stage.devnet("net").await;
    source.fault(Fault::CutShort { bytes: 20 * MIB, count: 3, ms: 0 });
    stage.fetches(&fetcher(&[]), &[source.url()]).await;
    let (requests, bytes) = source.served();
    assert!(requests > 3, "{requests}");
    // What was on its way when the connection died comes again, and no more.
    assert!(bytes < stage.file.bytes + 10 * MIB, "{bytes}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_that_was_dropped_goes_on_where_it_was() {
    let stage = Stage::new(TWO_PIECES);
    // What comes later comes from another one: the first may still count what it was sending.
    let (source, rest) = (stage.devnet("net").await, stage.devnet("rest").await);
    // Given a fetch that is dropped in the middle of a piece, which never is whole, however late it is dropped,
    source.fault(Fault::CutShort { bytes: 60 * MIB, count: 2, ms: 0 });
    let tuning = Tuning { wait_ms_min: 3_600_000, wait_ms_max: 3_600_000, ..tuning() };
    let (fetcher, sources) = (fetcher(&[]).tuned(tuning), [source.url()]);
    let partial = stage.partial().await;
    let progress = watch::Sender::new(Progress::default());
    let mut told = progress.subscribe();
    tokio::select! {
        fetched = fetcher.fetch(&partial, &sources, PATH, &progress) => panic!("all came: {fetched:?}"),
        told = told.wait_for(|progress| progress.received >= 24 * MIB) => drop(told.unwrap()),
    }
    drop(partial);
    // when it is begun again,
    let partial = stage.partial().await;
    let held = partial.received_all();
    assert!((8 * MIB..stage.file.bytes).contains(&held), "{held}");
    fetch(&fetcher, &partial, &[rest.url()]).await.unwrap();
    // then the rest alone is fetched, and the whole is right.
    assert_eq!(rest.served().1, stage.file.bytes - held);
    stage.installs(partial);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_piece_alone_is_fetched_again() {
    let stage = Stage::new(TWO_PIECES);
    let source = stage.devnet("net").await;
    source.fault(Fault::CorruptPiece { piece: 1, count: 1, ms: 0 });
    stage.fetches(&fetcher(&[]), &[source.url()]).await;
    assert_eq!(source.served(), (3, stage.file.bytes + 3 * MIB));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_piece_that_is_always_damaged_comes_from_another_source_or_is_named() {
    let stage = Stage::new(TWO_PIECES);
    let (bad, good) = (stage.devnet("bad").await, stage.devnet("good").await);
    bad.fault(Fault::CorruptPiece { piece: 1, count: 0, ms: 600_000 });
    let error = stage.fails(&fetcher(&[]), &[bad.url()]).await;
    assert!(matches!(last_problem(&error), Problem::Corrupt { piece: 1 }), "{error}");
    assert!(error.to_string().contains(&bad.url()) && !error.may_pass(), "{error}");
    // It is asked for so often and no more.
    assert!(bad.served().0 <= 2 + u64::from(tuning().rounds_max), "{:?}", bad.served());
    // The good piece stayed, so the other source is asked for the damaged one alone.
    stage.fetches(&fetcher(&[]), &[bad.url(), good.url()]).await;
    assert_eq!(good.served(), (1, 3 * MIB));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_piece_of_an_installed_file_alone_is_fetched() {
    let stage = Stage::new(TWO_PIECES);
    let source = stage.devnet("net").await;
    stage.fetches(&fetcher(&[]), &[source.url()]).await;
    let before = source.served().1;
    let path = stage.store.models().path(stage.file.sha256);
    let mut damaged = stage.content.clone();
    damaged[usize::try_from(PIECE_BYTES).unwrap()] ^= 1;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&path, &damaged).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
    let now = time::reading().unwrap().wall;
    let repair = |stage: &Stage| {
        let begun =
            stage.store.models().begin_repair(&stage.file, &[1], now, &mut |_| ControlFlow::Continue(()));
        begun.map(Option::unwrap)
    };
    let partial = stage.again(repair).await;
    fetch(&fetcher(&[]), &partial, &[source.url()]).await.unwrap();
    assert_eq!(source.served().1 - before, 3 * MIB);
    stage.installs(partial);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_with_a_file_of_another_size_is_refused_with_both_sizes() {
    let stage = Stage::new(SMALL);
    let source = stage.devnet("net").await;
    for no_ranges in [false, true] {
        source.fault(Fault::None);
        source.fault(Fault::WrongSize { count: 0, ms: 600_000 });
        if no_ranges {
            source.fault(Fault::NoRanges { count: 0, ms: 600_000 });
        }
        let (requests, _) = source.served();
        let error = stage.fails(&fetcher(&[]), &[source.url()]).await;
        assert!(matches!(last_problem(&error), Problem::Size { said: 300_001, listed: SMALL }), "{error}");
        let text = error.to_string();
        assert!(text.contains("300001") && text.contains("300000") && text.contains(PATH), "{text}");
        assert!(!error.may_pass());
        assert_eq!((source.served().0 - requests, stage.partial().await.received_all()), (1, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_without_an_end_is_read_to_the_end_of_the_file_and_no_further() {
    for no_ranges in [0, 600_000] {
        let stage = Stage::new(SMALL);
        let source = stage.devnet("net").await;
        source.fault(Fault::Endless { count: 0, ms: 600_000 });
        source.fault(Fault::NoRanges { count: 0, ms: no_ranges });
        stage.fetches(&fetcher(&[]), &[source.url()]).await;
        assert_eq!(source.served().0, 1);
        assert!(source.served().1 < SMALL + IN_FLIGHT, "{:?}", source.served());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_drips_is_left_for_another_one_and_named_where_there_is_none() {
    let stage = Stage::new(SMALL);
    let (slow, good) = (stage.devnet("slow").await, stage.devnet("good").await);
    slow.fault(Fault::SlowDrip { count: 0, ms: 600_000 });
    let tuning = Tuning { stall_window: Duration::from_secs(3), stall_bytes: 1 << 10, ..tuning() };
    let fetcher = fetcher(&[]).tuned(tuning);
    let error = stage.fails(&fetcher, &[slow.url()]).await;
    assert!(matches!(last_problem(&error), Problem::Stalled { piece: 0, .. }), "{error}");
    assert!(error.may_pass());
    assert_eq!(slow.served().0, u64::from(tuning.rounds_max));
    // The few bytes that came are kept.
    let held = stage.partial().await.received_all();
    assert!((1..1000).contains(&held), "{held}");
    stage.fetches(&fetcher, &[slow.url(), good.url()]).await;
    assert_eq!(good.served().0, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_without_ranges_is_read_in_order_and_what_is_there_is_passed_over() {
    let stage = Stage::new(TWO_PIECES);
    let source = stage.devnet("net").await;
    source.fault(Fault::NoRanges { count: 0, ms: 600_000 });
    // The first answer breaks off within the second piece, the second one has a wrong byte in it.
    source.fault(Fault::CutShort { bytes: PIECE_BYTES + MIB, count: 1, ms: 0 });
    source.fault(Fault::CorruptPiece { piece: 1, count: 2, ms: 0 });
    stage.fetches(&fetcher(&[]), &[source.url()]).await;
    assert_eq!(source.served(), (3, PIECE_BYTES + MIB + 2 * TWO_PIECES));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_nobody_has_is_said_for_each_source() {
    let stage = Stage::new(SMALL);
    let source = stage.devnet("net").await;
    let absent = source.url().replace("m@1.0.0", "m@2.0.0");
    // Nobody listens there, and nobody is given such a port by chance.
    let nobody = "127.0.0.1:9";
    let sources = [absent.clone(), format!("http://{nobody}/models")];
    let error = stage.fails(&fetcher(&[]), &sources).await;
    let [first, second] = failures(&error) else { panic!("{error}") };
    assert!(matches!(first.problem, Problem::Status(status) if status == 404), "{error}");
    assert!(matches!(second.problem, Problem::Unreachable(_)), "{error}");
    let text = error.to_string();
    assert!(sources.iter().all(|source| text.contains(source.as_str())), "{text}");
    // The one that nobody answers at may answer later; the other one is not asked again.
    assert!(error.may_pass());
    assert!(!stage.fails(&fetcher(&[]), &[absent]).await.may_pass());
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_that_may_not_be_asked_are_not() {
    let stage = Stage::new(SMALL);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let sources = [
        format!("http://192.0.2.1:{port}/models"),
        format!("http://127.0.0.1.example.org:{port}/models"),
        format!("http://user:word@127.0.0.1:{port}/models"),
        format!("ftp://127.0.0.1:{port}/models"),
        "models".to_owned(),
    ];
    let error = stage.fails(&fetcher(&[]), &sources).await;
    assert_eq!(failures(&error).len(), sources.len());
    for failure in failures(&error) {
        assert!(matches!(failure.problem, Problem::Address(_)), "{error}");
    }
    assert!(!error.may_pass());
    assert!(timeout(Duration::from_millis(50), listener.accept()).await.is_err());
}

/// A server that sends whoever comes to `target`, and counts them.
async fn redirecting(target: impl FnOnce(&str) -> String + Send + 'static) -> (String, watch::Receiver<u32>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/models", listener.local_addr().unwrap());
    let (count, counted) = watch::channel(0);
    let target = target(&url);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            count.send_modify(|count| *count += 1);
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.unwrap());
            }
            let request = String::from_utf8(request).unwrap();
            let path = request.split(' ').nth(1).unwrap().trim_start_matches("/models");
            let answer = format!(
                "HTTP/1.1 302 Found\r\nLocation: {target}{path}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (url, counted)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_sent_elsewhere_goes_where_a_source_may_be_and_not_for_ever() {
    let stage = Stage::new(SMALL);
    let source = stage.devnet("net").await;
    let (round, counted) = redirecting(str::to_owned).await;
    let (abroad, _) = redirecting(|_| "http://192.0.2.1/models".to_owned()).await;
    let (local, _) = redirecting(|_| "file:///etc".to_owned()).await;
    let error = stage.fails(&fetcher(&[]), &[round, abroad, local]).await;
    for failure in failures(&error) {
        assert!(matches!(failure.problem, Problem::Redirect(_)), "{error}");
    }
    assert_eq!(failures(&error).len(), 3);
    assert!(!error.may_pass());
    assert_eq!(*counted.borrow(), 6);
    let target = source.url();
    let (here, _) = redirecting(move |_| target).await;
    stage.fetches(&fetcher(&[]), &[here]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_operator_brought_needs_no_source() {
    let stage = Stage::new(TWO_PIECES);
    let source = stage.devnet("net").await;
    let empty = tempfile::tempdir().unwrap();
    let error = stage.fails(&fetcher(&[empty.path()]), &[]).await;
    assert!(matches!(error, FetchError::NoSource { .. }), "{error}");
    assert!(error.to_string().contains(&stage.file.sha256.hex()) && !error.may_pass(), "{error}");
    let absent = Path::new("/nothing/here");
    stage.fetches(&fetcher(&[absent, empty.path(), &stage.folder()]), &[source.url()]).await;
    assert_eq!(source.served(), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_operator_brought_is_judged_like_everything_else() {
    // Given a file under the right name of which the second piece is damaged,
    let stage = Stage::new(TWO_PIECES);
    let source = stage.devnet("net").await;
    let brought = tempfile::tempdir().unwrap();
    let path = brought.path().join(stage.file.sha256.hex());
    let mut damaged = stage.content.clone();
    *damaged.last_mut().unwrap() ^= 1;
    fs::write(&path, &damaged).unwrap();
    // when there is another source, then that piece alone comes from it;
    let error = stage.fails(&fetcher(&[brought.path()]), &[]).await;
    assert!(matches!(last_problem(&error), Problem::Corrupt { piece: 1 }), "{error}");
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    stage.fetches(&fetcher(&[brought.path()]), &[source.url()]).await;
    assert_eq!(source.served(), (1, 3 * MIB));
    // and one of another length is not read at all.
    fs::write(&path, &damaged[1..]).unwrap();
    let stage = Stage::new(TWO_PIECES);
    let error = stage.fails(&fetcher(&[brought.path()]), &[]).await;
    assert!(
        matches!(last_problem(&error), Problem::Size { said, listed: TWO_PIECES } if *said == TWO_PIECES - 1),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_source_is_read_inside_the_allowed_folders_alone() {
    let stage = Stage::new(SMALL);
    // Given a folder that is allowed, one that is not, and links between them,
    let (allowed, other) = (stage.folder.path().join("allowed"), stage.folder.path().join("other"));
    let place = |folder: &Path| folder.join(PATH);
    for folder in [&allowed, &other] {
        fs::create_dir_all(place(folder).parent().unwrap()).unwrap();
    }
    fs::write(place(&other), &stage.content).unwrap();
    let fetcher = fetcher(&[&allowed]);
    let problem = async |source: String| {
        let error = stage.fails(&fetcher, &[source]).await;
        assert!(!error.may_pass(), "{error}");
        let FetchError::Sources { mut failures, .. } = error else { panic!("{error}") };
        failures.remove(0).problem
    };
    let url = |folder: &Path| format!("file://{}", folder.display());
    // when the file is outside, however it is named, it is refused;
    let outside =
        [url(&other), url(&allowed.join("../other")), url(&allowed).replace("allowed", "%2e%2e/other")];
    for source in outside {
        let problem = problem(source.clone()).await;
        assert!(matches!(&problem, Problem::Folder(_) | Problem::Io(_)), "{source}: {problem}");
    }
    symlink(place(&other), place(&allowed)).unwrap();
    let found = problem(url(&allowed)).await;
    assert!(matches!(&found, Problem::Folder(path) if *path == place(&other)), "{found}");
    symlink(&other, allowed.join("link")).unwrap();
    assert!(matches!(problem(url(&allowed.join("link"))).await, Problem::Folder(_)));
    // what is no regular file is refused, and one that waits for a writer is not waited for;
    fs::remove_file(place(&allowed)).unwrap();
    fs::create_dir(place(&allowed)).unwrap();
    assert!(matches!(problem(url(&allowed)).await, Problem::NotRegular));
    fs::remove_dir(place(&allowed)).unwrap();
    let pipe = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, place(&allowed), pipe, 0o600.into(), 0).unwrap();
    assert!(matches!(problem(url(&allowed)).await, Problem::NotRegular));
    fs::remove_file(place(&allowed)).unwrap();
    assert!(matches!(problem(url(&allowed)).await, Problem::Io(_)));
    // and one that is inside is read, through a link that stays inside too.
    fs::write(allowed.join("weights"), &stage.content).unwrap();
    symlink(allowed.join("weights"), place(&allowed)).unwrap();
    stage.fetches(&fetcher, &[url(&allowed)]).await;
}
