//! Sync: the snapshot in force is followed by the runtime, and by the next snapshot.
//!
//! ```text
//! fetch -> judge -> apply -> runtime follows -> health check -> confirmed
//!                              '-- fails --> last good one in force again, and followed
//! ```
//!
//! A snapshot that was good before is never taken back because the runtime fails now: it is tried again.

use std::{
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use node_store::snapshot::{Applied, InForce, SnapshotError};
use node_types::{
    Digest,
    envelope::Envelope,
    log::{Kind, Level},
    protocol::{ConfigOutcome, ConfigReport, Readiness},
    verify::Refused,
};
use serde_json::json;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use crate::{
    backoff,
    blocking::blocking,
    engine::{Engine, Unhealthy},
    enroll::{self, EnrolError},
    journal::causes,
    network::{Network, Offered},
    node::Node,
    time,
};

/// The first and the longest wait between two attempts where no snapshot says, in milliseconds.
const RETRY_MS: (u64, u64) = (500, 30_000);

/// Follows the network's snapshots until `stop`. What becomes of each is given to `reports`.
pub async fn run<N: Network>(
    node: Arc<Node>,
    network: Arc<N>,
    mut engine: Engine,
    reports: mpsc::Sender<ConfigReport>,
    mut stop: watch::Receiver<bool>,
) {
    let mut syncing = Syncing {
        node,
        network,
        reports,
        followed: None,
        refused: None,
        unhealthy_for: None,
        failed_before: None,
        unhealthy: 0,
        unreachable: 0,
    };
    let mut next_look = Instant::now();
    let mut next_try = Instant::now();
    while !*stop.borrow() {
        if Instant::now() >= next_try {
            tokio::select! {
                () = syncing.follow(&mut engine) => {}
                _ = stop.changed() => break,
            }
            next_try = Instant::now() + syncing.wait_for_runtime();
        }
        if Instant::now() >= next_look {
            let changed = tokio::select! {
                changed = syncing.look() => changed,
                _ = stop.changed() => break,
            };
            next_look = Instant::now() + syncing.wait_for_look();
            if changed {
                next_try = Instant::now();
                continue;
            }
        }
        tokio::select! {
            () = sleep_until(next_look.min(next_try)) => {}
            () = syncing.node.fetch.notified() => next_look = Instant::now(),
            () = syncing.node.follow.notified() => next_try = Instant::now(),
            _ = stop.changed() => {}
        }
    }
    engine.stop().await;
}

struct Syncing<N> {
    node: Arc<Node>,
    network: Arc<N>,
    reports: mpsc::Sender<ConfigReport>,
    /// The snapshot whose runtime passed its health check.
    followed: Option<Digest>,
    /// The envelope that was refused last, by its bytes: it is offered until there is a newer one, and said once.
    refused: Option<Digest>,
    /// The snapshot whose health check failed last, and why: each attempt fails the same way, and it is said once.
    unhealthy_for: Option<(Digest, Unhealthy)>,
    /// The envelope of a snapshot that failed its health check before.
    failed_before: Option<Digest>,
    unhealthy: u32,
    unreachable: u32,
}

impl<N: Network> Syncing<N> {
    fn timings(&self) -> ((u64, u64), Option<u64>) {
        self.node.store.snapshots().current().map_or((RETRY_MS, None), |current| {
            let timings = &current.config.document().timings;
            ((timings.retry_ms_min, timings.retry_ms_max), Some(timings.sync_ms))
        })
    }

    fn wait_for_runtime(&self) -> Duration {
        match self.unhealthy {
            // Nothing to try: a new snapshot wakes it.
            0 if self.followed.is_some() => Duration::from_secs(3600),
            0 => Duration::from_millis(self.timings().0.1),
            failures => {
                let (min, max) = self.timings().0;
                backoff::wait(failures, min, max, backoff::random())
            }
        }
    }

    fn wait_for_look(&self) -> Duration {
        let ((min, max), sync_ms) = self.timings();
        match (self.unreachable, sync_ms) {
            (0, Some(sync_ms)) => Duration::from_millis(sync_ms),
            (failures, _) => backoff::wait(failures.max(1), min, max, backoff::random()),
        }
    }

    /// Lets the runtime follow the snapshot in force, if it has not yet.
    async fn follow(&mut self, engine: &mut Engine) {
        let Some(current) = self.node.store.snapshots().current() else {
            self.node.set_readiness(Readiness::NoConfiguration);
            return;
        };
        let digest = current.config.digest();
        let recheck = self.node.recheck.swap(false, Ordering::Relaxed);
        if self.followed == Some(digest) && self.unhealthy == 0 && !recheck && engine.fits(&current.config) {
            engine.say_ready();
            return;
        }
        self.followed = None;
        self.node.set_readiness(Readiness::Starting);
        match engine.follow(&current.config).await {
            Ok(()) => self.healthy(&current).await,
            // It is followed when they are here.
            Err(Unhealthy::Installing | Unhealthy::Changed { .. }) => {
                self.node.set_readiness(Readiness::Installing);
            }
            // That says nothing about the snapshot.
            Err(why @ Unhealthy::Store(_)) => {
                self.node.journal.note(
                    Level::Error,
                    Kind::Storage,
                    format!("the runtime cannot follow: {why}"),
                );
            }
            Err(why) => self.failed(&current, why).await,
        }
    }

    async fn healthy(&mut self, current: &InForce) {
        let (digest, version) = (current.config.digest(), current.config.document().version);
        self.unhealthy = 0;
        self.unhealthy_for = None;
        self.node.set_unhealthy(None);
        self.followed = Some(digest);
        if current.good {
            return;
        }
        let store = Arc::clone(&self.node.store);
        let confirmed = blocking(move || store.snapshots().confirm(digest)).await;
        if let Err(error) = confirmed {
            self.node.journal.failed(Level::Error, Kind::Storage, "cannot confirm the snapshot", &error);
            return;
        }
        let text = format!("snapshot {version} is in force and passed its health check");
        let fields = [("version", json!(version)), ("digest", json!(digest.to_string()))];
        self.node.journal.measured(Level::Info, Kind::Configuration, None, text, fields);
        self.report(Some(digest), ConfigOutcome::Applied, None).await;
    }

    async fn failed(&mut self, current: &InForce, why: Unhealthy) {
        let (digest, version) = (current.config.digest(), current.config.document().version);
        self.unhealthy += 1;
        self.node.set_unhealthy(Some(why.to_string()));
        self.node.set_readiness(Readiness::RuntimeDown);
        let text = format!("snapshot {version} does not pass its health check: {why}");
        let failed = Some((digest, why.clone()));
        let new = self.unhealthy_for != failed && self.unhealthy.is_power_of_two();
        if new {
            self.unhealthy_for = failed;
        }
        self.node.journal.note(if new { Level::Error } else { Level::Debug }, Kind::Configuration, text);
        if current.good {
            return;
        }
        let now = match time::now(&self.node.store) {
            Ok(now) => now,
            Err(error) => {
                self.node.journal.failed(
                    Level::Error,
                    Kind::Agent,
                    "cannot go back to the last good snapshot",
                    &error,
                );
                return;
            }
        };
        let store = Arc::clone(&self.node.store);
        match blocking(move || store.roll_back_snapshot(now)).await {
            Ok(()) => {
                self.unhealthy = 1;
                self.node.install.notify_one();
                let text = format!("snapshot {version} failed; the last good one is in force again");
                self.node.journal.note(Level::Warn, Kind::Configuration, text);
                self.report(Some(digest), ConfigOutcome::RolledBack, Some(why.to_string())).await;
            }
            // The first one: it is tried again, there is no other.
            Err(SnapshotError::NoPrevious) => {}
            Err(error) => {
                self.node.journal.failed(
                    Level::Error,
                    Kind::Storage,
                    "cannot go back to the last good snapshot",
                    &error,
                );
            }
        }
    }

    /// Looks for a newer snapshot. Says whether another one is in force now.
    async fn look(&mut self) -> bool {
        match self.try_to_look().await {
            Ok(changed) => {
                if self.unreachable > 1 {
                    self.node.journal.note(Level::Info, Kind::Network, "the network answers again");
                }
                self.unreachable = 0;
                changed
            }
            Err(error) => {
                if let EnrolError::Network(error) = &error {
                    self.node.heed(error).await;
                }
                self.unreachable += 1;
                if self.unreachable.is_power_of_two() {
                    let text = format!("no look at the network's snapshot: {}", causes(&error));
                    self.node.journal.note(Level::Warn, Kind::Network, text);
                }
                false
            }
        }
    }

    async fn try_to_look(&mut self) -> Result<bool, EnrolError> {
        let (node, network) = (Arc::clone(&self.node), Arc::clone(&self.network));
        if node.store.snapshots().keyset().is_none() {
            enroll::follow_keysets(&node, &*network).await?;
        }
        if node.store.snapshots().current().is_none() || !node.is_registered() {
            match enroll::register(&node, &*network).await {
                Ok(()) => node.set_registered(true),
                // With a snapshot the node works; the session says what the network thinks of it.
                Err(error) if node.store.snapshots().current().is_some() => {
                    if let EnrolError::Network(error) = &error {
                        node.heed(error).await;
                    }
                    node.journal.note(
                        Level::Warn,
                        Kind::Network,
                        format!("not registered: {}", causes(&error)),
                    );
                }
                Err(error) => return Err(error),
            }
        }
        let held = node.store.snapshots().current().map(|current| current.config.digest());
        let envelope = match network.snapshot(held).await? {
            Offered::None | Offered::Held => return Ok(false),
            Offered::Envelope(envelope) => envelope,
        };
        let bytes = Digest::of(&envelope);
        let refused = self.refused == Some(bytes) && !self.would_pass(&envelope);
        if refused || self.failed_before == Some(bytes) {
            return Ok(false);
        }
        let mut applied = self.apply(&envelope).await;
        if let Err(SnapshotError::Refused(Refused::OtherKeyset { .. } | Refused::BelowThreshold { .. })) =
            &applied
        {
            // It may be signed by a keyset that this node has not seen.
            enroll::follow_keysets(&node, &*network).await?;
            applied = self.apply(&envelope).await;
        }
        match applied {
            Ok(Applied::New) => {
                self.node.install.notify_one();
                Ok(true)
            }
            Ok(Applied::Already) => Ok(false),
            Ok(Applied::FailedBefore) => {
                self.set_unwanted(&envelope);
                self.failed_before = Some(bytes);
                Ok(false)
            }
            Err(error @ SnapshotError::Refused(_)) => {
                self.set_unwanted(&envelope);
                self.refused = Some(bytes);
                self.report(None, ConfigOutcome::Refused, Some(error.to_string())).await;
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Notes what need not be fetched at every heartbeat: the timer looks again.
    fn set_unwanted(&self, envelope: &[u8]) {
        let digest = Envelope::parse(envelope).ok().map(|envelope| Digest::of(&envelope.payload));
        *self.node.unwanted.lock().unwrap_or_else(PoisonError::into_inner) = digest;
    }

    /// Whether an envelope that was refused before passes now: a clock may have been wrong, or a keyset missing.
    fn would_pass(&self, envelope: &[u8]) -> bool {
        let now = time::now(&self.node.store);
        now.is_ok_and(|now| self.node.store.snapshots().verify(envelope, now).is_ok())
    }

    async fn apply(&self, envelope: &[u8]) -> Result<Applied, SnapshotError> {
        let (node, envelope) = (Arc::clone(&self.node), envelope.to_vec());
        let Ok(now) = time::now(&node.store) else { return Err(SnapshotError::NoKeyset) };
        blocking(move || node.store.apply_envelope(&envelope, now)).await
    }

    async fn report(&self, config: Option<Digest>, outcome: ConfigOutcome, reason: Option<String>) {
        let current = self.node.store.snapshots().current();
        let in_force = current.map_or(0, |current| current.config.document().version);
        // Where nobody takes reports any more, the Agent ends.
        let _ = self.reports.send(ConfigReport { config, outcome, reason, in_force }).await;
    }
}
