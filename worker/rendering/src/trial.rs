//! Self-test of the sandbox, `render-child try`: attempts everything that a renderer must not be
//! able to do. Tests run it, and so can anybody who wants to check a node.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::DumpableBehavior;

use super::sandbox::{self, Layer};

/// Memory limit of the self-test, which draws nothing.
const MEMORY_BYTES: u64 = 256 << 20;

/// Arguments of the self-test.
struct Trial {
    layers: Vec<Layer>,
    document: PathBuf,
    directory: PathBuf,
    server: SocketAddr,
}

/// Enters the sandbox, then attempts what a renderer must not do. Arguments: the layers of the
/// sandbox (`limits`, `files` and `calls`, separated by commas, or `none`), a document that may be
/// read, a directory with files that may not, and the address of a server. Prints one line for each
/// attempt: its name, and `done` or the error's number.
pub(super) fn run(arguments: &[String]) -> io::Result<()> {
    let trial = Trial::parse(arguments).ok_or_else(|| {
        io::Error::other("expected: try LAYERS DOCUMENT DIRECTORY SERVER, see trial.rs")
    })?;
    for name in ["victim", "condemned"] {
        fs::write(trial.here(name), name)?;
    }
    let gaps = sandbox::confine_by(&trial.layers, &trial.document, MEMORY_BYTES)?;
    trial.attempt_all(&gaps);
    Ok(())
}

/// The same in the sandbox of LibreOffice, which may write in its directory only. Arguments:
/// LibreOffice's program, its directory, and the address of a server.
pub(super) fn run_office(arguments: &[String]) -> io::Result<()> {
    let [program, directory, server] = arguments else {
        return Err(io::Error::other("expected: try PROGRAM DIRECTORY SERVER"));
    };
    let trial = Trial {
        layers: Vec::new(),
        document: Path::new(directory).join("document"),
        directory: directory.into(),
        server: server.parse().map_err(io::Error::other)?,
    };
    for name in ["document", "victim", "condemned"] {
        fs::write(trial.here(name), name)?;
    }
    let cpu = Duration::from_mins(1);
    let gaps = sandbox::office::confine(program.as_ref(), &trial.directory, MEMORY_BYTES, cpu)?;
    trial.attempt_all(&gaps);
    Ok(())
}

impl Trial {
    fn attempt_all(&self, gaps: &str) {
        println!(
            "missing {}",
            if gaps.is_empty() { "nothing" } else { &gaps }
        );
        let dumpable = rustix::process::dumpable_behavior();
        println!(
            "dumpable {}",
            match dumpable {
                Ok(behavior) => i32::from(behavior != DumpableBehavior::NotDumpable),
                Err(error) => error.raw_os_error(),
            }
        );
        for (name, attempt) in ATTEMPTS {
            match attempt(self) {
                Ok(()) => println!("{name} done"),
                Err(error) => println!("{name} {}", error.raw_os_error().unwrap_or(-1)),
            }
        }
    }
}

impl Trial {
    fn parse(arguments: &[String]) -> Option<Self> {
        let [layers, document, directory, server] = arguments else {
            return None;
        };
        let layers = layers.split(',').filter(|layer| *layer != "none");
        let layers = layers.map(|layer| match layer {
            "limits" => Some(Layer::Limits),
            "files" => Some(Layer::Files),
            "calls" => Some(Layer::Calls),
            _ => None,
        });
        Some(Self {
            layers: layers.collect::<Option<_>>()?,
            document: document.into(),
            directory: directory.into(),
            server: server.parse().ok()?,
        })
    }

