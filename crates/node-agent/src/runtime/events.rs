//! Server-sent events: the data of each, out of bytes that come in any pieces.
//!
//! After the WHATWG's "Server-sent events": lines end with LF, CR LF or CR; an empty line ends an event; the `data` lines
//! of an event are joined with LF. Left out: event names, ids and retry times, which the OpenAI API does not use.

use node_types::job::OUTPUT_BYTES_MAX;

use super::error::InferenceError;

/// Reads events.
#[derive(Debug, Default)]
pub(super) struct Events {
    line: Vec<u8>,
    data: Option<Vec<u8>>,
    after_cr: bool,
}

impl Events {
    /// Takes more bytes; gives the data of every event that they complete.
    ///
    /// # Errors
    /// [`InferenceError::TooLarge`] for an event over [`OUTPUT_BYTES_MAX`], [`InferenceError::Malformed`] for one that is
    /// not UTF-8.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<Vec<String>, InferenceError> {
        let mut events = Vec::new();
        for &byte in bytes {
            let second_of_crlf = byte == b'\n' && std::mem::take(&mut self.after_cr);
            match byte {
                b'\n' if second_of_crlf => {}
                b'\n' | b'\r' => {
                    self.after_cr = byte == b'\r';
                    events.extend(self.end_of_line()?);
                }
                _ => {
                    self.after_cr = false;
                    self.line.push(byte);
                }
            }
            if self.line.len() + self.data.as_ref().map_or(0, Vec::len) > OUTPUT_BYTES_MAX {
                return Err(InferenceError::TooLarge {});
            }
        }
        Ok(events)
    }

    fn end_of_line(&mut self) -> Result<Option<String>, InferenceError> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            let data = self.data.take().map(String::from_utf8).transpose();
            return data.map_err(|_| InferenceError::malformed("an event is not UTF-8"));
        }
        let (name, value) = match line.iter().position(|byte| *byte == b':') {
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (&line[..], &[][..]),
        };
        if name == b"data" {
            let value = value.strip_prefix(b" ").unwrap_or(value);
            match &mut self.data {
                Some(data) => {
                    data.push(b'\n');
                    data.extend_from_slice(value);
                }
                None => self.data = Some(value.to_vec()),
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_the_same_however_their_bytes_are_cut() {
        let stream = "\u{feff}: hello\r\n\r\ndata: {\"a\": \"é\"}\r\n\r\nevent: x\rdata:1\rdata: 2\r\rid: 3\n\ndata\n\ndata: cut";
        let expected = ["{\"a\": \"é\"}", "1\n2", ""];
        for size in 1..stream.len() {
            let mut events = Events::default();
            let found: Vec<String> =
                stream.as_bytes().chunks(size).flat_map(|part| events.push(part).unwrap()).collect();
            assert_eq!(found, expected, "in pieces of {size}");
        }
    }

    #[test]
    fn an_event_without_end_is_too_large_and_not_kept() {
        let mut events = Events::default();
        events.push(b"data: ").unwrap();
        let part = vec![b'x'; OUTPUT_BYTES_MAX / 4];
        let outcomes: Vec<bool> = (0..4).map(|_| events.push(&part).is_ok()).collect();
        assert_eq!(outcomes, [true, true, true, false]);
    }
}
