//! Starts and stops the Jobs that replace collections.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, PostParams, Preconditions, PropagationPolicy},
};
use layra_crds::IngestionPipeline;

use super::{
    Context, FIELD_MANAGER,
    plan::JobAction,
    world::{JobFailure, PastWrites},
};
use crate::resources::{JobKind, hash_of_job, is_foreign};

/// Carries out what the plan says about the Job of a kind. A Job that cannot be created is noted in
/// `past`; a failed deletion is planned again.
pub(super) async fn apply(
    context: &Context,
    pipeline: &IngestionPipeline,
    kind: JobKind,
    action: Option<&JobAction>,
    past: &mut PastWrites,
    now: Timestamp,
) {
    let jobs: Api<Job> = Api::namespaced(context.client.clone(), &context.namespace);
    match action {
        Some(JobAction::Start(job)) => {
            let words = create(&jobs, job, pipeline).await.err();
            past.job_failure = words.map(|words| JobFailure {
                kind,
                hash: hash_of_job(job).to_owned(),
                at: now,
                words,
            });
        }
        Some(JobAction::Stop { uid }) => {
            delete(&jobs, &kind.job_name(&pipeline.name_any()), uid).await;
        }
        None => {}
    }
}

/// The error has full sentences.
async fn create(jobs: &Api<Job>, job: &Job, pipeline: &IngestionPipeline) -> Result<(), String> {
    let name = job.name_any();
    let parameters = PostParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    };
    match jobs.create(&parameters, job).await {
        Ok(_) => {
            tracing::info!(job = name, "rebuild of collections started");
            Ok(())
        }
        Err(kube::Error::Api(status)) if status.code == 409 => {
            // The watch may not have shown our own yet.
            let found = jobs.get_metadata_opt(&name).await.ok().flatten();
            match found {
                Some(found) if is_foreign(&found.metadata, pipeline) => Err(format!(
                    "A Job {name} exists and does not belong to this pipeline. Delete it."
                )),
                _ => Ok(()),
            }
        }
        Err(error) => {
            tracing::warn!(job = name, %error, "rebuild of collections not started");
            Err(format!("The Job {name} cannot be created: {error}."))
        }
    }
}

/// In the foreground: the Job is there until its pod is gone, so that never two run.
async fn delete(jobs: &Api<Job>, name: &str, uid: &str) {
    let parameters = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Foreground),
        preconditions: Some(Preconditions {
            uid: Some(uid.to_owned()),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    match jobs.delete(name, &parameters).await {
        Ok(_) => tracing::info!(job = name, "rebuild of collections stopped or removed"),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
        Err(error) => tracing::warn!(job = name, %error, "Job not deleted"),
    }
}
