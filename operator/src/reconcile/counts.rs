//! Reads the workers' counts: the autoscaler needs pages and busy seconds, which offsets do not
//! show. A worker that does not respond has no counts.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures::{StreamExt, stream};
use layra_autoscaler::{Counts, Partition, Topic};
use layra_crds::{
    MODEL_MISMATCH, OtherModels, QuotaUse, WORKER_COUNTS_PATH, WORKER_HTTP_PORT, WorkerCounts,
};

use serde::de::DeserializeOwned;

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

/// What the workers report about the pipeline as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reports {
    /// The quotas of which at least 80 % are used, the fullest first. `None`: no worker that answered
    /// has counted them.
    pub(crate) quotas: Option<Vec<QuotaUse>>,
    /// Documents that wait until their knowledge base has room.
    pub(crate) without_room: u64,
    /// Indexes of MongoDB that do not exist, each with the query that needs it.
    pub(crate) missing_indexes: BTreeSet<String>,
    /// The collections of another model, for each model that workers have. During a rollout these are
    /// two.
    pub(crate) other_models: Vec<OtherModels>,
}

impl Reports {
    fn add(&mut self, counts: &WorkerCounts) {
        self.without_room = self.without_room.max(counts.without_room);
        self.missing_indexes
            .extend(counts.missing_indexes.iter().cloned());
        if let Some(other) = &counts.other_models {
            self.add_other_models(other);
        }
        let Some(quotas) = &counts.quotas else {
            return;
        };
        let all = self.quotas.get_or_insert_default();
        for used in quotas {
            let is_same = |other: &&mut QuotaUse| {
                (other.kind, &other.knowledge_base) == (used.kind, &used.knowledge_base)
            };
            match all.iter_mut().find(is_same) {
                Some(other) if other.percent() >= used.percent() => {}
                Some(other) => other.clone_from(used),
                None => all.push(used.clone()),
            }
        }
        all.sort_by(|one, other| {
            let names = || one.knowledge_base.cmp(&other.knowledge_base);
            other.percent().cmp(&one.percent()).then_with(names)
        });
    }

    /// Of workers with the same model, the one that has found the most counts: the others look later.
    fn add_other_models(&mut self, found: &OtherModels) {
        let model = |it: &OtherModels| (it.checksum.clone(), it.pool_factor);
        let mut known = self.other_models.iter_mut();
        match known.find(|known| model(known) == model(found)) {
            Some(known) if known.collections >= found.collections => {}
            Some(known) => known.clone_from(found),
            None => self.other_models.push(found.clone()),
        }
    }
}

/// The counts of every running worker that answers, by pod, and what they report together.
pub(super) async fn read(
    client: &reqwest::Client,
    pods: &[WorkerPod],
    ranges_topic: &str,
) -> (BTreeMap<String, Counts>, Reports) {
    let running: Vec<(String, String)> = pods
        .iter()
        .filter_map(|pod| {
            Some((
                pod.name.clone(),
                url(pod.address.as_deref()?, WORKER_COUNTS_PATH),
            ))
        })
        .collect();
    let answers: Vec<(String, WorkerCounts)> = stream::iter(running)
        .map(|(pod, url)| async move {
            match fetch::<WorkerCounts>(client, &url).await {
                Ok(counts) => Some((pod, counts)),
                Err(error) => {
                    tracing::debug!(pod, url, %error, "worker counts not read");
                    None
                }
            }
        })
        .buffer_unordered(CONCURRENCY)
        .filter_map(|counts| async { counts })
        .collect()
        .await;
    let mut reports = Reports::default();
    let counts = answers.into_iter().map(|(pod, counts)| {
        reports.add(&counts);
        (pod, observed(&counts, ranges_topic))
    });
    (counts.collect(), reports)
}

pub(super) fn url(address: &str, path: &str) -> String {
    let host = if address.contains(':') {
        format!("[{address}]")
    } else {
        address.to_owned()
    };
    format!("http://{host}:{WORKER_HTTP_PORT}{path}")
}

#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error(transparent)]
    Http(#[from] reqwest::Error),
    #[error("the response is larger than {MAX_BYTES} bytes")]
    TooLarge,
    #[error("the response is not valid: {0}")]
    Invalid(#[from] serde_json::Error),
}

/// Asks one pod. An older worker, during a rollout, answers 404.
pub(super) async fn fetch<T: DeserializeOwned>(
    client: &reqwest::Client,
    url: &str,
) -> Result<T, FetchError> {
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
            .filter_map(|assigned| partition(&assigned.topic, assigned.partition, ranges_topic))
            .collect(),
        processed_ahead: counts
            .processed_ahead
            .iter()
            .filter_map(|ahead| {
                let partition = partition(&ahead.topic, ahead.partition, ranges_topic)?;
                Some((partition, i64::try_from(ahead.messages).ok()?))
            })
            .collect(),
        waiting_for: counts.waiting_for.clone(),
        open_rechecks: counts.open_rechecks,
        startup_seconds: counts.startup_seconds,
        retrying: counts.retrying.clone(),
        waits_for_model: waits_for_model(counts),
        held_by_quota: counts.held_by_quota,
    }
}

