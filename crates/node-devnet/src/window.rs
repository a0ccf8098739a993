//! Which numbers of a node's messages were seen: pure.
//!
//! The last [`REMEMBERED`] numbers up to the highest one are remembered, all below are refused. So memory is bounded,
//! and messages may arrive out of order because two transports carry them.

use std::collections::BTreeSet;

/// How many numbers, counted down from the highest, can still arrive.
pub const REMEMBERED: u64 = 10_000;

/// The numbers of one node that were seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Window {
    seen: BTreeSet<u64>,
}

impl Window {
    /// A window that has seen these.
    pub fn of(seen: impl IntoIterator<Item = u64>) -> Self {
        let mut window = Self::default();
        window.seen.extend(seen);
        window.forget();
        window
    }

    /// The lowest number that can still arrive.
    #[must_use]
    pub fn floor(&self) -> u64 {
        self.seen.last().map_or(0, |newest| newest.saturating_sub(REMEMBERED - 1))
    }

    /// The highest number seen.
    #[must_use]
    pub fn newest(&self) -> Option<u64> {
        self.seen.last().copied()
    }

    /// Takes a number once. `false` for one that was seen, or may have been.
    pub fn admit(&mut self, seq: u64) -> bool {
        let admitted = seq >= self.floor() && self.seen.insert(seq);
        self.forget();
        admitted
    }

    fn forget(&mut self) {
        let floor = self.floor();
        if self.seen.first().is_some_and(|lowest| *lowest < floor) {
            self.seen = self.seen.split_off(&floor);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_number_is_taken_once_and_those_far_below_the_highest_never() {
        let mut window = Window::default();
        assert!(window.admit(0));
        assert!(!window.admit(0));
        assert!(window.admit(REMEMBERED));
        assert!(!window.admit(0));
        assert!(window.admit(1));
        assert!(window.admit(2 * REMEMBERED));
        assert!(!window.admit(REMEMBERED));
        assert!(window.admit(REMEMBERED + 1));
        assert!(window.admit(u64::MAX));
        assert!(!window.admit(u64::MAX));
    }

    proptest! {
        /// Given any numbers in any order; then none is taken twice, memory is bounded, and one that is above the
        /// floor and new is taken.
        #[test]
        fn no_number_is_ever_taken_twice(numbers in prop::collection::vec(0..40_000_u64, 0..400)) {
            let mut window = Window::default();
            let mut taken = HashSet::new();
            for seq in numbers {
                let may = seq >= window.floor() && !taken.contains(&seq);
                let admitted = window.admit(seq);
                prop_assert_eq!(admitted, may);
                if admitted {
                    prop_assert!(taken.insert(seq));
                }
                prop_assert!(window.seen.iter().all(|seen| *seen >= window.floor()));
                prop_assert_eq!(Window::of(window.seen.iter().copied()), window.clone());
            }
        }
    }
}
