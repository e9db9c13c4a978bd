//! A Job that replaces collections, as plain data. Pure but for [`progress`], which asks its pod.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{batch::v1::Job, core::v1::ContainerState};
use kube::ResourceExt;
use layra_crds::{IngestionPipeline, REINDEX_PATH, ReindexProgress};

use super::{counts, pods::WorkerPod};
use crate::resources::{WORKER, hash_of_job, only_finishes};

/// A Job has a pod after this time, unless the API server refuses it.
const TIME_FOR_A_POD: SignedDuration = SignedDuration::from_mins(1);

/// The Job of a pipeline.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RebuildJob {
    pub(crate) uid: String,
    /// Hash of what it reads.
    pub(crate) hash: String,
    pub(crate) created: Timestamp,
    /// It only finishes, or undoes, what others have begun.
    pub(crate) only_finishes: bool,
    pub(crate) phase: JobPhase,
    /// Why its pod does not run. `None` while it does.
    pub(crate) waits: Option<String>,
    /// The latest answer of its pod.
    pub(crate) progress: Option<ReindexProgress>,
}

/// How far the Job is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum JobPhase {
    Running,
    Succeeded {
        at: Timestamp,
    },
    Failed {
        at: Timestamp,
        /// The last words of its pod.
        words: String,
    },
    /// It is being deleted, or belongs to a deleted pipeline of the same name.
    Leaving,
}

impl RebuildJob {
    /// Interprets a Job and its pods.
    pub(crate) fn read(
        job: &Job,
        pods: &[WorkerPod],
        pipeline: &IngestionPipeline,
        now: Timestamp,
    ) -> Self {
        let created = job.creation_timestamp().map_or(now, |time| time.0);
        let lacks_pod = pods.is_empty() && now.duration_since(created) >= TIME_FOR_A_POD;
        let no_pod = || {
            format!(
                "it has none, perhaps because a quota or a policy refuses it: `kubectl describe job {}` shows why",
                job.name_any()
            )
        };
        Self {
            uid: job.uid().unwrap_or_default(),
            hash: hash_of_job(job).to_owned(),
            created,
            only_finishes: only_finishes(job),
            phase: phase(job, pods, pipeline, now),
            waits: pods
                .iter()
                .find_map(waits)
                .or_else(|| lacks_pod.then(no_pod)),
            progress: None,
        }
    }

    pub(crate) fn is_running(&self) -> bool {
        self.phase == JobPhase::Running
    }
}

fn phase(job: &Job, pods: &[WorkerPod], pipeline: &IngestionPipeline, now: Timestamp) -> JobPhase {
    let mut owners = job.owner_references().iter();
    let is_ours = owners.any(|owner| Some(&owner.uid) == pipeline.metadata.uid.as_ref());
    if job.metadata.deletion_timestamp.is_some() || !is_ours {
        return JobPhase::Leaving;
    }
    let status = job.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_deref());
    let find = |type_: &str| {
        let mut all = conditions.unwrap_or_default().iter();
        all.find(|condition| condition.type_ == type_ && condition.status == "True")
    };
    let time = |condition: &k8s_openapi::api::batch::v1::JobCondition| {
        condition
            .last_transition_time
            .as_ref()
            .map_or(now, |time| time.0)
    };
    if let Some(complete) = find("Complete") {
        return JobPhase::Succeeded { at: time(complete) };
    }
    let Some(failed) = find("Failed") else {
        return JobPhase::Running;
    };
    let words = pods.iter().find_map(last_words);
    JobPhase::Failed {
        at: time(failed),
        words: words.or_else(|| failed.message.clone()).unwrap_or_default(),
    }
}

/// Why a pod that is to run does not.
fn waits(pod: &WorkerPod) -> Option<String> {
    if pod.ended || pod.terminating || pod.address.is_some() {
        return None;
    }
    let scheduler = pod.unschedulable.as_ref().map(|it| it.message.clone());
    scheduler.or_else(|| {
        let state = state(pod)?.waiting.as_ref()?;
        let words = [&state.reason, &state.message].into_iter().flatten();
        Some(words.map(String::as_str).collect::<Vec<_>>().join(": "))
    })
}

