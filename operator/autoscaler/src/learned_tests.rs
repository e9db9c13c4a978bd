use super::*;
use crate::observation::Times;

const ASSUMED: Learned = Learned {
    pages_per_second: 4.0,
    pages_per_document: 10.0,
    provisioning_seconds: 0.0,
    startup_seconds: 30.0,
    longest_seconds: 0.0,
};

fn at(second: f64) -> Timestamp {
    Timestamp::from_second(0).unwrap() + jiff::SignedDuration::from_secs_f64(second)
}

/// A worker that was created at second 0, placed at 5, and ready 12 s later.
fn worker(name: &str, pages: f64, documents: f64, busy_seconds: f64) -> Worker {
    Worker {
        name: name.into(),
        phase: Phase::Ready,
        times: Times {
            created: Some(at(0.0)),
            placed: Some(at(5.0)),
            process_started: Some(at(8.0)),
        },
        counts: Some(Counts {
            pages,
            documents,
            busy_seconds,
            longest_seconds: busy_seconds / 10.0,
            startup_seconds: Some(9.0),
            ..Counts::default()
        }),
    }
}

fn observe(learner: &mut Learner, workers: &[Worker]) -> Progress {
    learner.observe(at(1000.0), 2.0, workers)
}

fn same(left: f64, right: f64) {
    assert!((left - right).abs() < 1e-9, "{left} {right}");
}

#[test]
fn a_minute_of_work_outweighs_an_assumption() {
    let mut learner = Learner::new(None, ASSUMED);
    assert!(!learner.knows_speed());
    for second in 0..=60 {
        let second = f64::from(second);
        observe(
            &mut learner,
            &[worker("a", 0.5 * second, 0.1 * second, second)],
        );
    }
    let known = learner.learned();
    assert!(learner.knows_speed());
    assert!((0.5..1.1).contains(&known.pages_per_second), "{known:?}");
    assert!((4.0..8.0).contains(&known.pages_per_document), "{known:?}");
    same(known.startup_seconds, 12.0);
    same(known.provisioning_seconds, 5.0);
    assert!((known.longest_seconds - 6.0).abs() < 0.01, "{known:?}");
}

#[test]
fn pages_of_observations_without_an_ended_document_count() {
    let mut learner = Learner::new(None, ASSUMED);
    for second in 0..=3000 {
        let pages = f64::from(second);
        observe(
            &mut learner,
            &[worker("a", pages, (pages / 25.0).floor(), pages)],
        );
    }
    let known = learner.learned();
    assert!(
        (24.0..26.0).contains(&known.pages_per_document),
        "{known:?}"
    );
}

#[test]
fn idle_time_does_not_lower_the_speed() {
    let mut learner = Learner::new(None, ASSUMED);
    observe(&mut learner, &[worker("a", 100.0, 1.0, 100.0)]);
    let before = learner.learned();
    observe(&mut learner, &[worker("a", 100.0, 1.0, 100.0)]);
    same(learner.learned().pages_per_second, before.pages_per_second);
}

/// MongoDB is away for half an hour. In one case the worker says so, in the other it is an older
/// one that counts the seconds as busy and is not ready.
#[test]
fn an_outage_of_a_store_is_not_learned_as_slowness() {
    let waits = Worker {
        counts: None,
        ..worker("a", 0.0, 0.0, 0.0)
    };
    let says_so = |mut worker: Worker| {
        worker.counts.as_mut().unwrap().waiting_for = vec!["mongodb".into()];
        worker
    };
    let is_unready = |mut worker: Worker| {
        worker.phase = Phase::Waiting { since: at(100.0) };
        worker
    };
    for outage in [&says_so as &dyn Fn(Worker) -> Worker, &is_unready] {
        let mut learner = Learner::new(None, ASSUMED);
        observe(&mut learner, std::slice::from_ref(&waits));
        for second in 0..=600 {
            let second = f64::from(second);
            observe(&mut learner, &[worker("a", second, second, second)]);
        }
        let before = learner.learned();
        for second in 600..=2400 {
            let worker = worker("a", 600.0, 600.0, f64::from(second));
            let progress = observe(&mut learner, &[outage(worker)]);
            same(progress.pages, 0.0);
        }
        // The first seconds after it are not learned either: they began in the outage.
        observe(&mut learner, &[worker("a", 600.0, 600.0, 2410.0)]);
        same(learner.learned().pages_per_second, before.pages_per_second);
        observe(&mut learner, &[worker("a", 610.0, 610.0, 2420.0)]);
        assert!((learner.learned().pages_per_second - 1.0).abs() < 0.1);
    }
}

