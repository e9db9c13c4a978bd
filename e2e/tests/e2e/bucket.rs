//! A bucket as the source: its objects are searchable, and nothing else, whatever the notifications
//! say and in whatever order they come.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::TryStreamExt;
use layra_e2e::audit::Audit;
use layra_e2e::clients::{bucket, create_bucket};
use layra_e2e::cluster::eventually;
use layra_e2e::faults::fleet::Fleet;
use layra_e2e::notifications::{self, TOPIC};
use layra_e2e::stores::Stores;
use layra_e2e::worker_cli::WorkerCli;
use layra_e2e::{pdf, topics};
use mongodb::bson::{Document, doc};
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload};
use rdkafka::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde_json::{Value, json};

use crate::order::{configure, entry, paced};
use crate::scene::{Stage, on_stage};

const LIMIT: Duration = Duration::from_mins(2);

/// A pipeline with a bucket of its own.
struct Source<'a> {
    stage: &'a Stage,
    /// Of the pipeline's bucket.
    stores: Stores,
    bucket: String,
    topic: String,
}

impl<'a> Source<'a> {
    /// A pipeline whose workers the test starts itself.
    async fn open(stage: &'a Stage, topic: &str) -> Result<Self> {
        let server = &stage.testbed.endpoints().s3;
        let name = format!("{}-docs", stage.name);
        create_bucket(server, &name).await?;
        let source = Self {
            stage,
            stores: Stores {
                objects: Arc::new(bucket(server, &name)?),
                ..stage.stores.clone()
            },
            bucket: name,
            topic: topic.to_owned(),
        };
        stage.apply_until_ready(&source.patch()).await?;
        Ok(source)
    }

    fn patch(&self) -> Value {
        json!({"spec": {
            "source": {"kafka": {
                "format": "S3Event", "topic": self.topic, "consumerGroup": self.group(),
                "rangesTopic": self.ranges_topic(), "deadLetterTopic": self.dead_letter_topic(),
                "sessionTimeoutSeconds": 6,
            }},
            "documents": {"objectStore": {"bucket": self.bucket}, "rangePages": 2},
            "scaling": {"mode": "Manual", "replicas": 0},
        }})
    }

    fn group(&self) -> String {
        format!("{}-workers", self.stage.name)
    }

    fn ranges_topic(&self) -> String {
        format!("{}-bucket.ranges", self.stage.name)
    }

    fn dead_letter_topic(&self) -> String {
        format!("{}-bucket.dlq", self.stage.name)
    }

    async fn put(&self, key: &str, pages: &[&str]) -> Result<()> {
        let content = PutPayload::from(pdf::with_pages(pages));
        self.stores.objects.put(&Path::parse(key)?, content).await?;
        Ok(())
    }

    async fn remove(&self, key: &str) -> Result<()> {
        self.stores.objects.delete(&Path::parse(key)?).await?;
        Ok(())
    }

    async fn holds(&self, key: &str) -> Result<bool> {
        Ok(self.stores.objects.head(&Path::parse(key)?).await.is_ok())
    }

    /// The entries of `files` for an object.
    async fn files(&self, key: &str, knowledge_base: &str) -> Result<Vec<Document>> {
        let files = self.stores.mongodb.collection::<Document>("files");
        let filter = doc! { "minio_filename": key, "knowledge_db_id": knowledge_base };
        Ok(files.find(filter).await?.try_collect().await?)
    }

    /// Waits until exactly one document of an object is stored, with this number of pages. Returns
    /// its id.
    async fn wait_stored(&self, key: &str, knowledge_base: &str, pages: usize) -> Result<String> {
        let what = format!("{key} to be stored with {pages} pages");
        eventually(&what, LIMIT, async || {
            let files = self.files(key, knowledge_base).await?;
            let [file] = files.as_slice() else {
                return Ok(None);
            };
            let id = file.get_str("file_id")?;
            let entry = entry(self.stage, id).await?.context("an entry")?;
            let is_done = entry.get_str("state")? == "done";
            let stored = file.get_array("images")?.len();
            Ok((is_done && stored == pages).then(|| id.to_owned()))
        })
        .await
    }

