//! What others do to a pipeline's objects: Kafka and the API server refuse them, somebody else has
//! their name, a quota or an admission policy is in the way, the kubelet ends a worker. Each has a
//! reason of its own, nothing is repeated every second, and kstatus reads every state correctly.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::ClusterResourceScope;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding, ValidatingAdmissionPolicy,
    ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, ResourceQuota, Service};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Resource, ResourceExt};
use layra_crds::{IngestionPipeline, IngestionPipelineStatus};
use layra_e2e::cluster::{condition, eventually};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::kstatus::Recording;
use crate::scene::{Stage, on_stage};

const MINUTE: Duration = Duration::from_mins(1);
/// Long enough for several reconciles.
const A_WHILE: Duration = Duration::from_secs(10);

/// Waits until Ready is False with this reason and a message that contains `words`.
pub async fn wait_unready(stage: &Stage, name: &str, reason: &str, words: &str) -> Result<()> {
    let wanted = |status: &IngestionPipelineStatus| {
        condition(status, "Ready").is_some_and(|ready| {
            ready.status == "False" && ready.reason == reason && ready.message.contains(words)
        })
    };
    stage
        .scene
        .wait_status(name, reason, MINUTE, wanted)
        .await?;
    Ok(())
}

async fn wait_ready(stage: &Stage) -> Result<()> {
    let scene = &stage.scene;
    scene
        .wait_condition(&stage.name, "Ready", "True", "", MINUTE)
        .await?;
    Ok(())
}

/// The events of the test's pipeline with this reason.
async fn events(stage: &Stage, reason: &str) -> Result<Vec<Event>> {
    let uid = stage.scene.get(&stage.name).await?.uid();
    let all = stage.scene.api::<Event>();
    let all = all.list(&ListParams::default()).await?;
    let of_pipeline = all.items.into_iter().filter(|event| {
        let regarding = event.regarding.as_ref();
        regarding.and_then(|object| object.uid.as_ref()) == uid.as_ref()
            && event.reason.as_deref() == Some(reason)
    });
    Ok(of_pipeline.collect())
}

/// Nothing is written for the pipeline for a while, and there is one event with the reason.
async fn nothing_repeats(stage: &Stage, reason: &str) -> Result<()> {
    let version = async || {
        let pipeline = stage.scene.get(&stage.name).await?;
        anyhow::Ok(pipeline.resource_version())
    };
    tokio::time::sleep(A_WHILE / 2).await;
    // Other tests load the servers: an answer that comes late may change the status once.
    let mut was_quiet = false;
    for _ in 0..3 {
        let before = version().await?;
        tokio::time::sleep(A_WHILE).await;
        was_quiet = was_quiet || before == version().await?;
        if was_quiet {
            break;
        }
    }
    ensure!(was_quiet, "the status is written again and again");
    let events = events(stage, reason).await?;
    ensure!(events.len() == 1, "{} events {reason}", events.len());
    Ok(())
}

/// Creates an object that belongs to no namespace.
pub async fn create<K>(stage: &Stage, object: Value) -> Result<()>
where
    K: Resource<Scope = ClusterResourceScope, DynamicType = ()>
        + Clone
        + DeserializeOwned
        + Serialize
        + std::fmt::Debug,
{
    let api: Api<K> = Api::all(stage.scene.client.clone());
    api.create(&PostParams::default(), &serde_json::from_value(object)?)
        .await?;
    Ok(())
}

