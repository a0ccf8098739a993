//! A streamed answer put together: the object that the same request gives when it is not streamed.
//!
//! Chunks differ from runtime to runtime in what they add (reasoning, timings, token ids), so they are merged by shape and
//! not field by field: texts are joined, lists are joined, objects are merged, anything else is replaced.

use std::collections::BTreeMap;

use node_types::job::{Mode, OUTPUT_BYTES_MAX};
use serde_json::{Map, Value, json};

use super::error::InferenceError;

/// Texts that a chunk repeats and does not continue.
const WHOLE: [&str; 7] = ["finish_reason", "id", "name", "object", "role", "stop_reason", "type"];

/// An answer under construction.
#[derive(Debug)]
pub(super) struct Assembly {
    mode: Mode,
    /// Everything but the choices.
    top: Map<String, Value>,
    choices: BTreeMap<u64, Map<String, Value>>,
    bytes: usize,
}

impl Assembly {
    pub(super) fn new(mode: Mode) -> Self {
        Self { mode, top: Map::new(), choices: BTreeMap::new(), bytes: 0 }
    }

    /// Takes a chunk. Says whether it carries a choice.
    ///
    /// # Errors
    /// [`InferenceError::Refused`] for a chunk that is an error, [`InferenceError::Malformed`] for one that is no chunk,
    /// [`InferenceError::TooLarge`] where the answer outgrows [`OUTPUT_BYTES_MAX`].
    pub(super) fn push(&mut self, data: &str) -> Result<bool, InferenceError> {
        let chunk: Map<String, Value> = serde_json::from_str(data)
            .map_err(|_| InferenceError::malformed("an event is not a JSON object"))?;
        if let Some(error) = chunk.get("error").filter(|error| !error.is_null()) {
            let status = error["code"].as_u64().and_then(|code| u16::try_from(code).ok()).unwrap_or(500);
            let message =
                error["message"].as_str().or(error.as_str()).unwrap_or("an error without a message");
            return Err(InferenceError::refused(status, message));
        }
        let mut has_choice = false;
        for (name, value) in chunk {
            match (name.as_str(), value) {
                ("choices", Value::Array(choices)) => {
                    has_choice = !choices.is_empty();
                    for choice in choices {
                        self.choice(choice)?;
                    }
                }
                ("choices", _) => return Err(InferenceError::malformed("an event's choices are not a list")),
                (_, Value::Null) => {}
                (_, value) => {
                    self.top.insert(name, value);
                }
            }
        }
        if self.bytes > OUTPUT_BYTES_MAX { Err(InferenceError::TooLarge {}) } else { Ok(has_choice) }
    }

    fn choice(&mut self, choice: Value) -> Result<(), InferenceError> {
        let Value::Object(mut choice) = choice else {
            return Err(InferenceError::malformed("a choice is not an object"));
        };
        let index = choice.get("index").and_then(Value::as_u64).unwrap_or(0);
        if let Some(delta) = choice.remove("delta") {
            choice.insert("message".to_owned(), delta);
        }
        let held =
            self.choices.entry(index).or_insert_with(|| Map::from_iter([("index".to_owned(), json!(index))]));
        for (name, value) in choice {
            merge(held, name, value, &mut self.bytes);
        }
        Ok(())
    }

    /// Whether every choice has ended and the usage is known: then a stream that ends without saying so is complete.
    pub(super) fn is_complete(&self) -> bool {
        let ended = |choice: &Map<String, Value>| choice.get("finish_reason").is_some_and(Value::is_string);
        !self.choices.is_empty() && self.choices.values().all(ended) && self.top.contains_key("usage")
    }

