//! Log records and metrics as OTLP says them (opentelemetry.io/docs/specs/otlp, protobuf messages of version 1). Pure.

use std::{collections::BTreeMap, time::Duration};

use node_store::logs::Entry;
use node_types::{Timestamp, log::Level};
use opentelemetry_proto::tonic::{
    collector::{logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest},
    common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList, any_value},
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber},
    metrics::v1::{
        AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint,
        ResourceMetrics, ScopeMetrics, Sum, metric, number_data_point,
    },
    resource::v1::Resource,
};
use serde_json::Value;

use crate::metrics::{self, Family, Kind, Sample, Since};

/// Whose records and metrics they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The node's ID.
    pub node: String,
    /// Its network.
    pub network: String,
}

impl Source {
    /// By OpenTelemetry's semantic conventions for services.
    fn resource(&self) -> Resource {
        let attributes = [
            ("service.name", "resultity-node"),
            ("service.version", crate::VERSION),
            ("service.instance.id", &self.node),
            ("resultity.network", &self.network),
        ];
        Resource {
            attributes: attributes.map(|(key, value)| pair(key, text(value))).to_vec(),
            ..Resource::default()
        }
    }
}

fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: "resultity-node".to_owned(),
        version: crate::VERSION.to_owned(),
        ..InstrumentationScope::default()
    }
}

fn pair(key: impl Into<String>, value: any_value::Value) -> KeyValue {
    KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

fn text(value: &str) -> any_value::Value {
    any_value::Value::StringValue(value.to_owned())
}

fn integer(value: u64) -> any_value::Value {
    any_value::Value::IntValue(i64::try_from(value).unwrap_or(i64::MAX))
}

const fn nanoseconds(at: Timestamp) -> u64 {
    at.ms().saturating_mul(1_000_000)
}

const fn severity(level: Level) -> (SeverityNumber, &'static str) {
    match level {
        Level::Trace => (SeverityNumber::Trace, "TRACE"),
        Level::Debug => (SeverityNumber::Debug, "DEBUG"),
        Level::Info => (SeverityNumber::Info, "INFO"),
        Level::Warn => (SeverityNumber::Warn, "WARN"),
        Level::Error => (SeverityNumber::Error, "ERROR"),
    }
}

fn any(value: &Value) -> AnyValue {
    let value = match value {
        Value::Null => None,
        Value::Bool(truth) => Some(any_value::Value::BoolValue(*truth)),
        Value::Number(number) => Some(match number.as_i64() {
            Some(whole) => any_value::Value::IntValue(whole),
            None => any_value::Value::DoubleValue(number.as_f64().unwrap_or(f64::NAN)),
        }),
        Value::String(words) => Some(text(words)),
        Value::Array(items) => {
            let values = items.iter().map(any).collect();
            Some(any_value::Value::ArrayValue(ArrayValue { values }))
        }
        Value::Object(fields) => {
            let pairs = fields.iter().map(|(key, value)| KeyValue {
                key: key.clone(),
                value: Some(any(value)),
                ..KeyValue::default()
            });
            Some(any_value::Value::KvlistValue(KeyValueList { values: pairs.collect() }))
        }
    };
    AnyValue { value }
}

/// A record. Its number in the node's log makes it known where it comes twice; a log that is restored or begun anew uses numbers again.
fn log_record(entry: &Entry, now: Timestamp) -> LogRecord {
    let record = &entry.record;
    let (number, name) = severity(record.level);
    let mut attributes =
        vec![pair("resultity.record", integer(entry.seq)), pair("resultity.kind", text(record.kind.name()))];
    attributes.extend(record.job.map(|job| pair("resultity.job", text(&job.to_string()))));
    attributes.extend(record.fields.iter().map(|(name, value)| KeyValue {
        key: format!("resultity.field.{name}"),
        value: Some(any(value)),
        ..KeyValue::default()
    }));
    // 0 says that the time is not known; then it was seen now.
    let seen = if record.at == Timestamp::EPOCH { now } else { record.at };
    LogRecord {
        time_unix_nano: nanoseconds(record.at),
        observed_time_unix_nano: nanoseconds(seen),
        severity_number: number.into(),
        severity_text: name.to_owned(),
        body: Some(AnyValue { value: Some(text(&record.message)) }),
        attributes,
        ..LogRecord::default()
    }
}

/// The record that tells of those which the collector will never get.
fn loss_record(lost: &BTreeMap<Level, u64>, now: Timestamp) -> Option<LogRecord> {
    let all: u64 = lost.values().sum();
    let attributes =
        lost.iter().map(|(level, count)| pair(format!("resultity.lost.{}", level.name()), integer(*count)));
    (all > 0).then(|| LogRecord {
        time_unix_nano: nanoseconds(now),
        observed_time_unix_nano: nanoseconds(now),
        severity_number: SeverityNumber::Warn.into(),
        severity_text: "WARN".to_owned(),
        body: Some(AnyValue {
            value: Some(text(&format!("{all} log records were lost for this collector"))),
        }),
        attributes: attributes.collect(),
        ..LogRecord::default()
    })
}

/// What is sent to `/v1/logs`.
#[must_use]
pub fn logs(
    source: &Source,
    entries: &[Entry],
    lost: &BTreeMap<Level, u64>,
    now: Timestamp,
) -> ExportLogsServiceRequest {
    let records =
        loss_record(lost, now).into_iter().chain(entries.iter().map(|entry| log_record(entry, now)));
    let scope_logs =
        vec![ScopeLogs { scope: Some(scope()), log_records: records.collect(), ..ScopeLogs::default() }];
    let of_node = ResourceLogs { resource: Some(source.resource()), scope_logs, ..ResourceLogs::default() };
    ExportLogsServiceRequest { resource_logs: vec![of_node] }
}

/// When what is counted began.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Begins {
    /// The Agent's work on the store.
    pub agent: Timestamp,
    /// The process, in seconds since 1970 UTC.
    pub process: Option<f64>,
}

