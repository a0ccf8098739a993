//! A unit of inference: what the network asks for and what the node answers.
//!
//! A job is built from typed values only. What a message carries beyond these fields (balances,
//! credits, rewards, token state, anything unknown) is dropped when it is read, so it can never
//! reach the disk.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value, error::Category};

use crate::{JobId, Network, Timestamp};

/// The largest request body in bytes, whatever the snapshot allows: 4 MiB.
pub const REQUEST_BYTES_MAX: usize = 4 << 20;
/// The largest answer body in bytes: 16 MiB.
pub const OUTPUT_BYTES_MAX: usize = 16 << 20;
/// The longest failure message in bytes; longer ones are cut at a character.
pub const FAILURE_MESSAGE_BYTES_MAX: usize = 4 << 10;
/// The longest model name, and the longest version, in bytes.
pub const MODEL_NAME_BYTES_MAX: usize = 200;

/// What kind of inference a job asks for, by the OpenAI endpoint that it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Completion,
    /// `/v1/embeddings`
    Embedding,
}

/// A model by name and version, as the snapshot lists it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelRef {
    /// For example `gemma-3-270m`.
    pub name: String,
    /// For example `1.0.0`.
    pub version: String,
}

impl fmt::Display for ModelRef {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}@{}", self.name, self.version)
    }
}

/// Why a request body cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// Over [`REQUEST_BYTES_MAX`].
    #[error("the request has {found} bytes, at most {REQUEST_BYTES_MAX} are taken")]
    TooLarge {
        /// Bytes given.
        found: usize,
    },
    /// Not JSON, or not a JSON object. Says where, and never what stands there: it is somebody's prompt.
    #[error("the request is not a JSON object: {why} at line {line}, column {column}")]
    NotAnObject {
        /// The sort of fault.
        why: &'static str,
        /// Where it was noticed, counted from 1.
        line: usize,
        /// Bytes into that line.
        column: usize,
    },
}

impl BadRequest {
    fn not_an_object(error: &serde_json::Error) -> Self {
        let why = match error.classify() {
            Category::Eof => "it ends too early",
            Category::Data => "it is another value",
            Category::Syntax | Category::Io => "it is not JSON",
        };
        Self::NotAnObject { why, line: error.line(), column: error.column() }
    }
}

/// An OpenAI-style request body: a JSON object of the parameters in [`Request::PARAMETERS`],
/// keys sorted, without white space between tokens.
///
/// It is somebody's prompt: `Debug` prints only its length.
#[derive(Clone, PartialEq, Eq, Serialize)]
#[serde(into = "Value")]
pub struct Request(String);

impl Request {
    /// The top-level parameters that are kept: those of the OpenAI API (chat completions,
    /// completions, embeddings) that reach a runtime, and the sampling parameters that llama.cpp
    /// and vLLM add to them. Others are dropped.
    pub const PARAMETERS: &[&str] = &[
        "best_of",
        "cache_prompt",
        "dimensions",
        "dry_base",
        "dry_multiplier",
        "echo",
        "encoding_format",
        "frequency_penalty",
        "function_call",
        "functions",
        "grammar",
        "guided_json",
        "guided_regex",
        "ignore_eos",
        "input",
        "json_schema",
        "logit_bias",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "messages",
        "min_p",
        "mirostat",
        "model",
        "n",
        "n_predict",
        "n_probs",
        "parallel_tool_calls",
        "presence_penalty",
        "prompt",
        "reasoning_effort",
        "repeat_penalty",
        "repetition_penalty",
        "response_format",
        "seed",
        "stop",
        "stop_token_ids",
        "stream",
        "stream_options",
        "suffix",
        "temperature",
        "tool_choice",
        "tools",
        "top_k",
        "top_logprobs",
        "top_p",
        "typical_p",
    ];

    /// Reads a request body, keeping the known parameters.
    ///
    /// # Errors
    /// [`BadRequest`] for a body that is too large or is not a JSON object.
    pub fn parse(body: &[u8]) -> Result<Self, BadRequest> {
        if body.len() > REQUEST_BYTES_MAX {
            return Err(BadRequest::TooLarge { found: body.len() });
        }
        let fields: Map<String, Value> =
            serde_json::from_slice(body).map_err(|error| BadRequest::not_an_object(&error))?;
        Ok(Self::from_fields(fields))
    }

    fn from_fields(fields: Map<String, Value>) -> Self {
        let kept: Map<String, Value> =
            fields.into_iter().filter(|(name, _)| Self::PARAMETERS.contains(&name.as_str())).collect();
        Self(Value::Object(kept).to_string())
    }

    /// Takes a body that [`Request::as_json`] once gave, without reading it again.
    #[must_use]
    pub const fn from_stored(body: String) -> Self {
        Self(body)
    }

    /// The body as JSON text.
    #[must_use]
    pub fn as_json(&self) -> &str {
        &self.0
    }

    /// Length of the body in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Request({} bytes)", self.0.len())
    }
}

impl From<Request> for Value {
    fn from(request: Request) -> Self {
        serde_json::from_str(&request.0).unwrap_or(Self::Null)
    }
}