/// Deletes it, if it exists.
pub async fn delete<K>(stage: &Stage) -> Result<()>
where
    K: Resource<Scope = ClusterResourceScope, DynamicType = ()>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
{
    let api: Api<K> = Api::all(stage.scene.client.clone());
    match api.delete(&stage.name, &DeleteParams::default()).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Selects an object of the test's pipeline in an admission policy.
pub fn selects(stage: &Stage, group: &str, resources: &str) -> (Value, Value) {
    let name = format!("{}-worker", stage.name);
    let constraints = json!({"resourceRules": [{
        "apiGroups": [group], "apiVersions": ["v1"],
        "operations": ["CREATE", "UPDATE"], "resources": [resources]}]});
    let conditions =
        json!([{"name": "name", "expression": format!("object.metadata.name == '{name}'")}]);
    (constraints, conditions)
}

#[tokio::test]
async fn refused_topics_are_reported_once_and_made_when_kafka_accepts_them() -> Result<()> {
    on_stage("topics", async |stage| {
        // Kafka refuses names that differ in `.` and `_` only.
        let taken = ["ranges", "dlq"].map(|which| format!("{}_{which}", stage.topic()));
        for topic in &taken {
            stage.create_topic(topic).await?;
        }
        stage.scene.apply(&stage.pipeline(&json!({}))).await?;
        let words = format!("collides with existing topic: {}", taken[0]);
        wait_unready(stage, &stage.name, "TopicChangeFailed", &words).await?;
        nothing_repeats(stage, "TopicChangeFailed").await?;

        let servers = &stage.testbed.endpoints().kafka;
        let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
            .set("bootstrap.servers", servers)
            .create()?;
        let names: Vec<&str> = taken.iter().map(String::as_str).collect();
        admin.delete_topics(&names, &AdminOptions::new()).await?;
        wait_ready(stage).await
    })
    .await
}

#[tokio::test]
async fn an_object_that_the_api_server_refuses_is_stalled_with_its_words() -> Result<()> {
    on_stage("refused", async |stage| {
        let (constraints, conditions) = selects(stage, "", "services");
        let policy = json!({"metadata": {"name": stage.name}, "spec": {
            "failurePolicy": "Fail", "matchConstraints": constraints,
            "matchConditions": conditions,
            "validations": [{"expression": "false", "message": "services need a cost centre"}]}});
        let binding = json!({"metadata": {"name": stage.name}, "spec": {
            "policyName": stage.name, "validationActions": ["Deny"]}});
        create::<ValidatingAdmissionPolicy>(stage, policy).await?;
        create::<ValidatingAdmissionPolicyBinding>(stage, binding).await?;
        let result = async {
            policy_is_active(stage).await?;
            stage.scene.apply(&stage.pipeline(&json!({}))).await?;
            let words = "services need a cost centre";
            wait_unready(stage, &stage.name, "ApplyRefused", words).await?;
            let status = stage.scene.get(&stage.name).await?.status;
            let status = status.context("a status")?;
            let stalled = condition(&status, "Stalled").context("it is stalled")?;
            ensure!(stalled.reason == "ApplyRefused", "{stalled:?}");
            // The others do not wait for the Service.
            stage.scene.deployment(&stage.name).await?;
            let name = format!("{}-worker", stage.name);
            stage.scene.api::<PodDisruptionBudget>().get(&name).await?;
            nothing_repeats(stage, "ApplyRefused").await
        }
        .await;
        delete::<ValidatingAdmissionPolicyBinding>(stage).await?;
        delete::<ValidatingAdmissionPolicy>(stage).await?;
        result
    })
    .await
}

/// The API server notices a new policy after some seconds.
async fn policy_is_active(stage: &Stage) -> Result<()> {
    let service: Service = serde_json::from_value(json!({
        "metadata": {"name": format!("{}-worker", stage.name)},
        "spec": {"clusterIP": "None", "ports": [{"port": 1}]}}))?;
    let dry_run = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let services = stage.scene.api::<Service>();
    eventually("the policy", MINUTE / 2, async || {
        Ok(services
            .create(&dry_run, &service)
            .await
            .is_err()
            .then_some(()))
    })
    .await
}

/// The same for the policy that changes Deployments.
async fn mutation_is_active(stage: &Stage) -> Result<()> {
    let deployment: Deployment = serde_json::from_value(json!({
        "metadata": {"name": format!("{}-worker", stage.name)},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {
            "metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "worker", "image": "any"}]}}}}))?;
    let dry_run = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let deployments = stage.scene.api::<Deployment>();
    eventually("the policy", MINUTE / 2, async || {
        let created = deployments.create(&dry_run, &deployment).await?;
        let limit = created.spec.and_then(|spec| spec.revision_history_limit);
        Ok((limit == Some(7)).then_some(()))
    })
    .await
}

#[tokio::test]
async fn a_name_that_no_service_can_have_is_refused_with_a_reason() -> Result<()> {
    on_stage("name", async |stage| {
        let name = format!("v1.{}", stage.name);
        let object = stage.scene.pipeline(&name, &stage.topic(), &json!({}));
        stage.scene.apply(&object).await?;
        let result = wait_unready(stage, &name, "ApplyRefused", &name).await;
        let pipelines = stage.scene.api::<IngestionPipeline>();
        pipelines.delete(&name, &DeleteParams::default()).await?;
        result
    })
    .await
}

#[tokio::test]
async fn an_object_of_somebody_else_is_left_alone() -> Result<()> {
    on_stage("taken", async |stage| {
        let name = format!("{}-worker", stage.name);
        let foreign: ConfigMap = serde_json::from_value(json!({
            "metadata": {"name": name}, "data": {"owner": "somebody else"}}))?;
        let config_maps = stage.scene.api::<ConfigMap>();
        let created = config_maps.create(&PostParams::default(), &foreign).await?;
        stage.scene.apply(&stage.pipeline(&json!({}))).await?;
        let words = format!("ConfigMap {name} exists");
        wait_unready(stage, &stage.name, "NameTaken", &words).await?;
        nothing_repeats(stage, "NameTaken").await?;
        let after = config_maps.get(&name).await?;
        ensure!(
            after.resource_version() == created.resource_version(),
            "it was changed: {after:?}"
        );
        config_maps.delete(&name, &DeleteParams::default()).await?;
        wait_ready(stage).await?;
        let own = config_maps.get(&name).await?;
        ensure!(own.owner_references().len() == 1, "{own:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_quota_that_leaves_no_room_for_a_pod_is_reported_with_its_words() -> Result<()> {
    on_stage("quota", async |stage| {
        // The quota is for pods of this class only, because other tests share the namespace.
        let class = json!({"metadata": {"name": stage.name}, "value": -1,
            "preemptionPolicy": "Never"});
        create::<PriorityClass>(stage, class).await?;
        let quota: ResourceQuota = serde_json::from_value(json!({
            "metadata": {"name": stage.name},
            "spec": {"hard": {"pods": "0"}, "scopeSelector": {"matchExpressions": [
                {"scopeName": "PriorityClass", "operator": "In", "values": [stage.name]}]}}}))?;
        let quotas = stage.scene.api::<ResourceQuota>();
        let result = async {
            quotas.create(&PostParams::default(), &quota).await?;
            let patch = json!({"spec": {
                "scaling": {"minReplicas": 1},
                "worker": {"podTemplate": {"spec": {"priorityClassName": stage.name}}}}});
            stage.scene.apply(&stage.pipeline(&patch)).await?;
            wait_unready(stage, &stage.name, "WorkersCannotStart", "quota").await
        }
        .await;
        drop(quotas.delete(&stage.name, &DeleteParams::default()).await);
        delete::<PriorityClass>(stage).await?;
        result
    })
    .await
}

#[tokio::test]
async fn a_new_worker_that_waits_for_mongodb_names_it() -> Result<()> {
    on_stage("waiting", async |stage| {
        let secret = format!("{}-mongodb", stage.name);
        // Nothing answers there.
        let uri = "mongodb://10.244.0.1:9/?serverSelectionTimeoutMS=2000";
        stage
            .scene
            .create_secret(&secret, &json!({"uri": uri}))
            .await?;
        let patch = json!({"spec": {
            "scaling": {"minReplicas": 1},
            "stores": {"mongodb": {"uriSecretRef": {"name": secret}}}}});
        stage.scene.apply(&stage.pipeline(&patch)).await?;
        let waits = |status: &IngestionPipelineStatus| {
            condition(status, "Ready").is_some_and(|ready| {
                ready.reason == "WorkersWaiting" && ready.message.contains("mongodb")
            })
        };
        let scene = &stage.scene;
        scene
            .wait_status(&stage.name, "WorkersWaiting", 2 * MINUTE, waits)
            .await?;
        nothing_repeats(stage, "WorkersWaiting").await
    })
    .await
}

#[tokio::test]
async fn a_policy_that_changes_the_deployment_is_shown_and_not_fought() -> Result<()> {
    on_stage("mutated", async |stage| {
        let (constraints, conditions) = selects(stage, "apps", "deployments");
        let policy = json!({"metadata": {"name": stage.name}, "spec": {
            "failurePolicy": "Fail", "reinvocationPolicy": "Never",
            "matchConstraints": constraints, "matchConditions": conditions,
            "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {
                "expression": "Object{spec: Object.spec{revisionHistoryLimit: 7, \
                    template: Object.spec.template{spec: Object.spec.template.spec{ \
                    containers: [Object.spec.template.spec.containers{ \
                    name: 'worker', terminationMessagePolicy: 'File'}]}}}}"}}]}});
        let binding = json!({"metadata": {"name": stage.name},
            "spec": {"policyName": stage.name}});
        create::<MutatingAdmissionPolicy>(stage, policy).await?;
        create::<MutatingAdmissionPolicyBinding>(stage, binding).await?;
        let result = async {
            mutation_is_active(stage).await?;
            stage.scene.apply(&stage.pipeline(&json!({}))).await?;
            wait_ready(stage).await?;
            let scene = &stage.scene;
            let pipeline = scene
                .wait_condition(
                    &stage.name,
                    "WorkersAvailable",
                    "True",
                    "ChangedByOthers",
                    MINUTE,
                )
                .await?;
            let status = pipeline.status.context("a status")?;
            let workers = condition(&status, "WorkersAvailable").context("workers")?;
            ensure!(
                workers.message.contains("is 7, not 3"),
                "{}",
                workers.message
            );
            let before = scene.deployment(&stage.name).await?;
            ensure!(
                before.metadata.generation <= Some(2),
                "it is fought: {before:?}"
            );
            tokio::time::sleep(A_WHILE).await;
            let after = scene.deployment(&stage.name).await?;
            ensure!(before.resource_version() == after.resource_version());
            let rollouts = events(stage, "RolloutStarted").await?;
            ensure!(rollouts.is_empty(), "{rollouts:?}");
            Ok(())
        }
        .await;
        delete::<MutatingAdmissionPolicyBinding>(stage).await?;
        delete::<MutatingAdmissionPolicy>(stage).await?;
        result
    })
    .await
}

#[tokio::test]
async fn a_worker_that_the_kubelet_ends_is_replaced_and_told_once() -> Result<()> {
    on_stage("evicted", async |stage| {
        let one = json!({"spec": {"scaling": {"minReplicas": 1}}});
        stage.apply_until_ready(&one).await?;
        let recording = Recording::of(stage);
        let pods = stage.scene.worker_pods(&stage.name).await?;
        let first = pods.first().context("a worker")?.name_any();
        // As an eviction leaves it: the pod stays, and has failed.
        let deadline = json!({"spec": {"activeDeadlineSeconds": 1}});
        stage
            .scene
            .api::<Pod>()
            .patch(&first, &PatchParams::default(), &Patch::Merge(&deadline))
            .await?;
        eventually("another worker", MINUTE, async || {
            let pods = stage.scene.worker_pods(&stage.name).await?;
            let has = |phase: &str, is_first: bool| {
                pods.iter().any(|pod| {
                    let found = pod.status.as_ref().and_then(|s| s.phase.as_deref());
                    found == Some(phase) && (pod.name_any() == first) == is_first
                })
            };
            Ok((has("Failed", true) && has("Running", false)).then_some(()))
        })
        .await?;
        let told = eventually("the event", MINUTE, async || {
            let told = events(stage, "WorkerEvicted").await?;
            Ok((!told.is_empty()).then_some(told))
        })
        .await?;
        let scene = &stage.scene;
        scene
            .wait_condition(&stage.name, "WorkersAvailable", "True", "", MINUTE)
            .await?;
        ensure!(told.len() == 1, "{told:?}");
        let note = told[0].note.as_deref().unwrap_or_default();
        ensure!(
            note.contains(&first) && note.contains("DeadlineExceeded"),
            "{note}"
        );
        let reasons = recording.judged()?;
        ensure!(reasons == ["PipelineReady"], "Ready flapped: {reasons:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn kstatus_reads_every_state_between_a_refused_edit_and_its_correction() -> Result<()> {
    on_stage("kstatus", async |stage| {
        let recording = Recording::of(stage);
        stage.apply_until_ready(&json!({})).await?;
        let broken = json!({"spec": {"worker": {"podTemplate": {"spec": {
            "tolerations": [{"operator": "Sometimes"}]}}}}});
        stage.scene.apply(&stage.pipeline(&broken)).await?;
        wait_unready(stage, &stage.name, "TemplateRefused", "tolerations").await?;
        nothing_repeats(stage, "TemplateRefused").await?;
        stage.scene.apply(&stage.pipeline(&json!({}))).await?;
        wait_ready(stage).await?;
        let reasons = recording.judged()?;
        let is_ready = |reason: &String| reason == "PipelineReady";
        ensure!(
            reasons.last().is_some_and(is_ready)
                && reasons.iter().filter(|reason| is_ready(reason)).count() == 2,
            "{reasons:?}"
        );
        Ok(())
    })
    .await
}
