//! Access to the cluster as kubectl has it, and its refusals in words that name what is missing.

use std::fmt::Debug;
use std::path::PathBuf;

use anyhow::anyhow;
use clap::Args;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Config, Resource};
use layra_crds::IngestionPipeline;
use serde::de::DeserializeOwned;

/// The cluster and the namespace to use.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Cluster")]
pub(crate) struct Access {
    /// Namespace of the pipeline. Default: that of the context.
    #[arg(short, long, global = true)]
    pub(crate) namespace: Option<String>,

    /// Context of the kubeconfig. Default: the current one.
    #[arg(long, global = true)]
    pub(crate) context: Option<String>,

    /// The kubeconfig file. Default: $KUBECONFIG, else ~/.kube/config, else the pod's own account.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
}

/// A namespace of a cluster.
pub(crate) struct Cluster {
    pub(crate) client: Client,
    pub(crate) namespace: String,
}

impl Cluster {
    pub(crate) async fn connect(access: &Access) -> anyhow::Result<Self> {
        // The errors of kube contain those below them: as a chain they would be printed twice.
        let config = config(access)
            .await
            .map_err(|error| anyhow!("cannot access a Kubernetes cluster: {error}"))?;
        let client = Client::try_from(config)?;
        let namespace = match &access.namespace {
            Some(namespace) => namespace.clone(),
            None => client.default_namespace().to_owned(),
        };
        Ok(Self { client, namespace })
    }

    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Reads an object; none when there is no such object.
    pub(crate) async fn find<K>(&self, name: &str) -> anyhow::Result<Option<K>>
    where
        K: Resource<Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
        K::DynamicType: Default,
    {
        match self.api::<K>().get(name).await {
            Ok(object) => Ok(Some(object)),
            Err(kube::Error::Api(status)) if status.reason == "NotFound" => Ok(None),
            Err(error) => Err(self.refused("get", &resource::<K>(), error)),
        }
    }

    pub(crate) async fn pipeline(&self, name: &str) -> anyhow::Result<IngestionPipeline> {
        let pipeline = self.find(name).await?;
        pipeline.ok_or_else(|| self.no_pipeline(name))
    }

    pub(crate) fn no_pipeline(&self, name: &str) -> anyhow::Error {
        let namespace = &self.namespace;
        anyhow!(
            "there is no IngestionPipeline {name} in namespace {namespace}; \
             `kubectl get ingestionpipelines --all-namespaces` lists them"
        )
    }

    /// The error of a request, in words. `resource` is the name that roles use.
    pub(crate) fn refused(&self, verb: &str, resource: &str, error: kube::Error) -> anyhow::Error {
        let place = format!("in namespace {}", self.namespace);
        Self::refused_in(&place, verb, resource, error)
    }

    /// The error of a request about all namespaces.
    pub(crate) fn refused_everywhere(
        verb: &str,
        resource: &str,
        error: kube::Error,
    ) -> anyhow::Error {
        Self::refused_in("in all namespaces", verb, resource, error)
    }

    fn refused_in(place: &str, verb: &str, resource: &str, error: kube::Error) -> anyhow::Error {
        let what = format!("cannot {verb} {resource} {place}");
        let status = match error {
            kube::Error::Api(status) => status,
            kube::Error::Service(error) => return anyhow::Error::from_boxed(error).context(what),
            error => return anyhow!("{what}: {error}"),
        };
        let message = &status.message;
        match status.code {
            401 => {
                anyhow!("the API server does not accept the credentials of this context: {message}")
            }
            // Quotas and admission answer 403, too, and a role would not help.
            403 if message.contains(&format!("cannot {verb} ")) => anyhow!(
                "no permission to {verb} {resource} {place}. The chart's value \
                 cliRole creates a Role with all permissions that kubectl layra needs. The API \
                 server replied: {message}"
            ),
            404 if status.reason != "NotFound" => anyhow!(
                "the API server does not serve {resource}: install the chart layra-operator in \
                 this cluster first"
            ),
            _ => anyhow!("{what}: {message}"),
        }
    }
}

/// The plural of a kind and its API group.
pub(crate) fn resource<K>() -> String
where
    K: Resource,
    K::DynamicType: Default,
{
    let kind = K::DynamicType::default();
    let (plural, group) = (K::plural(&kind), K::group(&kind));
    if group.is_empty() {
        plural.into_owned()
    } else {
        format!("{plural}.{group}")
    }
}

async fn config(access: &Access) -> anyhow::Result<Config> {
    let options = KubeConfigOptions {
        context: access.context.clone(),
        ..KubeConfigOptions::default()
    };
    if let Some(path) = &access.kubeconfig {
        let file = Kubeconfig::read_from(path)?;
        return Ok(Config::from_custom_kubeconfig(file, &options).await?);
    }
    if access.context.is_some() {
        return Ok(Config::from_kubeconfig(&options).await?);
    }
    Ok(Config::infer().await?)
}
