//! The tour: what can go wrong with a node, and what becomes of it here.

use std::{path::Path, thread::sleep, time::Duration};

use node_types::{
    config::PIECE_BYTES,
    inventory::{ArtifactKind, ArtifactState},
    log::{Kind, Level},
};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    folder,
    network::{await_it, stuck},
    program::{children_of, runs},
    stage::{ENGINE, MODEL, Stage},
    story::Story,
};
use crate::failure::Failure;

/// The node as it was born.
#[derive(Debug)]
pub(crate) struct Born {
    address: String,
    pid: u32,
}

/// Key, ID, registration, first snapshot, runtime, test inference.
///
/// # Errors
/// [`Failure`].
pub(crate) fn birth(story: &mut Story, stage: &mut Stage) -> Result<Born, Failure> {
    story.step(
        "A node is born",
        "it takes jobs only after registration, snapshot, runtime and a test inference",
    )?;
    let begun = Instant::now();
    let made = stage.ask(&["init"])?;
    let text = |field: &str| made[field].as_str().unwrap_or_default().to_owned();
    story.saw("its key", format!("{} ({})", text("address"), text("protection")))?;
    story.saw("its ID on testnet", text("node"))?;
    let pid = stage.start_node()?;
    stage.await_active()?;
    let seconds = begun.elapsed().as_secs_f64();
    let nodes = stage.devnet.get("/v1/devnet/state")?["nodes"].clone();
    let known = nodes[0]["address"].as_str().unwrap_or_default().to_owned();
    story.check("the network knows it by its address", known == text("address"), known.clone())?;
    let view = stage.view()?;
    let snapshots = view.snapshots()?;
    let current = snapshots.current().map(|current| (current.config.document().version, current.good));
    story.check(
        "snapshot 1 is in force and passed its check",
        current == Some((1, true)),
        format!("{current:?}"),
    )?;
    let logs = view
        .logs()
        .query(&node_store::logs::Query { kind: Some(Kind::Model), ..node_store::logs::Query::default() })?;
    let tested = logs.iter().find(|entry| entry.record.fields.contains_key("completion_tokens"));
    let seen = tested.map(|entry| {
        let field = |name: &str| entry.record.fields.get(name).cloned().unwrap_or_default();
        format!("{} tokens in {} ms", field("completion_tokens"), field("duration_ms"))
    });
    story.check("the test inference passed", seen.is_some(), seen.unwrap_or_default())?;
    story.saw("from nothing to its first job", format!("{seconds:.1} s"))?;
    Ok(Born { address: text("address"), pid })
}

/// Real prompts through the OpenAI API.
///
/// # Errors
/// [`Failure`].
pub(crate) fn prompts(story: &mut Story, stage: &Stage, born: &Born) -> Result<(), Failure> {
    story.step(
        "Real prompts through the OpenAI API",
        "answers come from the node; every message is signed by its key",
    )?;
    for question in ["What is the capital of France?", "Which planet is the largest?"] {
        let begun = Instant::now();
        let answer = stage.devnet.post("/v1/chat/completions", &chat(question, 24))?;
        let text = answer["choices"][0]["message"]["content"].as_str().unwrap_or_default().trim().to_owned();
        let tokens = answer["usage"]["completion_tokens"].as_u64().unwrap_or(0);
        story.check(question, !text.is_empty(), format!("{text:?}"))?;
        story.saw("", format!("{tokens} tokens in {:.2} s", begun.elapsed().as_secs_f64()))?;
    }
    let mut streamed = chat("Name a colour.", 16);
    streamed["stream"] = json!(true);
    let events = stage.devnet.stream("/v1/chat/completions", &streamed)?;
    let text: String =
        events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect();
    story.check(
        "Name a colour. (streamed)",
        !text.trim().is_empty(),
        format!("{:?}, {} events", text.trim(), events.len()),
    )?;

    let jobs = stage.devnet.get("/v1/devnet/jobs")?;
    let ended = jobs["jobs"].as_array().cloned().unwrap_or_default();
    let by_result = ended.iter().filter(|job| job["end"] == "result").count();
    story.check("each ended at the network with a result", by_result == 3, format!("{by_result} of 3"))?;
    let messages = stage.devnet.get("/v1/devnet/messages")?;
    let refused = sum(&messages["refused"]);
    let received = sum(&messages["received"]);
    story.check(
        "every message carried a signature that holds",
        refused == 0 && received > 0,
        format!("{received} messages by {}, {refused} refused", born.address),
    )
}

