//! Log records and metrics on their way to a collector: what it says decides what becomes of them. The receiver reads the
//! protocol's own messages; the last test has a real collector between node and receiver.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test that cannot go on must fail, and has files of its own"
)]

#[path = "common/settings.rs"]
mod settings;

#[path = "common/collector.rs"]
mod collector;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use collector::{Answer, Collector, Receiver, attribute, body};
use node_agent::{
    author::Author,
    metrics,
    node::Node,
    settings::{ExportSettings, LogFileSettings, OtlpSettings, Settings},
    standing, targets, time,
};
use node_store::{
    logs::{Query, TargetState},
    store::{Options, Store},
};
use node_types::{
    Network,
    log::{Kind, Level},
};
use opentelemetry_proto::tonic::{
    common::v1::any_value,
    metrics::v1::{Metric, metric::Data},
};
use settings::settings;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

/// The longest that anything is waited for.
const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until something is there.
async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let waiting = async {
        loop {
            if let Some(found) = look() {
                return found;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("not in time: {what}"))
}

/// A node without a network, and its targets.
struct Scene {
    home: tempfile::TempDir,
    node: Arc<Node>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

fn otlp(receiver: &Receiver, required: bool) -> ExportSettings {
    let otlp = OtlpSettings { required, metrics: false, ..OtlpSettings::at(receiver.url.clone()) };
    ExportSettings { otlp: Some(otlp), log_file: None }
}

impl Scene {
    async fn set(exports: ExportSettings) -> Self {
        let home = tempfile::tempdir().unwrap();
        let options = Options { reserve_bytes: 1 << 20, ..Options::new(home.path(), Network::Testnet) };
        let store = Store::create(&options, None, &time::reading().unwrap()).unwrap();
        Self::on(home, store, exports).await
    }

    async fn on(home: tempfile::TempDir, store: Store, exports: ExportSettings) -> Self {
        let store = Arc::new(store);
        let author = Author::new(Arc::clone(&store)).unwrap();
        let settings = Settings { exports, ..settings(home.path()) };
        let (node, _) = Node::new(store, author, settings).unwrap();
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        targets::start(&node, &mut tasks, &stopped).await.unwrap();
        Self { home, node, stop, tasks }
    }

    /// As after a stop and a start, with other settings.
    async fn again(mut self, exports: ExportSettings) -> Self {
        self.stop.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
        drop(self.node);
        let options = Options { reserve_bytes: 1 << 20, ..Options::new(self.home.path(), Network::Testnet) };
        let store =
            eventually("the volume is free", || Store::open(&options, &time::reading().unwrap()).ok());
        let store = store.await;
        Self::on(self.home, store, exports).await
    }

    fn note(&self, text: &str) {
        self.node.journal.note(Level::Info, Kind::Agent, text);
    }

    fn state(&self, name: &str) -> TargetState {
        let states = self.node.store.view().logs().targets().unwrap();
        states.into_iter().find(|state| state.name == name).unwrap()
    }

    /// What Prometheus would read for a series, its labels as they are written.
    fn figure(&self, series: &str) -> f64 {
        let text = tokio::task::block_in_place(|| metrics::text(&self.node));
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {series} in {text}")).parse().unwrap()
    }

    /// How far a target is behind, in seconds.
    fn lag(&self, name: &str) -> f64 {
        self.figure(&format!("resultity_log_lag_seconds{{target=\"{name}\"}}"))
    }

    /// Everything that is on disk of what the node said of itself and holds `text`.
    fn said(&self, text: &str) -> usize {
        let query = Query { text: Some(text.to_owned()), ..Query::default() };
        self.node.store.view().logs().query(&query).unwrap().len()
    }

    async fn delivered(&self, name: &str) {
        eventually("it has everything", || {
            let flushed = self.node.store.logs().flush().wait().is_ok();
            (flushed && self.state(name).waiting == 0).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_busy_collector_does_not_take_is_held_and_comes_once_and_in_order() {
    let receiver = Receiver::start([Answer::Later(503, 1), Answer::Later(503, 1)]).await;
    let scene = Scene::set(otlp(&receiver, true)).await;
    scene.note("first");
    eventually("it was asked twice", || (receiver.requests().len() >= 2).then_some(())).await;
    scene.note("second");
    scene.delivered("otlp").await;
    let taken: Vec<String> = receiver.requests()[2..].concat().iter().map(body).collect();
    let place = |text: &str| taken.iter().filter(|body| *body == text).count();
    assert_eq!((place("first"), place("second")), (1, 1), "{taken:?}");
    assert!(taken.iter().position(|it| it == "first") < taken.iter().position(|it| it == "second"));
    assert!(taken.iter().any(|it| it.contains("503")), "the node says why: {taken:?}");
    assert!(scene.state("otlp").lost.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_collector_refuses_is_lost_for_it_said_once_and_told_with_the_next_records() {
    let receiver = Receiver::start([Answer::Refused(400), Answer::Refused(400)]).await;
    let scene = Scene::set(otlp(&receiver, true)).await;
    scene.note("never taken");
    // The second batch is what the node said of the first refusal.
    let both = || scene.state("otlp").lost.values().sum::<u64>() == 2;
    eventually("both refusals are over", || both().then_some(())).await;
    scene.note("taken");
    scene.delivered("otlp").await;
    let lost = scene.state("otlp").lost;
    assert_eq!((lost[&Level::Info], lost[&Level::Error]), (1, 1), "{lost:?}");
    let of = |target: &str, level: &str| {
        let labels = format!("{{target=\"{target}\",level=\"{level}\"}}");
        scene.figure(&format!("resultity_log_records_lost_total{labels}"))
    };
    assert_eq!(["info", "warn", "error"].map(|level| of("otlp", level)), [1.0, 0.0, 1.0]);
    assert_eq!(["info", "warn", "error"].map(|level| of("network", level)), [0.0; 3]);
    assert_eq!(scene.figure("resultity_log_records_rejected_total{target=\"otlp\"}"), 0.0);
    assert_eq!(scene.said("refuses log records"), 1);
    let bodies = receiver.bodies();
    assert_eq!(
        bodies.iter().filter(|it| *it == "never taken").count(),
        1,
        "it is never sent again: {bodies:?}"
    );
    let told: Vec<_> = bodies.iter().filter(|it| it.contains("were lost for this collector")).collect();
    assert!(told.iter().any(|it| it.starts_with("2 ")), "{told:?}");
    assert_eq!(scene.said("never taken"), 1, "the network has not got it, so it is still here");
    assert!(scene.node.store.view().logs().losses().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_collector_takes_in_part_is_never_sent_again_and_the_rest_is_counted() {
    let receiver = Receiver::start([Answer::Rejects(1)]).await;
    let scene = Scene::set(otlp(&receiver, true)).await;
    scene.note("old");
    eventually("it was taken", || (scene.state("otlp").rejected > 0).then_some(())).await;
    scene.note("new");
    scene.delivered("otlp").await;
    assert_eq!(receiver.bodies().iter().filter(|it| *it == "old").count(), 1);
    assert_eq!(scene.state("otlp").rejected, 1);
    assert_eq!(scene.figure("resultity_log_records_rejected_total{target=\"otlp\"}"), 1.0);
    assert_eq!(scene.said("but for 1: too old"), 1);
}

/// What is said of a rejection is a record, and may be rejected with other words: once, that went on for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_collector_whose_words_differ_each_time_feeds_no_log() {
    let receiver = Receiver::start((0..12).map(|_| Answer::Rejects(1))).await;
    let scene = Scene::set(otlp(&receiver, true)).await;
    scene.note("old");
    eventually("it was taken", || (scene.state("otlp").rejected > 0).then_some(())).await;
    scene.delivered("otlp").await;
    let said = scene.said("but for 1: too old");
    assert!((1..=3).contains(&said), "{said}");
}

/// More than a collector was sent it cannot have rejected. Once, two such answers made a sum that the store refuses: the cursor
/// stayed where it was, and the same records were sent every second.
#[tokio::test(flavor = "multi_thread")]
async fn a_count_of_rejected_records_that_cannot_be_is_not_believed() {
    let receiver = Receiver::start([Answer::Rejects(i64::MAX), Answer::Rejects(i64::MAX)]).await;
    let scene = Scene::set(otlp(&receiver, true)).await;
    scene.note("old");
    eventually("both are over", || (receiver.requests().len() >= 2).then_some(())).await;
    scene.note("new");
    eventually("what comes next is taken", || receiver.bodies().iter().any(|it| it == "new").then_some(()))
        .await;
    scene.delivered("otlp").await;
    let bodies = receiver.bodies();
    assert_eq!(bodies.iter().filter(|it| *it == "old").count(), 1, "{bodies:?}");
    let rejected = scene.state("otlp").rejected;
    assert!((2..=bodies.len() as u64).contains(&rejected), "{rejected} of {bodies:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_refuses_does_not_lose_everything_at_once() {
    let receiver = Receiver::start([Answer::Refused(400), Answer::Refused(400)]).await;
    let scene = Scene::set(otlp(&receiver, true)).await;
    // More than one batch.
    let long = "x".repeat(4 << 10);
    (0..300).for_each(|_| scene.note(&long));
    eventually("it was asked again", || (receiver.requests().len() >= 2).then_some(())).await;
    let times = receiver.seen.lock().unwrap().times.clone();
    assert!(times[1] - times[0] >= Duration::from_millis(500), "{times:?}");
    scene.delivered("otlp").await;
}

/// How often a record comes to a collector that gives this answer first, and how long it is left alone after it.
async fn after(answer: Answer) -> (usize, Duration) {
    let receiver = Receiver::start([answer]).await;
    let scene = Scene::set(otlp(&receiver, true)).await;
    scene.note("first");
    eventually("it was asked again", || (receiver.requests().len() >= 2).then_some(())).await;
    scene.delivered("otlp").await;
    let times = receiver.seen.lock().unwrap().times.clone();
    let came = receiver.bodies().iter().filter(|it| *it == "first").count();
    (came, times[1] - times[0])
}

/// "Retryable Response Codes" of the protocol, over the wire.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_protocol_calls_retryable_is_sent_again_after_the_time_it_names_and_nothing_else_is() {
    // Longer than the node would wait by itself.
    let asked = 3;
    let (mut again, mut never) = (JoinSet::new(), JoinSet::new());
    for status in [429, 502, 503, 504] {
        again.spawn(async move { (status, after(Answer::Later(status, asked)).await) });
    }
    for status in [401, 404, 408, 413, 500, 501] {
        never.spawn(async move { (status, after(Answer::Later(status, 0)).await) });
    }
    for (status, (came, left_alone)) in again.join_all().await {
        assert_eq!(came, 2, "{status}");
        assert!(left_alone >= Duration::from_secs(asked), "{status}: it came again after {left_alone:?}");
    }
    for (status, (came, _)) in never.join_all().await {
        assert_eq!(came, 1, "{status} is sent again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_wait_as_long_as_they_are_told_and_what_was_taken_in_part_is_not_sent_again() {
    let receiver = Receiver::start([]).await;
    let answers = [Answer::Later(429, 2), Answer::Rejects(3), Answer::Refused(400)];
    receiver.seen.lock().unwrap().answers_to_metrics.extend(answers);
    let otlp = OtlpSettings { logs: false, metrics_ms: 20, ..OtlpSettings::at(receiver.url.clone()) };
    let scene = Scene::set(ExportSettings { otlp: Some(otlp), log_file: None }).await;
    eventually("they come after each answer", || (receiver.pushes().len() >= 5).then_some(())).await;
    let times = receiver.seen.lock().unwrap().times_of_metrics.clone();
    assert!(times[1] - times[0] >= Duration::from_secs(2), "{times:?}");
    // Each is measured anew: none is what went before.
    let measured = |push: &Vec<Metric>| {
        let info = push.iter().find(|metric| metric.name == "resultity_build_info").unwrap();
        let Some(Data::Gauge(gauge)) = &info.data else { panic!("no gauge: {info:?}") };
        gauge.data_points[0].time_unix_nano
    };
    let measured: Vec<u64> = receiver.pushes().iter().map(measured).collect();
    assert!(measured.is_sorted_by(|before, after| before < after), "{measured:?}");
    scene.node.store.logs().flush().wait().unwrap();
    assert_eq!(scene.said("took the metrics but for 3 points: too many series"), 1);
    assert_eq!(scene.said("429"), 1, "it was asked so once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_wants_to_be_left_alone_is_not_asked_at_the_end() {
    let receiver = Receiver::start([Answer::Later(503, 3600)]).await;
    let mut scene = Scene::set(otlp(&receiver, true)).await;
    scene.note("later");
    eventually("it was asked", || (receiver.requests().len() == 1).then_some(())).await;
    scene.stop.send_replace(true);
    while scene.tasks.join_next().await.is_some() {}
    assert_eq!(receiver.requests().len(), 1);
    assert_eq!(scene.said("later"), 1, "it is here for the next start");
}

/// Logs stop no job: once, a folder that could not be made ended the Agent.
#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_cannot_be_used_stops_nothing_and_gets_all_once_it_can() {
    let folder = tempfile::tempdir().unwrap();
    let in_the_way = folder.path().join("logs");
    std::fs::write(&in_the_way, "a file").unwrap();
    let files = LogFileSettings::in_folder(in_the_way.clone());
    let scene = Scene::set(ExportSettings { otlp: None, log_file: Some(files) }).await;
    scene.note("held");
    eventually("the node says why", || {
        let _ = scene.node.store.logs().flush().wait();
        (scene.said("set log_file.folder") > 0).then_some(())
    })
    .await;
    std::fs::remove_file(&in_the_way).unwrap();
    scene.delivered("file").await;
    let text = std::fs::read_to_string(in_the_way.join("resultity-testnet.jsonl")).unwrap();
    assert!(text.contains("\"held\""), "{text}");
}

/// As after a start at which the store could not keep who gets the log.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_the_store_does_not_know_is_made_known_while_the_node_runs() {
    let receiver = Receiver::start([]).await;
    let scene = Scene::set(otlp(&receiver, true)).await;
    scene.node.store.logs().set_targets(Vec::new()).await.unwrap();
    scene.note("hello");
    eventually("it gets the log", || receiver.bodies().iter().any(|it| it == "hello").then_some(())).await;
    assert!(scene.state("otlp").required);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metrics_and_the_report_say_the_same_of_what_the_volume_takes() {
    let scene = Scene::set(ExportSettings::default()).await;
    let aside = scene.home.path().join("testnet/models/quarantine");
    std::fs::create_dir_all(&aside).unwrap();
    std::fs::write(aside.join(format!("{}-1", "0".repeat(64))), "moved aside").unwrap();
    let (measured, report) = tokio::task::block_in_place(|| {
        (metrics::gather(&scene.node).storage, standing::of_agent(&scene.node).unwrap().storage)
    });
    assert!(report.iter().any(|of| of.class == "models" && of.bytes > 0), "{report:?}");
    assert_eq!(measured, Some(report));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_does_not_answer_holds_nothing_up_and_gets_it_later() {
    let receiver = Receiver::start([Answer::Hangs]).await;
    let folder = tempfile::tempdir().unwrap();
    let files = LogFileSettings::in_folder(folder.path().join("logs"));
    let exports = ExportSettings { log_file: Some(files), ..otlp(&receiver, true) };
    let scene = Scene::set(exports).await;
    scene.note("patience");
    scene.delivered("file").await;
    let text = std::fs::read_to_string(folder.path().join("logs/resultity-testnet.jsonl")).unwrap();
    assert!(text.contains("\"patience\""), "{text}");
    scene.delivered("otlp").await;
    assert!(receiver.bodies().iter().filter(|it| *it == "patience").count() >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn how_far_behind_a_target_is_has_a_figure_of_its_own_and_none_is_behind_that_has_all() {
    let receiver = Receiver::start((0..10_000).map(|_| Answer::Later(503, 1))).await;
    let folder = tempfile::tempdir().unwrap();
    let files = LogFileSettings::in_folder(folder.path().join("logs"));
    let scene = Scene::set(ExportSettings { log_file: Some(files), ..otlp(&receiver, true) }).await;
    scene.note("long ago");
    // Long enough for a figure that stands for the wrong target to be seen.
    eventually("the file has all, and the collector nothing", || {
        let _ = scene.node.store.logs().flush().wait();
        (scene.lag("otlp") > 3.0 && scene.lag("file") == 0.0).then_some(())
    })
    .await;
    let oldest = scene.state("otlp").oldest.unwrap();
    let age = || time::now(&scene.node.store).unwrap().since_ms(oldest) as f64 / 1000.0;
    let (before, lag, after) = (age(), scene.lag("otlp"), age());
    assert!((before..=after).contains(&lag), "{lag} s, where it is {before} to {after} s behind");
    assert!(scene.figure("resultity_log_waiting_records{target=\"otlp\"}") >= 1.0);

    receiver.seen.lock().unwrap().answers.clear();
    eventually("it has all, too", || {
        let _ = scene.node.store.logs().flush().wait();
        (scene.lag("otlp") == 0.0 && scene.lag("file") == 0.0).then_some(())
    })
    .await;
    assert!(receiver.bodies().iter().any(|it| it == "long ago"));
    assert!(scene.lag("network") > 3.0, "nobody has sent it to the network");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_survives_a_restart_and_a_target_that_is_gone_is_forgotten() {
    let receiver = Receiver::start([]).await;
    let scene = Scene::set(otlp(&receiver, true)).await;
    scene.note("before");
    scene.delivered("otlp").await;
    let scene = scene.again(otlp(&receiver, true)).await;
    scene.note("after");
    scene.delivered("otlp").await;
    let bodies = receiver.bodies();
    assert_eq!(bodies.iter().filter(|it| *it == "before").count(), 1, "{bodies:?}");
    assert_eq!(bodies.iter().filter(|it| *it == "after").count(), 1, "{bodies:?}");

    let scene = scene.again(ExportSettings::default()).await;
    let names: Vec<_> =
        scene.node.store.view().logs().targets().unwrap().into_iter().map(|it| it.name).collect();
    assert_eq!(names, ["network"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_come_from_a_private_file_and_are_sent_and_never_said() {
    use std::os::unix::fs::PermissionsExt as _;
    let receiver = Receiver::start([Answer::Later(503, 1)]).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("headers");
    std::fs::write(&file, "authorization: Bearer CANARY\n").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let mut exports = otlp(&receiver, true);
    exports.otlp.as_mut().unwrap().headers_file = Some(file);
    let scene = Scene::set(exports).await;
    scene.note("hello");
    scene.delivered("otlp").await;
    assert_eq!(receiver.seen.lock().unwrap().headers[0]["authorization"], "Bearer CANARY");
    assert_eq!(scene.said("CANARY"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_sent_every_so_often_and_once_at_the_end() {
    let receiver = Receiver::start([]).await;
    let mut exports = otlp(&receiver, true);
    let settings = exports.otlp.as_mut().unwrap();
    // Nothing is due within the test: what comes is the end's.
    (settings.logs, settings.metrics, settings.metrics_ms) = (false, true, 3_600_000);
    let mut scene = Scene::set(exports).await;
    scene.stop.send_replace(true);
    while scene.tasks.join_next().await.is_some() {}
    assert_eq!(receiver.names().len(), 1);

    let otlp = OtlpSettings { logs: false, metrics_ms: 20, ..OtlpSettings::at(receiver.url.clone()) };
    let _scene = Scene::set(ExportSettings { otlp: Some(otlp), log_file: None }).await;
    eventually("metrics come again and again", || (receiver.names().len() >= 4).then_some(())).await;
    assert!(receiver.names().iter().all(|push| push.contains("resultity_build_info")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_collector_takes_logs_and_metrics_and_passes_them_on() {
    let receiver = Receiver::start([]).await;
    let (_collector, url) = Collector::start(&receiver.url).await;
    let otlp = OtlpSettings { required: true, metrics_ms: 100, ..OtlpSettings::at(url) };
    let scene = Scene::set(ExportSettings { otlp: Some(otlp), log_file: None }).await;
    let job = "00000000-0000-0000-0000-000000000007".parse().unwrap();
    let fields = [("duration_ms", serde_json::json!(12))];
    scene.node.journal.measured(Level::Warn, Kind::Inference, Some(job), "through a collector", fields);
    let record = eventually("the record arrives", || {
        receiver.requests().concat().into_iter().find(|record| body(record) == "through a collector")
    })
    .await;
    let attribute = |key: &str| attribute(&record, key);
    let text = |text: &str| Some(any_value::Value::StringValue(text.to_owned()));
    assert_eq!((record.severity_number, record.severity_text.as_str()), (13, "WARN"));
    assert_eq!(attribute("resultity.job"), text("00000000-0000-0000-0000-000000000007"));
    assert_eq!(attribute("resultity.kind"), text("inference"));
    assert_eq!(attribute("resultity.field.duration_ms"), Some(any_value::Value::IntValue(12)));
    assert!(record.time_unix_nano > 0 && record.observed_time_unix_nano > 0);
    eventually("metrics arrive", || {
        let names: BTreeSet<_> = receiver.names().into_iter().flatten().collect();
        let wanted =
            ["resultity_build_info", "resultity_commit_duration_seconds", "resultity_offline_seconds_total"];
        wanted.iter().all(|name| names.contains(*name)).then_some(())
    })
    .await;
    scene.delivered("otlp").await;
    assert!(scene.state("otlp").lost.is_empty());
}
