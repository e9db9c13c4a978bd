//! The commands `archive` and `restore`: move the collection of a knowledge base to the object store
//! and back.
//!
//! Nothing is dropped before its copy was read back and the ledger shows that no document has
//! changed meanwhile. Each command can be killed at any moment and run again: see
//! `docs/decisions/0025-the-life-of-a-collection.md`.

mod choose;
mod manifest;
mod restore;
mod rows;
mod write;

use layra_crds::{ArchiveSpec, Readers};
use mongodb::bson::{DateTime, doc};
use serde::Serialize;
use uuid::Uuid;

use crate::assembly::Common;
use crate::runtime::failure::{Failure, Reason, Stage};
use crate::stores::Stores;
use crate::stores::archives::{ArchiveState, Record};
use crate::stores::mongo::BaseLife;
use crate::stores::rebuilds::Rebuilds;
use restore::Archive;
use write::Writer;

pub(crate) use restore::restore;

/// What was archived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Archived {
    pub(crate) knowledge_base: String,
    pub(crate) collection: String,
    pub(crate) bucket: String,
    /// Prefix of the archive's keys.
    pub(crate) place: String,
}

/// Archives the collection of a knowledge base, and drops it.
pub(crate) async fn archive(common: &Common, id: &str) -> Result<Archived, Failure> {
    let stores = common.stores().await?;
    archive_base(&stores, id).await
}

/// Archives the collection of a knowledge base, and drops it.
pub(crate) async fn archive_base(stores: &Stores, id: &str) -> Result<Archived, Failure> {
    let Some(spec) = stores.milvus.archive.clone() else {
        let message = "stores.milvus.archive is not set: there is no bucket for archives";
        return Err(refused(message));
    };
    let collection = stores.collection_of(id);
    check_readers(stores, id).await?;
    check_alone(stores, id, &collection).await?;
    let before = stores.archives.find(id).await?;
    let exists = stores.vectors.has_collection(&collection).await?;
    let record = match &before {
        Some(record) if record.is_held(DateTime::now()) => return Err(busy(id)),
        Some(record) if record.state == ArchiveState::Archived => {
            if !exists {
                return Ok(archived(record, collection));
            }
            // An earlier command was killed before it dropped the collection.
            stores.archives.take(before.as_ref(), record).await?
        }
        Some(record) if record.state == ArchiveState::Restoring => {
            return Err(refused(&format!(
                "knowledge base {id} was not restored to its end: run layra-worker restore again"
            )));
        }
        _ if !exists => {
            return Err(refused(&format!(
                "knowledge base {id} has no collection {collection}"
            )));
        }
        _ => {
            let record = new_record(&spec, id, &collection);
            stores.archives.take(before.as_ref(), &record).await?
        }
    };
    let work = Box::pin(write_and_drop(
        stores,
        &spec,
        &record,
        before.as_ref(),
        &collection,
    ));
    let done = stores.archives.while_held(&record, work).await;
    if let Err(failure) = done {
        give_up(stores, &record).await;
        return Err(failure);
    }
    Ok(archived(&record, collection))
}

fn archived(record: &Record, collection: String) -> Archived {
    Archived {
        knowledge_base: record.knowledge_base.clone(),
        collection,
        bucket: record.bucket.clone(),
        place: record.place.clone(),
    }
}

fn new_record(spec: &ArchiveSpec, id: &str, collection: &str) -> Record {
    let now = jiff::Timestamp::now()
        .strftime("%Y%m%dT%H%M%SZ")
        .to_string();
    let token = Uuid::new_v4().simple().to_string();
    Record {
        knowledge_base: id.to_owned(),
        state: ArchiveState::Archiving,
        bucket: spec.bucket.clone(),
        place: format!("{}/{collection}/{now}-{}", spec.prefix, &token[..8]),
        manifest: String::new(),
        started_at: DateTime::now(),
        archived_at: None,
        holder: None,
        held_until: None,
    }
}

