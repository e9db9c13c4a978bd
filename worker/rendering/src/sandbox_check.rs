//! Checks of the sandbox on this node, in words for people. Every child process tries what it must
//! not be able to do; what it reports is compared with what is expected.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use rustix::process::{DumpableBehavior, dumpable_behavior};

use super::trial::{ATTEMPTS, Attempt, READ_DOCUMENT};

/// The outcome of all checks.
#[derive(Debug, Default)]
pub struct SandboxReport(Vec<Group>);

/// The checks of one kind of process.
#[derive(Debug)]
struct Group {
    title: &'static str,
    checks: Vec<Check>,
}

#[derive(Debug)]
struct Check {
    passed: bool,
    what: String,
}

impl SandboxReport {
    /// Whether all checks passed.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.0
            .iter()
            .flat_map(|group| &group.checks)
            .all(|check| check.passed)
    }

    /// Writes a line for each check.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        for group in &self.0 {
            writeln!(out, "{}", group.title)?;
            for check in &group.checks {
                let outcome = if check.passed { "pass" } else { "FAIL" };
                writeln!(out, "  {outcome}  {}", check.what)?;
            }
        }
        Ok(())
    }

    fn add(&mut self, title: &'static str, checks: Vec<Check>) {
        self.0.push(Group { title, checks });
    }
}

fn check(passed: bool, what: impl Into<String>) -> Check {
    Check {
        passed,
        what: what.into(),
    }
}

/// Checks this process, a renderer, and LibreOffice if `soffice` exists. `program` is the program of
/// the child processes.
pub fn check_sandbox(program: &Path, soffice: &Path) -> io::Result<SandboxReport> {
    let mut report = SandboxReport::default();
    let hidden = dumpable_behavior()? == DumpableBehavior::NotDumpable;
    let what = "other processes of its user cannot read its memory";
    report.add("worker", vec![check(hidden, what)]);

    let directory = tempfile::tempdir()?;
    let document = directory.path().join("document");
    std::fs::write(&document, "a document")?;
    let mut renderer = Command::new(program);
    renderer
        .args(["render-child", "try", "limits,files,calls"])
        .args([&document, directory.path()]);
    let expected = |attempt: &Attempt| Some(attempt.name == READ_DOCUMENT);
    report.add("renderer", tried(renderer, expected)?);

    if soffice.is_file() {
        let directory = tempfile::tempdir()?;
        let mut office = Command::new(program);
        office
            .args(["office-child", "try"])
            .args([soffice, directory.path()]);
        let expected = |attempt: &Attempt| attempt.by_office;
        report.add("LibreOffice", tried(office, expected)?);
    } else {
        let what = format!("not checked: there is no {}", soffice.display());
        report.add("LibreOffice", vec![check(true, what)]);
    }
    Ok(report)
}

/// Runs a child process that tries everything. `expected` says whether an attempt must succeed.
fn tried(
    mut command: Command,
    expected: impl Fn(&Attempt) -> Option<bool>,
) -> io::Result<Vec<Check>> {
    let server = TcpListener::bind("127.0.0.1:0")?;
    let output = command.arg(server.local_addr()?.to_string()).output()?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        let what = format!("enters its sandbox: {} {}", output.status, error.trim());
        return Ok(vec![check(false, what)]);
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let outcomes: BTreeMap<&str, &str> = text
        .lines()
        .filter_map(|line| line.split_once(' '))
        .collect();
    let outcome = |name| outcomes.get(name).copied().unwrap_or("not reported");
    let missing = outcome("missing");
    let mut checks = vec![
        check(
            outcome("refused") == "0",
            format!("the node lacks {missing}"),
        ),
        check(
            outcome("dumpable") == "0",
            "other processes of its user cannot read its memory",
        ),
    ];
    for attempt in ATTEMPTS {
        let Some(must_succeed) = expected(attempt) else {
            continue;
        };
        let outcome = outcome(attempt.name);
        let passed = (outcome == "done") == must_succeed && outcome != "not reported";
        let can = if must_succeed { "can" } else { "cannot" };
        checks.push(check(passed, format!("{can} {}", attempt.words)));
    }
    Ok(checks)
}
