//! Counts what is missing on pages and documents that count as stored.

use std::collections::BTreeSet;

use layra_rendering::{DocumentWarning, PageWarning};
use prometheus::core::Collector;
use prometheus::proto::MetricFamily;

use super::metrics::{Metrics, whole};

impl Metrics {
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
