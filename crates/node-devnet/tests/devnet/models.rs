//! The devnet serves the files of models, describes them in its snapshots, and misbehaves with them on command.
#![expect(clippy::disallowed_methods, reason = "the files are no part of the product")]

use std::{fs, time::Duration};

use node_devnet::{Devnet, DevnetError, Settings};
use node_types::{
    Digest,
    config::{Model, PieceHash},
    verify::Floor,
};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    common::{Answer, World, http, now, pause, settings},
    network::snapshot,
};

/// What `m` and `e` of the common template are made of.
const WEIGHTS: &[u8] = b"weights";

/// Settings of a devnet with the file of `m` and `e`.
fn with_models(folder: &tempfile::TempDir) -> Settings {
    let models = folder.path().join("models");
    fs::create_dir_all(&models).unwrap();
    fs::write(models.join(Digest::of(WEIGHTS).hex()), WEIGHTS).unwrap();
    Settings { models: Some(models), ..settings(&folder.path().join("net")) }
}

async fn world() -> World {
    let folder = tempfile::tempdir().unwrap();
    let devnet = Devnet::start(with_models(&folder)).await.unwrap();
    World { devnet, folder }
}

async fn models(world: &World) -> Vec<Model> {
    snapshot(world, Floor::NONE).await.unwrap().document().models.clone()
}

/// Asks for the file of `m`.
async fn ask(world: &World, headers: &[(&str, &str)]) -> reqwest::Result<Answer> {
    let mut request = http().get(format!("{}/models/m@1.0.0/m.gguf", world.devnet.url()));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.send().await?;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Ok(Answer { status, headers, body: response.bytes().await?.to_vec() })
}

async fn fault(world: &World, fault: Value) {
    assert_eq!(world.post("/v1/devnet/faults", &fault).await.status, 200, "{fault}");
}

#[tokio::test]
async fn a_file_is_served_whole_or_in_part_and_counted() {
    let world = world().await;
    let whole = ask(&world, &[]).await.unwrap();
    assert_eq!((whole.status, whole.body.as_slice()), (200, WEIGHTS));
    let tag = format!("\"{}\"", Digest::of(WEIGHTS).hex());
    assert_eq!((whole.header("etag"), whole.header("content-length")), (tag.as_str(), "7"));
    assert_eq!(whole.header("accept-ranges"), "bytes");

    let part = ask(&world, &[("range", "bytes=2-4"), ("if-range", &tag)]).await.unwrap();
    assert_eq!((part.status, part.body.as_slice()), (206, &b"igh"[..]));
    assert_eq!((part.header("content-range"), part.header("content-length")), ("bytes 2-4/7", "3"));
    let other = ask(&world, &[("range", "bytes=2-4"), ("if-range", "\"another\"")]).await.unwrap();
    assert_eq!((other.status, other.body.as_slice()), (200, WEIGHTS));
    let beyond = ask(&world, &[("range", "bytes=7-")]).await.unwrap();
    assert_eq!((beyond.status, beyond.header("content-range")), (416, "bytes */7"));

    let head = http().head(format!("{}/models/m@1.0.0/m.gguf", world.devnet.url())).send().await.unwrap();
    assert_eq!((head.status().as_u16(), head.headers()["content-length"].to_str().unwrap()), (200, "7"));
    for path in ["m@1.0.0/other.gguf", "m@2.0.0/m.gguf", "m@1.0.0/..%2Fm.gguf", "m/m.gguf"] {
        assert_eq!(world.get(&format!("/models/{path}")).await.status, 404, "{path}");
    }

    let files = world.get("/v1/devnet/state").await.json()["files"].clone();
    assert_eq!(files, json!([{ "sha256": Digest::of(WEIGHTS), "requests": 5, "bytes": 7 + 3 + 7 }]));
}

#[tokio::test]
async fn what_the_template_leaves_out_is_filled_in_where_the_files_are_here() {
    // Given a template with a model whose file is here, one whose file is not, and one that says everything itself,
    let folder = tempfile::tempdir().unwrap();
    let mut settings = with_models(&folder);
    let piece = PieceHash::from_bytes(*blake3::hash(WEIGHTS).as_bytes());
    let [here, absent] = &mut settings.config.models[..] else { panic!("two models") };
    "a/b c".clone_into(&mut here.name);
    absent.files[0].sha256 = Digest::of(b"another");
    let mut complete = here.clone();
    "m".clone_into(&mut complete.name);
    complete.sources = vec!["https://models.example.org".to_owned()];
    complete.files[0].pieces_blake3 = vec![PieceHash::from_bytes([7; 32])];
    settings.config.models.push(complete.clone());

    // when the devnet publishes,
    let devnet = Devnet::start(settings.clone()).await.unwrap();
    let world = World { devnet, folder };

    // then only what was left out of the first is there, and its source leads to the file.
    let [here, absent, same] = &models(&world).await[..] else { panic!("three models") };
    let source = format!("{}/models/a%2Fb%20c@1.0.0", world.devnet.url());
    assert_eq!((&here.sources, &here.files[0].pieces_blake3), (&vec![source.clone()], &vec![piece]));
    assert_eq!((absent.sources.len(), absent.files[0].pieces_blake3.len()), (0, 0));
    assert_eq!(same, &complete);
    let file = http().get(format!("{source}/m.gguf")).send().await.unwrap();
    assert_eq!(file.bytes().await.unwrap(), WEIGHTS);

    // A published patch is filled in as well, and the snapshot before it still leads to its file.
    let patch = json!({ "models": [settings.config.models[2]] });
    assert_eq!(world.post("/v1/devnet/snapshots", &patch).await.status, 200);
    assert_eq!(models(&world).await, [complete]);
    assert_eq!(http().get(format!("{source}/m.gguf")).send().await.unwrap().status(), 200);
    world.post("/v1/devnet/snapshots", &json!({})).await;
    assert_eq!(http().get(format!("{source}/m.gguf")).send().await.unwrap().status(), 404);
}

