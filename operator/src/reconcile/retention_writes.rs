//! Deletes the `CronJob` of a retention that is no longer wanted.

use k8s_openapi::api::batch::v1::CronJob;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Preconditions, PropagationPolicy},
};
use layra_crds::IngestionPipeline;

use super::Context;
use crate::resources::retention_name;

/// Deletes the `CronJob` with this UID, and its Jobs. A failed deletion is planned again.
pub(super) async fn delete(context: &Context, pipeline: &IngestionPipeline, uid: Option<&str>) {
    let Some(uid) = uid else {
        return;
    };
    let name = retention_name(&pipeline.name_any());
    let cron_jobs: Api<CronJob> = Api::namespaced(context.client.clone(), &context.namespace);
    let parameters = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Background),
        preconditions: Some(Preconditions {
            uid: Some(uid.to_owned()),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    match cron_jobs.delete(&name, &parameters).await {
        Ok(_) => tracing::info!(cron_job = name, "retention removed"),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
        Err(error) => tracing::warn!(cron_job = name, %error, "CronJob not deleted"),
    }
}
