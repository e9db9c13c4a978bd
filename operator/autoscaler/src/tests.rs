//! The decisions as a specification: one observation after the other, with a simulated clock. The
//! numbers in names (`pain_4`) are those of complaints about other autoscalers, which
//! `docs/scaling.md` lists.

use std::{collections::BTreeSet, num::NonZeroU32};

use jiff::Timestamp;
use proptest::prelude::*;

use super::*;

const LEARNED: Learned = Learned {
    pages_per_second: 1.0,
    pages_per_document: 10.0,
    provisioning_seconds: 0.0,
    startup_seconds: 60.0,
    longest_seconds: 30.0,
};

fn unreachable_kafka() -> UnknownBacklog {
    UnknownBacklog::OffsetsNotRead {
        reason: "KafkaUnreachable",
        message: "Kafka at kafka:9092 does not respond".into(),
    }
}

fn policy(floor: u32, max: u32) -> Policy {
    Policy {
        floor,
        max: NonZeroU32::new(max).unwrap(),
        drain_target: SignedDuration::from_secs(600),
        utilization: 0.8,
        activation: None,
        scale_down_delay: Some(SignedDuration::from_secs(60)),
        max_pending: NonZeroU32::new(2).unwrap(),
        fallback: None,
        range_pages: 64.0,
        assumed: LEARNED,
    }
}

/// A pipeline that is observed every two seconds.
struct Scenario {
    policy: Policy,
    memory: Memory,
    now: i64,
    current: u32,
    workers: Vec<Worker>,
    terminating: u32,
    backlog: Result<Backlog, UnknownBacklog>,
}

impl Scenario {
    fn new(policy: Policy, partitions: usize) -> Self {
        Self {
            memory: Memory::new(Some(LEARNED), &policy),
            policy,
            now: 1_000_000,
            current: 0,
            workers: Vec::new(),
            terminating: 0,
            backlog: Ok(Backlog {
                tasks: vec![
                    PartitionOffsets {
                        committed: Some(0),
                        ..PartitionOffsets::default()
                    };
                    partitions
                ],
                ..Backlog::default()
            }),
        }
    }

    fn tasks(&mut self) -> &mut Vec<PartitionOffsets> {
        &mut self.backlog.as_mut().expect("the offsets are known").tasks
    }

    /// Documents arrive, distributed evenly.
    fn send(&mut self, documents: usize) {
        let partitions = self.tasks().len();
        for number in 0..documents {
            self.tasks()[number % partitions].end += 1;
        }
    }

    /// Everything is processed.
    fn finish(&mut self) {
        for offsets in self.tasks() {
            offsets.committed = Some(offsets.end);
        }
    }

    /// `count` workers are ready.
    fn ready(&mut self, count: u32) {
        self.current = count;
        let partitions: BTreeSet<Partition> = (0..64)
            .map(|number| Partition {
                topic: Topic::Tasks,
                number,
            })
            .collect();
        self.workers = (0..count)
            .map(|number| Worker {
                name: format!("worker-{number}"),
                phase: Phase::Ready,
                times: Times::default(),
                counts: Some(Counts {
                    partitions: partitions.clone(),
                    ..Counts::default()
                }),
            })
            .collect();
    }

    /// Every worker processes pages.
    fn work(&mut self, pages: f64, seconds: f64) {
        for worker in &mut self.workers {
            let counts = worker.counts.get_or_insert_default();
            counts.pages += pages;
            counts.busy_seconds += seconds;
        }
    }

    fn phases(&mut self, phases: &[Phase]) {
        self.current = u32::try_from(phases.len()).unwrap();
        self.workers = phases
            .iter()
            .enumerate()
            .map(|(number, phase)| Worker {
                name: format!("worker-{number}"),
                phase: *phase,
                times: Times::default(),
                counts: None,
            })
            .collect();
    }

    fn at(&self, second: i64) -> Timestamp {
        Timestamp::from_second(self.now + second).unwrap()
    }

    /// The decision two seconds after the last one.
    fn decide(&mut self) -> Decision {
        self.now += 2;
        let observation = Observation {
            at: Timestamp::from_second(self.now).unwrap(),
            current: self.current,
            backlog: self.backlog.clone(),
            workers: self.workers.clone(),
            terminating: self.terminating,
        };
        let (decision, memory) = decide(&observation, &self.policy, self.memory.clone());
        self.memory = memory;
        decision
    }

