//! A bad edit does no harm: the rollout stops at the check, and the old workers keep working.

use std::time::Duration;

use anyhow::{Result, ensure};
use layra_e2e::cluster::{condition, eventually};
use layra_e2e::pdf;
use serde_json::{Value, json};

use crate::scene::on_stage;

const MINUTE: Duration = Duration::from_mins(1);

/// Two workers, with the keys of the object store from this Secret.
fn two_workers(keys: Option<&str>) -> Value {
    let store = keys.map_or(json!({}), |secret| {
        json!({
            "accessKeySecretRef": {"name": secret},
            "secretKeySecretRef": {"name": secret},
        })
    });
    json!({"spec": {
        "documents": {"objectStore": store},
        "scaling": {"mode": "Manual", "replicas": 2},
    }})
}

#[tokio::test]
async fn a_bad_edit_leaves_a_worker_serving_and_the_condition_names_the_field() -> Result<()> {
    on_stage("bad-edit", async |stage| {
        let scene = &stage.scene;
        scene.apply(&stage.pipeline(&two_workers(None))).await?;
        eventually("two workers", 3 * MINUTE, async || {
            let deployment = scene.deployment(&stage.name).await?;
            let ready = deployment.status.and_then(|status| status.ready_replicas);
            Ok((ready == Some(2)).then_some(()))
        })
        .await?;

        let keys = format!("{}-keys", stage.name);
        let wrong = json!({"accessKey": "nobody", "secretKey": "nothing-that-is-known"});
        scene.create_secret(&keys, &wrong).await?;
        scene
            .apply(&stage.pipeline(&two_workers(Some(&keys))))
            .await?;
        let reason = "ConfigurationInvalid";
        let field = "documents.objectStore.accessKeySecretRef: ";
        scene
            .wait_status(&stage.name, reason, 3 * MINUTE, |status| {
                condition(status, "WorkersAvailable").is_some_and(|it| {
                    it.status == "False" && it.reason == reason && it.message.contains(field)
                })
            })
            .await?;
        let deployment = scene.deployment(&stage.name).await?;
        let status = deployment.status.unwrap_or_default();
        ensure!(status.ready_replicas == Some(1), "{status:?}");

        let user = stage.user().await?;
        let bread = pdf::with_pages(&["Bread dough rises."]);
        let upload = user.upload_bytes("bread.pdf", bread).await?;
        stage.wait_tasks(&[upload], "completed", 2 * MINUTE).await?;

        scene.apply(&stage.pipeline(&two_workers(None))).await?;
        scene
            .wait_condition(&stage.name, "Ready", "True", "", 3 * MINUTE)
            .await?;
        Ok(())
    })
    .await
}