#[test]
fn a_restarted_container_needs_a_new_baseline() {
    let mut learner = Learner::new(None, ASSUMED);
    observe(&mut learner, &[worker("a", 100.0, 10.0, 50.0)]);
    let progress = observe(&mut learner, &[worker("a", 3.0, 1.0, 1.0)]);
    assert!(!progress.known && progress.pages == 0.0);
    let progress = observe(&mut learner, &[worker("a", 5.0, 1.0, 2.0)]);
    assert!(progress.known && (progress.pages - 2.0).abs() < 1e-9);
}

#[test]
fn work_of_a_later_worker_counts_even_if_it_ended_before_the_first_observation() {
    let mut learner = Learner::new(None, ASSUMED);
    observe(&mut learner, &[]);
    let progress = observe(&mut learner, &[worker("a", 12.0, 12.0, 2.0)]);
    assert!(progress.known && (progress.pages - 12.0).abs() < 1e-9);
    assert!(learner.knows_speed());
}

#[test]
fn work_before_the_operator_started_does_not_count() {
    let mut learner = Learner::new(None, ASSUMED);
    let progress = observe(&mut learner, &[worker("a", 12.0, 12.0, 2.0)]);
    assert!(!progress.known && progress.pages == 0.0);
    assert!(!learner.knows_speed());
}

#[test]
fn work_before_the_first_known_counts_does_not_count() {
    let mut learner = Learner::new(None, ASSUMED);
    let unread = Worker {
        counts: None,
        ..worker("a", 0.0, 0.0, 0.0)
    };
    observe(&mut learner, &[unread]);
    let progress = observe(&mut learner, &[worker("a", 9_000.0, 9_000.0, 900.0)]);
    assert!(!progress.known && progress.pages == 0.0);
    let progress = observe(&mut learner, &[worker("a", 9_004.0, 9_002.0, 901.0)]);
    assert!(progress.known && progress.pages > 0.0);
}

#[test]
fn what_an_earlier_process_learned_decays_slowly() {
    let recalled = Learned {
        pages_per_second: 55.0,
        startup_seconds: 480.0,
        ..ASSUMED
    };
    let mut learner = Learner::new(Some(recalled), ASSUMED);
    observe(&mut learner, &[worker("a", 0.0, 0.0, 0.0)]);
    observe(&mut learner, &[worker("a", 0.0, 0.0, 10.0)]);
    let known = learner.learned();
    assert!(known.pages_per_second > 50.0, "{known:?}");
    same(known.startup_seconds, 480.0);
    // Without `a`, whose start is a part of what the earlier process learned.
    observe(
        &mut learner,
        &["b", "c", "d"].map(|name| worker(name, 0.0, 0.0, 0.0)),
    );
    same(learner.learned().startup_seconds, 12.0);
}

/// A worker has been up for two days, Milvus was away for 20 s an hour ago, and now the operator
/// restarts.
#[test]
fn a_restart_of_the_operator_does_not_learn_from_workers_that_it_did_not_see_start() {
    let old = |name: &str| Worker {
        counts: None,
        ..worker(name, 0.0, 0.0, 0.0)
    };
    let mut learner = Learner::new(None, ASSUMED);
    let waiting = Worker {
        phase: Phase::Waiting {
            since: at(172_000.0),
        },
        ..old("c")
    };
    learner.observe(at(172_800.0), 2.0, &[old("a"), old("b"), waiting]);
    learner.observe(at(172_803.0), 3.0, &[old("a"), old("b"), old("c")]);
    same(learner.learned().startup_seconds, 30.0);
}

#[test]
fn a_start_that_was_seen_counts_without_the_workers_word() {
    let starting = Worker {
        phase: Phase::Starting {
            since: at(5.0),
            restarted: false,
        },
        counts: None,
        ..worker("a", 0.0, 0.0, 0.0)
    };
    let ready = Worker {
        phase: Phase::Ready,
        ..starting.clone()
    };
    for (ready_at, expected) in [(95.0, 90.0), (5000.0, 30.0)] {
        let mut learner = Learner::new(None, ASSUMED);
        learner.observe(at(20.0), 2.0, std::slice::from_ref(&starting));
        learner.observe(at(ready_at), 2.0, std::slice::from_ref(&ready));
        same(learner.learned().startup_seconds, expected);
    }
}

