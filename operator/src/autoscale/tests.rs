use proptest::prelude::*;

use super::*;

const DELAY: SignedDuration = SignedDuration::from_secs(300);
const STEP: SignedDuration = SignedDuration::from_secs(5);

fn policy(min: i32, max: i32) -> Policy {
    Policy {
        min,
        max,
        target_lag_per_replica: 10,
        scale_down_delay: DELAY,
    }
}

fn seen(lag: impl Into<Option<i64>>, current: i32) -> Observation {
    Observation {
        lag: lag.into(),
        current,
        partitions: Some(10),
    }
}

fn start() -> Timestamp {
    Timestamp::UNIX_EPOCH
}

/// Shows the same reading every five seconds, follows the decisions, and returns the last one.
fn hold(
    lag: impl Into<Option<i64>> + Copy,
    current: &mut i32,
    seconds: i64,
    policy: &Policy,
    history: &mut History,
    now: &mut Timestamp,
) -> Decision {
    let end = *now + SignedDuration::from_secs(seconds);
    loop {
        let decision = decide(&seen(lag, *current), policy, history, *now);
        *current = decision.desired;
        *now += STEP;
        if *now > end {
            return decision;
        }
    }
}

#[test]
fn one_task_wakes_one_worker_at_once() {
    let decision = decide(&seen(1, 0), &policy(0, 4), &mut History::default(), start());
    assert_eq!(decision.desired, 1);
    assert_eq!(
        decision.message,
        "1 task waits, one worker for each 10 makes 1."
    );
}

#[test]
fn there_is_a_worker_for_each_so_many_tasks() {
    for (lag, desired) in [(0, 0), (1, 1), (10, 1), (11, 2), (40, 4)] {
        let decision = decide(
            &seen(lag, 0),
            &policy(0, 4),
            &mut History::default(),
            start(),
        );
        assert_eq!(decision.desired, desired, "lag {lag}");
    }
}

#[test]
fn max_replicas_and_partitions_are_never_exceeded() {
    let by_max = decide(
        &seen(1050, 0),
        &policy(0, 4),
        &mut History::default(),
        start(),
    );
    assert_eq!(
        (by_max.desired, by_max.limit),
        (4, Some(Limit::MaxReplicas))
    );

    let by_partitions = decide(
        &Observation {
            lag: Some(1050),
            current: 0,
            partitions: Some(3),
        },
        &policy(0, 4),
        &mut History::default(),
        start(),
    );
    assert_eq!(
        (by_partitions.desired, by_partitions.limit),
        (3, Some(Limit::Partitions))
    );
    assert_eq!(
        by_partitions.message,
        "1050 tasks wait, one worker for each 10 makes 105; the number of partitions is the limit."
    );
}

#[test]
fn holds_replicas_when_offsets_are_unknown() {
    let decision = decide(
        &seen(None, 3),
        &policy(0, 4),
        &mut History::default(),
        start(),
    );
    assert_eq!(
        (decision.desired, decision.limit),
        (3, Some(Limit::UnknownLag))
    );
}

#[test]
fn min_replicas_stay_without_any_task() {
    let decision = decide(&seen(0, 0), &policy(2, 4), &mut History::default(), start());
    assert_eq!(
        (decision.desired, decision.limit),
        (2, Some(Limit::MinReplicas))
    );
}

#[test]
fn workers_stop_only_after_the_whole_delay() {
    let (mut current, mut now, mut history) = (4, start(), History::default());
    let held = hold(0, &mut current, 295, &policy(0, 4), &mut history, &mut now);
    assert_eq!((held.desired, held.limit), (4, Some(Limit::ScaleDownDelay)));
    let stopped = decide(&seen(0, current), &policy(0, 4), &mut history, now);
    assert_eq!(stopped.desired, 0);
    assert_eq!(
        stopped.message,
        "No task waits: 0 workers have been enough for 300 seconds."
    );
}

