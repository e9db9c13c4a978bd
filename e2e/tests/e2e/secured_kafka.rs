//! Kafka with logins and encryption: operator and workers connect to a real broker with the same
//! Secret.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams};
use layra_crds::KafkaSecurity;
use layra_e2e::cluster::condition;
use layra_e2e::pdf;
use rdkafka::ClientConfig;
use serde_json::{Value, json};

use crate::scene::{Stage, on_stage};
use crate::secured_broker::{PASSWORD, SecuredBroker, USER};

const MINUTE: Duration = Duration::from_mins(1);

#[tokio::test]
async fn operator_and_worker_connect_with_logins_and_certificates() -> Result<()> {
    on_stage("plain", async |plain| {
        let (scram, mutual) = (Stage::new("scram").await?, Stage::new("mutual").await?);
        let broker = SecuredBroker::start(plain.testbed.settings()).await?;
        let result = Box::pin(ingest_through_every_listener(
            &broker,
            [plain, &scram, &mutual],
        ))
        .await;
        let result = result.with_context(|| broker.output());
        // After a failure, the first stage prints the logs of the whole namespace.
        for stage in [scram, mutual] {
            stage.finish(Ok(())).await?;
        }
        result
    })
    .await
}

async fn ingest_through_every_listener(
    broker: &SecuredBroker,
    [plain, scram, mutual]: [&Stage; 3],
) -> Result<()> {
    let certificates = &broker.certificates;
    let login = json!({"username": USER, "password": PASSWORD});
    // `kubectl create secret --from-file` keeps the line break at the end of a file.
    let scram_login = json!({
        "sasl.mechanism": "SCRAM-SHA-512\n",
        "username": USER,
        "password": format!("{PASSWORD}\n"),
        "ca.crt": certificates.authority,
    });
    let certificate = json!({
        "ca.crt": certificates.authority,
        "tls.crt": certificates.client,
        "tls.key": certificates.client_key,
    });
    tokio::try_join!(
        async {
            expect_refusal_without_password(plain, &broker.plain).await?;
            ingest(plain, &broker.plain, &login, "SASL_PLAINTEXT").await
        },
        ingest(scram, &broker.scram, &scram_login, "SASL_SSL"),
        ingest(mutual, &broker.mutual, &certificate, "SSL"),
    )?;
    Ok(())
}

/// Creates the Secret, and checks that the operator creates the topics and a worker stores a page.
async fn ingest(stage: &Stage, servers: &str, secret: &Value, protocol: &str) -> Result<()> {
    put_secret(stage, secret).await?;
    stage.apply_until_ready(&spec(stage, servers)).await?;

    let keys = secret.as_object().into_iter().flatten();
    let keys = keys.map(|(key, _)| key.as_str());
    let security = KafkaSecurity::from_secret(keys, |key| secret[key].as_str().map(str::as_bytes))?;
    ensure!(security.protocol() == protocol, "{security:?}");
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", servers);
    for (name, value) in security.settings() {
        client.set(name, value);
    }
    let user = stage.user().await?.sending_through(client)?;
    let page = pdf::with_pages(&["A page that came through a secured broker."]);
    let upload = user.upload_bytes("page.pdf", page).await?;
    stage.wait_tasks(&[upload], "completed", 2 * MINUTE).await?;
    let audit = stage.audit(&user).await?;
    ensure!(audit.violations.is_empty(), "{:#?}", audit.violations);
    ensure!(audit.total_pages() == 1, "{audit:?}");
    Ok(())
}

async fn expect_refusal_without_password(stage: &Stage, servers: &str) -> Result<()> {
    put_secret(stage, &json!({"username": USER})).await?;
    stage
        .scene
        .apply(&stage.pipeline(&spec(stage, servers)))
        .await?;
    let reason = "KafkaSecretInvalid";
    let pipeline = stage
        .scene
        .wait_condition(&stage.name, "Ready", "False", reason, MINUTE)
        .await?;
    let status = pipeline.status.unwrap_or_default();
    let message = &condition(&status, "TopicReady")
        .context("TopicReady")?
        .message;
    ensure!(
        message.contains(&stage.name) && message.contains("`password`"),
        "{message}"
    );
    Ok(())
}

/// Creates or replaces the Secret with the name of the pipeline.
async fn put_secret(stage: &Stage, data: &Value) -> Result<()> {
    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": stage.name},
        "stringData": data,
    });
    let who = PatchParams::apply("person").force();
    let secrets = stage.scene.api::<Secret>();
    secrets
        .patch(&stage.name, &who, &Patch::Apply(secret))
        .await?;
    Ok(())
}

fn spec(stage: &Stage, servers: &str) -> Value {
    json!({"spec": {
        "source": {"kafka": {
            "bootstrapServers": servers,
            "partitions": 1,
            "authSecretRef": {"name": stage.name},
        }},
        // The broker stops with the test: the worker cannot leave the group gracefully.
        "worker": {"terminationGracePeriodSeconds": 5},
        "scaling": {"minReplicas": 1, "maxReplicas": 1},
    }})
}