    /// The whole answer, as JSON text.
    ///
    /// # Errors
    /// [`InferenceError::Malformed`] where no choice came.
    pub(super) fn finish(mut self) -> Result<String, InferenceError> {
        if self.choices.is_empty() {
            return Err(InferenceError::malformed("the stream ended without a choice"));
        }
        let choices = self.choices.into_values().map(|mut choice| {
            choice.entry("finish_reason").or_insert(Value::Null);
            if let Some(Value::Object(message)) = choice.get_mut("message") {
                for name in ["role", "content"] {
                    let missing = if name == "role" { json!("assistant") } else { Value::Null };
                    message.entry(name).or_insert(missing);
                }
                without_index(message);
            }
            Value::Object(choice)
        });
        self.top.insert("choices".to_owned(), choices.collect());
        let object = match self.mode {
            Mode::Chat => "chat.completion",
            Mode::Completion | Mode::Embedding => "text_completion",
        };
        self.top.insert("object".to_owned(), json!(object));
        Ok(Value::Object(self.top).to_string())
    }
}

/// Tool calls carry their place only while they are streamed.
fn without_index(message: &mut Map<String, Value>) {
    if let Some(Value::Array(calls)) = message.get_mut("tool_calls") {
        calls.sort_by_key(|call| call["index"].as_u64());
        for call in calls.iter_mut().filter_map(Value::as_object_mut) {
            call.remove("index");
        }
    }
}

/// Merges a field into an object, counting in `bytes` what the object grows by.
fn merge(into: &mut Map<String, Value>, name: String, value: Value, bytes: &mut usize) {
    let whole = WHOLE.contains(&name.as_str());
    let calls = name == "tool_calls";
    match (into.get_mut(&name), value) {
        (Some(_), Value::Null) => {}
        (Some(Value::String(text)), Value::String(more)) if !whole => {
            *bytes += more.len();
            text.push_str(&more);
        }
        (Some(Value::Array(list)), Value::Array(more)) if calls => {
            for call in more {
                merge_call(list, call, bytes);
            }
        }
        (Some(Value::Array(list)), Value::Array(more)) => {
            *bytes += more.iter().map(size).sum::<usize>();
            list.extend(more);
        }
        (Some(Value::Object(object)), Value::Object(more)) => {
            for (name, value) in more {
                merge(object, name, value, bytes);
            }
        }
        (Some(held), value) => *held = value,
        (None, value) => {
            *bytes += name.len() + size(&value);
            into.insert(name, value);
        }
    }
}

/// Continues the call that stands at the same place, or adds one.
fn merge_call(calls: &mut Vec<Value>, call: Value, bytes: &mut usize) {
    let held = calls.iter_mut().find(|held| held["index"] == call["index"]);
    match (held, call) {
        (Some(Value::Object(held)), Value::Object(call)) => {
            for (name, value) in call {
                merge(held, name, value, bytes);
            }
        }
        (_, call) => {
            *bytes += size(&call);
            calls.push(call);
        }
    }
}

