//! Outages of stores, workers and nodes that never come, and rechecks.

use super::*;

impl Scenario {
    /// Every worker waits for MongoDB, whether it is ready or not.
    fn stores_away(&mut self) {
        for worker in &mut self.workers {
            let counts = worker.counts.get_or_insert_default();
            counts.waiting_for = vec!["mongodb".into()];
        }
    }

    fn open_rechecks(&mut self, open: u64) {
        for worker in &mut self.workers {
            worker.counts.get_or_insert_default().open_rechecks = Some(open);
        }
    }
}

#[test]
fn an_outage_of_a_store_holds_and_stops_no_partition() {
    let mut scenario = Scenario::new(policy(0, 8), 8);
    scenario.ready(2);
    scenario.send(20);
    scenario.decide();
    scenario.stores_away();
    // Far more work than two workers can do in time, and for half an hour nothing is committed.
    scenario.send(5000);
    for _ in 0..900 {
        let decision = scenario.decide();
        assert_eq!(
            (decision.desired, &decision.limits[..]),
            (2, &[Limit::StoresAway][..])
        );
        assert_eq!(decision.stuck, []);
        assert_eq!(decision.waiting_for, ["mongodb"]);
    }
    let decision = scenario.decide();
    assert!(
        (decision.outage_seconds - 1800.0).abs() < 1.0,
        "{decision:?}"
    );
    assert!(
        decision.message.contains("Every worker waits for a server"),
        "{}",
        decision.message
    );
    // It ends.
    scenario.ready(2);
    assert_eq!(scenario.decide().desired, 8);
}

#[test]
fn workers_that_wait_for_a_quota_are_no_reason_for_more_and_one_is_enough() {
    let mut scenario = Scenario::new(policy(0, 8), 8);
    scenario.ready(4);
    scenario.send(400);
    scenario.decide();
    for worker in &mut scenario.workers {
        worker.counts.get_or_insert_default().waiting_for = vec![QUOTA.into()];
    }
    scenario.send(5000);
    // One of them finishes a document.
    let last = scenario.workers.last_mut().unwrap();
    let counts = last.counts.as_mut().unwrap();
    (counts.waiting_for, counts.held_by_quota) = (Vec::new(), true);
    assert_eq!(scenario.decide().desired, 4, "no room for others");
    let last = scenario.workers.last_mut().unwrap();
    last.counts.as_mut().unwrap().waiting_for = vec![QUOTA.into()];
    let decision = scenario.decide();
    assert_eq!(
        (decision.desired, &decision.limits[..]),
        (4, &[Limit::QuotaReached][..]),
        "room may come soon"
    );
    assert!(decision.outage_seconds.abs() < f64::EPSILON);
    // Also a single one gets no other worker, however long it takes.
    let mut last = decision;
    for _ in 0..900 {
        last = scenario.decide();
        assert!(last.desired <= 4, "{last:?}");
        assert_eq!(last.stuck, []);
    }
    assert_eq!((last.desired, last.limits), (1, vec![Limit::QuotaReached]));
    // There is room.
    scenario.ready(1);
    assert!(scenario.decide().desired > 1);
}

#[test]
fn workers_that_lost_their_readiness_are_an_outage_even_if_they_cannot_say_so() {
    let mut scenario = Scenario::new(policy(0, 8), 8);
    scenario.send(5000);
    let since = scenario.at(0);
    let starting = Phase::Starting {
        since,
        restarted: false,
    };
    scenario.phases(&[Phase::Waiting { since }, starting]);
    let decision = scenario.decide();
    assert_eq!(
        (decision.desired, decision.limits),
        (2, vec![Limit::StoresAway])
    );
    // Some work: this is not an outage of a store.
    scenario.phases(&[Phase::Waiting { since }, Phase::Ready]);
    assert_eq!(scenario.decide().desired, 8);
}

#[test]
fn workers_that_return_one_by_one_after_an_outage_are_not_replaced() {
    let mut scenario = Scenario::new(policy(0, 8), 8);
    scenario.decide();
    // Requires four.
    scenario.send(160);
    let waiting = Phase::Waiting {
        since: scenario.at(-1000),
    };
    scenario.phases(&[waiting; 4]);
    assert_eq!(scenario.decide().limits, [Limit::StoresAway]);
    for returned in 1..4 {
        let mut phases = [waiting; 4];
        phases[..returned].fill(Phase::Ready);
        scenario.phases(&phases);
        let decision = scenario.decide();
        assert_eq!(decision.desired, 4, "{returned}: {decision:?}");
    }
    // The last one does not return.
    for _ in 0..95 {
        scenario.decide();
    }
    assert!(scenario.decide().desired > 4);
}

#[test]
fn a_scheduled_floor_applies_in_an_outage() {
    let mut scenario = Scenario::new(policy(4, 8), 8);
    scenario.ready(2);
    scenario.send(20);
    scenario.stores_away();
    assert_eq!(scenario.decide().desired, 4);
}

