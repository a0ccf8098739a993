//! Rotation: what happens to each class of data at each trigger.
//!
//! [`rule`](mod@rule) is the table. [`plan`](plan::plan) asks it and makes steps of what it says, a pure function of
//! rules, facts and time: printing its steps is the dry run. `apply` does what a step says and decides
//! nothing.
//!
//! Of the triggers, the end of a TTL, a new snapshot and a limit are read off the facts, never remembered: a
//! crash between applying a snapshot and deleting what it ends leaves facts that the next plan finds, the
//! one at open too. A restart and a container update leave no trace in the data and are told to the plan.

pub(crate) mod apply;
pub mod plan;
pub mod rule;

pub use plan::{AgentStep, Facts, Rules, Staleness, Step, StoreStep, plan};
pub use rule::{Action, Class, Trigger, document, rule};
