//! Metrics: what a monitoring system asks of a node, as typed families.
//!
//! `facts` looks (and decides nothing), `families` makes families of what was seen (and looks at nothing), and what they are
//! written as is a matter of its own: the text that Prometheus reads here, OTLP in the `otlp` room.
//!
//! Names and units follow Prometheus' conventions: the prefix `resultity_`, base units, `_total` for what only grows. A look that
//! fails leaves its families out and is counted in `resultity_scrape_errors`: a wrong zero would be worse. Nothing reads a
//! whole table of jobs or records: a node with a full queue is asked as cheaply as an empty one.

mod facts;
mod families;
pub mod process;

use std::fmt::Write as _;

pub use facts::{Facts, SnapshotFacts, gather};
pub use families::families;
use node_store::meter::Distribution;

use crate::node::Node;

/// The content type of [`text`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Since when a counter counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// The volume was made: it is kept in the store. When that was is not known.
    Volume,
    /// The process began.
    Process,
    /// The Agent began to work on the store: it is counted in memory.
    Agent,
}

/// What a family's numbers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows, and begins anew with what it counts since.
    Counter(Since),
    /// It goes up and down.
    Gauge,
    /// Durations in buckets.
    Histogram,
}

impl Kind {
    /// Its name in Prometheus' text.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter(_) => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// What a family's numbers count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Things.
    None,
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
    /// Parts of one.
    Ratio,
    /// Degrees Celsius.
    Celsius,
    /// Watts.
    Watts,
}

impl Unit {
    /// As the Unified Code for Units of Measure writes it, which is what OTLP wants. Things have none: where a gauge has the
    /// unit 1, what translates it for Prometheus appends `_ratio` to its name
    /// (opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics).
    #[must_use]
    pub const fn ucum(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Ratio => "1",
            Self::Seconds => "s",
            Self::Bytes => "By",
            Self::Celsius => "Cel",
            Self::Watts => "W",
        }
    }
}

/// One number, or one distribution.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A number.
    Number(f64),
    /// A distribution of durations.
    Distribution(Distribution),
}

/// A value and what it is about.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Names and values, in the same order in all samples of a family.
    pub labels: Vec<(&'static str, String)>,
    /// The value.
    pub value: Value,
}

/// Samples of one name.
#[derive(Clone, Debug, PartialEq)]
pub struct Family {
    /// Its name, with its unit and `_total` where that belongs to it.
    pub name: &'static str,
    /// What it says, for a person.
    pub help: &'static str,
    /// What its numbers are.
    pub kind: Kind,
    /// What they count.
    pub unit: Unit,
    /// Its samples.
    pub samples: Vec<Sample>,
}

/// A node's metrics in Prometheus' text format, version 0.0.4. Reads the store: blocks for some milliseconds.
#[must_use]
pub fn text(node: &Node) -> String {
    encode(&families(&gather(node)))
}

/// Families in Prometheus' text format, version 0.0.4
/// (prometheus.io/docs/instrumenting/exposition_formats).
#[must_use]
pub fn encode(families: &[Family]) -> String {
    let mut text = String::new();
    for family in families.iter().filter(|family| !family.samples.is_empty()) {
        let name = family.name;
        // Writing to a string does not fail.
        let _ = writeln!(text, "# HELP {name} {}", escape(family.help, false));
        let _ = writeln!(text, "# TYPE {name} {}", family.kind.name());
        for Sample { labels, value } in &family.samples {
            match value {
                Value::Number(number) => {
                    let _ = writeln!(text, "{name}{} {number}", braced(labels, None));
                }
                Value::Distribution(distribution) => {
                    let mut below = 0;
                    let bounds = distribution.bounds.iter().map(|bound| bound.to_string());
                    for (bound, count) in bounds.chain(["+Inf".to_owned()]).zip(&distribution.counts) {
                        below += count;
                        let _ = writeln!(text, "{name}_bucket{} {below}", braced(labels, Some(&bound)));
                    }
                    let _ = writeln!(text, "{name}_sum{} {}", braced(labels, None), distribution.sum);
                    let _ = writeln!(text, "{name}_count{} {below}", braced(labels, None));
                }
            }
        }
    }
    text
}

