use proptest::prelude::*;

use super::*;
use crate::trace::{Arrival, Nodes, Outage};

fn setup() -> Setup {
    Setup {
        partitions: 4,
        range_pages: 64,
        startup_seconds: 20,
        pages_per_second: 2.0,
        gpus: None,
        seed: 1,
    }
}

/// Documents of these pages, all at second 0, to these partitions.
fn trace(documents: &[(u32, u32)]) -> Trace {
    let arrivals = documents
        .iter()
        .map(|(pages, partition)| Arrival {
            second: 0,
            pages: *pages,
            partition: Some(*partition),
        })
        .collect();
    Trace {
        arrivals,
        ends: 1,
        ..Trace::default()
    }
}

fn pass(world: &mut World, seconds: u32) {
    for _ in 0..seconds {
        world.begin();
        world.finish();
    }
}

#[test]
fn a_worker_processes_after_its_start_up_and_the_rebalance() {
    let mut world = World::new(&trace(&[(10, 0)]), setup());
    world.desired = 1;
    pass(&mut world, 25);
    assert_eq!((world.ready(), world.queues.unprocessed()), (1, 1));
    assert!(
        world.busy_seconds.abs() < f64::EPSILON,
        "20 s of start, 5 s of rebalance"
    );
    pass(&mut world, 5);
    assert_eq!(world.queues.unprocessed(), 0, "10 pages at 2 pages/s");
    assert!((world.busy_seconds - 5.0).abs() < 1e-9);
}

#[test]
fn a_worker_reads_its_partitions_in_turn() {
    let documents = [(2, 0), (2, 0), (2, 0), (2, 3)];
    let mut world = World::new(&trace(&documents), setup());
    world.desired = 1;
    pass(&mut world, 27);
    let (tasks, _) = world.queues.offsets();
    assert_eq!((tasks[0], tasks[3]), ((1, 3), (1, 1)), "one of each");
}

#[test]
fn a_draining_worker_finishes_its_document_and_no_other() {
    let mut world = World::new(&trace(&[(20, 0), (20, 0)]), setup());
    world.desired = 1;
    pass(&mut world, 30);
    world.desired = 0;
    pass(&mut world, 4);
    assert_eq!(
        (world.draining(), world.scheduled()),
        (1, 1),
        "it holds its GPU meanwhile"
    );
    pass(&mut world, 1);
    assert_eq!((world.pods.len(), world.queues.unprocessed()), (0, 1));
}

#[test]
fn without_a_free_gpu_a_pod_is_pending() {
    let with_two = Setup {
        gpus: Some(2),
        ..setup()
    };
    let mut world = World::new(&trace(&[(1, 0)]), with_two);
    world.desired = 3;
    pass(&mut world, 40);
    assert_eq!(
        (world.ready(), world.scheduled(), world.replicas()),
        (2, 2, 3)
    );
    assert_eq!(world.pods[2].state, PodState::Pending { since: 0 });
    world.desired = 2;
    pass(&mut world, 1);
    assert_eq!(
        (world.ready(), world.replicas()),
        (2, 2),
        "the pending one is stopped first"
    );
}

#[test]
fn idle_pods_are_stopped_before_busy_ones() {
    // Partition 0 has all the work: its owner is the first worker.
    let mut world = World::new(
        &trace(&[(400, 0)]),
        Setup {
            range_pages: 1000,
            ..setup()
        },
    );
    world.desired = 2;
    pass(&mut world, 30);
    let busy = world.pods.iter().find(|pod| pod.in_flight() > 0);
    let busy = busy.map(|pod| pod.id);
    assert!(busy.is_some());
    world.desired = 1;
    pass(&mut world, 1);
    let left: Vec<u64> = world.pods.iter().map(|pod| pod.id).collect();
    assert_eq!(Some(left), busy.map(|id| vec![id]));
}

#[test]
fn the_limit_of_the_stores_is_shared() {
    let limited = Trace {
        store_limit: Some(2.0),
        ..trace(&[(100, 0), (100, 1)])
    };
    let alone = Setup {
        range_pages: 1000,
        ..setup()
    };
    let mut world = World::new(&limited, alone);
    world.desired = 2;
    pass(&mut world, 35);
    let pages: f64 = world.pods.iter().map(|pod| pod.counts.pages).sum();
    assert!((pages - 20.0).abs() < 1e-9, "{pages}");
    assert!(
        (world.busy_seconds - 20.0).abs() < 1e-9,
        "both are busy all the time"
    );
}

