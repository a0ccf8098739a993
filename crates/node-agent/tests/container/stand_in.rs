//! A stand-in for a runtime in a container: no model, and no inference. It tells what it can see and do, and misbehaves
//! as it is told. One file without dependencies, so that a compiler alone makes a static program of it.
//!
//!     stand_in --port N [--say TEXT] [--exit STATUS] [--hold] [--answers N] [--relay ADDRESS]
//!
//! With `--hold` nothing that says HOLD is answered. With `--answers` so many requests are, and later ones are accepted and never
//! answered. With `--relay` it is no runtime: what connects to it is passed on to ADDRESS.
//!
//! A request's `model` names what is done with it: see [`trick`].

use std::{
    env, fs,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::unix::fs::PermissionsExt,
    process, thread,
    time::Duration,
};

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let argument =
        |name: &str| arguments.iter().position(|it| it == name).and_then(|at| arguments.get(at + 1));
    if let Some(text) = argument("--say") {
        println!("{text}");
        eprintln!("and an error");
    }
    if let Some(status) = argument("--exit") {
        eprintln!("these are my last words");
        process::exit(status.parse().unwrap());
    }
    let (relay, hold) = (argument("--relay").cloned(), arguments.iter().any(|it| it == "--hold"));
    let listener = TcpListener::bind(format!("0.0.0.0:{}", argument("--port").unwrap())).unwrap();
    println!("listening with {arguments:?}");
    let answers = argument("--answers").map_or(usize::MAX, |it| it.parse().unwrap());
    let mut hanging = Vec::new();
    for (number, stream) in listener.incoming().enumerate() {
        let stream = stream.unwrap();
        if number >= answers {
            hanging.push(stream);
            continue;
        }
        let relay = relay.clone();
        thread::spawn(move || match relay {
            Some(address) => pass_on(stream, &address),
            None => serve(stream, hold),
        });
    }
}

fn pass_on(mut stream: TcpStream, address: &str) -> io::Result<()> {
    let mut other = TcpStream::connect(address)?;
    let (mut from, mut to) = (stream.try_clone()?, other.try_clone()?);
    thread::spawn(move || io::copy(&mut from, &mut to));
    io::copy(&mut other, &mut stream).map(|_| ())
}

fn serve(mut stream: TcpStream, hold: bool) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let header = |name: &str| {
        let mut lines = head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
    };
    let length = header("content-length").and_then(|it| it.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    let (status, text) = if head.starts_with("GET /health ") {
        (200, "{}".to_owned())
    } else if head.starts_with("GET ") {
        (404, "{}".to_owned())
    } else if header("authorization") != env::var("RUNTIME_API_KEY").ok().map(|key| format!("Bearer {key}")) {
        (401, "{}".to_owned())
    } else if hold && String::from_utf8_lossy(&body).contains("HOLD") {
        loop {
            thread::park();
        }
    } else {
        let said = quoted(&trick(&String::from_utf8_lossy(&body)));
        (
            200,
            format!(
                r#"{{"choices":[{{"index":0,"message":{{"role":"assistant","content":{said}}}}}],"usage":{{"prompt_tokens":1,"completion_tokens":1}}}}"#
            ),
        )
    };
    let length = text.len();
    write!(
        stream,
        "HTTP/1.1 {status} x\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{text}"
    )
}

/// The text of a field whose value has no quotes in it.
fn field<'a>(body: &'a str, name: &str) -> &'a str {
    let start = body.find(&format!("\"{name}\":\"")).map_or(body.len(), |at| at + name.len() + 4);
    body[start..].split('"').next().unwrap_or_default()
}

fn trick(body: &str) -> String {
    match field(body, "model") {
        "probe" => probe(),
        "connect" => connect(field(body, "content")),
        "resolve" => resolve(field(body, "content")),
        "print" => print(),
        "exit" => process::exit(3),
        "eat" => eat(),
        "threads" => threads(),
        other => format!("no such trick: {other}"),
    }
}