fn braced(labels: &[(&'static str, String)], bound: Option<&str>) -> String {
    let bound = bound.map(|bound| ("le", bound));
    let all = labels.iter().map(|(name, value)| (*name, value.as_str())).chain(bound);
    let all: Vec<String> = all.map(|(name, value)| format!("{name}=\"{}\"", escape(value, true))).collect();
    if all.is_empty() { String::new() } else { format!("{{{}}}", all.join(",")) }
}

/// Backslashes and line feeds, and in values of labels quotes too.
fn escape(text: &str, quotes: bool) -> String {
    let text = text.replace('\\', "\\\\").replace('\n', "\\n");
    if quotes { text.replace('"', "\\\"") } else { text }
}

/// The table of all metrics, for `docs/monitoring.md`.
#[must_use]
pub fn document() -> String {
    let mut text = String::from("| metric | kind | labels | what it says |\n|---|---|---|---|\n");
    for family in families(&Facts::example()) {
        let labels = family.samples.first().map_or(&[] as &[_], |sample| sample.labels.as_slice());
        let labels: Vec<String> = labels.iter().map(|(name, _)| format!("`{name}`")).collect();
        let _ = writeln!(
            text,
            "| `{}` | {} | {} | {} |",
            family.name,
            family.kind.name(),
            labels.join(", "),
            family.help
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, time::Duration};

    use node_store::meter::Histogram;

    use super::*;

    fn family(samples: Vec<Sample>, kind: Kind) -> Family {
        Family { name: "x_seconds", help: "What\nit \\ says.", kind, unit: Unit::Seconds, samples }
    }

    #[test]
    fn whatever_a_model_is_called_the_text_stays_whole() {
        let labels = vec![("model", "a\"b\\c\nd{}".to_owned())];
        let sample = Sample { labels, value: Value::Number(0.25) };
        assert_eq!(
            encode(&[family(vec![sample], Kind::Gauge)]),
            "# HELP x_seconds What\\nit \\\\ says.\n# TYPE x_seconds gauge\nx_seconds{model=\"a\\\"b\\\\c\\nd{}\"} 0.25\n"
        );
    }

    #[test]
    fn buckets_are_written_as_sums_up_to_their_bounds() {
        let histogram = Histogram::new(&[0.5, 1.0]);
        for ms in [100, 700, 700, 5_000] {
            histogram.observe(Duration::from_millis(ms));
        }
        let sample = Sample { labels: Vec::new(), value: Value::Distribution(histogram.read()) };
        let text = encode(&[family(vec![sample], Kind::Histogram)]);
        let values: Vec<_> = text.lines().skip(2).collect();
        assert_eq!(
            values,
            [
                "x_seconds_bucket{le=\"0.5\"} 1",
                "x_seconds_bucket{le=\"1\"} 3",
                "x_seconds_bucket{le=\"+Inf\"} 4",
                "x_seconds_sum 6.5",
                "x_seconds_count 4",
            ]
        );
    }

    #[test]
    fn a_family_without_samples_is_not_written() {
        assert_eq!(encode(&[family(Vec::new(), Kind::Counter(Since::Agent))]), "");
    }

    #[test]
    fn names_are_unique_and_say_their_unit_and_kind_and_labels_are_the_same_throughout() {
        let families = families(&Facts::example());
        let names: BTreeSet<_> = families.iter().map(|family| family.name).collect();
        assert_eq!(names.len(), families.len());
        for Family { name, help, kind, unit, samples } in &families {
            assert_eq!(name.ends_with("_total"), matches!(kind, Kind::Counter(_)), "{name}");
            let stem = name.strip_suffix("_total").unwrap_or(name);
            if let Kind::Counter(since) = kind {
                let says = help.contains("since the volume was made");
                assert_eq!(says, *since == Since::Volume, "{name}: {help}");
            }
            let ending = match unit {
                Unit::None => "",
                Unit::Seconds => "_seconds",
                Unit::Bytes => "_bytes",
                Unit::Ratio => "_ratio",
                Unit::Celsius => "_celsius",
                Unit::Watts => "_watts",
            };
            assert!(stem.ends_with(ending), "{name}");
            assert!(name.starts_with("resultity_") || name.starts_with("process_"), "{name}");
            assert!(help.ends_with('.') && !help.contains('|'), "{name}: {help}");
            assert!(!samples.is_empty(), "{name} is in no example");
            let labels = |sample: &Sample| sample.labels.iter().map(|(name, _)| *name).collect::<Vec<_>>();
            assert!(samples.iter().all(|sample| labels(sample) == labels(&samples[0])), "{name}");
            let of: BTreeSet<_> = samples.iter().map(|sample| &sample.labels).collect();
            assert_eq!(of.len(), samples.len(), "{name} has two samples with the same labels");
        }
    }

    #[test]
    fn what_cannot_be_read_is_left_out_and_counted() {
        let whole = Facts::example();
        let facts = Facts { errors: vec!["jobs", "tally"], counts: None, jobs: None, ..whole.clone() };
        let (all, some) = (families(&whole), families(&facts));
        let value = |families: &[Family], name: &str| {
            families
                .iter()
                .find(|family| family.name == name)
                .and_then(|family| family.samples.first().cloned())
        };
        assert_eq!(value(&some, "resultity_jobs"), None);
        assert_eq!(value(&some, "resultity_jobs_expired_total"), None);
        assert!(value(&all, "resultity_jobs").is_some());
        assert_eq!(value(&some, "resultity_scrape_errors").map(|it| it.value), Some(Value::Number(2.0)));
        assert_eq!(value(&all, "resultity_scrape_errors").map(|it| it.value), Some(Value::Number(0.0)));
    }
}
