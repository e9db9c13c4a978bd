//! The worker on nodes that can, and cannot, confine the processes that open documents.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests are not marked as tests"
)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use tempfile::TempDir;

/// A worker whose servers do not exist.
const CONFIG: &str = r"
pipeline: rag/contracts
source: {kafka: {bootstrapServers: '127.0.0.1:1'}}
documents:
  objectStore:
    endpoint: http://127.0.0.1:1
    accessKeySecretRef: {name: s3}
    secretKeySecretRef: {name: s3}
  render: {sandbox: POLICY}
embedding: {model: {family: minilm, uri: s3://models/minilm}}
stores:
  milvus: {uri: 'http://127.0.0.1:1'}
  mongodb: {uriSecretRef: {name: mongodb}}
";

/// The longest wait for something that must happen.
const LIMIT: Duration = Duration::from_mins(1);

fn pdfium() -> PathBuf {
    let in_cache = || {
        let home = std::env::var_os("HOME").unwrap_or_else(|| "/root".into());
        let cache = std::env::var_os("LAYRA_TESTBED_CACHE").map_or_else(
            || Path::new(&home).join(".cache/layra-testbed"),
            PathBuf::from,
        );
        cache.join("pdfium/libpdfium.so")
    };
    std::env::var_os("LAYRA_PDFIUM").map_or_else(in_cache, PathBuf::from)
}

/// Runs a command as on a kernel without Landlock.
fn without_landlock(command: &mut Command) {
    let calls = [
        libc::SYS_landlock_create_ruleset,
        libc::SYS_landlock_add_rule,
        libc::SYS_landlock_restrict_self,
    ];
    let rules: BTreeMap<_, _> = calls.map(|call| (call, Vec::new())).into();
    let absent = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    let architecture = std::env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, absent, architecture).unwrap();
    let program: BpfProgram = filter.try_into().unwrap();
    #[allow(unsafe_code, reason = "the filter is for the new process only")]
    // SAFETY: two system calls between fork and exec; no memory is allocated unless they fail.
    unsafe {
        command
            .pre_exec(move || seccompiler::apply_filter(&program).map_err(std::io::Error::other));
    }
}

/// `layra-worker run`, and its directory.
fn run(policy: &str) -> (TempDir, Command) {
    let directory = tempfile::tempdir().unwrap();
    let here = |name: &str| directory.path().join(name);
    std::fs::write(here("worker.yaml"), CONFIG.replace("POLICY", policy)).unwrap();
    for (secret, text) in [
        ("object-store/accessKey", "key"),
        ("object-store/secretKey", "key"),
        ("mongodb/uri", "mongodb://127.0.0.1:1"),
    ] {
        let path = here("secrets").join(secret);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_layra-worker"));
    command
        .args(["run", "--listen", "127.0.0.1:0", "--pdfium"])
        .arg(pdfium())
        .arg("--config")
        .arg(here("worker.yaml"))
        .arg("--secrets")
        .arg(here("secrets"))
        .arg("--cache-dir")
        .arg(here("cache"))
        .stderr(Stdio::piped());
    (directory, command)
}

/// A process that is killed at the end.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_worker_refuses_to_start_without_landlock() {
    let (_directory, mut command) = run("Required");
    without_landlock(&mut command);
    let started = Instant::now();
    let output = command.output().unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "{log}");
    assert!(started.elapsed() < LIMIT, "it waited for its servers");
    // The kubelet passes the end of the log to the operator, which shows it in a condition.
    let last = log.lines().last().unwrap();
    for part in ["SandboxUnavailable", "Landlock", "sandbox: BestEffort"] {
        assert!(last.contains(part), "{part} is not in: {last}");
    }
    assert!(last.len() < 600, "the condition cuts it: {last}");
}

#[test]
fn with_best_effort_a_worker_starts_without_landlock_and_warns_once() {
    let (_directory, mut command) = run("BestEffort");
    without_landlock(&mut command);
    let mut worker = Running(command.spawn().unwrap());
    let mut log = BufReader::new(worker.0.stderr.take().unwrap()).lines();
    let mut warnings = 0;
    loop {
        let line = log.next().expect("the worker is running").unwrap();
        warnings += usize::from(line.contains("sandbox is incomplete"));
        // It has rendered its own document, and waits for a server.
        if line.contains("ObjectStoreUnavailable") {
            break;
        }
        assert!(!line.contains("SandboxUnavailable"), "{line}");
    }
    assert_eq!(warnings, 1);
    assert!(worker.0.try_wait().unwrap().is_none());
}

#[test]
fn the_check_of_the_sandbox_says_what_a_node_lacks() {
    let check = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_layra-worker"));
        command.args(["sandbox", "check"]);
        command
    };
    let here = check().output().unwrap();
    let text = String::from_utf8(here.stdout).unwrap();
    assert!(here.status.success(), "{text}");
    // The worker itself keeps its memory to itself: nobody may trace it or read a core dump of it.
    let own = "worker\n  pass  other processes of its user cannot read its memory\n";
    assert!(text.starts_with(own), "{text}");

    let mut elsewhere = check();
    without_landlock(&mut elsewhere);
    let elsewhere = elsewhere.output().unwrap();
    let text = String::from_utf8(elsewhere.stdout).unwrap();
    assert_eq!(elsewhere.status.code(), Some(1), "{text}");
    assert!(text.contains("  FAIL  the node lacks Landlock"), "{text}");
}
