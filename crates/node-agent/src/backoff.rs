//! Waiting between attempts: doubled each time, with a random part, so that many nodes do not come at once.

use std::time::Duration;

/// The wait before attempt `failures` + 1, where `failures` attempts in a row have failed: `min_ms` doubled for each
/// after the first, at most `max_ms`, and of that between a half and all, as `random` (any number) says.
#[must_use]
pub fn wait(failures: u32, min_ms: u64, max_ms: u64, random: u64) -> Duration {
    let doubled = min_ms.saturating_mul(1_u64.checked_shl(failures.saturating_sub(1)).unwrap_or(u64::MAX));
    let whole = doubled.min(max_ms).max(1);
    Duration::from_millis(whole - random % (whole / 2 + 1))
}

/// A number nobody can foresee; 0 where the system gives none, which only makes the wait longer.
#[must_use]
pub fn random() -> u64 {
    getrandom::u64().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_are_between_half_and_all_of_it() {
        let ms = |failures, random| wait(failures, 100, 1000, random).as_millis();
        assert_eq!([1, 2, 3, 4, 5].map(|failures| ms(failures, 0)), [100, 200, 400, 800, 1000]);
        assert_eq!(ms(u32::MAX, 0), 1000);
        assert_eq!(ms(1, 50), 50);
        assert_eq!(ms(1, 51), 100);
        for random in 0..2000 {
            assert!((500..=1000).contains(&ms(9, random)), "{random}");
        }
    }
}
