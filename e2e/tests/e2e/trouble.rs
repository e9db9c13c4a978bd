//! Valid objects that cannot be realised: a condition with a stable reason, and recovery as soon as
//! the cause is fixed.

use std::time::Duration;

use anyhow::{Result, ensure};
use layra_e2e::cluster::condition;
use layra_e2e::milvus_admin;
use serde_json::{Value, json};

use crate::scene::{Stage, alone_on_stage, on_stage};

const MINUTE: Duration = Duration::from_mins(1);

/// A condition that reports what is wrong.
struct Reported {
    condition: &'static str,
    reason: &'static str,
    /// Part of its message.
    message: &'static str,
}

/// Applies the broken object, waits for the condition, and waits for recovery with the corrected
/// object.
async fn reports_and_recovers(
    name: &str,
    broken: Value,
    reported: Reported,
    corrected: Value,
) -> Result<()> {
    on_stage(name, async |stage| {
        breaks(stage, &broken, &reported).await?;
        stage.scene.apply(&stage.pipeline(&corrected)).await?;
        recovers(stage).await
    })
    .await
}

/// Applies the broken object and waits for the condition.
async fn breaks(stage: &Stage, broken: &Value, reported: &Reported) -> Result<()> {
    let Reported {
        condition: kind,
        reason,
        message,
    } = reported;
    stage.scene.apply(&stage.pipeline(broken)).await?;
    stage
        .scene
        .wait_status(&stage.name, reason, 2 * MINUTE, |status| {
            let is_unready = condition(status, "Ready")
                .is_some_and(|c| c.status == "False" && c.reason == *reason);
            let cause = condition(status, kind);
            is_unready
                && cause.is_some_and(|c| {
                    c.status != "True" && c.reason == *reason && c.message.contains(message)
                })
        })
        .await?;
    Ok(())
}

async fn recovers(stage: &Stage) -> Result<()> {
    stage
        .scene
        .wait_condition(&stage.name, "Ready", "True", "", 3 * MINUTE)
        .await?;
    Ok(())
}

/// One worker from the start.
fn one_worker() -> Value {
    json!({"spec": {"scaling": {"minReplicas": 1}}})
}

#[tokio::test]
async fn a_missing_secret_is_named_and_its_creation_is_noticed() -> Result<()> {
    on_stage("secret", async |stage| {
        let secret = format!("{}-mongodb", stage.name);
        let broken = json!({"spec": {"stores": {"mongodb": {"uriSecretRef": {"name": &secret}}}}});
        let reported = Reported {
            condition: "WorkersAvailable",
            reason: "SecretNotFound",
            message: "-mongodb",
        };
        breaks(stage, &broken, &reported).await?;
        let uri = &stage.testbed.endpoints().mongodb_uri;
        stage
            .scene
            .create_secret(&secret, &json!({"uri": uri}))
            .await?;
        recovers(stage).await
    })
    .await
}

#[tokio::test]
async fn an_image_that_cannot_be_pulled_is_reported() -> Result<()> {
    let broken = json!({"spec": {
        "worker": {"image": "localhost/nowhere:1"},
        "scaling": {"minReplicas": 1},
    }});
    let reported = Reported {
        condition: "WorkersAvailable",
        reason: "ImagePullFailed",
        message: "",
    };
    reports_and_recovers("image", broken, reported, one_worker()).await
}

#[tokio::test]
async fn a_missing_gpu_is_reported() -> Result<()> {
    let broken = json!({"spec": {
        "worker": {"gpu": {"resource": "example.com/absent-gpu"}},
        "scaling": {"minReplicas": 1},
    }});
    let reported = Reported {
        condition: "WorkersAvailable",
        reason: "WaitingForGPU",
        message: "",
    };
    reports_and_recovers("gpu", broken, reported, one_worker()).await
}

#[tokio::test]
async fn an_unreachable_milvus_is_reported() -> Result<()> {
    let broken = json!({"spec": {"stores": {"milvus": {"uri": "http://10.244.0.1:9"}}}});
    let reported = Reported {
        condition: "VectorStoreReady",
        reason: "MilvusUnreachable",
        message: "",
    };
    reports_and_recovers("milvus", broken, reported, json!({})).await
}

#[tokio::test]
async fn an_unreachable_kafka_is_reported() -> Result<()> {
    let broken = json!({"spec": {"source": {"kafka": {"bootstrapServers": "10.244.0.1:9"}}}});
    let reported = Reported {
        condition: "TopicReady",
        reason: "KafkaUnreachable",
        message: "",
    };
    reports_and_recovers("kafka", broken, reported, json!({})).await
}

#[tokio::test]
async fn a_crashing_worker_is_reported_with_its_last_error() -> Result<()> {
    // Collections of its own: those of another model would be in conflict with other tests.
    let stores = json!({"milvus": {"collection": "crash_{knowledge_db_id}"}});
    let broken = json!({"spec": {
        "embedding": {"model": {"uri": "s3://models/nothing-here"}},
        "scaling": {"minReplicas": 1},
        "stores": stores,
    }});
    let corrected = json!({"spec": {"scaling": {"minReplicas": 1}, "stores": stores}});
    let reported = Reported {
        condition: "WorkersAvailable",
        reason: "WorkersCrashing",
        message: "models/nothing-here",
    };
    reports_and_recovers("crash", broken, reported, corrected).await
}

#[tokio::test]
async fn a_different_index_is_listed_as_drift() -> Result<()> {
    // Alone: other tests drop collections while the operator inspects their indexes.
    alone_on_stage("drift", async |stage| {
        let prefix = stage.name.replace('-', "_");
        let collection = format!("{prefix}_{{knowledge_db_id}}");
        let created_by_layra = format!("{prefix}_kb_1");
        milvus_admin::create_like_layra(&stage.stores.milvus, &created_by_layra, 384).await?;
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
            drifted.len() == 1 && drifted[0].name == created_by_layra,
            "{drifted:?}"
        );
        ensure!(
            drifted[0].difference.contains("16") && drifted[0].difference.contains("32"),
            "{drifted:?}"
        );
        milvus_admin::drop(&stage.stores.milvus, &created_by_layra).await
    })
    .await
}
