//! The power goes at every moment of every short workload and of long random ones: what was answered
//! stands.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

mod check;
mod harness;
mod model;
#[path = "../../../node-types/tests/trust/common.rs"]
#[expect(dead_code, reason = "the trust documents' tests use more of it")]
mod trust;
mod workload;

use std::time::Instant;

use harness::{Counts, Place, begin, examine, examine_all, record, replay};
use workload::Workload;

fn tell(what: &str, counts: Counts, seconds: f64) {
    let Counts { workloads, points, drawn, checked } = counts;
    println!(
        "{what}: {workloads} workloads, {points} crash points, {drawn} images, {checked} distinct ones \
         opened and checked in {seconds:.1} s"
    );
}

#[test]
fn a_creation() {
    let started = Instant::now();
    let mut all = Counts::default();
    for imported in [false, true] {
        let mut recorded = record(&Workload::Creation { imported }, |_| ());
        all.add(examine(&mut recorded, 8).unwrap_or_else(|broken| panic!("{broken}")));
    }
    tell("creation", all, started.elapsed().as_secs_f64());
}

#[test]
fn shorts() {
    let started = Instant::now();
    let workloads: Vec<_> =
        Workload::all_short().filter(|w| w.ops().len() <= 2 && w.possible(&begin(w))).collect();
    let counts = examine_all(&workloads, 2).unwrap_or_else(|broken| panic!("{broken}"));
    tell("short", counts, started.elapsed().as_secs_f64());
}

#[test]
fn longs() {
    let started = Instant::now();
    let workloads: Vec<_> = (0..4).map(|seed| Workload::Long { seed }).collect();
    let counts = examine_all(&workloads, 1).unwrap_or_else(|broken| panic!("{broken}"));
    tell("long", counts, started.elapsed().as_secs_f64());
}

#[test]
#[expect(clippy::disallowed_methods, reason = "how a person asks a test for one image")]
fn replayed() {
    let Ok(place) = std::env::var("POWER_CUT") else { return };
    let place: Place = place.parse().unwrap();
    let (story, outcome) = replay(&place);
    for line in story {
        println!("    {line}");
    }
    outcome.unwrap();
}

#[test]
fn shapes() {
    for seed in 0..3 {
        let w = Workload::Long { seed };
        let (a, b) = (record(&w, |_| ()), record(&w, |_| ()));
        let (x, y) = (a.disk.describe(0..a.recording.ops()), b.disk.describe(0..b.recording.ops()));
        for (x, y) in x.iter().zip(&y) {
            if x != y {
                println!("DIFF {x} | {y}");
                break;
            }
        }
        println!(
            "{} {} {:?}",
            x.len(),
            y.len(),
            a.steps.iter().zip(&b.steps).find(|(x, y)| x.from != y.from || x.to != y.to).map(|(x, y)| (
                x.call.clone(),
                x.from,
                x.to,
                y.from,
                y.to
            ))
        );
        assert_eq!(a.shape(), b.shape());
    }
}
