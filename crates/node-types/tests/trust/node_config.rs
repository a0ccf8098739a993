use node_types::{
    Digest,
    config::{DocumentError, NodeConfig, Runtime, UNLISTED_MODEL_TTL_MS},
    job::{MODEL_NAME_BYTES_MAX, ModelRef},
    json::JsonError,
};
use serde_json::{Value, json};

use crate::common::{config, with};

fn parse(document: &Value) -> Result<NodeConfig, DocumentError> {
    NodeConfig::parse(document.to_string().as_bytes())
}

#[test]
fn a_snapshot_survives_writing_and_reading() {
    let read = parse(&config(1)).unwrap();
    assert_eq!(parse(&serde_json::to_value(&read).unwrap()).as_ref(), Ok(&read));
    let listed = ModelRef { name: "gemma-3-270m".to_owned(), version: "1.0.0".to_owned() };
    assert_eq!(read.model(&listed).unwrap().reference(), listed);
    assert_eq!(read.model(&ModelRef { version: "1.0.1".to_owned(), ..listed }), None);
    assert_eq!(read.models[0].bytes(), (64 << 20) + 13);
    assert_eq!(read.runtime.digest(), Some(Digest::of(b"manifest")));
}

#[test]
fn every_kind_of_runtime_is_read() {
    let external = json!({ "kind": "external", "engine": "ollama" });
    let read = parse(&with(config(1), "/runtime", external)).unwrap();
    assert_eq!(read.runtime, Runtime::External { engine: "ollama".to_owned() });
    let digest = Digest::of(b"program");
    let process = json!({
        "kind": "process", "engine": "llama.cpp", "command": "llama/llama-server", "digest": digest,
    });
    let read = parse(&with(config(1), "/runtime", process.clone())).unwrap();
    assert_eq!((read.runtime.digest(), read.runtime.args()), (Some(digest), &[][..]));
    assert!(
        serde_json::to_value(&read.runtime).unwrap().get("environment").is_none(),
        "not written where there is none"
    );
    assert_eq!(read.timings.unlisted_model_ttl_ms, UNLISTED_MODEL_TTL_MS, "where it is not said");
    let mut with_environment = process.clone();
    with_environment["environment"] = json!({ "path": "vllm/venv", "digest": Digest::of(b"tree") });
    let read = parse(&with(config(1), "/runtime", with_environment.clone())).unwrap();
    let Runtime::Process { environment: Some(environment), .. } = &read.runtime else { panic!("{read:?}") };
    assert_eq!((environment.path.as_str(), environment.digest), ("vllm/venv", Digest::of(b"tree")));
    let written = serde_json::to_value(&read.runtime).unwrap();
    assert_eq!(written["environment"], with_environment["environment"]);
    for unsafe_command in ["/bin/sh", "../sh", ""] {
        let process =
            json!({ "kind": "process", "engine": "e", "command": unsafe_command, "digest": digest });
        let refused = parse(&with(config(1), "/runtime", process));
        let Err(DocumentError::Invalid(invalid)) = refused else { panic!("{refused:?}") };
        assert_eq!(invalid.field, "runtime.command");
    }
}

/// Pointers to every object of a document.
fn objects(value: &Value, at: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            found.push(at.to_owned());
            fields.iter().for_each(|(key, value)| objects(value, &format!("{at}/{key}"), found));
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, item)| objects(item, &format!("{at}/{index}"), found));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// What must never be stored on a node has no field to hide in, at whatever depth.
#[test]
fn balances_and_their_kin_are_refused_at_every_level() {
    let process = json!({ "kind": "process", "engine": "e", "command": "c", "digest": Digest::of(b"") });
    let external = json!({ "kind": "external", "engine": "e" });
    for document in [config(1), with(config(1), "/runtime", process), with(config(1), "/runtime", external)] {
        parse(&document).unwrap();
        let mut places = Vec::new();
        objects(&document, "", &mut places);
        assert!(places.len() >= 11);
        for place in places {
            for word in ["balance", "balances", "credits", "rewards", "token_state"] {
                let refused = parse(&with(document.clone(), &format!("{place}/{word}"), json!(0)));
                let Err(DocumentError::Json(JsonError::Shape { reason })) = refused else {
                    panic!("{place}/{word} was taken")
                };
                assert!(reason.contains(&format!("`{word}`")), "{reason}");
            }
        }
    }
}

