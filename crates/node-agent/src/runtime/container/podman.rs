//! What Podman is told and asked in words of its own, at the same socket: what it does not take or tell in Docker's.
//!
//! Made in Docker's words, an internal network has a resolver at its gateway, which carries questions to the outside in Podman 4.3
//! (and no longer in 5.4); and a container is described without its capabilities and its cgroup namespace.

use std::{collections::HashMap, io, path::Path, time::Duration};

use bollard::{errors::Error as EngineError, models::ContainerInspectResponse};
use reqwest::{Client, Method, Url};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::error::ContainerError;

/// Podman's own API; the host is of no account.
const API: &str = "http://podman/v4.0.0/libpod";
/// Docker's.
const DOCKERS_API: &str = "http://podman/v1.41";

/// Podman's own API behind a socket.
#[derive(Clone, Debug)]
pub(super) struct Podman {
    client: Client,
    /// Whether the kernel's cgroups are of the first version, where Podman makes no namespaces of them.
    old_cgroups: bool,
}

/// A container in a list: no more is read of it, as some of them are others'.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Listed {
    pub(super) id: Option<String>,
    pub(super) labels: Option<HashMap<String, String>>,
}

/// What Podman says of a container beyond Docker's words.
#[derive(Debug)]
pub(super) struct Told {
    /// Its effective and its bounding set of capabilities.
    pub(super) capabilities: Vec<String>,
    /// `private` for a cgroup namespace of its own, `host` for none.
    pub(super) cgroups: String,
    /// Whether Podman makes no cgroup namespace here, whatever it is asked.
    pub(super) old_cgroups: bool,
}