#[test]
fn a_worker_on_a_broken_node_is_replaced() {
    let mut scenario = Scenario::new(policy(0, 8), 8);
    scenario.decide();
    scenario.send(120);
    let required = scenario.decide().desired;
    assert_eq!(required, 3);
    let since = scenario.at(-1000);
    let lost = Phase::Starting {
        since,
        restarted: true,
    };
    scenario.phases(&[Phase::Ready, Phase::Ready, lost]);
    assert_eq!(scenario.decide().desired, 4, "three that work");
    // Nobody works: a single other one shows whether it is the node, and no more follow.
    for lost_workers in [3, 4] {
        scenario.phases(&[lost].repeat(lost_workers));
        assert_eq!(scenario.decide().desired, 4, "{lost_workers}");
    }
}

/// The most common fleet.
#[test]
fn a_single_worker_on_a_broken_node_gets_a_second_one() {
    let mut scenario = Scenario::new(policy(0, 8), 8);
    scenario.decide();
    scenario.send(1);
    let since = scenario.at(0);
    let starting = Phase::Starting {
        since,
        restarted: false,
    };
    scenario.phases(&[starting]);
    let mut decision = scenario.decide();
    for _ in 0..298 {
        assert_eq!(decision.desired, 1, "{decision:?}");
        decision = scenario.decide();
    }
    for _ in 0..5 {
        decision = scenario.decide();
    }
    assert_eq!(decision.desired, 2, "{decision:?}");
    scenario.phases(&[starting; 2]);
    for _ in 0..600 {
        assert_eq!(scenario.decide().desired, 2);
    }
}

/// Its node has lost the network, or the store is away: in both cases it waits.
#[test]
fn a_single_worker_that_waits_for_ten_minutes_gets_one_other() {
    let mut scenario = Scenario::new(policy(0, 8), 8);
    scenario.ready(1);
    scenario.send(500);
    scenario.stores_away();
    for _ in 0..301 {
        assert_eq!(scenario.decide().desired, 1);
    }
    let decision = scenario.decide();
    assert_eq!(
        (decision.desired, decision.limits),
        (2, vec![Limit::StoresAway])
    );
    // The second one waits, too: it was the store.
    scenario.ready(2);
    scenario.stores_away();
    for _ in 0..600 {
        assert_eq!(scenario.decide().desired, 2);
    }
}

/// `/readyz` fails while one message is retried.
#[test]
fn an_unready_worker_that_works_is_no_outage() {
    let mut scenario = Scenario::new(policy(0, 8), 8);
    scenario.ready(2);
    scenario.send(5000);
    let since = scenario.at(-1000);
    for worker in &mut scenario.workers {
        worker.phase = Phase::Waiting { since };
        worker.counts.get_or_insert_default().in_flight = 3;
    }
    let decision = scenario.decide();
    assert_eq!(
        (decision.desired, decision.limits),
        (8, vec![Limit::Partitions])
    );
    scenario.stores_away();
    assert_eq!(scenario.decide().limits, [Limit::StoresAway]);
}

/// The operator was away for ten minutes, or the clock was set back.
#[test]
fn the_time_of_a_gap_is_no_outage() {
    for gap in [600, -600] {
        let mut scenario = Scenario::new(policy(0, 8), 8);
        scenario.ready(2);
        scenario.send(20);
        scenario.stores_away();
        scenario.workers[0].counts = None;
        for _ in 0..20 {
            scenario.decide();
        }
        scenario.now += gap;
        scenario.decide();
        scenario.stores_away();
        let decision = scenario.decide();
        assert!(decision.outage_seconds < 3.0, "{gap}: {decision:?}");
        assert_eq!(decision.unmeasured, 0, "{gap}");
    }
}

#[test]
fn rechecks_keep_one_worker_and_wake_one() {
    let mut scenario = Scenario::new(policy(0, 8), 8);
    scenario.ready(3);
    scenario.open_rechecks(2);
    let mut decision = scenario.decide();
    for _ in 0..60 {
        decision = scenario.decide();
    }
    assert_eq!(
        (decision.desired, decision.reason.as_str()),
        (1, "Rechecking")
    );
    assert_eq!(
        decision.message,
        "The backlog is empty. 2 documents have a recheck within 15 minutes, which requires 1 worker. Desired: 1 worker."
    );
    // The worker is gone, and the operator restarts: a worker starts again.
    scenario.phases(&[]);
    scenario.memory = Memory::new(Some(LEARNED), &scenario.policy)
        .with_open_rechecks(scenario.memory.open_rechecks());
    assert_eq!(scenario.decide().desired, 1);
    scenario.ready(1);
    let decision = scenario.run(300);
    assert_eq!(
        (decision.desired, decision.open_rechecks),
        (1, 2),
        "it has not counted them yet"
    );
    scenario.open_rechecks(0);
    assert_eq!(scenario.decide().open_rechecks, 0);
    assert_eq!(scenario.run(80).desired, 0);
}

#[test]
fn ready_workers_that_cannot_be_read_for_a_minute_are_counted() {
    let mut scenario = Scenario::new(policy(0, 8), 8);
    scenario.phases(&[Phase::Ready; 2]);
    for _ in 0..30 {
        assert_eq!(scenario.decide().unmeasured, 0);
    }
    assert_eq!(scenario.decide().unmeasured, 2);
    scenario.workers[0].counts = Some(Counts::default());
    assert_eq!(scenario.decide().unmeasured, 1);
}

