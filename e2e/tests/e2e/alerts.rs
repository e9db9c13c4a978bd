//! The shipped alerts: promtool's tests of every rule, and made faults that fire in a Prometheus and
//! are resolved when they are mended.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::api::DeleteParams;
use layra_crds::IngestionPipeline;
use layra_e2e::cluster::eventually;
use layra_e2e::layra::{User, random_id};
use layra_e2e::pdf;
use layra_e2e::prometheus::{Firing, Prometheus};
use layra_testbed::Settings;
use layra_testbed::settings::repository;
use serde_json::json;
use serde_yaml_ng::Value;
use tokio::process::Command;

use crate::scene::{Stage, on_stage};

const MINUTE: Duration = Duration::from_mins(1);
const CHART: &str = "charts/layra-operator";

/// Each alert is silent, fires, and is resolved (a test in `crds` checks that none is left out).
#[tokio::test]
async fn every_alert_passes_its_tests() -> Result<()> {
    let promtool = Settings::from_env()?.bin("promtool");
    let mut files = Vec::new();
    for entry in std::fs::read_dir(repository().join(CHART).join("tests"))? {
        files.push(entry?.path());
    }
    let output = Command::new(&promtool)
        .args(["test", "rules"])
        .args(&files)
        .output()
        .await
        .with_context(|| format!("running {}", promtool.display()))?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    ensure!(output.status.success(), "{text}");
    ensure!(text.matches("SUCCESS").count() == files.len(), "{text}");
    Ok(())
}

/// What a Prometheus without its operator reads and what the chart installs are the same rules.
#[tokio::test]
async fn the_chart_installs_the_rules_of_the_file_with_the_users_durations() -> Result<()> {
    let helm = Settings::from_env()?.bin("helm");
    let output = Command::new(&helm)
        .args(["template", "x"])
        .arg(repository().join(CHART))
        .args(["--show-only", "templates/alerts.yaml"])
        .args(["--set", "alerts.enabled=true,alerts.for.KafkaLagHigh=1h"])
        .args(["--set", "alerts.disabled={MilvusDown}"])
        .output()
        .await
        .with_context(|| format!("running {}", helm.display()))?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{error}");
    let installed: Value = serde_yaml_ng::from_slice(&output.stdout)?;
    let mut expected = shipped()?;
    for group in sequence(&mut expected["groups"])? {
        let rules = sequence(&mut group["rules"])?;
        rules.retain(|rule| rule["alert"] != "MilvusDown");
        for rule in rules {
            if rule["alert"] == "KafkaLagHigh" {
                rule["for"] = "1h".into();
            }
        }
    }
    ensure!(installed["kind"] == "PrometheusRule");
    let groups = &installed["spec"]["groups"];
    ensure!(*groups == expected["groups"], "{groups:#?}");
    Ok(())
}

/// Kafka, Milvus and a Secret are away, no node has a GPU, documents wait, and then documents fail.
#[tokio::test]
async fn made_faults_fire_and_mended_ones_are_resolved() -> Result<()> {
    on_stage("alerts", async |stage| {
        let waiting = format!("{}-gpu", stage.name);
        let result = faults(stage, &waiting).await;
        let pipelines = stage.scene.api::<IngestionPipeline>();
        let _ = pipelines.delete(&waiting, &DeleteParams::default()).await;
        result
    })
    .await
}

