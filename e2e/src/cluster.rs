//! The Kubernetes side of a test: a namespace with the pipeline's Secrets, the operator's release
//! and pipelines, and functions that wait for a state.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use layra_crds::{IngestionPipeline, IngestionPipelineStatus};
use layra_testbed::settings::repository;
use layra_testbed::{Endpoints, Images, Testbed};
use serde_json::{Value, json};

use crate::{clients, processes};

/// A namespace with an operator and the Secrets that pipelines refer to. [`Scene::close`] deletes
/// it.
pub struct Scene {
    /// Name of the namespace.
    pub namespace: String,
    /// A client with all permissions.
    pub client: Client,
    endpoints: Endpoints,
    images: Images,
    release: String,
    helm: PathBuf,
    kubectl: PathBuf,
    kubeconfig: PathBuf,
}

impl Scene {
    /// Attaches to a namespace that [`Scene::open`] has created.
    pub async fn attach(testbed: &Testbed, images: &Images, namespace: &str) -> Result<Self> {
        Ok(Self {
            namespace: namespace.to_owned(),
            client: clients::kubernetes(testbed).await?,
            endpoints: testbed.endpoints().clone(),
            images: images.clone(),
            release: format!("layra-{namespace}"),
            helm: testbed.settings().bin("helm"),
            kubectl: testbed.settings().bin("kubectl"),
            kubeconfig: testbed.kubeconfig().to_owned(),
        })
    }

    /// Creates the namespace and its Secrets, and installs the operator there with Helm.
    pub async fn open(testbed: &Testbed, images: &Images, namespace: &str) -> Result<Self> {
        let scene = Self::attach(testbed, images, namespace).await?;
        scene.delete_namespace().await?;
        let labels = json!({
            "pod-security.kubernetes.io/enforce": "restricted",
            "app.kubernetes.io/part-of": "layra-e2e",
        });
        let object: Namespace =
            serde_json::from_value(json!({"metadata": {"name": namespace, "labels": labels}}))?;
        Api::<Namespace>::all(scene.client.clone())
            .create(&PostParams::default(), &object)
            .await?;
        scene.create_secrets().await?;
        scene.install_operator().await?;
        Ok(scene)
    }

    async fn create_secrets(&self) -> Result<()> {
        let s3 = &self.endpoints.s3;
        let secrets = [
            (
                "s3",
                json!({"accessKey": s3.access_key, "secretKey": s3.secret_key}),
            ),
            ("mongodb", json!({"uri": self.endpoints.mongodb_uri})),
            // A key of its own name, as another operator's Secret has it.
            ("redis", json!({"url": self.endpoints.redis_uri})),
        ];
        for (name, data) in secrets {
            self.create_secret(name, &data).await?;
        }
        Ok(())
    }

    /// Creates a Secret with text values.
    pub async fn create_secret(&self, name: &str, data: &Value) -> Result<()> {
        let secret: Secret =
            serde_json::from_value(json!({"metadata": {"name": name}, "stringData": data}))?;
        self.api::<Secret>()
            .create(&PostParams::default(), &secret)
            .await?;
        Ok(())
    }

    /// Opens another namespace, whose operator has the same images.
    pub async fn beside(&self, testbed: &Testbed, namespace: &str) -> Result<Self> {
        Box::pin(Self::open(testbed, &self.images, namespace)).await
    }

    /// Installs the definition and the operator with the images of this build, and waits until the
    /// operator is ready.
    pub async fn install_operator(&self) -> Result<()> {
        // The cluster has one definition: another release may have installed it.
        let definition = chart("layra-crds");
        let shared = ["--take-ownership", "--wait", "--timeout", "120s"];
        let arguments = ["upgrade", "--install", "layra-crds", &definition];
        self.helm(&[&arguments[..], &shared].concat()).await?;

        let (operator, operator_tag) = split(&self.images.operator)?;
        let (worker, worker_tag) = split(&self.images.worker)?;
        let image = format!("image.repository={operator},image.tag={operator_tag}");
        let worker = format!("workerImage.repository={worker},workerImage.tag={worker_tag}");
        let operator = chart("layra-operator");
        let mut arguments = vec!["upgrade", "--install", &self.release, &operator];
        for value in [
            image.as_str(),
            &worker,
            "fullnameOverride=layra-operator",
            "cliRole.create=true",
            // One test stops a leader for longer than the kubelet would wait.
            "probes.liveness.failureThreshold=30",
        ] {
            arguments.extend(["--set", value]);
        }
        arguments.extend(shared);
        self.helm(&arguments).await?;
        Ok(())
    }

    /// Name of the operator's release.
    #[must_use]
    pub fn release(&self) -> &str {
        &self.release
    }

    /// Runs `helm` in this namespace. Returns its standard output; an error carries all output.
    pub async fn helm(&self, arguments: &[&str]) -> Result<String> {
        let output = tokio::process::Command::new(&self.helm)
            .args(arguments)
            .args(["--namespace", &self.namespace, "--kubeconfig"])
            .arg(&self.kubeconfig)
            .output()
            .await
            .context("running helm")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success(),
            "helm {arguments:?}: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(text)
    }

