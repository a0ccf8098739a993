//! Which jobs are taken: pure decisions.

use node_types::{
    Digest, Network, Timestamp,
    config::NodeConfig,
    job::{Job, Mode, ModelRef},
    protocol::Claim,
    trace::{Outcome, Standing},
    verify::{Term, Verified},
};

/// What the snapshot in force says about jobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobRules {
    /// Digest of the snapshot.
    pub config: Digest,
    /// When it goes out of force: the end of its offline grace.
    pub in_force_until: Timestamp,
    /// The models that may be asked for, and how.
    pub models: Vec<(ModelRef, Vec<Mode>)>,
    /// Jobs that may be held at once.
    pub jobs_max: u64,
    /// Bytes that all jobs together may take.
    pub bytes_max: u64,
    /// Bytes of one request.
    pub request_bytes_max: u64,
    /// Tokens that one job may ask for.
    pub tokens_max: u32,
    /// Attempts that one job may ask for.
    pub attempts_max: u16,
    /// How far away a deadline may lie, in milliseconds.
    pub ttl_ms_max: u64,
}

impl JobRules {
    /// What a verified snapshot says about jobs.
    #[must_use]
    pub fn of(config: &Verified<NodeConfig>) -> Self {
        let document = config.document();
        let limits = &document.limits;
        Self {
            config: config.digest(),
            in_force_until: Term::of(document).grace_until,
            models: document.models.iter().map(|it| (it.reference(), it.tasks.clone())).collect(),
            jobs_max: limits.queue_jobs_max,
            bytes_max: limits.queue_bytes_max,
            request_bytes_max: limits.request_bytes_max,
            tokens_max: limits.max_tokens,
            attempts_max: limits.attempts_max,
            ttl_ms_max: limits.ttl_ms_max,
        }
    }

    /// Whether a model may be asked for in this way.
    #[must_use]
    pub fn allows(&self, model: &ModelRef, mode: Mode) -> bool {
        self.models.iter().any(|(listed, modes)| listed == model && modes.contains(&mode))
    }
}

/// Why a job is refused for good.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// No snapshot is in force yet.
    #[error("no configuration is in force yet")]
    NoConfiguration,
    /// The offline grace of the snapshot has ended.
    #[error(
        "the configuration went out of force at {until}, it is {now}: check the clock, or the connection \
         that brings the next one"
    )]
    ConfigurationExpired {
        /// The end of the grace.
        until: Timestamp,
        /// The node's time.
        now: Timestamp,
    },
    /// It was meant for another network.
    #[error("the job is for {found}, this node runs on {ours}")]
    WrongNetwork {
        /// The job's.
        found: Network,
        /// The node's.
        ours: Network,
    },
    /// The snapshot does not list the model.
    #[error("model {0} is not in the configuration")]
    UnknownModel(ModelRef),
    /// The model does not do that.
    #[error("model {model} is not approved for {mode:?}")]
    UnknownMode {
        /// The model.
        model: ModelRef,
        /// What was asked of it.
        mode: Mode,
    },
    /// One of its numbers is out of range.
    #[error("{field} is {found}, at most {max} is taken")]
    TooLarge {
        /// Which.
        field: &'static str,
        /// Its value.
        found: u64,
        /// The largest that is taken.
        max: u64,
    },
    /// It may never be started.
    #[error("attempts_max is 0: the job could never be started")]
    NoAttempt,
}

/// What became of an offered job. Only `New` and `Duplicate` are acknowledged as accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// It is on disk.
    New,
    /// The same job was taken before; if it has ended, it stays ended.
    Duplicate,
    /// Another job with this id was taken before.
    Conflict,
    /// No room: offer it to another node, or later.
    Full,
    /// Its time has ended.
    Expired,
    /// It will never be taken.
    Rejected(Rejection),
}

