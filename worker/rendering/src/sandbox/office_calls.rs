//! seccomp filter with the system calls that LibreOffice needs to convert a document. All others
//! fail with `EACCES`: sockets of other families than its own, processes, signals to other
//! processes, their limits and priorities, permissions and times of files.
//!
//! Landlock decides which files the calls may reach.

use std::io;

use libc::c_long;
use seccompiler::{SeccompAction, SeccompCmpOp as Is};

use super::Gap;
use super::calls::{Built, Rules, apply, one_of, refuse, when};

/// Calls that are allowed with any arguments, by what they concern.
const ALLOWED: [&[c_long]; 6] = [MEMORY, TIME, THREADS, ITSELF, FILES, WAITING];

const MEMORY: &[c_long] = &[
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_mincore,
    libc::SYS_mlock,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_msync,
    libc::SYS_munlock,
    libc::SYS_munmap,
];

const TIME: &[c_long] = &[
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_getrusage,
    libc::SYS_gettimeofday,
    libc::SYS_nanosleep,
    libc::SYS_times,
];

const THREADS: &[c_long] = &[
    // Hidden by a filter of its own: see `hide_clone3`.
    libc::SYS_clone3,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getcpu,
    libc::SYS_gettid,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigpending,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigsuspend,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sched_get_priority_max,
    libc::SYS_sched_get_priority_min,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_sigaltstack,
];

const ITSELF: &[c_long] = &[
    // This process becomes LibreOffice by it, and stays in the sandbox.
    libc::SYS_execve,
    libc::SYS_getcwd,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getgroups,
    libc::SYS_getpgid,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getrandom,
    libc::SYS_getrlimit,
    libc::SYS_getuid,
    libc::SYS_setrlimit,
    libc::SYS_sysinfo,
    libc::SYS_umask,
    libc::SYS_uname,
    libc::SYS_wait4,
];

const FILES: &[c_long] = &[
    libc::SYS_chdir,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_copy_file_range,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_fadvise64,
    libc::SYS_fallocate,
    libc::SYS_fchdir,
    libc::SYS_fchmod,
    libc::SYS_fchown,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_getdents64,
    libc::SYS_linkat,
    libc::SYS_lseek,
    libc::SYS_mkdirat,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_sendfile,
    libc::SYS_statfs,
    libc::SYS_statx,
    libc::SYS_symlinkat,
    libc::SYS_unlinkat,
    libc::SYS_write,
    libc::SYS_writev,
];

/// Pipes and sockets of its own. It can neither connect nor send to an address.
const WAITING: &[c_long] = &[
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_listen,
    libc::SYS_pipe2,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
];

/// The same, for calls that only exist on this architecture.
#[cfg(target_arch = "x86_64")]
const ALLOWED_HERE: &[c_long] = &[
    libc::SYS_arch_prctl,
    libc::SYS_creat,
    libc::SYS_dup2,
    libc::SYS_epoll_create,
    libc::SYS_epoll_wait,
    libc::SYS_eventfd,
    libc::SYS_getdents,
    libc::SYS_getpgrp,
    libc::SYS_link,
    libc::SYS_lstat,
    libc::SYS_mkdir,
    libc::SYS_open,
    libc::SYS_pause,
    libc::SYS_pipe,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_rename,
    libc::SYS_rmdir,
    libc::SYS_select,
    libc::SYS_stat,
    libc::SYS_symlink,
    libc::SYS_time,
    libc::SYS_unlink,
];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_HERE: &[c_long] = &[];

/// Restricts this process to the listed system calls. Returns what the kernel does not support.
pub(super) fn allow_listed() -> io::Result<Vec<Gap>> {
    let rules = rules().map_err(io::Error::other)?;
    let gaps = [
        // Before the list, which allows no further filter.
        hide_clone3()?,
        apply(rules, SeccompAction::Allow, refuse(libc::EACCES))?,
    ];
    let gaps = gaps.into_iter().flatten();
    // Both filters are missing for the same reason.
    Ok(gaps.take(1).collect())
}

fn rules() -> Built<Rules> {
    let listed = ALLOWED.into_iter().flatten().chain(ALLOWED_HERE);
    let mut rules: Rules = listed.map(|call| (*call, Vec::new())).collect();
    let local = u64::from(libc::AF_UNIX.cast_unsigned());
    for call in [libc::SYS_socket, libc::SYS_socketpair] {
        rules.insert(call, vec![when(0, Is::Eq, local)?]);
    }
    // Limits on memory and time count per process, so a child process would escape them.
    let thread = u64::from(libc::CLONE_THREAD.cast_unsigned());
    rules.insert(
        libc::SYS_clone,
        vec![when(0, Is::MaskedEq(thread), thread)?],
    );
    // An abort is a signal to the process itself. Its number stays when it becomes LibreOffice.
    let own_process = u64::from(std::process::id());
    for call in [libc::SYS_kill, libc::SYS_tgkill] {
        rules.insert(call, vec![when(0, Is::Eq, own_process)?]);
    }
    rules.insert(
        libc::SYS_prlimit64,
        vec![when(0, Is::Eq, 0)?, when(0, Is::Eq, own_process)?],
    );
    // If the common directories for temporary files are not writable, LibreOffice keeps its socket
    // in its own directory.
    let write = u64::from(libc::W_OK.cast_unsigned());
    let only_asks = |argument| when(argument, Is::MaskedEq(write), 0);
    for call in [libc::SYS_faccessat, libc::SYS_faccessat2] {
        rules.insert(call, vec![only_asks(2)?]);
    }
    #[cfg(target_arch = "x86_64")]
    rules.insert(libc::SYS_access, vec![only_asks(1)?]);
    rules.insert(
        libc::SYS_prctl,
        one_of(
            0,
            &[
                libc::PR_CAPBSET_READ,
                libc::PR_GET_DUMPABLE,
                libc::PR_GET_NAME,
                libc::PR_SET_NAME,
            ],
        )?,
    );
    // Others make the kernel send signals to any process (`F_SETOWN`).
    rules.insert(
        libc::SYS_fcntl,
        one_of(
            1,
            &[
                libc::F_DUPFD,
                libc::F_DUPFD_CLOEXEC,
                libc::F_GETFD,
                libc::F_GETFL,
                libc::F_GETLK,
                libc::F_OFD_GETLK,
                libc::F_OFD_SETLK,
                libc::F_OFD_SETLKW,
                libc::F_SETFD,
                libc::F_SETFL,
                libc::F_SETLK,
                libc::F_SETLKW,
            ],
        )?,
    );
    let harmless = [libc::FIOCLEX, libc::FIONBIO, libc::FIONREAD, libc::TCGETS];
    let harmless = harmless.map(|request| when(1, Is::Eq, request));
    rules.insert(libc::SYS_ioctl, harmless.into_iter().collect::<Built<_>>()?);
    Ok(rules)
}

/// `clone3` passes its flags in memory, which a filter cannot read. It fails as if the kernel did
/// not have it, and the C library falls back to `clone`.
fn hide_clone3() -> io::Result<Option<Gap>> {
    let rules = Rules::from([(libc::SYS_clone3, Vec::new())]);
    apply(rules, refuse(libc::ENOSYS), SeccompAction::Allow)
}
