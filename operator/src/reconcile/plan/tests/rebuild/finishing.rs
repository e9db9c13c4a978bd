//! If drift is only reported: what was begun is finished or undone.

use super::*;

/// A Job that was stopped or killed may have left a collection without its name.
#[test]
fn what_was_begun_is_finished_also_when_drift_is_only_reported_again() {
    let mut case = Case::new(OnIndexDrift::RebuildBeside).started();
    case.step();
    case.pipeline.spec.stores.milvus.on_index_drift = OnIndexDrift::Report;
    case.configure();
    assert!(stops(&case.step()));
    case.world.rebuild_job = None;
    let mut case = case.started();
    assert!(case.job().only_finishes);
    let plan = case.step();
    assert_eq!(
        (plan.job_action.is_none(), reason(&plan)),
        (true, "Rebuilding")
    );
    assert!(
        condition(&plan, VECTOR_STORE_READY)
            .message
            .contains("finishes, or undoes")
    );
    assert_eq!(plan.events, [], "no rebuild has begun");
    let at = case.now;
    case.job().phase = JobPhase::Succeeded { at };
    for expected in [&[Reason::IndexDrift][..], &[]] {
        let plan = case.step();
        assert_eq!(
            (plan.job_action.is_none(), reason(&plan)),
            (true, "IndexDrift")
        );
        assert_eq!(events(&plan), expected, "nothing was rebuilt");
        assert_eq!(index(&plan).last_job, None);
    }
    case.world.rebuild_job = None;
    case.later(3600);
    assert_eq!(case.step().job_action, None, "once");
}

#[test]
fn after_a_failure_what_was_begun_is_finished_until_it_succeeds() {
    let mut case = Case::new(OnIndexDrift::RebuildBeside).started();
    case.step();
    case.fails("job-1");
    case.step();
    case.pipeline.spec.stores.milvus.on_index_drift = OnIndexDrift::Report;
    case.configure();
    let plan = case.step();
    assert!(stops(&plan), "the Job that failed, at once");
    assert_eq!(events(&plan), [Reason::RebuildStopped]);
    case.world.rebuild_job = None;
    let mut case = case.started();
    assert!(case.job().only_finishes);
    case.fails("job-2");
    let plan = case.step();
    assert_eq!(
        (plan.job_action.is_none(), reason(&plan)),
        (true, "RebuildFailed")
    );
    let message = &condition(&plan, VECTOR_STORE_READY).message;
    assert!(message.ends_with(": Milvus is out of memory."), "{message}");
    case.later(30);
    assert!(stops(&case.step()), "another follows");

    case.pipeline.spec.stores.milvus.on_index_drift = OnIndexDrift::RebuildBeside;
    case.configure();
    case.world.rebuild_job = None;
    assert!(!case.started().job().only_finishes, "rebuilds go on");
}

#[test]
fn a_job_that_only_finishes_is_replaced_when_rebuilds_are_wanted_again() {
    let mut case = Case::new(OnIndexDrift::RebuildBeside).started();
    case.step();
    case.pipeline.spec.stores.milvus.on_index_drift = OnIndexDrift::Report;
    case.configure();
    case.step();
    case.world.rebuild_job = None;
    let mut case = case.started();
    case.pipeline.spec.stores.milvus.on_index_drift = OnIndexDrift::RebuildBeside;
    case.configure();
    assert!(stops(&case.step()));
}
