//! The pipeline that the faults hit: a copy of the named one, with one worker and everything of its
//! own that documents pass through. Pure.

use anyhow::{Context as _, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Resource as _, ResourceExt};
use layra_crds::{
    COLLECTION_PLACEHOLDER, ForeignMessages, IngestionPipeline, IngestionPipelineSpec,
    LONGEST_PIPELINE_NAME, MilvusSpec, OnIndexDrift, OnModelChange, PodTemplate, ScalingMode,
    ScalingSpec, SourceFormat, VALIDATION_FAULTS_VARIABLE, VALIDATION_PROXY_PORT,
    VALIDATION_SUFFIX, WORKER_HTTP_PORT, validation_suffix,
};
use serde_json::{Map, Value, json};

use crate::run;

/// On everything that a validation makes: the name of the pipeline that is validated.
const MADE_FOR: &str = "ingest.layra.io/validation-of";
/// Beginnings of the copy's collections: a beginning of other collections can agree with both only if
/// it is empty.
const COLLECTIONS: [&str; 2] = ["layra_validate", "validate_layra"];
/// The documents of a validation are small.
const DISK: &str = "32Mi";
/// The default limit of a worker.
const MEMORY: &str = "4Gi";

/// The names of what a validation makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Names {
    pub(super) pipeline: String,
    /// Of the Job.
    pub(super) proxy: String,
}

impl Names {
    pub(super) fn of(pipeline: &str) -> Self {
        let pipeline = format!("{pipeline}{VALIDATION_SUFFIX}");
        Self {
            proxy: format!("{pipeline}-milvus"),
            pipeline,
        }
    }
}

/// Whether a validation of this pipeline has made an object.
pub(super) fn is_made_for(object: &impl ResourceExt, pipeline: &str) -> bool {
    object.labels().get(MADE_FOR).map(String::as_str) == Some(pipeline)
}

/// What a validation with faults cannot work with.
pub(in crate::validate) fn refuse(original: &IngestionPipeline) -> anyhow::Result<()> {
    let kafka = &original.spec.source.kafka;
    ensure!(
        kafka.format != SourceFormat::S3Event,
        "the pipeline reads the notifications of a bucket (source.kafka.format: S3Event): a copy of it \
         would read those of users. --disruptive needs one that reads tasks"
    );
    ensure!(
        kafka.manage_topics,
        "the operator may not create topics for this pipeline (source.kafka.manageTopics: false), and \
         --disruptive needs topics of its own"
    );
    let name = original.name_any();
    let longest = LONGEST_PIPELINE_NAME - VALIDATION_SUFFIX.len();
    ensure!(
        name.len() <= longest,
        "the pipeline's name has {} characters, and --disruptive needs one of at most {longest}: its copy \
         is named {name}{VALIDATION_SUFFIX}, and the operator runs no pipeline whose name has more than \
         {LONGEST_PIPELINE_NAME}. Validate without --disruptive",
        name.len()
    );
    collections(&original.spec.stores.milvus)?;
    Ok(())
}

/// The form of the copy's collections. No collection has this one and that of the pipeline, which
/// could rebuild, archive or drop it.
fn collections(original: &MilvusSpec) -> anyhow::Result<String> {
    let template = &original.collection;
    let (prefix, _) = template
        .split_once(COLLECTION_PLACEHOLDER)
        .unwrap_or_default();
    let agrees = |own: &str| own.starts_with(prefix) || prefix.starts_with(own);
    let own = COLLECTIONS.into_iter().find(|own| !agrees(own));
    let own = own.with_context(|| {
        format!(
            "the names of the pipeline's collections have no beginning of their own \
             (stores.milvus.collection: {template}): it would take those of a copy for its own. \
             Validate without --disruptive"
        )
    })?;
    Ok(format!("{own}{COLLECTION_PLACEHOLDER}"))
}

/// `HOST:PORT` of Milvus. `None` with TLS: its certificate has another name than a proxy.
pub(super) fn milvus_address(uri: &str) -> Option<String> {
    let host = uri.strip_prefix("http://")?.split('/').next()?;
    // The last colon of an IPv6 address stands in brackets.
    let has_port = host
        .rsplit_once(':')
        .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    Some(if has_port {
        host.to_owned()
    } else {
        format!("{host}:80")
    })
}