    async fn wait_gone(&self, key: &str, knowledge_base: &str) -> Result<()> {
        eventually(&format!("{key} to be gone"), LIMIT, async || {
            let files = self.files(key, knowledge_base).await?;
            Ok(files.is_empty().then_some(()))
        })
        .await
    }

    /// Waits until the group has committed everything.
    async fn wait_until_processed(&self) -> Result<()> {
        let kafka = &self.stage.testbed.endpoints().kafka;
        let (group, all) = (self.group(), [self.topic.clone(), self.ranges_topic()]);
        eventually("all messages to be processed", LIMIT, async || {
            Ok((topics::lag(kafka, &group, &all)? == 0).then_some(()))
        })
        .await
    }

    async fn audit(&self, knowledge_base: &str) -> Result<Audit> {
        let collection = format!("colqwen{}", knowledge_base.replace('-', "_"));
        let audit = Audit::of(&self.stores, knowledge_base, &collection).await?;
        ensure!(audit.violations.is_empty(), "{:#?}", audit.violations);
        Ok(audit)
    }

    /// No message failed, and no document is an object that workers have written.
    async fn ensure_only_documents(&self) -> Result<()> {
        let letters = self.stage.records(&self.dead_letter_topic())?;
        ensure!(letters.is_empty(), "{letters:#?}");
        let ledger = self
            .stores
            .mongodb
            .collection::<Document>("ingestion_ledger");
        let own = doc! { "object": { "$regex": format!("^{}/s3_", self.bucket) } };
        let own = ledger.find_one(own).await?;
        ensure!(own.is_none(), "{own:#?}");
        Ok(())
    }
}

#[tokio::test]
async fn what_is_in_the_bucket_is_searchable_and_nothing_else() -> Result<()> {
    on_stage("bucket", async |stage| {
        let source = Source::open(stage, TOPIC).await?;
        let server = &stage.testbed.endpoints().s3;
        notifications::configure(server, &source.bucket).await?;
        // Pages take long enough to see what is stored meanwhile.
        let worker = paced(stage, "500").await?;
        configure(&worker, "batchPages", 1)?;
        let mut fleet = Fleet::start(&worker, 1)?;
        let base = stage.name.as_str();
        let key = format!("{base}/Jahr 2026/Müller + Söhne.pdf");
        let other = format!("{base}/other.pdf");

        // Written: the knowledge base is created, and the object searchable.
        source.put(&key, &["One."]).await?;
        source.put(&other, &["Another."]).await?;
        let stored = source.wait_stored(&key, base, 1).await;
        if stored.is_err() {
            eprintln!("{}", fleet.logs());
        }
        let first = stored?;
        source.wait_stored(&other, base, 1).await?;

        // Overwritten: the old pages stay until all of the new ones are stored.
        source.put(&key, &["A new page."; 10]).await?;
        eventually("old and new pages side by side", LIMIT, async || {
            let files = source.files(&key, base).await?;
            let has_old = files
                .iter()
                .any(|file| file.get_str("file_id").is_ok_and(|id| id == first));
            let is_begun =
                |file: &Document| file.get_array("images").is_ok_and(|it| !it.is_empty());
            Ok((has_old && files.len() == 2 && files.iter().all(is_begun)).then_some(()))
        })
        .await?;
        let second = source.wait_stored(&key, base, 10).await?;
        ensure!(first != second, "another document");
        source.wait_until_processed().await?;
        let audit = source.audit(base).await?;
        ensure!(audit.total_pages() == 11, "{audit:?}");
        ensure!(audit.pages.get(&second) == Some(&10), "{audit:?}");
        ensure!(source.holds(&key).await?, "the object");

        // Removed: it goes, and nothing else.
        source.remove(&key).await?;
        source.wait_gone(&key, base).await?;
        source.wait_until_processed().await?;
        let audit = source.audit(base).await?;
        ensure!(audit.total_pages() == 1, "{audit:?}");
        ensure!(source.holds(&other).await?, "the other object");
        let written = fleet.count_logged("own_object");
        ensure!(written > 0, "workers' own objects have notifications, too");
        source.ensure_only_documents().await?;
        fleet.stop().await
    })
    .await
}

