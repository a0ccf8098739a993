//! What the devnet shows and does for who runs it: `/v1/devnet/...`, JSON.
//!
//! | request | what |
//! |---|---|
//! | `GET state`, `jobs`, `jobs/{id}`, `messages`, `logs`, `traces`, `reports` | what it knows; `?limit=` (1000) |
//! | `POST jobs` | `{"mode":"chat","request":{...},"ttl_ms":...,"priority":...}`: answers the job's ID at once |
//! | `POST jobs/{id}/cancel` | the job is not wanted any more |
//! | `POST snapshots` | the next snapshot: a merge patch (RFC 7396) of the template, `{}` for none |
//! | `POST keysets/rotate` | the next keyset and a snapshot under it |
//! | `POST ping` | pings all nodes; pongs show in `state` |
//! | `GET faults`, `POST faults` | what goes wrong on command: see [`crate::Fault`] |
//!
//! Posts need `Content-Type: application/json`, so that no page in a browser can make them.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Path, Query, State, rejection::JsonRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use node_types::{JobId, job::Mode};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    clock,
    core::{Core, Shared, Trouble},
    faults::Fault,
    openai::{self, ApiError},
};

/// The routes.
pub(crate) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/v1/devnet/state", get(state))
        .route("/v1/devnet/jobs", get(jobs).post(submit))
        .route("/v1/devnet/jobs/{id}", get(job))
        .route("/v1/devnet/jobs/{id}/cancel", post(cancel))
        .route("/v1/devnet/messages", get(messages))
        .route("/v1/devnet/logs", get(logs))
        .route("/v1/devnet/traces", get(traces))
        .route("/v1/devnet/reports", get(reports))
        .route("/v1/devnet/snapshots", post(publish))
        .route("/v1/devnet/keysets/rotate", post(rotate))
        .route("/v1/devnet/ping", post(ping))
        .route("/v1/devnet/faults", get(faults).post(fault))
}

/// Why a request cannot be done.
enum AdminError {
    Trouble(Trouble),
    Body(JsonRejection),
    Order(ApiError),
    NotFound(String),
}

impl From<Trouble> for AdminError {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

impl From<JsonRejection> for AdminError {
    fn from(rejection: JsonRejection) -> Self {
        Self::Body(rejection)
    }
}

impl From<ApiError> for AdminError {
    fn from(error: ApiError) -> Self {
        Self::Order(error)
    }
}

impl IntoResponse for AdminError {
    fn into_response(self) -> Response {
        let (status, text) = match self {
            Self::Trouble(trouble @ Trouble::Impossible(_)) => (StatusCode::CONFLICT, trouble.to_string()),
            Self::Trouble(trouble) => (StatusCode::SERVICE_UNAVAILABLE, trouble.to_string()),
            Self::Body(rejection) => (rejection.status(), rejection.body_text()),
            Self::Order(error) => return error.into_response(),
            Self::NotFound(text) => (StatusCode::NOT_FOUND, text),
        };
        (status, Json(json!({ "error": { "message": text } }))).into_response()
    }
}

type Shown = Result<Json<Value>, AdminError>;
type Devnet = State<Arc<Shared>>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    #[serde(default = "limit")]
    limit: u64,
}

const fn limit() -> u64 {
    1000
}

async fn state(State(shared): Devnet) -> Shown {
    Ok(Json(shared.look(|core| core.show_state(clock::now()))?))
}

async fn jobs(State(shared): Devnet, Query(page): Query<Page>) -> Shown {
    Ok(Json(shared.look(|core| core.show_jobs(page.limit))?))
}

async fn job(State(shared): Devnet, Path(id): Path<String>) -> Shown {
    let id = job_id(&id)?;
    shared.look(|core| core.show_job(&id))?.map(Json).ok_or_else(|| no_job(&id))
}

async fn messages(State(shared): Devnet) -> Shown {
    Ok(Json(shared.look(Core::show_messages)?))
}

async fn logs(State(shared): Devnet, Query(page): Query<Page>) -> Shown {
    Ok(Json(shared.look(|core| core.show_logs(page.limit))?))
}

async fn traces(State(shared): Devnet, Query(page): Query<Page>) -> Shown {
    Ok(Json(shared.look(|core| core.show_traces(page.limit))?))
}

async fn reports(State(shared): Devnet, Query(page): Query<Page>) -> Shown {
    Ok(Json(shared.look(|core| core.show_reports(page.limit))?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Submission {
    mode: Mode,
    request: Value,
    #[serde(default)]
    ttl_ms: Option<u64>,
    #[serde(default)]
    priority: Option<u64>,
}

async fn submit(State(shared): Devnet, body: Result<Json<Submission>, JsonRejection>) -> Shown {
    let Json(Submission { mode, request, ttl_ms, priority }) = body?;
    let config = shared.look(|core| Ok(core.published().config.clone()))?;
    let wishes = openai::Wishes { ttl_ms, priority };
    let body = request.to_string();
    let wanted = openai::read(body.as_bytes(), mode, wishes, &config, shared.settings.job_ttl_ms)?;
    let id = shared.with(|core, now| core.submit(wanted.order, None, now))?;
    Ok(Json(json!({ "id": id })))
}

async fn cancel(State(shared): Devnet, Path(id): Path<String>) -> Shown {
    let id = job_id(&id)?;
    let cancelled = shared.with(|core, now| core.cancel(id, now))?;
    cancelled.map(|cancelled| Json(json!({ "id": id, "cancelled": cancelled }))).ok_or_else(|| no_job(&id))
}

async fn publish(State(shared): Devnet, patch: Result<Json<Value>, JsonRejection>) -> Shown {
    let Json(patch) = patch?;
    let template = shared.look(|core| core.next_template(Some(&patch)))?;
    shared.learn(template).await?;
    let published = shared.with(|core, now| core.publish(Some(&patch), now))?;
    Ok(Json(json!({ "snapshot": published })))
}

async fn rotate(State(shared): Devnet) -> Shown {
    let version = shared.with(Core::rotate)?;
    Ok(Json(json!({ "keyset": version })))
}

async fn ping(State(shared): Devnet) -> Shown {
    Ok(Json(shared.with(|core, _| core.ping())?))
}

async fn faults(State(shared): Devnet) -> Shown {
    Ok(Json(shared.look(|core| Ok(json!({ "faults": core.faults() })))?))
}

async fn fault(State(shared): Devnet, fault: Result<Json<Fault>, JsonRejection>) -> Shown {
    let Json(fault) = fault?;
    Ok(Json(shared.fault(fault)?))
}

fn job_id(text: &str) -> Result<JobId, AdminError> {
    text.parse().map_err(|error: node_types::id::NotAnId| AdminError::NotFound(error.to_string()))
}

fn no_job(id: &JobId) -> AdminError {
    AdminError::NotFound(format!("there is no job {id}: see /v1/devnet/jobs"))
}
