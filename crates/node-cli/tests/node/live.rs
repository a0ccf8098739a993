//! What is watched live on a node that does real inference: the log that is followed, the status that is looked at again and
//! again, and the page, while a real job goes by.

use std::{
    io::{BufRead as _, BufReader},
    os::unix::process::ExitStatusExt as _,
    process::{Child, ExitStatus},
    sync::{Arc, Mutex},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::{
    browser::Browser,
    models::{set_as, tools},
    operator::{one_at_a_time, submit_long},
    page::{every, holds, report, spoken, texts},
    stage::{Stage, eventually},
};

/// A command that goes on until Ctrl-C, and the lines that it has written to its pipe.
struct Watch {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Watch {
    fn begin(stage: &Stage, arguments: &[&str]) -> Self {
        let mut child = stage.begin(arguments);
        let pipe = BufReader::new(child.stdout.take().unwrap());
        let lines = Arc::<Mutex<Vec<String>>>::default();
        let written = Arc::clone(&lines);
        // It ends with the pipe.
        std::thread::spawn(move || {
            for line in pipe.lines().map_while(Result::ok) {
                written.lock().unwrap().push(line);
            }
        });
        Self { child, lines }
    }

    fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// The lines, each of which is one value.
    fn values(&self) -> Vec<Value> {
        self.lines().iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Ctrl-C, and how it ends.
    async fn interrupted(mut self) -> ExitStatus {
        assert!(self.child.try_wait().unwrap().is_none(), "it did not stay: {:?}", self.lines());
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
        eventually("it leaves", || std::future::ready(self.child.try_wait().unwrap())).await
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Puts this into the page's field for a job's ID, as a paste does.
async fn filter_by_job(browser: &Browser, id: &str) {
    let script = format!(
        "const field = document.getElementById('job');
         field.value = {};
         field.dispatchEvent(new Event('input'))",
        json!(id)
    );
    browser.run(&script).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_job_is_seen_as_it_goes_in_the_log_that_is_followed_the_status_that_is_watched_and_the_page() {
    let mut stage = set_as(&tools().join("models"), "", one_at_a_time).await;
    stage.start_node();
    stage.active().await;
    let (page, browser) = (stage.page().await, Browser::open().await);
    browser.go(&page).await;
    browser.run("window.kept = 1").await;
    browser.until("the page is live", &holds("live", "live")).await;

    // Given a job that was answered, and a status that is watched, by a program and by a person,
    let before = submit_long(&stage, "The capital of France is", 40).await;
    assert_eq!(stage.ended(&before).await["end"], "result");
    let values = Watch::begin(&stage, &["--json", "status", "--watch"]);
    let screens = Watch::begin(&stage, &["status", "--watch"]);

    // when another one is with the runtime and a third one waits, and the log of that one alone is followed here and there,
    let job = submit_long(&stage, "Once upon a time", 600).await;
    let after = submit_long(&stage, "The history of the sea", 40).await;
    let follow = ["--json", "logs", "--follow", "--since", "1h", "--job", &job, "--grep", "answered"];
    let follower = Watch::begin(&stage, &follow);
    filter_by_job(&browser, &job).await;
    browser.until("the page shows it at work", &holds("work", &job)).await;

    // then its answer is told where the log is followed, with what was measured,
    let answered = eventually("the answer is in the log", || async {
        follower.values().into_iter().find(|record| record["message"] == "answered")
    })
    .await;
    let fields = &answered["fields"];
    let took_ms = fields["duration_ms"].as_u64().unwrap();
    assert_eq!((&fields["more"]["completion_tokens"], took_ms > 0), (&json!(600), true), "{answered}");
    assert_eq!(stage.ended(&job).await["end"], "result");

    // and on the page without a reload,
    let record = format!(
        "return [...document.querySelectorAll('#log .what')].some(one =>
             one.textContent.startsWith('answered') && one.textContent.includes({}))",
        json!(format!("duration_ms={took_ms} "))
    );
    browser.until("the page's log has the answer", &record).await;
    assert_eq!(stage.ended(&after).await["end"], "result");
    browser.until("the page shows the last one as ended", &holds("lately", &after)).await;
    assert_eq!(browser.run("return window.kept").await, 1, "the page was loaded again");

    // nothing is told of the others there, until somebody asks for all again,
    let of_job = format!("one.textContent.includes('job={job}')");
    assert_eq!(browser.run(&every(&of_job)).await, true, "another job is in the log");
    assert!(follower.values().iter().all(|it| it["job"] == job.as_str()), "{:?}", follower.lines());
    filter_by_job(&browser, "").await;
    for other in [&before, &after] {
        browser.until("the others are there too", &holds("log", &format!("job={other}"))).await;
    }

    // the page's table and chart have the durations that the node measured,
    let lately = report(&page).await["jobs"]["lately"].clone();
    let of = |field: &str| lately.as_array().unwrap().iter().map(|it| it[field].clone()).collect::<Vec<_>>();
    assert_eq!(of("job"), [after.as_str(), job.as_str(), before.as_str()], "{lately}");
    let durations: Vec<u64> = of("duration_ms").iter().map(|ms| ms.as_u64().unwrap()).collect();
    assert!(durations[1] > durations[0] && durations[1] > durations[2], "600 tokens, not 40: {lately}");
    assert!(durations[1].abs_diff(took_ms) < 1000, "{took_ms} ms in the log: {lately}");
    let spoken: Vec<String> = durations.into_iter().map(spoken).collect();
    assert_eq!(texts(&browser, "#lately td:nth-child(6)").await, spoken);
    let bars = spoken.iter().rev().map(|took| format!("m@1, answered in {took}"));
    assert_eq!(texts(&browser, "#chart title").await, bars.collect::<Vec<_>>(), "the newest on the right");
    assert_eq!(browser.complaints().await, Vec::<String>::new());

    // and the status has shown it at work, and later among those that ended.
    let ended = eventually("one look shows it at work, and a later one as ended", || async {
        let looks = values.values();
        let begun = looks.iter().position(|look| look["jobs"]["at_work"][0]["job"] == job.as_str())?;
        let mut ends = looks[begun..].iter().filter_map(|look| look["jobs"]["lately"].as_array()).flatten();
        ends.find(|it| it["job"] == job.as_str()).cloned()
    })
    .await;
    assert_eq!((&ended["outcome"], &ended["duration_ms"]), (&json!("answered"), &lately[1]["duration_ms"]));
    eventually("a person sees the same, one look below the other", || async {
        let lines = screens.lines();
        let looks: Vec<String> =
            lines.split(|line| line.starts_with("health")).map(|look| look.join("\n")).collect();
        let begun = looks.iter().position(|look| look.contains(&format!("{job} of m@1")))?;
        let over = |look: &String| !look.contains(&job) && look.contains("the last one answered in ");
        looks[begun..].iter().any(over).then_some(())
    })
    .await;
    assert!(!screens.lines().concat().contains('\u{1b}'), "what is no terminal gets no controls");

    // Ctrl-C is how a watch ends well, and ends who follows as it does any program.
    for watch in [values, screens] {
        assert_eq!(watch.interrupted().await.code(), Some(0));
    }
    assert_eq!(follower.interrupted().await.signal(), Some(Signal::INT.as_raw()));
}
