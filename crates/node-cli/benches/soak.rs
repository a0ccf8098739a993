//! A long run: jobs on the real runtime and model under small limits, with faults at random, and how much disk and memory
//! the node takes at its end.
//!
//! `make soak` runs it for an hour, `MINUTES=5 make soak` for as long as is said. Every job must end, and end once. In the
//! last third the Agent is killed no more, so that a growth of its memory shows.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a measurement that cannot be made must stop; it measures time, and says what it sees"
)]

#[path = "../tests/node/stage.rs"]
#[expect(dead_code, reason = "the tests use more of it")]
mod stage;
#[path = "../tests/node/stand_in.rs"]
#[expect(dead_code, reason = "the stage names it; the runtime here is the real one")]
mod stand_in;

use std::{
    collections::BTreeMap,
    os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use node_devnet::{BadSnapshot, Fault};
use node_store::jobs::SETTLED_BYTES;
use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};
use stage::{PATIENCE, Stage, children, eventually, with};
use store_bench::{
    measure::median,
    report::{Aim, Report, Row},
};
use tokio::time::sleep;

/// Jobs that wait for their end at one moment, at the most: more than the node takes, so that its limits are met.
const OUTSTANDING_MAX: usize = 24;
/// Between two looks at how much the node takes.
const SAMPLE: Duration = Duration::from_secs(10);
/// What is drawn is drawn from this.
const SEED: u64 = 20_261_127;

/// Numbers at random, the same in each run: a linear congruential generator with Knuth's constants (MMIX).
struct Dice(u64);

impl Dice {
    /// A number below `sides`.
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// How much the node took at one moment.
struct Sample {
    at: Duration,
    memory_mib: f64,
    disk_kib: f64,
    /// What is remembered for a day of jobs that have ended, by the store's own count.
    settled_kib: f64,
}

/// A job that has not ended.
struct Submitted {
    id: String,
    at: Instant,
}

struct Soak {
    stage: Stage,
    dice: Dice,
    begun: Instant,
    length: Duration,
    outstanding: Vec<Submitted>,
    /// Jobs by how they ended.
    ended: BTreeMap<String, u64>,
    /// Faults by name.
    faults: BTreeMap<&'static str, u64>,
    samples: Vec<Sample>,
    submitted: u64,
}

#[tokio::main]
async fn main() {
    let minutes = std::env::var("MINUTES").map_or(60, |text| text.parse().unwrap());
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    let stage = set(root).await;
    let mut soak = Soak {
        stage,
        dice: Dice(SEED),
        begun: Instant::now(),
        length: Duration::from_secs(minutes * 60),
        outstanding: Vec::new(),
        ended: BTreeMap::new(),
        faults: BTreeMap::new(),
        samples: Vec::new(),
        submitted: 0,
    };
    soak.run().await;
    soak.drain().await;
    soak.report().await;
}

/// The real runtime and model, under limits that are met again and again.
async fn set(root: &Path) -> Stage {
    assert!(Command::new(root.join("scripts/runtime")).status().unwrap().success());
    let tools = root.join(".tools");
    let (runtimes, models) = (tools.join("runtime"), tools.join("models"));
    let template = Command::new(env!("CARGO_BIN_EXE_resultity-node"))
        .args(["devnet", "template", "--runtimes"])
        .arg(&runtimes)
        .arg("--models")
        .arg(&models)
        .output()
        .unwrap();
    let mut template: Value = serde_json::from_slice(&template.stdout).unwrap();
    let small = [
        ("/limits/queue_jobs_max", 12),
        ("/limits/queue_bytes_max", 4_194_304),
        ("/limits/request_bytes_max", 16_384),
        ("/limits/max_tokens", 8),
        ("/limits/execution_timeout_ms", 20_000),
        ("/limits/attempts_max", 50),
        ("/limits/logs_bytes_max", 1_048_576),
        ("/timings/trace_ttl_ms", 60_000),
        ("/timings/log_ttl_ms", 60_000),
    ];
    for (pointer, value) in small {
        template = with(template, pointer, value);
    }
    let interpreter = std::fs::read_to_string(runtimes.join("interpreter")).unwrap();
    let settings =
        format!("[runtime]\nfolder = {}\nreadable = [{}]", json!(runtimes), json!(interpreter.trim()));
    let mut stage = Stage::set_with(template, &settings, Some(models)).await;
    stage.start_node();
    stage.active().await;
    stage
}

impl Soak {
    fn is_past(&self, part: f64) -> bool {
        self.begun.elapsed() >= self.length.mul_f64(part)
    }

    async fn run(&mut self) {
        let (mut fault_at, mut sample_at, mut line_at) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
        while !self.is_past(1.0) {
            let now = self.begun.elapsed();
            self.look().await;
            if self.outstanding.len() < OUTSTANDING_MAX {
                self.submit().await;
            }
            if now >= sample_at {
                sample_at = now + SAMPLE;
                self.sample();
            }
            if now >= line_at {
                line_at = now + Duration::from_secs(60);
                self.line();
            }
            if now >= fault_at {
                fault_at = now + Duration::from_millis(4_000 + self.dice.roll(8_000));
                self.fault().await;
            }
            sleep(Duration::from_millis(100 + self.dice.roll(400))).await;
        }
    }

