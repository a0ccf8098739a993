//! The network as the Agent sees it: a trait, so that another one can be spoken to, and the one that speaks
//! `docs/protocol.md` over HTTP and WebSocket.

use std::{future::Future, time::Duration};

use futures_util::{SinkExt, StreamExt};
use node_types::{
    Digest, Timestamp,
    envelope::ENVELOPE_BYTES_MAX,
    protocol::{
        Account, Acknowledged, Claims, ConfigReport, ErrorAnswer, ErrorCode, Heartbeat, Inquiry, Keysets,
        LogBatch, MEDIA_TYPE, NETWORK_FRAME_BYTES_MAX, NetworkFrame, NetworkTime, Payload, Register,
        Registered, Signed, TraceBatch, path,
    },
};
use reqwest::{StatusCode, header};
use serde::de::DeserializeOwned;
use tokio::{
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async_with_config,
    tungstenite::{self, Message, protocol::WebSocketConfig},
};

use crate::address::{self, Whose};

/// How long a request may make no progress: 10 seconds.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// After how much silence a connection is asked whether it still stands, and how long it may take to answer:
/// 15 seconds. Without it a connection whose other end lost its power would look open for hours.
pub const SILENCE: Duration = Duration::from_secs(15);
/// What a connection must take at the least, in bytes a millisecond: 128 KiB a second.
const SENT_BYTES_A_MS_MIN: usize = 128;
/// The longest answer to a message, in bytes.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Why the network could not be asked, or said no.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The base URL cannot be used.
    #[error("the network's URL {url:?} cannot be used: {problem}")]
    Url {
        /// The URL.
        url: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Nobody answered, or not to the end.
    #[error("cannot reach the network at {url}")]
    Unreachable {
        /// What was asked.
        url: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It takes no notice of a message, and says why.
    #[error("the network refuses: {message} ({code:?})")]
    Refused {
        /// Why, for a machine.
        code: ErrorCode,
        /// Why, for a person.
        message: String,
        /// The network's time, if it said it.
        now: Option<Timestamp>,
    },
    /// It answered what the protocol does not know.
    #[error("the network does not keep to the protocol: {0}")]
    Misbehaves(String),
}

impl NetworkError {
    /// The network's reason, if it gave one.
    #[must_use]
    pub const fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            Self::Url { .. } | Self::Unreachable { .. } | Self::Misbehaves(_) => None,
        }
    }
}

/// A message that is posted, where, and what is answered.
pub trait Posted: Payload {
    /// Its path.
    const PATH: &'static str;
    /// The answer.
    type Answer: DeserializeOwned + Send;
}

macro_rules! posted {
    ($($payload:ty, $path:ident, $answer:ty;)*) => {$(
        impl Posted for $payload {
            const PATH: &'static str = path::$path;
            type Answer = $answer;
        }
    )*};
}

posted! {
    Register, REGISTER, Registered;
    Heartbeat, HEARTBEAT, NetworkTime;
    LogBatch, LOGS, Acknowledged;
    TraceBatch, TRACES, Acknowledged;
    ConfigReport, CONFIG_REPORT, Acknowledged;
    Account, ACCOUNT, Acknowledged;
    Inquiry, INQUIRY, Claims;
}

/// What the network has as its snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Offered {
    /// None.
    None,
    /// The one that the node named.
    Held,
    /// This one, to be judged.
    Envelope(Vec<u8>),
}

/// A network that a node works for.
pub trait Network: Send + Sync + 'static {
    /// A connection for jobs.
    type Link: Link;

    /// The keysets.
    fn keysets(&self) -> impl Future<Output = Result<Keysets, NetworkError>> + Send;

    /// The newest snapshot, if it is not the one held.
    fn snapshot(&self, held: Option<Digest>) -> impl Future<Output = Result<Offered, NetworkError>> + Send;

    /// Posts a message.
    fn post<P: Posted>(
        &self,
        message: &Signed,
    ) -> impl Future<Output = Result<P::Answer, NetworkError>> + Send;

    /// Opens a connection for jobs.
    fn connect(&self) -> impl Future<Output = Result<Self::Link, NetworkError>> + Send;
}

/// A connection for jobs.
pub trait Link: Send {
    /// Sends a message.
    fn send(&mut self, message: &Signed) -> impl Future<Output = Result<(), NetworkError>> + Send;

    /// The next frame, `None` after the end. May be dropped while it waits: no frame is lost.
    fn receive(&mut self) -> impl Future<Output = Option<Result<NetworkFrame, NetworkError>>> + Send;
}

