use proptest::prelude::*;

use super::*;

const GOAL: Goal = Goal {
    drain_target: 600.0,
    utilization: 0.8,
};

/// Workers that each process two pages per second.
fn fleet(available_in: &[f64], startup_seconds: f64) -> Fleet {
    Fleet {
        pages_per_second: 2.0,
        available_in: available_in.to_vec(),
        startup_seconds,
    }
}

fn waiting(pages: f64, partitions: u32) -> Demand {
    Demand {
        arriving: 0.0,
        due: vec![Due {
            pages,
            within: 600.0,
        }],
        partitions,
        partitions_with_work: partitions,
    }
}

#[test]
fn no_work_requires_no_worker() {
    let required = required_replicas(&Demand::default(), &fleet(&[], 60.0), GOAL);
    assert_eq!(
        (required.workers(), required.exceeds_partitions),
        (0, false)
    );
}

#[test]
fn arrivals_leave_a_fifth_of_the_speed_in_reserve() {
    // Two pages per second each. Of these, 1.6 count where a start takes as long as the target, and
    // 1.96 where it takes a tenth of it: pages that arrive meanwhile can wait.
    for (arriving, workers, startup_seconds) in [
        (0.1, 1, 600.0),
        (1.6, 1, 600.0),
        (1.7, 2, 600.0),
        (8.0, 5, 600.0),
        (1.95, 1, 60.0),
        (1.97, 2, 60.0),
    ] {
        let demand = Demand {
            arriving,
            partitions: 20,
            ..Demand::default()
        };
        let required = required_replicas(&demand, &fleet(&[], startup_seconds), GOAL);
        assert_eq!(required.for_arrivals, workers, "{arriving} pages/s");
    }
}

#[test]
fn the_backlog_is_drained_within_the_target_including_the_start() {
    // Of 600 s the start takes 60 s: 1080 pages each.
    for (pages, workers) in [(1.0, 1), (1080.0, 1), (1090.0, 2), (5400.0, 5)] {
        let required = required_replicas(&waiting(pages, 20), &fleet(&[], 60.0), GOAL);
        assert_eq!(required.for_backlog, workers, "{pages} pages");
    }
}

#[test]
fn starting_workers_count_from_the_end_of_their_start() {
    // A ready worker processes 1200 pages, one that is ready in 30 s 1140, a new one 1080.
    let enough = fleet(&[0.0, 30.0], 60.0);
    assert_eq!(
        required_replicas(&waiting(2340.0, 20), &enough, GOAL).for_backlog,
        2
    );
    assert_eq!(
        required_replicas(&waiting(2350.0, 20), &enough, GOAL).for_backlog,
        3
    );
}

#[test]
fn older_work_is_due_earlier() {
    let demand = Demand {
        due: vec![
            Due {
                pages: 1000.0,
                within: 200.0,
            },
            Due {
                pages: 1200.0,
                within: 600.0,
            },
        ],
        ..waiting(0.0, 20)
    };
    // All 1200 pages would require one worker; the older 1000 require 1000 / (2 * 200) = 2.5.
    assert_eq!(
        required_replicas(&demand, &fleet(&[0.0; 8], 60.0), GOAL).for_backlog,
        3
    );
}

#[test]
fn pages_that_arrive_while_workers_start_count() {
    // One ready worker drains the backlog of 1200 pages within the target, but keeps up with only
    // half of the arriving pages.
    let growing = Demand {
        arriving: 4.0,
        ..waiting(1200.0, 20)
    };
    let slow = fleet(&[0.0], 480.0);
    let without = required_replicas(&waiting(1200.0, 20), &slow, GOAL);
    let with = required_replicas(&growing, &slow, GOAL);
    assert_eq!(without.for_backlog, 1);
    assert!(with.for_backlog > 1, "{with:?}");
}

#[test]
fn a_number_that_is_no_more_effective_than_a_smaller_one_is_never_chosen() {
    assert!((effective_workers(7, 12) - effective_workers(6, 12)).abs() < 1e-9);
    assert!(
        (effective_workers(6, 12) - 6.0).abs() < 1e-9
            && (effective_workers(12, 12) - 12.0).abs() < 1e-9
    );
    for pages in (0..30_000).step_by(100) {
        let workers =
            required_replicas(&waiting(f64::from(pages), 12), &fleet(&[], 10.0), GOAL).for_backlog;
        assert!([0, 1, 2, 3, 4, 6, 12].contains(&workers), "{workers}");
    }
    // Seven partitions have the steps 1, 2, 3, 4 and 7, not only its divisors 1 and 7.
    let workers = required_replicas(&waiting(2700.0, 7), &fleet(&[], 10.0), GOAL).for_backlog;
    assert_eq!(workers, 3);
}

