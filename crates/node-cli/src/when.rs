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
            .or_else(|| rfc3339(text).map(Self::At))
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

/// A point in time by RFC 3339, or a date alone for its beginning in UTC.
fn rfc3339(text: &str) -> Option<Timestamp> {
    let (date, time) = match text.split_once(['T', 't', ' ']) {
        Some((date, time)) => (date, time),
        None => (text, "00:00:00Z"),
    };
    let (time, offset_minutes) = split_offset(time)?;
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let (clock, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let [hour, minute, second] = numbers(clock, ':', [2, 2, 2])?;
    let valid = year >= 1970
        && (1..=12).contains(&month)
        && (1..=days_in(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        // A leap second counts as the last second before it.
        && second <= 60;
    if !valid || fraction.is_empty() || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let ms: i64 = format!("{fraction:0<3}").get(..3)?.parse().ok()?;
    let seconds = days_from_civil(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second.min(59);
    let total = (seconds - offset_minutes * 60) * 1000 + ms;
    u64::try_from(total).ok().map(Timestamp::from_ms)
}

/// The time of day, and how many minutes its zone is ahead of UTC.
fn split_offset(time: &str) -> Option<(&str, i64)> {
    if let Some(time) = time.strip_suffix(['Z', 'z']) {
        return Some((time, 0));
    }
    let (time, zone) = time.split_at_checked(time.len().checked_sub(6)?)?;
    let sign = match zone.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let [hours, minutes] = numbers(&zone[1..], ':', [2, 2])?;
    (hours < 24 && minutes < 60).then_some((time, sign * (hours * 60 + minutes)))
}

/// Numbers of exactly these lengths between separators.
fn numbers<const N: usize>(text: &str, separator: char, lengths: [usize; N]) -> Option<[i64; N]> {
    let parts: Vec<&str> = text.split(separator).collect();
    let parts: [&str; N] = parts.try_into().ok()?;
    let mut found = [0; N];
    for ((number, part), length) in found.iter_mut().zip(parts).zip(lengths) {
        if part.len() != length || !part.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        *number = part.parse().ok()?;
    }
    Some(found)
}

const fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 to a date of the Gregorian calendar, by eras of 400 years that begin in March.
const fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, month_from_march) = (year / 400, (month + 9) % 12);
    let year_of_era = year - era * 400;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
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
