//! What a container is made with, and whether the engine really did so.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, DeviceRequest, EndpointSettings, HealthConfig, HostConfig,
    HostConfigCgroupnsModeEnum, HostConfigLogConfig, Mount, MountBindOptions,
    MountBindOptionsPropagationEnum, MountType, NetworkCreateRequest, ResourcesUlimits, RestartPolicy,
    RestartPolicyNameEnum,
};
use node_types::Digest;
use zeroize::Zeroizing;

use super::{ContainerPlan, engine::Make, error::ContainerError, podman};

/// Who it runs as, whatever the image says: nobody.
const USER: &str = "65534:65534";
/// The port that `{port}` becomes; it is the container's own.
const PORT: u16 = 8080;
/// Where the models stand.
const MODELS: &str = "/models";
/// The only folder that can be written.
const TMP: &str = "/tmp";
/// How it is mounted: 1 GiB at most, which counts as the container's memory. It belongs to its user, because engines give
/// it the mode that the folder has in the image.
const TMP_OPTIONS: &str = "rw,noexec,nosuid,nodev,uid=65534,gid=65534,mode=0700,size=1073741824";
/// The same in Podman's words, which would copy what the image has there.
const TMP_OPTIONS_PODMAN: &str = "rw,noexec,nosuid,nodev,U,notmpcopyup,mode=0700,size=1073741824";
/// The variable with the key of this start.
const API_KEY: &str = "RUNTIME_API_KEY";
/// The label with the digest of everything that a container was made with.
pub(super) const PLAN: &str = "resultity.plan";
/// The label with the files that it loads.
const LOADS: &str = "resultity.loads";
/// The folders that Podman mounts a file system in memory on wherever the root is read-only.
const PODMANS: [&str; 2] = ["/run", "/var/tmp"];
/// How it is asked to: so that nothing can be written there.
const PODMANS_OPTIONS: &str = "ro,noexec,nosuid,nodev,size=65536";
/// How many files, and how many processes of its user's, Podman lets a container have: unless it is told, it wants more than it
/// may give where it cannot raise its own limits.
const PODMANS_LIMIT: i64 = 16_384;

/// What a container of `plan` is made with, but for its network and its key.
pub(super) fn asked(
    plan: &ContainerPlan,
    image: &str,
    memory_bytes: u64,
    make: &Make,
) -> ContainerCreateBody {
    let memory = Some(i64::try_from(memory_bytes).unwrap_or(i64::MAX));
    let models = plan.models.as_ref().map(|models| Mount {
        typ: Some(MountType::BIND),
        source: Some(models.folder.to_string_lossy().into_owned()),
        target: Some(MODELS.to_owned()),
        read_only: Some(true),
        bind_options: Some(MountBindOptions {
            propagation: Some(MountBindOptionsPropagationEnum::RPRIVATE),
            ..MountBindOptions::default()
        }),
        ..Mount::default()
    });
    let gpus = DeviceRequest {
        count: Some(-1),
        capabilities: Some(vec![vec!["gpu".to_owned()]]),
        ..DeviceRequest::default()
    };
    let limit = |name: &str, most| ResourcesUlimits {
        name: Some(name.to_owned()),
        soft: Some(most),
        hard: Some(most),
    };
    let (folders, limits) = match make {
        Make::Docker => (vec![(TMP, TMP_OPTIONS)], vec![limit("core", 0)]),
        Make::Podman(_) => (
            PODMANS
                .map(|folder| (folder, PODMANS_OPTIONS))
                .into_iter()
                .chain([(TMP, TMP_OPTIONS_PODMAN)])
                .collect(),
            vec![limit("core", 0), limit("nofile", PODMANS_LIMIT), limit("nproc", PODMANS_LIMIT)],
        ),
    };
    let folders = folders.into_iter().map(|(folder, options)| (folder.to_owned(), options.to_owned()));
    // Removing it is killing it; Podman else lets it go on for ten seconds.
    let stop_timeout = matches!(make, Make::Podman(_)).then_some(0);
    let host = HostConfig {
        readonly_rootfs: Some(true),
        tmpfs: Some(folders.collect()),
        mounts: Some(models.into_iter().collect()),
        cap_drop: Some(vec!["ALL".to_owned()]),
        security_opt: Some(vec!["no-new-privileges".to_owned()]),
        privileged: Some(false),
        ipc_mode: Some("private".to_owned()),
        cgroupns_mode: Some(HostConfigCgroupnsModeEnum::PRIVATE),
        // An engine's own resolver may answer inside an internal network too, and carry what it is asked to the outside.
        dns: Some(vec!["127.0.0.1".to_owned()]),
        memory,
        // No more than that by swapping.
        memory_swap: memory,
        pids_limit: Some(i64::from(plan.pids_max)),
        ulimits: Some(limits),
        // What it prints may quote a prompt: it is read as it comes, and the engine keeps nothing of it.
        log_config: Some(HostConfigLogConfig { typ: Some("none".to_owned()), config: None }),
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            maximum_retry_count: None,
        }),
        device_requests: plan.gpus.then(|| vec![gpus]),
        ..HostConfig::default()
    };
    let environment = [
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ("HOME", TMP),
        ("TMPDIR", TMP),
        ("LANG", "C.UTF-8"),
    ];
    ContainerCreateBody {
        image: Some(image.to_owned()),
        user: Some(USER.to_owned()),
        hostname: Some("runtime".to_owned()),
        env: Some(environment.map(|(name, value)| format!("{name}={value}")).to_vec()),
        cmd: Some(plan.args.iter().map(|arg| fill(arg, plan)).collect()),
        // Health is the Agent's affair.
        healthcheck: Some(HealthConfig { test: Some(vec!["NONE".to_owned()]), ..HealthConfig::default() }),
        host_config: Some(host),
        stop_timeout,
        labels: Some(HashMap::from([(LOADS.to_owned(), plan.loads.to_string())])),
        ..ContainerCreateBody::default()
    }
}

