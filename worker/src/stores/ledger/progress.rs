//! How far a page range is: which of its pages are stored or skipped, and what they cost so far. Every
//! write sets all of it, so that a repeated write, or a range that is resumed, counts nothing twice.

use std::time::Duration;

use mongodb::bson::{Bson, Document, doc};
use serde::{Deserialize, Serialize};

use super::claims::path;
use super::{Claim, Entry, Ledger, RangeEntry, number};
use crate::runtime::failure::{Failure, Reason, Stage};
use crate::runtime::stage_times::StageTimes;

/// A page that cannot be rendered or embedded. The document's other pages are stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SkippedPage {
    /// The page, from 0.
    pub(crate) page: u32,
    /// The failure's reason, as text: another version of the worker may know further ones.
    pub(crate) reason: String,
    /// The failure's details, shortened. Only the first few pages of a range have them.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) message: String,
}

impl SkippedPage {
    /// Bytes of the details that are kept. A document may have thousands of skipped pages.
    const MESSAGE_BYTES: usize = 160;
    /// Pages of a range whose details are kept.
    const WITH_MESSAGE: usize = 4;

    pub(crate) fn new(page: u32, failure: &Failure) -> Self {
        let mut message = failure.message.clone();
        message.truncate(message.floor_char_boundary(Self::MESSAGE_BYTES));
        Self {
            page,
            reason: failure.reason.as_str().to_owned(),
            message,
        }
    }
}

impl RangeEntry {
    /// Adds the next pages: `good` ones with `rows` rows, and others that were skipped.
    pub(crate) fn add(&mut self, good: u32, rows: u64, skipped: Vec<SkippedPage>) {
        let bad = u32::try_from(skipped.len()).unwrap_or(u32::MAX);
        self.stored += good + bad;
        self.rows += rows;
        self.skipped.extend(skipped);
        self.skipped.sort_by_key(|skipped| skipped.page);
        for skipped in self.skipped.iter_mut().skip(SkippedPage::WITH_MESSAGE) {
            skipped.message.clear();
        }
    }

    /// Begins with the first page again. What the pages have cost so far stays.
    pub(crate) fn restart(&mut self) {
        self.stored = 0;
        self.rows = 0;
        self.skipped.clear();
    }

    /// Whether a worker holds a claim to the range. It may be dead.
    pub(crate) fn is_claimed(&self) -> bool {
        !self.done && !self.claim.is_empty() && self.was_begun()
    }

    /// The fields that hold the progress.
    fn progress(&self, first: u32) -> Result<Document, Failure> {
        let skipped = mongodb::bson::serialize_to_bson(&self.skipped).map_err(|error| {
            Failure::permanent(Stage::Mongodb, Reason::DocumentNotStorable, error)
        })?;
        let times = mongodb::bson::serialize_to_bson(&self.times_ms).map_err(|error| {
            Failure::permanent(Stage::Mongodb, Reason::DocumentNotStorable, error)
        })?;
        let fields: [(&str, Bson); 5] = [
            ("stored", i64::from(self.stored).into()),
            ("rows", number(self.rows).into()),
            ("skipped", skipped),
            ("cpu_ms", number(self.cpu_ms).into()),
            ("times_ms", times),
        ];
        let named = fields.map(|(field, value)| (path(first, field), value));
        Ok(named.into_iter().collect())
    }
}

impl Entry {
    /// The pages that were skipped so far, in order.
    pub(crate) fn skipped(&self) -> Vec<&SkippedPage> {
        let ranges = self.units.values();
        let mut skipped: Vec<_> = ranges.flat_map(|range| &range.skipped).collect();
        skipped.sort_by_key(|skipped| skipped.page);
        skipped
    }

    /// Number of pages that were not skipped.
    pub(crate) fn good_pages(&self) -> Option<u32> {
        let skipped: usize = self.units.values().map(|range| range.skipped.len()).sum();
        let skipped = u32::try_from(skipped).unwrap_or(u32::MAX);
        self.pages.map(|pages| pages.saturating_sub(skipped))
    }

