//! What a new process of the operator continues with, and what somebody else decides: topics that
//! the operator must not touch, and a configuration that a policy refuses.

use std::net::TcpListener;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams};
use layra_crds::{IngestionPipeline, KNOWN_MODEL_FILE};
use layra_e2e::cluster::{condition, eventually};
use layra_e2e::processes;
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::json;

use crate::obstacles::{create, delete, selects, wait_unready};
use crate::pairs::{holder, lease, log, restarts, scale_operator};
use crate::scene::{Stage, alone_on_stage, on_stage};

const MINUTE: Duration = Duration::from_mins(1);

/// The leader gets SIGTERM while a reconcile waits for a Kafka that does not answer. It finishes
/// the reconcile, gives its lease up, and another operator goes on.
#[tokio::test]
async fn a_leader_that_is_terminated_finishes_its_reconcile_and_gives_its_lease_up() -> Result<()> {
    alone_on_stage("sigterm", async |stage| {
        stage.apply_until_ready(&json!({})).await?;
        scale_operator(stage, 2).await?;
        let silent = format!("{}-silent", stage.name);
        let result = terminate(stage, &silent).await;
        let pipelines = stage.scene.api::<IngestionPipeline>();
        let _ = pipelines.delete(&silent, &DeleteParams::default()).await;
        scale_operator(stage, 1).await?;
        result
    })
    .await
}

async fn terminate(stage: &Stage, silent: &str) -> Result<()> {
    let scene = &stage.scene;
    let leader = holder(stage).await?.context("a leader")?;
    let transitions = lease(stage).await?.lease_transitions;
    let before = scene.api::<Pod>().get(&leader).await?;
    let pid = processes::in_pod("layra-operator", &before.uid().unwrap_or_default())
        .context("the leader's process")?;
    let pid = Pid::from_raw(pid.cast_signed()).context("a pid")?;

    // The kernel accepts connections, and nobody answers.
    let kafka = &stage.testbed.endpoints().kafka;
    let (host, _) = kafka.rsplit_once(':').context("host and port")?;
    let listener = TcpListener::bind((host, 0))?;
    let servers = listener.local_addr()?.to_string();
    let patch = json!({"spec": {"source": {"kafka": {"bootstrapServers": servers}}}});
    let object = scene.pipeline(silent, &format!("{silent}-tasks"), &patch);
    scene.apply(&object).await?;
    // The first answer of Kafka is waited for, for four seconds.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    ensure!(
        scene.deployment(silent).await.is_err(),
        "the reconcile is over already"
    );
    kill_process(pid, Signal::TERM)?;

    eventually("the leader to exit", MINUTE / 2, async || {
        Ok(test_kill_process(pid).is_err().then_some(()))
    })
    .await?;
    let lease = lease(stage).await?;
    let is_given_up =
        lease.holder_identity.as_ref() != Some(&leader) || lease.lease_transitions != transitions;
    // Nothing is left half written.
    let name = format!("{silent}-worker");
    scene.api::<ConfigMap>().get(&name).await?;
    scene.api::<Service>().get(&name).await?;
    scene.api::<PodDisruptionBudget>().get(&name).await?;
    scene.deployment(silent).await?;
    let status = scene.get(silent).await?.status.context("a status")?;
    let topic = condition(&status, "TopicReady").context("TopicReady")?;
    ensure!(topic.reason == "KafkaUnreachable", "{topic:?}");

    // Whoever takes it next: the other operator, or this one's container, which is started again.
    ensure!(
        is_given_up,
        "the lease still names the leader that has exited"
    );
    eventually("a new leader", MINUTE, async || holder(stage).await).await?;
    let ended = eventually(
        "the container to be started again",
        MINUTE / 2,
        async || {
            let pod = scene.api::<Pod>().get(&leader).await?;
            let again = restarts(&pod) > restarts(&before);
            Ok(again.then(|| exit_code(&pod)))
        },
    )
    .await?;
    ensure!(ended == Some(0), "it exited with {ended:?}");
    let log = log(stage, &leader, true).await?;
    let shutdown = log.find("shutting down").context("it is logged")?;
    ensure!(log[shutdown..].contains("object applied"), "{log}");
    ensure!(log[shutdown..].contains("controller stopped"), "{log}");

    let one_worker = json!({"spec": {"scaling": {"minReplicas": 1}}});
    scene.apply(&stage.pipeline(&one_worker)).await?;
    eventually(
        "the next leader to carry an edit out",
        MINUTE / 2,
        async || {
            let deployment = scene.deployment(&stage.name).await?;
            let replicas = deployment.spec.and_then(|spec| spec.replicas);
            Ok((replicas == Some(1)).then_some(()))
        },
    )
    .await?;
    drop(listener);
    Ok(())
}