    /// A small pipeline on the test-bed's servers, changed by `patch` (RFC 7386).
    #[must_use]
    pub fn pipeline(&self, name: &str, topic: &str, patch: &Value) -> Value {
        let mut object = json!({
            "apiVersion": "ingest.layra.io/v1alpha1",
            "kind": "IngestionPipeline",
            "metadata": {"name": name},
            "spec": {
                "source": {"kafka": {
                    "bootstrapServers": self.endpoints.kafka,
                    "topic": topic,
                    "consumerGroup": format!("{topic}-workers"),
                    "partitions": 4,
                    "replicationFactor": 1,
                    "sessionTimeoutSeconds": 10,
                }},
                "documents": {
                    "objectStore": {
                        "endpoint": self.endpoints.s3.endpoint,
                        "accessKeySecretRef": {"name": "s3"},
                        "secretKeySecretRef": {"name": "s3"},
                    },
                    // The model reads text: images only need to be legible.
                    "render": {"dpi": [{"dpi": 72}]},
                },
                "embedding": {"model": {"family": "minilm", "uri": "s3://models/minilm"}},
                "stores": {
                    "milvus": {"uri": self.endpoints.milvus},
                    "mongodb": {"uriSecretRef": {"name": "mongodb"}},
                    "redis": {"uriSecretRef": {"name": "redis", "key": "url"}},
                },
                "worker": {"resources": {
                    "requests": {"cpu": "100m", "memory": "256Mi"},
                    "limits": {"memory": "2Gi"},
                }},
                "scaling": {
                    "maxReplicas": 2,
                    // Short, so that a test with little work already needs every worker.
                    "drainTargetSeconds": 5,
                    "scaleDownDelaySeconds": 10,
                },
            },
        });
        merge(&mut object, patch);
        object
    }

    /// Creates or replaces a pipeline.
    pub async fn apply(&self, object: &Value) -> Result<()> {
        let name = object["metadata"]["name"]
            .as_str()
            .context("metadata.name")?;
        self.api::<IngestionPipeline>()
            .patch(
                name,
                &PatchParams::apply("person").force(),
                &Patch::Apply(object),
            )
            .await?;
        Ok(())
    }

    /// Reads the pipeline.
    pub async fn get(&self, name: &str) -> Result<IngestionPipeline> {
        Ok(self.api::<IngestionPipeline>().get(name).await?)
    }

    /// The API of a resource kind in this namespace.
    #[must_use]
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Waits until the status belongs to the current generation and fulfils `wanted`.
    pub async fn wait_status(
        &self,
        name: &str,
        what: &str,
        limit: Duration,
        wanted: impl Fn(&IngestionPipelineStatus) -> bool,
    ) -> Result<IngestionPipeline> {
        let mut last = IngestionPipelineStatus::default();
        let result = eventually(what, limit, async || {
            let pipeline = self.get(name).await?;
            let status = pipeline.status.clone().unwrap_or_default();
            last.clone_from(&status);
            Ok(
                (status.observed_generation == pipeline.metadata.generation && wanted(&status))
                    .then_some(pipeline),
            )
        })
        .await;
        result.with_context(|| {
            let json = serde_json::to_string_pretty(&last).unwrap_or_default();
            format!("{what}; {name} has {}\n{json}", in_one_line(&last))
        })
    }

    /// Waits for a condition with this status and reason (`""`: any).
    pub async fn wait_condition(
        &self,
        name: &str,
        kind: &str,
        status: &str,
        reason: &str,
        limit: Duration,
    ) -> Result<IngestionPipeline> {
        self.wait_status(name, &format!("{kind}={status} {reason}"), limit, |all| {
            condition(all, kind)
                .is_some_and(|c| c.status == status && (reason.is_empty() || c.reason == reason))
        })
        .await
    }

