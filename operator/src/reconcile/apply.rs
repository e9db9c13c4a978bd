//! Applies a plan: changes Kafka's topics and the pipeline's objects.

use jiff::Timestamp;
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    Api,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
};
use layra_crds::IngestionPipeline;
use serde_json::json;

use super::{
    Context, FIELD_MANAGER, ReconcileError, dry_run,
    plan::{Manifest, PipelineEvent, Plan, template_hash, topic_actions, topic_changed},
    world::{Applied, Override, PastWrites, Refusal, RefusalCause, TopicFailure, World},
};
use crate::resources::{DELETION_COST, Kind, differences, is_foreign};

/// What came of a plan.
pub(super) struct Outcome {
    /// The Deployment was applied, and its pod template is the same as before.
    pub(super) is_rollout_futile: bool,
    /// The first error that the next reconcile may not see again.
    pub(super) result: Result<(), ReconcileError>,
}

/// Applies the objects of a plan. `past` records the writes that the next plan must know, such as
/// those that were refused.
pub(super) async fn apply(
    context: &Context,
    pipeline: &IngestionPipeline,
    plan: &Plan,
    past: &mut PastWrites,
    now: Timestamp,
) -> Outcome {
    let is_outdated = |kind: Kind| plan.outdated.contains(&kind);
    past.applied
        .retain(|applied| is_outdated(applied.write.kind));
    past.refusals.retain(|refusal| is_outdated(refusal.kind));
    let mut writes = Writes {
        context,
        pipeline,
        past,
        now,
        is_rollout_futile: false,
    };
    let result = writes.make(plan).await;
    Outcome {
        is_rollout_futile: writes.is_rollout_futile,
        result,
    }
}

/// The writes of one reconcile to the API server.
struct Writes<'a> {
    context: &'a Context,
    pipeline: &'a IngestionPipeline,
    past: &'a mut PastWrites,
    now: Timestamp,
    is_rollout_futile: bool,
}

impl Writes<'_> {
    async fn make(&mut self, plan: &Plan) -> Result<(), ReconcileError> {
        let (free, mut result) = self.without_taken(&plan.manifests).await;
        let is_deployment = |manifest: &Manifest| manifest.kind == Kind::Deployment;
        let is_taken = plan.manifests.iter().any(is_deployment)
            && !free.iter().any(|manifest| is_deployment(manifest));
        let is_config = |manifest: &Manifest| manifest.kind == Kind::ConfigMap;
        let mut has_config = !plan.manifests.iter().any(is_config)
            || free.iter().any(|manifest| is_config(manifest));
        let dry_run = plan.dry_run.as_ref().filter(|_| !is_taken);
        match dry_run::accepted(self.context, self.pipeline, dry_run, self.past, self.now).await {
            Ok(true) => {}
            Ok(false) => return result,
            Err(error) => {
                if let (Some(deployment), ReconcileError::Apply { source, .. }) =
                    (free.iter().find(|manifest| is_deployment(manifest)), &error)
                {
                    self.failed(deployment, source);
                }
                return Err(error);
            }
        }
        for (pod, cost) in &plan.deletion_costs {
            set_deletion_cost(self.context, pod, cost).await;
        }
        for manifest in free {
            // The new pods of the Deployment would read the ConfigMap.
            let lacks_config = !has_config || self.is_refused(Kind::ConfigMap);
            let reads_config = is_deployment(manifest) || manifest.kind == Kind::QueryDeployment;
            if reads_config && lacks_config && !manifest.keeps_template() {
                continue;
            }
            // One that is refused does not keep the others from being applied.
            let applied = self.apply(manifest).await;
            has_config &= applied.is_ok() || !is_config(manifest);
            result = result.and(applied);
        }
        result
    }

    /// The manifests whose name does not belong to something else, and the first error of a read.
    /// The caches hold only the operator's objects, so those that seem absent are read.
    async fn without_taken<'m>(
        &mut self,
        manifests: &'m [Manifest],
    ) -> (Vec<&'m Manifest>, Result<(), ReconcileError>) {
        let mut free = Vec::new();
        let mut result = Ok(());
        for manifest in manifests {
            if manifest.write.onto.is_some() {
                free.push(manifest);
                continue;
            }
            let name = manifest.name();
            match self.api(manifest.kind).get_metadata_opt(&name).await {
                Ok(Some(found)) if is_foreign(&found.metadata, self.pipeline) => {
                    tracing::warn!(kind = ?manifest.kind, object = name, "name is taken");
                    self.refused(manifest, RefusalCause::NameTaken);
                }
                Ok(_) => free.push(manifest),
                Err(error) => {
                    self.failed(manifest, &error);
                    result = result.and(Err(not_applied(manifest.kind, name, error)));
                }
            }
        }
        (free, result)
    }

    async fn apply(&mut self, manifest: &Manifest) -> Result<(), ReconcileError> {
        let kind = manifest.kind;
        let name = manifest.name();
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        let api = self.api(kind);
        let answer = api
            .patch(&name, &parameters, &Patch::Apply(&manifest.body))
            .await;
        let stored = match answer {
            Ok(stored) => stored,
            Err(error) => {
                let Some(words) = dry_run::refusal(&error) else {
                    self.failed(manifest, &error);
                    return Err(not_applied(kind, name, error));
                };
                tracing::warn!(?kind, object = name, words, "object refused");
                self.refused(manifest, RefusalCause::Refused(words));
                return Ok(());
            }
        };
        tracing::info!(?kind, object = name, "object applied");
        self.context.metrics.applied(kind);
        self.stored(manifest, stored);
        Ok(())
    }

    /// Records what became of a write.
    fn stored(&mut self, manifest: &Manifest, stored: DynamicObject) {
        let kind = manifest.kind;
        let past = &mut *self.past;
        past.refusals.retain(|refusal| refusal.kind != kind);
        past.applied.retain(|applied| applied.write.kind != kind);
        past.applied.push(Applied {
            write: manifest.write.clone(),
            at: self.now,
        });
        let stored = serde_json::to_value(stored).unwrap_or_default();
        past.overrides.retain(|other| other.kind != kind);
        let differences = differences(&manifest.body, &stored);
        if let Some(difference) = differences.first() {
            tracing::warn!(?kind, %difference, "another writer changed the object as it was applied");
            past.overrides.push(Override { kind, differences });
        }
        if let Some(before) = &manifest.template_before {
            let deployment = serde_json::from_value::<Deployment>(stored);
            self.is_rollout_futile =
                deployment.is_ok_and(|deployment| template_hash(&deployment) == *before);
        }
    }

    fn failed(&mut self, manifest: &Manifest, error: &kube::Error) {
        if let Some(words) = lasting_failure(error) {
            self.refused(manifest, RefusalCause::Failed(words));
        }
    }

    fn refused(&mut self, manifest: &Manifest, cause: RefusalCause) {
        let kind = manifest.kind;
        let before = self.past.refusals.iter().find(|other| other.kind == kind);
        let attempts = before.map_or(0, |before| before.attempts) + 1;
        self.past.refusals.retain(|other| other.kind != kind);
        self.past.refusals.push(Refusal {
            kind,
            hash: manifest.write.hash.clone(),
            generation: self.pipeline.metadata.generation,
            at: self.now,
            attempts,
            cause,
        });
    }

    fn is_refused(&self, kind: Kind) -> bool {
        self.past
            .refusals
            .iter()
            .any(|refusal| refusal.kind == kind)
    }

    fn api(&self, kind: Kind) -> Api<DynamicObject> {
        let client = self.context.client.clone();
        Api::namespaced_with(client, &self.context.namespace, &resource(kind))
    }
}

