//! The runs of retention that have ended, as plain data. Pure.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition};
use kube::ResourceExt;
use serde::Deserialize;

use super::{pods::WorkerPod, rebuild_job};

/// A run that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RetentionRun {
    /// Name of the Job.
    pub(crate) job: String,
    pub(crate) at: Timestamp,
    pub(crate) outcome: Outcome,
}

/// What is known of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Reported(Report),
    /// It failed without a report. The last words of its pod, or of the Job.
    Failed(String),
    /// It succeeded, and its pod with the report is gone.
    Unreported,
}

/// The report of `layra-worker retain`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Report {
    /// Collections that were looked at.
    pub(crate) checked: u64,
    pub(crate) items: Vec<Item>,
    /// Collections for which the report had no room.
    #[serde(default)]
    pub(crate) more: usize,
}

/// One collection in a report.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Item {
    pub(crate) collection: String,
    pub(crate) state: ItemState,
    /// When the action follows.
    #[serde(default)]
    pub(crate) at: Option<String>,
    /// Why the action failed.
    #[serde(default)]
    pub(crate) message: Option<String>,
}

/// What happened to a collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(crate) enum ItemState {
    Failed,
    Done,
    Noticed,
    Waiting,
    DryRun,
    /// One of another version of the worker.
    #[serde(other)]
    Other,
}

/// The runs that have ended, the oldest first, from the Jobs of one `CronJob` and their pods. A run
/// whose pod has not been seen to end, and those after it, come with a later change.
pub(super) fn ended(jobs: Vec<(Job, Vec<WorkerPod>)>) -> Vec<RetentionRun> {
    let mut ended: Vec<_> = jobs
        .into_iter()
        .filter_map(|(job, pods)| end(&job).map(|end| (end, job.name_any(), pods)))
        .collect();
    ended.sort_by(|a, b| (a.0.at, &a.1).cmp(&(b.0.at, &b.1)));
    ended
        .into_iter()
        .take_while(|(_, _, pods)| pods.iter().all(|pod| pod.ended))
        .map(|(end, job, pods)| RetentionRun {
            job,
            at: end.at,
            outcome: end.outcome(&pods),
        })
        .collect()
}

struct End {
    at: Timestamp,
    /// The Job's own words about its failure.
    failure: Option<String>,
}

impl End {
    fn outcome(self, pods: &[WorkerPod]) -> Outcome {
        // A pod of a drained node, which was replaced, has none.
        let mut said = pods.iter().filter_map(message);
        let report = said.find_map(|said| serde_json::from_str(said.trim()).ok());
        match (report, self.failure) {
            (Some(report), _) => Outcome::Reported(report),
            (None, None) => Outcome::Unreported,
            (None, Some(words)) => {
                let last = pods.iter().find_map(rebuild_job::last_words);
                Outcome::Failed(last.unwrap_or(words))
            }
        }
    }
}

fn message(pod: &WorkerPod) -> Option<&str> {
    let ended = rebuild_job::state(pod)?.terminated.as_ref()?;
    ended.message.as_deref()
}

/// How a Job has ended, if it has.
fn end(job: &Job) -> Option<End> {
    let conditions = job.status.as_ref()?.conditions.as_deref()?;
    let find = |type_: &str| {
        let mut all = conditions.iter();
        all.find(|condition| condition.type_ == type_ && condition.status == "True")
    };
    let at = |condition: &JobCondition| {
        let time = condition.last_transition_time.clone();
        let time = time.or_else(|| job.creation_timestamp());
        time.map(|time| time.0)
    };
    if let Some(complete) = find("Complete") {
        return Some(End {
            at: at(complete)?,
            failure: None,
        });
    }
    let failed = find("Failed")?;
    Some(End {
        at: at(failed)?,
        failure: Some(failed.message.clone().unwrap_or_default()),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::fixtures;

    fn job(name: &str, type_: &str, time: &str) -> Job {
        let body = json!({
            "metadata": {"name": name},
            "status": {"conditions": [{"type": type_, "status": "True", "message": "Job's words",
                "lastTransitionTime": format!("2026-11-25T{time}Z")}]},
        });
        serde_json::from_value(body).unwrap()
    }

    fn pod(phase: &str, state: &Value) -> WorkerPod {
        fixtures::pod(json!({
            "metadata": {"name": "contracts-retention-1-x"},
            "status": {"phase": phase, "containerStatuses": [{"name": "worker", "image": "",
                "imageID": "", "ready": false, "restartCount": 0, "state": state}]},
        }))
    }

    fn said(exit_code: i32, message: &str) -> WorkerPod {
        let phase = if exit_code == 0 {
            "Succeeded"
        } else {
            "Failed"
        };
        let terminated = json!({"exitCode": exit_code, "message": message});
        pod(phase, &json!({"terminated": terminated}))
    }

    fn outcome(type_: &str, pods: Vec<WorkerPod>) -> Outcome {
        let mut runs = ended(vec![(job("a", type_, "10:00:00"), pods)]);
        runs.remove(0).outcome
    }

    #[test]
    fn a_report_is_read_also_from_a_run_in_which_an_action_failed() {
        // As the worker's `report` writes it.
        let report = concat!(
            r#"{"checked":3,"items":["#,
            r#"{"collection":"colqwena","state":"Failed","message":"Milvus is away"},"#,
            r#"{"collection":"colqwenb","state":"Noticed","at":"2026-12-01T10:00:00Z"},"#,
            r#"{"collection":"colqwenc","state":"Frozen"}],"more":2}"#,
        );
        for (exit_code, type_) in [(0, "Complete"), (1, "Failed")] {
            let Outcome::Reported(report) = outcome(type_, vec![said(exit_code, report)]) else {
                panic!("no report");
            };
            assert_eq!((report.checked, report.more), (3, 2));
            let states: Vec<_> = report.items.iter().map(|item| item.state).collect();
            assert_eq!(
                states,
                [ItemState::Failed, ItemState::Noticed, ItemState::Other]
            );
            let item = &report.items[0];
            assert_eq!(item.message.as_deref(), Some("Milvus is away"));
        }
    }

    #[test]
    fn a_run_without_a_report_has_its_last_words_or_those_of_the_job() {
        let failed = |pods| outcome("Failed", pods);
        let crashed = vec![said(1, "error: MongoDB does not respond\n")];
        assert_eq!(
            failed(crashed),
            Outcome::Failed("error: MongoDB does not respond".to_owned())
        );
        assert_eq!(failed(vec![]), Outcome::Failed("Job's words".to_owned()));
        assert_eq!(outcome("Complete", vec![]), Outcome::Unreported);
        let drained = said(143, "shutting down");
        let replaced = vec![drained, said(0, r#"{"checked":4,"items":[]}"#)];
        assert!(matches!(
            outcome("Complete", replaced),
            Outcome::Reported(Report { checked: 4, .. })
        ));
    }

    #[test]
    fn runs_come_in_order_and_wait_for_the_end_of_their_pods() {
        let done = || said(0, r#"{"checked":0,"items":[]}"#);
        let running = || pod("Running", &json!({"running": {}}));
        let runs = |first: WorkerPod| {
            let runs = ended(vec![
                (job("late", "Complete", "12:00:00"), vec![done()]),
                (job("early", "Complete", "10:00:00"), vec![first]),
                (Job::default(), vec![running()]),
            ]);
            let names = runs.into_iter().map(|run| run.job);
            names.collect::<Vec<_>>()
        };
        assert_eq!(runs(done()), ["early", "late"]);
        assert!(runs(running()).is_empty());
    }
}
