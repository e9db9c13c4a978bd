//! The fault suite: real workers ingest documents while processes and servers are killed;
//! afterwards everything is counted in the stores and the topics themselves.

pub(crate) mod count;
pub(crate) mod documents;
pub mod fleet;
pub(crate) mod inject;
mod kinds;
pub(crate) mod pages;
mod requests;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use layra_testbed::Testbed;
use milvus::v2::prelude::ListCollectionsRequest;
use serde_json::json;

use crate::cluster::{Scene, eventually};
use crate::layra::{User, collection_of, random_id};
use crate::stores::Stores;
use crate::topics::lag;
use crate::worker_cli::WorkerCli;

pub use count::Totals;
use documents::{Sent, send_more};
use fleet::Fleet;
use inject::Target;
use kinds::Deck;

/// Pages of one range: documents with more pages are split.
pub const RANGE_PAGES: u32 = 8;
/// The workers' session timeout: a worker that is stopped for longer loses its partitions.
const SESSION_SECONDS: u64 = 6;
/// Time limit of a page, in CPU seconds: shorter than the time for which workers stand still.
const PAGE_SECONDS: u64 = 10;
/// Documents that are sent just before a fault that only new documents notice.
const NEW_DOCUMENTS: usize = 6;
/// Most collections that Milvus may have at the start of a run.
const MAX_COLLECTIONS: usize = 10;
/// How long processing may take after the last fault.
const SETTLE_LIMIT: Duration = Duration::from_mins(20);
const MINUTE: Duration = Duration::from_mins(1);

/// The size of a run.
#[derive(Clone, Copy, Debug)]
pub struct FaultPlan {
    /// Number of documents to send.
    pub documents: usize,
    /// Number of faults to inject.
    pub kills: usize,
    /// Determines documents and faults.
    pub seed: u64,
    /// Number of worker processes.
    pub workers: usize,
}

/// Carries out the plan in a namespace with an operator, and counts the results.
pub async fn run(
    testbed: &Testbed,
    scene: &Scene,
    stores: &Stores,
    plan: FaultPlan,
) -> Result<Totals> {
    refuse_many_collections(stores).await?;
    let mut random = fastrand::Rng::with_seed(plan.seed);
    let id = random_id();
    let name = format!("faults-{}", &id[..6]);
    let topic = format!("{name}-tasks");
    // The operator creates the topics. The workers are child processes, so that they can be killed.
    let patch = json!({"spec": {
        "documents": {
            "rangePages": RANGE_PAGES,
            "render": {"timeoutSeconds": PAGE_SECONDS},
        },
        "source": {"kafka": {"sessionTimeoutSeconds": SESSION_SECONDS}},
        "scaling": {"mode": "Manual", "replicas": 0},
    }});
    let pipeline = scene.pipeline(&name, &topic, &patch);
    scene.apply(&pipeline).await?;
    scene
        .wait_condition(&name, "TopicReady", "True", "", MINUTE)
        .await?;
    let cli = WorkerCli::of_pipeline(scene, testbed, &name).await?;
    let user = User::with_knowledge_base(stores, &topic, &format!("f{}", &id[..6]), &id).await?;
    let mut fleet = Fleet::with_small_disks(&cli, plan.workers)?;
    let mut target = Target {
        testbed,
        scene,
        cli: &cli,
        user: &user,
        name: name.clone(),
        pipeline,
        group: format!("{topic}-workers"),
        topic: topic.clone(),
    };

    let totals = carry_out(&mut fleet, &mut target, stores, plan, &mut random).await;
    if !totals.as_ref().is_ok_and(Totals::is_clean) {
        eprintln!("{}", fleet.logs());
        eprintln!("all logs of the workers: {}", fleet.keep_logs()?.display());
    }
    totals
}

