//! The devnet as a whole: started, asked, stopped.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use serde_json::Value;
use tokio::{
    net::TcpListener,
    sync::mpsc,
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::{
    DevnetError, Fault, Settings, clock,
    core::{Core, Shared},
    server,
    shelf::Shelf,
};

/// The longest time between two looks at what is due.
const TICK_MAX: Duration = Duration::from_millis(50);
/// The shortest.
const TICK_MIN: Duration = Duration::from_millis(5);

/// How long sessions may take to end: 3 seconds.
const GOODBYE_LIMIT: Duration = Duration::from_secs(3);

/// A command that could not be carried out.
#[derive(Debug, thiserror::Error)]
#[error("the devnet cannot do that: {0}")]
pub struct CommandError(String);

/// A small network for one machine, running. It ends when it is dropped; [`Devnet::stop`] waits for the end.
#[derive(Debug)]
pub struct Devnet {
    shared: Arc<Shared>,
    address: SocketAddr,
    server: Option<JoinHandle<()>>,
}

impl Devnet {
    /// Starts a devnet, inside a Tokio runtime. The first start makes its keys and its first snapshot, later ones go
    /// on where it stopped.
    ///
    /// # Errors
    /// [`DevnetError`]: the settings make no sense, the folder is another network's or in use, the address is taken.
    pub async fn start(settings: Settings) -> Result<Self, DevnetError> {
        settings.check()?;
        let listen = settings.listen;
        let failed = |source| DevnetError::Listen { address: listen, source };
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let shelf = Arc::new(Shelf::new(settings.models.clone(), format!("http://{address}")));
        let core = Core::open(&settings, shelf, clock::now())?;
        let tick = Duration::from_millis(settings.offer_retry_ms / 2).clamp(TICK_MIN, TICK_MAX);
        let (sender, control) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared::new(settings, core, sender));
        let server = tokio::spawn(server::serve(Arc::clone(&shared), listener, address, control));
        tokio::spawn(run(Arc::clone(&shared), tick));
        tracing::info!(%address, "the devnet listens");
        Ok(Self { shared, address, server: Some(server) })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its base URL, for nodes; OpenAI clients add `/v1`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Switches a fault on, does it, or with [`Fault::None`] ends all of them. Gives what is on, as `GET faults` does.
    ///
    /// # Errors
    /// [`CommandError`] for a lower snapshot where there was none, or a database that cannot be written.
    pub fn fault(&self, fault: Fault) -> Result<Value, CommandError> {
        self.shared.fault(fault).map_err(|trouble| CommandError(trouble.to_string()))
    }

    /// What it knows, in brief, as `GET state` shows it.
    ///
    /// # Errors
    /// [`CommandError`] where the database cannot be read.
    pub fn state(&self) -> Result<Value, CommandError> {
        let now = clock::now();
        self.shared.look(|core| core.show_state(now)).map_err(|trouble| CommandError(trouble.to_string()))
    }

    /// Ends it in good order: sessions are told, requests are answered, the database is closed.
    pub async fn stop(mut self) {
        self.shared.close();
        if let Some(server) = self.server.take()
            && let Err(error) = server.await
        {
            tracing::warn!(%error, "the devnet's server did not end in good order");
        }
        // Who does not read its goodbye by then is not waited for.
        let _ = timeout(GOODBYE_LIMIT, self.shared.sessions.closed()).await;
    }
}

impl Drop for Devnet {
    fn drop(&mut self) {
        self.shared.close();
    }
}

async fn run(shared: Arc<Shared>, tick: Duration) {
    while shared.tick() {
        tokio::select! {
            () = sleep(tick) => {}
            () = shared.wake.notified() => {}
        }
    }
}
