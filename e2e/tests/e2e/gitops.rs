//! What tools that apply a repository rely on: the cluster keeps what was applied, everything that is
//! shipped is accepted, and objects can be replaced.

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::api::DeleteParams;
use layra_charts::{helm, values};
use layra_crds::IngestionPipeline;
use layra_e2e::cluster::{chart, eventually};
use layra_e2e::layra::{User, random_id};
use layra_e2e::pdf;
use serde_json::{Value, json};
use tempfile::{NamedTempFile, TempDir};

use crate::scene::{Stage, on_stage};

const MINUTE: Duration = Duration::from_mins(1);

fn file(text: &str) -> Result<NamedTempFile> {
    let mut file = NamedTempFile::with_suffix(".yaml")?;
    file.write_all(text.as_bytes())?;
    Ok(file)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path in UTF-8")
}

#[tokio::test]
async fn the_operator_writes_no_field_of_an_applied_pipeline() -> Result<()> {
    on_stage("gitops", async |stage| {
        let manifest = file(&stage.pipeline(&json!({})).to_string())?;
        let path = text(manifest.path())?;
        stage.scene.kubectl(&["apply", "-f", path]).await?;
        stage
            .scene
            .wait_condition(&stage.name, "Ready", "True", "", 3 * MINUTE)
            .await?;
        let user = stage.user().await?;
        let content = pdf::with_pages(&["A page."]);
        let upload = user.upload_bytes("page.pdf", content).await?;
        stage.wait_tasks(&[upload], "completed", 2 * MINUTE).await?;

        no_difference(stage, path).await?;
        let pipeline = stage.scene.get(&stage.name).await?;
        ensure!(
            pipeline.metadata.finalizers.is_none(),
            "deletion could hang"
        );
        let written = fields_of_the_operator(&pipeline);
        ensure!(written.is_empty(), "{written:?}");

        // In mode Manual it writes the number of replicas, once, which the manifest does not have.
        let manual = stage.pipeline(&json!({"spec": {"scaling": {"mode": "Manual"}}}));
        let manifest = file(&manual.to_string())?;
        let path = text(manifest.path())?;
        stage.scene.kubectl(&["apply", "-f", path]).await?;
        let pipeline = eventually("the replicas to be recorded", MINUTE, async || {
            let pipeline = stage.scene.get(&stage.name).await?;
            let recorded = pipeline.spec.scaling.replicas.is_some();
            Ok(recorded.then_some(pipeline))
        })
        .await?;
        let written = fields_of_the_operator(&pipeline);
        let replicas = json!({"f:spec": {"f:scaling": {"f:replicas": {}}}});
        ensure!(
            written.iter().all(|fields| *fields == replicas),
            "{written:?}"
        );
        no_difference(stage, path).await
    })
    .await
}

/// Waits until `kubectl diff` finds nothing, which its exit code says. It reads the object twice: a
/// status that is written in between would differ.
async fn no_difference(stage: &Stage, path: &str) -> Result<()> {
    eventually("no difference", MINUTE, async || {
        stage.scene.kubectl(&["diff", "-f", path]).await?;
        Ok(Some(()))
    })
    .await
}

/// The fields outside the status that the operator owns.
fn fields_of_the_operator(pipeline: &IngestionPipeline) -> Vec<Value> {
    let managed = pipeline.metadata.managed_fields.iter().flatten();
    let own = managed.filter(|entry| {
        let writer = entry.manager.as_deref().unwrap_or_default();
        writer.contains("layra") && entry.subresource.as_deref() != Some("status")
    });
    let fields = own.filter_map(|entry| entry.fields_v1.as_ref());
    fields.map(|fields| fields.0.clone()).collect()
}

