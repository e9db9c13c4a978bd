//! `kubectl layra advise` on servers with bad settings. MongoDB's stand-in knows only some of the
//! commands, as a managed server would.

use anyhow::{Context, Result, anyhow, ensure};
use layra_crds::{Advice, Finding, Verdict};
use layra_e2e::worker_cli::WorkerCli;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use serde_json::json;

use crate::scene::{Stage, on_stage};

const POLICY: &str = "maxmemory-policy";

/// Other tests do not notice the policy of a Redis that has no `maxmemory`.
#[tokio::test]
async fn bad_settings_of_the_servers_are_found_and_nothing_is_changed() -> Result<()> {
    on_stage("advise", async |stage| {
        let topic = stage.topic();
        create_compacted(stage, &topic).await?;
        let patch = json!({"spec": {
            "source": {"kafka": {"partitions": 4}},
            "scaling": {"mode": "Manual", "replicas": 0},
        }});
        stage.apply_until_ready(&patch).await?;

        let before = policy(stage).await?;
        set_policy(stage, "allkeys-lru").await?;
        let advised = advise(stage).await;
        let after = policy(stage).await;
        set_policy(stage, &before).await?;
        let after = after?;
        ensure!(after == "allkeys-lru", "advise has changed it to {after}");

        let (by_plugin, by_worker) = advised?;
        for advice in [&by_plugin, &by_worker] {
            let redis = of(advice, "Redis", POLICY)?;
            ensure!(redis.verdict == Verdict::Change, "{redis:?}");
            ensure!(redis.found == "allkeys-lru", "{redis:?}");
            let kafka = of(advice, &format!("Kafka, topic {topic}"), "cleanup.policy")?;
            ensure!(kafka.verdict == Verdict::Change, "{kafka:?}");
            let command = format!("--entity-name {topic} --add-config cleanup.policy=delete");
            let change = kafka.change.as_deref().unwrap_or_default();
            ensure!(change.contains(&command), "{kafka:?}");
            // One broker has one copy.
            let copies = of(
                advice,
                &format!("Kafka, topic {topic}"),
                "replication factor",
            )?;
            ensure!(copies.verdict == Verdict::Change, "{copies:?}");
            let mongodb = of(advice, "MongoDB", "wiredTiger cache")?;
            ensure!(mongodb.verdict == Verdict::Unread, "{mongodb:?}");
            let milvus = of(advice, "Milvus", "version")?;
            ensure!(milvus.found.contains("2.3"), "{milvus:?}");
            let echo = of(advice, "LAYRA", "SQLAlchemy echo")?;
            ensure!(echo.verdict == Verdict::Advice, "{echo:?}");
        }
        // The metrics of the test-bed's Milvus are at another port than the documented one.
        let elsewhere = of(&by_plugin, "Milvus", "memory")?;
        ensure!(elsewhere.verdict == Verdict::Unread, "{elsewhere:?}");
        let memory = of(&by_worker, "Milvus", "memory")?;
        ensure!(memory.verdict == Verdict::Good, "{memory:?}");
        Ok(())
    })
    .await
}

/// The findings of the plugin's Job, and those of the worker's command with the address of Milvus'
/// metrics.
async fn advise(stage: &Stage) -> Result<(Advice, Advice)> {
    let scene = &stage.scene;
    let arguments = ["advise", &stage.name, "-o", "json"];
    let output = scene.kubectl_layra(scene.kubeconfig(), &arguments).await?;
    ensure!(output.status.success(), "{output:?}");
    let by_plugin = serde_json::from_slice(&output.stdout).context("the plugin's findings")?;

    let worker = WorkerCli::of_pipeline(scene, &stage.testbed, &stage.name).await?;
    let metrics = metrics(stage)?;
    let arguments = ["advise", "--output", "json", "--milvus-metrics", &metrics];
    let output = worker.run(&arguments).await?;
    let by_worker = serde_json::from_str(&output).context("the worker's findings")?;
    Ok((by_plugin, by_worker))
}

/// Milvus' metrics are at its twelfth port.
fn metrics(stage: &Stage) -> Result<String> {
    let uri = &stage.testbed.endpoints().milvus;
    let (host, port) = uri.rsplit_once(':').context("a port")?;
    let port: u16 = port.trim_end_matches('/').parse()?;
    Ok(format!("{host}:{}/metrics", port + 11))
}

fn of<'a>(advice: &'a Advice, server: &str, setting: &str) -> Result<&'a Finding> {
    let mut findings = advice.findings.iter();
    findings
        .find(|finding| finding.server == server && finding.setting == setting)
        .with_context(|| format!("{server}, {setting}: not in {advice:?}"))
}

async fn create_compacted(stage: &Stage, name: &str) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", &stage.testbed.endpoints().kafka)
        .create()?;
    let topic = NewTopic::new(name, 4, TopicReplication::Fixed(1));
    let topic = topic.set("cleanup.policy", "compact");
    for result in admin.create_topics(&[topic], &AdminOptions::new()).await? {
        result.map_err(|(name, code)| anyhow!("creating {name}: {code}"))?;
    }
    Ok(())
}

async fn policy(stage: &Stage) -> Result<String> {
    let mut redis = stage.stores.redis.clone();
    let request = redis::cmd("CONFIG").arg("GET").arg(POLICY).to_owned();
    let answer: Vec<String> = request.query_async(&mut redis).await?;
    answer.into_iter().nth(1).context("Redis' policy")
}

async fn set_policy(stage: &Stage, policy: &str) -> Result<()> {
    let mut redis = stage.stores.redis.clone();
    let request = redis::cmd("CONFIG")
        .arg("SET")
        .arg(POLICY)
        .arg(policy)
        .to_owned();
    let _: String = request.query_async(&mut redis).await?;
    Ok(())
}
