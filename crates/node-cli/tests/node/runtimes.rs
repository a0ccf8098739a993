//! The runtime as an operator's server: a real one for embeddings, and one that goes away and comes back.

use serde_json::json;

use crate::{
    stage::{Stage, eventually, external},
    stand_in::StandIn,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_that_goes_away_and_comes_back_costs_no_job() {
    let runtime = StandIn::start().await;
    let address = runtime.url.trim_start_matches("http://").to_owned();
    let mut stage = Stage::set(external(), &format!("[runtime]\nurl = \"{}\"", runtime.url)).await;
    stage.start_node();
    stage.active().await;
    let first = stage.submit("wait 1").await;
    stage.ended(&first).await;

    drop(runtime);
    let mut jobs = Vec::new();
    for number in 0..3 {
        jobs.push(stage.submit(&format!("wait 1 {number}")).await);
    }
    eventually("they are held", || async { (stage.view().jobs().tally().unwrap().jobs == 3).then_some(()) })
        .await;
    let back = StandIn::start_on(&address).await;
    for job in &jobs {
        let ended = stage.ended(job).await;
        assert_eq!(ended["end"], "result", "{ended}");
    }
    assert!((0..3).all(|number| back.starts(&format!("wait 1 {number}")) == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_keyset_is_the_one_that_the_operator_set_or_nothing_is_trusted() {
    let runtime = StandIn::start().await;
    let wrong = format!("sha256:{}", "11".repeat(32));
    let settings = format!("keyset_digest = \"{wrong}\"\n[runtime]\nurl = \"{}\"", runtime.url);
    let mut stage = Stage::set(external(), &settings).await;
    stage.start_node();
    eventually("it says so", || async { stage.said().contains("first keyset is").then_some(()) }).await;
    assert!(stage.view().snapshots().unwrap().keyset().is_none());
    assert_eq!(stage.get("state").await["nodes"], json!([]));
}
