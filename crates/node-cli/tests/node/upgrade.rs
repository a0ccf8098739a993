//! The hand-over to the next release and the way back, on a node that does real inference, amid its jobs.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use node_store::inventory::Artifact;
use node_types::{
    Digest,
    inventory::{ArtifactKind, Measured},
};
use serde_json::{Value, json};

use crate::{
    copies::{archive, boots, well},
    models::{hash, set_as, tools},
    operator::{acknowledged, json_of, one_at_a_time, records, steps, submit_long},
    stage::{Stage, eventually},
};

/// This release.
const NOW: &str = env!("CARGO_PKG_VERSION");
/// For a node that gives its jobs no time when it is asked to stop.
const AT_ONCE: [&str; 2] = ["--shutdown-grace-ms", "1"];

/// The next release: the same program but for its number, where that stands in it as text; some of it is in its instructions, so
/// nothing is asked for the number that it says. Gives that number and the program.
fn next_release(program: &[u8]) -> (String, Vec<u8>) {
    let number = NOW.replace(|letter: char| letter.is_ascii_digit(), "9");
    let (mut next, mut from) = (program.to_vec(), 0);
    while let Some(at) = next[from..].windows(NOW.len()).position(|part| part == NOW.as_bytes()) {
        let (begin, end) = (from + at, from + at + NOW.len());
        next[begin..end].copy_from_slice(number.as_bytes());
        from = end;
    }
    assert!(from > 0, "the program does not name its number");
    (number, next)
}

/// How the node stands by the word of its Agent, which may be too busy to answer at once.
async fn standing(stage: &Stage) -> Value {
    eventually("the Agent says how it stands", || async {
        let told = json_of(stage, &["status"]);
        (told["source"] == "agent").then_some(told)
    })
    .await
}

/// The network's name of the node's start.
async fn boot(stage: &Stage) -> Value {
    stage.get("state").await["nodes"][0]["bootId"].clone()
}