/// SIGKILL in the middle of a job.
///
/// # Errors
/// [`Failure`].
pub(crate) fn killed(story: &mut Story, stage: &mut Stage, born: &mut Born) -> Result<(), Failure> {
    story.step("SIGKILL in the middle of a job", "the same job completes after the restart, and once")?;
    let job = stage.devnet.submit(&long_job("Write a long story about the sea.", 400))?;
    let view = stage.view()?;
    await_it("the job runs", || Ok((view.jobs().counts()?.running > 0).then_some(())))?;
    let runtimes = children_of(born.pid);
    sleep(Duration::from_millis(400));
    stage.kill_node();
    let died = Instant::now();
    story.saw("killed, with its job half done", format!("pid {}", born.pid))?;
    let gone = await_it("the runtime dies with its Agent", || {
        Ok((!runtimes.iter().any(|pid| runs(*pid))).then_some(()))
    });
    story.check(
        "the runtime died with its Agent",
        gone.is_ok() && !runtimes.is_empty(),
        format!("pid {runtimes:?}"),
    )?;
    let held = view.jobs().tally()?.jobs;
    story.check("the job is on the disk", held == 1, format!("{held} held"))?;
    born.pid = stage.start_node()?;
    let ended = await_end(stage, &job)?;
    let seconds = died.elapsed().as_secs_f64();
    story.check(
        "it has a result",
        ended["end"] == "result",
        format!("{} after {seconds:.1} s", ended["end"]),
    )?;
    let results = received(&ended, "result");
    story.check("the result came once", results == 1, format!("{results} time(s)"))?;
    let attempts = attempts(stage, &job)?;
    story.check("both starts are in its trace", attempts == 2, format!("{attempts} starts"))
}

/// The network goes away.
///
/// # Errors
/// [`Failure`].
pub(crate) fn offline(story: &mut Story, stage: &mut Stage) -> Result<(), Failure> {
    story.step("The network goes away", "accepted jobs still run; results arrive once when it returns")?;
    stage.await_active()?;
    let view = stage.view()?;
    let jobs = (0..4)
        .map(|number| stage.devnet.submit(&long_job(&format!("Tell me about the number {number}."), 150)))
        .collect::<Result<Vec<_>, _>>()?;
    await_it("the jobs are taken", || {
        let counts = view.jobs().counts()?;
        let ended = jobs.iter().map(|job| stage.devnet.job(job)).collect::<Result<Vec<_>, _>>()?;
        let ended = ended.iter().filter(|job| !job["end"].is_null()).count() as u64;
        Ok((counts.queued + counts.running + counts.unsent + ended >= 4).then_some(()))
    })?;
    stage.stop_network()?;
    let away = Instant::now();
    let unsent = await_it("the jobs run without the network", || {
        let counts = view.jobs().counts()?;
        Ok((counts.queued + counts.running == 0).then_some(counts.unsent))
    })?;
    story.check(
        "run to their end with nobody there",
        unsent > 0,
        format!("{unsent} results wait on the disk after {:.1} s", away.elapsed().as_secs_f64()),
    )?;
    stage.start_network()?;
    let mut once = 0;
    for job in &jobs {
        let ended = await_end(stage, job)?;
        once += u32::from(ended["end"] == "result" && received(&ended, "result") == 1);
    }
    let seconds = away.elapsed().as_secs_f64();
    story.check(
        "it returned: each result arrived, once",
        once == 4,
        format!("{once} of 4 after {seconds:.1} s"),
    )?;
    let left = await_it("acknowledged", || {
        let jobs = view.jobs().tally()?.jobs;
        Ok((jobs == 0).then_some(jobs))
    })?;
    story.check("acknowledged ones are gone from the disk", left == 0, format!("{left} held"))
}

