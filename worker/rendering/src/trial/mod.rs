//! Attempts everything that a sandboxed process must not be able to do: `render-child try` and
//! `office-child try`. `layra-worker sandbox check` runs them and explains the outcome.

mod system_calls;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::{DumpableBehavior, dumpable_behavior};

use super::sandbox::{self, Gaps, Layer, SandboxPolicy};

/// Memory limit of the trial, which draws nothing.
const MEMORY_BYTES: u64 = 256 << 20;

/// Arguments of the trial.
struct Trial {
    layers: Vec<Layer>,
    document: PathBuf,
    directory: PathBuf,
    server: SocketAddr,
    /// The process that started this one, which may not be asked for later.
    parent: libc::pid_t,
}

/// Enters the sandbox, then attempts what a renderer must not do. Arguments: the layers of the
/// sandbox (`limits`, `files` and `calls`, separated by commas, or `none`), a document that may be
/// read, a directory with files that may not, and the address of a server. Prints one line for each
/// attempt: its name, and `done` or the error's number.
pub(super) fn run(arguments: &[String]) -> io::Result<()> {
    let trial = Trial::parse(arguments).ok_or_else(|| {
        io::Error::other("expected: try LAYERS DOCUMENT DIRECTORY SERVER, see trial/mod.rs")
    })?;
    for name in ["victim", "condemned"] {
        fs::write(trial.here(name), name)?;
    }
    let was_dumpable = dumpable_behavior()? != DumpableBehavior::NotDumpable;
    let gaps = sandbox::confine_by(&trial.layers, &trial.document, MEMORY_BYTES)?;
    trial.attempt_all(&gaps, was_dumpable);
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
        parent: parent(),
    };
    for name in ["document", "victim", "condemned"] {
        fs::write(trial.here(name), name)?;
    }
    let cpu = Duration::from_mins(1);
    let was_dumpable = dumpable_behavior()? != DumpableBehavior::NotDumpable;
    let gaps = sandbox::office::confine(program.as_ref(), &trial.directory, MEMORY_BYTES, cpu)?;
    trial.attempt_all(&gaps, was_dumpable);
    Ok(())
}

impl Trial {
    fn attempt_all(&self, gaps: &Gaps, was_dumpable: bool) {
        let refused = gaps.accepted_by(SandboxPolicy::Required).is_err();
        let gaps = gaps.to_string();
        println!(
            "missing {}",
            if gaps.is_empty() { "nothing" } else { &gaps }
        );
        println!("refused {}", i32::from(refused));
        println!("dumpable {}", i32::from(was_dumpable));
        for attempt in ATTEMPTS {
            let name = attempt.name;
            match (attempt.run)(self) {
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
            parent: parent(),
        })
    }

