//! Watches the documents in the ledger until each is searchable or has failed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use layra_crds::{LoadLine, LoadProgress, LoadResult, Spread};

use super::{Load, Sent, print};
use crate::runtime::failure::{Failure, Stage};
use crate::stores::ledger::{Entry, State};

/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(500);
/// Between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(1);
/// Documents that the ledger is asked about at once.
const AT_ONCE: usize = 200;
/// Failures that are listed.
const LISTED: usize = 10;

/// What was seen so far.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// When a worker had begun a document.
    begun: Option<Instant>,
    /// When each document was searchable.
    searchable: BTreeMap<String, Instant>,
    failed: BTreeSet<String>,
    failures: Vec<String>,
    pages: u64,
    skipped: u32,
    lag: Option<i64>,
    highest_lag: Option<i64>,
}

impl Watch {
    /// Returns once every document is searchable or has failed, or [`Load::stop`] is cancelled.
    pub(super) async fn run(&mut self, load: &Load<'_>) -> Result<(), Failure> {
        let mut printed: Option<Instant> = None;
        loop {
            if let Err(failure) = self.look(load).await {
                if load.stop.is_cancelled() {
                    return Ok(());
                }
                load.stop.cancel();
                return Err(failure);
            }
            let is_over = self.settled() == load.args.documents as usize;
            if is_over || printed.is_none_or(|at| at.elapsed() >= PROGRESS) {
                printed = Some(Instant::now());
                let progress = self.progress(&load.sent_documents(), load.started);
                // Without a reader the documents are still deleted at the end.
                let _ = print(&LoadLine::Progress(progress));
            }
            if is_over || load.stop.is_cancelled() {
                return Ok(());
            }
            load.pause(INTERVAL).await;
        }
    }

    fn settled(&self) -> usize {
        self.searchable.len() + self.failed.len()
    }

    async fn look(&mut self, load: &Load<'_>) -> Result<(), Failure> {
        let retry = load.common.retry();
        let open: Vec<String> = load
            .sent_documents()
            .into_iter()
            .filter(|sent| sent.at.is_some())
            .map(|sent| sent.file_id)
            .filter(|id| !self.searchable.contains_key(id) && !self.failed.contains(id))
            .collect();
        for ids in open.chunks(AT_ONCE) {
            let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
            let find = |_| load.stores.ledger.find_all(&ids);
            let entries = retry.run(Stage::Mongodb, &load.stop, find).await?;
            let now = Instant::now();
            for entry in &entries {
                self.note(entry, now);
            }
        }
        // It decides nothing.
        if let Ok(lag) = load.committed.lag().await {
            self.lag = Some(lag);
            self.highest_lag = self.highest_lag.max(Some(lag));
        }
        Ok(())
    }

    fn note(&mut self, entry: &Entry, now: Instant) {
        let file_id = &entry.file_id;
        if entry.is_begun() {
            self.begun.get_or_insert(now);
        }
        match entry.state {
            State::Working => {}
            State::Done => {
                self.searchable.insert(file_id.clone(), now);
                self.pages += u64::from(entry.pages.unwrap_or_default());
                let skipped: usize = entry.units.values().map(|unit| unit.skipped.len()).sum();
                self.skipped += count(skipped);
            }
            State::Failed | State::Deleted => {
                self.failed.insert(file_id.clone());
                let why = entry.failure.as_ref().map_or_else(
                    || "somebody has deleted it".to_owned(),
                    |failure| format!("{}: {}", failure.reason, failure.message),
                );
                if self.failures.len() < LISTED {
                    self.failures.push(format!("{file_id}: {why}"));
                }
            }
        }
    }

    fn pages_per_second(&self, until: Instant) -> Option<f64> {
        let seconds = until.saturating_duration_since(self.begun?).as_secs_f64();
        let pages = self.pages as f64;
        (pages > 0.0 && seconds > 0.0).then(|| pages / seconds)
    }

    fn progress(&self, sent: &[Sent], started: Instant) -> LoadProgress {
        LoadProgress {
            seconds: started.elapsed().as_secs_f64(),
            sent: count(sent.iter().filter(|sent| sent.at.is_some()).count()),
            searchable: count(self.searchable.len()),
            failed: count(self.failed.len()),
            lag: self.lag,
            pages_per_second: self.pages_per_second(Instant::now()),
        }
    }

    /// Writes what was seen into the result.
    pub(super) fn conclude(self, sent: &[Sent], result: &mut LoadResult) {
        let times: Vec<Instant> = sent.iter().filter_map(|sent| sent.at).collect();
        let (first, last) = (times.iter().min(), times.iter().max());
        result.sent = count(times.len());
        result.searchable = count(self.searchable.len());
        result.failed = count(self.failed.len());
        if let (Some(first), Some(last)) = (first, last) {
            result.sending_seconds = last.duration_since(*first).as_secs_f64();
            let begun = self.begun;
            result.begun_after_seconds =
                begun.map(|begun| begun.saturating_duration_since(*first).as_secs_f64());
        }
        let end = self.searchable.values().max();
        result.pages_per_second = end.and_then(|end| self.pages_per_second(*end));
        let took = sent.iter().filter_map(|sent| {
            let searchable = self.searchable.get(&sent.file_id)?;
            Some(searchable.saturating_duration_since(sent.at?).as_secs_f64())
        });
        result.to_searchable = Spread::of(took.collect());
        result.example = self.searchable.keys().next().cloned();
        result.highest_lag = self.highest_lag;
        result.skipped_pages = self.skipped;
        result.failures = self.failures;
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stores::ledger::Rejection;
    use crate::stores::ledger::an_entry;

    #[test]
    fn what_was_seen_becomes_the_result() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let document = |id: &str, state| Entry {
            file_id: id.to_owned(),
            pages: Some(50),
            prepared: true,
            failure: None,
            ..an_entry(state)
        };
        let mut watch = Watch::default();
        watch.note(&document("a", State::Working), at(4));
        watch.note(&document("a", State::Done), at(9));
        watch.note(&document("b", State::Done), at(14));
        let mut failed = document("c", State::Failed);
        failed.failure = Some(Rejection {
            stage: "render".into(),
            reason: "Damaged".into(),
            message: "no page tree".into(),
            poison: false,
            claim: String::new(),
            letter: true,
            redriven: false,
        });
        watch.note(&failed, at(15));
        let sent = |id: &str, seconds| Sent {
            file_id: id.to_owned(),
            key: id.to_owned(),
            at: Some(at(seconds)),
        };
        let mut result = LoadResult::default();
        watch.conclude(&[sent("a", 0), sent("b", 1), sent("c", 2)], &mut result);
        assert_eq!((result.sent, result.searchable, result.failed), (3, 2, 1));
        assert_eq!(result.failures, ["c: Damaged: no page tree"]);
        let seconds = (result.begun_after_seconds, Some(result.sending_seconds));
        assert_eq!(seconds, (Some(4.0), Some(2.0)));
        assert_eq!(result.pages_per_second, Some(10.0));
        let took = result.to_searchable.unwrap();
        assert_eq!((took.median, took.longest), (9.0, 13.0));
    }
}
