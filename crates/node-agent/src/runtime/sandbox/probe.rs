//! What this kernel has of what the sandbox uses, found out without giving anything up.

use landlock::{ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, Scope};

use super::enter::left_open;

/// `CAP_SYS_ADMIN` (capability.h): without it the superuser makes no namespaces.
const SYS_ADMIN: u32 = 21;
/// The versions of Landlock's interface at which something is added that the sandbox uses, newest first.
const VERSIONS: [ABI; 6] = [ABI::V6, ABI::V5, ABI::V4, ABI::V3, ABI::V2, ABI::V1];

/// What a program in the sandbox is kept from on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// What Landlock cannot refuse here; empty where it can refuse all.
    pub left_open: Vec<&'static str>,
    /// The kernel filters system calls (seccomp).
    pub seccomp: bool,
    /// The superuser can make a view of the files of its own; `true` for everybody else, who needs none.
    pub namespaces: bool,
}

/// Looks at this kernel. Restricts nothing.
#[must_use]
pub fn probe() -> Probe {
    let abi = VERSIONS.into_iter().find(|abi| has(*abi)).unwrap_or(ABI::Unsupported);
    let status = read("/proc/self/status");
    let root = rustix::process::geteuid().is_root();
    Probe {
        left_open: left_open(abi),
        seccomp: status.lines().any(|line| line.starts_with("Seccomp:")),
        namespaces: !root || has_capability(&status, SYS_ADMIN),
    }
}

/// Whether the kernel takes a set of rules of this version. Making one restricts nobody.
fn has(abi: ABI) -> bool {
    let rules = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    let rules = rules.handle_access(AccessFs::from_all(abi));
    let rules = rules.and_then(|rules| match AccessNet::from_all(abi) {
        none if none.is_empty() => Ok(rules),
        some => rules.handle_access(some),
    });
    let rules = rules.and_then(|rules| match Scope::from_all(abi) {
        none if none.is_empty() => Ok(rules),
        some => rules.scope(some),
    });
    rules.and_then(Ruleset::create).is_ok()
}

/// Whether the effective capabilities (proc(5), `CapEff`) have this one.
fn has_capability(status: &str, number: u32) -> bool {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .is_some_and(|bits| bits & (1 << number) != 0)
}

#[expect(clippy::disallowed_methods, reason = "what the kernel says, no file of the volume")]
fn read(path: &str) -> String {
    // What cannot be read is not there.
    std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capability_is_a_bit_of_the_effective_ones() {
        assert!(has_capability("CapPrm:\t0\nCapEff:\t0000000000200000\n", SYS_ADMIN));
        assert!(!has_capability("CapPrm:\tffffffff\nCapEff:\t0000000000100000\n", SYS_ADMIN));
        assert!(!has_capability("", SYS_ADMIN));
    }

    #[test]
    fn looking_restricts_nobody() {
        let before = probe();
        assert_eq!(probe(), before);
        assert!(std::fs::read_dir("/").is_ok());
    }
}
