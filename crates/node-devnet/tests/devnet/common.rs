//! A devnet in a temporary folder, a node that does what it is told, and plain HTTP.
#![expect(
    clippy::disallowed_methods,
    reason = "a message says when it was signed, and this is no part of the product"
)]

use std::{
    path::Path,
    sync::{
        Once,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use futures_util::{SinkExt as _, StreamExt as _};
use k256::ecdsa::SigningKey;
use node_devnet::{ConfigTemplate, Devnet, Settings};
use node_types::{
    Address, BootId, Digest, JobId, Network, NodeId, Timestamp,
    job::{Job, ModelRef, Output},
    message::{Domain, NO_CONFIG, NodeMessage},
    protocol::{
        Accept, AcceptAnswer, Hello, MEDIA_TYPE, MESSAGE_TTL_MS, NetworkFrame, Payload, Register,
        ResultOfJob, Signed, VERSION, path,
    },
    signature::Signature,
};
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Message, protocol::frame::coding::CloseCode},
};

pub(crate) const CHAIN_ID: u64 = 84_532;
/// Longer than a busy machine keeps a test from answering: what comes again in between would be taken for the next frame.
pub(crate) const OFFER_RETRY_MS: u64 = 6_000;
pub(crate) const REASSIGN_MS: u64 = 8_000;
/// Longer than anything takes here; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) fn template() -> ConfigTemplate {
    serde_json::from_value(json!({
        "models": [{
            "name": "m", "version": "1.0.0", "tasks": ["chat", "completion"], "engine": "llama.cpp",
            "memory_bytes": 0, "sources": [],
            "files": [{ "path": "m.gguf", "bytes": 7, "sha256": Digest::of(b"weights") }],
        }, {
            "name": "e", "version": "1.0.0", "tasks": ["embedding"], "engine": "llama.cpp",
            "memory_bytes": 0, "sources": [],
            "files": [{ "path": "e.gguf", "bytes": 7, "sha256": Digest::of(b"weights") }],
        }],
        "runtime": { "kind": "external", "engine": "llama.cpp" },
        "limits": {
            "queue_jobs_max": 100, "queue_bytes_max": 1_000_000, "request_bytes_max": 100_000, "max_tokens": 64,
            "execution_timeout_ms": 60_000, "ttl_ms_max": 600_000, "attempts_max": 3, "concurrency": 2,
            "logs_bytes_max": 1_000_000,
        },
        "timings": {
            "heartbeat_ms": 1000, "sync_ms": 1000, "flush_ms": 1000, "retry_ms_min": 50, "retry_ms_max": 1000,
            "trace_ttl_ms": 60_000, "log_ttl_ms": 60_000, "offline_grace_ms": 60_000,
            "partial_file_ttl_ms": 60_000,
        },
        "refresh_after_ms": 3_600_000, "valid_for_ms": 7_200_000,
    }))
    .unwrap()
}

pub(crate) fn settings(folder: &Path) -> Settings {
    Settings {
        folder: folder.to_owned(),
        network: Network::Testnet,
        listen: "127.0.0.1:0".parse().unwrap(),
        chain_id: CHAIN_ID,
        config: template(),
        models: None,
        job_ttl_ms: 300_000,
        offer_retry_ms: OFFER_RETRY_MS,
        reassign_after_ms: REASSIGN_MS,
        images: None,
    }
}

/// A devnet and its folder.
pub(crate) struct World {
    pub(crate) devnet: Devnet,
    pub(crate) folder: tempfile::TempDir,
}

pub(crate) async fn world() -> World {
    let folder = tempfile::tempdir().unwrap();
    let devnet = Devnet::start(settings(folder.path())).await.unwrap();
    World { devnet, folder }
}

impl World {
    /// A node of this number, registered and connected.
    pub(crate) async fn node(&self, number: u8) -> (Node, Link) {
        let node = Node::new(number, &self.devnet.url());
        node.register().await;
        let link = node.connect().await;
        (node, link)
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        get(&format!("{}{path}", self.devnet.url())).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        post(&format!("{}{path}", self.devnet.url()), body, &[]).await
    }

