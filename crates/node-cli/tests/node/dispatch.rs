//! Jobs within the snapshot's limits: concurrency, timeouts, failures, expiry, stopping in good order.

use std::time::Duration;

use tokio::time::sleep;

use crate::stage::{eventually, external, running, with};

#[tokio::test(flavor = "multi_thread")]
async fn as_many_jobs_run_at_once_as_the_snapshot_says_and_each_once() {
    let (stage, runtime) = running(with(external(), "/limits/concurrency", 3)).await;
    let mut jobs = Vec::new();
    for number in 0..9 {
        jobs.push(stage.submit(&format!("wait 150 {number}")).await);
    }
    for job in &jobs {
        assert_eq!(stage.ended(job).await["end"], "result");
    }
    assert_eq!(runtime.at_once_max(), 3);
    assert!((0..9).all(|number| runtime.starts(&format!("wait 150 {number}")) == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_takes_too_long_and_one_that_the_runtime_refuses_fail_and_say_why() {
    let (stage, _runtime) = running(with(external(), "/limits/execution_timeout_ms", 300)).await;
    let (slow, refused) = (stage.submit("wait 5000").await, stage.submit("fail").await);

    let slow = stage.ended(&slow).await;
    assert_eq!((&slow["end"], &slow["failure"]["kind"]), (&"failure".into(), &"timed_out".into()));
    let refused = stage.ended(&refused).await;
    assert_eq!(refused["failure"]["kind"], "runtime");
    let said = refused["failure"]["message"].as_str().unwrap();
    assert!(said.contains("asked to fail"), "{said}");
    // What the runtime said is for the network: it may quote the prompt.
    assert!(!stage.said().contains("asked to fail"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_time_ends_while_it_runs_is_ended_and_no_answer_of_it_is_sent() {
    let (stage, _runtime) = running(external()).await;
    let late = stage.submit_with("wait 4000", 1_000).await;
    eventually("it runs", || async { (stage.view().jobs().counts().unwrap().running > 0).then_some(()) })
        .await;
    assert_eq!(stage.ended(&late).await["end"], "expired");
    eventually("the node is idle", || async {
        (stage.view().jobs().tally().unwrap().jobs == 0).then_some(())
    })
    .await;
    sleep(Duration::from_secs(4)).await;
    assert_eq!(stage.job(&late).await["resultsReceived"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_job_stops_running_and_is_reported_as_cancelled() {
    let (stage, _runtime) = running(external()).await;
    let job = stage.submit("wait 20000").await;
    eventually("it runs", || async { (stage.view().jobs().counts().unwrap().running > 0).then_some(()) })
        .await;
    stage.post(&format!("/v1/devnet/jobs/{job}/cancel"), &serde_json::json!({})).await;
    let ended = eventually("the node says how it ended", || async {
        Some(stage.job(&job).await).filter(|job| job["endsReceived"].as_u64() > Some(0))
    })
    .await;
    assert_eq!(ended["failure"]["kind"], "cancelled", "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn asked_to_stop_the_node_ends_what_runs_and_leaves_the_rest_for_its_next_start() {
    let (mut stage, runtime) = running(with(external(), "/limits/concurrency", 1)).await;
    let running = stage.submit("wait 1000").await;
    let waiting = stage.submit("wait 1").await;
    eventually("both are held", || async {
        let counts = stage.view().jobs().counts().unwrap();
        (counts.running == 1 && counts.queued == 1).then_some(())
    })
    .await;

    assert_eq!(stage.stop_node().await, Some(0));
    assert_eq!(stage.job(&running).await["end"], "result", "it was sent before the end");
    assert_eq!(runtime.starts("wait 1"), 0);
    assert_eq!(stage.view().jobs().counts().unwrap().queued, 1);

    stage.start_node();
    assert_eq!(stage.ended(&waiting).await["end"], "result");
    assert_eq!(runtime.starts("wait 1000"), 1, "a persisted result is never computed again");
}

/// Everything below a folder, read as bytes.
pub fn holds(folder: &std::path::Path, canary: &[u8]) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(holds(&path, canary));
        } else if std::fs::read(&path).unwrap().windows(canary.len()).any(|window| window == canary) {
            found.push(path);
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn no_prompt_and_no_answer_stands_in_the_nodes_files_or_in_what_it_says() {
    let (mut stage, _runtime) = running(with(external(), "/limits/execution_timeout_ms", 400)).await;
    for prompt in ["wait 1 CANARY", "fail CANARY", "wait 3000 CANARY"] {
        let job = stage.submit(prompt).await;
        let seen_while_held = holds(&stage.home(), b"CANARY");
        assert_eq!(seen_while_held, Vec::<std::path::PathBuf>::new(), "{prompt}");
        stage.ended(&job).await;
    }
    assert_eq!(stage.stop_node().await, Some(0));

    assert_eq!(holds(&stage.home(), b"CANARY"), Vec::<std::path::PathBuf>::new());
    assert!(!stage.said().contains("CANARY"), "{}", stage.said());
    let logs = stage.get("logs").await.to_string();
    assert!(!logs.contains("CANARY") && logs.contains("answered"), "{logs}");
}
