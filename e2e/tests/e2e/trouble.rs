//! Valid objects that cannot be realised: a condition with a stable reason, and recovery by itself
//! when the cause goes.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use layra_e2e::cluster::condition;
use layra_e2e::milvus_admin;
use serde_json::{Value, json};

use crate::scene::{Stage, alone_on_stage, on_stage};

const MINUTE: Duration = Duration::from_mins(1);

/// Applies `broken`, waits for the condition, runs `mend`, and waits for Ready.
async fn breaks_and_recovers(
    stage: &Stage,
    broken: &Value,
    (kind, reason): (&str, &str),
    mend: impl AsyncFnOnce() -> Result<()>,
) -> Result<()> {
    stage.scene.apply(&stage.pipeline(broken)).await?;
    let pipeline = stage
        .scene
        .wait_condition(&stage.name, "Ready", "False", reason, 2 * MINUTE)
        .await?;
    let status = pipeline.status.unwrap_or_default();
    let cause = condition(&status, kind).context("the condition")?;
    ensure!(
        cause.status != "True" && cause.reason == reason,
        "{cause:?}"
    );
    mend().await?;
    stage
        .scene
        .wait_condition(&stage.name, "Ready", "True", "", 3 * MINUTE)
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_missing_secret_is_named_and_its_creation_is_noticed() -> Result<()> {
    on_stage("secret", async |stage| {
        let secret = format!("{}-mongodb", stage.name);
        let broken = json!({"spec": {"stores": {"mongodb": {"uriSecretRef": {"name": &secret}}}}});
        let uri = stage.testbed.endpoints().mongodb_uri.clone();
        breaks_and_recovers(
            stage,
            &broken,
            ("WorkersAvailable", "SecretNotFound"),
            async || {
                stage
                    .scene
                    .create_secret(&secret, &json!({"uri": uri}))
                    .await
            },
        )
        .await
    })
    .await
}

#[tokio::test]
async fn an_image_that_cannot_be_pulled_is_reported() -> Result<()> {
    on_stage("image", async |stage| {
        let broken = json!({"spec": {"worker": {"image": "localhost/nowhere:1"}, "scaling": {"minReplicas": 1}}});
        breaks_and_recovers(stage, &broken, ("WorkersAvailable", "ImagePullFailed"), async || {
            stage.scene.apply(&stage.pipeline(&json!({"spec": {"scaling": {"minReplicas": 1}}}))).await
        })
        .await
    })
    .await
}

#[tokio::test]
async fn a_gpu_that_is_not_there_is_waited_for() -> Result<()> {
    on_stage("gpu", async |stage| {
        let broken = json!({"spec": {
            "worker": {"gpu": {"resource": "example.com/absent-gpu"}},
            "scaling": {"minReplicas": 1},
        }});
        breaks_and_recovers(
            stage,
            &broken,
            ("WorkersAvailable", "WaitingForGPU"),
            async || {
                stage
                    .scene
                    .apply(&stage.pipeline(&json!({"spec": {"scaling": {"minReplicas": 1}}})))
                    .await
            },
        )
        .await
    })
    .await
}

#[tokio::test]
async fn a_milvus_that_is_away_is_reported() -> Result<()> {
    on_stage("milvus", async |stage| {
        let broken = json!({"spec": {"stores": {"milvus": {"uri": "http://10.244.0.1:9"}}}});
        breaks_and_recovers(
            stage,
            &broken,
            ("VectorStoreReady", "MilvusUnreachable"),
            async || stage.scene.apply(&stage.pipeline(&json!({}))).await,
        )
        .await
    })
    .await
}

#[tokio::test]
async fn a_kafka_that_is_away_is_reported() -> Result<()> {
    on_stage("kafka", async |stage| {
        let broken = json!({"spec": {"source": {"kafka": {"bootstrapServers": "10.244.0.1:9"}}}});
        breaks_and_recovers(
            stage,
            &broken,
            ("TopicReady", "KafkaUnreachable"),
            async || stage.scene.apply(&stage.pipeline(&json!({}))).await,
        )
        .await
    })
    .await
}

#[tokio::test]
async fn a_worker_that_crashes_shows_its_own_last_words() -> Result<()> {
    on_stage("crash", async |stage| {
        let broken = json!({"spec": {
            "embedding": {"model": {"uri": "s3://models/nothing-here"}},
            "scaling": {"minReplicas": 1},
        }});
        breaks_and_recovers(
            stage,
            &broken,
            ("WorkersAvailable", "WorkersCrashing"),
            async || {
                let status = stage
                    .scene
                    .get(&stage.name)
                    .await?
                    .status
                    .unwrap_or_default();
                let message = &condition(&status, "WorkersAvailable")
                    .context("condition")?
                    .message;
                ensure!(message.contains("models/nothing-here"), "{message}");
                stage
                    .scene
                    .apply(&stage.pipeline(&json!({"spec": {"scaling": {"minReplicas": 1}}})))
                    .await
            },
        )
        .await
    })
    .await
}

#[tokio::test]
async fn an_index_that_differs_is_listed_as_drift() -> Result<()> {
    // Alone: other tests drop collections between a listing and a look at their indexes.
    alone_on_stage("drift", async |stage| {
        let prefix = stage.name.replace('-', "_");
        let collection = format!("{prefix}_{{knowledge_db_id}}");
        let made_by_layra = format!("{prefix}_kb_1");
        milvus_admin::create_like_layra(&stage.stores.milvus, &made_by_layra, 384).await?;
        stage
            .apply_until_ready(&json!({"spec": {"stores": {"milvus": {"collection": collection}}}}))
            .await?;
        let pipeline = stage
            .scene
            .wait_status(&stage.name, "drift", 5 * MINUTE, |status| {
                !status.drifted_collections.is_empty()
            })
            .await?;
        let drifted = pipeline.status.unwrap_or_default().drifted_collections;
        ensure!(
            drifted.len() == 1 && drifted[0].name == made_by_layra,
            "{drifted:?}"
        );
        ensure!(
            drifted[0].difference.contains("16") && drifted[0].difference.contains("32"),
            "{drifted:?}"
        );
        milvus_admin::drop(&stage.stores.milvus, &made_by_layra).await
    })
    .await
}