/// Of the container that ran before.
fn exit_code(pod: &Pod) -> Option<i32> {
    let containers = pod.status.as_ref()?.container_statuses.as_ref()?;
    let last = containers.first()?.last_state.as_ref()?;
    Some(last.terminated.as_ref()?.exit_code)
}

/// An operator that sees a backlog for the first time, as after a restart, knows from Kafka how
/// long it has waited.
#[tokio::test]
async fn the_age_of_a_backlog_is_that_of_its_messages() -> Result<()> {
    on_stage("age", async |stage| {
        let topic = stage.topic();
        stage.create_topic(&topic).await?;
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", &stage.testbed.endpoints().kafka)
            .create()?;
        let sent = Timestamp::now().as_millisecond() - 500_000;
        for number in 0..10 {
            let payload = format!("{{\"type\": \"workflow\", \"number\": {number}}}");
            let record = BaseRecord::<(), str>::to(&topic)
                .payload(&payload)
                .timestamp(sent + number);
            producer.send(record).map_err(|(error, _)| error)?;
        }
        producer.flush(Duration::from_secs(10))?;

        let recommend = json!({"spec": {"scaling": {
            "mode": "Recommend", "drainTargetSeconds": 600}}});
        stage.scene.apply(&stage.pipeline(&recommend)).await?;
        let what = "the backlog's age";
        let is_old = |oldest: f64| (400.0..600.0).contains(&oldest);
        stage
            .scene
            .wait_status(&stage.name, what, MINUTE, |status| {
                let scaling = status.scaling.as_ref();
                let inputs = scaling.and_then(|scaling| scaling.inputs.as_ref());
                inputs.is_some_and(|inputs| {
                    inputs.documents == Some(10) && inputs.oldest_seconds.is_some_and(is_old)
                })
            })
            .await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn topics_of_somebody_else_are_reported_and_left_alone() -> Result<()> {
    on_stage("unmanaged", async |stage| {
        let unmanaged = json!({"spec": {"source": {"kafka": {"manageTopics": false}}}});
        stage.scene.apply(&stage.pipeline(&unmanaged)).await?;
        stage
            .scene
            .wait_condition(&stage.name, "TopicReady", "False", "TopicMissing", MINUTE)
            .await?;
        // Long enough for several reconciles.
        tokio::time::sleep(Duration::from_secs(8)).await;
        let topic = stage.topic();
        let all = ["", ".ranges", ".dlq"].map(|suffix| format!("{topic}{suffix}"));
        for topic in &all {
            ensure!(stage.partitions(topic)? == 0, "{topic} was created");
        }
        for topic in &all {
            stage.create_topic(topic).await?;
        }
        stage
            .scene
            .wait_condition(
                &stage.name,
                "TopicReady",
                "True",
                "PartitionsDiffer",
                MINUTE,
            )
            .await?;
        stage
            .scene
            .wait_condition(&stage.name, "Ready", "True", "", MINUTE)
            .await?;
        ensure!(stage.partitions(&topic)? == 1, "partitions were added");
        Ok(())
    })
    .await
}

/// What the first worker has found is kept, and later workers are told of it. The first one goes
/// on.
#[tokio::test]
async fn the_checkpoint_of_the_first_worker_is_the_one_of_later_workers() -> Result<()> {
    on_stage("model", async |stage| {
        let one_worker = json!({"spec": {"scaling": {"minReplicas": 1}}});
        stage.apply_until_ready(&one_worker).await?;
        let names = async || {
            let pods = stage.scene.worker_pods(&stage.name).await?;
            anyhow::Ok(pods.iter().map(ResourceExt::name_any).collect::<Vec<_>>())
        };
        let before = names().await?;
        let what = "the reference of the model";
        let pipeline = stage
            .scene
            .wait_status(&stage.name, what, MINUTE, |status| {
                status.model_reference.is_some()
            })
            .await?;
        let status = pipeline.status.context("a status")?;
        let reference = status.model_reference.context("a reference")?;
        let model = status.model.context("a model")?;
        ensure!(reference.checksum == model.checksum, "{reference:?}");
        ensure!(reference.uri == "s3://models/minilm", "{reference:?}");

        let name = format!("{}-worker", stage.name);
        let told = eventually("the file for later workers", MINUTE / 2, async || {
            let config_map = stage.scene.api::<ConfigMap>().get(&name).await?;
            let mut files = config_map.data.unwrap_or_default();
            Ok(files.remove(KNOWN_MODEL_FILE))
        })
        .await?;
        ensure!(told.contains(&reference.checksum), "{told}");
        // Long enough for a rollout to begin.
        tokio::time::sleep(Duration::from_secs(5)).await;
        let after = names().await?;
        ensure!(
            before.len() == 1 && after == before,
            "{before:?} was replaced by {after:?}"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn workers_are_scaled_while_a_policy_refuses_their_configuration() -> Result<()> {
    on_stage("refused-config", async |stage| {
        stage.apply_until_ready(&manual(0, 8)).await?;
        let (constraints, conditions) = selects(stage, "", "configmaps");
        let policy = json!({"metadata": {"name": stage.name}, "spec": {
            "failurePolicy": "Fail", "matchConstraints": constraints,
            "matchConditions": conditions,
            "validations": [{"expression": "false", "message": "no changes on Fridays"}]}});
        let binding = json!({"metadata": {"name": stage.name}, "spec": {
            "policyName": stage.name, "validationActions": ["Deny"]}});
        create::<ValidatingAdmissionPolicy>(stage, policy).await?;
        create::<ValidatingAdmissionPolicyBinding>(stage, binding).await?;
        let result = scale_without_config(stage).await;
        delete::<ValidatingAdmissionPolicyBinding>(stage).await?;
        delete::<ValidatingAdmissionPolicy>(stage).await?;
        result
    })
    .await
}

fn manual(replicas: u32, batch_pages: u32) -> serde_json::Value {
    json!({"spec": {
        "embedding": {"batchPages": batch_pages},
        "scaling": {"mode": "Manual", "replicas": replicas}}})
}

async fn scale_without_config(stage: &Stage) -> Result<()> {
    let name = format!("{}-worker", stage.name);
    let dry_run = PatchParams {
        dry_run: true,
        ..PatchParams::default()
    };
    let change = Patch::Merge(json!({"data": {"any": "text"}}));
    let config_maps = stage.scene.api::<ConfigMap>();
    eventually("the policy", MINUTE / 2, async || {
        let patched = config_maps.patch(&name, &dry_run, &change).await;
        Ok(patched.is_err().then_some(()))
    })
    .await?;
    let before = template_hash(&stage.scene.deployment(&stage.name).await?);

    stage.scene.apply(&stage.pipeline(&manual(1, 4))).await?;
    wait_unready(stage, &stage.name, "ApplyRefused", "no changes on Fridays").await?;
    let scaled = eventually("the number of workers", MINUTE / 2, async || {
        let deployment = stage.scene.deployment(&stage.name).await?;
        let replicas = deployment.spec.as_ref().and_then(|spec| spec.replicas);
        Ok((replicas == Some(1)).then_some(deployment))
    })
    .await?;
    ensure!(before.is_some() && template_hash(&scaled) == before);
    Ok(())
}

/// The hash of the configuration on the pod template.
fn template_hash(deployment: &Deployment) -> Option<String> {
    let template = &deployment.spec.as_ref()?.template;
    let annotations = template.metadata.as_ref()?.annotations.as_ref()?;
    annotations.get("ingest.layra.io/config-hash").cloned()
}