/// One digest of everything that it is made with.
///
/// # Errors
/// [`ContainerError::Silent`], which does not happen: every part of it has a form in JSON.
pub(super) fn plan_digest(asked: &ContainerCreateBody) -> Result<Digest, ContainerError> {
    // A value has its names in order; the maps behind it have not.
    let value = serde_json::to_value(asked).map_err(|_| ContainerError::Silent { what: "the plan" })?;
    Ok(Digest::of(value.to_string().as_bytes()))
}

/// What is added for one start.
pub(super) fn completed(
    mut asked: ContainerCreateBody,
    plan: &ContainerPlan,
    digest: Digest,
    network: &str,
    key: &str,
) -> ContainerCreateBody {
    asked.env.get_or_insert_default().push(format!("{API_KEY}={key}"));
    asked.host_config.get_or_insert_default().network_mode = Some(network.to_owned());
    let labels = asked.labels.get_or_insert_default();
    labels.extend(plan.owner.labels());
    labels.insert(PLAN.to_owned(), digest.to_string());
    asked
}

/// The network of a plan: a bridge that leads nowhere else.
pub(super) fn network(plan: &ContainerPlan) -> NetworkCreateRequest {
    NetworkCreateRequest {
        name: plan.owner.name(),
        driver: Some("bridge".to_owned()),
        internal: Some(true),
        enable_ipv6: Some(false),
        labels: Some(plan.owner.labels()),
        ..NetworkCreateRequest::default()
    }
}

fn fill(arg: &str, plan: &ContainerPlan) -> String {
    let first = plan.models.as_ref().and_then(|models| models.first.as_deref());
    let model = first.map(|first| format!("{MODELS}/{first}")).unwrap_or_default();
    // A file's name comes last: it may hold anything.
    let arg = arg.replace("{host}", "0.0.0.0").replace("{port}", &PORT.to_string());
    arg.replace("{models}", MODELS).replace("{model}", &model)
}

