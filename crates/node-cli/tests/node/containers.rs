//! The runtime in a container, end to end: the real model and llama.cpp in an image that was made from nothing, on the real
//! container engine; the Agent is killed, and a snapshot brings another image.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use node_types::{
    Digest,
    inventory::{ArtifactKind, ArtifactState},
};
use serde_json::{Value, json};

use crate::{
    models::{assert_knows_france, gemma, listed, tools},
    stage::{Stage, eventually, external, with},
};

fn docker(arguments: &[&str]) -> String {
    let output = Command::new("docker").args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The image of llama.cpp that scripts/image makes.
fn image() -> Value {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    let made = Command::new(root.join("scripts/image")).arg("runtime").output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    serde_json::from_slice(&made.stdout).unwrap()
}

fn runtime(image: &Value) -> Value {
    json!({
        "kind": "container", "engine": "llama.cpp", "image": image["image"], "digest": image["digest"],
        "config_digest": image["config_digest"], "platform": image["platform"], "args": image["args"],
    })
}

/// The same image with another author: another configuration, hence another manifest.
fn another(image: &Value, folder: &Path) -> Value {
    let hex = |digest: &Value| digest.as_str().unwrap().strip_prefix("sha256:").unwrap().to_owned();
    let archive = folder.join(hex(&image["digest"])).with_extension("tar");
    let unpacked = tempfile::tempdir().unwrap();
    let tar = |arguments: &[&str]| assert!(Command::new("tar").args(arguments).status().unwrap().success());
    let at = unpacked.path().to_str().unwrap();
    tar(&["-xf", archive.to_str().unwrap(), "-C", at]);
    let blobs = unpacked.path().join("blobs/sha256");
    let read =
        |name: &str| -> Value { serde_json::from_slice(&std::fs::read(blobs.join(name)).unwrap()).unwrap() };
    let keep = |document: &Value| {
        let bytes = serde_json::to_vec(document).unwrap();
        let digest = Digest::of(&bytes);
        std::fs::write(blobs.join(digest.hex()), &bytes).unwrap();
        (digest, bytes.len())
    };
    let mut config = read(&hex(&image["config_digest"]));
    config["author"] = json!("another");
    let (config_digest, config_bytes) = keep(&config);
    let mut manifest = read(&hex(&image["digest"]));
    manifest["config"]["digest"] = json!(config_digest);
    manifest["config"]["size"] = json!(config_bytes);
    let (digest, bytes) = keep(&manifest);
    let index = unpacked.path().join("index.json");
    let mut listed: Value = serde_json::from_slice(&std::fs::read(&index).unwrap()).unwrap();
    listed["manifests"][0]["digest"] = json!(digest);
    listed["manifests"][0]["size"] = json!(bytes);
    std::fs::write(&index, listed.to_string()).unwrap();
    let made = folder.join(digest.hex()).with_extension("tar");
    tar(&["-cf", made.to_str().unwrap(), "-C", at, "oci-layout", "index.json", "blobs"]);
    let mut another = image.clone();
    another["digest"] = json!(digest);
    another["config_digest"] = json!(config_digest);
    another
}

/// Removes what the test made, whatever becomes of it: images that were not there before, and the node's containers.
struct Images {
    ids: Vec<String>,
    label: Option<String>,
}

impl Images {
    fn new(images: &[&Value]) -> Self {
        let ids = images.iter().map(|image| image["config_digest"].as_str().unwrap().to_owned());
        let there = docker(&["images", "--all", "--no-trunc", "--quiet"]);
        Self { ids: ids.filter(|id| !there.contains(id.as_str())).collect(), label: None }
    }
}

impl Drop for Images {
    fn drop(&mut self) {
        if let Some(label) = self.label.as_deref().filter(|_| std::thread::panicking()) {
            for id in containers(label) {
                let _ = Command::new("docker").args(["rm", "--force", &id]).output();
            }
            let networks = docker(&["network", "ls", "--quiet", "--filter", label]);
            for id in networks.lines() {
                let _ = Command::new("docker").args(["network", "rm", id]).output();
            }
        }
        for id in &self.ids {
            let _ = Command::new("docker").args(["rmi", "--force", id]).output();
        }
    }
}

/// How the container's image stands in what `drift check` says, and how that is known.
fn image_of(checked: &Value) -> (&str, &str) {
    let mut artifacts = checked["artifacts"].as_array().unwrap().iter();
    let image = artifacts.find(|it| it["kind"] == "runtime_image").unwrap();
    (image["state"].as_str().unwrap(), image["known"].as_str().unwrap())
}

/// The containers of a node.
fn containers(label: &str) -> Vec<String> {
    let found = docker(&["ps", "--all", "--no-trunc", "--quiet", "--filter", label]);
    found.lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_real_model_runs_in_a_container_that_outlives_its_agent_and_is_exchanged_by_a_snapshot() {
    if !Path::new("/var/run/docker.sock").exists() {
        eprintln!("no container engine on this machine: this test says nothing here");
        return;
    }
    let first = image();
    let images = tempfile::tempdir().unwrap();
    let name = format!("{}.tar", first["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap());
    std::os::unix::fs::symlink(tools().join("images").join(&name), images.path().join(&name)).unwrap();
    let second = another(&first, images.path());
    let mut made = Images::new(&[&first, &second]);

    let (path, sha256): (PathBuf, Digest) = gemma();
    let template = with(external(), "/models", json!([listed("1", &path, sha256)]));
    let template = with(template, "/runtime", runtime(&first));
    let template = with(template, "/limits/execution_timeout_ms", 600_000);
    let settings = format!("[runtime]\nimages = {}", json!(images.path()));
    let mut stage = Stage::set_with(template, &settings, Some(tools().join("models"))).await;
    stage.start_node();
    stage.active().await;
    let node = stage.get("state").await["nodes"][0]["id"].as_str().unwrap().to_owned();
    let label = format!("label=resultity.node={node}");
    made.label = Some(label.clone());
    assert_knows_france(&stage).await;
    let before = containers(&label);
    assert_eq!(before.len(), 1);
    let artifact = |digest: &Value| {
        let artifacts = stage.view().inventory().list().unwrap();
        let image = artifacts.into_iter().find(|it| it.id.kind == ArtifactKind::RuntimeImage).unwrap();
        (image.state == ArtifactState::Ok
            && image.facts.recorded.map(|it| json!(it)).as_ref() == Some(digest))
        .then_some(())
    };
    assert!(artifact(&first["digest"]).is_some());
    let (ended, said) = stage.command(&["drift", "check", "--json"]);
    assert_eq!(ended, Some(0), "{said}");
    assert_eq!(image_of(&serde_json::from_str(&said).unwrap()), ("ok", "asked"), "{said}");

    // The Agent dies in the middle of a job; its container goes on, and the next Agent finds it again.
    // It does not stop by itself, and takes long enough to be seen at work.
    let long = json!({ "mode": "completion", "request": {
        "model": "m", "prompt": "Write a long story about the sea.", "max_tokens": 400, "ignore_eos": true,
        "stop": ["<never>"],
    } });
    let job = stage.post("/v1/devnet/jobs", &long).await["id"].as_str().unwrap().to_owned();
    eventually("it runs", || async { (stage.view().jobs().counts().unwrap().running > 0).then_some(()) })
        .await;
    stage.kill_node();
    assert_eq!(containers(&label), before);
    stage.start_node();
    let ended = stage.ended(&job).await;
    assert_eq!((&ended["end"], &ended["endsReceived"]), (&json!("result"), &json!(1)));
    stage.active().await;
    assert_eq!(containers(&label), before, "no second one was started");

    // Another image: the old container goes, one takes its place, and no job is lost or answered twice.
    let jobs = [stage.submit("One, two,").await, stage.submit("Three, four,").await];
    stage.post("/v1/devnet/snapshots", &json!({ "runtime": runtime(&second) })).await;
    eventually("the other image runs", || async {
        let artifacts = stage.view().inventory().list().unwrap();
        let image = artifacts.into_iter().find(|it| it.id.kind == ArtifactKind::RuntimeImage)?;
        (image.facts.recorded.map(|it| json!(it)) == Some(second["digest"].clone())).then_some(())
    })
    .await;
    stage.active().await;
    let after = containers(&label);
    assert!(after.len() == 1 && after != before, "{after:?}");
    for job in jobs {
        let ended = stage.ended(&job).await;
        assert_eq!((&ended["end"], &ended["endsReceived"]), (&json!("result"), &json!(1)), "{ended}");
    }
    assert!(stage.said().contains("another image than before"), "the rotation's trigger was pulled");

    assert_eq!(stage.stop_node().await, Some(0));
    assert_eq!(containers(&label), Vec::<String>::new());
    assert_eq!(docker(&["network", "ls", "--quiet", "--filter", &label]), "");

    // Somebody takes the image away.
    docker(&["rmi", "--force", second["config_digest"].as_str().unwrap()]);
    let (ended, said) = stage.command(&["drift", "check", "--json"]);
    assert_eq!(ended, Some(3), "{said}");
    let checked: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&checked["drifted"], image_of(&checked)), (&json!(1), ("missing", "asked")), "{said}");
}
