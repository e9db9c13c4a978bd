//! What the operator learns about workers: not from an outage of a store, and it can be forgotten.

use std::time::Duration;

use anyhow::{Result, ensure};
use layra_crds::{IngestionPipelineStatus, ScalingStatus};
use layra_e2e::cluster::condition;
use layra_e2e::pdf;
use layra_testbed::Service;
use serde_json::json;

use crate::scene::alone_on_stage;

const MINUTE: Duration = Duration::from_mins(1);

fn scaling(status: &IngestionPipelineStatus) -> ScalingStatus {
    status.scaling.clone().unwrap_or_default()
}

#[tokio::test]
async fn an_outage_of_mongodb_adds_no_worker_and_is_not_learned() -> Result<()> {
    alone_on_stage("outage", async |stage| {
        let patch = json!({"spec": {"scaling": {"minReplicas": 1, "maxReplicas": 4}}});
        stage.apply_until_ready(&patch).await?;
        let user = stage.user().await?.using_partitions_in_turn(4);
        let page = "Every word of this page is read by the model. ".repeat(60);
        let long = pdf::with_pages(&[page.as_str(); 10]);
        let mut uploads = Vec::new();
        for number in 0..2 {
            let name = format!("{number}.pdf");
            uploads.push(user.upload_bytes(&name, long.clone()).await?);
        }
        stage.wait_tasks(&uploads, "completed", MINUTE).await?;
        let measured = stage
            .scene
            .wait_status(&stage.name, "a measured speed", MINUTE, |status| {
                scaling(status).learned.is_some()
            })
            .await?;
        let before = scaling(&measured.status.unwrap_or_default());

        let mut waiting = Vec::new();
        for number in 2..8 {
            let name = format!("{number}.pdf");
            waiting.push(user.put(&name, long.clone()).await?);
        }
        let frozen = stage.testbed.service(Service::MongoDb)?.freeze()?;
        for upload in &waiting {
            user.send_task(upload).await?;
        }
        let limit = Duration::from_secs(90);
        let held = stage
            .scene
            .wait_status(&stage.name, "the reason StoresAway", limit, |status| {
                condition(status, "Scaling")
                    .is_some_and(|c| c.reason == "StoresAway" && c.status == "True")
            })
            .await?;
        let held = scaling(&held.status.unwrap_or_default());
        tokio::time::sleep(Duration::from_secs(15)).await;
        let after = stage.scene.get(&stage.name).await?;
        let after = scaling(&after.status.unwrap_or_default());
        drop(frozen);
        ensure!(
            after.desired_replicas == held.desired_replicas,
            "{held:?} {after:?}"
        );
        let speed = |status: &ScalingStatus| {
            status
                .learned
                .as_ref()
                .map_or(0.0, |learned| learned.pages_per_second)
        };
        // The workers share two cores: each is slower than the first one alone.
        ensure!(speed(&after) > 0.7 * speed(&held), "{held:?} {after:?}");
        ensure!(speed(&after) > 0.2 * speed(&before), "{before:?} {after:?}");

        stage.wait_tasks(&waiting, "completed", 2 * MINUTE).await?;
        let forget = ["forget", stage.name.as_str()];
        let scene = &stage.scene;
        let asked = scene.kubectl_layra(scene.kubeconfig(), &forget).await?;
        ensure!(asked.status.success(), "{asked:?}");
        scene
            .wait_status(&stage.name, "the request to be handled", MINUTE, |status| {
                scaling(status).forgotten.is_some()
            })
            .await?;
        Ok(())
    })
    .await
}