#[test]
fn the_largest_number_of_the_window_is_kept() {
    let (mut current, mut now, mut history) = (4, start(), History::default());
    hold(0, &mut current, 200, &policy(0, 4), &mut history, &mut now);
    hold(15, &mut current, 5, &policy(0, 4), &mut history, &mut now);
    let decision = hold(0, &mut current, 200, &policy(0, 4), &mut history, &mut now);
    assert_eq!(
        decision.desired, 2,
        "15 tasks needed two workers within the last 300 seconds"
    );
}

#[test]
fn an_unknown_reading_starts_the_delay_again() {
    let (mut current, mut now, mut history) = (4, start(), History::default());
    hold(0, &mut current, 200, &policy(0, 4), &mut history, &mut now);
    hold(None, &mut current, 5, &policy(0, 4), &mut history, &mut now);
    assert_eq!(
        hold(0, &mut current, 200, &policy(0, 4), &mut history, &mut now).desired,
        4
    );
}

#[test]
fn a_gap_in_the_readings_starts_the_delay_again() {
    let (mut current, mut now, mut history) = (4, start(), History::default());
    hold(0, &mut current, 200, &policy(0, 4), &mut history, &mut now);
    now += SignedDuration::from_secs(3600);
    assert_eq!(
        decide(&seen(0, current), &policy(0, 4), &mut history, now).desired,
        4
    );
}

#[test]
fn a_restarted_operator_does_not_stop_workers_at_once() {
    let decision = decide(&seen(0, 4), &policy(0, 4), &mut History::default(), start());
    assert_eq!(decision.desired, 4);
}

#[test]
fn a_lower_maximum_holds_at_once() {
    let decision = decide(
        &seen(1000, 8),
        &policy(0, 4),
        &mut History::default(),
        start(),
    );
    assert_eq!(decision.desired, 4);
}

prop_compose! {
    fn any_policy()(min in 0..6i32, more in 0..6i32, target in 1..50i64, delay in 0..100i64) -> Policy {
        Policy {
            min,
            max: (min + more).max(1),
            target_lag_per_replica: target,
            scale_down_delay: SignedDuration::from_secs(delay),
        }
    }
}

proptest! {
    #[test]
    fn bounds_are_never_broken(
        policy in any_policy(),
        partitions in proptest::option::of(1..8i32),
        lags in proptest::collection::vec(proptest::option::of(-5..2_000i64), 1..60),
        mut current in 0..20i32,
    ) {
        let mut history = History::default();
        let mut now = start();
        for lag in lags {
            let decision =
                decide(&Observation { lag, current, partitions }, &policy, &mut history, now);
            let ceiling = policy.max.min(partitions.unwrap_or(i32::MAX));
            prop_assert!(decision.desired <= ceiling);
            prop_assert!(decision.desired >= policy.min.min(ceiling));
            current = decision.desired;
            now += STEP;
        }
    }

    #[test]
    fn more_lag_never_means_fewer_workers(
        policy in any_policy(), lag in 0..2_000i64, more in 0..2_000i64, current in 0..6i32,
    ) {
        let few = decide(&seen(lag, current), &policy, &mut History::default(), start());
        let many = decide(&seen(lag + more, current), &policy, &mut History::default(), start());
        prop_assert!(few.desired <= many.desired);
    }

    #[test]
    fn an_unknown_lag_never_lowers(
        policy in any_policy(),
        lags in proptest::collection::vec(0..100i64, 0..60),
    ) {
        let (mut history, mut now, mut current) = (History::default(), start(), policy.min);
        for lag in lags {
            current = decide(&seen(lag, current), &policy, &mut history, now).desired;
            now += STEP;
        }
        let decision = decide(&seen(None, current), &policy, &mut history, now);
        prop_assert_eq!(decision.desired, current);
    }

    #[test]
    fn waiting_tasks_never_leave_zero_workers(policy in any_policy(), lag in 1..2_000i64) {
        let decision = decide(&seen(lag, 0), &policy, &mut History::default(), start());
        prop_assert!(decision.desired >= 1);
    }
}