    /// Decides for a number of seconds. New workers are ready at once.
    fn run(&mut self, seconds: i64) -> Decision {
        let end = self.now + seconds;
        loop {
            let decision = self.decide();
            if decision.desired != self.current {
                self.ready(decision.desired);
            }
            if self.now >= end {
                return decision;
            }
        }
    }
}

#[test]
fn partitions_that_cannot_be_read_may_add_workers_and_stop_none() {
    let mut scenario = Scenario::new(policy(0, 4), 4);
    scenario.run(120);
    let unread = |scenario: &mut Scenario, is_unread: bool| {
        let backlog = scenario.backlog.as_mut().unwrap();
        let partition = Partition::of(Topic::Tasks, 3);
        backlog.unread = is_unread
            .then(|| (partition, "no leader".to_owned()))
            .into_iter()
            .collect();
    };
    unread(&mut scenario, true);
    scenario.tasks()[0].end += 100;
    let decision = scenario.decide();
    assert!(decision.desired > 0, "the others have work");

    scenario.ready(2);
    scenario.finish();
    let held = scenario.run(600);
    assert_eq!(
        (held.desired, held.limits),
        (2, vec![Limit::PartitionsUnread])
    );
    unread(&mut scenario, false);
    assert_eq!(scenario.run(120).desired, 0);
}

#[test]
fn the_first_message_starts_one_worker_at_once() {
    let mut scenario = Scenario::new(policy(0, 4), 4);
    scenario.run(120);
    scenario.send(1);
    let decision = scenario.decide();
    assert_eq!((decision.desired, decision.reason), (1, Reason::Draining));
    assert_eq!(
        decision.message,
        "Backlog: 1 document, about 10 pages, the oldest waiting for 0 s. Draining the backlog within 600 s requires 1 worker at 1 pages/s each. Desired: 1 worker."
    );
}

#[test]
fn pain_7_the_first_decision_asks_for_the_full_number() {
    let mut scenario = Scenario::new(policy(0, 8), 16);
    scenario.decide();
    // 3800 pages, of which one worker processes (540 - 60) * 1 in time.
    scenario.send(380);
    assert_eq!(scenario.decide().desired, 8);
}

#[test]
fn pain_4_neither_one_more_than_partitions_nor_one_less_than_max() {
    for (max, partitions) in [(20, 10), (10, 10), (64, 64)] {
        let mut scenario = Scenario::new(policy(0, max), partitions);
        scenario.decide();
        scenario.send(100_000);
        let decision = scenario.decide();
        assert_eq!(
            decision.desired,
            max.min(u32::try_from(partitions).unwrap())
        );
    }
    let mut scenario = Scenario::new(policy(0, 20), 10);
    scenario.send(100_000);
    assert!(scenario.decide().limits.contains(&Limit::Partitions));
    let mut scenario = Scenario::new(policy(0, 5), 10);
    scenario.send(100_000);
    assert!(scenario.decide().limits.contains(&Limit::MaxReplicas));
}

#[test]
fn pain_5_partitions_without_work_require_no_worker() {
    let mut scenario = Scenario::new(policy(0, 20), 20);
    scenario.decide();
    scenario.tasks()[3].end = 10_000;
    scenario.tasks()[7].end = 10_000;
    let decision = scenario.decide();
    assert_eq!(decision.desired, 2);
    assert!(decision.limits.contains(&Limit::PartitionsWithWork));
}

#[test]
fn pain_6_steps_use_partitions_evenly_without_being_divisors() {
    let mut scenario = Scenario::new(policy(0, 7), 7);
    scenario.decide();
    // Requires three workers, which is not a divisor of seven.
    scenario.send(110);
    assert_eq!(scenario.decide().desired, 3);
}

#[test]
fn pain_2_and_3_deleted_and_committed_records_are_not_work() {
    // Retention deleted 900 of 1000 records that were never committed.
    let mut scenario = Scenario::new(policy(0, 8), 1);
    scenario.tasks()[0] = PartitionOffsets {
        log_start: 900,
        end: 1000,
        committed: None,
    };
    let decision = scenario.decide();
    assert_eq!(decision.inputs.documents, Some(100));
    scenario.tasks()[0].committed = Some(1000);
    scenario.ready(1);
    assert_eq!(scenario.run(80).desired, 0, "nothing is left");
}

