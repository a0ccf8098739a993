//! A node's connection: hello, welcome, frames.
//!
//! What comes is judged by the core. What goes passes the faults of frames; the welcome and the goodbye do not, because
//! a session that cannot begin shows nothing.

use std::{sync::Arc, time::Duration};

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, close_code};
use futures_util::{
    SinkExt as _, StreamExt as _,
    stream::{SplitSink, SplitStream},
};
use node_types::{
    NodeId,
    message::MessageKind,
    protocol::{ErrorCode, NetworkFrame, Signed},
};
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender},
    time::{Instant, sleep_until, timeout},
};

use crate::{
    core::{Flow, Greeted, Out, Shared, encode},
    faults::Faults,
    gate::{self, Refusal},
};

/// How long a connection may take until its hello: 10 seconds.
const HELLO_LIMIT: Duration = Duration::from_secs(10);
/// How long a frame waits for another one to overtake it: 100 milliseconds.
const OVERTAKE_LIMIT: Duration = Duration::from_millis(100);
/// How long the other side may take to close: 1 second.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

type Sink = SplitSink<WebSocket, Message>;
type Stream = SplitStream<WebSocket>;

/// Serves a connection to its end.
pub(crate) async fn serve(shared: Arc<Shared>, socket: WebSocket) {
    let _until_the_end = shared.sessions.subscribe();
    let (mut sink, mut stream) = socket.split();
    let Some(first) = timeout(HELLO_LIMIT, next(&mut stream)).await.ok().flatten() else { return };
    let Greeted { node, number, welcome, replies, mut out, cut } = match greet(&shared, &first).await {
        Ok(greeted) => greeted,
        Err(refusal) => return part(&mut sink, &mut stream, encode(&refused(&refusal))).await,
    };
    if sink.send(Message::Text(encode(&welcome).into())).await.is_ok() {
        tracing::info!(%node, "a node has connected");
        let last = tokio::select! {
            last = listen(&shared, node, &mut stream, &replies) => last,
            last = speak(&shared, &mut out, &mut sink) => last,
            () = cut.notified() => None,
        };
        if let Some(last) = last {
            part(&mut sink, &mut stream, last).await;
        }
    }
    // Where the network is closed meanwhile, it knows no sessions any more.
    let _ = shared.with(|core, now| {
        core.disconnect(node, number, now);
        Ok(())
    });
    tracing::info!(%node, "a node's connection has ended");
}

async fn greet(shared: &Shared, bytes: &[u8]) -> Result<Greeted, Refusal> {
    let signed = read(shared, bytes)?;
    if signed.message.kind != MessageKind::Hello {
        let text = format!("out of turn: {} came before the hello", signed.message.kind);
        return Err(noted(shared, Refusal::new(ErrorCode::Malformed, signed.message.seq, text)));
    }
    shared.ask_rival(&signed).await;
    shared.with(|core, now| core.greet(&signed, now)).map_err(|trouble| trouble.refusal(signed.message.seq))
}

/// Takes what the node says. Gives the last frame that it gets, if it gets one.
async fn listen(
    shared: &Shared,
    node: NodeId,
    stream: &mut Stream,
    replies: &UnboundedSender<Out>,
) -> Option<String> {
    while let Some(bytes) = next(stream).await {
        let taken = read(shared, &bytes).and_then(|signed| {
            shared
                .with(|core, now| core.receive(node, &signed, now))
                .map_err(|trouble| trouble.refusal(signed.message.seq))
        });
        match taken {
            Ok(Flow::On) => {}
            Ok(Flow::Left) => return None,
            Err(refusal) if ends_session(refusal.code) => return Some(encode(&refused(&refusal))),
            Err(refusal) => {
                // Who speaks has ended only if this session has.
                let _ = replies.send(Out::Frame(encode(&refused(&refusal)), Instant::now()));
            }
        }
    }
    None
}