/// Workers of earlier versions give no reasons.
fn waits_for_model(counts: &WorkerCounts) -> bool {
    let reasons = &counts.retry_reasons;
    !reasons.is_empty() && reasons.iter().all(|reason| reason == MODEL_MISMATCH)
}

fn partition(topic: &str, number: i32, ranges_topic: &str) -> Option<Partition> {
    let topic = if topic == ranges_topic {
        Topic::Ranges
    } else {
        Topic::Tasks
    };
    let number = u32::try_from(number).ok()?;
    Some(Partition { topic, number })
}

#[cfg(test)]
mod tests {
    use layra_crds::{AssignedPartition, ProcessedAhead, QuotaKind};

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
            processed_ahead: vec![ProcessedAhead {
                topic: "tasks".to_owned(),
                partition: 2,
                messages: 40,
            }],
            waiting_for: vec!["mongodb".to_owned()],
            open_rechecks: Some(2),
            startup_seconds: Some(7.5),
            retrying: vec!["stage mongodb is retrying: refused".to_owned()],
            retry_reasons: vec!["MongodbUnavailable".to_owned()],
            held_by_quota: true,
            quotas: Some(vec![vectors("kb", 9)]),
            without_room: 3,
            missing_indexes: vec!["db.files".to_owned()],
            other_models: Some(others("sha256:1", 2)),
        }
    }

    fn others(checksum: &str, collections: u64) -> OtherModels {
        OtherModels {
            checksum: checksum.to_owned(),
            pool_factor: 1,
            collections,
            first: Vec::new(),
        }
    }

    fn vectors(knowledge_base: &str, used: u64) -> QuotaUse {
        QuotaUse {
            kind: QuotaKind::Vectors,
            knowledge_base: Some(knowledge_base.to_owned()),
            used,
            limit: 10,
        }
    }

    #[test]
    fn the_workers_know_different_knowledge_bases() {
        let mut reports = Reports::default();
        reports.add(&WorkerCounts::default());
        assert_eq!(reports, Reports::default(), "nothing was counted yet");
        for (knowledge_base, used, without_room) in [("a", 9, 3), ("b", 8, 2), ("a", 10, 1)] {
            reports.add(&WorkerCounts {
                quotas: Some(vec![vectors(knowledge_base, used)]),
                without_room,
                ..WorkerCounts::default()
            });
        }
        assert_eq!(reports.without_room, 3);
        let all = reports.quotas.unwrap();
        assert_eq!(all, [vectors("a", 10), vectors("b", 8)]);
    }

    #[test]
    fn workers_of_two_models_are_kept_apart() {
        let mut reports = Reports::default();
        for (checksum, collections) in [("new", 1), ("old", 0), ("new", 3), ("new", 2)] {
            reports.add(&WorkerCounts {
                other_models: Some(others(checksum, collections)),
                ..WorkerCounts::default()
            });
        }
        assert_eq!(reports.other_models, [others("new", 3), others("old", 0)]);
    }

    #[test]
    fn only_workers_that_say_so_wait_for_a_model() {
        let waits = |retrying: usize, reasons: &[&str]| {
            let counts = WorkerCounts {
                retrying: vec!["stage milvus is retrying".to_owned(); retrying],
                retry_reasons: reasons.iter().map(|it| (*it).to_owned()).collect(),
                ..WorkerCounts::default()
            };
            observed(&counts, "ranges").waits_for_model
        };
        assert!(waits(1, &[MODEL_MISMATCH]));
        assert!(!waits(2, &[MODEL_MISMATCH, "MongodbUnavailable"]));
        assert!(!waits(1, &[]), "an earlier version");
        assert!(!waits(0, &[]));
    }

    #[test]
    fn a_quota_has_the_same_word_here_and_in_the_autoscaler() {
        assert_eq!(layra_crds::WAITS_FOR_QUOTA, layra_autoscaler::QUOTA);
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
                processed_ahead: BTreeMap::from([(partition(Topic::Tasks, 2), 40)]),
                waiting_for: vec!["mongodb".to_owned()],
                open_rechecks: Some(2),
                startup_seconds: Some(7.5),
                retrying: vec!["stage mongodb is retrying: refused".to_owned()],
                waits_for_model: false,
                held_by_quota: true,
            }
        );
    }

    #[test]
    fn an_ipv6_address_is_put_in_brackets() {
        assert_eq!(
            url("10.0.0.7", WORKER_COUNTS_PATH),
            "http://10.0.0.7:9090/counts"
        );
        assert_eq!(
            url("fd00::7", WORKER_COUNTS_PATH),
            "http://[fd00::7]:9090/counts"
        );
    }
}