#[test]
fn pain_10_unknown_offsets_hold_and_never_stop_a_worker() {
    let mut scenario = Scenario::new(policy(0, 8), 8);
    scenario.ready(3);
    scenario.backlog = Err(unreachable_kafka());
    let decision = scenario.run(3600);
    assert_eq!(
        (decision.desired, decision.reason.as_str()),
        (3, "KafkaUnreachable")
    );
    assert_eq!(decision.limits, [Limit::Unknown]);
    assert_eq!(
        decision.message,
        "Kafka at kafka:9092 does not respond. The number of workers is held. Desired: 3 workers."
    );
}

#[test]
fn pain_10_the_fallback_raises_from_zero_and_never_lowers() {
    let mut policy = policy(0, 8);
    policy.fallback = Some(Fallback {
        after: SignedDuration::from_secs(300),
        replicas: 2,
    });
    for (current, desired) in [(0, 2), (5, 5)] {
        let mut scenario = Scenario::new(policy.clone(), 8);
        scenario.ready(current);
        scenario.backlog = Err(unreachable_kafka());
        assert_eq!(scenario.run(290).desired, current);
        let decision = scenario.run(20);
        assert_eq!(
            (decision.desired, decision.limits),
            (desired, vec![Limit::Fallback])
        );
    }
}

#[test]
fn a_rebalancing_group_holds_for_a_while() {
    let mut scenario = Scenario::new(policy(0, 8), 8);
    scenario.ready(2);
    scenario.send(1000);
    scenario.backlog.as_mut().unwrap().rebalancing = true;
    let decision = scenario.decide();
    assert_eq!(
        (decision.desired, decision.reason.as_str()),
        (2, "GroupRebalancing")
    );
    scenario.current = 0;
    assert!(
        scenario.decide().desired > 0,
        "without workers there is no rebalance to wait for"
    );
    scenario.current = 2;
    assert!(
        scenario.run(70).desired > 2,
        "a long rebalance no longer holds"
    );
}

#[test]
fn a_recreated_topic_holds_once_and_is_then_followed() {
    let mut scenario = Scenario::new(policy(0, 8), 2);
    scenario.send(1000);
    scenario.finish();
    scenario.ready(2);
    scenario.decide();
    for offsets in scenario.tasks() {
        *offsets = PartitionOffsets {
            log_start: 0,
            end: 1,
            committed: None,
        };
    }
    let decision = scenario.decide();
    assert_eq!(
        (decision.desired, decision.reason.as_str()),
        (2, "TopicRecreated")
    );
    assert_eq!(scenario.decide().reason, Reason::Draining);
}

#[test]
fn a_committed_offset_past_the_end_holds_and_starts_one_worker() {
    let mut scenario = Scenario::new(policy(0, 8), 1);
    scenario.tasks()[0] = PartitionOffsets {
        log_start: 0,
        end: 3,
        committed: Some(500),
    };
    let decision = scenario.run(10);
    assert_eq!(
        (decision.desired, decision.reason.as_str()),
        (1, "CommittedAheadOfEnd")
    );
    assert_eq!(
        decision.message,
        "Committed offset 500 is past the end offset 3 of partition 0 of the tasks topic: the topic was recreated or truncated. The number of workers is held. Desired: 1 worker."
    );
    // An empty topic needs no worker.
    scenario.tasks()[0].log_start = 3;
    assert_eq!(scenario.run(120).desired, 0);
}

#[test]
fn a_clock_that_was_set_back_holds() {
    let mut scenario = Scenario::new(policy(0, 8), 8);
    scenario.ready(4);
    scenario.run(100);
    scenario.ready(4);
    scenario.now -= 3600;
    let decision = scenario.decide();
    assert_eq!(
        (decision.desired, decision.reason.as_str()),
        (4, "ClockStep")
    );
    assert_eq!(scenario.run(40).desired, 4, "the delay starts again");
}

#[test]
fn a_gap_between_observations_restarts_the_scale_down_delay() {
    let mut scenario = Scenario::new(policy(0, 8), 8);
    scenario.ready(4);
    for _ in 0..25 {
        assert_eq!(scenario.decide().desired, 4);
    }
    scenario.now += 3600;
    assert_eq!(scenario.decide().desired, 4);
}

