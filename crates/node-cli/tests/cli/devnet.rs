//! `devnet fault|snapshot|state`: one request each to a devnet on this machine.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    thread::JoinHandle,
};

use serde_json::{Value, json};

use crate::home::Home;

/// Answers one request with `answer`, and gives what was asked: the first line and the body.
fn once(answer: &'static str) -> (String, JoinHandle<(String, String)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let served = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        let mut part = [0; 4096];
        let (head, body) = loop {
            let read = stream.read(&mut part).unwrap();
            assert!(read > 0, "the request ended early");
            request.extend_from_slice(&part[..read]);
            let text = String::from_utf8(request.clone()).unwrap();
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
            if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                break (head.to_owned(), body.to_owned());
            }
        };
        stream.write_all(answer.as_bytes()).unwrap();
        (head.lines().next().unwrap().to_owned(), body)
    });
    (url, served)
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{\"version\":3}";

fn asked(arguments: &[&str]) -> (String, String) {
    let (url, served) = once(OK);
    let answer = Home::new().run(arguments.iter().copied().chain(["--url", &url, "--json"])).well().json();
    assert_eq!(answer, json!({ "version": 3 }));
    served.join().unwrap()
}

#[test]
fn each_command_is_one_request() {
    let (line, body) = asked(&["devnet", "fault", "delay", "ms=200"]);
    assert_eq!(line, "POST /v1/devnet/faults HTTP/1.0");
    assert_eq!(serde_json::from_str::<Value>(&body).unwrap(), json!({ "fault": "delay", "ms": 200 }));
    let (line, body) = asked(&["devnet", "snapshot", r#"{"limits":{"concurrency":2}}"#]);
    assert_eq!(line, "POST /v1/devnet/snapshots HTTP/1.0");
    assert_eq!(body, r#"{"limits":{"concurrency":2}}"#);
    assert_eq!(asked(&["devnet", "fault"]).0, "GET /v1/devnet/faults HTTP/1.0");
    assert_eq!(asked(&["devnet", "state"]).0, "GET /v1/devnet/state HTTP/1.0");
    assert_eq!(asked(&["devnet", "state", "jobs"]).0, "GET /v1/devnet/jobs HTTP/1.0");
}

#[test]
fn a_patch_may_stand_in_a_file() {
    let home = Home::new();
    let file = home.file("patch.json", r#"{"models":[]}"#);
    let (_, body) = asked(&["devnet", "snapshot", file.to_str().unwrap()]);
    assert_eq!(body, r#"{"models":[]}"#);
    home.run(["devnet", "snapshot", "{not json}"]).failed(2, &["JSON"]);
}

#[test]
fn the_faults_there_are_are_named_where_none_of_them_is_meant() {
    let home = Home::new();
    home.run(["devnet", "fault", "nope"]).failed(2, &["nope", "delay", "lose_acks", "none"]);
    home.run(["devnet", "fault", "delay", "s=1"]).failed(2, &["ms"]);
}

#[test]
fn a_refusal_and_an_absent_devnet_are_told_apart() {
    let (url, served) = once("HTTP/1.1 400 Bad Request\r\n\r\nno such fault");
    Home::new().run(["devnet", "snapshot", "{}", "--url", &url]).failed(1, &["400", "no such fault"]);
    served.join().unwrap();
    Home::new().run(["devnet", "state", "--url", &url]).failed(1, &[&url, "devnet run"]);
    Home::new().run(["devnet", "state", "--url", "http://192.0.2.1:80"]).failed(2, &["this machine"]);
}