/// MongoDB is away, and workers that start wait for it for a quarter of an hour.
#[test]
fn a_start_that_waits_for_a_server_is_not_learned() {
    let mut learner = Learner::new(None, ASSUMED);
    let mut waits = worker("a", 0.0, 0.0, 0.0);
    waits.phase = Phase::Starting {
        since: at(5.0),
        restarted: false,
    };
    let counts = waits.counts.as_mut().unwrap();
    counts.startup_seconds = None;
    counts.retrying = vec!["stage mongodb is retrying: refused".into()];
    observe(&mut learner, &[waits]);
    let mut ready = worker("a", 0.0, 0.0, 0.0);
    ready.counts.as_mut().unwrap().startup_seconds = Some(900.0);
    observe(&mut learner, &[ready]);
    same(learner.learned().startup_seconds, 30.0);
    observe(&mut learner, &[worker("b", 0.0, 0.0, 0.0)]);
    same(learner.learned().startup_seconds, 12.0);
}

#[test]
fn a_restart_of_the_operator_learns_no_start_and_no_placement_twice() {
    let recalled = Learned {
        provisioning_seconds: 60.0,
        startup_seconds: 90.0,
        ..ASSUMED
    };
    let mut learner = Learner::new(Some(recalled), ASSUMED);
    let present = ["a", "b", "c"].map(|name| worker(name, 0.0, 0.0, 0.0));
    observe(&mut learner, &present);
    observe(&mut learner, &present);
    let known = learner.learned();
    same(known.startup_seconds, 90.0);
    same(known.provisioning_seconds, 60.0);
}

#[test]
fn what_workers_did_before_it_was_forgotten_is_not_learned_again() {
    let mut learner = Learner::new(None, ASSUMED);
    let unread = Worker {
        counts: None,
        ..worker("b", 0.0, 0.0, 0.0)
    };
    learner.skip_past_of(&[worker("a", 500.0, 10.0, 5000.0), unread]);
    let present = [
        worker("a", 500.0, 10.0, 5000.0),
        worker("b", 500.0, 10.0, 0.0),
    ];
    let progress = observe(&mut learner, &present);
    same(progress.pages, 0.0);
    let known = learner.learned();
    same(known.longest_seconds, 0.0);
    same(known.startup_seconds, 30.0);
    same(known.provisioning_seconds, 0.0);
    assert!(!learner.knows_speed());
    let progress = observe(&mut learner, &[worker("a", 502.0, 11.0, 5004.0)]);
    same(progress.pages, 2.0);
}

#[test]
fn a_pod_that_waits_for_the_room_of_another_one_is_no_measure_of_nodes() {
    let mut learner = Learner::new(None, ASSUMED);
    let pending = Worker {
        phase: Phase::Pending { since: at(0.0) },
        ..worker("a", 0.0, 0.0, 0.0)
    };
    learner.ignore_placements(&[pending, worker("b", 0.0, 0.0, 0.0)]);
    observe(&mut learner, &[worker("a", 0.0, 0.0, 0.0)]);
    same(learner.learned().provisioning_seconds, 0.0);
    observe(&mut learner, &[worker("b", 0.0, 0.0, 0.0)]);
    same(learner.learned().provisioning_seconds, 5.0);
}

#[test]
fn the_longest_work_decays() {
    let mut learner = Learner::new(None, ASSUMED);
    observe(&mut learner, &[worker("a", 0.0, 0.0, 36_000.0)]);
    let longest = learner.learned().longest_seconds;
    assert!((longest - 3600.0).abs() < 1.0, "{longest}");
    // Two days later, with the same worker.
    for _ in 0..2880 {
        learner.observe(at(1000.0), 60.0, &[worker("a", 0.0, 0.0, 36_000.0)]);
    }
    let longest = learner.learned().longest_seconds;
    assert!((10.0..20.0).contains(&longest), "{longest}");
}

#[test]
fn absurd_values_of_an_earlier_version_are_bounded() {
    let absurd = Learned {
        pages_per_second: 1e-3,
        pages_per_document: 0.0,
        provisioning_seconds: -5.0,
        startup_seconds: 169_200.0,
        longest_seconds: 8.0 * 3600.0,
    };
    let known = Learner::new(Some(absurd), ASSUMED).learned();
    same(known.pages_per_second, 0.08);
    same(known.pages_per_document, 0.1);
    same(known.provisioning_seconds, 0.0);
    same(known.startup_seconds, 1800.0);
    same(known.longest_seconds, 10_800.0);
}
