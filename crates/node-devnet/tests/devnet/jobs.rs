//! Jobs over the OpenAI API: answered, repeated, taken elsewhere, cancelled, ended by their time.

use node_types::{
    JobId, Timestamp,
    job::{Failure, FailureKind},
    protocol::{AcceptAnswer, ExpiredJob, FailedJob, Inquiry, Leaving, NetworkFrame, ResultOfJob, path},
    trace::Standing,
};
use serde_json::json;

use crate::common::{OFFER_RETRY_MS, REASSIGN_MS, answer_text, chat, post, world};

#[tokio::test]
async fn a_question_is_answered_by_a_node() {
    let world = world().await;
    let (node, mut link) = world.node(1).await;
    let asked = world.ask(chat(), &[("x-resultity-priority", "7"), ("authorization", "Bearer anything")]);
    let job = link.take(&node).await;
    assert_eq!((job.priority, job.max_tokens, job.model.to_string().as_str()), (7, 64, "m@1.0.0"));
    assert_eq!(job.id.to_string().as_bytes()[14], b'7', "a UUID of version 7");
    link.finish(&node, job.id, "Paris").await;
    link.acknowledged(job.id).await;

    let answer = asked.await.unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["choices"][0]["message"]["content"], "Paris");
    assert_eq!(answer.header("x-resultity-job"), job.id.to_string());
    assert_eq!(answer.header("x-resultity-node"), node.id.to_string());
}

#[tokio::test]
async fn models_are_listed_and_wrong_requests_are_named() {
    let world = world().await;
    let listed = world.get("/v1/models").await.json();
    let names: Vec<_> = listed["data"].as_array().unwrap().iter().map(|it| it["id"].clone()).collect();
    assert_eq!(names, ["m", "e"]);
    assert_eq!(world.get("/v1/models/m@1.0.0").await.json()["id"], "m@1.0.0");
    assert_eq!(world.get("/v1/models/x").await.status, 404);

    let wrong = [
        ("/v1/chat/completions", json!({ "model": "x", "messages": [] }), 404),
        ("/v1/chat/completions", json!({ "messages": [] }), 404),
        ("/v1/chat/completions", json!({ "model": "m" }), 400),
        ("/v1/chat/completions", json!({ "model": "e", "messages": [] }), 400),
        ("/v1/chat/completions", json!({ "model": "m", "messages": [], "max_tokens": 65 }), 400),
        ("/v1/completions", json!({ "model": "m", "prompt": "x", "x-resultity-priority": 256 }), 400),
        ("/v1/embeddings", json!({ "model": "m", "input": "x" }), 400),
        ("/v1/completions", json!(["no object"]), 400),
    ];
    for (path, body, status) in wrong {
        let answer = world.post(path, &body).await;
        assert_eq!(answer.status, status, "{body}");
        assert!(answer.json()["error"]["message"].is_string());
    }
    assert_eq!(world.get("/v1/devnet/jobs").await.json()["jobs"], json!([]));
}

