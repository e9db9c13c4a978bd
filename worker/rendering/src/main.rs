//! The child processes as a separate program, for tests. The worker's own binary does the same when
//! it is started with these arguments. This program is in no image.

use std::process::ExitCode;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("render-child") => layra_rendering::child::main(),
        Some("office-child") => layra_rendering::office_child::main(),
        Some("without-seccomp") => {
            refuse_filters();
            layra_rendering::child::main()
        }
        _ => {
            eprintln!("the first argument must be render-child, office-child or without-seccomp");
            ExitCode::FAILURE
        }
    }
}

/// Makes this node one whose container runtime refuses seccomp filters.
fn refuse_filters() {
    let set_seccomp = SeccompCondition::new(
        0,
        SeccompCmpArgLen::Dword,
        SeccompCmpOp::Eq,
        u64::from(libc::PR_SET_SECCOMP.cast_unsigned()),
    );
    let by_prctl = SeccompRule::new(vec![set_seccomp.expect("a valid condition")]);
    let rules = [
        (libc::SYS_seccomp, Vec::new()),
        (libc::SYS_prctl, vec![by_prctl.expect("a valid rule")]),
    ];
    let refused = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    let architecture = std::env::consts::ARCH
        .try_into()
        .expect("a known architecture");
    let filter = SeccompFilter::new(
        rules.into_iter().collect(),
        SeccompAction::Allow,
        refused,
        architecture,
    );
    let program: BpfProgram = filter.and_then(TryInto::try_into).expect("a valid filter");
    seccompiler::apply_filter(&program).expect("this node allows filters");
}
