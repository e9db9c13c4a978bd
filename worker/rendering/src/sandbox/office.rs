//! The sandbox of LibreOffice: resource limits, Landlock, which restricts writing to its own
//! directory, and a list of allowed system calls.
//!
//! The number of its threads and of its files has no limit here. `RLIMIT_NPROC` counts all
//! processes of the user, the worker and other pods included. The worker watches both: see
//! `office_watch`.

use std::io;
use std::path::Path;
use std::time::Duration;

use landlock::{Access, AccessFs, BitFlags};
use rustix::process::Resource;

use super::{Gap, Gaps, files, limit, office_calls};

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

/// Puts this process, which is about to become LibreOffice, into the sandbox permanently: it may
/// write in `directory` only. Returns what this node does not support.
pub(in super::super) fn confine(
    program: &Path,
    directory: &Path,
    memory_limit_bytes: u64,
    cpu: Duration,
) -> io::Result<Gaps> {
    rustix::thread::set_no_new_privs(true)?;
    // A limit on address space would count memory that is only reserved.
    limit(Resource::Data, memory_limit_bytes)?;
    limit(Resource::Core, 0)?;
    limit(Resource::Fsize, FILE_BYTES)?;
    limit(Resource::Nofile, OPEN_FILES)?;
    limit(Resource::Cpu, cpu.as_secs() + 1)?;
    let mut gaps: Vec<Gap> = restrict_files(program, directory)?.into_iter().collect();
    gaps.extend(office_calls::allow_listed()?);
    Ok(gaps.into_iter().collect())
}

fn restrict_files(program: &Path, directory: &Path) -> io::Result<Option<Gap>> {
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
