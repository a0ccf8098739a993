//! The status page in a real browser, on a real node that does jobs.

use node_devnet::Fault;
use serde_json::{Value, json};

use crate::{
    browser::{BACKSPACE, Browser, DOWN, TAB, UP},
    models::{answered, set, tools},
    operator::submit_long,
    stage::{Stage, eventually, external, running, with},
};

/// A template whose model has a name that would be a script where it were taken for one.
fn hostile() -> Value {
    let template = with(external(), "/models/0/name", "<script>alert(1)</script>");
    // A job may hang for as long as a browser needs.
    let template = with(template, "/limits/execution_timeout_ms", 600_000);
    // Its records stay here for the page to show.
    with(template, "/timings/flush_ms", 600_000)
}

async fn submit(stage: &Stage, prompt: &str) -> String {
    let request = json!({ "model": "<script>alert(1)</script>", "prompt": prompt, "max_tokens": 8 });
    let body = json!({ "mode": "completion", "request": request, "ttl_ms": 600_000 });
    stage.post("/v1/devnet/jobs", &body).await["id"].as_str().unwrap().to_owned()
}

fn holds(id: &str, text: &str) -> String {
    format!("return document.getElementById({}).textContent.includes({})", json!(id), json!(text))
}

/// There are records, and this holds for each of them.
fn every(condition: &str) -> String {
    let all = "const all = [...document.querySelectorAll('#log li')]";
    format!("{all}; return all.length > 0 && all.every(one => {condition})")
}