#[tokio::test]
async fn an_embedding_and_a_completion_go_to_the_node_as_such() {
    let world = world().await;
    let (node, mut link) = world.node(1).await;
    let url = format!("{}/v1/embeddings", world.devnet.url());
    let asked = tokio::spawn(async move { post(&url, &json!({ "model": "e", "input": "x" }), &[]).await });
    let job = link.take(&node).await;
    assert_eq!(job.request.as_json(), r#"{"input":"x","model":"e"}"#);
    let mut output = answer_text("");
    output.body = r#"{"object":"list","data":[]}"#.into();
    link.say(&node, &ResultOfJob { job: job.id, output: output.clone() }).await;
    assert_eq!(asked.await.unwrap().json()["object"], "list");

    let id = world.submit(json!({ "mode": "completion", "request": { "model": "m", "prompt": "x" } })).await;
    link.acknowledged(job.id).await;
    assert_eq!(link.take(&node).await.id, id);
}

#[tokio::test]
async fn an_offer_comes_again_until_it_is_answered() {
    let world = world().await;
    let (node, mut link) = world.node(1).await;
    let id = world.submit(json!({})).await;
    let first = link.offer().await;
    let second = link.offer().await;
    assert_eq!((first.id, first), (id, second));
    link.answer(&node, id, AcceptAnswer::New).await;
    let job = world.until(id, "held").await;
    assert!(job["offers"][0]["times"].as_u64().unwrap() >= 2);
    assert_eq!(job["offers"][0]["answer"], "new");
    assert!(link.is_silent(2 * OFFER_RETRY_MS).await);
}

#[tokio::test]
async fn a_job_that_is_not_accepted_goes_to_another_node() {
    let world = world().await;
    let (_, mut silent) = world.node(1).await;
    let id = world.submit(json!({})).await;
    assert_eq!(silent.offer().await.id, id);
    let (other, mut link) = world.node(2).await;
    assert_eq!(link.take(&other).await.id, id);
    let job = world.until(id, "held").await;
    assert_eq!(job["node"], other.id.to_string());
    let offers = job["offers"].as_array().unwrap();
    assert!(offers[1]["firstAt"].as_u64().unwrap() >= offers[0]["firstAt"].as_u64().unwrap() + REASSIGN_MS);
}

#[tokio::test]
async fn a_job_of_a_node_that_is_gone_goes_to_another_and_its_end_is_stored_once() {
    let world = world().await;
    let (lost, mut link) = world.node(1).await;
    let id = world.submit(json!({})).await;
    link.take(&lost).await;
    world.until(id, "held").await;
    drop(link);

    let (other, mut link) = world.node(2).await;
    assert_eq!(link.take(&other).await.id, id);
    link.finish(&other, id, "first").await;
    link.acknowledged(id).await;
    let mut back = lost.connect().await;
    back.finish(&lost, id, "second").await;
    back.acknowledged(id).await;
    link.finish(&other, id, "first").await;
    link.acknowledged(id).await;

    let job = world.job(id).await;
    assert_eq!((&job["endNode"], &job["resultsReceived"]), (&json!(other.id.to_string()), &json!(3)));
    assert!(job["output"]["body"].as_str().unwrap().contains("first"));
    let results: Vec<_> =
        job["messages"].as_array().unwrap().iter().filter(|it| it["kind"] == "result").collect();
    assert_eq!(results[1]["node"], lost.id.to_string());
    assert_eq!(results[1]["bootId"], lost.boot.to_string());
    assert!(results[1]["seq"].as_u64().unwrap() > 0);
}

#[tokio::test]
async fn the_end_of_a_job_that_nobody_knows_or_that_was_never_offered_is_acknowledged_and_not_stored() {
    let world = world().await;
    let (node, mut link) = world.node(1).await;
    let unknown = JobId::from_bytes([9; 16]);
    link.finish(&node, unknown, "x").await;
    link.acknowledged(unknown).await;

    let id = world.submit(json!({})).await;
    link.take(&node).await;
    let (thief, mut other) = world.node(2).await;
    other.finish(&thief, id, "stolen").await;
    other.acknowledged(id).await;
    assert_eq!(world.job(id).await["place"], "held");
}

#[tokio::test]
async fn a_node_that_is_full_is_asked_later_and_one_that_rejects_not_again() {
    let world = world().await;
    let (node, mut link) = world.node(1).await;
    let id = world.submit(json!({})).await;
    link.offer().await;
    link.answer(&node, id, AcceptAnswer::Full).await;
    assert_eq!(link.offer().await.id, id);
    link.answer(&node, id, AcceptAnswer::Rejected).await;
    world.until(id, "waiting").await;
    assert!(link.is_silent(2 * OFFER_RETRY_MS).await);
    let (other, mut link) = world.node(2).await;
    assert_eq!(link.take(&other).await.id, id);
}

#[tokio::test]
async fn a_node_that_runs_nothing_gets_nothing_until_it_says_so() {
    let world = world().await;
    let (node, mut link) = world.node(1).await;
    let mut hello = node.hello();
    hello.concurrency = 0;
    link.say(&node, &hello).await;
    let state = async || world.get("/v1/devnet/state").await.json()["nodes"][0]["concurrency"].clone();
    while state().await != 0 {}
    let id = world.submit(json!({})).await;
    assert!(link.is_silent(2 * OFFER_RETRY_MS).await);
    link.say(&node, &node.hello()).await;
    assert_eq!(link.offer().await.id, id);
}

#[tokio::test]
async fn a_failure_is_an_error_with_its_kind_and_message() {
    let world = world().await;
    let (node, mut link) = world.node(1).await;
    let asked = world.ask(chat(), &[]);
    let job = link.take(&node).await.id;
    let failure = Failure::new(FailureKind::Runtime, "the runtime said 500");
    link.say(&node, &FailedJob { job, failure }).await;
    link.acknowledged(job).await;
    let answer = asked.await.unwrap();
    assert_eq!((answer.status, answer.header("x-should-retry")), (502, "false"));
    assert_eq!(answer.json()["error"]["message"], "runtime: the runtime said 500");
    assert_eq!(answer.header("x-resultity-node"), node.id.to_string());
}

#[tokio::test]
async fn a_question_without_a_node_ends_with_its_time() {
    let world = world().await;
    let answer = world.ask(chat(), &[("x-resultity-ttl-ms", "150")]).await.unwrap();
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (503, Some("no_node")));
    let mut body = chat();
    body["x-resultity-ttl-ms"] = json!(150);
    body["stream"] = json!(true);
    assert_eq!(world.ask(body, &[]).await.unwrap().status, 503);
}

