//! Which collections are checked in a round, and what was found so far. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use layra_crds::{DriftedCollection, MOST_NAMED};

use super::IndexReport;

/// Collections that are checked for the first time in one round. Another round follows at once while
/// there are more.
const NEW_IN_ONE_ROUND: usize = 500;
/// Each collection is checked again within this time, so that a change by hand is seen within a
/// minute.
const TURN: Duration = Duration::from_secs(50);
/// Collections that a round checks again, of a few; of more, a round checks the part of [`ROUNDS`].
const ALL_OF_A_FEW: usize = 100;
/// Rounds in a turn, at most.
const ROUNDS: usize = 10;
/// Collections that a round checks again, at most. With more than 2,500 collections a turn takes
/// longer.
const AGAIN_IN_ONE_ROUND: usize = 250;

/// The results of earlier rounds.
#[derive(Debug, Default)]
pub(super) struct Check {
    collections: BTreeMap<String, Checked>,
    /// Collections that were not checked yet.
    unchecked: usize,
}

#[derive(Debug)]
struct Checked {
    at: Instant,
    found: Found,
}

/// What was found of a collection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// `None`: the index is that of the spec.
    pub(super) drift: Option<Drift>,
    /// The number of its vectors, if Milvus has said it.
    pub(super) vectors: Option<u64>,
}

/// How many vectors the collections of a pipeline have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CollectionSizes {
    /// Vectors of all collections.
    pub(crate) vectors: u64,
    /// The largest collections, with their vectors.
    pub(crate) largest: Vec<(String, u64)>,
}

/// How the index of a collection differs from the spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Drift {
    pub(super) difference: String,
    /// Nothing is found in it as it is, or there is nothing to find: it is mended at once.
    pub(super) is_urgent: bool,
}

impl Check {
    /// The collections to check in this round, of all that exist: new ones first, then those whose
    /// check is the oldest.
    pub(super) fn due(&mut self, all: &BTreeSet<&str>) -> Vec<String> {
        self.collections
            .retain(|name, _| all.contains(name.as_str()));
        let new = || {
            all.iter()
                .filter(|name| !self.collections.contains_key(**name))
        };
        let mut due: Vec<String> = new()
            .take(NEW_IN_ONE_ROUND)
            .map(|name| (*name).to_owned())
            .collect();
        self.unchecked = new().count();
        // New ones in several rounds must not wait for old ones.
        if due.len() < NEW_IN_ONE_ROUND {
            let mut known: Vec<(&String, &Checked)> = self.collections.iter().collect();
            known.sort_by_key(|(_, checked)| checked.at);
            let again = known.len().div_ceil(self.rounds()).min(AGAIN_IN_ONE_ROUND);
            due.extend(known.into_iter().take(again).map(|(name, _)| name.clone()));
        }
        due
    }

    /// The time from one round to the next.
    pub(super) fn interval(&self) -> Duration {
        TURN / u32::try_from(self.rounds()).unwrap_or(1)
    }

    fn rounds(&self) -> usize {
        self.collections
            .len()
            .div_ceil(ALL_OF_A_FEW)
            .clamp(1, ROUNDS)
    }

    pub(super) fn record(&mut self, name: String, found: Found, at: Instant) {
        let checked = Checked { at, found };
        if self.collections.insert(name, checked).is_none() {
            self.unchecked = self.unchecked.saturating_sub(1);
        }
    }

    pub(super) fn is_complete(&self) -> bool {
        self.unchecked == 0
    }

    pub(super) fn sizes(&self) -> CollectionSizes {
        let all = self.collections.iter();
        let mut largest: Vec<(&String, u64)> = all
            .filter_map(|(name, checked)| Some((name, checked.found.vectors?)))
            .collect();
        let vectors = largest.iter().map(|(_, vectors)| vectors).sum();
        largest.sort_by_key(|(_, vectors)| std::cmp::Reverse(*vectors));
        largest.truncate(MOST_NAMED);
        let largest = largest.into_iter();
        CollectionSizes {
            vectors,
            largest: largest
                .map(|(name, vectors)| (name.clone(), vectors))
                .collect(),
        }
    }

