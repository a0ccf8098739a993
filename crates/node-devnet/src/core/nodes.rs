//! What nodes say: whether it counts, and what it changes.

use std::{io::Read as _, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use node_types::{
    Address, Digest, NodeId, Timestamp,
    log::{BatchHeader, Record},
    message::MessageKind,
    protocol::{
        self, Accept, Account, Acknowledged, Chunk, Claimed, Claims, ConfigReport, ErrorCode, ExpiredJob,
        FailedJob, Heartbeat, Hello, INQUIRY_JOBS_MAX, Inquiry, LogBatch, NetworkFrame, NetworkTime, Payload,
        Pong, Register, Registered, ResultOfJob, Signed, TraceBatch,
    },
};
use tokio::sync::{Notify, mpsc};

use super::{Core, Out, Session, Trouble};
use crate::{
    assign::Peer,
    db::{BatchRow, Boot, End, Link},
    gate::{self, Refusal},
    window::{Admission, Use, Window},
};

/// The largest batch of log records once it is unpacked: 64 MiB.
const RECORDS_BYTES_MAX: u64 = 64 << 20;

/// A session that was greeted.
pub(crate) struct Greeted {
    pub(crate) node: NodeId,
    pub(crate) number: u64,
    pub(crate) welcome: NetworkFrame,
    /// For what the session itself says.
    pub(crate) replies: mpsc::UnboundedSender<Out>,
    pub(crate) out: mpsc::UnboundedReceiver<Out>,
    pub(crate) cut: Arc<Notify>,
}

/// Whether a session goes on after a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// It does.
    On,
    /// The node has said goodbye.
    Left,
}

impl Core {
    /// All checks of a message, in their order. What counts is counted.
    fn admit(&mut self, signed: &Signed, now: Timestamp) -> Result<Address, Trouble> {
        let message = &signed.message;
        let (node, seq) = (message.node, message.seq);
        let registered = self.db.is_registered(&node)?;
        let address = gate::check(signed, &self.domain(), |_| registered, now)?;
        let boot = self.db.boot(&node, &message.boot_id)?;
        // One that does not live any more was let go before: see `rivals`. Asked before the number is looked at: a copy
        // uses the same numbers, and must not use up those of the node.
        if boot == Boot::New
            && let Some(rival) = self.rival(message)
        {
            let text = self.already_running(&node, &rival)?;
            return Err(Refusal::new(ErrorCode::AlreadyRunning, seq, text).into());
        }
        if !self.windows.contains_key(&node) {
            let window = Window::of(self.db.seqs(&node)?);
            self.windows.insert(node, window);
        }
        let window = self.windows.entry(node).or_default();
        match window.admit(seq, Use { boot: message.boot_id, signature: signed.signature }) {
            Admission::Taken => {}
            Admission::Replayed => {
                let text = format!("number {seq} of {node} was used before: sign again under a new one");
                return Err(Refusal::new(ErrorCode::Replayed, seq, text).into());
            }
            // Whoever used it first goes on. The session is the other's as likely as this one's, so nobody is asked.
            Admission::Forked => {
                tracing::warn!(%node, boot = %message.boot_id, "a number comes twice from one start of a node: is its machine a copy?");
                let text = format!(
                    "number {seq} of {node} was used for another message by the same start {}: its memory was copied while it ran",
                    message.boot_id
                );
                return Err(Refusal::new(ErrorCode::AlreadyRunning, seq, text).into());
            }
        }
        self.db.add_seq(&node, seq, window.floor())?;
        match boot {
            Boot::Latest => {}
            // It begins with the registration, if that is taken.
            Boot::New if !registered => {}
            Boot::New => {
                self.db.begin_boot(&node, &message.boot_id, now)?;
            }
            Boot::Earlier => {
                tracing::warn!(%node, boot = %message.boot_id, "an earlier start of a node speaks: is it a copy?");
                let text =
                    format!("a later start of {node} was seen than {}: stop the copy", message.boot_id);
                return Err(Refusal::new(ErrorCode::Superseded, seq, text).into());
            }
        }
        self.db.count("message", message.kind.name())?;
        Ok(address)
    }

