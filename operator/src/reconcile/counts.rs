//! Reads the workers' counts: the autoscaler needs pages and busy seconds, which offsets do not
//! show. A worker that does not respond has no counts.

use std::{collections::BTreeMap, time::Duration};

use futures::{StreamExt, stream};
use layra_autoscaler::{Counts, Partition, Topic};
use layra_crds::{AssignedPartition, WORKER_COUNTS_PATH, WORKER_HTTP_PORT, WorkerCounts};

use super::pods::WorkerPod;

/// For the answer of one worker.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Size of an answer: a worker with every partition of a large topic needs a fraction of it.
const MAX_BYTES: usize = 1 << 20;
/// Concurrent requests of one reconcile.
const CONCURRENCY: usize = 16;

/// The HTTP client for the workers.
pub(crate) fn client() -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        .timeout(TIMEOUT)
        .no_proxy()
        .build()
}

/// The counts of every running worker that answers, by pod.
pub(super) async fn read(
    client: &reqwest::Client,
    pods: &[WorkerPod],
    ranges_topic: &str,
) -> BTreeMap<String, Counts> {
    let running: Vec<(String, String)> = pods
        .iter()
        .filter_map(|pod| Some((pod.name.clone(), url(pod.address.as_deref()?))))
        .collect();
    stream::iter(running)
        .map(|(pod, url)| async move {
            match fetch(client, &url).await {
                Ok(counts) => Some((pod, observed(&counts, ranges_topic))),
                Err(error) => {
                    tracing::debug!(pod, url, %error, "worker counts not read");
                    None
                }
            }
        })
        .buffer_unordered(CONCURRENCY)
        .filter_map(|counts| async { counts })
        .collect()
        .await
}

fn url(address: &str) -> String {
    let host = if address.contains(':') {
        format!("[{address}]")
    } else {
        address.to_owned()
    };
    format!("http://{host}:{WORKER_HTTP_PORT}{WORKER_COUNTS_PATH}")
}

#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error(transparent)]
    Http(#[from] reqwest::Error),
    #[error("the response is larger than {MAX_BYTES} bytes")]
    TooLarge,
    #[error("the response is not valid: {0}")]
    Invalid(#[from] serde_json::Error),
}

/// Asks one worker. An older worker, during a rollout, answers 404.
async fn fetch(client: &reqwest::Client, url: &str) -> Result<WorkerCounts, FetchError> {
    let mut response = client.get(url).send().await?.error_for_status()?;
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > MAX_BYTES {
            return Err(FetchError::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(serde_json::from_slice(&body)?)
}

/// The counts in the autoscaler's types.
fn observed(counts: &WorkerCounts, ranges_topic: &str) -> Counts {
    Counts {
        pages: counts.pages as f64,
        documents: counts.documents as f64,
        ranges: counts.ranges as f64,
        range_pages: counts.range_pages as f64,
        busy_seconds: counts.busy_seconds,
        longest_seconds: counts.longest_work_seconds,
        blank_pages: counts.blank_pages as f64,
        pages_without_text: counts.pages_without_text as f64,
        pages_with_missing_glyphs: counts.pages_with_missing_glyphs as f64,
        in_flight: counts.documents_in_flight,
        partitions: counts
            .partitions
            .iter()
            .filter_map(|assigned| partition(assigned, ranges_topic))
            .collect(),
        waiting_for: counts.waiting_for.clone(),
        open_rechecks: counts.open_rechecks,
        startup_seconds: counts.startup_seconds,
        retrying: counts.retrying.clone(),
    }
}

fn partition(assigned: &AssignedPartition, ranges_topic: &str) -> Option<Partition> {
    let topic = if assigned.topic == ranges_topic {
        Topic::Ranges
    } else {
        Topic::Tasks
    };
    let number = u32::try_from(assigned.partition).ok()?;
    Some(Partition { topic, number })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use axum::{Json, Router, http::StatusCode, routing::get};

    use super::*;

    fn counts() -> WorkerCounts {
        let partition = |topic: &str, partition| AssignedPartition {
            topic: topic.to_owned(),
            partition,
        };
        WorkerCounts {
            pages: 120,
            documents: 12,
            ranges: 2,
            range_pages: 65,
            busy_seconds: 61.5,
            longest_work_seconds: 12.25,
            blank_pages: 1,
            pages_without_text: 30,
            pages_with_missing_glyphs: 2,
            documents_in_flight: 3,
            partitions: vec![partition("tasks", 2), partition("tasks.ranges", 0)],
            waiting_for: vec!["mongodb".to_owned()],
            open_rechecks: Some(2),
            startup_seconds: Some(7.5),
            retrying: vec!["stage mongodb is retrying: refused".to_owned()],
        }
    }

    /// Fetches from a server on this machine.
    async fn fetch_from(router: Router) -> Result<WorkerCounts, FetchError> {
        // Another test may have installed it already.
        drop(rustls::crypto::ring::default_provider().install_default());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!(
            "http://{}{WORKER_COUNTS_PATH}",
            listener.local_addr().unwrap()
        );
        let server = tokio::spawn(async { axum::serve(listener, router).await });
        let result = fetch(&client().unwrap(), &url).await;
        server.abort();
        result
    }

    #[tokio::test]
    async fn counts_are_read_from_a_worker() {
        let router = Router::new().route(WORKER_COUNTS_PATH, get(async || Json(counts())));
        assert_eq!(fetch_from(router).await.unwrap(), counts());
    }

    #[tokio::test]
    async fn an_older_worker_without_counts_is_unknown() {
        let error = fetch_from(Router::new()).await.unwrap_err();
        let FetchError::Http(error) = error else {
            panic!("{error}")
        };
        assert_eq!(error.status(), Some(StatusCode::NOT_FOUND));
    }

    #[tokio::test]
    async fn a_response_without_counts_is_unknown() {
        let text = Router::new().route(WORKER_COUNTS_PATH, get(async || "go_goroutines 12"));
        assert!(matches!(
            fetch_from(text).await,
            Err(FetchError::Invalid(_))
        ));
        let endless =
            Router::new().route(WORKER_COUNTS_PATH, get(async || " ".repeat(MAX_BYTES + 1)));
        assert!(matches!(
            fetch_from(endless).await,
            Err(FetchError::TooLarge)
        ));
    }

    #[test]
    fn partitions_are_distinguished_by_their_topic() {
        let partition = |topic, number| Partition { topic, number };
        assert_eq!(
            observed(&counts(), "tasks.ranges"),
            Counts {
                pages: 120.0,
                documents: 12.0,
                ranges: 2.0,
                range_pages: 65.0,
                busy_seconds: 61.5,
                longest_seconds: 12.25,
                blank_pages: 1.0,
                pages_without_text: 30.0,
                pages_with_missing_glyphs: 2.0,
                in_flight: 3,
                partitions: BTreeSet::from([
                    partition(Topic::Tasks, 2),
                    partition(Topic::Ranges, 0)
                ]),
                waiting_for: vec!["mongodb".to_owned()],
                open_rechecks: Some(2),
                startup_seconds: Some(7.5),
                retrying: vec!["stage mongodb is retrying: refused".to_owned()],
            }
        );
    }

    #[test]
    fn an_ipv6_address_is_put_in_brackets() {
        assert_eq!(url("10.0.0.7"), "http://10.0.0.7:9090/counts");
        assert_eq!(url("fd00::7"), "http://[fd00::7]:9090/counts");
    }
}
