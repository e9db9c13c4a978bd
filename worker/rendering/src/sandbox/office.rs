//! The sandbox of LibreOffice. It is far larger than a renderer, so its seccomp filter lists what
//! is forbidden instead of what is allowed: connecting, starting processes, accessing other
//! processes, signals to them and their limits. Landlock restricts writing to its own directory.

use std::io;
use std::path::Path;
use std::time::Duration;

use landlock::{Access, AccessFs, BitFlags};
use rustix::process::Resource;
use seccompiler::{SeccompAction, SeccompCmpOp as Is, SeccompRule, sock_filter};

use super::calls::{Built, Rules, apply, condition, install, refuse, when};
use super::{files, limit};

/// Descriptors that LibreOffice may have open at the same time.
const OPEN_FILES: u64 = 512;
/// Size limit for files that it writes.
const FILE_BYTES: u64 = 1 << 30;

/// Programs and libraries: readable and executable.
const PROGRAMS: [&str; 4] = ["/usr/lib", "/usr/lib64", "/lib", "/lib64"];
/// Readable files and directories. Not all of `/etc`: the worker's secrets are below it.
const READ: [&str; 20] = [
    "/etc/fonts",
    "/etc/ld.so.cache",
    "/etc/libreoffice",
    "/etc/locale.alias",
    "/etc/localtime",
    "/etc/nsswitch.conf",
    "/etc/passwd",
    "/dev/null",
    "/dev/random",
    "/dev/urandom",
    "/dev/zero",
    "/proc/cpuinfo",
    "/proc/filesystems",
    "/proc/meminfo",
    "/sys/devices/system/cpu",
    "/usr/share",
    "/usr/local/share",
    "/var/cache/fontconfig",
    "/var/lib/libreoffice",
    "/var/spool/libreoffice",
];

/// Calls that fail with any arguments.
const FORBIDDEN: &[libc::c_long] = &[
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_chroot,
    libc::SYS_connect,
    libc::SYS_delete_module,
    libc::SYS_finit_module,
    libc::SYS_init_module,
    libc::SYS_io_uring_setup,
    libc::SYS_kcmp,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_migrate_pages,
    libc::SYS_mount,
    libc::SYS_move_pages,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_perf_event_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_send_signal,
    libc::SYS_pivot_root,
    libc::SYS_process_madvise,
    libc::SYS_process_mrelease,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_request_key,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    // Of another process, too. LibreOffice ignores the error.
    libc::SYS_ioprio_set,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_setattr,
    libc::SYS_sched_setparam,
    libc::SYS_sched_setscheduler,
    libc::SYS_setpriority,
    libc::SYS_setns,
    libc::SYS_tkill,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
];

/// Puts this process, which is about to become LibreOffice, into the sandbox permanently: it may
/// write in `directory` only. Returns what this kernel does not support.
pub(in super::super) fn confine(
    program: &Path,
    directory: &Path,
    memory_limit_bytes: u64,
    cpu: Duration,
) -> io::Result<String> {
    rustix::thread::set_no_new_privs(true)?;
    // A limit on address space would count memory that is only reserved.
    limit(Resource::Data, memory_limit_bytes)?;
    limit(Resource::Core, 0)?;
    limit(Resource::Fsize, FILE_BYTES)?;
    limit(Resource::Nofile, OPEN_FILES)?;
    limit(Resource::Cpu, cpu.as_secs() + 1)?;
    let gaps = [
        restrict_files(program, directory)?,
        forbid_other_numbers()?,
        forbid_calls()?,
        hide_clone3()?,
    ];
    let gaps: Vec<String> = gaps.into_iter().flatten().collect();
    Ok(gaps.join(", "))
}

