//! The network goes away, loses, repeats, delays, lies; the node works on and delivers once.

use std::time::Duration;

use node_devnet::Fault;
use node_types::{Timestamp, verify::Validity};
use serde_json::json;
use tokio::time::sleep;

use crate::stage::{Stage, eventually, external, running, with};

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_starts_without_the_network_runs_what_it_holds_and_delivers_it_once_later() {
    let (mut stage, runtime) = running(with(external(), "/limits/concurrency", 1)).await;
    runtime.hold(true);
    let first = stage.submit("held").await;
    let second = stage.submit("wait 1").await;
    eventually("both are held", || async {
        let counts = stage.view().jobs().counts().unwrap();
        (counts.running == 1 && counts.queued == 1 && runtime.starts("held") == 1).then_some(())
    })
    .await;
    stage.kill_node();
    stage.stop_network().await;
    runtime.hold(false);

    stage.start_node();
    eventually("both are answered with nobody there", || async {
        (stage.view().jobs().counts().unwrap().unsent == 2).then_some(())
    })
    .await;
    let said = eventually("the status says so", || async {
        let (code, said) = stage.command(&["status"]);
        assert_eq!(code, Some(0));
        (said.contains("lately") && said.contains("cannot reach the network")).then_some(said)
    })
    .await;
    assert!(!said.contains("all is well"), "{said}");
    stage.start_network().await;

    for job in [&first, &second] {
        let ended = stage.ended(job).await;
        assert_eq!((&ended["end"], &ended["resultsReceived"]), (&json!("result"), &json!(1)));
    }
    assert_eq!((runtime.starts("held"), runtime.starts("wait 1")), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_acknowledgements_repeated_and_reordered_frames_and_dropped_connections_do_no_harm() {
    let (stage, runtime) = running(external()).await;
    stage.fault(Fault::Duplicate);
    stage.fault(Fault::Reorder);
    stage.fault(Fault::Delay { ms: 20 });
    stage.fault(Fault::LoseAcks { count: 6, ms: 0 });
    stage.fault(Fault::LoseAnswers { count: 3, ms: 0 });
    let mut jobs = Vec::new();
    for number in 0..12 {
        jobs.push(stage.submit(&format!("wait 30 {number}")).await);
        if number % 4 == 3 {
            sleep(Duration::from_millis(80)).await;
            stage.fault(Fault::Drop);
        }
    }
    for job in &jobs {
        assert_eq!(stage.ended(job).await["end"], "result");
    }
    eventually("all is acknowledged", || async {
        (stage.view().jobs().tally().unwrap().jobs == 0).then_some(())
    })
    .await;
    assert!((0..12).all(|number| runtime.starts(&format!("wait 30 {number}")) == 1));
    assert_eq!(stage.get("state").await["refused"], json!({}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_misbehaves_is_dropped_and_opened_again() {
    let (stage, _runtime) = running(external()).await;
    for (fault, said) in [(Fault::Malformed, "no frame"), (Fault::Oversized, "too large")] {
        let hellos = stage.get("state").await["messages"]["hello"].as_u64();
        stage.fault(fault);
        eventually("the node comes back", || async {
            (stage.get("state").await["messages"]["hello"].as_u64() > hellos).then_some(())
        })
        .await;
        // It says what it can do anew also where it was not dropped.
        eventually(said, || async { stage.said().contains(said).then_some(()) }).await;
        stage.active().await;
        let job = stage.submit("wait 1").await;
        assert_eq!(stage.ended(&job).await["end"], "result");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_of_the_other_network_is_rejected_and_pings_are_answered() {
    let (stage, _runtime) = running(external()).await;
    stage.fault(Fault::OtherNetworkJob);
    let nonce = stage.post("/v1/devnet/ping", &json!({})).await["nonce"].clone();
    eventually("the pong comes", || async {
        (stage.get("state").await["nodes"][0]["pong"]["nonce"] == nonce).then_some(())
    })
    .await;
    assert_eq!(stage.view().jobs().tally().unwrap().jobs, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_offline_grace_no_job_is_started_until_there_is_a_new_snapshot() {
    let (mut stage, runtime) = running(with(external(), "/limits/concurrency", 1)).await;
    runtime.hold(true);
    let blocking = stage.submit("held").await;
    let waiting = stage.submit("wait 1").await;
    eventually("both are held", || async {
        let counts = stage.view().jobs().counts().unwrap();
        (counts.running == 1 && counts.queued == 1).then_some(())
    })
    .await;
    // What runs is waited for before the new snapshot's runtime serves, so no later one comes.
    let brief = json!({
        "timings": { "offline_grace_ms": 1_000 }, "refresh_after_ms": 4_000, "valid_for_ms": 5_000,
    });
    stage.post("/v1/devnet/snapshots", &brief).await;
    eventually("the brief one is in force", || async {
        let view = stage.view().snapshots().unwrap();
        (view.current().unwrap().config.document().version >= 2).then_some(())
    })
    .await;
    stage.stop_network().await;
    eventually("its time has ended, and the grace", || async {
        let now = node_store::clock::read().unwrap().wall;
        let a_second_ago = Timestamp::from_ms(now.ms() - 1_000);
        let validity = stage.view().snapshots().unwrap().validity(a_second_ago);
        (validity == Some(Validity::OutOfForce)).then_some(())
    })
    .await;
    runtime.hold(false);

    eventually("the first is answered", || async {
        (stage.view().jobs().counts().unwrap().unsent == 1).then_some(())
    })
    .await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(runtime.starts("wait 1"), 0, "the grace has ended");
    stage.start_network().await;
    for job in [blocking, waiting] {
        assert_eq!(stage.ended(&job).await["end"], "result");
    }
}

/// Reports once looked at a network that had never answered as fast as the processor could: nothing was due, and the time of
/// what would have been lay in the past.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_network_was_never_there_waits_for_it_and_does_not_spin() {
    let mut stage = Stage::set(external(), "").await;
    stage.stop_network().await;
    stage.start_node();
    eventually("it has tried", || async { stage.said().contains("no look at the network").then_some(()) })
        .await;
    let before = stage.cpu_ms();
    sleep(Duration::from_secs(2)).await;
    let spent = stage.cpu_ms() - before;
    assert!(spent < 1000, "{spent} ms of processor time in 2 s");
}
