//! The package on an empty machine: installed by apt, its node sealed under a credential of systemd, its unit started, killed and
//! stopped by systemd with all that the unit takes away; a program of one's own in its place, brought up to date and taken back; its
//! node moved away, and the package purged. What a person would type is taken from docs/install.md, security.md and upgrade.md.
//!
//! The machine is a Debian in a container, in which systemd is the first process (`scripts/machine`). It has no network but itself;
//! the devnet runs in it too. The runtime is a stand-in that the Agent starts in its sandbox.
//!
//! Where there is no Debian, no container engine, or none in which systemd starts, the test says so and passes.
#![expect(clippy::print_stderr, reason = "says why nothing is tested")]
#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test that cannot go on must fail")]

#[path = "../../node-agent/tests/container/compiled.rs"]
mod compiled;
#[path = "shared/host.rs"]
mod host;
#[path = "shared/pages.rs"]
#[expect(dead_code, reason = "no command of these runs beside others")]
mod pages;

use std::{
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use host::{root, told};
use node_types::Digest;
use pages::{Line, Pages};
use serde_json::{Value, json};

/// Where the engine listens.
const SOCKET: &str = "/var/run/docker.sock";
/// The longest that anything is waited for.
const PATIENCE: Duration = Duration::from_secs(120);
/// This release.
const NOW: &str = env!("CARGO_PKG_VERSION");
/// A command of the node's that sees its credential where the service does not run.
const SEALED: &str = "systemd-run -qPG --wait -p LoadCredentialEncrypted=resultity-kek:/etc/credstore.encrypted/resultity-kek \
                      resultity-node";

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

    /// Runs a command of a page as it stands there, in root's folder.
    #[track_caller]
    fn types(&self, line: &Line) -> String {
        let (code, said) = self.tries(&format!("cd /opt/desk\n{}", line.0));
        assert!(
            code.is_some_and(|code| line.codes().contains(&code)),
            "{}: {said}{}",
            line.0,
            self.journal()
        );
        said
    }

    /// A program that commands of the pages call, and that an empty machine does not have.
    fn program(&self, name: &str, script: &str) {
        let path = format!("/usr/local/bin/{name}");
        self.write(&path, format!("#!/bin/sh\n{script}\n").as_bytes());
        self.does(&format!("chmod 755 {path}"));
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

    /// The digest of the program that the service runs.
    fn runs(&self) -> String {
        self.does(&format!("sha256sum </proc/{}/exe", self.service("MainPID")))
            .split(' ')
            .next()
            .unwrap()
            .to_owned()
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

/// The digest of a file in the machine, in hex.
fn digest_in(machine: &Machine, path: &str) -> String {
    machine.does(&format!("sha256sum {path}")).split(' ').next().unwrap().to_owned()
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
    let package = PathBuf::from(package.lines().last().unwrap());
    let version = told(Command::new("dpkg-deb").arg("-f").arg(&package).arg("Version"));
    // Where the pages' commands are typed.
    machine.does("mkdir /opt/desk");
    machine.copy(&package, &format!("/opt/desk/resultity-node_{}_amd64.deb", version.trim()));
    // Root needs no leave, and what a person would write into the settings is written.
    machine.program("sudo", "exec \"$@\"");
    machine.program("editor", "exec cp /opt/settings \"$1\"");
    machine.does("umask 077; head -c 20 /dev/urandom | base64 >/opt/desk/backup.pass");
    let mut pages = Pages::of("machine");
    let [install_own] = pages.take("docs/install.md");
    let own_unit: [Line; 3] = pages.take("docs/install.md");
    let [install, edit, init, doctor, enable, status, export] = pages.take("docs/install.md");
    machine.types(&Line(install.0.replace("<version>", version.trim())));
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
    machine.write("/opt/settings", settings.as_bytes());
    machine.types(&edit);
    machine.ends_for_good_with("5");

    // A node that was made without the credential is sealed under it; another one is made under it.
    let credential: [Line; 4] = pages.take("docs/security.md");
    let [sealed, sealed_init, reseal, move_out] = pages.take("docs/security.md");
    let under = |line: &Line| Line(format!("{}\n{}", sealed.0, line.0));
    for line in &credential {
        machine.types(line);
    }
    let said = machine.types(&init);
    assert!(said.contains("obfuscation only") && said.contains("systemctl enable --now"), "{said}");
    machine.types(&under(&reseal));
    assert_eq!(machine.json("resultity-node status --json")["protection"], "systemd");
    let next = machine.json(&format!("{SEALED} init --if-missing --json"))["next"].take();
    assert!(next.as_str().unwrap().starts_with("start it: `systemctl"), "a backup needs the service: {next}");
    machine.does("rm -r /var/lib/resultity/testnet");
    machine.types(&under(&sealed_init));
    let made = machine.json("resultity-node status --json");
    assert_eq!(made["protection"], "systemd");
    machine.types(&doctor);

    machine.write("/opt/template.json", template(&program).to_string().as_bytes());
    machine.does(
        "systemd-run -q --unit devnet resultity-node devnet run --folder /opt/net --template /opt/template.json",
    );
    machine.types(&enable);
    let seen = machine.active();
    assert_eq!((&seen["node"], &seen["protection"]), (&made["node"], &json!("systemd")));
    let said = machine.types(&status);
    assert!(said.contains(made["node"].as_str().unwrap()), "{said}");

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
    // What stands in its log may ask for attention just now.
    let (verdict, says) = (&finding("agent")["verdict"], finding("agent")["found"].as_str().unwrap());
    let attention = verdict == "note" && says.ends_with("and says of itself: attention");
    assert!(verdict == "ok" || attention, "{found:#}");
    for name in ["modes", "keys", "databases", "stamps", "runtime", "sandbox", "network"] {
        assert_eq!(finding(name)["verdict"], "ok", "{found:#}");
    }
    machine.types(&export);
    machine
        .does("resultity-node backup create /opt/backup --with-keys --passphrase-file /opt/desk/backup.pass");

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

    // A program of one's own under the same unit, where a checkout was built.
    machine.does("install -D /usr/bin/resultity-node /opt/desk/target/release/resultity-node && mkdir -p /opt/desk/deploy/systemd");
    machine.copy(&root().join("deploy/systemd/resultity-node.service"), "/opt/desk/deploy/systemd/");
    machine.types(&install_own);
    for line in &own_unit {
        machine.types(line);
    }
    machine.active();
    let old = digest_in(&machine, "/usr/local/bin/resultity-node");
    assert_eq!(machine.runs(), old);

    // The next release is the same program but for its number: the network approves it, and it takes the place of the one that runs.
    let next = NOW.replace(|letter: char| letter.is_ascii_digit(), "9");
    let pattern = NOW.replace('.', "\\.");
    machine.does(&format!(
        "LC_ALL=C sed 's/{pattern}/{next}/g' </usr/bin/resultity-node >/opt/desk/resultity-node"
    ));
    let new = digest_in(&machine, "/opt/desk/resultity-node");
    let agents = json!([
        { "version": NOW, "digest": format!("sha256:{old}") },
        { "version": next, "digest": format!("sha256:{new}") },
    ]);
    let approved = json!({ "updates": { "agents": agents, "runtimes": [] } });
    machine.does(&format!("resultity-node devnet snapshot '{approved}'"));
    let advice = || {
        serde_json::from_str(&machine.tries("resultity-node update check --json").1).unwrap_or(Value::Null)
    };
    assert!(eventually(|| advice()["advice"] == "newer"), "{:#}", advice());
    let [check, verify] = pages.take("docs/upgrade.md");
    let [apply, restart] = pages.take("docs/upgrade.md");
    let [compare, install_next] = pages.take("docs/upgrade.md");
    let [undo, back] = pages.take("docs/upgrade.md");
    assert!(machine.types(&check).contains(&next));
    assert!(machine.types(&verify).contains("approved"));
    for ([place, start], running, said) in
        [([apply, restart], &new, "current"), ([undo, back], &old, "newer")]
    {
        machine.types(&place);
        machine.types(&start);
        let seen = machine.active();
        assert_eq!((&machine.runs(), &seen["node"]), (running, &made["node"]), "{}", place.0);
        assert_eq!(advice()["advice"], said, "{}", place.0);
        // What the node measured of itself, and says of it.
        let measured = || {
            let found = machine.json("resultity-node drift check --json");
            let all = found["artifacts"].as_array().unwrap();
            all.iter().any(|it| it["kind"] == "agent" && it["measured"] == format!("sha256:{running}"))
        };
        assert!(eventually(measured), "{}: {}", place.0, machine.does("resultity-node drift history"));
    }
    machine.does("systemctl stop resultity-node && rm /etc/systemd/system/resultity-node.service /usr/local/bin/resultity-node*");
    machine.does("systemctl daemon-reload && systemctl start resultity-node");

    // The next release as a package: it is compared before it is installed, by the service it replaces, and is the package's.
    assert_eq!((machine.active()["node"].clone(), machine.runs()), (made["node"].clone(), old.clone()));
    machine.does(&format!(
        "cd /opt/desk && dpkg-deb -R ./resultity-node_{version}_amd64.deb package
         cp resultity-node package/usr/bin/resultity-node && rm package/DEBIAN/md5sums
         sed -i 's/^Version: .*/Version: {next}/' package/DEBIAN/control
         dpkg-deb -Znone -b package resultity-node_{next}_amd64.deb",
        version = version.trim()
    ));
    let of_next = |line: &Line| Line(line.0.replace("<version>", &next));
    assert!(machine.types(&of_next(&compare)).contains("approved"));
    machine.types(&of_next(&install_next));
    assert_eq!((machine.active()["node"].clone(), machine.runs()), (made["node"].clone(), new.clone()));
    let (code, said) = machine.tries("resultity-node update apply /opt/desk/resultity-node");
    assert!(code == Some(1) && said.contains("package"), "{said}");
    machine.does(&format!(
        "cd /opt/desk && apt-get install -y --allow-downgrades ./resultity-node_{}_amd64.deb",
        version.trim()
    ));
    assert_eq!((machine.active()["node"].clone(), machine.runs()), (made["node"].clone(), old));
    machine.does("systemctl stop resultity-node");

    // A node that was moved away stays down; the package goes, and the node's files stay.
    machine.types(&under(&move_out));
    pages.end();
    machine.ends_for_good_with("6");
    let said = machine.does("apt-get purge -y resultity-node");
    assert!(said.contains("/var/lib/resultity stays"), "{said}");
    machine
        .does("test -f /var/lib/resultity/testnet/keys/node.key && test ! -e /var/cache/resultity-runtime");
}
