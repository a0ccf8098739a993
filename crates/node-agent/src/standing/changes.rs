//! What a snapshot changed against the one before it, in words.

use std::collections::BTreeMap;

use node_types::{config::NodeConfig, job::ModelRef};

/// Changes that are told one by one; of more the number is told.
pub const CHANGES_MAX: usize = 50;

/// What `now` changes against `was`, models first. Empty where nothing that a node does depends on it.
#[must_use]
pub fn between(was: &NodeConfig, now: &NodeConfig) -> Vec<String> {
    let mut changes = models(was, now);
    if was.runtime != now.runtime {
        changes.push(if was.runtime.engine() == now.runtime.engine() {
            match (was.runtime.digest(), now.runtime.digest()) {
                (before, after) if before == after => {
                    format!("runtime {}: started in another way", now.runtime.engine())
                }
                (_, Some(digest)) => format!("runtime {}: now {digest}", now.runtime.engine()),
                (_, None) => format!("runtime {}: now run by the operator", now.runtime.engine()),
            }
        } else {
            format!("runtime: {} instead of {}", now.runtime.engine(), was.runtime.engine())
        });
    }
    let (from, to) = (&was.limits, &now.limits);
    for (name, before, after) in [
        ("jobs held at once", from.queue_jobs_max, to.queue_jobs_max),
        ("bytes of all jobs", from.queue_bytes_max, to.queue_bytes_max),
        ("bytes of a request", from.request_bytes_max, to.request_bytes_max),
        ("tokens of a job", from.max_tokens.into(), to.max_tokens.into()),
        ("milliseconds of a run", from.execution_timeout_ms, to.execution_timeout_ms),
        ("milliseconds to live of a job", from.ttl_ms_max, to.ttl_ms_max),
        ("starts of a job", from.attempts_max.into(), to.attempts_max.into()),
        ("jobs run at once", from.concurrency.into(), to.concurrency.into()),
        ("bytes of logs", from.logs_bytes_max, to.logs_bytes_max),
    ] {
        if before != after {
            changes.push(format!("limit, {name}: {after} instead of {before}"));
        }
    }
    if was.timings != now.timings {
        changes.push("other intervals and times to live".to_owned());
    }
    if was.participation != now.participation {
        let subclouds = now.participation.subclouds.join(", ");
        changes.push(format!("subclouds: {}", if subclouds.is_empty() { "none" } else { &subclouds }));
    }
    if was.updates != now.updates {
        changes.push("other approved releases".to_owned());
    }
    if was.keyset_version != now.keyset_version {
        changes.push(format!("signed under keyset {} instead of {}", now.keyset_version, was.keyset_version));
    }
    if changes.len() > CHANGES_MAX {
        let more = changes.len() - CHANGES_MAX;
        changes.truncate(CHANGES_MAX);
        changes.push(format!("and {more} more"));
    }
    changes
}

fn models(was: &NodeConfig, now: &NodeConfig) -> Vec<String> {
    let by_reference = |config: &NodeConfig| -> BTreeMap<ModelRef, _> {
        config.models.iter().map(|model| (model.reference(), model.clone())).collect()
    };
    let (before, after) = (by_reference(was), by_reference(now));
    let added = after.keys().filter(|model| !before.contains_key(model));
    let removed = before.keys().filter(|model| !after.contains_key(model));
    let changed = after.iter().filter(|(model, is)| before.get(model).is_some_and(|was| was != *is));
    added
        .map(|model| format!("model {model}: added"))
        .chain(removed.map(|model| format!("model {model}: removed")))
        .chain(changed.map(|(model, _)| format!("model {model}: changed")))
        .collect()
}

#[cfg(test)]
mod tests {
    use node_types::Digest;
    use serde_json::json;

    use super::*;

    fn config() -> NodeConfig {
        let model = |name: &str| {
            json!({
                "name": name, "version": "1", "tasks": ["chat"], "engine": "e", "memory_bytes": 0,
                "files": [{ "path": "m.bin", "bytes": 1, "sha256": Digest::of(b"m") }], "sources": [],
            })
        };
        serde_json::from_value(json!({
            "network": "testnet", "version": 1, "issued_at": 0, "refresh_by": 1, "valid_until": 2,
            "keyset_version": 1, "models": [model("a"), model("b")],
            "runtime": { "kind": "external", "engine": "e" },
            "limits": {
                "queue_jobs_max": 1, "queue_bytes_max": 1, "request_bytes_max": 1, "max_tokens": 1,
                "execution_timeout_ms": 1, "ttl_ms_max": 1, "attempts_max": 1, "concurrency": 1, "logs_bytes_max": 1,
            },
            "participation": { "subclouds": [] },
            "timings": {
                "heartbeat_ms": 10, "sync_ms": 10, "flush_ms": 10, "retry_ms_min": 10, "retry_ms_max": 10,
                "trace_ttl_ms": 1, "log_ttl_ms": 1, "offline_grace_ms": 1, "partial_file_ttl_ms": 1,
            },
            "updates": { "agents": [], "runtimes": [] },
        }))
        .unwrap()
    }

    #[test]
    fn what_is_the_same_is_no_change() {
        let was = config();
        let now = NodeConfig { version: 2, issued_at: was.valid_until, ..was.clone() };
        assert_eq!(between(&was, &now), Vec::<String>::new());
    }

    #[test]
    fn models_runtime_and_limits_are_told_by_name() {
        let was = config();
        let mut now = was.clone();
        now.models[0].memory_bytes = 5;
        now.models[1].name = "c".to_owned();
        now.runtime = node_types::config::Runtime::External { engine: "f".to_owned() };
        now.limits.concurrency = 4;
        now.timings.sync_ms = 11;
        now.participation.subclouds = vec!["s".to_owned()];
        assert_eq!(
            between(&was, &now),
            [
                "model c@1: added",
                "model b@1: removed",
                "model a@1: changed",
                "runtime: f instead of e",
                "limit, jobs run at once: 4 instead of 1",
                "other intervals and times to live",
                "subclouds: s",
            ]
        );
    }

    #[test]
    fn a_flood_of_changes_is_cut_with_its_number() {
        let was = config();
        let mut now = was.clone();
        now.models = (0..=CHANGES_MAX)
            .map(|number| {
                let mut model = was.models[0].clone();
                model.name = format!("new-{number}");
                model
            })
            .collect();
        let changes = between(&was, &now);
        assert_eq!(changes.len(), CHANGES_MAX + 1);
        assert_eq!(changes.last().unwrap(), "and 3 more");
    }
}
