//! Whether a node is well, and what its operator should do: decided from the report alone.

use node_store::{keys::Protection, volume::RESERVE_BYTES};
use node_types::{job::FailureKind, models::ModelState, protocol::Readiness, trace::Outcome};

use super::{Ended, Health, Release, Source, Standing, Storage, Term, Twice};

/// How long ago the newest warning may be to ask for attention, and the last jobs may have ended to say how the node is: an hour in
/// milliseconds.
pub const TROUBLE_MS: u64 = 3_600_000;
/// How long the network may be out of reach until it is asked to be looked at: a minute in milliseconds.
pub const OFFLINE_MS: u64 = 60_000;
/// How long a snapshot may be in force without having passed its health check until that is said: a minute in milliseconds.
pub const UNPROVEN_MS: u64 = 60_000;
/// Of the last jobs so many are judged,
pub const JUDGED_MAX: usize = 10;
/// and so few say nothing yet.
pub const JUDGED_MIN: usize = 3;
/// Under this much free room no new job is taken: half of the store's reserve, 32 MiB.
pub const FREE_BYTES_MIN: u64 = RESERVE_BYTES / 2;
/// Under this much free room there is soon none: 256 MiB.
pub const FREE_BYTES_SOON: u64 = 256 << 20;

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advice {
    /// What it says of the node that this is to be done.
    pub health: Health,
    /// In words, with the command to type.
    pub text: String,
}

