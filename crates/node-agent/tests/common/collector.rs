//! A receiver of the protocol's own messages that answers as it is told, and a real collector that passes on to it.

use std::{
    collections::{BTreeSet, VecDeque},
    io::Write as _,
    net::TcpListener as PortFinder,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{
        HeaderMap, StatusCode,
        header::{CONTENT_ENCODING, RETRY_AFTER},
    },
    response::{IntoResponse as _, Response},
    routing::post,
};
use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::{ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse},
        metrics::v1::{
            ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
        },
    },
    common::v1::any_value,
    logs::v1::LogRecord,
    metrics::v1::Metric,
};
use prost::Message as _;
use tokio::{
    net::TcpListener,
    time::{Instant, sleep, timeout},
};

/// The longest that a collector is waited for.
const PATIENCE: Duration = Duration::from_secs(120);

/// What the receiver answers.
#[derive(Clone, Debug)]
pub enum Answer {
    /// Not now, with this status, but after so many seconds.
    Later(u16, u64),
    /// This status, and nothing more.
    Refused(u16),
    /// Success, but for so many records or points.
    Rejects(i64),
    /// Nothing, and never.
    Hangs,
}

#[derive(Default)]
pub struct Seen {
    /// What comes before it takes all log records.
    pub answers: VecDeque<Answer>,
    /// What comes before it takes all metrics.
    pub answers_to_metrics: VecDeque<Answer>,
    pub logs: Vec<ExportLogsServiceRequest>,
    pub metrics: Vec<ExportMetricsServiceRequest>,
    pub headers: Vec<HeaderMap>,
    /// When log records came.
    pub times: Vec<Instant>,
    /// When metrics came.
    pub times_of_metrics: Vec<Instant>,
}

#[derive(Clone)]
pub struct Receiver {
    pub seen: Arc<Mutex<Seen>>,
    pub url: String,
}

impl Receiver {
    pub async fn start(answers: impl IntoIterator<Item = Answer>) -> Self {
        let seen = Arc::new(Mutex::new(Seen { answers: answers.into_iter().collect(), ..Seen::default() }));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let routes = Router::new()
            .route("/v1/logs", post(take_logs))
            .route("/v1/metrics", post(take_metrics))
            .with_state(Arc::clone(&seen));
        tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        Self { seen, url }
    }

    /// The requests with log records so far.
    pub fn requests(&self) -> Vec<Vec<LogRecord>> {
        let records = |request: &ExportLogsServiceRequest| {
            let of_nodes = request.resource_logs.iter().flat_map(|logs| &logs.scope_logs);
            of_nodes.flat_map(|scope| scope.log_records.clone()).collect()
        };
        self.seen.lock().unwrap().logs.iter().map(records).collect()
    }

    pub fn bodies(&self) -> Vec<String> {
        self.requests().concat().iter().map(body).collect()
    }

    /// The metrics in each push.
    pub fn pushes(&self) -> Vec<Vec<Metric>> {
        let metrics = |push: &ExportMetricsServiceRequest| {
            let scopes = push.resource_metrics.iter().flat_map(|of_node| &of_node.scope_metrics);
            scopes.flat_map(|scope| scope.metrics.clone()).collect()
        };
        self.seen.lock().unwrap().metrics.iter().map(metrics).collect()
    }

    /// The names in each push.
    pub fn names(&self) -> Vec<BTreeSet<String>> {
        let names = |push: Vec<Metric>| push.into_iter().map(|metric| metric.name).collect();
        self.pushes().into_iter().map(names).collect()
    }
}

/// A body as it was before compression: the real collector compresses whatever it passes on.
fn plain(headers: &HeaderMap, body: &Bytes) -> Vec<u8> {
    if headers.get(CONTENT_ENCODING).is_none_or(|encoding| encoding != "gzip") {
        return body.to_vec();
    }
    let gzip = Command::new("gzip").arg("-dc").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut gzip = gzip.unwrap();
    // Far below what a pipe holds.
    gzip.stdin.take().unwrap().write_all(body).unwrap();
    gzip.wait_with_output().unwrap().stdout
}