    pub(super) fn report(&self) -> IndexReport {
        let drifted = || {
            let all = self.collections.iter();
            all.filter_map(|(name, checked)| Some((name, checked.found.drift.as_ref()?)))
        };
        let examples = drifted()
            .take(MOST_NAMED)
            .map(|(name, drift)| DriftedCollection {
                name: name.clone(),
                difference: drift.difference.clone(),
            });
        IndexReport {
            collections: self.collections.len() + self.unchecked,
            checked: self.collections.len(),
            drifted: drifted().count(),
            urgent: drifted().filter(|(_, drift)| drift.is_urgent).count(),
            examples: examples.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|number| format!("kb{number:05}")).collect()
    }

    /// Checks what is due, and returns it.
    fn round(check: &mut Check, names: &[String], at: Instant) -> Vec<String> {
        let due = check.due(&names.iter().map(String::as_str).collect());
        for name in &due {
            let drift = Drift {
                difference: "M is 16, want 32".to_owned(),
                is_urgent: name.ends_with('0'),
            };
            let found = Found {
                drift: Some(drift),
                vectors: name[2..].parse().ok(),
            };
            check.record(name.clone(), found, at);
        }
        due
    }

    #[test]
    fn many_collections_are_checked_in_slices_and_a_few_are_named() {
        let mut check = Check::default();
        let (names, start) = (names(1_200), Instant::now());
        for expected in [500, 500, 300] {
            assert_eq!(round(&mut check, &names, start).len(), expected);
            assert!(check.report().checked <= 1_200);
        }
        assert!(check.is_complete());
        let report = check.report();
        assert_eq!(
            (report.collections, report.checked, report.drifted),
            (1_200, 1_200, 1_200)
        );
        assert_eq!(report.urgent, 120);
        assert_eq!(report.examples.len(), MOST_NAMED);
    }

    #[test]
    fn new_collections_are_checked_first_and_all_again_in_turn() {
        let mut check = Check::default();
        let mut names = names(600);
        let start = Instant::now();
        round(&mut check, &names, start);
        round(&mut check, &names, start);
        let first = round(&mut check, &names, start + Duration::from_secs(1));
        assert_eq!(first, names[..100]);
        names.push("new".to_owned());
        let next = round(&mut check, &names, start + Duration::from_secs(2));
        assert_eq!(next[0], "new");
        assert!(next.iter().all(|name| !first.contains(name)), "{next:?}");
    }

    #[test]
    fn every_collection_is_checked_again_within_a_minute_and_never_all_of_a_thousand_at_once() {
        for count in [1, 100, 101, 1_000, 2_500] {
            let mut check = Check::default();
            let (names, start) = (names(count), Instant::now());
            while check.collections.len() < count {
                round(&mut check, &names, start);
            }
            let (mut now, mut largest) = (start, 0);
            while check
                .collections
                .values()
                .any(|checked| checked.at == start)
            {
                now += check.interval();
                largest = round(&mut check, &names, now).len().max(largest);
            }
            assert!(now - start < Duration::from_mins(1), "{count}");
            assert!(
                largest <= ALL_OF_A_FEW.max(count / ROUNDS),
                "{count}: {largest}"
            );
        }
    }

    #[test]
    fn the_largest_collections_are_named_and_all_are_summed_up() {
        let mut check = Check::default();
        round(&mut check, &names(30), Instant::now());
        let sizes = check.sizes();
        assert_eq!(sizes.vectors, (0..30).sum::<u64>());
        assert_eq!(sizes.largest.len(), MOST_NAMED);
        assert_eq!(sizes.largest[0], ("kb00029".to_owned(), 29));
    }

    #[test]
    fn dropped_collections_are_forgotten() {
        let mut check = Check::default();
        round(&mut check, &names(3), Instant::now());
        round(&mut check, &names(1), Instant::now());
        assert_eq!(check.report().collections, 1);
    }
}
