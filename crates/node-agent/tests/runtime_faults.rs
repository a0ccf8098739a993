//! A runtime that misbehaves. It is a stand-in: real ones do these things too seldom to be waited for.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

mod runtime;

use std::{process, time::Duration};

use node_agent::runtime::{Endpoint, InferenceError, Plan, ProcessPlan, State, Supervisor};
use node_types::job::Mode;
use runtime::*;
use serde_json::{Value, json};
use tokio::sync::mpsc;

async fn fails(endpoint: &Endpoint, trick: &str, stream: bool) -> InferenceError {
    let body = json!({"model": trick, "messages": [], "stream": stream});
    ask(endpoint, Mode::Chat, &body).await.unwrap_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_is_told_as_what_it_is() {
    let folder = open_folder();
    let supervisor = start(stand_in(&[], folder.path()));
    let endpoint = ready(&supervisor).await;

    let refused = fails(&endpoint, "refuse", false).await;
    assert!(
        matches!(&refused, InferenceError::Refused { status: 422, message } if message == "CANARY is not allowed")
    );
    let refused = fails(&endpoint, "refuse in text", false).await;
    assert!(
        matches!(&refused, InferenceError::Refused { status: 500, message } if message == "it broke"),
        "{refused}"
    );
    let refused = fails(&endpoint, "error in stream", true).await;
    assert!(
        matches!(&refused, InferenceError::Refused { status: 500, message } if message == "CANARY"),
        "{refused}"
    );
    // A redirection could lead anywhere.
    let refused = fails(&endpoint, "redirect", false).await;
    assert!(matches!(refused, InferenceError::Refused { status: 307, .. }), "{refused}");

    for (trick, stream) in
        [("malformed", false), ("no usage", false), ("malformed stream", true), ("uninvited stream", false)]
    {
        let malformed = fails(&endpoint, trick, stream).await;
        assert!(matches!(malformed, InferenceError::Malformed { .. }), "{trick}: {malformed}");
        assert!(!malformed.to_string().contains("CANARY"), "{malformed}");
    }
    for (trick, stream) in [("too large", false), ("without end", false), ("large stream", true)] {
        let large = fails(&endpoint, trick, stream).await;
        assert!(matches!(large, InferenceError::TooLarge {}), "{trick}: {large}");
    }
    for (trick, stream) in [("loading", false), ("cut", false), ("silent", false), ("cut stream", true)] {
        let lost = fails(&endpoint, trick, stream).await;
        assert!(matches!(lost, InferenceError::Lost { .. }), "{trick}: {lost}");
        assert!(!lost.to_string().contains("CANARY"), "{lost}");
    }
    assert_eq!(endpoint.runs(), 0);
    supervisor.stop().await;
    let lost = fails(&endpoint, "echo", false).await;
    assert!(matches!(lost, InferenceError::Lost { .. }), "{lost}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_is_the_capped_body_with_the_key_of_this_start() {
    let folder = open_folder();
    let supervisor = start(stand_in(&[], folder.path()));
    let endpoint = ready(&supervisor).await;
    let mut keys = Vec::new();
    for (mode, path) in [
        (Mode::Chat, "/v1/chat/completions"),
        (Mode::Completion, "/v1/completions"),
        (Mode::Embedding, "/v1/embeddings"),
    ] {
        let body = json!({"model": "echo", "max_tokens": 1000, "n": 2});
        let output = endpoint.infer(mode, &request(&body), 10, None).await;
        if mode == Mode::Embedding {
            // An answer with choices is no answer to this.
            assert!(matches!(output, Err(InferenceError::Malformed { .. })));
            continue;
        }
        let answer = json(&output.unwrap());
        let said: Value =
            serde_json::from_str(answer["choices"][0]["message"]["content"].as_str().unwrap()).unwrap();
        assert_eq!(said["path"], path);
        assert_eq!(said["body"], json!({"model": "echo", "max_tokens": 5, "n": 2}));
        keys.push(said["key"].as_str().unwrap().to_owned());
    }
    assert_eq!(keys[0], keys[1]);
    assert_eq!(keys[0].len(), "Bearer ".len() + 64);
    supervisor.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_is_too_slow_misses_parts_and_the_answer_is_whole() {
    let folder = open_folder();
    let supervisor = start(stand_in(&[], folder.path()));
    let endpoint = ready(&supervisor).await;
    let (sender, mut heard) = mpsc::channel(2);
    let body = request(&json!({"model": "long stream", "stream": true}));
    let output = endpoint.infer(Mode::Chat, &body, 32, Some(&sender)).await.unwrap();
    drop(sender);
    assert_eq!(json(&output)["choices"][0]["message"]["content"], "x".repeat(1000));
    let mut count = 0;
    while heard.recv().await.is_some() {
        count += 1;
    }
    assert_eq!(count, 2);

    let body = json!({"model": "stream without done", "stream": true});
    let output = ask(&endpoint, Mode::Chat, &body).await.unwrap();
    assert_eq!(json(&output)["choices"][0]["finish_reason"], "stop");
    supervisor.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_falls_at_once_is_started_again_later_and_later() {
    let folder = open_folder();
    let plan = stand_in(&["--exit", "3"], folder.path());
    let supervisor = start(ProcessPlan { retry_ms_min: 100, retry_ms_max: 2000, ..plan });
    let mut state = supervisor.state();
    // A fall that comes and goes while this test has not its turn is not seen.
    let (mut seen, mut waits) = (0, Vec::new());
    while seen < 7 {
        tokio::time::timeout(PATIENCE, state.changed()).await.unwrap().unwrap();
        let shown = state.borrow_and_update().clone();
        if let State::Down { cause, retry_in_ms, falls } = shown {
            assert!(cause.starts_with("it ended with status 3"), "{cause}");
            assert!(cause.ends_with("these are my last words"), "{cause}");
            // Between half and all of 100 ms, doubled up to 2 s.
            let longest = (100_u64 << (falls - 1).min(5)).min(2000);
            waits.push((falls, retry_in_ms));
            assert!((longest / 2..=longest).contains(&retry_in_ms), "{waits:?}");
            seen = falls;
        }
    }
    assert!(waits.len() > 3, "{waits:?}");
    supervisor.stop().await;
    assert_eq!(descendants(process::id()), [0; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_never_gets_healthy_is_killed_and_started_again() {
    let folder = open_folder();
    let mut tuning = tuning();
    // Long enough to answer that it is not well.
    tuning.ready_limit = Duration::from_secs(15);
    let falls = std::sync::Arc::clone(&tuning.falls);
    let plan = unhurried(stand_in(&["--never-healthy"], folder.path()));
    let supervisor = Supervisor::start(Plan::Process(plan), tuning);
    let (cause, _) = down(&supervisor).await;
    assert!(
        cause.starts_with("it was not healthy after 15000 ms") && cause.contains("status 500"),
        "{cause}"
    );
    assert_eq!(descendants(process::id()), [0; 0]);
    let mut state = supervisor.state();
    state.wait_for(|state| matches!(state, State::Starting)).await.unwrap();
    assert_eq!(falls.load(std::sync::atomic::Ordering::Relaxed), 0, "it never served");
    supervisor.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_turns_sick_is_replaced_but_not_while_it_works() {
    let folder = open_folder();
    let supervisor = start(unhurried(stand_in(&[], folder.path())));
    let endpoint = ready(&supervisor).await;
    let first = program_of(process::id());
    let hanging = std::sync::Arc::clone(&endpoint);
    let run = tokio::spawn(async move { fails(&hanging, "hang", false).await });
    while endpoint.runs() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    ask(&endpoint, Mode::Chat, &json!({"model": "turn sick"})).await.unwrap();
    endpoint.healthy().await.unwrap_err();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(matches!(*supervisor.state().borrow(), State::Ready(_)), "it works on a run");

    run.abort();
    let mut state = supervisor.state();
    let fell = tokio::time::timeout(PATIENCE, state.wait_for(|state| matches!(state, State::Down { .. })));
    let State::Down { cause, .. } = fell.await.unwrap().unwrap().clone() else { unreachable!() };
    assert!(cause.contains("status 500"), "{cause}");
    gone(&[first]).await;
    ready(&supervisor).await;
    supervisor.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_external_runtime_is_watched_and_never_touched() {
    let folder = open_folder();
    let operator = start(stand_in(&[], folder.path()));
    let url = ready(&operator).await.url().to_owned();

    let tuning = tuning();
    let falls = std::sync::Arc::clone(&tuning.falls);
    let supervisor = Supervisor::start(Plan::External { url, api_key: None }, tuning);
    let endpoint = ready(&supervisor).await;
    ask(&endpoint, Mode::Chat, &json!({"model": "echo"})).await.unwrap();
    // Its first fall: later ones wait for longer.
    let ((), (cause, retry_in_ms)) = tokio::join!(operator.stop(), down(&supervisor));
    assert!(cause.contains("does not answer"), "{cause}");
    assert!((500..=1000).contains(&retry_in_ms), "{retry_in_ms}");
    assert_eq!(falls.load(std::sync::atomic::Ordering::Relaxed), 1);
    supervisor.stop().await;
}