    /// Submits a chat and gives its ID at once.
    pub(crate) async fn submit(&self, more: Value) -> JobId {
        let mut body = json!({ "mode": "chat", "request": chat() });
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        let answer = self.post("/v1/devnet/jobs", &body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()["id"].as_str().unwrap().parse().unwrap()
    }

    pub(crate) async fn job(&self, id: JobId) -> Value {
        self.get(&format!("/v1/devnet/jobs/{id}")).await.json()
    }

    /// Waits until a job is in this place.
    pub(crate) async fn until(&self, id: JobId, place: &str) -> Value {
        let looked = async {
            loop {
                let job = self.job(id).await;
                if job["place"] == place {
                    return job;
                }
                pause(10).await;
            }
        };
        timeout(PATIENCE, looked).await.unwrap_or_else(|_| panic!("the job is never {place}"))
    }

    /// Sends a chat as an OpenAI client does, and waits for the whole answer elsewhere.
    pub(crate) fn ask(&self, body: Value, headers: &[(&str, &str)]) -> tokio::task::JoinHandle<Answer> {
        let url = format!("{}/v1/chat/completions", self.devnet.url());
        let headers: Vec<(String, String)> =
            headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        tokio::spawn(async move {
            let headers: Vec<(&str, &str)> =
                headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            post(&url, &body, &headers).await
        })
    }
}

pub(crate) fn chat() -> Value {
    json!({ "model": "m", "messages": [{ "role": "user", "content": "What is the capital of France?" }] })
}

/// What a runtime answers to a chat.
pub(crate) fn answer_text(text: &str) -> Output {
    let body = json!({
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{
            "index": 0, "finish_reason": "stop", "message": { "role": "assistant", "content": text },
        }],
        "usage": { "prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4 },
    });
    Output { body: body.to_string(), prompt_tokens: 3, completion_tokens: 1 }
}

pub(crate) async fn pause(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    Timestamp::from_ms(u64::try_from(since.as_millis()).unwrap())
}

/// What an HTTP request was answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The data of server-sent events.
    pub(crate) fn events(&self) -> Vec<String> {
        let text = String::from_utf8(self.body.clone()).unwrap();
        text.lines().filter_map(|line| line.strip_prefix("data: ")).map(str::to_owned).collect()
    }
}

pub(crate) fn http() -> reqwest::Client {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
    reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap()
}

async fn answered(request: reqwest::RequestBuilder) -> Answer {
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Answer { status, headers, body: response.bytes().await.unwrap().to_vec() }
}

pub(crate) async fn get(url: &str) -> Answer {
    answered(http().get(url)).await
}

pub(crate) async fn post(url: &str, body: &Value, headers: &[(&str, &str)]) -> Answer {
    let mut request = http().post(url).header("content-type", "application/json").body(body.to_string());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    answered(request).await
}

/// A node: its key is 32 times its number.
pub(crate) struct Node {
    key: SigningKey,
    pub(crate) id: NodeId,
    pub(crate) address: Address,
    pub(crate) boot: BootId,
    seq: AtomicU64,
    base: String,
}

impl Node {
    pub(crate) fn new(number: u8, base: &str) -> Self {
        let key = SigningKey::from_slice(&[number; 32]).unwrap();
        let point = key.verifying_key().to_sec1_point(false);
        let address = Address::of_public_key(point.as_bytes()[1..].try_into().unwrap());
        let id = NodeId::derive(Network::Testnet, &address);
        let (boot, seq) = (BootId::from_bytes([number; 16]), AtomicU64::new(1));
        Self { key, id, address, boot, seq, base: base.to_owned() }
    }

    /// The same node after its next start.
    pub(crate) fn restarted(&self, boot: u8) -> Self {
        Self {
            key: self.key.clone(),
            boot: BootId::from_bytes([boot; 16]),
            seq: AtomicU64::new(self.seq.load(Ordering::SeqCst) + 1000),
            base: self.base.clone(),
            ..*self
        }
    }

    pub(crate) fn sign<P: Payload>(&self, payload: &P) -> Signed {
        self.sign_changed(payload, |_| {})
    }

    /// Signs a message of which something was changed before.
    pub(crate) fn sign_changed<P: Payload>(
        &self,
        payload: &P,
        change: impl FnOnce(&mut NodeMessage),
    ) -> Signed {
        let payload = serde_json::to_string(payload).unwrap();
        let mut message = NodeMessage {
            kind: P::KIND,
            node: self.id,
            boot_id: self.boot,
            seq: self.seq.fetch_add(1, Ordering::SeqCst),
            issued_at_ms: now(),
            ttl_ms: MESSAGE_TTL_MS,
            config_digest: NO_CONFIG,
            payload_hash: Digest::of(payload.as_bytes()),
        };
        change(&mut message);
        let domain = Domain { network: Network::Testnet, chain_id: CHAIN_ID };
        let hash = message.signing_hash(&domain);
        let (signature, recovery) = self.key.sign_prehash_recoverable(hash.as_bytes());
        let mut bytes = signature.to_bytes().to_vec();
        bytes.push(recovery.to_byte());
        Signed { message, signature: Signature::from_slice(&bytes).unwrap(), payload }
    }

