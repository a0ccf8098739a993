//! How a model stands on a node.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The state of a model. What leads from one to the next is the Agent's affair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelState {
    /// Listed; its files are not all here.
    Pending,
    /// A test inference passed under the snapshot in force: it takes jobs.
    Active,
    /// Its files are here and verified, and no test inference passed yet; or one of them drifted and is being
    /// repaired.
    Inactive,
    /// It cannot be installed, or its test inference failed; a reason says why.
    Failed,
    /// Not listed any more; kept until the policy removes it.
    Archived,
}

impl ModelState {
    /// All states.
    pub const ALL: [Self; 5] = [Self::Pending, Self::Active, Self::Inactive, Self::Failed, Self::Archived];

    /// As it is stored and printed: `pending`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Inactive => "inactive",
            Self::Failed => "failed",
            Self::Archived => "archived",
        }
    }
}

impl fmt::Display for ModelState {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}
