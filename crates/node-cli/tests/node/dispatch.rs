//! Jobs within the snapshot's limits: concurrency, timeouts, failures, expiry, stopping in good order.

use std::time::Duration;

use node_devnet::Fault;
use tokio::time::sleep;

use crate::stage::{eventually, external, figures, running, with};

#[tokio::test(flavor = "multi_thread")]
async fn as_many_jobs_run_at_once_as_the_snapshot_says_and_each_once() {
    let (stage, runtime) = running(with(external(), "/limits/concurrency", 3)).await;
    runtime.hold(true);
    let mut jobs = Vec::new();
    for number in 0..9 {
        jobs.push(stage.submit(&format!("held {number}")).await);
    }
    eventually("three run and six wait", || async {
        let counts = stage.view().jobs().counts().unwrap();
        (counts.running == 3 && counts.queued == 6 && runtime.at_once_max() >= 3).then_some(())
    })
    .await;
    runtime.hold(false);
    for job in &jobs {
        assert_eq!(stage.ended(job).await["end"], "result");
    }
    assert_eq!(runtime.at_once_max(), 3);
    assert!((0..9).all(|number| runtime.starts(&format!("held {number}")) == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_takes_too_long_and_one_that_the_runtime_refuses_fail_and_say_why() {
    // Long enough for the one that is refused on any machine.
    let (stage, runtime) = running(with(external(), "/limits/execution_timeout_ms", 10_000)).await;
    runtime.hold(true);
    let (slow, refused) = (stage.submit("held").await, stage.submit("fail").await);

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
    let (stage, runtime) = running(external()).await;
    runtime.hold(true);
    let late = stage.submit_with("held", 15_000).await;
    eventually("it runs", || async { (stage.view().jobs().counts().unwrap().running > 0).then_some(()) })
        .await;
    assert_eq!(stage.ended(&late).await["end"], "expired");
    eventually("the node is idle", || async {
        (stage.view().jobs().tally().unwrap().jobs == 0).then_some(())
    })
    .await;
    runtime.hold(false);
    sleep(Duration::from_secs(2)).await;
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
    runtime.hold(true);
    let running = stage.submit("held").await;
    let waiting = stage.submit("wait 1").await;
    eventually("both are held", || async {
        let counts = stage.view().jobs().counts().unwrap();
        (counts.running == 1 && counts.queued == 1).then_some(())
    })
    .await;

    stage.ask_to_stop();
    eventually("it takes no more", || async {
        (stage.get("state").await["nodes"][0]["concurrency"] == 0).then_some(())
    })
    .await;
    // Dispatch is told right after that.
    sleep(Duration::from_millis(500)).await;
    runtime.hold(false);
    assert_eq!(stage.node_ends().await, Some(0));
    assert_eq!(stage.job(&running).await["end"], "result", "it was sent before the end");
    assert_eq!(runtime.starts("wait 1"), 0);
    assert_eq!(stage.view().jobs().counts().unwrap().queued, 1);

    stage.start_node();
    assert_eq!(stage.ended(&waiting).await["end"], "result");
    assert_eq!(runtime.starts("held"), 1, "a persisted result is never computed again");
}

/// Everything below a folder, read as bytes.
pub fn holds(folder: &std::path::Path, canary: &[u8]) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(holds(&path, canary));
        } else {
            // One that goes meanwhile holds nothing.
            let read = std::fs::read(&path);
            let gone = read.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound);
            let bytes = if gone { Vec::new() } else { read.unwrap() };
            if bytes.windows(canary.len()).any(|window| window == canary) {
                found.push(path);
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn no_prompt_and_no_answer_stands_in_the_nodes_files_or_in_what_it_says() {
    let (mut stage, _runtime) = running(with(external(), "/limits/execution_timeout_ms", 10_000)).await;
    for prompt in ["wait 1 CANARY", "fail CANARY", "wait 60000 CANARY"] {
        let job = stage.submit(prompt).await;
        let seen_while_held = holds(&stage.home(), b"CANARY");
        assert_eq!(seen_while_held, Vec::<std::path::PathBuf>::new(), "{prompt}");
        stage.ended(&job).await;
    }
    eventually("the network is told", || async {
        stage.get("logs").await.to_string().contains("answered").then_some(())
    })
    .await;
    assert_eq!(stage.stop_node().await, Some(0));

    assert_eq!(holds(&stage.home(), b"CANARY"), Vec::<std::path::PathBuf>::new());
    assert!(!stage.said().contains("CANARY"), "{}", stage.said());
    let logs = stage.get("logs").await.to_string();
    assert!(!logs.contains("CANARY") && logs.contains("answered"), "{logs}");
}

/// The lines of the node's log as JSON.
fn said_in_json(stage: &crate::stage::Stage) -> Vec<serde_json::Value> {
    stage.said().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_is_said_on_a_jobs_way_stands_in_a_span_with_its_id() {
    let (mut stage, _runtime) = running(external()).await;
    assert_eq!(stage.stop_node().await, Some(0));
    stage.start_node_with(&["--log-format", "json"]);
    stage.active().await;
    let settled = |stage: &crate::stage::Stage, job: &str| {
        let line = |line: &serde_json::Value| {
            line["fields"]["message"] == "the network has its end" && line["span"]["job"] == job
        };
        said_in_json(stage).iter().any(line)
    };
    let mut jobs = Vec::new();
    // One after the other: else one may be begun for another's sake before its own offer is answered.
    for prompt in ["wait 1", "wait 1", "fail"] {
        let job = stage.submit(prompt).await;
        stage.ended(&job).await;
        eventually("it is acknowledged", || async { settled(&stage, &job).then_some(()) }).await;
        jobs.push(job);
    }
    assert_eq!(stage.stop_node().await, Some(0));
    for (job, end) in jobs.iter().zip(["answered", "answered", "failed"]) {
        let lines = said_in_json(&stage);
        let in_span = |line: &&serde_json::Value| line["span"]["job"] == job.as_str();
        let way: Vec<&str> =
            lines.iter().filter(in_span).filter_map(|line| line["fields"]["message"].as_str()).collect();
        let steps = [
            "offered",
            "its offer is answered",
            "it runs",
            end,
            "its end is sent",
            "the network has its end",
        ];
        // An offer that is not answered in time comes again, and so does an end.
        let mut seen = std::collections::BTreeSet::new();
        let first = way.iter().copied().filter(|said| steps.contains(said) && seen.insert(*said));
        assert_eq!(first.collect::<Vec<_>>(), steps, "{way:?}");
        for line in lines.iter().filter(|line| line.to_string().contains(job.as_str())) {
            assert_eq!(line["span"]["job"], job.as_str(), "it is about a job and in no span: {line}");
            assert_eq!(line["spans"].as_array().map(Vec::len), Some(1), "in one span, once: {line}");
        }
    }
}

/// From its next start on the node finds a library like NVIDIA's, with one card.
fn put_in_a_graphics_card(stage: &mut crate::stage::Stage) {
    let library = stage.library("graphics.c", "libnvidia-ml.so.1");
    stage.environment.push(("LD_LIBRARY_PATH", library.parent().unwrap().to_owned()));
}

/// Each code of `status --check`, on a node that runs.
#[tokio::test(flavor = "multi_thread")]
async fn monitoring_is_told_by_the_exit_code_how_a_node_stands() {
    let (mut stage, _runtime) = running(external()).await;
    let told = async |stage: &crate::stage::Stage, code: i32| {
        eventually(&format!("the check says {code}"), || async {
            (stage.command(&["status", "--check"]).0 == Some(code)).then_some(())
        })
        .await;
        // Whoever only looks is told by the text.
        stage.command(&["status", "--json"])
    };
    told(&stage, 0).await;
    for _ in 0..3 {
        let job = stage.submit("fail").await;
        stage.ended(&job).await;
    }
    let (code, said) = told(&stage, 11).await;
    assert!(code == Some(0) && said.contains("the last 3 jobs failed, and none was answered"), "{said}");
    let job = stage.submit("wait 1").await;
    stage.ended(&job).await;
    // A warning asks for attention as long as the network does not have it.
    stage.fault(Fault::Refuse { count: 100_000 });
    let (_, said) = told(&stage, 10).await;
    assert!(said.contains("see what troubles the node"), "{said}");
    stage.kill_node();
    told(&stage, 12).await;
    std::fs::write(stage.home().join("testnet/state.db"), [0x55; 8192]).unwrap();
    let (code, said) = told(&stage, 1).await;
    assert!(code == Some(1) && said.contains("state.db"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_works_is_measured_as_promtool_wants_it_and_its_figures_are_those_of_its_jobs() {
    let (mut stage, _runtime) = running(external()).await;
    // Where no graphics card can be asked, nothing is said of one, and nothing else suffers.
    let without = figures(&stage.page().await).await;
    let of_cards: Vec<_> = without.keys().filter(|name| name.starts_with("resultity_gpu")).collect();
    assert_eq!((of_cards.len(), without["resultity_scrape_errors"]), (0, 0.0), "{of_cards:?}");
    let beat = eventually("it is heard of", || async {
        let beat = stage.get("state").await["nodes"][0]["heartbeat"].clone();
        (beat["hardware"]["memory"]["total_bytes"].as_u64() > Some(0)).then_some(beat)
    })
    .await;
    assert!(beat["hardware"]["graphics"].as_array().is_none_or(Vec::is_empty), "{beat}");
    let said = stage.said().to_lowercase();
    assert!(!said.contains("nvml") && !said.contains("graphics"), "{said}");
    assert_eq!(stage.stop_node().await, Some(0));
    put_in_a_graphics_card(&mut stage);
    stage.start_node_with(&["--page-listen", "127.0.0.1:0"]);
    stage.active().await;
    eventually("it is well", || async { (stage.command(&["status", "--check"]).0 == Some(0)).then_some(()) })
        .await;
    for prompt in ["wait 1", "wait 1", "fail"] {
        let job = stage.submit(prompt).await;
        stage.ended(&job).await;
    }
    let place = "the status page is at http://";
    let url = eventually("the page is there", || async {
        let said = stage.said();
        let (_, rest) = said.rsplit_once(place)?;
        Some(format!("http://{}/metrics", rest.split_whitespace().next()?.trim_end_matches('/')))
    })
    .await;
    let read = || async { reqwest::get(&url).await.unwrap().text().await.unwrap() };
    let wanted = [
        "resultity_jobs_ended_total{outcome=\"answered\"} 2",
        "resultity_jobs_ended_total{outcome=\"failed\"} 1",
        "resultity_job_offers_total{answer=\"new\"} 3",
        "resultity_inference_duration_seconds_count{model=\"m@1\"} 2",
        "resultity_runs_total{model=\"m@1\",outcome=\"failed\"} 1",
        "resultity_attempts_total 3",
        "resultity_jobs{state=\"queued\"} 0",
        "resultity_connected 1",
        "resultity_outage_seconds 0",
        "resultity_clock_trusted 1",
        "resultity_snapshot_version 1",
        "resultity_scrape_errors 0",
        "resultity_queue_age_seconds 0",
        "resultity_jobs_expired_total 0",
        "resultity_traces_lost_total 0",
        "resultity_clock_ahead_seconds 0",
        "resultity_runtime_restarts_total 0",
        "resultity_gpu_utilization_ratio{gpu=\"0\",name=\"Stand-in 24\"} 0.37",
        "resultity_gpu_memory_bytes{gpu=\"0\",name=\"Stand-in 24\"} 25769803776",
        "resultity_gpu_memory_used_bytes{gpu=\"0\",name=\"Stand-in 24\"} 8589934592",
        "resultity_gpu_temperature_celsius{gpu=\"0\",name=\"Stand-in 24\"} 61",
        "resultity_gpu_power_watts{gpu=\"0\",name=\"Stand-in 24\"} 212.5",
    ];
    let sum = |text: &str, name: &str| -> u64 {
        let lines = text.lines().filter(|line| line.starts_with(name));
        lines.map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum()
    };
    let text = eventually("all is counted", || async {
        let text = read().await;
        // An offer that is not answered in time comes again, and is measured again.
        let (measured, offers) = (
            sum(&text, "resultity_accept_duration_seconds_count "),
            sum(&text, "resultity_job_offers_total{"),
        );
        let all = wanted.iter().all(|line| text.lines().any(|found| found == *line));
        (all && measured == offers && offers >= 3).then_some(text)
    })
    .await;
    for part in [
        "resultity_storage_bytes{class=\"logs\"}",
        "resultity_storage_limit_bytes{class=\"jobs\"}",
        "resultity_storage_limit_bytes{class=\"logs\"}",
        "resultity_tokens_total{",
        "resultity_snapshot_age_seconds",
        "resultity_snapshot_refresh_timestamp_seconds",
        "resultity_artifacts{",
        "resultity_connections_total",
        "resultity_log_lag_seconds",
        "resultity_host_processors",
        "resultity_host_memory_bytes",
        "resultity_disk_free_bytes",
        "resultity_commit_duration_seconds_bucket{database=\"jobs\",le=\"+Inf\"}",
    ] {
        let line = text.lines().find(|line| line.starts_with(part)).unwrap();
        assert!(line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap() > 0.0, "{line}");
    }
    let card = serde_json::json!([{
        "name": "Stand-in 24", "memory": { "total_bytes": 24_u64 << 30, "free_bytes": 16_u64 << 30 },
        "busy_percent": 37, "celsius": 61, "milliwatts": 212_500,
    }]);
    eventually("the heartbeat has the card", || async {
        let beat = stage.get("state").await["nodes"][0]["heartbeat"].clone();
        (beat["hardware"]["graphics"] == card).then_some(())
    })
    .await;
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    let file = stage.folder.path().join("metrics.txt");
    std::fs::write(&file, &text).unwrap();
    let checked = std::process::Command::new(root.join("scripts/promtool"))
        .args(["check", "metrics"])
        .stdin(std::fs::File::open(&file).unwrap())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&[checked.stdout, checked.stderr].concat()).into_owned();
    assert!(checked.status.success() && said.is_empty(), "promtool: {said}");
}
