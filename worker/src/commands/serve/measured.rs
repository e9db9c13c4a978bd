//! The metrics of the requests. Their names are in [`layra_crds::metric_names::query`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::http::HeaderMap;
use layra_crds::metric_names::query as names;
use opentelemetry_http::HeaderExtractor;
use prometheus::{
    Encoder, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::runtime::traces::{self, Trace};

/// Buckets of durations, in seconds.
const BUCKETS: [f64; 13] = [
    0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 600.0,
];

/// The metrics of the requests.
pub(super) struct Measured {
    registry: Registry,
    requests: IntCounterVec,
    durations: HistogramVec,
    in_flight: IntGaugeVec,
    /// Requests in progress, by whatever path.
    all_in_flight: AtomicU64,
    stages: HistogramVec,
    cache: IntCounterVec,
}

/// A request in progress.
pub(super) struct InProgress<'a> {
    measured: &'a Measured,
    path: &'static str,
    began: Instant,
    trace: Trace,
    /// 499 unless it is answered: the client has left.
    status: u16,
}

impl Measured {
    /// A new set, all zero.
    ///
    /// # Panics
    /// If two metrics had the same name.
    pub(super) fn new() -> Self {
        let registry = Registry::new();
        let opts = Opts::new;
        let times = |name, help| HistogramOpts::new(name, help).buckets(BUCKETS.to_vec());
        let requests = opts(
            names::REQUESTS,
            "Requests, by path and status code; 499 if the client left before the answer.",
        );
        let durations = times(
            names::DURATION,
            "Time from the head of a request to the head of its answer, by path.",
        );
        let in_flight = opts(names::IN_FLIGHT, "Requests in progress, by path.");
        let stages = times(
            names::STAGE_DURATION,
            "Time of a stage of a search: embed (the question), candidates, compare, check, snippet, heat.",
        );
        let cache = opts(
            names::CACHE,
            "Searches of a knowledge base whose ranking was remembered (hit) or not (miss).",
        );
        let path = [names::PATH];
        let measured = Self {
            requests: valid(IntCounterVec::new(requests, &[names::PATH, names::STATUS])),
            durations: valid(HistogramVec::new(durations, &path)),
            in_flight: valid(IntGaugeVec::new(in_flight, &path)),
            all_in_flight: AtomicU64::new(0),
            stages: valid(HistogramVec::new(stages, &[names::STAGE])),
            cache: valid(IntCounterVec::new(cache, &[names::RESULT])),
            registry,
        };
        valid(
            measured
                .registry
                .register(Box::new(measured.requests.clone())),
        );
        valid(
            measured
                .registry
                .register(Box::new(measured.durations.clone())),
        );
        valid(
            measured
                .registry
                .register(Box::new(measured.in_flight.clone())),
        );
        valid(
            measured
                .registry
                .register(Box::new(measured.stages.clone())),
        );
        valid(measured.registry.register(Box::new(measured.cache.clone())));
        measured
    }

    /// A request has arrived. With these `headers` it may belong to a trace.
    pub(super) fn begin(
        &self,
        method: &'static str,
        path: &'static str,
        headers: &HeaderMap,
    ) -> InProgress<'_> {
        self.in_flight.with_label_values(&[path]).inc();
        self.all_in_flight.fetch_add(1, Ordering::Relaxed);
        InProgress {
            measured: self,
            path,
            began: Instant::now(),
            trace: traces::request(&traces::extract(&HeaderExtractor(headers)), method, path),
            status: 499,
        }
    }

    /// Requests in progress.
    pub(super) fn requests_in_flight(&self) -> u64 {
        self.all_in_flight.load(Ordering::Relaxed)
    }

    /// A stage of the current request has just ended.
    pub(super) fn stage(&self, stage: &'static str, took: Duration) {
        self.stages(&[(stage, took)]);
    }

    /// Stages of the current request, one after the other, have just ended.
    pub(super) fn stages(&self, stages: &[(&'static str, Duration)]) {
        traces::steps(stages);
        for (stage, took) in stages {
            let stage = self.stages.with_label_values(&[stage]);
            stage.observe(took.as_secs_f64());
        }
    }

    pub(super) fn looked_up(&self, was_cached: bool) {
        let result = if was_cached { "hit" } else { "miss" };
        self.cache.with_label_values(&[result]).inc();
    }

    /// All metrics in Prometheus' text format.
    pub(super) fn render(&self) -> String {
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "metrics cannot be encoded");
        }
        String::from_utf8_lossy(&text).into_owned()
    }
}

impl InProgress<'_> {
    /// Runs the work on the request, in its trace.
    pub(super) async fn run<F: Future>(&self, work: F) -> F::Output {
        self.trace.run(work).await
    }

    /// The request is answered, but for the rest of its body.
    pub(super) fn answered(mut self, status: u16) {
        self.status = status;
    }
}

impl Drop for InProgress<'_> {
    fn drop(&mut self) {
        let Self {
            measured,
            path,
            began,
            trace,
            status,
        } = self;
        trace.answered(*status);
        trace.end();
        let (path, status) = (*path, status.to_string());
        measured.in_flight.with_label_values(&[path]).dec();
        measured.all_in_flight.fetch_sub(1, Ordering::Relaxed);
        let labels = [path, status.as_str()];
        measured.requests.with_label_values(&labels).inc();
        let durations = measured.durations.with_label_values(&[path]);
        durations.observe(began.elapsed().as_secs_f64());
    }
}

fn valid<T>(metric: prometheus::Result<T>) -> T {
    metric.expect("names are valid and different")
}

#[cfg(test)]
mod tests {
    use layra_crds::metric_names::documented;

    use super::*;

    #[test]
    fn the_table_of_metrics_is_fresh() {
        let measured = Measured::new();
        measured
            .begin("POST", "/v1/search", &HeaderMap::new())
            .answered(200);
        measured.stage("embed", Duration::ZERO);
        measured.looked_up(true);
        assert_eq!(documented::check("query", &measured.render()), Ok(()));
    }

    #[test]
    fn a_request_whose_client_left_counts_as_such() {
        let measured = Measured::new();
        let headers = HeaderMap::new();
        measured.begin("POST", "/v1/search", &headers).answered(200);
        let second = measured.begin("POST", "/v1/search", &headers);
        assert_eq!(measured.requests_in_flight(), 1);
        drop(second);
        assert_eq!(measured.requests_in_flight(), 0);
        let text = measured.render();
        let counted = |status| {
            let line = format!(
                "ingestion_query_requests_total{{path=\"/v1/search\",status=\"{status}\"}} 1"
            );
            text.contains(&line)
        };
        assert!(counted(200) && counted(499), "{text}");
        assert!(text.contains("ingestion_query_in_flight{path=\"/v1/search\"} 0"));
    }
}