#[test]
fn workers_stop_after_the_whole_delay_and_not_before() {
    let mut scenario = Scenario::new(policy(0, 8), 8);
    scenario.ready(4);
    let decision = scenario.run(58);
    assert_eq!(
        (decision.desired, decision.limits),
        (4, vec![Limit::ScaleDownDelay])
    );
    let decision = scenario.run(4);
    assert_eq!(decision.desired, 0);
    assert_eq!(
        decision.message,
        "The backlog is empty. Desired: 0 workers."
    );
}

#[test]
fn the_delay_is_derived_from_the_start_up_time() {
    let mut policy = policy(0, 8);
    policy.scale_down_delay = None;
    for (startup_seconds, delay) in [(5.0, 30), (200.0, 200), (2000.0, 240)] {
        let learned = Learned {
            startup_seconds,
            ..LEARNED
        };
        let mut scenario = Scenario::new(policy.clone(), 8);
        scenario.memory = Memory::new(Some(learned), &policy);
        scenario.ready(2);
        assert_eq!(scenario.run(delay - 2).desired, 2, "{startup_seconds}");
        assert_eq!(scenario.run(6).desired, 0, "{startup_seconds}");
    }
}

#[test]
fn no_worker_is_stopped_while_work_is_overdue() {
    let mut scenario = Scenario::new(policy(0, 8), 8);
    scenario.ready(4);
    scenario.send(8);
    for _ in 0..320 {
        scenario.work(2.0, 2.0);
        scenario.decide();
    }
    scenario.work(2.0, 2.0);
    let decision = scenario.decide();
    assert_eq!(decision.desired, 4);
    assert!(
        decision.limits.contains(&Limit::DrainTargetAtRisk),
        "{decision:?}"
    );
}

#[test]
fn no_worker_is_stopped_while_others_are_shutting_down() {
    let mut scenario = Scenario::new(policy(0, 8), 8);
    scenario.ready(4);
    scenario.terminating = 1;
    let decision = scenario.run(200);
    assert_eq!(
        (decision.desired, decision.limits),
        (4, vec![Limit::Settling])
    );
}

#[test]
fn no_worker_is_stopped_while_the_workers_progress_is_unknown() {
    let mut scenario = Scenario::new(policy(0, 8), 8);
    scenario.ready(4);
    scenario.send(1);
    for worker in &mut scenario.workers {
        worker.counts = None;
    }
    for _ in 0..100 {
        scenario.decide();
    }
    let decision = scenario.decide();
    assert_eq!(decision.desired, 4);
    assert!(
        decision.limits.contains(&Limit::MetricsMissing),
        "{decision:?}"
    );
}

#[test]
fn pain_1_a_slow_document_is_not_a_stuck_partition() {
    let mut scenario = Scenario::new(policy(0, 8), 2);
    scenario.ready(1);
    scenario.tasks()[0].end = 1;
    let partition = Partition {
        topic: Topic::Tasks,
        number: 0,
    };
    for worker in &mut scenario.workers {
        worker.counts.as_mut().unwrap().partitions = BTreeSet::from([partition]);
    }
    for _ in 0..2000 {
        scenario.work(0.2, 2.0);
        assert_eq!(scenario.decide().stuck, []);
    }
    // From here on its worker processes nothing.
    for _ in 0..310 {
        scenario.work(0.0, 2.0);
        scenario.decide();
    }
    let decision = scenario.decide();
    assert_eq!(decision.stuck, [partition]);
    assert_eq!(
        decision.desired, 1,
        "a stuck partition still needs a worker"
    );
}

#[test]
fn pain_8_and_14_a_constant_load_changes_nothing() {
    let mut scenario = Scenario::new(policy(0, 8), 8);
    let mut changes = 0;
    for second in 0..3600 {
        // 2.5 pages per second arrive; the workers process as much as they can.
        if second % 4 == 0 {
            scenario.send(1);
        }
        let possible = scenario.current;
        if second % 10 == 0 {
            let mut left = possible;
            for offsets in scenario.tasks() {
                let next = offsets.next();
                if left > 0 && next < offsets.end {
                    offsets.committed = Some(next + 1);
                    left -= 1;
                }
            }
        }
        if second % 2 == 0 {
            let before = scenario.current;
            let counts: Vec<Counts> = scenario
                .workers
                .iter()
                .filter_map(|worker| worker.counts.clone())
                .collect();
            let decision = scenario.decide();
            scenario.now -= 1;
            if decision.desired != before {
                changes += u32::from(second > 600);
                scenario.ready(decision.desired);
                for (worker, old) in scenario.workers.iter_mut().zip(counts) {
                    worker.counts = Some(old);
                }
            }
            scenario.work(2.0, 2.0);
        } else {
            scenario.now += 1;
        }
    }
    assert!(
        changes <= 2,
        "{changes} changes after the first ten minutes"
    );
    assert!((3..=4).contains(&scenario.current), "{}", scenario.current);
}