async fn faults(stage: &Stage, waiting: &str) -> Result<()> {
    let program = stage.testbed.settings().bin("prometheus");
    let watch = Watch {
        stage,
        prometheus: Prometheus::start(&program, &quick_rules()?).await?,
        pipelines: [&stage.name, waiting],
    };

    // Two pipelines: one without its servers, one whose worker waits for a GPU.
    let secret = format!("{}-mongodb", stage.name);
    let nobody = "10.244.0.1:9";
    let broken = json!({"spec": {
        "source": {"kafka": {"bootstrapServers": nobody}},
        "stores": {
            "milvus": {"uri": format!("http://{nobody}")},
            "mongodb": {"uriSecretRef": {"name": &secret}},
        },
    }});
    stage.scene.apply(&stage.pipeline(&broken)).await?;
    let topic = format!("{waiting}-tasks");
    let without_gpu = json!({"spec": {
        "worker": {"gpu": {"resource": "example.com/absent-gpu"}},
        "scaling": {"minReplicas": 1},
    }});
    let object = |patch: &serde_json::Value| stage.scene.pipeline(waiting, &topic, patch);
    stage.scene.apply(&object(&without_gpu)).await?;
    stage
        .scene
        .wait_condition(waiting, "TopicReady", "True", "", 2 * MINUTE)
        .await?;
    let late = User::with_knowledge_base(&stage.stores, &topic, "bob", &random_id()).await?;
    late.upload_bytes("late.pdf", pdf::with_pages(&["A page that waits."]))
        .await?;
    let servers = ["KafkaDown", "MilvusDown", "SecretMissing"].map(|name| of(name, &stage.name));
    let workers = ["WaitingForGPU", "DrainTargetMissed"].map(|name| of(name, waiting));
    let faults = [servers.as_slice(), workers.as_slice()].concat();
    watch.until("fire", &faults, true).await?;

    let uri = &stage.testbed.endpoints().mongodb_uri;
    let scene = &stage.scene;
    scene.create_secret(&secret, &json!({"uri": uri})).await?;
    let mended = json!({"spec": {
        "stores": {"mongodb": {"uriSecretRef": {"name": &secret}}},
        "scaling": {"minReplicas": 1, "maxReplicas": 1},
    }});
    stage.scene.apply(&stage.pipeline(&mended)).await?;
    stage.scene.apply(&object(&json!({}))).await?;
    watch.until("be resolved", &faults, false).await?;

    watch.until_scraped().await?;
    let user = stage.user().await?;
    let cut = pdf::with_pages(&["A page."])[..40].to_vec();
    for number in 0..6 {
        let name = format!("cut-{number}.pdf");
        user.upload_bytes(&name, cut.clone()).await?;
    }
    let failures = ["DeadLettersGrowing", "IngestionFailureRate"].map(|name| of(name, &stage.name));
    watch.until("fire", &failures, true).await?;
    watch.until("be resolved", &failures, false).await
}

fn of(alert: &str, pipeline: &str) -> Firing {
    (alert.to_owned(), pipeline.to_owned())
}

struct Watch<'a> {
    stage: &'a Stage,
    prometheus: Prometheus,
    pipelines: [&'a str; 2],
}

impl Watch<'_> {
    /// Waits until all these alerts fire, or none of them.
    async fn until(&self, what: &str, alerts: &[Firing], fire: bool) -> Result<()> {
        let mut last = String::new();
        let what = format!("{alerts:?} to {what}");
        let result = eventually(&what, 3 * MINUTE, async || {
            self.scrape().await?;
            let firing = self.prometheus.firing().await?;
            last = format!("{firing:?}");
            let is_so = alerts.iter().all(|alert| firing.contains(alert) == fire);
            Ok(is_so.then_some(()))
        })
        .await;
        result.with_context(|| format!("firing: {last}"))
    }

    /// Waits until a worker of the stage's pipeline was scraped: `increase` needs the count before.
    async fn until_scraped(&self) -> Result<()> {
        let pipeline = &self.stage.name;
        let query = format!("ingestion_files_total{{pipeline=\"{pipeline}\"}} offset 3s");
        eventually("a scraped worker", 3 * MINUTE, async || {
            self.scrape().await?;
            let series = self.prometheus.series(&query).await?;
            Ok((series > 0).then_some(()))
        })
        .await
    }

    async fn scrape(&self) -> Result<()> {
        let scene = &self.stage.scene;
        self.prometheus.scrape(scene, &self.pipelines).await
    }
}

/// The shipped rules, which fire at once and look back half a minute.
fn quick_rules() -> Result<String> {
    let mut rules = shipped()?;
    for group in sequence(&mut rules["groups"])? {
        group["interval"] = "1s".into();
        for rule in sequence(&mut group["rules"])? {
            rule["for"] = "0s".into();
            let expression = rule["expr"].as_str().context("an expression")?;
            let expression = expression.replace("[15m]", "[30s]");
            rule["expr"] = expression.into();
        }
    }
    Ok(serde_yaml_ng::to_string(&rules)?)
}

fn shipped() -> Result<Value> {
    let path = repository().join(CHART).join("rules/alerts.yaml");
    Ok(serde_yaml_ng::from_str(&std::fs::read_to_string(path)?)?)
}

fn sequence(value: &mut Value) -> Result<&mut Vec<Value>> {
    value.as_sequence_mut().context("a list")
}