/// A byte of the model changes on the disk.
///
/// # Errors
/// [`Failure`].
pub(crate) fn drifted(story: &mut Story, stage: &mut Stage) -> Result<(), Failure> {
    story.step(
        "A byte of the model changes on the disk",
        "found at once; nothing new runs on it; one piece is fetched again; jobs that waited are answered",
    )?;
    stage.await_active()?;
    let view = stage.view()?;
    let held = view.models().files()?.into_iter().next();
    let held = held.ok_or_else(|| stuck("the node keeps no file of a model"))?;
    let path = view.models().path(held.sha256);
    let piece = held.bytes.div_ceil(PIECE_BYTES) - 1;
    let piece_bytes = held.bytes - piece * PIECE_BYTES;
    let (changes, before) = (drifts(stage)?, served(stage)?);
    folder::flip(&path, piece * PIECE_BYTES + 4711)?;
    let begun = Instant::now();
    story.saw(
        "one bit of it, its length and times as before",
        format!("piece {piece} of {}", path.display()),
    )?;
    let jobs = (0..3)
        .map(|number| stage.devnet.submit(&long_job(&format!("Describe a tree in {number} words."), 16)))
        .collect::<Result<Vec<_>, _>>()?;
    let found = await_it("the drift is found", || Ok((drifts(stage)? > changes).then_some(())));
    story.check(
        "found by its seal",
        found.is_ok(),
        format!("after {:.1} s", begun.elapsed().as_secs_f64()),
    )?;
    let mended = await_it("it is repaired", || {
        let artifacts = view.inventory().list()?;
        Ok(artifacts.iter().all(|it| it.state != ArtifactState::Drifted).then_some(()))
    });
    let seconds = begun.elapsed().as_secs_f64();
    story.check("repaired without anybody", mended.is_ok(), format!("after {seconds:.1} s"))?;
    let fetched = served(stage)? - before;
    story.check(
        "that piece was fetched, and no other",
        fetched == piece_bytes,
        format!("{fetched} of {} bytes", held.bytes),
    )?;
    let mut answered = 0;
    for job in &jobs {
        answered += u32::from(await_end(stage, job)?["end"] == "result");
    }
    story.check("jobs that waited are answered", answered == 3, format!("{answered} of 3"))?;
    let (code, _, said) = stage.command(&["drift", "check", "--deep"])?;
    story.check("drift check --deep reads all of it", code == 0, format!("exit code {code} {said}"))
}

/// How often an artifact was found to have drifted.
fn drifts(stage: &Stage) -> Result<usize, Failure> {
    let history = stage.view()?.inventory().history(None)?;
    Ok(history.iter().filter(|change| change.became == ArtifactState::Drifted).count())
}

/// Bytes of models that the network has served.
fn served(stage: &Stage) -> Result<u64, Failure> {
    let state = stage.devnet.get("/v1/devnet/state")?;
    let files = state["files"].as_array().cloned().unwrap_or_default();
    Ok(files.iter().filter_map(|file| file["bytes"].as_u64()).sum())
}

/// A new snapshot, a forged one, an older one.
///
/// # Errors
/// [`Failure`].
pub(crate) fn snapshots(story: &mut Story, stage: &Stage) -> Result<(), Failure> {
    story.step(
        "A new snapshot, a forged one and an older one",
        "older traces go, unacknowledged jobs stay; what does not verify changes nothing",
    )?;
    let view = stage.view()?;
    stage.devnet.fault(&json!({ "fault": "lose_acks", "ms": 60_000 }))?;
    let job = stage.devnet.submit(&long_job("What is two plus two?", 8))?;
    await_it("the job is answered", || Ok((view.jobs().counts()?.unsent > 0).then_some(())))?;
    let traces = view.jobs().traces(0)?.len();
    story.saw("before", format!("{traces} traces of snapshot 1, 1 answer without acknowledgement"))?;
    let published =
        stage.devnet.post("/v1/devnet/snapshots", &json!({ "limits": { "max_tokens": 2048 } }))?;
    let version = published["snapshot"]["version"].as_u64().unwrap_or(0);
    let applied = await_it("the new snapshot is in force", || in_force(stage, version))?;
    story.check(
        "the new one is in force",
        applied == version && version > 1,
        format!("snapshot {applied}"),
    )?;
    let unsent = view.jobs().counts()?.unsent;
    story.check("the unacknowledged answer stays", unsent == 1, format!("{unsent} on the disk"))?;
    stage.devnet.no_fault()?;
    let left = await_it("older traces go", || {
        let config = view.snapshots()?.current().map(|current| current.config.digest());
        let older = view.jobs().traces(0)?.iter().filter(|(_, trace)| Some(trace.config) != config).count();
        // The trace of the job that was not acknowledged is of the earlier one too: it comes later, and goes.
        Ok((older == 0).then_some(older))
    })?;
    let uploaded = stage.devnet.get("/v1/devnet/traces")?["traces"].as_array().map_or(0, Vec::len);
    story.check(
        "traces of the earlier one are gone",
        left == 0 && traces > 0,
        format!("{traces} were there, {uploaded} had reached the network"),
    )?;
    await_it("the answer is acknowledged", || Ok((view.jobs().tally()?.jobs == 0).then_some(())))?;
    let ended = stage.devnet.job(&job)?;
    let (sent, end) = (received(&ended, "result"), &ended["end"]);
    story.check(
        "sent again, acknowledged, kept once",
        sent > 1 && end == "result",
        format!("sent {sent} times"),
    )?;

    for (kind, word) in [("wrong_key", "forged"), ("lower_version", "older")] {
        let before = refusals(stage)?;
        stage.devnet.fault(&json!({ "fault": "bad_snapshot", "kind": kind }))?;
        let (count, why) = await_it("the bad snapshot is refused", || {
            let refused = refusals(stage)?;
            Ok((refused.0 > before.0).then_some(refused))
        })?;
        let still = in_force(stage, version)?;
        story.check(
            &format!("the {word} one is refused"),
            still == Some(version) && count > before.0,
            why,
        )?;
        stage.devnet.no_fault()?;
    }
    Ok(())
}

