//! The demo's devnet, as it is steered and asked over HTTP.

use std::{thread::sleep, time::Duration};

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    failure::Failure,
    http::{self, HttpError},
};

/// Between two looks at something that is awaited.
const LOOK: Duration = Duration::from_millis(30);
/// The longest that anything is waited for, on a machine with other things to do too.
const PATIENCE: Duration = Duration::from_secs(120);

/// A devnet at a URL.
#[derive(Clone, Debug)]
pub(crate) struct Devnet {
    /// Its base URL.
    pub(crate) url: String,
}

impl Devnet {
    /// # Errors
    /// [`Failure::Http`].
    pub(crate) fn get(&self, path: &str) -> Result<Value, Failure> {
        let body = http::request(&self.url, "GET", path, None)?;
        Ok(serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    /// # Errors
    /// [`Failure::Http`].
    pub(crate) fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        let body = http::request(&self.url, "POST", path, Some(body.to_string().as_bytes()))?;
        Ok(serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    /// What a streamed request gave, event by event.
    ///
    /// # Errors
    /// [`Failure::Http`].
    pub(crate) fn stream(&self, path: &str, body: &Value) -> Result<Vec<Value>, Failure> {
        let body = http::request(&self.url, "POST", path, Some(body.to_string().as_bytes()))?;
        let text = String::from_utf8_lossy(&body).into_owned();
        let events = text.lines().filter_map(|line| line.strip_prefix("data:")).map(str::trim);
        Ok(events.filter_map(|data| serde_json::from_str(data).ok()).collect())
    }

    /// Hands a job in without waiting for its end, and gives its ID.
    ///
    /// # Errors
    /// [`Failure`].
    pub(crate) fn submit(&self, job: &Value) -> Result<String, Failure> {
        let answer = self.post("/v1/devnet/jobs", job)?;
        answer["id"].as_str().map(str::to_owned).ok_or_else(|| stuck("the devnet gave a job no ID"))
    }

    /// What the network knows of a job.
    ///
    /// # Errors
    /// [`Failure::Http`].
    pub(crate) fn job(&self, id: &str) -> Result<Value, Failure> {
        self.get(&format!("/v1/devnet/jobs/{id}"))
    }

    /// Switches a fault on.
    ///
    /// # Errors
    /// [`Failure::Http`].
    pub(crate) fn fault(&self, fault: &Value) -> Result<(), Failure> {
        self.post("/v1/devnet/faults", fault).map(drop)
    }

    /// Switches all faults off.
    ///
    /// # Errors
    /// [`Failure::Http`].
    pub(crate) fn no_fault(&self) -> Result<(), Failure> {
        self.fault(&json!({ "fault": "none" }))
    }
}

/// The demo cannot go on.
pub(crate) fn stuck(why: impl Into<String>) -> Failure {
    Failure::Demo(why.into())
}

/// Looks again and again until something is there.
///
/// # Errors
/// [`Failure::Demo`] after two minutes.
pub(crate) fn await_it<T>(
    what: &str,
    mut look: impl FnMut() -> Result<Option<T>, Failure>,
) -> Result<T, Failure> {
    let begun = Instant::now();
    loop {
        match look() {
            Ok(Some(found)) => return Ok(found),
            // The network may be away just now.
            Ok(None) | Err(Failure::Http(HttpError::Connection { .. })) => {}
            Err(other) => return Err(other),
        }
        if begun.elapsed() > PATIENCE {
            return Err(stuck(format!("{what}: not after {} s", PATIENCE.as_secs())));
        }
        sleep(LOOK);
    }
}
