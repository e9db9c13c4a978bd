//! Applies a plan: changes Kafka's topics and the pipeline's objects.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
};
use layra_crds::IngestionPipeline;
use serde_json::json;

use super::{
    Context, FIELD_MANAGER, ReconcileError, dry_run,
    plan::{Manifest, PipelineEvent, Plan, topic_actions, topic_changed},
    world::{Applied, PastWrites, TopicFailure, World},
};
use crate::resources::{DELETION_COST, Kind, object_name};

/// Applies the objects of a plan. `past` records the writes that the next plan must know.
pub(super) async fn apply(
    context: &Context,
    pipeline: &IngestionPipeline,
    plan: &Plan,
    past: &mut PastWrites,
    now: Timestamp,
) -> Result<(), ReconcileError> {
    if !dry_run::accepted(context, pipeline, plan.dry_run.as_ref(), past, now).await? {
        return Ok(());
    }
    past.applied
        .retain(|applied| plan.outdated.contains(&applied.write.kind));
    for (pod, cost) in &plan.deletion_costs {
        set_deletion_cost(context, pod, cost).await;
    }
    for manifest in &plan.manifests {
        apply_manifest(context, pipeline, manifest).await?;
        past.applied
            .retain(|applied| applied.write.kind != manifest.kind);
        past.applied.push(Applied {
            write: manifest.write.clone(),
            at: now,
        });
    }
    Ok(())
}

/// Changes the topics, and returns the events for it. `past` records the changes that Kafka refused.
/// It comes before the plan of the other objects, which would be held in memory meanwhile: many
/// pipelines at once wait for their topics for minutes.
pub(super) async fn change_topics(
    context: &Context,
    pipeline: &IngestionPipeline,
    world: &World,
    past: &mut PastWrites,
    now: Timestamp,
) -> Vec<PipelineEvent> {
    let actions = topic_actions(pipeline, world, now);
    if actions.is_empty() {
        return Vec::new();
    }
    let Ok(connection) = &world.kafka else {
        return Vec::new();
    };
    past.topic_failure = None;
    let results = context.kafka.change_topics(connection, &actions).await;
    let mut events = Vec::new();
    for (action, result) in actions.iter().zip(results) {
        match result {
            Ok(()) => {
                tracing::info!(topic = action.topic(), ?action, "topic changed");
                events.push(topic_changed(action));
            }
            Err(error) => {
                tracing::warn!(topic = action.topic(), %error, "topic change failed");
                past.topic_failure = Some(TopicFailure {
                    topic: action.topic().to_owned(),
                    at: now,
                    message: error.to_string(),
                });
            }
        }
    }
    events
}

/// A failure does not delay scaling: without the cost Kubernetes may delete another worker, which
/// finishes or releases its work.
async fn set_deletion_cost(context: &Context, pod: &str, cost: &str) {
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &context.namespace);
    let body = json!({"metadata": {"annotations": {DELETION_COST: cost}}});
    let result = api
        .patch_metadata(pod, &PatchParams::default(), &Patch::Merge(&body))
        .await;
    if let Err(error) = result {
        tracing::warn!(pod, %error, "pod deletion cost not set");
    }
}

async fn apply_manifest(
    context: &Context,
    pipeline: &IngestionPipeline,
    manifest: &Manifest,
) -> Result<(), ReconcileError> {
    let resource = resource(manifest.kind);
    let api: Api<DynamicObject> =
        Api::namespaced_with(context.client.clone(), &context.namespace, &resource);
    let name = object_name(&pipeline.name_any());
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    api.patch(&name, &parameters, &Patch::Apply(&manifest.body))
        .await
        .map_err(|source| ReconcileError::Apply {
            kind: manifest.kind,
            name: name.clone(),
            source: Box::new(source),
        })?;
    tracing::info!(kind = ?manifest.kind, object = name, "object applied");
    context.metrics.applied(manifest.kind);
    Ok(())
}

fn resource(kind: Kind) -> ApiResource {
    use k8s_openapi::api::{apps, core, policy};
    match kind {
        Kind::ConfigMap => ApiResource::erase::<core::v1::ConfigMap>(&()),
        Kind::Deployment => ApiResource::erase::<apps::v1::Deployment>(&()),
        Kind::Service => ApiResource::erase::<core::v1::Service>(&()),
        Kind::PodDisruptionBudget => ApiResource::erase::<policy::v1::PodDisruptionBudget>(&()),
    }
}
