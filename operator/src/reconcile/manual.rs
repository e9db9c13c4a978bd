//! Writes the number of workers into the spec of a pipeline that became `Manual`, through the scale
//! subresource.

use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use layra_crds::IngestionPipeline;
use serde_json::json;

use super::{Context, FIELD_MANAGER};

/// The number is not written, and the next reconcile decides again.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotRecorded {
    /// The pipeline was changed in the meantime.
    Changed,
    /// Something before it failed, or the API server refused it.
    Failed,
}

/// Sets `scaling.replicas`. The workers already have this number.
pub(super) async fn record_replicas(
    context: &Context,
    pipeline: &IngestionPipeline,
    count: i32,
) -> Result<(), NotRecorded> {
    let api: Api<IngestionPipeline> = Api::namespaced(context.client.clone(), &context.namespace);
    let parameters = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let body = json!({
        "metadata": {"resourceVersion": pipeline.resource_version()},
        "spec": {"replicas": count},
    });
    let name = pipeline.name_any();
    let result = api
        .patch_scale(&name, &parameters, &Patch::Merge(&body))
        .await;
    match result {
        Ok(_) => {
            tracing::info!(pipeline = name, replicas = count, "scaling.replicas set");
            Ok(())
        }
        Err(kube::Error::Api(status)) if status.is_conflict() => Err(NotRecorded::Changed),
        Err(error) => {
            tracing::warn!(pipeline = name, %error, "scaling.replicas not set");
            Err(NotRecorded::Failed)
        }
    }
}
