//! The table: what happens to each class of data at each trigger, once, without a wildcard.

use std::fmt::Write as _;

/// The classes of data (design, section 2); a job's traces are a class of their own here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Jobs that are not acknowledged.
    Jobs,
    /// What happened to jobs.
    Traces,
    /// The configuration snapshot.
    Snapshot,
    /// Hashes of models, containers and the Agent.
    Hashes,
    /// Log records and batches.
    Logs,
    /// The node's account binding.
    Binding,
}

/// What makes data rotate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Trigger {
    /// Its time to live ended.
    TtlEnds,
    /// A new snapshot was applied.
    NewSnapshot,
    /// The Agent started.
    Restart,
    /// The runtime's container was replaced.
    ContainerUpdate,
    /// The class has reached its limit in bytes.
    LimitReached,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Nothing.
    Keep,
    /// End it, report that to the network, delete it.
    ExpireReportDelete,
    /// Keep; what the new snapshot forbids fails and is reported.
    FailForbidden,
    /// Running back to Queued with its attempt counted; Finished is sent again.
    ReleaseAndResend,
    /// Refuse new ones.
    RefuseNew,
    /// Delete.
    Delete,
    /// After one attempt to upload, delete those of the earlier snapshot.
    UploadOnceThenDeleteEarlier,
    /// Delete the oldest, those that were uploaded first.
    DeleteOldestUploadedFirst,
    /// Say that it is stale; it stays in force until the offline grace ends.
    MarkStale,
    /// Make it the current one and keep the one before.
    SwapKeepPrevious,
    /// Verify digest and signature again.
    VerifyAgain,
    /// Measure again.
    Measure,
    /// Drop what is not listed any more, expect the new ones.
    DropUnlistedExpectNew,
    /// Check the seals; measure where one does not hold.
    CheckSeals,
    /// Measure the container again.
    MeasureContainer,
    /// Delete, and count what was not sent.
    DeleteCountUnsent,
    /// Send soon.
    FlushSoon,
    /// Drop the oldest of the lowest level first, and count it.
    DropLowestOldestCounted,
    /// Cannot happen: the class has no such limit.
    NotApplicable,
}

impl Class {
    /// All classes, in the table's order.
    pub const ALL: [Self; 6] =
        [Self::Jobs, Self::Traces, Self::Snapshot, Self::Hashes, Self::Logs, Self::Binding];

    /// As it is printed.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Jobs => "Jobs",
            Self::Traces => "Traces",
            Self::Snapshot => "Snapshot",
            Self::Hashes => "Hashes",
            Self::Logs => "Logs",
            Self::Binding => "Binding",
        }
    }
}

impl Trigger {
    /// All triggers, in the table's order.
    pub const ALL: [Self; 5] =
        [Self::TtlEnds, Self::NewSnapshot, Self::Restart, Self::ContainerUpdate, Self::LimitReached];

    const fn title(self) -> &'static str {
        match self {
            Self::TtlEnds => "TTL ends",
            Self::NewSnapshot => "new snapshot",
            Self::Restart => "restart",
            Self::ContainerUpdate => "container update",
            Self::LimitReached => "limit reached",
        }
    }
}

impl Action {
    const fn title(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::ExpireReportDelete => "expire, report, delete",
            Self::FailForbidden => "keep; those that the new snapshot forbids fail and are reported",
            Self::ReleaseAndResend => "Running → Queued, Finished → send again",
            Self::RefuseNew => "refuse new ones",
            Self::Delete => "delete",
            Self::UploadOnceThenDeleteEarlier => "upload once, then delete those of the earlier snapshot",
            Self::DeleteOldestUploadedFirst => "delete the oldest, uploaded ones first",
            Self::MarkStale => "mark stale",
            Self::SwapKeepPrevious => "swap, keep one previous",
            Self::VerifyAgain => "verify digest and signature again",
            Self::Measure => "measure again",
            Self::DropUnlistedExpectNew => "drop unlisted, expect the new ones",
            Self::CheckSeals => "check the seals",
            Self::MeasureContainer => "measure the container again",
            Self::DeleteCountUnsent => "delete, count what was not sent",
            Self::FlushSoon => "flush soon",
            Self::DropLowestOldestCounted => "oldest and lowest first, count",
            Self::NotApplicable => "-",
        }
    }
}

/// The table of the design's section 8.
#[must_use]
pub const fn rule(class: Class, trigger: Trigger) -> Action {
    use Trigger::{ContainerUpdate, LimitReached, NewSnapshot, Restart, TtlEnds};
    match class {
        Class::Jobs => match trigger {
            TtlEnds => Action::ExpireReportDelete,
            NewSnapshot => Action::FailForbidden,
            Restart | ContainerUpdate => Action::ReleaseAndResend,
            LimitReached => Action::RefuseNew,
        },
        Class::Traces => match trigger {
            TtlEnds => Action::Delete,
            NewSnapshot => Action::UploadOnceThenDeleteEarlier,
            Restart | ContainerUpdate => Action::Keep,
            LimitReached => Action::DeleteOldestUploadedFirst,
        },
        Class::Snapshot => match trigger {
            TtlEnds => Action::MarkStale,
            NewSnapshot => Action::SwapKeepPrevious,
            Restart | ContainerUpdate => Action::VerifyAgain,
            LimitReached => Action::NotApplicable,
        },
        Class::Hashes => match trigger {
            TtlEnds => Action::Measure,
            NewSnapshot => Action::DropUnlistedExpectNew,
            Restart => Action::CheckSeals,
            ContainerUpdate => Action::MeasureContainer,
            LimitReached => Action::NotApplicable,
        },
        Class::Logs => match trigger {
            TtlEnds => Action::DeleteCountUnsent,
            NewSnapshot | ContainerUpdate => Action::Keep,
            Restart => Action::FlushSoon,
            LimitReached => Action::DropLowestOldestCounted,
        },
        Class::Binding => match trigger {
            TtlEnds | NewSnapshot | Restart | ContainerUpdate => Action::Keep,
            LimitReached => Action::NotApplicable,
        },
    }
}

/// The text of `docs/rotation.md`.
#[must_use]
pub fn document() -> String {
    let mut text = String::from(
        "# Rotation\n\nMade from `node_store::rotation::rule` by `make docs`; edit the code, not this page.\n\n",
    );
    let row = |cells: Vec<&str>| format!("| {} |\n", cells.join(" | "));
    let titles = Trigger::ALL.map(Trigger::title);
    text += &row([&["class"], titles.as_slice()].concat());
    // Writing to a String cannot fail.
    let _ = writeln!(text, "|{}", "---|".repeat(titles.len() + 1));
    for class in Class::ALL {
        let actions = Trigger::ALL.map(|trigger| rule(class, trigger).title());
        text += &row([&[class.title()], actions.as_slice()].concat());
    }
    text
}
