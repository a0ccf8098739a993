//! The real runtime in a container: llama.cpp with Gemma 3 270M, from an image that scripts/image makes from nothing.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

#[expect(dead_code, reason = "each test file uses its part of it")]
mod container;

use std::{path::Path, process::Command};

use container::{ready, stage, start};
use node_agent::runtime::{ContainerPlan, ModelsMount, test_inference};
use node_types::job::{Mode, ModelRef};
use serde_json::Value;

const MODEL: &str = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818";

#[tokio::test(flavor = "multi_thread")]
async fn llama_answers_from_a_container() {
    let Some(stage) = stage().await else { return };
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap();
    let made = Command::new(repository.join("scripts/image")).arg("runtime").output().unwrap();
    assert!(made.status.success(), "scripts/image: {}", String::from_utf8_lossy(&made.stderr));
    let made: Value = serde_json::from_slice(&made.stdout).unwrap();
    let text = |name: &str| made[name].as_str().unwrap().to_owned();
    let config = text("config_digest");
    let was_there = stage.has_image(config.parse().unwrap()).await;

    let args: Vec<_> = made["args"].as_array().unwrap().iter().map(|it| it.as_str().unwrap()).collect();
    let tools = repository.join(".tools");
    let supervisor = start(ContainerPlan {
        image: text("image"),
        digest: text("digest").parse().unwrap(),
        config_digest: Some(config.parse().unwrap()),
        platform: Some(text("platform")),
        images: Some(tools.join("images")),
        args: args.iter().map(|it| (*it).to_owned()).collect(),
        models: Some(ModelsMount { folder: tools.join("models"), first: Some(MODEL.to_owned()) }),
        memory_bytes: Some(2 << 30),
        ..stage.plan(&[])
    });
    let endpoint = ready(&supervisor).await;
    let gemma = ModelRef { name: "gemma-3-270m".to_owned(), version: "1.0.0".to_owned() };
    let chat = test_inference(&endpoint, Mode::Chat, &gemma).await.unwrap();
    assert!(chat.body.contains("Paris"), "{}", chat.body);
    test_inference(&endpoint, Mode::Completion, &gemma).await.unwrap();
    supervisor.stop().await;
    if !was_there {
        stage.remove_image(&config).await;
    }
}
