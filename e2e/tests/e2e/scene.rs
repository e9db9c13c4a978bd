//! What the tests share: one namespace with one operator, and helpers that read the servers.

use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use futures::TryStreamExt;
use layra_e2e::audit::Audit;
use layra_e2e::cluster::{Scene, eventually};
use layra_e2e::layra::{Upload, User, random_id};
use layra_e2e::stores::Stores;
use layra_testbed::{Images, TOOK, Testbed};
use mongodb::bson::{Document, doc};
use object_store::ObjectStoreExt;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use redis::AsyncCommands;
use serde_json::Value;
use tokio::sync::{OnceCell, RwLock};

/// The namespace is made once a test run; the operator in it serves all tests.
static OPENED: OnceCell<(Testbed, Images)> = OnceCell::const_new();

/// Tests run side by side, each with topics, a pipeline and users of its own; one that stops a
/// server or the operator runs alone.
static SERVERS: RwLock<()> = RwLock::const_new(());

/// Runs a test on a stage of its own, beside others.
pub async fn on_stage(name: &str, test: impl AsyncFnOnce(&Stage) -> Result<()>) -> Result<()> {
    let _others = SERVERS.read().await;
    perform(name, test).await
}

/// Runs a test that others would notice.
pub async fn alone_on_stage(
    name: &str,
    test: impl AsyncFnOnce(&Stage) -> Result<()>,
) -> Result<()> {
    let _alone = SERVERS.write().await;
    perform(name, test).await
}

async fn perform(name: &str, test: impl AsyncFnOnce(&Stage) -> Result<()>) -> Result<()> {
    let start = Instant::now();
    let stage = Stage::new(name).await?;
    let result = Box::pin(test(&stage)).await;
    let result = stage.finish(result).await;
    // Not caught by the test harness, which prints what only failed tests say.
    let seconds = start.elapsed().as_secs_f64();
    writeln!(std::io::stdout(), "{TOOK}{seconds:6.1} s  {name}")?;
    result
}

/// `LAYRA_E2E_NAMESPACE` lets two test runs share one test-bed.
fn namespace() -> String {
    let named = std::env::var("LAYRA_E2E_NAMESPACE");
    named.unwrap_or_else(|_| "e2e".to_owned())
}

/// A message as it was read back.
#[derive(Debug)]
pub struct Letter {
    pub partition: i32,
    pub key: Option<String>,
    pub value: String,
    pub headers: Vec<(String, String)>,
}

impl Letter {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }
}

/// One test's view of the test-bed, with names of its own.
pub struct Stage {
    pub testbed: Testbed,
    pub scene: Scene,
    pub stores: Stores,
    /// Name of the test's pipeline and prefix of its topics.
    pub name: String,
}

impl Stage {
    /// A test has one from [`on_stage`]; further ones are its own to finish.
    pub async fn new(name: &str) -> Result<Self> {
        // Once: a look at a busy server must not end in a new bed under the feet of other tests.
        let open = async || {
            let testbed = Testbed::obtain().await?;
            Stores::prepare(&testbed).await?;
            let images = testbed.images().await?;
            Scene::open(&testbed, &images, &namespace()).await?;
            anyhow::Ok((testbed, images))
        };
        let (testbed, images) = OPENED
            .get_or_try_init(open)
            .await
            .context("opening the namespace")?;
        let stores = Stores::connect(testbed.endpoints()).await?;
        let scene = Scene::attach(testbed, images, &namespace()).await?;
        let id = random_id();
        Ok(Self {
            testbed: testbed.clone(),
            scene,
            stores,
            name: format!("{name}-{}", &id[..6]),
        })
    }

    /// The test's pipeline, changed by `patch`.
    pub fn pipeline(&self, patch: &Value) -> Value {
        self.scene.pipeline(&self.name, &self.topic(), patch)
    }

    pub fn topic(&self) -> String {
        format!("{}-tasks", self.name)
    }

    /// Applies the pipeline and waits until it is Ready.
    pub async fn apply_until_ready(&self, patch: &Value) -> Result<()> {
        self.scene.apply(&self.pipeline(patch)).await?;
        self.scene
            .wait_condition(&self.name, "Ready", "True", "", Duration::from_secs(90))
            .await?;
        Ok(())
    }

    pub async fn user(&self) -> Result<User> {
        self.user_called("alice").await
    }

    pub async fn user_called(&self, name: &str) -> Result<User> {
        User::with_knowledge_base(&self.stores, &self.topic(), name, &random_id()).await
    }