async fn write_and_drop(
    stores: &Stores,
    spec: &ArchiveSpec,
    record: &Record,
    before: Option<&Record>,
    collection: &str,
) -> Result<(), Failure> {
    let (archives, id) = (&stores.archives, &record.knowledge_base);
    check_not_rebuilt(stores, collection).await?;
    if record.state == ArchiveState::Archived {
        let rows = Archive::open(stores, record).await?.manifest.rows;
        stores.vectors.load(collection).await?;
        if stores.vectors.count_all(collection).await? != rows {
            return Err(refused(&format!(
                "knowledge base {id} is archived, and collection {collection} holds other rows. \
                 Nothing was dropped"
            )));
        }
    } else {
        check_idle(stores, record).await?;
        let objects = bucket(stores, record)?;
        let class = spec.storage_class.as_deref();
        let mut writer = Writer::new(objects, &record.place, class, id, collection);
        writer.rows(&stores.vectors).await?;
        writer.documents(&stores.documents).await?;
        let manifest = writer.finish().await?;
        let set = doc! {
            "state": "archived", "manifest": manifest, "archived_at": DateTime::now(),
        };
        archives.set(record, set).await?;
    }
    // From now on no round of a document begins. One that began before is seen here.
    if let Err(failure) = check_idle(stores, record).await {
        archives.set(record, doc! { "state": "archiving" }).await?;
        return Err(failure);
    }
    stores.vectors.drop_collection(collection).await?;
    archives.release(record, ArchiveState::Archived).await?;
    // The archive takes the place of an earlier one, which was restored or not completed.
    if let Some(before) = before
        && before.place != record.place
        && before.bucket == record.bucket
    {
        bucket(stores, record)?.delete_below(&before.place).await?;
    }
    Ok(())
}

/// Fails if a document of the knowledge base is in progress, or has changed since the command began.
async fn check_idle(stores: &Stores, record: &Record) -> Result<(), Failure> {
    let id = &record.knowledge_base;
    let busy = stores.ledger.count_busy(id, record.started_at).await?;
    if busy == 0 {
        return Ok(());
    }
    Err(refused(&format!(
        "knowledge base {id} is in use: {busy} of its documents are in progress or have changed \
         since the archive was begun. Nothing was dropped"
    )))
}

/// Takes the record back after a failure before the collection was dropped. What was written stays
/// until the next archive, or the deletion of the knowledge base.
async fn give_up(stores: &Stores, record: &Record) {
    let archives = &stores.archives;
    let given_up = async {
        let now = archives.find(&record.knowledge_base).await?;
        match now.map(|now| now.state) {
            Some(ArchiveState::Archiving) => {
                archives.release(record, ArchiveState::Archiving).await
            }
            // The collection may be dropped already. Run again, the command finds out.
            Some(state) => archives.release(record, state).await,
            // The knowledge base was deleted, with what was written until then.
            None => bucket(stores, record)?.delete_below(&record.place).await,
        }
    };
    if let Err(failure) = given_up.await {
        tracing::warn!(%failure, "the record of the archive is released in two minutes");
    }
}

/// Fails if a rebuild of the collection is in progress: for some minutes the name can be missing, and
/// rows can be in another collection. A rebuild looks for the archive's record after it has begun.
async fn check_not_rebuilt(stores: &Stores, collection: &str) -> Result<(), Failure> {
    let rebuilds = Rebuilds::new(stores.documents.database());
    if rebuilds.find(collection).await?.is_none() {
        return Ok(());
    }
    Err(refused(&format!(
        "collection {collection} is being rebuilt. Wait for the end, or continue it with \
         layra-worker reindex --collection {collection}. Nothing was changed"
    )))
}

/// LAYRA does not notice that a collection is missing: it finds nothing, without an error.
async fn check_readers(stores: &Stores, id: &str) -> Result<(), Failure> {
    if stores.milvus.readers == Readers::Own
        || stores.documents.life_of(id).await? != BaseLife::InUse
    {
        return Ok(());
    }
    Err(refused(&format!(
        "knowledge base {id} exists, and LAYRA would find nothing in it, without an error. With \
         stores.milvus.readers: Own, which says that LAYRA does not search, it can be archived"
    )))
}

/// In the name of a collection `-` and `_` are the same.
async fn check_alone(stores: &Stores, id: &str, collection: &str) -> Result<(), Failure> {
    let alike = stores.documents.knowledge_bases_like(id).await?;
    let mut others = alike.iter().filter(|other| *other != id);
    match others.find(|other| stores.collection_of(other) == collection) {
        None => Ok(()),
        Some(other) => Err(refused(&format!(
            "collection {collection} also belongs to knowledge base {other}"
        ))),
    }
}

/// The bucket of an archive.
fn bucket<'a>(
    stores: &'a Stores,
    record: &Record,
) -> Result<&'a crate::stores::objects::Objects, Failure> {
    let objects = stores.archives.objects();
    objects
        .filter(|objects| objects.bucket() == record.bucket)
        .ok_or_else(|| {
            let bucket = &record.bucket;
            refused(&format!(
                "the archive is in bucket {bucket}: set stores.milvus.archive.bucket to it"
            ))
        })
}

fn busy(id: &str) -> Failure {
    refused(&format!(
        "another command archives or restores knowledge base {id}. If it was killed, run this one \
         again in two minutes"
    ))
}

fn refused(message: &str) -> Failure {
    Failure::fatal(Stage::Milvus, Reason::KnowledgeBaseArchived, message)
}