/// The network behind a base URL.
#[derive(Clone, Debug)]
pub struct HttpNetwork {
    base: String,
    client: reqwest::Client,
}

impl HttpNetwork {
    /// The network at `url`: `https`, or `http` on loopback.
    ///
    /// # Errors
    /// [`NetworkError::Url`], [`NetworkError::Unreachable`] where TLS cannot be set up.
    pub fn new(url: &str) -> Result<Self, NetworkError> {
        address::parse(url, Whose::Network)
            .map_err(|problem| NetworkError::Url { url: address::shown(url), problem })?;
        let client = crate::tls::client()
            .read_timeout(REQUEST_TIMEOUT)
            .connect_timeout(REQUEST_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| unreachable(url, error))?;
        Ok(Self { base: url.trim_end_matches('/').to_owned(), client })
    }

    /// Asks for the keysets, and notes what time the answer says it is (its `Date`, RFC 9110, 6.6.1: whole seconds): a look
    /// whether the network answers, which needs no key.
    ///
    /// # Errors
    /// [`NetworkError`].
    pub async fn look(&self) -> Result<(Keysets, Option<Timestamp>), NetworkError> {
        let url = format!("{}{}", self.base, path::KEYSETS);
        let response = self.client.get(&url).send().await.map_err(|error| unreachable(&url, error))?;
        let date = response.headers().get(header::DATE).and_then(|date| http_date(date.to_str().ok()?));
        Ok((read(&url, response).await?, date))
    }

    async fn answer<T: DeserializeOwned>(
        &self,
        url: &str,
        request: reqwest::RequestBuilder,
    ) -> Result<T, NetworkError> {
        read(url, request.send().await.map_err(|error| unreachable(url, error))?).await
    }
}

async fn read<T: DeserializeOwned>(url: &str, response: reqwest::Response) -> Result<T, NetworkError> {
    if response.status() != StatusCode::OK {
        return Err(refusal(url, response).await);
    }
    let body = body_of(url, response, ANSWER_BYTES_MAX.max(ENVELOPE_BYTES_MAX)).await?;
    serde_json::from_slice(&body)
        .map_err(|error| NetworkError::Misbehaves(format!("{url} answered: {error}")))
}

fn http_date(text: &str) -> Option<Timestamp> {
    let since = httpdate::parse_http_date(text).ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
    u64::try_from(since.as_millis()).ok().map(Timestamp::from_ms)
}