/// Validated by the API server itself, with every switch on.
#[tokio::test]
async fn the_api_server_accepts_what_the_charts_and_the_bases_install() -> Result<()> {
    on_stage("dryrun", async |stage| {
        let namespace = stage.scene.namespace.as_str();
        let mut values = values::everything_with_dashboards();
        values["watchNamespaces"] = json!([namespace]);
        values["dashboards"]["namespace"] = json!(namespace);
        let rendered = helm::template("layra-operator", "dry", namespace, &values)?;
        let objects = helm::objects(&rendered)?.into_iter();
        // The cluster has no Prometheus operator.
        let known = objects.filter(|object| {
            let version = object["apiVersion"].as_str().unwrap_or_default();
            !version.starts_with("monitoring.coreos.com/")
        });
        let list = json!({"apiVersion": "v1", "kind": "List", "items": known.collect::<Vec<_>>()});
        let manifest = file(&list.to_string())?;
        let dry = ["apply", "--dry-run=server", "--validate=strict"];
        let chart_only = [&dry[..], &["-f", text(manifest.path())?]].concat();
        let accepted = stage.scene.kubectl(&chart_only).await?;
        ensure!(accepted.contains("networkpolicy.networking.k8s.io/dry-layra-operator"));

        // In a namespace without an operator.
        let overlay = overlay(&chart("kustomize/operator"), "default")?;
        let arguments = ["--namespace", "default", "-k", text(overlay.path())?];
        stage
            .scene
            .kubectl(&[&dry[..], &arguments].concat())
            .await?;
        let definition = chart("kustomize/definition");
        let server_side = ["--server-side", "--force-conflicts", "-k", &definition];
        stage
            .scene
            .kubectl(&[&dry[..], &server_side].concat())
            .await?;
        Ok(())
    })
    .await
}

/// A folder that sets the namespace of a base. Kustomize refuses absolute paths.
fn overlay(base: &str, namespace: &str) -> Result<TempDir> {
    let folder = TempDir::new()?;
    let up = "../".repeat(folder.path().components().count() - 1);
    let base = base.trim_start_matches('/');
    let kustomization = format!("namespace: {namespace}\nresources: [{up}{base}]\n");
    std::fs::write(folder.path().join("kustomization.yaml"), kustomization)?;
    Ok(folder)
}

/// The topic of a pipeline cannot be changed. A tool that replaces both objects instead loses nothing:
/// the offsets belong to the topic and its group.
#[tokio::test]
async fn two_pipelines_swap_their_topics_and_nothing_is_lost() -> Result<()> {
    on_stage("swap", async |stage| {
        let second = format!("{}-two", stage.name);
        let result = Box::pin(swap(stage, &second)).await;
        let pipelines = stage.scene.api::<IngestionPipeline>();
        let _ = pipelines.delete(&second, &DeleteParams::default()).await;
        result
    })
    .await
}

async fn swap(stage: &Stage, second: &str) -> Result<()> {
    let scene = &stage.scene;
    let topics = [stage.topic(), format!("{}-two", stage.topic())];
    let names = [stage.name.as_str(), second];
    let object = |name: &str, topic: &str| scene.pipeline(name, topic, &json!({}));
    for (name, topic) in names.iter().zip(&topics) {
        scene.apply(&object(name, topic)).await?;
    }
    for name in names {
        scene
            .wait_condition(name, "Ready", "True", "", 3 * MINUTE)
            .await?;
    }
    let mut users = Vec::new();
    for topic in &topics {
        users.push(User::with_knowledge_base(&stage.stores, topic, "alice", &random_id()).await?);
    }
    let mut uploads = Vec::new();
    for user in &users {
        for number in 0..3 {
            let content = pdf::with_pages(&["Before the swap.", "Its second page."]);
            uploads.push(user.upload_bytes(&format!("{number}.pdf"), content).await?);
        }
    }

    let edited = scene.apply(&object(names[0], &topics[1])).await.err();
    let refused = format!("{:#}", edited.context("the edit was accepted")?);
    ensure!(
        refused.contains("source.kafka.topic cannot be changed"),
        "{refused}"
    );

    let pipelines = scene.api::<IngestionPipeline>();
    for name in names {
        pipelines.delete(name, &DeleteParams::default()).await?;
    }
    for (name, topic) in names.iter().zip(topics.iter().rev()) {
        scene.apply(&object(name, topic)).await?;
    }
    for user in &users {
        let content = pdf::with_pages(&["After the swap."]);
        uploads.push(user.upload_bytes("after.pdf", content).await?);
    }
    stage.wait_tasks(&uploads, "completed", 3 * MINUTE).await?;
    for user in &users {
        let audit = stage.audit(user).await?;
        ensure!(audit.violations.is_empty(), "{:#?}", audit.violations);
        ensure!(audit.total_pages() == 7, "{audit:?}");
    }
    for name in names {
        scene
            .wait_condition(name, "Ready", "True", "", 2 * MINUTE)
            .await?;
    }
    Ok(())
}