/// Whether the memory that a worker may take is reserved for it, so that no other pod of the node
/// misses it.
pub(super) fn has_memory_limit(spec: &IngestionPipelineSpec) -> bool {
    let resources = spec.worker.resources.as_ref();
    resources.is_none_or(|resources| {
        let limits = resources.limits.as_ref();
        limits.is_some_and(|limits| limits.contains_key("memory"))
    })
}

/// `milvus`: the address of the proxy in front of it.
pub(super) fn pipeline(
    original: &IngestionPipeline,
    milvus: Option<&str>,
) -> anyhow::Result<IngestionPipeline> {
    let name = Names::of(&original.name_any()).pipeline;
    let uid = original.uid().unwrap_or_default();
    let suffix = validation_suffix(&uid);
    let suffix = suffix.with_context(|| format!("metadata.uid is {uid:?}: expected a UUID"))?;
    let mut spec = original.spec.clone();
    let kafka = &mut spec.source.kafka;
    kafka.topic.push_str(&suffix);
    kafka.consumer_group.push_str(&suffix);
    kafka.ranges_topic = None;
    kafka.dead_letter_topic = None;
    kafka.foreign_messages = ForeignMessages::default();
    kafka.partitions = 1;
    kafka.partitions_per_replica = None;

    let stores = &mut spec.stores.milvus;
    if let Some(milvus) = milvus {
        stores.uri = format!("http://{milvus}");
    }
    // No collection of a user is looked at, rebuilt, archived or dropped.
    stores.collection = collections(&original.spec.stores.milvus)?;
    stores.on_index_drift = OnIndexDrift::Report;
    stores.on_model_change = OnModelChange::Refuse;
    stores.archive = None;
    stores.retention = None;
    stores.quotas = None;

    spec.scaling = ScalingSpec {
        mode: ScalingMode::Manual,
        replicas: Some(1),
        max_replicas: 1,
        ..ScalingSpec::default()
    };
    spec.query = None;
    spec.paused = false;
    reserve_memory(&mut spec);
    spec.worker.termination_grace_period_seconds = Some(10);
    let template = spec.worker.pod_template.get_or_insert_default();
    with_faults(template).context("worker.podTemplate of the pipeline cannot be used")?;
    let mut copy = IngestionPipeline::new(&name, spec);
    copy.metadata = metadata(original, name);
    Ok(copy)
}

/// It is deleted with the pipeline that is validated.
fn metadata(original: &IngestionPipeline, name: String) -> ObjectMeta {
    let labels = [
        ("app.kubernetes.io/managed-by", "kubectl-layra".to_owned()),
        (MADE_FOR, original.name_any()),
    ];
    ObjectMeta {
        name: Some(name),
        namespace: original.namespace(),
        labels: Some(
            labels
                .map(|(label, value)| (label.to_owned(), value))
                .into(),
        ),
        owner_references: original.owner_ref(&()).map(|owner| vec![owner]),
        ..ObjectMeta::default()
    }
}

fn reserve_memory(spec: &mut IngestionPipelineSpec) {
    let memory = "memory".to_owned();
    let default = || ResourceRequirements {
        requests: Some([("cpu".to_owned(), Quantity("1".to_owned()))].into()),
        limits: Some([(memory.clone(), Quantity(MEMORY.to_owned()))].into()),
        claims: None,
    };
    let resources = spec.worker.resources.get_or_insert_with(default);
    let limit = resources
        .limits
        .as_ref()
        .and_then(|limits| limits.get(&memory));
    if let Some(limit) = limit.cloned() {
        resources
            .requests
            .get_or_insert_default()
            .insert(memory, limit);
    }
}

