//! What is measured of a node that is not at rest: each state of its jobs, and each loss, in a figure of its own.

use std::collections::BTreeMap;

use node_devnet::Fault;
use node_types::log::Level;
use serde_json::json;

use crate::stage::{Stage, eventually, external, figures, running, with};

/// Hands in a job and waits until it has ended.
async fn done(stage: &Stage, prompt: &str, end: &str) {
    let job = stage.submit(prompt).await;
    assert_eq!(stage.ended(&job).await["end"], end, "{prompt}");
}

/// Waits until the node holds so many jobs that wait, run and are not acknowledged.
async fn held(stage: &Stage, wanted: (u64, u64, u64)) {
    eventually(&format!("{wanted:?} are held"), || async {
        let counts = stage.view().jobs().counts().unwrap();
        ((counts.queued, counts.running, counts.unsent) == wanted).then_some(())
    })
    .await;
}

/// Waits until these figures are what is said of them here.
async fn measured(page: &str, wanted: &[(&str, f64)]) -> BTreeMap<String, f64> {
    eventually(&format!("{wanted:?}"), || async {
        let all = figures(page).await;
        wanted.iter().all(|(series, value)| all[*series] == *value).then_some(all)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_state_of_a_job_and_each_loss_is_measured_apart_from_the_others() {
    let template = with(external(), "/limits/execution_timeout_ms", 600_000);
    // What is kept for the network does not live until the second time that something is sent.
    let template = with(with(template, "/timings/flush_ms", 3_600_000), "/timings/trace_ttl_ms", 1);
    let (stage, runtime) = running(with(template, "/timings/log_ttl_ms", 15_000)).await;
    let page = stage.page().await;
    eventually("the first batch has gone", || async {
        let held = stage.get("logs").await;
        held["batches"].as_array().is_some_and(|batches| !batches.is_empty()).then_some(())
    })
    .await;

    // Given 7 answered and 5 failed jobs, 3 answers that nobody acknowledges,
    for _ in 0..7 {
        done(&stage, "wait 1", "result").await;
    }
    for _ in 0..5 {
        done(&stage, "fail", "failure").await;
    }
    held(&stage, (0, 0, 0)).await;
    stage.fault(Fault::LoseAcks { count: 0, ms: 3_600_000 });
    for _ in 0..3 {
        done(&stage, "wait 1", "result").await;
    }
    held(&stage, (0, 0, 3)).await;
    // 2 with the runtime, one behind them whose time ends, and 4 that wait, the first of them for long,
    runtime.hold(true);
    for prompt in ["held 1", "held 2"] {
        stage.submit(prompt).await;
    }
    held(&stage, (0, 2, 3)).await;
    let oldest = stage.submit("wait 1").await;
    let late = stage.submit_with("wait 1", 15_000).await;
    held(&stage, (2, 2, 3)).await;
    assert_eq!(stage.ended(&late).await["end"], "expired");
    for _ in 0..3 {
        // Before it in the queue, though they came later.
        let request = json!({ "model": "m", "prompt": "wait 1", "max_tokens": 8 });
        let urgent = json!({ "mode": "completion", "request": request, "ttl_ms": 600_000, "priority": 7 });
        stage.post("/v1/devnet/jobs", &urgent).await;
    }
    held(&stage, (4, 2, 3)).await;

    // each figure is its own,
    let wanted = [
        ("resultity_jobs{state=\"queued\"}", 4.0),
        ("resultity_jobs{state=\"running\"}", 2.0),
        ("resultity_jobs{state=\"unsent\"}", 3.0),
        ("resultity_jobs_expired_total", 1.0),
        ("resultity_jobs_ended_total{outcome=\"answered\"}", 7.0),
        ("resultity_jobs_ended_total{outcome=\"failed\"}", 5.0),
        ("resultity_jobs_ended_total{outcome=\"expired\"}", 0.0),
        ("resultity_runs_total{model=\"m@1\",outcome=\"answered\"}", 10.0),
        ("resultity_attempts_total", 17.0),
        ("resultity_runtime_restarts_total", 0.0),
    ];
    measured(&page, &wanted).await;
    // the queue is as old as the job that has waited longest,
    let story = stage.view().jobs().explain(oldest.parse().unwrap()).unwrap().unwrap();
    let taken = story.trace.unwrap()[0].at;
    let age = || node_store::clock::read().unwrap().wall.since_ms(taken) as f64 / 1000.0;
    let (before, all, after) = (age(), figures(&page).await, age());
    let measured_age = all["resultity_queue_age_seconds"];
    // The node goes on from the wall clock that it read first.
    assert!(
        (before - 1.0..=after + 1.0).contains(&measured_age),
        "{measured_age} s, not {before} to {after}"
    );
    assert!(measured_age > 10.0, "{measured_age} s: the age of another one");
    // and what the network will never have is counted as the store counts it.
    eventually("the traces of all twelve are gone", || async {
        let (tally, all) = (stage.view().jobs().tally().unwrap(), figures(&page).await);
        (tally.traces_lost >= 12 && all["resultity_traces_lost_total"] == tally.traces_lost as f64)
            .then_some(())
    })
    .await;
    eventually("the records of the failures are gone", || async {
        let lost = stage.view().logs().losses().unwrap().get(&Level::Warn).copied().unwrap_or(0);
        let all = figures(&page).await;
        let told = all["resultity_log_records_lost_total{target=\"network\",level=\"warn\"}"];
        (lost >= 5 && told == lost as f64).then_some(())
    })
    .await;

    // When all goes on, nothing waits any more, and each end is counted where it belongs.
    runtime.hold(false);
    stage.fault(Fault::None);
    let wanted = [
        ("resultity_jobs{state=\"queued\"}", 0.0),
        ("resultity_jobs{state=\"running\"}", 0.0),
        ("resultity_jobs{state=\"unsent\"}", 0.0),
        ("resultity_queue_age_seconds", 0.0),
        ("resultity_jobs_expired_total", 1.0),
        ("resultity_jobs_ended_total{outcome=\"answered\"}", 16.0),
        ("resultity_jobs_ended_total{outcome=\"failed\"}", 5.0),
        ("resultity_jobs_ended_total{outcome=\"expired\"}", 1.0),
    ];
    measured(&page, &wanted).await;
}
