//! The counts that the operator reads.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use layra_crds::metric_names::worker as names;
use layra_crds::{AssignedPartition, WorkerCounts};
use prometheus::core::Collector;
use prometheus::proto::MetricFamily;

use super::metrics::Metrics;

impl Metrics {
    /// The counts that the operator reads.
    pub(crate) fn counts(&self) -> WorkerCounts {
        self.update_longest();
        let assigned = self.assigned.lock().unwrap_or_else(PoisonError::into_inner);
        let partitions = assigned.iter().flat_map(|(topic, partitions)| {
            partitions.iter().map(|partition| AssignedPartition {
                topic: topic.clone(),
                partition: *partition,
            })
        });
        WorkerCounts {
            pages: self.pages.get(),
            documents: self.documents(),
            ranges: self.ranges.get(),
            range_pages: self.range_pages.get(),
            busy_seconds: self.busy_seconds.get(),
            longest_work_seconds: self.longest_work_seconds.get(),
            documents_in_flight: u32::try_from(self.documents_in_flight.get()).unwrap_or(0),
            partitions: partitions.collect(),
            processed_ahead: self.processed_ahead().clone(),
            blank_pages: self.pages_with("Blank"),
            pages_without_text: self.pages_with("NoText"),
            pages_with_missing_glyphs: self.pages_with("MissingGlyphs"),
            open_rechecks: self
                .rechecks_counted
                .load(Ordering::Relaxed)
                .then(|| u64::try_from(self.open_rechecks.get()).unwrap_or(0)),
            without_room: u64::try_from(self.without_room.get()).unwrap_or(0),
            ..WorkerCounts::default()
        }
    }

    /// Documents that were completed or failed for good.
    fn documents(&self) -> u64 {
        // Reading a counter by its label would create it.
        let families = self.files.collect();
        let counters = families.iter().flat_map(MetricFamily::get_metric);
        let ended = counters.filter(|counter| {
            let mut labels = counter.get_label().iter();
            labels.all(|label| label.value() != names::STATUS_RETRIED)
        });
        whole(ended.map(|counter| counter.get_counter().get_value()).sum())
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the value of a counter of whole numbers"
)]
pub(super) fn whole(count: f64) -> u64 {
    count as u64
}
