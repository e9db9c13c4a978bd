//! Each term of the last scaling decision as a metric. What a decision did not know has no value.

use layra_autoscaler::{Decision, Limit};
use prometheus::{GaugeVec, IntGaugeVec, Opts, Registry};

const PIPELINE: &[&str] = &["namespace", "pipeline"];

/// A number of a decision: its metric, what it says, and where it stands.
struct Quantity {
    name: &'static str,
    help: &'static str,
    of: fn(&Decision) -> Option<f64>,
}

const QUANTITIES: [Quantity; 12] = [
    Quantity {
        name: "layra_operator_backlog_pages",
        help: "Pages that are not done, by the pages that a document has on average.",
        of: |decision| decision.inputs.pages,
    },
    Quantity {
        name: "layra_operator_backlog_ranges",
        help: "Ranges of split documents that are not done.",
        of: |decision| decision.inputs.ranges.map(|ranges| ranges as f64),
    },
    Quantity {
        name: "layra_operator_backlog_oldest_seconds",
        help: "How long the oldest message has waited, at least.",
        of: |decision| decision.inputs.oldest_seconds,
    },
    Quantity {
        name: "layra_operator_arriving_pages_per_second",
        help: "Pages that arrive a second, over the last five minutes.",
        of: |decision| decision.inputs.arriving,
    },
    Quantity {
        name: "layra_operator_partitions_with_work",
        help: "Partitions with work, of both topics.",
        of: |decision| decision.inputs.partitions_with_work.map(f64::from),
    },
    Quantity {
        name: "layra_operator_stuck_partitions",
        help: "Partitions whose work does not move.",
        of: |decision| Some(decision.stuck.len() as f64),
    },
    Quantity {
        name: "layra_operator_starting_workers",
        help: "Workers that start.",
        of: |decision| Some(f64::from(decision.inputs.starting)),
    },
    Quantity {
        name: "layra_operator_waiting_workers",
        help: "Workers that wait for a node.",
        of: |decision| Some(f64::from(decision.inputs.pending)),
    },
    Quantity {
        name: "layra_operator_worker_pages_per_second",
        help: "Pages a second of one worker that has work, as learned or assumed.",
        of: |decision| Some(decision.learned.pages_per_second),
    },
    Quantity {
        name: "layra_operator_document_pages",
        help: "Pages of a document, as learned or assumed.",
        of: |decision| Some(decision.learned.pages_per_document),
    },
    Quantity {
        name: "layra_operator_worker_startup_seconds",
        help: "Time from a worker's node to its first readiness, as learned or assumed.",
        of: |decision| Some(decision.learned.startup_seconds),
    },
    Quantity {
        name: "layra_operator_worker_longest_work_seconds",
        help: "Time of the longest document or range of pages seen.",
        of: |decision| Some(decision.learned.longest_seconds),
    },
];

/// A term of the law: its label, and where it stands.
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

/// The metrics.
#[derive(Clone)]
pub(super) struct ScalingMetrics {
    quantities: Vec<GaugeVec>,
    terms: IntGaugeVec,
    limits: IntGaugeVec,
}

impl ScalingMetrics {
    /// Registers them.
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let mut quantities = Vec::new();
        for quantity in &QUANTITIES {
            let gauge = GaugeVec::new(Opts::new(quantity.name, quantity.help), PIPELINE)?;
            registry.register(Box::new(gauge.clone()))?;
            quantities.push(gauge);
        }
        let terms = IntGaugeVec::new(
            Opts::new(
                "layra_operator_scaling_term_workers",
                "A term of the last scaling decision, in workers.",
            ),
            &["namespace", "pipeline", "term"],
        )?;
        registry.register(Box::new(terms.clone()))?;
        let limits = IntGaugeVec::new(
            Opts::new(
                "layra_operator_scaling_limited",
                "1 while this kept the number of workers from following the work alone.",
            ),
            &["namespace", "pipeline", "limit"],
        )?;
        registry.register(Box::new(limits.clone()))?;
        Ok(Self {
            quantities,
            terms,
            limits,
        })
    }

    /// Shows a decision. Without one, in mode Manual or while paused, there are no values.
    pub(super) fn observe(&self, labels: &[&str; 2], decision: Option<&Decision>) {
        let Some(decision) = decision else {
            self.forget(labels);
            return;
        };
        for (quantity, gauge) in QUANTITIES.iter().zip(&self.quantities) {
            match (quantity.of)(decision) {
                Some(value) => gauge.with_label_values(labels).set(value),
                // It fails only where there was no value.
                None => drop(gauge.remove_label_values(labels)),
            }
        }
        let [namespace, pipeline] = *labels;
        for (term, of) in TERMS {
            let labels = &[namespace, pipeline, term];
            match of(decision) {
                Some(value) => self.terms.with_label_values(labels).set(value.into()),
                None => drop(self.terms.remove_label_values(labels)),
            }
        }
        for limit in Limit::ALL {
            let labels = &[namespace, pipeline, limit.as_str()];
            let holds = decision.limits.contains(&limit);
            self.limits.with_label_values(labels).set(holds.into());
        }
    }

    /// A pipeline is gone.
    pub(super) fn forget(&self, labels: &[&str; 2]) {
        for gauge in &self.quantities {
            let _ = gauge.remove_label_values(labels);
        }
        let [namespace, pipeline] = *labels;
        for (term, _) in TERMS {
            let _ = self.terms.remove_label_values(&[namespace, pipeline, term]);
        }
        for limit in Limit::ALL {
            let labels = &[namespace, pipeline, limit.as_str()];
            let _ = self.limits.remove_label_values(labels);
        }
    }
}

#[cfg(test)]
mod tests {
    use layra_autoscaler::{Inputs, Learned, Reason, Terms};
    use prometheus::{Encoder, TextEncoder};

    use super::*;

    fn decision() -> Decision {
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
                startup_seconds: 30.0,
                longest_seconds: 12.0,
            },
            is_learned: true,
            stuck: Vec::new(),
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
    fn every_term_of_a_decision_is_a_metric_and_what_is_unknown_is_absent() {
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
