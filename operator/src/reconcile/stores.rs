//! The watch caches of one namespace. Kubernetes objects are read from here, and every change of an
//! object that belongs to a pipeline triggers a reconcile of the pipeline. Secrets are not watched:
//! the operator may only get those that a pipeline names.

use std::fmt::Debug;

use futures::StreamExt;
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::Deployment,
        batch::v1::{CronJob, Job},
        core::v1::{ConfigMap, Pod, Service},
        policy::v1::PodDisruptionBudget,
    },
};
use kube::{
    Api, Client, Resource, ResourceExt,
    runtime::{
        WatchStreamExt,
        reflector::{self, ObjectRef, Store},
        watcher,
    },
};
use layra_crds::IngestionPipeline;
use serde::de::DeserializeOwned;
use tokio::{sync::mpsc, task::JoinSet};

use super::compact::Compact;
use crate::resources::{INSTANCE_LABEL, MANAGED_BY, PODS};

/// Objects in one answer of a first list. All lists of a start are read at the same time, and an
/// answer takes ten times the memory of what the cache keeps of it.
pub const PAGE: u32 = 100;

/// The queue of pipelines to reconcile.
pub(super) type Triggers = mpsc::Sender<ObjectRef<IngestionPipeline>>;

/// The caches of one namespace.
pub(crate) struct Stores {
    pub(super) config_maps: Store<Compact<ConfigMap>>,
    pub(super) deployments: Store<Compact<Deployment>>,
    pub(super) services: Store<Compact<Service>>,
    pub(super) disruption_budgets: Store<Compact<PodDisruptionBudget>>,
    pub(super) cron_jobs: Store<Compact<CronJob>>,
    pub(super) jobs: Store<Compact<Job>>,
    pub(super) pods: Store<Pod>,
}

impl Stores {
    /// Spawns the watches on `tasks`.
    pub(super) fn start(
        client: &Client,
        namespace: &str,
        triggers: &Triggers,
        tasks: &mut JoinSet<()>,
    ) -> Self {
        Self {
            config_maps: watch(client, namespace, MANAGED_BY, triggers, tasks),
            deployments: watch(client, namespace, MANAGED_BY, triggers, tasks),
            services: watch(client, namespace, MANAGED_BY, triggers, tasks),
            disruption_budgets: watch(client, namespace, MANAGED_BY, triggers, tasks),
            cron_jobs: watch(client, namespace, MANAGED_BY, triggers, tasks),
            jobs: watch(client, namespace, MANAGED_BY, triggers, tasks),
            pods: watch(client, namespace, PODS, triggers, tasks),
        }
    }

    /// Waits until every cache has its first list.
    pub(super) async fn filled(&self) -> Result<(), reflector::store::WriterDropped> {
        self.config_maps.wait_until_ready().await?;
        self.deployments.wait_until_ready().await?;
        self.services.wait_until_ready().await?;
        self.disruption_budgets.wait_until_ready().await?;
        self.cron_jobs.wait_until_ready().await?;
        self.jobs.wait_until_ready().await?;
        self.pods.wait_until_ready().await
    }
}

fn watch<K>(
    client: &Client,
    namespace: &str,
    labels: &str,
    triggers: &Triggers,
    tasks: &mut JoinSet<()>,
) -> Store<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let (store, writer) = reflector::store();
    let stream = watcher(
        api,
        watcher::Config::default().labels(labels).page_size(PAGE),
    )
    .modify(|object| object.managed_fields_mut().clear())
    .default_backoff()
    .reflect(writer)
    // Deletions are changes too.
    .touched_objects();
    let triggers = triggers.clone();
    tasks.spawn(async move {
        let mut stream = std::pin::pin!(stream);
        while let Some(event) = stream.next().await {
            match event {
                Ok(object) => {
                    if let Some(pipeline) = pipeline_of(&object)
                        && triggers.send(pipeline).await.is_err()
                    {
                        return;
                    }
                }
                Err(error) => {
                    tracing::warn!(kind = %K::kind(&()), %error, "watch interrupted, retrying");
                }
            }
        }
    });
    store
}

/// The pipeline that the label of an object names.
fn pipeline_of<K: Resource>(object: &K) -> Option<ObjectRef<IngestionPipeline>> {
    let name = object.labels().get(INSTANCE_LABEL)?;
    Some(ObjectRef::new(name).within(&object.namespace()?))
}
