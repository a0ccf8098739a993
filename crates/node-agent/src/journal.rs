//! The journal: everything the Agent says of itself, once into the store's log and once as a `tracing` event.
//!
//! What is said about a job stands in a span with its ID ([`of_job`]), from its offer to its acknowledgement.
//!
//! Never a prompt or an answer, and never what a failure of the runtime quotes: that goes to the network alone.

use std::{collections::BTreeMap, sync::Arc};

use node_store::store::Store;
use node_types::{
    JobId, Timestamp,
    log::{Kind, Level, Record},
};
use serde_json::Value;
use tracing::Span;

use crate::time;

/// The record with which a start begins.
pub const STARTS: &str = "the Agent starts";
/// The beginning of the record of a start that ends because the node runs twice; the network's words follow a colon.
pub const RUNS_TWICE: &str = "this node runs twice";

/// Writes the node's log.
#[derive(Clone, Debug)]
pub struct Journal {
    store: Arc<Store>,
}

impl Journal {
    /// The journal of a store.
    #[must_use]
    pub const fn new(store: Arc<Store>) -> Self {
        Self { store }
    }

    /// Notes something that happened.
    pub fn note(&self, level: Level, kind: Kind, message: impl Into<String>) {
        self.write(level, kind, None, message.into(), BTreeMap::new());
    }

    /// Notes something that happened, with its figures.
    pub fn measured<const N: usize>(
        &self,
        level: Level,
        kind: Kind,
        job: Option<JobId>,
        message: impl Into<String>,
        fields: [(&str, Value); N],
    ) {
        let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        self.write(level, kind, job, message.into(), fields);
    }

    /// Notes a failure and its causes.
    pub fn failed(&self, level: Level, kind: Kind, what: &str, error: &dyn std::error::Error) {
        self.note(level, kind, format!("{what}: {}", causes(error)));
    }

    fn write(
        &self,
        level: Level,
        kind: Kind,
        job: Option<JobId>,
        message: String,
        fields: BTreeMap<String, Value>,
    ) {
        let _of_job = job.map(|job| of_job(job).entered());
        match level {
            Level::Trace => tracing::trace!(kind = kind.name(), "{message}"),
            Level::Debug => tracing::debug!(kind = kind.name(), "{message}"),
            Level::Info => tracing::info!(kind = kind.name(), "{message}"),
            Level::Warn => tracing::warn!(kind = kind.name(), "{message}"),
            Level::Error => tracing::error!(kind = kind.name(), "{message}"),
        }
        // Without a clock it is still worth keeping; its place among the others says when.
        let at = time::now(&self.store).unwrap_or(Timestamp::EPOCH);
        self.store.logs().append(Record { at, level, kind, job, message, fields });
    }
}

/// The name of the span in which everything stands that is said about a job.
const JOB: &str = "job";

/// The span in which everything stands that is said about a job, with its ID in the field `job`: the one that is entered
/// already, where that is one of a job.
///
/// It has the highest level, so that whoever lets only errors through sees which job they are about.
#[must_use]
pub fn of_job(job: JobId) -> Span {
    let current = Span::current();
    let entered = current.metadata().is_some_and(|span| span.name() == JOB);
    // One task never works for two jobs inside of one span.
    if entered { current } else { tracing::error_span!(JOB, %job) }
}

/// An error and what caused it, in one line.
#[must_use]
pub fn causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |said, cause| {
        let cause = cause.to_string();
        // Transparent errors say what their cause says.
        if said.ends_with(&cause) { said } else { format!("{said}: {cause}") }
    })
}
