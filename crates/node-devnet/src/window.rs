//! Which numbers of a node's messages were seen: pure.
//!
//! The last [`REMEMBERED`] numbers up to the highest one are remembered, all below are refused. So memory is bounded,
//! and messages may arrive out of order because two transports carry them.
//!
//! A start takes each number once: where one comes a second time from the same start under something else, two processes
//! have the memory of that start, for example a virtual machine that was copied while it ran.

use std::collections::BTreeMap;

use node_types::{BootId, signature::Signature};

/// How many numbers, counted down from the highest, can still arrive.
pub const REMEMBERED: u64 = 10_000;

/// Who used a number, and for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Use {
    /// The start that signed.
    pub boot: BootId,
    /// The signature: of another message it is another one.
    pub signature: Signature,
}

/// What becomes of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It was never used.
    Taken,
    /// It was used before, or may have been.
    Replayed,
    /// The same start has used it for something else.
    Forked,
}

/// The numbers of one node that were seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// What each was used for; nothing where that is not known any more.
    seen: BTreeMap<u64, Option<Use>>,
}

impl Window {
    /// A window that has seen these.
    pub fn of(seen: impl IntoIterator<Item = u64>) -> Self {
        let mut window = Self::default();
        window.seen.extend(seen.into_iter().map(|seq| (seq, None)));
        window.forget();
        window
    }

    /// The lowest number that can still arrive.
    #[must_use]
    pub fn floor(&self) -> u64 {
        self.newest().map_or(0, |newest| newest.saturating_sub(REMEMBERED - 1))
    }

    /// The highest number seen.
    #[must_use]
    pub fn newest(&self) -> Option<u64> {
        self.seen.last_key_value().map(|(newest, _)| *newest)
    }

    /// Takes a number once.
    pub fn admit(&mut self, seq: u64, by: Use) -> Admission {
        match self.seen.get(&seq) {
            Some(Some(before)) if before.boot == by.boot && before.signature != by.signature => {
                Admission::Forked
            }
            Some(_) => Admission::Replayed,
            None if seq < self.floor() => Admission::Replayed,
            None => {
                self.seen.insert(seq, Some(by));
                self.forget();
                Admission::Taken
            }
        }
    }

    fn forget(&mut self) {
        let floor = self.floor();
        if self.seen.first_key_value().is_some_and(|(lowest, _)| *lowest < floor) {
            self.seen = self.seen.split_off(&floor);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    /// A message of a start.
    fn used(boot: u8, message: u8) -> Use {
        let mut signature = [1; 65];
        signature[31] = message;
        signature[64] = 27;
        let signature = Signature::from_slice(&signature).unwrap();
        Use { boot: BootId::from_bytes([boot; 16]), signature }
    }

    fn takes(window: &mut Window, seq: u64) -> bool {
        window.admit(seq, used(1, 1)) == Admission::Taken
    }

    #[test]
    fn a_number_is_taken_once_and_those_far_below_the_highest_never() {
        let mut window = Window::default();
        for (seq, taken) in [
            (0, true),
            (0, false),
            (REMEMBERED, true),
            (0, false),
            (1, true),
            (2 * REMEMBERED, true),
            (REMEMBERED, false),
            (REMEMBERED + 1, true),
            (u64::MAX, true),
            (u64::MAX, false),
        ] {
            assert_eq!(takes(&mut window, seq), taken, "{seq}");
        }
    }

    #[test]
    fn one_start_that_uses_a_number_for_two_messages_is_two() {
        let mut window = Window::of([7]);
        assert_eq!(window.admit(8, used(1, 1)), Admission::Taken);
        assert_eq!(window.admit(8, used(1, 1)), Admission::Replayed, "the same once more");
        assert_eq!(
            window.admit(8, used(2, 1)),
            Admission::Replayed,
            "another start's: an old copy of the volume"
        );
        assert_eq!(window.admit(8, used(1, 2)), Admission::Forked);
        assert_eq!(window.admit(7, used(1, 2)), Admission::Replayed, "nobody knows what it was used for");
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
                let admitted = takes(&mut window, seq);
                prop_assert_eq!(admitted, may);
                if admitted {
                    prop_assert!(taken.insert(seq));
                }
                prop_assert!(window.seen.keys().all(|seen| *seen >= window.floor()));
                let again = Window::of(window.seen.keys().copied());
                prop_assert!(again.seen.keys().eq(window.seen.keys()));
            }
        }
    }
}
