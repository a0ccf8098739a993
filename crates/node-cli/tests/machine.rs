//! The package on an empty machine: installed by apt, its node sealed under a credential of systemd, its unit started, killed and
//! stopped by systemd with all that the unit takes away, its node moved away, and the package purged.
//!
//! The machine is a Debian in a container, in which systemd is the first process (`scripts/machine`). It has no network but itself;
//! the devnet runs in it too. The runtime is a stand-in that the Agent starts in its sandbox.
//!
//! Where there is no Debian, no container engine, or none in which systemd starts, the test says so and passes.
#![expect(clippy::print_stderr, reason = "says why nothing is tested")]
#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test that cannot go on must fail")]

#[path = "../../node-agent/tests/container/compiled.rs"]
mod compiled;

use std::{
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use node_types::Digest;
use serde_json::{Value, json};

/// Where the engine listens.
const SOCKET: &str = "/var/run/docker.sock";
/// The longest that anything is waited for.
const PATIENCE: Duration = Duration::from_secs(120);
/// A command of the node's that sees its credential where the service does not run.
const SEALED: &str = "systemd-run -qPG --wait -p LoadCredentialEncrypted=resultity-kek:/etc/credstore.encrypted/resultity-kek \
                      resultity-node";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap()
}

/// Runs it, and gives its standard output.
#[track_caller]
fn told(command: &mut Command) -> String {
    let ended = command.output().unwrap();
    assert!(ended.status.success(), "{command:?}: {}", String::from_utf8_lossy(&ended.stderr));
    String::from_utf8(ended.stdout).unwrap()
}

/// A machine; gone when it is dropped.
struct Machine(String);

impl Machine {
    /// None where there can be none.
    fn start() -> Option<Self> {
        if !Path::new(SOCKET).exists() {
            eprintln!("not tested: there is no container engine at {SOCKET}");
            return None;
        }
        assert!(rustix::process::geteuid().is_root(), "there is an engine: run this test as root");
        let files = told(&mut Command::new(root().join("scripts/machine")));
        if files.is_empty() {
            eprintln!("not tested: this is no Debian");
            return None;
        }
        let name = format!("resultity-test-machine-{}", std::process::id());
        let machine = Self(name.clone());
        told(Command::new("docker").args(["import", files.trim(), &format!("{name}:1")]));
        let mut run = Command::new("docker");
        run.args(["run", "-d", "--name", &name, "--network", "none", "--cgroupns", "private"]);
        run.args(["--tmpfs", "/run", "--tmpfs", "/tmp:exec", "--volume", "/var/lib/resultity"]);
        // What systemd needs to mount and to confine; not --privileged, which asks for more than some engines have.
        for capability in ["SYS_ADMIN", "SYS_PTRACE", "NET_ADMIN", "DAC_READ_SEARCH"] {
            run.args(["--cap-add", capability]);
        }
        for open in ["seccomp=unconfined", "apparmor=unconfined", "systempaths=unconfined"] {
            run.args(["--security-opt", open]);
        }
        // A container's mounts are private, and systemd hands credentials over by a mount that must be seen elsewhere.
        let first = "mount --make-rshared /; mount -o remount,rw /sys/fs/cgroup 2>/dev/null; exec /sbin/init";
        let ran =
            run.args(["-e", "container=docker", &format!("{name}:1"), "sh", "-c", first]).output().unwrap();
        let up = || ["running", "degraded"].contains(&machine.tries("systemctl is-system-running").1.trim());
        if !ran.status.success() || !eventually(up) {
            let why = Command::new("docker").args(["logs", &name]).output().unwrap();
            let why = [ran.stderr, why.stdout, why.stderr].concat();
            eprintln!("not tested: systemd does not start here: {}", String::from_utf8_lossy(&why));
            return None;
        }
        Some(machine)
    }

    /// Runs a line of shell, and gives how it ended and what it said.
    fn tries(&self, line: &str) -> (Option<i32>, String) {
        let ended = Command::new("docker").args(["exec", &self.0, "sh", "-c", line]).output().unwrap();
        (ended.status.code(), String::from_utf8_lossy(&[ended.stdout, ended.stderr].concat()).into_owned())
    }