/// Judges a job by everything but what the store already holds.
///
/// # Errors
/// The answer for a job that is not taken: [`Accepted::Expired`] or [`Accepted::Rejected`].
pub fn admit(job: &Job, network: Network, rules: Option<&JobRules>, now: Timestamp) -> Result<(), Accepted> {
    let rejected = |why| Err(Accepted::Rejected(why));
    if job.network != network {
        return rejected(Rejection::WrongNetwork { found: job.network, ours: network });
    }
    let Some(rules) = rules else { return rejected(Rejection::NoConfiguration) };
    if job.expires_at <= now {
        return Err(Accepted::Expired);
    }
    if rules.in_force_until <= now {
        return rejected(Rejection::ConfigurationExpired { until: rules.in_force_until, now });
    }
    let Some((_, modes)) = rules.models.iter().find(|(model, _)| *model == job.model) else {
        return rejected(Rejection::UnknownModel(job.model.clone()));
    };
    if !modes.contains(&job.mode) {
        return rejected(Rejection::UnknownMode { model: job.model.clone(), mode: job.mode });
    }
    if job.attempts_max == 0 {
        return rejected(Rejection::NoAttempt);
    }
    for (field, found, max) in [
        ("request bytes", job.request.bytes() as u64, rules.request_bytes_max),
        ("max_tokens", u64::from(job.max_tokens), u64::from(rules.tokens_max)),
        ("attempts_max", u64::from(job.attempts_max), u64::from(rules.attempts_max)),
        ("ttl_ms", job.expires_at.since_ms(now), rules.ttl_ms_max),
    ] {
        if found > max {
            return rejected(Rejection::TooLarge { field, found, max });
        }
    }
    Ok(())
}

/// What happens to a job that was running when the Agent went away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterRestart {
    /// Back to the queue; the attempt counts.
    Queue,
    /// It has been started as often as it may be.
    GiveUp,
}

/// Decides by the attempts that were begun, counted from 1.
#[must_use]
pub const fn after_restart(attempt: u16, attempts_max: u16) -> AfterRestart {
    if attempt >= attempts_max { AfterRestart::GiveUp } else { AfterRestart::Queue }
}

/// What is done with a job of a restored volume once the network has said what it knows of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterRestore {
    /// It goes on where it stood.
    Keep,
    /// It ended in the meantime: nothing more is run or sent.
    Settle(Outcome),
    /// Nobody waits for it: it fails, and that is reported.
    Fail,
    /// Others have it: it is forgotten here, and may be offered anew.
    Drop,
}

