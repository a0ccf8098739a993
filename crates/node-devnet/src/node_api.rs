//! The node's side: `/node/v1/...` as `docs/protocol.md` has it.

use std::sync::Arc;

use axum::{
    Json, Router,
    body::{Body, to_bytes},
    extract::{
        Request, State,
        ws::{WebSocketUpgrade, rejection::WebSocketUpgradeRejection},
    },
    http::{HeaderMap, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use node_types::{
    Timestamp,
    message::MessageKind,
    protocol::{ErrorCode, NODE_FRAME_BYTES_MAX, Signed, path},
};
use serde::Serialize;

use crate::{
    core::{Core, Shared, Trouble},
    gate::{self, Refusal},
    session,
};

/// What a frame may have beyond the limit, so that it can be refused by name.
const SLACK_BYTES: usize = 1 << 20;

/// The routes.
pub(crate) fn routes(shared: &Arc<Shared>) -> Router<Arc<Shared>> {
    Router::new()
        .route(path::KEYSETS, get(keysets))
        .route(path::SNAPSHOT, get(snapshot))
        .route(path::SESSION, get(open_session))
        .route(path::REGISTER, post(register))
        .route(path::HEARTBEAT, post(heartbeat))
        .route(path::LOGS, post(logs))
        .route(path::TRACES, post(traces))
        .route(path::CONFIG_REPORT, post(config_report))
        .route(path::ACCOUNT, post(account))
        .route(path::INQUIRY, post(inquiry))
        .layer(middleware::from_fn_with_state(Arc::clone(shared), refuse_on_command))
}

async fn refuse_on_command(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    if shared.refuses() {
        return refusal(&Refusal::new(ErrorCode::Unavailable, 0, "refused on command"));
    }
    next.run(request).await
}

async fn keysets(State(shared): State<Arc<Shared>>) -> Response {
    answer(shared.look(Core::keysets), 0)
}

async fn snapshot(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    let offered = shared.look(|core| Ok((core.offered().digest, core.offered().envelope.clone())));
    let (digest, envelope) = match offered {
        Ok(offered) => offered,
        Err(trouble) => return refusal(&trouble.refusal(0)),
    };
    let tag = format!("\"{digest}\"");
    let held = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    if held.is_some_and(|held| held.split(',').any(|one| one.trim() == tag)) {
        return (StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response();
    }
    ([(header::ETAG, tag), (header::CONTENT_TYPE, "application/json".to_owned())], envelope).into_response()
}

async fn open_session(
    State(shared): State<Arc<Shared>>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    match upgrade {
        Ok(upgrade) => {
            let limit = NODE_FRAME_BYTES_MAX + SLACK_BYTES;
            let upgrade = upgrade.max_message_size(limit).max_frame_size(limit);
            upgrade.on_upgrade(move |socket| session::serve(shared, socket))
        }
        Err(rejection) => refusal(&Refusal::new(ErrorCode::Malformed, 0, rejection.body_text())),
    }
}

async fn register(State(shared): State<Arc<Shared>>, body: Body) -> Response {
    posted(&shared, body, MessageKind::Register, Core::register).await
}

async fn heartbeat(State(shared): State<Arc<Shared>>, body: Body) -> Response {
    posted(&shared, body, MessageKind::Heartbeat, Core::heartbeat).await
}

async fn logs(State(shared): State<Arc<Shared>>, body: Body) -> Response {
    posted(&shared, body, MessageKind::LogBatch, Core::log_batch).await
}

async fn traces(State(shared): State<Arc<Shared>>, body: Body) -> Response {
    posted(&shared, body, MessageKind::TraceBatch, Core::trace_batch).await
}

async fn config_report(State(shared): State<Arc<Shared>>, body: Body) -> Response {
    posted(&shared, body, MessageKind::ConfigReport, Core::config_report).await
}

async fn account(State(shared): State<Arc<Shared>>, body: Body) -> Response {
    posted(&shared, body, MessageKind::AccountLink, Core::account).await
}

async fn inquiry(State(shared): State<Arc<Shared>>, body: Body) -> Response {
    posted(&shared, body, MessageKind::Inquiry, Core::inquiry).await
}

/// A signed message of one kind in a request's body.
async fn posted<T: Serialize>(
    shared: &Shared,
    body: Body,
    kind: MessageKind,
    take: impl FnOnce(&mut Core, &Signed, Timestamp) -> Result<T, Trouble>,
) -> Response {
    let read = match to_bytes(body, NODE_FRAME_BYTES_MAX).await {
        Ok(bytes) => gate::read(&bytes),
        // The body is longer, or it broke off, and then nobody reads the answer.
        Err(_) => Err(gate::too_large()),
    };
    let read = read.and_then(|signed| {
        if signed.message.kind == kind {
            return Ok(signed);
        }
        let text = format!("a message of kind {} where {kind} was expected", signed.message.kind);
        Err(Refusal::new(ErrorCode::Malformed, signed.message.seq, text))
    });
    let seq = read.as_ref().map_or(0, |signed| signed.message.seq);
    if let Ok(signed) = &read {
        shared.ask_rival(signed).await;
    }
    answer(shared.with(|core, now| take(core, &read?, now)), seq)
}

fn answer<T: Serialize>(answer: Result<T, Trouble>, seq: u64) -> Response {
    match answer {
        Ok(answer) => Json(answer).into_response(),
        Err(trouble) => refusal(&trouble.refusal(seq)),
    }
}

fn refusal(refusal: &Refusal) -> Response {
    let status = match refusal.code {
        ErrorCode::Malformed | ErrorCode::OtherNetwork | ErrorCode::Unsupported => StatusCode::BAD_REQUEST,
        ErrorCode::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorCode::BadSignature | ErrorCode::OutOfTime => StatusCode::UNAUTHORIZED,
        ErrorCode::NotRegistered | ErrorCode::Superseded | ErrorCode::AlreadyRunning => StatusCode::FORBIDDEN,
        ErrorCode::Replayed | ErrorCode::BrokenChain => StatusCode::CONFLICT,
        ErrorCode::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, Json(refusal.answer())).into_response()
}
