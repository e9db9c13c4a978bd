//! The frame of all tests: one namespace with one operator, and functions that read the servers.

use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use futures::TryStreamExt;
use layra_e2e::audit::Audit;
use layra_e2e::cluster::{Scene, eventually};
use layra_e2e::layra::{Upload, User, random_id};
use layra_e2e::stores::Stores;
use layra_e2e::topics::{self, Record};
use layra_testbed::{Images, TOOK, Testbed};
use mongodb::bson::{Document, doc};
use object_store::ObjectStoreExt;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use redis::AsyncCommands;
use serde_json::Value;
use tokio::sync::{OnceCell, RwLock};

/// The namespace is created once per run; its operator serves all tests.
static OPENED: OnceCell<(Testbed, Images)> = OnceCell::const_new();

/// Tests run concurrently, each with its own topics, pipeline and users. A test that stops a server
/// or the operator runs alone.
static SERVERS: RwLock<()> = RwLock::const_new(());

/// Runs a test on its own stage, concurrently with others.
pub async fn on_stage(name: &str, test: impl AsyncFnOnce(&Stage) -> Result<()>) -> Result<()> {
    let _others = SERVERS.read().await;
    perform(name, test).await
}

/// Runs a test that would disturb others, or be disturbed by them.
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
    // Bypasses the test harness, which shows only the output of failed tests.
    let seconds = start.elapsed().as_secs_f64();
    writeln!(std::io::stdout(), "{TOOK}{seconds:6.1} s  {name}")?;
    result
}

/// With `LAYRA_E2E_NAMESPACE`, two test runs can share one test-bed.
fn namespace() -> String {
    let named = std::env::var("LAYRA_E2E_NAMESPACE");
    named.unwrap_or_else(|_| "e2e".to_owned())
}

/// The test-bed as one test uses it, with its own names.
pub struct Stage {
    pub testbed: Testbed,
    pub scene: Scene,
    pub stores: Stores,
    /// Name of the test's pipeline, and prefix of its topics.
    pub name: String,
}

impl Stage {
    /// For tests that need more stages than the one of [`on_stage`]; they must finish these
    /// themselves.
    pub async fn new(name: &str) -> Result<Self> {
        // Only once: otherwise a probe that a busy server answers late would restart the test-bed
        // during other tests.
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

    /// The object of the test's pipeline, changed by `patch`.
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
            .wait_condition(&self.name, "Ready", "True", "", Duration::from_mins(3))
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

    /// Waits until LAYRA's progress display shows `status` for every upload.
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

    /// Waits until the group has committed everything in its topics.
    pub async fn wait_until_processed(&self) -> Result<()> {
        let group = format!("{}-workers", self.topic());
        let topics = [self.topic(), format!("{}.ranges", self.topic())];
        eventually(
            "all tasks to be processed",
            Duration::from_mins(3),
            async || {
                let lag = topics::lag(self.kafka(), &group, &topics)?;
                Ok((lag == 0).then_some(()))
            },
        )
        .await
    }

    fn kafka(&self) -> &str {
        &self.testbed.endpoints().kafka
    }

    /// Number of partitions of a topic; 0 when it does not exist.
    pub fn partitions(&self, topic: &str) -> Result<usize> {
        Ok(topics::partitions(self.kafka(), topic)?.len())
    }

    pub async fn create_topic(&self, name: &str) -> Result<()> {
        let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
            .set("bootstrap.servers", self.kafka())
            .create()?;
        let topic = NewTopic::new(name, 1, TopicReplication::Fixed(1));
        for result in admin.create_topics(&[topic], &AdminOptions::new()).await? {
            result.map_err(|(name, code)| anyhow!("creating {name}: {code}"))?;
        }
        Ok(())
    }

    /// Keys and contents of the page images in the user's knowledge base.
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

    /// All records of a topic.
    pub fn records(&self, topic: &str) -> Result<Vec<Record>> {
        topics::records(self.kafka(), topic)
    }

    /// Deletes the pipeline. Prints the pods' logs if the test has failed.
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
