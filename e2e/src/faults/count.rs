//! Counts the results of a run in the stores and the topics, without asking the worker.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use anyhow::{Context, Result};
use futures::TryStreamExt;
use mongodb::bson::{Document, doc};
use object_store::ObjectStore;

use super::documents::{Expected, Sent};
use crate::audit::Audit;
use crate::layra::User;
use crate::stores::Stores;
use crate::topics::records;

/// The results of a run.
#[derive(Debug, Default)]
pub struct Totals {
    /// Documents sent.
    pub documents: usize,
    /// Injected faults, by kind.
    pub faults: BTreeMap<String, usize>,
    /// Documents in the dead-letter topic, by reason.
    pub dead_letters: BTreeMap<String, usize>,
    /// Documents that are neither complete nor dead-lettered.
    pub lost: usize,
    /// Pages or rows that exist more than once.
    pub duplicated: u64,
    /// Rows and objects that belong to no document.
    pub orphans: usize,
    /// Documents with a dead letter that could be processed or were deleted.
    pub wrong_letters: usize,
    /// Originals that are gone although nobody deleted their document.
    pub originals_lost: usize,
    /// Every broken invariant, in words.
    pub violations: Vec<String>,
}

impl Totals {
    /// Faults of all kinds.
    #[must_use]
    pub fn kills(&self) -> usize {
        self.faults.values().sum()
    }

    /// Whether nothing is lost, duplicated, orphaned or wrongly rejected.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        let counts = [
            self.lost,
            self.orphans,
            self.wrong_letters,
            self.originals_lost,
        ];
        counts == [0; 4] && self.duplicated == 0 && self.violations.is_empty()
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
            "documents={} kills={} dead_lettered={dead} lost={} duplicated={} orphans={} \
             wrong_letters={} originals_lost={}",
            self.documents,
            self.kills(),
            self.lost,
            self.duplicated,
            self.orphans,
            self.wrong_letters,
            self.originals_lost
        )
    }
}

/// Reads the stores and topics and compares them with what was sent.
pub(crate) async fn count(
    stores: &Stores,
    user: &User,
    topic: &str,
    collection: &str,
    sent: &[Sent],
    faults: BTreeMap<String, usize>,
) -> Result<Totals> {
    let mut totals = Totals {
        documents: sent.len(),
        faults,
        ..Totals::default()
    };
    let audit = Audit::of(stores, &user.knowledge_base, collection).await?;
    let letters = dead_letters(stores, &format!("{topic}.dlq"))?;
    for reason in letters.values() {
        *totals.dead_letters.entry(reason.clone()).or_default() += 1;
    }
    for document in sent {
        let Sent {
            upload, expected, ..
        } = document;
        let file = &upload.file_id;
        // MongoDB lists a page that another store lacks.
        let incomplete = audit.violations.iter().any(|text| {
            text.starts_with(file) && (text.contains("not in Milvus") || text.contains("no object"))
        });
        let found = audit.pages.get(file).copied();
        match (expected, letters.get(file), found) {
            (Expected::Pages(pages), None, Some(found)) if *pages == found => {
                let wanted = document.rows.unwrap_or(*pages);
                let rows = audit.rows.get(file).copied().unwrap_or_default();
                if rows != wanted {
                    totals
                        .violations
                        .push(format!("{file} has {rows} rows in Milvus, not {wanted}"));
                }
                totals.duplicated += rows.saturating_sub(wanted);
                totals.lost += usize::from(incomplete || rows < wanted);
            }
            (Expected::Pages(pages), None, found) => {
                totals.lost += 1;
                totals.violations.push(format!(
                    "{file} has {} of {pages} pages and no dead letter",
                    found.unwrap_or_default()
                ));
            }
            (Expected::DeadLetter, None, _) => {
                totals.lost += 1;
                totals.violations.push(format!(
                    "{file} ({}) cannot be processed and has no dead letter",
                    upload.filename
                ));
            }
            (Expected::Nothing, None, Some(found)) => {
                totals.orphans += 1;
                totals
                    .violations
                    .push(format!("{file} was deleted and has {found} pages"));
            }
            (_, Some(reason), Some(_)) => {
                totals.orphans += 1;
                totals.violations.push(format!(
                    "{file} is dead-lettered ({reason}) and also in the stores"
                ));
            }
            (Expected::Pages(_) | Expected::Nothing, Some(reason), None) => {
                totals.wrong_letters += 1;
                totals.violations.push(format!(
                    "{file} could be processed, or was deleted, but has a dead letter: {reason}"
                ));
            }
            (Expected::DeadLetter, Some(_), None) | (Expected::Nothing, None, None) => {}
        }
    }
    let twice = audit
        .violations
        .iter()
        .filter(|text| text.contains("twice"));
    totals.duplicated += twice.count() as u64;
    let orphans = audit
        .violations
        .iter()
        .filter(|text| text.contains("not in MongoDB"));
    totals.orphans += orphans.count();
    totals.violations.extend(audit.violations);
    let objects = objects(stores, user).await?;
    for orphan in orphaned_objects(stores, user, sent, &objects).await? {
        totals.orphans += 1;
        totals
            .violations
            .push(format!("{orphan} belongs to no document"));
    }
    for Sent { upload, .. } in sent.iter().filter(|sent| !sent.is_deleted()) {
        if !objects.contains(&upload.key) {
            totals.originals_lost += 1;
            totals.violations.push(format!(
                "the original {} is gone and nobody deleted its document",
                upload.key
            ));
        }
    }
    Ok(totals)
}

/// Keys of the user's objects.
async fn objects(stores: &Stores, user: &User) -> Result<BTreeSet<String>> {
    let prefix = format!("{}_", user.name);
    let objects: Vec<_> = stores.objects.list(None).try_collect().await?;
    let keys = objects
        .into_iter()
        .map(|object| object.location.to_string());
    Ok(keys.filter(|key| key.starts_with(&prefix)).collect())
}

/// Objects that are neither an original nor a page image that MongoDB lists.
async fn orphaned_objects(
    stores: &Stores,
    user: &User,
    sent: &[Sent],
    objects: &BTreeSet<String>,
) -> Result<Vec<String>> {
    let mut known: BTreeSet<String> = sent.iter().flat_map(Sent::known_keys).collect();
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
    Ok(objects.difference(&known).cloned().collect())
}

/// Reasons of the dead letters, by file.
fn dead_letters(stores: &Stores, topic: &str) -> Result<BTreeMap<String, String>> {
    let mut letters = BTreeMap::new();
    for record in records(&stores.endpoints.kafka, topic)? {
        let task: serde_json::Value = serde_json::from_str(&record.value)?;
        let file = task["file_meta"]["file_id"].as_str().context("file_id")?;
        let reason = record.header("layra-error-reason").context("a reason")?;
        letters.insert(file.to_owned(), reason.to_owned());
    }
    Ok(letters)
}

/// Documents in progress, or due for a recheck.
pub(super) async fn unfinished(stores: &Stores, knowledge_base: &str) -> Result<u64> {
    let unfinished = doc! { "knowledge_db_id": knowledge_base, "$or": [
        { "state": "working" }, { "recheck_at": { "$ne": null } },
    ] };
    Ok(stores
        .mongodb
        .collection::<Document>("ingestion_ledger")
        .count_documents(unfinished)
        .await?)
}
