//! What each worker adds to the fleet, and when. A worker that never comes adds nothing.

use jiff::Timestamp;

use super::{
    learned::Learned,
    observation::{self, Phase, Worker},
};

/// A worker that takes this many times the usual time is not expected any more ...
const LATE: f64 = 3.0;
/// ... but none is late before this many seconds.
const SHORTEST_LATE: f64 = 120.0;
/// A node that takes this many times the usual time has failed to come ...
const LATE_NODE: f64 = 2.0;
/// ... but none has before this many seconds.
const SHORTEST_LATE_NODE: f64 = 600.0;
/// Where no worker is ready, one is not replaced before this many seconds: the usual time may not
/// be known yet.
const SHORTEST_ALONE: f64 = 600.0;
/// The shortest remaining time, as a part of the usual one: a worker that is a little late may
/// become ready at any moment.
const SHORTEST: f64 = 0.1;

/// Seconds until a worker processes pages. `None`: it is not known that it ever will. `away_until`:
/// when every worker last waited for a server; the time to return begins then.
pub(super) fn available_in(
    worker: &Worker,
    now: Timestamp,
    away_until: Option<Timestamp>,
    learned: &Learned,
) -> Option<f64> {
    let startup = learned.startup_seconds;
    match worker.phase {
        Phase::Ready => Some(0.0),
        Phase::Waiting { .. } if worker.works() => Some(0.0),
        Phase::Waiting { since } => {
            let since = away_until.map_or(since, |until| until.max(since));
            (!is_late(age(now, since), startup)).then_some(0.0)
        }
        Phase::Starting {
            restarted: true, ..
        } => None,
        Phase::Starting { since, .. } => {
            let age = age(now, since);
            (!is_late(age, startup)).then(|| remaining(startup, age))
        }
        Phase::Pending { since } => {
            let provisioning = learned.provisioning_seconds;
            let age = age(now, since);
            // Where nodes had room so far, it is unknown when one will come.
            let comes = provisioning > 0.0 && age <= patience_for_nodes(learned);
            comes.then(|| remaining(provisioning, age) + startup)
        }
    }
}

/// Workers that have a node and are not expected to work any more, and can be replaced: at most as
/// many as are ready. Where nobody is, a single other one shows whether a node was the cause.
pub(super) fn replacements(
    workers: &[Worker],
    now: Timestamp,
    away_until: Option<Timestamp>,
    learned: &Learned,
) -> u32 {
    let available = observation::available(workers);
    let patience = if available == 0 { SHORTEST_ALONE } else { 0.0 };
    let is_lost = |worker: &&Worker| match worker.phase {
        Phase::Starting { since, .. } => {
            let age = age(now, since);
            age > patience && is_late(age, learned.startup_seconds)
        }
        Phase::Waiting { .. } => available_in(worker, now, away_until, learned).is_none(),
        Phase::Pending { .. } | Phase::Ready => false,
    };
    let lost = workers.iter().filter(is_lost).count();
    u32::try_from(lost)
        .unwrap_or(u32::MAX)
        .min(available.max(1))
}

/// Seconds after which a node for a pending worker has failed to come.
pub(super) fn patience_for_nodes(learned: &Learned) -> f64 {
    (LATE_NODE * learned.provisioning_seconds).max(SHORTEST_LATE_NODE)
}

pub(super) fn age(now: Timestamp, since: Timestamp) -> f64 {
    now.duration_since(since).as_secs_f64().max(0.0)
}

fn is_late(age: f64, usual: f64) -> bool {
    age > (LATE * usual).max(SHORTEST_LATE)
}