#[test]
fn no_more_workers_than_partitions_with_work() {
    let demand = Demand {
        partitions_with_work: 2,
        ..waiting(1e6, 20)
    };
    let required = required_replicas(&demand, &fleet(&[], 60.0), GOAL);
    assert_eq!(
        (required.for_backlog, required.exceeds_partitions),
        (2, true)
    );
}

#[test]
fn a_deadline_that_no_new_worker_can_meet_does_not_add_many() {
    let late = Demand {
        due: vec![Due {
            pages: 500.0,
            within: 100.0,
        }],
        ..waiting(0.0, 100)
    };
    // New workers are ready in 480 s; overdue work is processed within 60 s from then.
    let required = required_replicas(&late, &fleet(&[], 480.0), GOAL);
    assert_eq!(required.for_backlog, 5);
}

prop_compose! {
    fn any_fleet()(
        pages_per_second in 0.1..50.0,
        mut available_in in proptest::collection::vec(0.0..400.0, 0..12),
        startup_seconds in 1.0..900.0,
    ) -> Fleet {
        available_in.sort_by(f64::total_cmp);
        available_in.retain(|seconds| *seconds <= startup_seconds);
        Fleet { pages_per_second, available_in, startup_seconds }
    }
}

prop_compose! {
    fn any_demand()(
        arriving in 0.0..50.0,
        steps in proptest::collection::vec((0.0..5000.0, 0.0..200.0), 0..6),
        partitions in 1..64u32,
        busy in 0.0..1.0,
    ) -> Demand {
        let (mut pages, mut within) = (0.0, -100.0);
        let due = steps.into_iter().map(|(more, later)| {
            pages += more;
            within += later;
            Due { pages, within }
        });
        let due = due.collect();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let partitions_with_work = (f64::from(partitions) * busy) as u32 + 1;
        Demand {
            arriving,
            due,
            partitions,
            partitions_with_work: partitions_with_work.min(partitions),
        }
    }
}

proptest! {
    #[test]
    fn partitions_are_never_exceeded(demand in any_demand(), fleet in any_fleet()) {
        let required = required_replicas(&demand, &fleet, GOAL);
        prop_assert!(required.for_arrivals <= demand.partitions);
        prop_assert!(required.for_backlog <= demand.partitions_with_work);
    }

    #[test]
    fn more_work_never_requires_fewer_workers(demand in any_demand(), fleet in any_fleet(), factor in 1.0..5.0) {
        let more = Demand {
            arriving: demand.arriving * factor,
            due: demand.due.iter().map(|due| Due { pages: due.pages * factor, ..*due }).collect(),
            ..demand.clone()
        };
        prop_assert!(required_replicas(&demand, &fleet, GOAL).workers() <= required_replicas(&more, &fleet, GOAL).workers());
    }

    /// Twice the pages at twice the speed require the same number: only the quotient matters.
    #[test]
    fn pages_and_speed_scale_together(demand in any_demand(), fleet in any_fleet()) {
        let twice = Demand {
            arriving: demand.arriving * 2.0,
            due: demand.due.iter().map(|due| Due { pages: due.pages * 2.0, ..*due }).collect(),
            ..demand.clone()
        };
        let faster = Fleet { pages_per_second: fleet.pages_per_second * 2.0, ..fleet.clone() };
        prop_assert_eq!(required_replicas(&demand, &fleet, GOAL), required_replicas(&twice, &faster, GOAL));
    }

    /// The required number drains the backlog in time, and one worker less does not.
    #[test]
    fn the_required_number_is_the_smallest_sufficient_one(demand in any_demand(), fleet in any_fleet()) {
        let required = required_replicas(&demand, &fleet, GOAL);
        if !required.exceeds_partitions && required.for_backlog > 0 {
            prop_assert!(drains(&demand, &fleet, GOAL, required.for_backlog));
            prop_assert!(!drains(&demand, &fleet, GOAL, required.for_backlog - 1));
        }
    }

    #[test]
    fn every_number_is_a_step_of_the_partitions(demand in any_demand(), fleet in any_fleet()) {
        let workers = required_replicas(&demand, &fleet, GOAL).for_backlog;
        let partitions = demand.partitions_with_work;
        prop_assert!(workers == 0 || (1..=partitions).any(|k| partitions.div_ceil(k) == workers));
    }
}
