//! The clock: the one room that reads time. Everywhere else time is an argument.
//!
//! Within a boot time is the monotonic clock's (`CLOCK_BOOTTIME`, which counts sleep too) from a base that was
//! taken once; what the wall clock does meanwhile changes nothing. Across boots the wall clock is
//! asked again, against the high-water mark that was persisted:
//!
//! - behind the mark: it jumped back. Time stands at the mark and goes on from there, so no job is
//!   revived.
//! - further ahead of it than [`JUMP_MS_MAX`]: suspicious. Time goes on from the mark and expiry is held, so
//!   that a wrong clock ends no job, until the network's time confirms or corrects it.
//!
//! Judging is [`judge`] and [`confirm`], pure; [`read`] only reads.

use node_types::Timestamp;
use serde::{Deserialize, Serialize};

/// How long a node may have been off before its wall clock needs a second opinion: 7 days, in milliseconds.
pub const JUMP_MS_MAX: u64 = 7 * 86_400_000;

/// What the machine's clocks say at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The wall clock.
    pub wall: Timestamp,
    /// Milliseconds since the machine started, sleep included.
    pub since_boot_ms: u64,
    /// The kernel's name for this start of the machine (`/proc/sys/kernel/random/boot_id`).
    pub boot: String,
}

/// What was persisted last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mark {
    /// The latest moment this node has known: the high-water mark.
    pub now: Timestamp,
    /// Milliseconds since the machine's start, then.
    pub since_boot_ms: u64,
    /// Which start.
    pub boot: String,
    /// Whether that moment is to be trusted for ending jobs.
    pub trust: Trust,
}

/// Whether jobs may be ended by this time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trust {
    /// Yes.
    Trusted,
    /// No: the wall clock is this many milliseconds ahead of what was known. Ask the network.
    Held {
        /// How far.
        ahead_ms: u64,
    },
}

/// A moment up to which things may be ended: only a trusted mark gives one, so a clock in doubt ends
/// nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cutoff(Timestamp);

impl Cutoff {
    /// The moment.
    #[must_use]
    pub const fn at(self) -> Timestamp {
        self.0
    }
}

impl Mark {
    /// The moment `age_ms` milliseconds ago, for ending what is older; `None` while time is held.
    #[must_use]
    pub const fn cutoff(&self, age_ms: u64) -> Option<Cutoff> {
        match self.trust {
            Trust::Trusted => Some(Cutoff(Timestamp::from_ms(self.now.ms().saturating_sub(age_ms)))),
            Trust::Held { .. } => None,
        }
    }
}

/// Tells what time it is at open, from the last mark and a moment that another file has known
/// ([`Timestamp::EPOCH`] for none): the mark may be lost, or older than that.
#[must_use]
pub fn known(mark: Option<Mark>, high_water: Timestamp, reading: &Reading) -> Mark {
    let mark = mark.or_else(|| {
        // No boot is named so: the wall clock is judged by the moment.
        let lost = Mark { now: high_water, since_boot_ms: 0, boot: String::new(), trust: Trust::Trusted };
        (high_water > Timestamp::EPOCH).then_some(lost)
    });
    let judged = judge(mark.as_ref(), reading);
    Mark { now: judged.now.max(high_water), ..judged }
}

/// Tells what time it is from the last mark and a new reading. The result never lies before the mark.
#[must_use]
pub fn judge(mark: Option<&Mark>, reading: &Reading) -> Mark {
    let (now, trust) = match mark {
        None => (reading.wall, Trust::Trusted),
        Some(mark) if mark.boot == reading.boot => {
            // Of two readings the later one may be judged first.
            let since_boot_ms = reading.since_boot_ms.max(mark.since_boot_ms);
            let now = mark.now.plus_ms(since_boot_ms - mark.since_boot_ms);
            return Mark { now, since_boot_ms, ..mark.clone() };
        }
        Some(mark) => {
            let ahead_ms = reading.wall.since_ms(mark.now);
            match mark.trust {
                Trust::Trusted if ahead_ms <= JUMP_MS_MAX => (mark.now.max(reading.wall), Trust::Trusted),
                // What was doubted stays doubted: restarting is no second opinion.
                Trust::Trusted | Trust::Held { .. } => (mark.now, Trust::Held { ahead_ms }),
            }
        }
    };
    Mark { now, since_boot_ms: reading.since_boot_ms, boot: reading.boot.clone(), trust }
}

