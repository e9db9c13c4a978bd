//! The numbers of the last scaling decision as metrics. A number that was unknown has no value.

use layra_autoscaler::{Decision, Limit};
use layra_crds::metric_names::operator as names;
use prometheus::Registry;

use super::gauges::PipelineGauge;

/// A number of a decision as a metric.
struct Quantity {
    name: &'static str,
    help: &'static str,
    value: fn(&Decision) -> Option<f64>,
}

const QUANTITIES: [Quantity; 13] = [
    Quantity {
        name: names::BACKLOG_PAGES,
        help: "Estimated pages in the backlog: documents times average pages, plus page ranges.",
        value: |decision| decision.inputs.pages,
    },
    Quantity {
        name: names::BACKLOG_RANGES,
        help: "Page ranges of split documents in the backlog.",
        value: |decision| decision.inputs.ranges.map(|ranges| ranges as f64),
    },
    Quantity {
        name: names::BACKLOG_OLDEST_SECONDS,
        help: "Lower bound of the age of the oldest message in the backlog.",
        value: |decision| decision.inputs.oldest_seconds,
    },
    Quantity {
        name: names::ARRIVING_PAGES_PER_SECOND,
        help: "Pages that arrived per second in the last five minutes.",
        value: |decision| decision.inputs.arriving,
    },
    Quantity {
        name: names::PARTITIONS_WITH_WORK,
        help: "Partitions of both topics with a backlog.",
        value: |decision| decision.inputs.partitions_with_work.map(f64::from),
    },
    Quantity {
        name: names::STUCK_PARTITIONS,
        help: "Partitions with a backlog and no progress.",
        value: |decision| Some(decision.stuck.len() as f64),
    },
    Quantity {
        name: names::STARTING_WORKERS,
        help: "Workers that have a node and are not ready yet.",
        value: |decision| Some(f64::from(decision.inputs.starting)),
    },
    Quantity {
        name: names::WAITING_WORKERS,
        help: "Pending workers: no node has room for them.",
        value: |decision| Some(f64::from(decision.inputs.pending)),
    },
    Quantity {
        name: names::WORKER_PAGES_PER_SECOND,
        help: "Pages per second of one busy worker, measured or assumed.",
        value: |decision| Some(decision.learned.pages_per_second),
    },
    Quantity {
        name: names::DOCUMENT_PAGES,
        help: "Pages per document, measured or assumed.",
        value: |decision| Some(decision.learned.pages_per_document),
    },
    Quantity {
        name: names::WORKER_STARTUP_SECONDS,
        help: "Seconds from scheduling to readiness of a worker, measured or assumed.",
        value: |decision| Some(decision.learned.startup_seconds),
    },
    Quantity {
        name: names::WORKER_PROVISIONING_SECONDS,
        help: "Seconds until a worker is placed on a node, measured; 0 while nodes have room.",
        value: |decision| Some(decision.learned.provisioning_seconds),
    },
    Quantity {
        name: names::WORKER_LONGEST_WORK_SECONDS,
        help: "Seconds that the longest recent document or page range took.",
        value: |decision| Some(decision.learned.longest_seconds),
    },
];

