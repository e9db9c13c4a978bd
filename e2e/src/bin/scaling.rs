//! `cargo scaling`: how soon the operator reacts to a backlog, its cost with idle pipelines, and faults.
//!
//! `lag-step` measures the time from the last message of a burst until the Deployment requests all
//! replicas; `fleet` measures the operator with many idle pipelines; `stress` measures faults of the
//! operator and of the API server. All print their measurements and judge nothing.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use futures::{StreamExt, stream};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use kube::runtime::{WatchStreamExt, watcher};
use layra_e2e::cluster::{Scene, eventually};
use layra_e2e::command::{NewTestbed, in_namespace};
use layra_e2e::layra::random_id;
use layra_e2e::processes::{self, cpu_time, resident_bytes};
use layra_e2e::stress;
use layra_testbed::{Ended, Testbed, arguments};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::json;
use tokio::sync::mpsc;

const TIMEOUT: Duration = Duration::from_mins(2);
/// Partitions and workers of the pipeline.
const WORKERS: i32 = 8;
/// Messages per worker in each burst.
const MESSAGES: i32 = 50;
/// Pipelines that are applied concurrently.
const CONCURRENCY: usize = 16;

/// Measures the operator's scaling on the test-bed. The test-bed keeps running afterwards.
#[derive(Parser)]
#[command(name = "cargo scaling", bin_name = "cargo scaling")]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Time from the last message of a burst until the Deployment has all replicas.
    LagStep {
        /// Number of bursts.
        #[arg(long, default_value_t = 50)]
        steps: usize,
    },
    /// CPU, memory and API requests of the operator with many idle pipelines.
    Fleet {
        /// Number of pipelines.
        #[arg(long, default_value_t = 1000)]
        pipelines: usize,
        /// Minutes to measure.
        #[arg(long, default_value_t = 10)]
        minutes: u64,
    },
    /// Kill, cut off and disarm the operator, and restart the API server: how soon that is noticed,
    /// and when an edit is carried out.
    Stress,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let what = Arguments::parse_from(arguments::of_alias()).what;
    let run = in_namespace(
        "scaling",
        NewTestbed::Keep,
        async |testbed, scene, _| match what {
            What::LagStep { steps } => Box::pin(lag_step(testbed, scene, steps)).await,
            What::Fleet { pipelines, minutes } => {
                Box::pin(fleet(scene, pipelines, Duration::from_mins(minutes))).await
            }
            What::Stress => Box::pin(stress::run(testbed, scene)).await,
        },
    );
    Ok(match run.await? {
        Ended::Finished(()) => ExitCode::SUCCESS,
        Ended::Interrupted(code) => code,
    })
}

/// The workers fit no node, so that only the operator's reaction is measured and no start of a
/// worker.
async fn lag_step(testbed: &Testbed, scene: &Scene, steps: usize) -> Result<()> {
    let name = format!("step-{}", &random_id()[..6]);
    let topic = format!("{name}-tasks");
    let patch = json!({"spec": {
        "source": {"kafka": {"partitions": WORKERS}},
        "worker": {"podTemplate": {"spec": {"nodeSelector": {"example.com/nowhere": "true"}}}},
        "scaling": {
            "maxReplicas": WORKERS, "drainTargetSeconds": 60, "scaleDownDelaySeconds": 0,
            "maxPendingWorkers": WORKERS,
        },
    }});
    scene.apply(&scene.pipeline(&name, &topic, &patch)).await?;
    scene
        .wait_condition(&name, "TopicReady", "True", "", TIMEOUT)
        .await?;
    let mut replicas = watch_replicas(scene, &name);
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", &testbed.endpoints().kafka);
    let producer: BaseProducer = client.create()?;
    let group: BaseConsumer = client
        .clone()
        .set("group.id", format!("{topic}-workers"))
        .create()?;

    let (mut first, mut full) = (Vec::new(), Vec::new());
    for step in 0..steps {
        wait_for(&mut replicas, 0)
            .await
            .context("waiting for zero replicas")?;
        // Bursts must not be synchronous with the operator's reconciles.
        tokio::time::sleep(Duration::from_millis(fastrand::u64(2000..5000))).await;
        let begun = Instant::now();
        for number in 0..WORKERS * MESSAGES {
            let record: BaseRecord<'_, (), str> = BaseRecord::to(&topic)
                .partition(number % WORKERS)
                .payload("{\"type\": \"none\"}");
            producer.send(record).map_err(|(error, _)| error)?;
        }
        producer.flush(TIMEOUT)?;
        let sent = begun.elapsed();
        let begun = Instant::now();
        let mut seen = Vec::new();
        loop {
            let count = next(&mut replicas).await?;
            seen.push(count);
            if seen.len() == 1 {
                first.push(begun.elapsed().as_secs_f64());
            }
            if count == WORKERS {
                full.push(begun.elapsed().as_secs_f64());
                break;
            }
        }
        println!(
            "step {step:>3}: sent in {:.2} s, first change after {:.2} s, {WORKERS} workers after {:.2} s {seen:?}",
            sent.as_secs_f64(),
            first[step],
            full[step]
        );
        let mut processed = TopicPartitionList::new();
        for partition in 0..WORKERS {
            let (_, end) = group.fetch_watermarks(&topic, partition, TIMEOUT)?;
            processed.add_partition_offset(&topic, partition, Offset::Offset(end))?;
        }
        group.commit(&processed, CommitMode::Sync)?;
    }
    println!("\nseconds after the last message: median, p95, maximum");
    println!("first change      {}", quantiles(&mut first));
    println!("{WORKERS} workers         {}", quantiles(&mut full));
    Ok(())
}

