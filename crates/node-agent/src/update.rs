//! Updates of the Agent: which releases the snapshot approves, and whether a file is one of them.
//!
//! The node says that there is another release; it never fetches one and never starts one. A person, a package or an
//! orchestrator puts the file in place (docs/upgrade.md), after it was compared with the digest that the network signed.

use std::cmp::Ordering;

use node_types::{
    Digest,
    config::{ApprovedAgent, Updates},
    inventory::Measured,
    log::Level,
};
use semver::Version;

use crate::artifacts::OwnProgram;

/// What the snapshot says of the release that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Advice {
    /// It approves no release for this platform: every one is as good.
    Silent,
    /// It approves this release, and none that is newer.
    Current,
    /// It approves a newer one; this one may be approved too.
    Newer {
        /// The newest.
        release: ApprovedAgent,
        /// Whether the one that runs is approved as well.
        approved: bool,
    },
    /// It approves other releases, none of them newer: this one was withdrawn, or is ahead of the network.
    Withdrawn {
        /// The newest of those that are approved.
        release: ApprovedAgent,
    },
}

/// The releases that are approved for `platform`, the newest first; versions that are no semantic versions come last.
#[must_use]
pub fn approved<'a>(updates: &'a Updates, platform: &str) -> Vec<&'a ApprovedAgent> {
    let serves = |it: &&ApprovedAgent| it.platform.as_deref().is_none_or(|wanted| wanted == platform);
    let mut releases: Vec<_> = updates.agents.iter().filter(serves).collect();
    releases.sort_by(|one, other| newer(&other.version, &one.version));
    releases
}

/// What the snapshot says of a release: its version, its platform and, where it was read, the digest of its program.
#[must_use]
pub fn advise(updates: &Updates, version: &str, platform: &str, program: Option<Digest>) -> Advice {
    let releases = approved(updates, platform);
    let Some(newest) = releases.first() else { return Advice::Silent };
    // A version alone approves nothing: other bytes under the same number are another release.
    let same = |it: &&&ApprovedAgent| it.version == version && program.is_none_or(|found| found == it.digest);
    let approved = releases.iter().any(|it| same(&it));
    match newer(&newest.version, version) {
        Ordering::Greater => Advice::Newer { release: (*newest).clone(), approved },
        Ordering::Equal | Ordering::Less if approved => Advice::Current,
        Ordering::Equal | Ordering::Less => Advice::Withdrawn { release: (*newest).clone() },
    }
}

/// The approved release that a program's digest is, on `platform`.
///
/// # Errors
/// [`NotApproved`].
pub fn recognise<'a>(
    updates: &'a Updates,
    platform: &str,
    program: &Digest,
) -> Result<&'a ApprovedAgent, NotApproved> {
    let releases = approved(updates, platform);
    if let Some(release) = releases.iter().find(|it| it.digest == *program) {
        return Ok(release);
    }
    let elsewhere = updates.agents.iter().find(|it| it.digest == *program);
    if let Some(ApprovedAgent { version, platform: Some(wanted), .. }) = elsewhere {
        let (version, wanted, here) = (version.clone(), wanted.clone(), platform.to_owned());
        return Err(NotApproved::OtherPlatform { version, wanted, here });
    }
    let releases: Vec<_> = releases.iter().map(|it| format!("{} ({})", it.version, it.digest)).collect();
    if releases.is_empty() {
        Err(NotApproved::Silent)
    } else {
        Err(NotApproved::Unknown { approved: releases.join(", ") })
    }
}

/// Why a program is none that the snapshot approves.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotApproved {
    /// Nothing is approved.
    #[error(
        "the snapshot in force approves no release of the Agent for this platform: there is nothing to verify it against"
    )]
    Silent,
    /// It is for other machines.
    #[error("it is release {version} for {wanted}, and this machine is {here}")]
    OtherPlatform {
        /// The release.
        version: String,
        /// What it is for.
        wanted: String,
        /// What this is.
        here: String,
    },
    /// Nobody knows it.
    #[error("the snapshot in force does not approve it; it approves {approved}")]
    Unknown {
        /// Those that are approved for this platform.
        approved: String,
    },
}

/// What the next start of the Agent runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NextStart {
    /// What runs now.
    Same,
    /// Another release that the snapshot approves: an update that waits for its start.
    Approved(ApprovedAgent),
    /// Something that nobody approved, or nothing.
    Other,
}

/// Judges what stands where the Agent was started from.
#[must_use]
pub fn next_start(updates: Option<&Updates>, platform: &str, program: OwnProgram) -> NextStart {
    let OwnProgram { running, placed } = program;
    if placed == running {
        return NextStart::Same;
    }
    let Measured::Present(placed) = placed else { return NextStart::Other };
    let release = updates.and_then(|updates| recognise(updates, platform, &placed).ok());
    release.map_or(NextStart::Other, |release| NextStart::Approved(release.clone()))
}

