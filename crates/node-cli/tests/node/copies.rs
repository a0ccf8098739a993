//! Copies of a node: one that was restored asks first, one that was moved goes on, and of two that run the network sends the
//! later one away.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Child,
};

use node_store::{
    clock,
    store::{Options, Store},
};
use node_types::{
    Network,
    protocol::{Claim, Claimed},
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::{
    stage::{Stage, eventually, external, running, with},
    stand_in::StandIn,
};

/// A file with the passphrase of what is backed up.
pub fn passphrase(stage: &Stage) -> String {
    let path = stage.folder.path().join("passphrase");
    std::fs::write(&path, "correct horse").unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    path.display().to_string()
}

pub fn archive(stage: &Stage, name: &str) -> String {
    stage.folder.path().join(name).display().to_string()
}

/// A home without a volume, and with the same settings.
pub fn new_home(stage: &Stage, name: &str) -> PathBuf {
    let home = stage.folder.path().join(name);
    std::fs::create_dir(&home).unwrap();
    std::fs::copy(stage.home().join("node.toml"), home.join("node.toml")).unwrap();
    home
}

/// A home that is a copy of the node's, file by file: what nobody should make.
fn copied_home(stage: &Stage) -> PathBuf {
    let home = stage.folder.path().join("copy");
    let copied = std::process::Command::new("cp").arg("-a").arg(stage.home()).arg(&home).status().unwrap();
    assert!(copied.success());
    home
}

pub fn well(ran: (Option<i32>, String)) -> String {
    assert_eq!(ran.0, Some(0), "{}", ran.1);
    ran.1
}

pub fn fence(home: &Path) -> Option<node_store::jobs::Fence> {
    Store::view_only(&Options::new(home, Network::Testnet)).unwrap().jobs().fence().unwrap()
}

pub async fn exit_code(mut node: Child) -> Option<i32> {
    eventually("it ends", || std::future::ready(node.try_wait().unwrap())).await.code()
}

async fn is_held(stage: &Stage, job: &str) {
    eventually(&format!("job {job} is held"), || async {
        (stage.job(job).await["place"] == "held").then_some(())
    })
    .await;
}

/// The starts of the node that a job's messages of a kind came from.
pub fn boots(job: &Value, kind: &str) -> Vec<String> {
    let messages = job["messages"].as_array().unwrap().iter().filter(|message| message["kind"] == kind);
    messages.map(|message| message["bootId"].as_str().unwrap().to_owned()).collect()
}

/// Given a backup, and a node that went on for a while after it: some of the backup's jobs were answered, one was not, a
/// new one came, and a new snapshot. When it is lost and the backup takes its place, no job is answered twice, none is
/// computed again that was answered, and none that is open is lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_restored_node_asks_first_and_no_job_is_answered_twice_or_lost() {
    // What is held runs for as long as it is held.
    let (mut stage, runtime) = running(with(external(), "/limits/execution_timeout_ms", 600_000)).await;
    let pass = passphrase(&stage);
    runtime.hang(true);
    runtime.hold(true);
    let mut jobs = Vec::new();
    for prompt in ["held over", "first", "second", "third"] {
        let job = stage.submit(prompt).await;
        is_held(&stage, &job).await;
        jobs.push(job);
    }
    let file = archive(&stage, "node.backup");
    well(stage.command(&["backup", "create", &file, "--with-keys", "--passphrase-file", &pass]));
    runtime.hang(false);
    for job in &jobs[1..] {
        assert_eq!(stage.ended(job).await["end"], "result");
    }
    eventually("what was answered is acknowledged", || async {
        (stage.view().jobs().tally().unwrap().jobs == 1).then_some(())
    })
    .await;
    let late = stage.submit("held too").await;
    is_held(&stage, &late).await;
    stage.post("/v1/devnet/snapshots", &json!({ "limits": { "concurrency": 3 } })).await;
    eventually("the new snapshot is in force", || async {
        (stage.view().snapshots().unwrap().floor().version == 2).then_some(())
    })
    .await;
    stage.kill_node();
    let before = stage.get("state").await["nodes"][0]["bootId"].clone();

    // The network is not there at first: then nothing is run.
    let home = new_home(&stage, "second");
    let there = stage.command(&["backup", "restore", &file, "--passphrase-file", &pass]);
    assert_eq!(there.0, Some(1), "{}", there.1);
    assert!(there.1.contains("nothing is restored over a volume"), "{}", there.1);
    well(stage.command_in(&home, &["backup", "restore", &file, "--passphrase-file", &pass]));
    assert_eq!(fence(&home).unwrap().jobs, 4);
    stage.stop_network().await;
    runtime.hold(false);
    let restored = stage.start_in(&home, &[]);
    stage.adopt(restored);
    eventually("it has asked in vain", || async {
        stage.said().contains("the network could not be asked about the restored jobs").then_some(())
    })
    .await;
    assert_eq!(fence(&home).unwrap().jobs, 4);
    let starts = ["held over", "first", "second", "third", "held too"].map(|prompt| runtime.starts(prompt));
    stage.start_network().await;

    // The open ones end, the one that came after the backup too,
    for job in [&jobs[0], &late] {
        let ended = stage.ended(job).await;
        assert_eq!(ended["end"], "result", "{ended}");
        assert!(!boots(&ended, "result").contains(&before.as_str().unwrap().to_owned()));
    }
    assert!(fence(&home).is_none());
    // the others are neither run nor sent again,
    for (job, prompt) in jobs[1..].iter().zip(["first", "second", "third"]) {
        let shown = stage.job(job).await;
        assert_eq!(boots(&shown, "result"), [before.as_str().unwrap()], "{prompt}");
        assert_eq!(runtime.starts(prompt), 1, "{prompt}");
    }
    assert_eq!(runtime.starts("held over"), starts[0] + 1);
    // all of it is reported, no message was one too many, and the floor is where it was.
    let text = "1 go on, 3 have ended since, 0 are others' now, 0 it does not know";
    eventually("the network has the report", || async {
        stage.get("logs").await.to_string().contains(text).then_some(())
    })
    .await;
    assert_eq!(stage.get("state").await["refused"], json!({}));
    let view = Store::view_only(&Options::new(&home, Network::Testnet)).unwrap();
    assert_eq!(view.snapshots().unwrap().floor().version, 2);
    eventually("nothing is left", || async { (view.jobs().tally().unwrap().jobs == 0).then_some(()) }).await;
}

