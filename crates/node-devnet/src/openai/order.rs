//! From the body of an OpenAI request to a job: pure.

use axum::http::StatusCode;
use node_types::{
    config::{Model, NodeConfig},
    job::{BadRequest, Mode, Request},
};
use serde_json::{Value, json};

use super::ApiError;
use crate::core::Order;

/// The extension that says how long the answer is worth something, in milliseconds: a header or a field of the body.
pub(crate) const TTL: &str = "x-resultity-ttl-ms";
/// The extension that says how urgent it is, 0 to 255; higher runs first.
pub(crate) const PRIORITY: &str = "x-resultity-priority";

/// What a request asks for beside its body.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wishes {
    pub(crate) ttl_ms: Option<u64>,
    pub(crate) priority: Option<u64>,
}

/// What a client wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) order: Order,
    pub(crate) stream: bool,
    /// Whether a stream ends with the count of tokens.
    pub(crate) usage: bool,
}

/// Reads a request's body.
pub(crate) fn read(
    body: &[u8],
    mode: Mode,
    wishes: Wishes,
    config: &NodeConfig,
    ttl_ms: u64,
) -> Result<Wanted, ApiError> {
    // First for its size and its shape.
    Request::parse(body).map_err(|error| bad(&error))?;
    let mut fields: Value =
        serde_json::from_slice(body).map_err(|_| ApiError::invalid("the body is not JSON"))?;
    let name = fields.get("model").and_then(Value::as_str).unwrap_or_default().to_owned();
    let model = find(config, &name)?;
    if !model.tasks.contains(&mode) {
        return Err(ApiError::invalid(&format!("the model {name} is not for this endpoint")));
    }
    let content = match mode {
        Mode::Chat => "messages",
        Mode::Completion => "prompt",
        Mode::Embedding => "input",
    };
    if fields.get(content).is_none_or(Value::is_null) {
        return Err(ApiError::invalid(&format!("the body has no {content}")));
    }
    let flag = |name: &str| fields.get(name).and_then(Value::as_bool).unwrap_or(false);
    let stream = mode != Mode::Embedding && flag("stream");
    let usage = fields.pointer("/stream_options/include_usage").and_then(Value::as_bool).unwrap_or(false);
    let number = |name: &str, given: Option<u64>| match fields.get(name).filter(|value| !value.is_null()) {
        None => Ok(given),
        Some(value) => value
            .as_u64()
            .map(Some)
            .ok_or_else(|| ApiError::invalid(&format!("{name} is not a whole number"))),
    };
    let limits = &config.limits;
    let max_tokens = match (number("max_completion_tokens", None)?, number("max_tokens", None)?) {
        (Some(wanted), _) | (None, Some(wanted)) => {
            u32::try_from(wanted).ok().filter(|wanted| (1..=limits.max_tokens).contains(wanted)).ok_or_else(
                || ApiError::invalid(&format!("max_tokens must be from 1 to {}", limits.max_tokens)),
            )?
        }
        (None, None) => limits.max_tokens,
    };
    let priority = u8::try_from(number(PRIORITY, wishes.priority)?.unwrap_or(0))
        .map_err(|_| ApiError::invalid(&format!("{PRIORITY} must be from 0 to 255")))?;
    let ttl_ms = number(TTL, wishes.ttl_ms)?.unwrap_or(ttl_ms).min(limits.ttl_ms_max);
    // Runtimes know a model by its name alone.
    fields["model"] = json!(model.name);
    let request = Request::parse(fields.to_string().as_bytes()).map_err(|error| bad(&error))?;
    if u64::try_from(request.bytes()).unwrap_or(u64::MAX) > limits.request_bytes_max {
        let text = format!(
            "the request has {} bytes, at most {} are taken",
            request.bytes(),
            limits.request_bytes_max
        );
        return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", None, text));
    }
    let order = Order { mode, model: model.reference(), request, priority, ttl_ms, max_tokens };
    Ok(Wanted { order, stream, usage })
}

/// The model of this name, the last one listed if there are several versions; or of `name@version`.
fn find<'a>(config: &'a NodeConfig, wanted: &str) -> Result<&'a Model, ApiError> {
    let named = |model: &&Model| model.name == wanted || model.reference().to_string() == wanted;
    config.models.iter().rev().find(named).ok_or_else(|| {
        let text = if wanted.is_empty() {
            "the body names no model".to_owned()
        } else {
            format!("the model {wanted:?} does not exist: see /v1/models")
        };
        ApiError::new(StatusCode::NOT_FOUND, "invalid_request_error", Some("model_not_found"), text)
    })
}

fn bad(error: &BadRequest) -> ApiError {
    let status = match error {
        BadRequest::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        BadRequest::NotAnObject { .. } => StatusCode::BAD_REQUEST,
    };
    ApiError::new(status, "invalid_request_error", None, error.to_string())
}
