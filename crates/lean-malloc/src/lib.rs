//! Memory that was freed goes back to the system, in a process that runs for months with many short-lived threads.
//!
//! The allocator of the GNU C library gives threads memory out of arenas, up to eight for each processor, and lets each of
//! them keep what was freed at its end. How much grows by itself: after a block of 1 MiB was freed, each keeps up to 2 MiB,
//! and blocks of that size come out of arenas from then on (mallopt(3), "dynamic mmap threshold"). So a process whose
//! threads each need some MiB for a moment ends with as much in every arena, forever. Whoever says what the thresholds
//! are, ends that. Other C libraries (musl) have no such arenas, and nothing is done there.
//!
//! It is the whole process's: a program may say it, a library must not.

/// What an arena may keep at its end, and from what size on a block is the system's own: 128 KiB, as the library begins.
#[cfg(target_env = "gnu")]
const KEPT_BYTES: libc::c_int = 128 << 10;
/// Arenas at the most, on however many processors.
#[cfg(target_env = "gnu")]
const ARENAS: libc::c_int = 4;

/// Makes it so, from now on and for the whole process. Best called first, before there are threads.
///
/// Returns whether the allocator took it; one that does not works as before.
pub fn set() -> bool {
    #[cfg(target_env = "gnu")]
    {
        let settings = [
            (libc::M_ARENA_MAX, ARENAS),
            (libc::M_MMAP_THRESHOLD, KEPT_BYTES),
            (libc::M_TRIM_THRESHOLD, KEPT_BYTES),
        ];
        settings.iter().all(|(name, value)| {
            // SAFETY: mallopt takes two numbers and changes the allocator's own settings under its own lock.
            unsafe { libc::mallopt(*name, *value) == 1 }
        })
    }
    #[cfg(not(target_env = "gnu"))]
    false
}
