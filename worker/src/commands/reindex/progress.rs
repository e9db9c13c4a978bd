//! How far a run is, as the operator reads it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use layra_crds::{MOST_REINDEX_ENTRIES, ReindexEntry, ReindexPhase, ReindexProgress};

use crate::runtime::health::Health;

/// The state of a run.
#[derive(Debug)]
pub(super) struct Progress {
    state: Mutex<State>,
    health: Arc<Health>,
    started: Instant,
}

#[derive(Debug, Default)]
struct State {
    collections: u64,
    /// Those that wait, with their estimated rows.
    waiting: BTreeMap<String, u64>,
    entries: BTreeMap<String, Rebuilding>,
    message: String,
    /// Rows that this run has copied.
    copied: u64,
}

#[derive(Debug, Default)]
struct Rebuilding {
    phase: ReindexPhase,
    copied: u64,
    total: u64,
    message: String,
    /// Later ones are greater.
    order: u64,
}

impl Progress {
    pub(super) fn new(health: Arc<Health>) -> Self {
        Self {
            state: Mutex::default(),
            health,
            started: Instant::now(),
        }
    }

    /// Records what was found: the number of collections, and those that wait for their rebuild.
    pub(super) fn found(&self, collections: usize, waiting: BTreeMap<String, u64>) {
        let mut state = self.lock();
        state.collections = u64::try_from(collections).unwrap_or(u64::MAX);
        state.waiting = waiting;
    }

    pub(super) fn message(&self, message: &str) {
        message.clone_into(&mut self.lock().message);
    }

    pub(super) fn phase(&self, name: &str, phase: ReindexPhase, message: &str) {
        let mut state = self.lock();
        state.waiting.remove(name);
        let order = state.entries.values().map(|entry| entry.order).max();
        let entry = state.entries.entry(name.to_owned()).or_default();
        entry.phase = phase;
        entry.order = order.unwrap_or_default() + 1;
        message.clone_into(&mut entry.message);
    }

    pub(super) fn total(&self, name: &str, rows: u64) {
        self.lock()
            .entries
            .entry(name.to_owned())
            .or_default()
            .total = rows;
    }

    pub(super) fn copied(&self, name: &str, rows: u64) {
        let mut state = self.lock();
        let entry = state.entries.entry(name.to_owned()).or_default();
        // The first number is that of an earlier run.
        let more = if entry.copied == 0 {
            0
        } else {
            rows.saturating_sub(entry.copied)
        };
        entry.copied = rows;
        state.copied += more;
    }

    /// Forgets a collection that was dropped, or that another process rebuilds.
    pub(super) fn forget(&self, name: &str) {
        self.lock().entries.remove(name);
    }

    /// The number of collections in a phase.
    pub(super) fn count(&self, phase: ReindexPhase) -> u64 {
        count(&self.lock(), |entry| entry.phase == phase)
    }

    pub(super) fn report(&self) -> ReindexProgress {
        let state = self.lock();
        let rebuilding = count(&state, |entry| entry.phase.is_going_on());
        let failed = count(&state, |entry| entry.phase == ReindexPhase::Failed);
        let waiting = u64::try_from(state.waiting.len()).unwrap_or(u64::MAX);
        let mut retries = self.health.retries();
        retries.retain(|retry| !retry.is_empty());
        let message = if retries.is_empty() {
            state.message.clone()
        } else {
            retries.join("; ")
        };
        ReindexProgress {
            collections: state.collections,
            drifted: waiting + rebuilding + failed,
            rebuilding,
            done: count(&state, |entry| entry.phase == ReindexPhase::Done),
            failed,
            entries: entries(&state),
            eta_seconds: eta(&state, self.started.elapsed().as_secs_f64()),
            message,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn count(state: &State, choose: impl Fn(&Rebuilding) -> bool) -> u64 {
    let chosen = state.entries.values().filter(|entry| choose(entry));
    u64::try_from(chosen.count()).unwrap_or(u64::MAX)
}

fn entries(state: &State) -> Vec<ReindexEntry> {
    let rank = |phase: ReindexPhase| match phase {
        ReindexPhase::Done => 2,
        ReindexPhase::Failed => 1,
        _ => 0,
    };
    let mut all: Vec<_> = state.entries.iter().collect();
    all.sort_by_key(|(_, entry)| (rank(entry.phase), std::cmp::Reverse(entry.order)));
    let first = all.into_iter().take(MOST_REINDEX_ENTRIES);
    first
        .map(|(name, entry)| ReindexEntry {
            name: name.clone(),
            phase: entry.phase,
            copied: entry.copied,
            total: entry.total,
            message: entry.message.clone(),
        })
        .collect()
}

/// From the speed of this run so far.
fn eta(state: &State, elapsed: f64) -> Option<u64> {
    let copying = state.entries.values();
    let copying = copying.filter(|entry| entry.phase == ReindexPhase::Copying);
    let left: u64 = copying
        .map(|entry| entry.total.saturating_sub(entry.copied))
        .sum();
    let left = left + state.waiting.values().sum::<u64>();
    if state.copied == 0 || elapsed <= 0.0 {
        return None;
    }
    let seconds = left as f64 * elapsed / state.copied as f64;
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a whole number"
    )]
    let seconds = seconds.clamp(0.0, 1e12).round() as u64;
    Some(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_has_the_counts_and_the_names_that_matter_most() {
        let progress = Progress::new(Arc::default());
        let waiting = (0..30).map(|number| (format!("c{number:02}"), 100));
        progress.found(40, waiting.collect());
        for number in 0..25 {
            progress.phase(&format!("c{number:02}"), ReindexPhase::Done, "");
        }
        progress.phase("c25", ReindexPhase::Failed, "why");
        progress.phase("c26", ReindexPhase::Copying, "");
        progress.total("c26", 100);
        progress.copied("c26", 10);
        let report = progress.report();
        assert_eq!((report.collections, report.drifted), (40, 5));
        assert_eq!((report.rebuilding, report.done, report.failed), (1, 25, 1));
        assert_eq!(report.entries.len(), MOST_REINDEX_ENTRIES);
        let names: Vec<&str> = report.entries.iter().map(|entry| &*entry.name).collect();
        assert_eq!(names[..3], ["c26", "c25", "c24"]);
        assert_eq!(report.eta_seconds, None);
        progress.copied("c26", 20);
        assert!(progress.report().eta_seconds.is_some());
    }
}
