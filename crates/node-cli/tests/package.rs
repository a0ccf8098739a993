//! The Debian package: what is in it, that its unit is one, and how much the unit leaves of root.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]
#![expect(clippy::print_stdout, reason = "the score is for whoever reads the run")]
#![expect(clippy::disallowed_methods, reason = "a test's own files")]

#[path = "shared/host.rs"]
mod host;

use std::{path::PathBuf, process::Command};

use host::{root, told};
use serde_json::Value;

/// What `systemd-analyze security` may give at the most: 0 is a service that can do nothing, 10 one that can do all.
const EXPOSURE_MAX: f64 = 4.1;

/// The package with the program under test, and what is in it, put into a folder.
fn package() -> (tempfile::TempDir, PathBuf) {
    let path = told(Command::new(root().join("scripts/package")).envs([("PROFILE", "dev"), ("BUILT", "1")]));
    let path = PathBuf::from(path.lines().last().unwrap());
    let folder = tempfile::tempdir().unwrap();
    told(Command::new("dpkg-deb").arg("--raw-extract").args([&path, folder.path()]));
    (folder, path)
}

#[test]
fn the_package_has_what_a_node_needs_and_nothing_that_belongs_to_one_node() {
    let (folder, path) = package();
    let file = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();

    let version = env!("CARGO_PKG_VERSION");
    let named = told(Command::new(folder.path().join("usr/bin/resultity-node")).arg("--version"));
    assert_eq!(named.trim(), format!("resultity-node {version}"));
    assert!(
        told(Command::new("dpkg-deb").args(["-f".as_ref(), path.as_os_str()]).arg("Version"))
            .starts_with(version)
    );
    assert_eq!(file("DEBIAN/conffiles").trim(), "/etc/resultity/node.toml");
    for what in ["stop resultity-node.service", "try-restart resultity-node.service"] {
        let scripts = ["prerm", "postinst"].map(|name| file(&format!("DEBIAN/{name}"))).concat();
        assert!(scripts.contains(what), "{what}: {scripts}");
    }
    assert!(!folder.path().join("var").exists(), "a volume belongs to a node");

    // Its settings are settings, and its shells know its commands.
    let check = |shell: &str, path: &str| assert!(file(path).contains("explain"), "{shell}");
    check("bash", "usr/share/bash-completion/completions/resultity-node");
    check("zsh", "usr/share/zsh/vendor-completions/_resultity-node");
    check("fish", "usr/share/fish/vendor_completions.d/resultity-node.fish");
    let settings = folder.path().join("etc/resultity/node.toml");
    let home = tempfile::tempdir().unwrap();
    let program = || Command::new(folder.path().join("usr/bin/resultity-node"));
    told(program().arg("--home").arg(home.path()).arg("--config").arg(&settings).arg("init"));

    // A page of the manual for every command, and a list of every part.
    let document = std::fs::read_to_string(root().join("docs/cli.md")).unwrap();
    let commands =
        document.lines().filter_map(|line| line.trim_start_matches('#').strip_prefix(" resultity-node"));
    let mut pages = 0;
    for command in commands {
        let name = format!("resultity-node{}", command.replace(' ', "-"));
        let page = folder.path().join(format!("usr/share/man/man1/{name}.1.gz"));
        assert!(page.exists(), "{}", page.display());
        pages += 1;
    }
    assert!(pages > 40, "{pages} commands have a page");
    let parts: Value =
        serde_json::from_str(&file("usr/share/doc/resultity-node/resultity-node.cdx.json")).unwrap();
    assert_eq!(parts["bomFormat"], "CycloneDX");
    let names: Vec<_> =
        parts["components"].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap()).collect();
    for part in ["node-store", "rusqlite", "k256", "tokio"] {
        assert!(names.contains(&part), "{part} is not among {} parts", names.len());
    }
    assert!(!names.contains(&"sim-disk"), "what only tests use is not in the program");
}

#[test]
fn the_unit_is_one_and_leaves_little_of_root() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        println!("there is no systemd on this machine: its unit is not judged");
        return;
    }
    let unit = root().join("deploy/systemd/resultity-node.service");
    let folder = tempfile::tempdir().unwrap();
    // Here the program stands elsewhere, and its manual is not installed.
    let text = std::fs::read_to_string(&unit).unwrap();
    let text = text.replace("/usr/bin/resultity-node", env!("CARGO_BIN_EXE_resultity-node"));
    let text = text.replace("man:resultity-node(1) ", "");
    let here = folder.path().join("resultity-node.service");
    std::fs::write(&here, text).unwrap();
    let verified = Command::new("systemd-analyze").arg("verify").arg(&here).output().unwrap();
    let said = String::from_utf8_lossy(&verified.stderr);
    assert!(verified.status.success() && !said.contains("resultity-node.service"), "{said}");

    let judged =
        told(Command::new("systemd-analyze").args(["security", "--offline=true", "--no-pager"]).arg(&here));
    let (_, score) = judged.rsplit_once("level for resultity-node.service: ").unwrap();
    println!("systemd-analyze security: {score}");
    let score: f64 = score.split_whitespace().next().unwrap().parse().unwrap();
    assert!(score <= EXPOSURE_MAX, "{judged}");
}
