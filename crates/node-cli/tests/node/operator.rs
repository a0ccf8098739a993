//! What an operator has, all of it, on one node that does real inference: the report and the page, metrics, a collector and log
//! files, the story of a job, the log, backup and restore, a bundle, the doctor, and the hand-over to another machine.

use std::{
    collections::BTreeSet,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use node_store::{
    keys::{NodeKey, export_keystore},
    store::{Options, Store},
    view::View,
};
use node_types::{Digest, Network, id::hex_encode};
use opentelemetry_proto::tonic::{common::v1::any_value::Value as Text, metrics::v1::metric::Data};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::{
    collector::{Collector, Receiver, attribute, body},
    copies::{archive, boots, exit_code, fence, new_home, passphrase, well},
    models::{set_as, tools},
    stage::{Stage, eventually, with},
};

const PROMPT: &str = "CANARY-PROMPT";
/// Checks of the doctor whose finding is the test machine's, whatever the node.
const OF_THE_MACHINE: [&str; 4] = ["space", "file-system", "sandbox", "limits"];

/// The node's key; its hash is as good as drawn.
fn key() -> [u8; 32] {
    *Digest::of(b"CANARY-KEY").as_bytes()
}

/// The template for jobs that run one after the other, however long a slow machine takes, and whose records stay here.
pub fn one_at_a_time(template: Value) -> Value {
    let template = with(template, "/limits/concurrency", 1);
    let template = with(template, "/limits/execution_timeout_ms", 600_000);
    with(template, "/timings/flush_ms", 600_000)
}

/// A node with that key and the real model, which keeps its records and gives them to a collector and to files.
async fn set(otlp: &str, files: &Path) -> Stage {
    let settings = format!(
        "[otlp]\nendpoint = \"{otlp}\"\nrequired = true\nmetrics_ms = 200\n\
         [log_file]\nfolder = {}\nbytes_max = 4096\nfiles_max = 64\n",
        json!(files)
    );
    let stage = set_as(&tools().join("models"), &settings, one_at_a_time).await;
    let node_key = NodeKey::from_bytes(&Zeroizing::new(key())).unwrap();
    let keystore = export_keystore(&node_key, &Zeroizing::new("correct horse".to_owned())).unwrap();
    let (file, pass) = (stage.folder.path().join("key.json"), passphrase(&stage));
    std::fs::write(&file, keystore).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::remove_dir_all(stage.home().join("testnet")).unwrap();
    well(stage.command(&["init", "--key-file", file.to_str().unwrap(), "--passphrase-file", &pass]));
    stage
}

/// Hands in a completion of so many tokens, whatever the model would say.
pub async fn submit_long(stage: &Stage, prompt: &str, tokens: u32) -> String {
    let request = json!({
        "model": "m", "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": true, "stop": ["<never>"],
    });
    let body = json!({ "mode": "completion", "request": request, "ttl_ms": 600_000 });
    stage.post("/v1/devnet/jobs", &body).await["id"].as_str().unwrap().to_owned()
}

pub fn json_of(stage: &Stage, arguments: &[&str]) -> Value {
    serde_json::from_str(&well(stage.command(&[&["--json"], arguments].concat()))).unwrap()
}

/// The records that `logs` shows.
pub fn records(stage: &Stage, arguments: &[&str]) -> Vec<Value> {
    let said = well(stage.command(&[&["--json", "logs"], arguments].concat()));
    said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// The steps of a job that its node tells of.
pub fn steps(explained: &Value) -> Vec<&str> {
    explained["events"].as_array().unwrap().iter().map(|event| event["step"].as_str().unwrap()).collect()
}

fn view(home: &Path) -> View {
    Store::view_only(&Options::new(home, Network::Testnet)).unwrap()
}

async fn works(home: &Path) {
    eventually("a job is with the runtime", || async {
        (view(home).jobs().counts().unwrap().running == 1).then_some(())
    })
    .await;
}

pub async fn acknowledged(stage: &Stage, job: &str) {
    eventually(&format!("the node knows that job {job} has ended"), || async {
        (json_of(stage, &["jobs", "explain", job])["held"] == false).then_some(())
    })
    .await;
}

/// The longest part of an answer that stands in JSON as it is.
fn quotable(job: &Value) -> String {
    let answer: Value = serde_json::from_str(job["output"]["body"].as_str().unwrap()).unwrap();
    let text = answer["choices"][0]["text"].as_str().unwrap().to_owned();
    let parts = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != ' ');
    let longest = parts.max_by_key(|part| part.len()).unwrap().trim().to_owned();
    assert!(longest.len() >= 12, "{text:?}");
    longest
}

/// The files with log records, in one.
fn log_files(folder: &Path) -> (BTreeSet<String>, String) {
    let paths: Vec<PathBuf> =
        std::fs::read_dir(folder).into_iter().flatten().map(|it| it.unwrap().path()).collect();
    let names = paths.iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect();
    // One that is rotated away meanwhile is read the next time.
    (names, paths.iter().map(|path| std::fs::read_to_string(path).unwrap_or_default()).collect())
}

/// A report without what differs between two looks in one moment.
fn steady(report: &Value) -> Value {
    let mut report = report.clone();
    for moving in ["time", "hardware", "storage"] {
        assert!(report.as_object_mut().unwrap().remove(moving).is_some(), "{moving}");
    }
    report
}

/// `status`, the page and the heartbeat while a job is with the runtime, another one waits, and these have ended, the newest
/// first.
async fn the_reports_agree(stage: &Stage, job: &str, ended: [&str; 2]) {
    let page = stage.page().await;
    let (told, by_page) = eventually("both say the same", || async {
        let told = json_of(stage, &["status"]);
        let asked = reqwest::get(format!("{page}/v1/status")).await.unwrap().bytes().await.unwrap();
        let by_page: Value = serde_json::from_slice(&asked).unwrap();
        (steady(&told) == steady(&by_page)).then_some((told, by_page))
    })
    .await;
    assert_eq!(told["jobs"]["at_work"][0]["job"], job, "{told}");
    assert_eq!((&told["source"], &by_page["agent"]["readiness"]), (&"agent".into(), &"active".into()));
    // That they agree says nothing where both are wrong.
    let jobs = &told["jobs"];
    let counts = ["queued", "running", "unsent", "held", "expired"].map(|count| jobs[count].as_u64());
    assert_eq!(counts, [1, 1, 0, 2, 0].map(Some), "{jobs}");
    let lately = jobs["lately"].as_array().unwrap();
    assert_eq!(lately.iter().map(|it| it["job"].as_str().unwrap()).collect::<Vec<_>>(), ended, "{jobs}");
    assert_eq!((&lately[0]["outcome"], &lately[1]["outcome"]), (&"failed".into(), &"answered".into()));
    assert_eq!(lately[1]["completion_tokens"], 40, "{jobs}");
    eventually("the heartbeat tells of the same job and of the machine", || async {
        let beat = stage.get("state").await["nodes"][0]["heartbeat"].clone();
        let machine = &beat["hardware"];
        let there = |part: &str| machine.pointer(part).and_then(Value::as_u64).is_some_and(|it| it > 0);
        let parts = [
            "/processor/threads",
            "/memory/total_bytes",
            "/memory/free_bytes",
            "/disk/total_bytes",
            "/disk/free_bytes",
        ];
        (beat["jobs"]["running"] == 1 && parts.into_iter().all(there)).then_some(())
    })
    .await;
}

/// Metrics by Prometheus and through the collector are what the jobs' own stories say.
async fn the_figures_are_those_of_the_jobs(stage: &Stage, receiver: &Receiver, jobs: &[&str]) {
    let page = stage.page().await;
    let (count, prompt, written) = eventually("they agree", || async {
        let text = reqwest::get(format!("{page}/metrics")).await.unwrap().text().await.unwrap();
        let figure = |name: &str| -> f64 {
            let line =
                text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}"));
            line.trim().parse().unwrap()
        };
        let explained: Vec<Value> =
            jobs.iter().map(|job| json_of(stage, &["jobs", "explain", job])).collect();
        let events = explained.iter().flat_map(|job| job["events"].as_array().unwrap());
        let runs: Vec<&Value> = events.filter(|event| event["step"] == "finished").collect();
        let sum = |field: &str| runs.iter().map(|run| run[field].as_u64().unwrap()).sum::<u64>();
        let told = (runs.len() as u64, sum("prompt_tokens"), sum("completion_tokens"));
        let seconds = figure("resultity_inference_duration_seconds_sum{model=\"m@1\"}");
        let measured = [
            "resultity_inference_duration_seconds_count{model=\"m@1\"}",
            "resultity_tokens_total{model=\"m@1\",kind=\"prompt\"}",
            "resultity_tokens_total{model=\"m@1\",kind=\"completion\"}",
        ]
        .map(figure);
        assert!(seconds > 0.0, "{text}");
        let agree = measured == [told.0, told.1, told.2].map(|it| it as f64);
        // From the lease to the answer is a little longer than the run.
        (agree && seconds * 1000.0 < sum("duration_ms") as f64 + 1000.0).then_some(told)
    })
    .await;
    assert!(count >= 1 && prompt > 0 && written >= count, "{count} runs, {prompt} + {written} tokens");
    eventually("the collector has the same", || async {
        let last = receiver.pushes().pop()?;
        let of = |name: &str| last.iter().find(|metric| metric.name == name)?.data.clone();
        let Data::Histogram(runs) = of("resultity_inference_duration_seconds")? else {
            panic!("no histogram")
        };
        (runs.data_points[0].count >= count && runs.data_points[0].sum? > 0.0).then_some(())
    })
    .await;
}

