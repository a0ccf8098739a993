//! Faults, switched on and off.

use std::ops::Range;

use node_types::{
    JobId, NodeId, Timestamp, config::PIECE_BYTES, job::Job, job::Mode, job::ModelRef, job::Request, protocol,
};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Control, Core, Out, Shared, Trouble, encode};
use crate::{
    clock, documents,
    faults::{Fault, Faults, Spell},
    models::Mischief,
};

impl Shared {
    /// Switches a fault on, or does it. Says what was done.
    pub(crate) fn fault(&self, fault: Fault) -> Result<Value, Trouble> {
        let answer = self.with(|core, now| core.fault(fault, now))?;
        match fault {
            Fault::Away { ms } => self.control(Control::Away(ms)),
            Fault::None => self.control(Control::Back),
            Fault::Drop
            | Fault::Delay { .. }
            | Fault::Duplicate
            | Fault::Reorder
            | Fault::LoseAcks { .. }
            | Fault::LoseAnswers { .. }
            | Fault::Refuse { .. }
            | Fault::BadSnapshot { .. }
            | Fault::Oversized
            | Fault::Malformed
            | Fault::OtherNetworkJob
            | Fault::WrongSize { .. }
            | Fault::Endless { .. }
            | Fault::SlowDrip { .. }
            | Fault::CorruptPiece { .. }
            | Fault::CutShort { .. }
            | Fault::NoRanges { .. } => {}
        }
        Ok(answer)
    }

    /// Whether this request of a node is refused on command.
    pub(crate) fn refuses(&self) -> bool {
        let mut held = self.lock();
        let Some(core) = held.as_mut() else { return true };
        let refused = core.faults.refuse > 0 || core.is_away(clock::now());
        core.faults.refuse = core.faults.refuse.saturating_sub(1);
        refused
    }

    /// What goes wrong on command where `wanted` of a model file of `bytes` bytes is served. Nothing is served once the
    /// network is closed.
    pub(crate) fn mischief(&self, wanted: &Range<u64>, bytes: u64) -> Option<Mischief> {
        let mut held = self.lock();
        let (faults, now) = (&mut held.as_mut()?.faults.files, clock::now());
        let no_ranges = faults.no_ranges.takes(now);
        let served = if no_ranges { 0..bytes } else { wanted.clone() };
        let first = faults.piece.saturating_mul(PIECE_BYTES);
        let middle = first.saturating_add(bytes.saturating_sub(first).min(PIECE_BYTES) / 2);
        let corrupt = served.contains(&middle) && faults.corrupt_piece.takes(now);
        Some(Mischief {
            no_ranges,
            wrong_size: faults.wrong_size.takes(now),
            endless: faults.endless.takes(now),
            slow_drip: faults.slow_drip.takes(now),
            corrupt: corrupt.then_some(middle),
            cut: faults.cut_short.takes(now).then_some(faults.cut_after),
        })
    }

    /// The devnet is back.
    pub(crate) fn is_back(&self) {
        if let Some(core) = self.lock().as_mut() {
            core.faults.away_until = None;
        }
    }
}

impl Core {
    /// Whether it is away on command. The listener closes a moment later, and who comes in between is refused.
    pub(super) fn is_away(&self, now: Timestamp) -> bool {
        self.faults.away_until.is_some_and(|until| now < until)
    }

    fn fault(&mut self, fault: Fault, now: Timestamp) -> Result<Value, Trouble> {
        let mut job = None;
        match fault {
            Fault::None => {
                self.set_bad_snapshot(None, now)?;
                self.faults = Faults::default();
            }
            Fault::Drop => self.cut_all(),
            Fault::Delay { ms } => self.faults.delay_ms = ms,
            Fault::Duplicate => self.faults.duplicate = true,
            Fault::Reorder => self.faults.reorder = true,
            Fault::LoseAcks { count, ms } => self.faults.lose_acks = Spell::new(count, ms, now),
            Fault::LoseAnswers { count, ms } => self.faults.lose_answers = Spell::new(count, ms, now),
            Fault::Refuse { count } => self.faults.refuse = count,
            Fault::Away { ms } => {
                self.faults.away_until = Some(now.plus_ms(ms));
                self.cut_all();
            }
            Fault::BadSnapshot { kind } => self.set_bad_snapshot(Some(kind), now)?,
            Fault::Oversized => {
                let text = "x".repeat(protocol::NETWORK_FRAME_BYTES_MAX + 1);
                self.send_all(|| Out::Raw(text.clone()));
            }
            Fault::Malformed => self.send_all(|| Out::Raw("{\"type\":\"nonsense\"".to_owned())),
            Fault::OtherNetworkJob => {
                let stray = self.stray_job(now)?;
                job = Some(stray.id);
                let text = encode(&protocol::NetworkFrame::Job { job: Box::new(stray) });
                self.send_all(|| Out::Frame(text.clone(), Instant::now()));
            }
            Fault::WrongSize { count, ms } => self.faults.files.wrong_size = Spell::new(count, ms, now),
            Fault::Endless { count, ms } => self.faults.files.endless = Spell::new(count, ms, now),
            Fault::SlowDrip { count, ms } => self.faults.files.slow_drip = Spell::new(count, ms, now),
            Fault::CorruptPiece { piece, count, ms } => {
                self.faults.files.piece = piece;
                self.faults.files.corrupt_piece = Spell::new(count, ms, now);
            }
            Fault::CutShort { bytes, count, ms } => {
                self.faults.files.cut_after = bytes;
                self.faults.files.cut_short = Spell::new(count, ms, now);
            }
            Fault::NoRanges { count, ms } => self.faults.files.no_ranges = Spell::new(count, ms, now),
        }
        let nodes: Vec<NodeId> = self.sessions.keys().copied().collect();
        Ok(json!({ "faults": self.faults, "nodes": nodes, "job": job }))
    }

    fn cut_all(&self) {
        for session in self.sessions.values() {
            session.cut.notify_one();
        }
    }

    fn send_all(&self, what: impl Fn() -> Out) {
        for session in self.sessions.values() {
            // One that has just ended is as gone as it should be.
            let _ = session.out.send(what());
        }
    }

    /// A job of the other network, which no node may take.
    fn stray_job(&self, now: Timestamp) -> Result<Job, Trouble> {
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(|error| Trouble::Impossible(error.to_string()))?;
        let none = ModelRef { name: "none".to_owned(), version: "0".to_owned() };
        let model = self.published.config.models.first().map_or(none, node_types::config::Model::reference);
        let request =
            Request::parse(br#"{"messages":[]}"#).map_err(|error| Trouble::Impossible(error.to_string()))?;
        Ok(Job {
            id: JobId::from_bytes(id),
            network: documents::other(self.network),
            model,
            mode: Mode::Chat,
            request,
            priority: 0,
            max_tokens: 1,
            expires_at: now.plus_ms(60_000),
            attempts_max: 1,
        })
    }
}
