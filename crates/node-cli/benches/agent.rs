//! The Agent against its aims: memory of an idle one, and how long it takes from its start until it takes jobs where the
//! runtime is up already. Network and runtime are in this process and not counted.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "a measurement that cannot be made must stop; it measures time"
)]

#[path = "../tests/node/stage.rs"]
#[expect(dead_code, reason = "the tests use more of it")]
mod stage;
#[path = "../tests/node/stand_in.rs"]
#[expect(dead_code, reason = "the tests use more of it")]
mod stand_in;

use std::{
    process::Command,
    time::{Duration, Instant},
};

use node_store::store::{Options, Store};
use node_types::Network;
use stage::{Stage, external, running};
use store_bench::{
    measure::median,
    report::{Aim, Report, Row},
};

const STARTS: usize = 11;
const JOBS: u32 = 200;

#[tokio::main]
async fn main() {
    let (mut stage, _runtime) = running(external()).await;
    let mut report = Report::default();
    Report::head("the Agent, with a runtime that is up");

    stage.kill_node();
    let (mut ready, mut process) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        let begun = Instant::now();
        assert!(
            Command::new(env!("CARGO_BIN_EXE_resultity-node"))
                .arg("--version")
                .output()
                .unwrap()
                .status
                .success()
        );
        process.push(begun.elapsed().as_secs_f64() * 1e3);
        gone(&stage).await;
        let begun = Instant::now();
        stage.start_node();
        while !is_active(&stage) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        ready.push(begun.elapsed().as_secs_f64() * 1e3);
        stage.kill_node();
    }
    let (ready, process) = (median(ready), median(process));
    report.row(
        Row::new("from its start until it takes jobs", ready, "ms")
            .times(ready / process, "the same binary's --version")
            .aim(Aim::AtMost(100.0)),
    );

    stage.start_node();
    stage.active().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let idle = resident_mib(&stage);
    report.row(Row::new("resident memory, idle", idle, "MiB").aim(Aim::AtMost(20.0)));
    let mut jobs = Vec::new();
    for number in 0..JOBS {
        jobs.push(stage.submit(&format!("wait 0 {number}")).await);
    }
    for job in &jobs {
        stage.ended(job).await;
    }
    report.row(Row::new(format!("resident memory, after {JOBS} jobs"), resident_mib(&stage), "MiB"));
    stage.stop_node().await;
    let target = std::env::current_exe().unwrap().ancestors().nth(3).unwrap().to_owned();
    report.write(&target.join("bench/agent.json"));
}

fn is_active(stage: &Stage) -> bool {
    let state = stage.devnet.as_ref().unwrap().state().unwrap();
    let node = &state["nodes"][0];
    node["connected"] == true && node["concurrency"].as_u64() > Some(0)
}

/// The network has seen that the node before is gone.
async fn gone(stage: &Stage) {
    while is_active(stage) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Of the Agent that holds the volume.
fn resident_mib(stage: &Stage) -> f64 {
    let pid = Store::holder(&Options::new(&stage.home(), Network::Testnet)).unwrap().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
}