/// What the log says of an answered job and of one that failed: by the command line, in the files and at the collector.
async fn the_log_is_everywhere(
    stage: &Stage,
    receiver: &Receiver,
    files: &Path,
    answered: &str,
    failed: &str,
) {
    let of_job = records(stage, &["--job", answered]);
    assert!(of_job.iter().all(|record| record["job"] == answered), "{of_job:?}");
    let said = of_job.iter().find(|record| record["message"] == "answered").unwrap();
    assert!(said["fields"]["duration_ms"].as_u64() > Some(0), "{said}");
    let warned = records(stage, &["--level", "warn", "--since", "1h", "--job", failed]);
    assert_eq!(warned.iter().map(|it| it["message"].as_str().unwrap()).collect::<Vec<_>>(), ["failed"]);
    assert_eq!(records(stage, &["--level", "warn", "--job", answered]), Vec::<Value>::new());
    let found = records(stage, &["--grep", "ANSWERED", "--since", "1h"]);
    assert!(found.iter().any(|it| it["job"] == answered) && found.iter().all(|it| it["job"] != failed));
    assert_eq!(records(stage, &["--since", "2200-01-01T00:00:00Z"]), Vec::<Value>::new());

    eventually("the collector has its record", || async {
        let records = receiver.requests().concat();
        let job = Some(Text::StringValue(answered.to_owned()));
        records.iter().any(|it| body(it) == "answered" && attribute(it, "resultity.job") == job).then_some(())
    })
    .await;
    eventually("the files have it, and one was full", || async {
        let (names, text) = log_files(files);
        let line = |line: &str| line.contains("\"answered\"") && line.contains(answered);
        (names.contains("resultity-testnet.1.jsonl") && text.lines().any(line)).then_some(())
    })
    .await;
}

