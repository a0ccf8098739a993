//! The page: what the node says of itself over HTTP, to whoever looks at it on this machine.
//!
//! `GET /metrics` is for Prometheus. Nothing can be changed through it, and no other origin is let in: there
//! is no CORS header, `Host` is checked ([`guard`]), and an address that other machines reach wants a token.
//!
//! Limits: [`CONNECTIONS_MAX`] connections, [`HEAD_BYTES_MAX`] and [`HEAD_TIME`] for the head of a request.

pub mod guard;

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use node_types::log::{Kind, Level};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout},
};
use zeroize::Zeroizing;

use crate::{journal::causes, metrics, node::Node};
pub use guard::TOKEN_CHARS_MIN;
use guard::{Judgement, Token};

/// Connections that are served at a time; others wait.
pub const CONNECTIONS_MAX: usize = 32;
/// The longest head of a request, in bytes.
pub const HEAD_BYTES_MAX: usize = 16 << 10;
/// Within which time the head of a request must be here: 10 seconds. So long may a connection be silent, too.
pub const HEAD_TIME: Duration = Duration::from_secs(10);
/// How long answers that are on their way may take once the page ends: 1 second.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long to wait where no connection can be taken, for example because there are no file descriptors left.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Why the page cannot be guarded as it should be.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    /// The token's file.
    #[error("cannot read the token of the status page in {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The token.
    #[error(
        "the token of the status page in {path} is no good: it should be {TOKEN_CHARS_MIN} characters or more, without blanks, as \
         `openssl rand -hex 32` makes one"
    )]
    Token {
        /// The file.
        path: PathBuf,
    },
    /// Other machines reach it, and there is no token.
    #[error("the status page at {0} can be reached by other machines: it needs page.token_file")]
    Open(SocketAddr),
}

/// The page of an Agent that runs.
#[derive(Debug)]
pub struct Page {
    node: Arc<Node>,
    url: String,
    stop: watch::Sender<bool>,
    serving: JoinHandle<()>,
}

/// What the routes share.
#[derive(Clone, Debug)]
struct Shared {
    node: Arc<Node>,
    token: Option<Arc<Token>>,
}

/// The address of this machine that a connection came in at.
#[derive(Clone, Copy, Debug)]
struct Local(SocketAddr);

impl Page {
    /// Starts the page where the settings say, and says in the volume's lock file where that is. An address that cannot
    /// be had is a warning in the log, and the node goes on without a page.
    ///
    /// # Errors
    /// [`PageError`] where it would be open to those who should not see it.
    pub async fn start(node: &Arc<Node>) -> Result<Option<Self>, PageError> {
        let settings = &node.settings.page;
        let Some(wanted) = settings.listen else { return Ok(None) };
        let token = settings.token_file.clone().map(read_token).transpose()?;
        if token.is_none() && !wanted.ip().is_loopback() {
            return Err(PageError::Open(wanted));
        }
        let listening = async {
            let listener = TcpListener::bind(wanted).await?;
            let address = listener.local_addr()?;
            io::Result::Ok((listener, address))
        };
        let (listener, address) = match listening.await {
            Ok(listening) => listening,
            Err(error) => {
                let text = format!(
                    "there is no status page: cannot listen at {wanted} ({error}); set page.listen to a port that is free, or to off"
                );
                node.journal.note(Level::Warn, Kind::Agent, text);
                return Ok(None);
            }
        };
        let url = url(address);
        // Without it the page is there, and the command line finds it not.
        if let Err(error) = node.store.announce(Some(&url)) {
            node.journal.failed(Level::Warn, Kind::Agent, "cannot say where the status page is", &error);
        }
        node.journal.note(Level::Info, Kind::Agent, format!("the status page is at {url}"));
        let (stop, stopped) = watch::channel(false);
        let shared = Shared { node: Arc::clone(node), token: token.map(Arc::new) };
        let serving = tokio::spawn(serve(listener, routes(shared), stopped));
        Ok(Some(Self { node: Arc::clone(node), url, stop, serving }))
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Ends it: what is being answered is answered, for a second at the most.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        // Its own end cannot be prevented, only the farewell of those who look.
        let _ = self.serving.await;
        // Whoever finds it there all the same gets no answer.
        let _ = self.node.store.announce(None);
    }
}

