//! The contact with the network: when it was reached in this start, and when not.
//!
//! Limits: the last [`OUTAGES_MAX`] outages.

use std::collections::VecDeque;

use node_types::Timestamp;

/// Outages that are remembered, the newest: older ones are in the log.
pub const OUTAGES_MAX: usize = 64;

/// A time without the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outage {
    /// When it began.
    pub from: Timestamp,
    /// When the network was reached again.
    pub to: Timestamp,
    /// Why the first attempt failed, or the connection ended.
    pub why: String,
}

/// The contact with the network in one start of the Agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contact {
    /// Whether the network is reached now.
    pub connected: bool,
    /// Since when it is, or is not.
    pub since: Timestamp,
    /// Why it is not; `None` while it is, and before the first attempt.
    pub why: Option<String>,
    /// Outages that are over, oldest first.
    pub outages: VecDeque<Outage>,
}

impl Contact {
    /// Of an Agent that starts now.
    #[must_use]
    pub const fn new(now: Timestamp) -> Self {
        Self { connected: false, since: now, why: None, outages: VecDeque::new() }
    }

    /// The network is reached.
    pub fn reached(&mut self, now: Timestamp) {
        if self.connected {
            return;
        }
        // Without a failed attempt it is the beginning, and no outage.
        if let Some(why) = self.why.take() {
            if self.outages.len() == OUTAGES_MAX {
                self.outages.pop_front();
            }
            self.outages.push_back(Outage { from: self.since, to: now, why });
        }
        (self.connected, self.since) = (true, now);
    }

    /// The network is not reached. An outage keeps the reason that it began with.
    pub fn lost(&mut self, now: Timestamp, why: String) {
        if self.connected {
            (self.connected, self.since) = (false, now);
        }
        self.why.get_or_insert(why);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(ms: u64) -> Timestamp {
        Timestamp::from_ms(ms)
    }

    #[test]
    fn an_outage_lasts_from_the_loss_to_the_next_contact() {
        let mut contact = Contact::new(at(1));
        contact.reached(at(2));
        assert!(contact.outages.is_empty(), "starting is no outage");
        contact.lost(at(5), "cut".to_owned());
        contact.lost(at(6), "refused".to_owned());
        assert_eq!((contact.connected, contact.since, contact.why.as_deref()), (false, at(5), Some("cut")));
        contact.reached(at(9));
        contact.reached(at(10));
        assert_eq!((contact.connected, contact.since, contact.why), (true, at(9), None));
        assert_eq!(contact.outages, [Outage { from: at(5), to: at(9), why: "cut".to_owned() }]);
    }

    #[test]
    fn a_network_that_is_not_there_at_the_start_is_an_outage() {
        let mut contact = Contact::new(at(1));
        contact.lost(at(2), "refused".to_owned());
        contact.reached(at(3));
        assert_eq!(contact.outages, [Outage { from: at(1), to: at(3), why: "refused".to_owned() }]);
    }

    #[test]
    fn the_newest_outages_are_remembered() {
        let mut contact = Contact::new(at(0));
        for number in 0..=OUTAGES_MAX as u64 {
            contact.lost(at(2 * number), String::new());
            contact.reached(at(2 * number + 1));
        }
        assert_eq!(contact.outages.len(), OUTAGES_MAX);
        assert_eq!(contact.outages.front().map(|outage| outage.from), Some(at(2)));
    }
}
