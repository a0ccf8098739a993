//! Amounts in words: bytes and spans of time, for a person. Programs get the numbers.

use node_types::Timestamp;

/// Bytes, as in `1.5 MiB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if count < 1024 {
        return format!("{count} bytes");
    }
    let mut tenths = count.saturating_mul(10) / 1024;
    let mut unit = 0;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        (tenths, unit) = (tenths / 1024, unit + 1);
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

/// A span of time, in its two largest units.
pub(crate) fn span(ms: u64) -> String {
    let seconds = ms / 1000;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    if days > 0 {
        format!("{days} d {hours} h")
    } else if hours > 0 {
        format!("{hours} h {minutes} min")
    } else if minutes > 0 {
        format!("{minutes} min {} s", seconds % 60)
    } else if seconds >= 10 {
        format!("{seconds} s")
    } else if ms >= 1000 {
        format!("{seconds}.{} s", ms % 1000 / 100)
    } else {
        format!("{ms} ms")
    }
}

/// A moment and how far it is from now.
pub(crate) fn moment(at: Timestamp, now: Timestamp) -> String {
    if at >= now {
        format!("{at} (in {})", span(at.since_ms(now)))
    } else {
        format!("{at} ({} ago)", span(now.since_ms(at)))
    }
}

/// A count and its noun, which takes an s.
pub(crate) fn count(number: u64, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_one_decimal_above_a_kibibyte() {
        for (given, wanted) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1 << 20, "1.0 MiB"),
            ((1 << 30) - 1, "1023.9 MiB"),
            (u64::MAX, "1677721.5 TiB"),
        ] {
            assert_eq!(bytes(given), wanted, "{given}");
        }
    }

    #[test]
    fn spans_have_their_two_largest_units() {
        for (given, wanted) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (1500, "1.5 s"),
            (59_999, "59 s"),
            (60_000, "1 min 0 s"),
            (3_660_000, "1 h 1 min"),
            (90_000_000, "1 d 1 h"),
        ] {
            assert_eq!(span(given), wanted, "{given}");
        }
    }

    #[test]
    fn a_moment_says_which_way_it_lies() {
        let now = Timestamp::from_ms(1_795_478_400_000);
        assert_eq!(moment(now.plus_ms(500), now), "2026-11-24T00:00:00.500Z (in 500 ms)");
        assert_eq!(moment(now, now.plus_ms(500)), "2026-11-24T00:00:00.000Z (500 ms ago)");
    }
}