/// Where a page is that listens at an address, for those on this machine.
fn url(address: SocketAddr) -> String {
    let mut here = address;
    if address.ip().is_unspecified() {
        here.set_ip(if address.is_ipv4() {
            std::net::Ipv4Addr::LOCALHOST.into()
        } else {
            std::net::Ipv6Addr::LOCALHOST.into()
        });
    }
    format!("http://{here}")
}

#[expect(clippy::disallowed_methods, reason = "a file of the operator's, not of the volume's")]
fn read_token(path: PathBuf) -> Result<Token, PageError> {
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => Zeroizing::new(bytes),
        Err(source) => return Err(PageError::Read { path, source }),
    };
    let token = std::str::from_utf8(&bytes).ok().and_then(|text| Token::new(text.trim()));
    token.ok_or(PageError::Token { path })
}

fn routes(shared: Shared) -> Router {
    Router::new()
        .route("/metrics", get(metrics_text))
        .fallback(async || (StatusCode::NOT_FOUND, "there is nothing here\n"))
        .layer(middleware::from_fn_with_state(shared.clone(), guarded))
        .with_state(shared)
}

async fn guarded(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let local = request.extensions().get::<Local>().copied();
    let judgement = match local {
        Some(Local(local)) => {
            let (uri, headers) = (request.uri(), request.headers());
            guard::judge(request.method(), uri, headers, local, shared.token.as_deref())
        }
        None => Judgement::Host,
    };
    let mut response = match judgement {
        Judgement::Pass => next.run(request).await,
        Judgement::Remember(cookie) => {
            let headers = [(header::SET_COOKIE, cookie), (header::LOCATION, "/".to_owned())];
            (StatusCode::SEE_OTHER, headers).into_response()
        }
        Judgement::Method => {
            (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "GET, HEAD")], "here one can only look\n")
                .into_response()
        }
        Judgement::Host => {
            let text =
                "the page is reached as localhost, 127.0.0.1, [::1] or the address that it listens at\n";
            (StatusCode::FORBIDDEN, text).into_response()
        }
        Judgement::Token => {
            let text = "a token is needed: open /?token=... once, or send Authorization: Bearer ...; it stands in the \
                        file that page.token_file names\n";
            (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer")], text).into_response()
        }
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Looks at the store beside the threads that answer.
async fn looked<T: Send + 'static>(
    node: &Arc<Node>,
    look: impl FnOnce(&Arc<Node>) -> T + Send + 'static,
) -> T {
    let node = Arc::clone(node);
    match tokio::task::spawn_blocking(move || look(&node)).await {
        Ok(found) => found,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

async fn metrics_text(State(shared): State<Shared>) -> Response {
    let text = looked(&shared.node, |node| metrics::text(node)).await;
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response()
}

/// Takes connections until it is told to stop.
async fn serve(listener: TcpListener, routes: Router, mut stop: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let taken = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            taken = taken => taken,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let (routes, stop) = (routes.clone(), stop.clone());
                connections.spawn(async move {
                    let _place = place;
                    converse(stream, routes, stop).await;
                });
            }
            // The other side is gone already, or there are no descriptors: neither is the end of the page.
            Err(error) => {
                tracing::debug!("cannot take a connection for the page: {}", causes(&error));
                sleep(ACCEPT_AGAIN).await;
            }
        }
    }
    drop(listener);
    let farewell = async { while connections.join_next().await.is_some() {} };
    // Who does not end by then is cut off with the set.
    let _ = timeout(FAREWELL, farewell).await;
    connections.shutdown().await;
}

/// Answers the requests of one connection.
async fn converse(stream: TcpStream, routes: Router, mut stop: watch::Receiver<bool>) {
    let Ok(local) = stream.local_addr() else { return };
    let service = TowerToHyperService::new(routes.layer(Extension(Local(local))));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    // How it ends is the other side's affair.
    tokio::select! {
        _ = &mut connection => return,
        _ = stop.wait_for(|stop| *stop) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}