    /// Runs `kubectl` in this namespace. Returns its standard output; an error carries all output.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        // A separate cache: the user's may describe an earlier cluster at this address.
        let cache = tempfile::TempDir::new()?;
        let output = tokio::process::Command::new(&self.kubectl)
            .env("KUBECACHEDIR", cache.path())
            .args(["--namespace", &self.namespace, "--kubeconfig"])
            .arg(&self.kubeconfig)
            .args(arguments)
            .output()
            .await
            .context("running kubectl")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success(),
            "kubectl {arguments:?}: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(text)
    }

    /// `kubectl layra` in this namespace: the plugin of `dist/`, found by kubectl on its path.
    pub async fn kubectl_layra(&self, kubeconfig: &Path, arguments: &[&str]) -> Result<Output> {
        let mut path = OsString::from(repository().join("dist"));
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        let command = tokio::process::Command::new(&self.kubectl)
            .env("PATH", path)
            .args(["layra", "--namespace", &self.namespace, "--kubeconfig"])
            .arg(kubeconfig)
            .args(arguments)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(Duration::from_mins(4), command).await;
        output
            .with_context(|| format!("kubectl layra {arguments:?} takes too long"))?
            .context("running kubectl")
    }

    /// The administrator's kubeconfig.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The pipeline's worker pods.
    pub async fn worker_pods(&self, pipeline: &str) -> Result<Vec<Pod>> {
        let selector =
            format!("app.kubernetes.io/instance={pipeline},app.kubernetes.io/component=worker");
        Ok(self
            .api::<Pod>()
            .list(&ListParams::default().labels(&selector))
            .await?
            .items)
    }

    /// Deletes the operator's pods without grace, as a crash of its node would.
    pub async fn kill_operator(&self) -> Result<()> {
        let pods = self.api::<Pod>();
        let selector = ListParams::default().labels("app.kubernetes.io/component=operator");
        for pod in pods.list(&selector).await? {
            let now = DeleteParams {
                grace_period_seconds: Some(0),
                ..DeleteParams::default()
            };
            pods.delete(&pod.name_any(), &now).await?;
        }
        Ok(())
    }

    /// Pid of the operator on this machine, if it runs in a pod of this namespace.
    pub async fn operator_process(&self) -> Result<Option<u32>> {
        let selector = ListParams::default().labels("app.kubernetes.io/component=operator");
        let pods = self.api::<Pod>().list(&selector).await?;
        let mut uids = pods.iter().filter_map(ResourceExt::uid);
        Ok(uids.find_map(|uid| processes::in_pod("layra-operator", &uid)))
    }

    /// The pipeline's Deployment.
    pub async fn deployment(&self, pipeline: &str) -> Result<Deployment> {
        Ok(self
            .api::<Deployment>()
            .get(&format!("{pipeline}-worker"))
            .await?)
    }

    /// The last lines of every pod's log.
    pub async fn logs(&self) -> String {
        let mut all = String::new();
        let pods = self.api::<Pod>();
        for pod in pods
            .list(&ListParams::default())
            .await
            .map(|list| list.items)
            .unwrap_or_default()
        {
            let name = pod.name_any();
            let tail = kube::api::LogParams {
                tail_lines: Some(40),
                ..Default::default()
            };
            let text = pods
                .logs(&name, &tail)
                .await
                .unwrap_or_else(|error| error.to_string());
            let _ = writeln!(all, "--- {name}\n{text}");
        }
        all
    }

    /// Deletes the release and the namespace.
    pub async fn close(self) -> Result<()> {
        let _ = self.helm(&["uninstall", &self.release]).await;
        self.delete_namespace().await
    }

    async fn delete_namespace(&self) -> Result<()> {
        let namespaces = Api::<Namespace>::all(self.client.clone());
        if namespaces.get_opt(&self.namespace).await?.is_none() {
            return Ok(());
        }
        namespaces
            .delete(&self.namespace, &DeleteParams::default())
            .await?;
        // Workers with a document in progress could use their whole grace period.
        let now = DeleteParams::default().grace_period(0);
        let pods = self.api::<Pod>();
        pods.delete_collection(&now, &ListParams::default()).await?;
        eventually(
            "the namespace to be deleted",
            Duration::from_mins(3),
            async || {
                Ok(namespaces
                    .get_opt(&self.namespace)
                    .await?
                    .is_none()
                    .then_some(()))
            },
        )
        .await
    }
}

/// Path of a chart in the repository.
#[must_use]
pub fn chart(name: &str) -> String {
    let charts = repository().join("charts").join(name);
    charts.display().to_string()
}

/// The condition of this type.
#[must_use]
pub fn condition<'a>(status: &'a IngestionPipelineStatus, kind: &str) -> Option<&'a Condition> {
    status
        .conditions
        .iter()
        .find(|condition| condition.type_ == kind)
}

/// Polls until there is a value. After `limit` it fails, with the error of the last poll if there
/// was one.
pub async fn eventually<T>(
    what: &str,
    limit: Duration,
    mut poll: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        let result = poll().await;
        if let Ok(Some(value)) = result {
            return Ok(value);
        }
        if Instant::now() > end {
            match result {
                Err(error) => return Err(error.context(format!("waiting for {what}"))),
                Ok(_) => bail!("timed out after {} s waiting for {what}", limit.as_secs()),
            }
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// Applies a merge patch (RFC 7386).
fn merge(target: &mut Value, patch: &Value) {
    if let (Value::Object(target), Value::Object(patch)) = (&mut *target, patch) {
        for (key, value) in patch {
            if value.is_null() {
                target.remove(key);
            } else {
                merge(target.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
    } else {
        *target = patch.clone();
    }
}

fn split(image: &str) -> Result<(&str, &str)> {
    image
        .rsplit_once(':')
        .with_context(|| format!("image {image} has no tag"))
}

/// The conditions, for the first line of an error.
fn in_one_line(status: &IngestionPipelineStatus) -> String {
    let conditions = status.conditions.iter().map(|condition| {
        format!(
            "{}={} {} ({})",
            condition.type_, condition.status, condition.reason, condition.message
        )
    });
    conditions.collect::<Vec<_>>().join("; ")
}
