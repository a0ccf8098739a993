//! Applying: looks at the facts and does what a step says. Nothing is decided here.

use node_types::Timestamp;

use super::plan::{Facts, Rules, StoreStep};
use super::rule::Trigger;
use crate::{
    clock::Mark,
    inventory::{Inventory, InventoryView},
    jobs::{Asked, Jobs, JobsView},
    logs::{Logs, LogsView},
    reader::ReadError,
    snapshot::Snapshots,
    writer::WriteError,
};

/// What facts are gathered from.
#[derive(Clone, Copy)]
pub(crate) struct Views<'a> {
    pub(crate) jobs: &'a JobsView,
    /// `None` where they are not asked: counting records reads all of them.
    pub(crate) logs: Option<&'a LogsView>,
    pub(crate) inventory: &'a InventoryView,
}

/// Looks once at each database. Logs that cannot be read are said so in the facts: they stop nothing else.
pub(crate) fn gather(
    views: Views<'_>,
    rules: &Rules,
    since: &[Trigger],
    now: &Mark,
) -> Result<Facts, ReadError> {
    let asked =
        Asked { deadlines: now.cutoff(0), traces: now.cutoff(rules.trace_ttl_ms), config: rules.config() };
    Ok(Facts {
        since: since.to_vec(),
        jobs: views.jobs.rotation_facts(asked)?,
        hashes: views.inventory.rotation_facts(now.cutoff(rules.measure_ms))?,
        logs: views.logs.and_then(|logs| logs.rotation_facts(now.cutoff(rules.log_ttl_ms)).ok()),
    })
}

/// What steps are applied to.
#[derive(Clone, Copy)]
pub(crate) struct Rooms<'a> {
    pub(crate) jobs: &'a Jobs,
    pub(crate) logs: &'a Logs,
    pub(crate) inventory: &'a Inventory,
    pub(crate) snapshots: &'a Snapshots,
}

/// Does what a step says, commit by commit, until nothing of it is left.
pub(crate) fn apply(rooms: Rooms<'_>, step: &StoreStep, now: Timestamp) -> Result<(), WriteError> {
    let Rooms { jobs, logs, inventory, snapshots } = rooms;
    match step {
        StoreStep::ExpireJobs { deadlines, .. } => {
            while !jobs.expire(*deadlines).wait()?.is_empty() {}
            Ok(())
        }
        StoreStep::ForgetEnded { until, .. } => {
            while jobs.forget(*until).wait()? > 0 {}
            Ok(())
        }
        StoreStep::FailForbidden { model, mode, .. } => {
            while jobs.forbid(model.clone(), *mode, now).wait()? > 0 {}
            Ok(())
        }
        StoreStep::ReleaseRunning { reason, .. } => jobs.release_all(*reason, now).wait().map(|_| ()),
        StoreStep::DeleteTraces { ended, .. } => {
            while jobs.expire_traces(*ended).wait()?.traces > 0 {}
            Ok(())
        }
        StoreStep::DeleteTracesOfOthers { than, .. } => {
            while jobs.drop_traces_of_others(*than).wait()?.traces > 0 {}
            Ok(())
        }
        StoreStep::DropTraces { bytes_max, .. } => {
            while jobs.keep_traces_within(*bytes_max).wait()?.traces > 0 {}
            Ok(())
        }
        StoreStep::Expect { config } => match snapshots.current() {
            Some(current) if current.config.digest() == *config => {
                inventory.expect(&current.config, now).wait()
            }
            // Another one came into force since the plan was made; applying it said what it expects.
            Some(_) | None => Ok(()),
        },
        StoreStep::DeleteLogs { before, .. } => {
            while logs.expire(*before).wait()? > 0 {}
            Ok(())
        }
        StoreStep::DropLogs { bytes_max, .. } => logs.keep_limit(*bytes_max).wait(),
    }
}
