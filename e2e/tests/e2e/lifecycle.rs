//! The life cycle of a pipeline: applied, working, changed, deleted.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{DeleteParams, ListParams, WatchEvent, WatchParams};
use kube::{Resource, ResourceExt};
use layra_crds::IngestionPipeline;
use layra_e2e::cluster::eventually;
use layra_e2e::pdf;
use layra_e2e::worker_cli::WorkerCli;
use serde_json::json;

use crate::scene::{Stage, alone_on_stage, on_stage};

const MINUTE: Duration = Duration::from_mins(1);

#[tokio::test]
async fn an_applied_pipeline_gets_all_objects_and_topics_and_becomes_ready() -> Result<()> {
    on_stage("apply", async |stage| {
        stage.apply_until_ready(&json!({})).await?;
        let pipeline = stage.scene.get(&stage.name).await?;
        let status = pipeline.status.clone().context("a status")?;
        ensure!(status.observed_generation == pipeline.metadata.generation);
        for condition in &status.conditions {
            ensure!(
                condition.observed_generation == pipeline.metadata.generation,
                "{condition:?}"
            );
            ensure!(!condition.message.is_empty(), "{condition:?}");
        }
        ensure!(stage.partitions(&stage.topic())? == 4);
        ensure!(stage.partitions(&format!("{}.dlq", stage.topic()))? > 0);

        let name = format!("{}-worker", stage.name);
        let deployment = stage.scene.deployment(&stage.name).await?;
        let spec = deployment.spec.clone().context("spec")?;
        let rolling = spec
            .strategy
            .and_then(|s| s.rolling_update)
            .context("rollingUpdate")?;
        ensure!(
            serde_json::to_value(rolling.max_surge)? == json!(0),
            "a rollout never surges"
        );
        ensure!(
            spec.replicas == Some(0),
            "without a backlog there is no worker"
        );
        let pod = spec.template.spec.context("pod spec")?;
        ensure!(pod.automount_service_account_token == Some(false));
        let config = stage.scene.api::<ConfigMap>().get(&name).await?;
        let yaml = config
            .data
            .context("data")?
            .remove("worker.yaml")
            .context("worker.yaml")?;
        layra_crds::WorkerConfig::from_yaml(&yaml)?;
        ensure!(
            !yaml.contains(&stage.testbed.endpoints().s3.secret_key),
            "a secret in a ConfigMap"
        );
        let service = stage.scene.api::<Service>().get(&name).await?;
        ensure!(service.spec.and_then(|s| s.cluster_ip).as_deref() == Some("None"));
        stage.scene.api::<PodDisruptionBudget>().get(&name).await?;
        for owned in [
            deployment.owner_references(),
            config
                .metadata
                .owner_references
                .as_deref()
                .unwrap_or_default(),
        ] {
            ensure!(
                owned
                    .iter()
                    .any(|owner| Some(&owner.uid) == pipeline.metadata.uid.as_ref())
            );
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn documents_become_searchable_and_workers_scale_from_zero_to_two_and_back() -> Result<()> {
    on_stage("flow", async |stage| {
        stage.apply_until_ready(&json!({})).await?;
        // More workers than partitions with tasks are never required.
        let user = stage.user().await?.using_partitions_in_turn(4);
        let facts = [
            (
                "volcano.pdf",
                [
                    "A volcano erupts when magma rises through the crust.",
                    "Lava flows cool into basalt.",
                ],
            ),
            (
                "bread.pdf",
                [
                    "Bread dough rises because yeast makes carbon dioxide.",
                    "Bake the loaf in a hot oven for forty minutes.",
                ],
            ),
            (
                "chess.pdf",
                [
                    "In chess the bishop moves along diagonals.",
                    "A king that cannot escape attack is checkmated.",
                ],
            ),
            (
                "tides.pdf",
                [
                    "The moon's gravity raises the ocean tides.",
                    "Spring tides follow the new moon.",
                ],
            ),
            (
                "bees.pdf",
                [
                    "Honey bees dance to tell where flowers are.",
                    "A hive has one queen who lays all the eggs.",
                ],
            ),
        ];
        let mut uploads = Vec::new();
        for (name, pages) in facts {
            uploads.push(user.upload_bytes(name, pdf::with_pages(&pages)).await?);
        }
        stage
            .scene
            .wait_status(&stage.name, "two desired workers", MINUTE, |status| {
                status
                    .scaling
                    .as_ref()
                    .is_some_and(|scaling| scaling.desired_replicas == 2)
            })
            .await?;
        stage.wait_tasks(&uploads, "completed", 3 * MINUTE).await?;

        let audit = stage.audit(&user).await?;
        ensure!(audit.violations.is_empty(), "{:#?}", audit.violations);
        ensure!(
            audit.pages.len() == 5 && audit.pages.values().all(|pages| *pages == 2),
            "{audit:?}"
        );

        let cli = WorkerCli::of_pipeline(&stage.scene, &stage.testbed, &stage.name).await?;
        for (question, file, page) in [
            ("Why does dough get bigger?", "bread.pdf", 1),
            ("Which insects live with a queen?", "bees.pdf", 2),
            ("What causes high water at the coast?", "tides.pdf", 1),
        ] {
            let hits = cli.search(question, &user.knowledge_base, 3).await?;
            let best = hits.first().context("an answer")?;
            ensure!(
                (best.file.as_str(), best.page) == (file, page),
                "{question}: {hits:?}"
            );
            ensure!(
                hits.windows(2).all(|pair| pair[0].score >= pair[1].score),
                "{hits:?}"
            );
        }

        let idle = stage
            .scene
            .wait_status(&stage.name, "all workers to stop", 2 * MINUTE, |status| {
                status.replicas == Some(0) && status.lag == Some(0)
            })
            .await?;
        let scaling = idle
            .status
            .and_then(|status| status.scaling)
            .context("scaling")?;
        ensure!(scaling.desired_replicas == 0 && !scaling.message.is_empty());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_edit_rolls_the_workers_without_surge() -> Result<()> {
    on_stage("roll", async |stage| {
        let two = json!({"spec": {"scaling": {"minReplicas": 2}}});
        stage.apply_until_ready(&two).await?;
        wait_available(stage, 2).await?;
        let before = pod_names(stage).await?;

        let selector = format!("app.kubernetes.io/instance={}", stage.name);
        let mut events = stage
            .scene
            .api::<Pod>()
            .watch(&WatchParams::default().labels(&selector), "0")
            .await?
            .boxed();
        let edited =
            json!({"spec": {"scaling": {"minReplicas": 2}, "embedding": {"batchPages": 4}}});
        stage.scene.apply(&stage.pipeline(&edited)).await?;
        let mut alive: BTreeSet<String> = BTreeSet::new();
        let rolled = async {
            loop {
                // The Deployment may become ready a moment after the last event of any pod.
                let event = tokio::time::timeout(Duration::from_secs(1), events.try_next()).await;
                match event.map(|event| event?.context("the watch ended")) {
                    Ok(Err(error)) => return Err(error),
                    Ok(Ok(WatchEvent::Added(pod) | WatchEvent::Modified(pod)))
                        if pod.metadata.deletion_timestamp.is_none() =>
                    {
                        alive.insert(pod.name_any());
                    }
                    Ok(Ok(
                        WatchEvent::Added(pod)
                        | WatchEvent::Modified(pod)
                        | WatchEvent::Deleted(pod),
                    )) => {
                        alive.remove(&pod.name_any());
                    }
                    Ok(Ok(_)) | Err(_) => {}
                }
                ensure!(
                    alive.len() <= 2,
                    "more than two workers during the rollout: {alive:?}"
                );
                let deployment = stage.scene.deployment(&stage.name).await?;
                if alive.is_disjoint(&before) && available(&deployment) == 2 {
                    return Ok(());
                }
            }
        };
        tokio::time::timeout(4 * MINUTE, rolled)
            .await
            .context("the rollout")??;
        stage
            .scene
            .wait_condition(&stage.name, "Ready", "True", "", MINUTE)
            .await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn partitions_are_raised_and_never_lowered() -> Result<()> {
    on_stage("parts", async |stage| {
        stage.apply_until_ready(&json!({})).await?;
        let partitions = |n: i32| json!({"spec": {"source": {"kafka": {"partitions": n}}}});
        stage.scene.apply(&stage.pipeline(&partitions(6))).await?;
        eventually("six partitions", MINUTE, async || {
            Ok((stage.partitions(&stage.topic())? == 6).then_some(()))
        })
        .await?;
        stage
            .scene
            .wait_condition(&stage.name, "Ready", "True", "", MINUTE)
            .await?;

        stage.scene.apply(&stage.pipeline(&partitions(3))).await?;
        let refused = stage
            .scene
            .wait_condition(
                &stage.name,
                "TopicReady",
                "False",
                "PartitionsDecreaseRefused",
                MINUTE,
            )
            .await?;
        ensure!(stage.partitions(&stage.topic())? == 6);
        let message = refused
            .status
            .and_then(|s| s.conditions.into_iter().find(|c| c.type_ == "TopicReady"))
            .context("TopicReady")?
            .message;
        ensure!(message.contains('6') && message.contains('3'), "{message}");

        stage.scene.apply(&stage.pipeline(&partitions(6))).await?;
        stage
            .scene
            .wait_condition(&stage.name, "Ready", "True", "", MINUTE)
            .await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn deletion_removes_owned_objects_and_keeps_topics_and_data() -> Result<()> {
    on_stage("delete", async |stage| {
        stage.apply_until_ready(&json!({})).await?;
        let user = stage.user().await?;
        let upload = user
            .upload_bytes("kept.pdf", pdf::with_pages(&["This stays."]))
            .await?;
        stage.wait_tasks(&[upload], "completed", 2 * MINUTE).await?;

        let pipelines = stage.scene.api::<IngestionPipeline>();
        pipelines
            .delete(&stage.name, &DeleteParams::default())
            .await?;
        let name = format!("{}-worker", stage.name);
        eventually("all owned objects to be deleted", 2 * MINUTE, async || {
            let gone = stage
                .scene
                .api::<Deployment>()
                .get_opt(&name)
                .await?
                .is_none()
                && stage
                    .scene
                    .api::<ConfigMap>()
                    .get_opt(&name)
                    .await?
                    .is_none()
                && stage.scene.api::<Service>().get_opt(&name).await?.is_none()
                && stage
                    .scene
                    .api::<PodDisruptionBudget>()
                    .get_opt(&name)
                    .await?
                    .is_none()
                && stage.scene.worker_pods(&stage.name).await?.is_empty();
            Ok(gone.then_some(()))
        })
        .await?;
        ensure!(stage.partitions(&stage.topic())? == 4, "the topic is kept");
        let audit = stage.audit(&user).await?;
        ensure!(
            audit.violations.is_empty() && audit.total_pages() == 1,
            "{audit:?}"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn nothing_is_written_in_a_steady_state() -> Result<()> {
    // Alone: servers that other tests keep busy answer late, which the operator reports.
    alone_on_stage("steady", async |stage| {
        stage.apply_until_ready(&json!({})).await?;
        wait_until_settled(stage).await?;
        let status = async || anyhow::Ok(stage.scene.get(&stage.name).await?.status);
        let (before, status_before) = (Box::pin(versions(stage)).await?, status().await?);
        tokio::time::sleep(Duration::from_secs(20)).await;
        let (after, status_after) = (Box::pin(versions(stage)).await?, status().await?);
        ensure!(
            before == after,
            "written without a change: {before:?} → {after:?}\nstatus: {status_before:?}\n→ {status_after:?}"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_owned_object_is_restored_after_a_deletion_or_an_edit() -> Result<()> {
    on_stage("heal", async |stage| {
        stage.apply_until_ready(&json!({})).await?;
        let name = format!("{}-worker", stage.name);
        let maps = stage.scene.api::<ConfigMap>();
        let original = maps.get(&name).await?.data;
        maps.delete(&name, &DeleteParams::default()).await?;
        eventually("the ConfigMap to be recreated", MINUTE, async || {
            Ok(maps
                .get_opt(&name)
                .await?
                .filter(|map| map.data == original)
                .map(|_| ()))
        })
        .await?;

        let edit = json!({"data": {"worker.yaml": "something else"}});
        maps.patch(
            &name,
            &kube::api::PatchParams::default(),
            &kube::api::Patch::Merge(&edit),
        )
        .await?;
        eventually("the edit to be reverted", MINUTE, async || {
            Ok((maps.get(&name).await?.data == original).then_some(()))
        })
        .await
    })
    .await
}

#[tokio::test]
async fn kubectl_scale_works_in_manual_mode_only() -> Result<()> {
    on_stage("manual", async |stage| {
        stage
            .apply_until_ready(&json!({"spec": {"scaling": {"mode": "Manual"}}}))
            .await?;
        let name = stage.name.as_str();
        stage
            .scene
            .kubectl(&["scale", &format!("ipl/{name}"), "--replicas=1"])
            .await?;
        wait_available(stage, 1).await?;

        stage
            .scene
            .apply(
                &stage.pipeline(&json!({"spec": {"scaling": {"mode": "Auto", "replicas": null}}})),
            )
            .await?;
        let refused = stage
            .scene
            .kubectl(&["scale", &format!("ipl/{name}"), "--replicas=2"])
            .await
            .err()
            .context("kubectl scale must be refused in mode Auto")?
            .to_string();
        ensure!(refused.contains("scaling.mode: Manual"), "{refused}");
        Ok(())
    })
    .await
}

/// Waits until the workers of earlier tests have exited and nothing has been written for longer
/// than the interval of 10 s in which the operator writes changed numbers.
async fn wait_until_settled(stage: &Stage) -> Result<()> {
    let mut last = (Instant::now(), Vec::new());
    eventually("the start-up writes to end", 3 * MINUTE, async || {
        let workers = ListParams::default().labels("app.kubernetes.io/component=worker");
        let pods = stage.scene.api::<Pod>().list(&workers).await?;
        let versions = Box::pin(versions(stage)).await?;
        if !pods.items.is_empty() || versions != last.1 {
            last = (Instant::now(), versions);
        }
        Ok((last.0.elapsed() > Duration::from_secs(12)).then_some(()))
    })
    .await
}

async fn wait_available(stage: &Stage, count: i32) -> Result<()> {
    eventually(
        &format!("{count} available workers"),
        3 * MINUTE,
        async || {
            Ok((available(&stage.scene.deployment(&stage.name).await?) == count).then_some(()))
        },
    )
    .await
}

/// Available workers of the current template.
fn available(deployment: &Deployment) -> i32 {
    let Some(status) = &deployment.status else {
        return 0;
    };
    let current = status.observed_generation == deployment.metadata.generation;
    let updated = status.updated_replicas.unwrap_or(0);
    if current && updated == status.replicas.unwrap_or(0) {
        status.available_replicas.unwrap_or(0)
    } else {
        0
    }
}

async fn pod_names(stage: &Stage) -> Result<BTreeSet<String>> {
    Ok(stage
        .scene
        .worker_pods(&stage.name)
        .await?
        .iter()
        .map(ResourceExt::name_any)
        .collect())
}

/// Resource versions of everything that the operator writes for the test's pipeline.
async fn versions(stage: &Stage) -> Result<Vec<(String, Option<String>)>> {
    let name = format!("{}-worker", stage.name);
    let mut versions = vec![
        (
            "pipeline".to_owned(),
            stage.scene.get(&stage.name).await?.resource_version(),
        ),
        (
            "deployment".to_owned(),
            stage
                .scene
                .deployment(&stage.name)
                .await?
                .resource_version(),
        ),
        (
            "config".to_owned(),
            stage
                .scene
                .api::<ConfigMap>()
                .get(&name)
                .await?
                .resource_version(),
        ),
        (
            "service".to_owned(),
            stage
                .scene
                .api::<Service>()
                .get(&name)
                .await?
                .resource_version(),
        ),
        (
            "pdb".to_owned(),
            stage
                .scene
                .api::<PodDisruptionBudget>()
                .get(&name)
                .await?
                .resource_version(),
        ),
    ];
    let events = stage
        .scene
        .api::<k8s_openapi::api::events::v1::Event>()
        .list(&ListParams::default())
        .await?;
    let uid = stage.scene.get(&stage.name).await?.meta().uid.clone();
    for event in events {
        if event
            .regarding
            .as_ref()
            .and_then(|regarding| regarding.uid.clone())
            == uid
        {
            versions.push((event.name_any(), event.resource_version()));
        }
    }
    Ok(versions)
}