fn remaining(usual: f64, age: f64) -> f64 {
    (usual - age).clamp(SHORTEST * usual, usual)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::{Counts, Times};

    const LEARNED: Learned = Learned {
        pages_per_second: 1.0,
        pages_per_document: 10.0,
        provisioning_seconds: 0.0,
        startup_seconds: 60.0,
        longest_seconds: 0.0,
    };
    const SLOW_NODES: Learned = Learned {
        provisioning_seconds: 400.0,
        ..LEARNED
    };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn worker(phase: Phase) -> Worker {
        Worker {
            name: "a".into(),
            phase,
            times: Times::default(),
            counts: None,
        }
    }

    fn available(phase: Phase, now: i64, learned: &Learned) -> Option<f64> {
        available_in(&worker(phase), at(now), None, learned)
    }

    #[test]
    fn a_worker_that_never_comes_is_no_capacity() {
        let since = at(0);
        let starting = Phase::Starting {
            since,
            restarted: false,
        };
        assert_eq!(available(starting, 20, &LEARNED), Some(40.0));
        assert_eq!(available(starting, 170, &LEARNED), Some(6.0));
        assert_eq!(available(starting, 181, &LEARNED), None);
        let restarted = Phase::Starting {
            since,
            restarted: true,
        };
        assert_eq!(available(restarted, 1, &LEARNED), None);
        let waiting = Phase::Waiting { since };
        assert_eq!(available(waiting, 170, &LEARNED), Some(0.0));
        assert_eq!(available(waiting, 181, &LEARNED), None);
    }

    #[test]
    fn a_pending_worker_is_capacity_while_nodes_usually_come() {
        let pending = Phase::Pending { since: at(0) };
        assert_eq!(available(pending, 0, &LEARNED), None);
        assert_eq!(available(pending, 100, &SLOW_NODES), Some(360.0));
        assert_eq!(available(pending, 700, &SLOW_NODES), Some(100.0));
        assert_eq!(available(pending, 801, &SLOW_NODES), None);
    }

    #[test]
    fn lost_workers_are_replaced_by_as_many_as_are_ready_and_otherwise_by_one() {
        let lost = worker(Phase::Starting {
            since: at(0),
            restarted: true,
        });
        let ready = worker(Phase::Ready);
        let replaced = |workers: &[&Worker]| {
            let workers: Vec<Worker> = workers.iter().copied().cloned().collect();
            replacements(&workers, at(1000), None, &LEARNED)
        };
        // The node of a single worker may be broken, so one more is worth a try.
        assert_eq!(replaced(&[&lost]), 1);
        assert_eq!(replaced(&[&lost, &lost]), 1);
        assert_eq!(replaced(&[&lost, &lost, &ready]), 1);
        assert_eq!(replaced(&[&lost, &ready, &ready]), 1);
        assert_eq!(
            replacements(&[lost, ready], at(100), None, &LEARNED),
            0,
            "not yet"
        );
    }

    #[test]
    fn a_first_worker_that_starts_slowly_is_not_replaced_at_once() {
        let starting = Phase::Starting {
            since: at(0),
            restarted: false,
        };
        let workers = [worker(starting)];
        let replaced = |now| replacements(&workers, at(now), None, &LEARNED);
        assert_eq!((replaced(600), replaced(601)), (0, 1));
    }

    #[test]
    fn an_unready_worker_with_work_that_progresses_is_capacity() {
        let counts = |in_flight, waiting_for: &[&str]| Worker {
            counts: Some(Counts {
                in_flight,
                waiting_for: waiting_for.iter().map(ToString::to_string).collect(),
                ..Counts::default()
            }),
            ..worker(Phase::Waiting { since: at(0) })
        };
        let judged = |worker: &Worker| {
            (
                available_in(worker, at(1000), None, &LEARNED),
                replacements(
                    &[worker.clone(), self::worker(Phase::Ready)],
                    at(1000),
                    None,
                    &LEARNED,
                ),
            )
        };
        assert_eq!(judged(&counts(3, &[])), (Some(0.0), 0));
        assert_eq!(judged(&counts(3, &["mongodb"])), (None, 1));
        assert_eq!(judged(&counts(0, &[])), (None, 1));
        assert_eq!(judged(&worker(Phase::Waiting { since: at(0) })), (None, 1));
    }
}
