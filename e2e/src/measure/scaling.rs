//! `cargo measure scaling`: 1, 2, 4 and 8 workers whose embedder takes a fixed time per page, as if
//! each had its own GPU. The difference from linear speed-up is the overhead of workers on each
//! other.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::stream::{StreamExt, TryStreamExt};
use layra_testbed::Testbed;
use serde_json::json;

use super::processes::Cpu;
use super::{MINUTE, collection_of, searchable_rows, short_document};
use crate::cluster::{Scene, eventually};
use crate::faults::fleet::Fleet;
use crate::layra::{User, random_id};
use crate::milvus_admin;
use crate::stores::Stores;
use crate::worker_cli::WorkerCli;

/// Pages of every document.
const PAGES: usize = 4;
/// Partitions of the topic.
const PARTITIONS: usize = 32;
/// Documents that are uploaded at the same time.
const CONCURRENT_UPLOADS: usize = 16;

/// Settings of the measurement.
#[derive(Clone, Debug)]
pub struct ScalingPlan {
    /// The numbers of workers to measure.
    pub workers: Vec<usize>,
    /// Time that the embedder takes per page.
    pub page: Duration,
    /// How long each number of workers is measured, after a warm-up of a quarter of this time.
    pub window: Duration,
}

/// Measures and prints the results.
pub async fn run(
    testbed: &Testbed,
    scene: &Scene,
    stores: &Stores,
    plan: &ScalingPlan,
) -> Result<()> {
    println!(
        "paced embedder: {} ms per page; documents of {PAGES} pages; {PARTITIONS} partitions; \
         {} s per measurement",
        plan.page.as_millis(),
        plan.window.as_secs()
    );
    println!(
        "{:>8}{:>10}{:>10}{:>12}{:>12}",
        "workers", "pages/s", "ideal", "efficiency", "CPU/page"
    );
    for workers in &plan.workers {
        let (rate, cpu) = measure(testbed, scene, stores, plan, *workers).await?;
        let ideal = *workers as f64 / plan.page.as_secs_f64();
        println!(
            "{workers:>8}{rate:>10.2}{ideal:>10.2}{:>11.1}%{:>9.1} ms",
            rate / ideal * 100.0,
            cpu * 1e3
        );
    }
    Ok(())
}

/// Searchable pages per second with this many workers, and CPU seconds per page.
async fn measure(
    testbed: &Testbed,
    scene: &Scene,
    stores: &Stores,
    plan: &ScalingPlan,
    workers: usize,
) -> Result<(f64, f64)> {
    let id = random_id();
    let name = format!("scaling-{}", &id[..6]);
    let topic = format!("{name}-tasks");
    let patch = json!({"spec": {
        "source": {"kafka": {"partitions": PARTITIONS}},
        "scaling": {"mode": "Manual", "replicas": 0, "maxReplicas": 16},
    }});
    scene.apply(&scene.pipeline(&name, &topic, &patch)).await?;
    let ready = scene.wait_condition(&name, "TopicReady", "True", "", MINUTE);
    ready.await?;
    let cli = WorkerCli::of_pipeline(scene, testbed, &name).await?;
    let cli = cli.with_arguments(&[
        "--benchmark-paced-embedder-ms",
        &plan.page.as_millis().to_string(),
    ]);
    let user = User::with_knowledge_base(stores, &topic, "measure", &random_id()).await?;

    // Far more than the workers can process, so that none becomes idle.
    let ideal = workers as f64 / plan.page.as_secs_f64();
    let pages = ideal * (1.5 * plan.window.as_secs_f64() + 20.0);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a few thousand"
    )]
    let documents = (2.0 * pages / PAGES as f64) as usize + 4 * PARTITIONS;
    let send = |number| {
        let user = &user;
        async move {
            let content = short_document(number, PAGES);
            user.upload_bytes(&format!("{number}.pdf"), content).await
        }
    };
    futures::stream::iter(0..documents)
        .map(send)
        .buffer_unordered(CONCURRENT_UPLOADS)
        .try_collect::<Vec<_>>()
        .await?;

    let mut fleet = Fleet::start(&cli, workers)?;
    eventually("every worker to store a batch", 2 * MINUTE, async || {
        Ok(fleet.all_have_logged(r#""message":"stored""#).then_some(()))
    })
    .await?;
    tokio::time::sleep(plan.window / 4).await;
    let collection = collection_of(&user.knowledge_base);
    let (start, before) = (Instant::now(), searchable_rows(stores, &collection).await?);
    let cpu = cpu_of(&fleet)?;
    tokio::time::sleep(plan.window).await;
    let after = searchable_rows(stores, &collection).await?;
    let seconds = start.elapsed().as_secs_f64();
    let cpu = cpu_of(&fleet)? - cpu;
    let all = i64::try_from(documents * PAGES)?;
    ensure!(after < all, "the backlog ran out during the measurement");
    fleet.stop().await?;
    milvus_admin::drop(&stores.milvus, &collection).await?;
    let pages = i32::try_from(after - before).context("pages of one measurement")?;
    Ok((f64::from(pages) / seconds, cpu / f64::from(pages)))
}

/// CPU seconds of all workers so far.
fn cpu_of(fleet: &Fleet<'_>) -> Result<f64> {
    let workers = fleet.process_ids().into_iter();
    workers
        .map(|pid| {
            let cpu = Cpu::of_worker(pid)?;
            Ok((cpu.embed + cpu.render + cpu.rest).as_secs_f64())
        })
        .sum()
}
