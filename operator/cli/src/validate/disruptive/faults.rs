//! Makes a fault while documents are in progress, and looks how the pipeline goes on.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{ListParams, PostParams};
use kube::core::Request;
use layra_crds::{
    FaultAnswer, LoadProgress, VALIDATION_FAULTS_PATH, ValidationFault, WORKER_HTTP_PORT,
};
use tokio::sync::watch;

use super::copy::Names;
use crate::cluster::Cluster;
use crate::validate::workers;

/// Until Kubernetes shows that a worker has ended.
const UNTIL_ENDED: Duration = Duration::from_mins(2);
const INTERVAL: Duration = Duration::from_millis(500);

/// What came of a fault.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Injected {
    Met {
        /// What happened.
        words: String,
        /// Seconds from the end of the fault until the next document was searchable.
        goes_on: Option<f64>,
        /// Seconds from the end of the fault until all were.
        all: Option<f64>,
    },
    /// It hit nothing, and why.
    NotMet(String),
}

/// How often workers have ended, and why the last time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Ends {
    count: i32,
    reason: Option<String>,
}

/// Makes the fault once the first document is sent. `progress` is that of the documents.
pub(super) async fn inject(
    cluster: &Cluster,
    names: &Names,
    fault: ValidationFault,
    documents: u32,
    mut progress: watch::Receiver<LoadProgress>,
) -> Injected {
    if progress.wait_for(|now| now.sent > 0).await.is_err() {
        return Injected::NotMet("no document was sent".to_owned());
    }
    let words = match made(cluster, names, fault).await {
        Ok(words) => words,
        Err(why) => return Injected::NotMet(why),
    };
    let ended = Instant::now();
    let at_the_end = *progress.borrow();
    if at_the_end.searchable + at_the_end.failed >= documents {
        return Injected::NotMet(
            "every document was searchable before it ended: send more with --documents".to_owned(),
        );
    }
    let is_more = |now: &LoadProgress| now.searchable > at_the_end.searchable;
    let goes_on = seconds_until(&mut progress, ended, is_more).await;
    let are_all = |now: &LoadProgress| now.searchable >= documents;
    let all = seconds_until(&mut progress, ended, are_all).await;
    Injected::Met {
        words,
        goes_on,
        all,
    }
}

/// `None`: the documents have ended before.
async fn seconds_until(
    progress: &mut watch::Receiver<LoadProgress>,
    since: Instant,
    is_so: impl FnMut(&LoadProgress) -> bool,
) -> Option<f64> {
    progress.wait_for(is_so).await.ok()?;
    Some(since.elapsed().as_secs_f64())
}

/// Returns when the fault is over, with what happened. `Err`: why it hit nothing.
async fn made(cluster: &Cluster, names: &Names, fault: ValidationFault) -> Result<String, String> {
    let why = |error: anyhow::Error| format!("{error:#}");
    let mut pods = workers::pods(cluster, &names.pipeline).await.map_err(why)?;
    let before = ends(&pods);
    if fault == ValidationFault::MilvusCutOff {
        pods = proxies(cluster, &names.proxy).await.map_err(why)?;
    }
    let pod = pods.iter().find(|pod| workers::is_running(pod));
    let pod = pod.ok_or_else(|| "no pod runs that could make it".to_owned())?;
    let answer = ask(cluster, &pod.name_any(), fault).await?;
    if !answer.met {
        return Err(answer.words);
    }
    let expected = match fault {
        ValidationFault::KilledWorker => None,
        ValidationFault::OutOfMemory => Some("OOMKilled"),
        _ => return Ok(answer.words),
    };
    wait_for_end(cluster, &names.pipeline, &before, expected).await?;
    Ok(answer.words)
}

pub(super) async fn proxies(cluster: &Cluster, job: &str) -> anyhow::Result<Vec<Pod>> {
    let of_the_job = ListParams::default().labels(&format!("batch.kubernetes.io/job-name={job}"));
    let list = cluster.api::<Pod>().list(&of_the_job).await;
    let list = list.map_err(|error| cluster.refused("list", "pods", error))?;
    Ok(list.items)
}

