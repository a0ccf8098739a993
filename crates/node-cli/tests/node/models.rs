//! Models end to end: the real model, fetched from the devnet over HTTP, served by the real llama.cpp; killed, lied to,
//! damaged and swapped.

use std::{
    collections::BTreeMap,
    fs::{File, FileTimes},
    io::{Read, Seek, SeekFrom, Write},
    os::unix::fs::{FileExt, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use node_devnet::Fault;
use node_store::{
    models::{HeldFile, ModelRow},
    store::{Options, Store},
};
use node_types::{
    Digest, Network, Timestamp,
    config::PIECE_BYTES,
    inventory::{ArtifactKind, ArtifactState},
    models::ModelState,
    trace::Step,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::{
    browser::Browser,
    stage::{Stage, children, eventually, external, figures, with},
};

/// Gemma 3 270M as GGUF, Q4_K_M.
const SHA256: &str = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818";

pub fn tools() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    assert!(std::process::Command::new(root.join("scripts/runtime")).status().unwrap().success());
    root.join(".tools")
}

pub fn gemma() -> (PathBuf, Digest) {
    (tools().join("models").join(SHA256), format!("sha256:{SHA256}").parse().unwrap())
}

pub fn listed(version: &str, path: &Path, sha256: Digest) -> Value {
    json!({
        "name": "m", "version": version, "tasks": ["completion", "chat"], "engine": "llama.cpp", "memory_bytes": 536_870_912,
        "files": [{ "path": "model.gguf", "bytes": path.metadata().unwrap().len(), "sha256": sha256 }], "sources": [],
    })
}

/// A network whose snapshot lists the real model, and a node with the real llama.cpp that does not run yet.
pub async fn set(models: &Path, settings: &str) -> Stage {
    set_as(models, settings, |template| template).await
}

/// The same with a snapshot that says something else in places.
pub async fn set_as(models: &Path, settings: &str, change: impl FnOnce(Value) -> Value) -> Stage {
    let tools = tools();
    let program = std::fs::read(tools.join("runtime/llama/serve.py")).unwrap();
    let runtime = json!({
        "kind": "process", "engine": "llama.cpp", "command": "llama/serve.py", "digest": Digest::of(&program),
        "args": ["--host", "{host}", "--port", "{port}", "--model", "{model}"],
    });
    let (path, sha256) = gemma();
    let template = with(external(), "/models", json!([listed("1", &path, sha256)]));
    let template = with(template, "/runtime", runtime);
    let template = with(template, "/timings/sync_ms", 1000);
    let interpreter = std::fs::read_to_string(tools.join("runtime/interpreter")).unwrap();
    let settings = format!(
        "[runtime]\nfolder = {}\nreadable = [{}]\n{settings}",
        json!(tools.join("runtime")),
        json!(interpreter.trim())
    );
    Stage::set_with(change(template), &settings, Some(models.to_owned())).await
}

/// The same with the model in place, and the Agent ended.
async fn stocked(settings: &str) -> Stage {
    let mut stage = set(&tools().join("models"), settings).await;
    stage.start_node();
    stage.active().await;
    assert_eq!(stage.stop_node().await, Some(0));
    stage
}

fn row(stage: &Stage, version: &str) -> Option<ModelRow> {
    let rows = stage.view().models().models().unwrap();
    rows.into_iter().find(|row| row.reference.version == version)
}

fn state(stage: &Stage, version: &str) -> Option<ModelState> {
    row(stage, version).map(|row| row.state)
}

/// Every state that the network was told of a model, in order, by the records that it got.
async fn states_told(stage: &Stage, version: &str) -> Vec<String> {
    let logs = stage.get("logs").await;
    let batches = logs["batches"].as_array().unwrap().clone();
    // The newest batch comes first; within a batch the oldest record does.
    let records = batches.iter().rev().flat_map(|batch| batch["records"].as_array().unwrap());
    let fields = records.map(|record| &record["fields"]);
    let told =
        fields.filter(|fields| fields["model"] == format!("m@{version}") && fields["state"].is_string());
    told.map(|fields| fields["state"].as_str().unwrap().to_owned()).collect()
}

/// Bytes of a file that the network has served.
async fn served(stage: &Stage, sha256: Digest) -> u64 {
    let state = stage.get("state").await;
    let files = state["files"].as_array().unwrap().clone();
    let file = files.into_iter().find(|file| file["sha256"] == sha256.to_string());
    file.map_or(0, |file| file["bytes"].as_u64().unwrap())
}

/// Where the node keeps a file.
fn kept(stage: &Stage, sha256: Digest) -> PathBuf {
    stage.home().join("testnet/models").join(sha256.hex())
}

/// Flips a byte as root can, and sets the times back to what they were.
fn flip(path: &Path, at: u64) {
    let before = path.metadata().unwrap();
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    let times =
        FileTimes::new().set_accessed(before.accessed().unwrap()).set_modified(before.modified().unwrap());
    file.set_times(times).unwrap();
    // By its name there may be a mended one by now.
    let after = file.metadata().unwrap();
    assert_eq!((after.len(), after.modified().unwrap()), (before.len(), before.modified().unwrap()));
}

pub fn hash(path: &Path) -> Digest {
    Digest::of(&std::fs::read(path).unwrap())
}

/// The network sees the node connected, and taking no jobs.
async fn assert_takes_nothing(stage: &Stage) {
    eventually("the network sees that it takes no jobs", || async {
        let state = stage.get("state").await;
        let node = &state["nodes"][0];
        (node["connected"] == true && node["concurrency"].as_u64() == Some(0)).then_some(())
    })
    .await;
}

/// The real model answers, and not anything.
pub async fn assert_knows_france(stage: &Stage) {
    let question = json!([{ "role": "user", "content": "What is the capital of France?" }]);
    let asked = json!({ "model": "m", "messages": question, "max_tokens": 24, "temperature": 0 });
    let answer = stage.post("/v1/chat/completions", &asked).await;
    assert!(answer["choices"][0]["message"]["content"].as_str().unwrap().contains("Paris"), "{answer}");
}

pub async fn answered(stage: &Stage, prompt: &str) -> Value {
    let job = stage.submit(prompt).await;
    let ended = stage.ended(&job).await;
    assert_eq!(ended["end"], "result", "{ended}");
    ended
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_fetched_through_lies_cuts_and_sigkill_and_no_piece_of_it_twice_for_a_kill() {
    let (path, sha256) = gemma();
    let bytes = path.metadata().unwrap().len();
    let mut stage = set(&tools().join("models"), "").await;
    // Every connection dies early: all of it takes long enough to be killed in the middle, however late.
    stage.fault(Fault::CutShort { bytes: 1 << 20, count: 0, ms: 600_000 });
    stage.start_node();
    let received = |stage: &Stage| {
        let partials = stage.view().models().partials().unwrap();
        partials.first().map_or(0, |partial| partial.received)
    };
    eventually("a part of it is here", || async { (received(&stage) > 96 << 20).then_some(()) }).await;
    assert_eq!(state(&stage, "1"), Some(ModelState::Pending));
    stage.kill_node();
    let (held, before) = (received(&stage), served(&stage, sha256).await);
    assert!(held < bytes, "{held} of {bytes}: killed in the middle");

    // What it meets now: a size that is not the announced one, an end that never comes, a byte that is wrong.
    stage.fault(Fault::None);
    stage.fault(Fault::WrongSize { count: 1, ms: 0 });
    stage.fault(Fault::Endless { count: 1, ms: 0 });
    stage.fault(Fault::CorruptPiece { piece: 3, count: 1, ms: 0 });
    stage.start_node();
    stage.active().await;
    let after = served(&stage, sha256).await - before;
    // What was here is not fetched again; a piece that arrived wrong is, and what a lie cost.
    assert!(
        after < bytes - held + 2 * PIECE_BYTES,
        "{after} bytes for the {} that were missing",
        bytes - held
    );
    assert_eq!(hash(&kept(&stage, sha256)), sha256);
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&kept(&stage, sha256).metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o444);
    eventually("it is active", || async { (state(&stage, "1") == Some(ModelState::Active)).then_some(()) })
        .await;
    assert!(stage.view().models().partials().unwrap().is_empty());
    assert_knows_france(&stage).await;

    // A start with all in place fetches and reads nothing.
    let before = served(&stage, sha256).await;
    assert_eq!(stage.stop_node().await, Some(0));
    stage.start_node();
    stage.active().await;
    assert_eq!(served(&stage, sha256).await, before);
    assert_eq!(stage.stop_node().await, Some(0));
    assert_eq!(states_told(&stage, "1").await.first().map(String::as_str), Some("pending"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_slow_or_wrong_to_the_end_leaves_the_model_failed_or_pending_and_says_why() {
    let mut stage = set(&tools().join("models"), "").await;
    stage.fault(Fault::WrongSize { count: 0, ms: 600_000 });
    stage.start_node();
    let told = eventually("it says why", || async {
        row(&stage, "1").and_then(|row| row.reason).filter(|reason| reason.contains("bytes"))
    })
    .await;
    assert!(told.contains("model.gguf"), "{told}");
    let (code, said) = stage.command(&["models", "list"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("model.gguf"), "{said}");
    stage.fault(Fault::None);
    let patch = json!({ "timings": { "sync_ms": 1000 } });
    stage.post("/v1/devnet/snapshots", &patch).await;
    stage.active().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_byte_that_is_flipped_is_found_named_and_mended_piece_by_piece_while_jobs_go_on() {
    let (path, sha256) = gemma();
    let bytes = path.metadata().unwrap().len();
    let mut stage = set(&tools().join("models"), "").await;
    stage.start_node();
    stage.active().await;
    let mut jobs = Vec::new();
    // More than it can answer until the drift is found: they wait here, not at the network.
    for number in 0..60 {
        jobs.push(stage.submit(&format!("Count to {number}:")).await);
    }
    let before = served(&stage, sha256).await;
    let at = 2 * PIECE_BYTES + 4711;
    flip(&kept(&stage, sha256), at);
    for number in 60..64 {
        jobs.push(stage.submit(&format!("Count to {number}:")).await);
    }
    let change = |became: ArtifactState| {
        let history = stage.view().inventory().history(None).unwrap();
        history.into_iter().rfind(|it| it.id.kind == ArtifactKind::ModelFile && it.became == became)
    };
    let drifted = eventually("it is found", || async { change(ArtifactState::Drifted) }).await;
    jobs.push(stage.submit("What comes now waits.").await);
    eventually("it is mended", || async { (hash(&kept(&stage, sha256)) == sha256).then_some(()) }).await;
    let mended = eventually("that is noted", || async {
        change(ArtifactState::Ok).filter(|change| change.at > drifted.at)
    })
    .await;
    for job in &jobs {
        let ended = stage.ended(job).await;
        assert_eq!(ended["end"], "result", "{ended}");
        let results =
            ended["messages"].as_array().unwrap().iter().filter(|it| it["kind"] == "result").count();
        assert_eq!(results, 1);
    }
    let traces = eventually("all are acknowledged", || async {
        let traces = stage.view().jobs().traces(0).unwrap();
        (traces.len() == jobs.len()).then_some(traces)
    })
    .await;
    let events = traces.iter().flat_map(|(_, trace)| &trace.events);
    let mut leased = events.filter(|event| matches!(event.step, Step::Leased { .. })).map(|event| event.at);
    let meanwhile = leased.find(|at| (drifted.at..mended.at).contains(at));
    assert_eq!(meanwhile, None, "nothing is begun on a model that has drifted");
    let fetched = served(&stage, sha256).await - before;
    assert_eq!(fetched, PIECE_BYTES.min(bytes - 2 * PIECE_BYTES), "that piece and no other");
    eventually("it is active again", || async {
        (state(&stage, "1") == Some(ModelState::Active)).then_some(())
    })
    .await;

    let history = stage.view().inventory().history(None).unwrap();
    let drifted = history.iter().filter(|change| change.id.kind == ArtifactKind::ModelFile);
    let became: Vec<_> = drifted.map(|change| change.became).collect();
    assert!(became.ends_with(&[ArtifactState::Ok, ArtifactState::Drifted, ArtifactState::Ok]), "{became:?}");
    eventually("the network is told", || async {
        stage.get("logs").await.to_string().contains("is drifted").then_some(())
    })
    .await;
    assert_eq!(stage.stop_node().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_under_a_seal_that_holds_is_found_by_the_scrub() {
    let (_, sha256) = gemma();
    let mut stage = stocked("[models]\nscrub_ms = 2000").await;
    // What a disk does: the content changes, and what the file system says of it does not. The seal is made to hold by
    // writing it anew for the damaged file, while no Agent runs.
    let file = kept(&stage, sha256);
    flip(&file, PIECE_BYTES + 1);
    stage.seal_as_it_is(sha256);
    // Nobody has the right bytes for the time being.
    stage.stop_network().await;
    stage.start_node();
    eventually("the scrub finds it", || async {
        stage.said().contains("though its seal holds").then_some(())
    })
    .await;
    let page = stage.page().await;
    eventually("it is measured as drift", || async {
        (artifacts(&figures(&page).await, "drifted") == 1.0).then_some(())
    })
    .await;
    stage.start_network().await;
    eventually("it is mended", || async { (hash(&file) == sha256).then_some(()) }).await;
    stage.active().await;
    eventually("nothing is drift any more", || async {
        (artifacts(&figures(&page).await, "drifted") == 0.0).then_some(())
    })
    .await;
    answered(&stage, "One, two,").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_swapped_by_rename_before_the_runtime_loads_it_is_not_served() {
    let (_, sha256) = gemma();
    let mut stage = stocked("").await;
    // Same length, same times, another content: another name takes its place while nobody looks.
    let file = kept(&stage, sha256);
    // Not in the folder of models: what nobody knows there goes.
    let other = stage.home().join("swap");
    std::fs::copy(&file, &other).unwrap();
    flip(&other, 3 * PIECE_BYTES + 5);
    let times = file.metadata().unwrap();
    let set =
        FileTimes::new().set_accessed(times.accessed().unwrap()).set_modified(times.modified().unwrap());
    File::options().write(true).open(&other).unwrap().set_times(set).unwrap();
    std::fs::rename(&other, &file).unwrap();
    stage.start_node();
    stage.active().await;
    assert_eq!(hash(&file), sha256, "it takes jobs only after the right file is back");

    // And while the Agent runs, between its looks.
    std::fs::copy(&file, &other).unwrap();
    flip(&other, 5);
    std::fs::rename(&other, &file).unwrap();
    let job = stage.submit("One, two,").await;
    assert_eq!(stage.ended(&job).await["end"], "result");
    eventually("it is mended", || async { (hash(&file) == sha256).then_some(()) }).await;
    let drifts = stage.view().inventory().history(None).unwrap();
    let drifts = drifts.iter().filter(|change| change.became == ArtifactState::Drifted).count();
    assert_eq!(drifts, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_swapped_while_the_runtime_loads_and_then_swapped_back_answers_no_job() {
    let (_, sha256) = gemma();
    let mut stage = stocked("").await;
    let file = kept(&stage, sha256);
    let (right, wrong) = (stage.home().join("right"), stage.home().join("wrong"));
    std::fs::copy(&file, &wrong).unwrap();
    flip(&wrong, 3 * PIECE_BYTES + 5);
    let wrong_inode = wrong.metadata().unwrap().ino();

    stage.start_node();
    let node = stage.node().id();
    let maps = |pid: Pid| std::fs::read_to_string(format!("/proc/{}/maps", pid.as_raw_nonzero())).ok();
    let loads = |pid: Pid, inode: u64| {
        let mapped = maps(pid).unwrap_or_default();
        mapped.lines().any(|line| line.split_whitespace().nth(4) == Some(inode.to_string().as_str()))
    };
    // Held as soon as its interpreter runs: the Agent has looked at the file, the runtime has not opened it.
    let runtime = eventually("a runtime is started", || async {
        // Below the Agent is what keeps it, and below that what runs.
        let keepers = children(node).into_iter();
        let mut below = keepers.flat_map(|keeper| children(keeper.as_raw_nonzero().get().unsigned_abs()));
        below.find(|pid| maps(*pid).is_some_and(|maps| maps.contains("python")))
    })
    .await;
    kill_process(runtime, Signal::STOP).unwrap();
    assert!(!loads(runtime, file.metadata().unwrap().ino()), "it has loaded already");
    let job = stage.submit("One, two,").await;
    std::fs::rename(&file, &right).unwrap();
    std::fs::rename(&wrong, &file).unwrap();
    kill_process(runtime, Signal::CONT).unwrap();
    // It has loaded the wrong one, unless the Agent was faster and has ended it.
    eventually("it loads", || async {
        (loads(runtime, wrong_inode) || maps(runtime).is_none()).then_some(())
    })
    .await;
    // What the Agent has put there meanwhile is the right one too.
    std::fs::rename(&right, &file).unwrap();

    eventually("the job ends", || async { stage.job(&job).await["end"].as_str().map(str::to_owned) }).await;
    assert!(!loads(runtime, wrong_inode), "the wrong file has answered");
    assert_eq!(stage.job(&job).await["end"], "result");
    assert_eq!(hash(&file), sha256);
    // Whichever of the two saw it first: the one that looks every second, or the one that waits for the runtime.
    let said = stage.said();
    let told = ["was changed while the runtime loaded it", "model.gguf is drifted", "model.gguf is missing"];
    assert!(told.iter().any(|text| said.contains(text)), "it is on record");
}

/// Another model that loads: the same with another name in its header.
fn renamed(folder: &Path, from: &str, to: &str) -> (PathBuf, Digest) {
    assert_eq!(from.len(), to.len());
    let (path, _) = gemma();
    let made = folder.join("made");
    std::fs::copy(&path, &made).unwrap();
    let mut file = File::options().read(true).write(true).open(&made).unwrap();
    let mut head = vec![0; 1 << 20];
    file.read_exact(&mut head).unwrap();
    let at = head.windows(from.len()).position(|bytes| bytes == from.as_bytes()).unwrap();
    file.seek(SeekFrom::Start(at as u64)).unwrap();
    file.write_all(to.as_bytes()).unwrap();
    drop(file);
    let sha256 = hash(&made);
    let named = folder.join(sha256.hex());
    std::fs::rename(&made, &named).unwrap();
    (named, sha256)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_changes_the_model_rolls_through_all_states() {
    let models = tempfile::tempdir().unwrap();
    let (first, first_sha256) = gemma();
    std::os::unix::fs::symlink(&first, models.path().join(first_sha256.hex())).unwrap();
    let (second, second_sha256) = renamed(models.path(), "general.name", "general.nome");
    let (third, third_sha256) = renamed(models.path(), "GGUF", "GGUX");
    let mut stage = set(models.path(), "").await;
    stage.start_node();
    stage.active().await;
    eventually("1 is active", || async { (state(&stage, "1") == Some(ModelState::Active)).then_some(()) })
        .await;

    stage.post("/v1/devnet/snapshots", &json!({ "models": [listed("2", &second, second_sha256)] })).await;
    eventually("2 is active", || async { (state(&stage, "2") == Some(ModelState::Active)).then_some(()) })
        .await;
    eventually("1 is archived", || async {
        (state(&stage, "1") == Some(ModelState::Archived)).then_some(())
    })
    .await;
    assert!(kept(&stage, first_sha256).exists(), "the policy keeps it for a time");
    stage.active().await;
    let job =
        json!({ "mode": "completion", "request": { "model": "m", "prompt": "One, two,", "max_tokens": 4 } });
    let job = stage.post("/v1/devnet/jobs", &job).await["id"].as_str().unwrap().to_owned();
    assert_eq!(stage.ended(&job).await["end"], "result");

    // The third has the right hash and is no model: it fails, and the second comes back.
    stage.post("/v1/devnet/snapshots", &json!({ "models": [listed("3", &third, third_sha256)] })).await;
    let reason = eventually("3 has failed", || async {
        let told = stage.said();
        told.lines().find(|line| line.contains("m@3 is failed")).map(str::to_owned)
    })
    .await;
    assert!(reason.contains("model.gguf"), "{reason}");
    eventually("2 is back", || async {
        let view = stage.view().snapshots().unwrap();
        (view.current().unwrap().config.document().version == 2).then_some(())
    })
    .await;
    stage.active().await;
    eventually("2 is active again", || async {
        (state(&stage, "2") == Some(ModelState::Active)).then_some(())
    })
    .await;

    // A policy of no time at all: what is not listed goes at once.
    let patch =
        json!({ "models": [listed("2", &second, second_sha256)], "timings": { "unlisted_model_ttl_ms": 0 } });
    stage.post("/v1/devnet/snapshots", &patch).await;
    eventually("1 is removed", || async { (!kept(&stage, first_sha256).exists()).then_some(()) }).await;
    eventually("1 is forgotten", || async { state(&stage, "1").is_none().then_some(()) }).await;
    assert!(kept(&stage, second_sha256).exists());
    stage.active().await;
    assert_eq!(stage.stop_node().await, Some(0));
    let two = states_told(&stage, "2").await;
    assert_eq!(two[..3], ["pending", "inactive", "active"], "{two:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_does_not_fit_the_machine_is_refused_before_a_byte_is_fetched() {
    let (path, sha256) = gemma();
    let mut stage = set(&tools().join("models"), "").await;
    let mut model = listed("2", &path, sha256);
    model["memory_bytes"] = json!(1_u64 << 52);
    stage.post("/v1/devnet/snapshots", &json!({ "models": [model] })).await;
    stage.start_node();
    let row =
        eventually("it fails", || async { row(&stage, "2").filter(|row| row.state == ModelState::Failed) })
            .await;
    let reason = row.reason.unwrap();
    assert!(reason.contains("memory") && reason.contains(&(1_u64 << 52).to_string()), "{reason}");
    assert_eq!(served(&stage, sha256).await, 0);
}

/// Artifacts in a state, by the node's figures.
fn artifacts(figures: &BTreeMap<String, f64>, state: &str) -> f64 {
    figures[&format!("resultity_artifacts{{state=\"{state}\"}}")]
}

/// The page shows that this one has drifted and no other.
fn shows_drift(name: &str) -> String {
    format!(
        "const said = document.getElementById('drift'), all = [...document.querySelectorAll('#drifted li')];
         return said.textContent === '1 drifted from what was installed:' && said.className === 'bad'
             && all.length === 1 && all[0].textContent === {}",
        json!(name)
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_program_that_changes_is_drift_and_runs_nothing_until_it_is_right_again() {
    let folder = tempfile::tempdir().unwrap();
    let (template, settings) = crate::chatty::chatty(folder.path());
    let mut stage = Stage::set(template, &settings).await;
    stage.start_node();
    stage.active().await;
    assert_eq!(stage.stop_node().await, Some(0));
    let program = folder.path().join("chatty.py");
    let good = std::fs::read(&program).unwrap();
    std::fs::write(&program, [good.as_slice(), b"\n# touched\n"].concat()).unwrap();
    stage.start_node();
    eventually("it is told", || async {
        let artifacts = stage.view().inventory().list().unwrap();
        let program = artifacts.into_iter().find(|it| it.id.kind == ArtifactKind::RuntimeBinary);
        program.filter(|it| it.state == ArtifactState::Drifted)
    })
    .await;
    let (code, said) = stage.command(&["drift", "check"]);
    assert_eq!(code, Some(3), "{said}");
    assert_takes_nothing(&stage).await;
    let page = stage.page().await;
    eventually("it is measured as drift, and nothing else is", || async {
        let measured = figures(&page).await;
        (artifacts(&measured, "drifted") == 1.0 && artifacts(&measured, "missing") == 0.0).then_some(())
    })
    .await;
    let browser = Browser::open().await;
    browser.go(&page).await;
    browser
        .until(
            "the page says it, and not in the tone of what is well",
            &shows_drift("runtime_binary stand-in"),
        )
        .await;
    let todo = format!(
        "1 artifact drifted from what was installed: resultity-node --home {} drift check says which",
        stage.home().display()
    );
    let says = format!("return document.getElementById('todo').textContent.startsWith({})", json!(todo));
    browser.until("and what to do", &says).await;
    assert_eq!(browser.complaints().await, Vec::<String>::new());
    drop(browser);
    eventually("the network is told what has drifted", || async {
        let state = stage.get("state").await;
        let drifted = state["nodes"][0]["heartbeat"]["drifted"].as_array().cloned().unwrap_or_default();
        drifted.contains(&json!("runtime_binary stand-in")).then_some(())
    })
    .await;
    assert_eq!(stage.stop_node().await, Some(0));
    std::fs::remove_file(&program).unwrap();
    stage.start_node();
    let page = stage.page().await;
    eventually("it is measured as missing", || async {
        let measured = figures(&page).await;
        (artifacts(&measured, "missing") == 1.0 && artifacts(&measured, "drifted") == 0.0).then_some(())
    })
    .await;
    assert_eq!(stage.stop_node().await, Some(0));
    std::fs::write(&program, &good).unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    stage.start_node();
    stage.active().await;
    let kinds: Vec<_> =
        stage.view().inventory().list().unwrap().into_iter().map(|it| (it.id.kind, it.state)).collect();
    for kind in [ArtifactKind::RuntimeBinary, ArtifactKind::Configuration, ArtifactKind::ModelFile] {
        assert!(kinds.contains(&(kind, ArtifactState::Ok)), "{kind}: {kinds:?}");
    }
    eventually("the Agent knows itself", || async {
        let artifacts = stage.view().inventory().list().unwrap();
        artifacts.into_iter().find(|it| it.id.kind == ArtifactKind::Agent && it.facts.recorded.is_some())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_drips_and_is_mended_costs_time_and_no_byte_twice() {
    let (path, sha256) = gemma();
    let bytes = path.metadata().unwrap().len();
    let mut stage = set(&tools().join("models"), "").await;
    stage.fault(Fault::SlowDrip { count: 0, ms: 600_000 });
    stage.start_node();
    let received = |stage: &Stage| {
        let partials = stage.view().models().partials().unwrap();
        partials.first().map_or(0, |partial| partial.received)
    };
    eventually("a few bytes are here", || async { (received(&stage) > 0).then_some(()) }).await;
    let few = received(&stage);
    eventually("and a few more", || async { (received(&stage) > few).then_some(()) }).await;
    assert!(received(&stage) < 1 << 14, "{} bytes: it drips", received(&stage));
    assert_eq!(state(&stage, "1"), Some(ModelState::Pending));
    assert_takes_nothing(&stage).await;

    // Answers that have begun go on dripping until the node leaves them, 30 seconds after they began.
    stage.fault(Fault::None);
    let active = async {
        while state(&stage, "1") != Some(ModelState::Active) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(300), active).await.unwrap();
    // What dripped in stayed, but for what was on its way when it was left.
    let served = served(&stage, sha256).await;
    assert!((bytes..bytes + 1024).contains(&served), "{served} of {bytes}");
    assert_eq!(hash(&kept(&stage, sha256)), sha256);
    stage.active().await;
    assert_knows_france(&stage).await;
}

/// A template and settings for the chatty stand-in, which reads the model that it is given: one that says `refuse` fails every
/// request. A prompt that says `hold` waits until there is a file `gate` beside the program.
fn picky(folder: &Path) -> (Value, String) {
    let (template, settings) = crate::chatty::chatty(folder);
    let asked = "        print(\"asked:\", prompt, flush=True)\n";
    let more = "        gate = os.path.join(os.path.dirname(os.path.abspath(sys.argv[0])), \"gate\")
        while prompt == \"hold\" and not os.path.exists(gate):
            time.sleep(0.05)
        if open(sys.argv[2]).read() == \"refuse\":
            self.send_error(500)
            return
";
    let program = include_str!("chatty.py").replace(asked, &format!("{asked}{more}"));
    let program = program.replace("import sys\n", "import sys\nimport time\n");
    assert!(program.contains(more));
    std::fs::write(folder.join("chatty.py"), &program).unwrap();
    let template = with(template, "/runtime/digest", json!(Digest::of(program.as_bytes())));
    (with(template, "/runtime/args", json!(["{port}", "{model}"])), settings)
}

/// A version of the model, with this content, where the operator's files are.
fn brought(folder: &Path, version: &str, content: &str) -> (Value, Digest) {
    let sha256 = Digest::of(content.as_bytes());
    std::fs::write(folder.join("models").join(sha256.hex()), content).unwrap();
    let model = json!({
        "name": "m", "version": version, "tasks": ["completion"], "engine": "stand-in", "memory_bytes": 0,
        "files": [{ "path": "m.bin", "bytes": content.len(), "sha256": sha256 }], "sources": [],
    });
    (model, sha256)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_whose_test_inference_fails_is_failed_and_the_last_one_serves_again() {
    let folder = tempfile::tempdir().unwrap();
    let (template, settings) = picky(folder.path());
    let (first, _) = brought(folder.path(), "1", "refuse");
    let mut stage = Stage::set(with(template, "/models", json!([first])), &settings).await;
    stage.start_node();
    // Where nothing was before, nothing comes back.
    let failed =
        eventually("1 fails", || async { row(&stage, "1").filter(|row| row.state == ModelState::Failed) })
            .await;
    let reason = failed.reason.unwrap();
    assert!(reason.contains("test inference") && reason.contains("500"), "{reason}");
    assert_takes_nothing(&stage).await;

    let (second, _) = brought(folder.path(), "2", "right");
    stage.post("/v1/devnet/snapshots", &json!({ "models": [second] })).await;
    stage.active().await;
    answered(&stage, "say").await;

    // The third has the right hash and answers nothing: the second comes back.
    let (third, sha256) = brought(folder.path(), "3", "refuse");
    stage.post("/v1/devnet/snapshots", &json!({ "models": [third] })).await;
    let report = eventually("the network is told of the way back", || async {
        let reports = stage.get("reports").await;
        let reports = reports["reports"].as_array().unwrap().clone();
        reports.into_iter().map(|it| it["report"].clone()).find(|it| it["outcome"] == "rolled_back")
    })
    .await;
    let report = report.to_string();
    assert!(report.contains("the test inference with m@3 failed") && report.contains("500"), "{report}");
    eventually("2 is in force", || async {
        let view = stage.view().snapshots().unwrap();
        (view.current().unwrap().config.document().version == 2).then_some(())
    })
    .await;
    eventually("2 is active", || async { (state(&stage, "2") == Some(ModelState::Active)).then_some(()) })
        .await;
    stage.active().await;
    assert!(kept(&stage, sha256).exists(), "its file is the right one");
    assert_eq!(stage.stop_node().await, Some(0));
    for version in ["1", "3"] {
        let told = states_told(&stage, version).await;
        assert!(!told.contains(&"active".to_owned()), "{version}: {told:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_environment_of_the_runtime_that_changes_is_drift_and_runs_nothing_until_it_is_right_again() {
    let folder = tempfile::tempdir().unwrap();
    let (mut template, settings) = picky(folder.path());
    let environment = folder.path().join("environment");
    let library = environment.join("lib/library.py");
    std::fs::create_dir_all(library.parent().unwrap()).unwrap();
    std::fs::write(&library, "right = True\n").unwrap();
    let digest = node_store::hash::tree(&environment).unwrap();
    template["runtime"]["environment"] = json!({ "path": "environment", "digest": digest });
    let mut stage = Stage::set(template, &settings).await;
    stage.start_node();
    stage.active().await;
    artifact_is(&stage, ArtifactKind::RuntimeEnvironment, ArtifactState::Ok).await;
    assert_eq!(stage.command(&["drift", "check"]).0, Some(0));

    // It is looked at every few seconds, and at every start.
    assert_eq!(stage.stop_node().await, Some(0));
    std::fs::write(&library, "right = None\n").unwrap();
    stage.start_node();
    artifact_is(&stage, ArtifactKind::RuntimeEnvironment, ArtifactState::Drifted).await;
    let (code, said) = stage.command(&["drift", "check"]);
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("runtime_environment"), "{said}");
    assert_takes_nothing(&stage).await;
    let job = stage.submit("say").await;
    assert!(!stage.said().contains("it runs attempt="), "nothing is asked of what nobody approved");

    assert_eq!(stage.stop_node().await, Some(0));
    std::fs::write(&library, "right = True\n").unwrap();
    stage.start_node();
    assert_eq!(stage.ended(&job).await["end"], "result");
    artifact_is(&stage, ArtifactKind::RuntimeEnvironment, ArtifactState::Ok).await;
}

/// The state of the first artifact of a kind.
fn artifact_state(stage: &Stage, kind: ArtifactKind) -> Option<ArtifactState> {
    let artifacts = stage.view().inventory().list().unwrap();
    artifacts.into_iter().find(|it| it.id.kind == kind).map(|it| it.state)
}

async fn artifact_is(stage: &Stage, kind: ArtifactKind, wanted: ArtifactState) {
    eventually(&format!("{kind} is {wanted}"), || async {
        (artifact_state(stage, kind) == Some(wanted)).then_some(())
    })
    .await;
}

/// The heartbeats name an artifact among those that have drifted.
async fn network_told_of_drift(stage: &Stage, kind: ArtifactKind) {
    eventually(&format!("the network is told that {kind} has drifted"), || async {
        let state = stage.get("state").await;
        let drifted = state["nodes"][0]["heartbeat"]["drifted"].as_array().cloned().unwrap_or_default();
        drifted.iter().any(|it| it.as_str().unwrap().starts_with(kind.name())).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_beneath_a_running_node_is_found_be_it_configuration_agent_runtime_or_environment() {
    let folder = tempfile::tempdir().unwrap();
    let (mut template, settings) = picky(folder.path());
    let library = folder.path().join("environment/library.py");
    std::fs::create_dir_all(library.parent().unwrap()).unwrap();
    std::fs::write(&library, "right = True\n").unwrap();
    let digest = node_store::hash::tree(library.parent().unwrap()).unwrap();
    template["runtime"]["environment"] = json!({ "path": "environment", "digest": digest });
    let mut stage = Stage::set(template, &settings).await;
    // The Agent runs from a file that can be replaced.
    let (built, placed) = (stage.program.clone(), stage.folder.path().join("agent"));
    let place = |more: &[u8]| {
        let other = placed.with_extension("new");
        std::fs::copy(&built, &other).unwrap();
        File::options().append(true).open(&other).unwrap().write_all(more).unwrap();
        std::fs::rename(&other, &placed).unwrap();
    };
    place(b"");
    stage.program.clone_from(&placed);
    stage.start_node();
    stage.active().await;
    // The network approves no release.
    artifact_is(&stage, ArtifactKind::Agent, ArtifactState::Unlisted).await;
    for kind in [ArtifactKind::Configuration, ArtifactKind::RuntimeEnvironment] {
        artifact_is(&stage, kind, ArtifactState::Ok).await;
    }

    // What runs goes on with what was verified: another file for the next start, another snapshot on the disk.
    place(b"\0");
    crate::rot::flip_stored_snapshot(&stage.home().join("testnet"));
    artifact_is(&stage, ArtifactKind::Agent, ArtifactState::Drifted).await;
    network_told_of_drift(&stage, ArtifactKind::Agent).await;
    let (code, said) = stage.command(&["drift", "check"]);
    assert_eq!(code, Some(3), "{said}");
    answered(&stage, "say").await;
    let became = eventually("the snapshot is written anew", || async {
        let history =
            stage.view().inventory().history(Some(&node_store::inventory::configuration())).unwrap();
        let became: Vec<_> = history.into_iter().map(|change| change.became).collect();
        (became.last() == Some(&ArtifactState::Ok) && became.contains(&ArtifactState::Drifted))
            .then_some(became)
    })
    .await;
    assert!(became.ends_with(&[ArtifactState::Ok, ArtifactState::Drifted, ArtifactState::Ok]), "{became:?}");
    assert!(stage.view().snapshots().unwrap().current().is_some_and(|current| current.good));
    eventually("the network is told of it", || async {
        stage.get("logs").await.to_string().contains("configuration node_config is drifted").then_some(())
    })
    .await;

    // What runs a job is another matter: nothing runs on what nobody approved.
    place(b"");
    let program = folder.path().join("chatty.py");
    let good = std::fs::read(&program).unwrap();
    std::fs::write(&program, [good.as_slice(), b"\n# touched\n"].concat()).unwrap();
    std::fs::write(&library, "right = None\n").unwrap();
    for kind in [ArtifactKind::RuntimeBinary, ArtifactKind::RuntimeEnvironment] {
        artifact_is(&stage, kind, ArtifactState::Drifted).await;
    }
    artifact_is(&stage, ArtifactKind::Agent, ArtifactState::Unlisted).await;
    assert_takes_nothing(&stage).await;
    network_told_of_drift(&stage, ArtifactKind::RuntimeBinary).await;
    std::fs::write(&program, &good).unwrap();
    std::fs::write(&library, "right = True\n").unwrap();
    stage.active().await;
    answered(&stage, "say").await;

    // Where there is no other one, a start without it asks the network for it again.
    assert_eq!(stage.stop_node().await, Some(0));
    crate::rot::flip_stored_snapshot(&stage.home().join("testnet"));
    stage.start_node();
    stage.active().await;
    artifact_is(&stage, ArtifactKind::Configuration, ArtifactState::Ok).await;
    let history = stage.view().inventory().history(Some(&node_store::inventory::configuration())).unwrap();
    let drifts = history.iter().filter(|change| change.became == ArtifactState::Drifted).count();
    assert_eq!(drifts, 2, "{history:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_of_a_model_goes_only_after_the_jobs_that_run_on_it() {
    let folder = tempfile::tempdir().unwrap();
    let (template, settings) = picky(folder.path());
    let mut stage = Stage::set(template, &settings).await;
    stage.start_node();
    stage.active().await;
    let job = stage.submit("hold").await;
    eventually("it runs", || async { stage.said().contains("it runs attempt=1").then_some(()) }).await;
    let (first, (second, second_sha256)) = (Digest::of(b"m"), brought(folder.path(), "2", "another"));
    let patch = json!({ "models": [second], "timings": { "unlisted_model_ttl_ms": 0 } });
    stage.post("/v1/devnet/snapshots", &patch).await;
    eventually("2 is here", || async { kept(&stage, second_sha256).exists().then_some(()) }).await;
    // The old one is not listed any more, and would be kept for no time at all.
    assert!(kept(&stage, first).exists());
    assert!(stage.job(&job).await["end"].is_null());

    std::fs::write(folder.path().join("gate"), "").unwrap();
    let ended = stage.ended(&job).await;
    assert_eq!(ended["end"], "result", "{ended}");
    eventually("the file of 1 goes", || async { (!kept(&stage, first).exists()).then_some(()) }).await;
    // The file goes first, and what is known of the model last.
    eventually("1 is forgotten", || async { state(&stage, "1").is_none().then_some(()) }).await;
    eventually("2 is active", || async { (state(&stage, "2") == Some(ModelState::Active)).then_some(()) })
        .await;
    assert_eq!(stage.said().matches("it runs attempt=").count(), 1, "once");
}

const HOUR_MS: u64 = 3_600_000;

fn ago(ms: u64) -> Timestamp {
    Timestamp::from_ms(node_store::clock::read().unwrap().wall.ms() - ms)
}

/// What the store knows of a file that it holds.
fn held(stage: &Stage, sha256: Digest) -> HeldFile {
    stage.view().models().files().unwrap().into_iter().find(|file| file.sha256 == sha256).unwrap()
}

/// The file was read last so long ago, by what the store knows: time is forced, nothing else.
fn was_read(stage: &Stage, sha256: Digest, ms: u64) -> Timestamp {
    let at = ago(ms);
    let state = rusqlite::Connection::open(stage.home().join("testnet/state.db")).unwrap();
    let set =
        "UPDATE files SET verified_at = ?2, scrub_completed_at = iif(scrub_completed_at IS NULL, NULL, ?2)
               WHERE sha256 = ?1";
    assert_eq!(state.execute(set, (sha256.as_bytes(), at.ms())).unwrap(), 1);
    at
}

/// The keeper has looked twice with nothing to do: it tidies at the end of such a look.
async fn looked_twice(stage: &Stage) {
    for _ in 0..2 {
        // Begun by a crash, as far as it can tell.
        let lost = stage.home().join("testnet/models/partial").join(Digest::of(b"lost").hex());
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&lost).unwrap();
        file.write_all(b"?").unwrap();
        eventually("the keeper tidies", || async { (!lost.exists()).then_some(()) }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_scrub_yields_to_a_job_but_not_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let (template, settings) = picky(folder.path());
    // A file's round begins after half of this, and an eighth of it later where a job runs.
    let mut stage = Stage::set(template, &format!("{settings}\nscrub_ms = {}", 8 * HOUR_MS)).await;
    stage.start_node();
    stage.active().await;
    let (sha256, gate) = (Digest::of(b"m"), folder.path().join("gate"));
    let job = stage.submit("hold").await;
    eventually("it runs", || async { stage.said().contains("it runs attempt=1").then_some(()) }).await;
    let due = was_read(&stage, sha256, 4 * HOUR_MS + HOUR_MS / 2);
    looked_twice(&stage).await;
    assert_eq!(held(&stage, sha256).scrub.completed_at, None, "it waits for the job");
    assert!(stage.job(&job).await["end"].is_null());

    std::fs::write(&gate, "").unwrap();
    assert_eq!(stage.ended(&job).await["end"], "result");
    let read = |since: Timestamp| held(&stage, sha256).scrub.completed_at.filter(|at| *at > since);
    eventually("it is read when nothing runs", || async { read(due) }).await;

    std::fs::remove_file(&gate).unwrap();
    let job = stage.submit("hold").await;
    eventually("it runs", || async {
        (stage.said().matches("it runs attempt=1").count() == 2).then_some(())
    })
    .await;
    let due = was_read(&stage, sha256, 5 * HOUR_MS + HOUR_MS / 2);
    eventually("it is read beside the job", || async { read(due) }).await;
    assert!(stage.job(&job).await["end"].is_null());
    std::fs::write(&gate, "").unwrap();
    assert_eq!(stage.ended(&job).await["end"], "result");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrub_goes_on_after_sigkill_where_it_was_and_reads_what_is_archived() {
    let folder = tempfile::tempdir().unwrap();
    let (template, settings) = crate::chatty::chatty(folder.path());
    let (model, sha256) = brought(folder.path(), "1", &"x".repeat(usize::try_from(PIECE_BYTES).unwrap() + 1));
    let template = with(template, "/models", json!([model]));
    // The second of two pieces is read an eighth of this after the first.
    let mut stage = Stage::set(template, &format!("{settings}\nscrub_ms = {}", 16 * HOUR_MS)).await;
    stage.start_node();
    stage.active().await;
    was_read(&stage, sha256, 9 * HOUR_MS);
    let begun = eventually("the first piece is read", || async {
        Some(held(&stage, sha256).scrub).filter(|scrub| scrub.next_piece == 1)
    })
    .await;
    stage.kill_node();
    // Whoever began again would find this.
    flip(&kept(&stage, sha256), 4711);
    stage.seal_as_it_is(sha256);
    stage.start_node();
    stage.active().await;
    looked_twice(&stage).await;
    assert_eq!(held(&stage, sha256).scrub, begun, "the second piece waits for its time");
    let began = ago(3 * HOUR_MS);
    let database = rusqlite::Connection::open(stage.home().join("testnet/state.db")).unwrap();
    database.execute("UPDATE files SET scrub_began_at = ?1", [began.ms()]).unwrap();
    drop(database);
    let scrub = eventually("the round ends", || async {
        Some(held(&stage, sha256).scrub).filter(|scrub| scrub.completed_at.is_some())
    })
    .await;
    assert_eq!((scrub.began_at, scrub.next_piece), (Some(began), 0));
    assert!(!stage.said().contains("though its seal holds"), "it was not begun again");

    // The next round finds it, also where no snapshot lists its model any more.
    let (second, second_sha256) = brought(folder.path(), "2", "another");
    stage.post("/v1/devnet/snapshots", &json!({ "models": [second] })).await;
    eventually("1 is archived", || async {
        (state(&stage, "1") == Some(ModelState::Archived)).then_some(())
    })
    .await;
    was_read(&stage, sha256, 9 * HOUR_MS);
    eventually("it is put aside", || async { (!kept(&stage, sha256).exists()).then_some(()) }).await;
    assert!(stage.said().contains("though its seal holds"));
    let id =
        node_types::inventory::ArtifactId { kind: ArtifactKind::ModelFile, name: "m@1/m.bin".to_owned() };
    eventually("it is on record, and not here any more", || async {
        let known = stage.view().inventory().list().unwrap();
        let history = stage.view().inventory().history(Some(&id)).unwrap();
        let drifted = history.iter().any(|change| change.became == ArtifactState::Drifted);
        (drifted && known.iter().all(|artifact| artifact.id != id)).then_some(())
    })
    .await;
    let aside = stage.view().models().quarantined().unwrap();
    assert_eq!(aside.iter().map(|file| file.sha256).collect::<Vec<_>>(), [sha256]);
    assert!(kept(&stage, second_sha256).exists());
    answered(&stage, "say").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_somebody_puts_among_the_models_stays_and_is_told_of_once_until_its_owner_has_it_removed()
{
    let folder = tempfile::tempdir().unwrap();
    let (template, settings) = crate::chatty::chatty(folder.path());
    let mut stage = Stage::set(template, &settings).await;
    stage.start_node();
    stage.active().await;
    let models = stage.home().join("testnet/models");
    let named_like_ours = kept(&stage, Digest::of(b"somebody's"));
    let strangers = [models.join("my model.gguf"), named_like_ours];
    for stranger in &strangers {
        std::fs::write(stranger, "somebody's").unwrap();
    }
    looked_twice(&stage).await;
    let told = |stage: &Stage, path: &Path| {
        let (said, name) = (stage.said(), path.file_name().unwrap().to_str().unwrap().to_owned());
        said.lines().filter(|line| line.contains("WARN") && line.contains(&name)).count()
    };
    for stranger in &strangers {
        assert_eq!(std::fs::read(stranger).unwrap(), b"somebody's", "{}", stranger.display());
        assert_eq!(told(&stage, stranger), 1, "{}", stranger.display());
    }
    assert!(stage.said().contains("`resultity-node models prune` deletes them"));
    answered(&stage, "say").await;
    assert_eq!(stage.stop_node().await, Some(0));

    let (code, said) = stage.command(&["models", "prune"]);
    assert_eq!(code, Some(0), "{said}");
    for stranger in &strangers {
        assert!(said.contains(stranger.to_str().unwrap()) && !stranger.exists(), "{said}");
    }
    assert!(kept(&stage, Digest::of(b"m")).exists());
}

/// A source on loopback that serves one file, the first time with a wrong byte; gives its address.
async fn liar(content: &'static [u8]) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut sent = content.to_vec();
        sent[0] ^= 1;
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                asked.push(stream.read_u8().await.unwrap());
            }
            let head =
                format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", sent.len());
            stream.write_all(&[head.as_bytes(), &sent].concat()).await.unwrap();
            stream.shutdown().await.unwrap();
            sent = content.to_vec();
        }
    });
    url
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_came_wrong_is_quarantined_and_comes_again_at_the_next_sync_and_old_partial_ones_go() {
    let content = b"what the network approved";
    let folder = tempfile::tempdir().unwrap();
    let (template, settings) = crate::chatty::chatty(folder.path());
    let sha256 = Digest::of(content);
    // Nobody has announced its pieces: it is judged when all of it is here.
    let model = json!({
        "name": "m", "version": "1", "tasks": ["completion"], "engine": "stand-in", "memory_bytes": 0,
        "files": [{ "path": "m.bin", "bytes": content.len(), "sha256": sha256 }], "sources": [liar(content).await],
    });
    let template = with(with(template, "/models", json!([model])), "/timings/sync_ms", 1000);
    let mut stage = Stage::set(template, &settings).await;
    // Begun by an Agent that ended long ago, and lately.
    let store =
        Store::open(&Options::new(&stage.home(), Network::Testnet), &node_store::clock::read().unwrap());
    let store = store.unwrap();
    let partial = |content: &[u8], at| {
        let (bytes, sha256) = (content.len() as u64, Digest::of(content));
        let file =
            node_types::config::ModelFile { path: "x".into(), bytes, sha256, pieces_blake3: Vec::new() };
        drop(store.models().begin(&file, at).unwrap());
        sha256
    };
    // They are kept for an hour.
    let (_old, young) = (partial(b"old", ago(HOUR_MS)), partial(b"young", ago(HOUR_MS / 2)));
    drop(store);

    stage.start_node();
    let failed = eventually("the first try fails", || async {
        stage.said().lines().find(|line| line.contains("model m@1 is not installed")).map(str::to_owned)
    })
    .await;
    assert!(failed.contains("quarantine"), "{failed}");
    stage.active().await;
    assert_eq!(hash(&kept(&stage, sha256)), sha256);
    let aside = stage.view().models().quarantined().unwrap();
    assert_eq!(
        aside.iter().map(|file| file.sha256).collect::<Vec<_>>(),
        [sha256],
        "what came first is kept aside"
    );
    assert_eq!(std::fs::read(&aside[0].path).unwrap()[1..], content[1..]);
    answered(&stage, "say").await;
    eventually("the old partial file is gone, and the young one is not", || async {
        let left: Vec<_> =
            stage.view().models().partials().unwrap().into_iter().map(|it| it.sha256).collect();
        (left == [young]).then_some(())
    })
    .await;
}