    /// The same of one that ends well.
    #[track_caller]
    fn does(&self, line: &str) -> String {
        let (code, said) = self.tries(line);
        assert_eq!(code, Some(0), "{line}: {said}{}", self.journal());
        said
    }

    #[track_caller]
    fn json(&self, line: &str) -> Value {
        let (_, said) = self.tries(line);
        serde_json::from_str(&said).unwrap_or_else(|why| unreachable!("{line}: {why}: {said}"))
    }

    fn copy(&self, from: &Path, to: &str) {
        told(Command::new("docker").args(["cp", from.to_str().unwrap(), &format!("{}:{to}", self.0)]));
    }

    fn write(&self, path: &str, content: &[u8]) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        self.copy(file.path(), path);
        self.does(&format!("chmod 644 {path}"));
    }

    /// What systemd says of the node's service.
    fn service(&self, property: &str) -> String {
        self.does(&format!("systemctl show --value -p {property} resultity-node")).trim().to_owned()
    }

    /// Starts the service, which ends at once with `code` and is left alone.
    #[track_caller]
    fn ends_for_good_with(&self, code: &str) {
        self.tries("systemctl start resultity-node");
        assert!(eventually(|| self.service("ActiveState") == "failed"), "{code}: {}", self.journal());
        assert_eq!(self.service("ExecMainStatus"), code, "{}", self.journal());
    }

    /// Waits until the node takes jobs, and gives its status.
    #[track_caller]
    fn active(&self) -> Value {
        let status =
            || serde_json::from_str(&self.tries("resultity-node status --json").1).unwrap_or(Value::Null);
        assert!(
            eventually(|| status()["agent"]["readiness"] == "active"),
            "{:#}\n{}",
            status(),
            self.journal()
        );
        status()
    }

    fn journal(&self) -> String {
        self.tries("journalctl --no-pager -n 30 -u resultity-node").1
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["rm", "-f", "-v", &self.0]).output();
        let _ = Command::new("docker").args(["rmi", "-f", &format!("{}:1", self.0)]).output();
    }
}

#[expect(clippy::disallowed_methods, reason = "a test waits")]
fn eventually(look: impl Fn() -> bool) -> bool {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        if look() {
            return true;
        }
        thread::sleep(Duration::from_millis(200));
    }
    false
}

/// One model, and a runtime that the Agent starts.
fn template(program: &Path) -> Value {
    json!({
        "models": [{
            "name": "m", "version": "1", "tasks": ["completion"], "engine": "stand-in", "memory_bytes": 0,
            "files": [{ "path": "m.bin", "bytes": 1, "sha256": Digest::of(b"m") }], "sources": [],
        }],
        "runtime": {
            "kind": "process", "engine": "stand-in", "command": "stand_in", "args": ["--port", "{port}"],
            "digest": Digest::of(&std::fs::read(program).unwrap()),
        },
        "limits": {
            "queue_jobs_max": 100, "queue_bytes_max": 67_108_864, "request_bytes_max": 1_048_576,
            "max_tokens": 1024, "execution_timeout_ms": 60_000, "ttl_ms_max": 3_600_000, "attempts_max": 3,
            "concurrency": 1, "logs_bytes_max": 16_777_216,
        },
        "timings": {
            "heartbeat_ms": 500, "sync_ms": 5000, "flush_ms": 500, "retry_ms_min": 50, "retry_ms_max": 500,
            "trace_ttl_ms": 86_400_000, "log_ttl_ms": 86_400_000, "offline_grace_ms": 3_600_000,
            "partial_file_ttl_ms": 3_600_000,
        },
        "refresh_after_ms": 3_600_000, "valid_for_ms": 7_200_000,
    })
}

