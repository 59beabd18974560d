//! Which system calls each kind of thread may make (seccomp(2)). What is not listed fails with `EPERM`: to end the process would
//! take the other guests' NIC away as well. Arguments are looked at where a call does what nobody here needs: memory that can be
//! executed, processes, other networks. Calls that are always allowed cost next to nothing (the kernel remembers them).

use std::collections::BTreeMap;

use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter,
};

use super::Role;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Of every thread: memory, time, waiting for each other, descriptors that are open, its own end.
const COMMON: &[i64] = &[
    libc::SYS_brk,
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getcpu,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_ppoll,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_write,
    libc::SYS_writev,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_time,
];

/// To send and receive on sockets that are there, with a time limit.
const TALK: &[i64] = &[
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
];

/// To look for work, and to sleep until there is some.
const WAIT: &[i64] = &[
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_preadv2,
    libc::SYS_timerfd_settime,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
];

/// To serve sockets, and whoever has connected, on threads of their own if need be.
const SERVE: &[i64] = &[
    libc::SYS_accept4,
    libc::SYS_clone3, // there is none, which is said by another filter
    libc::SYS_connect,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_shutdown,
];

/// To be a front end.
const CONNECT: &[i64] = &[
    libc::SYS_connect,
    libc::SYS_eventfd2,
    libc::SYS_ftruncate,
    libc::SYS_lseek,
    libc::SYS_memfd_create,
    libc::SYS_socketpair,
    libc::SYS_wait4, // for a back end that is a program of ours
];

/// What a front end or a command may make necessary: sockets of VFs, descriptors, files of ours.
const MANAGE: &[i64] = &[
    libc::SYS_bind,
    libc::SYS_dup3,
    libc::SYS_epoll_create1,
    libc::SYS_eventfd2,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchownat,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_getdents64,
    libc::SYS_geteuid,
    libc::SYS_getuid,
    libc::SYS_listen,
    libc::SYS_lseek,
    libc::SYS_memfd_create,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_pipe2,
    libc::SYS_readlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_socketpair,
    libc::SYS_statx,
    libc::SYS_umask,
    libc::SYS_unlinkat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chmod,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lstat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_readlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rename,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_stat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
];

/// What is asked of a descriptor, or changed; without `F_SETOWN` and `F_SETSIG`, by which the kernel sends any signal to any process of this
/// user when something arrives.
const OF_DESCRIPTORS: &[i32] = &[
    libc::F_ADD_SEALS,
    libc::F_DUPFD_CLOEXEC,
    libc::F_GETFD,
    libc::F_GETFL,
    libc::F_GET_SEALS,
    libc::F_SETFD,
    libc::F_SETFL,
];

/// Flags of clone(2) that have to do with new namespaces.
const NAMESPACES: u64 = (libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWUTS) as u64;

/// Puts the calling thread, and those that it will start, under the filter of its role.
pub(super) fn confine(role: Role<'_>) -> Result<(), String> {
    let lower = |error: seccompiler::Error| error.to_string();
    for program in programs(role).map_err(lower)? {
        apply_filter(&program).map_err(lower)?;
    }
    Ok(())
}

/// The filters, in the order in which they are to be installed.
fn programs(role: Role<'_>) -> Result<Vec<BpfProgram>, seccompiler::Error> {
    let errno = |errno: i32| SeccompAction::Errno(errno.unsigned_abs());
    // Its arguments cannot be looked at. A C library whose kernel has none takes clone(2).
    let clone3 = [(libc::SYS_clone3, Vec::new())].into();
    Ok(vec![
        program(clone3, SeccompAction::Allow, errno(libc::ENOSYS))?,
        program(rules(role)?, errno(libc::EPERM), SeccompAction::Allow)?,
    ])
}

fn program(
    rules: Rules,
    others: SeccompAction,
    these: SeccompAction,
) -> Result<BpfProgram, seccompiler::Error> {
    let arch = std::env::consts::ARCH.try_into()?;
    Ok(SeccompFilter::new(rules, others, these, arch)?.try_into()?)
}

/// What a role may do.
fn rules(role: Role<'_>) -> Result<Rules, seccompiler::Error> {
    let sets: &[&[i64]] = match role {
        Role::Quiet => &[COMMON, TALK],
        Role::Data => &[COMMON, TALK, WAIT],
        Role::Scrapes => &[COMMON, TALK, SERVE],
        Role::Tap => &[COMMON, TALK, CONNECT],
        Role::Control(_) => &[COMMON, TALK, WAIT, SERVE, MANAGE],
    };
    let mut rules: Rules = sets
        .iter()
        .copied()
        .flatten()
        .map(|call| (*call, vec![]))
        .collect();
    let not_executable = masked(2, libc::PROT_EXEC as u64, 0)?;
    rules.insert(libc::SYS_mmap, vec![not_executable.clone()]);
    rules.insert(libc::SYS_mprotect, vec![not_executable]);
    let of_descriptors = OF_DESCRIPTORS.iter();
    let of_descriptors = of_descriptors.map(|command| is(1, u64::from(command.unsigned_abs())));
    rules.insert(libc::SYS_fcntl, of_descriptors.collect::<Result<_, _>>()?);
    // A thread raises a signal for itself, and the watchdog one for another.
    let own = is(0, u64::from(std::process::id()))?;
    rules.insert(libc::SYS_tgkill, vec![own]);
    if matches!(role, Role::Scrapes | Role::Control(_)) {
        let thread = libc::CLONE_THREAD as u64;
        rules.insert(
            libc::SYS_clone,
            vec![masked(0, thread | NAMESPACES, thread)?],
        );
        rules.insert(libc::SYS_prctl, vec![is(0, libc::PR_SET_NAME as u64)?]);
    }
    if matches!(role, Role::Scrapes | Role::Tap | Role::Control(_)) {
        rules.insert(libc::SYS_socket, vec![is(0, libc::AF_UNIX as u64)?]);
        // None of a terminal, which could be made to type.
        let mut requests = vec![libc::FIONBIO, libc::FIONREAD];
        if matches!(role, Role::Tap | Role::Control(_)) {
            // Of a tap, by a descriptor that is open. Of a socket, the last one takes a privilege.
            requests.extend([
                libc::TUNGETIFF,
                libc::TUNSETOFFLOAD,
                libc::TUNSETVNETHDRSZ,
                libc::TUNSETVNETLE,
                libc::TUNSETCARRIER,
                libc::SIOCSIFHWADDR,
            ]);
        }
        let requests = requests.into_iter().map(|request| is(1, request));
        rules.insert(libc::SYS_ioctl, requests.collect::<Result<_, _>>()?);
    }
    Ok(rules)
}

/// A call whose argument of this number is so.
fn is(argument: u8, value: u64) -> Result<SeccompRule, seccompiler::Error> {
    condition(argument, SeccompCmpOp::Eq, value)
}

/// A call whose argument of this number is so as far as the mask goes.
fn masked(argument: u8, mask: u64, value: u64) -> Result<SeccompRule, seccompiler::Error> {
    condition(argument, SeccompCmpOp::MaskedEq(mask), value)
}

fn condition(
    argument: u8,
    op: SeccompCmpOp,
    value: u64,
) -> Result<SeccompRule, seccompiler::Error> {
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, op, value)?;
    Ok(SeccompRule::new(vec![condition])?)
}
