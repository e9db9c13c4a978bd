//! Rebuilds in a window.

use super::*;

#[test]
fn a_closed_window_is_waited_for_and_the_message_says_when_it_opens() {
    let mut case = Case::with_closed_window(OnIndexDrift::RebuildBeside);
    let plan = case.step();
    assert_eq!(
        (plan.job_action.is_none(), reason(&plan)),
        (true, "RebuildWaiting")
    );
    let message = &condition(&plan, VECTOR_STORE_READY).message;
    assert!(
        message.contains("opens at 2026-11-28T00:00:00Z"),
        "{message}"
    );
    case.later(12 * 3600);
    assert!(starts(&case.step()));
}

#[test]
fn a_job_that_does_not_end_with_its_window_is_stopped_and_what_it_left_does_not_wait() {
    let mut case = Case::with_closed_window(OnIndexDrift::RebuildBeside);
    case.later(12 * 3600);
    let mut case = case.started();
    case.step();
    case.later(24 * 3600 + 29 * 60);
    assert_eq!(case.step().job_action, None, "it ends by itself");
    case.later(60);
    let plan = case.step();
    assert!(stops(&plan));
    assert_eq!(events(&plan), [Reason::RebuildStopped]);
    let again = case.step();
    assert!(stops(&again) && again.events.is_empty(), "until it is gone");
    case.world.rebuild_job = None;
    case.later(15);
    let mut case = case.started();
    case.later(3600);
    assert_eq!(
        case.step().job_action,
        None,
        "it finishes what is half done"
    );
    let at = case.now;
    case.job().phase = JobPhase::Succeeded { at };
    assert_eq!(reason(&case.step()), "RebuildWaiting");
    case.later(3600);
    assert_eq!(case.step().job_action, None);
}

#[test]
fn a_job_that_ended_with_its_window_goes_on_in_the_next_and_its_collection_is_not_rebuilt() {
    let mut case = Case::with_closed_window(OnIndexDrift::RebuildInPlace);
    case.later(12 * 3600);
    let mut case = case.started();
    case.job().progress = Some(progress(&[("colqwen1", ReindexPhase::Copying)]));
    case.step();
    case.later(24 * 3600);
    let at = case.now;
    case.job().phase = JobPhase::Succeeded { at };
    case.drifted(2);
    let plan = case.step();
    assert_eq!(events(&plan), [Reason::RebuildStopped]);
    assert_eq!(reason(&plan), "RebuildWaiting");
    let status = index(&plan);
    assert_eq!((status.done, status.rebuilds.len()), (1, 0));
    assert_eq!(case.step().events, []);
    case.world.rebuild_job = None;
    case.later(6 * 24 * 3600);
    let mut case = case.started();
    assert_eq!(events(&case.step()), [Reason::RebuildStarted]);
}

#[test]
fn a_rebuild_in_place_is_not_cut_off_and_its_rest_does_not_wait() {
    let mut case = Case::with_closed_window(OnIndexDrift::RebuildInPlace);
    case.later(12 * 3600);
    let mut case = case.started();
    case.step();
    case.later(24 * 3600);
    assert_eq!(
        case.step().job_action,
        None,
        "nothing is found in the collection at hand"
    );
    case.fails("job-1");
    case.step();
    case.later(20);
    assert!(stops(&case.step()), "before the next one");
    case.world.rebuild_job = None;
    assert!(starts(&case.step()), "also outside the window");
}

#[test]
fn empty_collections_are_mended_outside_the_window() {
    let mut case = Case::with_closed_window(OnIndexDrift::RebuildBeside);
    case.world.indexes = Ok(report(3, 1));
    let mut case = case.started();
    assert_eq!(case.step().job_action, None, "it is not stopped either");
    case.drifted(2);
    assert_eq!(case.step().job_action, None, "it ends by itself");
    case.later(30 * 60);
    assert!(stops(&case.step()));
}

#[test]
fn an_invalid_window_is_reported_and_nothing_is_rebuilt() {
    let mut case = Case::with_closed_window(OnIndexDrift::RebuildBeside);
    let window = case.pipeline.spec.stores.milvus.rebuild.window.as_mut();
    window.unwrap().time_zone = "Mars/Base".into();
    case.configure();
    case.later(12 * 3600);
    let plan = case.step();
    assert_eq!(
        (plan.job_action.is_none(), reason(&plan)),
        (true, "RebuildWindowInvalid")
    );
    assert!(events(&plan).contains(&Reason::RebuildWindowInvalid));
    assert_eq!(condition(&plan, READY).status, "True");
}

#[test]
fn a_window_that_never_opens_or_is_null_is_invalid() {
    let mut case = Case::with_closed_window(OnIndexDrift::RebuildBeside);
    let window = &mut case.pipeline.spec.stores.milvus.rebuild.window;
    let window = window.as_mut().unwrap();
    window.end = window.start.clone();
    case.configure();
    assert_eq!(reason(&case.step()), "RebuildWindowInvalid");

    let mut case = Case::with_closed_window(OnIndexDrift::RebuildInPlace);
    case.pipeline.spec.stores.milvus.rebuild.window = None;
    case.configure();
    let plan = case.step();
    assert_eq!(
        (plan.job_action.is_none(), reason(&plan)),
        (true, "RebuildWindowInvalid")
    );
}