#[test]
fn a_node_lives_on_an_empty_machine_under_its_unit_and_a_credential() {
    let Some(machine) = Machine::start() else { return };
    let package =
        told(Command::new(root().join("scripts/package")).envs([("PROFILE", "dev"), ("BUILT", "1")]));
    machine.copy(&PathBuf::from(package.lines().last().unwrap()), "/opt/node.deb");
    machine.does("apt-get install -y /opt/node.deb");
    assert_eq!(machine.service("UnitFileState"), "disabled", "a node is made first");

    // What only a person can mend ends it for good: no settings, no node.
    machine.ends_for_good_with("2");
    let program = compiled::stand_in();
    machine.does("mkdir -p /srv/runtime /srv/models");
    machine.copy(&program, "/srv/runtime/stand_in");
    machine.does("chmod 755 /srv/runtime/stand_in");
    machine.write(&format!("/srv/models/{}", Digest::of(b"m").hex()), b"m");
    let settings = "network_url = \"http://127.0.0.1:7411\"\n[runtime]\nfolder = \"/srv/runtime\"\n\
                    [models]\nfolders = [\"/srv/models\"]\n";
    machine.write("/etc/resultity/node.toml", settings.as_bytes());
    machine.ends_for_good_with("5");

    // The node, made without the credential and sealed under it afterwards: by the words of docs/security.md.
    machine.does("install -d -m 700 /etc/credstore.encrypted");
    machine.does(
        "head -c 48 /dev/urandom | systemd-creds encrypt --name=resultity-kek - /etc/credstore.encrypted/resultity-kek",
    );
    machine.does(
        "install -D -m 644 -t /etc/systemd/system/resultity-node.service.d \
         /usr/share/doc/resultity-node/examples/credential.conf && systemctl daemon-reload",
    );
    let made = machine.json("resultity-node init --json");
    assert_eq!(made["protection"], "obfuscation_only");
    assert!(made["next"].as_str().unwrap().contains("systemctl enable --now"), "{made}");
    machine.does(&format!("{SEALED} key reseal --to-credential"));
    let next = machine.json(&format!("{SEALED} init --if-missing --json"))["next"].take();
    assert!(next.as_str().unwrap().starts_with("start it: `systemctl"), "a backup needs the service: {next}");

    machine.write("/opt/template.json", template(&program).to_string().as_bytes());
    machine.does(
        "systemd-run -q --unit devnet resultity-node devnet run --folder /opt/net --template /opt/template.json",
    );
    machine.does("systemctl enable -q --now resultity-node");
    let status = machine.active();
    assert_eq!((&status["node"], &status["protection"]), (&made["node"], &json!("systemd")));

    // The walls stand: the runtime is nobody, sees files of its own, and can gain nothing.
    let runtime = machine.does("cat $(dirname $(grep -lx stand_in /proc/[0-9]*/comm))/status");
    for wanted in ["Uid:\t65534", "CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(runtime.contains(wanted), "{wanted}: {runtime}");
    }

    // Beside it root opens the key with what the service was given.
    let found = machine.json("resultity-node doctor --json");
    let finding =
        |name: &str| found["findings"].as_array().unwrap().iter().find(|it| it["name"] == name).unwrap();
    assert!(finding("keys")["found"].as_str().unwrap().contains("systemd credential"), "{found:#}");
    for name in ["agent", "modes", "keys", "databases", "stamps", "runtime", "sandbox", "network"] {
        assert_eq!(finding(name)["verdict"], "ok", "{found:#}");
    }
    machine.does("umask 077; head -c 20 /dev/urandom | base64 >/opt/pass");
    machine.does("resultity-node key export --out /opt/key.json --passphrase-file /opt/pass");
    machine.does("resultity-node backup create /opt/backup --with-keys --passphrase-file /opt/pass");

    // Killed, it is started again, and its runtime with it; stopped, it ends well.
    let pid = machine.service("MainPID");
    machine.does(&format!("kill -9 {pid}"));
    assert!(
        eventually(|| !["0", &pid].contains(&machine.service("MainPID").as_str())),
        "{}",
        machine.journal()
    );
    machine.active();
    machine.does("systemctl stop resultity-node");
    assert_eq!(
        (machine.service("Result"), machine.service("ExecMainStatus")),
        ("success".into(), "0".into())
    );
    let (code, said) = machine.tries("resultity-node rotate");
    assert!(code == Some(1) && said.contains("systemd-run"), "{said}");

    // A node that was moved away stays down; the package goes, and the node's files stay.
    machine.does(&format!("{SEALED} move out /opt/node.move --passphrase-file /opt/pass"));
    machine.ends_for_good_with("6");
    let said = machine.does("apt-get purge -y resultity-node");
    assert!(said.contains("/var/lib/resultity stays"), "{said}");
    machine
        .does("test -f /var/lib/resultity/testnet/keys/node.key && test ! -e /var/cache/resultity-runtime");
}
