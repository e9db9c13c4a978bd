//! Removes everything of a validation with faults: workers, documents, topics, and at last the objects
//! by which a later call finds the rest.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use k8s_openapi::api::batch::v1::Job;
use kube::Resource;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::core::NamespaceResourceScope;
use layra_crds::IngestionPipeline;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::copy::{Names, is_made_for};
use super::pauses::Pauses;
use crate::cluster::{Access, Cluster, resource};
use crate::load::{self, Outcome};
use crate::validate::workers;

/// For each step.
const PATIENCE: Duration = Duration::from_mins(3);

/// Removes what an earlier call has left, if it has left something.
pub(in crate::validate) async fn remove_remainders(
    cluster: &Cluster,
    access: &Access,
    original: &IngestionPipeline,
    image: Option<&str>,
) -> anyhow::Result<()> {
    let pipeline = original.metadata.name.as_deref().unwrap_or_default();
    let copy = Names::of(pipeline).pipeline;
    let found: Option<IngestionPipeline> = cluster.find(&copy).await?;
    if found.is_some_and(|found| is_made_for(&found, pipeline)) {
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
    let pipeline = original.metadata.name.as_deref().unwrap_or_default();
    let names = Names::of(pipeline);
    let mut pauses = Pauses::listen()?;
    let copy = cluster.find::<IngestionPipeline>(&names.pipeline).await?;
    if let Some(copy) = copy.filter(|copy| is_made_for(copy, pipeline)) {
        let uri = &original.spec.stores.milvus.uri;
        empty(cluster, access, &names.pipeline, uri, image, &mut pauses)
            .await
            .with_context(|| left(&copy, &names))?;
        remove_copy(cluster, &names.pipeline, &mut pauses)
            .await
            .with_context(|| format!("left: IngestionPipeline {}", names.pipeline))?;
    }
    remove_proxy(cluster, &names.proxy).await
}

async fn remove_copy(cluster: &Cluster, name: &str, pauses: &mut Pauses) -> anyhow::Result<()> {
    delete::<IngestionPipeline>(cluster, name).await?;
    let is_gone = async || {
        let copy = cluster.find::<IngestionPipeline>(name).await?;
        Ok(copy.is_none().then_some(()))
    };
    let gone = pauses.until(PATIENCE, is_gone).await?;
    gone.context("it was deleted and still exists: something has a finalizer on it")
}

pub(super) async fn remove_proxy(cluster: &Cluster, name: &str) -> anyhow::Result<()> {
    let deleted = delete::<Job>(cluster, name).await;
    deleted.with_context(|| format!("left, if there is one: Job {name}"))
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
/// proxy, which may be gone.
async fn empty(
    cluster: &Cluster,
    access: &Access,
    copy: &str,
    milvus: &str,
    image: Option<&str>,
    pauses: &mut Pauses,
) -> anyhow::Result<()> {
    let stopped = json!({"spec": {
        "paused": false,
        "scaling": {"mode": "Manual", "replicas": 0},
        "stores": {"milvus": {"uri": milvus}},
    }});
    patch(cluster, copy, &stopped).await?;
    let is_stopped = async || {
        let is_applied = is_observed(cluster, copy).await?;
        let pods = workers::pods(cluster, copy).await?;
        Ok((is_applied && pods.is_empty()).then_some(()))
    };
    let stopped = pauses.until(PATIENCE, is_stopped).await?;
    stopped.with_context(|| format!("the operator has not stopped the workers of {copy}"))?;
    // Otherwise the operator would make the topics again.
    patch(cluster, copy, &json!({"spec": {"paused": true}})).await?;
    let is_paused = async || Ok(is_observed(cluster, copy).await?.then_some(()));
    let answered = pauses.until(PATIENCE, is_paused).await?;
    answered.with_context(|| format!("the operator has not paused {copy}"))?;
    match Box::pin(load::remove_topics(copy, image, access)).await? {
        Outcome::Measured(result) => {
            let left = result.left.unwrap_or_default();
            ensure!(left.is_empty(), "{}", left.join(", "));
            Ok(())
        }
        Outcome::Ended(_) => bail!("the Job that removes documents and topics has failed"),
    }
}

/// Whether the operator has looked at the last change.
async fn is_observed(cluster: &Cluster, name: &str) -> anyhow::Result<bool> {
    let pipeline = cluster.pipeline(name).await?;
    let status = pipeline.status.as_ref();
    let observed = status.and_then(|status| status.observed_generation);
    Ok(observed == pipeline.metadata.generation)
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
async fn delete<K>(cluster: &Cluster, name: &str) -> anyhow::Result<()>
where
    K: Resource<Scope = NamespaceResourceScope> + Clone + DeserializeOwned + std::fmt::Debug,
    K::DynamicType: Default,
{
    let deleted = cluster
        .api::<K>()
        .delete(name, &DeleteParams::background())
        .await;
    match deleted {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        Err(error) => Err(cluster.refused("delete", &resource::<K>(), error)),
    }
}