#[tokio::test]
async fn a_question_that_its_node_lets_expire_is_reported() {
    let world = world().await;
    let (node, mut link) = world.node(1).await;
    let asked = world.ask(chat(), &[("x-resultity-ttl-ms", "7000")]);
    let job = link.take(&node).await;
    crate::common::pause(7_050).await;
    let expired = ExpiredJob { job: job.id, standing: Standing::Queued, at: Timestamp::from_ms(1) };
    link.say(&node, &expired).await;
    link.acknowledged(job.id).await;
    let answer = asked.await.unwrap();
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (504, Some("expired")));
    let shown = world.job(job.id).await;
    assert_eq!((&shown["standing"], &shown["endNode"]), (&json!("queued"), &json!(node.id.to_string())));
}

#[tokio::test]
async fn a_question_that_its_node_forgets_ends_too() {
    let world = world().await;
    let (node, mut link) = world.node(1).await;
    let asked = world.ask(chat(), &[("x-resultity-ttl-ms", "7000")]);
    link.take(&node).await;
    let answer = asked.await.unwrap();
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (504, Some("expired")));
}

#[tokio::test]
async fn what_nobody_has_is_cancelled_at_once_and_a_held_job_by_its_node() {
    let world = world().await;
    let waiting = world.submit(json!({})).await;
    let cancel = |id: JobId| format!("/v1/devnet/jobs/{id}/cancel");
    assert_eq!(world.post(&cancel(waiting), &json!({})).await.json()["cancelled"], true);
    assert_eq!(world.job(waiting).await["failure"]["kind"], "cancelled");
    assert_eq!(world.post(&cancel(waiting), &json!({})).await.json()["cancelled"], false);
    assert_eq!(world.post(&cancel(JobId::from_bytes([1; 16])), &json!({})).await.status, 404);

    let (node, mut link) = world.node(1).await;
    let held = world.submit(json!({})).await;
    link.take(&node).await;
    world.until(held, "held").await;
    world.post(&cancel(held), &json!({})).await;
    for _ in 0..2 {
        assert_eq!(link.next().await, Some(NetworkFrame::Cancel { job: held }), "until it has ended");
    }
    drop(link);
    let mut link = node.connect().await;
    assert_eq!(link.next().await, Some(NetworkFrame::Cancel { job: held }), "on a new connection too");
    let failure = Failure::new(FailureKind::Cancelled, "cancelled");
    link.say(&node, &FailedJob { job: held, failure }).await;
    loop {
        match link.next().await {
            Some(NetworkFrame::Cancel { .. }) => {}
            Some(NetworkFrame::Acknowledged { .. }) => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(world.job(held).await["failure"]["kind"], "cancelled");
}

#[tokio::test]
async fn an_offer_that_is_accepted_after_its_cancellation_is_cancelled_there() {
    let world = world().await;
    let (node, mut link) = world.node(1).await;
    let id = world.submit(json!({})).await;
    link.offer().await;
    world.post(&format!("/v1/devnet/jobs/{id}/cancel"), &json!({})).await;
    assert_eq!(link.next().await, Some(NetworkFrame::Cancel { job: id }));
    link.answer(&node, id, AcceptAnswer::New).await;
    assert_eq!(link.next().await, Some(NetworkFrame::Cancel { job: id }));
}

#[tokio::test]
async fn a_node_that_says_goodbye_is_not_connected_any_more() {
    let world = world().await;
    let (node, mut link) = world.node(1).await;
    assert_eq!(world.get("/v1/devnet/state").await.json()["connected"], 1);
    link.say(&node, &Leaving { reason: "stopping".into() }).await;
    assert_eq!(link.next().await, None);
    while world.get("/v1/devnet/state").await.json()["connected"] != 0 {}
    assert_eq!(world.get("/v1/devnet/state").await.json()["nodes"][0]["connected"], false);
}

/// What a node hears that asks about jobs.
async fn claims(node: &crate::common::Node, jobs: &[JobId], all: bool) -> serde_json::Value {
    let answer = node.post(path::INQUIRY, &Inquiry { jobs: jobs.to_vec(), all }).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.json()["snapshot"]["version"].is_u64(), "{answer:?}");
    answer.json()["jobs"].clone()
}

#[tokio::test]
async fn a_restored_node_hears_of_each_of_its_jobs_and_what_it_lost_is_offered_anew() {
    let world = world().await;
    let (node, mut link) = world.node(1).await;
    let mut jobs = Vec::new();
    for _ in 0..3 {
        world.submit(json!({})).await;
        jobs.push(link.take(&node).await.id);
    }
    link.finish(&node, jobs[0], "Paris").await;
    link.acknowledged(jobs[0]).await;
    world.until(jobs[2], "held").await;
    let never = JobId::from_bytes([9; 16]);
    let asked = [jobs[0], jobs[1], never];
    assert_eq!(
        claims(&node, &asked, false).await,
        json!([
            { "job": jobs[0], "claim": "ended", "outcome": "answered" },
            { "job": jobs[1], "claim": "yours" },
            { "job": never, "claim": "unknown" },
        ])
    );
    assert_eq!(world.job(jobs[2]).await["place"], "held", "it was not said that these are all");

    let other = crate::common::Node::new(2, &world.devnet.url());
    other.register().await;
    assert_eq!(claims(&other, &jobs[..1], true).await, json!([{ "job": jobs[0], "claim": "unknown" }]));
    assert_eq!(world.job(jobs[1]).await["place"], "held", "another node's word gives nothing back");

    claims(&node, &jobs[..2], true).await;
    assert_eq!(link.offer().await.id, jobs[2]);
    assert_eq!(world.job(jobs[1]).await["place"], "held");

    // One that others have by now.
    link.answer(&node, jobs[2], AcceptAnswer::Rejected).await;
    world.until(jobs[2], "waiting").await;
    assert_eq!(claims(&node, &jobs[2..], false).await, json!([{ "job": jobs[2], "claim": "not_yours" }]));
}

#[tokio::test]
async fn a_job_that_is_not_wanted_any_more_and_was_lost_ends() {
    let world = world().await;
    let (node, mut link) = world.node(1).await;
    let job = world.submit(json!({})).await;
    link.take(&node).await;
    world.until(job, "held").await;
    world.post(&format!("/v1/devnet/jobs/{job}/cancel"), &json!({})).await;
    claims(&node, &[], true).await;
    assert_eq!(world.until(job, "ended").await["failure"]["kind"], "cancelled");
}
