//! What threads have freed is not kept. A process of its own: it is the whole process's setting.
#![expect(clippy::unwrap_used, reason = "a test stops where something is not as it must be")]

use std::{fs, hint::black_box, sync::Barrier, thread};

const MIB: usize = 1 << 20;
/// More threads than there are arenas on a small machine.
const THREADS: usize = 24;

/// What this process has of its own in memory, in MiB.
fn own_mib() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() / 1024
}

/// Each thread needs 4 MiB for a moment, and leaves a few bytes that were asked for after them: in an arena those would
/// lie above, and what is below them cannot be given back.
fn work() -> Vec<Vec<u8>> {
    let meeting = Barrier::new(THREADS);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                scope.spawn(|| {
                    // The first block of this size that is freed makes the next ones come out of an arena.
                    drop(black_box(vec![1_u8; MIB]));
                    meeting.wait();
                    let large: Vec<Vec<u8>> = (0..4).map(|_| black_box(vec![1; MIB])).collect();
                    let left = black_box(vec![1; 64]);
                    drop(large);
                    left
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn what_many_threads_have_freed_is_the_systems_again() {
    if cfg!(not(target_env = "gnu")) {
        assert!(!lean_malloc::set());
        return;
    }
    assert!(lean_malloc::set());
    let before = own_mib();
    let left = work();
    let kept = own_mib().saturating_sub(before);
    assert!(kept <= 8, "{kept} MiB are kept of {} MiB", THREADS * 4);
    drop(left);
}
