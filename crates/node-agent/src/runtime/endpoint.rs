//! A runtime's address, and what the Agent asks there.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use node_types::job::{Mode, ModelRef, OUTPUT_BYTES_MAX, Output, Request};
use reqwest::{
    Response, StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue},
};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use super::{
    assembly::Assembly,
    body::{Asked, prepare},
    error::{InferenceError, RuntimeError},
    events::Events,
};
use crate::address::{self, Whose};

/// How long a connection may take: 5 seconds.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How long a health check may take: 5 seconds.
const HEALTH_LIMIT: Duration = Duration::from_secs(5);
/// What is read of an error's body: 64 KiB.
const ERROR_BYTES_MAX: usize = 64 << 10;
/// Tokens of a test inference.
const TEST_TOKENS: u32 = 8;

/// Where a runtime answers: a base URL, its API key, and a client that goes there alone (no proxy, no redirect).
///
/// `Debug` prints the URL only.
pub struct Endpoint {
    base: String,
    client: reqwest::Client,
    runs: Arc<AtomicUsize>,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Endpoint({})", self.base)
    }
}

impl Endpoint {
    /// The runtime at `base_url`, as in `http://127.0.0.1:8080`; the `/v1` of an OpenAI URL may stand at its end.
    ///
    /// # Errors
    /// [`RuntimeError::Address`] for what is no such URL, [`RuntimeError::ApiKey`] for a key that no header can carry.
    pub fn new(base_url: &str, api_key: Option<Zeroizing<String>>) -> Result<Self, RuntimeError> {
        let refused = |problem| RuntimeError::Address { url: address::shown(base_url), problem };
        let base = base_of(base_url).map_err(refused)?;
        let mut headers = HeaderMap::new();
        if let Some(key) = api_key {
            let bearer = Zeroizing::new(format!("Bearer {}", key.as_str()));
            let mut value = HeaderValue::from_str(&bearer).map_err(|_| RuntimeError::ApiKey)?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let client = crate::tls::client()
            .default_headers(headers)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_LIMIT)
            // A kept connection may have been closed meanwhile, and a run lost that way counts as an attempt.
            .pool_max_idle_per_host(0)
            .build()
            .map_err(RuntimeError::Client)?;
        Ok(Self { base, client, runs: Arc::default() })
    }

    /// The address, without `/v1`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.base
    }

    /// How many runs it is working on.
    #[must_use]
    pub fn runs(&self) -> usize {
        self.runs.load(Ordering::Relaxed)
    }

    /// Asks whether it can serve: `GET /health`, and where there is no such path `GET /v1/models`. At most 5 seconds each.
    ///
    /// # Errors
    /// [`RuntimeError::Unreachable`] and [`RuntimeError::Unhealthy`].
    pub async fn healthy(&self) -> Result<(), RuntimeError> {
        let health = format!("{}/health", self.base);
        match self.status_of(&health).await? {
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => {}
            status => return judge(health, status),
        }
        let models = format!("{}/v1/models", self.base);
        let status = self.status_of(&models).await?;
        judge(models, status)
    }

    async fn status_of(&self, url: &str) -> Result<StatusCode, RuntimeError> {
        let answer = self.client.get(url).timeout(HEALTH_LIMIT).send().await;
        let answer = answer.map_err(|source| RuntimeError::Unreachable {
            url: self.base.clone(),
            source: source.without_url(),
        })?;
        Ok(answer.status())
    }

    /// One run of a job's body, which may generate `max_tokens` tokens over all its choices.
    ///
    /// A body with `"stream": true` is answered event by event: the data of each goes into `parts` (but `[DONE]`, and the
    /// usage where the body does not ask for it), and is dropped where `parts` is full, so that nobody slows the run down.
    /// The answer is the whole object all the same. Tokens are counted by the runtime's `usage`, the last one of a stream.
    ///
    /// There is no limit of time: drop the future, and the connection is closed.
    ///
    /// # Errors
    /// [`InferenceError`]: after `Lost` the job may be run again, the others are its failure.
    pub async fn infer(
        &self,
        mode: Mode,
        request: &Request,
        max_tokens: u32,
        parts: Option<&mpsc::Sender<String>>,
    ) -> Result<Output, InferenceError> {
        let _run = Run::begin(&self.runs);
        let asked = prepare(mode, request, max_tokens)?;
        let path = match mode {
            Mode::Chat => "/v1/chat/completions",
            Mode::Completion => "/v1/completions",
            Mode::Embedding => "/v1/embeddings",
        };
        let request =
            self.client.post(format!("{}{path}", self.base)).header(CONTENT_TYPE, "application/json");
        let answer = request.body(asked.body.clone()).send().await.map_err(lost)?;
        if !answer.status().is_success() {
            return Err(refusal(answer).await);
        }
        let events = answer
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|value| value.trim_start().starts_with("text/event-stream"));
        let body = match (events, asked.stream) {
            (true, true) => streamed(mode, &asked, answer, parts).await?,
            (true, false) => {
                return Err(InferenceError::malformed("it is an event stream and was not asked for"));
            }
            (false, _) => whole(answer).await?,
        };
        if body.len() > OUTPUT_BYTES_MAX {
            return Err(InferenceError::TooLarge {});
        }
        counted(mode, body)
    }
}