/// Compares what the engine made with what it was asked for, before anything runs in it. `podman` is what Podman says besides;
/// none for Docker.
///
/// # Errors
/// [`ContainerError::NotApplied`] for the first difference.
pub(super) fn verify(
    asked: &ContainerCreateBody,
    made: &ContainerInspectResponse,
    podman: Option<&podman::Told>,
) -> Result<(), ContainerError> {
    let (wanted, none) = (asked.host_config.clone().unwrap_or_default(), HostConfig::default());
    let found = made.host_config.as_ref().unwrap_or(&none);
    let config = made.config.as_ref();
    same("the image", &asked.image, &made.image)?;
    same("the user", &asked.user.as_deref(), &config.and_then(|it| it.user.as_deref()))?;
    same("the read-only root", &wanted.readonly_rootfs, &found.readonly_rootfs)?;
    same("the absence of privileges", &false, &found.privileged.unwrap_or_default())?;
    same("the absence of added capabilities", &[""; 0][..], texts(found.cap_add.as_ref()).as_slice())?;
    match podman {
        None => {
            let all = found.cap_drop.iter().flatten().any(|it| it == "ALL" || it == "CAP_ALL");
            holds("the dropping of capabilities", "ALL", &found.cap_drop, all)?;
        }
        // Docker's list names those of its usual ones that were dropped.
        Some(told) => {
            holds("the dropping of capabilities", "ALL", &told.capabilities, told.capabilities.is_empty())?;
        }
    }
    let options = found.security_opt.as_deref().unwrap_or_default();
    // A profile of its own may allow anything.
    let closed =
        options.iter().any(|it| matches!(it.as_str(), "no-new-privileges" | "no-new-privileges:true"))
            && !options.iter().any(|it| {
                ["seccomp", "unmask"].iter().any(|opening| it.starts_with(opening))
                    || it.contains("unconfined")
                    || it.ends_with("disable")
            });
    holds("the security options", "no-new-privileges", &found.security_opt, closed)?;
    let masked = [&found.masked_paths, &found.readonly_paths];
    let closed = masked.iter().all(|paths| paths.as_ref().is_none_or(|paths| !paths.is_empty()));
    holds("the closing of parts of /proc and /sys", "what engines close", &masked, closed)?;
    let cgroups = match podman {
        None => {
            same("the IPC namespace", &wanted.ipc_mode, &found.ipc_mode)?;
            found.cgroupns_mode.map(|mode| mode.to_string())
        }
        Some(told) => {
            // Either is its own. Another container enters it only if whoever uses the engine makes one for that, as they could
            // with any other of its namespaces.
            let own = matches!(found.ipc_mode.as_deref(), Some("private" | "shareable"));
            holds("the IPC namespace", "private", &found.ipc_mode, own)?;
            // Without one it learns the name of its own group. It sees no other one's folder, and its own is read-only.
            (told.cgroups != "host" || !told.old_cgroups).then(|| told.cgroups.clone())
        }
    };
    for (what, mode) in [
        ("a process namespace of its own", &found.pid_mode),
        ("a host name of its own", &found.uts_mode),
        ("a cgroup namespace of its own", &cgroups),
        ("the engine's user namespace", &found.userns_mode),
    ] {
        holds(what, "private", mode, matches!(mode.as_deref(), None | Some("" | "private")))?;
    }
    match podman {
        None => same("the network", &wanted.network_mode, &found.network_mode)?,
        // Which one stands elsewhere.
        Some(_) => {
            same("the network", &Some("bridge"), &found.network_mode.as_deref())?;
            same("the network", &wanted.network_mode.as_deref(), &Some(only_network(made)?.0))?;
        }
    }
    let published = found.port_bindings.as_ref().is_some_and(|ports| !ports.is_empty());
    let published = published || found.publish_all_ports == Some(true);
    holds("the absence of published ports", "none", &found.port_bindings, !published)?;
    same("the name server", &wanted.dns, &found.dns)?;
    same("the memory limit", &wanted.memory.unwrap_or(0), &found.memory.unwrap_or(0))?;
    // -1 from engines whose kernel does not count what is swapped.
    let swap = found.memory_swap.unwrap_or(0);
    holds(
        "the limit of swapping",
        "that of memory",
        &swap,
        swap == -1 || swap == wanted.memory_swap.unwrap_or(0),
    )?;
    same("the limit of processes", &wanted.pids_limit, &found.pids_limit)?;
    let cores = found.ulimits.iter().flatten().find(|it| {
        // Podman names it RLIMIT_CORE.
        it.name.as_deref().is_some_and(|name| name.to_ascii_lowercase().ends_with("core"))
    });
    let none = cores.is_some_and(|cores| (cores.soft, cores.hard) == (Some(0), Some(0)));
    holds("the absence of core dumps", "0", &found.ulimits, none)?;
    let restart = found.restart_policy.as_ref().and_then(|policy| policy.name);
    let never = matches!(restart, None | Some(RestartPolicyNameEnum::EMPTY | RestartPolicyNameEnum::NO));
    holds("that the Agent alone starts it", "no", &restart, never)?;
    let driver = |host: &HostConfig| host.log_config.as_ref().and_then(|it| it.typ.clone());
    same("the absence of logs", &driver(&wanted), &driver(found))?;
    same("the temporary folder", &folders(&wanted), &folders(found))?;
    let open = found.tmpfs.iter().flatten().any(|(_, options)| {
        let options: Vec<&str> = options.split(',').collect();
        ["noexec", "nosuid", "nodev"].iter().any(|closed| !options.contains(closed))
    });
    holds("how the temporary folder is mounted", "noexec, nosuid, nodev", &found.tmpfs, !open)?;
    let binds = match podman {
        None => found.binds.as_ref().is_none_or(Vec::is_empty),
        // They are the mounts once more; whether these are writable is judged there.
        Some(_) => found
            .binds
            .iter()
            .flatten()
            .all(|bind| wanted.mounts.iter().flatten().any(|mount| is_of(bind, mount))),
    };
    let nothing = binds
        && found.volumes_from.as_ref().is_none_or(Vec::is_empty)
        && found.devices.as_ref().is_none_or(Vec::is_empty)
        && found.device_cgroup_rules.as_ref().is_none_or(Vec::is_empty);
    holds(
        "the absence of devices and binds",
        "none",
        &(&found.binds, &found.volumes_from, &found.devices, &found.device_cgroup_rules),
        nothing,
    )?;
    let cards = |host: &HostConfig| host.device_requests.as_ref().map_or(0, Vec::len);
    same("the graphics cards", &cards(&wanted), &cards(found))?;
    let groups = found.group_add.as_ref().is_none_or(Vec::is_empty);
    holds("the absence of more groups", "none", &found.group_add, groups)?;
    let settings = found.sysctls.as_ref().is_none_or(HashMap::is_empty);
    holds("the kernel's own settings", "none", &found.sysctls, settings)?;
    let command = config.and_then(|it| it.cmd.clone());
    // Without arguments of the snapshot's the image's stand.
    if asked.cmd.as_ref().is_some_and(|command| !command.is_empty()) {
        same("the arguments", &asked.cmd, &command)?;
    }
    verify_environment(asked, made)?;
    verify_mounts(&wanted, made)
}

