//! Answers as they are made, over starts that crash and nodes that go.

use node_types::{
    JobId,
    job::{Failure, FailureKind},
    protocol::{Chunk, FailedJob},
};
use serde_json::{Value, json};

use crate::common::{Link, Node, chat, world};

fn streamed() -> Value {
    let mut body = chat();
    body["stream"] = json!(true);
    body
}

async fn part(link: &mut Link, node: &Node, job: JobId, attempt: u16, index: u32, text: &str) {
    let data = json!({
        "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m",
        "choices": [{ "index": 0, "delta": { "content": text }, "finish_reason": null }],
    });
    link.say(node, &Chunk { job, attempt, index, data: data.to_string() }).await;
}

/// The text that a client puts together, and whether the stream ended well.
fn read(events: &[String]) -> (String, bool) {
    let mut text = String::new();
    for event in events.iter().filter(|event| *event != "[DONE]") {
        let event: Value = serde_json::from_str(event).unwrap();
        text.push_str(event["choices"][0]["delta"]["content"].as_str().unwrap_or_default());
    }
    (text, events.last().is_some_and(|last| last == "[DONE]"))
}

#[tokio::test]
async fn parts_come_as_the_node_sends_them_and_the_end_is_named() {
    let world = world().await;
    let (node, mut link) = world.node(1).await;
    let asked = world.ask(streamed(), &[]);
    let job = link.take(&node).await.id;
    part(&mut link, &node, job, 1, 0, "Par").await;
    part(&mut link, &node, job, 1, 1, "is").await;
    link.finish(&node, job, "Paris").await;
    let answer = asked.await.unwrap();
    assert_eq!(answer.header("content-type"), "text/event-stream");
    assert_eq!(answer.header("x-resultity-node"), node.id.to_string());
    assert_eq!(answer.header("x-resultity-job"), job.to_string());
    let events = answer.events();
    assert_eq!(read(&events), ("Paris".into(), true));
    assert_eq!(events.len(), 4, "two parts, the reason of the end, [DONE]: {events:?}");
    assert!(events[2].contains(r#""finish_reason":"stop""#));
}

#[tokio::test]
async fn a_part_arrives_before_the_answer_is_complete() {
    let world = world().await;
    let (node, mut link) = world.node(1).await;
    let url = format!("{}/v1/chat/completions", world.devnet.url());
    let request = crate::common::http().post(url).body(streamed().to_string());
    let sent = tokio::spawn(request.send());
    let job = link.take(&node).await.id;
    let mut response = sent.await.unwrap().unwrap();
    part(&mut link, &node, job, 1, 0, "Par").await;
    let first = response.chunk().await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&first).contains("Par"));
    assert_eq!(world.job(job).await["place"], "held");
}

#[tokio::test]
async fn a_start_after_a_crash_repeats_nothing_to_the_client() {
    let world = world().await;
    let (node, mut link) = world.node(1).await;
    let asked = world.ask(streamed(), &[]);
    let job = link.take(&node).await.id;
    part(&mut link, &node, job, 1, 0, "The city").await;
    part(&mut link, &node, job, 1, 1, " of").await;
    drop(link);
    let node = node.restarted(9);
    let mut link = node.connect().await;
    for (index, text) in (0..).zip(["The ", "city of ", "Par", "is"]) {
        part(&mut link, &node, job, 2, index, text).await;
    }
    link.finish(&node, job, "The city of Paris").await;
    assert_eq!(read(&asked.await.unwrap().events()), ("The city of Paris".into(), true));
}

#[tokio::test]
async fn another_node_that_takes_over_repeats_nothing_either() {
    let world = world().await;
    let (lost, mut link) = world.node(1).await;
    let asked = world.ask(streamed(), &[]);
    let job = link.take(&lost).await.id;
    part(&mut link, &lost, job, 1, 0, "Par").await;
    world.until(job, "held").await;
    drop(link);
    let (other, mut link) = world.node(2).await;
    assert_eq!(link.take(&other).await.id, job);
    part(&mut link, &other, job, 1, 0, "Pa").await;
    part(&mut link, &other, job, 1, 1, "ris").await;
    link.finish(&other, job, "Paris").await;
    assert_eq!(read(&asked.await.unwrap().events()), ("Paris".into(), true));
}

#[tokio::test]
async fn lost_parts_come_from_the_result() {
    let world = world().await;
    let (node, mut link) = world.node(1).await;
    let mut body = streamed();
    body["stream_options"] = json!({ "include_usage": true });
    let asked = world.ask(body, &[]);
    let job = link.take(&node).await.id;
    part(&mut link, &node, job, 1, 0, "The ").await;
    part(&mut link, &node, job, 1, 2, "of Paris").await;
    link.finish(&node, job, "The city of Paris").await;
    let events = asked.await.unwrap().events();
    assert_eq!(read(&events), ("The city of Paris".into(), true));
    let usage: Value = serde_json::from_str(&events[events.len() - 2]).unwrap();
    assert_eq!(usage["usage"]["total_tokens"], 4);
}

#[tokio::test]
async fn a_start_with_another_answer_ends_the_stream_with_an_error() {
    let world = world().await;
    let (node, mut link) = world.node(1).await;
    let asked = world.ask(streamed(), &[]);
    let job = link.take(&node).await.id;
    part(&mut link, &node, job, 1, 0, "The city").await;
    part(&mut link, &node, job, 2, 0, "A town").await;
    let events = asked.await.unwrap().events();
    let last: Value = serde_json::from_str(events.last().unwrap()).unwrap();
    assert_eq!(last["error"]["code"], "diverged");
    assert_eq!(read(&events[..1]).0, "The city");
}

#[tokio::test]
async fn a_failure_in_the_middle_ends_the_stream_with_an_error() {
    let world = world().await;
    let (node, mut link) = world.node(1).await;
    let asked = world.ask(streamed(), &[]);
    let job = link.take(&node).await.id;
    part(&mut link, &node, job, 1, 0, "The city").await;
    let failure = Failure::new(FailureKind::TimedOut, "too slow");
    link.say(&node, &FailedJob { job, failure }).await;
    let events = asked.await.unwrap().events();
    let last: Value = serde_json::from_str(events.last().unwrap()).unwrap();
    assert_eq!(last["error"]["message"], "timed_out: too slow");
}
