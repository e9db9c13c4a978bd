//! The workers while they work: memory, restarts and logs. What cannot be read is told, and ends
//! nothing.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::ResourceExt;
use kube::api::{ListParams, LogParams};
use kube::core::Request;
use layra_crds::WORKER_HTTP_PORT;

use crate::cluster::Cluster;
use crate::doctor::amount;

const INTERVAL: Duration = Duration::from_secs(2);
/// The container of a worker.
const WORKER: &str = "worker";
/// Of each log.
const LOG_BYTES: i64 = 4 << 20;

/// What was seen of the workers.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Seen {
    /// By the name of the pod.
    pub(super) workers: BTreeMap<String, Worker>,
    /// Why the metrics of a worker were not read.
    pub(super) not_read: Option<String>,
}

/// The most that was seen of a worker.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Worker {
    /// Of the worker and its renderers.
    pub(super) memory: Option<f64>,
    pub(super) limit: Option<f64>,
    pub(super) gpu_memory: Option<f64>,
    pub(super) gpu_total: Option<f64>,
    /// Restarts at the first look, and now.
    pub(super) restarts: (i32, i32),
    pub(super) out_of_memory: bool,
}

impl Seen {
    /// Looks again and again.
    pub(super) async fn watch(&mut self, cluster: &Cluster, pipeline: &str) -> Infallible {
        let began = Timestamp::now();
        loop {
            self.look_once(cluster, pipeline, began).await;
            tokio::time::sleep(INTERVAL).await;
        }
    }

    /// `began`: what ended before does not count.
    pub(crate) async fn look_once(&mut self, cluster: &Cluster, pipeline: &str, began: Timestamp) {
        let pods = match pods(cluster, pipeline).await {
            Ok(pods) => pods,
            Err(error) => {
                self.not_read = Some(format!("{error:#}"));
                return;
            }
        };
        for pod in &pods {
            let name = pod.name_any();
            self.look(pod, began);
            if !is_running(pod) {
                continue;
            }
            match metrics(cluster, &name).await {
                Ok(text) => self.measure(&name, &text),
                Err(why) => self.not_read = Some(why),
            }
        }
    }

    fn look(&mut self, pod: &Pod, began: Timestamp) {
        let status = container(pod);
        let restarts = status.map_or(0, |status| status.restart_count);
        let worker = self
            .workers
            .entry(pod.name_any())
            .or_insert_with(|| Worker {
                restarts: (restarts, restarts),
                ..Worker::default()
            });
        worker.restarts.1 = restarts;
        worker.limit = limit(pod).or(worker.limit);
        let ended = status.and_then(|status| {
            let both = [&status.state, &status.last_state];
            let mut both = both.into_iter().flatten();
            both.find_map(|state| state.terminated.clone())
        });
        worker.out_of_memory |= ended.is_some_and(|ended| {
            let is_new = ended.finished_at.is_none_or(|at| at.0 >= began);
            is_new && ended.reason.as_deref() == Some("OOMKilled")
        });
    }

    fn measure(&mut self, pod: &str, text: &str) {
        let worker = self.workers.entry(pod.to_owned()).or_default();
        let most = |known: &mut Option<f64>, name: &str| {
            if let Some(value) = sum(text, name) {
                *known = Some(known.map_or(value, |known| known.max(value)));
            }
        };
        most(&mut worker.memory, "ingestion_memory_bytes");
        most(&mut worker.gpu_memory, "gpu_memory_usage_bytes");
        most(&mut worker.gpu_total, "gpu_memory_total_bytes");
    }
}

pub(super) fn container(pod: &Pod) -> Option<&ContainerStatus> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    statuses.iter().find(|status| status.name == WORKER)
}

pub(super) fn is_running(pod: &Pod) -> bool {
    let state = container(pod).and_then(|status| status.state.as_ref());
    state.is_some_and(|state| state.running.is_some())
}

fn limit(pod: &Pod) -> Option<f64> {
    let containers = &pod.spec.as_ref()?.containers;
    let worker = containers
        .iter()
        .find(|container| container.name == WORKER)?;
    let limits = worker.resources.as_ref()?.limits.as_ref()?;
    amount(limits.get("memory")?)
}

