//! Calls that fail on command.

use std::path::Path;

use crate::tree::Errno;

/// The kinds of calls that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Opening or making a file or folder, taking a lock file.
    Open,
    /// Reading a file, a folder, or what stands at a path.
    Read,
    /// Writing bytes, renaming, growing SQLite's shared memory (a file on a real disk).
    Write,
    /// Syncing a file or folder.
    Sync,
    /// Setting a length, reserving space.
    Truncate,
    /// Removing a file.
    Delete,
    /// All of them.
    Any,
}

/// What a failing call says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `EIO`; a failed sync also leaves what was pending in doubt for good.
    IoErr,
    /// `ENOSPC`; `EIO` for reads, deletions and syncs, which need no space.
    NoSpace,
}

/// How long a fault lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lasts {
    /// One call.
    Once,
    /// Until [`crate::SimDisk::heal`].
    Persistent,
}

#[derive(Debug)]
struct Plan {
    nth: u64,
    call: Call,
    fault: Fault,
    lasts: Lasts,
    part: Option<String>,
    seen: u64,
}

/// The counters and the fault to come.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    plan: Option<Plan>,
    calls: [u64; 7],
    failed: u64,
}

impl Faults {
    pub(crate) fn set(&mut self, nth: u64, call: Call, fault: Fault, lasts: Lasts, part: Option<String>) {
        self.plan = Some(Plan { nth, call, fault, lasts, part, seen: 0 });
    }

    pub(crate) fn clear(&mut self) {
        self.plan = None;
    }

    pub(crate) fn calls(&self, call: Call) -> u64 {
        self.calls[call as usize]
    }

    pub(crate) fn failed(&self) -> u64 {
        self.failed
    }

    pub(crate) fn gate(&mut self, call: Call, path: &Path) -> Result<(), Errno> {
        self.calls[call as usize] += 1;
        self.calls[Call::Any as usize] += 1;
        let Some(plan) = &mut self.plan else { return Ok(()) };
        if plan.call != Call::Any && plan.call != call {
            return Ok(());
        }
        if plan.part.as_ref().is_some_and(|part| !path.to_string_lossy().contains(part)) {
            return Ok(());
        }
        plan.seen += 1;
        let fails = match plan.lasts {
            Lasts::Once => plan.seen == plan.nth,
            Lasts::Persistent => plan.seen >= plan.nth,
        };
        if !fails {
            return Ok(());
        }
        self.failed += 1;
        let takes_space = match call {
            Call::Open | Call::Write | Call::Truncate => true,
            Call::Read | Call::Sync | Call::Delete | Call::Any => false,
        };
        match plan.fault {
            Fault::NoSpace if takes_space => Err(Errno::NO_SPACE),
            Fault::NoSpace | Fault::IoErr => Err(Errno::IO),
        }
    }
}