#[tokio::test]
async fn a_devnet_at_another_address_says_so_in_its_next_snapshot() {
    let World { devnet, folder } = world().await;
    let before = devnet.url();
    devnet.stop().await;
    // Held, so that the next start takes another port.
    let _port = std::net::TcpListener::bind(before.trim_start_matches("http://")).unwrap();
    let devnet = Devnet::start(with_models(&folder)).await.unwrap();
    let world = World { devnet, folder };
    let found = snapshot(&world, Floor::NONE).await.unwrap();
    assert_eq!(found.document().version, 2);
    assert_eq!(found.document().models[0].sources, [format!("{}/models/m@1.0.0", world.devnet.url())]);
}

#[tokio::test]
async fn a_template_that_says_another_size_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = with_models(&folder);
    settings.config.models[0].files[0].bytes = 8;
    let refused = Devnet::start(settings).await.unwrap_err();
    assert!(matches!(&refused, DevnetError::ModelBytes { said: 8, found: 7, .. }), "{refused}");

    let world = world().await;
    let mut models = settings_models();
    models[0]["files"][0]["bytes"] = json!(8);
    let refused = world.post("/v1/devnet/snapshots", &json!({ "models": models })).await;
    assert_eq!(refused.status, 409);
    let text = refused.json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(text.contains("m.gguf of m@1.0.0 has 8 bytes"), "{text}");
}

fn settings_models() -> Value {
    json!(crate::common::template().models)
}

#[tokio::test]
async fn each_fault_of_files_does_what_it_says_and_ends() {
    let world = world().await;
    let part = [("range", "bytes=1-5")];
    let well = async || {
        let answer = ask(&world, &part).await.unwrap();
        assert_eq!((answer.status, answer.body.as_slice()), (206, &b"eight"[..]));
    };

    fault(&world, json!({ "fault": "wrong_size", "count": 2 })).await;
    let answer = ask(&world, &[]).await.unwrap();
    assert_eq!((answer.header("content-length"), answer.body.as_slice()), ("8", &b"weights\0"[..]));
    let answer = ask(&world, &part).await.unwrap();
    assert_eq!((answer.header("content-range"), answer.body.as_slice()), ("bytes 1-5/8", &b"eight"[..]));
    well().await;

    fault(&world, json!({ "fault": "no_ranges", "count": 1 })).await;
    let answer = ask(&world, &part).await.unwrap();
    assert_eq!((answer.status, answer.body.as_slice(), answer.header("accept-ranges")), (200, WEIGHTS, ""));
    well().await;

    // The wrong byte is the one in the middle, and who does not ask for it does not use the fault up.
    fault(&world, json!({ "fault": "corrupt_piece", "piece": 0, "count": 1 })).await;
    assert_eq!(ask(&world, &[("range", "bytes=0-2")]).await.unwrap().body, b"wei");
    assert_eq!(ask(&world, &part).await.unwrap().body, b"eifht");
    well().await;

    fault(&world, json!({ "fault": "cut_short", "bytes": 2, "count": 1 })).await;
    let mut answer =
        http().get(format!("{}/models/m@1.0.0/m.gguf", world.devnet.url())).send().await.unwrap();
    assert_eq!(answer.chunk().await.unwrap().unwrap(), &WEIGHTS[..2]);
    assert!(answer.chunk().await.is_err());
    well().await;

    fault(&world, json!({ "fault": "endless", "count": 1 })).await;
    let mut answer =
        http().get(format!("{}/models/m@1.0.0/m.gguf", world.devnet.url())).send().await.unwrap();
    let mut received = 0;
    while received < 10_000_000 {
        received += answer.chunk().await.unwrap().unwrap().len();
    }
    drop(answer);
    well().await;

    fault(&world, json!({ "fault": "slow_drip", "ms": 60_000 })).await;
    let before = now();
    assert_eq!(ask(&world, &[]).await.unwrap().body, WEIGHTS);
    let took = now().since_ms(before);
    assert!(took >= 600, "seven bytes take a second: {took} ms");
    fault(&world, json!({ "fault": "none" })).await;
    well().await;
}

#[tokio::test]
async fn a_devnet_that_stops_does_not_wait_for_a_file_without_an_end() {
    let world = world().await;
    fault(&world, json!({ "fault": "endless", "count": 1 })).await;
    let mut answer =
        http().get(format!("{}/models/m@1.0.0/m.gguf", world.devnet.url())).send().await.unwrap();
    let reading = tokio::spawn(async move { while let Ok(Some(_)) = answer.chunk().await {} });
    pause(50).await;
    timeout(Duration::from_secs(60), world.devnet.stop()).await.unwrap();
    timeout(Duration::from_secs(60), reading).await.unwrap().unwrap();
}
