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
    container::{self, ContainerPlan, ImageFacts},
    endpoint::Endpoint,
    error::RuntimeError,
    launch::{self, ProcessPlan},
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

/// Which runtime, and how it is reached.
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
    /// A container that the Agent has an engine make.
    Container(ContainerPlan),
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
        /// How often in a row, with this time.
        falls: u32,
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
    /// Counts how often one that served went away. Who watches the state sees the last one alone.
    pub falls: Arc<AtomicU64>,
    /// The binary that calls [`super::sandbox::main`]: this process's own.
    pub helper: PathBuf,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            ready_limit: Duration::from_secs(120),
            health_every: Duration::from_secs(5),
            failures_max: 3,
            falls: Arc::default(),
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
    image: watch::Receiver<Option<ImageFacts>>,
    stop: oneshot::Sender<()>,
    watching: JoinHandle<()>,
}

impl Supervisor {
    /// Begins; must be called inside a tokio runtime.
    #[must_use]
    pub fn start(plan: Plan, tuning: Tuning) -> Self {
        let (state, seen) = watch::channel(State::Starting);
        let (stop, stopped) = oneshot::channel();
        let lines = broadcast::Sender::new(LINES_MAX);
        let (facts, image) = watch::channel(None);
        let watcher = Watcher { state, tuning, lines: lines.clone(), facts };
        let watching = tokio::spawn(async move {
            match plan {
                // Its end takes nothing with it.
                Plan::External { url, api_key } => tokio::select! {
                    () = watcher.external(&url, api_key) => {}
                    _ = stopped => {}
                },
                Plan::Process(plan) => watcher.own(&Own::Process(plan), stopped).await,
                Plan::Container(plan) => watcher.own(&Own::Container(plan), stopped).await,
            }
        });
        Self { state: seen, lines, image, stop, watching }
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

    /// What the image of a container was found to be, once it was found.
    #[must_use]
    pub fn image(&self) -> watch::Receiver<Option<ImageFacts>> {
        self.image.clone()
    }

    /// Ends the runtime; a program and everything that it started are gone when this returns, and so is a container.
    pub async fn stop(self) {
        let _ = self.stop.send(());
        // It has nothing to say; a panic in it has been printed.
        let _ = self.watching.await;
    }
}

/// What the Agent starts itself.
enum Own {
    Process(ProcessPlan),
    Container(ContainerPlan),
}

impl Own {
    /// The first and the longest wait after it ended, in milliseconds.
    const fn retry_ms(&self) -> (u64, u64) {
        match self {
            Self::Process(plan) => (plan.retry_ms_min, plan.retry_ms_max),
            Self::Container(plan) => (plan.retry_ms_min, plan.retry_ms_max),
        }
    }
}

/// What the Agent started itself.
enum Running {
    Process(launch::Running),
    Container(Box<container::Running>),
}

impl Running {
    const fn endpoint(&self) -> &Arc<Endpoint> {
        match self {
            Self::Process(running) => &running.endpoint,
            Self::Container(running) => &running.endpoint,
        }
    }

    /// Waits until it has ended, and says how. Dropping the future changes nothing.
    async fn ended(&mut self) -> String {
        match self {
            Self::Process(running) => running.ended().await,
            Self::Container(running) => running.ended().await,
        }
    }

    /// Leaves nothing of it; `ended` says whether it has ended already.
    async fn clear(&mut self, ended: bool) {
        match self {
            Self::Process(running) if !ended => {
                running.kill();
                // Nothing more can be done about what survives it.
                let _ = timeout(KILL_LIMIT, running.ended()).await;
            }
            Self::Process(_) => {}
            Self::Container(running) => running.remove().await,
        }
    }

