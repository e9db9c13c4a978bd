//! Removes everything of a validation with faults: workers, documents, topics, and at last the objects
//! by which a later call finds the rest.

use std::time::Duration;

use anyhow::{Context as _, anyhow, bail, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::core::NamespaceResourceScope;
use kube::{Resource, ResourceExt};
use layra_crds::IngestionPipeline;
use layra_crds::condition_types::{STALLED, TOPIC_READY};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::copy::{Names, is_made_for};
use super::pauses::Pauses;
use crate::cluster::{Access, Cluster, resource};
use crate::load::{self, Outcome};
use crate::run::deployment_name;
use crate::validate::workers;

/// For each step.
const PATIENCE: Duration = Duration::from_mins(3);
/// While a pipeline is stalled for one of these reasons, the operator makes no topic for it.
const WITHOUT_TOPICS: [&str; 2] = ["Conflict", "NameTooLong"];

/// Removes what an earlier call has left, if it has left something.
pub(in crate::validate) async fn remove_remainders(
    cluster: &Cluster,
    access: &Access,
    original: &IngestionPipeline,
    image: Option<&str>,
) -> anyhow::Result<()> {
    let pipeline = original.name_any();
    let copy = Names::of(&pipeline).pipeline;
    let found: Option<IngestionPipeline> = cluster.find(&copy).await?;
    if found.is_some_and(|found| is_made_for(&found, &pipeline)) {
        eprintln!("removing {copy}, which an earlier call has left");
        Box::pin(remove(cluster, access, original, image)).await?;
    }
    Ok(())
}

/// Removes everything. The error names what is left.
pub(super) async fn remove(
    cluster: &Cluster,
    access: &Access,
    original: &IngestionPipeline,
    image: Option<&str>,
) -> anyhow::Result<()> {
    let pipeline = original.name_any();
    let names = Names::of(&pipeline);
    let mut pauses = Pauses::listen()?;
    let copy = cluster.find::<IngestionPipeline>(&names.pipeline).await?;
    let mut perhaps_left = None;
    if let Some(copy) = copy.filter(|copy| is_made_for(copy, &pipeline)) {
        let uri = &original.spec.stores.milvus.uri;
        let emptying = empty(cluster, access, &names.pipeline, uri, image, &mut pauses);
        perhaps_left = Box::pin(emptying)
            .await
            .with_context(|| left(&copy, &names))?;
        remove_copy(cluster, &copy, &mut pauses)
            .await
            .with_context(|| format!("left: IngestionPipeline {}", names.pipeline))?;
    }
    remove_proxy(cluster, &names.proxy, &pipeline).await?;
    perhaps_left.map_or(Ok(()), |words| Err(anyhow!(words)))
}

async fn remove_copy(
    cluster: &Cluster,
    copy: &IngestionPipeline,
    pauses: &mut Pauses,
) -> anyhow::Result<()> {
    let name = copy.name_any();
    delete(cluster, copy).await?;
    let is_gone = async || {
        let found = cluster.find::<IngestionPipeline>(&name).await?;
        let is_there = found.is_some_and(|found| found.metadata.uid == copy.metadata.uid);
        Ok((!is_there).then_some(()))
    };
    let gone = pauses.until(PATIENCE, is_gone).await?;
    gone.context("it was deleted and still exists: something has a finalizer on it")
}

/// Removes the Job of this name, if a validation of the pipeline has made it. False: somebody else
/// has.
pub(super) async fn remove_proxy(
    cluster: &Cluster,
    name: &str,
    pipeline: &str,
) -> anyhow::Result<bool> {
    let left = || format!("left, if there is one: Job {name}");
    let Some(job) = cluster.find::<Job>(name).await.with_context(left)? else {
        return Ok(true);
    };
    if !is_made_for(&job, pipeline) {
        return Ok(false);
    }
    delete(cluster, &job).await.with_context(left)?;
    Ok(true)
}

fn left(copy: &IngestionPipeline, names: &Names) -> String {
    let kafka = &copy.spec.source.kafka;
    format!(
        "left: IngestionPipeline {}, its topics {}, {} and {}, and Job {}",
        names.pipeline,
        kafka.topic,
        kafka.ranges_topic(),
        kafka.dead_letter_topic(),
        names.proxy
    )
}

/// Stops the workers of the copy, and removes documents and topics. The stores are asked without the
/// proxy, which may be gone. Returns what may be left, if the operator has not made of the copy what
/// it says.
async fn empty(
    cluster: &Cluster,
    access: &Access,
    copy: &str,
    milvus: &str,
    image: Option<&str>,
    pauses: &mut Pauses,
) -> anyhow::Result<Option<String>> {
    let stopped = json!({"spec": {
        "paused": false,
        "scaling": {"mode": "Manual", "replicas": 0},
        "stores": {"milvus": {"uri": milvus}},
    }});
    patch(cluster, copy, &stopped).await?;
    let is_stopped = async || {
        let now = cluster.pipeline(copy).await?;
        // Workers of a stalled pipeline may go on.
        let has_ended =
            condition(&now, STALLED).is_some() || workers::pods(cluster, copy).await?.is_empty();
        Ok((is_observed(&now) && has_ended).then_some(now))
    };
    let stopped = Box::pin(pauses.until(PATIENCE, is_stopped)).await?;
    let stopped =
        stopped.with_context(|| format!("the operator has not stopped the workers of {copy}"))?;
    let workers = cluster.find::<Deployment>(&deployment_name(copy)).await?;
    if let Some(why) = obstacle(&stopped, workers.is_some()) {
        return Ok(perhaps_left(&stopped, &why));
    }
    // Otherwise the operator would make the topics again.
    patch(cluster, copy, &json!({"spec": {"paused": true}})).await?;
    let is_paused = async || {
        let now = cluster.pipeline(copy).await?;
        Ok(is_observed(&now).then_some(()))
    };
    let answered = pauses.until(PATIENCE, is_paused).await?;
    answered.with_context(|| format!("the operator has not paused {copy}"))?;
    match Box::pin(load::remove_topics(copy, image, access)).await? {
        Outcome::Measured(result) => {
            let left = result.left.unwrap_or_default();
            ensure!(left.is_empty(), "{}", left.join(", "));
            Ok(None)
        }
        Outcome::Ended(_) => bail!("the Job that removes documents and topics has failed"),
    }
}

/// Whether the operator has looked at the last change.
fn is_observed(pipeline: &IngestionPipeline) -> bool {
    let status = pipeline.status.as_ref();
    let observed = status.and_then(|status| status.observed_generation);
    observed == pipeline.metadata.generation
}

fn condition<'a>(pipeline: &'a IngestionPipeline, kind: &str) -> Option<&'a Condition> {
    let mut conditions = pipeline.status.as_ref()?.conditions.iter();
    conditions.find(|condition| condition.type_ == kind)
}