/// What the operator should do, the most urgent first. `command` is how the command line is called for this node, for
/// example `resultity-node --home /srv/second`.
#[must_use]
pub fn of(standing: &Standing, command: &str) -> Vec<Advice> {
    // Whatever else is to be said of such a volume, nobody works with it.
    if let Some(moved) = &standing.moved {
        let text = format!(
            "nothing: the node was moved away at {} into {}; `{command} move undo --file-was-not-used` takes it back, if it never ran there",
            moved.at, moved.archive
        );
        return vec![Advice { health: Health::Stopped, text }];
    }
    let mut advice = Vec::new();
    let mut say = |health, text: String| advice.push(Advice { health, text });
    let running = standing.agent.running;
    if let Some(text) = missing_keys(standing) {
        say(Health::Failing, text);
    }
    if standing.unverifiable > 0 {
        let stored = count(standing.unverifiable, "stored document");
        let text = format!(
            "{stored} of the network cannot be verified any more: run the node, it fetches them again"
        );
        say(Health::Attention, text);
    }
    if standing.untold().next().is_some() || standing.logs.unreadable.is_some() {
        let health = if standing.logs.unreadable.is_some() { Health::Failing } else { Health::Attention };
        let text = "a database was damaged: check the disk; the node saves what can be read and reports the loss when it runs";
        say(health, text.to_owned());
    } else if let Some(last) = standing.incidents.last() {
        let text = format!(
            "{} was damaged or missing at {}, and was made anew of what could be read: look at the disk's health, and make a backup",
            last.database, last.at
        );
        say(Health::Well, text);
    }
    if standing.time_held {
        let text = "the clock jumped: set it right; nothing is ended by time until the network confirms it"
            .to_owned();
        say(Health::Attention, text);
    }
    if !standing.drifted.is_empty() {
        let drifted = count(standing.drifted.len() as u64, "artifact");
        let text = format!(
            "{drifted} drifted from what was installed: `{command} drift check` says which; the Agent repairs models and its configuration"
        );
        say(Health::Attention, text);
    }
    let models = &standing.models;
    if models.worst.as_ref().is_some_and(|worst| worst.state == ModelState::Failed) {
        let health = if models.active == 0 { Health::Failing } else { Health::Attention };
        say(health, format!("a model cannot be used: `{command} models list` says why"));
    }
    // Before what the node waits for: on a full disk nothing of it comes.
    let free_bytes = standing.hardware.as_ref().and_then(|hardware| hardware.disk.free_bytes);
    if free_bytes.is_some_and(|free| free < FREE_BYTES_SOON) {
        let (health, how) = if free_bytes.is_some_and(|free| free < FREE_BYTES_MIN) {
            (Health::Failing, "full, and no new job is taken")
        } else {
            (Health::Attention, "nearly full")
        };
        let text = format!(
            "the disk is {how}: make room where {} is; `{command} models prune --dry-run` shows what could go",
            standing.folder.display()
        );
        say(health, text);
    }
    if let Some((health, text)) = readiness(standing, command) {
        say(health, text);
    }
    if running && standing.source == Source::Volume {
        let text = match &standing.agent.page {
            Some(url) => format!(
                "the Agent runs and {url} does not answer: `{command} logs --level warn`, or give page.token_file"
            ),
            None => {
                "the Agent runs without a page, so nobody can tell whether it takes jobs: set page.listen"
                    .to_owned()
            }
        };
        say(Health::Attention, text);
    }
    if let Some((last, number)) = failing(standing).filter(|_| running) {
        let text = format!(
            "the last {number} jobs failed, and none was answered: `{command} jobs explain {}`",
            last.job
        );
        say(Health::Failing, text);
    }
    if let Some(fence) = standing.fence.as_ref().filter(|_| running) {
        let text = format!(
            "wait until the network says which jobs of the backup of {} are still this node's: {} to be asked about; \
             `{command} logs --kind network` tells why it does not",
            fence.backed_up_at, fence.jobs
        );
        say(Health::Attention, text);
    }
    let network = format!("`{command} logs --kind network`");
    let offline = offline(standing);
    match standing.snapshot.as_ref().map(|snapshot| snapshot.validity) {
        _ if !running => {
            let text = match &standing.twice {
                Some(Twice { at, why }) => format!(
                    "the network ended the last start at {at}, because this node runs elsewhere too ({why}): find the other \
                     one, and run one of them alone; only if this one is to run, stop the other and start this one: `{command} run`"
                ),
                None => format!("start the node: `{command} run`"),
            };
            say(Health::Stopped, text);
        }
        None => {
            let text = match offline {
                Some(offline) => {
                    format!("{offline}, and no snapshot has come: `{command} logs --level warn` says why")
                }
                None => format!(
                    "wait for the first snapshot; `{command} logs --kind configuration` tells what came of it"
                ),
            };
            say(Health::Attention, text);
        }
        Some(Term::OutOfForce) => {
            let text = format!(
                "no job is taken under this snapshot any more: see that the node reaches its network ({network})"
            );
            say(Health::Failing, text);
        }
        Some(Term::Stale) => {
            let text =
                format!("the snapshot is past its time: see that the node reaches its network ({network})");
            say(Health::Attention, text);
        }
        Some(Term::Fresh | Term::RefreshDue) => {
            if let Some(offline) = offline {
                let text = format!("{offline}: jobs go on, and results wait here; {network} says why");
                say(Health::Attention, text);
            } else if let Some(trouble) = &standing.trouble
                && standing.time.0.since_ms(trouble.at.0) < TROUBLE_MS
            {
                say(Health::Attention, format!("see what troubles the node: `{command} logs --level warn`"));
            }
        }
    }
    if let Some(snapshot) = standing.snapshot.as_ref().filter(|snapshot| running && !snapshot.good)
        && standing.time.0.since_ms(snapshot.applied_at.0) >= UNPROVEN_MS
    {
        let text = format!(
            "snapshot {} has not passed its health check: `{command} logs --kind configuration` says why",
            snapshot.version
        );
        say(Health::Attention, text);
    }
    if let Some(failed) = standing.snapshot.as_ref().and_then(|it| it.taken_back_version).filter(|_| running)
    {
        let text = format!(
            "snapshot {failed} failed its health check here and was taken back: `{command} logs --kind configuration` says why; \
             where it was this machine, mend that, stop the node, call `{command} config retry` and start it; else wait for the \
             network's next one"
        );
        say(Health::Attention, text);
    }
    let jobs = standing.storage.iter().find(|it| it.class == "jobs");
    if let Some(&Storage { bytes, limit_bytes: Some(limit), .. }) = jobs
        && bytes >= limit - limit / 10
    {
        let text = format!(
            "jobs take {bytes} of the {limit} bytes that the snapshot gives them, and no more are taken then: {} are to be \
             acknowledged; each that ended is remembered for a day, so many short ones need a higher limit of the network's",
            standing.jobs.unsent
        );
        say(Health::Attention, text);
    }
    if models.missing > 0 && !running {
        let text = format!("fetch the models: `{command} models install`; the Agent does it too");
        say(Health::Attention, text);
    }
    if let Some(Release { version, approved, .. }) = &standing.release {
        let (health, text) = if *approved {
            (Health::Well, format!("release {version} of the Agent is approved: `{command} update check`"))
        } else {
            let text = format!(
                "this release of the Agent is not one that the network approves; {version} is: `{command} update check`"
            );
            (Health::Attention, text)
        };
        say(health, text);
    }
    let stopped = if running { " (stop the Agent first)" } else { "" };
    let unprotected =
        standing.identity.as_ref().is_some_and(|held| held.protection == Protection::ObfuscationOnly);
    if unprotected {
        let text =
            format!("seal the key under a passphrase: `{command} key reseal --to-passphrase`{stopped}");
        say(Health::Well, text);
    }
    if standing.account.is_none() {
        say(
            Health::Well,
            format!("link the node to an account: `{command} account link --wallet <ADDRESS>`{stopped}"),
        );
    }
    advice
}