#[test]
fn pain_14_starting_workers_count_as_future_capacity() {
    let mut scenario = Scenario::new(policy(0, 8), 16);
    scenario.decide();
    scenario.send(120);
    let first = scenario.decide().desired;
    assert_eq!(first, 3);
    let since = scenario.at(0);
    for _ in 0..25 {
        scenario.phases(
            &[Phase::Starting {
                since,
                restarted: false,
            }; 3],
        );
        assert_eq!(scenario.decide().desired, 3);
    }
}

#[test]
fn pain_15_a_long_start_up_is_part_of_the_target() {
    let mut fast = Scenario::new(policy(0, 50), 50);
    let mut slow = Scenario::new(policy(0, 50), 50);
    let learned = Learned {
        startup_seconds: 480.0,
        ..LEARNED
    };
    slow.memory = Memory::new(Some(learned), &slow.policy);
    for scenario in [&mut fast, &mut slow] {
        scenario.decide();
        scenario.send(100);
    }
    assert!(slow.decide().desired > 3 * fast.decide().desired);
}

#[test]
fn pain_16_pending_pods_are_requested_but_are_not_capacity() {
    let mut scenario = Scenario::new(policy(0, 20), 20);
    scenario.decide();
    scenario.send(2000);
    let since = scenario.at(0);
    let mut phases = vec![Phase::Ready; 3];
    phases.extend([Phase::Pending { since }; 7]);
    scenario.phases(&phases);
    let decision = scenario.decide();
    assert_eq!(decision.desired, 20, "the nodes come for all at once");
    assert!(!decision.limits.contains(&Limit::PendingWorkers));
    assert_eq!((decision.inputs.ready, decision.inputs.pending), (3, 7));
    // They do not come for ten minutes.
    scenario.now += 601;
    let decision = scenario.decide();
    assert_eq!(
        decision.desired, 5,
        "three that have a node and two that are pending"
    );
    assert!(decision.limits.contains(&Limit::PendingWorkers));
    // One node comes.
    let mut phases = vec![Phase::Ready; 4];
    phases.push(Phase::Pending { since });
    scenario.phases(&phases);
    assert_eq!(scenario.decide().desired, 8, "four that are pending");
}

#[test]
fn pain_22_an_unanswered_read_changes_neither_number_nor_limits() {
    let mut scenario = Scenario::new(policy(0, 8), 8);
    scenario.ready(2);
    scenario.send(40);
    scenario.decide();
    let before = scenario.decide();
    let backlog = std::mem::replace(&mut scenario.backlog, Err(unreachable_kafka()));
    assert_eq!(scenario.decide().desired, before.desired);
    scenario.backlog = backlog;
    let after = scenario.decide();
    assert_eq!(
        (after.desired, after.limits),
        (before.desired, before.limits)
    );
}

#[test]
fn an_ineffective_scale_up_is_not_repeated() {
    let mut scenario = Scenario::new(policy(0, 16), 32);
    scenario.send(5000);
    scenario.ready(2);
    // Milvus throttles: four workers process the same four pages in two seconds as two.
    for _ in 0..50 {
        scenario.work(2.0, 2.0);
        scenario.decide();
    }
    scenario.ready(4);
    for _ in 0..50 {
        scenario.work(1.0, 2.0);
        scenario.decide();
    }
    let decision = scenario.decide();
    assert_eq!(decision.desired, 4);
    assert!(
        decision.limits.contains(&Limit::IneffectiveScaleUp),
        "{decision:?}"
    );
}

#[test]
fn ranges_of_split_documents_count_in_pages() {
    let mut scenario = Scenario::new(policy(0, 8), 4);
    scenario.backlog.as_mut().unwrap().ranges = vec![PartitionOffsets::default(); 4];
    scenario.decide();
    for offsets in &mut scenario.backlog.as_mut().unwrap().ranges {
        offsets.end = 8;
    }
    let decision = scenario.decide();
    assert_eq!(decision.inputs.pages, Some(2048.0));
    assert_eq!(decision.desired, 4);
}