/// How much is rejected, or the answer that is no success.
async fn judge(answer: Option<Answer>) -> Result<i64, Response> {
    let status = |code: u16| StatusCode::from_u16(code).unwrap();
    match answer {
        Some(Answer::Later(code, seconds)) => {
            Err((status(code), [(RETRY_AFTER, seconds.to_string())]).into_response())
        }
        Some(Answer::Refused(code)) => Err(status(code).into_response()),
        Some(Answer::Hangs) => std::future::pending().await,
        Some(Answer::Rejects(count)) => Ok(count),
        None => Ok(0),
    }
}

async fn take_logs(State(seen): State<Arc<Mutex<Seen>>>, headers: HeaderMap, body: Bytes) -> Response {
    let (answer, requests) = {
        let mut seen = seen.lock().unwrap();
        seen.times.push(Instant::now());
        assert_eq!(headers["content-type"], "application/x-protobuf");
        seen.logs.push(ExportLogsServiceRequest::decode(plain(&headers, &body).as_slice()).unwrap());
        seen.headers.push(headers);
        (seen.answers.pop_front(), seen.logs.len())
    };
    let rejected_log_records = match judge(answer).await {
        Ok(rejected) => rejected,
        Err(response) => return response,
    };
    // Its words are others each time.
    let error_message = format!("too old, says request {requests}");
    let partial = ExportLogsPartialSuccess { rejected_log_records, error_message };
    let partial_success = (rejected_log_records > 0).then_some(partial);
    ExportLogsServiceResponse { partial_success }.encode_to_vec().into_response()
}

async fn take_metrics(State(seen): State<Arc<Mutex<Seen>>>, headers: HeaderMap, body: Bytes) -> Response {
    let answer = {
        let mut seen = seen.lock().unwrap();
        seen.times_of_metrics.push(Instant::now());
        seen.metrics.push(ExportMetricsServiceRequest::decode(plain(&headers, &body).as_slice()).unwrap());
        seen.answers_to_metrics.pop_front()
    };
    let rejected_data_points = match judge(answer).await {
        Ok(rejected) => rejected,
        Err(response) => return response,
    };
    let partial =
        ExportMetricsPartialSuccess { rejected_data_points, error_message: "too many series".to_owned() };
    let partial_success = (rejected_data_points > 0).then_some(partial);
    ExportMetricsServiceResponse { partial_success }.encode_to_vec().into_response()
}

pub fn body(record: &LogRecord) -> String {
    match record.body.as_ref().and_then(|body| body.value.as_ref()) {
        Some(any_value::Value::StringValue(text)) => text.clone(),
        other => panic!("{other:?}"),
    }
}

/// An attribute of a record, if it has one of that name.
pub fn attribute(record: &LogRecord, key: &str) -> Option<any_value::Value> {
    record.attributes.iter().find(|pair| pair.key == key)?.value.clone()?.value
}

/// A real collector, which ends with the test.
pub struct Collector(Child);

impl Drop for Collector {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Collector {
    /// Starts it between two addresses. It takes no port 0: one that somebody else takes first is tried again.
    pub async fn start(to: &str) -> (Self, String) {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
        let set_up = Command::new(root.join("scripts/collector")).output().unwrap();
        assert!(set_up.status.success(), "scripts/collector: {}", String::from_utf8_lossy(&set_up.stderr));
        for _ in 0..20 {
            // Both are let go before it starts: it would find them taken, and whoever waits for it would reach the finder.
            let [grpc, http] = {
                let finders = [(); 2].map(|()| PortFinder::bind("127.0.0.1:0").unwrap());
                finders.map(|finder| finder.local_addr().unwrap())
            };
            let child = Command::new(root.join(".tools/collector/rotel-agent"))
                .args(["start", "--otlp-grpc-endpoint", &grpc.to_string()])
                .args(["--otlp-http-endpoint", &http.to_string()])
                .args(["--exporter", "otlp", "--otlp-exporter-protocol", "http"])
                .args(["--otlp-exporter-endpoint", to])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn();
            let mut collector = Self(child.unwrap());
            let listens = async {
                loop {
                    if tokio::net::TcpStream::connect(http).await.is_ok() {
                        return true;
                    }
                    if collector.0.try_wait().unwrap().is_some() {
                        return false;
                    }
                    sleep(Duration::from_millis(20)).await;
                }
            };
            if timeout(PATIENCE, listens).await.unwrap() {
                return (collector, format!("http://{http}"));
            }
        }
        panic!("the collector found no port");
    }
}
