//! The scale subresource as an external autoscaler uses it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use layra_e2e::cluster::eventually;
use serde_json::{Value, json};

use crate::scene::{Stage, on_stage};

const MINUTE: Duration = Duration::from_mins(1);

/// `spec.replicas` of the scale subresource, as an external autoscaler reads it.
async fn scale(stage: &Stage) -> Result<Option<i64>> {
    let namespace = stage.scene.get(&stage.name).await?.metadata.namespace;
    let path = format!(
        "/apis/ingest.layra.io/v1alpha1/namespaces/{}/ingestionpipelines/{}/scale",
        namespace.context("a namespace")?,
        stage.name
    );
    // Until the field exists, the API server answers with an error.
    let Ok(text) = stage.scene.kubectl(&["get", "--raw", &path]).await else {
        return Ok(None);
    };
    let scale: Value = serde_json::from_str(&text)?;
    Ok(scale["spec"]["replicas"].as_i64())
}

#[tokio::test]
async fn a_pipeline_that_becomes_manual_keeps_its_workers_and_can_be_scaled_at_once() -> Result<()>
{
    on_stage("becomes-manual", async |stage| {
        stage
            .apply_until_ready(&json!({"spec": {"scaling": {"minReplicas": 1, "maxReplicas": 2}}}))
            .await?;
        let manual = json!({"spec": {"scaling": {"mode": "Manual", "maxReplicas": 2}}});
        stage.scene.apply(&stage.pipeline(&manual)).await?;
        let replicas = eventually("the scale subresource", MINUTE, async || scale(stage).await);
        ensure!(replicas.await? == 1, "the worker is kept");

        // Back to Auto, where it becomes two workers, and to Manual again.
        let auto = json!({"spec": {"scaling": {"minReplicas": 2, "maxReplicas": 2}}});
        stage.scene.apply(&stage.pipeline(&auto)).await?;
        stage
            .scene
            .wait_status(&stage.name, "the second worker", MINUTE, |status| {
                status.replicas == Some(2)
            })
            .await?;
        stage.scene.apply(&stage.pipeline(&manual)).await?;
        let both = async || Ok(scale(stage).await?.filter(|replicas| *replicas == 2));
        eventually("the current number of workers", MINUTE, both).await?;
        let status = stage.scene.get(&stage.name).await?.status;
        ensure!(
            status.is_some_and(|status| status.replicas == Some(2)),
            "both workers are kept"
        );

        let name = format!("ipl/{}", stage.name);
        let refused = stage
            .scene
            .kubectl(&["scale", &name, "--replicas=3"])
            .await
            .err()
            .context("more workers than maxReplicas must be refused")?
            .to_string();
        ensure!(
            refused.contains("must not exceed scaling.maxReplicas"),
            "{refused}"
        );
        stage
            .scene
            .kubectl(&["scale", &name, "--replicas=0"])
            .await?;
        stage
            .scene
            .wait_status(&stage.name, "the worker to stop", MINUTE, |status| {
                status.replicas == Some(0)
            })
            .await?;
        Ok(())
    })
    .await
}