/// What there is to see, and what can be written.
fn probe() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_else(|error| format!("{:?}", error.kind()));
    let write = |path: &str| {
        fs::write(path, "x").map_or_else(|error| format!("{:?}", error.kind()), |()| "done".into())
    };
    let names = |path: &str| {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        let mut names: Vec<_> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names.join(" ")
    };
    let processes: Vec<_> =
        names("/proc").split(' ').filter(|it| it.parse::<u32>().is_ok()).map(str::to_owned).collect();
    let start = || {
        fs::copy("/stand_in", "/tmp/program")?;
        fs::set_permissions("/tmp/program", fs::Permissions::from_mode(0o700))?;
        process::Command::new("/tmp/program").args(["--exit", "0"]).status().map(|_| ())
    };
    let facts = [
        ("status", read("/proc/self/status")),
        ("mounts", read("/proc/self/mountinfo")),
        ("limits", read("/proc/self/limits")),
        ("devices", read("/proc/net/dev")),
        ("routes", read("/proc/net/route")),
        ("environment", env::vars().map(|(name, value)| format!("{name}={value}\n")).collect()),
        ("arguments", env::args().skip(1).collect::<Vec<_>>().join("\n")),
        ("model", read("/models/model")),
        ("root", names("/")),
        ("processes", processes.join(" ")),
        ("write root", write("/x")),
        ("write models", write("/models/x")),
        ("write model", write("/models/model")),
        ("write tmp", write("/tmp/x")),
        (
            "start from tmp",
            start().map_or_else(|error: io::Error| format!("{:?}", error.kind()), |()| "done".into()),
        ),
        ("engine", names("/var/run")),
    ];
    let facts = facts.map(|(name, value)| format!("{}:{}", quoted(name), quoted(&value)));
    format!("{{{}}}", facts.join(","))
}

/// Tries to connect to each of the addresses.
fn connect(addresses: &str) -> String {
    let tried = addresses.split(',').map(|address| {
        let found = address.parse::<SocketAddr>().map_err(io::Error::other);
        let found = found.and_then(|address| TcpStream::connect_timeout(&address, Duration::from_secs(10)));
        found.map_or_else(|error| format!("{:?}", error.kind()), |_| "done".to_owned())
    });
    tried.collect::<Vec<_>>().join(" ")
}

/// Asks a resolver, as in `ADDRESS NAME`, and tells whether it answers, whatever it says.
fn resolve(content: &str) -> String {
    let (address, name) = content.split_once(' ').unwrap_or((content, ""));
    let ask = || {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_read_timeout(Some(Duration::from_secs(3)))?;
        let labels = name.split('.').flat_map(|it| [&[it.len() as u8], it.as_bytes()].concat());
        let question = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0".iter().copied().chain(labels).chain(*b"\0\0\x01\0\x01");
        socket.send_to(&question.collect::<Vec<_>>(), address)?;
        socket.recv_from(&mut [0; 512])
    };
    ask().map_or_else(|error| format!("{:?}", error.kind()), |_| "done".to_owned())
}

fn print() -> String {
    for number in 0..20_000 {
        println!("CANARY {number} {}", "x".repeat(500));
    }
    "printed".to_owned()
}

fn eat() -> String {
    let mut eaten = Vec::new();
    loop {
        eaten.push(vec![1_u8; 1 << 20]);
    }
}

/// How many threads there can be.
fn threads() -> String {
    let mut count = 0;
    while count < 10_000 {
        let begun =
            thread::Builder::new().stack_size(64 << 10).spawn(|| thread::sleep(Duration::from_secs(600)));
        if begun.is_err() {
            break;
        }
        count += 1;
    }
    count.to_string()
}

fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for char in text.chars() {
        match char {
            '"' | '\\' => out.extend(['\\', char]),
            '\n' => out.push_str("\\n"),
            char if char.is_control() => out.push_str(&format!("\\u{:04x}", char as u32)),
            char => out.push(char),
        }
    }
    out + "\""
}
