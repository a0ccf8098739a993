//! What the keeper decides, as pure functions.

use std::time::Duration;

use node_store::models::{HeldFile, ModelRow, Standing};
use node_types::{Digest, Timestamp, config::NodeConfig, models::ModelState};

/// How the files of a model stand together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stands {
    /// Every seal holds.
    Sealed,
    /// Every file is there; of some only its hash says that it is the right one.
    Unsealed,
    /// One is missing, changed or damaged.
    Not,
}

/// Judges the files of a model by how each stands, if it is held at all.
pub(super) fn stands<'a>(files: impl Iterator<Item = Option<&'a Standing>>) -> Stands {
    let mut all = Stands::Sealed;
    for standing in files {
        match standing {
            Some(Standing::Sealed) => {}
            Some(Standing::Untrusted(_)) => all = Stands::Unsealed,
            Some(Standing::Broken(_) | Standing::Missing | Standing::Unknown) | None => return Stands::Not,
        }
    }
    all
}

/// What is true of a model that the snapshot lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// It cannot be had, or its test inference failed.
    Failed,
    /// A file of it is not here.
    Incomplete,
    /// A file of it has changed, or may have.
    Broken,
    /// All is here, and no test inference passed yet.
    Untested,
    /// All is here, and a test inference passed.
    Tested,
}

/// The state of a model that the snapshot lists.
pub(super) const fn state(condition: Condition) -> ModelState {
    match condition {
        Condition::Failed => ModelState::Failed,
        Condition::Incomplete => ModelState::Pending,
        Condition::Broken | Condition::Untested => ModelState::Inactive,
        Condition::Tested => ModelState::Active,
    }
}

/// What is done with a model that the snapshot does not list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unlisted {
    /// Its time has not come.
    Keep,
    /// Its time begins.
    Archive,
    /// Its time has ended.
    Remove,
}

/// What the snapshot's policy says of a model that it does not list.
pub(super) fn unlisted(row: &ModelRow, config: &NodeConfig, now: Timestamp) -> Unlisted {
    match row.state {
        ModelState::Archived => {
            if now >= row.since.plus_ms(config.timings.unlisted_model_ttl_ms) {
                Unlisted::Remove
            } else {
                Unlisted::Keep
            }
        }
        ModelState::Pending | ModelState::Active | ModelState::Inactive | ModelState::Failed => {
            Unlisted::Archive
        }
    }
}

/// Between two pieces, so that all are read within the period.
pub(super) fn pace(period: Duration, pieces: u64) -> Duration {
    let pieces = u32::try_from(pieces).unwrap_or(u32::MAX).max(1);
    period / pieces
}

/// The file whose scrub is to go on: one that was begun first, then the one that was read longest ago, if that is
/// longer than the period.
pub(super) fn next_scrub(files: &[HeldFile], period: Duration, now: Timestamp) -> Option<Digest> {
    let period_ms = u64::try_from(period.as_millis()).unwrap_or(u64::MAX);
    let due = |file: &&HeldFile| {
        let read = file.scrub.completed_at.unwrap_or(file.verified_at).max(file.verified_at);
        file.scrub.next_piece > 0 || now >= read.plus_ms(period_ms)
    };
    files
        .iter()
        .filter(due)
        .min_by_key(|file| (file.scrub.next_piece == 0, file.scrub.completed_at.unwrap_or(file.verified_at)))
        .map(|file| file.sha256)
}

#[cfg(test)]
mod tests {
    use node_store::models::Scrub;

    use super::*;

    #[test]
    fn one_file_that_is_not_right_keeps_a_model_from_being_used() {
        let (sealed, untrusted) = (Standing::Sealed, Standing::Untrusted("nfs".to_owned()));
        let of = |files: &[Option<&Standing>]| stands(files.iter().copied());
        assert_eq!(of(&[Some(&sealed), Some(&sealed)]), Stands::Sealed);
        assert_eq!(of(&[Some(&sealed), Some(&untrusted)]), Stands::Unsealed);
        for bad in
            [None, Some(&Standing::Missing), Some(&Standing::Unknown), Some(&Standing::Broken(String::new()))]
        {
            assert_eq!(of(&[Some(&sealed), bad]), Stands::Not, "{bad:?}");
        }
    }

    #[test]
    fn scrubs_go_on_where_they_were_and_then_with_what_was_read_longest_ago() {
        let file = |number: u8, verified: u64, next_piece, completed: Option<u64>| HeldFile {
            sha256: Digest::of(&[number]),
            bytes: 1,
            pieces: Vec::new(),
            installed_at: Timestamp::EPOCH,
            verified_at: Timestamp::from_ms(verified),
            sealed: true,
            scrub: Scrub { next_piece, began_at: None, completed_at: completed.map(Timestamp::from_ms) },
        };
        let (period, now) = (Duration::from_millis(100), Timestamp::from_ms(1000));
        let next = |files: &[HeldFile]| next_scrub(files, period, now);
        assert_eq!(next(&[file(1, 901, 0, None)]), None, "read 99 ms ago");
        assert_eq!(next(&[file(1, 900, 0, None)]), Some(Digest::of(&[1])));
        assert_eq!(next(&[file(1, 100, 0, Some(901))]), None);
        assert_eq!(next(&[file(1, 100, 0, Some(500)), file(2, 100, 0, Some(400))]), Some(Digest::of(&[2])));
        assert_eq!(
            next(&[file(1, 100, 0, Some(400)), file(2, 950, 3, Some(800))]),
            Some(Digest::of(&[2])),
            "begun"
        );
    }

    #[test]
    fn all_pieces_are_read_within_the_period() {
        assert_eq!(pace(Duration::from_secs(100), 50), Duration::from_secs(2));
        assert_eq!(pace(Duration::from_secs(100), 0), Duration::from_secs(100));
    }
}
