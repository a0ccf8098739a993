//! A real browser: headless Chromium, driven through chromedriver by the WebDriver protocol (w3.org/TR/webdriver2).

use std::{
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::stage::eventually;

/// Keys as WebDriver writes them.
pub const TAB: &str = "\u{e004}";
pub const BACKSPACE: &str = "\u{e003}";
pub const UP: &str = "\u{e013}";
pub const DOWN: &str = "\u{e015}";

/// A driver, what it says, and its port; nothing where it ended before it had one.
fn driver() -> Option<(Child, BufReader<ChildStdout>, u16)> {
    let mut driver = Command::new("chromedriver")
        .args(["--port=0", "--log-level=WARNING"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(driver.stdout.take().unwrap());
    // "ChromeDriver was started successfully on port 40123."
    let port =
        said.by_ref().lines().map_while(Result::ok).filter(|line| line.contains("successfully")).find_map(
            |line| {
                let (_, port) = line.rsplit_once("on port ")?;
                port.trim().trim_end_matches('.').parse::<u16>().ok()
            },
        );
    if port.is_none() {
        driver.wait().unwrap();
    }
    Some((driver, said, port?))
}

/// A window of a browser of its own, which ends with it.
pub struct Browser {
    driver: Child,
    session: String,
    profile: tempfile::TempDir,
}

impl Browser {
    /// Starts it. Where the browser is not installed, `scripts/browser` says how.
    pub async fn open() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
        assert!(Command::new(root.join("scripts/browser")).status().unwrap().success());
        // The port that it takes for itself may be another's by then, and it ends.
        let (driver, mut said, port) = (0..5).find_map(|_| driver()).unwrap();
        // Whatever it says later must not fill the pipe.
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        let profile = tempfile::tempdir().unwrap();
        let flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            "--window-size=1280,900",
        ];
        let mut args: Vec<String> = flags.map(str::to_owned).into();
        args.push(format!("--user-data-dir={}", profile.path().display()));
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome", "goog:chromeOptions": { "args": args }, "goog:loggingPrefs": { "browser": "ALL" },
        } } });
        let base = format!("http://127.0.0.1:{port}/session");
        let mut this = Self { driver, session: base.clone(), profile };
        let answer = send(reqwest::Client::new().post(&base), Some(&wanted)).await;
        this.session = format!("{base}/{}", answer["sessionId"].as_str().unwrap());
        this
    }

    async fn post(&self, path: &str, body: &Value) -> Value {
        send(reqwest::Client::new().post(format!("{}{path}", self.session)), Some(body)).await
    }

    /// Goes to a page, and is back when it is loaded.
    pub async fn go(&self, url: &str) {
        self.post("/url", &json!({ "url": url })).await;
    }

    /// Runs a script in the page and gives what it returns.
    pub async fn run(&self, script: &str) -> Value {
        self.post("/execute/sync", &json!({ "script": script, "args": [] })).await
    }

    /// Waits until a script returns true.
    pub async fn until(&self, what: &str, script: &str) {
        eventually(what, || async { (self.run(script).await == true).then_some(()) }).await;
    }

    /// Types these keys wherever the focus is.
    pub async fn type_keys(&self, keys: &str) {
        let pressed = |key: char| {
            [json!({ "type": "keyDown", "value": key }), json!({ "type": "keyUp", "value": key })]
        };
        let actions: Vec<Value> = keys.chars().flat_map(pressed).collect();
        self.post("/actions", &json!({ "actions": [{ "type": "key", "id": "keys", "actions": actions }] }))
            .await;
    }

    /// A command of Chromium's own protocol.
    pub async fn chromium(&self, command: &str, parameters: Value) -> Value {
        self.post("/goog/cdp/execute", &json!({ "cmd": command, "params": parameters })).await
    }

    /// Shows the page as on a screen of this size, in light or dark.
    pub async fn screen(&self, width: u32, height: u32, scheme: &str) {
        let metrics =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.chromium("Emulation.setDeviceMetricsOverride", metrics).await;
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.chromium("Emulation.setEmulatedMedia", features).await;
    }

    /// What the browser complained of since it was asked last: errors of scripts, violations of the policy, failed requests.
    pub async fn complaints(&self) -> Vec<String> {
        let entries = self.post("/se/log", &json!({ "type": "browser" })).await;
        let entries = entries.as_array().unwrap().iter();
        entries.map(|entry| format!("{}: {}", entry["level"], entry["message"])).collect()
    }

    /// What can be seen, as a PNG.
    pub async fn screenshot(&self) -> Vec<u8> {
        let answer = send(reqwest::Client::new().get(format!("{}/screenshot", self.session)), None).await;
        STANDARD.decode(answer.as_str().unwrap()).unwrap()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.driver.kill();
        let _ = self.driver.wait();
        // The driver does not take its browser with it. Its processes are those that name the profile.
        let profile = self.profile.path().display().to_string();
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
            if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw)
                && String::from_utf8_lossy(&line).contains(&profile)
            {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }
}

async fn send(request: reqwest::RequestBuilder, body: Option<&Value>) -> Value {
    let request = match body {
        Some(body) => request.header("content-type", "application/json").body(body.to_string()),
        None => request,
    };
    let bytes = request.send().await.unwrap().bytes().await.unwrap();
    let mut answer: Value = serde_json::from_slice(&bytes).unwrap();
    assert!(answer["value"]["error"].is_null(), "the browser refuses: {answer}");
    answer["value"].take()
}
