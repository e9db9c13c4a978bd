//! Restores an archive: MongoDB's documents that are missing, and the rows of each file that the
//! collection does not have exactly once. Run again after a kill, it goes on.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use layra_crds::MilvusSpec;
use mongodb::bson::{DateTime, Document};
use serde::Serialize;

use super::choose::{File, comes_back};
use super::manifest::{self, Content, Manifest, Part};
use super::write::{MANIFEST, documents_in};
use super::{bucket, busy, check_not_rebuilt, refused, rows};
use crate::assembly::Common;
use crate::runtime::failure::Failure;
use crate::stores::Stores;
use crate::stores::archives::{ArchiveState, Record};
use crate::stores::milvus::{Choice, Pages, Vectors};
use crate::stores::objects::Objects;

/// Files that are looked up in one request.
const AT_ONCE: usize = 100;
/// Milvus' keys are positive.
const BEFORE_ALL: i64 = -1;

/// What was restored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Restored {
    pub(crate) knowledge_base: String,
    /// Files whose rows are in the collection again.
    pub(crate) files: usize,
    /// Files of the archive that were deleted or ingested again since.
    pub(crate) skipped: usize,
    /// Rows that this call inserted.
    pub(crate) inserted: u64,
}

/// Restores the collection of a knowledge base.
pub(crate) async fn restore(common: &Common, id: &str) -> Result<Restored, Failure> {
    let stores = common.stores().await?;
    let Some(before) = stores.archives.find(id).await? else {
        return Err(refused(&format!("knowledge base {id} is not archived")));
    };
    match before.state {
        ArchiveState::Archiving => {
            return Err(refused(&format!(
                "the archive of knowledge base {id} is not complete, and its collection is whole"
            )));
        }
        ArchiveState::Restored => {
            return Ok(Restored {
                knowledge_base: id.to_owned(),
                ..Restored::default()
            });
        }
        _ if before.is_held(DateTime::now()) => return Err(busy(id)),
        ArchiveState::Archived | ArchiveState::Restoring => {}
    }
    check_not_rebuilt(&stores, &stores.collection_of(id)).await?;
    let record = Record {
        state: ArchiveState::Restoring,
        ..before.clone()
    };
    let record = stores.archives.take(Some(&before), &record).await?;
    let work = Box::pin(bring_back(common, &stores, &record));
    match stores.archives.while_held(&record, work).await {
        Ok(restored) => {
            let released = stores.archives.release(&record, ArchiveState::Restored);
            released.await.map(|()| restored)
        }
        Err(failure) => {
            let released = stores.archives.release(&record, ArchiveState::Restoring);
            if let Err(failure) = released.await {
                tracing::warn!(%failure, "the record of the archive is released in two minutes");
            }
            Err(failure)
        }
    }
}

async fn bring_back(
    common: &Common,
    stores: &Stores,
    record: &Record,
) -> Result<Restored, Failure> {
    let archive = Archive::open(stores, record).await?;
    let id = &record.knowledge_base;
    // Again: one may have begun before it could see the record.
    check_not_rebuilt(stores, &stores.collection_of(id)).await?;
    let has_knowledge_base = stores.documents.has_knowledge_base(id).await?;
    let mut wanted = archive.wanted(stores, has_knowledge_base).await?;
    // Where the knowledge base exists, the documents of all wanted files do. One that was deleted
    // since is not entered again.
    let bases = if has_knowledge_base {
        Vec::new()
    } else {
        archive.documents(stores, &wanted).await?
    };

    // The collection gets the model that it had. One of another model is refused.
    let model = archive.manifest.model.clone();
    let vectors = common.vectors(archive.manifest.dimensions).await?;
    let vectors = vectors.of_model(stores.documents.database(), model);
    let spec: &MilvusSpec = &stores.milvus;
    let collection = spec.collection_of(id);
    vectors.ensure_collection(&collection).await?;
    let missing = archive.missing(&vectors, &collection, &wanted).await?;
    let inserted = archive.insert(&vectors, &collection, &missing).await?;
    // What was deleted while its rows were inserted does not stay. A later deletion finds them.
    let still_wanted = archive.wanted(stores, has_knowledge_base).await?;
    for file_id in wanted.difference(&still_wanted) {
        vectors.delete_file(&collection, file_id).await?;
    }
    wanted = still_wanted;
    let skipped = archive.manifest.files.len() - wanted.len();
    archive.verify(&vectors, &collection, &wanted).await?;
    // Last, so that a restore that was killed still finds it missing.
    for base in bases {
        stores.documents.enter_raw_knowledge_base(&base).await?;
    }
    Ok(Restored {
        knowledge_base: id.clone(),
        files: wanted.len(),
        skipped,
        inserted,
    })
}

pub(super) struct Archive<'a> {
    objects: &'a Objects,
    place: &'a str,
    archived_at: i64,
    pub(super) manifest: Manifest,
}