/// Milvus 2.3.5 itself loses rows when it is killed with many collections.
pub(crate) async fn refuse_many_collections(stores: &Stores) -> Result<()> {
    let request = ListCollectionsRequest::builder().build()?;
    let collections = stores.milvus.list_collections(request).await?;
    let count = collections.collection_names().len();
    ensure!(
        count <= MAX_COLLECTIONS,
        "Milvus has {count} collections, and loses acknowledged rows when it is killed with more than \
         some tens (docs/testbed.md): run `cargo testbed down` first"
    );
    Ok(())
}

/// Sends documents, injects faults, waits until everything is processed, and counts.
async fn carry_out(
    fleet: &mut Fleet<'_>,
    target: &mut Target<'_>,
    stores: &Stores,
    plan: FaultPlan,
    random: &mut fastrand::Rng,
) -> Result<Totals> {
    let user = target.user;
    eventually("all workers to be ready", 5 * MINUTE, async || {
        Ok(fleet.all_have_logged("ready for work").then_some(()))
    })
    .await?;

    let start = Instant::now();
    let log = |text: &str| println!("{:>5.0} s  {text}", start.elapsed().as_secs_f64());
    let mut deck = Deck::new(random);
    let mut sent: Vec<Sent> = Vec::new();
    let mut faults: BTreeMap<String, usize> = BTreeMap::new();
    let mut injected = 0;
    while sent.len() < plan.documents || injected < plan.kills {
        // Faults are spread evenly over the documents.
        let due = plan.kills * (sent.len() + 1) / plan.documents.max(1);
        if injected < due.min(plan.kills) || sent.len() >= plan.documents {
            let fault = deck.draw(random);
            if fault.needs_new_work() {
                let more = NEW_DOCUMENTS.min(plan.documents - sent.len());
                send_more(user, &mut sent, more, random).await?;
            }
            let kind = fault.to_string();
            let seen = target.inject(fault, fleet, &mut sent, random).await;
            if let Some(seen) = seen.with_context(|| kind.clone())? {
                log(&format!("{kind}: {seen}"));
                *faults.entry(kind).or_default() += 1;
                injected += 1;
            } else {
                log(&format!("{kind}: without effect, another fault follows"));
            }
            // Let the workers make progress between two faults.
            tokio::time::sleep(Duration::from_millis(random.u64(500..4000))).await;
        } else {
            let batch = (plan.documents / plan.kills.max(1)).clamp(1, 25);
            let more = batch.min(plan.documents - sent.len());
            send_more(user, &mut sent, more, random).await?;
        }
        fleet.restart_dead()?;
    }
    log(&format!(
        "{} documents sent, {injected} faults injected; waiting until everything is processed",
        sent.len()
    ));
    settle(fleet, stores, target, plan.documents).await?;
    // The operator must have recovered from its last kill, too.
    target
        .scene
        .wait_condition(&target.name, "TopicReady", "True", "", 6 * MINUTE)
        .await?;
    log("everything is processed; counting");
    fleet.stop().await?;
    let collection = collection_of(&user.knowledge_base);
    let mut totals = count::count(stores, user, &target.topic, &collection, &sent, faults).await?;
    totals
        .violations
        .extend_from_slice(fleet.unexpected_exits());
    Ok(totals)
}

/// Waits until every message is committed and no document is in progress or due for a recheck.
async fn settle(
    fleet: &mut Fleet<'_>,
    stores: &Stores,
    target: &Target<'_>,
    documents: usize,
) -> Result<()> {
    let topics = [target.topic.clone(), format!("{}.ranges", target.topic)];
    let limit = SETTLE_LIMIT.max(Duration::from_secs(2 * documents as u64));
    eventually(
        "an empty backlog and a ledger without unfinished documents",
        limit,
        async || {
            fleet.restart_dead()?;
            tokio::time::sleep(Duration::from_secs(1)).await;
            let lag = lag(&stores.endpoints.kafka, &target.group, &topics)?;
            let unfinished = count::unfinished(stores, &target.user.knowledge_base).await?;
            Ok((lag == 0 && unfinished == 0).then_some(()))
        },
    )
    .await
}
