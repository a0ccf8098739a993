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

/// What selects series of one name: each label, how it is compared, and the text that it is compared with.
#[derive(Debug)]
struct Selector {
    metric: String,
    matchers: Vec<(String, &'static str, String)>,
}

/// Every `name{label="value"}` in a text.
fn selectors(text: &str) -> Vec<Selector> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices('{') {
        let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
        let metric = text[..at].rsplit(|letter: char| !is_name(letter)).next().unwrap();
        if !metric.starts_with("resultity_") {
            continue;
        }
        let mut matchers = Vec::new();
        let mut rest = text[at + 1..].trim_start();
        while !rest.starts_with('}') {
            let label: String = rest.chars().take_while(|letter| is_name(*letter)).collect();
            rest = &rest[label.len()..];
            let how = ["=~", "!~", "!=", "="].into_iter().find(|how| rest.starts_with(how)).unwrap();
            let value;
            (value, rest) = rest[how.len()..].strip_prefix('"').unwrap().split_once('"').unwrap();
            rest = rest.trim_start_matches([',', ' ']);
            matchers.push((label, how, value.to_owned()));
        }
        found.push(Selector { metric: metric.to_owned(), matchers });
    }
    found
}

/// Labels that Prometheus and Grafana know and the node does not.
const NOT_OURS: [&str; 3] = ["job", "instance", "le"];
/// Labels whose values are the names of things outside: any may come.
const OF_OTHERS: [&str; 3] = ["model", "gpu", "name"];

/// A value that no series has is no error to anybody: such an alert never fires, such a panel is empty, and the
/// rules' own tests would have the same slip of the pen.
#[test]
fn what_rules_dashboard_and_documentation_select_by_is_a_value_that_there_is() {
    let families = metrics::families(&Facts::example());
    let mut asked = Vec::new();
    expressions(&serde_json::from_str(&text("deploy/grafana/resultity-node.json")).unwrap(), &mut asked);
    let panels = asked.join("\n");
    let mut compared = std::collections::BTreeMap::new();
    for (path, text) in [
        ("deploy/grafana/resultity-node.json", panels),
        ("deploy/prometheus/alerts.yml", text("deploy/prometheus/alerts.yml")),
        ("deploy/prometheus/alerts_test.yml", text("deploy/prometheus/alerts_test.yml")),
        ("docs/monitoring.md", text("docs/monitoring.md")),
    ] {
        for selector in selectors(&text) {
            let of = |name: &str| families.iter().find(|family| family.name == name);
            let base =
                ["_bucket", "_sum", "_count"].iter().find_map(|end| of(selector.metric.strip_suffix(end)?));
            let family = of(&selector.metric).or(base);
            let family = family.unwrap_or_else(|| panic!("{path}: there is no {}", selector.metric));
            for (label, how, value) in &selector.matchers {
                if NOT_OURS.contains(&label.as_str()) {
                    continue;
                }
                let values: BTreeSet<&str> = family
                    .samples
                    .iter()
                    .flat_map(|sample| sample.labels.iter().filter(|(name, _)| name == label))
                    .map(|(_, value)| value.as_str())
                    .collect();
                assert!(!values.is_empty(), "{path}: {selector:?}: there is no label {label}");
                if OF_OTHERS.contains(&label.as_str()) {
                    continue;
                }
                let named: Vec<&str> =
                    if how.ends_with('~') { value.split('|').collect() } else { vec![value.as_str()] };
                for name in named {
                    assert!(values.contains(name), "{path}: {selector:?}: {label} is one of {values:?}");
                    *compared.entry(path).or_insert(0) += 1;
                }
            }
        }
    }
    assert!(compared["deploy/prometheus/alerts.yml"] >= 9, "{compared:?}");
    assert!(compared.len() == 4, "{compared:?}");
}

/// What is summed up by a label that no series has is one sum.
#[test]
fn what_rules_and_dashboard_sum_up_by_is_a_label_that_there_is() {
    let families = metrics::families(&Facts::example());
    let samples = families.iter().flat_map(|family| &family.samples);
    let mut labels: BTreeSet<&str> =
        samples.flat_map(|sample| &sample.labels).map(|(name, _)| *name).collect();
    labels.extend(NOT_OURS);
    for path in ["deploy/prometheus/alerts.yml", "deploy/grafana/resultity-node.json"] {
        let text = text(path);
        let groups = text.split(" by (").skip(1).map(|rest| rest.split_once(')').unwrap().0);
        let legends = text.split("{{").skip(1).map(|rest| rest.split_once("}}").unwrap().0.trim());
        let legends = legends.filter_map(|name| match name.split_once("$labels.") {
            Some((_, label)) => Some(label),
            None => Some(name).filter(|name| !name.contains('$')),
        });
        let named: BTreeSet<&str> =
            groups.flat_map(|group| group.split(',')).chain(legends).map(str::trim).collect();
        assert!(named.len() > 3, "{path}: {named:?}");
        let unknown: Vec<_> = named.difference(&labels).collect();
        assert!(unknown.is_empty(), "{path}: no series has the labels {unknown:?}");
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
