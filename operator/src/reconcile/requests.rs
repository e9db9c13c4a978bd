//! Reads how many requests are in flight in the pods that answer questions. Only where their number
//! follows the requests.

use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use jiff::Timestamp;
use layra_autoscaler::{
    Phase,
    requests::{Reading, remember},
};
use layra_crds::{IngestionPipeline, QueryCounts, WORKER_COUNTS_PATH};

use super::{counts, pods::WorkerPod};

/// How often they are read.
const AGE: Duration = Duration::from_secs(5);
/// Concurrent requests of one reconcile.
const CONCURRENCY: usize = 16;

/// The readings of the last minutes.
#[derive(Clone, Default)]
pub(super) struct Requests {
    /// Monotonic: a clock that is set back must not keep an old reading.
    read_at: Option<Instant>,
    readings: Vec<Reading>,
}

impl Requests {
    pub(super) fn readings(&self) -> Vec<Reading> {
        self.readings.clone()
    }

    /// With a new reading if one is due.
    pub(super) async fn read(
        mut self,
        client: &reqwest::Client,
        pipeline: &IngestionPipeline,
        pods: &[WorkerPod],
        now: Timestamp,
    ) -> Self {
        let spec = pipeline.spec.query.as_ref();
        if !spec.is_some_and(layra_crds::QuerySpec::follows_requests) {
            return Self::default();
        }
        let started = Instant::now();
        let is_recent = |at: Instant| started.saturating_duration_since(at) < AGE;
        if self.read_at.is_some_and(is_recent) {
            return self;
        }
        self.read_at = Some(started);
        remember(&mut self.readings, reading(client, pods, now).await);
        self
    }
}

async fn reading(client: &reqwest::Client, pods: &[WorkerPod], now: Timestamp) -> Reading {
    let running = pods.iter().filter(|pod| !pod.terminating && !pod.ended);
    let asked: Vec<(bool, Option<String>)> = running
        .map(|pod| (pod.phase == Phase::Ready, pod.address.clone()))
        .collect();
    let answers: Vec<(bool, Option<u64>)> = stream::iter(asked)
        .map(|(is_ready, address)| async move { (is_ready, in_flight(client, address).await) })
        .buffer_unordered(CONCURRENCY)
        .collect()
        .await;
    let silent = answers
        .iter()
        .filter(|(is_ready, answer)| *is_ready && answer.is_none());
    Reading {
        at: now,
        silent: u32::try_from(silent.count()).unwrap_or(u32::MAX),
        in_flight: answers.iter().filter_map(|(_, answer)| *answer).sum(),
    }
}

async fn in_flight(client: &reqwest::Client, address: Option<String>) -> Option<u64> {
    let url = counts::url(&address?, WORKER_COUNTS_PATH);
    match counts::fetch::<QueryCounts>(client, &url).await {
        Ok(counts) => Some(counts.in_flight),
        Err(error) => {
            tracing::debug!(url, %error, "requests in flight not read");
            None
        }
    }
}