/// The sum of the series of a metric. `None`: there is none.
fn sum(text: &str, name: &str) -> Option<f64> {
    let values = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let is_whole = rest.starts_with('{') || rest.starts_with(' ');
        let value = rest.rsplit(' ').next().filter(|_| is_whole)?;
        value.parse::<f64>().ok()
    });
    values.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
}

/// The pods of the workers.
pub(crate) async fn pods(cluster: &Cluster, pipeline: &str) -> anyhow::Result<Vec<Pod>> {
    let selector =
        format!("app.kubernetes.io/instance={pipeline},app.kubernetes.io/component=worker");
    let params = ListParams::default().labels(&selector);
    let list = cluster.api::<Pod>().list(&params).await;
    let list = list.map_err(|error| cluster.refused("list", "pods", error))?;
    Ok(list.items)
}

/// Names and addresses of the pods that run for at least this long.
pub(super) fn older_than(
    pods: &[Pod],
    now: Timestamp,
    age: SignedDuration,
) -> Vec<(String, Option<String>)> {
    let is_old = |pod: &&Pod| {
        let created = pod.metadata.creation_timestamp.as_ref();
        is_running(pod) && created.is_some_and(|created| now.duration_since(created.0) >= age)
    };
    let address = |pod: &Pod| pod.status.as_ref()?.pod_ip.clone();
    pods.iter()
        .filter(is_old)
        .map(|pod| (pod.name_any(), address(pod)))
        .collect()
}

/// The metrics of a worker, through the API server.
async fn metrics(cluster: &Cluster, pod: &str) -> Result<String, String> {
    let namespace = &cluster.namespace;
    let request = Request::new(format!("/api/v1/namespaces/{namespace}/pods"));
    let name = format!("{pod}:{WORKER_HTTP_PORT}");
    let request = request
        .get_subresource("proxy/metrics", &name)
        .map_err(|error| error.to_string())?;
    let text = cluster.client.request_text(request).await;
    text.map_err(|error| format!("{:#}", cluster.refused("get", "pods/proxy", error)))
}

/// What the logs of the workers are like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Logs {
    pub(super) lines: usize,
    /// Lines that are JSON with a time, a level and a message.
    pub(super) readable: usize,
    /// Lines with the id of the document.
    pub(super) about: usize,
    /// Why a log was not read.
    pub(super) not_read: Option<String>,
}

/// Reads what the workers have written since a time.
pub(super) async fn logs(
    cluster: &Cluster,
    pipeline: &str,
    since: Timestamp,
    document: Option<&str>,
) -> Logs {
    let mut logs = Logs::default();
    let pods = match pods(cluster, pipeline).await {
        Ok(pods) => pods,
        Err(error) => {
            logs.not_read = Some(format!("{error:#}"));
            return logs;
        }
    };
    let params = LogParams {
        container: Some(WORKER.to_owned()),
        since_time: Some(since),
        limit_bytes: Some(LOG_BYTES),
        ..LogParams::default()
    };
    for pod in pods {
        match cluster.api::<Pod>().logs(&pod.name_any(), &params).await {
            Ok(text) => logs.add(&text, document),
            Err(error) => {
                let error = cluster.refused("get", "pods/log", error);
                logs.not_read = Some(format!("{error:#}"));
            }
        }
    }
    logs
}