/// The numbers of records without a gap, and each once, however they came.
fn assert_all_and_each_once(place: &str, mut numbers: Vec<u64>) {
    numbers.sort_unstable();
    let (first, count) = (numbers[0], numbers.len() as u64);
    assert_eq!(numbers, (first..first + count).collect::<Vec<_>>(), "{place}");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_an_operator_has_works_on_a_node_that_does_real_inference() {
    let receiver = Receiver::start([]).await;
    let (_collector, otlp) = Collector::start(&receiver.url).await;
    let files = tempfile::tempdir().unwrap();
    let mut stage = set(&otlp, files.path()).await;
    let pass = passphrase(&stage);
    stage.start_node();
    stage.active().await;

    // Given a job that the model answered, one that the runtime refused, one at work and one that waits,
    let short = submit_long(&stage, &format!("{PROMPT} The capital of France is"), 40).await;
    let refused = stage.submit(&"word ".repeat(3000)).await;
    let first = submit_long(&stage, &format!("{PROMPT} Once upon a time"), 400).await;
    let second = submit_long(&stage, &format!("{PROMPT} The history of the sea"), 400).await;
    let answer = quotable(&stage.ended(&short).await);
    assert_eq!(stage.ended(&refused).await["failure"]["kind"], "runtime");
    eventually("one is at work and one waits", || async {
        let counts = stage.view().jobs().counts().unwrap();
        (counts.running == 1 && counts.queued == 1).then_some(())
    })
    .await;
    let boot = stage.get("state").await["nodes"][0]["bootId"].as_str().unwrap().to_owned();

    // when a backup is made meanwhile, it is sound,
    let backup = archive(&stage, "node.backup");
    well(stage.command(&["backup", "create", &backup, "--with-keys", "--passphrase-file", &pass]));
    let sound = json_of(&stage, &["backup", "verify", &backup, "--passphrase-file", &pass]);
    assert_eq!((&sound["sound"], &sound["keys_open"]), (&true.into(), &true.into()), "{sound}");

    // everything says the same of the jobs,
    the_reports_agree(&stage, &first, [&refused, &short]).await;
    the_figures_are_those_of_the_jobs(&stage, &receiver, &[&short, &first, &second]).await;
    let told = json_of(&stage, &["jobs", "explain", &short]);
    assert_eq!(steps(&told), ["accepted", "leased", "finished", "submitted", "acknowledged"], "{told}");
    let story = told["story"].to_string();
    for words in
        ["run 1 began on llama.cpp", "40 written", "tokens/s", "its answer was sent", "acknowledged it"]
    {
        assert!(story.contains(words), "{words}: {story}");
    }
    let told = json_of(&stage, &["jobs", "explain", &refused]);
    assert_eq!(steps(&told), ["accepted", "leased", "failed", "submitted", "acknowledged"], "{told}");
    assert!(told["story"].to_string().contains("the runtime answered with an error"), "{told}");
    assert!(told["advice"].as_str().unwrap().contains(&format!("logs --job {refused}")), "{told}");
    the_log_is_everywhere(&stage, &receiver, files.path(), &short, &refused).await;

    // the doctor has nothing against the node,
    // Its exit code is the machine's too.
    let checked: Value = serde_json::from_str(&stage.command(&["--json", "doctor"]).1).unwrap();
    for finding in checked["findings"].as_array().unwrap() {
        let (name, verdict) = (finding["name"].as_str().unwrap(), finding["verdict"].as_str().unwrap());
        assert!(OF_THE_MACHINE.contains(&name) || ["ok", "note"].contains(&verdict), "{finding:#}");
        if ["runtime", "network", "models", "snapshot", "databases"].contains(&name) {
            assert_eq!(verdict, "ok", "{finding:#}");
        }
        // What stands in its log may ask for attention just now: it says that alone.
        let says = finding["found"].as_str().unwrap();
        let attention = says.ends_with("and says of itself: attention");
        assert!(name != "agent" || verdict == "ok" || attention, "{finding:#}");
    }

    // mends beside it what is safe to mend, and takes it back,
    let key_file = stage.home().join("testnet/keys/node.key");
    let mode = || std::fs::metadata(&key_file).unwrap().permissions().mode() & 0o777;
    std::fs::set_permissions(&key_file, std::fs::Permissions::from_mode(0o644)).unwrap();
    for (flags, wanted) in
        [(&["--fix", "--yes"][..], 0o600), (&["--undo"], 0o644), (&["--fix", "--yes"], 0o600)]
    {
        let (_, said) = stage.command(&[&["doctor"], flags].concat());
        assert_eq!(mode(), wanted, "{said}");
    }
    assert!([Some(0), Some(10)].contains(&stage.command(&["status", "--check"]).0));

    // and prompts, answers and the key are in nothing that leaves it.
    let bundle = archive(&stage, "bundle");
    well(stage.command(&["bundle", &bundle]));
    let bundle = zstd::decode_all(std::fs::File::open(&bundle).unwrap()).unwrap();
    let given_away = [
        String::from_utf8_lossy(&bundle).into_owned(),
        log_files(files.path()).1,
        format!("{:?}", receiver.requests()),
    ];
    let canaries = [PROMPT, &answer, &hex_encode(&key()), &hex_encode(&key()).to_uppercase()];
    for (place, text) in ["bundle", "files", "collector"].into_iter().zip(&given_away) {
        assert!(text.contains(&short), "{place} tells of the jobs");
        assert!(canaries.iter().all(|canary| !text.contains(canary)), "{place}: {canaries:?}");
    }
    assert!(!bundle.windows(32).any(|window| window == key()));

    // When it is lost amid the second job, and the backup takes its place,
    assert_eq!(stage.ended(&first).await["end"], "result");
    acknowledged(&stage, &first).await;
    stage.kill_node();
    // No record is missing in the files or at the collector, and none is there twice.
    let lines = log_files(files.path()).1;
    let lines = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    assert_all_and_each_once("files", lines.filter_map(|line| line["record"].as_u64()).collect());
    let number = |record: &_| match attribute(record, "resultity.record") {
        Some(Text::IntValue(number)) => u64::try_from(number).ok(),
        _ => None,
    };
    assert_all_and_each_once("collector", receiver.requests().concat().iter().filter_map(number).collect());
    let restored_home = new_home(&stage, "restored");
    well(stage.command_in(&restored_home, &["backup", "restore", &backup, "--passphrase-file", &pass]));
    assert_eq!(fence(&restored_home).unwrap().jobs, 2);
    let restored = stage.start_in(&restored_home, &["--shutdown-grace-ms", "1"]);
    stage.adopt(restored);
    // then the network is asked first, and the first job is not run again.
    eventually("it has asked", || async {
        let asked = stage.command_in(&restored_home, &["logs", "--grep", "1 go on, 1 have ended since"]);
        well(asked).contains("1 go on").then_some(())
    })
    .await;
    assert!(fence(&restored_home).is_none());
    works(&restored_home).await;
    let told = well(stage.command_in(&restored_home, &["--json", "status"]));
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["jobs"]["at_work"][0]["job"], second, "{told}");
    assert_eq!(boots(&stage.job(&first).await, "result"), [boot.as_str()]);

    // When it is handed over amid the job, it goes on there, and what is left of it stops by itself.
    stage.ask_to_stop();
    assert_eq!(stage.node_ends().await, Some(0));
    let file = archive(&stage, "node.move");
    well(stage.command_in(&restored_home, &["move", "out", &file, "--passphrase-file", &pass]));
    let moved_home = new_home(&stage, "moved");
    well(stage.command_in(&moved_home, &["move", "in", &file, "--passphrase-file", &pass]));
    let shut = stage.start_in(&restored_home, &[]);
    assert_eq!(exit_code(shut).await, Some(6));
    assert!(stage.said().contains("was moved away on"), "{}", stage.said());
    let moved = stage.start_in(&moved_home, &[]);
    stage.adopt(moved);
    stage.active().await;
    let lost = stage.start_in(&stage.home(), &[]);
    assert_eq!(exit_code(lost).await, Some(6));
    assert!(stage.said().contains("this node runs twice"), "{}", stage.said());
    let ended = stage.ended(&second).await;
    let last = stage.get("state").await["nodes"][0]["bootId"].clone();
    assert_eq!((&ended["end"], json!(boots(&ended, "result"))), (&"result".into(), json!([last])));
    eventually("nothing is left", || async {
        (view(&moved_home).jobs().tally().unwrap().jobs == 0).then_some(())
    })
    .await;
}
