//! What an operator's monitoring reads: the rules hold, and nothing in rules, dashboard or documentation names a metric that there is
//! not.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::{
    collections::BTreeSet,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use node_agent::metrics::{self, Facts, Kind};
use serde_json::{Value, json};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

fn text(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}

fn promtool(arguments: &[&str], input: &str) -> String {
    let mut asked = Command::new(root().join("scripts/promtool"))
        .args(arguments)
        .current_dir(root().join("deploy/prometheus"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    asked.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let answer = asked.wait_with_output().unwrap();
    let said = [answer.stdout, answer.stderr].map(|said| String::from_utf8(said).unwrap()).concat();
    assert!(answer.status.success(), "promtool {arguments:?}: {said}");
    said
}

/// Names of series that are exported: a histogram has three.
fn exported() -> BTreeSet<String> {
    let mut names = BTreeSet::from(["up".to_owned()]);
    for family in metrics::families(&Facts::example()) {
        match family.kind {
            Kind::Counter(_) | Kind::Gauge => names.extend([family.name.to_owned()]),
            Kind::Histogram => {
                names.extend(["_bucket", "_sum", "_count"].map(|end| format!("{}{end}", family.name)));
            }
        }
    }
    names
}

/// Words that are names of metrics of ours.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    let ours = words.filter(|word| word.starts_with("resultity_") || word.starts_with("process_"));
    ours.map(str::to_owned).collect()
}

#[test]
fn the_alert_rules_are_rules_and_each_fires_when_it_should_and_not_else() {
    promtool(&["check", "rules", "alerts.yml"], "");
    promtool(&["check", "config", "--syntax-only", "scrape.yml"], "");
    promtool(&["test", "rules", "alerts_test.yml"], "");
    let (rules, tests) = (text("deploy/prometheus/alerts.yml"), text("deploy/prometheus/alerts_test.yml"));
    let alerts: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() >= 15, "{alerts:?}");
    for alert in alerts {
        let tested = tests.matches(&format!("alertname: {alert}\n")).count();
        assert_eq!(tested, 2, "{alert} is tried on a node that is well and on one that is not");
    }
    assert_eq!(rules.matches("action: ").count(), rules.matches("- alert: ").count(), "each says what to do");
}

/// The expressions in a dashboard, with its variables as they could be.
fn expressions(part: &Value, found: &mut Vec<String>) {
    match part {
        Value::Object(fields) => {
            let expression = fields.get("expr").and_then(Value::as_str);
            found.extend(expression.map(|text| text.replace("$__rate_interval", "5m")));
            fields.values().for_each(|part| expressions(part, found));
        }
        Value::Array(parts) => parts.iter().for_each(|part| expressions(part, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn what_the_dashboard_asks_is_promql() {
    let dashboard: Value = serde_json::from_str(&text("deploy/grafana/resultity-node.json")).unwrap();
    let mut found = Vec::new();
    expressions(&dashboard, &mut found);
    assert!(found.len() > 30, "{found:?}");
    let rule = |(number, expression)| json!({ "record": format!("panel:{number}"), "expr": expression });
    let rules: Vec<_> = found.iter().enumerate().map(rule).collect();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    // JSON is YAML.
    write!(file, "{}", json!({ "groups": [{ "name": "dashboard", "rules": rules }] })).unwrap();
    promtool(&["check", "rules", file.path().to_str().unwrap()], "");
}

#[test]
fn what_rules_dashboard_and_documentation_name_is_exported() {
    let exported = exported();
    for path in ["deploy/prometheus/alerts.yml", "deploy/grafana/resultity-node.json", "docs/monitoring.md"] {
        let named = named(&text(path));
        assert!(named.len() > 10, "{path}");
        let families = metrics::families(&Facts::example());
        let unknown: Vec<_> = named
            .iter()
            .filter(|name| !exported.contains(*name) && families.iter().all(|family| family.name != *name))
            .collect();
        assert!(unknown.is_empty(), "{path} names {unknown:?}");
    }
}

#[test]
fn the_table_of_metrics_in_the_documentation_is_that_of_the_code() {
    let (document, table) = (text("docs/monitoring.md"), metrics::document());
    assert!(
        document.contains(&table),
        "docs/monitoring.md is stale; its table of metrics should be:\n\n{table}"
    );
}

#[test]
fn promtool_has_nothing_against_the_metrics_of_a_node_that_has_everything() {
    let said = promtool(&["check", "metrics"], &metrics::encode(&metrics::families(&Facts::example())));
    assert_eq!(said, "");
}