/// A job's time ends.
///
/// # Errors
/// [`Failure`].
pub(crate) fn expiry(story: &mut Story, stage: &Stage) -> Result<(), Failure> {
    story.step("A job's time ends before its turn", "it is not run, and the network is told")?;
    let view = stage.view()?;
    let busy = (0..2)
        .map(|_| stage.devnet.submit(&long_job("Count as far as you can.", 900)))
        .collect::<Result<Vec<_>, _>>()?;
    await_it("all places are taken", || Ok((view.jobs().counts()?.running == 2).then_some(())))?;
    let mut late = long_job("You will never read this.", 8);
    late["ttl_ms"] = json!(3000);
    let late = stage.devnet.submit(&late)?;
    let ended = await_end(stage, &late)?;
    story.check("it ended as expired", ended["end"] == "expired", ended["end"].to_string())?;
    let told = await_it("the node says so", || {
        Ok(Some(received(&stage.devnet.job(&late)?, "expired")).filter(|told| *told > 0))
    })?;
    story.check("the node reported it", told > 0, format!("{told} time(s)"))?;
    let starts = attempts(stage, &late)?;
    story.check("it was never started", starts == 0, format!("{starts} starts"))?;
    for job in busy {
        stage.devnet.post(&format!("/v1/devnet/jobs/{job}/cancel"), &json!({}))?;
    }
    await_it("the node is idle", || Ok((view.jobs().tally()?.jobs == 0).then_some(())))
}

/// A testnet volume opened as mainnet.
///
/// # Errors
/// [`Failure`].
pub(crate) fn other_network(story: &mut Story, stage: &Stage) -> Result<(), Failure> {
    story.step("A testnet volume opened as mainnet", "refused, with both named")?;
    let copy = stage.folder.join("copied");
    folder::make(&copy)?;
    folder::copy(&stage.folder.join("home/testnet"), &copy.join("mainnet"))?;
    let home = copy.to_string_lossy().into_owned();
    let url = stage.devnet.url.clone();
    let output = std::process::Command::new(&stage.binary)
        .args(["--home", &home, "--network", "mainnet", "run", "--network-url", &url])
        .output()
        .map_err(Failure::Start)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let said = said.lines().find(|line| line.contains("error")).unwrap_or_default().to_owned();
    let named = said.contains("testnet") && said.contains("mainnet");
    story.check("refused", !output.status.success() && named, said)
}

/// The same model in a container, where an engine answers.
///
/// # Errors
/// [`Failure`].
pub(crate) fn contained(story: &mut Story, stage: &mut Stage) -> Result<(), Failure> {
    story.step(
        "The runtime in a container",
        "made of the image that the snapshot names by digest, with the models and nothing else",
    )?;
    let Some(image) = stage.image()? else {
        let why = format!("no container engine answers at {ENGINE}, or scripts/image made no image");
        return story.saw("this step is left out", why);
    };
    let wanted = image["digest"].as_str().unwrap_or_default().to_owned();
    let view = stage.view()?;
    let runtime = json!({
        "kind": "container", "command": null, "environment": null, "image": image["image"], "digest": image["digest"],
        "config_digest": image["config_digest"], "platform": image["platform"], "args": image["args"],
    });
    stage.devnet.post("/v1/devnet/snapshots", &json!({ "runtime": runtime }))?;
    let begun = Instant::now();
    let found = await_it("the container runs", || {
        let artifacts = view.inventory().list()?;
        let image = artifacts.into_iter().find(|it| it.id.kind == ArtifactKind::RuntimeImage);
        Ok(image.and_then(|it| it.facts.recorded))
    })?;
    let same = found.to_string() == wanted;
    story.check(
        "its image is the approved one",
        same,
        format!("{found} after {:.1} s", begun.elapsed().as_secs_f64()),
    )?;
    stage.await_active()?;
    let answer = stage.devnet.post("/v1/chat/completions", &chat("What is the capital of France?", 24))?;
    let text = answer["choices"][0]["message"]["content"].as_str().unwrap_or_default().trim().to_owned();
    story.check("the model answers from it", text.contains("Paris"), format!("{text:?}"))?;
    let (code, _, said) = stage.command(&["drift", "check"])?;
    story.check("drift check", code == 0, format!("exit code {code} {said}"))
}