/// Takes the network's time. Time never goes back: a network behind the mark leaves it where it is.
#[must_use]
pub fn confirm(mark: &Mark, network: Timestamp) -> Mark {
    Mark { now: mark.now.max(network), trust: Trust::Trusted, ..mark.clone() }
}

/// Reads the machine's clocks.
///
/// # Errors
/// The operating system's, where it does not name its boot.
#[expect(clippy::disallowed_methods, reason = "this is the clock room")]
pub fn read() -> std::io::Result<Reading> {
    let wall = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let since_boot = std::time::Duration::try_from(boot).unwrap_or_default();
    let ms = |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    Ok(Reading {
        wall: Timestamp::from_ms(ms(wall)),
        since_boot_ms: ms(since_boot),
        boot: std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned(),
    })
}

/// The clock by which file systems stamp files: seconds and nanoseconds since 1970, as it stood at the kernel's last
/// tick. No file that is written from now on is stamped with an earlier moment, unless the clock is set back.
pub(crate) fn stamps() -> (i64, u32) {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
    (time.tv_sec, u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: u64 = 86_400_000;
    const NOON: Timestamp = Timestamp::from_ms(1_795_478_400_000);

    fn reading(boot: &str, since_boot_ms: u64, wall: Timestamp) -> Reading {
        Reading { wall, since_boot_ms, boot: boot.into() }
    }

    fn mark() -> Mark {
        judge(None, &reading("a", 1000, NOON))
    }

    #[test]
    fn within_a_boot_the_wall_clock_changes_nothing() {
        for wall in [Timestamp::EPOCH, NOON.plus_ms(900 * DAY_MS)] {
            let later = judge(Some(&mark()), &reading("a", 1500, wall));
            assert_eq!((later.now, later.trust), (NOON.plus_ms(500), Trust::Trusted));
        }
    }

    #[test]
    fn readings_judged_out_of_order_do_not_count_time_twice() {
        let later = judge(Some(&mark()), &reading("a", 2000, NOON));
        let earlier = judge(Some(&later), &reading("a", 1500, NOON));
        assert_eq!(earlier, later);
        assert_eq!(judge(Some(&earlier), &reading("a", 2000, NOON)).now, NOON.plus_ms(1000));
    }

    #[test]
    fn only_a_trusted_mark_gives_a_moment_to_end_things_by() {
        let week_ms = 7 * DAY_MS;
        assert_eq!(mark().cutoff(week_ms).unwrap().at().plus_ms(week_ms), NOON);
        assert_eq!(mark().cutoff(u64::MAX).unwrap().at(), Timestamp::EPOCH);
        assert_eq!(Mark { trust: Trust::Held { ahead_ms: 1 }, ..mark() }.cutoff(0), None);
    }

    #[test]
    fn a_clock_that_jumped_back_stands_at_the_mark() {
        let later = judge(Some(&mark()), &reading("b", 10, Timestamp::EPOCH));
        assert_eq!((later.now, later.trust), (NOON, Trust::Trusted));
        assert_eq!(judge(Some(&later), &reading("b", 30, Timestamp::EPOCH)).now, NOON.plus_ms(20));
    }

    #[test]
    fn a_week_off_is_believed_and_a_millisecond_more_is_held_until_the_network_confirms() {
        let believed = judge(Some(&mark()), &reading("b", 10, NOON.plus_ms(JUMP_MS_MAX)));
        assert_eq!((believed.now, believed.trust), (NOON.plus_ms(JUMP_MS_MAX), Trust::Trusted));
        let ahead_ms = JUMP_MS_MAX + 1;
        let wall = NOON.plus_ms(ahead_ms);
        let held = judge(Some(&mark()), &reading("b", 10, wall));
        assert_eq!((held.now, held.trust), (NOON, Trust::Held { ahead_ms }));
        let again = judge(Some(&held), &reading("c", 10, wall));
        assert!(matches!(again.trust, Trust::Held { .. }), "a restart is no second opinion");
        let confirmed = confirm(&again, wall);
        assert_eq!((confirmed.now, confirmed.trust), (wall, Trust::Trusted));
        // The network says that the wall clock was wrong, and that it is earlier than the mark.
        assert_eq!(confirm(&held, Timestamp::EPOCH).now, NOON);
    }

    #[test]
    fn the_machine_has_clocks() {
        let first = read().unwrap();
        let second = read().unwrap();
        assert_eq!(first.boot, second.boot);
        assert!(second.since_boot_ms >= first.since_boot_ms);
        assert!(first.wall > Timestamp::EPOCH, "a machine that runs tests knows the date");
    }
}
