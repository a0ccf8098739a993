//! The status page in a real browser, on a real node that does jobs.

use std::{collections::BTreeMap, net::IpAddr, os::unix::fs::PermissionsExt as _, process::Command};

use node_devnet::Fault;
use node_types::Timestamp;
use serde_json::{Value, json};

use crate::{
    browser::{BACKSPACE, Browser, DOWN, TAB, UP},
    models::{answered, set, tools},
    operator::submit_long,
    stage::{Stage, eventually, external, running, with},
    stand_in::StandIn,
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

pub fn holds(id: &str, text: &str) -> String {
    format!("return document.getElementById({}).textContent.includes({})", json!(id), json!(text))
}

/// The text of everything that a selector finds, in order.
pub async fn texts(browser: &Browser, selector: &str) -> Vec<String> {
    let all = format!("[...document.querySelectorAll({})]", json!(selector));
    serde_json::from_value(browser.run(&format!("return {all}.map(one => one.textContent)")).await).unwrap()
}

/// The terms of a list, and what stands beside each.
async fn terms(browser: &Browser, id: &str) -> BTreeMap<String, String> {
    let of = async |tag: &str| texts(browser, &format!("#{id} {tag}")).await;
    of("dt").await.into_iter().zip(of("dd").await).collect()
}

/// The report that the page is made of.
pub async fn report(page: &str) -> Value {
    let answer = reqwest::get(format!("{page}/v1/status")).await.unwrap();
    serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap()
}

/// A duration below an hour as the page tells it.
pub fn spoken(ms: u64) -> String {
    match ms {
        0..1000 => format!("{ms} ms"),
        1000..10_000 => format!("{} s", (ms / 100) as f64 / 10.0),
        10_000..60_000 => format!("{} s", ms / 1000),
        60_000.. => format!("{} min {} s", ms / 60_000, ms / 1000 % 60),
    }
}

/// A size as the page tells it.
fn size(bytes: u64) -> String {
    match bytes {
        0..0x400 => format!("{bytes} bytes"),
        0x400..0x10_0000 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        0x10_0000.. => format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)),
    }
}