/// Starts the node: what runs is that program, by what it measured of itself. Gives how it stands.
async fn starts_as(stage: &mut Stage, program: Digest, advice: &str) -> Value {
    stage.start_node_with(&AT_ONCE);
    stage.active().await;
    let pid = stage.node().id();
    let stage = &*stage;
    let told = standing(stage).await;
    assert_eq!(told["agent"]["pid"], json!(pid), "{told}");
    let runs = || Digest::of(&std::fs::read(format!("/proc/{pid}/exe")).unwrap());
    assert_eq!(runs(), program);
    eventually("it has measured its own program", || async {
        let artifacts = stage.view().inventory().list().unwrap();
        let own = |it: &Artifact| it.id.kind == ArtifactKind::Agent;
        let measured = Some(Measured::Present(program));
        artifacts.iter().any(|it| own(it) && it.facts.measured == measured).then_some(())
    })
    .await;
    let (_, said) = stage.command(&["--json", "drift", "check"]);
    let checked: Value = serde_json::from_str(&said).unwrap();
    let mut own = checked["artifacts"].as_array().unwrap().iter().filter(|it| it["kind"] == "agent");
    assert!(own.any(|it| it["measured"] == json!(program)), "{checked:#}");
    let checked = json_of(stage, &["update", "check"]);
    let judged = ["digest", "advice", "is_approved"].map(|field| checked[field].clone());
    assert_eq!(judged, [json!(program), json!(advice), json!(true)], "{checked}");
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_release_takes_over_amid_real_jobs_and_the_one_before_comes_back_and_nothing_is_lost() {
    let mut stage = set_as(&tools().join("models"), "", one_at_a_time).await;
    // Given a node that runs from a file of its own,
    let folder = stage.folder.path().join("bin");
    std::fs::create_dir(&folder).unwrap();
    let (program, previous) =
        (archive(&stage, "bin/resultity-node"), archive(&stage, "bin/resultity-node.previous"));
    // By a process of its own: opened for writing here, it might still be open in a child of another test's when it is started.
    assert!(Command::new("cp").arg(&stage.program).arg(&program).status().unwrap().success());
    stage.program = PathBuf::from(&program);
    // the next release, a file that is none,
    let (next, changed) = (archive(&stage, "next"), archive(&stage, "changed"));
    let bytes = std::fs::read(&program).unwrap();
    let (number, next_bytes) = next_release(&bytes);
    std::fs::write(&next, &next_bytes).unwrap();
    std::fs::write(&changed, [next_bytes.as_slice(), b"\0"].concat()).unwrap();
    let (old, new) = (Digest::of(&bytes), Digest::of(&next_bytes));
    let in_place = || [&program, &previous].map(|path| hash(Path::new(path)));
    // and a snapshot that approves both releases.
    stage.start_node_with(&AT_ONCE);
    stage.active().await;
    let node = standing(&stage).await["node"].clone();
    let agents = json!([{ "version": NOW, "digest": old }, { "version": number, "digest": new }]);
    stage.post("/v1/devnet/snapshots", &json!({ "updates": { "agents": agents, "runtimes": [] } })).await;
    let advice = eventually("the next release is known", || async {
        let advice = json_of(&stage, &["update", "check"]);
        (advice["advice"] == "newer").then_some(advice)
    })
    .await;
    assert_eq!((&advice["version"], &advice["is_approved"]), (&json!(NOW), &json!(true)), "{advice}");
    eventually("the snapshot has passed its health check", || async {
        let view = stage.view().snapshots().unwrap();
        view.current().is_some_and(|it| it.good && it.config.document().version == 2).then_some(())
    })
    .await;

    // A file that nobody approved takes no place.
    well(stage.command(&["update", "verify", &next]));
    let (code, said) = stage.command(&["update", "verify", &changed]);
    assert!(code == Some(1) && said.contains("does not approve it"), "{code:?} {said}");
    let (code, said) = stage.command(&["update", "apply", &changed, "--to", &program]);
    assert!(code == Some(1) && said.contains("is not put in place"), "{code:?} {said}");
    assert_eq!((hash(Path::new(&program)), std::fs::read_dir(&folder).unwrap().count()), (old, 1));

    // When the next release is put in place while a job is with the runtime and another one waits,
    let first = submit_long(&stage, "Once upon a time", 600).await;
    let second = submit_long(&stage, "The history of the sea", 200).await;
    eventually("one is at work and one waits", || async {
        let counts = stage.view().jobs().counts().unwrap();
        (counts.running == 1 && counts.queued == 1).then_some(())
    })
    .await;
    let (pid, old_boot) = (stage.node().id(), boot(&stage).await);
    let placed = json_of(&stage, &["update", "apply", &next, "--to", &program]);
    assert_eq!(placed["version"], number.as_str(), "{placed}");
    assert!(placed["next"].as_str().unwrap().contains(&format!("it is process {pid}")), "{placed}");
    // then what runs goes on with the job,
    let told = standing(&stage).await;
    let (agent, jobs) = (&told["agent"], &told["jobs"]);
    assert_eq!((&agent["pid"], &agent["boot"]), (&json!(pid), &old_boot), "{told}");
    assert_eq!((&jobs["running"], &jobs["at_work"][0]["job"]), (&json!(1), &json!(first)), "{told}");
    assert_eq!(stage.stop_node().await, Some(0));
    assert_eq!(stage.job(&first).await["end"], Value::Null, "it had time to end");
    assert_eq!(in_place(), [new, old]);

    // and from its next start on the new one is the same node, and answers both jobs, each once.
    assert_eq!(starts_as(&mut stage, new, "current").await["node"], node);
    let new_boot = boot(&stage).await;
    assert_ne!(new_boot, old_boot);
    for (job, attempts) in [(&first, json!([1, 2])), (&second, json!([1]))] {
        let ended = stage.ended(job).await;
        let results = json!(boots(&ended, "result"));
        assert_eq!((&ended["end"], results), (&json!("result"), json!([new_boot])), "{ended}");
        acknowledged(&stage, job).await;
        let told = json_of(&stage, &["jobs", "explain", job]);
        let events = told["events"].as_array().unwrap().iter();
        let leased: Vec<&Value> =
            events.filter(|it| it["step"] == "leased").map(|it| &it["attempt"]).collect();
        assert_eq!(json!(leased), attempts, "{told}");
        let finished = steps(&told).into_iter().filter(|step| *step == "finished").count();
        assert_eq!(finished, 1, "{told}");
    }

    // When the one before is put back, the node that runs sees that and goes on,
    let pid = stage.node().id();
    let placed = json_of(&stage, &["update", "undo", "--to", &program]);
    assert_eq!(placed["version"], Value::Null, "{placed}");
    assert_eq!(in_place(), [old, new]);
    let waits = format!("release {NOW} of the Agent stands in ");
    eventually("it says what stands in its place", || async {
        records(&stage, &["--grep", "it runs with the next start"])
            .iter()
            .any(|record| record["message"].as_str().unwrap().starts_with(&waits))
            .then_some(())
    })
    .await;
    assert_eq!(standing(&stage).await["agent"]["pid"], json!(pid));
    assert_eq!(stage.stop_node().await, Some(0));
    // and from its next start on the old one answers.
    assert_eq!(starts_as(&mut stage, old, "newer").await["node"], node);
    let last_boot = boot(&stage).await;
    let third = submit_long(&stage, "Water boils at", 40).await;
    assert_eq!(stage.ended(&third).await["end"], "result");

    // Nothing was lost, and nothing was answered twice.
    for (job, boot) in [(&first, &new_boot), (&second, &new_boot), (&third, &last_boot)] {
        let ended = stage.job(job).await;
        assert_eq!(json!(boots(&ended, "result")), json!([boot]), "{ended}");
    }
    eventually("nothing is left", || async {
        (stage.view().jobs().tally().unwrap().jobs == 0).then_some(())
    })
    .await;
    assert_eq!(stage.get("state").await["refused"], json!({}), "a number or a start was used twice");
    assert!(stage.view().incidents().unwrap().is_empty());
}