    /// A node registers.
    pub(crate) fn register(&mut self, signed: &Signed, now: Timestamp) -> Result<Registered, Trouble> {
        let address = self.admit(signed, now)?;
        let register: Register = read(signed)?;
        speaks(register.protocol, signed)?;
        let refused = |code, text: String| Trouble::from(Refusal::new(code, signed.message.seq, text));
        if register.network != self.network {
            let text = format!("this is {}, not {}", self.network, register.network);
            return Err(refused(ErrorCode::OtherNetwork, text));
        }
        if register.address != address {
            let text =
                format!("{} says that it is {}, {address} signed", signed.message.node, register.address);
            return Err(refused(ErrorCode::BadSignature, text));
        }
        let node = signed.message.node;
        self.db.register(&node, &address, &register.agent, now)?;
        if self.db.boot(&node, &signed.message.boot_id)? == Boot::New {
            self.db.begin_boot(&node, &signed.message.boot_id, now)?;
        }
        if !self.peers.connected.contains_key(&node) {
            self.peers.gone.entry(node).or_insert(now);
        }
        Ok(Registered { node, now_ms: now })
    }

    /// A node is there.
    pub(crate) fn heartbeat(&mut self, signed: &Signed, now: Timestamp) -> Result<NetworkTime, Trouble> {
        self.admit(signed, now)?;
        let _: Heartbeat = read(signed)?;
        self.db.set_heartbeat(&signed.message.node, &signed.payload, now)?;
        Ok(NetworkTime { now_ms: now, snapshot: Some(self.offered().reference()) })
    }

    /// A batch of log records.
    pub(crate) fn log_batch(&mut self, signed: &Signed, now: Timestamp) -> Result<Acknowledged, Trouble> {
        self.admit(signed, now)?;
        let batch: LogBatch = read(signed)?;
        let (node, seq) = (signed.message.node, signed.message.seq);
        let malformed = |why: &str| Trouble::from(Refusal::new(ErrorCode::Malformed, seq, why));
        let header: BatchHeader = serde_json::from_str(&batch.header)
            .map_err(|error| malformed(&format!("the batch's header cannot be read: {error}")))?;
        let records = unpack(&header, batch.records.as_deref()).map_err(malformed)?;
        let last = self.db.last_batch(&node, &header.chain)?;
        let held = self.db.batch_header(&node, &header.chain, header.seq)?;
        if let Err(why) = follows(&header, &batch.header, last, held.as_deref()) {
            return Err(Refusal::new(ErrorCode::BrokenChain, seq, why).into());
        }
        let row = BatchRow {
            chain: &header.chain,
            seq: header.seq,
            header: &batch.header,
            records: records.as_deref(),
        };
        self.db.add_batch(&node, &row, now)?;
        Ok(Acknowledged { count: header.seq })
    }

    /// Traces of jobs.
    pub(crate) fn trace_batch(&mut self, signed: &Signed, now: Timestamp) -> Result<Acknowledged, Trouble> {
        self.admit(signed, now)?;
        let batch: TraceBatch = read(signed)?;
        for trace in &batch.traces {
            self.db.add_trace(&signed.message.node, trace, now)?;
        }
        Ok(Acknowledged { count: u64::try_from(batch.traces.len()).unwrap_or(u64::MAX) })
    }

    /// What became of a snapshot.
    pub(crate) fn config_report(&mut self, signed: &Signed, now: Timestamp) -> Result<Acknowledged, Trouble> {
        self.admit(signed, now)?;
        let _: ConfigReport = read(signed)?;
        self.db.add_report(&signed.message.node, &signed.payload, now)?;
        Ok(Acknowledged { count: 1 })
    }

    /// The account that a node works for.
    pub(crate) fn account(&mut self, signed: &Signed, now: Timestamp) -> Result<Acknowledged, Trouble> {
        self.admit(signed, now)?;
        let account: Account = read(signed)?;
        self.db.set_account(&signed.message.node, account.account.as_deref(), now)?;
        Ok(Acknowledged { count: 1 })
    }

