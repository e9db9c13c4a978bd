//! Objects that cannot work: refused by the definition's rules, or by a dry run where a rule cannot
//! tell.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use layra_e2e::cluster::condition;
use serde_json::json;

use crate::scene::on_stage;

const MINUTE: Duration = Duration::from_mins(1);

#[tokio::test]
async fn the_api_server_refuses_names_that_do_not_work() -> Result<()> {
    on_stage("contradictions", async |stage| {
        let topic = stage.topic();
        let ranges = format!("{topic}.ranges");
        for (patch, sentence) in [
            (
                json!({"spec": {"source": {"kafka": {"deadLetterTopic": ranges}}}}),
                "the workers read page ranges from that topic",
            ),
            (
                json!({"spec": {"source": {"kafka": {"topic": "x".repeat(243)}}}}),
                "at most 242 characters",
            ),
            (
                json!({"spec": {"stores": {"milvus": {"caSecretRef": {"name": "ca"}}}}}),
                "is for an https:// uri",
            ),
        ] {
            let refused = stage.scene.apply(&stage.pipeline(&patch)).await.err();
            let refused = refused.with_context(|| format!("{patch} was accepted"))?;
            let message = format!("{refused:#}");
            ensure!(message.contains(sentence), "{message}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn resources_that_contradict_each_other_are_a_stalled_condition() -> Result<()> {
    on_stage("resources", async |stage| {
        for (resources, words) in [
            (
                json!({"requests": {"memory": "2Gi"}, "limits": {"memory": "1Gi"}}),
                "must be less than or equal to memory limit",
            ),
            (json!({"claims": [{"name": "gpu"}]}), "claims"),
        ] {
            let patch = json!({"spec": {"worker": {"resources": resources}}});
            stage.scene.apply(&stage.pipeline(&patch)).await?;
            stage
                .scene
                .wait_status(&stage.name, words, MINUTE, |status| {
                    let refused = condition(status, "Stalled");
                    refused.is_some_and(|refused| {
                        refused.reason == "TemplateRefused" && refused.message.contains(words)
                    })
                })
                .await?;
        }
        Ok(())
    })
    .await
}
