//! As much of an inference server as the Agent looks at.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::Arc,
    thread,
};

use crate::{facts::Facts, ways};

/// Listens until it is killed.
///
/// # Errors
/// It cannot listen.
pub(crate) fn run(facts: &Facts) -> Result<(), String> {
    let address = (facts.text("host")?, facts.number::<u16>("port")?);
    let listener =
        TcpListener::bind(address).map_err(|error| format!("cannot listen on {address:?}: {error}"))?;
    println!("listening");
    thread::scope(|scope| {
        for stream in listener.incoming().flatten() {
            let facts = Arc::new(facts);
            scope.spawn(move || answer(&facts, stream));
        }
    });
    Ok(())
}

/// Answers one request and closes.
fn answer(facts: &Facts, stream: TcpStream) {
    let mut reader = BufReader::new(&stream);
    let (mut first, mut bytes) = (String::new(), 0);
    if reader.read_line(&mut first).is_err() {
        return;
    }
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).is_err() || line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            bytes = value.trim().parse().unwrap_or(0);
        }
    }
    let _ = reader.take(bytes).read_to_end(&mut Vec::new());
    let body = if first.starts_with("POST") {
        format!(
            r#"{{"id":"1","object":"chat.completion","choices":[{{"index":0,"finish_reason":"stop","message":{{"role":"assistant","content":{}}}}}],"usage":{{"prompt_tokens":1,"completion_tokens":1}}}}"#,
            quoted(&report(facts))
        )
    } else {
        r#"{"status":"ok"}"#.to_owned()
    };
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close";
    // Whoever went away needs no answer.
    let _ = write!(&stream, "{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
}

/// What came of every way, as JSON.
fn report(facts: &Facts) -> String {
    let tried = ways::WAYS.iter().map(|(name, way)| {
        let (reached, detail) = match way(facts) {
            Ok(detail) => (true, detail),
            Err(detail) => (false, detail),
        };
        format!(r#"{{"way":{},"reached":{reached},"detail":{}}}"#, quoted(name), quoted(&detail))
    });
    let tried: Vec<String> = tried.collect();
    let model = facts.path("model").and_then(ways::read).unwrap_or_else(|problem| problem.into_bytes());
    format!(r#"{{"model":{},"ways":[{}]}}"#, quoted(&String::from_utf8_lossy(&model)), tried.join(","))
}

/// A text as a JSON string; what is not printable ASCII becomes a question mark.
fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for letter in text.chars() {
        match letter {
            '"' | '\\' => quoted.extend(['\\', letter]),
            ' '..='~' => quoted.push(letter),
            _ => quoted.push('?'),
        }
    }
    quoted + "\""
}
