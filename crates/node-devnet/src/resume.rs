//! What of a streamed answer goes to its client: pure.
//!
//! A node may start a job anew after a crash; then it streams from the beginning. The client has a part already, so
//! what it has is not sent twice: the new text is held back until it goes beyond the text that was sent. If it turns
//! out to be another text, nothing can take back what was sent, and the stream ends with an error. Parts may be lost;
//! what is missing at the end comes from the result, which carries all.

use std::collections::BTreeMap;

use node_types::{job::Mode, protocol::Chunk};
use serde_json::{Value, json};

/// What is to be done with the client's stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Relayed {
    /// Send these events' data, in order; there may be none.
    Send(Vec<String>),
    /// The new start's answer is another one: the stream ends with an error.
    Diverged,
}

/// One streamed answer on its way to one client.
#[derive(Clone, Debug)]
pub struct Relay {
    mode: Mode,
    /// Whether the client asked for the count of tokens.
    usage_wanted: bool,
    attempt: u16,
    next: u32,
    /// A part of this start was lost: the rest of it cannot be placed.
    broken: bool,
    /// The text of this start, by choice.
    current: BTreeMap<u64, String>,
    /// The text that the client has, by choice.
    sent: BTreeMap<u64, String>,
    finished: BTreeMap<u64, bool>,
    usage_sent: bool,
    /// Something other than text was sent (a call of a tool): it cannot be compared.
    opaque_sent: bool,
    /// The last event's data, whose `id`, `created` and `model` the events made here repeat.
    pattern: Option<Value>,
}

impl Relay {
    /// Nothing was sent yet.
    #[must_use]
    pub const fn new(mode: Mode, usage_wanted: bool) -> Self {
        Self {
            mode,
            usage_wanted,
            attempt: 0,
            next: 0,
            broken: false,
            current: BTreeMap::new(),
            sent: BTreeMap::new(),
            finished: BTreeMap::new(),
            usage_sent: false,
            opaque_sent: false,
            pattern: None,
        }
    }

    /// The job has gone to another node, which counts its starts from 1 again.
    pub fn moved(&mut self) {
        self.attempt = 0;
    }

    /// A part has come.
    pub fn chunk(&mut self, chunk: &Chunk) -> Relayed {
        if chunk.attempt < self.attempt {
            return Relayed::Send(Vec::new());
        }
        if chunk.attempt > self.attempt {
            if self.opaque_sent {
                return Relayed::Diverged;
            }
            (self.attempt, self.next, self.broken) = (chunk.attempt, 0, false);
            self.current.clear();
        }
        if chunk.index < self.next {
            return Relayed::Send(Vec::new());
        }
        self.broken |= chunk.index != self.next;
        if self.broken {
            return Relayed::Send(Vec::new());
        }
        self.next += 1;
        match serde_json::from_str(&chunk.data) {
            Ok(event) => self.event(event, &chunk.data),
            // What the runtime sent as no JSON helps no client.
            Err(_) => Relayed::Send(Vec::new()),
        }
    }

    fn event(&mut self, mut event: Value, data: &str) -> Relayed {
        let (mut news, mut changed) = (false, false);
        for choice in event.get_mut("choices").and_then(Value::as_array_mut).into_iter().flatten() {
            let index = choice.get("index").and_then(Value::as_u64).unwrap_or(0);
            let delta = text_of(self.mode, choice, "delta").unwrap_or_default().to_owned();
            let first = !self.current.contains_key(&index);
            let current = self.current.entry(index).or_default();
            current.push_str(&delta);
            let known = self.sent.contains_key(&index);
            let sent = self.sent.entry(index).or_default();
            if let Some(beyond) = current.strip_prefix(sent.as_str()) {
                if beyond != delta {
                    set_text(self.mode, choice, beyond);
                    changed = true;
                }
                news |= !beyond.is_empty();
                sent.push_str(beyond);
            } else if sent.starts_with(current.as_str()) {
                set_text(self.mode, choice, "");
                changed |= !delta.is_empty();
            } else {
                return Relayed::Diverged;
            }
            // The role, which comes first and once.
            news |= first && !known;
            if choice.get("finish_reason").is_some_and(|reason| !reason.is_null()) && current == sent {
                news |= self.finished.insert(index, true).is_none();
            }
            if is_opaque(choice) {
                self.opaque_sent = true;
                news = true;
            }
        }
        if event.get("usage").is_some_and(|usage| !usage.is_null()) && !self.usage_sent {
            self.usage_sent = true;
            news = true;
        }
        let sent = match (news, changed) {
            (true, false) => vec![data.to_owned()],
            (true, true) => vec![event.to_string()],
            (false, _) => Vec::new(),
        };
        self.pattern = Some(event);
        Relayed::Send(sent)
    }

