//! Snapshots: followed on a push and on the timer, taken back when the runtime does not pass, refused when they do not
//! verify.

use node_devnet::{BadSnapshot, Fault};
use node_store::logs::Query;
use serde_json::{Value, json};

use crate::{
    stage::{Stage, eventually, external, running, with},
    stand_in::StandIn,
};

fn in_force(stage: &Stage) -> u64 {
    stage.view().snapshots().unwrap().current().map_or(0, |current| current.config.document().version)
}

async fn report(stage: &Stage, outcome: &str) -> Value {
    eventually(&format!("a report of {outcome}"), || async {
        let reports = stage.get("reports").await;
        let reports = reports["reports"].as_array().unwrap().clone();
        reports.into_iter().map(|it| it["report"].clone()).find(|it| it["outcome"] == outcome)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_snapshot_is_in_force_at_once_and_its_limits_count() {
    let (stage, runtime) = running(external()).await;
    runtime.hold(true);
    stage.post("/v1/devnet/snapshots", &json!({ "limits": { "concurrency": 4 } })).await;
    eventually("it is in force", || async { (in_force(&stage) == 2).then_some(()) }).await;
    stage.active().await;
    let mut jobs = Vec::new();
    for number in 0..8 {
        jobs.push(stage.submit(&format!("held {number}")).await);
    }
    eventually("four run and four wait", || async {
        let counts = stage.view().jobs().counts().unwrap();
        (counts.running == 4 && counts.queued == 4 && runtime.at_once_max() >= 4).then_some(())
    })
    .await;
    runtime.hold(false);
    for job in jobs {
        stage.ended(&job).await;
    }
    assert_eq!(runtime.at_once_max(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_whose_runtime_does_not_start_is_taken_back_and_reported() {
    let (mut stage, _runtime) = running(external()).await;
    let before = stage.submit("wait 1").await;
    stage.ended(&before).await;
    eventually("the network has its trace", || async {
        stage.view().jobs().traces_to_upload(0).unwrap().is_empty().then_some(())
    })
    .await;
    // No registry has it, and no folder of images is set.
    let container = json!({
        "kind": "container", "engine": "stand-in", "image": "example.org/stand-in",
        "digest": format!("sha256:{}", "00".repeat(32)), "args": [],
    });
    stage.post("/v1/devnet/snapshots", &json!({ "runtime": container })).await;

    let report = report(&stage, "rolled_back").await;
    // The model has no source either, and that is found first.
    assert!(report["reason"].as_str().unwrap().contains("names no source for m.bin"), "{report}");
    assert_eq!(report["in_force"], 1);
    let view = stage.view().snapshots().unwrap();
    assert_eq!((in_force(&stage), view.floor().version), (1, 2), "the floor stays");
    assert_eq!(view.taken_back(), Some(2));
    let told = stage.command(&["config", "history"]).1;
    assert!(told.contains("version 2 failed its health check"), "{told}");
    stage.active().await;
    let (_, told) = stage.command(&["status"]);
    assert!(told.contains("version 2 failed its health check and was taken back"), "{told}");
    assert!(told.contains("snapshot 2 failed its health check here and was taken back: "), "{told}");
    // The doctor sees no more than a node that runs, but for what that says of itself.
    let (code, told) = stage.command(&["doctor"]);
    assert_eq!(code, Some(0), "{told}");
    let next = "nothing is wrong here; the node says of itself what is to be done";
    assert!(told.contains("and says of itself: attention") && told.contains(next), "{told}");
    let job = stage.submit("wait 1").await;
    assert_eq!(stage.ended(&job).await["end"], "result");
    let before = before.parse().unwrap();
    let story = |stage: &Stage| stage.view().jobs().explain(before).unwrap().unwrap();
    assert!(story(&stage).trace.is_some(), "what was done under the snapshot that came back is forgotten");

    // After a start it stays taken back, until its operator says that this machine was the cause.
    let failures = async |stage: &Stage| {
        let reports = stage.get("reports").await;
        let rolled_back = |it: &&Value| it["report"]["outcome"] == "rolled_back";
        reports["reports"].as_array().unwrap().iter().filter(rolled_back).count()
    };
    let (code, told) = stage.command(&["config", "retry"]);
    assert!(code == Some(4) && told.contains("stop"), "beside the Agent: {told}");
    assert_eq!(stage.stop_node().await, Some(0));
    stage.start_node();
    stage.active().await;
    assert_eq!((failures(&stage).await, stage.view().snapshots().unwrap().taken_back()), (1, Some(2)));
    assert_eq!(stage.stop_node().await, Some(0));
    let (code, told) = stage.command(&["config", "retry"]);
    assert!(code == Some(0) && told.contains("Version 2 is tried again"), "{told}");
    let (code, told) = stage.command(&["config", "retry"]);
    assert!(code == Some(0) && told.contains("nothing to try again"), "{told}");
    let (_, told) = stage.command(&["logs", "--kind", "configuration"]);
    assert!(told.contains("snapshot 2 failed its health check before, and may be tried again"), "{told}");
    stage.start_node();
    eventually("it failed again, and the last good one came back", || async {
        (failures(&stage).await == 2).then_some(())
    })
    .await;
    stage.active().await;
    assert_eq!((in_force(&stage), stage.view().snapshots().unwrap().taken_back()), (1, Some(2)));

    // One that passes ends it, and the mark of the failed one too.
    let as_before = json!({ "kind": "external", "image": null, "digest": null, "args": null });
    stage.post("/v1/devnet/snapshots", &json!({ "runtime": as_before })).await;
    eventually("the next one is good", || async {
        let view = stage.view().snapshots().unwrap();
        view.current().is_some_and(|it| it.good && it.config.document().version == 3).then_some(())
    })
    .await;
    assert_eq!(stage.view().snapshots().unwrap().taken_back(), None);
    eventually("the story before goes", || async { story(&stage).trace.is_none().then_some(()) }).await;
}

/// Each attempt said it, and so did whoever keeps the models' states.
#[tokio::test(flavor = "multi_thread")]
async fn a_first_snapshot_that_fails_again_and_again_is_said_once() {
    let (runtime, template) = (StandIn::start().await, with(external(), "/timings/retry_ms_max", 200));
    let template = with(with(template, "/timings/retry_ms_min", 100), "/limits/execution_timeout_ms", 300);
    runtime.hang(true);
    let mut stage = Stage::set(template, &format!("[runtime]\nurl = \"{}\"", runtime.url)).await;
    stage.start_node();
    let attempts =
        || stage.said().lines().filter(|line| line.contains("does not pass its health check")).count();
    eventually("it was said", || async { (attempts() > 0).then_some(()) }).await;
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    let said = stage.said();
    for text in ["does not pass its health check", "its test inference failed"] {
        let errors = said.lines().filter(|line| line.contains("ERROR") && line.contains(text)).count();
        assert_eq!(errors, 1, "{text}: {said}");
    }
    let inactive = said.lines().filter(|line| line.contains("is inactive")).count();
    assert!(inactive <= 1, "what failed stays failed while it is tried again: {said}");
    runtime.hang(false);
    stage.active().await;
}

/// What is said of a deletion is a record too: it would be deleted when its own time ends, and said again.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_a_quiet_node_comes_to_its_end() {
    let (stage, _runtime) = running(with(external(), "/timings/log_ttl_ms", 1500)).await;
    eventually("all of it has timed out", || async {
        stage.view().logs().query(&Query::default()).unwrap().is_empty().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_inference_that_hangs_is_a_failed_one() {
    let (stage, runtime) = running(external()).await;
    runtime.hang(true);
    stage.post("/v1/devnet/snapshots", &json!({ "limits": { "execution_timeout_ms": 300 } })).await;
    let report = report(&stage, "rolled_back").await;
    assert!(report["reason"].as_str().unwrap().contains("no answer after 300 ms"), "{report}");
    runtime.hang(false);
    stage.active().await;
    let job = stage.submit("wait 1").await;
    assert_eq!(stage.ended(&job).await["end"], "result");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_verify_changes_nothing_and_is_reported_once() {
    let (stage, _runtime) = running(with(external(), "/timings/sync_ms", 200)).await;
    stage.post("/v1/devnet/snapshots", &json!({})).await;
    eventually("it is in force", || async { (in_force(&stage) == 2).then_some(()) }).await;
    let kinds = [
        (BadSnapshot::WrongKey, "is not that key's"),
        (BadSnapshot::LowerVersion, "older"),
        (BadSnapshot::OtherNetwork, "mainnet"),
        (BadSnapshot::Equivocation, "same version"),
        (BadSnapshot::Expired, "was valid until"),
    ];
    for (number, (kind, words)) in kinds.into_iter().enumerate() {
        stage.fault(Fault::BadSnapshot { kind });
        let refused = eventually("it is refused", || async {
            let reports = stage.get("reports").await;
            let reports = reports["reports"].as_array().unwrap().clone();
            let refused: Vec<_> =
                reports.into_iter().filter(|it| it["report"]["outcome"] == "refused").collect();
            (refused.len() > number).then_some(refused)
        })
        .await;
        let reason = refused[0]["report"]["reason"].as_str().unwrap();
        assert!(reason.contains(words), "{kind:?}: {reason}");
        // Several looks later it was still said once.
        tokio::time::sleep(std::time::Duration::from_millis(700)).await;
        let reports = stage.get("reports").await;
        let refused =
            reports["reports"].as_array().unwrap().iter().filter(|it| it["report"]["outcome"] == "refused");
        assert_eq!(refused.count(), number + 1, "{kind:?}");
        assert_eq!(in_force(&stage), 2);
        stage.fault(Fault::None);
    }
    let job = stage.submit("wait 1").await;
    assert_eq!(stage.ended(&job).await["end"], "result");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_keys_of_the_network_rotate_and_the_node_follows() {
    let (stage, _runtime) = running(external()).await;
    for version in 2..5_u64 {
        stage.post("/v1/devnet/keysets/rotate", &json!({})).await;
        eventually("the snapshot under the new keys is in force", || async {
            (in_force(&stage) == version).then_some(())
        })
        .await;
    }
    assert_eq!(stage.view().snapshots().unwrap().keyset().unwrap().document().version, 4);
    stage.active().await;
    let job = stage.submit("wait 1").await;
    assert_eq!(stage.ended(&job).await["end"], "result");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_the_network_approves_is_announced_by_the_node_that_runs() {
    let (mut stage, _runtime) = running(external()).await;
    let digest = node_types::Digest::of(b"a program to come");
    let approved =
        json!({ "updates": { "agents": [{ "version": "99.0.0", "digest": digest }], "runtimes": [] } });
    stage.post("/v1/devnet/snapshots", &approved).await;
    let told =
        format!("release 99.0.0 of the Agent is approved, {digest}; the one that runs is not approved");
    eventually("the network has the record", || async {
        stage.get("logs").await.to_string().contains(&told).then_some(())
    })
    .await;
    eventually("status says what to do", || async {
        let (_, said) = stage.command(&["status"]);
        (said.contains("99.0.0") && said.contains("update")).then_some(())
    })
    .await;
    let (code, said) = stage.command(&["update", "check"]);
    assert!(said.contains("99.0.0") && said.contains(&digest.to_string()), "{code:?} {said}");
    // It is only announced: what runs is what ran.
    assert_eq!(stage.stop_node().await, Some(0));
}