    fn here(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

type Attempt = fn(&Trial) -> io::Result<()>;

const ATTEMPTS: &[(&str, Attempt)] = &[
    ("read-document", |trial| {
        File::open(&trial.document).map(drop)
    }),
    ("read-elsewhere", |_| File::open("/etc/passwd").map(drop)),
    ("read-neighbour", |trial| {
        File::open(trial.here("victim")).map(drop)
    }),
    ("list", |trial| fs::read_dir(&trial.directory).map(drop)),
    ("create", |trial| File::create(trial.here("new")).map(drop)),
    ("append", |trial| {
        let file = OpenOptions::new().append(true).open(trial.here("victim"));
        file.map(drop)
    }),
    ("truncate", |trial| truncate(&trial.here("victim"))),
    ("make-directory", |trial| fs::create_dir(trial.here("made"))),
    ("link", |trial| {
        fs::hard_link(trial.here("victim"), trial.here("linked"))
    }),
    ("symlink", |trial| {
        std::os::unix::fs::symlink("victim", trial.here("named"))
    }),
    ("rename", |trial| {
        fs::rename(trial.here("victim"), trial.here("renamed"))
    }),
    ("remove", |trial| fs::remove_file(trial.here("condemned"))),
    ("connect", |trial| {
        TcpStream::connect_timeout(&trial.server, Duration::from_secs(5)).map(drop)
    }),
    ("socket-tcp", |_| socket(libc::AF_INET)),
    ("socket-unix", |_| socket(libc::AF_UNIX)),
    ("process", |_| Command::new("/bin/true").status().map(drop)),
    ("fork", |_| fork()),
    ("thread", |_| {
        std::thread::Builder::new().spawn(|| {}).map(drop)
    }),
    // Always fails: with EPERM if the call is filtered, else with ENOENT.
    ("execute", |_| execute("/no/such/program")),
    ("trace", |_| trace()),
    ("signal", |_| signal_parent()),
    ("signal-thread", |_| signal_thread_of_parent()),
    ("limits-of-parent", |_| limit_parent()),
    ("other-numbers", |_| call_by_other_number()),
    ("memory-file", |_| memory_file()),
    ("executable-memory", |_| executable_memory()),
    ("raise-limit", |_| raise_limit()),
    ("more-memory", |_| much_memory()),
];

fn result(returned: impl Into<i64>) -> io::Result<()> {
    if returned.into() < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn truncate(path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    #[allow(unsafe_code, reason = "a system call")]
    // SAFETY: a NUL-terminated string.
    result(unsafe { libc::truncate(path.as_ptr(), 0) })
}

fn socket(family: libc::c_int) -> io::Result<()> {
    #[allow(unsafe_code, reason = "a system call")]
    // SAFETY: no pointers are passed.
    result(unsafe { libc::socket(family, libc::SOCK_STREAM, 0) })
}

fn fork() -> io::Result<()> {
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

fn execute(program: &str) -> io::Result<()> {
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

fn trace() -> io::Result<()> {
    #[allow(unsafe_code, reason = "a system call")]
    // SAFETY: requests tracing; the other arguments are ignored.
    result(unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) })
}

fn signal_parent() -> io::Result<()> {
    #[allow(unsafe_code, reason = "a system call")]
    // SAFETY: signal 0 only checks whether a signal could be sent.
    result(unsafe { libc::kill(libc::getppid(), 0) })
}

fn signal_thread_of_parent() -> io::Result<()> {
    #[allow(unsafe_code, reason = "a system call")]
    // SAFETY: signal 0 only checks whether a signal could be sent.
    result(unsafe { libc::syscall(libc::SYS_tkill, libc::getppid(), 0) })
}

fn limit_parent() -> io::Result<()> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    #[allow(unsafe_code, reason = "a system call")]
    // SAFETY: a pointer to a limit that outlives the call; nothing is set.
    result(unsafe {
        libc::prlimit(
            libc::getppid(),
            libc::RLIMIT_NOFILE,
            std::ptr::null(),
            &raw mut limit,
        )
    })
}

/// `getpid` by its number of x32. Fails with ENOSYS if the kernel does not have the interface.
fn call_by_other_number() -> io::Result<()> {
    #[allow(unsafe_code, reason = "a system call")]
    // SAFETY: no pointers are passed.
    result(unsafe { libc::syscall(0x4000_0000 | libc::SYS_getpid) })
}

fn memory_file() -> io::Result<()> {
    #[allow(unsafe_code, reason = "a system call")]
    // SAFETY: a NUL-terminated string.
    result(unsafe { libc::memfd_create(c"trial".as_ptr(), 0) })
}

fn executable_memory() -> io::Result<()> {
    map(4096, libc::PROT_READ | libc::PROT_EXEC)
}

fn much_memory() -> io::Result<()> {
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

fn raise_limit() -> io::Result<()> {
    let limit = libc::rlimit {
        rlim_cur: 4096,
        rlim_max: 4096,
    };
    #[allow(unsafe_code, reason = "a system call")]
    // SAFETY: a pointer to a limit that outlives the call.
    result(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) })
}