/// Why no Job may remove documents and topics of the copy: its topic may be that of another pipeline,
/// or there is no pod template for the Job. Pure.
fn obstacle(copy: &IngestionPipeline, has_deployment: bool) -> Option<String> {
    if let Some(stalled) = condition(copy, STALLED) {
        let Condition {
            reason, message, ..
        } = stalled;
        return Some(format!("it was stalled ({reason}: {message})"));
    }
    let workers = deployment_name(&copy.name_any());
    (!has_deployment).then(|| format!("it had no Deployment {workers}"))
}

/// What may be left of a copy that no Job has emptied. `None`: the operator has made no topic. Pure.
fn perhaps_left(copy: &IngestionPipeline, why: &str) -> Option<String> {
    let topics = condition(copy, TOPIC_READY)?;
    let is_without = condition(copy, STALLED)
        .is_some_and(|stalled| WITHOUT_TOPICS.contains(&stalled.reason.as_str()));
    if is_without && topics.status != "True" {
        return None;
    }
    let kafka = &copy.spec.source.kafka;
    Some(format!(
        "perhaps left: topics {}, {} and {}, and documents of the validation. IngestionPipeline {} was \
         removed without a Job that removes them, because {why}. Delete the topics if no other pipeline \
         has them",
        kafka.topic,
        kafka.ranges_topic(),
        kafka.dead_letter_topic(),
        copy.name_any()
    ))
}

async fn patch(cluster: &Cluster, name: &str, patch: &Value) -> anyhow::Result<()> {
    let patched = cluster
        .api::<IngestionPipeline>()
        .patch(name, &PatchParams::default(), &Patch::Merge(patch))
        .await;
    let resource = resource::<IngestionPipeline>();
    patched
        .map(|_| ())
        .map_err(|error| cluster.refused("patch", &resource, error))
}

/// Deletes an object, with what it owns, if it exists.
async fn delete<K>(cluster: &Cluster, object: &K) -> anyhow::Result<()>
where
    K: Resource<Scope = NamespaceResourceScope> + Clone + DeserializeOwned + std::fmt::Debug,
    K::DynamicType: Default,
{
    // Not one that somebody has made meanwhile under the same name.
    let same = Preconditions {
        uid: object.uid(),
        resource_version: None,
    };
    let parameters = DeleteParams::background().preconditions(same);
    let deleted = cluster
        .api::<K>()
        .delete(&object.name_any(), &parameters)
        .await;
    match deleted {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        Err(error) => Err(cluster.refused("delete", &resource::<K>(), error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conditions::tests::{condition, status};

    fn copy(conditions: Vec<Condition>) -> IngestionPipeline {
        let text = include_str!("../../../../../docs/examples/minimal.yaml");
        let mut copy: IngestionPipeline = serde_yaml_ng::from_str(text).unwrap();
        copy.spec.source.kafka.topic = "tasks-validate-1a2b3c4d".to_owned();
        copy.status = Some(status(conditions));
        copy
    }

    #[test]
    fn a_copy_that_the_operator_has_not_carried_out_is_not_emptied_by_a_job() {
        let ready = condition(TOPIC_READY, "True", "TopicsExist", "");
        let working = copy(vec![ready.clone()]);
        assert_eq!(obstacle(&working, true), None);
        let why = obstacle(&working, false).unwrap();
        assert_eq!(why, "it had no Deployment contracts-worker");
        let words = perhaps_left(&working, &why).unwrap();
        for topic in ["tasks-validate-1a2b3c4d,", "tasks-validate-1a2b3c4d.dlq"] {
            assert!(words.contains(topic), "{words}");
        }

        let conflict = condition(STALLED, "True", "Conflict", "b is older");
        let creating = condition(TOPIC_READY, "False", "TopicCreating", "");
        let never = copy(vec![creating, conflict.clone()]);
        let why = obstacle(&never, true).unwrap();
        assert_eq!(why, "it was stalled (Conflict: b is older)");
        assert_eq!(perhaps_left(&never, &why), None);
        // It came later.
        let later = copy(vec![ready.clone(), conflict]);
        assert!(perhaps_left(&later, &why).is_some());
        // The topics were made, and no worker.
        let template = condition(STALLED, "True", "TemplateRefused", "nodeSelectors");
        assert!(perhaps_left(&copy(vec![ready, template]), &why).is_some());
        assert_eq!(perhaps_left(&copy(Vec::new()), &why), None);
    }
}