    pub async fn audit(&self, user: &User) -> Result<Audit> {
        let collection = format!("colqwen{}", user.knowledge_base.replace('-', "_"));
        Audit::of(&self.stores, &user.knowledge_base, &collection).await
    }

    /// Waits until LAYRA's progress display says `status` for every upload.
    pub async fn wait_tasks(
        &self,
        uploads: &[Upload],
        status: &str,
        limit: Duration,
    ) -> Result<()> {
        eventually(
            &format!("{} tasks to be {status}", uploads.len()),
            limit,
            async || {
                let mut redis = self.stores.redis.clone();
                for upload in uploads {
                    let now: String = redis
                        .hget(format!("task:{}", upload.task_id), "status")
                        .await?;
                    if now != status {
                        return Ok(None);
                    }
                }
                Ok(Some(()))
            },
        )
        .await
    }

    /// Partitions of a topic, or none when it does not exist.
    pub fn partitions(&self, topic: &str) -> Result<Option<usize>> {
        let consumer = self.consumer()?;
        let metadata = consumer.fetch_metadata(None, Duration::from_secs(10))?;
        Ok(metadata
            .topics()
            .iter()
            .find(|t| t.name() == topic)
            .map(|t| t.partitions().len()))
    }

    pub async fn create_topic(&self, name: &str) -> Result<()> {
        let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
            .set("bootstrap.servers", &self.testbed.endpoints().kafka)
            .create()?;
        let topic = NewTopic::new(name, 1, TopicReplication::Fixed(1));
        for result in admin.create_topics(&[topic], &AdminOptions::new()).await? {
            result.map_err(|(name, code)| anyhow!("creating {name}: {code}"))?;
        }
        Ok(())
    }

    /// Keys and contents of the page images of a knowledge base.
    pub async fn page_images(&self, user: &User) -> Result<Vec<(String, Vec<u8>)>> {
        let files: Vec<Document> = self
            .stores
            .mongodb
            .collection::<Document>("files")
            .find(doc! { "knowledge_db_id": &user.knowledge_base })
            .await?
            .try_collect()
            .await?;
        let mut images = Vec::new();
        for image in files
            .iter()
            .flat_map(|file| file.get_array("images"))
            .flatten()
        {
            let image = image.as_document().context("an image")?;
            let key = image.get_str("minio_filename")?;
            let object = self.stores.objects.get(&key.into()).await?;
            images.push((key.to_owned(), object.bytes().await?.to_vec()));
        }
        Ok(images)
    }

    fn consumer(&self) -> Result<BaseConsumer> {
        Ok(ClientConfig::new()
            .set("bootstrap.servers", &self.testbed.endpoints().kafka)
            .set("group.id", "e2e-reader")
            .set("enable.auto.commit", "false")
            .create()?)
    }

    /// All messages of a topic.
    pub fn messages(&self, topic: &str) -> Result<Vec<Letter>> {
        let consumer = self.consumer()?;
        let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(10))?;
        let partitions = metadata.topics()[0].partitions();
        let mut assignment = TopicPartitionList::new();
        let mut expected = 0;
        for partition in partitions {
            assignment.add_partition_offset(topic, partition.id(), Offset::Beginning)?;
            let (low, high) =
                consumer.fetch_watermarks(topic, partition.id(), Duration::from_secs(10))?;
            expected += high - low;
        }
        consumer.assign(&assignment)?;
        let mut messages = Vec::new();
        while i64::try_from(messages.len())? < expected {
            let message = consumer
                .poll(Duration::from_secs(10))
                .context("a message within 10 s")??;
            messages.push(Letter {
                partition: message.partition(),
                key: message
                    .key()
                    .map(|key| String::from_utf8_lossy(key).into_owned()),
                value: String::from_utf8_lossy(message.payload().unwrap_or_default()).into_owned(),
                headers: headers(&message),
            });
        }
        Ok(messages)
    }

    /// Shows the pods' logs when a test fails, and deletes the pipeline in any case.
    pub async fn finish(self, result: Result<()>) -> Result<()> {
        if result.is_err() {
            eprintln!("{}", self.scene.logs().await);
        }
        let pipelines = self.scene.api::<layra_crds::IngestionPipeline>();
        let _ = pipelines
            .delete(&self.name, &kube::api::DeleteParams::default())
            .await;
        result
    }
}

fn headers(message: &BorrowedMessage<'_>) -> Vec<(String, String)> {
    message
        .headers()
        .into_iter()
        .flat_map(|headers| headers.iter())
        .map(|header| {
            let value = String::from_utf8_lossy(header.value.unwrap_or_default()).into_owned();
            (header.key.to_owned(), value)
        })
        .collect()
}