/// Counts a run while it lasts, however it ends.
struct Run(Arc<AtomicUsize>);

impl Run {
    fn begin(runs: &Arc<AtomicUsize>) -> Self {
        runs.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(runs))
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The address of a server that the operator runs without `/v1`, if it may be asked.
fn base_of(base_url: &str) -> Result<String, &'static str> {
    let base = base_url.trim_end_matches('/');
    let base = base.strip_suffix("/v1").unwrap_or(base).to_owned();
    address::parse(&base, Whose::Runtime).map(|_| base)
}

fn judge(url: String, status: StatusCode) -> Result<(), RuntimeError> {
    if status.is_success() { Ok(()) } else { Err(RuntimeError::Unhealthy { url, status: status.as_u16() }) }
}

/// Says how a connection was lost, by its innermost cause: the outer ones say only which request it was.
fn lost(error: reqwest::Error) -> InferenceError {
    let error = error.without_url();
    let first: &dyn std::error::Error = &error;
    let causes = std::iter::successors(Some(first), |cause| cause.source());
    InferenceError::Lost { cause: causes.last().map(ToString::to_string).unwrap_or_default() }
}

/// What an error's status means. Runtimes that load, restart or stand behind a gateway say that the run did not begin.
async fn refusal(answer: Response) -> InferenceError {
    let status = answer.status();
    if matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    ) {
        return InferenceError::Lost { cause: format!("it answered with status {status}") };
    }
    // An error whose text is cut short is still that error.
    let body = read(answer, ERROR_BYTES_MAX).await.unwrap_or_default();
    let said: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let message = said["error"]["message"].as_str().or(said["error"].as_str()).or(said["message"].as_str());
    let text = String::from_utf8_lossy(&body);
    InferenceError::refused(status.as_u16(), message.unwrap_or_else(|| text.trim()))
}

async fn read(mut answer: Response, bytes_max: usize) -> Result<Vec<u8>, InferenceError> {
    let mut body = Vec::new();
    while let Some(part) = answer.chunk().await.map_err(lost)? {
        if body.len() + part.len() > bytes_max {
            return Err(InferenceError::TooLarge {});
        }
        body.extend_from_slice(&part);
    }
    Ok(body)
}

async fn whole(answer: Response) -> Result<String, InferenceError> {
    let body = read(answer, OUTPUT_BYTES_MAX).await?;
    String::from_utf8(body).map_err(|_| InferenceError::malformed("it is not UTF-8"))
}

async fn streamed(
    mode: Mode,
    asked: &Asked,
    mut answer: Response,
    parts: Option<&mpsc::Sender<String>>,
) -> Result<String, InferenceError> {
    let (mut events, mut assembly) = (Events::default(), Assembly::new(mode));
    while let Some(bytes) = answer.chunk().await.map_err(lost)? {
        for data in events.push(&bytes)? {
            if data == "[DONE]" {
                return assembly.finish();
            }
            let has_choice = assembly.push(&data)?;
            if let Some(parts) = parts
                && (has_choice || asked.usage_wanted)
            {
                // The whole answer follows anyway.
                let _ = parts.try_send(data);
            }
        }
    }
    if assembly.is_complete() {
        return assembly.finish();
    }
    Err(InferenceError::Lost { cause: "its stream ended before the answer did".to_owned() })
}