/// Decides by where the job stood when the backup was made. An answer that is there already is never thrown away for
/// nothing: sending it to a network that does not know the job does no harm.
#[must_use]
pub const fn after_restore(standing: Standing, claim: Claim) -> AfterRestore {
    match (claim, standing) {
        (Claim::Yours, _) | (Claim::Unknown, Standing::Finished | Standing::Failed) => AfterRestore::Keep,
        (Claim::Ended { outcome }, _) => AfterRestore::Settle(outcome),
        (Claim::Unknown, Standing::Queued | Standing::Running) => AfterRestore::Fail,
        (Claim::NotYours, _) => AfterRestore::Drop,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use node_types::{JobId, job::Request};

    fn job() -> Job {
        Job {
            id: JobId::from_bytes([1; 16]),
            network: Network::Testnet,
            model: ModelRef { name: "m".into(), version: "1".into() },
            mode: Mode::Chat,
            request: Request::parse(br#"{"prompt":"a"}"#).unwrap(),
            priority: 0,
            max_tokens: 10,
            expires_at: Timestamp::from_ms(2000),
            attempts_max: 2,
        }
    }

    fn rules() -> JobRules {
        JobRules {
            config: Digest::of(b"c"),
            in_force_until: Timestamp::from_ms(1001),
            models: vec![(job().model, vec![Mode::Chat])],
            jobs_max: 10,
            bytes_max: 10_000,
            request_bytes_max: job().request.bytes() as u64,
            tokens_max: 10,
            attempts_max: 2,
            ttl_ms_max: 1000,
        }
    }

    const NOW: Timestamp = Timestamp::from_ms(1000);

    type Edit = fn(&mut Job, &mut JobRules);

    fn answer(change: impl FnOnce(&mut Job, &mut JobRules)) -> Result<(), Accepted> {
        let (mut job, mut rules) = (job(), rules());
        change(&mut job, &mut rules);
        admit(&job, Network::Testnet, Some(&rules), NOW)
    }

    #[test]
    fn a_job_at_every_limit_is_taken_and_one_beyond_any_is_not() {
        assert_eq!(answer(|_, _| ()), Ok(()));
        assert_eq!(answer(|job, _| job.expires_at = NOW), Err(Accepted::Expired));
        assert_eq!(answer(|job, _| job.expires_at = NOW.plus_ms(1)), Ok(()));
        let too_large: [(&str, Edit); 4] = [
            ("request bytes", |_, rules| rules.request_bytes_max -= 1),
            ("max_tokens", |job, _| job.max_tokens += 1),
            ("attempts_max", |job, _| job.attempts_max += 1),
            ("ttl_ms", |job, _| job.expires_at = job.expires_at.plus_ms(1)),
        ];
        for (wanted, change) in too_large {
            let found = answer(change);
            assert!(
                matches!(found, Err(Accepted::Rejected(Rejection::TooLarge { field, .. })) if field == wanted),
                "{wanted}: {found:?}"
            );
        }
    }

    #[test]
    fn a_job_of_another_network_model_or_mode_is_rejected_by_name() {
        let why = |found| match found {
            Err(Accepted::Rejected(why)) => why,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            why(answer(|job, _| job.network = Network::Mainnet)),
            Rejection::WrongNetwork { found: Network::Mainnet, ours: Network::Testnet }
        );
        assert!(matches!(
            why(answer(|job, _| job.model.version = "2".into())),
            Rejection::UnknownModel(ModelRef { version, .. }) if version == "2"
        ));
        assert!(matches!(
            why(answer(|job, _| job.mode = Mode::Embedding)),
            Rejection::UnknownMode { mode: Mode::Embedding, .. }
        ));
        assert_eq!(why(answer(|job, _| job.attempts_max = 0)), Rejection::NoAttempt);
        assert_eq!(why(admit(&job(), Network::Testnet, None, NOW)), Rejection::NoConfiguration);
    }

    #[test]
    fn a_job_offered_after_the_offline_grace_is_rejected_and_one_whose_own_time_ended_is_expired() {
        let why = Rejection::ConfigurationExpired { until: NOW, now: NOW };
        assert_eq!(answer(|_, rules| rules.in_force_until = NOW), Err(Accepted::Rejected(why)));
        assert_eq!(answer(|_, rules| rules.in_force_until = NOW.plus_ms(1)), Ok(()));
        let both = |job: &mut Job, rules: &mut JobRules| (job.expires_at, rules.in_force_until) = (NOW, NOW);
        assert_eq!(answer(both), Err(Accepted::Expired));
    }

    #[test]
    fn after_a_restore_only_what_the_network_says_is_ours_goes_on() {
        use Standing::{Failed, Finished, Queued, Running};
        let ended = Claim::Ended { outcome: Outcome::Answered };
        for standing in [Queued, Running, Finished, Failed] {
            assert_eq!(after_restore(standing, Claim::Yours), AfterRestore::Keep);
            assert_eq!(after_restore(standing, Claim::NotYours), AfterRestore::Drop);
            assert_eq!(after_restore(standing, ended), AfterRestore::Settle(Outcome::Answered));
        }
        for (standing, wanted) in [
            (Queued, AfterRestore::Fail),
            (Running, AfterRestore::Fail),
            (Finished, AfterRestore::Keep),
            (Failed, AfterRestore::Keep),
        ] {
            assert_eq!(after_restore(standing, Claim::Unknown), wanted, "{standing:?}");
        }
    }

    #[test]
    fn the_last_attempt_is_not_repeated() {
        assert_eq!(after_restart(1, 2), AfterRestart::Queue);
        assert_eq!(after_restart(2, 2), AfterRestart::GiveUp);
        assert_eq!(after_restart(1, 1), AfterRestart::GiveUp);
    }
}