impl Begins {
    /// 0 says that it is not known.
    fn nanoseconds(self, since: Since) -> u64 {
        match since {
            Since::Volume => 0,
            Since::Process => {
                let since_1970 = self.process.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
                since_1970.map_or(0, |begun| u64::try_from(begun.as_nanos()).unwrap_or(0))
            }
            Since::Agent => nanoseconds(self.agent),
        }
    }
}

/// What is sent to `/v1/metrics`: the same names as Prometheus gets, so that one dashboard reads both. Counters are cumulative
/// from what they begin with.
#[must_use]
pub fn metrics(
    source: &Source,
    families: &[Family],
    begins: Begins,
    now: Timestamp,
) -> ExportMetricsServiceRequest {
    let now = nanoseconds(now);
    let metrics = families.iter().map(|family| Metric {
        name: family.name.to_owned(),
        description: family.help.to_owned(),
        unit: family.unit.ucum().to_owned(),
        data: Some(data(family, begins, now)),
        ..Metric::default()
    });
    let scope_metrics =
        vec![ScopeMetrics { scope: Some(scope()), metrics: metrics.collect(), ..ScopeMetrics::default() }];
    let of_node =
        ResourceMetrics { resource: Some(source.resource()), scope_metrics, ..ResourceMetrics::default() };
    ExportMetricsServiceRequest { resource_metrics: vec![of_node] }
}

fn data(family: &Family, begins: Begins, now: u64) -> metric::Data {
    let attributes = |sample: &Sample| -> Vec<KeyValue> {
        sample.labels.iter().map(|(name, value)| pair(*name, text(value))).collect()
    };
    let cumulative = AggregationTemporality::Cumulative.into();
    let numbers = |start_time_unix_nano| -> Vec<NumberDataPoint> {
        let point = |sample: &Sample| {
            let metrics::Value::Number(number) = sample.value else { return None };
            Some(NumberDataPoint {
                attributes: attributes(sample),
                start_time_unix_nano,
                time_unix_nano: now,
                value: Some(number_data_point::Value::AsDouble(number)),
                ..NumberDataPoint::default()
            })
        };
        family.samples.iter().filter_map(point).collect()
    };
    match family.kind {
        Kind::Gauge => metric::Data::Gauge(Gauge { data_points: numbers(0) }),
        Kind::Counter(since) => metric::Data::Sum(Sum {
            data_points: numbers(begins.nanoseconds(since)),
            aggregation_temporality: cumulative,
            is_monotonic: true,
        }),
        Kind::Histogram => {
            let point = |sample: &Sample| {
                let metrics::Value::Distribution(distribution) = &sample.value else { return None };
                Some(HistogramDataPoint {
                    attributes: attributes(sample),
                    start_time_unix_nano: begins.nanoseconds(Since::Agent),
                    time_unix_nano: now,
                    count: distribution.count(),
                    sum: Some(distribution.sum),
                    bucket_counts: distribution.counts.clone(),
                    explicit_bounds: distribution.bounds.to_vec(),
                    ..HistogramDataPoint::default()
                })
            };
            let data_points = family.samples.iter().filter_map(point).collect();
            metric::Data::Histogram(Histogram { data_points, aggregation_temporality: cumulative })
        }
    }
}

#[cfg(test)]
mod tests {
    use node_types::log::{Kind, Record};
    use serde_json::json;

    use super::*;
    use crate::metrics::{Facts, families};

    fn source() -> Source {
        Source { node: "rnode1x".to_owned(), network: "testnet".to_owned() }
    }