/// Goes on with the tabulator until the focus is on this.
async fn tab_to(browser: &Browser, id: &str) {
    for _ in 0..60 {
        if browser.run("return document.activeElement.id").await == id {
            return;
        }
        browser.type_keys(TAB).await;
    }
    panic!("{id} is not reached");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_follows_a_job_without_a_reload_and_takes_no_name_for_markup() {
    let (stage, runtime) = running(hostile()).await;
    let browser = Browser::open().await;
    browser.go(&stage.page().await).await;
    browser.run("window.kept = 1").await;
    browser.until("the page is live", &holds("live", "live")).await;
    browser.until("the node takes jobs", &holds("health-why", "It takes jobs.")).await;
    runtime.hang(true);
    let job = submit(&stage, "a").await;
    browser.until("the job is shown at work", &holds("work", &job)).await;
    browser.until("the model's name is text", &holds("models", "<script>alert(1)</script>@1")).await;
    runtime.hang(false);
    stage.ended(&job).await;
    browser.until("the job is shown as ended", &holds("lately", &job)).await;
    let failed = submit(&stage, "fail").await;
    stage.ended(&failed).await;
    browser.until("the failed one is marked", "return !!document.querySelector('#chart .failed')").await;
    browser.until("the chart says the same in words", &holds("chart-text", "1 answered, 1 failed")).await;

    assert_eq!(browser.run("return window.kept").await, 1, "the page was loaded again");
    let scripts = browser.run("return document.querySelectorAll('script').length").await;
    assert_eq!(scripts, 2, "the data and the page's own");
    assert_eq!(browser.complaints().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_filtered_by_the_keyboard_alone() {
    let (stage, _runtime) = running(hostile()).await;
    // What the network has is shown too.
    eventually("the first batch has gone", || async {
        let held = stage.get("logs").await;
        held["batches"].as_array().is_some_and(|batches| !batches.is_empty()).then_some(())
    })
    .await;
    let (answered, failed) = (submit(&stage, "wait 1").await, submit(&stage, "fail").await);
    for job in [&answered, &failed] {
        stage.ended(job).await;
    }
    let browser = Browser::open().await;
    browser.go(&stage.page().await).await;
    browser.until("the page is live", &holds("live", "live")).await;
    browser.until("the log begins with the start", &holds("log", "the Agent starts")).await;
    stage.fault(Fault::Drop);
    browser.until("the log grows", &holds("log", "not connected")).await;
    browser.until("both jobs are in it", &holds("log", &answered)).await;
    browser.type_keys(TAB).await;
    let first = browser.run("return document.activeElement.className").await;
    assert_eq!(first, "skip", "the first stop leads to the content");
    tab_to(&browser, "level").await;
    browser.type_keys(DOWN).await;
    browser
        .until(
            "no record below a warning is left",
            &every("['warn', 'error'].includes(one.children[1].textContent)"),
        )
        .await;
    browser.until("the failure is", &holds("log", &failed)).await;
    browser.type_keys(UP).await;
    browser.until("the others are back", &holds("log", &answered)).await;
    tab_to(&browser, "text").await;
    let outline = browser.run("return getComputedStyle(document.activeElement).outlineStyle").await;
    assert_eq!(outline, "solid", "the focus is not seen");
    browser.type_keys("NOT CONNECT").await;
    browser.until("only what matches is left", &every("one.textContent.includes('not connected')")).await;
    browser.type_keys(&BACKSPACE.repeat("NOT CONNECT".len())).await;
    browser.type_keys("nothing says this").await;
    browser.until("nothing is left", "return document.querySelectorAll('#log li').length === 0").await;
    browser.type_keys(&BACKSPACE.repeat("nothing says this".len())).await;
    tab_to(&browser, "job").await;
    browser.type_keys(&answered).await;
    browser
        .until("only that job's is left", &every(&format!("one.textContent.includes('job={answered}')")))
        .await;
    assert_eq!(browser.complaints().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_part_is_there_after_one_request_and_has_a_name_for_a_screen_reader() {
    let (stage, _runtime) = running(hostile()).await;
    let browser = Browser::open().await;
    browser.go(&stage.page().await).await;
    browser.until("the page is live", &holds("live", "live")).await;
    // One document below 100 KB, and the stream of what changes, which is listed once it has ended.
    let asked = "return performance.getEntriesByType('resource').map(one => new URL(one.name).pathname)";
    let asked = browser.run(asked).await;
    assert!(asked.as_array().unwrap().iter().all(|path| path == "/v1/events"), "{asked}");
    let size = browser.run("return performance.getEntriesByType('navigation')[0].decodedBodySize").await;
    assert!((1..=100_000).contains(&size.as_u64().unwrap()), "{size} bytes");

    let patch = json!({ "limits": { "max_tokens": 512 } });
    stage.post("/v1/devnet/snapshots", &patch).await;
    eventually("the second snapshot is in force", || async {
        let view = stage.view().snapshots().unwrap();
        view.current().filter(|current| current.config.document().version == 2).map(drop)
    })
    .await;
    browser.until("it is shown", &holds("snapshot", "2")).await;
    browser.until("what it changed is said", &holds("changes", "512")).await;
    browser.until("there was no outage", &holds("timeline-text", "0 outages")).await;
    stage.fault(Fault::Away { ms: 1_500 });
    browser.until("an outage is told in words", &holds("timeline-text", "1 outage")).await;
    for part in ["about", "machine", "storage", "connection", "drift", "counts"] {
        browser.until(part, &format!("return !!document.getElementById('{part}').textContent.trim()")).await;
    }

    let tree = browser.chromium("Accessibility.getFullAXTree", json!({})).await;
    let seen: Vec<(&str, &str)> = tree["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|node| node["ignored"] == false)
        .map(|node| {
            (
                node["role"]["value"].as_str().unwrap_or_default(),
                node["name"]["value"].as_str().unwrap_or_default(),
            )
        })
        .collect();
    let named = |role: &str| seen.iter().filter(|it| it.0 == role).map(|it| it.1).collect::<Vec<_>>();
    for role in
        ["heading", "region", "combobox", "searchbox", "table", "columnheader", "image", "meter", "list"]
    {
        assert!(!named(role).is_empty(), "there is no {role}: {seen:?}");
        // A list stands under the heading that says what it is.
        assert!(role == "list" || named(role).iter().all(|name| !name.is_empty()), "a {role} has no name");
    }
    assert!(named("heading").len() >= 8, "{:?}", named("heading"));
    assert_eq!((named("main").len(), named("status").len()), (1, 1), "what has changed is told");
    assert_eq!(browser.complaints().await, Vec::<String>::new());
}

/// The screens on which the page is looked at: name, width, height, scheme.
const SCREENS: [(&str, u32, u32, &str); 4] = [
    ("wide-light", 1200, 1180, "light"),
    ("wide-dark", 1200, 1180, "dark"),
    ("phone", 360, 780, "light"),
    ("phone-dark", 360, 780, "dark"),
];

/// With `SCREENSHOTS=<folder>` it leaves there what it saw; docs/status-page.md shows them.
#[tokio::test(flavor = "multi_thread")]
async fn the_page_fits_every_screen_in_light_and_dark_while_the_real_model_answers() {
    let mut stage = set(&tools().join("models"), "").await;
    stage.start_node();
    stage.active().await;
    for question in ["The capital of France is", "Two and two is", "Water boils at", "The moon is", "A poem:"]
    {
        answered(&stage, question).await;
    }
    let browser = Browser::open().await;
    browser.go(&stage.page().await).await;
    browser.until("five jobs are shown", &holds("chart-text", "5 answered")).await;
    let long = submit_long(&stage, "Once upon a time", 400).await;
    browser.until("one is at work", &holds("work", &long)).await;
    let folder = std::env::var("SCREENSHOTS").ok();
    let mut grounds = Vec::new();
    for (name, width, height, scheme) in SCREENS {
        browser.screen(width, height, scheme).await;
        browser.until("the screen has its size", &format!("return innerWidth === {width}")).await;
        let across = browser.run("return document.documentElement.scrollWidth").await;
        assert!(across.as_u64().unwrap() <= width.into(), "{name}: it is {across} wide");
        grounds.push(browser.run("return getComputedStyle(document.body).backgroundColor").await);
        if let Some(folder) = &folder {
            let path = std::path::Path::new(folder).join(format!("status-page-{name}.png"));
            std::fs::write(path, browser.screenshot().await).unwrap();
        }
    }
    // The narrowest that it is made for: a small phone, or a zoom of 400 % (WCAG 2.2, 1.4.10).
    browser.screen(320, 640, "light").await;
    browser.until("the screen has its size", "return innerWidth === 320").await;
    assert_eq!(browser.run("return document.documentElement.scrollWidth").await, 320, "it scrolls sideways");
    assert_ne!(grounds[0], grounds[1], "dark is as light");
    assert_eq!((&grounds[0], &grounds[1]), (&grounds[2], &grounds[3]));
    assert_eq!(browser.complaints().await, Vec::<String>::new());
}
