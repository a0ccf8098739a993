//! Moments as a person writes them: `2h`, `1d12h` (that long ago) or RFC 3339.

use node_types::Timestamp;

/// A moment as it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// So many milliseconds before now.
    Ago(u64),
    /// A point in time.
    At(Timestamp),
}

impl When {
    /// The moment, seen from `now`.
    pub(crate) const fn seen_from(self, now: Timestamp) -> Timestamp {
        match self {
            Self::Ago(ms) => Timestamp::from_ms(now.ms().saturating_sub(ms)),
            Self::At(at) => at,
        }
    }
}

/// Text that is no moment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no moment: write 30s, 45m, 2h or 7d for that long ago, or RFC 3339 as in 2026-11-24T08:00:00Z"
)]
pub(crate) struct NotAMoment(String);

impl std::str::FromStr for When {
    type Err = NotAMoment;

    fn from_str(text: &str) -> Result<Self, NotAMoment> {
        span_ms(text)
            .map(Self::Ago)
            .or_else(|| Timestamp::from_rfc3339(text).map(Self::At))
            .ok_or_else(|| NotAMoment(text.to_owned()))
    }
}

/// Milliseconds of a span such as `90s` or `1h30m`.
fn span_ms(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        let letters = rest[digits..].find(|letter: char| letter.is_ascii_digit());
        let end = letters.map_or(rest.len(), |letters| digits + letters);
        let unit = match &rest[digits..end] {
            "ms" => 1,
            "s" => 1000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "w" => 7 * 86_400_000,
            _ => return None,
        };
        total = total.checked_add(number.checked_mul(unit)?)?;
        rest = &rest[end..];
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: &str = "2026-11-24T12:00:00.000Z";

    #[test]
    fn what_a_timestamp_prints_is_read_again() {
        for ms in [0, 951_782_399_999, 951_782_400_000, 1_795_478_400_000, 4_102_444_799_999] {
            let at = Timestamp::from_ms(ms);
            assert_eq!(at.to_string().parse(), Ok(When::At(at)), "{at}");
        }
    }

    #[test]
    fn zones_fractions_and_dates_are_read() {
        let noon: When = NOON.parse().unwrap();
        for same in ["2026-11-24T13:30:00+01:30", "2026-11-24 12:00:00Z", "2026-11-24T11:00:00.0000-01:00"] {
            assert_eq!(same.parse::<When>().unwrap(), noon, "{same}");
        }
        assert_eq!("2026-11-24".parse(), Ok(When::At(Timestamp::from_ms(1_795_478_400_000))));
    }

    #[test]
    fn spans_lie_before_now() {
        let now = Timestamp::from_ms(100_000_000);
        for (text, ms) in
            [("250ms", 250), ("30s", 30_000), ("45m", 2_700_000), ("1h30m", 5_400_000), ("1d", 86_400_000)]
        {
            assert_eq!(text.parse::<When>().unwrap().seen_from(now).ms(), 100_000_000 - ms, "{text}");
        }
        assert_eq!("9w".parse::<When>().unwrap().seen_from(now), Timestamp::EPOCH);
    }

    #[test]
    fn what_is_no_moment_is_said_with_an_example() {
        for wrong in [
            "",
            "2",
            "h",
            "2 h",
            "-2h",
            "2026-13-01",
            "2026-02-29",
            "2026-11-24T24:00:00Z",
            "2026-11-24T12:00:00",
            "tomorrow",
            "99999999999999w",
        ] {
            let error = wrong.parse::<When>().unwrap_err().to_string();
            assert!(error.contains("2h") && error.contains("RFC 3339"), "{error}");
        }
    }
}