#[test]
fn every_required_field_is_required() {
    let document = config(1);
    let mut places = Vec::new();
    objects(&document, "", &mut places);
    let optional = ["pieces_blake3", "config_digest", "platform", "args"];
    for place in places {
        let fields = document.pointer(&place).and_then(Value::as_object).unwrap();
        for field in fields.keys() {
            let mut lacking = document.clone();
            lacking.pointer_mut(&place).and_then(Value::as_object_mut).unwrap().remove(field);
            assert_eq!(parse(&lacking).is_ok(), optional.contains(&field.as_str()), "{place}/{field}");
        }
    }
}

#[test]
fn a_value_out_of_range_is_refused_by_field() {
    let long = "n".repeat(MODEL_NAME_BYTES_MAX + 1);
    let model = config(1)["models"][0].clone();
    let file = |path: &str| json!({ "path": path, "bytes": 1, "sha256": Digest::of(b"") });
    let digest = Digest::of(b"agent");
    for (pointer, value, field) in [
        ("/version", json!(0), "version"),
        ("/keyset_version", json!(0), "keyset_version"),
        ("/refresh_by", json!(1), "refresh_by"),
        ("/valid_until", config(1)["issued_at"].clone(), "valid_until"),
        ("/prev_digest", json!(digest), "prev_digest"),
        ("/models", json!([model, model]), "models[1].name"),
        ("/models/0/name", json!(""), "models[0].name"),
        ("/models/0/name", json!(long), "models[0].name"),
        ("/models/0/name", json!(" gemma"), "models[0].name"),
        ("/models/0/name", json!("a\u{7}b"), "models[0].name"),
        ("/models/0/version", json!(""), "models[0].version"),
        ("/models/0/engine", json!(""), "models[0].engine"),
        ("/models/0/tasks", json!([]), "models[0].tasks"),
        ("/models/0/tasks", json!(["chat", "chat"]), "models[0].tasks"),
        ("/models/0/files", json!([]), "models[0].files"),
        ("/models/0/files", json!([file("a"), file("a")]), "models[0].files[1].path"),
        ("/models/0/files", json!([file("a/b/c"), file("a")]), "models[0].files"),
        ("/models/0/files/0/bytes", json!(64 << 20), "models[0].files[0].pieces_blake3"),
        ("/models/0/files/0/bytes", json!((128 << 20) + 1), "models[0].files[0].pieces_blake3"),
        ("/models/0/sources", json!(["file://host/models"]), "models[0].sources[0]"),
        ("/models/0/sources", json!(["file:///"]), "models[0].sources[0]"),
        ("/models/0/sources", json!(["file:///srv/../etc"]), "models[0].sources[0]"),
        ("/models/0/sources", json!(["ftp://models.example/"]), "models[0].sources[0]"),
        (
            "/runtime",
            json!({ "kind": "process", "engine": "vllm", "command": "bin/vllm", "digest": digest,
                "environment": { "path": "../venv", "digest": digest } }),
            "runtime.environment.path",
        ),
        ("/models/0/sources", json!(["https://"]), "models[0].sources[0]"),
        ("/models/0/sources", json!(["https://a/", "https://me:pw@a/"]), "models[0].sources[1]"),
        ("/runtime/engine", json!(""), "runtime.engine"),
        ("/runtime/image", json!(""), "runtime.image"),
        ("/runtime/image", json!("llama.cpp:latest"), "runtime.image"),
        ("/runtime/image", json!("llama.cpp@sha256:00"), "runtime.image"),
        ("/runtime/image", json!("--privileged"), "runtime.image"),
        ("/runtime/args", json!(["a\u{0}b"]), "runtime.args[0]"),
        ("/limits/queue_jobs_max", json!(0), "limits.queue_jobs_max"),
        ("/limits/queue_bytes_max", json!(0), "limits.queue_bytes_max"),
        ("/limits/queue_bytes_max", json!(1_048_575), "limits.queue_bytes_max"),
        ("/limits/request_bytes_max", json!(0), "limits.request_bytes_max"),
        ("/limits/request_bytes_max", json!((4 << 20) + 1), "limits.request_bytes_max"),
        ("/limits/max_tokens", json!(0), "limits.max_tokens"),
        ("/limits/execution_timeout_ms", json!(0), "limits.execution_timeout_ms"),
        ("/limits/ttl_ms_max", json!(0), "limits.ttl_ms_max"),
        ("/limits/ttl_ms_max", json!(1_u64 << 52), "limits.ttl_ms_max"),
        ("/limits/attempts_max", json!(0), "limits.attempts_max"),
        ("/limits/concurrency", json!(0), "limits.concurrency"),
        ("/limits/concurrency", json!(4097), "limits.concurrency"),
        ("/limits/logs_bytes_max", json!(0), "limits.logs_bytes_max"),
        ("/participation/subclouds", json!(["a", "a"]), "participation.subclouds[1]"),
        ("/participation/subclouds", json!([""]), "participation.subclouds[0]"),
        ("/timings/heartbeat_ms", json!(9), "timings.heartbeat_ms"),
        ("/timings/sync_ms", json!(0), "timings.sync_ms"),
        ("/timings/flush_ms", json!(0), "timings.flush_ms"),
        ("/timings/retry_ms_min", json!(0), "timings.retry_ms_min"),
        ("/timings/retry_ms_max", json!(999), "timings.retry_ms_max"),
        ("/timings/trace_ttl_ms", json!(0), "timings.trace_ttl_ms"),
        ("/timings/log_ttl_ms", json!(0), "timings.log_ttl_ms"),
        ("/timings/partial_file_ttl_ms", json!(0), "timings.partial_file_ttl_ms"),
        ("/timings/unlisted_model_ttl_ms", json!(1_u64 << 52), "timings.unlisted_model_ttl_ms"),
        ("/updates/agents/0/version", json!(""), "updates.agents[0].version"),
        (
            "/updates/agents",
            json!([{ "version": "1", "digest": digest }, { "version": "1", "digest": Digest::of(b"") }]),
            "updates.agents[1]",
        ),
        ("/updates/runtimes/0/engine", json!(""), "updates.runtimes[0].engine"),
    ] {
        match parse(&with(config(1), pointer, value.clone())) {
            Err(DocumentError::Invalid(invalid)) => assert_eq!(invalid.field, field, "{pointer} {invalid}"),
            other => panic!("{pointer} = {value}: {other:?}"),
        }
    }
}