/// Everything asked for, as it was asked for; the key is each start's own, and the image may bring more.
fn verify_environment(
    asked: &ContainerCreateBody,
    made: &ContainerInspectResponse,
) -> Result<(), ContainerError> {
    let found = made.config.as_ref().and_then(|it| it.env.as_ref());
    let name = |variable: &str| variable.split('=').next().unwrap_or_default().to_owned();
    for wanted in asked.env.iter().flatten().filter(|it| name(it) != API_KEY) {
        let found: Vec<&String> = found.into_iter().flatten().filter(|it| name(it) == name(wanted)).collect();
        // What it is stays unsaid: it may be a secret.
        holds("the environment", &name(wanted), &found.len(), found == [wanted])?;
    }
    Ok(())
}

/// The models read-only, and nothing else: an image may want volumes of its own.
fn verify_mounts(wanted: &HostConfig, made: &ContainerInspectResponse) -> Result<(), ContainerError> {
    let wanted =
        wanted.mounts.iter().flatten().map(|it| (it.source.as_deref(), it.target.as_deref(), Some(false)));
    let mounts = made.mounts.iter().flatten().filter(|it| it.typ.as_deref() != Some("tmpfs"));
    let found = mounts.map(|it| (it.source.as_deref(), it.destination.as_deref(), it.rw));
    same("the mounts (source, place, writable)", &wanted.collect::<Vec<_>>(), &found.collect::<Vec<_>>())
}