/// Sends what is to be sent, with all faults of frames. Gives the last frame, if there is one.
async fn speak(shared: &Shared, out: &mut UnboundedReceiver<Out>, sink: &mut Sink) -> Option<String> {
    let mut overtaken: Option<Out> = None;
    loop {
        let next = match overtaken.take() {
            Some(held) => held,
            None => out.recv().await?,
        };
        match next {
            Out::Frame(text, meant) => {
                let faults = faults(shared);
                sleep_until(meant + Duration::from_millis(faults.delay_ms)).await;
                if faults.reorder {
                    match timeout(OVERTAKE_LIMIT, out.recv()).await {
                        Ok(Some(Out::Frame(faster, _))) => frame(sink, faster, &faults).await?,
                        Ok(other) => overtaken = Some(other?),
                        // Nothing came that could overtake it.
                        Err(_) => {}
                    }
                }
                frame(sink, text, &faults).await?;
            }
            Out::Raw(text) => sink.send(Message::Text(text.into())).await.ok()?,
            Out::Close(last) => return Some(last),
        }
    }
}

async fn frame(sink: &mut Sink, text: String, faults: &Faults) -> Option<()> {
    let text = Utf8Bytes::from(text);
    if faults.duplicate {
        sink.send(Message::Text(text.clone())).await.ok()?;
    }
    sink.send(Message::Text(text)).await.ok()
}

fn faults(shared: &Shared) -> Faults {
    shared.look(|core| Ok(*core.faults())).unwrap_or_default()
}

/// The next message's bytes; nothing after the end.
async fn next(stream: &mut Stream) -> Option<Vec<u8>> {
    loop {
        match stream.next().await?.ok()? {
            Message::Text(text) => return Some(text.as_bytes().to_vec()),
            // No message of the protocol: its first line is no header, and so it is refused.
            Message::Binary(_) => return Some(Vec::new()),
            Message::Ping(_) | Message::Pong(_) => {}
            Message::Close(_) => return None,
        }
    }
}

/// Says the last frame and closes, with a short time for the other side to do so too.
async fn part(sink: &mut Sink, stream: &mut Stream, last: String) {
    let close = CloseFrame { code: close_code::NORMAL, reason: Utf8Bytes::from_static("") };
    let said = async {
        sink.send(Message::Text(last.into())).await?;
        sink.send(Message::Close(Some(close))).await
    };
    if timeout(CLOSE_LIMIT, said).await.is_ok_and(|said| said.is_ok()) {
        let _ =
            timeout(CLOSE_LIMIT, async { while stream.next().await.is_some_and(|it| it.is_ok()) {} }).await;
    }
}

fn read(shared: &Shared, bytes: &[u8]) -> Result<Signed, Refusal> {
    gate::read(bytes).map_err(|refusal| noted(shared, refusal))
}

/// Counts a refusal.
fn noted(shared: &Shared, refusal: Refusal) -> Refusal {
    let seq = refusal.seq;
    match shared.with::<()>(|_, _| Err(refusal.into())) {
        Ok(()) => Refusal::new(ErrorCode::Unavailable, seq, "the network is closed"),
        Err(trouble) => trouble.refusal(seq),
    }
}

fn refused(refusal: &Refusal) -> NetworkFrame {
    let Refusal { code, message, seq } = refusal;
    NetworkFrame::Refused {
        seq: *seq,
        code: *code,
        message: message.clone(),
        now_ms: Some(crate::clock::now()),
    }
}

/// Whether it is misbehaviour, or a copy of the node: others may go on.
const fn ends_session(code: ErrorCode) -> bool {
    match code {
        ErrorCode::Malformed
        | ErrorCode::TooLarge
        | ErrorCode::Superseded
        | ErrorCode::AlreadyRunning
        | ErrorCode::Unsupported => true,
        ErrorCode::BadSignature
        | ErrorCode::Replayed
        | ErrorCode::OutOfTime
        | ErrorCode::OtherNetwork
        | ErrorCode::NotRegistered
        | ErrorCode::BrokenChain
        | ErrorCode::Unavailable => false,
    }
}