#[test]
fn boundary_values_are_taken() {
    for (pointer, value) in [
        ("/models", json!([])),
        ("/models/0/name", json!("n".repeat(MODEL_NAME_BYTES_MAX))),
        ("/models/0/files/0/bytes", json!(128 << 20)),
        ("/models/0/sources", json!([])),
        ("/limits/request_bytes_max", json!(4 << 20)),
        ("/limits/queue_bytes_max", json!(1_048_576)),
        ("/timings/heartbeat_ms", json!(10)),
        ("/timings/retry_ms_max", json!(1000)),
        ("/timings/offline_grace_ms", json!(0)),
        ("/timings/unlisted_model_ttl_ms", json!(0)),
        ("/models/0/sources", json!(["file:///srv/models"])),
        ("/refresh_by", config(1)["issued_at"].clone()),
        ("/valid_until", config(1)["refresh_by"].clone()),
    ] {
        parse(&with(config(1), pointer, value)).map(|_| ()).unwrap();
    }
}

#[test]
fn a_path_never_leaves_the_folder_of_its_model() {
    for path in [
        "",
        "/",
        "/etc/passwd",
        "..",
        "../a",
        "a/..",
        "a/../../b",
        ".",
        "./a",
        "a//b",
        "a/",
        "a/./b",
        "C:\\a",
        "C:a",
        "a\\..\\b",
        "a\u{0}b",
        "a\nb",
        &"n".repeat(256),
    ] {
        let refused = parse(&with(config(1), "/models/0/files/1/path", json!(path)));
        let Err(DocumentError::Invalid(invalid)) = refused else { panic!("{path:?} was taken") };
        assert_eq!(invalid.field, "models[0].files[1].path");
    }
    for path in ["a", ".hidden", "a/b/c", "..a", "a..", "m\u{f6}del/weights-00001-of-00002.safetensors"] {
        parse(&with(config(1), "/models/0/files/1/path", json!(path))).unwrap();
    }
}
