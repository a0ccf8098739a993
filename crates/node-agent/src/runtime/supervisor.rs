//! Keeps the one runtime there: starts it, watches it, starts it again.
//!
//! A runtime is down when its process ends, when it does not become healthy in time, or when it fails its health checks in
//! a row. It is not judged while it works on a run: some servers answer nothing else meanwhile, and a run has its own time.
//! The wait before the next start doubles with each fall; it begins anew after the runtime served for longer than
//! the longest wait.

use std::{
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{broadcast, oneshot, watch},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use zeroize::Zeroizing;

use super::{
    endpoint::Endpoint,
    launch::{ProcessPlan, Running},
};
use crate::{backoff, journal::causes};

/// The first and the longest wait between two looks for an external runtime that is down, in milliseconds.
const EXTERNAL_RETRY_MS: (u64, u64) = (1000, 30_000);
/// Between two looks for a program that starts: a tenth of a second.
const STARTING_EVERY: Duration = Duration::from_millis(100);
/// How long killing may take; what the kernel cannot end even then is left behind.
const KILL_LIMIT: Duration = Duration::from_secs(10);
/// Lines that a slow listener may fall behind.
const LINES_MAX: usize = 256;

/// Which runtime, and how it is reached. Containers will be another kind.
#[derive(Clone, Debug)]
pub enum Plan {
    /// A server that the operator runs.
    External {
        /// Its base URL.
        url: String,
        /// Its API key, if it asks for one.
        api_key: Option<Zeroizing<String>>,
    },
    /// A program that the Agent starts.
    Process(ProcessPlan),
}

/// What the runtime is doing.
#[derive(Clone, Debug)]
pub enum State {
    /// It is being started or looked for.
    Starting,
    /// It serves.
    Ready(Arc<Endpoint>),
    /// It is not there.
    Down {
        /// Why; ends with the last lines that a program printed.
        cause: String,
        /// When it is tried again.
        retry_in_ms: u64,
    },
}

/// How a runtime is watched.
#[derive(Clone, Debug)]
pub struct Tuning {
    /// How long a program may take until it is healthy.
    pub ready_limit: Duration,
    /// Between two health checks of a runtime that serves.
    pub health_every: Duration,
    /// Health checks that may fail in a row before it is down.
    pub failures_max: u32,
    /// The binary that calls [`super::sandbox::main`]: this process's own.
    pub helper: PathBuf,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            ready_limit: Duration::from_secs(120),
            health_every: Duration::from_secs(5),
            failures_max: 3,
            // Also right where the binary's file has been replaced since.
            helper: PathBuf::from("/proc/self/exe"),
        }
    }
}

/// Keeps one runtime there, until it is stopped or dropped.
#[derive(Debug)]
pub struct Supervisor {
    state: watch::Receiver<State>,
    lines: broadcast::Sender<String>,
    restarts: Arc<AtomicU64>,
    stop: oneshot::Sender<()>,
    watching: JoinHandle<()>,
}

impl Supervisor {
    /// Begins; must be called inside a tokio runtime.
    #[must_use]
    pub fn start(plan: Plan) -> Self {
        Self::start_with(plan, Tuning::default())
    }

    /// Begins, watching in another way.
    #[must_use]
    pub fn start_with(plan: Plan, tuning: Tuning) -> Self {
        let (state, seen) = watch::channel(State::Starting);
        let (stop, stopped) = oneshot::channel();
        let lines = broadcast::Sender::new(LINES_MAX);
        let restarts = Arc::<AtomicU64>::default();
        let watcher = Watcher { state, tuning, lines: lines.clone(), restarts: Arc::clone(&restarts) };
        let watching = tokio::spawn(async move {
            match plan {
                // Its end takes nothing with it.
                Plan::External { url, api_key } => tokio::select! {
                    () = watcher.external(&url, api_key) => {}
                    _ = stopped => {}
                },
                Plan::Process(plan) => watcher.process(&plan, stopped).await,
            }
        });
        Self { state: seen, lines, restarts, stop, watching }
    }

    /// What the runtime is doing, now and from now on.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// What the program prints from now on, line by line; who is too slow misses some.
    #[must_use]
    pub fn lines(&self) -> broadcast::Receiver<String> {
        self.lines.subscribe()
    }

    /// How often the program was started again.
    #[must_use]
    pub fn restarts(&self) -> u64 {
        self.restarts.load(Ordering::Relaxed)
    }

    /// Ends the runtime; a program and everything that it started are gone when this returns.
    pub async fn stop(self) {
        let _ = self.stop.send(());
        // It has nothing to say; a panic in it has been printed.
        let _ = self.watching.await;
    }
}

/// How one life of a program ended.
enum Life {
    Stopped,
    Fell { cause: String, served: Duration },
}

struct Watcher {
    state: watch::Sender<State>,
    tuning: Tuning,
    lines: broadcast::Sender<String>,
    restarts: Arc<AtomicU64>,
}

