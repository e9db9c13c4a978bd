//! A Prometheus of one test, with the shipped rules, and what it would scrape in a cluster.

use std::collections::{BTreeMap, BTreeSet};
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

/// A series of a range: its labels, and its values with the seconds since the start.
pub type Range = (BTreeMap<String, String>, Vec<(f64, f64)>);

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
        for (pod, address) in addresses(&operator_pods(scene).await?, 8080) {
            let labels = json!({"namespace": namespace, "pod": pod});
            targets.push(json!({"targets": [address], "labels": labels}));
        }
        for pipeline in pipelines {
            for (pod, address) in addresses(&scene.worker_pods(pipeline).await?, 9090) {
                let labels = json!({"namespace": namespace, "pipeline": pipeline, "pod": pod});
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

    /// Whether a query returns a number. Quantiles of nothing are none.
    pub async fn has_numbers(&self, query: &str) -> Result<bool> {
        let answer = self.ask(&format!("query?query={query}")).await?;
        let result = answer["data"]["result"].as_array().context("a result")?;
        Ok(result
            .iter()
            .any(|series| number(&series["value"][1]).is_some()))
    }

    /// What a query returned between two moments, in seconds since the epoch, without what is no
    /// number.
    pub async fn range(
        &self,
        query: &str,
        (start, end): (i64, i64),
        step: i64,
    ) -> Result<Vec<Range>> {
        let range = format!("start={start}&end={end}&step={step}");
        let answer = self
            .ask(&format!("query_range?query={query}&{range}"))
            .await?;
        let result = answer["data"]["result"].as_array().context("a result")?;
        let series = result.iter().map(|series| {
            let labels: BTreeMap<String, String> =
                serde_json::from_value(series["metric"].clone())?;
            let values = series["values"].as_array().context("values")?.iter();
            let points = values.filter_map(|value| {
                let second = value[0].as_f64()? - start as f64;
                Some((second, number(&value[1])?))
            });
            let points: Vec<(f64, f64)> = points.collect();
            anyhow::Ok((labels, points))
        });
        series.collect()
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
    let pods = addresses(&operator_pods(scene).await?, 8080);
    Ok(pods.into_iter().map(|(_, address)| address).collect())
}

async fn operator_pods(scene: &Scene) -> Result<Vec<Pod>> {
    let selector = ListParams::default().labels("app.kubernetes.io/component=operator");
    Ok(scene.api::<Pod>().list(&selector).await?.items)
}

/// `address:port` of the metrics of each running worker of a pipeline.
pub async fn workers(scene: &Scene, pipeline: &str) -> Result<Vec<String>> {
    let pods = addresses(&scene.worker_pods(pipeline).await?, 9090);
    Ok(pods.into_iter().map(|(_, address)| address).collect())
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

/// A value of a series, unless it is infinite or no number.
fn number(value: &Value) -> Option<f64> {
    let number: f64 = value.as_str()?.parse().ok()?;
    number.is_finite().then_some(number)
}

/// Name and `address:port` of each running pod.
fn addresses(pods: &[Pod], port: u16) -> Vec<(String, String)> {
    let address = |pod: &Pod| {
        let status = pod.status.as_ref()?;
        let runs = status.phase.as_deref() == Some("Running");
        let leaves = pod.metadata.deletion_timestamp.is_some();
        let address = format!("{}:{port}", status.pod_ip.as_ref()?);
        let name = pod.metadata.name.clone()?;
        (runs && !leaves).then_some((name, address))
    };
    pods.iter().filter_map(address).collect()
}
