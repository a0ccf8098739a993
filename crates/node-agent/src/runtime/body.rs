//! What a job's body becomes before the runtime sees it: its tokens capped, its stream made to tell its usage.

use node_types::job::{Mode, Request};
use serde_json::{Map, Value, json};

use super::error::InferenceError;

/// The names under which a body says how many tokens one choice may have.
const CAPS: [&str; 3] = ["max_tokens", "max_completion_tokens", "n_predict"];

/// A body to send.
#[derive(Debug)]
pub(super) struct Asked {
    /// JSON text.
    pub body: String,
    /// Whether an event stream is asked for.
    pub stream: bool,
    /// Whether whoever asked wants to see the event that carries the usage and no choice.
    pub usage_wanted: bool,
}

/// The body of one run. `max_tokens` is shared out among all the choices that it asks for, so the sum holds whatever it says.
///
/// # Errors
/// [`InferenceError::Refused`] with status 400 for a body that asks for more choices than tokens, or says so in no number.
pub(super) fn prepare(mode: Mode, request: &Request, max_tokens: u32) -> Result<Asked, InferenceError> {
    let mut body: Map<String, Value> = serde_json::from_str(request.as_json())
        .map_err(|_| InferenceError::refused(400, "the request is not a JSON object"))?;
    match mode {
        Mode::Chat | Mode::Completion => cap(&mut body, max_tokens)?,
        Mode::Embedding => {}
    }
    let stream = mode != Mode::Embedding && body.get("stream") == Some(&Value::Bool(true));
    let mut usage_wanted = false;
    if stream {
        let options = body.entry("stream_options").or_insert_with(|| json!({}));
        if !options.is_object() {
            *options = json!({});
        }
        usage_wanted = options["include_usage"] == Value::Bool(true);
        options["include_usage"] = Value::Bool(true);
    } else {
        body.remove("stream");
        body.remove("stream_options");
    }
    Ok(Asked { body: Value::Object(body).to_string(), stream, usage_wanted })
}

fn cap(body: &mut Map<String, Value>, max_tokens: u32) -> Result<(), InferenceError> {
    let choices = count(body, "n")?.max(count(body, "best_of")?).saturating_mul(prompts(body));
    let each = u64::from(max_tokens) / choices;
    if each == 0 {
        let message = format!("{choices} choices cannot share {max_tokens} tokens");
        return Err(InferenceError::refused(400, &message));
    }
    // What is no count, -1 for example, means as many as it likes.
    let asked = CAPS.iter().filter_map(|name| body.get(*name)?.as_u64()).min();
    let tokens = asked.map_or(each, |asked| asked.min(each));
    for name in CAPS {
        if name == "max_tokens" || body.contains_key(name) {
            body.insert(name.to_owned(), tokens.into());
        }
    }
    Ok(())
}

/// A count that is 1 where it is not given.
fn count(body: &Map<String, Value>, name: &str) -> Result<u64, InferenceError> {
    match body.get(name) {
        None | Some(Value::Null) => Ok(1),
        Some(value) => value
            .as_u64()
            .filter(|count| *count > 0)
            .ok_or_else(|| InferenceError::refused(400, &format!("{name} must be a number, at least 1"))),
    }
}

/// How many prompts the body has: each gets its own choices. A list of numbers is one prompt, by its tokens.
fn prompts(body: &Map<String, Value>) -> u64 {
    let list = body.get("prompt").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let prompts = list.iter().filter(|part| part.is_string() || part.is_array() || part.is_object()).count();
    u64::try_from(prompts).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(mode: Mode, body: &Value, max_tokens: u32) -> Value {
        let request = Request::parse(body.to_string().as_bytes()).unwrap();
        serde_json::from_str(&prepare(mode, &request, max_tokens).unwrap().body).unwrap()
    }

    #[test]
    fn every_way_to_ask_for_tokens_is_capped() {
        let wide = json!({"max_tokens": 100, "max_completion_tokens": 7, "n_predict": -1});
        let seven = json!({"max_tokens": 7, "max_completion_tokens": 7, "n_predict": 7});
        assert_eq!(sent(Mode::Completion, &wide, 50), seven);
        let five = json!({"max_tokens": 5, "max_completion_tokens": 5, "n_predict": 5});
        assert_eq!(sent(Mode::Chat, &wide, 5), five);
        for open in
            [json!({}), json!({"max_tokens": null}), json!({"max_tokens": -1}), json!({"max_tokens": "9"})]
        {
            assert_eq!(sent(Mode::Chat, &open, 5), json!({"max_tokens": 5}));
        }
        assert_eq!(sent(Mode::Embedding, &json!({"input": "a"}), 5), json!({"input": "a"}));
    }

    #[test]
    fn the_tokens_of_a_job_are_shared_by_its_choices() {
        assert_eq!(sent(Mode::Chat, &json!({"n": 2}), 10)["max_tokens"], 5);
        assert_eq!(sent(Mode::Completion, &json!({"best_of": 3, "n": 2}), 10)["max_tokens"], 3);
        assert_eq!(sent(Mode::Completion, &json!({"prompt": ["a", "b"], "n": 2}), 10)["max_tokens"], 2);
        assert_eq!(sent(Mode::Completion, &json!({"prompt": [1, 2, 3]}), 10)["max_tokens"], 10);
        assert_eq!(sent(Mode::Completion, &json!({"n": 10}), 10)["max_tokens"], 1);
        for greedy in [
            json!({"n": 11}),
            json!({"n": u64::MAX, "prompt": ["a", "b"]}),
            json!({"n": "2"}),
            json!({"n": 0}),
        ] {
            let request = Request::parse(greedy.to_string().as_bytes()).unwrap();
            let refused = prepare(Mode::Chat, &request, 10).unwrap_err();
            assert!(matches!(refused, InferenceError::Refused { status: 400, .. }), "{refused}");
        }
    }

    #[test]
    fn a_stream_always_tells_its_usage_and_who_asked_for_it_is_remembered() {
        let asked = |body: &Value| {
            let request = Request::parse(body.to_string().as_bytes()).unwrap();
            let asked = prepare(Mode::Chat, &request, 1).unwrap();
            let sent: Value = serde_json::from_str(&asked.body).unwrap();
            (asked.stream, asked.usage_wanted, sent["stream_options"].clone())
        };
        let told = json!({"include_usage": true});
        assert_eq!(asked(&json!({"stream": true})), (true, false, told.clone()));
        assert_eq!(asked(&json!({"stream": true, "stream_options": 3})), (true, false, told.clone()));
        assert_eq!(asked(&json!({"stream": true, "stream_options": told})), (true, true, told));
        assert_eq!(asked(&json!({"stream": false, "stream_options": {}})), (false, false, Value::Null));
    }
}
