//! The clients' side: what an OpenAI client speaks, so that any of them can send work. Any API key is taken.
//!
//! A job that its client no longer waits for goes on: its answer is stored as any other. Errors ask the client not to
//! try again by itself (`x-should-retry`), because each attempt would be another job.

mod order;
mod stream;

pub(crate) use order::{Wishes, read};

use std::sync::Arc;

use axum::{
    Json, Router,
    body::{Body, to_bytes},
    extract::{Path, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use node_types::{
    JobId, NodeId,
    config::Model,
    job::{Failure, FailureKind, Mode, REQUEST_BYTES_MAX},
};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::{
    core::{Event, Shared, Trouble},
    db::End,
};

const JOB: HeaderName = HeaderName::from_static("x-resultity-job");
const NODE: HeaderName = HeaderName::from_static("x-resultity-node");
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// The routes.
pub(crate) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/v1/models", get(models))
        .route("/v1/models/{name}", get(model))
        .route("/v1/chat/completions", post(chat))
        .route("/v1/completions", post(completion))
        .route("/v1/embeddings", post(embedding))
}

/// An error as OpenAI clients read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ApiError {
    status: StatusCode,
    kind: &'static str,
    code: Option<&'static str>,
    message: String,
}

impl ApiError {
    pub(crate) const fn new(
        status: StatusCode,
        kind: &'static str,
        code: Option<&'static str>,
        message: String,
    ) -> Self {
        Self { status, kind, code, message }
    }

    pub(crate) fn invalid(message: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", None, message.to_owned())
    }

    pub(crate) fn not_found(message: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "invalid_request_error", None, message.to_owned())
    }

    fn body(&self) -> Value {
        let Self { status: _, kind, code, message } = self;
        json!({ "error": { "message": message, "type": kind, "param": null, "code": code } })
    }
}

impl From<Trouble> for ApiError {
    fn from(trouble: Trouble) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", Some("unavailable"), trouble.to_string())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, [(SHOULD_RETRY, "false")], Json(self.body())).into_response()
    }
}

async fn models(State(shared): State<Arc<Shared>>) -> Result<Response, ApiError> {
    let listed = shared.look(|core| {
        let config = &core.published().config;
        let created = config.issued_at.ms() / 1000;
        Ok(names(&config.models).into_iter().map(|name| shown(&name, created)).collect::<Vec<_>>())
    })?;
    Ok(Json(json!({ "object": "list", "data": listed })).into_response())
}

async fn model(State(shared): State<Arc<Shared>>, Path(name): Path<String>) -> Result<Response, ApiError> {
    let found = shared.look(|core| {
        let config = &core.published().config;
        let known = names(&config.models).contains(&name)
            || config.models.iter().any(|model| model.reference().to_string() == name);
        Ok(known.then(|| shown(&name, config.issued_at.ms() / 1000)))
    })?;
    found.map(|model| Json(model).into_response()).ok_or_else(|| {
        let text = format!("the model {name:?} does not exist: see /v1/models");
        ApiError::new(StatusCode::NOT_FOUND, "invalid_request_error", Some("model_not_found"), text)
    })
}

fn shown(name: &str, created: u64) -> Value {
    json!({ "id": name, "object": "model", "created": created, "owned_by": "resultity" })
}

/// Each name once; with its version too where there are several.
fn names(models: &[Model]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for model in models {
        if !names.contains(&model.name) {
            names.push(model.name.clone());
        }
        if models.iter().filter(|other| other.name == model.name).count() > 1 {
            names.push(model.reference().to_string());
        }
    }
    names
}

async fn chat(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Body) -> Response {
    serve(&shared, &headers, body, Mode::Chat).await.unwrap_or_else(ApiError::into_response)
}

async fn completion(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Body) -> Response {
    serve(&shared, &headers, body, Mode::Completion).await.unwrap_or_else(ApiError::into_response)
}

async fn embedding(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Body) -> Response {
    serve(&shared, &headers, body, Mode::Embedding).await.unwrap_or_else(ApiError::into_response)
}