fn texts(list: Option<&Vec<String>>) -> Vec<&str> {
    list.into_iter().flatten().map(String::as_str).collect()
}

/// The folders in memory, and which of them are read-only.
fn folders(host: &HostConfig) -> BTreeMap<&str, bool> {
    let folders = host.tmpfs.iter().flatten();
    folders.map(|(path, options)| (path.as_str(), options.split(',').any(|it| it == "ro"))).collect()
}

/// Whether a bind, as in `/here:/there:ro`, is that of a mount.
fn is_of(bind: &str, mount: &Mount) -> bool {
    let [source, target] = [&mount.source, &mount.target].map(|it| it.as_deref().unwrap_or_default());
    bind.starts_with(&format!("{source}:{target}:"))
}

fn same<T: PartialEq + std::fmt::Debug + ?Sized>(
    what: &'static str,
    asked: &T,
    found: &T,
) -> Result<(), ContainerError> {
    if asked == found {
        return Ok(());
    }
    Err(ContainerError::NotApplied { what, asked: format!("{asked:?}"), found: format!("{found:?}") })
}

fn holds(
    what: &'static str,
    asked: &str,
    found: &impl std::fmt::Debug,
    holds: bool,
) -> Result<(), ContainerError> {
    if holds {
        return Ok(());
    }
    Err(ContainerError::NotApplied { what, asked: asked.to_owned(), found: format!("{found:?}") })
}

/// The only network that a container is in, by its name.
fn only_network(made: &ContainerInspectResponse) -> Result<(&str, &EndpointSettings), ContainerError> {
    let networks = made.network_settings.as_ref().and_then(|it| it.networks.as_ref());
    let all: Vec<_> = networks.into_iter().flatten().collect();
    let [(name, only)] = all.as_slice() else {
        let found = format!("{} networks", all.len());
        return Err(ContainerError::NotApplied { what: "the network", asked: "one alone".to_owned(), found });
    };
    Ok((name, only))
}

/// Where a container that runs is reached, in this network of its engine's.
pub(super) fn address(
    made: &ContainerInspectResponse,
    network: &str,
    make: &Make,
) -> Result<String, ContainerError> {
    let (name, only) = only_network(made)?;
    let found = match make {
        Make::Docker => only.network_id.as_deref(),
        Make::Podman(_) => Some(name),
    };
    same("the network", &Some(network), &found)?;
    let address = only.ip_address.as_deref().and_then(|it| it.parse::<IpAddr>().ok());
    let address = address.ok_or(ContainerError::Silent { what: "the container's address" })?;
    Ok(format!("http://{address}:{PORT}"))
}