async fn ask(cluster: &Cluster, pod: &str, fault: ValidationFault) -> Result<FaultAnswer, String> {
    let url = format!("/api/v1/namespaces/{}/pods", cluster.namespace);
    let path = format!("proxy{VALIDATION_FAULTS_PATH}/{}", fault.as_str());
    let request = Request::new(url).create_subresource(
        &path,
        &format!("{pod}:{WORKER_HTTP_PORT}"),
        &PostParams::default(),
        Vec::new(),
    );
    let request = request.map_err(|error| error.to_string())?;
    match cluster.client.request_text(request).await {
        Ok(text) => serde_json::from_str(&text).map_err(|error| format!("{text}: {error}")),
        Err(kube::Error::Api(status)) if status.code == 404 => {
            Err("the image of the workers is of a version without it".to_owned())
        }
        Err(error) => Err(format!(
            "{:#}",
            cluster.refused("create", "pods/proxy", error)
        )),
    }
}

async fn wait_for_end(
    cluster: &Cluster,
    pipeline: &str,
    before: &Ends,
    expected: Option<&str>,
) -> Result<(), String> {
    let start = Instant::now();
    let mut last_error = None;
    while start.elapsed() < UNTIL_ENDED {
        match workers::pods(cluster, pipeline).await {
            Ok(pods) => {
                let now = ends(&pods);
                if now.count > before.count {
                    return of_reason(&now, expected);
                }
            }
            Err(error) => last_error = Some(format!("{error:#}")),
        }
        tokio::time::sleep(INTERVAL).await;
    }
    Err(last_error.unwrap_or_else(|| {
        let seconds = UNTIL_ENDED.as_secs();
        format!("no worker ended within {seconds} s")
    }))
}

fn of_reason(ends: &Ends, expected: Option<&str>) -> Result<(), String> {
    let reason = ends.reason.as_deref().unwrap_or("without a reason");
    match expected {
        Some(expected) if expected != reason => {
            Err(format!("the worker ended as {reason}, not {expected}"))
        }
        _ => Ok(()),
    }
}

fn ends(workers: &[Pod]) -> Ends {
    let mut ends = Ends::default();
    for status in workers.iter().filter_map(workers::container) {
        let states = [&status.state, &status.last_state];
        let ended: Vec<_> = states
            .into_iter()
            .flatten()
            .filter_map(|state| state.terminated.as_ref())
            .collect();
        // One that has ended and does not run again yet is not counted as a restart.
        let is_down = status
            .state
            .as_ref()
            .is_some_and(|it| it.terminated.is_some());
        ends.count += status.restart_count + i32::from(is_down);
        let reason = ended.first().and_then(|ended| ended.reason.clone());
        ends.reason = reason.or(ends.reason);
    }
    ends
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(state: &Value, last: &Value, restarts: i32) -> Pod {
        serde_json::from_value(json!({"status": {"containerStatuses": [{
            "name": "worker", "image": "i", "imageID": "", "ready": true, "restartCount": restarts,
            "state": state, "lastState": last,
        }]}}))
        .unwrap()
    }

    #[test]
    fn a_worker_that_ended_is_seen_before_and_after_its_restart() {
        let running = json!({"running": {}});
        let oom = json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}});
        let error = json!({"terminated": {"exitCode": 134, "reason": "Error"}});
        let count = |pod: &Pod| ends(std::slice::from_ref(pod)).count;
        assert_eq!(count(&pod(&running, &error, 1)), 1);
        assert_eq!(count(&pod(&oom, &error, 1)), 2);
        assert_eq!(count(&pod(&running, &oom, 2)), 2);
        let ended = ends(&[pod(&oom, &error, 1)]);
        assert_eq!(of_reason(&ended, Some("OOMKilled")), Ok(()));
        let ended = ends(&[pod(&running, &error, 1)]);
        assert_eq!(of_reason(&ended, None), Ok(()));
        let refused = of_reason(&ended, Some("OOMKilled")).unwrap_err();
        assert_eq!(refused, "the worker ended as Error, not OOMKilled");
    }
}
