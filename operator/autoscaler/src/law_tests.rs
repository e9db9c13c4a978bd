use proptest::prelude::*;

use super::*;

const GOAL: Goal = Goal {
    drain_target: 600.0,
    utilization: 0.8,
};

/// Workers that each do two pages a second.
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
fn nothing_needs_nobody() {
    let need = need(&Demand::default(), &fleet(&[], 60.0), GOAL);
    assert_eq!((need.workers(), need.out_of_reach), (0, false));
}

#[test]
fn arrivals_leave_a_fifth_of_the_speed_in_hand() {
    // Two pages a second each, of which 1.6 count where a start takes as long as the target, and
    // 1.96 where it takes a tenth of it: what comes meanwhile can wait.
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
        let need = need(&demand, &fleet(&[], startup_seconds), GOAL);
        assert_eq!(need.for_arrivals, workers, "{arriving} pages/s");
    }
}

#[test]
fn the_backlog_is_done_within_the_target_the_start_included() {
    // 600 s of which 60 s go for the start: 1080 pages each.
    for (pages, workers) in [(1.0, 1), (1080.0, 1), (1090.0, 2), (5400.0, 5)] {
        let need = need(&waiting(pages, 20), &fleet(&[], 60.0), GOAL);
        assert_eq!(need.for_backlog, workers, "{pages} pages");
    }
}

#[test]
fn workers_that_start_count_for_what_is_left_of_their_start() {
    // A worker that works does 1200 pages, one that starts in 30 s 1140, a new one 1080.
    let enough = fleet(&[0.0, 30.0], 60.0);
    assert_eq!(need(&waiting(2340.0, 20), &enough, GOAL).for_backlog, 2);
    assert_eq!(need(&waiting(2350.0, 20), &enough, GOAL).for_backlog, 3);
}

#[test]
fn what_has_waited_for_long_is_due_earlier() {
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
    // All 1200 pages would need one worker; the older 1000 need 1000 / (2 * 200) = 2.5.
    assert_eq!(need(&demand, &fleet(&[0.0; 8], 60.0), GOAL).for_backlog, 3);
}

#[test]
fn what_arrives_while_workers_start_counts() {
    // One worker keeps up with half of what arrives. In 660 s there are 100 + 240 = 340 pages more
    // than at the start ... which one worker that works would do alone.
    let growing = Demand {
        arriving: 4.0,
        ..waiting(1200.0, 20)
    };
    let slow = fleet(&[0.0], 480.0);
    let without = need(&waiting(1200.0, 20), &slow, GOAL);
    let with = need(&growing, &slow, GOAL);
    assert_eq!(without.for_backlog, 1);
    assert!(with.for_backlog > 1, "{with:?}");
}

#[test]
fn a_number_that_loads_the_slowest_worker_as_much_as_a_smaller_one_is_never_chosen() {
    assert!((worth(7, 12) - worth(6, 12)).abs() < 1e-9);
    assert!((worth(6, 12) - 6.0).abs() < 1e-9 && (worth(12, 12) - 12.0).abs() < 1e-9);
    for pages in (0..30_000).step_by(100) {
        let workers = need(&waiting(f64::from(pages), 12), &fleet(&[], 10.0), GOAL).for_backlog;
        assert!([0, 1, 2, 3, 4, 6, 12].contains(&workers), "{workers}");
    }
    // Seven partitions have the steps 1, 2, 3, 4 and 7, not only its divisors 1 and 7.
    let workers = need(&waiting(2700.0, 7), &fleet(&[], 10.0), GOAL).for_backlog;
    assert_eq!(workers, 3);
}

#[test]
fn no_more_workers_than_partitions_with_work() {
    let demand = Demand {
        partitions_with_work: 2,
        ..waiting(1e6, 20)
    };
    let need = need(&demand, &fleet(&[], 60.0), GOAL);
    assert_eq!((need.for_backlog, need.out_of_reach), (2, true));
}

#[test]
fn a_deadline_that_no_new_worker_can_meet_asks_for_no_crowd() {
    let late = Demand {
        due: vec![Due {
            pages: 500.0,
            within: 100.0,
        }],
        ..waiting(0.0, 100)
    };
    // New workers come in 480 s; what is late is done 60 s later.
    let need = need(&late, &fleet(&[], 480.0), GOAL);
    assert_eq!(need.for_backlog, 5);
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
        let need = need(&demand, &fleet, GOAL);
        prop_assert!(need.for_arrivals <= demand.partitions);
        prop_assert!(need.for_backlog <= demand.partitions_with_work);
    }

    #[test]
    fn more_work_never_needs_fewer(demand in any_demand(), fleet in any_fleet(), factor in 1.0..5.0) {
        let more = Demand {
            arriving: demand.arriving * factor,
            due: demand.due.iter().map(|due| Due { pages: due.pages * factor, ..*due }).collect(),
            ..demand.clone()
        };
        prop_assert!(need(&demand, &fleet, GOAL).workers() <= need(&more, &fleet, GOAL).workers());
    }

    /// Twice the pages at twice the speed need as many workers: only the quotient counts.
    #[test]
    fn pages_and_speed_scale_together(demand in any_demand(), fleet in any_fleet()) {
        let twice = Demand {
            arriving: demand.arriving * 2.0,
            due: demand.due.iter().map(|due| Due { pages: due.pages * 2.0, ..*due }).collect(),
            ..demand.clone()
        };
        let faster = Fleet { pages_per_second: fleet.pages_per_second * 2.0, ..fleet.clone() };
        prop_assert_eq!(need(&demand, &fleet, GOAL), need(&twice, &faster, GOAL));
    }

    /// What the law calls enough is enough, and one step less is not.
    #[test]
    fn the_number_is_the_smallest_that_is_enough(demand in any_demand(), fleet in any_fleet()) {
        let need = need(&demand, &fleet, GOAL);
        if !need.out_of_reach && need.for_backlog > 0 {
            prop_assert!(drains(&demand, &fleet, GOAL, need.for_backlog));
            prop_assert!(!drains(&demand, &fleet, GOAL, need.for_backlog - 1));
        }
    }

    #[test]
    fn every_number_is_a_step_of_the_partitions(demand in any_demand(), fleet in any_fleet()) {
        let workers = need(&demand, &fleet, GOAL).for_backlog;
        let partitions = demand.partitions_with_work;
        prop_assert!(workers == 0 || (1..=partitions).any(|k| partitions.div_ceil(k) == workers));
    }
}