#[derive(Deserialize)]
struct Shape {
    #[serde(default)]
    choices: Vec<IgnoredAny>,
    #[serde(default)]
    data: Vec<IgnoredAny>,
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Usage {
    prompt_tokens: u64,
    #[serde(default)]
    completion_tokens: u64,
}

/// Takes an answer that has the shape of its mode, and counts its tokens.
fn counted(mode: Mode, body: String) -> Result<Output, InferenceError> {
    // The error's own text quotes the answer.
    let shape: Shape = serde_json::from_str(&body).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        InferenceError::malformed(format!("line {line}, column {column} is not as the API says"))
    })?;
    let (list, name) = match mode {
        Mode::Chat | Mode::Completion => (shape.choices, "choices"),
        Mode::Embedding => (shape.data, "data"),
    };
    if list.is_empty() {
        return Err(InferenceError::malformed(format!("it has no {name}")));
    }
    let usage = shape
        .usage
        .ok_or_else(|| InferenceError::malformed("it has no usage, so its tokens cannot be counted"))?;
    let tokens = |count| u32::try_from(count).unwrap_or(u32::MAX);
    let (prompt_tokens, completion_tokens) = (tokens(usage.prompt_tokens), tokens(usage.completion_tokens));
    Ok(Output { body, prompt_tokens, completion_tokens })
}

/// Asks a runtime something small: it must answer with at least one token, or with an embedding.
///
/// # Errors
/// [`InferenceError`]; `Malformed` where the answer is empty.
pub async fn test_inference(
    endpoint: &Endpoint,
    mode: Mode,
    model: &ModelRef,
) -> Result<Output, InferenceError> {
    let body = match mode {
        Mode::Chat => json!({
            "model": model.name, "temperature": 0,
            "messages": [{"role": "user", "content": "What is the capital of France?"}],
        }),
        Mode::Completion => {
            json!({"model": model.name, "temperature": 0, "prompt": "The capital of France is"})
        }
        Mode::Embedding => json!({"model": model.name, "input": "The capital of France is Paris."}),
    };
    let request = Request::from_stored(body.to_string());
    let output = endpoint.infer(mode, &request, TEST_TOKENS, None).await?;
    let answered = match mode {
        Mode::Chat | Mode::Completion => output.completion_tokens > 0,
        Mode::Embedding => {
            let answer: Value = serde_json::from_str(&output.body).unwrap_or(Value::Null);
            let embedding = &answer["data"][0]["embedding"];
            embedding
                .as_array()
                .is_some_and(|numbers| !numbers.is_empty() && numbers.iter().all(Value::is_number))
        }
    };
    if answered { Ok(output) } else { Err(InferenceError::malformed("the test inference gave nothing")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_base_url_and_nothing_else() {
        let base = |url: &str| Endpoint::new(url, None).map(|endpoint| endpoint.url().to_owned());
        for url in [
            "http://127.0.0.1:8080",
            "http://127.0.0.1:8080/",
            "http://127.0.0.1:8080/v1",
            "http://127.0.0.1:8080/v1/",
        ] {
            assert_eq!(base(url).unwrap(), "http://127.0.0.1:8080");
        }
        assert_eq!(base("https://host/engine/v1").unwrap(), "https://host/engine");
        for url in
            ["", "127.0.0.1:8080", "ftp://host", "http://host/?a=b", "http://host/#a", "unix:/run/socket"]
        {
            assert!(matches!(base(url), Err(RuntimeError::Address { .. })), "{url}");
        }
    }

    #[test]
    fn keys_are_never_printed() {
        let refused = Endpoint::new("http://user:CANARY@host", None).unwrap_err();
        let key = |key: &str| Endpoint::new("http://host", Some(Zeroizing::new(key.to_owned())));
        let bad_key = key("CANARY\n").unwrap_err();
        let endpoint = key("CANARY").unwrap();
        let said = format!("{refused} {refused:?} {bad_key} {bad_key:?} {endpoint:?} {:?}", endpoint.client);
        assert!(!said.contains("CANARY"), "{said}");
    }

    #[test]
    fn an_answer_without_choices_or_usage_counts_for_nothing() {
        let usage = r#""usage":{"prompt_tokens":5000000000,"completion_tokens":2}"#;
        let output = counted(Mode::Chat, format!(r#"{{"choices":[{{}}],{usage}}}"#)).unwrap();
        assert_eq!((output.prompt_tokens, output.completion_tokens), (u32::MAX, 2));
        for bad in [
            "",
            "[]",
            "{}",
            r#"{"choices":[{}]}"#,
            r#"{"choices":"CANARY"}"#,
            &format!(r#"{{"data":[{{}}],{usage}}}"#),
        ] {
            let error = counted(Mode::Chat, bad.to_owned()).unwrap_err();
            assert!(
                matches!(error, InferenceError::Malformed { .. }) && !error.to_string().contains("CANARY"),
                "{bad}"
            );
        }
        assert!(counted(Mode::Embedding, format!(r#"{{"data":[{{}}],{usage}}}"#)).is_ok());
    }
}