/// What the node says of it in its log, if anything.
#[must_use]
pub fn announcement(advice: &Advice) -> Option<(Level, String)> {
    match advice {
        Advice::Silent | Advice::Current => None,
        Advice::Newer { release, approved } => {
            let level = if *approved { Level::Info } else { Level::Warn };
            let so = if *approved { "" } else { "; the one that runs is not approved" };
            let ApprovedAgent { version, digest, .. } = release;
            Some((level, format!("release {version} of the Agent is approved, {digest}{so}")))
        }
        Advice::Withdrawn { release: ApprovedAgent { version, digest, .. } } => {
            let text = format!("the release of the Agent that runs is not approved; {version} is, {digest}");
            Some((Level::Warn, text))
        }
    }
}

/// Compares two versions; a text that is no semantic version is older than any that is.
fn newer(one: &str, other: &str) -> Ordering {
    match (Version::parse(one).ok(), Version::parse(other).ok()) {
        // Build metadata says nothing about what is newer (semver.org, 10).
        (Some(one), Some(other)) => one.cmp_precedence(&other),
        (one, other) => one.is_some().cmp(&other.is_some()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: &str = "x86_64-unknown-linux-gnu";

    fn release(version: &str, platform: Option<&str>) -> ApprovedAgent {
        let digest = Digest::of(format!("{version} {platform:?}").as_bytes());
        ApprovedAgent { version: version.to_owned(), platform: platform.map(str::to_owned), digest }
    }

    fn updates(agents: Vec<ApprovedAgent>) -> Updates {
        Updates { agents, runtimes: Vec::new() }
    }

    #[test]
    fn a_newer_release_is_announced_and_the_newest_of_them() {
        let newest = release("0.10.0", Some(HERE));
        let updates = updates(vec![
            release("0.9.0", None),
            newest.clone(),
            release("1.0.0", Some("aarch64-unknown-linux-gnu")),
        ]);
        let advice = advise(&updates, "0.9.0", HERE, Some(updates.agents[0].digest));
        assert_eq!(advice, Advice::Newer { release: newest.clone(), approved: true });
        assert_eq!(advise(&updates, "0.8.0", HERE, None), Advice::Newer { release: newest, approved: false });
    }

    #[test]
    fn the_same_version_with_other_bytes_is_not_approved() {
        let updates = updates(vec![release("0.9.0", None)]);
        let ours = updates.agents[0].digest;
        assert_eq!(advise(&updates, "0.9.0", HERE, Some(ours)), Advice::Current);
        let withdrawn = Advice::Withdrawn { release: updates.agents[0].clone() };
        assert_eq!(advise(&updates, "0.9.0", HERE, Some(Digest::of(b"other"))), withdrawn);
        assert_eq!(advise(&updates, "1.0.0-rc.1", HERE, None), withdrawn);
    }

    #[test]
    fn where_nothing_is_approved_nothing_is_said() {
        assert_eq!(advise(&updates(Vec::new()), "0.9.0", HERE, None), Advice::Silent);
        let elsewhere = updates(vec![release("9.0.0", Some("riscv64gc-unknown-linux-gnu"))]);
        assert_eq!(advise(&elsewhere, "0.9.0", HERE, None), Advice::Silent);
    }

    #[test]
    fn another_program_in_the_agents_place_is_an_update_only_where_it_is_approved() {
        let updates = updates(vec![release("0.9.0", None), release("1.0.0", None)]);
        let [ours, newer] = [0, 1].map(|at| Measured::Present(updates.agents[at].digest));
        let next = |placed| next_start(Some(&updates), HERE, OwnProgram { running: ours, placed });
        assert_eq!(next(ours), NextStart::Same);
        assert_eq!(next(newer), NextStart::Approved(updates.agents[1].clone()));
        assert_eq!(next(Measured::Present(Digest::of(b"other"))), NextStart::Other);
        assert_eq!(next(Measured::Absent), NextStart::Other);
        let unasked = next_start(None, HERE, OwnProgram { running: ours, placed: newer });
        assert_eq!(unasked, NextStart::Other, "nothing is approved");
    }

    #[test]
    fn a_program_is_known_by_its_digest_alone() {
        let updates =
            updates(vec![release("0.9.0", None), release("1.0.0", Some("aarch64-unknown-linux-gnu"))]);
        let [here, elsewhere] = [0, 1].map(|at| updates.agents[at].digest);
        assert_eq!(recognise(&updates, HERE, &here).map(|it| it.version.as_str()), Ok("0.9.0"));
        let other = recognise(&updates, HERE, &elsewhere).unwrap_err();
        assert!(
            matches!(&other, NotApproved::OtherPlatform { wanted, .. } if wanted.starts_with("aarch64")),
            "{other}"
        );
        let unknown = recognise(&updates, HERE, &Digest::of(b"?")).unwrap_err();
        assert!(unknown.to_string().contains(&here.to_string()), "{unknown}");
    }

    #[test]
    fn versions_are_compared_as_numbers_and_a_preview_comes_before_its_release() {
        assert_eq!(newer("0.10.0", "0.9.9"), Ordering::Greater);
        assert_eq!(newer("1.0.0-rc.1", "1.0.0"), Ordering::Less);
        assert_eq!(newer("1.0.0+a", "1.0.0+b"), Ordering::Equal);
        assert_eq!(newer("latest", "0.0.1"), Ordering::Less);
    }
}
