//! What a session decides: pure, so that it can be tried against a network that loses, repeats and reorders.
//!
//! It remembers nothing that must survive: after a reconnection everything unacknowledged is sent again, from the
//! store.

use std::collections::BTreeMap;

use node_store::jobs::{Expired, Outgoing};
use node_types::{
    JobId, Timestamp,
    job::Job,
    message::MessageKind,
    protocol::{self, ErrorCode, NetworkFrame, SnapshotRef},
};

/// How many ends may wait for their acknowledgement on one connection; further ones wait in the store. It is below
/// what one look at the outbox gives, so that a look always shows what was not sent yet.
pub const IN_FLIGHT_MAX: usize = 64;

/// The network does not keep to the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Misbehaviour {
    /// Something came before the welcome.
    #[error("{0} came before the welcome")]
    BeforeWelcome(&'static str),
    /// A second welcome.
    #[error("a second welcome came")]
    SecondWelcome,
    /// Another version of the protocol.
    #[error("the network speaks version {found} of the protocol, this node speaks {}", protocol::VERSION)]
    OtherVersion {
        /// Its version.
        found: u32,
    },
}

/// A job's end, to be sent until it is acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// An answer, or why there is none.
    Run(Outgoing),
    /// Its time ended first.
    Expired(Expired),
}

impl End {
    /// The job.
    #[must_use]
    pub const fn job(&self) -> JobId {
        match self {
            Self::Run(outgoing) => outgoing.job,
            Self::Expired(expired) => expired.job,
        }
    }

    /// The kind of message that says it.
    #[must_use]
    pub const fn kind(&self) -> MessageKind {
        match self {
            Self::Run(Outgoing { result: Ok(_), .. }) => MessageKind::Result,
            Self::Run(Outgoing { result: Err(_), .. }) => MessageKind::Failure,
            Self::Expired(_) => MessageKind::Expired,
        }
    }
}

/// What is to be done because of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The network greets: take its time, look for its snapshot, send what waits.
    Greeted {
        /// The network's time.
        now: Timestamp,
        /// Its newest snapshot.
        snapshot: Option<SnapshotRef>,
    },
    /// Offer the job to the store and answer.
    Accept(Box<Job>),
    /// The network has an end of this job: the store may forget it, then tell [`Machine::settled`].
    Settle(JobId),
    /// End the job without an answer.
    Cancel(JobId),
    /// Look for a snapshot.
    Fetch(SnapshotRef),
    /// Answer a ping.
    Pong(u64),
    /// Note that a message was not taken.
    Note {
        /// Its number.
        seq: u64,
        /// Why.
        code: ErrorCode,
        /// Why, in words.
        message: String,
        /// The network's time, if it said it.
        now: Option<Timestamp>,
    },
    /// Close, and come back not before so many milliseconds.
    Leave {
        /// Why, in words.
        reason: String,
        /// Milliseconds.
        retry_after_ms: u64,
    },
}

#[derive(Clone, Copy, Debug)]
struct InFlight {
    of: MessageKind,
    sent_at: Timestamp,
}

/// One connection.
#[derive(Debug)]
pub struct Machine {
    greeted: bool,
    resend_ms: u64,
    in_flight: BTreeMap<JobId, InFlight>,
}

impl Machine {
    /// A connection on which the hello was sent. Ends are sent again when no acknowledgement came for `resend_ms`.
    #[must_use]
    pub const fn new(resend_ms: u64) -> Self {
        Self { greeted: false, resend_ms, in_flight: BTreeMap::new() }
    }

    /// Whether the network has greeted: before that nothing is sent.
    #[must_use]
    pub const fn is_greeted(&self) -> bool {
        self.greeted
    }

    /// What a frame asks for.
    ///
    /// # Errors
    /// [`Misbehaviour`]: close the connection, and come back as after any other failure.
    pub fn received(&mut self, frame: NetworkFrame) -> Result<Action, Misbehaviour> {
        let early = |what| if self.greeted { Ok(()) } else { Err(Misbehaviour::BeforeWelcome(what)) };
        match frame {
            NetworkFrame::Welcome { protocol: found, .. } if found != protocol::VERSION => {
                Err(Misbehaviour::OtherVersion { found })
            }
            NetworkFrame::Welcome { .. } if self.greeted => Err(Misbehaviour::SecondWelcome),
            NetworkFrame::Welcome { now_ms, snapshot, .. } => {
                self.greeted = true;
                Ok(Action::Greeted { now: now_ms, snapshot })
            }
            NetworkFrame::Closing { reason, retry_after_ms } => Ok(Action::Leave { reason, retry_after_ms }),
            // The hello itself may be refused.
            NetworkFrame::Refused { seq, code, message, now_ms: now } => {
                Ok(Action::Note { seq, code, message, now })
            }
            NetworkFrame::Job { job } => early("a job").map(|()| Action::Accept(job)),
            NetworkFrame::Acknowledged { job, .. } => {
                early("an acknowledgement").map(|()| Action::Settle(job))
            }
            NetworkFrame::Cancel { job } => early("a cancellation").map(|()| Action::Cancel(job)),
            NetworkFrame::Snapshot(snapshot) => early("a snapshot").map(|()| Action::Fetch(snapshot)),
            NetworkFrame::Ping { nonce } => early("a ping").map(|()| Action::Pong(nonce)),
        }
    }

