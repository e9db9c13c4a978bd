//! The number of replicas that answer questions: enough for the requests in flight.
//!
//! More replicas are added when all readings of 15 seconds ask for them, and removed when fewer have
//! sufficed at every reading of five minutes. A pod that does not answer counts as idle for the
//! former and as busy for the latter, so that a lost answer changes nothing.

use jiff::{SignedDuration, Timestamp};

/// Requests count for more replicas when they have been in flight for this long.
pub const RISE: SignedDuration = SignedDuration::from_secs(15);
/// Fewer replicas must have sufficed for this long.
pub const FALL: SignedDuration = SignedDuration::from_mins(5);
/// Readings within [`RISE`] that must ask for more replicas.
const LEAST_READINGS: usize = 2;

/// The requests in flight at some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// When it was read.
    pub at: Timestamp,
    /// Requests in flight in the pods that answered.
    pub in_flight: u64,
    /// Ready pods that did not answer.
    pub silent: u32,
}

/// What the replicas must hold to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestPolicy {
    /// The fewest replicas.
    pub fewest: u32,
    /// The most replicas.
    pub most: u32,
    /// Requests that a replica should answer at the same time.
    pub per_replica: u32,
}

/// A number of replicas, and why it is this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// As many as before.
    Kept(u32),
    /// The bounds have changed.
    Bounded(u32),
    /// More, because at least this many requests were in flight for [`RISE`].
    More(u32, u64),
    /// Fewer, because at most this many requests were in flight for [`FALL`].
    Fewer(u32, u64),
}

impl Choice {
    /// The number.
    #[must_use]
    pub fn replicas(self) -> u32 {
        match self {
            Self::Kept(replicas)
            | Self::Bounded(replicas)
            | Self::More(replicas, _)
            | Self::Fewer(replicas, _) => replicas,
        }
    }
}

/// Adds a reading, and drops those that no choice depends on any more. A clock that was set back
/// starts over.
pub fn remember(readings: &mut Vec<Reading>, new: Reading) {
    readings.retain(|reading| reading.at <= new.at);
    readings.push(new);
    // One from before shows that the whole time was seen.
    while readings.len() > 1 && new.at.duration_since(readings[1].at) >= FALL {
        readings.remove(0);
    }
}

