//! `spec.query`: the operator runs the pods that answer questions, behind a Service that LAYRA finds.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use layra_e2e::cluster::{condition, eventually};
use layra_e2e::pdf;
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};

use crate::scene::{Stage, on_stage};

const MINUTE: Duration = Duration::from_mins(1);
const PAGES: [&str; 2] = [
    "Bread dough rises because yeast makes carbon dioxide.",
    "The moon pulls the water of the sea, and the tide comes in.",
];
const TOKEN: &str = "of-everybody-0123456789";
/// The name that LAYRA has in its code.
const SERVICE: &str = "model-server";

fn patch(stage: &Stage) -> Value {
    json!({"spec": {"query": {
        "tokensSecretRef": {"name": stage.name},
        "service": {"name": SERVICE},
    }}})
}

/// The address of the Service in the cluster, which this machine reaches, too.
async fn address(stage: &Stage) -> Result<String> {
    let service = stage.scene.api::<Service>().get(SERVICE).await?;
    let address = service.spec.and_then(|spec| spec.cluster_ip);
    address.context("the Service has an address")
}

#[tokio::test]
async fn a_pipeline_answers_questions_behind_a_service_while_it_has_query() -> Result<()> {
    on_stage("query", async |stage| {
        let tokens = json!([{ "token": TOKEN }]).to_string();
        let secret = json!({ "tokens.yaml": tokens });
        stage.scene.create_secret(&stage.name, &secret).await?;
        stage.apply_until_ready(&patch(stage)).await?;
        let user = stage.user().await?;
        let document = pdf::with_pages(&PAGES);
        let upload = user.upload_bytes("first.pdf", document).await?;
        let limit = 4 * MINUTE;
        let name = &stage.name;
        let pipeline = stage
            .scene
            .wait_condition(name, "QueryReady", "True", "QueryReplicasReady", limit)
            .await?;
        let status = pipeline.status.and_then(|status| status.query);
        let status = status.context("status.query")?;
        ensure!(status.desired_replicas == 1 && status.ready_replicas == 1);
        ensure!(status.address.starts_with("model-server."), "{status:?}");
        stage.wait_tasks(&[upload], "completed", 3 * MINUTE).await?;

        let (client, host) = (Client::new(), address(stage).await?);
        // As LAYRA asks. A Service has an effect a moment after its pods are ready.
        let texts = eventually("the vectors of a question", MINUTE, async || {
            let request = client.post(format!("http://{host}:8005/embed_text"));
            let request = request.json(&json!({ "queries": [PAGES[0]] }));
            let response = request.timeout(MINUTE).send().await?;
            Ok(Some(response.error_for_status()?.json::<Value>().await?))
        })
        .await?;
        let width = texts["embeddings"][0][0].as_array().map(Vec::len);
        ensure!(width == Some(384), "{texts}");

        let search = json!({
            "question": "Why is there high tide?", "knowledge_bases": [user.knowledge_base],
        });
        // A search may miss writes of the last seconds, and its answer is remembered for a minute.
        let answer = eventually("both pages to be found", 3 * MINUTE, async || {
            let request = client.post(format!("http://{host}:9090/v1/search"));
            let request = request.bearer_auth(TOKEN).json(&search);
            let response = request.timeout(MINUTE).send().await?;
            let status = response.status();
            let answer: Value = response.json().await?;
            ensure!(status == StatusCode::OK, "{status}: {answer}");
            let pages = answer["pages"].as_array().map(Vec::len);
            Ok((pages == Some(2)).then_some(answer))
        })
        .await?;
        ensure!(answer["pages"][0]["page"] == 2, "{answer:#}");
        let page = client.get(format!("http://{host}:9090/")).send().await?;
        let page = page.error_for_status()?.text().await?;
        ensure!(page.contains("<title>Search your documents"), "{page}");
        let bases = client.get(format!("http://{host}:9090/v1/knowledge_bases"));
        let bases: Value = bases.bearer_auth(TOKEN).send().await?.json().await?;
        let bases = bases["knowledge_bases"].as_array().context("a list")?;
        let base = user.knowledge_base.as_str();
        ensure!(bases.iter().any(|it| it["id"] == base), "{bases:#?}");

        stage.apply_until_ready(&json!({})).await?;
        let gone = format!("{name}-query");
        let scene = &stage.scene;
        let (deployments, budgets) = (
            scene.api::<Deployment>(),
            scene.api::<PodDisruptionBudget>(),
        );
        let services = scene.api::<Service>();
        eventually("the objects to be removed", 2 * MINUTE, async || {
            let is_gone = deployments.get_opt(&gone).await?.is_none()
                && budgets.get_opt(&gone).await?.is_none()
                && services.get_opt(SERVICE).await?.is_none();
            Ok(is_gone.then_some(()))
        })
        .await?;
        let pipeline = scene.get(name).await?;
        let status = pipeline.status.context("a status")?;
        ensure!(status.query.is_none() && condition(&status, "QueryReady").is_none());
        let worker = format!("{name}-worker");
        ensure!(
            deployments.get_opt(&worker).await?.is_some(),
            "workers stay"
        );
        Ok(())
    })
    .await
}