/// A term of the scaling formula: its label and its value.
type Term = (&'static str, fn(&Decision) -> Option<u32>);

const TERMS: [Term; 6] = [
    ("for_arrivals", |decision| {
        Some(decision.terms?.for_arrivals)
    }),
    ("for_backlog", |decision| Some(decision.terms?.for_backlog)),
    ("to_scale_down", |decision| {
        Some(decision.terms?.to_scale_down)
    }),
    ("floor", |decision| Some(decision.terms?.floor)),
    ("ceiling", |decision| Some(decision.terms?.ceiling)),
    ("window", |decision| decision.terms?.window),
];

/// The metrics of scaling decisions.
#[derive(Clone)]
pub(super) struct ScalingMetrics {
    quantities: Vec<PipelineGauge>,
    terms: PipelineGauge,
    limits: PipelineGauge,
}

impl ScalingMetrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let quantity =
            |quantity: &Quantity| PipelineGauge::new(registry, quantity.name, quantity.help, None);
        let quantities = QUANTITIES.iter().map(quantity).collect::<Result<_, _>>()?;
        let terms = PipelineGauge::new(
            registry,
            names::SCALING_TERM_WORKERS,
            "A term of the last scaling decision, in workers.",
            Some(names::TERM_LABEL),
        )?;
        let limits = PipelineGauge::new(
            registry,
            names::SCALING_LIMITED,
            "1 while this limit keeps the number of workers from following the backlog.",
            Some(names::LIMIT_LABEL),
        )?;
        Ok(Self {
            quantities,
            terms,
            limits,
        })
    }

    /// Sets the metrics of a decision. Without one, in mode Manual or while paused, they are removed.
    pub(super) fn observe(&self, labels: &[&str; 2], decision: Option<&Decision>) {
        let Some(decision) = decision else {
            self.forget(labels);
            return;
        };
        for (quantity, gauge) in QUANTITIES.iter().zip(&self.quantities) {
            gauge.set(labels, (quantity.value)(decision));
        }
        let terms = TERMS.iter();
        let terms = terms.filter_map(|(term, value)| Some((*term, f64::from(value(decision)?))));
        self.terms.set_all(labels, terms);
        let limits = Limit::ALL.into_iter().map(|limit| {
            let applies = decision.limits.contains(&limit);
            (limit.as_str(), f64::from(u8::from(applies)))
        });
        self.limits.set_all(labels, limits);
    }

    /// Removes the metrics of a deleted pipeline.
    pub(super) fn forget(&self, labels: &[&str; 2]) {
        let gauges = self.quantities.iter();
        for gauge in gauges.chain([&self.terms, &self.limits]) {
            gauge.remove(labels);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use layra_autoscaler::{Inputs, Learned, Reason, Terms};
    use prometheus::{Encoder, TextEncoder};

    use super::*;

    pub(in crate::telemetry) fn decision() -> Decision {
        Decision {
            desired: 3,
            reason: Reason::Draining,
            message: String::new(),
            limits: vec![Limit::MaxReplicas],
            inputs: Inputs {
                documents: Some(40),
                pages: Some(400.0),
                ..Inputs::default()
            },
            terms: Some(Terms {
                for_arrivals: 1,
                for_backlog: 5,
                to_scale_down: 6,
                floor: 0,
                ceiling: 3,
                window: None,
                window_seconds: 60,
            }),
            learned: Learned {
                pages_per_second: 2.5,
                pages_per_document: 10.0,
                provisioning_seconds: 0.0,
                startup_seconds: 30.0,
                longest_seconds: 12.0,
            },
            is_learned: true,
            stuck: Vec::new(),
            waiting_for: Vec::new(),
            outage_seconds: 0.0,
            unmeasured: 0,
            open_rechecks: 0,
        }
    }

    fn text(registry: &Registry) -> String {
        let mut text = Vec::new();
        TextEncoder::new()
            .encode(&registry.gather(), &mut text)
            .unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn every_number_of_a_decision_is_a_metric_and_an_unknown_one_is_absent() {
        let registry = Registry::new();
        let metrics = ScalingMetrics::new(&registry).unwrap();
        metrics.observe(&["rag", "contracts"], Some(&decision()));
        let shown = text(&registry);
        let pipeline = "namespace=\"rag\"";
        for line in [
            format!("layra_operator_backlog_pages{{{pipeline},pipeline=\"contracts\"}} 400"),
            format!(
                "layra_operator_worker_pages_per_second{{{pipeline},pipeline=\"contracts\"}} 2.5"
            ),
            format!(
                "layra_operator_scaling_term_workers{{{pipeline},pipeline=\"contracts\",term=\"for_backlog\"}} 5"
            ),
            format!(
                "layra_operator_scaling_limited{{limit=\"MaxReplicas\",{pipeline},pipeline=\"contracts\"}} 1"
            ),
            format!(
                "layra_operator_scaling_limited{{limit=\"Unknown\",{pipeline},pipeline=\"contracts\"}} 0"
            ),
        ] {
            assert!(shown.contains(&line), "{line} is missing in\n{shown}");
        }
        assert!(!shown.contains("layra_operator_arriving_pages_per_second{"));
        assert!(!shown.contains("term=\"window\""));
        metrics.observe(&["rag", "contracts"], None);
        assert!(!text(&registry).contains("contracts"));
    }
}