impl Watcher {
    async fn external(&self, url: &str, api_key: Option<Zeroizing<String>>) {
        let (min_ms, max_ms) = EXTERNAL_RETRY_MS;
        let endpoint = match Endpoint::new(url, api_key) {
            Ok(endpoint) => Arc::new(endpoint),
            Err(error) => {
                // Settings do not mend themselves.
                self.state.send_replace(State::Down { cause: causes(&error), retry_in_ms: u64::MAX });
                return std::future::pending().await;
            }
        };
        let mut falls = 0;
        loop {
            let cause = match endpoint.healthy().await {
                Ok(()) => {
                    falls = 0;
                    self.state.send_replace(State::Ready(Arc::clone(&endpoint)));
                    self.sick(&endpoint).await
                }
                Err(error) => causes(&error),
            };
            falls += 1;
            self.wait(falls, min_ms, max_ms, cause).await;
        }
    }

    async fn process(&self, plan: &ProcessPlan, mut stopped: oneshot::Receiver<()>) {
        let mut falls = 0;
        loop {
            self.state.send_replace(State::Starting);
            let Life::Fell { cause, served } = self.life(plan, &mut stopped).await else { return };
            falls = if served > Duration::from_millis(plan.retry_ms_max) { 1 } else { falls + 1 };
            tokio::select! {
                () = self.wait(falls, plan.retry_ms_min, plan.retry_ms_max, cause) => {}
                _ = &mut stopped => return,
            }
            self.restarts.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn wait(&self, falls: u32, min_ms: u64, max_ms: u64, cause: String) {
        let wait = backoff::wait(falls, min_ms, max_ms, backoff::random());
        let retry_in_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        self.state.send_replace(State::Down { cause, retry_in_ms });
        sleep(wait).await;
    }

    async fn life(&self, plan: &ProcessPlan, stopped: &mut oneshot::Receiver<()>) -> Life {
        // Short, so it is not broken off: whoever stops it waits for what it began.
        let mut running = match Running::start(plan, &self.tuning.helper, self.lines.clone()).await {
            Ok(running) => running,
            Err(error) => return Life::Fell { cause: causes(&error), served: Duration::ZERO },
        };
        let endpoint = Arc::clone(&running.endpoint);
        let begun = OnceLock::new();
        let serving = async {
            if let Err(cause) = self.healthy_in_time(&endpoint).await {
                return cause;
            }
            begun.get_or_init(Instant::now);
            self.state.send_replace(State::Ready(Arc::clone(&endpoint)));
            self.sick(&endpoint).await
        };
        let (cause, ended) = tokio::select! {
            cause = running.ended() => (Some(cause), true),
            cause = serving => (Some(cause), false),
            _ = stopped => (None, false),
        };
        if !ended {
            running.kill();
            // Nothing more can be done about what survives it.
            let _ = timeout(KILL_LIMIT, running.ended()).await;
        }
        match cause {
            Some(cause) => {
                // One that has served may have printed what it was asked; of one that never did it is worth knowing.
                match begun.get() {
                    Some(begun) => Life::Fell { cause, served: begun.elapsed() },
                    None => Life::Fell { cause: running.with_last_lines(cause), served: Duration::ZERO },
                }
            }
            None => Life::Stopped,
        }
    }

    async fn healthy_in_time(&self, endpoint: &Endpoint) -> Result<(), String> {
        let mut last = String::new();
        let healthy = async {
            loop {
                match endpoint.healthy().await {
                    Ok(()) => return,
                    Err(error) => last = causes(&error),
                }
                sleep(STARTING_EVERY).await;
            }
        };
        let answer = timeout(self.tuning.ready_limit, healthy).await;
        answer.map_err(|_| {
            format!("it was not healthy after {} ms: {last}", self.tuning.ready_limit.as_millis())
        })
    }

    /// Waits until a runtime that serves does not any more, and says why.
    async fn sick(&self, endpoint: &Endpoint) -> String {
        let mut failures = 0;
        loop {
            sleep(self.tuning.health_every).await;
            if endpoint.runs() > 0 {
                failures = 0;
                continue;
            }
            match endpoint.healthy().await {
                Ok(()) => failures = 0,
                Err(error) => {
                    failures += 1;
                    if failures >= self.tuning.failures_max {
                        return causes(&error);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_that_is_none_is_told_and_not_tried_again() {
        let supervisor = Supervisor::start(Plan::External { url: "nowhere".into(), api_key: None });
        let mut state = supervisor.state();
        let down = state.wait_for(|state| matches!(state, State::Down { .. })).await.unwrap().clone();
        let State::Down { cause, retry_in_ms: u64::MAX } = down else { panic!("{down:?}") };
        assert!(cause.starts_with("nowhere cannot be the runtime's address"), "{cause}");
        supervisor.stop().await;
    }
}