/// The worker serves faults, and its disk for originals is small.
fn with_faults(template: &mut PodTemplate) -> anyhow::Result<()> {
    let spec = &mut template.spec;
    let disk = json!({"name": "cache", "emptyDir": {"medium": "Memory", "sizeLimit": DISK}});
    let volumes = list(spec, "volumes")?;
    volumes.retain(|volume| volume["name"] != "cache");
    volumes.push(disk);
    let containers = list(spec, "containers")?;
    if !containers.iter().any(|one| one["name"] == "worker") {
        containers.push(json!({"name": "worker"}));
    }
    let worker = containers.iter_mut().find(|one| one["name"] == "worker");
    let worker = worker.and_then(Value::as_object_mut);
    let env = list(worker.context("containers")?, "env")?;
    env.retain(|variable| variable["name"] != VALIDATION_FAULTS_VARIABLE);
    env.push(json!({"name": VALIDATION_FAULTS_VARIABLE, "value": "true"}));
    Ok(())
}

fn list<'a>(object: &'a mut Map<String, Value>, key: &str) -> anyhow::Result<&'a mut Vec<Value>> {
    let value = object.entry(key).or_insert_with(|| json!([]));
    value
        .as_array_mut()
        .with_context(|| format!("{key}: expected a list"))
}

/// The address of the proxy, once its pod has one. A Job never starts its pod again.
pub(super) fn proxy_address(pod: &Pod) -> Option<String> {
    let address = pod.status.as_ref()?.pod_ip.as_deref()?;
    let host = if address.contains(':') {
        format!("[{address}]")
    } else {
        address.to_owned()
    };
    Some(format!("{host}:{VALIDATION_PROXY_PORT}"))
}