/// Every change of the replicas in the Deployment's spec.
fn watch_replicas(scene: &Scene, pipeline: &str) -> mpsc::UnboundedReceiver<i32> {
    let (sender, receiver) = mpsc::unbounded_channel();
    let config = watcher::Config::default().fields(&format!("metadata.name={pipeline}-worker"));
    let stream = watcher(scene.api::<Deployment>(), config)
        .default_backoff()
        .applied_objects();
    tokio::spawn(async move {
        let mut stream = std::pin::pin!(stream);
        let mut last = None;
        while let Some(Ok(deployment)) = stream.next().await {
            let replicas = deployment.spec.and_then(|spec| spec.replicas);
            if replicas != last {
                last = replicas;
                if sender.send(replicas.unwrap_or(0)).is_err() {
                    return;
                }
            }
        }
    });
    receiver
}

async fn next(replicas: &mut mpsc::UnboundedReceiver<i32>) -> Result<i32> {
    let next = tokio::time::timeout(TIMEOUT, replicas.recv()).await;
    next.context("the Deployment did not change in time")?
        .context("the watch ended")
}

async fn wait_for(replicas: &mut mpsc::UnboundedReceiver<i32>, count: i32) -> Result<()> {
    while next(replicas).await? != count {}
    Ok(())
}

fn quantiles(values: &mut [f64]) -> String {
    values.sort_by(f64::total_cmp);
    let at = |part: usize| values[(values.len() * part / 100).min(values.len() - 1)];
    format!("{:.2}  {:.2}  {:.2}", at(50), at(95), at(100))
}

async fn fleet(scene: &Scene, count: usize, quiet: Duration) -> Result<()> {
    let id = &random_id()[..6];
    let begun = Instant::now();
    let names: Vec<String> = (0..count)
        .map(|number| format!("idle-{id}-{number}"))
        .collect();
    stream::iter(&names)
        .map(|name| async move {
            let patch = json!({"spec": {
                "source": {"kafka": {"partitions": 1}}, "scaling": {"maxReplicas": 1},
            }});
            scene.apply(&scene.pipeline(name, name, &patch)).await
        })
        .buffer_unordered(CONCURRENCY)
        .collect::<Vec<_>>()
        .await
        .into_iter()
        .collect::<Result<Vec<()>>>()?;
    println!(
        "{count} pipelines applied in {:.0} s",
        begun.elapsed().as_secs_f64()
    );
    let limit = Duration::from_mins(20);
    eventually("all pipelines to be Ready", limit, async || {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let shown = scene
            .kubectl(&[
                "get",
                "ipl",
                "-o",
                "jsonpath={range .items[*]}{.status.conditions[?(@.type==\"Ready\")].status}{\"\\n\"}{end}",
            ])
            .await?;
        let ready = shown.lines().filter(|line| *line == "True").count();
        Ok((ready == count).then_some(()))
    })
    .await?;
    println!("all Ready after {:.0} s", begun.elapsed().as_secs_f64());

    // The last writes of the start-up settle.
    tokio::time::sleep(Duration::from_secs(40)).await;
    let operator = processes::newest("layra-operator").context("the operator's process")?;
    let before = (api_calls(scene).await?, cpu_time(&operator.stat()?));
    let begun = Instant::now();
    tokio::time::sleep(quiet).await;
    let seconds = begun.elapsed().as_secs_f64();
    let calls = api_calls(scene).await?;
    let cpu = cpu_time(&operator.stat()?).saturating_sub(before.1);
    ensure!(
        calls.reads >= before.0.reads,
        "the API server was restarted"
    );
    println!("\nin {seconds:.0} seconds with {count} idle pipelines:");
    println!(
        "resident          {} MB",
        resident_bytes(&operator.status()?) / 1_000_000
    );
    println!(
        "CPU               {:.1} % of a core",
        100.0 * cpu.as_secs_f64() / seconds
    );
    println!(
        "reads             {:.0} per minute (by all clients, of these kinds)",
        (calls.reads - before.0.reads) * 60.0 / seconds
    );
    for (kind, count) in &calls.writes {
        let earlier = before.0.writes.get(kind).copied().unwrap_or_default();
        println!("writes {kind:28} {:.0}", count - earlier);
    }
    println!("(leases: of all components; events: including those of the kubelet)");
    restart(scene, count).await
}

