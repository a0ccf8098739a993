//! The page's server: who may look, what each answer carries, and what bounds it.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that cannot go on must fail, and has files of its own"
)]

#[path = "common/settings.rs"]
mod settings;

use std::{
    fs::Permissions, net::SocketAddr, os::unix::fs::PermissionsExt as _, path::Path, sync::Arc,
    time::Duration,
};

use node_agent::{
    author::Author,
    node::Node,
    page::{CONNECTIONS_MAX, HEAD_BYTES_MAX, LISTENERS_MAX, Page, PageError},
    settings::{PageSettings, Settings},
    standing::{Health, Source, Standing},
    time,
};
use node_store::store::{Options, Store};
use node_types::{
    Network,
    log::{Kind, Level},
    protocol::Readiness,
};
use serde_json::Value;
use settings::settings;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// The longest that anything is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
const TOKEN: &str = "a-token-of-the-operator";

struct Scene {
    home: tempfile::TempDir,
    node: Arc<Node>,
    page: Option<Page>,
}

fn anywhere() -> PageSettings {
    PageSettings { listen: "127.0.0.1:0".parse().ok(), token_file: None }
}

fn only_ours(file: &Path) {
    std::fs::set_permissions(file, Permissions::from_mode(0o600)).unwrap();
}

impl Scene {
    fn node(page: PageSettings) -> (tempfile::TempDir, Arc<Node>) {
        let home = tempfile::tempdir().unwrap();
        let options = Options { reserve_bytes: 1 << 20, ..Options::new(home.path(), Network::Testnet) };
        let store = Arc::new(Store::create(&options, None, &time::reading().unwrap()).unwrap());
        let author = Author::new(Arc::clone(&store)).unwrap();
        let settings = Settings { page, ..settings(home.path()) };
        let (node, _) = Node::new(store, author, settings).unwrap();
        (home, node)
    }

    async fn set() -> Self {
        let (home, node) = Self::node(anywhere());
        let page = Page::start(&node).await.unwrap();
        Self { home, node, page }
    }

    async fn guarded() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, format!("{TOKEN}\n")).unwrap();
        only_ours(&file);
        let (home, node) = Self::node(PageSettings { token_file: Some(file), ..anywhere() });
        let page = Page::start(&node).await.unwrap();
        Self { home, node, page }
    }

    fn address(&self) -> SocketAddr {
        self.page.as_ref().unwrap().url().strip_prefix("http://").unwrap().parse().unwrap()
    }

    /// Sends a request as it stands and gives the whole answer.
    async fn ask(&self, request: &str) -> String {
        let asked = async {
            let mut stream = TcpStream::connect(self.address()).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            // Where a request is refused before all of it was read, the connection may be reset.
            let _ = stream.read_to_end(&mut answer).await;
            String::from_utf8(answer).unwrap()
        };
        tokio::time::timeout(PATIENCE, asked).await.unwrap()
    }

    async fn get(&self, path: &str) -> String {
        self.ask(&get(path, "")).await
    }
}

/// A request of HTTP/1.1 whose answer ends with the connection.
fn get(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n{headers}\r\n")
}

#[tokio::test]
async fn prometheus_reads_the_metrics() {
    let scene = Scene::set().await;
    let answer = scene.get("/metrics").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains("content-type: text/plain; version=0.0.4"), "{answer}");
    let line = format!("resultity_build_info{{version=\"{}\",", node_agent::VERSION);
    assert!(answer.contains(&line), "{answer}");
}