/// Given a restored node that was stopped amid the network's answers: one job was kept, one still waits. When it starts again
/// it names both, so neither is given away: whoever got the kept one would run it a second time.
#[tokio::test(flavor = "multi_thread")]
async fn a_fence_that_was_broken_off_gives_no_job_away() {
    let (mut stage, runtime) = running(external()).await;
    let pass = passphrase(&stage);
    runtime.hold(true);
    let mut jobs = Vec::new();
    for prompt in ["held first", "held second"] {
        let job = stage.submit(prompt).await;
        is_held(&stage, &job).await;
        jobs.push(job);
    }
    let file = archive(&stage, "node.backup");
    well(stage.command(&["backup", "create", &file, "--with-keys", "--passphrase-file", &pass]));
    stage.kill_node();
    let home = new_home(&stage, "second");
    well(stage.command_in(&home, &["backup", "restore", &file, "--passphrase-file", &pass]));
    let store = Store::open(&Options::new(&home, Network::Testnet), &clock::read().unwrap()).unwrap();
    let kept = Claimed { job: jobs[0].parse().unwrap(), claim: Claim::Yours };
    let now = clock::read().unwrap().wall;
    assert_eq!(store.jobs().judge_fenced(vec![kept], now).wait().unwrap().len(), 1);
    assert!(!store.jobs().take_down_fence().wait().unwrap());
    drop(store);

    runtime.hold(false);
    let restored = stage.start_in(&home, &[]);
    stage.adopt(restored);
    for job in &jobs {
        let ended = stage.ended(job).await;
        assert_eq!(ended["end"], "result", "{ended}");
        assert_eq!(boots(&ended, "accept").len(), 1, "offered once: {ended}");
    }
    assert!(fence(&home).is_none());
}