    /// The result has come: what the client does not have yet. `[DONE]` is not among it.
    pub fn end(&mut self, body: &str) -> Relayed {
        let Ok(whole) = serde_json::from_str::<Value>(body) else { return Relayed::Diverged };
        let mut events = Vec::new();
        for choice in whole.get("choices").and_then(Value::as_array).into_iter().flatten() {
            let index = choice.get("index").and_then(Value::as_u64).unwrap_or(0);
            let text = text_of(self.mode, choice, "message").unwrap_or_default();
            let known = self.sent.contains_key(&index);
            let Some(missing) = text.strip_prefix(self.sent.entry(index).or_default().as_str()) else {
                return Relayed::Diverged;
            };
            let calls = choice.pointer("/message/tool_calls").filter(|calls| !calls.is_null());
            let calls = calls.filter(|_| !self.opaque_sent);
            if !missing.is_empty() || calls.is_some() {
                events.push(self.part(&whole, index, !known, missing, calls, &Value::Null));
            }
            if self.finished.insert(index, true).is_none() {
                let reason = choice.get("finish_reason").cloned().unwrap_or_else(|| json!("stop"));
                events.push(self.part(&whole, index, false, "", None, &reason));
            }
            self.sent.insert(index, text.to_owned());
        }
        if let Some(usage) = whole.get("usage").filter(|_| self.usage_wanted && !self.usage_sent) {
            let mut event = self.frame(&whole);
            event["choices"] = json!([]);
            event["usage"] = usage.clone();
            events.push(event.to_string());
            self.usage_sent = true;
        }
        Relayed::Send(events)
    }

    fn frame(&self, whole: &Value) -> Value {
        let object = match self.mode {
            Mode::Chat => "chat.completion.chunk",
            Mode::Completion | Mode::Embedding => "text_completion",
        };
        let mut event = json!({ "object": object });
        for name in ["id", "created", "model"] {
            let from = self.pattern.as_ref().and_then(|pattern| pattern.get(name));
            if let Some(value) = from.or_else(|| whole.get(name)) {
                event[name] = value.clone();
            }
        }
        event
    }

    fn part(
        &self,
        whole: &Value,
        index: u64,
        first: bool,
        text: &str,
        calls: Option<&Value>,
        finish_reason: &Value,
    ) -> String {
        let mut event = self.frame(whole);
        let mut choice = json!({ "index": index, "finish_reason": finish_reason });
        match self.mode {
            Mode::Chat => {
                choice["delta"] = json!({});
                if first {
                    choice["delta"]["role"] = json!("assistant");
                }
                if !text.is_empty() {
                    choice["delta"]["content"] = json!(text);
                }
                if let Some(calls) = calls {
                    choice["delta"]["tool_calls"] = numbered(calls);
                }
            }
            Mode::Completion | Mode::Embedding => choice["text"] = json!(text),
        }
        event["choices"] = json!([choice]);
        event.to_string()
    }
}

/// In a stream each call of a tool names its place.
fn numbered(calls: &Value) -> Value {
    let mut calls = calls.clone();
    for (call, place) in calls.as_array_mut().into_iter().flatten().zip(0..) {
        let place: u32 = place;
        if call.is_object() {
            call["index"] = json!(place);
        }
    }
    calls
}

/// The text of a choice: of a part (`delta`) or of a whole answer (`message`).
fn text_of<'a>(mode: Mode, choice: &'a Value, holder: &str) -> Option<&'a str> {
    match mode {
        Mode::Chat => choice.get(holder)?.get("content")?.as_str(),
        Mode::Completion | Mode::Embedding => choice.get("text")?.as_str(),
    }
}

fn set_text(mode: Mode, choice: &mut Value, text: &str) {
    let place = match mode {
        Mode::Chat => choice.get_mut("delta").and_then(|delta| delta.get_mut("content")),
        Mode::Completion | Mode::Embedding => choice.get_mut("text"),
    };
    if let Some(place) = place {
        *place = json!(text);
    }
}

fn is_opaque(choice: &Value) -> bool {
    ["tool_calls", "function_call"]
        .iter()
        .any(|name| choice.get("delta").and_then(|delta| delta.get(name)).is_some_and(|it| !it.is_null()))
}

#[cfg(test)]
mod tests {
    use node_types::JobId;
    use proptest::prelude::*;

    use super::*;

    fn chunk(attempt: u16, index: u32, text: &str) -> Chunk {
        let data = json!({ "id": "c", "choices": [{ "index": 0, "delta": { "content": text } }] });
        Chunk { job: JobId::from_bytes([1; 16]), attempt, index, data: data.to_string() }
    }

    fn whole(text: &str) -> String {
        let choice = json!({ "index": 0, "message": { "content": text }, "finish_reason": "stop" });
        json!({ "id": "w", "choices": [choice], "usage": { "total_tokens": 3 } }).to_string()
    }