#[tokio::test]
async fn another_name_is_refused_and_no_origin_is_let_in() {
    let scene = Scene::set().await;
    for host in ["example.org", "127.0.0.1.example.org:80"] {
        let answer = scene.ask(&format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 403 "), "{host}: {answer}");
    }
    let answer = scene.ask(&get("/metrics", "Origin: https://example.org\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(!answer.to_lowercase().contains("access-control"), "{answer}");
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cache-control", "no-store"),
        ("cross-origin-resource-policy", "same-origin"),
    ] {
        assert!(answer.contains(&format!("{name}: {value}\r\n")), "{answer}");
    }
}

/// A page of another site, open in a browser here, could not read the answers and took the places of those who listen.
#[tokio::test]
async fn another_sites_page_takes_no_place_among_those_who_listen() {
    let scene = Scene::set().await;
    let foreign = "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\n";
    for _ in 0..=LISTENERS_MAX {
        let answer = scene.ask(&get("/v1/events", foreign)).await;
        assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    }
    let own = "GET /v1/events HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: same-origin\r\n\r\n";
    let mut stream = TcpStream::connect(scene.address()).await.unwrap();
    stream.write_all(own.as_bytes()).await.unwrap();
    read_until(&mut stream, "event: report").await;
}

#[tokio::test]
async fn one_can_only_look() {
    let scene = Scene::set().await;
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let request = format!(
            "{method} /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        );
        let answer = scene.ask(&request).await;
        assert!(answer.starts_with("HTTP/1.1 405 "), "{method}: {answer}");
        assert!(answer.contains("allow: GET, HEAD\r\n"), "{answer}");
    }
    let head = scene.ask("HEAD /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
}

#[tokio::test]
async fn a_token_opens_the_page_once_by_url_and_then_by_a_cookie() {
    let scene = Scene::guarded().await;
    let refused = scene.get("/metrics").await;
    assert!(refused.starts_with("HTTP/1.1 401 "), "{refused}");
    let header = format!("Authorization: Bearer {TOKEN}\r\n");
    assert!(scene.ask(&get("/metrics", &header)).await.starts_with("HTTP/1.1 200 "));
    let redirect = scene.get(&format!("/?token={TOKEN}")).await;
    assert!(redirect.starts_with("HTTP/1.1 303 ") && redirect.contains("location: /\r\n"), "{redirect}");
    let cookie = redirect.lines().find_map(|line| line.strip_prefix("set-cookie: ")).unwrap();
    assert!(cookie.contains("HttpOnly; SameSite=Strict"), "{cookie}");
    let pair = cookie.split(';').next().unwrap();
    let seen = scene.ask(&get("/metrics", &format!("Cookie: {pair}\r\n"))).await;
    assert!(seen.starts_with("HTTP/1.1 200 "), "{seen}");
    let other = scene.ask(&get("/metrics", "Cookie: resultity_page=0\r\n")).await;
    assert!(other.starts_with("HTTP/1.1 401 "), "{other}");
}

#[tokio::test]
async fn other_machines_are_not_let_in_without_a_token() {
    let open = PageSettings { listen: "0.0.0.0:0".parse().ok(), token_file: None };
    let (_home, node) = Scene::node(open);
    assert!(matches!(Page::start(&node).await, Err(PageError::Open(_))));
    let folder = tempfile::tempdir().unwrap();
    let short = folder.path().join("short");
    std::fs::write(&short, "short").unwrap();
    only_ours(&short);
    let open = folder.path().join("open");
    std::fs::write(&open, TOKEN).unwrap();
    std::fs::set_permissions(&open, Permissions::from_mode(0o640)).unwrap();
    let refused = [(folder.path().join("none"), "cannot read"), (short, "16 characters"), (open, "0640")];
    for (file, said) in refused {
        let settings = PageSettings { token_file: Some(file.clone()), ..anywhere() };
        let (_home, node) = Scene::node(settings);
        let error = Page::start(&node).await.unwrap_err().to_string();
        assert!(error.contains(said) && error.contains(file.to_str().unwrap()), "{error}");
    }
}

#[tokio::test]
async fn a_port_that_is_taken_leaves_the_node_without_a_page() {
    let first = Scene::set().await;
    let taken = PageSettings { listen: Some(first.address()), token_file: None };
    let (home, node) = Scene::node(taken);
    assert!(Page::start(&node).await.unwrap().is_none());
    let options = Options::new(home.path(), Network::Testnet);
    assert_eq!(Store::held_by(&options).unwrap().unwrap().page, None);
    node.store.logs().flush().await.unwrap();
    let log = node.store.logs().view().query(&node_store::logs::Query::default()).unwrap();
    let said = log.iter().any(|entry| entry.record.message.contains("set page.listen"));
    assert!(said, "{log:?}");
}

#[tokio::test]
async fn the_volume_says_where_the_page_is_while_it_is_there() {
    let mut scene = Scene::set().await;
    let options = Options::new(scene.home.path(), Network::Testnet);
    let announced = || Store::held_by(&options).unwrap().unwrap().page;
    assert_eq!(announced(), scene.page.as_ref().map(|page| page.url().to_owned()));
    let address = scene.address();
    scene.page.take().unwrap().stop().await;
    assert_eq!(announced(), None);
    assert!(TcpStream::connect(address).await.is_err());
    // Nobody else keeps the store from being opened again.
    assert_eq!(Arc::strong_count(&scene.node), 1);
}

#[tokio::test]
async fn a_head_that_is_too_long_is_refused() {
    let scene = Scene::set().await;
    let long = format!("X-Long: {}\r\n", "a".repeat(HEAD_BYTES_MAX + 1));
    let answer = scene.ask(&get("/metrics", &long)).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

#[tokio::test]
async fn no_more_than_so_many_connections_are_served_at_a_time() {
    let scene = Scene::set().await;
    let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        let mut stream = TcpStream::connect(scene.address()).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut byte = [0];
        // It is served, and stays.
        tokio::time::timeout(PATIENCE, stream.read_exact(&mut byte)).await.unwrap().unwrap();
        held.push(stream);
    }
    let mut one_more = TcpStream::connect(scene.address()).await.unwrap();
    one_more.write_all(request.as_bytes()).await.unwrap();
    let mut answer = [0; 1024];
    let waits = tokio::time::timeout(Duration::from_millis(200), one_more.read(&mut answer)).await;
    assert!(waits.is_err(), "it is served beside the others");
    held.pop();
    let read = tokio::time::timeout(PATIENCE, one_more.read(&mut answer)).await.unwrap().unwrap();
    assert!(answer[..read].starts_with(b"HTTP/1.1 200 "));
}

/// The body of an answer that is not chunked.
fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap().1
}

/// Reads a stream until it has said this.
async fn read_until(stream: &mut TcpStream, words: &str) -> String {
    let reading = async {
        let mut seen = Vec::new();
        loop {
            let mut some = [0; 4096];
            let read = stream.read(&mut some).await.unwrap();
            assert!(read > 0, "it ended before {words:?}: {}", String::from_utf8_lossy(&seen));
            seen.extend_from_slice(&some[..read]);
            let text = String::from_utf8_lossy(&seen);
            if text.contains(words) {
                return text.into_owned();
            }
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.unwrap()
}

async fn listen(scene: &Scene, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(scene.address()).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

async fn note(scene: &Scene, level: Level, text: &str) {
    scene.node.journal.note(level, Kind::Model, text);
    scene.node.store.logs().flush().await.unwrap();
}

#[tokio::test]
async fn the_page_is_one_document_with_everything_in_it() {
    let scene = Scene::set().await;
    for number in 0..300 {
        scene.node.journal.note(Level::Info, Kind::Model, format!("{number} {}", "<script>".repeat(200)));
    }
    note(&scene, Level::Warn, "</script><script>alert(1)</script>").await;
    let answer = scene.get("/").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains("content-type: text/html; charset=utf-8\r\n"));
    let policy = answer.lines().find_map(|line| line.strip_prefix("content-security-policy: ")).unwrap();
    for part in [
        "default-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "connect-src 'self'",
    ] {
        assert!(policy.split("; ").any(|it| it == part), "{part}: {policy}");
    }
    let page = body(&answer);
    assert!(page.len() < 100_000, "{} bytes", page.len());
    assert!(!page.contains("<script>alert"), "a record ended the element that it stands in");
    let data = page.split_once("id=\"data\">").unwrap().1.split_once("</script>").unwrap().0;
    let data: Value = serde_json::from_str(data).unwrap();
    assert_eq!(data["report"]["source"], "agent");
    let records = data["records"].as_array().unwrap();
    assert_eq!(records.last().unwrap()["message"], "</script><script>alert(1)</script>");
    assert!(records.len() < 300, "the oldest had no room");
}

#[tokio::test]
async fn the_report_is_the_one_that_the_command_line_reads() {
    let scene = Scene::set().await;
    let answer = scene.get("/v1/status").await;
    assert!(answer.contains("content-type: application/json\r\n"), "{answer}");
    let report: Standing = serde_json::from_str(body(&answer)).unwrap();
    assert_eq!(report.source, Source::Agent);
    assert_eq!(report.agent.pid, Some(std::process::id()));
    assert_eq!(report.agent.page.as_deref(), scene.page.as_ref().map(Page::url));
    assert_eq!((report.health, report.snapshot), (Health::Attention, None), "{:?}", report.next);
    assert!(report.hardware.is_some_and(|hardware| hardware.disk.total_bytes.is_some()));
    assert!(report.storage.iter().any(|class| class.class == "logs" && class.limit_bytes.is_some()));
}

#[tokio::test]
async fn the_log_is_asked_for_by_level_and_text_and_from_a_number_on() {
    let scene = Scene::set().await;
    note(&scene, Level::Info, "first").await;
    note(&scene, Level::Error, "second").await;
    let found = async |question: &str| {
        let answer = scene.get(&format!("/v1/logs?{question}")).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let records: Value = serde_json::from_str(body(&answer)).unwrap();
        records["records"].as_array().unwrap().clone()
    };
    let errors = found("level=error").await;
    assert_eq!(errors.len(), 1);
    assert_eq!(errors[0]["message"], "second");
    assert_eq!(found("text=FIRST").await.len(), 1);
    assert_eq!(found("job=0192").await.len(), 0, "half an ID is nobody's");
    assert_eq!(found(&format!("after={}", errors[0]["seq"])).await.len(), 0);
    for wrong in ["level=loud", "after=x"] {
        let answer = scene.get(&format!("/v1/logs?{wrong}")).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{wrong}: {answer}");
    }
}

#[tokio::test]
async fn who_listens_hears_of_changes_and_of_the_records_asked_for() {
    let mut scene = Scene::set().await;
    let mut stream = listen(&scene, "/v1/events?level=warn").await;
    let begun = read_until(&mut stream, "event: report").await;
    assert!(begun.contains("content-type: text/event-stream"), "{begun}");
    note(&scene, Level::Info, "not this").await;
    note(&scene, Level::Warn, "but this").await;
    // The end of a list of records: the report tells of the newest warning, too.
    let heard = read_until(&mut stream, "\"message\":\"but this\"}]").await;
    assert!(heard.contains("event: log") && !heard.contains("not this"), "{heard}");
    scene.node.set_readiness(Readiness::RuntimeDown);
    read_until(&mut stream, "\"readiness\":\"runtime_down\"").await;
    // The page's end is the stream's.
    scene.page.take().unwrap().stop().await;
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "the stream goes on");
}

#[tokio::test]
async fn so_many_may_listen_and_no_more() {
    let scene = Scene::set().await;
    let mut held = Vec::new();
    for _ in 0..LISTENERS_MAX {
        let mut stream = listen(&scene, "/v1/events").await;
        read_until(&mut stream, "event: report").await;
        held.push(stream);
    }
    let refused = scene.get("/v1/events").await;
    assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
    held.pop();
    // The place is free once the server has seen that its listener is gone: it writes to it within seconds.
    let freed = async {
        loop {
            let mut stream = listen(&scene, "/v1/events").await;
            if read_until(&mut stream, "HTTP/1.1 ").await.starts_with("HTTP/1.1 200") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, freed).await.unwrap();
}
