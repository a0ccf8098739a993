//! The power goes at every moment of every workload of up to three operations, and of long random ones:
//! what was answered stands.
//!
//! A workload is done once on a simulated disk that writes down every write and every sync. At each point
//! of that log, images of the disk are made as a power cut could leave it: with all of what was not
//! synced, none of it, or a part of it, writes torn between sectors. Each is opened and compared with a
//! model that took the same steps (`check.rs`).
//!
//! A failure prints one line, `POWER_CUT=workload:point:loss`. With that in the environment,
//! [`the_image_that_was_asked_for`] makes the same image again and shows the operations around the cut.
//! Keys and nonces are drawn anew each time; the operations, their order, places and lengths are the same.
//!
//! Left out: a second cut while the volume is opened after a first one, but for the creations, which are
//! begun again from every image; several callers at once (`tests/crash.rs` has them).
#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

mod check;
mod harness;
mod model;
mod score;
#[path = "../../../node-types/tests/trust/common.rs"]
#[expect(dead_code, reason = "the trust documents' tests use more of it")]
mod trust;
mod workload;

use std::time::Instant;

use harness::{Counts, Place, begin, examine_all, record, replay};
use score::{HARMLESS, Harmless, Outcome, Removed};
use workload::{Op, Workload};

/// Images that are opened and checked at the least.
const IMAGES_MIN: usize = 100_000;
/// Long workloads.
const SEEDS: u64 = 12;

#[expect(clippy::disallowed_methods, reason = "tells how long the test took")]
fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::print_stdout, reason = "the numbers are what the test is run for")]
fn tell(line: &str) {
    println!("{line}");
}

fn tell_counts(what: &str, counts: Counts, started: Instant) {
    let Counts { workloads, points, drawn, checked } = counts;
    let seconds = started.elapsed().as_secs_f64();
    tell(&format!(
        "{what}: {workloads} workloads, {points} crash points, {drawn} images, {checked} distinct ones \
         opened and checked in {seconds:.0} s"
    ));
}

#[test]
fn whatever_a_power_cut_leaves_what_was_answered_stands() {
    let (begun, mut all) = (now(), Counts::default());
    let creations = [false, true].map(|imported| Workload::Creation { imported }).to_vec();
    let short: Vec<_> = Workload::all_short().filter(|short| short.possible(&begin(short))).collect();
    let long: Vec<_> = (0..SEEDS).map(|seed| Workload::Long { seed }).collect();
    let kinds =
        [("creation", creations, 8), ("up to three operations", short, 1), ("long random ones", long, 1)];
    for (what, workloads, drawn) in kinds {
        let started = now();
        let counts = examine_all(&workloads, drawn).unwrap_or_else(|broken| panic!("{broken}"));
        tell_counts(what, counts, started);
        all.add(counts);
    }
    tell_counts("all", all, begun);
    assert!(all.checked >= IMAGES_MIN, "{} images", all.checked);
}

#[test]
fn a_missing_sync_is_noticed() {
    let started = now();
    let all = score::all();
    let harmless = |name: &str| HARMLESS.iter().find(|harmless| harmless.name == name);
    let twins = all.iter().filter_map(|removed| {
        let twins = harmless(&removed.to_string())?.twins;
        let taken = twins.iter().map(|twin| removed.twin(*twin));
        (!twins.is_empty()).then(|| [removed.clone()].into_iter().chain(taken).collect())
    });
    let groups: Vec<Vec<Removed>> = all.iter().map(|removed| vec![removed.clone()]).chain(twins).collect();
    let (mut noticed, mut wanted, mut wrong) = (0, 0, Vec::new());
    for Outcome { names, broken, counts } in score::outcomes(&groups) {
        let name = names.join(" + ");
        let known = harmless(&name);
        wanted += usize::from(known.is_none());
        let what = match (&broken, known) {
            (Some(broken), None) => {
                noticed += 1;
                format!("{}: {}", broken.place, broken.why)
            }
            (None, Some(Harmless { why, .. })) => format!("harmless: {why}"),
            (Some(broken), Some(_)) => {
                wrong.push(name.clone());
                format!("NOT HARMLESS, {}: {}", broken.place, broken.why)
            }
            (None, None) => {
                wrong.push(name.clone());
                "NOT NOTICED".to_owned()
            }
        };
        let what: String = what.chars().take(110).collect();
        tell(&format!("{name:60} {:5} images  {what}", counts.checked));
    }
    let gone = HARMLESS.iter().filter(|harmless| !all.iter().any(|it| it.to_string() == harmless.name));
    wrong.extend(gone.map(|harmless| format!("there is no such sync any more: {}", harmless.name)));
    let seconds = started.elapsed().as_secs_f64();
    tell(&format!("score: {noticed}/{wanted} syncs whose removal is noticed, in {seconds:.0} s"));
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_same_workload_does_the_same_to_the_disk() {
    let creations = [false, true].map(|imported| Workload::Creation { imported });
    let every_op = Workload::Short(Op::ALL.to_vec());
    let long = (0..SEEDS).map(|seed| Workload::Long { seed });
    for workload in creations.into_iter().chain([every_op]).chain(long) {
        let (first, second) = (record(&workload, |_| ()), record(&workload, |_| ()));
        assert_eq!(first.shape(), second.shape(), "{workload}");
    }
}

#[test]
fn a_place_is_found_again_by_its_line() {
    for line in ["created:7:nothing", "Accept.Lease:31:unsynced", "42:900:subset=57601", "Reseal:1:without=5"]
    {
        assert_eq!(line.parse::<Place>().unwrap().to_string(), line);
    }
}

/// Does nothing unless it is asked for an image: `POWER_CUT=Accept:20:unsynced cargo nextest run -p node-store
/// --no-capture the_image_that_was_asked_for`.
#[test]
#[expect(clippy::disallowed_methods, reason = "how a person asks a test for one image")]
fn the_image_that_was_asked_for() {
    let Ok(place) = std::env::var("POWER_CUT") else { return };
    let (story, outcome) = replay(&place.parse().unwrap());
    for line in story {
        tell(&line);
    }
    outcome.unwrap();
}
