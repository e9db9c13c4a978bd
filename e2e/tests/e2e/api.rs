//! Objects that the API server itself refuses or accepts, and its explanations.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use layra_e2e::cluster::eventually;
use serde_json::{Value, json};

use crate::scene::on_stage;

const MINUTE: Duration = Duration::from_mins(1);

#[tokio::test]
async fn invalid_objects_are_refused_with_a_message_that_names_the_fix() -> Result<()> {
    on_stage("invalid", async |stage| {
        let cases: [(Value, &str); 19] = [
            (
                json!({"scaling": {"maxReplicas": 5}}),
                "Raise partitions or lower maxReplicas",
            ),
            (
                json!({"scaling": {"minReplicas": 3}}),
                "must not exceed scaling.maxReplicas",
            ),
            (
                json!({"worker": {"rollout": {"maxUnavailable": 0}}}),
                "greater than or equal to 1",
            ),
            (
                json!({"worker": {"rollout": {"maxUnavailable": "0%"}}}),
                "spec.worker.rollout.maxUnavailable",
            ),
            (
                json!({"stores": {"milvus": {"index": {"m": 3}}}}),
                "greater than or equal to 4",
            ),
            (
                json!({"stores": {"milvus": {"index": {"m": 65}}}}),
                "less than or equal to 64",
            ),
            (
                json!({"stores": {"milvus": {"index": {"efConstruction": 7}}}}),
                "greater than or equal to 8",
            ),
            (
                json!({"stores": {"milvus": {"index": {"type": "DISKANN"}}}}),
                "index.type must be HNSW, FLAT or IVF_FLAT",
            ),
            (
                json!({"stores": {"milvus": {"index": {"preset": "Economy", "m": 8}}}}),
                "has a preset and explicit values",
            ),
            (
                json!({"stores": {"milvus": {"onIndexDrift": "RebuildInPlace"}}}),
                "RebuildInPlace needs stores.milvus.rebuild.window",
            ),
            (
                json!({"stores": {"milvus": {"collection": "all"}}}),
                "around one {knowledge_db_id}",
            ),
            (
                json!({"embedding": {"model": {"family": "colqwen9"}}}),
                "Unsupported value: \"colqwen9\"",
            ),
            (
                json!({"embedding": {"model": {"uri": "http://somewhere"}}}),
                "spec.embedding.model.uri",
            ),
            (
                json!({"documents": {"render": {"dpi": [{"below": 9, "dpi": 100}]}}}),
                "one rule without `below`",
            ),
            (
                json!({"source": {"kafka": {"partitions": 0}}}),
                "greater than or equal to 1",
            ),
            (
                json!({"source": {"kafka": {"bootstrapServers": null}}}),
                "bootstrapServers: Required value",
            ),
            (
                json!({"worker": {"podTemplate": {"spec": {
                    "containers": [{"name": "worker", "command": ["sh"]}]}}}}),
                "the operator depends on its own",
            ),
            (
                json!({"worker": {"podTemplate": {"metadata": {
                    "labels": {"app.kubernetes.io/instance": "other"}}}}}),
                "Use other labels",
            ),
            (
                json!({"worker": {"podTemplate": {"spec": {
                    "volumes": [{"name": "x"}, {"name": "x"}]}}}}),
                "uplicate",
            ),
        ];
        for (patch, message) in cases {
            let object = stage.pipeline(&json!({"spec": patch}));
            let error = stage
                .scene
                .apply(&object)
                .await
                .err()
                .with_context(|| format!("accepted: {patch}"))?;
            let text = format!("{error:#}");
            ensure!(text.contains(message), "{patch}: {text}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_topic_of_a_pipeline_cannot_be_changed() -> Result<()> {
    on_stage("topic", async |stage| {
        stage.scene.apply(&stage.pipeline(&json!({}))).await?;
        let other = stage.pipeline(&json!({"spec": {"source": {"kafka": {"topic": "other"}}}}));
        let error = stage.scene.apply(&other).await.err().context("accepted")?;
        ensure!(
            format!("{error:#}").contains("topic cannot be changed"),
            "{error:#}"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn kubectl_explains_fields_and_lists_pipelines() -> Result<()> {
    on_stage("explain", async |stage| {
        // The API server serves a new CRD's schema with a short delay.
        let text = eventually("the schema of the CRD", MINUTE, async || {
            let arguments = ["explain", "ipl.spec.stores.milvus.index"];
            stage.scene.kubectl(&arguments).await.map(Some)
        })
        .await?;
        // kubectl wraps the lines.
        let words: Vec<&str> = text.split_whitespace().collect();
        let words = words.join(" ");
        ensure!(
            words.contains("efConstruction") && words.contains("Without any of them: `Accurate`"),
            "{text}"
        );
        stage.scene.apply(&stage.pipeline(&json!({}))).await?;
        let table = stage.scene.kubectl(&["get", "layra"]).await?;
        for column in [
            "READY",
            "REPLICAS",
            "LAG",
            "DRIFTED",
            "MODEL",
            "AGE",
            "minilm",
            &stage.name,
        ] {
            ensure!(table.contains(column), "{column} in {table}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_examples_are_accepted() -> Result<()> {
    on_stage("examples", async |stage| {
        // All files of the folder.
        let examples = format!("{}/../docs/examples", env!("CARGO_MANIFEST_DIR"));
        let dry = [
            "apply",
            "--dry-run=server",
            "--validate=strict",
            "-f",
            &examples,
        ];
        let accepted = stage.scene.kubectl(&dry).await?;
        ensure!(accepted.lines().count() >= 9, "{accepted}");
        Ok(())
    })
    .await
}

/// The objects of earlier versions, which every later version accepts.
#[tokio::test]
async fn kept_objects_are_accepted() -> Result<()> {
    on_stage("kept", async |stage| {
        let folder = format!("{}/../crds/tests/v1alpha1", env!("CARGO_MANIFEST_DIR"));
        let mut applied = 0;
        for entry in std::fs::read_dir(&folder).context(folder.clone())? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "yaml") {
                continue;
            }
            let path = path.display().to_string();
            // Client-side apply as well as server-side apply, as different users have them.
            for side in ["--server-side=false", "--server-side=true"] {
                let dry = [
                    "apply",
                    side,
                    "--dry-run=server",
                    "--validate=strict",
                    "-f",
                    &path,
                ];
                stage
                    .scene
                    .kubectl(&dry)
                    .await
                    .with_context(|| format!("{path} {side}"))?;
            }
            applied += 1;
        }
        ensure!(applied >= 8, "only {applied} objects in {folder}");
        Ok(())
    })
    .await
}

/// A misspelt field is refused by the operator, a wrong value by the API server's dry run.
#[tokio::test]
async fn a_refused_pod_template_is_a_stalled_condition() -> Result<()> {
    on_stage("template", async |stage| {
        let template = |spec: Value| {
            stage.pipeline(&json!({"spec": {"worker": {"podTemplate": {"spec": spec}}}}))
        };
        for (spec, words) in [
            (
                json!({"nodeSelectors": {"disk": "ssd"}}),
                "worker.podTemplate.spec.nodeSelectors",
            ),
            (
                json!({"tolerations": [{"key": "a", "operator": "Maybe"}]}),
                "Maybe",
            ),
        ] {
            stage.scene.apply(&template(spec)).await?;
            let pipeline = stage
                .scene
                .wait_condition(&stage.name, "Stalled", "True", "TemplateRefused", MINUTE)
                .await?;
            let status = pipeline.status.context("a status")?;
            let condition = status
                .conditions
                .iter()
                .find(|condition| condition.type_ == "WorkersAvailable")
                .context("WorkersAvailable")?;
            ensure!(
                condition.reason == "TemplateRefused" && condition.message.contains(words),
                "{condition:?}"
            );
        }
        let good = template(json!({"tolerations": [{"key": "a", "operator": "Exists"}]}));
        stage.scene.apply(&good).await?;
        stage
            .scene
            .wait_condition(&stage.name, "Ready", "True", "", 3 * MINUTE)
            .await?;
        Ok(())
    })
    .await
}