/// About the length of a value as JSON, never less than what it holds.
fn size(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) => 4,
        Value::Number(_) => 8,
        Value::String(text) => text.len() + 2,
        Value::Array(list) => list.iter().map(|item| size(item) + 1).sum::<usize>() + 2,
        Value::Object(object) => {
            object.iter().map(|(name, item)| name.len() + size(item) + 4).sum::<usize>() + 2
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assembled(mode: Mode, chunks: &[Value]) -> Value {
        let mut assembly = Assembly::new(mode);
        for chunk in chunks {
            assembly.push(&chunk.to_string()).unwrap();
        }
        serde_json::from_str(&assembly.finish().unwrap()).unwrap()
    }

    #[test]
    fn a_chat_becomes_the_object_that_is_not_streamed() {
        let chunks = [
            json!({"id": "1", "object": "chat.completion.chunk", "created": 5, "model": "m",
                "choices": [{"index": 1, "delta": {"role": "assistant", "content": null}, "finish_reason": null}]}),
            json!({"id": "1", "choices": [{"index": 0, "delta": {"role": "assistant", "content": "A"}}]}),
            json!({"id": "1", "choices": [{"index": 1, "delta": {"content": "B"},
                "logprobs": {"content": [{"token": "B"}]}}], "usage": null}),
            json!({"id": "1", "choices": [{"index": 1, "delta": {"role": "assistant", "content": "b"},
                "logprobs": {"content": [{"token": "b"}]}}]}),
            json!({"id": "1", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"},
                {"index": 1, "delta": {}, "finish_reason": "length"}]}),
            json!({"id": "1", "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}}),
        ];
        let expected = json!({
            "id": "1", "object": "chat.completion", "created": 5, "model": "m",
            "choices": [
                {"index": 0, "message": {"role": "assistant", "content": "A"}, "finish_reason": "stop"},
                {"index": 1, "message": {"role": "assistant", "content": "Bb"}, "finish_reason": "length",
                    "logprobs": {"content": [{"token": "B"}, {"token": "b"}]}},
            ],
            "usage": {"prompt_tokens": 1, "completion_tokens": 2},
        });
        assert_eq!(assembled(Mode::Chat, &chunks), expected);
    }

    #[test]
    fn tool_calls_are_continued_each_at_its_place() {
        let delta = |calls: Value| json!({"choices": [{"index": 0, "delta": {"tool_calls": calls}}]});
        let chunks = [
            delta(
                json!([{"index": 1, "id": "b", "type": "function", "function": {"name": "g", "arguments": ""}}]),
            ),
            delta(
                json!([{"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": "{"}}]),
            ),
            delta(
                json!([{"index": 1, "function": {"arguments": "[]"}}, {"index": 0, "function": {"arguments": "}"}}]),
            ),
            json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}),
        ];
        let expected = json!({"role": "assistant", "content": null, "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}},
            {"id": "b", "type": "function", "function": {"name": "g", "arguments": "[]"}},
        ]});
        assert_eq!(assembled(Mode::Chat, &chunks)["choices"][0]["message"], expected);
    }

    #[test]
    fn a_completion_becomes_the_object_that_is_not_streamed() {
        let logprobs =
            |token: &str, at: u8| json!({"tokens": [token], "token_logprobs": [-0.5], "text_offset": [at]});
        let chunks = [
            json!({"object": "text_completion", "choices": [{"index": 0, "text": "a", "logprobs": logprobs("a", 0)}]}),
            json!({"object": "text_completion", "choices": [{"index": 0, "text": "b", "logprobs": logprobs("b", 1)}]}),
            json!({"choices": [{"index": 0, "text": "", "logprobs": null, "finish_reason": "length"}]}),
        ];
        let expected = json!({"object": "text_completion", "choices": [{
            "index": 0, "text": "ab", "finish_reason": "length",
            "logprobs": {"tokens": ["a", "b"], "token_logprobs": [-0.5, -0.5], "text_offset": [0, 1]},
        }]});
        assert_eq!(assembled(Mode::Completion, &chunks), expected);
    }

    #[test]
    fn what_is_no_answer_is_told_apart() {
        let push = |data: &str| Assembly::new(Mode::Chat).push(data).unwrap_err();
        let refused = push(r#"{"error":{"code":503,"message":"busy"}}"#);
        assert!(
            matches!(&refused, InferenceError::Refused { status: 503, message } if message == "busy"),
            "{refused}"
        );
        for malformed in ["CANARY", "[]", r#"{"choices":"CANARY"}"#, r#"{"choices":["CANARY"]}"#] {
            let error = push(malformed);
            assert!(
                matches!(error, InferenceError::Malformed { .. }) && !error.to_string().contains("CANARY")
            );
        }
        let error = Assembly::new(Mode::Chat).finish().unwrap_err();
        assert!(matches!(error, InferenceError::Malformed { .. }), "{error}");
    }

    #[test]
    fn an_answer_grows_to_its_limit_and_no_further() {
        let part = "x".repeat(1 << 20);
        let chunk = json!({"choices": [{"index": 0, "text": part}]}).to_string();
        let mut assembly = Assembly::new(Mode::Completion);
        let taken = (0..100).take_while(|_| assembly.push(&chunk).is_ok()).count();
        assert_eq!(taken, (OUTPUT_BYTES_MAX >> 20) - 1, "the last MiB does not fit beside the field's name");
    }
}