#[test]
fn in_an_outage_nobody_progresses_and_workers_report_it() {
    let mut trace = trace(&[(100, 0)]);
    trace.outages.push(Outage {
        from: 30,
        until: 90,
    });
    let alone = Setup {
        range_pages: 1000,
        ..setup()
    };
    let mut world = World::new(&trace, alone);
    world.desired = 1;
    pass(&mut world, 40);
    let counts = world.pods[0].counts;
    assert!((counts.pages - 10.0).abs() < 1e-9, "{counts:?}");
    assert_eq!(world.pods[0].reports_waiting_since(world.now), None);
    pass(&mut world, 20);
    assert_eq!(world.pods[0].reports_waiting_since(world.now), Some(45));
    assert!(
        (world.pods[0].counts.busy_seconds - 20.0).abs() < 1e-9,
        "5 + 15 s"
    );
    pass(&mut world, 40);
    assert_eq!(world.pods[0].reports_waiting_since(world.now), None);
    assert!((world.pods[0].counts.pages - 30.0).abs() < 1e-9);
}

#[test]
fn nodes_come_a_few_at_a_time_and_some_never() {
    let mut trace = trace(&[(1, 0)]);
    trace.nodes = Some(Nodes {
        seconds: 100,
        at_a_time: 2,
        most: 3,
    });
    let mut world = World::new(&trace, setup());
    world.desired = 4;
    pass(&mut world, 100);
    assert_eq!(world.scheduled(), 0);
    pass(&mut world, 1);
    assert_eq!(world.scheduled(), 2);
    pass(&mut world, 100);
    assert_eq!(world.scheduled(), 3);
    pass(&mut world, 1000);
    assert_eq!(
        (world.scheduled(), world.replicas()),
        (3, 4),
        "the last one never"
    );
    // Idle nodes are removed after ten minutes.
    world.desired = 0;
    pass(&mut world, 700);
    world.desired = 1;
    pass(&mut world, 50);
    assert_eq!(world.scheduled(), 0);
}

#[test]
fn a_worker_that_crashes_starts_again() {
    let mut trace = trace(&[(1, 0)]);
    trace.crash_interval = Some(60);
    let mut world = World::new(&trace, setup());
    world.desired = 2;
    pass(&mut world, 60);
    assert_eq!(world.ready(), 2);
    pass(&mut world, 1);
    assert_eq!((world.ready(), world.scheduled()), (1, 2));
    pass(&mut world, 20);
    assert_eq!(world.ready(), 2);
}

/// The second at which everything is processed, with this many workers from the start.
fn drained_with(workers: u32, documents: &[(u32, u32)]) -> u32 {
    let mut world = World::new(&trace(documents), setup());
    world.desired = workers;
    while !world.queues.is_drained() {
        pass(&mut world, 1);
    }
    world.now
}

proptest! {
    #[test]
    fn every_document_is_processed_once_whatever_is_desired(
        documents in proptest::collection::vec((1..300u32, 0..4u32), 1..30),
        desired in proptest::collection::vec(0..6u32, 1..20),
        gpus in proptest::option::of(1..4u32),
    ) {
        let pages: u32 = documents.iter().map(|(pages, _)| pages).sum();
        let mut world = World::new(&trace(&documents), Setup { gpus, ..setup() });
        let mut worked = 0.0;
        for workers in desired.into_iter().chain([1]) {
            world.desired = workers;
            pass(&mut world, 37);
            prop_assert!(world.scheduled() <= gpus.unwrap_or(u32::MAX));
            worked = world.busy_seconds * 2.0;
            prop_assert!(worked <= f64::from(pages) + 1e-6);
        }
        let mut seconds = 0;
        while !world.queues.is_drained() {
            pass(&mut world, 1);
            worked = world.busy_seconds * 2.0;
            seconds += 1;
            prop_assert!(seconds < 20_000, "everything is processed in the end");
        }
        prop_assert_eq!(world.queues.unprocessed(), 0);
        prop_assert!((worked - f64::from(pages)).abs() < 1e-6, "{} of {}", worked, pages);
    }

    #[test]
    fn a_worker_for_each_half_of_the_partitions_never_drains_later(
        pages in proptest::collection::vec(1..60u32, 1..10),
    ) {
        // Equal work in each partition: twice the workers, half of the partitions each.
        let documents: Vec<(u32, u32)> =
            pages.iter().flat_map(|pages| (0..4).map(|partition| (*pages, partition))).collect();
        let seconds: Vec<u32> =
            [1, 2, 4].iter().map(|workers| drained_with(*workers, &documents)).collect();
        prop_assert!(seconds.is_sorted_by(|fewer, more| fewer >= more), "{:?}", seconds);
    }
}