impl Podman {
    /// Connects, and says what keeps this Podman from being used, if anything does.
    pub(super) async fn connect(
        socket: &Path,
        limit: Duration,
    ) -> Result<(Self, Option<&'static str>), EngineError> {
        #[derive(Deserialize)]
        struct Info {
            host: Host,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Host {
            cgroup_version: String,
            security: Security,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Security {
            seccomp_profile_path: String,
        }
        let client = crate::tls::client().unix_socket(socket).timeout(limit).build().map_err(failed)?;
        let mut podman = Self { client, old_cgroups: false };
        let Info { host } = podman.ask(Method::GET, &format!("{API}/info"), None).await?;
        podman.old_cgroups = host.cgroup_version == "v1";
        // Docker's words say nothing of it.
        let open = host.security.seccomp_profile_path == "unconfined";
        Ok((
            podman,
            open.then_some(
                "its seccomp profile is unconfined: take seccomp_profile out of its containers.conf",
            ),
        ))
    }

    /// What there is to know of a container.
    ///
    /// # Errors
    /// [`ContainerError::Engine`].
    pub(super) async fn container(&self, id: &str) -> Result<Told, ContainerError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Container {
            // Null where there are none; where nothing is said, nothing is known.
            #[serde(deserialize_with = "Option::deserialize")]
            effective_caps: Option<Vec<String>>,
            #[serde(deserialize_with = "Option::deserialize")]
            bounding_caps: Option<Vec<String>>,
            host_config: HostConfig,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct HostConfig {
            cgroup_mode: String,
        }
        let told = self.ask(Method::GET, &format!("{API}/containers/{id}/json"), None).await;
        let told: Container = told.map_err(ContainerError::engine("describe the container"))?;
        let capabilities =
            [told.effective_caps, told.bounding_caps].into_iter().flatten().flatten().collect();
        Ok(Told { capabilities, cgroups: told.host_config.cgroup_mode, old_cgroups: self.old_cgroups })
    }

    /// Makes an internal bridge without a resolver.
    ///
    /// Without one Podman gives it no address on this machine's side unless it is told which, and it alone knows which are
    /// free. So it is made twice: first as Podman likes it, then with the addresses that this had.
    ///
    /// # Errors
    /// [`ContainerError::Engine`]; another may have taken the addresses meanwhile.
    pub(super) async fn make_network(
        &self,
        name: &str,
        labels: &HashMap<String, String>,
    ) -> Result<(), ContainerError> {
        let what = || ContainerError::engine(format!("make the network {name}"));
        let mut network = json!({ "name": name, "driver": "bridge", "internal": true, "dns_enabled": true, "labels": labels });
        let liked: Value =
            self.ask(Method::POST, &format!("{API}/networks/create"), Some(&network)).await.map_err(what())?;
        let _: Value =
            self.ask(Method::DELETE, &format!("{API}/networks/{name}"), None).await.map_err(what())?;
        network["subnets"] = liked["subnets"].clone();
        network["dns_enabled"] = false.into();
        let _: Value =
            self.ask(Method::POST, &format!("{API}/networks/create"), Some(&network)).await.map_err(what())?;
        Ok(())
    }

    /// Whether a network has a resolver.
    ///
    /// # Errors
    /// [`ContainerError::Engine`].
    pub(super) async fn resolves(&self, network: &str) -> Result<bool, ContainerError> {
        #[derive(Deserialize)]
        struct Network {
            dns_enabled: bool,
        }
        let told = self.ask(Method::GET, &format!("{API}/networks/{network}/json"), None).await;
        let told: Network = told.map_err(ContainerError::engine("describe the network"))?;
        Ok(told.dns_enabled)
    }

    /// The containers that pass Docker's filters, whether they run or not.
    ///
    /// # Errors
    /// [`EngineError`].
    pub(super) async fn containers(
        &self,
        filters: &HashMap<String, Vec<String>>,
    ) -> Result<Vec<Listed>, EngineError> {
        let filters = serde_json::to_string(filters)?;
        let url = format!("{DOCKERS_API}/containers/json");
        let url = Url::parse_with_params(&url, [("all", "true"), ("filters", &filters)]);
        let url = url.map_err(|error| EngineError::IOError { err: io::Error::other(error) })?;
        self.ask(Method::GET, url.as_str(), None).await
    }

    /// A container as Docker describes one.
    ///
    /// # Errors
    /// [`EngineError`].
    pub(super) async fn described(&self, id: &str) -> Result<ContainerInspectResponse, EngineError> {
        let url = format!("{DOCKERS_API}/containers/{id}/json");
        let mut found: Value = self.ask(Method::GET, &url, None).await?;
        leave_status_out(&mut found);
        Ok(serde_json::from_value(found)?)
    }

    /// One that nobody asks anything.
    #[cfg(test)]
    pub(super) fn nowhere() -> Self {
        Self { client: crate::tls::client().build().unwrap(), old_cgroups: false }
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        url: &str,
        body: Option<&Value>,
    ) -> Result<T, EngineError> {
        let mut request = self.client.request(method, url);
        if let Some(body) = body {
            request = request.header("Content-Type", "application/json").body(body.to_string());
        }
        let answer = request.send().await.map_err(failed)?;
        let status = answer.status();
        let body = answer.bytes().await.map_err(failed)?;
        if !status.is_success() {
            let message = String::from_utf8_lossy(&body).into_owned();
            return Err(EngineError::DockerResponseServerError { status_code: status.as_u16(), message });
        }
        Ok(serde_json::from_slice(&body)?)
    }
}

/// Podman has words for how a container stands that Docker does not have (`stopped`, `initialized`, `unknown`): nothing here asks
/// for more than whether it runs.
fn leave_status_out(found: &mut Value) {
    if let Some(state) = found.get_mut("State").and_then(Value::as_object_mut) {
        state.remove("Status");
    }
}

fn failed(error: reqwest::Error) -> EngineError {
    EngineError::IOError { err: io::Error::other(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_read_in_whatever_state_it_is() {
        let list = json!([
            { "Id": "1", "State": "unknown", "Labels": { "a": "b" } }, { "Id": "2", "Labels": null }, { "State": 7 },
        ]);
        let read: Vec<Listed> = serde_json::from_value(list).unwrap();
        let ids: Vec<_> = read.iter().map(|it| it.id.as_deref()).collect();
        assert_eq!(ids, [Some("1"), Some("2"), None]);
        assert_eq!(read[0].labels.as_ref().unwrap()["a"], "b");
        for status in ["running", "stopped", "initialized", "unknown"] {
            let mut one =
                json!({ "Id": "1", "State": { "Status": status, "Running": true, "ExitCode": 137 } });
            leave_status_out(&mut one);
            let state = serde_json::from_value::<ContainerInspectResponse>(one).unwrap().state.unwrap();
            assert_eq!((state.running, state.exit_code), (Some(true), Some(137)), "{status}");
        }
    }
}
