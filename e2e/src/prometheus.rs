//! A Prometheus of one test, with the shipped rules, and what it would scrape in a cluster.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::cluster::{Scene, eventually};

/// Targets come from a file. Labels of the operator's metrics are kept, as a
/// `ServiceMonitor` with `honorLabels` does.
const CONFIGURATION: &str = "
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [rules.yaml]
scrape_configs:
  - job_name: layra
    honor_labels: true
    file_sd_configs: [{files: [targets.json]}]
";

/// A running Prometheus. It ends when this is dropped.
#[derive(Debug)]
pub struct Prometheus {
    _process: Child,
    folder: TempDir,
    address: String,
}

/// An alert that fires: its name, and the pipeline if it is about one.
pub type Firing = (String, String);

impl Prometheus {
    /// Starts it with these rules and without targets.
    pub async fn start(program: &Path, rules: &str) -> Result<Self> {
        let folder = TempDir::new()?;
        let file = |name: &str| folder.path().join(name);
        std::fs::write(file("prometheus.yaml"), CONFIGURATION)?;
        std::fs::write(file("rules.yaml"), rules)?;
        std::fs::write(file("targets.json"), "[]")?;
        // Free at this moment; nothing else of a test binds ports.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let address = format!("127.0.0.1:{port}");
        let log = std::fs::File::create(file("log"))?;
        let process = Command::new(program)
            .current_dir(folder.path())
            .arg("--config.file=prometheus.yaml")
            .arg("--storage.tsdb.path=data")
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| {
                let program = program.display();
                format!("starting {program}, which `cargo testbed artifacts` builds")
            })?;
        let prometheus = Self {
            _process: process,
            folder,
            address,
        };
        let ready = eventually("Prometheus", Duration::from_mins(1), async || {
            prometheus.firing().await.map(Some)
        });
        if let Err(error) = ready.await {
            let log = std::fs::read_to_string(prometheus.folder.path().join("log"))?;
            return Err(error.context(log));
        }
        Ok(prometheus)
    }

    /// Scrapes the operator and the workers of these pipelines from now on.
    pub async fn scrape(&self, scene: &Scene, pipelines: &[&str]) -> Result<()> {
        let namespace = &scene.namespace;
        let mut targets = Vec::new();
        for address in operators(scene).await? {
            let labels = json!({"namespace": namespace});
            targets.push(json!({"targets": [address], "labels": labels}));
        }
        for pipeline in pipelines {
            for address in workers(scene, pipeline).await? {
                let labels = json!({"namespace": namespace, "pipeline": pipeline});
                targets.push(json!({"targets": [address], "labels": labels}));
            }
        }
        // Renamed, so that Prometheus never reads a part of it.
        let new = self.folder.path().join("targets.new");
        std::fs::write(&new, serde_json::to_vec(&targets)?)?;
        std::fs::rename(new, self.folder.path().join("targets.json"))?;
        Ok(())
    }

    /// The alerts that fire.
    pub async fn firing(&self) -> Result<BTreeSet<Firing>> {
        let answer = self.ask("alerts").await?;
        let alerts = answer["data"]["alerts"].as_array().context("alerts")?;
        let firing = alerts.iter().filter(|alert| alert["state"] == "firing");
        let label = |alert: &Value, name: &str| {
            let value = alert["labels"][name].as_str();
            value.unwrap_or_default().to_owned()
        };
        Ok(firing
            .map(|alert| (label(alert, "alertname"), label(alert, "pipeline")))
            .collect())
    }

    /// The number of series that a query returns. It must not contain `&`, `#` or `+`.
    pub async fn series(&self, query: &str) -> Result<usize> {
        let answer = self.ask(&format!("query?query={query}")).await?;
        let result = answer["data"]["result"].as_array();
        Ok(result.context("a result")?.len())
    }

    async fn ask(&self, path: &str) -> Result<Value> {
        let body = get(&format!("http://{}/api/v1/{path}", self.address)).await?;
        let answer: Value = serde_json::from_str(&body)?;
        if answer["status"] != "success" {
            bail!("{path}: {answer}");
        }
        Ok(answer)
    }
}

/// `address:port` of the metrics of each running operator of the namespace.
pub async fn operators(scene: &Scene) -> Result<Vec<String>> {
    let selector = ListParams::default().labels("app.kubernetes.io/component=operator");
    let pods = scene.api::<Pod>().list(&selector).await?;
    Ok(addresses(&pods.items, 8080))
}

/// `address:port` of the metrics of each running worker of a pipeline.
pub async fn workers(scene: &Scene, pipeline: &str) -> Result<Vec<String>> {
    Ok(addresses(&scene.worker_pods(pipeline).await?, 9090))
}

/// The body of a response with status 200.
pub async fn get(url: &str) -> Result<String> {
    // An earlier call has installed it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder()
        .timeout(Duration::from_secs(10))
        .build()?;
    let response = client.get(url).send().await?.error_for_status()?;
    Ok(response.text().await?)
}

fn addresses(pods: &[Pod], port: u16) -> Vec<String> {
    let address = |pod: &Pod| {
        let status = pod.status.as_ref()?;
        let runs = status.phase.as_deref() == Some("Running");
        let leaves = pod.metadata.deletion_timestamp.is_some();
        let address = status.pod_ip.as_ref()?;
        (runs && !leaves).then(|| format!("{address}:{port}"))
    };
    pods.iter().filter_map(address).collect()
}