#[test]
fn the_time_of_nodes_is_part_of_the_target() {
    let nodes = |provisioning_seconds| {
        let policy = policy(0, 50);
        let learned = Learned {
            provisioning_seconds,
            ..LEARNED
        };
        let mut scenario = Scenario::new(policy.clone(), 50);
        scenario.memory = Memory::new(Some(learned), &policy);
        scenario.decide();
        scenario.send(100);
        scenario.decide().desired
    };
    assert!(nodes(420.0) > 3 * nodes(0.0));
}

#[test]
fn no_fewer_than_the_floor_are_pending() {
    let mut scenario = Scenario::new(policy(6, 8), 8);
    let since = scenario.at(-2000);
    scenario.phases(&[Phase::Pending { since }; 6]);
    assert_eq!(scenario.decide().desired, 6);
}

fn any_phase() -> impl Strategy<Value = Phase> {
    (0..5u8, 0..4000i64).prop_map(|(kind, age)| {
        let since = Timestamp::from_second(1_000_000 - age).unwrap();
        match kind {
            0 => Phase::Pending { since },
            1 => Phase::Starting {
                since,
                restarted: false,
            },
            2 => Phase::Starting {
                since,
                restarted: true,
            },
            3 => Phase::Waiting { since },
            _ => Phase::Ready,
        }
    })
}

proptest! {
    /// Whatever the workers' phases and the backlog, as long as all that have started wait.
    #[test]
    fn an_outage_never_raises_the_number(
        policy in any_policy(),
        phases in proptest::collection::vec(any_phase(), 1..12),
        sends in proptest::collection::vec(1..500usize, 1..60),
    ) {
        let mut scenario = Scenario::new(policy.clone(), 6);
        let since = scenario.at(-10);
        let phases: Vec<Phase> = phases
            .into_iter()
            .map(|phase| if phase == Phase::Ready { Phase::Waiting { since } } else { phase })
            .chain([Phase::Waiting { since }])
            .collect();
        scenario.phases(&phases);
        let current = scenario.current;
        for documents in sends {
            scenario.send(documents);
            let decision = scenario.decide();
            prop_assert!(decision.desired <= current.max(policy.floor.min(6)), "{decision:?}");
        }
    }

    #[test]
    fn what_is_learned_survives_any_outage(
        speed in 0.05..20.0f64, away in 1..100u32, unready in proptest::bool::ANY,
    ) {
        let mut scenario = Scenario::new(policy(0, 8), 8);
        scenario.ready(2);
        scenario.decide();
        for _ in 0..100 {
            scenario.work(2.0 * speed, 2.0);
            scenario.decide();
        }
        let before = scenario.decide().learned.pages_per_second;
        scenario.stores_away();
        if unready {
            let since = scenario.at(0);
            for worker in &mut scenario.workers {
                worker.phase = Phase::Waiting { since };
            }
        }
        for _ in 0..away {
            scenario.work(0.0, 2.0);
            scenario.decide();
        }
        let after = scenario.decide().learned.pages_per_second;
        prop_assert!((before - after).abs() < 1e-9, "{before} {after}");
    }

    #[test]
    fn more_backlog_never_asks_for_fewer_whatever_the_workers_do(
        policy in any_policy(),
        phases in proptest::collection::vec(any_phase(), 0..8),
        few in 1..2_000usize,
        more in 0..2_000usize,
    ) {
        let decide = |documents| {
            let mut scenario = Scenario::new(policy.clone(), 6);
            scenario.decide();
            scenario.send(documents);
            scenario.phases(&phases);
            scenario.decide().desired
        };
        prop_assert!(decide(few) <= decide(few + more));
    }

    /// Taking away the workers that never come does not change what the law requires, while others
    /// work.
    #[test]
    fn what_never_comes_is_no_capacity(
        phases in proptest::collection::vec(any_phase(), 0..8), documents in 1..2_000usize,
    ) {
        let phases = [&phases[..], &[Phase::Ready]].concat();
        let now = Timestamp::from_second(1_000_004).unwrap();
        let never = |phase: &Phase| match phase {
            Phase::Pending { since } => now.duration_since(*since).as_secs() > 600,
            Phase::Starting { since, restarted } => {
                *restarted || now.duration_since(*since).as_secs() > 180
            }
            Phase::Waiting { since } => now.duration_since(*since).as_secs() > 180,
            Phase::Ready => false,
        };
        let required = |phases: &[Phase]| {
            let mut scenario = Scenario::new(policy(0, 8), 8);
            scenario.now = 1_000_000;
            scenario.decide();
            scenario.send(documents);
            scenario.phases(phases);
            let terms = scenario.decide().terms.unwrap();
            (terms.for_arrivals, terms.for_backlog)
        };
        let others: Vec<Phase> = phases.iter().filter(|phase| !never(phase)).copied().collect();
        prop_assert_eq!(required(&phases), required(&others));
    }
}
