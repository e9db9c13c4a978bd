//! LAYRA's side of the contract: what its API does when a user uploads documents.
//!
//! It creates the knowledge base, uploads the original to the bucket, initialises the progress
//! display in Redis and sends one task per document to Kafka.

use std::path::Path;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use mongodb::bson::{DateTime, doc};
use object_store::{ObjectStoreExt, PutPayload};
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use redis::AsyncCommands;
use serde_json::json;

use crate::cluster::eventually;
use crate::stores::Stores;

/// A user of LAYRA with one knowledge base, whose tasks go to one topic.
pub struct User {
    stores: Stores,
    producer: FutureProducer,
    topic: String,
    /// The partitions to use in turn, and how many messages went there; by default Kafka's client
    /// chooses at random.
    partitions: Option<(i32, AtomicI32)>,
    /// Headers of its messages, beside LAYRA's own.
    headers: Vec<(String, String)>,
    /// The user's name.
    pub name: String,
    /// The knowledge base's id.
    pub knowledge_base: String,
}

/// An uploaded document.
#[derive(Clone, Debug)]
pub struct Upload {
    /// The task's id, by which the progress display finds it.
    pub task_id: String,
    /// The document's id in every store.
    pub file_id: String,
    /// The original's key in the bucket.
    pub key: String,
    /// File name of the document.
    pub filename: String,
}

impl User {
    /// Creates the knowledge base `{name}_{id}`.
    pub async fn with_knowledge_base(
        stores: &Stores,
        topic: &str,
        name: &str,
        id: &str,
    ) -> Result<Self> {
        let knowledge_base = format!("{name}_{id}");
        stores
            .mongodb
            .collection("knowledge_bases")
            .insert_one(doc! {
                "knowledge_base_id": &knowledge_base,
                "knowledge_base_name": id,
                "username": name,
                "files": [],
                "used_chat": [],
                "created_at": DateTime::now(),
                "last_modify_at": DateTime::now(),
                "is_delete": false,
            })
            .await
            .context("creating the knowledge base")?;
        let producer = ClientConfig::new()
            .set("bootstrap.servers", &stores.endpoints.kafka)
            .set("message.timeout.ms", "20000")
            .create()?;
        Ok(Self {
            stores: stores.clone(),
            producer,
            topic: topic.to_owned(),
            partitions: None,
            headers: Vec::new(),
            name: name.to_owned(),
            knowledge_base,
        })
    }

    /// Sends each message to the next of `count` partitions, for tests in which several workers
    /// must have work.
    #[must_use]
    pub fn using_partitions_in_turn(mut self, count: i32) -> Self {
        self.partitions = Some((count, AtomicI32::new(0)));
        self
    }

    /// Sends to the cluster that `client` connects to.
    pub fn sending_through(mut self, mut client: ClientConfig) -> Result<Self> {
        self.producer = client.set("message.timeout.ms", "20000").create()?;
        Ok(self)
    }

    /// Sends each message with one more header.
    #[must_use]
    pub fn sending_with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Uploads a local file and sends its task.
    pub async fn upload(&self, file: &Path) -> Result<Upload> {
        let name = file
            .file_name()
            .context("a file name")?
            .to_string_lossy()
            .into_owned();
        let content = std::fs::read(file).with_context(|| file.display().to_string())?;
        self.upload_bytes(&name, content).await
    }

    /// Uploads a document and sends its task.
    pub async fn upload_bytes(&self, filename: &str, content: Vec<u8>) -> Result<Upload> {
        let upload = self.put(filename, content).await?;
        self.send_task(&upload).await?;
        Ok(upload)
    }

    /// Uploads a document without sending its task.
    pub async fn put(&self, filename: &str, content: Vec<u8>) -> Result<Upload> {
        let id = random_id();
        let (stem, extension) = filename.rsplit_once('.').unwrap_or((filename, "bin"));
        let upload = Upload {
            task_id: format!("{}_task-{id}", self.name),
            file_id: format!("{}_{id}", self.name),
            key: format!(
                "{}_{stem}_{}.{extension}",
                self.name,
                &id.replace('-', "")[..24]
            ),
            filename: filename.to_owned(),
        };
        self.stores
            .objects
            .put(&upload.key.as_str().into(), PutPayload::from(content))
            .await
            .with_context(|| format!("uploading {filename}"))?;
        Ok(upload)
    }

    /// Initialises the progress display and sends the task to Kafka.
    pub async fn send_task(&self, upload: &Upload) -> Result<()> {
        self.announce(upload).await?;
        let task = json!({
            "task_id": upload.task_id,
            "username": self.name,
            "knowledge_db_id": self.knowledge_base,
            "file_meta": {
                "file_id": upload.file_id,
                "minio_filename": upload.key,
                "original_filename": upload.filename,
                "minio_url": format!("{}/minio-file/{}", self.stores.endpoints.s3.endpoint, upload.key),
            },
        });
        self.send(task.to_string().as_bytes()).await
    }

    /// Initialises the task's progress display. The first request after a restart of Redis fails.
    async fn announce(&self, upload: &Upload) -> Result<()> {
        let key = format!("task:{}", upload.task_id);
        let initial = [
            ("status", "processing"),
            ("total", "1"),
            ("processed", "0"),
            ("message", "Initializing file processing..."),
        ];
        eventually("Redis", Duration::from_secs(20), async || {
            let mut redis = self.stores.redis.clone();
            let () = redis.hset_multiple(&key, &initial).await?;
            let () = redis.expire(&key, 3600).await?;
            Ok(Some(()))
        })
        .await
    }

    /// Sends a message with this value.
    pub async fn send(&self, value: &[u8]) -> Result<()> {
        self.send_with_key(None, value).await
    }

    /// Sends a message with a key; LAYRA's own messages have none.
    pub async fn send_with_key(&self, key: Option<&str>, value: &[u8]) -> Result<()> {
        let mut headers = OwnedHeaders::new().insert(Header {
            key: "priority",
            value: Some("1"),
        });
        for (key, value) in &self.headers {
            let value = Some(value);
            headers = headers.insert(Header { key, value });
        }
        let mut record: FutureRecord<'_, str, [u8]> = FutureRecord::to(&self.topic)
            .payload(value)
            .headers(headers);
        record.key = key;
        if let Some((count, sent)) = &self.partitions {
            record.partition = Some(sent.fetch_add(1, Ordering::Relaxed) % count);
        }
        self.producer
            .send(record, Duration::from_secs(20))
            .await
            .map_err(|(error, _)| error)
            .context("sending the task")?;
        Ok(())
    }
}

/// A version-4 UUID.
#[must_use]
pub fn random_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// LAYRA's collection of a knowledge base.
pub(crate) fn collection_of(knowledge_base: &str) -> String {
    format!("colqwen{}", knowledge_base.replace('-', "_"))
}
