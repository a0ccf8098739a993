//! What a container is made with, and whether the engine really did so.

use std::{collections::HashMap, net::IpAddr};

use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, DeviceRequest, HealthConfig, HostConfig,
    HostConfigCgroupnsModeEnum, HostConfigLogConfig, Mount, MountBindOptions,
    MountBindOptionsPropagationEnum, MountType, NetworkCreateRequest, ResourcesUlimits, RestartPolicy,
    RestartPolicyNameEnum,
};
use node_types::Digest;
use zeroize::Zeroizing;

use super::{ContainerPlan, error::ContainerError};

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
/// The variable with the key of this start.
const API_KEY: &str = "RUNTIME_API_KEY";
/// The label with the digest of everything that a container was made with.
pub(super) const PLAN: &str = "resultity.plan";
/// The label with the files that it loads.
const LOADS: &str = "resultity.loads";
/// What engines give a container if nothing is dropped; Podman lists these where all are dropped.
const USUAL_CAPABILITIES: [&str; 11] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// What a container of `plan` is made with, but for its network and its key.
pub(super) fn asked(plan: &ContainerPlan, image: &str, memory_bytes: u64) -> ContainerCreateBody {
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
    let host = HostConfig {
        readonly_rootfs: Some(true),
        tmpfs: Some(HashMap::from([(TMP.to_owned(), TMP_OPTIONS.to_owned())])),
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
        ulimits: Some(vec![ResourcesUlimits { name: Some("core".to_owned()), soft: Some(0), hard: Some(0) }]),
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

/// Compares what the engine made with what it was asked for, before anything runs in it.
///
/// # Errors
/// [`ContainerError::NotApplied`] for the first difference.
pub(super) fn verify(
    asked: &ContainerCreateBody,
    made: &ContainerInspectResponse,
) -> Result<(), ContainerError> {
    let (wanted, none) = (asked.host_config.clone().unwrap_or_default(), HostConfig::default());
    let found = made.host_config.as_ref().unwrap_or(&none);
    let config = made.config.as_ref();
    same("the image", &asked.image, &made.image)?;
    same("the user", &asked.user.as_deref(), &config.and_then(|it| it.user.as_deref()))?;
    same("the read-only root", &wanted.readonly_rootfs, &found.readonly_rootfs)?;
    same("the absence of privileges", &false, &found.privileged.unwrap_or_default())?;
    same("the absence of added capabilities", &[""; 0][..], texts(found.cap_add.as_ref()).as_slice())?;
    holds("the dropping of capabilities", "ALL", &found.cap_drop, drops_all(found.cap_drop.as_deref()))?;
    let options = found.security_opt.as_deref().unwrap_or_default();
    let closed =
        options.iter().any(|it| matches!(it.as_str(), "no-new-privileges" | "no-new-privileges:true"))
            && !options.iter().any(|it| it.contains("unconfined") || it.ends_with("disable"));
    holds("the security options", "no-new-privileges", &found.security_opt, closed)?;
    same("the IPC namespace", &wanted.ipc_mode, &found.ipc_mode)?;
    for (what, mode) in
        [("a process namespace of its own", &found.pid_mode), ("a host name of its own", &found.uts_mode)]
    {
        holds(what, "private", mode, matches!(mode.as_deref(), None | Some("" | "private")))?;
    }
    same("the network", &wanted.network_mode, &found.network_mode)?;
    same("the name server", &wanted.dns, &found.dns)?;
    same("the memory limit", &wanted.memory.unwrap_or(0), &found.memory.unwrap_or(0))?;
    same("the limit of processes", &wanted.pids_limit, &found.pids_limit)?;
    let driver = |host: &HostConfig| host.log_config.as_ref().and_then(|it| it.typ.clone());
    same("the absence of logs", &driver(&wanted), &driver(found))?;
    let places =
        |host: &HostConfig| host.tmpfs.iter().flatten().map(|(path, _)| path.clone()).collect::<Vec<_>>();
    same("the temporary folder", &places(&wanted), &places(found))?;
    let nothing = found.binds.as_ref().is_none_or(Vec::is_empty)
        && found.volumes_from.as_ref().is_none_or(Vec::is_empty)
        && found.devices.as_ref().is_none_or(Vec::is_empty);
    holds(
        "the absence of devices and binds",
        "none",
        &(&found.binds, &found.volumes_from, &found.devices),
        nothing,
    )?;
    verify_mounts(&wanted, made)
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

fn drops_all(dropped: Option<&[String]>) -> bool {
    let dropped: Vec<&str> =
        dropped.unwrap_or_default().iter().map(|it| it.strip_prefix("CAP_").unwrap_or(it)).collect();
    dropped.contains(&"ALL") || USUAL_CAPABILITIES.iter().all(|it| dropped.contains(it))
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

/// Where a container that runs is reached, in the network with this ID.
pub(super) fn address(made: &ContainerInspectResponse, network: &str) -> Result<String, ContainerError> {
    let networks = made.network_settings.as_ref().and_then(|it| it.networks.as_ref());
    let all: Vec<_> = networks.into_iter().flatten().map(|(_, it)| it).collect();
    let [only] = all.as_slice() else {
        let found = format!("{} networks", all.len());
        return Err(ContainerError::NotApplied { what: "the network", asked: "one alone".to_owned(), found });
    };
    same("the network", &Some(network), &only.network_id.as_deref())?;
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