    /// The text that a client puts together, and the number of events.
    fn read(events: &[Relayed]) -> (String, usize) {
        let (mut text, mut count) = (String::new(), 0);
        for event in events {
            let Relayed::Send(parts) = event else { panic!("{event:?}") };
            for part in parts {
                let part: Value = serde_json::from_str(part).unwrap();
                text.push_str(text_of(Mode::Chat, &part["choices"][0], "delta").unwrap_or_default());
                count += 1;
            }
        }
        (text, count)
    }

    #[test]
    fn parts_go_to_the_client_as_they_come() {
        let mut relay = Relay::new(Mode::Chat, false);
        let part = chunk(1, 0, "Par");
        assert_eq!(relay.chunk(&part), Relayed::Send(vec![part.data.clone()]));
        assert_eq!(relay.chunk(&part), Relayed::Send(vec![]), "the same part again");
        let rest = [relay.chunk(&chunk(1, 1, "is")), relay.end(&whole("Paris"))];
        assert_eq!(read(&rest), ("is".into(), 2));
    }

    #[test]
    fn a_later_start_repeats_nothing_that_the_client_has() {
        let mut relay = Relay::new(Mode::Chat, false);
        let mut events = vec![relay.chunk(&chunk(1, 0, "The city")), relay.chunk(&chunk(1, 1, " of"))];
        events.push(relay.chunk(&chunk(2, 0, "The ")));
        assert_eq!(read(&events[2..]), (String::new(), 0));
        events.push(relay.chunk(&chunk(2, 1, "city of Par")));
        assert_eq!(read(&events[3..]).0, " Par");
        events.push(relay.chunk(&chunk(2, 2, "is")));
        events.push(relay.chunk(&chunk(1, 2, "late part of the first start")));
        events.push(relay.end(&whole("The city of Paris")));
        assert_eq!(read(&events).0, "The city of Paris");
    }

    #[test]
    fn another_node_begins_at_its_first_start_and_repeats_nothing_either() {
        let mut relay = Relay::new(Mode::Chat, false);
        let mut events = vec![relay.chunk(&chunk(2, 0, "The city"))];
        relay.moved();
        events.push(relay.chunk(&chunk(1, 0, "The ")));
        events.push(relay.chunk(&chunk(1, 1, "city of Paris")));
        assert_eq!(read(&events).0, "The city of Paris");
    }

    #[test]
    fn a_later_start_with_another_answer_ends_the_stream() {
        let mut relay = Relay::new(Mode::Chat, false);
        relay.chunk(&chunk(1, 0, "The city"));
        assert_eq!(relay.chunk(&chunk(2, 0, "A town")), Relayed::Diverged);
        let mut relay = Relay::new(Mode::Chat, false);
        relay.chunk(&chunk(1, 0, "The city"));
        assert_eq!(relay.end(&whole("A town")), Relayed::Diverged);
    }

    #[test]
    fn calls_of_tools_cannot_be_compared_so_a_later_start_ends_the_stream() {
        let mut relay = Relay::new(Mode::Chat, false);
        let mut part = chunk(1, 0, "");
        part.data = json!({ "choices": [{ "index": 0, "delta": { "tool_calls": [{}] } }] }).to_string();
        assert_eq!(relay.chunk(&part), Relayed::Send(vec![part.data.clone()]));
        assert_eq!(relay.chunk(&chunk(2, 0, "x")), Relayed::Diverged);
    }

    #[test]
    fn the_count_of_tokens_comes_last_for_who_asked_for_it() {
        let mut relay = Relay::new(Mode::Chat, true);
        let Relayed::Send(parts) = relay.end(&whole("x")) else { panic!() };
        let last: Value = serde_json::from_str(parts.last().unwrap()).unwrap();
        assert_eq!(last["usage"]["total_tokens"], 3);
        assert_eq!(last["choices"], json!([]));
        let Relayed::Send(parts) = Relay::new(Mode::Chat, false).end(&whole("x")) else { panic!() };
        assert!(parts.iter().all(|part| !part.contains("usage")));
    }

    proptest! {
        /// Given any number of starts of one answer, each cut anywhere and with any parts lost; then the client
        /// reads the answer once.
        #[test]
        fn whatever_is_lost_or_begun_anew_the_client_reads_the_answer_once(
            text in "[a-zA-Z é]{0,40}",
            starts in prop::collection::vec(prop::collection::vec((1..6_usize, any::<bool>()), 0..12), 0..5),
        ) {
            let letters: Vec<char> = text.chars().collect();
            let mut relay = Relay::new(Mode::Chat, false);
            let mut events = Vec::new();
            for (attempt, cuts) in (1..).zip(&starts) {
                let mut at = 0;
                for (index, (length, lost)) in (0..).zip(cuts) {
                    let to = letters.len().min(at + length);
                    let part: String = letters[at..to].iter().collect();
                    at = to;
                    if !lost {
                        events.push(relay.chunk(&chunk(attempt, index, &part)));
                    }
                }
            }
            events.push(relay.end(&whole(&text)));
            prop_assert_eq!(read(&events).0, text);
        }
    }
}