#[test]
fn the_current_floor_applies() {
    let mut scenario = Scenario::new(policy(3, 8), 8);
    let decision = scenario.decide();
    assert_eq!((decision.desired, decision.limits), (3, vec![Limit::Floor]));
}

#[test]
fn a_lower_maximum_applies_at_once() {
    let mut scenario = Scenario::new(policy(0, 4), 16);
    scenario.send(10_000);
    scenario.ready(8);
    assert_eq!(scenario.decide().desired, 4);
}

prop_compose! {
    fn any_policy()(
        floor in 0..6u32, more in 0..6u32, target in 10..2000i64, delay in 0..100i64,
        pending in 1..4u32,
    ) -> Policy {
        Policy {
            floor,
            max: NonZeroU32::new((floor + more).max(1)).unwrap(),
            drain_target: SignedDuration::from_secs(target),
            scale_down_delay: Some(SignedDuration::from_secs(delay)),
            max_pending: NonZeroU32::new(pending).unwrap(),
            ..policy(0, 1)
        }
    }
}

proptest! {
    #[test]
    fn bounds_are_never_exceeded(
        policy in any_policy(),
        partitions in 1..8usize,
        sends in proptest::collection::vec(proptest::option::of(0..200usize), 1..60),
        current in 0..20u32,
    ) {
        let mut scenario = Scenario::new(policy.clone(), partitions);
        scenario.ready(current);
        for send in sends {
            match send {
                Some(0) => scenario.finish(),
                Some(documents) => scenario.send(documents),
                None => {}
            }
            let decision = scenario.decide();
            let ceiling = policy.max.get().min(u32::try_from(partitions).unwrap());
            prop_assert!(decision.desired <= ceiling);
            prop_assert!(decision.desired >= policy.floor.min(ceiling));
            scenario.ready(decision.desired);
        }
    }

    #[test]
    fn more_lag_never_means_fewer_workers(
        policy in any_policy(), few in 0..2_000usize, more in 0..2_000usize, current in 0..6u32,
    ) {
        let decide = |documents| {
            let mut scenario = Scenario::new(policy.clone(), 6);
            scenario.decide();
            scenario.send(documents);
            scenario.ready(current);
            scenario.decide().desired
        };
        prop_assert!(decide(few) <= decide(few + more));
    }

    #[test]
    fn an_unknown_backlog_never_lowers_the_number(
        policy in any_policy(), sends in proptest::collection::vec(0..50usize, 0..40),
    ) {
        let mut scenario = Scenario::new(policy.clone(), 6);
        for documents in sends {
            scenario.send(documents);
            scenario.run(2);
        }
        scenario.backlog = Err(unreachable_kafka());
        let current = scenario.current.max(policy.floor.min(6));
        prop_assert_eq!(scenario.run(600).desired, current);
    }

    #[test]
    fn a_backlog_always_has_at_least_one_worker(policy in any_policy(), documents in 1..2_000usize) {
        let mut scenario = Scenario::new(policy, 6);
        scenario.send(documents);
        prop_assert!(scenario.decide().desired >= 1);
    }

    /// With the workers that the law requires, at the speed that it assumes, a backlog is drained
    /// within the target whenever the limits allow it.
    #[test]
    fn the_drain_target_is_met_when_the_limits_allow_it(
        documents in 1..3_000usize, startup in 1.0..200.0f64,
    ) {
        let mut policy = policy(0, 64);
        policy.max_pending = NonZeroU32::new(64).unwrap();
        let learned = Learned { startup_seconds: startup, ..LEARNED };
        let mut scenario = Scenario::new(policy.clone(), 64);
        scenario.memory = Memory::new(Some(learned), &policy);
        scenario.decide();
        scenario.send(documents);
        let decision = scenario.decide();
        let terms = decision.terms.unwrap();
        let bounded = [Limit::Partitions, Limit::PartitionsWithWork, Limit::MaxReplicas];
        if !decision.limits.iter().any(|limit| bounded.contains(limit)) {
            let pages = documents as f64 * LEARNED.pages_per_document;
            let effective = law::effective_workers(terms.for_backlog, decision.inputs.partitions_with_work.unwrap());
            let seconds = startup + pages / effective / LEARNED.pages_per_second;
            prop_assert!(seconds <= 600.0, "{seconds} s with {} workers", terms.for_backlog);
        }
    }
}

#[path = "outage_tests.rs"]
mod outages;