impl Logs {
    fn add(&mut self, text: &str, document: Option<&str>) {
        // A log that is cut ends within a line.
        let is_cut = text.len() >= usize::try_from(LOG_BYTES).unwrap_or(usize::MAX);
        let whole = if is_cut {
            text.rsplit_once('\n').map_or("", |(whole, _)| whole)
        } else {
            text
        };
        for line in whole.lines().filter(|line| !line.is_empty()) {
            self.lines += 1;
            let event: Option<serde_json::Value> = serde_json::from_str(line).ok();
            let is_whole = event.is_some_and(|event| {
                let fields = ["timestamp", "level", "message"];
                fields.iter().all(|field| event[field].is_string())
            });
            self.readable += usize::from(is_whole);
            self.about += usize::from(document.is_some_and(|id| line.contains(id)));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(status: &serde_json::Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "w-1", "creationTimestamp": "2026-11-28T02:00:00Z"},
            "spec": {"containers": [
                {"name": "worker", "resources": {"limits": {"memory": "2Gi"}}},
            ]},
            "status": {"podIP": "10.0.0.7", "containerStatuses": [status]},
        }))
        .unwrap()
    }

    fn status(state: &serde_json::Value, last: &serde_json::Value, restarts: i32) -> Pod {
        pod(&json!({
            "name": "worker", "image": "i", "imageID": "", "ready": true,
            "restartCount": restarts, "state": state, "lastState": last,
        }))
    }

    #[test]
    fn the_series_of_a_metric_are_summed_up() {
        let text = "# TYPE ingestion_memory_bytes gauge\n\
                    ingestion_memory_bytes{process=\"worker\"} 100\n\
                    ingestion_memory_bytes{process=\"renderers\"} 20\n\
                    ingestion_memory_bytes_total 7\n\
                    gpu_memory_usage_bytes 3e9\n";
        assert_eq!(sum(text, "ingestion_memory_bytes"), Some(120.0));
        assert_eq!(sum(text, "gpu_memory_usage_bytes"), Some(3e9));
        assert_eq!(sum(text, "gpu_memory_total_bytes"), None);
    }

    #[test]
    fn the_most_of_each_worker_is_kept() {
        let began: Timestamp = "2026-11-28T02:13:00Z".parse().unwrap();
        let mut seen = Seen::default();
        seen.look(&status(&json!({"running": {}}), &json!({}), 3), began);
        seen.measure("w-1", "ingestion_memory_bytes 200\n");
        seen.measure("w-1", "ingestion_memory_bytes 100\n");
        let old = json!({"terminated": {"exitCode": 137, "reason": "OOMKilled",
            "finishedAt": "2026-11-28T01:00:00Z"}});
        seen.look(&status(&json!({"running": {}}), &old, 3), began);
        let worker = &seen.workers["w-1"];
        assert_eq!(worker.memory, Some(200.0));
        assert_eq!(worker.limit, Some(2_147_483_648.0));
        assert_eq!(worker.restarts, (3, 3));
        assert!(!worker.out_of_memory);
        let new = json!({"terminated": {"exitCode": 137, "reason": "OOMKilled",
            "finishedAt": "2026-11-28T02:14:00Z"}});
        seen.look(&status(&json!({"running": {}}), &new, 4), began);
        let worker = &seen.workers["w-1"];
        assert!(worker.out_of_memory);
        assert_eq!(worker.restarts, (3, 4));
    }

    #[test]
    fn only_pods_that_run_for_a_while_must_be_scraped() {
        let running = status(&json!({"running": {}}), &json!({}), 0);
        let waiting = status(&json!({"waiting": {"reason": "a"}}), &json!({}), 0);
        let age = SignedDuration::from_secs(90);
        let at = |time: &str| {
            older_than(
                &[running.clone(), waiting.clone()],
                time.parse().unwrap(),
                age,
            )
        };
        let expected = vec![("w-1".to_owned(), Some("10.0.0.7".to_owned()))];
        assert_eq!(at("2026-11-28T02:01:30Z"), expected);
        assert!(at("2026-11-28T02:01:29Z").is_empty());
    }

    #[test]
    fn a_log_is_readable_by_programs_and_names_the_document() {
        let mut logs = Logs::default();
        logs.add(
            "{\"timestamp\":\"t\",\"level\":\"INFO\",\"message\":\"stored\",\"file\":\"f-1\"}\n\
             thread 'a' panicked\n\n{\"level\":\"INFO\"}\n",
            Some("f-1"),
        );
        let expected = Logs {
            lines: 3,
            readable: 1,
            about: 1,
            not_read: None,
        };
        assert_eq!(logs, expected);
    }
}
