//! Counting, from the stores and the topics alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::TryStreamExt;
use mongodb::bson::{Document, doc};
use object_store::ObjectStore;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use super::Sent;
use crate::audit::Audit;
use crate::layra::User;
use crate::stores::Stores;

/// Longest wait for an answer of Kafka.
const REQUEST: Duration = Duration::from_secs(10);

/// What became of all documents.
#[derive(Debug, Default)]
pub struct Totals {
    /// Documents sent.
    pub documents: usize,
    /// Faults, by kind.
    pub faults: BTreeMap<String, usize>,
    /// Documents in the dead-letter topic, by reason.
    pub dead_letters: BTreeMap<String, usize>,
    /// Documents that are neither complete nor in the dead-letter topic.
    pub lost: usize,
    /// Pages or rows that are there more than once.
    pub duplicated: u64,
    /// Rows and objects that no document has.
    pub orphans: usize,
    /// Everything that is not as it should be, in words.
    pub violations: Vec<String>,
}

impl Totals {
    /// Faults of all kinds.
    #[must_use]
    pub fn kills(&self) -> usize {
        self.faults.values().sum()
    }

    /// Whether nothing was lost, doubled or left over.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.lost == 0 && self.duplicated == 0 && self.orphans == 0 && self.violations.is_empty()
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for violation in self.violations.iter().take(40) {
            writeln!(f, "violation: {violation}")?;
        }
        for (kind, count) in &self.faults {
            writeln!(f, "fault, {kind}: {count}")?;
        }
        for (reason, count) in &self.dead_letters {
            writeln!(f, "dead letter, {reason}: {count}")?;
        }
        let dead: usize = self.dead_letters.values().sum();
        write!(
            f,
            "documents={} kills={} dead_lettered={dead} lost={} duplicated={} orphans={}",
            self.documents,
            self.kills(),
            self.lost,
            self.duplicated,
            self.orphans
        )
    }
}

/// Reads everything and compares it with what was sent.
pub(super) async fn count(
    stores: &Stores,
    user: &User,
    topic: &str,
    sent: &[Sent],
    faults: BTreeMap<String, usize>,
) -> Result<Totals> {
    let mut totals = Totals {
        documents: sent.len(),
        faults,
        ..Totals::default()
    };
    let collection = format!("colqwen{}", user.knowledge_base.replace('-', "_"));
    let audit = Audit::of(stores, &user.knowledge_base, &collection).await?;
    let letters = dead_letters(stores, &format!("{topic}.dlq"))?;
    for reason in letters.values() {
        *totals.dead_letters.entry(reason.clone()).or_default() += 1;
    }
    let mut expected_rows = 0;
    for Sent { upload, pages } in sent {
        let file = &upload.file_id;
        // MongoDB knows a page that another store lacks.
        let incomplete = audit.violations.iter().any(|text| {
            text.starts_with(file) && (text.contains("not in Milvus") || text.contains("no object"))
        });
        let found = audit.pages.get(file).copied();
        match (pages, letters.get(file), found) {
            (Some(pages), None, Some(found)) if *pages == found => {
                expected_rows += pages;
                totals.lost += usize::from(incomplete);
            }
            (Some(pages), None, found) => {
                totals.lost += 1;
                totals.violations.push(format!(
                    "{file} has {} of {pages} pages and no dead letter",
                    found.unwrap_or_default()
                ));
            }
            (None, None, _) => {
                totals.lost += 1;
                totals
                    .violations
                    .push(format!("{file} cannot be processed and has no dead letter"));
            }
            (_, Some(reason), Some(_)) => {
                totals.orphans += 1;
                totals.violations.push(format!(
                    "{file} is a dead letter ({reason}) and in the stores"
                ));
            }
            (Some(_), Some(reason), None) => totals
                .violations
                .push(format!("{file} is sound and a dead letter: {reason}")),
            (None, Some(_), None) => {}
        }
    }
    // Every page of these documents is one row.
    totals.duplicated = audit.vectors.saturating_sub(expected_rows);
    let twice = audit
        .violations
        .iter()
        .filter(|text| text.contains("twice"));
    totals.duplicated += twice.count() as u64;
    let strays = audit
        .violations
        .iter()
        .filter(|text| text.contains("not in MongoDB"));
    totals.orphans += strays.count() + orphaned_objects(stores, user, sent).await?.len();
    totals.violations.extend(audit.violations);
    Ok(totals)
}

