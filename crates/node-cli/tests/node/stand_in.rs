//! A stand-in for a runtime, where a fault or a duration must be forced: it speaks the OpenAI API and computes nothing.
//!
//! The prompt says what it does: `wait <ms>` answers after so long, `held` while it is told to, `fail` answers with an
//! error.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, atomic::AtomicBool, atomic::AtomicUsize, atomic::Ordering},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle, time::sleep};

use crate::stage::eventually;

#[derive(Debug, Default)]
struct Seen {
    starts: Mutex<BTreeMap<String, u32>>,
    at_once: AtomicUsize,
    at_once_max: AtomicUsize,
    hangs: AtomicBool,
    holds: AtomicBool,
}

/// The stand-in, listening on loopback until it is dropped.
#[derive(Debug)]
pub struct StandIn {
    pub url: String,
    seen: Arc<Seen>,
    serving: JoinHandle<()>,
}

impl StandIn {
    pub async fn start() -> Self {
        Self::start_on("127.0.0.1:0").await
    }

    pub async fn start_on(address: &str) -> Self {
        // Somebody may have the port just now as their own end of a connection.
        let listener =
            eventually("the address is free", || async { TcpListener::bind(address).await.ok() }).await;
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Seen::default());
        let router = Router::new()
            .route("/health", get(|| async { Json(json!({ "status": "ok" })) }))
            .route("/v1/completions", post(complete))
            .with_state(Arc::clone(&seen));
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, seen, serving }
    }

    /// From now on it answers nothing but that it is well.
    pub fn hang(&self, hangs: bool) {
        self.seen.hangs.store(hangs, Ordering::SeqCst);
    }

    /// From now on it does not answer prompts that begin with `held`, until it is told to.
    pub fn hold(&self, holds: bool) {
        self.seen.holds.store(holds, Ordering::SeqCst);
    }

    /// How often a prompt was started.
    pub fn starts(&self, prompt: &str) -> u32 {
        self.seen.starts.lock().unwrap().get(prompt).copied().unwrap_or(0)
    }

    /// The most that ran at one moment.
    pub fn at_once_max(&self) -> usize {
        self.seen.at_once_max.load(Ordering::SeqCst)
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Counts a run down however it ends.
struct Running(Arc<Seen>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.at_once.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn complete(State(seen): State<Arc<Seen>>, Json(body): Json<Value>) -> Response {
    let prompt = body["prompt"].as_str().unwrap_or_default().to_owned();
    *seen.starts.lock().unwrap().entry(prompt.clone()).or_default() += 1;
    let now = seen.at_once.fetch_add(1, Ordering::SeqCst) + 1;
    seen.at_once_max.fetch_max(now, Ordering::SeqCst);
    let _running = Running(Arc::clone(&seen));
    while seen.hangs.load(Ordering::SeqCst) {
        sleep(Duration::from_millis(20)).await;
    }
    while prompt.starts_with("held") && seen.holds.load(Ordering::SeqCst) {
        sleep(Duration::from_millis(20)).await;
    }
    let mut words = prompt.split(' ');
    match (words.next(), words.next().and_then(|number| number.parse().ok())) {
        (Some("wait"), Some(ms)) => sleep(Duration::from_millis(ms)).await,
        (Some("fail"), _) => {
            let error = json!({ "error": { "message": "the stand-in was asked to fail" } });
            return (StatusCode::INTERNAL_SERVER_ERROR, Json(error)).into_response();
        }
        _ => {}
    }
    Json(json!({
        "id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m",
        "choices": [{ "index": 0, "text": format!("answer to {prompt}"), "finish_reason": "stop", "logprobs": null }],
        "usage": { "prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7 },
    }))
    .into_response()
}
