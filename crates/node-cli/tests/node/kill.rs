//! SIGKILL at any moment loses nothing that was accepted, and computes nothing again that was answered.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use node_types::Timestamp;
use serde_json::json;
use tokio::time::sleep;

use crate::{
    stage::{Stage, eventually, external, figures, running, with},
    stand_in::StandIn,
};

/// How many of the jobs have ended.
async fn ended(stage: &Stage, jobs: &[(String, String)]) -> usize {
    let mut ended = 0;
    for (_, id) in jobs {
        ended += usize::from(!stage.job(id).await["end"].is_null());
    }
    ended
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_again_and_again_at_any_moment_every_job_ends_once() {
    let runtime = StandIn::start().await;
    // More attempts than kills: no job may fail because of them.
    let template = with(external(), "/limits/attempts_max", 50);
    let mut stage = Stage::set(template, &format!("[runtime]\nurl = \"{}\"", runtime.url)).await;
    let mut jobs = Vec::new();
    // How often those had been started that were answered before a kill.
    let mut answered = BTreeMap::new();
    let mut seed = 7_u64;
    for round in 0..12_u64 {
        stage.start_node();
        for number in 0..4 {
            jobs.push((format!("wait {} {round}.{number}", 10 * number), String::new()));
            let (prompt, id) = jobs.last_mut().unwrap();
            *id = stage.submit(prompt).await;
        }
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        sleep(Duration::from_millis(60 + (seed >> 33) % 400)).await;
        // A slow machine may have come to nothing by then: every other time something is waited for.
        if round % 2 == 1 {
            eventually("two more are answered", || async {
                (ended(&stage, &jobs).await >= answered.len() + 2).then_some(())
            })
            .await;
        }
        for (prompt, id) in &jobs {
            if !stage.job(id).await["end"].is_null() {
                answered.entry(prompt.clone()).or_insert_with(|| runtime.starts(prompt));
            }
        }
        stage.kill_node();
    }
    stage.start_node();

    let mut boots = BTreeSet::new();
    for (prompt, id) in &jobs {
        let ended = stage.ended(id).await;
        assert_eq!(ended["end"], "result", "{prompt}: {ended}");
        let body = ended["output"]["body"].as_str().unwrap();
        assert!(body.contains(&format!("answer to {prompt}")), "{body}");
        for message in ended["messages"].as_array().unwrap() {
            boots.insert(message["bootId"].as_str().unwrap().to_owned());
        }
    }
    eventually("nothing is left", || async {
        (stage.view().jobs().tally().unwrap().jobs == 0).then_some(())
    })
    .await;
    assert!(answered.len() > 8, "too few were answered in time to say anything: {answered:?}");
    for (prompt, starts) in &answered {
        assert_eq!(runtime.starts(prompt), *starts, "{prompt} was computed again after it was answered");
    }
    assert!(boots.len() > 3, "the kills fell between the jobs: {boots:?}");
    let state = stage.get("state").await;
    assert_eq!(state["refused"], json!({}), "a number or a start was used twice");
    assert!(stage.view().incidents().unwrap().is_empty());
}

/// The operator learns of it, however soon the network knows.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_was_destroyed_is_told_when_the_network_knows_of_it_too() {
    let (mut stage, _runtime) = running(external()).await;
    let job = stage.submit("wait 1").await;
    stage.ended(&job).await;
    assert_eq!(stage.stop_node().await, Some(0));
    let volume = stage.home().join("testnet");
    std::fs::write(volume.join("jobs.db"), vec![0x55; 90_112]).unwrap();

    stage.start_node();
    eventually("it says so", || async {
        stage.said().contains("a database was damaged or missing").then_some(())
    })
    .await;
    eventually("the network was told", || async {
        let all = stage.view().incidents_since(Timestamp::EPOCH).unwrap();
        all.iter().any(|incident| incident.reported).then_some(())
    })
    .await;
    stage.active().await;
    assert_eq!(stage.view().incidents().unwrap(), []);
    eventually("the heartbeat tells of it no more", || async {
        let beat = stage.get("state").await["nodes"][0]["heartbeat"].clone();
        (beat.is_object() && beat["incidents"].as_array().is_none_or(Vec::is_empty)).then_some(())
    })
    .await;
    let (_, status) = stage.command(&["status"]);
    for words in ["incident", "jobs.db", "the network was told", "look at the disk's health"] {
        assert!(status.contains(words), "{words:?}: {status}");
    }
    let (_, logs) = stage.command(&["logs", "--kind", "storage", "--level", "error"]);
    assert!(
        logs.contains("a database was damaged or missing") && logs.contains("jobs.db.damaged-"),
        "{logs}"
    );
    assert_eq!(figures(&stage.page().await).await["resultity_incidents"], 1.0);
    let (_, said) = stage.command(&["doctor"]);
    assert!(said.contains("the start after the network was told removes it"), "{said}");
}