/// There are records, and this holds for each of them.
pub fn every(condition: &str) -> String {
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
async fn nothing_that_comes_from_outside_is_taken_for_markup_wherever_it_is_shown() {
    let engine = |number| format!("<script>alert({number})</script>");
    let template = with(with(hostile(), "/models/0/engine", engine(2)), "/runtime/engine", engine(2));
    let (stage, _runtime) =
        running(with(template, "/models/0/files/0/path", "<img src=x onerror=alert(3)>")).await;
    let browser = Browser::open().await;
    browser.go(&stage.page().await).await;
    browser.until("the page is live", &holds("live", "live")).await;
    assert_eq!(terms(&browser, "about").await["runtime"], format!("{} (external)", engine(2)));
    // Given a snapshot that fails for want of that file, so that a record has its name,
    let container = json!({
        "kind": "container", "engine": engine(2), "image": "example.org/stand-in",
        "digest": format!("sha256:{}", "00".repeat(32)), "args": [],
    });
    stage.post("/v1/devnet/snapshots", &json!({ "runtime": container })).await;
    let record = "names no source for <img src=x onerror=alert(3)>";
    browser.until("it is in the log", &holds("log", record)).await;
    browser.until("a record has the model's name", &holds("log", "<script>alert(1)</script>@1")).await;
    let job = submit(&stage, "wait 1").await;
    stage.ended(&job).await;
    browser.until("the job is shown as ended", &holds("lately", "<script>alert(1)</script>@1")).await;
    let title = "return document.querySelector('#chart title').textContent";
    assert!(browser.run(title).await.as_str().unwrap().starts_with("<script>alert(1)</script>@1, answered"));

    // then all of it is text, as it came live and where the page comes with it.
    for way in ["live", "at once"] {
        let made = browser.run("return document.querySelectorAll('script, img').length").await;
        assert_eq!(made, 2, "{way}: the data, the page's own script, and nothing else");
        assert_eq!(browser.complaints().await, Vec::<String>::new(), "{way}");
        browser.go(&stage.page().await).await;
        browser.until("the record is there", &holds("log", record)).await;
        browser.until("the page is live again", &holds("live", "live")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_fails_says_so_and_the_command_that_it_names_first_tells_why() {
    let (stage, _runtime) = running(with(external(), "/limits/execution_timeout_ms", 600_000)).await;
    let page = stage.page().await;
    let browser = Browser::open().await;
    browser.go(&page).await;
    let word = |word: &str| format!("return document.getElementById('health-word').textContent === '{word}'");
    browser.until("it is well", &word("Well")).await;
    let mut newest = String::new();
    for _ in 0..3 {
        newest = stage.submit("fail").await;
        stage.ended(&newest).await;
    }
    browser.until("it fails", &word("Failing")).await;
    let command = format!("resultity-node --home {} jobs explain {newest}", stage.home().display());
    browser.until("the newest failure is named", &holds("todo", &newest)).await;
    assert_eq!(texts(&browser, "#todo code").await, [command.as_str()]);
    let todo = format!("The last 3 jobs failed, and none was answered: {command}");
    assert_eq!(texts(&browser, "#todo").await, [todo]);
    assert_eq!(browser.run("return document.title").await, "Failing · Resultity node");
    assert_eq!(
        browser.run("return document.getElementById('health').className").await,
        "health wide failing"
    );
    // What is less urgent comes after it.
    eventually("the rest is told in its order", || async {
        let report = report(&page).await;
        let next = report["next"].as_array().unwrap();
        let rest: Vec<String> =
            next[1..].iter().map(|text| text.as_str().unwrap().replace('`', "")).collect();
        assert!(rest.iter().any(|text| text.contains("key reseal --to-passphrase")), "{report}");
        let line = format!("{} more things to do", rest.len());
        let told = (texts(&browser, "#more li").await, texts(&browser, "#more-line").await);
        (told == (rest, vec![line])).then_some(())
    })
    .await;

    // As somebody would type it.
    let told = Command::new(&stage.program).args(command.split(' ').skip(1)).output().unwrap();
    let told = String::from_utf8(told.stdout).unwrap();
    assert!(told.contains("failed"), "{told}");
    let job = stage.submit("wait 1").await;
    stage.ended(&job).await;
    let over = "return !['Failing', 'Stopped'].includes(document.getElementById('health-word').textContent)";
    browser.until("one that is answered ends it", over).await;
    browser
        .until(
            "nothing is said of it any more",
            "return !document.querySelector('#todo').textContent.includes('jobs explain')",
        )
        .await;
    assert_eq!(browser.complaints().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_bar_of_the_chart_is_as_high_as_its_job_was_long_and_says_how_long() {
    let (stage, _runtime) = running(with(external(), "/limits/execution_timeout_ms", 600_000)).await;
    for prompt in ["wait 200", "wait 2000"] {
        let job = stage.submit(prompt).await;
        stage.ended(&job).await;
    }
    let (page, browser) = (stage.page().await, Browser::open().await);
    browser.go(&page).await;
    browser.until("both are shown", "return document.querySelectorAll('#chart rect').length === 2").await;
    let lately = report(&page).await["jobs"]["lately"].clone();
    let [long, short] = [0_usize, 1].map(|index| lately[index]["duration_ms"].as_u64().unwrap());
    assert!(short >= 200 && long >= 2000 && short < long, "{short} ms, then {long} ms");
    let bars = browser
        .run(
            "return [...document.querySelectorAll('#chart rect')].map(bar =>
                 [bar.querySelector('title').textContent,
                  ...['height', 'x', 'y'].map(name => Number(bar.getAttribute(name)))])",
        )
        .await;
    let bars: Vec<(String, f64, f64, f64)> = serde_json::from_value(bars).unwrap();
    let titles: Vec<&str> = bars.iter().map(|bar| bar.0.as_str()).collect();
    let title = |ms| format!("m@1, answered in {}", spoken(ms));
    assert_eq!(titles, [title(short), title(long)], "the newest on the right");
    let (first, second) = (&bars[0], &bars[1]);
    assert!(first.2 < second.2, "{bars:?}");
    let same = |one: f64, other: f64| (one - other).abs() < 1e-6;
    assert!(same(first.1 / second.1, short as f64 / long as f64) && same(second.1, 112.0), "{bars:?}");
    assert!(same(first.1 + first.3, 119.0) && same(second.1 + second.3, 119.0), "both stand on the ground");
    let text = format!(
        "The last 2 jobs, the newest on the right: median {0}, longest {0}; 2 answered, 0 failed, 0 expired.",
        spoken(long)
    );
    assert_eq!(texts(&browser, "#chart-text").await, [text]);
    assert_eq!(texts(&browser, "#lately td:nth-child(6)").await, [spoken(long), spoken(short)]);
}

/// What a time on the page says: its moment, and how long ago that was, in seconds.
async fn moment(browser: &Browser, term: &str) -> (Timestamp, u64) {
    let script = format!(
        "const term = [...document.querySelectorAll('#snapshot dt')].find(one => one.textContent === {});
         const time = term.nextElementSibling.querySelector('time');
         return [time.dateTime, time.textContent]",
        json!(term)
    );
    let (at, text): (String, String) = serde_json::from_value(browser.run(&script).await).unwrap();
    let words: Vec<&str> = text.strip_suffix(" ago").unwrap().split(' ').collect();
    let seconds = words.chunks(2).map(|part| {
        let unit = match part[1] {
            "min" => 60,
            "s" => 1,
            other => panic!("{other} in {text}"),
        };
        unit * part[0].parse::<u64>().unwrap()
    });
    (Timestamp::from_rfc3339(&at).unwrap(), seconds.sum())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_page_says_of_the_node_its_snapshot_and_its_storage_is_so() {
    let template = with(external(), "/limits/execution_timeout_ms", 600_000);
    let (mut stage, runtime) = running(with(template, "/limits/queue_bytes_max", 1 << 20)).await;
    let (page, browser) = (stage.page().await, Browser::open().await);
    browser.go(&page).await;
    browser.until("the page is live", &holds("live", "live")).await;
    let hidden =
        "return document.getElementById('changes').hidden && document.getElementById('changes-head').hidden";
    assert_eq!(browser.run(hidden).await, true, "there was no snapshot before the first one");

    // The node.
    let node = stage.get("state").await["nodes"][0].clone();
    let about = terms(&browser, "about").await;
    let pid = stage.node().id();
    for (term, value) in [
        ("node", node["id"].as_str().unwrap().to_owned()),
        ("start", node["bootId"].as_str().unwrap().to_owned()),
        ("Agent", format!("{}, process {pid}", env!("CARGO_PKG_VERSION"))),
        ("address", node["address"].as_str().unwrap().to_owned()),
        ("key", "obfuscation only".to_owned()),
        ("account", "none".to_owned()),
        ("runtime", "stand-in (external)".to_owned()),
        ("folder", stage.home().join("testnet").display().to_string()),
        ("clock", "trusted".to_owned()),
        ("log lost", "nothing".to_owned()),
    ] {
        assert_eq!(about[term], value, "{term}: {about:?}");
    }
    assert_eq!(texts(&browser, "#network, #node").await, ["testnet", about["node"].as_str()]);
    assert_eq!(terms(&browser, "machine").await["graphics"], "none that can be asked");

    // The snapshot.
    stage.post("/v1/devnet/snapshots", &json!({ "limits": { "max_tokens": 512 } })).await;
    let changes = "limit, tokens of a job: 512 instead of 1024";
    browser.until("what it changed is said", &holds("changes", changes)).await;
    assert_eq!(texts(&browser, "#changes li").await, [changes]);
    assert_eq!(texts(&browser, "#changes-head").await, ["What it changed since version 1"]);
    let view = stage.view().snapshots().unwrap();
    let current = view.current().unwrap();
    assert_eq!(terms(&browser, "snapshot").await["version"], "2");
    let now = || node_store::clock::read().unwrap().wall;
    for (term, at) in [("made", current.config.document().issued_at), ("applied", current.applied_at)] {
        let (told, age) = moment(&browser, term).await;
        // The page's own time is that of the report that it has.
        let oldest = now().since_ms(at) / 1000 + 1;
        assert_eq!(told, at, "{term}");
        assert!((oldest.saturating_sub(30)..=oldest).contains(&age), "{term}: {age} s ago, not {oldest}");
        eventually("it gets older", || async { (moment(&browser, term).await.1 > age + 1).then_some(()) })
            .await;
    }
    browser
        .until(
            "it is good",
            "return [...document.querySelectorAll('#snapshot dd')][1].textContent === 'fresh'",
        )
        .await;

    // The storage, with a job that is held.
    runtime.hold(true);
    stage.submit(&format!("held {}", "x".repeat(400_000))).await;
    eventually("it runs", || async { (stage.view().jobs().counts().unwrap().running == 1).then_some(()) })
        .await;
    let jobs = stage.view().jobs().tally().unwrap().bytes;
    assert!(jobs > 400_000, "{jobs}");
    let rows = "return [...document.querySelectorAll('#storage .use')].map(use => {
        const meter = use.querySelector('[role=meter]'), said = use.querySelectorAll('p span');
        return [said[0].textContent, said[1].textContent,
                meter && [meter.getAttribute('aria-label'), meter.getAttribute('aria-valuenow')].join(' ')]
    })";
    let shown = eventually("the page and the report say the same", || async {
        let report = report(&page).await;
        let wanted = report["storage"].as_array().unwrap().iter().map(|of| {
            let (class, bytes) = (of["class"].as_str().unwrap(), of["bytes"].as_u64().unwrap());
            let limit = of["limit_bytes"].as_u64();
            let meter =
                limit.map(|limit| format!("{class} {}", (100.0 * bytes as f64 / limit as f64).round()));
            let limited = limit.map_or(String::new(), |limit| format!(" of {}", size(limit)));
            json!([class, size(bytes) + &limited, meter])
        });
        let (wanted, shown) = (wanted.collect::<Vec<_>>(), browser.run(rows).await);
        let shown = shown.as_array().unwrap().clone();
        (shown[..shown.len() - 1] == wanted).then_some(shown)
    })
    .await;
    let classes: Vec<&str> = shown.iter().map(|row| row[0].as_str().unwrap()).collect();
    assert_eq!(classes, ["jobs", "traces", "logs", "state", "models", "disk of the volume"]);
    assert_eq!(shown[0][1], format!("{} of 1.0 MiB", size(jobs)));
    let limits = [&shown[1], &shown[2]].map(|row| row[1].as_str().unwrap().rsplit_once(" of ").unwrap().1);
    assert_eq!(limits, ["64.0 MiB", "16.0 MiB"]);
    assert!(shown[3][2].is_null() && shown[4][2].is_null(), "they have no limit: {shown:?}");
    assert_eq!(browser.complaints().await, Vec::<String>::new());
}

/// An address by which other machines reach this one, as the kernel has it; nothing where there is none.
fn own_address() -> Option<IpAddr> {
    let routes = std::fs::read_to_string("/proc/net/fib_trie").unwrap_or_default();
    let lines: Vec<&str> = routes.lines().collect();
    let local = lines.windows(2).filter(|pair| pair[1].contains("/32 host LOCAL"));
    let mut addresses = local.filter_map(|pair| pair[0].rsplit_once(' ')?.1.parse::<IpAddr>().ok());
    addresses.find(|address| !address.is_loopback())
}

#[tokio::test(flavor = "multi_thread")]
async fn other_machines_see_the_page_with_its_token_and_not_without() {
    let Some(own) = own_address() else {
        eprintln!("this machine has no address but loopback: nobody can come from outside");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (file, token) = (folder.path().join("token"), "a-token-of-the-operator");
    std::fs::write(&file, token).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let runtime = StandIn::start().await;
    let settings = format!("[runtime]\nurl = \"{}\"\n[page]\ntoken_file = {}", runtime.url, json!(file));
    let mut stage = Stage::set(external(), &settings).await;
    stage.start_node_with(&["--page-listen", "0.0.0.0:0"]);
    stage.active().await;
    let here = stage.page().await;
    let outside = format!("http://{own}:{}", here.rsplit_once(':').unwrap().1);

    // A proxy of the environment's would come from elsewhere.
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    for place in [&outside, &here] {
        for (path, words) in [
            ("/", "<title>Resultity node</title>"),
            ("/metrics", "resultity_build_info"),
            ("/v1/status", "next"),
        ] {
            let ask = |given: Option<&str>| {
                let request = client.get(format!("{place}{path}"));
                let request = match given {
                    Some(token) => request.header("authorization", format!("Bearer {token}")),
                    None => request,
                };
                async move { request.send().await.unwrap() }
            };
            for wrong in [None, Some("another-token-of-somebody")] {
                let refused = ask(wrong).await;
                assert_eq!(refused.status(), 401, "{place}{path} with {wrong:?}");
                assert!(!refused.text().await.unwrap().contains(words), "{place}{path}");
            }
            let answer = ask(Some(token)).await;
            assert_eq!(answer.status(), 200, "{place}{path}");
            assert!(answer.text().await.unwrap().contains(words), "{place}{path}");
        }
    }
    // By another name than the address it came in at, nobody is let in, with the token or without.
    let request = client.get(format!("{outside}/metrics")).header("host", "node.example");
    let named = request.header("authorization", format!("Bearer {token}")).send().await.unwrap();
    assert_eq!(named.status(), 403);

    let browser = Browser::open().await;
    browser.go(&format!("{outside}/?token={token}")).await;
    browser.until("the page is live", &holds("live", "live")).await;
    assert_eq!(browser.run("return location.href").await, format!("{outside}/"), "the token stays in sight");
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
    let page = stage.page().await;
    browser.go(&page).await;
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
    assert_eq!(texts(&browser, "#timeline .down").await, Vec::<String>::new());
    stage.fault(Fault::Away { ms: 1_500 });
    browser.until("an outage is told in words", &holds("timeline-text", "1 outage")).await;
    // Where it stands on the line, and how long it is there, against each other: the line gets longer all the time.
    let (report, bar) = eventually("it is over, and has its place on the line", || async {
        let report = report(&page).await;
        let over = report["connection"]["connected"] == true
            && report["connection"]["outages"].as_array().is_some_and(|all| all.len() == 1);
        let bar = browser
            .run(
                "const bar = document.querySelector('#timeline .down'), listed = document.querySelector('#outages li');
                 return bar && listed && [bar.querySelector('title').textContent,
                                          Number(bar.getAttribute('x')), Number(bar.getAttribute('width'))]",
            )
            .await;
        (over && !bar.is_null()).then_some((report, bar))
    })
    .await;
    let at = |moment: &Value| Timestamp::from_rfc3339(moment.as_str().unwrap()).unwrap().ms();
    let outage = &report["connection"]["outages"][0];
    let (from, to) = (at(&outage["from"]), at(&outage["to"]));
    assert!(to - from >= 1_000, "{outage}");
    let (title, place, width): (String, f64, f64) = serde_json::from_value(bar).unwrap();
    assert_eq!(title, format!("{}: {}", spoken(to - from), outage["why"].as_str().unwrap()));
    let wanted = (from - at(&report["agent"]["started_at"])) as f64 / (to - from) as f64;
    assert!((place / width - wanted).abs() < 1e-3 * wanted, "at {place} for {width}, not {wanted}: {outage}");
    assert_eq!(texts(&browser, "#timeline .down").await.len(), 1);
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
