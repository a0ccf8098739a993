//! The page: what the node says of itself over HTTP, to whoever looks at it on this machine.
//!
//! `/` is one document with the report in it ([`document`]), `/v1/status` the report as JSON, `/v1/logs` the log, `/v1/events` both
//! as they change ([`feed`]); `/metrics` is for Prometheus. Nothing can be changed through it, and no other origin is let in: there
//! is no CORS header, `Host` is checked ([`guard`]), and an address that other machines reach wants a token.
//!
//! Limits: [`CONNECTIONS_MAX`] connections, [`LISTENERS_MAX`] of them for events, [`CONNECTION_TIME`] for each, [`HEAD_BYTES_MAX`]
//! and [`HEAD_TIME`] for the head of a request.

pub mod document;
pub mod feed;
pub mod guard;
pub mod records;

use std::{
    io::{self, Read as _},
    net::SocketAddr,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use axum::{
    Extension, Router,
    extract::{Query, Request, State},
    http::{HeaderName, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{
        IntoResponse as _, Response,
        sse::{KeepAlive, Sse},
    },
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
    task::JoinSet,
    time::{sleep, timeout},
};
use zeroize::Zeroizing;

use crate::{
    blocking::blocking,
    journal::causes,
    metrics,
    node::Node,
    standing::{self, Standing, StandingError},
};
pub use guard::TOKEN_CHARS_MIN;
use guard::{Judgement, Token};
use records::{Asked, Filter, Shown};

/// Connections that are served at a time; others wait.
pub const CONNECTIONS_MAX: usize = 32;
/// Those who may listen to events at a time; others are refused.
pub const LISTENERS_MAX: usize = 8;
/// The longest head of a request, in bytes.
pub const HEAD_BYTES_MAX: usize = 16 << 10;
/// Within which time the head of a request must be here: 10 seconds. So long may a connection be silent, too.
pub const HEAD_TIME: Duration = Duration::from_secs(10);
/// How long a connection may last: 10 minutes. Who reads nothing has a place no longer, and browsers connect again.
pub const CONNECTION_TIME: Duration = Duration::from_mins(10);
/// How long answers that are on their way may take once the page or their connection ends: 1 second.
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
    /// Others can read the token.
    #[error(
        "the token of the status page in {path} has mode {mode:04o}, others have access to it: run chmod 600 {path}"
    )]
    Readable {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
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
    serving: JoinSet<()>,
}

/// What the routes share.
#[derive(Clone, Debug)]
struct Shared {
    node: Arc<Node>,
    token: Option<Arc<Token>>,
    reports: watch::Sender<Option<Arc<Standing>>>,
    listeners: Arc<Semaphore>,
    stop: watch::Receiver<bool>,
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
        node.set_page(Some(url.clone()));
        node.journal.note(Level::Info, Kind::Agent, format!("the status page is at {url}"));
        let (stop, stopped) = watch::channel(false);
        let reports = watch::Sender::new(None);
        let refreshing = feed::refresh(Arc::clone(node), reports.clone());
        let shared = Shared {
            node: Arc::clone(node),
            token: token.map(Arc::new),
            reports,
            listeners: Arc::new(Semaphore::new(LISTENERS_MAX)),
            stop: stopped.clone(),
        };
        let mut serving = JoinSet::new();
        // A look that takes long is left behind: the page's end does not wait for it.
        serving.spawn(async {
            tokio::select! {
                () = serve(listener, routes(shared), stopped) => {}
                never = refreshing => match never {},
            }
        });
        Ok(Some(Self { node: Arc::clone(node), url, stop, serving }))
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What serves it: it ends with [`Self::stop`], and before only by a panic.
    pub const fn serving(&mut self) -> &mut JoinSet<()> {
        &mut self.serving
    }

    /// Ends it: what is being answered is answered, for a second at the most.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        // Its own end cannot be prevented, only the farewell of those who look.
        let _ = self.serving.join_next().await;
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
    let read = || {
        let mut file = std::fs::File::open(&path)?;
        // Asked of the open file, so that nobody can put another one there in between.
        let mode = file.metadata()?.mode() & 0o7777;
        let mut bytes = Zeroizing::new(Vec::new());
        file.read_to_end(&mut bytes)?;
        io::Result::Ok((mode, bytes))
    };
    let (mode, bytes) = match read() {
        Ok(read) => read,
        Err(source) => return Err(PageError::Read { path, source }),
    };
    if mode & 0o077 != 0 {
        return Err(PageError::Readable { path, mode });
    }
    let token = std::str::from_utf8(&bytes).ok().and_then(|text| Token::new(text.trim()));
    token.ok_or(PageError::Token { path })
}

fn routes(shared: Shared) -> Router {
    Router::new()
        .route("/", get(document_page))
        .route("/v1/status", get(status))
        .route("/v1/logs", get(logs))
        .route("/v1/events", get(events))
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
        Judgement::Site => {
            let text = "the page answers no other site's page: open it by its address\n";
            (StatusCode::FORBIDDEN, text).into_response()
        }
        Judgement::Token => {
            let text = "a token is needed: open /?token=... once, or send Authorization: Bearer ...; it stands in the \
                        file that page.token_file names\n";
            (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer")], text).into_response()
        }
    };
    let headers = response.headers_mut();
    let resources = HeaderName::from_static("cross-origin-resource-policy");
    for (name, value) in [
        (resources, "same-origin"),
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
    blocking(move || look(&node)).await
}

async fn metrics_text(State(shared): State<Shared>) -> Response {
    let text = looked(&shared.node, |node| metrics::text(node)).await;
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response()
}

/// The report cannot be made.
fn unreadable(error: &StandingError) -> Response {
    let text = format!("the node cannot say how it stands: {}\n", causes(error));
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}

fn json(text: String) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}

