//! seccomp filter with the system calls that a renderer needs. All others fail with `EPERM`:
//! sockets, processes and threads, opening files for writing, signals to other processes,
//! executable memory.

use std::collections::BTreeMap;
use std::io;

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Length, SeccompCmpOp as Is, SeccompCondition,
    SeccompFilter, SeccompRule,
};

use super::Gap;

/// Calls that are allowed with any arguments: they concern the process's own memory and time, or
/// descriptors that it already has.
const HARMLESS: &[c_long] = &[
    libc::SYS_brk,
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fadvise64,
    libc::SYS_fstat,
    libc::SYS_futex,
    libc::SYS_getdents64,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
    libc::SYS_getuid,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_sigaltstack,
    libc::SYS_sysinfo,
    // Metadata of files, not their content.
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_newfstatat,
    libc::SYS_readlinkat,
    libc::SYS_statx,
];

/// The same, for calls that only exist on this architecture.
#[cfg(target_arch = "x86_64")]
const HARMLESS_HERE: &[c_long] = &[
    libc::SYS_access,
    libc::SYS_lstat,
    libc::SYS_readlink,
    libc::SYS_stat,
    libc::SYS_time,
];
#[cfg(not(target_arch = "x86_64"))]
const HARMLESS_HERE: &[c_long] = &[];

/// Restricts this process to the listed system calls. Returns what the kernel does not support.
pub(super) fn allow_listed() -> io::Result<Option<Gap>> {
    let rules = rules().map_err(io::Error::other)?;
    apply(rules, SeccompAction::Allow, refuse(libc::EPERM))
}

/// The action that fails a call with this error.
pub(super) fn refuse(error: libc::c_int) -> SeccompAction {
    SeccompAction::Errno(error.cast_unsigned())
}

/// Installs a filter: `listed` for calls that match a rule, `others` for the rest. Returns what the
/// kernel does not support.
pub(super) fn apply(
    rules: Rules,
    listed: SeccompAction,
    others: SeccompAction,
) -> io::Result<Option<Gap>> {
    let Ok(architecture) = std::env::consts::ARCH.try_into() else {
        let what = "seccomp (no filter for this architecture)";
        return Ok(Some(Gap::Missing(what.to_owned())));
    };
    let program: BpfProgram = SeccompFilter::new(rules, others, listed, architecture)
        .and_then(TryInto::try_into)
        .map_err(io::Error::other)?;
    match seccompiler::apply_filter(&program) {
        Ok(()) => Ok(None),
        Err(seccompiler::Error::Prctl(error) | seccompiler::Error::Seccomp(error)) => {
            let what = match error.raw_os_error() {
                Some(libc::ENOSYS | libc::EINVAL) => "seccomp (not in this kernel)",
                Some(libc::EPERM | libc::EACCES) => "seccomp (refused by the container runtime)",
                _ => return Err(error),
            };
            Ok(Some(Gap::Missing(what.to_owned())))
        }
        Err(error) => Err(io::Error::other(error)),
    }
}

/// Calls with rules for their arguments; no rules match any arguments.
pub(super) type Rules = BTreeMap<c_long, Vec<SeccompRule>>;
/// Result of building rules.
pub(super) type Built<T> = Result<T, seccompiler::BackendError>;

fn rules() -> Built<Rules> {
    let mut rules: Rules = HARMLESS
        .iter()
        .chain(HARMLESS_HERE)
        .map(|call| (*call, Vec::new()))
        .collect();
    let own_process = u64::from(std::process::id());
    // Any other bit requests writing, creating or truncating.
    let reading = u64::from(
        (libc::O_CLOEXEC
            | libc::O_DIRECTORY
            | libc::O_NOFOLLOW
            | libc::O_NONBLOCK
            | libc::O_NOCTTY
            | libc::O_NOATIME
            | LARGE_FILE)
            .cast_unsigned(),
    );
    let only_reading = |argument| when(argument, Is::MaskedEq(!reading & u64::from(u32::MAX)), 0);
    rules.insert(libc::SYS_openat, vec![only_reading(2)?]);
    #[cfg(target_arch = "x86_64")]
    rules.insert(libc::SYS_open, vec![only_reading(1)?]);
    // Replies and error messages.
    for call in [libc::SYS_write, libc::SYS_writev] {
        rules.insert(
            call,
            one_of(0, &[libc::STDOUT_FILENO, libc::STDERR_FILENO])?,
        );
    }
    rules.insert(
        libc::SYS_fcntl,
        one_of(
            1,
            &[
                libc::F_GETFD,
                libc::F_SETFD,
                libc::F_GETFL,
                libc::F_DUPFD_CLOEXEC,
            ],
        )?,
    );
    let executable = u64::from(libc::PROT_EXEC.cast_unsigned());
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![when(2, Is::MaskedEq(executable), 0)?]);
    }
    // An abort is a signal to the process itself.
    rules.insert(libc::SYS_tgkill, vec![when(0, Is::Eq, own_process)?]);
    // The CPU time limit is raised for each page.
    let cpu = u64::from(libc::RLIMIT_CPU);
    let own_cpu_limit =
        SeccompRule::new(vec![condition(0, Is::Eq, 0)?, condition(1, Is::Eq, cpu)?])?;
    rules.insert(libc::SYS_prlimit64, vec![own_cpu_limit]);
    Ok(rules)
}

/// `O_LARGEFILE`, which the C library adds to every open: the kernel's value, because `libc`
/// defines it as 0 on 64-bit systems.
#[cfg(target_arch = "x86_64")]
const LARGE_FILE: libc::c_int = 0o100_000;
#[cfg(not(target_arch = "x86_64"))]
const LARGE_FILE: libc::c_int = 0o400_000;

/// A condition on one argument, counted from 0.
pub(super) fn condition(argument: u8, is: Is, value: u64) -> Built<SeccompCondition> {
    SeccompCondition::new(argument, Length::Dword, is, value)
}

/// A rule with one condition.
pub(super) fn when(argument: u8, is: Is, value: u64) -> Built<SeccompRule> {
    SeccompRule::new(vec![condition(argument, is, value)?])
}

/// Rules for an argument with one of these values.
pub(super) fn one_of(argument: u8, values: &[libc::c_int]) -> Built<Vec<SeccompRule>> {
    let rules = values
        .iter()
        .map(|value| when(argument, Is::Eq, u64::from(value.cast_unsigned())));
    rules.collect()
}