#[tokio::test]
async fn the_bucket_decides_whatever_order_notifications_have() -> Result<()> {
    on_stage("events", async |stage| {
        let source = Source::open(stage, &stage.topic()).await?;
        let producer: FutureProducer = ClientConfig::new()
            .set("bootstrap.servers", &stage.testbed.endpoints().kafka)
            .create()?;
        let send = async |partition: i32, event: &str, keys: &[&str]| -> Result<()> {
            let value = notifications::message(event, &source.bucket, keys);
            let record: FutureRecord<'_, str, str> = FutureRecord::to(&source.topic)
                .partition(partition)
                .payload(&value);
            let sent = producer.send(record, Duration::from_secs(20)).await;
            sent.map_err(|(error, _)| error)?;
            Ok(())
        };
        let (written, removed) = ("ObjectCreated:Put", "ObjectRemoved:Delete");
        let base = stage.name.as_str();
        let key = |name: &str| format!("{base}/{name}.pdf");
        let (kept, gone, both) = (key("kept"), key("gone"), key("both"));
        let worker = paced(stage, "300").await?;
        configure(&worker, "batchPages", 1)?;

        // A removal that comes late, one that overtakes what was written before, an object that is
        // not there any more, and a message about two objects.
        source.put(&kept, &["Kept."; 5]).await?;
        source.put(&both, &["Both."]).await?;
        send(0, written, &[&kept]).await?;
        send(1, removed, &[&kept]).await?;
        send(1, written, &[&kept]).await?;
        send(2, removed, &[&gone]).await?;
        send(2, written, &[&gone]).await?;
        send(3, written, &[&both, &gone]).await?;
        let mut fleet = Fleet::start(&worker, 2)?;
        let stored = source.wait_stored(&kept, base, 5).await;
        if stored.is_err() {
            eprintln!("{}", fleet.logs());
        }
        let first = stored?;
        source.wait_stored(&both, base, 1).await?;
        source.wait_until_processed().await?;
        ensure!(source.audit(base).await?.total_pages() == 6);

        // Overwritten twice while a worker dies; then everything is delivered once more.
        source.put(&kept, &["In between."; 4]).await?;
        send(0, written, &[&kept]).await?;
        source.put(&kept, &["At last."; 3]).await?;
        send(1, written, &[&kept]).await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        fleet.kill(0)?;
        fleet.restart_dead()?;
        send(2, written, &[&kept, &both]).await?;
        let last = source.wait_stored(&kept, base, 3).await?;
        ensure!(first != last, "another document");
        source.wait_until_processed().await?;
        ensure!(source.audit(base).await?.total_pages() == 4);

        // Somebody deletes the knowledge base: its objects stay, and what was sent before is void.
        let cli = WorkerCli::of_pipeline(&stage.scene, &stage.testbed, &stage.name).await?;
        cli.run(&["delete", "--knowledge-base", base]).await?;
        ensure!(source.holds(&kept).await? && source.holds(&both).await?);
        ensure!(source.files(&both, base).await?.is_empty());
        // A notification after that is a new request.
        send(3, written, &[&both]).await?;
        source.wait_stored(&both, base, 1).await?;
        source.wait_until_processed().await?;
        ensure!(source.audit(base).await?.total_pages() == 1);
        source.ensure_only_documents().await?;
        fleet.stop().await
    })
    .await
}
