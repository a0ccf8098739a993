//! What listens: the three sides of the devnet on one address, on loopback alone.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
};
use serde_json::json;
use tokio::{
    net::TcpListener,
    sync::{mpsc::UnboundedReceiver, oneshot},
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    admin,
    core::{Control, Shared},
    models, node_api,
    openai::{self, ApiError},
    registry,
};

/// How long requests that are being served may take once the devnet stops: 3 seconds.
const STOP_LIMIT: Duration = Duration::from_secs(3);
/// Between two attempts to listen again: 50 milliseconds.
const LISTEN_AGAIN: Duration = Duration::from_millis(50);

/// All routes.
fn router(shared: &Arc<Shared>) -> Router {
    Router::new()
        .merge(node_api::routes(shared))
        .merge(models::routes())
        .merge(registry::routes())
        .merge(openai::routes())
        .merge(admin::routes())
        .fallback(async || ApiError::not_found("there is nothing here: see /v1/models and /v1/devnet/state"))
        .layer(middleware::from_fn_with_state(Arc::clone(shared), by_its_own_name))
        .with_state(Arc::clone(shared))
}

/// Refuses requests for another host: a page in a browser could else reach the devnet through a name that leads here.
async fn by_its_own_name(State(_): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if is_loopback(host) {
        return next.run(request).await;
    }
    let text = "the devnet is reached as localhost, 127.0.0.1 or [::1] alone";
    (StatusCode::FORBIDDEN, Json(json!({ "error": { "message": text } }))).into_response()
}

fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        Some(_) | None => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || address.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Serves until it is told to stop; listens no more while it is told to be away.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    listener: TcpListener,
    address: SocketAddr,
    mut control: UnboundedReceiver<Control>,
) {
    let mut serving = JoinSet::new();
    let mut listener = Some(listener);
    while let Some(listening) = listener.take() {
        let (stop, stopped) = oneshot::channel::<()>();
        let server = axum::serve(listening, router(&shared)).with_graceful_shutdown(async {
            // A sender that is gone says the same.
            let _ = stopped.await;
        });
        serving.spawn(server.into_future());
        let away_ms = loop {
            match control.recv().await {
                Some(Control::Away(ms)) => break Some(ms),
                Some(Control::Back) => {}
                Some(Control::Stop) | None => break None,
            }
        };
        // The listener closes now; what is being served goes on to its end.
        drop(stop);
        if let Some(ms) = away_ms
            && stay_away(ms, &mut control).await
        {
            listener = listen_again(address, &mut control).await;
            shared.is_back();
        }
    }
    let rest = async { while serving.join_next().await.is_some() {} };
    // Who does not end by then is cut off with the set.
    let _ = timeout(STOP_LIMIT, rest).await;
}

/// Waits until it is time to be back. `false` for never.
async fn stay_away(ms: u64, control: &mut UnboundedReceiver<Control>) -> bool {
    let back = sleep(Duration::from_millis(ms));
    tokio::pin!(back);
    loop {
        tokio::select! {
            () = &mut back => return true,
            told = control.recv() => match told {
                Some(Control::Back) => return true,
                Some(Control::Away(_)) => {}
                Some(Control::Stop) | None => return false,
            },
        }
    }
}

/// Listens on the same address again. Somebody else may have taken it meanwhile: then it waits.
async fn listen_again(address: SocketAddr, control: &mut UnboundedReceiver<Control>) -> Option<TcpListener> {
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return Some(listener),
            Err(error) => tracing::warn!(%address, %error, "the devnet cannot listen again yet"),
        }
        tokio::select! {
            () = sleep(LISTEN_AGAIN) => {}
            told = control.recv() => if matches!(told, Some(Control::Stop) | None) {
                return None;
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_devnet_is_reached_by_the_names_of_this_machine_alone() {
        for host in ["localhost", "localhost:80", "127.0.0.1:8080", "127.0.0.1", "[::1]:9", "[::1]"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["", "example.org", "127.0.0.1.example.org:80", "10.0.0.1", "localhost.evil:1"] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
