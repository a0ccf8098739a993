//! What goes when the limit of `logs.db` is reached: a pure decision.

use std::collections::BTreeMap;

use node_types::log::Level;

/// What `logs.db` holds, in bytes: of each sort at least what is to go, or all there is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Records that a batch holds too.
    pub in_batch: u64,
    /// Records that are in no batch yet.
    pub by_level: BTreeMap<Level, u64>,
    /// Payloads of batches that nobody acknowledged.
    pub payloads: u64,
}

/// A sort of what can go, the oldest of it first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Records that a batch holds too: nothing is lost.
    InBatch,
    /// Records of a level that are in no batch: lost, and counted.
    Level(Level),
    /// Payloads of batches: the records in them are lost, and counted; the headers stay.
    Payloads,
}

/// One thing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drop {
    /// Of which sort.
    pub which: Which,
    /// The oldest, until about so many bytes have gone.
    pub bytes: u64,
}

/// Bytes that must go where `used` bytes are in use: none up to seven eighths of the limit, beyond them
/// all over three quarters, so that it is not asked at every record.
#[must_use]
pub const fn over(used: u64, bytes_max: u64) -> u64 {
    if used > bytes_max / 8 * 7 { excess(used, bytes_max) } else { 0 }
}

/// Bytes over three quarters of the limit.
#[must_use]
pub const fn excess(used: u64, bytes_max: u64) -> u64 {
    used.saturating_sub(bytes_max / 4 * 3)
}

/// What goes so that about `bytes` are free: first what a batch holds too, then the lowest level, then
/// payloads.
#[must_use]
pub fn plan(held: &Held, mut bytes: u64) -> Vec<Drop> {
    let levels = held.by_level.iter().map(|(level, bytes)| (Which::Level(*level), *bytes));
    let order = std::iter::once((Which::InBatch, held.in_batch))
        .chain(levels)
        .chain(std::iter::once((Which::Payloads, held.payloads)));
    let mut drops = Vec::new();
    for (which, there) in order {
        let taken = there.min(bytes);
        if taken > 0 {
            drops.push(Drop { which, bytes: taken });
            bytes -= taken;
        }
    }
    drops
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held() -> Held {
        let by_level = [(Level::Error, 50), (Level::Debug, 30), (Level::Info, 0)].into();
        Held { in_batch: 20, by_level, payloads: 40 }
    }

    const fn drop(which: Which, bytes: u64) -> Drop {
        Drop { which, bytes }
    }

    #[test]
    fn what_a_batch_holds_goes_first_then_the_lowest_level_then_payloads() {
        use Which::{InBatch, Payloads};
        let (debug, error) = (Which::Level(Level::Debug), Which::Level(Level::Error));
        assert_eq!(plan(&held(), 0), []);
        assert_eq!(plan(&held(), 20), [drop(InBatch, 20)]);
        assert_eq!(plan(&held(), 21), [drop(InBatch, 20), drop(debug, 1)]);
        assert_eq!(plan(&held(), 51), [drop(InBatch, 20), drop(debug, 30), drop(error, 1)]);
        let all = [drop(InBatch, 20), drop(debug, 30), drop(error, 50), drop(Payloads, 40)];
        assert_eq!(plan(&held(), u64::MAX), all);
    }

    #[test]
    fn nothing_goes_up_to_seven_eighths_and_a_byte_more_brings_it_down_to_three_quarters() {
        assert_eq!(over(700, 800), 0);
        assert_eq!(over(701, 800), 101);
        assert_eq!(excess(600, 800), 0);
    }
}
