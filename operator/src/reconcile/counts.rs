//! What the workers count, read from their metrics: the law wants pages and busy seconds, which no
//! offset tells. A worker that does not answer is left out.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures::{StreamExt, stream};
use layra_autoscaler::{Counts, Partition, Topic};
use layra_crds::WORKER_HTTP_PORT;

use super::pods::WorkerPod;

/// For each worker's answer.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Workers that are asked at the same time.
const AT_ONCE: usize = 16;

/// The client for the workers' metrics.
pub(crate) fn client() -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        .timeout(TIMEOUT)
        .no_proxy()
        .build()
}

/// Asks every worker that runs.
pub(super) async fn read(
    client: &reqwest::Client,
    pods: &[WorkerPod],
    ranges_topic: &str,
) -> BTreeMap<String, Counts> {
    let running: Vec<(String, String)> = pods
        .iter()
        .filter_map(|pod| Some((pod.name.clone(), address(pod.address.as_deref()?))))
        .collect();
    stream::iter(running)
        .map(|(name, address)| async move {
            let counts = ask(client, &address, ranges_topic).await;
            counts.map(|counts| (name, counts))
        })
        .buffer_unordered(AT_ONCE)
        .filter_map(|answer| async { answer })
        .collect()
        .await
}

fn address(ip: &str) -> String {
    if ip.contains(':') {
        format!("http://[{ip}]:{WORKER_HTTP_PORT}/metrics")
    } else {
        format!("http://{ip}:{WORKER_HTTP_PORT}/metrics")
    }
}

async fn ask(client: &reqwest::Client, address: &str, ranges_topic: &str) -> Option<Counts> {
    let answer = client.get(address).send().await;
    let text = match answer.and_then(reqwest::Response::error_for_status) {
        Ok(answer) => answer.text().await,
        Err(error) => Err(error),
    };
    match text {
        Ok(text) => parse(&text, ranges_topic),
        Err(error) => {
            tracing::debug!(address, %error, "a worker's metrics cannot be read");
            None
        }
    }
}

/// The counts in a worker's metrics; `None` if it counts something else.
fn parse(text: &str, ranges_topic: &str) -> Option<Counts> {
    let mut counts = Counts::default();
    let mut partitions = BTreeSet::new();
    let mut is_worker = false;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((series, value)) = line.rsplit_once(' ') else {
            continue;
        };
        let Ok(value) = value.parse::<f64>() else {
            continue;
        };
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        match name {
            "ingestion_pages_total" => counts.pages = value,
            "ingestion_busy_seconds_total" => {
                counts.busy_seconds = value;
                is_worker = true;
            }
            "ingestion_longest_work_seconds" => counts.longest_seconds = value,
            "ingestion_documents_in_flight" => counts.in_flight = whole(value),
            "ingestion_files_total" if label(labels, "status") != Some("retried") => {
                counts.documents += value;
            }
            "ingestion_partition_assigned" => {
                if let Some(partition) = partition(labels, ranges_topic) {
                    partitions.insert(partition);
                }
            }
            _ => {}
        }
    }
    counts.partitions = partitions;
    is_worker.then_some(counts)
}

fn partition(labels: &str, ranges_topic: &str) -> Option<Partition> {
    let topic = if label(labels, "topic")? == ranges_topic {
        Topic::Ranges
    } else {
        Topic::Tasks
    };
    let number = label(labels, "partition")?.parse().ok()?;
    Some(Partition { topic, number })
}

/// The value of a label; topics and partitions have no character that would be escaped.
fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    labels.split(',').find_map(|pair| {
        let (key, value) = pair.trim_end_matches('}').split_once('=')?;
        (key == name).then(|| value.trim_matches('"'))
    })
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float saturates at the bounds of the integer"
)]
fn whole(value: f64) -> u32 {
    value as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str = r#"# HELP ingestion_pages_total Pages made searchable.
# TYPE ingestion_pages_total counter
ingestion_pages_total 120
ingestion_busy_seconds_total 61.5
ingestion_longest_work_seconds 12.25
ingestion_documents_in_flight 3
ingestion_files_total{status="failed"} 1
ingestion_files_total{status="retried"} 5
ingestion_files_total{status="success"} 11
ingestion_partition_assigned{partition="2",topic="tasks"} 1
ingestion_partition_assigned{partition="0",topic="tasks.ranges"} 1
"#;

    #[test]
    fn counts_are_read_from_metrics() {
        let partition = |topic, number| Partition { topic, number };
        assert_eq!(
            parse(METRICS, "tasks.ranges"),
            Some(Counts {
                pages: 120.0,
                documents: 12.0,
                busy_seconds: 61.5,
                longest_seconds: 12.25,
                in_flight: 3,
                partitions: BTreeSet::from([
                    partition(Topic::Tasks, 2),
                    partition(Topic::Ranges, 0)
                ]),
            })
        );
    }

    #[test]
    fn somebody_elses_metrics_are_no_counts() {
        assert_eq!(parse("go_goroutines 12\n", "tasks.ranges"), None);
    }
}
