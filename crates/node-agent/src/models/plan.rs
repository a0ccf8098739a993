//! What the keeper decides, as pure functions.

use std::path::PathBuf;

use node_store::models::{HeldFile, ModelRow, Standing};
use node_types::{
    Digest, Timestamp,
    config::{NodeConfig, PIECE_BYTES},
    models::ModelState,
};

/// How many files that are not the node's are named in one record.
const STRANGERS_NAMED: usize = 8;

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
            Some(Standing::Untrusted { .. }) => all = Stands::Unsealed,
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

/// What is said of files that are not the node's, if there are any: each is named, up to a few. Without their folder, which says
/// whose machine it may be: records go to the network.
pub(super) fn told_of<'a>(strangers: impl Iterator<Item = &'a PathBuf>) -> Option<String> {
    let mut strangers = strangers.map(|path| path.file_name().unwrap_or_default().display().to_string());
    let mut named = strangers.by_ref().take(STRANGERS_NAMED).collect::<Vec<_>>().join(", ");
    let more = strangers.count();
    if named.is_empty() {
        return None;
    }
    if more > 0 {
        named += &format!(" and {more} more");
    }
    Some(format!(
        "in the folder `models` and not from this node, which uses them for nothing and leaves them alone: {named}. Move them away \
         (files for models stand in a folder of `models.folders`); or stop the Agent, and `resultity-node models prune` deletes \
         them, `resultity-node doctor --fix` moves aside what has lain there for a day"
    ))
}

/// The file whose next piece is to be read, if one is due.
///
/// A file's round begins half a period after all of it was read last, and takes a quarter of one; while jobs run each piece
/// waits for another eighth. So all is read within the period on a node that is never idle, too.
pub(super) fn next_scrub<'a>(
    files: impl Iterator<Item = &'a HeldFile>,
    period_ms: u64,
    busy: bool,
    now: Timestamp,
) -> Option<Digest> {
    let patience = if busy { period_ms / 8 } else { 0 };
    let due = |file: &HeldFile| {
        let (next, pieces) = (file.scrub.next_piece, file.bytes.div_ceil(PIECE_BYTES).max(1));
        let due = match file.scrub.began_at.filter(|_| next > 0) {
            Some(began) => began.plus_ms((period_ms / 4).saturating_mul(next) / pieces),
            None => {
                let read = file.scrub.completed_at.unwrap_or(file.verified_at).max(file.verified_at);
                read.plus_ms(period_ms / 2)
            }
        };
        due.plus_ms(patience)
    };
    let all = files.map(|file| (due(file), file.sha256)).filter(|(due, _)| *due <= now);
    all.min().map(|(_, sha256)| sha256)
}

#[cfg(test)]
mod tests {
    use node_store::models::Scrub;

    use super::*;

    #[test]
    fn one_file_that_is_not_right_keeps_a_model_from_being_used() {
        let (sealed, untrusted) =
            (Standing::Sealed, Standing::Untrusted { why: "nfs".to_owned(), again: false });
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
    fn files_that_are_not_the_nodes_are_named_up_to_a_few() {
        let all: Vec<PathBuf> = (0..10).map(|number| format!("/m/{number}.gguf").into()).collect();
        assert_eq!(told_of(all[..0].iter()), None);
        let one = told_of(all[..1].iter()).unwrap();
        assert!(one.contains(": 0.gguf.") && one.contains("`resultity-node models prune`"), "{one}");
        let eight = told_of(all[..8].iter()).unwrap();
        assert!(eight.contains("7.gguf") && !eight.contains("more"), "{eight}");
        let nine = told_of(all[..9].iter()).unwrap();
        assert!(nine.contains("7.gguf and 1 more") && !nine.contains("8.gguf"), "{nine}");
    }

    fn file(number: u8, verified: u64, scrub: Scrub) -> HeldFile {
        HeldFile {
            sha256: Digest::of(&[number]),
            bytes: 4 * PIECE_BYTES,
            pieces: Vec::new(),
            installed_at: Timestamp::EPOCH,
            verified_at: Timestamp::from_ms(verified),
            sealed: true,
            stamp: None,
            scrub,
        }
    }

    #[test]
    fn a_round_begins_after_half_a_period_and_goes_on_where_it_was() {
        let scrub = |next_piece, began: Option<u64>, completed: Option<u64>| Scrub {
            next_piece,
            began_at: began.map(Timestamp::from_ms),
            completed_at: completed.map(Timestamp::from_ms),
        };
        let next =
            |files: &[HeldFile], busy, now| next_scrub(files.iter(), 800, busy, Timestamp::from_ms(now));
        let (one, two) = (Digest::of(&[1]), Digest::of(&[2]));
        let fresh = [file(1, 1000, Scrub::default())];
        assert_eq!([next(&fresh, false, 1399), next(&fresh, false, 1400)], [None, Some(one)]);
        assert_eq!(
            [next(&fresh, true, 1499), next(&fresh, true, 1500)],
            [None, Some(one)],
            "it yields to jobs"
        );
        let begun = [file(1, 1000, scrub(2, Some(1400), None))];
        assert_eq!([next(&begun, false, 1499), next(&begun, false, 1500)], [None, Some(one)]);
        let read = [file(1, 100, scrub(0, Some(900), Some(1000)))];
        assert_eq!([next(&read, false, 1399), next(&read, false, 1400)], [None, Some(one)]);
        let both = [file(1, 1000, Scrub::default()), file(2, 990, Scrub::default())];
        assert_eq!(next(&both, false, 2000), Some(two), "what was read longest ago comes first");
    }

    #[test]
    fn a_node_that_is_never_idle_reads_everything_within_the_period() {
        let period = 80_000;
        let mut files: Vec<_> = (0..5).map(|number| file(number, 0, Scrub::default())).collect();
        for now in (0..2 * period).step_by(100) {
            let at = Timestamp::from_ms(now);
            let Some(sha256) = next_scrub(files.iter(), period, true, at) else { continue };
            let file = files.iter_mut().find(|file| file.sha256 == sha256).unwrap();
            if file.scrub.next_piece == 0 {
                file.scrub.began_at = Some(at);
            }
            file.scrub.next_piece += 1;
            if file.scrub.next_piece == 4 {
                let read = file.scrub.completed_at.map_or(0, Timestamp::ms);
                assert!(now - read <= period, "{now}");
                file.scrub = Scrub { next_piece: 0, completed_at: Some(at), ..file.scrub };
            }
        }
        assert!(files.iter().all(|file| file.scrub.completed_at.is_some_and(|at| at.ms() > period)));
    }
}