    /// Hands in a job: most are answered, some are cancelled or too late.
    async fn submit(&mut self) {
        self.submitted += 1;
        let words = "once upon a time ".repeat(1 + usize::try_from(self.dice.roll(40)).unwrap());
        let (max_tokens, ttl_ms) = match self.dice.roll(20) {
            0 => (8, 1_000),
            _ => (1 + self.dice.roll(8), 600_000),
        };
        let prompt = format!("{} {words}", self.submitted);
        let request = json!({ "model": "gemma-3-270m", "prompt": prompt, "max_tokens": max_tokens });
        let body = json!({ "mode": "completion", "request": request, "ttl_ms": ttl_ms });
        let job = self.stage.post("/v1/devnet/jobs", &body).await["id"].as_str().unwrap().to_owned();
        if self.dice.roll(20) == 0 {
            self.stage.post(&format!("/v1/devnet/jobs/{job}/cancel"), &json!({})).await;
        }
        self.outstanding.push(Submitted { id: job, at: Instant::now() });
    }

    /// Counts the jobs that have ended; one that does not in time is a fault of the node's.
    async fn look(&mut self) {
        let mut left = Vec::new();
        for job in std::mem::take(&mut self.outstanding) {
            let known = self.stage.job(&job.id).await;
            match known["end"].as_str() {
                None if job.at.elapsed() > 2 * PATIENCE => {
                    let (_, told) = self.stage.command(&["jobs", "explain", &job.id]);
                    panic!("{} does not end: {known}\n{told}\n{}", job.id, self.stage.said());
                }
                None => left.push(job),
                Some(end) => {
                    let how = known["failure"]["kind"].as_str().unwrap_or(end).to_owned();
                    *self.ended.entry(how).or_default() += 1;
                }
            }
        }
        self.outstanding = left;
    }

    async fn fault(&mut self) {
        let deadly = !self.is_past(2.0 / 3.0);
        let name = match self.dice.roll(15) {
            0 | 1 if deadly => {
                self.stage.kill_node();
                self.stage.start_node();
                "SIGKILL for the Agent"
            }
            2 if deadly => {
                assert_eq!(self.stage.stop_node().await, Some(0));
                self.stage.start_node();
                "a stop and a start"
            }
            0..=2 => self.backup(),
            3 | 4 => self.kill_runtime(),
            5 => self.away().await,
            6 => self.misbehave(Fault::Drop, "connections are dropped"),
            7 => self.misbehave(Fault::LoseAcks { count: 3, ms: 0 }, "acknowledgements are lost"),
            8 => self.misbehave(Fault::LoseAnswers { count: 3, ms: 0 }, "answers are lost"),
            9 => self.misbehave(Fault::Refuse { count: 4 }, "requests are refused with 503"),
            10 => self.misbehave(Fault::Duplicate, "frames come twice"),
            11 => self.misbehave(Fault::Reorder, "frames change places"),
            12 => self.misbehave(Fault::Delay { ms: 300 }, "frames come late"),
            13 => self.misbehave(Fault::BadSnapshot { kind: BadSnapshot::WrongKey }, "a bad snapshot"),
            _ if self.dice.roll(4) == 0 => self.damage(),
            _ => {
                self.stage.post("/v1/devnet/snapshots", &json!({})).await;
                "a new snapshot"
            }
        };
        *self.faults.entry(name).or_default() += 1;
    }

    /// Until the next one: those that go on would hide the others.
    fn misbehave(&self, fault: Fault, name: &'static str) -> &'static str {
        self.stage.fault(Fault::None);
        self.stage.fault(fault);
        name
    }

    /// The network is away, for whoever watches it too.
    async fn away(&mut self) -> &'static str {
        let ms = 1_000 + self.dice.roll(8_000);
        self.stage.fault(Fault::Away { ms });
        sleep(Duration::from_millis(ms)).await;
        let state = format!("{}/v1/devnet/state", self.stage.url);
        eventually("the network is back", || async { reqwest::get(&state).await.ok() }).await;
        "the network is away"
    }

    /// SIGKILL for whatever runs below the Agent.
    fn kill_runtime(&mut self) -> &'static str {
        let node = self.stage.node().id();
        for pid in children(node) {
            // It may have ended by itself meanwhile.
            let _ = kill_process(pid, Signal::KILL);
        }
        "SIGKILL for the runtime"
    }

