//! What a sandboxed process cannot do, tested on this machine's kernel.

#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "helpers of tests are not marked as tests"
)]

mod common;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

const NOT_PERMITTED: i32 = 1;
const NOT_FOUND: i32 = 2;
const NO_ROOM: i32 = 12;
const DENIED: i32 = 13;

/// Result of each attempt: 0, or the error's number.
type Outcomes = BTreeMap<String, i32>;

/// What a renderer can do under these layers.
fn tried(layers: &str) -> Outcomes {
    let directory = tempfile::tempdir().unwrap();
    let document = directory.path().join("document");
    std::fs::write(&document, "a document").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_layra-renderer"));
    command
        .args(["render-child", "try", layers])
        .args([&document, directory.path()]);
    outcomes(command, directory.path())
}

/// What LibreOffice can do in its sandbox.
fn tried_for_office() -> Outcomes {
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_layra-renderer"));
    command
        .args(["office-child", "try"])
        .arg("/usr/lib/libreoffice/program/soffice.bin")
        .arg(directory.path());
    outcomes(command, directory.path())
}

fn outcomes(mut command: Command, directory: &Path) -> Outcomes {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let output = command
        .arg(server.local_addr().unwrap().to_string())
        .output()
        .unwrap();
    let layers = format!("{command:?}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{layers}: {output:?}");
    let mut lines = text.lines();
    assert_eq!(
        lines.next(),
        Some("missing nothing"),
        "this kernel does not support the whole sandbox"
    );
    assert_eq!(lines.next(), Some("refused 0"));
    let outcomes: Outcomes = lines
        .map(|line| {
            let (name, outcome) = line.split_once(' ').unwrap();
            let number = match outcome {
                "done" => 0,
                number => number.parse().unwrap(),
            };
            (name.to_owned(), number)
        })
        .collect();
    // Under any layers, the files must match the reported results.
    let is_there = |name: &str| directory.join(name).exists();
    for (attempt, file) in [
        ("create", "new"),
        ("make-directory", "made"),
        ("link", "linked"),
        ("rename", "renamed"),
    ] {
        assert_eq!(
            is_there(file),
            outcomes[attempt] == 0,
            "{layers}: {attempt}"
        );
    }
    assert_eq!(is_there("condemned"), outcomes["remove"] != 0, "{layers}");
    outcomes
}

fn assert_all(outcomes: &Outcomes, attempts: &[&str], expected: &[i32]) {
    for attempt in attempts {
        let outcome = outcomes[*attempt];
        assert!(
            expected.contains(&outcome),
            "{attempt}: {outcome}, not one of {expected:?}"
        );
    }
}

const FILES: [&str; 13] = [
    "read-elsewhere",
    "read-neighbour",
    "read-parent",
    "list",
    "create",
    "create-elsewhere",
    "append",
    "truncate",
    "make-directory",
    "link",
    "symlink",
    "rename",
    "remove",
];

const CALLS: [&str; 17] = [
    "change-mode",
    "connect",
    "socket-tcp",
    "socket-unix",
    "process",
    "fork",
    "thread",
    "execute",
    "trace",
    "signal",
    "signal-thread",
    "signals-to-parent",
    "limits-of-parent",
    "processors-of-parent",
    "priority-of-parent",
    "memory-file",
    "executable-memory",
];

/// Without this the other tests would prove nothing.
#[test]
fn without_a_sandbox_every_attempt_succeeds() {
    let outcomes = tried("none");
    assert_all(&outcomes, &["read-document", "more-memory"], &[0]);
    assert_all(&outcomes, &FILES, &[0]);
    for attempt in CALLS {
        let expected = if attempt == "execute" { NOT_FOUND } else { 0 };
        assert_eq!(outcomes[attempt], expected, "{attempt}");
    }
}

#[test]
fn landlock_allows_only_the_document() {
    let outcomes = tried("files");
    assert_all(&outcomes, &["read-document"], &[0]);
    // 18 is EXDEV: Landlock denies links between directories by it.
    assert_all(&outcomes, &FILES, &[NOT_PERMITTED, DENIED, 18]);
    assert_all(&outcomes, &["connect"], &[DENIED]);
    assert_all(&outcomes, &["signal"], &[NOT_PERMITTED]);
}

