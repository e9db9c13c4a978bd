//! The `CronJob` that handles a pipeline's unused collections.

use k8s_openapi::{
    api::batch::v1::{
        CronJob, CronJobSpec, JobSpec, JobTemplateSpec, PodFailurePolicy,
        PodFailurePolicyOnPodConditionsPattern, PodFailurePolicyRule,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::ResourceExt;
use layra_crds::IngestionPipeline;

use super::{
    PodTemplateError, WORKER, hash_of,
    maintenance::{self, Command, Needs},
};

/// The command, and the component label of its Jobs and pods.
pub(crate) const RETENTION: &str = "retention";
/// Kubernetes allows a `CronJob` this many characters, because those of its Jobs have a suffix.
const LONGEST_NAME: usize = 52;
/// Where the kubelet reads what a container says at its end.
const TERMINATION_LOG: &str = "/dev/termination-log";
const MINUTES_OF_A_DAY: u64 = 24 * 60;
/// A run that could not start in its minute may start this much later.
const STARTING_DEADLINE_SECONDS: i64 = 3600;
/// A run that hangs would keep the next ones from starting.
const LONGEST_RUN_SECONDS: i64 = 12 * 3600;
/// Jobs that are kept, with their pods: an operator that was away for two days reads their reports.
const JOBS_TO_KEEP: i32 = 3;

/// The name of the `CronJob`. That of a long pipeline's is cut, with a hash in place of the rest.
pub(crate) fn retention_name(pipeline: &str) -> String {
    let name = maintenance::object_name(pipeline, RETENTION);
    if name.len() <= LONGEST_NAME {
        return name;
    }
    let hash = &hash_of(&pipeline)[..8];
    let room = LONGEST_NAME - RETENTION.len() - hash.len() - 2;
    let beginning = pipeline[..room].trim_end_matches(['-', '.']);
    maintenance::object_name(&format!("{beginning}-{hash}"), RETENTION)
}

/// The `CronJob`.
pub(crate) fn retention_cron_job(
    pipeline: &IngestionPipeline,
    default_image: &str,
    is_suspended: bool,
) -> Result<CronJob, PodTemplateError> {
    let command = Command {
        name: RETENTION,
        arguments: &["retain", "--report", TERMINATION_LOG],
        needs: Needs::Little {
            requests: ("50m", "128Mi"),
            memory_limit: "1Gi",
        },
        grace_seconds: 30,
    };
    let mut template = maintenance::pod_template(pipeline, default_image, &command)?;
    let pod = template.spec.as_mut();
    for container in pod.into_iter().flat_map(|pod| &mut pod.containers) {
        if container.name == WORKER {
            container.termination_message_path = Some(TERMINATION_LOG.to_owned());
            // A run that ends without a report has its last words in the log.
            container.termination_message_policy = Some("FallbackToLogsOnError".to_owned());
        }
    }
    let labels = metadata(pipeline).labels;
    Ok(CronJob {
        metadata: metadata(pipeline),
        spec: CronJobSpec {
            schedule: schedule(pipeline),
            time_zone: Some("Etc/UTC".to_owned()),
            suspend: Some(is_suspended),
            concurrency_policy: Some("Forbid".to_owned()),
            starting_deadline_seconds: Some(STARTING_DEADLINE_SECONDS),
            successful_jobs_history_limit: Some(JOBS_TO_KEEP),
            failed_jobs_history_limit: Some(JOBS_TO_KEEP),
            job_template: JobTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels,
                    ..ObjectMeta::default()
                }),
                spec: Some(JobSpec {
                    // What failed is tried again the next day.
                    backoff_limit: Some(0),
                    active_deadline_seconds: Some(LONGEST_RUN_SECONDS),
                    pod_failure_policy: Some(a_drained_node_is_no_failure()),
                    // Never two pods at once.
                    pod_replacement_policy: Some("Failed".to_owned()),
                    template,
                    ..JobSpec::default()
                }),
            },
        },
        status: None,
    })
}

/// The live `CronJob` as it is, suspended.
pub(crate) fn suspended_retention(pipeline: &IngestionPipeline, live: &CronJob) -> CronJob {
    CronJob {
        metadata: metadata(pipeline),
        spec: CronJobSpec {
            suspend: Some(true),
            ..live.spec.clone()
        },
        status: None,
    }
}

fn metadata(pipeline: &IngestionPipeline) -> ObjectMeta {
    ObjectMeta {
        name: Some(retention_name(&pipeline.name_any())),
        ..maintenance::metadata(pipeline, RETENTION)
    }
}

/// Once a day. The UID spreads the pipelines over the day.
fn schedule(pipeline: &IngestionPipeline) -> String {
    let hash = hash_of(&pipeline.metadata.uid);
    let minute = u64::from_str_radix(&hash, 16).unwrap_or(0) % MINUTES_OF_A_DAY;
    format!("{} {} * * *", minute % 60, minute / 60)
}

fn a_drained_node_is_no_failure() -> PodFailurePolicy {
    PodFailurePolicy {
        rules: vec![PodFailurePolicyRule {
            action: "Ignore".to_owned(),
            on_pod_conditions: Some(vec![PodFailurePolicyOnPodConditionsPattern {
                type_: "DisruptionTarget".to_owned(),
                status: Some("True".to_owned()),
            }]),
            on_exit_codes: None,
        }],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;

    #[test]
    fn the_cron_job_of_a_minimal_pipeline() {
        let cron_job = retention_cron_job(&fixtures::pipeline(), "layra-worker:1.0", false);
        insta::assert_yaml_snapshot!("retention_cron_job", cron_job.unwrap());
    }

    #[test]
    fn its_name_is_short_enough_for_every_pipeline() {
        assert_eq!(retention_name("contracts"), "contracts-retention");
        let long = |end: &str| retention_name(&format!("{}{end}", "a".repeat(51)));
        assert_eq!(long("b").len(), LONGEST_NAME);
        assert!(long("b").ends_with("-retention"));
        assert_ne!(long("b"), long("c"));
    }

    #[test]
    fn pipelines_run_at_different_times_of_the_day() {
        let at = |uid: &str| {
            let mut pipeline = fixtures::pipeline();
            pipeline.metadata.uid = Some(uid.to_owned());
            schedule(&pipeline)
        };
        assert_eq!(at("a"), at("a"));
        let times: std::collections::BTreeSet<_> = (0..100).map(|n| at(&n.to_string())).collect();
        assert!(times.len() > 90, "{times:?}");
    }

    #[test]
    fn a_suspended_one_keeps_the_rest() {
        let pipeline = fixtures::pipeline();
        let live = retention_cron_job(&pipeline, "layra-worker:0.9", false).unwrap();
        let suspended = retention_cron_job(&pipeline, "layra-worker:0.9", true).unwrap();
        assert_eq!(suspended_retention(&pipeline, &live), suspended);
    }
}
