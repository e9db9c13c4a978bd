//! `cargo measure fairness`: how long a single file of one knowledge base waits while a worker
//! processes many files of another, with knowledge bases that take turns and nearly in the order of
//! the partitions.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::stream::{StreamExt, TryStreamExt};
use layra_testbed::Testbed;
use mongodb::bson::{Document, doc};
use serde_json::json;

use super::{MINUTE, collection_of, completed, short_document};
use crate::cluster::{Scene, eventually};
use crate::faults::fleet::Fleet;
use crate::layra::{User, random_id};
use crate::milvus_admin;
use crate::stores::Stores;
use crate::worker_cli::WorkerCli;

/// Documents that are uploaded at the same time.
const CONCURRENT_UPLOADS: usize = 16;
/// Documents that are stored before the single file is sent.
const STORED_BEFORE: usize = 10;
/// Partitions of the topic, the default of the object.
const PARTITIONS: usize = 10;
/// The default of `source.kafka.readAheadTasks`.
const DEFAULT: usize = 500;

/// Settings of the measurement.
#[derive(Clone, Debug)]
pub struct FairnessPlan {
    /// Files of the knowledge base that has many, of one page each.
    pub files: usize,
    /// Time that the embedder takes per page.
    pub page: Duration,
}

/// Measures and prints the results.
pub async fn run(
    testbed: &Testbed,
    scene: &Scene,
    stores: &Stores,
    plan: &FairnessPlan,
) -> Result<()> {
    println!(
        "{} files of one knowledge base, then one of another; {PARTITIONS} partitions, one worker, \
         paced embedder: {} ms per page",
        plan.files,
        plan.page.as_millis()
    );
    println!(
        "{:>16}{:>16}{:>16}",
        "readAheadTasks", "wait", "others before"
    );
    let mut waits = Vec::new();
    for read_ahead in [1, DEFAULT] {
        let (wait, before) = measure(testbed, scene, stores, plan, read_ahead).await?;
        let seconds = wait.as_secs_f64();
        println!("{read_ahead:>16}{seconds:>14.1} s{before:>16}");
        waits.push(seconds);
    }
    println!("ratio of the waits: {:.1}", waits[0] / waits[1]);
    Ok(())
}

/// How long the single file waits until it is searchable, and how many files of the other knowledge
/// base are stored in this time.
async fn measure(
    testbed: &Testbed,
    scene: &Scene,
    stores: &Stores,
    plan: &FairnessPlan,
    read_ahead: usize,
) -> Result<(Duration, u64)> {
    let id = random_id();
    let name = format!("fairness-{}", &id[..6]);
    let topic = format!("{name}-tasks");
    let patch = json!({"spec": {
        "source": {"kafka": {"partitions": PARTITIONS, "readAheadTasks": read_ahead}},
        "scaling": {"mode": "Manual", "replicas": 0},
    }});
    scene.apply(&scene.pipeline(&name, &topic, &patch)).await?;
    let ready = scene.wait_condition(&name, "TopicReady", "True", "", MINUTE);
    ready.await?;
    let cli = WorkerCli::of_pipeline(scene, testbed, &name).await?;
    let cli = cli.with_arguments(&[
        "--benchmark-paced-embedder-ms",
        &plan.page.as_millis().to_string(),
    ]);
    let user = |name| User::with_knowledge_base(stores, &topic, name, &id);
    let (many, single) = (user("many").await?, user("single").await?);
    let send = |number| {
        let many = &many;
        async move {
            let content = short_document(number, 1);
            many.upload_bytes(&format!("{number}.pdf"), content).await
        }
    };
    futures::stream::iter(0..plan.files)
        .map(send)
        .buffer_unordered(CONCURRENT_UPLOADS)
        .try_collect::<Vec<_>>()
        .await?;
    let upload = single.put("single.pdf", short_document(0, 1)).await?;

    let mut fleet = Fleet::start(&cli, 1)?;
    eventually("the first documents", 2 * MINUTE, async || {
        let count = fleet.count_logged(r#""message":"stored""#);
        Ok((count >= STORED_BEFORE).then_some(()))
    })
    .await?;
    let (start, before) = (Instant::now(), count_done(stores, &many).await?);
    single.send_task(&upload).await?;
    while !completed(stores, std::slice::from_ref(&upload)).await? {
        ensure!(start.elapsed() < 30 * MINUTE, "{}", fleet.logs());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let wait = start.elapsed();
    let others = count_done(stores, &many).await? - before;
    fleet.stop().await?;
    for user in [&many, &single] {
        milvus_admin::drop(&stores.milvus, &collection_of(&user.knowledge_base)).await?;
    }
    Ok((wait, others))
}

/// Documents of a knowledge base that are done.
async fn count_done(stores: &Stores, user: &User) -> Result<u64> {
    let ledger = stores.mongodb.collection::<Document>("ingestion_ledger");
    let filter = doc! { "knowledge_db_id": &user.knowledge_base, "state": "done" };
    Ok(ledger.count_documents(filter).await?)
}
