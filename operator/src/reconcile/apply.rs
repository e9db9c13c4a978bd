//! All writes of a reconcile but the report: Kafka's topics and the pipeline's objects.

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
    plan::{Manifest, Note, Plan, topic_changed},
    world::{Applied, PastWrites, TopicFailure},
};
use crate::resources::{DELETION_COST, Kind, object_name};

/// Carries a plan out and returns what is to be told of it. What the next plan has to know of these
/// writes, such as Kafka's refusals, goes to `past`.
pub(super) async fn apply(
    context: &Context,
    pipeline: &IngestionPipeline,
    plan: &Plan,
    past: &mut PastWrites,
    now: Timestamp,
) -> Result<Vec<Note>, ReconcileError> {
    let notes = change_topics(context, plan, past, now).await;
    if !dry_run::accepted(context, pipeline, plan.dry_run.as_ref(), past, now).await? {
        return Ok(notes);
    }
    past.applied
        .retain(|applied| plan.unsettled.contains(&applied.write.kind));
    for (pod, cost) in &plan.deletion_costs {
        set_deletion_cost(context, pipeline, pod, cost).await;
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
    Ok(notes)
}

async fn change_topics(
    context: &Context,
    plan: &Plan,
    past: &mut PastWrites,
    now: Timestamp,
) -> Vec<Note> {
    if plan.topic_actions.is_empty() {
        return Vec::new();
    }
    let Some(connection) = &plan.kafka else {
        return Vec::new();
    };
    past.topic_failure = None;
    let changes = plan
        .topic_actions
        .iter()
        .map(|action| context.kafka.change(connection, action));
    let results = futures::future::join_all(changes).await;
    let mut notes = Vec::new();
    for (action, result) in plan.topic_actions.iter().zip(results) {
        match result {
            Ok(()) => {
                tracing::info!(topic = action.topic(), ?action, "topic changed");
                notes.push(topic_changed(action));
            }
            Err(error) => {
                tracing::warn!(topic = action.topic(), %error, "topic not changed");
                past.topic_failure = Some(TopicFailure {
                    topic: action.topic().to_owned(),
                    at: now,
                    message: error.to_string(),
                });
            }
        }
    }
    notes
}

/// Without it another worker may be stopped, which then finishes or gives back its work: no reason
/// to put the decision off.
async fn set_deletion_cost(context: &Context, pipeline: &IngestionPipeline, pod: &str, cost: &str) {
    let namespace = pipeline.namespace().unwrap_or_default();
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &namespace);
    let body = json!({"metadata": {"annotations": {DELETION_COST: cost}}});
    let result = api
        .patch_metadata(pod, &PatchParams::default(), &Patch::Merge(&body))
        .await;
    if let Err(error) = result {
        tracing::warn!(pod, %error, "the pod's deletion cost cannot be set");
    }
}

async fn apply_manifest(
    context: &Context,
    pipeline: &IngestionPipeline,
    manifest: &Manifest,
) -> Result<(), ReconcileError> {
    let namespace = pipeline.namespace().unwrap_or_default();
    let resource = resource(manifest.kind);
    let api: Api<DynamicObject> =
        Api::namespaced_with(context.client.clone(), &namespace, &resource);
    let name = object_name(&pipeline.name_any());
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    api.patch(&name, &parameters, &Patch::Apply(&manifest.body))
        .await
        .map_err(|source| ReconcileError::Apply {
            kind: manifest.kind,
            name: name.clone(),
            source: Box::new(source),
        })?;
    tracing::info!(kind = ?manifest.kind, object = name, "applied");
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
