//! `cargo measure scaling`: 1, 2, 4 and 8 workers whose embedder takes a fixed time for each page, as
//! a GPU of its own would. What is missing to the ideal is what workers cost each other.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::stream::{StreamExt, TryStreamExt};
use layra_testbed::Testbed;
use serde_json::json;

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
/// Tasks that are sent at the same time.
const AT_ONCE: usize = 16;

/// What is measured.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Numbers of workers.
    pub workers: Vec<usize>,
    /// What the embedder takes for a page.
    pub page: Duration,
    /// How long each number is measured, after a start of a quarter of it.
    pub window: Duration,
}

/// Measures, and prints what was found.
pub async fn run(testbed: &Testbed, scene: &Scene, stores: &Stores, plan: &Plan) -> Result<()> {
    println!(
        "paced embedder: {} ms a page; documents of {PAGES} pages; {PARTITIONS} partitions; {} s each",
        plan.page.as_millis(),
        plan.window.as_secs()
    );
    println!(
        "{:>8}{:>10}{:>10}{:>12}{:>12}",
        "workers", "pages/s", "ideal", "efficiency", "CPU a page"
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

/// Searchable pages a second of so many workers, and their CPU seconds a page.
async fn measure(
    testbed: &Testbed,
    scene: &Scene,
    stores: &Stores,
    plan: &Plan,
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

    // Far more than can be done, so that nobody runs dry.
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
        .buffer_unordered(AT_ONCE)
        .try_collect::<Vec<_>>()
        .await?;

    let mut fleet = Fleet::start(&cli, workers)?;
    eventually(
        "every worker to have stored something",
        2 * MINUTE,
        async || Ok(fleet.all_have_logged(r#""message":"stored""#).then_some(())),
    )
    .await?;
    tokio::time::sleep(plan.window / 4).await;
    let collection = collection_of(&user.knowledge_base);
    let (start, before) = (Instant::now(), searchable_rows(stores, &collection).await?);
    let cpu = cpu_of(&fleet);
    tokio::time::sleep(plan.window).await;
    let after = searchable_rows(stores, &collection).await?;
    let seconds = start.elapsed().as_secs_f64();
    let cpu = cpu_of(&fleet) - cpu;
    let all = i64::try_from(documents * PAGES)?;
    ensure!(after < all, "the backlog was used up");
    fleet.stop().await?;
    milvus_admin::drop(&stores.milvus, &collection).await?;
    let pages = i32::try_from(after - before).context("pages of one measurement")?;
    Ok((f64::from(pages) / seconds, cpu / f64::from(pages)))
}

fn cpu_of(fleet: &Fleet<'_>) -> f64 {
    let workers = fleet.process_ids().into_iter();
    workers
        .map(|pid| {
            let cpu = super::processes::Cpu::of_worker(pid);
            (cpu.embed + cpu.render + cpu.rest).as_secs_f64()
        })
        .sum()
}