impl<'a> Archive<'a> {
    pub(super) async fn open(stores: &'a Stores, record: &'a Record) -> Result<Self, Failure> {
        let objects = bucket(stores, record)?;
        let bytes = objects.get(&format!("{}/{MANIFEST}", record.place)).await?;
        let manifest = Manifest::parse(&bytes, &record.manifest).map_err(|why| refused(&why))?;
        let archived_at = record.archived_at.unwrap_or(record.started_at);
        Ok(Self {
            objects,
            place: &record.place,
            archived_at: archived_at.timestamp_millis(),
            manifest,
        })
    }

    async fn read(&self, part: &Part) -> Result<Bytes, Failure> {
        let key = format!("{}/{}", self.place, part.name);
        let bytes = self.objects.get(&key).await?;
        if part.is(&bytes) {
            Ok(bytes)
        } else {
            Err(refused(&format!("object {key} is damaged")))
        }
    }

    /// The files that come back.
    async fn wanted(
        &self,
        stores: &Stores,
        has_knowledge_base: bool,
    ) -> Result<BTreeSet<&str>, Failure> {
        let all: Vec<&str> = self.manifest.files.keys().map(String::as_str).collect();
        let mut wanted = BTreeSet::new();
        for chunk in all.chunks(AT_ONCE) {
            let ids = chunk.iter().map(|id| (*id).to_owned()).collect();
            let found = stores.documents.stored_files(ids).await?;
            let documents: BTreeSet<String> = found.into_iter().map(|(id, _)| id).collect();
            let entries = stores.ledger.find_all(chunk).await?;
            for file_id in chunk {
                let entry = entries.iter().find(|entry| entry.file_id == **file_id);
                let file = File {
                    has_document: documents.contains(*file_id),
                    has_knowledge_base,
                    entry: entry.map(|entry| (entry.state, entry.updated_at.timestamp_millis())),
                };
                if comes_back(file, self.archived_at) {
                    wanted.insert(*file_id);
                }
            }
        }
        Ok(wanted)
    }

    /// Enters the documents of the files that come back. Returns the knowledge base's own.
    async fn documents(
        &self,
        stores: &Stores,
        wanted: &BTreeSet<&str>,
    ) -> Result<Vec<Document>, Failure> {
        let mut bases = Vec::new();
        for part in &self.manifest.documents {
            let lines = self.read(part).await?;
            let documents =
                documents_in(&lines).map_err(|why| refused(&format!("{}: {why}", part.name)))?;
            for document in documents {
                match document.get_str("file_id") {
                    Ok(file_id) if wanted.contains(file_id) => {
                        stores.documents.enter_raw_file(&document).await?;
                    }
                    Ok(_) => {}
                    Err(_) => bases.push(document),
                }
            }
        }
        Ok(bases)
    }

    /// The files whose rows must be inserted. What an earlier call has inserted of them is removed.
    async fn missing<'b>(
        &self,
        vectors: &Vectors,
        collection: &str,
        wanted: &BTreeSet<&'b str>,
    ) -> Result<BTreeSet<&'b str>, Failure> {
        let found = contents(vectors, collection, self.manifest.dimensions).await?;
        let mut missing = BTreeSet::new();
        for file_id in wanted {
            let now = found.get(*file_id);
            if now == self.manifest.files.get(*file_id) {
                continue;
            }
            if now.is_some() {
                vectors.delete_file(collection, file_id).await?;
            }
            missing.insert(*file_id);
        }
        Ok(missing)
    }

    async fn insert(
        &self,
        vectors: &Vectors,
        collection: &str,
        missing: &BTreeSet<&str>,
    ) -> Result<u64, Failure> {
        let mut inserted = 0;
        if missing.is_empty() {
            return Ok(0);
        }
        for part in &self.manifest.vectors {
            let file = self.read(part).await?;
            let mut rows =
                rows::decode(file).map_err(|error| refused(&format!("{}: {error}", part.name)))?;
            rows.retain(|row| missing.contains(row.file_id.as_str()));
            vectors.insert_rows(collection, &rows).await?;
            inserted += u64::try_from(rows.len()).unwrap_or(u64::MAX);
        }
        Ok(inserted)
    }

    /// Fails if the collection does not hold each file as it was.
    async fn verify(
        &self,
        vectors: &Vectors,
        collection: &str,
        wanted: &BTreeSet<&str>,
    ) -> Result<(), Failure> {
        let found = contents(vectors, collection, self.manifest.dimensions).await?;
        let is_whole = |id: &&&str| found.get(**id) == self.manifest.files.get(**id);
        let whole = wanted.iter().filter(is_whole).count();
        if whole == wanted.len() {
            return Ok(());
        }
        let wrong = wanted.len() - whole;
        Err(refused(&format!(
            "collection {collection} does not hold {wrong} files as they were: run the command \
             again"
        )))
    }
}

/// What a collection holds of each file.
async fn contents(
    vectors: &Vectors,
    collection: &str,
    dimensions: usize,
) -> Result<BTreeMap<String, Content>, Failure> {
    let mut files = BTreeMap::new();
    let mut last = BEFORE_ALL;
    let pages = Pages::new(dimensions, false);
    loop {
        let rows = vectors
            .rows_after(collection, Choice::All, last, pages)
            .await?;
        let Some(row) = rows.last() else {
            return Ok(files);
        };
        last = row.pk;
        manifest::add(&mut files, &rows);
    }
}