    /// Which of the ends that wait in the store are to be sent now; they count as sent.
    pub fn to_send(&mut self, waiting: Vec<End>, now: Timestamp) -> Vec<End> {
        if !self.greeted {
            return Vec::new();
        }
        let mut sent = Vec::new();
        for end in waiting {
            let held = self.in_flight.get(&end.job());
            // An answer may become an expiry while its acknowledgement is on the way.
            let due =
                held.is_none_or(|held| held.of != end.kind() || now.since_ms(held.sent_at) >= self.resend_ms);
            if due && (held.is_some() || self.in_flight.len() < IN_FLIGHT_MAX) {
                self.in_flight.insert(end.job(), InFlight { of: end.kind(), sent_at: now });
                sent.push(end);
            }
        }
        sent
    }

    /// The store has forgotten the job, or never knew it: there is room for another end. Says which end of it was sent on
    /// this connection.
    pub fn settled(&mut self, job: JobId) -> Option<MessageKind> {
        self.in_flight.remove(&job).map(|sent| sent.of)
    }

    /// How many ends wait for their acknowledgement.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }
}

#[cfg(test)]
mod tests {
    use node_types::{
        job::{Failure, FailureKind},
        trace::Standing,
    };

    use super::*;

    const NOW: Timestamp = Timestamp::from_ms(1_000);

    fn job(number: u8) -> JobId {
        format!("00000000-0000-0000-0000-0000000000{number:02x}").parse().unwrap()
    }

    fn failed(number: u8) -> End {
        let result = Err(Failure::new(FailureKind::Runtime, "it said no"));
        End::Run(Outgoing { seq: number.into(), job: job(number), result })
    }

    fn welcome() -> NetworkFrame {
        NetworkFrame::Welcome { protocol: protocol::VERSION, now_ms: NOW, snapshot: None }
    }

    fn greeted() -> Machine {
        let mut machine = Machine::new(100);
        machine.received(welcome()).unwrap();
        machine
    }

    #[test]
    fn nothing_but_a_welcome_or_a_refusal_comes_first_and_nothing_is_sent_before_it() {
        let mut machine = Machine::new(100);
        assert_eq!(machine.to_send(vec![failed(1)], NOW), []);
        let early = [
            NetworkFrame::Acknowledged { job: job(1), of: MessageKind::Result },
            NetworkFrame::Cancel { job: job(1) },
            NetworkFrame::Ping { nonce: 1 },
        ];
        for frame in early {
            assert!(matches!(machine.received(frame), Err(Misbehaviour::BeforeWelcome(_))));
        }
        let other = NetworkFrame::Welcome { protocol: 2, now_ms: NOW, snapshot: None };
        assert_eq!(machine.received(other), Err(Misbehaviour::OtherVersion { found: 2 }));
        assert!(machine.received(welcome()).is_ok());
        assert_eq!(machine.received(welcome()), Err(Misbehaviour::SecondWelcome));
    }

    #[test]
    fn an_end_is_sent_once_until_its_time_to_be_sent_again_comes_or_it_changes() {
        let mut machine = greeted();
        assert_eq!(machine.to_send(vec![failed(1)], NOW).len(), 1);
        assert_eq!(machine.to_send(vec![failed(1)], NOW.plus_ms(99)).len(), 0);
        assert_eq!(machine.to_send(vec![failed(1)], NOW.plus_ms(100)).len(), 1);
        let expired = End::Expired(Expired { job: job(1), state: Standing::Failed, at: NOW });
        assert_eq!(machine.to_send(vec![expired], NOW.plus_ms(101)).len(), 1);
    }

    #[test]
    fn so_many_ends_and_no_more_are_on_the_way() {
        let mut machine = greeted();
        let all: Vec<_> = (0..100).map(failed).collect();
        assert_eq!(machine.to_send(all.clone(), NOW).len(), IN_FLIGHT_MAX);
        assert_eq!(machine.to_send(all.clone(), NOW).len(), 0);
        machine.settled(job(3));
        assert_eq!(machine.to_send(all, NOW).len(), 1);
    }
}