/// The page's document. The report has the first call on its bytes, the log takes what is left.
async fn document_page(State(shared): State<Shared>) -> Response {
    let (report, records) = looked(&shared.node, |node| {
        let newest = node_store::logs::Query {
            level_min: Some(Level::Info),
            limit: Some(records::RECORDS_MAX),
            ..Default::default()
        };
        // Where the log cannot be read, the report says so.
        (standing::of_agent(node), node.store.logs().view().query(&newest).unwrap_or_default())
    })
    .await;
    let report = match report {
        Ok(report) => serde_json::to_value(&report).unwrap_or_default(),
        Err(error) => return unreadable(&error),
    };
    let room = document::room().saturating_sub("{\"report\":,\"records\":[]}".len());
    let report = document::fitted(report, room);
    let room = room.saturating_sub(document::escaped(&report).len());
    let records = records::newest_within(records.into_iter().map(Shown::from).collect(), room);
    let records = serde_json::to_string(&records).unwrap_or_else(|_| "[]".to_owned());
    let page = document::with(&format!("{{\"report\":{report},\"records\":{records}}}"));
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, document::POLICY.as_str()),
    ];
    (headers, page).into_response()
}

/// The report.
async fn status(State(shared): State<Shared>) -> Response {
    match looked(&shared.node, |node| standing::of_agent(node)).await {
        Ok(report) => json(serde_json::to_string(&report).unwrap_or_default()),
        Err(error) => unreadable(&error),
    }
}

/// The filter that is asked for, or why it is none.
fn filter(request: &Request) -> Result<Filter, String> {
    let asked = Query::<Asked>::try_from_uri(request.uri()).map_err(|error| error.body_text() + "\n")?;
    asked.0.filter().map_err(|error| format!("{error}\n"))
}

/// The log.
async fn logs(State(shared): State<Shared>, request: Request) -> Response {
    let query = match filter(&request) {
        Ok(Filter::Some(query)) => query,
        Ok(Filter::None) => return json("{\"records\":[]}".to_owned()),
        Err(refused) => return (StatusCode::BAD_REQUEST, refused).into_response(),
    };
    match looked(&shared.node, move |node| node.store.logs().view().query(&query)).await {
        Ok(found) => {
            let records: Vec<Shown> = found.into_iter().map(Shown::from).collect();
            json(serde_json::json!({ "records": records }).to_string())
        }
        Err(error) => {
            let text = format!("the log cannot be read: {}\n", causes(&error));
            (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
        }
    }
}

/// Report and log as they change. A browser that comes back says which record it had last.
async fn events(State(shared): State<Shared>, request: Request) -> Response {
    let mut filter = match filter(&request) {
        Ok(filter) => filter,
        Err(refused) => return (StatusCode::BAD_REQUEST, refused).into_response(),
    };
    let Ok(place) = Arc::clone(&shared.listeners).try_acquire_owned() else {
        let text =
            format!("{LISTENERS_MAX} listen already: close another page, or ask /v1/status now and then\n");
        return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    };
    let last =
        request.headers().get("last-event-id").and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if let (Filter::Some(query), Some(last)) = (&mut filter, last) {
        query.after = Some(last.max(query.after.unwrap_or(0)));
    }
    let reports = shared.reports.subscribe();
    // The one that is held may be old, and the next one comes only when something changes.
    let first = match looked(&shared.node, |node| standing::of_agent(node)).await {
        Ok(report) => report,
        Err(error) => return unreadable(&error),
    };
    let ears = feed::Ears { reports, stop: shared.stop.clone(), place };
    let events = feed::events(Arc::clone(&shared.node), filter, &first, ears);
    Sse::new(events).keep_alive(KeepAlive::default()).into_response()
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
                    converse(stream, routes, stop, CONNECTION_TIME).await;
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

/// Answers the requests of one connection, for so long at the most.
async fn converse(stream: TcpStream, routes: Router, mut stop: watch::Receiver<bool>, longest: Duration) {
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
        () = sleep(longest) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(FAREWELL, connection).await;
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use axum::body::Body;
    use futures_util::stream;
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[tokio::test]
    async fn who_does_not_read_has_its_place_for_so_long_and_no_longer() {
        let endless = async || {
            let block = stream::repeat(Ok::<_, Infallible>(vec![0_u8; 1 << 16]));
            Body::from_stream(block)
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let (_stop, stopped) = watch::channel(false);
        let (begun, longest) = (tokio::time::Instant::now(), Duration::from_millis(100));
        let served = converse(stream, Router::new().route("/", get(endless)), stopped, longest);
        timeout(HEAD_TIME + Duration::from_secs(60), served).await.unwrap();
        assert!(begun.elapsed() >= longest, "{:?}: it was not served", begun.elapsed());
    }
}
