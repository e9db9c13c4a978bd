//! The Jobs that replace a pipeline's collections.

use k8s_openapi::api::batch::v1::{
    Job, JobSpec, PodFailurePolicy, PodFailurePolicyOnPodConditionsPattern, PodFailurePolicyRule,
};
use kube::ResourceExt;
use layra_crds::{IngestionPipeline, OnIndexDrift, OnModelChange, RESOLVE_MODEL_ANNOTATION};
use serde_json::{Value, json};

use super::{
    APPLIED_HASH, PodTemplateError, hash_of,
    maintenance::{self, Command, Needs},
};

/// The argument for a Job that begins nothing.
const FINISH: &str = "--finish";
/// A Job that has ended stays this long, with its log.
const SECONDS_TO_KEEP: i32 = 3600;

/// A Job that replaces collections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JobKind {
    /// Those with another index than the spec's.
    Reindex,
    /// Those with vectors of another model than the spec's.
    Reembed,
}

impl JobKind {
    /// The command, and the component label of its pod.
    fn command(self) -> &'static str {
        match self {
            Self::Reindex => "reindex",
            Self::Reembed => "reembed",
        }
    }

    /// The name of a pipeline's Job.
    pub(crate) fn job_name(self, pipeline: &str) -> String {
        maintenance::object_name(pipeline, self.command())
    }

    /// Whether the pipeline only reports such collections.
    pub(crate) fn is_only_reported(self, pipeline: &IngestionPipeline) -> bool {
        let milvus = &pipeline.spec.stores.milvus;
        match self {
            Self::Reindex => milvus.on_index_drift == OnIndexDrift::Report,
            Self::Reembed => milvus.on_model_change == OnModelChange::Refuse,
        }
    }

    fn needs(self) -> Needs<'static> {
        match self {
            Self::Reindex => Needs::Little {
                requests: ("100m", "256Mi"),
                memory_limit: "1Gi",
            },
            Self::Reembed => Needs::Model,
        }
    }

    /// The settings that it reads, without what the pod template has of them.
    fn settings(self, pipeline: &IngestionPipeline) -> Value {
        let mut stores = pipeline.spec.stores.clone();
        let milvus = &mut stores.milvus;
        milvus.index = milvus.index.written_out();
        match self {
            Self::Reindex => {
                milvus.on_model_change = OnModelChange::default();
                json!(stores)
            }
            Self::Reembed => {
                milvus.on_index_drift = OnIndexDrift::default();
                milvus.rebuild.window = None;
                let request = pipeline.annotations().get(RESOLVE_MODEL_ANNOTATION);
                json!([stores, pipeline.spec.embedding, request])
            }
        }
    }
}

/// The Job. Its annotation [`APPLIED_HASH`] changes with what it reads.
pub(crate) fn rebuild_job(
    kind: JobKind,
    pipeline: &IngestionPipeline,
    default_image: &str,
    secrets_hash: &str,
) -> Result<Job, PodTemplateError> {
    let name = kind.command();
    let arguments: &[&str] = if kind.is_only_reported(pipeline) {
        &[name, FINISH]
    } else {
        &[name]
    };
    let command = Command {
        name,
        arguments,
        needs: kind.needs(),
        grace_seconds: 60,
    };
    let template = maintenance::pod_template(pipeline, default_image, &command)?;
    let hash = hash_of(&json!([template, kind.settings(pipeline), secrets_hash]));
    let mut metadata = maintenance::metadata(pipeline, name);
    metadata.annotations = Some([(APPLIED_HASH.to_owned(), hash)].into());
    Ok(Job {
        metadata,
        spec: Some(JobSpec {
            // The operator starts the next one, after a pause.
            backoff_limit: Some(0),
            // A drained node is no failure.
            pod_failure_policy: Some(PodFailurePolicy {
                rules: vec![PodFailurePolicyRule {
                    action: "Ignore".to_owned(),
                    on_pod_conditions: Some(vec![PodFailurePolicyOnPodConditionsPattern {
                        type_: "DisruptionTarget".to_owned(),
                        status: Some("True".to_owned()),
                    }]),
                    on_exit_codes: None,
                }],
            }),
            // Never two pods at once.
            pod_replacement_policy: Some("Failed".to_owned()),
            ttl_seconds_after_finished: Some(SECONDS_TO_KEEP),
            template,
            ..JobSpec::default()
        }),
        status: None,
    })
}

