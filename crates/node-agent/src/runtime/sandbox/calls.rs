//! The system calls that the program does without: what Landlock does not cover, as a list of exceptions to everything else.
//!
//! - Keyrings, and memory, queues and semaphores of System V: they belong to a user, so a program that runs as the
//!   Agent's own would share them.
//! - Limits of other processes, likewise: with a limit of a second the Agent would be ended.
//! - Sockets of other kinds than TCP and local ones. UDP leaves the machine; Multipath TCP, TCP's Fast Open and sockets
//!   of a hypervisor connect without asking Landlock. Local ones too where nothing else keeps it from the sockets of the
//!   Agent's user: through those it could have a service manager or a container engine start what it likes.
//! - User namespaces and what was most often broken in kernels: `bpf`, `perf_event_open`, `userfaultfd`, `io_uring`
//!   (which also opens sockets by itself).
//! - Modes of files: Landlock lets everybody change those of their own files, and where the program runs as the Agent's user
//!   these are the Agent's. Such a call is answered as if it were done, because programs copy files with their
//!   modes; in a work folder that nobody else can enter, modes mean nothing.

use std::collections::BTreeMap;

use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, sock_filter,
};

/// Refused with whatever arguments.
const REFUSED: [libc::c_long; 21] = [
    libc::SYS_add_key,
    libc::SYS_keyctl,
    libc::SYS_request_key,
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_shmctl,
    libc::SYS_msgget,
    libc::SYS_msgsnd,
    libc::SYS_msgrcv,
    libc::SYS_msgctl,
    libc::SYS_semget,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_semctl,
    libc::SYS_mq_open,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
];
/// Answered as if they were done.
const PRETENDED: &[libc::c_long] = &[
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chmod,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchmodat2,
];
/// The families of sockets that may be made, the local one first.
const FAMILIES: [libc::c_int; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];
/// The types of internet sockets that may not: all but streams.
const TYPES: [libc::c_int; 6] = [
    libc::SOCK_DGRAM,
    libc::SOCK_RAW,
    libc::SOCK_RDM,
    libc::SOCK_SEQPACKET,
    6,  /* DCCP */
    10, /* packets */
];
/// The part of a socket's type that is no flag.
const TYPE_MASK: u64 = 0xf;

/// Takes them from this process and everything that it starts; `local_sockets` says whether it keeps those.
///
/// # Errors
/// [`seccompiler::Error`]: a kernel without filters, or a processor that the filters are not known for.
pub(super) fn give_up(local_sockets: bool) -> Result<(), seccompiler::Error> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    // The other way to call a 64-bit kernel of this processor, with numbers of its own.
    if arch == TargetArch::x86_64 {
        seccompiler::apply_filter(&no_x32())?;
    }
    for (answer, rules) in lists(local_sockets)? {
        let filter = SeccompFilter::new(
            rules,
            SeccompAction::Allow,
            SeccompAction::Errno(answer.unsigned_abs()),
            arch,
        )?;
        seccompiler::apply_filter(&BpfProgram::try_from(filter)?)?;
    }
    Ok(())
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// What is answered, and to which calls.
fn lists(local_sockets: bool) -> Result<[(libc::c_int, Rules); 3], seccompiler::BackendError> {
    let any = |calls: &[libc::c_long]| calls.iter().map(|call| (*call, Vec::new())).collect::<Rules>();
    let mut refused = any(&REFUSED);
    refused.insert(libc::SYS_socket, sockets(local_sockets)?);
    refused.insert(libc::SYS_prlimit64, vec![SeccompRule::new(vec![is_not(0, 0)?])?]);
    refused.insert(libc::SYS_clone, vec![SeccompRule::new(vec![has(0, libc::CLONE_NEWUSER)?])?]);
    for (call, flags) in [(libc::SYS_sendto, 3), (libc::SYS_sendmsg, 2), (libc::SYS_sendmmsg, 3)] {
        refused.insert(call, vec![SeccompRule::new(vec![has(flags, libc::MSG_FASTOPEN)?])?]);
    }
    // Its flags stand in memory, where no filter sees them; whoever is told that there is no such call uses `clone`.
    let unknown = any(&[libc::SYS_clone3]);
    Ok([(libc::EPERM, refused), (libc::ENOSYS, unknown), (0, any(PRETENDED))])
}

fn sockets(local: bool) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    let families = FAMILIES.into_iter().skip(if local { 0 } else { 1 });
    let other_family = families.map(|family| is_not(0, family)).collect::<Result<_, _>>()?;
    let mut rules = vec![SeccompRule::new(other_family)?];
    for family in [libc::AF_INET, libc::AF_INET6] {
        for kind in TYPES {
            let of_kind = condition(1, SeccompCmpOp::MaskedEq(TYPE_MASK), kind)?;
            rules.push(SeccompRule::new(vec![is(0, family)?, of_kind])?);
        }
        rules.push(SeccompRule::new(vec![is(0, family)?, is_not(2, 0)?, is_not(2, libc::IPPROTO_TCP)?])?);
    }
    Ok(rules)
}

fn is(argument: u8, value: libc::c_int) -> Result<SeccompCondition, seccompiler::BackendError> {
    condition(argument, SeccompCmpOp::Eq, value)
}

fn is_not(argument: u8, value: libc::c_int) -> Result<SeccompCondition, seccompiler::BackendError> {
    condition(argument, SeccompCmpOp::Ne, value)
}

fn has(argument: u8, flag: libc::c_int) -> Result<SeccompCondition, seccompiler::BackendError> {
    condition(argument, SeccompCmpOp::MaskedEq(flag.unsigned_abs().into()), flag)
}

fn condition(
    argument: u8,
    operator: SeccompCmpOp,
    value: libc::c_int,
) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value.unsigned_abs().into())
}

/// Refuses every call whose number has the bit of the x32 interface, which [`SeccompFilter`] would let pass.
fn no_x32() -> [sock_filter; 4] {
    // The codes of `linux/bpf_common.h`.
    const LOAD_WORD: u16 = 0x20;
    const JUMP_IF_AT_LEAST: u16 = 0x35;
    const RETURN: u16 = 0x06;
    let step = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    [
        step(LOAD_WORD, 0, 0, 0),
        step(JUMP_IF_AT_LEAST, 0, 1, 0x4000_0000),
        step(RETURN, 0, 0, SeccompAction::Errno(libc::ENOSYS.unsigned_abs()).into()),
        step(RETURN, 0, 0, SeccompAction::Allow.into()),
    ]
}
