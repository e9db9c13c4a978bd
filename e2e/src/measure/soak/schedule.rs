//! When documents are sent and what happens beside them. No I/O.

use std::fmt;
use std::time::Duration;

use layra_testbed::Service;

/// Between two faults, unless a short run has to have each kind once.
const INTERVAL: Duration = Duration::from_mins(6);
/// Longest time from one pause of the documents to the next.
const CYCLE: Duration = Duration::from_mins(30);

/// Something that happens beside the documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    KillWorker,
    KillRenderer,
    KillOperator,
    Restart(Service),
    /// The index of all collections is changed.
    Rebuild,
    /// Unused collections are deleted.
    Retain,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KillWorker => f.write_str("kill -9 of a worker"),
            Self::KillRenderer => f.write_str("kill -9 of a renderer"),
            Self::KillOperator => f.write_str("kill -9 of the operator"),
            Self::Restart(service) => write!(f, "{} is restarted", service.name()),
            Self::Rebuild => f.write_str("another index"),
            Self::Retain => f.write_str("retention"),
        }
    }
}

/// The events of a run with their seconds, one in each of equal parts of the time: every kind of
/// fault before any is repeated, retention after a third, and a rebuild in the middle: retention
/// takes a rebuilt collection for a new one.
pub(super) fn schedule(length: Duration, random: &mut fastrand::Rng) -> Vec<(f64, Event)> {
    let wanted = length.as_secs() / INTERVAL.as_secs();
    let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
    let wanted = wanted.max(faults().len());
    let mut events = Vec::new();
    while events.len() < wanted {
        let mut deck = faults();
        random.shuffle(&mut deck);
        events.extend(deck);
    }
    events.truncate(wanted);
    events.insert(events.len() / 2, Event::Rebuild);
    events.insert(events.len() / 3, Event::Retain);
    let part = length.as_secs_f64() / events.len() as f64;
    let moments = (0..events.len()).map(|index| part * (index as f64 + 0.25 + 0.5 * random.f64()));
    moments.zip(events.iter().copied()).collect()
}

fn faults() -> Vec<Event> {
    let mut faults = vec![Event::KillWorker, Event::KillRenderer, Event::KillOperator];
    faults.extend(Service::ALL.map(Event::Restart));
    faults
}

/// Whether no document is sent, so that the workers stop: for the last part of each cycle.
pub(super) fn is_quiet(second: f64, length: Duration) -> bool {
    let cycle = (length / 4).clamp(Duration::from_mins(3), CYCLE);
    // Finished documents are rechecked after two minutes, and a worker stays for that.
    let pause = (cycle / 6).max(Duration::from_mins(4)).min(cycle / 3);
    second % cycle.as_secs_f64() >= cycle.as_secs_f64() - pause.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(hours: f64, seed: u64) -> Vec<(f64, Event)> {
        let length = Duration::from_secs_f64(hours * 3600.0);
        schedule(length, &mut fastrand::Rng::with_seed(seed))
    }

    #[test]
    fn even_a_short_run_has_each_kind_once_and_spread_evenly() {
        let events = of(0.1, 3);
        let mut kinds = faults();
        kinds.extend([Event::Rebuild, Event::Retain]);
        assert_eq!(events.len(), kinds.len());
        for kind in &kinds {
            assert!(events.iter().any(|(_, event)| event == kind), "{kind}");
        }
        for (index, (second, _)) in events.iter().enumerate() {
            let part = 36.0 * index as f64;
            assert!((part..part + 36.0).contains(second), "{second}");
        }
    }

    #[test]
    fn a_long_run_has_one_rebuild_in_the_middle_and_retention_before_it() {
        let events = of(4.0, 1);
        assert_eq!(events.len(), 42);
        let second = |wanted| {
            let mut found = events.iter().filter(|(_, event)| *event == wanted);
            let (second, _) = found.next().unwrap();
            assert_eq!(found.next(), None);
            second / 3600.0
        };
        assert!((1.8..2.2).contains(&second(Event::Rebuild)));
        assert!((1.2..1.5).contains(&second(Event::Retain)));
        assert_eq!(events, of(4.0, 1));
        assert_ne!(events, of(4.0, 2));
    }

    #[test]
    fn documents_pause_once_in_a_cycle() {
        let quiet = |hours: u32| {
            let length = Duration::from_secs(u64::from(hours) * 3600);
            let minutes = 0..hours * 60;
            let quiet = minutes.filter(|minute| is_quiet(f64::from(minute * 60), length));
            quiet.collect::<Vec<u32>>()
        };
        assert_eq!(quiet(1)[..5], [11, 12, 13, 14, 26]);
        assert_eq!(quiet(1).len(), 16);
        assert_eq!(quiet(2)[..5], [25, 26, 27, 28, 29]);
        assert_eq!(quiet(2).len(), 20);
    }
}
