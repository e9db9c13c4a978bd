//! Gauges of pipelines. The gauges of the Prometheus client keep their name, help and labels in
//! every series, about a kilobyte; with forty series a pipeline that would be most of the operator's
//! memory. Here a family has one entry a pipeline.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use layra_crds::metric_names::operator as names;
use prometheus::{
    Registry,
    core::{Collector, Desc},
    proto::{Gauge, LabelPair, Metric, MetricFamily, MetricType},
};

/// A gauge for each pipeline, or for each pipeline and value of one more label.
#[derive(Clone)]
pub(super) struct PipelineGauge {
    desc: Arc<Desc>,
    /// The label in addition to those of the pipeline; its value is empty without one.
    label: Option<&'static str>,
    values: Arc<Mutex<Values>>,
}

/// By the value of the additional label.
type Values = BTreeMap<Pipeline, Vec<(Cow<'static, str>, f64)>>;

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Pipeline {
    namespace: Box<str>,
    name: Box<str>,
}

impl PipelineGauge {
    /// Registers the gauge.
    pub(super) fn new(
        registry: &Registry,
        name: &str,
        help: &str,
        label: Option<&'static str>,
    ) -> Result<Self, prometheus::Error> {
        let labels = [names::NAMESPACE_LABEL, names::PIPELINE_LABEL];
        let labels = labels.into_iter().chain(label).map(str::to_owned).collect();
        let desc = Desc::new(name.to_owned(), help.to_owned(), labels, HashMap::new())?;
        let gauge = Self {
            desc: Arc::new(desc),
            label,
            values: Arc::default(),
        };
        registry.register(Box::new(gauge.clone()))?;
        Ok(gauge)
    }

    /// Sets the values of a pipeline, by the value of the additional label; it has no others
    /// afterwards.
    pub(super) fn set_all<Label: Into<Cow<'static, str>>>(
        &self,
        [namespace, name]: &[&str; 2],
        values: impl IntoIterator<Item = (Label, f64)>,
    ) {
        let pipeline = Pipeline {
            namespace: (*namespace).into(),
            name: (*name).into(),
        };
        let values = values.into_iter();
        let values: Vec<_> = values.map(|(label, value)| (label.into(), value)).collect();
        if values.is_empty() {
            self.lock().remove(&pipeline);
        } else {
            self.lock().insert(pipeline, values);
        }
    }

    /// Sets the value of a pipeline, or removes it.
    pub(super) fn set(&self, labels: &[&str; 2], value: Option<f64>) {
        self.set_all(labels, value.map(|value| ("", value)));
    }

    /// Removes the values of a pipeline.
    pub(super) fn remove(&self, labels: &[&str; 2]) {
        self.set(labels, None);
    }

    fn lock(&self) -> MutexGuard<'_, Values> {
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collector for PipelineGauge {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let values = self.lock();
        let series = values.iter().flat_map(|(pipeline, values)| {
            values.iter().map(move |(value_label, value)| {
                let mut labels = vec![
                    pair(names::NAMESPACE_LABEL, &pipeline.namespace),
                    pair(names::PIPELINE_LABEL, &pipeline.name),
                ];
                labels.extend(self.label.map(|label| pair(label, value_label)));
                labels.sort();
                let mut gauge = Gauge::default();
                gauge.set_value(*value);
                let mut metric = Metric::from_label(labels);
                metric.set_gauge(gauge);
                metric
            })
        });
        let mut family = MetricFamily::default();
        family.set_name(self.desc.fq_name.clone());
        family.set_help(self.desc.help.clone());
        family.set_field_type(MetricType::GAUGE);
        family.set_metric(series.collect());
        vec![family]
    }
}

fn pair(name: &str, value: &str) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.to_owned());
    pair
}

#[cfg(test)]
mod tests {
    use prometheus::{Encoder, TextEncoder};

    use super::*;

    fn text(registry: &Registry) -> String {
        let mut text = Vec::new();
        let encoder = TextEncoder::new();
        encoder.encode(&registry.gather(), &mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn the_text_is_that_of_the_clients_own_gauges() {
        let registry = Registry::new();
        let lag = PipelineGauge::new(&registry, "lag", "Messages.", None).unwrap();
        let terms = PipelineGauge::new(&registry, "terms", "Workers.", Some("term")).unwrap();
        let pipeline = ["rag", "contracts"];
        lag.set(&pipeline, Some(7.0));
        terms.set_all(&pipeline, [("floor", 0.0), ("ceiling", 4.0)]);

        let theirs = Registry::new();
        let labels = ["namespace", "pipeline"];
        let opts = |name, help| prometheus::Opts::new(name, help);
        let gauge = prometheus::GaugeVec::new(opts("lag", "Messages."), &labels).unwrap();
        gauge.with_label_values(&pipeline).set(7.0);
        theirs.register(Box::new(gauge)).unwrap();
        let labels = ["namespace", "pipeline", "term"];
        let gauge = prometheus::GaugeVec::new(opts("terms", "Workers."), &labels).unwrap();
        for (term, value) in [("floor", 0.0), ("ceiling", 4.0)] {
            let [namespace, name] = pipeline;
            gauge.with_label_values(&[namespace, name, term]).set(value);
        }
        theirs.register(Box::new(gauge)).unwrap();
        assert_eq!(text(&registry), text(&theirs));
    }

    #[test]
    fn a_value_that_is_gone_is_not_shown() {
        let registry = Registry::new();
        let lag = PipelineGauge::new(&registry, "lag", "Messages.", None).unwrap();
        lag.set(&["rag", "a"], Some(1.0));
        lag.set(&["rag", "b"], Some(2.0));
        lag.set(&["rag", "a"], None);
        lag.remove(&["rag", "c"]);
        let text = text(&registry);
        assert!(!text.contains("pipeline=\"a\"") && text.contains("pipeline=\"b\""));
    }
}
