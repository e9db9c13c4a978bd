//! `cargo scaling`: how soon the operator follows the backlog, and what it costs when there is none.
//!
//! `lag-step` measures the time from the last message of a burst to the number of workers in the
//! Deployment, `fleet` the operator with many idle pipelines. Both print what they measured; neither
//! judges it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use futures::{StreamExt, stream};
use k8s_openapi::api::apps::v1::Deployment;
use kube::runtime::{WatchStreamExt, watcher};
use layra_e2e::cluster::{Scene, eventually};
use layra_e2e::layra::random_id;
use layra_e2e::memory;
use layra_testbed::Testbed;
use layra_testbed::arguments;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::json;
use tokio::sync::mpsc;

const PATIENCE: Duration = Duration::from_mins(2);
/// Partitions and workers of a step.
const WORKERS: i32 = 8;
/// Messages for each worker of a step.
const MESSAGES: i32 = 50;
/// Pipelines that are applied at the same time.
const AT_ONCE: usize = 16;

/// Measures the operator's scaling on the test-bed.
#[derive(Parser)]
#[command(name = "cargo scaling", bin_name = "cargo scaling")]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// From the last message of a burst to the Deployment's replicas.
    LagStep {
        /// Bursts.
        #[arg(long, default_value_t = 50)]
        steps: usize,
    },
    /// Many pipelines without work.
    Fleet {
        /// Pipelines.
        #[arg(long, default_value_t = 1000)]
        pipelines: usize,
        /// Quiet minutes to measure.
        #[arg(long, default_value_t = 10)]
        minutes: u64,
    },
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse_from(arguments::of_alias());
    let testbed = Testbed::obtain().await?;
    let images = testbed.images().await?;
    let scene = Scene::open(&testbed, &images, "scaling").await?;
    let result = match arguments.what {
        What::LagStep { steps } => lag_step(&testbed, &scene, steps).await,
        What::Fleet { pipelines, minutes } => {
            fleet(&scene, pipelines, Duration::from_mins(minutes)).await
        }
    };
    scene.close().await?;
    result
}

/// Workers that no node takes show the operator's own time, without that of any start.
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
        .wait_condition(&name, "TopicReady", "True", "", PATIENCE)
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
        wait_for(&mut replicas, 0).await.context("no worker")?;
        // Bursts must not come in step with the operator's looks.
        tokio::time::sleep(Duration::from_millis(fastrand::u64(2000..5000))).await;
        let begun = Instant::now();
        for number in 0..WORKERS * MESSAGES {
            let record: BaseRecord<'_, (), str> = BaseRecord::to(&topic)
                .partition(number % WORKERS)
                .payload("{\"type\": \"none\"}");
            producer.send(record).map_err(|(error, _)| error)?;
        }
        producer.flush(PATIENCE)?;
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
        let mut done = TopicPartitionList::new();
        for partition in 0..WORKERS {
            let (_, end) = group.fetch_watermarks(&topic, partition, PATIENCE)?;
            done.add_partition_offset(&topic, partition, Offset::Offset(end))?;
        }
        group.commit(&done, CommitMode::Sync)?;
    }
    println!("\nfrom the last message, in seconds: median, P95, longest");
    println!("first change      {}", quantiles(&mut first));
    println!("{WORKERS} workers         {}", quantiles(&mut full));
    Ok(())
}

/// Every new number of workers that a Deployment asks for.
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
    let next = tokio::time::timeout(PATIENCE, replicas.recv()).await;
    next.context("the Deployment does not change")?
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
        .buffer_unordered(AT_ONCE)
        .collect::<Vec<_>>()
        .await
        .into_iter()
        .collect::<Result<Vec<()>>>()?;
    println!(
        "{count} pipelines applied in {:.0} s",
        begun.elapsed().as_secs_f64()
    );
    let limit = Duration::from_mins(20);
    eventually("all to be Ready", limit, async || {
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

    // What is still on its way settles.
    tokio::time::sleep(Duration::from_secs(40)).await;
    let operator = memory::find("layra-operator").context("the operator's process")?;
    let before = (api_calls(scene).await?, operator.cpu_seconds()?);
    let begun = Instant::now();
    tokio::time::sleep(quiet).await;
    let seconds = begun.elapsed().as_secs_f64();
    let (calls, cpu) = (api_calls(scene).await?, operator.cpu_seconds()?);
    ensure!(
        calls.reads >= before.0.reads,
        "the API server was restarted"
    );
    println!("\nin {seconds:.0} quiet seconds with {count} idle pipelines:");
    println!(
        "resident          {} MB",
        operator.resident_bytes()? / 1_000_000
    );
    println!(
        "processor         {:.1} % of a core",
        100.0 * (cpu - before.1) / seconds
    );
    println!(
        "reads             {:.0} a minute (all clients of these kinds)",
        (calls.reads - before.0.reads) * 60.0 / seconds
    );
    for (kind, count) in &calls.writes {
        let earlier = before.0.writes.get(kind).copied().unwrap_or_default();
        println!("writes {kind:28} {:.0}", count - earlier);
    }
    println!("(leases: of all components; events: of the kubelet too)");
    Ok(())
}

/// Requests that the API server has answered, of the kinds that the operator has to do with.
#[derive(Default)]
struct Calls {
    reads: f64,
    /// By kind.
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