/// The key that a container was started with.
pub(super) fn key(made: &ContainerInspectResponse) -> Option<Zeroizing<String>> {
    let environment = made.config.as_ref()?.env.as_ref()?;
    let key = environment.iter().find_map(|it| it.strip_prefix(API_KEY)?.strip_prefix('='));
    key.map(|key| Zeroizing::new(key.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use bollard::models::{ContainerConfig, DeviceMapping, MountPoint, NetworkSettings, PortBinding};
    use node_types::{Network, VolumeId};

    use super::*;
    use crate::runtime::{
        ModelsMount,
        container::{Owner, podman::Podman},
    };

    fn plan() -> ContainerPlan {
        ContainerPlan {
            socket: PathBuf::from("/socket"),
            owner: Owner {
                network: Network::Testnet,
                node: format!("node-{}", "ab".repeat(20)).parse().unwrap(),
                volume: VolumeId::from_bytes([1; 16]),
                snapshot: Digest::of(b"snapshot"),
            },
            image: "image".to_owned(),
            digest: Digest::of(b"manifest"),
            config_digest: None,
            platform: None,
            images: None,
            args: vec!["--port".to_owned(), "{port}".to_owned()],
            models: Some(ModelsMount { folder: "/models-here".into(), first: Some("first".to_owned()) }),
            loads: Digest::of(b"files"),
            memory_bytes: None,
            pids_max: 100,
            gpus: false,
            retry_ms_min: 1,
            retry_ms_max: 1,
        }
    }

    /// What an engine says that did as it was asked.
    fn made(asked: &ContainerCreateBody) -> ContainerInspectResponse {
        let of_the_image = "OF_THE_IMAGE=1".to_owned();
        ContainerInspectResponse {
            image: asked.image.clone(),
            config: Some(ContainerConfig {
                user: asked.user.clone(),
                cmd: asked.cmd.clone(),
                env: asked.env.clone().map(|env| env.into_iter().chain([of_the_image]).collect()),
                ..ContainerConfig::default()
            }),
            host_config: asked.host_config.clone(),
            mounts: Some(vec![MountPoint {
                typ: text("bind"),
                source: Some("/models-here".to_owned()),
                destination: Some(MODELS.to_owned()),
                rw: Some(false),
                ..MountPoint::default()
            }]),
            ..ContainerInspectResponse::default()
        }
    }

    type Change = fn(&mut ContainerInspectResponse, &mut HostConfig);

    fn text(value: &str) -> Option<String> {
        Some(value.to_owned())
    }

    fn texts(value: &str) -> Option<Vec<String>> {
        Some(vec![value.to_owned()])
    }

    /// Every way in which a container can be another one or less closed, each with what is said of it.
    const CHANGES: &[(&str, Change)] = &[
        ("the image", |made, _| made.image = text("sha256:other")),
        ("the user", |made, _| made.config.as_mut().unwrap().user = text("0")),
        ("the user", |made, _| made.config.as_mut().unwrap().user = None),
        ("the read-only root", |_, host| host.readonly_rootfs = Some(false)),
        ("privileges", |_, host| host.privileged = Some(true)),
        ("added capabilities", |_, host| host.cap_add = texts("SYS_PTRACE")),
        ("dropping of capabilities", |_, host| host.cap_drop = texts("KILL")),
        ("dropping of capabilities", |_, host| host.cap_drop = None),
        ("security options", |_, host| host.security_opt = None),
        ("security options", |_, host| {
            host.security_opt = Some(["no-new-privileges", "seccomp=unconfined"].map(str::to_owned).to_vec());
        }),
        ("security options", |_, host| {
            host.security_opt = Some(["no-new-privileges", "unmask=all"].map(str::to_owned).to_vec());
        }),
        ("security options", |_, host| {
            host.security_opt = Some(["no-new-privileges", "seccomp={}"].map(str::to_owned).to_vec());
        }),
        ("security options", |_, host| {
            host.security_opt =
                Some(["no-new-privileges", "apparmor=unconfined"].map(str::to_owned).to_vec());
        }),
        ("parts of /proc", |_, host| host.masked_paths = Some(Vec::new())),
        ("parts of /proc", |_, host| host.readonly_paths = Some(Vec::new())),
        ("IPC namespace", |_, host| host.ipc_mode = text("host")),
        ("process namespace", |_, host| host.pid_mode = text("host")),
        ("host name", |_, host| host.uts_mode = text("host")),
        ("cgroup namespace", |_, host| host.cgroupns_mode = Some(HostConfigCgroupnsModeEnum::HOST)),
        ("user namespace", |_, host| host.userns_mode = text("host")),
        ("the network", |_, host| host.network_mode = text("bridge")),
        ("published ports", |_, host| {
            host.port_bindings =
                Some(HashMap::from([("8080/tcp".to_owned(), Some(vec![PortBinding::default()]))]));
        }),
        ("published ports", |_, host| host.publish_all_ports = Some(true)),
        ("name server", |_, host| host.dns = texts("192.0.2.1")),
        ("memory limit", |_, host| host.memory = Some(0)),
        ("limit of swapping", |_, host| host.memory_swap = Some(1 << 50)),
        ("limit of processes", |_, host| host.pids_limit = None),
        ("core dumps", |_, host| host.ulimits = None),
        ("core dumps", |_, host| host.ulimits.as_mut().unwrap()[0].hard = Some(-1)),
        ("alone starts it", |_, host| {
            host.restart_policy.as_mut().unwrap().name = Some(RestartPolicyNameEnum::ALWAYS);
        }),
        ("absence of logs", |_, host| host.log_config.as_mut().unwrap().typ = text("json-file")),
        ("the temporary folder", |_, host| host.tmpfs = None),
        ("temporary folder is mounted", |_, host| {
            host.tmpfs.as_mut().unwrap().insert(TMP.to_owned(), "rw,nosuid,nodev,exec".to_owned());
        }),
        ("devices and binds", |_, host| host.binds = texts("/:/host")),
        ("devices and binds", |_, host| host.volumes_from = texts("another")),
        ("devices and binds", |_, host| host.devices = Some(vec![DeviceMapping::default()])),
        ("devices and binds", |_, host| host.device_cgroup_rules = texts("b *:* rwm")),
        ("graphics cards", |_, host| host.device_requests = Some(vec![DeviceRequest::default()])),
        ("more groups", |_, host| host.group_add = texts("docker")),
        ("the kernel's own settings", |_, host| {
            host.sysctls = Some(HashMap::from([("net.ipv4.ip_forward".to_owned(), "1".to_owned())]));
        }),
        ("the arguments", |made, _| made.config.as_mut().unwrap().cmd = texts("--other")),
        ("the environment", |made, _| {
            made.config.as_mut().unwrap().env.as_mut().unwrap().retain(|it| !it.starts_with("HOME="));
        }),
        ("the environment", |made, _| {
            made.config.as_mut().unwrap().env.as_mut().unwrap().push("PATH=/tmp".to_owned());
        }),
        ("the mounts", |made, _| made.mounts.as_mut().unwrap()[0].rw = Some(true)),
        ("the mounts", |made, _| made.mounts.as_mut().unwrap()[0].source = text("/")),
        ("the mounts", |made, _| {
            let more =
                MountPoint { typ: text("volume"), destination: text("/data"), ..MountPoint::default() };
            made.mounts.as_mut().unwrap().push(more);
        }),
    ];

    /// More ways for what Podman makes.
    const PODMANS_CHANGES: &[(&str, Change)] = &[
        ("the network", |_, host| host.network_mode = text("host")),
        ("the network", |_, host| host.network_mode = text("container:another")),
        ("the network", |made, _| made.network_settings = None),
        ("the network", |made, _| {
            let networks = made.network_settings.as_mut().unwrap().networks.as_mut().unwrap();
            networks.insert("another".to_owned(), EndpointSettings::default());
        }),
        ("the network", |made, _| {
            let networks = made.network_settings.as_mut().unwrap().networks.as_mut().unwrap();
            *networks = HashMap::from([("another".to_owned(), EndpointSettings::default())]);
        }),
        ("IPC namespace", |_, host| host.ipc_mode = text("container:another")),
        ("IPC namespace", |_, host| host.ipc_mode = None),
        ("the temporary folder", |_, host| {
            host.tmpfs.as_mut().unwrap().remove("/run");
        }),
        ("the temporary folder", |_, host| {
            let open = "rw,noexec,nosuid,nodev".to_owned();
            host.tmpfs.as_mut().unwrap().insert("/run".to_owned(), open);
        }),
        ("devices and binds", |_, host| host.binds.as_mut().unwrap().push("/:/models:ro".to_owned())),
        ("devices and binds", |_, host| {
            host.binds.as_mut().unwrap().push("/models-here:/models/../etc:ro".to_owned());
        }),
    ];

    fn asked_of(make: &Make) -> ContainerCreateBody {
        let plan = plan();
        completed(asked(&plan, "sha256:image", 1 << 30, make), &plan, Digest::of(b"plan"), "network", "")
    }

    /// What Podman says that did as it was asked.
    fn made_by_podman(asked: &ContainerCreateBody) -> (ContainerInspectResponse, podman::Told) {
        let mut made = made(asked);
        let host = made.host_config.as_mut().unwrap();
        host.cap_drop = texts("CHOWN");
        host.network_mode = text("bridge");
        host.ipc_mode = text("shareable");
        host.cgroupns_mode = None;
        host.mounts = None;
        host.binds = texts("/models-here:/models:ro,rprivate,rbind");
        let networks = HashMap::from([("network".to_owned(), EndpointSettings::default())]);
        made.network_settings =
            Some(NetworkSettings { networks: Some(networks), ..NetworkSettings::default() });
        let told =
            podman::Told { capabilities: Vec::new(), cgroups: "private".to_owned(), old_cgroups: false };
        (made, told)
    }

    #[test]
    fn a_container_that_is_less_closed_in_any_way_is_told_by_that_way() {
        let asked = asked_of(&Make::Docker);
        verify(&asked, &made(&asked), None).unwrap();
        for (number, (words, change)) in CHANGES.iter().enumerate() {
            let mut made = made(&asked);
            apply(*change, &mut made);
            let refused = verify(&asked, &made, None).expect_err(&format!("{number}: {words}"));
            assert!(refused.to_string().contains(words), "{number}: {words}: {refused}");
        }
    }

    #[test]
    fn one_of_podmans_that_is_less_closed_in_any_way_is_told_by_that_way() {
        let asked = asked_of(&Make::Podman(Podman::nowhere()));
        let (made, told) = made_by_podman(&asked);
        verify(&asked, &made, Some(&told)).unwrap();
        // What Podman says in its own words is judged there.
        let elsewhere =
            |words: &str| matches!(words, "dropping of capabilities" | "cgroup namespace" | "the network");
        let changes = CHANGES.iter().filter(|(words, _)| !elsewhere(words)).chain(PODMANS_CHANGES);
        for (number, (words, change)) in changes.enumerate() {
            let (mut made, told) = made_by_podman(&asked);
            apply(*change, &mut made);
            let refused = verify(&asked, &made, Some(&told)).expect_err(&format!("{number}: {words}"));
            assert!(refused.to_string().contains(words), "{number}: {words}: {refused}");
        }

        type Tell = fn(&mut podman::Told);
        let ways: [(&str, Tell); 4] = [
            ("dropping of capabilities", |told| told.capabilities = vec!["CAP_NET_RAW".to_owned()]),
            ("cgroup namespace", |told| told.cgroups = "host".to_owned()),
            ("cgroup namespace", |told| {
                (told.cgroups, told.old_cgroups) = ("container:another".to_owned(), true);
            }),
            ("cgroup namespace", |told| told.cgroups = "ns:/proc/1/ns/cgroup".to_owned()),
        ];
        for (words, change) in ways {
            let (made, mut told) = made_by_podman(&asked);
            change(&mut told);
            let refused = verify(&asked, &made, Some(&told)).unwrap_err().to_string();
            assert!(refused.contains(words), "{words}: {refused}");
        }
    }

    #[test]
    fn what_engines_say_in_other_words_is_the_same() {
        let asked = asked_of(&Make::Docker);
        let same: [Change; 6] = [
            |_, host| host.security_opt = texts("no-new-privileges:true"),
            |_, host| host.cap_drop = texts("CAP_ALL"),
            |_, host| host.memory_swap = Some(-1),
            |_, host| host.ulimits.as_mut().unwrap()[0].name = text("RLIMIT_CORE"),
            |_, host| host.restart_policy = None,
            |made, _| {
                made.config.as_mut().unwrap().env.as_mut().unwrap().push("RUNTIME_API_KEY=key".to_owned());
            },
        ];
        for change in same {
            let mut made = made(&asked);
            apply(change, &mut made);
            verify(&asked, &made, None).unwrap();
        }
        let asked = asked_of(&Make::Podman(Podman::nowhere()));
        let (mut made, mut told) = made_by_podman(&asked);
        made.host_config.as_mut().unwrap().ipc_mode = text("private");
        (told.cgroups, told.old_cgroups) = ("host".to_owned(), true);
        verify(&asked, &made, Some(&told)).unwrap();
    }

    fn apply(change: Change, made: &mut ContainerInspectResponse) {
        let mut host = made.host_config.clone().unwrap();
        change(made, &mut host);
        made.host_config = Some(host);
    }
}