    fn with_last_lines(&self, cause: String) -> String {
        match self {
            Self::Process(running) => running.with_last_lines(cause),
            Self::Container(running) => running.with_last_lines(cause),
        }
    }
}

/// How one life of a program ended.
enum Life {
    Stopped,
    /// `served` is nothing where it never became healthy.
    Fell {
        cause: String,
        served: Option<Duration>,
    },
}

struct Watcher {
    state: watch::Sender<State>,
    tuning: Tuning,
    lines: broadcast::Sender<String>,
    facts: watch::Sender<Option<ImageFacts>>,
}

impl Watcher {
    async fn external(&self, url: &str, api_key: Option<Zeroizing<String>>) {
        let (min_ms, max_ms) = EXTERNAL_RETRY_MS;
        let endpoint = match Endpoint::new(url, api_key) {
            Ok(endpoint) => Arc::new(endpoint),
            Err(error) => {
                // Settings do not mend themselves.
                self.state.send_replace(State::Down {
                    cause: causes(&error),
                    retry_in_ms: u64::MAX,
                    falls: 1,
                });
                return std::future::pending().await;
            }
        };
        let mut falls = 0;
        loop {
            let cause = match endpoint.healthy().await {
                Ok(()) => {
                    falls = 0;
                    self.state.send_replace(State::Ready(Arc::clone(&endpoint)));
                    let cause = self.sick(&endpoint).await;
                    self.fell();
                    cause
                }
                Err(error) => causes(&error),
            };
            falls += 1;
            self.wait(falls, min_ms, max_ms, cause).await;
        }
    }

    async fn own(&self, plan: &Own, mut stopped: oneshot::Receiver<()>) {
        let (retry_ms_min, retry_ms_max) = plan.retry_ms();
        let mut falls = 0;
        loop {
            self.state.send_replace(State::Starting);
            let Life::Fell { cause, served } = self.life(plan, &mut stopped).await else { return };
            if served.is_some() {
                self.fell();
            }
            let anew = served.is_some_and(|served| served > Duration::from_millis(retry_ms_max));
            falls = if anew { 1 } else { falls + 1 };
            tokio::select! {
                () = self.wait(falls, retry_ms_min, retry_ms_max, cause) => {}
                _ = &mut stopped => return,
            }
        }
    }

    /// Counted before the state says so.
    fn fell(&self) {
        self.tuning.falls.fetch_add(1, Ordering::Relaxed);
    }

    async fn wait(&self, falls: u32, min_ms: u64, max_ms: u64, cause: String) {
        let wait = backoff::wait(falls, min_ms, max_ms, backoff::random());
        let retry_in_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        self.state.send_replace(State::Down { cause, retry_in_ms, falls });
        sleep(wait).await;
    }

    /// Starts it; nothing where it was stopped before.
    async fn begin(
        &self,
        plan: &Own,
        stopped: &mut oneshot::Receiver<()>,
    ) -> Result<Option<Running>, RuntimeError> {
        let lines = self.lines.clone();
        // Starting is short, so it is not broken off: whoever stops it waits for what it began. Getting an image is not.
        match plan {
            Own::Process(plan) => {
                let running = launch::Running::start(plan, &self.tuning.helper, lines).await?;
                Ok(Some(Running::Process(running)))
            }
            Own::Container(plan) => {
                let prepared = tokio::select! {
                    prepared = container::Prepared::new(plan) => prepared?,
                    _ = stopped => return Ok(None),
                };
                self.facts.send_replace(Some(prepared.facts().clone()));
                let running = container::Running::start(plan, prepared, lines).await?;
                Ok(Some(Running::Container(Box::new(running))))
            }
        }
    }

    async fn life(&self, plan: &Own, stopped: &mut oneshot::Receiver<()>) -> Life {
        let mut running = match self.begin(plan, stopped).await {
            Ok(Some(running)) => running,
            Ok(None) => return Life::Stopped,
            Err(error) => return Life::Fell { cause: causes(&error), served: None },
        };
        let endpoint = Arc::clone(running.endpoint());
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
        running.clear(ended).await;
        match cause {
            Some(cause) => {
                // One that has served may have printed what it was asked; of one that never did it is worth knowing.
                match begun.get() {
                    Some(begun) => Life::Fell { cause, served: Some(begun.elapsed()) },
                    None => Life::Fell { cause: running.with_last_lines(cause), served: None },
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
        let plan = Plan::External { url: "nowhere".into(), api_key: None };
        let supervisor = Supervisor::start(plan, Tuning::default());
        let mut state = supervisor.state();
        let down = state.wait_for(|state| matches!(state, State::Down { .. })).await.unwrap().clone();
        let State::Down { cause, retry_in_ms: u64::MAX, falls: 1 } = down else { panic!("{down:?}") };
        assert!(cause.starts_with("nowhere cannot be the runtime's address"), "{cause}");
        supervisor.stop().await;
    }
}