#[test]
fn seccomp_allows_reading_and_computing() {
    let outcomes = tried("calls");
    assert_all(
        &outcomes,
        &["read-document", "read-neighbour", "read-parent", "list"],
        &[0],
    );
    assert_all(&outcomes, &FILES[4..], &[NOT_PERMITTED]);
    assert_all(&outcomes, &["other-numbers"], &[NOT_PERMITTED]);
    assert_all(&outcomes, &CALLS, &[NOT_PERMITTED]);
    assert_all(&outcomes, &["raise-limit"], &[NOT_PERMITTED]);
}

#[test]
fn the_memory_of_a_renderer_is_its_own_from_the_start() {
    assert_eq!(tried("none")["dumpable"], 0);
    assert_eq!(tried("limits,files,calls")["dumpable"], 0);
}

/// What `layra-worker sandbox check` prints when renderers are started by this program.
fn checked(program: &Path) -> (bool, String) {
    layra_rendering::hide_memory().unwrap();
    let soffice = Path::new(layra_rendering::SOFFICE);
    let report = layra_rendering::check_sandbox(program, soffice).unwrap();
    let mut text = Vec::new();
    report.write(&mut text).unwrap();
    (report.is_good(), String::from_utf8(text).unwrap())
}

#[test]
fn the_check_passes_on_this_machine() {
    let (is_good, text) = checked(env!("CARGO_BIN_EXE_layra-renderer").as_ref());
    assert!(is_good && !text.contains("FAIL"), "{text}");
    for line in [
        "  pass  the node lacks nothing",
        "  pass  can read its document",
        "  pass  cannot connect over TCP",
        "LibreOffice",
        "  pass  can start a thread",
    ] {
        assert!(text.contains(line), "{line} is not in:\n{text}");
    }
}

#[test]
fn the_check_fails_where_a_layer_is_missing() {
    for (without, line) in [
        (
            "without-landlock",
            "  FAIL  cannot read a file next to its document",
        ),
        ("without-seccomp", "  FAIL  cannot start a thread"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let program =
            common::renderer::script(directory.path(), &common::renderer::as_on_a_node(without));
        let (is_good, text) = checked(&program);
        assert!(
            !is_good && text.contains("  FAIL  the node lacks "),
            "{text}"
        );
        assert!(text.contains(line), "{without}:\n{text}");
    }
}

#[test]
fn the_memory_limit_holds() {
    assert_eq!(tried("limits")["more-memory"], NO_ROOM);
}

#[test]
fn libreoffice_touches_no_other_process_and_no_network() {
    let outcomes = tried_for_office();
    for attempt in [
        "read-parent",
        "create-elsewhere",
        "truncate",
        "change-mode",
        "connect",
        "socket-tcp",
        "process",
        "fork",
        "trace",
        "signal",
        "signal-thread",
        "signals-to-parent",
        "limits-of-parent",
        "processors-of-parent",
        "priority-of-parent",
        "memory-file",
        "other-numbers",
    ] {
        assert_all(&outcomes, &[attempt], &[NOT_PERMITTED, DENIED]);
    }
    // What it needs: its directory, threads, and signals to itself.
    assert_all(
        &outcomes,
        &["read-document", "create", "remove", "thread"],
        &[0],
    );
}

#[test]
fn the_whole_sandbox_allows_only_reading_the_document() {
    let outcomes = tried("limits,files,calls");
    assert_all(&outcomes, &["read-document"], &[0]);
    assert_all(&outcomes, &FILES, &[NOT_PERMITTED, DENIED]);
    assert_all(&outcomes, &CALLS, &[NOT_PERMITTED]);
    assert_all(&outcomes, &["raise-limit"], &[NOT_PERMITTED]);
    assert_all(&outcomes, &["more-memory"], &[NO_ROOM]);
}