    fn here(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

/// Something that a sandboxed process tries.
pub(super) struct Attempt {
    pub(super) name: &'static str,
    /// What it tries, after "can" or "cannot".
    pub(super) words: &'static str,
    /// Whether LibreOffice must be able to do it, or must not. `None`: both are fine. A renderer
    /// must only be able to read its document.
    pub(super) by_office: Option<bool>,
    run: fn(&Trial) -> io::Result<()>,
}

/// What a renderer must be able to do.
pub(super) const READ_DOCUMENT: &str = "read-document";

pub(super) const ATTEMPTS: &[Attempt] = &[
    Attempt {
        name: READ_DOCUMENT,
        words: "read its document",
        by_office: Some(true),
        run: |trial| File::open(&trial.document).map(drop),
    },
    Attempt {
        name: "read-elsewhere",
        words: "read /etc/passwd",
        by_office: None,
        run: |_| File::open("/etc/passwd").map(drop),
    },
    Attempt {
        name: "read-neighbour",
        words: "read a file next to its document",
        by_office: None,
        run: |trial| File::open(trial.here("victim")).map(drop),
    },
    Attempt {
        name: "read-parent",
        words: "read the environment of another process",
        by_office: Some(false),
        run: |trial| File::open(format!("/proc/{}/environ", trial.parent)).map(drop),
    },
    Attempt {
        name: "list",
        words: "list the directory of its document",
        by_office: None,
        run: |trial| fs::read_dir(&trial.directory).map(drop),
    },
    Attempt {
        name: "create",
        words: "create a file next to its document",
        by_office: Some(true),
        run: |trial| File::create(trial.here("new")).map(drop),
    },
    Attempt {
        name: "create-elsewhere",
        words: "create a file elsewhere",
        by_office: Some(false),
        run: |trial| create_elsewhere(trial),
    },
    Attempt {
        name: "append",
        words: "append to a file",
        by_office: None,
        run: |trial| {
            let file = OpenOptions::new().append(true).open(trial.here("victim"));
            file.map(drop)
        },
    },
    Attempt {
        name: "truncate",
        words: "truncate a file by its name",
        by_office: None,
        run: |trial| system_calls::truncate(&trial.here("victim")),
    },
    Attempt {
        name: "make-directory",
        words: "create a directory",
        by_office: None,
        run: |trial| fs::create_dir(trial.here("made")),
    },
    Attempt {
        name: "link",
        words: "link a file",
        by_office: None,
        run: |trial| fs::hard_link(trial.here("victim"), trial.here("linked")),
    },
    Attempt {
        name: "symlink",
        words: "create a symbolic link",
        by_office: None,
        run: |trial| std::os::unix::fs::symlink("victim", trial.here("named")),
    },
    Attempt {
        name: "rename",
        words: "rename a file",
        by_office: None,
        run: |trial| fs::rename(trial.here("victim"), trial.here("renamed")),
    },
    Attempt {
        name: "remove",
        words: "remove a file",
        by_office: Some(true),
        run: |trial| fs::remove_file(trial.here("condemned")),
    },
    Attempt {
        name: "change-mode",
        words: "change the permissions of a file",
        by_office: Some(false),
        run: |trial| system_calls::change_mode(&trial.document),
    },
    Attempt {
        name: "connect",
        words: "connect over TCP",
        by_office: Some(false),
        run: |trial| TcpStream::connect_timeout(&trial.server, Duration::from_secs(5)).map(drop),
    },
    Attempt {
        name: "socket-tcp",
        words: "create a TCP socket",
        by_office: Some(false),
        run: |_| system_calls::socket(libc::AF_INET),
    },
    Attempt {
        name: "socket-unix",
        words: "create a Unix socket",
        by_office: None,
        run: |_| system_calls::socket(libc::AF_UNIX),
    },
    Attempt {
        name: "process",
        words: "start another program",
        by_office: Some(false),
        run: |_| Command::new("/bin/true").status().map(drop),
    },
    Attempt {
        name: "fork",
        words: "start another process",
        by_office: Some(false),
        run: |_| system_calls::fork(),
    },
    Attempt {
        name: "thread",
        words: "start a thread",
        by_office: Some(true),
        run: |_| std::thread::Builder::new().spawn(|| {}).map(drop),
    },
    // Always fails: with EPERM if the call is filtered, else with ENOENT.
    Attempt {
        name: "execute",
        words: "become another program",
        by_office: None,
        run: |_| system_calls::execute("/no/such/program"),
    },
    Attempt {
        name: "trace",
        words: "be traced by another process",
        by_office: Some(false),
        run: |_| system_calls::trace(),
    },
    Attempt {
        name: "signal",
        words: "send a signal to another process",
        by_office: Some(false),
        run: |trial| system_calls::signal_parent(trial.parent),
    },
    Attempt {
        name: "signal-thread",
        words: "send a signal to a thread of another process",
        by_office: Some(false),
        run: |trial| system_calls::signal_thread_of_parent(trial.parent),
    },
    Attempt {
        name: "signals-to-parent",
        words: "let the kernel send signals to another process",
        by_office: Some(false),
        run: |trial| system_calls::signals_to_parent(trial.parent),
    },
    Attempt {
        name: "limits-of-parent",
        words: "reach the limits of another process",
        by_office: Some(false),
        run: |trial| system_calls::limit_parent(trial.parent),
    },
    Attempt {
        name: "processors-of-parent",
        words: "choose the processors of another process",
        by_office: Some(false),
        run: |trial| system_calls::choose_processors_of_parent(trial.parent),
    },
    Attempt {
        name: "priority-of-parent",
        words: "change the priority of another process",
        by_office: Some(false),
        run: |trial| system_calls::change_priority_of_parent(trial.parent),
    },
    Attempt {
        name: "other-numbers",
        words: "call the system by the numbers of x32",
        by_office: Some(false),
        run: |_| system_calls::call_by_other_number(),
    },
    Attempt {
        name: "memory-file",
        words: "create a file in memory",
        by_office: None,
        run: |_| system_calls::memory_file(),
    },
    Attempt {
        name: "executable-memory",
        words: "create executable memory",
        by_office: None,
        run: |_| system_calls::executable_memory(),
    },
    Attempt {
        name: "raise-limit",
        words: "raise its limits",
        by_office: None,
        run: |_| system_calls::raise_limit(),
    },
    Attempt {
        name: "more-memory",
        words: "map more memory than its limit",
        by_office: None,
        run: |_| system_calls::much_memory(),
    },
];

fn create_elsewhere(trial: &Trial) -> io::Result<()> {
    let outside = trial.directory.with_extension("outside");
    File::create(&outside)?;
    fs::remove_file(outside)
}

fn parent() -> libc::pid_t {
    std::os::unix::process::parent_id().cast_signed()
}
