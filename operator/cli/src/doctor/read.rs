//! Reads what the checks need. It only reads. What this person may not read is collected; any other
//! failure ends the command.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Pod, ResourceQuota, Secret};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::ListParams;
use kube::core::NamespaceResourceScope;
use kube::{Api, CustomResourceExt as _, Resource, ResourceExt};
use layra_crds::IngestionPipeline;
use serde::de::DeserializeOwned;

use super::finding::{Installation, Keys, Read, Seen, Source};
use super::installation::{LEASE, fields, is_suspicious, watches};
use super::references::{own_template, references};
use crate::cluster::{Cluster, resource};

/// The renewal of a lease is at most this far away.
const RENEWAL: Duration = Duration::from_secs(12);
const OPERATORS: &str = "app.kubernetes.io/component=operator,app.kubernetes.io/part-of=layra";

/// Reads, and remembers what was refused.
pub(super) struct Reader<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) not_read: BTreeSet<String>,
}

impl Reader<'_> {
    pub(super) async fn installation(&mut self) -> anyhow::Result<Installation> {
        let cluster = self.cluster;
        let name = IngestionPipeline::crd_name();
        let definitions: Api<CustomResourceDefinition> = Api::all(cluster.client.clone());
        let definition = definitions.get(name).await;
        let what = "customresourcedefinitions.apiextensions.k8s.io";
        let definition = match self.read(definition, "get", what, "of the cluster")? {
            Read::Found(found) => Read::Found(fields(&serde_json::to_value(found)?)),
            Read::Absent => Read::Absent,
            Read::Unread => Read::Unread,
        };
        let mut installation = Installation {
            now: Timestamp::now(),
            namespace: cluster.namespace.clone(),
            definition,
            lease: self.get(LEASE).await?,
            renewed: false,
            operators: self.operators().await?,
        };
        if is_suspicious(&installation) {
            tokio::time::sleep(RENEWAL).await;
            let again = self.get(LEASE).await?;
            installation.renewed = again != installation.lease;
        }
        Ok(installation)
    }

    /// Operators that watch the namespace: of all namespaces, if this person may see them.
    async fn operators(&mut self) -> anyhow::Result<Read<Vec<Deployment>>> {
        let cluster = self.cluster;
        let params = ListParams::default().labels(OPERATORS);
        let everywhere: Api<Deployment> = Api::all(cluster.client.clone());
        let list = match everywhere.list(&params).await {
            Err(error) if is_forbidden(&error) => cluster.api::<Deployment>().list(&params).await,
            list => list,
        };
        let list = self.read(list, "list", "deployments.apps", &self.place())?;
        Ok(match list {
            Read::Found(list) => {
                let namespace = &cluster.namespace;
                let watching = list.items.into_iter();
                let watching = watching.filter(|operator| watches(operator, namespace));
                Read::Found(watching.collect())
            }
            Read::Absent | Read::Unread => Read::Unread,
        })
    }

    pub(super) async fn pipeline(
        &mut self,
        pipeline: IngestionPipeline,
        installation: &Installation,
    ) -> anyhow::Result<Seen> {
        let name = pipeline.name_any();
        let deployment: Read<Deployment> = self.get(&format!("{name}-worker")).await?;
        let workers =
            format!("app.kubernetes.io/instance={name},app.kubernetes.io/component=worker");
        let template = deployment.found().and_then(|deployment| {
            let template = &deployment.spec.as_ref()?.template;
            template.spec.clone()
        });
        let template = template.or_else(|| own_template(&pipeline.spec));
        let references = references(&pipeline.spec, template.as_ref()).into_iter();
        let named: BTreeSet<(Source, String)> = references
            .map(|reference| (reference.source, reference.name))
            .collect();
        let mut sources = BTreeMap::new();
        for (source, name) in named {
            let keys = self.keys(source, &name).await?;
            sources.insert((source, name), keys);
        }
        let warnings = ListParams::default().fields("type=Warning");
        Ok(Seen {
            now: Timestamp::now(),
            namespace: self.cluster.namespace.clone(),
            name,
            pipeline,
            deployment,
            pods: self
                .list::<Pod>(&ListParams::default().labels(&workers))
                .await?,
            events: self.list::<Event>(&warnings).await?,
            sources,
            quotas: self.list::<ResourceQuota>(&ListParams::default()).await?,
            operators: installation.operators.found().cloned().unwrap_or_default(),
        })
    }

    /// The keys that have a value. The values are dropped.
    async fn keys(&mut self, source: Source, name: &str) -> anyhow::Result<Read<Keys>> {
        Ok(match source {
            Source::Secret => match self.get::<Secret>(name).await? {
                Read::Found(secret) => {
                    let data = secret.data.into_iter().flatten();
                    let data = data.filter(|(_, value)| !value.0.is_empty());
                    Read::Found(data.map(|(key, _)| key).collect())
                }
                Read::Absent => Read::Absent,
                Read::Unread => Read::Unread,
            },
            Source::ConfigMap => match self.get::<ConfigMap>(name).await? {
                Read::Found(map) => {
                    let texts = map.data.into_iter().flatten().map(|(key, _)| key);
                    let bytes = map.binary_data.into_iter().flatten().map(|(key, _)| key);
                    Read::Found(texts.chain(bytes).collect())
                }
                Read::Absent => Read::Absent,
                Read::Unread => Read::Unread,
            },
        })
    }

    async fn get<K>(&mut self, name: &str) -> anyhow::Result<Read<K>>
    where
        K: Resource<Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
        K::DynamicType: Default,
    {
        let found = self.cluster.api::<K>().get(name).await;
        self.read(found, "get", &resource::<K>(), &self.place())
    }

    async fn list<K>(&mut self, params: &ListParams) -> anyhow::Result<Vec<K>>
    where
        K: Resource<Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
        K::DynamicType: Default,
    {
        let list = self.cluster.api::<K>().list(params).await;
        let list = self.read(list, "list", &resource::<K>(), &self.place())?;
        Ok(match list {
            Read::Found(list) => list.items,
            Read::Absent | Read::Unread => Vec::new(),
        })
    }

    fn place(&self) -> String {
        format!("in namespace {}", self.cluster.namespace)
    }

    fn read<T>(
        &mut self,
        result: kube::Result<T>,
        verb: &str,
        resource: &str,
        place: &str,
    ) -> anyhow::Result<Read<T>> {
        match result {
            Ok(value) => Ok(Read::Found(value)),
            Err(error) if is_forbidden(&error) => {
                self.not_read.insert(format!("{verb} {resource} {place}"));
                Ok(Read::Unread)
            }
            Err(kube::Error::Api(status)) if status.reason == "NotFound" => Ok(Read::Absent),
            Err(error) => Err(self.cluster.refused(verb, resource, error)),
        }
    }
}

fn is_forbidden(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 403)
}
