//! Counts what is found of pages and documents, and what is missing on those that count as stored.

use std::collections::BTreeSet;

use layra_crds::metric_names::worker as names;
use layra_rendering::{DocumentWarning, PageWarning, RenderedPage};
use prometheus::core::Collector;
use prometheus::proto::MetricFamily;

use super::counts::whole;
use super::metrics::Metrics;
use super::reason::Reason;

/// How a renderer is lost.
const LOST: [Reason; 6] = [
    Reason::Crashed,
    Reason::GarbledAnswer,
    Reason::OutOfMemory,
    Reason::RendererKilled,
    Reason::RendererStalled,
    Reason::TimedOut,
];
const POINTS_PER_INCH: f64 = 72.0;

impl Metrics {
    /// Creates the series of labels with few values: `increase` does not see a series begin at 1.
    pub(super) fn start_at_zero(&self) {
        let pages = [PageWarning::Blank, PageWarning::NoText];
        let missing = PageWarning::MissingGlyphs(String::new());
        let documents = [DocumentWarning::FirstFrameOnly, DocumentWarning::XfaForm];
        let all = [
            (
                &self.files,
                vec![
                    names::STATUS_SUCCESS,
                    names::STATUS_FAILED,
                    names::STATUS_RETRIED,
                ],
            ),
            (
                &self.page_warnings,
                pages
                    .iter()
                    .chain([&missing])
                    .map(PageWarning::kind)
                    .collect(),
            ),
            (
                &self.document_warnings,
                documents.map(DocumentWarning::kind).to_vec(),
            ),
            (&self.renderers_lost, LOST.map(Reason::as_str).to_vec()),
            (
                &self.deletions,
                vec![names::KIND_FILE, names::KIND_KNOWLEDGE_BASE],
            ),
            (
                &self.foreign_messages,
                vec![names::ACTION_SKIP, names::ACTION_FORWARD],
            ),
            (
                &self.bucket_changes,
                vec![
                    names::RESULT_PRESENT,
                    names::RESULT_GONE,
                    names::RESULT_OUTSIDE_TEMPLATE,
                    names::RESULT_OWN_OBJECT,
                    names::RESULT_OTHER_BUCKET,
                ],
            ),
        ];
        for (counter, labels) in all {
            for label in labels {
                let _ = counter.with_label_values(&[label]);
            }
        }
    }

    /// Records a rendered page of a document of this format.
    pub(crate) fn record_page(&self, page: &RenderedPage, format: &str) {
        if page.page == 0 {
            self.documents_opened.with_label_values(&[format]).inc();
        }
        if let Some((width, height)) = page.facts.points {
            let (points, pixels) = if width > height {
                (width, page.width)
            } else {
                (height, page.height)
            };
            if points > 0.0 {
                let dpi = f64::from(pixels) * POINTS_PER_INCH / f64::from(points);
                self.page_dpi.observe(dpi);
            }
        }
    }

    /// Counts a renderer that ended before its document was done.
    pub(crate) fn count_lost_renderer(&self, reason: Reason) {
        if LOST.contains(&reason) {
            let counter = &self.renderers_lost;
            counter.with_label_values(&[reason.as_str()]).inc();
        }
    }

    /// Counts what is missing on a stored page. A page counts once for each kind.
    pub(crate) fn count_page_warnings(&self, warnings: &[PageWarning]) {
        for warning in warnings {
            if let PageWarning::MissingGlyphs(script) = warning {
                self.missing_glyphs.with_label_values(&[script]).inc();
            }
        }
        let kinds: BTreeSet<&str> = warnings.iter().map(PageWarning::kind).collect();
        for kind in kinds {
            self.page_warnings.with_label_values(&[kind]).inc();
        }
    }

    /// Counts what is missing on a document.
    pub(crate) fn count_document_warnings(&self, warnings: &[DocumentWarning]) {
        for warning in warnings {
            let counter = &self.document_warnings;
            counter.with_label_values(&[warning.kind()]).inc();
        }
    }

    /// Stored pages with this kind of warning. Reading the counter by its label would create it.
    pub(super) fn pages_with(&self, kind: &str) -> u64 {
        let families = self.page_warnings.collect();
        let all = families.iter().flat_map(MetricFamily::get_metric);
        let found = all.filter(|counter| {
            let mut labels = counter.get_label().iter();
            labels.any(|label| label.value() == kind)
        });
        whole(found.map(|counter| counter.get_counter().get_value()).sum())
    }
}