/// What is to be done about keys that are gone.
fn missing_keys(standing: &Standing) -> Option<String> {
    let mut names: Vec<&str> = standing.keys_missing.iter().map(String::as_str).collect();
    if standing.identity.is_none() && names.is_empty() {
        names.push("node.key");
    }
    let names: Vec<String> = names.iter().map(|name| format!("keys/{name}")).collect();
    let (names, its) = match names.as_slice() {
        [] => return None,
        [one] => (one.clone(), "its"),
        [_, _, ..] => (names.join(" and "), "their"),
    };
    Some(if standing.agent.running {
        format!(
            "put {names} back from {its} backup before the Agent ends: it goes on for now, and does not start again without"
        )
    } else {
        format!("put {names} back from {its} backup: without it this volume cannot be opened")
    })
}

/// That the network has been out of reach for long, and since when. Behind a fence no session is opened, so nothing is said of that.
fn offline(standing: &Standing) -> Option<String> {
    let offline = standing.connection.as_ref().filter(|connection| !connection.connected);
    let offline = offline.filter(|it| standing.time.0.since_ms(it.since.0) >= OFFLINE_MS)?;
    let at = offline.url.as_ref().map_or_else(String::new, |url| format!(" at {url}"));
    standing.fence.is_none().then(|| format!("the network{at} is out of reach since {}", offline.since))
}

/// The newest of the last jobs, and how many they are, where all of them lately failed by the node's own doing.
fn failing(standing: &Standing) -> Option<(&Ended, usize)> {
    let lately =
        standing.jobs.lately.iter().filter(|job| standing.time.0.since_ms(job.ended_at.0) < TROUBLE_MS);
    let judged = lately.filter_map(|job| Some((job, was_answered(job)?))).take(JUDGED_MAX);
    let judged: Vec<_> = judged.collect();
    let failed = judged.len() >= JUDGED_MIN && judged.iter().all(|(_, answered)| !answered);
    failed.then(|| (judged[0].0, judged.len()))
}

/// Whether the node has answered a job; nothing where its end says nothing of the node.
const fn was_answered(job: &Ended) -> Option<bool> {
    match (job.outcome, job.failure) {
        (Outcome::Answered, _) => Some(true),
        (
            Outcome::Failed,
            None
            | Some(
                FailureKind::Runtime
                | FailureKind::TimedOut
                | FailureKind::AttemptsExhausted
                | FailureKind::Unreadable,
            ),
        ) => Some(false),
        (Outcome::Failed, Some(FailureKind::Cancelled | FailureKind::Forbidden | FailureKind::Unclaimed))
        | (Outcome::Expired, _) => None,
    }
}

/// What the Agent says of itself.
fn readiness(standing: &Standing, command: &str) -> Option<(Health, String)> {
    match standing.agent.readiness? {
        Readiness::RuntimeDown => {
            let why = standing.runtime.as_ref().and_then(|runtime| runtime.down.as_ref()?.lines().next());
            Some((
                Health::Failing,
                match why {
                    Some(why) => format!("{why}; `{command} logs --level warn` says more"),
                    None => format!("the runtime is down: `{command} logs --level warn` says why"),
                },
            ))
        }
        Readiness::StorageFailed => Some((
            Health::Failing,
            format!("the store takes no writes: see to the disk; `{command} logs --kind storage` says more"),
        )),
        Readiness::Starting => {
            let text = "wait: the runtime is starting or being tried";
            Some((
                Health::Attention,
                format!("{text}; if that lasts, `{command} logs --level warn` says why"),
            ))
        }
        Readiness::Installing => Some((
            Health::Attention,
            format!(
                "wait: models are being fetched or verified; `{command} models list` shows how far they are"
            ),
        )),
        // Said of the snapshot, in more words.
        Readiness::NoConfiguration | Readiness::Active | Readiness::Stopping => None,
    }
}