    /// A restored node asks what became of its jobs.
    pub(crate) fn inquiry(&mut self, signed: &Signed, now: Timestamp) -> Result<Claims, Trouble> {
        self.admit(signed, now)?;
        let Inquiry { jobs, all } = read(signed)?;
        let node = signed.message.node;
        if jobs.len() > INQUIRY_JOBS_MAX {
            let text = format!("{} jobs are asked about, at most {INQUIRY_JOBS_MAX} may be", jobs.len());
            return Err(Refusal::new(ErrorCode::TooLarge, signed.message.seq, text).into());
        }
        let claims = jobs.iter().map(|job| Ok(Claimed { job: *job, claim: self.claim(job, &node)? }));
        let claims = claims.collect::<Result<Vec<_>, Trouble>>()?;
        if all {
            self.give_back(node, &jobs.into_iter().collect(), now)?;
        }
        let snapshot = Some(self.offered().reference());
        Ok(Claims { now_ms: now, snapshot, jobs: claims })
    }

    /// The first message on a connection.
    pub(crate) fn greet(&mut self, signed: &Signed, now: Timestamp) -> Result<Greeted, Trouble> {
        if self.is_away(now) {
            let text = "the network is away on command";
            return Err(Refusal::new(ErrorCode::Unavailable, signed.message.seq, text).into());
        }
        self.admit(signed, now)?;
        let hello: Hello = read(signed)?;
        speaks(hello.protocol, signed)?;
        let node = signed.message.node;
        let (sender, out) = mpsc::unbounded_channel();
        self.sessions_opened += 1;
        let number = self.sessions_opened;
        let (replies, cut) = (sender.clone(), Arc::new(Notify::new()));
        let session = Session { number, boot: signed.message.boot_id, out: sender, cut: Arc::clone(&cut) };
        if let Some(before) = self.sessions.insert(node, session) {
            // The one before ends as soon as it is asked; if it has ended already, all the better.
            let _ = before.out.send(Out::Close(self.closing("this node has connected again")));
        }
        self.connect(node, hello);
        let snapshot = Some(self.offered().reference());
        let welcome = NetworkFrame::Welcome { protocol: protocol::VERSION, now_ms: now, snapshot };
        Ok(Greeted { node, number, welcome, replies, out, cut })
    }

    fn connect(&mut self, node: NodeId, hello: Hello) {
        self.peers.gone.remove(&node);
        let peer = Peer { concurrency: hello.concurrency, models: hello.models };
        if self.peers.connected.insert(node, peer).is_some() {
            return;
        }
        for it in self.open.values_mut().filter(|it| it.place.node() == Some(node)) {
            // What was not wanted any more may not have reached it.
            it.cancelled = it.cancelled.map(|_| Timestamp::EPOCH);
        }
    }

    /// A connection has ended.
    pub(crate) fn disconnect(&mut self, node: NodeId, number: u64, now: Timestamp) {
        if self.sessions.get(&node).is_some_and(|session| session.number == number) {
            self.sessions.remove(&node);
            // Whoever waits for its answer waits no more.
            self.challenges.remove(&node);
            self.peers.connected.remove(&node);
            self.peers.gone.insert(node, now);
        }
    }

    /// A message on a session.
    pub(crate) fn receive(&mut self, from: NodeId, signed: &Signed, now: Timestamp) -> Result<Flow, Trouble> {
        if signed.message.kind == MessageKind::Accept && self.faults.lose_answers.takes(now) {
            return Ok(Flow::On);
        }
        self.admit(signed, now)?;
        let message = &signed.message;
        if message.node != from {
            return Err(out_of_turn(signed, &format!("this session is {from}'s")));
        }
        match message.kind {
            MessageKind::Hello => {
                let hello: Hello = read(signed)?;
                speaks(hello.protocol, signed)?;
                self.connect(from, hello);
            }
            MessageKind::Accept => self.accepted(message, &read::<Accept>(signed)?, now)?,
            MessageKind::Chunk => self.streamed(message, read::<Chunk>(signed)?, now)?,
            MessageKind::Result => {
                let ResultOfJob { job, output } = read(signed)?;
                self.ended(message, job, &End::Result(output), now)?;
            }
            MessageKind::Failure => {
                let FailedJob { job, failure } = read(signed)?;
                self.ended(message, job, &End::Failure(failure), now)?;
            }
            MessageKind::Expired => {
                let ExpiredJob { job, standing, at: _ } = read(signed)?;
                self.ended(message, job, &End::Expired(Some(standing)), now)?;
            }
            MessageKind::Pong => {
                let Pong { nonce } = read(signed)?;
                self.lives(from, nonce);
                self.pongs.insert(from, (nonce, now));
            }
            MessageKind::Leaving => return Ok(Flow::Left),
            MessageKind::Register
            | MessageKind::Heartbeat
            | MessageKind::LogBatch
            | MessageKind::TraceBatch
            | MessageKind::ConfigReport
            | MessageKind::AccountLink
            | MessageKind::Inquiry => {
                return Err(out_of_turn(
                    signed,
                    &format!("{} is posted, not sent on a session", message.kind),
                ));
            }
        }
        Ok(Flow::On)
    }
}