/// An operator that starts with all these pipelines: until it has looked at each.
async fn restart(scene: &Scene, count: usize) -> Result<()> {
    let begun = Instant::now();
    scene.kill_operator().await?;
    let limit = Duration::from_mins(10);
    eventually("all pipelines to be reconciled", limit, async || {
        tokio::time::sleep(Duration::from_secs(2)).await;
        Ok((reconciles(scene).await.unwrap_or(0.0) >= count as f64).then_some(()))
    })
    .await?;
    let operator = processes::newest("layra-operator").context("the operator's process")?;
    println!(
        "after a restart   {:.0} s until all were reconciled, {} MB resident",
        begun.elapsed().as_secs_f64(),
        resident_bytes(&operator.status()?) / 1_000_000
    );
    Ok(())
}

/// Reconciles of the operator that runs now.
async fn reconciles(scene: &Scene) -> Result<f64> {
    let pods: Api<Pod> = scene.api();
    let of_operator = ListParams::default().labels("app.kubernetes.io/component=operator");
    let pods = pods.list(&of_operator).await?;
    let mut addresses = pods
        .iter()
        .filter_map(|pod| pod.status.as_ref()?.pod_ip.clone());
    let address = addresses
        .next()
        .context("the operator's pod has no address")?;
    let text = reqwest::get(format!("http://{address}:8080/metrics"))
        .await?
        .text()
        .await?;
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix("layra_operator_reconciles_total "));
    Ok(value.context("no such metric")?.parse()?)
}

/// Requests that the API server has answered, for the kinds that the operator uses.
#[derive(Default)]
struct Calls {
    reads: f64,
    /// Writes by kind.
    writes: BTreeMap<String, f64>,
}

async fn api_calls(scene: &Scene) -> Result<Calls> {
    const KINDS: [&str; 9] = [
        "ingestionpipelines",
        "deployments",
        "configmaps",
        "services",
        "poddisruptionbudgets",
        "pods",
        "secrets",
        "events",
        "leases",
    ];
    let text = scene.kubectl(&["get", "--raw", "/metrics"]).await?;
    let mut calls = Calls::default();
    for line in text
        .lines()
        .filter(|line| line.starts_with("apiserver_request_total{"))
    {
        let label = |name: &str| {
            let (_, rest) = line.split_once(&format!("{name}=\""))?;
            Some(rest.split('"').next().unwrap_or_default())
        };
        let value: f64 = line
            .rsplit(' ')
            .next()
            .and_then(|value| value.parse().ok())
            .unwrap_or(0.0);
        let resource = label("resource").unwrap_or_default();
        let is_write = matches!(
            label("verb"),
            Some("POST" | "PUT" | "PATCH" | "APPLY" | "DELETE")
        );
        match (resource, is_write) {
            (kind, true) if KINDS.contains(&kind) => {
                *calls.writes.entry(kind.to_owned()).or_default() += value;
            }
            (kind, false) if KINDS.contains(&kind) && kind != "leases" => calls.reads += value,
            _ => {}
        }
    }
    Ok(calls)
}