/// The Job that runs the proxy, from the pod template of the workers.
pub(super) fn proxy(
    original: &IngestionPipeline,
    deployment: &Deployment,
    image: Option<&str>,
    milvus: &str,
) -> anyhow::Result<Job> {
    let arguments = [
        "proxy".to_owned(),
        format!("--listen=0.0.0.0:{VALIDATION_PROXY_PORT}"),
        format!("--to={milvus}"),
        format!("--control=0.0.0.0:{WORKER_HTTP_PORT}"),
    ];
    let mut job = run::lasting_job(original, deployment, &arguments, image)?;
    let labels = job.metadata.labels.take().unwrap_or_default();
    job.metadata = metadata(original, Names::of(&original.name_any()).proxy);
    let own = job.metadata.labels.get_or_insert_default();
    own.extend(labels);
    Ok(job)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "1a2b3c4d-0000-4000-8000-000000000000";

    fn original(change: &Value) -> IngestionPipeline {
        let text = include_str!("../../../../../docs/examples/minimal.yaml");
        let mut object: Value = serde_yaml_ng::from_str(text).unwrap();
        object["metadata"] = json!({"name": "contracts", "namespace": "rag", "uid": UID});
        for (section, fields) in change.as_object().into_iter().flatten() {
            for (name, value) in fields.as_object().unwrap() {
                object["spec"][section][name] = value.clone();
            }
        }
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn nothing_that_documents_pass_through_is_shared_with_the_pipeline() {
        let original = original(&json!({"scaling": {"minReplicas": 2}}));
        let copy = pipeline(&original, Some("10.0.0.1:19530")).unwrap();
        let (of_copy, of_original) = (&copy.spec, &original.spec);
        assert_eq!(copy.name_any(), "contracts-validate");
        let (kafka, others) = (&of_copy.source.kafka, &of_original.source.kafka);
        assert_eq!(kafka.topic, "task_generation-validate-1a2b3c4d");
        assert_eq!(
            kafka.consumer_group,
            "task_consumer_group-validate-1a2b3c4d"
        );
        assert_ne!(kafka.ranges_topic(), others.ranges_topic());
        assert_ne!(kafka.dead_letter_topic(), others.dead_letter_topic());
        let (milvus, others) = (&of_copy.stores.milvus, &of_original.stores.milvus);
        assert_eq!(milvus.uri, "http://10.0.0.1:19530");
        assert!(!milvus.owns_collection(&others.collection_of("kb_1")));
        assert!(!others.owns_collection(&milvus.collection_of("kb_1")));
        // One worker, whatever the backlog.
        let scaling = &of_copy.scaling;
        assert_eq!(
            (scaling.mode, scaling.replicas),
            (ScalingMode::Manual, Some(1))
        );
        assert_eq!(scaling.min_replicas, 0);
        // What the workers are is the same.
        assert_eq!(of_copy.embedding, of_original.embedding);
        assert_eq!(of_copy.documents, of_original.documents);
        assert_eq!(of_copy.stores.mongodb, of_original.stores.mongodb);
        let owners = copy.metadata.owner_references.as_ref().unwrap();
        assert_eq!(
            (owners[0].name.as_str(), owners[0].uid.as_str()),
            ("contracts", UID)
        );
        assert!(is_made_for(&copy, "contracts") && !is_made_for(&original, "contracts"));
    }

    #[test]
    fn collections_of_users_are_never_changed() {
        let milvus = json!({
            "uri": "https://milvus:19530", "onIndexDrift": "RebuildBeside",
            "onModelChange": "ReembedBeside",
        });
        let original = original(&json!({"stores": {"milvus": milvus}}));
        let copy = pipeline(&original, None).unwrap();
        let milvus = &copy.spec.stores.milvus;
        assert_eq!(milvus.on_index_drift, OnIndexDrift::Report);
        assert_eq!(milvus.on_model_change, OnModelChange::Refuse);
        assert_eq!(milvus.uri, "https://milvus:19530");
    }

    #[test]
    fn the_memory_that_is_taken_is_reserved() {
        let memory = |change: Value| {
            let copy = pipeline(&original(&change), None).unwrap();
            let resources = copy.spec.worker.resources.unwrap();
            let requests = resources.requests.unwrap_or_default();
            requests.get("memory").map(|memory| memory.0.clone())
        };
        assert_eq!(memory(json!({})).as_deref(), Some("4Gi"));
        let limits = json!({"worker": {"resources": {
            "requests": {"cpu": "2", "memory": "1Gi"}, "limits": {"memory": "6Gi"},
        }}});
        assert!(has_memory_limit(&original(&limits).spec));
        assert_eq!(memory(limits).as_deref(), Some("6Gi"));
        let without = json!({"worker": {"resources": {"requests": {"memory": "1Gi"}}}});
        assert!(!has_memory_limit(&original(&without).spec));
        assert_eq!(memory(without).as_deref(), Some("1Gi"));
    }

    #[test]
    fn the_pods_of_the_pipeline_keep_what_the_user_added() {
        let template = json!({"worker": {"podTemplate": {"spec": {
            "nodeSelector": {"gpu": "a10"},
            "containers": [
                {"name": "mesh", "image": "mesh:1"},
                {"name": "worker", "env": [{"name": "RUST_LOG", "value": "debug"}]},
            ],
            "volumes": [{"name": "cache", "hostPath": {"path": "/scratch"}}, {"name": "tmp", "emptyDir": {}}],
        }}}});
        let copy = pipeline(&original(&template), None).unwrap();
        let template = Value::Object(copy.spec.worker.pod_template.unwrap().spec);
        assert_eq!(template["nodeSelector"], json!({"gpu": "a10"}));
        let worker = json!({"name": "worker", "env": [
            {"name": "RUST_LOG", "value": "debug"},
            {"name": "LAYRA_VALIDATION_FAULTS", "value": "true"},
        ]});
        let mesh = json!({"name": "mesh", "image": "mesh:1"});
        assert_eq!(template["containers"], json!([mesh, worker]));
        let disk = json!({"name": "cache", "emptyDir": {"medium": "Memory", "sizeLimit": "32Mi"}});
        let tmp = json!({"name": "tmp", "emptyDir": {}});
        assert_eq!(template["volumes"], json!([tmp, disk]));
    }

    #[test]
    fn pipelines_that_cannot_have_topics_of_their_own_are_refused() {
        let refusal = |change| format!("{:#}", refuse(&original(&change)).unwrap_err());
        assert!(refuse(&original(&json!({}))).is_ok());
        let kafka = |name: &str, value: Value| {
            let mut kafka = json!({"bootstrapServers": "kafka:9092"});
            kafka[name] = value;
            json!({"source": {"kafka": kafka}})
        };
        assert!(refusal(kafka("manageTopics", json!(false))).contains("manageTopics"));
        assert!(refusal(kafka("format", json!("S3Event"))).contains("S3Event"));
    }

    #[test]
    fn a_name_whose_copy_the_operator_would_not_run_is_refused() {
        let named = |length: usize| {
            let mut original = original(&json!({}));
            original.metadata.name = Some("x".repeat(length));
            refuse(&original)
        };
        assert!(named(43).is_ok());
        let refused = format!("{:#}", named(44).unwrap_err());
        let words = "has 44 characters, and --disruptive needs one of at most 43";
        assert!(refused.contains(words), "{refused}");
    }

    #[test]
    fn the_pipeline_has_no_collection_of_the_copy() {
        let of = |collection: &str| {
            let milvus = json!({"uri": "http://milvus:19530", "collection": collection});
            original(&json!({"stores": {"milvus": milvus}}))
        };
        for (collection, expected) in [
            (
                "colqwen{knowledge_db_id}",
                "layra_validate{knowledge_db_id}",
            ),
            ("l{knowledge_db_id}_v", "validate_layra{knowledge_db_id}"),
            (
                "layra_validate_x{knowledge_db_id}",
                "validate_layra{knowledge_db_id}",
            ),
            ("v{knowledge_db_id}", "layra_validate{knowledge_db_id}"),
        ] {
            let original = of(collection);
            assert!(refuse(&original).is_ok(), "{collection}");
            let copy = pipeline(&original, None).unwrap().spec.stores.milvus;
            assert_eq!(copy.collection, expected);
            let others = &original.spec.stores.milvus;
            assert!(!others.owns_collection(&copy.collection_of("layraload_1")));
            assert!(!copy.owns_collection(&others.collection_of("layraload_1")));
        }
        for collection in ["{knowledge_db_id}", "{knowledge_db_id}_v"] {
            let refused = format!("{:#}", refuse(&of(collection)).unwrap_err());
            let words = format!("stores.milvus.collection: {collection}");
            assert!(refused.contains(&words), "{refused}");
        }
    }

    #[test]
    fn the_proxy_stands_in_front_of_a_milvus_without_tls() {
        let address = milvus_address;
        assert_eq!(
            address("http://milvus.rag:19530").as_deref(),
            Some("milvus.rag:19530")
        );
        assert_eq!(
            address("http://[::1]:19530/").as_deref(),
            Some("[::1]:19530")
        );
        assert_eq!(address("http://milvus").as_deref(), Some("milvus:80"));
        assert_eq!(address("https://milvus:19530"), None);

        let original = original(&json!({}));
        let pod = |ip: Value| serde_json::from_value(json!({"status": {"podIP": ip}})).unwrap();
        assert_eq!(proxy_address(&pod(Value::Null)), None);
        let address = |ip: &str| proxy_address(&pod(json!(ip))).unwrap();
        assert_eq!(address("10.0.0.9"), "10.0.0.9:19530");
        assert_eq!(address("fd00::9"), "[fd00::9]:19530");
        let deployment = serde_json::from_value(json!({
            "metadata": {"name": "contracts-worker"},
            "spec": {
                "selector": {"matchLabels": {"app.kubernetes.io/name": "layra-worker"}},
                "template": {"spec": {"containers": [{
                    "name": "worker",
                    "args": ["run", "--config", "/c/worker.yaml", "--secrets", "/s"],
                    "resources": {"requests": {"memory": "12Gi"}, "limits": {"memory": "24Gi"}},
                }]}},
            },
        }))
        .unwrap();
        let job = proxy(&original, &deployment, None, "milvus.rag:19530").unwrap();
        assert_eq!(job.name_any(), "contracts-validate-milvus");
        assert_eq!(job.metadata.generate_name, None);
        assert!(is_made_for(&job, "contracts"));
        let pod = job.spec.unwrap().template.spec.unwrap();
        let container = &pod.containers[0];
        let arguments = container.args.as_ref().unwrap();
        assert_eq!(arguments[0], "proxy");
        assert_eq!(arguments[2], "--to=milvus.rag:19530");
        let requests = container.resources.as_ref().unwrap().requests.as_ref();
        assert_eq!(requests.unwrap()["memory"].0, "256Mi");
    }
}