/// Whether a Job only finishes, or undoes, what others have begun.
pub(crate) fn only_finishes(job: &Job) -> bool {
    let pod = job.spec.as_ref().and_then(|job| job.template.spec.as_ref());
    let containers = pod.into_iter().flat_map(|pod| &pod.containers);
    let mut arguments = containers.flat_map(|container| container.args.iter().flatten());
    arguments.any(|argument| argument == FINISH)
}

/// Hash of what a Job reads.
pub(crate) fn hash_of_job(job: &Job) -> &str {
    job.annotations()
        .get(APPLIED_HASH)
        .map_or("", String::as_str)
}

#[cfg(test)]
mod tests {
    use layra_crds::{GpuSpec, IndexPreset, ModelFamily};

    use super::*;
    use crate::fixtures;

    fn job_of(kind: JobKind, pipeline: &IngestionPipeline) -> Job {
        rebuild_job(kind, pipeline, "layra-worker:1.0", "5ec7e7").unwrap()
    }

    fn job(pipeline: &IngestionPipeline) -> Job {
        job_of(JobKind::Reindex, pipeline)
    }

    /// With a GPU and a pod template of the user.
    fn with_gpu() -> IngestionPipeline {
        let mut pipeline = fixtures::pipeline();
        let worker = &mut pipeline.spec.worker;
        worker.image = Some("layra-worker-cuda:1.0".into());
        worker.gpu = Some(GpuSpec {
            resource: "nvidia.com/gpu".into(),
            count: 1,
        });
        let template = json!({
            "metadata": {"labels": {"team": "search"}},
            "spec": {
                "serviceAccountName": "layra",
                "runtimeClassName": "nvidia",
                "tolerations": [{"operator": "Exists"}],
                "containers": [{"name": "proxy", "image": "envoy:1"}, {"name": "worker",
                    "env": [{"name": "RUST_LOG", "value": "debug"}]}],
                "volumes": [{"name": "scratch", "emptyDir": {}}],
            },
        });
        worker.pod_template = Some(serde_json::from_value(template).unwrap());
        let embedding = &mut pipeline.spec.embedding;
        embedding.model.family = ModelFamily::ColQwen2_5;
        embedding.model.cache_claim = Some("models".into());
        pipeline
    }

    #[test]
    fn the_job_of_a_minimal_pipeline() {
        let mut pipeline = fixtures::pipeline();
        pipeline.spec.stores.milvus.on_index_drift = OnIndexDrift::RebuildBeside;
        let mut job = job(&pipeline);
        assert!(!only_finishes(&job));
        job.metadata.annotations = Some([(APPLIED_HASH.to_owned(), "hash".to_owned())].into());
        insta::assert_yaml_snapshot!("reindex_job", job);
    }

    #[test]
    fn if_drift_is_only_reported_the_job_begins_nothing() {
        let job = job(&fixtures::pipeline());
        assert!(only_finishes(&job));
        let pod = job.spec.unwrap().template.spec.unwrap();
        assert_eq!(
            pod.containers[0].args,
            Some(vec!["reindex".to_owned(), FINISH.to_owned()])
        );
    }

    #[test]
    fn it_takes_the_pod_template_without_gpus_the_model_and_other_containers() {
        let pipeline = with_gpu();
        let template = job(&pipeline).spec.unwrap().template;
        let labels = template.metadata.unwrap().labels.unwrap();
        assert_eq!(labels["team"], "search");
        assert_eq!(labels["app.kubernetes.io/name"], "layra-maintenance");
        let pod = template.spec.unwrap();
        assert_eq!(pod.service_account_name.as_deref(), Some("layra"));
        assert_eq!(pod.runtime_class_name, None);
        assert_eq!(pod.tolerations.unwrap().len(), 1);
        assert_eq!(pod.init_containers, None);
        let [container] = pod.containers.as_slice() else {
            panic!("{:?}", pod.containers);
        };
        assert_eq!(container.image.as_deref(), Some("layra-worker:1.0"));
        let limits = container.resources.as_ref().unwrap().limits.as_ref();
        assert_eq!(limits.unwrap().keys().collect::<Vec<_>>(), ["memory"]);
        let env: Vec<_> = container.env.iter().flatten().collect();
        assert!(env.iter().any(|variable| variable.name == "RUST_LOG"));
        assert!(env.iter().all(|variable| variable.name != "LAYRA_DEVICE"));
        let volumes: Vec<_> = pod.volumes.iter().flatten().map(|it| &it.name).collect();
        assert!(!volumes.contains(&&"models".to_owned()), "{volumes:?}");
        assert!(!volumes.contains(&&"scratch".to_owned()), "{volumes:?}");
    }

