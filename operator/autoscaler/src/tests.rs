//! The decisions as a specification: one look after the other, with a clock of their own. The
//! numbers in names (`pain_4`) are those of the complaints that users of other autoscalers have
//! filed; `docs/scaling.md` lists them.

use std::{collections::BTreeSet, num::NonZeroU32};

use jiff::Timestamp;
use proptest::prelude::*;

use super::*;

const LEARNED: Learned = Learned {
    pages_per_second: 1.0,
    pages_per_document: 10.0,
    startup_seconds: 60.0,
    longest_seconds: 30.0,
};

fn policy(floor: u32, max: u32) -> Policy {
    Policy {
        floor,
        max: NonZeroU32::new(max).unwrap(),
        drain_target: SignedDuration::from_secs(600),
        utilization: 0.8,
        scale_down_delay: Some(SignedDuration::from_secs(60)),
        max_pending: NonZeroU32::new(2).unwrap(),
        fallback: None,
        range_pages: 64.0,
        assumed: LEARNED,
    }
}

/// A pipeline that is looked at every two seconds.
struct Stage {
    policy: Policy,
    memory: Memory,
    now: i64,
    current: u32,
    workers: Vec<Worker>,
    leaving: u32,
    backlog: Result<Backlog, Blind>,
}

impl Stage {
    fn new(policy: Policy, partitions: usize) -> Self {
        Self {
            memory: Memory::new(Some(LEARNED), &policy),
            policy,
            now: 1_000_000,
            current: 0,
            workers: Vec::new(),
            leaving: 0,
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

    /// Documents arrive, spread evenly.
    fn send(&mut self, documents: usize) {
        let partitions = self.tasks().len();
        for number in 0..documents {
            self.tasks()[number % partitions].end += 1;
        }
    }

    /// Everything is done.
    fn finish(&mut self) {
        for offsets in self.tasks() {
            offsets.committed = Some(offsets.end);
        }
    }

    /// So many workers work.
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
                phase: Phase::Ready { started_in: None },
                counts: Some(Counts {
                    partitions: partitions.clone(),
                    ..Counts::default()
                }),
            })
            .collect();
    }

    /// Every worker gets pages done.
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
                counts: None,
            })
            .collect();
    }

    fn at(&self, second: i64) -> Timestamp {
        Timestamp::from_second(self.now + second).unwrap()
    }

    /// One look, two seconds after the last one.
    fn look(&mut self) -> Decision {
        self.now += 2;
        let observation = Observation {
            at: Timestamp::from_second(self.now).unwrap(),
            current: self.current,
            backlog: self.backlog.clone(),
            workers: self.workers.clone(),
            leaving: self.leaving,
        };
        let (decision, memory) = decide(&observation, &self.policy, self.memory.clone());
        self.memory = memory;
        decision
    }

    /// Looks for so many seconds, and follows every decision with workers that work at once.
    fn follow(&mut self, seconds: i64) -> Decision {
        let end = self.now + seconds;
        loop {
            let decision = self.look();
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
fn the_first_message_wakes_one_worker_at_once() {
    let mut stage = Stage::new(policy(0, 4), 4);
    stage.follow(120);
    stage.send(1);
    let decision = stage.look();
    assert_eq!((decision.desired, decision.reason), (1, "Draining"));
    assert_eq!(
        decision.message,
        "1 document waits, about 10 pages, the oldest for 0 s; to get it done within 600 s takes 1 worker at 1 pages/s each: 1 worker."
    );
}

#[test]
fn pain_7_the_full_number_is_asked_for_with_the_first_look() {
    let mut stage = Stage::new(policy(0, 8), 16);
    stage.look();
    // 3800 pages; a worker does (540 - 60) * 1 of them in time.
    stage.send(380);
    assert_eq!(stage.look().desired, 8);
}

#[test]
fn pain_4_neither_one_more_than_partitions_nor_one_less_than_max() {
    for (max, partitions) in [(20, 10), (10, 10), (64, 64)] {
        let mut stage = Stage::new(policy(0, max), partitions);
        stage.look();
        stage.send(100_000);
        let decision = stage.look();
        assert_eq!(
            decision.desired,
            max.min(u32::try_from(partitions).unwrap())
        );
    }
    let mut stage = Stage::new(policy(0, 20), 10);
    stage.send(100_000);
    assert!(stage.look().limits.contains(&Limit::Partitions));
    let mut stage = Stage::new(policy(0, 5), 10);
    stage.send(100_000);
    assert!(stage.look().limits.contains(&Limit::MaxReplicas));
}

#[test]
fn pain_5_partitions_without_work_ask_for_nobody() {
    let mut stage = Stage::new(policy(0, 20), 20);
    stage.look();
    stage.tasks()[3].end = 10_000;
    stage.tasks()[7].end = 10_000;
    let decision = stage.look();
    assert_eq!(decision.desired, 2);
    assert!(decision.limits.contains(&Limit::PartitionsWithWork));
}

#[test]
fn pain_6_steps_use_partitions_evenly_without_being_divisors() {
    let mut stage = Stage::new(policy(0, 7), 7);
    stage.look();
    // Needs three of seven, which no divisor of seven offers.
    stage.send(110);
    assert_eq!(stage.look().desired, 3);
}

#[test]
fn pain_2_and_3_offsets_count_from_what_is_there_and_to_what_is_committed() {
    // Retention deleted 900 of 1000 records that nobody committed.
    let mut stage = Stage::new(policy(0, 8), 1);
    stage.tasks()[0] = PartitionOffsets {
        log_start: 900,
        end: 1000,
        committed: None,
    };
    let decision = stage.look();
    assert_eq!(decision.inputs.documents, Some(100));
    stage.tasks()[0].committed = Some(1000);
    stage.ready(1);
    assert_eq!(stage.follow(80).desired, 0, "nothing is left");
}

#[test]
fn pain_10_unknown_offsets_hold_and_never_stop_a_worker() {
    let mut stage = Stage::new(policy(0, 8), 8);
    stage.ready(3);
    stage.backlog = Err(Blind {
        reason: "KafkaUnreachable",
        message: "Kafka at kafka:9092 does not answer".into(),
    });
    let decision = stage.follow(3600);
    assert_eq!((decision.desired, decision.reason), (3, "KafkaUnreachable"));
    assert_eq!(decision.limits, [Limit::Unknown]);
    assert_eq!(
        decision.message,
        "Kafka at kafka:9092 does not answer; the workers stay as they are: 3 workers."
    );
}

#[test]
fn pain_10_the_fallback_lifts_from_zero_and_lowers_nobody() {
    let mut policy = policy(0, 8);
    policy.fallback = Some(Fallback {
        after: SignedDuration::from_secs(300),
        replicas: 2,
    });
    for (current, desired) in [(0, 2), (5, 5)] {
        let mut stage = Stage::new(policy.clone(), 8);
        stage.ready(current);
        stage.backlog = Err(Blind {
            reason: "KafkaUnreachable",
            message: String::new(),
        });
        assert_eq!(stage.follow(290).desired, current);
        let decision = stage.follow(20);
        assert_eq!(
            (decision.desired, decision.limits),
            (desired, vec![Limit::Fallback])
        );
    }
}

#[test]
fn a_group_that_hands_partitions_over_holds_for_a_while() {
    let mut stage = Stage::new(policy(0, 8), 8);
    stage.ready(2);
    stage.send(1000);
    stage.backlog.as_mut().unwrap().rebalancing = true;
    let decision = stage.look();
    assert_eq!((decision.desired, decision.reason), (2, "GroupRebalancing"));
    stage.current = 0;
    assert!(stage.look().desired > 0, "nobody there to be disturbed");
    stage.current = 2;
    assert!(stage.follow(70).desired > 2, "not for ever");
}

#[test]
fn a_topic_that_was_made_anew_holds_and_is_looked_at_again() {
    let mut stage = Stage::new(policy(0, 8), 2);
    stage.send(1000);
    stage.finish();
    stage.ready(2);
    stage.look();
    for offsets in stage.tasks() {
        *offsets = PartitionOffsets {
            log_start: 0,
            end: 1,
            committed: None,
        };
    }
    let decision = stage.look();
    assert_eq!((decision.desired, decision.reason), (2, "TopicRecreated"));
    assert_eq!(stage.look().reason, "Draining");
}

#[test]
fn a_position_behind_the_end_holds_and_wakes_one_worker_that_finds_out() {
    let mut stage = Stage::new(policy(0, 8), 1);
    stage.tasks()[0] = PartitionOffsets {
        log_start: 0,
        end: 3,
        committed: Some(500),
    };
    let decision = stage.follow(10);
    assert_eq!(
        (decision.desired, decision.reason),
        (1, "CommittedAheadOfEnd")
    );
    // An empty topic has nothing to find.
    stage.tasks()[0].log_start = 3;
    assert_eq!(stage.follow(120).desired, 0);
}

#[test]
fn a_clock_that_was_set_back_holds() {
    let mut stage = Stage::new(policy(0, 8), 8);
    stage.ready(4);
    stage.follow(100);
    stage.ready(4);
    stage.now -= 3600;
    let decision = stage.look();
    assert_eq!((decision.desired, decision.reason), (4, "ClockStep"));
    assert_eq!(stage.follow(40).desired, 4, "the delay begins anew");
}

#[test]
fn a_gap_in_the_looks_starts_the_scale_down_delay_again() {
    let mut stage = Stage::new(policy(0, 8), 8);
    stage.ready(4);
    for _ in 0..25 {
        assert_eq!(stage.look().desired, 4);
    }
    stage.now += 3600;
    assert_eq!(stage.look().desired, 4);
}

#[test]
fn workers_stop_after_the_whole_delay_and_not_before() {
    let mut stage = Stage::new(policy(0, 8), 8);
    stage.ready(4);
    let decision = stage.follow(58);
    assert_eq!(
        (decision.desired, decision.limits),
        (4, vec![Limit::ScaleDownDelay])
    );
    let decision = stage.follow(4);
    assert_eq!(decision.desired, 0);
    assert_eq!(decision.message, "Nothing waits: 0 workers.");
}

#[test]
fn the_delay_follows_from_the_time_of_a_start() {
    let mut policy = policy(0, 8);
    policy.scale_down_delay = None;
    for (startup_seconds, delay) in [(5.0, 30), (200.0, 200), (2000.0, 240)] {
        let learned = Learned {
            startup_seconds,
            ..LEARNED
        };
        let mut stage = Stage::new(policy.clone(), 8);
        stage.memory = Memory::new(Some(learned), &policy);
        stage.ready(2);
        assert_eq!(stage.follow(delay - 2).desired, 2, "{startup_seconds}");
        assert_eq!(stage.follow(6).desired, 0, "{startup_seconds}");
    }
}

#[test]
fn no_worker_is_stopped_while_work_is_overdue() {
    let mut stage = Stage::new(policy(0, 8), 8);
    stage.ready(4);
    stage.send(8);
    for _ in 0..320 {
        stage.work(2.0, 2.0);
        stage.look();
    }
    stage.work(2.0, 2.0);
    let decision = stage.look();
    assert_eq!(decision.desired, 4);
    assert!(
        decision.limits.contains(&Limit::DrainTargetAtRisk),
        "{decision:?}"
    );
}

#[test]
fn no_worker_is_stopped_while_others_are_leaving() {
    let mut stage = Stage::new(policy(0, 8), 8);
    stage.ready(4);
    stage.leaving = 1;
    let decision = stage.follow(200);
    assert_eq!(
        (decision.desired, decision.limits),
        (4, vec![Limit::Settling])
    );
}

#[test]
fn no_worker_is_stopped_while_nobody_knows_what_they_do() {
    let mut stage = Stage::new(policy(0, 8), 8);
    stage.ready(4);
    stage.send(1);
    for worker in &mut stage.workers {
        worker.counts = None;
    }
    for _ in 0..100 {
        stage.look();
    }
    let decision = stage.look();
    assert_eq!(decision.desired, 4);
    assert!(
        decision.limits.contains(&Limit::MetricsMissing),
        "{decision:?}"
    );
}

#[test]
fn pain_1_a_slow_document_is_not_taken_for_a_stuck_partition() {
    let mut stage = Stage::new(policy(0, 8), 2);
    stage.ready(1);
    stage.tasks()[0].end = 1;
    let partition = Partition {
        topic: Topic::Tasks,
        number: 0,
    };
    for worker in &mut stage.workers {
        worker.counts.as_mut().unwrap().partitions = BTreeSet::from([partition]);
    }
    for _ in 0..2000 {
        stage.work(0.2, 2.0);
        assert_eq!(stage.look().stuck, []);
    }
    // Now its worker gets nothing done any more.
    for _ in 0..310 {
        stage.work(0.0, 2.0);
        stage.look();
    }
    let decision = stage.look();
    assert_eq!(decision.stuck, [partition]);
    assert_eq!(decision.desired, 1, "somebody has to be there for it");
}

#[test]
fn pain_8_and_14_a_constant_load_moves_nothing() {
    let mut stage = Stage::new(policy(0, 8), 8);
    let mut changes = 0;
    for second in 0..3600 {
        // 2.5 pages a second arrive; the workers do what they can.
        if second % 4 == 0 {
            stage.send(1);
        }
        let possible = stage.current;
        if second % 10 == 0 {
            let mut left = possible;
            for offsets in stage.tasks() {
                let next = offsets.next();
                if left > 0 && next < offsets.end {
                    offsets.committed = Some(next + 1);
                    left -= 1;
                }
            }
        }
        if second % 2 == 0 {
            let before = stage.current;
            let counts: Vec<Counts> = stage
                .workers
                .iter()
                .filter_map(|worker| worker.counts.clone())
                .collect();
            let decision = stage.look();
            stage.now -= 1;
            if decision.desired != before {
                changes += u32::from(second > 600);
                stage.ready(decision.desired);
                for (worker, old) in stage.workers.iter_mut().zip(counts) {
                    worker.counts = Some(old);
                }
            }
            stage.work(2.0, 2.0);
        } else {
            stage.now += 1;
        }
    }
    assert!(
        changes <= 2,
        "{changes} changes after the first ten minutes"
    );
    assert!((3..=4).contains(&stage.current), "{}", stage.current);
}

#[test]
fn pain_14_workers_that_start_are_capacity_to_come() {
    let mut stage = Stage::new(policy(0, 8), 16);
    stage.look();
    stage.send(120);
    let first = stage.look().desired;
    assert_eq!(first, 3);
    let since = stage.at(0);
    for _ in 0..25 {
        stage.phases(&[Phase::Starting { since }; 3]);
        assert_eq!(stage.look().desired, 3);
    }
}

#[test]
fn pain_15_a_long_start_is_part_of_the_target() {
    let mut fast = Stage::new(policy(0, 50), 50);
    let mut slow = Stage::new(policy(0, 50), 50);
    let learned = Learned {
        startup_seconds: 480.0,
        ..LEARNED
    };
    slow.memory = Memory::new(Some(learned), &slow.policy);
    for stage in [&mut fast, &mut slow] {
        stage.look();
        stage.send(100);
    }
    assert!(slow.look().desired > 3 * fast.look().desired);
}

#[test]
fn pain_16_pods_that_wait_for_a_gpu_are_asked_for_but_no_capacity() {
    let mut stage = Stage::new(policy(0, 20), 20);
    stage.look();
    stage.send(2000);
    let since = stage.at(0);
    let mut phases = vec![Phase::Ready { started_in: None }; 3];
    phases.extend([Phase::Waiting { since }; 2]);
    stage.phases(&phases);
    let decision = stage.look();
    assert_eq!(
        decision.desired, 5,
        "three that have a node and two that wait"
    );
    assert!(decision.limits.contains(&Limit::PendingWorkers));
    assert_eq!((decision.inputs.ready, decision.inputs.waiting), (3, 2));
    // Ten were asked for before anybody knew: the others are taken back.
    phases.extend([Phase::Waiting { since }; 5]);
    stage.phases(&phases);
    assert_eq!(stage.look().desired, 5);
}

#[test]
fn pain_22_a_gap_in_the_offsets_changes_neither_number_nor_limits_afterwards() {
    let mut stage = Stage::new(policy(0, 8), 8);
    stage.ready(2);
    stage.send(40);
    stage.look();
    let before = stage.look();
    let backlog = std::mem::replace(
        &mut stage.backlog,
        Err(Blind {
            reason: "KafkaUnreachable",
            message: String::new(),
        }),
    );
    assert_eq!(stage.look().desired, before.desired);
    stage.backlog = backlog;
    let after = stage.look();
    assert_eq!(
        (after.desired, after.limits),
        (before.desired, before.limits)
    );
}

#[test]
fn a_scale_up_that_brought_nothing_is_not_repeated() {
    let mut stage = Stage::new(policy(0, 16), 32);
    stage.send(5000);
    stage.ready(2);
    // Milvus throttles: two workers do four pages in two seconds, and so do four.
    for _ in 0..50 {
        stage.work(2.0, 2.0);
        stage.look();
    }
    stage.ready(4);
    for _ in 0..50 {
        stage.work(1.0, 2.0);
        stage.look();
    }
    let decision = stage.look();
    assert_eq!(decision.desired, 4);
    assert!(
        decision.limits.contains(&Limit::IneffectiveScaleUp),
        "{decision:?}"
    );
}

#[test]
fn ranges_of_split_documents_count_in_pages() {
    let mut stage = Stage::new(policy(0, 8), 4);
    stage.backlog.as_mut().unwrap().ranges = vec![PartitionOffsets::default(); 4];
    stage.look();
    for offsets in &mut stage.backlog.as_mut().unwrap().ranges {
        offsets.end = 8;
    }
    let decision = stage.look();
    assert_eq!(decision.inputs.pages, Some(2048.0));
    assert_eq!(decision.desired, 4);
}

#[test]
fn the_floor_of_this_time_holds() {
    let mut stage = Stage::new(policy(3, 8), 8);
    let decision = stage.look();
    assert_eq!((decision.desired, decision.limits), (3, vec![Limit::Floor]));
}

#[test]
fn a_lower_maximum_holds_at_once() {
    let mut stage = Stage::new(policy(0, 4), 16);
    stage.send(10_000);
    stage.ready(8);
    assert_eq!(stage.look().desired, 4);
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
    fn bounds_are_never_broken(
        policy in any_policy(),
        partitions in 1..8usize,
        sends in proptest::collection::vec(proptest::option::of(0..200usize), 1..60),
        current in 0..20u32,
    ) {
        let mut stage = Stage::new(policy.clone(), partitions);
        stage.ready(current);
        for send in sends {
            match send {
                Some(0) => stage.finish(),
                Some(documents) => stage.send(documents),
                None => {}
            }
            let decision = stage.look();
            let ceiling = policy.max.get().min(u32::try_from(partitions).unwrap());
            prop_assert!(decision.desired <= ceiling);
            prop_assert!(decision.desired >= policy.floor.min(ceiling));
            stage.ready(decision.desired);
        }
    }

    #[test]
    fn more_lag_never_means_fewer_workers(
        policy in any_policy(), few in 0..2_000usize, more in 0..2_000usize, current in 0..6u32,
    ) {
        let decide = |documents| {
            let mut stage = Stage::new(policy.clone(), 6);
            stage.look();
            stage.send(documents);
            stage.ready(current);
            stage.look().desired
        };
        prop_assert!(decide(few) <= decide(few + more));
    }

    #[test]
    fn the_unknown_never_lowers(
        policy in any_policy(), sends in proptest::collection::vec(0..50usize, 0..40),
    ) {
        let mut stage = Stage::new(policy.clone(), 6);
        for documents in sends {
            stage.send(documents);
            stage.follow(2);
        }
        stage.backlog = Err(Blind { reason: "KafkaUnreachable", message: String::new() });
        let current = stage.current.max(policy.floor.min(6));
        prop_assert_eq!(stage.follow(600).desired, current);
    }

    #[test]
    fn waiting_work_never_leaves_nobody(policy in any_policy(), documents in 1..2_000usize) {
        let mut stage = Stage::new(policy, 6);
        stage.send(documents);
        prop_assert!(stage.look().desired >= 1);
    }

    /// With the workers that the law asks for, and as fast as it thinks they are, a backlog is done
    /// within the target whenever the limits allow that.
    #[test]
    fn the_drain_target_is_met_when_the_limits_allow_it(
        documents in 1..3_000usize, startup in 1.0..200.0f64,
    ) {
        let mut policy = policy(0, 64);
        policy.max_pending = NonZeroU32::new(64).unwrap();
        let learned = Learned { startup_seconds: startup, ..LEARNED };
        let mut stage = Stage::new(policy.clone(), 64);
        stage.memory = Memory::new(Some(learned), &policy);
        stage.look();
        stage.send(documents);
        let decision = stage.look();
        let terms = decision.terms.unwrap();
        let bounded = [Limit::Partitions, Limit::PartitionsWithWork, Limit::MaxReplicas];
        if !decision.limits.iter().any(|limit| bounded.contains(limit)) {
            let pages = documents as f64 * LEARNED.pages_per_document;
            let worth = law::worth(terms.for_backlog, decision.inputs.partitions_with_work.unwrap());
            let seconds = startup + pages / worth / LEARNED.pages_per_second;
            prop_assert!(seconds <= 600.0, "{seconds} s with {} workers", terms.for_backlog);
        }
    }
}
