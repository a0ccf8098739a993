//! How the devnet misbehaves on command, so that a node can be tried against it.
//!
//! Faults of frames concern what the devnet sends after the welcome. What is on stays on until it is used up, its time
//! has passed, or `none` clears it; a restart clears all.

use node_types::Timestamp;
use serde::{Deserialize, Serialize};

/// A snapshot that a node must refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BadSnapshot {
    /// The next version, signed by another key under the right key's name.
    WrongKey,
    /// The version before the newest, as it was once published. There must have been one.
    LowerVersion,
    /// The next version, made for the other network and signed rightly.
    OtherNetwork,
    /// The newest version with other bytes, signed rightly.
    Equivocation,
    /// The next version, whose time has passed, signed rightly.
    Expired,
}

/// One way to misbehave. As JSON: `{"fault":"delay","ms":200}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// End all faults.
    None,
    /// Drop every connection now, without a word.
    Drop,
    /// Send every frame so many milliseconds later.
    Delay {
        /// Milliseconds; 0 ends it.
        ms: u64,
    },
    /// Send every frame twice.
    Duplicate,
    /// Send every second frame before the one that came before it.
    Reorder,
    /// Lose acknowledgements of jobs' ends: so many, or all for so long; neither ends it.
    LoseAcks {
        /// The next so many.
        #[serde(default)]
        count: u64,
        /// All in so many milliseconds.
        #[serde(default)]
        ms: u64,
    },
    /// Lose the answers to offers on their way here: so many, or all for so long; neither ends it.
    LoseAnswers {
        /// The next so many.
        #[serde(default)]
        count: u64,
        /// All in so many milliseconds.
        #[serde(default)]
        ms: u64,
    },
    /// Answer a node's next requests with 503; the opening of a session is one too.
    Refuse {
        /// How many.
        count: u64,
    },
    /// Be away: sessions end without a word, and nobody can connect, for so long. What clients of the OpenAI API
    /// wait for goes on.
    Away {
        /// Milliseconds.
        ms: u64,
    },
    /// Offer a bad snapshot until it is cleared, and tell the nodes.
    BadSnapshot {
        /// What is wrong with it.
        kind: BadSnapshot,
    },
    /// Send a frame over the limit on every session.
    Oversized,
    /// Send what is no frame on every session.
    Malformed,
    /// Offer a job of the other network on every session.
    OtherNetworkJob,
    /// Serve a model file as if it were one byte longer: so many times, or for so long.
    WrongSize {
        /// The next so many.
        #[serde(default)]
        count: u64,
        /// All in so many milliseconds.
        #[serde(default)]
        ms: u64,
    },
    /// Serve a model file without an end: zeros follow it.
    Endless {
        /// The next so many.
        #[serde(default)]
        count: u64,
        /// All in so many milliseconds.
        #[serde(default)]
        ms: u64,
    },
    /// Serve a model file at a few bytes a second.
    SlowDrip {
        /// The next so many.
        #[serde(default)]
        count: u64,
        /// All in so many milliseconds.
        #[serde(default)]
        ms: u64,
    },
    /// Serve a model file with a wrong byte in the middle of one of its pieces. Requests that do not reach that byte do
    /// not count.
    CorruptPiece {
        /// Which piece, from 0.
        piece: u64,
        /// The next so many.
        #[serde(default)]
        count: u64,
        /// All in so many milliseconds.
        #[serde(default)]
        ms: u64,
    },
    /// Let the connection die in the middle of a model file.
    CutShort {
        /// After so many bytes of the answer.
        bytes: u64,
        /// The next so many.
        #[serde(default)]
        count: u64,
        /// All in so many milliseconds.
        #[serde(default)]
        ms: u64,
    },
    /// Serve all of a model file whatever part of it is asked for.
    NoRanges {
        /// The next so many.
        #[serde(default)]
        count: u64,
        /// All in so many milliseconds.
        #[serde(default)]
        ms: u64,
    },
}

/// How long a fault lasts: so many times, or until a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Spell {
    /// Still so many times.
    pub count: u64,
    /// Every time until then.
    pub until: Option<Timestamp>,
}

impl Spell {
    /// So many times, or every time for `ms` milliseconds.
    #[must_use]
    pub fn new(count: u64, ms: u64, now: Timestamp) -> Self {
        Self { count, until: (ms > 0).then(|| now.plus_ms(ms)) }
    }

    /// Whether it is on this time.
    pub fn takes(&mut self, now: Timestamp) -> bool {
        if self.until.is_some_and(|until| now < until) {
            return true;
        }
        self.until = None;
        let on = self.count > 0;
        self.count = self.count.saturating_sub(1);
        on
    }
}

/// What is on where model files are served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FileFaults {
    /// One byte too many.
    pub wrong_size: Spell,
    /// No end.
    pub endless: Spell,
    /// A few bytes a second.
    pub slow_drip: Spell,
    /// A wrong byte,
    pub corrupt_piece: Spell,
    /// in this piece.
    pub piece: u64,
    /// The connection dies,
    pub cut_short: Spell,
    /// after so many bytes.
    pub cut_after: u64,
    /// Everything, whatever is asked for.
    pub no_ranges: Spell,
}

/// What is on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Faults {
    /// Milliseconds that every frame waits.
    pub delay_ms: u64,
    /// Whether every frame goes twice.
    pub duplicate: bool,
    /// Whether frames overtake one another.
    pub reorder: bool,
    /// Acknowledgements that get lost.
    pub lose_acks: Spell,
    /// Answers to offers that get lost.
    pub lose_answers: Spell,
    /// Requests still to be refused.
    pub refuse: u64,
    /// Nobody can connect until then.
    pub away_until: Option<Timestamp>,
    /// The bad snapshot that is offered.
    pub bad_snapshot: Option<BadSnapshot>,
    /// Where model files are served.
    pub files: FileFaults,
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_ms(1_000);

    #[test]
    fn a_spell_ends_by_its_count_or_by_its_time() {
        let mut spell = Spell::new(2, 0, NOW);
        assert_eq!([spell.takes(NOW), spell.takes(NOW), spell.takes(NOW)], [true, true, false]);
        let mut spell = Spell::new(0, 10, NOW);
        assert!(spell.takes(NOW) && spell.takes(NOW.plus_ms(9)));
        assert!(!spell.takes(NOW.plus_ms(10)));
    }

    #[test]
    fn faults_are_read_as_they_are_documented_and_unknown_ones_are_refused() {
        let read = |text: &str| serde_json::from_str::<Fault>(text);
        assert_eq!(read(r#"{"fault":"delay","ms":200}"#).unwrap(), Fault::Delay { ms: 200 });
        assert_eq!(read(r#"{"fault":"lose_acks","count":2}"#).unwrap(), Fault::LoseAcks { count: 2, ms: 0 });
        let bad = Fault::BadSnapshot { kind: BadSnapshot::WrongKey };
        assert_eq!(read(r#"{"fault":"bad_snapshot","kind":"wrong_key"}"#).unwrap(), bad);
        let corrupt = Fault::CorruptPiece { piece: 2, count: 1, ms: 0 };
        assert_eq!(read(r#"{"fault":"corrupt_piece","piece":2,"count":1}"#).unwrap(), corrupt);
        assert!(read(r#"{"fault":"corrupt_piece","count":1}"#).is_err());
        assert!(read(r#"{"fault":"explode"}"#).is_err());
        assert!(read(r#"{"fault":"delay","ms":1,"s":2}"#).is_err());
    }
}