impl<'de> Deserialize<'de> for Request {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        // The deserializer's own error quotes what it found instead of an object.
        let fields = Value::deserialize(input)?;
        let Value::Object(fields) = fields else {
            return Err(serde::de::Error::custom("the request is not a JSON object"));
        };
        let request = Self::from_fields(fields);
        if request.bytes() > REQUEST_BYTES_MAX {
            return Err(serde::de::Error::custom(BadRequest::TooLarge { found: request.bytes() }));
        }
        Ok(request)
    }
}

/// A job as the network offers it.
///
/// Deserializing drops unknown fields: see the module's head.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// The network's name for it.
    pub id: JobId,
    /// The network that offers it.
    pub network: Network,
    /// The model to run.
    pub model: ModelRef,
    /// The endpoint to call.
    pub mode: Mode,
    /// The body to send to the runtime.
    pub request: Request,
    /// 0 to 255; higher runs first.
    #[serde(default)]
    pub priority: u8,
    /// Tokens to generate at the most.
    pub max_tokens: u32,
    /// The moment from which the job is worth nothing: it is neither run nor sent.
    pub expires_at: Timestamp,
    /// How often it may be started, at least 1.
    pub attempts_max: u16,
}

/// The answer of a successful run. It is somebody's data: `Debug` prints only its size.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// The runtime's answer, an OpenAI-style JSON body; at most [`OUTPUT_BYTES_MAX`] bytes.
    pub body: String,
    /// Tokens read.
    pub prompt_tokens: u32,
    /// Tokens generated.
    pub completion_tokens: u32,
}

impl fmt::Debug for Output {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "Output({} bytes, {} + {} tokens)",
            self.body.len(),
            self.prompt_tokens,
            self.completion_tokens
        )
    }
}

/// Why a job has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The runtime answered with an error.
    Runtime,
    /// The run took longer than the snapshot's execution timeout.
    TimedOut,
    /// The network or the operator cancelled it.
    Cancelled,
    /// It was started as often as it may be, and never ended.
    AttemptsExhausted,
    /// The snapshot now in force no longer allows it.
    Forbidden,
    /// What was stored of it cannot be read.
    Unreadable,
    /// The node was restored from a backup, and the network did not know the job as this node's any more.
    Unclaimed,
}

/// A failure to report. The message may quote the request: `Debug` prints only its length.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The sort of failure.
    pub kind: FailureKind,
    /// What happened, for a person; at most [`FAILURE_MESSAGE_BYTES_MAX`] bytes.
    pub message: String,
}

impl Failure {
    /// A failure whose message is cut to [`FAILURE_MESSAGE_BYTES_MAX`].
    #[must_use]
    pub fn new(kind: FailureKind, message: &str) -> Self {
        let end = message.floor_char_boundary(FAILURE_MESSAGE_BYTES_MAX);
        Self { kind, message: message[..end].to_owned() }
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Failure({:?}, {} bytes)", self.kind, self.message.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_carries_balances_loses_them_when_it_is_read() {
        let offered = r#"{"id":"00000000-0000-0000-0000-000000000001","network":"testnet",
            "model":{"name":"m","version":"1"},"mode":"chat","balance":"CANARY","max_tokens":1,
            "request":{"messages":[],"rewards":"CANARY"},"expires_at":1,"attempts_max":1,"credits":9}"#;
        let job: Job = serde_json::from_str(offered).unwrap();
        assert_eq!(job.request.as_json(), r#"{"messages":[]}"#);
        assert!(!serde_json::to_string(&job).unwrap().contains("CANARY"));
    }

    #[test]
    fn the_same_parameters_in_another_order_are_the_same_request() {
        let one = Request::parse(br#"{"prompt": "a", "max_tokens": 3}"#).unwrap();
        let other = Request::parse(br#"{"max_tokens":3,"prompt":"a"}"#).unwrap();
        assert_eq!(one, other);
        assert!(Request::parse(b"[]").is_err());
        assert_eq!(
            Request::parse(&vec![b' '; REQUEST_BYTES_MAX + 1]),
            Err(BadRequest::TooLarge { found: REQUEST_BYTES_MAX + 1 })
        );
    }

    /// Once, the error quoted a string that stood where the object was expected.
    #[test]
    fn what_is_wrong_with_a_request_is_said_without_its_text() {
        let bodies =
            [r#""CANARY""#, r#"{"prompt":"CANARY"#, r#"{"prompt":CANARY}"#, r#"["CANARY"]"#, "CANARY"];
        for body in bodies {
            let error = Request::parse(body.as_bytes()).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("CANARY"), "{error}");
            let job = format!(
                r#"{{"id":"00000000-0000-0000-0000-000000000001","network":"testnet","request":{body}}}"#
            );
            let error = serde_json::from_str::<Job>(&job).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("CANARY"), "{error}");
        }
        let error = Request::parse(b"{\n  5").unwrap_err().to_string();
        assert_eq!(error, "the request is not a JSON object: it is not JSON at line 2, column 3");
    }

    #[test]
    fn prompts_and_answers_are_not_printed() {
        let request = Request::parse(br#"{"prompt":"CANARY"}"#).unwrap();
        let output = Output { body: "CANARY".into(), prompt_tokens: 1, completion_tokens: 2 };
        let failure = Failure::new(FailureKind::Runtime, "CANARY");
        assert!(!format!("{request:?} {output:?} {failure:?}").contains("CANARY"));
    }
}
