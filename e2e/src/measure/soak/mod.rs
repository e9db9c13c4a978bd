//! `cargo measure soak`: documents of every kind come, change and go for hours, beside faults, a
//! rebuild and a run of retention. Nothing may be lost or stored twice, and the picture
//! shows what grows with the time.

mod events;
mod journal;
mod sample;
mod schedule;
mod series;
mod trend;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use layra_testbed::{Testbed, target_directory};
use serde_json::{Value, json};

use super::{MINUTE, completed, short_document};
use crate::audit::Audit;
use crate::cluster::{Scene, eventually};
use crate::faults::count::count;
use crate::faults::documents::{Expected, Sent, send, send_more};
use crate::faults::{RANGE_PAGES, pages, refuse_many_collections};
use crate::kinds::KINDS;
use crate::layra::{Upload, User, random_id};
use crate::milvus_admin;
use crate::stores::Stores;
use crate::worker_cli::WorkerCli;
use journal::Journal;
use sample::{Subject, largest_renderer};
use schedule::{is_quiet, schedule};

/// Between two documents, which have three to four pages on average.
const PAUSE: Duration = Duration::from_secs(4);
/// Documents that are there at a time; the oldest ones are deleted.
const MOST_DOCUMENTS: usize = 60;
/// Seconds between two samples.
const SAMPLE_SECONDS: u32 = 15;
/// The stores are read in every fourth sample, and the picture is drawn in every twentieth.
const STORES_EVERY: usize = 4;
const DRAWN_EVERY: usize = 20;
/// How long what was sent may take after the last document.
const SETTLE_LIMIT: Duration = Duration::from_mins(30);

/// Settings of the measurement.
#[derive(Clone, Debug)]
pub struct SoakPlan {
    /// How long documents come.
    pub length: Duration,
    /// Determines documents and faults.
    pub seed: u64,
    /// Where the samples, the picture and the table go, instead of `target/soak`.
    pub output: Option<PathBuf>,
}

/// The pipeline, with a database and collections of its own: retention sees nothing else.
struct Soak<'a> {
    testbed: &'a Testbed,
    scene: &'a Scene,
    stores: Stores,
    cli: WorkerCli,
    /// Of the pipeline, the database and the collections.
    name: String,
    topic: String,
    user: User,
    /// Its collection is not used after the beginning.
    idle: User,
    start: Instant,
    sent: AtomicUsize,
    journal: Mutex<Journal>,
}

/// Runs, and fails if something is lost or stored twice.
pub async fn run(testbed: &Testbed, scene: &Scene, stores: &Stores, plan: &SoakPlan) -> Result<()> {
    ensure!(
        plan.length >= 6 * MINUTE,
        "--hours must be at least 0.1: below that retention cannot tell what is in use"
    );
    ensure!(
        !testbed.is_external(),
        "the soak kills servers and reads Kafka's disk: it needs the test-bed's own servers"
    );
    refuse_many_collections(stores).await?;
    let output = match &plan.output {
        Some(output) => output.clone(),
        None => target_directory().await?.join("soak"),
    };
    println!("samples, picture and table: {}", output.display());
    let journal = Journal::create(output)?;
    let soak = Box::pin(Soak::open(testbed, scene, stores, journal)).await?;
    let is_over = AtomicBool::new(false);
    let (driven, sampled) = tokio::join!(
        async {
            let driven = Box::pin(soak.drive(plan)).await;
            is_over.store(true, Ordering::Relaxed);
            driven
        },
        Box::pin(soak.watch(&is_over)),
    );
    println!("{}", soak.journal().draw()?);
    let (sent, faults) = driven?;
    sampled?;
    soak.judge(&sent, faults).await
}

