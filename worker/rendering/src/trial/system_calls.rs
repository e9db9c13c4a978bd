//! System calls without a safe interface.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::MEMORY_BYTES;

fn result(returned: impl Into<i64>) -> io::Result<()> {
    if returned.into() < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

pub(super) fn truncate(path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    #[allow(unsafe_code, reason = "a system call")]
    // SAFETY: a NUL-terminated string.
    result(unsafe { libc::truncate(path.as_ptr(), 0) })
}

pub(super) fn change_mode(path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    #[allow(unsafe_code, reason = "a system call")]
    // SAFETY: a NUL-terminated string.
    result(unsafe { libc::chmod(path.as_ptr(), 0o600) })
}

/// Allows it every processor, as by default.
pub(super) fn choose_processors_of_parent(parent: libc::pid_t) -> io::Result<()> {
    let every = [u8::MAX; 128];
    #[allow(unsafe_code, reason = "a system call")]
    // SAFETY: a pointer to as many bytes as are announced.
    result(unsafe {
        libc::syscall(
            libc::SYS_sched_setaffinity,
            parent,
            every.len(),
            every.as_ptr(),
        )
    })
}

/// Sets the priority that it has.
pub(super) fn change_priority_of_parent(parent: libc::pid_t) -> io::Result<()> {
    #[allow(unsafe_code, reason = "a system call")]
    // SAFETY: no pointers are passed.
    result(unsafe {
        let parent = parent.cast_unsigned();
        let priority = libc::getpriority(libc::PRIO_PROCESS, parent);
        libc::setpriority(libc::PRIO_PROCESS, parent, priority)
    })
}

/// Makes the parent the owner of a descriptor, which gets a signal when there is something to read.
pub(super) fn signals_to_parent(parent: libc::pid_t) -> io::Result<()> {
    #[allow(unsafe_code, reason = "a system call")]
    // SAFETY: no pointers are passed.
    result(unsafe { libc::fcntl(libc::STDIN_FILENO, libc::F_SETOWN, parent) })
}

pub(super) fn socket(family: libc::c_int) -> io::Result<()> {
    #[allow(unsafe_code, reason = "a system call")]
    // SAFETY: no pointers are passed.
    result(unsafe { libc::socket(family, libc::SOCK_STREAM, 0) })
}

pub(super) fn fork() -> io::Result<()> {
    #[allow(unsafe_code, reason = "a system call")]
    // SAFETY: this process has one thread, and the child exits at once.
    let child = unsafe { libc::fork() };
    if child == 0 {
        #[allow(unsafe_code, reason = "a system call")]
        // SAFETY: exits without running any of the parent's code.
        unsafe {
            libc::_exit(0)
        };
    }
    result(child)?;
    #[allow(unsafe_code, reason = "a system call")]
    // SAFETY: a null status is not written. The child is waited for, because its exit would stop
    // this process once it is traced.
    result(unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) })
}

pub(super) fn execute(program: &str) -> io::Result<()> {
    let program = CString::new(program)?;
    let arguments = [program.as_ptr(), std::ptr::null()];
    #[allow(unsafe_code, reason = "a system call")]
    // SAFETY: NUL-terminated strings in null-terminated lists.
    result(unsafe {
        libc::execve(
            program.as_ptr(),
            arguments.as_ptr(),
            [std::ptr::null()].as_ptr(),
        )
    })
}

pub(super) fn trace() -> io::Result<()> {
    #[allow(unsafe_code, reason = "a system call")]
    // SAFETY: requests tracing; the other arguments are ignored.
    result(unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) })
}

pub(super) fn signal_parent(parent: libc::pid_t) -> io::Result<()> {
    #[allow(unsafe_code, reason = "a system call")]
    // SAFETY: signal 0 only checks whether a signal could be sent.
    result(unsafe { libc::kill(parent, 0) })
}

pub(super) fn signal_thread_of_parent(parent: libc::pid_t) -> io::Result<()> {
    #[allow(unsafe_code, reason = "a system call")]
    // SAFETY: signal 0 only checks whether a signal could be sent.
    result(unsafe { libc::syscall(libc::SYS_tkill, parent, 0) })
}

pub(super) fn limit_parent(parent: libc::pid_t) -> io::Result<()> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    #[allow(unsafe_code, reason = "a system call")]
    // SAFETY: a pointer to a limit that outlives the call; nothing is set.
    result(unsafe {
        libc::prlimit(
            parent,
            libc::RLIMIT_NOFILE,
            std::ptr::null(),
            &raw mut limit,
        )
    })
}

/// `getpid` by its number of x32. Fails with ENOSYS if the kernel does not have the interface.
pub(super) fn call_by_other_number() -> io::Result<()> {
    #[allow(unsafe_code, reason = "a system call")]
    // SAFETY: no pointers are passed.
    result(unsafe { libc::syscall(0x4000_0000 | libc::SYS_getpid) })
}

pub(super) fn memory_file() -> io::Result<()> {
    #[allow(unsafe_code, reason = "a system call")]
    // SAFETY: a NUL-terminated string.
    result(unsafe { libc::memfd_create(c"trial".as_ptr(), 0) })
}

pub(super) fn executable_memory() -> io::Result<()> {
    map(4096, libc::PROT_READ | libc::PROT_EXEC)
}

pub(super) fn much_memory() -> io::Result<()> {
    map(
        2 * usize::try_from(MEMORY_BYTES).unwrap_or(usize::MAX / 2),
        libc::PROT_READ,
    )
}

fn map(bytes: usize, protection: libc::c_int) -> io::Result<()> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    #[allow(unsafe_code, reason = "a system call")]
    // SAFETY: a new mapping that is never accessed.
    let address = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

pub(super) fn raise_limit() -> io::Result<()> {
    let limit = libc::rlimit {
        rlim_cur: 4096,
        rlim_max: 4096,
    };
    #[allow(unsafe_code, reason = "a system call")]
    // SAFETY: a pointer to a limit that outlives the call.
    result(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) })
}