async fn serve(shared: &Shared, headers: &HeaderMap, body: Body, mode: Mode) -> Result<Response, ApiError> {
    let body = to_bytes(body, REQUEST_BYTES_MAX).await.map_err(|_| {
        let text = format!("the request has more than {REQUEST_BYTES_MAX} bytes");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", None, text)
    })?;
    let wishes = wishes(headers)?;
    let config = shared.look(|core| Ok(core.published().config.clone()))?;
    let wanted = read(&body, mode, wishes, &config, shared.settings.job_ttl_ms)?;
    let (watcher, mut events) = mpsc::unbounded_channel();
    let order = wanted.order;
    let job = shared.with(|core, now| core.submit(order, Some(watcher), now))?;
    let answer = if wanted.stream {
        stream::answer(events, mode, wanted.usage).await
    } else {
        whole(&mut events).await.map(|(body, node)| {
            let body = ([(header::CONTENT_TYPE, "application/json")], body).into_response();
            (body, node)
        })
    };
    let (mut response, node) = match answer {
        Ok((response, node)) => (response, Some(node)),
        Err((error, node)) => (error.into_response(), node),
    };
    name(&mut response, job, node);
    Ok(response)
}

fn name(response: &mut Response, job: JobId, node: Option<NodeId>) {
    let named = [(JOB, Some(job.to_string())), (NODE, node.map(|node| node.to_string()))];
    for (header, value) in named {
        // IDs are hex digits and dashes: they always are a header's value.
        if let Some(value) = value.and_then(|text| HeaderValue::from_str(&text).ok()) {
            response.headers_mut().insert(header, value);
        }
    }
}

fn wishes(headers: &HeaderMap) -> Result<Wishes, ApiError> {
    let number = |name: &str| {
        headers
            .get(name)
            .map(|value| {
                let number = value.to_str().ok().and_then(|text| text.trim().parse().ok());
                number.ok_or_else(|| ApiError::invalid(&format!("{name} is not a whole number")))
            })
            .transpose()
    };
    Ok(Wishes { ttl_ms: number(order::TTL)?, priority: number(order::PRIORITY)? })
}

/// Why there is no answer, and which node had the job.
type NoAnswer = (ApiError, Option<NodeId>);

/// Waits for a job's end.
async fn whole(events: &mut mpsc::UnboundedReceiver<Event>) -> Result<(String, NodeId), NoAnswer> {
    let mut held = None;
    while let Some(event) = events.recv().await {
        match event {
            Event::Taken(node) => held = Some(node),
            Event::Chunk(node, _) => held = Some(node),
            Event::Ended(End::Result(output), Some(node)) => return Ok((output.body, node)),
            Event::Ended(end, by) => return Err((no_answer(&end, held.is_some()), by.or(held))),
        }
    }
    Err((stopped(), held))
}

/// The network ended before the job did.
fn stopped() -> ApiError {
    let text = "the network stops; the job goes on after its next start".to_owned();
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", Some("unavailable"), text)
}

/// Why a job has no answer, as OpenAI clients read it.
fn no_answer(end: &End, was_taken: bool) -> ApiError {
    match end {
        End::Failure(Failure { kind, message }) => {
            let code = match kind {
                FailureKind::Runtime => "runtime",
                FailureKind::TimedOut => "timed_out",
                FailureKind::Cancelled => "cancelled",
                FailureKind::AttemptsExhausted => "attempts_exhausted",
                FailureKind::Forbidden => "forbidden",
                FailureKind::Unreadable => "unreadable",
                FailureKind::Unclaimed => "unclaimed",
            };
            ApiError::new(StatusCode::BAD_GATEWAY, "server_error", Some(code), format!("{code}: {message}"))
        }
        End::Expired(_) if was_taken => {
            let text = "the job's time ended before its answer came".to_owned();
            ApiError::new(StatusCode::GATEWAY_TIMEOUT, "server_error", Some("expired"), text)
        }
        End::Expired(_) => {
            let text = "no node took the job in time".to_owned();
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", Some("no_node"), text)
        }
        // An answer without a node is none of ours.
        End::Result(_) => stopped(),
    }
}
