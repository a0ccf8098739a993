//! Answers as server-sent events. What of an answer goes to the client is decided in `resume`.

use std::{collections::VecDeque, convert::Infallible};

use axum::{
    http::StatusCode,
    response::{
        IntoResponse as _, Response, Sse,
        sse::{self, KeepAlive},
    },
};
use futures_util::stream;
use node_types::{NodeId, job::Mode};
use tokio::sync::mpsc::UnboundedReceiver;

use super::{ApiError, NoAnswer, no_answer, stopped};
use crate::{
    core::Event,
    db::End,
    resume::{Relay, Relayed},
};

/// Ends every stream that ends well.
const DONE: &str = "[DONE]";

/// Waits until a node has the job, then streams. What goes wrong before that is an error as any other.
pub(super) async fn answer(
    mut events: UnboundedReceiver<Event>,
    mode: Mode,
    usage: bool,
) -> Result<(Response, NodeId), NoAnswer> {
    let first = events.recv().await.ok_or_else(|| (stopped(), None))?;
    let node = match &first {
        Event::Taken(node) | Event::Chunk(node, _) | Event::Ended(End::Result(_), Some(node)) => *node,
        Event::Ended(end, by) => return Err((no_answer(end, false), *by)),
    };
    let mut client =
        Client { events, node, relay: Relay::new(mode, usage), ready: VecDeque::new(), over: false };
    client.take(first);
    let events = stream::unfold(client, |mut client| async {
        let data = client.next().await?;
        Some((Ok::<_, Infallible>(sse::Event::default().data(data)), client))
    });
    Ok((Sse::new(events).keep_alive(KeepAlive::default()).into_response(), node))
}

struct Client {
    events: UnboundedReceiver<Event>,
    /// Whose parts were sent last.
    node: NodeId,
    relay: Relay,
    ready: VecDeque<String>,
    over: bool,
}

impl Client {
    /// The next event's data, nothing after the last.
    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(data) = self.ready.pop_front() {
                return Some(data);
            }
            if self.over {
                return None;
            }
            match self.events.recv().await {
                Some(event) => self.take(event),
                None => self.fail(&stopped()),
            }
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Taken(_) => {}
            Event::Chunk(node, chunk) => {
                if node != self.node {
                    self.node = node;
                    self.relay.moved();
                }
                let relayed = self.relay.chunk(&chunk);
                self.relay(relayed);
            }
            Event::Ended(End::Result(output), _) => {
                let relayed = self.relay.end(&output.body);
                self.relay(relayed);
                if !self.over {
                    self.ready.push_back(DONE.to_owned());
                    self.over = true;
                }
            }
            Event::Ended(end, _) => self.fail(&no_answer(&end, true)),
        }
    }

    fn relay(&mut self, relayed: Relayed) {
        match relayed {
            Relayed::Send(data) => self.ready.extend(data),
            Relayed::Diverged => {
                let text =
                    "the node began the job anew and answers otherwise: what was sent before does not count";
                let code = Some("diverged");
                self.fail(&ApiError::new(StatusCode::BAD_GATEWAY, "server_error", code, text.to_owned()));
            }
        }
    }

    fn fail(&mut self, error: &ApiError) {
        self.ready.push_back(error.body().to_string());
        self.over = true;
    }
}
