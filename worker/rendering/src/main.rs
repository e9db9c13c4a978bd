//! The child processes as a separate program, for tests. The worker's own binary does the same when
//! it is started with these arguments. This program is in no image.
//!
//! `without-landlock PROGRAM ARGUMENTS` and `without-seccomp PROGRAM ARGUMENTS` run a program as on
//! a node that lacks that.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

/// Calls that fail with an error, on such a node.
type Refused = BTreeMap<libc::c_long, Vec<SeccompRule>>;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("render-child") => layra_rendering::child::main(),
        Some("office-child") => layra_rendering::office_child::main(),
        Some("without-seccomp") => run_without(filters(), libc::EPERM),
        Some("without-landlock") => run_without(landlock(), libc::ENOSYS),
        _ => {
            eprintln!(
                "the first argument must be render-child, office-child, without-seccomp or \
                 without-landlock"
            );
            ExitCode::FAILURE
        }
    }
}

/// Becomes the program of the other arguments.
fn run_without(refused: Refused, error: libc::c_int) -> ExitCode {
    refuse(refused, error);
    let mut arguments = std::env::args_os().skip(2);
    let program = arguments.next().expect("a program to run");
    eprintln!("{}", Command::new(program).args(arguments).exec());
    ExitCode::FAILURE
}

/// What a container runtime refuses that allows no filters.
fn filters() -> Refused {
    let set_seccomp = SeccompCondition::new(
        0,
        SeccompCmpArgLen::Dword,
        SeccompCmpOp::Eq,
        u64::from(libc::PR_SET_SECCOMP.cast_unsigned()),
    );
    let by_prctl = SeccompRule::new(vec![set_seccomp.expect("a valid condition")]);
    [
        (libc::SYS_seccomp, Vec::new()),
        (libc::SYS_prctl, vec![by_prctl.expect("a valid rule")]),
    ]
    .into()
}

/// What a kernel without Landlock does not have.
fn landlock() -> Refused {
    let calls = [
        libc::SYS_landlock_create_ruleset,
        libc::SYS_landlock_add_rule,
        libc::SYS_landlock_restrict_self,
    ];
    calls.map(|call| (call, Vec::new())).into()
}

fn refuse(rules: Refused, error: libc::c_int) {
    let refused = SeccompAction::Errno(error.cast_unsigned());
    let architecture = std::env::consts::ARCH
        .try_into()
        .expect("a known architecture");
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refused, architecture);
    let program: BpfProgram = filter.and_then(TryInto::try_into).expect("a valid filter");
    seccompiler::apply_filter(&program).expect("this node allows filters");
}