/// What a pod that failed has said, or what the kubelet said about it.
pub(super) fn last_words(pod: &WorkerPod) -> Option<String> {
    let said = || {
        let ended = state(pod)?.terminated.as_ref()?;
        let words = ended.message.as_deref().or(ended.reason.as_deref())?;
        Some(words.trim().to_owned()).filter(|_| ended.exit_code != 0)
    };
    pod.eviction
        .clone()
        .filter(|words| !words.is_empty())
        .or_else(said)
        .filter(|words| !words.is_empty())
}

pub(super) fn state(pod: &WorkerPod) -> Option<&ContainerState> {
    let mut containers = pod.containers.iter();
    let container = containers.find(|container| container.name == WORKER)?;
    container.state.as_ref()
}

/// What the Job's pod says about its progress, if it runs and answers.
pub(super) async fn progress(
    client: &reqwest::Client,
    pods: &[WorkerPod],
) -> Option<ReindexProgress> {
    let running = pods
        .iter()
        .find(|pod| !pod.ended && pod.address.is_some())?;
    let url = counts::url(running.address.as_deref()?, REINDEX_PATH);
    match counts::fetch(client, &url).await {
        Ok(progress) => Some(progress),
        Err(error) => {
            tracing::debug!(pod = running.name, url, %error, "progress of the rebuild not read");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::fixtures;

    fn read(status: &Value, pods: &[WorkerPod]) -> RebuildJob {
        let pipeline = fixtures::pipeline();
        let job = json!({
            "metadata": {
                "name": "contracts-reindex",
                "uid": "job-1",
                "creationTimestamp": "2026-11-25T10:00:00Z",
                "annotations": {"ingest.layra.io/applied-hash": "abc"},
                "ownerReferences": [{
                    "apiVersion": "v1", "kind": "IngestionPipeline", "name": "contracts",
                    "uid": pipeline.metadata.uid}],
            },
            "status": status,
        });
        let now = "2026-11-25T10:10:00Z".parse().unwrap();
        RebuildJob::read(&serde_json::from_value(job).unwrap(), pods, &pipeline, now)
    }

    fn condition(type_: &str) -> Value {
        json!({"conditions": [{"type": type_, "status": "True",
            "lastTransitionTime": "2026-11-25T10:05:00Z", "message": "Job's words"}]})
    }

    fn pod(state: &Value, ip: &str) -> WorkerPod {
        fixtures::pod(json!({
            "metadata": {"name": "contracts-reindex-x"},
            "status": {"phase": if ip.is_empty() {"Pending"} else {"Running"}, "podIP": ip,
                "containerStatuses": [{"name": "worker", "image": "", "imageID": "",
                    "ready": false, "restartCount": 0, "state": state}]},
        }))
    }

    #[test]
    fn a_job_runs_until_a_condition_says_how_it_ended() {
        let running = read(&json!({"active": 1}), &[]);
        assert!(running.is_running());
        assert_eq!(
            (running.uid.as_str(), running.hash.as_str()),
            ("job-1", "abc")
        );
        let at = "2026-11-25T10:05:00Z".parse().unwrap();
        assert_eq!(
            read(&condition("Complete"), &[]).phase,
            JobPhase::Succeeded { at }
        );
        let failed = |pods: &[WorkerPod]| match read(&condition("Failed"), pods).phase {
            JobPhase::Failed { words, .. } => words,
            other => panic!("{other:?}"),
        };
        assert_eq!(failed(&[]), "Job's words", "the pod is gone");
        let ended = json!({"terminated": {"exitCode": 1, "message": "Milvus is out of memory\n"}});
        assert_eq!(
            failed(&[pod(&ended, "10.0.0.7")]),
            "Milvus is out of memory"
        );
    }

    #[test]
    fn a_pod_that_cannot_start_says_why() {
        let pulling = json!({"waiting": {"reason": "ImagePullBackOff", "message": "not found"}});
        let job = read(&json!({"active": 1}), &[pod(&pulling, "")]);
        assert_eq!(job.waits.as_deref(), Some("ImagePullBackOff: not found"));
        let running = json!({"running": {}});
        let job = read(&json!({"active": 1}), &[pod(&running, "10.0.0.7")]);
        assert_eq!(job.waits, None);
        let refused = read(&json!({}), &[]).waits.unwrap();
        assert!(
            refused.contains("describe job contracts-reindex"),
            "{refused}"
        );
    }
}