/// Chooses the number of replicas; there are `current` ones. The readings are in order.
#[must_use]
pub fn choose(readings: &[Reading], policy: RequestPolicy, current: u32, now: Timestamp) -> Choice {
    let fewest = policy.fewest.max(1);
    let most = policy.most.max(fewest);
    let bounded = current.clamp(fewest, most);
    if bounded != current {
        return Choice::Bounded(bounded);
    }
    let per_replica = u64::from(policy.per_replica.max(1));
    let needed = |in_flight: u64| {
        let needed = u32::try_from(in_flight.div_ceil(per_replica)).unwrap_or(u32::MAX);
        needed.clamp(fewest, most)
    };
    let age = |reading: &Reading| now.duration_since(reading.at);

    let recent = readings.iter().filter(|reading| age(reading) <= RISE);
    let recent: Vec<u64> = recent.map(|reading| reading.in_flight).collect();
    let at_least = recent.iter().min().copied().unwrap_or(0);
    if recent.len() >= LEAST_READINGS && needed(at_least) > current {
        return Choice::More(needed(at_least), at_least);
    }

    let busy = |reading: &Reading| {
        let silent = u64::from(reading.silent).saturating_mul(per_replica);
        reading.in_flight.saturating_add(silent)
    };
    let at_most = readings.iter().map(busy).max().unwrap_or(0);
    let is_seen = readings.first().is_some_and(|first| age(first) >= FALL);
    if is_seen && needed(at_most) < current {
        return Choice::Fewer(needed(at_most), at_most);
    }
    Choice::Kept(current)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POLICY: RequestPolicy = RequestPolicy {
        fewest: 1,
        most: 10,
        per_replica: 16,
    };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn reading(second: i64, in_flight: u64) -> Reading {
        Reading {
            at: at(second),
            in_flight,
            silent: 0,
        }
    }

    /// The replicas after each reading, taken every five seconds.
    fn run(loads: impl IntoIterator<Item = (u64, u32)>, first: u32) -> Vec<u32> {
        let mut readings = Vec::new();
        let mut current = first;
        let mut all = Vec::new();
        for (index, (in_flight, silent)) in loads.into_iter().enumerate() {
            let at = at(5 * i64::try_from(index).unwrap());
            let new = Reading {
                at,
                in_flight,
                silent,
            };
            remember(&mut readings, new);
            current = choose(&readings, POLICY, current, at).replicas();
            all.push(current);
        }
        all
    }

    #[test]
    fn one_reading_adds_nothing_and_two_do() {
        let readings = [reading(0, 40), reading(5, 40)];
        assert_eq!(choose(&readings[..1], POLICY, 1, at(0)), Choice::Kept(1));
        assert_eq!(choose(&readings, POLICY, 1, at(5)), Choice::More(3, 40));
        assert_eq!(
            choose(&readings, POLICY, 1, at(30)),
            Choice::Kept(1),
            "too old"
        );
    }

    #[test]
    fn a_short_burst_adds_nothing() {
        let loads = [0, 0, 500, 0, 0, 0].map(|load| (load, 0));
        assert_eq!(run(loads, 1), [1; 6]);
    }

    #[test]
    fn replicas_go_after_five_minutes_of_less_and_not_before() {
        let replicas = run((0..62).map(|_| (20, 0)), 5);
        assert_eq!(replicas[..60], [5; 60]);
        assert_eq!(replicas[60..], [2; 2]);
        let readings = [reading(0, 30), reading(300, 20)];
        assert_eq!(choose(&readings, POLICY, 5, at(300)), Choice::Fewer(2, 30));
    }

    #[test]
    fn a_pod_that_does_not_answer_stops_no_replica_and_adds_none() {
        let silent = run((0..100).map(|_| (0, 3)), 3);
        assert_eq!(silent, [3; 100]);
        let silent = run((0..100).map(|_| (0, 3)), 1);
        assert_eq!(silent, [1; 100]);
    }

    #[test]
    fn changed_bounds_count_at_once() {
        assert_eq!(choose(&[], POLICY, 12, at(0)), Choice::Bounded(10));
        assert_eq!(choose(&[], POLICY, 0, at(0)), Choice::Bounded(1));
    }

    #[test]
    fn a_clock_that_is_set_back_starts_over() {
        let mut readings = vec![reading(0, 1), reading(300, 1)];
        remember(&mut readings, reading(100, 1));
        assert_eq!(readings, [reading(0, 1), reading(100, 1)]);
    }

    proptest! {
        #[test]
        fn the_number_is_within_the_bounds(
            loads in proptest::collection::vec((0_u64..400, 0_u32..4), 1..120),
            first in 1_u32..=10,
        ) {
            for replicas in run(loads, first) {
                prop_assert!((1..=10).contains(&replicas));
            }
        }

        /// It reaches what a steady load needs, and stays there.
        #[test]
        fn a_steady_load_gets_what_it_needs(load in 0_u64..400, first in 1_u32..=10) {
            let replicas = run((0..130).map(|_| (load, 0)), first);
            let needed = u32::try_from(load.div_ceil(16)).unwrap().clamp(1, 10);
            prop_assert!(replicas[61..].iter().all(|number| *number == needed), "{replicas:?}");
        }

        /// More requests never lead to fewer replicas.
        #[test]
        fn more_requests_need_no_fewer_replicas(
            loads in proptest::collection::vec((0_u64..400, 0_u32..3, 0_u64..100), 1..100),
            current in 1_u32..=10,
        ) {
            let now = at(5 * i64::try_from(loads.len()).unwrap());
            let readings = |more: u64| {
                let mut readings = Vec::new();
                for (index, (in_flight, silent, added)) in loads.iter().enumerate() {
                    let at = at(5 * i64::try_from(index).unwrap());
                    let in_flight = in_flight + added * more;
                    remember(&mut readings, Reading { at, in_flight, silent: *silent });
                }
                readings
            };
            let fewer = choose(&readings(0), POLICY, current, now).replicas();
            let more = choose(&readings(1), POLICY, current, now).replicas();
            prop_assert!(more >= fewer);
        }

        /// A load that goes up and down within five minutes removes nothing.
        #[test]
        fn it_does_not_oscillate(loads in proptest::collection::vec(0_u64..160, 2..300)) {
            let mut loads = loads;
            for load in loads.iter_mut().step_by(50) {
                *load = 160;
            }
            let replicas = run(loads.into_iter().map(|load| (load, 0)), 10);
            prop_assert!(replicas.iter().all(|number| *number == 10));
        }
    }
}