    /// CPU time that reading and rendering the document has taken so far.
    pub(crate) fn cpu_time(&self) -> Duration {
        Duration::from_millis(self.units.values().map(|range| range.cpu_ms).sum())
    }

    /// How long the stages have worked on the document so far.
    pub(crate) fn times(&self) -> StageTimes {
        let mut sum = StageTimes::default();
        for range in self.units.values() {
            sum.add(range.times_ms);
        }
        sum
    }

    /// Rows that the document has in Milvus so far.
    pub(crate) fn rows(&self) -> u64 {
        self.units.values().map(|range| range.rows).sum()
    }
}

impl Ledger {
    /// Records how far the range is: its first pages are in all stores, or skipped. `None`: the
    /// claim is void.
    pub(crate) async fn record_progress(
        &self,
        claim: &Claim,
        range: &RangeEntry,
    ) -> Result<Option<Entry>, Failure> {
        let mut set = range.progress(claim.first)?;
        set.insert(path(claim.first, "attempts"), 1_i64);
        // Of workers that died on earlier pages.
        set.insert(path(claim.first, "ended"), Bson::Null);
        self.progress(&claim.filter(), set).await
    }

    /// Records the page that is worked on alone. `None`: the claim is void.
    pub(crate) async fn record_trial(
        &self,
        claim: &Claim,
        page: u32,
    ) -> Result<Option<Entry>, Failure> {
        let set = doc! { path(claim.first, "trial"): i64::from(page) };
        self.progress(&claim.filter(), set).await
    }

