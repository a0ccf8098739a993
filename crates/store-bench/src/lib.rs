//! What the benchmarks of the store share: a load, the things that take it, percentiles, and the report.
//!
//! `benches/store.rs` measures what has an aim, each figure beside its baseline in the same run, in turns;
//! `benches/calls.rs` measures single calls. Both are run by `make bench`; no test runs them.
#![expect(clippy::unwrap_used, reason = "a measurement that cannot be made must stop")]
#![expect(clippy::missing_panics_doc, reason = "said once, above")]
#![expect(clippy::disallowed_methods, reason = "it measures time, and its baselines are plain files")]
#![expect(clippy::print_stdout, reason = "the table is for a terminal")]

pub mod home;
pub mod measure;
pub mod peers;
pub mod report;
pub mod target;

#[path = "../../node-types/tests/trust/common.rs"]
#[expect(dead_code, reason = "the trust documents' tests use more of it")]
mod trust;