/// The network has a record of this job in another chain of batches than it has others of the node.
async fn its_log_arrives_in_another_chain(stage: &Stage, job: &str) {
    eventually("its log arrives", || async {
        let batches = stage.get("logs").await["batches"].as_array().unwrap().clone();
        let of_job = |batch: &&Value| {
            batch["records"].as_array().is_some_and(|all| all.iter().any(|one| one["job"] == *job))
        };
        let chain = &batches.iter().find(of_job)?["header"]["chain"];
        batches.iter().any(|batch| batch["header"]["chain"] != *chain).then_some(())
    })
    .await;
}

/// A copy that was made before the first start has a chain of log batches too, of which it has sent none.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_was_set_back_to_before_its_first_start_tells_its_log_in_another_chain() {
    let runtime = StandIn::start().await;
    let mut stage = Stage::set(external(), &format!("[runtime]\nurl = \"{}\"", runtime.url)).await;
    let home = copied_home(&stage);
    stage.start_node();
    stage.active().await;
    eventually("it has told its log", || async {
        let logs = stage.get("logs").await;
        logs["batches"].as_array().is_some_and(|batches| !batches.is_empty()).then_some(())
    })
    .await;
    stage.kill_node();
    let copy = stage.start_in(&home, &[]);
    stage.adopt(copy);
    stage.active().await;
    let job = stage.submit("wait 1").await;
    assert_eq!(stage.ended(&job).await["end"], "result");
    its_log_arrives_in_another_chain(&stage, &job).await;
}

/// A volume that was copied, and both run: the one that came later stops, and says why. The first goes on, also when it was
/// killed and started again.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_of_one_node_the_later_one_stops_and_says_why() {
    let (mut stage, _runtime) = running(external()).await;
    let home = copied_home(&stage);
    let copy = stage.start_in(&home, &[]);
    assert_eq!(exit_code(copy).await, Some(6));
    let said = stage.said();
    assert!(said.contains("this node runs twice") && said.contains("runs already"), "{said}");
    // Whoever comes later and looks is told, too, and not sent into the same wall.
    let seen = well(stage.command_in(&home, &["status"]));
    assert!(
        seen.contains("because this node runs elsewhere too") && seen.contains("find the other one"),
        "{seen}"
    );

    let job = stage.submit("wait 1").await;
    assert_eq!(stage.ended(&job).await["end"], "result");
    assert!(stage.get("state").await["refused"]["already_running"].as_u64() > Some(0));
    assert!(stage.node().try_wait().unwrap().is_none(), "the first goes on");

    // Killed and started at once: it is not taken for a copy of itself.
    let refused = stage.get("state").await["refused"].clone();
    stage.kill_node();
    stage.start_node();
    stage.active().await;
    let job = stage.submit("wait 2").await;
    assert_eq!(stage.ended(&job).await["end"], "result");
    assert_eq!(stage.get("state").await["refused"], refused);

    // And when the first is not there, the copy is the node.
    stage.kill_node();
    let copy = stage.start_in(&home, &[]);
    stage.adopt(copy);
    stage.active().await;
    let job = stage.submit("wait 3").await;
    assert_eq!(stage.ended(&job).await["end"], "result");

    // The first went on with the chain of log batches that the copy has too: the copy's go into another one.
    its_log_arrives_in_another_chain(&stage, &job).await;
    let view = Store::view_only(&Options::new(&home, Network::Testnet)).unwrap();
    eventually("none waits", || async { view.logs().batches(1).unwrap().is_empty().then_some(()) }).await;
    assert_eq!(stage.said().matches("cannot follow this log batch").count(), 1);
    assert_eq!(stage.stop_node().await, Some(0));
    let seen = well(stage.command_in(&home, &["status"]));
    assert!(seen.contains("start the node") && !seen.contains("elsewhere"), "{seen}");
}