/// Objects of the user that are neither an original nor a page image that MongoDB knows.
async fn orphaned_objects(stores: &Stores, user: &User, sent: &[Sent]) -> Result<Vec<String>> {
    let mut known: BTreeSet<String> = sent.iter().map(|sent| sent.upload.key.clone()).collect();
    let files: Vec<Document> = stores
        .mongodb
        .collection::<Document>("files")
        .find(doc! { "knowledge_db_id": &user.knowledge_base })
        .await?
        .try_collect()
        .await?;
    for file in &files {
        for image in file.get_array("images").context("images")? {
            let image = image.as_document().context("an image")?;
            known.insert(image.get_str("minio_filename")?.to_owned());
        }
    }
    let prefix = format!("{}_", user.name);
    let objects: Vec<_> = stores.objects.list(None).try_collect().await?;
    Ok(objects
        .into_iter()
        .map(|object| object.location.to_string())
        .filter(|key| key.starts_with(&prefix) && !known.contains(key))
        .collect())
}

/// Reasons of the dead letters, by file.
fn dead_letters(stores: &Stores, topic: &str) -> Result<BTreeMap<String, String>> {
    let consumer = consumer(stores, "faults-reader")?;
    let mut assignment = TopicPartitionList::new();
    let mut expected = 0;
    for partition in partitions(&consumer, topic)? {
        let (low, high) = consumer.fetch_watermarks(topic, partition, REQUEST)?;
        assignment.add_partition_offset(topic, partition, Offset::Beginning)?;
        expected += high - low;
    }
    consumer.assign(&assignment)?;
    let mut letters = BTreeMap::new();
    for _ in 0..expected {
        let message = consumer.poll(REQUEST).context("a dead letter")??;
        let task: serde_json::Value =
            serde_json::from_slice(message.payload().unwrap_or_default())?;
        let file = task["file_meta"]["file_id"].as_str().context("file_id")?;
        let reason = message
            .headers()
            .into_iter()
            .flat_map(|headers| headers.iter())
            .find(|header| header.key == "layra-error-reason")
            .and_then(|header| header.value)
            .context("a reason")?;
        letters.insert(
            file.to_owned(),
            String::from_utf8_lossy(reason).into_owned(),
        );
    }
    Ok(letters)
}

/// Messages that the group has not committed.
pub(super) fn lag(stores: &Stores, group: &str, topics: &[String]) -> Result<i64> {
    let consumer = consumer(stores, group)?;
    let mut lag = 0;
    for topic in topics {
        let mut list = TopicPartitionList::new();
        for partition in partitions(&consumer, topic)? {
            list.add_partition(topic, partition);
        }
        let committed = consumer.committed_offsets(list, REQUEST)?;
        for element in committed.elements() {
            let (low, high) = consumer.fetch_watermarks(topic, element.partition(), REQUEST)?;
            let next = match element.offset() {
                Offset::Offset(offset) => offset.max(low),
                _ => low,
            };
            lag += high - next;
        }
    }
    Ok(lag)
}

/// Documents in work, or to be looked at once more.
pub(super) async fn restless(stores: &Stores, knowledge_base: &str) -> Result<u64> {
    let restless = doc! { "knowledge_db_id": knowledge_base, "$or": [
        { "state": "working" }, { "recheck_at": { "$ne": null } },
    ] };
    Ok(stores
        .mongodb
        .collection::<Document>("ingestion_ledger")
        .count_documents(restless)
        .await?)
}

fn partitions(consumer: &BaseConsumer, topic: &str) -> Result<Vec<i32>> {
    let metadata = consumer.fetch_metadata(Some(topic), REQUEST)?;
    let topic = metadata.topics().first().context("the topic")?;
    Ok(topic
        .partitions()
        .iter()
        .map(rdkafka::metadata::MetadataPartition::id)
        .collect())
}

/// A client that never joins the group.
fn consumer(stores: &Stores, group: &str) -> Result<BaseConsumer> {
    Ok(ClientConfig::new()
        .set("bootstrap.servers", &stores.endpoints.kafka)
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .create()?)
}
