//! Latencies, rates and what a process takes; plain numbers, no statistics beyond medians and percentiles.

use std::{
    sync::{
        Barrier,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::target::Target;

/// No job's number comes twice in a run.
static NUMBERS: AtomicU64 = AtomicU64::new(1);

/// The middle one of `values`; the upper of the two middle ones of an even count.
#[must_use]
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// What one target did in all its turns.
#[derive(Debug, Default)]
pub struct Turns {
    /// Jobs a second, of each turn.
    pub per_second: Vec<f64>,
    /// Median latency in milliseconds, of each turn.
    pub p50_ms: Vec<f64>,
    /// Bytes that this process gave the device, of each job; of each turn.
    pub device_bytes: Vec<f64>,
    nanos: Vec<u64>,
}

impl Turns {
    /// The latency in milliseconds that `percent` of all calls did not exceed.
    #[must_use]
    pub fn percentile_ms(&mut self, percent: usize) -> f64 {
        self.nanos.sort_unstable();
        self.nanos[(self.nanos.len() * percent / 100).min(self.nanos.len() - 1)] as f64 / 1e6
    }
}

/// When a turn ends.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// After so many calls of each caller.
    Calls(u64),
    /// After so much time.
    Elapsed(Duration),
}

/// Lets every target take jobs in turns (A B C A B C ...), so that noise hits all alike. Each turn is
/// `callers` threads that offer one job at a time.
#[must_use]
pub fn in_turns(targets: &[&dyn Target], turns: u32, callers: usize, until: Until) -> Vec<Turns> {
    let mut all: Vec<Turns> = targets.iter().map(|_| Turns::default()).collect();
    for turn in 0..=turns {
        for (target, measured) in targets.iter().zip(&mut all) {
            let mut sink = Turns::default();
            // The first turn warms up: pages, statements, files at their size.
            let measured = if turn == 0 { &mut sink } else { measured };
            one_turn(*target, callers, until, measured);
        }
    }
    all
}

fn one_turn(target: &dyn Target, callers: usize, until: Until, turns: &mut Turns) {
    let ready = Barrier::new(callers + 1);
    let written = device_bytes();
    let (nanos, took) = thread::scope(|scope| {
        let handles: Vec<_> = (0..callers)
            .map(|_| {
                scope.spawn(|| {
                    let mut put = target.caller();
                    let mut nanos = Vec::with_capacity(1 << 16);
                    ready.wait();
                    let started = Instant::now();
                    let mut before = started;
                    while match until {
                        Until::Calls(calls) => (nanos.len() as u64) < calls,
                        Until::Elapsed(time) => before - started < time,
                    } {
                        put(NUMBERS.fetch_add(1, Ordering::Relaxed));
                        let after = Instant::now();
                        nanos.push(u64::try_from((after - before).as_nanos()).unwrap_or(u64::MAX));
                        before = after;
                    }
                    nanos
                })
            })
            .collect();
        ready.wait();
        let started = Instant::now();
        let nanos: Vec<u64> = handles.into_iter().flat_map(|handle| handle.join().unwrap()).collect();
        (nanos, started.elapsed())
    });
    let jobs = nanos.len() as f64;
    turns.per_second.push(jobs / took.as_secs_f64());
    turns.device_bytes.push((device_bytes() - written) as f64 / jobs);
    turns.p50_ms.push(median(nanos.iter().map(|nanos| *nanos as f64 / 1e6).collect()));
    turns.nanos.extend(nanos);
}

/// The median of the ratios of two targets, turn by turn: noise that hits both falls out.
#[must_use]
pub fn ratio(ours: &[f64], theirs: &[f64]) -> f64 {
    median(ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect())
}

/// Bytes that this process made the kernel write to a device, from `write_bytes` in `/proc/self/io`: counted
/// when a page of the cache becomes dirty, a page written twice between two syncs once.
#[must_use]
pub fn device_bytes() -> u64 {
    field("/proc/self/io", "write_bytes:")
}

/// Resident memory of this process in bytes, from `VmRSS` in `/proc/self/status`.
#[must_use]
pub fn resident_bytes() -> u64 {
    field("/proc/self/status", "VmRSS:") * 1024
}

/// 0 where the kernel does not say.
fn field(file: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