fn restrict_files(program: &Path, directory: &Path) -> io::Result<Option<String>> {
    let readable: BitFlags<AccessFs> = AccessFs::ReadFile | AccessFs::ReadDir;
    let everything = AccessFs::from_all(files::LANDLOCK_ABI) & !AccessFs::Execute;
    let mut rules = files::allow(files::deny_all()?, directory, everything)?;
    let installation = program.parent();
    for path in PROGRAMS.iter().map(Path::new).chain(installation) {
        rules = files::allow(rules, path, readable | AccessFs::Execute)?;
    }
    for path in READ {
        rules = files::allow(rules, Path::new(path), readable)?;
    }
    rules = files::allow(
        rules,
        Path::new("/dev/null"),
        readable | AccessFs::WriteFile,
    )?;
    files::enforce(rules)
}

fn forbid_calls() -> io::Result<Option<String>> {
    apply(
        forbidden().map_err(io::Error::other)?,
        refuse(libc::EACCES),
        SeccompAction::Allow,
    )
}

fn forbidden() -> Built<Rules> {
    let mut rules: Rules = FORBIDDEN.iter().map(|call| (*call, Vec::new())).collect();
    let local = u64::from(libc::AF_UNIX.cast_unsigned());
    for call in [libc::SYS_socket, libc::SYS_socketpair] {
        rules.insert(call, vec![when(0, Is::Ne, local)?]);
    }
    // Limits on memory and time count per process, so a child process would escape them.
    let thread = u64::from(libc::CLONE_THREAD.cast_unsigned());
    rules.insert(libc::SYS_clone, vec![when(0, Is::MaskedEq(thread), 0)?]);
    #[cfg(target_arch = "x86_64")]
    for call in [libc::SYS_fork, libc::SYS_vfork] {
        rules.insert(call, Vec::new());
    }
    // An abort is a signal to the process itself. Its number stays when it becomes LibreOffice.
    let own_process = u64::from(std::process::id());
    for call in [libc::SYS_kill, libc::SYS_tgkill] {
        rules.insert(call, vec![when(0, Is::Ne, own_process)?]);
    }
    let of_another_process = SeccompRule::new(vec![
        condition(0, Is::Ne, 0)?,
        condition(0, Is::Ne, own_process)?,
    ])?;
    rules.insert(libc::SYS_prlimit64, vec![of_another_process]);
    // If the common directories for temporary files are not writable, LibreOffice keeps its socket
    // in its own directory.
    let write = u64::from(libc::W_OK.cast_unsigned());
    let asks_to_write = |argument| when(argument, Is::MaskedEq(write), write);
    for call in [libc::SYS_faccessat, libc::SYS_faccessat2] {
        rules.insert(call, vec![asks_to_write(2)?]);
    }
    #[cfg(target_arch = "x86_64")]
    rules.insert(libc::SYS_access, vec![asks_to_write(1)?]);
    Ok(rules)
}

/// Forbids the system calls of the x32 interface. They have other numbers, which the list does not
/// name, and the same architecture, so that nothing else would refuse them.
fn forbid_other_numbers() -> io::Result<Option<String>> {
    /// The lowest number of x32.
    const OTHER_NUMBERS: u32 = 0x4000_0000;
    let statement = |code: u32, if_true: u8, if_false: u8, value: u32| sock_filter {
        code: u16::try_from(code).expect("codes have few bits"),
        jt: if_true,
        jf: if_false,
        k: value,
    };
    let number = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let is_at_least = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
    let answer = libc::BPF_RET | libc::BPF_K;
    let program = [
        statement(number, 0, 0, 0),
        statement(is_at_least, 0, 1, OTHER_NUMBERS),
        statement(answer, 0, 0, refuse(libc::EACCES).into()),
        statement(answer, 0, 0, SeccompAction::Allow.into()),
    ];
    install(&program)
}

/// `clone3` passes its flags in memory, which a filter cannot read. It fails as if the kernel did
/// not have it, and the C library falls back to `clone`.
fn hide_clone3() -> io::Result<Option<String>> {
    let rules = Rules::from([(libc::SYS_clone3, Vec::new())]);
    apply(rules, refuse(libc::ENOSYS), SeccompAction::Allow)
}