/// Of a client's errors the first cause alone helps: those above it say in other words that a request failed.
fn unreachable(url: &str, source: impl std::error::Error + Send + Sync + 'static) -> NetworkError {
    let first: &(dyn std::error::Error + 'static) = &source;
    let causes = std::iter::successors(Some(first), |error| error.source());
    let last = causes.last().map_or_else(String::new, ToString::to_string);
    NetworkError::Unreachable { url: url.to_owned(), source: last.into() }
}

/// What an answer that is no success says.
async fn refusal(url: &str, response: reqwest::Response) -> NetworkError {
    let status = response.status();
    let body = body_of(url, response, ANSWER_BYTES_MAX).await.unwrap_or_default();
    match serde_json::from_slice::<ErrorAnswer>(&body) {
        Ok(ErrorAnswer { code, message, now_ms: now }) => NetworkError::Refused { code, message, now },
        // A proxy in between, for example.
        Err(_) if status.is_server_error() => NetworkError::Refused {
            code: ErrorCode::Unavailable,
            message: format!("{url} answered {status}"),
            now: None,
        },
        Err(_) => NetworkError::Misbehaves(format!("{url} answered {status}")),
    }
}

async fn body_of(
    url: &str,
    mut response: reqwest::Response,
    bytes_max: usize,
) -> Result<Vec<u8>, NetworkError> {
    let mut body = Vec::new();
    while let Some(part) = response.chunk().await.map_err(|error| unreachable(url, error))? {
        if body.len() + part.len() > bytes_max {
            return Err(NetworkError::Misbehaves(format!("{url} answered more than {bytes_max} bytes")));
        }
        body.extend_from_slice(&part);
    }
    Ok(body)
}

impl Network for HttpNetwork {
    type Link = WebSocketLink;

    async fn keysets(&self) -> Result<Keysets, NetworkError> {
        let url = format!("{}{}", self.base, path::KEYSETS);
        self.answer(&url, self.client.get(&url)).await
    }

    async fn snapshot(&self, held: Option<Digest>) -> Result<Offered, NetworkError> {
        let url = format!("{}{}", self.base, path::SNAPSHOT);
        let mut request = self.client.get(&url);
        if let Some(held) = held {
            request = request.header(header::IF_NONE_MATCH, format!("\"{held}\""));
        }
        let response = request.send().await.map_err(|error| unreachable(&url, error))?;
        match response.status() {
            StatusCode::OK => Ok(Offered::Envelope(body_of(&url, response, ENVELOPE_BYTES_MAX).await?)),
            StatusCode::NOT_MODIFIED => Ok(Offered::Held),
            StatusCode::NOT_FOUND => Ok(Offered::None),
            _ => Err(refusal(&url, response).await),
        }
    }

    async fn post<P: Posted>(&self, message: &Signed) -> Result<P::Answer, NetworkError> {
        let url = format!("{}{}", self.base, P::PATH);
        let request = self.client.post(&url).header(header::CONTENT_TYPE, MEDIA_TYPE).body(message.encode());
        self.answer(&url, request).await
    }

    async fn connect(&self) -> Result<WebSocketLink, NetworkError> {
        // `http` becomes `ws`, `https` becomes `wss`.
        let url = format!("ws{}{}", self.base.trim_start_matches("http"), path::SESSION);
        let limits = WebSocketConfig::default()
            .max_message_size(Some(NETWORK_FRAME_BYTES_MAX))
            .max_frame_size(Some(NETWORK_FRAME_BYTES_MAX));
        let connected = timeout(REQUEST_TIMEOUT, connect_async_with_config(&url, Some(limits), true))
            .await
            .map_err(|elapsed| unreachable(&url, elapsed))?;
        let (socket, _) = connected.map_err(|error| unreachable(&url, error))?;
        Ok(WebSocketLink { url, socket, heard: Instant::now(), asked: false })
    }
}

/// A connection over WebSocket.
#[derive(Debug)]
pub struct WebSocketLink {
    url: String,
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// When something came last.
    heard: Instant,
    /// A ping is on its way.
    asked: bool,
}

impl WebSocketLink {
    /// Sends within a time: a peer that reads no more must not hold everything up.
    async fn put(&mut self, message: Message, limit: Duration) -> Result<(), NetworkError> {
        match timeout(limit, self.socket.send(message)).await {
            Ok(sent) => sent.map_err(|error| unreachable(&self.url, error)),
            Err(elapsed) => Err(unreachable(&self.url, elapsed)),
        }
    }
}

impl Link for WebSocketLink {
    async fn send(&mut self, message: &Signed) -> Result<(), NetworkError> {
        let text = message.encode();
        let limit = REQUEST_TIMEOUT + Duration::from_millis((text.len() / SENT_BYTES_A_MS_MIN) as u64);
        self.put(Message::text(text), limit).await
    }

    async fn receive(&mut self) -> Option<Result<NetworkFrame, NetworkError>> {
        loop {
            let patience = if self.asked { 2 * SILENCE } else { SILENCE };
            let Ok(message) = timeout_at(self.heard + patience, self.socket.next()).await else {
                if self.asked {
                    return Some(Err(unreachable(
                        &self.url,
                        std::io::Error::from(std::io::ErrorKind::TimedOut),
                    )));
                }
                self.asked = true;
                if let Err(error) = self.put(Message::Ping(tungstenite::Bytes::new()), REQUEST_TIMEOUT).await
                {
                    return Some(Err(error));
                }
                continue;
            };
            (self.heard, self.asked) = (Instant::now(), false);
            return match message? {
                Ok(Message::Text(text)) => Some(serde_json::from_str(&text).map_err(|error| {
                    // Says where, and never what stands there: it may be somebody's prompt.
                    let (line, column) = (error.line(), error.column());
                    NetworkError::Misbehaves(format!("a frame is no frame (line {line}, column {column})"))
                })),
                // The library answers pings.
                Ok(Message::Ping(_) | Message::Pong(_)) => continue,
                Ok(Message::Close(_)) => None,
                Ok(Message::Binary(_) | Message::Frame(_)) => {
                    Some(Err(NetworkError::Misbehaves("a frame is not text".to_owned())))
                }
                Err(tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed) => None,
                Err(tungstenite::Error::Capacity(error)) => {
                    Some(Err(NetworkError::Misbehaves(format!("a frame is too large: {error}"))))
                }
                Err(error) => Some(Err(unreachable(&self.url, error))),
            };
        }
    }
}
