//! The container engine behind its socket.

use std::{path::Path, time::Duration};

use bollard::{API_DEFAULT_VERSION, ClientVersion, Docker};

use super::{error::ContainerError, podman::Podman};

/// How long the engine may take to answer: 30 seconds.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// How long it may take over an image: 2 hours, for a large one over a slow line.
const IMAGE_LIMIT: Duration = Duration::from_hours(2);
/// The earliest API that has all that is asked for: Docker 20.10's, which Podman 4.3 speaks too.
const OLDEST: ClientVersion = ClientVersion { major_version: 1, minor_version: 41 };

/// Whose engine it is. Some things Podman takes and tells in other words, in Docker's API or its own.
#[derive(Clone, Debug)]
pub(super) enum Make {
    Docker,
    Podman(Podman),
}

/// A connection that was found fit.
#[derive(Clone, Debug)]
pub(super) struct Engine {
    /// For everything that is quick.
    pub(super) quick: Docker,
    /// For images.
    pub(super) patient: Docker,
    /// The memory of its machine.
    pub(super) memory_bytes: u64,
    pub(super) make: Make,
}

impl Engine {
    /// Connects, and looks whether the engine can keep a container apart.
    ///
    /// # Errors
    /// [`ContainerError::NoEngine`], [`ContainerError::OldEngine`], [`ContainerError::UnfitEngine`].
    pub(super) async fn connect(socket: &Path) -> Result<Self, ContainerError> {
        let away = |source| ContainerError::NoEngine { socket: socket.to_owned(), source };
        let path = socket.to_string_lossy();
        let engine =
            Docker::connect_with_unix(&path, ANSWER_LIMIT.as_secs(), API_DEFAULT_VERSION).map_err(away)?;
        let quick = engine.negotiate_version().await.map_err(away)?;
        let found = quick.client_version();
        if found < OLDEST {
            let (found, wanted) = (found.to_string(), OLDEST.to_string());
            return Err(ContainerError::OldEngine { socket: socket.to_owned(), found, wanted });
        }
        let about = quick.info().await.map_err(away)?;
        let options = about.security_options.unwrap_or_default();
        let parts = quick.version().await.map_err(away)?.components.unwrap_or_default();
        let (make, unfit_podman) = if parts.iter().any(|part| part.name == "Podman Engine") {
            let (podman, unfit) = Podman::connect(socket, ANSWER_LIMIT).await.map_err(away)?;
            (Make::Podman(podman), unfit)
        } else {
            (Make::Docker, None)
        };
        if let Some(problem) = unfit(&options).or(unfit_podman) {
            return Err(ContainerError::UnfitEngine { socket: socket.to_owned(), problem });
        }
        let memory_bytes = about.mem_total.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(u64::MAX);
        Ok(Self { memory_bytes, make, patient: quick.clone().with_timeout(IMAGE_LIMIT), quick })
    }
}

/// What keeps an engine with these security options from being used.
fn unfit(options: &[String]) -> Option<&'static str> {
    let seccomp = options.iter().find(|option| option.starts_with("name=seccomp"));
    if options.iter().any(|option| option.starts_with("name=rootless")) {
        return Some(
            "it is rootless, and the Agent does not reach its containers: use one that runs as root",
        );
    }
    match seccomp {
        Some(option) if !option.contains("profile=unconfined") => None,
        Some(_) => Some("its seccomp profile is unconfined: take seccomp-profile out of its settings"),
        None => Some("it has no seccomp: use an engine and a kernel that have it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_that_cannot_keep_a_container_apart_is_not_used() {
        let judge = |options: &[&str]| unfit(&options.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>());
        for fit in ["name=seccomp,profile=default", "name=seccomp,profile=builtin"] {
            assert_eq!(judge(&["name=apparmor", fit]), None);
        }
        assert!(judge(&["name=seccomp,profile=unconfined"]).unwrap().contains("unconfined"));
        assert!(judge(&["name=apparmor"]).unwrap().contains("no seccomp"));
        assert!(judge(&["name=seccomp,profile=default", "name=rootless"]).unwrap().contains("rootless"));
    }

    #[tokio::test]
    async fn an_engine_that_does_not_answer_is_told_with_what_to_do() {
        let error = Engine::connect(Path::new("/nowhere/docker.sock")).await.unwrap_err();
        assert!(matches!(error, ContainerError::NoEngine { .. }), "{error}");
        assert!(
            error.to_string().contains("/nowhere/docker.sock")
                && error.to_string().contains("runtime.socket")
        );
    }
}
