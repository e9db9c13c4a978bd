use clap::ValueEnum as _;

use super::*;
use crate::{
    policies::{Peer, Settings, Workload},
    scaler::{Bounds, Recommendation},
    shapes::Shape,
    trace::Arrival,
    world::World,
};

/// Recommends given numbers of workers at given seconds.
struct Script(Vec<(u32, u32)>);

impl Scaler for Script {
    fn name(&self) -> &'static str {
        "script"
    }

    fn recommend(&mut self, world: &World) -> Option<Recommendation> {
        let (_, workers) = self.0.iter().find(|(second, _)| *second == world.now)?;
        Some(Recommendation::new(*workers))
    }
}

fn setup() -> Setup {
    Setup {
        partitions: 2,
        range_pages: 64,
        startup_seconds: 20,
        pages_per_second: 2.0,
        gpus: None,
        seed: 1,
    }
}

#[test]
fn a_case_that_was_calculated_by_hand() {
    // Two documents of ten pages at second 10. A worker is created and scheduled at second 15, is
    // ready at 35, and reads its partitions from 40; 20 pages take 10 s. It is stopped at second
    // 100, idle, and holds its GPU in that second too.
    let document = Arrival {
        second: 10,
        pages: 10,
        partition: Some(0),
    };
    let trace = Trace {
        arrivals: vec![document; 2],
        ends: 11,
        ..Trace::default()
    };
    let mut script = Script(vec![(15, 1), (100, 0)]);
    let outcome = run(&trace, &setup(), 30, &mut script);
    let expected = Figures {
        gpu_seconds: 86,
        // The first one waits for more than 30 s at the end of the seconds 40 to 48.
        seconds_over_target: 9,
        rescales: 2,
        max_lag_documents: 2,
        drained_at_second: Some(50),
        unfinished_documents: 0,
        mean_wait_seconds: 37.5,
        p95_wait_seconds: 40,
        peak_gpus: 1,
        gpu_utilization: 10.0 / 86.0,
        rebalances: 2,
        seconds: 11 + AFTERWARDS,
    };
    assert_eq!(outcome.figures, expected);
    let sample = outcome.timeline[47];
    assert_eq!((sample.lag, sample.ready, sample.oldest_wait), (1, 1, 38));
}

#[test]
fn unprocessed_documents_are_reported() {
    let trace = Shape::Rare.trace(1);
    let outcome = run(&trace, &setup(), 600, &mut Script(vec![]));
    let documents = trace.arrivals.len() as u64;
    assert_eq!(outcome.figures.drained_at_second, None);
    assert_eq!(outcome.figures.unfinished_documents, documents);
    assert_eq!(outcome.figures.gpu_seconds, 0);
}

#[test]
fn the_ninety_fifth_percentile() {
    let ascending: Vec<u32> = (1..=100).collect();
    assert_eq!(percentile(&ascending, 95), 95);
    assert_eq!(percentile(&[7], 95), 7);
    assert_eq!(percentile(&[], 95), 0);
}

#[test]
fn peers_stay_within_the_bounds_on_every_trace() {
    let bounds = Bounds { min: 2, max: 5 };
    let setup = Setup {
        partitions: 6,
        ..setup()
    };
    let workload = Workload {
        documents_per_second: 0.2,
        drain_target: 600.0,
        seconds_until_ready: 20.0,
    };
    for peer in Peer::value_variants() {
        for shape in [Shape::Burst, Shape::OnOff, Shape::PoisonPartition] {
            let mut scaler = peer.scaler(bounds, Settings::Defaults, workload);
            let outcome = run(&shape.trace(1), &setup, 600, scaler.as_mut());
            assert!(
                outcome
                    .changes
                    .iter()
                    .all(|change| (2..=5).contains(&change.workers)),
                "{peer:?} {shape:?}: {:?}",
                outcome.changes
            );
        }
    }
}