    #[test]
    fn one_that_embeds_has_the_model_and_the_gpu_of_a_worker() {
        let mut pipeline = with_gpu();
        pipeline.spec.stores.milvus.on_model_change = OnModelChange::ReembedBeside;
        let job = job_of(JobKind::Reembed, &pipeline);
        assert_eq!(job.name_any(), "contracts-reembed");
        assert!(!only_finishes(&job));
        let template = job.spec.unwrap().template;
        let labels = template.metadata.unwrap().labels.unwrap();
        assert_eq!(labels["app.kubernetes.io/component"], "reembed");
        assert_eq!(labels["app.kubernetes.io/name"], "layra-maintenance");
        let pod = template.spec.unwrap();
        assert_eq!(pod.restart_policy.as_deref(), Some("Never"));
        assert_eq!(pod.runtime_class_name.as_deref(), Some("nvidia"));
        let init = pod.init_containers.unwrap();
        assert_eq!((init.len(), init[0].name.as_str()), (1, "fetch-model"));
        let [container] = pod.containers.as_slice() else {
            panic!("{:?}", pod.containers);
        };
        assert_eq!(container.image.as_deref(), Some("layra-worker-cuda:1.0"));
        assert_eq!(container.args, Some(vec!["reembed".to_owned()]));
        assert_eq!(container.readiness_probe, None);
        let limits = container.resources.as_ref().unwrap().limits.as_ref();
        assert!(limits.unwrap().contains_key("nvidia.com/gpu"));
        let env: Vec<_> = container.env.iter().flatten().collect();
        for name in ["LAYRA_MODEL_FETCHED", "LAYRA_DEVICE", "LAYRA_CONFIG"] {
            assert!(env.iter().any(|it| it.name == name), "{name}");
        }
        let mounts = container.volume_mounts.iter().flatten();
        assert!(mounts.map(|it| &it.name).any(|it| it == "models"));
    }

    #[test]
    fn one_that_embeds_is_another_one_when_the_model_has_changed() {
        let before = fixtures::pipeline();
        let job = |pipeline: &IngestionPipeline| job_of(JobKind::Reembed, pipeline);
        assert!(only_finishes(&job(&before)), "by default nothing is begun");
        let same = |change: fn(&mut IngestionPipeline)| {
            let mut after = before.clone();
            change(&mut after);
            hash_of_job(&job(&after)) == hash_of_job(&job(&before))
        };
        assert!(same(
            |it| it.spec.stores.milvus.on_index_drift = OnIndexDrift::RebuildBeside
        ));
        assert!(!same(
            |it| it.spec.embedding.model.uri = "s3://models/b".into()
        ));
        assert!(!same(|it| it.spec.embedding.pool_factor = 3));
        assert!(!same(
            |it| it.spec.stores.milvus.on_model_change = OnModelChange::ReembedBeside
        ));
        assert!(!same(|it| {
            let request = (RESOLVE_MODEL_ANNOTATION.to_owned(), "1".to_owned());
            it.metadata.annotations = Some([request].into());
        }));
    }

    #[test]
    fn it_is_another_one_when_what_it_reads_has_changed() {
        let before = fixtures::pipeline();
        let hash = |pipeline: &IngestionPipeline| hash_of_job(&job(pipeline)).to_owned();
        let same = |change: fn(&mut IngestionPipeline)| {
            let mut after = before.clone();
            change(&mut after);
            hash(&after) == hash(&before)
        };
        assert!(same(
            |it| it.spec.stores.milvus.index.preset = Some(IndexPreset::Accurate)
        ));
        assert!(same(|it| it.spec.embedding.batch_pages = 3));
        assert!(same(
            |it| it.spec.stores.milvus.on_model_change = OnModelChange::ReembedBeside
        ));
        assert!(!same(
            |it| it.spec.stores.milvus.index.preset = Some(IndexPreset::Balanced)
        ));
        assert!(!same(|it| it.spec.stores.milvus.rebuild.max_parallel = 2));
        let rotated =
            rebuild_job(JobKind::Reindex, &before, "layra-worker:1.0", "another").unwrap();
        assert_ne!(hash_of_job(&rotated), hash(&before));
    }
}
