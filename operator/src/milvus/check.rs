//! Which collections are checked in a round, and what was found so far. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use layra_crds::DriftedCollection;

use super::IndexReport;

/// Collections that are checked for the first time in one round. Another round follows at once while
/// there are more.
const NEW_IN_ONE_ROUND: usize = 500;
/// Collections that are checked again in one round: at least this many, or this part of all.
const AGAIN_IN_ONE_ROUND: usize = 200;
const AGAIN_PART: usize = 10;
/// Collections that the report names.
const MOST_NAMED: usize = 20;

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
    /// How its index differs from the spec.
    difference: Option<String>,
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
        let mut known: Vec<(&String, &Checked)> = self.collections.iter().collect();
        known.sort_by_key(|(_, checked)| checked.at);
        let again = AGAIN_IN_ONE_ROUND.max(all.len() / AGAIN_PART);
        // New ones in several rounds must not wait for old ones.
        let again = if due.is_empty() || known.len() <= AGAIN_IN_ONE_ROUND {
            again
        } else {
            0
        };
        due.extend(known.into_iter().take(again).map(|(name, _)| name.clone()));
        due
    }

    pub(super) fn record(&mut self, name: String, difference: Option<String>, at: Instant) {
        let checked = Checked { at, difference };
        if self.collections.insert(name, checked).is_none() {
            self.unchecked = self.unchecked.saturating_sub(1);
        }
    }

    pub(super) fn is_complete(&self) -> bool {
        self.unchecked == 0
    }

    pub(super) fn report(&self) -> IndexReport {
        let drifted = || {
            self.collections.iter().filter_map(|(name, checked)| {
                Some(DriftedCollection {
                    name: name.clone(),
                    difference: checked.difference.clone()?,
                })
            })
        };
        IndexReport {
            collections: self.collections.len() + self.unchecked,
            checked: self.collections.len(),
            drifted: drifted().count(),
            examples: drifted().take(MOST_NAMED).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|number| format!("kb{number:05}")).collect()
    }

    /// Checks what is due, and returns it.
    fn round(check: &mut Check, names: &[String], at: Instant) -> Vec<String> {
        let due = check.due(&names.iter().map(String::as_str).collect());
        for name in &due {
            check.record(name.clone(), Some("M is 16, want 32".to_owned()), at);
        }
        due
    }

    #[test]
    fn many_collections_are_checked_in_slices_and_a_few_are_named() {
        let mut check = Check::default();
        let (names, start) = (names(1_200), Instant::now());
        for expected in [500, 500, 200] {
            assert_eq!(round(&mut check, &names, start).len(), expected);
            assert!(check.report().checked <= 1_200);
        }
        assert!(check.is_complete());
        let report = check.report();
        assert_eq!(
            (report.collections, report.checked, report.drifted),
            (1_200, 1_200, 1_200)
        );
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
        assert_eq!(first, names[..200]);
        names.push("new".to_owned());
        assert_eq!(round(&mut check, &names, start), ["new"]);
        let next = round(&mut check, &names, start + Duration::from_secs(2));
        assert!(next.iter().all(|name| !first.contains(name)), "{next:?}");
    }

    #[test]
    fn dropped_collections_are_forgotten() {
        let mut check = Check::default();
        round(&mut check, &names(3), Instant::now());
        round(&mut check, &names(1), Instant::now());
        assert_eq!(check.report().collections, 1);
    }
}
