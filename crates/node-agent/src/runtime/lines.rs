//! What a program prints: bounded lines, handed out to whoever listens; the last ones say why it ended.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    sync::broadcast,
};

/// The longest line, in bytes; the rest of a longer one is dropped.
pub(super) const LINE_BYTES_MAX: usize = 2 << 10;
/// The last lines that are kept.
const LAST_LINES: usize = 4;

/// Cuts bytes into lines.
#[derive(Debug, Default)]
struct Cutter {
    line: Vec<u8>,
}

impl Cutter {
    fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for &byte in bytes {
            match byte {
                b'\n' | b'\r' => lines.extend(self.end()),
                _ if self.line.len() < LINE_BYTES_MAX => self.line.push(byte),
                _ => {}
            }
        }
        lines
    }

    /// The line so far, if there is anything in it; control characters could play tricks with a terminal.
    fn end(&mut self) -> Option<String> {
        let text = String::from_utf8_lossy(&std::mem::take(&mut self.line)).replace(char::is_control, " ");
        let text = text.trim_end();
        (!text.is_empty()).then(|| text.to_owned())
    }
}

/// Where lines go. Listeners that are too slow miss some; the program never waits for them.
#[derive(Clone, Debug)]
pub(super) struct Lines {
    listeners: broadcast::Sender<String>,
    last: Arc<Mutex<VecDeque<String>>>,
}

impl Lines {
    pub(super) fn to(listeners: broadcast::Sender<String>) -> Self {
        Self { listeners, last: Arc::default() }
    }

    fn say(&self, line: String) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.len() == LAST_LINES {
            last.pop_front();
        }
        last.push_back(line.clone());
        drop(last);
        // Nobody has to listen.
        let _ = self.listeners.send(line);
    }

    /// The last lines in one.
    pub(super) fn last(&self) -> String {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.iter().map(String::as_str).collect::<Vec<_>>().join(" | ")
    }

    /// Reads until the program closes the pipe.
    pub(super) async fn read(self, mut pipe: impl AsyncRead + Unpin) -> io::Result<()> {
        let (mut cutter, mut buffer) = (Cutter::default(), [0; 4096]);
        loop {
            let count = pipe.read(&mut buffer).await?;
            let lines =
                if count == 0 { cutter.end().into_iter().collect() } else { cutter.push(&buffer[..count]) };
            for line in lines {
                self.say(line);
            }
            if count == 0 {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_bounded_and_the_last_ones_are_kept() {
        let (sender, mut heard) = broadcast::channel(16);
        let lines = Lines::to(sender);
        let long = "x".repeat(LINE_BYTES_MAX + 1);
        let mut printed = format!("one\r\n\n{long}\n\x1b[31mred").into_bytes();
        printed.extend(b"\xff\nfour\nfive");
        lines.clone().read(&printed[..]).await.unwrap();
        assert_eq!(heard.recv().await.unwrap(), "one");
        assert_eq!(heard.recv().await.unwrap(), long[..LINE_BYTES_MAX]);
        assert!(lines.last().ends_with(" |  [31mred\u{fffd} | four | five"), "{}", lines.last());
    }
}
