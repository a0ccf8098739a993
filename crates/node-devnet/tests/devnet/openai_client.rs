//! The official OpenAI client for Python, unchanged, against the devnet. The node is a small one, honest about it: it
//! answers the same to every question.

use std::process::Command;

use node_types::{
    job::{Failure, FailureKind, Job, Mode, Output},
    protocol::{Chunk, FailedJob, NetworkFrame, ResultOfJob},
};
use serde_json::{Value, json};

use crate::{
    common::{Link, Node, answer_text, world},
    python,
};

#[tokio::test]
async fn the_official_client_works_unchanged() {
    let world = world().await;
    let (node, mut link) = world.node(1).await;
    let url = format!("{}/v1", world.devnet.url());
    let client = tokio::task::spawn_blocking(move || {
        let python = python::with_packages("openai", &["openai==3.57.0"]);
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/devnet/openai_client.py");
        Command::new(python).arg("-I").arg(script).arg(url).output().unwrap()
    });
    tokio::pin!(client);
    let output = loop {
        tokio::select! {
            output = &mut client => break output.unwrap(),
            // Making the environment may take longer than a frame is waited for.
            frame = link.next_ever() => if let Some(NetworkFrame::Job { job }) = frame {
                serve(&mut link, &node, &job).await;
            },
        }
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let seen: Value = serde_json::from_slice(&output.stdout).unwrap();
    let wanted = json!({
        "models": ["m", "e"],
        "chat": "Paris", "usage": 4, "node": node.id.to_string(),
        "stream": ["Par", "is", ""], "finish_reason": "stop", "stream_usage": 4,
        "completion": "Paris", "embedding": [0.5, -0.5],
        "unknown_model": "model_not_found",
        "failure": [502, "runtime: it was asked to fail"],
        "failure_in_stream": "runtime: it was asked to fail",
    });
    assert_eq!(seen, wanted);
    let failed = world.get("/v1/devnet/state").await.json()["jobs"]["failure"].clone();
    assert_eq!(failed, 2, "a failure is not tried again by the client");
}

async fn serve(link: &mut Link, node: &Node, job: &Job) {
    let id = job.id;
    link.answer(node, id, node_types::protocol::AcceptAnswer::New).await;
    let request: Value = serde_json::from_str(job.request.as_json()).unwrap();
    if request["prompt"].as_str().is_some_and(|prompt| prompt.starts_with("fail")) {
        if request["stream"] == true {
            let data = json!({ "choices": [{ "index": 0, "text": "Par" }] }).to_string();
            link.say(node, &Chunk { job: id, attempt: 1, index: 0, data }).await;
        }
        let failure = Failure::new(FailureKind::Runtime, "it was asked to fail");
        return link.say(node, &FailedJob { job: id, failure }).await;
    }
    if request["stream"] == true {
        for (index, text) in (0..).zip(["Par", "is"]) {
            let choice = json!({ "index": 0, "delta": { "content": text }, "finish_reason": null });
            let data = json!({
                "id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice],
            });
            link.say(node, &Chunk { job: id, attempt: 1, index, data: data.to_string() }).await;
        }
    }
    let body = match job.mode {
        Mode::Chat => answer_text("Paris").body,
        Mode::Completion => json!({
            "id": "c", "object": "text_completion", "created": 1, "model": "m",
            "choices": [{ "index": 0, "text": "Paris", "finish_reason": "stop" }],
        })
        .to_string(),
        Mode::Embedding => json!({
            "object": "list", "model": "e", "usage": { "prompt_tokens": 1, "total_tokens": 1 },
            "data": [{ "object": "embedding", "index": 0, "embedding": [0.5, -0.5] }],
        })
        .to_string(),
    };
    link.say(node, &ResultOfJob { job: id, output: Output { body, prompt_tokens: 3, completion_tokens: 1 } })
        .await;
}