/// Whether a node is well, by what is to be done: what matters most counts.
#[must_use]
pub fn health(advice: &[Advice]) -> Health {
    advice.iter().map(|advice| advice.health).max().unwrap_or(Health::Well)
}

fn count(number: u64, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

#[cfg(test)]
mod tests {
    use node_types::{Digest, JobId, Timestamp, hardware::Hardware, job::Mode, log::Level};

    use super::super::{Fence, Incident, Moment, Moved, Runtime, Trouble, Worst, tests::well};
    use super::*;

    fn incident(reported: bool) -> Incident {
        let at = Moment(Timestamp::from_ms(1));
        let (database, cause) = ("jobs.db".to_owned(), "it is gone".to_owned());
        Incident { database, at, cause, moved_to: None, saved: 0, lost: None, reported }
    }

    /// Waiting helps nothing there.
    #[test]
    fn a_full_disk_is_said_before_what_the_node_waits_for() {
        let (_, texts) = judged(|it| {
            it.agent.readiness = Some(Readiness::Installing);
            it.hardware = Some(with_free(0));
        });
        assert!(texts[0].contains("the disk is full") && texts[1].starts_with("wait: "), "{texts:?}");
    }

    fn judged(change: impl FnOnce(&mut Standing)) -> (Health, Vec<String>) {
        let mut standing = well();
        change(&mut standing);
        let advice = of(&standing, "resultity-node --home /x");
        (health(&advice), advice.into_iter().map(|advice| advice.text).collect())
    }

    #[test]
    fn a_node_that_works_has_nothing_to_do() {
        assert_eq!(judged(|_| {}), (Health::Well, Vec::new()));
    }

    #[test]
    fn what_is_wrong_gives_its_health_and_the_command_to_type() {
        type Change = fn(&mut Standing);
        let cases: [(Change, Health, &str); 27] = [
            (|it| it.incidents.push(incident(false)), Health::Attention, "the node saves what can be read"),
            (
                |it| it.incidents.push(incident(true)),
                Health::Well,
                "jobs.db was damaged or missing at 1970-01-01T00:00:00.001Z",
            ),
            (
                |it| {
                    it.agent.readiness = Some(Readiness::RuntimeDown);
                    it.runtime = Some(Runtime {
                        kind: "process".to_owned(),
                        engine: "e".to_owned(),
                        digest: None,
                        restarts: Some(0),
                        down: Some("set runtime.folder\nits last words".to_owned()),
                    });
                },
                Health::Failing,
                "set runtime.folder; `resultity-node --home /x logs --level warn` says more",
            ),
            (|it| it.agent.running = false, Health::Stopped, "`resultity-node --home /x run`"),
            (|it| it.identity = None, Health::Failing, "keys/node.key"),
            (
                |it| it.keys_missing.push("node.key".to_owned()),
                Health::Failing,
                "put keys/node.key back from its backup before the Agent ends",
            ),
            (
                |it| {
                    it.agent.running = false;
                    it.twice =
                        Some(Twice { at: Moment(Timestamp::from_ms(1)), why: "it runs already".to_owned() });
                },
                Health::Stopped,
                "at 1970-01-01T00:00:00.001Z, because this node runs elsewhere too (it runs already): find the other",
            ),
            (
                |it| it.connection.as_mut().unwrap().connected = false,
                Health::Attention,
                "https://net.example.org is out of reach since 1970-01-01T00:00:00.000Z: jobs go on",
            ),
            (|it| it.snapshot = None, Health::Attention, "--home /x logs --kind configuration`"),
            (|it| it.agent.readiness = Some(Readiness::RuntimeDown), Health::Failing, "logs --level warn`"),
            (|it| it.agent.readiness = Some(Readiness::StorageFailed), Health::Failing, "disk"),
            (|it| it.agent.readiness = Some(Readiness::Installing), Health::Attention, "models list`"),
            (|it| it.drifted.push("m".to_owned()), Health::Attention, "1 artifact drifted"),
            (|it| it.time_held = true, Health::Attention, "clock"),
            (
                |it| {
                    let class = "jobs".to_owned();
                    it.storage.push(Storage { class, bytes: 900, limit_bytes: Some(1000) });
                },
                Health::Attention,
                "jobs take 900 of the 1000 bytes",
            ),
            (|it| it.logs.unreadable = Some("why".to_owned()), Health::Failing, "damaged"),
            (
                |it| {
                    let at = Moment(Timestamp::from_ms(1));
                    it.fence = Some(Fence { backed_up_at: at, restored_at: at, jobs: 2 });
                },
                Health::Attention,
                "the backup of 1970-01-01T00:00:00.001Z are still this node's: 2 to",
            ),
            (
                |it| it.snapshot.as_mut().unwrap().taken_back_version = Some(4),
                Health::Attention,
                "snapshot 4 failed its health check here and was taken back",
            ),
            (|it| it.release = Some(release(true)), Health::Well, "2.0.0 of the Agent is approved"),
            (|it| it.release = Some(release(false)), Health::Attention, "--home /x update check`"),
            (|it| it.account = None, Health::Well, "account link --wallet <ADDRESS>` (stop the Agent first)"),
            (
                |it| {
                    it.models.worst =
                        Some(Worst { model: "m".to_owned(), state: ModelState::Failed, reason: None });
                },
                Health::Failing,
                "models list`",
            ),
            (
                |it| {
                    it.source = Source::Volume;
                    it.agent.page = Some("http://127.0.0.1:9".to_owned());
                },
                Health::Attention,
                "http://127.0.0.1:9 does not answer",
            ),
            (|it| it.source = Source::Volume, Health::Attention, "page.listen"),
            (|it| it.hardware = Some(with_free(FREE_BYTES_SOON - 1)), Health::Attention, "nearly full"),
            (|it| it.hardware = Some(with_free(FREE_BYTES_MIN - 1)), Health::Failing, "no new job"),
            (
                |it| {
                    it.snapshot.as_mut().unwrap().good = false;
                    it.snapshot.as_mut().unwrap().applied_at = Moment(Timestamp::from_ms(40_000));
                },
                Health::Attention,
                "snapshot 3 has not passed",
            ),
        ];
        for (change, wanted, said) in cases {
            let (health, next) = judged(change);
            assert_eq!(health, wanted, "{said}");
            assert!(next.first().is_some_and(|text| text.contains(said)), "{said}: {next:?}");
        }
    }

    fn with_free(bytes: u64) -> Hardware {
        let mut hardware = Hardware::default();
        (hardware.disk.total_bytes, hardware.disk.free_bytes) = (Some(u64::MAX), Some(bytes));
        hardware
    }

    #[test]
    fn the_last_free_bytes_of_a_disk_are_judged_as_the_doctor_judges_them() {
        let free = |bytes| judged(|it| it.hardware = Some(with_free(bytes))).0;
        assert_eq!([free(FREE_BYTES_SOON), free(FREE_BYTES_MIN)], [Health::Well, Health::Attention]);
    }

    /// Jobs that ended so at 0, the newest first; the report is of the time `now`.
    fn ended(now: u64, jobs: &[(Outcome, Option<FailureKind>)]) -> (Health, Vec<String>) {
        judged(|it| {
            it.time = Moment(Timestamp::from_ms(now));
            let of = |(number, (outcome, failure)): (usize, &(Outcome, Option<FailureKind>))| Ended {
                job: JobId::from_bytes([u8::try_from(number).unwrap(); 16]),
                model: "m@1".to_owned(),
                mode: Mode::Chat,
                outcome: *outcome,
                failure: *failure,
                ended_at: Moment(Timestamp::from_ms(0)),
                waited_ms: None,
                duration_ms: None,
                prompt_tokens: None,
                completion_tokens: None,
                attempts: 1,
            };
            it.jobs.lately = jobs.iter().enumerate().map(of).collect();
        })
    }

    #[test]
    fn a_node_whose_every_job_fails_is_failing() {
        let failed = |kind| (Outcome::Failed, Some(kind));
        let runtime = failed(FailureKind::Runtime);
        assert_eq!(ended(1, &[runtime; JUDGED_MIN - 1]).0, Health::Well, "too few to tell");
        let (health, next) = ended(1, &[runtime; JUDGED_MIN]);
        assert_eq!(health, Health::Failing);
        let named = JobId::from_bytes([0; 16]);
        assert!(next[0].contains(&format!("jobs explain {named}`")), "{next:?}");
        assert_eq!(ended(TROUBLE_MS, &[runtime; JUDGED_MIN]).0, Health::Well, "long ago");
        let mut one_answered = vec![runtime; JUDGED_MAX - 1];
        one_answered.push((Outcome::Answered, None));
        assert_eq!(ended(1, &one_answered).0, Health::Well);
        one_answered.insert(0, runtime);
        assert_eq!(ended(1, &one_answered).0, Health::Failing, "it is no more among the last");
        for kind in [FailureKind::Cancelled, FailureKind::Forbidden, FailureKind::Unclaimed] {
            assert_eq!(
                ended(1, &[failed(kind); JUDGED_MAX]).0,
                Health::Well,
                "{kind:?}: not the node's doing"
            );
        }
        assert_eq!(ended(1, &[(Outcome::Expired, None); JUDGED_MAX]).0, Health::Well);
    }

    #[test]
    fn behind_a_fence_the_missing_session_is_no_outage() {
        let (_, next) = judged(|it| {
            let at = Moment(Timestamp::from_ms(1));
            it.fence = Some(Fence { backed_up_at: at, restored_at: at, jobs: 2 });
            it.connection.as_mut().unwrap().connected = false;
        });
        assert!(next.len() == 1 && !next[0].contains("out of reach"), "{next:?}");
    }

    fn release(approved: bool) -> Release {
        Release { version: "2.0.0".to_owned(), digest: Digest::of(b"release"), approved }
    }

    #[test]
    fn of_a_node_that_was_moved_away_nothing_else_is_said() {
        let (health, next) = judged(|it| {
            (it.agent.running, it.identity) = (false, None);
            it.moved = Some(Moved { at: it.time, archive: "/media/node.tar.zst".to_owned() });
        });
        assert_eq!((health, next.len()), (Health::Stopped, 1));
        assert!(
            next[0].contains("into /media/node.tar.zst")
                && next[0].contains("move undo --file-was-not-used`"),
            "{next:?}"
        );
    }

    #[test]
    fn a_snapshot_past_its_time_asks_for_the_network() {
        let with = |validity| judged(move |it| it.snapshot.as_mut().unwrap().validity = validity);
        assert_eq!(with(Term::RefreshDue).0, Health::Well);
        assert_eq!(with(Term::Stale).0, Health::Attention);
        let (health, next) = with(Term::OutOfForce);
        assert_eq!(health, Health::Failing);
        assert!(next[0].contains("logs --kind network`"), "{next:?}");
    }

    #[test]
    fn a_short_outage_is_nothing_and_a_longer_one_is_said() {
        let offline = |since: u64| {
            judged(move |it| {
                let connection = it.connection.as_mut().unwrap();
                (connection.connected, connection.since) = (false, Moment(Timestamp::from_ms(since)));
            })
        };
        assert_eq!(offline(100_000 - OFFLINE_MS + 1).0, Health::Well);
        let (health, next) = offline(100_000 - OFFLINE_MS);
        assert_eq!(health, Health::Attention);
        assert!(next[0].contains("out of reach"), "{next:?}");
        let (_, next) = judged(|it| {
            it.snapshot = None;
            it.connection.as_mut().unwrap().connected = false;
        });
        assert!(next[0].contains("logs --level warn`"), "{next:?}");
    }

    #[test]
    fn an_old_warning_is_shown_and_worries_nobody() {
        let trouble = |ago: u64| {
            judged(move |it| {
                it.time = Moment(Timestamp::from_ms(TROUBLE_MS * 2));
                let at = Moment(Timestamp::from_ms(TROUBLE_MS * 2 - ago));
                it.trouble = Some(Trouble { at, level: Level::Warn, message: "m".to_owned() });
            })
        };
        assert_eq!(trouble(TROUBLE_MS - 1).0, Health::Attention);
        assert_eq!(trouble(TROUBLE_MS), (Health::Well, Vec::new()));
    }

    #[test]
    fn what_matters_most_says_how_the_node_is() {
        let advice = |health| Advice { health, text: String::new() };
        assert_eq!(health(&[advice(Health::Attention), advice(Health::Failing)]), Health::Failing);
        assert_eq!(health(&[advice(Health::Failing), advice(Health::Stopped)]), Health::Stopped);
        assert_eq!(health(&[]), Health::Well);
    }
}
