//! What Podman is told and asked in words of its own, at the same socket: what it does not take or tell in Docker's.
//!
//! Made in Docker's words, an internal network has a resolver at its gateway, which carries questions to the outside in Podman 4.3
//! (and no longer in 5.4); and a container is described without its capabilities and its cgroup namespace.

use std::{collections::HashMap, io, path::Path, time::Duration};

use bollard::errors::Error as EngineError;
use reqwest::{Client, Method};
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

    /// What stands at a path of Docker's API about containers. One that has ended, and is not yet cleared away, is `stopped`: a
    /// word that Docker does not have.
    pub(super) async fn in_dockers_words<T: DeserializeOwned>(&self, path: &str) -> Result<T, EngineError> {
        let mut found: Value = self.ask(Method::GET, &format!("{DOCKERS_API}{path}"), None).await?;
        settle(&mut found);
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

/// Calls what has ended so, in a list of containers or in the description of one.
fn settle(found: &mut Value) {
    let states: Vec<&mut Value> = if found.is_array() {
        found.as_array_mut().into_iter().flatten().filter_map(|it| it.get_mut("State")).collect()
    } else {
        found.pointer_mut("/State/Status").into_iter().collect()
    };
    for state in states {
        if state == "stopped" {
            *state = "exited".into();
        }
    }
}

fn failed(error: reqwest::Error) -> EngineError {
    EngineError::IOError { err: io::Error::other(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stopped_has_ended() {
        let mut list = json!([{ "State": "stopped" }, { "State": "running" }, {}]);
        settle(&mut list);
        assert_eq!(list, json!([{ "State": "exited" }, { "State": "running" }, {}]));
        let mut one = json!({ "State": { "Status": "stopped", "ExitCode": 137 } });
        settle(&mut one);
        assert_eq!(one, json!({ "State": { "Status": "exited", "ExitCode": 137 } }));
    }
}