fn read<T: Payload>(signed: &Signed) -> Result<T, Refusal> {
    let refused = |error: protocol::BadMessage| {
        Refusal::new(ErrorCode::Malformed, signed.message.seq, error.to_string())
    };
    signed.read().map_err(refused)
}

fn speaks(version: u32, signed: &Signed) -> Result<(), Refusal> {
    if version == protocol::VERSION {
        return Ok(());
    }
    let text = format!("this network speaks version {} of the protocol, not {version}", protocol::VERSION);
    Err(Refusal::new(ErrorCode::Unsupported, signed.message.seq, text))
}

fn out_of_turn(signed: &Signed, why: &str) -> Trouble {
    Refusal::new(ErrorCode::Malformed, signed.message.seq, format!("out of turn: {why}")).into()
}

/// The records of a batch, one JSON object a line.
fn unpack(header: &BatchHeader, records: Option<&str>) -> Result<Option<String>, &'static str> {
    let Some(packed) = records else { return Ok(None) };
    let bytes = STANDARD.decode(packed).map_err(|_| "the records are not base64")?;
    if Digest::of(&bytes) != header.payload {
        return Err("the records are not those that the header names");
    }
    let unreadable = |_| "the records are not Zstandard";
    let decoder = zstd::Decoder::new(bytes.as_slice()).map_err(unreadable)?;
    let mut lines = Vec::new();
    decoder.take(RECORDS_BYTES_MAX + 1).read_to_end(&mut lines).map_err(unreadable)?;
    if u64::try_from(lines.len()).unwrap_or(u64::MAX) > RECORDS_BYTES_MAX {
        return Err("the records are more than 64 MiB");
    }
    let lines = String::from_utf8(lines).map_err(|_| "the records are not UTF-8")?;
    if lines.lines().any(|line| serde_json::from_str::<Record>(line).is_err()) {
        return Err("a line of the records is no record");
    }
    Ok(Some(lines))
}

/// Whether a batch follows the last one of its chain, or is one that was there.
fn follows(header: &BatchHeader, text: &str, last: Option<Link>, held: Option<&str>) -> Result<(), String> {
    if let Some(held) = held {
        return if held == text {
            Ok(())
        } else {
            Err(format!("batch {} of chain {} was another one before", header.seq, header.chain))
        };
    }
    let (seq, prev) = last.map_or((0, Digest::from_bytes([0; 32])), |last| (last.seq, last.digest));
    if header.seq == seq + 1 && header.prev == prev {
        return Ok(());
    }
    Err(format!("batch {} does not follow batch {seq}, the last one of chain {}", header.seq, header.chain))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn header(seq: u64, prev: Digest) -> (BatchHeader, String) {
        let header = BatchHeader {
            chain: "c".into(),
            seq,
            prev,
            records: BTreeMap::new(),
            lost: BTreeMap::new(),
            payload: Digest::of(b""),
        };
        let text = serde_json::to_string(&header).unwrap();
        (header, text)
    }

    #[test]
    fn a_batch_follows_the_last_one_or_is_the_same_again() {
        let zero = Digest::from_bytes([0; 32]);
        let (first, first_text) = header(1, zero);
        assert_eq!(follows(&first, &first_text, None, None), Ok(()));
        let last = Some(Link { seq: 1, digest: Digest::of(first_text.as_bytes()) });
        assert_eq!(follows(&first, &first_text, last, Some(&first_text)), Ok(()));
        assert!(follows(&first, &first_text, last, Some("other")).is_err());
        let (second, second_text) = header(2, Digest::of(first_text.as_bytes()));
        assert_eq!(follows(&second, &second_text, last, None), Ok(()));
        assert!(follows(&second, &second_text, None, None).is_err(), "a gap");
        let (forged, forged_text) = header(2, zero);
        assert!(follows(&forged, &forged_text, last, None).is_err(), "another one before it");
    }
}