impl<'a> Soak<'a> {
    async fn open(
        testbed: &'a Testbed,
        scene: &'a Scene,
        stores: &Stores,
        journal: Journal,
    ) -> Result<Self> {
        let id = random_id();
        let name = format!("soak{}", &id[..6]);
        let topic = format!("{name}-tasks");
        let stores = Stores {
            mongodb: stores.mongodb.client().database(&name),
            ..stores.clone()
        };
        let object = pipeline(scene, &name, &topic, "Balanced");
        scene.apply(&object).await?;
        let ready = scene.wait_condition(&name, "Ready", "True", "", 3 * MINUTE);
        ready.await?;
        Ok(Self {
            cli: WorkerCli::of_pipeline(scene, testbed, &name).await?,
            user: User::with_knowledge_base(&stores, &topic, &name, &id).await?,
            idle: User::with_knowledge_base(&stores, &topic, "idle", &id).await?,
            start: Instant::now(),
            sent: AtomicUsize::new(0),
            journal: Mutex::new(journal),
            testbed,
            scene,
            stores,
            name,
            topic,
        })
    }

    fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn second(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    fn collection_of(&self, user: &User) -> String {
        format!("{}_{}", self.name, user.knowledge_base.replace('-', "_"))
    }

    /// Takes samples until it is over.
    async fn watch(&self, is_over: &AtomicBool) -> Result<()> {
        let topics = ["", ".ranges", ".dlq"].map(|kind| format!("{}{kind}", self.topic));
        let subject = Subject {
            scene: self.scene,
            pipeline: &self.name,
            knowledge_base: &self.user.knowledge_base,
            stores: &self.stores,
            logs: self.testbed.settings().data("kafka").join("log"),
            topics: topics.to_vec(),
        };
        let mut workers = Vec::new();
        for number in 0_usize.. {
            let mut renderer = None;
            // Most renderers end before a sample would see them.
            for _ in 0..SAMPLE_SECONDS {
                tokio::time::sleep(Duration::from_secs(1)).await;
                renderer = renderer.max(largest_renderer(&workers));
                if is_over.load(Ordering::Relaxed) {
                    return Ok(());
                }
            }
            let mut sample = subject.sample(number.is_multiple_of(STORES_EVERY)).await;
            sample.second = self.second();
            sample.sent = self.sent.load(Ordering::Relaxed);
            sample.renderer = renderer;
            workers.clone_from(&sample.workers);
            let mut journal = self.journal();
            journal.add(sample)?;
            if number % DRAWN_EVERY == DRAWN_EVERY - 1 {
                journal.draw()?;
            }
        }
        Ok(())
    }

    /// Sends documents and causes the events. Returns what was sent, and the faults by kind.
    async fn drive(&self, plan: &SoakPlan) -> Result<(Vec<Sent>, BTreeMap<String, usize>)> {
        let mut random = fastrand::Rng::with_seed(plan.seed);
        let mut sent = self.one_of_each_kind().await?;
        let rows: Vec<Option<u64>> = sent.iter().map(|document| document.rows).collect();
        // What is rechecked is in use; and what retention sees for the first time.
        pages::settled(&self.stores, &self.idle, &self.topic, 10 * MINUTE).await?;
        self.cli.run(&["retain"]).await?;
        let begin = Instant::now();
        let mut events = schedule(plan.length, &mut random).into_iter().peekable();
        let mut faults = BTreeMap::new();
        while begin.elapsed() < plan.length || events.peek().is_some() {
            let second = begin.elapsed().as_secs_f64();
            if let Some((_, event)) = events.next_if(|(due, _)| *due <= second) {
                let seen = Box::pin(self.cause(event, begin, &mut sent, &mut random)).await;
                let seen = seen.with_context(|| event.to_string())?;
                let text = format!("{event}: {seen}");
                self.journal().event(self.second(), &text)?;
                *faults.entry(event.to_string()).or_default() += 1;
            } else if !is_quiet(second, plan.length) {
                self.step(&mut sent, &rows, &mut random).await?;
            }
            self.sent.store(sent.len(), Ordering::Relaxed);
            tokio::time::sleep(PAUSE).await;
        }
        pages::settled(&self.stores, &self.user, &self.topic, SETTLE_LIMIT).await?;
        self.wait_for_index().await?;
        Ok((sent, faults))
    }

    /// Sends a document of each kind and one of the other knowledge base. How many rows each has is
    /// known afterwards: a long text has several.
    async fn one_of_each_kind(&self) -> Result<Vec<Sent>> {
        let mut sent = Vec::new();
        for ((name, content), pages) in &KINDS {
            let expected = Expected::Pages(*pages);
            sent.push(send(&self.user, name, content.to_vec(), expected).await?);
        }
        let idle = self.idle.upload_bytes("idle.pdf", short_document(0, 2));
        let mut uploads: Vec<Upload> = sent.iter().map(|it| it.upload.clone()).collect();
        uploads.push(idle.await?);
        self.wait_for(&uploads).await?;
        let base = &self.user.knowledge_base;
        let audit = Audit::of(&self.stores, base, &self.collection_of(&self.user)).await?;
        for document in &mut sent {
            document.rows = audit.rows.get(&document.upload.file_id).copied();
        }
        Ok(sent)
    }

    async fn wait_for(&self, uploads: &[Upload]) -> Result<()> {
        eventually("the documents to be searchable", 10 * MINUTE, async || {
            Ok(completed(&self.stores, uploads).await?.then_some(()))
        })
        .await
    }

    /// A document comes; now and then one changes; the oldest goes when there are enough.
    async fn step(
        &self,
        sent: &mut Vec<Sent>,
        rows: &[Option<u64>],
        random: &mut fastrand::Rng,
    ) -> Result<()> {
        if random.bool() {
            let kind = random.usize(0..KINDS.len());
            let ((name, content), pages) = KINDS[kind];
            let expected = Expected::Pages(pages);
            let mut document = send(&self.user, name, content.to_vec(), expected).await?;
            document.rows = rows[kind];
            sent.push(document);
        } else {
            send_more(&self.user, sent, 1, random).await?;
        }
        let number = sent.len();
        let mut there: Vec<&mut Sent> = sent
            .iter_mut()
            .filter(|document| matches!(document.expected, Expected::Pages(_)))
            .collect();
        let old = there.len().saturating_sub(MOST_DOCUMENTS);
        for document in there.drain(..old) {
            document.request_deletion(&self.user).await?;
            document.delete();
        }
        if random.u32(0..10) == 0
            && let Some(document) = random.choice(there)
        {
            document.request_deletion(&self.user).await?;
            let kind = Path::new(&document.upload.filename).extension();
            if kind.is_some_and(|kind| kind == "pdf") {
                let pages = random.usize(1..6);
                document.change(short_document(number, pages), pages as u64);
            }
            document.upload_again(&self.user).await?;
        }
        Ok(())
    }

    /// Waits until the collection has the index of the rebuild.
    async fn wait_for_index(&self) -> Result<()> {
        let done = self
            .scene
            .wait_status(&self.name, "no drift", 20 * MINUTE, |status| {
                let index = status.index.as_ref();
                index.is_some_and(|index| index.drifted == 0 && index.rebuilding == 0)
            });
        done.await?;
        let collection = self.collection_of(&self.user);
        let m = milvus_admin::index_m(&self.stores.milvus, &collection).await?;
        ensure!(m == "32", "the index of {collection} has M {m}, not 32");
        Ok(())
    }

    /// Counts everything, and removes it if nothing is wrong.
    async fn judge(&self, sent: &[Sent], faults: BTreeMap<String, usize>) -> Result<()> {
        let collection = self.collection_of(&self.user);
        let (stores, user) = (&self.stores, &self.user);
        let totals = Box::pin(count(stores, user, &self.topic, &collection, sent, faults)).await?;
        println!("{totals}");
        ensure!(totals.is_clean(), "something was lost or stored twice");
        milvus_admin::drop(&stores.milvus, &collection).await?;
        Ok(stores.mongodb.drop().await?)
    }
}

/// The pipeline with an index of this preset. Its workers stop when nothing arrives.
fn pipeline(scene: &Scene, name: &str, topic: &str, preset: &str) -> Value {
    let patch = json!({"spec": {
        "documents": {"rangePages": RANGE_PAGES},
        "scaling": {"drainTargetSeconds": 30, "scaleDownDelaySeconds": 30},
        "stores": {
            "mongodb": {"database": name},
            "milvus": {
                "collection": format!("{name}_{{knowledge_db_id}}"),
                "readers": "Own",
                "index": {"preset": preset},
                "onIndexDrift": "RebuildBeside",
                "retention": {"action": "Delete", "noticeDays": 0},
            },
        },
    }});
    scene.pipeline(name, topic, &patch)
}