/// A machine that was copied with its memory is one start that runs twice, and counts on from the same number in both: the
/// numbers tell.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_of_one_start_the_one_that_uses_a_number_again_stops_and_says_why() {
    let (mut stage, _runtime) = running(external()).await;
    assert_eq!(stage.stop_node().await, Some(0));
    let home = copied_home(&stage);
    let library = stage.library("one_start.c", "one_start.so");
    stage.environment.push(("LD_PRELOAD", library));
    stage.start_node();
    stage.active().await;
    // It has used more numbers than a copy uses before it is answered for the first time.
    for _ in 0..8 {
        let job = stage.submit("wait 1").await;
        stage.ended(&job).await;
    }
    let copy = stage.start_in(&home, &[]);
    assert_eq!(exit_code(copy).await, Some(6));
    let said = stage.said();
    assert!(said.contains("this node runs twice") && said.contains("by the same start"), "{said}");
    assert_eq!(
        stage.get("state").await["nodes"][0]["boots"].as_array().unwrap().len(),
        2,
        "before, and both"
    );

    assert!(stage.node().try_wait().unwrap().is_none(), "the first goes on");
    let job = stage.submit("wait 1").await;
    assert_eq!(stage.ended(&job).await["end"], "result");
}

/// One that does not answer is let go for one that does; when it comes back, it is the one that stops.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_was_away_finds_that_another_took_its_place() {
    let (mut stage, _runtime) = running(external()).await;
    let home = copied_home(&stage);
    let first = Pid::from_child(stage.node());
    kill_process(first, Signal::STOP).unwrap();
    let mut copy = stage.start_in(&home, &[]);
    eventually("the copy is connected", || async {
        let node = stage.get("state").await["nodes"][0].clone();
        (node["connected"] == true && node["boots"].as_array().unwrap().len() == 2).then_some(())
    })
    .await;
    kill_process(first, Signal::CONT).unwrap();
    let code = eventually("the first ends", || {
        let ended = stage.node().try_wait().unwrap();
        std::future::ready(ended)
    })
    .await;
    assert_eq!(code.code(), Some(6));
    assert!(copy.try_wait().unwrap().is_none());
    copy.kill().unwrap();
    copy.wait().unwrap();
}

/// Handed over amid its jobs: it goes on elsewhere without being asked anything, and the old one stays shut.
#[tokio::test(flavor = "multi_thread")]
async fn a_moved_node_goes_on_and_the_old_one_stays_shut() {
    let runtime = StandIn::start().await;
    let template = with(external(), "/limits/concurrency", 1);
    let settings = format!("shutdown_grace_ms = 1\n[runtime]\nurl = \"{}\"", runtime.url);
    let mut stage = Stage::set(template, &settings).await;
    let (pass, file) = (passphrase(&stage), archive(&stage, "node.move"));
    stage.start_node();
    stage.active().await;
    runtime.hold(true);
    let mut jobs = Vec::new();
    for prompt in ["held a", "held b"] {
        let job = stage.submit(prompt).await;
        is_held(&stage, &job).await;
        jobs.push(job);
    }
    let out = ["move", "out", &file, "--passphrase-file", &pass];
    let running = stage.command(&out);
    assert_eq!(running.0, Some(4), "{}", running.1);
    assert_eq!(stage.stop_node().await, Some(0));
    well(stage.command(&out));

    let old = stage.start_in(&stage.home(), &[]);
    assert_eq!(exit_code(old).await, Some(6));
    assert!(stage.said().contains("was moved away on"), "{}", stage.said());
    assert_eq!(stage.command(&["rotate"]).0, Some(6));
    assert_eq!(stage.command(&["status"]).0, Some(0), "looking still works");

    let home = new_home(&stage, "second");
    well(stage.command_in(&home, &["move", "in", &file, "--passphrase-file", &pass]));
    assert!(fence(&home).is_none());
    runtime.hold(false);
    let moved = stage.start_in(&home, &[]);
    stage.adopt(moved);
    for job in &jobs {
        assert_eq!(stage.ended(job).await["end"], "result");
    }
    assert_eq!(stage.get("state").await["refused"], json!({}));
}