fn not_applied(kind: Kind, name: String, error: kube::Error) -> ReconcileError {
    ReconcileError::Apply {
        kind,
        name,
        source: Box::new(error),
    }
}

/// The API server's words about a request that may well fail again. An API server that is away or
/// overloaded, or a conflict, says nothing about the object.
fn lasting_failure(error: &kube::Error) -> Option<String> {
    match error {
        kube::Error::Api(status) if !matches!(status.code, 409 | 429 | 503 | 504) => {
            Some(status.message.clone())
        }
        _ => None,
    }
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
    let results = context.kafka.change_topics(connection, &actions).await;
    let mut events = Vec::new();
    for (action, result) in actions.iter().zip(results) {
        past.topic_failures
            .retain(|failure| failure.topic != action.topic());
        match result {
            Ok(()) => {
                tracing::info!(topic = action.topic(), ?action, "topic changed");
                events.push(topic_changed(action));
            }
            Err(error) => {
                tracing::warn!(topic = action.topic(), %error, "topic change failed");
                past.topic_failures.push(TopicFailure {
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

pub(super) fn resource(kind: Kind) -> ApiResource {
    use k8s_openapi::api::{apps, batch, core, policy};
    match kind {
        Kind::ConfigMap => ApiResource::erase::<core::v1::ConfigMap>(&()),
        Kind::Deployment | Kind::QueryDeployment => ApiResource::erase::<apps::v1::Deployment>(&()),
        Kind::Service | Kind::QueryService => ApiResource::erase::<core::v1::Service>(&()),
        Kind::PodDisruptionBudget | Kind::QueryDisruptionBudget => {
            ApiResource::erase::<policy::v1::PodDisruptionBudget>(&())
        }
        Kind::CronJob => ApiResource::erase::<batch::v1::CronJob>(&()),
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn an_api_server_that_is_away_says_nothing_about_an_object() {
        let error = |code| {
            let status = Status::failure("words", "Any").with_code(code);
            kube::Error::Api(Box::new(status))
        };
        for code in [409, 429, 503, 504] {
            assert_eq!(lasting_failure(&error(code)), None, "{code}");
        }
        assert_eq!(
            lasting_failure(&kube::Error::LinesCodecMaxLineLengthExceeded),
            None
        );
        for code in [403, 500] {
            let words = lasting_failure(&error(code));
            assert_eq!(words.as_deref(), Some("words"), "{code}");
        }
    }
}
