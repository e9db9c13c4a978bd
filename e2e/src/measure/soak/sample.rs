//! What is seen of processes and stores at a moment. What cannot be read is absent: servers are
//! restarted now and then.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use futures::TryStreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use layra_crds::metric_names::{operator, worker};
use mongodb::bson::{RawDocumentBuf, doc};
use serde::Serialize;

use crate::cluster::Scene;
use crate::leadership::operators;
use crate::processes::{children, in_pod, resident_bytes, with_pid};
use crate::prometheus;
use crate::stores::Stores;
use crate::timeline::stored_pages;

/// A sample, as it is written to the file.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Sample {
    pub(super) second: f64,
    /// Documents sent so far.
    pub(super) sent: usize,
    pub(super) operators: Vec<Process>,
    pub(super) workers: Vec<Process>,
    /// Memory of the largest renderer since the sample before, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) renderer: Option<u64>,
    /// Size of each topic's log, in bytes.
    pub(super) topics: BTreeMap<String, u64>,
    /// The collections of the pipeline's database.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) collections: BTreeMap<String, Size>,
    /// Pages that are searchable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pages: Option<u64>,
}

/// A collection in MongoDB.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Size {
    pub(super) documents: u64,
    pub(super) bytes: u64,
}

/// An operator or a worker.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Process {
    pub(super) pid: u32,
    /// When it started: a pid may be used again.
    pub(super) started: u64,
    pub(super) resident: u64,
    pub(super) files: usize,
    /// Tasks of the asynchronous runtime.
    pub(super) tasks: f64,
    /// Pages that a worker has stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pages: Option<f64>,
}

/// What samples are taken of.
pub(super) struct Subject<'a> {
    pub(super) scene: &'a Scene,
    pub(super) pipeline: &'a str,
    pub(super) knowledge_base: &'a str,
    /// With the pipeline's own database.
    pub(super) stores: &'a Stores,
    /// The directory of Kafka's topics.
    pub(super) logs: PathBuf,
    pub(super) topics: Vec<String>,
}

impl Subject<'_> {
    /// The processes and topics at this moment, and the stores if asked for: they are read whole.
    pub(super) async fn sample(&self, with_stores: bool) -> Sample {
        let mut sample = Sample::default();
        let operators = operators(&self.scene.client, &self.scene.namespace).await;
        for pod in operators.into_iter().flatten() {
            sample.operators.extend(operator_of(&pod).await);
        }
        let workers = self.scene.worker_pods(self.pipeline).await;
        for pod in workers.into_iter().flatten() {
            sample.workers.extend(worker_of(&pod).await);
        }
        for topic in &self.topics {
            if let Ok(bytes) = log_bytes(&self.logs, topic) {
                sample.topics.insert(topic.clone(), bytes);
            }
        }
        if with_stores {
            sample.collections = self.collections().await.unwrap_or_default();
            sample.pages = stored_pages(self.stores, self.knowledge_base).await.ok();
        }
        sample
    }

    async fn collections(&self) -> Result<BTreeMap<String, Size>> {
        let mut sizes = BTreeMap::new();
        for name in self.stores.mongodb.list_collection_names().await? {
            let collection = self.stores.mongodb.collection::<RawDocumentBuf>(&name);
            let mut documents = collection.find(doc! {}).await?;
            let size: &mut Size = sizes.entry(name).or_default();
            while let Some(document) = documents.try_next().await? {
                size.documents += 1;
                size.bytes += document.as_bytes().len() as u64;
            }
        }
        Ok(sizes)
    }
}

async fn operator_of(pod: &Pod) -> Option<Process> {
    let (mut process, metrics) = process(pod, "layra-operator", 8080).await?;
    process.tasks = value(&metrics, operator::ASYNC_TASKS)?;
    Some(process)
}

async fn worker_of(pod: &Pod) -> Option<Process> {
    let (mut process, metrics) = process(pod, "layra-worker", 9090).await?;
    process.tasks = value(&metrics, worker::ASYNC_TASKS)?;
    process.pages = value(&metrics, worker::PAGES);
    Some(process)
}

/// The process of a pod and its metrics.
async fn process(pod: &Pod, name: &str, port: u16) -> Option<(Process, String)> {
    let address = pod.status.as_ref()?.pod_ip.as_ref()?;
    let address = format!("http://{address}:{port}/metrics");
    let metrics = prometheus::get(&address).await.ok()?;
    let pid = in_pod(name, &pod.uid()?)?;
    let found = with_pid(pid).ok()?;
    let process = Process {
        pid,
        started: found.stat().ok()?.starttime,
        resident: resident_bytes(&found.status().ok()?),
        files: found.fd_count().ok()?,
        tasks: 0.0,
        pages: None,
    };
    Some((process, metrics))
}

/// The value of a metric without labels.
fn value(metrics: &str, name: &str) -> Option<f64> {
    let mut lines = metrics.lines();
    lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

/// Memory of the largest renderer of these workers.
pub(super) fn largest_renderer(workers: &[Process]) -> Option<u64> {
    let renderers = workers.iter().flat_map(|worker| children(worker.pid));
    let sizes = renderers.filter_map(|renderer| renderer.status().ok());
    sizes.map(|status| resident_bytes(&status)).max()
}

/// Bytes of the records of a topic's partitions. Their indexes are files with holes.
fn log_bytes(logs: &Path, topic: &str) -> Result<u64> {
    let mut bytes = 0;
    for partition in std::fs::read_dir(logs)? {
        let partition = partition?;
        let name = partition.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(topic));
        let number = number.and_then(|number| number.strip_prefix('-'));
        if number.is_none_or(|number| number.parse::<u32>().is_err()) {
            continue;
        }
        for file in std::fs::read_dir(partition.path())? {
            let file = file?;
            if file.path().extension().is_some_and(|kind| kind == "log") {
                bytes += file.metadata()?.len();
            }
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_a_topic_is_that_of_the_logs_of_its_own_partitions() {
        let logs = tempfile::TempDir::new().unwrap();
        for (file, bytes) in [
            ("tasks-0/0.log", 5),
            ("tasks-0/9.log", 7),
            ("tasks-0/0.index", 1000),
            ("tasks-11/0.log", 30),
            ("tasks-dead-0/0.log", 100),
            ("tasks.ranges-0/0.log", 100),
        ] {
            let file = logs.path().join(file);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, vec![0; bytes]).unwrap();
        }
        assert_eq!(log_bytes(logs.path(), "tasks").unwrap(), 42);
        assert_eq!(log_bytes(logs.path(), "other").unwrap(), 0);
    }

    #[test]
    fn a_metric_is_found_by_its_whole_name() {
        let metrics = "# TYPE a gauge\na_b 1\na{x=\"y\"} 2\na 3\n";
        assert_eq!(value(metrics, "a"), Some(3.0));
        assert_eq!(value(metrics, "b"), None);
    }
}
