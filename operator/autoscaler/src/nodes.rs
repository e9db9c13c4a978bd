//! How many workers may be pending. All that are required, until nodes fail to come: then a few,
//! and twice as many after each node that comes.
//!
//! A node autoscaler adds the nodes for all pending pods at once, so asking for a few at a time
//! would multiply its time. But pods for which there never is a node keep it searching, and keep
//! other workloads' pods waiting.

use jiff::Timestamp;

use super::{
    capacity::age,
    observation::{Phase, Worker, count},
};

/// The most workers that may be pending. `None`: as many as are required.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PendingWorkers(Option<Bound>);

#[derive(Clone, Copy, Debug)]
struct Bound {
    most: u32,
    /// Workers that had a node at the last observation.
    placed: u32,
    /// When `most` was last changed.
    since: Timestamp,
}

impl PendingWorkers {
    /// Records which workers wait for a node. `patience`: the seconds after which a node has failed
    /// to come; `few`: the first bound.
    pub(crate) fn observe(&mut self, now: Timestamp, workers: &[Worker], patience: f64, few: u32) {
        let failed = workers.iter().any(|worker| match worker.phase {
            Phase::Pending { since } => age(now, since) > patience,
            _ => false,
        });
        let pending = count(workers, |phase| matches!(phase, Phase::Pending { .. }));
        let placed = placed(workers);
        let bound = |most| Bound {
            most,
            placed,
            since: now,
        };
        self.0 = match self.0 {
            None if failed => Some(bound(few)),
            None => None,
            Some(last) if placed > last.placed => Some(bound(last.most.saturating_mul(2))),
            // The nodes came for all, twice as many as the last time.
            Some(last) if pending == 0 && age(now, last.since) > patience => None,
            Some(last) if failed && age(now, last.since) > patience => Some(bound(few)),
            Some(last) => Some(Bound { placed, ..last }),
        };
    }

    /// The most workers at this moment, with and without a node. `None`: there is no such limit.
    pub(crate) fn ceiling(&self, workers: &[Worker]) -> Option<u32> {
        let bound = self.0?;
        Some(placed(workers).saturating_add(bound.most))
    }
}

fn placed(workers: &[Worker]) -> u32 {
    count(workers, |phase| !matches!(phase, Phase::Pending { .. }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::Times;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// Workers that are ready, and pending ones that were created at these seconds.
    fn workers(ready: usize, pending: &[i64]) -> Vec<Worker> {
        let pending = pending
            .iter()
            .map(|second| Phase::Pending { since: at(*second) });
        std::iter::repeat_n(Phase::Ready, ready)
            .chain(pending)
            .map(|phase| Worker {
                name: String::new(),
                phase,
                times: Times::default(),
                counts: None,
            })
            .collect()
    }

    #[test]
    fn the_bound_appears_when_nodes_fail_to_come_and_doubles_with_each_that_comes() {
        let mut pending = PendingWorkers::default();
        let mut ceiling = |now, ready, waiting: &[i64]| {
            let workers = workers(ready, waiting);
            pending.observe(at(now), &workers, 600.0, 2);
            pending.ceiling(&workers)
        };
        assert_eq!(ceiling(0, 0, &[0; 8]), None);
        assert_eq!(ceiling(600, 0, &[0; 8]), None);
        assert_eq!(ceiling(601, 0, &[0; 8]), Some(2));
        assert_eq!(ceiling(603, 0, &[0; 2]), Some(2), "six are withdrawn");
        assert_eq!(ceiling(700, 1, &[0]), Some(5), "one came: four more");
        assert_eq!(ceiling(703, 1, &[0, 700, 700, 700]), Some(5));
        assert_eq!(ceiling(800, 5, &[]), Some(13), "they came, too");
        assert_eq!(ceiling(1401, 5, &[]), None);
    }

    #[test]
    fn the_bound_is_small_again_when_no_more_nodes_come() {
        let mut pending = PendingWorkers::default();
        let mut ceiling = |now, ready, waiting: &[i64]| {
            let workers = workers(ready, waiting);
            pending.observe(at(now), &workers, 600.0, 2);
            pending.ceiling(&workers)
        };
        assert_eq!(ceiling(601, 0, &[0; 8]), Some(2));
        assert_eq!(ceiling(700, 1, &[0, 700, 700, 700]), Some(5));
        assert_eq!(ceiling(1300, 1, &[0, 700, 700, 700]), Some(5));
        assert_eq!(ceiling(1301, 1, &[0, 700, 700, 700]), Some(3));
    }
}