/// Logs leave the disk.
///
/// # Errors
/// [`Failure`].
pub(crate) fn logs(story: &mut Story, stage: &mut Stage) -> Result<(), Failure> {
    story.step("Logs leave the disk", "flushed, acknowledged, deleted; and the node ends in good order")?;
    let view = stage.view()?;
    let ended = stage.stop_node();
    story.check("SIGTERM: it ended in good order", ended, "exit code 0")?;
    let batches = view.logs().batches(100)?.len();
    let records = view.logs().query(&node_store::logs::Query::default())?.len();
    let known = stage.devnet.get("/v1/devnet/logs")?;
    let known = known["batches"].as_array().cloned().unwrap_or_default();
    let sent: usize = known.iter().filter_map(|batch| batch["records"].as_array()).map(Vec::len).sum();
    story.check("the network has them", sent > 20, format!("{sent} records in {} batches", known.len()))?;
    story.check(
        "acknowledged ones are gone",
        batches <= 1,
        format!("{records} records, {batches} batches are left"),
    )?;
    let lost: u64 = view.logs().losses()?.values().sum();
    story.check("none was lost", lost == 0, format!("{lost} lost"))?;
    let folder = stage.folder.join("home/testnet");
    for file in ["state.db", "jobs.db", "logs.db"] {
        story.saw(file, format!("{} KiB", bytes(&folder.join(file)) / 1024))?;
    }
    let warnings = known.iter().filter_map(|batch| batch["records"].as_array()).flatten();
    let errors = warnings.filter(|record| record["level"] == Level::Error.name()).count();
    story.saw("records of level error", errors)
}

fn chat(question: &str, tokens: u32) -> Value {
    json!({
        "model": MODEL, "messages": [{ "role": "user", "content": question }], "max_tokens": tokens,
        "temperature": 0, "stop": ["\n"],
    })
}

/// A completion that does not stop by itself.
fn long_job(prompt: &str, tokens: u32) -> Value {
    json!({
        "mode": "completion",
        "request": {
            "model": MODEL, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": true,
            "stop": ["<never>"],
        },
    })
}

fn sum(counts: &Value) -> u64 {
    counts.as_object().map_or(0, |counts| counts.values().filter_map(Value::as_u64).sum())
}

fn received(job: &Value, kind: &str) -> usize {
    let messages = job["messages"].as_array();
    messages.map_or(0, |messages| messages.iter().filter(|message| message["kind"] == kind).count())
}

fn await_end(stage: &Stage, job: &str) -> Result<Value, Failure> {
    await_it("the job ends", || {
        let known = stage.devnet.job(job)?;
        Ok((!known["end"].is_null()).then_some(known))
    })
}

/// How often the node started a job, by its own trace.
fn attempts(stage: &Stage, job: &str) -> Result<usize, Failure> {
    let told = stage.ask(&["jobs", "explain", job])?;
    let events = told["events"].as_array().filter(|events| !events.is_empty());
    let events = events.cloned().ok_or_else(|| stuck("the node has no trace of the job"))?;
    Ok(events.iter().filter(|event| event["step"] == "leased").count())
}

fn in_force(stage: &Stage, version: u64) -> Result<Option<u64>, Failure> {
    let snapshots = stage.view()?.snapshots()?;
    let current = snapshots.current().filter(|current| current.good);
    Ok(current.map(|current| current.config.document().version).filter(|found| *found == version))
}

/// How many snapshots the node's log says were refused, and why the last one was.
fn refusals(stage: &Stage) -> Result<(usize, String), Failure> {
    let reports = stage.devnet.get("/v1/devnet/reports")?;
    let reports = reports["reports"].as_array().cloned().unwrap_or_default();
    let refused: Vec<_> = reports.iter().filter(|it| it["report"]["outcome"] == "refused").collect();
    let why = refused.first().and_then(|it| it["report"]["reason"].as_str()).unwrap_or_default();
    Ok((refused.len(), why.to_owned()))
}

fn bytes(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |found| found.len())
}