    fn value<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a any_value::Value> {
        attributes.iter().find(|pair| pair.key == key)?.value.as_ref()?.value.as_ref()
    }

    #[test]
    fn a_record_keeps_its_time_level_job_and_fields() {
        let job = "00000000-0000-0000-0000-000000000007".parse().unwrap();
        let fields = [("n".to_owned(), json!(3)), ("deep".to_owned(), json!({"a": [1.5, null, "x"]}))];
        let record = Record {
            job: Some(job),
            fields: fields.into(),
            ..Record::new(Timestamp::from_ms(5), Level::Warn, Kind::Inference, "failed")
        };
        let (lost, now) = (BTreeMap::from([(Level::Info, 2), (Level::Error, 1)]), Timestamp::from_ms(9));
        let request = logs(&source(), &[Entry { seq: 7, record }], &lost, now);
        let of_node = &request.resource_logs[0];
        let resource = &of_node.resource.as_ref().unwrap().attributes;
        assert_eq!(value(resource, "service.name"), Some(&text("resultity-node")));
        assert_eq!(value(resource, "service.instance.id"), Some(&text("rnode1x")));
        let [loss, sent] = of_node.scope_logs[0].log_records.as_slice() else { panic!("{request:?}") };
        assert_eq!((sent.time_unix_nano, sent.observed_time_unix_nano), (5_000_000, 5_000_000));
        assert_eq!((sent.severity_number, sent.severity_text.as_str()), (13, "WARN"));
        assert_eq!(sent.body.as_ref().unwrap().value, Some(text("failed")));
        assert_eq!(
            value(&sent.attributes, "resultity.job"),
            Some(&text("00000000-0000-0000-0000-000000000007"))
        );
        assert_eq!(value(&sent.attributes, "resultity.record"), Some(&any_value::Value::IntValue(7)));
        assert_eq!(value(&sent.attributes, "resultity.field.n"), Some(&any_value::Value::IntValue(3)));
        assert!(matches!(
            value(&sent.attributes, "resultity.field.deep"),
            Some(any_value::Value::KvlistValue(_))
        ));
        assert_eq!(value(&loss.attributes, "resultity.lost.info"), Some(&any_value::Value::IntValue(2)));
        assert!(loss.severity_number == 13 && loss.time_unix_nano == 9_000_000);
    }

    #[test]
    fn a_record_without_a_time_was_seen_now_and_no_loss_is_no_record() {
        let record = Record::new(Timestamp::EPOCH, Level::Info, Kind::Agent, "early");
        let request = logs(&source(), &[Entry { seq: 1, record }], &BTreeMap::new(), Timestamp::from_ms(9));
        let [sent] = request.resource_logs[0].scope_logs[0].log_records.as_slice() else {
            panic!("{request:?}")
        };
        assert_eq!((sent.time_unix_nano, sent.observed_time_unix_nano), (0, 9_000_000));
    }

    #[test]
    fn every_family_is_sent_with_all_its_samples() {
        let families = families(&Facts::example());
        let begins = Begins { agent: Timestamp::from_ms(1), process: Some(0.5) };
        let request = metrics(&source(), &families, begins, Timestamp::from_ms(2));
        let sent = &request.resource_metrics[0].scope_metrics[0].metrics;
        assert_eq!(sent.len(), families.len());
        for (metric, family) in sent.iter().zip(&families) {
            let ratio = family.name.ends_with("_ratio");
            assert_eq!(metric.unit == "1", ratio, "{}: a collector would call it so", family.name);
            let points = match (metric.data.as_ref().unwrap(), family.kind) {
                (metric::Data::Gauge(gauge), metrics::Kind::Gauge) => gauge.data_points.len(),
                (metric::Data::Sum(sum), metrics::Kind::Counter(since)) => {
                    assert!(sum.is_monotonic && sum.aggregation_temporality == 2, "{}", family.name);
                    let began = match since {
                        Since::Volume => 0,
                        Since::Process => 500_000_000,
                        Since::Agent => 1_000_000,
                    };
                    assert!(sum.data_points.iter().all(|point| point.start_time_unix_nano == began));
                    sum.data_points.len()
                }
                (metric::Data::Histogram(histogram), metrics::Kind::Histogram) => {
                    let whole = |point: &HistogramDataPoint| {
                        point.bucket_counts.len() == point.explicit_bounds.len() + 1
                            && point.bucket_counts.iter().sum::<u64>() == point.count
                    };
                    assert!(histogram.data_points.iter().all(whole), "{}", family.name);
                    histogram.data_points.len()
                }
                other => panic!("{}: {other:?}", family.name),
            };
            assert_eq!((points, metric.name.as_str()), (family.samples.len(), family.name));
        }
    }
}