    /// A wrong byte in the model's file.
    fn damage(&self) -> &'static str {
        let models = self.stage.home().join("testnet/models");
        for entry in std::fs::read_dir(models).unwrap() {
            let path = entry.unwrap().path();
            let found = path.metadata().unwrap();
            if found.is_file() && found.len() > 1 << 20 {
                std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
                let file = std::fs::File::options().write(true).open(&path).unwrap();
                file.write_all_at(b"damage", found.len() / 2).unwrap();
            }
        }
        "a damaged model"
    }

    /// A backup beside the running Agent, and whether it is one.
    fn backup(&self) -> &'static str {
        let archive = self.stage.folder.path().join("backup");
        let _ = std::fs::remove_file(&archive);
        for verb in ["create", "verify"] {
            let (code, said) = self.stage.command(&["backup", verb, archive.to_str().unwrap()]);
            assert_eq!(code, Some(0), "{said}");
        }
        "a backup"
    }

    fn sample(&mut self) {
        let node = self.stage.node();
        assert!(node.try_wait().unwrap().is_none(), "the Agent ended by itself:\n{}", self.stage.said());
        let pid = self.stage.node().id();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let memory_mib = resident.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0;
        let disk_kib = disk_kib(&self.stage.home().join("testnet"));
        let settled_bytes = self.ended.values().sum::<u64>() * SETTLED_BYTES;
        let settled_kib = f64::from(u32::try_from(settled_bytes).unwrap()) / 1024.0;
        self.samples.push(Sample { at: self.begun.elapsed(), memory_mib, disk_kib, settled_kib });
    }

    fn line(&self) {
        let Some(Sample { at, memory_mib, disk_kib, .. }) = self.samples.last() else { return };
        let (ended, faults): (u64, u64) = (self.ended.values().sum(), self.faults.values().sum());
        let minute = at.as_secs() / 60;
        println!(
            "{minute:>3} min  {:>5} jobs, {ended:>5} ended, {faults:>4} faults  {memory_mib:>6.1} MiB of memory, \
             {disk_kib:>7.0} KiB of disk",
            self.submitted
        );
    }

    /// Faults end, and every job must.
    async fn drain(&mut self) {
        self.stage.fault(Fault::None);
        while !self.outstanding.is_empty() {
            self.look().await;
            sleep(Duration::from_millis(100)).await;
        }
        eventually("the node holds no job", || async {
            (self.stage.view().jobs().tally().unwrap().jobs == 0).then_some(())
        })
        .await;
        self.sample();
        self.line();
    }

    async fn report(&mut self) {
        let state = self.stage.get("state").await;
        assert_eq!(state["refused"], json!({}), "a number or a start was used twice");
        assert!(self.stage.view().incidents().unwrap().is_empty());
        assert_eq!(self.ended.values().sum::<u64>(), self.submitted);
        let mut report = Report::default();
        report.note(format!("ended: {}", counted(&self.ended)));
        report.note(format!("faults: {}", counted(&self.faults)));
        // From when the limits were met first until it began to end, and its end: a growth in between shows.
        let part = |from: f64, to: f64, figure: fn(&Sample) -> f64| {
            let range = self.length.mul_f64(from)..self.length.mul_f64(to);
            median(self.samples.iter().filter(|it| range.contains(&it.at)).map(figure).collect())
        };
        Report::head("disk and memory of the node, medians");
        let rest = |it: &Sample| it.disk_kib - it.settled_kib;
        let (early, late) = (part(0.1, 0.3, rest), part(0.8, 1.0, rest));
        report.row(
            Row::new("disk but for ended jobs, the last fifth", late, "KiB")
                .times(late / early, "the second and third tenth")
                .aim(Aim::RatioAtMost(1.25)),
        );
        let (early, late) = (part(0.7, 0.8, |it| it.memory_mib), part(0.9, 1.0, |it| it.memory_mib));
        report.row(
            Row::new("memory of one start, the last tenth", late, "MiB")
                .times(late / early, "the eighth tenth")
                .aim(Aim::RatioAtMost(1.1)),
        );
        let most = |figure: fn(&Sample) -> f64| self.samples.iter().map(figure).fold(0.0, f64::max);
        report.row(Row::new("disk without models and reserve, the most", most(|it| it.disk_kib), "KiB"));
        report.row(Row::new("memory, the most", most(|it| it.memory_mib), "MiB"));
        let target = std::env::current_exe().unwrap().ancestors().nth(3).unwrap().to_owned();
        report.write(&target.join("bench/soak.json"));
        assert_eq!(self.stage.stop_node().await, Some(0));
        assert!(report.is_met(), "disk or memory grew");
    }
}

fn counted(counts: &BTreeMap<impl std::fmt::Display, u64>) -> String {
    let all: Vec<String> = counts.iter().map(|(what, count)| format!("{count} {what}")).collect();
    all.join(", ")
}

/// What the files below a folder take of the disk, without those of models and the room that is held free.
fn disk_kib(folder: &Path) -> f64 {
    // One that goes meanwhile takes nothing.
    let Ok(entries) = std::fs::read_dir(folder) else { return 0.0 };
    let counts = |name: &str| name != "models" && !name.starts_with("RESERVE");
    let all = entries.flatten().filter(|entry| entry.file_name().to_str().is_none_or(counts));
    all.map(|entry| match entry.metadata() {
        Ok(found) if found.is_dir() => disk_kib(&entry.path()),
        Ok(found) => {
            #[expect(clippy::cast_precision_loss, reason = "a few million blocks of 512 bytes")]
            let kib = found.blocks() as f64 / 2.0;
            kib
        }
        Err(_) => 0.0,
    })
    .sum()
}