    pub(crate) async fn post_text(&self, path: &str, text: String) -> Answer {
        let url = format!("{}{path}", self.base);
        answered(http().post(url).header("content-type", MEDIA_TYPE).body(text)).await
    }

    pub(crate) async fn post<P: Payload>(&self, path: &str, payload: &P) -> Answer {
        self.post_text(path, self.sign(payload).encode()).await
    }

    pub(crate) fn registration(&self) -> Register {
        let agent = "test".to_owned();
        Register { protocol: VERSION, network: Network::Testnet, address: self.address, agent }
    }

    pub(crate) async fn register(&self) {
        let answer = self.post(path::REGISTER, &self.registration()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.json()["node"], self.id.to_string());
    }

    pub(crate) fn hello(&self) -> Hello {
        let model = |name: &str| ModelRef { name: name.into(), version: "1.0.0".into() };
        Hello {
            protocol: VERSION,
            agent: "test".into(),
            concurrency: 2,
            models: vec![model("m"), model("e")],
        }
    }

    /// Opens a connection and says nothing.
    pub(crate) async fn dial(&self) -> Link {
        let url = format!("{}{}", self.base.replace("http", "ws"), path::SESSION);
        Link { socket: connect_async(url).await.unwrap().0 }
    }

    /// Opens a session.
    pub(crate) async fn connect(&self) -> Link {
        let mut link = self.dial().await;
        link.say(self, &self.hello()).await;
        match link.next().await {
            Some(NetworkFrame::Welcome { protocol: VERSION, .. }) => link,
            other => panic!("no welcome: {other:?}"),
        }
    }
}

/// A connection of a node.
pub(crate) struct Link {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Link {
    pub(crate) async fn say<P: Payload>(&mut self, node: &Node, payload: &P) {
        self.send(node.sign(payload).encode()).await;
    }

    pub(crate) async fn send(&mut self, text: String) {
        self.socket.send(Message::Text(text.into())).await.unwrap();
    }

    /// The next text, nothing after the end. It has to come soon.
    pub(crate) async fn next_text(&mut self) -> Option<String> {
        timeout(PATIENCE, self.text()).await.expect("no frame comes")
    }

    async fn text(&mut self) -> Option<String> {
        loop {
            match self.socket.next().await? {
                Ok(Message::Text(text)) => return Some(text.to_string()),
                Ok(Message::Close(frame)) => {
                    assert!(frame.is_none_or(|frame| frame.code == CloseCode::Normal));
                    return None;
                }
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    }

    /// The next frame, which has to come soon.
    pub(crate) async fn next(&mut self) -> Option<NetworkFrame> {
        self.next_text().await.map(|text| frame(&text))
    }

    /// The next frame, however long it takes.
    pub(crate) async fn next_ever(&mut self) -> Option<NetworkFrame> {
        self.text().await.map(|text| frame(&text))
    }

    /// Asks whether the connection stands, as WebSocket does it, and waits for the answer.
    pub(crate) async fn ping(&mut self) {
        self.socket.send(Message::Ping("still there?".into())).await.unwrap();
        let answer = timeout(PATIENCE, self.socket.next()).await.expect("no pong comes");
        assert_eq!(answer.unwrap().unwrap(), Message::Pong("still there?".into()));
    }

    /// Whether nothing comes for so long.
    pub(crate) async fn is_silent(&mut self, ms: u64) -> bool {
        timeout(Duration::from_millis(ms), self.socket.next()).await.is_err()
    }

    /// The next offer.
    pub(crate) async fn offer(&mut self) -> Job {
        match self.next().await {
            Some(NetworkFrame::Job { job }) => *job,
            other => panic!("no offer: {other:?}"),
        }
    }

    /// The next offer, accepted.
    pub(crate) async fn take(&mut self, node: &Node) -> Job {
        let job = self.offer().await;
        self.answer(node, job.id, AcceptAnswer::New).await;
        job
    }

    pub(crate) async fn answer(&mut self, node: &Node, job: JobId, answer: AcceptAnswer) {
        self.say(node, &Accept { job, answer, reason: None }).await;
    }

    pub(crate) async fn finish(&mut self, node: &Node, job: JobId, text: &str) {
        self.say(node, &ResultOfJob { job, output: answer_text(text) }).await;
    }

    /// The next frame, which is an acknowledgement of this job.
    pub(crate) async fn acknowledged(&mut self, job: JobId) {
        match self.next().await {
            Some(NetworkFrame::Acknowledged { job: found, .. }) if found == job => {}
            other => panic!("no acknowledgement of {job}: {other:?}"),
        }
    }
}

fn frame(text: &str) -> NetworkFrame {
    serde_json::from_str(text).unwrap_or_else(|_| panic!("no frame: {text}"))
}