    /// Records the CPU time that the range has taken so far. `None`: the claim is void.
    pub(crate) async fn record_cpu_time(
        &self,
        claim: &Claim,
        cpu_ms: u64,
    ) -> Result<Option<Entry>, Failure> {
        let set = doc! { path(claim.first, "cpu_ms"): number(cpu_ms) };
        self.progress(&claim.filter(), set).await
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::stores::ledger::{State, an_entry};

    fn skipped(page: u32) -> SkippedPage {
        let failure = Failure::permanent(Stage::Render, Reason::TimedOut, format!("page {page}"));
        SkippedPage::new(page, &failure)
    }

    /// What happens to a worker between two pages.
    #[derive(Clone, Copy, Debug)]
    enum Interruption {
        None,
        /// It dies after it recorded its progress.
        Death,
        /// It dies before it recorded its progress.
        LostWrite,
        /// Milvus does not hold the rows.
        Restart,
    }

    fn interruption() -> impl Strategy<Value = Interruption> {
        prop_oneof![
            4 => Just(Interruption::None),
            2 => Just(Interruption::Death),
            2 => Just(Interruption::LostWrite),
            1 => Just(Interruption::Restart),
        ]
    }

    proptest! {
        /// However often the work is interrupted, each page counts once, as good or as skipped.
        #[test]
        fn a_resumed_range_counts_each_page_once(
            is_good in proptest::collection::vec(any::<bool>(), 1..30),
            interruptions in proptest::collection::vec((interruption(), 1_usize..5), 0..30),
            first in 0_u32..200,
        ) {
            let mut recorded = RangeEntry::default();
            let mut interruptions = interruptions.into_iter();
            while let Some(rest) = is_good.get(recorded.stored as usize..).filter(|it| !it.is_empty())
            {
                let (interruption, size) = interruptions.next().unwrap_or((Interruption::None, 3));
                let batch = &rest[..size.min(rest.len())];
                let mut range = recorded.clone();
                let start = first + range.stored;
                let (good, bad): (Vec<_>, Vec<_>) =
                    (start..).zip(batch).partition(|(_, is_good)| **is_good);
                let good = u32::try_from(good.len()).unwrap();
                let bad = bad.into_iter().map(|(page, _)| skipped(page)).collect();
                range.add(good, u64::from(good) * 3, bad);
                match interruption {
                    Interruption::None | Interruption::Death => recorded = range,
                    Interruption::LostWrite => {}
                    Interruption::Restart => {
                        range.restart();
                        recorded = range;
                    }
                }
            }
            let expected: Vec<u32> = (first..)
                .zip(&is_good)
                .filter_map(|(page, is_good)| (!is_good).then_some(page))
                .collect();
            let pages: Vec<u32> = recorded.skipped.iter().map(|skipped| skipped.page).collect();
            prop_assert_eq!(&pages, &expected);
            let good = is_good.len() - expected.len();
            prop_assert_eq!(recorded.rows, good as u64 * 3);
            prop_assert_eq!(recorded.stored as usize, is_good.len());
        }
    }

    #[test]
    fn a_document_sums_its_ranges() {
        let mut entry = an_entry(State::Working);
        entry.pages = Some(100);
        let range = |cpu_ms, pages: &[u32]| RangeEntry {
            cpu_ms,
            rows: 7,
            skipped: pages.iter().map(|page| skipped(*page)).collect(),
            ..RangeEntry::default()
        };
        // Texts are in another order than numbers.
        entry.units.insert("64".into(), range(1_000, &[70, 71]));
        entry.units.insert("8".into(), range(500, &[9]));
        let pages: Vec<u32> = entry.skipped().iter().map(|skipped| skipped.page).collect();
        assert_eq!(pages, [9, 70, 71]);
        assert_eq!(entry.good_pages(), Some(97));
        assert_eq!(entry.cpu_time(), Duration::from_millis(1_500));
        assert_eq!(entry.rows(), 14);
        for range in entry.units.values_mut() {
            range.times_ms.embed = 21;
        }
        assert_eq!(entry.times().embed, 42);
    }

    #[test]
    fn progress_is_read_as_it_was_written() {
        let range = RangeEntry {
            stored: 5,
            rows: 12,
            skipped: vec![skipped(65), skipped(67)],
            cpu_ms: 90,
            times_ms: StageTimes {
                embed: 70,
                ..StageTimes::default()
            },
            ..RangeEntry::default()
        };
        let mut written = doc! {};
        for (name, value) in range.progress(64).unwrap() {
            let field = name.strip_prefix("units.64.").unwrap().to_owned();
            written.insert(field, value);
        }
        let read: RangeEntry = mongodb::bson::deserialize_from_document(written).unwrap();
        assert_eq!(read, range);
        let earlier = doc! { "claim": "c", "stored": 5_i64, "rows": 12_i64 };
        let read: RangeEntry = mongodb::bson::deserialize_from_document(earlier).unwrap();
        assert_eq!((read.stored, read.skipped.len(), read.cpu_ms), (5, 0, 0));
    }

    #[test]
    fn the_details_of_a_skipped_page_are_short() {
        let failure = Failure::permanent(Stage::Render, Reason::Crashed, "é".repeat(500));
        assert_eq!(SkippedPage::new(0, &failure).message.len(), 160);
        let mut range = RangeEntry::default();
        range.add(3, 3, (0..8).map(skipped).collect());
        let kept = range
            .skipped
            .iter()
            .map(|skipped| !skipped.message.is_empty());
        assert_eq!(kept.filter(|kept| *kept).count(), 4);
        assert_eq!(range.stored, 11);
    }

    /// Workers before and after this version read each other's ranges.
    #[test]
    fn a_range_is_readable_without_fields_of_later_versions_and_with_them() {
        let earlier = mongodb::bson::doc! { "claim": "c", "attempts": 1_i64, "stored": 5_i64 };
        let read: RangeEntry = mongodb::bson::deserialize_from_document(earlier).unwrap();
        assert_eq!(
            (read.worker.as_deref(), read.times_ms),
            (None, StageTimes::default())
        );
        assert!(read.is_claimed());
        let times = mongodb::bson::doc! { "render": 7_i64, "polish": 1_i64 };
        let later = mongodb::bson::doc! { "claim": "c", "times_ms": times, "mood": "good" };
        let read: RangeEntry = mongodb::bson::deserialize_from_document(later).unwrap();
        assert_eq!(read.times_ms.render, 7);
    }
}
